"""``copyd stats``: tables for people, JSON for programs, one sentence where something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from copyd.errors import UsageError
from copyd.serve import commands, tables
from copyd.serve.series import Rules
from copyd.serve.statistics import LeaderFigures, PlanFigures
from copyd.serve.tables import HistoryError, ServeExtraMissing
from tests.inspect.daemon import Daemon
from tests.serve.story import Story

ROOT = Path(__file__).parents[2]


def stats(*words: Any) -> int:
    """The command as the command line calls it."""
    result: int = commands.app([str(word) for word in words], exit_on_error=False, result_action="return_value")
    return result


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Forty days of two leaders; one of them has a follower, the other fell silent."""
    story = Story().at(0).equity(1000, "ann").equity(1000, "zoe").plan(5000, "bob", "ann")
    for day in range(1, 41):
        story.at(day).leader(10, 100).follower(50, 100, 1).leader(-10, 101).follower(-50, 101, 1).equity(1000 + 10 * day)
        if day < 20:
            story.leader(10, 100, "zoe").leader(-10, 99, "zoe").equity(1000 - 10 * day, "zoe")
    return story.write(tmp_path / "history")


def test_leaders_as_a_table(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ranked, with a curve; who has no figure says why."""
    assert stats("leaders", "--out", history) == 0
    text = capsys.readouterr().out
    ann, zoe = (next(line for line in text.splitlines() if f" {name} " in line) for name in ("ann", "zoe"))
    assert ann.split()[:2] == ["1", "ann"]
    assert any(bar in ann for bar in commands.BARS)
    assert zoe.split()[:3] == ["-", "zoe", "-"]
    assert "insufficient data: no equity since 2026-09-23" in zoe
    assert "as of 2026-10-14 12:00:00.000000 UTC" in text


def test_leaders_as_json(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exactly the documented keys."""
    assert stats("leaders", "--out", history, "--json", "--window", "7") == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"asof", "asof_ns", "last_seq", "gaps", "rules", "leaders"}
    assert answer["rules"] == msgspec.to_builtins(Rules(window=7))
    ann, zoe = answer["leaders"]
    assert set(ann) == set(LeaderFigures.__struct_fields__)
    assert (ann["leader"], ann["rank"], zoe["leader"], zoe["rank"]) == ("ann", 1, "zoe", 0)
    assert ann["twr_7d"] == pytest.approx(1400 / 1330 - 1)
    assert ann["trades"] == 40
    assert ann["curve"][-1] == ["2026-10-14", 14000.0]
    assert zoe["twr_30d"] is None and zoe["insufficient"]["twr_30d"] == "no equity since 2026-09-23"


def test_one_leader(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """His figures, his curve, and his followers' plans."""
    assert stats("leader", "ann", "--out", history) == 0
    text = capsys.readouterr().out
    assert "10,000 became 14,000" in text
    assert "not shown (41 of 90 days): roi 90d, twr 90d" in text
    bob = next(line for line in text.splitlines() if line.startswith("bob"))
    assert bob.split()[1:6] == ["active", "5,000", "6,920", "1,920", "80"]
    assert stats("leader", "ann", "--out", history, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"asof", "asof_ns", "last_seq", "gaps", "rules", "leader", "plans"}
    assert set(answer["plans"][0]) == set(PlanFigures.__struct_fields__)
    with pytest.raises(HistoryError, match="leader 'nobody' is not in"):
        stats("leader", "nobody", "--out", history)


def test_from_a_journal_it_extracts_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the journal, unless told where."""
    daemon = Daemon(tmp_path / "journal", 1)
    daemon.trade_for(20)
    daemon.close()
    assert stats("leaders", "--journal", tmp_path / "journal", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["last_seq"] == daemon.engine.names.seq
    assert [one["leader"] for one in answer["leaders"]] == ["lead"]
    assert answer["leaders"][0]["active_followers"] == 12
    assert (tmp_path / "statistics" / "manifest.json").exists()
    assert stats("leader", "lead", "--out", tmp_path / "statistics") == 0


def test_the_configuration_names_the_journal(tmp_path: Path) -> None:
    """One or the other, not both."""
    with pytest.raises(UsageError, match="not both"):
        stats("leaders", "--journal", tmp_path, "--config", tmp_path / "copyd.yaml")


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not a traceback, and before anything is read or written."""
    monkeypatch.setattr(tables, "find_spec", lambda package: None)
    with pytest.raises(ServeExtraMissing, match=r"need the package duckdb, .*: pip install 'copyd\[serve\]'"):
        stats("leaders", "--journal", tmp_path / "journal")
    assert list(tmp_path.iterdir()) == []


def test_the_commands_import_nothing_of_the_extra() -> None:
    """The command line mounts them without DuckDB and pyarrow."""
    code = ("import sys; sys.modules['duckdb'] = sys.modules['pyarrow'] = None; import copyd.serve.commands, copyd.serve.fills, "
            "copyd.serve.statistics")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("command", ["leaders", "leader"])
def test_the_help_ends_with_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Like every command's."""
    stats(command, "--help")
    assert f"Example: copyd stats {command}" in capsys.readouterr().out


@pytest.mark.parametrize(("values", "line"), [
    ([], ""), ([1], "▄"), ([1, 1], "▄▄"), ([0, 7], "▁█"), ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
])
def test_a_sparkline(values: list[float], line: str) -> None:
    """From the lowest bar to the highest."""
    assert commands.sparkline(values) == line


def test_a_long_sparkline_ends_with_the_last_value() -> None:
    """A hundred values in ten bars."""
    assert commands.sparkline([0.0] * 99 + [1.0], 10) == "▁▁▁▁▁▁▁▁▁█"
