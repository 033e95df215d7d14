"""Bybit's REST interface: questions, settings, and orders where no order socket is up."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from copyd.core import leader_stream as ls
from copyd.venues.bybit import codec
from copyd.venues.bybit.codec import Page
from copyd.venues.bybit.contract import DAY_MS, INSTRUMENTS_PAGE, LOG_PAGE, ORDERS_PAGE, POSITIONS_PAGE
from copyd.venues.bybit.errors import ACCOUNT_LIMIT_CODES, ADDRESS_LIMIT_CODES, NO_CHANGE_CODES, classify
from copyd.venues.bybit.instruments import LINEAR, SETTLE_COIN, SPOT, category, wire_symbol
from copyd.venues.bybit.signing import rest_body, rest_headers
from copyd.venues.bybit.wire import answered
from copyd.venues.common import told
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import MS_NS
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.names import Names, execution_ms
from copyd.venues.common.outcome import Outcome, Verdict
from copyd.venues.common.rest import Problem, RestBase, RestError
from copyd.venues.common.signing import Key, json_text
from copyd.venues.common.venue import AccountBooks, Order, Rights, Settings

CREATE_PATH = "/v5/order/create"
ISOLATED, CROSS = "ISOLATED_MARGIN", "REGULAR_MARGIN"
HEDGE_MODE, ONE_WAY_MODE = 3, 0
#: Pages of one list that are read at most; a list of executions that is longer is asked for in shorter pieces of time.
PAGES_MAX = 20
PIECE_MIN_MS = 1_000
#: Without an execution to begin with, executions are read from so long ago: what the venue gives when no time is named.
LOOK_BACK_MS = 7 * DAY_MS


class Rest(RestBase):
    """See ``copyd.venues.common.venue.Reads``. ``bind`` says which instruments positions and balances are told of."""

    clock_call = "GET /v5/market/time"

    def __init__(
        self, base_url: str, contract: VenueContract, clock: Callable[[], int], *, names: Names, **options: Any
    ) -> None:
        super().__init__(base_url, contract, clock, **options)
        self.names = names
        self.bind(Instruments(()))

    def bind(self, instruments: Instruments) -> None:
        """The instruments in use."""
        self.instruments = instruments
        self._perpetuals = any(not item.spot for item in instruments)

    # --- of the venue ---------------------------------------------------------------------------------------------
    def signed(self, key: Key, method: str, target: str, body: bytes) -> dict[str, str]:
        """Headers that sign a call: over its body, or its query."""
        payload = body if method == "POST" else target.partition("?")[2].encode()
        return rest_headers(key, payload, self.venue_clock.timestamp_ms(), self.contract.recv_window_ms)

    def problem(self, status: int, headers: Mapping[str, str], body: bytes) -> Problem | None:
        """What the answer says went wrong: errors come with HTTP 200 and a code."""
        try:
            said = msgspec.json.decode(body, type=codec.Verdict)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return self._wordless(status, body)
        if status == 200 and said.retCode == 0:
            return None
        code, message = said.retCode, said.retMsg or ""
        of_account = code in ACCOUNT_LIMIT_CODES
        limited = of_account or code in ADDRESS_LIMIT_CODES or status == 429
        return Problem(
            code, message, classify(status, code), limited=limited, account=of_account,
            wait_ns=_until_reset(headers, said.time) if limited else None,
        )  # fmt: skip

    def _wordless(self, status: int, body: bytes) -> Problem:
        """An answer of what stands before the venue: 403 is an address that asked too often, without a word until when."""
        text = body[:100].decode("utf-8", "replace")
        if status == 200:
            return Problem(0, f"unreadable answer: {text}", Verdict(Outcome.IN_DOUBT, "unreadable"))
        wait = self.contract.banned_default_ms * MS_NS if status == 403 else None
        return Problem(0, text, classify(status, 0), limited=status in (403, 429), wait_ns=wait)

    async def _pages(
        self, path: str, params: Mapping[str, Any], key: Key | None, pages_max: int = 0
    ) -> AsyncIterator[tuple[Page, bool]]:
        """Page by page, ``PAGES_MAX`` at most unless it is said otherwise, and whether it is the last there is."""
        cursor: str | None = None
        for _ in range(pages_max or PAGES_MAX):
            query = {**params, "cursor": quote(cursor, safe="%") if cursor else None}
            page = codec.page(await self.get(path, query, key))
            last = not page.nextPageCursor or not page.rows or page.nextPageCursor == cursor
            cursor = page.nextPageCursor
            yield page, last
            if last:
                return

    async def _rows(
        self, path: str, params: Mapping[str, Any], key: Key, pages_max: int = 0
    ) -> tuple[list[msgspec.Raw], bool]:
        """The rows of a list, and whether those are all."""
        rows: list[msgspec.Raw] = []
        complete = False
        async for page, last in self._pages(path, params, key, pages_max):
            rows += page.rows
            complete = last
        return rows, complete

    # --- the venue itself -------------------------------------------------------------------------------------------
    async def server_ms(self) -> int:
        """The venue's clock, ms, with the weight already taken."""
        path = "/v5/market/time"
        body = await self.call_now("GET", path, path, b"", None)
        return codec.nanoseconds(msgspec.json.decode(body, type=codec.TimeBody).result.timeNano) // MS_NS

    async def instrument_bodies(self) -> list[bytes]:
        """Pages of ``instruments-info`` of both categories; one that cannot be read is ``load_instruments``' to say."""
        bodies: list[bytes] = []
        for kind in (LINEAR, SPOT):
            cursor = ""
            for _ in range(PAGES_MAX):
                query = {"category": kind, "limit": INSTRUMENTS_PAGE, "cursor": quote(cursor, safe="%") or None}
                bodies.append(await self.get("/v5/market/instruments-info", query))
                try:
                    cursor = codec.page(bodies[-1]).nextPageCursor or ""
                except ValueError:
                    return bodies
                if not cursor:
                    break
        return bodies

    # --- settings ---------------------------------------------------------------------------------------------------
    async def settings(self, key: Key, instrument: Instrument) -> Settings:
        """Position mode and leverage of an instrument, margin type of the whole account."""
        if instrument.spot:
            return Settings(hedge=False, isolated=False, leverage=1)
        rows = await self._positions_of(key, instrument)
        return Settings(_keeps_sides(rows), await self._isolated(key), max((codec.leverage(r.leverage) for r in rows), default=0))

    async def hedge_mode(self, key: Key) -> bool:
        """Whether the account keeps a position per side, which the venue lets each symbol decide: ``ValueError`` where ours
        differ. Spot has no such mode; the venue is asked all the same, so that a dead key is seen."""
        if not self._perpetuals:
            await self._isolated(key)
            return False
        modes = {
            item.symbol: _keeps_sides(await self._positions_of(key, item)) for item in self.instruments if not item.spot
        }  # fmt: skip
        if len(set(modes.values())) > 1:
            hedged = ", ".join(sorted(symbol for symbol, hedge in modes.items() if hedge))
            raise ValueError(f"some instruments keep a position per side and others do not: {hedged} do")
        return any(modes.values())

    async def set_hedge(self, key: Key, hedge: bool) -> None:
        """Set the position mode of every contract that is settled in USDT."""
        mode = HEDGE_MODE if hedge else ONE_WAY_MODE
        await self._set("/v5/position/switch-mode", {"category": LINEAR, "coin": SETTLE_COIN, "mode": mode}, key)

    async def set_margin(self, key: Key, instrument: Instrument, isolated: bool, leverage: int) -> None:
        """Set the margin type, which is the whole account's."""
        if not instrument.spot and await self._isolated(key) is not isolated:
            await self._set("/v5/account/set-margin-mode", {"setMarginMode": ISOLATED if isolated else CROSS}, key)

    async def set_leverage(self, key: Key, instrument: Instrument, leverage: int, isolated: bool) -> None:
        """Set the leverage of both sides."""
        if instrument.spot:
            return
        text = str(leverage)
        fields = {"category": LINEAR, "symbol": instrument.symbol, "buyLeverage": text, "sellLeverage": text}
        await self._set("/v5/position/set-leverage", fields, key)

    async def _set(self, path: str, fields: Mapping[str, Any], key: Key) -> None:
        try:
            await self.post(path, json_text(fields), key)
        except RestError as problem:
            if problem.code not in NO_CHANGE_CODES:
                raise

    async def _isolated(self, key: Key) -> bool:
        body = await self.get("/v5/account/info", None, key)
        return msgspec.json.decode(body, type=codec.InfoBody).result.marginMode == ISOLATED

    # --- balances and positions ---------------------------------------------------------------------------------------
    async def books(self, key: Key) -> AccountBooks:
        """Balance and positions, all instruments of ours; what is held of our pairs' base assets is worth its last price."""
        wallet, at = await self._wallet(key)
        rows = await self._position_rows(key)
        prices = {item.index: await self._last_price(item) for item in codec.held_pairs(wallet, self.instruments)}
        return codec.books(wallet, rows, self.instruments, at, prices)

    async def _position_rows(self, key: Key) -> list[codec.PositionRow]:
        """Of the perpetuals; nothing is asked where none is ours, which a key for spot alone may not."""
        if not self._perpetuals:
            return []
        rows, complete = await self._rows("/v5/position/list", _all_positions(), key)
        if not complete:
            raise ValueError("the list of positions does not end")
        return [codec.position_row(row) for row in rows]

    async def _last_price(self, instrument: Instrument) -> str:
        query = {"category": SPOT, "symbol": wire_symbol(instrument)}
        for raw in codec.page(await self.get("/v5/market/tickers", query)).rows:
            row = codec.price_row(raw)
            if row.symbol == wire_symbol(instrument):
                return row.lastPrice
        raise ValueError(f"{instrument.symbol}: the venue tells no price")

    async def positions(self, key: Key) -> list[ls.Position]:
        """Positions with their leverage; of pairs what is held of the base asset."""
        rows = await self._position_rows(key)
        now = self.clock()
        found = [codec.position(row, self.instruments, now, source="poll") for row in rows]
        out = [one for one in found if one is not None]
        if any(item.spot for item in self.instruments):
            wallet, at = await self._wallet(key)
            out += codec.holdings(wallet, self.instruments, at, now)
        return out

    async def leverage(self, key: Key, instrument: Instrument) -> int:
        """The account's leverage in an instrument; the larger one where the sides differ, 0 = not told."""
        if instrument.spot:
            return 1
        return max((codec.leverage(row.leverage) for row in await self._positions_of(key, instrument)), default=0)

    async def _wallet(self, key: Key) -> tuple[codec.WalletRow, int]:
        """Balances, and when that was (venue ns)."""
        body = await self.get("/v5/account/wallet-balance", {"accountType": "UNIFIED"}, key)
        rows = codec.page(body).rows
        at = codec.ms(msgspec.json.decode(body, type=codec.Verdict).time) * MS_NS
        return (codec.wallet_row(rows[0]) if rows else codec.WalletRow([])), at

    async def _positions_of(self, key: Key, instrument: Instrument) -> list[codec.PositionRow]:
        """One instrument's positions, flat ones as well: one row, or one per side."""
        rows, _ = await self._rows("/v5/position/list", {"category": LINEAR, "symbol": instrument.symbol}, key, 1)
        found = [codec.position_row(row) for row in rows]
        if not found:
            raise ValueError(f"{instrument.symbol}: the venue tells nothing of its position")
        return found

    # --- orders -----------------------------------------------------------------------------------------------------
    async def order(
        self, key: Key, instrument: Instrument, *, cid: bytes | None = None, order_id: int = 0
    ) -> told.OrderTold | None:
        """An order; None only when neither the open and lately ended ones, nor the history, nor the executions know it."""
        name = {"orderLinkId": cid.hex()} if cid is not None else {"orderId": self.names.order_text(order_id)}
        if not next(iter(name.values())):
            return await self._order_of_number(key, instrument, order_id)
        query = {"category": category(instrument), "symbol": wire_symbol(instrument), **name}
        for path in ("/v5/order/realtime", "/v5/order/history"):
            for row in codec.page(await self.get(path, query, key)).rows:
                found = self._told(row, instrument)
                if found is not None and (found.cid == cid if cid is not None else found.venue_order_id == order_id):
                    return found
        if codec.page(await self.get("/v5/execution/list", query, key)).rows:
            raise ValueError("the venue lists executions of an order that it does not list")
        return None

    async def _order_of_number(self, key: Key, instrument: Instrument, order_id: int) -> told.OrderTold:
        """An order whose name at the venue is not remembered: it is looked for among the last of its instrument. Not to find it
        there proves nothing."""
        since = self.venue_clock.timestamp_ms() - LOOK_BACK_MS
        rows, _ = await self.orders_since(key, instrument, since)
        for row in rows:
            if row.venue_order_id == order_id:
                return row
        raise ValueError("an order whose name is not remembered is not among the last ones")

    async def orders_since(self, key: Key, instrument: Instrument, since_ms: int) -> tuple[list[told.OrderTold], bool]:
        """Every order of the instrument placed since then, and whether that is all of them: first the open ones, then those
        that ended lately, then the history, so that none slips through between two lists."""
        base = {"category": category(instrument), "symbol": wire_symbol(instrument), "limit": ORDERS_PAGE}
        found: dict[int, told.OrderTold] = {}
        complete = True
        for extra in ({"openOnly": 0}, {"openOnly": 1}):
            rows, whole = await self._rows("/v5/order/realtime", {**base, **extra}, key)
            complete = complete and whole
            self._take_orders(rows, instrument, since_ms, found)
        now = self.venue_clock.timestamp_ms()
        start = since_ms
        while start <= now:
            end = min(start + self.contract.backfill_window_ms, now + self.contract.clock_lead_ms)
            rows, whole = await self._rows("/v5/order/history", {**base, "startTime": start, "endTime": end}, key)
            complete = complete and whole
            self._take_orders(rows, instrument, since_ms, found)
            start = end + 1
        return list(found.values()), complete

    def _take_orders(
        self, rows: list[msgspec.Raw], instrument: Instrument, since_ms: int, found: dict[int, told.OrderTold]
    ) -> None:
        """Keep of each order what was told of it last: more filled, or ended."""
        for raw in rows:
            row = codec.order_row(raw)
            one = self._told(raw, instrument)
            if one is None or codec.ms(row.createdTime) < since_ms:
                continue
            before = found.get(one.venue_order_id)
            if before is None or (one.cum_qty, one.status) >= (before.cum_qty, before.status):
                found[one.venue_order_id] = one

    def _told(self, raw: bytes, instrument: Instrument) -> told.OrderTold | None:
        """A row as an order of that instrument."""
        one = codec.order_told(codec.order_row(raw), Instruments((instrument,)), self.names, category(instrument))
        return one if one is not None and one.instrument == instrument.index else None

    def rest_place(self, order: Order, key: Key, now_ms: int) -> tuple[str, str, dict[str, str], bytes]:
        """The placement over REST: method, target, headers and body as they are sent."""
        body = rest_body(order)
        headers = rest_headers(key, body, now_ms, self.contract.recv_window_ms)
        return "POST", CREATE_PATH, {**headers, "Content-Type": "application/json"}, body

    async def place(self, key: Key, order: Order) -> told.Answered:
        """Place an order where no socket takes it: an answer says that it was received, ``RestError`` that it was refused."""
        body = await self.post_order(CREATE_PATH, rest_body(order), key, timeout_ms=self.contract.order_ack_timeout_ms)
        said = msgspec.json.decode(body, type=codec.Verdict)
        placed = msgspec.json.decode(body, type=codec.PlacedBody).result
        return answered(order.cid, 200, said.retCode, said.retMsg or "", self.names.order(placed.orderId), (said.time, 0))

    # --- executions -------------------------------------------------------------------------------------------------
    async def trades_of(
        self, key: Key, instrument: Instrument, known: told.OrderTold | None, cid: bytes
    ) -> list[told.TradeTold]:
        """The executions of one order of ours, oldest first."""
        name = self.names.order_text(known.venue_order_id) if known is not None else ""
        query = {
            "category": category(instrument), "symbol": wire_symbol(instrument), "limit": self.contract.backfill_page_max,
            **({"orderId": name} if name else {"orderLinkId": cid.hex()}),
        }  # fmt: skip
        rows, complete = await self._rows("/v5/execution/list", query, key)
        if not complete:
            raise ValueError("the list of an order's executions does not end")
        side = known.position_side if known is not None else None
        return await self._trades(key, instrument, rows, side)

    async def trades_from(self, key: Key, instrument: Instrument, from_id: int, limit: int) -> list[told.TradeTold]:
        """Executions from an id on, oldest first, at most ``limit``. An id holds its time; the venue is asked by time, in
        windows of its own length, newest first within each, so each window is read to its end."""
        now = self.venue_clock.timestamp_ms() + self.contract.clock_lead_ms
        start = execution_ms(from_id) or now - LOOK_BACK_MS
        piece = self.contract.backfill_window_ms
        base = {
            "category": category(instrument), "symbol": wire_symbol(instrument), "limit": self.contract.backfill_page_max,
        }  # fmt: skip
        raws: list[msgspec.Raw] = []
        while start <= now and len(raws) < limit:
            end = min(start + piece - 1, now)
            rows, complete = await self._rows("/v5/execution/list", {**base, "startTime": start, "endTime": end}, key)
            if not complete:
                if piece <= PIECE_MIN_MS:
                    raise ValueError("more executions in one second than can be read")
                piece = max(PIECE_MIN_MS, min(piece, end - start + 1) // 8)
                continue
            raws += [row for row in rows if self._number(row) >= max(1, from_id)]
            start = end + 1
        return (await self._trades(key, instrument, raws))[:limit]

    async def newest_trade(self, key: Key, instrument: Instrument) -> told.TradeTold | None:
        """The account's last execution in the instrument, of the last seven days."""
        query = {
            "category": category(instrument), "symbol": wire_symbol(instrument), "limit": self.contract.backfill_page_max,
        }  # fmt: skip
        rows = codec.page(await self.get("/v5/execution/list", query, key)).rows
        found = await self._trades(key, instrument, rows)
        return found[-1] if found else None

    def _number(self, raw: bytes) -> int:
        """An execution's number; 0 for funding, which is no execution here."""
        row = codec.execution_row(raw)
        return 0 if row.execType == codec.FUNDING else self.names.execution(row.execId, codec.ms(row.execTime))

    async def _trades(
        self, key: Key, instrument: Instrument, raws: list[msgspec.Raw], side: int | None = None
    ) -> list[told.TradeTold]:
        """Rows as executions, oldest first by id. They name no position side: on an account that keeps one per side it
        follows from whether they closed something."""
        rows = [row for row in map(codec.execution_row, raws) if row.execType != codec.FUNDING]
        if not rows:
            return []
        hedge = side is None and not instrument.spot and _keeps_sides(await self._positions_of(key, instrument))
        out: list[told.TradeTold] = []
        for row in rows:
            one = codec.trade_told(
                row, Instruments((instrument,)), self.names, self.clock(), kind=category(instrument), live=False,
                position_side=side if side is not None else codec.hedge_side(row) if hedge else 0,
            )  # fmt: skip
            if isinstance(one, told.TradeTold):
                out.append(one)
        return sorted(out, key=lambda one: one.execution.exec_id)

    # --- money ------------------------------------------------------------------------------------------------------
    async def flows(self, key: Key, since_ms: int) -> list[tuple[int, int]]:
        """What was paid in (above 0) or taken out since, of the settlement coin, oldest first: (amount e8, venue ns)."""
        found: list[tuple[int, int]] = []
        now = self.venue_clock.timestamp_ms()
        for kind in codec.FLOWS:
            start = max(since_ms, now - self.contract.order_history_ms)
            while start <= now:
                end = min(start + self.contract.backfill_window_ms, now + self.contract.clock_lead_ms)
                query = {
                    "accountType": "UNIFIED", "currency": SETTLE_COIN, "type": kind, "startTime": start, "endTime": end,
                    "limit": LOG_PAGE,
                }  # fmt: skip
                rows, complete = await self._rows("/v5/account/transaction-log", query, key)
                if not complete:
                    raise ValueError("the transaction log does not end")
                for raw in rows:
                    row = codec.log_row(raw)
                    found.append((codec.money(row.change), codec.ms(row.transactionTime) * MS_NS))
                start = end + 1
        return sorted(found, key=lambda flow: flow[1])

    async def rights(self, key: Key) -> Rights:
        """What the key may do: trade, all that is in use; where no instruments are known, anything."""
        body = await self.get("/v5/user/query-api", None, key)
        rights_of = importlib.import_module("copyd.venues.bybit.rights").rights_of
        used = {category(item) for item in self.instruments}
        found: list[Rights] = [rights_of(body, product=product) for product in sorted(used or {LINEAR, SPOT})]
        may = [one.trade for one in found]
        return msgspec.structs.replace(found[0], trade=all(may) if used else any(may))


def _all_positions() -> dict[str, Any]:
    return {"category": LINEAR, "settleCoin": SETTLE_COIN, "limit": POSITIONS_PAGE}


def _keeps_sides(rows: list[codec.PositionRow]) -> bool:
    return any(row.positionIdx for row in rows)


def _until_reset(headers: Mapping[str, str], now_ms: int) -> int | None:
    """How long until an exhausted limit is full again, ns; None: the answer does not say."""
    text = headers.get("X-Bapi-Limit-Reset-Timestamp", "")
    if text.isascii() and text.isdigit() and now_ms and int(text) > now_ms:
        return (int(text) - now_ms) * MS_NS
    return None
