"""The Bitget dialect: REST of API v2 (classic accounts) and v3 (unified ones), private and public sockets of both.

An account is classic unless its rights say ``{"unified": true}``; then v2 answers 40085 to everything private, before it looks at
the signature. Other rights are the venue's own words: ``authorities`` (v2), ``permissions`` and ``permType`` (v3), ``ips``.
Margin types, leverages and positions are the engine's. On a two-sided account v2's orders and lists name the position in ``side``
(a long is opened and closed with "buy"), its fill channel names what was done, and so does v3 everywhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
import orjson

from copyd._fast import sim_engine as eng
from copyd.exchange.dialect import Answer, Conn, Host, Owner, Request, Terms, Work
from copyd.exchange.model import E8, Instrument, fixed

PRODUCT = "USDT-FUTURES"
CLOCK_TOLERANCE_MS = 30_000
CLIENT_ID = re.compile(r"[0-9A-Za-z_:#+-]{1,32}")
AUTHORITIES = ["coor", "coow", "cpor", "cpow", "stor", "stow"]
PERMISSIONS = ["uta_trade"]
DAY_NS = 86_400 * 10**9
HISTORY_NS = 90 * DAY_NS
ALL = 1_000_000
BATCH_MAX = 20
FINAL = 2  # statuses of the engine from here on are final

TIF = {"": eng.TIF_GTC, "gtc": eng.TIF_GTC, "ioc": eng.TIF_IOC, "fok": eng.TIF_FOK, "post_only": eng.TIF_GTX}
FORCE = ("gtc", "ioc", "fok", "post_only")
STATUS = ("live", "partially_filled", "filled", "canceled", "canceled", "canceled")
POSITION = {"": eng.POS_BOTH, "long": eng.POS_LONG, "short": eng.POS_SHORT}
HELD = ("net", "long", "short")

#: Codes of the venue by those of the engine: of v2 and of v3.
REFUSALS: dict[int, tuple[str, str, str]] = {
    -1121: ("40072", "25100", "symbol {0} is Invalid or not supported mix contract trade"),
    -1100: ("40017", "400172", "Parameter verification failed"),
    -1111: ("40808", "25610", "Parameter verification exception"),
    -2019: ("40762", "25203", "The order amount exceeds the balance"),
    -2022: ("22002", "25227", "No position to close"),
    -2025: ("45118", "25211", "Reached the upper limit of the order of transactions"),
    -2027: ("40921", "25233", "The order size cannot exceed the maximum size of the positionLevel"),
    -2028: ("40893", "25228", "Unable to update the leverage factor of this position, there is not enough margin!"),
    -4001: ("40706", "25205", "Wrong order price"),
    -4002: ("43009", "25206", "The current order price exceeds the limit"),
    -4003: ("40017", "400172", "Parameter verification failed size"),
    -4004: ("45111", "25207", "less than the minimum order quantity"),
    -4005: ("45112", "25208", "more than the maximum order quantity"),
    -4013: ("43008", "25205", "The current order price cannot be less than the minimum"),
    -4014: ("45115", "25244", "The price you enter should be a multiple of the step"),
    -4015: ("40305", "400172", "clientOid or clientOrderId length cannot greater than 64, and cannot be Martian characters"),
    -4016: ("40815", "25206", "The order price is higher than the highest bid price"),
    -4023: ("22038", "25610", "Please enter the quantity as an integral multiple of the step"),
    -4024: ("40816", "25205", "The order price is lower than the lowest selling price"),
    -4028: ("45045", "25223", "Exceeds the maximum possible leverage"),
    -4047: ("45117", "25240", "Currently holding positions or orders, the margin mode cannot be adjusted"),
    -4048: ("45117", "25240", "Currently holding positions or orders, the margin mode cannot be adjusted"),
    -4061: ("40774", "25236", "The order type for unilateral position must also be the unilateral position type."),
    -4067: ("40920", "25010", "Position or order exists, the position mode cannot be switched"),
    -4068: ("40920", "25010", "Position or order exists, the position mode cannot be switched"),
    -4116: ("40786", "25212", "Duplicate clientOid"),
    -4131: ("40826", "25210", "Due to excessive price fluctuations, the market order cost is insufficient"),
    -4161: ("22020", "25228", "The leverage multiple cannot be adjusted with this position"),
    -4164: ("45110", "25611", "less than the minimum amount {0} USDT"),
    -5021: ("40812", "25200", "The condition is not met"),
    -5022: ("40812", "25200", "The condition is not met"),
}


class Refused(Exception):
    """A refusal in the venue's words."""

    def __init__(self, code: str, message: str, status: int = 400, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.headers = code, message, status, headers or {}


class Call(msgspec.Struct):
    """One request, understood. ``lag_ns``: orders and executions younger than this are not seen (a stale reader)."""

    params: dict[str, Any]
    owner: Owner | None
    now_ns: int
    v3: bool = False
    lag_ns: int = 0
    items: list[Any] = []

    def text(self, name: str, default: str = "") -> str:
        value = self.params.get(name)
        return default if value is None else str(value)

    def need(self, name: str) -> str:
        value = self.text(name)
        if not value:
            raise Refused("400172" if self.v3 else "40019", f"Parameter {name} cannot be empty")
        return value

    def whole(self, name: str, default: int) -> int:
        text = self.text(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise Refused("40017", f"Parameter verification failed {name}")
        return int(text)

    @property
    def account(self) -> int:
        assert self.owner is not None  # the router let only owners in
        return self.owner.account


class Route(msgspec.Struct, frozen=True):
    """What answers a request; ``signed``: to an account only; ``per_s``: how often one account may ask; ``rule``: its name for
    fault rules, "" = the request itself; ``trade``: the key needs the right to trade."""

    handler: Callable[[Call], Any]
    signed: bool = True
    per_s: int = 10
    rule: str = ""
    trade: bool = False


class Session(msgspec.Struct):
    """What is known of a connection: its address, and what it has subscribed to: (instType, channel, instrument)."""

    v3: bool
    private: bool
    subscribed: set[tuple[str, str, str]] = set()


class Dialect:
    """See the module.

    What another market of the venue says otherwise: ``product`` and ``topic`` (what its requests and v3's sockets call it),
    ``refusals``, ``unknown_symbol`` and ``batch_max`` of its orders, ``authorities`` of which a key needs one to trade, and the
    methods that write its instruments, orders, executions and balances.
    """

    name = "bitget"
    terms = Terms(idle_s=120.0, idle_close=(1000, "no ping"), life_s=86_400.0)
    product = PRODUCT
    topic = "usdt-futures"
    refusals = REFUSALS
    unknown_symbol = "40072"
    batch_max = BATCH_MAX
    authorities = frozenset({"coow", "trade"})

    def __init__(self, host: Host) -> None:
        self.host, self.engine = host, host.engine
        self.places = [_places(spec) for spec in host.instruments]
        self.private: dict[int, list[Conn]] = {}
        self.public: list[Conn] = []
        windows = host.windows
        windows.define("address", 6_000, 60_000)
        windows.define("orders", 10, 1_000, sliding=True)
        for per_s in (1, 5, 10, 20):
            windows.define(f"requests_{per_s}", per_s, 1_000, sliding=True)
        windows.define("connects", 300, 300_000, sliding=True)
        windows.define("connections", 100, 1_000)  # open at a time: counted, not taken
        windows.define("messages", 10, 1_000)
        self.routes: dict[str, Route] = {}
        self._public_routes()
        self._routes_v2()
        self._routes_v3()

    def _public_routes(self) -> None:
        r = self.routes
        r["GET /api/v2/public/time"] = Route(lambda c: {"serverTime": str(c.now_ns // 10**6)}, signed=False)
        r["GET /api/v2/mix/market/contracts"] = Route(self.contracts, signed=False)
        r["GET /api/v2/mix/market/ticker"] = Route(lambda c: [self.ticker(self.symbol(c), c.now_ns)], signed=False)
        r["GET /api/v2/mix/market/tickers"] = Route(self.tickers, signed=False)
        r["GET /api/v2/mix/market/merge-depth"] = Route(self.depth, signed=False)
        r["GET /api/v2/mix/market/current-fund-rate"] = Route(self.fund_rate, signed=False)
        for nothing in ("spot/public/symbols", "spot/public/coins", "margin/currencies"):
            r[f"GET /api/v2/{nothing}"] = Route(lambda c: [], signed=False)
        r["GET /api/v3/market/instruments"] = Route(self.instruments_v3, signed=False)
        r["GET /api/v3/market/tickers"] = Route(self.tickers_v3, signed=False)

    def _routes_v2(self) -> None:
        r = self.routes
        r["GET /api/v2/spot/account/info"] = Route(self.key_v2, per_s=1)
        r["GET /api/v2/spot/account/assets"] = Route(lambda c: [])
        r["POST /api/v2/mix/order/place-order"] = Route(self.place_v2, rule="place", trade=True)
        r["POST /api/v2/mix/order/batch-place-order"] = Route(self.batch_v2, per_s=5, rule="place", trade=True)
        r["POST /api/v2/mix/order/cancel-order"] = Route(self.cancel, rule="cancel", trade=True)
        r["POST /api/v2/mix/order/batch-cancel-orders"] = Route(self.cancel_many, rule="cancel", trade=True)
        r["POST /api/v2/mix/order/cancel-all-orders"] = Route(self.cancel_many, rule="cancel", trade=True)
        r["GET /api/v2/mix/order/detail"] = Route(self.detail, rule="query")
        r["GET /api/v2/mix/order/orders-pending"] = Route(partial(self.orders, open_=True), rule="query")
        r["GET /api/v2/mix/order/orders-history"] = Route(partial(self.orders, open_=False), rule="query")
        r["GET /api/v2/mix/order/fills"] = Route(self.fills, rule="query")
        r["GET /api/v2/mix/order/fill-history"] = Route(self.fills, rule="query")
        r["GET /api/v2/mix/position/all-position"] = Route(self.positions, per_s=5)
        r["GET /api/v2/mix/position/single-position"] = Route(self.positions)
        r["GET /api/v2/mix/account/account"] = Route(self.account_v2)
        r["GET /api/v2/mix/account/accounts"] = Route(lambda c: [self.money_v2(c)])
        r["GET /api/v2/mix/account/bill"] = Route(self.bills)
        r["POST /api/v2/mix/account/set-position-mode"] = Route(self.set_mode_v2, per_s=5, trade=True)
        r["POST /api/v2/mix/account/set-margin-mode"] = Route(self.set_margin_v2, per_s=5, trade=True)
        r["POST /api/v2/mix/account/set-leverage"] = Route(self.set_leverage_v2, per_s=5, trade=True)

    def _routes_v3(self) -> None:
        r = self.routes
        r["GET /api/v3/account/settings"] = Route(self.settings_v3, per_s=20)
        r["GET /api/v3/account/info"] = Route(self.key_v3, per_s=5)
        r["GET /api/v3/account/assets"] = Route(self.assets_v3, per_s=20)
        r["GET /api/v3/account/financial-records"] = Route(self.bills, per_s=20)
        r["POST /api/v3/account/set-leverage"] = Route(self.set_leverage_v3, trade=True)
        r["POST /api/v3/account/set-hold-mode"] = Route(self.set_mode_v3, trade=True)
        r["POST /api/v3/trade/place-order"] = Route(self.place_v3, rule="place", trade=True)
        r["POST /api/v3/trade/place-batch"] = Route(self.batch_v3, per_s=5, rule="place", trade=True)
        r["POST /api/v3/trade/cancel-order"] = Route(self.cancel, rule="cancel", trade=True)
        r["POST /api/v3/trade/cancel-symbol-order"] = Route(self.cancel_many, rule="cancel", trade=True)
        r["GET /api/v3/trade/order-info"] = Route(self.detail, per_s=20, rule="query")
        r["GET /api/v3/trade/unfilled-orders"] = Route(partial(self.orders, open_=True), per_s=20, rule="query")
        r["GET /api/v3/trade/history-orders"] = Route(partial(self.orders, open_=False), per_s=20, rule="query")
        r["GET /api/v3/trade/fills"] = Route(self.fills, per_s=20, rule="query")
        r["GET /api/v3/position/current-position"] = Route(self.positions, per_s=20)

    # -- REST ---------------------------------------------------------------------------------------------------------------

    def rest(self, request: Request) -> Work:
        """A request; a refusal is a ``Work`` whose ``run`` gives the refusal."""
        host, name = self.host, f"{request.method} {request.path}"
        unknown = self._refusal(Refused("40015", "System is abnormal, please try again later", 500), request)
        try:
            if host.windows.take("address", request.ip, host.now_ns()):
                raise Refused("429", "Too many requests", 429)
            route = self.routes.get(name)
            if route is None:
                raise Refused("40404", "Request URL NOT FOUND", 404)
            call = self._call(request)
            if not route.signed:
                return Work(lambda: self._answer(request, route.handler(call)))
            call.owner = self._owner(request, call.v3)
            self._limited(route, request, call)
        except Refused as refused:
            return Work(partial(self._refusal, refused, request))
        return Work(
            partial(self._do, route, request, call), call.owner, route.rule or name, call.text("symbol"), call.text("clientOid"),
            unknown, self._refusal(Refused("41114", "The current trading pair is under maintenance"), request),
            self._refusal(Refused("429", "Too many requests", 429), request),
            stale=partial(self._stale, route, request, call) if route.rule == "query" else None,
        )  # fmt: skip

    def _call(self, request: Request) -> Call:
        v3 = request.path.startswith("/api/v3/")
        params: Any = dict(parse_qsl(request.query, keep_blank_values=True))
        if request.method == "POST":
            try:
                params = orjson.loads(request.body or b"{}")
            except orjson.JSONDecodeError:
                raise Refused("400172" if v3 else "40017", "Parameter verification failed") from None
        items = params if isinstance(params, list) else []
        first = items[0] if items and isinstance(items[0], dict) else {}
        return Call(params if isinstance(params, dict) else first, None, request.now_ns, v3, 0, items)

    def _owner(self, request: Request, v3: bool) -> Owner:
        """Whose request it is, in the venue's order of checks."""
        h = request.headers
        for name, code in (("access-key", "40001"), ("access-sign", "40002"), ("access-timestamp", "40005"),
                           ("access-passphrase", "40011")):  # fmt: skip
            if not h.get(name):
                raise Refused(code, f"{name.upper()} cannot be empty")
        stamp = h["access-timestamp"]
        if not stamp.isascii() or not stamp.isdigit() or len(stamp) > 15:
            raise Refused("40005", "Invalid ACCESS_TIMESTAMP")
        if abs(request.now_ns // 10**6 - int(stamp)) > CLOCK_TOLERANCE_MS:
            raise Refused("40008", "Request timestamp expired")
        owner = self.host.owner(h["access-key"])
        if owner is None:
            raise Refused("40037", "Apikey does not exist")
        unified = bool(owner.rights.get("unified"))
        if unified and not v3:
            raise Refused("40085", "You are in Unified Account mode, and the Classic Account API is not supported at this time")
        query = f"?{unquote(request.query)}" if request.query else ""
        signed = f"{stamp}{request.method}{request.path}{query}".encode() + request.body
        if not hmac.compare_digest(sign(owner.secret, signed), h["access-sign"]):
            raise Refused("40009", "sign signature error")
        self._let_in(owner, h["access-passphrase"], request.ip)
        if v3 and not unified:
            raise Refused("25245", "The account is not the unified account mode")
        return owner

    def _let_in(self, owner: Owner, passphrase: str, ip: str) -> None:
        if not hmac.compare_digest(passphrase.encode(), owner.passphrase.encode()):
            raise Refused("40012", "apikey/password is incorrect")
        ips = [one.strip() for one in str(owner.rights.get("ips", "")).split(",") if one.strip()]
        if ips and ip not in ips:
            raise Refused("40038", "The current ip is not in the apikey ip whitelist")

    def _limited(self, route: Route, request: Request, call: Call) -> None:
        """Refuse what is above the account's limits, and a key without the right to trade."""
        owner, windows, now = call.owner, self.host.windows, self.host.now_ns()
        assert owner is not None
        if route.trade and not self._may_trade(owner, call.v3):
            raise Refused("25620" if call.v3 else "40014", "Incorrect permissions, need trade permissions")
        named = call.params.get("orderList")
        many = len(call.items) or (len(named) if isinstance(named, list) else 0) or 1
        if route.rule == "place":
            wait = windows.take("orders", owner.account, now, many)
        else:
            wait = windows.take(f"requests_{route.per_s}", (owner.account, request.path), now)
        if wait:
            raise Refused("429", "Too many requests", 429)

    def _may_trade(self, owner: Owner, v3: bool) -> bool:
        if v3:
            writes = owner.rights.get("permType", "read-and-write") == "read-and-write"
            return writes and "uta_trade" in owner.rights.get("permissions", PERMISSIONS)
        return bool(self.authorities & set(owner.rights.get("authorities", AUTHORITIES)))

    def _do(self, route: Route, request: Request, call: Call) -> Answer:
        try:
            return self._answer(request, route.handler(call))
        except Refused as refused:
            self._note(call, route.rule or request.path, refused)
            return self._refusal(refused, request)

    def _stale(self, route: Route, request: Request, call: Call, lag_ms: int) -> Answer:
        return self._do(route, request, msgspec.structs.replace(call, lag_ns=lag_ms * 10**6))

    def _note(self, call: Call, method: str, refused: Refused) -> None:
        code = int(refused.code) if refused.code.isdigit() else 0
        self.host.refused(call.owner, method, call.text("symbol"), call.text("clientOid"), code, refused.message)

    def _answer(self, request: Request, data: Any) -> Answer:
        body = {"code": "00000", "msg": "success", "requestTime": self.host.server_ns() // 10**6, "data": data}
        return Answer(orjson.dumps(body), 200, self._left(request))

    def _refusal(self, refused: Refused, request: Request) -> Answer:
        body = {"code": refused.code, "msg": refused.message, "requestTime": self.host.server_ns() // 10**6, "data": None}
        return Answer(orjson.dumps(body), refused.status, {**self._left(request), **refused.headers})

    def _left(self, request: Request) -> dict[str, str]:
        return {"x-mbx-used-remain-limit": str(self.host.windows.left("address", request.ip, self.host.now_ns()))}

    # -- instruments and market -------------------------------------------------------------------------------------------------

    def symbol(self, call: Call) -> int:
        """The instrument a request names."""
        index = self.host.symbols.get(call.need("symbol").upper())
        if index is None or not self._is_ours(call):
            raise Refused("25100" if call.v3 else self.unknown_symbol, f"symbol {call.text('symbol')} is Invalid")
        return index

    def _is_ours(self, call: Call) -> bool:
        """Whether a request is about what is traded here; one that does not say is."""
        return call.text("category" if call.v3 else "productType", self.product).upper() == self.product

    def some(self, call: Call) -> list[int]:
        """The instrument a request names, else all; none of a product that is not here."""
        if not self._is_ours(call):
            return []
        return [self.symbol(call)] if call.text("symbol") else list(range(len(self.host.instruments)))

    def price(self, index: int, px: int) -> str:
        """A price in ticks as the venue writes it."""
        return fixed(px * self.host.instruments[index].tick_e8, self.places[index][0])

    def size(self, index: int, qty: int) -> str:
        """A quantity in lots as the venue writes it."""
        return short(self.host.instruments[index].qty_text(qty))

    def contracts(self, call: Call) -> Any:
        return [self._contract(index) for index in self.some(call)]

    def _contract(self, index: int) -> dict[str, Any]:
        spec, (price_place, price_step, volume_place) = self.host.instruments[index], self.places[index]
        return {
            "symbol": spec.symbol, "baseCoin": spec.base, "quoteCoin": spec.quote,
            "buyLimitPriceRatio": short(fixed((spec.up_ppm - 10**6) * 100, 6)),
            "sellLimitPriceRatio": short(fixed((10**6 - spec.down_ppm) * 100, 6)), "feeRateUpRatio": "0.005",
            "makerFeeRate": "0.0002", "takerFeeRate": "0.0006", "openCostUpRatio": "0.01", "supportMarginCoins": [spec.quote],
            "minTradeNum": self.size(index, spec.min_qty), "priceEndStep": str(price_step), "volumePlace": str(volume_place),
            "pricePlace": str(price_place), "sizeMultiplier": self.size(index, 1), "symbolType": "perpetual",
            "minTradeUSDT": short(fixed(spec.min_notional_e8, 8)), "maxSymbolOrderNum": str(spec.max_orders),
            "maxProductOrderNum": "1000", "maxPositionNum": "150", "symbolStatus": "normal", "offTime": "-1",
            "limitOpenTime": "-1", "deliveryTime": "", "deliveryStartTime": "", "deliveryPeriod": "", "launchTime": "",
            "fundInterval": "8", "minLever": "1", "maxLever": str(spec.max_leverage), "posLimit": "0.05", "maintainTime": "",
            "maxMarketOrderQty": self.size(index, spec.market_max_qty), "maxOrderQty": self.size(index, spec.max_qty),
        }  # fmt: skip

    def instruments_v3(self, call: Call) -> Any:
        return [self._instrument_v3(index) for index in self.some(call)]

    def _instrument_v3(self, index: int) -> dict[str, Any]:
        spec, (price_place, _, volume_place) = self.host.instruments[index], self.places[index]
        old = self._contract(index)
        kept = ("symbol", "baseCoin", "quoteCoin", "buyLimitPriceRatio", "sellLimitPriceRatio", "makerFeeRate", "takerFeeRate",
                "feeRateUpRatio", "openCostUpRatio", "maxSymbolOrderNum", "maxProductOrderNum", "maxPositionNum", "offTime",
                "limitOpenTime", "deliveryTime", "deliveryStartTime", "deliveryPeriod", "launchTime", "fundInterval",
                "maintainTime", "maxMarketOrderQty", "maxOrderQty")  # fmt: skip
        return {name: old[name] for name in kept} | {
            "category": PRODUCT, "minOrderQty": old["minTradeNum"], "minOrderAmount": old["minTradeUSDT"],
            "pricePrecision": str(price_place), "quantityPrecision": str(volume_place), "quotePrecision": "",
            "priceMultiplier": self.price(index, 1), "quantityMultiplier": self.size(index, 1), "type": "perpetual",
            "status": "online", "minLeverage": "1", "maxLeverage": str(spec.max_leverage), "symbolType": "crypto", "isRwa": "NO",
        }  # fmt: skip

    def ticker(self, index: int, now_ns: int) -> dict[str, Any]:
        """One instrument's ticker, as v2 writes it."""
        bid, bid_qty, ask, ask_qty = self.engine.top(index)
        mark = self.engine.mark(index)
        last = self.price(index, self.engine.last_price(index) or mark)
        return {
            "instId": self.host.instruments[index].symbol, "symbol": self.host.instruments[index].symbol, "lastPr": last,
            "bidPr": self.price(index, bid) if bid else "", "askPr": self.price(index, ask) if ask else "",
            "bidSz": self.size(index, bid_qty), "askSz": self.size(index, ask_qty), "open24h": last, "high24h": last,
            "low24h": last, "change24h": "0", "fundingRate": short(fixed(self.host.funding_rate_e8, 8)),
            "nextFundingTime": str(self.host.next_funding_ms(now_ns)), "markPrice": self.price(index, mark),
            "indexPrice": self.price(index, mark), "holdingAmount": "0", "baseVolume": "0", "quoteVolume": "0", "openUtc": last,
            "symbolType": "1", "deliveryPrice": "0", "ts": str(now_ns // 10**6),
        }  # fmt: skip

    def tickers(self, call: Call) -> Any:
        return [self.ticker(index, call.now_ns) for index in self.some(call)]

    def tickers_v3(self, call: Call) -> Any:
        return [self._ticker_v3(index, call.now_ns) for index in self.some(call)]

    def _ticker_v3(self, index: int, now_ns: int) -> dict[str, Any]:
        row = self.ticker(index, now_ns)
        return {
            "category": PRODUCT, "symbol": row["symbol"], "lastPrice": row["lastPr"], "bid1Price": row["bidPr"],
            "ask1Price": row["askPr"], "bid1Size": row["bidSz"], "ask1Size": row["askSz"], "openPrice24h": row["open24h"],
            "highPrice24h": row["high24h"], "lowPrice24h": row["low24h"], "price24hPcnt": "0", "volume24h": "0",
            "turnover24h": "0", "markPrice": row["markPrice"], "indexPrice": row["indexPrice"],
            "fundingRate": row["fundingRate"], "ts": row["ts"],
        }  # fmt: skip

    def depth(self, call: Call) -> Any:
        index = self.symbol(call)
        limit = call.text("limit", "100")
        _, bids, asks = self.engine.depth(index, int(limit) if limit.isdigit() else 100)
        rows = [[[self.price(index, px), self.size(index, qty)] for px, qty in side] for side in (asks, bids)]
        return {"asks": rows[0], "bids": rows[1], "ts": str(call.now_ns // 10**6), "scale": "0", "precision": "scale0"}

    def fund_rate(self, call: Call) -> Any:
        rate = short(fixed(self.host.funding_rate_e8, 8))
        return [{"symbol": self.host.instruments[index].symbol, "fundingRate": rate} for index in self.some(call)]

    # -- orders in ------------------------------------------------------------------------------------------------------------

    def place_v2(self, call: Call) -> Any:
        index = self.symbol(call)
        side = side_of(call.need("side"), call)
        hedge = self.engine.is_hedge(call.account)
        trade_side = call.text("tradeSide").lower()
        if hedge:
            if trade_side not in ("open", "close"):
                raise Refused("40774", "The order type for unilateral position must also be the unilateral position type.")
            position = eng.POS_LONG if side > 0 else eng.POS_SHORT
            side = side if trade_side == "open" else -side
        else:
            position = eng.POS_BOTH  # tradeSide means nothing to a one-sided account
        self._margin_of_order(call, index, call.need("marginMode"))
        reduce_only = not hedge and call.text("reduceOnly").upper() == "YES"
        force = call.text("force").lower()
        return self._place(call, index, side, position, call.need("size"), force, reduce_only)

    def place_v3(self, call: Call) -> Any:
        index = self.symbol(call)
        position = POSITION.get(call.text("posSide").lower())
        if position is None or (position == eng.POS_BOTH) == self.engine.is_hedge(call.account):
            raise Refused("25236", "Incorrect position open type")
        self._margin_of_order(call, index, call.text("marginMode", "crossed"))
        reduce_only = position == eng.POS_BOTH and call.text("reduceOnly").lower() == "yes"
        side, force = side_of(call.need("side"), call), call.text("timeInForce").lower()
        return self._place(call, index, side, position, call.need("qty"), force, reduce_only)

    def _margin_of_order(self, call: Call, index: int, mode: str) -> None:
        """An order says how its margin is kept: where nothing is held yet, the account follows it."""
        if mode not in ("isolated", "crossed"):
            raise Refused("400172" if call.v3 else "40017", "Parameter verification failed marginMode")
        wanted = eng.MARGIN_ISOLATED if mode == "isolated" else eng.MARGIN_CROSSED
        if self.engine.account_config(call.account, index)[1] != wanted:
            self.done(call, self.engine.set_margin_type(call.account, index, wanted, self.host.now_ns()), index)

    def _place(self, call: Call, index: int, side: int, position: int, size: str, force: str, reduce_only: bool) -> Any:
        limit, tif, client = self._kind_of_order(call, force)
        qty = self.checked(call, self.engine.parse_qty(index, size.encode()), index)
        px = self.checked(call, self.engine.parse_px(index, call.need("price").encode()), index) if limit else 0
        held = self.engine.position(call.account, index, position)[0]
        slot = self.engine.place(
            call.account, index, side, eng.TYPE_LIMIT if limit else eng.TYPE_MARKET, tif, qty, px, reduce_only, False, position,
            client, self.host.now_ns())  # fmt: skip
        self.host.changed()
        if slot == -2022 and position and held:
            raise Refused("25225" if call.v3 else "40757", "Not enough position is available.")
        self.checked(call, slot, index)
        order = self.engine.order(slot)
        return {"orderId": str(order[1]), "clientOid": order[4].decode()}

    def _kind_of_order(self, call: Call, force: str) -> tuple[bool, int, bytes]:
        """(whether it names a price, how long it lives, its client id) of a placement."""
        kind, client = call.need("orderType").lower(), call.text("clientOid")
        tif = TIF.get(force)
        if kind not in ("limit", "market") or tif is None:
            raise Refused("400172" if call.v3 else "40017", "Parameter verification failed orderType or force")
        if client and not CLIENT_ID.fullmatch(client):
            raise Refused("400172" if call.v3 else "40305", "clientOid is not of 1 to 32 allowed characters")
        return kind == "limit", tif if kind == "limit" else eng.TIF_GTC, client.encode()

    def done(self, call: Call, code: int, index: int) -> int:
        """What a changing call of the engine answered, its events told."""
        self.host.changed()
        return self.checked(call, code, index)

    def checked(self, call: Call, code: int, index: int) -> int:
        """What the engine answered; a refusal in the venue's words."""
        if code >= 0:
            return code
        v2, v3, text = self.refusals.get(code, ("40808", "25200", "Parameter verification exception"))
        spec = self.host.instruments[index]
        about = spec.symbol if code == -1121 else short(fixed(spec.min_notional_e8, 8))
        raise Refused(v3 if call.v3 else v2, text.replace("{0}", about))

    def batch_v2(self, call: Call) -> Any:
        rows = call.params.get("orderList")
        if not isinstance(rows, list) or not 1 <= len(rows) <= self.batch_max or not all(isinstance(row, dict) for row in rows):
            raise Refused("40306", f"Batch processing orders can only process up to {self.batch_max}")
        common = {name: value for name, value in call.params.items() if name != "orderList"}
        good, bad = [], []
        for row in rows:
            one = msgspec.structs.replace(call, params={**common, **row})
            try:
                good.append(self.place_v2(one))
            except Refused as refused:
                self._note(one, "place", refused)
                bad.append({"orderId": "", "clientOid": one.text("clientOid"), "errorMsg": refused.message,
                            "errorCode": refused.code})  # fmt: skip
        return {"successList": good, "failureList": bad}

    def batch_v3(self, call: Call) -> Any:
        if not 1 <= len(call.items) <= BATCH_MAX or not all(isinstance(row, dict) for row in call.items):
            raise Refused("400172", "Parameter verification failed")
        answers: list[dict[str, Any]] = []
        for row in call.items:
            one = msgspec.structs.replace(call, params=row)
            try:
                answers.append({**self.place_v3(one), "code": "00000", "msg": "success"})
            except Refused as refused:
                self._note(one, "place", refused)
                answers.append({"orderId": "", "clientOid": one.text("clientOid"), "code": refused.code, "msg": refused.message})
        return answers

    # -- finding and cancelling -----------------------------------------------------------------------------------------------

    def find(self, call: Call) -> int:
        """Slot of the order a request names by orderId or clientOid; -1: there is none, or none a stale reader knows."""
        number, client = call.text("orderId"), call.text("clientOid").encode()
        if not number and not client:
            raise Refused("400172" if call.v3 else "40924", "orderId and clientOid must have one")
        index, now = self.symbol(call) if call.text("symbol") else -1, self.host.now_ns()
        slot = self._newest(call.account, index, number, client, now)
        known = slot >= 0 and now - HISTORY_NS <= self.engine.order(slot)[16] <= now - call.lag_ns
        return slot if known else -1

    def _newest(self, account: int, index: int, number: str, client: bytes, now: int) -> int:
        """Slot of the newest order of that number or client id, -1: there is none."""
        if index >= 0 and not number and (slot := self.engine.find_client(account, index, client, now)) >= 0:
            return slot
        # The engine forgets orders that ended without a fill sooner than this venue does.
        for slot in reversed(self.engine.orders_of(account, index, ALL)):
            order = self.engine.order(slot)
            if str(order[1]) == number if number else order[4] == client:
                return slot
        return -1

    def cancel(self, call: Call) -> Any:
        slot = self.find(call)
        if slot < 0 or self.engine.order(slot)[10] >= FINAL:
            raise Refused("25204" if call.v3 else "40768", "Order does not exist")
        order = self.engine.order(slot)
        self.done(call, self.engine.cancel(call.account, slot, self.host.now_ns()), order[3])
        return {"orderId": str(order[1]), "clientOid": order[4].decode()}

    def cancel_many(self, call: Call) -> Any:
        """Those a list names, else every open order of the symbol, or of all."""
        named = call.params.get("orderIdList")
        wanted: list[Call] = []
        if isinstance(named, list) and named:
            wanted = [msgspec.structs.replace(call, params={**call.params, **row}) for row in named if isinstance(row, dict)]
        else:
            indexes = self.some(call)
            orders = [self.engine.order(slot) for slot in self.engine.open_orders(call.account)]
            wanted = [msgspec.structs.replace(call, params={"orderId": str(o[1])}) for o in orders if o[3] in indexes]
        good, bad = [], []
        for one in wanted:
            try:
                good.append(self.cancel(one))
            except Refused as refused:
                bad.append({"orderId": one.text("orderId"), "clientOid": one.text("clientOid"), "errorMsg": refused.message,
                            "errorCode": refused.code})  # fmt: skip
        if call.v3:
            return {"list": [{**row, "code": "00000", "msg": "success"} for row in good]}
        return {"successList": good, "failureList": bad}

    def detail(self, call: Call) -> Any:
        if not call.v3:
            self.symbol(call)
        slot = self.find(call)
        if slot < 0:
            raise Refused("25204" if call.v3 else "40109", "The data of the order cannot be found")
        order = self.engine.order(slot)
        if call.v3:
            return self.order_v3(order)
        row = self.order_v2(order)
        row["state"] = row.pop("status")
        return row

    def orders(self, call: Call, open_: bool) -> Any:
        """Open orders, or ended ones, the newest first."""
        page, last = self._order_page(call, open_)
        if call.v3:
            return {"list": [self.order_v3(order) for order in page] or ([] if open_ else None), "cursor": last or None}
        return {"entrustedList": [self.order_v2(order) for order in page] or None, "endId": last or None}

    def _order_page(self, call: Call, open_: bool) -> tuple[list[tuple[Any, ...]], str]:
        """(orders, number of the last)."""
        rows = []
        start, end = call.whole("startTime", 0) * 10**6, call.whole("endTime", 1 << 42) * 10**6
        before = call.whole("cursor" if call.v3 else "idLessThan", 1 << 62)
        limit = min(call.whole("limit", 100), 100)
        now, number, client = self.host.now_ns(), call.text("orderId"), call.text("clientOid")
        for index in self.some(call):
            for slot in self.engine.orders_of(call.account, index, ALL, -1, start):
                order = self.engine.order(slot)
                named = (not number or str(order[1]) == number) and (not client or order[4].decode() == client)
                fits = (order[10] < FINAL) == open_ and start <= order[16] <= end and order[1] < before and named
                if fits and order[16] <= now - call.lag_ns and (open_ or order[16] >= now - HISTORY_NS):
                    rows.append(order)
        page = sorted(rows, key=lambda order: -order[1])[:limit]
        return page, str(page[-1][1]) if page else ""

    def fills(self, call: Call) -> Any:
        """Executions, the newest first."""
        page = self._fill_page(call)
        last = str(page[-1][0][1]) if page else None
        if call.v3:
            return {"list": [self.listed_fill_v3(call, *row) for row in page] or None, "cursor": last}
        return {"fillList": [self.listed_fill_v2(call, *row) for row in page] or None, "endId": last}

    def _fill_page(self, call: Call) -> list[tuple[tuple[int, ...], int]]:
        """(trade, where in it the account's side begins)."""
        rows: list[tuple[tuple[int, ...], int]] = []
        start, end = call.whole("startTime", 0) * 10**6, call.whole("endTime", 1 << 42) * 10**6
        before = call.whole("cursor" if call.v3 else "idLessThan", 1 << 62)
        limit, number = min(call.whole("limit", 100), 100), call.text("orderId")
        latest = self.host.now_ns() - call.lag_ns
        for index in self.some(call):
            for trade in self.engine.trades_of(call.account, index, ALL, 0, start):
                for at in (7, 12):
                    mine = trade[at] == call.account and (not number or str(trade[at + 1]) == number)
                    if mine and trade[1] < before and start <= trade[5] <= min(end, latest):
                        rows.append((trade, at))
        return sorted(rows, key=lambda row: -row[0][1])[:limit]

    # -- how orders and executions are written --------------------------------------------------------------------------------

    def _spent(self, order: tuple[Any, ...]) -> tuple[int, int]:
        """(commission, profit) of an order so far, 1e-8."""
        fee = profit = 0
        for trade in self.engine.trades_of(order[2], order[3], ALL, 0, order[16]):
            for at in (7, 12):
                if trade[at] == order[2] and trade[at + 1] == order[1]:
                    fee, profit = fee + trade[at + 2], profit + trade[at + 3]
        return fee, profit

    def _client(self, order: tuple[Any, ...]) -> str:
        return str(order[4].decode())

    def order_v2(self, order: tuple[Any, ...]) -> dict[str, Any]:
        """A row of v2's lists; ``detail`` renames the status."""
        account, index, cum, value = order[2], order[3], order[14], order[15]
        fee, profit = self._spent(order)
        leverage, margin, _ = self.engine.account_config(account, index)
        return {
            "symbol": self.host.instruments[index].symbol, "size": self.size(index, order[12]), "orderId": str(order[1]),
            "clientOid": self._client(order), "baseVolume": self.size(index, cum), "fee": money(-fee),
            "price": self.price(index, order[13]) if order[13] else "", "priceAvg": self._average(index, cum, value),
            "status": STATUS[order[10]], "side": _side_v2(order[5], order[6]), "force": FORCE[order[8]],
            "totalProfits": money(profit), "posSide": HELD[order[6]], "marginCoin": "USDT", "quoteVolume": money(value),
            "leverage": str(leverage), "marginMode": "isolated" if margin == eng.MARGIN_ISOLATED else "crossed",
            "reduceOnly": "YES" if order[11] & eng.FLAG_REDUCE_ONLY else "NO",
            "enterPointSource": "SYS" if order[11] & eng.FLAG_LIQUIDATION else "API", "tradeSide": _trade_side(order),
            "posMode": "hedge_mode" if order[6] else "one_way_mode", "orderType": "limit" if order[13] else "market",
            "orderSource": "liquidation" if order[11] & eng.FLAG_LIQUIDATION else "normal", "cTime": str(order[16] // 10**6),
            "uTime": str(order[17] // 10**6), "presetStopSurplusPrice": "", "presetStopLossPrice": "", "cancelReason": "",
        }  # fmt: skip

    def order_v3(self, order: tuple[Any, ...], category: str = PRODUCT) -> dict[str, Any]:
        """An order as v3 writes it."""
        index, cum, value = order[3], order[14], order[15]
        _, margin, _ = self.engine.account_config(order[2], index)
        fee, _ = self._spent(order)
        return {
            "orderId": str(order[1]), "clientOid": self._client(order), "category": category,
            "symbol": self.host.instruments[index].symbol, "orderType": "limit" if order[13] else "market",
            "side": "buy" if order[5] > 0 else "sell", "price": self.price(index, order[13]) if order[13] else "0",
            "qty": self.size(index, order[12]), "amount": "0", "cumExecQty": self.size(index, cum), "cumExecValue": money(value),
            "avgPrice": self._average(index, cum, value) or "0", "timeInForce": FORCE[order[8]],
            "orderStatus": STATUS[order[10]].replace("canceled", "cancelled"), "posSide": HELD[order[6]] if order[6] else "",
            "holdMode": "hedge_mode" if order[6] else "one_way_mode",
            "tradeSide": "close" if _closes(order[5], order[6]) else "open",
            "reduceOnly": "YES" if order[11] & eng.FLAG_REDUCE_ONLY else "NO",
            "marginMode": "isolated" if margin == eng.MARGIN_ISOLATED else "crossed",
            "feeDetail": [{"feeCoin": "USDT", "fee": money(fee)}], "cancelReason": "",
            "execType": "liquidation" if order[11] & eng.FLAG_LIQUIDATION else "normal", "stpMode": "none",
            "createdTime": str(order[16] // 10**6), "updatedTime": str(order[17] // 10**6),
        }  # fmt: skip

    def _average(self, index: int, cum: int, value_e8: int) -> str:
        """Average price, eight places; "" of an order without executions."""
        return short(fixed(value_e8 * E8 // (cum * self.host.instruments[index].lot_e8), 8)) if cum else ""

    def listed_fill_v2(self, call: Call, trade: tuple[int, ...], at: int) -> dict[str, Any]:
        index, position, bought = trade[2], trade[at + 4], at == 7
        side = 1 if bought else -1
        return {
            "tradeId": str(trade[1]), "symbol": self.host.instruments[index].symbol, "orderId": str(trade[at + 1]),
            "price": self.price(index, trade[3]), "baseVolume": self.size(index, trade[4]),
            "feeDetail": [_fee_v2(trade[at + 2])], "side": _side_v2(side, position),
            "quoteVolume": self._value(index, trade[3], trade[4]), "profit": money(trade[at + 3]), "enterPointSource": "api",
            "tradeSide": _fill_side(side, position), "posMode": "hedge_mode" if position else "one_way_mode",
            "tradeScope": "maker" if (trade[6] < 0) == bought else "taker", "cTime": str(trade[5] // 10**6),
        }  # fmt: skip

    def listed_fill_v3(self, call: Call, trade: tuple[int, ...], at: int) -> dict[str, Any]:
        index, position, bought = trade[2], trade[at + 4], at == 7
        slot = self.engine.find_order(call.account, index, trade[at + 1], self.host.now_ns())
        return {
            "execId": str(trade[1]), "execLinkId": str(trade[1]), "orderId": str(trade[at + 1]),
            "clientOid": self._client(self.engine.order(slot)) if slot >= 0 else "", "category": PRODUCT,
            "symbol": self.host.instruments[index].symbol, "orderType": "market", "side": "buy" if bought else "sell",
            "execPrice": self.price(index, trade[3]), "execQty": self.size(index, trade[4]),
            "execValue": self._value(index, trade[3], trade[4]),
            "tradeScope": "maker" if (trade[6] < 0) == bought else "taker",
            "tradeSide": "close" if _closes(1 if bought else -1, position) else "open",
            "feeDetail": [{"feeCoin": "USDT", "fee": money(trade[at + 2])}], "createdTime": str(trade[5] // 10**6),
            "updatedTime": str(trade[5] // 10**6), "execPnl": money(trade[at + 3]), "isRPI": "no",
        }  # fmt: skip

    def _value(self, index: int, px: int, qty: int) -> str:
        return money(px * qty * self.host.instruments[index].value_mul)

    # -- account --------------------------------------------------------------------------------------------------------------

    def key_v2(self, call: Call) -> Any:
        assert call.owner is not None
        rights = call.owner.rights
        return {
            "userId": str(10**9 + call.account), "inviterId": "", "channelCode": "", "channel": "", "parentId": 0,
            "ips": str(rights.get("ips", "")), "authorities": rights.get("authorities", AUTHORITIES), "traderType": "not_trader",
            "regisTime": "1700000000000",
        }  # fmt: skip

    def key_v3(self, call: Call) -> Any:
        assert call.owner is not None
        rights = call.owner.rights
        return {
            "userId": str(10**9 + call.account), "inviterId": "", "parentId": "", "channelCode": "", "channel": "official",
            "ips": str(rights.get("ips", "")), "permType": rights.get("permType", "read-and-write"),
            "permissions": rights.get("permissions", PERMISSIONS), "regisTime": "1700000000000",
        }  # fmt: skip

    def money_v2(self, call: Call) -> dict[str, Any]:
        """The margin account of v2."""
        wallet, _, cross_upnl, iso_upnl, _, order_im, _, _, available, _ = self.engine.account_state(call.account)
        equity = wallet + cross_upnl + iso_upnl
        self.host.note_equity(call.account, equity, self.host.now_ns())
        return {
            "marginCoin": "USDT", "locked": money(order_im), "available": money(available),
            "crossedMaxAvailable": money(available), "isolatedMaxAvailable": money(available),
            "maxTransferOut": money(max(0, available)), "accountEquity": money(equity), "usdtEquity": money(equity),
            "btcEquity": "0", "crossedRiskRate": "0", "unrealizedPL": money(cross_upnl + iso_upnl), "coupon": "0",
            "crossedUnrealizedPL": money(cross_upnl), "isolatedUnrealizedPL": money(iso_upnl), "assetMode": "single",
        }  # fmt: skip

    def account_v2(self, call: Call) -> Any:
        index = self.symbol(call)
        leverage, margin, _ = self.engine.account_config(call.account, index)
        return self.money_v2(call) | {
            "crossedMarginLeverage": leverage, "isolatedLongLever": leverage, "isolatedShortLever": leverage,
            "marginMode": "isolated" if margin == eng.MARGIN_ISOLATED else "crossed", "posMode": self._mode(call.account),
        }  # fmt: skip

    def _mode(self, account: int) -> str:
        return "hedge_mode" if self.engine.is_hedge(account) else "one_way_mode"

    def settings_v3(self, call: Call) -> Any:
        rows = []
        for index, spec in enumerate(self.host.instruments):
            leverage, margin, _ = self.engine.account_config(call.account, index)
            mode = "isolated" if margin == eng.MARGIN_ISOLATED else "crossed"
            rows.append({"category": PRODUCT, "symbol": spec.symbol, "marginMode": mode, "leverage": str(leverage)})
        return {
            "uid": str(10**9 + call.account), "accountMode": "hybrid", "assetMode": "multi_assets", "accountLevel": "advanced",
            "holdMode": self._mode(call.account), "stpMode": "none", "symbolConfigList": rows, "coinConfigList": [],
        }  # fmt: skip

    def assets_v3(self, call: Call) -> Any:
        wallet, _, cross_upnl, iso_upnl, position_im, order_im, maint, _, available, _ = self.engine.account_state(call.account)
        upnl = cross_upnl + iso_upnl
        self.host.note_equity(call.account, wallet + upnl, self.host.now_ns())
        equity = money(wallet + upnl)
        coin = {
            "coin": "USDT", "equity": equity, "usdValue": equity, "balance": money(wallet), "available": money(available),
            "debt": "0", "locked": money(order_im),
        }  # fmt: skip
        return {
            "accountEquity": equity, "usdtEquity": equity, "btcEquity": "0", "unrealisedPnl": money(upnl),
            "usdtUnrealisedPnl": money(upnl), "btcUnrealizedPnl": "0", "effEquity": equity, "mmr": money(maint),
            "imr": money(position_im + order_im), "mgnRatio": "0", "positionMgnRatio": "0", "assets": [coin],
        }  # fmt: skip

    def _legs(self, account: int, indexes: list[int]) -> list[tuple[int, int, int]]:
        """(instrument, position side, signed lots) of what is held."""
        sides = (eng.POS_LONG, eng.POS_SHORT) if self.engine.is_hedge(account) else (eng.POS_BOTH,)
        legs = [(index, side, self.engine.position(account, index, side)[0]) for index in indexes for side in sides]
        return [leg for leg in legs if leg[2]]

    def positions(self, call: Call) -> Any:
        legs = self._legs(call.account, self.some(call))
        if call.v3:
            return {"list": [self.position_v3(call.account, *leg, total="total") for leg in legs] or None}
        return [self.position_v2(call.account, *leg) for leg in legs]

    def position_v2(self, account: int, index: int, side: int, qty: int) -> dict[str, Any]:
        """A position as v2's list writes it."""
        _, cost, iso, realised, updated, upnl, liquidation = self.engine.position(account, index, side)
        _, im, _, _ = self.engine.position_margins(account, index, side)
        leverage, margin, _ = self.engine.account_config(account, index)
        isolated = margin == eng.MARGIN_ISOLATED
        total = self.size(index, abs(qty))
        return {
            "marginCoin": "USDT", "symbol": self.host.instruments[index].symbol,
            "holdSide": "long" if (qty > 0 or side == eng.POS_LONG) else "short", "openDelegateSize": "0",
            "marginSize": money(iso if isolated else im), "available": total, "locked": "0", "total": total,
            "leverage": str(leverage), "achievedProfits": money(realised),
            "openPriceAvg": self._average(index, abs(qty), abs(cost)) or "0",
            "marginMode": "isolated" if isolated else "crossed", "posMode": self._mode(account), "unrealizedPL": money(upnl),
            "liquidationPrice": self.price(index, liquidation) if liquidation else "0", "keepMarginRate": "0.004",
            "markPrice": self.price(index, self.engine.mark(index)), "marginRatio": "0", "breakEvenPrice": "", "totalFee": "",
            "assetMode": "single", "cTime": str(updated // 10**6), "uTime": str(updated // 10**6),
        }  # fmt: skip

    def position_v3(self, account: int, index: int, side: int, qty: int, *, total: str) -> dict[str, Any]:
        """A position as v3 writes it; ``total``: what its size is called."""
        old = self.position_v2(account, index, side, qty)
        return {
            "category": PRODUCT, "symbol": old["symbol"], "marginCoin": "USDT", "holdMode": old["posMode"],
            "posSide": old["holdSide"], "marginMode": old["marginMode"], "positionBalance": old["marginSize"],
            "available": old["total"], "frozen": "0", total: old["total"], "leverage": old["leverage"],
            "curRealisedPnl": old["achievedProfits"], "avgPrice": old["openPriceAvg"],
            "positionStatus": "normal" if qty else "ended", "unrealisedPnl": old["unrealizedPL"],
            "liquidationPrice": old["liquidationPrice"], "mmr": "0.004", "profitRate": "0", "markPrice": old["markPrice"],
            "breakEvenPrice": "", "totalFunding": "0", "openFeeTotal": "0", "closeFeeTotal": "0", "createdTime": old["cTime"],
            "updatedTime": old["uTime"],
        }  # fmt: skip

    def bills(self, call: Call) -> Any:
        """Movements of money that are no trades, the newest first."""
        start, end = call.whole("startTime", 0) * 10**6, call.whole("endTime", 1 << 42) * 10**6
        before = call.whole("cursor" if call.v3 else "idLessThan", 1 << 62)
        if end < 1 << 60 and end - start > 30 * DAY_NS:
            raise Refused("00001", "startTime and endTime interval cannot be greater than 30 days")
        wanted = call.text("type" if call.v3 else "businessType")
        rows = []
        for number, ts, _, symbol, reason, amount in self.engine.incomes_of(call.account, ALL):
            kind = _bill_kind(reason, amount, call.v3)
            if kind and wanted in ("", kind) and start <= ts <= end + 10**6 and number + 1 < before:
                rows.append((number + 1, ts, symbol, kind, amount))
        page = sorted(rows, reverse=True)[: min(call.whole("limit", 100), 100)]
        last = str(page[-1][0]) if page else None
        written = [
            {
                "billId": str(number), "id": str(number), "symbol": self.host.instruments[symbol].symbol if symbol >= 0 else "",
                "amount": money(amount), "fee": "0", "coin": "USDT", "businessType": kind, "type": kind, "balance": "0",
                "category": PRODUCT, "cTime": str(ts // 10**6), "ts": str(ts // 10**6), "feeByCoupon": "",
            }
            for number, ts, symbol, kind, amount in page
        ]  # fmt: skip
        return {"list": written, "cursor": last} if call.v3 else {"bills": written, "endId": last}

    def set_mode_v2(self, call: Call) -> Any:
        mode = self._set_mode(call, call.need("posMode"))
        return {"posMode": mode}

    def set_mode_v3(self, call: Call) -> Any:
        self._set_mode(call, call.need("holdMode"))
        return "success"

    def _set_mode(self, call: Call, mode: str) -> str:
        if mode not in ("hedge_mode", "one_way_mode"):
            raise Refused("400172" if call.v3 else "40017", "Parameter verification failed posMode")
        code = self.engine.set_position_mode(call.account, mode == "hedge_mode", self.host.now_ns())
        if code != -4059:
            self.done(call, code, 0)
        return mode

    def set_margin_v2(self, call: Call) -> Any:
        index = self.symbol(call)
        wanted = {"isolated": eng.MARGIN_ISOLATED, "crossed": eng.MARGIN_CROSSED}.get(call.need("marginMode"))
        if wanted is None:
            raise Refused("40017", "Parameter verification failed marginMode")
        code = self.engine.set_margin_type(call.account, index, wanted, self.host.now_ns())
        if code != -4046:
            self.done(call, code, index)
        return self._levers(call.account, index)

    def set_leverage_v2(self, call: Call) -> Any:
        index = self.symbol(call)
        self._set_leverage(call, index)
        return self._levers(call.account, index)

    def set_leverage_v3(self, call: Call) -> Any:
        self._set_leverage(call, self.symbol(call))
        return "success"

    def _set_leverage(self, call: Call, index: int) -> None:
        leverage = call.whole("leverage", 0)
        self.done(call, self.engine.set_leverage(call.account, index, leverage, self.host.now_ns()), index)

    def _levers(self, account: int, index: int) -> dict[str, Any]:
        leverage, margin, _ = self.engine.account_config(account, index)
        return {
            "symbol": self.host.instruments[index].symbol, "marginCoin": "USDT", "longLeverage": str(leverage),
            "shortLeverage": str(leverage), "crossMarginLeverage": str(leverage),
            "marginMode": "isolated" if margin == eng.MARGIN_ISOLATED else "crossed",
        }  # fmt: skip

    # -- sockets --------------------------------------------------------------------------------------------------------------

    def accepts(self, conn: Conn) -> bool:
        """Whether there is something at the address, and the client's address may have one connection more."""
        path = conn.path.partition("?")[0]
        found = re.fullmatch(r"/(v2|v3)/ws/(public|private)", path)
        windows = self.host.windows
        if found is None or windows.take("connects", conn.ip, self.host.now_ns()):
            return False
        theirs = sum(1 for other in self.host.conns() if other.ip == conn.ip)
        if theirs >= windows.defined["connections"].limit and "connections" not in windows.lifted:
            return False
        conn.state = Session(found[1] == "v3", found[2] == "private", set())
        return True

    def opened(self, conn: Conn) -> None:
        """A public connection hears of the market as soon as it asks to."""
        if not conn.state.private:
            self.public.append(conn)

    def lost(self, conn: Conn) -> None:
        """Nothing is sent to it any more."""
        if conn in self.public:
            self.public.remove(conn)
        if conn.owner is not None and conn in self.private.get(conn.owner.account, []):
            self.private[conn.owner.account].remove(conn)

    def text(self, conn: Conn, text: bytes) -> Work | None:
        """A message: a ping, a login, a subscription, an order."""
        if self.host.windows.take("messages", id(conn), self.host.now_ns()):
            conn.send(_event("error", code=30007, msg="request over limit,connection close"))
            conn.close(1008, "too many messages")
            return None
        if text == b"ping":
            conn.send(b"pong")
            return None
        try:
            asked = orjson.loads(text)
        except orjson.JSONDecodeError:
            asked = None
        op = asked.get("op") if isinstance(asked, dict) else None
        rows = asked.get("args") if isinstance(asked, dict) else None
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            conn.send(_event("error", code=30016, msg="Param error"))
        elif op == "login":
            self._login(conn, rows[0])
        elif op in ("subscribe", "unsubscribe"):
            for row in rows:
                self._subscribe(conn, op, row)
        elif op == "trade":
            return self._trade(conn, asked, rows)
        else:
            conn.send(_event("error", code=30003, msg="Invalid op"))
        return None

    def _login(self, conn: Conn, row: dict[str, Any]) -> None:
        owner, stamp = self.host.owner(str(row.get("apiKey"))), str(row.get("timestamp", ""))
        scale = 1 if len(stamp) > 11 else 1000  # seconds and milliseconds are both taken
        late = not stamp.isdigit() or abs(self.host.server_ns() // 10**6 - int(stamp[:15]) * scale) > CLOCK_TOLERANCE_MS
        refusal = ""
        if not conn.state.private:
            refusal = "30005 login failed: this is no private channel"
        elif owner is None:
            refusal = "30011 Invalid ACCESS_KEY"
        elif late:
            refusal = "30014 Request timestamp expired"
        elif not hmac.compare_digest(sign(owner.secret, f"{stamp}GET/user/verify".encode()), str(row.get("sign"))):
            refusal = "30015 Invalid sign"
        else:
            try:
                self._let_in(owner, str(row.get("passphrase", "")), conn.ip)
            except Refused as refused:
                refusal = "30012 Invalid ACCESS_PASSPHRASE" if refused.code == "40012" else f"30005 {refused.message}"
        if refusal or owner is None:
            code, _, message = refusal.partition(" ")
            self.host.refused(owner, "login", "", "", int(code), message)
            conn.send(_event("error", code=int(code), msg=message))
            return
        if conn.owner is None:
            self.private.setdefault(owner.account, []).append(conn)
        conn.owner = owner
        conn.send(orjson.dumps({"event": "login", "code": 0, "connId": f"{id(conn):032x}"}))

    def _subscribe(self, conn: Conn, op: str, row: dict[str, Any]) -> None:
        session: Session = conn.state
        channel = str(row.get("topic" if session.v3 else "channel", ""))
        market = str(row.get("instType", ""))
        instrument = str(row.get("symbol" if session.v3 else "instId", "") or row.get("coin", ""))
        if session.private and conn.owner is None:
            conn.send(_event("error", arg=row, code=30004, msg="User needs to log in"))
        elif not self._known(session, channel, market, instrument):
            conn.send(_event("error", arg=row, code=30001, msg=f"instType:{market},channel:{channel} doesn't exist"))
        elif op == "unsubscribe":
            session.subscribed.discard((market, channel, instrument))
            conn.send(_event("unsubscribe", arg=row))
        else:
            session.subscribed.add((market, channel, instrument))
            conn.send(_event("subscribe", arg=row))
            self._snapshot(conn, session, channel, market, instrument)

    def _known(self, session: Session, channel: str, market: str, instrument: str) -> bool:
        if not session.private:
            product = self.topic if session.v3 else self.product
            return channel == "ticker" and market == product and instrument in self.host.symbols
        if session.v3:
            return market == "UTA" and channel in ("order", "fill", "fast-fill", "position", "account")
        if market == PRODUCT:
            return channel in ("orders", "fill", "positions", "account")
        return market == "SPOT" and channel in ("orders", "fill", "account")

    def _snapshot(self, conn: Conn, session: Session, channel: str, market: str, instrument: str) -> None:
        """What stands at the time of subscribing: positions, balance, ticker; of orders nothing."""
        if channel == "ticker":
            conn.send(self._ticker_push(session, self.host.symbols[instrument]))
        elif conn.owner is not None and market == self._market(session) and channel in ("positions", "position"):
            legs = self._legs(conn.owner.account, list(range(len(self.host.instruments))))
            conn.send(self._positions_push(session, conn.owner.account, legs))
        elif conn.owner is not None and market == self._market(session) and channel == "account":
            conn.send(self._account_push(session, conn.owner.account))

    def _market(self, session: Session) -> str:
        """What private channels of this market are subscribed to under."""
        return "UTA" if session.v3 else self.product

    def _trade(self, conn: Conn, asked: dict[str, Any], rows: list[dict[str, Any]]) -> Work | None:
        """An order over the socket: only for accounts the venue has approved (the right ``ws_orders``)."""
        session, owner = conn.state, conn.owner
        row = rows[0]
        if owner is None:
            conn.send(_event("error", code=30004, msg="User needs to log in"))
            return None
        params = dict(row if session.v3 else row.get("params") or {})
        if not session.v3:
            params |= {"symbol": row.get("instId"), "productType": row.get("instType")}
        else:
            params.setdefault("category", str(asked.get("category", "")).upper())
        call = Call(params, owner, self.host.server_ns(), session.v3)
        run = partial(self._trade_run, call, asked, row)
        refused = partial(self._trade_refused, call, asked, row)
        return Work(
            run, owner, "place", call.text("symbol"), call.text("clientOid"),
            refused(Refused("40015", "System is abnormal, please try again later")),
            refused(Refused("41114", "The current trading pair is under maintenance")),
            refused(Refused("429", "Too many requests")),
        )  # fmt: skip

    def _trade_run(self, call: Call, asked: dict[str, Any], row: dict[str, Any]) -> bytes:
        assert call.owner is not None
        topic = str(asked.get("topic") if call.v3 else row.get("channel"))
        try:
            if not call.owner.rights.get("ws_orders") or not self._may_trade(call.owner, call.v3):
                raise Refused("25620" if call.v3 else "40014", "Incorrect permissions, need trade permissions")
            if topic != "place-order":
                raise Refused("30001", f"channel {topic} doesn't exist")
            if self.host.windows.take("orders", call.owner.account, self.host.now_ns()):
                raise Refused("429", "Too many requests")
            placed = self.place_v3(call) if call.v3 else self.place_v2(call)
        except Refused as refused:
            self._note(call, "place", refused)
            return self._trade_refused(call, asked, row, refused)
        return self._trade_answer(call, asked, row, placed, "trade", 0, "Success")

    def _trade_refused(self, call: Call, asked: dict[str, Any], row: dict[str, Any], refused: Refused) -> bytes:
        params = {"orderId": "", "clientOid": call.text("clientOid")}
        return self._trade_answer(call, asked, row, params, "error", int(refused.code), refused.message)

    def _trade_answer(
        self, call: Call, asked: dict[str, Any], row: dict[str, Any], params: dict[str, Any], event: str, code: int, msg: str
    ) -> bytes:
        stamp = self.host.server_ns() // 10**6
        if call.v3:
            head = {name: asked.get(name) for name in ("id", "category", "topic")}
            args = [{**params, "symbol": call.text("symbol"), "cTime": str(stamp)}]
            return orjson.dumps({"event": event, **head, "args": args, "code": str(code), "msg": msg, "ts": str(stamp)})
        arg = {name: row.get(name) for name in ("id", "instType", "channel", "instId")}
        return orjson.dumps({"event": event, "arg": [{**arg, "params": params}], "code": code, "msg": msg, "ts": stamp})

    # -- events ---------------------------------------------------------------------------------------------------------------

    def events(self, events: list[tuple[int, ...]]) -> None:
        """Pushes to private connections in the engine's order, and tickers to public ones."""
        for event in events:
            kind, account, symbol = event[0], event[1], event[2]
            if kind == eng.EV_BOOK or kind == eng.EV_MARK:
                self._to_public(symbol)
            elif account > 0 and self.private.get(account):
                owner = self.host.owner_of(account)
                if owner is not None:
                    self._to_owner(kind, event, owner)

    def _to_public(self, index: int) -> None:
        pushes: dict[bool, bytes] = {}
        symbol = self.host.instruments[index].symbol
        for conn in self.public:
            session: Session = conn.state
            market = self.topic if session.v3 else self.product
            if (market, "ticker", symbol) in session.subscribed:
                if session.v3 not in pushes:
                    pushes[session.v3] = self._ticker_push(session, index)
                conn.send(pushes[session.v3])

    def _ticker_push(self, session: Session, index: int) -> bytes:
        symbol, now = self.host.instruments[index].symbol, self.host.server_ns()
        if session.v3:
            arg = {"instType": self.topic, "topic": "ticker", "symbol": symbol}
            rows = [self._ticker_v3(index, now)]
        else:
            arg = {"instType": self.product, "channel": "ticker", "instId": symbol}
            rows = [self.ticker(index, now)]
        return orjson.dumps({"action": "snapshot", "arg": arg, "data": rows, "ts": now // 10**6})

    def _to_owner(self, kind: int, event: tuple[int, ...], owner: Owner) -> None:
        for conn in list(self.private[owner.account]):
            session: Session = conn.state
            for channel, client, text in self._pushes(session, kind, event):
                if self._hears(session, channel):
                    self.host.publish(conn, owner, channel, client, text)

    def _hears(self, session: Session, channel: str) -> bool:
        here = self._market(session)
        return any(market == here and subscribed == channel for market, subscribed, _ in session.subscribed)

    def _pushes(self, session: Session, kind: int, event: tuple[int, ...]) -> list[tuple[str, str, bytes]]:
        """(channel, client order id, message) of one event, as this connection hears of it."""
        account, index, slot = event[1], event[2], event[3]
        if kind in (eng.EV_NEW, eng.EV_TRADE, eng.EV_CANCELED, eng.EV_EXPIRED, eng.EV_AMENDED) and slot >= 0:
            order = list(self.engine.order(slot))
            order[10], order[14], order[15], order[17] = event[6], event[14], event[15], event[9]
            return self._order_pushes(session, kind, event, tuple(order))
        if kind == eng.EV_ACCOUNT:
            pushes = [("account", "", self._account_push(session, account))]
            if index >= 0:
                leg = (index, event[5], self.engine.position(account, index, event[5])[0])
                name = "position" if session.v3 else "positions"
                pushes.insert(0, (name, "", self._positions_push(session, account, [leg])))
            return pushes
        return []

    def _order_pushes(
        self, session: Session, kind: int, event: tuple[int, ...], order: tuple[Any, ...]
    ) -> list[tuple[str, str, bytes]]:
        client = self._client(order)
        if session.v3:
            row = self._pushed_order_v3(order)
            pushes = [("order", client, self._push("UTA", "order", [row]))]
            if kind == eng.EV_TRADE:
                fill = self._fill_push_v3(event, order)
                left_out = ("feeDetail", "execPnl", "tradeSide", "execValue")
                thin = {name: value for name, value in fill.items() if name not in left_out}
                pushes = [
                    ("fast-fill", client, self._push("UTA", "fast-fill", thin)), *pushes,
                    ("fill", client, self._push("UTA", "fill", [fill])),
                ]  # fmt: skip
            return pushes
        row = self._order_push_v2(kind, event, order)
        pushes = [("orders", client, self._push(self.product, "orders", [row], instId="default"))]
        if kind == eng.EV_TRADE:
            fill = self._fill_push_v2(event, order)
            pushes.append(("fill", client, self._push(self.product, "fill", [fill], instId="default")))
        return pushes

    def _pushed_order_v3(self, order: tuple[Any, ...]) -> dict[str, Any]:
        row = self.order_v3(order, self.topic)
        row["holdSide"] = row.pop("posSide") or HELD[0]
        return row

    def _order_push_v2(self, kind: int, event: tuple[int, ...], order: tuple[Any, ...]) -> dict[str, Any]:
        index = order[3]
        old = self.order_v2(order)
        kept = ("orderId", "clientOid", "size", "posMode", "posSide", "tradeSide", "side", "orderType", "force", "marginMode",
                "marginCoin", "leverage", "status", "cTime", "uTime", "enterPointSource", "orderSource")  # fmt: skip
        row = {name: old[name] for name in kept} | {
            "instId": old["symbol"], "price": old["price"] or "0", "reduceOnly": old["reduceOnly"].lower(), "stpMode": "none",
            "accBaseVolume": old["baseVolume"], "priceAvg": old["priceAvg"] or "0", "notionalUsd": old["quoteVolume"],
            "feeDetail": [{"feeCoin": "USDT", "fee": old["fee"]}], "totalProfits": old["totalProfits"],
        }  # fmt: skip
        if kind == eng.EV_TRADE:
            row |= {
                "fillPrice": self.price(index, event[11]), "tradeId": str(event[13]), "baseVolume": self.size(index, event[12]),
                "fillTime": str(event[9] // 10**6), "fillFee": money(-event[16]), "fillFeeCoin": "USDT",
                "fillNotionalUsd": self._value(index, event[11], event[12]), "tradeScope": "M" if event[7] else "T",
                "pnl": money(event[17]),
            }  # fmt: skip
        return row

    def _fill_push_v2(self, event: tuple[int, ...], order: tuple[Any, ...]) -> dict[str, Any]:
        """Here ``side`` is what was done, on two-sided accounts as well."""
        index, stamp = order[3], str(event[9] // 10**6)
        return {
            "orderId": str(order[1]), "clientOid": self._client(order), "tradeId": str(event[13]),
            "symbol": self.host.instruments[index].symbol, "side": "buy" if order[5] > 0 else "sell",
            "orderType": "limit" if order[13] else "market", "posMode": "hedge_mode" if order[6] else "one_way_mode",
            "price": self.price(index, event[11]), "baseVolume": self.size(index, event[12]), "tradeSide": _trade_side(order),
            "quoteVolume": self._value(index, event[11], event[12]), "profit": money(event[17]),
            "tradeScope": "maker" if event[7] else "taker", "feeDetail": [_fee_v2(event[16])], "cTime": stamp, "uTime": stamp,
        }  # fmt: skip

    def _fill_push_v3(self, event: tuple[int, ...], order: tuple[Any, ...]) -> dict[str, Any]:
        index, stamp = order[3], str(event[9] // 10**6)
        held = HELD[order[6]] if order[6] else "long" if order[5] > 0 else "short"
        return {
            "symbol": self.host.instruments[index].symbol, "orderType": "limit" if order[13] else "market", "updatedTime": stamp,
            "side": "buy" if order[5] > 0 else "sell", "orderId": str(order[1]), "execPnl": money(event[17]),
            "feeDetail": [{"feeCoin": "USDT", "fee": money(event[16])}], "execTime": stamp,
            "tradeScope": "maker" if event[7] else "taker", "tradeSide": "close" if _closes(order[5], order[6]) else "open",
            "execId": str(event[13]), "execLinkId": str(event[13]), "execPrice": self.price(index, event[11]), "holdSide": held,
            "execValue": self._value(index, event[11], event[12]), "category": "usdt-futures",
            "execQty": self.size(index, event[12]), "clientOid": self._client(order), "isRPI": "no",
        }  # fmt: skip

    def _positions_push(self, session: Session, account: int, legs: list[tuple[int, int, int]]) -> bytes:
        if session.v3:
            rows = [self.position_v3(account, *leg, total="size") for leg in legs]
            for row in rows:
                row["liqPrice"] = row.pop("liquidationPrice")
            return self._push("UTA", "position", rows)
        rows = [self.position_v2(account, *leg) for leg in legs]
        for number, row in enumerate(rows):
            row |= {"instId": row.pop("symbol"), "posId": str(number + 1), "frozen": row.pop("locked"), "autoMargin": "off",
                    "leverage": int(row["leverage"])}  # fmt: skip
        return self._push(PRODUCT, "positions", rows, instId="default")

    def _account_push(self, session: Session, account: int) -> bytes:
        wallet, _, cross_upnl, iso_upnl, _, order_im, maint, _, available, _ = self.engine.account_state(account)
        upnl = cross_upnl + iso_upnl
        equity = money(wallet + upnl)
        if session.v3:
            coin = {"coin": "USDT", "balance": money(wallet), "available": money(available), "borrow": "0", "debts": "0",
                    "locked": money(order_im), "equity": equity, "usdValue": equity}  # fmt: skip
            whole: dict[str, Any] = {
                "unrealisedPnL": money(upnl), "totalEquity": equity, "positionMgnRatio": "0", "mmr": money(maint),
                "effEquity": equity, "imr": "0", "mgnRatio": "0", "coin": [coin],
            }  # fmt: skip
            return self._push("UTA", "account", [whole])
        row = {"marginCoin": "USDT", "frozen": money(order_im), "available": money(available), "maxOpenPosAvailable": "0",
               "maxTransferOut": money(max(0, available)), "equity": equity, "usdtEquity": equity, "unrealizedPL": money(upnl),
               "crossedRiskRate": "0", "assetsMode": "single"}  # fmt: skip
        return self._push(PRODUCT, "account", [row], coin="default")

    def _push(self, market: str, channel: str, data: Any, **selector: str) -> bytes:
        arg = {"instType": market, "topic" if market == "UTA" else "channel": channel, **selector}
        return orjson.dumps({"action": "snapshot", "arg": arg, "data": data, "ts": self.host.server_ns() // 10**6})

    def second(self, now_ns: int) -> None:
        """Nothing here goes by the clock alone."""


def sign(secret: bytes, text: bytes) -> str:
    """The signature over exactly these bytes."""
    return base64.b64encode(hmac.new(secret, text, hashlib.sha256).digest()).decode()


def _places(spec: Instrument) -> tuple[int, int, int]:
    """(decimals of the price, the tick in them, decimals of the quantity)."""
    step, place = spec.tick_e8, 8
    while place and step % 10 == 0:
        step, place = step // 10, place - 1
    lot, volume = spec.lot_e8, 8
    while volume and lot % 10 == 0:
        lot, volume = lot // 10, volume - 1
    return place, step, volume


def side_of(text: str, call: Call) -> int:
    if text.lower() not in ("buy", "sell"):
        raise Refused("400172" if call.v3 else "40017", "Parameter verification failed side")
    return 1 if text.lower() == "buy" else -1


def _closes(side: int, position: int) -> bool:
    """Whether an order of a two-sided account closes."""
    return position != eng.POS_BOTH and (side > 0) != (position == eng.POS_LONG)


def _side_v2(side: int, position: int) -> str:
    """Of a two-sided account the position, else what was done."""
    if position:
        return "buy" if position == eng.POS_LONG else "sell"
    return "buy" if side > 0 else "sell"


def _fill_side(side: int, position: int) -> str:
    if position:
        return "close" if _closes(side, position) else "open"
    return "buy_single" if side > 0 else "sell_single"


def _trade_side(order: tuple[Any, ...]) -> str:
    side, position = order[5], order[6]
    if not order[11] & eng.FLAG_LIQUIDATION:
        return _fill_side(side, position)
    if position:
        return f"burst_close_{HELD[position]}"
    return "burst_buy_single" if side > 0 else "burst_sell_single"


def _bill_kind(reason: int, amount: int, v3: bool) -> str:
    """The venue's name of a movement of money; "" for one it does not list here."""
    inward = amount >= 0
    if reason in (eng.REASON_DEPOSIT, eng.REASON_WITHDRAW):
        if v3:
            return "TRANSFER_IN" if inward else "TRANSFER_OUT"
        return "trans_from_exchange" if inward else "trans_to_exchange"
    if reason == eng.REASON_FUNDING_FEE:
        return f"CONTRACT_MAIN_SETTLE_FEE_USER_{'IN' if inward else 'OUT'}" if v3 else "contract_settle_fee"
    if reason in (eng.REASON_INSURANCE_CLEAR, eng.REASON_ADJUSTMENT):
        return "RISK_LIQ_USER_IN" if v3 else "risk_captital_user_transfer"
    return ""


def _fee_v2(fee_e8: int) -> dict[str, str]:
    """A commission: below 0 when paid."""
    return {"deduction": "no", "feeCoin": "USDT", "totalDeductionFee": "0", "totalFee": money(-fee_e8)}


def money(value_e8: int) -> str:
    return short(fixed(value_e8, 8))


def short(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _event(event: str, **fields: Any) -> bytes:
    return orjson.dumps({"event": event, **fields})
