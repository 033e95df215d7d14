"""The OKX v5 dialect: USDT-margined perpetuals, REST and WebSocket, over the USD-M style engine.

What is the venue's: signatures, contracts as the unit of quantity (``ctVal``), order and position words, codes, client ids unique
among open orders, two hours' memory of orders that ended unfilled, reduce-only orders refused whole, the margin type in each
order, pushes. What is the engine's: one margin type and one leverage per account and instrument at a time, so an order of the
other margin type is refused while the instrument holds a position or an order. The venue's spot market: ``okx_spot``.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl

import msgspec
import orjson

from copyd._fast import sim_engine as eng
from copyd.exchange.dialect import Answer, Conn, Host, Owner, Request, Terms, Work
from copyd.exchange.model import E8, INSTRUMENTS, Instrument

MS: Final = 10**6
TOLERANCE_MS: Final = 30_000
HOUR_NS: Final = 3_600 * 10**9
DAY_NS: Final = 24 * HOUR_NS
UNFILLED_KEPT_NS: Final = 2 * HOUR_NS
PAGE_MAX: Final = 100
BATCH_MAX: Final = 20
SUBSCRIBES_PER_HOUR: Final = 480
#: What one contract is worth of the base asset, 1e-8.
CONTRACT_E8: Final = {"BTC": E8 // 100, "ETH": E8 // 10}
CLIENT_ID: Final = re.compile(r"[A-Za-z0-9]{1,32}\Z")
STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")
STATES: Final = ("live", "partially_filled", "filled", "canceled", "canceled", "canceled")
POS_SIDES: Final = ("net", "long", "short")
SIDES: Final = {"buy": eng.SIDE_BUY, "sell": eng.SIDE_SELL}
ORDER_TYPES: Final = {
    "market": (eng.TYPE_MARKET, eng.TIF_GTC), "optimal_limit_ioc": (eng.TYPE_MARKET, eng.TIF_GTC),
    "limit": (eng.TYPE_LIMIT, eng.TIF_GTC), "ioc": (eng.TYPE_LIMIT, eng.TIF_IOC), "fok": (eng.TYPE_LIMIT, eng.TIF_FOK),
    "post_only": (eng.TYPE_LIMIT, eng.TIF_GTX),
}  # fmt: skip
MARGINS: Final = {"cross": eng.MARGIN_CROSSED, "isolated": eng.MARGIN_ISOLATED}
MARGIN_NAMES: Final = {eng.MARGIN_CROSSED: "cross", eng.MARGIN_ISOLATED: "isolated"}
CAUSES: Final = {
    eng.REASON_ORDER: "filled", eng.REASON_DEPOSIT: "transferred", eng.REASON_WITHDRAW: "transferred",
    eng.REASON_FUNDING_FEE: "funding_fee", eng.REASON_INSURANCE_CLEAR: "liquidation", eng.REASON_ADJUSTMENT: "liquidation",
    eng.REASON_MARGIN_TRANSFER: "adjust_margin", eng.REASON_MARGIN_TYPE_CHANGE: "adjust_margin",
}  # fmt: skip
#: Kinds of a bill: (type, subType when received, subType when paid).
BILLS: Final = {
    eng.REASON_DEPOSIT: ("1", "11", "12"), eng.REASON_WITHDRAW: ("1", "11", "12"), eng.REASON_FUNDING_FEE: ("8", "174", "173"),
    eng.REASON_INSURANCE_CLEAR: ("5", "104", "105"), eng.REASON_ADJUSTMENT: ("5", "104", "105"),
}  # fmt: skip
#: The engine's refusals of an order in the venue's words.
REFUSALS: Final[dict[int, tuple[int, str]]] = {
    -1121: (51001, "Instrument ID, Instrument ID code or Spread ID doesn't exist."),
    -1100: (51000, "Parameter sz error"),
    -1106: (51000, "Parameter reduceOnly error"),
    -1111: (51121, "Order quantity must be a multiple of the lot size."),
    -1115: (51000, "Parameter ordType error"),
    -1116: (51000, "Parameter ordType error"),
    -1117: (51000, "Parameter side error"),
    -2019: (51008, "Order failed. Insufficient USDT margin in account"),
    -2022: (51112, "Close order size exceeds available size for this position."),
    -2025: (51102, "Order failed, the number of pending orders for this instId can't be more than 200 (orders)"),
    -2027: (51004, "Order failed. The position would be more than the maximum position amount under current leverage."),
    -4001: (51000, "Parameter px error"),
    -4002: (51116, "Order price or trigger price exceeds the maximum."),
    -4003: (51000, "Parameter sz error"),
    -4004: (51020, "Your order should meet or exceed the minimum order amount."),
    -4005: (51005, "Your order amount exceeds the max order amount."),
    -4013: (51122, "Order price should higher than the min price"),
    -4014: (51000, "Parameter px error"),
    -4015: (51000, "Parameter clOrdId error"),
    -4016: (51137, "The highest price limit for buy orders was exceeded."),
    -4023: (51121, "Order quantity must be a multiple of the lot size."),
    -4024: (51138, "The lowest price limit for sell orders was exceeded."),
    -4061: (51000, "Parameter posSide error"),
    -4116: (51016, "Client order ID already exists."),
    -4131: (51006, "Order price is not within the price limit"),
    -4164: (51020, "Your order should meet or exceed the minimum order amount."),
    -5021: (51109, "No available offers."),
    -5022: (51109, "The post-only order would take liquidity."),
}
#: The engine's refusals of a setting.
SETTING_REFUSALS: Final[dict[int, tuple[int, str]]] = {
    -2027: (59106, "The position is above what this leverage allows."),
    -2028: (59103, "Account margin is insufficient and leverage is too low. Please increase the leverage."),
    -4028: (59102, "Leverage exceeds the maximum limit. Please lower the leverage."),
    -4047: (59112, "You have pending orders. Please cancel them before adjusting your leverage"),
    -4048: (59000, "Settings failed. Close any open positions or orders before modifying settings."),
    -4067: (59000, "Settings failed. Close any open positions or orders before modifying settings."),
    -4068: (59000, "Settings failed. Close any open positions or orders before modifying settings."),
    -4161: (59103, "Account margin is insufficient and leverage is too low. Please increase the leverage."),
}
#: What may be asked how often per account: (name of the limit, how many, ms).
LIMITS: Final = {
    "GET /api/v5/trade/order": ("query", 60, 2_000),
    "GET /api/v5/trade/orders-pending": ("pending", 60, 2_000),
    "GET /api/v5/trade/orders-history": ("history", 40, 2_000),
    "GET /api/v5/trade/orders-history-archive": ("archive", 20, 2_000),
    "GET /api/v5/trade/fills": ("fills", 60, 2_000),
    "GET /api/v5/trade/fills-history": ("fills_history", 10, 2_000),
    "GET /api/v5/account/balance": ("balance", 10, 2_000),
    "GET /api/v5/account/positions": ("positions", 10, 2_000),
    "GET /api/v5/account/config": ("config", 5, 2_000),
    "GET /api/v5/account/leverage-info": ("leverage_info", 20, 2_000),
    "POST /api/v5/account/set-leverage": ("set_leverage", 20, 2_000),
    "POST /api/v5/account/set-position-mode": ("set_position_mode", 5, 2_000),
    "GET /api/v5/account/bills": ("bills", 5, 1_000),
    "GET /api/v5/account/bills-archive": ("bills_archive", 5, 2_000),
}
#: The same per address.
PUBLIC_LIMITS: Final = {
    "GET /api/v5/public/time": ("time", 10, 2_000),
    "GET /api/v5/public/instruments": ("instruments", 20, 2_000),
}
PRIVATE_CHANNELS: Final = ("orders", "positions", "account", "balance_and_position", "liquidation-warning")
#: WebSocket operations about orders, and the one each is made of.
OPERATIONS: Final = {
    "order": "place", "batch-orders": "place", "cancel-order": "cancel", "batch-cancel-orders": "cancel", "amend-order": "amend",
    "batch-amend-orders": "amend",
}  # fmt: skip


class Refused(Exception):
    """A refusal in the venue's words; ``status``: of HTTP."""

    def __init__(self, code: int, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class State(msgspec.Struct):
    """What is known of a connection."""

    area: str  # private, public, business
    id: str
    channels: set[tuple[str, str]] = set()  # (channel, instId or "")
    subscribes: list[int] = []


class Asked(msgspec.Struct):
    """One order operation: its fields, read as far as the limits need."""

    fields: dict[str, Any]
    symbol: int
    client_id: str


def plain(value: int, digits: int) -> str:
    """``value`` x 10**-digits without trailing zeros."""
    whole, part = divmod(abs(value), 10**digits)
    text = f"{whole}.{part:0{digits}d}".rstrip("0").rstrip(".") if digits else str(whole)
    return f"-{text}" if value < 0 else text


def e8(value: int) -> str:
    return plain(value, 8)


def ms(ts_ns: int) -> str:
    return str(ts_ns // MS)


def absent(value: Any) -> bool:
    """The venue takes "" and null for nothing."""
    return value is None or value == ""


def need(fields: dict[str, Any], name: str) -> str:
    """A field as text; 50014 when there is none."""
    value = fields.get(name)
    if absent(value):
        raise Refused(50014, f"Parameter {name} can not be empty.", 400)
    return str(value)


def whole(fields: dict[str, Any], name: str, default: int) -> int:
    """A whole number; 51000 for another text."""
    text = str(fields.get(name) or "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise Refused(51000, f"Parameter {name} error", 400)
    return int(text)


def signature(owner: Owner, text: bytes) -> str:
    """Base64 of HMAC-SHA256."""
    return base64.b64encode(hmac.digest(owner.secret, text, hashlib.sha256)).decode()


def answer(rows: Any, code: int = 0, message: str = "", status: int = 200) -> Answer:
    return Answer(orjson.dumps({"code": str(code), "data": rows, "msg": message}), status)


def refusal(refused: Refused) -> Answer:
    return answer([], refused.code, refused.message, refused.status)


class Dialect:
    """The venue's words over one host."""

    name = "okx"
    #: The venue's word for what is traded here, and its number of the first instrument.
    inst_type = "SWAP"
    code_base = 10_458
    #: The mode of an account that was given none: 1 spot, 2 futures, 3 multi-currency, 4 portfolio.
    account_level = "2"
    refusals: ClassVar[dict[int, tuple[int, str]]] = REFUSALS
    #: What goes with a refusal for want of money.
    want_subcode = "1001"
    order_types: ClassVar[dict[str, tuple[int, int]]] = ORDER_TYPES
    operations: ClassVar[dict[str, str]] = OPERATIONS
    public_channels: tuple[str, ...] = ("bbo-tbt", "tickers", "mark-price", "funding-rate", "trades")
    #: Of these, what goes out by the clock as well.
    clock_channels: tuple[str, ...] = ("mark-price", "funding-rate")
    #: Nothing from the client for so long ends its connection.
    terms = Terms(idle_s=30.0, idle_close=(4004, "No data received in 30s."))
    #: The engine's instruments without a minimum value: the venue has none.
    instruments: tuple[Instrument, ...] = tuple(msgspec.structs.replace(spec, min_notional_e8=0) for spec in INSTRUMENTS)

    def __init__(self, host: Host) -> None:
        self.host, self.engine = host, host.engine
        self.ids = {self.inst_id(spec): index for index, spec in enumerate(host.instruments)}
        self.names = tuple(self.ids)
        self.contracts = tuple(self.contract_e8(spec) for spec in host.instruments)
        self.leverages: dict[tuple[int, int, str], int] = {}
        self.private: dict[int, list[Conn]] = {}
        self.public: dict[tuple[str, str], list[Conn]] = {}
        self.n_conns = 0
        self.unnamed: set[int] = set()  # slots of orders placed without a client id
        w = host.windows
        for name in ("place", "cancel", "amend"):
            w.define(name, 60, 2_000, sliding=True)
            w.define(f"{name}_batch", 300, 2_000, sliding=True)
        w.define("sub_account", 1_000, 2_000, sliding=True)
        w.define("connects", 3, 1_000, sliding=True)
        for name, limit, period_ms in (*LIMITS.values(), *PUBLIC_LIMITS.values()):
            w.define(name, limit, period_ms, sliding=True)
        self.open_paths: dict[str, Callable[[dict[str, Any]], Any]] = {
            "GET /api/v5/public/time": lambda q: [{"ts": ms(host.server_ns())}],
            "GET /api/v5/public/instruments": self.list_instruments,
            "GET /api/v5/public/mark-price": self.list_marks,
            "GET /api/v5/public/funding-rate": lambda q: [self.funding_row(self.index_of(q))],
            "GET /api/v5/public/price-limit": lambda q: [self.limit_row(self.index_of(q))],
            "GET /api/v5/market/ticker": lambda q: [self.ticker_row(self.index_of(q))],
            "GET /api/v5/market/tickers": lambda q: [self.ticker_row(i) for i in self.some(q)],
            "GET /api/v5/market/books": self.books,
            "GET /api/v5/market/trades": self.public_trades,
            "GET /api/v5/system/status": lambda q: [],
        }
        self.paths: dict[str, Callable[[Owner, dict[str, Any]], Any]] = {
            "GET /api/v5/asset/currencies": lambda o, q: [],
            "GET /api/v5/asset/balances": lambda o, q: [],
            "GET /api/v5/account/instruments": lambda o, q: self.list_instruments(q),
            "GET /api/v5/account/config": self.config,
            "GET /api/v5/account/balance": self.balance,
            "GET /api/v5/account/positions": self.list_positions,
            "GET /api/v5/account/leverage-info": self.leverage_info,
            "POST /api/v5/account/set-leverage": self.set_leverage,
            "POST /api/v5/account/set-position-mode": self.set_position_mode,
            "GET /api/v5/account/trade-fee": self.trade_fee,
            "GET /api/v5/account/bills": partial(self.bills, 7 * DAY_NS),
            "GET /api/v5/account/bills-archive": partial(self.bills, 90 * DAY_NS),
            "GET /api/v5/trade/account-rate-limit": lambda o, q: [{"accRateLimit": "1000", "ts": ms(host.server_ns())}],
        }
        #: Questions whose answers can be so many ms old.
        self.lagging: dict[str, Callable[[Owner, dict[str, Any], int], Any]] = {
            "GET /api/v5/trade/order": self.order,
            "GET /api/v5/trade/orders-pending": self.pending,
            "GET /api/v5/trade/orders-history": partial(self.history, 7 * DAY_NS),
            "GET /api/v5/trade/orders-history-archive": partial(self.history, 90 * DAY_NS),
            "GET /api/v5/trade/fills": partial(self.fills, 3 * DAY_NS),
            "GET /api/v5/trade/fills-history": partial(self.fills, 90 * DAY_NS),
        }
        self.order_paths = {
            "POST /api/v5/trade/order": ("place", False), "POST /api/v5/trade/batch-orders": ("place", True),
            "POST /api/v5/trade/cancel-order": ("cancel", False), "POST /api/v5/trade/cancel-batch-orders": ("cancel", True),
            "POST /api/v5/trade/amend-order": ("amend", False), "POST /api/v5/trade/amend-batch-orders": ("amend", True),
        }  # fmt: skip

    # -- instruments and market ------------------------------------------------------------------------------------------

    @staticmethod
    def inst_id(spec: Any) -> str:
        """The venue's name of an instrument."""
        return f"{spec.base}-{spec.quote}-SWAP"

    @staticmethod
    def contract_e8(spec: Any) -> int:
        """What one unit of quantity is of the base asset, 1e-8."""
        return CONTRACT_E8.get(spec.base, E8)

    def index_of(self, fields: dict[str, Any]) -> int:
        """Index of the instrument named by ``instId``; 51001 when there is none."""
        index = self.ids.get(need(fields, "instId"), -1)
        if index < 0:
            raise Refused(51001, "Instrument ID, Instrument ID code or Spread ID doesn't exist.")
        return index

    def some(self, fields: dict[str, Any]) -> list[int]:
        """The instruments a question is about: the one it names, or all of its type."""
        if fields.get("instType") not in (None, "", self.inst_type, "ANY"):
            return []
        if absent(fields.get("instId")):
            return list(range(len(self.names)))
        return [self.ids[name] for name in str(fields["instId"]).split(",") if name in self.ids]

    def listed(self, index: int) -> tuple[str, int]:
        """The venue's name of an instrument, and what a contract of it is of the base asset, 1e-8."""
        return self.names[index], self.contracts[index]

    def size(self, symbol: int, lots: int) -> str:
        """Lots as contracts."""
        return plain(lots * self.host.instruments[symbol].lot_e8 * E8 // self.contracts[symbol], 8)

    def lots(self, symbol: int, text: str) -> int:
        """Contracts as lots; an error of the engine below 0."""
        match = re.fullmatch(r"(\d{1,12})(?:\.(\d{1,8}))?", text)
        if match is None:
            return -1100
        contracts_e8 = int(match[1]) * E8 + int((match[2] or "").ljust(8, "0") or "0")
        lots, rest = divmod(contracts_e8 * self.contracts[symbol], self.host.instruments[symbol].lot_e8 * E8)
        if rest:
            return -4023
        return lots if lots > 0 else -4003

    def price(self, symbol: int, ticks: int) -> str:
        return e8(ticks * self.host.instruments[symbol].tick_e8)

    def average(self, symbol: int, value_e8: int, lots: int) -> str:
        """A mean price with more digits than a tick has; "" of nothing."""
        return plain(value_e8 * 10**16 // (lots * self.host.instruments[symbol].lot_e8), 16) if lots else ""

    def list_instruments(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        need(fields, "instType")
        return [self.instrument_row(index) for index in self.some(fields)]

    def instrument_row(self, index: int) -> dict[str, Any]:
        spec, lot = self.host.instruments[index], self.size(index, 1)
        family = f"{spec.base}-{spec.quote}"
        return {
            "instType": self.inst_type, "instId": self.names[index], "instIdCode": self.code_base + index, "instFamily": family,
            "uly": family, "baseCcy": "", "quoteCcy": "", "settleCcy": spec.quote, "ctVal": e8(self.contracts[index]),
            "ctMult": "1", "ctValCcy": spec.base, "ctType": "linear", "tickSz": self.price(index, 1), "lotSz": lot,
            "minSz": self.size(index, spec.min_qty), "maxLmtSz": self.size(index, spec.max_qty),
            "maxMktSz": self.size(index, spec.market_max_qty), "lever": str(spec.max_leverage), "state": "live",
            "ruleType": "normal", "listTime": "1569398400000", "expTime": "", "alias": "", "category": "1", "optType": "",
            "stk": "", "upcChg": [], "maxLmtAmt": "20000000", "maxMktAmt": "", "groupId": "2", "tradeQuoteCcyList": [],
        }  # fmt: skip

    def ticker_row(self, index: int) -> dict[str, Any]:
        bid, bid_qty, ask, ask_qty = self.engine.top(index)
        last = self.price(index, self.engine.last_price(index) or self.engine.mark(index))
        return {
            "instType": self.inst_type, "instId": self.names[index], "last": last, "lastSz": self.size(index, 1),
            "bidPx": self.price(index, bid) if bid else "", "bidSz": self.size(index, bid_qty) if bid else "",
            "askPx": self.price(index, ask) if ask else "", "askSz": self.size(index, ask_qty) if ask else "",
            "open24h": last, "high24h": last, "low24h": last, "vol24h": "0", "volCcy24h": "0", "sodUtc0": last, "sodUtc8": last,
            "ts": ms(self.host.server_ns()),
        }  # fmt: skip

    def bbo_row(self, index: int) -> dict[str, Any]:
        bid, bid_qty, ask, ask_qty = self.engine.top(index)
        return {
            "asks": [[self.price(index, ask), self.size(index, ask_qty), "0", "1"]] if ask else [],
            "bids": [[self.price(index, bid), self.size(index, bid_qty), "0", "1"]] if bid else [],
            "ts": ms(self.host.server_ns()), "seqId": self.engine.depth(index, 1)[0],
        }  # fmt: skip

    def mark_row(self, index: int) -> dict[str, Any]:
        mark = self.price(index, self.engine.mark(index))
        return {"instType": self.inst_type, "instId": self.names[index], "markPx": mark, "ts": ms(self.host.server_ns())}

    def list_marks(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        return [self.mark_row(index) for index in self.some(fields)]

    def funding_row(self, index: int) -> dict[str, Any]:
        now = self.host.server_ns()
        due = str(self.host.next_funding_ms(now))
        return {
            "instType": "SWAP", "instId": self.names[index], "fundingRate": e8(self.host.funding_rate_e8), "fundingTime": due,
            "nextFundingRate": "", "nextFundingTime": str(int(due) + 8 * 3_600_000), "method": "current_period", "ts": ms(now),
        }  # fmt: skip

    def limit_row(self, index: int) -> dict[str, Any]:
        spec, mark = self.host.instruments[index], self.engine.mark(index)
        return {
            "instType": self.inst_type, "instId": self.names[index], "buyLmt": self.price(index, mark * spec.up_ppm // 10**6),
            "sellLmt": self.price(index, mark * spec.down_ppm // 10**6), "ts": ms(self.host.server_ns()), "enabled": True,
        }  # fmt: skip

    def books(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        index = self.index_of(fields)
        _, bids, asks = self.engine.depth(index, min(whole(fields, "sz", 1), 400))
        sides = {
            name: [[self.price(index, px), self.size(index, qty), "0", "1"] for px, qty in levels]
            for name, levels in (("asks", asks), ("bids", bids))
        }
        return [{**sides, "ts": ms(self.host.server_ns())}]

    def public_trades(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        index = self.index_of(fields)
        found = [t for t in self.engine.trades_after(max(self.engine.n_trades() - 1_001, -1), 1_000) if t[2] == index]
        return [self.trade_row(index, t[3], t[4], t[1], t[6], t[5]) for t in reversed(found)][: whole(fields, "limit", PAGE_MAX)]

    def trade_row(self, index: int, px: int, qty: int, trade_id: int, side: int, ts_ns: int) -> dict[str, Any]:
        return {
            "instId": self.names[index], "tradeId": str(trade_id), "px": self.price(index, px), "sz": self.size(index, qty),
            "side": "buy" if side > 0 else "sell", "ts": ms(ts_ns),
        }  # fmt: skip

    # -- account ------------------------------------------------------------------------------------------------------------

    def level(self, owner: Owner) -> str:
        """The account's mode: 1 spot, 2 futures, 3 multi-currency, 4 portfolio."""
        return str(owner.rights.get("acctLv", self.account_level))

    def is_hedge(self, account: int) -> bool:
        """Whether the account keeps a position per side."""
        return self.engine.is_hedge(account)

    def config(self, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        hedge = self.is_hedge(owner.account)
        uid = str(10_000 + owner.account)
        return [{
            "uid": uid, "mainUid": str(owner.rights.get("mainUid", uid)), "acctLv": self.level(owner),
            "posMode": "long_short_mode" if hedge else "net_mode", "perm": str(owner.rights.get("perm", "read_only,trade")),
            "ip": str(owner.rights.get("ip", "127.0.0.1")), "label": owner.name, "level": "Lv1", "kycLv": "3", "roleType": "0",
            "type": "0", "acctStpMode": "cancel_maker", "autoLoan": False, "ctIsoMode": "automatic", "mgnIsoMode": "automatic",
            "greeksType": "PA", "settleCcy": "USDT", "settleCcyList": ["USDT"], "enableSpotBorrow": False, "feeType": "0",
        }]  # fmt: skip

    def detail(self, account: int) -> dict[str, Any]:
        """The margin asset: cash is without what isolated positions hold, equity is with everything."""
        state = self.engine.account_state(account)
        wallet, cross_wallet, cross_upnl, iso_upnl, position_im, order_im, maint, _, available, _ = state
        equity = wallet + cross_upnl + iso_upnl
        self.host.note_equity(account, equity, self.host.now_ns())
        free = e8(max(0, available))
        return {
            "ccy": "USDT", "eq": e8(equity), "eqUsd": e8(equity), "cashBal": e8(cross_wallet), "availBal": free, "availEq": free,
            "isoEq": e8(wallet - cross_wallet + iso_upnl), "isoUpl": e8(iso_upnl), "upl": e8(cross_upnl + iso_upnl),
            "frozenBal": e8(position_im + order_im), "ordFrozen": e8(order_im), "imr": e8(position_im), "mmr": e8(maint),
            "disEq": e8(equity), "liab": "", "interest": "", "stgyEq": "0", "uTime": ms(self.host.server_ns()),
        }  # fmt: skip

    def balance_row(self, account: int) -> dict[str, Any]:
        row = self.detail(account)
        return {
            "totalEq": row["eq"], "isoEq": row["isoEq"], "adjEq": "", "availEq": "", "imr": "", "mmr": "", "ordFroz": "",
            "uTime": row["uTime"], "details": [row],
        }  # fmt: skip

    def balance(self, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        row = self.balance_row(owner.account)
        wanted = str(fields.get("ccy") or "USDT").split(",")
        return [{**row, "details": row["details"] if "USDT" in wanted else []}]

    def position_row(self, account: int, symbol: int, pos_side: int) -> dict[str, Any]:
        spec = self.host.instruments[symbol]
        qty, cost, iso, realised, updated, upnl, liquidation = self.engine.position(account, symbol, pos_side)
        notional, position_im, _, maint = self.engine.position_margins(account, symbol, pos_side)
        leverage, margin_type, _ = self.engine.account_config(account, symbol)
        isolated = margin_type == eng.MARGIN_ISOLATED
        lots = qty if not pos_side else abs(qty)
        return {
            "instType": "SWAP", "instId": self.names[symbol], "mgnMode": MARGIN_NAMES[margin_type],
            "posSide": POS_SIDES[pos_side],
            "pos": self.size(symbol, lots), "availPos": self.size(symbol, lots), "ccy": spec.quote, "posCcy": "",
            "posId": str(10**9 + account * 100 + symbol * 4 + pos_side), "tradeId": "", "lever": str(leverage),
            "avgPx": self.average(symbol, abs(cost), abs(qty)), "markPx": self.price(symbol, self.engine.mark(symbol)),
            "last": self.price(symbol, self.engine.last_price(symbol) or self.engine.mark(symbol)), "upl": e8(upnl),
            "liqPx": self.price(symbol, liquidation) if liquidation else "", "margin": e8(iso + upnl) if isolated else "",
            "imr": "" if isolated else e8(position_im), "mmr": e8(maint), "mgnRatio": "", "notionalUsd": e8(abs(notional)),
            "realizedPnl": e8(realised), "adl": "1", "interest": "", "uplRatio": "", "cTime": ms(updated), "uTime": ms(updated),
        }  # fmt: skip

    def sides(self, account: int) -> tuple[int, ...]:
        return (eng.POS_LONG, eng.POS_SHORT) if self.engine.is_hedge(account) else (eng.POS_BOTH,)

    def held(self, account: int, symbols: Iterable[int]) -> list[tuple[int, int]]:
        """(instrument, position side) of every open position."""
        sides = self.sides(account)
        return [(i, side) for i in symbols for side in sides if self.engine.position(account, i, side)[0]]

    def list_positions(self, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        return [self.position_row(owner.account, i, side) for i, side in self.held(owner.account, self.some(fields))]

    def leverage_of(self, account: int, symbol: int, mode: str) -> int:
        """Leverage of a margin type: the engine's while it is in use, else what was set."""
        leverage, margin_type, _ = self.engine.account_config(account, symbol)
        return leverage if MARGIN_NAMES[margin_type] == mode else self.leverages.get((account, symbol, mode), leverage)

    def leverage_info(self, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        mode = self.margin_mode(fields)
        sides = ("long", "short") if self.engine.is_hedge(owner.account) else ("net",)
        return [
            {"ccy": "", "instId": self.names[index], "mgnMode": mode, "posSide": side,
             "lever": str(self.leverage_of(owner.account, index, mode))}
            for index in self.some(fields) for side in sides
        ]  # fmt: skip

    def margin_mode(self, fields: dict[str, Any]) -> str:
        mode = need(fields, "mgnMode")
        if mode not in MARGINS:
            raise Refused(51000, "Parameter mgnMode error", 400)
        return mode

    def set_leverage(self, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        index, mode, text = self.index_of(fields), self.margin_mode(fields), need(fields, "lever")
        side = str(fields.get("posSide") or "")
        hedge = self.engine.is_hedge(owner.account)
        if mode == "isolated" and hedge and side not in ("long", "short"):
            raise Refused(51000, "Parameter posSide error", 400)
        match = re.fullmatch(r"(\d{1,3})(?:\.0+)?", text)
        leverage = int(match[1]) if match else 0
        if not 1 <= leverage <= self.host.instruments[index].max_leverage:
            raise Refused(59102, SETTING_REFUSALS[-4028][1])
        now, account = self.host.now_ns(), owner.account
        in_use = MARGIN_NAMES[self.engine.account_config(account, index)[1]] == mode
        if in_use and leverage != self.engine.account_config(account, index)[0]:
            self.setting(self.engine.set_leverage(account, index, leverage, now))
        self.leverages[account, index, mode] = leverage
        return [{"instId": self.names[index], "lever": str(leverage), "mgnMode": mode, "posSide": side}]

    def setting(self, code: int) -> None:
        """The engine's answer to a setting, with its events told."""
        self.host.changed()
        if code < 0:
            raise Refused(*SETTING_REFUSALS.get(code, (51000, "Parameter error")))

    def set_position_mode(self, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        mode = need(fields, "posMode")
        if mode not in ("net_mode", "long_short_mode"):
            raise Refused(51000, "Parameter posMode error", 400)
        hedge = mode == "long_short_mode"
        if hedge != self.engine.is_hedge(owner.account):
            self.setting(self.engine.set_position_mode(owner.account, hedge, self.host.now_ns()))
        return [{"posMode": mode}]

    def fees_ppm(self, account: int) -> tuple[int, int]:
        """(maker, taker)."""
        return self.host.fees_ppm(account)

    def trade_fee(self, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        maker, taker = self.fees_ppm(owner.account)
        maker_text, taker_text = plain(-maker, 6), plain(-taker, 6)
        return [{
            "instType": self.inst_type, "maker": maker_text, "taker": taker_text, "makerU": maker_text, "takerU": taker_text,
            "level": "Lv1", "ts": ms(self.host.server_ns()),
        }]  # fmt: skip

    def bills(self, kept_ns: int, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """Transfers, funding and what liquidations cost, newest first."""
        since = max(self.host.now_ns() - kept_ns, whole(fields, "begin", 0) * MS)
        until = whole(fields, "end", 1 << 43) * MS
        found = []
        for number, ts, _, symbol, reason, amount in self.engine.incomes_of(owner.account, 1_000_000):
            kind = BILLS.get(reason)
            if kind is None or not since <= ts <= until or fields.get("type") not in (None, "", kind[0]):
                continue
            found.append({
                "billId": str(10**15 + number), "type": kind[0], "subType": kind[1 if amount > 0 else 2], "ts": ms(ts),
                "ccy": "USDT",
                "balChg": e8(amount), "pnl": e8(amount) if kind[0] == "8" else "0", "instType": "SWAP" if symbol >= 0 else "",
                "instId": self.names[symbol] if symbol >= 0 else "", "bal": "", "sz": "0", "fee": "0", "mgnMode": "", "ordId": "",
            })  # fmt: skip
        return self.paged(found[::-1], fields, "billId")

    def paged(self, rows: list[dict[str, Any]], fields: dict[str, Any], by: str) -> list[dict[str, Any]]:
        """Rows (newest first) behind ``after`` and before ``before``, at most ``limit`` of them."""
        after, before = whole(fields, "after", 1 << 63), whole(fields, "before", 0)
        kept = [row for row in rows if before < int(row[by]) < after]
        return kept[: max(1, min(whole(fields, "limit", PAGE_MAX), PAGE_MAX))]

    # -- orders -------------------------------------------------------------------------------------------------------------

    def order_row(self, slot: int) -> dict[str, Any]:
        """An order as the engine has it now."""
        o = self.engine.order(slot)
        return self._row(slot, STATES[o[10]], o[14], o[15], o[17])

    def _row(self, slot: int, state: str, cum_qty: int, cum_value_e8: int, updated_ns: int) -> dict[str, Any]:
        _, order_id, _, symbol, _, side, _, kind, tif, _, _, flags, _, px, _, _, created, _ = self.engine.order(slot)
        names = ("limit", "ioc", "fok", "post_only")
        return {
            "instType": self.inst_type, "instId": self.names[symbol], "ordId": str(order_id), "clOrdId": self.client(slot),
            "tag": "", "px": self.price(symbol, px) if kind == eng.TYPE_LIMIT else "",
            "ordType": names[tif] if kind == eng.TYPE_LIMIT else "market", "side": "buy" if side > 0 else "sell",
            "accFillSz": self.size(symbol, cum_qty), "avgPx": self.average(symbol, cum_value_e8, cum_qty), "state": state,
            "ccy": "", "category": "full_liquidation" if flags & eng.FLAG_LIQUIDATION else "normal", "fillPx": "", "fillSz": "0",
            "fillTime": "", "tradeId": "", "fee": "0", "feeCcy": self.fee_asset(symbol, side), "rebate": "0",
            "rebateCcy": self.fee_asset(symbol, -side), "pnl": "0", "source": "", "cancelSource": "", "attachAlgoOrds": [],
            "algoId": "", "algoClOrdId": "", "stpMode": "cancel_maker", "uTime": ms(updated_ns), "cTime": ms(created),
            **self.order_terms(slot),
        }  # fmt: skip

    def order_terms(self, slot: int) -> dict[str, Any]:
        """Of an order's row what only the market says: its size, margin and what it does to a position."""
        o = self.engine.order(slot)
        leverage, margin_type, _ = self.engine.account_config(o[2], o[3])
        reduces = bool(o[11] & (eng.FLAG_REDUCE_ONLY | eng.FLAG_CLOSING))
        return {
            "sz": self.size(o[3], o[12]), "tgtCcy": "", "posSide": POS_SIDES[o[6]], "tdMode": MARGIN_NAMES[margin_type],
            "lever": str(leverage), "reduceOnly": "true" if reduces else "false",
        }  # fmt: skip

    def fee_asset(self, symbol: int, side: int) -> str:
        """The asset in which an execution of that side is charged."""
        return "USDT"

    def client(self, slot: int) -> str:
        """The client id its owner gave an order; "" where he gave none."""
        o = self.engine.order(slot)
        return "" if slot in self.unnamed or o[11] & eng.FLAG_LIQUIDATION else o[4].decode()

    def remembered(self, slot: int, now_ns: int) -> bool:
        """Whether the venue still knows the order: what ended unfilled is forgotten after two hours."""
        o = self.engine.order(slot)
        return not (o[10] >= eng.STATUS_CANCELED and not o[14] and now_ns - o[17] > UNFILLED_KEPT_NS)

    def find(self, account: int, symbol: int, fields: dict[str, Any], now_ns: int) -> int:
        """Slot of the order named by ``ordId`` or ``clOrdId``, -1 when the venue knows none."""
        number = fields.get("ordId")
        if not absent(number):
            slot = self.engine.find_order(account, symbol, whole(fields, "ordId", 0), now_ns)
        elif not absent(fields.get("clOrdId")):
            slot = self.engine.find_client(account, symbol, str(fields["clOrdId"]).encode(), now_ns)
        else:
            raise Refused(51003, "Either client order ID or order ID is required.")
        return slot if slot >= 0 and self.remembered(slot, now_ns) else -1

    def order(self, owner: Owner, fields: dict[str, Any], lag_ms: int = 0) -> list[dict[str, Any]]:
        now = self.host.now_ns()
        slot = self.find(owner.account, self.index_of(fields), fields, now)
        if slot < 0 or self.engine.order(slot)[16] > now - lag_ms * MS:
            raise Refused(51603, "Order does not exist")
        return [self.with_fills(slot)]

    def with_fills(self, slot: int) -> dict[str, Any]:
        """An order with its last execution."""
        row, order_id = self.order_row(slot), self.engine.order(slot)[1]
        if self.engine.order(slot)[14]:
            account, symbol = self.engine.order(slot)[2:4]
            mine = [t for t in self.engine.trades_of(account, symbol, 1_000_000) if order_id in (t[8], t[13])]
            if mine:
                last = mine[-1]
                row |= {
                    "fillPx": self.price(symbol, last[3]), "fillSz": self.size(symbol, last[4]), "fillTime": ms(last[5]),
                    "tradeId": "0" if row["category"] != "normal" else str(last[1]),
                    "fee": e8(-sum(t[9] if t[8] == order_id else t[14] for t in mine)),
                    "pnl": e8(sum(t[10] if t[8] == order_id else t[15] for t in mine)),
                }  # fmt: skip
        return row

    def pending(self, owner: Owner, fields: dict[str, Any], lag_ms: int = 0) -> list[dict[str, Any]]:
        latest = self.host.now_ns() - lag_ms * MS
        slots = [slot for i in self.some(fields) for slot in self.engine.open_orders(owner.account, i)]
        rows = [self.order_row(slot) for slot in sorted(slots, reverse=True) if self.engine.order(slot)[16] <= latest]
        return self.paged(rows, fields, "ordId")

    def history(self, kept_ns: int, owner: Owner, fields: dict[str, Any], lag_ms: int = 0) -> list[dict[str, Any]]:
        """Ended orders, newest first; ``begin`` and ``end`` bound the time they were made."""
        if need(fields, "instType") != self.inst_type:
            return []
        now = self.host.now_ns()
        latest, begin, end = now - lag_ms * MS, whole(fields, "begin", 0) * MS, whole(fields, "end", 1 << 43) * MS
        rows = []
        for slot in reversed(self.engine.orders_of(owner.account, -1, 1_000_000)):
            o = self.engine.order(slot)
            if o[10] < eng.STATUS_FILLED or not self.remembered(slot, now) or not begin <= o[16] <= min(end, latest):
                continue
            if o[17] < now - kept_ns or o[17] > latest or fields.get("instId") not in (None, "", self.names[o[3]]):
                continue
            rows.append(self.order_row(slot))
        return self.paged(rows, fields, "ordId")

    def fills(self, kept_ns: int, owner: Owner, fields: dict[str, Any], lag_ms: int = 0) -> list[dict[str, Any]]:
        """Executions, newest first; those of liquidations have negative ids."""
        now = self.host.now_ns()
        since = max(now - kept_ns, whole(fields, "begin", 0) * MS)
        until = min(now - lag_ms * MS, whole(fields, "end", 1 << 43) * MS)
        wanted, order_id = set(self.some(fields)), str(fields.get("ordId") or "")
        rows = [
            self.fill_row(t, at)
            for t in self.engine.trades_of(owner.account, -1, 1_000_000) for at in (7, 12)
            if t[at] == owner.account and t[2] in wanted and since <= t[5] <= until and order_id in ("", str(t[at + 1]))
        ]  # fmt: skip
        return self.paged(rows[::-1], fields, "billId")

    def fill_row(self, t: tuple[int, ...], at: int) -> dict[str, Any]:
        index, trade_id, symbol, px, qty, ts = t[:6]
        buyer, slot = at == 7, t[at + 1] - eng.ORDER_ID_BASE
        forced = bool(self.engine.order(slot)[11] & eng.FLAG_LIQUIDATION)
        return {
            "instType": self.inst_type, "instId": self.names[symbol], "tradeId": str(-trade_id if forced else trade_id),
            "ordId": str(t[at + 1]), "clOrdId": self.client(slot),
            "billId": str(10**15 + index * 2 + (not buyer)), "subType": "104" if forced else ("1" if buyer else "2"), "tag": "",
            "fillPx": self.price(symbol, px),
            "fillSz": self.size(symbol, qty), "fillPnl": e8(t[at + 3]), "side": "buy" if buyer else "sell",
            "posSide": POS_SIDES[t[at + 4]], "execType": "M" if (t[6] < 0) == buyer else "T",
            "feeCcy": self.fee_asset(symbol, eng.SIDE_BUY if buyer else eng.SIDE_SELL),
            "fee": e8(-t[at + 2]), "fillTime": ms(ts), "ts": ms(ts),
        }  # fmt: skip

    # -- placing, cancelling, amending --------------------------------------------------------------------------------------

    def asked(self, fields: Any, coded: bool) -> Asked:
        """One order operation; ``coded``: it names its instrument by number. An instrument there is not is -1."""
        if not isinstance(fields, dict):
            raise Refused(50002, "JSON syntax error", 400)
        if coded:
            code = fields.get("instIdCode")
            if absent(code):
                raise Refused(50014, "Parameter instIdCode can not be empty.", 400)
            number = code - self.code_base if isinstance(code, int) else -1
            index = number if 0 <= number < len(self.names) else -1
        else:
            index = self.ids.get(need(fields, "instId"), -1)
        client = fields.get("clOrdId")
        return Asked(fields, index, "" if absent(client) else str(client))

    def place(self, owner: Owner, asked: Asked) -> dict[str, Any]:
        """Place one order: its row of the answer."""
        code, message, slot = self._placed(owner, asked)
        if code:
            self.host.refused(owner, "place", self._symbol(asked), asked.client_id, code, message)
        return self._order_answer(asked, code, message, slot)

    def _symbol(self, asked: Asked) -> str:
        return self.host.instruments[asked.symbol].symbol if asked.symbol >= 0 else ""

    def _order_answer(self, asked: Asked, code: int, message: str, slot: int = -1) -> dict[str, Any]:
        order_id = str(self.engine.order(slot)[1]) if slot >= 0 else str(asked.fields.get("ordId") or "")
        client = self.client(slot) if slot >= 0 else asked.client_id
        return {
            "clOrdId": client, "ordId": order_id, "tag": str(asked.fields.get("tag") or ""), "ts": ms(self.host.server_ns()),
            "sCode": str(code), "sMsg": message, "subCode": self.want_subcode if code == 51008 else "",
        }  # fmt: skip

    def _placed(self, owner: Owner, asked: Asked) -> tuple[int, str, int]:
        """(code, message, slot)."""
        if asked.symbol < 0:
            return *self.refusals[-1121], -1
        if asked.client_id and not CLIENT_ID.match(asked.client_id):
            return 51000, "Parameter clOrdId error", -1
        try:
            slot = self.sent(owner, asked)
        except Refused as refused:
            return refused.code, refused.message, -1
        if slot >= 0 and not asked.client_id:
            self.unnamed.add(slot)
        self.host.changed()
        if slot < 0:
            return *self.engine_refusal(asked, slot), -1
        return 0, "Order placed", slot

    def engine_refusal(self, asked: Asked, code: int) -> tuple[int, str]:
        """(code, message) of what the engine refuses an order with."""
        return self.refusals.get(code, (51000, f"Parameter error ({code})"))

    def sent(self, owner: Owner, asked: Asked) -> int:
        """Hand an order to the engine: its slot or the engine's refusal; ``Refused`` for what does not get so far."""
        fields, symbol, account = asked.fields, asked.symbol, owner.account
        side, kind, tif, pos_side = self._words(account, fields)
        margin = self._trade_mode(owner, fields)
        qty, px = self.lots(symbol, str(fields.get("sz") or "")), self.limit_price(symbol, kind, fields)
        if min(qty, px) < 0:
            raise Refused(*self.refusals.get(min(qty, px), (51000, "Parameter error")))
        reduces = fields.get("reduceOnly") in (True, "true") and not pos_side
        problem = self._reduces_wrongly(account, symbol, side, pos_side, qty, reduces)
        if problem is not None:
            raise Refused(*problem)
        self._use_margin(account, symbol, margin)
        return self.engine.place(
            account, symbol, side, kind, tif, qty, px, reduces, False, pos_side, asked.client_id.encode(), self.host.now_ns())

    def limit_price(self, symbol: int, kind: int, fields: dict[str, Any]) -> int:
        """Ticks of a limit order's price or the engine's refusal of it, 0 of a market order; 51204 where there is none."""
        if kind != eng.TYPE_LIMIT:
            return 0
        text = str(fields.get("px") or "")
        if not text:
            raise Refused(51204, "The price for the limit order cannot be empty.")
        return self.engine.parse_px(symbol, text.encode())

    def _words(self, account: int, fields: dict[str, Any]) -> tuple[int, int, int, int]:
        """(side, type, time in force, position side) of an order's words."""
        side = SIDES.get(str(fields.get("side") or ""))
        if side is None:
            raise Refused(51000, "Parameter side error")
        kind = self.order_types.get(str(fields.get("ordType") or ""))
        if kind is None:
            raise Refused(51000, "Parameter ordType error")
        wanted = str(fields.get("posSide") or "")
        if wanted not in self.position_words(account):
            raise Refused(51000, "Parameter posSide error")
        return side, *kind, POS_SIDES.index(wanted or "net")

    def position_words(self, account: int) -> tuple[str, ...]:
        """What an order may say of its position side."""
        return ("long", "short") if self.is_hedge(account) else ("", "net")

    def _trade_mode(self, owner: Owner, fields: dict[str, Any]) -> str:
        """The margin type of an order, as the account's mode allows it."""
        mode, level = str(fields.get("tdMode") or ""), self.level(owner)
        if mode not in MARGINS:
            raise Refused(51000, "Parameter tdMode error")
        if level == "1":
            raise Refused(51010, "Request unsupported under current account mode")
        if mode == "isolated" and level in ("3", "4"):
            raise Refused(50072, "Isolated margin mode is no longer supported in multi-currency and portfolio margin mode.")
        return mode

    def _reduces_wrongly(
        self, account: int, symbol: int, side: int, pos_side: int, qty: int, reduces: bool
    ) -> tuple[int, str] | None:
        """Why an order that only reduces is refused: it is never cut to what there is."""
        closing = (pos_side == eng.POS_LONG and side < 0) or (pos_side == eng.POS_SHORT and side > 0)
        if not (reduces or closing):
            return None
        held = self.engine.position(account, symbol, pos_side)[0]
        if not held:
            return 51169, "Order failed because you don't have any positions in this direction to reduce or close."
        if reduces and (held > 0) == (side > 0):
            return 51170, "A reduce-only order can't be the same trading direction as your existing positions."
        waiting = 0
        for slot in self.engine.open_orders(account, symbol):
            o = self.engine.order(slot)
            if o[5] == side and o[6] == pos_side and o[11] & (eng.FLAG_REDUCE_ONLY | eng.FLAG_CLOSING):
                waiting += o[12] - o[14]
        if qty + waiting > abs(held):
            return 51112, "Close order size exceeds available size for this position."
        return None

    def _use_margin(self, account: int, symbol: int, mode: str) -> None:
        """Bring the instrument to an order's margin type and its leverage."""
        leverage, margin_type, _ = self.engine.account_config(account, symbol)
        if MARGIN_NAMES[margin_type] == mode:
            return
        self.leverages[account, symbol, MARGIN_NAMES[margin_type]] = leverage
        wanted = self.leverages.get((account, symbol, mode), leverage)
        self.setting(self.engine.set_margin_type(account, symbol, MARGINS[mode], self.host.now_ns()))
        if wanted != leverage:
            self.setting(self.engine.set_leverage(account, symbol, wanted, self.host.now_ns()))

    def cancel(self, owner: Owner, asked: Asked) -> dict[str, Any]:
        """Cancel one order."""
        slot = self._open_slot(owner, asked)
        if slot < 0:
            return self._order_answer(asked, 51400, "Cancellation failed: the order has been filled, canceled or does not exist.")
        self.engine.cancel(owner.account, slot, self.host.now_ns())
        self.host.changed()
        return self._order_answer(asked, 0, "", slot)

    def _open_slot(self, owner: Owner, asked: Asked) -> int:
        now = self.host.now_ns()
        try:
            slot = self.find(owner.account, asked.symbol, asked.fields, now) if asked.symbol >= 0 else -1
        except Refused:
            return -1
        return slot if slot >= 0 and self.engine.order(slot)[10] < eng.STATUS_FILLED else -1

    def amend(self, owner: Owner, asked: Asked) -> dict[str, Any]:
        """Change price or quantity of one order."""
        slot = self._open_slot(owner, asked)
        if slot < 0:
            return self._order_answer(asked, 51503, "Order modification failed as the order does not exist.")
        o = self.engine.order(slot)
        size, price = asked.fields.get("newSz"), asked.fields.get("newPx")
        qty = o[12] if absent(size) else self.lots(o[3], str(size))
        px = o[13] if absent(price) else self.engine.parse_px(o[3], str(price).encode())
        code = min(qty, px) if min(qty, px) < 0 else self.engine.modify(owner.account, slot, qty, px, self.host.now_ns())
        self.host.changed()
        if code < 0:
            return self._order_answer(asked, *self.refusals.get(code, (51000, "Parameter error")))
        return self._order_answer(asked, 0, "", slot)

    def taken(self, owner: Owner, verb: str, items: list[Asked]) -> Refused | None:
        """Count an operation against the account's limits: the refusal when one is used up."""
        now, w = self.host.now_ns(), self.host.windows
        if verb != "cancel" and w.take("sub_account", owner.account, now, len(items)):
            return Refused(50061, "You've reached the maximum order rate limit for this account.")
        name = verb if len(items) == 1 else f"{verb}_batch"
        for asked in items:
            if w.take(name, (owner.account, asked.symbol), now):
                return Refused(50011, "Rate limit reached. Please throttle requests accordingly.", 429)
        return None

    def expired(self, text: Any, now_ns: int) -> bool:
        """Whether a request's ``expTime`` is over."""
        return isinstance(text, str) and text.isascii() and text.isdigit() and int(text) * MS < now_ns

    def done(self, verb: str, owner: Owner, items: list[Asked], exp: Any) -> tuple[int, str, list[dict[str, Any]]]:
        """Do an operation: (code, message, rows). One that was held up until it is stale is not done."""
        if self.expired(exp, self.host.server_ns()):
            for asked in items:
                self.host.refused(owner, verb, self._symbol(asked), asked.client_id, 50037, "Order expired.")
            return 1, "All operations failed", [self._order_answer(asked, 50037, "Order expired.") for asked in items]
        one = {"place": self.place, "cancel": self.cancel, "amend": self.amend}[verb]
        rows = [one(owner, asked) for asked in items]
        failed = sum(1 for row in rows if row["sCode"] != "0")
        if not failed:
            return 0, "", rows
        return (1, "All operations failed", rows) if failed == len(rows) else (2, "Bulk operation partially succeeded", rows)

    # -- REST ---------------------------------------------------------------------------------------------------------------

    def rest(self, request: Request) -> Work:
        """One request: understood, authenticated, counted."""
        name = f"{request.method} {request.path}"
        try:
            fields = self._fields(request)
            if name in self.open_paths:
                self._count_public(name, request)
                return Work(lambda: self._told(lambda: self.open_paths[name](fields)))
            if name not in self.paths and name not in self.lagging and name not in self.order_paths:
                return Work(lambda: answer([], 404, "Not Found", 404))
            owner = self.authenticated(request)
            if name in self.order_paths:
                return self._order_work(name, owner, request)
            self._count(name, owner)
        except Refused as refused:
            kept = refused
            return Work(lambda: refusal(kept))
        if name in self.lagging:
            ask = self.lagging[name]
            client = str(fields.get("clOrdId") or "")
            return Work(
                lambda: self._told(lambda: ask(owner, fields, 0)), owner, "query" if name.endswith("/trade/order") else name,
                self._named(fields), client, *self._failures(), stale=lambda lag: self._told(lambda: ask(owner, fields, lag)),
            )  # fmt: skip
        run = self.paths[name]
        return Work(lambda: self._told(lambda: run(owner, fields)), owner, name, self._named(fields), "", *self._failures())

    def _named(self, fields: dict[str, Any]) -> str:
        """The engine's name of the instrument a request is about."""
        index = self.ids.get(str(fields.get("instId") or ""), -1)
        return self.host.instruments[index].symbol if index >= 0 else ""

    @staticmethod
    def _told(ask: Callable[[], Any]) -> Answer:
        try:
            return answer(ask())
        except Refused as refused:
            return refusal(refused)

    @staticmethod
    def _failures() -> tuple[Answer, Answer, Answer]:
        """(unknown, unavailable, throttled) of a request."""
        return (
            answer([], 50004, "API endpoint request timeout. (does not mean that the request was successful or failed)", 400),
            answer([], 51030, "Funding fee is being settled."),
            answer([], 50011, "Too Many Requests", 429),
        )

    @staticmethod
    def _fields(request: Request) -> dict[str, Any]:
        """Query or body; a body that is a list is kept under ""."""
        if request.method != "POST":
            return dict(parse_qsl(request.query))
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise Refused(50006, 'Invalid Content-Type. Please use "application/JSON".', 400)
        if not request.body:
            raise Refused(50000, "Body for POST request cannot be empty.", 400)
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            raise Refused(50002, "JSON syntax error", 400) from None
        return body if isinstance(body, dict) else {"": body}

    def authenticated(self, request: Request) -> Owner:
        """Whose request it is; the refusal otherwise. The signature covers the bytes as they came."""
        headers = request.headers
        for number, name in ((50103, "key"), (50104, "passphrase"), (50106, "sign"), (50107, "timestamp")):
            if not headers.get(f"ok-access-{name}"):
                raise Refused(number, f'Request header "OK-ACCESS-{name.upper()}" cannot be empty.', 401)
        stamp = headers["ok-access-timestamp"]
        if not STAMP.match(stamp):
            raise Refused(50112, "Invalid OK-ACCESS-TIMESTAMP.", 401)
        owner = self.host.owner(headers["ok-access-key"])
        if owner is None:
            raise Refused(50111, "Invalid OK-ACCESS-KEY.", 401)
        if (headers.get("x-simulated-trading") == "1") != bool(owner.rights.get("simulated")):
            raise self._noted(owner, request, Refused(50101, "APIKey does not match current environment.", 401))
        at = datetime.datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.UTC)
        if abs(request.now_ns // MS - round(at.timestamp() * 1000)) > TOLERANCE_MS:
            raise self._noted(owner, request, Refused(50102, "Timestamp request expired.", 401))
        target = request.path + (f"?{request.query}" if request.query else "")
        signed = f"{stamp}{request.method}{target}".encode() + request.body
        if not hmac.compare_digest(signature(owner, signed), headers["ok-access-sign"]):
            raise self._noted(owner, request, Refused(50113, "Invalid signature.", 401))
        if headers["ok-access-passphrase"] != owner.passphrase:
            raise self._noted(owner, request, Refused(50105, 'Request header "OK-ACCESS-PASSPHRASE" incorrect.', 401))
        bound = str(owner.rights.get("ip", ""))
        if bound and request.ip not in bound.split(","):
            message = f"Your IP {request.ip} is not included in your API key's IP whitelist."
            raise self._noted(owner, request, Refused(50110, message, 401))
        if request.method == "POST" and not self.may_trade(owner):
            raise self._noted(owner, request, Refused(50120, "This API key doesn't have permission to use this function"))
        return owner

    @staticmethod
    def may_trade(owner: Owner) -> bool:
        return "trade" in str(owner.rights.get("perm", "read_only,trade")).split(",")

    def _noted(self, owner: Owner, request: Request, refused: Refused) -> Refused:
        self.host.refused(owner, f"{request.method} {request.path}", "", "", refused.code, refused.message)
        return refused

    def _count(self, name: str, owner: Owner) -> None:
        limit = LIMITS.get(name)
        if limit is not None and self.host.windows.take(limit[0], owner.account, self.host.now_ns()):
            raise Refused(50011, "Too Many Requests", 429)

    def _count_public(self, name: str, request: Request) -> None:
        limit = PUBLIC_LIMITS.get(name)
        if limit is not None and self.host.windows.take(limit[0], request.ip, self.host.now_ns()):
            raise Refused(50011, "Too Many Requests", 429)

    def _order_work(self, name: str, owner: Owner, request: Request) -> Work:
        verb, batch = self.order_paths[name]
        body = orjson.loads(request.body)
        wanted = body if batch else [body]
        if not isinstance(wanted, list) or not 1 <= len(wanted) <= BATCH_MAX:
            raise Refused(51111, f"Maximum {BATCH_MAX} orders can be placed in bulk.")
        items = [self.asked(one, False) for one in wanted]
        exp = request.headers.get("exptime")
        if verb != "cancel" and self.expired(exp, request.now_ns):
            raise Refused(50036, "The expTime can't be earlier than the current system time.")
        limited = self.taken(owner, verb, items)
        if limited is not None:
            raise limited

        def run() -> Answer:
            code, message, rows = self.done(verb, owner, items, exp)
            now_us = str(self.host.server_ns() // 1000)
            return Answer(orjson.dumps({"code": str(code), "data": rows, "inTime": now_us, "msg": message, "outTime": now_us}))

        return Work(run, owner, verb, self._symbol(items[0]), items[0].client_id, *self._failures())

    # -- WebSocket ----------------------------------------------------------------------------------------------------------

    def accepts(self, conn: Conn) -> bool:
        """The three doors; no more than three knocks a second from one address."""
        area = conn.path.partition("?")[0].rpartition("/")[2]
        if conn.path.partition("?")[0] not in ("/ws/v5/private", "/ws/v5/public", "/ws/v5/business"):
            return False
        self.n_conns += 1
        conn.state = State(area, f"{self.n_conns:08x}")
        return not self.host.windows.take("connects", conn.ip, self.host.now_ns())

    def opened(self, conn: Conn) -> None:
        """Nothing is said before it is asked for."""

    def lost(self, conn: Conn) -> None:
        for key in conn.state.channels:
            if conn in self.public.get(key, ()):
                self.public[key].remove(conn)
        if conn.owner is not None and conn in self.private.get(conn.owner.account, ()):
            self.private[conn.owner.account].remove(conn)

    def text(self, conn: Conn, text: bytes) -> Work | None:
        """A message of a client."""
        if text == b"ping":
            conn.send(b"pong")
            return None
        try:
            asked = orjson.loads(text)
        except orjson.JSONDecodeError:
            asked = None
        if not isinstance(asked, dict):
            self._error(conn, 60012, f"Invalid request: {text[:100].decode('utf-8', 'replace')}")
            return None
        op, args = asked.get("op"), asked.get("args")
        if not isinstance(args, list) or not all(isinstance(one, dict) for one in args):
            self._error(conn, 60012, "Invalid request: args", asked)
        elif op == "login":
            self._login(conn, asked, args)
        elif op == "subscribe":
            for arg in args:
                self._subscribe(conn, asked, arg)
        elif op == "unsubscribe":
            for arg in args:
                self._unsubscribe(conn, asked, arg)
        elif op in self.operations:
            return self._operation(conn, str(op), asked, args)
        else:
            self._error(conn, 60019, f"Invalid op: {op}", asked)
        return None

    def _error(self, conn: Conn, code: int, message: str, asked: dict[str, Any] | None = None) -> None:
        said = {"event": "error", "code": str(code), "msg": message, "connId": conn.state.id}
        conn.send(orjson.dumps({**self._id(asked or {}), **said}))

    @staticmethod
    def _id(asked: dict[str, Any]) -> dict[str, Any]:
        return {"id": asked["id"]} if isinstance(asked.get("id"), str) else {}

    def _login(self, conn: Conn, asked: dict[str, Any], args: list[dict[str, Any]]) -> None:
        owner = self.host.owner(str(args[0].get("apiKey"))) if args else None
        problem = self._login_problem(conn, owner, args)
        if problem is not None:
            self.host.refused(owner, "login", "", "", *problem)
            self._error(conn, *problem, asked)
            return
        assert owner is not None
        conn.owner = owner
        self.private.setdefault(owner.account, []).append(conn)
        conn.send(orjson.dumps({**self._id(asked), "event": "login", "code": "0", "msg": "", "connId": conn.state.id}))

    def _login_problem(self, conn: Conn, owner: Owner | None, args: list[dict[str, Any]]) -> tuple[int, str] | None:
        if conn.state.area == "public":
            return 60028, "The current operation is not supported by this URL. Please use the correct WebSocket URL."
        if conn.owner is not None or len(args) != 1:
            return 60031, "The WebSocket endpoint does not allow multiple or repeated logins."
        if owner is None:
            return 60005, "Invalid apiKey"
        stamp = str(args[0].get("timestamp"))
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) == 10):
            return 60004, "Invalid timestamp"
        if abs(self.host.server_ns() // MS - int(stamp) * 1000) > TOLERANCE_MS:
            return 60006, "Timestamp request expired"
        if not hmac.compare_digest(signature(owner, f"{stamp}GET/users/self/verify".encode()), str(args[0].get("sign"))):
            return 60007, "Invalid sign"
        if args[0].get("passphrase") != owner.passphrase:
            return 60024, "Wrong passphrase"
        bound = str(owner.rights.get("ip", ""))
        return (60009, "Login failure") if bound and conn.ip not in bound.split(",") else None

    def _subscribe(self, conn: Conn, asked: dict[str, Any], arg: dict[str, Any]) -> None:
        channel, name, now = str(arg.get("channel")), str(arg.get("instId") or ""), self.host.now_ns()
        state: State = conn.state
        state.subscribes = [at for at in state.subscribes if at > now - HOUR_NS] + [now]
        if len(state.subscribes) > SUBSCRIBES_PER_HOUR:
            self._error(conn, 60014, "Requests too frequent", asked)
            return
        if channel in PRIVATE_CHANNELS and state.area == "private":
            if conn.owner is None:
                self._error(conn, 60011, "Please log in", asked)
                return
        elif not (channel in self.public_channels and state.area == "public" and name in self.ids):
            self._error(conn, 60018, f"Wrong URL or channel:{channel},instId:{name} doesn't exist.", asked)
            return
        state.channels.add((channel, name))
        conn.send(orjson.dumps({**self._id(asked), "event": "subscribe", "arg": arg, "connId": state.id}))
        if channel in PRIVATE_CHANNELS:
            assert conn.owner is not None
            self._snapshot(conn, conn.owner, channel, arg)
            return
        listeners = self.public.setdefault((channel, name), [])
        if conn not in listeners:
            listeners.append(conn)
        row = self.market_row(channel, self.ids[name])
        if row is not None:
            conn.send(self._push(arg, [row]))

    def _unsubscribe(self, conn: Conn, asked: dict[str, Any], arg: dict[str, Any]) -> None:
        key = str(arg.get("channel")), str(arg.get("instId") or "")
        conn.state.channels.discard(key)
        if conn in self.public.get(key, ()):
            self.public[key].remove(conn)
        conn.send(orjson.dumps({**self._id(asked), "event": "unsubscribe", "arg": arg, "connId": conn.state.id}))

    def _snapshot(self, conn: Conn, owner: Owner, channel: str, arg: dict[str, Any]) -> None:
        """What is so at the moment of subscribing; orders have no such push."""
        account = owner.account
        if channel == "positions":
            rows = [self.position_row(account, i, side) for i, side in self.held(account, range(len(self.names)))]
            conn.send(self._push({**arg, "uid": str(10_000 + account)}, rows, eventType="snapshot", curPage=1, lastPage=True))
        elif channel == "account":
            conn.send(self._push({**arg, "uid": str(10_000 + account)}, [self.balance_row(account)], eventType="snapshot"))
        elif channel == "balance_and_position":
            conn.send(self._push({**arg, "uid": str(10_000 + account)}, [self.change_row(account, "snapshot", -1, 0)]))

    @staticmethod
    def _push(arg: dict[str, Any], rows: list[Any], **more: Any) -> bytes:
        return orjson.dumps({"arg": arg, **more, "data": rows})

    def _operation(self, conn: Conn, op: str, asked: dict[str, Any], args: list[dict[str, Any]]) -> Work | None:
        """An order operation on a private connection that has logged in."""
        verb, exp, in_ns = self.operations[op], asked.get("expTime"), self.host.server_ns()

        def told(code: int, message: str, rows: list[dict[str, Any]]) -> bytes:
            times = {"inTime": str(in_ns // 1000), "outTime": str(self.host.server_ns() // 1000)}
            return orjson.dumps({**self._id(asked), "op": op, "code": str(code), "msg": message, "data": rows, **times})

        if conn.state.area != "private":
            self._error(conn, 60028, "The current operation is not supported by this URL.", asked)
            return None
        if conn.owner is None:
            self._error(conn, 60011, "Please log in", asked)
            return None
        owner = conn.owner
        try:
            refused = self._operation_problem(owner, verb, op, asked, args, exp)
            items = [] if refused is not None else [self.asked(one, True) for one in args]
            refused = refused or self.taken(owner, verb, items)
        except Refused as problem:
            items, refused = [], problem
        if refused is not None:
            conn.send(told(refused.code, refused.message, []))
            return None
        first = items[0]
        unknown = told(1, "All operations failed", [self._order_answer(one, 51149, "Order timed out.") for one in items])
        unavailable = told(1, "", [self._order_answer(one, 51030, "Funding fee is being settled.") for one in items])
        return Work(
            lambda: told(*self.done(verb, owner, items, exp)), owner, verb, self._symbol(first), first.client_id, unknown,
            unavailable, told(50011, "Rate limit reached.", []),
        )  # fmt: skip

    def _operation_problem(
        self, owner: Owner, verb: str, op: str, asked: dict[str, Any], args: list[dict[str, Any]], exp: Any
    ) -> Refused | None:
        number = asked.get("id")
        if not isinstance(number, str) or not CLIENT_ID.match(number):
            return Refused(60033, "Parameter id error.")
        if not 1 <= len(args) <= (BATCH_MAX if op.startswith("batch") else 1):
            return Refused(60013, "Invalid args")
        if not self.may_trade(owner):
            return Refused(50120, "This API key doesn't have permission to use this function")
        if verb != "cancel" and self.expired(exp, self.host.server_ns()):
            return Refused(50036, "The expTime can't be earlier than the current system time.")
        return None

    # -- events -------------------------------------------------------------------------------------------------------------

    def market_row(self, channel: str, index: int) -> dict[str, Any] | None:
        """What a public channel says now; None for one that only tells what happens."""
        match channel:
            case "bbo-tbt":
                return self.bbo_row(index)
            case "tickers":
                return self.ticker_row(index)
            case "mark-price":
                return self.mark_row(index)
            case "funding-rate":
                return self.funding_row(index)
        return None

    def change_row(self, account: int, cause: str, symbol: int, pos_side: int) -> dict[str, Any]:
        """What ``balance_and_position`` says: cash without isolated margin, positions without leverage."""
        now = ms(self.host.server_ns())
        legs = self.held(account, range(len(self.names))) if symbol < 0 and cause == "snapshot" else []
        legs += [(symbol, pos_side)] if symbol >= 0 else []
        kept = ("posId", "tradeId", "instId", "instType", "mgnMode", "posSide", "pos", "ccy", "posCcy", "avgPx", "uTime")
        positions = [{name: row[name] for name in kept} for row in (self.position_row(account, *leg) for leg in legs)]
        cash = e8(self.engine.account_state(account)[1])
        return {
            "pTime": now, "eventType": cause, "balData": [{"ccy": "USDT", "cashBal": cash, "uTime": now}], "posData": positions,
            "trades": [],
        }  # fmt: skip

    def events(self, events: list[tuple[int, ...]]) -> None:
        """What the engine did, in its order."""
        books, marks = set(), set()
        for event in events:
            kind, account, symbol = event[:3]
            if kind == eng.EV_BOOK:
                books.add(symbol)
            elif kind == eng.EV_MARK:
                marks.add(symbol)
            elif kind == eng.EV_PUBLIC_TRADE:
                self._tell_public("trades", symbol, self.trade_row(symbol, event[11], event[12], event[13], event[4], event[9]))
            elif self.private.get(account):
                owner = self.host.owner_of(account)
                if owner is not None:
                    self._tell_owner(owner, event)
        for symbol in books:
            for channel in ("bbo-tbt", "tickers"):
                if self.public.get((channel, self.names[symbol])):
                    self._tell_public(channel, symbol, self.market_row(channel, symbol))
        for symbol in marks:
            if self.public.get(("mark-price", self.names[symbol])):
                self._tell_public("mark-price", symbol, self.mark_row(symbol))

    def _tell_public(self, channel: str, symbol: int, row: Any) -> None:
        name = self.names[symbol]
        listeners = self.public.get((channel, name))
        if listeners:
            text = self._push({"channel": channel, "instId": name}, [row])
            for conn in list(listeners):
                conn.send(text)

    def _tell_owner(self, owner: Owner, event: tuple[int, ...]) -> None:
        kind, account, symbol, slot, _, pos_side = event[:6]
        if kind in (eng.EV_NEW, eng.EV_TRADE, eng.EV_CANCELED, eng.EV_EXPIRED, eng.EV_AMENDED):
            about = {"instType": self.inst_type, "instId": self.names[symbol]}
            self._tell(owner, "orders", about, [self.pushed_order(event)], self.client(slot))
        elif kind == eng.EV_ACCOUNT:
            self._tell_account(owner, CAUSES.get(event[8], "settlement"), symbol, pos_side)
        elif kind == eng.EV_LEVERAGE:
            legs = self.held(account, [symbol])
            self._tell(owner, "balance_and_position", {}, [self.change_row(account, "set_leverage", *(legs or [(-1, 0)])[0])])
            if legs:
                self._tell(owner, "positions", {"instType": "SWAP"}, [self.position_row(account, *leg) for leg in legs])
        elif kind == eng.EV_MARGIN_CALL:
            rows = [self.position_row(account, *leg) for leg in self.held(account, range(len(self.names)))]
            now = ms(self.host.server_ns())
            self._tell(owner, "liquidation-warning", {"instType": "SWAP"}, [{**row, "pTime": now} for row in rows])

    def _tell_account(self, owner: Owner, cause: str, symbol: int, pos_side: int) -> None:
        account = owner.account
        self._tell(owner, "balance_and_position", {}, [self.change_row(account, cause, symbol, pos_side)])
        if symbol >= 0:
            self._tell(owner, "positions", {"instType": "SWAP"}, [self.position_row(account, symbol, pos_side)])
        self._tell(owner, "account", {}, [self.balance_row(account)])

    def pushed_order(self, event: tuple[int, ...]) -> dict[str, Any]:
        """An order as the event left it; with an execution, the execution."""
        kind, symbol, slot, maker, ts_ns = event[0], event[2], event[3], event[7], event[9]
        row = self._row(slot, STATES[event[6]], event[14], event[15], ts_ns)
        row |= {"code": "0", "msg": "", "amendResult": "0" if kind == eng.EV_AMENDED else "", "reqId": "", "execType": "",
                "fillFee": "0", "fillFeeCcy": "", "fillPnl": "0"}  # fmt: skip
        if kind == eng.EV_TRADE:
            px, qty, trade_id, fee, pnl = event[11], event[12], event[13], event[16], event[17]
            row |= {
                "fillPx": self.price(symbol, px), "fillSz": self.size(symbol, qty), "fillTime": ms(ts_ns), "fillPnl": e8(pnl),
                "tradeId": str(trade_id) if row["category"] == "normal" else "0", "fillFee": e8(-fee),
                "fillFeeCcy": row["feeCcy"],
                "execType": "M" if maker else "T",
            }  # fmt: skip
        elif kind in (eng.EV_CANCELED, eng.EV_EXPIRED):
            row["cancelSource"] = "1" if kind == eng.EV_CANCELED else "14"
        return row

    def _tell(self, owner: Owner, channel: str, about: dict[str, Any], rows: list[Any], client: str = "") -> None:
        """Push to those of the account's connections that subscribed."""
        text = b""
        for conn in list(self.private.get(owner.account, ())):
            if any(name == channel for name, _ in conn.state.channels):
                text = text or self._push({"channel": channel, **about, "uid": str(10_000 + owner.account)}, rows)
                self.host.publish(conn, owner, channel, client, text)

    def second(self, now_ns: int) -> None:
        """Marks and funding rates go out by the clock as well."""
        for channel in self.clock_channels:
            for index, name in enumerate(self.names):
                if self.public.get((channel, name)):
                    self._tell_public(channel, index, self.market_row(channel, index))


