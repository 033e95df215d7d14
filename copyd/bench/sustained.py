"""The whole path for as long as it runs: leader events in, orders out, every reply and every user event booked.

The daemon's own path on real sockets, as in ``fanout``, and behind it the way back: replies on the order connections, and
on the user streams of all followers what the venue tells of each order (placed, thin trade, trade, account). The other end
is a venue in its own process that fills every order (``copyd.bench.filling``). A few leader events are on their way at
once, each in an instrument of its own, so that neither side waits for the other. What is measured is the work of the
daemon's process: orders per second of processor time, of its loop and of all its threads, and of the clock.

At the end nothing may be unanswered, every order filled and every execution booked with its fee, and the positions and
wallets must be those of the venue's own books.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from copyd._fast.columns import ReportBatch, keep_memory
from copyd._fast.encode import Encoder
from copyd._fast.replies import tell_apart
from copyd.bench import filling, world
from copyd.bench.conditions import conditions, file_system, percentiles
from copyd.bench.fanout import MAP_BYTES, Child, MemoryJournal
from copyd.core import engine as core
from copyd.core.engine import ACCOUNT_INSTRUMENTS, ACCOUNTS, Engine, InstrumentSpec, Outputs
from copyd.core.rows import AccountInstrumentRow, AccountRow, InstrumentRow
from copyd.errors import UsageError
from copyd.journal import Journal
from copyd.kinds import KEPT_BYTES, kind_of
from copyd.runtime.clock import SystemClock
from copyd.runtime.pump import Pump, Sent
from copyd.venues.binance_usdm.accounts import FollowerStreams
from copyd.venues.binance_usdm.contract import CONTRACT, Endpoints
from copyd.venues.binance_usdm.gateway import OrderGateway
from copyd.venues.binance_usdm.instruments import load_instruments
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.limits import VenueClock
from copyd.venues.common.signing import Key

NO_LIMITS = {"total_loss_bps": 0, "daily_loss_bps": 0, "leader_drawdown_bps": 0}
SITE_TAG = f"{world.SITE:04x}"
RETIRE_ORDERS = 50_000
PULSE_S = 0.001
SETTLE_S = 60.0
EXCLUDED = (
    "network and venue: loopback, no TLS, a venue that fills at once",
    "the leader feed (a few us per leader event)", "REST polls and metrics of a running daemon",
    "checkpoints (measured by: copyd bench restart)", "the venue's limit on orders per account (lifted)",
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured. ``instruments``: leader events on their way at once; ``streams``: user stream connections."""

    followers: int = 10_000
    connections: int = 4
    streams: int = 4
    instruments: int = 3
    events: int = 60
    warmup: int = 6
    durability: str = "strict"
    journal: Path | None = None
    seed: int = 1


def instruments(count: int) -> Instruments:
    """``count`` perpetuals like the one of ``world``."""
    [one] = json.loads(world.EXCHANGE_INFO)["symbols"]
    symbols = [f"C{index:02d}USDT" for index in range(count)]
    listed = {"symbols": [one | {"symbol": name} for name in symbols]}
    return load_instruments(json.dumps(listed).encode(), list(enumerate(symbols)))


def opening_inputs(settings: Settings, listed: Instruments) -> Iterator[Any]:
    """The inputs of ``world`` with more than one instrument, and plans without loss limits: they trade for hours here."""
    specs = []
    for item in listed:
        row = InstrumentRow(
            value_mul=item.value_mul, value_div=item.value_div, lot_min=item.lot_min, lot_max=item.lot_max,
            lot_max_market=item.market_lot_max, min_notional_e8=item.min_notional_e8, slippage_bps=50)
        specs.append(InstrumentSpec(item.symbol, row.pack(), item.price_decimals, item.qty_decimals, item.tick, item.lot))
    params = world.params()
    params.runaway_per_plan = 0
    for value in world.opening_inputs(settings.followers, settings.seed):
        if isinstance(value, core.Configured):
            yield core.Configured(1, params.pack(), specs, value.leaders)
        elif isinstance(value, core.Command):
            yield core.Command(value.name, {"plans": [spec | NO_LIMITS for spec in value.args["plans"]]})
        elif isinstance(value, core.LegsReady):
            yield core.LegsReady([
                (account, item.index, True, False, False, 10) for account in range(settings.followers) for item in listed])
        elif isinstance(value, core.LeaderSync):
            yield core.LeaderSync(0, True, [(item.index, 0, 0, 5) for item in listed])
        else:
            yield value


