"""``copyd bench compare``: copyd beside a plain C program, an asyncio program and a Go program, in one run on one machine.

All contestants do the same work against the same draining peer. They stay connected and take turns: in every round each
runs its repetitions, the order turning from round to round, so that a machine that becomes slower becomes so for all. What
counts is the ratio of two contestants' medians within one round: its median over the rounds, and its least and greatest.
One repetition of each is checked order by order.

A contestant is added to ``CONTESTANTS``, a row of the table to ``ROWS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from copyd._fast.columns import keep_memory, row_sizes
from copyd._fast.meters import Histogram
from copyd.bench import batch, fanout, restart, sustained, world
from copyd.bench import line as delay
from copyd.bench.conditions import conditions, file_system
from copyd.bench.programs import Arrived, Drain, Pieces, Program, build, build_go, check_batch, check_signed
from copyd.core.rows import NamedOrder
from copyd.errors import UsageError, WorldError
from copyd.inspect.rebuild import fold, start_of
from copyd.journal import Journal
from copyd.kinds import KEPT_BYTES, pack_checkpoint
from copyd.runtime.pump import Sent
from copyd.venues.binance_usdm import codec

CONNECTIONS = 16
WARMUP = 4
"""Bursts of each contestant before the first round: pages touched, congestion windows open."""
REPETITIONS = 6
PAUSE_S = 0.003
SETTLE_S = 60.0
BUSY = 0.25
"""Load per core of other programs from which on the report says so."""
ROUNDS_MAX = 100
EVENTS_MAX = WARMUP + ROUNDS_MAX * REPETITIONS
OPEN_LOOP = (500, 1_000, 30.0)
"""Followers, leader events, events per second of the open-loop run."""
SILENCE_S = 2.5
LINE_BURSTS = 5
LINE_PAUSE_S = 0.05
EXCLUDED = (
    "network and venue: the peer is on loopback and only drains; answers come after each burst (the delay line: see its rows)",
    "TLS", "the leader's socket: the event begins with its bytes in hand",
    "the yardsticks keep no books beyond position and margin, name no reasons and wait for no answers",
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared. ``quick``: few repetitions, neither the largest size nor the delay line."""

    followers: int = 10_000
    rounds: int = 5
    quick: bool = False
    seed: int = 1
    journal: Path | None = None


class Measured(msgspec.Struct):
    """One burst, in ns from the event in hand: first order handed to the kernel, last order taken by it.

    ``event_ns`` is the moment by CLOCK_MONOTONIC (0: its program does not say); ``sum`` that of all bytes sent (-1: unknown);
    ``sync_ns`` what syncing the journal took (the C program only).
    """

    first_ns: int
    last_ns: int
    orders: int
    event_ns: int = 0
    bytes: int = 0
    sum: int = -1
    sync_ns: int = 0


class Contestant:
    """Something that sends one event's orders to the peer when told to. ``check`` names what is wrong with a burst.

    ``drained`` False: it has a peer of its own, against whose books all bursts are held at the end (``end`` says what is wrong).
    """

    name = ""
    orders = 0
    repetitions = REPETITIONS
    drained = True

    async def start(self) -> None:
        """Connect and prepare."""
        raise NotImplementedError

    async def run_once(self) -> Measured:
        """One event."""
        raise NotImplementedError

    async def settle(self) -> None:
        """After a burst, when the peer has answered: whatever must be over before the next."""

    def check(self, pieces: Pieces, orders: int) -> list[str]:
        """What is wrong with the orders of one burst."""
        raise NotImplementedError

    async def end(self) -> list[str]:
        """After the last burst: what is wrong with all of them together."""
        return []

    async def stop(self) -> None:
        """Disconnect."""
        raise NotImplementedError


class Told(Contestant):
    """A program of its own that is told "go"."""

    def __init__(
        self, name: str, orders: int, command: Sequence[str], check: Callable[[Pieces, int], list[str]],
        repetitions: int = REPETITIONS, namespace: str | None = None,
    ) -> None:
        self.name = name
        self.orders = orders
        self.command = [str(word) for word in command]
        self.checker = check
        self.repetitions = repetitions
        self.namespace = namespace
        self.program: Program | None = None

    async def start(self) -> None:
        self.program = await Program.start(self.name, self.command, self.namespace)

    async def run_once(self) -> Measured:
        assert self.program is not None
        return msgspec.convert(await self.program.ask("go"), Measured)

    def check(self, pieces: Pieces, orders: int) -> list[str]:
        return self.checker(pieces, orders)

    async def windows(self) -> list[int]:
        """Congestion windows of its connections, in segments (the C program only)."""
        assert self.program is not None
        found: list[int] = (await self.program.ask("cwnd"))["cwnd"]
        return found

    async def stop(self) -> None:
        if self.program is not None:
            await self.program.stop()


