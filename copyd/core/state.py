"""The tables in plain Python: what the readable twin works on. Loads from and dumps to exactly the kernel's bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from copyd.core.rows import (
    NONE,
    AccountInstrumentRow,
    AccountRow,
    DecisionRow,
    InstrumentRow,
    LeaderPositionRow,
    LeaderRow,
    LegRow,
    OrderEndRow,
    OrderRow,
    OrderState,
    Params,
    PlanRow,
    Row,
    StopRow,
    TradeRow,
)
from copyd.errors import BrokenInvariant

ROWS: tuple[type[Row], ...] = (
    InstrumentRow, LeaderRow, LeaderPositionRow, PlanRow, AccountRow, AccountInstrumentRow, LegRow, OrderRow, TradeRow,
)


@dataclass
class Outcome:
    """What a step decided: rows for the journal, order slots for the wire (reductions first)."""

    decisions: list[DecisionRow] = field(default_factory=list)
    ends: list[OrderEndRow] = field(default_factory=list)
    reductions: list[int] = field(default_factory=list)
    openings: list[int] = field(default_factory=list)
    suspects: list[int] = field(default_factory=list)
    stops: list[StopRow] = field(default_factory=list)


@dataclass
class Cap:
    """One limit an opening was held against: ``before`` and ``after`` in lots; ``cap`` is what the limit allows."""

    name: str
    before: int
    cap: int
    after: int


@dataclass
class Tables:
    """Every mutable row of the engine, as Python objects.

    ``trace`` is None, or a list that hears of every limit an opening meets: for ``explain``; no rule reads it.
    """

    instruments_max: int = 1
    params: Params = field(default_factory=Params)
    instruments: list[InstrumentRow] = field(default_factory=list)
    leaders: list[LeaderRow] = field(default_factory=list)
    positions: list[LeaderPositionRow] = field(default_factory=list)
    plans: list[PlanRow] = field(default_factory=list)
    accounts: list[AccountRow] = field(default_factory=list)
    account_instruments: list[AccountInstrumentRow] = field(default_factory=list)
    legs: list[LegRow] = field(default_factory=list)
    orders: list[OrderRow] = field(default_factory=list)
    trades: list[TradeRow] = field(default_factory=list)
    by_cid: dict[bytes, int] = field(default_factory=dict)
    booked: set[tuple[int, int]] = field(default_factory=set)
    order_free: int = NONE
    trace: list[Cap] | None = None

    @classmethod
    def load(cls, instruments_max: int, parts: list[bytes], params: Params) -> Tables:
        """From the parts of ``Columns.dump``."""
        tables = cls(instruments_max, params)
        for row_type, data, into in zip(ROWS, parts, tables._lists(), strict=False):
            size = row_type.LAYOUT.size
            into.extend(row_type.unpack(data[at : at + size]) for at in range(0, len(data), size))
        tables.order_free = int.from_bytes(parts[len(ROWS)], "little")
        tables.by_cid = {
            order.cid: slot for slot, order in enumerate(tables.orders) if order.state not in (0, OrderState.FREE)
        }
        tables.booked = {(trade.slot, trade.trade_id) for trade in tables.trades}
        return tables

    def dump(self) -> list[bytes]:
        """The same bytes ``Columns.dump`` gives."""
        parts = [b"".join(row.pack() for row in rows) for rows in self._lists()]
        return [*parts, self.order_free.to_bytes(4, "little")]

    def _lists(self) -> tuple[list, ...]:
        return (
            self.instruments, self.leaders, self.positions, self.plans, self.accounts, self.account_instruments,
            self.legs, self.orders, self.trades,
        )

    def note(self, name: str, before: int, cap: int, after: int) -> None:
        """Tell the trace, where there is one."""
        if self.trace is not None:
            self.trace.append(Cap(name, before, cap, after))

    def account_instrument(self, leg: LegRow) -> AccountInstrumentRow:
        """What is set and held at the venue where this leg lives."""
        return self.account_instruments[leg.account * self.instruments_max + leg.instrument]

    def plan_legs(self, plan: PlanRow) -> list[LegRow]:
        """All legs of a plan."""
        legs = []
        at = plan.first_leg
        while at != NONE:
            legs.append(self.legs[at])
            at = self.legs[at].next_leg
        return legs

    def new_order(self, cid: bytes) -> tuple[int, OrderRow]:
        """A fresh order row under a new id; an id is used once, ever (semantics 32)."""
        if cid in self.by_cid:
            raise BrokenInvariant(f"client order id {cid.hex()} derived twice")
        order = OrderRow(cid=cid)
        if self.order_free != NONE:
            slot = self.order_free
            self.order_free = self.orders[slot].leg
            self.orders[slot] = order
        else:
            slot = len(self.orders)
            self.orders.append(order)
        self.by_cid[cid] = slot
        return slot, order
