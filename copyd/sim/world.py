"""Virtual time: one queue of events, the owners that may die or stand still, and the terms everybody lives under.

Nothing here reads a clock. An event belongs to an owner (a daemon) or to nobody (venue, people); what belongs to a daemon
that died is dropped, what belongs to one that stands still waits for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Protocol

from copyd.sim.draws import Draws

US, MS, S = 1_000, 1_000_000, 1_000_000_000
START = 1_700_000_000 * S
"""Where virtual time begins, ns since 1970."""

#: The venue's contract in this world: small, in proportion to a real one. Time costs nothing here.
RECV = 1 * S
CLOCK_LEAD = 1 * S
CLOCK_ERROR = S // 5
ENGINE_DELAY = 2 * S
READ_LAG = 2 * S
GUARD = S // 5
FENCE = RECV + CLOCK_ERROR + ENGINE_DELAY + READ_LAG + GUARD
ACK_TIMEOUT = 1 * S
ANSWER_TIMEOUT = 2 * S
BAN_MAX = 30 * S


class Crash(Exception):
    """The process is gone, in the middle of whatever it did."""


class Owner(Protocol):
    """Who an event belongs to."""

    alive: bool
    dirty: bool
    index: int
    stalled_until: int

    def crashpoint(self, name: str) -> None: ...

    def crashed(self) -> None: ...

    def settle(self) -> None:
        """At the end of an event that left it ``dirty``."""


class Looping(AssertionError):
    """Time does not move on: the parts keep each other busy."""


Call = Callable[..., Any]
Event = tuple[int, int, Any, Call, tuple[Any, ...]]


class World:
    """The queue, the time, and how many events there were."""

    __slots__ = ("_hash", "_order", "draws", "now", "on_select", "on_step", "queue", "selected", "steps", "trace")

    def __init__(self, draws: Draws, trace: Callable[[str], None] | None = None) -> None:
        self.draws = draws
        self.now = START
        self.queue: list[Event] = []
        self.steps = 0
        self.trace = trace
        self.on_step: Callable[[int], None] = lambda now: None
        self.on_select: Callable[[int], None] = lambda index: None
        self.selected = 0
        self._order = 0
        self._hash = blake2b(digest_size=16)

    def at(self, t: int, owner: Any, call: Call, *args: Any) -> None:
        """Call at time ``t`` (now, where that has passed), after everything asked for earlier at the same time."""
        self._order += 1
        heapq.heappush(self.queue, (t, self._order, owner, call, args))

    def latency(self, site: str) -> int:
        """A message's way through the network."""
        return MS + self.draws.draw(site, 16_000) * US

    def run(self, until: int, steps_max: int = 1 << 60) -> None:
        """Everything up to ``until``, in order; ``Looping`` when that takes more than ``steps_max`` events."""
        queue, pop, on_step = self.queue, heapq.heappop, self.on_step
        while queue and queue[0][0] <= until:
            t, _, owner, call, args = pop(queue)
            if owner is not None:
                if not owner.alive:
                    continue
                if owner.stalled_until > t:
                    self.at(owner.stalled_until, owner, call, *args)
                    continue
            if t > self.now:
                self.now = t
            self.steps += 1
            if self.steps > steps_max:
                raise Looping(f"{self.steps} steps at {self.clock()}")
            if owner is None:
                call(*args)
            else:
                if owner.index != self.selected:
                    self.select(owner.index)
                try:
                    owner.crashpoint("step")
                    call(*args)
                    if owner.dirty:
                        owner.settle()
                except Crash:
                    owner.crashed()
            on_step(self.now)
        if until > self.now:
            self.now = until

    def select(self, index: int) -> None:
        """What follows is done by the daemon of this number."""
        self.selected = index
        self.on_select(index)

    def crashing(self, owner: Owner, call: Call, *args: Any) -> None:
        """A call outside the queue that may kill its owner."""
        if owner.index != self.selected:
            self.select(owner.index)
        try:
            call(*args)
            if owner.dirty:
                owner.settle()
        except Crash:
            owner.crashed()

    # -- for people and for the digest -----------------------------------------------------------------------------
    def clock(self) -> str:
        """Seconds since the beginning."""
        return f"{(self.now - START) / S:11.6f}"

    def say(self, who: str, what: str) -> None:
        """A line of the trace; callers ask ``trace is not None`` before they make the text."""
        if self.trace is not None:
            self.trace(f"{self.clock()}  {who:<9} {what}")

    def mark(self, data: bytes) -> None:
        """Bytes that must be the same whenever this history is run."""
        self._hash.update(data)

    def digest(self) -> str:
        """Of everything marked, and of the time and number of steps it took."""
        whole = self._hash.copy()
        whole.update(b"%d/%d" % (self.now, self.steps))
        return whole.hexdigest()
