"""The one reader of time."""

import time

import pytest

from copyd.runtime.clock import ManualClock, SystemClock


def test_the_system_clock_reads_ns_of_both_kinds():
    clock = SystemClock()
    assert abs(clock.now_ns() - time.time_ns()) < 60_000_000_000
    assert clock.mono_ns() <= clock.mono_ns()


def test_a_manual_clock_stands_until_moved():
    clock = ManualClock(now_ns=10, mono_ns=3)
    clock.advance_ns(5)
    assert (clock.now_ns(), clock.mono_ns()) == (15, 8)
    clock.set_now_ns(1)
    assert (clock.now_ns(), clock.mono_ns()) == (1, 8)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance_ns(-1)
