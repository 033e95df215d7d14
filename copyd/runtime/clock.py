"""The only reader of time. Everything else takes the time as an argument, which is what makes replay possible."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings, both int nanoseconds."""

    def now_ns(self) -> int:
        """ns since 1970 UTC, for times that are recorded or compared with the venue's; steady within a process."""
        ...

    def mono_ns(self) -> int:
        """Monotonic clock, ns from an arbitrary origin: for durations. Never goes back; means nothing after a restart."""
        ...


class SystemClock:
    """The machine's clocks. The wall clock is read once: from then on time is what has passed, suspended or not.

    A wall clock that is stepped under a running daemon so changes no age and no fence; where the venue's clock stands
    against this one is measured again and again anyway.
    """

    __slots__ = ("_base",)

    #: Bound once as a static method: a reading costs the C call and nothing else.
    mono_ns = staticmethod(time.monotonic_ns)

    def __init__(self) -> None:
        self._base = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def now_ns(self) -> int:
        return self._base + time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wall_step_ns(self) -> int:
        """How far the wall clock has been set since the start."""
        return time.time_ns() - self.now_ns()


class ManualClock:
    """A clock that stands until it is moved: tests, and replay where the journal's own times are fed."""

    __slots__ = ("_mono_ns", "_now_ns")

    def __init__(self, now_ns: int = 0, mono_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._mono_ns = mono_ns

    def now_ns(self) -> int:
        return self._now_ns

    def mono_ns(self) -> int:
        return self._mono_ns

    def advance_ns(self, ns: int) -> None:
        """Both clocks move together."""
        if ns < 0:
            raise ValueError("time does not go back; use set_now_ns for a stepped wall clock")
        self._now_ns += ns
        self._mono_ns += ns

    def set_now_ns(self, now_ns: int) -> None:
        """Steps the wall clock alone, as ntp or an operator may."""
        self._now_ns = now_ns
