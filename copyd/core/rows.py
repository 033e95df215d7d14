"""The rows of the engine's tables as Python sees them, and the words (enums) their small fields use.

Field for field the structs of ``copyd/_fast/columns.pxd``, where each unit is stated; a test compares size and offsets.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from enum import IntEnum
from operator import attrgetter
from typing import Any, ClassVar, Self

NONE = 0xFFFFFFFF
"""No row."""


class Mode(IntEnum):
    """Copy modes (semantics 2)."""

    PROPORTIONAL = 0
    MULTIPLIER = 1
    FIXED_AMOUNT = 2
    FIXED_RATIO = 3
    RISK_BASED = 4


class RatioSnapshot(IntEnum):
    """When ``k`` is taken (semantics 4)."""

    POSITION_OPEN = 0
    EACH_ORDER = 1
    FOLLOW = 2


class MinPolicy(IntEnum):
    """What happens to an opening below the venue's minimum (semantics 6)."""

    CARRY = 0
    SKIP = 1
    RAISE = 2


class OnInsufficient(IntEnum):
    """What happens to an opening the free balance does not carry (semantics 7)."""

    SCALE = 0
    SKIP = 1


class PlanState(IntEnum):
    """State of a plan or a leader. None of them stops a reduction (semantics 17)."""

    ACTIVE = 0
    PAUSED = 1
    CLOSE_ONLY = 2
    STOPPED = 3


class LossPolicy(IntEnum):
    """What a plan does when a loss limit stops it (semantics 19)."""

    CLOSE_NOW = 0
    CLOSE_GRACEFULLY = 1
    OPENS_PAUSED = 2
    KEEP = 3


class Side(IntEnum):
    """Position side of the leader's leg."""

    ONE_WAY = 0
    LONG = 1
    SHORT = 2


class Kind(IntEnum):
    """What an order is for. A reduction is never refused by a rule of ours."""

    OPENING = 0
    REDUCTION = 1


class OrderState(IntEnum):
    """FIX order states plus ours: IN_DOUBT (we do not know yet), DEAD (proven absent)."""

    PENDING_NEW = 1
    NEW = 2
    PARTIALLY_FILLED = 3
    FILLED = 4
    PENDING_CANCEL = 5
    CANCELED = 6
    EXPIRED = 7
    REJECTED = 8
    IN_DOUBT = 10
    DEAD = 11
    HELD = 12
    FREE = 255


TERMINAL = (OrderState.FILLED, OrderState.CANCELED, OrderState.EXPIRED, OrderState.REJECTED, OrderState.DEAD)
TERMINAL_MASK = sum(1 << state for state in TERMINAL)
UNFINISHED_MASK = sum(
    1 << state
    for state in (OrderState.PENDING_NEW, OrderState.NEW, OrderState.PARTIALLY_FILLED, OrderState.PENDING_CANCEL,
                  OrderState.IN_DOUBT, OrderState.HELD)
)


class ReportKind(IntEnum):
    """What a report row says."""

    REPLY = 1
    REJECT = 2
    IN_DOUBT = 3
    DEAD = 4
    STREAM = 5
    TRADE = 6
    BALANCE = 7
    NOT_SENT = 8
    HELD = 9


class Part(IntEnum):
    """What became of one part (reduce, open) of a decision."""

    NONE = 0
    ORDER = 1
    DEFERRED = 2
    CARRIED = 3
    FORGONE = 4
    ROUNDED = 5


