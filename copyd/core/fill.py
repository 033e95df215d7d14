"""Station 4, the fill: what the venue said about an order, booked once (semantics 34 to 36, rule 23).

Quantities are booked by the cumulative amount, so a reply and a stream report of the same fill count once, in any order.
A terminal state absorbs; a fill that comes after it is booked all the same, and what it opened too much is closed.
"""

from __future__ import annotations

from collections.abc import Iterable

from copyd.core.copy_instruction import book_missed, defer, set_anchor, set_off
from copyd.core.fixed import ONE, mul_div_trunc, sign
from copyd.core.instrument import fee_value, notional
from copyd.core.order import REJECT_REASON, Cause, plan_reduction
from copyd.core.order_life import Evidence, evidence, next_state
from copyd.core.pnl import realise
from copyd.core.position import leave_dust, release
from copyd.core.protection import give_back, keep
from copyd.core.rows import (
    NONE,
    TERMINAL,
    AccountRow,
    Kind,
    LegRow,
    Note,
    OrderEndRow,
    OrderRow,
    OrderState,
    Reason,
    ReportKind,
    ReportRow,
    TradeRow,
)
from copyd.core.state import Outcome, Tables

REDUCE_ONLY_REJECTED = -2022
POSITION_SIDE_REJECTED = -4061
MIN_NOTIONAL_REJECTED = -4164
NO_BALANCE_REJECTED = -2019
FILTER_REJECTED = -1013
"""What a venue answers to an order below its least quantity, and on spot its least value, among others."""


def apply_reports(t: Tables, reports: Iterable[ReportRow], now: int, seq: int, out: Outcome) -> None:
    """Book every report; then, for each leg they touched, close any excess and release what waited for it."""
    touched: dict[int, Cause] = {}
    for report in reports:
        book_report(t, report, now, seq, touched, out)
    settle_legs(t, touched, out)


def settle_legs(t: Tables, touched: dict[int, Cause], out: Outcome) -> None:
    """What follows of a batch, sized when all of it is booked; each leg by the first report that touched it."""
    for leg_index, cause in touched.items():
        leg = t.legs[leg_index]
        set_off(leg)
        if leg.retry_ts == 0:
            plan_reduction(t, leg_index, cause, out)
        release(t, leg_index, cause, out)
        if t.plans[leg.plan].keeping and t.plans[leg.plan].stopped_by:
            keep(t, t.plans[leg.plan])


def book_report(
    t: Tables, report: ReportRow, now: int, seq: int, touched: dict[int, Cause], out: Outcome
) -> None:
    """Book one report; ``touched`` learns of the leg whose quantity or orders it changed."""
    if report.kind == ReportKind.BALANCE:
        t.accounts[report.account].balance_e8 = report.cost_e8
        return
    slot = t.by_cid.get(report.cid)
    if slot is None:
        out.ends.append(OrderEndRow(cid=report.cid, leg=NONE, code=report.code, note=Note.UNKNOWN_ORDER))
        return
    order = t.orders[slot]
    if report.venue_order_id:
        order.venue_order_id = report.venue_order_id
    kept_back = book_trade(t, slot, order, report) if report.kind == ReportKind.TRADE else 0
    was_terminal = order.state in TERMINAL
    hole = lacking(t.legs[order.leg])
    filled = book_quantity(t, order, report, now)
    if not filled:
        correct_value(t, order, report)
    if kept_back:
        take_base_fee(t, order, report, kept_back, now)
    if filled and order.kind == Kind.REDUCTION:
        forgo_hole(t, order, hole, out)
    if filled and was_terminal:
        out.ends.append(OrderEndRow(cid=order.cid, leg=order.leg, code=report.code, note=Note.LATE_FILL))
    ended = False
    if not was_terminal:
        ended = advance(t, slot, order, report, now, out)
    if (filled or ended) and order.leg not in touched:
        touched[order.leg] = Cause(order.cid, report_aux(report, ended), seq, now, order.ts_event)


def report_aux(report: ReportRow, ended: bool) -> int:
    """Which of an order's reports a cause was: the end at a quantity is another than the report of that quantity was."""
    return report.cum_qty << 8 | ended << 7 | report.kind


def book_trade(t: Tables, slot: int, order: OrderRow, report: ReportRow) -> int:
    """Price and fee of one trade, once per trade id; returns the Q32 lots that the fee kept back of what was bought."""
    key = (slot, report.trade_id)
    if key in t.booked:
        return 0
    t.booked.add(key)
    t.trades.append(TradeRow(report.trade_id, slot))
    order.exec_qty += report.last_qty
    order.exec_cost_e8 += notional(t.instruments[order.instrument], report.last_qty, report.last_px)
    if not report.fee_base:
        order.fee_e8 += report.fee_e8
        t.plans[order.plan].commission_e8 += report.fee_e8
        return 0
    return max(0, min(report.fee_e8, order.order_qty * ONE)) if order.side > 0 else 0


