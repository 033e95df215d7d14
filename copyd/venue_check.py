"""``copyd venue conformance``: a venue's contract record against the venue itself, row by row, with a key of one's own.

Read-only unless told otherwise. What a row finds is compared with what the record says; a row that cannot be looked at says so
and counts as failed. With ``orders`` the smallest order of the first instrument is placed far from the market,
immediate-or-cancel: it must end without a fill, and be found under its id afterwards.
"""

from __future__ import annotations

import asyncio
import secrets
from array import array
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from copyd._fast.columns import Columns
from copyd.adapters import make_parts
from copyd.config import Config, VenueConfig
from copyd.core.rows import OrderRow, OrderState, ReportRow
from copyd.credentials import Credential
from copyd.errors import CopydError, VenueUnavailable
from copyd.runtime.clock import SystemClock
from copyd.venues.binance_usdm.errors import NOT_FOUND_CODES
from copyd.venues.common.facts import MS_NS, REJECT, REPLY, STREAM, TERMINAL_STATUS, TRADE, LeaderEvent, Mark, Quote
from copyd.venues.common.parts import Hooks, LeaderTerms, SessionParts
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key

ORDERS = 7
ROW_S = 20.0
#: Far enough below the market that nothing sells there, near enough for the venue's price band.
FAR_BPS = 300


class Row(NamedTuple):
    """One thing the record says. ``ok`` None: not looked at."""

    name: str
    says: str
    found: str
    ok: bool | None


