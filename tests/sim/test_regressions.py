"""Every failure that was ever found and mended stays mended: its seed, its world and its faults run again."""

from pathlib import Path

import pytest

from copyd.sim.shrink import read_case, run_case
from copyd.sim.sweep import Runner

SAVED = sorted((Path(__file__).resolve().parents[1] / "regressions").glob("*.json"))


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_a_mended_failure_stays_mended(path):
    """And each says what it was about."""
    case = read_case(path)
    assert case.note, "a saved failure says what it found"
    assert not case.mutant
    report = run_case(case, Runner())
    assert [f"{failure.invariant}: {failure.text}" for failure in report.violations] == []
