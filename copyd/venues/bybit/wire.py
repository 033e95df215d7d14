"""Bybit's private and public connections as text.

Orders go out on ``/v5/trade``, whose answers say only that they were received; what becomes of them comes on ``/v5/private``:
orders and executions as separate messages, the executions first thin (``execution.fast``) and then whole under the same id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from copyd.venues.bybit import codec
from copyd.venues.bybit.codec import MS_NS
from copyd.venues.bybit.contract import CONTRACT, PING, PING_EVERY_MS, Endpoints
from copyd.venues.bybit.errors import ACCOUNT_LIMIT_CODES, classify, reason_of
from copyd.venues.bybit.instruments import LINEAR, SPOT, category, find, wire_symbol
from copyd.venues.bybit.signing import CREATE, login_text, place_text
from copyd.venues.common import facts, told
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import Malformed, Mark, Quote, malformed
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.names import Names
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.signing import Key, json_text
from copyd.venues.common.told import UNREADABLE, Told, Unused, each
from copyd.venues.common.venue import Channel, Order

TRADE, PRIVATE = "trade", "private"
#: Our one subscription of the private connection; its answer may not repeat the name.
EVENTS = "events"
TOPICS = ("order", "execution", "execution.fast", "position", "wallet")
SERVICE_RESTARTING = 10019
#: Spot connections take so many topics with one request.
TOPICS_PER_REQUEST = 10
#: The account is being liquidated.
POSITION_LIQUIDATING = "Liq"


_Quote = Quote | Mark | Unused | Malformed


class BybitWire:
    """See ``copyd.venues.common.venue.Wire``. What it remembers besides the instruments are names (``Names``), the last best
    bid and ask, and the last funding rate: the venue tells changes only; and in what spot orders were sized (``Units``)."""

    def __init__(self, names: Names, contract: VenueContract = CONTRACT) -> None:
        self.names, self.contract = names, contract
        self.instruments = Instruments(())
        self._tops: dict[int, tuple[int, int, int, int]] = {}
        self._funding: dict[int, int] = {}
        self._units = codec.Units()

    def bind(self, instruments: Instruments) -> None:
        """The instruments in use, before anything else."""
        self.instruments = instruments
        self._tops.clear()
        self._funding.clear()

    # --- private: out -------------------------------------------------------------------------------------------------
    def channels(self, endpoints: Endpoints, key: Key | None = None) -> tuple[Channel, ...]:
        """The order socket, where there is one, and that of events."""
        found = [Channel(TRADE, endpoints.trade, True, False, (), PING, PING_EVERY_MS)] if endpoints.trade else []
        subscription = json_text({"req_id": EVENTS, "op": "subscribe", "args": list(TOPICS)})
        found.append(Channel(PRIVATE, endpoints.private, False, True, ((EVENTS, subscription),), PING, PING_EVERY_MS))
        return tuple(found)

    def login(self, channel: Channel, key: Key, now_ms: int) -> bytes:
        """The login message, the same on both private connections; public ones have none."""
        return login_text(key, now_ms) if channel.orders or channel.events else b""

    def place(self, order: Order, now_ms: int) -> bytes:
        """The placement as one text message."""
        return place_text(order, now_ms, self.contract.recv_window_ms)

    # --- private: in --------------------------------------------------------------------------------------------------
    def read(self, channel: str, payload: bytes, ts_recv: int) -> Sequence[Told]:
        """What a frame of that channel says, in its order."""
        try:
            head = codec.read_head(payload)
            if head.topic:
                return self._event(head, payload, ts_recv)
            return self._answer(channel, head, payload)
        except UNREADABLE as problem:
            return (malformed(problem, payload),)

    def _answer(self, channel: str, head: codec.Head, payload: bytes) -> Sequence[Told]:
        op = head.op
        if op == CREATE:
            return self._placed(head, payload)
        if op == "auth":
            return (_logged_in(head),)
        if op == "pong" or (op == "ping" and head.ret_msg == "pong"):
            return (told.Alive(),)
        if op == "subscribe":
            return (told.Subscribed(head.req_id or EVENTS, bool(head.success), head.ret_msg or ""),)
        if not op and head.success is False:
            # A refusal that does not say of what: before the login is answered it is that of the login.
            return (told.LoggedIn(False, "login_refused", head.retCode or 0, head.ret_msg or head.retMsg or ""),)
        if not op and head.retCode is None:
            raise ValueError("neither an answer nor an event")
        return (Unused(op or "answer"),)

    def _placed(self, head: codec.Head, payload: bytes) -> Sequence[Told]:
        if head.retCode is None:
            raise ValueError("an answer to an order without a code")
        placed = codec.read_placed(head.data)
        cid = facts.own_cid(head.reqId or "") or facts.own_cid(placed.orderLinkId)
        if cid is None:
            raise ValueError("an answer that names no order of ours")
        answer = self._answered(cid, head.retCode, head.retMsg or "", placed.orderId, head)
        if head.retCode == SERVICE_RESTARTING:
            return (answer, told.Ending("the order service restarts"))
        return (answer,)

    def _answered(self, cid: bytes, code: int, message: str, order_id: str, head: codec.Head) -> told.Answered:
        return answered(cid, 200, code, message, self.names.order(order_id), _times(head.header or {}))

    def _event(self, head: codec.Head, payload: bytes, ts_recv: int) -> Sequence[Told]:
        topic = head.topic.partition(".")[0]
        if topic == "order":
            return each(codec.read_orders(head.data), self._order, payload)
        if topic == "execution":
            thin = head.topic.startswith("execution.fast")
            return each(codec.read_executions(head.data), lambda row: self._execution(row, payload, ts_recv, thin), payload)
        if topic == "position":
            at = codec.ms(head.creationTime) * MS_NS
            return each(codec.read_positions(head.data), lambda row: self._position(row, payload, ts_recv, at), payload)
        if topic == "wallet":
            at = codec.ms(head.creationTime) * MS_NS
            return codec.wallets_told(codec.read_wallets(head.data), self.instruments, at, ts_recv, payload)
        return (Unused(head.topic[:40]),)

    def _order(self, row: codec.OrderRow) -> Sequence[Told]:
        one = codec.order_told(row, self.instruments, self.names)
        if one is not None and row.category == SPOT:
            self._units.told(one.venue_order_id, row.marketUnit)
        return (one,) if one is not None else (Unused("order of another instrument"),)

    def _execution(self, row: codec.ExecutionRow, payload: bytes, ts_recv: int, thin: bool) -> Sequence[Told]:
        one = codec.trade_told(row, self.instruments, self.names, ts_recv, thin=thin, raw=payload, units=self._units)
        return (one,) if one is not None else (Unused("execution in another instrument"),)

    def _position(self, row: codec.PositionRow, payload: bytes, ts_recv: int, ts_event: int) -> Sequence[Told]:
        one = codec.position(row, self.instruments, ts_recv, raw=payload)
        if one is None:
            return (Unused("position in another instrument"),)
        if row.positionStatus == POSITION_LIQUIDATING:
            return told.PositionTold(one), told.MarginCallTold(ts_event)
        return (told.PositionTold(one),)

    # --- public -------------------------------------------------------------------------------------------------------
    def market(self, endpoints: Endpoints) -> tuple[Channel, ...]:
        """A connection per category: the best bid and ask, and the mark (of spot the last price)."""
        topics: dict[str, list[str]] = {}
        for item in self.instruments:
            names = topics.setdefault(category(item), [])
            names += [f"orderbook.1.{wire_symbol(item)}", f"tickers.{wire_symbol(item)}"]
        return tuple(
            Channel(kind, f"{endpoints.public}/{kind}", False, False, tuple(_subscriptions(names)), PING, PING_EVERY_MS)
            for kind, names in topics.items()
        )

    def read_market(self, payload: bytes, ts_recv: int, channel: str = "") -> Sequence[_Quote]:
        """What a public frame says. ``channel``: where it came from; without it nothing is taken from a name that both a
        perpetual and a pair of ours have."""
        try:
            head = codec.read_public(payload)
            kind = head.topic.partition(".")[0]
            if kind == "orderbook":
                return (self._quote(head, channel, ts_recv),)
            if kind == "tickers":
                return (self._mark(head, channel, ts_recv),)
            if not head.op:
                raise ValueError("neither an answer nor a market event")
            if head.success is False:
                raise ValueError(f"{head.op[:40]} refused: {(head.ret_msg or '')[:100]}")
            return (Unused(head.op[:40]),)
        except UNREADABLE as problem:
            return (malformed(problem, payload),)

    def _item(self, channel: str, symbol: str) -> Any:
        if channel:
            return find(self.instruments, channel, symbol)
        linear, spot = find(self.instruments, LINEAR, symbol), find(self.instruments, SPOT, symbol)
        return None if linear is not None and spot is not None else linear or spot

    def _quote(self, head: codec.PublicHead, channel: str, ts_recv: int) -> _Quote:
        book = codec.read_book(head.data)
        item = self._item(channel, book.s)
        if item is None:
            return Unused("quote of another instrument")
        before = (0, 0, 0, 0) if head.type == "snapshot" else self._tops.get(item.index, (0, 0, 0, 0))
        bids = [(item.ticks(px), item.lots(qty)) for px, qty in book.b]
        asks = [(item.ticks(px), item.lots(qty)) for px, qty in book.a]
        bid, bid_qty = max((level for level in bids if level[1]), default=before[:2])
        ask, ask_qty = min((level for level in asks if level[1]), default=before[2:])
        self._tops[item.index] = (bid, bid_qty, ask, ask_qty)
        return Quote(item.index, bid, bid_qty, ask, ask_qty, codec.ms(head.ts) * MS_NS, ts_recv)

    def _mark(self, head: codec.PublicHead, channel: str, ts_recv: int) -> _Quote:
        ticker = codec.read_ticker(head.data)
        item = self._item(channel, ticker.symbol)
        if item is None:
            return Unused("mark of another instrument")
        if ticker.fundingRate:
            self._funding[item.index] = facts.parse_ppm(ticker.fundingRate)
        price = ticker.lastPrice if item.spot else ticker.markPrice
        if not price:
            return Unused("ticker without a mark")
        return Mark(item.index, item.ticks_nearest(price), self._funding.get(item.index, 0), codec.ms(head.ts) * MS_NS, ts_recv)


def answered(
    cid: bytes, status: int, code: int, message: str, order_id: int, times: tuple[int, int]
) -> told.Answered:
    """The answer to a placement. ``times``: the venue's, and when an exhausted limit is full again, ms (0 = not told)."""
    verdict = classify(status, code)
    retry = 0
    if code in ACCOUNT_LIMIT_CODES:
        now, reset = times
        retry = (reset - now) * MS_NS if 0 < now < reset else -1
    accepted = verdict.outcome is Outcome.ACCEPTED
    return told.Answered(
        cid, verdict, venue_order_id=order_id if accepted else 0, status=facts.NEW if accepted else 0,
        ts_event=times[0] * MS_NS if accepted else 0, message=message[:200], retry_ns=retry,
    )  # fmt: skip


