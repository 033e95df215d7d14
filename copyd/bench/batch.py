"""``copyd bench batch``: leader event in hand → first and last order record handed to the kernel; and orders a second, sustained.

The daemon's own pump, journal and engine with the batch gateway, on real sockets. The other end is the simulated exchange in its
own process: it executes every order and reports every fill, which the engine here books. At the end its positions are compared
with the exchange's, account by account.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from copyd._fast.columns import ReportBatch
from copyd.bench import batch_engine, world
from copyd.bench.conditions import conditions, file_system, percentiles
from copyd.bench.fanout import MAP_BYTES, RETIRE_EVERY, MemoryJournal
from copyd.core import engine as core
from copyd.core.engine import Engine, Outputs
from copyd.core.rows import AccountInstrumentRow, OrderState
from copyd.errors import UsageError, WorldError
from copyd.journal import Journal
from copyd.kinds import kind_of
from copyd.runtime.clock import SystemClock
from copyd.runtime.pump import Pump, Sent
from copyd.venues.batch.contract import CONTRACT
from copyd.venues.batch.gateway import BatchGateway

ACCOUNT_INSTRUMENTS, ORDERS = 5, 7
UNFINISHED = 1 << OrderState.PENDING_NEW | 1 << OrderState.NEW | 1 << OrderState.PARTIALLY_FILLED | 1 << OrderState.IN_DOUBT
SETTLE_S = 30.0
EXCLUDED = (
    "network: the exchange is on this machine", "the leader feed: the event is in hand, decoded",
    "REST polls, user streams and metrics of a running daemon", "the venue's limit on orders per account (lifted)",
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured. ``rest_ms``: idle between two events, 0 = sustained, for ``seconds``."""

    followers: int = 10_000
    events: int = 50
    warmup: int = 9
    rest_ms: float = 20.0
    seconds: float = 5.0
    durability: str = "strict"
    chunk_max: int = 2_048
    unix: bool = False
    journal: Path | None = None
    seed: int = 1

    @property
    def sustained(self) -> bool:
        return self.rest_ms == 0


class Event(msgspec.Struct):
    """Times of one leader event, ns by the wall clock."""

    received: int = 0
    decided: int = 0
    durable: int = 0
    first: int = 0
    last: int = 0
    done: int = 0
    orders: int = 0
    unwritten: int = 0
    cpu: int = 0  # of this thread, from received to the last record
    render: int = 0
    send: int = 0
    step: int = 0


class Path_:
    """Engine, journal, pump and gateway, wired as the daemon wires them."""

    def __init__(self, settings: Settings, journal: Any, address: str, first_account: int) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self.engine = Engine()
        self.journal = journal
        self.gateway = BatchGateway(
            address=address, secret=batch_engine.SECRET, name="bench", instruments=world.instruments(), contract=CONTRACT,
            clock=self.clock.now_ns, on_reports=self._reports)
        self.gateway.bind(self.engine.columns)
        for account in range(settings.followers):
            self.gateway.set_account(account, first_account + account)
        self.event = Event()
        self.events: list[Event] = []
        self.rows = 0
        self.cpu_began = 0
        self.problems: list[str] = []
        self.answered = asyncio.Event()
        self.chunk_max = settings.chunk_max
        self.pump = Pump(self, journal, self, self.clock, kind_of, self._outputs, self._sent)  # type: ignore[arg-type]

    @property
    def names(self) -> Any:
        return self.engine.names

    @property
    def announced(self) -> tuple[int, core.LeaderFill] | None:
        return self.engine.announced

    def announces(self, value: Any, legs_least: int) -> bool:
        """Engine."""
        return self.engine.announces(value, legs_least)

    def step(self, now: int, value: Any, ready: core.Ready | None = None) -> Outputs | None:
        """Engine, timed; what is rendered and sent in between is not its time."""
        event = self.event
        others = event.render + event.send
        began = time.perf_counter_ns()
        outputs = self.engine.step(now, value, ready)
        event.step += time.perf_counter_ns() - began - (event.render + event.send - others)
        return outputs

    def arrange(self, slots: Any, turn: int) -> Any:
        """One session: as they come."""
        return slots

    def render(self, slots: Any) -> Any:
        """Gateway, timed."""
        began = time.perf_counter_ns()
        rendered = self.gateway.render(slots)
        self.event.render += time.perf_counter_ns() - began
        return rendered

    def send(self, rendered: Any) -> None:
        """Gateway, timed."""
        began = time.perf_counter_ns()
        self.gateway.send(rendered)
        self.event.send += time.perf_counter_ns() - began

    def offer_world(self) -> None:
        """Plans, accounts, leader: journaled like everything else."""
        for value in world.opening_inputs(self.settings.followers, self.settings.seed):
            self.pump.offer(value)

    def leader_event(self, trade: world.LeaderTrade) -> None:
        """One fill of the leader, all the way to his followers' orders."""
        self.cpu_began = time.thread_time_ns()
        self.event = Event(received=self.clock.now_ns())
        self.events.append(self.event)
        self.answered.clear()
        self.pump.quote(0, trade.px - 1, trade.px + 1, trade.px, self.event.received)
        self.pump.offer(world.leader_fill(trade, self.event.received))

    def durable(self, seq: int) -> None:
        self.pump.durable(seq)

    def failed(self, error: BaseException) -> None:
        self.problems.append(f"journal: {error}")
        self.pump.stop()

    def _outputs(self, outputs: Outputs) -> None:
        pass

    def _sent(self, times: Sent) -> None:
        if times.exec_id:
            event = self.event
            event.orders, event.first, event.last, event.durable = times.orders, times.first, times.last, times.durable
            event.cpu = time.thread_time_ns() - self.cpu_began
            event.decided, event.unwritten = times.decided, self.gateway.unwritten

    def _reports(self, batch: ReportBatch, ts_recv: int) -> None:
        self.rows += batch.count
        event, self.event = self.event, Event()  # its stages are not the fan-out's
        self.pump.offer(core.Reports(batch.to_bytes()))
        self.event = event
        if not self.gateway.in_flight and not self.gateway.waiting and event.last:
            event.done = self.clock.now_ns()
            self.answered.set()

    def tidy(self) -> None:
        """Retire finished orders, as the daemon does between bursts."""
        if len(self.events) % RETIRE_EVERY == 0:
            self.pump.offer(core.Command("retire", {"before_seq": self.engine.names.seq - 1}))

    def positions(self) -> list[int]:
        """Net lots of every follower, as the engine has booked them."""
        columns = self.engine.columns
        return [
            AccountInstrumentRow.unpack(columns.get(ACCOUNT_INSTRUMENTS, account * columns.instruments_max)).net
            for account in range(self.settings.followers)
        ]


