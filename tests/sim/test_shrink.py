"""Shrinking: what is left still breaks the same rule, and nothing in it could go."""

from pathlib import Path

import pytest

from copyd.errors import OperatorError
from copyd.sim.shrink import Case, Shrinker, minimal, read_case, run_case, write_case
from copyd.sim.sweep import HUNG, Runner

FAKE = f"{Path(__file__).parent / 'fake.py'}:run_seed"
KNOWN = ["followers", "moves"]


def always() -> bool:
    return True


@pytest.mark.parametrize("needed", [[], [0], [99], [3, 50], [0, 1, 2], [10, 40, 41, 98], list(range(20, 30))])
def test_a_minimal_subset_holds_exactly_what_is_needed(needed):
    """Delta debugging finds the faults that matter among a hundred."""
    tries = 0

    def fails(items):
        nonlocal tries
        tries += 1
        return set(needed) <= set(items)

    assert minimal(list(range(100)), fails, always) == needed
    assert tries < 400


def test_a_failure_shrinks_to_its_faults_and_the_smallest_world():
    """Two faults of twenty-five, two followers, three moves: what the failure really takes."""
    case = Case(10, "S4", options={"fail_every": 10})
    shrunk = Shrinker(Runner(FAKE), known=KNOWN).shrink(case)
    assert shrunk.case.keep == [("L02", 3), ("O01", 4)] and shrunk.faults_before == 25 and shrunk.complete
    assert shrunk.case.options == {"fail_every": 10, "followers": 2, "moves": 3}
    assert shrunk.case.text == "dead order is live"


def test_a_case_that_does_not_fail_again_is_said_to_be_so():
    """A failure that cannot be repeated is a failure of the simulator."""
    with pytest.raises(OperatorError, match="not deterministic"):
        Shrinker(Runner(FAKE), known=KNOWN).shrink(Case(11, "S4", options={"fail_every": 10}))


def test_no_time_leaves_the_case_as_it_is():
    """Shrinking is bounded; what it has by then is still a failure."""
    shrunk = Shrinker(Runner(FAKE), 0.0, KNOWN).shrink(Case(10, "S4", options={"fail_every": 10}))
    assert not shrunk.complete
    assert run_case(shrunk.case, Runner(FAKE)).violations


def test_a_run_that_hung_is_not_run_again():
    """It would hang the shrinking."""
    assert Shrinker(Runner(FAKE)).shrink(Case(1, HUNG)).runs == 0


def test_a_case_reads_back_as_it_was_written(tmp_path):
    """And a file that is none is named."""
    case = Case(10, "S4", "a story", {"followers": 2}, [("L02", 3)], text="what the judge said")
    path = tmp_path / "saved" / "one.json"
    write_case(path, case)
    assert read_case(path) == case
    path.write_text("{")
    with pytest.raises(OperatorError, match=r"one\.json"):
        read_case(path)