class Reason(IntEnum):
    """Why quantity was forgone, in the order of precedence: the first rule that binds names the decision (semantics 18)."""

    NONE = 0
    KILL_SWITCH = 1
    PLAN_PAUSED = 2
    PLAN_CLOSE_ONLY = 3
    PLAN_STOPPED = 4
    LEG_NOT_READY = 5
    LEG_DETACHED = 6
    INSTRUMENT_NOT_ALLOWED = 7
    LEADER_NOT_ELIGIBLE = 8
    OBSERVED = 9
    LEADER_UNSYNCED = 10
    LEADER_EQUITY_STALE = 11
    QUOTE_STALE = 12
    STALE_EVENT = 13
    LEADER_DRAWDOWN = 14
    TOTAL_LOSS = 15
    DAILY_LOSS = 16
    MAX_OPEN_TRADES = 17
    LEVERAGE_ABOVE_MAX = 18
    NO_STOP = 19
    MAX_LOSS_PER_TRADE = 20
    MAX_POSITION = 21
    MAX_NOTIONAL_SYMBOL = 22
    MAX_NOTIONAL_TOTAL = 23
    INSUFFICIENT_MARGIN = 24
    SLIPPAGE_LEADER = 25
    SLIPPAGE_MID = 26
    RATE_LIMITED = 27
    BELOW_MINIMUM = 28
    ABOVE_MAXIMUM = 29
    JOURNAL_LOW = 30
    CLOCK_OFF = 31
    PRICE_OUTLIER = 32
    VOLATILITY_PAUSE = 33
    NO_SHORT = 34
    SLIPPAGE = 40
    VENUE_REJECTED = 41


class Row:
    """A table row that packs to exactly the bytes of its C struct."""

    LAYOUT: ClassVar[struct.Struct]
    NAMES: ClassVar[tuple[str, ...]] = ()
    VALUES: ClassVar[attrgetter[tuple[Any, ...]] | None] = None

    def pack(self) -> bytes:
        """The row as the kernel stores it."""
        values = self.VALUES
        if values is None:
            values = type(self).VALUES = attrgetter(*self.names())
        return self.LAYOUT.pack(*values(self))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Field names in storage order."""
        if not cls.NAMES:
            cls.NAMES = tuple(field.name for field in fields(cls))  # type: ignore[arg-type]
        return cls.NAMES

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """The inverse of ``pack``."""
        return cls(*cls.LAYOUT.unpack(data))

    @classmethod
    def unpack_all(cls, data: bytes | memoryview) -> list[Self]:
        """Every row of a packed table."""
        return [cls(*values) for values in cls.LAYOUT.iter_unpack(data)]


@dataclass(slots=True)
class InstrumentRow(Row):
    """Filters, value and the latest quote of an instrument."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<11qiiBBBB4x")
    value_mul: int = 1
    value_div: int = 1
    lot_min: int = 1
    lot_max: int = 1 << 40
    lot_max_market: int = 1 << 40
    min_notional_e8: int = 0
    bid: int = 0
    ask: int = 0
    mark: int = 0
    ts_quote: int = 0
    ts_mark: int = 0
    taker_fee_ppm: int = 500
    slippage_bps: int = 50
    halted: int = 0
    turbulent: int = 0
    spot: int = 0
    clock_off: int = 0


@dataclass(slots=True)
class LeaderRow(Row):
    """A leader's equity and standing, and what he declared to stay within (0 = not declared)."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<6qQiBBBB")
    equity_e8: int = 0
    ts_equity: int = 0
    equity_before_e8: int = 0
    ts_told: int = 0
    ts_margin_call: int = 0
    declared_position_e8: int = 0
    declared_instruments: int = (1 << 64) - 1
    declared_leverage: int = 0
    state: int = 0
    killed: int = 0
    eligible: int = 1
    gap: int = 0


@dataclass(slots=True)
class LeaderPositionRow(Row):
    """The leader's whole quantity in one instrument and position side."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<qiBB2x")
    qty: int = 0
    leverage: int = 1
    synced: int = 1
    instrument: int = 0


