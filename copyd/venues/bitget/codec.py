"""Bytes of the venue to what copyd is told. Pure: no socket, no clock, no state.

Wire structs come first (field names are the venue's), then the functions that turn their rows into ``told`` and ``facts``; those
may raise ``ValueError``, which their callers make a ``Malformed`` of (``wire``) or hand on (``rest``).

How a trade's direction is written depends on where it is written. Orders and fills of v2 name the *position* in ``side`` on a
two-sided account: a long is opened and closed with "buy", and ``tradeSide`` says which. Its fill channel is documented the other
way round, and does not name the position; so there a closing fill counts only with the position its order was seen to have. v3
names what is done in ``side`` and the position in ``posSide`` (orders) or ``holdSide`` (sockets); its list of fills names none,
but ``tradeSide`` tells it.

Executions are numbered by the venue, over all accounts and upwards with time; the numbers are kept as they are. A commission is
negative in v2 when paid (in spot's fill channel its sign is not believed), and positive in v3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from copyd._fast.decimals import cut_scaled
from copyd.core import leader_stream as ls
from copyd.venues.bitget.instruments import SPOT_MARK, venue_symbol
from copyd.venues.common.facts import (
    CANCELED,
    FILLED,
    MS_NS,
    NEW,
    PARTIALLY_FILLED,
    REJECTED,
    TERMINAL_STATUS,
    Mark,
    Quote,
    cost_e8,
    money_e8,
    own_cid,
    parse_ppm,
)
from copyd.venues.common.instruments import Instrument, Instruments, trimmed
from copyd.venues.common.told import FundingTold, OrderTold, PositionTold, TradeTold, WalletTold

STATUS: Final = {
    "init": NEW, "new": NEW, "live": NEW, "partially_filled": PARTIALLY_FILLED, "filled": FILLED, "full_fill": FILLED,
    "canceled": CANCELED, "cancelled": CANCELED, "rejected": REJECTED,
}  # fmt: skip
SIDE: Final = {"buy": 1, "sell": -1}
HELD: Final = {"long": 1, "short": 2}
INT63: Final = 1 << 63

Text = str | None
Number = str | int | None


# --- wire: orders, fills, positions, balances; every field that a row may lack has a default ------------------------------
class Fee(msgspec.Struct):
    feeCoin: Text = ""
    fee: Text = ""
    totalFee: Text = ""


class Order(msgspec.Struct):
    """An order of v2: a row of the sockets' ``orders`` (with its last execution) or of the lists."""

    orderId: str
    side: str
    instId: str = ""
    symbol: str = ""
    clientOid: Text = ""
    size: Text = ""
    newSize: Text = ""
    notional: Text = ""
    posMode: Text = ""
    posSide: Text = ""
    tradeSide: Text = ""
    orderType: Text = ""
    status: Text = ""
    state: Text = ""
    reduceOnly: Text = ""
    leverage: Number = ""
    accBaseVolume: Text = ""
    baseVolume: Text = ""
    quoteVolume: Text = ""
    priceAvg: Text = ""
    tradeId: Text = ""
    fillPrice: Text = ""
    fillTime: Number = ""
    fillFee: Text = ""
    fillFeeCoin: Text = ""
    tradeScope: Text = ""
    pnl: Text = ""
    orderSource: Text = ""
    cTime: Number = ""
    uTime: Number = ""


class Fill(msgspec.Struct):
    """An execution of v2: a row of the sockets' ``fill`` or of the lists."""

    orderId: str
    tradeId: str
    symbol: str
    side: str
    clientOid: Text = ""
    posMode: Text = ""
    tradeSide: Text = ""
    tradeScope: Text = ""
    price: Text = ""
    priceAvg: Text = ""
    baseVolume: Text = ""
    size: Text = ""
    profit: Text = ""
    feeDetail: list[Fee] | Fee | None = None
    cTime: Number = ""


class Held(msgspec.Struct):
    """A position of v2."""

    holdSide: str
    total: str
    instId: str = ""
    symbol: str = ""
    posMode: Text = ""
    marginMode: Text = ""
    leverage: Number = ""
    openPriceAvg: Text = ""
    uTime: Number = ""
    cTime: Number = ""


