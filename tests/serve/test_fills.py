"""From a journal into tables: everything once, whether taken at once or piece by piece."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from msgspec import structs

from copyd.core.engine import (
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
    LeaderSync,
    LegsReady,
    Outputs,
    Quotes,
    Reports,
    Timer,
)
from copyd.core.rows import (
    InstrumentRow,
    LeaderPositionRow,
    LegRow,
    NamedOrder,
    OrderRow,
    OrderState,
    Params,
    PlanRow,
    ReportKind,
    ReportRow,
)
from copyd.journal import Record
from copyd.kinds import kind_of, pack_checkpoint
from copyd.serve import tables
from copyd.serve.fills import extract
from copyd.serve.tables import PARTS_MAX, TABLES, HistoryError, load_manifest, paths
from tests.inspect.daemon import E8, SYMBOLS, Daemon, columns_value, joined, open_journal, parts_of, plan, rewrite

ROOT = Path(__file__).parents[2]


def rows(out: Path, table: str) -> list[dict[str, Any]]:
    """A table as the manifest names it."""
    manifest = load_manifest(out)
    assert manifest is not None
    return [row for path in paths(out, manifest, table) for row in pq.read_table(path).to_pylist()]


def history(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {table: rows(out, table) for table in TABLES}


@pytest.fixture(scope="module", params=(0, 1))
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Daemon, Path, Path]:
    """A journal of everything that happens, and what was extracted from it."""
    folder = tmp_path_factory.mktemp("serve")
    daemon = Daemon(folder / "journal", request.param)
    daemon.trade_for(80)
    daemon.settle()
    daemon.trade_for(15)
    daemon.close()
    extract(folder / "journal", folder / "out")
    return daemon, folder / "journal", folder / "out"


def test_the_books_end_where_the_engine_ends(run: tuple[Daemon, Path, Path]) -> None:
    """Every leg and every leader's position, and every lot on the way there."""
    daemon, _, out = run
    columns = daemon.engine.columns
    for table, count, held in (
        ("follower_fills", columns.count(LEGS), lambda leg: LegRow.unpack(columns.get(LEGS, leg)).attributed),
        ("leader_fills", columns.count(POSITIONS), lambda at: LeaderPositionRow.unpack(columns.get(POSITIONS, at)).qty),
    ):
        lots: dict[int, int] = {}
        last: dict[int, int] = {}
        for row in rows(out, table):
            lots[row["leg"]] = lots.get(row["leg"], 0) + row["side"] * row["lots"]
            last[row["leg"]] = row["position_lots"]
            assert lots[row["leg"]] == row["position_lots"]
        for leg in range(count):
            assert last.get(leg, 0) == held(leg), (table, leg)


def test_money_is_conserved(run: tuple[Daemon, Path, Path]) -> None:
    """By leg: what was realised, less what is still held cost, is what came in minus what went out."""
    _, _, out = run
    for table in ("follower_fills", "leader_fills"):
        cash: dict[int, int] = {}
        realised: dict[int, int] = {}
        for row in rows(out, table):
            leg = row["leg"]
            cash[leg] = cash.get(leg, 0) - row["side"] * row["value_e8"]
            realised[leg] = realised.get(leg, 0) + row["realised_e8"]
            held = row["position_cost_e8"] if row["position_lots"] > 0 else -row["position_cost_e8"]
            if row["source"] != "restated":
                assert cash[leg] == realised[leg] - held


def test_fees_are_those_of_the_trades(run: tuple[Daemon, Path, Path]) -> None:
    """Told twice, counted once."""
    daemon, _, out = run
    columns = daemon.engine.columns
    booked = sum(OrderRow.unpack(columns.get(ORDERS, slot)).fee_e8 for slot in range(columns.count(ORDERS)))
    assert sum(row["fee_e8"] for row in rows(out, "follower_fills")) == booked > 0


@pytest.mark.parametrize("step", [4, 60])
def test_piece_by_piece_is_the_same_history(run: tuple[Daemon, Path, Path], tmp_path: Path, step: int) -> None:
    """Row for row, number for number; also when the parts were joined in between."""
    _, journal, out = run
    extract(journal, tmp_path / "steps", chunk_records=step)
    assert history(tmp_path / "steps") == history(out)
    manifest = load_manifest(tmp_path / "steps")
    assert manifest is not None
    assert max(len(parts) for parts in manifest.parts.values()) <= PARTS_MAX
    for table in TABLES:
        assert [row["n"] for row in rows(out, table)] == list(range(manifest.rows(table)))
    assert extract(journal, tmp_path / "steps").rows == dict.fromkeys(TABLES, 0)


