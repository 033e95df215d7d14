"""Instruments: the venue's contracts and spot symbols to exact integers.

The tick of a perpetual is ``priceEndStep`` of the last of ``pricePlace`` decimals; quantities step by ``sizeMultiplier``. Spot
steps are powers of ten. Both markets write one symbol alike, so copyd's symbol of a spot market bears ``_SPBL`` (as the venue's
own first API wrote it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from copyd._fast.decimals import cut_scaled, parse_scaled
from copyd.venues.common.instruments import Instrument, Instruments, ceil_lots, chosen, value_of_step

SPOT_MARK = "_SPBL"
#: What the venue calls a market that trades; anything else is kept as it is called.
TRADING = {"normal": "TRADING", "online": "TRADING"}
#: Where there is no largest quantity.
LOTS_MAX = 10**15
ORDERS_MAX_DEFAULT = 200


def venue_symbol(symbol: str) -> str:
    """A symbol of ours as the venue writes it."""
    return symbol.removesuffix(SPOT_MARK)


class _Contract(msgspec.Struct):
    symbol: str
    baseCoin: str = ""
    quoteCoin: str = ""
    supportMarginCoins: list[str] = []
    symbolType: str = ""
    symbolStatus: str = ""
    pricePlace: str = ""
    priceEndStep: str = ""
    volumePlace: str = ""
    sizeMultiplier: str = ""
    minTradeNum: str = ""
    minTradeUSDT: str | None = None
    maxOrderQty: str | None = None
    maxMarketOrderQty: str | None = None
    maxSymbolOrderNum: str | None = None
    buyLimitPriceRatio: str | None = None
    sellLimitPriceRatio: str | None = None
    maxLever: str | None = None


class _Symbol(msgspec.Struct):
    symbol: str
    baseCoin: str = ""
    quoteCoin: str = ""
    status: str = ""
    pricePrecision: str = ""
    quantityPrecision: str = ""
    minTradeAmount: str | None = None
    maxTradeAmount: str | None = None
    minTradeUSDT: str | None = None
    buyLimitPriceRatio: str | None = None
    sellLimitPriceRatio: str | None = None
    orderQuantity: str | None = None


class _Contracts(msgspec.Struct):
    data: list[_Contract] | None = None


class _Symbols(msgspec.Struct):
    data: list[_Symbol] | None = None


_CONTRACTS = msgspec.json.Decoder(_Contracts)
_SYMBOLS = msgspec.json.Decoder(_Symbols)


def load_instruments(bodies: Mapping[str, bytes], wanted: Sequence[tuple[int, str]]) -> Instruments:
    """The wanted (index, symbol) in their order. ``bodies``: ``"contracts"`` and, for spot, ``"symbols"``, as they came.

    ``ValueError`` names every symbol that is missing or cannot be used.
    """
    return chosen(wanted, _listed(bodies), _instrument)


def load_one_market(bodies: Mapping[str, bytes], wanted: Sequence[tuple[int, str]]) -> Instruments:
    """As ``load_instruments``; ``ValueError`` for spot beside perpetuals: they are two accounts, and one balance is kept of each
    that is traded."""
    spot = [symbol for _, symbol in wanted if symbol.endswith(SPOT_MARK)]
    if 0 < len(spot) < len(wanted):
        raise ValueError(f"{', '.join(spot)}: spot cannot stand beside perpetuals: enter the exchange twice, once for each")
    return load_instruments(bodies, wanted)


def _listed(bodies: Mapping[str, bytes]) -> dict[str, _Contract | _Symbol]:
    """By our symbols: those of spot bear a mark."""
    try:
        contracts = _CONTRACTS.decode(bodies["contracts"]).data or []
        symbols = _SYMBOLS.decode(bodies["symbols"]).data or [] if "symbols" in bodies else []
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise ValueError(f"the list of instruments is unreadable: {problem}") from None
    return {row.symbol: row for row in contracts} | {row.symbol + SPOT_MARK: row for row in symbols}


def _instrument(index: int, symbol: str, row: _Contract | _Symbol) -> Instrument:
    return _spot(index, symbol, row) if isinstance(row, _Symbol) else _perpetual(index, row)


def _perpetual(index: int, row: _Contract) -> Instrument:
    if row.symbolType != "perpetual":
        raise ValueError(f"is a {row.symbolType or 'nameless'} contract, not a perpetual")
    if "USDT" not in row.supportMarginCoins or row.quoteCoin != "USDT":
        raise ValueError("is not margined in USDT")
    price_decimals, tick = _step(_whole(row.priceEndStep, "priceEndStep"), _whole(row.pricePlace, "pricePlace"))
    qty_decimals = _whole(row.volumePlace, "volumePlace")
    lot = _positive(row.sizeMultiplier, qty_decimals, "sizeMultiplier")
    largest = _largest(row.maxOrderQty, qty_decimals, lot)
    value_mul, value_div = value_of_step(lot, tick, price_decimals + qty_decimals)
    up, down = _band(row.buyLimitPriceRatio, row.sellLimitPriceRatio)
    return Instrument(
        index=index,
        symbol=row.symbol,
        status=TRADING.get(row.symbolStatus, row.symbolStatus),
        quote_asset=row.quoteCoin,
        margin_asset="USDT",
        base_asset=row.baseCoin,
        price_decimals=price_decimals,
        tick=tick,
        qty_decimals=qty_decimals,
        lot=lot,
        lot_min=max(1, ceil_lots(row.minTradeNum or "0", qty_decimals, lot)),
        lot_max=largest,
        market_lot_min=max(1, ceil_lots(row.minTradeNum or "0", qty_decimals, lot)),
        market_lot_max=min(largest, _largest(row.maxMarketOrderQty, qty_decimals, lot)),
        min_notional_e8=parse_scaled(row.minTradeUSDT or "0", 8),
        value_mul=value_mul,
        value_div=value_div,
        price_up_ppm=up,
        price_down_ppm=down,
        market_take_bound_ppm=0,
        orders_max=int(row.maxSymbolOrderNum or ORDERS_MAX_DEFAULT),
        leverage_max=int(row.maxLever or 0),
    )


def _spot(index: int, symbol: str, row: _Symbol) -> Instrument:
    price_decimals = _whole(row.pricePrecision, "pricePrecision")
    qty_decimals = _whole(row.quantityPrecision, "quantityPrecision")
    smallest = max(1, ceil_lots(row.minTradeAmount or "0", qty_decimals, 1))
    largest = _largest(row.maxTradeAmount, qty_decimals, 1)
    value_mul, value_div = value_of_step(1, 1, price_decimals + qty_decimals)
    up, down = _band(row.buyLimitPriceRatio, row.sellLimitPriceRatio)
    return Instrument(
        index=index,
        symbol=symbol,
        status=TRADING.get(row.status, row.status),
        quote_asset=row.quoteCoin,
        margin_asset=row.quoteCoin,
        base_asset=row.baseCoin,
        price_decimals=price_decimals,
        tick=1,
        qty_decimals=qty_decimals,
        lot=1,
        lot_min=smallest,
        lot_max=largest,
        market_lot_min=smallest,
        market_lot_max=largest,
        min_notional_e8=parse_scaled(row.minTradeUSDT or "0", 8),
        value_mul=value_mul,
        value_div=value_div,
        price_up_ppm=up,
        price_down_ppm=down,
        market_take_bound_ppm=0,
        orders_max=int(row.orderQuantity or ORDERS_MAX_DEFAULT),
        spot=True,
    )


def _whole(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4:
        raise ValueError(f"{name} is {text!r}, no small whole number")
    return int(text)


def _step(step: int, decimals: int) -> tuple[int, int]:
    """(decimals, tick) of a price, in the fewest decimals: 5 of the first decimal is 0.5, 10 of it is 1."""
    if step <= 0:
        raise ValueError(f"priceEndStep is {step}, not positive")
    while decimals and step % 10 == 0:
        decimals, step = decimals - 1, step // 10
    return decimals, step


def _positive(text: str, decimals: int, name: str) -> int:
    value = parse_scaled(text, decimals) if text else 0
    if value <= 0:
        raise ValueError(f"{name} is {text!r}, not positive")
    return value


def _largest(text: str | None, decimals: int, lot: int) -> int:
    """Lots; nothing, 0, and a number beyond all quantities mean that there is no bound."""
    whole = (text or "0").partition(".")[0].lstrip("0")
    if whole.isdigit() and len(whole) + decimals > 18:
        return LOTS_MAX
    return min(cut_scaled(text or "0", decimals) // lot or LOTS_MAX, LOTS_MAX)


def _band(buy: str | None, sell: str | None) -> tuple[int, int]:
    """How far a limit price may lie from the mark; 0 where a side is not told."""
    up, down = parse_scaled(buy or "0", 6), parse_scaled(sell or "0", 6)
    return 1_000_000 + up if up else 0, max(0, 1_000_000 - down) if down else 0
