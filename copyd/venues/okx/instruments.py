"""Instruments: the venue's ``public/instruments`` to exact integers.

A perpetual counts contracts: one is worth ``ctVal x ctMult`` of the base asset, and quantities are written in contracts. Spot
counts in the base asset; what its market orders may be at most is said as a value. The venue has no minimum notional; its price
band moves and is no multiple of the mark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor

import msgspec

from copyd.venues.common.instruments import Instrument, Instruments, chosen, step_of

#: Open orders of one account in one instrument.
ORDERS_MAX = 500
#: The venue writes "no limit" as a number of its own; more lots than this nobody holds.
LOTS_MAX = 1 << 62
#: What a market order of spot may be worth at most is put into lots at this many times its price, which may rise while we run.
PRICE_ROOM = 4
_NUMBER = re.compile(r"\d{1,20}(\.\d{1,30})?")


class _Row(msgspec.Struct):
    instId: str
    instType: str = ""
    instIdCode: int | str | None = None
    baseCcy: str = ""
    quoteCcy: str = ""
    settleCcy: str = ""
    ctVal: str = ""
    ctMult: str = ""
    ctValCcy: str = ""
    ctType: str = ""
    tickSz: str = ""
    lotSz: str = ""
    minSz: str = ""
    maxLmtSz: str = ""
    maxMktSz: str = ""
    lever: str = ""
    state: str = ""
    last: str = ""


class _Body(msgspec.Struct):
    data: list[_Row]


_BODY = msgspec.json.Decoder(_Body)


def load_instruments(bodies: Sequence[bytes], wanted: Sequence[tuple[int, str]]) -> Instruments:
    """The wanted (index, symbol) in the wanted order; ``ValueError`` names every one that is missing or cannot be used.

    ``bodies``: answers of ``public/instruments``, one per type of instrument, and of ``market/tickers`` for spot.
    """
    rows: list[_Row] = []
    for body in bodies:
        try:
            rows += _BODY.decode(body).data
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise ValueError(f"the venue's list of instruments is unreadable: {problem}") from None
    prices = {row.instId: row.last for row in rows if not row.state}  # a ticker has none
    listed = {row.instId: row for row in rows if row.state}

    def made(index: int, symbol: str, row: _Row) -> Instrument:
        return _instrument(index, symbol, row, prices.get(symbol, ""))

    return chosen(wanted, listed, made, together=_shared)


def _shared(rows: Sequence[Instrument]) -> list[str]:
    """Why they cannot share an account: what is held of an asset is of one spot instrument, and one asset pays for all."""
    problems = []
    owner: dict[str, str] = {}
    for row in rows:
        if row.spot and row.base_asset in owner:
            problems.append(f"{row.symbol}: {row.base_asset} is what {owner[row.base_asset]} trades; one market for an asset")
        if row.spot:
            owner.setdefault(row.base_asset, row.symbol)
        if row.margin_asset != rows[0].margin_asset:
            problems.append(f"{row.symbol}: paid in {row.margin_asset}, {rows[0].symbol} in {rows[0].margin_asset}; one wallet")
    return problems


def _number(text: str) -> Fraction:
    """A number of the list, exactly; its largest are beyond the integers that prices and quantities are read with."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no number")
    return Fraction(text)


def _contract(row: _Row) -> Fraction:
    """Base asset per unit of quantity; what is neither spot nor a linear USDT perpetual is refused."""
    if row.instType == "SPOT":
        return Fraction(1)
    if row.instType != "SWAP":
        raise ValueError(f"is of type {row.instType or '?'}, neither SWAP nor SPOT")
    if row.ctType != "linear":
        raise ValueError(f"is no linear contract ({row.ctType or 'type not told'})")
    if row.settleCcy != "USDT":
        raise ValueError(f"is settled in {row.settleCcy or '?'}, not in USDT")
    value = _number(row.ctVal) * _number(row.ctMult or "1")
    if value <= 0:
        raise ValueError(f"contract value {row.ctVal} is not positive")
    return value


def _code(row: _Row) -> int:
    """The number by which orders on a connection name the instrument."""
    text = str(row.instIdCode if row.instIdCode is not None else "")
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"instIdCode {text!r} is no number: orders cannot name it")
    return int(text)


def _assets(row: _Row) -> tuple[str, str, str]:
    """(base, quote, margin): a perpetual's list entry leaves the first two empty, its name tells them."""
    if row.instType == "SPOT":
        return row.baseCcy, row.quoteCcy, row.quoteCcy
    base, _, rest = row.instId.partition("-")
    quote, _, _ = rest.partition("-")
    return row.ctValCcy or base, quote, row.settleCcy


def _market_lot_max(row: _Row, last: str, lot_size: Fraction, lot_max: int) -> int:
    """Lots of the largest market order. Of spot the venue says its value: without a price it binds there and not here."""
    largest = _number(row.maxMktSz)
    if row.instType != "SPOT":
        return min(LOTS_MAX, floor(largest / lot_size))
    if not last or not (price := _number(last)):
        return lot_max
    return min(lot_max, max(1, floor(largest / (price * PRICE_ROOM * lot_size))))


def _instrument(index: int, symbol: str, row: _Row, last: str) -> Instrument:
    contract = _contract(row)
    base, quote, margin = _assets(row)
    for name in ("tickSz", "lotSz", "minSz", "maxLmtSz", "maxMktSz"):
        if not getattr(row, name):
            raise ValueError(f"{name} is not told")
    price_decimals, tick = step_of(row.tickSz)
    qty_decimals, lot = step_of(row.lotSz)
    lot_size = _number(row.lotSz)
    value = lot_size * contract * _number(row.tickSz) * 10**8
    lot_min = max(1, ceil(_number(row.minSz) / lot_size))
    lot_max = min(LOTS_MAX, floor(_number(row.maxLmtSz) / lot_size))
    spot = row.instType == "SPOT"
    return Instrument(
        index=index,
        symbol=symbol,
        status=row.state,
        quote_asset=quote,
        margin_asset=margin,
        price_decimals=price_decimals,
        tick=tick,
        qty_decimals=qty_decimals,
        lot=lot,
        lot_min=lot_min,
        lot_max=lot_max,
        market_lot_min=lot_min,
        market_lot_max=_market_lot_max(row, last, lot_size, lot_max),
        min_notional_e8=0,
        value_mul=value.numerator,
        value_div=value.denominator,
        price_up_ppm=0,
        price_down_ppm=0,
        market_take_bound_ppm=0,
        orders_max=ORDERS_MAX,
        base_asset=base,
        contract_mul=contract.numerator,
        contract_div=contract.denominator,
        spot=spot,
        code=_code(row),
        leverage_max=floor(_number(row.lever)) if row.lever and not spot else 0,
    )
