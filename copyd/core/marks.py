"""Which mark prices are believed. A wrong one would stop every plan at once, so it has to earn it (semantics 18, 19).

A mark is believed when it is a price and a small step from the last one believed. A larger step needs a fresh book that agrees,
and one beyond the band must have stayed there for a while as well: a crash does that, a slip of the feed does not. Until then the
last one stands and grows old; past its age no loss limit acts and openings hold. Times are the caller's, in ns; prices are ticks.
"""

from __future__ import annotations

import msgspec

from copyd.core.fixed import BPS

PATIENCE_NS = 10_000_000_000
"""A mark far from the last one must stay there this long."""
STEP_BPS = 300
"""A step of no more than this between two marks needs no witness."""
BOOK_BAND_BPS = 500
"""The middle of the book and a mark that differ by less agree."""


class Mark(msgspec.Struct):
    """An instrument's mark: what is believed and since when, and what was last heard and not believed."""

    px: int = 0
    ts: int = 0
    doubted_px: int = 0
    doubted_since: int = 0


class Marks:
    """The marks of all instruments; ``band_bps`` is how far one may be from the one before."""

    def __init__(self, band_bps: int, max_age_ns: int) -> None:
        self.band_bps, self.max_age_ns = band_bps, max_age_ns
        self._marks: dict[int, Mark] = {}

    def note(self, instrument: int, px: int, ts: int, middle_twice: int = 0) -> str:
        """A mark came. ``middle_twice``: bid + ask of a fresh book, 0 where there is none. Why it is not believed, or ""."""
        mark = self._marks.setdefault(instrument, Mark())
        if px <= 0:
            return f"a mark price of {px} is none"
        agrees = middle_twice > 0 and _near(2 * px, middle_twice, BOOK_BAND_BPS)
        first = not mark.px and not middle_twice  # nothing to hold it against
        near = bool(mark.px) and _near(px, mark.px, min(STEP_BPS, self.band_bps))
        if first or near or (agrees and (not mark.px or _near(px, mark.px, self.band_bps))):
            self._believe(mark, px, ts)
            return ""
        if not mark.doubted_px or not _near(px, mark.doubted_px, self.band_bps):
            mark.doubted_since = ts
        mark.doubted_px = px
        if agrees and ts - mark.doubted_since >= PATIENCE_NS:
            self._believe(mark, px, ts)
            return ""
        return f"a mark price of {px} after {mark.px}: not believed yet"

    def _believe(self, mark: Mark, px: int, ts: int) -> None:
        mark.px, mark.ts = px, ts
        mark.doubted_px = mark.doubted_since = 0

    def believed(self, instrument: int) -> int:
        """The last mark believed; 0 where there is none."""
        mark = self._marks.get(instrument)
        return mark.px if mark is not None else 0

    def sound(self, instrument: int, now: int) -> bool:
        """Whether the last mark heard is believed and young: openings hold where it is not."""
        mark = self._marks.get(instrument)
        return mark is not None and mark.px > 0 and not mark.doubted_px and now - mark.ts <= self.max_age_ns

    def all(self) -> list[tuple[int, int, int]]:
        """(instrument, ticks, ts) of every mark believed, by instrument."""
        return [(index, mark.px, mark.ts) for index, mark in sorted(self._marks.items()) if mark.px]


def _near(a: int, b: int, band_bps: int) -> bool:
    return abs(a - b) * BPS <= min(a, b) * band_bps
