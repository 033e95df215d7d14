"""Loss limits that act by themselves, on every mark and every equity of the leader, not only on trades (semantics 18, 19).

A stop names its limit in ``stopped_by`` and holds until the plan is resumed by name. What it does to the legs is the plan's
``loss_policy``. It never stands before a reduction: openings are refused by the gate, reductions do not ask it.
"""

from __future__ import annotations

from copyd.core.copy_instruction import set_anchor
from copyd.core.fixed import BPS, mul_div_trunc, sign
from copyd.core.instrument import notional
from copyd.core.order import Cause, due, plan_reduction
from copyd.core.pnl import allocation_equity, profit, realise
from copyd.core.risk import loss_reason, standing
from copyd.core.rows import NONE, LegRow, LossPolicy, PlanRow, PlanState, Reason, StopRow
from copyd.core.state import Outcome, Tables

FLOW_SLACK = 2_000_000_000
"""A snapshot is read a little after it was asked for, ns."""


def stop_losses(t: Tables, cause: Cause, out: Outcome) -> None:
    """Hold every plan that is not stopped against its limits, at the marks in the tables.

    The plan's own loss is known only from fresh marks: without them none of its limits is reached.
    """
    for index in range(len(t.plans)):
        hold(t, index, cause, out)


def hold(t: Tables, index: int, cause: Cause, out: Outcome) -> None:
    """One plan against its limits."""
    plan = t.plans[index]
    if is_done(t, plan):
        return
    earned, fresh = profit(t, plan, cause.now)
    reason = loss_reason(t, plan, earned, fresh)
    if reason:
        stop(t, index, reason, earned, cause, out)


def losses_due(t: Tables, now: int) -> bool:
    """True when ``stop_losses`` would stop a plan."""
    for plan in t.plans:
        if not is_done(t, plan):
            earned, fresh = profit(t, plan, now)
            if loss_reason(t, plan, earned, fresh):
                return True
    return False


def is_done(t: Tables, plan: PlanRow) -> bool:
    """Stopped by a limit, or stopped by command and flat: one that is stopped and still holds can still lose."""
    flat = not any(leg.attributed for leg in t.plan_legs(plan))
    return bool(plan.stopped_by) or (plan.state == PlanState.STOPPED and flat)


def stop(t: Tables, index: int, reason: Reason, earned: int, cause: Cause, out: Outcome) -> None:
    """Stop one plan: openings end here, and its legs become what the policy says."""
    plan = t.plans[index]
    loss, limit = measured(t, plan, reason, earned)
    plan.stopped_by = reason
    held = 0
    at = plan.first_leg
    while at != NONE:
        leg = t.legs[at]
        held += leg.attributed != 0
        if plan.loss_policy == LossPolicy.CLOSE_NOW:
            leg.target = leg.pending = leg.deferred = leg.anchor_target = leg.missed = 0
            leg.replan = 0
            leg.retry_ts = 0
            plan_reduction(t, at, cause, out)
        elif plan.loss_policy == LossPolicy.CLOSE_GRACEFULLY:
            leg.detached = int(t.positions[leg.leader_position].qty != 0)
        at = leg.next_leg
    if plan.loss_policy == LossPolicy.KEEP:
        keep(t, plan)
    equity = allocation_equity(plan, earned)
    out.stops.append(StopRow(loss, limit, equity, index, min(held, 0xFFFF), reason, plan.loss_policy))


def measured(t: Tables, plan: PlanRow, reason: Reason, earned: int) -> tuple[int, int]:
    """(loss, limit) in e8 of the rule that binds; limits rounded down."""
    if reason == Reason.LEADER_DRAWDOWN:
        peak = plan.leader_peak_e8
        return peak - standing(t.leaders[plan.leader]), peak * plan.leader_drawdown_bps // BPS
    if reason == Reason.TOTAL_LOSS:
        return plan.loss_base_e8 - earned, plan.allocation_e8 * plan.total_loss_bps // BPS
    return plan.day_pnl_e8 - earned, max(0, plan.day_equity_e8) * plan.daily_loss_bps // BPS


