"""From a journal into the tables: what was filled, at what cost, what it realised, and the marks and equities around it.

The journal is folded with the engine itself (``inspect.rebuild``), so what a fill booked is what the engine booked: a report
of the same fill by another way books nothing, a later one that raises the cumulative quantity books the difference, a close
of more than the leg had takes what the leg had. Reading is in short transactions beside a running daemon.

    extract(journal, out)    takes what is new since the last time; the same rows whether called once or a hundred times

A journal whose beginning was dropped, or a stretch of it that another build's rules decided, is taken from the next checkpoint
on; the manifest keeps the gap, and the books are restated to the checkpoint's. Prices the journal does not hold (a position
found in a snapshot, the follower's own hand) are the mark of that moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from copyd.core.engine import (
    INSTRUMENTS,
    LEGS,
    ORDERS,
    PLANS,
    POSITIONS,
    AccountSnapshots,
    Command,
    Configured,
    Engine,
    ExternalFill,
    Funding,
    LeaderEquity,
    LeaderFill,
    LeaderFlow,
    LeaderSync,
    Marks,
    OrphanFill,
    Outputs,
    Quotes,
    Recorded,
    Reports,
)
from copyd.core.instrument import notional
from copyd.core.rows import InstrumentRow, Kind, LeaderPositionRow, LegRow, OrderRow, PlanRow, PlanState, ReportRow, Row
from copyd.inspect.rebuild import DecisionsDiffer, fold, start_of
from copyd.journal import JournalError, Reader, Record
from copyd.kinds import pack_checkpoint, unpack_checkpoint
from copyd.serve.ledger import OPENING, REDUCTION, Entry, Position, adjust, book, restate
from copyd.serve.tables import TABLES, HistoryError, Manifest, append, load_manifest, locked, require, sweep

PRICES_MAX = 10_000
"""Leader fills whose price is remembered for the closes they caused."""
CHUNK_RECORDS = 100_000
"""Records taken between two manifests: bounds memory, and what is done again after a kill."""
PLAN_COMMANDS = ("import_plans", "change_plan", "stop_plan", "set_state", "flatten")


def _field(row_type: type[Row], name: str) -> int:
    return row_type.names().index(name)


_CUM, _COST, _EXEC, _EXEC_COST, _FEE, _LEG, _ACCOUNT, _KIND, _SIDE, _REF_PX, _SEQ, _INSTRUMENT = (
    _field(OrderRow, name)
    for name in ("cum_qty", "cost_e8", "exec_qty", "exec_cost_e8", "fee_e8", "leg", "account", "kind", "side", "ref_px", "seq",
                 "instrument"))
_REPORT_CID, _REPORT_TS = _field(ReportRow, "cid"), _field(ReportRow, "ts_event")
_ATTRIBUTED = 8 * _field(LegRow, "attributed")  # the fields before it are int64


class Books(msgspec.Struct):
    """Everything the extraction remembers between two runs. ``plans``: (allocation, version, state) as last written;
    ``prices``: by the record of a leader's fill, its instrument and price in ticks."""

    engine: bytes = b""
    legs: list[Position] = []
    leaders: list[Position] = []
    plans: list[tuple[int, int, int]] = []
    prices: dict[int, tuple[int, int]] = {}


class Extracted(msgspec.Struct, frozen=True):
    """What a call took: records ``first`` to ``last`` (``last`` < ``first``: nothing new) and rows by table."""

    first: int
    last: int
    rows: dict[str, int]