class Money(msgspec.Struct):
    """A balance: of perpetuals by ``marginCoin``, of spot by ``coin``."""

    marginCoin: str = ""
    coin: str = ""
    available: Text = ""
    frozen: Text = ""
    locked: Text = ""
    equity: Text = ""
    accountEquity: Text = ""
    unrealizedPL: Text = ""
    isolatedUnrealizedPL: Text = ""
    crossedUnrealizedPL: Text = ""
    posMode: Text = ""
    marginMode: Text = ""
    crossedMarginLeverage: Number = ""
    isolatedLongLever: Number = ""
    isolatedShortLever: Number = ""
    uTime: Number = ""


class Order3(msgspec.Struct):
    """An order of v3, on sockets and in lists."""

    orderId: str
    symbol: str
    side: str
    category: str = ""
    clientOid: Text = ""
    qty: Text = ""
    amount: Text = ""
    cumExecQty: Text = ""
    cumExecValue: Text = ""
    avgPrice: Text = ""
    orderStatus: Text = ""
    orderType: Text = ""
    posSide: Text = ""
    holdSide: Text = ""
    holdMode: Text = ""
    tradeSide: Text = ""
    reduceOnly: Text = ""
    execType: Text = ""
    delegateType: Text = ""
    createdTime: Number = ""
    updatedTime: Number = ""


class Fill3(msgspec.Struct):
    """An execution of v3, on sockets and in lists."""

    execId: str
    orderId: str
    symbol: str
    side: str
    execPrice: str
    execQty: str
    category: str = ""
    clientOid: Text = ""
    holdSide: Text = ""
    posSide: Text = ""
    tradeSide: Text = ""
    tradeScope: Text = ""
    execPnl: Text = ""
    feeDetail: list[Fee] | None = None
    execTime: Number = ""
    createdTime: Number = ""


class Held3(msgspec.Struct):
    """A position of v3: ``size`` on sockets, ``total`` in lists."""

    symbol: str
    posSide: str
    category: str = ""
    holdMode: Text = ""
    marginMode: Text = ""
    size: Text = ""
    total: Text = ""
    leverage: Number = ""
    avgPrice: Text = ""
    updatedTime: Number = ""


class Coin3(msgspec.Struct):
    coin: str
    balance: Text = ""
    equity: Text = ""
    available: Text = ""


class Account3(msgspec.Struct):
    """The ``account`` topic of v3."""

    coin: list[Coin3] | None = None


class Assets3(msgspec.Struct):
    """What a unified account has, in USD and by coin."""

    accountEquity: Text = ""
    usdtEquity: Text = ""
    effEquity: Text = ""
    unrealisedPnl: Text = ""
    usdtUnrealisedPnl: Text = ""
    assets: list[Coin3] | None = None


class SymbolConfig3(msgspec.Struct):
    symbol: str
    category: str = ""
    marginMode: Text = ""
    leverage: Number = ""


class Settings3(msgspec.Struct):
    holdMode: Text = ""
    symbolConfigList: list[SymbolConfig3] | None = None


class Bill(msgspec.Struct):
    """A movement of money: a bill of v2 or a financial record of v3. A bill of v2's spot account has a ``size`` and a group."""

    amount: Text = ""
    size: Text = ""
    groupType: Text = ""
    billId: str = ""
    id: str = ""
    symbol: Text = ""
    coin: Text = ""
    businessType: Text = ""
    type: Text = ""
    cTime: Number = ""
    ts: Number = ""


class Ticker(msgspec.Struct):
    """A row of the public ``ticker`` channel."""

    instId: str
    bidPr: Text = ""
    askPr: Text = ""
    bidSz: Text = ""
    askSz: Text = ""
    lastPr: Text = ""
    markPrice: Text = ""
    fundingRate: Text = ""
    ts: Number = ""


# --- wire: bodies -----------------------------------------------------------------------------------------------------
class Head(msgspec.Struct):
    """What every answer over REST begins with."""

    code: str | int = ""
    msg: Text = ""


class Placed(msgspec.Struct):
    orderId: Text = ""
    clientOid: Text = ""


class PlacedBody(Head):
    data: Placed | None = None
    requestTime: int = 0


class TimeData(msgspec.Struct):
    serverTime: str


class TimeBody(Head):
    data: TimeData | None = None


class OrderBody(Head):
    """One order; spot answers with a list, and with an empty one where there is none."""

    data: Order | list[Order] | None = None


class OrderPage(msgspec.Struct):
    entrustedList: list[Order] | None = None
    endId: Text = None


class OrdersBody(Head):
    data: OrderPage | None = None


