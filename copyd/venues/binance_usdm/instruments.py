"""Instruments: the venue's ``exchangeInfo`` to exact integers.

``pricePrecision`` and ``quantityPrecision`` are not tick and step (they only bound what may be written); the filters are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd

import msgspec

from copyd._fast.decimals import cut_scaled, parse_scaled, parse_steps
from copyd._fast.encode import Encoder
from copyd._fast.replies import Reader


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One perpetual. Prices are in ticks, quantities in lots; ``tick`` and ``lot`` are in units of 10**-decimals."""

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

    def lots(self, text: str) -> int:
        """A quantity of the venue in lots, signed; not a multiple of the lot is an error."""
        return parse_steps(text, self.qty_decimals, self.lot)


class Instruments:
    """The instruments in use, by index and by symbol."""

    def __init__(self, rows: Sequence[Instrument]) -> None:
        if [row.index for row in rows] != list(range(len(rows))):
            raise ValueError("instrument indexes must be 0, 1, 2, ...")
        self._rows = tuple(rows)
        self._by_symbol = {row.symbol: row for row in rows}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Instrument]:
        return iter(self._rows)

    def __getitem__(self, index: int) -> Instrument:
        return self._rows[index]

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


class _Symbol(msgspec.Struct):
    symbol: str
    status: str = ""
    contractType: str = ""
    quoteAsset: str = ""
    marginAsset: str = ""
    filters: list[dict[str, str | int | bool]] = []
    marketTakeBound: str = "0"


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Symbol]


_INFO = msgspec.json.Decoder(_ExchangeInfo, strict=False)


def load_instruments(exchange_info: bytes, symbols: Sequence[str]) -> Instruments:
    """The wanted symbols in the wanted order; ``ValueError`` names every one that is missing or cannot be used."""
    try:
        listed = {row.symbol: row for row in _INFO.decode(exchange_info).symbols}
    except msgspec.MsgspecError as problem:
        raise ValueError(f"exchange information is unreadable: {problem}") from None
    rows: list[Instrument] = []
    problems: list[str] = []
    for index, symbol in enumerate(symbols):
        if symbol not in listed:
            problems.append(f"{symbol}: not listed at the venue")
            continue
        try:
            rows.append(_instrument(index, listed[symbol]))
        except (KeyError, ValueError) as problem:
            problems.append(f"{symbol}: {problem}")
    if problems:
        raise ValueError("; ".join(problems))
    return Instruments(rows)


def _step(text: str) -> tuple[int, int]:
    """``"0.010"`` -> (2, 1): the fewest decimals that write the step, and the step in them."""
    _, _, part = text.partition(".")
    decimals = len(part.rstrip("0"))
    step = parse_scaled(text, decimals)
    if step <= 0:
        raise ValueError(f"step {text} is not positive")
    return decimals, step


def _ceil_lots(text: str, decimals: int, lot: int) -> int:
    """A bound that need not be a multiple of the lot, up to the next lot."""
    return -(-parse_scaled(text, max(decimals, 12)) // (lot * 10 ** (max(decimals, 12) - decimals)))


def _floor_lots(text: str, decimals: int, lot: int) -> int:
    return parse_scaled(text, max(decimals, 12)) // (lot * 10 ** (max(decimals, 12) - decimals))


def _instrument(index: int, row: _Symbol) -> Instrument:
    filters = {str(f["filterType"]): {k: str(v) for k, v in f.items()} for f in row.filters}
    price, lots = filters["PRICE_FILTER"], filters["LOT_SIZE"]
    market = filters.get("MARKET_LOT_SIZE", lots)
    percent = filters.get("PERCENT_PRICE", {})
    price_decimals, tick = _step(price["tickSize"])
    qty_decimals, lot = _step(lots["stepSize"])
    market_decimals, market_lot = _step(market["stepSize"])
    # a market order may have a coarser step only if every lot is still reachable by it; else one lot size must serve both
    if market_lot * 10 ** (18 - market_decimals) > lot * 10 ** (18 - qty_decimals):
        qty_decimals, lot = market_decimals, market_lot
    mul, div = lot * tick * 10**8, 10 ** (price_decimals + qty_decimals)
    common = gcd(mul, div)
    return Instrument(
        index=index,
        symbol=row.symbol,
        status=row.status,
        quote_asset=row.quoteAsset,
        margin_asset=row.marginAsset or row.quoteAsset,
        price_decimals=price_decimals,
        tick=tick,
        qty_decimals=qty_decimals,
        lot=lot,
        lot_min=max(1, _ceil_lots(lots["minQty"], qty_decimals, lot)),
        lot_max=_floor_lots(lots["maxQty"], qty_decimals, lot),
        market_lot_min=max(1, _ceil_lots(market["minQty"], qty_decimals, lot)),
        market_lot_max=_floor_lots(market["maxQty"], qty_decimals, lot),
        min_notional_e8=parse_scaled(filters.get("MIN_NOTIONAL", {}).get("notional", "0"), 8),
        value_mul=mul // common,
        value_div=div // common,
        price_up_ppm=parse_scaled(percent.get("multiplierUp", "0"), 6),
        price_down_ppm=parse_scaled(percent.get("multiplierDown", "0"), 6),
        market_take_bound_ppm=parse_scaled(row.marketTakeBound, 6),
        orders_max=int(filters.get("MAX_NUM_ORDERS", {}).get("limit", "200")),
    )