def extract(journal: Path, out: Path, *, chunk_records: int = CHUNK_RECORDS) -> Extracted:
    """Append to the tables below ``out`` whatever ``journal`` holds beyond them.

    Errors: ``HistoryError`` when ``out`` holds another journal's history or is in use; ``JournalError`` when the journal does
    not read; ``ServeExtraMissing`` without pyarrow.
    """
    require()
    with locked(out), Reader(journal) as reader:
        manifest = _manifest(reader, out)
        sweep(out, manifest)
        first = manifest.last_seq + 1
        books = _books(out, manifest)
        before = {table: manifest.rows(table) for table in TABLES}
        last = reader.state().last_seq
        while manifest.last_seq < last or not manifest.state:
            taker = _take(reader, manifest, books, min(last, manifest.last_seq + chunk_records))
            books.engine = pack_checkpoint(taker.engine)
            append(out, manifest, msgspec.msgpack.encode(books), taker.rows)
            if last == 0:
                break
        return Extracted(first, manifest.last_seq, {table: manifest.rows(table) - before[table] for table in TABLES})


def _manifest(reader: Reader, out: Path) -> Manifest:
    """The manifest of ``out`` if it is this journal's, or a new one."""
    state = reader.state()
    manifest = load_manifest(out)
    if manifest is None:
        return Manifest(site=state.site, created_ns=state.created_ns)
    if (manifest.site, manifest.created_ns) != (state.site, state.created_ns):
        raise HistoryError(f"{out}: holds the history of another journal than {reader.path}; name another directory")
    if manifest.last_seq > state.last_seq:
        raise HistoryError(
            f"{out}: was taken up to record {manifest.last_seq} and {reader.path} ends at {state.last_seq}: "
            "the journal was put back; extract into another directory")
    return manifest


def _books(out: Path, manifest: Manifest) -> Books:
    if not manifest.state:
        return Books()
    try:
        return msgspec.msgpack.decode((out / manifest.state).read_bytes(), type=Books)
    except (OSError, msgspec.MsgspecError) as error:
        raise HistoryError(f"{out / manifest.state}: {error}") from error


def _take(reader: Reader, manifest: Manifest, books: Books, to_seq: int) -> Taker:
    """Fold up to ``to_seq``, or over a hole to the checkpoint behind it; the manifest moves along."""
    engine, why = _engine(reader, manifest, books)
    taker = Taker(engine or Engine(), books, manifest)
    if engine is None:
        taker.resume(reader, manifest.last_seq, why)
    try:
        fold(reader, max(to_seq, manifest.last_seq), before_record=taker.before, on_record=taker.after, engine=taker.engine)
    except DecisionsDiffer as error:
        taker.resume(reader, error.seq, "decided by the rules of another build")
    return taker


def _engine(reader: Reader, manifest: Manifest, books: Books) -> tuple[Engine | None, str]:
    """The engine after the last record taken; None, and why, where it cannot be had."""
    first = reader.state().first_seq
    if not books.engine:
        return (Engine(), "") if first <= 1 else (None, "dropped before it was extracted")
    if manifest.last_seq + 1 < first:
        return None, "dropped before it was extracted"
    try:
        return unpack_checkpoint(books.engine), ""
    except ValueError:  # another build packed it: the journal's own checkpoints know this build's layout, or none does
        return None, "the state of the last extraction was of another build"


def _behind(reader: Reader, seq: int, why: str) -> tuple[Engine, str]:
    """The state at the first checkpoint at or behind ``seq``, and the chain hash of its record."""
    kept = [at for at in reader.checkpoints() if at >= seq]
    if not kept:
        raise HistoryError(f"{reader.path}: record {seq}: {why}, and no checkpoint behind it is kept yet")
    found = reader.latest_checkpoint(kept[0])
    engine = start_of(reader, kept[0])
    if found is None or found.seq != kept[0] or engine.names.seq != kept[0]:
        raise JournalError(f"{reader.path}: the checkpoint at record {kept[0]} went away while it was read")
    return engine, found.chain_hash.hex()


def _time_of(reader: Reader, seq: int) -> int:
    """The time of a record, or of the first one kept behind it; 0 where there is none."""
    state = reader.state()
    at = max(seq, state.first_seq)
    return next((record.ts_ns for record in reader.iterate(at, at)), 0) if at <= state.last_seq else 0


