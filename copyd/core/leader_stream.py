"""The leader's stream as ordered truth: each execution once, in order, beside a position that it adds up to (semantics 9-12).

One object per leader account. It is told what came over the stream, what a question was answered with and what time it is;
it says what to hand to the engine, what to ask the venue and when to open another connection. It performs no I/O.

A leader is *synced* when a snapshot and every execution up to it were handed on and a connection is open. To get there:
buffer the stream, read executions behind the last known id, read positions, read executions again; only when the second
reading finds nothing new, and what was folded before leads to the positions read, do both describe the same moment. An
execution that also came over the stream stays ``live``; the others are back-fill. Live ones at the end of the history are
handed on behind the snapshot, so that they still count as news.

While synced, an execution that agrees with what is known goes on at once. It waits when evidence says that another one
must come first: its order has filled further than was heard, it is reduce-only or realised a profit but would enlarge, it
would turn a hedge-mode side around, or it does not lead to the position pushed at its time. What waits goes on in order of
(venue time, id) as soon as it fits. What does not fit in time means that something is lost: then everything is read again.
The first execution heard of an order that was filled before waits as well, but then goes on: it may be older than our hearing.
Ids below a reading are complete; ids heard on the stream never move that mark, or what is missing between them could not
be found any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

MS = 1_000_000
SECOND = 1_000_000_000
NEVER = 1 << 62

UNKNOWN_SIDE = -1
"""An execution that does not name its position side."""

PUSHES_MAX = 8
HISTORY_MAX = 32
ROUNDS_MAX = 20


class Terms(msgspec.Struct, frozen=True):
    """Waiting times and bounds. Times in ns."""

    reorder_ns: int = 200 * MS
    """An execution whose predecessor has not come waits this long for it."""
    grace_ns: int = SECOND
    """A pushed position may be ahead of its executions for this long."""
    settle_ns: int = 500 * MS
    """A compared position that differs is read again after this; only a second disagreement counts."""
    patience_ns: int = 2 * SECOND
    """Unsynced for longer: executions that pushed positions vouch for are handed on, a reduction must not wait for REST."""
    disagree_ns: int = 10 * SECOND
    """A snapshot that contradicts the fold is believed when it says the same after this (read lag)."""
    position_poll_ns: int = 10 * SECOND
    equity_poll_ns: int = 5 * SECOND
    sweep_ns: int = 300 * SECOND
    """How often executions heard on the stream are compared with the venue's own list."""
    ask_timeout_ns: int = 15 * SECOND
    retry_ns: tuple[int, ...] = (100 * MS, 200 * MS, 500 * MS, SECOND, 2 * SECOND, 5 * SECOND)
    calm_ns: int = 10 * SECOND
    """Synced for this long, the next sync starts at once again."""
    reconnect_ns: int = 30 * SECOND
    """At most one wanted reconnect in this time."""
    overlap_safe_ns: int = SECOND
    """An old connection lost this soon after the new one opened may have taken events with it."""
    page_max: int = 1_000
    buffer_max: int = 100_000
    waiting_max: int = 1_000
    seen_max: int = 20_000
    sweep_at: int = 5_000
    orders_max: int = 10_000
    lookups_max: int = 50


# --- what comes in, and goes on --------------------------------------------------------------------------------------------
class Execution(msgspec.Struct):
    """One execution. ``cum_qty`` 0 = not told; ``realised``: it realised profit or loss, so it reduced something."""

    instrument: int
    position_side: int
    exec_id: int
    order_id: int
    side: int
    qty: int
    px: int
    order_qty: int = 0
    cum_qty: int = 0
    reduce_only: bool = False
    realised: bool = False
    maker: bool = False
    live: bool = True
    client_order_id: str = ""
    cause: str = ""
    ts_event: int = 0
    ts_recv: int = 0
    raw: bytes = b""


class OrderNew(msgspec.Struct):
    """The venue took an order; its executions are counted from here."""

    instrument: int
    order_id: int


class Position(msgspec.Struct):
    """What the venue says is held. ``source``: push, poll or snapshot; leverage 0 = not told."""

    instrument: int
    position_side: int
    qty: int
    ts_event: int
    ts_recv: int = 0
    source: str = "push"
    leverage: int = 0
    isolated: bool = False
    raw: bytes = b""


class Equity(msgspec.Struct):
    """Balances of the leader, 1e-8."""

    equity_e8: int
    wallet_e8: int
    available_e8: int
    ts_event: int
    ts_recv: int = 0


class Leverage(msgspec.Struct):
    """The leader's leverage in one instrument."""

    instrument: int
    leverage: int
    ts_event: int
    ts_recv: int = 0
    raw: bytes = b""


class Wallet(msgspec.Struct):
    """A pushed wallet balance and its cause as the venue names it."""

    asset: str
    wallet_e8: int
    change_e8: int
    cause: str
    ts_event: int
    ts_recv: int = 0
    raw: bytes = b""


class MarginCall(msgspec.Struct):
    """The venue warns the leader."""

    ts_event: int
    ts_recv: int = 0
    raw: bytes = b""


class Expired(msgspec.Struct):
    """The venue has ended the stream though the connection is open."""

    reason: str = "listen key expired"


class OrderFacts(msgspec.Struct):
    """What is known of an order whose executions were found by back-fill."""

    order_id: int
    client_order_id: str
    order_qty: int
    reduce_only: bool = False
    cause: str = ""


# --- what goes out besides -------------------------------------------------------------------------------------------------
class Sync(msgspec.Struct):
    """False: the stream is interrupted. True: ``positions`` and every execution handed on before agree."""

    synced: bool
    reason: str
    positions: tuple[Position, ...]
    ts_recv: int


class AskKind(IntEnum):
    """What the venue is asked; the answer's rows are in brackets."""

    FILLS = 1  # executions of an instrument from an id on, oldest first, at most ``limit`` [Execution]
    NEWEST = 2  # the last execution of an instrument [Execution], none at all []
    POSITIONS = 3  # [Position], flat ones may be left out
    EQUITY = 4  # [Equity]
    LEVERAGE = 5  # of an instrument [Leverage]
    ORDER = 6  # facts of an order [OrderFacts], unknown []


class Ask(NamedTuple):
    """To be asked now; ``answer`` or ``failed`` must be called with its id."""

    id: int
    kind: AskKind
    instrument: int = -1
    from_id: int = 0
    limit: int = 0
    order_id: int = 0


class Reconnect(NamedTuple):
    """Open a new connection beside the old one, which is not to be trusted."""

    reason: str


Action = Execution | Position | Equity | Leverage | Wallet | MarginCall | Sync | Ask | Reconnect


