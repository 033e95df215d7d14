"""The plain rule for one follower, exact integers, nothing shared with the daemon's engine.

Units as in ``history``: lots, ticks, Q32 lots, 1e-8 money. Every rounding is named where it happens.
"""

from __future__ import annotations

from fractions import Fraction

from .history import Q32, Instrument, LeaderTrade, Plan, to_e8

MODES = ("proportional", "multiplier", "fixed_amount", "fixed_ratio", "risk_based")
PER_ORDER_MODES = ("fixed_amount", "risk_based")  #: k belongs to the leader's order, not to the leg (semantics 2)


def div_toward_zero(numerator: int, denominator: int) -> int:
    """Integer division truncated toward zero; the denominator is positive."""
    return numerator // denominator if numerator >= 0 else -(-numerator // denominator)


def toward_zero_to_lot(q32: int) -> int:
    """Whole lots of a Q32 quantity, truncated toward zero (semantics 1)."""
    return q32 >> 32 if q32 >= 0 else -(-q32 >> 32)


def sign(value: int) -> int:
    """-1, 0 or +1."""
    return (value > 0) - (value < 0)


class PlanNumbers:
    """A plan's decimals as exact integers, read once."""

    __slots__ = (
        "account",
        "allocation_e8",
        "amount_e8",
        "instruments",
        "max_notional_symbol_e8",
        "max_notional_total_e8",
        "multiplier",
        "plan",
        "raise_factor",
    )

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.account = plan.account or plan.follower
        self.allocation_e8 = to_e8(plan.allocation)
        self.amount_e8 = to_e8(plan.amount)
        self.multiplier = Fraction(plan.multiplier)
        self.raise_factor = Fraction(plan.raise_max_factor)
        self.max_notional_symbol_e8 = to_e8(plan.max_notional_symbol)
        self.max_notional_total_e8 = to_e8(plan.max_notional_total)
        self.instruments = frozenset(plan.instruments)


def k_q32(
    numbers: PlanNumbers,
    instrument: Instrument,
    order_lots: int,
    px: int,
    leader_equity_e8: int,
    leader_leverage: int,
    worth_e8: int,
) -> int:
    """Follower lots per leader lot in Q32, truncated once (semantics 2, 8, 16, 42).

    What is in proportion is the base asset: ``per_leader_lot`` makes lots of it. An amount and a risk are divided by the value
    that the leader's number of lots has in the follower's, so that the unit of ``k`` is the same.

    ``worth_e8`` is the plan's allocation equity; ``order_lots`` is the leader order's original quantity; ``px`` the price of
    this fill for fixed_amount and of the order's first fill for risk_based. 0 where the mode cannot size (no equity, no stop).
    """
    plan = numbers.plan
    own = max(0, worth_e8) * instrument.per_leader_lot.numerator
    leader_equity_e8 *= instrument.per_leader_lot.denominator
    match plan.mode:
        case "proportional":
            return Q32 * own // leader_equity_e8 if leader_equity_e8 > 0 else 0
        case "multiplier":
            if leader_equity_e8 <= 0:
                return 0
            m = numbers.multiplier
            return Q32 * own * m.numerator // (leader_equity_e8 * m.denominator)
        case "fixed_ratio":
            if leader_equity_e8 <= 0 or leader_leverage <= 0:
                return 0
            return Q32 * own * own_leverage(plan) // (leader_equity_e8 * leader_leverage)
        case "fixed_amount":
            notional = instrument.notional_e8(order_lots, px)
            return Q32 * numbers.amount_e8 // notional if notional else 0
        case "risk_based":
            notional = instrument.notional_e8(order_lots, px)
            if not notional or not plan.assumed_stop_bps:
                return 0
            return Q32 * numbers.allocation_e8 * plan.risk_bps // (plan.assumed_stop_bps * notional)
    raise ValueError(f"unknown copy mode {plan.mode!r}")


def own_leverage(plan: Plan) -> int:
    """The follower's leverage after the plan's own maximum."""
    return min(plan.leverage, plan.leverage_max) if plan.leverage_max else plan.leverage


class Anchor:
    """A leg's target and the point consecutive reductions are measured from (semantics 3, 42).

    ``target`` in Q32 lots. Reductions are ``anchor_target * leader_after / leader_anchor`` truncated toward zero; every
    change that is not a reduction sets the anchor anew.
    """

    __slots__ = ("leader", "leader_anchor", "target", "target_anchor")

    def __init__(self, leader_lots: int = 0) -> None:
        self.target = 0
        self.leader = leader_lots  #: the leader's whole signed position
        self.target_anchor = 0
        self.leader_anchor = leader_lots

    def reset(self) -> None:
        """The target changed by something else than a reduction."""
        self.target_anchor = self.target
        self.leader_anchor = self.leader

    def open(self, lots: int, k: int, forgone_q32: int = 0) -> None:
        """The leader opened ``lots`` (signed); ``forgone_q32`` (unsigned) of the wish was refused or cut."""
        delta = lots * k
        self.leader += lots
        self.target += delta - sign(delta) * forgone_q32
        self.reset()

    def reduce(self, lots: int) -> None:
        """The leader came nearer to flat by ``lots`` (signed against his position), at most to flat."""
        self.leader += lots
        if self.leader == 0:
            self.target = 0
        elif self.leader_anchor:
            self.target = div_toward_zero(self.target_anchor * abs(self.leader), abs(self.leader_anchor))
        if self.leader == 0 or self.target == 0:
            self.reset()

    def drop(self, q32: int) -> None:
        """Quantity given up for good by an order that ended unfilled (unsigned, never past zero)."""
        self.target -= sign(self.target) * min(q32, abs(self.target))
        self.reset()


def split(position: int, lots: int) -> tuple[int, int]:
    """A signed fill on a signed position: (reducing part, opening part), both signed like the fill."""
    if position == 0 or (position > 0) == (lots > 0):
        return 0, lots
    if abs(lots) <= abs(position):
        return lots, 0
    return -position, lots + position


def ideal_targets(
    numbers: PlanNumbers,
    instrument: Instrument,
    trades: list[LeaderTrade],
    leader_equity_e8: int,
    leader_leverage: int = 1,
) -> list[int]:
    """A leg's target after each leader trade when nothing is refused, cut, left unfilled, won or lost (Q32 lots)."""
    leg = Anchor()
    k = 0
    first_px: dict[str, int] = {}
    k_of_order = ""
    out: list[int] = []
    for trade in trades:
        px = first_px.setdefault(trade.order_id, trade.px)
        reducing, opening = split(leg.leader, trade.lots)
        if reducing:
            leg.reduce(reducing)
        if opening:
            mode, snapshot = numbers.plan.mode, numbers.plan.ratio_snapshot
            fresh = leg.target == 0 or mode == "fixed_amount" or snapshot == "follow"
            if fresh or ((mode == "risk_based" or snapshot == "each_order") and k_of_order != trade.order_id):
                at = trade.px if mode == "fixed_amount" else px
                worth = numbers.allocation_e8
                k = k_q32(numbers, instrument, trade.order_lots, at, leader_equity_e8, leader_leverage, worth)
                k_of_order = trade.order_id
            leg.open(opening, k)
        out.append(leg.target)
    return out


def limit_price(px: int, side: int, slippage_bps: int) -> int:
    """Limit of an opening: the leader's price plus or minus the cap, rounded to the tick inside the cap (semantics 21)."""
    if side > 0:
        return px * (10_000 + slippage_bps) // 10_000  # floor
    return -(-px * (10_000 - slippage_bps) // 10_000)  # ceil