def test_beside_a_daemon_that_goes_on(tmp_path: Path) -> None:
    """Taken by another process while a daemon holds the journal open: the same as once at the end."""
    daemon = Daemon(tmp_path / "journal", 5)
    taken = 0
    for _ in range(3):
        daemon.trade_for(10)
        assert daemon.journal is not None
        daemon.journal.flush()
        code = "import sys; from pathlib import Path; from copyd.serve.fills import extract; extract(*map(Path, sys.argv[1:]))"
        subprocess.run([sys.executable, "-c", code, tmp_path / "journal", tmp_path / "live"], check=True, timeout=60, cwd=ROOT)
        manifest = load_manifest(tmp_path / "live")
        assert manifest is not None and taken < manifest.last_seq == daemon.engine.names.seq
        taken = manifest.last_seq
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "live")
    extract(tmp_path / "journal", tmp_path / "once")
    assert history(tmp_path / "live") == history(tmp_path / "once")


@pytest.mark.parametrize("written", range(12))
def test_killed_at_any_write_it_goes_on_from_there(
    run: tuple[Daemon, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int,
) -> None:
    """The files before the kill are there, the manifest may not be: nothing is lost and nothing comes twice."""
    _, journal, out = run
    real, left = tables._replace, [written]

    def replace(path: Path, write: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, write)

    monkeypatch.setattr(tables, "_replace", replace)
    with pytest.raises(KeyboardInterrupt):
        extract(journal, tmp_path, chunk_records=40)
    monkeypatch.setattr(tables, "_replace", real)
    extract(journal, tmp_path, chunk_records=40)
    assert history(tmp_path) == history(out)
    extract(journal, tmp_path)
    manifest = load_manifest(tmp_path)
    assert manifest is not None
    named = {path for table in TABLES for path in paths(tmp_path, manifest, table)} | {tmp_path / manifest.state}
    assert {path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("lock", "manifest.json")} == named


def one_follower(path: Path) -> Daemon:
    """One plan that opens exactly what the leader opens, scaled; nothing binds."""
    daemon = Daemon(path, 3, followers=0)
    daemon.do(Command("import_plans", {"plans": [plan(
        daemon.rng, 0, mode=0, allocation_e8=10_000 * E8, leverage=20, leverage_max=20, slippage_bps=300, max_position_bps=0,
        max_notional_symbol_e8=0, max_notional_total_e8=0, max_open_trades=0, min_policy=0, ratio_snapshot=0)]}, "test"))
    daemon.do(LegsReady([(0, 0, True, False, True, 20), (0, 1, True, False, True, 20)]))
    daemon.do(AccountSnapshots([(0, 1_000_000 * E8, [])]))
    return daemon


def fill(daemon: Daemon, signed_qty: int) -> NamedOrder:
    """The leader trades; the order this made."""
    outputs = daemon.leader_fill(0, signed_qty)
    assert outputs is not None
    (order,) = NamedOrder.unpack_all(outputs.named)
    return order


def report(daemon: Daemon, **cells: Any) -> None:
    daemon.do(Reports(ReportRow(**{"ts_event": daemon.now, **cells}).pack()))


def test_late_and_corrected_reports_are_booked_once(tmp_path: Path) -> None:
    """A reply without a price, its trades told twice, a later one that raises the quantity: a table of what each booked."""
    daemon = one_follower(tmp_path / "journal")
    order = fill(daemon, 1_000)
    qty, px = order.order_qty, daemon.px[0]
    first = qty - 30
    report(daemon, cid=order.cid, kind=ReportKind.REPLY, status=OrderState.EXPIRED, cum_qty=first)
    trade = {"cid": order.cid, "kind": ReportKind.TRADE, "status": OrderState.EXPIRED, "cum_qty": first, "last_qty": first,
             "last_px": px, "fee_e8": 500, "trade_id": 1}
    report(daemon, **trade)
    report(daemon, **trade)
    report(daemon, cid=order.cid, kind=ReportKind.STREAM, status=OrderState.EXPIRED, cum_qty=first + 10,
           cost_e8=columns_value(0, first + 10, px))
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "out")
    reply, trade_row, late, *rest = rows(tmp_path / "out", "follower_fills")
    assert (reply["source"], reply["lots"], reply["value_e8"]) == ("fill", first, columns_value(0, first, order.limit_px))
    assert (trade_row["source"], trade_row["lots"], trade_row["fee_e8"]) == ("adjustment", 0, 500)
    assert reply["value_e8"] + trade_row["value_e8"] == columns_value(0, first, px)
    assert (late["source"], late["lots"]) == ("fill", 10)
    assert late["position_lots"] == first + 10
    assert not [row for row in rest if row["lots"] and row["kind"] == "opening"]


