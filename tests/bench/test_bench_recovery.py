"""``copyd bench recovery`` at a tiny size, and its parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from copyd._fast.columns import ReportBatch
from copyd.bench import main
from copyd.bench.recovery import answers, kind_of_reason
from copyd.core.rows import NamedOrder, ReportRow


def test_a_killed_daemon_is_armed_again_and_nothing_was_sent_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The journal holds what was asked for, the kill hits a fan-out, the figures are there, and nothing is left behind."""
    out = tmp_path / "out.json"
    sizes = ["--followers", "12", "--orders", "240", "--connections", "2", "--rows", "5"]
    assert main(["recovery", *sizes, "--json", str(out), "--journal", str(tmp_path)]) == 0
    report = json.loads(out.read_text())
    assert report["checked"] is True and report["accepted_twice"] == 0
    assert report["journal"]["orders"] >= 240 and report["journal"]["records"] > 240 // 5
    assert report["killed"]["arrived"] >= 2
    assert 0 < report["armed_s"] < 120
    assert report["weight"] >= 12 and report["venue_budget_s"] > 0
    assert {"process", "armed"} <= set(report["last_heard_s"])
    text = capsys.readouterr().out
    assert "process start to armed" in text and "asked of the venue" in text
    assert not list(tmp_path.glob("copyd-bench-*"))


def test_answers_come_in_records_of_the_size_asked_for() -> None:
    """Every order is answered once, whole."""
    named = b"".join(NamedOrder(cid=bytes([n]) * 16, order_qty=n + 1, limit_px=10).pack() for n in range(7))
    batches = list(answers(named, 5, 3))
    assert [len(batch) // ReportRow.LAYOUT.size for batch in batches] == [3, 3, 1]
    rows = [row for batch in batches for row in ReportRow.unpack_all(batch)]
    assert [(row.cid[0], row.cum_qty) for row in rows] == [(n, n + 1) for n in range(7)]
    assert ReportBatch.from_bytes(batches[0]).count == 3


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("starting", "starting"),
        ("accounts being activated: 3 of 9", "activation"),
        ("activation results being journaled", "activation"),
        ("17 orders in doubt", "doubts"),
        ("leader bench-leader is not in sync", "leader"),
        ("BTCUSDT: last quote 7.2 s ago", "quotes"),
        ("something else for 12 s", "something else for n s"),
    ],
)
def test_reasons_are_counted_by_their_kind(reason: str, kind: str) -> None:
    assert kind_of_reason(reason) == kind