class Child:
    """The exchange's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, followers: int, path: str) -> tuple[Child, dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", batch_engine.__name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            limit=1 << 26)
        child = cls(process)
        return child, await child.ask({"followers": followers, "path": path})

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        text = await asyncio.wait_for(self.process.stdout.readline(), 120)
        if not text:
            raise WorldError("the exchange ended early")
        answer: dict[str, Any] = json.loads(text)
        return answer

    async def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), 10)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


async def _drive(path: Path_, settings: Settings) -> tuple[float, float, int, int]:
    """All events; (wall seconds, processor seconds of this thread, orders, rows) of the measured ones."""
    sides = world.schedule(4, settings.seed)
    number = 0
    began, cpu, orders, rows = time.perf_counter(), time.thread_time(), 0, 0
    while True:
        if number == settings.warmup:
            began, cpu, rows = time.perf_counter(), time.thread_time(), path.rows
        measured = number - settings.warmup
        over = time.perf_counter() - began >= settings.seconds if settings.sustained else measured >= settings.events
        if measured >= 0 and over and number % 4 == 0:  # flat again
            return time.perf_counter() - began, time.thread_time() - cpu, orders, path.rows - rows
        path.leader_event(msgspec.structs.replace(sides[number % 4], exec_id=1_000 + number))
        await asyncio.wait_for(path.answered.wait(), SETTLE_S)
        if number >= settings.warmup:
            orders += path.events[-1].orders
        number += 1
        path.tidy()
        if path.problems:
            raise WorldError(path.problems[0])
        if not settings.sustained:
            await asyncio.sleep(settings.rest_ms / 1000)


async def measure(settings: Settings, directory: Path) -> dict[str, Any]:
    """One run; the report as it is written to JSON."""
    loop = asyncio.get_running_loop()
    socket_path = str(directory / "door")
    child, told = await Child.start(settings.followers, socket_path)
    journal: Any = MemoryJournal()
    if settings.durability != "none":
        durability: Any = settings.durability
        journal = Journal.open(directory / "journal", site=world.SITE, map_size=MAP_BYTES, durability=durability)
    address = f"unix:{socket_path}" if settings.unix else f"127.0.0.1:{told['port']}"
    path = Path_(settings, journal, address, told["first"])
    try:
        if isinstance(journal, Journal):
            journal.attach(loop, on_durable=path.durable, on_failed=path.failed)
        path.offer_world()
        if isinstance(journal, Journal):
            await journal.committed(journal.last_seq)
        await path.gateway.start()
        gc.collect()
        gc.freeze()
        gc.disable()
        await asyncio.sleep(0.2)
        load = os.getloadavg()[0]
        seconds, cpu_s, orders, rows = await _drive(path, settings)
        books = await child.ask({"books": True})
    finally:
        gc.enable()
        gc.unfreeze()
        await path.gateway.stop(0.0)
        await child.stop()
        if isinstance(journal, Journal):
            journal.close()
    return _report(settings, path, books, seconds, cpu_s, orders, rows, load, directory)


def problems_of(path: Path_, books: dict[str, Any]) -> list[str]:
    """What is not as the exchange's books have it, in sentences."""
    problems = list(path.problems)
    if books["positions"] != path.positions():
        wrong = sum(a != b for a, b in zip(books["positions"], path.positions(), strict=True))
        problems.append(f"{wrong} of {path.settings.followers} positions differ from the exchange's")
    total = sum(event.orders for event in path.events)
    if books["placed"] + books["refused"] != total or books["repeated"]:
        problems.append(f"the exchange took {books['placed']} and refused {books['refused']} of {total} orders, "
                        f"{books['repeated']} more than once")
    if books["refused"]:
        problems.append(f"{books['refused']} orders were refused")
    if any(event.orders != path.settings.followers for event in path.events):
        problems.append(f"events with {sorted({event.orders for event in path.events})} orders")
    unfinished = len(path.engine.columns.orders_in_state(UNFINISHED))
    if unfinished or path.gateway.stats.in_doubt:
        problems.append(f"{unfinished} orders did not end, {path.gateway.stats.in_doubt} were in doubt")
    return problems


