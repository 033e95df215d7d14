"""Station 3, the order: the two kinds, how each is made, and what may follow which state.

A reduction is made by ``plan_reduction`` from what the leg really holds; nothing in ``risk`` is on its way (semantics 17).
"""

from __future__ import annotations

from dataclasses import dataclass

from copyd.core.fixed import ONE, mul_div_ceil, sign
from copyd.core.identifiers import client_order_id, epoch_of
from copyd.core.instrument import leverage_of, min_lots, notional
from copyd.core.rows import (
    NONE,
    AccountInstrumentRow,
    AccountRow,
    InstrumentRow,
    Kind,
    LegRow,
    OrderRow,
    OrderState,
    Reason,
)
from copyd.core.state import Outcome, Tables

EPOCH_SLACK = 7_200_000_000_000
"""A wall clock is taken to be set by at most this much between two lives of the daemon, ns."""
PART_OPENING = 0
PART_REDUCTION = 16
"""Parts of one decision in its client order ids: 0 the opening, 16, 17, ... its reductions."""
REDUCTIONS_MAX = 64
"""Successive reductions sent at once for one leg; as they fill, the rest follows."""


@dataclass(slots=True)
class Cause:
    """The stable identity of the input behind an order, and when it was decided (semantics 32)."""

    cause: bytes
    aux: int
    seq: int
    now: int
    ts_event: int


def make_order(
    t: Tables, leg_index: int, cause: Cause, part: int, kind: Kind, side: int, lots: int, limit_px: int, ref_px: int,
) -> tuple[int, OrderRow]:
    """A new order row with its derived id, entered in the tables."""
    leg = t.legs[leg_index]
    p = t.params
    cid = client_order_id(
        p.site, p.epoch, p.key, cause.cause, cause.aux, leg.account, leg.plan, leg.instrument, leg.side, part,
        leg.attempt,
    )
    slot, order = t.new_order(cid)
    order.order_qty = lots
    order.limit_px = limit_px
    order.ref_px = ref_px
    order.ts_event = cause.ts_event
    order.ts_decided = cause.now
    order.seq = cause.seq
    order.leg = leg_index
    order.account = leg.account
    order.plan = leg.plan
    order.instrument = leg.instrument
    order.side = side
    order.kind = kind
    order.state = OrderState.PENDING_NEW
    order.attempt = leg.attempt
    if t.accounts[leg.account].hedge and not t.instruments[leg.instrument].spot:
        # The position side says which of the two positions is meant; the venue takes no reduce-only flag here.
        long_side = (side > 0) == (kind == Kind.OPENING)
        order.position_side = 1 if long_side else 2
    count_order(t, leg, cause.now)
    return slot, order


def count_order(t: Tables, leg: LegRow, now: int) -> None:
    """Count one order in the account's fixed window."""
    account = t.accounts[leg.account]
    # A window that begins after now was opened before the clock was put back.
    if now >= account.ts_window + t.params.order_window or now < account.ts_window:
        account.ts_window = now
        account.orders_in_window = 0
    account.orders_in_window += 1


def make_opening(t: Tables, leg_index: int, cause: Cause, side: int, lots: int, limit_px: int, ref_px: int) -> int:
    """Send an opening: the leg waits for it, the account holds margin for it at the limit price."""
    leg = t.legs[leg_index]
    slot, order = make_order(t, leg_index, cause, PART_OPENING, Kind.OPENING, side, lots, limit_px, ref_px)
    order.replanned = leg.replan
    leg.replan = 0
    leg.open_slot = slot
    leg.open_leaves = lots
    leg.pending = side * (lots << 32)
    instrument = t.instruments[leg.instrument]
    leverage = leverage_of(instrument, t.account_instrument(leg).leverage)
    order.reserve_e8 = mul_div_ceil(notional(instrument, lots, limit_px), 1, leverage)
    t.accounts[leg.account].reserved_e8 += order.reserve_e8
    return slot


def reducible(leg: LegRow) -> int:
    """Whole lots by which the confirmed quantity exceeds what it should be, less what is already being reduced.

    Measured on the follower's own confirmed quantity and capped by it (semantics 1, 22); never negative.
    """
    held = leg.attributed
    wanted = leg.target - leg.pending - leg.deferred
    # Where an opening of the other side waits, the leader has turned round: all of this side goes first (semantics 5).
    wanted = abs(wanted) if sign(wanted) == sign(held) != -sign(leg.deferred) else 0
    return max(0, ((abs(held) * ONE + leg.dust_q32 - wanted) >> 32) - leg.reduce_leaves)


def least_reduction(instrument: InstrumentRow) -> int:
    """Fewest lots the venue takes in a reduction: reduce-only is exempt from the least value, a spot venue exempts nothing."""
    if instrument.spot and instrument.mark > 0:
        return min_lots(instrument, instrument.mark)
    return max(1, instrument.lot_min)


