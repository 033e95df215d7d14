"""Codes of the protocol: why a session ended, why an order was refused, and what the core calls the same.

An order's refusal is definite: it was not accepted and never will be. Whatever is not in these tables is a malformed message.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from copyd.errors import WorldError


class Ended(IntEnum):
    """Codes of ERROR and LOGOUT."""

    NONE = 0
    MALFORMED = 1
    VERSION = 2
    REFUSED = 3
    OVERSIZE = 4
    NOT_LOGGED_IN = 5
    SEQUENCE = 6
    CORRUPT = 7
    SILENT = 8
    REPLACED = 9
    SHUTDOWN = 10


class Refusal(IntEnum):
    """Codes of a REJECT record."""

    ACCOUNT = 1
    INSTRUMENT = 2
    QUANTITY = 3
    PRICE = 4
    PRICE_BAND = 5
    MIN_NOTIONAL = 6
    MARGIN = 7
    REDUCE_ONLY = 8
    POSITION_SIDE = 9
    LIQUIDITY = 10
    LATE = 11
    WINDOW = 12
    RATE = 13
    LEVERAGE = 14
    RECORD = 15
    OTHER = 16


#: Refusals the core knows by a number of its own (``copyd.core.fill``, ``copyd.core.order``); the others are counted down
#: from -20,000, a range no venue uses.
CORE_CODES: Final = {
    Refusal.MIN_NOTIONAL: -4164,
    Refusal.MARGIN: -2019,
    Refusal.REDUCE_ONLY: -2022,
    Refusal.POSITION_SIDE: -4061,
    Refusal.WINDOW: -1015,
    Refusal.RATE: -1015,
}
CODE_BASE: Final = -20_000


def core_code(refusal: int) -> int:
    """The number the core books a refusal under; 0 for what is no code of the protocol."""
    if refusal not in Refusal._value2member_map_:
        return 0
    return CORE_CODES.get(Refusal(refusal), CODE_BASE - refusal)


class Malformed(WorldError):
    """Bytes that are no message of the protocol; the session they came by is given up."""

    def __init__(self, text: str, code: Ended = Ended.MALFORMED) -> None:
        super().__init__(text)
        self.code = code
