"""The daemon itself on virtual time: its real composition root, with a journal in memory and REST over the same byte streams."""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import aiohttp
import msgspec

from copyd import adapters, app
from copyd.config import Config
from copyd.credentials import Credential, Credentials, Secret
from copyd.exchange import streams
from copyd.journal import Record
from copyd.journal.writer import Room
from copyd.sim.draws import Draws
from copyd.sim.wire import pywire
from copyd.sim.wire.book import SITE_ID
from copyd.sim.wire.inhabited import ENGINE_DELAY_MS, GUARD_MS, READ_LAG_MS, RECV_WINDOW_MS
from copyd.sim.wire.loop import VirtualLoop
from copyd.venues.binance_usdm import parts, rest
from copyd.venues.common import connection, gateway
from copyd.venues.common import rest as common_rest
from copyd.venues.common.requests import Requests

#: Wall clock at the loop's start: a whole day, so that the venue's funding and the clock's minutes fall alike in every run.
EPOCH_NS = 20_500 * 86_400 * 10**9
ROOM = Room(1 << 40, 1 << 40, 1 << 40)
#: The engine's two instruments, as venues call them that do not call them so.
PLAIN_SYMBOLS = ("BTCUSDT", "ETHUSDT")
SYMBOLS = {
    "okx": ("BTC-USDT-SWAP", "ETH-USDT-SWAP"), "okx_spot": ("BTC-USDT", "ETH-USDT"),
    "bybit_spot": ("BTCUSDT_SPOT", "ETHUSDT_SPOT"), "bitget_spot": ("BTCUSDT_SPBL", "ETHUSDT_SPBL"),
}
#: Dialects of a market that the adapter of another name trades.
ADAPTER = {"okx_spot": "okx", "bybit_spot": "bybit", "bitget_spot": "bitget"}


class VirtualClock:
    """The node's clocks: the loop's time, off by a constant and drifting."""

    def __init__(self, loop: VirtualLoop, offset_ns: int = 0, drift_ppm: int = 0) -> None:
        self.loop, self.offset_ns, self.drift_ppm = loop, offset_ns, drift_ppm
        self.stepped_ns = 0

    def true_ns(self) -> int:
        """The time nobody is off from: the venue's."""
        return EPOCH_NS + int((self.loop.time() - 1_000.0) * 1e9)

    def now_ns(self) -> int:
        true = self.true_ns()
        return true + self.offset_ns + (true - EPOCH_NS) * self.drift_ppm // 1_000_000

    def mono_ns(self) -> int:
        return int(self.loop.time() * 1e9)

    def wall_step_ns(self) -> int:
        """How far the wall clock was set since the process read it."""
        return self.stepped_ns

    def read_again(self) -> None:
        """A new process reads the wall clock as it stands now."""
        self.offset_ns += self.stepped_ns
        self.stepped_ns = 0


