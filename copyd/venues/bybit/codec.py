"""Bytes of the venue to ``told`` and ``facts``. No socket, no clock; what is kept between frames are names alone (``Names``).

Wire structs come first (field names are the venue's), then the functions that turn them into what the rest of copyd sees.
Every number becomes an exact scaled integer; what cannot be read raises ``ValueError`` here and becomes ``Malformed`` in
``wire``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from copyd._fast.decimals import cut_scaled, parse_scaled
from copyd.core import leader_stream as ls
from copyd.venues.bybit.instruments import LINEAR, SETTLE_COIN, find
from copyd.venues.common import facts, told
from copyd.venues.common.facts import MS_NS
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.names import Names
from copyd.venues.common.venue import AccountBooks

STATUS: Final = {
    "New": facts.NEW, "Untriggered": facts.NEW, "Triggered": facts.NEW, "PartiallyFilled": facts.PARTIALLY_FILLED,
    "Filled": facts.FILLED, "Cancelled": facts.CANCELED, "PartiallyFilledCanceled": facts.CANCELED,
    "Deactivated": facts.CANCELED, "Rejected": facts.REJECTED,
}  # fmt: skip
SIDE: Final = {"Buy": 1, "Sell": -1}
#: Executions that are no trade of the account's own will, by their kind, then by how their order came about.
CAUSE_OF_EXECUTION: Final = {"BustTrade": "liquidation", "AdlTrade": "adl", "Settle": "settlement", "Delivery": "settlement"}
CAUSE_OF_ORDER: Final = {
    "CreateByLiq": "liquidation", "CreateByTakeOver_PassThrough": "liquidation", "CreateByMmRateClose": "liquidation",
    "CreateByAdl_PassThrough": "adl", "CreateBySettle": "settlement",
}  # fmt: skip
TRADES: Final = frozenset({"Trade", "BlockTrade", "MovePosition", "FutureSpread", "UNKNOWN", "", *CAUSE_OF_EXECUTION})
FUNDING: Final = "Funding"
MARKET: Final = "Market"
BASE_COIN, QUOTE_COIN = "baseCoin", "quoteCoin"
#: Decimals that a price of a pair is read with.
PRICE_PLACES: Final = 12
#: More than any order's lots; they fit 63 bits.
LOTS_MAX: Final = (1 << 63) - 1
#: Spot market orders whose unit is remembered: those of many followers come between two executions of a leader's.
UNITS_MAX: Final = 100_000
#: Entries of the transaction log that bring money in or take it out.
FLOWS: Final = ("TRANSFER_IN", "TRANSFER_OUT", "AIRDROP", "BONUS", "BONUS_RECOLLECT")
#: The year 2248: in ns it still fits 63 bits.
TIME_MAX_MS: Final = 1 << 43


# --- wire: rows that frames and bodies share --------------------------------------------------------------------------
class OrderRow(msgspec.Struct):
    """An order, as ``order`` frames, ``realtime`` and ``history`` tell it."""

    symbol: str
    orderId: str
    side: str
    orderStatus: str
    category: str = ""
    orderLinkId: str = ""
    qty: str = "0"
    cumExecQty: str = "0"
    cumExecValue: str = ""
    avgPrice: str = ""
    reduceOnly: bool = False
    positionIdx: int = 0
    createdTime: str = "0"
    updatedTime: str = "0"
    orderType: str = ""
    marketUnit: str = ""


class ExecutionRow(msgspec.Struct):
    """An execution, as ``execution`` and ``execution.fast`` frames and ``execution/list`` tell it."""

    symbol: str
    execId: str
    orderId: str
    side: str
    execPrice: str
    execQty: str
    execTime: str
    category: str = ""
    orderLinkId: str = ""
    execType: str = ""
    execFee: str = "0"
    feeCurrency: str = ""
    orderQty: str = ""
    leavesQty: str = ""
    orderType: str = ""
    execValue: str = ""
    isMaker: bool = False
    closedSize: str = ""
    createType: str = ""
    seq: int = 0


class PositionRow(msgspec.Struct):
    """A position, as ``position`` frames and ``position/list`` tell it: the entry price has two names."""

    symbol: str
    side: str
    size: str
    positionIdx: int = 0
    category: str = ""
    entryPrice: str = ""
    avgPrice: str = ""
    leverage: str = ""
    tradeMode: int = 0
    positionStatus: str = ""
    updatedTime: str = "0"


class CoinRow(msgspec.Struct):
    coin: str
    walletBalance: str = "0"
    equity: str = "0"
    unrealisedPnl: str = "0"
    locked: str = "0"
    totalOrderIM: str = "0"
    totalPositionIM: str = "0"


class WalletRow(msgspec.Struct):
    """An account's balances, in USD and per coin; a field that does not apply is an empty text."""

    coin: list[CoinRow]
    accountType: str = ""
    totalEquity: str = ""
    totalWalletBalance: str = ""
    totalMarginBalance: str = ""
    totalAvailableBalance: str = ""


