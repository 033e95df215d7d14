"""When a market moves too much to open in: the range of its mark over a window (semantics 18).

    range = (highest - lowest) ÷ lowest, in bps, over the marks of the last ``window_ns``

A market is turbulent from the moment its range reaches the limit until a whole window of marks stays below it, so that the pause
outlasts the move by one window. Only openings wait. Times are the caller's, in ns; prices are ticks.
"""

from __future__ import annotations

from collections import deque

from copyd.core.fixed import BPS


class Range:
    """One market. ``turbulent``: as it was found, until a window of marks says otherwise."""

    def __init__(self, limit_bps: int, window_ns: int, turbulent: bool = False) -> None:
        self.limit_bps, self.window_ns, self.turbulent = limit_bps, window_ns, turbulent
        self.bps = 0
        self._marks: deque[tuple[int, int]] = deque()
        self._since = 0

    def note(self, px: int, ts: int) -> bool:
        """A believed mark; True when the market became turbulent by it, or calm."""
        if self._marks and ts < self._marks[-1][0]:
            return False  # told late: the window has moved on
        if not self._marks:
            self._since = ts
        self._marks.append((ts, px))
        while self._marks[0][0] < ts - self.window_ns:
            self._marks.popleft()
        prices = [price for _, price in self._marks]
        lowest = min(prices)
        self.bps = (max(prices) - lowest) * BPS // lowest
        was = self.turbulent
        if self.limit_bps > 0 and self.bps >= self.limit_bps:
            self.turbulent = True
        elif self.limit_bps == 0 or ts - self._since >= self.window_ns:
            self.turbulent = False
        return self.turbulent != was
