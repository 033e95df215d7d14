"""The Binance USD-M dialect: REST paths, WebSocket API methods, error texts, and how engine state looks in that venue's JSON.

Every handler is a plain function of a ``Call``; it returns something JSON can hold (or bytes that are JSON already) or
raises ``Refused``. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from copyd._fast.sim_engine import (
    MARGIN_CROSSED,
    MARGIN_ISOLATED,
    POS_BOTH,
    REASON_ADJUSTMENT,
    REASON_DEPOSIT,
    REASON_FUNDING_FEE,
    REASON_INSURANCE_CLEAR,
    REASON_WITHDRAW,
)
from copyd._fast.sim_wire import Key
from copyd.exchange.limits import ORDERS_PER_10S, ORDERS_PER_MINUTE
from copyd.exchange.model import E8, Instrument, fixed, refusal_text

if TYPE_CHECKING:
    from copyd.exchange.server import ExchangeServer

POSITION_SIDES = ("BOTH", "LONG", "SHORT")

# Refusals of the wire itself; {} takes the parameter's name. The engine's are in ``model.REFUSALS``.
WIRE_REFUSALS: dict[int, str] = {
    -1000: "An unknown error occurred while processing the request.",
    -1003: "Too many requests.",
    -1015: "Too many new orders; current limit is 300 orders per TEN_SECONDS.",
    -1020: "This operation is not supported.",
    -1021: "Timestamp for this request is outside of the recvWindow.",
    -1022: "Signature for this request is not valid.",
    -1100: "Illegal characters found in parameter '{}'; legal range is '^([0-9]{{1,20}})(\\.[0-9]{{1,20}})?$'.",
    -1101: "Too many parameters sent for this endpoint.",
    -1102: "Mandatory parameter '{}' was not sent, was empty/null, or malformed.",
    -1130: "Data sent for parameter '{}' is not valid.",
    -1131: "recvWindow must be less than 60000.",
    -1135: "Invalid JSON Request.",
    -1125: "This listenKey does not exist.",
    -2014: "API-key format invalid.",
    -2015: "Invalid API-key, IP, or permissions for action.",
    -5028: "Timestamp for this request is outside of the ME recvWindow.",
    -4120: "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead.",
    -4171: "No need to change multi-assets mode.",
}

INCOME_TYPES = {
    REASON_DEPOSIT: "TRANSFER",
    REASON_WITHDRAW: "TRANSFER",
    REASON_FUNDING_FEE: "FUNDING_FEE",
    REASON_INSURANCE_CLEAR: "INSURANCE_CLEAR",
    REASON_ADJUSTMENT: "INSURANCE_CLEAR",
}

KLINE_MS = {"1m": 60_000, "3m": 180_000, "5m": 300_000, "15m": 900_000, "30m": 1_800_000, "1h": 3_600_000, "1d": 86_400_000}


class Refused(Exception):
    """A refusal in the venue's words."""

    def __init__(self, code: int, message: str | None = None, status: int | None = None) -> None:
        self.code = code
        self.message = message if message is not None else WIRE_REFUSALS.get(code) or refusal_text(code)
        self.status = status if status is not None else http_status(code)
        super().__init__(self.message)

    def body(self) -> bytes:
        return orjson.dumps({"code": self.code, "msg": self.message})


def http_status(code: int) -> int:
    if code in (-2014, -2015):
        return 401
    if code in (-1003, -1015):
        return 429
    return 400


