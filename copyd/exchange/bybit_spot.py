"""The spot market of the Bybit v5 dialect, on the spot engine: coins are owned, nothing is lent.

What it shares with the perpetuals' (keys, connections, limits, ids, horizons, streams) it inherits. What spot says otherwise: a
market buy is sized in the quote coin unless it says ``baseCoin``, fees are taken from what is received, an order that filled in
part and was cancelled is ``PartiallyFilledCanceled``, and refusals have numbers of their own. The perpetuals' category is known
and empty here. Open orders cannot be amended.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from copyd._fast import sim_engine as eng
from copyd.exchange import bybit
from copyd.exchange.bybit import ACCOUNT_LIMITS, COIN, ENGINE_CODES, LATE_REFUSALS, Asked, Call, Refused, Route, plain, send_all
from copyd.exchange.dialect import Host, Market
from copyd.exchange.model import E8, PPM, fixed
from copyd.exchange.spot import SpotEngine, SpotInstrument, SpotMakers

SPOT = "spot"
BASE_COIN, QUOTE_COIN = "baseCoin", "quoteCoin"
#: A buy may not be dearer than the mark by more than this, nor a sale cheaper.
PRICE_LIMIT_PPM = 50_000
#: No order is too large by its value.
VALUE_MAX_E8 = 10**24
#: The engine's own band, wider than the venue's.
BAND = {"up_ppm": 1_000 * PPM, "down_ppm": 0}

#: Refusals of the engine -> (code here, what it is about), where they differ from the perpetuals'.
SPOT_CODES = {
    **ENGINE_CODES,
    -1100: (170130, "qty"), -1111: (170137, ""), -1115: (170115, ""), -1116: (170116, ""), -1117: (170117, ""),
    -1121: (170121, ""), -2011: (170213, ""), -2013: (170213, ""), -2019: (170131, ""), -2025: (170810, ""),
    -4001: (170133, ""), -4002: (170132, ""), -4003: (170136, ""), -4004: (170136, ""), -4005: (170135, ""),
    -4013: (170133, ""), -4014: (170134, ""), -4016: (170193, "the limit"), -4023: (170137, ""), -4024: (170194, "the limit"),
    -4116: (170141, ""), -4164: (170140, ""),
}  # fmt: skip

_COMMON: dict[str, Any] = {
    "quote": "USDT", "tick_e8": 1_000_000, "min_px": 1, "max_px": 200_000_000, "min_notional_e8": 5 * E8,
    "max_notional_e8": VALUE_MAX_E8, "max_orders": 500, "price_precision": 2, **BAND,
}  # fmt: skip
INSTRUMENTS: tuple[SpotInstrument, ...] = (
    SpotInstrument(symbol="BTCUSDT", base="BTC", lot_e8=100, qty_precision=6, start_px=6_000_000, min_qty=48,
                   max_qty=83_000_000, market_max_qty=41_500_000, **_COMMON),
    SpotInstrument(symbol="ETHUSDT", base="ETH", lot_e8=1_000, qty_precision=5, start_px=300_000, min_qty=62,
                   max_qty=123_600_000, market_max_qty=61_800_000, **_COMMON),
    SpotInstrument(symbol="SOLUSDT", base="SOL", lot_e8=100_000, qty_precision=3, start_px=15_000, min_qty=8,
                   max_qty=80_000_000, market_max_qty=40_000_000, **_COMMON),
)  # fmt: skip
MARKET = Market(INSTRUMENTS, SpotEngine, SpotMakers)
SPOT_LIMITS = {**ACCOUNT_LIMITS, "create": 20, "cancel": 20, "batch": 20}
#: Calls of the venue that know no spot.
NOT_OF_SPOT = (
    "GET /v5/market/funding/history", "GET /v5/market/risk-limit", "POST /v5/position/set-leverage",
    "POST /v5/position/switch-mode",
)  # fmt: skip


class Dialect(bybit.Dialect):
    """See ``copyd.exchange.dialect.Dialect``."""

    name = "bybit_spot"
    market = MARKET
    category = SPOT
    codes = SPOT_CODES
    limits = SPOT_LIMITS
    batch_max = 10
    right = ("Spot", "SpotTrade")
    engine: Any  # a SpotEngine

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.isolated: set[int] = set()

    def _routes(self) -> dict[str, Route]:
        routes = super()._routes()
        return routes | {name: Route(self._not_here, routes[name].signed, routes[name].limit) for name in NOT_OF_SPOT}

    def _not_here(self, call: Call) -> Any:
        self._category(call)
        raise Refused(10001, "Illegal category")

    # -- market ----------------------------------------------------------------------------------------------------------
    def _info(self, index: int) -> dict[str, Any]:
        spec: Any = self.host.instruments[index]
        most = spec.qty_text(spec.max_qty)
        return {
            "symbol": spec.symbol, "baseCoin": spec.base, "quoteCoin": spec.quote, "innovation": "0", "symbolType": "",
            "status": "Trading", "marginTrading": "utaOnly", "stTag": "0",
            "lotSizeFilter": {
                "basePrecision": spec.qty_text(1), "quotePrecision": "0.00000001", "minOrderQty": spec.qty_text(spec.min_qty),
                "maxOrderQty": most, "minOrderAmt": plain(spec.min_notional_e8), "maxOrderAmt": "4000000",
                "maxLimitOrderQty": most, "maxMarketOrderQty": spec.qty_text(spec.market_max_qty),
                "postOnlyMaxLimitOrderSize": most,
            },
            "priceFilter": {"tickSize": spec.price_text(1)},
            "riskParameters": {
                "priceLimitRatioX": plain(PRICE_LIMIT_PPM * 100), "priceLimitRatioY": plain(PRICE_LIMIT_PPM * 100),
            },
        }  # fmt: skip

    def _last(self, index: int) -> str:
        return str(self.host.instruments[index].price_text(self.engine.last_price(index) or self.engine.mark(index)))

    def _day(self, index: int) -> dict[str, Any]:
        last = self._last(index)
        return {
            "symbol": self.host.instruments[index].symbol, "lastPrice": last, "highPrice24h": last, "lowPrice24h": last,
            "prevPrice24h": last, "volume24h": "0", "turnover24h": "0", "price24hPcnt": "0", "usdIndexPrice": last,
        }  # fmt: skip

    def _ticker(self, index: int) -> dict[str, Any]:
        spec = self.host.instruments[index]
        bid, bid_qty, ask, ask_qty = self.engine.top(index)
        return {
            **self._day(index), "bid1Price": spec.price_text(bid), "bid1Size": spec.qty_text(bid_qty),
            "ask1Price": spec.price_text(ask), "ask1Size": spec.qty_text(ask_qty),
        }  # fmt: skip

    def _first(self, conn: Any, topic: str) -> None:
        """A ticker of the stream has no best prices."""
        kind, _, symbol = topic.partition(".")
        if kind == "tickers":
            conn.send(self._marked(topic, self.host.symbols[symbol], 0))
        else:
            super()._first(conn, topic)

    def _marked(self, topic: str, index: int, px: int) -> bytes:
        """Always the whole ticker; the mark itself is nobody's here, the last price stands for it."""
        return self._public_text(topic, "snapshot", self._day(index))

    def _market_changed(self, event: tuple[int, ...]) -> None:
        super()._market_changed(event)
        if event[0] == eng.EV_PUBLIC_TRADE:
            topic = f"tickers.{self.host.instruments[event[2]].symbol}"
            if conns := self.public.get(topic):
                send_all(conns, self._marked(topic, event[2], event[11]))

    # -- orders ----------------------------------------------------------------------------------------------------------
    def create(self, call: Call) -> Any:
        """Place one order: an acceptance, no more."""
        asked = self._asked(call)
        if call.flag("reduceOnly") or call.whole("isLeverage", 0):
            raise Refused(170227)
        unit = call.text("marketUnit") or (QUOTE_COIN if asked.market and asked.side > 0 else BASE_COIN)
        if unit not in (BASE_COIN, QUOTE_COIN):
            raise Refused(170130, "marketUnit")
        by_value = asked.market and unit == QUOTE_COIN
        text = call.need("qty").encode()
        qty = 0 if by_value else self._checked(self.engine.parse_qty(asked.index, text))
        quote_e8 = self._value(asked.index, text) if by_value else 0
        px = self._price(call, asked)
        if px:
            self._check_price(asked, px)
        slot = self.engine.place(
            call.account, asked.index, asked.side, asked.type, asked.engine_tif, qty, px, self._engine_id(asked.client),
            call.now_ns, eng.STP_NONE, quote_e8)  # fmt: skip
        if slot in LATE_REFUSALS:
            return self._taken_and_cancelled(call, asked, qty, px, 0, False, slot)
        return self._accepted(call, asked.client, slot)

    def _value(self, index: int, text: bytes) -> int:
        """1e-8 of the quote coin."""
        value: int = self.engine.parse_quote(index, text)
        if value == -1111:
            raise Refused(170148)
        return self._checked(value)

    def _check_price(self, asked: Asked, px: int) -> None:
        mark = self.engine.mark(asked.index)
        if asked.side > 0 and px * PPM > mark * (PPM + PRICE_LIMIT_PPM):
            raise self._engine_refused(-4016)
        if asked.side < 0 and px * PPM < mark * (PPM - PRICE_LIMIT_PPM):
            raise self._engine_refused(-4024)

    def amend(self, call: Call) -> Any:
        """Not of this engine."""
        self._symbol(call)
        raise Refused(170227)

    def _order_row(self, slot: int, status: int = -1, cum: int = -1, value_e8: int = 0, at_ns: int = 0) -> dict[str, Any]:
        """A market order for so much of the quote coin tells that as its quantity."""
        row = super()._order_row(slot, status, cum, value_e8, at_ns)
        if quote_e8 := self.engine.quote_order_e8(slot):
            row |= {"qty": plain(quote_e8), "marketUnit": QUOTE_COIN, "leavesQty": "0"}
        return row

    def _row(self, spec: Any, *about: Any) -> dict[str, Any]:
        row = super()._row(spec, *about)
        row |= {"isLeverage": "0", "marketUnit": BASE_COIN if row["orderType"] == "Market" else "", "slippageTolerance": "0"}
        if row["orderStatus"] == "Cancelled" and row["cumExecQty"].strip("0."):
            row["orderStatus"] = "PartiallyFilledCanceled"
        return row

    # -- executions and balances -----------------------------------------------------------------------------------------
    def _execution(
        self, account: int, index: int, order_id: int, trade_id: int, side: int, px: int, qty: int, ts_ns: int, maker: bool,
        fee_e8: int,
    ) -> dict[str, Any]:
        """Fees are above 0 where they are paid, in what was received."""
        row = super()._execution(account, index, order_id, trade_id, side, px, qty, ts_ns, maker, fee_e8)
        spec: Any = self.host.instruments[index]
        maker_ppm, taker_ppm = self.host.fees_ppm(account)
        row |= {
            "feeCurrency": spec.base if side > 0 else spec.quote, "feeRate": plain((maker_ppm if maker else taker_ppm) * 100),
            "closedSize": "", "isLeverage": "0", "markPrice": "", "marketUnit": "",
        }  # fmt: skip
        if quote_e8 := self.engine.quote_order_e8(order_id - eng.ORDER_ID_BASE):
            row |= {"orderQty": plain(quote_e8), "leavesQty": "0"}
        return row

    def _closed_by(self, account: int, index: int, side: int, pos_side: int, qty: int) -> int:
        """Nothing is a position."""
        return 0

    def _order_came_or_went(self, account: int, index: int, pos_side: int, ts_ns: int) -> None:
        """There is no position to tell of."""

    def _account_changed(self, account: int, events: list[tuple[int, ...]]) -> None:
        """The coins that changed at one moment, in one message."""
        if self.host.owner_of(account) is not None:
            self._publish(account, "wallet", "", [self._wallet_row(account, {self.engine.assets[event[3]] for event in events})])

    def positions(self, call: Call) -> Any:
        """None of any kind."""
        if self._category(call) == SPOT:
            raise Refused(10001, "Illegal category")
        return {"category": self._category(call), "list": [], "nextPageCursor": ""}

    def _isolated(self, account: int) -> bool:
        return account in self.isolated

    def set_margin_mode(self, call: Call) -> Any:
        """What the account says of itself; nothing here depends on it."""
        wanted = call.need("setMarginMode")
        if wanted not in (bybit.ISOLATED, bybit.CROSS):
            raise Refused(10001, "setMarginMode")
        (self.isolated.add if wanted == bybit.ISOLATED else self.isolated.discard)(call.account)
        return {"reasons": []}

    def _equity_e8(self, account: int) -> int:
        return int(self.engine.equity_e8(account))

    def _worth_e8(self, asset: str, amount_e8: int) -> int:
        """In the quote coin, at the mark."""
        if asset == COIN:
            return amount_e8
        spec = next(spec for spec in self.engine.specs if spec.base == asset)
        return int(amount_e8 * self.engine.mark(self.engine.specs.index(spec)) * spec.tick_e8 // E8)

    def _wallet_row(self, account: int, coins: set[str] | None = None) -> dict[str, Any]:
        """Balances: of these coins, or of all there is something of."""
        equity = self._equity_e8(account)
        wide = partial(self._wide, self._isolated(account))
        rows = [
            self._coin_row(asset, free, locked) for asset, free, locked in self.engine.balances(account)
            if (asset in coins if coins is not None else free or locked)
        ]  # fmt: skip
        return {
            "accountType": "UNIFIED", "accountLTV": "", "accountIMRate": wide(0), "accountMMRate": wide(0),
            "totalEquity": plain(equity), "totalWalletBalance": wide(equity), "totalMarginBalance": wide(equity),
            "totalAvailableBalance": wide(equity), "totalPerpUPL": wide(0), "totalInitialMargin": wide(0),
            "totalMaintenanceMargin": wide(0), "coin": rows,
        }  # fmt: skip

    def _coin_row(self, asset: str, free: int, locked: int) -> dict[str, Any]:
        held = fixed(free + locked, 8)
        return {
            "coin": asset, "equity": held, "usdValue": plain(self._worth_e8(asset, free + locked)), "walletBalance": held,
            "locked": fixed(locked, 8), "borrowAmount": "0", "availableToBorrow": "", "availableToWithdraw": "",
            "accruedInterest": "0", "totalOrderIM": "0", "totalPositionIM": "0", "totalPositionMM": "0", "unrealisedPnl": "0",
            "cumRealisedPnl": "0", "bonus": "0", "collateralSwitch": True, "marginCollateral": True, "spotHedgingQty": "0",
            "spotBorrow": "0",
        }  # fmt: skip

    def _log_of(self, account: int) -> list[tuple[int, int, int, str, int]]:
        """Of every coin."""
        return [(ts, -1, eng.REASON_DEPOSIT if amount > 0 else eng.REASON_WITHDRAW, asset, amount)
                for ts, asset, amount in self.engine.flows_of(account)]  # fmt: skip
