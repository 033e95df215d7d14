"""The venue's sockets as text: logins, subscriptions, orders, frames read.

A private connection belongs to one account and, by its address, to one of the two APIs; what a frame says is told by the frame
(v2 names a ``channel``, v3 a ``topic``), so one ``BitgetWire`` reads both. The only state besides the instruments are bounded
tables of orders seen, of their position sides and sizes: some executions do not name theirs.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from copyd.venues.bitget import codec
from copyd.venues.bitget.contract import PRODUCT, Endpoints
from copyd.venues.bitget.errors import ADDRESS_LIMIT_CODES, classify, code_of, reason_of
from copyd.venues.bitget.instruments import venue_symbol
from copyd.venues.bitget.signing import login_text, place_text
from copyd.venues.common.facts import MS_NS, NEW, Malformed, Mark, Quote, malformed, money_e8, own_cid
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.signing import Key, json_text
from copyd.venues.common.told import UNREADABLE, Alive, Answered, Ending, LoggedIn, Subscribed, Told, Unused, WalletTold, each
from copyd.venues.common.venue import Channel, Order

PING = b"ping"
PONG = b"pong"
#: The venue wants one every 30 s; more often, a dead connection is noticed sooner.
PING_EVERY_MS = 10_000
#: Instruments in one subscription message, and on one public connection.
TICKERS_PER_MESSAGE = 40
TICKERS_PER_CONNECTION = 40
#: Orders whose position side is remembered.
ORDERS_SEEN_MAX = 50_000
UNIFIED = "UTA"
#: Names of private connections. Executions of v3 do not say how positions are kept, so the name does: as it was when the key was
#: looked at; an order that was seen says it more surely.
CLASSIC, UNIFIED_ONE_WAY, UNIFIED_HEDGE = "private", "unified.one_way", "unified.hedge"


class Kind(NamedTuple):
    """What is known of an account: which API it speaks, and whether it keeps a position per side."""

    unified: bool
    hedge: bool


class Frame(NamedTuple):
    """A push: the name of its connection, the venue's time and ours, and its bytes."""

    channel: str
    ts_event: int
    ts_recv: int
    raw: bytes


class _Arg(msgspec.Struct):
    instType: str = ""
    channel: str = ""
    topic: str = ""
    instId: str = ""
    coin: str = ""


class _Placed(msgspec.Struct):
    id: str = ""
    channel: str = ""
    orderId: str = ""
    clientOid: str = ""
    params: codec.Placed | None = None


class _Raw(msgspec.Struct):
    event: str = ""
    action: str = ""
    topic: str = ""
    id: str = ""
    code: str | int | None = None
    msg: str | None = None
    ts: str | int | None = None
    arg: msgspec.Raw = msgspec.Raw(b"null")
    args: msgspec.Raw = msgspec.Raw(b"null")
    data: msgspec.Raw = msgspec.Raw(b"null")


_frame = msgspec.json.Decoder(_Raw)
_arg = msgspec.json.Decoder(_Arg | None)
_placed = msgspec.json.Decoder(list[_Placed] | _Placed | None)
_orders = msgspec.json.Decoder(list[codec.Order])
_fills = msgspec.json.Decoder(list[codec.Fill])
_held = msgspec.json.Decoder(list[codec.Held])
_money = msgspec.json.Decoder(list[codec.Money])
_orders3 = msgspec.json.Decoder(list[codec.Order3])
_fills3 = msgspec.json.Decoder(list[codec.Fill3] | codec.Fill3)
_held3 = msgspec.json.Decoder(list[codec.Held3])
_account3 = msgspec.json.Decoder(list[codec.Account3])
_tickers = msgspec.json.Decoder(list[codec.Ticker])


Reader = Callable[[msgspec.Raw, Frame], Sequence[Told]]