def take_base_fee(t: Tables, order: OrderRow, report: ReportRow, fee_q32: int, now: int) -> None:
    """A commission in the base asset: the leg holds less by it, exactly, and should; nothing is forgone or bought back for it.

    Whole lots leave the leg and the venue position, what is left below a lot is the leg's dust. In money it is a commission at
    the price of the fill, rounded up, and no cost of what is held.
    """
    instrument, leg = t.instruments[order.instrument], t.legs[order.leg]
    value = fee_value(instrument, fee_q32, report.last_px or order.limit_px or instrument.mark)
    order.fee_e8 += value
    t.plans[order.plan].commission_e8 += value
    real = max(0, leg.attributed) * ONE + leg.dust_q32
    taken = min(fee_q32, real)
    if taken == 0:
        return
    lots = leg.attributed - (real - taken >> 32)
    leg.attributed -= lots
    leg.dust_q32 = real - taken & ONE - 1
    leg.cost_e8 = max(0, leg.cost_e8 - value)
    # Only the leader ends a leg: as long as it is wanted, the least there is of it stays wanted.
    leg.target -= max(0, min(taken, leg.target - leg.pending - leg.deferred - 1))
    set_anchor(leg, t.positions[leg.leader_position].qty)
    ai = t.account_instrument(leg)
    ai.net -= lots
    ai.ts_active = now


def fill_value(t: Tables, order: OrderRow, report: ReportRow, filled: int) -> int:
    """Value in e8 of newly booked lots: the venue's own figure, else the trade's price, else limit or mark.

    A trade behind one that was never told brings the lots of both: its price is only its own.
    """
    instrument = t.instruments[order.instrument]
    if tells_value(order, report, filled):
        return report.cost_e8 - order.cost_e8
    if report.last_px:
        return notional(instrument, filled, report.last_px)
    return notional(instrument, filled, order.limit_px or instrument.mark)


def tells_value(order: OrderRow, report: ReportRow, filled: int) -> bool:
    """Whether the cumulative value of the report is what counts: a trade's own price is exact, for its own lots."""
    by_price = report.kind == ReportKind.TRADE and report.last_px > 0 and filled <= report.last_qty
    return report.cost_e8 > order.cost_e8 and not by_price


def is_estimate(order: OrderRow, report: ReportRow, filled: int) -> bool:
    """Whether the value of what is booked now is our own guess: the report tells neither value nor the price of all of it."""
    by_price = report.last_px > 0 and (report.kind != ReportKind.TRADE or filled <= report.last_qty)
    return not by_price and not tells_value(order, report, filled)


def correct_value(t: Tables, order: OrderRow, report: ReportRow) -> None:
    """The venue tells what the filled lots were worth, of which we had only a guess: the difference goes where the guess went.

    When every trade of the order has been told, they are what counts: a value by its average price is rounded.
    """
    told = 0
    if report.kind == ReportKind.TRADE and order.exec_qty == order.cum_qty:
        told = order.exec_cost_e8
    elif report.kind != ReportKind.TRADE and report.cum_qty == order.cum_qty and order.estimated:
        told = report.cost_e8
    if told <= 0:
        return
    difference = told - order.cost_e8
    order.cost_e8 = told
    order.estimated = 0
    leg, plan = t.legs[order.leg], t.plans[order.plan]
    # Of an opening, the lots that are still held had another cost; of the others, and of a close, the result was another.
    held = min(abs(leg.attributed), order.cum_qty) if sign(leg.attributed) == order.side else 0
    kept = mul_div_trunc(difference, held, order.cum_qty) if order.kind == Kind.OPENING else 0
    leg.cost_e8 += kept
    plan.realised_e8 -= order.side * (difference - kept)


def lacking(leg: LegRow) -> int:
    """Q32 lots by which the leg holds less than it should, with nothing on its way; negative where it holds too much."""
    return sign(leg.target) * (leg.target - leg.pending - leg.deferred - leg.attributed * ONE - leg.dust_q32)