def test_every_fill_is_measured_by_the_leaders_price(tmp_path: Path) -> None:
    """An opening by the price its order answers, a close by that of the fill that caused it; a better price told later counts."""
    daemon = one_follower(tmp_path / "journal")
    order, px = fill(daemon, 1_000), daemon.px[0]
    qty = order.order_qty
    report(daemon, cid=order.cid, kind=ReportKind.REPLY, status=OrderState.FILLED, cum_qty=qty)
    report(daemon, cid=order.cid, kind=ReportKind.TRADE, status=OrderState.FILLED, cum_qty=qty, last_qty=qty, last_px=px + 50,
           trade_id=1)
    daemon.leader[0] = 1_000
    close = fill(daemon, -1_000)
    report(daemon, cid=close.cid, kind=ReportKind.TRADE, status=OrderState.FILLED, cum_qty=qty, last_qty=qty, last_px=px - 70,
           trade_id=2)
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "out", chunk_records=1)
    reply, trade, closed = rows(tmp_path / "out", "follower_fills")
    assert reply["reference_e8"] == closed["reference_e8"] == columns_value(0, qty, px)
    assert trade["reference_e8"] == 0
    assert reply["slippage_e8"] + trade["slippage_e8"] == columns_value(0, qty, 50)
    assert closed["slippage_e8"] == columns_value(0, qty, 70)


def test_the_followers_own_hand_closes_at_the_mark(tmp_path: Path) -> None:
    """What he sells of a copied position ends its part of the round trip at the price of that moment."""
    daemon = one_follower(tmp_path / "journal")
    order, px = fill(daemon, 1_000), daemon.px[0]
    report(daemon, cid=order.cid, kind=ReportKind.TRADE, status=OrderState.FILLED, cum_qty=order.order_qty,
           last_qty=order.order_qty, last_px=px, trade_id=1)
    daemon.do(Quotes([(0, px + 995, px + 1_005, px + 1_000, daemon.now)]))
    daemon.do(ExternalFill(0, 0, 0, -40, 77, "manual"))
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "out")
    _, hand = rows(tmp_path / "out", "follower_fills")
    assert (hand["source"], hand["kind"], hand["side"], hand["lots"]) == ("external", "reduction", -1, 40)
    assert hand["realised_e8"] == columns_value(0, 40, 1_000)


def test_another_lot_size_moves_no_money(tmp_path: Path) -> None:
    """Ten lots for one: the position is restated at its cost, the mark is told anew, the close realises what it would have."""
    daemon = one_follower(tmp_path / "journal")
    order, px = fill(daemon, 1_000), daemon.px[0]
    qty = order.order_qty
    report(daemon, cid=order.cid, kind=ReportKind.TRADE, status=OrderState.FILLED, cum_qty=qty, last_qty=qty, last_px=px,
           trade_id=1)
    btc, xrp = daemon.engine.names.instruments
    row = InstrumentRow.unpack(btc.row)
    row.value_mul //= 10
    daemon.do(Configured(2, Params().pack(), [structs.replace(btc, row=row.pack(), qty_decimals=4), xrp], ["lead"]))
    daemon.leader[0] = 10_000
    (close,) = NamedOrder.unpack_all(daemon.leader_fill(0, -10_000).named)  # type: ignore[union-attr]
    assert close.order_qty == 10 * qty
    report(daemon, cid=close.cid, kind=ReportKind.TRADE, status=OrderState.FILLED, cum_qty=10 * qty, last_qty=10 * qty,
           last_px=px + 100, trade_id=2)
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "out")
    opened, restated, closed = rows(tmp_path / "out", "follower_fills")
    assert (restated["source"], restated["position_lots"]) == ("restated", 10 * opened["position_lots"])
    assert restated["position_cost_e8"] == opened["position_cost_e8"]
    assert (closed["realised_e8"], closed["position_lots"], closed["trip"]) == (columns_value(0, qty, 100), 0, 1)
    mark = [row for row in rows(tmp_path / "out", "marks") if row["instrument"] == "BTCUSDT"][-1]
    assert (mark["seq"], mark["value_mul"]) == (restated["seq"], 1_000)


