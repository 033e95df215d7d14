"""The daemon as an operator sees it: its configuration file, its process, its control socket and health port."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

from copyd.errors import WorldError

from .chaos import Terms
from .processes import Child, run_to_end

LEADER = "leader"
SITE = 1
VENUE = "binance"
PLATFORM = "platform"
PERFORMANCE_BPS = 1_000
PLATFORM_SHARE_BPS = 2_000


def free_port() -> int:
    """A TCP port that was free a moment ago, chosen by the system."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def write_secret_file(path: Path, rows: list[dict[str, str]]) -> None:
    """A credentials file, 0600 from its first byte."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        for row in rows:
            file.write(msgspec.json.encode(row) + b"\n")


class Seat(msgspec.Struct, frozen=True):
    """A venue as the configuration knows it. ``weight``: request weight per minute, 0 = the default; ``lifted``: the
    exchange counts nothing, so the daemon need not either."""

    name: str
    kind: str
    addresses: dict[str, Any]
    symbols: list[str]
    majors: list[str]
    leader: str
    weight: int = 0
    lifted: bool = False


def venue_section(seat: Seat, connections: int, terms: Terms | None) -> dict[str, Any]:
    """One of ``venues:``."""
    addresses = seat.addresses
    venue: dict[str, Any] = {"name": seat.name, "kind": seat.kind, "rest_url": addresses["rest"]}
    if seat.kind == "binance_usdm":
        streams = addresses["streams"]
        venue |= {
            "ws_api_url": addresses["ws_api"],
            "public_stream_url": f"{streams}/public",
            "market_stream_url": f"{streams}/market",
            "private_stream_url": f"{streams}/private",
            "order_connections": connections,
        }
    else:
        venue["ws_url"] = addresses["ws"]
    if seat.weight:
        venue["request_weight_per_min"] = seat.weight
    if seat.lifted:
        venue["connects_per_5_min"] = venue["request_weight_per_min"] = 100_000_000
    if terms is not None:
        venue |= {
            "recv_window_ms": terms.recv_window_ms,
            "order_ack_timeout_ms": terms.order_ack_timeout_ms,
            "clock_error_max_ms": terms.clock_error_ms,
            "contract": {
                "engine_delay_ms": terms.engine_delay_ms, "read_lag_ms": terms.read_lag_ms, "guard_ms": terms.guard_ms,
            },
        }  # fmt: skip
    return venue


def configuration(
    directory: Path, seats: list[Seat], port: int, connections: int, terms: Terms | None = None, fees: bool = True
) -> dict[str, Any]:
    """The daemon's configuration for this run; what is not named keeps its documented default.

    ``terms``: of the venues' contracts; ``fees``: charged to those who leave.
    """
    charged = {"performance_bps": PERFORMANCE_BPS, "platform_share_bps": PLATFORM_SHARE_BPS, "platform_account": PLATFORM}
    return {
        "mode": "simulate",
        "site": {"id": SITE, "name": "demo"},
        "journal": {"path": str(directory / "journal"), "map_size_mib": 16_384, "free_disk_min_mib": 64},
        "venues": [venue_section(seat, connections, terms) for seat in seats],
        "instruments": [
            {"symbol": symbol, "venue": seat.name, "class": "majors" if symbol in seat.majors else "others"}
            for seat in seats
            for symbol in seat.symbols
        ],
        "leaders": [
            {"id": seat.leader, "venue": seat.name, "credential": seat.leader, "equity_poll_interval_ms": 1_000} for seat in seats
        ],
        "credentials": [{"file": str(directory / "credentials.jsonl")}],
        # The day begins twelve hours from now: no daily limit starts anew while the verifier looks on.
        "copy": {"position_mode": "keep", "daily_reset_utc": time.strftime("%H:%M", time.gmtime(time.time() + 43_200))},
        **({"fees": charged} if fees else {}),
        "control": {"socket": str(directory / "control.sock"), "socket_mode": "0600"},
        "health": {"host": "127.0.0.1", "port": port},
        "telemetry": {"log_format": "json", "log_level": "info"},
    }


class Daemon:
    """One configured daemon over several lives of its process."""

    def __init__(self, directory: Path, health_port: int, session: aiohttp.ClientSession) -> None:
        self.directory = directory
        self.config = directory / "copyd.yaml"
        self.socket = directory / "control.sock"
        self.journal = directory / "journal"
        self.log = directory / "daemon.log"
        self.health = f"http://127.0.0.1:{health_port}"
        self.session = session
        self.child: Child | None = None
        self.control: aiohttp.ClientSession | None = None
        self.reasons: list[str] = []

    def write_config(self, config: dict[str, Any]) -> None:
        """The YAML file."""
        self.config.write_text(yaml.safe_dump(config, sort_keys=False))

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.running

    async def start(self) -> None:
        """A new process on the same configuration and journal."""
        await self.close_control()
        self.child = Child("the daemon", ["copyd.cli", "run", "-c", str(self.config)], self.log, self.directory)
        await self.child.start()

    async def alive(self, seconds: float) -> None:
        """Wait until its health port answers."""
        until = time.monotonic() + seconds
        while True:
            assert self.child is not None
            self.child.check()
            if await self._get("/livez") is not None and self.socket.exists():
                return
            if time.monotonic() > until:
                raise WorldError(f"the daemon does not answer after {seconds:.0f} s; its last words:\n{self.child.tail()}")
            await asyncio.sleep(0.05)

    async def ready(self) -> bool:
        """Whether it copies now; the reasons when it does not are kept."""
        answer = await self._get("/readyz")
        if answer is None:
            self.reasons = ["no answer"]
            return False
        status, body = answer
        self.reasons = [str(reason) for reason in body.get("reasons", [])]
        return status == 200

    async def wait_ready(self, seconds: float, on_wait: Callable[[], None] | None = None) -> float:
        """Seconds until it is ready."""
        start = time.monotonic()
        while not await self.ready():
            assert self.child is not None
            self.child.check()
            if time.monotonic() - start > seconds:
                raise WorldError(f"the daemon is not ready after {seconds:.0f} s: {'; '.join(self.reasons) or 'no reason given'}")
            if on_wait is not None:
                on_wait()
            await asyncio.sleep(0.05)
        return time.monotonic() - start

    async def _get(self, path: str) -> tuple[int, dict[str, Any]] | None:
        try:
            async with self.session.get(self.health + path, timeout=aiohttp.ClientTimeout(total=5)) as answer:
                body = msgspec.json.decode(await answer.read())
                return answer.status, body if isinstance(body, dict) else {}
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, OSError):
            return None

    async def status(self) -> dict[str, Any]:
        """The daemon's own figures; empty when it does not answer."""
        if self.control is None:
            self.control = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=str(self.socket)), timeout=aiohttp.ClientTimeout(total=5)
            )
        try:
            async with self.control.get("http://copyd/v1/status?samples=1") as answer:
                body = msgspec.json.decode(await answer.read())
                return body if isinstance(body, dict) and answer.status == 200 else {}
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, OSError):
            return {}

    async def import_followers(self, path: Path, seconds: float = 600) -> None:
        """As an operator would: `copyd ctl import`."""
        log = self.directory / "import.log"
        code = await run_to_end(
            "import", ["copyd.cli", "ctl", "import", str(path), "--socket", str(self.socket)], log, self.directory, seconds
        )
        if code:
            raise WorldError(f"the import of {path.name} failed with code {code}:\n{log.read_text(errors='replace')[-2000:]}")

    async def stop_plan(self, follower: str) -> None:
        """As ``copyd ctl plan stop`` does: the plan opens nothing more, and closes with the leader."""
        assert self.control is not None
        async with self.control.post(f"http://copyd/v1/plans/{follower}/stop") as answer:
            if answer.status != 200:
                raise WorldError(f"plan {follower} was not stopped: {(await answer.read())[:200].decode(errors='replace')}")

    async def export(self, path: Path, seconds: float = 600) -> None:
        """The decision export, written from the journal by a process of its own."""
        log = self.directory / "replay.log"
        arguments = ["copyd.cli", "replay", str(self.journal), "--decisions", str(path)]
        code = await run_to_end("replay", arguments, log, self.directory, seconds)
        if code:
            raise WorldError(f"copyd replay failed with code {code}:\n{log.read_text(errors='replace')[-2000:]}")

    async def verify_journal(self, seconds: float = 900) -> tuple[int, str]:
        """`copyd verify`: its exit code and last words."""
        log = self.directory / "verify.log"
        code = await run_to_end("verify", ["copyd.cli", "verify", str(self.journal)], log, self.directory, seconds)
        return code, log.read_text(errors="replace")[-2000:]

    def journal_bytes(self) -> int:
        """Disk space the journal really takes."""
        if not self.journal.is_dir():
            return 0
        return sum(file.stat().st_blocks * 512 for file in self.journal.rglob("*") if file.is_file())

    async def close_control(self) -> None:
        if self.control is not None:
            await self.control.close()
            self.control = None


def percentiles(samples: list[float]) -> dict[str, float]:
    """p50, p99 and maximum (nearest rank)."""
    if not samples:
        return {}
    ordered = sorted(samples)

    def rank(share: float) -> float:
        return round(ordered[math.ceil(share * len(ordered)) - 1], 1)

    return {"p50": rank(0.5), "p99": rank(0.99), "max": round(ordered[-1], 1), "n": len(ordered)}