@dataclass(slots=True)
class PlanRow(Row):
    """A copy plan: one follower x one leader."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<14qQ4I12i11B5x")
    allocation_e8: int = 0
    amount_e8: int = 0
    max_notional_symbol_e8: int = 0
    max_notional_total_e8: int = 0
    multiplier_ppm: int = 1_000_000
    raise_max_ppm: int = 2_000_000
    realised_e8: int = 0
    commission_e8: int = 0
    funding_e8: int = 0
    paid_e8: int = 0
    loss_base_e8: int = 0
    day_pnl_e8: int = 0
    day_equity_e8: int = 0
    leader_peak_e8: int = 0
    instruments: int = (1 << 64) - 1
    account: int = 0
    leader: int = 0
    version: int = 1
    first_leg: int = NONE
    leverage: int = 1
    leverage_max: int = 10
    risk_bps: int = 0
    assumed_stop_bps: int = 0
    max_position_bps: int = 0
    max_loss_bps: int = 0
    slippage_bps: int = 0
    slippage_mid_bps: int = 0
    max_open_trades: int = 0
    total_loss_bps: int = 0
    daily_loss_bps: int = 0
    leader_drawdown_bps: int = 0
    mode: int = 0
    ratio_snapshot: int = 0
    min_policy: int = 0
    on_insufficient: int = 0
    require_stop: int = 0
    state: int = 0
    killed: int = 0
    loss_policy: int = 0
    stopped_by: int = 0
    keeping: int = 0
    day_pending: int = 0


@dataclass(slots=True)
class AccountRow(Row):
    """A follower's exchange account: the modelled free balance and the order-count window."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<4qiB3x")
    balance_e8: int = 0
    margin_e8: int = 0
    reserved_e8: int = 0
    ts_window: int = 0
    orders_in_window: int = 0
    hedge: int = 0


@dataclass(slots=True)
class AccountInstrumentRow(Row):
    """What is set and held at the venue for one account and instrument."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<5qiBB2x")
    net: int = 0
    net_short: int = 0
    unattributed: int = 0
    unattributed_short: int = 0
    ts_active: int = 0
    leverage: int = 0
    ready: int = 0
    isolated: int = 0


@dataclass(slots=True)
class LegRow(Row):
    """One (plan, instrument, position side): what it holds and what it should hold."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<17q5IH5BxI")
    target: int = 0
    anchor_target: int = 0
    anchor_leader: int = 0
    attributed: int = 0
    pending: int = 0
    deferred: int = 0
    deferred_px_q16: int = 0
    deferred_ts: int = 0
    k: int = 0
    k_order: int = 0
    open_leaves: int = 0
    reduce_leaves: int = 0
    cost_e8: int = 0
    margin_e8: int = 0
    retry_ts: int = 0
    ts_open: int = 0
    missed: int = 0
    open_slot: int = NONE
    plan: int = 0
    account: int = 0
    next_leg: int = NONE
    leader_position: int = 0
    instrument: int = 0
    side: int = 0
    detached: int = 0
    attempt: int = 0
    replan: int = 0
    retries: int = 0
    dust_q32: int = 0


@dataclass(slots=True)
class OrderRow(Row):
    """One order, from decision to its end."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<16s13q3IiHb7B6x")
    cid: bytes = bytes(16)
    order_qty: int = 0
    limit_px: int = 0
    cum_qty: int = 0
    cost_e8: int = 0
    exec_qty: int = 0
    exec_cost_e8: int = 0
    fee_e8: int = 0
    reserve_e8: int = 0
    ref_px: int = 0
    ts_event: int = 0
    ts_decided: int = 0
    seq: int = 0
    venue_order_id: int = 0
    leg: int = 0
    account: int = 0
    plan: int = 0
    code: int = 0
    instrument: int = 0
    side: int = 0
    kind: int = 0
    state: int = 0
    attempt: int = 0
    position_side: int = 0
    reduce_only: int = 0
    replanned: int = 0
    estimated: int = 0


@dataclass(slots=True)
class ReportRow(Row):
    """One thing the venue said. ``fee_base``: ``fee_e8`` is Q32 lots of the base asset, kept back of what was bought."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<16s8qIiBBB5x")
    cid: bytes = bytes(16)
    cum_qty: int = 0
    cost_e8: int = 0
    last_qty: int = 0
    last_px: int = 0
    fee_e8: int = 0
    trade_id: int = 0
    venue_order_id: int = 0
    ts_event: int = 0
    account: int = NONE
    code: int = 0
    kind: int = 0
    status: int = 0
    fee_base: int = 0