class LogRow(msgspec.Struct):
    """An entry of the transaction log."""

    type: str
    transactionTime: str | int
    currency: str = ""
    change: str = "0"
    cashFlow: str = "0"
    symbol: str = ""


# --- wire: frames of the private connections --------------------------------------------------------------------------
class Head(msgspec.Struct):
    """What tells the kinds of frames apart; ``topic`` for events, ``op`` for answers."""

    topic: str = ""
    op: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")
    creationTime: int = 0
    success: bool | None = None
    ret_msg: str | None = ""
    req_id: str | None = ""
    retCode: int | None = None
    retMsg: str | None = ""
    reqId: str | None = ""
    header: dict[str, Any] | None = None


class Placed(msgspec.Struct):
    """What the answer to a placement says of the order."""

    orderId: str = ""
    orderLinkId: str = ""


class Units:
    """Which spot market orders were sized in the quote asset, by order, as far as it was heard: their executions do not say."""

    def __init__(self, room: int = UNITS_MAX) -> None:
        self.room = room
        self._in_quote: dict[int, bool] = {}

    def told(self, order: int, unit: str) -> None:
        """What the order says of itself: ``baseCoin``, ``quoteCoin``, or nothing."""
        if unit in (BASE_COIN, QUOTE_COIN):
            self._keep(order, unit == QUOTE_COIN)

    def in_quote(self, order: int, row: ExecutionRow) -> bool:
        """Whether an execution's order was; unheard of, from what its first execution shows of it.

        A buy is sized so unless its owner said otherwise. What is left of one that he did is the rest in the base asset, and
        no order in the quote asset is for less than one of its executions was worth.
        """
        known = self._in_quote.get(order)
        if known is None:
            whole, part = money(row.orderQty), money(row.execQty)
            in_base = row.side == "Sell" or money(row.leavesQty) + part == whole or whole < money(row.execValue)
            known = self._keep(order, not in_base)
        return known

    def _keep(self, order: int, in_quote: bool) -> bool:
        self._in_quote[order] = in_quote
        if len(self._in_quote) > self.room:
            del self._in_quote[next(iter(self._in_quote))]
        return in_quote


# --- wire: frames of the public connections ---------------------------------------------------------------------------
class Book(msgspec.Struct):
    s: str
    b: list[tuple[str, str]] = []
    a: list[tuple[str, str]] = []


class Ticker(msgspec.Struct):
    """A field that is absent has not changed."""

    symbol: str
    markPrice: str = ""
    lastPrice: str = ""
    fundingRate: str = ""


class PublicHead(msgspec.Struct):
    topic: str = ""
    op: str = ""
    type: str = ""
    ts: int = 0
    data: msgspec.Raw = msgspec.Raw(b"null")
    success: bool | None = None
    ret_msg: str | None = ""
    req_id: str | None = ""


# --- wire: REST -------------------------------------------------------------------------------------------------------
class Verdict(msgspec.Struct):
    """What every body says besides its result."""

    retCode: int
    retMsg: str | None = ""
    time: int = 0


class Page(msgspec.Struct):
    """A list, and where it goes on ("" = nowhere)."""

    rows: list[msgspec.Raw] = msgspec.field(name="list")
    nextPageCursor: str | None = ""
    category: str = ""


class PageBody(msgspec.Struct):
    result: Page


class TimeResult(msgspec.Struct):
    timeNano: str


class TimeBody(msgspec.Struct):
    result: TimeResult


class InfoResult(msgspec.Struct):
    marginMode: str
    unifiedMarginStatus: int = 0


class InfoBody(msgspec.Struct):
    result: InfoResult


class PlacedBody(msgspec.Struct):
    result: Placed


class PriceRow(msgspec.Struct):
    symbol: str
    lastPrice: str


