"""Station 2, the copy instruction: how much of what the leader did is this follower's (semantics 1 to 4).

Pure arithmetic on one leg. Targets are exact in Q32; only orders are rounded to lots.
"""

from __future__ import annotations

from copyd.core.fixed import ONE, PPM, TARGET_MAX, mul_div_trunc, sign
from copyd.core.rows import (
    FillEvent,
    InstrumentRow,
    LeaderPositionRow,
    LeaderRow,
    LegRow,
    Mode,
    PlanRow,
    RatioSnapshot,
    Reason,
)

K_MAX = 1 << 60


def ratio(
    leg: LegRow, plan: PlanRow, worth_e8: int, leader: LeaderRow, position: LeaderPositionRow, instrument: InstrumentRow,
    event: FillEvent,
) -> tuple[int, Reason]:
    """``k``, follower lots per leader lot in Q32, and why there is none (semantics 2, 4 and 16).

    The ratio modes say how much base asset the follower buys per unit the leader does: ``event.lots_mul / lots_div`` puts that
    into lots of both sides. Amount and risk divide by what the leader's order would be worth in the follower's lots.

    A ratio mode keeps the ``k`` of the leg for as long as the leg's target is not 0. Amount and risk modes size each
    leader order by itself. ``worth_e8``: the plan's allocation equity (``pnl.allocation_equity``); a plan that has lost all
    of it opens nothing more in proportion.
    """
    if plan.mode not in (Mode.FIXED_AMOUNT, Mode.RISK_BASED) and leg.target != 0:
        if plan.ratio_snapshot == RatioSnapshot.POSITION_OPEN:
            return leg.k, Reason.NONE
        if plan.ratio_snapshot == RatioSnapshot.EACH_ORDER and leg.k_order == event.order_id:
            return leg.k, Reason.NONE
    if worth_e8 <= 0 and plan.mode not in (Mode.FIXED_AMOUNT, Mode.RISK_BASED):
        return 0, Reason.TOTAL_LOSS
    if plan.mode == Mode.PROPORTIONAL:
        over, under = worth_e8 * ONE, leader.equity_e8
    elif plan.mode == Mode.MULTIPLIER:
        over, under = worth_e8 * plan.multiplier_ppm * ONE, leader.equity_e8 * PPM
    elif plan.mode == Mode.FIXED_AMOUNT:
        return _bounded(plan.amount_e8 * instrument.value_div * ONE, event.order_qty * event.px * instrument.value_mul)
    elif plan.mode == Mode.FIXED_RATIO:
        over, under = worth_e8 * (1 if instrument.spot else plan.leverage) * ONE, leader.equity_e8 * position.leverage
    else:
        if plan.assumed_stop_bps <= 0:
            return 0, Reason.NO_STOP
        return _bounded(
            plan.allocation_e8 * plan.risk_bps * instrument.value_div * ONE,
            plan.assumed_stop_bps * event.order_qty * event.first_px * instrument.value_mul)
    return _bounded(over * event.lots_mul, under * event.lots_div)


def _bounded(over: int, under: int) -> tuple[int, Reason]:
    """``over / under`` truncated once, where there is such a ratio and a leg can bear it."""
    if under <= 0:
        return 0, Reason.LEADER_EQUITY_STALE
    k = over // under
    return (k, Reason.NONE) if k < K_MAX else (0, Reason.ABOVE_MAXIMUM)


def reduce_target(leg: LegRow, event: FillEvent) -> None:
    """The reducing part on one leg: ``anchor_target x leader_after / leader_anchor`` (semantics 3 and 42).

    The share on the wire shrinks with it, what waits to be sent is dropped first; leader flat: all are exactly 0.
    """
    leg.missed = mul_div_trunc(leg.missed, event.qty_mid, event.qty_before)
    if leg.target == 0 and leg.pending == 0 and leg.deferred == 0:
        return
    if event.qty_mid == 0 or leg.anchor_leader == 0:
        leg.target = leg.pending = leg.deferred = 0
        return
    leg.target = mul_div_trunc(leg.anchor_target, event.qty_mid, leg.anchor_leader)
    leg.pending = mul_div_trunc(leg.pending, event.qty_mid, event.qty_before)
    leg.deferred = mul_div_trunc(leg.deferred, event.qty_mid, event.qty_before)
    drop_deferred(leg)


def drop_deferred(leg: LegRow) -> None:
    """After a reduction, what waits is dropped first (semantics 23): nothing is closed only to be opened again.

    What the order on the wire would bring beyond its share stands in for it, then what the leg holds too much; only what
    neither covers goes on waiting.
    """
    side = sign(leg.target)
    waits = abs(leg.deferred)
    if sign(leg.pending) == side:
        taken = min(waits, leg.open_leaves * ONE - abs(leg.pending))
        leg.pending += side * taken
        waits -= taken
    held = abs(leg.attributed) - leg.reduce_leaves if sign(leg.attributed) == side else 0
    uncovered = side * (leg.target - leg.pending) - held * ONE
    leg.deferred = side * max(0, min(uncovered, waits))


def set_off(leg: LegRow) -> None:
    """What waits is set off against what the leg holds too much: nothing is closed only to be opened again (semantics 23)."""
    side = sign(leg.deferred)
    if side == 0 or sign(leg.attributed) != side:
        return
    held = (abs(leg.attributed) - leg.reduce_leaves) * ONE
    over = held - max(0, side * (leg.target - leg.pending - leg.deferred))
    if over <= 0:
        return
    leg.deferred -= side * min(over, abs(leg.deferred))
    if leg.deferred == 0:
        leg.replan = 0


def book_missed(leg: LegRow, forgone: int) -> None:
    """Forgone since the leader was flat (Q32, signed), bounded: ``target + missed`` is what copying without limits would hold."""
    leg.missed = max(-TARGET_MAX, min(TARGET_MAX, leg.missed + forgone))


def set_anchor(leg: LegRow, leader_qty: int) -> None:
    """Reductions from now on are measured from this target and this leader quantity (semantics 42)."""
    leg.anchor_target = leg.target
    leg.anchor_leader = leader_qty


def defer(leg: LegRow, part: int, px: int, ts_event: int) -> None:
    """Add ``part`` (Q32, signed, not 0) to what waits, at the quantity-weighted leader price and oldest time (semantics 23)."""
    held, new = abs(leg.deferred), abs(part)
    if held == 0:
        leg.deferred_px_q16 = px << 16
        leg.deferred_ts = ts_event
    else:
        leg.deferred_px_q16 = (leg.deferred_px_q16 * held + (px << 16) * new) // (held + new)
        leg.deferred_ts = min(leg.deferred_ts, ts_event)
    leg.deferred += part
