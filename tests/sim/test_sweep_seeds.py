"""The simulator's own run: thousands of histories of the production core, no rule broken in any, every fault really injected."""

import os
import secrets

import pytest

from copyd.sim.faults import CATALOGUE, by_id
from copyd.sim.report import repeat_command
from copyd.sim.sweep import Summary, sweep, twice

JOBS = os.cpu_count() or 1
FIXED, FRESH = 1_000, 3_300
TWICE = 50


def failures(summary: Summary) -> list[str]:
    return [
        f"{failure.invariant}: {failure.text} (again: {repeat_command(report.seed)})"
        for report in summary.failed for failure in report.violations[:1]
    ]


@pytest.mark.timeout(400)
def test_four_thousand_histories_break_no_rule_and_meet_every_fault():
    """1,000 fixed seeds and 3,300 nobody has seen before; at least 100,000 faults, each that this level knows among them."""
    fixed = sweep(range(FIXED), JOBS)
    assert failures(fixed) == []
    first = 1_000_000 + secrets.randbelow(1 << 40)
    fresh = sweep(range(first, first + FRESH), JOBS)
    assert failures(fresh) == []
    assert fixed.seeds + fresh.seeds == FIXED + FRESH
    assert fixed.fault_total + fresh.fault_total >= 100_000
    met = set(by_id(fixed.faults)) | set(by_id(fresh.faults))
    assert {id_ for id_, fault in CATALOGUE.items() if "A" in fault.levels} == met


@pytest.mark.timeout(120)
def test_fifty_histories_are_the_same_in_another_process():
    """Under another hash seed, and in the opposite order: equal digests."""
    result = twice(range(TWICE), JOBS)
    assert result.differ == [] and result.failed == []
