"""What the venue takes no order for waits, as long as its leader holds (semantics 6)."""

from __future__ import annotations

import pytest

from copyd.core.fixed import ONE
from copyd.core.order import tradable
from copyd.core.rows import InstrumentRow, LegRow

#: A lot is worth 0.60, an order at least 5: nine lots.
SPOT = InstrumentRow(spot=1, mark=6_000_000, value_mul=10, min_notional_e8=5 * 10**8)


@pytest.mark.parametrize(
    ("attributed", "target", "on_its_way", "lots", "sent"),
    [
        (8, ONE // 100, 0, 8, 0),  # the leader still holds: it would be refused again and again
        (8, 0, 0, 8, 8),  # he is flat: sent once, and written off where the venue refuses it
        (8, 0, 4, 4, 0),  # what is on its way may come back
        (20, ONE // 100, 0, 20, 20),
        (20, 15 * ONE, 0, 5, 0),
        (20, 5 * ONE, 0, 15, 11),  # as much stays as can still be sold
    ],
)
def test_the_last_of_a_leg_below_the_least_value_waits_for_its_end(
    attributed: int, target: int, on_its_way: int, lots: int, sent: int
) -> None:
    """On spot nothing is exempt: below the least value only the end of a leg is tried."""
    leg = LegRow(attributed=attributed, target=target, reduce_leaves=on_its_way)
    assert tradable(SPOT, leg, lots, attributed) == sent