class Watched(fanout.Path_):
    """The daemon's data path, which says when a fan-out has left."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.left = asyncio.Event()
        super().__init__(*args, **more)

    def _sent(self, times: Sent) -> None:
        super()._sent(times)
        if times.exec_id:
            self.left.set()

    def backlog(self) -> int:
        """Bytes the kernel has not taken."""
        return sum(link.session.backlog for link in self.gateway._links if link.session is not None)


class Copyd(Contestant):
    """copyd's own path, in this process, one event at a time."""

    def __init__(
        self, name: str, directory: Path, port: int, followers: int, durability: str, seed: int, repetitions: int = REPETITIONS,
        host: str = "127.0.0.1", inside: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        threads: int = 1,
    ) -> None:
        self.name = name
        self.orders = followers
        self.directory = directory
        self.port, self.host, self.inside = port, host, inside
        self.settings = fanout.Settings(
            followers=followers, connections=CONNECTIONS, events=EVENTS_MAX, warmup=0, durability=durability, seed=seed,
            threads=threads)
        self.repetitions = repetitions
        self.journal: Any = fanout.MemoryJournal()
        self.path: Watched | None = None
        self.trades: Iterator[world.LeaderTrade] = iter(())

    async def start(self) -> None:
        if self.settings.durability != "none":
            self.journal = Journal.open(
                self.directory / f"journal-{self.name.replace(' ', '-')}", site=world.SITE, map_size=fanout.MAP_BYTES,
                durability=self.settings.durability)  # type: ignore[arg-type]
        path = self.path = Watched(self.settings, self.journal, self.port, self.host)
        self.trades = iter(path.trades.values())
        if isinstance(self.journal, Journal):
            self.journal.attach(asyncio.get_running_loop(), on_durable=path.durable, on_failed=path.failed)
        path.offer_world()
        if isinstance(self.journal, Journal):
            await self.journal.committed(self.journal.last_seq)
        with self.inside():
            await path.gateway.start()
        path.engine.make_room()

    async def run_once(self) -> Measured:
        path = self.path
        assert path is not None
        trade = next(self.trades)
        payload = world.leader_frame(trade, time.time_ns() // 1_000_000)
        path.left.clear()
        with first_core():
            began = time.monotonic_ns()
            path.leader_frame(None, payload)  # type: ignore[arg-type]
            if not path.left.is_set():
                await asyncio.wait_for(path.left.wait(), SETTLE_S)
            event = path.events[-1]
            last = event.last - event.received
            if path.backlog():
                while path.backlog():  # noqa: ASYNC110 - the moment matters, and the transport has no event for it
                    await asyncio.sleep(0)
                last = time.monotonic_ns() - began
        if path.problems:
            raise WorldError(f"{self.name}: {path.problems[0]}")
        return Measured(event.first - event.received, last, event.orders, began)

    async def settle(self) -> None:
        assert self.path is not None
        deadline = time.monotonic() + SETTLE_S
        while self.path.gateway.in_flight:
            if time.monotonic() > deadline:
                raise WorldError(f"{self.name}: {self.path.gateway.in_flight} orders were not answered")
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.01)  # the answers are collected before the engine is told
        self.path.engine.make_room()
        self.path.decided.clear()

    def check(self, pieces: Pieces, orders: int) -> list[str]:
        assert self.path is not None
        decided = {order.cid.hex() for named in self.path.decided for order in NamedOrder.unpack_all(named)}
        sent = {json.loads(text)["id"] for _, _, text in pieces.pieces}
        others = ["other orders than were decided"] if sent != decided else []
        return check_signed(pieces, orders, self.settings.seed) + others

    def sockets(self) -> list[Any]:
        """Its connections."""
        assert self.path is not None
        return [
            link.session.transport.underlying_transport.get_extra_info("socket")
            for link in self.path.gateway._links if link.session is not None and link.session.transport is not None
        ]

    async def windows(self) -> list[int]:
        """Congestion windows of its connections, in segments."""
        return [delay.window(sock) for sock in self.sockets()]

    async def stop(self) -> None:
        if self.path is not None:
            await self.path.gateway.stop(0.0)
            self.path.encoder.stop_helper()
        if isinstance(self.journal, Journal):
            self.journal.close()


