"""Instruments: the venue's ``instruments-info`` to exact integers.

A spot pair and a perpetual bear the same name at the venue (``BTCUSDT``) and are told apart by their category only. Here the
perpetual keeps the name and the pair is ``BTCUSDT_SPOT``. Both are counted in the base asset, never in contracts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from copyd._fast.decimals import parse_scaled
from copyd.venues.common.instruments import Instrument, Instruments, ceil_lots, chosen, floor_lots, step_of, value_of_step

SPOT_MARK = "_SPOT"
LINEAR, SPOT = "linear", "spot"
#: What linear perpetuals of ours are settled in, and pairs of ours are paid with.
SETTLE_COIN = "USDT"
#: Open orders of an account in a symbol (perpetuals), or in all (spot).
ORDERS_MAX = 500
PPM = 1_000_000


class _Prices(msgspec.Struct):
    tickSize: str


class _Lots(msgspec.Struct):
    minOrderQty: str
    qtyStep: str = ""
    basePrecision: str = ""
    maxOrderQty: str = ""
    maxMktOrderQty: str = ""
    maxLimitOrderQty: str = ""
    maxMarketOrderQty: str = ""
    minNotionalValue: str = "0"
    minOrderAmt: str = "0"


class _Leverage(msgspec.Struct, frozen=True):
    maxLeverage: str = "0"


class _Risk(msgspec.Struct, frozen=True):
    priceLimitRatioX: str = "0"


class _Row(msgspec.Struct):
    symbol: str
    priceFilter: _Prices
    lotSizeFilter: _Lots
    status: str = ""
    contractType: str = ""
    baseCoin: str = ""
    quoteCoin: str = ""
    settleCoin: str = ""
    leverageFilter: _Leverage = _Leverage()
    riskParameters: _Risk = _Risk()


class _Name(msgspec.Struct):
    symbol: str


class _List(msgspec.Struct):
    category: str
    rows: list[msgspec.Raw] = msgspec.field(name="list")


class _Body(msgspec.Struct):
    result: _List


_BODY = msgspec.json.Decoder(_Body)
_NAME = msgspec.json.Decoder(_Name)
_ROW = msgspec.json.Decoder(_Row)


def category(item: Instrument) -> str:
    """The venue's category of an instrument."""
    return SPOT if item.spot else LINEAR


def wire_symbol(item: Instrument) -> str:
    """An instrument's name as the venue writes it."""
    return item.symbol.removesuffix(SPOT_MARK) if item.spot else item.symbol


def find(instruments: Instruments, kind: str, symbol: str) -> Instrument | None:
    """The instrument of a category and a symbol of the venue, None when it is not one of ours."""
    if kind == SPOT:
        return instruments.find(symbol + SPOT_MARK)
    item = instruments.find(symbol) if kind == LINEAR else None
    return item if item is not None and not item.spot else None


def load_instruments(bodies: Iterable[bytes], wanted: Sequence[tuple[int, str]]) -> Instruments:
    """The wanted ones (index of the engine, symbol) from pages of ``instruments-info``, of either category.

    ``ValueError`` names every one that is missing or cannot be used, one sentence each.
    """
    names = {symbol for _, symbol in wanted}
    listed: dict[str, bytes] = {}
    for body in bodies:
        try:
            page = _BODY.decode(body).result
            mark = SPOT_MARK if page.category == SPOT else ""
            for raw in page.rows:
                symbol = _NAME.decode(raw).symbol + mark
                if symbol in names:
                    listed[symbol] = bytes(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise ValueError(f"the venue's list of instruments is unreadable: {problem}") from None
    return chosen(wanted, listed, lambda index, symbol, raw: _instrument(index, symbol, _ROW.decode(raw)))


def _instrument(index: int, symbol: str, row: _Row) -> Instrument:
    spot = symbol.endswith(SPOT_MARK)
    if not spot and row.contractType != "LinearPerpetual":
        raise ValueError(f"a {row.contractType or 'contract of no type'} is no linear perpetual")
    settle = row.settleCoin or row.quoteCoin
    if settle != SETTLE_COIN:
        raise ValueError(f"it is paid for in {settle or 'nothing'}; accounts are read in {SETTLE_COIN}")
    lots = row.lotSizeFilter
    price_decimals, tick = step_of(row.priceFilter.tickSize)
    qty_decimals, lot = step_of(lots.basePrecision if spot else lots.qtyStep)
    largest = (lots.maxLimitOrderQty or lots.maxOrderQty) if spot else lots.maxOrderQty
    market = (lots.maxMarketOrderQty if spot else lots.maxMktOrderQty) or largest
    smallest = max(1, ceil_lots(lots.minOrderQty, qty_decimals, lot))
    value_mul, value_div = value_of_step(lot, tick, price_decimals + qty_decimals)
    band = parse_scaled(row.riskParameters.priceLimitRatioX or "0", 6)
    return Instrument(
        index=index,
        symbol=symbol,
        status=row.status,
        quote_asset=row.quoteCoin,
        margin_asset=settle,
        price_decimals=price_decimals,
        tick=tick,
        qty_decimals=qty_decimals,
        lot=lot,
        lot_min=smallest,
        lot_max=floor_lots(largest, qty_decimals, lot),
        market_lot_min=smallest,
        market_lot_max=floor_lots(market, qty_decimals, lot),
        min_notional_e8=parse_scaled((lots.minOrderAmt if spot else lots.minNotionalValue) or "0", 8),
        value_mul=value_mul,
        value_div=value_div,
        # The band that stands on the mark alone; a wider one stands on the index beside it, which is not at hand.
        price_up_ppm=PPM + band if band else 0,
        price_down_ppm=PPM - band if 0 < band < PPM else 0,
        market_take_bound_ppm=0,
        orders_max=ORDERS_MAX,
        base_asset=row.baseCoin,
        spot=spot,
        leverage_max=0 if spot else _whole(row.leverageFilter.maxLeverage),
    )


def _whole(text: str) -> int:
    """``"100.00"`` -> 100; what stands behind the point is cut."""
    return parse_scaled(text or "0", 8) // 10**8
