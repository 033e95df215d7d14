"""The programs that copyd is compared with: built, started, told "go", and what they sent checked order by order.

Their sources lie in ``bench/floor`` and ``bench/baselines``; they are part of the source tree, not of the package.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from copyd.bench import world
from copyd.errors import OperatorError, WorldError
from copyd.venues.binance_usdm.signing import place_text

SOURCES = Path(__file__).resolve().parents[2] / "bench"
HEADERS = Path(__file__).resolve().parents[1] / "_fast"
FLAGS = ("-O3", "-Wall", "-pthread")
ANSWER_S = 60.0
SAMPLE = 32
"""One signature in so many is computed anew."""
BATCH_MAGIC = 0x42594350
_PIECE = struct.Struct("<QII")
_HEADER = struct.Struct("<IIII16x")
_RECORD = struct.Struct("<16sIHbBQQQ")
_HEX = frozenset("0123456789abcdef")


def compiler() -> str | None:
    """The C compiler: ``CC`` or cc or gcc, where there is one."""
    return next((found for name in (os.environ.get("CC", ""), "cc", "gcc") if name and (found := shutil.which(name))), None)


def build(into: Path, names: Sequence[str] = ("floor", "drain", "line")) -> dict[str, Path]:
    """The C programs, compiled into a directory."""
    command = compiler()
    if command is None:
        raise OperatorError("the yardsticks are C programs and there is no C compiler: apt install gcc, or set CC")
    made = {}
    for name in names:
        source = SOURCES / "floor" / f"{name}.c"
        if not source.exists():
            raise OperatorError(f"no {source}: the yardsticks are part of the source tree, not of the installed package")
        made[name] = into / name
        done = subprocess.run(
            [command, *FLAGS, f"-I{HEADERS}", str(source), "-o", str(made[name])], capture_output=True, text=True, check=False)
        if done.returncode:
            raise WorldError(f"{command} could not build {source.name}: {done.stderr.strip()[:500]}")
    return made


def build_go(into: Path) -> Path | None:
    """The Go program, or None where there is no ``go`` on the path."""
    command = shutil.which("go")
    if command is None:
        return None
    source, made = SOURCES / "baselines" / "goroutines.go", into / "goroutines"
    done = subprocess.run(
        [command, "build", "-o", str(made), str(source)], capture_output=True, text=True, check=False,
        env={"GOCACHE": str(into / "go-cache"), **os.environ, "GO111MODULE": "off"} if "HOME" not in os.environ
        else {**os.environ, "GO111MODULE": "off"})
    if done.returncode:
        raise WorldError(f"{command} could not build {source.name}: {done.stderr.strip()[:500]}")
    return made


class Program:
    """A child that answers a line with a line of JSON."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, hello: dict[str, Any]) -> None:
        self.name = name
        self.process = process
        self.hello = hello

    @classmethod
    async def start(cls, name: str, command: Sequence[str], namespace: str | None = None) -> Program:
        """Start it, in a network namespace where one is named, and read its first line."""
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        process = await asyncio.create_subprocess_exec(
            *inside, *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        made = cls(name, process, {})
        try:
            made.hello = await made.answer()
        except BaseException:
            await made.stop()
            raise
        return made

    async def ask(self, line: str) -> dict[str, Any]:
        """One line to it, one from it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        """Its next line."""
        assert self.process.stdout is not None and self.process.stderr is not None
        try:
            text = await asyncio.wait_for(self.process.stdout.readline(), ANSWER_S)
        except TimeoutError:
            raise WorldError(f"{self.name} did not answer within {ANSWER_S:g} s") from None
        if not text:
            problem = (await self.process.stderr.read()).decode(errors="replace").strip()
            raise WorldError(f"{self.name} ended: {problem[-300:] or 'without a word'}")
        found: dict[str, Any] = json.loads(text)
        return found

    async def stop(self) -> None:
        """End its stdin, and it if that is not enough; its pipes are read to their ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.communicate(), 10)
        except TimeoutError:
            self.process.kill()
            await self.process.communicate()


class Arrived(msgspec.Struct, frozen=True):
    """What the peer received since it was last asked: orders, bytes, the sum of the bytes, first and last arrival in ns."""

    orders: int
    bytes: int
    sum: int
    first_ns: int
    last_ns: int
    connections: int


class Drain:
    """The draining peer."""

    def __init__(self, program: Program, unix: Path) -> None:
        self.program = program
        self.port: int = program.hello["port"]
        self.unix = unix

    @classmethod
    async def start(
        cls, binary: Path, unix: Path, host: str = "127.0.0.1", namespace: str | None = None
    ) -> Drain:
        """Listening on a port of ``host``, and on the Unix socket."""
        return cls(
            await Program.start("the draining peer", [str(binary), "--host", host, "--unix", str(unix)], namespace), unix)

    async def report(self, orders: int, file: Path | None = None) -> Arrived:
        """Wait for so many orders, have them answered where their sender wants answers; each into ``file`` if one is given."""
        return msgspec.convert(await self.program.ask(f"report {orders} {file or '-'} answer"), Arrived)

    async def stop(self) -> None:
        await self.program.stop()