class Desk:
    """Stands for the REST client: listen keys, and no bans."""

    def __init__(self) -> None:
        self.bans = self
        self.count = 0

    async def passed(self) -> None:
        """No ban stands."""

    async def call(self, method: str, path: str, params: Any = None, key: Key | None = None, **how: Any) -> bytes:
        """A listen key that names its account, as long as the venue's."""
        assert key is not None
        return b'{"listenKey":"%056d%08d"}' % (0, int(key.api_key[5:]))


class Path_:
    """The data path of the daemon with its way back, wired as ``copyd.app`` and ``copyd.venue_side`` wire it."""

    def __init__(self, settings: Settings, journal: Any, port: int) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self.listed = instruments(settings.instruments)
        self.engine = Engine(settings.instruments)
        self.journal = journal
        self.venue_clock = VenueClock(CONTRACT, self.clock.now_ns)
        contract = CONTRACT.overridden({
            "streams_per_connection_max": -(-settings.followers // settings.streams), "stream_messages_per_s_max": 1_000,
            "order_ack_timeout_ms": 60_000})
        self.gaps: list[Any] = []
        self.gateway = OrderGateway(
            url=f"ws://127.0.0.1:{port}/ws-fapi/v1", connections=settings.connections, instruments=self.listed,
            contract=contract, clock=self.clock.now_ns, venue_clock=self.venue_clock, on_reports=self._reports,
        )
        rest: Any = Desk()
        self.streams = FollowerStreams(
            rest=rest, endpoints=Endpoints.at("", f"ws://127.0.0.1:{port}"), instruments=self.listed, contract=contract,
            clock=self.clock.now_ns, site_tag=SITE_TAG, on_reports=self._reports, on_event=self.gaps.append,
            positions=False,
        )
        self.gateway.bind(self.engine.columns)
        self.streams.bind(self.engine.columns)
        self.encoder = Encoder(CONTRACT.recv_window_ms, self.clock.now_ns() & 0xFFFFFFFF)
        self.listed.teach_encoder(self.encoder)
        self.keys = [world.key(settings.seed, account) for account in range(settings.followers)]
        for account, key in enumerate(self.keys):
            self.gateway.register(self.encoder, account, key, self.gateway.pin_of(account))
        self.pump = Pump(self.engine, journal, self, self.clock, kind_of, self._outputs, self._sent)
        self.schedule = world.schedule(4 * (settings.warmup + settings.events), settings.seed)
        self.offered = self.sent = self.fills = self.batches = self.retired_at = 0
        self.problems: list[str] = []
        self.wake = asyncio.Event()

    # -- in -----------------------------------------------------------------------------------------------------------

    def offer_leader(self) -> None:
        """The leader trades in the next instrument; each instrument runs through its own schedule."""
        now = self.clock.now_ns()
        instrument, turn = self.offered % self.settings.instruments, self.offered // self.settings.instruments
        trade = self.schedule[turn]
        exec_id = 1_000 + self.offered
        self.offered += 1
        self.pump.quote(instrument, trade.px - 1, trade.px + 1, trade.px, now)
        self.pump.offer(core.LeaderFill(
            0, instrument, 0, exec_id, 10**9 + exec_id, trade.side, trade.qty, trade.px, trade.qty, True, False, "", now, now,
            b""))

    def _reports(self, batch: ReportBatch, ts_recv: int) -> None:
        self.batches += 1
        fills, doubted, _, alive = tell_apart(batch, self.gateway.queries_open > 0)
        self.fills += fills
        if doubted or alive:
            self.problems.append(f"{len(doubted)} orders in doubt and {len(alive)} alive, where all are filled at once")
        self.pump.offer(core.Reports(batch.to_bytes()))
        self.wake.set()

    # -- out (pump.Gateway) -------------------------------------------------------------------------------------------

    chunk_max = 1_024

    def arrange(self, slots: array, turn: int) -> array:
        """Encoder."""
        return array("I", self.encoder.arrange(self.engine.columns, slots, turn))

    def render(self, slots: Any) -> Any:
        """Encoder."""
        return self.encoder.encode(self.engine.columns, slots, self.venue_clock.timestamp_ms())

    def send(self, rendered: Any) -> None:
        """Gateway."""
        self.gateway.send(rendered)

    def _outputs(self, outputs: Outputs) -> None:
        if outputs.decisions or outputs.ends:
            self.engine.kernel.tally()

    def _sent(self, times: Sent) -> None:
        self.sent += times.orders
        self.engine.make_room()

    def durable(self, seq: int) -> None:
        """The gate."""
        self.pump.durable(seq)

    def failed(self, error: BaseException) -> None:
        """Nothing is acknowledged any more."""
        self.problems.append(f"journal: {error}")
        self.pump.stop()
        self.wake.set()

    # -- the run -------------------------------------------------------------------------------------------------------

    @property
    def settled(self) -> int:
        """Orders of which both the reply and the trade were booked, at least."""
        return min(self.gateway.stats.replies, self.streams.stats.trades)

    async def drive(self, events: int) -> None:
        """Offer so many leader events, one in each instrument at a time; returns when all that they caused is booked."""
        last = self.offered + events
        deadline = time.monotonic() + SETTLE_S
        while self.offered < last or self.settled < self.sent or self.pump.gate:
            self.wake.clear()
            room = (self.settings.instruments - 1) * self.settings.followers // 2
            if self.offered < last and not self.pump.gate and self.sent - self.settled <= room:
                if self.sent - self.retired_at >= RETIRE_ORDERS:
                    # What has ended before the last few events is forgotten, as the daemon does with each checkpoint.
                    self.retired_at = self.sent
                    self.pump.offer(core.Command("retire", {"before_seq": self.engine.names.seq - 1}))
                self.offer_leader()
                deadline = time.monotonic() + SETTLE_S
                await asyncio.sleep(0)
                continue
            if self.problems or time.monotonic() > deadline:
                self.problems.append("orders were not answered in time")
                return
            try:
                await asyncio.wait_for(self.wake.wait(), 0.5)
            except TimeoutError:
                continue


class Pulse:
    """How late the loop comes to a timer that is due every millisecond, and how much its thread has worked since the last.

    Where other processes want the same processor the first is theirs as well, the second is the daemon's own.
    """

    def __init__(self) -> None:
        self.late_ns: list[int] = []
        self.work_ns: list[int] = []
        self._due = self._worked = 0
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._due, self._worked = time.monotonic_ns() + int(PULSE_S * 1e9), time.thread_time_ns()
        self._handle = self._loop.call_later(PULSE_S, self._beat)

    def _beat(self) -> None:
        self.late_ns.append(max(0, time.monotonic_ns() - self._due))
        self.work_ns.append(time.thread_time_ns() - self._worked)
        self.start()

    def stop(self) -> None:
        """End."""
        if self._handle is not None:
            self._handle.cancel()


def _memory() -> int:
    """Bytes of the process that are not pages of a file: the journal's map is the page cache's."""
    _, resident, shared, *_ = (int(pages) for pages in Path("/proc/self/statm").read_text().split())
    return (resident - shared) * resource.getpagesize()


async def measure(settings: Settings, directory: Path) -> dict[str, Any]:
    """One run; the report as it is written to JSON."""
    loop = asyncio.get_running_loop()
    child, port = await Child.start(settings.seed, 0, filling.__name__)
    journal: Any = MemoryJournal()
    if settings.durability != "none":
        durability: Any = settings.durability
        journal = Journal.open(directory / "journal", site=world.SITE, map_size=MAP_BYTES, durability=durability)
    path = Path_(settings, journal, port)
    pulse = Pulse()
    try:
        if isinstance(journal, Journal):
            journal.attach(loop, on_durable=path.durable, on_failed=path.failed)
        for value in opening_inputs(settings, path.listed):
            path.pump.offer(value)
        if isinstance(journal, Journal):
            await journal.committed(journal.last_seq)
        await path.gateway.start()
        await path.streams.start()
        refused: list[str] = []
        await path.streams.add_many(
            list(enumerate(path.keys)), on_done=lambda account, problem: refused.append(problem) if problem else None)
        path.problems += refused[:3]
        gc.collect()
        gc.freeze()
        await path.drive(settings.warmup)
        load = os.getloadavg()[0]
        before, batches, seq = path.settled, path.batches, path.engine.names.seq
        memory = _memory()
        pulse.start()
        wall, cpu, thread = time.perf_counter_ns(), time.process_time_ns(), time.thread_time_ns()
        await path.drive(settings.events)
        wall, cpu, thread = time.perf_counter_ns() - wall, time.process_time_ns() - cpu, time.thread_time_ns() - thread
        pulse.stop()
        grown = _memory() - memory
        orders, batches, records = path.settled - before, path.batches - batches, path.engine.names.seq - seq
        answer = await child.ask({"report": True})
    finally:
        gc.unfreeze()
        pulse.stop()
        await path.streams.stop()
        await path.gateway.stop(0.0)
        await child.stop()
        if isinstance(journal, Journal):
            journal.close()
    problems = _check(path, answer)
    return {
        "bench": "sustained", "followers": settings.followers, "connections": settings.connections, "streams": settings.streams,
        "instruments": settings.instruments, "events": settings.events, "durability": settings.durability,
        "orders": orders, "batches": batches, "records": records, "rows_per_batch": round(2 * orders / max(1, batches)),
        "orders_per_s": round(orders * 1e9 / wall), "orders_per_loop_s": round(orders * 1e9 / thread),
        "orders_per_core_s": round(orders * 1e9 / cpu), "us_per_order": round(thread / orders / 1e3, 2),
        "busy": round(thread / wall, 3), "seconds": round(wall / 1e9, 2), "grown_mib": round(grown / 2**20, 1),
        "late_us": percentiles(pulse.late_ns, (50, 99, 99.9)), "work_us": percentiles(pulse.work_ns, (50, 99, 99.9)),
        "checked": not problems, "problems": problems,
        "conditions": conditions(
            EXCLUDED, load_before=round(load, 2),
            journal_file_system=file_system(directory) if settings.durability != "none" else None),
    }


def _check(path: Path_, answer: dict[str, Any]) -> list[str]:
    """What is not as it must be, in sentences."""
    problems = list(path.problems)
    stats, told = path.gateway.stats, path.streams.stats
    if not answer["orders"] == path.sent == stats.replies == told.trades:
        problems.append(
            f"{path.sent} orders sent, {answer['orders']} received, {stats.replies} replies and {told.trades} trades booked")
    odd = {name: getattr(stats, name) for name in ("rejects", "in_doubt", "malformed", "unmatched", "mismatches", "late_replies")}
    odd |= {f"stream {name}": getattr(told, name) for name in ("malformed", "external", "unknown_accounts", "gaps", "unlisted")}
    problems += [f"{count} {name}" for name, count in odd.items() if count and name != "stream unlisted"]
    if path.gaps:
        problems.append(f"{len(path.gaps)} events that are not ours: {path.gaps[0]}")
    unfinished, _, _, excess, _ = path.engine.kernel.census()
    if unfinished or excess or path.gateway.in_flight:
        problems.append(f"{unfinished} orders unfinished, {excess} legs in excess, {path.gateway.in_flight} not answered")
    columns, symbols = path.engine.columns, [item.symbol for item in path.listed]
    held = sorted(
        (account, symbols[index], AccountInstrumentRow.unpack(columns.get(
            ACCOUNT_INSTRUMENTS, account * columns.instruments_max + index)).net)
        for account in range(path.settings.followers) for index in range(len(symbols)))
    if [list(row) for row in held if row[2]] != [row for row in answer["held"] if row[2]]:
        problems.append("positions are not those of the venue's books")
    wallets = [[account, AccountRow.unpack(columns.get(ACCOUNTS, account)).balance_e8] for account, _ in answer["wallets"]]
    if wallets != answer["wallets"]:
        problems.append("wallets are not those of the venue's books")
    return problems


def run(settings: Settings) -> dict[str, Any]:
    """Measure on uvloop with the daemon's interpreter settings, in a journal made for it and removed afterwards."""
    if settings.journal is not None and not settings.journal.is_dir():
        raise UsageError(f"{settings.journal} is no directory")
    if min(settings.followers, settings.connections, settings.streams, settings.instruments, settings.events) < 1:
        raise UsageError("followers, connections, streams, instruments and events are positive")
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

    def spread(figures: dict[str, float]) -> str:
        return f"{figures['p50']:>12,.0f} / {figures['p99']:,.0f} / {figures['p999']:,.0f} / {figures['max']:,.0f}"

    rows = [
        f"sustained: {report['followers']} followers, {report['connections']} order and {report['streams']} stream connections, "
        f"{report['events']} leader events in {report['instruments']} instruments, journal {report['durability']}",
        "",
        f"{'orders, each with reply, trade and account event':<52}{report['orders']:>12,}",
        f"{'orders per second of the loop thread':<52}{report['orders_per_loop_s']:>12,}",
        f"{'orders per second of processor time, all threads':<52}{report['orders_per_core_s']:>12,}",
        f"{'orders per second of the clock':<52}{report['orders_per_s']:>12,}   (loop busy {report['busy']:.0%})",
        f"{'us of the loop thread per order':<52}{report['us_per_order']:>12}",
        f"{'report rows in one record':<52}{report['rows_per_batch']:>12,}",
        f"{'memory grown over the run, MiB':<52}{report['grown_mib']:>12}",
        f"{'loop late by, us: p50 / p99 / p99.9 / max':<52}{spread(report['late_us'])}",
        f"{'  of which its own work':<52}{spread(report['work_us'])}",
        "", "checked" if report["checked"] else "NOT checked: " + "; ".join(report["problems"]),
        "", "conditions: " + ", ".join(f"{k} {v}" for k, v in facts.items() if k != "excluded" and v is not None),
        "excluded: " + facts["excluded"][0], *[f"          {text}" for text in facts["excluded"][1:]],
    ]
    return "\n".join(rows)