def _report(
    settings: Settings, path: Path_, books: dict[str, Any], seconds: float, cpu_s: float, orders: int, rows: int, load: float,
    directory: Path,
) -> dict[str, Any]:
    measured = path.events[settings.warmup :]
    problems = problems_of(path, books)
    return {
        "bench": "batch", "followers": settings.followers, "durability": settings.durability, "events": len(measured),
        "transport": "unix" if settings.unix else "tcp", "chunk": settings.chunk_max,
        "orders": orders, "report_rows": rows, "seconds": round(seconds, 3), "orders_per_s": round(orders / seconds),
        "cpu_s": round(cpu_s, 3), "orders_per_cpu_s": round(orders / cpu_s) if cpu_s else 0,
        "sustained": settings.sustained,
        "first_us": percentiles([e.first - e.received for e in measured]),
        "last_us": percentiles([e.last - e.received for e in measured], (50, 99)),
        "done_us": percentiles([e.done - e.received for e in measured], (50, 99)),
        "stages_us": {name: percentiles([getattr(e, name) for e in measured]) for name in ("step", "render", "send", "cpu")},
        "least_us": {name: round(min((getattr(e, name) - e.received for e in measured), default=0) / 1000, 1)
                     for name in ("first", "last", "done")},
        "events_with_bytes_left": sum(e.unwritten > 0 for e in measured),
        "bytes_left_max": max((e.unwritten for e in measured), default=0),
        "exchange_cpu_s": round(books["cpu_s"], 2), "checked": not problems, "problems": problems,
        "conditions": conditions(
            EXCLUDED, load_before=round(load, 2),
            journal_file_system=file_system(directory) if settings.durability != "none" else None),
    }


def run(settings: Settings) -> dict[str, Any]:
    """Measure on uvloop with the daemon's interpreter settings, in a journal made for it and removed afterwards."""
    if settings.journal is not None and not settings.journal.is_dir():
        raise UsageError(f"{settings.journal} is no directory")
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="copyd-bench-", dir=settings.journal) as directory,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            return runner.run(measure(settings, Path(directory)))
    finally:
        sys.setswitchinterval(before)


def table(reports: Sequence[dict[str, Any]]) -> str:
    """The reports for a person, one line each."""
    lines = [f"{'journal':<9}{'over':<6}{'chunk':<8}{'first p50':>10}{'p99':>8}{'last p50':>10}{'p99':>8}{'done p50':>10}"
             f"{'orders/s':>11}{'per cpu s':>11}"]
    for report in reports:
        first, last, done = report["first_us"], report["last_us"], report["done_us"]
        lines.append(
            f"{report['durability']:<9}{report['transport']:<6}{report['chunk']:<8}{first['p50']:>10}{first['p99']:>8}{last['p50']:>10}"
            f"{last['p99']:>8}{done['p50']:>10}{report['orders_per_s']:>11,}{report['orders_per_cpu_s']:>11,}")
    for report in reports:
        lines.append("checked" if report["checked"] else "NOT checked: " + "; ".join(report["problems"]))
        stages = ", ".join(f"{name} {figures['p50']}" for name, figures in report["stages_us"].items())
        least = ", ".join(f"{name} {figure}" for name, figure in report["least_us"].items())
        lines.append(f"{report['events']} events of {report['followers']} orders; us p50: {stages}; least: {least}")
        lines.append(f"exchange: {report['exchange_cpu_s']} s of processor; load before: {report['conditions']['load_before']}")
        if report["events_with_bytes_left"]:
            lines.append(f"{report['events_with_bytes_left']} events ended with up to {report['bytes_left_max']} bytes in our "
                         "own buffers")
    return "\n".join(lines)
