"""The composition root: builds every part from the configuration and wires them. The only module that sees both sides.

    venues ──events──▶ Pump ──inputs──▶ Engine            control (Unix socket) ──commands──▶ Pump
      ▲                 │                                  health, metrics ◀── counters
      └──── orders ◀── gate ◀── Journal (durable)
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import partial
from math import gcd
from pathlib import Path
from typing import Any

import msgspec

from copyd import __version__
from copyd._fast.columns import keep_memory
from copyd.adapters import contract_of
from copyd.config import Config, LeaderDeclared, VenueConfig, config_hash, config_version, restart_needed
from copyd.control.protocol import Actor, ImportProgress, Scope
from copyd.core.engine import (
    HALTED_BY_KILL_SWITCH,
    HALTED_BY_STATE,
    INSTRUMENTS,
    LEADERS,
    LEGS,
    AccountSnapshots,
    Alert,
    Command,
    Configured,
    Declared,
    InstrumentSpec,
    LeaderFill,
    LegsReady,
    Marks,
    Outputs,
    Started,
    Timer,
)
from copyd.core.reconcile import EDGES_BPS
from copyd.core.rows import (
    TERMINAL_MASK,
    AccountInstrumentRow,
    AccountRow,
    InstrumentRow,
    LeaderRow,
    LegRow,
    NamedOrder,
    Note,
    OrderEndRow,
    Params,
    Part,
    PlanRow,
    PlanState,
    Reason,
    StopRow,
)
from copyd.credentials import Credentials, missing_names
from copyd.errors import BrokenInvariant, CopydError, Fenced, JournalError, OperatorError, RequestRefused
from copyd.followers import PlanSpec
from copyd.inspect.rebuild import fold
from copyd.journal import Journal
from copyd.kinds import BUILD, KEPT_BYTES, kind_of, pack_checkpoint, same_rules
from copyd.money import losses
from copyd.reconciler import Reconciler
from copyd.runtime.clock import SystemClock
from copyd.runtime.notify import Notifier
from copyd.runtime.pump import Pump, Sent
from copyd.sides import VenueSides
from copyd.symbols import base_of, mirrors
from copyd.telemetry.logs import get_logger, setup_logs
from copyd.telemetry.metrics import Metrics
from copyd.vault.duty import KeyDuty, close_only
from copyd.vault.store import load_all

SAMPLES_MAX = 20_000
#: Order rows between two checkpoints, at most: finished ones are forgotten then, and every walk over them stays short.
ORDERS_PER_CHECKPOINT = 100_000
LIQUIDATION_CHECK_S = 5.0
LIQUIDATIONS_SAID = 20
END_SIZE, END_NOTE, NOTE_HELD = OrderEndRow.LAYOUT.size, 33, int(Note.HELD)
JOURNAL_CHECK_S = 1.0
EXPLAIN_TIMEOUT_S = 30.0
START_TIMEOUT_S = 300
ACTIVATION_FLUSH_S = 0.1
WALL_STEP_MAX_NS = 1_000_000_000
PLAN_STATES = ("active", "paused", "close_only", "stopped")


def instrument_specs(config: Config, side: VenueSides) -> list[InstrumentSpec]:
    """The instruments of the configuration as the engine takes them."""
    specs = []
    for item in side.instruments:
        row = InstrumentRow(
            value_mul=item.value_mul, value_div=item.value_div, lot_min=item.lot_min, lot_max=item.lot_max,
            lot_max_market=item.market_lot_max, min_notional_e8=item.min_notional_e8,
            slippage_bps=config.slippage_of(item.symbol).slippage_bps,
        )
        venue = config.instruments[item.index].venue
        base_mul, base_div = base_of(config, venue, item)
        common = gcd(base_mul, base_div)
        specs.append(InstrumentSpec(
            item.symbol, row.pack(), item.price_decimals, item.qty_decimals, item.tick, item.lot, venue,
            base_mul // common, base_div // common, item.spot))
    return specs


def declared_profiles(config: Config) -> dict[str, Declared]:
    """By leader what he declared and must have traded, as the engine takes it; of whom nothing is asked is not in it."""
    index = {instrument.symbol: at for at, instrument in enumerate(config.instruments)}
    return {
        leader.id: Declared(
            sum(1 << index[symbol] for symbol in leader.declared.instruments) or Declared().instruments,
            leader.declared.max_leverage, leader.declared.max_position_e8, leader.min_volume_e8,
        )
        for leader in config.leaders if leader.declared != LeaderDeclared() or leader.min_volume_e8
    }


def orders_per_window(venue: VenueConfig) -> int:
    """Openings of one account in any 10 s: a sixth of the minute's limit binds in any such window, reductions have a reserve.

    (16 bits in the tables: a larger limit is no limit there.)
    """
    reserve = venue.orders_per_10s * venue.reduction_reserve_bps // 10_000
    return max(1, min(venue.orders_per_10s - reserve, venue.orders_per_min // 6 - reserve, 0xFFFF))


def engine_params(config: Config) -> Params:
    """What decisions read of the configuration."""
    return Params(
        max_event_age=config.copy.max_event_age_ms * 1_000_000,
        replan_max_age=config.copy.replan_max_age_s * 1_000_000_000,
        quote_max_age=config.copy.quote_max_age_ms * 1_000_000,
        read_lag=max(contract_of(venue).read_lag_ms for venue in config.venues) * 1_000_000,
        mark_max_age=config.copy.mark_max_age_ms * 1_000_000,
        day_reset_min=config.copy.daily_reset_min,
        runaway_per_plan=config.copy.runaway_orders_per_min,
        equity_max_age=min(leader.equity_max_age_ms for leader in config.leaders) * 1_000_000,
        orders_per_window=min(orders_per_window(venue) for venue in config.venues),
    )


LOSS_REASONS = [reason.name.lower() for reason in (Reason.LEADER_DRAWDOWN, Reason.TOTAL_LOSS, Reason.DAILY_LOSS)]


class Daemon:
    """The running daemon: what control and health ask, and the life of everything else."""

    def __init__(self, config: Config, config_path: Path, credentials: Credentials) -> None:
        self._config = config
        self.config_path = config_path
        self.credentials = credentials
        self.clock = SystemClock()
        self.metrics = Metrics()
        self.notifier = Notifier.from_environment()
        self.log = get_logger("app")
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.reasons: dict[str, str] = {"starting": "starting"}
        self.draining = False
        self.samples: list[tuple[int, int, int, int]] = []
        self.forgone: Counter[str] = Counter()
        self.counts = Counter[str]()
        self.activation_done = 0
        self.activation_total = 0
        self.records_since_checkpoint = 0
        self.orders_since_checkpoint = 0
        self._retire_before = self._last_checkpoint = 0
        self._liquidation_at = 0.0
        self._near_liquidation: set[int] = set()  # legs it was said of
        self.failing = False
        self.unsound = False
        self._wall_step = 0
        self.last_turn = time.monotonic()
        self._ready_legs: list[tuple[int, int, bool, bool, bool, int]] = []
        self._snapshots: list[tuple[int, int, list[tuple[int, int, int]]]] = []
        self._snapshots_asked: list[tuple[int, int]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wanted: dict[tuple[int, int], int] = {}
        self._rereading, self._renewing = asyncio.Lock(), asyncio.Lock()
        self._bind_metrics()

    # -- life ---------------------------------------------------------------------------------------------------------

    def open_journal(self) -> None:
        """Before anything else: whoever does not hold the journal does nothing at all."""
        config = self._config
        self.journal = Journal.open(
            config.journal.path, site=config.site.id, map_size=config.journal.map_size_mib << 20,
            durability=config.journal.durability,
        )

    async def start(self) -> None:
        """The journal is open: rebuild, then the venue, then the leaders, then the operators' door; ready at the end."""
        began = time.monotonic()
        phases: dict[str, int] = {}

        def phase(name: str) -> None:
            """Milliseconds since the start of the process's work at which a phase had ended."""
            phases[f"{name}_ms"] = round((time.monotonic() - began) * 1000)

        config = self._config
        if not hasattr(self, "journal"):
            self.open_journal()
        self.journal.attach(
            asyncio.get_running_loop(), on_durable=self._durable, on_failed=self._journal_failed)
        self.notifier.extend_timeout(START_TIMEOUT_S)
        # The latest checkpoint, then every record after it; a record that decides otherwise now stops the start.
        self.engine = fold(self.journal.reader)
        self._take_up_checkpoints()
        phase("rebuilt")
        self.side = VenueSides(config, self.credentials, self.clock, self)
        self.pump = Pump(
            self.engine, self.journal, self.side, self.clock, kind_of, self._outputs, self._sent,
            announce_legs=config.runtime.announce_legs)
        await self.side.open()
        phase("venue_open")
        self.side.bind(self.engine)
        self.reconciler = Reconciler(
            config.sync, self, self.side, self.clock, read_lag_ns=self.side.read_lag_ns,
            looks_per_s=self.side.looks_per_s(config.sync.weight_share_bps),
            spawn=lambda work: self._spawn(work, "look"),
        )
        self._take_up()
        started = self._offer(Started(self.journal.epoch, config.site.id, self.journal.site_key, BUILD))
        self._configure(config)
        for account in range(len(self.engine.names.accounts)):
            self.side.register(account, self.engine.names.accounts[account])
        phase("registered")
        await self.side.start_orders()
        await self.side.start_market()
        phase("connected")
        self._check_world()
        for slot in started.queries if started else []:
            self.side.query(slot, self.clock.now_ns())
        await self.side.start_leaders()
        phase("leaders")
        self._activate(range(len(self.engine.names.accounts)), known=True)
        self._spawn(self._timer(), "timer")
        self._spawn(self._watch(), "watch")
        self._spawn(self.reconciler.run(), "reconcile")
        self._spawn(KeyDuty(self, config, self.clock.now_ns).run(), "keys")
        self.last_turn = time.monotonic()
        self.reasons.pop("starting")
        if self.journal.put_back:
            self._amnesia()
        self.log.info(
            "started", epoch=self.journal.epoch, seq=self.engine.names.seq, plans=len(self.engine.names.followers),
            in_doubt=len(started.queries) if started else 0, config=config_hash(config)[:12],
            **phases, started_ms=round((time.monotonic() - began) * 1000),
        )

    def _take_up(self) -> None:
        """The process before was ended between the announcement of a leader's execution and the record of what it decided."""
        if self.engine.announced is None:
            return
        try:
            if not same_rules(self.engine.names.build):
                raise JournalError(
                    f"{self.journal.path}: ends with an execution that {self.engine.names.build} was deciding, and this is "
                    f"{BUILD}: start that build on it once and stop it")
            taken = self.pump.take_up()
        except BaseException:
            self.unsound = True  # what may be half decided is kept by no checkpoint: the next start begins at the announcement
            self.pump.stop()
            raise
        if taken is not None:
            self.log.warning("taken up", execution=taken.input.exec_id, orders=len(taken.named) // NamedOrder.LAYOUT.size)

    def _amnesia(self) -> None:
        """An older journal was put back: what it lacks is at the venue only. Nothing is opened before an operator resumes."""
        self._offer(Command("set_state", {"scope": "all", "name": "", "state": "paused"}, "an older journal was put back"))
        self.alert(Alert("journal_put_back", "an older journal was put back: openings are paused until `copyd ctl resume --all`"))
        for account in range(len(self.engine.names.accounts)):
            self.reconciler.touch(account)

    async def stop(self, drain_s: float) -> None:
        """Leaders first, so that nothing new begins; then what is in flight; then the state to disk."""
        if hasattr(self, "side"):
            await self.side.stop_leaders()
            await self._settled(drain_s)
            await self.side.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "pump") and not self.pump.stopped and self.engine.names.seq:
            self._checkpoint()
        if hasattr(self, "journal"):
            self.journal.close()

    async def _settled(self, timeout_s: float) -> None:
        """Until no order is in flight, or the time is over."""
        until = time.monotonic() + timeout_s
        while not self.pump.stopped and self._census(0) and time.monotonic() < until:  # noqa: ASYNC110 - many ways end it
            await asyncio.sleep(0.02)

    def fail(self, error: BaseException) -> None:
        """The world or a broken invariant ended us: nothing is sent any more, the process exits, restart is replay."""
        code = error.exit_code if isinstance(error, CopydError) else 70
        if self.failing:
            return
        self.failing = True
        policy = self._config.runtime.on_fatal
        self.log.error("stopping", error=f"{type(error).__name__}: {error}", exit_code=code, on_fatal=policy)
        if policy == "flatten" and self._may_flatten(error):
            self._spawn(self._flatten(code), "flatten")
            return
        self._end(code)

    def _end(self, code: int) -> None:
        if hasattr(self, "pump"):
            self.pump.stop()
        if not self.exit.done():
            self.exit.set_result(code)

    def _may_flatten(self, error: BaseException) -> bool:
        """Whether closing can be trusted: the rules and the journal are sound, and the accounts are ours alone."""
        sound = not isinstance(error, Fenced | JournalError) and not self.unsound
        return sound and hasattr(self, "pump") and not self.pump.stopped and "starting" not in self.reasons

    async def _flatten(self, code: int) -> None:
        """The operator's wish: every plan is closed, reduce-only, before the exit; bounded like a drain."""
        try:
            self.reasons["flattening"] = "flattening before the exit"
            if self._offer(Command("flatten", {"exit_code": code}, "on_fatal")) is not None:
                until = time.monotonic() + self._config.runtime.drain_timeout_s
                while not self.pump.stopped and time.monotonic() < until:
                    unfinished, _, _, excess, _ = self.engine.kernel.census()
                    if not unfinished and not excess:
                        break
                    await asyncio.sleep(0.02)
            self.log.warning("flattened", unfinished=self._census(0), excess=self._census(3))
        finally:
            self._end(code)

    def loop_problem(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's handler: what nobody caught is said; where it leaves something standing still, it ends the process."""
        error = context.get("exception")
        self.log.error("not caught", where=str(context.get("message", "")), error=repr(error), exc_info=error)
        if context.get("fatal"):
            self.fail(BrokenInvariant(f"{context.get('message')}: {error!r}"))

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            assert error is not None
            self.log.error("task failed", task=task.get_name(), error=repr(error))
            self.fail(error)

    # -- the way in and out --------------------------------------------------------------------------------------------

    def _offer(self, value: Any) -> Outputs | None:
        """An input to the pump; our own broken rules stop the process, an operator's error goes to the operator."""
        try:
            return self.pump.offer(value)
        except OperatorError:
            raise
        except Exception as error:
            self.unsound = True
            self.pump.stop()
            self.fail(error if isinstance(error, CopydError) else BrokenInvariant(repr(error)))
            if not isinstance(error, CopydError):
                self.log.exception("input failed", input=type(value).__name__)
            return None

    def offer(self, value: Any) -> None:
        """An input from the venue side."""
        self._offer(value)

    def quote(self, instrument: int, bid: int, ask: int, mark: int, ts: int) -> None:
        """The market as the venue side last heard it."""
        self.pump.quote(instrument, bid, ask, mark, ts)

    def marks(self, marks: list[tuple[int, int, int]]) -> None:
        """Mark prices: an input only where a loss limit is reached by them, or a day begins."""
        if not self.pump.stopped and self.engine.marks_due(self.clock.now_ns(), marks):
            self._offer(Marks(marks))
        if self._config.copy.liquidation_warn_bps and time.monotonic() - self._liquidation_at >= LIQUIDATION_CHECK_S:
            self._liquidation_at = time.monotonic()
            self._warn_liquidation(marks)

    def _warn_liquidation(self, marks: list[tuple[int, int, int]]) -> None:
        """Say it of each leg once, as it comes near; of many at once, of the nearest."""
        terms = self._config.copy
        found = dict(self.engine.kernel.near_liquidation(marks, terms.maintenance_margin_bps, terms.liquidation_warn_bps))
        new = sorted((left, leg) for leg, left in found.items() if leg not in self._near_liquidation)
        self._near_liquidation = set(found)
        for left, leg in new[:LIQUIDATIONS_SAID]:
            row = LegRow.unpack(self.engine.columns.get(LEGS, leg))
            self.alert(Alert("near_liquidation", f"{left / 100:.2f} % from it; {len(found)} legs are as near", {
                "follower": self.engine.names.followers[row.plan], "symbol": self.engine.symbol(row.instrument),
                "left_bps": left}))

    def _durable(self, seq: int) -> None:
        try:
            self.pump.durable(seq)
        except Exception as error:
            self.log.exception("send failed")
            self.unsound = True
            self.pump.stop()
            self.fail(error if isinstance(error, CopydError) else BrokenInvariant(repr(error)))

    def _journal_failed(self, error: BaseException) -> None:
        self.unsound = True
        self.pump.stop()
        self.fail(error)

    def _outputs(self, out: Outputs) -> None:
        """Every journaled step: counters, alerts, questions to the venue, checkpoints."""
        self._tell_signer(out.input)
        if out.decisions or out.ends:
            self._tally(len(out.decisions) // 64)
        if isinstance(out.input, LeaderFill):
            self.counts["leader_events"] += 1
            self.metrics.inc(self.metrics.leader_events)
            self.metrics.ingest_lag.record_ns(max(0, out.input.ts_recv - out.input.ts_event))
        for row in StopRow.unpack_all(out.stops):
            self.loss_stops.inc(Reason(row.reason).name.lower(), 1)
        for alert in out.alerts:
            self.alert(alert)
        if out.fenced:
            self.pump.stop()
            self.fail(Fenced("a later daemon of this site trades the same accounts: stop one of the two"))
            return
        for account in out.recheck:
            self.reconciler.touch(account)
        for cid in out.settled:
            self.side.ended(cid)
        if isinstance(out.input, AccountSnapshots) and any(alert.fields.get("adopted") for alert in out.alerts):
            for account, *_ in out.input.accounts:
                self.side.ask_held(account)
        if NOTE_HELD in out.ends[END_NOTE::END_SIZE]:
            self._say_held(out)
        for leader in out.request_sync:
            self.side.request_sync(leader, "the fold and the venue disagree")
        if out.suspects:
            self.side.ask_positions(out.suspects, out.seq)
        self.records_since_checkpoint += 1
        self.orders_since_checkpoint += len(out.named) // NamedOrder.LAYOUT.size
        due = self.records_since_checkpoint >= self._config.journal.checkpoint_every_records
        if due or self.orders_since_checkpoint >= ORDERS_PER_CHECKPOINT:
            self.records_since_checkpoint = self.orders_since_checkpoint = 0
            asyncio.get_running_loop().call_soon(self._retire_and_checkpoint)

    def _tell_signer(self, value: Any) -> None:
        """What may be signed follows the plans and the configuration, in the step that changes them."""
        if isinstance(value, Configured):
            self.side.configured()
        elif isinstance(value, Command) and value.name in ("import_plans", "change_plan"):
            specs = value.args["plans"] if value.name == "import_plans" else [value.args["spec"]]
            self.side.plans_changed({self.engine.by_account[spec["account"]] for spec in specs})

    def _say_held(self, out: Outputs) -> None:
        for end in OrderEndRow.unpack_all(out.ends):
            if end.note == Note.HELD:
                text = "the venue's sources disagree about it; its leg opens nothing until that is settled"
                self.alert(Alert("order_held", text, {
                    "client_order_id": end.cid.hex(), "leg": end.leg}))
                # What it did may show in the position alone: the looks that settle it begin now.
                self.reconciler.touch(LegRow.unpack(self.engine.columns.get(LEGS, end.leg)).account)

    def _tally(self, decisions: int) -> None:
        """Count what became of the parts of the decisions just made."""
        parts, refused, unfilled = self.engine.kernel.tally()
        self.counts["decisions"] += decisions
        for part in Part:
            if part and parts[part]:
                self.counts["instructions"] += parts[part]
                self.metrics.instructions.inc(part.name.lower(), parts[part])
        for tally in (refused, unfilled):
            for reason, n in tally.items():
                name = Reason(reason).name.lower()
                self.forgone[name] += n
                self.skipped.inc(name, n)

    def _take_up_checkpoints(self) -> None:
        """Go on counting where the last life stopped: one that never lives long must not leave ever more to replay."""
        known = self.journal.reader.checkpoints()
        self._last_checkpoint = known[-1] if known else 0
        self._retire_before = known[-2] if len(known) > 1 else 0
        self.records_since_checkpoint = self.engine.names.seq - self._last_checkpoint

    def _retire_and_checkpoint(self) -> None:
        if self.pump.stopped:
            return  # a step that failed may have left the state half changed: nothing may start from it
        # What had ended before the checkpoint before last; younger rows may still be asked about or told late.
        self._offer(Command("retire", {"before_seq": self._retire_before}))
        self._retire_before = self._last_checkpoint
        self._last_checkpoint = self.engine.names.seq
        self._checkpoint()

    def _checkpoint(self) -> None:
        self.journal.checkpoint(self.engine.names.seq, [pack_checkpoint(self.engine)])

    def _sent(self, times: Sent) -> None:
        self.counts["orders_sent"] += times.orders
        self.metrics.inc(self.metrics.orders_sent, times.orders)
        self.metrics.commit.record_ns(max(0, times.durable - times.decided))
        if times.exec_id:
            self.metrics.fanout_first.record_ns(max(0, times.first - times.received))
            self.metrics.fanout_last.record_ns(max(0, times.last - times.received))
            if len(self.samples) < SAMPLES_MAX:
                self.samples.append(
                    (times.exec_id, (times.first - times.received) // 1000, (times.last - times.received) // 1000,
                     times.orders))

    def alert(self, alert: Alert) -> None:
        """A line an operator should read."""
        self.counts["alerts"] += 1
        self.log.warning(alert.name, text=alert.text, **alert.fields)

    async def _timer(self) -> None:
        interval = self._config.runtime.timer_interval_ms / 1000
        while True:
            await asyncio.sleep(interval)
            # Under a ban nothing can leave: what waits is tried when it is over, not every few seconds until then.
            if not self.side.banned_s() and self.engine.timer_due(self.clock.now_ns()):
                self._offer(Timer())

    async def _watch(self) -> None:
        """The loop's own pulse: watchdog, disk room, activation results in batches."""
        beat = self.notifier.beat_interval_ns / 1e9 or JOURNAL_CHECK_S
        room_at = beat_at = 0.0
        while True:
            await asyncio.sleep(ACTIVATION_FLUSH_S)
            lag = time.monotonic() - self.last_turn - ACTIVATION_FLUSH_S
            self.metrics.loop_lag.record_ns(max(0, int(lag * 1e9)))
            self.last_turn = time.monotonic()
            self._flush_activation()
            self.engine.make_room()
            if self.last_turn - beat_at >= min(beat, 1.0):
                beat_at = self.last_turn
                self.notifier.watchdog()
                self.side.ask_untold(self.clock.now_ns())
            if self.last_turn - room_at >= JOURNAL_CHECK_S:
                room_at = self.last_turn
                self._check_world()

    def _check_world(self) -> None:
        """Room for the journal, and a clock the venue would accept; without either, openings are held."""
        # Room comes and goes by a page as old pages are used again: openings resume only with a quarter more than stopped them.
        least = self._config.journal.free_disk_min_mib << 20
        low = self.journal.room().free < (least * 5 // 4 if self.engine.params.journal_low else least)
        self._hold("journal_low", low, "the journal is nearly full: openings are refused, reductions go on")
        step = self.clock.wall_step_ns()
        if abs(step - self._wall_step) > WALL_STEP_MAX_NS:
            by_s = round((step - self._wall_step) / 1e9, 3)
            self.log.warning("the wall clock was set", by_s=by_s, effect="none until the restart")
            self._wall_step = step
        self._check_clocks(self.side.clock_problems())

    def _check_clocks(self, problems: dict[str, str]) -> None:
        """Each venue's clock holds what opens there. A hold over all venues, of a build that had no other, is released."""
        for venue, problem in problems.items():
            on = bool(problem)
            if self.engine.clock_off(venue) != on:
                self._offer(Command("hold", {"why": "clock_off", "on": on, "venue": venue}))
                self.log.warning("clock_off", venue=venue, on=on, text=problem or "openings again")
        if self.engine.params.clock_off:
            self._offer(Command("hold", {"why": "clock_off", "on": False}))
        found = [(venue, problem) for venue, problem in problems.items() if problem]
        self._say("clock_off", "; ".join(f"{venue}: {problem}" if len(problems) > 1 else problem for venue, problem in found))

    def _hold(self, why: str, on: bool, text: str) -> None:
        if bool(getattr(self.engine.params, why)) != on:
            self._offer(Command("hold", {"why": why, "on": on}))
            self.log.warning(why, on=on, text=text if on else "openings again")
        self._say(why, text if on else "")

    def _say(self, why: str, text: str) -> None:
        """Why the daemon is not ready; without a text it is so for this reason no more."""
        if text:
            self.reasons[why] = text
        else:
            self.reasons.pop(why, None)

    # -- configuration ---------------------------------------------------------------------------------------------

    def config(self) -> Config:
        """The configuration in force."""
        return self._config

    def _configure(self, config: Config) -> None:
        self._offer(Configured(
            config_version(config), engine_params(config).pack(), instrument_specs(config, self.side),
            [leader.id for leader in config.leaders], [leader.id for leader in config.leaders if leader.suspended],
            declared_profiles(config),
            self._mirrors(config),
            {leader.id: leader.venue for leader in config.leaders},
        ))

    def _mirrors(self, config: Config) -> list[tuple[int, int]]:
        """Those the journal knows stand for ever: legs follow through them; others are found or listed."""
        known = {(source, mirror) for source, mirror in self.engine.names.mirrors}
        taken = {(source, config.instruments[mirror].venue) for source, mirror in known}
        found = mirrors(config, [item.venue for item in config.instruments], self.side.instruments)
        return sorted(known | {pair for pair in found if (pair[0], config.instruments[pair[1]].venue) not in taken})

    async def reload(self, actor: Actor) -> dict[str, Any]:
        """A valid file takes over, and the keys as they are stored now; a bad one changes nothing (ConfigError with all
        problems)."""
        from copyd.yamlcheck import load_config

        self.notifier.reloading(self.clock.mono_ns())
        try:
            new = load_config(self.config_path)
            needed = restart_needed(self._config, new)
            if needed:
                raise RequestRefused(f"these keys need a restart: {', '.join(needed)}; the old configuration stays")
            keys = await self.reread_keys()
            self._configure(new)
            self._config = new
            self.reconciler.configure(new.sync)
            self.pump.announce_legs = new.runtime.announce_legs
            self.metrics.counters.set(self.metrics.reload_ok, 1)
        except Exception:
            self.metrics.counters.set(self.metrics.reload_ok, 0)
            raise
        finally:
            self.notifier.ready()
        self.log.info("configuration reloaded", actor=str(actor), config=config_hash(new)[:12])
        return {"config": config_hash(new)[:12], "version": config_version(new), **keys}

    async def reread_keys(self) -> dict[str, int]:
        """The keys as they are stored now are in use from here on: how many are other ones, and how many are gone.

        ``ConfigError`` with every problem where they cannot be read; those in use stay.
        """
        async with self._rereading:
            before, after = self.credentials, await asyncio.to_thread(load_all, self._config)
            self.credentials = self.side.credentials = after
            changed: list[tuple[int, str]] = []
            gone: list[tuple[int, str]] = []
            for account, name in enumerate(self.engine.names.accounts):
                old, new = before.get(name), after.get(name)
                if new is None:
                    if old is not None:
                        gone.append((account, name))
                    continue
                if old is None or not old.same_key(new):
                    changed.append((account, name))
                if old is None or not old.same_key(new) or old.cap_e8 != new.cap_e8:
                    self.side.register(account, name)
            for account, name in gone:
                self._key_gone(account, name)
            for _, name in changed:
                self.alert(Alert("key_changed", "another key is used from now on", {"account": name}))
            if changed or gone:
                self._spawn(self._renew(gone, changed), "renew keys")
            self._renew_leaders(before, after)
        return {"keys_changed": len(changed), "keys_gone": len(gone)}

    async def _renew(self, gone: list[tuple[int, str]], changed: list[tuple[int, str]]) -> None:
        async with self._renewing:  # a key that goes and comes back: one after the other
            await self.side.renew([*gone, *changed])
        # Those that were refused with the key before are brought up; of the others nothing is set again.
        self._activate([account for account, _ in changed], known=True)

    def _key_gone(self, account: int, name: str) -> None:
        """Nothing is signed for it any more, exits neither: that is for people to put right, who are told what is open."""
        self.side.register(account, name)
        stopped = close_only(self, name, "key_gone")
        holds: Counter[str] = Counter()
        for plan in self.engine.plans_of(account):
            for _, leg in self.engine.plan_legs(plan):
                if leg.attributed:
                    holds[self.engine.label(leg.instrument)] += leg.attributed
        text = "its key is gone: none of its orders is signed any more, exits neither"
        if holds:
            text += "; what it holds must be closed at the venue by hand, or a new key be stored"
        if stopped:
            text += f"; close-only until they are resumed by name: {', '.join(stopped)}"
        self.alert(Alert("key_gone", text, {"account": name, "close_only": stopped, "holds_lots": dict(holds)}))

    def _renew_leaders(self, before: Credentials, after: Credentials) -> None:
        for index, leader in enumerate(self._config.leaders):
            old, new = before.get(leader.credential), after.get(leader.credential)
            if new is None and old is not None:
                text = "the leader's key is gone: he is heard with the key before until the next start, which will fail"
                self.alert(Alert("leader_key_gone", text, {"leader": leader.id}))
            elif new is not None and (old is None or not old.same_key(new)):
                self.side.renew_leader(index)

    # -- accounts and plans ------------------------------------------------------------------------------------------

    def _collect_wants(self) -> None:
        """The leverage each account needs per instrument: the lowest of its plans' (semantics 25)."""
        wanted: dict[tuple[int, int], int] = {}
        for index, spec in enumerate(self.engine.names.specs):
            plan = PlanRow.unpack(self.engine.columns.get(3, index))
            leverage = min(spec["leverage"], spec["leverage_max"] or spec["leverage"])
            for instrument in range(len(self.engine.names.instruments)):
                here = self.engine.names.instruments[instrument].venue == self.engine.account_venue(plan.account)
                if here and plan.instruments >> instrument & 1:
                    key = (plan.account, instrument)
                    wanted[key] = min(wanted.get(key, leverage), leverage)
        self._wanted = wanted

    def _activate(self, accounts: Any, known: bool = False) -> None:
        """Bring accounts up in the background: snapshot, settings, user stream; paced by the venue side."""
        self._collect_wants()
        names = self.engine.names.accounts
        by_account: dict[int, list[tuple[int, int]]] = {}
        for (account, instrument), leverage in self._wanted.items():
            by_account.setdefault(account, []).append((instrument, leverage))
        todo = [(account, names[account], by_account.get(account, [])) for account in accounts]
        if todo:
            self.reconciler.add([account for account, _, _ in todo])
            self.activation_total += len(todo)
            self._spawn(self.side.activate(todo, known), "activate")

    def look_soon(self, account: int) -> None:
        """An account that was armed by what the journal knows of it: the venue's books are compared next."""
        self.reconciler.touch(account)

    def leg_states(self, account: int, states: list[Any]) -> None:
        """The venue side's word on one account's settings; journaled in batches."""
        self.activation_done += 1
        hedge = bool(AccountRow.unpack(self.engine.columns.get(4, account)).hedge)
        for state in states:
            # Leverage 0 means that nothing was learnt: what is known of the account stays, its open legs depend on it.
            learnt = (state.hedge, state.isolated, state.leverage) if state.leverage else (hedge, *self._known_leg(state))
            self._ready_legs.append((state.account, state.instrument, state.ready, *learnt))
            if not state.ready:
                self.counts["legs_refused"] += 1
                self.log.warning(
                    "leg not ready", account=self.engine.names.accounts[account],
                    symbol=self.engine.symbol(state.instrument), reason=state.reason)

    def _known_leg(self, state: Any) -> tuple[bool, int]:
        at = state.account * self.engine.columns.instruments_max + state.instrument
        row = AccountInstrumentRow.unpack(self.engine.columns.get(5, at))
        return bool(row.isolated), row.leverage

    def snapshot(self, account: int, wallet_e8: int, positions: list[tuple[int, int, int]], seq: int, asked: int) -> None:
        """A follower's balance and positions, asked at ``asked`` when the journal stood at ``seq``; journaled in batches."""
        self._snapshots.append((account, wallet_e8, positions))
        self._snapshots_asked.append((seq, asked))

    def _flush_activation(self) -> None:
        if self._snapshots:
            snapshots, self._snapshots = self._snapshots, []
            # One record for all of them: as old as the oldest question in it.
            seq, asked = min(seq for seq, _ in self._snapshots_asked), min(asked for _, asked in self._snapshots_asked)
            self._snapshots_asked.clear()
            self._offer(AccountSnapshots(snapshots, seq_asked=seq, ts_asked=asked))
        if self._ready_legs:
            legs, self._ready_legs = self._ready_legs, []
            self._offer(LegsReady(legs))

    async def _command(self, name: str, args: dict[str, Any], actor: Actor) -> Outputs:
        """An operator's command: done when its record is durable."""
        try:
            out = self._offer(Command(name, args, str(actor)))
        except OperatorError as error:
            raise RequestRefused(str(error)) from None
        if out is None:
            raise RequestRefused("the daemon is stopping")
        await self.journal.committed(out.seq)
        self.log.info("command", command=name, actor=str(actor), seq=out.seq)
        return out

    async def import_followers(self, specs: list[PlanSpec], actor: Actor) -> AsyncIterator[ImportProgress]:
        """All or none, in one record; the accounts come up in the background."""
        total = len(specs)
        yield ImportProgress("checking", 0, total)
        missing = missing_names(self.credentials, {spec.account for spec in specs})
        if missing:
            await self.reread_keys()
            missing = missing_names(self.credentials, {spec.account for spec in specs})
        if missing:
            names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise RequestRefused(f"no credentials for {names}; nothing was imported")
        await self._command("import_plans", {"plans": [plan_fields(spec) for spec in specs]}, actor)
        # Not only new accounts: a plan more on one that is up may need another instrument or a lower leverage there.
        accounts = sorted({self.engine.by_account[spec.account] for spec in specs})
        for account in accounts:
            self.side.register(account, self.engine.names.accounts[account])
        self._activate(accounts)
        yield ImportProgress("journaled", total, total)

    async def plan_add(self, spec: PlanSpec, actor: Actor) -> dict[str, Any]:
        """One plan, as an import of one."""
        async for _ in self.import_followers([spec], actor):
            pass
        return {"follower": spec.follower, "leader": spec.leader}

    async def plan_change(self, follower: str, changes: Mapping[str, Any], actor: Actor) -> dict[str, Any]:
        """New limits hold from the next opening (semantics 31)."""
        leader = changes.get("leader")
        try:
            index = self.engine.plan_index(follower, leader)
        except OperatorError as error:
            raise RequestRefused(str(error)) from None
        old = self.engine.names.specs[index]
        # Where pause, resume and stop have left the plan, not as it was imported: a new limit must not start it again.
        state = PlanRow.unpack(self.engine.columns.get(3, index)).state
        spec = {**old, "state": state, **plan_fields_of(changes)}
        await self._command("change_plan", {"follower": follower, "leader": old["leader"], "spec": spec}, actor)
        self._activate([PlanRow.unpack(self.engine.columns.get(3, index)).account])
        return {"follower": follower, "changed": sorted(changes)}

    async def plan_stop(self, follower: str, actor: Actor) -> dict[str, Any]:
        """No more openings; what is open is closed with the leader."""
        await self._command("stop_plan", {"follower": follower, "policy": "close_gracefully"}, actor)
        return {"follower": follower, "state": "stopped"}

    async def _state(self, scope: Scope, state: str, actor: Actor) -> dict[str, Any]:
        if scope.kind == "venue":
            self._check_venue(scope)
        # Naming the plan is the resume by name that a stopped one needs (semantics 19).
        named = scope.kind == "plan" and state == "active"
        await self._command(
            "set_state", {"scope": scope.kind, "name": scope.name, "state": state, "resume_stopped": named}, actor)
        return {"scope": str(scope), "state": state}

    def _check_venue(self, scope: Scope) -> None:
        if scope.name not in [venue.name for venue in self._config.venues]:
            raise RequestRefused(f"venue {scope.name!r} is not configured")

    async def pause(self, scope: Scope, actor: Actor) -> dict[str, Any]:
        """No more openings in the scope; reductions continue (semantics 17)."""
        return await self._state(scope, "paused", actor)

    async def resume(self, scope: Scope, actor: Actor) -> dict[str, Any]:
        """Openings again."""
        return await self._state(scope, "active", actor)

    async def close_only(self, scope: Scope, actor: Actor) -> dict[str, Any]:
        """Follow the leader out of what is open, open nothing new."""
        return await self._state(scope, "close_only", actor)

    async def kill_switch(self, on: bool, scope: Scope, reason: str, actor: Actor) -> dict[str, Any]:
        """Openings stop at once; reductions pass."""
        if scope.kind == "venue":
            self._check_venue(scope)
        await self._command(
            "kill_switch", {"scope": scope.kind, "name": scope.name, "on": on, "reason": reason}, actor)
        return {"scope": str(scope), "kill_switch": on}

    async def drain(self, actor: Actor) -> dict[str, Any]:
        """Stop as SIGTERM does."""
        self.log.info("drain", actor=str(actor))
        self.begin_stop()
        return {"draining": True}

    def begin_stop(self) -> None:
        """First call drains, second stops now."""
        if self.exit.done():
            return
        if self.draining or "starting" in self.reasons:
            self.draining = True
            self.exit.set_result(0)
            return
        self.draining = True
        self.reasons["draining"] = "draining"
        self.notifier.stopping("draining")
        self._spawn(self._drain(), "drain")

    async def _drain(self) -> None:
        await self.side.stop_leaders()
        await self._settled(self._config.runtime.drain_timeout_s)
        if not self.exit.done():
            self.exit.set_result(0)

    async def drift(self, count: int) -> dict[str, Any]:
        """As ``copyd ctl drift``."""
        if "starting" in self.reasons:
            raise RequestRefused("the daemon is starting")
        self.reconciler.judge(self.clock.now_ns())
        edges = [*(str(edge) for edge in EDGES_BPS), "more"]
        return {
            "worst": self.reconciler.worst(count), "histogram": dict(zip(edges, self.reconciler.buckets, strict=True)),
            "policy": self._config.sync.policy, "out_of_sync": len(self.reconciler.watch.out),
            "looks": dict(self.reconciler.stats), "accounts_without_answer": len(self.reconciler.slow),
        }

    async def losses(self, count: int) -> dict[str, Any]:
        """As ``copyd ctl losses``: at the marks as they are now."""
        if "starting" in self.reasons:
            raise RequestRefused("the daemon is starting")
        return losses(self.engine, self.clock.now_ns(), self.side.marks(), count, self._config.copy.maintenance_margin_bps)

    async def explain_order(self, client_order_id: str) -> dict[str, Any]:
        """As ``copyd explain``."""
        return await self._explain(client_order_id)

    async def explain_event(self, event: str, follower: str) -> dict[str, Any]:
        """As ``copyd explain --event --follower``."""
        return await self._explain("--event", event, "--follower", follower)

    async def _explain(self, *question: str) -> dict[str, Any]:
        """A process of its own answers from the journal: a fold over it has no place on the loop that trades."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "copyd", "explain", *question, "--json", "--journal", self._config.journal.path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )
        try:
            answer, problem = await asyncio.wait_for(process.communicate(), EXPLAIN_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            raise RequestRefused("the explanation takes too long: run `copyd explain` on the journal") from None
        if process.returncode and not answer:  # an answer the rules disagree with is an answer, and says so itself
            raise RequestRefused(problem.decode(errors="replace").removeprefix("copyd: ").strip())
        result: dict[str, Any] = msgspec.json.decode(answer)
        return result

    # -- what operators see ------------------------------------------------------------------------------------------

    def not_alive(self) -> list[str]:
        """The loop turns; a start may take its time."""
        stall = time.monotonic() - self.last_turn
        if "starting" in self.reasons or stall * 1000 <= self._config.runtime.loop_stall_max_ms:
            return []
        return [f"the loop has not turned for {stall:.1f} s"]

    def not_ready(self) -> list[str]:
        """Why openings are not copied now."""
        reasons = list(self.reasons.values())
        if "starting" in self.reasons:
            return reasons
        reasons += self.side.not_ready()
        in_doubt = self._census(1)
        if in_doubt:
            reasons.append(f"{in_doubt} orders in doubt")
        if self.activation_done < self.activation_total:
            reasons.append(f"accounts being activated: {self.activation_done} of {self.activation_total}")
        if self._ready_legs or self._snapshots:
            reasons.append("activation results being journaled")
        return reasons

    async def status(self, samples: bool = False) -> dict[str, Any]:
        """One object for ``copyd ctl status`` and the demo."""
        return self.summary(samples)

    def summary(self, samples: bool = False) -> dict[str, Any]:
        """Cheap enough to be asked several times a second."""
        reasons = self.not_ready()
        starting = "starting" in self.reasons
        unfinished, in_doubt, waiting, excess, held = (0, 0, 0, 0, 0) if starting else self.engine.kernel.census()
        names = None if starting else self.engine.names
        answer = {
            "pid": os.getpid(), "version": __version__, "epoch": 0 if starting else self.journal.epoch,
            "ready": not reasons, "reasons": reasons, "stopped_openings": [] if starting else self._stopped_openings(),
            "followers": len(names.followers) if names else 0, "accounts": len(names.accounts) if names else 0,
            "legs_total": self.activation_total, "legs_ready": self.activation_done,
            "leader_events": self.counts["leader_events"], "decisions": self.counts["decisions"],
            "instructions": self.counts["instructions"], "orders_sent": self.counts["orders_sent"],
            "fills": 0 if starting else self.side.fills, "orders_unfinished": unfinished + waiting, "in_doubt": in_doubt,
            "held": held, "executions_untold": 0 if starting else self._untold(),
            "legs_waiting": waiting, "legs_out_of_sync": excess, "forgone": dict(self.forgone),
            "alerts": self.counts["alerts"], "journal_seq": names.seq if names else 0,
            "journal_bytes": journal_bytes(self._config.journal.path),
            "fanout_first_us": percentiles(self.metrics.fanout_first),
            "fanout_last_us": percentiles(self.metrics.fanout_last),
            "rss_bytes": rss_bytes(),
        }
        if samples:
            answer["fanout_samples"] = self.samples
        return answer

    def _stopped_openings(self) -> list[str]:
        """What operators have stopped for more than one plan."""
        names, columns = self.engine.names, self.engine.columns
        stopped = ["kill switch: all"] if self.engine.params.killed else []
        for index, name in enumerate(names.leaders):
            leader = LeaderRow.unpack(columns.get(LEADERS, index))
            if leader.killed:
                stopped.append(f"kill switch: leader {name}")
            if leader.state != PlanState.ACTIVE:
                stopped.append(f"{PlanState(leader.state).name.lower()}: leader {name}")
        for index, spec in enumerate(names.instruments):
            halted = InstrumentRow.unpack(columns.get(INSTRUMENTS, index)).halted
            if halted & HALTED_BY_KILL_SWITCH:
                stopped.append(f"kill switch: instrument {spec.symbol}")
            if halted & HALTED_BY_STATE:
                stopped.append(f"paused or close-only: instrument {spec.symbol}")
        return stopped

    def metrics_text(self) -> bytes:
        """Prometheus exposition."""
        return self.metrics.text()

    def _windows(self) -> list[tuple[int, int]]:
        """Of every open order connection; none while the daemon starts."""
        return self.side.windows() if hasattr(self, "side") else []

    def _bind_metrics(self) -> None:
        m = self.metrics
        self.loss_stops = m.loss_stops(LOSS_REASONS)
        self.skipped = m.skipped([reason.name.lower() for reason in Reason if reason])
        m.counter_read("copyd_decisions_total", "Decisions, one per leader event and plan.", self._reader("decisions"))
        m.counter_read("copyd_fills_total", "Executions the venue reported.", self._fills)
        m.counter_read("copyd_alerts_total", "Alerts raised.", self._reader("alerts"))
        m.gauge("copyd_legs_near_liquidation", "Legs nearer to liquidation than copy.liquidation_warn_bps.",
                lambda: float(len(self._near_liquidation)))
        m.gauge("copyd_orders_in_doubt", "Orders whose outcome is not known.", lambda: float(self._census(1)))
        m.gauge("copyd_orders_unfinished", "Orders that have not ended.", lambda: float(self._census(0)))
        m.gauge("copyd_legs_waiting", "Legs with an opening held back.", lambda: float(self._census(2)))
        m.gauge("copyd_legs_excess", "Legs that hold a lot or more too much.", lambda: float(self._census(3)))
        m.gauge("copyd_orders_held", "Orders the venue's sources disagree about.", lambda: float(self._census(4)))
        for index, edge in enumerate([*map(str, EDGES_BPS), "+Inf"]):
            m.gauge(
                "copyd_sync_score_legs", "Legs at most this far, bps of the allocation, from what their leader holds.",
                partial(self._legs_within, index), "le", edge)
        m.gauge("copyd_legs_out_of_sync", "Legs out of sync for longer than sync.after_s.", self._out_of_sync)
        m.gauge("copyd_accounts_without_answer", "Accounts whose last look was not answered.", self._no_answer)
        m.gauge("copyd_journal_bytes", "Size of the journal on disk.", lambda: float(journal_bytes(self._config.journal.path)))
        m.gauge("copyd_order_window_bytes", "Smallest congestion window of an order connection: more waits for round trips.",
                lambda: float(min((size for size, _ in self._windows()), default=0)))
        m.gauge("copyd_order_round_trip_seconds", "Longest smoothed round trip of an order connection.",
                lambda: max((trip for _, trip in self._windows()), default=0) / 1e9)
        m.gauge("copyd_ready", "1 when openings are copied.", lambda: float(not self.not_ready()))

    def _reader(self, name: str) -> Callable[[], float]:
        return lambda: float(self.counts[name])

    def _fills(self) -> float:
        return float(self.side.fills) if hasattr(self, "side") else 0.0

    def _legs_within(self, index: int) -> float:
        return float(sum(self.reconciler.buckets[: index + 1])) if hasattr(self, "reconciler") else 0.0

    def _out_of_sync(self) -> float:
        return float(len(self.reconciler.watch.out)) if hasattr(self, "reconciler") else 0.0

    def _no_answer(self) -> float:
        return float(len(self.reconciler.slow)) if hasattr(self, "reconciler") else 0.0

    def _untold(self) -> int:
        """Finished orders of which less was told than filled: their fees are not all known."""
        return self.engine.columns.count_untold(TERMINAL_MASK)

    def _census(self, index: int) -> int:
        return int(self.engine.kernel.census()[index]) if hasattr(self, "engine") else 0


def plan_fields(spec: PlanSpec) -> dict[str, Any]:
    """A plan as the engine takes it: names of choices as their codes."""
    return plan_fields_of(msgspec.structs.asdict(spec))


def plan_fields_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """As ``plan_fields``, for some of the fields."""
    from copyd import followers

    codes = {
        "mode": followers.MODES, "ratio_snapshot": followers.RATIO_SNAPSHOTS, "min_policy": followers.MIN_POLICIES,
        "on_insufficient": followers.ON_INSUFFICIENT, "loss_policy": followers.LOSS_POLICIES, "state": PLAN_STATES,
    }
    out: dict[str, Any] = {}
    for name, value in fields.items():
        out[name] = codes[name].index(value) if name in codes else list(value) if isinstance(value, tuple) else value
    return out


def percentiles(histogram: Any) -> dict[str, float]:
    """p50, p99, max in microseconds."""
    if not histogram.count:
        return {"p50": 0.0, "p99": 0.0, "max": 0.0, "n": 0}
    return {
        "p50": round(histogram.percentile_ns(50) / 1000, 1), "p99": round(histogram.percentile_ns(99) / 1000, 1),
        "max": round(histogram.max_ns / 1000, 1), "n": histogram.count,
    }


def journal_bytes(path: str) -> int:
    """Bytes the journal occupies on disk."""
    try:
        return (Path(path) / "data.mdb").stat().st_blocks * 512
    except OSError:
        return 0


def rss_bytes() -> int:
    """Resident memory of this process."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


async def serve(config: Config, config_path: Path) -> int:
    """Run the daemon until a signal or a fatal error; the exit code."""
    from copyd.control.health import HealthServer
    from copyd.control.server import control_server

    loop = asyncio.get_running_loop()
    daemon = Daemon(config, config_path, load_all(config))
    loop.set_exception_handler(daemon.loop_problem)
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, daemon.begin_stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: daemon._spawn(_reload_on_hup(daemon), "reload"))
    health = HealthServer(daemon, config.health.host, config.health.port) if config.health.enabled else None
    control = control_server(daemon, config, on_broken=daemon.fail)
    daemon.reasons["control"] = "the control socket is not open yet"
    try:
        daemon.open_journal()
        if health:
            await health.start()
        if await _started(daemon):
            await control.start()
            daemon.reasons.pop("control", None)
            gc.collect()
            gc.freeze()
            daemon.notifier.ready(f"epoch {daemon.journal.epoch}, {len(daemon.engine.names.followers)} plans")
        code = await daemon.exit
    finally:
        with_error = daemon.exit.done() and daemon.exit.result() != 0
        await control.stop()
        await daemon.stop(0.0 if with_error or daemon.draining else config.runtime.drain_timeout_s)
        if health:
            await health.stop()
        daemon.notifier.close()
    return code


async def _started(daemon: Daemon) -> bool:
    """Start, unless a signal or an error ends it before; what was begun is closed by ``stop``."""
    start = asyncio.ensure_future(daemon.start())
    either: set[asyncio.Future[Any]] = {start, daemon.exit}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if start.done():
        start.result()
        return not daemon.exit.done()
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    return False


async def _reload_on_hup(daemon: Daemon) -> None:
    try:
        await daemon.reload(Actor(os.getpid(), os.getuid(), os.getgid(), "SIGHUP"))
    except OperatorError as error:
        daemon.log.error("reload refused, the old configuration stays", error=str(error))


def run(config: Config, config_path: Path, log_format: str | None = None) -> int:
    """``copyd run``: the daemon in the foreground."""
    import uvloop

    telemetry = config.telemetry
    setup_logs(log_format or telemetry.log_format, telemetry.log_level)
    # The journal's writer must get the interpreter within a fraction of a fan-out, not after its default 5 ms.
    sys.setswitchinterval(0.0002)
    keep_memory(KEPT_BYTES)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(config, config_path))


__all__ = ["Daemon", "run", "serve"]
