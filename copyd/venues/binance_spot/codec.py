"""Bytes of the venue to facts. Pure: no socket, no clock, no state.

Wire structs come first (field names are the venue's), then the functions from them to ``told``. Every number becomes an exact
scaled integer; what cannot be read becomes a ``Malformed`` value, which the caller counts: no frame of a counterparty raises
through the loop.

Our units: ns, ticks, lots, 1e-8 of the quote asset. There is one position side, 0; a balance of the base asset is a long
position.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from copyd.core import leader_stream as ls
from copyd.venues.binance_spot.errors import classify
from copyd.venues.binance_spot.instruments import held_lots
from copyd.venues.common import told as t
from copyd.venues.common.facts import (
    CANCELED,
    EXPIRED,
    FILLED,
    MS_NS,
    NEW,
    PARTIALLY_FILLED,
    REJECTED,
    Malformed,
    Mark,
    Quote,
    decode_body,
    malformed,
    money_e8,
    own_cid,
)
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.outcome import Outcome, Verdict
from copyd.venues.common.venue import AccountBooks

STATUS: Final = {
    "NEW": NEW, "PENDING_NEW": NEW, "PENDING_CANCEL": NEW, "PARTIALLY_FILLED": PARTIALLY_FILLED, "FILLED": FILLED,
    "CANCELED": CANCELED, "EXPIRED": EXPIRED, "EXPIRED_IN_MATCH": EXPIRED, "REJECTED": REJECTED,
}  # fmt: skip
SIDE: Final = {"BUY": 1, "SELL": -1}
INT63_MAX: Final = (1 << 63) - 1
#: Ids of requests that are no placement.
LOGIN_ID: Final = "login"
SUBSCRIBE_PREFIX: Final = "s-"
#: The answer to a placement that cannot be read proves nothing.
UNREADABLE: Final = Verdict(Outcome.IN_DOUBT, "unreadable_answer")


# --- wire: answers ------------------------------------------------------------------------------------------------------
class ErrorBody(msgspec.Struct):
    code: int = 0
    msg: str = ""
    data: Any = None  # {"serverTime", "retryAfter"} with a rate limit


class OrderResult(msgspec.Struct):
    """The order object of placements, queries and lists; which time it bears depends on which."""

    symbol: str
    orderId: int
    clientOrderId: str
    status: str
    side: str
    origQty: str
    executedQty: str
    cummulativeQuoteQty: str = "0"
    transactTime: int = 0
    time: int = 0
    updateTime: int = 0


class Subscription(msgspec.Struct):
    subscriptionId: int


class _Frame(msgspec.Struct):
    """Any message of the WebSocket API: an answer has ``status``, an event ``event``."""

    id: str | int | None = None
    status: int = 0
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorBody | None = None
    subscriptionId: int | None = None
    event: msgspec.Raw = msgspec.Raw(b"")  # empty: there is none


# --- wire: events ---------------------------------------------------------------------------------------------------------
class ExecutionReport(msgspec.Struct, tag_field="e", tag="executionReport"):
    s: str
    c: str
    S: str
    x: str
    X: str
    i: int
    q: str
    z: str
    Z: str = "0"
    C: str = ""
    l: str = "0"  # noqa: E741 - the venue's field name: last filled quantity
    L: str = "0"
    n: str | None = None
    N: str | None = None
    T: int = 0
    t: int = -1
    m: bool = False


class Held(msgspec.Struct):
    a: str
    f: str
    l: str  # noqa: E741 - the venue's field name: locked


class OutboundAccountPosition(msgspec.Struct, tag_field="e", tag="outboundAccountPosition"):
    B: list[Held]
    E: int = 0
    u: int = 0


class BalanceUpdate(msgspec.Struct, tag_field="e", tag="balanceUpdate"):
    a: str
    d: str
    T: int = 0


class ServerShutdown(msgspec.Struct, tag_field="e", tag="serverShutdown"):
    E: int = 0


class StreamTerminated(msgspec.Struct, tag_field="e", tag="eventStreamTerminated"):
    E: int = 0


Event = ExecutionReport | OutboundAccountPosition | BalanceUpdate | ServerShutdown | StreamTerminated


class _Named(msgspec.Struct):
    e: str = ""


# --- wire: market ---------------------------------------------------------------------------------------------------------
class BookTicker(msgspec.Struct):
    """Bears no time."""

    s: str
    b: str
    B: str
    a: str
    A: str


class MiniTicker(msgspec.Struct):
    s: str
    c: str
    E: int


class Trade(msgspec.Struct):
    s: str
    p: str
    T: int


class _Stream(msgspec.Struct):
    stream: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")
    id: str | int | None = None
    result: Any = None


# --- wire: REST -----------------------------------------------------------------------------------------------------------
class Balance(msgspec.Struct):
    asset: str
    free: str
    locked: str


class Account(msgspec.Struct):
    balances: list[Balance]
    updateTime: int = 0
    canTrade: bool = False


class Price(msgspec.Struct):
    symbol: str
    price: str


class UserTrade(msgspec.Struct):
    symbol: str
    id: int
    orderId: int
    price: str
    qty: str
    commission: str
    commissionAsset: str
    time: int
    isBuyer: bool
    isMaker: bool = False


class ServerTime(msgspec.Struct):
    serverTime: int


class Deposit(msgspec.Struct):
    amount: str
    coin: str
    insertTime: int
    status: int = 0


class Withdrawal(msgspec.Struct):
    amount: str
    coin: str
    applyTime: str
    transactionFee: str = "0"
    status: int = 0


class Moved(msgspec.Struct):
    asset: str
    amount: str
    timestamp: int
    status: str = ""


class Transfers(msgspec.Struct):
    total: int = 0
    rows: list[Moved] = []


_frame = msgspec.json.Decoder(_Frame)
_event = msgspec.json.Decoder(Event)
_named = msgspec.json.Decoder(_Named)
_stream = msgspec.json.Decoder(_Stream)
_result = msgspec.json.Decoder(OrderResult)
_results = msgspec.json.Decoder(list[OrderResult])
_trades = msgspec.json.Decoder(list[UserTrade])
_account = msgspec.json.Decoder(Account)
_book_ticker = msgspec.json.Decoder(BookTicker)
_mini_ticker = msgspec.json.Decoder(MiniTicker)
_trade = msgspec.json.Decoder(Trade)
_subscription = msgspec.json.Decoder(Subscription)
_UNREAD = (msgspec.MsgspecError, UnicodeDecodeError, ValueError, OverflowError, RecursionError)


def _whole(*numbers: int) -> None:
    for number in numbers:
        if not -INT63_MAX <= number <= INT63_MAX:
            raise ValueError("a number beyond 63 bits")


# --- orders and executions ----------------------------------------------------------------------------------------------
def order_told(row: OrderResult, instrument: Instrument) -> t.OrderTold:
    """An order object as a fact; ``ValueError`` where a number does not fit the instrument or a word is unknown."""
    if row.symbol != instrument.symbol:
        raise ValueError(f"an order of {row.symbol[:20]} where one of {instrument.symbol} was asked for")
    status, side = STATUS.get(row.status, 0), SIDE.get(row.side, 0)
    if not status or not side:
        raise ValueError(f"order state {row.status[:20]!r}, side {row.side[:10]!r}")
    cum = instrument.lots(row.executedQty)
    cost = money_e8(row.cummulativeQuoteQty) if cum else 0  # below 0: the venue does not have it any more
    ts_event = (row.updateTime or row.transactTime or row.time) * MS_NS
    _whole(row.orderId, cost, ts_event)
    return t.OrderTold(
        own_cid(row.clientOrderId), row.clientOrderId, instrument.index, row.orderId, status, cum, max(0, cost), side, 0,
        instrument.lots(row.origQty), False, ts_event,
    )  # fmt: skip


def order_of(body: bytes, instrument: Instrument) -> t.OrderTold:
    """The answer to ``GET /api/v3/order``; ``ValueError`` for what cannot be read."""
    return order_told(_decoded(_result, body), instrument)


def orders_of(body: bytes, instrument: Instrument) -> list[tuple[int, t.OrderTold]]:
    """Rows of ``allOrders``: (order id, the order)."""
    return [(row.orderId, order_told(row, instrument)) for row in _decoded(_results, body)]


def trades_of(body: bytes, instrument: Instrument, ts_recv: int, cid: bytes | None) -> list[t.TradeTold]:
    """Rows of ``myTrades``, oldest first by id; not live. ``ValueError`` for what cannot be read."""
    found = []
    for row in sorted(_decoded(_trades, body), key=lambda row: row.id):
        if row.symbol != instrument.symbol:
            raise ValueError(f"myTrades of {instrument.symbol} lists {row.symbol[:20]}")
        _whole(row.id, row.orderId, row.time * MS_NS)
        execution = ls.Execution(
            instrument.index, 0, row.id, row.orderId, 1 if row.isBuyer else -1, instrument.lots(row.qty),
            instrument.ticks(row.price), realised=not row.isBuyer, maker=row.isMaker, live=False, ts_event=row.time * MS_NS,
            ts_recv=ts_recv,
        )  # fmt: skip
        found.append(t.TradeTold(cid, execution, row.commission, row.commissionAsset))
    return found


def _decoded(decoder: Any, body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise ValueError(str(problem)[:200]) from None


# --- account ----------------------------------------------------------------------------------------------------------------
def account_of(body: bytes) -> Account:
    """The answer to ``GET /api/v3/account``."""
    account: Account = _decoded(_account, body)
    return account


def positions_of(account: Account, instruments: Instruments, ts_recv: int, source: str = "poll") -> list[ls.Position]:
    """Balances of base assets as one-way long positions, whole lots; what is not in the list is not held."""
    held = {row.asset: row for row in account.balances}
    ts_event = account.updateTime * MS_NS
    _whole(ts_event)
    found = []
    for item in instruments:
        row = held.get(item.base_asset)
        if row is not None and (lots := held_lots(item, row.free, row.locked)):
            found.append(ls.Position(item.index, 0, lots, ts_event, ts_recv, source, 1, True))
    return found


def books_of(account: Account, instruments: Instruments, prices: dict[str, str]) -> AccountBooks:
    """Wallet = the quote asset, free and locked. Equity = that and the base assets in use, at ``prices`` by symbol, rounded down;
    other assets do not count. ``ValueError``: a price is missing."""
    held = {row.asset: row for row in account.balances}
    wallet = available = equity = 0
    for asset in {item.quote_asset for item in instruments}:
        if asset in held:
            available += money_e8(held[asset].free)
            wallet += money_e8(held[asset].free) + money_e8(held[asset].locked)
    for item in instruments:
        row = held.get(item.base_asset)
        amount = money_e8(row.free) + money_e8(row.locked) if row is not None else 0
        if amount and item.symbol not in prices:
            raise ValueError(f"no price of {item.symbol}")
        equity += amount * money_e8(prices[item.symbol]) // 10**8 if amount else 0
    rows = tuple((p.instrument, 0, p.qty, 0) for p in positions_of(account, instruments, 0))
    return AccountBooks(wallet, available, wallet + equity, rows, account.updateTime * MS_NS)


def prices_of(body: bytes) -> dict[str, str]:
    """The answer to ``GET /api/v3/ticker/price`` of several symbols."""
    return {row.symbol: row.price for row in decode_body(body, list[Price])}


# --- the WebSocket API --------------------------------------------------------------------------------------------------------
def read(payload: bytes, instruments: Instruments, ts_recv: int) -> list[t.Told]:
    """What a frame of the WebSocket API says; never raises."""
    try:
        frame = _frame.decode(payload)
    except _UNREAD as problem:
        return [malformed(problem, payload)]
    if bytes(frame.event):
        return _event_of(frame, payload, instruments, ts_recv)
    name = frame.id if isinstance(frame.id, str) else ""
    if (cid := own_cid(name)) is not None:
        return [_answered(cid, frame, instruments)]
    verdict = _verdict(frame)
    ok = verdict.outcome == Outcome.ACCEPTED
    message = frame.error.msg if frame.error is not None else ""
    if name == LOGIN_ID:
        return [t.LoggedIn(ok, verdict.reason, verdict.code, message)]
    if name.startswith(SUBSCRIBE_PREFIX):
        return [_subscribed(name, frame, verdict, message, payload)]
    if frame.id is None and frame.error is None:
        return [malformed("neither an answer nor an event", payload)]
    return [t.Unused(f"answer {name[:20]}")]


def _verdict(frame: _Frame) -> Verdict:
    return classify(frame.status, frame.error.code, frame.error.msg) if frame.error is not None else classify(frame.status)


def _retry_ns(frame: _Frame) -> int:
    """When to come again after a refusal for our rate; 0: it is none, -1: it does not say."""
    error = frame.error
    if error is None or frame.status not in (418, 429):
        return 0
    told = error.data if isinstance(error.data, dict) else {}
    now, until = told.get("serverTime"), told.get("retryAfter")
    if type(now) is int and type(until) is int and 0 <= until - now < 30 * 86_400_000:
        return max(1, (until - now) * MS_NS)
    return -1


def _subscribed(name: str, frame: _Frame, verdict: Verdict, message: str, payload: bytes) -> t.Told:
    if verdict.outcome != Outcome.ACCEPTED:
        return t.Subscribed(name, False, message, -1, verdict.reason, verdict.code, _retry_ns(frame))
    try:
        return t.Subscribed(name, True, "", _subscription.decode(frame.result).subscriptionId)
    except _UNREAD as problem:
        return malformed(problem, payload)


def _answered(cid: bytes, frame: _Frame, instruments: Instruments) -> t.Answered:
    """The answer to a placement. One that bears another order than was asked for is in doubt, as one that cannot be read."""
    verdict = _verdict(frame)
    message = frame.error.msg if frame.error is not None else ""
    if verdict.outcome != Outcome.ACCEPTED:
        return t.Answered(cid, verdict, message=message, retry_ns=_retry_ns(frame))
    try:
        row = _result.decode(frame.result)
        instrument = instruments.find(row.symbol)
        if instrument is None:
            raise ValueError(f"an order of {row.symbol[:20]}")
        told = order_told(row, instrument)
        if told.cid != cid:
            raise ValueError(f"client order id {row.clientOrderId[:36]}")
    except _UNREAD as problem:
        return t.Answered(cid, UNREADABLE, message=str(problem)[:200])
    return t.Answered(cid, verdict, told.venue_order_id, told.status, told.cum_qty, told.cost_e8, told.ts_event)


def _event_of(frame: _Frame, payload: bytes, instruments: Instruments, ts_recv: int) -> list[t.Told]:
    number = frame.subscriptionId
    try:
        event = _event.decode(frame.event)
        if isinstance(event, ServerShutdown):
            return [t.Ending("the venue is about to shut down")]
        if number is None:
            raise ValueError("an event without a subscription")
        found: list[Any] = _facts(event, instruments, ts_recv, payload)
    except _UNREAD as problem:
        found = [_unlisted(frame.event, problem, payload)]
        if number is None:
            return found
    return [t.Of(number, told) for told in found]


def _unlisted(event: msgspec.Raw, problem: Exception, payload: bytes) -> t.Unused | Malformed:
    """An event of a kind we do not use is no error."""
    try:
        kind = _named.decode(event).e
    except _UNREAD:
        return malformed(problem, payload)
    used = {kind.__struct_config__.tag for kind in Event.__args__}
    return malformed(problem, payload) if not kind or kind in used else t.Unused(kind[:40])


def _facts(event: Any, instruments: Instruments, ts_recv: int, payload: bytes) -> list[Any]:
    match event:
        case ExecutionReport():
            return [_report(event, instruments, ts_recv, payload)]
        case OutboundAccountPosition():
            return _balances(event, instruments, ts_recv, payload) or [t.Unused("outboundAccountPosition")]
        case BalanceUpdate():
            _whole(event.T * MS_NS)
            return [t.FlowTold(event.a, money_e8(event.d), event.T * MS_NS)]
        case _:
            return [t.Ending("the venue has ended this account's events")]


def _report(e: ExecutionReport, instruments: Instruments, ts_recv: int, payload: bytes) -> t.OrderTold | t.TradeTold | t.Unused:
    """A cancelled order stands under its first id in ``C``; ``c`` is the cancel's own then."""
    item = instruments.find(e.s)
    if item is None:
        return t.Unused("executionReport of another symbol")
    name = e.C if e.C not in ("", "null") else e.c
    status, side = STATUS.get(e.X, 0), SIDE.get(e.S, 0)
    if not status or not side:
        raise ValueError(f"order state {e.X[:20]!r}, side {e.S[:10]!r}")
    cum, whole, ts_event = item.lots(e.z), item.lots(e.q), e.T * MS_NS
    cost = max(0, money_e8(e.Z)) if cum else 0
    _whole(e.i, e.t, cost, ts_event)
    order = t.OrderTold(own_cid(name), name, item.index, e.i, status, cum, cost, side, 0, whole, False, ts_event)
    if e.x != "TRADE":
        return order
    if e.t < 0:
        raise ValueError("an execution without an id")
    execution = ls.Execution(
        item.index, 0, e.t, e.i, side, item.lots(e.l), item.ticks(e.L), whole, cum, False, side < 0, e.m, True, name, "",
        ts_event, ts_recv, payload,
    )  # fmt: skip
    if execution.qty <= 0 or execution.px <= 0:
        raise ValueError("an execution of nothing")
    return t.TradeTold(order.cid, execution, e.n or "0", e.N or "", order)


