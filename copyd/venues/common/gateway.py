"""Orders out over connections that belong to one account each, or over REST; answers in; doubts settled.

The same promises as the gateway of shared connections (semantics 34, 35): only what was committed is sent; every order handed
over ends in a report. Not one byte written: NOT_SENT. An answer: what the venue's table of errors says. A connection lost
after the write, an answer that shows another order, or none in time: IN_DOUBT, once; the answer that still comes is reported
too. Doubt is left through ``query`` (``copyd.core.doubt``), whose questions all go over REST.

An order whose connection is down goes by REST, where the venue takes orders so; within the address's budget, reductions first.
What cannot go within ``opening_wait_ms`` is reported as never sent if it opens; a reduction waits.
"""

from __future__ import annotations

import asyncio
import os
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from copyd._fast.columns import Columns, ReportBatch
from copyd._fast.render import Renderer
from copyd.core.doubt import Ask, AskKind, Doubts, Found, Verdict
from copyd.core.identifiers import CID_BYTES
from copyd.core.rows import Kind, OrderRow
from copyd.errors import VenueUnavailable
from copyd.venues.common import told as t
from copyd.venues.common.commissions import Commission
from copyd.venues.common.connection import Session, watched
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import (
    DEAD,
    FILLED,
    IN_DOUBT,
    MS_NS,
    NEW,
    NOT_SENT,
    REJECT,
    REPLY,
    TERMINAL_STATUS,
    TRADE,
    Placed,
)
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.limits import Bans, VenueClock
from copyd.venues.common.outcome import Outcome, core_code
from copyd.venues.common.rest import NotSent, RestError
from copyd.venues.common.sessions import Line, Sessions
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Order, Reads, Wire

#: The order table in ``Columns``.
ORDERS = 7
QUERY_SHARE = 0.5
INT64_MAX = (1 << 63) - 1
DOUBTED_MAX = 100_000
#: Orders by REST that are on their way at once, and how many of these ways openings never take.
REST_LANES, REDUCTION_LANES = 64, 16

#: (account, frames or texts back to back, client order ids of 16 bytes, order slots of 4), in the order of sending.
Burst = tuple[int, bytes, bytes, bytes]


class RestOrders(Protocol):
    """A venue's ``Rest`` that places orders as well."""

    async def place(self, key: Key, order: Order) -> t.Answered:
        """Place it; ``VenueUnavailable`` or a ``RestError`` say, by their kind, what became of it."""


class GatewayStats(msgspec.Struct):
    """Counters since the start."""

    orders_sent: int = 0
    orders_not_sent: int = 0
    bytes_sent: int = 0
    by_rest: int = 0
    too_late: int = 0
    replies: int = 0
    rejects: int = 0
    in_doubt: int = 0
    ack_timeouts: int = 0
    lost_in_flight: int = 0
    late_replies: int = 0
    unmatched: int = 0
    queries: int = 0
    queries_failed: int = 0
    queries_not_found: int = 0
    dead: int = 0
    held: int = 0
    half_open: int = 0
    write_deadlines: int = 0
    mismatches: int = 0
    unknown_codes: int = 0
    banned_not_sent: int = 0