class BitgetWire:
    """See the module and ``venues.common.venue.Wire``. ``kind_of``: what was learnt of an API key's account (``Rest.kind``)."""

    def __init__(self, kind_of: Callable[[bytes], Kind | None] = lambda api_key: None) -> None:
        self._kind_of = kind_of
        self._instruments = Instruments(())
        self._coins: set[str] = set()
        self._sides: OrderedDict[str, int] = OrderedDict()
        #: Of v3: what an order asked for, and executions heard before it.
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._early: OrderedDict[str, list[codec.Fill3]] = OrderedDict()
        #: Of v2's spot, whose fills name no client order id: that of their order, and what it asked for.
        self._spot_orders: OrderedDict[str, tuple[str, int]] = OrderedDict()
        #: (channel or topic, instType) of v2 in capitals -> reader of its rows.
        self._readers: dict[tuple[str, str], Reader] = {}
        for market, spot in ((PRODUCT, False), ("SPOT", True)):
            self._readers["orders", market] = self._orders_reader(spot)
            self._readers["fill", market] = self._fills_reader(spot)
        self._readers["account", PRODUCT] = self._money_told
        self._readers["account", "SPOT"] = self._coins_told
        self._readers["positions", PRODUCT] = self._positions_told
        self._readers["order", UNIFIED] = self._orders3_told
        self._readers["fill", UNIFIED] = self._fills3_reader(thin=False)
        self._readers["fast-fill", UNIFIED] = self._fills3_reader(thin=True)
        self._readers["position", UNIFIED] = self._positions3_told
        self._readers["account", UNIFIED] = self._account3_told

    def bind(self, instruments: Instruments) -> None:
        """The instruments in use, before anything else."""
        self._instruments = instruments
        #: Of a coin that is none of them nothing is looked into: what is held of it may be more than books can count.
        self._coins = {name for item in instruments for name in (item.base_asset, item.quote_asset, item.margin_asset)}

    # --- out --------------------------------------------------------------------------------------------------------------
    def channels(self, endpoints: Endpoints, key: Key | None = None) -> tuple[Channel, ...]:
        """One private connection for the account's events; ``key`` tells which API it speaks (none: v2). Orders go by REST."""
        name = CLASSIC
        kind = self._kind_of(key.api_key) if key is not None else None
        if kind is not None and kind.unified:
            name = UNIFIED_HEDGE if kind.hedge else UNIFIED_ONE_WAY
            topics = ("order", "fast-fill", "fill", "position", "account")
            subscriptions = tuple((topic, _subscribe({"instType": UNIFIED, "topic": topic})) for topic in topics)
            url = endpoints.private_v3
        else:
            args: list[tuple[str, dict[str, str]]] = []
            spot = [item.spot for item in self._instruments]
            if not all(spot) or not spot:  # spot and futures are two accounts, each with a balance of its own
                args += [
                    (channel, {"instType": PRODUCT, "channel": channel, "instId": "default"})
                    for channel in ("orders", "fill", "positions")
                ]
                args.append(("account", {"instType": PRODUCT, "channel": "account", "coin": "default"}))
            if any(spot):
                args += [
                    (f"spot.{channel}", {"instType": "SPOT", "channel": channel, "instId": "default"})
                    for channel in ("orders", "fill")
                ]
                args.append(("spot.account", {"instType": "SPOT", "channel": "account", "coin": "default"}))
            subscriptions = tuple((called, _subscribe(arg)) for called, arg in args)
            url = endpoints.private
        return (Channel(name, url, False, True, subscriptions, PING, PING_EVERY_MS),)

    def login(self, channel: Channel, key: Key, now_ms: int) -> bytes:
        """The login message; b"" where the channel needs none."""
        return login_text(key, now_ms) if channel.events else b""

    def place(self, order: Order, now_ms: int) -> bytes:
        """A placement of a classic account for the order socket, which the venue opens on approval only; isolated margin."""
        params = json.loads(place_text(order, isolated=True, unified=False))
        inst_id, market = params.pop("symbol"), params.pop("productType", "SPOT")
        arg = {"id": order.cid.hex(), "instType": market, "instId": inst_id, "channel": "place-order", "params": params}
        return json_text({"op": "trade", "args": [arg]})

    def market(self, endpoints: Endpoints) -> tuple[Channel, ...]:
        """Tickers, which bear bid, ask and mark: some instruments on each public connection."""
        items = list(self._instruments)
        found = []
        for at in range(0, len(items), TICKERS_PER_CONNECTION):
            part = items[at : at + TICKERS_PER_CONNECTION]
            messages = []
            for start in range(0, len(part), TICKERS_PER_MESSAGE):
                args = [{"instType": _market(item), "channel": "ticker", "instId": venue_symbol(item.symbol)}
                        for item in part[start : start + TICKERS_PER_MESSAGE]]
                messages.append(("ticker", json_text({"op": "subscribe", "args": args})))
            found.append(Channel(f"public-{at // TICKERS_PER_CONNECTION}", endpoints.public, False, False, tuple(messages), PING,
                                 PING_EVERY_MS))
        return tuple(found)

    # --- in ---------------------------------------------------------------------------------------------------------------
    def read(self, channel: str, payload: bytes, ts_recv: int) -> Sequence[Told]:
        """What a frame of a private connection says, in its order."""
        if payload == PONG:
            return (Alive(),)
        try:
            frame = _frame.decode(payload)
            if frame.event:
                return self._event(frame)
            if not frame.action:
                raise ValueError("neither an event nor a push")
            arg = _arg.decode(frame.arg) or _Arg()
            read = self._readers.get((arg.channel or arg.topic, arg.instType.upper()))
            if read is None:
                return (Unused(arg.channel or arg.topic or frame.action),)
            return read(frame.data, Frame(channel, codec.ms(frame.ts) * MS_NS, ts_recv, payload))
        except UNREADABLE as problem:
            return (malformed(problem, payload),)

    def read_market(self, payload: bytes, ts_recv: int, channel: str = "") -> Sequence[Quote | Mark | Unused | Malformed]:
        """What a public frame says."""
        if payload == PONG:
            return (Unused("pong"),)
        try:
            frame = _frame.decode(payload)
            if frame.event == "error":
                raise ValueError(f"refused: {frame.code} {(frame.msg or '')[:100]}")
            if frame.event:
                return (Unused(frame.event),)
            arg = _arg.decode(frame.arg) or _Arg()
            if arg.channel != "ticker":
                return (Unused(arg.channel or "unnamed"),)
            found: list[Quote | Mark | Unused | Malformed] = []
            ts_event = codec.ms(frame.ts) * MS_NS
            for row in _tickers.decode(frame.data):
                item = codec.find(self._instruments, row.instId, spot=arg.instType == "SPOT")
                if item is not None:
                    found += codec.market_told(row, item, ts_event, ts_recv)
            return found
        except UNREADABLE as problem:
            return (malformed(problem, payload),)

    # --- answers ------------------------------------------------------------------------------------------------------------
    def _event(self, frame: _Raw) -> Sequence[Told]:
        code = code_of(frame.code) if frame.code is not None else 0
        if frame.event == "login":
            # The number 0 is written as a number or as a text; "00000" is one of its spellings.
            return (LoggedIn(code == 0, "" if code == 0 else reason_of(code), code, frame.msg or ""),)
        if frame.event == "subscribe":
            return (Subscribed(_name(_arg.decode(frame.arg) or _Arg()), True),)
        if frame.event in ("trade", "error"):
            placed = self._answers(frame, code)
            if placed:
                return placed
            if frame.event == "error":
                return (self._refused(frame, code),)
        return (Unused(frame.event),)

    def _answers(self, frame: _Raw, code: int) -> Sequence[Told]:
        """Answers to placements of the order sockets: v2 writes them into ``arg``, v3 into ``args``."""
        rows: list[_Placed] = []
        for raw in (frame.arg, frame.args):
            text = bytes(raw)
            if text[:1] == b"[":
                told = _placed.decode(text)
                rows += told if isinstance(told, list) else []
        found: list[Told] = []
        for row in rows:
            if (row.channel or frame.topic) != "place-order":
                continue
            params = row.params or codec.Placed(row.orderId, row.clientOid)
            cid = own_cid(params.clientOid or row.clientOid or row.id or frame.id)
            if cid is None:
                continue
            verdict = classify(200, code, frame.msg or "")
            accepted = verdict.outcome is Outcome.ACCEPTED
            order_id = codec.number(params.orderId or row.orderId, "orderId") if accepted else 0
            found.append(Answered(cid, verdict, order_id, NEW if accepted else 0, message=frame.msg or ""))
        return found

    def _refused(self, frame: _Raw, code: int) -> Told:
        """An error that is not about an order: of a subscription, of the login, or of the connection."""
        text = bytes(frame.arg)
        arg = _arg.decode(text) if text[:1] == b"{" else None
        if arg is not None and (arg.channel or arg.topic) and (arg.channel or arg.topic) != "login":
            return Subscribed(_name(arg), False, f"{code} {frame.msg or ''}")
        if code in ADDRESS_LIMIT_CODES:
            return Ending(f"refused for its rate: {code}")
        return LoggedIn(False, reason_of(code), code, frame.msg or "")

    # --- pushes of v2 -------------------------------------------------------------------------------------------------------
    def _find(self, symbol: str, spot: bool) -> Instrument | None:
        return codec.find(self._instruments, symbol, spot=spot)

    def _saw(self, order_id: str, position_side: int) -> None:
        _keep(self._sides, order_id, position_side)

    def _orders_reader(self, spot: bool) -> Reader:
        return lambda data, frame: each(_orders.decode(data), lambda row: self._order(row, spot, frame), frame.raw)

    def _order(self, row: codec.Order, spot: bool, frame: Frame) -> Sequence[Told]:
        item = self._find(row.instId, spot)
        if item is None:
            return (Unused("orders of another instrument"),)
        told = codec.order_told(row, item)
        if spot:
            _keep(self._spot_orders, row.orderId, (told.client_order_id, told.order_qty))
        else:
            self._saw(row.orderId, told.position_side)
        return (codec.pushed_trade(row, item, told, frame.ts_recv, frame.raw) or told,)

    def _fills_reader(self, spot: bool) -> Reader:
        return lambda data, frame: each(_fills.decode(data), lambda row: self._fill(row, spot, frame), frame.raw)

    def _fill(self, row: codec.Fill, spot: bool, frame: Frame) -> Sequence[Told]:
        item = self._find(row.symbol, spot)
        if item is None:
            return (Unused("fill of another instrument"),)
        client, asked = self._spot_orders.get(row.orderId, ("", 0))
        row.clientOid = row.clientOid or client
        if not row.clientOid:  # whose it is, ours or another hand's, the orders channel says
            return (Unused("fill that names no client order id"),)
        trade = codec.pushed_fill(row, item, self._sides.get(row.orderId), frame.ts_recv, frame.raw)
        if trade is None:
            return (Unused("fill whose side another channel tells"),)
        trade.execution.order_qty = asked
        return (trade,)

    def _positions_told(self, data: msgspec.Raw, frame: Frame) -> Sequence[Told]:
        return each(_held.decode(data), lambda row: self._position(row, self._find(row.instId, False), frame), frame.raw)

    def _position(self, row: codec.Held | codec.Held3, item: Instrument | None, frame: Frame) -> Sequence[Told]:
        if item is None:
            return (Unused("position in another instrument"),)
        return (codec.position_told(row, item, frame.ts_event, frame.ts_recv, frame.raw),)

    def _money_told(self, data: msgspec.Raw, frame: Frame) -> Sequence[Told]:
        return each(
            _money.decode(data), lambda row: (codec.wallet_told(row, frame.ts_event) or Unused("account"),), frame.raw)

    def _coins_told(self, data: msgspec.Raw, frame: Frame) -> Sequence[Told]:
        return each(
            [row for row in _money.decode(data) if row.coin in self._coins],
            lambda row: codec.coins_told(
                [(row.coin, codec.coin_e8(row), codec.ms(row.uTime) * MS_NS or frame.ts_event)], self._instruments,
                frame.ts_recv, frame.raw), frame.raw)

    # --- pushes of v3 -------------------------------------------------------------------------------------------------------
    def _of_v3(self, row: Any) -> Instrument | None:
        category = row.category.upper()
        return self._find(row.symbol, category == "SPOT") if category in ("SPOT", PRODUCT, "") else None

    def _orders3_told(self, data: msgspec.Raw, frame: Frame) -> Sequence[Told]:
        return each(_orders3.decode(data), lambda row: self._order3(row, frame), frame.raw)

    def _order3(self, row: codec.Order3, frame: Frame) -> Sequence[Told]:
        item = self._of_v3(row)
        if item is None:
            return (Unused("order of another instrument"),)
        told = codec.order3_told(row, item)
        self._saw(row.orderId, told.position_side)
        if not told.order_qty and item.spot:  # of a market order that buys spot it is not told at first
            return (told,)
        _keep(self._sizes, row.orderId, told.order_qty)
        return (*(self._fill3(fill, item, frame, thin=False) for fill in self._early.pop(row.orderId, ())), told)

    def _fills3_reader(self, thin: bool) -> Reader:
        def read(data: msgspec.Raw, frame: Frame) -> Sequence[Told]:
            told = _fills3.decode(data)  # the fast channel sends one object, the other a list
            return each(told if isinstance(told, list) else [told], lambda row: self._told3(row, frame, thin), frame.raw)

        return read

    def _told3(self, row: codec.Fill3, frame: Frame, thin: bool) -> Sequence[Told]:
        item = self._of_v3(row)
        if item is None:
            return (Unused("fill of another instrument"),)
        # An execution does not say how much its order asked for: until the order is heard of it is told as thin.
        early = not thin and row.orderId not in self._sizes
        if early:
            _keep(self._early, row.orderId, [*self._early.get(row.orderId, ()), row])
        return (self._fill3(row, item, frame, thin=thin or early),)

    def _fill3(self, row: codec.Fill3, item: Instrument, frame: Frame, *, thin: bool) -> Told:
        held = self._sides.get(row.orderId)
        if held is None and frame.channel == UNIFIED_ONE_WAY:
            held = 0
        elif held is None and frame.channel == UNIFIED_HEDGE:
            held = codec.HELD.get(row.holdSide or "")
        told = codec.fill3(row, item, held, frame.ts_recv, frame.raw, live=True, thin=thin)
        told.execution.order_qty = self._sizes.get(row.orderId, 0)
        return told

    def _positions3_told(self, data: msgspec.Raw, frame: Frame) -> Sequence[Told]:
        return each(_held3.decode(data), lambda row: self._position(row, self._of_v3(row), frame), frame.raw)

    def _account3_told(self, data: msgspec.Raw, frame: Frame) -> Sequence[Told]:
        spot = any(item.spot for item in self._instruments)

        def one(coin: codec.Coin3) -> Sequence[Told]:
            amount = money_e8(coin.balance or "0")
            if spot:
                return codec.coins_told([(coin.coin, amount, frame.ts_event)], self._instruments, frame.ts_recv, frame.raw)
            return (WalletTold(coin.coin, amount, ts_event=frame.ts_event),)

        coins = [coin for row in _account3.decode(data) for coin in row.coin or [] if coin.coin in self._coins]
        return each(coins, one, frame.raw)


def _keep(seen: OrderedDict[str, Any], order_id: str, value: Any) -> None:
    """Remember one more; the oldest is forgotten."""
    seen[order_id] = value
    if len(seen) > ORDERS_SEEN_MAX:
        seen.popitem(last=False)


def _market(item: Instrument) -> str:
    return "SPOT" if item.spot else PRODUCT


def _name(arg: _Arg) -> str:
    """The name ``channels`` gave a subscription."""
    name = arg.channel or arg.topic
    return f"spot.{name}" if arg.channel and arg.channel != "ticker" and arg.instType == "SPOT" else name


def _subscribe(arg: dict[str, str]) -> bytes:
    return json_text({"op": "subscribe", "args": [arg]})