class Medium:
    """What outlives a process: records, the newest checkpoint, the number of starts."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.durable = 0
        self.epoch = 0
        self.checkpoint: tuple[int, bytes] | None = None
        self.on_append: Callable[[int, int, bytes], None] = lambda seq, kind, payload: None
        self.on_durable: Callable[[int, int], None] = lambda was, seq: None


class MemoryReader:
    """The reading side, as the fold wants it."""

    path = "memory"

    def __init__(self, medium: Medium) -> None:
        self.medium = medium

    def state(self) -> Any:
        return SimpleNamespace(first_seq=1, epoch=self.medium.epoch)

    def latest_checkpoint(self, max_seq: int | None = None) -> Any:
        found = self.medium.checkpoint
        return None if found is None else SimpleNamespace(seq=found[0], payload=found[1], chain_hash=b"")

    def checkpoints(self) -> list[int]:
        return [] if self.medium.checkpoint is None else [self.medium.checkpoint[0]]

    def iterate(self, from_seq: int = 1, to_seq: int | None = None) -> Iterator[Record]:
        yield from self.medium.records[from_seq - 1 : to_seq]


class MemoryJournal:
    """The daemon's journal: group commit after a drawn delay, durable in order, nothing on a disk."""

    def __init__(self, medium: Medium, draws: Draws, slow_us: int) -> None:
        self.medium, self.draws, self.slow_us = medium, draws, slow_us
        medium.epoch += 1
        self.epoch, self.site, self.site_key = medium.epoch, SITE_ID, bytes(range(16))
        del medium.records[medium.durable :]
        self.durable_seq = medium.durable
        self.reader = MemoryReader(medium)
        self.failure = None
        self.put_back = False
        self.dead = False
        self._loop: asyncio.AbstractEventLoop
        self._on_durable: Callable[[int], None] | None = None
        self._committing = 0
        self._waiters: list[tuple[int, int, asyncio.Future[int]]] = []
        self._made = 0

    def attach(self, loop: asyncio.AbstractEventLoop, *, on_durable: Any = None, on_failed: Any = None) -> None:
        self._loop, self._on_durable = loop, on_durable

    @property
    def first_seq(self) -> int:
        return 1

    @property
    def last_seq(self) -> int:
        return len(self.medium.records)

    def append(self, kind: int, ts_ns: int, parts: Sequence[bytes]) -> int:
        payload = b"".join(bytes(part) for part in parts)
        seq = len(self.medium.records) + 1
        if self.dead:
            return seq
        self.medium.records.append(Record(seq, kind, self.epoch, ts_ns, b"", payload, b""))
        self.medium.on_append(seq, kind, payload)
        if not self._committing:
            self._commit()
        return seq

    def _commit(self) -> None:
        self._committing = len(self.medium.records)
        us = 60 + self.draws.draw("journal.commit", self.slow_us)
        if self.draws.fault("J23/slow", 10_000):
            us += self.draws.param("J23/slow", "us", 5_000, 500_000)
        self._loop.call_later(us / 1e6, self._committed)

    def _committed(self) -> None:
        if self.dead:
            return
        was, self.durable_seq = self.durable_seq, self._committing
        self.medium.durable = self.durable_seq
        self.medium.on_durable(was, self.durable_seq)
        self._committing = 0
        if len(self.medium.records) > self.durable_seq:
            self._commit()
        if self._on_durable is not None:
            self._on_durable(self.durable_seq)
        while self._waiters and self._waiters[0][0] <= self.durable_seq:
            future = heapq.heappop(self._waiters)[2]
            if not future.done():
                future.set_result(self.durable_seq)

    def committed(self, seq: int) -> asyncio.Future[int]:
        future: asyncio.Future[int] = self._loop.create_future()
        if seq <= self.durable_seq:
            future.set_result(self.durable_seq)
        else:
            self._made += 1
            heapq.heappush(self._waiters, (seq, self._made, future))
        return future

    def room(self) -> Room:
        return ROOM

    def checkpoint(self, seq: int, parts: Sequence[bytes]) -> None:
        self.medium.checkpoint = (seq, b"".join(bytes(part) for part in parts)) if seq <= self.durable_seq else None

    def drop_before(self, seq: int) -> None:
        pass

    def die(self) -> None:
        """The process is no more; a commit under way has reached the disk or has not."""
        if self.dead:
            return
        self.dead = True
        if self._committing and self.draws.chance("journal.landed", 500_000):
            was, self.medium.durable = self.medium.durable, self._committing
            self.medium.on_durable(was, self.medium.durable)

    def close(self, timeout_s: float = 0.0) -> None:
        """A clean end writes what is queued."""
        if not self.dead:
            was, self.durable_seq = self.durable_seq, len(self.medium.records)
            self.medium.durable = self.durable_seq
            self.medium.on_durable(was, self.durable_seq)
        self.dead = True