_head = msgspec.json.Decoder(Head)
_public = msgspec.json.Decoder(PublicHead)
_placed = msgspec.json.Decoder(Placed)
_book = msgspec.json.Decoder(Book)
_ticker = msgspec.json.Decoder(Ticker)
_orders = msgspec.json.Decoder(list[OrderRow])
_executions = msgspec.json.Decoder(list[ExecutionRow])
_positions = msgspec.json.Decoder(list[PositionRow])
_wallets = msgspec.json.Decoder(list[WalletRow])
_order = msgspec.json.Decoder(OrderRow)
_execution = msgspec.json.Decoder(ExecutionRow)
_position = msgspec.json.Decoder(PositionRow)
_wallet = msgspec.json.Decoder(WalletRow)
_log = msgspec.json.Decoder(LogRow)
_price = msgspec.json.Decoder(PriceRow)


def read_head(payload: bytes) -> Head:
    """A frame of a private connection, its body undecoded."""
    return _head.decode(payload)


def read_public(payload: bytes) -> PublicHead:
    """A frame of a public connection, its body undecoded."""
    return _public.decode(payload)


def read_placed(raw: msgspec.Raw) -> Placed:
    """What the answer to a placement says; an empty one where it says nothing."""
    return _placed.decode(raw) if bytes(raw) not in (b"null", b"") else Placed()


def read_orders(raw: msgspec.Raw) -> list[OrderRow]:
    return _orders.decode(raw)


def read_executions(raw: msgspec.Raw) -> list[ExecutionRow]:
    return _executions.decode(raw)


def read_positions(raw: msgspec.Raw) -> list[PositionRow]:
    return _positions.decode(raw)


def read_wallets(raw: msgspec.Raw) -> list[WalletRow]:
    return _wallets.decode(raw)


def read_book(raw: msgspec.Raw) -> Book:
    return _book.decode(raw)


def read_ticker(raw: msgspec.Raw) -> Ticker:
    return _ticker.decode(raw)


def page(body: bytes) -> Page:
    """One page of a REST list."""
    return msgspec.json.decode(body, type=PageBody).result


def order_row(raw: bytes) -> OrderRow:
    return _order.decode(raw)


def execution_row(raw: bytes) -> ExecutionRow:
    return _execution.decode(raw)


def position_row(raw: bytes) -> PositionRow:
    return _position.decode(raw)


def wallet_row(raw: bytes) -> WalletRow:
    return _wallet.decode(raw)


def log_row(raw: bytes) -> LogRow:
    return _log.decode(raw)


def price_row(raw: bytes) -> PriceRow:
    return _price.decode(raw)


# --- rows to what the rest of copyd sees ------------------------------------------------------------------------------
def ms(text: str | int) -> int:
    """A time in ms, as a number or as its digits; ``ValueError`` for one that is none."""
    time = text if isinstance(text, int) else parse_scaled(text or "0", 0)
    if not 0 <= time < TIME_MAX_MS:
        raise ValueError(f"no time: {text}")
    return time


def nanoseconds(text: str) -> int:
    """A time in ns, as its digits."""
    return parse_scaled(text, 0)


def _one_of(table: dict[str, int], name: str) -> int:
    """What a word of the venue stands for; ``ValueError`` for one that is not known."""
    found = table.get(name)
    if found is None:
        raise ValueError(f"unknown word {name[:40]!r}")
    return found


def money(text: str) -> int:
    """An amount, 1e-8; an empty text is none."""
    return facts.money_e8(text or "0")


def order_told(row: OrderRow, instruments: Instruments, names: Names, kind: str = "") -> told.OrderTold | None:
    """An order's state; None for an instrument that is not ours. ``kind``: the category, where the row does not say it."""
    item = find(instruments, row.category or kind, row.symbol)
    if item is None:
        return None
    number = names.order(row.orderId)
    if not 0 <= row.positionIdx <= 2 or not number:
        raise ValueError("an order without an id, or of no position side")
    names.order_side(number, row.positionIdx)
    cid, status, cum = facts.own_cid(row.orderLinkId), _one_of(STATUS, row.orderStatus), item.lots(row.cumExecQty or "0")
    return told.OrderTold(
        cid=cid,
        client_order_id=row.orderLinkId,
        instrument=item.index,
        venue_order_id=number,
        status=status,
        cum_qty=cum,
        cost_e8=facts.cost_e8(row.avgPrice, row.cumExecQty or "0", row.cumExecValue),
        side=_one_of(SIDE, row.side),
        position_side=row.positionIdx,
        order_qty=_size(row, item, cum if cid is None and status in facts.TERMINAL_STATUS else 0),
        reduce_only=row.reduceOnly,
        ts_event=ms(row.updatedTime) * MS_NS,
    )


