"""Decimal text to scaled integers and back: exact or refused, never through a float (semantics 42).

Money is in 1e-8 of the quote asset ("e8"), factors in 1e-6 ("ppm"). A value with more places than its scale is refused
rather than rounded: who writes 0.000000001 means something this scale cannot hold.
"""

from __future__ import annotations

import re

E8 = 100_000_000
PPM = 1_000_000

MONEY_PLACES = 8
FACTOR_PLACES = 6

#: Ten whole digits at 1e-8 still fit a signed 64-bit column (9.99e17 of 9.22e18).
MONEY_PATTERN = r"^[0-9]{1,10}(\.[0-9]{1,8})?$"
FACTOR_PATTERN = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"

_MONEY = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,8}))?", re.ASCII)
_FACTOR = re.compile(r"([0-9]{1,6})(?:\.([0-9]{1,6}))?", re.ASCII)


def money_e8(text: str) -> int:
    """``"1000.5"`` -> 100050000000. ValueError with a sentence when the text is not plain decimal money."""
    match = _MONEY.fullmatch(text)
    if match is None:
        raise ValueError("not a plain decimal with at most 10 digits before and 8 after the point")
    whole, part = match.groups()
    return int(whole) * E8 + (int(part.ljust(MONEY_PLACES, "0")) if part else 0)


def factor_ppm(text: str) -> int:
    """``"1.5"`` -> 1500000. ValueError with a sentence when the text is not a plain decimal factor."""
    match = _FACTOR.fullmatch(text)
    if match is None:
        raise ValueError("not a plain decimal with at most 6 digits before and 6 after the point")
    whole, part = match.groups()
    return int(whole) * PPM + (int(part.ljust(FACTOR_PLACES, "0")) if part else 0)


def _text(scaled: int, scale: int, places: int) -> str:
    sign, scaled = ("-", -scaled) if scaled < 0 else ("", scaled)
    whole, part = divmod(scaled, scale)
    digits = str(part).rjust(places, "0").rstrip("0")
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def money_text(e8: int) -> str:
    """100050000000 -> ``"1000.5"``: the shortest text that reads back as the same integer."""
    return _text(e8, E8, MONEY_PLACES)


def factor_text(ppm: int) -> str:
    """1500000 -> ``"1.5"``."""
    return _text(ppm, PPM, FACTOR_PLACES)
