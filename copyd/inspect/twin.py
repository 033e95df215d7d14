"""The readable rules run beside the kernel, on the state each call of it finds.

``Observed`` stands where the engine's kernel stands and shows every call to a ``Twin`` before the kernel runs. The twin
reads rows from the kernel's columns only when a rule asks for them, and keeps its changes to itself.

Everything a decision reads or moves belongs to one account (its plans, legs, orders), so a sample is taken by account.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from copyd._fast.columns import Columns, ReportBatch
from copyd.core import fill, position, protection
from copyd.core.engine import (
    ACCOUNT_INSTRUMENTS,
    ACCOUNTS,
    INSTRUMENTS,
    LEADERS,
    LEGS,
    ORDERS,
    PLANS,
    POSITIONS,
    TRADES,
    Engine,
    Ready,
    Recorded,
)
from copyd.core.order import Cause, sending_order
from copyd.core.rows import (
    NONE,
    AccountInstrumentRow,
    AccountRow,
    DecisionRow,
    FillEvent,
    InstrumentRow,
    LeaderPositionRow,
    LeaderRow,
    LegRow,
    NamedOrder,
    OrderEndRow,
    OrderRow,
    Params,
    PlanRow,
    ReportKind,
    ReportRow,
    Row,
    StopRow,
    TradeRow,
)
from copyd.core.state import Outcome, Tables

R = TypeVar("R", bound=Row)
QUIET_SAMPLE = 64


class Rows(Generic[R]):
    """A table as a list that unpacks a row when it is first read; changes stay here."""

    __slots__ = ("_columns", "_count", "_rows", "_table", "_type")

    def __init__(self, columns: Columns, table: int, row_type: type[R]) -> None:
        self._columns, self._table, self._type = columns, table, row_type
        self._count = columns.count(table)
        self._rows: dict[int, R] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> R:
        row = self._rows.get(index)
        if row is None:
            row = self._rows[index] = self._type.unpack(self._columns.get(self._table, index))
        return row

    def __setitem__(self, index: int, row: R) -> None:
        self._rows[index] = row

    def __iter__(self) -> Iterator[R]:
        return (self[index] for index in range(self._count))

    def append(self, row: R) -> None:
        """One more row."""
        self._rows[self._count] = row
        self._count += 1


class OrderIndex:
    """Order rows by client order id: the columns' index, and what was added here."""

    __slots__ = ("_added", "_columns")

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._added: dict[bytes, int] = {}

    def get(self, cid: bytes) -> int | None:
        """Row of an id, or None."""
        slot = self._added.get(cid)
        return self._columns.order_slot(cid) if slot is None else slot

    def __contains__(self, cid: bytes) -> bool:
        return self.get(cid) is not None

    def __setitem__(self, cid: bytes, slot: int) -> None:
        self._added[cid] = slot