def keep(t: Tables, plan: PlanRow) -> None:
    """What the legs should hold becomes the follower's own, each as soon as nothing of it is on the wire or due to be closed.

    A close that was due is finished first, but for a part the venue takes no order for; until a leg is given back the leader's
    own closes still act on it.
    """
    plan.keeping = 0
    for leg in t.plan_legs(plan):
        if leg.open_slot == NONE and leg.reduce_leaves == 0 and leg.retry_ts == 0 and due(t, leg) == 0:
            give_back(t, plan, leg)
            continue
        leg.target -= leg.deferred
        leg.deferred = leg.missed = 0
        leg.replan = 0
        set_anchor(leg, t.positions[leg.leader_position].qty)
        plan.keeping = 1


def give_back(t: Tables, plan: PlanRow, leg: LegRow) -> None:
    """The leg ends: its quantity is not ours to touch any more, its profit up to the mark is the plan's."""
    ai, account, instrument = t.account_instrument(leg), t.accounts[leg.account], t.instruments[leg.instrument]
    if account.hedge and leg.attributed < 0:
        ai.unattributed_short += leg.attributed
    else:
        ai.unattributed += leg.attributed
    if instrument.mark > 0:
        realise(plan, sign(leg.attributed), notional(instrument, abs(leg.attributed), instrument.mark), leg.cost_e8)
    account.margin_e8 -= leg.margin_e8
    leg.attributed = leg.cost_e8 = leg.margin_e8 = leg.dust_q32 = 0
    leg.target = leg.pending = leg.deferred = leg.anchor_target = leg.missed = 0
    leg.replan = 0
    leg.retry_ts = 0


def follow_peak(t: Tables, leader: int) -> None:
    """The leader's highest equity since each plan began, where two snapshots in a row say so (semantics 18)."""
    equity = min(t.leaders[leader].equity_e8, t.leaders[leader].equity_before_e8)
    for plan in t.plans:
        if plan.leader == leader:
            plan.leader_peak_e8 = max(plan.leader_peak_e8, equity)


def leader_flow(t: Tables, leader: int, amount_e8: int, ts: int) -> None:
    """The leader paid in (negative: took out): neither profit nor loss, so his peak moves in the proportion his equity does.

    The latest snapshot holds it when it was asked for later, and does not when it was asked for ``FLOW_SLACK`` earlier; between
    the two nobody knows, and the lower peak beside the higher equity is taken: no payment ever makes a drawdown.
    """
    row = t.leaders[leader]
    equity = row.equity_e8
    inside, outside = ts <= row.ts_told + FLOW_SLACK, ts > row.ts_told
    for plan in t.plans:
        if plan.leader == leader:
            peaks = [_moved(plan.leader_peak_e8, equity - amount_e8, amount_e8, True)] if inside else []
            peaks += [_moved(plan.leader_peak_e8, equity, amount_e8, False)] if outside else []
            plan.leader_peak_e8 = min(peaks)
    row.equity_before_e8 += amount_e8
    if outside:
        row.equity_e8 = equity + max(0, amount_e8) if inside else equity + amount_e8


def _moved(peak: int, before: int, amount_e8: int, taken: bool) -> int:
    """A peak when equity moved from ``before`` by a payment; ``taken``: the payment may have been taken for a new peak."""
    after = before + amount_e8
    if before <= 0 or after <= 0:
        return peak
    if taken and amount_e8 > 0 and peak <= after:
        return after
    return mul_div_trunc(peak, after, before)


def begin_day(t: Tables, now: int, anew: bool) -> None:
    """The daily limit counts from what each plan is worth now; where no fresh mark says, from the first one that does.

    ``anew``: a day begins for every plan, else only for those that have waited for a mark.
    """
    for plan in t.plans:
        if anew or plan.day_pending:
            earned, fresh = profit(t, plan, now)
            plan.day_pending = int(not fresh)
            if fresh:
                plan.day_pnl_e8 = earned
                plan.day_equity_e8 = allocation_equity(plan, earned)