class Silence:
    """A logger that says nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *words, **fields: None


class Ordered(dict[Any, None]):
    """A set that is walked in the order of putting in, not of addresses."""

    def add(self, member: Any) -> None:
        self[member] = None

    def discard(self, member: Any) -> None:
        self.pop(member, None)

    def remove(self, member: Any) -> None:
        del self[member]


class StreamConnector(aiohttp.BaseConnector):
    """Connections of the HTTP client through ``loop.create_connection``, without a socket."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._acquired: Any = Ordered()  # closed one after another, and that is seen

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - the base class names it so
        try:
            _, protocol = await self._loop.create_connection(self._factory, req.url.host, req.url.port)
        except OSError as problem:
            raise aiohttp.ClientConnectorError(req.connection_key, problem) from problem
        return protocol


class MemoryRest(rest.RestClient):
    """The daemon's REST client over streams in memory."""

    async def open(self) -> None:
        connector = StreamConnector(limit=64, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, auto_decompress=True)


class OrderedSessions(Ordered):
    """Sessions in the order they were put in. Each is an old connection that lives on beside a new one."""

    def __init__(self, draws: Draws) -> None:
        super().__init__()
        self.draws = draws

    def __setitem__(self, session: Any, value: None) -> None:
        self.draws.count("L04")
        super().__setitem__(session, value)


def _in_order(init: Callable[..., None], draws: Draws) -> Callable[..., None]:
    """A link whose old sessions keep their order."""

    def made(link: Any, *words: Any, **fields: Any) -> None:
        init(link, *words, **fields)
        link.old = OrderedSessions(draws)

    return made


@contextmanager
def installed(loop: VirtualLoop, medium: Medium, draws: Draws, clock: VirtualClock) -> Iterator[None]:
    """For one run: the daemon's journal, durations and REST connections are the world's; the adapter's terms are short."""
    slow_us = 1 + draws.draw("journal.slow", 3_000)
    terms = adapters.BINANCE_USDM.overridden({
        "connection_life_ms": 9_000 + draws.draw("contract.life", 50_000), "frame_bytes_max": 1 << 18,
        "listen_key_valid_ms": 45_000,
    })
    with ExitStack() as stack:
        patch = stack.enter_context
        patch(mock.patch.object(app, "Journal", SimpleNamespace(
            open=lambda path, **kw: MemoryJournal(medium, draws, slow_us))))
        patch(mock.patch.object(app, "time", SimpleNamespace(monotonic=loop.time)))
        for name in sorted(sys.modules):
            module = sys.modules[name]
            if not name.startswith("copyd.") or name == "copyd.telemetry.logs" or not hasattr(module, "get_logger"):
                continue
            patch(mock.patch.object(module, "get_logger", lambda name: Silence()))
        patch(mock.patch.object(app, "journal_bytes", lambda path: 0))
        patch(mock.patch.object(parts, "RestClient", partial(MemoryRest, mono=clock.mono_ns)))
        patch(mock.patch.object(parts, "OrderGateway", partial(parts.OrderGateway, mono=clock.mono_ns)))
        patch(mock.patch.object(adapters, "BINANCE_USDM", terms))
        patch(mock.patch.object(connection, "PACE", connection.RetryPace(connection.RETRIES_PER_S, connection.RETRIES_BURST)))
        patch(mock.patch.object(connection.Link, "__init__", _in_order(connection.Link.__init__, draws)))
        # Its own sockets and transports would go past the loop; the framing, handshake and idle timer stay.
        patch(mock.patch.object(connection, "ws_connect", partial(connection.ws_connect, use_aiofastnet=False)))
        patch(mock.patch.object(streams, "Listener", pywire.Listener))
        _sessions_installed(stack, terms.connection_life_ms, clock)
        yield


