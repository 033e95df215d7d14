"""Bytes of the venue to facts. Pure: no socket, no clock, no state.

Wire structs come first (field names are the venue's), then the normalised facts the rest of copyd sees, then the
functions between them. Every number becomes an exact scaled integer; what cannot be read becomes a ``Malformed`` value,
which the caller counts: no frame of a counterparty raises through the loop.

Our units: ns, ticks, lots, 1e-8 of the quote asset. Position side: 0 BOTH, 1 LONG, 2 SHORT.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from copyd._fast.replies import Executions
from copyd.core.leader_stream import Execution
from copyd.venues.binance_usdm.instruments import Instruments
from copyd.venues.common.facts import (
    MS_NS,
    Malformed,
    malformed,
)

STATUS: Final = {
    "NEW": 2, "PARTIALLY_FILLED": 3, "FILLED": 4, "CANCELED": 6, "EXPIRED": 7, "EXPIRED_IN_MATCH": 7, "REJECTED": 8,
    "NEW_INSURANCE": 2, "NEW_ADL": 2,
}  # fmt: skip
SIDE: Final = {"BUY": 1, "SELL": -1}
POSITION_SIDE: Final = {"BOTH": 0, "LONG": 1, "SHORT": 2}
POSITION_SIDE_NAME: Final = ("BOTH", "LONG", "SHORT")


# --- wire: replies of the order socket --------------------------------------------------------------------------------
class OrderResult(msgspec.Struct):
    """The order object in answers to order.place, order.status and order.cancel; averages are optional."""

    orderId: int = 0
    symbol: str = ""
    status: str = ""
    clientOrderId: str = ""
    side: str = ""
    positionSide: str = ""
    origQty: str = ""
    executedQty: str = "0"
    avgPrice: str = ""
    cumQuote: str = ""
    updateTime: int = 0


class HistoryOrder(OrderResult):
    """A row of allOrders; ``time``: when it was placed."""

    time: int = 0


class ErrorBody(msgspec.Struct):
    code: int = 0
    msg: str = ""
    data: Any = None  # {"serverTime", "retryAfter"} with a rate limit


class OrderReply(msgspec.Struct):
    """An answer on the order socket."""

    id: str | int | None = None
    status: int = 0
    result: OrderResult | None = None
    error: ErrorBody | None = None


class RawReply(msgspec.Struct):
    """An answer whose result another decoder reads."""

    id: str | int | None = None
    status: int = 0
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorBody | None = None


# --- wire: user stream ------------------------------------------------------------------------------------------------
class OrderBody(msgspec.Struct):
    """``o`` of ORDER_TRADE_UPDATE."""

    s: str
    c: str
    S: str
    X: str
    x: str
    i: int
    q: str = "0"
    z: str = "0"
    l: str = "0"  # noqa: E741 - the venue's field name: last filled quantity
    L: str = "0"
    ap: str = "0"
    N: str | None = None
    n: str | None = None
    T: int = 0
    t: int = 0
    m: bool = False
    R: bool = False
    ps: str = "BOTH"
    o: str = ""
    ot: str = ""
    rp: str = "0"  # realised profit of this trade


class OrderTradeUpdate(msgspec.Struct, tag_field="e", tag="ORDER_TRADE_UPDATE"):
    E: int
    T: int
    o: OrderBody


class TradeLite(msgspec.Struct, tag_field="e", tag="TRADE_LITE"):
    """The thin form of a trade; the same ``t`` as the ORDER_TRADE_UPDATE that follows, but without a position side."""

    E: int
    T: int
    s: str
    c: str
    S: str
    i: int
    l: str  # noqa: E741
    L: str
    t: int
    m: bool = False
    q: str = "0"


class BalanceBody(msgspec.Struct):
    a: str
    wb: str
    bc: str = "0"


class PositionBody(msgspec.Struct):
    s: str
    pa: str
    ps: str = "BOTH"
    ep: str = "0"
    mt: str = ""


class AccountBody(msgspec.Struct):
    m: str = ""
    B: list[BalanceBody] = []
    P: list[PositionBody] = []


class AccountUpdate(msgspec.Struct, tag_field="e", tag="ACCOUNT_UPDATE"):
    E: int
    T: int
    a: AccountBody


class ConfigBody(msgspec.Struct):
    s: str
    l: int  # noqa: E741 - leverage


class AccountConfigUpdate(msgspec.Struct, tag_field="e", tag="ACCOUNT_CONFIG_UPDATE"):
    E: int
    T: int = 0
    ac: ConfigBody | None = None


class ListenKeyExpired(msgspec.Struct, tag_field="e", tag="listenKeyExpired"):
    E: int
    listenKey: str = ""


class MarginCall(msgspec.Struct, tag_field="e", tag="MARGIN_CALL"):
    E: int


UserEvent = OrderTradeUpdate | TradeLite | AccountUpdate | AccountConfigUpdate | ListenKeyExpired | MarginCall


class CombinedUser(msgspec.Struct):
    """On a combined user stream, ``stream`` is the listen key the event belongs to."""

    stream: str
    data: UserEvent


class Unlisted(msgspec.Struct, frozen=True):
    """An event type or control answer we do not use (ALGO_UPDATE, an answer to SUBSCRIBE): counted, not an error."""

    kind: str
    stream: str = ""


class _Envelope(msgspec.Struct):
    e: str = ""
    stream: str = ""
    id: str | int | None = None
    data: _Envelope | None = None
    error: ErrorBody | None = None


# --- wire: market streams ---------------------------------------------------------------------------------------------
class BookTicker(msgspec.Struct, tag_field="e", tag="bookTicker"):
    s: str
    b: str
    B: str
    a: str
    A: str
    E: int = 0
    T: int = 0
    u: int = 0


class MarkPrice(msgspec.Struct, tag_field="e", tag="markPriceUpdate"):
    s: str
    p: str
    E: int = 0
    r: str = ""
    T: int = 0


class CombinedMarket(msgspec.Struct):
    data: BookTicker | MarkPrice
    stream: str = ""


class Income(msgspec.Struct):
    """One row of the income history: a transfer, funding, a fee."""

    asset: str
    income: str
    time: int
    incomeType: str = ""


# --- wire: REST -------------------------------------------------------------------------------------------------------
class PositionRisk(msgspec.Struct):
    symbol: str
    positionAmt: str
    positionSide: str = "BOTH"
    entryPrice: str = "0"
    leverage: str | int = 0
    isolated: bool | None = None
    marginType: str = ""
    updateTime: int = 0


class Account(msgspec.Struct):
    totalMarginBalance: str
    totalWalletBalance: str
    availableBalance: str = "0"
    totalUnrealizedProfit: str = "0"
    positions: list[PositionRisk] = []


class UserTrade(msgspec.Struct):
    symbol: str
    id: int
    orderId: int
    side: str
    price: str
    qty: str
    time: int
    positionSide: str = "BOTH"
    maker: bool = False
    commission: str = "0"
    commissionAsset: str = ""


class OrderRow(msgspec.Struct):
    """An order as ``GET /fapi/v1/order`` tells it."""

    orderId: int
    clientOrderId: str = ""
    origQty: str = "0"
    reduceOnly: bool = False
    type: str = ""


class SymbolConfig(msgspec.Struct):
    symbol: str
    marginType: str
    leverage: int


class AccountConfig(msgspec.Struct):
    dualSidePosition: bool = False
    multiAssetsMargin: bool = False
    canTrade: bool = True
    canWithdraw: bool = False


class ListenKey(msgspec.Struct):
    listenKey: str


class ServerTime(msgspec.Struct):
    serverTime: int


# --- decoding ---------------------------------------------------------------------------------------------------------
_order_reply = msgspec.json.Decoder(OrderReply)
_raw_reply = msgspec.json.Decoder(RawReply)
_user = msgspec.json.Decoder(UserEvent)
_combined_user = msgspec.json.Decoder(CombinedUser)
_market = msgspec.json.Decoder(CombinedMarket)
_envelope = msgspec.json.Decoder(_Envelope)
_trades = msgspec.json.Decoder(list[UserTrade])
_positions = msgspec.json.Decoder(list[PositionRisk])
_orders = msgspec.json.Decoder(list[HistoryOrder])


def decode_order_reply(payload: bytes) -> OrderReply | Malformed:
    """An answer on the order socket."""
    try:
        return _order_reply.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        return malformed(problem, payload)


def decode_raw_reply(payload: bytes) -> RawReply | Malformed:
    """An answer on the account socket; ``result`` stays undecoded."""
    try:
        return _raw_reply.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        return malformed(problem, payload)


def decode_user(payload: bytes) -> UserEvent | Unlisted | Malformed:
    """An event of a user stream with one listen key."""
    try:
        return _user.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        return _unlisted(payload, problem)


def decode_combined_user(payload: bytes) -> CombinedUser | Unlisted | Malformed:
    """An event of a user stream with several listen keys."""
    try:
        return _combined_user.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        return _unlisted(payload, problem)


def decode_market(payload: bytes) -> CombinedMarket | Unlisted | Malformed:
    """A best bid/ask or a mark price."""
    try:
        return _market.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        return _unlisted(payload, problem)


#: Event types whose wire struct exists: if such an event failed to decode it is malformed, not merely unused.
_USED = frozenset(
    {
        "ORDER_TRADE_UPDATE", "TRADE_LITE", "ACCOUNT_UPDATE", "ACCOUNT_CONFIG_UPDATE", "listenKeyExpired", "MARGIN_CALL",
        "bookTicker", "markPriceUpdate",
    }
)  # fmt: skip


def _unlisted(payload: bytes, problem: Exception) -> Unlisted | Malformed:
    try:
        envelope = _envelope.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return malformed(problem, payload)
    kind = envelope.e or (envelope.data.e if envelope.data else "")
    if kind in _USED or (not kind and envelope.id is None and envelope.error is None):
        return malformed(problem, payload)
    return Unlisted(kind or "answer", envelope.stream)



def cause_of(client_order_id: str, order_type: str = "") -> str:
    """``liquidation``, ``adl`` or "": the venue marks its own orders by their client id."""
    if client_order_id.startswith("autoclose-") or order_type == "LIQUIDATION":
        return "liquidation"
    if client_order_id.startswith("adl_autoclose"):
        return "adl"
    if client_order_id.startswith(("settlement_autoclose-", "delivery_autoclose-")):
        return "settlement"
    return ""


def execution(event: OrderTradeUpdate, instruments: Instruments, ts_recv: int, raw: bytes) -> Execution | None:
    """The execution in an ORDER_TRADE_UPDATE; None if it carries none or the symbol is not ours. May raise ``ValueError``."""
    order = event.o
    instrument = instruments.find(order.s)
    if instrument is None or (order.x != "TRADE" and order.x != "CALCULATED") or order.l.strip("0.") == "":
        return None
    if order.t <= 0:
        raise ValueError("an execution without an id")
    return Execution(
        instrument.index, POSITION_SIDE[order.ps], order.t, order.i, SIDE[order.S], instrument.lots(order.l),
        instrument.ticks(order.L), instrument.lots(order.q), instrument.lots(order.z), order.R,
        order.rp.strip("-0.") != "", order.m, True, order.c, cause_of(order.c, order.o), event.T * MS_NS, ts_recv, raw,
    )  # fmt: skip


def executions(instruments: Instruments) -> Executions:
    """A compiled reader of ``execution`` for the frames that take no second look."""
    reader = Executions(Execution)
    instruments.teach_reader(reader)
    return reader


def listed(trade: UserTrade, instruments: Instruments, ts_recv: int) -> Execution | None:
    """A row of ``userTrades`` as an execution that was not live; None if the symbol is not ours."""
    instrument = instruments.find(trade.symbol)
    if instrument is None:
        return None
    return Execution(
        instrument.index, POSITION_SIDE[trade.positionSide], trade.id, trade.orderId, SIDE[trade.side],
        instrument.lots(trade.qty), instrument.ticks(trade.price), maker=trade.maker, live=False,
        ts_event=trade.time * MS_NS, ts_recv=ts_recv,
    )  # fmt: skip


def trades(payload: bytes) -> list[UserTrade]:
    """Rows of ``userTrades``."""
    return _trades.decode(payload)


def positions(payload: bytes) -> list[PositionRisk]:
    """Rows of ``positionRisk``."""
    return _positions.decode(payload)


def orders(payload: bytes) -> list[HistoryOrder]:
    """Rows of ``allOrders``."""
    return _orders.decode(payload)
