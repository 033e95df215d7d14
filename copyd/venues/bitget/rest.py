"""Questions, settings and orders over REST, of classic accounts (v2) and unified ones (v3).

Which of the two a key's account is, is asked once and remembered: an answer to the settings of v3 means unified, any error
classic. Lists come newest first and are paged backwards; each is read until it ends or what is wanted is passed.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from copyd.core import leader_stream as ls
from copyd.errors import VenueUnavailable
from copyd.venues.bitget import codec
from copyd.venues.bitget.contract import ADDRESS_RECOVERY_MS, DAY_MS, MARGIN_COIN, PRODUCT, Endpoints
from copyd.venues.bitget.errors import (
    ACCOUNT_LIMIT_CODES,
    ADDRESS_LIMIT_CODES,
    NO_CHANGE_CODES,
    NOT_FOUND_CODES,
    classify,
    code_of,
)
from copyd.venues.bitget.instruments import venue_symbol
from copyd.venues.bitget.signing import headers, place_path, place_text
from copyd.venues.bitget.wire import Kind
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import MS_NS, NEW, money_e8
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.outcome import Outcome, Verdict
from copyd.venues.common.rest import NotSent, Problem, RestBase, RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.told import Answered, FundingTold, OrderTold, TradeTold
from copyd.venues.common.venue import AccountBooks, Order, Rights, Settings

PAGE = 100
#: A history longer than this is not read as a whole: it is said to be unread.
PAGES_MAX = 100
#: The longest span one question about money may have.
BILLS_SPAN_MS = 30 * DAY_MS
#: Prices that coins are valued at may be so old.
PRICES_AGE_NS = 1_000 * MS_NS
#: The venue counts orders as they arrive, not as they leave.
ORDER_MARGIN_NS = 200 * MS_NS
#: Refusals that pass by themselves, and say nothing about which API an account speaks.
PASSING = frozenset({
    "timeout", "unknown_error", "service_shutting_down", "concurrent_operation", "timestamp_outside_recv_window",
    "expired_before_engine", "symbol_status", "too_many_orders", "too_many_requests",
})  # fmt: skip
#: Refusals of the key itself: they come before its account is looked at.
SAYS_NOTHING = frozenset({
    "key_refused", "key_format", "signature", "passphrase", "ip_not_allowed", "unauthorized", "wrong_environment",
})  # fmt: skip
#: The account speaks the other API than was thought.
OTHER_API = frozenset({40085, 25245})
_HEAD = msgspec.json.Decoder(codec.Head)


class Rest(RestBase):
    """``Reads`` of this venue, and ``place``. ``isolated``: the margin type that orders bear before the account's is known."""

    clock_call = "GET /api/v2/public/time"

    def __init__(
        self, endpoints: Endpoints, contract: VenueContract, clock: Callable[[], int], *, isolated: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(endpoints.rest, contract, clock, **kwargs)
        self.endpoints, self.isolated = endpoints, isolated
        self.instruments = Instruments(())
        #: Nothing but spot is in use: the account is that of coins, and nothing is asked of the one of futures.
        self.spot_only = False
        self._pricing = asyncio.Lock()
        self._priced: dict[str, int] = {}
        self._priced_ns = -PRICES_AGE_NS
        self._kinds: dict[bytes, Kind] = {}
        self._margins: dict[tuple[bytes, str], bool] = {}
        self._placed: dict[bytes, deque[int]] = {}

    def bind(self, instruments: Instruments) -> None:
        """The instruments in use."""
        self.instruments = instruments
        self.spot_only = all(item.spot for item in instruments) and len(instruments) > 0

    # --- of the venue -------------------------------------------------------------------------------------------------
    def query(self, params: Mapping[str, Any]) -> str:
        """Sorted by name: so the venue's own samples sign it."""
        return "&".join(f"{name}={params[name]}" for name in sorted(params) if params[name] is not None)

    def signed(self, key: Key, method: str, target: str, body: bytes) -> dict[str, str]:
        """Headers of a call."""
        return headers(key, method, target, body, self.venue_clock.timestamp_ms(), demo=self.endpoints.demo)

    def problem(self, status: int, headers: Mapping[str, str], body: bytes) -> Problem | None:
        """A business error in a 200 is an error like any other."""
        try:
            head = _HEAD.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            # A 200 that cannot be read is no error of the venue's table: whoever reads it says so.
            return None if status == 200 else self._wordless(status, body)
        code = code_of(head.code)
        if status == 200 and code == 0:
            return None
        verdict = classify(status, code, head.msg or "")
        ours = code in ADDRESS_LIMIT_CODES or (code in ACCOUNT_LIMIT_CODES and self._address_spent(headers))
        return Problem(
            code, head.msg or "", verdict, limited=ours or code in ACCOUNT_LIMIT_CODES, account=not ours,
            wait_ns=ADDRESS_RECOVERY_MS * MS_NS if ours else None,
        )  # fmt: skip

    def _wordless(self, status: int, body: bytes) -> Problem:
        limited = status in (403, 418, 429)
        text = body[:100].decode("utf-8", "replace")
        wait_ns = ADDRESS_RECOVERY_MS * MS_NS if limited else None
        return Problem(0, text, classify(status, 0, text), limited=limited, wait_ns=wait_ns)

    def _address_spent(self, headers: Mapping[str, str]) -> bool:
        """Whether a refusal for the rate is about the address: only if it says that nothing is left of the address's budget."""
        return headers.get("x-mbx-used-remain-limit", "").strip() == "0"

    async def call(
        self, method: str, path: str, target: str, body: bytes, key: Key | None, *, timeout_ms: int = 0
    ) -> bytes:
        """One call within the address's budget. An account that has changed its API is looked at anew the next time."""
        try:
            return await super().call(method, path, target, body, key, timeout_ms=timeout_ms)
        except RestError as problem:
            self._look_anew(key, problem)
            raise

    def _look_anew(self, key: Key | None, problem: RestError) -> None:
        if key is not None and problem.code in OTHER_API:
            self._kinds.pop(key.api_key, None)

    # --- which API ----------------------------------------------------------------------------------------------------
    def kind(self, api_key: bytes) -> Kind | None:
        """What was learnt of a key's account; None: it was not looked at yet."""
        return self._kinds.get(api_key)

    async def prepare(self, key: Key) -> Kind:
        """Look once which API the key's account speaks; ``VenueUnavailable``, and nothing else, when that cannot be said now.

        A key that is refused counts as a classic account's until it is looked at again: whoever uses it hears of the refusal.
        """
        kind = self._kinds.get(key.api_key)
        return kind if kind is not None else await self._look(key)

    async def _look(self, key: Key) -> Kind:
        try:
            told = await self._settings3(key)
        except RestError as problem:
            reason = problem.verdict.reason
            if problem.status >= 500 or reason in PASSING or reason == "refused_at_edge":
                raise VenueUnavailable(f"which API an account speaks: HTTP {problem.status}, code {problem.code}") from None
            if reason in SAYS_NOTHING:
                return Kind(False, False)
            kind = Kind(False, False)
        except ValueError as problem:
            raise VenueUnavailable(f"which API an account speaks: {problem}") from None
        else:
            kind = Kind(True, told.holdMode == "hedge_mode")
        self._kinds[key.api_key] = kind
        return kind

    async def _settings3(self, key: Key) -> codec.Settings3:
        body = _read(codec.Settings3Body, await self.get("/api/v3/account/settings", None, key))
        return _there(body.data, "the account's settings")

    # --- clock, instruments ---------------------------------------------------------------------------------------------
    async def server_ms(self) -> int:
        """The venue's clock, ms, with the weight already taken."""
        path = "/api/v2/public/time"
        return codec.ms(_there(_read(codec.TimeBody, await self.call_now("GET", path, path, b"", None)).data, "time").serverTime)

    async def instrument_bodies(self) -> dict[str, bytes]:
        """What ``load_instruments`` reads."""
        return {
            "contracts": await self.get("/api/v2/mix/market/contracts", {"productType": PRODUCT}),
            "symbols": await self.get("/api/v2/spot/public/symbols"),
        }

    # --- settings -------------------------------------------------------------------------------------------------------
    async def settings(self, key: Key, instrument: Instrument) -> Settings:
        """Position mode, margin type and leverage as they are; different leverages of the two sides are told as 0."""
        kind = await self.prepare(key)
        if instrument.spot:
            return Settings(False, True, 1)
        if kind.unified:
            return await self._settings_v3(key, instrument)
        told = await self._account_v2(key, instrument)
        isolated = told.marginMode == "isolated"
        levers = (told.isolatedLongLever, told.isolatedShortLever) if isolated else (told.crossedMarginLeverage,)
        values = {codec.whole(lever) for lever in levers}
        self._margins[key.api_key, instrument.symbol] = isolated
        return Settings(told.posMode == "hedge_mode", isolated, values.pop() if len(values) == 1 else 0)

    async def _settings_v3(self, key: Key, instrument: Instrument) -> Settings:
        told = await self._settings3(key)
        hedge = told.holdMode == "hedge_mode"
        self._kinds[key.api_key] = Kind(True, hedge)
        rows = [row for row in told.symbolConfigList or [] if codec.same_symbol(instrument, row.symbol)]
        row = next((row for row in rows if row.category.upper() == PRODUCT), None)
        # The margin type travels with each order: what was chosen here counts, before what the venue's pages were last set to.
        shown = row is not None and row.marginMode == "isolated"
        isolated = self._margins.get((key.api_key, instrument.symbol), shown)
        return Settings(hedge, isolated, codec.whole(row.leverage) if row is not None else 0)

    async def _account_v2(self, key: Key, instrument: Instrument) -> codec.Money:
        params = {"symbol": venue_symbol(instrument.symbol), "productType": PRODUCT, "marginCoin": MARGIN_COIN}
        return _there(_read(codec.MoneyBody, await self.get("/api/v2/mix/account/account", params, key)).data, "the account")

    def _perpetual(self) -> Instrument:
        found = next((item for item in self.instruments if not item.spot), None)
        if found is None:
            raise ValueError("no perpetual is in use")
        return found

    async def hedge_mode(self, key: Key) -> bool:
        """Whether the account keeps a position per side; on spot never, which is asked for all the same: a dead key is seen."""
        if self.spot_only:
            await self._coins(key)
            return False
        if (await self.prepare(key)).unified:
            hedge = (await self._settings3(key)).holdMode == "hedge_mode"
            self._kinds[key.api_key] = Kind(True, hedge)
            return hedge
        return (await self._account_v2(key, self._perpetual())).posMode == "hedge_mode"

    async def set_hedge(self, key: Key, hedge: bool) -> None:
        """Set the position mode; "no change" is success. Nothing on spot, which has no such mode."""
        if self.spot_only:
            return
        mode = "hedge_mode" if hedge else "one_way_mode"
        if (await self.prepare(key)).unified:
            await self._set(key, "/api/v3/account/set-hold-mode", {"holdMode": mode})
            self._kinds[key.api_key] = Kind(True, hedge)
        else:
            await self._set(key, "/api/v2/mix/account/set-position-mode", {"productType": PRODUCT, "posMode": mode})

    async def set_margin(self, key: Key, instrument: Instrument, isolated: bool, leverage: int) -> None:
        """Set the margin type; of a unified account it is no setting but travels with each order from now on."""
        if not (await self.prepare(key)).unified:
            fields = {"symbol": venue_symbol(instrument.symbol), "productType": PRODUCT, "marginCoin": MARGIN_COIN}
            mode = "isolated" if isolated else "crossed"
            await self._set(key, "/api/v2/mix/account/set-margin-mode", {**fields, "marginMode": mode})
        self._margins[key.api_key, instrument.symbol] = isolated

    async def set_leverage(self, key: Key, instrument: Instrument, leverage: int, isolated: bool) -> None:
        """Set the leverage; "no change" is success. Isolated positions of a two-sided account have one for each side."""
        symbol = venue_symbol(instrument.symbol)
        if (await self.prepare(key)).unified:
            fields = {"category": PRODUCT, "symbol": symbol, "leverage": str(leverage)}
            for side in ("long", "short") if isolated else (None,):
                await self._set(key, "/api/v3/account/set-leverage", {**fields, "posSide": side} if side else fields)
            return
        fields = {"symbol": symbol, "productType": PRODUCT, "marginCoin": MARGIN_COIN, "leverage": str(leverage)}
        two_sided = isolated and await self.hedge_mode(key)
        for side in ("long", "short") if two_sided else (None,):
            await self._set(key, "/api/v2/mix/account/set-leverage", {**fields, "holdSide": side} if side else fields)

    async def _set(self, key: Key, path: str, fields: dict[str, str]) -> None:
        try:
            await self.post(path, json.dumps(fields, separators=(",", ":")).encode(), key)
        except RestError as problem:
            if problem.code not in NO_CHANGE_CODES:
                raise

    # --- balances and positions -----------------------------------------------------------------------------------------
    async def books(self, key: Key) -> AccountBooks:
        """Balance of the account and positions in instruments of ours."""
        if self.spot_only:
            return await self._books_spot(key)
        if (await self.prepare(key)).unified:
            wallet, available, equity = await self._money_v3(key)
        else:
            wallet, available, equity = await self._money_v2(key)
        rows = await self._held(key)
        now = self.clock()
        positions = [(codec.position(row, item, 0, now, "snapshot"), codec.entry_e8(row)) for row, item in rows]
        positions += [(one, 0) for one in await self._holdings(key, now, "snapshot")]
        held = tuple((p.instrument, p.position_side, p.qty, entry) for p, entry in positions if p.qty)
        return AccountBooks(wallet, available, equity, held, self.venue_clock.timestamp_ms() * MS_NS)

    async def _money_v2(self, key: Key) -> tuple[int, int, int]:
        """(wallet, available, equity), 1e-8."""
        told = await self._account_v2(key, self._perpetual())
        equity = money_e8(told.accountEquity or "0")
        parts = (told.crossedUnrealizedPL or "0", told.isolatedUnrealizedPL or "0")
        open_profit = money_e8(told.unrealizedPL) if told.unrealizedPL else sum(money_e8(part) for part in parts)
        return equity - open_profit, money_e8(told.available or "0"), equity

    async def _books_spot(self, key: Key) -> AccountBooks:
        """What there is of the quote assets, and the base assets in use at their last prices, rounded down."""
        coins = await self._coins(key)
        quotes = {item.quote_asset for item in self.instruments}
        available, wallet = (sum(coins.get(name, (0, 0))[at] for name in quotes) for at in (0, 1))
        held = [(item, amount) for item in self.instruments if (amount := coins.get(item.base_asset, (0, 0))[1])]
        prices = await self._prices() if held else {}
        equity = wallet
        for coin, symbol in {item.base_asset: venue_symbol(item.symbol) for item, _ in held}.items():
            if symbol not in prices:
                raise ValueError(f"no price of {symbol}")
            equity += coins[coin][1] * prices[symbol] // 10**8
        lots = [(item.index, 0, codec.lots_of(item, amount), 0) for item, amount in held]
        rows = tuple(row for row in lots if row[2])
        return AccountBooks(wallet, available, equity, rows, self.venue_clock.timestamp_ms() * MS_NS)

    async def _prices(self) -> dict[str, int]:
        """Last prices of the markets in use by the venue's symbols, 1e-8, at most a second old: whoever reads many accounts asks
        once. One market is asked for by name, more with all others."""
        async with self._pricing:
            if self.mono() - self._priced_ns >= PRICES_AGE_NS:
                symbols = {venue_symbol(item.symbol) for item in self.instruments}
                params = {"symbol": next(iter(symbols))} if len(symbols) == 1 else None
                rows = _there(_read(codec.PricesBody, await self.get("/api/v2/spot/market/tickers", params)).data, "the prices")
                self._priced = {row.symbol: money_e8(row.lastPr) for row in rows if row.symbol in symbols}
                self._priced_ns = self.mono()
            return self._priced

    async def _coins(self, key: Key) -> dict[str, tuple[int, int]]:
        """(free, all there is) by coin of our instruments, 1e-8: of another there may be more than books can count."""
        ours = {name for item in self.instruments for name in (item.base_asset, item.quote_asset)}
        if (await self.prepare(key)).unified:
            told = _there(_read(codec.Assets3Body, await self.get("/api/v3/account/assets", None, key)).data, "the assets")
            rows = _there(told.assets, "the assets")
            return {
                row.coin: (money_e8(row.available or "0"), money_e8(row.balance or "0")) for row in rows if row.coin in ours}
        moneys = _there(_read(codec.MoneysBody, await self.get("/api/v2/spot/account/assets", None, key)).data, "the assets")
        return {row.coin: (money_e8(row.available or "0"), codec.coin_e8(row)) for row in moneys if row.coin in ours}

    async def _money_v3(self, key: Key) -> tuple[int, int, int]:
        told = _there(_read(codec.Assets3Body, await self.get("/api/v3/account/assets", None, key)).data, "the assets")
        coin = next((row for row in told.assets or [] if row.coin == MARGIN_COIN), codec.Coin3(MARGIN_COIN))
        equity = money_e8(told.usdtEquity or told.accountEquity or "0")
        return equity - money_e8(told.usdtUnrealisedPnl or told.unrealisedPnl or "0"), money_e8(coin.available or "0"), equity

    async def _held(self, key: Key) -> list[tuple[codec.Held | codec.Held3, Instrument]]:
        rows: list[Any]
        if self.spot_only:
            return []
        if (await self.prepare(key)).unified:
            body = _read(codec.Held3Body, await self.get("/api/v3/position/current-position", {"category": PRODUCT}, key))
            rows = _there(body.data, "the positions").rows or []
        else:
            params = {"productType": PRODUCT, "marginCoin": MARGIN_COIN}
            rows = _read(codec.HeldBody, await self.get("/api/v2/mix/position/all-position", params, key)).data or []
        return [(row, item) for row in rows if (item := codec.find(self.instruments, row.symbol, spot=False)) is not None]

    async def _holdings(self, key: Key, now: int, source: str) -> list[ls.Position]:
        """What is held of the base assets of spot instruments, whole lots of it: what spot has in place of positions."""
        items = [item for item in self.instruments if item.spot]
        if not items:
            return []
        held = await self._coins(key)
        at = self.venue_clock.timestamp_ms() * MS_NS
        lots = [(item, codec.lots_of(item, held.get(item.base_asset, (0, 0))[1])) for item in items]
        return [ls.Position(item.index, 0, qty, at, now, source, 1, True) for item, qty in lots if qty]

    async def positions(self, key: Key) -> list[ls.Position]:
        """Positions with their leverage, and what is held of spot; flat ones are left out."""
        rows = await self._held(key)
        now, at = self.clock(), self.venue_clock.timestamp_ms() * MS_NS
        found = [codec.position(row, item, at, now, "poll") for row, item in rows]
        return found + await self._holdings(key, now, "poll")

    async def leverage(self, key: Key, instrument: Instrument) -> int:
        """The account's leverage in an instrument; 0 = not told."""
        return (await self.settings(key, instrument)).leverage

    # --- orders ---------------------------------------------------------------------------------------------------------
    async def order(
        self, key: Key, instrument: Instrument, *, cid: bytes | None = None, order_id: int = 0
    ) -> OrderTold | None:
        """An order by our client id, or by the venue's; None: neither the order itself nor the history knows it."""
        named = {"clientOid": cid.hex()} if cid is not None else {"orderId": str(order_id)}
        unified = (await self.prepare(key)).unified
        found = await (self._order_v3 if unified else self._order_v2)(key, instrument, named)
        return found if found is not None else await self._order_of_history(key, instrument, named, unified)

    async def _order_v2(self, key: Key, instrument: Instrument, named: dict[str, str]) -> OrderTold | None:
        path, params = "/api/v2/mix/order/detail", {"symbol": venue_symbol(instrument.symbol), "productType": PRODUCT}
        if instrument.spot:
            path, params = "/api/v2/spot/trade/orderInfo", {}
        answer = await self._asked(path, {**params, **named}, key)
        row = codec.one_of(_read(codec.OrderBody, answer).data) if answer is not None else None
        return self._told(row, instrument) if row is not None else None

    async def _order_v3(self, key: Key, instrument: Instrument, named: dict[str, str]) -> OrderTold | None:
        answer = await self._asked("/api/v3/trade/order-info", named, key)
        row = _read(codec.Order3Body, answer).data if answer is not None else None
        return self._told3(row, instrument) if row is not None else None

    async def _order_of_history(
        self, key: Key, instrument: Instrument, named: dict[str, str], unified: bool
    ) -> OrderTold | None:
        """The list of ended perpetual orders can be asked for one as well; the other lists cannot."""
        if unified or instrument.spot:
            return None
        params = {"productType": PRODUCT, "symbol": venue_symbol(instrument.symbol), "limit": PAGE, **named}
        answer = await self._asked("/api/v2/mix/order/orders-history", params, key)
        page = _read(codec.OrdersBody, answer).data if answer is not None else None
        name, value = next(iter(named.items()))
        rows = [row for row in (page.entrustedList if page is not None else None) or [] if getattr(row, name) == value]
        return self._told(rows[0], instrument) if rows else None

    async def _asked(self, path: str, params: dict[str, Any], key: Key) -> bytes | None:
        """The answer; None: the venue says that there is no such order."""
        try:
            return await self.get(path, params, key)
        except RestError as problem:
            if problem.code in NOT_FOUND_CODES and problem.status < 500:
                return None
            raise

    def _told(self, row: codec.Order, instrument: Instrument) -> OrderTold:
        if not codec.same_symbol(instrument, row.symbol):
            raise ValueError(f"an order in {row.symbol[:40]} where {instrument.symbol} was asked for")
        return codec.order_told(row, instrument)

    def _told3(self, row: codec.Order3, instrument: Instrument) -> OrderTold:
        if not codec.same_symbol(instrument, row.symbol):
            raise ValueError(f"an order in {row.symbol[:40]} where {instrument.symbol} was asked for")
        return codec.order3_told(row, instrument)

    async def orders_since(self, key: Key, instrument: Instrument, since_ms: int) -> tuple[list[OrderTold], bool]:
        """Open orders first, then ended ones: what ends in between is in both, never in neither."""
        unified = (await self.prepare(key)).unified
        found: dict[int, OrderTold] = {}
        whole = self.venue_clock.timestamp_ms() - since_ms <= self.contract.order_history_ms
        for ended in (False, True):
            if unified:
                rows3, complete = await self._orders_v3(key, instrument, since_ms, ended)
                mine3 = [row for row in rows3 if codec.same_symbol(instrument, row.symbol)]
                told = [self._told3(row, instrument) for row in mine3 if codec.ms(row.createdTime) >= since_ms]
            else:
                rows, complete = await self._orders_v2(key, instrument, since_ms, ended)
                mine = [row for row in rows if codec.same_symbol(instrument, row.symbol)]
                told = [self._told(row, instrument) for row in mine if codec.ms(row.cTime) >= since_ms]
            whole = whole and complete
            found.update({one.venue_order_id: one for one in told})
        return list(found.values()), whole

    async def _orders_v2(self, key: Key, item: Instrument, since_ms: int, ended: bool) -> tuple[list[codec.Order], bool]:
        params: dict[str, Any] = {"symbol": venue_symbol(item.symbol), "startTime": since_ms, "limit": PAGE}
        if item.spot:
            path = "/api/v2/spot/trade/history-orders" if ended else "/api/v2/spot/trade/unfilled-orders"
            return await self._pages(path, params, key, _spot_orders, "idLessThan")
        path = "/api/v2/mix/order/orders-history" if ended else "/api/v2/mix/order/orders-pending"
        return await self._pages(path, {**params, "productType": PRODUCT}, key, _mix_orders, "idLessThan")

    async def _orders_v3(self, key: Key, item: Instrument, since_ms: int, ended: bool) -> tuple[list[codec.Order3], bool]:
        path = "/api/v3/trade/history-orders" if ended else "/api/v3/trade/unfilled-orders"
        category = "SPOT" if item.spot else PRODUCT
        params = {"category": category, "symbol": venue_symbol(item.symbol), "startTime": since_ms, "limit": PAGE}
        return await self._pages(path, params, key, _orders3, "cursor")

    async def _pages(
        self, path: str, params: dict[str, Any], key: Key, read: Callable[[bytes], tuple[list[Any], str]], by: str,
        enough: Callable[[list[Any]], bool] = lambda page: False,
    ) -> tuple[list[Any], bool]:
        """Rows of a list, newest first, until it ends or a page is ``enough``; and whether it was read that far.

        A page that is not full is the last one, and so is one that says no more where the next begins.
        """
        found: list[Any] = []
        cursor = ""
        for _ in range(PAGES_MAX):
            page, before = read(await self.get(path, {**params, by: cursor} if cursor else params, key))
            found += page
            if len(page) < PAGE or not before or before == cursor or enough(page):
                return found, True
            cursor = before
        return found, False

    async def place(self, key: Key, order: Order) -> Answered:
        """Place an order; ``VenueUnavailable`` without an answer, ``RestError`` for a refusal, whose verdict says what became of
        it. The account's limit of orders is kept here: what is above it waits its turn."""
        kind = await self._prepared(key)
        body = self._place_body(order, key, kind)
        path = place_path(order, unified=kind.unified)
        await self._turn(key)
        try:
            answer = await self.post_order(path, body, key, timeout_ms=self.contract.order_ack_timeout_ms)
        except RestError as problem:
            self._look_anew(key, problem)
            raise
        return placed(order.cid, answer)

    async def _prepared(self, key: Key) -> Kind:
        """As ``prepare``; what fails here was certainly not placed."""
        try:
            return await self.prepare(key)
        except VenueUnavailable as problem:
            raise NotSent(str(problem)) from None

    def _place_body(self, order: Order, key: Key, kind: Kind) -> bytes:
        isolated = self._margins.get((key.api_key, order.instrument.symbol), self.isolated)
        try:
            return place_text(order, isolated=isolated, unified=kind.unified)
        except ValueError as problem:
            raise RestError("place", 0, 0, str(problem), Verdict(Outcome.DEFINITE_REJECT, "not_sent")) from None

    async def _turn(self, key: Key) -> None:
        limit = self.contract.limit("orders", "account")
        recent = self._placed.setdefault(key.api_key, deque(maxlen=limit.limit))
        while len(recent) == limit.limit:
            wait = recent[0] + limit.interval_ms * MS_NS + ORDER_MARGIN_NS - self.mono()
            if wait <= 0:
                break
            await asyncio.sleep(wait / 1e9)  # another may have taken the turn meanwhile
        recent.append(self.mono())

    def rest_place(self, order: Order, key: Key, now_ms: int) -> tuple[str, str, dict[str, str], bytes]:
        """A placement as it goes out at that time of the venue: (method, target, headers, body). An account that was not looked
        at counts as classic; ``RestError`` for an order that the venue has no words for."""
        kind = self._kinds.get(key.api_key, Kind(False, False))
        body, path = self._place_body(order, key, kind), place_path(order, unified=kind.unified)
        return "POST", path, headers(key, "POST", path, body, now_ms, demo=self.endpoints.demo), body

    # --- executions -----------------------------------------------------------------------------------------------------
    async def trades_of(self, key: Key, instrument: Instrument, told: OrderTold | None, cid: bytes) -> list[TradeTold]:
        """The executions of one order of ours, oldest first; the venue finds them by its own number of the order."""
        order = told if told is not None else await self.order(key, instrument, cid=cid)
        if order is None or not order.venue_order_id:
            return []
        found = await self._fills(key, instrument, {"orderId": str(order.venue_order_id)})
        mine = [trade for trade in found if trade.execution.order_id == order.venue_order_id]
        return [msgspec.structs.replace(trade, cid=cid) for trade in mine]

    async def trades_from(self, key: Key, instrument: Instrument, from_id: int, limit: int) -> list[TradeTold]:
        """Executions of the account from an execution id on, oldest first: the list is read back until it is behind the id."""
        found = await self._fills(key, instrument, {}, from_id)
        return [trade for trade in found if trade.execution.exec_id >= from_id][:limit]

    async def newest_trade(self, key: Key, instrument: Instrument) -> TradeTold | None:
        """The account's last execution in the instrument."""
        def found(page: list[Any]) -> bool:
            return any(codec.same_symbol(instrument, row.symbol) and _of_category(row, instrument) for row in page)

        rows, _ = await self._fill_rows(key, instrument, {}, found)
        trades = await self._trades(key, instrument, rows)
        return trades[-1] if trades else None

    async def _fills(self, key: Key, item: Instrument, params: dict[str, Any], from_id: int = 0) -> list[TradeTold]:
        """By execution id, each once; ``ValueError`` when there are more than are ever read."""

        def passed(page: list[Any]) -> bool:
            return any(codec.number(_exec_id(row), "execution id") < from_id for row in page)

        rows, whole = await self._fill_rows(key, item, params, passed)
        if not whole:
            raise ValueError(f"{item.symbol}: more executions than {PAGES_MAX} pages")
        return await self._trades(key, item, rows)

    async def _fill_rows(
        self, key: Key, item: Instrument, params: dict[str, Any], enough: Callable[[list[Any]], bool]
    ) -> tuple[list[Any], bool]:
        named = {"symbol": venue_symbol(item.symbol), "limit": PAGE, **params}
        if (await self.prepare(key)).unified:
            named["category"] = "SPOT" if item.spot else PRODUCT
            return await self._pages("/api/v3/trade/fills", named, key, _fills3, "cursor", enough)
        if item.spot:
            return await self._pages("/api/v2/spot/trade/fills", named, key, _spot_fills, "idLessThan", enough)
        named["productType"] = PRODUCT
        return await self._pages("/api/v2/mix/order/fills", named, key, _mix_fills, "idLessThan", enough)

    async def _trades(self, key: Key, item: Instrument, rows: list[Any]) -> list[TradeTold]:
        mine = [row for row in rows if codec.same_symbol(item, row.symbol) and _of_category(row, item)]
        if mine and (await self.prepare(key)).unified:
            hedge = await self.hedge_mode(key)  # rows of v3 do not say it, and it may have changed
            told = [codec.listed_fill3(row, item, hedge, self.clock()) for row in mine]
        else:
            told = [codec.listed_fill(row, item, self.clock()) for row in mine]
        by_id = {trade.execution.exec_id: trade for trade in told}
        return [by_id[exec_id] for exec_id in sorted(by_id)]

    # --- money ------------------------------------------------------------------------------------------------------------
    async def flows(self, key: Key, since_ms: int) -> list[tuple[int, int]]:
        """What was paid in (above 0) or taken out since: (amount e8, venue ns), oldest first."""
        rows = await self._bills(key, since_ms, "")
        return [flow for row in rows if (row.coin or MARGIN_COIN) == MARGIN_COIN and (flow := codec.flow_of(row)) is not None]

    async def fundings(self, key: Key, since_ms: int) -> list[FundingTold]:
        """Funding paid and received since, oldest first: the venue pushes none of it. Of spot there is none."""
        if self.spot_only:
            return []
        rows = await self._bills(key, since_ms, codec.FUNDING_V2)
        return [told for row in rows if (told := codec.funding_of(row, self.instruments)) is not None]

    async def _bills(self, key: Key, since_ms: int, kind_v2: str) -> list[codec.Bill]:
        """Movements of money since then, oldest first, in spans that the venue allows; ``kind_v2`` "": of every kind."""
        unified = (await self.prepare(key)).unified
        now_ms = self.venue_clock.timestamp_ms()
        found: dict[str, codec.Bill] = {}
        start = max(since_ms, now_ms - self.contract.order_history_ms)
        while start <= now_ms:
            end = min(start + BILLS_SPAN_MS, now_ms)
            params: dict[str, Any] = {"startTime": start, "endTime": end, "limit": PAGE}
            read, by = _bills, "idLessThan"
            if unified:
                path, by = "/api/v3/account/financial-records", "cursor"
                params |= {"category": None if self.spot_only else PRODUCT, "coin": MARGIN_COIN}
            elif self.spot_only:
                path, read = "/api/v2/spot/account/bills", _spot_bills
                params["coin"] = MARGIN_COIN
            else:
                path = "/api/v2/mix/account/bill"
                params |= {"productType": PRODUCT, "businessType": kind_v2 or None}
            rows, whole = await self._pages(path, params, key, read, by)
            if not whole:
                raise ValueError(f"more movements of money than {PAGES_MAX} pages")
            found.update({row.billId or row.id: row for row in rows})
            start = end + 1
        return sorted(found.values(), key=lambda row: (codec.ms(row.cTime or row.ts), codec.number(row.billId or row.id, "bill")))

    async def rights(self, key: Key) -> Rights:
        """What the key may do."""
        from copyd.venues.bitget.rights import rights_of

        unified = (await self.prepare(key)).unified
        body = await self.get("/api/v3/account/info" if unified else "/api/v2/spot/account/info", None, key)
        told: Rights = rights_of(body, product="spot" if self.spot_only else "linear")
        return told


def placed(cid: bytes, body: bytes) -> Answered:
    """What an answer without an error says of a placement; ``ValueError`` where it names another order or none."""
    told = _read(codec.PlacedBody, body)
    data = _there(told.data, "the placed order")
    if data.clientOid and data.clientOid != cid.hex():
        raise ValueError("the answer names another client order id")
    order_id = codec.number(data.orderId, "orderId")
    return Answered(cid, classify(200, 0), order_id, NEW, ts_event=max(0, told.requestTime) * MS_NS)


def _read(kind: type[Any], body: bytes) -> Any:
    """A body of that kind; ``ValueError`` for one that is not, an empty one among them."""
    try:
        return msgspec.json.decode(body, type=kind)
    except UnicodeDecodeError as problem:
        raise ValueError(f"not UTF-8: {problem}") from None


def _there(data: Any, what: str) -> Any:
    if data is None:
        raise ValueError(f"{what}: the answer is empty")
    return data


def _mix_orders(body: bytes) -> tuple[list[codec.Order], str]:
    page = _there(_read(codec.OrdersBody, body).data, "orders")
    return page.entrustedList or [], page.endId or ""


def _spot_orders(body: bytes) -> tuple[list[codec.Order], str]:
    rows = _read(codec.SpotOrdersBody, body).data or []
    return rows, rows[-1].orderId if rows else ""


def _orders3(body: bytes) -> tuple[list[codec.Order3], str]:
    page = _there(_read(codec.Orders3Body, body).data, "orders")
    return page.rows or [], page.cursor or ""


def _mix_fills(body: bytes) -> tuple[list[codec.Fill], str]:
    page = _there(_read(codec.FillsBody, body).data, "fills")
    return page.fillList or [], page.endId or ""


def _spot_fills(body: bytes) -> tuple[list[codec.Fill], str]:
    rows = _read(codec.SpotFillsBody, body).data or []
    return rows, rows[-1].tradeId if rows else ""


def _fills3(body: bytes) -> tuple[list[codec.Fill3], str]:
    page = _there(_read(codec.Fills3Body, body).data, "fills")
    return page.rows or [], page.cursor or ""


def _bills(body: bytes) -> tuple[list[codec.Bill], str]:
    page = _there(_read(codec.BillsBody, body).data, "movements of money")
    return page.bills or page.rows or [], page.endId or page.cursor or ""


def _spot_bills(body: bytes) -> tuple[list[codec.Bill], str]:
    rows = _there(_read(codec.SpotBillsBody, body).data, "movements of money")
    return rows, rows[-1].billId if rows else ""


def _exec_id(row: codec.Fill | codec.Fill3) -> str:
    return row.tradeId if isinstance(row, codec.Fill) else row.execId


def _of_category(row: codec.Fill | codec.Fill3, item: Instrument) -> bool:
    """v3 writes spot and perpetuals into one list; v2 does not."""
    category = row.category.upper() if isinstance(row, codec.Fill3) else ""
    return not category or category == ("SPOT" if item.spot else PRODUCT)
