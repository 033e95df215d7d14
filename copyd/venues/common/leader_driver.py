"""What every leader feed and market feed does the same, whatever its venue's connections look like.

``LeaderDriver`` carries out what ``copyd.core.leader_stream`` wants done: facts handed on one after the other, timers set,
questions asked of the venue. ``MarketTop`` keeps the latest quote and mark of every instrument and hands them on once per
turn of the loop. A venue's feed adds the connections and reads the messages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from copyd.core import leader_stream as ls
from copyd.core.leader_stream import Action, Ask, Execution, LeaderStream, Terms
from copyd.errors import VenueUnavailable
from copyd.venues.common.connection import Session, watched
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import (
    MS_NS,
    LeaderEquity,
    LeaderEvent,
    LeaderLeverage,
    LeaderMarginCall,
    LeaderPosition,
    LeaderSync,
    LeaderWallet,
    Mark,
    Quote,
    leader_fill_of,
)
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.rest import RestError


class FeedStats(msgspec.Struct):
    """Counters since the start. ``thin``: executions told in short before in full; ``foreign_symbols``: messages about
    instruments that are not copied."""

    frames: int = 0
    fills: int = 0
    thin: int = 0
    duplicates: int = 0
    reordered: int = 0
    backfilled: int = 0
    unlisted: int = 0
    foreign_symbols: int = 0
    malformed: int = 0
    reconnects: int = 0
    syncs: int = 0
    poll_errors: int = 0
    last_malformed: str = ""


class LeaderDriver:
    """One leader's account. Every fact goes to ``on_event`` in the order it is to be believed."""

    def __init__(
        self,
        *,
        leader: int,
        instruments: Instruments,
        contract: VenueContract,
        clock: Callable[[], int],
        on_event: Callable[[LeaderEvent], None],
        equity_poll_s: float,
        position_poll_s: float,
    ) -> None:
        self.leader, self.instruments, self.contract = leader, instruments, contract
        self.clock, self.on_event = clock, on_event
        terms = Terms(
            position_poll_ns=int(position_poll_s * 1e9), equity_poll_ns=int(equity_poll_s * 1e9),
            disagree_ns=contract.read_lag_ms * MS_NS, page_max=contract.backfill_page_max,
        )  # fmt: skip
        self.stream = LeaderStream([instrument.index for instrument in instruments], terms)
        self._stats = FeedStats()
        self._generations: dict[Session, int] = {}
        self._opened = 0
        self._handing_on = False
        self._queue: deque[Action] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = ls.NEVER
        self._first_sync = asyncio.Event()
        self._questions: set[asyncio.Task[None]] = set()

    # --- what a venue's feed adds ---------------------------------------------------------------------------------------
    def _connect(self) -> None:
        """Begin to open the connections."""
        raise NotImplementedError

    async def _disconnect(self) -> None:
        """Close them, and end what keeps them open."""
        raise NotImplementedError

    def _connection_problem(self) -> str:
        """What keeps them from opening, as far as it is known."""
        raise NotImplementedError

    def _renew(self) -> None:
        """Open fresh connections in place of those there are."""
        raise NotImplementedError

    async def _hedge_mode(self) -> bool:
        """Whether the account keeps a position per side."""
        raise NotImplementedError

    async def _read(self, ask: Ask) -> Sequence[Any]:
        """The venue's answer to a question of the stream. VenueUnavailable, RestError, ValueError, KeyError: there is none."""
        raise NotImplementedError

    # --- life -----------------------------------------------------------------------------------------------------------
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

    async def start(
        self,
        watermarks: Mapping[int, int] | None = None,
        timeout_s: float = 10.0,
        *,
        seen: Sequence[tuple[int, int]] = (),
        positions: Mapping[tuple[int, int], int] | None = None,
    ) -> None:
        """Connect and sync; ``VenueUnavailable`` when that takes longer than ``timeout_s``.

        ``watermarks``: execution id per instrument behind which back-fill begins; ``seen``: (instrument, execution id) handed
        on beyond it; ``positions``: the fold they led to, by (instrument, position side).
        """
        self.stream.resume(dict(watermarks or {}), seen, None if positions is None else dict(positions))
        self._connect()
        try:
            async with asyncio.timeout(timeout_s):
                await self._read_mode()
                await self._first_sync.wait()
        except TimeoutError:
            problem = self._connection_problem() or self._stats.last_malformed or "no snapshot"
            await self.stop()
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
        await self._disconnect()

    def request_sync(self, reason: str) -> None:
        """The fold and the venue disagree: hold openings, read positions and executions again."""
        self._do(self.stream.request_sync(self.clock(), reason))

    async def _read_mode(self) -> None:
        """A fill without a position side never decides on a hedge-mode leader (semantics 11): which mode it is."""
        try:
            self.stream.mode(await self._hedge_mode())
        except (VenueUnavailable, RestError, ValueError):
            self._stats.poll_errors += 1  # then it is learned from what he holds

    # --- what the connections tell ----------------------------------------------------------------------------------------
    def _session_opened(self, session: Session, again: bool, replaces: bool) -> None:
        """``again``: there was one before it; ``replaces``: the one before it still runs beside it."""
        self._stats.reconnects += again
        self._opened += 1
        self._generations[session] = self._opened
        self._do(self.stream.opened(self.clock(), self._opened, replaces))

    def _session_lost(self, session: Session) -> None:
        """One that never opened is none that the stream would miss."""
        self._do(self.stream.lost(self.clock(), self._generations.pop(session, 0), session.reason))

    def _unreadable(self, now: int, why: str) -> None:
        """What it said is lost, and it may have been a close: positions and executions are read again."""
        self._stats.malformed += 1
        self._stats.last_malformed = why
        self._do(self.stream.unreadable(now, ""))

    # --- what the stream wants done ---------------------------------------------------------------------------------------
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
            self._renew()

    def _position(self, row: ls.Position) -> LeaderPosition:
        return LeaderPosition(
            self.leader, row.instrument, row.position_side, row.qty, row.source, row.leverage, row.isolated, row.ts_event,
            row.ts_recv, row.raw,
        )  # fmt: skip

    async def _answer(self, ask: Ask) -> None:
        try:
            rows = await self._read(ask)
        except (VenueUnavailable, RestError, ValueError, KeyError) as problem:
            self._stats.poll_errors += 1
            self._stats.last_malformed = str(problem)[:200]
            self._do(self.stream.failed(self.clock(), ask.id))
        else:
            self._do(self.stream.answer(self.clock(), ask.id, rows))