# -- what came ------------------------------------------------------------------------------------------------------------


class Pieces(msgspec.Struct, frozen=True):
    """What a report wrote to its file, in order of arrival: (ns, connection, bytes)."""

    pieces: list[tuple[int, int, bytes]]

    @classmethod
    def read(cls, file: Path) -> Pieces:
        """All of them."""
        data, at, found = file.read_bytes(), 0, []
        while at < len(data):
            ns, number, size = _PIECE.unpack_from(data, at)
            at += _PIECE.size
            found.append((ns, number, data[at : at + size]))
            at += size
        return cls(sorted(found, key=lambda piece: piece[:2]))


def check_signed(pieces: Pieces, orders: int, seed: int, exact: bool = True) -> list[str]:
    """What is wrong with the orders of one burst; nothing, normally.

    Every order: it reads, all its parameters are there and sound, no id and no account comes twice. A sample: the signature
    by the standard library, and where ``exact`` the whole text against the readable twin of the encoder.
    """
    problems: list[str] = []
    ids: set[str] = set()
    accounts: set[int] = set()
    wanted = {"symbol", "side", "type", "quantity", "newClientOrderId", "newOrderRespType", "apiKey", "timestamp", "recvWindow",
              "signature"}
    for at, (_, _, text) in enumerate(pieces.pieces):
        try:
            request = json.loads(text)
            params = request["params"]
            account = int(params["apiKey"][5:])
            cid = params["newClientOrderId"]
            lots = params["quantity"].partition(".")
            fine = (
                request["method"] == "order.place" and request["id"] == cid and len(cid) == 32 and set(cid) <= _HEX
                and set(params) - {"timeInForce", "price", "reduceOnly"} == wanted
                and ("price" in params) == (params["type"] == "LIMIT") and params["side"] in ("BUY", "SELL")
                and params["symbol"] == world.SYMBOL and len(lots[2]) <= 3 and int(lots[0] + lots[2].ljust(3, "0")) > 0
            )
        except (ValueError, KeyError, TypeError):
            problems.append(f"order {at} cannot be read: {text[:80]!r}")
            continue
        if not fine:
            problems.append(f"order {at} is not as agreed: {text[:80]!r}")
        ids.add(cid)
        accounts.add(account)
        if at % SAMPLE == 0 and (problem := _check_one(text, params, account, seed, exact)):
            problems.append(f"order {at}: {problem}")
    if len(pieces.pieces) != orders:
        problems.append(f"{len(pieces.pieces)} orders instead of {orders}")
    if len(ids) != len(pieces.pieces) or len(accounts) != len(pieces.pieces):
        problems.append(f"{len(pieces.pieces)} orders have {len(ids)} ids of {len(accounts)} accounts")
    return problems[:5]


def _check_one(text: bytes, params: dict[str, Any], account: int, seed: int, exact: bool) -> str:
    secret = world.secret(seed, account)
    signed = "&".join(f"{name}={params[name]}" for name in sorted(params) if name != "signature")
    if hmac.new(secret, signed.encode(), hashlib.sha256).hexdigest() != params["signature"]:
        return "its signature is wrong"
    if not exact:
        return ""
    item = world.instruments()[0]
    twin = place_text(
        world.key(seed, account), symbol=item.symbol, price_decimals=item.price_decimals, tick=item.tick,
        qty_decimals=item.qty_decimals, lot=item.lot, cid=bytes.fromhex(params["newClientOrderId"]),
        order_qty=_units(params["quantity"], item.qty_decimals) // item.lot,
        limit_px=_units(params.get("price", "0"), item.price_decimals) // item.tick, side=1 if params["side"] == "BUY" else -1,
        position_side=0, reduce_only="reduceOnly" in params, timestamp_ms=params["timestamp"],
        recv_window_ms=params["recvWindow"],
    )
    return "" if twin == text else "its text is not the one the encoder's twin gives"


def _units(text: str, decimals: int) -> int:
    whole, _, rest = text.partition(".")
    return int(whole + rest.ljust(decimals, "0"))


def check_batch(pieces: Pieces, orders: int) -> list[str]:
    """What is wrong with the records of one batch: every one is there, once, with a quantity."""
    accounts: set[int] = set()
    ids: set[bytes] = set()
    count = 0
    for _, _, data in pieces.pieces:
        magic, records, _, _ = _HEADER.unpack_from(data)
        if magic != BATCH_MAGIC or len(data) != _HEADER.size + records * _RECORD.size:
            return ["a batch is not as agreed"]
        for record in _RECORD.iter_unpack(data[_HEADER.size :]):
            ids.add(record[0])
            accounts.add(record[1])
            count += record[5] > 0 and record[3] in (1, -1)
    if not count == len(ids) == len(accounts) == orders:
        return [f"{count} sound records with {len(ids)} ids of {len(accounts)} accounts instead of {orders}"]
    return []
