"""Station 5, the leg: one decision per (leader event, plan), and the release of what had to wait (semantics 1 to 7, 23).

The law after every input: ``target = attributed + open + deferred + residual``. In the rows: ``pending`` is the share of
the target that the opening in flight stands for, and shrinks with the target when the leader reduces meanwhile.
"""

from __future__ import annotations

from copyd.core.copy_instruction import book_missed, defer, ratio, reduce_target, set_anchor
from copyd.core.fixed import ONE, TARGET_MAX, sign
from copyd.core.order import Cause, make_opening, no_opening_in_flight, plan_reduction
from copyd.core.pnl import allocation_equity, profit
from copyd.core.risk import Opening, Size, gate, size
from copyd.core.rows import NONE, DecisionRow, FillEvent, LegRow, Note, OrderEndRow, Part, Reason
from copyd.core.state import Outcome, Tables


def decide(t: Tables, leg_index: int, event: FillEvent, out: Outcome) -> None:
    """Exactly one decision for this leg's plan: reduce first, exact; then open, if every rule lets it."""
    leg = t.legs[leg_index]
    decision = DecisionRow(plan=leg.plan, leg=leg_index, k=leg.k)
    cause = Cause(event.cause, 0, event.seq, event.now, event.ts_event)
    if event.reduce_qty:
        reduce_target(leg, event)
        decision.reduce_lots = plan_reduction(t, leg_index, cause, out)
        decision.reduce = reduce_part(leg, decision.reduce_lots)
        if event.qty_mid == 0:
            leg.detached = 0
            leave_dust(leg_index, leg, bytes(16), 0, out)
    if event.open_qty:
        decide_opening(t, leg_index, event, cause, decision, out)
        if event.live and decision.reason not in (Reason.PRICE_OUTLIER, Reason.NO_SHORT):
            # What nobody decided live is not owed (semantics 12, 13), nor what was sized by a price that was none, nor what
            # cannot be held there.
            book_missed(leg, decision.forgone)
    decision.target = leg.target
    out.decisions.append(decision)


def leave_dust(leg_index: int, leg: LegRow, cid: bytes, code: int, out: Outcome) -> None:
    """A leg that is closed to the lot leaves what is less than one to the follower, with an audit line (semantics 6)."""
    if leg.dust_q32 and leg.attributed == 0 and leg.target == 0 and leg.open_slot == NONE:
        leg.dust_q32 = 0
        out.ends.append(OrderEndRow(cid=cid, leg=leg_index, code=code, note=Note.DUST))


def reduce_part(leg: LegRow, lots: int) -> Part:
    """How the reducing part of a decision ended."""
    if lots:
        return Part.ORDER
    if leg.attributed and leg.reduce_leaves == 0:
        return Part.ROUNDED
    return Part.NONE


def decide_opening(
    t: Tables, leg_index: int, event: FillEvent, cause: Cause, decision: DecisionRow, out: Outcome
) -> None:
    """The opening part: ratio, gate, size; refused quantity is forgone in the same step (semantics 1)."""
    leg = t.legs[leg_index]
    if leg.deferred == 0:
        leg.replan = 0  # what was to be planned once more has been dropped
    plan = t.plans[leg.plan]
    worth = allocation_equity(plan, profit(t, plan, event.now)[0])
    k, no_ratio = ratio(
        leg, plan, worth, t.leaders[event.leader], t.positions[event.position], t.instruments[event.instrument], event
    )
    # Beyond what a leg may hold the decision records the bound itself: it is refused below.
    delta = event.open_side * min(k * event.open_qty, TARGET_MAX)
    decision.k, decision.delta = k, delta
    opening = Opening(
        event.open_side, 0, event.px, event.ts_event, t.params.max_event_age, bool(event.live), event.now
    )
    refusal = gate(t, leg, plan, opening) or no_ratio
    if not refusal and (k * event.open_qty > TARGET_MAX or abs(leg.target + delta) > TARGET_MAX):
        refusal = Reason.ABOVE_MAXIMUM
    if refusal:
        refuse(decision, refusal, delta)
    elif must_wait(leg, event.open_side):
        leg.target += delta
        defer(leg, delta, event.px, event.ts_event)
        decision.open = Part.DEFERRED
    else:
        opening.want = wanted(leg, event.open_side, delta)
        settle_size(t, leg_index, opening, size(t, leg, plan, opening), delta, cause, decision, out)
    if decision.open != Part.FORGONE:
        leg.k, leg.k_order = k, event.order_id
    # Also after a refusal: the leader holds more now, and his next reduction is measured on all of it.
    set_anchor(leg, event.qty_after)


def must_wait(leg: LegRow, side: int) -> bool:
    """An opening waits for the one in flight, for what already waits, and for every close of the leg (semantics 5, 23)."""
    return not no_opening_in_flight(leg) or leg.deferred != 0 or close_unsettled(leg, side)


def close_unsettled(leg: LegRow, side: int) -> bool:
    """The leg still holds the other side, or a close of it is on its way: refused, both would be at the venue (semantics 5)."""
    return sign(leg.attributed) == -side or leg.reduce_leaves != 0


