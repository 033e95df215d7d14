"""One daemon of the simulated world: the production core behind the production pump, wired as the daemon wires it.

``Engine``, ``Pump``, ``Doubts``, ``LeaderStream`` and ``Rounds`` are the parts that ship. What is modelled is the glue with
nothing to decide: sockets, timeouts, the order in which things are brought up. Every effect lies between named crash points.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from copyd._fast.columns import ReportBatch
from copyd._fast.rowpack import unpack_rows
from copyd.core import engine as core
from copyd.core.doubt import AskKind, Doubts, Found, Terms, Verdict
from copyd.core.fill import POSITION_SIDE_REJECTED
from copyd.core.identifiers import CID_BYTES, epoch_of
from copyd.core.order import placed_since
from copyd.core.reconcile import EDGES_BPS, DriftRow, Rounds, SyncAction, SyncWatch
from copyd.core.rows import (
    NONE,
    TERMINAL,
    TERMINAL_MASK,
    UNFINISHED_MASK,
    AccountInstrumentRow,
    AccountRow,
    DecisionRow,
    LeaderRow,
    LegRow,
    NamedOrder,
    OrderEndRow,
    OrderRow,
    OrderState,
    ReportKind,
    ReportRow,
    StopRow,
)
from copyd.errors import Fenced, OperatorError
from copyd.inspect import rebuild
from copyd.journal import Record
from copyd.kinds import kind_of, pack_checkpoint, tag_of, unpack_checkpoint
from copyd.runtime.pump import Pump, Sent
from copyd.sim.disk import Disk, Journal
from copyd.sim.leaders import LeaderLink
from copyd.sim.venue import NEW, PARTIAL, Reply, Request, Shown, Stream, Trade, Venue, fee_e8
from copyd.sim.world import (
    ACK_TIMEOUT,
    ANSWER_TIMEOUT,
    CLOCK_ERROR,
    FENCE,
    GUARD,
    MS,
    READ_LAG,
    RECV,
    Crash,
    S,
    World,
)
from copyd.venues.binance_usdm.errors import classify
from copyd.venues.common.outcome import Outcome

if TYPE_CHECKING:
    from copyd.sim.people import Site

TERMS = Terms(fence_ns=FENCE, ask_timeout_ns=ANSWER_TIMEOUT, read_lag_ns=READ_LAG, guard_ns=GUARD, held_backoff_ns=20 * S,
              absences_ns=4 * ANSWER_TIMEOUT + READ_LAG)
RETIRE_AFTER = 36 * S
UNTOLD_AFTER = 5 * S
"""Longer than anything is told late."""
WINDOW = 10 * S
"""The budget of questions is judged over this."""
CONNECTIONS = 2
TOLD_WHOLE = (core.LeaderSync, core.LeaderPosition, core.ExternalFill, core.AccountSnapshots, core.OrphanFill)
NO_LEGS = frozenset({core.LeaderPosition, core.LeaderEquity, core.LeaderLeverage})
"""Inputs that change neither an order nor a leg."""
ANNOUNCED = tag_of(core.Announced)
NEVER_ANNOUNCED = 1 << 30
NO_FIELDS: dict[str, Any] = {}
TIMER_STEPS = tuple(50 * MS << n for n in range(12))


def _at(row: Any, name: str) -> int:
    return int(row.names().index(name))


_ORDER, _LEG, _LEADER = OrderRow.LAYOUT.unpack, LegRow.LAYOUT.unpack, LeaderRow.LAYOUT.unpack
_AI, _ACCOUNT = AccountInstrumentRow.LAYOUT.unpack, AccountRow.LAYOUT.unpack
(O_CID, O_QTY, O_LIMIT, O_CUM, O_REF, O_SEQ, O_LEG, O_ACCOUNT, O_INSTRUMENT, O_SIDE, O_KIND, O_STATE, O_POSITION_SIDE,
 O_REDUCE_ONLY, O_VENUE_ID, O_DECIDED, O_CODE, O_ESTIMATED, O_EXEC) = (_at(OrderRow, name) for name in (
     "cid", "order_qty", "limit_px", "cum_qty", "ref_px", "seq", "leg", "account", "instrument", "side", "kind", "state",
     "position_side", "reduce_only", "venue_order_id", "ts_decided", "code", "estimated", "exec_qty"))
(L_PLAN, L_ACCOUNT, L_INSTRUMENT, L_SIDE, L_TARGET, L_ATTRIBUTED, L_PENDING, L_DEFERRED, L_OPEN, L_REDUCE, L_DETACHED,
 L_RETRY) = (
    _at(LegRow, name) for name in ("plan", "account", "instrument", "side", "target", "attributed", "pending", "deferred",
                                   "open_leaves", "reduce_leaves", "detached", "retry_ts"))
AI_READY, AI_LEVERAGE, AI_ISOLATED = (_at(AccountInstrumentRow, name) for name in ("ready", "leverage", "isolated"))
A_HEDGE, A_BALANCE = (_at(AccountRow, name) for name in ("hedge", "balance_e8"))
_REPORT = ReportRow.LAYOUT.size


class NodeClock:
    """The clock of one process: steady within it, off from the venue's by an offset and a drift."""

    __slots__ = ("born", "drift_ppm", "offset", "world")

    def __init__(self, world: World, offset: int, drift_ppm: int) -> None:
        self.world, self.offset, self.drift_ppm, self.born = world, offset, drift_ppm, world.now

    def now_ns(self) -> int:
        now = self.world.now
        return now + self.offset + (now - self.born) * self.drift_ppm // 1_000_000

    def mono_ns(self) -> int:
        return self.world.now - self.born


class Connection:
    """One order connection: up or down, and perhaps up in name only."""

    __slots__ = ("generation", "half_open", "pending", "up")

    def __init__(self) -> None:
        self.up = True
        self.half_open = False
        self.generation = 0
        self.pending: dict[bytes, None] = {}


