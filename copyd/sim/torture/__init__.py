"""Level C of the simulator: the real daemon, the real journal, a real disk, real signals.

    kill     the daemon against the simulated exchange under load, SIGKILLed at random and at chosen calls, again and again
    images   power cuts: what the journal's disk may hold after one, image by image
    world    full disk, failing disk, slow disk, a stopped process, two daemons, a stepped clock, no descriptors
    calls    every single call of a journal's life fails once, or is the last one
    stage    the processes those need: an exchange, a daemon's folder, a leader who trades
    nursery  daemons without the half second Python takes to import them; daemons with a rule broken on purpose
    shim     shim.c, preloaded: counts, fails, delays or kills at the k-th call; records writes

Judged from the exchange's own books and from the journal left behind, never from what the daemon says of itself.
"""

from __future__ import annotations

import time
from collections import Counter

import msgspec


class Summary(msgspec.Struct):
    """What a run did and what it found. ``faults``: how often each fault of the catalogue was really made, by id."""

    name: str
    done: int = 0
    unit: str = "checks"
    seconds: float = 0.0
    violations: list[str] = []
    faults: dict[str, int] = {}
    points: dict[str, int] = {}  #: where the process was hit, or the power cut
    counters: dict[str, int] = {}
    skipped: list[str] = []  #: what this machine does not let us do, and why

    def text(self) -> str:
        """For people."""
        rate = self.done / self.seconds if self.seconds else 0.0
        what = f"{self.done:,} {self.unit} in {self.seconds:.0f} s ({rate:.1f}/s)"
        lines = [f"{self.name}: {what}, {len(self.violations)} violations"]
        for title, counts in (("points", self.points), ("counters", self.counters), ("faults", self.faults)):
            if counts:
                lines.append(f"  {title:9}" + " · ".join(f"{name} {n:,}" for name, n in sorted(counts.items())))
        lines += [f"  skipped  {line}" for line in self.skipped]
        lines += [f"  VIOLATION {line}" for line in self.violations]
        return "\n".join(lines)


class Tally:
    """Fills a :class:`Summary` while a run goes on."""

    def __init__(self, name: str, unit: str) -> None:
        self.summary = Summary(name, unit=unit)
        self.faults: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.counters: Counter[str] = Counter()
        self._began = time.monotonic()

    def violation(self, text: str) -> None:
        """Something that must not be."""
        self.summary.violations.append(text)

    def finish(self) -> Summary:
        """The summary so far."""
        self.summary.seconds = time.monotonic() - self._began
        self.summary.faults, self.summary.points = dict(self.faults), dict(self.points)
        self.summary.counters = dict(self.counters)
        return self.summary