def forgo_hole(t: Tables, order: OrderRow, before: int, out: Outcome) -> None:
    """A close took what the leg should hold, because the hand had taken what it was for: that is not bought back.

    What was lacking before (quantity carried below the venue's minimum) stays wanted.
    """
    leg = t.legs[order.leg]
    hole = lacking(leg)
    if hole >= ONE and hole > max(before, 0):
        lost = sign(leg.target) * (hole - max(before, 0))
        leg.target -= lost
        set_anchor(leg, t.positions[leg.leader_position].qty)
        out.ends.append(OrderEndRow(forgone=lost, leg=order.leg, reason=Reason.LEG_DETACHED))


def on_short_side(order: OrderRow, account: AccountRow) -> bool:
    """Which of a hedge account's two positions the order moves; its mode may have changed since the order was sent."""
    if not account.hedge or order.position_side:
        return bool(account.hedge) and order.position_side == 2
    return (order.side < 0) == (order.kind == Kind.OPENING)


def book_quantity(t: Tables, order: OrderRow, report: ReportRow, now: int) -> int:
    """Raise the order's cumulative quantity to the report's; move leg, account and venue position by the difference."""
    filled = min(report.cum_qty, order.order_qty) - order.cum_qty
    if filled <= 0:
        return 0
    leaves = order.order_qty - order.cum_qty
    value = fill_value(t, order, report, filled)
    order.estimated |= is_estimate(order, report, filled)
    order.cum_qty += filled
    order.cost_e8 += value
    leg, account = t.legs[order.leg], t.accounts[order.account]
    ai = t.account_instrument(leg)
    ai.ts_active = now
    held, beyond = abs(leg.attributed), 0
    # An opening told late may meet a leg that has turned since: it closes that side first, like any fill against it.
    gone = min(filled, held) if sign(leg.attributed) == -order.side else 0
    gone_value = mul_div_trunc(value, gone, filled)
    cost = mul_div_trunc(leg.cost_e8, gone, held) if held else 0
    margin = mul_div_trunc(leg.margin_e8, gone, held) if held else 0
    leg.cost_e8 -= cost
    leg.margin_e8 -= margin
    account.margin_e8 -= margin
    realise(t.plans[order.plan], -order.side, gone_value, cost)
    spot = t.instruments[order.instrument].spot
    if spot:
        account.balance_e8 -= order.side * value  # paid, or received: there is no margin that could be given back
    if order.kind == Kind.OPENING:
        if gone == held:
            leg.ts_open = min(order.ts_decided, now)  # the clock may have been put back between the two
        if order.state not in TERMINAL:
            share = leg.pending if filled == leaves else mul_div_trunc(leg.pending, filled, leaves)
            leg.pending -= share
            leg.open_leaves -= filled
            freed = order.reserve_e8 * filled // leaves
            order.reserve_e8 -= freed
            account.reserved_e8 -= freed
        margin = 0 if spot else (value - gone_value) // max(1, ai.leverage)
        leg.cost_e8 += value - gone_value
        leg.margin_e8 += margin
        account.margin_e8 += margin
    else:
        if order.state not in TERMINAL:
            leg.reduce_leaves -= filled
        # What closed more than the leg still had, the follower's own hand had taken before: it is his, the leg ends at 0.
        beyond = order.side * (filled - gone)
    leg.attributed += order.side * filled - beyond
    if on_short_side(order, account):
        ai.net_short += order.side * filled
        ai.unattributed_short += beyond
    else:
        ai.net += order.side * filled
        ai.unattributed += beyond
    return filled


def advance(t: Tables, slot: int, order: OrderRow, report: ReportRow, now: int, out: Outcome) -> bool:
    """Move an unfinished order's state by the table of ``order_life``; True when the order has ended."""
    if report.code:
        order.code = report.code
    proof = evidence(report.kind, report.status, order.cum_qty, order.order_qty)
    if proof == Evidence.ABSENT and order.cum_qty:
        out.ends.append(OrderEndRow(cid=order.cid, leg=order.leg, code=report.code, note=Note.DEAD_BUT_FILLED))
    if proof == Evidence.CONFLICT and order.state != OrderState.HELD:
        out.ends.append(OrderEndRow(cid=order.cid, leg=order.leg, code=report.code, note=Note.HELD))
    order.state = next_state(
        OrderState(order.state), proof, report.status, order.cum_qty, order.venue_order_id)
    if order.state not in TERMINAL:
        return False
    if order.kind == Kind.OPENING:
        end_opening(t, slot, order, report, now, out)
    else:
        end_reduction(t, slot, order, report, now, out)
    return True


