"""Instruments: the venue's ``exchangeInfo`` to exact integers.

``pricePrecision`` and ``quantityPrecision`` are not tick and step (they only bound what may be written); the filters are.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from copyd._fast.decimals import parse_scaled
from copyd.venues.common.instruments import Instrument, Instruments, ceil_lots, chosen, floor_lots, step_of, value_of_step


class _Symbol(msgspec.Struct):
    symbol: str
    status: str = ""
    contractType: str = ""
    baseAsset: str = ""
    quoteAsset: str = ""
    marginAsset: str = ""
    filters: list[dict[str, str | int | bool]] = []
    marketTakeBound: str = "0"


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Symbol]


_INFO = msgspec.json.Decoder(_ExchangeInfo, strict=False)


def load_instruments(exchange_info: bytes, wanted: Sequence[tuple[int, str]]) -> Instruments:
    """The wanted symbols under their indexes; ``ValueError`` names every one that is missing or cannot be used."""
    try:
        listed = {row.symbol: row for row in _INFO.decode(exchange_info).symbols}
    except msgspec.MsgspecError as problem:
        raise ValueError(f"exchange information is unreadable: {problem}") from None
    return chosen(wanted, listed, _instrument)


def _instrument(index: int, symbol: str, row: _Symbol) -> Instrument:
    filters = {str(f["filterType"]): {k: str(v) for k, v in f.items()} for f in row.filters}
    price, lots = filters["PRICE_FILTER"], filters["LOT_SIZE"]
    market = filters.get("MARKET_LOT_SIZE", lots)
    percent = filters.get("PERCENT_PRICE", {})
    price_decimals, tick = step_of(price["tickSize"])
    qty_decimals, lot = step_of(lots["stepSize"])
    market_decimals, market_lot = step_of(market["stepSize"])
    # a market order may have a coarser step only if every lot is still reachable by it; else one lot size must serve both
    if market_lot * 10 ** (18 - market_decimals) > lot * 10 ** (18 - qty_decimals):
        qty_decimals, lot = market_decimals, market_lot
    value_mul, value_div = value_of_step(lot, tick, price_decimals + qty_decimals)
    return Instrument(
        index=index,
        symbol=symbol,
        status=row.status,
        quote_asset=row.quoteAsset,
        base_asset=row.baseAsset,
        margin_asset=row.marginAsset or row.quoteAsset,
        price_decimals=price_decimals,
        tick=tick,
        qty_decimals=qty_decimals,
        lot=lot,
        lot_min=max(1, ceil_lots(lots["minQty"], qty_decimals, lot)),
        lot_max=floor_lots(lots["maxQty"], qty_decimals, lot),
        market_lot_min=max(1, ceil_lots(market["minQty"], qty_decimals, lot)),
        market_lot_max=floor_lots(market["maxQty"], qty_decimals, lot),
        min_notional_e8=parse_scaled(filters.get("MIN_NOTIONAL", {}).get("notional", "0"), 8),
        value_mul=value_mul,
        value_div=value_div,
        price_up_ppm=parse_scaled(percent.get("multiplierUp", "0"), 6),
        price_down_ppm=parse_scaled(percent.get("multiplierDown", "0"), 6),
        market_take_bound_ppm=parse_scaled(row.marketTakeBound, 6),
        orders_max=int(filters.get("MAX_NUM_ORDERS", {}).get("limit", "200")),
    )
