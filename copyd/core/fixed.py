"""Scaled integers: units, and the only divisions the engine knows. Every rounding is in the name (semantics 42).

Prices are ticks, quantities lots, targets Q32 lots (``lots << 32``), money 1e-8 of the quote asset ("e8").
"""

from __future__ import annotations

ONE = 1 << 32
"""One lot in Q32."""

E8 = 100_000_000
PPM = 1_000_000
BPS = 10_000
TARGET_MAX = 1 << 61
"""A leg beyond this many Q32 lots is refused (``above_maximum``), so int64 never overflows."""

SATURATED = (1 << 62) - 1
"""Money that is only compared with something smaller stops here, in the kernel's int64 as in the twin."""


def mul_div_trunc(a: int, b: int, c: int) -> int:
    """``a * b / c`` rounded toward zero; ``c`` must not be 0."""
    product = a * b
    quotient = abs(product) // abs(c)
    return quotient if (product < 0) == (c < 0) else -quotient


def mul_div_ceil(a: int, b: int, c: int) -> int:
    """``a * b / c`` rounded up, for ``a``, ``b`` >= 0 and ``c`` > 0."""
    return -(-a * b // c)


def sign(value: int) -> int:
    """-1, 0 or +1."""
    return (value > 0) - (value < 0)
