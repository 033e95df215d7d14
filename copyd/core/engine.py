"""The engine: ``step(now, input) -> Outputs``. All state is a fold over the inputs; the same inputs give the same bytes.

No I/O, no clock, no randomness, no floats (semantics 44). What the engine wants done, it returns: order slots to send
once the record is durable, orders to ask the venue about, alerts. The stations are called in the order of the path:

    leader_event (fold, split)  →  kernel: copy_instruction, risk, order for every follower  →  Outputs
    reports from the venue      →  kernel: fill, position, excess closed, waiting openings released  →  Outputs
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import gcd
from typing import Any, ClassVar, TypeVar

import msgspec

from copyd._fast.columns import Columns, ReportBatch
from copyd._fast.fanout import Kernel
from copyd._fast.replies import rows_about, rows_of
from copyd._fast.rowpack import pack_rows, unpack_rows
from copyd.core.copy_instruction import book_missed, defer, ratio, set_anchor
from copyd.core.fill import on_short_side
from copyd.core.fixed import BPS, E8, ONE, mul_div_trunc, sign
from copyd.core.identifiers import CID_BYTES, cause_id, epoch_of, site_of
from copyd.core.instrument import base_price, conversion, converted_price, notional
from copyd.core.leader_event import LeaderBook, split
from copyd.core.order import reducible, room_of, tradable
from copyd.core.pnl import allocation_equity
from copyd.core.reconcile import may_catch_up
from copyd.core.risk import exceeds_declared
from copyd.core.rows import (
    NONE,
    TERMINAL,
    TERMINAL_MASK,
    UNFINISHED_MASK,
    AccountInstrumentRow,
    AccountRow,
    DecisionRow,
    FillEvent,
    InstrumentRow,
    Kind,
    LeaderPositionRow,
    LeaderRow,
    LegRow,
    LossPolicy,
    Mode,
    NamedOrder,
    OrderEndRow,
    OrderRow,
    OrderState,
    Params,
    PlanRow,
    PlanState,
    Reason,
    ReportKind,
    ReportRow,
    Row,
    Side,
    StopRow,
)
from copyd.errors import BrokenInvariant, OperatorError

R = TypeVar("R", bound=Row)

INSTRUMENTS, LEADERS, POSITIONS, PLANS, ACCOUNTS, ACCOUNT_INSTRUMENTS, LEGS, ORDERS, TRADES = range(9)
HALTED_BY_KILL_SWITCH, HALTED_BY_STATE, HALTED_BY_VENUE_KILL, HALTED_BY_VENUE_STATE = 1, 2, 4, 8
HALTED_BY_VENUE = HALTED_BY_VENUE_KILL | HALTED_BY_VENUE_STATE
PLAN_CELLS = (
    "follower", "leader", "account", "allocation_e8", "amount_e8", "max_notional_symbol_e8", "max_notional_total_e8",
    "multiplier_ppm", "raise_max_factor_ppm", "instruments", "leverage", "leverage_max", "risk_bps", "assumed_stop_bps",
    "max_position_bps", "max_loss_per_trade_bps", "slippage_bps", "slippage_mid_bps", "max_open_trades", "mode",
    "ratio_snapshot", "min_policy", "on_insufficient", "require_stop", "state",
)
"""What a plan must say; integers, with choices as their codes."""
LOSS_CELLS = ("total_loss_bps", "daily_loss_bps", "leader_drawdown_bps", "loss_policy")
"""The loss limits a plan may say; without them it has none."""
DAY_NS = 86_400_000_000_000
HOUR_NS = 3_600_000_000_000
KEPT_CELLS = (
    "realised_e8", "commission_e8", "funding_e8", "paid_e8", "loss_base_e8", "day_pnl_e8", "day_equity_e8", "leader_peak_e8",
    "stopped_by", "keeping",
)
"""What a plan has become, which changing its terms does not touch."""
MINUTE_NS = 60_000_000_000
FUNDING_SEEN_MAX = 200_000
FLOWS_SEEN_MAX = 100
FLOW_TWICE_NS = 5_000_000_000
KEPT_BACK_MAX_BPS = 50
"""A spot leader whose venue shows so little less than his fills add up to was charged it, or a lot; no sale is so small."""
GAP_FALL = 5
"""Percent his equity may fall while he is not heard and still count as loss: beyond, it may as well have been a withdrawal."""
RUNAWAY_LEAST = 1_000
"""So many orders a minute never trip the breaker, however few the followers."""
EXTERNAL_SEEN_MAX = 20_000
"""Trades of followers' own that are remembered; a copy of one follows within seconds, over a connection being renewed."""
VOLUME_DAYS = 30
"""A leader's volume is that of so many days, by UTC; of those he must have shown some of (semantics 18: eligible)."""
UNTOLD_KEPT_NS = 24 * 3_600_000_000_000
"""So long an order is kept whose executions were not all told."""
HELD_PATIENCE = 60
"""A difference that an order in conflict may have made is another hand's only after this many times the read lag."""
INSTRUMENTS_MAX = 64
"""A plan's list of allowed instruments is one word."""
ROOM_LEAST, ROOM_ORDERS_PER_LEG = 4_096, 2
"""Orders for which memory is kept ready."""
INFERRED_MAX, INFERRED_AGE = 1_000, 3_600_000_000_000
"""Differences explained by inference that are remembered, in case the real trade is still told."""
CLOCK_SLACK_NS = 2_000_000_000
"""A time of the venue's, put on our clock, may be wrong by this much."""
NEVER = 1 << 62
CHECKPOINT_VERSION = 7
"""Raised when a row or a name in the state changes its layout."""
CHECKPOINT_ANNOUNCED, CHECKPOINT_PARTS = 8, 11
"""The version, and the parts before what was announced and is not decided yet, of a checkpoint that ends with such."""
CHECKPOINT_ONE_VENUE = (5, 6)
"""The same two, of builds that knew one venue: still read."""
READY_FIRST = 16
"""Openings that are told as ready before all others are decided: so few leave early."""
EXPECTED_GRACE_NS = 1_500_000_000
"""A position the venue pushed may be ahead of its fills for this long; then the leader counts as out of sync."""


# -- inputs: everything that can change a decision ---------------------------------------------------------------------


class Input(msgspec.Struct, array_like=True, tag_field="t", frozen=True):
    """One thing that happened; journaled before anything it causes leaves the process."""


class Started(Input, tag=1, frozen=True):
    """A daemon took over: its epoch goes into every new client order id, unfinished orders are in doubt (semantics 36)."""

    epoch: int
    site: int
    key: bytes
    build: str


class InstrumentSpec(msgspec.Struct, array_like=True, frozen=True):
    """An instrument as its venue lists it: (venue, symbol) name it, the index counts over all venues.

    Decimals are for display and the wire only. One lot is ``base_mul / base_div`` of the base asset, exactly. ``spot``: bought
    and sold, not held as a position.
    """

    symbol: str
    row: bytes
    price_decimals: int
    qty_decimals: int
    tick: int = 1
    lot: int = 1
    venue: str = ""
    base_mul: int = 1
    base_div: int = 1
    spot: bool = False


class Declared(msgspec.Struct, frozen=True):
    """What a leader says he stays within: a bit per instrument, leverage, and the worth of one position; 0 = not declared.

    ``volume_e8``: what he must have traded here within ``VOLUME_DAYS`` before anybody opens after him; 0 = nothing.
    """

    instruments: int = (1 << 64) - 1
    leverage: int = 0
    position_e8: int = 0
    volume_e8: int = 0


class Configured(Input, tag=2, frozen=True):
    """Configuration that decisions read, with its version; instruments and leaders keep their index for ever.

    ``mirrors``: (the leader's instrument, the one on another venue in which it is followed there), for ever too; an instrument
    mirrors itself without being listed. ``leader_venues``: where a leader trades, if not where the first instrument is listed.
    """

    version: int
    params: bytes
    instruments: list[InstrumentSpec]
    leaders: list[str]
    suspended: list[str] = []
    declared: dict[str, Declared] = {}
    mirrors: list[tuple[int, int]] = []
    leader_venues: dict[str, str] = {}


class LeaderFill(Input, tag=3, frozen=True):
    """One execution of a leader. ``position_side`` 0 one-way, 1 long, 2 short; ``live`` False when found by back-fill."""

    leader: int
    instrument: int
    position_side: int
    exec_id: int
    order_id: int
    side: int
    qty: int
    px: int
    order_qty: int
    live: bool
    own: bool
    cause: str
    ts_event: int
    ts_recv: int
    raw: bytes


class Announced(Input, tag=22, frozen=True):
    """A leader's execution is about to be decided, at this record's time and on the state it finds; the next record is the
    execution itself with what was decided.

    Orders may leave as soon as this record is durable: what it does not say, they follow from (semantics 33, the second
    form). A journal that ends with it is continued by deciding it, to the same bytes.
    """

    fill: LeaderFill


class LeaderPosition(Input, tag=4, frozen=True):
    """A position of the leader as the venue pushed or was asked for; compared with the fold (semantics 11)."""

    leader: int
    instrument: int
    position_side: int
    qty: int
    leverage: int
    ts_event: int
    ts_recv: int


class LeaderSync(Input, tag=5, frozen=True):
    """The leader feed is in sync (with the full snapshot, which wins) or no longer."""

    leader: int
    synced: bool
    positions: list[tuple[int, int, int, int]]  # instrument, position side, quantity, leverage
    reason: str = ""


class LeaderEquity(Input, tag=6, frozen=True):
    """Margin balance of the leader including unrealised, e8 (semantics 16)."""

    leader: int
    equity_e8: int
    ts_event: int


class LeaderLeverage(Input, tag=7, frozen=True):
    """The leader's leverage in one instrument."""

    leader: int
    instrument: int
    leverage: int


class Quotes(Input, tag=8, frozen=True):
    """Best bid and ask and mark per instrument, as a decision is about to use them: (instrument, bid, ask, mark, ts)."""

    quotes: list[tuple[int, int, int, int, int]]


class Reports(Input, tag=9, frozen=True):
    """What the venue said about our orders: packed ``ReportRow`` bytes."""

    rows: bytes


class LegsReady(Input, tag=10, frozen=True):
    """What is set at the venue: (account, instrument, ready, hedge, isolated, leverage) (semantics 25)."""

    legs: list[tuple[int, int, bool, bool, bool, int]]


class AccountSnapshots(Input, tag=11, frozen=True):
    """(account, wallet e8, [(instrument, position side, quantity)]), as the venue told when asked at ``ts_asked``.

    A difference from what we know is believed when it can be: no order of the account unfinished or named since record
    ``seq_asked``, its position at rest for longer than a replica may lag, and a second look that agrees. ``adopt``: the
    venue has just refused a reduction as not reducing, so one look is enough (in the instruments of ``refused``, or all).
    """

    accounts: list[tuple[int, int, list[tuple[int, int, int]]]]
    adopt: bool = False
    seq_asked: int = 0
    ts_asked: int = 0
    refused: list[int] = []


class ExternalFill(Input, tag=12, frozen=True):
    """A fill on a follower's account that is not ours: by hand, liquidation, ADL (semantics 29, 30)."""

    account: int
    instrument: int
    position_side: int
    qty: int
    trade_id: int
    kind: str
    ts_event: int = 0
    ts_venue: int = 0
    px: int = 0


class OrphanFill(Input, tag=15, frozen=True):
    """A fill of an order that bears our site's tag and stands in no table: lost with a journal, or another daemon's."""

    account: int
    instrument: int
    position_side: int
    qty: int
    px: int
    trade_id: int
    cid: bytes
    ts_event: int = 0


class Marks(Input, tag=17, frozen=True):
    """Mark prices (instrument, ticks, ts) at which a loss limit is reached, or a new day begins: others change nothing.

    All that are known come together, each with its time, so that what a plan has lost is known at one moment.
    """

    marks: list[tuple[int, int, int]]


class Funding(Input, tag=18, frozen=True):
    """Funding that an account received (negative: paid) for its position in an instrument; ``id`` is the venue's, seen once."""

    account: int
    instrument: int
    amount_e8: int
    id: int
    ts_event: int = 0


class LeaderFlow(Input, tag=19, frozen=True):
    """The leader paid into his account, or took out (negative): no profit and no loss of his (semantics 18)."""

    leader: int
    amount_e8: int
    ts_event: int


class LeaderMarginCall(Input, tag=20, frozen=True):
    """The venue warns the leader that he may be liquidated: copying pauses (semantics 18)."""

    leader: int
    ts_event: int


class Turbulence(Input, tag=21, frozen=True):
    """An instrument's mark moved by ``range_bps`` within the window: too much to open in, or no longer (semantics 18)."""

    instrument: int
    on: bool
    range_bps: int


class CatchUp(Input, tag=16, frozen=True):
    """Legs whose forgone quantity is wanted after all, by the operator's out-of-sync policy (semantics 1)."""

    legs: list[int]


class Command(Input, tag=13, frozen=True):
    """An operator's word: name and arguments, with who and why."""

    name: str
    args: dict[str, Any]
    actor: str = ""


class Timer(Input, tag=14, frozen=True):
    """Time passed with something due: back-offs, waiting openings, a leader position that never was reached."""


AnyInput = (
    Started | Configured | LeaderFill | LeaderPosition | LeaderSync | LeaderEquity | LeaderLeverage | Quotes | Reports
    | LegsReady | AccountSnapshots | ExternalFill | Command | Timer | OrphanFill | CatchUp | Marks | Funding
    | LeaderFlow | LeaderMarginCall | Turbulence | Announced
)
LENGTHS = struct.Struct("<5I")
"""Bytes of each part of a record's payload; ``PACKED`` is set in those whose rows are packed (``copyd._fast.rowpack``)."""
PACKED = 1 << 31
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyInput)


# -- outputs ------------------------------------------------------------------------------------------------------------


class Alert(msgspec.Struct, frozen=True):
    """Something a person should hear."""

    name: str
    text: str
    fields: dict[str, Any] = {}


class Outputs(msgspec.Struct):
    """What a step decided. ``orders`` (uint32 slots as bytes, in sending order) wait for the commit of this record."""

    seq: int
    input: Any
    decisions: bytes = b""
    ends: bytes = b""
    orders: bytes = b""
    named: bytes = b""
    stops: bytes = b""
    suspects: bytes = b""
    queries: list[int] = []
    alerts: list[Alert] = []
    request_sync: list[int] = []
    recheck: list[int] = []
    settled: list[bytes] = []
    fenced: bool = False

    def payload(self) -> list[bytes]:
        """Record payload parts: five u32 lengths, then input, decisions, order ends, orders, loss stops."""
        raw = encode_input(self.input)
        decisions = pack_rows(self.decisions, DecisionRow.LAYOUT.size) if self.decisions else b""
        # Ids, the first bytes of an order, are not packed: a record can be searched for an order.
        named = pack_rows(self.named, NamedOrder.LAYOUT.size, CID_BYTES) if self.named else b""
        lengths = LENGTHS.pack(
            len(raw), len(decisions) | PACKED * bool(decisions), len(self.ends), len(named) | PACKED * bool(named),
            len(self.stops))
        return [lengths, raw, decisions, self.ends, named, self.stops]


class Recorded(msgspec.Struct):
    """The parts of a journal record's payload."""

    input: Any
    decisions: bytes
    ends: bytes
    named: bytes
    stops: bytes


def encode_input(value: Any) -> bytes:
    """An input as bytes."""
    return _encoder.encode(value)


