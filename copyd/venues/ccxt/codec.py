"""Structures of ccxt to ``told`` and ``facts``. Pure; what is kept between answers are names alone (``Names``).

Every number is a text and becomes an exact scaled integer; what cannot be read raises ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from copyd._fast.decimals import cut_scaled
from copyd.core import leader_stream as ls
from copyd.venues.common import facts, told
from copyd.venues.common.facts import MS_NS
from copyd.venues.common.instruments import Instrument
from copyd.venues.common.names import Names
from copyd.venues.common.venue import AccountBooks

Number = str | int | None
SIDE: Final = {"buy": 1, "sell": -1}
#: An order that has ended; "closed" is one that filled, or where an exchange tells no other end.
STATUS: Final = {
    "open": facts.NEW, "closed": facts.FILLED, "canceled": facts.CANCELED, "canceling": facts.NEW, "expired": facts.EXPIRED,
    "rejected": facts.REJECTED,
}  # fmt: skip
Shape = TypeVar("Shape")


class Fee(msgspec.Struct):
    cost: Number = None
    currency: str | None = None


class Order(msgspec.Struct):
    """An order, as ccxt unifies it."""

    id: str | None = None
    clientOrderId: str | None = None
    symbol: str | None = None
    status: str | None = None
    side: str | None = None
    amount: Number = None
    filled: Number = None
    average: Number = None
    cost: Number = None
    reduceOnly: bool | None = None
    timestamp: int | None = None
    lastTradeTimestamp: int | None = None
    lastUpdateTimestamp: int | None = None


class Trade(msgspec.Struct):
    """An execution, as ccxt unifies it."""

    id: str | None
    symbol: str
    side: str
    price: Number
    amount: Number
    timestamp: int
    order: str | None = None
    takerOrMaker: str | None = None
    fee: Fee | None = None


class Position(msgspec.Struct):
    """A position, as ccxt unifies it."""

    symbol: str | None = None
    side: str | None = None
    contracts: Number = None
    entryPrice: Number = None
    unrealizedPnl: Number = None
    leverage: Number = None
    marginMode: str | None = None
    hedged: bool | None = None
    timestamp: int | None = None


class Leverage(msgspec.Struct):
    marginMode: str | None = None
    longLeverage: Number = None
    shortLeverage: Number = None


class MarginMode(msgspec.Struct):
    marginMode: str | None = None


class PositionMode(msgspec.Struct):
    hedged: bool | None = None


class Ticker(msgspec.Struct):
    """Prices; which of them are told differs by exchange and by call."""

    symbol: str | None = None
    bid: Number = None
    bidVolume: Number = None
    ask: Number = None
    askVolume: Number = None
    markPrice: Number = None
    timestamp: int | None = None


class Book(msgspec.Struct):
    bids: list[tuple[Number, Number]] = []
    asks: list[tuple[Number, Number]] = []
    timestamp: int | None = None


class Funding(msgspec.Struct):
    symbol: str | None = None
    markPrice: Number = None
    fundingRate: Number = None


def read(body: bytes, shape: Any) -> Any:
    """An answer as ``shape``; ``ValueError`` when it does not fit."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise ValueError(f"an answer of ccxt is unreadable: {problem}") from None


def text(value: Number) -> str:
    """A number as ccxt writes it; "0" where it tells none."""
    return str(value) if value not in (None, "") else "0"


def money(value: Number) -> int:
    """An amount, 1e-8."""
    return facts.money_e8(text(value))


def whole(value: Number) -> int:
    """``"10.00"`` -> 10; 0 where it is not told."""
    return cut_scaled(text(value), 0)


def filled_lots(row: Order, item: Instrument) -> int:
    """Lots of an order that have filled."""
    return item.lots(text(row.filled))


def ns(ms: int | None) -> int:
    """A time in ms as ns; 0 = not told."""
    return (ms or 0) * MS_NS


def order_told(row: Order, item: Instrument, names: Names) -> told.OrderTold:
    """An order of the instrument. ``ValueError`` for one without an id, a side or an end that can be read."""
    number = names.order(row.id or "")
    if not number or row.side not in SIDE or row.status not in STATUS:
        raise ValueError(f"an order without id, side or status (status {row.status})")
    quantity, cum = item.lots(text(row.amount)), item.lots(text(row.filled))
    status = STATUS[row.status]
    if status == facts.NEW and cum:
        status = facts.PARTIALLY_FILLED
    elif status == facts.FILLED and cum < quantity:
        status = facts.CANCELED  # it ended, and not by being filled
    cid = row.clientOrderId or ""
    return told.OrderTold(
        cid=facts.own_cid(cid), client_order_id=cid, instrument=item.index, venue_order_id=number, status=status, cum_qty=cum,
        cost_e8=_cost_e8(row, item), side=SIDE[row.side], position_side=0, order_qty=quantity,
        reduce_only=bool(row.reduceOnly), ts_event=ns(row.lastUpdateTimestamp or row.lastTradeTimestamp or row.timestamp),
    )  # fmt: skip


