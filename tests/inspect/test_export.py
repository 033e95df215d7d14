"""``copyd replay``: the state in words, and every decision as a claim someone else can check."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from copyd import inspect
from copyd.core.engine import LEGS, LeaderFill, LeaderSync, Started
from copyd.core.rows import DecisionRow, LegRow, NamedOrder
from copyd.demo.history import read_claims
from copyd.inspect.rebuild import decode
from copyd.journal import Reader
from tests.inspect.daemon import Daemon

LINE = {
    "seq", "leader", "symbol", "exec_id", "plan", "cause", "k_q32", "delta_q32", "reduce", "open", "reason", "reduce_lots",
    "open_lots", "forgone_q32", "target_q32", "orders", "leader_equity_e8", "bid", "ask", "mark", "ts_event", "ts_recv",
    "ts_decided",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Daemon, Path, list[dict[str, Any]]]:
    """A journal of everything, and its claims."""
    folder = tmp_path_factory.mktemp("export")
    daemon = Daemon(folder / "journal", 1)
    daemon.trade_for(60)
    daemon.settle()
    daemon.restart()
    daemon.close()
    assert inspect.replay(folder / "journal", folder / "claims.jsonl") == 0
    return daemon, folder, [json.loads(line) for line in (folder / "claims.jsonl").read_text().splitlines()]


def test_every_id_stands_in_exactly_one_line(run: tuple[Daemon, Path, list[dict[str, Any]]]) -> None:
    """What the journal names is what the claims name."""
    _, folder, lines = run
    claimed = Counter(cid for line in lines for cid in line.get("orders", ()))
    with Reader(folder / "journal") as reader:
        named = {row[0].hex() for record in reader.iterate() for row in NamedOrder.LAYOUT.iter_unpack(decode(record).named)}
    assert set(claimed) == named
    assert set(claimed.values()) == {1}


def test_one_line_per_leader_fill_and_plan(run: tuple[Daemon, Path, list[dict[str, Any]]]) -> None:
    """Also where a plan holds nothing and does nothing; in journal order."""
    daemon, folder, lines = run
    fills = [line for line in lines if line["cause"] == "leader_fill"]
    per_event = Counter((line["symbol"], line["exec_id"]) for line in fills)
    assert set(per_event.values()) == {len(daemon.engine.names.followers)}
    with Reader(folder / "journal") as reader:
        values = [(record.seq, decode(record)) for record in reader.iterate()]
    expected = {str(recorded.input.exec_id) for _, recorded in values if isinstance(recorded.input, LeaderFill)}
    expected |= {f"snapshot:{seq}" for seq, recorded in values if isinstance(recorded.input, LeaderSync) and recorded.decisions}
    assert {line["exec_id"] for line in fills} == expected
    assert [line["seq"] for line in lines] == sorted(line["seq"] for line in lines)
    assert sum(1 for line in lines if line["cause"] == "restart") == sum(isinstance(r.input, Started) for _, r in values)


def test_targets_follow_from_line_to_line(run: tuple[Daemon, Path, list[dict[str, Any]]]) -> None:
    """An order end takes what it forgoes from the target; the last line of a leg is the state of the leg."""
    daemon, _, lines = run
    targets: dict[tuple[str, str], int] = {}
    causes = Counter(line["cause"] for line in lines)
    for line in lines:
        if line["cause"] == "restart":
            continue
        key = line["plan"], line["symbol"]
        if line["cause"] in ("order_end", "external"):
            assert targets[key] - line["forgone_q32"] == line["target_q32"]
        elif line["cause"] in ("report", "timer"):
            assert targets[key] == line["target_q32"]
            assert line["reduce_lots"] > 0
        targets[key] = line["target_q32"]
    assert {"leader_fill", "release", "report", "order_end", "restart"} <= set(causes)
    names = daemon.engine.names
    for index in range(daemon.engine.columns.count(LEGS)):
        leg = LegRow.unpack(daemon.engine.columns.get(LEGS, index))
        assert targets[names.followers[leg.plan], names.instruments[leg.instrument].symbol] == leg.target


def test_lines_have_the_agreed_fields(run: tuple[Daemon, Path, list[dict[str, Any]]]) -> None:
    """Fields and words as the demo's verifier reads them; whole decisions agree with their lots."""
    _, folder, lines = run
    for line in lines:
        if line["cause"] in ("leader_fill", "release", "report", "timer"):
            assert set(line) == LINE
            assert (line["open"] == "order") == bool(line["open_lots"])
            assert (line["reduce"] == "order") == bool(line["reduce_lots"])
            assert line["open"] != "forgone" or line["forgone_q32"] == line["delta_q32"]
            assert len(line["orders"]) >= (line["open"] == "order") + (line["reduce"] == "order")
        elif line["cause"] == "order_end":
            assert line["forgone_q32"] and line["reason"]
    assert len(list(read_claims(folder / "claims.jsonl"))) == len(lines)


def test_the_summary_says_what_is_there(
    run: tuple[Daemon, Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Leaders, plans, legs, orders, reasons, epochs and configuration versions in words."""
    daemon, folder, _ = run
    assert inspect.replay(folder / "journal", None) == 0
    text = capsys.readouterr().out
    for word in ("leader_fill 60", f"epoch        {daemon.epoch} from record", "config       version 1", "forgone", "BTCUSDT",
                 "plans        12 on 12 accounts", "0 unfinished, 0 in doubt"):
        assert word in text, text


def test_orders_unfinished_and_in_doubt_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a successor has to ask the venue about."""
    daemon = Daemon(tmp_path / "journal", 1)
    outputs = daemon.leader_fill(0, 9_000)
    assert outputs is not None and outputs.named
    daemon.restart()
    daemon.close()
    assert inspect.replay(tmp_path / "journal", None) == 0
    text = capsys.readouterr().out
    assert f"{len(outputs.named) // 48} unfinished, {len(outputs.named) // 48} in doubt" in text
    assert outputs.named[:16].hex() in text


def test_decision_rows_are_where_the_export_reads_them() -> None:
    """The export reads single bytes of packed rows; this is their place."""
    row = DecisionRow(plan=1, leg=2, reduce=3, open=4, reason=5, release=6).pack()
    assert (len(row), row[9], row[10], row[11]) == (64, 4, 5, 6)
