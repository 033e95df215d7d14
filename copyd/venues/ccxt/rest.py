"""Questions, settings and orders by ccxt's unified calls, over the process that runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from copyd._fast.decimals import format_scaled
from copyd.core import leader_stream as ls
from copyd.errors import VenueUnavailable
from copyd.venues.ccxt import codec
from copyd.venues.ccxt.contract import Endpoints
from copyd.venues.ccxt.errors import classify, unchanged
from copyd.venues.ccxt.instruments import Market, markets_of
from copyd.venues.ccxt.process import Process, Refused
from copyd.venues.ccxt.signing import account_of
from copyd.venues.common import told
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import NEW
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.names import Names, execution_ms
from copyd.venues.common.outcome import Outcome, Verdict
from copyd.venues.common.rest import RestBase, RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import AccountBooks, Order, Rights, Settings

#: Executions of one window that are more than a page are asked for in shorter ones, down to this.
PIECE_MIN_MS = 1_000
CLOCK = "clock"


class Rest(RestBase):
    """See ``copyd.venues.common.venue.Reads``."""

    clock_call = "fetch_time"

    def __init__(
        self, endpoints: Endpoints, contract: VenueContract, clock: Callable[[], int], *, isolated: bool, weight_limit: int
    ) -> None:
        super().__init__("", contract, clock, weight_limit=weight_limit)
        self.endpoints, self.exchange, self.isolated = endpoints, endpoints.exchange, isolated
        self.process = Process(endpoints)
        self.names = Names()
        self.instruments = Instruments(())
        #: By account: who wants to know that an order was placed (symbol, client order id).
        self.on_placed: dict[str, Callable[[str, bytes], None]] = {}
        self._keys: dict[str, Key] = {}
        self._no_prices: set[str] = set()
        self._markets: dict[str, Market] = {}
        self._symbols: dict[str, Instrument] = {}

    # --- life ---------------------------------------------------------------------------------------------------------
    async def open(self) -> None:
        """Start the process; ``OperatorError`` where the exchange cannot be used."""
        await self.process.start()

    async def close(self) -> None:
        await self.process.stop()

    def bind(self, instruments: Instruments) -> None:
        """The instruments in use."""
        self.instruments = instruments
        self._symbols = {self.symbol(item): item for item in instruments}

    def symbol(self, item: Instrument) -> str:
        """What ccxt calls an instrument."""
        return self._markets[item.symbol].symbol

    def item_of(self, symbol: str) -> Instrument | None:
        """The instrument of ccxt's name, None where it is none of ours."""
        return self._symbols.get(symbol)

    def remember(self, key: Key) -> None:
        """A key by its account's name, for whoever polls it."""
        self._keys[account_of(key)] = key

    def key_of(self, account: str) -> Key:
        """The key of an account's name. ``KeyError`` for one that was not remembered."""
        return self._keys[account]

    def can(self, call: str) -> bool:
        """Whether ccxt has that call of the exchange."""
        return self.process.ability.has.get(call, False)

    async def ask(self, method: str, *args: Any, key: Key | None = None, account: str = "", **params: Any) -> bytes:
        """A unified call within the address's budget. ``VenueUnavailable`` without an answer, ``RestError`` for a refusal."""
        await self.take(method, key)
        return await self._ask_now(method, *args, key=key, account=account, **params)

    async def _ask_now(self, method: str, *args: Any, key: Key | None = None, account: str = "", **params: Any) -> bytes:
        self.calls += 1
        try:
            return await self.process.call(method, *args, key=key, account=account, **params)
        except Refused as problem:
            self.errors += 1
            if "NetworkError" in problem.kinds and "RateLimitExceeded" not in problem.kinds:
                raise VenueUnavailable(f"{method}: {problem}") from None
            raise self._refused(method, problem) from None

    def _refused(self, method: str, problem: Refused) -> RestError:
        limited = "RateLimitExceeded" in problem.kinds
        if limited:
            self.bans.note(429, 0, problem.text, None, self.venue_clock.timestamp_ms())
        verdict = classify(problem.kinds, problem.text, problem.written, self.exchange.refusals)
        return _Refusal(method, 429 if limited else 200, str(problem), verdict, problem)

    # --- the venue itself ---------------------------------------------------------------------------------------------
    async def server_ms(self) -> int:
        """The exchange's clock, ms, with the weight already taken; by an instance of its own, which waits for nobody."""
        return int(codec.read(await self._ask_now("fetch_time", account=CLOCK), int))

    async def instrument_bodies(self) -> bytes:
        """The linear perpetuals."""
        body = await self.ask("markets")
        self._markets = {market.id: market for market in markets_of(body)}
        return body

    async def market(self) -> tuple[list[codec.Ticker], list[codec.Funding]]:
        """Prices of every instrument, and marks where the prices do not tell them."""
        symbols = list(self._symbols)
        tickers = await self._quotes(symbols)
        if all(row.markPrice for row in tickers):
            return tickers, []
        return tickers, await self._marks(symbols)

    async def _quotes(self, symbols: list[str]) -> list[codec.Ticker]:
        rows: dict[str, codec.Ticker] = {}
        for call, method in (("fetchTickers", "fetch_tickers"), ("fetchBidsAsks", "fetch_bids_asks")):
            lacking = [symbol for symbol in symbols if symbol not in rows or not rows[symbol].bid]
            if not lacking or not self.can(call) or method in self._no_prices:
                continue
            told_of = codec.read(await self.ask(method, lacking), dict[str, codec.Ticker])
            for symbol, row in told_of.items():
                rows[symbol] = _filled_in(row, rows.get(symbol))
            if not any(row.bid or row.markPrice for row in told_of.values()):
                self._no_prices.add(method)  # dear, and of no use here: another call tells them
        for symbol in symbols:
            if symbol not in rows or not rows[symbol].bid:
                rows[symbol] = await self._top(symbol, rows.get(symbol))
        return [rows[symbol] for symbol in symbols]

    async def _top(self, symbol: str, before: codec.Ticker | None) -> codec.Ticker:
        book = codec.read(await self.ask("fetch_order_book", symbol, 5), codec.Book)
        if not book.bids or not book.asks:
            return before or codec.Ticker(symbol=symbol)  # no price for this one; the others have theirs
        bid, ask = book.bids[0], book.asks[0]
        top = codec.Ticker(
            symbol=symbol, bid=bid[0], bidVolume=bid[1], ask=ask[0], askVolume=ask[1], timestamp=book.timestamp)
        return _filled_in(top, before)

    async def _marks(self, symbols: list[str]) -> list[codec.Funding]:
        for call, method in (("fetchMarkPrices", "fetch_mark_prices"), ("fetchFundingRates", "fetch_funding_rates")):
            if self.can(call):
                return list(codec.read(await self.ask(method, symbols), dict[str, codec.Funding]).values())
        if self.can("fetchFundingRate"):
            return [codec.read(await self.ask("fetch_funding_rate", symbol), codec.Funding) for symbol in symbols]
        return []

    # --- settings -----------------------------------------------------------------------------------------------------
    async def hedge_mode(self, key: Key) -> bool:
        """Whether the account keeps a position per side; told by its positions where the exchange has no question for it."""
        if self.can("fetchPositionMode"):
            symbol = next(iter(self._symbols), None)
            return bool(codec.read(await self.ask("fetch_position_mode", symbol, key=key), codec.PositionMode).hedged)
        for symbol in self._symbols:  # of one instrument some exchanges tell the mode where nothing is held
            rows = codec.read(await self.ask("fetch_positions", [symbol], key=key), list[codec.Position])
            if any(row.hedged for row in rows):
                return True
        return False

    async def set_hedge(self, key: Key, hedge: bool) -> None:
        """One-way it is: executions behind ccxt name no position side."""
        if hedge:
            raise RestError(
                "set_position_mode", 200, 0, "a position per side is not copied through ccxt",
                Verdict(Outcome.DEFINITE_REJECT, "position_mode"))
        await self._set("set_position_mode", False, next(iter(self._symbols), None), key=key)

    async def settings(self, key: Key, instrument: Instrument) -> Settings:
        """Position mode, margin type and leverage."""
        hedge = await self.hedge_mode(key)
        leverage, mode = await self._leverage(key, instrument)
        if self.exchange.margin_by_order:
            return Settings(hedge, self.isolated, leverage)
        if self.can("fetchMarginMode"):
            mode = codec.read(await self.ask("fetch_margin_mode", self.symbol(instrument), key=key), codec.MarginMode).marginMode
        return Settings(hedge, mode == "isolated", leverage)

    async def set_margin(self, key: Key, instrument: Instrument, isolated: bool, leverage: int) -> None:
        """Set the margin type."""
        params = {"leverage": leverage} if leverage else {}
        await self._set("set_margin_mode", "isolated" if isolated else "cross", self.symbol(instrument), key=key, **params)

    async def set_leverage(self, key: Key, instrument: Instrument, leverage: int, isolated: bool) -> None:
        """Set the leverage; of that margin type where the exchange keeps one per type."""
        await self._set("set_leverage", leverage, self.symbol(instrument), key=key, **self._margin(isolated))

    def _margin(self, isolated: bool) -> dict[str, str]:
        return {"marginMode": "isolated" if isolated else "cross"} if self.exchange.margin_by_order else {}

    async def _set(self, method: str, *args: Any, key: Key, **params: Any) -> None:
        try:
            await self.ask(method, *args, key=key, **params)
        except _Refusal as problem:
            if not unchanged(problem.of.kinds, problem.of.text):
                raise

    async def leverage(self, key: Key, instrument: Instrument) -> int:
        """The account's leverage in an instrument; 0 = not told."""
        return (await self._leverage(key, instrument))[0]

    async def _leverage(self, key: Key, instrument: Instrument) -> tuple[int, str | None]:
        """Leverage and margin type, as far as they are told."""
        symbol = self.symbol(instrument)
        if self.can("fetchLeverage"):
            row = codec.read(await self.ask("fetch_leverage", symbol, key=key, **self._margin(self.isolated)), codec.Leverage)
            return codec.whole(row.longLeverage), row.marginMode
        for one, item in await self._positions(key):
            if item.index == instrument.index:
                return codec.whole(one.leverage), one.marginMode
        return 0, None

    # --- balances and positions ---------------------------------------------------------------------------------------
    async def _positions(self, key: Key) -> list[tuple[codec.Position, Instrument]]:
        page = self.exchange.positions_page
        limit: dict[str, Any] = {"limit": page} if page else {}
        rows = codec.read(await self.ask("fetch_positions", None, key=key, **limit), list[codec.Position])
        if page and len(rows) >= page:
            raise ValueError("more positions than one page tells")
        return [(row, item) for row in rows if (item := self.item_of(row.symbol or "")) is not None]

    async def books(self, key: Key) -> AccountBooks:
        """Balance and positions, all instruments of ours."""
        balance = codec.read(await self.ask("fetch_balance", key=key), dict[str, Any])
        rows = await self._positions(key)
        asset = next(iter(self.instruments)).margin_asset
        now = self.venue_clock.timestamp_ms() * 10**6
        return codec.books(balance, rows, asset, now, total_is_wallet=self.exchange.total_is_wallet)

    async def positions(self, key: Key) -> list[ls.Position]:
        """Positions with their leverage."""
        now = self.clock()
        return [codec.position(row, item, now) for row, item in await self._positions(key)]

    # --- orders ---------------------------------------------------------------------------------------------------------
    async def order(
        self, key: Key, instrument: Instrument, *, cid: bytes | None = None, order_id: int = 0
    ) -> told.OrderTold | None:
        """An order; None only where the exchange says that there is none."""
        row = await self.order_row(key, instrument, cid.hex() if cid is not None else "", self.names.order_text(order_id))
        return None if row is None else codec.order_told(row, instrument, self.names)

    async def order_row(self, key: Key, instrument: Instrument, cid: str, name: str) -> codec.Order | None:
        """The same as ccxt tells it; ``cid`` "": by the exchange's name."""
        if not cid and not name:
            raise ValueError("an order whose name is not remembered cannot be asked for")
        symbol, of = self.symbol(instrument), self.exchange
        if cid and of.lists:
            return await self._listed(key, symbol, cid)
        params: dict[str, Any] = {**of.order_params, **({"clientOrderId": cid} if cid else {})}
        try:
            row = codec.read(await self.ask("fetch_order", name, symbol, key=key, **params), codec.Order)
        except _Refusal as problem:
            if "OrderNotFound" in problem.of.kinds:
                return None
            raise
        if (cid and row.clientOrderId not in (cid, None, "")) or (not cid and row.id != name):
            raise ValueError("another order than was asked for")
        return row

    async def _listed(self, key: Key, symbol: str, cid: str) -> codec.Order | None:
        """An order that only lists can be asked for: None when it is in none of them."""
        for method in self.exchange.lists:
            body = await self.ask(method, symbol, None, None, key=key, **{self.exchange.lists_field: cid})
            for row in codec.read(body, list[codec.Order]):
                if row.clientOrderId == cid:
                    return row
        return None

    async def orders_since(self, key: Key, instrument: Instrument, since_ms: int) -> tuple[list[told.OrderTold], bool]:
        """Orders placed since then as far as ccxt lists them; no list of it says that it is whole."""
        if self.can("fetchOrders"):
            methods: tuple[str, ...] = ("fetch_orders",)
        else:
            methods = tuple(
                method for call, method in (
                    ("fetchOpenOrders", "fetch_open_orders"),
                    ("fetchCanceledAndClosedOrders", "fetch_canceled_and_closed_orders"),
                    ("fetchClosedOrders", "fetch_closed_orders"),
                ) if self.can(call))  # fmt: skip
        found: dict[int, told.OrderTold] = {}
        for method in methods:
            for row in codec.read(await self.ask(method, self.symbol(instrument), since_ms, None, key=key), list[codec.Order]):
                one = codec.order_told(row, instrument, self.names)
                found[one.venue_order_id] = one
        return list(found.values()), False

    async def place(self, key: Key, order: Order) -> told.Answered:
        """Place it; written once within ``order_ack_timeout_ms``, or never."""
        item = order.instrument
        kind, price = ("limit", format_scaled(order.px * item.tick, item.price_decimals)) if order.px else ("market", None)
        params: dict[str, Any] = {"clientOrderId": order.cid.hex(), **self._margin(self.isolated)}
        if order.px:
            params["timeInForce"] = "IOC"
        if order.reduce_only:
            params["reduceOnly"] = True
        amount, side = format_scaled(order.qty * item.lot, item.qty_decimals), "buy" if order.side > 0 else "sell"
        symbol = self.symbol(item)
        await self.take("create_order", key, 0)  # an order does not wait for a ban to end
        self.calls += 1
        try:
            body = await self.process.place(
                symbol, kind, side, amount, price, key=key, within_ms=self.contract.order_ack_timeout_ms, params=params)
        except Refused as problem:
            self.errors += 1
            raise self._refused("create_order", problem) from None
        finally:
            self._placed(key, symbol, order.cid)
        return self._told(order, codec.read(body, codec.Order))

    def _placed(self, key: Key, symbol: str, cid: bytes) -> None:
        follow = self.on_placed.get(account_of(key))
        if follow is not None:
            follow(symbol, cid)

    def _told(self, order: Order, row: codec.Order) -> told.Answered:
        """An exchange that only acknowledges tells an id and no more; its end is asked for."""
        number = self.names.order(row.id or "")
        if not number:
            raise ValueError("an answer to an order without its id")
        accepted = Verdict(Outcome.ACCEPTED, "")
        if row.status not in codec.STATUS or row.filled in (None, "") or row.amount in (None, "") or row.side is None:
            return told.Answered(order.cid, accepted, number, NEW)
        one = codec.order_told(row, order.instrument, self.names)
        return told.Answered(order.cid, accepted, number, one.status, one.cum_qty, one.cost_e8, one.ts_event)

    # --- executions -----------------------------------------------------------------------------------------------------
    async def trades_of(
        self, key: Key, instrument: Instrument, known: told.OrderTold | None, cid: bytes
    ) -> list[told.TradeTold]:
        """The executions of one order of ours, oldest first."""
        row = await self.order_row(key, instrument, cid.hex(), "")
        if row is None or not row.id:
            return []
        rows = await self.trade_rows_of(key, instrument, row)
        now = self.clock()
        return [codec.trade_told(one, instrument, self.names, now, live=False, order=row, cid=cid) for one in rows]

    async def trade_rows_of(self, key: Key, instrument: Instrument, order: codec.Order) -> list[codec.Trade]:
        """The same as ccxt tells them."""
        symbol = self.symbol(instrument)
        body = await self._order_trades(key, symbol, order.id)
        if body is None:
            body = await self.ask("fetch_my_trades", symbol, order.timestamp, None, key=key)
        found = [row for row in codec.read(body, list[codec.Trade]) if row.order == order.id]
        return sorted(found, key=lambda row: row.timestamp)

    async def _order_trades(self, key: Key, symbol: str, name: str | None) -> bytes | None:
        """None where the exchange, or its perpetuals, have no such question."""
        if not self.can("fetchOrderTrades"):
            return None
        try:
            return await self.ask("fetch_order_trades", name, symbol, key=key)
        except _Refusal as problem:
            if "NotSupported" not in problem.of.kinds:
                raise
            self.process.ability.has["fetchOrderTrades"] = False
            return None

    async def trade_rows(self, key: Key, instrument: Instrument, since_ms: int, until_ms: int = 0) -> list[codec.Trade]:
        """A page of the account's executions since a time, and until one where it is named."""
        until: dict[str, Any] = {"until": until_ms} if until_ms else {}
        body = await self.ask(
            "fetch_my_trades", self.symbol(instrument), since_ms or None, self.contract.backfill_page_max, key=key, **until)
        rows: list[codec.Trade] = codec.read(body, list[codec.Trade])
        return rows

    async def trades_from(self, key: Key, instrument: Instrument, from_id: int, limit: int) -> list[told.TradeTold]:
        """Executions from an id on, oldest first. An id holds its time; of a full page nobody knows which part of the window
        it is, so the window is cut until none is."""
        now = self.venue_clock.timestamp_ms() + self.contract.clock_lead_ms
        start = execution_ms(from_id) or now - self.contract.backfill_window_ms
        piece = self.contract.backfill_window_ms
        found: dict[int, told.TradeTold] = {}
        while start <= now and len(found) < limit:
            end = min(start + piece - 1, now)
            rows = await self.trade_rows(key, instrument, start, end)
            if len(rows) >= self.contract.backfill_page_max:
                if piece <= PIECE_MIN_MS:
                    raise ValueError("more executions in one second than can be read")
                piece = max(PIECE_MIN_MS, (end - start + 1) // 8)
                continue
            for row in rows:
                one = codec.trade_told(row, instrument, self.names, self.clock(), live=False)
                if one.execution.exec_id >= from_id:
                    found[one.execution.exec_id] = one
            start = end + 1
        return [found[number] for number in sorted(found)][:limit]

    async def newest_trade(self, key: Key, instrument: Instrument) -> told.TradeTold | None:
        """The account's last execution in the instrument, as far back as the exchange tells without being asked."""
        rows = await self.trade_rows(key, instrument, 0)
        found = [codec.trade_told(row, instrument, self.names, self.clock(), live=False) for row in rows]
        return max(found, key=lambda one: one.execution.exec_id, default=None)

    # --- what ccxt does not tell ------------------------------------------------------------------------------------------
    async def flows(self, key: Key, since_ms: int) -> list[tuple[int, int]]:
        """``ValueError``: what came in and went out is told by no unified call."""
        raise ValueError("money paid in or taken out is not told through ccxt")

    async def rights(self, key: Key) -> Rights:
        """``ValueError``: a key's rights are told by no unified call."""
        raise ValueError("the rights of a key are not told through ccxt")


class _Refusal(RestError):
    """A refusal with ccxt's own words."""

    def __init__(self, call: str, status: int, message: str, verdict: Verdict, of: Refused) -> None:
        super().__init__(call, status, verdict.code, message, verdict)
        self.of = of


def _filled_in(row: codec.Ticker, before: codec.Ticker | None) -> codec.Ticker:
    """A row with the mark that an earlier one told."""
    if before is not None and before.markPrice and not row.markPrice:
        row.markPrice = before.markPrice
    return row


__all__ = ["Rest"]
