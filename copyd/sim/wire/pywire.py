"""The simulated exchange's wire in Python, for a clock that is not the machine's.

The exchange's compiled wire (``copyd/_fast/sim_wire.pyx``) reads the machine's clock and can therefore not run on virtual
time. This is the same wire, frame by frame and byte by byte (a test compares the two), under the exchange's own engine,
dialect, streams and limits. Every request takes the careful path; there is no batching.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from copyd._fast import sim_engine as eng
from copyd._fast.sim_engine import Engine
from copyd._fast.sim_wire import Key
from copyd.exchange.model import E8, Instrument, fixed
from copyd.exchange.websocket import OPEN, TEXT, WebSocket

STATUS = ("NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH")
TIF = ("GTC", "IOC", "FOK", "GTX")
POS = ("BOTH", "LONG", "SHORT")
STP = ("NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH")
REASONS = ("", "ORDER", "DEPOSIT", "WITHDRAW", "FUNDING_FEE", "INSURANCE_CLEAR", "MARGIN_TRANSFER", "ADJUSTMENT",
           "MARGIN_TYPE_CHANGE")
NOT_MODELLED = ("STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET")
ORDER_EVENTS = {eng.EV_NEW: "NEW", eng.EV_TRADE: "TRADE", eng.EV_CANCELED: "CANCELED", eng.EV_EXPIRED: "EXPIRED",
                eng.EV_AMENDED: "AMENDMENT"}


def average_e8(spec: Instrument, value_e8: int, qty: int) -> int:
    """Price in 1e-8 of ``qty`` lots worth ``value_e8``, cut toward zero."""
    if not qty:
        return 0
    size = abs(value_e8) * E8 // (abs(qty) * spec.lot_e8)
    return size if (value_e8 >= 0) == (qty > 0) else -size


class Listener:
    """One subscription: events of one listen key or symbol stream on one connection."""

    __slots__ = ("conn", "events", "place", "stream")

    def __init__(self, conn: Conn, stream: bytes, place: list[Listener], events: frozenset[str] | None = None) -> None:
        self.conn, self.stream, self.place, self.events = conn, stream, place, events
        place.append(self)


class Conn(WebSocket):
    """A WebSocket connection, as the exchange's shell knows it."""

    def __init__(self, wire: PyWire) -> None:
        super().__init__()
        self.wire = wire
        self.is_api = self.combined = False
        self.rate_limits = True
        self.session: Key | None = None
        self.session_info: int | None = None
        self.meter: Any = None
        self.streams: dict[str, Listener | None] = {}
        self.area = ""
        self.message_window = self.message_count = 0

    def clock_ns(self) -> int:
        return self.wire.time_ns()

    def let_in(self, method: str, headers: dict[str, str]) -> tuple[bytes, bool]:
        answer: tuple[bytes, bool] = self.wire.shell.on_open(self, method, self.path, headers)
        return answer

    def opened(self) -> None:
        self.wire.shell.on_opened(self)

    def text(self, payload: bytes) -> None:
        if self.is_api:
            self.wire.shell.on_api_text(self, payload)
        else:
            self.wire.shell.on_stream_text(self, payload)

    def lost(self) -> None:
        self.wire.shell.on_lost(self)

    def touched(self) -> None:
        self.wire.dirty.append(self)

    def read_over(self) -> None:
        self.wire.flush()

    def later(self, delay_s: float, action: Callable[[], Any]) -> None:
        self.wire.shell.call_later(delay_s, action)

    def frames_of(self, payload: bytes) -> list[tuple[int, bytes]]:
        return self.wire.disturbed(self, payload)


