"""The sweep: every seed once, failures named by their seed, processes that die or hang are failures too."""

from pathlib import Path

import pytest

from copyd.errors import OperatorError
from copyd.sim.sweep import DIED, HUNG, RAISED, Pool, Task, chunks, sweep, twice

FAKE = f"{Path(__file__).parent / 'fake.py'}:run_seed"


def test_every_seed_runs_once_and_is_counted():
    """What the seeds counted adds up, over any number of processes."""
    for jobs in (1, 3):
        summary = sweep(range(100, 170), jobs, runner=FAKE)
        assert summary.seeds == 70 and not summary.failed
        assert summary.steps == sum(10 + seed % 3 for seed in range(100, 170))
        assert summary.sim_ns == 70 * 10**9
        assert summary.faults == {"L01": 350, "L02": 350, "O01": 350, "O03": 350, "P01": 350}
        assert summary.crash_points == {"post_commit": 70} and summary.counters == {"fills": 140}


def test_a_seed_that_fails_is_reported_with_its_faults():
    """The report of a failed seed says which invariant and which faults had fired."""
    summary = sweep(range(1, 40), 2, {"fail_every": 10}, runner=FAKE)
    assert [report.seed for report in summary.failed] == [10, 20, 30]
    assert summary.failed[0].violations[0].invariant == "S4"
    assert ("O01", 4) in summary.failed[0].fired


def test_a_process_that_dies_is_a_failure_of_its_seed_and_the_others_run():
    """The seed is named with how the process ended; the seeds behind it run elsewhere."""
    summary = sweep(range(20), 2, {"die": 7}, runner=FAKE)
    assert summary.seeds == 20
    (report,) = summary.failed
    assert report.seed == 7 and report.violations[0].invariant == DIED
    assert "ended with 9" in report.violations[0].text and "going down" in report.violations[0].text


def test_a_seed_that_does_not_end_is_a_failure_and_the_others_run():
    """A limit per seed, on the wall clock."""
    summary = sweep(range(20), 2, {"hang": 3}, runner=FAKE, limit_s=1)
    assert summary.seeds == 20
    (report,) = summary.failed
    assert report.seed == 3 and report.violations[0].invariant == HUNG


def test_an_exception_of_the_product_is_a_failure_of_its_seed():
    """It says what was raised and where."""
    summary = sweep(range(10), 1, {"throw": 4}, runner=FAKE)
    (report,) = summary.failed
    assert report.seed == 4 and report.violations[0].invariant == RAISED
    assert "ValueError: a rule did not hold (fake.py:" in report.violations[0].text


def test_a_sweep_that_fails_everywhere_ends_early():
    """Nobody waits for a million failures."""
    assert 5 <= sweep(range(100_000), 1, {"fail_every": 1}, runner=FAKE, failures_max=5).seeds < 1000


def test_a_history_that_depends_on_the_hash_seed_is_found():
    """Every seed in two processes with different hash seeds: the digests are equal, or the seed is named."""
    assert twice(range(10), 2, runner=FAKE).differ == []
    assert [seed for seed, _, _ in twice(range(10), 2, {"unstable": 6}, runner=FAKE).differ] == [6]


def test_an_unknown_option_and_a_missing_runner_are_named():
    """Usage errors do not look like violations."""
    with pytest.raises(OperatorError, match="worker of the simulator does not start"):
        sweep(range(2), runner="copyd.sim.nowhere:run_seed")


def test_a_task_may_stop_at_its_first_failure():
    """As the mutants need it."""
    task = Task(list(range(1, 200)), {"fail_every": 50}, stop=True)
    seen = [report.seed for _, report in Pool(1, FAKE).reports([task]) if report is not None]
    assert seen[-1] == 50 and len(seen) == 50


def test_pieces_cover_the_seeds():
    """No seed is lost between two pieces."""
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
