"""What a plan has earned and what it is worth: realised and unrealised profit, cost basis, allocation equity (semantics 16, 37).

The cost basis is the average entry: a leg's ``cost_e8`` is what its confirmed lots cost, a fill that makes the leg smaller takes
its share of that cost, and the difference to what it brought is realised. When the leg is flat its cost is 0, so that the sum
of what was realised is the sum of what was traded, to the unit. Unrealised is the value at mark against the cost that is left.
"""

from __future__ import annotations

from copyd.core.fixed import BPS, mul_div_trunc, sign
from copyd.core.instrument import notional
from copyd.core.rows import InstrumentRow, LegRow, PlanRow
from copyd.core.state import Tables


def unrealised(instrument: InstrumentRow, leg: LegRow, mark: int) -> int:
    """Profit in e8 the leg would show if it were closed at ``mark`` ticks, before costs; the value is rounded down."""
    return sign(leg.attributed) * (notional(instrument, abs(leg.attributed), mark) - leg.cost_e8)


def realise(plan: PlanRow, side: int, value_e8: int, cost_e8: int) -> None:
    """Lots of a leg on ``side`` that had cost ``cost_e8`` went for ``value_e8``."""
    plan.realised_e8 += side * (value_e8 - cost_e8)


def booked(plan: PlanRow) -> int:
    """Profit in e8 that no mark can change: realised, after commissions, with funding."""
    return plan.realised_e8 - plan.commission_e8 + plan.funding_e8


def profit(t: Tables, plan: PlanRow, now: int) -> tuple[int, bool]:
    """Profit in e8 of all the plan's legs since it began, at mark; and whether every mark it rests on is fresh.

    A leg whose instrument has no mark counts with nothing unrealised. A mark is as old as
    the last ``Marks`` that told it.
    """
    total, fresh = booked(plan), True
    for leg in t.plan_legs(plan):
        if leg.attributed == 0:
            continue
        instrument = t.instruments[leg.instrument]
        if instrument.mark > 0:
            total += unrealised(instrument, leg, instrument.mark)
        if instrument.mark <= 0 or now - instrument.ts_mark > t.params.mark_max_age:
            fresh = False
    return total, fresh


def allocation_equity(plan: PlanRow, profit_e8: int) -> int:
    """What the plan is worth in e8: what was allocated, and what became of it, less fees that were paid out of it."""
    return plan.allocation_e8 + profit_e8 - plan.paid_e8


def margin_left(instrument: InstrumentRow, leg: LegRow, mark: int, maintenance_bps: int) -> int:
    """How far the price may still go against a leg that holds something, in bps of what it is worth at ``mark``, toward zero.

    Below 0 its isolated margin does not carry the venue's maintenance any more. Margin that was added later is not known here.
    """
    worth = notional(instrument, abs(leg.attributed), mark)
    left = leg.margin_e8 + unrealised(instrument, leg, mark) - worth * maintenance_bps // BPS
    return mul_div_trunc(left, BPS, worth) if worth > 0 else 0