def _cost_e8(row: Order, item: Instrument) -> int:
    """What has filled, in the quote asset: average x contracts x contract size, else as the exchange sums it."""
    if row.average:
        base = cut_scaled(text(row.average), 12) * cut_scaled(text(row.filled), 8) * item.contract_mul
        return base // (item.contract_div * 10**12)
    return money(row.cost)


def trade_told(
    row: Trade, item: Instrument, names: Names, ts_recv: int, *, live: bool, order: Order | None = None, cid: bytes | None = None,
    raw: bytes = b"",
) -> told.TradeTold:
    """An execution. ``order``: its order, where that was asked for; ``cid``: ours, where the question was for one order."""
    if not row.id or row.side not in SIDE:
        raise ValueError("an execution without an id or a side")
    client_order_id = (order.clientOrderId or "") if order is not None else cid.hex() if cid is not None else ""
    exec_id = names.execution(f"{row.symbol} {row.id} {row.side}", row.timestamp)
    fee = row.fee or Fee()
    return told.TradeTold(
        cid=cid if cid is not None else facts.own_cid(client_order_id),
        execution=ls.Execution(
            item.index, 0, exec_id, names.order(row.order or ""), SIDE[row.side], item.lots(text(row.amount)),
            item.ticks(text(row.price)), order_qty=item.lots(text(order.amount)) if order is not None else 0,
            reduce_only=bool(order is not None and order.reduceOnly), maker=row.takerOrMaker == "maker", live=live,
            client_order_id=client_order_id, ts_event=ns(row.timestamp), ts_recv=ts_recv, raw=raw),
        fee=text(fee.cost), fee_asset=fee.currency or "",
    )  # fmt: skip


def position(row: Position, item: Instrument, now: int) -> ls.Position:
    """What is held, net. ``ValueError`` on an account that keeps a position per side: executions do not name theirs."""
    lots = abs(item.lots(text(row.contracts)))
    if row.hedged and lots:
        raise ValueError("the account keeps a position per side, which ccxt's executions do not name: set it to one-way")
    if lots and row.side not in ("long", "short"):
        raise ValueError("a position without a side")
    return ls.Position(
        item.index, 0, -lots if row.side == "short" else lots, ns(row.timestamp) or now, now, source="poll",
        leverage=whole(row.leverage), isolated=row.marginMode == "isolated")


def books(
    balance: dict[str, Any], rows: Sequence[tuple[Position, Instrument]], asset: str, now: int, *, total_is_wallet: bool
) -> AccountBooks:
    """Balance and positions. ``total_is_wallet``: what the exchange calls the total lacks what is not realised."""
    of = balance.get(asset)
    held = of if isinstance(of, dict) else {}
    total = money(held.get("total"))
    unrealised = sum(money(row.unrealizedPnl) for row, _ in rows)
    wallet, equity = (total, total + unrealised) if total_is_wallet else (total - unrealised, total)
    found = []
    for row, item in rows:
        at = position(row, item, now)
        if at.qty:
            found.append((item.index, 0, at.qty, money(row.entryPrice)))
    return AccountBooks(wallet, money(held.get("free")), equity, tuple(found), now)


def quote(row: Ticker, item: Instrument, ts_recv: int) -> facts.Quote | None:
    """Best bid and ask; None where either is not told. A size that is not told counts as one lot."""
    bid, ask = item.ticks_nearest(text(row.bid)), item.ticks_nearest(text(row.ask))
    if not 0 < bid <= ask:
        return None
    return facts.Quote(
        item.index, bid, max(1, _size(row.bidVolume, item)), ask, max(1, _size(row.askVolume, item)),
        ns(row.timestamp) or ts_recv, ts_recv)


def _size(value: Number, item: Instrument) -> int:
    return cut_scaled(text(value), item.qty_decimals) // item.lot


def mark(price: Number, rate: Number, item: Instrument, ts_recv: int) -> facts.Mark | None:
    """The mark; None where it is not told."""
    ticks = item.ticks_nearest(text(price))
    return facts.Mark(item.index, ticks, facts.parse_ppm(text(rate)), ts_recv, ts_recv) if ticks > 0 else None
