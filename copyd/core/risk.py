"""The gate between instruction and order: refusals and caps for openings, in their order (semantics 18).

Nothing here is ever asked about a reduction: functions take an ``Opening``, and no reduction can be made into one.
"""

from __future__ import annotations

from dataclasses import dataclass

from copyd.core.fixed import BPS, PPM, SATURATED, sign
from copyd.core.instrument import leverage_of, limit_price, lots_for, min_lots, notional, slippage_cap
from copyd.core.pnl import profit
from copyd.core.rows import (
    AccountInstrumentRow,
    AccountRow,
    InstrumentRow,
    LeaderPositionRow,
    LeaderRow,
    LegRow,
    MinPolicy,
    OnInsufficient,
    PlanRow,
    PlanState,
    Reason,
)
from copyd.core.state import Tables

MARGIN_CALL_PAUSE = 600_000_000_000
"""A leader whom the venue warns may be liquidated next: nobody opens behind him for this long, ns."""
PRICE_BAND_BPS = 1_000
"""A leader's fill is younger than ``max_event_age``: no market that can be copied moves by a tenth in that time."""


@dataclass(slots=True)
class Opening:
    """An opening that asks to be sent: ``want`` Q32 lots >= 0 on ``side``, measured against ``px`` ticks."""

    side: int
    want: int
    px: int
    ts_event: int
    age_max: int
    live: bool
    now: int


@dataclass(slots=True)
class Size:
    """What the caps leave: ``lots`` to send now (0 = none), ``reason`` of the first rule that bound."""

    lots: int
    reason: Reason
    limit_px: int
    raised: bool = False
    refused: bool = False
    defer_until: int = 0


_STATE_REASON = {
    PlanState.PAUSED: Reason.PLAN_PAUSED,
    PlanState.CLOSE_ONLY: Reason.PLAN_CLOSE_ONLY,
    PlanState.STOPPED: Reason.PLAN_STOPPED,
}


def gate(t: Tables, leg: LegRow, plan: PlanRow, opening: Opening) -> Reason:
    """The refusals that need no quantity; the first that binds."""
    leader, instrument = t.leaders[plan.leader], t.instruments[leg.instrument]
    ai = t.account_instrument(leg)
    p = t.params
    if p.killed or leader.killed or plan.killed or instrument.halted:
        return Reason.KILL_SWITCH
    if plan.state != PlanState.ACTIVE:
        return _STATE_REASON[PlanState(plan.state)]
    if leader.state != PlanState.ACTIVE:
        return _STATE_REASON[PlanState(leader.state)]
    # A hedge-mode leader's leg needs a hedge-mode account: on a one-way one his two sides would net (semantics 25).
    if not ai.ready or leverage_of(instrument, ai.leverage) < 1 or (leg.side and not t.accounts[leg.account].hedge):
        return Reason.LEG_NOT_READY
    if leg.detached:
        return Reason.LEG_DETACHED
    if not plan.instruments >> leg.instrument & 1:
        return Reason.INSTRUMENT_NOT_ALLOWED
    if instrument.spot and opening.side < 0:
        return Reason.NO_SHORT
    if not leader.eligible or in_margin_call(leader, opening.now):
        return Reason.LEADER_NOT_ELIGIBLE
    lead = t.positions[leg.leader_position]
    traded = t.instruments[lead.instrument]
    # What he holds is worth his instrument's price; of a leg in a mirror of it the opening's price is another's.
    px = opening.px if lead.instrument == leg.instrument else traded.mark
    if exceeds_declared(leader, lead, traded, px):
        return Reason.LEADER_NOT_ELIGIBLE
    if not opening.live:
        return Reason.OBSERVED
    if not t.positions[leg.leader_position].synced:
        return Reason.LEADER_UNSYNCED
    if leader.equity_e8 <= 0 or opening.now - leader.ts_equity > p.equity_max_age:
        return Reason.LEADER_EQUITY_STALE
    if instrument.bid <= 0 or instrument.ask <= 0 or opening.now - instrument.ts_quote > p.quote_max_age:
        return Reason.QUOTE_STALE
    if is_outlier(instrument, opening.px):
        return Reason.PRICE_OUTLIER
    if instrument.turbulent:
        return Reason.VOLATILITY_PAUSE
    if opening.now - opening.ts_event > opening.age_max:
        return Reason.STALE_EVENT
    loss = loss_stop(t, plan, opening.now)
    if loss:
        return loss
    if plan.max_open_trades and is_flat(leg) and open_trades(t, plan, leg) >= plan.max_open_trades:
        return Reason.MAX_OPEN_TRADES
    if p.journal_low:
        return Reason.JOURNAL_LOW
    if p.clock_off or instrument.clock_off:
        return Reason.CLOCK_OFF
    return Reason.NONE


def loss_stop(t: Tables, plan: PlanRow, now: int) -> Reason:
    """The loss limit that stopped the plan, or that its loss meets now and the next mark will stop it by."""
    if plan.stopped_by:
        return Reason(plan.stopped_by)
    if not (plan.total_loss_bps or plan.daily_loss_bps or plan.leader_drawdown_bps):
        return Reason.NONE
    return loss_reason(t, plan, profit(t, plan, now)[0], True)