def decode_payload(data: bytes | memoryview) -> Recorded:
    """The inverse of ``Outputs.payload``; raises ValueError on a foreign payload."""
    view = memoryview(data)
    if len(view) < LENGTHS.size:
        raise ValueError("record payload is too short")
    lengths = LENGTHS.unpack_from(view)
    sizes = [length & ~PACKED for length in lengths]
    if LENGTHS.size + sum(sizes) != len(view):
        raise ValueError("record payload has other lengths than it says")
    parts = []
    at = LENGTHS.size
    for size in sizes:
        parts.append(bytes(view[at : at + size]))
        at += size
    if lengths[1] & PACKED:
        parts[1] = unpack_rows(parts[1], DecisionRow.LAYOUT.size)
    if lengths[3] & PACKED:
        parts[3] = unpack_rows(parts[3], NamedOrder.LAYOUT.size, CID_BYTES)
    if (lengths[0] | lengths[2] | lengths[4]) & PACKED:
        raise ValueError("record payload packs what is never packed")
    try:
        value = _decoder.decode(parts[0])
    except msgspec.MsgspecError as error:
        raise ValueError(f"record input does not decode: {error}") from error
    return Recorded(value, *parts[1:])


def decisions_in(payload: bytes | memoryview) -> int:
    """How many decisions a record's payload holds, without decoding them; 0 of what is too short to be one."""
    if len(payload) < LENGTHS.size + 4:
        return 0
    first, length = struct.unpack_from("<2I", payload)
    if not length & PACKED:
        return int(length) // DecisionRow.LAYOUT.size
    at = LENGTHS.size + first
    return int(struct.unpack_from("<I", payload, at)[0]) if at + 4 <= len(payload) else 0


Ready = Callable[[bytes], int]
"""Told of orders (uint32 slots as bytes, in sending order) that are whole; returns how many more to wait for."""


# -- names: what the tables know only by index --------------------------------------------------------------------------


class Share(msgspec.Struct, array_like=True):
    """What one leg gave when an unexplained reduction was booked on it."""

    leg: int
    lots: int
    target: int
    cost_e8: int
    margin_e8: int
    leader_qty: int = 0
    detached: int = 0
    realised_e8: int = 0


class Mismatch(msgspec.Struct, array_like=True):
    """A difference from the venue's books that one look has shown: lots, when and behind which record it was asked for, and what
    the legs of that side held then."""

    difference: int
    ts_asked: int
    held: int
    seq_asked: int = 0


class Inferred(msgspec.Struct, array_like=True):
    """A difference from the venue's books that was booked without its trade: it is undone when the trade is told after all.

    All of it had traded at ``ts_asked``, when the journal stood at ``seq_asked`` (0: a build that did not note it).
    """

    account: int
    instrument: int
    short: bool
    qty: int
    ts_asked: int
    shares: list[Share]
    seq_asked: int = 0


def decided_before(order: OrderRow, entry: Inferred) -> bool:
    """Whether an order was decided before the look. By the journal: the clock may have been put back between the two."""
    return order.seq <= entry.seq_asked if entry.seq_asked else order.ts_decided <= entry.ts_asked


class Crossed(msgspec.Struct, array_like=True):
    """A trade by hand against an opening in doubt: whether it closed that opening is known when the opening is found."""

    cid: bytes
    account: int
    instrument: int
    short: bool
    qty: int
    ts_venue: int = 0


class Names(msgspec.Struct):
    """Names behind the indexes, leader books, and small sets; everything here is part of the checkpoint."""

    seq: int = 0
    config_version: int = 0
    build: str = ""
    instruments: list[InstrumentSpec] = []
    leaders: list[str] = []
    accounts: list[str] = []
    followers: list[str] = []
    plan_leaders: list[str] = []
    specs: list[dict[str, Any]] = []
    books: list[LeaderBook] = []
    groups: dict[str, list[int]] = {}
    external_seen: list[tuple[int, int, int]] = []  # account, instrument, the venue's number of the trade
    mode_changed: list[int] = []  # accounts whose mode is another: the next look shows what is left of them
    account_seen: dict[int, int] = {}  # when the look was asked that its books begin with
    unsynced: list[int] = []
    params: bytes = b""
    mismatches: dict[str, Mismatch] = {}
    inferred: list[Inferred] = []
    crossed: list[Crossed] = []
    later_epoch: list[int] = []
    day: int = 0
    hour: int = 0
    minute: int = 0
    minute_orders: int = 0
    funding_seen: list[tuple[int, int, int]] = []
    flows_seen: list[tuple[int, int, int]] = []
    suspended: list[int] = []  # leaders, by the configuration
    volume_least: dict[int, int] = {}  # leader -> volume below which nobody opens after him
    volumes: dict[int, dict[int, int]] = {}  # leader -> day -> what he traded in it, e8
    jumped: dict[int, int] = {}  # leader -> when a fall was last taken for a withdrawal
    mirrors: list[tuple[int, int]] = []
    leader_venues: dict[str, str] = {}
    account_venues: list[str] = []  # by account; "": the venue of the first instrument