class Check:
    """All rows of one venue. ``credential`` None: only what needs no key."""

    def __init__(self, config: Config, venue: VenueConfig, credential: Credential | None, orders: bool) -> None:
        self.config, self.venue, self.orders = config, venue, orders
        self.key = None if credential is None else Key(
            credential.key.reveal().encode(), credential.secret.reveal().encode(), credential.passphrase.reveal().encode())
        self.clock = SystemClock()
        self.columns = Columns(64)
        self.reports: list[Any] = []
        self.quotes: dict[int, Quote] = {}
        self.parts = make_parts(config, venue, self._hooks())
        self.rows: list[Row] = []

    def _hooks(self) -> Hooks:
        def quotes(told: list[Quote]) -> None:
            self.quotes.update({quote.instrument: quote for quote in told})

        def marks(told: list[Mark]) -> None:
            pass

        def leader(event: LeaderEvent) -> None:
            pass

        return Hooks(
            clock=self.clock.now_ns, on_reports=lambda batch, ts: self.reports.append(batch.to_bytes()),
            on_connection=lambda *state: None, on_follower_event=lambda event: None, on_leader_event=leader, on_quotes=quotes,
            on_marks=marks, on_ban=lambda *ban: None, on_mismatch=lambda *what: None, on_unknown_code=lambda code: None,
            on_unknown_account=lambda account: None, on_unknown_fee=lambda *what: None, placed=lambda cid: None,
            is_known=lambda cid: True, expected=lambda *about: (0, 0, False), last_mark=lambda index: 0,
            account_key=lambda account: self._key(), site_tag="ffff",
        )  # fmt: skip

    def _key(self) -> Key:
        assert self.key is not None
        return self.key

    async def run(self) -> list[Row]:
        """Every row, in order; the connections are closed at the end."""
        wanted = [(at, item.symbol) for at, item in enumerate(self.config.instruments) if item.venue == self.venue.name]
        try:
            await self._row("reachable", "answers with its clock and instruments", lambda: self._open(wanted))
            if not self.rows[-1].ok:
                return self.rows
            await self._row("clock", self._clock_says(), self._clock)
            await self._row("instruments", "every configured one trades", self._instruments)
            await self._row("market", "a quote and a mark of each", self._market)
            if self.key is None:
                self.rows.append(Row("key", "reads and trades, moves no funds", "no credential was named", None))
                return self.rows
            looks = (
                ("key", "is taken for a signed call", self._signed),
                ("rights", "trades, moves no funds, bound to addresses", self._rights),
                ("books", "balance and positions", self._books),
                ("not found", "an id nobody used is not found", self._not_found),
                ("private stream", "login, subscriptions, snapshot, back-fill", self._stream),
            )
            for name, says, look in looks:
                await self._row(name, says, look)
            if self.orders:
                await self._row("order", "an IOC far from the market ends unfilled", self._order)
            return self.rows
        finally:
            await self.parts.stop()

    async def _row(self, name: str, says: str, look: Callable[[], Awaitable[str]]) -> None:
        try:
            found = await asyncio.wait_for(look(), ROW_S)
        except (CopydError, RestError, ValueError, AssertionError) as problem:
            self.rows.append(Row(name, says, str(problem) or type(problem).__name__, False))
        except TimeoutError:
            self.rows.append(Row(name, says, f"no answer in {ROW_S:g} s", False))
        else:
            self.rows.append(Row(name, says, found, True))

    # --- rows ----------------------------------------------------------------------------------------------------------
    async def _open(self, wanted: list[tuple[int, str]]) -> str:
        await self.parts.open(wanted, ROW_S)
        self.parts.bind(self.columns)
        return f"{len(wanted)} instruments listed"

    def _clock_says(self) -> str:
        contract = self.parts.contract
        return f"behind by less than {contract.recv_window_ms} ms, ahead by less than {contract.clock_lead_ms} ms"

    async def _clock(self) -> str:
        clock = self.parts.rest.venue_clock
        problem = clock.problem()
        if problem:
            raise ValueError(problem)
        return f"off by {clock.offset_ns / MS_NS:+.1f} ms, known to {clock.error_ns / MS_NS:.1f} ms"

    async def _instruments(self) -> str:
        said = []
        for item in self.parts.instruments:
            tick, lot = item.tick / 10**item.price_decimals, item.lot / 10**item.qty_decimals
            said.append(f"{item.symbol} ({item.status}, tick {tick:g}, lot {lot:g})")
        return ", ".join(said)

    async def _market(self) -> str:
        await self.parts.market.start(ROW_S)
        await asyncio.sleep(0)
        return f"{len(self.quotes)} quotes"

    async def _signed(self) -> str:
        await self.parts.check_key(self._key())
        return "taken"

    async def _rights(self) -> str:
        rights = await self.parts.rights(self._key())
        wrong = [*(f"may {right}" for right in rights.moves_funds), *(f"unknown right {right}" for right in rights.unknown)]
        if rights.ip_bound is False:
            wrong.append("bound to no address")
        if wrong:
            raise ValueError(", ".join(wrong))
        return "trades" if rights.trade else "reads only"

    async def _books(self) -> str:
        await self.parts.setup.open()
        seen = await self.parts.setup.snapshot(0, self._key())
        return f"{len(seen.positions)} positions of the configured instruments"

    async def _not_found(self) -> str:
        item = next(iter(self.parts.instruments))
        cid = secrets.token_bytes(16)
        if isinstance(self.parts, SessionParts):
            if hasattr(self.parts.rest, "prepare"):
                await self.parts.rest.prepare(self._key())
            if await self.parts.rest.order(self._key(), item, cid=cid) is not None:
                raise ValueError("an order is found under it")
            return "said so"
        params = {"symbol": item.symbol, "origClientOrderId": cid.hex()}
        try:
            await self.parts.rest.call("GET", "/fapi/v1/order", params, self._key())
        except RestError as problem:
            if problem.code in NOT_FOUND_CODES:
                return f"said so with {problem.code}"
            raise
        raise ValueError("an order is found under it")

    async def _stream(self) -> str:
        feed = self.parts.leader_feed(LeaderTerms(0, self._key(), 5.0, 10.0))
        await feed.start(timeout_s=ROW_S - 1)
        try:
            return f"in sync; {feed.stats.syncs} sync"
        finally:
            await feed.stop()

    async def _order(self) -> str:
        item = next(iter(self.parts.instruments))
        quote = self.quotes.get(item.index)
        if quote is None:
            raise ValueError(f"no quote of {item.symbol}")
        px = quote.bid * (10_000 - FAR_BPS) // 10_000
        least = -(-item.min_notional_e8 * item.value_div // (px * item.value_mul))
        cid = bytes.fromhex("ffff000001") + secrets.token_bytes(11)
        slot = self.columns.add_order(cid)
        self.columns.put(ORDERS, slot, OrderRow(
            cid=cid, order_qty=max(item.lot_min, least, 1), limit_px=px, instrument=item.index, side=1,
            state=int(OrderState.PENDING_NEW), ts_decided=self.clock.now_ns()).pack())
        await self.parts.start_orders(ROW_S)
        self.parts.register(0, "conformance", self._key())
        gateway = self.parts.gateway
        while isinstance(self.parts, SessionParts) and not self.parts.kind.by_rest and not gateway.open_connections:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        gateway.send(gateway.render(gateway.arrange(array("I", [slot]), 1)))
        return await self._ended(cid, slot)

    async def _ended(self, cid: bytes, slot: int) -> str:
        asked = False
        for turn in range(int(ROW_S / 0.1) - 10):
            for at, row in ((at, row) for batch in self.reports for at, row in enumerate(_rows(batch)) if row[0] == cid):
                kind, status, cum, code = row[1:]
                if cum:
                    raise ValueError(f"report {at}: {cum} lots of it filled")
                if kind == REJECT:
                    raise ValueError(f"refused with code {code}")
                if kind in (REPLY, STREAM, TRADE) and status in TERMINAL_STATUS:
                    return "ended unfilled" + (", found under its id" if asked else "")
            await asyncio.sleep(0.1)
            if turn == 10 and not asked:
                asked = True
                self.parts.gateway.query(cid, 0, next(iter(self.parts.instruments)).index, self.clock.now_ns(), seen=True)
        raise VenueUnavailable("it did not end")


def _rows(batch: bytes) -> list[tuple[bytes, int, int, int, int]]:
    """(cid, kind, status, cum lots, code) of each report."""
    return [(row.cid, row.kind, row.status, row.cum_qty, row.code) for row in ReportRow.unpack_all(batch)]
