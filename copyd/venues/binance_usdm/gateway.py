"""Orders out over a few persistent WebSocket API connections that each carry many accounts; answers in.

The gateway sends only buffers it is handed: that the journal names every order in them is the pump's business, done
before. What it guarantees itself (semantics 34, 35): every order handed to it ends in a report. Not one byte written:
NOT_SENT. An answer: what ``errors.classify`` says. A connection lost after the write, or no answer in time: IN_DOUBT,
once, and the answer that still comes is reported too. Doubt is left by ``query``: found, or "not found" to a question
*issued* after the fence; an error while asking is not an answer.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from copyd._fast.columns import ReportBatch
from copyd._fast.encode import Encoder
from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.codec import (
    DEAD,
    IN_DOUBT,
    NOT_SENT,
    REJECT,
    REPLY,
    STATUS,
    TERMINAL_STATUS,
    Malformed,
    OrderResult,
)
from copyd.venues.binance_usdm.connection import Link, Session, watched
from copyd.venues.binance_usdm.contract import MS_NS, VenueContract
from copyd.venues.binance_usdm.errors import NOT_FOUND_CODES, Outcome, classify
from copyd.venues.binance_usdm.instruments import Instruments
from copyd.venues.binance_usdm.rest import VenueClock
from copyd.venues.binance_usdm.signing import QUERY_PREFIX, Key, status_request

#: What the encoder gives: (connection, frames back to back, 32-hex client order ids, order slots), in the order of sending.
Burst = tuple[int, bytes, list[str], list[int]]

S_NS = 1_000_000_000
QUERY_BACKOFF_S = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
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


class _Query:
    __slots__ = ("account", "attempt", "cid", "instrument", "issued_ns", "session", "ts_signed_ns")

    def __init__(self, cid: str, account: int, instrument: int, ts_signed_ns: int) -> None:
        self.cid, self.account, self.instrument, self.ts_signed_ns = cid, account, instrument, ts_signed_ns
        self.attempt = 0
        self.issued_ns = 0  # of the question that is under way, 0 = none
        self.session: Session | None = None


class _Lane:
    """What one living connection still owes us."""

    __slots__ = ("_pending", "bursts", "doubted", "unbooked")

    def __init__(self) -> None:
        self._pending: dict[str, int] = {}
        self.unbooked: list[tuple[list[str], list[int]]] = []  # written, not yet in ``pending``
        self.bursts: deque[tuple[int, list[str]]] = deque()  # (written at ns, ids): the timeout sweep reads from the left
        self.doubted: dict[str, int] = {}  # reported IN_DOUBT, the answer may still come

    @property
    def pending(self) -> dict[str, int]:
        """Request id -> order slot. Filled when first asked for: ten thousand entries are no work for between two writes."""
        for ids, slots in self.unbooked:
            self._pending.update(zip(ids, slots, strict=True))
        self.unbooked.clear()
        return self._pending


class OrderGateway:
    """See the module. Accounts are pinned to ``connections`` lanes; a pinned lane that is down is bypassed."""

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
    ) -> None:
        if connections < 1:
            raise ValueError("at least one connection is needed")
        self.instruments = instruments
        self.contract = contract
        self.clock = clock
        self.venue_clock = venue_clock
        self.on_reports = on_reports
        self.on_connection = on_connection or (lambda connection, state, detail: None)
        self.stats = GatewayStats()
        self.congested: set[int] = set()
        limit = contract.limit("weight", "ip")
        weight_per_s = limit.limit * 1000 / limit.interval_ms
        self.queries_per_s = queries_per_s or QUERY_SHARE * weight_per_s / contract.weight("order.status")

        async def address() -> str:
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
            )
            for index in range(connections)
        ]
        self._index = {id(link): index for index, link in enumerate(self._links)}
        self._lanes: dict[Session, _Lane] = {}
        self._keys: dict[int, Key] = {}
        self._batch = ReportBatch()
        self._ts_recv = 0
        self._flush_due = False
        self._queries: dict[str, _Query] = {}
        self._due: list[tuple[int, int, str]] = []
        self._order = 0
        self._tokens = 0.0
        self._tokens_at = 0
        self._paused_until_ns = 0
        self._opened = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    # --- life ---------------------------------------------------------------------------------------------------------
    @property
    def connections(self) -> int:
        return len(self._links)

    @property
    def open_connections(self) -> int:
        return sum(1 for link in self._links if link.session is not None and link.session.open)

    @property
    def ready(self) -> bool:
        """At least one connection carries orders."""
        return self.open_connections > 0

    @property
    def in_flight(self) -> int:
        """Orders written and not answered, on all connections."""
        return sum(len(lane.pending) for lane in self._lanes.values())

    @property
    def queries_open(self) -> int:
        return len(self._queries)

    def register(self, encoder: Encoder, account: int, key: Key, connection: int | None = None) -> None:
        """Give an account's key to the encoder, pinned to a connection, and keep it for queries."""
        lane = account % len(self._links) if connection is None else connection
        key.reveal_to(lambda api_key, secret: encoder.set_account(account, api_key, secret, lane))
        self._keys[account] = key

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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(link.stop() for link in self._links))
        self._flush()

    # --- out ----------------------------------------------------------------------------------------------------------
    def send(self, bursts: Sequence[Burst]) -> int:
        """Hand committed orders to the kernel; returns how many. First all writes, then all book-keeping."""
        written: list[tuple[Session, list[str], list[int]]] = []
        count = 0
        for connection, buffer, ids, slots in bursts:
            session = self._pick(connection)
            if session is not None:
                try:
                    session.write(buffer)
                except OSError:
                    session = None
            if session is None:
                self.stats.orders_not_sent += len(ids)
                for cid in ids:
                    self._emit(NOT_SENT, 0, cid)
                continue
            written.append((session, ids, slots))
            count += len(ids)
            self.stats.bytes_sent += len(buffer)
        now = self.clock()
        for session, ids, slots in written:
            lane = self._lanes[session]
            lane.unbooked.append((ids, slots))
            lane.bursts.append((now, ids))
        self.stats.orders_sent += count
        return count

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

    def query(self, cid: str | bytes, account: int, instrument: int, ts_signed_ns: int) -> None:
        """Ask for an order until it is found or proven absent; asking twice for the same id is once."""
        name = cid.hex() if isinstance(cid, bytes) else cid
        if name in self._queries:
            return
        if account not in self._keys:
            raise ValueError(f"account {account} has no key")
        self._queries[name] = _Query(name, account, instrument, ts_signed_ns)
        self._plan(name, self.clock())

    # --- in -----------------------------------------------------------------------------------------------------------
    def _on_open(self, session: Session) -> None:
        self._lanes[session] = _Lane()
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
            for cid in lane.pending:
                self._emit(IN_DOUBT, 0, cid)
        for query in [q for q in self._queries.values() if q.session is session]:
            self._again(query)
        self.on_connection(index, "closed", session.reason)

    def _on_congestion(self, session: Session, congested: bool) -> None:
        index = self._index[id(session.link)]
        if congested:
            self.congested.add(index)
        else:
            self.congested.discard(index)
        self.on_connection(index, "congested" if congested else "drained", "")

    def _on_frame(self, session: Session, payload: bytes) -> None:
        reply = codec.decode_order_reply(payload)
        if isinstance(reply, Malformed):
            self.stats.malformed += 1  # whose answer it was is unknown: that order runs into the timeout and is asked about
            return
        name = reply.id
        lane = self._lanes.get(session)
        if lane is None or not isinstance(name, str):
            self.stats.unmatched += 1
            return
        if lane.pending.pop(name, None) is not None:
            late = False
        elif name in lane.doubted:
            del lane.doubted[name]
            late = True
            self.stats.late_replies += 1
        elif name.startswith(QUERY_PREFIX):
            self._answered(name[len(QUERY_PREFIX) :], reply)
            return
        else:
            self.stats.unmatched += 1
            return
        error = reply.error
        verdict = classify(reply.status, error.code if error else 0, error.msg if error else "")
        if verdict.outcome is Outcome.ACCEPTED and reply.result is not None and self._report(name, reply.result):
            self.stats.replies += 1
        elif verdict.outcome is Outcome.DEFINITE_REJECT:
            self.stats.rejects += 1
            self._emit(REJECT, 8, name, code=verdict.code)
        elif not late:
            self._emit(IN_DOUBT, 0, name, code=verdict.code)

    def _report(self, name: str, result: OrderResult) -> bool:
        """A REPLY row for an order object; False when the object cannot be read exactly."""
        instrument = self.instruments.find(result.symbol)
        status = STATUS.get(result.status, 0)
        if instrument is None or not status:
            self.stats.malformed += 1
            return False
        try:
            cum = instrument.lots(result.executedQty)
            cost = codec.cost_e8(result.avgPrice, result.executedQty, result.cumQuote) if cum else 0
        except ValueError:
            self.stats.malformed += 1
            return False
        self._emit(REPLY, status, name, cum, cost, result.orderId, result.updateTime * MS_NS)
        return True

    def _emit(
        self, kind: int, status: int, cid: str, cum: int = 0, cost: int = 0, order_id: int = 0, ts_event: int = 0, code: int = 0
    ) -> None:
        """The one place where rows enter the batch; it is delivered when the loop has read what is there to read."""
        if kind == IN_DOUBT:
            self.stats.in_doubt += 1
        raw = codec.cid_bytes(cid)
        if raw is None:
            self.stats.unmatched += 1
            return
        self._batch.append(kind, status, raw, cum, cost, 0, 0, 0, 0, order_id, ts_event, code)
        if not self._flush_due:
            self._flush_due = True
            self._ts_recv = self.clock()
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._batch.count:
            batch, self._batch = self._batch, ReportBatch()
            self.on_reports(batch, self._ts_recv)

    # --- doubt --------------------------------------------------------------------------------------------------------
    async def _sweep(self) -> None:
        timeout_ns = self.contract.order_ack_timeout_ms * MS_NS
        while True:
            await asyncio.sleep(self.contract.order_ack_timeout_ms / 4000)
            now = self.clock()
            for lane in self._lanes.values():
                while lane.bursts and now - lane.bursts[0][0] >= timeout_ns:
                    for cid in lane.bursts.popleft()[1]:
                        if cid in lane.pending:
                            lane.doubted[cid] = lane.pending.pop(cid)
                            self.stats.ack_timeouts += 1
                            self._emit(IN_DOUBT, 0, cid)
                while len(lane.doubted) > 100_000:  # bounded: the oldest late answers are given up, queries settle them
                    del lane.doubted[next(iter(lane.doubted))]
            for query in list(self._queries.values()):
                if query.issued_ns and now - query.issued_ns >= timeout_ns:
                    self.stats.queries_failed += 1
                    self._again(query)

    def _plan(self, cid: str, at_ns: int) -> None:
        self._order += 1
        heapq.heappush(self._due, (at_ns, self._order, cid))

    def _again(self, query: _Query) -> None:
        """Ask once more, slower each time, but at the fence at the latest when that is nearer."""
        query.issued_ns = 0
        query.session = None
        query.attempt += 1
        now = self.clock()
        wait = int(QUERY_BACKOFF_S[min(query.attempt, len(QUERY_BACKOFF_S) - 1)] * S_NS)
        fence = query.ts_signed_ns + self.contract.fence_ns()
        at = now + wait
        if now < fence < at:
            at = fence
        self._plan(query.cid, at)

    async def _ask(self) -> None:
        self._tokens_at = self.clock()
        while True:
            await asyncio.sleep(0.01 if self._due else 0.05)
            now = self.clock()
            # At least one whole question, however small the budget; a clock that is set back takes nothing away.
            earned = max(0, now - self._tokens_at) * self.queries_per_s / S_NS
            self._tokens = min(max(1.0, self.queries_per_s), self._tokens + earned)
            self._tokens_at = now
            while self._due and self._due[0][0] <= now and self._tokens >= 1 and now >= self._paused_until_ns:
                cid = heapq.heappop(self._due)[2]
                query = self._queries.get(cid)
                if query is None or query.issued_ns:
                    continue
                # Another connection each time: one that swallows everything must not swallow every question.
                session = self._pick((query.account + query.attempt) % len(self._links))
                if session is None:
                    self._plan(cid, now + S_NS // 4)
                    break
                self._tokens -= 1
                self.stats.queries += 1
                query.session = session
                query.issued_ns = self.clock()
                request = status_request(
                    self._keys[query.account],
                    self.instruments[query.instrument].symbol,
                    cid,
                    self.venue_clock.timestamp_ms(),
                    self.contract.recv_window_ms,
                )
                session.send_text(request)

    def _answered(self, cid: str, reply: codec.OrderReply) -> None:
        query = self._queries.get(cid)
        if query is None or not query.issued_ns:
            self.stats.unmatched += 1
            return
        code = reply.error.code if reply.error else 0
        if reply.status == 200 and reply.result is not None and self._report(cid, reply.result):
            if STATUS[reply.result.status] in TERMINAL_STATUS:
                del self._queries[cid]
            else:
                self._again(query)  # found alive: it is asked about until it has ended
            return
        if code in NOT_FOUND_CODES and reply.status < 500:
            self.stats.queries_not_found += 1
            if query.issued_ns >= query.ts_signed_ns + self.contract.fence_ns():
                del self._queries[cid]
                self._emit(DEAD, 0, cid, ts_event=query.issued_ns)
                return
        else:
            self.stats.queries_failed += 1
            if reply.status in (418, 429):
                self._paused_until_ns = self.clock() + 5 * S_NS
        self._again(query)
