"""Quantities of a venue's lists in whole lots, however large or fine they are written."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.venues.common.instruments import Instrument, ceil_lots, chosen, floor_lots


@given(
    whole=st.integers(0, 10**10), part=st.text("0123456789", max_size=16), decimals=st.integers(0, 8), lot=st.integers(1, 1000)
)
def test_lots_of_a_quantity(whole: int, part: str, decimals: int, lot: int) -> None:
    """Down and up to the next lot, exactly; digits behind those of the lot are no reason to refuse it."""
    text = f"{whole}.{part}" if part else str(whole)
    lots = Fraction(text) * 10**decimals / lot
    assert floor_lots(text, decimals, lot) == lots.__floor__()
    assert ceil_lots(text, decimals, lot) == lots.__ceil__()


def test_every_one_that_cannot_be_used_is_named() -> None:
    """One sentence for each, and for what is wrong with all of them together."""

    def make(index: int, symbol: str, row: dict[str, str]) -> Instrument:
        raise ValueError(f"step {row['step']} is not positive")

    with pytest.raises(ValueError) as told:
        chosen([(0, "A"), (1, "B"), (2, "C")], {"A": {"step": "0"}, "B": {}}, make, together=lambda rows: ["no market is left"])
    assert str(told.value) == (
        "A: step 0 is not positive; B: the venue tells no step; C: not listed at the venue; no market is left")