@dataclass(slots=True)
class TradeRow(Row):
    """A trade already booked on an order, so that it is booked once."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<qI4x")
    trade_id: int = 0
    slot: int = 0


@dataclass(slots=True)
class Params(Row):
    """Everything else a decision reads; journaled when it changes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<16s9qIHHHHBBB1x")
    key: bytes = bytes(16)
    max_event_age: int = 2_000_000_000
    replan_max_age: int = 120_000_000_000
    quote_max_age: int = 5_000_000_000
    equity_max_age: int = 60_000_000_000
    order_window: int = 10_000_000_000
    retry_min: int = 100_000_000
    retry_max: int = 5_000_000_000
    read_lag: int = 10_000_000_000
    mark_max_age: int = 60_000_000_000
    epoch: int = 0
    site: int = 0
    orders_per_window: int = 160
    day_reset_min: int = 0
    runaway_per_plan: int = 600
    killed: int = 0
    journal_low: int = 0
    clock_off: int = 0


@dataclass(slots=True)
class DecisionRow(Row):
    """What was decided for one plan: packed into the journal record, 64 bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIBBBB4x6q")
    plan: int = 0
    leg: int = 0
    reduce: int = 0
    open: int = 0
    reason: int = 0
    release: int = 0
    k: int = 0
    delta: int = 0
    forgone: int = 0
    reduce_lots: int = 0
    open_lots: int = 0
    target: int = 0


@dataclass(slots=True)
class OrderEndRow(Row):
    """Quantity an order left unfilled for good, or a fact about it an operator must hear; 40 bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<16sqIiBB6x")
    cid: bytes = bytes(16)
    forgone: int = 0
    leg: int = 0
    code: int = 0
    reason: int = 0
    note: int = 0


@dataclass(slots=True)
class NamedOrder(Row):
    """An order as the journal names it before it may be sent; 48 bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<16sqqIIb4B3x")
    cid: bytes = bytes(16)
    order_qty: int = 0
    limit_px: int = 0
    leg: int = 0
    account: int = 0
    side: int = 0
    kind: int = 0
    position_side: int = 0
    reduce_only: int = 0
    attempt: int = 0


@dataclass(slots=True)
class StopRow(Row):
    """A plan that a loss limit stopped: what it had lost, of how much it might; 32 bytes. ``legs``: how many held something."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<3qIHBB")
    loss_e8: int = 0
    limit_e8: int = 0
    equity_e8: int = 0
    plan: int = 0
    legs: int = 0
    reason: int = 0
    policy: int = 0


class Note(IntEnum):
    """Remark on an order's end."""

    NONE = 0
    LATE_FILL = 1
    REPLANNED = 2
    REDUCTION_RETRY = 3
    UNKNOWN_ORDER = 4
    DEAD_BUT_FILLED = 5
    HELD = 6
    DUST = 7


@dataclass(slots=True)
class FillEvent(Row):
    """A leader fill split into its two parts, with the leader's whole quantity before, between and after.

    Quantities are in lots of the instrument the leader traded. ``instrument`` is the one its followers trade in, the same or
    its mirror on another venue: prices are in its ticks, and ``lots_mul / lots_div`` of its lots are one of the leader's.
    """

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<16s15qIIHbB4x")
    cause: bytes = bytes(16)
    seq: int = 0
    now: int = 0
    ts_event: int = 0
    qty_before: int = 0
    qty_mid: int = 0
    qty_after: int = 0
    open_qty: int = 0
    px: int = 0
    first_px: int = 0
    order_qty: int = 0
    order_id: int = 0
    rotation: int = 0
    reduce_qty: int = 0
    lots_mul: int = 1
    lots_div: int = 1
    leader: int = 0
    position: int = 0
    instrument: int = 0
    open_side: int = 0
    live: int = 1