class Engine:
    """The state and its one transition function.

    ``seq`` is the journal record the next step becomes. Errors: ``OperatorError`` for a command that cannot be done
    (nothing has changed then), ``BrokenInvariant`` for our own mistakes.
    """

    def __init__(self, instruments_max: int = 1) -> None:
        self.columns = Columns(instruments_max)
        self.names = Names()
        self.params = Params()
        self.announced: tuple[int, LeaderFill] | None = None
        """The execution that the next record must decide, and the time at which."""
        self.ready_first = READY_FIRST
        self._bind()

    def _bind(self) -> None:
        self.kernel = Kernel(self.columns)
        self.kernel.set_params(self.params.pack())
        self.by_account = {name: index for index, name in enumerate(self.names.accounts)}
        self.by_follower = {
            (name, leader): index
            for index, (name, leader) in enumerate(zip(self.names.followers, self.names.plan_leaders, strict=True))
        }
        self._account_plans: dict[int, list[int]] = {}
        for plan in range(self.columns.count(PLANS)):
            self._account_plans.setdefault(self._row(PLANS, plan, PlanRow).account, []).append(plan)
        self.by_book = {(book.leader, book.instrument, book.side): book for book in self.names.books}
        self.external_seen = set(self.names.external_seen)
        self.funding_seen = set(self.names.funding_seen)
        self._stepping = False
        self._ready: Ready | None = None
        self._mirror()
        self._groups = {key: array("I", legs) for key, legs in self.names.groups.items()}

    # -- the transition ---------------------------------------------------------------------------------------------

    def step(self, now: int, value: Any, ready: Ready | None = None) -> Outputs | None:
        """One input at time ``now`` (ns). None when it changes nothing, so that nothing need be journaled.

        ``ready`` hears of an execution's openings while the rest of them is decided: see ``Kernel.fan_out``.
        """
        if self._stepping:
            raise BrokenInvariant(f"{type(value).__name__} came while another input was decided")
        if self.announced is not None:
            now = self._as_announced(value)
        out = Outputs(self.names.seq + 1, value)
        handler = self._HANDLERS[type(value)]
        self._stepping, self._ready = True, ready
        try:
            if handler(self, now, value, out) is False:
                return None
        finally:
            self._stepping, self._ready = False, None
        if not isinstance(value, Announced):
            self.announced = None
        if out.named:
            self._count(now, out)
        self.names.seq = out.seq
        return out

    def announces(self, value: Any, legs_least: int) -> bool:
        """Whether ``value`` is a leader's execution, heard live and for the first time, that at least so many legs follow:
        one whose orders need not wait until all of them are written down."""
        if not isinstance(value, LeaderFill) or not value.live or value.own:
            return False
        book = self.by_book.get((value.leader, value.instrument, value.position_side))
        if book is None or book.is_duplicate(value.exec_id):
            return False
        return sum(len(self._groups.get(key, ())) for _, key in self._group_keys(book)) >= legs_least

    def _announced(self, now: int, value: Announced, out: Outputs) -> None:
        self.announced = now, value.fill

    def _as_announced(self, value: Any) -> int:
        """The time at which the announced execution is decided, whenever that is done."""
        assert self.announced is not None
        at, fill = self.announced
        if value != fill:
            raise BrokenInvariant(f"{type(value).__name__} came where execution {fill.exec_id} was announced")
        return at

    def make_room(self) -> None:
        """Memory for the orders of the next events, taken while nobody waits for it; no decision and no table changes."""
        self.columns.make_room(max(ROOM_LEAST, ROOM_ORDERS_PER_LEG * self.columns.count(LEGS)))

    def _count(self, now: int, out: Outputs) -> None:
        """The runaway breaker: more orders in a minute than followers can need trips the kill switch, reductions go on."""
        names = self.names
        minute = now // MINUTE_NS
        if names.minute != minute:
            names.minute, names.minute_orders = minute, 0
        names.minute_orders += len(out.named) // NamedOrder.LAYOUT.size
        bound = max(RUNAWAY_LEAST, self.params.runaway_per_plan * len(names.followers))
        if self.params.runaway_per_plan and names.minute_orders > bound and not self.params.killed:
            self.params.killed = 1
            self._set_params()
            text = f"{names.minute_orders} orders in a minute, {bound} are the most: the kill switch is on, exits go on"
            out.alerts.append(Alert("runaway", text, {"orders": names.minute_orders, "bound": bound}))

    def _collect(self, out: Outputs) -> None:
        """Take over what the kernel decided."""
        out.decisions += self.kernel.decisions()
        out.ends += self.kernel.ends()
        out.suspects += self.kernel.suspects()
        stops = self.kernel.stops()
        if stops:
            self._tell_stops(stops, out)
        orders = self.kernel.orders()
        if orders:
            out.orders += orders
            out.named += self.kernel.named_orders(orders)

    def _tell_stops(self, stops: bytes, out: Outputs) -> None:
        """Every stop is an alert of its own, with its numbers (semantics 19)."""
        out.stops += stops
        for row in StopRow.unpack_all(stops):
            follower = self.names.followers[row.plan]
            text = (
                f"{follower}: {Reason(row.reason).name.lower()} of {_money(row.loss_e8)} reached its limit of "
                f"{_money(row.limit_e8)}; {LossPolicy(row.policy).name.lower()}; equity {_money(row.equity_e8)}"
            )
            out.alerts.append(Alert("loss_stop", text, {
                "follower": follower, "leader": self.names.plan_leaders[row.plan],
                "reason": Reason(row.reason).name.lower(), "loss_e8": row.loss_e8, "limit_e8": row.limit_e8,
                "equity_e8": row.equity_e8, "policy": LossPolicy(row.policy).name.lower(), "legs": row.legs}))

    # -- start and configuration --------------------------------------------------------------------------------------

    def _started(self, now: int, value: Started, out: Outputs) -> None:
        self.params.epoch, self.params.site, self.params.key = value.epoch, value.site, value.key
        self._set_params()
        self.names.build = value.build
        for slot in self.columns.orders_in_state(UNFINISHED_MASK):
            self._edit(ORDERS, slot, OrderRow, state=OrderState.IN_DOUBT)
            out.queries.append(slot)
        for index in range(self.columns.count(LEGS)):
            if self._row(LEGS, index, LegRow).ts_open > now:
                self._edit(LEGS, index, LegRow, ts_open=now)
        for at in range(self.columns.count(ACCOUNT_INSTRUMENTS)):
            if self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow).ts_active:
                # The clock may have been put forward or back while nobody ran: how long ago it moved is not known.
                self._edit(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow, ts_active=now)
        self._clamp_times(now)
        for leader in range(len(self.names.leaders)):
            self._edit(LEADERS, leader, LeaderRow, gap=1)
        self.names.mismatches.clear()  # seen by another clock: looked at anew
        self.names.later_epoch.clear()
        for entry in self.names.inferred:
            entry.ts_asked = min(entry.ts_asked, now)
        for account, ts_asked in self.names.account_seen.items():
            self.names.account_seen[account] = min(ts_asked, now)
        self.names.unsynced = list(range(len(self.names.leaders)))
        for book in self.names.books:
            self._edit(POSITIONS, book.position, LeaderPositionRow, synced=0)

    def _clamp_times(self, now: int) -> None:
        """The clock may have been put back: no day, hour or mark is of later than now."""
        self.names.day, self.names.hour = min(self.names.day, self._day(now)), min(self.names.hour, now // HOUR_NS)
        for index in range(len(self.names.instruments)):
            row = self._row(INSTRUMENTS, index, InstrumentRow)
            if row.ts_mark > now:
                self._edit(INSTRUMENTS, index, InstrumentRow, ts_mark=now)

    def _configured(self, now: int, value: Configured, out: Outputs) -> None:
        self._check_configured(value)
        self.columns.widen(max(1, len(value.instruments)))
        kept = self.params
        self.params = Params.unpack(value.params)
        self.params.epoch, self.params.site, self.params.key = kept.epoch, kept.site, kept.key
        self.params.killed, self.params.journal_low, self.params.clock_off = kept.killed, kept.journal_low, kept.clock_off
        self._set_params()
        self.names.day = min(self.names.day, self._day(now))  # the reset may have been moved to later in the day
        self.names.config_version = value.version
        for index, spec in enumerate(value.instruments):
            row = InstrumentRow.unpack(spec.row)
            row.spot = int(spec.spot)
            if index < len(self.names.instruments):
                self._express_anew(now, index, self.names.instruments[index], spec, out)
                old = self._row(INSTRUMENTS, index, InstrumentRow)
                row.bid, row.ask, row.mark, row.ts_quote, row.ts_mark, row.halted, row.turbulent, row.clock_off = (
                    old.bid, old.ask, old.mark, old.ts_quote, old.ts_mark, old.halted, old.turbulent, old.clock_off)
                self.columns.put(INSTRUMENTS, index, row.pack())
                self.names.instruments[index] = spec
            else:
                row.halted |= self._venue_halts(spec.venue)
                row.clock_off = int(self.clock_off(spec.venue))
                self.columns.add(INSTRUMENTS, row.pack())
                self.names.instruments.append(spec)
        self.names.leader_venues = dict(value.leader_venues)
        self._take_mirrors(value.mirrors)
        for index, name in enumerate(value.leaders):
            if index >= len(self.names.leaders):
                self.columns.add(LEADERS, LeaderRow().pack())
                self.names.leaders.append(name)
            declared = value.declared.get(name, Declared())
            self._edit(
                LEADERS, index, LeaderRow, declared_instruments=declared.instruments, declared_leverage=declared.leverage,
                declared_position_e8=declared.position_e8,
            )
            self.names.volume_least[index] = declared.volume_e8
        self.names.suspended = [index for index, name in enumerate(value.leaders) if name in value.suspended]
        self._judge_leaders(now, out)

    def _check_configured(self, value: Configured) -> None:
        """Indexes are for ever; refused before anything has changed."""
        for index, (spec, known) in enumerate(zip(value.instruments, self.names.instruments, strict=False)):
            if known.symbol != spec.symbol:
                raise OperatorError(
                    f"instrument {index} is {known.symbol} in the journal and {spec.symbol} in the configuration: "
                    "instruments may be added at the end, never reordered or removed"
                )
            if known.venue not in ("", spec.venue):
                raise OperatorError(
                    f"instrument {index}, {known.symbol}, is of {known.venue} in the journal and of {spec.venue or 'no venue'} "
                    "in the configuration: an instrument keeps its venue")
        if len(value.instruments) > INSTRUMENTS_MAX:
            raise OperatorError(f"at most {INSTRUMENTS_MAX} instruments")
        self._check_mirrors(value)
        self._check_leader_venues(value)
        for index, (name, known_name) in enumerate(zip(value.leaders, self.names.leaders, strict=False)):
            if known_name != name:
                raise OperatorError(
                    f"leader {index} is {known_name} in the journal and {name} in the configuration: "
                    "leaders may be added at the end, never reordered or removed"
                )

    def _check_mirrors(self, value: Configured) -> None:
        """Each mirror stands on another venue; one per instrument and venue either way round, so that a plan has one leg in each
        of its instruments; none is ever taken back, because legs stand in it."""
        specs, there, back = value.instruments, set(), set()
        for source, mirror in value.mirrors:
            if not (0 <= source < len(specs) and 0 <= mirror < len(specs)):
                raise OperatorError(f"mirror ({source}, {mirror}): there is no such instrument")
            names = _label(specs[source]), _label(specs[mirror])
            if specs[source].venue == specs[mirror].venue:
                raise OperatorError(f"{names[1]} cannot mirror {names[0]}: it is of the same venue")
            if (source, specs[mirror].venue) in there or (mirror, specs[source].venue) in back:
                raise OperatorError(
                    f"{names[1]} cannot mirror {names[0]}: one of the two has a mirror on the other's venue already")
            there.add((source, specs[mirror].venue))
            back.add((mirror, specs[source].venue))
            conversion(_base(specs[source]), _base(specs[mirror]), names)
        for source, mirror in self.names.mirrors:
            if (source, mirror) not in value.mirrors:
                one, other = (_label(self.names.instruments[index]) for index in (source, mirror))
                raise OperatorError(
                    f"{other} mirrors {one} in the journal and not in the configuration: mirrors may be added, never removed")

    def _check_leader_venues(self, value: Configured) -> None:
        """A leader trades where some instrument is listed, and goes on trading where he was copied from."""
        venues = {spec.venue for spec in value.instruments}
        for index, name in enumerate(value.leaders):
            venue = value.leader_venues.get(name, "")
            if venue and venue not in venues:
                raise OperatorError(f"leader {name}: no instrument of his venue {venue} is configured")
            specs = [*value.instruments, *self.names.instruments[len(value.instruments) :]]
            venue = venue or (specs[0].venue if specs else "")
            for book in self.names.books:
                if book.leader == index and book.key in self._groups and specs[book.instrument].venue != venue:
                    traded = _label(specs[book.instrument])
                    raise OperatorError(f"leader {name} is copied in {traded}: he cannot be moved to {venue or 'no venue'}")

    def _take_mirrors(self, mirrors: list[tuple[int, int]]) -> None:
        """Known from now on; where the legs of a leader's instrument were made before it was mirrored, those in the mirror are
        made now."""
        added = [pair for pair in mirrors if pair not in self.names.mirrors]
        self.names.mirrors = list(mirrors)
        self._mirror()
        for book in self.names.books:
            for source, mirror in added:
                if source == book.instrument and book.key in self._groups:
                    self._make_group(book, mirror, _mirror_key(book, mirror), self._followers_of(book.leader))

    def _mirror(self) -> None:
        """What follows of the mirrors, by (leader's instrument, follower's): lots per lot and ticks per tick, exactly."""
        specs = self.names.instruments
        self._mirrors: dict[int, list[int]] = {}
        self._per_lot: dict[tuple[int, int], tuple[int, int]] = {}
        self._per_tick: dict[tuple[int, int], Fraction] = {}
        for source, mirror in sorted(self.names.mirrors):
            one, other = specs[source], specs[mirror]
            self._mirrors.setdefault(source, []).append(mirror)
            self._per_lot[source, mirror] = conversion(_base(one), _base(other), (_label(one), _label(other)))
            self._per_tick[source, mirror] = Fraction(
                base_price(InstrumentRow.unpack(one.row), _base(one)), base_price(InstrumentRow.unpack(other.row), _base(other)))

    def _home(self, venue: str) -> str:
        """A venue by its name; "" is that of the first instrument."""
        return venue or (self.names.instruments[0].venue if self.names.instruments else "")

    def leader_venue(self, leader: int) -> str:
        """Where a leader trades."""
        return self._home(self.names.leader_venues.get(self.names.leaders[leader], ""))

    def account_venue(self, account: int) -> str:
        """Where an account is held."""
        known = self.names.account_venues
        return self._home(known[account] if account < len(known) else "")

    def followed_in(self, instrument: int, venue: str) -> int | None:
        """The instrument in which accounts of a venue follow a leader's; None where he is not copied there in it."""
        specs = self.names.instruments
        if specs[instrument].venue == venue:
            return instrument
        return next((mirror for mirror in self._mirrors.get(instrument, ()) if specs[mirror].venue == venue), None)

    def _set_params(self) -> None:
        self.names.params = self.params.pack()
        self.kernel.set_params(self.names.params)

    # -- leader -------------------------------------------------------------------------------------------------------

    def _book(self, leader: int, instrument: int, side: int) -> LeaderBook:
        book = self.by_book.get((leader, instrument, side))
        if book is None:
            synced = int(leader not in self.names.unsynced)
            position = self.columns.add(POSITIONS, LeaderPositionRow(synced=synced, instrument=instrument).pack())
            book = LeaderBook(leader, instrument, side, position)
            self.names.books.append(book)
            self.by_book[leader, instrument, side] = book
        return book

    def resume_point(self, leader: int) -> tuple[dict[int, int], list[tuple[int, int]], dict[tuple[int, int], int]]:
        """What a feed must know to go on: by instrument the execution id behind which it reads on, the (instrument, id)
        taken beyond it, and the fold they led to by (instrument, position side)."""
        floor: dict[int, int] = {}
        seen: list[tuple[int, int]] = []
        positions: dict[tuple[int, int], int] = {}
        for book in self.names.books:
            if book.leader != leader:
                continue
            positions[book.instrument, book.side] = self._row(POSITIONS, book.position, LeaderPositionRow).qty
            if book.seen:
                seen += [(book.instrument, exec_id) for exec_id in book.seen]
                first = max(book.floor, min(book.seen) - 1)
                floor[book.instrument] = min(first, floor.get(book.instrument, first))
        return floor, seen, positions

    def _leader_fill(self, now: int, value: LeaderFill, out: Outputs) -> bool | None:
        book = self._book(value.leader, value.instrument, value.position_side)
        if book.is_duplicate(value.exec_id):
            return False
        book.remember(value.exec_id)
        first_px = book.first_px(value.order_id, value.px)
        cause = cause_id("fill", self.names.leaders[value.leader], self.symbol(value.instrument), value.exec_id)
        # How large the order of a fill found later was may not be known: nothing is sized by it then, nor by the fill for it.
        order_qty = max(value.order_qty, value.qty) if value.live or value.order_qty else 0
        self._leader_moved(
            now, out, book, cause, value.side * value.qty, value.px, first_px, order_qty, value.order_id, value.ts_event,
            value.live and not value.own,
        )
        if not value.own:
            self._traded(now, value.leader, value.instrument, value.qty, value.px, out)
        return None

    def _leader_moved(
        self, now: int, out: Outputs, book: LeaderBook, cause: bytes, signed_qty: int, px: int, first_px: int,
        order_qty: int, order_id: int, ts_event: int, live: bool,
    ) -> None:
        """The leader's quantity changed: fold it, then decide for every follower."""
        row = self._row(POSITIONS, book.position, LeaderPositionRow)
        parts = split(row.qty, signed_qty, book.side)
        if parts.after != row.qty + signed_qty:
            row.synced = 0
            out.request_sync.append(book.leader)
        row.qty = parts.after
        self.columns.put(POSITIONS, book.position, row.pack())
        if parts.open_qty and live:
            self._check_declared(book, parts.before, row, px, out)
        if book.expected and book.expected[0] == row.qty:
            book.expected = None
        event = FillEvent(
            cause=cause, seq=out.seq, now=now, ts_event=ts_event, qty_before=parts.before, qty_mid=parts.mid,
            qty_after=parts.after, open_qty=parts.open_qty, px=px, first_px=first_px, order_qty=order_qty,
            order_id=order_id, rotation=int.from_bytes(cause[:6], "big"), reduce_qty=parts.reduce_qty,
            leader=book.leader, position=book.position, instrument=book.instrument, open_side=sign(signed_qty),
            live=int(live),
        )
        self._fan_out(book, event)
        self._collect(out)

    def _fan_out(self, book: LeaderBook, event: FillEvent) -> None:
        """Decided once per instrument in which it is followed: the leader's own first, then its mirrors by their index."""
        self._make_groups(book)
        keys = list(self._group_keys(book))
        if len(keys) == 1:
            self.kernel.fan_out(self._groups[book.key], event.pack(), self._ready, self.ready_first)
            return
        groups = [(self._groups[key], self._expressed(event, instrument).pack()) for instrument, key in keys if self._groups[key]]
        self.kernel.fan_out_each(groups, self._ready, self.ready_first)

    def _expressed(self, event: FillEvent, instrument: int) -> FillEvent:
        """The event as those see it who follow in ``instrument``."""
        if instrument == event.instrument:
            return event
        ticks = self._per_tick[event.instrument, instrument]
        lots_mul, lots_div = self._per_lot[event.instrument, instrument]
        px, first_px = (converted_price(px, ticks, event.open_side) for px in (event.px, event.first_px))
        return replace(event, instrument=instrument, lots_mul=lots_mul, lots_div=lots_div, px=px, first_px=first_px)

    def _traded(self, now: int, leader: int, instrument: int, lots: int, px: int, out: Outputs) -> None:
        """What a leader trades here is his real volume, his orders of our own making left out."""
        if not self.names.volume_least.get(leader):
            return
        days, day = self.names.volumes.setdefault(leader, {}), now // DAY_NS
        days[day] = days.get(day, 0) + notional(self._row(INSTRUMENTS, instrument, InstrumentRow), lots, px)
        if not self._row(LEADERS, leader, LeaderRow).eligible:
            self._judge_leaders(now, out)
            if self._row(LEADERS, leader, LeaderRow).eligible:
                out.alerts.append(Alert("leader_eligible", "has traded as much as he must have: followers open after him", {
                    "leader": self.names.leaders[leader]}))

    def _judge_leaders(self, now: int, out: Outputs) -> None:
        """Nobody opens after a leader who is suspended, or has not traded enough within ``VOLUME_DAYS`` (semantics 18)."""
        oldest = now // DAY_NS - VOLUME_DAYS
        for leader, least in self.names.volume_least.items():
            days = self.names.volumes.get(leader, {})
            for day in [day for day in days if day <= oldest]:
                del days[day]
            enough = sum(days.values()) >= least
            eligible = leader not in self.names.suspended and enough
            if not enough and self._row(LEADERS, leader, LeaderRow).eligible:
                out.alerts.append(Alert("leader_volume_low", "has not traded enough in 30 days: nobody opens after him", {
                    "leader": self.names.leaders[leader]}))
            self._edit(LEADERS, leader, LeaderRow, eligible=int(eligible))

    def _check_declared(self, book: LeaderBook, before: int, row: LeaderPositionRow, px: int, out: Outputs) -> None:
        """Said when a position of the leader passes what he declared, not with each of its fills."""
        leader = self._row(LEADERS, book.leader, LeaderRow)
        instrument = self._row(INSTRUMENTS, book.instrument, InstrumentRow)
        was = before != 0 and exceeds_declared(leader, replace(row, qty=before), instrument, px)
        if not was and exceeds_declared(leader, row, instrument, px):
            out.alerts.append(Alert("leader_profile_exceeded", "beyond what he declared: nobody opens behind it", {
                "leader": self.names.leaders[book.leader], "symbol": self.names.instruments[book.instrument].symbol,
                "lots": row.qty, "leverage": row.leverage}))

    def _group_keys(self, book: LeaderBook) -> Iterator[tuple[int, str]]:
        """(instrument, key of the legs in it) of everyone who follows this book, in the order in which they are decided."""
        yield book.instrument, book.key
        for mirror in self._mirrors.get(book.instrument, ()):
            yield mirror, _mirror_key(book, mirror)

    def _make_groups(self, book: LeaderBook) -> None:
        """The legs of everyone who follows this leader in this instrument and side; made when first needed."""
        if book.key not in self._groups:
            followers = self._followers_of(book.leader)
            for instrument, key in self._group_keys(book):
                self._make_group(book, instrument, key, followers)

    def _followers_of(self, leader: int) -> list[tuple[int, str]]:
        """(plan, venue of its account) of everyone who follows a leader."""
        rows = ((plan, self._row(PLANS, plan, PlanRow)) for plan in range(self.columns.count(PLANS)))
        return [(plan, self.account_venue(row.account)) for plan, row in rows if row.leader == leader]

    def _make_group(self, book: LeaderBook, instrument: int, key: str, followers: list[tuple[int, str]]) -> None:
        self._groups[key] = array("I")
        self.names.groups[key] = []
        for plan, venue in followers:
            if venue == self.names.instruments[instrument].venue:
                self._add_leg(plan, book, instrument, key)

    def _add_leg(self, plan: int, book: LeaderBook, instrument: int, key: str) -> None:
        row = self._row(PLANS, plan, PlanRow)
        leg = self.columns.add(LEGS, LegRow(
            plan=plan, account=row.account, next_leg=row.first_leg, leader_position=book.position,
            instrument=instrument, side=book.side,
        ).pack())
        self._edit(PLANS, plan, PlanRow, first_leg=leg)
        self._groups[key].append(leg)
        self.names.groups[key].append(leg)

    def _leader_position(self, now: int, value: LeaderPosition, out: Outputs) -> bool | None:
        unknown = (value.leader, value.instrument, value.position_side) not in self.by_book
        if unknown and value.qty == 0 and value.leverage in (0, LeaderPositionRow().leverage):
            return False  # and no book is made: what leaves no record leaves no trace
        book = self._book(value.leader, value.instrument, value.position_side)
        charged = self._charge_leader(book, value.qty)
        row = self._row(POSITIONS, book.position, LeaderPositionRow)
        expected = None if row.qty == value.qty else (value.qty, now)
        leverage = value.leverage or row.leverage
        if expected is None and book.expected is None and leverage == row.leverage and not charged:
            return False
        # The push may be ahead of the fills that explain it; the timer decides when it has waited long enough.
        book.expected = expected if expected is None or book.expected is None else (value.qty, book.expected[1])
        self._edit(POSITIONS, book.position, LeaderPositionRow, leverage=leverage)
        return None

    def _charge_leader(self, book: LeaderBook, told: int) -> bool:
        """A spot venue keeps its fees back of what a leader buys: what it shows ``told`` of is taken over, and no follower sells
        for it; he is flat when he has sold what there is. False where that does not explain the difference."""
        row = self._row(POSITIONS, book.position, LeaderPositionRow)
        less = row.qty - told
        spot = self.names.instruments[book.instrument].spot
        if not spot or told <= 0 or less <= 0 or (less > 1 and less * BPS > row.qty * KEPT_BACK_MAX_BPS):
            return False
        self._edit(POSITIONS, book.position, LeaderPositionRow, qty=told)
        for _, key in self._group_keys(book):
            if key in self._groups:
                self.kernel.reanchor(self._groups[key], told)
        return True

    def _leader_sync(self, now: int, value: LeaderSync, out: Outputs) -> None:
        books = [book for book in self.names.books if book.leader == value.leader]
        self.names.unsynced = [leader for leader in self.names.unsynced if leader != value.leader]
        if not value.synced:
            self.names.unsynced.append(value.leader)
            for book in books:
                self._edit(POSITIONS, book.position, LeaderPositionRow, synced=0)
            self._edit(LEADERS, value.leader, LeaderRow, gap=1)
            out.alerts.append(Alert("leader_unsynced", value.reason, {"leader": self.names.leaders[value.leader]}))
            return
        told = {(instrument, side): (qty, leverage) for instrument, side, qty, leverage in value.positions}
        for instrument, side in told:
            self._book(value.leader, instrument, side)
        for book in [book for book in self.names.books if book.leader == value.leader]:
            qty, leverage = told.get((book.instrument, book.side), (0, 0))
            self._charge_leader(book, qty)
            row = self._row(POSITIONS, book.position, LeaderPositionRow)
            difference = qty - row.qty
            self._edit(POSITIONS, book.position, LeaderPositionRow, synced=1, leverage=leverage or row.leverage)
            book.expected = None
            if difference:
                # The snapshot wins: what it shows beyond the fills is history. Reductions apply, increases are observed.
                out.alerts.append(Alert("leader_position_adopted", f"{row.qty} -> {qty} lots", {
                    "leader": self.names.leaders[book.leader], "symbol": self.symbol(book.instrument)}))
                cause = cause_id("snapshot", self.names.leaders[book.leader], self.symbol(book.instrument), out.seq)
                mark = max(1, self._row(INSTRUMENTS, book.instrument, InstrumentRow).mark)
                self._leader_moved(now, out, book, cause, difference, mark, mark, abs(difference), 0, now, False)

    def _leader_equity(self, now: int, value: LeaderEquity, out: Outputs) -> None:
        row = self._row(LEADERS, value.leader, LeaderRow)
        if row.gap and 0 < value.equity_e8 * 100 < row.equity_e8 * (100 - GAP_FALL):
            # He was not heard for a while and holds much less: taken for a withdrawal, which would close every follower.
            fall = value.equity_e8 - row.equity_e8
            self.kernel.leader_flow(value.leader, fall, NEVER)
            self.names.jumped[value.leader] = value.ts_event
            out.alerts.append(Alert("leader_equity_jump", f"{_money(fall)} while not heard: taken for a withdrawal", {
                "leader": self.names.leaders[value.leader]}))
            row = self._row(LEADERS, value.leader, LeaderRow)
        self._edit(
            LEADERS, value.leader, LeaderRow, equity_e8=value.equity_e8, ts_equity=now, ts_told=value.ts_event, gap=0,
            equity_before_e8=row.equity_e8 if row.equity_e8 > 0 else value.equity_e8)
        self.kernel.follow_peak(value.leader)
        self._stop_losses(now, out)

    def _leader_leverage(self, now: int, value: LeaderLeverage, out: Outputs) -> None:
        for side in Side:
            self._book(value.leader, value.instrument, side)
            book = self.by_book[value.leader, value.instrument, side]
            self._edit(POSITIONS, book.position, LeaderPositionRow, leverage=value.leverage)

    def _quotes(self, now: int, value: Quotes, out: Outputs) -> None:
        for instrument, bid, ask, mark, ts in value.quotes:
            self._edit(INSTRUMENTS, instrument, InstrumentRow, bid=bid, ask=ask, mark=mark, ts_quote=ts)

    # -- money --------------------------------------------------------------------------------------------------------

    def _turbulence(self, now: int, value: Turbulence, out: Outputs) -> bool | None:
        row = self._row(INSTRUMENTS, value.instrument, InstrumentRow)
        if bool(row.turbulent) == value.on:
            return False
        self._edit(INSTRUMENTS, value.instrument, InstrumentRow, turbulent=int(value.on))
        moved = f"its mark moved by {value.range_bps} bps"
        text = f"{moved}: openings wait, reductions go on" if value.on else f"{moved}: openings are made again"
        out.alerts.append(Alert("volatility_pause" if value.on else "volatility_over", text, {
            "symbol": self.symbol(value.instrument), "range_bps": value.range_bps}))
        return None

    def _day(self, now: int) -> int:
        """Number of the day by the reset of the daily loss limit (semantics 18)."""
        return (now - self.params.day_reset_min * MINUTE_NS) // DAY_NS

    def marks_due(self, now: int, marks: Sequence[tuple[int, int, int]]) -> bool:
        """True when ``Marks`` of these (instrument, ticks, ts) would do something: a limit, a new day, or the mark of the hour,
        by which statements and statistics value what is open."""
        return self._day(now) > self.names.day or now // HOUR_NS > self.names.hour or self.kernel.losses_due(marks, now)

    def _marks(self, now: int, value: Marks, out: Outputs) -> bool | None:
        if not self.marks_due(now, value.marks):
            return False
        for instrument, mark, ts in value.marks:
            self._edit(INSTRUMENTS, instrument, InstrumentRow, mark=mark, ts_mark=ts)
        # What was lost until the reset is held against the day that ends.
        self._stop_losses(now, out)
        self.names.hour = now // HOUR_NS
        anew = self._day(now) > self.names.day
        self.names.day = max(self.names.day, self._day(now))
        self.kernel.begin_day(now, anew)
        if anew:
            self._judge_leaders(now, out)
        return None

    def _leader_flow(self, now: int, value: LeaderFlow, out: Outputs) -> bool | None:
        for leader, amount_e8, ts in self.names.flows_seen:
            if (leader, amount_e8) == (value.leader, value.amount_e8) and abs(ts - value.ts_event) <= FLOW_TWICE_NS:
                return False  # pushed and read from the history: the two do not name it by the same time
        if value.ts_event <= self.names.jumped.get(value.leader, 0):
            return False  # it was taken for one when his equity was found so much lower
        self.names.flows_seen.append((value.leader, value.amount_e8, value.ts_event))
        del self.names.flows_seen[:-FLOWS_SEEN_MAX]
        self.kernel.leader_flow(value.leader, value.amount_e8, value.ts_event)
        return None

    def _leader_margin_call(self, now: int, value: LeaderMarginCall, out: Outputs) -> None:
        self._edit(LEADERS, value.leader, LeaderRow, ts_margin_call=now)
        out.alerts.append(Alert("leader_margin_call", "the venue warns the leader: nothing opens behind him for ten minutes", {
            "leader": self.names.leaders[value.leader]}))

    def _stop_losses(self, now: int, out: Outputs) -> None:
        self.kernel.stop_losses(cause_id("marks", out.seq), now, out.seq)
        self._collect(out)

    def _funding(self, now: int, value: Funding, out: Outputs) -> bool | None:
        """Shared over the legs by what each holds of the venue position; the follower's own part is no plan's (semantics 37)."""
        key = (value.account, value.instrument, value.id)
        if key in self.funding_seen:
            return False
        self.funding_seen.add(key)
        self.names.funding_seen.append(key)
        if len(self.names.funding_seen) > FUNDING_SEEN_MAX:
            del self.names.funding_seen[: FUNDING_SEEN_MAX // 2]
            self.funding_seen = set(self.names.funding_seen)
        ai = self._row(ACCOUNT_INSTRUMENTS, value.account * self.columns.instruments_max + value.instrument, AccountInstrumentRow)
        net = ai.net + ai.net_short
        for _, leg in self._account_legs(value.account, value.instrument):
            if leg.attributed and net:
                plan = self._row(PLANS, leg.plan, PlanRow)
                share = mul_div_trunc(value.amount_e8, leg.attributed, net)  # the other side receives what this one pays
                self._edit(PLANS, leg.plan, PlanRow, funding_e8=plan.funding_e8 + share)
        return None

    def _stopped(self, plan: int) -> bool:
        """By command or by a loss limit: until it is resumed by name nothing is wanted for it."""
        row = self._row(PLANS, plan, PlanRow)
        return row.state == PlanState.STOPPED or row.stopped_by != 0

    def profits(self, now: int) -> list[tuple[int, bool]]:
        """(profit in e8 at mark, whether every mark it rests on is fresh) of every plan."""
        return self.kernel.profits(now)

    def _realise(self, plan: int, side: int, value_e8: int, cost_e8: int) -> int:
        """Lots of a leg on ``side`` left the plan for ``value_e8``; returns what was realised."""
        row = self._row(PLANS, plan, PlanRow)
        self._edit(PLANS, plan, PlanRow, realised_e8=row.realised_e8 + side * (value_e8 - cost_e8))
        return side * (value_e8 - cost_e8)

    def _value(self, instrument: int, lots: int, px: int, otherwise: int) -> int:
        """Value in e8 at ``px`` ticks, else at mark; ``otherwise`` where there is neither."""
        row = self._row(INSTRUMENTS, instrument, InstrumentRow)
        at = px or row.mark
        return notional(row, lots, at) if at > 0 else otherwise

    # -- venue and accounts -----------------------------------------------------------------------------------------

    def _reports(self, now: int, value: Reports, out: Outputs) -> None:
        if self.names.inferred:
            self._retract_for_reports(now, value.rows)
        crossing = self._uncross(value.rows) if self.names.crossed else []
        self.kernel.apply_reports(ReportBatch.from_bytes(value.rows), now, out.seq)
        self._collect(out)
        if crossing:
            self._cross_again(now, crossing, out)

    def _fence(self, account: int, cid: bytes, out: Outputs) -> None:
        """Another daemon of this site with a later epoch trades these accounts: this one must not send another byte.

        A follower sees our tag in his own orders and could type such an id: one account is no evidence where there are two.
        """
        if epoch_of(cid) <= self.params.epoch or site_of(cid) != self.params.site:
            return
        if account not in self.names.later_epoch:
            self.names.later_epoch.append(account)
        enough = min(2, len(self.names.accounts))
        out.fenced = len(self.names.later_epoch) >= enough
        text = f"order {cid.hex()} is of epoch {epoch_of(cid)}, ours is {self.params.epoch}"
        out.alerts.append(Alert("fenced" if out.fenced else "later_epoch_seen", text, {"account": self.names.accounts[account]}))

    def _timer(self, now: int, value: Timer, out: Outputs) -> bool | None:
        overdue = False
        for book in self.names.books:
            if book.expected and now - book.expected[1] > EXPECTED_GRACE_NS:
                self._edit(POSITIONS, book.position, LeaderPositionRow, synced=0)
                out.request_sync.append(book.leader)
                out.alerts.append(Alert("leader_unsynced", "fills do not add up to the position the venue shows", {
                    "leader": self.names.leaders[book.leader], "symbol": self.symbol(book.instrument)}))
                book.expected = None
                overdue = True
        return None if self._sweep(now, out) or overdue else False

    def _sweep(self, now: int, out: Outputs) -> bool:
        changed = self.kernel.sweep(b"timer" + out.seq.to_bytes(11, "big"), now, out.seq)
        self._collect(out)
        return changed

    def timer_due(self, now: int) -> bool:
        """True when a ``Timer`` input at ``now`` would do something."""
        return self.kernel.timers_due(now) or any(
            book.expected and now - book.expected[1] > EXPECTED_GRACE_NS for book in self.names.books
        )

    def _legs_ready(self, now: int, value: LegsReady, out: Outputs) -> None:
        for account, instrument, ready, hedge, isolated, leverage in value.legs:
            spot = self.names.instruments[instrument].spot  # which has no position mode, whatever that of the account is
            if not spot and hedge != bool(self._row(ACCOUNTS, account, AccountRow).hedge):
                self._mode_changed(account, hedge, out)
            at = account * self.columns.instruments_max + instrument
            self._edit(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow, ready=int(ready), isolated=int(isolated),
                       leverage=leverage)

    def _account_snapshots(self, now: int, value: AccountSnapshots, out: Outputs) -> None:
        for account, balance, positions in value.accounts:
            self._edit(ACCOUNTS, account, AccountRow, balance_e8=balance)
            if value.adopt:
                self._settle_rests(account, value.refused, out)
            told = {(instrument, side == Side.SHORT): 0 for instrument in range(len(self.names.instruments))
                    for side in (Side.ONE_WAY, Side.SHORT)}
            for instrument, side, qty in positions:
                told[instrument, side == Side.SHORT] = told.get((instrument, side == Side.SHORT), 0) + qty
            first = account not in self.names.account_seen
            if first and value.ts_asked and any(
                not self.at_rest(account, instrument, value.ts_asked) for instrument in range(len(self.names.instruments))
            ):
                out.recheck.append(account)  # something was told since it was asked: the next look is the first
                continue
            if first:
                self.names.account_seen[account] = value.ts_asked
            elif account in self.names.mode_changed and self._begin_anew(now, account, told, value, out):
                continue
            self._settle_spot(account, value)
            for (instrument, short), qty in told.items():
                at = account * self.columns.instruments_max + instrument
                row = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
                difference = qty - (row.net_short if short else row.net)
                if difference and first:
                    self._adopt(now, account, instrument, short, difference, value, out)
                else:
                    self._compare(now, value, account, instrument, short, difference, out)

    def _begin_anew(
        self, now: int, account: int, told: dict[tuple[int, bool], int], value: AccountSnapshots, out: Outputs
    ) -> bool:
        """The first look at rest behind a change of the position mode: its books begin with it (semantics 25).

        A venue changes the mode of a flat account only. What its legs still hold by our books was closed by another hand before,
        or netted against one; what the look shows was opened since and is the follower's own. False: not at rest yet.
        """
        instruments = range(len(self.names.instruments))
        if not value.ts_asked or not all(
            self._quiet(account, instrument, value.seq_asked, value.ts_asked) for instrument in instruments
        ):
            out.recheck.append(account)
            return False
        for instrument in instruments:
            at = account * self.columns.instruments_max + instrument
            row = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
            shown = told[instrument, False] + told[instrument, True]
            if shown and shown == row.net + row.net_short and any(
                leg.attributed for _, leg in self._account_legs(account, instrument)
            ):
                # It holds what it held: the mode was misread, and nothing of ours is given up for that.
                self.names.mode_changed.remove(account)
                return False
        self.names.inferred = [entry for entry in self.names.inferred if entry.account != account]
        for instrument in instruments:
            for short in (False, True):
                for side in (1, -1):
                    held = sum(abs(leg.attributed) for _, leg in self._legs_of(account, instrument, short, side))
                    if held:
                        # A reduction of ours whose fill is told later may have closed it.
                        shares = self._shrink_legs(account, instrument, short, side, held, out)
                        self._infer(now, Inferred(
                            account, instrument, short, -side * held, value.ts_asked, shares, value.seq_asked))
            at = account * self.columns.instruments_max + instrument
            net, net_short = told[instrument, False], told[instrument, True]
            self._edit(
                ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow, net=net, net_short=net_short, unattributed=net,
                unattributed_short=net_short, ts_active=now)
            for short in (False, True):
                self.names.mismatches.pop(f"{account}/{instrument}/{int(short)}", None)
        self.names.mode_changed.remove(account)
        self.names.account_seen[account] = value.ts_asked
        self.names.crossed = [entry for entry in self.names.crossed if entry.account != account]
        return True

    def _settle_rests(self, account: int, instruments: list[int], out: Outputs) -> None:
        """On a hedge account a position of one side cannot be held by legs and owed by its rest: the two end each other.

        Such a pair is left where a trade by hand, or another daemon's, was told before the fill it closed; the venue, which
        has nothing there, refuses every reduction of the leg.
        """
        if not self._row(ACCOUNTS, account, AccountRow).hedge:
            return
        for instrument in instruments:
            at = account * self.columns.instruments_max + instrument
            for short in (False, True):
                ai = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
                side = -1 if short else 1
                rest = self._give_back_turned(account, instrument, short, ai, out)
                held = sum(abs(leg.attributed) for _, leg in self._legs_of(account, instrument, short, side))
                lots = min(held, abs(rest)) if sign(rest) == -side else 0
                if lots:
                    setattr(ai, "unattributed_short" if short else "unattributed", rest + side * lots)
                    self.columns.put(ACCOUNT_INSTRUMENTS, at, ai.pack())
                    self._shrink_legs(account, instrument, short, side, lots, out)

    def _settle_spot(self, account: int, value: AccountSnapshots) -> None:
        """On spot nobody owes: what the rest of an account owes, its legs do not hold.

        Such a pair is left where a sale took all that a leg was believed to hold, and the commission of an earlier purchase, kept
        back of it, was told later. The leg gives it up as it would have to the commission; no exit would be let out else.
        """
        for instrument, spec in enumerate(self.names.instruments):
            at = account * self.columns.instruments_max + instrument
            ai = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
            owed = -ai.unattributed
            if owed <= 0 or not spec.spot or not value.ts_asked:
                continue
            if not self._quiet(account, instrument, value.seq_asked, value.ts_asked):
                continue
            for index, leg in sorted(self._account_legs(account, instrument), key=lambda item: (-item[1].attributed, item[0])):
                lots = min(owed, max(0, leg.attributed))
                if not lots:
                    break
                cost = mul_div_trunc(leg.cost_e8, lots, leg.attributed)
                self._realise(leg.plan, 1, self._value(instrument, lots, 0, cost), cost)
                leg.cost_e8 -= cost
                leg.attributed -= lots
                leg.dust_q32 = leg.dust_q32 if leg.attributed else 0
                leg.target -= max(0, min(lots * ONE, leg.target - leg.pending - leg.deferred - 1))
                set_anchor(leg, self._row(POSITIONS, leg.leader_position, LeaderPositionRow).qty)
                self.columns.put(LEGS, index, leg.pack())
                owed -= lots
            self._edit(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow, unattributed=-owed)

    def _give_back_turned(
        self, account: int, instrument: int, short: bool, ai: AccountInstrumentRow, out: Outputs
    ) -> int:
        """The side's rest, after legs of it that hold the other sign (others' fills were taken for theirs) gave it up."""
        name, side = ("unattributed_short", Side.SHORT) if short else ("unattributed", Side.LONG)
        for index, leg in self._account_legs(account, instrument):
            if leg.side == side and sign(leg.attributed) == (1 if short else -1):
                setattr(ai, name, getattr(ai, name) + leg.attributed)
                account_row = self._row(ACCOUNTS, account, AccountRow)
                self._edit(ACCOUNTS, account, AccountRow, margin_e8=account_row.margin_e8 - leg.margin_e8)
                value = self._value(instrument, abs(leg.attributed), 0, leg.cost_e8)
                self._realise(leg.plan, sign(leg.attributed), value, leg.cost_e8)
                gone = leg.target - leg.pending - leg.deferred
                if gone:
                    out.ends += OrderEndRow(forgone=gone, leg=index, reason=Reason.LEG_DETACHED).pack()
                leg.attributed = leg.cost_e8 = leg.margin_e8 = 0
                leg.target -= gone
                set_anchor(leg, self._row(POSITIONS, leg.leader_position, LeaderPositionRow).qty)
                self.columns.put(LEGS, index, leg.pack())
                self.columns.put(ACCOUNT_INSTRUMENTS, account * self.columns.instruments_max + instrument, ai.pack())
        return int(getattr(ai, name))

    def _compare(
        self, now: int, value: AccountSnapshots, account: int, instrument: int, short: bool, difference: int, out: Outputs
    ) -> None:
        """One position of a follower against ours: remember a difference, and believe it when a second look agrees."""
        key = f"{account}/{instrument}/{int(short)}"
        known = self.names.mismatches.get(key)
        if difference == 0:
            self.names.mismatches.pop(key, None)
            return
        if not value.ts_asked or not self._quiet(account, instrument, value.seq_asked, value.ts_asked):
            out.recheck.append(account)
            return
        patience = HELD_PATIENCE if self._held_could_explain(account, instrument, short, difference) else 1
        agrees = known is not None and known.difference == difference and (
            value.ts_asked >= known.ts_asked + patience * self.params.read_lag)
        believed = agrees or (value.adopt and (not value.refused or instrument in value.refused))
        if known is None or believed:
            out.alerts.append(Alert("position_mismatch", f"the venue has {difference:+} lots more than we know of", {
                "account": self.names.accounts[account], "symbol": self.symbol(instrument), "adopted": believed}))
        if not believed:
            if known is None or known.difference != difference:
                held = sum(abs(leg.attributed) for _, leg in self._legs_of(account, instrument, short, -sign(difference)))
                self.names.mismatches[key] = Mismatch(difference, value.ts_asked, held, value.seq_asked)
            out.recheck.append(account)
            return
        self.names.mismatches.pop(key, None)
        # What the legs did not hold when it was first seen cannot have been taken from them.
        most = known.held if known is not None and known.difference == difference else None
        # What both looks showed had traded before the first: a read lag away from anything that trades now.
        look = known if agrees and known is not None else value
        self._adopt(now, account, instrument, short, difference, look, out, most)

    def _adopt(
        self, now: int, account: int, instrument: int, short: bool, difference: int, look: Mismatch | AccountSnapshots,
        out: Outputs, most: int | None = None,
    ) -> None:
        """The venue's position is believed: what no order in conflict explains was another hand's, until a fill of ours is told.

        ``look``: the one before which all of it had traded; ``most``: lots of it, at most, that legs can have lost.
        """
        rest = difference - self._explained_by_held(now, account, instrument, short, difference, out)
        if rest:
            shares = self._external(now, account, instrument, short, rest, out, abs(rest) if most is None else most)
            self._infer(now, Inferred(account, instrument, short, rest, look.ts_asked, shares, look.seq_asked))

    def _infer(self, now: int, entry: Inferred) -> None:
        """Remember what was booked for want of a better explanation."""
        self.names.inferred = [known for known in self.names.inferred if known.ts_asked > now - INFERRED_AGE]
        self.names.inferred.append(entry)
        del self.names.inferred[:-INFERRED_MAX]

    def _held_could_explain(self, account: int, instrument: int, short: bool, difference: int) -> bool:
        """An order that no source has ever shown, one of several, or a part of one, may have done this: what did it is given
        long to turn up."""
        held = self._held_there(account, instrument, short, difference)
        return len(held) > 1 or any(
            not order.venue_order_id or order.order_qty - order.cum_qty != abs(difference) for order in held)

    def _on_short_side(self, order: OrderRow) -> bool:
        return on_short_side(order, self._row(ACCOUNTS, order.account, AccountRow))

    def _held_there(self, account: int, instrument: int, short: bool, difference: int) -> list[OrderRow]:
        """Orders in conflict whose fill would make a difference of this sign."""
        held = [self._row(ORDERS, slot, OrderRow) for slot in self.columns.orders_in_state(1 << OrderState.HELD, account)]
        return [
            order for order in held
            if order.instrument == instrument and self._on_short_side(order) == short and order.side == sign(difference)
        ]

    def _quiet(self, account: int, instrument: int, seq: int, ts_asked: int) -> bool:
        """Whether a look at the venue asked at ``ts_asked``, when the journal stood at ``seq``, can be compared with ours."""
        if not self.at_rest(account, instrument, ts_asked):
            return False
        ended = (self._row(ORDERS, slot, OrderRow) for slot in self.columns.orders_in_state(TERMINAL_MASK, account))
        return all(order.seq < seq for order in ended if order.instrument == instrument)

    def expected(
        self, account: int, instrument: int, since: int, doubted: Collection[bytes] = ()
    ) -> tuple[int, int, bool]:
        """(net, net short, at rest since then): what the venue must show if no order in doubt has filled (semantics 35).

        ``doubted``: orders that are being asked about although the venue once showed them alive.
        """
        at = account * self.columns.instruments_max + instrument
        row = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
        states = 1 << OrderState.HELD | 1 << OrderState.IN_DOUBT
        return row.net, row.net_short, self.at_rest(account, instrument, since, UNFINISHED_MASK & ~states, doubted)

    def at_rest(
        self, account: int, instrument: int, ts: int, moving: int = UNFINISHED_MASK & ~(1 << OrderState.HELD),
        besides: Collection[bytes] = (),
    ) -> bool:
        """Nothing of the account is on its way in the instrument, and what moved has had time to show in every replica.

        ``moving``: states of orders that count as on their way; those in conflict do not, a look is to settle them.
        """
        at = account * self.columns.instruments_max + instrument
        if ts < self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow).ts_active + self.params.read_lag:
            return False
        orders = (self._row(ORDERS, slot, OrderRow) for slot in self.columns.orders_in_state(moving, account))
        return all(order.instrument != instrument or order.cid in besides for order in orders)

    def _explained_by_held(
        self, now: int, account: int, instrument: int, short: bool, difference: int, out: Outputs
    ) -> int:
        """Lots of the difference that orders in conflict explain: they have filled that much, and ended.

        Only orders the venue once showed: one that no source ever knew has no fill, the difference is then another hand's.
        The cumulative quantity is booked, so the true report of the same fill books nothing twice.
        """
        explained = 0
        batch = ReportBatch()
        could = [order for order in self._held_there(account, instrument, short, difference) if order.venue_order_id]
        if len(could) > 1 and sum(order.order_qty - order.cum_qty for order in could) != abs(difference):
            return 0  # which of them filled how much would be a guess
        for order in could:
            lots = min(abs(difference - explained), order.order_qty - order.cum_qty)
            if lots:
                explained += order.side * lots
                batch.append(ReportKind.STREAM, OrderState.EXPIRED, order.cid, cum_qty=order.cum_qty + lots)
                out.settled.append(order.cid)
        if batch.count:
            self.kernel.apply_reports(batch, now, out.seq)
            self._collect(out)
        return explained

    def _external_fill(self, now: int, value: ExternalFill, out: Outputs) -> bool | None:
        if 0 < value.ts_event <= self.names.account_seen.get(value.account, 0):
            return False  # what the account held when we first looked is what its books begin with
        if not self._remember_external(value.account, value.instrument, value.trade_id):
            return False
        short = value.position_side == Side.SHORT
        # What a look at the venue's books made us book already is the same trade, told late: it is not booked again.
        rest = value.qty - self._already_booked(value.account, value.instrument, short, value.qty, value.ts_event)
        traded = value.ts_event + CLOCK_SLACK_NS if value.ts_event else now
        touched = 0
        if rest:
            touched = len(self._external(
                now, value.account, value.instrument, short, rest, out, traded=traded, px=value.px))
        self._cross(value, short)
        out.alerts.append(Alert("external_fill", f"{value.kind}: {value.qty} lots", {
            "account": self.names.accounts[value.account], "symbol": self.symbol(value.instrument), "legs": touched}))
        return None

    def _cross_again(self, now: int, crossing: list[Crossed], out: Outputs) -> None:
        """The trades by hand, behind the openings they closed; then what is left too much is due."""
        for entry in crossing:
            self._external(now, entry.account, entry.instrument, entry.short, entry.qty, out)
            for index, _ in self._account_legs(entry.account, entry.instrument):
                self._edit(LEGS, index, LegRow, retry_ts=now)
        self._sweep(now, out)

    def _remember_external(self, account: int, instrument: int, trade_id: int) -> bool:
        """True when this trade is new."""
        key = account, instrument, trade_id  # a venue counts trades per instrument: the same number in another is another
        if key in self.external_seen:
            return False
        self.external_seen.add(key)
        self.names.external_seen.append(key)
        if len(self.names.external_seen) > EXTERNAL_SEEN_MAX:
            del self.names.external_seen[: EXTERNAL_SEEN_MAX // 2]
            self.external_seen = set(self.names.external_seen)
        return True

    def _retract_for_reports(self, now: int, rows: bytes) -> None:
        """Fills of ours that are told late may be what an inference stood for: it is undone before they are booked."""
        accounts = {entry.account for entry in self.names.inferred}
        told: dict[int, int] = {}  # one fill may be told several times in one batch
        for report in ReportRow.unpack_all(rows_of(self.columns, rows, accounts)):
            slot = self.columns.order_slot(report.cid) if report.cum_qty else None
            if slot is None:
                continue
            order = self._row(ORDERS, slot, OrderRow)
            cum_qty = min(report.cum_qty, order.order_qty)
            filled = cum_qty - told.get(slot, order.cum_qty)
            if filled > 0:
                told[slot] = cum_qty
                # Placed before the look, it can have filled before the look.
                self._retract(
                    now, order.account, order.instrument, self._on_short_side(order), order.side * filled,
                    partial(decided_before, order))

    def _already_booked(self, account: int, instrument: int, short: bool, qty: int, ts_event: int) -> int:
        """Lots of a trade told late, signed, that an inference has booked, by the rule the trade itself would be booked by."""
        booked = 0
        for entry in self.names.inferred:
            if (entry.account, entry.instrument, entry.short) != (account, instrument, short):
                continue
            if booked == qty or sign(entry.qty) != sign(qty) or ts_event > entry.ts_asked:
                continue
            lots = min(abs(entry.qty), abs(qty - booked))
            entry.qty -= sign(qty) * lots
            booked += sign(qty) * lots
            for share in entry.shares:
                back = min(lots, share.lots)
                if back:
                    share.cost_e8 -= mul_div_trunc(share.cost_e8, back, share.lots)
                    share.margin_e8 -= mul_div_trunc(share.margin_e8, back, share.lots)
                    share.target -= mul_div_trunc(share.target, back, share.lots)
                    share.realised_e8 -= mul_div_trunc(share.realised_e8, back, share.lots)
                    share.lots, lots = share.lots - back, lots - back
        self.names.inferred = [entry for entry in self.names.inferred if entry.qty]
        return booked

    def _cross(self, value: ExternalFill, short: bool) -> None:
        """Remember a trade by hand that may have closed an opening in doubt."""
        at = value.account * self.columns.instruments_max + value.instrument
        ai = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
        rest = ai.unattributed_short if short else ai.unattributed
        left = min(abs(rest), abs(value.qty)) if sign(rest) == sign(value.qty) else 0
        doubted = 1 << OrderState.IN_DOUBT | 1 << OrderState.HELD
        for slot in self.columns.orders_in_state(doubted, value.account):
            order = self._row(ORDERS, slot, OrderRow)
            fits = order.instrument == value.instrument and self._on_short_side(order) == short
            fits = fits and order.ts_decided < value.ts_event  # what was decided later cannot have been closed by it
            if left and fits and order.kind == Kind.OPENING and order.side == -sign(value.qty):
                lots = min(left, order.order_qty - order.cum_qty)
                self.names.crossed.append(
                    Crossed(
                        order.cid, value.account, value.instrument, short, sign(value.qty) * lots, value.ts_venue))
                left -= lots

    def _uncross(self, rows: bytes) -> list[Crossed]:
        """Trades by hand that these reports put behind an opening: taken back now, to be booked again after it."""
        waiting = {entry.cid: entry for entry in self.names.crossed}
        again = []
        for report in ReportRow.unpack_all(rows_about(rows, waiting)):
            entry = waiting.get(report.cid)
            slot = self.columns.order_slot(report.cid) if entry is not None else None
            if entry is None or slot is None:
                continue
            order = self._row(ORDERS, slot, OrderRow)
            lots = min(min(report.cum_qty, order.order_qty) - order.cum_qty, abs(entry.qty))
            if lots > 0 and 0 < report.ts_event <= entry.ts_venue:  # by the venue's own clock the fill came first
                taken = sign(entry.qty) * lots
                at = entry.account * self.columns.instruments_max + entry.instrument
                ai = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
                if entry.short:
                    ai.net_short -= taken
                    ai.unattributed_short -= taken
                else:
                    ai.net -= taken
                    ai.unattributed -= taken
                self.columns.put(ACCOUNT_INSTRUMENTS, at, ai.pack())
                again.append(Crossed(entry.cid, entry.account, entry.instrument, entry.short, taken))
                entry.qty -= taken
                # What the fill brings is not closed before the hand's trade is booked behind it, on whatever legs.
                for index, _ in self._account_legs(entry.account, entry.instrument):
                    self._edit(LEGS, index, LegRow, retry_ts=NEVER)
            if report.kind in (ReportKind.DEAD, ReportKind.REJECT, ReportKind.NOT_SENT) or report.status in TERMINAL:
                entry.qty = 0
        self.names.crossed = [entry for entry in self.names.crossed if entry.qty]
        return again

    def _retract(
        self, now: int, account: int, instrument: int, short: bool, qty: int, before: Callable[[Inferred], bool]
    ) -> None:
        """Undo what was inferred for up to ``qty`` lots that traded ``before`` the look at the venue that showed them."""
        left = qty
        for entry in self.names.inferred:
            if (entry.account, entry.instrument, entry.short) != (account, instrument, short):
                continue
            if not left or sign(entry.qty) != sign(left) or not before(entry):
                continue
            lots = min(abs(entry.qty), abs(left))
            self._undo(now, entry, lots)
            left -= sign(left) * lots
        self.names.inferred = [entry for entry in self.names.inferred if entry.qty]

    def _undo(self, now: int, entry: Inferred, lots: int) -> None:
        """Give ``lots`` of an inference back: to the legs that had shrunk for it, then to the unattributed rest."""
        side = sign(entry.qty)
        entry.qty -= side * lots
        at = entry.account * self.columns.instruments_max + entry.instrument
        ai = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
        left = lots
        account = self._row(ACCOUNTS, entry.account, AccountRow)
        for share in entry.shares:
            back = min(left, share.lots)
            if not back:
                continue
            leg = self._row(LEGS, share.leg, LegRow)
            if sign(leg.attributed) == side or (leg.attributed == 0 and sign(leg.target) == side):
                share.lots = 0  # the leg has turned since: what it gave is the follower's own for good
                continue
            cost, margin, target = (mul_div_trunc(of, back, share.lots) for of in (share.cost_e8, share.margin_e8, share.target))
            leg.attributed -= side * back
            leg.cost_e8 += cost
            leg.margin_e8 += margin
            account.margin_e8 += margin
            realised = mul_div_trunc(share.realised_e8, back, share.lots)
            share.realised_e8 -= realised
            self._edit(PLANS, leg.plan, PlanRow, realised_e8=self._row(PLANS, leg.plan, PlanRow).realised_e8 - realised)
            leader_qty = self._row(POSITIONS, leg.leader_position, LeaderPositionRow).qty
            stopped = self._stopped(leg.plan)
            # Detached ends when the leader is flat: a position he has opened since owes this share nothing.
            if leg.detached and not stopped and sign(leader_qty) == sign(share.leader_qty) != 0:
                part = min(abs(leader_qty), abs(share.leader_qty))
                leg.target += mul_div_trunc(target, part, abs(share.leader_qty))
                set_anchor(leg, leader_qty)
                if back == share.lots:
                    leg.detached = share.detached
            leg.retry_ts = leg.retry_ts or now  # what it holds too much now is closed
            share.lots, share.cost_e8, share.margin_e8 = share.lots - back, share.cost_e8 - cost, share.margin_e8 - margin
            share.target -= target
            left -= back
            self.columns.put(LEGS, share.leg, leg.pack())
        self.columns.put(ACCOUNTS, entry.account, account.pack())
        if entry.short:
            ai.net_short -= side * lots
            ai.unattributed_short -= side * left
        else:
            ai.net -= side * lots
            ai.unattributed -= side * left
        self.columns.put(ACCOUNT_INSTRUMENTS, at, ai.pack())

    def _orphan_fill(self, now: int, value: OrphanFill, out: Outputs) -> bool | None:
        """A fill of an order of ours that no table knows (lost with a journal): it is ours all the same, and booked.

        Where one plan alone trades the instrument on that account the quantity is its leg's, and what the leg then holds
        too much is closed; else it stays unattributed. A later epoch's order stops this daemon.
        """
        self._fence(value.account, value.cid, out)
        if out.fenced:
            return None
        if not self._remember_external(value.account, value.instrument, value.trade_id):
            return False
        short = value.position_side == Side.SHORT
        hedge = self._row(ACCOUNTS, value.account, AccountRow).hedge
        legs = [
            index for index, leg in self._account_legs(value.account, value.instrument)
            if (value.position_side == Side.ONE_WAY or leg.side in (Side.ONE_WAY, value.position_side))
            and not (hedge and leg.attributed and short != (leg.attributed < 0))
        ]
        text = f"{value.qty:+} lots of order {value.cid.hex()}, which the journal does not know"
        out.alerts.append(Alert("orphan_adopted", text, {
            "account": self.names.accounts[value.account], "symbol": self.symbol(value.instrument), "legs": len(legs)}))
        if len(legs) != 1:
            self._external(now, value.account, value.instrument, short, value.qty, out)
            return None
        qty = value.qty
        for entry in self.names.inferred:
            if (entry.account, entry.instrument, entry.short) == (value.account, value.instrument, short) and qty and (
                sign(entry.qty) == sign(qty) and value.ts_event <= entry.ts_asked
            ):
                # The legs gave their part of it already, and their targets with it; the unattributed rest was not its.
                gave = sum(share.lots for share in entry.shares)
                lots = min(abs(entry.qty), abs(qty))
                booked = min(gave, lots)
                self._already_booked(value.account, value.instrument, short, sign(qty) * booked, value.ts_event)
                qty -= sign(qty) * booked
                if lots > booked:
                    self._retract(
                        now, value.account, value.instrument, short, sign(qty) * (lots - booked),
                        lambda known: value.ts_event <= known.ts_asked)
        if hedge and sign(qty) == (1 if short else -1):
            # A close on this side: it takes what the leg holds there; more was told before the opening it closed.
            closes = min(abs(qty), max(0, -sign(qty) * self._row(LEGS, legs[0], LegRow).attributed))
            beyond, qty = qty - sign(qty) * closes, sign(qty) * closes
        else:
            beyond = 0
        if qty:
            self._attribute(now, legs[0], short, qty, value.px)
        if beyond:  # after the leg's part: the rest of a close would take the leg's lots a second time
            self._external(now, value.account, value.instrument, short, beyond, out)
        self._sweep(now, out)
        return None

    def _attribute(self, now: int, index: int, short: bool, qty: int, px: int) -> None:
        """Book ``qty`` signed lots at ``px`` on a leg and its account, as a fill would; any excess is due at once."""
        leg = self._row(LEGS, index, LegRow)
        at = leg.account * self.columns.instruments_max + leg.instrument
        ai, account = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow), self._row(ACCOUNTS, leg.account, AccountRow)
        held = abs(leg.attributed)
        gone = min(held, abs(qty)) if sign(qty) == -sign(leg.attributed) else 0
        added = abs(qty) - gone
        instrument = self._row(INSTRUMENTS, leg.instrument, InstrumentRow)
        value = notional(instrument, added, px)
        cost = mul_div_trunc(leg.cost_e8, gone, held) if held else 0
        margin = mul_div_trunc(leg.margin_e8, gone, held) if held else 0
        if gone:
            self._realise(leg.plan, sign(leg.attributed), notional(instrument, gone, px), cost)
        bound = 0 if instrument.spot else value // max(1, ai.leverage)
        leg.cost_e8 += value - cost
        leg.margin_e8 += bound - margin
        account.margin_e8 += bound - margin
        leg.ts_open = leg.ts_open if leg.attributed else now
        leg.attributed += qty
        wanted = leg.target - leg.pending - leg.deferred
        gap = wanted - leg.attributed * ONE
        if gone and sign(leg.target) * gap >= ONE and sign(wanted) == sign(leg.target):
            # What a lost decision closed stays closed: the next opening must not buy it back. What it closed beyond that the
            # leg holds on the other side, and is due.
            gap = sign(gap) * min(abs(gap), abs(wanted))
            leg.target -= gap
            book_missed(leg, gap)
            set_anchor(leg, self._row(POSITIONS, leg.leader_position, LeaderPositionRow).qty)
        leg.retry_ts = now
        ai.ts_active = now
        if short:
            ai.net_short += qty
        else:
            ai.net += qty
        self.columns.put(LEGS, index, leg.pack())
        self.columns.put(ACCOUNTS, leg.account, account.pack())
        self.columns.put(ACCOUNT_INSTRUMENTS, at, ai.pack())

    def _external(
        self, now: int, account: int, instrument: int, short: bool, qty: int, out: Outputs, most: int = 1 << 62,
        traded: int = NEVER, px: int = 0,
    ) -> list[Share]:
        """The follower's own hand, or a liquidation (semantics 29, 30). Returns what each leg it touched gave.

        A reduction first uses up the unattributed rest, then shrinks same-side legs pro rata, whose target drops with
        them; such a leg is detached. An increase is unattributed and never ours to close. What traded (at ``traded``, our
        clock) before a leg was opened took nothing of it.
        """
        at = account * self.columns.instruments_max + instrument
        ai = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
        net = ai.net_short if short else ai.net
        rest_name = "unattributed_short" if short else "unattributed"
        rest = getattr(ai, rest_name)
        shrink = 0
        if sign(qty) == -sign(net) and net:
            shrink = min(abs(qty), abs(net))
            from_rest = min(shrink, abs(rest)) if sign(rest) == sign(net) else 0
            legs = self._legs_of(account, instrument, short, sign(net))
            could = sum(abs(leg.attributed) for _, leg in legs if leg.ts_open <= traded)
            shrink = min(shrink - from_rest, most, could)
            rest += sign(qty) * (abs(qty) - shrink)
        else:
            rest += qty
        setattr(ai, rest_name, rest)
        setattr(ai, "net_short" if short else "net", net + qty)
        ai.ts_active = now
        self.columns.put(ACCOUNT_INSTRUMENTS, at, ai.pack())
        given = self._shrink_legs(account, instrument, short, sign(net), shrink, out, traded, px) if shrink else []
        for index, leg in self._account_legs(account, instrument):
            # A part that waited because his own position netted it may now be closed reduce-only.
            if leg.retry_ts == 0 and self.due(leg):
                self._edit(LEGS, index, LegRow, retry_ts=now)
        return given

    def due(self, leg: LegRow) -> int:
        """Whole lots of the leg to reduce by now (``copyd.core.order.due``)."""
        lots, instrument = reducible(leg), self._row(INSTRUMENTS, leg.instrument, InstrumentRow)
        at = leg.account * self.columns.instruments_max + leg.instrument
        account, ai = self._row(ACCOUNTS, leg.account, AccountRow), self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
        return tradable(instrument, leg, lots, room_of(instrument, account, ai, leg)) if lots else 0

    def _shrink_legs(
        self, account: int, instrument: int, short: bool, side: int, shrink: int, out: Outputs, traded: int = NEVER,
        px: int = 0,
    ) -> list[Share]:
        """Take ``shrink`` lots from the account's legs on ``side``, pro rata, the remainder from the largest first."""
        legs = [item for item in self._legs_of(account, instrument, short, side) if item[1].ts_open <= traded]
        total = sum(abs(leg.attributed) for _, leg in legs)
        shrink = min(shrink, total)
        shares = {index: abs(leg.attributed) * shrink // total for index, leg in legs} if total else {}
        left = shrink - sum(shares.values())
        for index, leg in sorted(legs, key=lambda item: (-abs(item[1].attributed), item[0])):
            extra = min(left, abs(leg.attributed) - shares[index])
            shares[index] += extra
            left -= extra
        account_row = self._row(ACCOUNTS, account, AccountRow)
        given = []
        for index, leg in legs:
            share, held = shares[index], abs(leg.attributed)
            if share == 0:
                continue
            cost, margin = mul_div_trunc(leg.cost_e8, share, held), mul_div_trunc(leg.margin_e8, share, held)
            leg.cost_e8 -= cost
            leg.margin_e8 -= margin
            account_row.margin_e8 -= margin
            realised = self._realise(leg.plan, side, self._value(instrument, share, px, cost), cost)
            leg.attributed -= side * share
            if leg.attributed == 0:
                leg.dust_q32 = 0
            if leg.deferred:
                # What waits would be refused when its turn comes: it leaves the target now, and is booked (semantics 1).
                out.ends += OrderEndRow(forgone=leg.deferred, leg=index, reason=Reason.LEG_DETACHED).pack()
                leg.target -= leg.deferred
                leg.deferred = leg.replan = 0
            leg.missed = 0  # what the follower's own hand changes is his wish, not quantity that copying owes him
            target = leg.target
            leg.target = side * max(0, side * leg.target - share * ONE)
            if sign(leg.pending) == side:  # the order on the wire stands for no more than is still wanted
                leg.pending = side * min(side * leg.pending, side * leg.target)
            leader_qty = self._row(POSITIONS, leg.leader_position, LeaderPositionRow).qty
            given.append(Share(index, share, target - leg.target, cost, margin, leader_qty, leg.detached, realised))
            leg.detached = int(leader_qty != 0)
            set_anchor(leg, leader_qty)
            self.columns.put(LEGS, index, leg.pack())
        self.columns.put(ACCOUNTS, account, account_row.pack())
        return given

    def _mode_changed(self, account: int, hedge: bool, out: Outputs) -> None:
        """The account's position mode. Changed behind our back, its plans only close from now on (semantics 25)."""
        was_ready = any(
            self._row(ACCOUNT_INSTRUMENTS, account * self.columns.instruments_max + instrument, AccountInstrumentRow).ready
            for instrument in range(len(self.names.instruments))
        )
        self._edit(ACCOUNTS, account, AccountRow, hedge=int(hedge))
        for instrument in range(len(self.names.instruments)):
            at = account * self.columns.instruments_max + instrument
            ai = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
            if hedge and ai.net < 0:
                ai.net, ai.net_short = 0, ai.net
                ai.unattributed, ai.unattributed_short = 0, ai.unattributed
            elif not hedge:
                ai.net, ai.net_short = ai.net + ai.net_short, 0
                ai.unattributed, ai.unattributed_short = ai.unattributed + ai.unattributed_short, 0
            self.columns.put(ACCOUNT_INSTRUMENTS, at, ai.pack())
        if not was_ready:
            return
        if account not in self.names.mode_changed:
            self.names.mode_changed.append(account)
        out.recheck.append(account)
        for plan in self.plans_of(account):
            if self._row(PLANS, plan, PlanRow).state == PlanState.ACTIVE:
                self._edit(PLANS, plan, PlanRow, state=PlanState.CLOSE_ONLY)
        out.alerts.append(Alert("position_mode_changed", "its plans only close until they are resumed by name", {
            "account": self.names.accounts[account], "hedge": hedge}))

    def _express_anew(self, now: int, index: int, old: InstrumentSpec, new: InstrumentSpec, out: Outputs) -> None:
        """A new lot or tick: every quantity and price of the instrument is written in the new unit (semantics 42).

        Quantities that are no whole number of new lots are cut toward zero; the alert says so.
        """
        lots = _unit_change(old.lot, old.qty_decimals, new.lot, new.qty_decimals)
        ticks = _unit_change(old.tick, old.price_decimals, new.tick, new.price_decimals)
        if lots == (1, 1) and ticks == (1, 1):
            return
        cut = 0

        def change(table: int, at: int, row_type: type[Row], quantities: Sequence[str], prices: Sequence[str]) -> None:
            nonlocal cut
            row = row_type.unpack(self.columns.get(table, at))
            for names, (mul, div) in ((quantities, lots), (prices, ticks)):
                for name in names:
                    value = getattr(row, name)
                    setattr(row, name, mul_div_trunc(value, mul, div))
                    cut += value * mul % div != 0
            self.columns.put(table, at, row.pack())

        follow = [self._followed(at) for at in range(self.columns.count(LEGS))]
        for book in self.names.books:
            if book.instrument == index:
                change(POSITIONS, book.position, LeaderPositionRow, ("qty",), ())
                book.orders = {order: mul_div_trunc(px, *ticks) for order, px in book.orders.items()}
        for account in range(self.columns.count(ACCOUNTS)):
            at = account * self.columns.instruments_max + index
            change(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow,
                   ("net", "net_short", "unattributed", "unattributed_short"), ())
        for at, (traded, held) in enumerate(follow):
            if held == index:
                leg = self._row(LEGS, at, LegRow)
                change(LEGS, at, LegRow, (
                    "target", "anchor_target", "attributed", "pending", "deferred", "open_leaves", "reduce_leaves", "missed"),
                    ("deferred_px_q16",))
                if leg.dust_q32:
                    self._gather_dust(at, leg.attributed * ONE + leg.dust_q32, lots)
            if traded == index:
                change(LEGS, at, LegRow, ("anchor_leader",), ())
            if (traded == index) != (held == index):  # of both, the ratio of lots to lots stays
                k = self._row(LEGS, at, LegRow).k
                self._edit(LEGS, at, LegRow, k=mul_div_trunc(k, *(lots if held == index else lots[::-1])))
        for slot in self.columns.orders_in_state(UNFINISHED_MASK | TERMINAL_MASK):
            if self._row(ORDERS, slot, OrderRow).instrument == index:
                change(ORDERS, slot, OrderRow, ("order_qty", "cum_qty", "exec_qty"), ("limit_px", "ref_px"))
        leaves: dict[tuple[int, int], int] = {}
        for slot in self.columns.orders_in_state(UNFINISHED_MASK):
            order = self._row(ORDERS, slot, OrderRow)
            leaves[order.leg, order.kind] = leaves.get((order.leg, order.kind), 0) + order.order_qty - order.cum_qty
        for at in range(self.columns.count(LEGS)):
            leg = self._row(LEGS, at, LegRow)
            if leg.instrument == index:  # what is on the wire is what its orders say, each cut for itself
                self._edit(LEGS, at, LegRow, open_leaves=leaves.get((at, Kind.OPENING), 0),
                           reduce_leaves=leaves.get((at, Kind.REDUCTION), 0), retry_ts=leg.retry_ts or now)
        for book in self.names.books:
            if book.instrument == index and book.expected:
                book.expected = (mul_div_trunc(book.expected[0], *lots), book.expected[1])
        for crossed in self.names.crossed:
            if crossed.instrument == index:
                crossed.qty = mul_div_trunc(crossed.qty, *lots)
        for entry in self.names.inferred:
            if entry.instrument == index:
                entry.qty = mul_div_trunc(entry.qty, *lots)
                for share in entry.shares:
                    share.lots, share.target = mul_div_trunc(share.lots, *lots), mul_div_trunc(share.target, *lots)
            for share in entry.shares:
                if follow[share.leg][0] == index:
                    share.leader_qty = mul_div_trunc(share.leader_qty, *lots)
        self.names.inferred = [entry for entry in self.names.inferred if entry.qty]
        change(INSTRUMENTS, index, InstrumentRow, (), ("bid", "ask", "mark"))
        self.names.mismatches.clear()
        text = f"lot x {lots[1]}/{lots[0]}, tick x {ticks[1]}/{ticks[0]}; {cut} values cut"
        out.alerts.append(Alert("instrument_changed", text, {"symbol": new.symbol}))

    def _gather_dust(self, at: int, real: int, lots: tuple[int, int]) -> None:
        """A leg that held ``real`` Q32 lots of before: what is whole lots of its dust now, it holds, and the account with it."""
        leg, now = self._row(LEGS, at, LegRow), mul_div_trunc(real, *lots)
        ai_at = leg.account * self.columns.instruments_max + leg.instrument
        ai = self._row(ACCOUNT_INSTRUMENTS, ai_at, AccountInstrumentRow)
        self._edit(ACCOUNT_INSTRUMENTS, ai_at, AccountInstrumentRow, net=ai.net + (now >> 32) - leg.attributed)
        self._edit(LEGS, at, LegRow, attributed=now >> 32, dust_q32=now & ONE - 1)

    def _catch_up(self, now: int, value: CatchUp, out: Outputs) -> bool | None:
        """What these legs have forgone since the leader was flat is wanted again, and asked of every rule like an opening."""
        changed = False
        earned = self.profits(now)
        for index in value.legs:
            leg = self._row(LEGS, index, LegRow)
            leader_qty = self._row(POSITIONS, leg.leader_position, LeaderPositionRow).qty
            mark = self._row(INSTRUMENTS, leg.instrument, InstrumentRow).mark
            if not may_catch_up(leg, leader_qty) or mark <= 0 or self._stopped(leg.plan):
                continue
            part, leg.missed = leg.missed, 0
            if leg.target == 0:
                self._take_ratio(leg, leader_qty, part, earned[leg.plan][0])
            leg.target += part
            defer(leg, part, mark, now)
            set_anchor(leg, leader_qty)
            self.columns.put(LEGS, index, leg.pack())
            changed = True
        if not changed:
            return False
        self._sweep(now, out)
        return None

    def _legs_of(self, account: int, instrument: int, short: bool, side: int) -> list[tuple[int, LegRow]]:
        """The account's legs that hold on ``side`` in one of its venue positions."""
        hedge = self._row(ACCOUNTS, account, AccountRow).hedge
        return [
            (index, leg) for index, leg in self._account_legs(account, instrument)
            if sign(leg.attributed) == side and (not hedge or short == (leg.attributed < 0))
        ]

    def _take_ratio(self, leg: LegRow, leader_qty: int, part: int, earned: int) -> None:
        """The ratio of a leg that opens by catching up: the one an opening would take now (semantics 4, 16)."""
        plan = self._row(PLANS, leg.plan, PlanRow)
        lead = self._row(POSITIONS, leg.leader_position, LeaderPositionRow)
        lots_mul, lots_div = self._per_lot.get((lead.instrument, leg.instrument), (1, 1))
        event = FillEvent(
            order_qty=abs(leader_qty), px=1, first_px=1, instrument=leg.instrument, leader=plan.leader, lots_mul=lots_mul,
            lots_div=lots_div)
        k, refused = ratio(
            leg, plan, allocation_equity(plan, earned), self._row(LEADERS, plan.leader, LeaderRow), lead,
            self._row(INSTRUMENTS, leg.instrument, InstrumentRow), event)
        by_order = plan.mode in (Mode.FIXED_AMOUNT, Mode.RISK_BASED)
        leg.k = abs(part) // abs(leader_qty) if refused or by_order else k

    # -- commands ---------------------------------------------------------------------------------------------------

    def _command(self, now: int, value: Command, out: Outputs) -> None:
        handler = self._COMMANDS.get(value.name)
        if handler is None:
            raise OperatorError(f"unknown command {value.name!r}")
        handler(self, now, value.args, out)

    def _import_plans(self, now: int, args: dict[str, Any], out: Outputs) -> None:
        """``plans``: a list of plan cells as ``copyd.followers`` made them; all or nothing."""
        plans = args["plans"]
        taken = self._instruments_taken()
        made = set(self.by_follower)
        venues = {name: self.account_venue(account) for name, account in self.by_account.items()}
        for spec in plans:
            self._check_plan(spec, taken, made, venues)
        # Legs are made here and not at the leader's first fill, which should not pay for ten thousand of them.
        for leader in sorted({self.leader(spec["leader"]) for spec in plans}):
            for instrument, listed in enumerate(self.names.instruments):
                if listed.venue == self.leader_venue(leader):
                    self._make_groups(self._book(leader, instrument, Side.ONE_WAY))
        self._tell_uncopied(plans, out)
        for spec in plans:
            self._add_plan(now, spec)

    def _instruments_taken(self, beside: int = -1) -> dict[str, list[tuple[int, bool, str]]]:
        """Per account: (instruments mask, may net, follower) of every plan on it but ``beside``."""
        taken: dict[str, list[tuple[int, bool, str]]] = {}
        for index, spec in enumerate(self.names.specs):
            if index == beside:
                continue
            mask = self._row(PLANS, index, PlanRow).instruments
            taken.setdefault(spec["account"], []).append((mask, bool(spec.get("allow_netting")), spec["follower"]))
        return taken

    def _check_plan(
        self, spec: dict[str, Any], taken: dict[str, list[tuple[int, bool, str]]], made: set[tuple[str, str]],
        venues: dict[str, str],
    ) -> None:
        """Raises ``OperatorError`` for a plan that cannot be made; ``taken``, ``made``, ``venues`` grow by the one that can."""
        self._check_cells(spec)
        venue = self._plan_venue(spec)
        known = venues.setdefault(spec["account"], venue)
        if known != venue:
            raise OperatorError(
                f"follower {spec['follower']}: account {spec['account']} is of {known or 'the first venue'}, the plan of "
                f"{venue or 'the first venue'}: an account belongs to one venue")
        if (spec["follower"], spec["leader"]) in made:
            raise OperatorError(f"follower {spec['follower']} already copies {spec['leader']}")
        self._check_netting(spec, taken)
        made.add((spec["follower"], spec["leader"]))

    def _check_netting(self, spec: dict[str, Any], taken: dict[str, list[tuple[int, bool, str]]]) -> None:
        """Two plans share an instrument on one account only where both say so (semantics 22)."""
        mask, netting = self._plan_row(spec).instruments, bool(spec.get("allow_netting"))
        for other, other_netting, follower in taken.get(spec["account"], []):
            if mask & other and not (netting and other_netting):
                raise OperatorError(
                    f"follower {spec['follower']}: account {spec['account']} already copies the same instruments for "
                    f"{follower}; set allow_netting on both to let them net"
                )
        taken.setdefault(spec["account"], []).append((mask, netting, spec["follower"]))

    def _check_cells(self, spec: dict[str, Any]) -> None:
        """Raises ``OperatorError`` for a plan that says too little, or names a leader or an instrument nobody configured."""
        missing = [name for name in PLAN_CELLS if name not in spec]
        if missing:
            raise OperatorError(f"follower {spec.get('follower', '?')}: the plan lacks {', '.join(missing)}")
        if spec["leader"] not in self.names.leaders:
            raise OperatorError(f"follower {spec['follower']}: leader {spec['leader']!r} is not configured")
        venue = self._plan_venue(spec)
        if venue and venue not in {listed.venue for listed in self.names.instruments}:
            raise OperatorError(f"follower {spec['follower']}: no instrument of venue {venue} is configured")
        unknown = [symbol for symbol in spec["instruments"] if self.instrument(symbol, venue) is None]
        if unknown:
            raise OperatorError(f"follower {spec['follower']}: unknown instrument {', '.join(unknown)}")

    def _plan_venue(self, spec: dict[str, Any]) -> str:
        """Where the account of a plan is held: as it says, else where its leader trades."""
        return spec.get("venue") or self.leader_venue(self.leader(spec["leader"]))

    def _tell_uncopied(self, plans: list[dict[str, Any]], out: Outputs) -> None:
        """What a leader can trade and nobody on a follower's venue follows him in is said when the follower comes."""
        for leader, venue in sorted({(self.leader(spec["leader"]), self._plan_venue(spec)) for spec in plans}):
            uncopied = [
                listed.symbol for instrument, listed in enumerate(self.names.instruments)
                if listed.venue == self.leader_venue(leader) and self.followed_in(instrument, venue) is None
            ]
            if uncopied:
                text = f"on {venue} nothing mirrors {', '.join(uncopied)}: not copied there"
                out.alerts.append(Alert("not_mirrored", text, {
                    "leader": self.names.leaders[leader], "venue": venue, "symbols": uncopied}))

    def _plan_row(self, spec: dict[str, Any]) -> PlanRow:
        mask = (1 << 64) - 1
        if spec["instruments"]:
            venue = self._plan_venue(spec)
            mask = sum({1 << index for symbol in spec["instruments"] if (index := self.instrument(symbol, venue)) is not None})
        return PlanRow(
            allocation_e8=spec["allocation_e8"], amount_e8=spec["amount_e8"],
            max_notional_symbol_e8=spec["max_notional_symbol_e8"], max_notional_total_e8=spec["max_notional_total_e8"],
            multiplier_ppm=spec["multiplier_ppm"], raise_max_ppm=spec["raise_max_factor_ppm"], instruments=mask,
            leader=self.names.leaders.index(spec["leader"]), leverage=spec["leverage"],
            leverage_max=spec["leverage_max"], risk_bps=spec["risk_bps"], assumed_stop_bps=spec["assumed_stop_bps"],
            max_position_bps=spec["max_position_bps"], max_loss_bps=spec["max_loss_per_trade_bps"],
            slippage_bps=spec["slippage_bps"], slippage_mid_bps=spec["slippage_mid_bps"],
            max_open_trades=spec["max_open_trades"], mode=spec["mode"], ratio_snapshot=spec["ratio_snapshot"],
            min_policy=spec["min_policy"], on_insufficient=spec["on_insufficient"],
            require_stop=int(spec["require_stop"]), state=spec["state"],
            **{name: spec.get(name, 0) for name in LOSS_CELLS},
        )

    def _add_plan(self, now: int, spec: dict[str, Any]) -> None:
        account = self.by_account.get(spec["account"])
        if account is None:
            account = self.columns.add(ACCOUNTS, AccountRow().pack())
            self.columns.extend(ACCOUNT_INSTRUMENTS, self.columns.instruments_max)
            self.names.account_venues += [""] * (len(self.names.accounts) - len(self.names.account_venues))
            self.names.account_venues.append(self._plan_venue(spec))
            self.names.accounts.append(spec["account"])
            self.by_account[spec["account"]] = account
        row = self._plan_row(spec)
        row.account = account
        row.day_equity_e8 = row.allocation_e8
        row.leader_peak_e8 = self._present_equity(now, row.leader)
        plan = self.columns.add(PLANS, row.pack())
        self.names.followers.append(spec["follower"])
        self.names.plan_leaders.append(spec["leader"])
        self.names.specs.append(spec)
        self.by_follower[spec["follower"], spec["leader"]] = plan
        self._account_plans.setdefault(account, []).append(plan)
        venue = self.account_venue(account)
        for book in self.names.books:
            if book.leader == row.leader:
                for instrument, key in self._group_keys(book):
                    if key in self._groups and self.names.instruments[instrument].venue == venue:
                        self._add_leg(plan, book, instrument, key)

    def plan_index(self, follower: str, leader: str | None = None) -> int:
        """Index of a plan; the leader may be left out where the follower has one plan only."""
        found = [
            index for (name, of), index in self.by_follower.items() if name == follower and leader in (None, of)
        ]
        if len(found) != 1:
            which = "no plan" if not found else f"{len(found)} plans, name the leader"
            raise OperatorError(f"follower {follower!r}: {which}")
        return found[0]

    def _change_plan(self, now: int, args: dict[str, Any], out: Outputs) -> None:
        """``follower``, ``leader``, ``spec``: new limits hold from the next opening (semantics 31)."""
        plan = self.plan_index(args["follower"], args.get("leader"))
        old, spec = self._row(PLANS, plan, PlanRow), args["spec"]
        self._check_cells(spec)
        row = self._plan_row(spec)
        if row.leader != old.leader or self.by_account.get(spec["account"]) != old.account:
            raise OperatorError("a plan keeps its leader and its account: stop it and make a new one")
        if self._plan_venue(spec) != self.account_venue(old.account):
            raise OperatorError(
                f"account {spec['account']} is of {self.account_venue(old.account)}: a plan cannot move it to another venue")
        self._check_netting(spec, self._instruments_taken(beside=plan))
        row.account, row.first_leg, row.killed, row.version = old.account, old.first_leg, old.killed, old.version + 1
        for name in KEPT_CELLS:
            setattr(row, name, getattr(old, name))
        self.columns.put(PLANS, plan, row.pack())
        self.names.specs[plan] = spec

    def _stop_plan(self, now: int, args: dict[str, Any], out: Outputs) -> None:
        """``follower``, ``leader``, ``policy``: close_gracefully (with the leader), close_now, or keep (semantics 19)."""
        plan = self.plan_index(args["follower"], args.get("leader"))
        policy = args.get("policy", "close_gracefully")
        if policy not in ("keep", "close_gracefully", "close_now"):
            raise OperatorError(f"stop policy {policy!r}: keep, close_gracefully or close_now")
        legs = self.plan_legs(plan)
        if policy == "keep" and any(leg.open_slot != NONE or leg.reduce_leaves or leg.retry_ts for _, leg in legs):
            raise OperatorError("the plan has orders in flight: try again when they have ended")
        self._edit(PLANS, plan, PlanRow, state=PlanState.STOPPED)
        if policy == "close_gracefully":
            return
        for index, leg in legs:
            leg.target = leg.pending = leg.deferred = leg.anchor_target = leg.missed = 0
            leg.retry_ts = now if policy == "close_now" else 0
            if policy == "keep":
                self._give_back(leg)
            self.columns.put(LEGS, index, leg.pack())
        self._sweep(now, out)

    def _flatten(self, now: int, args: dict[str, Any], out: Outputs) -> None:
        """Every plan is stopped and what it holds is closed now; each is resumed by name (semantics 19)."""
        for plan in range(self.columns.count(PLANS)):
            self._edit(PLANS, plan, PlanRow, state=PlanState.STOPPED)
        for index in range(self.columns.count(LEGS)):
            leg = self._row(LEGS, index, LegRow)
            leg.target = leg.pending = leg.deferred = leg.anchor_target = leg.missed = 0
            leg.retry_ts = now
            self.columns.put(LEGS, index, leg.pack())
        self._sweep(now, out)

    def _give_back(self, leg: LegRow) -> None:
        """What the leg holds becomes the follower's own; it is not ours to touch any more."""
        at = leg.account * self.columns.instruments_max + leg.instrument
        ai = self._row(ACCOUNT_INSTRUMENTS, at, AccountInstrumentRow)
        if self._row(ACCOUNTS, leg.account, AccountRow).hedge and leg.attributed < 0:
            ai.unattributed_short += leg.attributed
        else:
            ai.unattributed += leg.attributed
        self.columns.put(ACCOUNT_INSTRUMENTS, at, ai.pack())
        account = self._row(ACCOUNTS, leg.account, AccountRow)
        account.margin_e8 -= leg.margin_e8
        self.columns.put(ACCOUNTS, leg.account, account.pack())
        self._realise(
            leg.plan, sign(leg.attributed), self._value(leg.instrument, abs(leg.attributed), 0, leg.cost_e8), leg.cost_e8)
        leg.attributed = leg.cost_e8 = leg.margin_e8 = leg.dust_q32 = 0

    def _set_state(self, now: int, args: dict[str, Any], out: Outputs) -> None:
        """``scope`` (all | venue | leader | plan | instrument), ``name``, ``state`` (active | paused | close_only)."""
        state = {"active": PlanState.ACTIVE, "paused": PlanState.PAUSED, "close_only": PlanState.CLOSE_ONLY}[args["state"]]
        scope, name = args["scope"], args.get("name", "")
        if scope == "all":
            for leader in range(len(self.names.leaders)):
                self._edit(LEADERS, leader, LeaderRow, state=state)
        elif scope == "leader":
            self._edit(LEADERS, self.leader(name), LeaderRow, state=state)
        elif scope == "plan":
            plan = self.plan_index(name, args.get("leader"))
            row = self._row(PLANS, plan, PlanRow)
            if (row.state == PlanState.STOPPED or row.stopped_by) and not args.get("resume_stopped"):
                raise OperatorError(f"the plan of {name} is stopped: change it back by name to follow again")
            if row.keeping:
                raise OperatorError(f"the plan of {name} still has orders of before its stop: try again when they have ended")
            if row.stopped_by:
                self._resume(now, plan)
            self._edit(PLANS, plan, PlanRow, state=state)
        elif scope == "instrument":
            self._halt(self._known_instruments(name), HALTED_BY_STATE, state != PlanState.ACTIVE)
        elif scope == "venue":
            self._halt(self._listed_on(name), HALTED_BY_VENUE_STATE, state != PlanState.ACTIVE)
        else:
            raise OperatorError(f"scope {scope!r}: all, venue, leader, plan or instrument")

    def _present_equity(self, now: int, leader: int) -> int:
        """What the leader's drawdown is measured from, from now on; 0, so from his next snapshot, where the last one is old."""
        row = self._row(LEADERS, leader, LeaderRow)
        return max(0, row.equity_e8) if now - row.ts_equity <= self.params.equity_max_age else 0

    def _resume(self, now: int, plan: int) -> None:
        """Resumed by name after a loss stop: its limits count from here (semantics 19)."""
        row = self._row(PLANS, plan, PlanRow)
        earned, _ = self.kernel.profits(now)[plan]
        self._edit(
            PLANS, plan, PlanRow, stopped_by=0, loss_base_e8=earned, day_pnl_e8=earned,
            day_equity_e8=allocation_equity(row, earned),
            leader_peak_e8=self._present_equity(now, row.leader),
        )

    def _kill_switch(self, now: int, args: dict[str, Any], out: Outputs) -> None:
        """``scope``, ``name``, ``on``: openings stop; reductions pass (semantics 17)."""
        scope, name, on = args["scope"], args.get("name", ""), int(bool(args["on"]))
        if scope == "all":
            self.params.killed = on
            self._set_params()
        elif scope == "leader":
            self._edit(LEADERS, self.leader(name), LeaderRow, killed=on)
        elif scope == "plan":
            self._edit(PLANS, self.plan_index(name, args.get("leader")), PlanRow, killed=on)
        elif scope == "instrument":
            self._halt(self._known_instruments(name), HALTED_BY_KILL_SWITCH, bool(on))
        elif scope == "venue":
            self._halt(self._listed_on(name), HALTED_BY_VENUE_KILL, bool(on))
        else:
            raise OperatorError(f"scope {scope!r}: all, venue, leader, plan or instrument")

    def _halt(self, instruments: list[int], cause: int, on: bool) -> None:
        """Each cause is a bit of its own: resuming an instrument does not release its kill switch, nor its venue's.

        What is halted is where orders go: followers elsewhere still open after a leader who trades there.
        """
        for index in instruments:
            halted = self._row(INSTRUMENTS, index, InstrumentRow).halted
            self._edit(INSTRUMENTS, index, InstrumentRow, halted=halted | cause if on else halted & ~cause)

    def _on_venue(self, venue: str) -> list[int]:
        return [index for index, spec in enumerate(self.names.instruments) if spec.venue == venue]

    def _shared_by_venue(self, venue: str) -> InstrumentRow:
        """A row that holds what all instruments of a venue share."""
        listed = self._on_venue(venue)
        return self._row(INSTRUMENTS, listed[0], InstrumentRow) if listed else InstrumentRow()

    def _venue_halts(self, venue: str) -> int:
        """The causes that halt a venue, which an instrument that is added to it shares."""
        return self._shared_by_venue(venue).halted & HALTED_BY_VENUE

    def _hold(self, now: int, args: dict[str, Any], out: Outputs) -> None:
        """``why`` (journal_low | clock_off), ``on``: the world does not let openings go; reductions pass.

        ``clock_off`` with a ``venue`` holds what is sent there: the clock of each venue is another. Without one it holds all.
        """
        why, on = args["why"], int(bool(args["on"]))
        if why not in ("journal_low", "clock_off"):
            raise OperatorError(f"hold for {why!r}: journal_low or clock_off")
        if "venue" in args:
            if why != "clock_off":
                raise OperatorError(f"hold for {why!r} of one venue: the journal is everybody's")
            for index in self._listed_on(args["venue"]):
                self._edit(INSTRUMENTS, index, InstrumentRow, clock_off=on)
            return
        setattr(self.params, why, on)
        self._set_params()

    def _retire(self, now: int, args: dict[str, Any], out: Outputs) -> None:
        """Forget finished orders named before record ``before_seq``; bounds memory."""
        self.columns.retire_orders(args["before_seq"], TERMINAL_MASK, now - UNTOLD_KEPT_NS)

    # -- reading ----------------------------------------------------------------------------------------------------

    def clock_off(self, venue: str) -> bool:
        """Whether openings at a venue are held for this machine's clock, which disagrees with that venue's."""
        return bool(self._shared_by_venue(venue).clock_off)

    def symbol(self, instrument: int) -> str:
        """Venue symbol of an instrument index."""
        return self.names.instruments[instrument].symbol

    def label(self, instrument: int) -> str:
        """An instrument as a person names it: by its symbol, and by its venue where there are several."""
        specs = self.names.instruments
        one = all(spec.venue == specs[0].venue for spec in specs)
        return specs[instrument].symbol if one else _label(specs[instrument])

    def instrument(self, name: str, venue: str | None = None) -> int | None:
        """Index of an instrument by its symbol or ``venue:symbol``, the first of them, or the one on ``venue``; None where none
        is configured."""
        for index in self.instruments_named(name):
            if venue in (None, self.names.instruments[index].venue):
                return index
        return None

    def instruments_named(self, name: str) -> list[int]:
        """Indexes of what a person means by ``name``: a symbol on every venue that lists it, ``venue:symbol`` on one."""
        specs = self.names.instruments
        return [index for index, spec in enumerate(specs) if name in (spec.symbol, f"{spec.venue}:{spec.symbol}")]

    def _known_instruments(self, name: str) -> list[int]:
        found = self.instruments_named(name)
        if not found:
            raise OperatorError(f"instrument {name!r} is not configured")
        return found

    def _listed_on(self, venue: str) -> list[int]:
        found = self._on_venue(venue)
        if not found:
            raise OperatorError(f"venue {venue!r}: no instrument of it is configured")
        return found

    def _followed(self, leg: int) -> tuple[int, int]:
        """(the instrument the leader trades, the one a leg of his follower stands in)."""
        row = self._row(LEGS, leg, LegRow)
        return self._row(POSITIONS, row.leader_position, LeaderPositionRow).instrument, row.instrument

    def leader(self, name: str) -> int:
        """Index of a leader; ``OperatorError`` where there is none."""
        if name not in self.names.leaders:
            raise OperatorError(f"leader {name!r} is not configured")
        return self.names.leaders.index(name)

    def plans_of(self, account: int) -> list[int]:
        """Indexes of the plans on an account."""
        return self._account_plans.get(account, [])

    def _account_legs(self, account: int, instrument: int) -> list[tuple[int, LegRow]]:
        """The legs of an account in an instrument, in the order of their rows."""
        found = [item for plan in self._account_plans.get(account, ()) for item in self.plan_legs(plan)
                 if item[1].instrument == instrument]
        return sorted(found, key=lambda item: item[0])

    def plan_legs(self, plan: int) -> list[tuple[int, LegRow]]:
        """(index, leg) of every leg of a plan."""
        legs = []
        at = self._row(PLANS, plan, PlanRow).first_leg
        while at != NONE:
            leg = self._row(LEGS, at, LegRow)
            legs.append((at, leg))
            at = leg.next_leg
        return legs

    def _row(self, table: int, index: int, row_type: type[R]) -> R:
        return row_type.unpack(self.columns.get(table, index))

    def _edit(self, table: int, index: int, row_type: type[Row], **changes: int) -> None:
        row = row_type.unpack(self.columns.get(table, index))
        for name, value in changes.items():
            setattr(row, name, value)
        self.columns.put(table, index, row.pack())

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def checkpoint(self) -> list[bytes]:
        """The whole state as parts; ``restore`` is the inverse."""
        version = CHECKPOINT_VERSION if self.announced is None else CHECKPOINT_ANNOUNCED
        head = _encoder.encode((version, self.columns.instruments_max, self.names))
        announced = [_encoder.encode(self.announced)] if self.announced is not None else []
        return [head, *self.columns.dump(), *announced]

    @classmethod
    def restore(cls, parts: Sequence[bytes]) -> Engine:
        """An engine from ``checkpoint`` parts, also those of ``CHECKPOINT_ONE_VENUE``; ValueError when they are another's."""
        version, instruments_max, told = msgspec.msgpack.decode(parts[0], type=tuple[int, int, msgspec.Raw])
        one_venue = version in CHECKPOINT_ONE_VENUE
        if version not in (CHECKPOINT_VERSION, CHECKPOINT_ANNOUNCED, *CHECKPOINT_ONE_VENUE):
            raise ValueError(f"checkpoint version {version} is not known to this build")
        names = _names_of_one_venue(told) if one_venue else msgspec.msgpack.decode(told, type=Names)
        engine = cls.__new__(cls)
        engine.columns = Columns.load(instruments_max, [bytes(part) for part in parts[1:CHECKPOINT_PARTS]])
        engine.announced = (
            msgspec.msgpack.decode(parts[CHECKPOINT_PARTS], type=tuple[int, LeaderFill])
            if version in (CHECKPOINT_ANNOUNCED, CHECKPOINT_ONE_VENUE[1]) else None)
        engine.ready_first = READY_FIRST
        engine.names = names
        engine.params = Params.unpack(names.params) if names.params else Params()
        engine._bind()
        if one_venue:
            for book in names.books:
                engine._edit(POSITIONS, book.position, LeaderPositionRow, instrument=book.instrument)
        return engine

    _HANDLERS: ClassVar[dict[type, Any]] = {
        Started: _started, Configured: _configured, LeaderFill: _leader_fill, LeaderPosition: _leader_position,
        LeaderSync: _leader_sync, LeaderEquity: _leader_equity, LeaderLeverage: _leader_leverage, Quotes: _quotes,
        Reports: _reports, LegsReady: _legs_ready, AccountSnapshots: _account_snapshots, ExternalFill: _external_fill,
        Command: _command, Timer: _timer, OrphanFill: _orphan_fill, CatchUp: _catch_up,
        Marks: _marks, Funding: _funding, LeaderFlow: _leader_flow,
        LeaderMarginCall: _leader_margin_call, Turbulence: _turbulence, Announced: _announced,
    }
    _COMMANDS: ClassVar[dict[str, Any]] = {
        "import_plans": _import_plans, "change_plan": _change_plan, "stop_plan": _stop_plan, "set_state": _set_state,
        "kill_switch": _kill_switch, "hold": _hold, "retire": _retire, "flatten": _flatten,
    }


def _names_of_one_venue(told: msgspec.Raw) -> Names:
    """The names in a checkpoint of ``CHECKPOINT_ONE_VENUE``, which kept a trade by hand as one number of three."""
    raw = msgspec.msgpack.decode(told)
    raw["external_seen"] = [(key & 0xFFFFF, key >> 20 & 63, key >> 26) for key in raw["external_seen"]]
    raw["account_venues"] = [""] * len(raw["accounts"])
    return msgspec.convert(raw, Names)


def _label(spec: InstrumentSpec) -> str:
    """An instrument as a person names it where there are several venues."""
    return f"{spec.venue}:{spec.symbol}" if spec.venue else spec.symbol


def _base(spec: InstrumentSpec) -> tuple[int, int]:
    return spec.base_mul, spec.base_div


def _mirror_key(book: LeaderBook, mirror: int) -> str:
    """Names the legs that follow a book in a mirror of its instrument."""
    return f"{book.key}>{mirror}"


def _money(e8: int) -> str:
    """For people: two decimals, cut."""
    cents = abs(e8) * 100 // E8
    return f"{'-' if e8 < 0 else ''}{cents // 100:,}.{cents % 100:02}"


def _unit_change(old: int, old_decimals: int, new: int, new_decimals: int) -> tuple[int, int]:
    """A count of old units times the first, divided by the second, is the count of new ones."""
    mul, div = old * 10 ** max(0, new_decimals - old_decimals), new * 10 ** max(0, old_decimals - new_decimals)
    common = gcd(mul, div)
    return mul // common, div // common


def check_law(engine: Engine) -> None:
    """The law of semantics 1 on every leg, as an invariant: raises ``BrokenInvariant`` naming the leg.

    ``|target - attributed - open - deferred| < 1 lot`` unless the residual waits for the venue's minimum, which only an
    opening residual may do, and a part of a close that the venue would not take: a leg never else holds a whole lot more than it
    should without an order on its way or a retry due.
    """
    for index in range(engine.columns.count(LEGS)):
        leg = LegRow.unpack(engine.columns.get(LEGS, index))
        if leg.retry_ts == 0 and (lots := engine.due(leg)):
            raise BrokenInvariant(f"leg {index} holds {lots} lots too much and nothing is on its way")
        if leg.reduce_leaves < 0 or leg.open_leaves < 0:
            raise BrokenInvariant(f"leg {index} counts fewer lots on the wire than none")