class PyWire:
    """Engine, keys and subscriptions. ``shell`` is the exchange, ``clock`` its time in ns (never going back)."""

    def __init__(self, engine: Engine, shell: Any, clock: Callable[[], int]) -> None:
        self.engine, self.shell, self.clock = engine, shell, clock
        self.specs: tuple[Instrument, ...] = tuple(engine.specs)
        self.keys: dict[bytes, Key] = {}
        self.listeners: list[list[Listener] | None] = []
        self.book_listeners: list[list[Listener]] = [[] for _ in self.specs]
        self.trade_listeners: list[list[Listener]] = [[] for _ in self.specs]
        self.agg_listeners: list[list[Listener]] = [[] for _ in self.specs]
        self.all_book_listeners: list[Listener] = []
        self.symbols = {spec.symbol.encode(): index for index, spec in enumerate(self.specs)}
        self.dirty: list[Conn] = []
        self.slow = True
        self.event_fault: Callable[[int, str, bytes, bytes], list[bytes]] | None = None
        self.limit_10s, self.limit_1m = 300, 1200
        self.skew_ns = 0
        self.n_placed = self.n_events_sent = 0
        #: What leaves a connection in place of one text message: (first byte, payload) of each frame.
        self.disturbed: Callable[[Conn, bytes], list[tuple[int, bytes]]] = lambda conn, payload: [(TEXT, payload)]
        #: Hears of every engine event of an account, before anybody is told.
        self.on_event: Callable[[tuple[Any, ...]], None] | None = None

    def connection(self) -> Conn:
        return Conn(self)

    def time_ns(self) -> int:
        return self.clock()

    def server_ns(self) -> int:
        return self.clock() + self.skew_ns

    def add_key(self, key: Key) -> None:
        self.keys[key.api_key] = key
        while len(self.listeners) <= key.account:
            self.listeners.append(None)

    # -- requests -------------------------------------------------------------------------------------------------------
    def open_request(self, conn: Conn, payload: bytes) -> None:
        """Never the flat reader: the shell's JSON decoder reads every request."""

    def open_params(self, conn: Conn, params: dict[str, str]) -> tuple[Key | None, int]:
        """(Key or None, error code or 0)."""
        if len(params) > 40:
            return None, -1101
        if "apiKey" not in params and conn.session is None:
            return None, 0
        return self._authenticate(conn, params)

    def _authenticate(self, conn: Conn, params: dict[str, str]) -> tuple[Key | None, int]:
        now_ms = self.server_ns() // 10**6
        name = params.get("apiKey")
        key: Key | None
        if name is None:
            key = conn.session
        else:
            key = self.keys.get(name.encode())
            if key is None:
                return None, -2015 if len(name) >= 16 else -2014
        assert key is not None
        stamp, window = params.get("timestamp", ""), params.get("recvWindow", "5000")
        if not stamp.isdigit():
            return None, -1102
        if not window.isdigit() or int(window) > 60_000:
            return None, -1131
        if int(stamp) >= now_ms + 1000 or now_ms - int(stamp) > int(window):
            return None, -1021
        signature = params.get("signature")
        if signature is None:
            return (key, 0) if name is None else (None, -1102)
        message = "&".join(f"{k}={v}" for k, v in sorted(params.items()) if k != "signature")
        return (key, 0) if key.signed(message.encode(), signature.encode()) else (None, -1022)

    def count_new_order(self, key: Key) -> int:
        """Take one order of the account's allowance: 0, -1015 or -2015."""
        if not key.can_trade:
            return -2015
        now = self.time_ns()
        in_10s, in_1m = key.meter.counts(now)
        if (self.limit_10s and in_10s >= self.limit_10s) or (self.limit_1m and in_1m >= self.limit_1m):
            return -1015
        key.meter.add(now, 1, 1)
        return 0

    def limits_json(self, conn: Conn, key: Key | None) -> bytes:
        """The tail of an answer."""
        if not conn.rate_limits:
            return b"}"
        now = self.time_ns()
        rows = [("REQUEST_WEIGHT", "MINUTE", 1, 2400, conn.meter.used if conn.meter is not None else 0)]
        if key is not None:
            in_10s, in_1m = key.meter.counts(now)
            rows += [("ORDERS", "SECOND", 10, 300, in_10s), ("ORDERS", "MINUTE", 1, 1200, in_1m)]
        items = [
            {"rateLimitType": kind, "interval": interval, "intervalNum": number, "limit": limit, "count": count}
            for kind, interval, number, limit, count in rows
        ]
        return b',"rateLimits":%s}' % orjson.dumps(items)

    def place(self, key: Key | None, params: dict[bytes, bytes]) -> tuple[int, str | None, bool]:
        """New order: (slot or code, parameter the error is about, RESULT wanted)."""
        assert key is not None
        read = self._read_order(params)
        if isinstance(read, tuple):
            return read[0], read[1], False
        result = read.pop("result")
        slot = self.engine.place(key.account, **read, ts_ns=self.time_ns())
        if slot >= 0:
            self.n_placed += 1
        self.drain()
        return slot, None, result

    def _read_order(self, params: dict[bytes, bytes]) -> dict[str, Any] | tuple[int, str | None]:
        get = params.get
        symbol = self.symbols.get(get(b"symbol", b""), -1)
        side = {b"buy": 1, b"sell": -1}.get(get(b"side", b"").lower(), 0)
        if get(b"side") and not side:
            return -1117, None
        name = get(b"type", b"")
        kind = {b"limit": eng.TYPE_LIMIT, b"market": eng.TYPE_MARKET}.get(name.lower(), -1)
        if name and kind < 0:
            return (-4120 if name.decode("latin-1") in NOT_MODELLED else -1116), None
        tif_text = get(b"timeInForce", b"").decode("latin-1")
        if tif_text and tif_text not in TIF:
            return -1115, None
        reduce_only = get(b"reduceOnly", b"false").lower()
        if reduce_only not in (b"true", b"false"):
            return -1130, "reduceOnly"
        client = get(b"newClientOrderId")
        if client is not None and not 0 < len(client) <= 36:
            return -4015, None
        answer = get(b"newOrderRespType", b"ACK")
        if answer not in (b"ACK", b"RESULT"):
            return -1130, "newOrderRespType"
        pos = get(b"positionSide", b"BOTH").decode("latin-1")
        if pos not in POS:
            return -1130, "positionSide"
        stp = get(b"selfTradePreventionMode", b"EXPIRE_MAKER").decode("latin-1")
        if stp not in STP:
            return -1130, "selfTradePreventionMode"
        if get(b"priceMatch", b"NONE") != b"NONE":
            return -1130, "priceMatch"
        for need in (b"symbol", b"side", b"type"):
            if not get(need):
                return -1102, need.decode()
            if need == b"symbol" and symbol < 0:
                return -1121, None
        close = get(b"closePosition", b"").lower() == b"true"
        qty = px = 0
        if b"quantity" in params:
            qty = self.engine.parse_qty(symbol, params[b"quantity"])
            if qty < 0:
                return qty, "quantity"
        elif not close:
            return -1102, "quantity"
        if kind == eng.TYPE_LIMIT:
            if not tif_text:
                return -1102, "timeInForce"
            if b"price" not in params:
                return -1102, "price"
            px = self.engine.parse_px(symbol, params[b"price"])
            if px < 0:
                return px, "price"
        elif tif_text == "GTX":
            return -1115, "quantity" if b"quantity" in params else None
        return {
            "symbol": symbol, "side": side, "type": kind, "tif": TIF.index(tif_text) if tif_text else 0, "qty_lots": qty,
            "px_ticks": px, "reduce_only": reduce_only == b"true", "close_position": close, "position_side": POS.index(pos),
            "client_id": client or b"", "stp_mode": STP.index(stp), "result": answer == b"RESULT",
        }

    def order_json(self, slot: int, result: bool = True, times: bool = True) -> bytes:
        """An order as the venue shows it; ``result`` False: as it was at acceptance."""
        (_, order_id, _, symbol, client, side, pos, kind, tif, stp, status, flags, qty, px, done, value, ts_new,
         ts_update) = self.engine.order(slot)  # fmt: skip
        spec = self.specs[symbol]
        if not result or (not times and kind == eng.TYPE_LIMIT and tif == eng.TIF_GTC):
            done = value = status = 0
        places = min(8, spec.price_precision + 3)
        name = "LIMIT" if kind == eng.TYPE_LIMIT else "MARKET"
        ms = (ts_update if result else ts_new) // 10**6
        middle = "" if times else f'"cumQty":"{spec.qty_text(done)}",'
        made = f'"time":{ts_new // 10**6},' if times else ""
        return (
            f'{{"orderId":{order_id},"symbol":"{spec.symbol}","status":"{STATUS[status]}","clientOrderId":"{client.decode()}",'
            f'"price":"{spec.price_text(px)}","avgPrice":"{fixed(average_e8(spec, value, done), places)}",'
            f'"origQty":"{spec.qty_text(qty)}","executedQty":"{spec.qty_text(done)}",{middle}"cumQuote":"{fixed(value, 8)}",'
            f'"timeInForce":"{TIF[tif]}","type":"{name}","reduceOnly":{_bool(flags & eng.FLAG_REDUCE_ONLY)},'
            f'"closePosition":{_bool(flags & eng.FLAG_CLOSE_POSITION)},"side":"{_side(side)}","positionSide":"{POS[pos]}",'
            f'"stopPrice":"{spec.price_text(0)}","workingType":"CONTRACT_PRICE","priceProtect":false,"origType":"{name}",'
            f'"priceMatch":"NONE","selfTradePreventionMode":"{STP[stp]}","goodTillDate":0,{made}"updateTime":{ms}}}'
        ).encode()

    # -- events ---------------------------------------------------------------------------------------------------------
    def drain(self) -> None:
        """Tell what the engine's last call caused."""
        for event in self.engine.event_list():
            kind, account, symbol = event[0], event[1], event[2]
            if account >= 0:
                if self.on_event is not None:
                    self.on_event(event)
                if account < len(self.listeners) and self.listeners[account]:
                    self._tell_user(event)
            elif kind == eng.EV_BOOK:
                if self.book_listeners[symbol] or self.all_book_listeners:
                    payload = self._book(event)
                    self.publish(self.book_listeners[symbol], payload)
                    self.publish(self.all_book_listeners, payload)
            elif kind == eng.EV_PUBLIC_TRADE:
                if self.agg_listeners[symbol]:
                    self.publish(self.agg_listeners[symbol], self._public(event, True))
                if self.trade_listeners[symbol]:
                    self.publish(self.trade_listeners[symbol], self._public(event, False))

    def flush(self) -> None:
        """Hand every connection's queued bytes to its transport."""
        while self.dirty:
            conns, self.dirty = self.dirty, []
            for conn in conns:
                conn.flush()

    def publish(self, listeners: list[Listener], payload: bytes, name: bytes = b"") -> None:
        """One event to each of the listeners that take events of this name."""
        for listener in listeners:
            conn = listener.conn
            if conn.phase != OPEN or (listener.events is not None and name and name.decode() not in listener.events):
                continue
            self.n_events_sent += 1
            conn.send(b'{"stream":"%s","data":%s}' % (listener.stream, payload) if conn.combined else payload)

    def publish_user(self, account: int, name: bytes, payload: bytes) -> None:
        """One event to whoever listens to this account."""
        if account < len(self.listeners) and (listeners := self.listeners[account]):
            self.publish(listeners, payload, name)

    def _user(self, event: tuple[Any, ...], name: str, payload: str) -> None:
        account, slot = event[1], event[3]
        items = [payload.encode()]
        if self.event_fault is not None:
            client = self.engine.order(slot)[4] if slot >= 0 else b""
            items = self.event_fault(account, name, client, items[0])
        for item in items:
            self.publish_user(account, name.encode(), item)

    def _tell_user(self, event: tuple[Any, ...]) -> None:
        kind, account, symbol, slot, ts_ns = event[0], event[1], event[2], event[3], event[9]
        ms = ts_ns // 10**6
        if kind in ORDER_EVENTS:
            order = self.engine.order(slot)
            if kind == eng.EV_TRADE:
                self._user(event, "TRADE_LITE", self._trade_lite(event, order, ms))
            self._user(event, "ORDER_TRADE_UPDATE", self._order_event(event, order, ms))
        elif kind == eng.EV_ACCOUNT:
            self._user(event, "ACCOUNT_UPDATE", self._account_event(event, ms))
        elif kind == eng.EV_LEVERAGE:
            self._user(event, "ACCOUNT_CONFIG_UPDATE",
                       f'{_head("ACCOUNT_CONFIG_UPDATE", ms)},"ac":{{"s":"{self.specs[symbol].symbol}","l":{event[12]}}}}}')
        elif kind == eng.EV_MARGIN_CALL:
            self._user(event, "MARGIN_CALL", self._margin_call(account, event[19], ms))

    def _trade_lite(self, event: tuple[Any, ...], order: tuple[Any, ...], ms: int) -> str:
        spec = self.specs[event[2]]
        return (
            f'{_head("TRADE_LITE", ms)},"s":"{spec.symbol}","q":"{spec.qty_text(order[12])}","p":"{spec.price_text(order[13])}",'
            f'"m":{_bool(event[7])},"c":"{order[4].decode()}","S":"{_side(event[4])}","L":"{spec.price_text(event[11])}",'
            f'"l":"{spec.qty_text(event[12])}","t":{event[13]},"i":{event[10]}}}'
        )

    def _order_event(self, event: tuple[Any, ...], order: tuple[Any, ...], ms: int) -> str:
        spec, kind = self.specs[event[2]], event[0]
        trade, forced = kind == eng.EV_TRADE, bool(order[11] & eng.FLAG_LIQUIDATION)
        name = "LIQUIDATION" if forced else "LIMIT" if order[7] == eng.TYPE_LIMIT else "MARKET"
        what = "CALCULATED" if trade and forced else ORDER_EVENTS[kind]
        last, px, fee, pnl = (event[12], event[11], event[16], event[17]) if trade else (0, 0, 0, 0)
        paid = f',"N":"USDT","n":"{fixed(fee, 8)}"' if trade else ""
        average = fixed(average_e8(spec, event[15], event[14]), min(8, spec.price_precision + 3))
        return (
            f'{_head("ORDER_TRADE_UPDATE", ms)},"o":{{"s":"{spec.symbol}","c":"{order[4].decode()}","S":"{_side(event[4])}",'
            f'"o":"{name}","f":"{TIF[order[8]]}","q":"{spec.qty_text(order[12])}","p":"{spec.price_text(order[13])}",'
            f'"ap":"{average}","sp":"{spec.price_text(0)}","x":"{what}","X":"{STATUS[event[6]]}","i":{event[10]},'
            f'"l":"{spec.qty_text(last)}","z":"{spec.qty_text(event[14])}","L":"{spec.price_text(px)}"{paid},'
            f'"T":{ms},"t":{event[13] if trade else 0},"b":"0","a":"0","m":{_bool(trade and event[7])},'
            f'"R":{_bool(order[11] & eng.FLAG_REDUCE_ONLY)},"wt":"CONTRACT_PRICE","ot":"{name}","ps":"{POS[order[6]]}",'
            f'"cp":{_bool(order[11] & eng.FLAG_CLOSE_POSITION)},"rp":"{fixed(pnl, 8)}","pP":false,"si":0,"ss":0,'
            f'"V":"{STP[order[9]]}","pm":"NONE","gtd":0,"er":"0"}}}}'
        )

    def _account_event(self, event: tuple[Any, ...], ms: int) -> str:
        account, symbol, reason, ps = event[1], event[2], event[8], event[5]
        positions = ""
        if symbol >= 0:
            spec = self.specs[symbol]
            isolated = self.engine.account_config(account, symbol)[1] == eng.MARGIN_ISOLATED
            if reason != eng.REASON_FUNDING_FEE or isolated:
                qty, cost = event[12], event[15]
                upnl = qty * self.engine.mark(symbol) * spec.value_mul - cost
                entry = fixed(average_e8(spec, cost, qty), 8)
                positions = (
                    f'{{"s":"{spec.symbol}","pa":"{spec.qty_text(qty)}","ep":"{entry}","bep":"{entry}",'
                    f'"cr":"{fixed(event[17], 8)}","up":"{fixed(upnl, 8)}","mt":"{"isolated" if isolated else "cross"}",'
                    f'"iw":"{fixed(event[21], 8)}","ps":"{POS[ps]}"}}'
                )
        return (
            f'{_head("ACCOUNT_UPDATE", ms)},"a":{{"m":"{REASONS[reason]}","B":[{{"a":"USDT","wb":"{fixed(event[18], 8)}",'
            f'"cw":"{fixed(event[19], 8)}","bc":"{fixed(event[20], 8)}"}}],"P":[{positions}]}}}}'
        )

    def _margin_call(self, account: int, cross_wallet: int, ms: int) -> str:
        rows = []
        for symbol, spec in enumerate(self.specs):
            mark = self.engine.mark(symbol)
            isolated = self.engine.account_config(account, symbol)[1] == eng.MARGIN_ISOLATED
            for side in range(3):
                qty, cost, iso = self.engine.position(account, symbol, side)[:3]
                if qty:
                    upnl = qty * mark * spec.value_mul - cost
                    rows.append(
                        f'{{"s":"{spec.symbol}","ps":"{POS[side]}","pa":"{spec.qty_text(qty)}",'
                        f'"mt":"{"ISOLATED" if isolated else "CROSSED"}","iw":"{fixed(iso, 8)}","mp":"{spec.price_text(mark)}",'
                        f'"up":"{fixed(upnl, 8)}"}}'
                    )
        return f'{_head("MARGIN_CALL", ms)},"cw":"{fixed(cross_wallet, 8)}","p":[{",".join(rows)}]}}'

    def _book(self, event: tuple[Any, ...]) -> bytes:
        symbol, ms = event[2], event[9] // 10**6
        spec = self.specs[symbol]
        return (
            f'{{"e":"bookTicker","u":{self.engine.depth(symbol, 1)[0]},"s":"{spec.symbol}","b":"{spec.price_text(event[11])}",'
            f'"B":"{spec.qty_text(event[12])}","a":"{spec.price_text(event[14])}","A":"{spec.qty_text(event[15])}",'
            f'"T":{ms},"E":{ms}}}'
        ).encode()

    def _public(self, event: tuple[Any, ...], aggregate: bool) -> bytes:
        spec, ms, trade = self.specs[event[2]], event[9] // 10**6, event[13]
        maker = _bool(event[4] < 0)
        head = f'"s":"{spec.symbol}","p":"{spec.price_text(event[11])}","q":"{spec.qty_text(event[12])}",'
        if aggregate:
            return f'{{"e":"aggTrade","E":{ms},"a":{trade},{head}"f":{trade},"l":{trade},"T":{ms},"m":{maker}}}'.encode()
        return f'{{"e":"trade","E":{ms},"t":{trade},{head}"X":"MARKET","T":{ms},"m":{maker}}}'.encode()


def _head(name: str, ms: int) -> str:
    return f'{{"e":"{name}","T":{ms},"E":{ms}'


def _bool(value: Any) -> str:
    return "true" if value else "false"


def _side(side: int) -> str:
    return "BUY" if side > 0 else "SELL"
