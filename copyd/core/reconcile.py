"""Belief against the venue's books: which account is looked at next, how far a leg is from its leader, and what follows.

Nothing here asks or decides by itself: the shell looks (``Rounds`` says where), the engine believes or not
(``AccountSnapshots``), and ``SyncWatch`` turns a distance that lasts into the operator's out-of-sync policy.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

import msgspec

from copyd.core.fixed import BPS, ONE, sign
from copyd.core.instrument import notional
from copyd.core.rows import NONE, InstrumentRow, LegRow, Row

EDGES_BPS = (0, 1, 5, 10, 25, 50, 100, 250, 500, 1_000)
"""Upper edges of the sync score's histogram, bps of the plan's allocation; what is above the last is one bucket more."""


@dataclass(slots=True)
class DriftRow(Row):
    """How far one leg is from what copying without limits would hold; 48 bytes, ``Kernel.drift``.

    ``distance`` and ``missed`` are Q32 lots, signed: what it should hold less what it holds, and how much of that a rule
    refused. ``money_e8`` is the value of its whole lots (less cannot be traded), ``bps`` that value against the plan's
    allocation. ``moving``: orders of it are in flight.
    """

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<4qIiB7x")
    distance: int = 0
    missed: int = 0
    money_e8: int = 0
    ts_retry: int = 0
    leg: int = 0
    bps: int = 0
    moving: int = 0


def drift(index: int, leg: LegRow, instrument: InstrumentRow, allocation_e8: int) -> DriftRow:
    """The sync score of one leg; the kernel's ``drift`` gives the same for all."""
    distance = leg.target + leg.missed - leg.attributed * ONE
    money = min(notional(instrument, abs(distance) >> 32, instrument.mark), (1 << 62) - 1)
    bps = min(money * BPS // allocation_e8, (1 << 31) - 1) if allocation_e8 > 0 else 0
    moving = int(leg.open_slot != NONE or leg.reduce_leaves != 0 or leg.deferred != 0)
    return DriftRow(distance, leg.missed, money, leg.retry_ts, index, bps, moving)


def may_catch_up(leg: LegRow, leader_qty: int) -> bool:
    """Whether the forgone quantity of a leg can be wanted again: the leader holds, nothing of the leg is on its way.

    Nor does a leg that the follower touched (detached) or that is turning round ever catch up.
    """
    side = sign(leg.missed)
    if not side or leader_qty == 0 or leg.detached or leg.open_slot != NONE or leg.deferred or leg.reduce_leaves:
        return False
    return sign(leg.target) in (0, side) and sign(leg.attributed) in (0, side) and sign(leader_qty) == side


class Rounds:
    """Which account is compared with the venue next: each once per ``interval_ns``, and soon where something happened.

    All times ns of one clock. Bounded: one entry per account, and a newer reason only ever moves its look forward.
    """

    def __init__(self, interval_ns: int, soon_ns: int) -> None:
        self.interval_ns, self.soon_ns = interval_ns, soon_ns
        self._at: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._at)

    def add(self, account: int, now: int, spread: int) -> None:
        """A new account; the first look of ``spread`` accounts is spread over one interval."""
        if account not in self._at:
            self._plan(account, now + self.interval_ns * (account % max(1, spread)) // max(1, spread))

    def touch(self, account: int, now: int) -> None:
        """Something happened there (a gap, a mismatch, a doubt): look again when its replicas have caught up."""
        at = now + self.soon_ns
        if self._at.get(account, at + 1) > at:
            self._plan(account, at)

    def drop(self, account: int) -> None:
        """An account that is looked at no more."""
        self._at.pop(account, None)

    def due(self, now: int, most: int) -> list[int]:
        """Up to ``most`` accounts to look at now; each is planned again an interval later."""
        found: list[int] = []
        while self._heap and self._heap[0][0] <= now and len(found) < most:
            at, account = heapq.heappop(self._heap)
            if self._at.get(account) == at:
                found.append(account)
                self._plan(account, now + self.interval_ns)
        return found

    def _plan(self, account: int, at: int) -> None:
        self._at[account] = at
        heapq.heappush(self._heap, (at, account))
        if len(self._heap) > 4 * len(self._at) + 64:
            self._heap = [(due, known) for known, due in self._at.items()]
            heapq.heapify(self._heap)


class SyncAction(IntEnum):
    """What an operator wants where a leg stays out of sync."""

    ALERT = 0
    PAUSE = 1
    REDUCE_ONLY = 2
    CATCH_UP = 3


class SyncPolicy(msgspec.Struct, frozen=True):
    """Out of sync is ``enter_bps`` of the allocation for ``after_ns``; in sync again below ``leave_bps`` (hysteresis).

    A catch-up is tried at most once per ``interval_ns`` and only where it costs at most ``cost_bps_max`` and less than the
    distance it heals.
    """

    action: SyncAction = SyncAction.ALERT
    enter_bps: int = 100
    leave_bps: int = 50
    after_ns: int = 30_000_000_000
    interval_ns: int = 60_000_000_000
    cost_bps_max: int = 20


class SyncWatch:
    """Legs that are out of sync, since when, and what is to be done about them."""

    def __init__(self, policy: SyncPolicy) -> None:
        self.policy = policy
        self._since: dict[int, int] = {}
        self._acted: dict[int, int] = {}

    @property
    def out(self) -> list[int]:
        """Legs that have been out of sync for long enough."""
        return sorted(self._acted)

    def judge(self, now: int, rows: Iterable[DriftRow], cost_bps: Callable[[DriftRow], int]) -> list[tuple[SyncAction, DriftRow]]:
        """What to do now. ``rows``: every leg at or above ``leave_bps``; ``cost_bps``: what trading its distance would cost."""
        policy = self.policy
        todo: list[tuple[SyncAction, DriftRow]] = []
        seen: dict[int, DriftRow] = {}
        for row in rows:
            if row.bps > policy.leave_bps:
                seen[row.leg] = row
        for leg in [leg for leg in self._since if leg not in seen]:
            del self._since[leg]
            self._acted.pop(leg, None)
        for leg, row in seen.items():
            if row.bps >= policy.enter_bps:
                self._since.setdefault(leg, now)
            since = self._since.get(leg)
            if since is None or now - since < policy.after_ns or row.moving:
                continue
            acted = self._acted.get(leg)
            if acted is None:
                self._acted[leg] = now
                if policy.action != SyncAction.CATCH_UP:
                    todo.append((policy.action, row))
                    continue
            elif policy.action != SyncAction.CATCH_UP or now - acted < policy.interval_ns:
                continue
            cost = cost_bps(row)
            if row.missed and cost <= policy.cost_bps_max:
                self._acted[leg] = now
                todo.append((SyncAction.CATCH_UP, row))
        return todo
