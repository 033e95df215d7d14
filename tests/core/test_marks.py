"""A mark price is believed when it can be one (semantics 18, 19): a wrong one would stop every plan at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.core.marks import PATIENCE_NS, Marks

S = 1_000_000_000
T0 = 1_000 * S


def marks() -> Marks:
    return Marks(band_bps=3_000, max_age_ns=60 * S)


@pytest.mark.parametrize("px", [0, -1])
def test_no_price_is_no_mark(px: int) -> None:
    """Zero and less are said, and leave the last mark as it was."""
    book = marks()
    assert book.note(0, px, T0)
    assert book.believed(0) == 0 and book.all() == [] and not book.sound(0, T0)
    assert book.note(0, 600, T0) == ""
    assert book.note(0, px, T0 + S)
    assert book.all() == [(0, 600, T0)]


@pytest.mark.parametrize("px", [6_000, 60, 800, 400])
def test_a_jump_is_not_believed_and_openings_hold(px: int) -> None:
    """Ten times the last one, a tenth, a third more, a third less: the last one stands, and is not sound meanwhile."""
    book = marks()
    book.note(0, 600, T0)
    assert "not believed" in book.note(0, px, T0 + S, 2 * 600)
    assert book.all() == [(0, 600, T0)] and not book.sound(0, T0 + S)
    assert book.note(0, 601, T0 + 2 * S) == ""
    assert book.sound(0, T0 + 2 * S), "the next good one ends it"


def test_a_jump_that_stays_is_believed_when_the_book_is_there_too() -> None:
    """A crash: the marks stay down and so does the book."""
    book = marks()
    book.note(0, 600, T0)
    for second in range(1, 11):
        assert book.note(0, 300 + second, T0 + second * S, 2 * 305)
    assert book.note(0, 311, T0 + 11 * S, 2 * 310) == ""
    assert book.all() == [(0, 311, T0 + 11 * S)] and book.sound(0, T0 + 11 * S)


@pytest.mark.parametrize("middle_twice", [0, 2 * 600])
def test_a_jump_that_stays_is_not_believed_against_the_book(middle_twice: int) -> None:
    """A broken feed: the marks stay wrong, the book says so, or nobody says anything."""
    book = marks()
    book.note(0, 600, T0)
    for second in range(1, 200):
        assert book.note(0, 60, T0 + second * S, middle_twice)
    assert book.believed(0) == 600 and not book.sound(0, T0 + 200 * S)


def test_a_jump_that_jumps_again_starts_anew() -> None:
    """What is believed late must have stayed where it is, not merely be far away."""
    book = marks()
    book.note(0, 600, T0)
    book.note(0, 300, T0 + S, 600)
    assert book.note(0, 60, T0 + S + PATIENCE_NS, 2 * 60)


def test_a_mark_grows_old() -> None:
    """None for a minute: it is not sound any more."""
    book = marks()
    book.note(0, 600, T0)
    assert book.sound(0, T0 + 60 * S) and not book.sound(0, T0 + 60 * S + 1)


@given(st.lists(st.integers(-5, 100_000), max_size=60))
def test_each_believed_mark_is_near_the_one_before_without_a_book(prices: list[int]) -> None:
    """Whatever comes, what is believed moves by no more than the band at a time."""
    book = marks()
    for number, px in enumerate(prices):
        before = book.believed(0)
        why = book.note(0, px, T0 + number * S)
        after = book.believed(0)
        assert (after == px) == (why == "") or before == px
        if before and after != before:
            assert abs(after - before) * 10_000 <= min(after, before) * 3_000
