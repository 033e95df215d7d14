"""What a journal amounts to, in words a person can read: tallied while it is folded, state printed at the end."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal

from copyd.core.engine import (
    ACCOUNTS,
    INSTRUMENTS,
    LEADERS,
    LEGS,
    ORDERS,
    PLANS,
    POSITIONS,
    Configured,
    Engine,
    InstrumentSpec,
    LeaderFill,
    Outputs,
    Recorded,
    Started,
)
from copyd.core.fixed import ONE, sign
from copyd.core.rows import (
    UNFINISHED_MASK,
    InstrumentRow,
    LeaderPositionRow,
    LeaderRow,
    LegRow,
    Mode,
    OrderEndRow,
    OrderRow,
    OrderState,
    Part,
    PlanRow,
    PlanState,
    Reason,
    Side,
)
from copyd.journal import Record, kind_name

SHOWN_MAX = 20


def at(ns: int) -> str:
    """A time as text, UTC to the microsecond; '-' for none."""
    if not ns:
        return "-"
    whole, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.datetime.fromtimestamp(whole, datetime.UTC):%Y-%m-%d %H:%M:%S}.{rest // 1000:06d} UTC"


def money(e8: int) -> str:
    """Money in the quote asset, exact."""
    return f"{Decimal(e8).scaleb(-8).normalize():,f}"


def price(spec: InstrumentSpec, ticks: int) -> str:
    """Ticks as the venue writes the price."""
    return f"{Decimal(ticks * spec.tick).scaleb(-spec.price_decimals):f}"


def quantity(spec: InstrumentSpec, lots: int) -> str:
    """Lots as the venue writes the quantity."""
    return f"{Decimal(lots * spec.lot).scaleb(-spec.qty_decimals):f}"


def quantity_q32(spec: InstrumentSpec, q32: int) -> str:
    """A Q32 quantity in the instrument's unit, to a ten-thousandth of a lot, cut."""
    tenths = abs(q32) * 10_000 // ONE
    shown = Decimal(tenths * spec.lot).scaleb(-spec.qty_decimals - 4)
    text = f"{shown:f}".rstrip("0").rstrip(".") if tenths else "0"
    return f"-{text}" if q32 < 0 and tenths else text


def ratio(k: int) -> str:
    """A Q32 ratio to nine places, cut."""
    return f"{Decimal(k * 10**9 // ONE).scaleb(-9):f}"


def reason_name(reason: int) -> str:
    """The word of a reason."""
    return Reason(reason).name.lower()


class Tally:
    """Counts over the records of a journal."""

    def __init__(self) -> None:
        self.kinds: Counter[int] = Counter()
        self.forgone: Counter[str] = Counter()
        self.epochs: list[tuple[int, int, str, int]] = []
        self.configs: list[tuple[int, int, int]] = []
        self.decisions = self.orders = self.leader_fills = 0
        self.first_ts = self.last_ts = 0

    def add(self, record: Record, recorded: Recorded, outputs: Outputs) -> None:
        """One record."""
        self.kinds[record.kind] += 1
        self.first_ts = self.first_ts or record.ts_ns
        self.last_ts = record.ts_ns
        value = recorded.input
        if isinstance(value, Started):
            self.epochs.append((value.epoch, record.seq, value.build, record.ts_ns))
        elif isinstance(value, Configured):
            self.configs.append((value.version, record.seq, record.ts_ns))
        elif isinstance(value, LeaderFill):
            self.leader_fills += 1
        self.decisions += len(recorded.decisions) // 64
        self.orders += len(recorded.named) // 48
        for (open_, reason), count in Counter(zip(recorded.decisions[9::64], recorded.decisions[10::64], strict=True)).items():
            cut = open_ == Part.ORDER and reason not in (Reason.NONE, Reason.BELOW_MINIMUM)
            if open_ == Part.FORGONE or cut:
                self.forgone[reason_name(reason)] += count
        for row in OrderEndRow.LAYOUT.iter_unpack(recorded.ends):
            if row[1]:
                self.forgone[reason_name(row[4])] += 1


def describe(engine: Engine, tally: Tally) -> Iterator[str]:
    """The state in lines."""
    records = sum(tally.kinds.values())
    yield f"records      {records:,}: " + ", ".join(f"{kind_name(kind)} {n:,}" for kind, n in tally.kinds.most_common())
    if records:
        yield f"time         {at(tally.first_ts)} to {at(tally.last_ts)}"
    for epoch, seq, build, ts in tally.epochs[-SHOWN_MAX:]:
        yield f"epoch        {epoch} from record {seq}, {at(ts)}, build {build}"
    for version, seq, ts in tally.configs[-SHOWN_MAX:]:
        yield f"config       version {version} from record {seq}, {at(ts)}"
    yield f"events       {tally.leader_fills:,} leader fills, {tally.decisions:,} decisions, {tally.orders:,} orders named"
    forgone = ", ".join(f"{name} {count:,}" for name, count in tally.forgone.most_common())
    yield f"forgone      {forgone or 'nothing'}"
    yield from _switches(engine)
    yield from _leaders(engine)
    yield from _instruments(engine)
    yield from _plans(engine)
    yield from _legs(engine)
    yield from _orders(engine)


def _switches(engine: Engine) -> Iterator[str]:
    if engine.params.killed:
        yield "kill switch  ON: nothing opens anywhere"
    if engine.params.journal_low:
        yield "journal low  ON: nothing opens while the journal is short of room"
    if engine.params.clock_off:
        yield "clock off    ON: nothing opens while this machine's clock disagrees with the venue's"