def _size(row: OrderRow, item: Instrument, otherwise: int) -> int:
    """An order's size in lots. A spot market order that was sized in the quote asset, by somebody else, says nothing in lots:
    ``otherwise`` then."""
    in_quote = item.spot and row.orderType == MARKET and (
        row.marketUnit == QUOTE_COIN or (row.marketUnit != BASE_COIN and row.side == "Buy"))
    return otherwise if in_quote else item.lots(row.qty)


def trade_told(
    row: ExecutionRow, instruments: Instruments, names: Names, ts_recv: int, *, kind: str = "", position_side: int | None = None,
    live: bool = True, thin: bool = False, raw: bytes = b"", units: Units | None = None,
) -> told.TradeTold | told.FundingTold | None:
    """An execution, or the funding that the venue tells as one; None for an instrument that is not ours.

    Executions name no position side: ``position_side`` where the caller knows it, else that of the order if it was heard of.
    ``units``: what was heard of the orders on the same stream.
    """
    item = find(instruments, row.category or kind, row.symbol)
    if item is None:
        return None
    time_ms = ms(row.execTime)
    number = names.execution(row.execId, time_ms)
    if row.execType == FUNDING:
        return told.FundingTold(item.index, -cut_scaled(row.execFee or "0", 8), number, time_ms * MS_NS)
    if row.execType not in TRADES:
        raise ValueError(f"an execution of the unknown kind {row.execType[:40]}")
    order = names.order(row.orderId)
    if position_side is None:
        position_side = 0 if item.spot else names.side_of(order)
    qty = item.lots(row.execQty)
    if qty <= 0:
        raise ValueError("an execution of nothing")
    execution = ls.Execution(
        item.index, position_side, number, order, _one_of(SIDE, row.side), qty,
        # what closes a position without a market may do so between the ticks
        item.ticks(row.execPrice) if row.execType in ("Trade", "") else item.ticks_nearest(row.execPrice),
        order_qty=_size_of_spot(row, item, order, units or Units()) if item.spot else item.lots(row.orderQty or "0"),
        realised=row.side == "Sell" if item.spot else bool(row.closedSize.strip("0.")),
        maker=row.isMaker, live=live, client_order_id=row.orderLinkId,
        cause=CAUSE_OF_EXECUTION.get(row.execType) or CAUSE_OF_ORDER.get(row.createType, ""),
        ts_event=time_ms * MS_NS, ts_recv=ts_recv, raw=raw,
    )  # fmt: skip
    return told.TradeTold(
        facts.own_cid(row.orderLinkId), execution, fee=row.execFee or "0",
        fee_asset=row.feeCurrency or (fee_asset(row, item) if item.spot else item.margin_asset), thin=thin,
    )  # fmt: skip


def _size_of_spot(row: ExecutionRow, item: Instrument, order: int, units: Units) -> int:
    """Lots of an execution's order, 0 = not told; of one sized in the quote asset, what that buys at the execution's price."""
    if not row.orderQty or not row.orderType:
        return 0
    if row.orderType == MARKET and units.in_quote(order, row):
        price = cut_scaled(row.execPrice, PRICE_PLACES)
        if price <= 0:
            raise ValueError("an execution at no price")
        lots = money(row.orderQty) * 10 ** (item.qty_decimals + PRICE_PLACES - 8) // (price * item.lot)
        if lots > LOTS_MAX:
            raise ValueError("an order of no size that there is")
        return lots
    return cut_scaled(row.orderQty, item.qty_decimals) // item.lot


def fee_asset(row: ExecutionRow, item: Instrument) -> str:
    """What a spot fee is paid in where the venue does not say: in what is received; a maker's rebate in the other asset."""
    rebate = row.isMaker and row.execFee.startswith("-")
    return item.base_asset if (row.side == "Buy") is not rebate else item.quote_asset


def hedge_side(row: ExecutionRow) -> int:
    """The position side of an execution on an account that keeps a position per side: by whether it closed something."""
    closing = bool(row.closedSize.strip("0."))
    long = (_one_of(SIDE, row.side) > 0) is not closing
    return 1 if long else 2


def position(
    row: PositionRow, instruments: Instruments, ts_recv: int, *, kind: str = LINEAR, source: str = "push",
    isolated: bool = False, raw: bytes = b"",
) -> ls.Position | None:
    """A position; None for an instrument that is not ours. A short one is below 0."""
    item = find(instruments, row.category or kind, row.symbol)
    if item is None:
        return None
    if not 0 <= row.positionIdx <= 2:
        raise ValueError("a position of no side")
    qty = item.lots(row.size or "0")
    if qty:
        qty *= _one_of(SIDE, row.side)
    return ls.Position(
        item.index, row.positionIdx, qty, ms(row.updatedTime) * MS_NS, ts_recv, source=source, leverage=leverage(row.leverage),
        isolated=isolated, raw=raw,
    )  # fmt: skip


