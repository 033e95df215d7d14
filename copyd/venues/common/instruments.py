"""Instruments of any venue, in exact integers: prices in ticks, quantities in lots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import gcd
from typing import TypeVar

import msgspec

from copyd._fast.decimals import cut_scaled, format_scaled, parse_scaled, parse_steps
from copyd._fast.encode import Encoder
from copyd._fast.replies import Reader

Row = TypeVar("Row")


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument. Prices are in ticks, quantities in lots; ``tick`` and ``lot`` are in units of 10**-decimals of what the
    venue writes: price in the quote asset, quantity in the base asset or, where the venue counts so, in contracts."""

    index: int
    symbol: str
    status: str
    quote_asset: str
    margin_asset: str
    price_decimals: int
    tick: int
    qty_decimals: int
    lot: int
    lot_min: int  # lots
    lot_max: int  # lots, limit orders
    market_lot_min: int
    market_lot_max: int  # lots, market orders
    min_notional_e8: int
    #: notional_e8 = lots * ticks * value_mul // value_div
    value_mul: int
    value_div: int
    #: PERCENT_PRICE: a limit price must lie within mark x down .. mark x up; 0 = no such filter
    price_up_ppm: int
    price_down_ppm: int
    market_take_bound_ppm: int
    orders_max: int
    base_asset: str = ""
    #: One unit of the venue's quantity is ``contract_mul / contract_div`` of the base asset: 1 where it counts in the base.
    contract_mul: int = 1
    contract_div: int = 1
    #: Bought and sold, not held as a position: no short side, no leverage, no reduce-only, fees in what is received.
    spot: bool = False
    #: The venue's number of it, where orders name it by one (OKX: ``instIdCode``).
    code: int = 0
    leverage_max: int = 0  # 0 = not told

    def ticks(self, text: str) -> int:
        """A price of the venue in ticks; not on the tick is an error."""
        return parse_steps(text, self.price_decimals, self.tick)

    def ticks_nearest(self, text: str) -> int:
        """A price that need not lie on a tick (mark, average): nearest tick, half up. Up to 12 decimals are read."""
        scale = 10 ** max(0, 12 - self.price_decimals)
        step = self.tick * scale
        places = max(12, self.price_decimals)
        value = cut_scaled(text, places)
        return (2 * value + step) // (2 * step)

    def qty_text(self, lots: int) -> str:
        """Lots as they are written to the venue."""
        return shortest(lots * self.lot, self.qty_decimals)

    def px_text(self, ticks: int) -> str:
        """A price in ticks as it is written to the venue."""
        return shortest(ticks * self.tick, self.price_decimals)

    def lots(self, text: str) -> int:
        """A quantity of the venue in lots, signed; not a multiple of the lot is an error."""
        return parse_steps(text, self.qty_decimals, self.lot)


class Instruments:
    """The instruments of one venue that are in use, by index and by symbol; the indexes are the engine's, over all venues."""

    def __init__(self, rows: Sequence[Instrument]) -> None:
        self._rows = tuple(rows)
        self._by_index = {row.index: row for row in rows}
        self._by_symbol = {row.symbol: row for row in rows}
        if len(self._by_index) != len(rows) or len(self._by_symbol) != len(rows):
            raise ValueError("two instruments with one index or one symbol")

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Instrument]:
        return iter(self._rows)

    def __getitem__(self, index: int) -> Instrument:
        return self._by_index[index]

    def __contains__(self, index: object) -> bool:
        return index in self._by_index

    def find(self, symbol: str) -> Instrument | None:
        """The instrument of a symbol, None when it is not one of ours."""
        return self._by_symbol.get(symbol)

    def teach_reader(self, reader: Reader) -> None:
        """Have a compiled reader know them: as the venue names, writes and settles them."""
        for item in self._rows:
            reader.set_instrument(
                item.index, item.symbol, item.price_decimals, item.tick, item.qty_decimals, item.lot, item.margin_asset)

    def teach_encoder(self, encoder: Encoder) -> None:
        """Have an encoder know them: as the venue names and writes them."""
        for item in self._rows:
            encoder.set_instrument(item.index, item.symbol, item.price_decimals, item.tick, item.qty_decimals, item.lot)


def trimmed(text: str) -> str:
    """A decimal without zeros behind its last digit, and without a point in a whole number."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def shortest(value: int, decimals: int) -> str:
    """``value`` x 10**-decimals, as short as it can be written."""
    return trimmed(format_scaled(value, decimals))


def step_of(text: str) -> tuple[int, int]:
    """``"0.010"`` -> (2, 1): the fewest decimals that write the step, and the step in them."""
    _, _, part = text.partition(".")
    decimals = len(part.rstrip("0"))
    step = parse_scaled(text, decimals)
    if step <= 0:
        raise ValueError(f"step {text} is not positive")
    return decimals, step


def ceil_lots(text: str, decimals: int, lot: int) -> int:
    """A bound that need not be a multiple of the lot, up to the next lot."""
    try:
        value = parse_scaled(text, decimals)
    except ValueError:  # digits behind those of the lot
        value = cut_scaled(text, decimals) + 1
    return -(-value // lot)


def floor_lots(text: str, decimals: int, lot: int) -> int:
    """Whole lots of a quantity that need not be a multiple of the lot."""
    return cut_scaled(text, decimals) // lot


def value_of_step(lot: int, tick: int, decimals: int) -> tuple[int, int]:
    """What one lot is worth per tick of price, in 1e-8 of the quote asset, as (numerator, denominator) in lowest terms.
    ``decimals``: those of price and quantity together."""
    mul, div = lot * tick * 10**8, 10**decimals
    common = gcd(mul, div)
    return mul // common, div // common


def chosen(
    wanted: Sequence[tuple[int, str]],
    listed: Mapping[str, Row],
    make: Callable[[int, str, Row], Instrument],
    *,
    absent: str = "not listed at the venue",
    together: Callable[[Sequence[Instrument]], Sequence[str]] = lambda rows: (),
) -> Instruments:
    """The wanted (index of the engine, symbol) in their order, made of the rows that the venue lists.

    ``make(index, symbol, row)`` raises ``ValueError`` for what cannot be used; ``together`` says what is wrong with all of them.
    ``ValueError`` names every one that is missing or cannot be used, one sentence each.
    """
    rows: list[Instrument] = []
    problems: list[str] = []
    for index, symbol in wanted:
        if symbol not in listed:
            problems.append(f"{symbol}: {absent}")
            continue
        try:
            rows.append(make(index, symbol, listed[symbol]))
        except KeyError as problem:
            problems.append(f"{symbol}: the venue tells no {problem.args[0]}")
        except (msgspec.MsgspecError, ValueError) as problem:
            problems.append(f"{symbol}: {problem}")
    problems += together(rows)
    if problems:
        raise ValueError("; ".join(problems))
    return Instruments(rows)
