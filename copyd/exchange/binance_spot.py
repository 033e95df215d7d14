"""The Binance spot dialect: REST, the WebSocket API with many accounts on a connection, market streams; how refusals look there.

A request is a ``Call``; its handler gives something JSON can hold or raises ``Refused``. Signatures are checked over the bytes as
they came: the query and the form with ``signature`` last, or the JSON's own texts of the parameters. Balances and orders are the
spot engine's (``spot``), whose refusals bear another market's numbers and are put into this market's words by
``ENGINE_REFUSALS``. Only what a copy engine and the common client libraries ask is there; stop orders and order lists are refused
in the venue's words.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import orjson

from copyd._fast import sim_engine as eng
from copyd.exchange.dialect import Answer, Conn, Host, Market, Owner, Request, Terms, Work
from copyd.exchange.model import E8, PPM, fixed
from copyd.exchange.spot import SPOT_INSTRUMENTS, SpotEngine, SpotInstrument, SpotMakers, eight

WEIGHT_PER_MINUTE = 6_000
RAW_PER_5_MINUTES = 300_000
ORDERS_PER_10S = 50
ORDERS_PER_DAY = 160_000
CONNECTS_PER_5_MINUTES = 300
CONNECT_WEIGHT = 2
SUBSCRIPTIONS_PER_CONNECTION = 1_000
SUBSCRIPTIONS_PER_LIFE = 65_535
STREAMS_PER_CONNECTION = 1_024
STREAM_MESSAGES_PER_S = 5
REFUSALS_BEFORE_BAN = 100
BAN_NS = 120 * 10**9
DAY_MS = 86_400_000
RECV_WINDOW_MAX_MS = 60_000
LEAD_MS = 1_000

API_PATH = "/ws-api/v3"
CLIENT_ID = re.compile(r"^[a-zA-Z0-9\-_]{1,36}$")
STATUSES = ("NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH")
TIFS = {"GTC": eng.TIF_GTC, "IOC": eng.TIF_IOC, "FOK": eng.TIF_FOK}
TIF_NAMES = ("GTC", "IOC", "FOK", "GTC")
STPS = {
    "NONE": eng.STP_NONE, "EXPIRE_TAKER": eng.STP_EXPIRE_TAKER, "EXPIRE_MAKER": eng.STP_EXPIRE_MAKER,
    "EXPIRE_BOTH": eng.STP_EXPIRE_BOTH,
}  # fmt: skip
STP_NAMES = {number: name for name, number in STPS.items()}
STOP_TYPES = {
    "STOP_LOSS": "Stop loss orders", "STOP_LOSS_LIMIT": "Stop loss limit orders", "TAKE_PROFIT": "Take profit orders",
    "TAKE_PROFIT_LIMIT": "Take profit limit orders",
}  # fmt: skip

MESSAGES = {
    -1000: "An unknown error occurred while processing the request.",
    -1007: "Timeout waiting for response from backend server. Send status unknown; execution status unknown.",
    -1008: "Server is currently overloaded with other requests. Please try again in a few minutes.",
    -1020: "This operation is not supported.",
    -1021: "Timestamp for this request is outside of the recvWindow.",
    -1022: "Signature for this request is not valid.",
    -1106: "Parameter '{}' sent when not required.",
    -1102: "Mandatory parameter '{}' was not sent, was empty/null, or malformed.",
    -1111: "Parameter '{}' has too much precision.",
    -1115: "Invalid timeInForce.",
    -1116: "Invalid orderType.",
    -1117: "Invalid side.",
    -1121: "Invalid symbol.",
    -1130: "Data sent for parameter '{}' is not valid.",
    -1131: "recvWindow must be less than 60000.",
    -1135: "Invalid JSON Request",
    -2011: "Unknown order sent.",
    -2013: "Order does not exist.",
    -2014: "API-key format invalid.",
    -2015: "Invalid API-key, IP, or permissions for action.",
    -2026: "Order was canceled or expired with no executed qty over 90 days ago and has been archived.",
    -2035: "User Data Stream subscription already active.",
    -2036: "User Data Stream subscription not active.",
}
STATUS_OF = {-2014: 401, -2015: 401, -1003: 429, -1015: 429, -1008: 503, -1007: 503}
#: Refusals of the engine -> (code, text). {} is the name of the filter for quantities.
ENGINE_REFUSALS = {
    -4003: (-1013, "Invalid quantity."),
    -4004: (-1013, "Filter failure: LOT_SIZE"),
    -4005: (-1013, "Filter failure: {}"),
    -4023: (-1013, "Filter failure: LOT_SIZE"),
    -4001: (-1013, "Invalid price."),
    -4002: (-1013, "Filter failure: PRICE_FILTER"),
    -4013: (-1013, "Filter failure: PRICE_FILTER"),
    -4014: (-1013, "Filter failure: PRICE_FILTER"),
    -4016: (-1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
    -4024: (-1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
    -4164: (-1013, "Filter failure: NOTIONAL"),
    -2025: (-1013, "Filter failure: MAX_NUM_ORDERS"),
    -2019: (-2010, "Account has insufficient balance for requested action."),
    -4116: (-2010, "Duplicate order sent."),
    -5022: (-2010, "Order would immediately match and take."),
}


class Refused(Exception):
    """A refusal in the venue's words. ``retry_s``: when to come again, where it is one for a rate."""

    def __init__(self, code: int, message: str = "", status: int = 0, retry_s: int = 0) -> None:
        self.code = code
        self.message = message or MESSAGES[code]
        self.status = status or STATUS_OF.get(code, 400)
        self.retry_s = retry_s
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        return {"code": self.code, "msg": self.message}


#: What faults answer with: execution unknown, too busy, the id exists already, too late by its own stamp.
INSTEAD = (Refused(-1007), Refused(-1008), Refused(-2010, "Duplicate order sent."), Refused(-1021))
INSTEAD_REST = tuple(Answer(orjson.dumps(refused.body()), refused.status) for refused in INSTEAD)
INSTEAD_API = tuple(b',"status":%d,"error":%s}' % (refused.status, orjson.dumps(refused.body())) for refused in INSTEAD)


def missing(name: str) -> Refused:
    return Refused(-1102, MESSAGES[-1102].format(name))


