"""Station 0, the instrument: value of a quantity, the venue's minimum and maximum, prices inside a cap; one expressed in
another.

Two instruments of different venues in the same base asset mirror each other: a leader trades the one, followers the other.
Quantities are converted by the base asset in a lot, prices by the worth of the base asset at a tick, both exactly.
"""

from __future__ import annotations

from fractions import Fraction

from copyd.core.fixed import BPS, mul_div_ceil
from copyd.core.rows import InstrumentRow
from copyd.errors import OperatorError

CONVERSION_MAX = 1 << 32
"""Neither term of a conversion may be larger: a remainder below 2**94 (equity times leverage) times a term then fits the
kernel's 128 bits, and a quotient whose product with the one passes 2**92 is, divided by the other, beyond any ratio."""
PX_MAX = 1 << 46
"""A converted price stops here: times 2**16, as waiting openings keep it, it still fits 64 bits. No market is so high in ticks:
the outlier gate refuses what is sized by it."""


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


def fee_value(instrument: InstrumentRow, fee_q32: int, px: int) -> int:
    """Worth in e8 at ``px`` ticks of a commission of Q32 lots, rounded up."""
    return mul_div_ceil(fee_q32 * px, instrument.value_mul, instrument.value_div << 32)


def leverage_of(instrument: InstrumentRow, leverage: int) -> int:
    """``leverage`` as set at the venue; what is bought outright has none, whatever a plan says."""
    return 1 if instrument.spot else leverage


def limit_price(px: int, side: int, slippage_bps: int) -> int:
    """Limit in ticks at the slippage cap from ``px``, rounded inside the cap: buys down, sells up (semantics 21)."""
    if side > 0:
        return px * (BPS + slippage_bps) // BPS
    return mul_div_ceil(px, BPS - slippage_bps, BPS)


def slippage_cap(instrument: InstrumentRow, plan_bps: int) -> int:
    """The plan's cap in basis points, or the instrument class's where the plan has none."""
    return plan_bps or instrument.slippage_bps


def conversion(leader: tuple[int, int], follower: tuple[int, int], names: tuple[str, str] = ("", "")) -> tuple[int, int]:
    """(mul, div): ``mul / div`` lots of the follower's instrument are one lot of the leader's, in lowest terms.

    ``leader``, ``follower``: the base asset in one lot of each, as (numerator, denominator). ``OperatorError`` naming the two
    instruments where a lot holds nothing, or the lots are so unlike that a ratio could leave the kernel's 128 bits.
    """
    if min(*leader, *follower) <= 0:
        raise OperatorError(f"{names[0]} and {names[1]}: the base asset in a lot must be above 0 to copy one in the other")
    lots = Fraction(Fraction(*leader), Fraction(*follower))
    if max(lots.numerator, lots.denominator) > CONVERSION_MAX:
        raise OperatorError(
            f"{names[0]} cannot be copied in {names[1]}: a lot of the one is {lots.numerator}/{lots.denominator} lots of the "
            f"other, {CONVERSION_MAX} is the most for either number")
    return lots.numerator, lots.denominator


def base_price(row: InstrumentRow, base: tuple[int, int]) -> Fraction:
    """Worth in e8 of one unit of the base asset at a price of one tick; ``base``: the base asset in a lot."""
    return Fraction(row.value_mul * base[1], row.value_div * base[0])


def converted_price(px: int, ticks: Fraction, side: int) -> int:
    """``px`` ticks of the leader's instrument in ticks of the follower's, ``ticks`` of which are one of his.

    Rounded so that no slippage cap becomes wider by it: for buys down, for sells up; between 1 and ``PX_MAX``.
    """
    exact = px * ticks.numerator
    rounded = exact // ticks.denominator if side > 0 else -(-exact // ticks.denominator)
    return max(1, min(PX_MAX, rounded))
