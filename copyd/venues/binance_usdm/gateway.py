"""Orders out over a few persistent WebSocket API connections that each carry many accounts; answers in.

The gateway sends only buffers it is handed: that the journal names every order in them is the pump's business, done
before. What it guarantees itself (semantics 34, 35): every order handed to it ends in a report. Not one byte written:
NOT_SENT. An answer: what ``errors.classify`` says. A connection lost after the write, an answer that names another order
than was asked for, or no answer in time: IN_DOUBT, once, and the answer that still comes is reported too. Doubt is left
through ``query``: which questions are put when, and what an answer proves, is ``copyd.core.doubt``; here they are carried to
the venue (ORDER over the order connections, ORDERS and POSITION over REST) and the answers back.

While the venue bans the address nothing goes out at all, not even a connection attempt. Spans are measured on a monotonic
clock, so that a wall clock that is put right shortens no fence.
"""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from copyd._fast.columns import Columns, ReportBatch
from copyd._fast.encode import Encoder
from copyd._fast.pending import Pending
from copyd._fast.replies import Replies
from copyd.core.doubt import Ask, AskKind, Doubts, Found, Verdict
from copyd.core.identifiers import CID_BYTES
from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.codec import STATUS, HistoryOrder, OrderResult
from copyd.venues.binance_usdm.errors import CODES, NOT_FOUND_CODES, classify
from copyd.venues.binance_usdm.rest import RestClient, RestError, retry_after_ns
from copyd.venues.binance_usdm.signing import QUERY_PREFIX, cut_frames, status_request
from copyd.venues.common import facts
from copyd.venues.common.commissions import Commissions
from copyd.venues.common.connection import Link, Session, watched
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import DEAD, IN_DOUBT, MS_NS, NOT_SENT, REJECT, REPLY, TERMINAL_STATUS, Malformed, Placed
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.limits import Bans, VenueClock
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.signing import Key

#: What the encoder gives: (connection, frames back to back, client order ids of 16 bytes, order slots of 4), in the order of
#: sending.
Burst = tuple[int, bytes, bytes, bytes]

S_NS = 1_000_000_000
#: So many accounts, one after the other, share a connection: what is decided first leaves in one write and not in sixteen.
PINNED_TOGETHER = 16
#: A question is remembered this long after it was put: an answer as late as this still may find the order.
QUESTION_NS = 60 * S_NS
HISTORY_PAGES_MAX = 50
INT32_MAX, INT64_MAX = (1 << 31) - 1, (1 << 63) - 1
#: Codes with which the compiled reader may take a refusal for certain.
REJECTS = [code for code, (outcome, _) in CODES.items() if outcome is Outcome.DEFINITE_REJECT]
#: The part of the address's weight that queries may use; the rest is for snapshots and polls.
QUERY_SHARE = 0.5


class GatewayStats(msgspec.Struct):
    """Counters since the start."""

    orders_sent: int = 0
    orders_not_sent: int = 0
    bytes_sent: int = 0
    rerouted: int = 0
    replies: int = 0
    rejects: int = 0
    in_doubt: int = 0
    ack_timeouts: int = 0
    lost_in_flight: int = 0
    late_replies: int = 0
    malformed: int = 0
    unmatched: int = 0
    queries: int = 0
    queries_failed: int = 0
    queries_not_found: int = 0
    reconnects: int = 0
    lists: int = 0
    positions: int = 0
    dead: int = 0
    held: int = 0
    half_open: int = 0
    write_deadlines: int = 0
    mismatches: int = 0
    unknown_codes: int = 0
    banned_not_sent: int = 0


class _Question(NamedTuple):
    """An ORDER question on the wire."""

    session: Session
    cid: bytes
    put_ns: int


class _Lane:
    """What one living connection still owes us; ids are the 16 bytes."""

    __slots__ = ("backlog_ns", "bursts", "doubted", "drained", "pending", "pinged_ns")

    def __init__(self) -> None:
        self.pending = Pending()
        #: (written at ns, ids back to back, frames heard by then): the timeout sweep reads from the left.
        self.bursts: deque[tuple[int, bytes, int]] = deque()
        self.pinged_ns = 0
        self.drained = 0  # bytes the kernel has taken, and since when no more
        self.backlog_ns = 0
        self.doubted: dict[bytes, None] = {}  # reported IN_DOUBT, oldest first; the answer may still come

    def wrote(self, now: int, ids: bytes, slots: array[int], heard: int) -> None:
        """A burst has left at ``now`` (monotonic ns): 16 bytes of id per order and its slot, in order."""
        self.pending.add_many(ids, slots)
        self.bursts.append((now, ids, heard))


