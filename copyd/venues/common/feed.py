"""A leader's account and the market of a session venue, as ordered facts (semantics 10-12, 16).

What is to be believed about a leader, and in which order, is decided by ``copyd.core.leader_stream``; here are the connection,
the timers and the questions to the venue that it asks for.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from copyd.core import leader_stream as ls
from copyd.core.leader_stream import Action, Ask, AskKind, Execution, LeaderStream, Terms
from copyd.errors import VenueUnavailable
from copyd.venues.common import told as t
from copyd.venues.common.connection import ConnectPace, Link, Session, watched
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import (
    MS_NS,
    NEW,
    LeaderEquity,
    LeaderEvent,
    LeaderLeverage,
    LeaderMarginCall,
    LeaderPosition,
    LeaderSync,
    LeaderWallet,
    Malformed,
    Mark,
    Quote,
    leader_fill_of,
)
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.limits import Bans, VenueClock
from copyd.venues.common.rest import RestError
from copyd.venues.common.sessions import Line, Sessions
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Channel, Reads, Wire

#: Causes of a wallet's change that the daemon takes for money paid in or taken out.
PAID_IN, TAKEN_OUT = "DEPOSIT", "WITHDRAW"


class FeedStats(msgspec.Struct):
    """Counters since the start."""

    frames: int = 0
    fills: int = 0
    thin: int = 0
    duplicates: int = 0
    reordered: int = 0
    backfilled: int = 0
    unlisted: int = 0
    malformed: int = 0
    reconnects: int = 0
    syncs: int = 0
    poll_errors: int = 0
    last_malformed: str = ""


class LeaderFeed:
    """One leader's account. Every fact goes to ``on_event`` in the order it is to be believed."""

    def __init__(
        self,
        *,
        leader: int,
        key: Key,
        wire: Wire,
        channels: Callable[[Key], Sequence[Channel]],
        prepare: Callable[[Key], Awaitable[Any]] | None,
        reads: Reads,
        instruments: Instruments,
        contract: VenueContract,
        clock: Callable[[], int],
        venue_clock: VenueClock,
        bans: Bans,
        paces: Mapping[str, ConnectPace],
        on_event: Callable[[LeaderEvent], None],
        equity_poll_s: float = 5.0,
        position_poll_s: float = 10.0,
        seed: int = 0,
    ) -> None:
        """``channels``: those of an account that carry events; ``prepare``: see ``Sessions``."""
        self.leader, self.key, self.reads = leader, key, reads
        self.instruments, self.contract, self.clock, self.venue_clock = instruments, contract, clock, venue_clock
        self.on_event = on_event
        terms = Terms(
            position_poll_ns=int(position_poll_s * 1e9), equity_poll_ns=int(equity_poll_s * 1e9),
            disagree_ns=contract.read_lag_ms * MS_NS, page_max=contract.backfill_page_max,
        )  # fmt: skip
        self.stream = LeaderStream([instrument.index for instrument in instruments], terms)
        self._stats = FeedStats()
        self._sessions = Sessions(
            wire=wire, channels=channels, contract=contract, clock=clock, venue_clock=venue_clock, bans=bans,
            on_told=self._on_told, on_ready=self._on_ready, on_lost=self._on_lost,
            on_oversized=lambda line: self._do(self.stream.oversized(self.clock())), prepare=prepare,
            paces=paces, name=f"leader-{leader}", seed=seed, urgent=True,
        )  # fmt: skip
        self._generations: dict[Session, int] = {}
        self._opened = 0
        self._handing_on = False
        self._queue: deque[Action] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = ls.NEVER
        self._first_sync = asyncio.Event()
        self._questions: set[asyncio.Task[None]] = set()

    @property
    def synced(self) -> bool:
        """A snapshot and every execution up to it were handed on, and the stream runs."""
        return self.stream.synced

    @property
    def stats(self) -> FeedStats:
        """What was counted here and by the stream."""
        stats, counted = self._stats, self.stream.counters
        stats.fills, stats.backfilled = counted.executions, counted.backfilled
        stats.duplicates, stats.reordered, stats.syncs = counted.duplicates, counted.reordered, counted.syncs
        return stats

    # --- life ---------------------------------------------------------------------------------------------------------
    async def start(
        self,
        watermarks: Mapping[int, int] | None = None,
        timeout_s: float = 10.0,
        *,
        seen: Sequence[tuple[int, int]] = (),
        positions: Mapping[tuple[int, int], int] | None = None,
    ) -> None:
        """Connect and sync. ``watermarks``: execution id per instrument behind which back-fill begins; ``seen``: (instrument,
        execution id) handed on beyond it; ``positions``: the fold they led to, by (instrument, position side)."""
        self.stream.resume(dict(watermarks or {}), seen, None if positions is None else dict(positions))
        self._sessions.start()
        self._sessions.add(self.leader, self.key)
        try:
            async with asyncio.timeout(timeout_s):
                await self._read_mode()
                await self._first_sync.wait()
        except TimeoutError:
            lines = self._sessions.lines(self.leader)
            told = next((line.problem or line.link.last_error for line in lines if line.problem or line.link.last_error), "")
            await self.stop()
            problem = told or self._stats.last_malformed or "no snapshot"
            raise VenueUnavailable(f"leader {self.leader} did not sync in {timeout_s:g} s: {problem}") from None

    async def stop(self) -> None:
        """Nothing is handed on any more."""
        self.stream.stop()
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._questions:
            task.cancel()
        await asyncio.gather(*self._questions, return_exceptions=True)
        await self._sessions.stop()

    def request_sync(self, reason: str) -> None:
        """The fold and the venue disagree: hold openings, read positions and executions again."""
        self._do(self.stream.request_sync(self.clock(), reason))

    # --- connection ---------------------------------------------------------------------------------------------------
    def _on_ready(self, line: Line) -> None:
        if line.connects > 1:
            self._stats.reconnects += 1
        self._opened += 1
        assert line.session is not None
        self._generations[line.session] = self._opened
        self._do(self.stream.opened(self.clock(), self._opened, bool(line.link.old)))

    def _on_lost(self, line: Line, session: Session, was_ready: bool) -> None:
        generation = self._generations.pop(session, 0)
        if generation:
            self._do(self.stream.lost(self.clock(), generation, session.reason))

    # --- stream -------------------------------------------------------------------------------------------------------
    def _on_told(self, line: Line, told: t.Told, payload: bytes, ts_recv: int) -> None:
        self._stats.frames += 1
        generation = next((n for session, n in self._generations.items() if session is line.session), 0)
        fact = self._fact(told, payload, ts_recv)
        if fact is not None:
            self._do(self.stream.event(ts_recv, generation, fact))

    def _fact(self, told: t.Told, payload: bytes, ts_recv: int) -> Any:
        """As the stream takes it; None for what it does not need."""
        match told:
            case t.TradeTold():
                execution = told.execution
                if told.thin:
                    self._stats.thin += 1
                    if not execution.order_qty:
                        return None  # how large its order is decides for some plans: the full message does
                execution.raw = execution.raw or payload
                execution.ts_recv = ts_recv
                return execution
            case t.OrderTold() if told.status == NEW and not told.cum_qty:
                return ls.OrderNew(told.instrument, told.venue_order_id)
            case t.PositionTold():
                # On spot a commission may be taken from what was bought: a holding never adds up to its executions exactly, and
                # only the periodic comparison, behind which the holding counts, may say so.
                return None if self.instruments[told.position.instrument].spot else told.position
            case t.LeverageTold():
                return ls.Leverage(told.instrument, told.leverage, told.ts_event, ts_recv, payload)
            case t.WalletTold():
                cause = (PAID_IN if told.change_e8 > 0 else TAKEN_OUT) if told.flow else told.cause
                return ls.Wallet(told.asset, told.wallet_e8, told.change_e8, cause, told.ts_event, ts_recv, payload)
            case t.MarginCallTold():
                return ls.MarginCall(told.ts_event, ts_recv, payload)
            case t.Ending():
                return ls.Expired(told.reason)
            case Malformed():
                # What it said is lost, and it may have been a close: positions and executions are read again.
                self._stats.malformed += 1
                self._stats.last_malformed = told.why
                self._do(self.stream.unreadable(ts_recv, ""))
            case t.Unused():
                self._stats.unlisted += 1
            case _:
                pass
        return None

    # --- what the stream wants done -------------------------------------------------------------------------------------
    def _do(self, actions: Sequence[Action]) -> None:
        """One after the other; what an event brings about while it is handed on comes behind what is already due."""
        if self._handing_on:
            self._queue.extend(actions)
            return
        self._handing_on = True
        try:
            for action in actions:
                self._act(action)
            while self._queue:
                self._act(self._queue.popleft())
        finally:
            self._handing_on = False
        due = self.stream.next_due()
        if due is not None and due < self._timer_ns:
            self._set_timer(due)

    def _set_timer(self, due: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = due
        delay = max(0, due - self.clock()) / 1e9
        self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_ns = None, ls.NEVER
        self._do(self.stream.tick(self.clock()))

    def _act(self, action: Action) -> None:
        leader = self.leader
        if isinstance(action, Execution):
            self.on_event(leader_fill_of(action, leader))
        elif isinstance(action, ls.Position):
            self.on_event(self._position(action))
        elif isinstance(action, Ask):
            task = watched(asyncio.get_running_loop().create_task(self._answer(action), name=f"leader-{leader}-ask"))
            self._questions.add(task)
            task.add_done_callback(self._questions.discard)
        elif isinstance(action, ls.Sync):
            positions = tuple(self._position(row) for row in action.positions)
            self.on_event(LeaderSync(leader, action.synced, action.reason, positions, action.ts_recv))
            if action.synced:
                self._first_sync.set()
        elif isinstance(action, ls.Equity):
            self.on_event(
                LeaderEquity(leader, action.equity_e8, action.wallet_e8, action.available_e8, action.ts_event, action.ts_recv))
        elif isinstance(action, ls.Leverage):
            self.on_event(
                LeaderLeverage(leader, action.instrument, action.leverage, action.ts_event, action.ts_recv, action.raw))
        elif isinstance(action, ls.Wallet):
            self.on_event(
                LeaderWallet(leader, action.asset, action.wallet_e8, action.change_e8, action.cause, action.ts_event,
                             action.ts_recv, action.raw))  # fmt: skip
        elif isinstance(action, ls.MarginCall):
            self.on_event(LeaderMarginCall(leader, action.ts_event, action.ts_recv, action.raw))
        else:
            for line in self._sessions.lines(leader):
                line.link.renew()

    def _position(self, row: ls.Position) -> LeaderPosition:
        return LeaderPosition(
            self.leader, row.instrument, row.position_side, row.qty, row.source, row.leverage, row.isolated, row.ts_event,
            row.ts_recv, row.raw,
        )  # fmt: skip

    # --- questions ------------------------------------------------------------------------------------------------------
    async def _answer(self, ask: Ask) -> None:
        try:
            rows = await self._read(ask)
        except (VenueUnavailable, RestError, ValueError, KeyError) as problem:
            self._stats.poll_errors += 1
            self._stats.last_malformed = str(problem)[:200]
            self._do(self.stream.failed(self.clock(), ask.id))
        else:
            self._do(self.stream.answer(self.clock(), ask.id, rows))

    async def _read(self, ask: Ask) -> Sequence[Any]:
        kind = ask.kind
        if kind == AskKind.POSITIONS:
            return await self.reads.positions(self.key)
        if kind == AskKind.EQUITY:
            return [await self._read_equity()]
        instrument = self.instruments[ask.instrument]
        if kind == AskKind.FILLS:
            return self._past(await self.reads.trades_from(self.key, instrument, ask.from_id, ask.limit), ask.instrument)
        if kind == AskKind.NEWEST:
            newest = await self.reads.newest_trade(self.key, instrument)
            return self._past([] if newest is None else [newest], ask.instrument)
        if kind == AskKind.LEVERAGE:
            now = self.clock()
            leverage = await self.reads.leverage(self.key, instrument)
            return [ls.Leverage(ask.instrument, leverage, now, now)] if leverage else []
        order = await self.reads.order(self.key, instrument, order_id=ask.order_id)
        if order is None:
            return []
        return [ls.OrderFacts(ask.order_id, order.client_order_id, order.order_qty, order.reduce_only)]

    def _past(self, trades: Sequence[t.TradeTold], instrument: int) -> list[Execution]:
        now = self.clock()
        found = []
        for told in trades:
            execution = told.execution
            # Every row counts for the size of the page: one of another symbol would be an answer to another question.
            if execution.instrument != instrument:
                raise ValueError("the list of executions holds another instrument")
            execution.live, execution.ts_recv = False, now
            found.append(execution)
        return found

    async def _read_equity(self) -> ls.Equity:
        asked = self.clock()  # what is paid in or taken out later is not in the answer, or only perhaps
        books = await self.reads.books(self.key)
        return ls.Equity(
            books.equity_e8, books.wallet_e8, books.available_e8, asked + self.venue_clock.offset_ns, self.clock())

    async def _read_mode(self) -> None:
        """A fill without a position side never decides on a hedge-mode leader (semantics 11): which mode it is."""
        try:
            self.stream.mode(await self.reads.hedge_mode(self.key))
        except (VenueUnavailable, RestError, ValueError):
            self._stats.poll_errors += 1  # then it is learned from what he holds


class MarketFeed:
    """Best bid and ask and mark price of every instrument, the latest per socket read."""

    def __init__(
        self,
        *,
        wire: Wire,
        channels: Sequence[Channel],
        instruments: Instruments,
        contract: VenueContract,
        clock: Callable[[], int],
        on_quotes: Callable[[list[Quote]], None],
        on_marks: Callable[[list[Mark]], None],
        pace: ConnectPace,
        seed: int = 0,
    ) -> None:
        self.pace = pace
        self.wire, self.instruments, self.contract, self.clock = wire, instruments, contract, clock
        self.on_quotes, self.on_marks = on_quotes, on_marks
        self.stats = FeedStats()
        self.quote_ns = {instrument.index: 0 for instrument in instruments}
        self.mark_ns = {instrument.index: 0 for instrument in instruments}
        self._quotes: dict[int, Quote] = {}
        self._marks: dict[int, Mark] = {}
        self._told_at: dict[int, int] = {}  # venue time of the last quote: an older one never replaces it
        self._due = False
        self._changed = asyncio.Event()
        rng = random.Random(seed)
        self._links = [(self._link(channel, rng), channel) for channel in channels]
        self._pings: asyncio.Task[None] | None = None

    def _link(self, channel: Channel, rng: random.Random) -> Link:
        async def address() -> str:
            await self.pace.turn(True)
            return channel.url

        def opened(session: Session) -> None:
            self._told_at.clear()
            if session.link.connects > 1:
                self.stats.reconnects += 1
            for _, message in channel.subscriptions:
                session.send_text(message)

        contract = self.contract
        make: type[Link] = getattr(self.wire, "link", Link)
        return make(
            f"market-{channel.name}", address, on_frame=self._on_frame, on_open=opened, on_lost=lambda session: None,
            rng=random.Random(rng.random()),
            life_s=contract.connection_life_ms / 1000 if contract.connection_life_ms else 30 * 86_400.0,
            frame_bytes_max=contract.frame_bytes_max, ping_idle_s=20.0, paced=True,
        )  # fmt: skip

    async def start(self, timeout_s: float = 10.0) -> None:
        """Connect; returns when every instrument has a quote and a mark, raises when one has not in time."""
        for link, _ in self._links:
            link.start()
        loop = asyncio.get_running_loop()
        self._pings = watched(loop.create_task(self._ping(), name="market-pings"))
        deadline = loop.time() + timeout_s
        while not (all(self.quote_ns.values()) and all(self.mark_ns.values())):
            left = deadline - loop.time()
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(left, 0))
            except TimeoutError:
                lacking = [i.symbol for i in self.instruments if not (self.quote_ns[i.index] and self.mark_ns[i.index])]
                problem = next((link.last_error for link, _ in self._links if link.last_error), "") or (
                    self.stats.last_malformed or "streams are silent")
                await self.stop()
                raise VenueUnavailable(f"no quote or mark for {', '.join(lacking)} in {timeout_s:g} s: {problem}") from None

    async def stop(self) -> None:
        if self._pings is not None:
            self._pings.cancel()
            await asyncio.gather(self._pings, return_exceptions=True)
        await asyncio.gather(*(link.stop() for link, _ in self._links))

    async def _ping(self) -> None:
        """Texts that keep the connections open where the venue wants such."""
        every = min((channel.ping_every_ms for _, channel in self._links if channel.ping), default=0) / 1000
        while every:
            await asyncio.sleep(every)
            for link, channel in self._links:
                if channel.ping and link.session is not None and link.session.open:
                    link.session.send_text(channel.ping)

    def age_ns(self, instrument: int) -> int:
        """How long ago the last best bid and ask of an instrument was received."""
        return self.clock() - self.quote_ns[instrument]

    def _on_frame(self, session: Session, payload: bytes) -> None:
        self.stats.frames += 1
        ts_recv = self.clock()
        for told in self.wire.read_market(payload, ts_recv):
            if isinstance(told, Quote):
                self._quote(told, ts_recv)
            elif isinstance(told, Mark):
                self._marks[told.instrument] = told
                self.mark_ns[told.instrument] = ts_recv
            elif isinstance(told, Malformed):
                self.stats.malformed += 1
                self.stats.last_malformed = told.why
            else:
                self.stats.unlisted += 1
        if (self._quotes or self._marks) and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _quote(self, quote: Quote, ts_recv: int) -> None:
        if quote.ts_event < self._told_at.get(quote.instrument, 0):
            self.stats.duplicates += 1
            return
        self._told_at[quote.instrument] = quote.ts_event
        self._quotes[quote.instrument] = quote
        self.quote_ns[quote.instrument] = ts_recv

    def _flush(self) -> None:
        self._due = False
        quotes, self._quotes = self._quotes, {}
        marks, self._marks = self._marks, {}
        self._changed.set()
        if quotes:
            self.on_quotes(list(quotes.values()))
        if marks:
            self.on_marks(list(marks.values()))