class CopydBatch(Contestant):
    """copyd's own path over the batch gateway, in this process, to the simulated exchange in one of its own."""

    drained = False

    def __init__(self, name: str, directory: Path, followers: int, durability: str, unix: bool, seed: int) -> None:
        self.name = name
        self.orders = followers
        self.directory = directory / name.replace(" ", "-").replace(",", "")
        self.settings = batch.Settings(followers=followers, durability=durability, unix=unix, seed=seed)
        self.journal: Any = fanout.MemoryJournal()
        self.short = tempfile.TemporaryDirectory(prefix="copyd-")
        self.path: batch.Path_ | None = None
        self.child: batch.Child | None = None
        self.number = 0

    async def start(self) -> None:
        self.directory.mkdir()
        # The name of a Unix socket has about a hundred characters, a journal's directory may have more.
        door = str(Path(self.short.name) / "door")
        self.child, told = await batch.Child.start(self.settings.followers, door)
        if self.settings.durability != "none":
            self.journal = Journal.open(
                self.directory / "journal", site=world.SITE, map_size=fanout.MAP_BYTES,
                durability=self.settings.durability)  # type: ignore[arg-type]
        address = f"unix:{door}" if self.settings.unix else f"127.0.0.1:{told['port']}"
        path = self.path = batch.Path_(self.settings, self.journal, address, told["first"])
        if isinstance(self.journal, Journal):
            self.journal.attach(asyncio.get_running_loop(), on_durable=path.durable, on_failed=path.failed)
        path.offer_world()
        if isinstance(self.journal, Journal):
            await self.journal.committed(self.journal.last_seq)
        await path.gateway.start()
        path.engine.make_room()

    async def run_once(self) -> Measured:
        path = self.path
        assert path is not None
        trade = world.schedule(4, self.settings.seed)[self.number % 4]
        with first_core():
            path.leader_event(msgspec.structs.replace(trade, exec_id=1_000 + self.number))
            self.number += 1
            await asyncio.wait_for(path.answered.wait(), SETTLE_S)
        if path.problems:
            raise WorldError(f"{self.name}: {path.problems[0]}")
        event = path.events[-1]
        return Measured(event.first - event.received, event.last - event.received, event.orders, event.received)

    async def settle(self) -> None:
        assert self.path is not None
        self.path.tidy()
        self.path.engine.make_room()

    async def end(self) -> list[str]:
        assert self.path is not None and self.child is not None
        return [f"{self.name}: {problem}" for problem in batch.problems_of(self.path, await self.child.ask({"books": True}))]

    async def stop(self) -> None:
        if self.path is not None:
            await self.path.gateway.stop(0.0)
        if self.child is not None:
            await self.child.stop()
        if isinstance(self.journal, Journal):
            self.journal.close()
        self.short.cleanup()


@contextlib.contextmanager
def first_core() -> Iterator[None]:
    """This thread on the first core meanwhile, as the other contestants are; the draining peer has the last."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


# -- the table --------------------------------------------------------------------------------------------------------------


class Spread(msgspec.Struct, frozen=True):
    """A figure per round: median, least, greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


class Row(msgspec.Struct, kw_only=True):
    """A line of the table. ``copyd`` and ``yardstick`` in ``unit``; ``reached`` None: no target, or not measured."""

    name: str
    unit: str = "us"
    copyd: float | None = None
    yardstick: float | None = None
    ratio: Spread | None = None
    target: str = ""
    reached: bool | None = None
    note: str = ""


