"""The Bybit v5 dialect: linear perpetuals of a unified account over REST, the order socket, and the private and public streams.

Handlers are plain functions of a ``Call``; they return what stands under ``result`` or raise ``Refused``. Business errors are
answered with HTTP 200 and a code. The other categories are known and empty; ``bybit_spot`` speaks the spot market's.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import msgspec
import orjson

from copyd._fast import sim_engine as eng
from copyd.exchange.dialect import Answer, Conn, Host, Owner, Request, Terms, Work
from copyd.exchange.model import E8, PPM, Instrument, fixed

LINEAR = "linear"
CATEGORIES = (LINEAR, "spot", "inverse", "option")
COIN = "USDT"
DAY_NS = 86_400 * 10**9
WINDOW_DAYS_MAX = 7
#: A closed order without a fill leaves the history after a day; the list of open ones holds so many closed ones besides.
UNFILLED_NS = DAY_NS
HISTORY_NS = 730 * DAY_NS
TIME_MAX_MS = 1 << 43  # with a window more it still fits 63 bits of ns
CLOSED_KEPT = 500
ROWS_MAX = 100_000
BATCH_MAX = 20
RECV_WINDOW_MS = 5_000
LEAD_MS = 1_000
BAN_NS = 600 * 10**9
REQ_IDS_KEPT = 100_000
#: Of one account in a second, without a VIP level; a batch counts its orders, apart from single ones.
ACCOUNT_LIMITS = {"create": 10, "cancel": 10, "amend": 10, "batch": 10, "query": 50, "set": 10, "log": 25}
IDLE_S = 600.0
#: The exchange's own name for an order that was given none: no client may write it.
NAMELESS = b"./"
CLIENT_ID = re.compile(r"[A-Za-z0-9_-]{1,36}", re.ASCII)
UUID = re.compile(r"00000000-0000-4000-8000-([0-9a-f]{12})", re.ASCII)
CURSOR = re.compile(r"(\d+)")

SIDES = {"Buy": eng.SIDE_BUY, "Sell": eng.SIDE_SELL}
SIDE_NAMES = {eng.SIDE_BUY: "Buy", eng.SIDE_SELL: "Sell"}
TIFS = {"GTC": eng.TIF_GTC, "IOC": eng.TIF_IOC, "FOK": eng.TIF_FOK, "PostOnly": eng.TIF_GTX}
TIF_NAMES = ("GTC", "IOC", "FOK", "PostOnly")
STATUS = ("New", "PartiallyFilled", "Filled", "Cancelled", "Cancelled", "Cancelled")
ISOLATED, CROSS = "ISOLATED_MARGIN", "REGULAR_MARGIN"
TOPICS = frozenset({"order", "execution", "execution.fast", "position", "wallet", "greeks", "dcp"})
LOG_TYPES = {
    eng.REASON_DEPOSIT: "TRANSFER_IN", eng.REASON_WITHDRAW: "TRANSFER_OUT", eng.REASON_FUNDING_FEE: "SETTLEMENT",
    eng.REASON_INSURANCE_CLEAR: "LIQUIDATION", eng.REASON_ADJUSTMENT: "LIQUIDATION",
}  # fmt: skip
DEPTHS = ("1", "50", "200", "500", "1000")
KLINE_MS = {"1": 60_000, "3": 180_000, "5": 300_000, "15": 900_000, "30": 1_800_000, "60": 3_600_000, "D": 86_400_000}

#: What the venue says with a code; {} takes what it is about.
TEXTS = {
    -1: "request expired",
    10000: "Server Timeout",
    10001: "params error: {}",
    10002: "invalid request, please check your server timestamp or recv_window param",
    10003: "API key is invalid.",
    10004: "error sign! please check your signature generation algorithm.",
    10005: "Permission denied, please check your API key permissions.",
    10006: "Too many visits! Exceeded the API Rate Limit.",
    10007: "User not logged in.",
    10010: "Unmatched IP, please check your API key's bound IP addresses.",
    10016: "Internal server error.",
    10019: "ws trade service is restarting",
    10403: "Exceeded the IP rate limit.",
    10404: "op type or category is not supported",
    10429: "System level frequency protection",
    20001: "Repeat auth",
    20006: "reqId is duplicated",
    33004: "Your api key has expired.",
    110001: "order not exists or too late to cancel",
    110003: "Order price exceeds the allowable range.",
    110007: "ab not enough for new order",
    110013: "cannot set leverage due to risk limit",
    110017: "Reduce-only rule not satisfied",
    110020: "Not allowed to have more than 500 active orders",
    110024: "You have an existing position, so the position mode cannot be switched",
    110025: "Position mode is not modified",
    110028: "You have existing open orders, so the position mode cannot be switched",
    110043: "leverage not modified",
    110072: "OrderLinkedID is duplicate",
    110090: "The order exceeds the largest position at this leverage",
    110094: "Order does not meet minimum order value",
    170115: "Invalid timeInForce.",
    170116: "Invalid orderType.",
    170117: "Invalid side.",
    170121: "Invalid symbol.",
    170130: "Data sent for parameter '{}' is not valid.",
    170131: "Insufficient balance.",
    170132: "Order price too high.",
    170133: "Order price lower than the minimum.",
    170134: "Order price has too many decimals.",
    170135: "Order quantity exceeded upper limit.",
    170136: "Order quantity exceeded lower limit.",
    170137: "Order quantity has too many decimals.",
    170140: "Order value exceeded lower limit.",
    170141: "Duplicate clientOrderId.",
    170148: "Market order amount has too many decimals.",
    170193: "Buy order price cannot be higher than {}.",
    170194: "Sell order price cannot be lower than {}.",
    170213: "Order does not exist.",
    170227: "This feature is not supported.",
    170810: "Cannot exceed maximum of 500 conditional, TP/SL and active orders.",
    3400045: "Set margin mode failed",
}

#: Refusals of the engine (in the numbers of another venue) -> (code here, what it is about).
ENGINE_CODES = {
    -1100: (10001, "not a number"), -1106: (110017, ""), -1111: (10001, "too many decimals"), -1115: (10001, "timeInForce"),
    -1116: (10001, "orderType"), -1117: (10001, "Side invalid"), -1121: (10001, "Symbol invalid"), -2011: (110001, ""),
    -2013: (110001, ""), -2019: (110007, ""), -2022: (110017, ""), -2025: (110020, ""), -2027: (110090, ""),
    -2028: (110007, ""), -4001: (10001, "Price invalid"), -4002: (10001, "Price above maximum"), -4003: (10001, "Qty invalid"),
    -4004: (10001, "Qty below minimum"), -4005: (10001, "Qty above maximum"), -4013: (10001, "Price below minimum"),
    -4014: (10001, "Price not on the tick"), -4015: (10001, "OrderLinkId invalid"), -4016: (110003, ""),
    -4023: (10001, "Qty not on the step"), -4024: (110003, ""), -4028: (10001, "leverage invalid"), -4046: (110043, ""),
    -4047: (3400045, ""), -4048: (3400045, ""), -4059: (110025, ""), -4061: (10001, "position idx not match position mode"),
    -4067: (110028, ""), -4068: (110024, ""), -4116: (110072, ""), -4161: (110013, ""), -4164: (110094, ""),
    -5027: (10001, "order not modified"),
}  # fmt: skip

#: Refusals of the engine that here come after the acceptance: the order is taken and then cancelled, with this reason.
LATE_REFUSALS = {
    -5021: "EC_NoImmediateQtyToFill", -5022: "EC_PostOnlyWillTakeLiquidity", -4131: "EC_NoImmediateQtyToFill",
}  # fmt: skip


class Refused(Exception):
    """A refusal in the venue's words. ``reset_ms``: when an exhausted limit is full again."""

    def __init__(self, code: int, about: str = "", reset_ms: int = 0) -> None:
        self.code, self.reset_ms = code, reset_ms
        text = TEXTS.get(code, "error")
        self.message = text.format(about) if "{}" in text else text
        super().__init__(self.message)


class Call(msgspec.Struct):
    """One request, authenticated where its route asks. ``now_ns``: the engine's clock; ``lag_ms``: answer as a reader that is
    so far behind."""

    params: dict[str, Any]
    now_ns: int
    owner: Owner | None = None
    lag_ms: int = 0

    def text(self, name: str) -> str:
        """A parameter as text; "" when it is absent. Numbers are taken for their digits."""
        value = self.params.get(name)
        if value is None or isinstance(value, bool):
            return ""
        return value if isinstance(value, str) else str(value)

    def need(self, name: str) -> str:
        value = self.text(name)
        if not value:
            raise Refused(10001, f"{name} is missing")
        return value

    def whole(self, name: str, default: int, most: int = 1 << 62) -> int:
        text = self.text(name)
        if not text:
            return default
        if not digits(text):
            raise Refused(10001, name)
        return min(int(text), most)

    def flag(self, name: str) -> bool:
        value = self.params.get(name)
        return value is True or (isinstance(value, str) and value.lower() == "true")

    @property
    def account(self) -> int:
        assert self.owner is not None  # the router authenticated the call
        return self.owner.account

    @property
    def seen_ns(self) -> int:
        """What happened later is not there yet."""
        return self.now_ns - self.lag_ms * 10**6


class Route(msgspec.Struct, frozen=True):
    """``signed``: a key is needed; ``limit``: whose window of the account it counts in, "" = none; ``kind``: for fault rules."""

    handler: Callable[[Call], Any]
    signed: bool = True
    limit: str = ""
    kind: str = ""


class State(msgspec.Struct):
    """What is known of a connection."""

    role: str  # "private", "trade", or the category of a public one
    number: int
    idle_s: float = 0.0
    topics: dict[str, None] = {}
    req_ids: dict[str, None] = {}

    @property
    def conn_id(self) -> str:
        return f"cpd{self.number:017d}-{self.role[:2]}"


class Asked(msgspec.Struct, frozen=True):
    """What every order says. ``tif``: -1 = no such; ``client``: the id its owner gave it, "" = none."""

    index: int
    side: int
    market: bool
    tif: int
    client: str

    @property
    def type(self) -> int:
        return eng.TYPE_MARKET if self.market else eng.TYPE_LIMIT

    @property
    def engine_tif(self) -> int:
        """The engine wants none of a market order."""
        return eng.TIF_GTC if self.market else self.tif