def end_opening(t: Tables, slot: int, order: OrderRow, report: ReportRow, now: int, out: Outcome) -> None:
    """What an opening left unfilled leaves the target, or is planned once more if the order never was (semantics 1, 36)."""
    leg = t.legs[order.leg]
    t.accounts[order.account].reserved_e8 -= order.reserve_e8
    order.reserve_e8 = 0
    if leg.open_slot != slot:
        return
    rest = leg.pending
    leg.pending = leg.open_leaves = 0
    leg.open_slot = NONE
    if rest == 0:
        return
    never_was = order.state == OrderState.DEAD or report.kind == ReportKind.NOT_SENT
    young = now - order.ts_event <= t.params.replan_max_age
    if never_was and young and not order.replanned and sign(leg.deferred) in (0, sign(rest)):
        defer(leg, rest, order.ref_px, order.ts_event)
        leg.replan = 1
        leg.attempt = (leg.attempt + 1) & 0xFF
        out.ends.append(OrderEndRow(order.cid, 0, order.leg, report.code, Reason.NONE, Note.REPLANNED))
        return
    leg.target -= rest
    book_missed(leg, rest)
    set_anchor(leg, t.positions[leg.leader_position].qty)
    if order.state == OrderState.REJECTED and order.code == POSITION_SIDE_REJECTED:
        out.suspects.append(slot)
    reason = end_reason(order, never_was)
    out.ends.append(OrderEndRow(order.cid, rest, order.leg, report.code, reason, Note.NONE))


def end_reason(order: OrderRow, never_was: bool) -> Reason:
    """Name of the rule that left quantity unfilled."""
    if never_was:
        return Reason.STALE_EVENT
    if order.state == OrderState.REJECTED:
        return REJECT_REASON.get(order.code, Reason.VENUE_REJECTED)
    return Reason.SLIPPAGE


def is_dust(t: Tables, leg: LegRow, order: OrderRow, rest: int) -> bool:
    """The last of a leg, which the venue will not trade: below its minimum, all the leg still is (semantics 6).

    Only on spot, or where an opposite position nets the leg, is its close a plain order; reduce-only ones have no least value.
    """
    instrument = t.instruments[order.instrument]
    plain = not order.reduce_only and not order.position_side
    last = leg.target == 0 and leg.reduce_leaves == 0 and abs(leg.attributed) == rest and leg.open_slot == NONE
    few = rest < instrument.lot_min
    too_small = order.code == MIN_NOTIONAL_REJECTED or ((few or bool(instrument.spot)) and order.code == FILTER_REJECTED)
    worthless = plain and 0 < notional(instrument, rest, instrument.mark) < instrument.min_notional_e8
    return order.state == OrderState.REJECTED and too_small and last and (few or worthless)


def write_off(t: Tables, leg: LegRow, order: OrderRow, out: Outcome) -> None:
    """Dust becomes the follower's own, with an audit line (semantics 6)."""
    give_back(t, t.plans[order.plan], leg)
    leg.retries = 0
    out.ends.append(OrderEndRow(cid=order.cid, leg=order.leg, code=order.code, note=Note.DUST))


def contradicts_books(t: Tables, order: OrderRow) -> bool:
    """Whether the refusal of a reduction says that our picture of the account is wrong: nothing there to reduce, another mode, or
    on spot less to be sold than we believe. The venue is asked then."""
    if order.code == NO_BALANCE_REJECTED:
        return bool(t.instruments[order.instrument].spot)
    return order.code in (REDUCE_ONLY_REJECTED, POSITION_SIDE_REJECTED)


def end_reduction(t: Tables, slot: int, order: OrderRow, report: ReportRow, now: int, out: Outcome) -> None:
    """A reduction that came back unfilled is sent again under a new attempt: after evidence, with back-off (semantics 17)."""
    leg = t.legs[order.leg]
    rest = order.order_qty - order.cum_qty
    leg.reduce_leaves -= rest
    leave_dust(order.leg, leg, order.cid, order.code, out)
    if rest == 0:
        leg.retries = 0
        leg.retry_ts = 0
        return
    leg.attempt = (leg.attempt + 1) & 0xFF
    # Also where no byte left: a gateway without a connection would answer at once, for ever.
    wait = min(t.params.retry_min << min(leg.retries, 16), t.params.retry_max)
    leg.retry_ts = now + wait
    leg.retries = min(leg.retries + 1, 16)
    dead = order.state == OrderState.DEAD or report.kind == ReportKind.NOT_SENT
    if is_dust(t, leg, order, rest):
        write_off(t, leg, order, out)
        return
    if contradicts_books(t, order) and not dead:
        out.suspects.append(slot)
    out.ends.append(OrderEndRow(order.cid, 0, order.leg, report.code, Reason.NONE, Note.REDUCTION_RETRY))