class BookedTrades:
    """Trades already booked, read from the columns as they grow; ``changes`` are a twin's own and are dropped with it."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._known: set[tuple[int, int]] = set()
        self._read = 0
        self.changes: set[tuple[int, int]] = set()

    def catch_up(self) -> None:
        """Learn what was booked since; a shorter table was compacted and is read anew."""
        count = self._columns.count(TRADES)
        if count < self._read:
            self._known.clear()
            self._read = 0
        for index in range(self._read, count):
            trade_id, slot = TradeRow.LAYOUT.unpack(self._columns.get(TRADES, index))
            self._known.add((slot, trade_id))
        self._read = count
        self.changes.clear()

    def forget(self) -> None:
        """Orders were retired: their rows, and so these keys, may come to mean others."""
        self._known.clear()
        self._read = 0

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self._known or key in self.changes

    def add(self, key: tuple[int, int]) -> None:
        """Book one."""
        self.changes.add(key)


def tables(columns: Columns, params: Params, booked: BookedTrades) -> Tables:
    """The state as the rules read it, without unpacking it."""
    view: Any = Tables(columns.instruments_max, params)
    for table, name, row_type in (
        (INSTRUMENTS, "instruments", InstrumentRow), (LEADERS, "leaders", LeaderRow), (POSITIONS, "positions", LeaderPositionRow),
        (PLANS, "plans", PlanRow), (ACCOUNTS, "accounts", AccountRow),
        (ACCOUNT_INSTRUMENTS, "account_instruments", AccountInstrumentRow), (LEGS, "legs", LegRow), (ORDERS, "orders", OrderRow),
    ):
        setattr(view, name, Rows(columns, table, row_type))
    view.by_cid = OrderIndex(columns)
    booked.catch_up()
    view.booked = booked
    return cast(Tables, view)


class Counts(msgspec.Struct):
    """How much was recomputed, of how much."""

    decisions: int = 0
    decisions_all: int = 0
    reports: int = 0
    reports_all: int = 0
    timers: int = 0
    losses: int = 0


class Computed(msgspec.Struct):
    """Rows as bytes, named as in a record."""

    decisions: bytes = b""
    ends: bytes = b""
    named: bytes = b""
    stops: bytes = b""


class Twin:
    """Recomputes what the kernel is asked, for the accounts ``chosen`` wants (None: all).

    ``on_tables`` sees the tables of each call before the rules run; ``on_leg`` is told before a leg is decided.
    """

    def __init__(
        self, engine: Engine, chosen: Callable[[int], bool] | None = None,
        on_tables: Callable[[Tables], None] | None = None, on_leg: Callable[[Tables, int, FillEvent | None], None] | None = None,
    ) -> None:
        self.engine = engine
        self.chosen = chosen
        self.on_tables = on_tables
        self.on_leg = on_leg
        self.counts = Counts()
        self.computed = Computed()
        self.called = False
        self._booked = BookedTrades(engine.columns)
        self._leg_accounts = array("I")

    def begin(self) -> None:
        """A new record."""
        self.computed = Computed()
        self.called = False

    def retired(self) -> None:
        """Orders were forgotten by command."""
        self._booked.forget()

    # -- the three entries of the kernel -------------------------------------------------------------------------------

    def fan_out(self, legs: array[int], event_row: bytes) -> None:
        """One leader fill, in the rotation of the event."""
        self.fan_out_each([(legs, event_row)])

    def fan_out_each(self, groups: Sequence[tuple[array[int], bytes]]) -> None:
        """One leader fill that is followed in several instruments, each with its legs and the event as they see it."""
        t, out = self._tables(), Outcome()
        self._learn_accounts()
        for legs, event_row in groups:
            event = FillEvent.unpack(event_row)
            start = event.rotation % len(legs) if legs else 0
            self.counts.decisions_all += len(legs)
            for leg in [*legs[start:], *legs[:start]]:
                if self._wanted(self._leg_accounts[leg]):
                    self._tell(t, leg, event)
                    position.decide(t, leg, event, out)
                    self.counts.decisions += 1
        self._take(t, out)

    def apply_reports(self, batch: ReportBatch, now: int, seq: int) -> None:
        """A batch of reports."""
        t, out = self._tables(), Outcome()
        self._learn_accounts()
        touched: dict[int, Cause] = {}
        for report in ReportRow.unpack_all(batch.to_bytes()):
            self.counts.reports_all += 1
            account = report.account
            leg = NONE
            if report.kind != ReportKind.BALANCE:
                slot = t.by_cid.get(report.cid)
                leg = NONE if slot is None else t.orders[slot].leg
                account = NONE if leg == NONE else self._leg_accounts[leg]
            if account == NONE or self._wanted(account):
                self._tell(t, leg, None)
                fill.book_report(t, report, now, seq, touched, out)
                self.counts.reports += 1
        fill.settle_legs(t, touched, out)
        self._take(t, out)

    def sweep(self, cause: bytes, now: int, seq: int) -> None:
        """The timer."""
        t, out = self._tables(), Outcome()
        self._learn_accounts()
        for leg, account in enumerate(self._leg_accounts):
            if self._wanted(account):
                self._tell(t, leg, None)
                position.sweep_leg(t, leg, Cause(cause, 0, seq, now, now), out)
        self.counts.timers += 1
        self._take(t, out)

    def stop_losses(self, cause: bytes, now: int, seq: int) -> None:
        """Every loss limit. They are held against every equity of the leader, and hardly ever reached: where the kernel finds
        none that is, one time in ``QUIET_SAMPLE`` is looked at."""
        if seq % QUIET_SAMPLE and not self.engine.kernel.losses_due([], now):
            return
        t, out = self._tables(), Outcome()
        for index in range(len(t.plans)):
            if self._wanted(t.plans[index].account):
                at = t.plans[index].first_leg
                while at != NONE:
                    self._tell(t, at, None)
                    at = t.legs[at].next_leg
                protection.hold(t, index, Cause(cause, 0, seq, now, now), out)
        self.counts.losses += 1
        self._take(t, out)

    def _wanted(self, account: int) -> bool:
        return self.chosen is None or self.chosen(account)

    def _tables(self) -> Tables:
        view = tables(self.engine.columns, self.engine.params, self._booked)
        if self.on_tables is not None:
            self.on_tables(view)
        return view

    def _tell(self, t: Tables, leg: int, event: FillEvent | None) -> None:
        if self.on_leg is not None:
            self.on_leg(t, leg, event)

    def _learn_accounts(self) -> None:
        get, known = self.engine.columns.get, self._leg_accounts
        for index in range(len(known), self.engine.columns.count(LEGS)):
            known.append(LegRow.unpack(get(LEGS, index)).account)

    def _take(self, t: Tables, out: Outcome) -> None:
        self.called = True
        self.computed.decisions += b"".join(row.pack() for row in out.decisions)
        self.computed.ends += b"".join(row.pack() for row in out.ends)
        self.computed.stops += b"".join(row.pack() for row in out.stops)
        self.computed.named += b"".join(named(t.orders[slot]).pack() for slot in sending_order(t, out))

    # -- comparing --------------------------------------------------------------------------------------------------

    def share(self, recorded: Recorded) -> Computed:
        """The recorded rows that belong to the chosen accounts."""
        if self.chosen is None:
            return Computed(recorded.decisions, recorded.ends, recorded.named, recorded.stops)
        accounts, chosen = self._leg_accounts, self.chosen

        def of(data: bytes, row_type: type[Row], leg_at: int) -> bytes:
            size = row_type.LAYOUT.size
            kept = []
            for start in range(0, len(data), size):
                leg = int.from_bytes(data[start + leg_at : start + leg_at + 4], "little")
                if leg == NONE or leg >= len(accounts) or chosen(accounts[leg]):
                    kept.append(data[start : start + size])
            return b"".join(kept)

        return Computed(
            of(recorded.decisions, DecisionRow, 4), of(recorded.ends, OrderEndRow, 24), of(recorded.named, NamedOrder, 32),
            b"".join(row.pack() for row in StopRow.unpack_all(recorded.stops) if chosen(self._plan_account(row.plan))),
        )

    def _plan_account(self, plan: int) -> int:
        return PlanRow.unpack(self.engine.columns.get(PLANS, plan)).account


def named(order: OrderRow) -> NamedOrder:
    """An order as the journal names it."""
    return NamedOrder(
        cid=order.cid, order_qty=order.order_qty, limit_px=order.limit_px, leg=order.leg, account=order.account, side=order.side,
        kind=order.kind, position_side=order.position_side, reduce_only=order.reduce_only, attempt=order.attempt,
    )


class Observed:
    """A kernel that shows each call to a twin first."""

    def __init__(self, engine: Engine, twin: Twin) -> None:
        self._kernel = engine.kernel
        self._twin = twin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def fan_out(self, legs: array[int], event_row: bytes, ready: Ready | None = None, first: int = 1) -> None:
        """As the kernel's."""
        self._twin.fan_out(legs, event_row)
        self._kernel.fan_out(legs, event_row, ready, first)

    def fan_out_each(
        self, groups: Sequence[tuple[array[int], bytes]], ready: Ready | None = None, first: int = 1
    ) -> None:
        """As the kernel's."""
        self._twin.fan_out_each(groups)
        self._kernel.fan_out_each(groups, ready, first)

    def apply_reports(self, batch: ReportBatch, now: int, seq: int) -> None:
        """As the kernel's."""
        self._twin.apply_reports(batch, now, seq)
        self._kernel.apply_reports(batch, now, seq)

    def stop_losses(self, cause: bytes, now: int, seq: int) -> None:
        """As the kernel's."""
        self._twin.stop_losses(cause, now, seq)
        self._kernel.stop_losses(cause, now, seq)

    def sweep(self, cause: bytes, now: int, seq: int) -> bool:
        """As the kernel's."""
        self._twin.sweep(cause, now, seq)
        return self._kernel.sweep(cause, now, seq)


def observe(engine: Engine, twin: Twin) -> None:
    """From now on the twin sees what the engine's kernel is asked."""
    engine.kernel = cast(Any, Observed(engine, twin))


__all__ = ["BookedTrades", "Computed", "Counts", "Observed", "Twin", "named", "observe", "tables"]
