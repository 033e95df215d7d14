"""Numbers as statements and transfer files write them: exact decimal texts, one spelling for each value."""

from __future__ import annotations

import re

from copyd.core.fees import NAV_ONE, UNIT
from copyd.decimals import E8

PLACES = {E8: 8, UNIT: 24, NAV_ONE: 32}
_DECIMAL = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?", re.ASCII)


def scaled_text(value: int, one: int) -> str:
    """``value / one`` exactly (``one`` a power of ten), the shortest text: 150000000 of 1e8 -> ``"1.5"``."""
    if value == 0:
        return "0"
    places = PLACES.get(one) or len(str(one)) - 1
    text = str(abs(value)).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    digits = text[-places:].rstrip("0")
    return f"{sign}{text[:-places]}.{digits}" if digits else sign + text[:-places]


def scaled(text: str, one: int) -> int:
    """The inverse; ValueError for anything that ``scaled_text`` would not write."""
    match = _DECIMAL.fullmatch(text)
    places = len(str(one)) - 1
    if match is None or len(match[3] or "") > places:
        raise ValueError(f"{text!r} is no decimal with at most {places} places")
    value = int(match[2]) * one + int((match[3] or "").ljust(places, "0") or "0")
    value = -value if match[1] else value
    if scaled_text(value, one) != text:
        raise ValueError(f"{text!r} is not written as {scaled_text(value, one)!r}")
    return value


def money(e8: int) -> str:
    """Money, 1e-8."""
    return scaled_text(e8, E8)


def money_of(text: str) -> int:
    """1e-8; ValueError when it is no money text."""
    return scaled(text, E8)


def units(value: int) -> str:
    """Units, 1e-24."""
    return scaled_text(value, UNIT)


def units_of(text: str) -> int:
    """1e-24; ValueError when it is no units text."""
    return scaled(text, UNIT)


def per_unit(value: int) -> str:
    """NAV per unit, 1e-32."""
    return scaled_text(value, NAV_ONE)


def per_unit_of(text: str) -> int:
    """1e-32; ValueError when it is no such text."""
    return scaled(text, NAV_ONE)
