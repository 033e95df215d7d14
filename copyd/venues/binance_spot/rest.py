"""Questions over REST: signed, paced inside the address's weight limit. There is nothing to set on spot."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from copyd.core import leader_stream as ls
from copyd.errors import VenueUnavailable
from copyd.venues.binance_spot import codec
from copyd.venues.binance_spot.contract import CONTRACT, Endpoints
from copyd.venues.binance_spot.errors import NOT_FOUND_CODES, classify
from copyd.venues.binance_spot.signing import order_params, signed_query
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import MS_NS, decode_body, money_e8
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.limits import S_NS
from copyd.venues.common.rest import Problem, RestBase, RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.told import Answered, OrderTold, TradeTold
from copyd.venues.common.venue import AccountBooks, Order, Rights, Settings

#: Deposits that count (credited, perhaps not yet to be withdrawn) and withdrawals that do not (cancelled, rejected, failed).
DEPOSITED = frozenset({1, 6})
NOT_WITHDRAWN = frozenset({1, 3, 5})
#: Transfers between this wallet and the account's others: name -> +1 into this one, -1 out of it.
TRANSFERS = {"MAIN_UMFUTURE": -1, "UMFUTURE_MAIN": 1, "MAIN_FUNDING": -1, "FUNDING_MAIN": 1}
TRANSFERS_PAGE = 100
#: History is read in so many pages at most: what is older is not told.
PAGES_MAX = 200


class Rest(RestBase):
    """See ``copyd.venues.common.venue.Reads``."""

    clock_call = "GET /api/v3/time"

    def __init__(
        self, endpoints: Endpoints, contract: VenueContract = CONTRACT, clock: Callable[[], int] = time.time_ns, **kwargs: Any
    ) -> None:
        super().__init__(endpoints.rest, contract, clock, **kwargs)
        self.endpoints = endpoints
        self._instruments = Instruments(())

    def bind(self, instruments: Instruments) -> None:
        """The instruments in use."""
        self._instruments = instruments

    # --- of the venue ---------------------------------------------------------------------------------------------------
    def signed(self, key: Key, method: str, target: str, body: bytes) -> dict[str, str]:
        """The key; the signature stands in the query already."""
        return {"X-MBX-APIKEY": key.api_key.decode()}

    def signed_target(self, key: Key, target: str) -> str:
        path, _, query = target.partition("?")
        return f"{path}?{signed_query(key, query, self.venue_clock.timestamp_ms(), self.contract.recv_window_ms)}"

    def problem(self, status: int, headers: Mapping[str, str], body: bytes) -> Problem | None:
        """Every error has its own HTTP status here."""
        if status == 200:
            return None
        try:
            error = msgspec.json.decode(body, type=codec.ErrorBody)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            error = codec.ErrorBody(0, body[:100].decode("utf-8", "replace"))
        retry = headers.get("Retry-After", "")
        wait = int(retry) * S_NS if retry.isascii() and retry.isdigit() else None
        return Problem(
            error.code, error.msg, classify(status, error.code, error.msg), limited=status in (418, 429),
            account=error.code in self.contract.order_limit_codes, wait_ns=wait,
        )  # fmt: skip

    def used(self, headers: Mapping[str, str]) -> int | None:
        """Of the minute's weight; the wallet service counts apart."""
        told = headers.get("X-MBX-USED-WEIGHT-1M", "")
        return int(told) if told.isascii() and told.isdigit() else None

    async def ask(self, path: str, params: Mapping[str, Any], key: Key, weight: str = "") -> bytes:
        """A signed ``GET``: signed when the weight is there, so that waiting for it does not make it stale."""
        await self.take(weight or f"GET {path}", key)
        return await self._signed_call("GET", path, params, key)

    async def _signed_call(self, method: str, path: str, params: Mapping[str, Any], key: Key) -> bytes:
        return await self.call_now(method, path, f"{path}?{urlencode(params)}", b"", key)

    async def server_ms(self) -> int:
        """The venue's clock, ms, with the weight already taken."""
        body = await self.call_now("GET", "/api/v3/time", "/api/v3/time", b"", None)
        return int(decode_body(body, codec.ServerTime).serverTime)

    async def instrument_bodies(self) -> bytes:
        """What ``load_instruments`` reads."""
        return await self.get("/api/v3/exchangeInfo")

    # --- settings: there are none -----------------------------------------------------------------------------------------
    async def settings(self, key: Key, instrument: Instrument) -> Settings:
        """One-way, nothing borrowed: as if isolated at leverage 1."""
        account = codec.account_of(await self.ask("/api/v3/account", {"omitZeroBalances": "true"}, key))
        return Settings(hedge=False, isolated=True, leverage=1, can_trade=account.canTrade)

    async def hedge_mode(self, key: Key) -> bool:
        """Never; asks the venue all the same, so that a dead key is seen."""
        await self.ask("/api/v3/account", {"omitZeroBalances": "true"}, key)
        return False

    async def set_hedge(self, key: Key, hedge: bool) -> None:
        """Nothing: there is no such mode, and ``settings`` goes on to say so."""

    async def set_margin(self, key: Key, instrument: Instrument, isolated: bool, leverage: int) -> None:
        """Nothing."""

    async def set_leverage(self, key: Key, instrument: Instrument, leverage: int, isolated: bool) -> None:
        """Nothing."""

    async def leverage(self, key: Key, instrument: Instrument) -> int:
        """What is bought is paid for."""
        return 1

    # --- account -----------------------------------------------------------------------------------------------------------
    async def books(self, key: Key) -> AccountBooks:
        """Balances; the base assets in use count in equity at their last prices."""
        await self.take("books.query", key)
        body = await self._signed_call("GET", "/api/v3/account", {"omitZeroBalances": "true"}, key)
        names = json.dumps([item.symbol for item in self._instruments], separators=(",", ":"))
        path = "/api/v3/ticker/price"
        prices = await self.call_now("GET", path, f"{path}?{urlencode({'symbols': names})}", b"", None)
        return codec.books_of(codec.account_of(body), self._instruments, codec.prices_of(prices))

    async def positions(self, key: Key) -> list[ls.Position]:
        """Base balances in whole lots."""
        body = await self.ask("/api/v3/account", {"omitZeroBalances": "true"}, key)
        return codec.positions_of(codec.account_of(body), self._instruments, self.clock())

    async def flows(self, key: Key, since_ms: int) -> list[tuple[int, int]]:
        """Deposits and withdrawals of the quote asset and transfers to the account's other wallets, oldest first."""
        self._wallet_service()
        found: list[tuple[int, int]] = []
        for coin in sorted({item.quote_asset for item in self._instruments}):
            query = {"coin": coin, "startTime": since_ms}
            paid_in = decode_body(await self.ask("/sapi/v1/capital/deposit/hisrec", query, key), list[codec.Deposit])
            found += [(money_e8(row.amount), row.insertTime * MS_NS) for row in paid_in if row.status in DEPOSITED]
            taken = decode_body(await self.ask("/sapi/v1/capital/withdraw/history", query, key), list[codec.Withdrawal])
            found += [
                (-money_e8(row.amount) - money_e8(row.transactionFee), _utc_ns(row.applyTime))
                for row in taken if row.status not in NOT_WITHDRAWN
            ]  # fmt: skip
            for name, sign in TRANSFERS.items():
                moved = await self._transfers(name, since_ms, key)
                found += [
                    (sign * money_e8(row.amount), row.timestamp * MS_NS)
                    for row in moved if row.asset == coin and row.status == "CONFIRMED"
                ]  # fmt: skip
        return sorted(found, key=lambda flow: flow[1])

    async def _transfers(self, name: str, since_ms: int, key: Key) -> list[codec.Moved]:
        rows: list[codec.Moved] = []
        for page in range(1, PAGES_MAX + 1):
            query = {"type": name, "startTime": since_ms, "current": page, "size": TRANSFERS_PAGE}
            told = decode_body(await self.ask("/sapi/v1/asset/transfer", query, key), codec.Transfers)
            rows += told.rows
            if len(told.rows) < TRANSFERS_PAGE:
                return rows
        raise ValueError(f"more than {PAGES_MAX} pages of transfers")

    async def rights(self, key: Key) -> Rights:
        """What the key may do; ``VenueUnavailable`` where the venue has no wallet service to ask (testnet)."""
        from copyd.venues.binance_spot.rights import rights_of

        self._wallet_service()
        return rights_of(await self.ask("/sapi/v1/account/apiRestrictions", {}, key))

    def _wallet_service(self) -> None:
        if not self.endpoints.sapi:
            raise VenueUnavailable("this venue has no wallet service (/sapi)")

    # --- orders ------------------------------------------------------------------------------------------------------------
    async def place(self, key: Key, order: Order) -> Answered:
        """An order by REST; ``RestError`` for a refusal, which may be a doubt; without an answer nothing is known."""
        await self.take("POST /api/v3/order", key, 0)  # no order waits for a ban to end
        body = await self._signed_call("POST", "/api/v3/order", order_params(order), key)
        told = codec.order_of(body, order.instrument)
        if told.cid != order.cid:
            raise ValueError(f"the answer names client order id {told.client_order_id[:36]}")
        return Answered(
            order.cid, classify(200), told.venue_order_id, told.status, told.cum_qty, told.cost_e8, told.ts_event)

    async def order(
        self, key: Key, instrument: Instrument, *, cid: bytes | None = None, order_id: int = 0
    ) -> OrderTold | None:
        """An order by our client id (the latest that bore it), or by the venue's; None: there is none."""
        named: dict[str, Any] = {"origClientOrderId": cid.hex()} if cid is not None else {"orderId": order_id}
        try:
            body = await self.ask("/api/v3/order", {"symbol": instrument.symbol, **named}, key)
        except RestError as problem:
            if problem.code in NOT_FOUND_CODES and problem.status == 400:
                return None
            raise
        return codec.order_of(body, instrument)

    async def orders_since(self, key: Key, instrument: Instrument, since_ms: int) -> tuple[list[OrderTold], bool]:
        """Every order placed since, and whether that is all of them: in windows of a day, halved until each fits a page, so that
        it does not matter which end of a longer list the venue would give."""
        now_ms = self.venue_clock.timestamp_ms() + self.contract.clock_lead_ms
        found: dict[int, OrderTold] = {}
        longest, page = self.contract.backfill_window_ms, self.contract.backfill_page_max
        complete = since_ms >= now_ms - self.contract.order_history_ms
        start, span = since_ms, longest
        for _ in range(PAGES_MAX):
            if start > now_ms:
                return list(found.values()), complete
            params = {
                "symbol": instrument.symbol, "startTime": start, "endTime": start + span - 1, "limit": page,
            }  # fmt: skip
            rows = codec.orders_of(await self.ask("/api/v3/allOrders", params, key), instrument)
            found |= dict(rows)
            if len(rows) < page:
                start, span = start + span, min(longest, span * 2)
            elif span > 1:
                span //= 2
            else:
                complete, start = False, start + 1  # more in one millisecond than a page shows
        return list(found.values()), False

    async def trades_of(self, key: Key, instrument: Instrument, told: OrderTold | None, cid: bytes) -> list[TradeTold]:
        """The executions of one order of ours, oldest first; none where the venue has no such order."""
        told = told or await self.order(key, instrument, cid=cid)
        if told is None:
            return []
        page = self.contract.backfill_page_max
        params: dict[str, Any] = {"symbol": instrument.symbol, "orderId": told.venue_order_id, "limit": page}
        rows = await self._trades(params, key, instrument, cid, "trades.of_order")
        if len(rows) < page:
            return rows
        found: list[TradeTold] = []
        for _ in range(PAGES_MAX):  # from the first on: without a beginning the venue gives the newest
            params["fromId"] = found[-1].execution.exec_id + 1 if found else 0
            rows = await self._trades(params, key, instrument, cid, "trades.of_order")
            found += rows
            if len(rows) < page:
                return found
        raise ValueError(f"more than {PAGES_MAX} pages of executions of one order")

    async def _trades(
        self, params: dict[str, Any], key: Key, instrument: Instrument, cid: bytes | None = None, weight: str = ""
    ) -> list[TradeTold]:
        return codec.trades_of(await self.ask("/api/v3/myTrades", params, key, weight), instrument, self.clock(), cid)

    async def trades_from(self, key: Key, instrument: Instrument, from_id: int, limit: int) -> list[TradeTold]:
        """Executions of the account from an id on."""
        limit = min(limit, self.contract.backfill_page_max)
        params = {"symbol": instrument.symbol, "fromId": from_id, "limit": limit}
        return await self._trades(params, key, instrument)

    async def newest_trade(self, key: Key, instrument: Instrument) -> TradeTold | None:
        """The account's last execution in the instrument."""
        params = {"symbol": instrument.symbol, "limit": 1}
        rows = await self._trades(params, key, instrument)
        return rows[-1] if rows else None


def _utc_ns(text: str) -> int:
    """``2026-11-22 07:00:00`` in UTC, as ns; ``ValueError`` for any other form."""
    return int(datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()) * S_NS