class _Lane:
    """What one living connection still owes us."""

    __slots__ = ("backlog_ns", "doubted", "drained", "heard", "pending", "pinged_ns", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.pending: dict[bytes, int] = {}  # id -> written at (monotonic ns), oldest first
        self.doubted: dict[bytes, None] = {}
        self.heard = session.heard
        self.pinged_ns = self.drained = self.backlog_ns = 0


class _Waiting(NamedTuple):
    """An order that is to go by REST."""

    order: Order
    reduction: bool
    since_ns: int


class SessionGateway:
    """See the module. ``rest_orders`` None: orders go over connections alone. ``by_rest``: they go by REST alone."""

    #: Orders rendered and sent at a time.
    chunk_max = 256

    def __init__(
        self,
        *,
        wire: Wire,
        sessions: Sessions,
        reads: Reads,
        rest_orders: RestOrders | None,
        instruments: Instruments,
        contract: VenueContract,
        clock: Callable[[], int],
        venue_clock: VenueClock,
        bans: Bans,
        on_reports: Callable[[ReportBatch, int], None],
        expected: Callable[[int, int, int], tuple[int, int, bool]] | None = None,
        placed: Callable[[bytes], Placed | None] | None = None,
        commission: Callable[[str, str, int], Commission | None] = lambda amount, asset, instrument: Commission(0),
        on_mismatch: Callable[[bytes, str], None] | None = None,
        on_unknown_code: Callable[[int], None] | None = None,
        queries_per_s: float | None = None,
        opening_wait_ms: int = 2_000,
        by_rest: bool = False,
        renderer: Renderer | None = None,
        mono: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.wire, self.sessions, self.reads, self.rest_orders = wire, sessions, reads, rest_orders
        self.instruments, self.contract, self.clock, self.venue_clock = instruments, contract, clock, venue_clock
        self.bans, self.on_reports, self.placed, self.commission = bans, on_reports, placed, commission
        self.on_mismatch = on_mismatch or (lambda cid, what: None)
        self.on_unknown_code = on_unknown_code or (lambda code: None)
        self.by_rest, self.renderer, self.mono = by_rest, renderer, mono
        self.opening_wait_ns = opening_wait_ms * MS_NS
        self.stats = GatewayStats()
        limit = contract.limit("weight", "ip")
        self.queries_per_s = queries_per_s or QUERY_SHARE * limit.limit * 1000 / limit.interval_ms
        self.doubts = Doubts(contract.doubt_terms(self.queries_per_s, position=expected is not None), expected)
        self._asked = {
            AskKind.ORDER: self._ask_order, AskKind.ORDERS: self._ask_orders, AskKind.POSITION: self._ask_position,
            AskKind.TRADES: self._ask_trades,
        }  # fmt: skip
        self._columns: Columns
        self._keys: dict[int, Key] = {}
        self._lanes: dict[Session, _Lane] = {}
        self._line_of: dict[int, Line] = {}
        self._owing: dict[Session, None] = {}
        self._batch = ReportBatch()
        self._due = False
        self._ts_recv = 0
        self._wall_ahead = clock() - mono()  # a later difference is a wall clock that was put right
        self._mismatched: set[bytes] = set()
        self._unknown_seen: set[int] = set()
        self._reductions: deque[_Waiting] = deque()
        self._openings: deque[_Waiting] = deque()
        #: Handed to REST and not reported on yet: they wait, or are on their way.
        self._handed: set[bytes] = set()
        self._rest_work = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    # --- life ---------------------------------------------------------------------------------------------------------
    def bind(self, columns: Columns) -> None:
        """The tables that hold the orders: they are rendered from there."""
        self._columns = columns

    def register(self, account: int, key: Key) -> None:
        """An account's key: its connections are opened, in the venue's pace, and kept up."""
        self._keys[account] = key
        if self.renderer is not None:
            key.reveal_to(self.renderer.set_account, account)
        self.sessions.add(account, key)

    async def forget(self, account: int) -> None:
        """Its key is gone: its connections are closed."""
        self._keys.pop(account, None)
        self._line_of.pop(account, None)
        if self.renderer is not None:
            self.renderer.forget_account(account)
        await self.sessions.remove(account)

    async def start(self) -> None:
        """Begin to send and to ask; connections come up by themselves."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            watched(loop.create_task(self._sweep(), name="orders-sweep")),
            watched(loop.create_task(self._ask(), name="orders-ask")),
        ]
        if self.rest_orders is not None:
            self._tasks += [
                watched(loop.create_task(self._rest_lane(n >= REDUCTION_LANES), name=f"orders-rest-{n}"))
                for n in range(REST_LANES)]  # fmt: skip

    async def stop(self, drain_s: float = 5.0) -> None:
        """Wait for answers to what is in flight, then close; what is still open then is reported IN_DOUBT."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + drain_s
        while self.in_flight and loop.time() < deadline:  # noqa: ASYNC110 - bounded, and once per process
            await asyncio.sleep(0.02)
        tasks = [*self._tasks, *self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for waiting in (*self._reductions, *self._openings):
            self._not_sent(waiting.order.cid)
        self._reductions.clear()
        self._openings.clear()
        await self.sessions.stop()
        self._flush()

    @property
    def ready(self) -> bool:
        """Somebody's orders can go."""
        return self.by_rest or self.sessions.open_lines > 0 or not len(self.sessions)

    @property
    def open_connections(self) -> int:
        return len(self._lanes)

    @property
    def in_flight(self) -> int:
        """Orders written and not answered, and those handed to REST."""
        return sum(len(self._lanes[session].pending) for session in self._owing) + len(self._handed)

    @property
    def queries_open(self) -> int:
        """Orders in doubt that are asked about."""
        return self.doubts.doubted

    @property
    def untold(self) -> int:
        """Orders whose executions are asked for."""
        return len(self.doubts) - self.doubts.doubted

    @property
    def banned_until(self) -> int:
        """When the venue takes requests of this address again, on ``clock``; 0 = it does now."""
        return self.wall(self.bans.until())

    def wall(self, mono_ns: int) -> int:
        """A moment of the monotonic clock on ``clock``; 0 stays 0."""
        return self.clock() + mono_ns - self.mono() if mono_ns else 0

    def windows(self) -> list[tuple[int, int]]:
        """Of some of the open connections: bytes its window takes, its round trip in ns."""
        some = list(self._lanes)[:64]
        return [window for session in some if (window := session.window()) is not None]

    # --- out ----------------------------------------------------------------------------------------------------------
    def arrange(self, slots: array[int], turn: int) -> array[int]:
        """Rows as they are best sent: as they are; each account has a connection of its own."""
        return slots

    def render(self, slots: array[int]) -> list[Burst]:
        """Frames for these order rows, a burst per account; nothing leaves."""
        now_ms = self.venue_clock.timestamp_ms()
        if self.renderer is not None:
            return self.renderer.render(self._columns, slots, now_ms)
        found: dict[int, list[tuple[bytes, bytes, int]]] = {}
        for slot in slots:
            order = self._order(slot)
            text = b"" if self.by_rest else masked(self.wire.place(order, now_ms))
            found.setdefault(order.account, []).append((text, order.cid, slot))
        return [
            (account, b"".join(text for text, _, _ in rows), b"".join(cid for _, cid, _ in rows),
             array("I", [slot for _, _, slot in rows]).tobytes())
            for account, rows in found.items()
        ]  # fmt: skip

    def _order(self, slot: int) -> Order:
        return self._order_of(OrderRow.unpack(self._columns.get(ORDERS, slot)))

    def _order_of(self, row: OrderRow) -> Order:
        return Order(
            row.account, self.instruments[row.instrument], row.cid, row.order_qty, row.limit_px, row.side, row.position_side,
            bool(row.reduce_only))

    def send(self, bursts: Sequence[Burst]) -> int:
        """Hand committed orders over; returns how many were written now. First all writes, then all book-keeping."""
        written: list[tuple[_Lane, bytes]] = []
        count = 0
        limited = self.bans.any
        for account, buffer, ids, slots in bursts:
            if limited and self.bans.until(account):
                for cid in ids_of(ids):
                    self.stats.banned_not_sent += 1
                    self._not_sent(cid)
                continue
            lane = None if self.by_rest else self._lane(account)
            if lane is not None:
                try:
                    lane.session.write(buffer)
                except OSError:
                    lane = None
            if lane is None:
                self._otherwise_send(ids, slots)
                continue
            written.append((lane, ids))
            count += len(ids) // CID_BYTES
            self.stats.bytes_sent += len(buffer)
        now = self.mono()
        for lane, ids in written:
            for cid in ids_of(ids):
                lane.pending[cid] = now
            self._owing[lane.session] = None
        self.stats.orders_sent += count
        return count

    def _lane(self, account: int) -> _Lane | None:
        line = self._line_of.get(account)  # the one that served last: nearly always the one that serves
        if line is not None and line.ready and (session := line.session) is not None and session.open:
            return self._lanes.get(session)
        for line in self.sessions.lines(account):
            if line.channel.orders and line.open and line.session is not None:
                return self._lanes.get(line.session)
        return None

    def _otherwise_send(self, ids: bytes, slots: bytes) -> None:
        """By REST where the venue takes orders so; else they are proven not sent."""
        indexes = array("I", slots)
        for cid, slot in zip(ids_of(ids), indexes, strict=True):
            if self.rest_orders is None:
                self._not_sent(cid)
                continue
            row = OrderRow.unpack(self._columns.get(ORDERS, slot))
            reduction = row.kind == Kind.REDUCTION
            self._handed.add(cid)
            waiting = _Waiting(self._order_of(row), reduction, self.mono())
            (self._reductions if reduction else self._openings).append(waiting)
        self._rest_work.set()

    def _not_sent(self, cid: bytes) -> None:
        self._handed.discard(cid)
        self.stats.orders_not_sent += 1
        self._append(NOT_SENT, 0, cid)

    async def _rest_lane(self, openings: bool) -> None:
        """One order at a time: reductions first, then ``openings`` by age; those that grew too old are proven not sent."""
        while True:
            waiting = self._next_waiting(openings)
            if waiting is None:
                self._rest_work.clear()
                await self._rest_work.wait()
                continue
            await self._place(waiting)

    def _next_waiting(self, openings: bool) -> _Waiting | None:
        if self._reductions:
            return self._reductions.popleft()
        now = self.mono()
        while self._openings and now - self._openings[0].since_ns > self.opening_wait_ns:
            self.stats.too_late += 1
            self._not_sent(self._openings.popleft().order.cid)
        return self._openings.popleft() if openings and self._openings else None

    async def _place(self, waiting: _Waiting) -> None:
        order = waiting.order
        key = self._keys.get(order.account)
        assert self.rest_orders is not None
        if key is None or self.bans.until(order.account):
            self._not_sent(order.cid)
            return
        self.stats.by_rest += 1
        self.stats.orders_sent += 1
        try:
            answer = await self.rest_orders.place(key, order)
        except RestError as problem:
            self._watch_limit(order.account, problem.status, problem.code, problem.message, 0)
            verdict = problem.verdict
            self._outcome(t.Answered(order.cid, verdict, message=problem.message), late=False)
        except NotSent:
            self.stats.by_rest -= 1
            self.stats.orders_sent -= 1
            self._not_sent(order.cid)
        except (VenueUnavailable, ValueError):
            self._emit_doubt(order.cid)  # written or not: nobody can say
        except asyncio.CancelledError:
            self._emit_doubt(order.cid)
            raise
        else:
            self._outcome(answer, late=False)
        finally:
            self._handed.discard(order.cid)

    # --- questions ------------------------------------------------------------------------------------------------------
    def query(
        self, cid: bytes, account: int, instrument: int, ts_signed_ns: int, exposure: int = 0, seen: bool = False,
        ts_placed_ns: int | None = None,
    ) -> None:
        """Ask for an order until it is found to have ended or proven absent; asking twice for the same id is once.

        The times are on ``clock``: when it was signed or any later moment, and that or any earlier one; see ``Doubts.add``.
        """
        if account not in self._keys:
            raise ValueError(f"account {account} has no key")
        if cid in self._handed:
            # It may yet go out, and is signed then: a fence from now on would prove nothing. Its own report comes, and a doubt
            # among those is asked about.
            return
        now = self.mono()
        # Stamped before or after a step of the wall clock: the later of the two makes the fence no shorter.
        signed = ts_signed_ns - min(self._wall_ahead, self.clock() - now)
        placed = None if ts_placed_ns is None else min(signed, now) - max(0, ts_signed_ns - ts_placed_ns)
        self.doubts.add(cid, account, instrument, min(signed, now), exposure, seen, placed)

    def tell(self, cid: bytes, account: int, instrument: int, listed: bool) -> bool:
        """Ask for the executions of an order that has ended: see ``Doubts.tell``."""
        return self.doubts.tell(cid, account, instrument, listed)

    def ended(self, cid: bytes) -> None:
        """Its end was told on another way (private stream): no more questions."""
        self.doubts.ended(cid)

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(0.01 if len(self.doubts) else 0.05)
            if not len(self.doubts):
                continue
            self.doubts.pause(self.bans.until())
            timeouts = self.doubts.stats.timeouts
            asks = self.doubts.asks(self.mono())
            self.stats.queries_failed += self.doubts.stats.timeouts - timeouts
            for ask in asks:
                self.stats.queries += 1
                call = watched(asyncio.get_running_loop().create_task(self._answer(ask), name=f"orders-ask-{ask.id}"))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)

    async def _answer(self, ask: Ask) -> None:
        key = self._keys.get(ask.account)
        try:
            if key is None:
                raise VenueUnavailable("its key is gone")
            await self._asked[ask.kind](ask, key)
        except (VenueUnavailable, RestError, ValueError):
            # An error while asking is no answer (semantics 35).
            self.stats.queries_failed += 1
            self.doubts.failed(self.mono(), ask.id)

    async def _ask_order(self, ask: Ask, key: Key) -> None:
        told = await self.reads.order(key, self.instruments[ask.instrument], cid=ask.cid)
        if told is None:
            self.stats.queries_not_found += 1
            self._settled(self.doubts.answered_order(self.mono(), ask.id, None))
            return
        found = self._found(ask.cid, told)
        if found is None:
            raise ValueError("another order than was asked for")
        self._settled(self.doubts.answered_order(self.mono(), ask.id, found))

    async def _ask_orders(self, ask: Ask, key: Key) -> None:
        since_ms = self.venue_clock.timestamp_ms() - max(0, self.mono() - ask.since_ns) // MS_NS - 1
        rows, complete = await self.reads.orders_since(key, self.instruments[ask.instrument], since_ms)
        found: list[Found] = []
        for told in rows:
            if told.cid is None or told.cid not in self.doubts:
                continue
            one = self._found(told.cid, told)
            if one is None:
                complete = False
            else:
                found.append(one)
        self._settled(self.doubts.answered_orders(self.mono(), ask.id, found, complete))

    async def _ask_position(self, ask: Ask, key: Key) -> None:
        net = net_short = 0
        for row in await self.reads.positions(key):
            if row.instrument == ask.instrument:
                if row.position_side == 2:
                    net_short += row.qty
                else:
                    net += row.qty
        self._settled(self.doubts.answered_position(self.mono(), ask.id, net, net_short))

    async def _ask_trades(self, ask: Ask, key: Key) -> None:
        """The executions of one order: each is booked once by its own number, with its fee."""
        asked = self.placed(ask.cid) if self.placed is not None else None
        if asked is None:
            self.doubts.answered_trades(self.mono(), ask.id, True)
            return
        instrument = self.instruments[ask.instrument]
        for told in await self.reads.trades_of(key, instrument, None, ask.cid):
            if told.cid == ask.cid:
                self._executed(ask.cid, told)
        self._flush()
        after = self.placed(ask.cid) if self.placed is not None else None
        self.doubts.answered_trades(self.mono(), ask.id, after is None or not after.lacking)

    def _executed(self, cid: bytes, told: t.TradeTold) -> None:
        """An execution that a list told: it moves no quantity, its price and fee are booked unless they were before."""
        one = told.execution
        fee = self.commission(told.fee, told.fee_asset, one.instrument)
        if fee is None:
            raise ValueError(f"no mark yet to convert {told.fee_asset} by")
        self._batch.append(
            TRADE, FILLED, cid, 0, 0, one.qty, one.px, fee.amount, one.exec_id, one.order_id, one.ts_event, fee_base=fee.base)
        self._ts_recv = self.clock()

    def _settled(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.kind == DEAD:
                self.stats.dead += 1
            else:
                self.stats.held += 1
            self._append(verdict.kind, 0, verdict.cid, ts_event=self.wall(verdict.issued_ns))

    # --- in -----------------------------------------------------------------------------------------------------------
    def on_ready(self, line: Line) -> None:
        """A line serves: orders may go over it."""
        if line.channel.orders and line.session is not None:
            self._lanes[line.session] = _Lane(line.session)
            self._line_of[line.account] = line

    def on_lost(self, line: Line, session: Session) -> None:
        """A connection is gone: what it owed is in doubt."""
        lane = self._lanes.pop(session, None)
        self._owing.pop(session, None)
        if lane is not None:
            self.stats.lost_in_flight += len(lane.pending)
            for cid in lane.pending:
                self._emit_doubt(cid)

    def on_answered(self, line: Line, answer: t.Answered) -> None:
        """The answer to a placement; beside a renewed connection the old one still answers what it was asked."""
        lane = self._owes(answer.cid, line)
        if lane is None:
            self.stats.unmatched += 1
            return
        late = lane.pending.pop(answer.cid, None) is None
        if late:
            lane.doubted.pop(answer.cid, None)
            self.stats.late_replies += 1
        self._outcome(answer, late, line.account)

    def _owes(self, cid: bytes, line: Line) -> _Lane | None:
        for session in (line.session, *line.link.old):
            lane = self._lanes.get(session) if session is not None else None
            if lane is not None and (cid in lane.pending or cid in lane.doubted):
                return lane
        return None

    def _outcome(self, answer: t.Answered, late: bool, account: int = -1) -> None:
        verdict = answer.verdict
        self._watch_limit(account, 429, verdict.code, answer.message, max(0, answer.retry_ns))
        of_address = self.contract.connection_scope == "any_account" and verdict.code not in self.contract.order_limit_codes
        if answer.retry_ns and of_address:
            # Where connections are no account's own, the limit is the address's: whatever else is sent prolongs it.
            wait = answer.retry_ns if answer.retry_ns > 0 else None
            self.bans.note(429, verdict.code, answer.message, wait, self.venue_clock.timestamp_ms())
        if verdict.outcome is Outcome.ACCEPTED:
            if self._reported(answer):
                self.stats.replies += 1
            elif not late:
                self._emit_doubt(answer.cid, verdict.code)
                return
        elif verdict.outcome is Outcome.DEFINITE_REJECT:
            self.stats.rejects += 1
            self._append(REJECT, 8, answer.cid, code=_int32(core_code(verdict)))
        else:
            if verdict.reason == "unknown_code":
                self._unknown(verdict.code)
            if not late:
                self._emit_doubt(answer.cid, verdict.code)
            return
        if late and (verdict.outcome is Outcome.DEFINITE_REJECT or answer.status in TERMINAL_STATUS):
            self.ended(answer.cid)

    def _reported(self, answer: t.Answered) -> bool:
        if max(abs(answer.ts_event), abs(answer.venue_order_id), abs(answer.cost_e8)) > INT64_MAX:
            return False
        self._append(
            REPLY, answer.status or NEW, answer.cid, answer.cum_qty, answer.cost_e8, answer.venue_order_id, answer.ts_event)
        return True

    def _watch_limit(self, account: int, status: int, code: int, message: str, wait_ns: int) -> None:
        if code in self.contract.order_limit_codes and account >= 0:
            self.bans.note(status, code, message, wait_ns or None, self.venue_clock.timestamp_ms(), account)

    def _found(self, cid: bytes, told: t.OrderTold) -> Found | None:
        """A REPLY row for an order that was asked for; None when it is not the one we placed."""
        other = self._otherwise(self.placed(cid) if self.placed is not None else None, told)
        if told.cid is not None and told.cid != cid:
            other = f"client order id {told.client_order_id[:36]}"
        if other:
            self.stats.mismatches += 1
            if cid not in self._mismatched and len(self._mismatched) < 1000:
                self._mismatched.add(cid)
                self.on_mismatch(cid, other)
            return None
        self._append(REPLY, told.status, cid, told.cum_qty, told.cost_e8, told.venue_order_id, told.ts_event)
        return Found(cid, told.status, told.cum_qty, told.status in TERMINAL_STATUS)

    def _otherwise(self, asked: Placed | None, told: t.OrderTold) -> str:
        """What of the order's immutable fields the venue shows otherwise than we asked for; empty: nothing."""
        if asked is None:
            return ""
        if told.instrument != asked.instrument:
            return f"instrument {told.instrument}"
        if told.side != asked.side:
            return f"side {told.side}"
        if told.position_side != asked.position_side:
            return f"position side {told.position_side}"
        # A reduce-only order may be cut by the venue to what there is to close; one that closes a side is reduce-only by nature.
        closes = (asked.position_side == 1 and asked.side < 0) or (asked.position_side == 2 and asked.side > 0)
        cut = (asked.reduce_only or closes) and self.contract.reduce_only_excess == "cut"
        if told.order_qty and (told.order_qty > asked.qty or (told.order_qty < asked.qty and not cut)):
            return f"quantity {told.order_qty}"
        return ""

    def _unknown(self, code: int) -> None:
        self.stats.unknown_codes += 1
        if code not in self._unknown_seen and len(self._unknown_seen) < 1000:
            self._unknown_seen.add(code)
            self.on_unknown_code(code)

    def _emit_doubt(self, cid: bytes, code: int = 0) -> None:
        self.stats.in_doubt += 1
        self._append(IN_DOUBT, 0, cid, code=_int32(code))

    def _append(
        self, kind: int, status: int, cid: bytes, cum: int = 0, cost: int = 0, order_id: int = 0, ts_event: int = 0, code: int = 0
    ) -> None:
        self._batch.append(kind, status, cid, cum, cost, 0, 0, 0, 0, order_id, ts_event, code)
        if not self._due:
            self._due = True
            self._ts_recv = self.clock()
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        if self._batch.count:
            batch, self._batch = self._batch, ReportBatch()
            self.on_reports(batch, self._ts_recv)

    # --- connections that do not answer ---------------------------------------------------------------------------------
    async def _sweep(self) -> None:
        timeout_ns = self.contract.order_ack_timeout_ms * MS_NS
        while True:
            await asyncio.sleep(self.contract.order_ack_timeout_ms / 4000)
            now = self.mono()
            for session in list(self._owing):
                lane = self._lanes.get(session)
                if lane is None or not lane.pending:
                    self._owing.pop(session, None)
                else:
                    self._sweep_lane(lane, now, timeout_ns)
            if self._openings:
                self._rest_work.set()

    def _sweep_lane(self, lane: _Lane, now: int, timeout_ns: int) -> None:
        session = lane.session
        backlog = session.backlog
        drained = session.written - backlog
        if not backlog or drained != lane.drained:
            lane.drained, lane.backlog_ns = drained, now
        elif now - lane.backlog_ns >= self.contract.write_deadline_ms * MS_NS:
            self.stats.write_deadlines += 1
            session.abort("write deadline: the other side takes no bytes")
            return
        oldest = next(iter(lane.pending.values()))
        if session.heard != lane.heard:
            lane.heard, lane.pinged_ns = session.heard, 0
        deaf = lane.pinged_ns >= oldest and lane.pinged_ns > 0
        if now - oldest < timeout_ns:
            if 2 * (now - oldest) >= timeout_ns and not lane.pinged_ns:
                lane.pinged_ns = now
                session.ping()
            return
        if deaf:
            # Half-open: nothing came since the ping, not even a pong. All of it is in doubt now, nothing more goes there.
            self.stats.half_open += 1
            session.abort("half-open: orders unanswered and nothing heard since")
            return
        for cid in [cid for cid, written in lane.pending.items() if now - written >= timeout_ns]:
            del lane.pending[cid]
            lane.doubted[cid] = None
            self.stats.ack_timeouts += 1
            self._emit_doubt(cid)
        while len(lane.doubted) > DOUBTED_MAX:  # bounded: the oldest late answers are given up, queries settle them
            del lane.doubted[next(iter(lane.doubted))]


def ids_of(ids: bytes) -> Iterator[bytes]:
    """Ids of 16 bytes, back to back, one by one."""
    return (ids[at : at + CID_BYTES] for at in range(0, len(ids), CID_BYTES))


def masked(text: bytes) -> bytes:
    """One whole text as a client's frame (RFC 6455, 5.2), under a fresh mask."""
    size = len(text)
    mask = os.urandom(4)
    head = bytes((0x81, 0x80 | size)) if size < 126 else bytes((0x81, 0x80 | 126)) + size.to_bytes(2, "big")
    if size > 0xFFFF:
        raise ValueError("an order is longer than 65535 bytes")
    wide = int.from_bytes(mask * (size // 4 + 1), "little") & ((1 << 8 * size) - 1)
    return head + mask + (int.from_bytes(text, "little") ^ wide).to_bytes(size, "little")


def _int32(code: int) -> int:
    return code if -(1 << 31) <= code < 1 << 31 else 0


__all__ = ["Burst", "GatewayStats", "SessionGateway", "ids_of", "masked"]
