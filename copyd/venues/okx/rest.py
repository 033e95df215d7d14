"""Questions and settings over REST, and placements where an account's connection is down.

The venue counts calls per account and endpoint: each account is paced by itself (``ACCOUNT_LIMITS``), the address by the
budget of the base. Lists come newest first in pages of 100 and are paged by the id of their last row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from copyd.core import leader_stream as ls
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import MS_NS, money_e8
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.outcome import Outcome, Verdict
from copyd.venues.common.rest import Problem, RestBase, RestError
from copyd.venues.common.signing import Key, json_text
from copyd.venues.common.told import Answered, FundingTold, OrderTold, TradeTold
from copyd.venues.common.venue import AccountBooks, Order, Rights, Settings
from copyd.venues.okx import codec
from copyd.venues.okx import contract as c
from copyd.venues.okx.contract import CONTRACT, Endpoints
from copyd.venues.okx.errors import NOT_FOUND_CODES, RATE_CODES, classify
from copyd.venues.okx.signing import place_body, rest_headers

PAGE = CONTRACT.backfill_page_max
#: More pages than this are not read for one question: it is answered as incomplete, or not at all.
PAGES_MAX = 300
ISOLATED_UNAVAILABLE = 50072
#: Answers of account modes in which an instrument has no leverage of this margin type.
NO_LEVERAGE_CODES = frozenset({51010, ISOLATED_UNAVAILABLE, 59111})
_FUTURES_MODE = "2"
_DERIVATIVE_MODES = frozenset({"2", "3", "4"})
_CASH_MODES = frozenset({"1", "2"})


class AccountPace:
    """Calls of each account to each endpoint, kept below the venue's limit: a quarter of it at once, the rest by and by."""

    def __init__(self, limits: Mapping[str, tuple[int, int]], mono: Callable[[], int]) -> None:
        self.limits, self.mono = limits, mono
        self._buckets: dict[tuple[bytes, str], tuple[float, int]] = {}

    def wait_ns(self, key: Key, call: str) -> int:
        """Take a turn: how long to wait before the call may be made."""
        limit = self.limits.get(call)
        if limit is None:
            return 0
        count, interval_ms = limit
        burst, per_ns = max(1.0, count / 4), 0.75 * count / (interval_ms * MS_NS)
        now = self.mono()
        tokens, at = self._buckets.get((key.api_key, call), (burst, now))
        tokens = min(burst, tokens + max(0, now - at) * per_ns) - 1
        self._buckets[key.api_key, call] = tokens, now
        return 0 if tokens >= 0 else int(-tokens / per_ns)


def inst_type(instrument: Instrument) -> str:
    """The venue's type of an instrument of ours."""
    return "SPOT" if instrument.spot else "SWAP"


