"""How often something may be asked: counts in windows of time, per account, address, instrument, or whatever a venue counts by.

A dialect defines its limits by name and takes from them; whoever runs the exchange lifts some by name, or sets others. A lifted
limit is still counted, it just never refuses. Times are ns of one clock, never going back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

import msgspec

from copyd.errors import UsageError

KEYS_KEPT = 4096


class Window(msgspec.Struct):
    """One limit: at most ``limit`` within ``period_ns``.

    ``sliding``: within any such stretch of time; otherwise within each whole period of the clock.
    """

    name: str
    limit: int
    period_ns: int
    sliding: bool
    taken: int = 0  # by everybody, since the start
    refused: int = 0
    room: int = KEYS_KEPT  # so many keys before idle ones are looked for


class Count(msgspec.Struct):
    """What one key has taken in its present window. ``marks``: (ns, how many) of each, for a sliding one."""

    start_ns: int = 0
    used: int = 0
    marks: deque[tuple[int, int]] = msgspec.field(default_factory=deque)


class Windows:
    """All limits of one dialect."""

    def __init__(self, lift: frozenset[str] = frozenset()) -> None:
        self.lifted = lift
        self.defined: dict[str, Window] = {}
        self._counts: dict[str, dict[Hashable, Count]] = {}

    def define(self, name: str, limit: int, period_ms: int, sliding: bool = False) -> None:
        """A limit of the venue."""
        self.defined[name] = Window(name, limit, period_ms * 10**6, sliding)
        self._counts[name] = {}

    def check_lift(self) -> None:
        """UsageError when a limit is lifted that the dialect does not have; "all" lifts every one."""
        if "all" in self.lifted:
            self.lifted = frozenset(self.defined)
        if unknown := sorted(self.lifted - self.defined.keys()):
            raise UsageError(f"no such limit: {', '.join(unknown)} (there are {', '.join(self.defined) or 'none'})")

    def set(self, name: str, limit: int) -> None:
        """Another number from now on. UsageError: no such limit, or below 1."""
        if name not in self.defined:
            raise UsageError(f"no such limit: {name} (there are {', '.join(self.defined) or 'none'})")
        if limit < 1:
            raise UsageError(f"limit {name} must be above 0")
        self.defined[name].limit = limit

    def take(self, name: str, key: Hashable, now_ns: int, n: int = 1) -> int:
        """Take ``n``: 0, or ns until as many may be taken again (nothing was taken then). Below 0: give back what was taken in
        this window."""
        window, count = self.defined[name], self._current(name, key, now_ns)
        if n < 0:
            self._give(window, count, -n)
            return 0
        if count.used + n > window.limit and name not in self.lifted:
            window.refused += 1
            return self._wait(window, count, now_ns, n)
        count.used += n
        window.taken += n
        if window.sliding:
            count.marks.append((now_ns, n))
        return 0

    def used(self, name: str, key: Hashable, now_ns: int) -> int:
        """How many the key has taken of the present window."""
        return self._current(name, key, now_ns).used

    def left(self, name: str, key: Hashable, now_ns: int) -> int:
        """How many it may still take."""
        return max(0, self.defined[name].limit - self.used(name, key, now_ns))

    def reset_ns(self, name: str, key: Hashable, now_ns: int) -> int:
        """When the present window, or the oldest mark of a sliding one, is over."""
        window, count = self.defined[name], self._current(name, key, now_ns)
        if window.sliding:
            return (count.marks[0][0] if count.marks else now_ns) + window.period_ns
        return count.start_ns + window.period_ns

    def _current(self, name: str, key: Hashable, now_ns: int) -> Count:
        window, counts = self.defined[name], self._counts[name]
        count = counts.get(key)
        if count is None:
            if len(counts) >= window.room:
                self._forget(window, counts, now_ns)
            count = counts[key] = Count()
        if window.sliding:
            marks = count.marks
            while marks and marks[0][0] <= now_ns - window.period_ns:
                count.used -= marks.popleft()[1]
        elif now_ns >= count.start_ns + window.period_ns:
            count.start_ns, count.used = now_ns - now_ns % window.period_ns, 0
        return count

    @staticmethod
    def _forget(window: Window, counts: dict[Hashable, Count], now_ns: int) -> None:
        """Drop the counts of keys that have taken nothing for a whole period."""
        since = now_ns - window.period_ns
        for key in [k for k, c in counts.items() if (c.marks[-1][0] if c.marks else c.start_ns) <= since]:
            del counts[key]
        window.room = max(KEYS_KEPT, 2 * len(counts))

    @staticmethod
    def _give(window: Window, count: Count, n: int) -> None:
        n = min(n, count.used)  # what was taken in a window that is over is not there any more
        count.used -= n
        window.taken -= n
        while window.sliding and n > 0:
            at_ns, taken = count.marks.pop()
            if taken > n:
                count.marks.append((at_ns, taken - n))
            n -= taken

    @staticmethod
    def _wait(window: Window, count: Count, now_ns: int, n: int) -> int:
        if not window.sliding:
            return count.start_ns + window.period_ns - now_ns
        over = count.used + n - window.limit
        for at_ns, taken in count.marks:
            over -= taken
            if over <= 0:
                return at_ns + window.period_ns - now_ns
        return window.period_ns