def _logged_in(head: codec.Head) -> told.LoggedIn:
    """The answer to a login: on the order socket with a code, on that of events without one."""
    message = head.retMsg or head.ret_msg or ""
    if head.retCode is not None:
        if head.retCode == 0:
            return told.LoggedIn(True)
        # 10003 stands here for too many sessions of the account as well: that passes, a dead key shows in every call.
        reason = "too_many_sessions" if head.retCode == 10003 else reason_of(head.retCode)
        return told.LoggedIn(False, reason, head.retCode, message)
    if head.success:
        return told.LoggedIn(True)
    return told.LoggedIn(False, "login_refused", 0, message)


def _times(header: dict[str, Any]) -> tuple[int, int]:
    """The venue's time and when the limit is full again, ms, from an answer's header; 0 where it does not say."""
    names = {name.lower(): value for name, value in header.items()}
    return _digits(names.get("timenow")), _digits(names.get("x-bapi-limit-reset-timestamp"))


def _digits(value: Any) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def _subscriptions(topics: Sequence[str]) -> list[tuple[str, bytes]]:
    parts = [topics[at : at + TOPICS_PER_REQUEST] for at in range(0, len(topics), TOPICS_PER_REQUEST)]
    return [
        (f"{EVENTS}-{n}", json_text({"req_id": f"{EVENTS}-{n}", "op": "subscribe", "args": list(part)}))
        for n, part in enumerate(parts)
    ]