class SpotOrdersBody(Head):
    data: list[Order] | None = None


class FillPage(msgspec.Struct):
    fillList: list[Fill] | None = None
    endId: Text = None


class FillsBody(Head):
    data: FillPage | None = None


class SpotFillsBody(Head):
    data: list[Fill] | None = None


class HeldBody(Head):
    data: list[Held] | None = None


class MoneyBody(Head):
    data: Money | None = None


class MoneysBody(Head):
    data: list[Money] | None = None


class Price(msgspec.Struct):
    symbol: str
    lastPr: str


class PricesBody(Head):
    data: list[Price] | None = None


class BillPage(msgspec.Struct):
    bills: list[Bill] | None = None
    rows: list[Bill] | None = msgspec.field(name="list", default=None)
    endId: Text = None
    cursor: Text = None


class BillsBody(Head):
    data: BillPage | None = None


class SpotBillsBody(Head):
    data: list[Bill] | None = None


class Order3Body(Head):
    data: Order3 | None = None


class Order3Page(msgspec.Struct):
    rows: list[Order3] | None = msgspec.field(name="list", default=None)
    cursor: Text = None


class Orders3Body(Head):
    data: Order3Page | None = None


class Fill3Page(msgspec.Struct):
    rows: list[Fill3] | None = msgspec.field(name="list", default=None)
    cursor: Text = None


class Fills3Body(Head):
    data: Fill3Page | None = None


class Held3Page(msgspec.Struct):
    rows: list[Held3] | None = msgspec.field(name="list", default=None)


class Held3Body(Head):
    data: Held3Page | None = None


class Assets3Body(Head):
    data: Assets3 | None = None


class Settings3Body(Head):
    data: Settings3 | None = None


# --- directions ---------------------------------------------------------------------------------------------------------
class Way(NamedTuple):
    """What was done: +1 bought, -1 sold; to which position; why, if the venue did it; whether it is known to reduce."""

    side: int
    position_side: int
    cause: str
    closes: bool


def cause_of(kind: str) -> str:
    """``liquidation``, ``adl``, ``settlement`` or "", from ``tradeSide``, ``orderSource`` or ``execType``."""
    if "adl" in kind:
        return "adl"
    if kind.startswith("delivery"):
        return "settlement"
    if kind.startswith(("burst", "reduce", "offset", "force", "liquidation")):
        return "liquidation"
    return ""


def way_v2(side: str, trade_side: str, pos_mode: str, pos_side: str = "", source: str = "") -> Way:
    """As orders and lists of v2 write it: ``side`` names the position on a two-sided account."""
    trade_side = trade_side.lower()
    done = _known(SIDE, side.lower(), "side")
    cause = cause_of(trade_side) or cause_of(source)
    if pos_mode == "hedge_mode" or (pos_mode != "one_way_mode" and pos_side in HELD):
        named = pos_side or ("long" if "long" in trade_side else "short" if "short" in trade_side else "")
        position = _known(HELD, named, "position side") if named else (1 if done > 0 else 2)
        if trade_side == "open":
            return Way(1 if position == 1 else -1, position, cause, False)
        if "close" in trade_side:
            return Way(-1 if position == 1 else 1, position, cause, True)
        raise ValueError(f"tradeSide {trade_side!r} neither opens nor closes")
    return Way(done, 0, cause, bool(cause))


def way_v3(side: str, held: str, hold_mode: str, trade_side: str = "", kind: str = "") -> Way:
    """As v3 writes it: ``side`` is what was done. ``held`` "": from ``trade_side``; a mode that is not told: by what is held."""
    done = _known(SIDE, side.lower(), "side")
    trade_side = trade_side.lower()
    cause = cause_of(trade_side) or cause_of(kind)
    if hold_mode == "one_way_mode" or (not hold_mode and held not in HELD):
        return Way(done, 0, cause, bool(cause))
    if held:
        position = _known(HELD, held, "position side")
    elif trade_side == "open":
        position = 1 if done > 0 else 2
    elif "close" in trade_side:
        position = 2 if done > 0 else 1
    else:
        raise ValueError("neither the position nor whether it was opened is told")
    return Way(done, position, cause, (done > 0) != (position == 1))