def _balances(e: OutboundAccountPosition, instruments: Instruments, ts_recv: int, payload: bytes) -> list[Any]:
    """Only assets that changed are told: the quote asset is the wallet, a base asset the position of its market."""
    ts_event = (e.u or e.E) * MS_NS
    _whole(ts_event)
    by_base = {item.base_asset: item for item in instruments}
    quotes = {item.quote_asset for item in instruments}
    found: list[Any] = []
    for row in e.B:
        if (item := by_base.get(row.a)) is not None:
            lots = held_lots(item, row.f, row.l)
            found.append(t.PositionTold(ls.Position(item.index, 0, lots, ts_event, ts_recv, "push", 1, True, payload)))
        if row.a in quotes:
            found.append(t.WalletTold(row.a, money_e8(row.f) + money_e8(row.l), ts_event=ts_event))
    return found


# --- market streams -----------------------------------------------------------------------------------------------------------
def read_market(payload: bytes, instruments: Instruments, ts_recv: int) -> list[Quote | Mark | t.Unused | Malformed]:
    """Best bid and ask as a quote, a last price as the mark (spot has no other); never raises."""
    try:
        frame = _stream.decode(payload)
        kind = frame.stream.partition("@")[2]
        if not frame.stream and frame.id is not None:
            return [t.Unused("answer")]
        if kind == "bookTicker":
            return [_quote(_book_ticker.decode(frame.data), instruments, ts_recv)]
        if kind == "miniTicker":
            ticker = _mini_ticker.decode(frame.data)
            return [_mark(ticker.s, ticker.c, ticker.E, instruments, ts_recv)]
        if kind == "trade":
            trade = _trade.decode(frame.data)
            return [_mark(trade.s, trade.p, trade.T, instruments, ts_recv)]
        if not kind:
            raise ValueError("no stream is named")
        return [t.Unused(kind[:40])]
    except _UNREAD as problem:
        return [malformed(problem, payload)]


def _quote(row: BookTicker, instruments: Instruments, ts_recv: int) -> Quote | t.Unused:
    item = instruments.find(row.s)
    if item is None:
        return t.Unused("bookTicker of another symbol")
    bid, ask = item.ticks(row.b), item.ticks(row.a)
    return Quote(item.index, bid, item.lots(row.B), ask, item.lots(row.A), ts_recv, ts_recv)


def _mark(symbol: str, price: str, ts_ms: int, instruments: Instruments, ts_recv: int) -> Mark | t.Unused:
    item = instruments.find(symbol)
    if item is None:
        return t.Unused("price of another symbol")
    _whole(ts_ms * MS_NS)
    return Mark(item.index, item.ticks_nearest(price), 0, ts_ms * MS_NS, ts_recv)