def leverage(text: str) -> int:
    """A leverage; a part of one is cut off, 0 = not told."""
    return cut_scaled(text or "0", 0)


def entry_e8(row: PositionRow) -> int:
    """The average entry price, 1e-8."""
    return cut_scaled(row.avgPrice or row.entryPrice or "0", 8)


def wallets_told(
    rows: Sequence[WalletRow], instruments: Instruments, ts_event: int, ts_recv: int, raw: bytes = b""
) -> list[told.WalletTold | told.PositionTold]:
    """Balances of the coins that our instruments are paid in, and what is held of the base assets of pairs.

    Of no other coin: what is held of it may be more than books can count.
    """
    out: list[told.WalletTold | told.PositionTold] = []
    ours = {item.margin_asset for item in instruments}
    for row in rows:
        out += [
            told.WalletTold(coin.coin, money(coin.walletBalance), ts_event=ts_event) for coin in row.coin if coin.coin in ours]
        coins = {coin.coin: coin for coin in row.coin}
        for item in instruments:
            if item.spot and (coin_row := coins.get(item.base_asset)) is not None:
                out.append(told.PositionTold(_holding(item, coin_row.walletBalance, ts_event, ts_recv, "push", raw)))
    return out


def books(
    wallet: WalletRow, positions: Sequence[PositionRow], instruments: Instruments, ts_event: int, prices: Mapping[int, str]
) -> AccountBooks:
    """Balance and positions of an account: of the settlement coin, and what of it is free to be margin or to be paid with.

    With isolated margin the account-wide figure does not exist (an empty text); then what orders and positions bind is taken
    off the balance, and profits that are not realised are not counted. Equity counts the base assets of our pairs at
    ``prices`` (by instrument, of those that are held) besides, rounded down; their holdings are positions without an entry price.
    """
    coin = next((coin for coin in wallet.coin if coin.coin == SETTLE_COIN), CoinRow(SETTLE_COIN))
    balance, equity, locked = money(coin.walletBalance), money(coin.equity), money(coin.locked)
    if wallet.totalAvailableBalance:
        # USD of all collateral: no more than that is free, and of the settlement coin no more than is there and not locked.
        available = min(money(wallet.totalAvailableBalance), equity - locked)
    else:
        available = balance - locked - money(coin.totalOrderIM) - money(coin.totalPositionIM)
    held = {coin.coin: money(coin.walletBalance) for coin in wallet.coin}
    for index, price in prices.items():
        equity += max(0, held.get(instruments[index].base_asset, 0)) * cut_scaled(price, PRICE_PLACES) // 10**PRICE_PLACES
    rows: list[tuple[int, int, int, int]] = []
    for row in positions:
        one = position(row, instruments, ts_event)
        if one is not None and one.qty:
            rows.append((one.instrument, one.position_side, one.qty, entry_e8(row)))
    rows += [(one.instrument, 0, one.qty, 0) for one in holdings(wallet, instruments, ts_event, ts_event) if one.qty]
    return AccountBooks(balance, max(0, available), equity, tuple(rows), ts_event)


def holdings(wallet: WalletRow, instruments: Instruments, ts_event: int, ts_recv: int) -> list[ls.Position]:
    """What is held of the base assets of spot pairs, in whole lots: what a pair has in place of a position."""
    held = {coin.coin: coin.walletBalance for coin in wallet.coin}
    return [_holding(item, held.get(item.base_asset, ""), ts_event, ts_recv, "poll") for item in instruments if item.spot]


def held_pairs(wallet: WalletRow, instruments: Instruments) -> list[Instrument]:
    """Our pairs of whose base asset there is something, be it less than a lot."""
    held = {coin.coin for coin in wallet.coin if money(coin.walletBalance) > 0}
    return [item for item in instruments if item.spot and item.base_asset in held]


def _holding(item: Instrument, amount: str, ts_event: int, ts_recv: int, source: str, raw: bytes = b"") -> ls.Position:
    """Whole lots, those that open orders have locked among them."""
    lots = max(0, cut_scaled(amount or "0", item.qty_decimals)) // item.lot
    return ls.Position(item.index, 0, lots, ts_event, ts_recv, source, 1, True, raw)
