"""Text ids of a venue as the integers that orders and executions are known by."""

from __future__ import annotations

import hashlib
from typing import Final

from copyd.core import leader_stream as ls

HASH_BITS: Final = 22
NAMES_MAX: Final = 200_000


class Names:
    """The venue's names, which are texts (UUIDs), as the integers that orders and executions are known by.

    An order id that is a number stays what it is; any other becomes 63 bits of its BLAKE2b, never 0. An execution id is its
    time in ms and 22 bits of its BLAKE2b, so that ids never fall with time; two of one millisecond that would share a number
    get neighbouring ones. The last ``NAMES_MAX`` of each are remembered: the same name gives the same number whatever said it.
    """

    def __init__(self, room: int = NAMES_MAX) -> None:
        self.room = room
        self._orders: dict[int, str] = {}
        self._sides: dict[int, int] = {}
        self._executions: dict[str, int] = {}
        self._taken: dict[int, str] = {}

    def order(self, text: str) -> int:
        """The number of an order; 0 for no name."""
        if not text:
            return 0
        number = order_number(text)
        if number not in self._orders:
            self._orders[number] = text
            if len(self._orders) > self.room:
                oldest = next(iter(self._orders))
                del self._orders[oldest]
                self._sides.pop(oldest, None)
        return number

    def order_text(self, number: int) -> str:
        """The venue's name of an order; "" when it is not remembered."""
        return self._orders.get(number, "")

    def order_side(self, number: int, position_side: int) -> None:
        """Remember which position side an order names: executions do not."""
        if number in self._orders:
            self._sides[number] = position_side

    def side_of(self, number: int) -> int:
        """The position side of an order heard of before, else ``UNKNOWN_SIDE``."""
        return self._sides.get(number, ls.UNKNOWN_SIDE)

    def execution(self, text: str, time_ms: int) -> int:
        """The number of an execution. ``ValueError`` without a name or with a time that does not fit."""
        if not text or not 0 < time_ms < 1 << (63 - HASH_BITS):
            raise ValueError("an execution without an id or a time")
        known = self._executions.get(text)
        if known is not None:
            return known
        number = time_ms << HASH_BITS | _hash(text) >> (64 - HASH_BITS)
        while number in self._taken:
            number += 1
        self._executions[text], self._taken[number] = number, text
        if len(self._executions) > self.room:
            del self._taken[self._executions.pop(next(iter(self._executions)))]
        return number


def order_number(text: str) -> int:
    """The number of an order's name: itself where it is one of 63 bits, else 63 bits of its hash."""
    if len(text) <= 19 and text.isascii() and text.isdigit() and text[0] != "0" and int(text) < 1 << 63:
        return int(text)
    return _hash(text) >> 1 or 1


def execution_ms(number: int) -> int:
    """The time in an execution's number, ms."""
    return number >> HASH_BITS


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