class Call(msgspec.Struct):
    """One request, authenticated as far as its route asks."""

    params: dict[str, str]
    key: Key | None
    now_ns: int
    ip: str

    def need(self, name: str) -> str:
        value = self.params.get(name, "")
        if not value:
            raise missing(name)
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole-number parameter; -1102 when it has no default and is absent or malformed."""
        text = self.params.get(name, "")
        if not text:
            if default is None:
                raise missing(name)
            return default
        try:
            return int(text)
        except ValueError:
            raise missing(name) from None

    @property
    def account(self) -> int:
        assert self.key is not None  # the router authenticated the call
        return self.key.account


def missing(name: str) -> Refused:
    return Refused(-1102, WIRE_REFUSALS[-1102].format(name))


def wire_refusal(code: int, about: str | None, instrument: Instrument | None = None, value: int = 0) -> Refused:
    """The refusal of a code the compiled path returned; ``about``: the parameter it is about."""
    text = WIRE_REFUSALS.get(code)
    if text is None or (code == -1100 and about is None):
        return Refused(code, refusal_text(code, instrument, value))
    return Refused(code, text.format(about) if "{}" in text else text)


def flag(text: str) -> bool:
    return text.lower() == "true"


def e8(value: int, digits: int = 8) -> str:
    return fixed(value, digits)


class Dialect:
    """Requests of the venue against one exchange."""

    def __init__(self, exchange: ExchangeServer) -> None:
        self.x = exchange
        self.engine = exchange.engine
        self.instruments: tuple[Instrument, ...] = tuple(exchange.instruments)
        self.symbols = {spec.symbol: index for index, spec in enumerate(self.instruments)}
        self.multi_assets: set[int] = set()
        self._info: bytes | None = None
        #: "METHOD path" -> (handler, weight or function of the parameters, access)
        self.routes: dict[str, Route] = {}
        self.methods: dict[str, Route] = {}
        self._build()

    def _build(self) -> None:
        r, m = self.routes, self.methods
        open_, keyed, signed = "open", "keyed", "signed"

        def all_symbols(one: int, many: int) -> Callable[[dict[str, str]], int]:
            return lambda p: one if p.get("symbol") else many

        r["GET /fapi/v1/ping"] = Route(lambda c: {}, 1, open_)
        r["GET /fapi/v1/time"] = Route(self.time, 1, open_)
        r["GET /fapi/v1/exchangeInfo"] = Route(self.exchange_info, 1, open_)
        r["GET /fapi/v1/depth"] = Route(self.depth, depth_weight, open_)
        r["GET /fapi/v1/trades"] = Route(self.trades, 5, open_)
        r["GET /fapi/v1/historicalTrades"] = Route(self.trades, 20, open_)
        r["GET /fapi/v1/aggTrades"] = Route(self.agg_trades, 20, open_)
        r["GET /fapi/v1/klines"] = Route(self.klines, 5, open_)
        r["GET /fapi/v1/premiumIndex"] = Route(self.premium_index, all_symbols(1, 10), open_)
        r["GET /fapi/v1/fundingRate"] = Route(lambda c: self.x.funding_history(c.params.get("symbol")), 1, open_)
        r["GET /fapi/v1/fundingInfo"] = Route(lambda c: [], 1, open_)
        for version in ("v1", "v2"):
            r[f"GET /fapi/{version}/ticker/price"] = Route(self.ticker_price, all_symbols(1, 2), open_)
        r["GET /fapi/v1/ticker/bookTicker"] = Route(self.ticker_book, all_symbols(2, 5), open_)
        r["GET /fapi/v1/ticker/24hr"] = Route(self.ticker_day, all_symbols(1, 40), open_)

        r["POST /fapi/v1/order"] = Route(self.order_place, 0, signed, "order.place")
        r["POST /fapi/v1/order/test"] = Route(lambda c: {}, 0, signed)
        r["PUT /fapi/v1/order"] = Route(self.order_modify, 1, signed, "order.modify")
        r["DELETE /fapi/v1/order"] = Route(self.order_cancel, 1, signed, "order.cancel")
        r["GET /fapi/v1/order"] = Route(self.order_status, 1, signed, "order.status")
        r["POST /fapi/v1/batchOrders"] = Route(self.batch_place, 5, signed)
        r["DELETE /fapi/v1/batchOrders"] = Route(self.batch_cancel, 1, signed)
        r["DELETE /fapi/v1/allOpenOrders"] = Route(self.cancel_all, 1, signed)
        r["POST /fapi/v1/countdownCancelAll"] = Route(self.countdown, 10, signed)
        r["GET /fapi/v1/openOrder"] = Route(self.open_order, 1, signed)
        r["GET /fapi/v1/openOrders"] = Route(self.open_orders, all_symbols(1, 40), signed)
        r["GET /fapi/v1/allOrders"] = Route(self.all_orders, 5, signed)
        r["GET /fapi/v1/userTrades"] = Route(self.user_trades, 5, signed)
        for verb in ("POST", "DELETE", "GET"):
            r[f"{verb} /fapi/v1/algoOrder"] = Route(self.unsupported, 1, signed)
        r["GET /fapi/v1/openAlgoOrders"] = Route(lambda c: [], 1, signed)
        r["GET /fapi/v1/allAlgoOrders"] = Route(lambda c: [], 5, signed)
        r["DELETE /fapi/v1/algoOpenOrders"] = Route(lambda c: {"code": 200, "msg": "done"}, 1, signed)

        r["POST /fapi/v1/listenKey"] = Route(self.listen_key_make, 1, keyed)
        r["PUT /fapi/v1/listenKey"] = Route(self.listen_key_keep, 1, keyed)
        r["DELETE /fapi/v1/listenKey"] = Route(self.listen_key_close, 1, keyed)

        r["GET /fapi/v1/positionSide/dual"] = Route(self.dual, 30, signed)
        r["POST /fapi/v1/positionSide/dual"] = Route(self.set_dual, 1, signed)
        r["GET /fapi/v1/multiAssetsMargin"] = Route(lambda c: {"multiAssetsMargin": False}, 30, signed)
        r["POST /fapi/v1/multiAssetsMargin"] = Route(self.set_multi_assets, 1, signed)
        r["POST /fapi/v1/marginType"] = Route(self.set_margin_type, 1, signed)
        r["POST /fapi/v1/leverage"] = Route(self.set_leverage, 1, signed)
        r["POST /fapi/v1/positionMargin"] = Route(self.position_margin, 1, signed)
        r["GET /fapi/v1/leverageBracket"] = Route(self.brackets, 1, signed)
        r["GET /fapi/v1/symbolConfig"] = Route(self.symbol_config, 5, signed)
        r["GET /fapi/v1/accountConfig"] = Route(self.account_config, 5, signed)
        r["GET /fapi/v1/rateLimit/order"] = Route(self.rate_limit_order, 1, signed)
        r["GET /fapi/v1/commissionRate"] = Route(self.commission_rate, 20, signed)
        r["GET /fapi/v1/income"] = Route(self.income, 30, signed)
        for version in ("v2", "v3"):
            r[f"GET /fapi/{version}/account"] = Route(getattr(self, f"account_{version}"), 5, signed)
            r[f"GET /fapi/{version}/balance"] = Route(self.balance, 5, signed)
        r["GET /fapi/v1/balance"] = Route(self.balance, 5, signed)
        r["GET /fapi/v1/account"] = Route(self.account_v2, 5, signed)
        r["GET /fapi/v1/positionRisk"] = Route(self.position_risk_v2, 5, signed)
        r["GET /fapi/v2/positionRisk"] = Route(self.position_risk_v2, 5, signed)
        r["GET /fapi/v3/positionRisk"] = Route(self.position_risk_v3, 5, signed)

        r["GET /sapi/v1/account/apiRestrictions"] = Route(self.restrictions, 1, signed)
        r["GET /sapi/v1/capital/config/getall"] = Route(lambda c: [], 10, signed)
        r["GET /sapi/v1/margin/allPairs"] = Route(lambda c: [], 1, keyed)
        r["GET /sapi/v1/margin/isolated/allPairs"] = Route(lambda c: [], 10, signed)
        # The spot and coin-margined sides exist only as far as client libraries ask for them while starting.
        r["GET /api/v3/ping"] = Route(lambda c: {}, 1, open_)
        r["GET /api/v3/time"] = Route(self.time, 1, open_)
        r["GET /api/v3/exchangeInfo"] = Route(self.empty_info, 1, open_)
        r["GET /dapi/v1/exchangeInfo"] = Route(self.empty_info, 1, open_)
        r["GET /dapi/v1/ping"] = Route(lambda c: {}, 1, open_)

        m["ping"] = Route(lambda c: {}, 1, open_)
        m["time"] = Route(self.time, 1, open_)
        m["exchangeInfo"] = Route(self.exchange_info, 1, open_)
        m["depth"] = Route(self.depth, depth_weight, open_)
        m["ticker.price"] = Route(self.ticker_price, all_symbols(1, 2), open_)
        m["ticker.book"] = Route(self.ticker_book, all_symbols(2, 5), open_)
        m["order.place"] = Route(self.order_place, 0, signed, "order.place")
        m["order.cancel"] = Route(self.order_cancel, 1, signed, "order.cancel")
        m["order.modify"] = Route(self.order_modify, 1, signed, "order.modify")
        m["order.status"] = Route(self.order_status, 1, signed, "order.status")
        m["v2/account.status"] = Route(self.account_v3, 5, signed)
        m["account.status"] = Route(self.account_v2, 5, signed)
        m["v2/account.balance"] = Route(self.balance, 5, signed)
        m["account.balance"] = Route(self.balance, 5, signed)
        m["v2/account.position"] = Route(self.position_risk_v3, 5, signed)
        m["account.position"] = Route(self.position_risk_v2, 5, signed)
        m["userDataStream.start"] = Route(self.listen_key_make, 5, keyed)
        m["userDataStream.ping"] = Route(self.listen_key_keep, 1, keyed)
        m["userDataStream.stop"] = Route(self.listen_key_close, 1, keyed)
        m["algoOrder.place"] = Route(self.unsupported, 1, signed)
        m["algoOrder.cancel"] = Route(self.unsupported, 1, signed)

    # -- helpers -----------------------------------------------------------------------------------------------------

    def symbol(self, call: Call, required: bool = True) -> int:
        """Index of the call's symbol, -1 when there is none and none is required."""
        name = call.params.get("symbol", "")
        if not name:
            if required:
                raise missing("symbol")
            return -1
        index = self.symbols.get(name)
        if index is None:
            raise Refused(-1121)
        return index

    def checked(self, code: int, symbol: int = -1) -> int:
        """The engine's answer to a changing call made from Python, with its events told; raises on a refusal."""
        value = self.engine.reject_value
        self.x.wire.drain()
        if code < 0:
            instrument = self.instruments[symbol] if symbol >= 0 else None
            raise Refused(code, refusal_text(code, instrument, value))
        return code

    def some(self, call: Call) -> list[int]:
        """The call's symbol, or all."""
        index = self.symbol(call, required=False)
        return [index] if index >= 0 else list(range(len(self.instruments)))

    def one_or_list(self, call: Call, make: Callable[[int], Any]) -> Any:
        rows = [make(index) for index in self.some(call)]
        return rows[0] if call.params.get("symbol") else rows

    def unsupported(self, call: Call) -> Any:
        raise Refused(-1020)

    # -- market ------------------------------------------------------------------------------------------------------

    def time(self, call: Call) -> Any:
        return {"serverTime": self.x.wire.server_ns() // 10**6}

    def empty_info(self, call: Call) -> Any:
        return {"timezone": "UTC", "serverTime": call.now_ns // 10**6, "rateLimits": [], "exchangeFilters": [], "symbols": []}

    def exchange_info(self, call: Call) -> Any:
        weight = self.x.limits.weight_per_minute
        return {
            "timezone": "UTC",
            "serverTime": call.now_ns // 10**6,
            "futuresType": "U_MARGINED",
            "rateLimits": [
                {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight},
                {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": ORDERS_PER_MINUTE},
                {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": ORDERS_PER_10S},
            ],
            "exchangeFilters": [],
            "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "0"}],
            "symbols": [self._symbol_info(spec) for spec in self.instruments],
        }

    def _symbol_info(self, spec: Instrument) -> dict[str, Any]:
        step = spec.qty_text(1)
        tick = spec.price_text(1)
        return {
            "symbol": spec.symbol,
            "pair": spec.symbol,
            "contractType": "PERPETUAL",
            "deliveryDate": 4133404800000,
            "onboardDate": 1569398400000,
            "status": "TRADING",
            "maintMarginPercent": "2.5000",
            "requiredMarginPercent": "5.0000",
            "baseAsset": spec.base,
            "quoteAsset": spec.quote,
            "marginAsset": spec.quote,
            "pricePrecision": spec.price_precision,
            "quantityPrecision": spec.qty_precision,
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "underlyingType": "COIN",
            "underlyingSubType": ["PoW"],
            "triggerProtect": "0.0500",
            "liquidationFee": e8(spec.liquidation_fee_ppm * 100, 6),
            "marketTakeBound": e8(spec.take_bound_ppm * 100, 2),
            "maxMoveOrderLimit": 10000,
            "filters": [
                {
                    "filterType": "PRICE_FILTER",
                    "minPrice": spec.price_text(spec.min_px),
                    "maxPrice": spec.price_text(spec.max_px),
                    "tickSize": tick,
                },
                {
                    "filterType": "LOT_SIZE",
                    "minQty": spec.qty_text(spec.min_qty),
                    "maxQty": spec.qty_text(spec.max_qty),
                    "stepSize": step,
                },
                {
                    "filterType": "MARKET_LOT_SIZE",
                    "minQty": spec.qty_text(spec.min_qty),
                    "maxQty": spec.qty_text(spec.market_max_qty),
                    "stepSize": step,
                },
                {"filterType": "MAX_NUM_ORDERS", "limit": spec.max_orders},
                {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": 10},
                {"filterType": "MIN_NOTIONAL", "notional": e8(spec.min_notional_e8).rstrip("0").rstrip(".")},
                {
                    "filterType": "PERCENT_PRICE",
                    "multiplierUp": e8(spec.up_ppm * 100, 4),
                    "multiplierDown": e8(spec.down_ppm * 100, 4),
                    "multiplierDecimal": "4",
                },
                {"filterType": "POSITION_RISK_CONTROL", "positionControlSide": "NONE"},
            ],
            "orderTypes": ["LIMIT", "MARKET"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
        }

    def depth(self, call: Call) -> Any:
        index = self.symbol(call)
        limit = call.whole("limit", 500)
        return self.depth_of(index, limit, call.now_ns)

    def depth_of(self, index: int, limit: int, now_ns: int) -> dict[str, Any]:
        update_id, bids, asks = self.engine.depth(index, limit)
        spec = self.instruments[index]
        now_ms = now_ns // 10**6
        return {
            "lastUpdateId": update_id,
            "E": now_ms,
            "T": now_ms,
            "bids": [[spec.price_text(px), spec.qty_text(qty)] for px, qty in bids],
            "asks": [[spec.price_text(px), spec.qty_text(qty)] for px, qty in asks],
        }

    def _last_trades(self, index: int, limit: int) -> list[tuple[int, ...]]:
        rows: list[tuple[int, ...]] = []
        before = self.engine.n_trades()
        while before > 0 and len(rows) < limit:
            start = max(before - 1000, 0)
            block = [t for t in self.engine.trades_after(start - 1, before - start) if t[2] == index]
            rows = block + rows
            before = start
        return rows[-limit:]

    def trades(self, call: Call) -> Any:
        index = self.symbol(call)
        spec = self.instruments[index]
        return [
            {
                "id": t[1],
                "price": spec.price_text(t[3]),
                "qty": spec.qty_text(t[4]),
                "quoteQty": e8(t[3] * t[4] * spec.value_mul, 2),
                "time": t[5] // 10**6,
                "isBuyerMaker": t[6] < 0,
                "isRPITrade": False,
            }
            for t in self._last_trades(index, min(call.whole("limit", 500), 1000))
        ]

    def agg_trades(self, call: Call) -> Any:
        index = self.symbol(call)
        spec = self.instruments[index]
        return [
            {
                "a": t[1],
                "p": spec.price_text(t[3]),
                "q": spec.qty_text(t[4]),
                "f": t[1],
                "l": t[1],
                "T": t[5] // 10**6,
                "m": t[6] < 0,
            }
            for t in self._last_trades(index, min(call.whole("limit", 500), 1000))
        ]

    def klines(self, call: Call) -> Any:
        """Candles of the recorded trades (the newest 10,000 of the symbol); intervals without a trade are left out."""
        index = self.symbol(call)
        spec = self.instruments[index]
        width = KLINE_MS.get(call.need("interval"))
        if width is None:
            raise Refused(-1120, "Invalid interval.")
        candles: dict[int, list[int]] = {}
        for t in self._last_trades(index, 10_000):
            start = t[5] // 10**6 // width * width
            row = candles.setdefault(start, [t[3], t[3], t[3], t[3], 0, 0, 0, 0, 0])
            row[1], row[2], row[3] = max(row[1], t[3]), min(row[2], t[3]), t[3]
            value = t[3] * t[4] * spec.value_mul
            row[4] += t[4]
            row[5] += value
            row[6] += 1
            if t[6] > 0:
                row[7] += t[4]
                row[8] += value
        return [
            [
                start,
                *(spec.price_text(px) for px in row[:4]),
                spec.qty_text(row[4]),
                start + width - 1,
                e8(row[5]),
                row[6],
                spec.qty_text(row[7]),
                e8(row[8]),
                "0",
            ]
            for start, row in sorted(candles.items())
        ][-call.whole("limit", 500) :]

    def premium_index(self, call: Call) -> Any:
        def row(index: int) -> dict[str, Any]:
            spec = self.instruments[index]
            mark = e8(self.engine.mark(index) * spec.tick_e8)
            return {
                "symbol": spec.symbol,
                "markPrice": mark,
                "indexPrice": mark,
                "estimatedSettlePrice": mark,
                "lastFundingRate": e8(self.x.funding_rate_e8),
                "interestRate": "0.00010000",
                "nextFundingTime": self.x.next_funding_ms(call.now_ns),
                "time": call.now_ns // 10**6,
            }

        return self.one_or_list(call, row)

    def ticker_price(self, call: Call) -> Any:
        def row(index: int) -> dict[str, Any]:
            spec = self.instruments[index]
            return {
                "symbol": spec.symbol,
                "price": spec.price_text(self.engine.last_price(index) or self.engine.mark(index)),
                "time": call.now_ns // 10**6,
            }

        return self.one_or_list(call, row)

    def ticker_book(self, call: Call) -> Any:
        def row(index: int) -> dict[str, Any]:
            spec = self.instruments[index]
            bid, bid_qty, ask, ask_qty = self.engine.top(index)
            return {
                "symbol": spec.symbol,
                "bidPrice": spec.price_text(bid),
                "bidQty": spec.qty_text(bid_qty),
                "askPrice": spec.price_text(ask),
                "askQty": spec.qty_text(ask_qty),
                "time": call.now_ns // 10**6,
                "lastUpdateId": self.engine.depth(index, 1)[0],
            }

        return self.one_or_list(call, row)

    def ticker_day(self, call: Call) -> Any:
        def row(index: int) -> dict[str, Any]:
            spec = self.instruments[index]
            rows = self._last_trades(index, 1000)
            last = spec.price_text(self.engine.last_price(index) or self.engine.mark(index))
            first = spec.price_text(rows[0][3]) if rows else last
            prices = [t[3] for t in rows] or [self.engine.mark(index)]
            return {
                "symbol": spec.symbol,
                "priceChange": "0",
                "priceChangePercent": "0",
                "weightedAvgPrice": last,
                "lastPrice": last,
                "lastQty": spec.qty_text(rows[-1][4]) if rows else "0",
                "openPrice": first,
                "highPrice": spec.price_text(max(prices)),
                "lowPrice": spec.price_text(min(prices)),
                "volume": spec.qty_text(sum(t[4] for t in rows)),
                "quoteVolume": e8(sum(t[3] * t[4] for t in rows) * spec.value_mul),
                "openTime": call.now_ns // 10**6 - 86_400_000,
                "closeTime": call.now_ns // 10**6,
                "firstId": rows[0][1] if rows else 0,
                "lastId": rows[-1][1] if rows else 0,
                "count": len(rows),
            }

        return self.one_or_list(call, row)

    # -- orders ------------------------------------------------------------------------------------------------------

    def order_place(self, call: Call) -> Any:
        assert call.key is not None
        code = self.x.wire.count_new_order(call.key)
        if code < 0:
            raise self.order_refused(call, code, None)
        self.still_fresh(call)
        return self.place(call)

    def still_fresh(self, call: Call) -> None:
        """The matching engine checks ``recvWindow`` once more: a request held up on the way is refused there."""
        stamp, window = call.params.get("timestamp", ""), call.params.get("recvWindow") or "5000"
        if stamp.isdigit() and self.x.wire.server_ns() // 10**6 - int(stamp) > int(window):
            raise Refused(-5028)

    def place(self, call: Call) -> bytes:
        """Place what the parameters say, without counting it."""
        params = {k.encode(): v.encode() for k, v in call.params.items()}
        slot, about, result = self.x.wire.place(call.key, params)
        if slot < 0:
            raise self.order_refused(call, slot, about)
        return self.x.wire.order_json(slot, result, False)

    def order_refused(self, call: Call, code: int, about: str | None) -> Refused:
        index = self.symbols.get(call.params.get("symbol", ""), -1)
        spec = self.instruments[index] if index >= 0 else None
        return wire_refusal(code, about, spec, self.engine.reject_value)

    def find(self, call: Call, unknown: int) -> int:
        """Slot of the order a request names by orderId or origClientOrderId; refused with ``unknown`` when there is none."""
        index = self.symbol(call)
        if call.params.get("orderId"):
            slot = self.engine.find_order(call.account, index, call.whole("orderId"), call.now_ns)
        elif call.params.get("origClientOrderId"):
            client = call.params["origClientOrderId"].encode()
            slot = self.engine.find_client(call.account, index, client, call.now_ns)
        else:
            raise Refused(-1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!")
        if slot < 0:
            raise Refused(unknown)
        return slot

    def order_status(self, call: Call) -> Any:
        return self.x.wire.order_json(self.find(call, -2013))

    def open_order(self, call: Call) -> Any:
        slot = self.find(call, -2013)
        if self.engine.order(slot)[10] > 1:
            raise Refused(-2013)
        return self.x.wire.order_json(slot)

    def order_cancel(self, call: Call) -> Any:
        slot = self.find(call, -2011)
        self.checked(self.engine.cancel(call.account, slot, call.now_ns))
        return self.x.wire.order_json(slot, True, True)

    def order_modify(self, call: Call) -> Any:
        assert call.key is not None
        code = self.x.wire.count_new_order(call.key)
        if code < 0:
            raise Refused(code)
        slot = self.find(call, -2013)
        index = self.symbol(call)
        if call.need("side") != ("BUY" if self.engine.order(slot)[5] > 0 else "SELL"):
            raise Refused(-1117)
        qty = self.engine.parse_qty(index, call.need("quantity").encode())
        if qty < 0:
            raise wire_refusal(qty, "quantity", self.instruments[index])
        px = self.engine.parse_px(index, call.need("price").encode())
        if px < 0:
            raise wire_refusal(px, "price", self.instruments[index])
        self.checked(self.engine.modify(call.account, slot, qty, px, call.now_ns), index)
        return self.x.wire.order_json(slot, True, True)

    def batch_place(self, call: Call) -> Any:
        """At most five orders; each succeeds or fails by itself; 5 on the 10 s counter, 1 on the minute's."""
        assert call.key is not None
        try:
            items = orjson.loads(call.need("batchOrders"))
        except orjson.JSONDecodeError:
            raise missing("batchOrders") from None
        if not isinstance(items, list) or not 1 <= len(items) <= 5 or not all(isinstance(i, dict) for i in items):
            raise Refused(-4082, "Invalid number of batch place orders.")
        code = self.x.wire.count_new_order(call.key)
        if code < 0:
            raise Refused(code)
        call.key.meter.add(call.now_ns, 4, 0)
        answers: list[Any] = []
        for item in items:
            one = Call({k: _text(v) for k, v in item.items() if v is not None}, call.key, call.now_ns, call.ip)
            try:
                answers.append(orjson.Fragment(self.place(one)))
            except Refused as refused:
                answers.append({"code": refused.code, "msg": refused.message})
        return answers

    def batch_cancel(self, call: Call) -> Any:
        names = ("orderIdList", "orderId"), ("origClientOrderIdList", "origClientOrderId")
        answers: list[Any] = []
        for list_name, name in names:
            if not call.params.get(list_name):
                continue
            try:
                values = orjson.loads(call.params[list_name])
            except orjson.JSONDecodeError:
                raise missing(list_name) from None
            for value in values[:10]:
                one = Call({"symbol": call.need("symbol"), name: str(value)}, call.key, call.now_ns, call.ip)
                try:
                    answers.append(orjson.Fragment(self.order_cancel(one)))
                except Refused as refused:
                    answers.append({"code": refused.code, "msg": refused.message})
        if not answers:
            raise missing("orderIdList")
        return answers

    def cancel_all(self, call: Call) -> Any:
        self.checked(self.engine.cancel_all(call.account, self.symbol(call), call.now_ns))
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def countdown(self, call: Call) -> Any:
        index = self.symbol(call)
        after_ms = call.whole("countdownTime")
        self.x.countdown(call.account, index, after_ms)
        return {"symbol": self.instruments[index].symbol, "countdownTime": str(after_ms)}

    def open_orders(self, call: Call) -> Any:
        slots = self.engine.open_orders(call.account, self.symbol(call, required=False))
        return [orjson.Fragment(self.x.wire.order_json(slot)) for slot in slots]

    def all_orders(self, call: Call) -> Any:
        index = self.symbol(call, required=False)
        limit = min(call.whole("limit", 500), 1000)
        first = call.whole("orderId", 0)
        start, end = call.whole("startTime", 0) * 10**6, call.whole("endTime", 1 << 42) * 10**6
        rows = [self.engine.order(s) for s in self.engine.orders_of(call.account, index, 1_000_000, -1, start)]
        kept = [o[0] for o in rows if o[1] >= first and start <= o[16] <= end]
        kept = kept[:limit] if first or start else kept[-limit:]
        return [orjson.Fragment(self.x.wire.order_json(slot)) for slot in kept]

    def user_trades(self, call: Call) -> Any:
        index = self.symbol(call, required=False)
        limit = min(call.whole("limit", 500), 1000)
        first, order_id = call.whole("fromId", 0), call.whole("orderId", 0)
        start, end = call.whole("startTime", 0) * 10**6, call.whole("endTime", 1 << 42) * 10**6
        rows: list[dict[str, Any]] = []
        onward = first or start
        most = 1_000_000 if onward or order_id else limit
        for t in self.engine.trades_of(call.account, index, most, 0, start, first):
            if onward and len(rows) >= limit:
                break
            if t[1] < first or not start <= t[5] <= end:
                continue
            for buyer, at in ((True, 7), (False, 12)):
                if t[at] == call.account and (not order_id or t[at + 1] == order_id):
                    rows.append(self._user_trade(t, buyer, at))
        return rows[:limit] if onward else rows[-limit:]

    def _user_trade(self, t: tuple[int, ...], buyer: bool, at: int) -> dict[str, Any]:
        spec = self.instruments[t[2]]
        return {
            "buyer": buyer,
            "commission": e8(t[at + 2]),
            "commissionAsset": "USDT",
            "id": t[1],
            "maker": (t[6] < 0) == buyer,
            "orderId": t[at + 1],
            "price": spec.price_text(t[3]),
            "qty": spec.qty_text(t[4]),
            "quoteQty": e8(t[3] * t[4] * spec.value_mul),
            "realizedPnl": e8(t[at + 3]),
            "side": "BUY" if buyer else "SELL",
            "positionSide": POSITION_SIDES[t[at + 4]],
            "symbol": spec.symbol,
            "time": t[5] // 10**6,
        }

    # -- user stream keys --------------------------------------------------------------------------------------------

    def listen_key_make(self, call: Call) -> Any:
        return {"listenKey": self.x.streams.make_key(call.account, call.now_ns)}

    def listen_key_keep(self, call: Call) -> Any:
        key = self.x.streams.keep_key(call.account, call.now_ns)
        if key is None:
            raise Refused(-1125)
        return {"listenKey": key}

    def listen_key_close(self, call: Call) -> Any:
        self.x.streams.close_key(call.account)
        return {}

    # -- modes -------------------------------------------------------------------------------------------------------

    def dual(self, call: Call) -> Any:
        return {"dualSidePosition": self.engine.is_hedge(call.account)}

    def set_dual(self, call: Call) -> Any:
        hedge = flag(call.need("dualSidePosition"))
        self.checked(self.engine.set_position_mode(call.account, hedge, call.now_ns))
        return {"code": 200, "msg": "success"}

    def set_multi_assets(self, call: Call) -> Any:
        if flag(call.need("multiAssetsMargin")):
            raise Refused(-1020)
        raise Refused(-4171)

    def set_margin_type(self, call: Call) -> Any:
        index = self.symbol(call)
        kinds = {"ISOLATED": MARGIN_ISOLATED, "CROSSED": MARGIN_CROSSED}
        kind = kinds.get(call.need("marginType"))
        if kind is None:
            raise Refused(-1130, WIRE_REFUSALS[-1130].format("marginType"))
        self.checked(self.engine.set_margin_type(call.account, index, kind, call.now_ns), index)
        return {"code": 200, "msg": "success"}

    def set_leverage(self, call: Call) -> Any:
        index = self.symbol(call)
        leverage = call.whole("leverage")
        self.checked(self.engine.set_leverage(call.account, index, leverage, call.now_ns), index)
        return {
            "leverage": leverage,
            "maxNotionalValue": str(self.engine.max_notional_e8(index, leverage) // E8),
            "symbol": self.instruments[index].symbol,
        }

    def position_margin(self, call: Call) -> Any:
        index = self.symbol(call)
        amount = money_e8(call.need("amount"), "amount")
        side = side_index(call.params.get("positionSide", "BOTH"))
        kind = call.whole("type")
        if kind not in (1, 2):
            raise missing("type")
        signed = amount if kind == 1 else -amount
        self.checked(self.engine.move_isolated_margin(call.account, index, side, signed, call.now_ns), index)
        return {"amount": float(call.need("amount")), "code": 200, "msg": "Successfully modify position margin.", "type": kind}

    def brackets(self, call: Call) -> Any:
        return [
            {
                "symbol": self.instruments[index].symbol,
                "notionalCoef": 1.0,
                "brackets": [
                    {
                        "bracket": tier.bracket,
                        "initialLeverage": tier.max_leverage,
                        "notionalCap": tier.cap_e8 // E8,
                        "notionalFloor": tier.floor_e8 // E8,
                        "maintMarginRatio": tier.mmr_ppm / 1e6,
                        "cum": tier.cum_e8 / E8,
                    }
                    for tier in self.instruments[index].tiers
                ],
            }
            for index in self.some(call)
        ]

    def symbol_config(self, call: Call) -> Any:
        rows = []
        for index in self.some(call):
            leverage, margin_type, _ = self.engine.account_config(call.account, index)
            rows.append(
                {
                    "symbol": self.instruments[index].symbol,
                    "marginType": "ISOLATED" if margin_type == MARGIN_ISOLATED else "CROSSED",
                    "isAutoAddMargin": False,
                    "leverage": leverage,
                    "maxNotionalValue": str(self.engine.max_notional_e8(index, leverage) // E8),
                }
            )
        return rows

    def account_config(self, call: Call) -> Any:
        assert call.key is not None
        return {
            "feeTier": 0,
            "canTrade": call.key.can_trade,
            "canDeposit": True,
            "canWithdraw": False,
            "dualSidePosition": self.engine.is_hedge(call.account),
            "updateTime": 0,
            "multiAssetsMargin": False,
            "tradeGroupId": -1,
        }

    def rate_limit_order(self, call: Call) -> Any:
        return [
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": ORDERS_PER_10S},
            {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": ORDERS_PER_MINUTE},
        ]

    def commission_rate(self, call: Call) -> Any:
        maker, taker = self.x.fees_ppm(call.account)
        return {
            "symbol": self.instruments[self.symbol(call)].symbol,
            "makerCommissionRate": e8(maker * 100, 6),
            "takerCommissionRate": e8(taker * 100, 6),
            "rpiCommissionRate": e8(maker * 100, 6),
        }

    # -- account -----------------------------------------------------------------------------------------------------

    def income(self, call: Call) -> Any:
        wanted = call.params.get("incomeType", "")
        index = self.symbol(call, required=False)
        start, end = call.whole("startTime", 0) * 10**6, call.whole("endTime", 1 << 42) * 10**6
        rows: list[tuple[int, int, str, int, str, int]] = []  # (ts, transaction id, type, symbol, info, amount e8)
        if wanted in ("", "TRANSFER", "FUNDING_FEE", "INSURANCE_CLEAR"):
            for number, ts, _, symbol, kind, amount in self.engine.incomes_of(call.account, 1_000_000):
                name = INCOME_TYPES.get(kind, "")
                if name and wanted in ("", name) and (index < 0 or symbol == index):
                    rows.append((ts, number + 1, name, symbol, "", amount))
        if wanted in ("", "COMMISSION", "REALIZED_PNL"):
            for t in self.engine.trades_of(call.account, index, 1_000_000, 0, start):
                for at in (7, 12):
                    if t[at] != call.account:
                        continue
                    if wanted in ("", "COMMISSION") and t[at + 2]:
                        rows.append((t[5], t[0] + 1, "COMMISSION", t[2], str(t[1]), -t[at + 2]))
                    if wanted in ("", "REALIZED_PNL") and t[at + 3]:
                        rows.append((t[5], t[0] + 1, "REALIZED_PNL", t[2], str(t[1]), t[at + 3]))
        rows = sorted(row for row in rows if start <= row[0] <= end)
        limit = min(call.whole("limit", 100), 1000)
        return [
            {
                "symbol": self.instruments[symbol].symbol if symbol >= 0 else "",
                "incomeType": name,
                "income": e8(amount),
                "asset": "USDT",
                "info": info,
                "time": ts // 10**6,
                "tranId": number,
                "tradeId": info,
            }
            for ts, number, name, symbol, info, amount in (rows[:limit] if start else rows[-limit:])
        ]

    def _totals(self, call: Call) -> dict[str, Any]:
        wallet, cross_wallet, cross_upnl, iso_upnl, position_im, order_im, maint, _, available, _ = self.engine.account_state(
            call.account
        )
        self.x.note_read(call, wallet + cross_upnl + iso_upnl)
        upnl = cross_upnl + iso_upnl
        return {
            "totalInitialMargin": e8(position_im + order_im),
            "totalMaintMargin": e8(maint),
            "totalWalletBalance": e8(wallet),
            "totalUnrealizedProfit": e8(upnl),
            "totalMarginBalance": e8(wallet + upnl),
            "totalPositionInitialMargin": e8(position_im),
            "totalOpenOrderInitialMargin": e8(order_im),
            "totalCrossWalletBalance": e8(cross_wallet),
            "totalCrossUnPnl": e8(cross_upnl),
            "availableBalance": e8(available),
            "maxWithdrawAmount": e8(max(0, min(available, cross_wallet))),
            "assets": [
                {
                    "asset": "USDT",
                    "walletBalance": e8(wallet),
                    "unrealizedProfit": e8(upnl),
                    "marginBalance": e8(wallet + upnl),
                    "maintMargin": e8(maint),
                    "initialMargin": e8(position_im + order_im),
                    "positionInitialMargin": e8(position_im),
                    "openOrderInitialMargin": e8(order_im),
                    "crossWalletBalance": e8(cross_wallet),
                    "crossUnPnl": e8(cross_upnl),
                    "availableBalance": e8(available),
                    "maxWithdrawAmount": e8(max(0, min(available, cross_wallet))),
                    "marginAvailable": True,
                    "updateTime": call.now_ns // 10**6,
                }
            ],
        }

    def account_v2(self, call: Call) -> Any:
        assert call.key is not None
        head = {
            "feeTier": 0,
            "feeBurn": True,
            "canTrade": call.key.can_trade,
            "canDeposit": True,
            "canWithdraw": False,
            "updateTime": 0,
            "multiAssetsMargin": False,
            "tradeGroupId": -1,
        }
        return {**head, **self._totals(call), "positions": [self._account_position(p, True) for p in self._legs(call, True)]}

    def account_v3(self, call: Call) -> Any:
        return {**self._totals(call), "positions": [self._account_position(p, False) for p in self._legs(call, False)]}

    def balance(self, call: Call) -> Any:
        wallet, cross_wallet, cross_upnl, iso_upnl, _, _, _, _, available, _ = self.engine.account_state(call.account)
        self.x.note_read(call, wallet + cross_upnl + iso_upnl)
        return [
            {
                "accountAlias": f"sim{call.account}",
                "asset": "USDT",
                "balance": e8(wallet),
                "crossWalletBalance": e8(cross_wallet),
                "crossUnPnl": e8(cross_upnl),
                "availableBalance": e8(available),
                "maxWithdrawAmount": e8(max(0, min(available, cross_wallet))),
                "marginAvailable": True,
                "updateTime": call.now_ns // 10**6,
            }
        ]

    def _legs(self, call: Call, every: bool) -> list[Leg]:
        """The account's positions: all legs of its mode, or only those with a position or an open order."""
        hedge = self.engine.is_hedge(call.account)
        legs = []
        for index in self.some(call):
            leverage, margin_type, open_orders = self.engine.account_config(call.account, index)
            for side in (1, 2) if hedge else (POS_BOTH,):
                qty, cost, iso, _, updated, upnl, liquidation = self.engine.position(call.account, index, side)
                if not every and qty == 0 and open_orders == 0:
                    continue
                notional, position_im, order_im, maint = self.engine.position_margins(call.account, index, side)
                legs.append(
                    Leg(
                        self.instruments[index],
                        POSITION_SIDES[side],
                        qty,
                        cost,
                        iso,
                        updated // 10**6,
                        upnl,
                        liquidation,
                        notional,
                        position_im,
                        order_im,
                        maint,
                        leverage,
                        margin_type == MARGIN_ISOLATED,
                        self.engine.mark(index),
                        self.engine.max_notional_e8(index, leverage),
                    )
                )
        return legs

    def _account_position(self, leg: Leg, old: bool) -> dict[str, Any]:
        row = {
            "symbol": leg.spec.symbol,
            "positionSide": leg.side,
            "positionAmt": leg.spec.qty_text(leg.qty),
            "unrealizedProfit": e8(leg.upnl),
            "isolatedMargin": e8(leg.iso + leg.upnl if leg.isolated and leg.qty else 0),
            "notional": e8(leg.notional),
            "isolatedWallet": e8(leg.iso),
            "initialMargin": e8(leg.position_im + leg.order_im),
            "maintMargin": e8(leg.maint),
            "updateTime": leg.updated_ms,
        }
        if old:
            row |= {
                "positionInitialMargin": e8(leg.position_im),
                "openOrderInitialMargin": e8(leg.order_im),
                "leverage": str(leg.leverage),
                "isolated": leg.isolated,
                "entryPrice": e8(leg.entry_e8),
                "breakEvenPrice": e8(leg.entry_e8),
                "maxNotional": str(leg.max_notional_e8 // E8),
                "bidNotional": "0",
                "askNotional": "0",
            }
        return row

    def _risk(self, leg: Leg) -> dict[str, Any]:
        return {
            "symbol": leg.spec.symbol,
            "positionSide": leg.side,
            "positionAmt": leg.spec.qty_text(leg.qty),
            "entryPrice": e8(leg.entry_e8),
            "breakEvenPrice": e8(leg.entry_e8),
            "markPrice": e8(leg.mark * leg.spec.tick_e8),
            "unRealizedProfit": e8(leg.upnl),
            "liquidationPrice": leg.spec.price_text(leg.liquidation) if leg.liquidation else "0",
            "isolatedMargin": e8(leg.iso + leg.upnl if leg.isolated and leg.qty else 0),
            "notional": e8(leg.notional),
            "isolatedWallet": e8(leg.iso),
            "updateTime": leg.updated_ms,
        }

    def position_risk_v3(self, call: Call) -> Any:
        return [
            {
                **self._risk(leg),
                "marginAsset": leg.spec.quote,
                "initialMargin": e8(leg.position_im + leg.order_im),
                "maintMargin": e8(leg.maint),
                "positionInitialMargin": e8(leg.position_im),
                "openOrderInitialMargin": e8(leg.order_im),
                "adl": 1 if leg.qty else 0,
                "bidNotional": "0",
                "askNotional": "0",
            }
            for leg in self._legs(call, False)
        ]

    def position_risk_v2(self, call: Call) -> Any:
        return [
            {
                **self._risk(leg),
                "maxNotionalValue": str(leg.max_notional_e8 // E8),
                "leverage": str(leg.leverage),
                "marginType": "isolated" if leg.isolated else "cross",
                "isAutoAddMargin": "false",
            }
            for leg in self._legs(call, True)
        ]

    def restrictions(self, call: Call) -> Any:
        assert call.key is not None
        return {
            "ipRestrict": True,
            "createTime": 1698645219000,
            "enableReading": True,
            "enableWithdrawals": False,
            "enableInternalTransfer": False,
            "enableMargin": False,
            "enableFutures": call.key.can_trade,
            "permitsUniversalTransfer": False,
            "enableVanillaOptions": False,
            "enableFixApiTrade": False,
            "enableFixReadOnly": True,
            "enableSpotAndMarginTrading": False,
            "enablePortfolioMarginTrading": False,
            **self.x.restrictions.get(call.account, {}),
        }


class Route(msgspec.Struct, frozen=True):
    """A request: what answers it, what it weighs, who may ask (open, keyed, signed), its name for fault rules."""

    handler: Callable[[Call], Any]
    weight: int | Callable[[dict[str, str]], int]
    access: str
    name: str = ""

    def weigh(self, params: dict[str, str]) -> int:
        return self.weight if isinstance(self.weight, int) else self.weight(params)


class Leg(msgspec.Struct, frozen=True):
    """One position of one account with everything the account endpoints show of it; money in 1e-8 USDT."""

    spec: Instrument
    side: str
    qty: int
    cost: int
    iso: int
    updated_ms: int
    upnl: int
    liquidation: int
    notional: int
    position_im: int
    order_im: int
    maint: int
    leverage: int
    isolated: bool
    mark: int
    max_notional_e8: int

    @property
    def entry_e8(self) -> int:
        """Average entry price in 1e-8 USDT, cut."""
        return abs(self.cost) * E8 // (abs(self.qty) * self.spec.lot_e8) if self.qty else 0


def depth_weight(params: dict[str, str]) -> int:
    limit = params.get("limit", "500")
    size = int(limit) if limit.isdigit() else 500
    return 2 if size <= 50 else 5 if size <= 100 else 10 if size <= 500 else 20


def side_index(name: str) -> int:
    if name not in POSITION_SIDES:
        raise Refused(-1130, WIRE_REFUSALS[-1130].format("positionSide"))
    return POSITION_SIDES.index(name)


def money_e8(text: str, name: str) -> int:
    """A decimal text as 1e-8 USDT; more than 8 digits or no number at all is -1102."""
    whole, _, part = text.partition(".")
    if not (whole + part).isdigit() or len(part) > 8:
        raise missing(name)
    return int(whole or "0") * E8 + int(part.ljust(8, "0"))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