class Told(msgspec.Struct, frozen=True, gc=False):
    """What an execution's rows need and the engine does not keep: lots that it closed, and filled of the order after it."""

    closed: int
    cum: int


class Dialect:
    """See ``copyd.exchange.dialect.Dialect``."""

    name = "bybit"
    terms = Terms(idle_s=IDLE_S)
    #: The one category that trades here, and what is said of it: refusals of the engine, limits of an account, orders of a batch,
    #: the right (group, name) that placing takes.
    category = LINEAR
    codes = ENGINE_CODES
    limits = ACCOUNT_LIMITS
    batch_max = BATCH_MAX
    right = ("ContractTrade", "Order")

    def __init__(self, host: Host) -> None:
        self.host, self.engine = host, host.engine
        self.n_conns = self.n_sent = self.n_nameless = 0
        self.private: dict[int, list[Conn]] = {}
        self.public: dict[str, dict[Conn, None]] = {}
        #: A client id is never free again.
        self.client_ids: dict[tuple[int, str], int] = {}
        #: Orders that were taken and cancelled without reaching the book, by id.
        self.phantoms: dict[int, dict[str, Any]] = {}
        self.told: dict[tuple[int, int, int], Told] = {}
        self.net: dict[tuple[int, int], int] = {}
        self.banned: dict[str, int] = {}
        define = host.windows.define
        define("http", 600, 5_000, sliding=True)
        define("ws_orders", 3_000, 1_000, sliding=True)
        define("connects", 500, 300_000, sliding=True)
        for name, limit in self.limits.items():
            define(name, limit, 1_000, sliding=True)
        self.routes = self._routes()
        self.operations = {
            "order.create": ("create", self.create), "order.amend": ("amend", self.amend),
            "order.cancel": ("cancel", self.cancel),
            "order.create-batch": ("batch", self.create_batch), "order.cancel-batch": ("batch", self.cancel_batch),
            "order.amend-batch": ("batch", self.amend_batch),
        }  # fmt: skip

    def _routes(self) -> dict[str, Route]:
        return {
            "GET /v5/market/time": Route(self.time, False),
            "GET /v5/market/instruments-info": Route(self.instruments_info, False),
            "GET /v5/market/tickers": Route(self.tickers, False),
            "GET /v5/market/orderbook": Route(self.orderbook, False),
            "GET /v5/market/recent-trade": Route(self.recent_trades, False),
            "GET /v5/market/kline": Route(self.kline, False),
            "GET /v5/market/funding/history": Route(self.funding_history, False),
            "GET /v5/market/risk-limit": Route(self.risk_limit, False),
            "POST /v5/order/create": Route(self.create, limit="create", kind="place"),
            "POST /v5/order/amend": Route(self.amend, limit="amend"),
            "POST /v5/order/cancel": Route(self.cancel, limit="cancel", kind="cancel"),
            "POST /v5/order/cancel-all": Route(self.cancel_all, limit="cancel"),
            "POST /v5/order/create-batch": Route(self.create_batch, limit="batch", kind="place"),
            "POST /v5/order/cancel-batch": Route(self.cancel_batch, limit="batch", kind="cancel"),
            "POST /v5/order/amend-batch": Route(self.amend_batch, limit="batch"),
            "GET /v5/order/realtime": Route(self.realtime, limit="query", kind="query"),
            "GET /v5/order/history": Route(self.history, limit="query", kind="query"),
            "GET /v5/execution/list": Route(self.executions, limit="query"),
            "GET /v5/position/list": Route(self.positions, limit="query"),
            "POST /v5/position/set-leverage": Route(self.set_leverage, limit="set"),
            "POST /v5/position/switch-mode": Route(self.switch_mode, limit="set"),
            "POST /v5/account/set-margin-mode": Route(self.set_margin_mode, limit="set"),
            "GET /v5/account/info": Route(self.account_info, limit="query"),
            "GET /v5/account/wallet-balance": Route(self.wallet_balance, limit="query"),
            "GET /v5/account/fee-rate": Route(self.fee_rate, limit="query"),
            "GET /v5/account/transaction-log": Route(self.transaction_log, limit="log"),
            "GET /v5/user/query-api": Route(self.query_api, limit="set"),
            "GET /v5/asset/coin/query-info": Route(self.coin_info, limit="query"),
        }

    def _engine_refused(self, code: int) -> Refused:
        """A refusal of the engine as this category words it."""
        return Refused(*self.codes.get(code, (10001, f"refused ({code})")))

    def _checked(self, code: int) -> int:
        """The engine's answer; raises its refusal."""
        if code < 0:
            raise self._engine_refused(code)
        return code

    # -- REST ------------------------------------------------------------------------------------------------------------
    def rest(self, request: Request) -> Work:
        """A request: the address's limit, then the key, then the account's limit, then what it asks for."""
        if self._shut_out(request.ip):
            return Work(lambda: Answer(b"<html><body>access too frequent, please try again later</body></html>", 403,
                                       {"Content-Type": "text/html"}))  # fmt: skip
        name = f"{request.method} {request.path}"
        route = self.routes.get(name)
        if route is None:
            return Work(lambda: Answer(b"", 404))
        owner: Owner | None = None
        params: dict[str, Any] = {}
        try:
            if route.signed:
                owner = self._authenticate(request)
            params = self._parameters(request)
            self._count(route.limit, owner, params)
        except Refused as refused:
            return Work(partial(self._refusal, refused, owner, name, params), owner)
        return self._work(route, name, owner, params)

    def _work(self, route: Route, name: str, owner: Owner | None, params: dict[str, Any]) -> Work:
        def run(lag_ms: int = 0) -> Answer:
            try:
                result = route.handler(Call(params, self.host.now_ns(), owner, lag_ms))
            except Refused as refused:
                return self._refusal(refused, owner, name, params)
            ext: Any = {}
            if isinstance(result, Batch):
                result, ext = result.result, result.ext
            return self._answer(0, "OK", result, ext, self._limit_headers(route.limit, owner))

        asked = Call(params, 0)
        return Work(
            run, owner, route.kind or name, asked.text("symbol"), asked.text("orderLinkId"),
            unknown=self._answer(10000, TEXTS[10000]), unavailable=self._answer(10016, TEXTS[10016], status=503),
            throttled=self._answer(10429, TEXTS[10429], status=429), stale=run if request_is_query(name) else None,
        )  # fmt: skip

    def _answer(
        self, code: int, message: str, result: Any = None, ext: Any = None, headers: dict[str, str] | None = None,
        status: int = 200,
    ) -> Answer:
        body = {
            "retCode": code, "retMsg": message, "result": {} if result is None else result, "retExtInfo": ext or {},
            "time": self.host.server_ns() // 10**6,
        }  # fmt: skip
        return Answer(orjson.dumps(body), status, headers or {})

    def _refusal(self, refused: Refused, owner: Owner | None, name: str, params: dict[str, Any]) -> Answer:
        asked = Call(params, 0)
        self.host.refused(owner, name, asked.text("symbol"), asked.text("orderLinkId"), refused.code, refused.message)
        headers = {"X-Bapi-Limit-Reset-Timestamp": str(refused.reset_ms)} if refused.reset_ms else {}
        return self._answer(refused.code, refused.message, headers=headers)

    def _shut_out(self, ip: str) -> bool:
        """An address that asked too often is heard no more for ten minutes."""
        now = self.host.now_ns()
        if self.banned.get(ip, 0) > now:
            return True
        if self.host.windows.take("http", ip, now):
            self.banned[ip] = now + BAN_NS
            return True
        return False

    def _authenticate(self, request: Request) -> Owner:
        head = request.headers
        owner = self.host.owner(head.get("x-bapi-api-key", ""))
        if owner is None:
            raise Refused(10003)
        stamp, window = head.get("x-bapi-timestamp", ""), head.get("x-bapi-recv-window", "") or str(RECV_WINDOW_MS)
        self._check_stamp(stamp, window)
        payload = request.query.encode("utf-8", "surrogateescape") if request.method == "GET" else request.body
        signed = stamp.encode() + owner.api_key.encode() + head.get("x-bapi-recv-window", "").encode() + payload
        if not same(sign(owner.secret, signed), head.get("x-bapi-sign", "")):
            raise Refused(10004)
        self._check_rights(owner, request.ip, request.method == "POST")
        return owner

    def _check_stamp(self, stamp: str, window: str) -> None:
        now = self.host.server_ns() // 10**6
        if not (digits(stamp) and digits(window)):
            raise Refused(10002)
        if not now - int(window) <= int(stamp) < now + LEAD_MS:
            raise Refused(10002)

    def _check_rights(self, owner: Owner, ip: str, changes: bool) -> None:
        rights = owner.rights
        ips = rights.get("ips") or ["*"]
        if "*" not in ips and ip not in ips:
            raise Refused(10010)
        if rights.get("expired"):
            raise Refused(33004)
        group, needed = self.right
        granted = rights.get("permissions", PERMISSIONS)
        if changes and (rights.get("readOnly") or needed not in granted.get(group, ())):
            raise Refused(10005)

    @staticmethod
    def _parameters(request: Request) -> dict[str, Any]:
        if request.method == "GET":
            query = request.query.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            return dict(parse_qsl(query, keep_blank_values=True))
        return json_object(request.body)

    def _count(self, limit: str, owner: Owner | None, params: dict[str, Any]) -> None:
        """Take from the account's window."""
        if not limit or owner is None:
            return
        n = len(params["request"]) if limit == "batch" and isinstance(params.get("request"), list) else 1
        now = self.host.now_ns()
        if wait := self.host.windows.take(limit, owner.account, now, n):
            raise Refused(10006, reset_ms=(self.host.server_ns() + wait) // 10**6 + 1)

    def _limit_headers(self, limit: str, owner: Owner | None) -> dict[str, str]:
        if not limit or owner is None:
            return {}
        now = self.host.now_ns()
        return {
            "X-Bapi-Limit": str(self.host.windows.defined[limit].limit),
            "X-Bapi-Limit-Status": str(self.host.windows.left(limit, owner.account, now)),
            "X-Bapi-Limit-Reset-Timestamp": str(self.host.server_ns() // 10**6),
        }

    # -- connections -----------------------------------------------------------------------------------------------------
    def accepts(self, conn: Conn) -> bool:
        path, _, query = conn.path.partition("?")
        if self.host.windows.take("connects", conn.ip, self.host.now_ns()):
            return False
        role = {"/v5/private": "private", "/v5/trade": "trade"}.get(path, "")
        if path.startswith("/v5/public/") and path.removeprefix("/v5/public/") in CATEGORIES:
            role = path.removeprefix("/v5/public/")
        if not role:
            return False
        self.n_conns += 1
        conn.state = State(role, self.n_conns, active_time(query), {}, {})
        return True

    def opened(self, conn: Conn) -> None:
        """Nothing is said before the client speaks."""

    def lost(self, conn: Conn) -> None:
        for topic in conn.state.topics:
            self.public.get(topic, {}).pop(conn, None)
        if conn.owner is not None and conn in self.private.get(conn.owner.account, ()):
            self.private[conn.owner.account].remove(conn)

    def second(self, now_ns: int) -> None:
        """Connections that asked for a shorter life in silence."""
        for conn in self.host.conns():
            idle_s = conn.state.idle_s
            if idle_s and now_ns - conn.heard_ns > idle_s * 1e9:
                conn.close(1000, "max active time")
        for ip in [ip for ip, until in self.banned.items() if until <= now_ns]:
            del self.banned[ip]

    def text(self, conn: Conn, text: bytes) -> Work | None:
        """A message of a client."""
        try:
            asked = json_object(text)
        except Refused:
            self._say(conn, {"success": False, "ret_msg": "error:invalid json", "conn_id": conn.state.conn_id, "op": ""})
            return None
        op = str(asked.get("op", ""))
        if op == "ping":
            self._pong(conn, asked)
        elif op == "auth":
            self._login(conn, asked)
        elif conn.state.role == "trade":
            return self._order_work(conn, op, asked)
        elif op in ("subscribe", "unsubscribe"):
            self._subscribe(conn, op, asked)
        else:
            self._say(conn, {"success": False, "ret_msg": "error:invalid op", "conn_id": conn.state.conn_id, "op": op})
        return None

    @staticmethod
    def _say(conn: Conn, message: dict[str, Any]) -> None:
        conn.send(orjson.dumps(message))

    def _pong(self, conn: Conn, asked: dict[str, Any]) -> None:
        now, conn_id = str(self.host.server_ns() // 10**6), conn.state.conn_id
        if conn.state.role == "trade":
            self._say(conn, {"retCode": 0, "retMsg": "OK", "op": "pong", "data": [now], "connId": conn_id})
        elif conn.state.role == "private":
            self._say(conn, {"req_id": str(asked.get("req_id", "")), "op": "pong", "args": [now], "conn_id": conn_id})
        else:
            self._say(conn, {
                "success": True, "ret_msg": "pong", "conn_id": conn_id, "req_id": str(asked.get("req_id", "")), "op": "ping",
            })  # fmt: skip

    def _login(self, conn: Conn, asked: dict[str, Any]) -> None:
        code = self._login_code(conn, asked)
        message, conn_id = TEXTS.get(code, "").format("auth"), conn.state.conn_id
        if code:
            self.host.refused(self.host.owner(first_arg(asked)), "auth", "", "", code, message)
        if conn.state.role == "trade":
            answer = {"retCode": code, "retMsg": message or "OK", "op": "auth", "connId": conn_id}
            if "reqId" in asked:
                answer["reqId"] = asked["reqId"]
        else:
            answer = {"success": not code, "ret_msg": message, "op": "auth", "conn_id": conn_id}
            if "req_id" in asked:
                answer["req_id"] = asked["req_id"]
        self._say(conn, answer)

    def _login_code(self, conn: Conn, asked: dict[str, Any]) -> int:
        """0: let in; otherwise why not."""
        args = asked.get("args")
        if not isinstance(args, list) or len(args) != 3 or conn.state.role not in ("private", "trade"):
            return 10001
        if conn.owner is not None:
            return 20001
        owner = self.host.owner(str(args[0]))
        if owner is None:
            return 10003
        expires = str(args[1])
        if not digits(expires) or int(expires) <= self.host.server_ns() // 10**6:
            return 10001
        if not same(sign(owner.secret, b"GET/realtime" + expires.encode()), str(args[2])):
            return 10004
        try:
            self._check_rights(owner, conn.ip, False)
        except Refused as refused:
            return refused.code
        conn.owner = owner
        if conn.state.role == "private":
            self.private.setdefault(owner.account, []).append(conn)
        return 0

    def _subscribe(self, conn: Conn, op: str, asked: dict[str, Any]) -> None:
        args = asked.get("args")
        topics = [str(topic) for topic in args] if isinstance(args, list) else []
        bad = next((topic for topic in topics if not self._known_topic(conn, topic)), None if topics else "")
        answer = {
            "success": bad is None, "ret_msg": "" if bad is None else f"error:handler not found,topic:{bad}", "op": op,
            "conn_id": conn.state.conn_id,
        }  # fmt: skip
        if "req_id" in asked:
            answer["req_id"] = asked["req_id"]
        self._say(conn, answer)
        if bad is not None:
            return
        for topic in topics:
            if op == "unsubscribe":
                conn.state.topics.pop(topic, None)
                self.public.get(topic, {}).pop(conn, None)
            elif topic not in conn.state.topics:
                conn.state.topics[topic] = None
                if conn.state.role != "private":
                    self.public.setdefault(topic, {})[conn] = None
                    self._first(conn, topic)

    def _known_topic(self, conn: Conn, topic: str) -> bool:
        role = conn.state.role
        if role == "private":
            return conn.owner is not None and (topic in TOPICS or topic.removesuffix(f".{self.category}") in TOPICS)
        kind, *middle, symbol = topic.split(".")[:4] if "." in topic else (topic, "")
        shape = {"orderbook": DEPTHS, "kline": tuple(KLINE_MS)}.get(kind, ("",))
        known = kind in ("orderbook", "tickers", "publicTrade", "kline", "allLiquidation") and ".".join(middle) in shape
        return known and role == self.category and symbol in self.host.symbols

    # -- the order socket ------------------------------------------------------------------------------------------------
    def _order_work(self, conn: Conn, op: str, asked: dict[str, Any]) -> Work | None:
        owner, req_id = conn.owner, asked.get("reqId")
        head = asked.get("header") if isinstance(asked.get("header"), dict) else {}
        assert isinstance(head, dict)
        params: dict[str, Any] = {}
        limit = ""
        try:
            limit, handler = self._operation(op)
            params = one_argument(asked)
            if owner is None:
                raise Refused(10007)
            self._check_order(conn, owner, req_id, head)
            self._count(limit, owner, params)
        except Refused as refused:
            self.host.refused(owner, op, Call(params, 0).text("symbol"), Call(params, 0).text("orderLinkId"), refused.code,
                              refused.message)  # fmt: skip
            conn.send(self._op_answer(conn, op, req_id, refused.code, refused.message, limit=limit, reset_ms=refused.reset_ms))
            return None

        def run() -> bytes:
            call = Call(params, self.host.now_ns(), owner)
            try:
                # the engine looks at the window once more: what was held up on the way is refused there
                self._check_stamp(*stamps(head))
                result = handler(call)
            except Refused as refused:
                self.host.refused(owner, op, call.text("symbol"), call.text("orderLinkId"), refused.code, refused.message)
                return self._op_answer(conn, op, req_id, refused.code, refused.message, limit=limit)
            data, ext = (result.result, result.ext) if isinstance(result, Batch) else (result, {})
            return self._op_answer(conn, op, req_id, 0, "OK", data, ext, limit)

        say = partial(self._op_answer, conn, op, req_id)
        return Work(
            run, owner, {"create": "place", "cancel": "cancel"}.get(limit, op), Call(params, 0).text("symbol"),
            Call(params, 0).text("orderLinkId"), unknown=say(10016, TEXTS[10016]), unavailable=say(10019, TEXTS[10019]),
            throttled=say(10429, TEXTS[10429]),
        )  # fmt: skip

    def _operation(self, op: str) -> tuple[str, Callable[[Call], Any]]:
        found = self.operations.get(op)
        if found is None:
            raise Refused(10404)
        return found

    def _check_order(self, conn: Conn, owner: Owner, req_id: Any, head: dict[str, Any]) -> None:
        self._check_stamp(*stamps(head))
        self._check_rights(owner, conn.ip, True)
        if self.host.windows.take("ws_orders", conn.ip, self.host.now_ns()):
            raise Refused(10403)
        if req_id is not None:
            known = conn.state.req_ids
            if not isinstance(req_id, str) or len(req_id) > 36:
                raise Refused(10001, "reqId")
            if req_id in known:
                raise Refused(20006)
            known[req_id] = None
            if len(known) > REQ_IDS_KEPT:
                del known[next(iter(known))]

    def _op_answer(
        self, conn: Conn, op: str, req_id: Any, code: int, message: str, data: Any = None, ext: Any = None, limit: str = "",
        reset_ms: int = 0,
    ) -> bytes:
        now = self.host.server_ns() // 10**6
        header = {"Traceid": f"{self.n_sent:032x}", "Timenow": str(now)}
        header.update(self._limit_headers(limit, conn.owner))
        if reset_ms:
            header["X-Bapi-Limit-Reset-Timestamp"] = str(reset_ms)
        answer = {
            "retCode": code, "retMsg": message, "op": op, "data": data or {}, "retExtInfo": ext or {}, "header": header,
            "connId": conn.state.conn_id,
        }  # fmt: skip
        if req_id is not None:
            answer["reqId"] = req_id
        return orjson.dumps(answer)

    # -- market ----------------------------------------------------------------------------------------------------------
    def time(self, call: Call) -> Any:
        now = self.host.server_ns()
        return {"timeSecond": str(now // 10**9), "timeNano": str(now)}

    def _category(self, call: Call) -> str:
        kind = call.need("category")
        if kind not in CATEGORIES:
            raise Refused(10001, "Illegal category")
        return kind

    def _symbol(self, call: Call) -> int:
        """The instrument a call must name."""
        index = self.host.symbols.get(call.need("symbol")) if self._category(call) == self.category else None
        if index is None:
            raise self._engine_refused(-1121)
        return index

    def _some(self, call: Call) -> list[int]:
        """The instrument a call names, or all."""
        if self._category(call) != self.category:
            return []
        return [self._symbol(call)] if call.text("symbol") else list(range(len(self.host.instruments)))

    def instruments_info(self, call: Call) -> Any:
        rows = [] if call.text("status") not in ("", "Trading") else [self._info(i) for i in self._some(call)]
        size, start = call.whole("limit", 500, 1000), offset(call)
        return {
            "category": self._category(call), "list": rows[start : start + size],
            "nextPageCursor": f"first%3D{start + size}%26" if start + size < len(rows) else "",
        }  # fmt: skip

    def _info(self, index: int) -> dict[str, Any]:
        spec = self.host.instruments[index]
        return {
            "symbol": spec.symbol, "contractType": "LinearPerpetual", "status": "Trading", "baseCoin": spec.base,
            "quoteCoin": spec.quote, "launchTime": "1585526400000", "deliveryTime": "0", "deliveryFeeRate": "",
            "priceScale": str(spec.price_precision),
            "leverageFilter": {"minLeverage": "1", "maxLeverage": f"{spec.max_leverage}.00", "leverageStep": "0.01"},
            "priceFilter": {
                "minPrice": spec.price_text(spec.min_px), "maxPrice": spec.price_text(spec.max_px),
                "tickSize": spec.price_text(1),
            },
            "lotSizeFilter": {
                "maxOrderQty": spec.qty_text(spec.max_qty), "minOrderQty": spec.qty_text(spec.min_qty),
                "qtyStep": spec.qty_text(1), "postOnlyMaxOrderQty": spec.qty_text(spec.max_qty),
                "maxMktOrderQty": spec.qty_text(spec.market_max_qty), "minNotionalValue": plain(spec.min_notional_e8),
            },
            "unifiedMarginTrade": True, "fundingInterval": 480, "settleCoin": spec.quote, "copyTrading": "both",
            "upperFundingRate": "0.00375", "lowerFundingRate": "-0.00375", "isPreListing": False, "preListingInfo": None,
            "riskParameters": {
                "priceLimitRatioX": plain((spec.up_ppm - PPM) * 100), "priceLimitRatioY": plain((spec.up_ppm - PPM) * 200),
            },
        }  # fmt: skip

    def _ticker(self, index: int) -> dict[str, Any]:
        spec = self.host.instruments[index]
        bid, bid_qty, ask, ask_qty = self.engine.top(index)
        mark = fixed(self.engine.mark(index) * spec.tick_e8, spec.price_precision)
        last = spec.price_text(self.engine.last_price(index) or self.engine.mark(index))
        return {
            "symbol": spec.symbol, "tickDirection": "PlusTick", "price24hPcnt": "0", "lastPrice": last, "prevPrice24h": last,
            "highPrice24h": last, "lowPrice24h": last, "prevPrice1h": last, "markPrice": mark, "indexPrice": mark,
            "openInterest": "0", "openInterestValue": "0", "turnover24h": "0", "volume24h": "0",
            "nextFundingTime": str(self.host.next_funding_ms(self.host.now_ns())),
            "fundingRate": plain(self.host.funding_rate_e8),
            "bid1Price": spec.price_text(bid), "bid1Size": spec.qty_text(bid_qty),
            "ask1Price": spec.price_text(ask), "ask1Size": spec.qty_text(ask_qty),
        }  # fmt: skip

    def tickers(self, call: Call) -> Any:
        return {"category": self._category(call), "list": [self._ticker(index) for index in self._some(call)]}

    def _book(self, index: int, depth: int) -> dict[str, Any]:
        spec = self.host.instruments[index]
        update, bids, asks = self.engine.depth(index, depth)
        return {
            "s": spec.symbol, "b": [[spec.price_text(px), spec.qty_text(qty)] for px, qty in bids],
            "a": [[spec.price_text(px), spec.qty_text(qty)] for px, qty in asks], "u": update, "seq": update,
        }  # fmt: skip

    def orderbook(self, call: Call) -> Any:
        now = self.host.server_ns() // 10**6
        return {**self._book(self._symbol(call), call.whole("limit", 25, 500)), "ts": now, "cts": now}

    def _public_trades(self, index: int, limit: int) -> list[tuple[int, ...]]:
        """The newest trades of a symbol, oldest first."""
        rows: list[tuple[int, ...]] = []
        before = self.engine.n_trades()
        while before > 0 and len(rows) < limit:
            start = max(before - 1000, 0)
            rows = [t for t in self.engine.trades_after(start - 1, before - start) if t[2] == index] + rows
            before = start
        return rows[-limit:]

    def recent_trades(self, call: Call) -> Any:
        index = self._symbol(call)
        spec = self.host.instruments[index]
        rows = [
            {
                "execId": exec_text(index, t[1], 0), "symbol": spec.symbol, "price": spec.price_text(t[3]),
                "size": spec.qty_text(t[4]), "side": SIDE_NAMES[t[6]], "time": str(t[5] // 10**6), "isBlockTrade": False,
                "seq": str(t[0]),
            }
            for t in reversed(self._public_trades(index, call.whole("limit", 500, 1000)))
        ]  # fmt: skip
        return {"category": self.category, "list": rows}

    def kline(self, call: Call) -> Any:
        """Candles of the newest 10,000 trades, newest first; intervals without a trade are left out."""
        index = self._symbol(call)
        spec = self.host.instruments[index]
        width = KLINE_MS.get(call.need("interval"))
        if width is None:
            raise Refused(10001, "interval")
        candles: dict[int, list[int]] = {}
        for t in self._public_trades(index, 10_000):
            row = candles.setdefault(t[5] // 10**6 // width * width, [t[3], t[3], t[3], t[3], 0, 0])
            row[1], row[2], row[3] = max(row[1], t[3]), min(row[2], t[3]), t[3]
            row[4] += t[4]
            row[5] += t[3] * t[4] * spec.value_mul
        rows = [
            [str(start), *(spec.price_text(px) for px in row[:4]), spec.qty_text(row[4]), plain(row[5])]
            for start, row in sorted(candles.items(), reverse=True)
        ]
        return {"category": self.category, "symbol": spec.symbol, "list": rows[: call.whole("limit", 200, 1000)]}

    def funding_history(self, call: Call) -> Any:
        index = self._symbol(call)
        rows = [
            {"symbol": self.host.instruments[index].symbol, "fundingRate": plain(one.rate_e8),
             "fundingRateTimestamp": str(one.ts_ns // 10**6)}
            for one in reversed(self.host.funding_log) if one.symbol == index
        ]  # fmt: skip
        return {"category": LINEAR, "list": rows[: call.whole("limit", 200, 200)]}

    def risk_limit(self, call: Call) -> Any:
        rows = [
            {
                "id": tier.bracket, "symbol": self.host.instruments[index].symbol, "riskLimitValue": plain(tier.cap_e8),
                "maintenanceMargin": plain(tier.mmr_ppm * 100), "initialMargin": plain(E8 // tier.max_leverage),
                "isLowestRisk": int(tier.bracket == 1), "maxLeverage": f"{tier.max_leverage}.00",
                "mmDeduction": plain(tier.cum_e8),
            }
            for index in self._some(call)
            for tier in self.host.instruments[index].tiers
        ]  # fmt: skip
        return {"category": LINEAR, "list": rows}

    def execution_name(self, index: int, trade_id: int, account: int) -> str:
        """A trade as the owner of one of its sides is told of it."""
        return exec_text(index, trade_id, account)

    # -- orders: in ------------------------------------------------------------------------------------------------------
    def create(self, call: Call) -> Any:
        """Place one order: an acceptance, no more; what becomes of it is told by the streams and the queries."""
        asked = self._asked(call)
        pos_side = call.whole("positionIdx", 0)
        if pos_side > eng.POS_SHORT:
            raise Refused(10001, "position idx not match position mode")
        closes = (pos_side == eng.POS_LONG and asked.side < 0) or (pos_side == eng.POS_SHORT and asked.side > 0)
        reduce = call.flag("reduceOnly")
        if reduce and pos_side and not closes:
            raise Refused(110017)
        qty = self._quantity(call, asked.index, asked.side, pos_side)
        px = self._price(call, asked)
        slot = self.engine.place(
            call.account, asked.index, asked.side, asked.type, asked.engine_tif, qty, px, reduce and not pos_side, False,
            pos_side, self._engine_id(asked.client), call.now_ns)  # fmt: skip
        if slot in LATE_REFUSALS:
            return self._taken_and_cancelled(call, asked, qty, px, pos_side, reduce, slot)
        return self._accepted(call, asked.client, slot)

    def _asked(self, call: Call) -> Asked:
        """What every order says."""
        index = self._symbol(call)
        side = SIDES.get(call.need("side"))
        if side is None:
            raise self._engine_refused(-1117)
        market = self._order_type(call)
        if call.text("triggerPrice") or call.text("takeProfit") or call.text("stopLoss"):
            raise Refused(10001, "conditional orders are not supported")
        tif = eng.TIF_IOC if market else TIFS.get(call.text("timeInForce") or "GTC", -1)
        client = call.text("orderLinkId")
        if client and not CLIENT_ID.fullmatch(client):
            raise Refused(10001, "OrderLinkId invalid")
        if client and (call.account, client) in self.client_ids:
            raise self._engine_refused(-4116)
        return Asked(index, side, market, tif, client)

    def _price(self, call: Call, asked: Asked) -> int:
        """Ticks; 0 of a market order."""
        return 0 if asked.market else self._checked(self.engine.parse_px(asked.index, call.need("price").encode()))

    def _accepted(self, call: Call, client: str, slot: int) -> dict[str, str]:
        """The answer to a placement, by what the engine gave; raises its refusal."""
        order_id = self.engine.order(self._checked(slot))[1]
        if client:
            self.client_ids[call.account, client] = order_id
        self.host.changed()
        return {"orderId": order_text(order_id), "orderLinkId": client}

    def _order_type(self, call: Call) -> bool:
        """Whether it is a market order."""
        kind = call.need("orderType")
        if kind not in ("Market", "Limit"):
            raise self._engine_refused(-1116)
        return kind == "Market"

    def _engine_id(self, client: str) -> bytes:
        if client:
            return client.encode()
        self.n_nameless += 1
        return NAMELESS + b"%d" % self.n_nameless

    def _quantity(self, call: Call, index: int, side: int, pos_side: int) -> int:
        """Lots; "0" that may only close closes all there is."""
        text = call.need("qty")
        if text == "0" and call.flag("reduceOnly") and call.flag("closeOnTrigger"):
            held = self.engine.position(call.account, index, pos_side)[0]
            if held * side >= 0:
                raise Refused(110017)
            return abs(held)
        return self._checked(self.engine.parse_qty(index, text.encode()))

    def _taken_and_cancelled(
        self, call: Call, asked: Asked, qty: int, px: int, pos_side: int, reduce: bool, code: int
    ) -> Any:
        """An order that is accepted and at once cancelled by the matching engine."""
        order_id, client = (1 << 46) + len(self.phantoms), asked.client
        if client:
            self.client_ids[call.account, client] = order_id
        spec, at = self.host.instruments[asked.index], str(call.now_ns // 10**6)
        row = self._row(
            spec, order_id, client, asked.side, asked.market, asked.tif, qty, px, pos_side, reduce, "Cancelled", 0, 0, at, at,
            LATE_REFUSALS[code])
        self.phantoms[order_id] = {"account": call.account, "symbol": asked.index, "ts": call.now_ns, "row": row}
        self._publish(call.account, "order", client, [row])
        return {"orderId": order_text(order_id), "orderLinkId": client}

    def _found(self, call: Call) -> int:
        """The open order's slot that a call names by either id."""
        order_id = self._named(call)
        if order_id is None or order_id in self.phantoms:
            raise self._engine_refused(-2013)
        slot = order_id - eng.ORDER_ID_BASE
        if not self._visible(slot, call.account) or self.engine.order(slot)[10] > eng.STATUS_PARTIALLY_FILLED:
            raise self._engine_refused(-2013)
        return slot

    def _named(self, call: Call) -> int | None:
        """The number of the order a call names; None: there is none of that name."""
        if call.text("orderId"):
            return order_number(call.text("orderId"))
        client = call.text("orderLinkId")
        if not client:
            raise Refused(10001, "orderId or orderLinkId")
        return self.client_ids.get((call.account, client))

    def _visible(self, slot: int, account: int) -> bool:
        return 0 <= slot < self.engine.n_orders() and self.engine.order(slot)[2] == account

    def cancel(self, call: Call) -> Any:
        self._symbol(call)
        slot = self._found(call)
        self._checked(self.engine.cancel(call.account, slot, call.now_ns))
        self.host.changed()
        return self._ids(slot)

    def _ids(self, slot: int) -> dict[str, str]:
        order = self.engine.order(slot)
        return {"orderId": order_text(order[1]), "orderLinkId": client_text(order[4], order[11])}

    def amend(self, call: Call) -> Any:
        index = self._symbol(call)
        slot = self._found(call)
        order = self.engine.order(slot)
        qty = self._checked(self.engine.parse_qty(index, call.text("qty").encode())) if call.text("qty") else order[12]
        px = self._checked(self.engine.parse_px(index, call.text("price").encode())) if call.text("price") else order[13]
        self._checked(self.engine.modify(call.account, slot, qty, px, call.now_ns))
        self.host.changed()
        return self._ids(slot)

    def cancel_all(self, call: Call) -> Any:
        gone: list[dict[str, str]] = []
        for index in self._some(call):
            slots = self.engine.open_orders(call.account, index)
            self.engine.cancel_all(call.account, index, call.now_ns)
            self.host.changed()
            gone += [self._ids(slot) for slot in slots]
        return {"list": gone, "success": "1"}

    def create_batch(self, call: Call) -> Any:
        return self._batch(call, self.create)

    def cancel_batch(self, call: Call) -> Any:
        return self._batch(call, self.cancel)

    def amend_batch(self, call: Call) -> Any:
        return self._batch(call, self.amend)

    def _batch(self, call: Call, one: Callable[[Call], Any]) -> Batch:
        """Each order by itself; its status stands beside the result, the whole is answered with 0."""
        kind, items = self._category(call), call.params.get("request")
        if not isinstance(items, list) or not 1 <= len(items) <= self.batch_max or not all(isinstance(i, dict) for i in items):
            raise Refused(10001, "request")
        rows, statuses = [], []
        for item in items:
            inner = Call({**item, "category": kind}, call.now_ns, call.owner)
            row = {"category": kind, "symbol": inner.text("symbol"), "orderId": "", "orderLinkId": inner.text("orderLinkId")}
            try:
                row.update(one(inner), createAt=str(call.now_ns // 10**6))
                statuses.append({"code": 0, "msg": "OK"})
            except Refused as refused:
                self.host.refused(call.owner, "batch", inner.text("symbol"), inner.text("orderLinkId"), refused.code,
                                  refused.message)  # fmt: skip
                statuses.append({"code": refused.code, "msg": refused.message})
            rows.append(row)
        return Batch({"list": rows}, {"list": statuses})

    # -- orders: asked for -----------------------------------------------------------------------------------------------
    def realtime(self, call: Call) -> Any:
        """Open orders, and of the closed ones the last 500 (``openOnly=1``, or asked for by id)."""
        self._category(call)
        if call.text("orderId") or call.text("orderLinkId"):
            order_id = self._named(call)
            rows = [] if order_id is None else self._by_number(call, order_id, lately=True)
        elif call.text("openOnly") in ("", "0"):
            rows = [self._order_row(slot) for index in self._some(call)
                    for slot in reversed(self.engine.open_orders(call.account, index)) if self._known(call, slot)]  # fmt: skip
        else:
            wanted = set(self._some(call))
            rows = [self._order_row(s) for s in self._closed(call.account) if self.engine.order(s)[3] in wanted
                    and self._known(call, s)]  # fmt: skip
        return self._order_page(call, rows)

    def history(self, call: Call) -> Any:
        """Closed orders, newest first; those without a fill for a day."""
        self._category(call)
        if call.text("orderId") or call.text("orderLinkId"):
            order_id = self._named(call)
            return self._order_page(call, [] if order_id is None else self._by_number(call, order_id, lately=False))
        start, end = span(call)
        rows: list[dict[str, Any]] = []
        for index in self._some(call):
            for slot in reversed(self.engine.orders_of(call.account, index, ROWS_MAX, since_ns=start)):
                order = self.engine.order(slot)
                closed = order[10] >= eng.STATUS_FILLED and start <= order[16] <= end
                if closed and self._kept(call, order) and self._known(call, slot):
                    rows.append(self._order_row(slot))
            rows += [p["row"] for p in self.phantoms.values() if p["account"] == call.account and p["symbol"] == index
                     and max(start, call.now_ns - UNFILLED_NS) <= p["ts"] <= min(end, call.seen_ns)]  # fmt: skip
        rows.sort(key=lambda row: int(row["createdTime"]), reverse=True)
        return self._order_page(call, rows)

    def _order_page(self, call: Call, rows: list[dict[str, Any]]) -> dict[str, Any]:
        size, start = call.whole("limit", 20, 50), offset(call)
        return {
            "category": self._category(call), "list": rows[start : start + size],
            "nextPageCursor": f"page_token%3D{start + size}%26" if start + size < len(rows) else "",
        }  # fmt: skip

    def _closed(self, account: int) -> list[int]:
        """Slots of the closed orders that the list of open ones still holds, newest first."""
        slots = reversed(self.engine.orders_of(account, -1, 4 * CLOSED_KEPT))
        return [slot for slot in slots if self.engine.order(slot)[10] >= eng.STATUS_FILLED][:CLOSED_KEPT]

    def _by_number(self, call: Call, order_id: int, lately: bool) -> list[dict[str, Any]]:
        if order_id in self.phantoms:
            one = self.phantoms[order_id]
            there = call.now_ns - UNFILLED_NS <= one["ts"] <= call.seen_ns
            return [one["row"]] if there and one["account"] == call.account else []
        slot = order_id - eng.ORDER_ID_BASE
        if not self._visible(slot, call.account) or not self._known(call, slot):
            return []
        order = self.engine.order(slot)
        is_open = order[10] < eng.STATUS_FILLED
        if lately:
            return [self._order_row(slot)] if is_open or slot in self._closed(call.account) else []
        return [self._order_row(slot)] if not is_open and self._kept(call, order) else []

    def _known(self, call: Call, slot: int) -> bool:
        """Whether a reader that lags knows it yet."""
        return self.engine.order(slot)[16] <= call.seen_ns

    @staticmethod
    def _kept(call: Call, order: tuple[Any, ...]) -> bool:
        """Whether the history still holds a closed order."""
        return order[17] >= call.now_ns - (HISTORY_NS if order[14] else UNFILLED_NS)

    def _order_row(self, slot: int, status: int = -1, cum: int = -1, value_e8: int = 0, at_ns: int = 0) -> dict[str, Any]:
        """An order as it is, or as it was after an event."""
        o = self.engine.order(slot)
        if status < 0:
            status, cum, value_e8, at_ns = o[10], o[14], o[15], o[17]
        reason = "EC_NoError"
        if status in (eng.STATUS_EXPIRED, eng.STATUS_EXPIRED_IN_MATCH):
            reason = "EC_CancelForNoFullFill" if cum else "EC_NoImmediateQtyToFill"
        row = self._row(
            self.host.instruments[o[3]], o[1], client_text(o[4], o[11]), o[5], o[7] == eng.TYPE_MARKET,
            eng.TIF_IOC if o[7] == eng.TYPE_MARKET else o[8], o[12], o[13], o[6],
            bool(o[11] & eng.FLAG_REDUCE_ONLY) or (bool(o[6]) and bool(o[11] & eng.FLAG_CLOSING)), STATUS[status], cum, value_e8,
            str(o[16] // 10**6), str(at_ns // 10**6), reason)  # fmt: skip
        if o[11] & eng.FLAG_LIQUIDATION:
            row["createType"] = "CreateByAdl_PassThrough" if o[4] == b"adl_autoclose" else "CreateByLiq"
        return row

    def _row(
        self, spec: Instrument, order_id: int, client: str, side: int, market: bool, tif: int, qty: int, px: int, pos_side: int,
        reduce: bool, status: str, cum: int, value_e8: int, created: str, updated: str, reason: str,
    ) -> dict[str, Any]:
        left = 0 if status in ("Filled", "Cancelled") else qty - cum
        return {
            "category": self.category, "symbol": spec.symbol, "orderId": order_text(order_id), "orderLinkId": client,
            "blockTradeId": "", "side": SIDE_NAMES[side], "positionIdx": pos_side, "orderStatus": status,
            "createType": "CreateByUser",
            "cancelType": "CancelByUser" if status == "Cancelled" and reason == "EC_NoError" else "UNKNOWN",
            "rejectReason": reason, "timeInForce": TIF_NAMES[tif], "isLeverage": "",
            "price": spec.price_text(px), "qty": spec.qty_text(qty),
            "avgPrice": average(value_e8, cum, spec) if cum else "", "leavesQty": spec.qty_text(left),
            "leavesValue": plain(left * px * spec.value_mul), "cumExecQty": spec.qty_text(cum), "cumExecValue": plain(value_e8),
            "cumExecFee": "0", "orderType": "Market" if market else "Limit", "stopOrderType": "", "orderIv": "",
            "triggerPrice": "", "takeProfit": "", "stopLoss": "", "triggerDirection": 0, "triggerBy": "",
            "lastPriceOnCreated": "", "reduceOnly": reduce, "closeOnTrigger": False, "smpType": "None", "smpGroup": 0,
            "smpOrderId": "", "tpslMode": "UNKNOWN", "placeType": "", "createdTime": created, "updatedTime": updated,
        }  # fmt: skip

    # -- executions, positions, balances ---------------------------------------------------------------------------------
    def executions(self, call: Call) -> Any:
        """Executions and funding, newest first; a window of at most seven days, the last seven when none is named."""
        kind = self._category(call)
        rows = sorted(self._executions(call), key=lambda pair: pair[0], reverse=True)
        if call.text("execType"):
            rows = [pair for pair in rows if pair[1]["execType"] == call.text("execType")]
        if before := [int(part) for part in CURSOR.findall(call.text("cursor").replace("%3A", ":").replace("%2C", ","))]:
            rows = [pair for pair in rows if pair[0] < tuple(before[:2])]
        size = call.whole("limit", 50, 100)
        last = rows[size - 1][0] if len(rows) > size else None
        return {
            "category": kind, "list": [row for _, row in rows[:size]],
            "nextPageCursor": f"{last[0]}%3A{last[1]}" if last is not None else "",
        }  # fmt: skip

    def _executions(self, call: Call) -> list[tuple[tuple[int, int], dict[str, Any]]]:
        """((ns, number), row) of everything a call asks for."""
        by_order = bool(call.text("orderId") or call.text("orderLinkId"))
        wanted = self._named(call) if by_order else None
        if by_order and wanted is None:
            return []
        start, end = (0, call.seen_ns) if by_order else span(call)
        end = min(end, call.seen_ns)
        found: list[tuple[tuple[int, int], dict[str, Any]]] = []
        indexes = self._some(call)
        for index in indexes:
            for t in self.engine.trades_of(call.account, index, ROWS_MAX, since_ns=start):
                if not start <= t[5] <= end:
                    continue
                order_id = t[8] if t[7] == call.account else t[13]
                if wanted is None or order_id == wanted:
                    found.append(((t[5], t[0]), self._trade_row(call.account, t)))
        if not by_order:
            for number, ts, _, symbol, kind, amount in self.engine.incomes_of(call.account, ROWS_MAX):
                if kind == eng.REASON_FUNDING_FEE and symbol in indexes and start <= ts <= end:
                    found.append(((ts, number), self._funding_row(call.account, symbol, ts, amount)))
        return found

    def _trade_row(self, account: int, t: tuple[int, ...]) -> dict[str, Any]:
        """A trade as one of its two sides has it."""
        buyer = t[7] == account
        order_id, fee = (t[8], t[9]) if buyer else (t[13], t[14])
        side = eng.SIDE_BUY if buyer else eng.SIDE_SELL
        return self._execution(account, t[2], order_id, t[1], side, t[3], t[4], t[5], t[6] != side, fee)

    def _execution(
        self, account: int, index: int, order_id: int, trade_id: int, side: int, px: int, qty: int, ts_ns: int, maker: bool,
        fee_e8: int,
    ) -> dict[str, Any]:
        spec, order = self.host.instruments[index], self.engine.order(order_id - eng.ORDER_ID_BASE)
        told = self.told.get((account, index, trade_id), Told(0, qty))
        liquidated, value = order[11] & eng.FLAG_LIQUIDATION, px * qty * spec.value_mul
        adl = bool(liquidated) and order[4] == b"adl_autoclose"
        return {
            "category": self.category, "symbol": spec.symbol, "orderId": order_text(order_id),
            "orderLinkId": client_text(order[4], order[11]), "side": SIDE_NAMES[side], "orderPrice": spec.price_text(order[13]),
            "orderQty": spec.qty_text(order[12]), "leavesQty": spec.qty_text(order[12] - told.cum),
            "createType": ("CreateByAdl_PassThrough" if adl else "CreateByLiq") if liquidated else "CreateByUser",
            "orderType": "Market" if order[7] == eng.TYPE_MARKET else "Limit", "stopOrderType": "UNKNOWN",
            "execFee": fixed(fee_e8, 8), "execId": exec_text(index, trade_id, account), "execPrice": spec.price_text(px),
            "execQty": spec.qty_text(qty), "execType": ("AdlTrade" if adl else "BustTrade") if liquidated else "Trade",
            "execValue": plain(value), "execTime": str(ts_ns // 10**6), "feeCurrency": "", "isMaker": maker,
            "feeRate": plain(fee_e8 * E8 // value) if value else "0", "tradeIv": "", "markIv": "",
            "markPrice": spec.price_text(self.engine.mark(index)), "indexPrice": "", "underlyingPrice": "", "blockTradeId": "",
            "closedSize": spec.qty_text(told.closed), "seq": trade_id, "extraFees": "",
        }  # fmt: skip

    def _funding_row(self, account: int, index: int, ts_ns: int, amount_e8: int) -> dict[str, Any]:
        spec = self.host.instruments[index]
        number = int.from_bytes(hashlib.blake2b(b"%d %d %d" % (account, index, ts_ns), digest_size=6).digest(), "big")
        return {
            "category": LINEAR, "symbol": spec.symbol, "orderId": f"{ts_ns // 10**9}-{index}-0-0", "orderLinkId": "",
            "side": "Buy", "orderPrice": "0", "orderQty": "0", "leavesQty": "0", "createType": "", "orderType": "UNKNOWN",
            "stopOrderType": "UNKNOWN", "execFee": fixed(-amount_e8, 8), "execId": f"f0000000-0000-4000-8000-{number:012x}",
            "execPrice": spec.price_text(self.engine.mark(index)), "execQty": "0", "execType": "Funding", "execValue": "0",
            "execTime": str(ts_ns // 10**6), "feeCurrency": "", "isMaker": False,
            "feeRate": plain(self.host.funding_rate_e8), "closedSize": "", "seq": 0,
        }  # fmt: skip

    def positions(self, call: Call) -> Any:
        """Of one symbol, flat or not; else those of the settlement coin that are not flat."""
        if self._category(call) == LINEAR and not call.text("symbol") and not call.text("settleCoin"):
            raise Refused(10001, "symbol or settleCoin is needed")
        wanted = self._some(call) if call.text("settleCoin") in ("", COIN) or call.text("symbol") else []
        sides = (eng.POS_LONG, eng.POS_SHORT) if self.engine.is_hedge(call.account) else (eng.POS_BOTH,)
        rows = [
            self._position_row(call.account, index, side)
            for index in wanted for side in sides
            if call.text("symbol") or self.engine.position(call.account, index, side)[0]
        ]  # fmt: skip
        size, start = call.whole("limit", 20, 200), offset(call)
        more = start + size < len(rows)
        return {
            "category": self._category(call), "list": rows[start : start + size],
            "nextPageCursor": f"first%3D{start + size}" if more else "",
        }  # fmt: skip

    def _position_row(self, account: int, index: int, pos_side: int, at_ns: int = 0) -> dict[str, Any]:
        spec = self.host.instruments[index]
        qty, cost, iso, realised, ts, upnl, liquidation = self.engine.position(account, index, pos_side)
        value, im, _, maint = self.engine.position_margins(account, index, pos_side)
        isolated = self.engine.account_config(account, index)[1] == eng.MARGIN_ISOLATED
        entry = average(abs(cost), abs(qty), spec) if qty else "0"
        at = str((at_ns or ts) // 10**6)
        return {
            "positionIdx": pos_side, "riskId": 1, "riskLimitValue": "2000000", "symbol": spec.symbol, "category": LINEAR,
            "side": SIDE_NAMES[1 if qty > 0 else -1] if qty else "", "size": spec.qty_text(abs(qty)), "avgPrice": entry,
            "entryPrice": entry, "positionValue": plain(abs(value)), "tradeMode": 0, "autoAddMargin": 0,
            "positionStatus": "Normal", "leverage": str(self.engine.account_config(account, index)[0]),
            "markPrice": spec.price_text(self.engine.mark(index)),
            "liqPrice": spec.price_text(liquidation) if liquidation else "", "bustPrice": "", "positionIM": plain(im),
            "positionMM": plain(maint), "positionBalance": plain(iso if isolated else im),
            "tpslMode": "Full", "takeProfit": "", "stopLoss": "", "trailingStop": "0", "unrealisedPnl": fixed(upnl, 8),
            "curRealisedPnl": fixed(realised, 8), "cumRealisedPnl": fixed(realised, 8), "adlRankIndicator": 0,
            "createdTime": at, "updatedTime": at, "seq": ts // 10**6 or -1, "isReduceOnly": False, "mmrSysUpdatedTime": "",
            "leverageSysUpdatedTime": "",
        }  # fmt: skip

    def _isolated(self, account: int) -> bool:
        return all(
            self.engine.account_config(account, index)[1] == eng.MARGIN_ISOLATED for index in range(len(self.host.instruments)))

    def _wallet_row(self, account: int) -> dict[str, Any]:
        """Balances; of an account with isolated margin the account-wide figures are empty."""
        wallet, _, cross_upnl, iso_upnl, position_im, order_im, maint, _, available, _ = self.engine.account_state(account)
        upnl = cross_upnl + iso_upnl
        wide = partial(self._wide, self._isolated(account))
        return {
            "accountType": "UNIFIED", "accountLTV": "", "accountIMRate": wide(position_im + order_im),
            "accountMMRate": wide(maint), "totalEquity": plain(wallet + upnl), "totalWalletBalance": wide(wallet),
            "totalMarginBalance": wide(wallet + upnl), "totalAvailableBalance": wide(available),
            "totalPerpUPL": wide(upnl), "totalInitialMargin": wide(position_im + order_im), "totalMaintenanceMargin": wide(maint),
            "coin": [{
                "coin": COIN, "equity": plain(wallet + upnl), "usdValue": plain(wallet + upnl), "walletBalance": plain(wallet),
                "borrowAmount": "0", "availableToBorrow": "", "availableToWithdraw": "", "accruedInterest": "0", "locked": "0",
                "totalOrderIM": plain(order_im), "totalPositionIM": plain(position_im), "totalPositionMM": plain(maint),
                "unrealisedPnl": plain(upnl), "cumRealisedPnl": "0", "bonus": "0", "collateralSwitch": True,
                "marginCollateral": True, "spotHedgingQty": "0",
            }],
        }  # fmt: skip

    @staticmethod
    def _wide(isolated: bool, amount_e8: int) -> str:
        return "" if isolated else plain(amount_e8)

    def wallet_balance(self, call: Call) -> Any:
        if call.need("accountType") != "UNIFIED":
            raise Refused(10001, "accountType only support UNIFIED.")
        self.host.note_equity(call.account, self._equity_e8(call.account), call.now_ns)
        return {"list": [self._wallet_row(call.account)]}

    def _equity_e8(self, account: int) -> int:
        wallet, _, cross_upnl, iso_upnl = self.engine.account_state(account)[:4]
        return wallet + cross_upnl + iso_upnl

    # -- the account -----------------------------------------------------------------------------------------------------
    def account_info(self, call: Call) -> Any:
        return {
            "marginMode": ISOLATED if self._isolated(call.account) else CROSS, "updatedTime": str(call.now_ns // 10**6),
            "unifiedMarginStatus": 6, "dcpStatus": "OFF", "timeWindow": 10, "smpGroup": 0, "isMasterTrader": False,
            "spotHedgingStatus": "OFF",
        }  # fmt: skip

    def set_margin_mode(self, call: Call) -> Any:
        """Account-wide: all symbols or none."""
        wanted = call.need("setMarginMode")
        if wanted not in (ISOLATED, CROSS):
            raise Refused(10001, "setMarginMode")
        target = eng.MARGIN_ISOLATED if wanted == ISOLATED else eng.MARGIN_CROSSED
        todo = [i for i in range(len(self.host.instruments)) if self.engine.account_config(call.account, i)[1] != target]
        done: list[int] = []
        for index in todo:
            code = self.engine.set_margin_type(call.account, index, target, call.now_ns)
            if code < 0:
                for back in done:
                    self.engine.set_margin_type(call.account, back, 1 - target, call.now_ns)
                raise self._engine_refused(code)
            done.append(index)
        self.host.changed()
        return {"reasons": []}

    def set_leverage(self, call: Call) -> Any:
        index = self._symbol(call)
        buy, sell = call.need("buyLeverage"), call.need("sellLeverage")
        if buy != sell and not self.engine.is_hedge(call.account):
            raise Refused(10001, "buy leverage not equal sell leverage")
        whole, _, part = buy.partition(".")
        if not digits(whole) or len(whole) > 4 or part.strip("0"):
            raise Refused(10001, "leverage invalid")
        if self.engine.account_config(call.account, index)[0] == int(whole):
            raise Refused(110043)
        self._checked(self.engine.set_leverage(call.account, index, int(whole), call.now_ns))
        self.host.changed()
        return {}

    def switch_mode(self, call: Call) -> Any:
        """The position mode; the engine keeps one for the whole account."""
        if self._category(call) != LINEAR or not (call.text("symbol") or call.text("coin") == COIN):
            raise Refused(10001, "symbol or coin is needed")
        mode = call.whole("mode", -1)
        if mode not in (0, 3):
            raise Refused(10001, "mode")
        self._checked(self.engine.set_position_mode(call.account, mode == 3, call.now_ns))
        self.host.changed()
        return {}

    def fee_rate(self, call: Call) -> Any:
        maker, taker = self.host.fees_ppm(call.account)
        return {"list": [
            {"symbol": self.host.instruments[i].symbol, "takerFeeRate": plain(taker * 100), "makerFeeRate": plain(maker * 100)}
            for i in self._some(call)
        ]}  # fmt: skip

    def transaction_log(self, call: Call) -> Any:
        """What changed the balance but no trade, newest first, of a window of at most seven days."""
        start, end = span(call, default_days=1)
        rows = []
        for number, (ts, symbol, kind, coin, amount) in enumerate(self._log_of(call.account)):
            name = LOG_TYPES.get(kind, "")
            if not name or not start <= ts <= end or (call.text("type") not in ("", name)):
                continue
            if call.text("currency") not in ("", coin):
                continue
            rows.append({
                "id": str(number), "symbol": self.host.instruments[symbol].symbol if symbol >= 0 else "",
                "category": self.category if symbol >= 0 else "", "side": "None", "transactionTime": str(ts // 10**6),
                "type": name, "qty": "0", "size": "0", "currency": coin, "tradePrice": "0",
                "funding": fixed(amount, 8) if name == "SETTLEMENT" else "", "fee": "0",
                "cashFlow": "0" if name == "SETTLEMENT" else fixed(amount, 8), "change": fixed(amount, 8), "cashBalance": "",
                "feeRate": "", "tradeId": "", "orderId": "", "orderLinkId": "",
            })  # fmt: skip
        rows.reverse()
        size, first = call.whole("limit", 20, 50), offset(call)
        more = first + size < len(rows)
        return {"list": rows[first : first + size], "nextPageCursor": f"first%3D{first + size}" if more else ""}

    def _log_of(self, account: int) -> list[tuple[int, int, int, str, int]]:
        """(ns, symbol or -1, REASON_*, coin, 1e-8 of it) of all that changed the balance, oldest first."""
        return [(ts, symbol, kind, COIN, amount)
                for _, ts, _, symbol, kind, amount in self.engine.incomes_of(account, ROWS_MAX)]  # fmt: skip

    def query_api(self, call: Call) -> Any:
        """What the key may do: what the control port gave it, over a trading key's usual rights."""
        assert call.owner is not None
        body = {
            "id": str(call.account), "note": call.owner.name, "apiKey": call.owner.api_key, "readOnly": 0, "secret": "",
            "permissions": PERMISSIONS, "ips": ["*"], "type": 1, "deadlineDay": 83, "expiredAt": "2027-02-20T00:00:00Z",
            "createdAt": "2026-11-20T00:00:00Z", "unified": 0, "uta": 1, "userID": 1_000_000 + call.account, "inviterID": 0,
            "vipLevel": "No VIP", "mktMakerLevel": "0", "affiliateID": 0, "rsaPublicKey": "", "isMaster": True, "parentUid": "0",
            "kycLevel": "LEVEL_DEFAULT", "kycRegion": "",
        }  # fmt: skip
        return {**body, **{name: value for name, value in call.owner.rights.items() if name in body}}

    def coin_info(self, call: Call) -> Any:
        chain = {
            "chain": "ETH", "chainType": "Ethereum (ERC20)", "confirmation": "12", "depositMin": "1", "withdrawMin": "10",
            "withdrawFee": "1", "minAccuracy": "6", "chainDeposit": "1", "chainWithdraw": "1", "withdrawPercentageFee": "0",
        }  # fmt: skip
        coins = [COIN, *(spec.base for spec in self.host.instruments)]
        wanted = [coin for coin in coins if call.text("coin") in ("", coin)]
        return {"rows": [{"name": coin, "coin": coin, "remainAmount": "1000000", "chains": [chain]} for coin in wanted]}

    # -- what the engine did ---------------------------------------------------------------------------------------------
    def events(self, events: list[tuple[int, ...]]) -> None:
        """Executions of one order that follow each other stand in one message; thin ones go out before whole ones."""
        at = 0
        while at < len(events):
            event = events[at]
            kind, account = event[0], event[1]
            if kind == eng.EV_TRADE:
                run, at = run_of(events, at)
                for public in (e for e in run if e[0] == eng.EV_PUBLIC_TRADE):
                    self._market_changed(public)
                self._traded(account, [e for e in run if e[0] == eng.EV_TRADE])
                continue
            if kind in (eng.EV_NEW, eng.EV_CANCELED, eng.EV_EXPIRED, eng.EV_AMENDED):
                self._order_changed(event, followed=at + 1 < len(events) and events[at + 1][0] == eng.EV_TRADE)
            elif kind == eng.EV_ACCOUNT:
                end = at + 1
                while end < len(events) and events[end][:2] == event[:2]:
                    end += 1
                self._account_changed(account, events[at:end])
                at = end
                continue
            elif kind in (eng.EV_BOOK, eng.EV_MARK, eng.EV_PUBLIC_TRADE):
                self._market_changed(event)
            at += 1

    def _traded(self, account: int, events: list[tuple[int, ...]]) -> None:
        if self.host.owner_of(account) is None:
            return
        rows = []
        for e in events:
            _, _, index, _, side, pos_side, _, maker, _, ts, order_id, px, qty, trade_id, cum = e[:15]
            self.told[account, index, trade_id] = Told(self._closed_by(account, index, side, pos_side, qty), cum)
            rows.append(self._execution(account, index, order_id, trade_id, side, px, qty, ts, bool(maker), e[16]))
        last = events[-1]
        client = rows[0]["orderLinkId"]
        thin = [{name: row[name] for name in THIN} | {"orderLinkId": "" if row["isMaker"] else client} for row in rows
                if row["execType"] == "Trade"]  # fmt: skip
        if thin:
            self._publish(account, "execution.fast", client, thin)
        self._publish(account, "execution", client, rows)
        order = self._order_row(last[3], last[6], last[14], last[15], last[9])
        self._publish(account, "order", client, [order])
        if last[6] == eng.STATUS_FILLED and last[3] % 4 == 0:  # the venue says the end of some orders twice
            self._publish(account, "order", client, [order])

    def _closed_by(self, account: int, index: int, side: int, pos_side: int, qty: int) -> int:
        """Lots of an execution that closed something."""
        if pos_side:
            return qty if (pos_side == eng.POS_LONG) == (side < 0) else 0
        before = self.net.get((account, index), 0)
        self.net[account, index] = before + side * qty
        return min(qty, abs(before)) if before * side < 0 else 0

    def _order_changed(self, event: tuple[int, ...], followed: bool) -> None:
        account, index, slot, pos_side = event[1], event[2], event[3], event[5]
        if self.host.owner_of(account) is None or slot < 0:
            return
        market = self.engine.order(slot)[7] == eng.TYPE_MARKET
        if event[0] == eng.EV_NEW and (followed or market):
            return  # what trades at once is first heard of with its trade
        row = self._order_row(slot, event[6], event[14], event[15], event[9])
        self._publish(account, "order", row["orderLinkId"], [row])
        self._order_came_or_went(account, index, pos_side, event[9])

    def _order_came_or_went(self, account: int, index: int, pos_side: int, ts_ns: int) -> None:
        """A position is told with every such order, changed or not."""
        self._publish(account, "position", "", [self._position_row(account, index, pos_side, ts_ns)])

    def _account_changed(self, account: int, events: list[tuple[int, ...]]) -> None:
        """What changed of an account at one moment, each thing a message of its own."""
        if self.host.owner_of(account) is None:
            return
        for event in events:
            index, pos_side, reason, ts = event[2], event[5], event[8], event[9]
            if reason == eng.REASON_FUNDING_FEE and index >= 0:
                self._publish(account, "execution", "", [self._funding_row(account, index, ts, event[20])])
            if index >= 0:
                self._publish(account, "position", "", [self._position_row(account, index, pos_side, ts)])
            self._publish(account, "wallet", "", [self._wallet_row(account)])

    def _publish(self, account: int, topic: str, client: str, rows: list[dict[str, Any]]) -> None:
        """To the account's connections that asked for the topic, plainly or of the category."""
        conns = self.private.get(account)
        owner = self.host.owner_of(account)
        if not conns or owner is None:
            return
        now = self.host.server_ns() // 10**6
        for conn in list(conns):
            name = next((n for n in (topic, f"{topic}.{self.category}") if n in conn.state.topics), None)
            if name is None:
                continue
            self.n_sent += 1
            message = {"id": f"{account}-{self.n_sent}", "topic": name, "creationTime": now, "data": rows}
            if topic == "execution.fast":
                del message["id"]
            self.host.publish(conn, owner, topic, client, orjson.dumps(message))

    # -- public streams --------------------------------------------------------------------------------------------------
    def _first(self, conn: Conn, topic: str) -> None:
        """What a new subscriber is told at once."""
        kind, _, rest = topic.partition(".")
        index = self.host.symbols[rest.rpartition(".")[2]]
        if kind == "orderbook":
            conn.send(self._book_text(topic, index))
        elif kind == "tickers":
            conn.send(self._public_text(topic, "snapshot", self._ticker(index)))

    def _public_text(self, topic: str, kind: str, data: Any) -> bytes:
        now = self.host.server_ns() // 10**6
        return orjson.dumps({"topic": topic, "type": kind, "data": data, "cs": self.n_sent, "ts": now})

    def _book_text(self, topic: str, index: int) -> bytes:
        return self._public_text(topic, "snapshot", self._book(index, int(topic.split(".")[1])))

    def _market_changed(self, event: tuple[int, ...]) -> None:
        kind, index = event[0], event[2]
        spec = self.host.instruments[index]
        if kind == eng.EV_BOOK:
            for depth in DEPTHS:
                if conns := self.public.get(topic := f"orderbook.{depth}.{spec.symbol}"):
                    send_all(conns, self._book_text(topic, index))
        elif kind == eng.EV_MARK:
            if conns := self.public.get(topic := f"tickers.{spec.symbol}"):
                send_all(conns, self._marked(topic, index, event[11]))
        elif conns := self.public.get(topic := f"publicTrade.{spec.symbol}"):
            row = {
                "T": event[9] // 10**6, "s": spec.symbol, "S": SIDE_NAMES[event[4]], "v": spec.qty_text(event[12]),
                "p": spec.price_text(event[11]), "L": "PlusTick", "i": exec_text(index, event[13], 0), "BT": False,
            }  # fmt: skip
            send_all(conns, self._public_text(topic, "snapshot", [row]))


    def _marked(self, topic: str, index: int, px: int) -> bytes:
        """What the ticker says of a new mark."""
        spec = self.host.instruments[index]
        changed = {"symbol": spec.symbol, "markPrice": fixed(px * spec.tick_e8, spec.price_precision)}
        return self._public_text(topic, "delta", changed)


class Batch(msgspec.Struct, frozen=True):
    """The result of a batch, and the status of each of its orders."""

    result: Any
    ext: Any


#: Rights of a usual trading key.
PERMISSIONS: dict[str, list[str]] = {
    "ContractTrade": ["Order", "Position"], "Spot": ["SpotTrade"], "Wallet": [], "Options": [],
    "Derivatives": ["DerivativesTrade"], "CopyTrading": [], "BlockTrade": [], "Exchange": [], "NFT": [], "Affiliate": [],
    "Earn": [],
}  # fmt: skip
#: What of an execution the thin message says.
THIN = ("category", "symbol", "execId", "execPrice", "execQty", "orderId", "isMaker", "side", "execTime", "seq")


def run_of(events: list[tuple[int, ...]], at: int) -> tuple[list[tuple[int, ...]], int]:
    """The executions of one order from there on, with what is public of them between; and where they end."""
    slot, end = events[at][3], at + 1
    while end < len(events):
        kind, of = events[end][0], events[end][3]
        if kind != eng.EV_PUBLIC_TRADE and (kind, of) != (eng.EV_TRADE, slot):
            break
        end += 1
    return events[at:end], end


def request_is_query(name: str) -> bool:
    """Whether a lagging reader could answer it."""
    return name in ("GET /v5/order/realtime", "GET /v5/order/history", "GET /v5/execution/list")


def sign(secret: bytes, text: bytes) -> str:
    """HMAC-SHA256, hex."""
    return hmac.digest(secret, text, hashlib.sha256).hex()


def same(ours: str, given: str) -> bool:
    """Whether a signature is the right one."""
    return hmac.compare_digest(ours.encode(), given.encode("utf-8", "surrogateescape"))


def digits(text: str) -> bool:
    """Whether it is a number of at most 18 digits and nothing else."""
    return text.isascii() and text.isdigit() and len(text) <= 18


def json_object(text: bytes) -> dict[str, Any]:
    """A JSON object; refused when it is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Refused(10001, "invalid json") from None
    if not isinstance(value, dict):
        raise Refused(10001, "invalid json")
    return value


def one_argument(asked: dict[str, Any]) -> dict[str, Any]:
    """The one element of ``args``."""
    args = asked.get("args")
    if not isinstance(args, list) or len(args) != 1 or not isinstance(args[0], dict):
        raise Refused(10001, "args")
    return args[0]


def first_arg(asked: dict[str, Any]) -> str:
    args = asked.get("args")
    return str(args[0]) if isinstance(args, list) and args else ""


def stamps(head: dict[str, Any]) -> tuple[str, str]:
    """Timestamp and window of an order's header; numbers are taken for their digits."""
    names = {str(name).lower(): str(value) for name, value in head.items()}
    return names.get("x-bapi-timestamp", ""), names.get("x-bapi-recv-window", "") or str(RECV_WINDOW_MS)


def span(call: Call, default_days: int = WINDOW_DAYS_MAX) -> tuple[int, int]:
    """The window a call names, ns: at most seven days, with one end the other follows."""
    start, end = (call.whole(name, 0, TIME_MAX_MS) * 10**6 for name in ("startTime", "endTime"))
    width = WINDOW_DAYS_MAX * DAY_NS
    if start and end:
        if end - start > width or end < start:
            raise Refused(10001, "the window is longer than 7 days")
        return start, end + 10**6 - 1
    if start:
        return start, start + width
    if end:
        return end - width, end + 10**6 - 1
    return call.now_ns - default_days * DAY_NS, call.now_ns


def offset(call: Call) -> int:
    """Where a page begins, by its cursor."""
    found = CURSOR.search(call.text("cursor").replace("%3D", "=").replace("%26", "&"))
    return int(found[1]) if found else 0


def active_time(query: str) -> float:
    """``max_active_time`` of a private connection, s: 30 to 600; 0 = not asked for."""
    text = (parse_qs(query).get("max_active_time") or [""])[0]
    match = re.fullmatch(r"(\d{1,4})([sm])", text, re.ASCII)
    if match is None:
        return 0.0
    return float(min(600, max(30, int(match[1]) * (60 if match[2] == "m" else 1))))


def order_text(order_id: int) -> str:
    """An order's name: of the form of a UUID, its number in the end of it."""
    return f"00000000-0000-4000-8000-{order_id:012x}"


def order_number(text: str) -> int | None:
    match = UUID.fullmatch(text)
    return int(match[1], 16) if match else None


def exec_text(index: int, trade_id: int, account: int) -> str:
    """An execution's name."""
    return f"{trade_id & 0xFFFFFFFF:08x}-{index:04x}-{trade_id >> 32 & 0xFFF | 0x4000:04x}-8000-{account:012x}"


def client_text(client_id: bytes, flags: int) -> str:
    """The id its owner gave an order; "" when he gave none."""
    return "" if client_id.startswith(NAMELESS) or flags & eng.FLAG_LIQUIDATION else client_id.decode()


def average(value_e8: int, qty: int, spec: Instrument) -> str:
    """An average price, to 1e-8."""
    return plain(value_e8 * E8 // (qty * spec.lot_e8))


def plain(value_e8: int) -> str:
    """A 1e-8 number without trailing zeros."""
    return fixed(value_e8, 8).rstrip("0").rstrip(".")


def send_all(conns: Iterable[Conn], text: bytes) -> None:
    for conn in list(conns):
        conn.send(text)