class Call(msgspec.Struct):
    """One request, authenticated as far as its route asks. ``server_ns``: the clock that clients see."""

    params: dict[str, str]
    owner: Owner | None
    server_ns: int
    ip: str
    conn: Conn | None = None

    @property
    def account(self) -> int:
        assert self.owner is not None  # the router authenticated the call
        return self.owner.account

    def need(self, name: str) -> str:
        value = self.params.get(name, "")
        if not value:
            raise missing(name)
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number of at most 18 digits; -1102 when it has no default and is absent, or is no such number."""
        text = self.params.get(name, "")
        if not text and default is not None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise missing(name)
        return int(text)


class Route(msgspec.Struct, frozen=True):
    """What answers a request, what it weighs, who may ask (open, keyed, signed), its name for fault rules ("" = the path's)."""

    handler: Callable[[Call], Any]
    weight: int | Callable[[dict[str, str]], int]
    access: str = "signed"
    name: str = ""
    trades: bool = False  # wants the right to trade

    def weigh(self, params: dict[str, str]) -> int:
        return self.weight if isinstance(self.weight, int) else self.weight(params)


class Api(msgspec.Struct, eq=False):
    """A connection of the WebSocket API: its subscriptions by number."""

    limits: bool = True
    subscriptions: dict[int, Owner] = {}
    made: int = 0


class Streams(msgspec.Struct, eq=False):
    """A connection of market streams."""

    combined: bool
    names: dict[str, None] = {}


class Dialect:
    """See ``copyd.exchange.dialect.Dialect``."""

    name = "binance_spot"
    terms = Terms(ping_s=20.0, life_s=86_400.0)
    market = Market(SPOT_INSTRUMENTS, SpotEngine, SpotMakers)

    def __init__(self, host: Host) -> None:
        self.host = host
        engine: Any = host.engine
        self.engine: SpotEngine = engine
        self.specs: tuple[SpotInstrument, ...] = tuple(engine.specs)
        self.symbols = host.symbols
        self.routes: dict[str, Route] = {}
        self.methods: dict[str, Route] = {}
        self._listeners: dict[int, list[tuple[Conn, int]]] = {}  # account -> (connection, subscription)
        self._watchers: dict[str, dict[Conn, None]] = {}  # stream -> connections
        self._refusals: dict[str, tuple[int, int]] = {}  # address -> (minute, refused in it)
        self._banned: dict[str, int] = {}  # address -> until, engine's clock
        self._cancelled_as: dict[int, str] = {}
        self._queries: set[str] = set()  # methods of the WebSocket API that a reader answers
        self._reports = 0
        self._ids = 0
        for name, limit, period_ms in (
            ("request_weight", WEIGHT_PER_MINUTE, 60_000), ("raw_requests", RAW_PER_5_MINUTES, 300_000),
            ("orders_10s", ORDERS_PER_10S, 10_000), ("orders_day", ORDERS_PER_DAY, DAY_MS),
            ("connections", CONNECTS_PER_5_MINUTES, 300_000), ("stream_messages", STREAM_MESSAGES_PER_S, 1_000),
        ):  # fmt: skip
            host.windows.define(name, limit, period_ms)
        self._route_rest()
        self._route_api()

    # -- what there is ---------------------------------------------------------------------------------------------------
    def _route_rest(self) -> None:
        r = self.routes

        def some(one: int, many: int) -> Callable[[dict[str, str]], int]:
            return lambda p: one if p.get("symbol") else many

        r["GET /api/v3/ping"] = Route(lambda c: {}, 1, "open")
        r["GET /api/v3/time"] = Route(self.time, 1, "open")
        r["GET /api/v3/exchangeInfo"] = Route(self.exchange_info, 20, "open")
        r["GET /api/v3/depth"] = Route(self.depth, 5, "open")
        r["GET /api/v3/trades"] = Route(self.trades, 25, "open")
        r["GET /api/v3/avgPrice"] = Route(self.average_price, 2, "open")
        r["GET /api/v3/ticker/price"] = Route(self.ticker_price, some(2, 4), "open")
        r["GET /api/v3/ticker/bookTicker"] = Route(self.ticker_book, some(2, 4), "open")
        r["GET /api/v3/ticker/24hr"] = Route(self.ticker_day, some(2, 80), "open")
        r["POST /api/v3/order"] = Route(self.order_place, 0, name="place", trades=True)
        r["POST /api/v3/order/test"] = Route(self.order_test, 1, trades=True)
        r["DELETE /api/v3/order"] = Route(self.order_cancel, 0, name="cancel", trades=True)
        r["GET /api/v3/order"] = Route(self.order_status, 4, name="query")
        r["GET /api/v3/openOrders"] = Route(self.open_orders, some(6, 80))
        r["DELETE /api/v3/openOrders"] = Route(self.cancel_all, 0, trades=True)
        r["GET /api/v3/allOrders"] = Route(self.all_orders, 20)
        r["GET /api/v3/myTrades"] = Route(self.my_trades, lambda p: 5 if p.get("orderId") else 20)
        r["GET /api/v3/account"] = Route(self.account, 20)
        r["GET /api/v3/account/commission"] = Route(self.commission, 20)
        r["GET /api/v3/rateLimit/order"] = Route(self.order_counts, 40)
        for path in ("orderList/oco", "orderList/oto", "orderList/otoco", "order/oco", "order/cancelReplace"):
            r[f"POST /api/v3/{path}"] = Route(self.unsupported, 1, trades=True)
        for verb in ("POST", "PUT", "DELETE"):
            r[f"{verb} /api/v3/userDataStream"] = Route(self.gone, 2, "open")
        r["GET /sapi/v1/account/apiRestrictions"] = Route(self.restrictions, 1)
        r["GET /sapi/v1/capital/config/getall"] = Route(lambda c: [], 10)
        r["GET /sapi/v1/capital/deposit/hisrec"] = Route(self.deposits, 1)
        r["GET /sapi/v1/capital/withdraw/history"] = Route(self.withdrawals, 1)
        r["GET /sapi/v1/asset/transfer"] = Route(lambda c: {"total": 0, "rows": []}, 1)
        # Margin and futures exist only as far as client libraries ask for them while starting.
        r["GET /sapi/v1/margin/allPairs"] = Route(lambda c: [], 1, "keyed")
        r["GET /sapi/v1/margin/isolated/allPairs"] = Route(lambda c: [], 10)
        for side in ("f", "d"):
            r[f"GET /{side}api/v1/exchangeInfo"] = Route(
                lambda c: {"timezone": "UTC", "rateLimits": [], "exchangeFilters": [], "symbols": []}, 1, "open")

    def _route_api(self) -> None:
        m, r = self.methods, self.routes
        for method, path in {
            "ping": "GET /api/v3/ping", "time": "GET /api/v3/time", "exchangeInfo": "GET /api/v3/exchangeInfo",
            "depth": "GET /api/v3/depth", "ticker.price": "GET /api/v3/ticker/price",
            "ticker.book": "GET /api/v3/ticker/bookTicker",
            "order.place": "POST /api/v3/order", "order.test": "POST /api/v3/order/test", "order.cancel": "DELETE /api/v3/order",
            "order.status": "GET /api/v3/order", "openOrders.status": "GET /api/v3/openOrders",
            "openOrders.cancelAll": "DELETE /api/v3/openOrders", "allOrders": "GET /api/v3/allOrders",
            "myTrades": "GET /api/v3/myTrades", "account.status": "GET /api/v3/account",
            "account.rateLimits.orders": "GET /api/v3/rateLimit/order",
        }.items():  # fmt: skip
            m[method] = r[path]
            if path.startswith("GET") and r[path].access == "signed":
                self._queries.add(method)
        m["userDataStream.subscribe.signature"] = Route(self.subscribe, 2)
        m["userDataStream.unsubscribe"] = Route(self.unsubscribe, 2, "open")
        m["session.subscriptions"] = Route(self.subscriptions, 2, "open")
        m["session.status"] = Route(self.session_status, 2, "open")
        m["session.logon"] = Route(self.no_session, 2, "open")
        m["userDataStream.subscribe"] = Route(self.no_session, 2, "open")
        for method in ("userDataStream.start", "userDataStream.ping", "userDataStream.stop"):
            m[method] = Route(self.gone, 2, "open")

    # -- requests: who asks, and may he ----------------------------------------------------------------------------------
    def rest(self, request: Request) -> Work:
        """A REST request."""
        name = f"{request.method} {request.path}"
        params = dict(parse_qsl(request.query, keep_blank_values=True))
        params.update(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        headers: dict[str, str] = {}
        route = self.routes.get(name)
        owner: Owner | None = None
        try:
            self._charge(request.ip, route.weigh(params) if route is not None else 1)
            if route is None:
                raise Refused(-1000, f"Path {request.path}, Method {request.method} is invalid", 404)
            if route.access != "open":
                owner = self._owner(request.headers.get("x-mbx-apikey", ""))
            if route.access == "signed":
                assert owner is not None
                payload = unsigned(request.query.encode()) + unsigned(request.body)
                self._check_signature(owner, params, payload, request.now_ns)
            self._check_rights(owner, route, request.ip)
            self._count_order(route, owner)
        except Refused as refused:
            problem = refused
            self._note(problem, owner, route.name if route is not None else "", params)
            return Work(lambda: self._rest_refusal(problem, request, owner, headers), owner, name)
        call = Call(params, owner, request.now_ns, request.ip)

        def run(stale_ms: int = -1) -> Answer:
            return self._rest_answer(route, call, request, headers, stale_ms)

        reads = request.method == "GET" and route.access == "signed"
        return work_of(run, owner, route.name or name, params, INSTEAD_REST, run if reads else None)

    def _rest_answer(self, route: Route, call: Call, request: Request, headers: dict[str, str], stale_ms: int) -> Answer:
        try:
            self._still_fresh(route, call)
            answer = route.handler(call)
            if stale_ms >= 0:
                answer = self._stale(answer, stale_ms)
        except Refused as refused:
            self._note(refused, call.owner, route.name, call.params)
            if route.weight == 0:
                self._count(call.ip, 1)
            return self._rest_refusal(refused, request, call.owner, headers)
        return Answer(orjson.dumps(answer), 200, self._counts(request, call.owner, headers))

    def _rest_refusal(self, refused: Refused, request: Request, owner: Owner | None, headers: dict[str, str]) -> Answer:
        self._counts(request, owner, headers)
        if refused.retry_s:
            headers["Retry-After"] = str(refused.retry_s)
        return Answer(orjson.dumps(refused.body()), refused.status, headers)

    def _counts(self, request: Request, owner: Owner | None, headers: dict[str, str]) -> dict[str, str]:
        now, windows = self.host.now_ns(), self.host.windows
        name = "X-SAPI-USED-IP-WEIGHT-1M" if request.path.startswith("/sapi") else "X-MBX-USED-WEIGHT-1M"
        headers[name] = str(windows.used("request_weight", request.ip, now))
        if owner is not None:
            headers["X-MBX-ORDER-COUNT-10S"] = str(windows.used("orders_10s", owner.account, now))
            headers["X-MBX-ORDER-COUNT-1D"] = str(windows.used("orders_day", owner.account, now))
        return headers

    def _owner(self, api_key: str) -> Owner:
        owner = self.host.owner(api_key)
        if owner is None:
            raise Refused(-2015 if len(api_key) >= 16 else -2014)
        return owner

    def _check_signature(self, owner: Owner, params: dict[str, str], payload: bytes, server_ns: int) -> None:
        stamp = params.get("timestamp", "")
        if not (stamp.isascii() and stamp.isdigit() and 1 <= len(stamp) <= 16):
            raise missing("timestamp")
        if not params.get("signature"):
            raise missing("signature")
        self._check_window(params, server_ns)
        told = params["signature"].lower().encode("utf-8", "replace")
        if not hmac.compare_digest(hmac.new(owner.secret, payload, hashlib.sha256).hexdigest().encode(), told):
            raise Refused(-1022)

    @staticmethod
    def _check_window(params: dict[str, str], server_ns: int) -> None:
        """The stamp is of ms, or of µs when it is that long; the window of ms with up to three decimals."""
        text = params.get("recvWindow") or "5000"
        if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text):
            raise Refused(-1130, MESSAGES[-1130].format("recvWindow"))
        whole, _, part = text.partition(".")
        window_us = int(whole) * 1000 + int(part.ljust(3, "0"))
        if window_us > RECV_WINDOW_MAX_MS * 1000:
            raise Refused(-1131)
        stamp = int(params["timestamp"])
        stamp_us, now_us = (stamp if stamp >= 10**15 else stamp * 1000), server_ns // 1000
        if stamp_us >= now_us + LEAD_MS * 1000:
            raise Refused(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        if now_us - stamp_us > window_us:
            raise Refused(-1021)

    def _still_fresh(self, route: Route, call: Call) -> None:
        """The window is looked at once more before the matching engine: a request held up on the way is refused there."""
        if route.name in ("place", "cancel"):
            self._check_window(call.params, self.host.server_ns())

    def _check_rights(self, owner: Owner | None, route: Route, ip: str) -> None:
        if owner is None:
            return
        rights = owner.rights
        trades = rights.get("enableSpotAndMarginTrading", True)
        ips = rights.get("ips")
        if (route.trades and not trades) or not rights.get("enableReading", True) or (ips and ip not in ips):
            raise Refused(-2015)

    # -- limits ----------------------------------------------------------------------------------------------------------
    def _count(self, ip: str, weight: int) -> int:
        """Take weight of an address: 0, or ns until it may be taken."""
        return self.host.windows.take("request_weight", ip, self.host.now_ns(), weight)

    def _charge(self, ip: str, weight: int) -> None:
        now = self.host.now_ns()
        if (until := self._banned.get(ip, 0)) > now:
            until_ms = self.host.server_ns() // 10**6 + (until - now) // 10**6
            raise Refused(
                -1003, f"Way too much request weight used; IP banned until {until_ms}. Please use WebSocket Streams for live "
                "updates to avoid bans.", 418, (until - now) // 10**9 + 1)  # fmt: skip
        wait = self.host.windows.take("raw_requests", ip, now) or self._count(ip, weight)
        if not wait:
            return
        minute, refused = self._refusals.get(ip, (0, 0))
        refused = refused + 1 if minute == now // (60 * 10**9) else 1
        self._refusals[ip] = (now // (60 * 10**9), refused)
        if refused > REFUSALS_BEFORE_BAN:
            self._banned[ip] = now + BAN_NS
        raise Refused(
            -1003, f"Too much request weight used; current limit is {WEIGHT_PER_MINUTE} request weight per 1 MINUTE. Please use "
            "WebSocket Streams for live updates to avoid polling the API.", 429, wait // 10**9 + 1)  # fmt: skip

    def _count_order(self, route: Route, owner: Owner | None) -> None:
        """A new order counts until it fills."""
        if route.name != "place" or owner is None:
            return
        now, windows = self.host.now_ns(), self.host.windows
        for name, words in (("orders_10s", "10 SECOND"), ("orders_day", "1 DAY")):
            if wait := windows.take(name, owner.account, now):
                limit = windows.defined[name].limit
                raise Refused(
                    -1015, f"Too many new orders; current limit is {limit} orders per {words}.", 429, wait // 10**9 + 1)

    def _give_back(self, account: int) -> None:
        """An order that has filled counts no more."""
        now, windows = self.host.now_ns(), self.host.windows
        for name in ("orders_10s", "orders_day"):
            if windows.used(name, account, now):
                windows.take(name, account, now, -1)

    def _note(self, refused: Refused, owner: Owner | None, method: str, params: dict[str, str]) -> None:
        self.host.refused(owner, method, params.get("symbol", ""), client_id_of(params), refused.code, refused.message)

    # -- connections -----------------------------------------------------------------------------------------------------
    def accepts(self, conn: Conn) -> bool:
        """``/ws-api/v3``, ``/ws``, ``/ws/<stream>``, ``/stream?streams=``; nothing for an address that knocks too often."""
        path, _, query = conn.path.partition("?")
        params = dict(parse_qsl(query, keep_blank_values=True))
        now = self.host.now_ns()
        if self.host.windows.take("connections", conn.ip, now) or self._banned.get(conn.ip, 0) > now:
            return False
        self._count(conn.ip, CONNECT_WEIGHT)
        path = path.rstrip("/")
        if path == API_PATH:
            conn.state = Api(params.get("returnRateLimits", "true") != "false")
            return True
        if path == "/stream" or path == "/ws" or path.startswith("/ws/"):
            conn.state = Streams(path == "/stream")
            wanted = params.get("streams", "") if path == "/stream" else path[4:]
            conn.state.names = dict.fromkeys(name for name in wanted.split("/") if name)
            return True
        return False

    def opened(self, conn: Conn) -> None:
        """Streams named in the address begin."""
        if isinstance(conn.state, Streams):
            for name in conn.state.names:
                self._watchers.setdefault(name, {})[conn] = None

    def lost(self, conn: Conn) -> None:
        """The connection is gone, and what it listened to."""
        state = conn.state
        if isinstance(state, Streams):
            for name in state.names:
                self._unwatch(conn, name)
        else:
            for number in list(state.subscriptions):
                self._drop(conn, number)

    def text(self, conn: Conn, text: bytes) -> Work | None:
        """A message of the WebSocket API or of a stream connection."""
        if isinstance(conn.state, Api):
            return self._api_text(conn, text)
        self._stream_text(conn, text)
        return None

    # -- the WebSocket API -----------------------------------------------------------------------------------------------
    def _api_text(self, conn: Conn, text: bytes) -> Work | None:
        number, method, params, problem = opened_request(text)
        if problem:
            conn.send(self._api_refusal(conn, b"null", None, Refused(-1135)))
            return None
        route = self.methods.get(method)
        owner: Owner | None = None
        now = self.host.server_ns()
        try:
            self._charge(conn.ip, route.weigh(params) if route is not None else 1)
            if route is None:
                raise Refused(-1020, f"Unknown method '{method[:40]}'.")
            if route.access != "open":
                owner = self._owner(params.get("apiKey", ""))
            if route.access == "signed":
                assert owner is not None
                self._check_signature(owner, params, ws_payload(params), now)
            self._check_rights(owner, route, conn.ip)
            self._count_order(route, owner)
        except Refused as refused:
            self._note(refused, owner, method, params)
            conn.send(self._api_refusal(conn, number, owner, refused))
            return None
        call = Call(params, owner, now, conn.ip, conn)
        found = route

        def run(stale_ms: int = -1) -> bytes:
            return self._api_answer(conn, number, found, method, call, stale_ms)

        words = [b'{"id":' + number + text for text in INSTEAD_API]
        return work_of(run, owner, route.name or method, params, words, run if method in self._queries else None)

    def _api_answer(self, conn: Conn, number: bytes, route: Route, method: str, call: Call, stale_ms: int) -> bytes:
        try:
            self._still_fresh(route, call)
            answer = route.handler(call)
            if stale_ms >= 0:
                answer = self._stale(answer, stale_ms)
        except Refused as refused:
            self._note(refused, call.owner, method, call.params)
            if route.weight == 0:
                self._count(call.ip, 1)
            return self._api_refusal(conn, number, call.owner, refused)
        head = b'{"id":%s,"status":200,"result":%s' % (number, orjson.dumps(answer))
        return head + self._rate_limits(conn, call.owner)

    def _api_refusal(self, conn: Conn, number: bytes, owner: Owner | None, refused: Refused) -> bytes:
        error = refused.body()
        if refused.retry_s:
            now = self.host.server_ns() // 10**6
            error["data"] = {"serverTime": now, "retryAfter": now + refused.retry_s * 1000}
        head = b'{"id":%s,"status":%d,"error":%s' % (number, refused.status, orjson.dumps(error))
        return head + self._rate_limits(conn, owner)

    def _rate_limits(self, conn: Conn, owner: Owner | None) -> bytes:
        if not conn.state.limits:
            return b"}"
        now, windows = self.host.now_ns(), self.host.windows
        rows = []
        if owner is not None:
            for name, interval, count in (("orders_10s", "SECOND", 10), ("orders_day", "DAY", 1)):
                rows.append({
                    "rateLimitType": "ORDERS", "interval": interval, "intervalNum": count, "limit": windows.defined[name].limit,
                    "count": windows.used(name, owner.account, now),
                })  # fmt: skip
        rows.append({
            "rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1,
            "limit": windows.defined["request_weight"].limit, "count": windows.used("request_weight", conn.ip, now),
        })  # fmt: skip
        return b',"rateLimits":' + orjson.dumps(rows) + b"}"

    def subscribe(self, call: Call) -> Any:
        """The account's events come on this connection; once per connection."""
        conn = call.conn
        assert conn is not None and call.owner is not None
        state: Api = conn.state
        if any(owner.account == call.account for owner in state.subscriptions.values()):
            raise Refused(-2035)
        if len(state.subscriptions) >= SUBSCRIPTIONS_PER_CONNECTION or state.made >= SUBSCRIPTIONS_PER_LIFE:
            raise Refused(-1020, "Too many subscriptions on this connection.")
        number = state.made
        state.made += 1
        state.subscriptions = {**state.subscriptions, number: call.owner}
        self._listeners.setdefault(call.account, []).append((conn, number))
        self._own(conn)
        return {"subscriptionId": number}

    def unsubscribe(self, call: Call) -> Any:
        """One subscription, or all of the connection."""
        conn = call.conn
        assert conn is not None
        state: Api = conn.state
        wanted = [call.whole("subscriptionId")] if call.params.get("subscriptionId") else list(state.subscriptions)
        if any(number not in state.subscriptions for number in wanted):
            raise Refused(-2036)
        for number in wanted:
            self._drop(conn, number)
        return {}

    def subscriptions(self, call: Call) -> Any:
        assert call.conn is not None
        return [{"subscriptionId": number} for number in call.conn.state.subscriptions]

    def session_status(self, call: Call) -> Any:
        assert call.conn is not None
        return {
            "apiKey": None, "authorizedSince": None, "connectedSince": call.conn.opened_ns // 10**6,
            "returnRateLimits": call.conn.state.limits, "serverTime": call.server_ns // 10**6, "userDataStream": False,
        }  # fmt: skip

    def no_session(self, call: Call) -> Any:
        """There are only HMAC keys here, and those may not log on."""
        raise Refused(-4056, "HMAC_SHA256 API key is not supported.", 401)

    def _drop(self, conn: Conn, number: int) -> None:
        state: Api = conn.state
        owner = state.subscriptions[number]
        state.subscriptions = {n: who for n, who in state.subscriptions.items() if n != number}
        left = [one for one in self._listeners.get(owner.account, []) if one != (conn, number)]
        if left:
            self._listeners[owner.account] = left
        else:
            self._listeners.pop(owner.account, None)
        self._own(conn)

    @staticmethod
    def _own(conn: Conn) -> None:
        """A connection is somebody's while it carries one account alone."""
        owners = list(conn.state.subscriptions.values())
        conn.owner = owners[0] if len(owners) == 1 else None

    # -- market streams --------------------------------------------------------------------------------------------------
    def _stream_text(self, conn: Conn, text: bytes) -> None:
        if self.host.windows.take("stream_messages", id(conn), self.host.now_ns()):
            conn.close(1008, "Too many requests")
            return
        try:
            request = orjson.loads(text)
            names = request.get("params") or []
            method, number = request.get("method"), request.get("id")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError
        except (ValueError, AttributeError):
            conn.send(b'{"error":{"code":3,"msg":"Invalid JSON: expected an object"},"id":null}')
            return
        conn.send(orjson.dumps(self._subscribe_streams(conn, method, names, number)))

    def _subscribe_streams(self, conn: Conn, method: Any, names: list[str], number: Any) -> dict[str, Any]:
        state: Streams = conn.state
        if method == "LIST_SUBSCRIPTIONS":
            return {"result": list(state.names), "id": number}
        if method == "UNSUBSCRIBE":
            for name in names:
                self._unwatch(conn, name)
            state.names = {name: None for name in state.names if name not in names}
        elif method == "SUBSCRIBE":
            if len({*state.names, *names}) > STREAMS_PER_CONNECTION:
                return {"error": {"code": 2, "msg": "Invalid request: too many streams on this connection"}, "id": number}
            state.names = {**state.names, **dict.fromkeys(names)}
            for name in names:
                self._watchers.setdefault(name, {})[conn] = None
        else:
            return {"error": {"code": 2, "msg": "Invalid request: unknown method"}, "id": number}
        return {"result": None, "id": number}

    def _unwatch(self, conn: Conn, name: str) -> None:
        watchers = self._watchers.get(name)
        if watchers is not None:
            watchers.pop(conn, None)
            if not watchers:
                del self._watchers[name]

    def _push(self, spec: SpotInstrument, kind: str, make: Callable[[], dict[str, Any]]) -> None:
        name = f"{spec.symbol.lower()}@{kind}"
        watchers = self._watchers.get(name)
        if not watchers:
            return
        text = orjson.dumps(make())
        combined = b'{"stream":"%s","data":%s}' % (name.encode(), text)
        for conn in watchers:
            conn.send(combined if conn.state.combined else text)

    def second(self, now_ns: int) -> None:
        """The tickers of the second."""
        now_ms = self.host.server_ns() // 10**6
        for symbol, spec in enumerate(self.specs):
            self._push(spec, "miniTicker", partial(self._mini, symbol, spec, now_ms))

    def _mini(self, symbol: int, spec: SpotInstrument, now_ms: int) -> dict[str, Any]:
        last = spec.price_text(self._last(symbol))
        return {
            "e": "24hrMiniTicker", "E": now_ms, "s": spec.symbol, "c": last, "o": last, "h": last, "l": last, "v": "0.00000000",
            "q": "0.00000000",
        }  # fmt: skip

    # -- what the engine did ---------------------------------------------------------------------------------------------
    def events(self, events: list[tuple[int, ...]]) -> None:
        """Reports of orders, balances, and the market, in the engine's order."""
        balances: dict[int, list[tuple[int, ...]]] = {}
        for event in events:
            kind = event[0]
            if kind in (eng.EV_NEW, eng.EV_TRADE, eng.EV_CANCELED, eng.EV_EXPIRED):
                self._report(event)
            elif kind == eng.EV_ACCOUNT:
                balances.setdefault(event[1], []).append(event)
            elif kind == eng.EV_PUBLIC_TRADE:
                self._public_trade(event)
            elif kind == eng.EV_BOOK:
                self._best(event)
        for account, rows in balances.items():
            self._tell_balances(account, rows)

    def _publish(self, account: int, event: str, client_id: str, body: dict[str, Any]) -> None:
        listeners = self._listeners.get(account)
        owner = self.host.owner_of(account)
        if not listeners or owner is None:
            return
        text = orjson.dumps(body)
        for conn, number in listeners:
            self.host.publish(conn, owner, event, client_id, b'{"subscriptionId":%d,"event":%s}' % (number, text))

    def _report(self, event: tuple[int, ...]) -> None:
        kind, account, symbol, slot = event[:4]
        if kind == eng.EV_TRADE and event[12] == event[14]:
            self._give_back(account)  # its first execution
        self._reports += 1
        cancelled_as = self._cancelled_as.pop(slot, "") if kind == eng.EV_CANCELED else ""
        if account not in self._listeners:
            return
        spec, o = self.specs[symbol], self.engine.order(slot)
        ts_ms = event[9] // 10**6
        own = o[4].decode()
        trade = kind == eng.EV_TRADE
        text = spec.qty_text
        resting = event[6] < eng.STATUS_FILLED and o[7] == eng.TYPE_LIMIT
        body = {
            "e": "executionReport", "E": ts_ms, "s": spec.symbol, "c": cancelled_as or own, "S": side_name(o[5]),
            "o": type_name(o), "f": TIF_NAMES[o[8]], "q": text(event[12] if not trade else o[12] or event[14]),
            "p": spec.price_text(o[13]), "P": "0.00000000", "F": "0.00000000", "g": -1, "C": own if cancelled_as else "",
            "x": "TRADE" if trade else ("NEW", "CANCELED", "EXPIRED")[(eng.EV_NEW, eng.EV_CANCELED, eng.EV_EXPIRED).index(kind)],
            "X": STATUSES[event[6]], "r": "NONE", "i": o[1], "l": text(event[12] if trade else 0), "z": text(event[14]),
            "L": spec.price_text(event[11] if trade else 0), "n": eight(event[16]) if trade else "0",
            "N": (spec.base if o[5] > 0 else spec.quote) if trade else None, "T": ts_ms, "t": event[13] if trade else -1,
            "I": self._reports, "w": resting, "m": bool(event[7]), "M": trade, "O": o[16] // 10**6, "Z": eight(event[15]),
            "Y": eight(event[11] * event[12] * spec.value_mul if trade else 0),
            "Q": eight(self.engine.quote_order_e8(slot)), "W": o[16] // 10**6, "V": STP_NAMES[o[9]],
        }  # fmt: skip
        self._publish(account, "executionReport", own, body)

    def _tell_balances(self, account: int, rows: list[tuple[int, ...]]) -> None:
        if account not in self._listeners:
            return
        ts_ms = rows[0][9] // 10**6
        if rows[0][8] in (eng.REASON_DEPOSIT, eng.REASON_WITHDRAW):
            for row in rows:
                self._publish(account, "balanceUpdate", "", {
                    "e": "balanceUpdate", "E": ts_ms, "a": self.engine.assets[row[3]], "d": eight(row[20]), "T": ts_ms,
                })  # fmt: skip
        self._publish(account, "outboundAccountPosition", "", {
            "e": "outboundAccountPosition", "E": ts_ms, "u": ts_ms,
            "B": [
                {"a": self.engine.assets[row[3]], "f": eight(row[19]), "l": eight(row[18] - row[19])} for row in rows
            ],
        })  # fmt: skip

    def _public_trade(self, event: tuple[int, ...]) -> None:
        spec = self.specs[event[2]]
        self._push(spec, "trade", lambda: {
            "e": "trade", "E": event[9] // 10**6, "s": spec.symbol, "t": event[13], "p": spec.price_text(event[11]),
            "q": spec.qty_text(event[12]), "T": event[9] // 10**6, "m": event[4] < 0, "M": True,
        })  # fmt: skip

    def _best(self, event: tuple[int, ...]) -> None:
        symbol, spec = event[2], self.specs[event[2]]
        bid, bid_qty, ask, ask_qty = event[11], event[12], event[14], event[15]
        if bid and ask:
            self._push(spec, "bookTicker", lambda: {
                "u": self.engine.depth(symbol, 1)[0], "s": spec.symbol, "b": spec.price_text(bid), "B": spec.qty_text(bid_qty),
                "a": spec.price_text(ask), "A": spec.qty_text(ask_qty),
            })  # fmt: skip

    # -- market ----------------------------------------------------------------------------------------------------------
    def symbol(self, call: Call) -> int:
        index = self.symbols.get(call.need("symbol"))
        if index is None:
            raise Refused(-1121)
        return index

    def some(self, call: Call) -> list[int]:
        """The call's ``symbol``, those of ``symbols`` (a JSON list), or all."""
        if call.params.get("symbol"):
            return [self.symbol(call)]
        if not call.params.get("symbols"):
            return list(range(len(self.specs)))
        try:
            names = orjson.loads(call.params["symbols"])
            return [self.symbols[name] for name in names]
        except (KeyError, TypeError):
            raise Refused(-1121) from None
        except orjson.JSONDecodeError:
            raise Refused(-1130, MESSAGES[-1130].format("symbols")) from None

    def one_or_list(self, call: Call, make: Callable[[int, SpotInstrument], Any]) -> Any:
        rows = [make(index, self.specs[index]) for index in self.some(call)]
        return rows[0] if call.params.get("symbol") else rows

    def _last(self, symbol: int) -> int:
        return self.engine.last_price(symbol) or self.engine.mark(symbol)

    def time(self, call: Call) -> Any:
        return {"serverTime": call.server_ns // 10**6}

    def unsupported(self, call: Call) -> Any:
        raise Refused(-1020)

    def gone(self, call: Call) -> Any:
        """Listen keys were taken away."""
        raise Refused(-1020, "This service is no longer available.", 410)

    def exchange_info(self, call: Call) -> Any:
        windows = self.host.windows.defined
        return {
            "timezone": "UTC",
            "serverTime": call.server_ns // 10**6,
            "rateLimits": [
                {"rateLimitType": kind, "interval": interval, "intervalNum": count, "limit": windows[name].limit}
                for kind, interval, count, name in (
                    ("REQUEST_WEIGHT", "MINUTE", 1, "request_weight"), ("ORDERS", "SECOND", 10, "orders_10s"),
                    ("ORDERS", "DAY", 1, "orders_day"), ("RAW_REQUESTS", "MINUTE", 5, "raw_requests"),
                )
            ],
            "exchangeFilters": [],
            "symbols": [symbol_info(self.specs[index]) for index in self.some(call)],
        }  # fmt: skip

    def depth(self, call: Call) -> Any:
        index = self.symbol(call)
        update_id, bids, asks = self.engine.depth(index, min(call.whole("limit", 100), 5000))
        spec = self.specs[index]
        sides = ([[spec.price_text(px), spec.qty_text(qty)] for px, qty in rows] for rows in (bids, asks))
        return {"lastUpdateId": update_id, "bids": next(sides), "asks": next(sides)}

    def trades(self, call: Call) -> Any:
        index = self.symbol(call)
        spec = self.specs[index]
        return [
            {
                "id": t[1], "price": spec.price_text(t[3]), "qty": spec.qty_text(t[4]),
                "quoteQty": eight(t[3] * t[4] * spec.value_mul), "time": t[5] // 10**6, "isBuyerMaker": t[6] < 0,
                "isBestMatch": True,
            }
            for t in self.engine.last_trades(index, min(call.whole("limit", 500), 1000))
        ]  # fmt: skip

    def average_price(self, call: Call) -> Any:
        index = self.symbol(call)
        return {"mins": 5, "price": self.specs[index].price_text(self.engine.mark(index)), "closeTime": call.server_ns // 10**6}

    def ticker_price(self, call: Call) -> Any:
        return self.one_or_list(call, lambda i, spec: {"symbol": spec.symbol, "price": spec.price_text(self._last(i))})

    def ticker_book(self, call: Call) -> Any:
        def row(index: int, spec: SpotInstrument) -> dict[str, Any]:
            bid, bid_qty, ask, ask_qty = self.engine.top(index)
            return {
                "symbol": spec.symbol, "bidPrice": spec.price_text(bid), "bidQty": spec.qty_text(bid_qty),
                "askPrice": spec.price_text(ask), "askQty": spec.qty_text(ask_qty),
            }  # fmt: skip

        return self.one_or_list(call, row)

    def ticker_day(self, call: Call) -> Any:
        def row(index: int, spec: SpotInstrument) -> dict[str, Any]:
            bid, bid_qty, ask, ask_qty = self.engine.top(index)
            last, now_ms, zero = spec.price_text(self._last(index)), call.server_ns // 10**6, "0.00000000"
            return {
                "symbol": spec.symbol, "priceChange": zero, "priceChangePercent": "0.000", "weightedAvgPrice": last,
                "prevClosePrice": last, "lastPrice": last, "lastQty": zero, "bidPrice": spec.price_text(bid),
                "bidQty": spec.qty_text(bid_qty), "askPrice": spec.price_text(ask), "askQty": spec.qty_text(ask_qty),
                "openPrice": last, "highPrice": last, "lowPrice": last, "volume": zero, "quoteVolume": zero,
                "openTime": now_ms - DAY_MS, "closeTime": now_ms, "firstId": -1, "lastId": -1, "count": 0,
            }  # fmt: skip

        return self.one_or_list(call, row)

    # -- orders ----------------------------------------------------------------------------------------------------------
    def order_place(self, call: Call) -> Any:
        """Place it; the answer is as full as ``newOrderRespType`` asks, by default whole."""
        index, kind, args = self._wanted(call)
        slot = self.engine.place(call.account, index, **args, ts_ns=self.host.now_ns())
        if slot < 0:
            raise refusal_of(slot, market=kind == "MARKET")
        events = self.engine.event_list()
        answer = self._placed(call, slot, events)
        self.host.changed()
        return answer

    def order_test(self, call: Call) -> Any:
        """Whether its parameters can be read."""
        self._wanted(call)
        return {}

    def _wanted(self, call: Call) -> tuple[int, str, dict[str, Any]]:
        """(symbol, type, what the engine is asked for) of an order's parameters."""
        index = self.symbol(call)
        side = {"BUY": eng.SIDE_BUY, "SELL": eng.SIDE_SELL}.get(call.need("side"))
        if side is None:
            raise Refused(-1117)
        kind = call.need("type")
        if kind in STOP_TYPES:
            raise Refused(-2010, f"{STOP_TYPES[kind]} are not supported for this symbol.")
        if kind not in ("LIMIT", "MARKET", "LIMIT_MAKER"):
            raise Refused(-1116)
        client_id = call.params.get("newClientOrderId", "")
        if client_id and not CLIENT_ID.match(client_id):
            raise Refused(
                -1100, "Illegal characters found in parameter 'newClientOrderId'; legal range is '^[a-zA-Z0-9-_]{1,36}$'.")
        stp = STPS.get(call.params.get("selfTradePreventionMode") or "EXPIRE_MAKER")
        if stp is None:
            raise Refused(-1130, MESSAGES[-1130].format("selfTradePreventionMode"))
        if (call.params.get("newOrderRespType") or "FULL") not in ("ACK", "RESULT", "FULL"):
            raise Refused(-1130, MESSAGES[-1130].format("newOrderRespType"))
        args = {
            "side": side, "type": eng.TYPE_MARKET if kind == "MARKET" else eng.TYPE_LIMIT, "tif": self._tif(call, kind),
            "qty_lots": 0, "px_ticks": 0, "client_id": client_id.encode(), "stp_mode": stp, "quote_e8": 0,
        }  # fmt: skip
        if kind == "MARKET" and not call.params.get("quantity"):
            if not call.params.get("quoteOrderQty"):
                raise Refused(-1102, "Param 'quantity' or 'quoteOrderQty' must be sent, but both were empty/null!")
            args["quote_e8"] = self._number(call, "quoteOrderQty", self.engine.parse_quote, index)
        else:
            args["qty_lots"] = self._number(call, "quantity", self.engine.parse_qty, index)
        if kind != "MARKET":
            args["px_ticks"] = self._number(call, "price", self.engine.parse_px, index)
        elif call.params.get("price"):
            raise Refused(-1106, MESSAGES[-1106].format("price"))
        return index, kind, args

    @staticmethod
    def _tif(call: Call, kind: str) -> int:
        if kind == "LIMIT":
            found = TIFS.get(call.need("timeInForce"))
            if found is None:
                raise Refused(-1115)
            return found
        if call.params.get("timeInForce"):
            raise Refused(-1106, MESSAGES[-1106].format("timeInForce"))
        return eng.TIF_GTX if kind == "LIMIT_MAKER" else eng.TIF_IOC

    @staticmethod
    def _number(call: Call, name: str, parse: Callable[[int, bytes], int], index: int) -> int:
        value = parse(index, call.need(name).encode("utf-8", "replace"))
        if value == -1100:
            raise Refused(
                -1100, f"Illegal characters found in parameter '{name}'; legal range is '^([0-9]{{1,20}})(\\.[0-9]{{1,20}})?$'.")
        if value == -1111:
            raise Refused(-1111, MESSAGES[-1111].format(name))
        if value < 0:
            raise refusal_of(value, market=False)
        return value

    def _placed(self, call: Call, slot: int, events: list[tuple[int, ...]]) -> dict[str, Any]:
        """The answer to a placement, from what the engine did at it."""
        row = self.order_row(slot)
        head = {name: row[name] for name in ("symbol", "orderId", "orderListId", "clientOrderId")}
        head["transactTime"] = row["updateTime"]
        kind = call.params.get("newOrderRespType") or "FULL"
        if kind == "ACK":
            return head
        body = {
            "price": row["price"], "origQty": row["origQty"], "executedQty": row["executedQty"],
            "origQuoteOrderQty": row["origQuoteOrderQty"], "cummulativeQuoteQty": row["cummulativeQuoteQty"],
            "status": row["status"], "timeInForce": row["timeInForce"], "type": row["type"], "side": row["side"],
            "workingTime": row["workingTime"], "selfTradePreventionMode": row["selfTradePreventionMode"],
        }  # fmt: skip
        if kind == "RESULT":
            return head | body
        spec = self.specs[self.symbols[row["symbol"]]]
        fills = [
            {
                "price": spec.price_text(e[11]), "qty": spec.qty_text(e[12]), "commission": eight(e[16]),
                "commissionAsset": spec.base if e[4] > 0 else spec.quote, "tradeId": e[13],
            }
            for e in events if e[0] == eng.EV_TRADE and e[3] == slot
        ]  # fmt: skip
        return {**head, **body, "fills": fills}

    def order_row(self, slot: int) -> dict[str, Any]:
        """An order as queries and lists tell it."""
        o = self.engine.order(slot)
        spec = self.specs[o[3]]
        return {
            "symbol": spec.symbol, "orderId": o[1], "orderListId": -1, "clientOrderId": o[4].decode(),
            "price": spec.price_text(o[13]), "origQty": spec.qty_text(o[12]), "executedQty": spec.qty_text(o[14]),
            "cummulativeQuoteQty": eight(o[15]), "status": STATUSES[o[10]], "timeInForce": TIF_NAMES[o[8]],
            "type": type_name(o), "side": side_name(o[5]), "stopPrice": "0.00000000", "icebergQty": "0.00000000",
            "time": o[16] // 10**6, "updateTime": o[17] // 10**6, "isWorking": True, "workingTime": o[16] // 10**6,
            "origQuoteOrderQty": eight(self.engine.quote_order_e8(slot)), "selfTradePreventionMode": STP_NAMES[o[9]],
        }  # fmt: skip

    def find(self, call: Call, unknown: int) -> int:
        """Slot of the order a request names by orderId or origClientOrderId; refused with ``unknown`` when there is none."""
        index, now = self.symbol(call), self.host.now_ns()
        if call.params.get("orderId"):
            slot = self.engine.find_order(call.account, index, call.whole("orderId"), now)
            named = call.params.get("origClientOrderId")
            if slot >= 0 and named and self.engine.order(slot)[4].decode() != named:
                raise Refused(unknown)
        elif call.params.get("origClientOrderId"):
            slot = self.engine.find_client(call.account, index, call.params["origClientOrderId"].encode("utf-8", "replace"), now)
        else:
            raise Refused(-1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!")
        if slot < 0:
            raise Refused(-2026 if slot == -2026 and unknown == -2013 else unknown)
        return slot

    def order_status(self, call: Call) -> Any:
        return self.order_row(self.find(call, -2013))

    def order_cancel(self, call: Call) -> Any:
        """The answer bears the cancel's own id; the order's stands in ``origClientOrderId``."""
        slot = self.find(call, -2011)
        name = call.params.get("newClientOrderId", "")
        if name and not CLIENT_ID.match(name):
            raise Refused(-1130, MESSAGES[-1130].format("newClientOrderId"))
        self._ids += 1
        return self._cancel(call.account, slot, name or f"c{self._ids:021x}")

    def _cancel(self, account: int, slot: int, name: str) -> dict[str, Any]:
        self._cancelled_as[slot] = name
        if self.engine.cancel(account, slot, self.host.now_ns()) < 0:
            del self._cancelled_as[slot]
            raise Refused(-2011)
        self.host.changed()
        row = self.order_row(slot)
        kept = (
            "symbol", "orderId", "orderListId", "price", "origQty", "executedQty", "origQuoteOrderQty", "cummulativeQuoteQty",
            "status", "timeInForce", "type", "side", "selfTradePreventionMode",
        )  # fmt: skip
        return {
            **{key: row[key] for key in kept}, "origClientOrderId": row["clientOrderId"], "clientOrderId": name,
            "transactTime": row["updateTime"],
        }  # fmt: skip

    def cancel_all(self, call: Call) -> Any:
        slots = self.engine.open_orders(call.account, self.symbol(call))
        if not slots:
            raise Refused(-2011)
        answers = []
        for slot in slots:
            self._ids += 1
            answers.append(self._cancel(call.account, slot, f"c{self._ids:021x}"))
        return answers

    def open_orders(self, call: Call) -> Any:
        index = self.symbol(call) if call.params.get("symbol") else -1
        return [self.order_row(slot) for slot in self.engine.open_orders(call.account, index)]

    def _span(self, call: Call) -> tuple[int, int]:
        """startTime and endTime in ns, at most a day apart."""
        start, end = call.whole("startTime", 0), call.whole("endTime", 0)
        if start and end and end - start > DAY_MS:
            raise Refused(-1127, "More than 24 hours between startTime and endTime.")
        if start and not end:
            end = start + DAY_MS
        if end and not start:
            start = max(0, end - DAY_MS)
        return start * 10**6, ((end or 1 << 43) + 1) * 10**6 - 1

    def all_orders(self, call: Call) -> Any:
        """From an order id on, or of a span of time, oldest first; else the newest."""
        index, limit = self.symbol(call), min(call.whole("limit", 500), 1000)
        first = call.whole("orderId", 0)
        start, end = self._span(call)
        rows = [self.engine.order(slot) for slot in self.engine.orders_of(call.account, index, 1_000_000, -1, start)]
        kept = [o[0] for o in rows if o[1] >= first and start <= o[16] <= end]
        return [self.order_row(slot) for slot in (kept[:limit] if first or start else kept[-limit:])]

    def my_trades(self, call: Call) -> Any:
        """From a trade id on, or of a span of time, oldest first; else the newest. Of an order: of those."""
        index, limit = self.symbol(call), min(call.whole("limit", 500), 1000)
        first, order_id = call.whole("fromId", 0), call.whole("orderId", 0)
        start, end = self._span(call)
        onward = first or start or "fromId" in call.params
        rows = []
        for t in self.engine.trades_of(call.account, index, 1_000_000, 0, start, first):
            for buyer, at in ((True, 7), (False, 12)):
                if t[at] == call.account and (not order_id or t[at + 1] == order_id) and start <= t[5] <= end:
                    rows.append(self._user_trade(t, buyer, at))
        return rows[:limit] if onward else rows[-limit:]

    def _user_trade(self, t: tuple[int, ...], buyer: bool, at: int) -> dict[str, Any]:
        spec = self.specs[t[2]]
        return {
            "symbol": spec.symbol, "id": t[1], "orderId": t[at + 1], "orderListId": -1, "price": spec.price_text(t[3]),
            "qty": spec.qty_text(t[4]), "quoteQty": eight(t[3] * t[4] * spec.value_mul), "commission": eight(t[at + 2]),
            "commissionAsset": spec.base if buyer else spec.quote, "time": t[5] // 10**6, "isBuyer": buyer,
            "isMaker": (t[6] < 0) == buyer, "isBestMatch": True,
        }  # fmt: skip

    # -- account ---------------------------------------------------------------------------------------------------------
    def account(self, call: Call) -> Any:
        assert call.owner is not None
        self.host.note_equity(call.account, self.engine.equity_e8(call.account), self.host.now_ns())
        maker, taker = self.engine.fees_of(call.account)
        zeros = call.params.get("omitZeroBalances", "").lower() != "true"
        balances = [row for row in self.engine.balances(call.account) if zeros or row[1] or row[2]]
        return {
            "makerCommission": maker // 100, "takerCommission": taker // 100, "buyerCommission": 0, "sellerCommission": 0,
            "commissionRates": {"maker": rate(maker), "taker": rate(taker), "buyer": "0.00000000", "seller": "0.00000000"},
            "canTrade": bool(call.owner.rights.get("enableSpotAndMarginTrading", True)), "canWithdraw": True, "canDeposit": True,
            "brokered": False, "requireSelfTradePrevention": False, "preventSor": False, "updateTime": call.server_ns // 10**6,
            "accountType": "SPOT",
            "balances": [{"asset": name, "free": eight(free), "locked": eight(held)} for name, free, held in balances],
            "permissions": ["SPOT"], "uid": 1_000_000 + call.account,
        }  # fmt: skip

    def commission(self, call: Call) -> Any:
        maker, taker = self.engine.fees_of(call.account)
        rates = {"maker": rate(maker), "taker": rate(taker), "buyer": "0.00000000", "seller": "0.00000000"}
        return {"symbol": self.specs[self.symbol(call)].symbol, "standardCommission": rates}

    def order_counts(self, call: Call) -> Any:
        now, windows = self.host.now_ns(), self.host.windows
        return [
            {
                "rateLimitType": "ORDERS", "interval": interval, "intervalNum": count, "limit": windows.defined[name].limit,
                "count": windows.used(name, call.account, now),
            }
            for name, interval, count in (("orders_10s", "SECOND", 10), ("orders_day", "DAY", 1))
        ]  # fmt: skip

    def restrictions(self, call: Call) -> Any:
        assert call.owner is not None
        told = {name: value for name, value in call.owner.rights.items() if name != "ips"}
        return {
            "ipRestrict": True, "createTime": 1698645219000, "enableReading": True, "enableWithdrawals": False,
            "enableInternalTransfer": False, "enableMargin": False, "enableFutures": False, "permitsUniversalTransfer": False,
            "enableVanillaOptions": False, "enableFixApiTrade": False, "enableFixReadOnly": True,
            "enableSpotAndMarginTrading": True, "enablePortfolioMarginTrading": False, **told,
        }  # fmt: skip

    def _flows(self, call: Call, sign: int) -> list[tuple[int, str, int]]:
        start, end = call.whole("startTime", 0) * 10**6, call.whole("endTime", 1 << 43) * 10**6
        coin = call.params.get("coin")
        return [
            row for row in self.engine.flows_of(call.account)
            if row[2] * sign > 0 and start <= row[0] <= end and coin in (None, "", row[1])
        ]  # fmt: skip

    def deposits(self, call: Call) -> Any:
        return [
            {"id": str(n), "amount": eight(amount), "coin": asset, "network": "SIM", "status": 1, "insertTime": ts // 10**6}
            for n, (ts, asset, amount) in enumerate(self._flows(call, 1))
        ]

    def withdrawals(self, call: Call) -> Any:
        return [
            {
                "id": str(n), "amount": eight(-amount), "transactionFee": "0", "coin": asset, "network": "SIM", "status": 6,
                "applyTime": utc_text(ts),
            }
            for n, (ts, asset, amount) in enumerate(self._flows(call, -1))
        ]  # fmt: skip

    # -- faults ----------------------------------------------------------------------------------------------------------
    def _stale(self, answer: Any, lag_ms: int) -> Any:
        """A query's answer by a reader that is so far behind the engine: what is younger is not there yet."""
        since = self.host.now_ns() // 10**6 - lag_ms
        if isinstance(answer, list):
            return [row for row in answer if row.get("time", 0) <= since]
        if answer.get("time", 0) > since:
            raise Refused(-2013)
        return answer


def client_id_of(params: dict[str, str]) -> str:
    """The client order id a request is about: of a cancel, the order's and not its own."""
    return params.get("origClientOrderId") or params.get("newClientOrderId") or ""


def work_of(
    run: Callable[[], Any], owner: Owner | None, method: str, params: dict[str, str], words: Sequence[Any],
    stale: Callable[[int], Any] | None,
) -> Work:
    """``words``: of ``INSTEAD``, as this kind of connection tells them."""
    unknown, busy, twice, late = words
    places = method == "place"
    return Work(
        run=run, owner=owner, method=method, symbol=params.get("symbol", ""), client_id=client_id_of(params), unknown=unknown,
        unavailable=busy, throttled=busy, twice=twice if places else b"", late=late if places else b"", stale=stale,
    )  # fmt: skip


def opened_request(text: bytes) -> tuple[bytes, str, dict[str, str], bool]:
    """(id as JSON, method, parameters as texts, whether it cannot be read) of a WebSocket API request."""
    try:
        request = msgspec.json.decode(text, type=_ApiRequest)
        params = {name: plain(raw) for name, raw in request.params.items() if bytes(raw) != b"null"}
        return bytes(request.id), request.method, params, False
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return b"null", "", {}, True


class _ApiRequest(msgspec.Struct):
    method: str
    id: msgspec.Raw = msgspec.Raw(b"null")
    params: dict[str, msgspec.Raw] = {}


def plain(raw: msgspec.Raw) -> str:
    """A parameter as it is signed: a text without its quotes, a number or a boolean as it was written."""
    text = bytes(raw)
    if text[:1] == b'"':
        found: str = msgspec.json.decode(text, type=str)
        return found
    if text[:1] == b"{":
        raise ValueError("a parameter is no object")
    return text.decode()


def ws_payload(params: dict[str, str]) -> bytes:
    """What a WebSocket API request signs."""
    return "&".join(f"{name}={params[name]}" for name in sorted(params) if name != "signature").encode("utf-8", "replace")


def unsigned(text: bytes) -> bytes:
    """A query or a form without the signature at its end; one that stands elsewhere stays, and so nothing fits it."""
    head, _, last = text.rpartition(b"&")
    return head if last.startswith(b"signature=") else text


def refusal_of(code: int, market: bool) -> Refused:
    """A refusal of the engine in this market's words."""
    if code in ENGINE_REFUSALS:
        found, message = ENGINE_REFUSALS[code]
        return Refused(found, message.format("MARKET_LOT_SIZE" if market else "LOT_SIZE"))
    return Refused(code if code in MESSAGES else -1000)


def side_name(side: int) -> str:
    return "BUY" if side > 0 else "SELL"


def type_name(o: tuple[Any, ...]) -> str:
    """Of an order tuple: what is only to rest is a type of its own here."""
    if o[7] == eng.TYPE_MARKET:
        return "MARKET"
    return "LIMIT_MAKER" if o[8] == eng.TIF_GTX else "LIMIT"


def rate(ppm: int) -> str:
    """A commission as a fraction."""
    return eight(ppm * (E8 // PPM))


def utc_text(ts_ns: int) -> str:
    """``2026-11-22 07:00:00``."""
    return datetime.fromtimestamp(ts_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def symbol_info(spec: SpotInstrument) -> dict[str, Any]:
    """A market with its filters. The step of market orders is told as zero, as the venue tells it: none of its own."""
    zero = "0.00000000"
    up, down = (fixed(ppm * (E8 // PPM), 4) for ppm in (spec.up_ppm, spec.down_ppm))
    return {
        "symbol": spec.symbol, "status": "TRADING", "baseAsset": spec.base, "baseAssetPrecision": 8, "quoteAsset": spec.quote,
        "quotePrecision": 8, "quoteAssetPrecision": 8, "baseCommissionPrecision": 8, "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"], "icebergAllowed": False, "ocoAllowed": False, "otoAllowed": False,
        "quoteOrderQtyMarketAllowed": True, "allowTrailingStop": False, "cancelReplaceAllowed": False, "amendAllowed": False,
        "isSpotTradingAllowed": True, "isMarginTradingAllowed": False, "permissions": [], "permissionSets": [["SPOT"]],
        "filters": [
            {
                "filterType": "PRICE_FILTER", "minPrice": spec.price_text(spec.min_px), "maxPrice": spec.price_text(spec.max_px),
                "tickSize": spec.price_text(1),
            },
            {
                "filterType": "LOT_SIZE", "minQty": spec.qty_text(spec.min_qty), "maxQty": spec.qty_text(spec.max_qty),
                "stepSize": spec.qty_text(1),
            },
            {
                "filterType": "MARKET_LOT_SIZE", "minQty": zero, "maxQty": spec.qty_text(spec.market_max_qty), "stepSize": zero,
            },
            {
                "filterType": "PERCENT_PRICE_BY_SIDE", "bidMultiplierUp": up, "bidMultiplierDown": down, "askMultiplierUp": up,
                "askMultiplierDown": down, "avgPriceMins": 5,
            },
            {
                "filterType": "NOTIONAL", "minNotional": eight(spec.min_notional_e8), "applyMinToMarket": True,
                "maxNotional": eight(spec.max_notional_e8), "applyMaxToMarket": False, "avgPriceMins": 5,
            },
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": spec.max_orders},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
        ],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }  # fmt: skip