def loss_reason(t: Tables, plan: PlanRow, earned: int, fresh: bool) -> Reason:
    """The first loss limit that is reached (semantics 18). ``earned``: profit in e8; without ``fresh`` marks it proves nothing.

    Each limit is reached at its number, not beyond it. The leader's drawdown is measured from his peak since the plan began.
    """
    equity, peak = standing(t.leaders[plan.leader]), plan.leader_peak_e8
    known = t.leaders[plan.leader].ts_equity > 0
    if plan.leader_drawdown_bps and peak > 0 and known and (peak - equity) * BPS >= peak * plan.leader_drawdown_bps:
        return Reason.LEADER_DRAWDOWN
    if not fresh:
        return Reason.NONE
    lost = plan.loss_base_e8 - earned
    if plan.total_loss_bps and lost > 0 and lost * BPS >= plan.allocation_e8 * plan.total_loss_bps:
        return Reason.TOTAL_LOSS
    lost = plan.day_pnl_e8 - earned
    daily = plan.daily_loss_bps and not plan.day_pending
    if daily and lost > 0 and lost * BPS >= max(0, plan.day_equity_e8) * plan.daily_loss_bps:
        return Reason.DAILY_LOSS
    return Reason.NONE


def in_margin_call(leader: LeaderRow, now: int) -> bool:
    """Copying pauses for ``MARGIN_CALL_PAUSE`` from the venue's last warning to the leader (semantics 18)."""
    return 0 < leader.ts_margin_call <= now < leader.ts_margin_call + MARGIN_CALL_PAUSE


def standing(leader: LeaderRow) -> int:
    """The leader's equity as the drawdown is measured by it: the better of the last two snapshots.

    A withdrawal may be in a snapshot before it is told as what it is; by the next one it has been.
    """
    return max(leader.equity_e8, leader.equity_before_e8)


def exceeds_declared(leader: LeaderRow, position: LeaderPositionRow, instrument: InstrumentRow, px: int) -> bool:
    """His position in ``instrument``, worth at ``px``, is beyond what he declared: another instrument, more leverage, or larger
    (semantics 18)."""
    if not leader.declared_instruments >> position.instrument & 1:
        return True
    if leader.declared_leverage and position.leverage > leader.declared_leverage:
        return True
    worth = abs(position.qty) * px * instrument.value_mul
    return leader.declared_position_e8 > 0 and worth > leader.declared_position_e8 * instrument.value_div


def is_outlier(instrument: InstrumentRow, px: int) -> bool:
    """A leader price that cannot be one: further than ``PRICE_BAND_BPS`` from the middle of a fresh quote, either way.

    The slippage cap bounds the adverse side only; a price far on the other side would size an order of any quantity.
    """
    middle_twice = instrument.bid + instrument.ask
    return abs(2 * px - middle_twice) * BPS > PRICE_BAND_BPS * middle_twice


def is_flat(leg: LegRow) -> bool:
    """Nothing held, wanted or on the wire."""
    return leg.target == 0 and leg.attributed == 0 and leg.open_leaves == 0


def open_trades(t: Tables, plan: PlanRow, leg: LegRow) -> int:
    """Legs of the plan, other than this one, that hold, have on the wire or wait to send something."""
    return sum(
        1 for other in t.plan_legs(plan)
        if other is not leg and (other.attributed or other.open_leaves or other.deferred)
    )


def size(t: Tables, leg: LegRow, plan: PlanRow, opening: Opening) -> Size:
    """Minimum, then every cap in order, then slippage, rate and maximum (semantics 6, 7, 18).

    Lots are cut to the tightest cap; the first one that cut names the reason. Below the minimum after a cut the whole
    opening is refused under that cap's name.
    """
    instrument, account = t.instruments[leg.instrument], t.accounts[leg.account]
    slip = slippage_cap(instrument, plan.slippage_bps)
    limit_px = limit_price(opening.px, opening.side, slip)
    least = min_lots(instrument, limit_px) if limit_px > 0 else 1
    lots = opening.want >> 32
    raised = too_small = False
    t.note("minimum", lots, least, lots)
    if opening.want < least << 32:
        if plan.min_policy == MinPolicy.RAISE and (least << 32) * PPM <= opening.want * plan.raise_max_ppm:
            lots, raised = least, True
        elif plan.min_policy != MinPolicy.CARRY and lots > 0:
            too_small = True  # refused, but the minimum is the last rule: another that binds names the decision
        else:
            # Nothing is carried that a slippage cap would refuse: at a price out of the market any quantity is "too small".
            refusal = market_refusal(t, leg, plan, opening, limit_px, slip) if lots else Reason.NONE
            if refusal:
                return Size(0, refusal, limit_px, refused=True)
            return Size(0, Reason.BELOW_MINIMUM if lots else Reason.NONE, limit_px)
    allowed, reason = apply_caps(t, leg, plan, opening, lots)
    if allowed < lots:
        lots, raised = allowed, False
        if lots < least:
            return Size(0, reason, limit_px, refused=True)
    refusal = market_refusal(t, leg, plan, opening, limit_px, slip)
    if refusal:
        return Size(0, refusal, limit_px, refused=True)
    window_end = account.ts_window + t.params.order_window
    if account.ts_window <= opening.now < window_end and account.orders_in_window >= t.params.orders_per_window:
        if window_end - opening.ts_event > opening.age_max:
            return Size(0, Reason.RATE_LIMITED, limit_px, refused=True)
        if not too_small:
            return Size(0, Reason.RATE_LIMITED, limit_px, defer_until=window_end)
    if too_small:
        return Size(0, Reason.BELOW_MINIMUM, limit_px, refused=True)
    return Size(lots, reason, limit_px, raised)