def wanted(leg: LegRow, side: int, delta: int) -> int:
    """Q32 lots, >= 0, that an opening on ``side`` would have to send so that the leg meets ``target + delta``."""
    # The follower's own hand may have taken what a reduction in flight was sent for: no more than all of it can go.
    holding = side * (max(0, abs(leg.attributed) - leg.reduce_leaves) * ONE + leg.dust_q32)
    return max(0, side * (leg.target + delta - holding))


def refuse(decision: DecisionRow, reason: Reason, delta: int) -> None:
    """The whole opening leaves the target before it entered."""
    decision.open = Part.FORGONE
    decision.reason = reason
    decision.forgone = delta


def settle_size(
    t: Tables, leg_index: int, opening: Opening, sized: Size, delta: int, cause: Cause, decision: DecisionRow,
    out: Outcome,
) -> None:
    """Book what ``size`` said: an order, a wait, quantity carried, or quantity forgone.

    ``delta`` (Q32, signed) is the part of the target this opening is about; it is entered here.
    """
    leg = t.legs[leg_index]
    side = opening.side
    if sized.refused:
        refuse(decision, sized.reason, delta)
        return
    leg.target += delta
    if sized.defer_until:
        defer(leg, side * opening.want, opening.px, opening.ts_event)
        decision.open, decision.reason = Part.DEFERRED, sized.reason
        return
    if sized.lots == 0:
        decision.open = Part.CARRIED if sized.reason else Part.ROUNDED
        decision.reason = sized.reason
        return
    lots = sized.lots
    if sized.raised:
        raised = (lots << 32) - opening.want
        leg.target += side * raised
        decision.forgone = -side * raised
        decision.reason = Reason.BELOW_MINIMUM
    elif lots < opening.want >> 32:
        cut = ((opening.want >> 32) - lots) << 32
        leg.target -= side * cut
        decision.forgone = side * cut
        decision.reason = sized.reason
    lot_max = t.instruments[leg.instrument].lot_max
    if lots > lot_max:
        defer(leg, side * ((lots - lot_max) << 32), opening.px, opening.ts_event)
        lots = lot_max
    decision.open, decision.open_lots = Part.ORDER, lots
    out.openings.append(make_opening(t, leg_index, cause, side, lots, sized.limit_px, opening.px))


def release(t: Tables, leg_index: int, cause: Cause, out: Outcome) -> None:
    """Send what waited, when nothing stands before it any more; all rules are asked again (semantics 5, 23, 36).

    A dead opening planned once more may be older, up to ``replan_max_age``, but not outside its first price cap: either
    way out is then ``stale_event``.
    """
    leg = t.legs[leg_index]
    if leg.deferred == 0 or not no_opening_in_flight(leg):
        return
    side = sign(leg.deferred)
    if close_unsettled(leg, side):
        return
    plan = t.plans[leg.plan]
    age_max = t.params.replan_max_age if leg.replan else t.params.max_event_age
    px = leg.deferred_px_q16 >> 16
    opening = Opening(side, 0, px, leg.deferred_ts, age_max, True, cause.now)
    delta = leg.deferred
    replan = leg.replan
    target = leg.target
    leg.target -= delta
    leg.deferred = 0
    decision = DecisionRow(plan=leg.plan, leg=leg_index, k=leg.k, delta=delta, release=1)
    refusal = gate(t, leg, plan, opening)
    if refusal:
        refuse(decision, refusal, delta)
    else:
        opening.want = wanted(leg, side, delta)
        waiting = Cause(cause.cause, cause.aux, cause.seq, cause.now, opening.ts_event)
        settle_size(t, leg_index, opening, size(t, leg, plan, opening), delta, waiting, decision, out)
    if decision.open == Part.FORGONE and replan:
        decision.reason = Reason.STALE_EVENT
    if decision.open != Part.DEFERRED:
        leg.replan = 0
    book_missed(leg, decision.forgone)
    if leg.target != target:
        set_anchor(leg, t.positions[leg.leader_position].qty)
    decision.target = leg.target
    out.decisions.append(decision)


def sweep(t: Tables, cause: Cause, out: Outcome) -> None:
    """The timer: reductions whose back-off has passed, openings that still wait."""
    for leg_index in range(len(t.legs)):
        sweep_leg(t, leg_index, cause, out)


def retry_due(t: Tables, leg: LegRow, now: int) -> bool:
    """The back-off has passed; one that ends further ahead than any back-off may was set before the clock was put back."""
    return leg.retry_ts <= now or leg.retry_ts > now + t.params.retry_max


def sweep_leg(t: Tables, leg_index: int, cause: Cause, out: Outcome) -> None:
    """The timer on one leg."""
    leg = t.legs[leg_index]
    if leg.retry_ts and retry_due(t, leg, cause.now):
        leg.retry_ts = 0
        plan_reduction(t, leg_index, cause, out)
    if leg.deferred:
        release(t, leg_index, cause, out)