class Counters(msgspec.Struct):
    """What was counted since the start."""

    executions: int = 0
    duplicates: int = 0
    reordered: int = 0  # waited for another one
    late: int = 0  # handed on after a newer one
    backfilled: int = 0
    conflicts: int = 0  # an order's cumulative quantity contradicts what was heard
    sideless: int = 0
    stale_pushes: int = 0
    mismatches: int = 0  # comparisons that disagreed
    overflows: int = 0
    unreadable: int = 0
    oversized: int = 0
    unsynced: int = 0
    syncs: int = 0
    adopted: int = 0  # snapshots believed against the fold
    reread: int = 0  # snapshots not believed
    vouched: int = 0
    failures: int = 0  # questions without an answer
    reconnects: int = 0  # wanted
    sweeps: int = 0


class _Book:
    """One instrument and position side."""

    __slots__ = (
        "based_ts", "deadline", "doubted", "history", "instrument", "last_ts", "n", "pushes", "qty", "side", "unmet", "waiting",
    )  # fmt: skip

    def __init__(self, instrument: int, side: int) -> None:
        self.instrument, self.side = instrument, side
        self.qty = 0
        self.based_ts = 0  # venue time of the position the fold began with: executions up to it are in it
        self.last_ts = 0
        self.n = 0
        self.pushes: list[tuple[int, int]] = []  # (venue time, quantity) by time, then as they came
        self.history: deque[tuple[int, int]] = deque(maxlen=HISTORY_MAX)  # (venue time, signed quantity) handed on
        self.waiting: list[tuple[int, Execution]] = []
        self.deadline = NEVER
        self.doubted = NEVER  # venue time of the first pushed position that the fold has not passed through
        self.unmet = NEVER  # when that becomes a mismatch

    def remaining(self, ts: int, qty: int) -> int | None:
        """What is lacking until the position pushed at ``ts``; None when that is too long ago to say."""
        now = self.qty
        if self.last_ts > ts:
            if len(self.history) == HISTORY_MAX and self.history[0][0] > ts:
                return None
            for at, signed in self.history:
                if at > ts:
                    now -= signed
        return qty - now


class _Run:
    """One sync from its beginning to its end, whatever has to be read again on the way."""

    __slots__ = (
        "asked", "equity", "facts", "floor", "found", "fresh", "late", "leverage", "pending", "phase", "positions", "rounds",
    )  # fmt: skip

    def __init__(self, floor: dict[int, int]) -> None:
        self.floor = floor
        self.found: dict[tuple[int, int], Execution] = {}
        self.fresh: dict[int, None] = {}  # instruments nothing was known of: their position is what the snapshot says
        self.facts: dict[tuple[int, int], OrderFacts | None] = {}
        self.positions: Sequence[Position] = ()
        self.equity: Equity | None = None
        self.leverage: dict[int, tuple[int, Leverage]] = {}  # when it was asked, what it is
        self.asked = 0
        self.late = False
        self.phase = ""
        self.pending = 0
        self.rounds = 0


def _order(execution: Execution) -> tuple[int, int]:
    return execution.ts_event, execution.exec_id


def _unopened(side: int, held: int, event: Execution) -> str:
    """Why an execution on a position of ``held`` lots shows that another one came before it; empty when nothing does."""
    signed = event.qty if event.side > 0 else -event.qty
    after = held + signed
    reduces = held > 0 > signed or held < 0 < signed
    if event.realised and not reduces:
        return "it realised profit but would enlarge the position"
    if event.reduce_only and (not reduces or (after != 0 and (after > 0) != (held > 0))):
        return "it is reduce-only but would open a position"
    if (side == 1 and after < 0) or (side == 2 and after > 0):
        return "it would turn a position side around"
    return ""


NOTHING: list[Action] = []
"""Returned where there is nothing to do; never changed."""


