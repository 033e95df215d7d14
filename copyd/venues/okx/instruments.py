"""Instruments: the venue's ``public/instruments`` to exact integers.

A perpetual counts contracts: one is worth ``ctVal x ctMult`` of the base asset, and quantities are written in contracts. Spot
counts in the base asset. The venue has no minimum notional; its price band moves and is no multiple of the mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import msgspec

from copyd._fast.decimals import parse_scaled
from copyd.venues.common.instruments import Instrument, Instruments, ceil_lots, floor_lots, step_of

#: Open orders of one account in one instrument.
ORDERS_MAX = 500
#: Places that a contract's value is read with; more is an error, not a rounding.
VALUE_DECIMALS = 18


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


class _Body(msgspec.Struct):
    data: list[_Row]


_BODY = msgspec.json.Decoder(_Body)


def load_instruments(bodies: Sequence[bytes], wanted: Sequence[tuple[int, str]]) -> Instruments:
    """The wanted (index, symbol) in the wanted order; ``ValueError`` names every one that is missing or cannot be used.

    ``bodies``: answers of ``public/instruments``, one per type of instrument.
    """
    listed: dict[str, _Row] = {}
    for body in bodies:
        try:
            listed.update({row.instId: row for row in _BODY.decode(body).data})
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise ValueError(f"the venue's list of instruments is unreadable: {problem}") from None
    rows: list[Instrument] = []
    problems: list[str] = []
    for index, symbol in wanted:
        if symbol not in listed:
            problems.append(f"{symbol}: not listed at the venue")
            continue
        try:
            rows.append(_instrument(index, listed[symbol]))
        except ValueError as problem:
            problems.append(f"{symbol}: {problem}")
    if problems:
        raise ValueError("; ".join(problems))
    return Instruments(rows)


def _fraction(text: str) -> tuple[int, int]:
    """``"0.01"`` -> (1, 100)."""
    value, scale = parse_scaled(text, VALUE_DECIMALS), 10**VALUE_DECIMALS
    if value <= 0:
        raise ValueError(f"contract value {text!r} is not positive")
    common = gcd(value, scale)
    return value // common, scale // common


def _contract(row: _Row) -> tuple[int, int]:
    """Base asset per unit of quantity, as a fraction; what is neither spot nor a linear USDT perpetual is refused."""
    if row.instType == "SPOT":
        return 1, 1
    if row.instType != "SWAP":
        raise ValueError(f"is of type {row.instType or '?'}, neither SWAP nor SPOT")
    if row.ctType != "linear":
        raise ValueError(f"is no linear contract ({row.ctType or 'type not told'})")
    if row.settleCcy != "USDT":
        raise ValueError(f"is settled in {row.settleCcy or '?'}, not in USDT")
    value, multiplier = _fraction(row.ctVal), _fraction(row.ctMult or "1")
    mul, div = value[0] * multiplier[0], value[1] * multiplier[1]
    common = gcd(mul, div)
    return mul // common, div // common


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


def _instrument(index: int, row: _Row) -> Instrument:
    contract_mul, contract_div = _contract(row)
    base, quote, margin = _assets(row)
    for name in ("tickSz", "lotSz", "minSz", "maxLmtSz", "maxMktSz"):
        if not getattr(row, name):
            raise ValueError(f"{name} is not told")
    price_decimals, tick = step_of(row.tickSz)
    qty_decimals, lot = step_of(row.lotSz)
    mul = lot * tick * contract_mul * 10**8
    div = 10 ** (price_decimals + qty_decimals) * contract_div
    common = gcd(mul, div)
    lot_min = max(1, ceil_lots(row.minSz, qty_decimals, lot))
    spot = row.instType == "SPOT"
    return Instrument(
        index=index,
        symbol=row.instId,
        status=row.state,
        quote_asset=quote,
        margin_asset=margin,
        price_decimals=price_decimals,
        tick=tick,
        qty_decimals=qty_decimals,
        lot=lot,
        lot_min=lot_min,
        lot_max=floor_lots(row.maxLmtSz, qty_decimals, lot),
        market_lot_min=lot_min,
        # For a spot market order the venue states its largest size in the quote asset's value; it binds there, not here.
        market_lot_max=floor_lots(row.maxLmtSz if spot else row.maxMktSz, qty_decimals, lot),
        min_notional_e8=0,
        value_mul=mul // common,
        value_div=div // common,
        price_up_ppm=0,
        price_down_ppm=0,
        market_take_bound_ppm=0,
        orders_max=ORDERS_MAX,
        base_asset=base,
        contract_mul=contract_mul,
        contract_div=contract_div,
        spot=spot,
        code=_code(row),
        leverage_max=parse_scaled(row.lever, 0) if row.lever and not spot else 0,
    )