def _leaders(engine: Engine) -> Iterator[str]:
    columns, names = engine.columns, engine.names
    for index, name in enumerate(names.leaders):
        row = LeaderRow.unpack(columns.get(LEADERS, index))
        marks = [PlanState(row.state).name.lower()] + ["killed"] * row.killed + ["suspended"] * (not row.eligible)
        equity = f"equity {money(row.equity_e8)} as of {at(row.ts_equity)}" if row.ts_equity else "equity not known"
        yield f"leader       {name}: {', '.join(marks)}; {equity}"
        for book in names.books:
            if book.leader == index:
                held = LeaderPositionRow.unpack(columns.get(POSITIONS, book.position))
                spec = names.instruments[book.instrument]
                side = "" if book.side == Side.ONE_WAY else f" {Side(book.side).name.lower()}"
                sync = "in sync" if held.synced else "NOT in sync"
                if held.qty or book.last_exec_id >= 0:
                    yield (f"             {engine.label(book.instrument)}{side}: {quantity(spec, held.qty)}, "
                           f"leverage {held.leverage}, {sync}, last execution {book.last_exec_id}")


def _instruments(engine: Engine) -> Iterator[str]:
    for index, spec in enumerate(engine.names.instruments):
        row = InstrumentRow.unpack(engine.columns.get(INSTRUMENTS, index))
        halted = ", HALTED for openings" if row.halted else ", openings wait for a calmer market" if row.turbulent else ""
        halted += ", nothing opens while this machine's clock disagrees with its venue's" if row.clock_off else ""
        yield (f"instrument   {engine.label(index)}: bid {price(spec, row.bid)}, ask {price(spec, row.ask)}, "
               f"mark {price(spec, row.mark)} as of {at(row.ts_quote)}{halted}")


def _plans(engine: Engine) -> Iterator[str]:
    plans = PlanRow.unpack_all(_table(engine, PLANS))
    states = Counter(PlanState(plan.state).name.lower() + (" (killed)" if plan.killed else "") for plan in plans)
    modes = Counter(Mode(plan.mode).name.lower() for plan in plans)
    accounts = engine.columns.count(ACCOUNTS)
    yield f"plans        {len(plans):,} on {accounts:,} accounts: {_counted(states)}; {_counted(modes)}"


def _legs(engine: Engine) -> Iterator[str]:
    names = engine.names
    held: Counter[int] = Counter()
    lots: Counter[int] = Counter()
    legs = waiting = retries = detached = short = excess = 0
    for leg in _iterate_legs(engine):
        legs += 1
        waiting += leg.deferred != 0
        retries += leg.retry_ts != 0
        detached += leg.detached
        going = leg.attributed - sign(leg.attributed) * leg.reduce_leaves
        residual = leg.target - leg.pending - leg.deferred - going * ONE
        if abs(residual) >= ONE:
            opens = going == 0 or sign(residual) == sign(going)
            short += opens
            excess += not opens
        if leg.attributed:
            held[leg.instrument] += 1
            lots[leg.instrument] += leg.attributed
    yield (f"legs         {legs:,}: {sum(held.values()):,} hold something, {short:,} wait for the venue's minimum, "
           f"{waiting:,} wait to open, {excess:,} hold too much, {retries:,} wait to close again, {detached:,} detached")
    for instrument, count in sorted(held.items()):
        spec = names.instruments[instrument]
        yield f"             {engine.label(instrument)}: {count:,} legs hold {quantity(spec, lots[instrument])} net"


def _orders(engine: Engine) -> Iterator[str]:
    columns = engine.columns
    states = Counter(order[21] for order in OrderRow.LAYOUT.iter_unpack(_table(engine, ORDERS)))
    known = {int(state): state.name.lower() for state in OrderState}
    words = {known.get(state, str(state)): count for state, count in states.most_common() if state != OrderState.FREE}
    doubt = states[OrderState.IN_DOUBT]
    unfinished = columns.orders_in_state(UNFINISHED_MASK)
    yield f"orders       {_counted(Counter(words)) or 'none'}; {len(unfinished):,} unfinished, {doubt:,} in doubt"
    for slot in unfinished[:SHOWN_MAX]:
        order = OrderRow.unpack(columns.get(ORDERS, slot))
        spec = engine.names.instruments[order.instrument]
        yield (f"             {order.cid.hex()} {engine.names.followers[order.plan]} {'buy' if order.side > 0 else 'sell'} "
               f"{quantity(spec, order.order_qty)} {engine.label(order.instrument)}, filled {quantity(spec, order.cum_qty)}, "
               f"{known[order.state]}, record {order.seq}")
    if len(unfinished) > SHOWN_MAX:
        yield f"             and {len(unfinished) - SHOWN_MAX:,} more"


def _table(engine: Engine, table: int) -> bytes:
    get = engine.columns.get
    return b"".join(get(table, index) for index in range(engine.columns.count(table)))


def _iterate_legs(engine: Engine) -> Iterable[LegRow]:
    return (LegRow.unpack(engine.columns.get(LEGS, index)) for index in range(engine.columns.count(LEGS)))


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


def followers_by_venue(state: Engine) -> Counter[tuple[str, str]]:
    """How many plans follow each leader on each venue, stopped ones left out: (leader, venue) -> plans."""
    found: Counter[tuple[str, str]] = Counter()
    for plan in range(state.columns.count(PLANS)):
        row = PlanRow.unpack(state.columns.get(PLANS, plan))
        if row.state != PlanState.STOPPED:
            found[state.names.leaders[row.leader], state.account_venue(row.account)] += 1
    return found