def room_of(instrument: InstrumentRow, account: AccountRow, ai: AccountInstrumentRow, leg: LegRow) -> int:
    """Lots of the leg whose close is exempt from the venue's least value, or as good as any other: all on spot and in hedge
    mode; on a one-way account what the venue position still has in the leg's direction, which reduce-only covers."""
    if instrument.spot or account.hedge:
        return abs(leg.attributed)
    return max(0, ai.net * sign(leg.attributed) - leg.reduce_leaves)


def tradable(instrument: InstrumentRow, leg: LegRow, lots: int, room: int) -> int:
    """Of ``lots`` > 0 to reduce by, those that go now (semantics 6); those beyond ``room`` would go as plain orders.

    Below the venue's minimum a part waits for the next one, or for the close of all; and as much stays as can still be sold.
    """
    least = least_reduction(instrument)
    kept = abs(leg.attributed) - leg.reduce_leaves - lots
    if kept <= 0:
        # What is on its way may come back unfilled, and then goes with this; while the leg is wanted, its last waits for its end.
        waits = leg.reduce_leaves or sign(leg.target) == sign(leg.attributed)
        return 0 if lots < least and waits else lots
    lots -= max(0, least - kept)
    if lots > room and 0 < notional(instrument, lots - room, instrument.mark) < instrument.min_notional_e8:
        lots = room
    return lots if lots >= least else 0


def due(t: Tables, leg: LegRow) -> int:
    """Whole lots of the leg to reduce by now: of what is ``reducible``, what the venue takes."""
    lots = reducible(leg)
    instrument = t.instruments[leg.instrument]
    room = room_of(instrument, t.accounts[leg.account], t.account_instrument(leg), leg)
    return tradable(instrument, leg, lots, room) if lots else 0


def plan_reduction(t: Tables, leg_index: int, cause: Cause, out: Outcome) -> int:
    """Send what is ``due``, at once, as market orders; returns the lots (semantics 17, 21, 22).

    Above the venue's maximum: successive orders, ``REDUCTIONS_MAX`` at once. On a one-way account reduce-only covers what the
    venue position still has in this direction; where an opposite leg nets it, the rest goes plain, a reduction all the same.
    On spot every order is plain.
    """
    leg = t.legs[leg_index]
    total = left = due(t, leg)
    if total == 0:
        return 0
    account, instrument = t.accounts[leg.account], t.instruments[leg.instrument]
    direction = sign(leg.attributed)
    plain = instrument.spot or account.hedge
    room = room_of(instrument, account, t.account_instrument(leg), leg)
    part = PART_REDUCTION
    while left > 0 and part < PART_REDUCTION + REDUCTIONS_MAX:
        lots = min(left, t.instruments[leg.instrument].lot_max_market)
        reduce_only = 0
        if not plain and room > 0:
            lots = min(lots, room)
            reduce_only = 1
        slot, order = make_order(t, leg_index, cause, part, Kind.REDUCTION, -direction, lots, 0, 0)
        order.reduce_only = reduce_only
        leg.reduce_leaves += lots
        out.reductions.append(slot)
        room -= lots if reduce_only else 0
        left -= lots
        part += 1
    return total - left


def sending_order(t: Tables, out: Outcome) -> list[int]:
    """Reductions first, largest exposure first; openings in the order they were decided, a rotation (semantics 24).

    A plain reduction, the netted rest of a close, goes after every reduce-only one: sent before, it would turn the venue
    position round and the venue would refuse the reduce-only part (semantics 22).
    """

    def rank(slot: int) -> tuple[bool, int]:
        order = t.orders[slot]
        instrument = t.instruments[order.instrument]
        plain = not order.reduce_only and not order.position_side and not instrument.spot
        return plain, -notional(instrument, order.order_qty, instrument.mark)

    return sorted(out.reductions, key=rank) + out.openings


REJECT_REASON = {-2019: Reason.INSUFFICIENT_MARGIN, -1015: Reason.RATE_LIMITED, -1003: Reason.RATE_LIMITED}
"""Venue codes whose cause has a name of its own; anything else is ``venue_rejected`` with the code beside it."""


def placed_since(ts_decided: int, cid: bytes, epoch: int) -> int:
    """The earliest moment the venue can have seen an order. One of an earlier epoch was timed by a clock that may since
    have been set, so a wide slack is left before it."""
    return ts_decided if epoch_of(cid) == epoch else ts_decided - EPOCH_SLACK


def no_opening_in_flight(leg: LegRow) -> bool:
    """One opening order in flight per leg (semantics 23); one in doubt counts as in flight."""
    return leg.open_slot == NONE