def apply_caps(t: Tables, leg: LegRow, plan: PlanRow, opening: Opening, lots: int) -> tuple[int, Reason]:
    """Lots left after the caps, and the first cap that cut."""
    instrument, account, ai = t.instruments[leg.instrument], t.accounts[leg.account], t.account_instrument(leg)
    px, held = opening.px, abs(leg.attributed)
    reason = Reason.NONE

    def cut(cap: int, name: Reason) -> None:
        nonlocal lots, reason
        t.note(name.name.lower(), lots, cap, min(lots, max(cap, 0)))
        if cap < lots:
            lots = max(cap, 0)
            if reason == Reason.NONE:
                reason = name

    symbol, total = plan_notional(t, plan, leg, px)
    if plan.leverage_max:
        value = min(plan.allocation_e8 * plan.leverage_max, SATURATED)
        cut(lots_for(instrument, value - total, px), Reason.LEVERAGE_ABOVE_MAX)
    if plan.require_stop and not plan.assumed_stop_bps:
        cut(0, Reason.NO_STOP)
    if plan.max_loss_bps and plan.assumed_stop_bps:
        value = min(plan.allocation_e8 * plan.max_loss_bps // plan.assumed_stop_bps, SATURATED)
        cut(lots_for(instrument, value, px) - held, Reason.MAX_LOSS_PER_TRADE)
    if plan.max_position_bps:
        value = min(plan.allocation_e8 * plan.max_position_bps * leverage_of(instrument, ai.leverage) // BPS, SATURATED)
        cut(lots_for(instrument, value, px) - held, Reason.MAX_POSITION)
    if plan.max_notional_symbol_e8:
        cut(lots_for(instrument, plan.max_notional_symbol_e8 - symbol, px), Reason.MAX_NOTIONAL_SYMBOL)
    if plan.max_notional_total_e8:
        cut(lots_for(instrument, plan.max_notional_total_e8 - total, px), Reason.MAX_NOTIONAL_TOTAL)
    affordable = lots_for(instrument, feasible_notional(t, leg, plan, account, ai), px)
    if plan.on_insufficient == OnInsufficient.SKIP and affordable < lots:
        affordable = 0
    cut(affordable, Reason.INSUFFICIENT_MARGIN)
    return lots, reason


def plan_notional(t: Tables, plan: PlanRow, leg: LegRow, px: int) -> tuple[int, int]:
    """Gross notional in e8 of the plan in this leg's instrument, and in all; held and on the wire, others at mark."""
    symbol = total = 0
    for other in t.plan_legs(plan):
        instrument = t.instruments[other.instrument]
        at = px if other.instrument == leg.instrument else instrument.mark
        value = notional(instrument, abs(other.attributed) + other.open_leaves, at)
        total += value
        if other.instrument == leg.instrument:
            symbol += value
    return symbol, total


def feasible_notional(
    t: Tables, leg: LegRow, plan: PlanRow, account: AccountRow, ai: AccountInstrumentRow
) -> int:
    """``free / (1/L + S/(1-S) + taker_fee)`` in e8, rounded down (semantics 7)."""
    free = account.balance_e8 - account.margin_e8 - account.reserved_e8
    if free <= 0:
        return 0
    instrument = t.instruments[leg.instrument]
    slip = slippage_cap(instrument, plan.slippage_bps)
    leverage, rest = leverage_of(instrument, ai.leverage), BPS - slip
    under = rest * PPM + slip * leverage * PPM + instrument.taker_fee_ppm * leverage * rest
    return free * leverage * rest * PPM // under


def market_refusal(
    t: Tables, leg: LegRow, plan: PlanRow, opening: Opening, limit_px: int, slip: int
) -> Reason:
    """Adverse distance of the touch from the leader's price, and from mid; each its own reason."""
    instrument = t.instruments[leg.instrument]
    touch = instrument.ask if opening.side > 0 else instrument.bid
    if sign(touch - limit_px) == opening.side:
        return Reason.SLIPPAGE_LEADER
    slip_mid = slippage_cap(instrument, plan.slippage_mid_bps)
    if (instrument.ask - instrument.bid) * BPS > slip_mid * (instrument.ask + instrument.bid):
        return Reason.SLIPPAGE_MID
    return Reason.NONE