def _sessions_installed(stack: ExitStack, connection_life_ms: int, clock: VirtualClock) -> None:
    """The same for venues whose private connections are one account's each."""
    patch = stack.enter_context
    for kind in adapters.SESSION_KINDS:
        module = import_module(f"copyd.venues.{kind}.parts")
        contract = module.KIND.contract.overridden({"connection_life_ms": connection_life_ms, "frame_bytes_max": 1 << 18})
        patch(mock.patch.object(module, "KIND", module.KIND._replace(contract=contract)))
    for owner in (common_rest.RestBase, gateway.SessionGateway):
        patch(mock.patch.object(owner, "__init__", _on_clock(owner.__init__, clock)))
    patch(mock.patch.object(common_rest.RestBase, "open", _open_in_memory))


def _on_clock(init: Callable[..., None], clock: VirtualClock) -> Callable[..., None]:
    """Its durations are the world's."""

    def made(self: Any, *words: Any, **fields: Any) -> None:
        init(self, *words, **{"mono": clock.mono_ns, **fields})

    return made


async def _open_in_memory(client: Any) -> None:
    """A session venue's REST client over streams in memory."""
    connector = StreamConnector(limit=64, keepalive_timeout=60)
    client._pools.append(aiohttp.ClientSession(
        connector=connector, timeout=client._timeout, auto_decompress=True, headers=client.headers))
    client._orders.append(Requests(client.base_url))


def config_of(dialect: str, ports: dict[str, int], connections: int, ack_timeout_ms: int, announce_legs: int) -> Config:
    """The daemon's configuration for a world whose venue speaks a dialect."""
    kind = ADAPTER.get(dialect, dialect)
    stream = f"ws://10.0.0.2:{ports['ws']}"
    places = {
        "ws_api_url": f"{stream}/ws-fapi/v1", "public_stream_url": f"{stream}/public",
        "market_stream_url": f"{stream}/market", "private_stream_url": f"{stream}/private",
        "order_connections": connections, "keepalive_interval_s": 20,
    } if kind == "binance_usdm" else {"ws_url": stream}  # fmt: skip
    name = "binance" if kind == "binance_usdm" else kind
    return msgspec.convert({
        "mode": "simulate",
        "site": {"id": SITE_ID, "name": "wire"},
        "journal": {"path": "/nowhere/journal", "map_size_mib": 64, "free_disk_min_mib": 0, "checkpoint_every_records": 5_000},
        "venues": [{
            "name": name, "kind": kind, "rest_url": f"http://10.0.0.2:{ports['rest']}", **places,
            "recv_window_ms": RECV_WINDOW_MS, "order_ack_timeout_ms": ack_timeout_ms,
            "request_weight_per_min": 60_000, "connect_timeout_ms": 5_000,
            "contract": {"engine_delay_ms": ENGINE_DELAY_MS, "read_lag_ms": READ_LAG_MS, "guard_ms": GUARD_MS},
        }],
        "instruments": [{"symbol": one, "venue": name, "class": "majors"} for one in SYMBOLS.get(dialect, PLAIN_SYMBOLS)],
        "leaders": [{"id": "L", "venue": name, "credential": "leader", "equity_poll_interval_ms": 5_000,
                     "position_poll_interval_ms": 5_000}],
        "credentials": [{"file": "/nowhere/credentials.jsonl"}],
        "copy": {"position_mode": "keep"},
        "runtime": {"announce_legs": announce_legs},
        # A follower's coins come and go without an execution that would say so: the round of looks finds them.
        **({"sync": {"compare_interval_s": 30}} if dialect.endswith("_spot") else {}),
        "control": {"socket": "/nowhere/control.sock"},
    }, Config)


def credential(name: str, told: dict[str, str]) -> Credential:
    """A key as the daemon holds it. ``told``: what the venue has told its owner."""
    return Credential(name, Secret(told["api_key"]), Secret(told["secret"]), passphrase=Secret(told.get("passphrase", "")))


def daemon_of(config: Config, credentials: list[Credential], clock: VirtualClock) -> app.Daemon:
    """The daemon as ``serve`` makes it, without doors to the outside."""
    daemon = app.Daemon(config, Path("/nowhere/copyd.yaml"), Credentials(credentials))
    daemon.clock = clock  # type: ignore[assignment]
    return daemon