class LeaderStream:
    """One leader account. Every method takes ``now`` and returns what is to be done, in this order."""

    def __init__(self, instruments: Sequence[int], terms: Terms | None = None) -> None:
        self.instruments = tuple(instruments)
        self.terms = terms or Terms()
        self.counters = Counters()
        self.synced = False
        self.reason = "not connected"
        #: Execution ids up to here are complete: handed on, or before our time. Moved by readings only.
        self.floor: dict[int, int] = {}
        self.stopped = False
        self._reorder_ns = self.terms.reorder_ns
        self._seen: dict[int, dict[int, None]] = {instrument: {} for instrument in self.instruments}
        self._books: dict[int, _Book] = {}
        self._based = False
        self._hedge = -1  # 1 yes, 0 no, -1 not known
        self._orders: dict[int, tuple[int, int]] = {}  # order -> filled from .. to, as far as heard
        self._alive: list[int] = []
        self._opened_at = 0
        self._overlap = False
        self._buffering = True
        self._buffer: list[tuple[int, Execution | Position | OrderNew]] = []
        self._vouch_at = NEVER
        self._run: _Run | None = None
        self._sync_at = NEVER
        self._not_before = 0
        self._tries = 0
        self._synced_at = 0
        self._lossy = False  # the running sync is owed to the stream, not to a connection
        self._conflict: tuple[tuple[tuple[int, int], ...], int] = ((), 0)
        self._asks: dict[int, tuple[Ask, int, str]] = {}
        self._next_ask = 1
        self._poll_at = NEVER
        self._equity_at = NEVER
        self._sweep_at = NEVER
        self._suspects: dict[int, tuple[int, int, int]] = {}
        self._poll_counts: dict[int, int] = {}
        self._missing: dict[int, tuple[int, int]] = {}  # instrument -> (execution id listed but not heard, since)
        self._leverage_heard: dict[int, int] = {}
        self._reconnect_after = 0
        self._due = NEVER

    # --- life ---------------------------------------------------------------------------------------------------------------
    def resume(
        self, floor: dict[int, int], seen: Sequence[tuple[int, int]] = (), positions: dict[tuple[int, int], int] | None = None,
    ) -> None:
        """What an earlier life handed on: ``floor`` per instrument, executions above it, and the fold they led to."""
        self.floor = dict(floor)
        for instrument, exec_id in seen:
            self._seen[instrument][exec_id] = None
        if positions is not None:
            self._based = True
            for (instrument, side), qty in positions.items():
                self._book(instrument, side).qty = qty

    def mode(self, hedge: bool) -> None:
        """Whether the account keeps a position per side; else it is learned from what is held."""
        self._hedge = int(hedge)

    def stop(self) -> None:
        """Nothing is asked or handed on any more."""
        self.stopped = True
        self._due = NEVER
        self._asks.clear()

    def next_due(self) -> int | None:
        """When ``tick`` is wanted next; it does no harm earlier."""
        return None if self._due == NEVER else self._due

    def positions(self) -> dict[tuple[int, int], int]:
        """The fold: (instrument, position side) to signed lots, flat ones left out."""
        return {(book.instrument, book.side): book.qty for book in self._books.values() if book.qty}

    # --- connection -----------------------------------------------------------------------------------------------------------
    def opened(self, now: int, generation: int, beside_living: bool) -> list[Action]:
        """A connection is open. Made beside a living one nothing was missed: both bring the same events."""
        if self.stopped:
            return NOTHING
        out: list[Action] = []
        seamless = beside_living and bool(self._alive) and self.synced
        if not (beside_living and self._alive):
            self._alive.clear()
        self._alive.append(generation)
        self._overlap = len(self._alive) > 1
        self._opened_at = now
        if seamless:
            self._set_poll(now)
        else:
            self._tries = 0  # whoever connects keeps the pace
            self._begin_sync(now, "connected", out)
        return out

    def lost(self, now: int, generation: int, reason: str = "connection lost") -> list[Action]:
        """A connection ended, whoever ended it."""
        if self.stopped or generation not in self._alive:
            return NOTHING
        out: list[Action] = []
        self._alive.remove(generation)
        self._overlap = len(self._alive) > 1
        if not self._alive:
            self._halt(now, reason, out)
        elif generation < self._alive[-1] and now - self._opened_at < self.terms.overlap_safe_ns:
            self._begin_sync(now, "connection lost too soon after its renewal", out)
        elif self.synced:
            self._set_poll(now)
        return out

    def oversized(self, now: int) -> list[Action]:
        """A message was not read because of its size: what it said is unknown."""
        self.counters.oversized += 1
        out = self._broken(now, "oversized message")
        return out if self.stopped else [*out, *self._renewal(now, "oversized message")]

    def unreadable(self, now: int, why: str) -> list[Action]:
        """A message could not be read. It may have been a close: positions and executions are read again."""
        self.counters.unreadable += 1
        return self._broken(now, f"unreadable event: {why}" if why else "unreadable event")

    def _broken(self, now: int, reason: str) -> list[Action]:
        if self.stopped:
            return NOTHING
        out: list[Action] = []
        self._lossy = True
        self._begin_sync(now, reason, out)
        return out

    def request_sync(self, now: int, reason: str) -> list[Action]:
        """The fold and the venue disagree: hold openings, read positions and executions again."""
        if self.stopped:
            return NOTHING
        out: list[Action] = []
        self._begin_sync(now, reason, out)
        return out

    # --- stream ---------------------------------------------------------------------------------------------------------------
    def event(self, now: int, event: Any) -> list[Action]:
        """One event of the stream."""
        if type(event) is Execution:
            if self._buffering or self.stopped:
                return self._keep(now, event)
            instrument = event.instrument
            if event.exec_id in self._seen[instrument] or event.exec_id <= self.floor[instrument]:
                self.counters.duplicates += 1
                return NOTHING
            book = self._books.get(instrument << 2 | event.position_side)
            if (
                book is None or book.waiting or (self._hedge > 0 and not event.position_side)
                or self._why_wait(book, event, self._overlap)
            ):
                return self._consider(now, event)
            self._take(book, event)
            return [event]
        return self._other(now, event)

    def _other(self, now: int, event: Any) -> list[Action]:
        if self.stopped:
            return NOTHING
        kind = type(event)
        if kind is Position:
            return self._keep(now, event) if self._buffering else self._pushed(now, event)
        if kind is OrderNew:
            if self._buffering:
                return self._keep(now, event)
            self._order_known(event)
            return NOTHING
        if kind is Expired:
            # The connection may stay open, but nothing comes over it any more.
            out: list[Action] = []
            self._alive.clear()
            self._halt(now, event.reason, out)
            return [*out, *self._renewal(now, event.reason, always=True)]
        if kind is Leverage:
            self._leverage_heard[event.instrument] = now
        return [event]

    def _keep(self, now: int, event: Execution | Position | OrderNew) -> list[Action]:
        """Into the buffer, until positions and executions were read."""
        if self.stopped:
            return NOTHING
        if len(self._buffer) < self.terms.buffer_max:
            self._buffer.append((now, event))
            return NOTHING
        # Executions dropped here are read from the venue: the reading starts anew, and they are no news any more.
        self.counters.overflows += 1
        self._buffer.clear()
        out: list[Action] = []
        self._begin_sync(now, "too many events while out of sync", out)
        return out

    def _book(self, instrument: int, side: int) -> _Book:
        key = instrument << 2 | side
        book = self._books.get(key)
        if book is None:
            book = self._books[key] = _Book(instrument, side)
        return book

    def _order_known(self, event: OrderNew) -> None:
        orders = self._orders
        orders.setdefault(event.order_id << 12 | event.instrument, (0, 0))
        if len(orders) > self.terms.orders_max:
            del orders[next(iter(orders))]

    def _why_wait(self, book: _Book, event: Execution, strict: bool, waited: bool = False) -> str:
        """Why another execution must come before this one; empty when nothing speaks against it. ``waited``: long enough."""
        qty = event.qty
        behind = False
        if event.cum_qty:
            known = self._orders.get(event.order_id << 12 | event.instrument)
            if known is not None:
                start = event.cum_qty - qty
                if start > known[1]:
                    return "an earlier execution of the order is missing"
                if start < known[1] and event.cum_qty > known[0]:
                    return "this part of the order was filled before"
            else:
                # Its order was filled before: before anybody listened, or what was filled is still to come.
                behind = event.cum_qty > qty and not waited
        signed = qty if event.side > 0 else -qty
        if event.realised or event.reduce_only or book.side:
            unopened = _unopened(book.side, book.qty, event)
            if unopened:
                return unopened
        ts = event.ts_event
        covering, fits = -1, True
        before, reached = -1, True
        for at, pushed in reversed(book.pushes):
            if at < ts:
                if at != before:
                    # Every position pushed since the last execution and before this one must be the one held.
                    if before >= 0 and (not reached or at <= book.last_ts):
                        break
                    before, reached = at, False
                reached = reached or book.remaining(at, pushed) in (0, None)
                continue
            if at != covering:
                covering, fits = at, False  # an earlier time that still covers it says more
            if not fits:
                lacking = book.remaining(at, pushed)
                if lacking is None or lacking == signed:
                    fits = True
                elif lacking > signed > 0 or lacking < signed < 0:
                    # Towards it but short of it: the rest of its own order may follow, anything else comes before.
                    fits = not behind and (not event.cum_qty or abs(lacking - signed) <= event.order_qty - event.cum_qty)
        if not reached:
            return "a position pushed before it has not been reached"
        if covering >= 0:
            return "" if fits else "it leads away from the pushed position"
        if behind:
            return "executions of an order that was never heard of are missing"
        return "two connections overlap and no position was pushed" if strict else ""

    def _consider(self, now: int, event: Execution) -> list[Action]:
        """An execution that does not simply go on: it has no side, others wait already, or it must wait itself."""
        out: list[Action] = []
        if event.position_side == UNKNOWN_SIDE and self._hedge == 0:
            event.position_side = 0
        if event.position_side == UNKNOWN_SIDE or (self._hedge > 0 and event.position_side == 0):
            self.counters.sideless += 1
            self._buffering = True  # it waits for the side the venue's own list gives it
            self._buffer.append((now, event))
            self._begin_sync(now, "an execution does not name its position side", out)
            return out
        book = self._book(event.instrument, event.position_side)
        if any(other.exec_id == event.exec_id for _, other in book.waiting):
            self.counters.duplicates += 1
            return out
        if self._contradicts(event):
            self.counters.conflicts += 1
            self._lossy = True
            self._begin_sync(now, "cumulative quantity of an order contradicts its executions", out)
            return out
        if not book.waiting:
            if not self._why_wait(book, event, self._overlap):
                self._take(book, event)
                return [event]
            self.counters.reordered += 1
            book.deadline = now + self._reorder_ns
            self._due = min(self._due, book.deadline)
        book.waiting.append((now, event))
        if len(book.waiting) > self.terms.waiting_max:
            self.counters.overflows += 1
            self._lossy = True
            self._begin_sync(now, "too many executions wait", out)
        else:
            self._retry(now, book, self._overlap, out)
        return out

    def _contradicts(self, event: Execution) -> bool:
        """A new execution over a part of its order that was filled before."""
        if not event.cum_qty:
            return False
        known = self._orders.get(event.order_id << 12 | event.instrument)
        return event.cum_qty < event.qty or (
            known is not None and event.cum_qty > known[0] and event.cum_qty - event.qty < known[1])

    def _retry(self, now: int, book: _Book, strict: bool, out: list[Action], waited: bool = False) -> None:
        """Hand on what waited, by (venue time, id), as far as it fits now."""
        waiting = book.waiting
        waiting.sort(key=lambda item: _order(item[1]))
        fits = True
        while waiting and fits:
            taken = 0
            while taken < len(waiting) and not self._why_wait(book, waiting[taken][1], strict, waited):
                self._take(book, waiting[taken][1])
                out.append(waiting[taken][1])
                taken += 1
            del waiting[:taken]
            fits = False
            if waiting and book.pushes:
                events = [event for _, event in waiting]
                events = events[: self._adding_up(book, book.pushes, events)]
                if events and self._orders_complete(events):
                    for event in events:
                        self._take(book, event)
                        out.append(event)
                    del waiting[: len(events)]
                    fits = True
        if not waiting:
            book.deadline = NEVER
            self._current_push(now, book, out)

    def _adding_up(self, book: _Book, pushes: list[tuple[int, int]], events: list[Execution]) -> int:
        """How many of them, not fitting one by one, together pass through every position pushed between and end at one.

        None of them may lack what it closes: what is missing could add up to nothing.
        """
        total, fitting, first = 0, 0, events[0].ts_event
        place = before = sum(at < first for at, _ in pushes)
        while before and (before == place or pushes[before - 1][0] > book.last_ts):
            since, agrees = pushes[before - 1][0], False
            while before and pushes[before - 1][0] == since:
                before -= 1
                agrees = agrees or book.remaining(since, pushes[before][1]) in (0, None)
            if not agrees:
                return 0
        for n, event in enumerate(events):
            if _unopened(book.side, book.qty + total, event):
                break
            total += event.side * event.qty
            until = events[n + 1].ts_event if n + 1 < len(events) else NEVER
            while place < len(pushes) and pushes[place][0] < until:
                since, agrees = pushes[place][0], False
                while place < len(pushes) and pushes[place][0] == since:
                    agrees = agrees or book.remaining(since, pushes[place][1]) == total
                    place += 1
                if not agrees:
                    return fitting
                fitting = n + 1
                if until == NEVER:
                    break  # what was pushed later may be of what is still to come
        return fitting

    def _orders_complete(self, events: list[Execution]) -> bool:
        reached: dict[int, int] = {}
        for event in events:
            if event.cum_qty:
                key = event.order_id << 12 | event.instrument
                known = self._orders.get(key)
                before = reached.get(key, known[1] if known else event.cum_qty - event.qty)
                if event.cum_qty - event.qty > before:
                    return False
                reached[key] = event.cum_qty
        return True

    def _take(self, book: _Book, event: Execution) -> None:
        """It is handed on now: fold it and remember it."""
        ts = event.ts_event
        signed = event.qty if event.side > 0 else -event.qty
        book.qty += signed
        book.n += 1
        book.history.append((ts, signed))
        if ts >= book.last_ts:
            book.last_ts = ts
        else:
            self.counters.late += 1
            if book.qty == signed or (book.qty > 0) != (book.qty - signed > 0):
                event.live = False  # its close was handed on before it: nothing is to be opened by it now
        if book.doubted != NEVER:
            self._met(book)
        self.counters.executions += 1
        seen = self._seen[event.instrument]
        seen[event.exec_id] = None
        if len(seen) >= self.terms.sweep_at:
            self._crowded(event.instrument, seen)
        cum = event.cum_qty
        key = event.order_id << 12 | event.instrument
        if cum:
            if cum == event.order_qty:
                self._orders.pop(key, None)
                return
            start = cum - event.qty
            known = self._orders.get(key)
            if known is None:
                self._orders[key] = (start, cum)
                if len(self._orders) > self.terms.orders_max:
                    del self._orders[next(iter(self._orders))]
            else:
                self._orders[key] = (min(known[0], start), max(known[1], cum))
        elif key in self._orders:
            first, last = self._orders[key]
            if first:
                del self._orders[key]  # not known whether it lies before or behind what was heard
            else:
                self._orders[key] = (0, last + event.qty)

    def _crowded(self, instrument: int, seen: dict[int, None]) -> None:
        """Many ids are remembered: let a reading move the floor; without one the oldest are given up."""
        if self.synced and len(seen) == self.terms.sweep_at:
            self._sweep_at = self._due = 0
        if len(seen) > self.terms.seen_max:
            self.counters.overflows += 1
            ids = sorted(seen)
            self._raise_floor(instrument, ids[len(ids) // 2])

    def _raise_floor(self, instrument: int, floor: int) -> None:
        self.floor[instrument] = floor
        self._seen[instrument] = {exec_id: None for exec_id in self._seen[instrument] if exec_id > floor}

    # --- pushed positions -----------------------------------------------------------------------------------------------------
    def _pushed(self, now: int, event: Position) -> list[Action]:
        book = self._book(event.instrument, event.position_side)
        if event.position_side and event.qty:
            self._hedge = 1
        pushes, ts = book.pushes, event.ts_event
        place = len(pushes)
        while place and pushes[place - 1][0] > ts:
            place -= 1
        stale = ts < book.last_ts or place < len(pushes)
        pushes.insert(place, (ts, event.qty))
        if len(pushes) > PUSHES_MAX:
            del pushes[0]
        out: list[Action] = []
        if ts > book.based_ts and book.remaining(ts, event.qty) not in (0, None):
            book.doubted = min(book.doubted, ts)
        if book.waiting:
            self._retry(now, book, self._overlap, out)
            return out
        self._watch(now, book)
        if stale:
            self.counters.stale_pushes += 1
        else:
            out.append(event)
        return out

    def _met(self, book: _Book) -> None:
        """Whether the fold has passed through every position pushed since the first one it had not reached.

        The last one alone proves nothing: what was opened and closed again unheard leaves it where it was. Of several pushed
        for one moment any may have been the last, but where nothing newer was pushed it is the one that came last.
        """
        at, pushes = 0, book.pushes
        while at < len(pushes):
            since, agrees = pushes[at][0], False
            while at < len(pushes) and pushes[at][0] == since:
                reached = book.remaining(since, pushes[at][1]) in (0, None)
                agrees = reached or (agrees and at + 1 < len(pushes))
                at += 1
            if since >= book.doubted and not agrees:
                book.doubted = since
                return
        book.doubted = book.unmet = NEVER

    def _watch(self, now: int, book: _Book) -> None:
        """What was pushed and not reached has its time to be explained."""
        if book.doubted == NEVER:
            return
        self._met(book)
        if book.doubted != NEVER and book.unmet == NEVER:
            book.unmet = now + self.terms.grace_ns
            self._due = min(self._due, book.unmet)

    def _current_push(self, now: int, book: _Book, out: list[Action]) -> None:
        """What was pushed while executions waited, once they went on."""
        if not book.pushes:
            return
        newest = book.pushes[-1]
        if book.remaining(*newest) not in (0, None):
            book.doubted = min(book.doubted, newest[0])
        self._watch(now, book)
        if newest[0] >= book.last_ts:
            out.append(Position(book.instrument, book.side, newest[1], newest[0], now))

    # --- out of sync ----------------------------------------------------------------------------------------------------------
    def _halt(self, now: int, reason: str, out: list[Action]) -> None:
        """Out of sync; what comes is buffered, and what waited with it."""
        self._buffering = True
        self._run = None
        self._drop_asks(("sync", "poll", "sweep"))
        self._sync_at = NEVER
        self._suspects.clear()
        self._missing.clear()
        for book in self._books.values():
            if book.waiting:
                self._buffer += sorted(book.waiting, key=lambda item: item[0])
                book.waiting.clear()
            book.deadline = book.doubted = book.unmet = NEVER
            book.pushes.clear()
        self._orders.clear()
        self._poll_at = self._sweep_at = NEVER
        if self._vouch_at == NEVER and self._based:
            self._vouch_at = now + self.terms.patience_ns
        self._due = min(self._due, self._vouch_at)
        self.reason = reason
        if self.synced:
            self.synced = False
            self.counters.unsynced += 1
            out.append(Sync(False, reason, (), now))

    def _begin_sync(self, now: int, reason: str, out: list[Action]) -> None:
        """Out of sync, and read positions and executions as soon as a connection is open and the pace allows."""
        run = self._run
        self._halt(now, reason, out)
        self._keep_found(run)
        if not self._alive:
            return
        if now - self._synced_at > self.terms.calm_ns and self._synced_at:
            self._tries = 0
        if now >= self._not_before or not self._tries:
            self._start(now, out)
        else:
            self._sync_at = self._not_before
            self._due = min(self._due, self._sync_at)

    def _keep_found(self, run: _Run | None) -> None:
        """A reading that is broken off has moved the floor of the sync: what it found is not read again."""
        if run is None:
            return
        self._run = _Run(run.floor)
        self._run.found, self._run.fresh = run.found, run.fresh
        self._run.facts, self._run.leverage = run.facts, run.leverage

    def _start(self, now: int, out: list[Action]) -> None:
        pauses = self.terms.retry_ns
        self._sync_at = NEVER
        self._not_before = now + pauses[min(self._tries, len(pauses) - 1)]
        self._tries += 1
        self._drop_asks(("sync",))
        if self._run is None:
            self._run = _Run(dict(self.floor))
        run = self._run
        run.phase, run.pending, run.rounds = "fills", 0, 0
        self._ask_fills(now, run, out)

    def _later(self, now: int) -> None:
        """Read again after a pause; what was found stays."""
        run = self._run
        self._drop_asks(("sync",))
        if run is not None:
            run.phase, run.pending = "", 0
        self._sync_at = max(self._not_before, now)
        self._due = min(self._due, self._sync_at)

    # --- questions ------------------------------------------------------------------------------------------------------------
    def _ask(self, now: int, purpose: str, out: list[Action], kind: AskKind, instrument: int = -1, from_id: int = 0,
             limit: int = 0, order_id: int = 0) -> None:
        ask = Ask(self._next_ask, kind, instrument, from_id, limit, order_id)
        self._next_ask += 1
        self._asks[ask.id] = (ask, now, purpose)
        self._due = min(self._due, now + self.terms.ask_timeout_ns)
        if purpose == "sync" and self._run is not None:
            self._run.pending += 1
        out.append(ask)

    def _drop_asks(self, purposes: tuple[str, ...]) -> None:
        for ask_id in [ask_id for ask_id, (_, _, purpose) in self._asks.items() if purpose in purposes]:
            del self._asks[ask_id]

    def answer(self, now: int, ask_id: int, rows: Sequence[Any]) -> list[Action]:
        """The venue answered. An answer to a question that is no longer open is ignored."""
        known = self._asks.pop(ask_id, None)
        if known is None or self.stopped:
            return NOTHING
        ask, asked, purpose = known
        out: list[Action] = []
        if purpose == "sync":
            self._sync_answer(now, ask, asked, rows, out)
        elif purpose == "poll":
            self._poll_answer(now, rows, out)
        elif purpose == "equity":
            out += rows[:1]
        else:
            self._sweep_answer(now, ask, rows, out)
        return out

    def failed(self, now: int, ask_id: int) -> list[Action]:
        """No answer: an error, a timeout, or one that could not be read."""
        known = self._asks.pop(ask_id, None)
        if known is None or self.stopped:
            return NOTHING
        self.counters.failures += 1
        ask, _, purpose = known
        out: list[Action] = []
        if purpose == "sync":
            run = self._run
            assert run is not None
            if ask.kind == AskKind.ORDER or ask.kind == AskKind.EQUITY:
                # Neither is worth waiting for: the execution goes on without them, equity has its own poll and age.
                run.facts[ask.instrument, ask.order_id] = None
                self._sync_step(now, out)
            else:
                self._later(now)
        return out

    def _ask_fills(self, now: int, run: _Run, out: list[Action]) -> None:
        for instrument in self.instruments:
            if instrument in run.floor:
                self._ask(now, "sync", out, AskKind.FILLS, instrument, run.floor[instrument] + 1, self.terms.page_max)
            else:
                self._ask(now, "sync", out, AskKind.NEWEST, instrument, 0, 1)
        if not self.instruments:
            self._sync_step(now, out, 0)

    def _ask_state(self, now: int, run: _Run, out: list[Action]) -> None:
        run.asked = now
        self._ask(now, "sync", out, AskKind.POSITIONS)
        if run.equity is None:
            self._ask(now, "sync", out, AskKind.EQUITY)
        for instrument in self.instruments:
            if instrument not in run.leverage:
                self._ask(now, "sync", out, AskKind.LEVERAGE, instrument)
        streamed = {(e.instrument, e.exec_id) for _, e in self._buffer if type(e) is Execution}
        for (instrument, exec_id), found in run.found.items():
            place = (instrument, found.order_id)
            if place not in run.facts and len(run.facts) < self.terms.lookups_max and (instrument, exec_id) not in streamed:
                run.facts[place] = None
                if not found.client_order_id and exec_id not in self._seen[instrument]:
                    self._ask(now, "sync", out, AskKind.ORDER, instrument, order_id=found.order_id)

    def _sync_answer(self, now: int, ask: Ask, asked: int, rows: Sequence[Any], out: list[Action]) -> None:
        run = self._run
        assert run is not None
        kind = ask.kind
        if kind == AskKind.FILLS:
            top = ask.from_id - 1
            for row in rows:
                if row.exec_id >= ask.from_id:
                    top = max(top, row.exec_id)
                    if row.exec_id > self.floor.get(row.instrument, -1) and row.exec_id not in self._seen[row.instrument]:
                        row.live = False
                        run.found[row.instrument, row.exec_id] = row
                        run.late = run.late or run.phase == "again"
            run.floor[ask.instrument] = top
            if len(rows) >= ask.limit and top >= ask.from_id:
                self._ask(now, "sync", out, kind, ask.instrument, top + 1, ask.limit)
        elif kind == AskKind.NEWEST:
            run.floor[ask.instrument] = max((row.exec_id for row in rows), default=0)
            run.fresh[ask.instrument] = None
        elif kind == AskKind.POSITIONS:
            run.positions = rows
        elif kind == AskKind.EQUITY:
            run.equity = rows[0] if rows else None
        elif kind == AskKind.LEVERAGE:
            for row in rows:
                run.leverage[row.instrument] = (asked, row)
        elif rows:
            run.facts[ask.instrument, ask.order_id] = rows[0]
        self._sync_step(now, out)

    def _sync_step(self, now: int, out: list[Action], answered: int = 1) -> None:
        """One question less; with the last one the next phase begins."""
        run = self._run
        assert run is not None
        run.pending -= answered
        if run.pending:
            return
        if run.phase == "fills":
            run.phase = "state"
            self._ask_state(now, run, out)
        elif run.phase == "state":
            run.phase, run.late = "again", False
            self._ask_fills(now, run, out)
        elif run.late:
            run.rounds += 1
            if run.rounds > ROUNDS_MAX:
                self._later(now)
            else:
                run.phase = "state"
                self._ask_state(now, run, out)
        else:
            self._conclude(now, run, out)

    # --- the end of a sync ----------------------------------------------------------------------------------------------------
    def _conclude(self, now: int, run: _Run, out: list[Action]) -> None:
        """Positions and executions are at rest. If they agree with what was folded before, hand everything on."""
        streamed: dict[tuple[int, int], Execution] = {}
        for _, kept in self._buffer:
            if type(kept) is Execution and self._is_new(kept):
                streamed.setdefault((kept.instrument, kept.exec_id), kept)
        history: list[Execution] = []
        for name, found in run.found.items():
            if self._is_new(found):
                heard = streamed.pop(name, None)
                history.append(self._merged(found, heard, run))
        rest: list[Execution] = []
        for (instrument, exec_id), heard in streamed.items():
            if exec_id <= run.floor[instrument] and heard.position_side != UNKNOWN_SIDE:
                history.append(heard)
            elif heard.position_side != UNKNOWN_SIDE:
                rest.append(heard)
        history.sort(key=_order)
        rest.sort(key=_order)
        told = {row.instrument << 2 | row.position_side: row for row in run.positions}
        sums: dict[int, int] = {}
        for event in history:
            key = event.instrument << 2 | event.position_side
            sums[key] = sums.get(key, 0) + event.side * event.qty
        for key in [*told, *sums, *(e.instrument << 2 | e.position_side for e in rest)]:
            self._book(key >> 2, key & 3)
        conflict = self._conflicts(run, told, sums, history, rest)
        if conflict:
            before, since = self._conflict
            if before != conflict:
                self._conflict = (conflict, now)
            if before != conflict or now - since < self.terms.disagree_ns:
                self.counters.reread += 1
                self._later(now)
                return
            self.counters.adopted += 1
        self._conflict = ((), 0)
        off = {key for key, _ in conflict}
        begun = {key for key, book in self._books.items() if not self._based or book.instrument in run.fresh}
        # Where the position that the fold begins with contradicts its executions, it begins behind them.
        history = [e for e in history if (key := e.instrument << 2 | e.position_side) not in begun or key not in off]
        for key, book in self._books.items():
            if key in begun or key in off:
                row = told.get(key)
                moved = 0 if key in begun and key in off else sums.get(key, 0)
                book.qty = (row.qty if row is not None else 0) - moved
                book.based_ts = row.ts_event if row is not None and not moved else 0
                book.history.clear()
        self._hand_on(now, run, history, told, begun, out)

    def _is_new(self, event: Execution) -> bool:
        if event.exec_id <= self.floor.get(event.instrument, -1) or event.exec_id in self._seen[event.instrument]:
            return False
        # The venue's list may have been behind its positions when the fold began.
        book = self._books.get(event.instrument << 2 | event.position_side)
        return book is None or event.ts_event > book.based_ts

    def _merged(self, found: Execution, heard: Execution | None, run: _Run) -> Execution:
        """The same execution as listed and as heard; what the list says about its place counts."""
        if heard is not None:
            heard.position_side = found.position_side
            return heard
        facts = run.facts.get((found.instrument, found.order_id))
        if facts is not None:
            found.client_order_id, found.order_qty = facts.client_order_id, facts.order_qty
            found.reduce_only, found.cause = facts.reduce_only, facts.cause
        return found

    def _conflicts(
        self, run: _Run, told: dict[int, Position], sums: dict[int, int], history: list[Execution], rest: list[Execution],
    ) -> tuple[tuple[int, int], ...]:
        """Books whose snapshot is not where the fold, the history and some of what came since lead."""
        later: dict[int, list[Execution]] = {}
        for event in rest:
            later.setdefault(event.instrument << 2 | event.position_side, []).append(event)
        pushed: dict[int, Position] = {}
        for _, kept in self._buffer:
            if type(kept) is Position:
                key = kept.instrument << 2 | kept.position_side
                if key not in pushed or kept.ts_event >= pushed[key].ts_event:
                    pushed[key] = kept
        listed = {event.instrument << 2 | event.position_side: event.ts_event for event in history}
        found: list[tuple[int, int]] = []
        for key, book in self._books.items():
            row = told.get(key)
            snapshot = row.qty if row is not None else 0
            since = later.get(key, ())
            if self._based and book.instrument not in run.fresh:
                qty, end = book.qty + sums.get(key, 0), snapshot
            else:
                # The fold begins here. Nothing but what was pushed tells that the snapshot is older than its executions.
                push, began = pushed.get(key), snapshot - sums.get(key, 0)
                if (book.side == 1 and began < 0) or (book.side == 2 and began > 0):
                    found.append((key, began))
                    continue
                if push is None or not (
                    push.ts_event >= listed[key] if key in listed else row is not None and 0 < row.ts_event < push.ts_event
                ):
                    continue
                qty, end = snapshot, push.qty
            difference = end - qty
            fits = not difference
            for event in since:
                qty += event.side * event.qty
                fits = fits or qty == end
            if not fits:
                found.append((key, difference))
        return tuple(found)

    def _arranged(self, events: list[Execution]) -> list[Execution]:
        """By (venue time, id); what would turn a position side around goes behind what it closes.

        That happens to executions found after newer ones were handed on: they move a position that is no longer theirs.
        """
        events = sorted(events, key=_order)
        held: dict[int, int] = {}
        put_off: dict[int, list[Execution]] = {}
        arranged: list[Execution] = []
        for event in events:
            key = event.instrument << 2 | event.position_side
            queue = [event, *put_off.pop(key, ())]
            for one in queue:
                qty = held.get(key, self._book(key >> 2, key & 3).qty)
                after = qty + one.side * one.qty
                if (key & 3 == 1 and after < 0) or (key & 3 == 2 and after > 0):
                    put_off.setdefault(key, []).append(one)
                else:
                    held[key] = after
                    arranged.append(one)
        return [*arranged, *(one for queue in put_off.values() for one in queue)]

    def _hand_on(
        self, now: int, run: _Run, history: list[Execution], told: dict[int, Position], begun: set[int], out: list[Action],
    ) -> None:
        buffered, self._buffer = self._buffer, []
        for _, kept in buffered:
            if type(kept) is OrderNew:
                self._order_known(kept)
        # Live executions at the end are news: they follow the snapshot, which is put back to before them. So does everything
        # where the fold only begins with it: before, there is nothing to be reduced.
        history = self._arranged(history)
        last = len(history)
        while last and history[last - 1].live:
            last -= 1
        news: list[Execution] = []
        for n, event in enumerate(history):
            if n >= last or event.instrument << 2 | event.position_side in begun:
                news.append(event)
                continue
            self._take(self._book(event.instrument, event.position_side), event)
            self.counters.backfilled += not event.live
            out.append(event)
        unheard = self._lossy and any(not event.live for event in history)
        for instrument, floor in run.floor.items():
            if floor > self.floor.get(instrument, -1):
                self._raise_floor(instrument, floor)
        sides = [key & 3 for key, row in told.items() if row.qty] or [event.position_side for event in history[-1:]]
        if sides:
            self._hedge = int(any(sides))
        self.counters.syncs += 1
        self.synced, self._based, self._buffering, self._run = True, True, False, None
        self._synced_at, self._vouch_at, self._lossy = now, NEVER, False
        reason, self.reason = self.reason, ""
        for asked, leverage in run.leverage.values():
            if self._leverage_heard.get(leverage.instrument, -1) <= asked:
                out.append(leverage)
        out.append(Sync(True, reason, self._snapshot(now, told), now))
        if run.equity is not None:
            out.append(run.equity)
        self._equity_at = now + self.terms.equity_poll_ns if run.equity is not None else now
        self._set_poll(now + self.terms.position_poll_ns)
        self._sweep_at = now + self.terms.sweep_ns
        self._due = min(self._due, self._equity_at, self._sweep_at)
        for event in news:
            self._take(self._book(event.instrument, event.position_side), event)
            self.counters.backfilled += not event.live
            out.append(event)
        taken = {(event.instrument, event.exec_id) for event in history}
        for at, kept in buffered:
            if type(kept) is Position:
                # Pushed before the snapshot was asked for: the snapshot says it newer.
                if at >= run.asked or self._buffering:
                    out += self.event(now, kept)
            elif type(kept) is Execution and (kept.instrument, kept.exec_id) not in taken:
                out += self.event(now, kept)
        if unheard:
            out += self._renewal(now, "executions were not pushed")

    def _snapshot(self, now: int, told: dict[int, Position]) -> tuple[Position, ...]:
        rows = []
        for key, book in self._books.items():
            row = told.get(key)
            if row is not None:
                rows.append(Position(row.instrument, row.position_side, book.qty, row.ts_event, row.ts_recv, "snapshot",
                                     row.leverage, row.isolated))
            elif book.qty:
                rows.append(Position(book.instrument, book.side, book.qty, now, now, "snapshot"))
        return tuple(rows)

    def _renewal(self, now: int, reason: str, always: bool = False) -> list[Action]:
        if not always and now < self._reconnect_after:
            return NOTHING
        self._reconnect_after = now + self.terms.reconnect_ns
        self.counters.reconnects += 1
        return [Reconnect(reason)]

    # --- comparison with what the venue says ----------------------------------------------------------------------------------
    def _set_poll(self, at: int) -> None:
        self._poll_at = at
        self._due = min(self._due, at)

    def _poll(self, now: int, out: list[Action]) -> None:
        self._poll_at = now + self.terms.position_poll_ns
        if any(purpose == "poll" for _, _, purpose in self._asks.values()):
            return
        self._poll_counts = {key: book.n for key, book in self._books.items()}
        self._ask(now, "poll", out, AskKind.POSITIONS)

    def _poll_answer(self, now: int, rows: Sequence[Position], out: list[Action]) -> None:
        """A difference counts when it is seen twice and no execution came between: then something was lost."""
        if not self.synced:
            return
        told = {row.instrument << 2 | row.position_side: row for row in rows}
        for key in told:
            self._book(key >> 2, key & 3)
        before, self._suspects = self._suspects, {}
        differs, again = False, NEVER
        for key, book in self._books.items():
            row = told.get(key)
            if book.n != self._poll_counts.get(key, 0) or book.waiting:
                continue  # a fill on its way
            qty = row.qty if row is not None else 0
            if qty != book.qty:
                # One that seems older than what was heard is believed later: venues' times of positions are not exact.
                patience = self.terms.settle_ns if row is None or row.ts_event >= book.last_ts else self.terms.disagree_ns
                known = before.get(key)
                since = known[2] if known is not None and known[:2] == (qty, book.n) else now
                self._suspects[key] = (qty, book.n, since)
                differs = differs or now - since >= patience
                again = min(again, now + max(self.terms.settle_ns, patience // 5))
                continue
            source = row if row is not None else Position(book.instrument, book.side, 0, now, now)
            source.source = "poll"
            out.append(source)
        if differs:
            self.counters.mismatches += 1
            self._lossy = True
            self._begin_sync(now, "position differs from what was heard", out)
        elif again < self._poll_at:
            self._set_poll(again)

    def _sweep(self, now: int, out: list[Action]) -> None:
        """Compare the executions heard since the last reading with the venue's list; what is complete is forgotten."""
        self._sweep_at = now + self.terms.sweep_ns
        if any(purpose == "sweep" for _, _, purpose in self._asks.values()):
            return
        for instrument in self.instruments:
            if self._seen[instrument]:
                self.counters.sweeps += 1
                self._ask(now, "sweep", out, AskKind.FILLS, instrument, self.floor[instrument] + 1, self.terms.page_max)

    def _sweep_answer(self, now: int, ask: Ask, rows: Sequence[Execution], out: list[Action]) -> None:
        floor, instrument = ask.from_id - 1, ask.instrument
        for row in rows:
            if row.exec_id < ask.from_id:
                continue
            if row.exec_id not in self._seen[instrument]:
                # Perhaps only faster than the stream.
                self._missing[instrument] = (row.exec_id, now + self.terms.grace_ns)
                self._due = min(self._due, now + self.terms.grace_ns)
                break
            floor = row.exec_id
        if floor > self.floor[instrument]:
            self._raise_floor(instrument, floor)
            if len(rows) >= ask.limit and instrument not in self._missing:
                self._ask(now, "sweep", out, AskKind.FILLS, instrument, floor + 1, ask.limit)

    # --- time -----------------------------------------------------------------------------------------------------------------
    def tick(self, now: int) -> list[Action]:
        """Time passed."""
        if now < self._due or self.stopped:
            return NOTHING
        out: list[Action] = []
        for ask_id in [ask_id for ask_id, (_, at, _) in self._asks.items() if now - at >= self.terms.ask_timeout_ns]:
            out += self.failed(now, ask_id)
        for book in list(self._books.values()):
            if now >= book.deadline:
                self._retry(now, book, False, out, True)
                book.deadline = min((at + self._reorder_ns for at, _ in book.waiting), default=NEVER)
                if now >= book.deadline:
                    self._lossy = True
                    self._begin_sync(now, "executions missing", out)
            elif now >= book.unmet:
                book.unmet = NEVER
                self.counters.mismatches += 1
                self._lossy = True
                self._begin_sync(now, "executions do not add up to the pushed position", out)
        for instrument, (exec_id, since) in list(self._missing.items()):
            if exec_id in self._seen[instrument] or exec_id <= self.floor[instrument]:
                del self._missing[instrument]
            elif now >= since:
                self._lossy = True
                self._begin_sync(now, "an execution was not pushed", out)
        if now >= self._sync_at and self._alive:
            self._start(now, out)
        if now >= self._vouch_at:
            self._vouch(now, out)
        if self.synced and now >= self._poll_at:
            self._poll(now, out)
        if self.synced and now >= self._sweep_at:
            self._sweep(now, out)
        if now >= self._equity_at:
            self._equity_at = now + self.terms.equity_poll_ns
            if not any(purpose == "equity" for _, _, purpose in self._asks.values()):
                self._ask(now, "equity", out, AskKind.EQUITY)
        self._due = min(
            self._sync_at, self._vouch_at, self._poll_at, self._sweep_at, self._equity_at,
            min((at + self.terms.ask_timeout_ns for _, at, _ in self._asks.values()), default=NEVER),
            min((min(book.deadline, book.unmet) for book in self._books.values()), default=NEVER),
            min((since for _, since in self._missing.values()), default=NEVER),
        )
        return out

    def _vouch(self, now: int, out: list[Action]) -> None:
        """The venue cannot be read, but what was pushed shows that nothing is missing: hand on what waits.

        The leader stays out of sync, so nothing is opened by it; a reduction must not wait until the venue answers.
        """
        self._vouch_at = now + (self.terms.reorder_ns if self._buffer else self.terms.patience_ns)
        waiting: dict[int, dict[int, Execution]] = {}
        pushed: dict[int, list[tuple[int, int]]] = {}
        for _, event in self._buffer:
            if type(event) is Execution:
                if event.position_side != UNKNOWN_SIDE and self._is_new(event):
                    waiting.setdefault(event.instrument << 2 | event.position_side, {})[event.exec_id] = event
            elif type(event) is Position:
                pushed.setdefault(event.instrument << 2 | event.position_side, []).append((event.ts_event, event.qty))
        for (instrument, exec_id), found in self._run.found.items() if self._run is not None else ():
            # What was read so far comes before what was heard, and is no news.
            key = instrument << 2 | found.position_side
            if key in waiting and self._is_new(found):
                waiting[key].setdefault(exec_id, found)
        for key, executions in waiting.items():
            book, pushes = self._book(key >> 2, key & 3), sorted(pushed.get(key, ()), key=lambda push: push[0])
            events = sorted(executions.values(), key=_order)
            for event in events[: self._adding_up(book, pushes, events)]:
                self._take(book, event)
                out.append(event)
                self.counters.vouched += 1
