"""Instruments: ccxt's markets to exact integers. An instrument bears the exchange's own name; quantities are what an order's
amount counts, contracts of ``contractSize`` of the base asset."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import msgspec

from copyd._fast.decimals import parse_scaled
from copyd.venues.common.instruments import Instrument, Instruments, ceil_lots, chosen, floor_lots, step_of

#: An exchange that names no largest order: as many lots as 40 bits count.
LOTS_MAX = 1 << 40
Text = str | int | None


class _Bound(msgspec.Struct):
    min: Text = None
    max: Text = None


class _Limits(msgspec.Struct):
    amount: _Bound = msgspec.field(default_factory=_Bound)
    cost: _Bound = msgspec.field(default_factory=_Bound)
    leverage: _Bound = msgspec.field(default_factory=_Bound)
    market: _Bound = msgspec.field(default_factory=_Bound)


class _Precision(msgspec.Struct):
    amount: Text = None
    price: Text = None


class Market(msgspec.Struct):
    """A market as ccxt unifies it. ``symbol``: ccxt's name; ``id``: the exchange's."""

    id: str
    symbol: str
    precision: _Precision
    limits: _Limits
    base: str = ""
    quote: str = ""
    settle: str | None = None
    active: bool | None = None
    contractSize: Text = None


def markets_of(body: bytes) -> list[Market]:
    """The markets in an answer; ``ValueError`` for what is none."""
    try:
        return msgspec.json.decode(body, type=list[Market])
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise ValueError(f"ccxt's markets are unreadable: {problem}") from None


def load_instruments(body: bytes, wanted: Sequence[tuple[int, str]]) -> Instruments:
    """The wanted ones (index of the engine, the exchange's name). ``ValueError`` names every one that is missing or cannot be
    used, one sentence each."""
    listed = {market.id: market for market in markets_of(body)}
    return chosen(wanted, listed, _instrument, absent="not listed as a linear perpetual")


def _instrument(index: int, symbol: str, market: Market) -> Instrument:
    price_decimals, tick = step_of(_text(market.precision.price, "price step"))
    qty_decimals, lot = step_of(_text(market.precision.amount, "quantity step"))
    amount, at_market = market.limits.amount, market.limits.market
    smallest = max(1, ceil_lots(str(amount.min), qty_decimals, lot)) if amount.min else 1
    largest = floor_lots(str(amount.max), qty_decimals, lot) if amount.max else LOTS_MAX
    market_largest = min(largest, floor_lots(str(at_market.max), qty_decimals, lot)) if at_market.max else largest
    size = parse_scaled(_text(market.contractSize, "contract size"), 12)
    common = gcd(size, 10**12)
    contract_mul, contract_div = size // common, 10**12 // common
    mul, div = lot * tick * contract_mul * 10**8, 10 ** (price_decimals + qty_decimals) * contract_div
    shared = gcd(mul, div)
    leverage = market.limits.leverage.max
    return Instrument(
        index=index,
        symbol=symbol,
        status="inactive" if market.active is False else "active",
        quote_asset=market.quote,
        margin_asset=market.settle or market.quote,
        price_decimals=price_decimals,
        tick=tick,
        qty_decimals=qty_decimals,
        lot=lot,
        lot_min=smallest,
        lot_max=largest,
        market_lot_min=smallest,
        market_lot_max=market_largest,
        min_notional_e8=parse_scaled(str(market.limits.cost.min), 8) if market.limits.cost.min else 0,
        value_mul=mul // shared,
        value_div=div // shared,
        price_up_ppm=0,
        price_down_ppm=0,
        market_take_bound_ppm=0,
        orders_max=0,
        base_asset=market.base,
        contract_mul=contract_mul,
        contract_div=contract_div,
        leverage_max=int(str(leverage).partition(".")[0]) if leverage else 0,
    )


def _text(value: Text, what: str) -> str:
    if value in (None, ""):
        raise ValueError(f"ccxt does not tell its {what}")
    return str(value)