def test_a_position_found_in_a_snapshot_has_made_nothing_before(tmp_path: Path) -> None:
    """The leader held it before the first price was known: its cost is that price."""
    daemon = Daemon(None, 3, followers=0)
    inputs = [(ts, LeaderSync(0, True, [(0, 0, 50, 10)]) if isinstance(value, LeaderSync) else value)
              for ts, value in daemon.inputs]
    journal, engine = open_journal(tmp_path / "journal"), Engine()
    for ts, value in inputs:
        outputs = engine.step(ts, value)
        if outputs is not None:
            journal.append(kind_of(value), ts, outputs.payload())
    journal.close()
    extract(tmp_path / "journal", tmp_path / "out")
    found, priced = rows(tmp_path / "out", "leader_fills")
    assert (found["source"], found["position_lots"], found["position_cost_e8"]) == ("snapshot", 50, 0)
    assert (priced["source"], priced["position_cost_e8"]) == ("restated", columns_value(0, 50, daemon.px[0]))


def test_changed_and_stopped_plans_stay(tmp_path: Path) -> None:
    """An allocation is a fact with its time; a stopped plan keeps its rows."""
    daemon = one_follower(tmp_path / "journal")
    spec = daemon.engine.names.specs[0]
    daemon.do(Command("change_plan", {"follower": "f0", "spec": {**spec, "allocation_e8": 5_000 * E8}}, "test"))
    daemon.do(Command("stop_plan", {"follower": "f0"}, "test"))
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "out")
    told = [(row["allocation_e8"] // E8, row["version"], row["state"]) for row in rows(tmp_path / "out", "plans")]
    assert told == [(10_000, 1, "active"), (5_000, 2, "active"), (5_000, 2, "stopped")]


def test_a_journal_without_its_beginning_is_taken_from_its_checkpoint(tmp_path: Path) -> None:
    """The gap is noted, the books start as the checkpoint has them."""
    daemon = Daemon(tmp_path / "journal", 4)
    daemon.trade_for(20)
    seq = daemon.checkpoint()
    assert daemon.journal is not None
    daemon.trade_for(4)
    daemon.journal.flush()
    daemon.journal.drop_before(seq)
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "out")
    check_behind_a_gap(daemon, tmp_path / "out", 1, seq)
    found = [row for row in rows(tmp_path / "out", "follower_fills") if row["source"] == "restated"]
    assert found
    marks = {row["instrument"]: row["mark_ticks"] for row in rows(tmp_path / "out", "marks")[:2]}
    for row in found:  # what it had made before is not in the history
        index = SYMBOLS.index(row["instrument"])
        assert row["position_cost_e8"] == columns_value(index, abs(row["position_lots"]), marks[row["instrument"]])


def has_decisions(record: Record) -> bool:
    """Whether followers' decisions were recorded."""
    return bool(parts_of(record)[1])


def other_decision(record: Record) -> bytes:
    """The payload with another target in its first decision."""
    parts = parts_of(record)
    parts[1] = parts[1][:56] + bytes([parts[1][56] ^ 1]) + parts[1][57:]
    return joined(parts)


def test_what_another_build_decided_is_a_gap_up_to_the_next_checkpoint(tmp_path: Path) -> None:
    """Nothing is guessed: without a checkpoint behind it the extraction says where it stands."""
    daemon = Daemon(tmp_path / "journal", 2)
    daemon.trade_for(10)
    daemon.close()
    changed: list[int] = []

    def edit(record):  # type: ignore[no-untyped-def]
        if not has_decisions(record) or changed:
            return record.payload
        changed.append(record.seq)
        return other_decision(record)

    rewrite(tmp_path / "journal", tmp_path / "other", edit)
    with pytest.raises(HistoryError, match=f"record {changed[0]}: decided by the rules of another build"):
        extract(tmp_path / "other", tmp_path / "out")


def test_a_hole_in_the_middle_is_bridged_by_the_books(tmp_path: Path) -> None:
    """Records were dropped before they were taken: the gap is noted and what is held is what the checkpoint says."""
    daemon = Daemon(tmp_path / "journal", 6)
    daemon.trade_for(10)
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "out")
    taken = daemon.engine.names.seq
    before = history(tmp_path / "out")
    daemon.journal = open_journal(tmp_path / "journal")
    daemon.start()
    daemon.trade_for(20)
    seq = daemon.checkpoint()
    daemon.trade_for(3)
    daemon.journal.flush()
    daemon.journal.drop_before(seq)
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "out")
    check_behind_a_gap(daemon, tmp_path / "out", taken + 1, seq)
    after = history(tmp_path / "out")
    assert all(after[table][: len(before[table])] == before[table] for table in TABLES)  # what was told stays told