def ratios(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Spread:
    """Per round the median of ours over the median of theirs; over the rounds median, least and greatest."""
    return Spread.of([statistics.median(a) / statistics.median(b) for a, b in zip(ours, theirs, strict=True)])


def p50(rounds: Sequence[Sequence[float]]) -> float:
    """The median of all repetitions."""
    return statistics.median([value for values in rounds for value in values])


def judged(row: Row, value: float | None, limit: float, text: str, at_least: bool = False) -> Row:
    """The row with its target; reached when the value is within the limit, None when there is no value."""
    row.target = text
    row.reached = None if value is None else (value >= limit if at_least else value <= limit)
    return row


def shown(row: Row) -> str:
    """One line for a person."""
    def number(value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:,.0f}" if value >= 1_000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"

    ratio = "" if row.ratio is None else f"{row.ratio.median:.2f} ({row.ratio.low:.2f}..{row.ratio.high:.2f})"
    reached = "" if row.reached is None else "yes" if row.reached else "NO"
    figures = f"{row.name:<54}{row.unit:>9}{number(row.copyd):>11}{number(row.yardstick):>11}"
    return f"{figures}  {ratio:<26}{row.target:<24}{reached:<9}{row.note}".rstrip()


HEAD = f"{'p50':<54}{'unit':>9}{'copyd':>11}{'yardstick':>11}  {'ratio (min..max)':<26}{'target':<24}{'reached'}"


# -- the run ----------------------------------------------------------------------------------------------------------------


class Bench:
    """Everything of one run: what was built, who takes part, what was measured."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self.directory = directory
        self.built = build(directory)
        self.go = build_go(directory)
        self.drain: Drain | None = None
        self.contestants: dict[str, Contestant] = {}
        self.results: dict[str, list[list[Measured]]] = {}
        self.curves: dict[str, list[int]] = {}
        self.histograms: dict[str, Histogram] = {}
        self.problems: list[str] = []
        self.took: dict[str, float] = {}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of followers: a tenth, the given one, ten times as many."""
        n = self.settings.followers
        return (max(1, n // 10), n) if self.settings.quick else (max(1, n // 10), n, n * 10)

    @property
    def port(self) -> int:
        """Where the draining peer listens."""
        assert self.drain is not None
        return self.drain.port

    def floor(self, name: str, followers: int, *more: str | Path, repetitions: int = REPETITIONS) -> Told:
        """The C program with signed orders."""
        return Told(
            name, followers,
            [str(self.built["floor"]), "signed", "--port", str(self.port), "--followers", str(followers), "--connections",
             str(CONNECTIONS), "--seed", str(self.settings.seed), *map(str, more)],
            lambda pieces, orders: check_signed(pieces, orders, self.settings.seed), repetitions)

    def batch(self, name: str, *more: str | Path) -> Told:
        """The C program with a batch of records."""
        return Told(
            name, self.settings.followers,
            [str(self.built["floor"]), "batch", "--followers", str(self.settings.followers), *map(str, more)], check_batch)

    def copyd(self, name: str, followers: int, durability: str, repetitions: int = REPETITIONS) -> Copyd:
        """copyd's path."""
        return Copyd(name, self.directory, self.port, followers, durability, self.settings.seed, repetitions)

    def times(self, key: str, what: str = "last") -> list[list[float]] | None:
        """us per round and repetition; None when the contestant did not take part."""
        found = self.results.get(key)
        return None if not found else [[getattr(one, f"{what}_ns") / 1e3 for one in ones] for ones in found]

    async def rounds(self) -> None:
        """Start all, warm up, then the rounds in turn."""
        for contestant in self.contestants.values():
            await contestant.start()
        gc.collect()
        gc.freeze()
        keys = list(self.contestants)
        for key in keys:
            for at in range(WARMUP):
                await self.once(key, check=at == WARMUP - 1)
        self.results = {key: [] for key in keys}
        for number in range(self.settings.rounds):
            turned = keys[number % len(keys) :] + keys[: number % len(keys)]
            for key in turned:
                count = min(2, self.contestants[key].repetitions) if self.settings.quick else self.contestants[key].repetitions
                self.results[key].append([await self.once(key) for _ in range(count)])
        for contestant in self.contestants.values():
            self.problems += await contestant.end()

    async def once(self, key: str, check: bool = False) -> Measured:
        """One burst, received and answered whole."""
        contestant = self.contestants[key]
        assert self.drain is not None
        file = self.directory / "pieces" if check else None
        measured = await contestant.run_once()
        if not contestant.drained:
            if measured.orders != contestant.orders:
                self.problems.append(f"{contestant.name}: {measured.orders} orders for {contestant.orders} followers")
            await contestant.settle()
            await asyncio.sleep(PAUSE_S)
            return measured
        arrived = await self.drain.report(measured.orders, file)
        self.verify(contestant, measured, arrived)
        if file is not None:
            pieces = Pieces.read(file)
            self.problems += [f"{contestant.name}: {problem}" for problem in contestant.check(pieces, measured.orders)]
            began = measured.event_ns or min(ns for ns, _, _ in pieces.pieces)
            self.curves[key] = [ns - began for ns, _, _ in pieces.pieces]
            file.unlink()
        await contestant.settle()
        await asyncio.sleep(PAUSE_S)
        return measured

    def verify(self, contestant: Contestant, measured: Measured, arrived: Arrived) -> None:
        """Every repetition: an order for each follower, all received, and the same bytes where the sender says which."""
        name = contestant.name
        if measured.orders != contestant.orders:
            self.problems.append(f"{name}: {measured.orders} orders for {contestant.orders} followers")
        if arrived.orders != measured.orders:
            self.problems.append(f"{name}: {measured.orders} orders sent, {arrived.orders} received")
        if measured.sum >= 0 and (measured.bytes, measured.sum) != (arrived.bytes, arrived.sum):
            self.problems.append(f"{name}: the peer received other bytes than were sent")

    async def stop(self) -> None:
        """End whatever was started."""
        gc.unfreeze()
        for contestant in self.contestants.values():
            with contextlib.suppress(WorldError, OSError):
                await contestant.stop()
        if self.drain is not None:
            await self.drain.stop()


def standard(bench: Bench) -> dict[str, Contestant]:
    """Who takes part, by the key that rows name them with."""
    n, where = bench.settings.followers, bench.directory
    python = sys.executable
    found: dict[str, Contestant] = {}
    for size in bench.sizes:
        times = REPETITIONS if size <= 20_000 else 1
        found[f"floor {size}"] = bench.floor(f"floor, {size}", size, repetitions=times)
        found[f"copyd {size}"] = bench.copyd(f"copyd, {size}", size, "none", times)
    found["floor map"] = bench.floor("floor, mapped journal", n, "--journal", where / "floor-map", "--sync", "map")
    found["copyd process"] = bench.copyd("copyd, journal process", n, "process")
    found["floor sync"] = bench.floor("floor, synced journal", n, "--journal", where / "floor-sync", "--sync", "fdatasync")
    found["copyd strict"] = bench.copyd("copyd, journal strict", n, "strict")
    found["floor threads"] = bench.floor("floor, two threads", n, "--threads", "2")
    found["copyd threads"] = Copyd("copyd, two threads", where, bench.port, n, "none", bench.settings.seed, threads=2)
    for key, durability, unix in (("", "none", True), (" tcp", "none", False), (" process", "process", True),
                                  (" strict", "strict", True)):
        name = f"copyd, batch{key}"
        found[f"copyd batch{key}"] = CopydBatch(name, where, n, durability, unix, bench.settings.seed)
    assert bench.drain is not None
    local = ("--unix", bench.drain.unix)
    found["floor batch"] = bench.batch("floor, batch", *local)
    found["floor batch tcp"] = bench.batch("floor, batch over TCP", "--port", str(bench.port))
    found["floor batch map"] = bench.batch(
        "floor, batch, mapped journal", *local, "--journal", where / "batch-map", "--sync", "map")
    found["floor batch sync"] = bench.batch(
        "floor, batch, synced journal", *local, "--journal", where / "batch-sync", "--sync", "fdatasync")
    baselines = Path(__file__).resolve().parents[2] / "bench" / "baselines"
    text = functools.partial(check_signed, seed=bench.settings.seed, exact=False)
    found["asyncio"] = Told(
        "asyncio, a task per follower", n,
        [python, str(baselines / "asyncio_gather.py"), str(bench.port), str(n), str(CONNECTIONS), str(bench.settings.seed)],
        text, 1)
    if bench.go is not None:
        found["go"] = Told(
            "Go, a goroutine per follower", n,
            [str(bench.go), "-port", str(bench.port), "-followers", str(n), "-connections", str(CONNECTIONS), "-seed",
             str(bench.settings.seed)], text, 1)
    return found


CONTESTANTS: list[Callable[[Bench], dict[str, Contestant]]] = [standard]
"""Each gives contestants by key; a later one replaces an earlier one's of the same key."""


# -- rows -------------------------------------------------------------------------------------------------------------------


def beside(
    bench: Bench, name: str, ours: str, theirs: str, what: str = "last", ratio_most: float | None = None,
    us_most: float | None = None, note: str = "",
) -> Row:
    """Two contestants of the rounds in one row, with a target for their ratio or for our p50."""
    a, b = bench.times(ours, what), bench.times(theirs, what)
    row = Row(name=name, copyd=p50(a) if a else None, yardstick=p50(b) if b else None, note=note)
    if a and b:
        row.ratio = ratios(a, b)
    elif not a:
        row.note = note or "not measured: copyd has no such path"
    if ratio_most is not None:
        judged(row, row.ratio.median if row.ratio else None, ratio_most, f"ratio <= {ratio_most:g}")
    if us_most is not None:
        judged(row, row.copyd, us_most, f"<= {us_most:,.0f} us")
    return row


def signed_rows(bench: Bench) -> list[Row]:
    """Signed orders against the C floor: sizes, journals, first order."""
    n = bench.settings.followers
    synced = bench.contestants["floor sync"]
    bare = synced.program.hello["fdatasync_ns"] / 1e3 if isinstance(synced, Told) and synced.program else 0.0
    sync = p50(bench.times("floor sync", "sync") or [[0.0]])
    bench.took["fdatasync_us"] = round(bare, 1)
    rows = [beside(bench, f"signed, {size:,} followers: last", f"copyd {size}", f"floor {size}",
                   ratio_most=None if size < n else 1.15) for size in bench.sizes]
    rows += [
        beside(bench, f"signed, {n:,}: first", f"copyd {n}", f"floor {n}", "first", ratio_most=1.6),
        beside(bench, f"signed, {n:,}, journal process: last", "copyd process", "floor map"),
        beside(bench, f"signed, {n:,}, journal process: first", "copyd process", "floor map", "first"),
        beside(bench, f"signed, {n:,}, journal strict: last", "copyd strict", f"floor {n}", ratio_most=1.25,
               note="beside the floor without a journal"),
        beside(bench, f"signed, {n:,}, journal strict: first", "copyd strict", "floor sync", "first", us_most=sync + 400,
               note=f"fdatasync of 64 bytes: {sync:,.0f} us in these rounds, {bare:,.0f} before them"),
        beside(bench, f"signed, {n:,}, two threads: last", "copyd threads", "floor threads"),
        beside(bench, f"signed, {n:,}, two threads beside one: last", "copyd threads", f"copyd {n}", ratio_most=0.65,
               note="the yardstick is copyd's single thread"),
    ]
    return rows


def batch_rows(bench: Bench) -> list[Row]:
    """The in-house batch: floor's figures, and copyd's once its gateway takes part as ``copyd batch``."""
    n = bench.settings.followers
    floor = bench.times("floor batch")
    sync = p50(bench.times("floor batch sync", "sync") or [[0.0]])
    strict_most = (p50(floor) if floor else 0.0) + sync + 400
    return [
        beside(bench, f"batch, {n:,}, Unix socket: last", "copyd batch", "floor batch", ratio_most=1.25),
        beside(bench, f"batch, {n:,}, Unix socket: first", "copyd batch", "floor batch", "first"),
        beside(bench, f"batch, {n:,}, TCP: last", "copyd batch tcp", "floor batch tcp", ratio_most=1.25),
        beside(bench, f"batch, {n:,}, journal process: last", "copyd batch process", "floor batch", ratio_most=1.6,
               note="beside the floor without a journal"),
        beside(bench, f"batch, {n:,}, journal strict: last", "copyd batch strict", "floor batch sync", us_most=strict_most,
               note=f"fdatasync of 64 bytes: {sync:,.0f} us in these rounds"),
    ]


async def sustained_rows(bench: Bench) -> list[Row]:
    """Orders a second with every answer booked, per second of the processor time of copyd's own loop."""
    quick = bench.settings.quick
    n = min(bench.settings.followers, 10_000)
    (bench.directory / "sustained-batch").mkdir()
    (bench.directory / "sustained").mkdir()
    engine = await batch.measure(
        batch.Settings(followers=n, rest_ms=0.0, seconds=0.5 if quick else 5.0, durability="process", unix=True,
                       seed=bench.settings.seed), bench.directory / "sustained-batch")
    signed = await sustained.measure(
        sustained.Settings(followers=n, events=4 if quick else 40, warmup=2 if quick else 6, durability="process",
                           seed=bench.settings.seed), bench.directory / "sustained")
    bench.problems += [f"sustained, batch: {problem}" for problem in engine["problems"]]
    bench.problems += [f"sustained: {problem}" for problem in signed["problems"]]
    late = signed["late_us"]
    return [
        judged(Row(name=f"sustained, batch, {n:,}: orders", unit="/cpu s", copyd=engine["orders_per_cpu_s"],
                   note=f"{engine['orders']:,} orders, every report booked; {engine['orders_per_s']:,} a second of wall"),
               engine["orders_per_cpu_s"], 300_000, ">= 300,000", at_least=True),
        judged(Row(name=f"sustained, signed, {n:,}: orders", unit="/cpu s", copyd=signed["orders_per_loop_s"],
                   note=f"{signed['orders']:,} orders, every reply and user event booked; {signed['orders_per_s']:,} a second of "
                        f"wall, {signed['orders_per_core_s']:,} with the journal's thread; {signed['grown_mib']} MiB grown"),
               signed["orders_per_loop_s"], 60_000, ">= 60,000", at_least=True),
        Row(name="sustained, signed: the loop's lateness, p99.9", copyd=late["p999"], note=f"max {late['max']:,.0f}"),
    ]


def usual_rows(bench: Bench) -> list[Row]:
    """How many times longer the usual ways take than copyd without a journal."""
    ours = f"copyd {bench.settings.followers}"
    rows = []
    for key, name, least in (("asyncio", "asyncio, a task per follower", 90), ("go", "Go, a goroutine per follower", 40)):
        mine, theirs = bench.times(ours), bench.times(key)
        row = Row(name=f"{name}: last", copyd=p50(mine) if mine else None, note="" if theirs else "not measured: needs go")
        if mine and theirs:
            row.yardstick = p50(theirs)
            row.ratio = ratios(theirs, mine)
            row.note = "ratio: theirs to ours"
        rows.append(judged(row, row.ratio.median if row.ratio else None, least, f"{least} times", at_least=True))
    return rows


def decode_rows(bench: Bench) -> list[Row]:
    """The leader's frame to a fact."""
    instruments = world.instruments()
    payload = world.leader_frame(world.LeaderTrade(4711, -1, 250, 650_123), 1_700_000_000_000)
    reader = codec.executions(instruments)
    rounds = []
    for _ in range(5):
        began = time.perf_counter_ns()
        for _ in range(2_000):
            execution = reader.execution(payload, 1)
        rounds.append((time.perf_counter_ns() - began) / 2_000)
    event = codec.decode_user(payload)
    assert isinstance(event, codec.OrderTradeUpdate)
    if execution is None or execution != codec.execution(event, instruments, 1, payload):
        raise WorldError("the compiled reader and the readable one make different executions of the leader's frame")
    took = statistics.median(rounds)
    row = Row(name=f"decode of the leader's frame ({len(payload)} bytes)", unit="ns", copyd=took)
    return [judged(row, took, 500, "<= 500 ns")]


def replay_rows(bench: Bench) -> list[Row]:
    """A journal of answered fan-outs folded into the state it leaves."""
    followers = min(bench.settings.followers, 10_000)
    events = 2 if bench.settings.quick else 10
    path = bench.directory / "replay"
    left = restart.write_journal(path, followers, events, bench.settings.seed)
    with Journal.open(path, site=world.SITE, map_size=16 << 30) as opened:
        engine = start_of(opened.reader)
        began = time.perf_counter()
        engine = fold(opened.reader, engine=engine)
        took = time.perf_counter() - began
    if pack_checkpoint(engine) != left:
        bench.problems.append("replay: another state than the one that was left")
    rate = followers * events / took
    return [judged(Row(name="replay of the journal", unit="orders/s", copyd=rate,
                       note=f"{events} events of {followers:,} orders with answers, each decision compared with its record"),
                   rate, 2_000_000, ">= 2,000,000", at_least=True)]


def memory_rows(bench: Bench) -> list[Row]:
    """Bytes of columns per follower that has one leg, and no orders."""
    sizes = row_sizes()
    followers = min(bench.settings.followers, 10_000)
    held = sum(len(part) for part in world.make_engine(followers, bench.settings.seed).columns.dump())
    return [judged(Row(name="columns of a follower with one leg", unit="bytes", copyd=held / followers,
                       note=f"plan {sizes['plans']}, account {sizes['accounts']} and {sizes['account_instruments']} per "
                            f"instrument of the table, each leg {sizes['legs']}; an order {sizes['orders']} until it is retired"),
                   held / followers, 512, "<= 512")]


async def open_loop_rows(bench: Bench) -> list[Row]:
    """Latency from the planned time of each leader event, whatever came before: a late one does not move the next."""
    followers, events, rate = OPEN_LOOP
    if bench.settings.quick:
        followers, events, rate = min(followers, bench.settings.followers), 20, 20.0
    path = bench.directory / "open-loop"
    path.mkdir()
    report = await fanout.measure(
        fanout.Settings(followers=followers, connections=CONNECTIONS, events=events, warmup=9, rate=rate, durability="process",
                        seed=bench.settings.seed), path)
    bench.problems += [f"open loop: {problem}" for problem in report["problems"]]
    bench.histograms.update({f"received-{name}": found for name, found in fanout.histograms(report).items()})
    figures = {"first": report["first_from_planned_us"], "last": report["last_from_planned_us"]}
    planned = Histogram()
    at = {"p50": figures["last"]["p50"], "p99": figures["last"]["p99"], "p99.9": figures["last"]["p999"]}
    for event, due in zip(report["_events"], report["_planned"], strict=True):
        planned.record_ns(max(0, event.last - due))
    bench.histograms["planned-last"] = planned
    note = f"{events} events at {rate:g}/s, journal process; {report['overlapped']} met unanswered orders"
    return [Row(name=f"open loop, {followers:,}: last, {name} from plan", copyd=value, note=note if name == "p50" else "")
            for name, value in at.items()]


async def line_rows(bench: Bench) -> list[Row]:
    """The last order at the peer over a round trip of 20 ms, after silence, with and without slow start after idle."""
    name = f"{2 * delay.DELAY_US // 1000} ms line, {bench.settings.followers:,}, after {SILENCE_S:g} s"
    reason = "a run without --quick" if bench.settings.quick else delay.missing()
    if reason is None:
        line = delay.Line(bench.built["line"])
        try:
            await line.start()
        except WorldError as problem:
            reason = f"a kernel that allows it ({problem})"
        else:
            try:
                return await _over(bench, line, name)
            finally:
                await line.stop()
    return [Row(name=f"{name}: at the peer", unit="ms", note=f"not measured: needs {reason}")]


async def _over(bench: Bench, line: delay.Line, name: str) -> list[Row]:
    rows: list[Row] = []
    kept: list[Row] = []  # those without slow start after idle
    own: list[float] = []
    usual = line.get("tcp_congestion_control")
    drain = await Drain.start(bench.built["drain"], bench.directory / "far", delay.FAR, line.far)
    try:
        for control, variants in [("cubic", (1, 0)), *([(usual, (1,))] if usual != "cubic" else [])]:
            floor = Told(
                f"floor, delay line, {control}", bench.settings.followers,
                [str(bench.built["floor"]), "signed", "--host", delay.FAR, "--port", str(drain.port), "--followers",
                 str(bench.settings.followers), "--connections", str(CONNECTIONS), "--cc", control], lambda pieces, orders: [],
                namespace=line.near)
            ours = Copyd(f"copyd, delay line, {control}", bench.directory, drain.port, bench.settings.followers, "none",
                         bench.settings.seed, host=delay.FAR, inside=line.inside)
            try:
                await floor.start()
                await ours.start()
                for sock in ours.sockets():  # as the C program does: a namespace may not take any other as its default
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
                for slow_start in variants:
                    own.append(await _open_windows(bench, line, drain, floor, ours))
                    line.set(tcp_slow_start_after_idle=slow_start)
                    rows.append(await _silences(bench, drain, floor, ours, f"{name}, {control}, slow start {slow_start}"))
                    kept += [] if slow_start else rows[-1:]
            finally:
                await ours.stop()
                await floor.stop()
    finally:
        await drain.stop()
    for row in kept:
        judged(row, row.copyd and row.copyd / min(own), 1.15, "<= 1.15 of the line's")
    rows[0].note += f"; the line's own time {min(own):.1f} ms; by {line.kind}"
    return rows


async def _burst(bench: Bench, drain: Drain, contestant: Told | Copyd) -> float:
    """One burst over the line: ms from the event to the last order's arrival."""
    measured = await contestant.run_once()
    arrived = await drain.report(measured.orders)
    bench.verify(contestant, measured, arrived)
    await contestant.settle()
    return (arrived.last_ns - measured.event_ns) / 1e6


async def _open_windows(bench: Bench, line: delay.Line, drain: Drain, floor: Told, ours: Copyd) -> float:
    """Open everybody's windows; then the line's own time, ms: the same bytes from the C program with its windows open.

    The best of some bursts. The pause between them lets the last acknowledgements come back, and is too short to be idle.
    """
    line.set(tcp_slow_start_after_idle=0)
    for _ in range(WARMUP):
        await _burst(bench, drain, floor)
        await _burst(bench, drain, ours)
    best = float("inf")
    for _ in range(LINE_BURSTS):
        await asyncio.sleep(LINE_PAUSE_S)
        best = min(best, await _burst(bench, drain, floor))
    return best


async def _silences(bench: Bench, drain: Drain, floor: Told, ours: Copyd, name: str) -> Row:
    """Bursts in turn, each after ``SILENCE_S`` of silence on its own connections."""
    windows, times = [], []
    for _ in range(LINE_BURSTS):
        pair = []
        for contestant in (floor, ours):
            await asyncio.sleep(SILENCE_S / 2 + 0.1)
            windows.append(statistics.median(await contestant.windows()))
            pair.append(await _burst(bench, drain, contestant))
        times.append(pair)
    theirs, mine = statistics.median([pair[0] for pair in times]), statistics.median([pair[1] for pair in times])
    return Row(
        name=name, unit="ms", copyd=mine, yardstick=theirs, ratio=Spread.of([b / a for a, b in times]),
        note=f"windows before {min(windows):.0f}..{max(windows):.0f} segments")


ROWS: list[Callable[[Bench], list[Row] | Awaitable[list[Row]]]] = [
    signed_rows, batch_rows, usual_rows, open_loop_rows, sustained_rows, decode_rows, replay_rows, memory_rows, line_rows,
]
"""Each gives rows of the table, in this order, after the rounds."""


# -- the command -------------------------------------------------------------------------------------------------------------


async def measure(settings: Settings, directory: Path) -> dict[str, Any]:
    """One run; the report as it is written to JSON, with what is plotted under ``_``."""
    load = os.getloadavg()[0]  # of others: what runs from here on is ours
    bench = Bench(settings, directory)
    rows: list[Row] = []
    try:
        began = time.monotonic()
        bench.drain = await Drain.start(bench.built["drain"], directory / "peer")
        for source in CONTESTANTS:
            bench.contestants |= source(bench)
        await bench.rounds()
        bench.took["rounds_s"] = round(time.monotonic() - began, 1)
        for give in ROWS:
            began = time.monotonic()
            found = give(bench)
            rows += found if isinstance(found, list) else await found
            bench.took[f"{give.__name__}_s"] = round(time.monotonic() - began, 1)
    finally:
        await bench.stop()
    first = next((c for c in bench.contestants.values() if isinstance(c, Told) and c.program), None)
    return {
        "bench": "compare", "followers": settings.followers, "connections": CONNECTIONS, "rounds": settings.rounds,
        "quick": settings.quick, "seed": settings.seed, "rows": [msgspec.to_builtins(row) for row in rows],
        "checked": not bench.problems, "problems": bench.problems,
        "runs_us": {
            key: [[[one.first_ns / 1e3, one.last_ns / 1e3] for one in ones] for ones in rounds]
            for key, rounds in bench.results.items()},
        "conditions": conditions(
            EXCLUDED, hashing=first.program.hello["hash"] if first and first.program else None,
            journal_file_system=file_system(directory), load_before=round(load, 2), **bench.took),
        "_rows": rows, "_curves": bench.curves, "_histograms": bench.histograms,
    }


def run(settings: Settings) -> dict[str, Any]:
    """Compare on uvloop with the daemon's interpreter settings, in a directory made for it and removed afterwards."""
    if settings.journal is not None and not settings.journal.is_dir():
        raise UsageError(f"{settings.journal} is no directory")
    if settings.followers < CONNECTIONS or not 1 <= settings.rounds <= ROUNDS_MAX:
        raise UsageError(f"at least {CONNECTIONS} followers and 1 to {ROUNDS_MAX} rounds are needed")
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    keep_memory(KEPT_BYTES)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="copyd-bench-", dir=settings.journal) as directory,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            return runner.run(measure(settings, Path(directory)))
    finally:
        sys.setswitchinterval(before)


def table(report: dict[str, Any]) -> str:
    """The report for a person."""
    facts = report["conditions"]
    lines = [
        f"compared: {report['followers']:,} followers, {report['connections']} connections, {report['rounds']} rounds in turn; "
        "times from the event in hand", "", HEAD, *(shown(row) for row in report["_rows"]), "",
        "checked" if report["checked"] else "NOT checked: " + "; ".join(report["problems"]),
        *([f"the machine was busy before (load {facts['load_before']:g} on {facts['cores']} cores): times too long, ratios vague"]
          if facts["load_before"] > BUSY * facts["cores"] else []),
        "", "conditions: " + ", ".join(f"{k} {v}" for k, v in facts.items() if k != "excluded" and v is not None),
        "excluded: " + facts["excluded"][0], *(f"          {text}" for text in facts["excluded"][1:]),
    ]
    return "\n".join(lines)