class Node:
    """One process, from its start to its end. ``site`` is the operator's installation that starts and restarts it."""

    def __init__(self, site: Site, disk: Disk, index: int = 0) -> None:
        self.site, self.disk, self.index = site, disk, index
        self.world: World = site.world
        self.draws = site.world.draws
        self.venue: Venue = site.venue
        self.auditor = site.auditor
        self.alive = True
        self.ready = False
        self.dirty = False
        self.fenced = False
        self.ended = ""
        self.stalled_until = 0
        self.point = "start"
        self.value: Any = None
        self.clock = NodeClock(self.world, site.wall_offset, self.draws.between("clock.drift", -200, 200))
        self.clock_error = self.draws.between("clock.error", -CLOCK_ERROR, CLOCK_ERROR)
        self.clock_off = False
        self.rows = ReportBatch()
        self.flush_due = False
        self.doubted: dict[bytes, None] = {}
        self.signed: dict[bytes, int] = {}
        self.connections = [Connection() for _ in range(CONNECTIONS)]
        self.streams: dict[int, Stream] = {}
        self.stream_up = True
        self.wake_at = 1 << 62
        self.looking: set[int] = set()
        self.looked_at: dict[int, int] = {}
        self.adopting: set[int] = set()
        self.activated: set[int] = set()
        self.quoted: dict[int, tuple[int, int]] = {}
        self.heard_marks: dict[int, tuple[int, int, int]] = {}
        self.marked = 0  # when plans were last held against them
        self.market_deaf_until = 0
        self.live: dict[int, bytes] = {}
        self.legs_seen: list[bytes] = []
        self.waiting_commands: list[tuple[int, Callable[[], None]]] = []
        self.leaders: list[LeaderLink] = []
        self.ages: deque[tuple[int, int]] = deque()
        self.weights: deque[tuple[int, int]] = deque()
        self.weight = 0
        self.silent_until = 0
        self.partition_until = 0
        self.later: dict[int, None] = {}

    # -- crashing -----------------------------------------------------------------------------------------------------
    def crashpoint(self, name: str) -> None:
        """A place where the process may die."""
        site = self.site
        site.crash_count += 1
        if site.crash_count == site.crash_next:
            self.point = name
            site.crashed_at()
            raise Crash(name)

    def crashed(self) -> None:
        """The process is gone; what is on disk stays."""
        self.alive = False
        point = self.point
        site = self.site
        site.crash_points[point] = site.crash_points.get(point, 0) + 1
        site.struck(point, self.ready)
        self._gone(f"killed at {point}")

    def fail(self, error: BaseException) -> None:
        """The daemon stops itself: a failed commit, a broken invariant, a later epoch."""
        if not self.alive:
            return
        self.pump.stop()
        self.alive = False
        self.site.failed(self, error)
        self._gone(f"stopped: {error}")

    def _gone(self, why: str) -> None:
        self.ended = why
        records = self.journal.crashed() if hasattr(self, "journal") else len(self.disk.records)
        self.disk.foretold = {seq: content for seq, content in self.disk.foretold.items() if seq <= records + 1}
        if self.world.trace is not None:
            self.world.say("daemon", f"{why}; {records} records on disk")
        for stream in self.streams.values():
            stream.open = False
        for link in self.leaders:
            link.close()
        self.auditor.crashed(self.world.now, records)
        self.site.gone(self)

    # -- start, as the daemon starts ------------------------------------------------------------------------------------
    def start(self) -> None:
        """Fold the journal, take the next epoch, settle what was unfinished, come up."""
        self.crashpoint("boot_begin")
        disk = self.disk
        self.engine = self._fold()
        self.crashpoint("boot_folded")
        disk.epoch += 1
        self.epoch = disk.epoch
        self.crashpoint("boot_epoch")
        self.journal = Journal(self.world, disk, self, self.epoch, self._durable, self.fail, self._appended)
        self.columns = self.engine.columns
        self.engine.ready_first = 1  # followers are few: the first leaves before the second is decided
        self.pump = Pump(self.engine, self.journal, self, self.clock, kind_of, self._outputs, _sent,
                         1 if self.site.setup.announce else NEVER_ANNOUNCED)
        self.terms = msgspec.structs.replace(TERMS, weight_per_s=self.site.weight_per_s)
        self.doubts = Doubts(self.terms, self._expected)
        self.rounds = Rounds(self.site.round_interval, READ_LAG + GUARD + 100 * MS)
        self.watch = SyncWatch(self.site.policy)
        self.auditor.started(self.world.now, self.epoch, self.journal.seq)
        self._believe_all()
        if self.world.trace is not None:
            self.world.say("daemon", f"starts in epoch {self.epoch} behind record {self.journal.seq}")
        if self.engine.announced is not None:
            self.value = self.engine.announced[1]
            self._take(self.value, self.pump.take_up)
            self.crashpoint("boot_taken_up")
        started = self.offer(core.Started(self.epoch, self.site.id, self.site.key, "sim"))
        self.offer(self.site.configured())
        self.crashpoint("boot_started")
        if not self.engine.names.followers:
            self.offer(core.Command("import_plans", {"plans": self.site.specs}, "operator"))
        now = self.clock.now_ns()
        for slot in started.queries if started else []:
            order = _ORDER(self.columns.get(core.ORDERS, slot))
            self._doubt(order, now)
        self._later(20 * MS + self.draws.draw("boot.streams", 80) * MS, self._open_streams)
        self._later(UNTOLD_AFTER, self._ask_untold)

    def _fold(self) -> core.Engine:
        records = self.disk.records
        engine = core.Engine(self.site.instruments_max)
        checkpoint = self.disk.checkpoint
        if checkpoint is not None and checkpoint[0] <= len(records) and self.draws.draw("boot.checkpoint", 4):
            engine = unpack_checkpoint(checkpoint[1])
        for stored in records[engine.names.seq :]:
            self.world.steps += 1
            record = Record(stored.seq, stored.kind, stored.epoch, stored.ts_ns, b"", stored.payload, b"")
            _, faults = rebuild.apply(engine, record, rebuild.decode(record))
            if faults:
                self.site.violated("S12", faults[0].text)
                break
        return engine

    def _open_streams(self) -> None:
        self.crashpoint("boot_streams")
        for account in self.venue.accounts:
            self._subscribe(account.index)
        self._later(self.draws.draw("boot.leaders", 60) * MS, self._open_leaders)

    def _subscribe(self, account: int) -> None:
        old = self.streams.get(account)
        if old is not None:
            old.open = False
        stream = Stream(self, partial(self._on_user, account))
        self.streams[account] = stream
        held = self.venue.accounts[account]
        held.streams = [other for other in held.streams if other.open]
        held.streams.append(stream)

    def _open_leaders(self) -> None:
        self.crashpoint("boot_leaders")
        for index in range(len(self.venue.leaders)):
            self.leaders.append(LeaderLink(self, index))
        for link in self.leaders:
            link.start()
        self._later(self.draws.draw("boot.accounts", 60) * MS, self._activate)

    def _activate(self) -> None:
        self.crashpoint("boot_accounts")
        now = self.clock.now_ns()
        for account in range(len(self.venue.accounts)):
            self.look(account)
            self.rounds.add(account, now, len(self.venue.accounts))
        self._wake_in(self.site.round_interval // max(1, len(self.venue.accounts)))
        self.ready = True
        self.dirty = True
        if self.site.policy.action is not SyncAction.ALERT:
            self._later(2 * S, self._judge)
        if self.site.limits:
            self._later(S, self.marks)

    def _judge(self) -> None:
        """What stays away from its leader, by the operator's policy."""
        engine = self.engine
        rows, _ = engine.kernel.drift(EDGES_BPS, 100, self.watch.policy.leave_bps)
        for action, row in self.watch.judge(self.clock.now_ns(), DriftRow.unpack_all(rows), lambda row: 5):
            self.draws.count("A17")
            plan = _LEG(self.columns.get(core.LEGS, row.leg))[L_PLAN]
            if action is SyncAction.CATCH_UP:
                self.offer(core.CatchUp([row.leg]))
            elif action is not SyncAction.ALERT:
                state = "paused" if action is SyncAction.PAUSE else "close_only"
                self.command("set_state", {"scope": "plan", "name": engine.names.followers[plan],
                                           "leader": engine.names.plan_leaders[plan], "state": state})
        self._later(3 * S, self._judge)

    # -- inputs -------------------------------------------------------------------------------------------------------
    def offer(self, value: Any) -> core.Outputs | None:
        """One input to the pump, with the market as last heard; our own broken rules end the process."""
        if not self.alive:
            return None
        world = self.world
        world.steps += 1
        self.crashpoint("pre_decide")
        self._market()
        self.value = value
        return self._take(value, partial(self.pump.offer, value))

    def _take(self, value: Any, into: Callable[[], core.Outputs | None]) -> core.Outputs | None:
        try:
            out = into()
        except (Crash, OperatorError):
            raise
        except Exception as error:
            self.site.violated("P12", f"{type(value).__name__}: {error!r}")
            self.fail(error)
            return None
        self.crashpoint("post_decide")
        if out is not None and self.alive:
            if type(value) not in NO_LEGS or out.stops:
                self._believe(value, out)
            self.dirty = True
        return out

    def _market(self) -> None:
        now = self.world.now
        if now < self.market_deaf_until:
            return
        for index, instrument in enumerate(self.venue.instruments):
            px, at = self.quoted.get(index, (0, 0))
            if px != instrument.px or now - at > S:
                px = instrument.px
                self.quoted[index] = (px, now)
                self.pump.quote(index, px - 1, px + 1, px, self.clock.now_ns())

    def marks(self) -> None:
        """The marks as last heard, each second: an input where they stop a plan."""
        if not self.alive:
            return
        self._later(S, self.marks)
        self.marked = self.world.now
        if self.world.now >= self.market_deaf_until:
            now = self.clock.now_ns()
            for index, instrument in enumerate(self.venue.instruments):
                self.heard_marks[index] = (index, instrument.px, now)
        if self.heard_marks and self.engine.marks_due(self.clock.now_ns(), list(self.heard_marks.values())):
            self.offer(core.Marks(list(self.heard_marks.values())))

    def _outputs(self, out: core.Outputs) -> None:
        """Of every journaled step, as the daemon hears it."""
        for leader in out.request_sync:
            if leader < len(self.leaders):
                self.leaders[leader].request_sync("the fold and the venue disagree")
        if out.suspects:
            slots = array("I")
            slots.frombytes(out.suspects)
            suspects: dict[int, tuple[dict[int, None], bool]] = {}
            for slot in slots:
                order = _ORDER(self.columns.get(core.ORDERS, slot))
                refused, mode = suspects.get(order[O_ACCOUNT], ({}, False))
                refused[order[O_INSTRUMENT]] = None
                suspects[order[O_ACCOUNT]] = refused, mode or order[O_CODE] == POSITION_SIDE_REJECTED
            for account, (refused, mode) in sorted(suspects.items()):
                if account not in self.adopting:
                    self.adopting.add(account)
                    self._later(MS, self._adopt, account, sorted(refused), mode, 0)
        for account in out.recheck:
            self._touch(account)
        for cid in out.settled:
            self.doubts.ended(cid)
        if out.fenced:
            self.fenced = True
            self.auditor.fenced(self.world.now)
            self.fail(Fenced("a later daemon of this site trades the same accounts"))
            return
        if self.world.trace is not None:
            self._trace(out)

    def _appended(self, seq: int, kind: int, parts: Sequence[bytes]) -> None:
        """What the auditor hears of a record that was written and is not durable yet."""
        self.world.mark(parts[1])
        self.world.mark(parts[4])
        content = (
            unpack_rows(parts[2], DecisionRow.LAYOUT.size) if parts[2] else b"", parts[3],
            unpack_rows(parts[4], NamedOrder.LAYOUT.size, CID_BYTES) if parts[4] else b"", parts[5])
        if kind == ANNOUNCED:
            self.auditor.announced(seq)
            if self.draws.draw("disk.quick", 2) == 0:
                self._foretell(seq + 1)
                self.journal.finish()
        elif seq in self.disk.foretold:
            if self.disk.foretold[seq] != content:
                self.site.violated("S2", f"record {seq} is not what orders were sent by before it was written")
        else:
            if isinstance(self.value, core.LeaderFill) and self.auditor.is_announced(seq - 1):
                self.disk.foretold[seq] = content
            self._tell(seq, kind, content)

    def _foretell(self, seq: int) -> None:
        """Orders will leave before the record that names them is written: what it must say is decided by an engine of its own,
        as a start that finds the announcement would."""
        out = core.Engine.restore(self.engine.checkpoint()).step(0, self.value)
        assert out is not None
        self.disk.foretold[seq] = out.decisions, out.ends, out.named, out.stops
        self._tell(seq, kind_of(self.value), self.disk.foretold[seq])

    def _tell(self, seq: int, kind: int, content: tuple[bytes, ...]) -> None:
        value = self.value
        decisions, ends, named, stops = content
        name, fields = "Quotes", NO_FIELDS
        if kind_of(value) == kind:
            name = type(value).__name__
            if name == "LeaderFill":
                fields = {
                    "leader": value.leader, "instrument": value.instrument, "position_side": value.position_side,
                    "qty": value.side * value.qty, "exec_id": value.exec_id, "live": value.live and not value.own,
                    "equity": _LEADER(self.columns.get(core.LEADERS, value.leader))[0],
                    "earned": [earned for earned, _ in self.engine.profits(self.clock.now_ns())],
                }
            elif name == "LeaderSync" and value.synced:
                fields = {"leader": value.leader, "positions": [position[:3] for position in value.positions]}
            elif name == "ExternalFill":
                fields = {"account": value.account, "instrument": value.instrument, "position_side": value.position_side,
                          "trade_id": value.trade_id}
            elif name == "Command":
                fields = {"name": value.name, "args": value.args}
        self.auditor.journaled(
            seq, name, fields,
            list(DecisionRow.LAYOUT.iter_unpack(decisions)), list(OrderEndRow.LAYOUT.iter_unpack(ends)),
            list(NamedOrder.LAYOUT.iter_unpack(named)), stops=list(StopRow.LAYOUT.iter_unpack(stops)),
        )

    def _durable(self, seq: int) -> None:
        self.auditor.durable(seq)
        self.disk.foretold = {record: content for record, content in self.disk.foretold.items() if record > seq}
        self.ages.append((self.world.now, seq))
        try:
            self.pump.durable(seq)
        except Crash:
            raise
        except Exception as error:
            self.site.violated("P12", f"send: {error!r}")
            self.fail(error)
            return
        waiting = self.waiting_commands
        while waiting and waiting[0][0] <= seq:
            waiting.pop(0)[1]()
            if self.draws.fault("A03", 40_000):
                self.point = "acknowledged"
                raise Crash(self.point)
            self.crashpoint("post_pause")
        if self.alive and self.draws.chance("checkpoint", 8_000):
            self._retire()
            self.crashpoint("pre_checkpoint")
            if self.journal.durable_seq == self.engine.names.seq:
                self.disk.checkpoint = (self.engine.names.seq, pack_checkpoint(self.engine))
            self.crashpoint("post_checkpoint")

    def _retire(self) -> None:
        """Forget orders that ended long ago, as before every checkpoint; nothing is told of them any more."""
        past = self.world.now - RETIRE_AFTER
        if self.stalled_until > past:
            return  # what came while it stood still may not have been heard yet
        seq = 0
        while self.ages and self.ages[0][0] < past:
            seq = self.ages.popleft()[1]
        if seq and self.ready:
            self.offer(core.Command("retire", {"before_seq": seq}))

    def command(self, name: str, args: dict[str, Any], done: Callable[[], None] | None = None) -> bool:
        """An operator's command; ``done`` when its record is durable. False where it is refused."""
        try:
            out = self.offer(core.Command(name, args, "operator"))
        except OperatorError:
            return False
        if out is None:
            return False
        if done is not None:
            self.waiting_commands.append((out.seq, done))
        self.crashpoint("post_command")
        return True

    # -- timers ---------------------------------------------------------------------------------------------------------
    def _later(self, delay: int, call: Callable[..., None], *args: Any) -> None:
        self.world.at(self.world.now + delay, self, call, *args)

    def _wake_in(self, delay: int) -> None:
        at = self.world.now + max(delay, MS)
        if at < self.wake_at:
            self.wake_at = at
            self.world.at(at, self, self._wake, at)

    def settle(self) -> None:
        """The end of an event that changed something."""
        self.dirty = False
        self._arm()

    def _arm(self) -> None:
        """The next moment at which something is due."""
        if not self.alive:
            return
        now = self.clock.now_ns()
        due = self.engine.timer_due
        if due(now + TIMER_STEPS[-1]):
            for step in TIMER_STEPS:
                if due(now + step):
                    self._wake_in(step)
                    break
        at = self.doubts.next_due()
        if at is not None:
            self._wake_in(at - now)
        for link in self.leaders:
            at = link.next_due()
            if at is not None:
                self._wake_in(at - now)

    def _wake(self, at: int) -> None:
        if at != self.wake_at:
            return
        self.wake_at = 1 << 62
        now = self.clock.now_ns()
        if self.engine.timer_due(now):
            self.offer(core.Timer())
        for link in self.leaders:
            link.tick()
        if self.ready:
            self._ask()
            for account in self.rounds.due(now, 2):
                self.look(account)
                self._wake_in(self.site.round_interval)
        self.dirty = True

    def _touch(self, account: int) -> None:
        self.rounds.touch(account, self.clock.now_ns())
        self._wake_in(self.rounds.soon_ns)

    # -- orders out (the pump's gateway) ----------------------------------------------------------------------------------
    chunk_max = 1_024

    def arrange(self, slots: array[int], turn: int) -> array[int]:
        """One connection: nothing to bring together."""
        return slots

    def render(self, slots: array[int]) -> list[Request]:
        """Signed requests for these order rows."""
        self.crashpoint("pre_render")
        found = []
        timestamp = self.world.now + self.clock_error
        for slot in slots:
            row = _ORDER(self.columns.get(core.ORDERS, slot))
            cid = row[O_CID]
            self.signed[cid] = self.clock.now_ns()
            found.append(Request(
                cid, row[O_ACCOUNT], row[O_INSTRUMENT], row[O_SIDE], row[O_QTY], row[O_LIMIT], row[O_POSITION_SIDE],
                bool(row[O_REDUCE_ONLY]), timestamp, row[O_KIND],
            ))
        return found

    def send(self, rendered: list[Request]) -> None:
        """To the connections, one by one."""
        world = self.world
        sent: list[bytes] = []
        for request in rendered:
            self.crashpoint("pre_send")
            connection = self._pick(request.account % CONNECTIONS)
            if connection is None:
                self.draws.count("O40")
                self._emit(ReportKind.NOT_SENT, 0, request.cid)
                continue
            if self.draws.fault("O22", 4_000):
                self._lose(connection, "reset before the first byte")
                self._emit(ReportKind.NOT_SENT, 0, request.cid)
                continue
            self.auditor.written(world.now, request.cid, request.account, request.instrument, request.position_side,
                                 request.side, request.qty, request.limit_px, request.reduce_only, request.kind)
            if world.trace is not None:
                world.say("daemon", f"sends {request.cid.hex()[:14]} {request.side * request.qty:+d} of {request.instrument} "
                                    f"{f'limit {request.limit_px}' if request.limit_px else 'market'} for {request.account}")
            connection.pending[request.cid] = None
            sent.append(request.cid)
            self._travel(request, connection)
            self.crashpoint("post_send")
        if sent:
            self._later(ACK_TIMEOUT, self._timed_out, sent)

    def _pick(self, at: int) -> Connection | None:
        for step in range(CONNECTIONS):
            connection = self.connections[(at + step) % CONNECTIONS]
            if connection.up:
                return connection
        return None

    def _travel(self, request: Request, connection: Connection) -> None:
        """What the network does with one written request."""
        world, draws, venue = self.world, self.draws, self.venue
        delay = world.latency("net.out") + venue.accounts[request.account].slow
        if world.now < venue.storm_until:
            delay = draws.between("storm.net", RECV * 6 // 10, RECV)
        dropped = connection.half_open
        extra = 0
        lost = connection.half_open and bool(draws.draw("net.half_open", 2))
        if draws.fault("O21", 4_000):
            # Some bytes are out when the connection breaks: enough for the venue, or not.
            self._later(draws.param("O21", "ms", 0, 300) * MS, self._lose, connection, "broken after the write")
            lost, dropped = bool(draws.param("O21", "lost", 0, 1)), True
        elif draws.fault("O02", 25_000):
            lost = True
        elif draws.fault("O01", 30_000):
            dropped = True
        elif draws.fault("O03", 15_000):
            extra = draws.param("O03", "ms", 500, 12_000) * MS
        elif draws.fault("O35", 8_000):
            delay += draws.param("O35", "ms", 500, 2_500) * MS
        answer = partial(self._answer, connection, connection.generation, request.cid, dropped, extra)
        if draws.fault("O05", 12_000):
            # A gateway of the venue delivers the request again, later; the first answer may be lost with it.
            later = delay + draws.param("O05", "ms", 1, 2_600) * MS
            venue.copied.add(request.cid)
            rests = draws.param("O05", "rests", 0, 2) == 0
            if rests:
                # It still rests when the second copy comes: that one is told that the id exists.
                venue.resting[request.cid] = draws.param("O05", "for", 600, 2_500)
                later = delay + draws.param("O05", "soon", 20, 500) * MS
            world.at(world.now + later, None, venue.arrive, request._replace(answer=answer), True)
            if rests or draws.param("O05", "lost", 0, 2) == 0:
                if draws.param("O05", "untold", 0, 2) == 0:
                    venue.untold.add(request.cid)
                answer = partial(self._answer, connection, connection.generation, request.cid, True, 0)
        if not lost:
            world.at(world.now + delay, None, venue.arrive, request._replace(answer=answer))

    def _answer(self, connection: Connection, generation: int, cid: bytes, dropped: bool, extra: int, reply: Reply) -> None:
        """An answer leaves the venue."""
        if dropped:
            return
        world = self.world
        slow = self.venue.accounts[reply.order.account].slow if reply.order is not None else 0
        world.at(world.now + world.latency("net.back") + extra + slow, self, self._on_reply, connection, generation, cid, reply)

    def _lose(self, connection: Connection, why: str) -> None:
        """A connection is gone: what was not answered on it is in doubt at once; it is opened again after a while."""
        if not connection.up:
            return
        if self.world.trace is not None:
            self.world.say("network", f"order connection lost: {why}")
        connection.up = connection.half_open = False
        connection.generation += 1
        pending, connection.pending = connection.pending, {}
        for cid in pending:
            self._emit(ReportKind.IN_DOUBT, 0, cid)
        down = max(50 * MS, self.partition_until - self.world.now)
        if self.draws.fault("O40", 200_000):
            down = self.draws.param("O40", "ms", 100, 6_000) * MS
        self._later(down, self._reopened, connection)

    def _reopened(self, connection: Connection) -> None:
        connection.up, connection.half_open = True, False

    def _timed_out(self, cids: list[bytes]) -> None:
        """No answer in time: in doubt; the answer may still come."""
        for cid in cids:
            for connection in self.connections:
                if cid in connection.pending:
                    del connection.pending[cid]
                    self.doubted[cid] = None
                    self._emit(ReportKind.IN_DOUBT, 0, cid)

    # -- answers in -----------------------------------------------------------------------------------------------------
    def _on_reply(self, connection: Connection, generation: int, cid: bytes, reply: Reply) -> None:
        if generation != connection.generation:
            return
        late = cid not in connection.pending
        if late and cid not in self.doubted:
            return
        if late:
            del self.doubted[cid]
        else:
            del connection.pending[cid]
        self.crashpoint("pre_reply")
        verdict = classify(reply.status, reply.code, reply.message)
        if self.world.trace is not None:
            self.world.say("network", f"answer to {cid.hex()[:14]}: {reply.status} {reply.code or ''} {verdict.outcome.name}"
                                      f"{' late' if late else ''}")
        if verdict.outcome is Outcome.ACCEPTED and reply.order is not None:
            self._show(ReportKind.REPLY, reply.order)
        elif verdict.outcome is Outcome.DEFINITE_REJECT:
            self._emit(ReportKind.REJECT, OrderState.REJECTED, cid, code=verdict.code)
        elif not late:
            self._emit(ReportKind.IN_DOUBT, 0, cid, code=verdict.code)
        self._told_to_wait(reply.status)
        self._flush()
        self.crashpoint("post_reply")

    def _show(self, kind: int, shown: Shown) -> None:
        self.rows.append(kind, shown.status, shown.cid, shown.cum, shown.cost_e8, 0, 0, 0, 0, shown.id, shown.t)

    def _emit(self, kind: int, status: int, cid: bytes, code: int = 0) -> None:
        """A row of the next batch; delivered when this turn is over."""
        self.rows.append(kind, status, cid, 0, 0, 0, 0, 0, 0, 0, 0, code)
        if not self.flush_due:
            self.flush_due = True
            self._later(0, self._flush)

    def _flush(self) -> None:
        self.flush_due = False
        batch = self.rows
        if batch.count:
            self.rows = ReportBatch()
            self._reports(batch.to_bytes())

    def _reports(self, rows: bytes) -> None:
        """As the venue side of the daemon handles report rows."""
        self.offer(core.Reports(rows))
        if not self.alive:
            return
        columns, doubts = self.columns, self.doubts
        alive = None
        asked = False
        for at in range(0, len(rows), _REPORT):
            cid, kind = rows[at : at + 16], rows[at + 88]
            slot = columns.order_slot(cid)
            if slot is None:
                continue
            order = _ORDER(columns.get(core.ORDERS, slot))
            if order[O_STATE] in TERMINAL:
                if cid in doubts:
                    doubts.ended(cid)
            elif kind == ReportKind.IN_DOUBT:
                self._doubt(order, self.signed.get(cid, self.clock.now_ns()))
                asked = True
            elif kind == ReportKind.REPLY and cid not in doubts:
                alive = [*(alive or ()), cid]
        if alive:
            self._later(ACK_TIMEOUT, self._ask_if_unfinished, alive)
        if asked:
            self._wake_in(MS)

    def _ask_if_unfinished(self, cids: Iterable[bytes]) -> None:
        now = self.clock.now_ns()
        for cid in cids:
            slot = self.columns.order_slot(cid)
            if slot is not None:
                order = _ORDER(self.columns.get(core.ORDERS, slot))
                if UNFINISHED_MASK >> order[O_STATE] & 1:
                    self._doubt(order, self.signed.get(cid, now))
        self._wake_in(MS)

    # -- doubts ---------------------------------------------------------------------------------------------------------
    def _doubt(self, order: tuple[Any, ...], signed: int) -> None:
        exposure = order[O_QTY] * (order[O_LIMIT] or order[O_REF])
        seen = bool(order[O_VENUE_ID] or order[O_CUM])
        placed = placed_since(order[O_DECIDED], order[O_CID], self.engine.params.epoch)
        self.doubts.add(order[O_CID], order[O_ACCOUNT], order[O_INSTRUMENT], signed, exposure, seen, placed)

    def _ask_untold(self) -> None:
        """As the venue side of the daemon asks for executions that were never told."""
        now = self.clock.now_ns()
        for slot in self.columns.orders_untold(0, 1 << 31, now - UNTOLD_AFTER, now, TERMINAL_MASK):
            order = _ORDER(self.columns.get(core.ORDERS, slot))
            self.doubts.tell(order[O_CID], order[O_ACCOUNT], order[O_INSTRUMENT], order[O_VENUE_ID] != 0)
        self._later(UNTOLD_AFTER, self._ask_untold)
        self.dirty = True

    def _expected(self, account: int, instrument: int, since: int) -> tuple[int, int, bool]:
        """The position we believe in, and whether a comparison can prove anything now."""
        return self.engine.expected(
            account, instrument, since, self.doubts.cids(account, instrument))

    def _ask(self) -> None:
        now = self.clock.now_ns()
        for ask in self.doubts.asks(now):
            self.crashpoint("pre_ask")
            self._weigh(now, ask.kind)
            if self.world.trace is not None:
                self.world.say("daemon", f"asks {ask.kind.name} of {ask.account} {ask.cid.hex()[:14]}")
            failed = partial(self._failed, ask.id)
            if ask.kind is AskKind.ORDER:
                self.call(self.venue.show_order, (ask.account, ask.cid), partial(self._told_order, ask.id), failed)
            elif ask.kind is AskKind.ORDERS:
                since = ask.since_ns + self.world.now - now - self.clock_error
                told = partial(self._told_orders, ask.id)
                self.call(self.venue.show_orders, (ask.account, ask.instrument, since), told, failed)
            elif ask.kind is AskKind.TRADES:
                slot = self.columns.order_slot(ask.cid)
                number = _ORDER(self.columns.get(core.ORDERS, slot))[O_VENUE_ID] if slot is not None else 0
                self.call(self.venue.show_trades, (ask.account, number), partial(self._told_trades, ask.id, ask.cid), failed)
            else:
                told = partial(self._told_position, ask.id, ask.instrument)
                self.call(self.venue.show_position, (ask.account,), told, failed)

    def _weigh(self, now: int, kind: AskKind) -> None:
        """S16: the questions stay within their budget, and none is put before the venue wants one."""
        terms, weights = self.terms, self.weights
        weight = (terms.weight_order, terms.weight_orders, terms.weight_position, terms.weight_orders)[kind - 1]
        weights.append((now, weight))
        self.weight += weight
        while weights[0][0] <= now - WINDOW:
            self.weight -= weights.popleft()[1]
        burst = max(terms.weight_per_s, terms.weight_orders, terms.weight_position)
        if self.weight > terms.weight_per_s * (WINDOW // S) + burst:
            self.site.violated("S16", f"questions of weight {self.weight} in {WINDOW // S} s, {terms.weight_per_s} per s may be")
        if now < self.silent_until:
            self.site.violated("S16", f"a question {(self.silent_until - now) / S:.3f} s before the venue wants one")

    def _told_to_wait(self, status: int) -> None:
        if status in (418, 429):
            self.silent_until = self.clock.now_ns() + self.venue.retry_after()
            self.doubts.pause(self.silent_until)

    def _failed(self, ask: int, status: int) -> None:
        now = self.clock.now_ns()
        self._told_to_wait(status)
        self.doubts.failed(now, ask)
        self.dirty = True

    def _told_order(self, ask: int, shown: Shown | None) -> None:
        self.crashpoint("pre_answer")
        now = self.clock.now_ns()
        if shown is not None:
            self._show(ReportKind.REPLY, shown)
            verdicts = self.doubts.answered_order(now, ask, _found(shown))
        else:
            verdicts = self.doubts.answered_order(now, ask, None)
        self._judged(verdicts)

    def _told_orders(self, ask: int, answer: tuple[list[Shown], bool]) -> None:
        self.crashpoint("pre_answer")
        found, complete = answer
        for shown in found:
            if shown.cid in self.doubts:
                self._show(ReportKind.REPLY, shown)
        self._judged(self.doubts.answered_orders(self.clock.now_ns(), ask, [_found(shown) for shown in found], complete))

    def _told_trades(self, ask: int, cid: bytes, trades: list[Trade]) -> None:
        self.crashpoint("pre_answer")
        for trade in trades:
            self.rows.append(
                ReportKind.TRADE, trade.status, cid, 0, 0, abs(trade.qty), trade.px, fee_e8(trade), trade.id, trade.order_id,
                trade.t)
        self._flush()
        if self.alive:
            slot = self.columns.order_slot(cid)
            order = _ORDER(self.columns.get(core.ORDERS, slot)) if slot is not None else None
            told = order is None or (order[O_EXEC] >= order[O_CUM] and not order[O_ESTIMATED])
            self.doubts.answered_trades(self.clock.now_ns(), ask, told)

    def _told_position(self, ask: int, instrument: int, answer: tuple[int, list[tuple[int, int, int]]]) -> None:
        self.crashpoint("pre_answer")
        net = sum(qty for index, side, qty in answer[1] if index == instrument and side != 2)
        short = sum(qty for index, side, qty in answer[1] if index == instrument and side == 2)
        self._judged(self.doubts.answered_position(self.clock.now_ns(), ask, net, short))

    def _judged(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            if self.world.trace is not None:
                self.world.say("daemon", f"{verdict.cid.hex()[:14]} is {ReportKind(verdict.kind).name}")
            self.rows.append(verdict.kind, 0, verdict.cid, 0, 0, 0, 0, 0, 0, 0, verdict.issued_ns)
        self._flush()
        self.dirty = True

    # -- questions to the venue -------------------------------------------------------------------------------------------
    def call(
        self, read: Callable[..., Any], args: tuple[Any, ...], done: Callable[[Any], None], failed: Callable[[int], None],
    ) -> None:
        """A read over the network: an answer, an error, or nothing at all (then ``failed`` after a timeout)."""
        world, draws = self.world, self.draws
        if world.now < self.partition_until:
            self._later(50 * MS, failed, 0)
            return
        if draws.fault("O37", 15_000):
            self._later(ANSWER_TIMEOUT, failed, 0)
            return
        world.at(world.now + world.latency("rest.out"), None, self._read, read, args, done, failed)

    def _read(
        self, read: Callable[..., Any], args: tuple[Any, ...], done: Callable[[Any], None], failed: Callable[[int], None],
    ) -> None:
        """At the venue."""
        world, draws = self.world, self.draws
        back = world.now + world.latency("rest.back")
        status = self.venue.refuses() or (500 if draws.fault("O09/read", 15_000) else 0)
        if status:
            world.at(back, self, failed, status)
            return
        answer = read(*args)
        if draws.fault("O04", 20_000):
            back += draws.param("O04", "ms", 100, 5_000) * MS
        elif world.now < self.venue.storm_until:
            back += draws.between("storm.answer", 200, ANSWER_TIMEOUT // MS - 50) * MS
        world.at(back, self, done, answer)

    # -- accounts -----------------------------------------------------------------------------------------------------
    def look(self, account: int, refused: Sequence[int] = ()) -> None:
        """Compare an account with the venue's books; ``refused``: instruments of reductions that were not taken as such."""
        if account in self.looking:
            return
        self.looking.add(account)
        asked, seq = self.clock.now_ns(), self.engine.names.seq + 1
        looked = partial(self._looked, account, list(refused), seq, asked)
        self.call(self.venue.show_position, (account,), looked, partial(self._not_looked, account))

    def _not_looked(self, account: int, status: int) -> None:
        self.looking.discard(account)
        if account not in self.activated:
            self._later(500 * MS, self.look, account)
        else:
            self._touch(account)

    def _looked(
        self, account: int, refused: list[int], seq: int, asked: int, answer: tuple[int, list[tuple[int, int, int]]],
    ) -> None:
        self.looking.discard(account)
        self.looked_at[account] = self.world.now
        wallet, positions = answer
        self.offer(core.AccountSnapshots(
            [(account, wallet, positions)], adopt=bool(refused), seq_asked=seq, ts_asked=asked, refused=refused))
        for instrument in range(len(self.venue.instruments)):
            if not self.site.difference(self.engine, account, instrument):
                self.auditor.agreed(account, instrument)
        if account not in self.activated and self.alive:
            self.activated.add(account)
            held = self.venue.accounts[account]
            hedge = held.hedge
            self.offer(core.LegsReady([
                (account, index, True, hedge, True, leverage) for index, leverage in enumerate(held.leverage)]))

    def _adopt(self, account: int, refused: list[int], mode: bool, tries: int) -> None:
        """After a refusal that contradicts our picture: the venue's word on mode and position, in a moment without orders."""
        if mode:
            self._set_mode(account)
        if self.columns.orders_in_state(UNFINISHED_MASK, account) and tries < 40:
            self._later(250 * MS, self._adopt, account, refused, False, tries + 1)
            return
        self.adopting.discard(account)
        if tries < 40:
            self.look(account, refused)

    def _set_mode(self, account: int) -> None:
        """The account's position mode as the venue has it, where we believed in another."""
        columns, hedge = self.columns, self.venue.accounts[account].hedge
        if hedge == bool(_ACCOUNT(columns.get(core.ACCOUNTS, account))[A_HEDGE]):
            return
        rows = [_AI(columns.get(core.ACCOUNT_INSTRUMENTS, account * columns.instruments_max + index))
                for index in range(len(self.venue.instruments))]
        self.offer(core.LegsReady([
            (account, index, bool(row[AI_READY]), hedge, bool(row[AI_ISOLATED]), row[AI_LEVERAGE])
            for index, row in enumerate(rows)]))

    # -- user streams -----------------------------------------------------------------------------------------------------
    def cut_off(self, duration: int) -> None:
        """The machine has no network: every connection breaks, every question fails; what was just written lives on unseen."""
        self.partition_until = self.world.now + duration
        for connection in self.connections:
            self._lose(connection, "no network")
        self.lose_streams(duration)
        for link in self.leaders:
            link.lose_all("no network")

    def lose_streams(self, down: int) -> None:
        """The followers' stream connection is gone; what happens meanwhile is not told."""
        for stream in self.streams.values():
            stream.open = False
        self._later(down, self._streams_again)

    def _streams_again(self) -> None:
        self.crashpoint("streams_again")
        for account in self.streams:
            self._subscribe(account)
            self.gap(account)

    def gap(self, account: int) -> None:
        """Events of an account may be missing: its position is read again, its unfinished orders are asked about."""
        now = self.clock.now_ns()
        self.look(account)
        for slot in self.columns.orders_in_state(UNFINISHED_MASK, account):
            order = _ORDER(self.columns.get(core.ORDERS, slot))
            self._doubt(order, self.signed.get(order[O_CID], now))
        self._wake_in(MS)

    def _on_user(self, account: int, what: Any) -> None:
        """One event of a follower's user stream."""
        if isinstance(what, Trade):
            self._on_trade(account, what)
        elif isinstance(what, Shown):
            self._show(ReportKind.STREAM, what)
            self._flush()
        elif what[0] == "balance":
            self.rows.append_balance(account, what[1], self.clock.now_ns())
            self._flush()
        elif what[0] == "leverage":
            _, instrument, leverage = what
            columns = self.columns
            row = _AI(columns.get(core.ACCOUNT_INSTRUMENTS, account * columns.instruments_max + instrument))
            hedge = _ACCOUNT(columns.get(core.ACCOUNTS, account))[A_HEDGE]
            if row[AI_LEVERAGE] != leverage:
                self.offer(core.LegsReady(
                    [(account, instrument, bool(row[AI_READY]), bool(hedge), bool(row[AI_ISOLATED]), leverage)]))
        elif what[0] == "expired":
            self._subscribe(account)
            self.gap(account)

    def _on_trade(self, account: int, trade: Trade) -> None:
        ts = self.local(trade.t)
        if self.venue.ours(trade.cid):
            if self.columns.order_slot(trade.cid) is None:
                self._on_orphan(account, trade, ts)
                return
            self.rows.append(ReportKind.TRADE, trade.status, trade.cid, trade.cum, trade.cost_e8, abs(trade.qty), trade.px,
                             fee_e8(trade), trade.id, trade.order_id, trade.t)
            self._flush()
            return
        self.offer(core.ExternalFill(
            account, trade.instrument, trade.position_side, trade.qty, trade.id, trade.kind, ts, trade.t))

    def _on_orphan(self, account: int, trade: Trade, ts: int) -> None:
        """A fill under our tag of an order no table knows; of a later epoch, it is the last thing this daemon hears."""
        self.draws.count("O31")
        later = epoch_of(trade.cid) > self.epoch
        told, key = self.site.orphans, (self.index, account, trade.instrument, trade.id)
        new = key not in told
        told[key] = None
        out = self.offer(core.OrphanFill(
            account, trade.instrument, trade.position_side, trade.qty, trade.px, trade.id, trade.cid, ts))
        if later:
            # A follower sees our tag and could type such an id himself: one account of several is no evidence.
            self.later[account] = None
            if len(self.later) >= min(2, len(self.venue.accounts)):
                self.auditor.fenced(self.world.now)
        elif new and out is None and self.alive:
            self.site.violated("S6", f"a fill of an order that no table knows is not booked: {trade.cid.hex()}")

    def local(self, ts_venue: int) -> int:
        """A time of the venue on our clock, by our estimate of the difference."""
        return ts_venue + self.clock.now_ns() - self.world.now - self.clock_error

    # -- what the auditor hears of our belief ----------------------------------------------------------------------------
    def _believe(self, value: Any, out: core.Outputs) -> None:
        """Orders and legs that the step has changed."""
        columns, now = self.columns, self.world.now
        get = columns.get
        auditor, live = self.auditor, self.live
        if out.orders:
            slots = array("I")
            slots.frombytes(out.orders)
            for slot in slots:
                live[slot] = b""
        if type(value) is core.Reports:
            rows = value.rows
            for at in range(0, len(rows), _REPORT):
                known = columns.order_slot(rows[at : at + 16])
                if known is not None and known not in live:
                    live[known] = b""
        for slot, seen in list(live.items()):
            data = get(core.ORDERS, slot)
            if data == seen:
                continue
            row = _ORDER(data)
            auditor.order(now, row[O_CID], row[O_STATE], row[O_CUM])
            if row[O_STATE] in TERMINAL:
                del live[slot]
            else:
                live[slot] = data
        seen_legs = self.legs_seen
        for index in range(columns.count(core.LEGS)):
            data = get(core.LEGS, index)
            if index == len(seen_legs):
                seen_legs.append(b"")
            if data != seen_legs[index]:
                seen_legs[index] = data
                row = _LEG(data)
                auditor.leg(now, index, row[L_PLAN], row[L_ACCOUNT], row[L_INSTRUMENT], row[L_SIDE], row[L_TARGET],
                            row[L_ATTRIBUTED], row[L_PENDING], row[L_DEFERRED], row[L_OPEN], row[L_REDUCE], row[L_DETACHED])

    def _believe_all(self) -> None:
        """After a fold: every order and leg that is known."""
        columns = self.columns
        mask = (1 << 32) - 1
        for slot in columns.orders_in_state(mask):
            row = _ORDER(columns.get(core.ORDERS, slot))
            self.auditor.order(self.world.now, row[O_CID], row[O_STATE], row[O_CUM])
            if row[O_STATE] not in TERMINAL:
                self.live[slot] = b""
        self.legs_seen = []

    # -- state, for the end and for people ------------------------------------------------------------------------------
    def quiet(self) -> bool:
        """Nothing unfinished, nothing due, nothing asked."""
        if not self.ready or self.doubts.doubted or self.live or self.adopting or self.looking:
            return False
        columns = self.columns
        for index in range(columns.count(core.LEGS)):
            row = _LEG(columns.get(core.LEGS, index))
            if row[L_RETRY] or row[L_DEFERRED] or row[L_OPEN] or row[L_REDUCE]:
                return False
        return all(link.synced for link in self.leaders) and not any(self.untold())

    def untold(self) -> Iterator[bytes]:
        """Orders that have ended, whose executions the venue shows and has not told: their fees are not known."""
        for slot in self.columns.orders_untold(0, 1 << 31, 0, 0, TERMINAL_MASK):
            row = _ORDER(self.columns.get(core.ORDERS, slot))
            if row[O_VENUE_ID]:
                yield row[O_CID]

    def restless(self) -> str:
        """Why it is not quiet."""
        why = [] if self.ready else ["not started"]
        if self.doubts.doubted:
            why.append(f"{self.doubts.doubted} orders in doubt")
        columns = self.columns
        for slot in self.live:
            row = _ORDER(columns.get(core.ORDERS, slot))
            why.append(f"order {row[O_CID].hex()[:14]} is {OrderState(row[O_STATE]).name}")
        for index in range(columns.count(core.LEGS)):
            row = _LEG(columns.get(core.LEGS, index))
            if row[L_RETRY] or row[L_DEFERRED] or row[L_OPEN] or row[L_REDUCE]:
                why.append(f"leg {index} waits: retry {row[L_RETRY]}, deferred {row[L_DEFERRED]}, open {row[L_OPEN]}, "
                           f"reduce {row[L_REDUCE]}")
        why += [f"of order {cid.hex()[:14]} less was told than filled" for cid in self.untold()]
        why += [f"leader {link.leader} is out of sync: {link.stream.reason}" for link in self.leaders if not link.synced]
        return "; ".join(why)

    def reasons(self) -> dict[int, str]:
        """Legs that may differ from their target for a reason the daemon itself tells."""
        return {}

    def _trace(self, out: core.Outputs) -> None:
        name = type(out.input).__name__
        text = f"#{out.seq} {name}"
        if isinstance(out.input, core.LeaderFill):
            fill = out.input
            text += f" {fill.side * fill.qty:+d} of {fill.instrument} exec {fill.exec_id}{'' if fill.live else ' observed'}"
        elif isinstance(out.input, core.Reports):
            text += " " + ", ".join(
                f"{ReportKind(row.kind).name} {row.cid.hex()[:14]} cum {row.cum_qty}" if row.account == NONE else "BALANCE"
                for row in ReportRow.unpack_all(out.input.rows))
        elif isinstance(out.input, core.Command):
            text += f" {out.input.name} {'' if out.input.name == 'import_plans' else out.input.args}"
        elif isinstance(out.input, TOLD_WHOLE):
            text += " " + str({name: getattr(out.input, name) for name in out.input.__struct_fields__ if name != "raw"})
        self.world.say("core", text)
        for named in NamedOrder.unpack_all(out.named):
            self.world.say("core", f"  order {named.cid.hex()[:14]} leg {named.leg} {named.side * named.order_qty:+d} "
                                   f"{f'limit {named.limit_px}' if named.limit_px else 'market'}"
                                   f"{' reduce-only' if named.reduce_only else ''}{' reduction' if named.kind else ' opening'}")
        for alert in out.alerts:
            self.world.say("core", f"  alert {alert.name}: {alert.text}")
        for index in range(self.columns.count(core.LEGS)):
            data = self.columns.get(core.LEGS, index)
            if index >= len(self.legs_seen) or data != self.legs_seen[index]:
                row = _LEG(data)
                self.world.say("core", f"  leg {index}: target {row[L_TARGET] / (1 << 32):.3f}, holds {row[L_ATTRIBUTED]}"
                                       f"{f', opening {row[L_OPEN]}' if row[L_OPEN] else ''}"
                                       f"{f', closing {row[L_REDUCE]}' if row[L_REDUCE] else ''}"
                                       f"{f', waiting {row[L_DEFERRED] / (1 << 32):.3f}' if row[L_DEFERRED] else ''}")


def _found(shown: Shown) -> Found:
    return Found(shown.cid, shown.status, shown.cum, shown.status not in (NEW, PARTIAL))


def _sent(times: Sent) -> None:
    """Acknowledgements are not timed here."""

