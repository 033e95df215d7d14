"""Station 1, the leader event: what the leader did, exactly once, and what it means for those who follow.

The leader's position is a fold over his fills (semantics 11). A fill is split into a reducing and an opening part by his
whole quantity before and after it; a flip is both.
"""

from __future__ import annotations

import msgspec

from copyd.core.rows import Side

SEEN_MAX = 4096
ORDERS_MAX = 512


class LeaderBook(msgspec.Struct):
    """What is remembered of a leader in one instrument and position side, beside the quantity in the tables.

    ``floor`` bounds memory: execution ids at or below it count as seen. Venue execution ids grow per instrument.
    ``orders`` maps a leader order to the price of its first fill (risk-based sizing is once per order).
    ``expected`` is a quantity the venue pushed that the fold has not reached yet, with the time it was heard.
    """

    leader: int
    instrument: int
    side: int
    position: int
    seen: dict[int, bool] = {}
    floor: int = -1
    last_exec_id: int = -1
    orders: dict[int, int] = {}
    expected: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """Names the legs that follow it."""
        return f"{self.leader}/{self.instrument}/{self.side}"

    def is_duplicate(self, exec_id: int) -> bool:
        """True when this execution was taken before, from the stream or by back-fill alike (semantics 10)."""
        return exec_id <= self.floor or exec_id in self.seen

    def remember(self, exec_id: int) -> None:
        """Mark an execution as taken."""
        self.seen[exec_id] = True
        self.last_exec_id = max(self.last_exec_id, exec_id)
        if len(self.seen) > SEEN_MAX:
            ids = sorted(self.seen)
            self.floor = ids[SEEN_MAX // 2 - 1]
            self.seen = dict.fromkeys(ids[SEEN_MAX // 2 :], True)

    def first_px(self, order_id: int, px: int) -> int:
        """Price of the order's first fill; ``px`` if this is it."""
        if order_id not in self.orders and len(self.orders) >= ORDERS_MAX:
            self.orders.pop(next(iter(self.orders)))
        return self.orders.setdefault(order_id, px)


class Split(msgspec.Struct, frozen=True):
    """A change of the leader's quantity in its two parts; quantities in lots, ``before`` .. ``after`` signed."""

    before: int
    mid: int
    after: int
    reduce_qty: int
    open_qty: int


def split(before: int, signed_qty: int, side: int) -> Split:
    """The reducing and the opening part of a fill of ``signed_qty`` lots on a position of ``before``.

    A hedge-mode side never crosses zero: what would cross is cut, and the caller marks the leader as out of sync.
    """
    after = before + signed_qty
    if side == Side.LONG:
        after = max(after, 0)
    elif side == Side.SHORT:
        after = min(after, 0)
    if before == 0 or (before > 0) == (signed_qty > 0):
        return Split(before, before, after, 0, abs(after - before))
    if after == 0 or (after > 0) == (before > 0):
        return Split(before, after, after, abs(before - after), 0)
    return Split(before, 0, after, abs(before), abs(after))
