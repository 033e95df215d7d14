"""Laws of the engine on random histories (semantics 1-5, 10, 17, 22, 23, 32, 36, 44); the oracle knows only the rules."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.properties import history

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
SEEDS = st.integers(0, 2**32)


@QUICK
@given(SEEDS)
def test_laws_hold_after_every_input(seed: int) -> None:
    """One decision per event and plan, reductions at once, forgone booked, no order beyond the target; and it settles."""
    run = history.run(seed)
    run.settle()
    run.check_settled()
    run.restart_on_copy()


@QUICK
@given(SEEDS)
def test_leader_flat_leaves_every_leg_flat(seed: int) -> None:
    """However the history went: the leader flat, the venue fair again, and every leg and every account is flat."""
    run = history.run(seed)
    if run.leader:
        run.leader_fill(-run.leader)
    run.settle()
    run.check_settled()
    for leg in run.legs():
        assert leg.target == 0 and leg.attributed == 0
