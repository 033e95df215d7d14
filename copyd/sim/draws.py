"""Named deterministic random streams: ``draw(site, n) = H(seed, site, n)``.

Every place that needs chance has a name of its own, so a draw added in one place never shifts the others and old seeds
keep their meaning. A fault is a draw that is also recorded: which faults fired, by id and by how often the place had been
passed, is the tape that shrinking edits and a saved regression holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import blake2b
from math import log, log1p

PPM = 1_000_000
_BLOCK = struct.Struct("<16I")
_FIRST = struct.Struct("<II")
#: How strong a fault is in one history, as (weight, factor); most histories have only some of them.
SWARM = ((20, 0), (38, 1), (26, 2), (16, 6))
_SWARM_TOTAL = sum(weight for weight, _ in SWARM)
_FACTORS = tuple(factor for weight, factor in SWARM for _ in range(weight))
_NAMES: dict[str, tuple[bytes, str]] = {}
"""Every name ever asked for, as it is hashed, and the id before its slash."""
_LOGS: dict[int, float] = {}
_WHOLE = (1 << 32) + 1

Fired = tuple[str, int]


def _waiting(u: int, ppm: int) -> int:
    """How many throws of a coin until it falls, from 32 bits of chance; never (a far number) for a coin that cannot."""
    if ppm >= PPM:
        return 1
    if ppm <= 0:
        return 1 << 62
    base = _LOGS.get(ppm)
    if base is None:
        base = _LOGS[ppm] = log1p(-ppm / PPM)
    return 1 + int(log((u + 1) / _WHOLE) / base)


def _name(name: str) -> tuple[bytes, str]:
    known = _NAMES.get(name)
    if known is None:
        known = _NAMES[name] = (name.encode(), name.partition("/")[0])
    return known


class Draws:
    """All chance of one history.

    ``keep``: of the faults that would fire only these (id, n-th passing) do; ``only``: ids that exist at all;
    ``factor``: every strength times this, in percent (0 is a healthy world).
    """

    __slots__ = ("_blocks", "_faults", "_next", "_seed", "counts", "factor", "fired", "healthy", "ids", "keep", "only")

    def __init__(
        self, seed: int, keep: Iterable[Fired] | None = None, only: Iterable[str] | None = None, factor: int = 100,
    ) -> None:
        self._seed = str(seed).encode()
        self._blocks: dict[str, list[int]] = {}
        self._next: dict[str, int] = {}
        self._faults: dict[str, list[int]] = {}
        self.ids: dict[str, str] = {}
        self.keep = None if keep is None else frozenset((str(name), int(n)) for name, n in keep)
        self.only = None if only is None else frozenset(only)
        self.factor = factor
        #: Faults that fired, in order, and how often each id did.
        self.fired: list[Fired] = []
        self.counts: dict[str, int] = {}
        #: True from the fair phase on: no fault fires any more.
        self.healthy = False

    # -- chance -------------------------------------------------------------------------------------------------------
    def _refill(self, site: str) -> int:
        n = self._next.get(site, 0)
        self._next[site] = n + 1
        digest = blake2b(b"%s/%s/%d" % (self._seed, site.encode(), n)).digest()
        block = self._blocks[site] = list(_BLOCK.unpack(digest))
        return block.pop()

    def draw(self, site: str, bound: int) -> int:
        """The next number of a site's stream, in [0, bound); bound at most 2**32."""
        block = self._blocks.get(site)
        return (block.pop() if block else self._refill(site)) % bound

    def between(self, site: str, low: int, high: int) -> int:
        """A number in [low, high], any width."""
        width = high - low + 1
        if width < 1 << 28:
            return low + self.draw(site, width)
        return low + ((self.draw(site, 1 << 32) << 32 | self.draw(site, 1 << 32)) % width)

    def chance(self, site: str, ppm: int) -> bool:
        """True in ``ppm`` of a million."""
        block = self._blocks.get(site)
        return (block.pop() if block else self._refill(site)) % PPM < ppm

    def pick(self, site: str, choices: tuple[int, ...]) -> int:
        """One of the choices, each as likely."""
        return choices[self.draw(site, len(choices))]

    # -- faults -------------------------------------------------------------------------------------------------------
    def fault(self, name: str, ppm: int) -> bool:
        """Whether the fault strikes at this passing; recorded when it does. ``id/where``: one fault at several places.

        A name is always asked with the same ``ppm``: at which passing it strikes next is drawn ahead, so that a passing
        costs next to nothing.
        """
        if self.healthy:
            return False
        try:
            state = self._faults[name]
        except KeyError:
            state = self._first(name, ppm)
        state[0] += 1
        if state[0] != state[1]:
            return False
        self._next_strike(name, state)
        self.fired.append((name, state[0]))
        fault = self.ids[name]
        self.counts[fault] = self.counts.get(fault, 0) + 1
        return True

    def _first(self, name: str, ppm: int) -> list[int]:
        """State of a fault: passings, the passing of the next strike (0: none), strength in ppm."""
        state = self._faults[name] = [0, 0, 0]
        encoded, self.ids[name] = _name(name)
        if self.keep is not None:
            self._next_strike(name, state)
        elif self.only is None or name in self.only:
            at, u = _FIRST.unpack(blake2b(b"%s/%s" % (self._seed, encoded), digest_size=8).digest())
            factor = _FACTORS[at % _SWARM_TOTAL]
            if factor:
                state[2] = min(ppm * factor * self.factor // 100, PPM)
            state[1] = _waiting(u, state[2])
        return state

    def _next_strike(self, name: str, state: list[int]) -> None:
        now = state[0]
        if self.keep is not None:
            state[1] = min((n for fault, n in self.keep if fault == name and n > now), default=0)
        else:
            state[1] = now + _waiting(self.draw(name, 1 << 32), state[2])

    def count(self, name: str) -> None:
        """A fault that is a consequence of the world's course, not of a draw: counted, not on the tape."""
        if not self.healthy:
            self.counts[name] = self.counts.get(name, 0) + 1

    def param(self, name: str, what: str, low: int, high: int) -> int:
        """A number in [low, high] belonging to the fault that has just fired: the same whatever else fires."""
        return low + self._at(name, what, self._faults[name][0], high - low + 1)

    def _at(self, name: str, what: str, n: int, bound: int) -> int:
        message = b"%s/%s/%s/%d" % (self._seed, name.encode(), what.encode(), n)
        return int.from_bytes(blake2b(message, digest_size=8).digest(), "little") % bound