def test_another_builds_stretch_is_a_gap_up_to_the_next_checkpoint(tmp_path: Path) -> None:
    """One decision is not what these rules give: taken up to it, and on from the checkpoint behind it."""
    daemon = Daemon(tmp_path / "journal", 2)
    daemon.trade_for(30)
    daemon.close()
    changed: list[int] = []

    def edit(record):  # type: ignore[no-untyped-def]
        if not has_decisions(record) or record.seq <= 60 or changed:
            return record.payload
        changed.append(record.seq)
        return other_decision(record)

    rewrite(tmp_path / "journal", tmp_path / "other", edit)
    journal = open_journal(tmp_path / "other")
    seq = daemon.engine.names.seq
    journal.checkpoint(seq, [pack_checkpoint(daemon.engine)])
    journal.close()
    extract(tmp_path / "other", tmp_path / "out")
    check_behind_a_gap(daemon, tmp_path / "out", changed[0], seq)


def check_behind_a_gap(daemon: Daemon, out: Path, first: int, last: int) -> None:
    """The gap is noted, and the books end where the engine ends."""
    manifest = load_manifest(out)
    assert manifest is not None
    assert [gap[:2] for gap in manifest.gaps] == [(first, last)]
    assert manifest.last_seq == daemon.engine.names.seq
    held = {row["leg"]: row["position_lots"] for row in rows(out, "follower_fills")}
    for leg in range(daemon.engine.columns.count(LEGS)):
        assert held.get(leg, 0) == LegRow.unpack(daemon.engine.columns.get(LEGS, leg)).attributed


def test_another_journal_is_refused(tmp_path: Path) -> None:
    """Two histories never mix."""
    for name, seed in (("one", 1), ("two", 2)):
        daemon = Daemon(tmp_path / name, seed, followers=2)
        daemon.trade_for(4)
        daemon.close()
    extract(tmp_path / "one", tmp_path / "out")
    with pytest.raises(HistoryError, match="another journal"):
        extract(tmp_path / "two", tmp_path / "out")


def test_a_journal_that_was_put_back_is_noticed(tmp_path: Path) -> None:
    """An older copy ends too early; one that went on otherwise does not follow what was taken."""
    daemon = Daemon(tmp_path / "journal", 1, followers=2)
    daemon.close()
    for name in ("older", "other"):
        shutil.copytree(tmp_path / "journal", tmp_path / name)
    daemon.journal = open_journal(tmp_path / "journal")
    daemon.start()
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "out")
    with pytest.raises(HistoryError, match="the journal was put back"):
        extract(tmp_path / "older", tmp_path / "out")
    journal = open_journal(tmp_path / "other")
    for seq in range(5):
        journal.append(kind_of(Timer()), daemon.now + seq, Outputs(seq, Timer()).payload())
    journal.close()
    with pytest.raises(HistoryError, match="does not follow the last one extracted"):
        extract(tmp_path / "other", tmp_path / "out")


def test_one_extraction_at_a_time(tmp_path: Path) -> None:
    """The second says so."""
    Daemon(tmp_path / "journal", 1, followers=1).close()
    with tables.locked(tmp_path / "out"), pytest.raises(HistoryError, match="another process is extracting"):
        extract(tmp_path / "journal", tmp_path / "out")


def test_an_empty_journal_is_an_empty_history(tmp_path: Path) -> None:
    """Every table is there, with no rows."""
    open_journal(tmp_path / "journal").close()
    assert extract(tmp_path / "journal", tmp_path / "out").rows == dict.fromkeys(TABLES, 0)
    assert history(tmp_path / "out") == {table: [] for table in TABLES}


@pytest.mark.parametrize("seed", range(3))
def test_what_it_books_is_what_the_daemon_booked(tmp_path: Path, seed: int) -> None:
    """Realised, commission and funding of every plan, to the unit: two ledgers that share no code agree."""
    daemon = Daemon(tmp_path / "journal", 300 + seed)
    daemon.trade_for(40)
    for number, account in enumerate(range(6)):
        daemon.do(Funding(account, number % 2, (-3 + number) * E8 + 7, 90_000 + number))
    daemon.trade_for(20)
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "out")
    told: dict[int, list[int]] = {}
    for row in rows(tmp_path / "out", "follower_fills"):
        sums = told.setdefault(row["plan"], [0, 0, 0])
        sums[0] += row["realised_e8"]
        sums[1 if row["source"] != "funding" else 2] += row["fee_e8"]
    for index in range(daemon.engine.columns.count(PLANS)):
        own = PlanRow.unpack(daemon.engine.columns.get(PLANS, index))
        realised, fees, funding = told.get(index, [0, 0, 0])
        assert (fees, -funding) == (own.commission_e8, own.funding_e8), index
        assert abs(realised - own.realised_e8) <= 100, (index, realised, own.realised_e8)  # each rounds its shares by itself
