"""The followers' side of a session venue: set up and verify accounts, read them, and hear what happens on them.

``AccountSetup`` sets position mode, margin type and leverage when an instrument is activated, outside any fan-out
(semantics 25). ``FollowerStreams`` turns what the private connections say into report rows, where it is about orders of ours,
and into events, where it is not. What may have been missed is said per account (``StreamGap``), never guessed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from copyd._fast.columns import ReportBatch
from copyd.core.leader_stream import UNKNOWN_SIDE, Execution
from copyd.errors import VenueUnavailable
from copyd.venues.common import told as t
from copyd.venues.common.activation import Activation, tried
from copyd.venues.common.commissions import Commission
from copyd.venues.common.facts import (
    PARTIALLY_FILLED,
    STREAM,
    TERMINAL_STATUS,
    TRADE,
    AccountFunding,
    AccountLeverage,
    AccountPosition,
    AccountSnapshot,
    ExternalFill,
    Malformed,
    OrphanFill,
    StreamGap,
)
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.limits import VenueClock
from copyd.venues.common.sessions import Line, Sessions
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Reads, Settings

AccountEvent = ExternalFill | OrphanFill | AccountFunding | AccountPosition | AccountLeverage | StreamGap
#: An account that is not listened to by then is said to be late; its connections go on trying.
LISTEN_S = 30.0


class AccountSetup(Activation):
    """Activation and snapshots through ``Reads``."""

    def __init__(
        self, *, reads: Reads, instruments: Instruments, clock: Callable[[], int], venue_clock: VenueClock,
    ) -> None:
        super().__init__(instruments, clock)
        self.reads, self.venue_clock = reads, venue_clock

    async def open(self, timeout_s: float = 10.0) -> None:
        """Nothing to open: all goes over REST."""

    async def close(self) -> None:
        pass

    async def _standing(self, key: Key) -> tuple[bool, bool]:
        return await self.reads.hedge_mode(key), True

    async def _set_mode(self, key: Key, hedge: bool) -> None:
        await self.reads.set_hedge(key, hedge)

    async def _settings(self, key: Key, instrument: Instrument) -> Settings:
        return await self.reads.settings(key, instrument)

    async def _set_margin(self, key: Key, instrument: Instrument, isolated: bool, leverage: int) -> None:
        await self.reads.set_margin(key, instrument, isolated, leverage)

    async def _set_leverage(self, key: Key, instrument: Instrument, leverage: int, isolated: bool) -> None:
        await self.reads.set_leverage(key, instrument, leverage, isolated)

    async def snapshot(self, account: int, key: Key) -> AccountSnapshot:
        """Balance and positions; ``VenueUnavailable`` without an answer, ``RestError`` for a refusal."""
        try:
            books = await tried(lambda: self.reads.books(key))
        except ValueError as problem:
            self.malformed += 1
            raise VenueUnavailable(f"account snapshot is unreadable: {problem}") from None
        now = self.clock()
        return AccountSnapshot(
            account, books.wallet_e8, books.available_e8, books.equity_e8, books.positions, now + self.venue_clock.offset_ns, now)


class StreamStats(msgspec.Struct):
    """Counters since the start."""

    trades: int = 0
    updates: int = 0
    external: int = 0
    balances: int = 0
    skipped: int = 0
    malformed: int = 0
    gaps: int = 0
    last_malformed: str = ""


class FollowerStreams:
    """What the followers' private connections say. Rows of ours go out in batches, once per turn of the loop.

    ``is_known``: whether an order of ours is in the tables. ``commission(amount, asset, instrument)``: what
    was paid, None while it cannot be converted. ``is_hedge``: whether an account keeps a position per side.
    ``on_shut_out(account, problem)``: the venue refuses an account for good after whoever added it was answered; said once.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        instruments: Instruments,
        clock: Callable[[], int],
        site_tag: str,
        on_reports: Callable[[ReportBatch, int], None],
        on_event: Callable[[AccountEvent], None],
        is_known: Callable[[bytes], bool],
        commission: Callable[[str, str, int], Commission | None],
        is_hedge: Callable[[int], bool],
        on_shut_out: Callable[[int, str], None] = lambda account, problem: None,
    ) -> None:
        self.sessions, self.instruments, self.clock, self.site_tag = sessions, instruments, clock, site_tag
        self.on_reports, self.on_event, self.is_known = on_reports, on_event, is_known
        self.commission, self.is_hedge, self.on_shut_out = commission, is_hedge, on_shut_out
        self.stats = StreamStats()
        self._assets = {instrument.margin_asset for instrument in instruments}
        self._batch = ReportBatch()
        self._due = False
        self._ts_recv = 0
        self._waiting: dict[int, list[asyncio.Future[str]]] = {}
        self._listened: set[int] = set()
        self._answered: set[int] = set()  # whoever added them was told how that went
        self._shut_out: set[int] = set()  # that the venue refuses them was said

    # --- life ---------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """The connections are the gateway's to open."""

    async def stop(self) -> None:
        self._flush()

    @property
    def accounts(self) -> int:
        return len(self._listened)

    async def add_many(
        self,
        accounts: Sequence[tuple[int, Key]],
        *,
        concurrency: int = 32,
        on_done: Callable[[int, str], None] = lambda account, problem: None,
    ) -> None:
        """Wait until many are listened to; ``on_done(account, problem)`` as each is, or is not yet (``problem`` not empty).

        Connections open in the venue's pace, which may take long; who is late is heard later, and that ends in a ``StreamGap``.
        """
        loop = asyncio.get_running_loop()

        async def one(account: int, key: Key) -> None:
            self._shut_out.discard(account)
            self.sessions.add(account, key)
            lines = self.sessions.lines(account)
            final = next((line.problem for line in lines if line.final), "")  # refused before it was added here
            if final:
                self._shut_out.add(account)
            if final or self._listens(account):
                self._answered.add(account)
                on_done(account, final)
                return
            waiting: asyncio.Future[str] = loop.create_future()
            self._waiting.setdefault(account, []).append(waiting)
            try:
                problem = await asyncio.wait_for(waiting, LISTEN_S)
            except TimeoutError:
                lines = self.sessions.lines(account)
                told = next((line.problem or line.link.last_error for line in lines), "") or "no answer"
                problem = f"not listened to yet: {told}"
            self._answered.add(account)
            on_done(account, problem)

        await asyncio.gather(*(one(account, key) for account, key in accounts))

    async def remove(self, account: int) -> None:
        """Stop listening (plan stopped, key revoked)."""
        for known in (self._listened, self._answered, self._shut_out):
            known.discard(account)
        await self.sessions.remove(account)

    def _listens(self, account: int) -> bool:
        lines = [line for line in self.sessions.lines(account) if line.channel.events]
        return bool(lines) and all(line.open for line in lines)

    def on_ready(self, line: Line) -> None:
        """A line serves. After a break events may be missing: that is said once events flow again."""
        if not line.channel.events or not self._listens(line.account):
            return
        again = line.account in self._listened
        self._listened.add(line.account)
        self._shut_out.discard(line.account)
        waiting = self._waiting.pop(line.account, [])
        told = False
        for future in waiting:
            if not future.done():
                future.set_result("")
                self._answered.add(line.account)
                told = True
        if not told and (again or line.connects):
            self.stats.gaps += 1
            self.on_event(StreamGap(line.account, "resubscribed" if again else "listening late"))

    def on_refused(self, account: int, problem: str, final: bool) -> None:
        """The venue does not let an account in; ``final``: asking again does not mend it."""
        if not final:
            return
        told = False
        for future in self._waiting.pop(account, []):
            if not future.done():
                future.set_result(problem)
                self._answered.add(account)
                told = True
        if not told and account in self._answered and account not in self._shut_out:
            self.on_shut_out(account, problem)
        if account in self._answered:  # each of its connections is refused, and that is one thing to be told
            self._shut_out.add(account)

    # --- events -------------------------------------------------------------------------------------------------------
    def on_told(self, line: Line, told: t.Told) -> None:
        """One thing the venue said on an account's connection."""
        account = line.account
        match told:
            case t.TradeTold():
                try:
                    self._trade(account, told)
                except (ValueError, OverflowError) as problem:  # a commission that is no amount
                    self._unreadable(account, str(problem))
            case t.OrderTold():
                self._order(told)
            case t.WalletTold():
                if told.asset in self._assets:
                    self.stats.balances += 1
                    self._row()
                    self._batch.append_balance(account, told.wallet_e8, told.ts_event)
            case t.FundingTold():
                self.on_event(AccountFunding(account, told.instrument, told.amount_e8, told.ts_event, self.clock(), told.id))
            case t.LeverageTold():
                self.on_event(AccountLeverage(account, told.instrument, told.leverage, told.ts_event, self.clock()))
            case t.PositionTold():
                row = told.position
                self.on_event(
                    AccountPosition(account, row.instrument, row.position_side, row.qty, row.ts_event, self.clock()))
                if row.leverage:
                    self.on_event(AccountLeverage(account, row.instrument, row.leverage, row.ts_event, self.clock()))
            case t.Ending():
                self.stats.gaps += 1
                self.on_event(StreamGap(account, told.reason))
            case Malformed():
                self._unreadable(account, told.why)
            case _:
                self.stats.skipped += 1

    def _unreadable(self, account: int, why: str) -> None:
        """What was said is lost: the account's truth has to be read again."""
        self.stats.malformed += 1
        self.stats.last_malformed = why
        self.stats.gaps += 1
        self.on_event(StreamGap(account, "unreadable event"))

    def _order(self, told: t.OrderTold) -> None:
        cid = told.cid if told.client_order_id.startswith(self.site_tag) else None
        if cid is None:
            self.stats.skipped += 1
            return
        self.stats.updates += 1
        self._row()
        self._batch.append(
            STREAM, told.status, cid, told.cum_qty, told.cost_e8, venue_order_id=told.venue_order_id, ts_event=told.ts_event)

    def _trade(self, account: int, told: t.TradeTold) -> None:
        one, order = told.execution, told.order
        cid = told.cid if one.client_order_id.startswith(self.site_tag) else None
        if cid is None:
            if not told.thin:
                self.stats.external += 1
                self.on_event(
                    ExternalFill(
                        account, one.instrument, self._side_of(account, one), one.qty * one.side, one.px, one.exec_id,
                        one.cause or "manual", one.client_order_id, one.ts_event, self.clock()))
            return
        if not self.is_known(cid):
            # It bears our tag and stands in no table: of a journal that was lost, or another daemon's.
            if not told.thin:
                self.on_event(
                    OrphanFill(
                        account, one.instrument, self._side_of(account, one), one.qty * one.side, one.px, one.exec_id, cid,
                        one.ts_event))
            return
        self.stats.trades += 1
        status, cum, cost = (order.status, order.cum_qty, order.cost_e8) if order is not None else (PARTIALLY_FILLED, 0, 0)
        fee = None if told.thin else self.commission(told.fee, told.fee_asset, one.instrument)
        self._row()
        if fee is None:  # what it cost is not known yet: told as a fill only, the execution follows or is asked for later
            if cum or status in TERMINAL_STATUS:
                self._batch.append(STREAM, status, cid, cum, cost, venue_order_id=one.order_id, ts_event=one.ts_event)
            return
        # Without the sum of what has filled it says nothing about the order's end. It has filled by this execution at least:
        # that has to be held before a fee is taken out of it.
        state = status if cum else PARTIALLY_FILLED
        cum = cum or (one.qty if fee.base else 0)
        self._batch.append(
            TRADE, state, cid, cum, cost, one.qty, one.px, fee.amount, one.exec_id, one.order_id, one.ts_event,
            fee_base=fee.base)

    def _side_of(self, account: int, one: Execution) -> int:
        """The position side of an execution; where the venue names none, told by whether it closed something."""
        if one.position_side != UNKNOWN_SIDE:
            return one.position_side
        if not self.is_hedge(account):
            return 0
        return 1 if (one.side > 0) is not one.realised else 2

    def _row(self) -> None:
        """Before each row: note when the batch began and see that it is delivered when the loop has read its fill."""
        if not self._due:
            self._due = True
            self._ts_recv = self.clock()
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        if self._batch.count:
            batch, self._batch = self._batch, ReportBatch()
            self.on_reports(batch, self._ts_recv)
