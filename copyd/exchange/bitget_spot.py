"""The Bitget dialect of the spot market: what it says otherwise than that of the perpetuals, of API v2 and of v3.

An account owns coins. A market order that buys is sized in the quote coin, every other order in the base coin; there is nothing
to reduce, to lever or to short, and what is not there is refused. A commission is taken from what is received: below 0 in v2
(but for its channel of fills, which writes it without a sign), above 0 in v3. v2 answers questions about orders with plain lists
and pads their numbers; an order that is still open is listed with its price in ``priceAvg`` and its average in ``basePrice``;
its pushes write the quantity in ``newSize`` and what it is worth in ``size``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from copyd._fast import sim_engine as eng
from copyd.errors import UsageError
from copyd.exchange import bitget
from copyd.exchange.bitget import FORCE, REFUSALS, STATUS, Call, Route, Session, money, short, side_of
from copyd.exchange.dialect import Host, Market
from copyd.exchange.model import E8, PPM, fixed
from copyd.exchange.spot import SPOT_INSTRUMENTS, SpotEngine, SpotInstrument, SpotMakers

PRODUCT = "SPOT"
BILLS_MAX = 500
#: Decimals of numbers in lists of orders.
WIDE = 16


class Dialect(bitget.Dialect):
    """See the module."""

    name = "bitget_spot"
    market = Market(SPOT_INSTRUMENTS, SpotEngine, SpotMakers)
    product = PRODUCT
    topic = "spot"
    refusals = REFUSALS | {
        -1121: ("42016", "25100", "symbol {0} is Invalid or not supported"),
        -1111: ("01002", "25610", "checkScale error"),
        -2019: ("43012", "25202", "Insufficient balance"),
        -4004: ("43006", "25207", "less than the minimum order quantity"),
        -4005: ("43007", "25208", "more than the maximum order quantity"),
        -4014: ("01002", "25244", "checkScale error"),
        -4023: ("01002", "25610", "checkScale error"),
        -4116: ("43118", "25212", "clientOrderId duplicate"),
    }  # fmt: skip
    unknown_symbol = "42016"
    batch_max = 50
    authorities = frozenset({"stow", "trade"})

    def __init__(self, host: Host) -> None:
        engine: Any = host.engine
        specs: Any = host.instruments
        self.spot: SpotEngine = engine
        self.specs: tuple[SpotInstrument, ...] = specs
        super().__init__(host)
        if any(step != 1 or spec.lot_e8 * 10**volume != E8 for spec, (_, step, volume) in zip(specs, self.places, strict=True)):
            raise UsageError("ticks and lots of this dialect are powers of ten")

    def _public_routes(self) -> None:
        super()._public_routes()
        r = self.routes
        for path in [path for path in r if "/mix/" in path]:
            del r[path]
        r["GET /api/v2/mix/market/contracts"] = Route(lambda c: [], signed=False)
        r["GET /api/v2/spot/public/symbols"] = Route(self.pairs, signed=False)
        r["GET /api/v2/spot/market/tickers"] = Route(self.tickers, signed=False)
        r["GET /api/v2/spot/market/orderbook"] = Route(self.depth, signed=False)

    def _routes_v2(self) -> None:
        r = self.routes
        r["GET /api/v2/spot/account/info"] = Route(self.key_v2, per_s=1)
        r["GET /api/v2/spot/account/assets"] = Route(self.assets_v2)
        r["GET /api/v2/spot/account/bills"] = Route(self.bills)
        r["POST /api/v2/spot/trade/place-order"] = Route(self.place_v2, rule="place", trade=True)
        r["POST /api/v2/spot/trade/batch-orders"] = Route(self.batch_v2, per_s=5, rule="place", trade=True)
        r["POST /api/v2/spot/trade/cancel-order"] = Route(self.cancel, rule="cancel", trade=True)
        r["POST /api/v2/spot/trade/cancel-symbol-order"] = Route(self.cancel_symbol, per_s=5, rule="cancel", trade=True)
        r["GET /api/v2/spot/trade/orderInfo"] = Route(self.detail, per_s=20, rule="query")
        r["GET /api/v2/spot/trade/unfilled-orders"] = Route(partial(self.orders, open_=True), per_s=20, rule="query")
        r["GET /api/v2/spot/trade/history-orders"] = Route(partial(self.orders, open_=False), per_s=20, rule="query")
        r["GET /api/v2/spot/trade/fills"] = Route(self.fills, rule="query")

    # -- instruments and market -------------------------------------------------------------------------------------------------

    def pairs(self, call: Call) -> Any:
        return [self._pair(index) for index in self.some(call)]

    def _pair(self, index: int) -> dict[str, Any]:
        spec, (price_places, _, places) = self.specs[index], self.places[index]
        return {
            "symbol": spec.symbol, "baseCoin": spec.base, "quoteCoin": spec.quote,
            "minTradeAmount": self.size(index, spec.min_qty) if spec.min_qty > 1 else "0",
            "maxTradeAmount": self.size(index, min(spec.max_qty, spec.market_max_qty)), "takerFeeRate": "0.001",
            "makerFeeRate": "0.001", "pricePrecision": str(price_places), "quantityPrecision": str(places),
            "quotePrecision": "8", "status": "online", "minTradeUSDT": short(fixed(spec.min_notional_e8, 8)),
            "buyLimitPriceRatio": _ratio(spec.up_ppm - PPM), "sellLimitPriceRatio": _ratio(PPM - spec.down_ppm),
            "orderQuantity": str(spec.max_orders), "areaSymbol": "no",
        }  # fmt: skip

    def _instrument_v3(self, index: int) -> dict[str, Any]:
        old = self._pair(index)
        kept = ("symbol", "baseCoin", "quoteCoin", "buyLimitPriceRatio", "sellLimitPriceRatio", "makerFeeRate", "takerFeeRate",
                "pricePrecision", "quantityPrecision", "quotePrecision", "status")  # fmt: skip
        return {name: old[name] for name in kept} | {
            "category": PRODUCT, "minOrderQty": self.size(index, self.specs[index].min_qty),
            "maxOrderQty": old["maxTradeAmount"], "minOrderAmount": old["minTradeUSDT"],
            "maxSymbolOrderNum": old["orderQuantity"], "maxProductOrderNum": "1000",
            "priceMultiplier": self.price(index, 1), "quantityMultiplier": self.size(index, 1), "symbolType": "crypto",
            "isRwa": "NO", "maintainTime": "",
        }  # fmt: skip

    def ticker(self, index: int, now_ns: int) -> dict[str, Any]:
        """One market's ticker, as v2 writes it: there is no mark."""
        bid, bid_qty, ask, ask_qty = self.engine.top(index)
        last = self.price(index, self.engine.last_price(index) or self.engine.mark(index))
        symbol = self.specs[index].symbol
        return {
            "instId": symbol, "symbol": symbol, "lastPr": last, "bidPr": self.price(index, bid) if bid else "",
            "askPr": self.price(index, ask) if ask else "", "bidSz": self.size(index, bid_qty),
            "askSz": self.size(index, ask_qty), "open": last, "open24h": last, "high24h": last, "low24h": last, "openUtc": last,
            "baseVolume": "0", "quoteVolume": "0", "usdtVolume": "0", "change24h": "0", "changeUtc24h": "0",
            "ts": str(now_ns // 10**6),
        }  # fmt: skip

    def _ticker_v3(self, index: int, now_ns: int) -> dict[str, Any]:
        row = self.ticker(index, now_ns)
        return {
            "category": PRODUCT, "symbol": row["symbol"], "lastPrice": row["lastPr"], "bid1Price": row["bidPr"],
            "ask1Price": row["askPr"], "bid1Size": row["bidSz"], "ask1Size": row["askSz"], "openPrice24h": row["open24h"],
            "highPrice24h": row["high24h"], "lowPrice24h": row["low24h"], "price24hPcnt": "0", "volume24h": "0",
            "turnover24h": "0", "ts": row["ts"],
        }  # fmt: skip

    # -- orders ---------------------------------------------------------------------------------------------------------------

    def place_v2(self, call: Call) -> Any:
        return self._place_spot(call, call.need("size"), call.text("force").lower())

    def place_v3(self, call: Call) -> Any:
        return self._place_spot(call, call.need("qty"), call.text("timeInForce").lower())

    def _place_spot(self, call: Call, size: str, force: str) -> Any:
        index, side = self.symbol(call), side_of(call.need("side"), call)
        limit, tif, client = self._kind_of_order(call, force)
        by_value = side > 0 and not limit
        parse = self.spot.parse_quote if by_value else self.spot.parse_qty
        amount = self.checked(call, parse(index, size.encode()), index)
        px = self.checked(call, self.spot.parse_px(index, call.need("price").encode()), index) if limit else 0
        slot = self.spot.place(
            call.account, index, side, eng.TYPE_LIMIT if limit else eng.TYPE_MARKET, tif, 0 if by_value else amount, px, client,
            self.host.now_ns(), quote_e8=amount if by_value else 0)  # fmt: skip
        self.done(call, slot, index)
        order = self.spot.order(slot)
        return {"orderId": str(order[1]), "clientOid": order[4].decode()}

    def cancel_symbol(self, call: Call) -> Any:
        """Every open order of a market."""
        call.need("symbol")
        self.cancel_many(call)
        return {"symbol": call.text("symbol")}

    def detail(self, call: Call) -> Any:
        """v2 answers with a list, with an empty one where there is no such order."""
        if call.v3:
            return super().detail(call)
        slot = self.find(call)
        return [self.order_v2(self.spot.order(slot))] if slot >= 0 else []

    def orders(self, call: Call, open_: bool) -> Any:
        """Open orders, or ended ones, the newest first."""
        if call.v3:
            return super().orders(call, open_)
        page, _ = self._order_page(call, open_)
        return [self._open_order_v2(order) if open_ else self.order_v2(order) for order in page]

    def fills(self, call: Call) -> Any:
        """Executions, the newest first."""
        if call.v3:
            return super().fills(call)
        return [self.listed_fill_v2(call, *row) for row in self._fill_page(call)]

    # -- how orders and executions are written --------------------------------------------------------------------------------

    def _coin(self, index: int, side: int) -> str:
        """What a commission is taken in."""
        return self.specs[index].base if side > 0 else self.specs[index].quote

    def _asked(self, order: tuple[Any, ...]) -> str:
        """How much an order is for: of the quote coin where it buys at the market."""
        quote_e8 = self.spot.quote_order_e8(order[0])
        return short(fixed(quote_e8, 8)) if quote_e8 else self.size(order[3], order[12])

    def _wide_average(self, order: tuple[Any, ...]) -> str:
        average = self._average(order[3], order[14], order[15])
        return _wide(average) if average else "0"

    def order_v2(self, order: tuple[Any, ...]) -> dict[str, Any]:
        """A row about an order that was asked for by name, or of the list of ended ones."""
        index, side = order[3], order[5]
        fee, _ = self._spent(order)
        return {
            "userId": str(10**9 + order[2]), "symbol": self.specs[index].symbol, "orderId": str(order[1]),
            "clientOid": self._client(order), "price": _wide(self.price(index, order[13])) if order[13] else "0",
            "size": _wide(self._asked(order)), "orderType": "limit" if order[13] else "market",
            "side": "buy" if side > 0 else "sell", "status": _status(order), "priceAvg": self._wide_average(order),
            "baseVolume": _wide(self.size(index, order[14])), "quoteVolume": _wide(fixed(order[15], 8)),
            "enterPointSource": "API", "feeDetail": _fee_text(fee, self._coin(index, side)) if order[14] else "",
            "orderSource": "normal" if order[13] else "market", "cancelReason": "", "cTime": str(order[16] // 10**6),
            "uTime": str(order[17] // 10**6),
        }  # fmt: skip

    def _open_order_v2(self, order: tuple[Any, ...]) -> dict[str, Any]:
        row = self.order_v2(order)
        row["priceAvg"], row["basePrice"] = row.pop("price"), row["priceAvg"]
        return row | {"tpslType": "normal", "triggerPrice": None}

    def order_v3(self, order: tuple[Any, ...], category: str = PRODUCT) -> dict[str, Any]:
        """An order as v3 writes it."""
        index, side, quote_e8 = order[3], order[5], self.spot.quote_order_e8(order[0])
        fee, _ = self._spent(order)
        return {
            "orderId": str(order[1]), "clientOid": self._client(order), "category": category,
            "symbol": self.specs[index].symbol, "orderType": "limit" if order[13] else "market",
            "side": "buy" if side > 0 else "sell", "price": self.price(index, order[13]) if order[13] else "0",
            "qty": "0" if quote_e8 else self.size(index, order[12]), "amount": money(quote_e8),
            "cumExecQty": self.size(index, order[14]), "cumExecValue": money(order[15]),
            "avgPrice": self._average(index, order[14], order[15]) or "0", "timeInForce": FORCE[order[8]],
            "orderStatus": _status(order), "posSide": "", "holdMode": "one_way_mode", "reduceOnly": "NO",
            "feeDetail": [{"feeCoin": self._coin(index, side), "fee": money(fee)}], "cancelReason": "",
            "execType": "normal", "stpMode": "none", "createdTime": str(order[16] // 10**6),
            "updatedTime": str(order[17] // 10**6),
        }  # fmt: skip

    def _pushed_order_v3(self, order: tuple[Any, ...]) -> dict[str, Any]:
        row = self.order_v3(order, self.topic)
        row["holdSide"] = row.pop("posSide")
        return row

    def listed_fill_v2(self, call: Call, trade: tuple[int, ...], at: int) -> dict[str, Any]:
        index, bought = trade[2], at == 7
        stamp = str(trade[5] // 10**6)
        fee = {"deduction": "no", "feeCoin": self._coin(index, 1 if bought else -1), "totalDeductionFee": "",
               "totalFee": money(-trade[at + 2])}  # fmt: skip
        return {
            "userId": str(10**9 + call.account), "symbol": self.specs[index].symbol, "orderId": str(trade[at + 1]),
            "tradeId": str(trade[1]), "orderType": self._type_of(call.account, index, trade[at + 1]),
            "side": "buy" if bought else "sell", "priceAvg": self.price(index, trade[3]), "size": self.size(index, trade[4]),
            "amount": self._value(index, trade[3], trade[4]), "feeDetail": fee,
            "tradeScope": "maker" if (trade[6] < 0) == bought else "taker", "cTime": stamp, "uTime": stamp,
        }  # fmt: skip

    def _type_of(self, account: int, index: int, order_id: int) -> str:
        slot = self.spot.find_order(account, index, order_id, self.host.now_ns())
        return "limit" if slot >= 0 and self.spot.order(slot)[13] else "market"

    def listed_fill_v3(self, call: Call, trade: tuple[int, ...], at: int) -> dict[str, Any]:
        row = super().listed_fill_v3(call, trade, at)
        index, coin = trade[2], self._coin(trade[2], 1 if at == 7 else -1)
        return row | {
            "category": PRODUCT, "orderType": self._type_of(call.account, index, trade[at + 1]), "tradeSide": "",
            "feeDetail": [{"feeCoin": coin, "fee": money(trade[at + 2])}], "execPnl": "0",
        }  # fmt: skip

    def _order_push_v2(self, kind: int, event: tuple[int, ...], order: tuple[Any, ...]) -> dict[str, Any]:
        index, limit, asked = order[3], bool(order[13]), self._asked(order)
        quote_e8 = self.spot.quote_order_e8(order[0])
        worth = quote_e8 or order[13] * order[12] * self.specs[index].value_mul
        coin = self._coin(index, order[5])
        fee, _ = self._spent(order)
        row = {
            "instId": self.specs[index].symbol, "orderId": str(order[1]), "clientOid": self._client(order), "newSize": asked,
            # Of a limit order what it is worth, cut to the decimals of a quantity.
            "size": fixed(worth, self.places[index][2]) if limit else asked, "notional": money(worth),
            "orderType": "limit" if limit else "market", "force": FORCE[order[8]], "side": "buy" if order[5] > 0 else "sell",
            "accBaseVolume": self.size(index, order[14]), "priceAvg": self._average(index, order[14], order[15]) or "0",
            "status": _status(order), "cTime": str(order[16] // 10**6), "uTime": str(order[17] // 10**6), "stpMode": "none",
            "feeDetail": [{"feeCoin": coin, "fee": money(-fee)}] if order[14] else [], "enterPointSource": "API",
        }  # fmt: skip
        if limit:
            row["price"] = self.price(index, order[13])
        if kind == eng.EV_TRADE:
            row |= {
                "fillPrice": self.price(index, event[11]), "tradeId": str(event[13]), "baseVolume": self.size(index, event[12]),
                "fillTime": str(event[9] // 10**6), "fillFee": money(-event[16]), "fillFeeCoin": coin,
                "tradeScope": "M" if event[7] else "T",
            }  # fmt: skip
        return row

    def _fill_push_v2(self, event: tuple[int, ...], order: tuple[Any, ...]) -> dict[str, Any]:
        """It does not say whose client id the order bears, nor that a commission is below 0."""
        index, stamp = order[3], str(event[9] // 10**6)
        fee = {"feeCoin": self._coin(index, order[5]), "deduction": "no", "totalDeductionFee": "0",
               "totalFee": money(event[16])}  # fmt: skip
        return {
            "orderId": str(order[1]), "tradeId": str(event[13]), "symbol": self.specs[index].symbol,
            "orderType": "limit" if order[13] else "market", "side": "buy" if order[5] > 0 else "sell",
            "priceAvg": self.price(index, event[11]), "size": self.size(index, event[12]),
            "amount": self._value(index, event[11], event[12]), "tradeScope": "maker" if event[7] else "taker",
            "feeDetail": [fee], "cTime": stamp, "uTime": stamp,
        }  # fmt: skip

    def _fill_push_v3(self, event: tuple[int, ...], order: tuple[Any, ...]) -> dict[str, Any]:
        row = super()._fill_push_v3(event, order)
        fee = {"feeCoin": self._coin(order[3], order[5]), "fee": money(event[16])}
        return row | {"category": self.topic, "tradeSide": "", "holdSide": "", "feeDetail": [fee], "execPnl": "0"}

    # -- account --------------------------------------------------------------------------------------------------------------

    def _coins(self, account: int, wanted: str = "") -> list[tuple[str, int, int]]:
        """(coin, free, locked): the one that is named, else those that are held."""
        rows = self.spot.balances(account)
        return [row for row in rows if row[0] == wanted] if wanted else [row for row in rows if row[1] or row[2]]

    def _coin_v2(self, coin: str, free: int, locked: int) -> dict[str, Any]:
        return {
            "coin": coin, "available": money(free), "frozen": money(locked), "locked": "0",
            "limitAvailable": "0", "uTime": str(self.host.server_ns() // 10**6),
        }  # fmt: skip

    def _coin_v3(self, coin: str, free: int, locked: int) -> dict[str, Any]:
        held = money(free + locked)
        return {"coin": coin, "equity": held, "balance": held, "available": money(free), "locked": money(locked),
                "usdValue": money(self._worth(coin, free + locked))}  # fmt: skip

    def _worth(self, coin: str, amount_e8: int) -> int:
        """In 1e-8 USDT, rounded down."""
        for index, spec in enumerate(self.specs):
            if spec.base == coin:
                return amount_e8 * self.spot.mark(index) * spec.tick_e8 // E8
        return amount_e8

    def _noted_equity(self, account: int) -> str:
        equity = self.spot.equity_e8(account)
        self.host.note_equity(account, equity, self.host.now_ns())
        return money(equity)

    def assets_v2(self, call: Call) -> Any:
        self._noted_equity(call.account)
        return [self._coin_v2(*row) for row in self._coins(call.account, call.text("coin").upper())]

    def assets_v3(self, call: Call) -> Any:
        equity = self._noted_equity(call.account)
        return {
            "accountEquity": equity, "usdtEquity": equity, "btcEquity": "0", "unrealisedPnl": "0", "usdtUnrealisedPnl": "0",
            "btcUnrealizedPnl": "0", "effEquity": equity, "mmr": "0", "imr": "0", "mgnRatio": "0", "positionMgnRatio": "0",
            "assets": [{**self._coin_v3(*row), "debt": "0"} for row in self._coins(call.account)],
        }  # fmt: skip

    def settings_v3(self, call: Call) -> Any:
        return {
            "uid": str(10**9 + call.account), "accountMode": "hybrid", "assetMode": "multi_assets", "accountLevel": "advanced",
            "holdMode": "one_way_mode", "stpMode": "none", "symbolConfigList": [], "coinConfigList": [],
        }  # fmt: skip

    def _legs(self, account: int, indexes: list[int]) -> list[tuple[int, int, int]]:
        """There are no positions."""
        return []

    def bills(self, call: Call) -> Any:
        """What was paid in and taken out, the newest first."""
        start, end = call.whole("startTime", 0) * 10**6, call.whole("endTime", 1 << 42) * 10**6
        before = call.whole("cursor" if call.v3 else "idLessThan", 1 << 62)
        wanted, coin = call.text("type" if call.v3 else "businessType"), call.text("coin").upper()
        rows = []
        for number, (ts, asset, amount) in enumerate(self.spot.flows_of(call.account), 1):
            kind = "transfer_in" if amount > 0 else "transfer_out"
            kind = kind.upper() if call.v3 else kind
            if start <= ts <= end + 10**6 and number < before and wanted in ("", kind) and coin in ("", asset):
                rows.append((number, ts, asset, kind, amount))
        page = rows[::-1][: min(call.whole("limit", 100), BILLS_MAX)]
        if not call.v3:
            return [
                {
                    "billId": str(number), "coin": asset, "groupType": "transfer", "businessType": kind,
                    "size": money(amount), "balance": "0", "fees": "0", "cTime": str(ts // 10**6),
                }
                for number, ts, asset, kind, amount in page
            ]  # fmt: skip
        written = [
            {
                "category": PRODUCT, "id": str(number), "symbol": "", "coin": asset, "type": kind, "amount": money(amount),
                "fee": "0", "balance": "0", "ts": str(ts // 10**6),
            }
            for number, ts, asset, kind, amount in page
        ]  # fmt: skip
        return {"list": written, "cursor": str(page[-1][0]) if page else None}

    # -- events ---------------------------------------------------------------------------------------------------------------

    def events(self, events: list[tuple[int, ...]]) -> None:
        """Pushes in the engine's order; of one change the coins of an account come together."""
        super().events([event for event in events if event[0] != eng.EV_ACCOUNT])
        moved: dict[int, set[str]] = {}
        for event in events:
            if event[0] == eng.EV_ACCOUNT:
                moved.setdefault(event[1], set()).add(self.spot.assets[event[3]])
        for account, coins in moved.items():
            self._tell_balances(account, coins)

    def _tell_balances(self, account: int, coins: set[str]) -> None:
        owner = self.host.owner_of(account)
        for conn in list(self.private.get(account, [])):
            if owner is not None and self._hears(conn.state, "account"):
                self.host.publish(conn, owner, "account", "", self._balances_push(conn.state, account, coins))

    def _account_push(self, session: Session, account: int) -> bytes:
        return self._balances_push(session, account, {row[0] for row in self._coins(account)})

    def _balances_push(self, session: Session, account: int, coins: set[str]) -> bytes:
        rows = [row for row in self.spot.balances(account) if row[0] in coins]
        if not session.v3:
            return self._push(PRODUCT, "account", [self._coin_v2(*row) for row in rows], coin="default")
        equity = money(self.spot.equity_e8(account))
        whole: dict[str, Any] = {
            "unrealisedPnL": "0", "totalEquity": equity, "positionMgnRatio": "0", "mmr": "0", "effEquity": equity, "imr": "0",
            "mgnRatio": "0", "coin": [{**self._coin_v3(*row), "borrow": "0", "debts": "0"} for row in rows],
        }  # fmt: skip
        return self._push("UTA", "account", [whole])


def _status(order: tuple[Any, ...]) -> str:
    return STATUS[order[10]].replace("canceled", "cancelled")


def _wide(text: str) -> str:
    """A decimal with all the places of a list."""
    whole, _, part = text.partition(".")
    return f"{whole}.{part:0<{WIDE}}"


def _fee_text(fee_e8: int, coin: str) -> str:
    """A commission as a list of orders writes it: JSON within a text."""
    fee = money(-fee_e8)
    total = f'"totalDeductionFee":0,"totalFee":{fee}'
    return (f'{{"newFees":{{"c":0,"d":0,"deduction":false,"r":{fee},"t":{fee},"totalDeductionFee":0}},'
            f'"{coin}":{{"deduction":false,"feeCoinCode":"{coin}",{total}}}}}')  # fmt: skip


def _ratio(ppm: int) -> str:
    return short(fixed(ppm * 100, 8))