def ids_of(ids: bytes) -> list[bytes]:
    """Ids of 16 bytes, back to back, one by one."""
    return [ids[at : at + CID_BYTES] for at in range(0, len(ids), CID_BYTES)]


def pin_of(account: int, connections: int) -> int:
    """The connection of an account, of so many."""
    return account // PINNED_TOGETHER % connections


class OrderGateway:
    """See the module. Accounts are pinned to ``connections`` lanes; a pinned lane that is down is bypassed."""

    #: Orders rendered and sent at a time: a write or two to a connection.
    chunk_max = 1_024

    def __init__(
        self,
        *,
        url: str,
        connections: int,
        instruments: Instruments,
        contract: VenueContract,
        clock: Callable[[], int],
        venue_clock: VenueClock,
        on_reports: Callable[[ReportBatch, int], None],
        on_connection: Callable[[int, str, str], None] | None = None,
        queries_per_s: float | None = None,
        seed: int = 0,
        rest: RestClient | None = None,
        commissions: Commissions | None = None,
        expected: Callable[[int, int, int], tuple[int, int, bool]] | None = None,
        placed: Callable[[bytes], Placed | None] | None = None,
        on_mismatch: Callable[[bytes, str], None] | None = None,
        on_unknown_code: Callable[[int], None] | None = None,
        mono: Callable[[], int] = time.monotonic_ns,
        encoder: Encoder | None = None,
    ) -> None:
        """``rest``: without it neither history nor position is asked for. ``expected``: see ``Doubts``. ``placed``: what an
        answer is compared with. ``queries_per_s``: request weight a second that settling doubts may use. ``encoder``: holds the
        keys; without it orders come rendered."""
        if connections < 1:
            raise ValueError("at least one connection is needed")
        if expected is not None and rest is None:
            raise ValueError("positions are asked for over REST: a client is needed")
        self.instruments = instruments
        self.contract = contract
        self.clock = clock
        self.venue_clock = venue_clock
        self.encoder = encoder
        self._columns: Columns
        self.on_reports = on_reports
        self.on_connection = on_connection or (lambda connection, state, detail: None)
        self._stats = GatewayStats()
        self.congested: set[int] = set()
        self.mono = mono
        self.rest = rest
        self.placed = placed
        self.commissions = commissions or Commissions(instruments, lambda instrument: 0)
        self.on_mismatch = on_mismatch or (lambda cid, what: None)
        self.on_unknown_code = on_unknown_code or (lambda code: None)
        self.bans = rest.bans if rest is not None else Bans(contract, mono)
        limit = contract.limit("weight", "ip")
        self._weight_per_s = queries_per_s or QUERY_SHARE * limit.limit * 1000 / limit.interval_ms
        terms = contract.doubt_terms(self._weight_per_s, lists=rest is not None, position=expected is not None)
        self.doubts = Doubts(terms, expected)
        self._lists = {AskKind.ORDERS: self._ask_orders, AskKind.POSITION: self._ask_position, AskKind.TRADES: self._ask_trades}

        async def address() -> str:
            await self.bans.passed()
            return url if "?" in url else f"{url}?returnRateLimits=false"  # our own counts serve; answers stay short

        rng = random.Random(seed)
        self._links = [
            Link(
                f"orders-{index}",
                address,
                on_frame=self._on_frame,
                on_open=self._on_open,
                on_lost=self._on_lost,
                on_congestion=self._on_congestion,
                rng=random.Random(rng.random()),
                life_s=contract.connection_life_ms / 1000,
                frame_bytes_max=contract.frame_bytes_max,
                ping_idle_s=contract.ping_idle_ms / 1000,
                ping_reply_s=contract.ping_reply_ms / 1000,
            )
            for index in range(connections)
        ]
        self._index = {id(link): index for index, link in enumerate(self._links)}
        self._lanes: dict[Session, _Lane] = {}
        self._replies = Replies(REJECTS)
        instruments.teach_reader(self._replies)
        self._counted = 0, 0
        #: Whether the compiled reader can compare an answer with its order: where nobody wants it, or it knows the tables.
        self._compiled = placed is None
        self._keys: dict[int, Key] = {}
        self._ts_recv = 0
        self._wall_ahead = clock() - mono()  # a later difference is a wall clock that was put right
        self._questions: dict[int, _Question] = {}
        self._turns: dict[bytes, int] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._mismatched: set[str] = set()
        self._unknown_seen: set[int] = set()
        self._opened = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def bind(self, columns: Columns) -> None:
        """The tables that hold the orders: they are rendered from there, and with them the compiled reader makes the
        comparisons of ``placed`` itself."""
        self._columns = self._replies.columns = columns
        self._compiled = True

    @property
    def stats(self) -> GatewayStats:
        """Counters since the start."""
        stats, (replies, rejects) = self._stats, self._counted
        self._counted = self._replies.replies, self._replies.rejects
        stats.replies += self._counted[0] - replies
        stats.rejects += self._counted[1] - rejects
        return stats

    # --- life ---------------------------------------------------------------------------------------------------------
    @property
    def connections(self) -> int:
        return len(self._links)

    def pin_of(self, account: int) -> int:
        """The connection that carries the orders of an account as long as it is up."""
        return pin_of(account, len(self._links))

    @property
    def open_connections(self) -> int:
        return sum(1 for link in self._links if link.session is not None and link.session.open)

    @property
    def ready(self) -> bool:
        """At least one connection carries orders."""
        return self.open_connections > 0

    def windows(self) -> list[tuple[int, int]]:
        """Of every open connection: bytes its window takes, its round trip in ns."""
        sessions = [link.session for link in self._links if link.session is not None and link.session.open]
        return [window for session in sessions if (window := session.window()) is not None]

    @property
    def in_flight(self) -> int:
        """Orders written and not answered, on all connections."""
        return sum(len(lane.pending) for lane in self._lanes.values())

    @property
    def queries_open(self) -> int:
        """Orders in doubt that are asked about."""
        return self.doubts.doubted

    @property
    def queries_per_s(self) -> float:
        """Request weight a second that settling doubts may use."""
        return self._weight_per_s

    @queries_per_s.setter
    def queries_per_s(self, weight: float) -> None:
        self._weight_per_s = weight
        old = self.doubts.terms
        self.doubts.terms = self.contract.doubt_terms(
            weight, lists=old.weight_orders > 0, position=old.weight_position > 0)

    @property
    def banned_until(self) -> int:
        """When the venue takes requests of this address again, on ``clock``; 0 = it does now."""
        return self.wall(self.bans.until())

    def limited_until(self, account: int) -> int:
        """As ``banned_until``, for orders of one account."""
        return self.wall(self.bans.until(account))

    def wall(self, mono_ns: int) -> int:
        """A moment of the monotonic clock on ``clock``; 0 stays 0."""
        return self.clock() + mono_ns - self.mono() if mono_ns else 0

    def register(self, encoder: Encoder, account: int, key: Key, connection: int | None = None) -> None:
        """Give an account's key to the encoder, pinned to a connection, and keep it for queries."""
        lane = account % len(self._links) if connection is None else connection
        key.reveal_to(lambda api_key, secret: encoder.set_account(account, api_key, secret, lane))
        self._keys[account] = key

    def forget(self, account: int) -> None:
        """Its key is gone: encoding for it is an error, what is in doubt of it cannot be asked about."""
        self._keys.pop(account, None)
        if self.encoder is not None:
            self.encoder.forget_account(account)

    def _key_of(self, account: int) -> Key:
        key = self._keys.get(account)
        if key is None:
            raise VenueUnavailable("its key is gone")
        return key

    async def start(self, timeout_s: float = 10.0) -> None:
        """Open the connections; raises when not one opens in time. The others keep trying."""
        for link in self._links:
            link.start()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self.open_connections < len(self._links) and (left := deadline - loop.time()) > 0:
            self._opened.clear()
            try:
                await asyncio.wait_for(self._opened.wait(), left)
            except TimeoutError:
                break
        if not self.ready:
            problem = next((link.last_error for link in self._links if link.last_error), "no answer")
            await self.stop(0.0)
            raise VenueUnavailable(f"no order connection opened in {timeout_s:g} s: {problem}")
        self._tasks = [
            watched(loop.create_task(self._sweep(), name="orders-sweep")),
            watched(loop.create_task(self._ask(), name="orders-ask")),
        ]

    async def stop(self, drain_s: float = 5.0) -> None:
        """Wait for answers to what is in flight, then close; what is still open then is reported IN_DOUBT."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + drain_s
        while self.in_flight and loop.time() < deadline:  # noqa: ASYNC110 - bounded, and once per process
            await asyncio.sleep(0.02)
        self._stopping = True
        tasks = [*self._tasks, *self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(link.stop() for link in self._links))
        self._flush()

    # --- out ----------------------------------------------------------------------------------------------------------
    def arrange(self, slots: array, turn: int) -> array:
        """Rows of one connection together; ``turn`` says whose connection is first."""
        assert self.encoder is not None
        return array("I", self.encoder.arrange(self._columns, slots, turn & 0xFFFFFFFF))

    def render(self, slots: array) -> list[Burst]:
        """Signed frames for these order rows; nothing leaves."""
        assert self.encoder is not None
        return self.encoder.encode(self._columns, slots, self.venue_clock.timestamp_ms())

    def send(self, bursts: Sequence[Burst]) -> int:
        """Hand committed orders to the kernel; returns how many. First all writes, then all book-keeping."""
        written: list[tuple[Session, bytes, bytes]] = []
        count = 0
        if self.bans.any:
            bursts = self._allowed(bursts)
        for connection, buffer, ids, slots in bursts:
            session = self._pick(connection)
            if session is not None:
                try:
                    session.write(buffer)
                except OSError:
                    session = None
            if session is None:
                self.stats.orders_not_sent += len(ids) // CID_BYTES
                for cid in ids_of(ids):
                    self._emit(NOT_SENT, 0, cid)
                continue
            written.append((session, ids, slots))
            count += len(ids) // CID_BYTES
            self.stats.bytes_sent += len(buffer)
        now = self.mono()
        for session, ids, slots in written:
            self._lanes[session].wrote(now, ids, array("I", slots), session.heard)
        self.stats.orders_sent += count
        return count

    def _allowed(self, bursts: Sequence[Burst]) -> list[Burst]:
        """What may go out while a ban stands; the rest is proven not sent, reductions too: knocking only prolongs it."""
        kept: list[Burst] = []
        banned = self.bans.until() > 0
        limited = self.bans.accounts()
        for burst in bursts:
            connection, buffer, ids, slots = burst
            cids = ids_of(ids)
            refused = set(cids) if banned else {cid for cid in cids if limited and self._account_of(cid) in limited}
            if not refused:
                kept.append(burst)
                continue
            self.stats.orders_not_sent += len(refused)
            self.stats.banned_not_sent += len(refused)
            rows = zip(cids, array("I", slots), cut_frames(buffer), strict=True)
            going = [(cid, slot, frame) for cid, slot, frame in rows if cid not in refused]
            for cid in cids:
                if cid in refused:
                    self._emit(NOT_SENT, 0, cid)
            if going:
                kept.append((
                    connection, b"".join(frame for _, _, frame in going), b"".join(cid for cid, _, _ in going),
                    array("I", [slot for _, slot, _ in going]).tobytes()))
        return kept

    def _account_of(self, cid: str | bytes) -> int:
        raw = cid if isinstance(cid, bytes) else facts.cid_bytes(cid)
        asked = self.placed(raw) if self.placed is not None and raw is not None else None
        return asked.account if asked is not None else -1

    def _pick(self, connection: int) -> Session | None:
        session = self._links[connection].session
        if session is not None and session.open:
            return session
        # Any connection takes any account; the pin only keeps one account's orders in sequence while all is well.
        for step in range(1, len(self._links)):
            session = self._links[(connection + step) % len(self._links)].session
            if session is not None and session.open:
                self.stats.rerouted += 1
                return session
        return None

    def query(
        self, cid: str | bytes, account: int, instrument: int, ts_signed_ns: int, exposure: int = 0, seen: bool = False,
        ts_placed_ns: int | None = None,
    ) -> None:
        """Ask for an order until it is found to have ended or proven absent; asking twice for the same id is once.

        ``ts_signed_ns``: on ``clock``, when it was signed or any later moment. The largest ``exposure`` is asked for first.
        ``ts_placed_ns``: when it was signed or any earlier moment: its history is read from there.
        ``seen``: the venue has shown it alive, so that it cannot be absent: only its end is looked for.
        """
        raw = cid if isinstance(cid, bytes) else bytes.fromhex(cid)
        if account not in self._keys:
            raise ValueError(f"account {account} has no key")
        now = self.mono()
        # Stamped before or after a step of the wall clock: the later of the two makes the fence no shorter.
        signed = ts_signed_ns - min(self._wall_ahead, self.clock() - now)
        placed = None if ts_placed_ns is None else min(signed, now) - max(0, ts_signed_ns - ts_placed_ns)
        self.doubts.add(raw, account, instrument, min(signed, now), exposure, seen, placed)

    def tell(self, cid: bytes, account: int, instrument: int, listed: bool) -> bool:
        """Ask for the executions of an order that has ended: see ``Doubts.tell``. Without ``rest`` nobody can."""
        return self.rest is not None and self.doubts.tell(cid, account, instrument, listed)

    @property
    def untold(self) -> int:
        """Orders whose executions are asked for."""
        return len(self.doubts) - self.doubts.doubted

    def ended(self, cid: str | bytes) -> None:
        """Its end was told on another way (user stream): no more questions."""
        raw = cid if isinstance(cid, bytes) else bytes.fromhex(cid)
        self.doubts.ended(raw)
        self._turns.pop(raw, None)

    # --- in -----------------------------------------------------------------------------------------------------------
    def _on_open(self, session: Session) -> None:
        lane = self._lanes[session] = _Lane()
        if self._compiled:
            session.ear.reads(self._replies, self._see_to_flush, lane.pending)
        self._opened.set()
        index = self._index[id(session.link)]
        if session.link.connects > 1:
            self.stats.reconnects += 1
        self.on_connection(index, "open", "")

    def _on_lost(self, session: Session) -> None:
        lane = self._lanes.pop(session, None)
        index = self._index[id(session.link)]
        self.congested.discard(index)
        if lane is not None:
            self.stats.lost_in_flight += len(lane.pending)
            for _, ids, _ in lane.bursts:  # what is owed is of these, in the order it was written
                for cid in ids_of(lane.pending.take(ids)):
                    self._emit(IN_DOUBT, 0, cid)
        now = self.mono()
        for number in [number for number, question in self._questions.items() if question.session is session]:
            del self._questions[number]
            self._failed(now, number)
        self.on_connection(index, "closed", session.reason)

    def _on_congestion(self, session: Session, congested: bool) -> None:
        index = self._index[id(session.link)]
        if congested:
            self.congested.add(index)
        else:
            self.congested.discard(index)
        self.on_connection(index, "congested" if congested else "drained", "")

    def _on_frame(self, session: Session, payload: bytes) -> None:
        lane = self._lanes.get(session)
        if self._compiled and lane is not None and self._replies.reply(payload, lane.pending):
            if not self._replies.due:
                self._see_to_flush()
            return
        reply = codec.decode_order_reply(payload)
        if isinstance(reply, Malformed):
            self.stats.malformed += 1  # whose answer it was is unknown: that order runs into the timeout and is asked about
            return
        name = reply.id
        if lane is None or not isinstance(name, str):
            self.stats.unmatched += 1
            return
        raw = facts.own_cid(name)
        if raw is not None and lane.pending.pop(raw) >= 0:
            late = False
        elif raw is not None and raw in lane.doubted:
            del lane.doubted[raw]
            late = True
            self.stats.late_replies += 1
        elif name.startswith(QUERY_PREFIX):
            number = name[len(QUERY_PREFIX) :]
            self._answered(int(number) if number.isascii() and number.isdigit() else -1, reply)
            return
        else:
            self.stats.unmatched += 1
            return
        error = reply.error
        if error is not None and abs(error.code) > INT32_MAX:
            error.code = 0  # no code of the venue
        verdict = classify(reply.status, error.code if error else 0, error.msg if error else "")
        if error is not None:
            self._watch_error(reply.status, error, name)
        status = 0
        if verdict.outcome is Outcome.ACCEPTED and reply.result is not None and (status := self._report(name, reply.result)):
            self.stats.replies += 1
        elif verdict.outcome is Outcome.DEFINITE_REJECT:
            self.stats.rejects += 1
            self._emit(REJECT, 8, name, code=verdict.code)
        else:
            if verdict.reason == "unknown_code":
                self._unknown(verdict.code)
            if not late:
                self._emit(IN_DOUBT, 0, name, code=verdict.code)
            return
        if late and (not status or status in TERMINAL_STATUS):
            self.ended(name)

    def _watch_error(self, status: int, error: codec.ErrorBody, name: str = "") -> None:
        """418 and 429 are about what comes next, whatever they are the answer to."""
        if status in (418, 429):
            venue_ms = self.venue_clock.timestamp_ms()
            account = self._account_of(name) if name else -1
            self.bans.note(status, error.code, error.msg, retry_after_ns(error.data, venue_ms), venue_ms, account)

    def _unknown(self, code: int) -> None:
        self.stats.unknown_codes += 1
        if code not in self._unknown_seen and len(self._unknown_seen) < 1000:
            self._unknown_seen.add(code)
            self.on_unknown_code(code)

    def _found(self, name: str, result: OrderResult) -> Found | None:
        """As ``_report``, for an answer to a question."""
        instrument = self.instruments.find(result.symbol)
        status = self._report(name, result)
        if instrument is None or not status:
            return None
        return Found(bytes.fromhex(name), status, instrument.lots(result.executedQty), status in TERMINAL_STATUS)

    def _report(self, name: str, result: OrderResult) -> int:
        """A REPLY row for an order object; its state, 0 when it cannot be read exactly or is not what was asked for."""
        instrument = self.instruments.find(result.symbol)
        status = STATUS.get(result.status, 0)
        raw = facts.cid_bytes(name)
        if instrument is None or not status or raw is None:
            self.stats.malformed += 1
            return 0
        try:
            cum = instrument.lots(result.executedQty)
            cost = facts.cost_e8(result.avgPrice, result.executedQty, result.cumQuote) if cum else 0
            other = ""
            if result.clientOrderId and result.clientOrderId != name:
                other = f"client order id {result.clientOrderId[:36]}"
            elif self.placed is not None:
                other = self._otherwise(self.placed(raw), result, instrument.index)
            if max(abs(result.updateTime) * MS_NS, abs(result.orderId), abs(cost)) > INT64_MAX:
                raise ValueError("a number beyond 63 bits")
        except ValueError:
            self.stats.malformed += 1
            return 0
        if other:
            self.stats.mismatches += 1
            if name not in self._mismatched and len(self._mismatched) < 1000:
                self._mismatched.add(name)
                self.on_mismatch(raw, other)
            return 0
        self._append(REPLY, status, raw, cum, cost, result.orderId, result.updateTime * MS_NS)
        return status

    def _otherwise(self, asked: Placed | None, result: OrderResult, instrument: int) -> str:
        """What of the order's immutable fields the venue shows otherwise than we asked for; empty: nothing."""
        if asked is None:
            return ""
        if instrument != asked.instrument:
            return f"symbol {result.symbol}"
        if result.side and codec.SIDE.get(result.side) != asked.side:
            return f"side {result.side[:10]}"
        if result.positionSide and codec.POSITION_SIDE.get(result.positionSide) != asked.position_side:
            return f"position side {result.positionSide[:10]}"
        lots = self.instruments[instrument].lots(result.origQty) if result.origQty else asked.qty
        # A reduce-only order is cut by the venue to what there is to close.
        if lots > asked.qty or (lots < asked.qty and not asked.reduce_only):
            return f"quantity {result.origQty[:30]}"
        return ""

    def _emit(self, kind: int, status: int, cid: str | bytes, ts_event: int = 0, code: int = 0) -> None:
        if kind == IN_DOUBT:
            self.stats.in_doubt += 1
        raw = cid if isinstance(cid, bytes) else facts.cid_bytes(cid)
        if raw is None:
            self.stats.unmatched += 1
            return
        self._append(kind, status, raw, ts_event=ts_event, code=code)

    def _append(
        self, kind: int, status: int, raw: bytes, cum: int = 0, cost: int = 0, order_id: int = 0, ts_event: int = 0, code: int = 0
    ) -> None:
        """The one place where rows that were made here enter the batch."""
        self._replies.batch.append(kind, status, raw, cum, cost, 0, 0, 0, 0, order_id, ts_event, code)
        if not self._replies.due:
            self._see_to_flush()

    def _see_to_flush(self) -> None:
        """With the first row: note when; the batch is delivered when the loop has read what is there to read."""
        self._replies.due = True
        self._ts_recv = self.clock()
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._replies.due = False
        batch = self._replies.batch
        if batch.count:
            self._replies.batch = ReportBatch()
            self.on_reports(batch, self._ts_recv)

    # --- connections that do not answer ---------------------------------------------------------------------------------
    async def _sweep(self) -> None:
        timeout_ns = self.contract.order_ack_timeout_ms * MS_NS
        deadline_ns = self.contract.write_deadline_ms * MS_NS
        while True:
            await asyncio.sleep(self.contract.order_ack_timeout_ms / 4000)
            now = self.mono()
            for session, lane in list(self._lanes.items()):
                self._sweep_lane(session, lane, now, timeout_ns, deadline_ns)
            while self._questions:
                number = next(iter(self._questions))
                if now - self._questions[number].put_ns < QUESTION_NS:
                    break
                del self._questions[number]

    def _sweep_lane(self, session: Session, lane: _Lane, now: int, timeout_ns: int, deadline_ns: int) -> None:
        backlog = session.backlog
        drained = session.written - backlog
        if not backlog or drained != lane.drained:
            lane.drained, lane.backlog_ns = drained, now
        elif now - lane.backlog_ns >= deadline_ns:
            self.stats.write_deadlines += 1
            session.abort("write deadline: the other side takes no bytes")
            return
        while lane.bursts:
            written, ids, heard = lane.bursts[0]
            if not lane.pending.any_of(ids):
                lane.bursts.popleft()
                continue
            deaf = session.heard == heard
            if now - written < timeout_ns:
                if deaf and 2 * (now - written) >= timeout_ns and lane.pinged_ns < written:
                    lane.pinged_ns = now  # a living one answers this before the timeout
                    session.ping()
                break
            if deaf and lane.pinged_ns >= written:
                # Half-open: nothing came since the write, not even a pong. All of it is in doubt now, nothing more goes there.
                self.stats.half_open += 1
                session.abort("half-open: orders unanswered and nothing heard since")
                return
            lane.bursts.popleft()
            for cid in ids_of(lane.pending.take(ids)):
                lane.doubted[cid] = None
                self.stats.ack_timeouts += 1
                self._emit(IN_DOUBT, 0, cid)
        while len(lane.doubted) > 100_000:  # bounded: the oldest late answers are given up, queries settle them
            del lane.doubted[next(iter(lane.doubted))]

    # --- doubt --------------------------------------------------------------------------------------------------------
    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(0.01 if len(self.doubts) else 0.05)
            if not len(self.doubts) or not self.ready:
                continue
            now = self.mono()
            self.doubts.pause(self.bans.until())
            timeouts = self.doubts.stats.timeouts
            asks = self.doubts.asks(now)
            self.stats.queries_failed += self.doubts.stats.timeouts - timeouts
            for ask in asks:
                self.stats.queries += 1
                if ask.kind is AskKind.ORDER:
                    self._ask_order(now, ask)
                else:
                    work = self._lists[ask.kind](ask)
                    call = watched(asyncio.get_running_loop().create_task(work, name=f"orders-ask-{ask.id}"))
                    self._calls.add(call)
                    call.add_done_callback(self._calls.discard)

    def _ask_order(self, now: int, ask: Ask) -> None:
        # Another connection each time: one that swallows everything must not swallow every question.
        turn = self._turns[ask.cid] = self._turns.get(ask.cid, -1) + 1
        session = self._pick((ask.account + turn) % len(self._links))
        key = self._keys.get(ask.account)
        if session is None or key is None:
            self._failed(now, ask.id)
            return
        self._questions[ask.id] = _Question(session, ask.cid, now)
        request = status_request(
            key,
            self.instruments[ask.instrument].symbol,
            ask.cid.hex(),
            self.venue_clock.timestamp_ms(),
            self.contract.recv_window_ms,
            ask.id,
        )
        session.send_text(request)

    def _failed(self, now: int, number: int) -> None:
        self.stats.queries_failed += 1
        self.doubts.failed(now, number)

    def _answered(self, number: int, reply: codec.OrderReply) -> None:
        question = self._questions.pop(number, None)
        if question is None:
            self.stats.unmatched += 1
            return
        now = self.mono()
        error = reply.error
        if error is not None:
            self._watch_error(reply.status, error)
        if reply.status == 200 and reply.result is not None:
            found = self._found(question.cid.hex(), reply.result)
            if found is not None:
                self._settled(self.doubts.answered_order(now, number, found))
                if found.ended:
                    self._turns.pop(question.cid, None)
                return
        elif error is not None and error.code in NOT_FOUND_CODES and reply.status < 500:
            self.stats.queries_not_found += 1
            self._settled(self.doubts.answered_order(now, number, None))
            return
        self._failed(now, number)

    async def _ask_orders(self, ask: Ask) -> None:
        """The history of an account in an instrument; what cannot be read of it is no absence."""
        self.stats.lists += 1
        try:
            rows, complete = await self._history(ask)
        except (VenueUnavailable, RestError, ValueError):
            self._failed(self.mono(), ask.id)
            return
        found: list[Found] = []
        for row in rows:
            raw = facts.cid_bytes(row.clientOrderId)
            if raw is None or raw not in self.doubts:
                continue
            told = self._found(row.clientOrderId, row)
            if told is None:
                complete = False
            else:
                found.append(told)
                if told.ended:
                    self._turns.pop(raw, None)
        self._settled(self.doubts.answered_orders(self.mono(), ask.id, found, complete))

    async def _history(self, ask: Ask) -> tuple[list[HistoryOrder], bool]:
        """``allOrders`` since a time: windows as long as the venue allows, pages as large; and whether that is all of it."""
        assert self.rest is not None
        contract = self.contract
        now_ms = self.venue_clock.timestamp_ms()
        oldest = now_ms - contract.order_history_ms
        start = now_ms - max(0, self.mono() - ask.since_ns) // MS_NS - 1
        complete = start >= oldest
        start = max(start, oldest)
        rows: list[HistoryOrder] = []
        for _ in range(HISTORY_PAGES_MAX):
            end = start + contract.backfill_window_ms - 1
            params: dict[str, Any] = {
                "symbol": self.instruments[ask.instrument].symbol, "startTime": start, "limit": contract.backfill_page_max,
            }  # fmt: skip
            last = end >= now_ms
            if not last:
                params["endTime"] = end
            page = codec.orders(await self.rest.call("GET", "/fapi/v1/allOrders", params, self._key_of(ask.account)))
            rows += page
            if len(page) < contract.backfill_page_max:
                if last:
                    return rows, complete
                start = end + 1
                continue
            newest = max(row.time for row in page)
            if newest <= start:
                break  # a page full of one millisecond: what follows it cannot be reached
            start = newest
        return rows, False

    async def _ask_trades(self, ask: Ask) -> None:
        """The executions of one order: each is booked once by its own number, with its fee."""
        assert self.rest is not None
        asked = self.placed(ask.cid) if self.placed is not None else None
        if asked is None or not asked.venue_order_id:
            self.doubts.answered_trades(self.mono(), ask.id, asked is None)
            return
        instrument = self.instruments[ask.instrument]
        params: dict[str, Any] = {"symbol": instrument.symbol, "orderId": asked.venue_order_id, "limit": 1000}
        try:
            rows = codec.trades(await self.rest.call("GET", "/fapi/v1/userTrades", params, self._key_of(ask.account)))
            for row in rows:
                if row.orderId == asked.venue_order_id and row.symbol == instrument.symbol:
                    self._executed(ask.cid, row, instrument)
        except (VenueUnavailable, RestError, ValueError):
            self._failed(self.mono(), ask.id)
            return
        self._flush()
        told = self.placed(ask.cid) if self.placed is not None else None
        self.doubts.answered_trades(self.mono(), ask.id, told is None or not told.lacking)

    def _executed(self, raw: bytes, row: codec.UserTrade, instrument: Instrument) -> None:
        """An execution that a list told: it moves no quantity, its price and fee are booked unless they were before."""
        fee = self.commissions.e8(row.commission, row.commissionAsset, instrument)
        if fee is None:
            raise ValueError(f"no mark yet to put {row.commissionAsset} into {instrument.margin_asset} by")
        self._replies.batch.append(
            facts.TRADE, STATUS["FILLED"], raw, 0, 0, instrument.lots(row.qty), instrument.ticks(row.price), fee, row.id,
            row.orderId, row.time * MS_NS,
        )  # fmt: skip
        self._ts_recv = self.clock()

    async def _ask_position(self, ask: Ask) -> None:
        assert self.rest is not None
        self.stats.positions += 1
        instrument = self.instruments[ask.instrument]
        try:
            body = await self.rest.call(
                "GET", "/fapi/v3/positionRisk", {"symbol": instrument.symbol}, self._key_of(ask.account))
            net = net_short = 0
            for row in codec.positions(body):
                if row.symbol != instrument.symbol:
                    continue
                if row.positionSide == "SHORT":
                    net_short += instrument.lots(row.positionAmt)
                else:
                    net += instrument.lots(row.positionAmt)
        except (VenueUnavailable, RestError, ValueError):
            self._failed(self.mono(), ask.id)
            return
        self._settled(self.doubts.answered_position(self.mono(), ask.id, net, net_short))

    def _settled(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.kind == DEAD:
                self.stats.dead += 1
                self._turns.pop(verdict.cid, None)
            else:
                self.stats.held += 1
            self._append(verdict.kind, 0, verdict.cid, ts_event=self.wall(verdict.issued_ns))
