"""The catalogue of faults: complete, honest about where each can be injected, and tied to what the world counts."""

import re
from collections import Counter
from pathlib import Path

import pytest

from copyd.sim.faults import CATALOGUE, ELSEWHERE, GROUPS, INJECTED, LATER, MISSED, TABLE, coverage

ROOT = Path(__file__).resolve().parents[2]


def test_all_162_faults_are_there():
    """25 of the leader's stream, 40 of orders, 26 of the disk, 18 of the process, 11, 19 and 23."""
    assert len(CATALOGUE) == 162
    assert Counter(id_[0] for id_ in CATALOGUE) == GROUPS
    for group, count in GROUPS.items():
        assert [id_ for id_ in CATALOGUE if id_[0] == group] == [f"{group}{n:02}" for n in range(1, count + 1)]


@pytest.mark.parametrize("fault", CATALOGUE.values(), ids=lambda fault: fault.id)
def test_a_fault_that_no_level_injects_has_its_test_or_its_reason(fault):
    """``unit`` names a test file that exists; ``later`` says why, and claims nothing else."""
    assert fault.levels and set(fault.levels) <= {"A", "B", "C", "unit", "later"} and len(fault.title) > 8
    if "unit" in fault.levels:
        assert (ROOT / fault.where).is_file()
    if "later" in fault.levels:
        assert fault.levels == ("later",) and len(fault.where) > 20


@pytest.mark.parametrize(("level", "folder"), [("A", "copyd/sim"), ("B", "copyd/sim/wire"), ("C", "copyd/sim/torture")])
def test_the_catalogue_claims_for_a_level_what_its_world_can_do(level, folder):
    """An id is on a level exactly when that level's code names it where it injects or counts."""
    others = {"faults.py", "mutants.py", "sweep.py", "shrink.py", "report.py", "main.py", "crashes.py"}
    named = {
        match[1] for path in (ROOT / folder).glob("*.py") if path.name not in others
        for match in re.finditer(r'"([LOJPCAX]\d\d)(?:/[^"]*)?"', path.read_text())
    }
    assert {id_ for id_, fault in CATALOGUE.items() if level in fault.levels} == named


def test_coverage_claims_only_what_was_counted():
    """An id is injected where a run counted it; otherwise it is missed, elsewhere, a unit test's, or not reachable."""
    standings = {standing.fault.id: standing for standing in coverage({"A": {"L01": 3, "L01/late": 2, "O01": 0}})}
    assert standings["L01"].state == INJECTED and standings["L01"].counts == {"A": 5} and standings["L01"].total == 5
    assert standings["O01"].state == MISSED
    assert standings["J07"].state == ELSEWHERE
    assert standings["C01"].state == TABLE
    assert standings["X04"].state == LATER
    assert {standing.state for standing in coverage({}) if standing.fault.simulated} == {ELSEWHERE}


def test_an_id_nobody_catalogued_is_refused():
    """The world cannot count a fault that does not exist."""
    with pytest.raises(ValueError, match="Q99"):
        coverage({"A": {"Q99": 1}})