class Rest(RestBase):
    """``Reads`` of this venue, and ``place``. ``isolated``: the margin type that every order of a perpetual bears (``OkxWire``
    must be told the same)."""

    clock_call = f"GET {c.TIME}"

    def __init__(
        self, endpoints: Endpoints, contract: VenueContract, clock: Callable[[], int], *, isolated: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(endpoints.rest, contract, clock, **kwargs)
        self.endpoints, self.isolated = endpoints, isolated
        self.instruments = Instruments(())
        if endpoints.simulated:  # on the demo every call says that it is meant for it, the public ones too
            self.headers["x-simulated-trading"] = "1"
        self.pace = AccountPace(c.ACCOUNT_LIMITS, self.mono)

    def bind(self, instruments: Instruments) -> None:
        """The instruments in use."""
        self.instruments = instruments

    # --- of the venue ---------------------------------------------------------------------------------------------
    def signed(self, key: Key, method: str, target: str, body: bytes) -> dict[str, str]:
        """Headers of a call."""
        return self._headers(key, method, target, body, self.venue_clock.timestamp_ms())

    def _headers(self, key: Key, method: str, target: str, body: bytes, now_ms: int) -> dict[str, str]:
        """A placement says besides after when it is worth nothing: the venue drops it instead of taking it late."""
        expires_ms = now_ms + self.contract.recv_window_ms if (method, target) == ("POST", c.ORDER) else 0
        return rest_headers(
            key, method, target, body, now_ms, simulated=self.endpoints.simulated, expires_ms=expires_ms)

    def problem(self, status: int, headers: Mapping[str, str], body: bytes) -> Problem | None:
        """A business error in a 200 is an error like any other."""
        code, message = codec.answer_code(body)
        if status == 200 and code == 0:
            return None
        unread = code < 0
        verdict = classify(status, 0 if unread and status != 200 else code)
        retry = headers.get("Retry-After", "")
        return Problem(
            max(code, 0), message, verdict,
            limited=code in RATE_CODES or (unread and status in (403, 418, 429)), account=code in RATE_CODES,
            wait_ns=int(retry) * 1000 * MS_NS if retry.isascii() and retry.isdigit() else None,
        )  # fmt: skip

    async def call(
        self, method: str, path: str, target: str, body: bytes, key: Key | None, *, timeout_ms: int = 0
    ) -> bytes:
        """One call within the account's and the address's budget."""
        await self._turn(key, f"{method} {path}")
        return await super().call(method, path, target, body, key, timeout_ms=timeout_ms)

    async def _turn(self, key: Key | None, call: str) -> None:
        if key is not None and (wait := self.pace.wait_ns(key, call)) > 0:
            await asyncio.sleep(wait / 1e9)

    async def _rows(self, kind: Any, path: str, params: Mapping[str, Any], key: Key | None) -> list[Any]:
        return codec.rows(await self.get(path, params, key), kind)

    async def _pages(
        self, kind: Any, path: str, params: Mapping[str, Any], key: Key, by: str,
        enough: Callable[[list[Any]], bool] = lambda page: False,
    ) -> tuple[list[Any], bool]:
        """Rows of a list from the newest on, paged by the field ``by``, until it ends or a page is ``enough``; and whether it was
        read that far."""
        found: list[Any] = []
        after: str | None = None
        for _ in range(PAGES_MAX):
            page = await self._rows(kind, path, {**params, "limit": PAGE, "after": after}, key)
            found += page
            if len(page) < PAGE or enough(page):
                return found, True
            after = getattr(page[-1], by)
        return found, False

    # --- venue ----------------------------------------------------------------------------------------------------
    async def server_ms(self) -> int:
        """The venue's clock, ms."""
        (row,) = codec.rows(await self.call_now("GET", c.TIME, c.TIME, b"", None), codec.TimeRow)
        return codec.time_ns(row.ts) // MS_NS

    async def instrument_bodies(self) -> list[bytes]:
        """What ``load_instruments`` reads: perpetuals and spot, and what the latter cost."""
        bodies = [await self.get(c.INSTRUMENTS, {"instType": kind}) for kind in ("SWAP", "SPOT")]
        return [*bodies, await self.get(c.TICKERS, {"instType": "SPOT"})]

    # --- settings -------------------------------------------------------------------------------------------------
    async def _config(self, key: Key) -> codec.ConfigRow:
        found = await self._rows(codec.ConfigRow, c.CONFIG, {}, key)
        if len(found) != 1:
            raise ValueError(f"account configuration has {len(found)} rows")
        row: codec.ConfigRow = found[0]
        return row

    async def settings(self, key: Key, instrument: Instrument) -> Settings:
        """Position mode, margin type and leverage as they are.

        The margin type is no setting here, it travels with each order: ``isolated`` says whether the account's mode lets it be
        so. An account whose mode does not take our orders cannot trade.
        """
        config = await self._config(key)
        hedge, trades = config.posMode == "long_short_mode", "trade" in config.perm.split(",")
        if instrument.spot:
            return Settings(hedge, True, 1, trades and config.acctLv in _CASH_MODES)
        isolated = self.isolated and config.acctLv == _FUTURES_MODE
        fits = config.acctLv in _DERIVATIVE_MODES and isolated == self.isolated
        return Settings(hedge, isolated, await self._leverage_set(key, instrument), trades and fits)

    async def _levers(self, key: Key, instrument: Instrument) -> list[codec.LeverRow]:
        """The leverage of the margin type in use: a row per side where the account keeps two."""
        mode = "isolated" if self.isolated else "cross"
        return await self._rows(codec.LeverRow, c.LEVERAGE_INFO, {"instId": instrument.symbol, "mgnMode": mode}, key)

    async def _leverage_set(self, key: Key, instrument: Instrument) -> int:
        """The leverage of the margin type in use; of two sides the larger, 0 = not told."""
        return max((codec.leverage_of(row.lever) for row in await self._levers(key, instrument)), default=0)

    @property
    def _spot_only(self) -> bool:
        """No perpetual is in use: then positions, their mode and their funding are nobody's concern here."""
        return len(self.instruments) > 0 and all(item.spot for item in self.instruments)

    async def hedge_mode(self, key: Key) -> bool:
        """Whether the account keeps a position per side: not where no perpetual is in use. A dead key is seen all the same."""
        config = await self._config(key)
        return config.posMode == "long_short_mode" and not self._spot_only

    async def set_hedge(self, key: Key, hedge: bool) -> None:
        """Set the position mode, of perpetuals; setting what is set already succeeds."""
        if self._spot_only:
            return
        body = json_text({"posMode": "long_short_mode" if hedge else "net_mode"})
        await self.post(c.SET_POSITION_MODE, body, key)

    async def set_margin(self, key: Key, instrument: Instrument, isolated: bool, leverage: int) -> None:
        """Nothing to set: each order says it. ``RestError`` where the orders we send, or the account, are of the other type."""
        if isolated != self.isolated:
            name = "isolated" if self.isolated else "cross"
            raise RestError("margin type", 200, 0, f"orders are {name} here", Verdict(Outcome.DEFINITE_REJECT, "margin_type"))
        if isolated and (await self._config(key)).acctLv != _FUTURES_MODE:
            raise RestError(
                "margin type", 200, ISOLATED_UNAVAILABLE, "isolated positions need the account mode for futures",
                classify(200, ISOLATED_UNAVAILABLE),
            )  # fmt: skip

    async def set_leverage(self, key: Key, instrument: Instrument, leverage: int, isolated: bool) -> None:
        """Set the leverage, of both sides where each has its own; setting what is set already succeeds."""
        fields: dict[str, str] = {
            "instId": instrument.symbol, "lever": str(leverage), "mgnMode": "isolated" if isolated else "cross",
        }  # fmt: skip
        rows = await self._levers(key, instrument) if isolated else []
        sides = [row.posSide for row in rows if row.posSide in ("long", "short")]
        for more in [{"posSide": side} for side in sides] or [{}]:
            await self.post(c.SET_LEVERAGE, json_text({**fields, **more}), key)

    # --- account --------------------------------------------------------------------------------------------------
    async def _details(self, key: Key) -> list[codec.BalanceDetail]:
        found: list[codec.Balance] = await self._rows(codec.Balance, c.BALANCE, {}, key)
        return [detail for balance in found for detail in balance.details]

    def _asset(self) -> str:
        """The asset that margin and spot purchases are paid in: one for all instruments of ours."""
        return next((item.margin_asset for item in self.instruments), "USDT")

    def _holdings(self, details: list[codec.BalanceDetail], ts_recv: int) -> list[tuple[ls.Position, int]]:
        """What is owned of the base assets of spot instruments, as one-way long positions; parts of a lot are left out."""
        held: list[tuple[ls.Position, int]] = []
        by_asset = {detail.ccy: detail for detail in details}
        for item in self.instruments:
            detail = by_asset.get(item.base_asset) if item.spot else None
            if detail is not None and (qty := codec.held_lots(detail, item)) > 0:
                ts_event = codec.time_ns(detail.uTime) if detail.uTime else 0
                held.append((ls.Position(item.index, 0, qty, ts_event, ts_recv, "poll", 1, True), 0))
        return held

    async def _positions(self, key: Key, ts_recv: int) -> list[tuple[ls.Position, int]]:
        if self._spot_only:
            return []
        found = await self._rows(codec.PositionRow, c.POSITIONS, {"instType": "SWAP"}, key)
        return codec.positions_told(found, self.instruments, ts_recv, "poll")

    async def books(self, key: Key) -> AccountBooks:
        """Balance and positions, all instruments of ours. Of an account that trades spot, equity counts the coins it trades."""
        now = self.clock()
        details = await self._details(key)
        held = await self._positions(key, now) + self._holdings(details, now)
        mine = next((detail for detail in details if detail.ccy == self._asset()), None) or codec.BalanceDetail("")
        free = mine.availBal if self._spot_only else mine.availEq or mine.availBal
        return AccountBooks(
            wallet_e8=codec.wallet_e8(mine),
            available_e8=money_e8(free) if free else 0,
            equity_e8=codec.equity_e8(details, self._asset(), {item.base_asset for item in self.instruments if item.spot}),
            positions=tuple((row.instrument, row.position_side, row.qty, entry) for row, entry in held if row.qty),
            ts_event=codec.time_ns(mine.uTime) if mine.uTime else 0,
        )

    async def positions(self, key: Key) -> list[ls.Position]:
        """Positions with their leverage; of spot what is held."""
        now = self.clock()
        found = await self._positions(key, now)
        if any(item.spot for item in self.instruments):
            found += self._holdings(await self._details(key), now)
        return [row for row, _ in found]

    async def leverage(self, key: Key, instrument: Instrument) -> int:
        """The account's leverage in an instrument: of its position, else of the margin type in use; 0 = not told."""
        if instrument.spot:
            return 1
        found = await self._rows(codec.PositionRow, c.POSITIONS, {"instType": "SWAP", "instId": instrument.symbol}, key)
        held = [row for row, _ in codec.positions_told(found, self.instruments, self.clock(), "poll") if row.qty and row.leverage]
        if held:
            return max(held, key=lambda row: abs(row.qty)).leverage
        try:
            return await self._leverage_set(key, instrument)
        except RestError as problem:
            if problem.code not in NO_LEVERAGE_CODES:
                raise
            return 0

    # --- orders ---------------------------------------------------------------------------------------------------
    async def order(
        self, key: Key, instrument: Instrument, *, cid: bytes | None = None, order_id: int = 0
    ) -> OrderTold | None:
        """The latest order with our client id, or by the venue's id; None: the venue says that there is none."""
        named = {"clOrdId": cid.hex()} if cid is not None else {"ordId": order_id}
        try:
            found = await self._rows(codec.OrderRow, c.ORDER, {"instId": instrument.symbol, **named}, key)
        except RestError as problem:
            if problem.code in NOT_FOUND_CODES:
                return None
            raise
        if len(found) != 1:
            raise ValueError(f"{len(found)} orders for one id")
        return self._told(found[0], instrument)

    def _told(self, row: codec.OrderRow, instrument: Instrument) -> OrderTold:
        if row.instId != instrument.symbol:
            raise ValueError(f"an order in {row.instId} where {instrument.symbol} was asked for")
        return codec.order_told(row, instrument)

    async def orders_since(self, key: Key, instrument: Instrument, since_ms: int) -> tuple[list[OrderTold], bool]:
        """Open orders first, then ended ones: what ends in between is in both, never in neither."""
        params = {"instType": inst_type(instrument), "instId": instrument.symbol}
        found, complete = await self._pages(codec.OrderRow, c.ORDERS_PENDING, params, key, "ordId")
        paths = [c.ORDERS_HISTORY]
        age_ms = self.venue_clock.timestamp_ms() - since_ms
        if age_ms > c.HISTORY_MS:
            paths.append(c.ORDERS_ARCHIVE)
        for path in paths:
            more, whole = await self._pages(codec.OrderRow, path, {**params, "begin": since_ms}, key, "ordId")
            found, complete = found + more, complete and whole
        mine = (self._told(row, instrument) for row in found if int(row.cTime or 0) >= since_ms)
        told = {one.venue_order_id: one for one in mine}
        return list(told.values()), complete and age_ms <= c.ARCHIVE_MS

    async def place(self, key: Key, order: Order) -> Answered:
        """Place an order over REST; ``VenueUnavailable`` without an answer, ``RestError`` for a refusal, whose verdict says what
        became of it."""
        body = place_body(order, isolated=self.isolated)
        await self._turn(key, f"POST {c.ORDER}")
        answer = await self.post_order(c.ORDER, body, key, timeout_ms=self.contract.order_ack_timeout_ms)
        return codec.rest_answered(order.cid, 200, answer)

    def rest_place(self, order: Order, key: Key, now_ms: int) -> tuple[str, str, dict[str, str], bytes]:
        """The same placement as it goes out at that time of the venue: (method, target, headers, body)."""
        body = place_body(order, isolated=self.isolated)
        return "POST", c.ORDER, self._headers(key, "POST", c.ORDER, body, now_ms), body

    # --- executions -----------------------------------------------------------------------------------------------
    async def trades_of(self, key: Key, instrument: Instrument, told: OrderTold | None, cid: bytes) -> list[TradeTold]:
        """The executions of one order of ours, oldest first; the venue finds them by its own number of the order."""
        order = told if told is not None else await self.order(key, instrument, cid=cid)
        if order is None or not order.venue_order_id:
            return []
        params = {"instType": inst_type(instrument), "instId": instrument.symbol, "ordId": order.venue_order_id}
        found, _ = await self._pages(codec.FillRow, c.FILLS, params, key, "billId")
        if sum(codec.lots(instrument, row.fillSz) for row in found) < order.cum_qty:
            # the archive is not said to hold the newest: both together do
            found += (await self._pages(codec.FillRow, c.FILLS_HISTORY, params, key, "billId"))[0]
        return [trade for trade in self._trades(found, instrument) if trade.cid == cid]

    def _trades(self, found: list[codec.FillRow], instrument: Instrument) -> list[TradeTold]:
        """By execution id, each once."""
        now = self.clock()
        trades = (codec.listed(row, instrument, now) for row in found if row.instId == instrument.symbol)
        by_id = {trade.execution.exec_id: trade for trade in trades if trade is not None}
        return [by_id[exec_id] for exec_id in sorted(by_id)]

    async def trades_from(self, key: Key, instrument: Instrument, from_id: int, limit: int) -> list[TradeTold]:
        """Executions of the account from an execution id on, oldest first.

        The list has no such question: it is read from the newest on until it is behind the id, beyond three days in the
        archive.
        """
        params = {"instType": inst_type(instrument), "instId": instrument.symbol}

        def passed(page: list[codec.FillRow]) -> bool:
            return any(0 < codec.trade_id(row.tradeId) < from_id for row in page)

        found, complete = await self._pages(codec.FillRow, c.FILLS, params, key, "billId", passed)
        if complete and not passed(found):
            older, complete = await self._pages(codec.FillRow, c.FILLS_HISTORY, params, key, "billId", passed)
            found += older
        if not complete:
            raise ValueError(f"more than {PAGES_MAX * PAGE} executions since {from_id}")
        return [trade for trade in self._trades(found, instrument) if trade.execution.exec_id >= from_id][:limit]

    async def newest_trade(self, key: Key, instrument: Instrument) -> TradeTold | None:
        """The account's last execution in the instrument, as far back as the venue keeps them."""
        params = {"instType": inst_type(instrument), "instId": instrument.symbol}

        def ordinary(page: list[codec.FillRow]) -> bool:
            return any(codec.trade_id(row.tradeId) for row in page)

        for path in (c.FILLS, c.FILLS_HISTORY):
            found, _ = await self._pages(codec.FillRow, path, params, key, "billId", ordinary)
            trades = self._trades(found, instrument)
            if trades:
                return trades[-1]
        return None

    # --- money ----------------------------------------------------------------------------------------------------
    async def _bills(self, key: Key, kind: str, since_ms: int) -> list[codec.BillRow]:
        """Bills of one type in the margin asset since then, oldest first; ``ValueError`` when there are too many to read."""
        old = self.venue_clock.timestamp_ms() - since_ms > c.HISTORY_MS
        params = {"ccy": self._asset(), "type": kind, "begin": since_ms}
        found, complete = await self._pages(codec.BillRow, c.BILLS_ARCHIVE if old else c.BILLS, params, key, "billId")
        if not complete:
            raise ValueError(f"more than {PAGES_MAX * PAGE} bills of type {kind} since {since_ms}")
        return [row for row in reversed(found) if int(row.ts) >= since_ms]

    async def flows(self, key: Key, since_ms: int) -> list[tuple[int, int]]:
        """What was paid in (above 0) or taken out since: (amount e8, venue ns)."""
        return [(money_e8(row.balChg), codec.time_ns(row.ts)) for row in await self._bills(key, codec.BILL_TRANSFER, since_ms)]

    async def fundings(self, key: Key, since_ms: int) -> list[FundingTold]:
        """Funding received (above 0) or paid since, as the bills say it: no push of the venue names an amount."""
        if self._spot_only:
            return []
        told = [codec.funding_told(row, self.instruments) for row in await self._bills(key, codec.BILL_FUNDING, since_ms)]
        return [one for one in told if one.instrument >= 0]

    async def rights(self, key: Key) -> Rights:
        """What the key may do: part of the account's configuration."""
        from copyd.venues.okx.rights import rights_of

        return rights_of(await self.get(c.CONFIG, None, key))
