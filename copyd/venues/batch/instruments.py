"""Our instruments and the engine's table: the same symbol must mean the same tick and the same lot on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from copyd.venues.batch.codec import InstrumentRow

E8 = 8


class Ours(Protocol):
    """What is needed of an instrument of ours; ``tick`` and ``lot`` are in units of 10**-decimals."""

    @property
    def index(self) -> int: ...
    @property
    def symbol(self) -> str: ...
    @property
    def price_decimals(self) -> int: ...
    @property
    def tick(self) -> int: ...
    @property
    def qty_decimals(self) -> int: ...
    @property
    def lot(self) -> int: ...


def numbers(ours: Iterable[Ours], table: Sequence[InstrumentRow]) -> tuple[dict[int, int], list[str]]:
    """({our index: the engine's number}, what is wrong, one sentence each). What is wrong cannot be traded."""
    by_symbol = {row.symbol: row for row in table}
    found: dict[int, int] = {}
    problems: list[str] = []
    for item in ours:
        row = by_symbol.get(item.symbol)
        if row is None:
            problems.append(f"the engine does not list {item.symbol}")
            continue
        tick_e8, lot_e8 = item.tick * 10**E8, item.lot * 10**E8
        if (row.tick_e8 * 10**item.price_decimals, row.lot_e8 * 10**item.qty_decimals) != (tick_e8, lot_e8):
            problems.append(f"{item.symbol}: tick or lot of the engine are not those of the market data")
            continue
        found[item.index] = row.index
    return found, problems
