"""What one follower's target must be, by the plain rule: Fractions and whole numbers, nothing of the engine's code.

Written from the rules alone (semantics 1-5, 42). A venue that fills everything at once and no limit that binds is assumed;
``history.py`` checks the laws that hold whatever the venue does.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

Q32 = 1 << 32
E8 = 10**8


def toward_zero(value: Fraction) -> int:
    """Whole part."""
    return -((-value).numerator // (-value).denominator) if value < 0 else value.numerator // value.denominator


@dataclass(frozen=True)
class Plan:
    """What sizing reads of a plan; money in the quote asset."""

    mode: str
    allocation: Fraction
    multiplier: Fraction = Fraction(1)
    amount: Fraction = Fraction(0)
    own_leverage: int = 1
    risk_bps: int = 0
    stop_bps: int = 0


@dataclass(frozen=True)
class Fill:
    """One leader fill; ``order_lots`` is the whole order's, ``first_px`` the price of its first fill, prices per lot."""

    side: int
    lots: int
    px: Fraction
    order_lots: int
    first_px: Fraction
    equity: Fraction
    leader_leverage: int
    mark: Fraction


def ratio(plan: Plan, fill: Fill, worth: Fraction) -> int:
    """Follower lots per leader lot in 2^-32, truncated once (semantics 2, 16, 42); ``worth``: allocation equity."""
    if plan.mode == "proportional":
        k = worth / fill.equity
    elif plan.mode == "multiplier":
        k = worth / fill.equity * plan.multiplier
    elif plan.mode == "fixed_ratio":
        # His margin share = notional / his leverage / his equity; ours = own notional / own leverage / what we are worth.
        k = worth * plan.own_leverage / (fill.equity * fill.leader_leverage)
    elif plan.mode == "fixed_amount":
        k = plan.amount / (fill.order_lots * fill.px)
    else:
        at_risk = plan.allocation * Fraction(plan.risk_bps, 10_000)
        k = at_risk / Fraction(plan.stop_bps, 10_000) / (fill.order_lots * fill.first_px)
    return toward_zero(k * Q32)


class Leg:
    """Target of one leg as a fold over the leader's fills; ``target`` in 2^-32 lots."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.leader = 0
        self.target = 0
        self.anchor = (0, 0)
        self.k = 0
        self.held = 0
        self.cash = Fraction(0)

    def traded(self, lots: int, px: Fraction) -> None:
        """The follower's own order executed: signed lots, price per lot, no commission."""
        self.held += lots
        self.cash -= lots * px

    def fill(self, fill: Fill) -> None:
        """Reducing part, then opening part."""
        rest = fill.side * fill.lots
        if self.leader * fill.side < 0:
            part = min(abs(rest), abs(self.leader)) * fill.side
            self.leader += part
            rest -= part
            target, leader = self.anchor
            self.target = toward_zero(Fraction(target * self.leader, leader)) if target else 0
        if rest:
            per_order = self.plan.mode in ("fixed_amount", "risk_based")
            if self.target == 0 or per_order:
                self.k = ratio(self.plan, fill, self.plan.allocation + self.cash + self.held * fill.mark)
            self.leader += rest
            self.target += self.k * rest
            self.anchor = (self.target, self.leader)


def position_after(held: int, target: int) -> int:
    """Lots held once the order of semantics 1 is filled: ``held`` plus ``toward_zero(target - held)``, closing first."""
    if held and (target > 0) != (held > 0):
        held = 0
    return held + toward_zero(Fraction(target, Q32) - held)
