"""The other process: started, asked, and started anew when it has died.

What was asked of a process that died has no answer; whoever asked learns it at once (``VenueUnavailable``) and knows what that
means for his question. Nothing is asked again by itself. A process that is not there takes nothing: ``NotThere``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from copyd.errors import OperatorError, VenueUnavailable
from copyd.venues.ccxt.contract import Endpoints
from copyd.venues.ccxt.signing import account_of, key_line
from copyd.venues.common.connection import watched
from copyd.venues.common.facts import MS_NS
from copyd.venues.common.rest import NotSent
from copyd.venues.common.signing import Key

PROGRAM = Path(__file__).with_name("worker.py")
LINE_MAX = 64 << 20
BACKOFF_S, BACKOFF_MAX_S = 0.2, 10.0
#: For the word that an order was given up unwritten.
WORD_S = 0.2
#: To import ccxt and read an exchange's markets.
OPEN_S = 60.0
#: What the other process may know of our environment: how to reach the network, no more.
ENVIRONMENT = ("PATH", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")


class NotThere(NotSent):
    """No process was there to take it: not a byte of it was written."""


class Refused(Exception):
    """ccxt raised. ``kinds``: the exception's class and those above it; ``written``: whether anything can have been written."""

    def __init__(self, kinds: Sequence[str], text: str, written: bool) -> None:
        super().__init__(f"{kinds[0] if kinds else 'error'}: {text}")
        self.kinds, self.text, self.written = tuple(kinds), text, written


class _Error(msgspec.Struct):
    kinds: list[str]
    text: str
    written: bool


class _Answer(msgspec.Struct):
    id: int
    ok: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None


class Ability(msgspec.Struct):
    """What the process says of its exchange. ``problem`` not empty: it cannot be used, and why."""

    problem: str = ""
    version: str = ""
    has: dict[str, bool] = {}


class Process:
    """One worker; see the module."""

    def __init__(self, endpoints: Endpoints, timeout_ms: int = 10_000) -> None:
        self.endpoints, self.timeout_ms = endpoints, timeout_ms
        self.ability = Ability()
        self.starts = 0
        self.pid = 0
        #: It has read the markets and answers.
        self.up = False
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[bytes]] = {}
        self._given: set[str] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None

    # --- life ---------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Start it and wait for the markets. ``OperatorError``: it cannot be started, or the exchange cannot be used."""
        if self._task is not None:
            return
        self._ready = asyncio.get_running_loop().create_future()
        self._task = watched(asyncio.get_running_loop().create_task(self._keep(), name=f"ccxt-{self.endpoints.exchange_id}"))
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), OPEN_S)
        except TimeoutError:
            await self.stop()
            raise VenueUnavailable(f"ccxt's {self.endpoints.exchange_id} did not answer in {OPEN_S:g} s") from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End it; what is unanswered stays so."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._end()

    async def _keep(self) -> None:
        """Keep one process alive; what an attempt to start it says counts only for the first."""
        pause = BACKOFF_S
        assert self._ready is not None
        while True:
            try:
                reading = await self._spawn()
                await self._open(reading)
                self.up = True
                if not self._ready.done():
                    self._ready.set_result(None)
                pause = BACKOFF_S
                await reading
            except (OperatorError, VenueUnavailable) as problem:
                if not self._ready.done():
                    self._ready.set_exception(problem)
                    return
            finally:
                await self._end()
            await asyncio.sleep(pause)
            pause = min(2 * pause, BACKOFF_MAX_S)

    async def _spawn(self) -> asyncio.Task[None]:
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                self.endpoints.python, "-I", str(PROGRAM), str(theirs.fileno()), pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ}, start_new_session=True,
            )  # fmt: skip
        except OSError as problem:
            ours.close()
            raise OperatorError(
                f"the interpreter of ccxt's environment cannot be started: {self.endpoints.python}: {problem.strerror}") from None
        finally:
            theirs.close()
        self.starts += 1
        self.pid = self._process.pid
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE_MAX)
        self._given.clear()
        return asyncio.get_running_loop().create_task(self._read(reader))

    async def _open(self, reading: asyncio.Task[None]) -> None:
        of = self.endpoints
        try:
            raw = await self._ask({
                "do": "open", "exchange": of.exchange_id, "environment": of.environment, "rest": of.base,
                "timeout_ms": self.timeout_ms, "lists": bool(of.exchange.lists)}, OPEN_S)  # fmt: skip
        except Refused as problem:
            raise VenueUnavailable(f"ccxt's {of.exchange_id}: {problem}") from None
        self.ability = msgspec.json.decode(raw, type=Ability)
        if self.ability.problem:
            raise OperatorError(self.ability.problem)

    async def _end(self) -> None:
        """Close the socket, which ends the process; one that does not go is killed."""
        self.up = False
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(VenueUnavailable("the process of ccxt has ended"))
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            try:
                await asyncio.wait_for(process.wait(), 1.0)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Answers, until the process ends or says something that is none."""
        while True:
            try:
                line = await reader.readline()
                if not line:
                    break
                answer = msgspec.json.decode(line, type=_Answer)
            except (OSError, ValueError, msgspec.MsgspecError, UnicodeDecodeError):
                break
            future = self._pending.pop(answer.id, None)
            if future is None or future.done():
                continue
            if answer.error is not None:
                future.set_exception(Refused(answer.error.kinds, answer.error.text, answer.error.written))
            else:
                future.set_result(bytes(answer.ok))
        self.up = False
        # At once, not when somebody next asks: orders of a dead process are in doubt from now on.
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(VenueUnavailable("the process of ccxt has ended"))

    # --- questions ----------------------------------------------------------------------------------------------------
    async def call(self, method: str, *args: Any, key: Key | None = None, account: str = "", **params: Any) -> bytes:
        """A unified method's answer as JSON. ``account``: an instance of its own that signs nothing, where no key is named."""
        return await self._ask(
            {"do": "call", "account": self._of(key, account), "method": method, "args": args, "params": params},
            2 * self.timeout_ms / 1000)

    async def place(self, *args: Any, key: Key, within_ms: int, params: dict[str, Any]) -> bytes:
        """``create_order``: handed to the network once and within this time, or never; its answer is waited for as long.

        The end is a moment of the machine's own clock: a process that stood still meanwhile does not write an old order.
        """
        until_ns = time.monotonic_ns() + within_ms * MS_NS
        return await self._ask(
            {"do": "place", "account": self._of(key), "method": "create_order", "args": args, "params": params,
             "until_ns": until_ns}, within_ms / 1000 + WORD_S)  # fmt: skip

    def _of(self, key: Key | None, account: str = "") -> str:
        if key is None:
            return account
        name = account_of(key)
        if name not in self._given and self._writer is not None:
            self._writer.write(key_line(key) + b"\n")
            self._given.add(name)
        return name

    async def _ask(self, asked: dict[str, Any], timeout_s: float) -> bytes:
        if self._writer is None or self._writer.is_closing() or not (self.up or asked["do"] == "open"):
            raise NotThere("the process of ccxt is being started anew")
        number = next(self._ids)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        self._writer.write(msgspec.json.encode({**asked, "id": number}) + b"\n")
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise VenueUnavailable(f"{asked.get('method', asked['do'])}: no answer in {timeout_s:g} s") from None
        finally:
            self._pending.pop(number, None)