class MarketTop:
    """The latest quote and mark of every instrument, handed on once per turn of the loop."""

    def __init__(
        self,
        *,
        instruments: Instruments,
        clock: Callable[[], int],
        on_quotes: Callable[[list[Quote]], None],
        on_marks: Callable[[list[Mark]], None],
    ) -> None:
        self.instruments, self.clock = instruments, clock
        self.on_quotes, self.on_marks = on_quotes, on_marks
        self.stats = FeedStats()
        self.quote_ns = {instrument.index: 0 for instrument in instruments}
        self.mark_ns = {instrument.index: 0 for instrument in instruments}
        self._quotes: dict[int, Quote] = {}
        self._marks: dict[int, Mark] = {}
        self._due = False
        self._changed = asyncio.Event()

    # --- what a venue's feed adds ---------------------------------------------------------------------------------------
    def _connect(self) -> None:
        """Begin to open the connections."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Close them."""
        raise NotImplementedError

    def _connection_problem(self) -> str:
        """What keeps them from opening, as far as it is known."""
        raise NotImplementedError

    # --- the same for all -------------------------------------------------------------------------------------------------
    async def start(self, timeout_s: float = 10.0) -> None:
        """Connect; returns when every instrument has a quote and a mark, raises when one has not in time."""
        self._connect()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not (all(self.quote_ns.values()) and all(self.mark_ns.values())):
            left = deadline - loop.time()
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(left, 0))
            except TimeoutError:
                lacking = [i.symbol for i in self.instruments if not (self.quote_ns[i.index] and self.mark_ns[i.index])]
                problem = self._connection_problem() or self.stats.last_malformed or "streams are silent"
                await self.stop()
                raise VenueUnavailable(f"no quote or mark for {', '.join(lacking)} in {timeout_s:g} s: {problem}") from None

    def age_ns(self, instrument: int) -> int:
        """How long ago the last best bid and ask of an instrument was received."""
        return self.clock() - self.quote_ns[instrument]

    def _note_quote(self, quote: Quote) -> None:
        self._quotes[quote.instrument] = quote
        self.quote_ns[quote.instrument] = quote.ts_recv

    def _note_mark(self, mark: Mark) -> None:
        self._marks[mark.instrument] = mark
        self.mark_ns[mark.instrument] = mark.ts_recv

    def _malformed(self, why: str) -> None:
        self.stats.malformed += 1
        self.stats.last_malformed = why

    def _see_flushed(self) -> None:
        """What was noted goes out when the loop has read its fill."""
        if (self._quotes or self._marks) and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        quotes, self._quotes = self._quotes, {}
        marks, self._marks = self._marks, {}
        self._changed.set()
        if quotes:
            self.on_quotes(list(quotes.values()))
        if marks:
            self.on_marks(list(marks.values()))
