"""Station 0, the instrument: value of a quantity, the venue's minimum and maximum, prices inside a cap."""

from __future__ import annotations

from copyd.core.fixed import BPS, mul_div_ceil
from copyd.core.rows import InstrumentRow


def notional(instrument: InstrumentRow, lots: int, px: int) -> int:
    """Value in e8 of ``lots`` >= 0 at ``px`` ticks, rounded down (semantics 8)."""
    return lots * px * instrument.value_mul // instrument.value_div


def lots_for(instrument: InstrumentRow, value_e8: int, px: int) -> int:
    """Most whole lots whose value at ``px`` does not exceed ``value_e8``; 0 for a negative value."""
    if value_e8 <= 0:
        return 0
    return value_e8 * instrument.value_div // (px * instrument.value_mul)


def min_lots(instrument: InstrumentRow, px: int) -> int:
    """Fewest lots the venue takes in an opening order at ``px``: lot filter and minimum notional."""
    by_value = mul_div_ceil(instrument.min_notional_e8, instrument.value_div, px * instrument.value_mul)
    return max(1, instrument.lot_min, by_value)


def limit_price(px: int, side: int, slippage_bps: int) -> int:
    """Limit in ticks at the slippage cap from ``px``, rounded inside the cap: buys down, sells up (semantics 21)."""
    if side > 0:
        return px * (BPS + slippage_bps) // BPS
    return mul_div_ceil(px, BPS - slippage_bps, BPS)


def slippage_cap(instrument: InstrumentRow, plan_bps: int) -> int:
    """The plan's cap in basis points, or the instrument class's where the plan has none."""
    return plan_bps or instrument.slippage_bps