# --- orders -----------------------------------------------------------------------------------------------------------
def order_told(row: Order, item: Instrument) -> OrderTold:
    """An order of v2, from a socket or a list."""
    way = way_v2(row.side, row.tradeSide or "", row.posMode or "", _held(row.posSide), row.orderSource or "")
    filled = (row.accBaseVolume if row.instId else row.baseVolume) or "0"
    client = row.clientOid or ""
    status, lots = _status(row.status or row.state or ""), item.lots(trimmed(filled))
    if item.spot and row.orderType == "market" and way.side > 0:
        value = (row.notional or row.newSize) if row.instId else row.size
        asked = _bought(value or "", row.fillPrice or row.priceAvg or "", lots, status, item)
    else:  # spot's pushes write what an order is worth where all others have its quantity
        asked = item.lots(trimmed((row.newSize if item.spot and row.instId else row.size) or "0"))
    return OrderTold(
        own_cid(client), client, item.index, number(row.orderId, "orderId"), status, lots,
        cost_e8(row.priceAvg or "", filled, row.quoteVolume or ""), way.side, way.position_side, asked,
        (row.reduceOnly or "").lower() == "yes", ms(row.uTime or row.cTime) * MS_NS,
    )  # fmt: skip


def _bought(value: str, price: str, filled: int, status: int, item: Instrument) -> int:
    """Lots that a market order for so much of the quote asset comes to: what it has filled once it has ended; before that what
    its value buys at a price, and more than it has filled; 0 where none is told."""
    if status in TERMINAL_STATUS:
        return filled
    ticks = item.ticks_nearest(price) if price.strip("0.") else 0
    return max(money_e8(value or "0") * item.value_div // (ticks * item.value_mul), filled + 1) if ticks else 0


def order3_told(row: Order3, item: Instrument) -> OrderTold:
    """An order of v3, from a socket or a list."""
    way = order3_way(row, item)
    client = row.clientOid or ""
    filled = row.cumExecQty or "0"
    status, lots = _status(row.orderStatus or ""), item.lots(filled)
    by_value = item.spot and row.orderType == "market" and way.side > 0
    asked = _bought(row.amount or "", row.avgPrice or "", lots, status, item) if by_value else item.lots(row.qty or "0")
    return OrderTold(
        own_cid(client), client, item.index, number(row.orderId, "orderId"), status, lots,
        cost_e8(row.avgPrice or "", filled, row.cumExecValue or ""), way.side, way.position_side, asked,
        (row.reduceOnly or "").lower() == "yes", ms(row.updatedTime or row.createdTime) * MS_NS,
    )  # fmt: skip


def order3_way(row: Order3, item: Instrument) -> Way:
    """Direction and position of an order of v3."""
    if item.spot:
        return Way(_known(SIDE, row.side, "side"), 0, "", False)
    held = _held(row.posSide) or _held(row.holdSide)
    return way_v3(row.side, held, row.holdMode or "", row.tradeSide or "", row.execType or row.delegateType or "")


# --- executions -------------------------------------------------------------------------------------------------------
def pushed_trade(row: Order, item: Instrument, told: OrderTold, ts_recv: int, raw: bytes) -> TradeTold | None:
    """The execution in a row of the socket's ``orders``; None where it bears none."""
    if not row.tradeId or not row.fillPrice or not (row.baseVolume or "").strip("0."):
        return None
    cause = cause_of((row.tradeSide or "").lower()) or cause_of(row.orderSource or "")
    execution = ls.Execution(
        item.index, told.position_side, number(row.tradeId, "tradeId"), told.venue_order_id, told.side,
        item.lots(trimmed(row.baseVolume or "")), item.ticks(trimmed(row.fillPrice)), told.order_qty, told.cum_qty,
        told.reduce_only, _realised(row.pnl, item, told.side), row.tradeScope in ("M", "maker"), True, told.client_order_id,
        cause, ms(row.fillTime or row.uTime) * MS_NS, ts_recv, raw,
    )  # fmt: skip
    return TradeTold(told.cid, execution, _negated(row.fillFee or "0"), row.fillFeeCoin or item.margin_asset, told)


def pushed_fill(row: Fill, item: Instrument, held: int | None, ts_recv: int, raw: bytes) -> TradeTold | None:
    """A row of the socket's ``fill``. ``held``: the position side its order was seen to have, None = none was seen. None: its
    direction cannot be told; the orders channel tells of it."""
    way = _pushed_fill_way(row, item, held)
    return _fill(row, item, way, ts_recv, raw, live=True) if way is not None else None


def _pushed_fill_way(row: Fill, item: Instrument, held: int | None) -> Way | None:
    trade_side = (row.tradeSide or "").lower()
    if item.spot or row.posMode == "one_way_mode":
        return way_v2(row.side, trade_side, "one_way_mode")
    if trade_side == "open" or "long" in trade_side or "short" in trade_side:  # both ways of writing agree
        return way_v2(row.side, trade_side, "hedge_mode")
    if held is None or held == 0:
        return None
    return way_v2(row.side, trade_side, "hedge_mode", "long" if held == 1 else "short")


def listed_fill(row: Fill, item: Instrument, ts_recv: int) -> TradeTold:
    """A row of a list of v2."""
    way = way_v2(row.side, row.tradeSide or "", row.posMode or "")
    return _fill(row, item, way, ts_recv, b"", live=False)


def _fill(row: Fill, item: Instrument, way: Way, ts_recv: int, raw: bytes, *, live: bool) -> TradeTold:
    client = row.clientOid or ""
    amount, asset = _fee_v2(row.feeDetail, item)
    if item.spot and live:
        amount = amount.lstrip("-")
    execution = ls.Execution(
        item.index, way.position_side, number(row.tradeId, "tradeId"), number(row.orderId, "orderId"), way.side,
        item.lots(trimmed((row.size if item.spot else row.baseVolume) or "")),
        item.ticks(trimmed(row.price or row.priceAvg or "")),
        realised=_realised(row.profit, item, way.side), maker=(row.tradeScope or "").lower() == "maker", live=live,
        client_order_id=client, cause=way.cause, ts_event=ms(row.cTime) * MS_NS, ts_recv=ts_recv, raw=raw,
    )  # fmt: skip
    # The size of its order is not said here, and plans of a fixed amount are sized by it: ``orders`` says all of it.
    return TradeTold(own_cid(client), execution, amount, asset, thin=live)


def fill3(
    row: Fill3, item: Instrument, held: int | None, ts_recv: int, raw: bytes, *, live: bool, thin: bool = False
) -> TradeTold:
    """An execution of v3. ``held``: the position side of its order or of the account's mode (0 = one-way), None = not known:
    then it is told without one."""
    client = row.clientOid or ""
    done = _known(SIDE, row.side.lower(), "side")
    trade_side = (row.tradeSide or "").lower()
    cause = cause_of(trade_side)
    position = 0 if item.spot else ls.UNKNOWN_SIDE if held is None else held
    fee = row.feeDetail[0] if row.feeDetail else None
    execution = ls.Execution(
        item.index, position, number(row.execId, "execId"), number(row.orderId, "orderId"), done, item.lots(row.execQty),
        item.ticks(trimmed(row.execPrice)), realised=_realised(row.execPnl, item, done),
        maker=(row.tradeScope or "").lower() == "maker", live=live, client_order_id=client, cause=cause,
        ts_event=ms(row.execTime or row.createdTime) * MS_NS, ts_recv=ts_recv, raw=raw,
    )  # fmt: skip
    amount = (fee.fee or "0") if fee is not None else "0"
    asset = (fee.feeCoin or "") if fee is not None else ""
    return TradeTold(own_cid(client), execution, amount, asset or item.margin_asset, thin=thin)


def listed_fill3(row: Fill3, item: Instrument, hedge: bool, ts_recv: int) -> TradeTold:
    """A row of a list of v3, which names no position: on a two-sided account ``tradeSide`` tells it."""
    if item.spot or not hedge:
        return fill3(row, item, 0, ts_recv, b"", live=False)
    held = _held(row.posSide) or _held(row.holdSide)
    way = way_v3(row.side, held, "hedge_mode", row.tradeSide or "")
    return fill3(row, item, way.position_side, ts_recv, b"", live=False)


def _realised(profit: Text, item: Instrument, side: int) -> bool:
    """Whether an execution reduced something: on spot every sale does."""
    return side < 0 if item.spot else (profit or "").strip("-0.") != ""


def _fee_v2(detail: list[Fee] | Fee | None, item: Instrument) -> tuple[str, str]:
    """(commission as we write it, its asset)."""
    first = detail if isinstance(detail, Fee) else detail[0] if detail else None
    if first is None:
        return "0", item.margin_asset
    return _negated(first.totalFee or first.fee or "0"), first.feeCoin or item.margin_asset


# --- positions and balances -------------------------------------------------------------------------------------------
def position(row: Held | Held3, item: Instrument, ts_event: int, ts_recv: int, source: str, raw: bytes = b"") -> ls.Position:
    """A position; one-sided ones bear their sign alone."""
    if isinstance(row, Held):
        held, mode, total, at = row.holdSide, row.posMode or "", row.total, row.uTime or row.cTime
    else:
        held, mode, total, at = row.posSide, row.holdMode or "", row.size or row.total or "0", row.updatedTime
    qty = abs(item.lots(trimmed(total)))
    side = _known(HELD, held, "holdSide") if qty or held in HELD else 0
    if mode not in ("one_way_mode", "hedge_mode"):
        raise ValueError(f"position mode {mode!r}")
    return ls.Position(
        item.index, side if mode == "hedge_mode" else 0, -qty if side == 2 else qty, ms(at) * MS_NS or ts_event, ts_recv, source,
        whole(row.leverage), row.marginMode == "isolated", raw,
    )  # fmt: skip


def position_told(row: Held | Held3, item: Instrument, ts_event: int, ts_recv: int, raw: bytes) -> PositionTold:
    """A position as pushed."""
    return PositionTold(position(row, item, ts_event, ts_recv, "push", raw))


def entry_e8(row: Held | Held3) -> int:
    """Average entry price, 1e-8."""
    return cut_scaled((row.openPriceAvg if isinstance(row, Held) else row.avgPrice) or "0", 8)


def wallet_told(row: Money, ts_event: int) -> WalletTold | None:
    """A pushed balance of v2's futures; None where the push does not tell the wallet apart from open profit."""
    if not row.equity or not row.unrealizedPL:
        return None
    return WalletTold(row.marginCoin, money_e8(row.equity) - money_e8(row.unrealizedPL), ts_event=ts_event)


def coins_told(
    rows: Sequence[tuple[str, int, int]], instruments: Instruments, ts_recv: int, raw: bytes
) -> list[PositionTold | WalletTold]:
    """Pushed balances of spot, (coin, amount e8, venue ns): of a base asset the position of its markets, of a quote asset the
    wallet. Only what changed is told."""
    found: list[PositionTold | WalletTold] = []
    spot = [item for item in instruments if item.spot]
    quotes = {item.quote_asset for item in spot}
    for coin, amount, ts_event in rows:
        found += [
            PositionTold(ls.Position(item.index, 0, lots_of(item, amount), ts_event, ts_recv, "push", 1, True, raw))
            for item in spot if item.base_asset == coin
        ]  # fmt: skip
        if coin in quotes:
            found.append(WalletTold(coin, amount, ts_event=ts_event))
    return found


def coin_e8(row: Money) -> int:
    """All there is of a coin of spot, free or not."""
    return sum(money_e8(part or "0") for part in (row.available, row.frozen, row.locked))


#: Movements between an account and what lies outside it.
FLOWS_V3 = frozenset({"TRANSFER_IN", "TRANSFER_OUT", "RESERVE_TRANSFER_IN", "RESERVE_TRANSFER_OUT"})
FLOWS_SPOT = frozenset({"deposit", "withdraw", "transfer"})
FUNDING_V2 = "contract_settle_fee"
FUNDING_V3 = frozenset({"CONTRACT_MAIN_SETTLE_FEE_USER_IN", "CONTRACT_MAIN_SETTLE_FEE_USER_OUT"})


def flow_of(row: Bill) -> tuple[int, int] | None:
    """(amount e8, venue ns) of a movement that was paid in (above 0) or taken out; None for any other."""
    kind = row.businessType or row.type or ""
    if (row.groupType or "").lower() in FLOWS_SPOT:
        return _spot_flow(row, kind.lower())
    inward = kind.startswith("trans_from_") or (kind in FLOWS_V3 and kind.endswith("_IN"))
    outward = kind.startswith("trans_to_") or (kind in FLOWS_V3 and kind.endswith("_OUT"))
    if not inward and not outward:
        return None
    amount = abs(money_e8(row.amount or "0"))
    return (amount if inward else -amount), ms(row.cTime or row.ts) * MS_NS


def _spot_flow(row: Bill, kind: str) -> tuple[int, int] | None:
    """The name gives the direction where it says one, else the sign does."""
    amount = money_e8(row.size or row.amount or "0")
    if kind.endswith("_in") or kind == "deposit":
        amount = abs(amount)
    elif kind.endswith("_out") or kind == "withdraw":
        amount = -abs(amount)
    return (amount, ms(row.cTime or row.ts) * MS_NS) if amount else None


def funding_of(row: Bill, instruments: Instruments) -> FundingTold | None:
    """Funding of a position; None for any other movement, and for an instrument that is not ours."""
    kind = row.businessType or row.type or ""
    if kind != FUNDING_V2 and kind not in FUNDING_V3:
        return None
    if row.symbol and instruments.find(row.symbol) is None:
        return None
    amount = money_e8(row.amount or "0")
    if kind in FUNDING_V3:  # the type says which way, whatever sign the amount bears
        amount = abs(amount) if kind.endswith("_IN") else -abs(amount)
    item = instruments.find(row.symbol or "")
    at = ms(row.cTime or row.ts) * MS_NS
    return FundingTold(item.index if item is not None else -1, amount, number(row.billId or row.id, "billId"), at)


# --- market -----------------------------------------------------------------------------------------------------------
def market_told(row: Ticker, item: Instrument, ts_event: int, ts_recv: int) -> list[Quote | Mark]:
    """Best bid and ask, and the mark: spot has none, there its last price stands for it."""
    at = ms(row.ts) * MS_NS or ts_event
    found: list[Quote | Mark] = []
    if row.bidPr and row.askPr:
        found.append(Quote(
            item.index, item.ticks(row.bidPr), item.lots(trimmed(row.bidSz or "0")), item.ticks(row.askPr),
            item.lots(trimmed(row.askSz or "0")), at, ts_recv,
        ))  # fmt: skip
    mark = row.lastPr if item.spot else row.markPrice
    if mark:
        rate = "0" if item.spot else row.fundingRate or "0"
        found.append(Mark(item.index, item.ticks_nearest(mark), parse_ppm(rate), at, ts_recv))
    return found


# --- texts ------------------------------------------------------------------------------------------------------------
def find(instruments: Instruments, symbol: str, *, spot: bool) -> Instrument | None:
    """The instrument of the venue's symbol; None when it is not one of ours. Some lists write symbols small."""
    return instruments.find(symbol.upper() + (SPOT_MARK if spot else ""))


def one_of(rows: Sequence[Any] | Any | None) -> Any | None:
    """The single row of an answer that may be a list."""
    return (rows[0] if rows else None) if isinstance(rows, list) else rows


def same_symbol(item: Instrument, symbol: str) -> bool:
    """Whether the venue speaks of this instrument."""
    return symbol.upper() == venue_symbol(item.symbol)


def lots_of(item: Instrument, amount_e8: int) -> int:
    """Whole lots of an amount of the base asset in 1e-8, rounded down."""
    return amount_e8 * 10**item.qty_decimals // (10**8 * item.lot)


def _known(table: dict[str, int], text: str, what: str) -> int:
    found = table.get(text)
    if found is None:
        raise ValueError(f"{what} {text[:40]!r}")
    return found


def _status(text: str) -> int:
    return _known(STATUS, text.lower(), "order status")


def _held(text: Text) -> str:
    """A position side that says something: "net" is a one-way account's."""
    return "" if text is None or text == "net" else text


def number(text: str | None, what: str) -> int:
    """A number of the venue's, above 0 and below 2**63."""
    if not text or not text.isascii() or not text.isdigit() or len(text) > 19 or not 0 < int(text) < INT63:
        raise ValueError(f"{what} {(text or '')[:40]!r} is no number copyd can keep")
    return int(text)


def ms(value: Number) -> int:
    """Milliseconds; 0 = not told."""
    if isinstance(value, int):
        found = value
    else:
        text = value or "0"
        if not text.isascii() or not text.isdigit() or len(text) > 15:
            raise ValueError(f"time {text[:40]!r}")
        found = int(text)
    if not 0 <= found < INT63 // MS_NS:
        raise ValueError(f"time {found}")
    return found


def whole(value: Number) -> int:
    """A small whole number such as a leverage; 0 = not told."""
    if isinstance(value, int):
        return value
    text, _, part = (value or "0").partition(".")
    if not text.isascii() or not text.isdigit() or len(text) > 6 or part.strip("0"):
        raise ValueError(f"whole number {value!r}")
    return int(text)


def _negated(text: str) -> str:
    """An amount with its sign turned."""
    if not text.strip("-0."):
        return "0"
    return text[1:] if text.startswith("-") else f"-{text}"
