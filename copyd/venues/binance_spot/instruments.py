"""Instruments: the venue's ``exchangeInfo`` to exact integers.

Steps are written with trailing zeros and mean what they mean without them. ``MARKET_LOT_SIZE`` with a step or a bound of zero has
none. A band by side binds a buy from above and a sale from below: that is what a marketable order runs into.

An account holds assets, and copyd reads a position from the balance of the base asset. So no two markets in use may share it,
and all must be quoted in one asset, which is the wallet.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from copyd._fast.decimals import parse_scaled
from copyd.venues.common.instruments import Instrument, Instruments, ceil_lots, chosen, floor_lots, step_of, value_of_step

#: Digits of every balance of the venue.
BALANCE_DECIMALS = 8


class _Symbol(msgspec.Struct):
    symbol: str
    status: str = ""
    baseAsset: str = ""
    quoteAsset: str = ""
    isSpotTradingAllowed: bool = True
    filters: list[dict[str, str | int | bool]] = []


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Symbol]


_INFO = msgspec.json.Decoder(_ExchangeInfo, strict=False)


def load_instruments(exchange_info: bytes, wanted: Sequence[tuple[int, str]]) -> Instruments:
    """The wanted (engine index, symbol); ``ValueError`` names every one that is missing or cannot be used."""
    try:
        listed = {row.symbol: row for row in _INFO.decode(exchange_info).symbols}
    except msgspec.MsgspecError as problem:
        raise ValueError(f"exchange information is unreadable: {problem}") from None
    return chosen(wanted, listed, _instrument, together=_shared)


def _shared(rows: Sequence[Instrument]) -> list[str]:
    """Why the markets cannot be told apart by balances; none: they can."""
    problems = []
    owner: dict[str, str] = {}
    for row in rows:
        if row.base_asset in owner:
            problems.append(f"{row.symbol}: {row.base_asset} is what {owner[row.base_asset]} trades; one market for an asset")
        owner.setdefault(row.base_asset, row.symbol)
        if row.quote_asset != rows[0].quote_asset:
            problems.append(f"{row.symbol}: quoted in {row.quote_asset}, {rows[0].symbol} in {rows[0].quote_asset}; one wallet")
    return problems


def _instrument(index: int, symbol: str, row: _Symbol) -> Instrument:
    if not row.isSpotTradingAllowed:
        raise ValueError("is not traded on spot")
    if not row.baseAsset or not row.quoteAsset:
        raise ValueError("the venue does not say which assets it trades")
    filters = {str(f["filterType"]): {k: str(v) for k, v in f.items()} for f in row.filters}
    price, lots = filters["PRICE_FILTER"], filters["LOT_SIZE"]
    market = {**lots, **{k: v for k, v in filters.get("MARKET_LOT_SIZE", {}).items() if v.strip("0.")}}
    by_side, both = filters.get("PERCENT_PRICE_BY_SIDE", {}), filters.get("PERCENT_PRICE", {})
    up = by_side.get("bidMultiplierUp", both.get("multiplierUp", "0"))
    down = by_side.get("askMultiplierDown", both.get("multiplierDown", "0"))
    least = filters.get("NOTIONAL", filters.get("MIN_NOTIONAL", {})).get("minNotional", "0")
    price_decimals, tick = step_of(price["tickSize"])
    qty_decimals, lot = step_of(lots["stepSize"])
    market_decimals, market_lot = step_of(market["stepSize"])
    # a market order may have a coarser step only if every lot is still reachable by it; else one lot size must serve both
    if market_lot * 10 ** (18 - market_decimals) > lot * 10 ** (18 - qty_decimals):
        qty_decimals, lot = market_decimals, market_lot
    if qty_decimals > BALANCE_DECIMALS:
        raise ValueError(f"its lot has {qty_decimals} decimals, a balance {BALANCE_DECIMALS}")
    value_mul, value_div = value_of_step(lot, tick, price_decimals + qty_decimals)
    return Instrument(
        index=index,
        symbol=symbol,
        status=row.status,
        base_asset=row.baseAsset,
        quote_asset=row.quoteAsset,
        margin_asset=row.quoteAsset,
        price_decimals=price_decimals,
        tick=tick,
        qty_decimals=qty_decimals,
        lot=lot,
        lot_min=max(1, ceil_lots(lots["minQty"], qty_decimals, lot)),
        lot_max=floor_lots(lots["maxQty"], qty_decimals, lot),
        market_lot_min=max(1, ceil_lots(market["minQty"], qty_decimals, lot)),
        market_lot_max=floor_lots(market["maxQty"], qty_decimals, lot),
        min_notional_e8=parse_scaled(least, 8),
        value_mul=value_mul,
        value_div=value_div,
        price_up_ppm=parse_scaled(up, 6),
        price_down_ppm=parse_scaled(down, 6),
        market_take_bound_ppm=0,
        orders_max=int(filters.get("MAX_NUM_ORDERS", {}).get("maxNumOrders", "200")),
        spot=True,
        leverage_max=1,
    )


def held_lots(instrument: Instrument, free: str, locked: str) -> int:
    """Whole lots in a balance; what is less than a lot is no position. ``ValueError``: no balance of 8 decimals."""
    amount = parse_scaled(free, BALANCE_DECIMALS) + parse_scaled(locked, BALANCE_DECIMALS)
    return amount // (instrument.lot * 10 ** (BALANCE_DECIMALS - instrument.qty_decimals))
