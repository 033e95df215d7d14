"""When a market moves too much to open in (semantics 18)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from copyd.core.volatility import Range

SECOND = 1_000_000_000


def test_a_range_at_its_limit_pauses_and_a_calm_window_ends_it() -> None:
    """3 % within a minute: from the very mark that reaches it, until a minute of marks is narrower."""
    market = Range(300, 60 * SECOND)
    assert not market.note(100_000, 0)
    assert not market.note(102_999, 30 * SECOND) and market.bps == 299
    assert market.note(103_000, 31 * SECOND) and market.turbulent
    assert not market.note(103_000, 60 * SECOND) and market.turbulent  # the 100,000 is just within the window
    assert market.note(103_000, 61 * SECOND) and not market.turbulent


def test_a_slide_counts_like_a_jump() -> None:
    """Steps of a quarter of a percent, 3 % in all; the same over hours is none."""
    fast, slow = Range(300, 60 * SECOND), Range(300, 60 * SECOND)
    prices = [100_000 - 250 * step for step in range(20)]
    assert sum(fast.note(px, at * SECOND) for at, px in enumerate(prices)) == 1 and fast.turbulent
    assert not any(slow.note(px, at * 3_600 * SECOND) for at, px in enumerate(prices))


def test_a_pause_found_after_a_restart_lasts_until_a_window_was_calm() -> None:
    """A first mark proves nothing."""
    market = Range(300, 60 * SECOND, turbulent=True)
    assert not any(market.note(100_000, at * SECOND) for at in range(60))
    assert market.note(100_000, 60 * SECOND) and not market.turbulent


def test_no_limit_pauses_nothing_and_lifts_what_was_paused() -> None:
    """The operator has put the limit to 0."""
    market = Range(0, 60 * SECOND, turbulent=True)
    assert market.note(100_000, 0) and not market.turbulent
    assert not market.note(1, SECOND)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(900, 1_100)), min_size=1, max_size=60))
def test_the_range_is_that_of_the_marks_in_the_window(steps: list[tuple[int, int]]) -> None:
    """Held against all the marks of the last minute, kept in a list; paused exactly from the limit on."""
    market, now, told = Range(500, 60 * SECOND), 0, []
    for wait, px in steps:
        now += wait * SECOND
        told.append((now, px))
        was = market.turbulent
        changed = market.note(px, now)
        window = [price for ts, price in told if ts >= now - 60 * SECOND]
        bps = (max(window) - min(window)) * 10_000 // min(window)
        assert market.bps == bps
        calm = now - told[0][0] >= 60 * SECOND
        assert market.turbulent == (bps >= 500 or (was and not calm))
        assert changed == (market.turbulent != was)