class Taker:
    """Turns records into rows while they are folded; ``rows`` by table, in column order without ``n``."""

    def __init__(self, engine: Engine, books: Books, manifest: Manifest) -> None:
        self.engine = engine
        self.books = books
        self.manifest = manifest
        self.rows: dict[str, list[tuple]] = {table: [] for table in TABLES}
        self.seq, self.ts = manifest.last_seq, manifest.last_ts_ns
        self._orders: dict[int, tuple[bytes, int]] = {}
        self._funding: dict[int, int] = {}
        self._disturbed = False
        self._unpriced = any(position.unpriced for position in books.leaders)
        self._legs: list[tuple[int, int]] = []  # plan, instrument
        self._account_legs: dict[int, list[int]] = {}

    def resume(self, reader: Reader, seq: int, why: str) -> None:
        """Continue at the first checkpoint at or behind ``seq``: the gap is noted, every book is restated to the engine's."""
        manifest = self.manifest
        self.engine, manifest.head = _behind(reader, seq, why)
        self.seq, self.ts = self.engine.names.seq, _time_of(reader, self.engine.names.seq) or self.ts
        if self.seq > manifest.last_seq:
            manifest.gaps.append((manifest.last_seq + 1, self.seq, why))
        manifest.last_seq, manifest.last_ts_ns = self.seq, self.ts
        self._legs, self._account_legs = [], {}
        self._grow()
        instruments = range(len(self.engine.names.instruments))
        for instrument in instruments:
            self._mark(instrument)
        self._plans()
        self._restate(instruments)

    # -- the records ------------------------------------------------------------------------------------------------

    def before(self, engine: Engine, record: Record, recorded: Recorded) -> None:
        """What the record finds: the orders it is about to move."""
        if record.seq == self.manifest.last_seq + 1 and self.manifest.head not in ("", record.prev_hash.hex()):
            raise HistoryError(f"record {record.seq} does not follow the last one extracted: the journal was put back; "
                               "extract into another directory")
        self._orders.clear()
        if isinstance(recorded.input, Funding):
            self._funding = {
                plan: PlanRow.unpack(engine.columns.get(PLANS, plan)).funding_e8
                for plan in engine.plans_of(recorded.input.account)
            }
        if isinstance(recorded.input, Reports):
            self._disturbed = bool(engine.names.inferred or engine.names.crossed)
            for row in ReportRow.LAYOUT.iter_unpack(recorded.input.rows):
                slot = engine.columns.order_slot(row[_REPORT_CID])
                if slot is not None:
                    was = self._orders.get(slot)
                    self._orders[slot] = (was[0] if was else engine.columns.get(ORDERS, slot), row[_REPORT_TS])

    def after(self, record: Record, recorded: Recorded, outputs: Outputs) -> None:
        """The rows of one record."""
        self.seq, self.ts = record.seq, record.ts_ns
        value = recorded.input
        if isinstance(value, Reports):
            self._reports(value)
        elif isinstance(value, LeaderFill):
            self._leader_fill(value)
        elif isinstance(value, Quotes):
            self._quotes(value)
        elif isinstance(value, LeaderEquity):
            self._row("equity", self.engine.names.leaders[value.leader], value.equity_e8)
        elif isinstance(value, LeaderFlow):
            self._row("flows", self.engine.names.leaders[value.leader], value.amount_e8)
        elif isinstance(value, Marks):
            self._marked([instrument for instrument, *_ in value.marks])
        elif isinstance(value, Funding):
            self._fund(value)
        elif isinstance(value, LeaderSync):
            self._leader_sync(value)
        elif isinstance(value, ExternalFill | OrphanFill):
            px = value.px if isinstance(value, OrphanFill) else 0
            self._grow()
            self._compare(self._account_legs.get(value.account, ()), "orphan" if px else "external", px)
        elif isinstance(value, AccountSnapshots):
            self._grow()
            for account, *_ in value.accounts:
                self._compare(self._account_legs.get(account, ()), "external")
        elif isinstance(value, Configured):
            self._configured(value)
        elif isinstance(value, Command) and value.name in PLAN_COMMANDS:
            self._grow()
            self._plans()
            if value.name in ("stop_plan", "flatten"):
                self._compare(range(len(self._legs)), "external")
        if outputs.stops:  # what a stopped plan keeps became the follower's own
            self._grow()
            self._compare(range(len(self._legs)), "external")
        if any(alert.name == "position_mode_changed" for alert in outputs.alerts):
            self._plans()
        self.manifest.last_seq, self.manifest.last_ts_ns, self.manifest.head = record.seq, record.ts_ns, record.hash.hex()

    # -- followers --------------------------------------------------------------------------------------------------

    def _reports(self, value: Reports) -> None:
        if not self._orders:
            return
        self._grow()
        touched, accounts = set(), set()
        for slot, (was, ts_event) in self._orders.items():
            now = self.engine.columns.get(ORDERS, slot)
            if now != was:
                old, new = OrderRow.LAYOUT.unpack(was), OrderRow.LAYOUT.unpack(now)
                self._order(old, new, ts_event)
                touched.add(new[_LEG])
                accounts.add(new[_ACCOUNT])
        if self._disturbed or self.engine.names.inferred or self.engine.names.crossed:
            touched.update(leg for account in accounts for leg in self._account_legs.get(account, ()))
        self._compare(sorted(touched), "external")

    def _order(self, old: tuple, new: tuple, ts_event: int) -> None:
        """What an order gained in one record, booked on its leg."""
        filled, fee, value = new[_CUM] - old[_CUM], new[_FEE] - old[_FEE], _worth(new) - _worth(old)
        leg, side = new[_LEG], new[_SIDE]
        position = self.books.legs[leg]
        if filled:
            lots = filled
            if new[_KIND] == Kind.REDUCTION:  # what it closed beyond the leg was the follower's own (core/fill.py)
                lots = min(filled, max(0, -side * position.lots))
            if lots:
                entries = book(position, side * lots, max(0, value) * lots // filled, fee * lots // filled)
                self._leg_rows(leg, ts_event, "fill", entries, self._leaders_px(new))
        elif fee or value:
            kind = REDUCTION if new[_KIND] == Kind.REDUCTION else OPENING
            entries = [adjust(position, kind, side, value, fee)]
            self._leg_rows(leg, ts_event, "adjustment", entries, self._leaders_px(new))

    def _leaders_px(self, order: tuple) -> int:
        """The leader's price an order answers, ticks: an opening carries it, a close was decided in the record of his fill."""
        instrument, px = self.books.prices.get(order[_SEQ], (-1, 0))
        return order[_REF_PX] or (px if instrument == order[_INSTRUMENT] else 0)

    def _compare(self, legs: Iterable[int], source: str, px: int = 0) -> None:
        """Legs the engine moved otherwise than by a report: the difference at ``px``, else at the mark, else at cost."""
        for leg in legs:
            position = self.books.legs[leg]
            difference = self._attributed(leg) - position.lots
            if difference:
                row = self._instrument(self._legs[leg][1])
                at = px or row.mark
                value = notional(row, abs(difference), at)
                if not at and position.lots:
                    value = position.cost_e8 * abs(difference) // abs(position.lots)
                self._leg_rows(leg, self.ts, source, book(position, difference, value))

    def _fund(self, value: Funding) -> None:
        """What each plan received of it, on the leg that holds: a fee with the other sign."""
        self._grow()
        for plan, before in self._funding.items():
            received = PlanRow.unpack(self.engine.columns.get(PLANS, plan)).funding_e8 - before
            legs = [leg for leg in self._account_legs.get(value.account, ())
                    if self._legs[leg] == (plan, value.instrument) and self.books.legs[leg].lots]
            if received and legs:
                position = self.books.legs[legs[0]]
                side = 1 if position.lots > 0 else -1
                self._leg_rows(legs[0], self.ts, "funding", [adjust(position, OPENING, side, 0, -received)])

    def _attributed(self, leg: int) -> int:
        return int.from_bytes(self.engine.columns.get(LEGS, leg)[_ATTRIBUTED : _ATTRIBUTED + 8], "little", signed=True)

    def _grow(self) -> None:
        """Legs made since the last look."""
        columns = self.engine.columns
        for leg in range(len(self._legs), columns.count(LEGS)):
            row = LegRow.unpack(columns.get(LEGS, leg))
            self._legs.append((row.plan, row.instrument))
            self._account_legs.setdefault(row.account, []).append(leg)
        self.books.legs += [Position() for _ in range(len(self._legs) - len(self.books.legs))]

    def _leg_rows(self, leg: int, ts_event: int, source: str, entries: Iterable[Entry], leaders_px: int = 0) -> None:
        """Rows of one leg; ``leaders_px`` > 0: what the lots would have been worth at it is what they are measured by."""
        plan, instrument = self._legs[leg]
        names = self.engine.names
        for entry in entries:
            reference = slippage = 0
            if leaders_px:
                reference = notional(self._instrument(instrument), entry.lots, leaders_px)
                slippage = entry.side * (entry.value_e8 - reference)
            self._row("follower_fills", plan, names.plan_leaders[plan], names.followers[plan], leg,
                      names.instruments[instrument].symbol, ts_event, slippage, reference, entry[0], source, *entry[1:])

    def _plans(self) -> None:
        """Plans that are new or that say something else than before."""
        names, known = self.engine.names, self.books.plans
        for plan in range(self.engine.columns.count(PLANS)):
            row = PlanRow.unpack(self.engine.columns.get(PLANS, plan))
            now = row.allocation_e8, row.version, row.state
            if plan >= len(known):
                known.append(now)
            elif known[plan] == now:
                continue
            known[plan] = now
            self._row("plans", plan, names.plan_leaders[plan], names.followers[plan], row.allocation_e8, row.version,
                      PlanState(row.state).name.lower())

    # -- leaders ----------------------------------------------------------------------------------------------------

    def _leader_fill(self, value: LeaderFill) -> None:
        self.books.prices[self.seq] = value.instrument, value.px
        if len(self.books.prices) > PRICES_MAX:
            del self.books.prices[next(iter(self.books.prices))]
        made = self.engine.by_book[value.leader, value.instrument, value.position_side]
        position = self._leader_book(made.position)
        # The engine cuts what would cross zero on a hedge-mode side: its quantity is the one that counts.
        moved = self._leader_qty(made.position) - position.lots
        if moved:
            worth = notional(self._instrument(value.instrument), abs(moved), value.px)
            self._leader_rows(value.leader, made.position, value.instrument, value.ts_event, value.exec_id, value.live, "fill",
                              book(position, moved, worth))

    def _leader_sync(self, value: LeaderSync) -> None:
        """What a snapshot showed beyond the fills; a position older than any quote gets its cost with the first price."""
        for made in self.engine.names.books:
            position = self._leader_book(made.position)
            moved = self._leader_qty(made.position) - position.lots if made.leader == value.leader else 0
            if moved:
                row = self._instrument(made.instrument)
                worth = notional(row, abs(moved), row.mark)
                if not row.mark and position.lots:
                    worth = position.cost_e8 * abs(moved) // abs(position.lots)
                entries = book(position, moved, worth)
                position.unpriced = not row.mark and position.lots != 0 and position.cost_e8 == 0
                self._unpriced |= position.unpriced
                self._leader_rows(made.leader, made.position, made.instrument, self.ts, 0, False, "snapshot", entries)

    def _leader_qty(self, index: int) -> int:
        return LeaderPositionRow.unpack(self.engine.columns.get(POSITIONS, index)).qty

    def _leader_book(self, index: int) -> Position:
        while index >= len(self.books.leaders):
            self.books.leaders.append(Position())
        return self.books.leaders[index]

    def _leader_rows(
        self, leader: int, leg: int, instrument: int, ts_event: int, exec_id: int, live: bool, source: str,
        entries: Iterable[Entry],
    ) -> None:
        names = self.engine.names
        for entry in entries:
            self._row("leader_fills", names.leaders[leader], leg, names.instruments[instrument].symbol, ts_event, exec_id, live,
                      entry[0], source, *entry[1:])

    # -- the market -------------------------------------------------------------------------------------------------

    def _quotes(self, value: Quotes) -> None:
        self._marked([instrument for instrument, *_ in value.quotes])

    def _marked(self, instruments: Iterable[int]) -> None:
        """Marks came; a leader's position that was held before any price of it was known is worth something now."""
        for instrument in instruments:
            self._mark(instrument)
        if not self._unpriced:
            return
        for made in self.engine.names.books:
            position, row = self._leader_book(made.position), self._instrument(made.instrument)
            if position.unpriced and row.mark:
                entry = restate(position, position.lots, notional(row, abs(position.lots), row.mark))
                self._leader_rows(made.leader, made.position, made.instrument, self.ts, 0, False, "restated", [entry])
        self._unpriced = any(position.unpriced for position in self.books.leaders)

    def _configured(self, value: Configured) -> None:
        """Another lot or tick size: positions in the new unit at the old cost."""
        self.books.prices.clear()
        changed = [index for index in range(len(value.instruments)) if self._instrument(index).mark]
        self._grow()
        for instrument in changed:
            self._mark(instrument)
        self._restate(changed, keep_cost=True)

    def _restate(self, instruments: Iterable[int], keep_cost: bool = False) -> None:
        """Books that do not hold what the engine holds take its lots.

        At their old cost in another unit; else a leg that was known at the engine's cost, and what was never seen at the mark,
        so that nothing it made before counts.
        """
        wanted = set(instruments)
        for leg, (_, instrument) in enumerate(self._legs):
            position, lots = self.books.legs[leg], self._attributed(leg)
            if instrument in wanted and lots != position.lots:
                cost = position.cost_e8 if keep_cost else self._cost(leg, instrument, lots, known=position.trip > 0)
                self._leg_rows(leg, self.ts, "restated", [restate(position, lots, cost if lots else 0)])
        for made in self.engine.names.books:
            position, lots = self._leader_book(made.position), self._leader_qty(made.position)
            if made.instrument in wanted and lots != position.lots:
                row = self._instrument(made.instrument)
                cost = position.cost_e8 if keep_cost else notional(row, abs(lots), row.mark)
                entry = restate(position, lots, cost if lots else 0)
                self._leader_rows(made.leader, made.position, made.instrument, self.ts, 0, False, "restated", [entry])

    def _cost(self, leg: int, instrument: int, lots: int, known: bool) -> int:
        row = self._instrument(instrument)
        if known or not row.mark:
            return LegRow.unpack(self.engine.columns.get(LEGS, leg)).cost_e8
        return notional(row, abs(lots), row.mark)

    def _mark(self, instrument: int) -> None:
        row = self._instrument(instrument)
        self._row("marks", self.engine.names.instruments[instrument].symbol, row.bid, row.ask, row.mark, row.value_mul,
                  row.value_div)

    def _instrument(self, index: int) -> InstrumentRow:
        return InstrumentRow.unpack(self.engine.columns.get(INSTRUMENTS, index))

    def _row(self, table: str, *values: Any) -> None:
        self.rows[table].append((self.seq, self.ts, *values))


def _worth(order: tuple) -> int:
    """What an order's lots were worth: by its trades once all are told, until then by the venue's sum or its price."""
    return order[_EXEC_COST] if order[_EXEC] == order[_CUM] else order[_COST]
