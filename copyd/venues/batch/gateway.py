"""Orders out in record batches over one session; reports in. The second order path beside the WebSocket one.

The guarantees are those of an order gateway (semantics 34, 35): every order handed over ends in a report. Not one byte of it
written: NOT_SENT. A report: what it says. A connection lost after the write, or no report in time: IN_DOUBT, once, and what
still comes is reported too. Doubt is left through ``query``, by the rules of ``copyd.core.doubt``.

A batch lost with its connection may be sent again while it is valid: the same bytes under the same sequence, which the engine
executes once (it knows the ids). After that it is withheld, and what became of it is asked by id. Nothing outlives the process.

The window is the engine's back-pressure: so many records may wait for its acknowledgement. Openings leave the reserved share
of it to reductions and to the openings of top leaders. What has no room waits in order; an opening not for long, a reduction
as long as it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import random
import socket
import time
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from copyd._fast.batch_wire import OPENINGS, REDUCTIONS, Batch, Flight, Packer, crc32c
from copyd._fast.columns import Columns, ReportBatch
from copyd.core.doubt import DEAD, HELD, Ask, AskKind, Doubts, Found, Verdict
from copyd.errors import VenueUnavailable
from copyd.venues.batch import codec
from copyd.venues.batch.codec import HEADER_BYTES, LoginAck, Type
from copyd.venues.batch.contract import MS_NS, BatchContract
from copyd.venues.batch.errors import Ended, Malformed, Refusal, core_code
from copyd.venues.batch.instruments import Ours, numbers
from copyd.venues.batch.signing import NONCE_BYTES, client_proof, engine_proof

NOT_SENT: Final = 8
IN_DOUBT: Final = 3
ORDERS_TABLE: Final = 7
SWEEP_S: Final = 0.025
VAIN_TRIES: Final = 3
STALL_NS: Final = 100_000_000
READ_BYTES: Final = 1 << 20
READS_MAX: Final = 8  # between two turns of the loop
MESSAGE_MAX: Final = 64 << 20
ACK_EVERY: Final = 32
SPLIT_MIN: Final = 256  # a batch is not cut for less room than this, unless there will be no more
CLOCK_SAMPLES: Final = 16
ACCOUNTS_MAX: Final = 1_000
QUESTION_NS: Final = 60_000_000_000


class BatchStats(msgspec.Struct):
    """Counters since the start."""

    orders_sent: int = 0
    orders_not_sent: int = 0
    bytes_sent: int = 0
    batches: int = 0
    in_doubt: int = 0
    ack_timeouts: int = 0
    lost_in_flight: int = 0
    sent_again: int = 0
    withheld: int = 0
    gaps: int = 0
    gone: int = 0
    malformed: int = 0
    queries: int = 0
    queries_failed: int = 0
    queries_not_found: int = 0
    reconnects: int = 0
    silent: int = 0
    write_deadlines: int = 0
    unacknowledged: int = 0
    waited: int = 0
    expired: int = 0
    unsendable: int = 0
    dead: int = 0
    held: int = 0
    positions: int = 0


class _Question(msgspec.Struct):
    """A QUERY on the wire: which asks it carries, by client order id."""

    asks: dict[bytes, Ask]
    put_ns: int


async def connect(address: str, timeout_s: float) -> socket.socket:
    """A non-blocking connection to ``HOST:PORT`` or ``unix:PATH``; ``OSError`` or ``TimeoutError`` when there is none."""
    loop = asyncio.get_running_loop()
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)  # the kernel gives what it may
        where: Any = address[5:]
    else:
        host, _, port = address.rpartition(":")
        found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        sock = socket.socket(found[0][0], socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        where = found[0][4]
    sock.setblocking(False)
    try:
        await asyncio.wait_for(loop.sock_connect(sock, where), timeout_s)
    except BaseException:
        sock.close()
        raise
    return sock


def check_address(address: str) -> str:
    """The address, or ``ValueError`` with one sentence."""
    if address.startswith("unix:"):
        if len(address) == 5:
            raise ValueError("unix: needs a path")
        return address
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{address!r} is neither HOST:PORT nor unix:PATH")
    return address


class BatchGateway:
    """See the module. ``bind`` gives it the tables whose rows it sends."""

    connections = 1

    def __init__(
        self,
        *,
        address: str,
        secret: bytes,
        name: str,
        instruments: Iterable[Ours],
        contract: BatchContract,
        clock: Callable[[], int],
        on_reports: Callable[[ReportBatch, int], None],
        on_connection: Callable[[int, str, str], None] | None = None,
        top_leaders: Sequence[int] = (),
        expected: Callable[[int, int, int], tuple[int, int, bool]] | None = None,
        position: Callable[[int, int], Awaitable[tuple[int, int]]] | None = None,
        lacking: Callable[[bytes], bool] | None = None,
        on_unknown_account: Callable[[int], None] | None = None,
        mono: Callable[[], int] = time.monotonic_ns,
        seed: int = 0,
    ) -> None:
        """``position(account, instrument)``: the venue's, for ``expected`` (see ``Doubts``). ``lacking(cid)``: executions of
        an order that ended are still untold."""
        if (expected is None) != (position is None):
            raise ValueError("expected and position belong together")
        self.address = check_address(address)
        self.name = name
        self.contract = contract
        self.instruments = tuple(instruments)
        self.clock = clock
        self.mono = mono
        self.on_reports = on_reports
        self.on_connection = on_connection or (lambda connection, state, detail: None)
        self.stats = BatchStats()
        self.packer = Packer(contract.batch_records)
        self.packer.set_top(top_leaders)
        self.flight = Flight({int(refusal): core_code(refusal) for refusal in Refusal})
        self.doubts = Doubts(contract.doubt_terms(0, position=position is not None), expected)
        self.position = position
        self.lacking = lacking or (lambda cid: False)
        self.on_unknown_account = on_unknown_account or (lambda index: None)
        self.last_error = ""
        self.refused = ""  # why nobody will ever log in like this
        self.grant: LoginAck | None = None
        self.window = self.reserved = 0
        self._secret = secret
        self._rng = random.Random(seed)
        self._columns: Columns | None = None
        self._sock: socket.socket | None = None
        self._fd = -1
        self._session = 0
        self._out_seq = self._in_seq = 0
        self._asked_from = 0  # the gap in the reports that was asked for
        self._since_ack = 0
        self._out: deque[Batch | memoryview] = deque()  # stamped, not yet all with the kernel
        self._writer_on = False
        self._priority: deque[Batch] = deque()  # without room, not stamped
        self._ordinary: deque[Batch] = deque()
        self._sent: deque[Batch] = deque()  # at least a byte written, by sequence, until acknowledged and ended
        self._unbooked: list[Batch] = []
        self._outstanding = 0  # records stamped and not acknowledged
        self._acked = 0  # the last sequence that was
        self._vain: dict[bytes, int] = {}  # answers that prove nothing, by order
        self._placed_ns: dict[bytes, int] = {}  # of orders in doubt, by the monotonic clock
        self._buffer = bytearray(READ_BYTES)
        self._start = self._end = 0
        self._opened_ns = self._heard_ns = self._told_ns = self._drained_ns = 0
        self._echo = 0
        self._offsets: deque[int] = deque(maxlen=CLOCK_SAMPLES)
        self._rows = ReportBatch()
        self._flush_due = False
        self._ts_recv = 0
        self._wall_ahead = clock() - mono()
        self._questions: dict[int, _Question] = {}
        self._last_question = 0
        self._accounts: dict[int, str] = {}
        self._resolving: dict[int, list[int]] = {}
        self._unresolved: set[int] = set()
        self._resolve_due = False
        self._lost = asyncio.Event()
        self._opened = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._replaced = False
        self._stopping = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def bind(self, columns: Columns) -> None:
        """The tables whose order rows are sent."""
        self._columns = columns

    @property
    def ready(self) -> bool:
        """The session carries orders."""
        return self._sock is not None

    @property
    def open_connections(self) -> int:
        return int(self.ready)

    def windows(self) -> list[tuple[int, int]]:
        """Congestion windows do not matter beside the engine: none is told."""
        return []

    @property
    def in_flight(self) -> int:
        """Orders written and not reported on."""
        self._book()
        return self.flight.waiting

    @property
    def waiting(self) -> int:
        """Orders that wait for room in the window."""
        return sum(batch.count for queue in (self._priority, self._ordinary) for batch in queue)

    @property
    def unwritten(self) -> int:
        """Bytes of stamped messages the kernel has not taken yet."""
        return sum(item.length - item.written if isinstance(item, Batch) else len(item) for item in self._out)

    @property
    def queries_open(self) -> int:
        """Orders in doubt that are asked about."""
        return self.doubts.doubted

    @property
    def untold(self) -> int:
        """Orders whose executions are asked for."""
        return len(self.doubts) - self.doubts.doubted

    @property
    def queries_per_s(self) -> float:
        """Ids a second that settling doubts may ask for."""
        return self.contract.queries_per_s

    @property
    def banned_until(self) -> int:
        """The engine bans nobody; its back-pressure is the window."""
        return 0

    def limited_until(self, account: int) -> int:
        """As ``banned_until``."""
        return 0

    def wall(self, mono_ns: int) -> int:
        """A moment of the monotonic clock on ``clock``; 0 stays 0."""
        return self.clock() + mono_ns - self.mono() if mono_ns else 0

    def engine_ns(self) -> int:
        """The engine's clock, or a little less: never later than it is, so that no order is valid beyond its fence."""
        return self.mono() + (max(self._offsets) if self._offsets else 0)

    async def start(self, timeout_s: float = 10.0) -> None:
        """Log in; ``VenueUnavailable`` when that does not succeed in time, or never will."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._run(), name="batch-session"),
            loop.create_task(self._sweep(), name="batch-sweep"),
        ]
        deadline = loop.time() + timeout_s
        while (not self.ready or self._resolving) and not self.refused and loop.time() < deadline:
            self._opened.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._opened.wait(), min(0.05, max(0.0, deadline - loop.time())))
        if not self.ready:
            problem = self.refused or self.last_error or "no answer"
            await self.stop(0.0)
            raise VenueUnavailable(f"no batch session at {self.address}: {problem}")

    async def stop(self, drain_s: float = 5.0) -> None:
        """Wait for reports on what is in flight, log out; what is still open then is reported IN_DOUBT."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + drain_s
        while self.ready and (self.in_flight or self.waiting) and loop.time() < deadline:  # noqa: ASYNC110 - bounded, and once
            await asyncio.sleep(0.02)
        self._stopping = True
        if self.ready:
            self._control(codec.end(Type.LOGOUT, 0, "good-bye", self._session, self._in_seq))
        self._lose("stopped")
        tasks = [*self._tasks, *self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._flush()

    # --- accounts -------------------------------------------------------------------------------------------------------

    def set_account(self, index: int, number: int) -> None:
        """Our account ``index`` is the engine's ``number``, without asking."""
        self.packer.set_account(index, number)

    def add_account(self, index: int, name: str) -> None:
        """Ask the engine for the number of the account of this name; until it is told its orders are NOT_SENT."""
        if self._accounts.get(index) == name and index not in self._unresolved:
            return
        self._accounts[index] = name
        self._unresolved.add(index)
        if not self._resolve_due:
            self._resolve_due = True
            asyncio.get_running_loop().call_soon(self._resolve)

    def unknown_accounts(self) -> list[str]:
        """Names the engine has no account for, or has not answered for yet."""
        return [self._accounts[index] for index in sorted(self._unresolved)]

    def _resolve(self) -> None:
        self._resolve_due = False
        if not self.ready:
            return
        asked = sorted(self._unresolved)
        for at in range(0, len(asked), ACCOUNTS_MAX):
            part = asked[at : at + ACCOUNTS_MAX]
            self._last_question += 1
            self._resolving[self._last_question] = part
            names = [self._accounts[index] for index in part]
            self._control(codec.accounts(self._last_question, names, self._session, self._in_seq))

    def _resolved(self, number: int, found: Sequence[int]) -> None:
        asked = self._resolving.pop(number, [])
        if len(asked) != len(found):
            raise Malformed(f"ACCOUNTS_ACK: {len(found)} numbers for {len(asked)} names")
        for index, account in zip(asked, found, strict=True):
            self.packer.set_account(index, account)
            if account == codec.NONE:
                self.on_unknown_account(index)
            else:
                self._unresolved.discard(index)
        self._opened.set()

    # --- out: orders ----------------------------------------------------------------------------------------------------

    @property
    def chunk_max(self) -> int:
        """Orders packed and sent at a time: one batch."""
        return self.contract.batch_records

    def arrange(self, slots: array, turn: int) -> array:
        """There is one session, and its engine takes orders as they come."""
        return slots

    def render(self, slots: array) -> list[Batch]:
        """Record batches of these order rows; nothing leaves. What the engine cannot take is reported NOT_SENT."""
        assert self._columns is not None
        batches, unsendable = self.packer.pack(self._columns, slots)
        for slot in unsendable:
            self.stats.unsendable += 1
            self.stats.orders_not_sent += 1
            self._rows.append(NOT_SENT, 0, self._columns.get(ORDERS_TABLE, slot)[:16])
        if unsendable:
            self._flush_soon()
        return batches

    def send(self, rendered: Sequence[Batch]) -> None:
        """Hand committed batches to the kernel, as far as the window has room for them."""
        now = self.mono()
        for batch in rendered:
            batch.handed_ns = now
            (self._ordinary if batch.rank == OPENINGS else self._priority).append(batch)
        self._push()

    def _push(self) -> None:
        """Stamp and write what has room: reductions and top leaders' openings first, each queue in its order."""
        if self._sock is None:
            self._refuse_waiting()
            return
        for queue, keep in ((self._priority, 0), (self._ordinary, self.reserved)):
            while queue:
                batch = queue[0]
                room = self.window - keep - self._outstanding
                most = min(room, self.grant.records_max if self.grant is not None else room)
                if batch.count > most:
                    if most <= 0 or (room < SPLIT_MIN and self._outstanding and batch.count > room):
                        self.stats.waited += 1
                        return
                    rest = self.packer.spare()
                    batch.split(most, rest)
                    queue[0] = rest
                else:
                    queue.popleft()
                self._stamp(batch)
                self._write()
                if self._sock is None:
                    self._refuse_waiting()
                    return

    def _stamp(self, batch: Batch) -> None:
        self._out_seq += 1
        batch.sent_ns = self.mono()
        valid_until = self.engine_ns() + self.contract.valid_ms * MS_NS
        batch.stamp(self._out_seq, self._session, self._in_seq, valid_until)
        self._outstanding += batch.count
        self._since_ack = 0
        self._out.append(batch)

    def _write(self) -> None:
        """Whole messages, one after the other; the rest of one the kernel did not take waits until it does."""
        try:
            while self._out:
                item = self._out[0]
                if isinstance(item, Batch):
                    first = not item.written
                    taken = item.write(self._fd)
                    if first and taken and not (self._sent and self._sent[-1].sequence >= item.sequence):
                        self._sent.append(item)
                        self._unbooked.append(item)
                        self.stats.orders_sent += item.count
                        self.stats.batches += 1
                    self.stats.bytes_sent += taken
                    if item.written < item.length:
                        break
                else:
                    assert self._sock is not None
                    taken = self._sock.send(item)
                    if taken < len(item):
                        self._out[0] = item[taken:]
                        break
                self._out.popleft()
                self._told_ns = self._drained_ns = self.mono()
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(f"write: {error.strerror or error}")
            return
        if self._out and not self._writer_on:
            self._drained_ns = self.mono()
            asyncio.get_running_loop().add_writer(self._fd, self._writable)
            self._writer_on = True
        elif not self._out and self._writer_on:
            asyncio.get_running_loop().remove_writer(self._fd)
            self._writer_on = False

    def _writable(self) -> None:
        self._drained_ns = self.mono()
        self._write()

    def _control(self, message: bytes) -> None:
        """A message that is no batch."""
        if self._sock is None:
            return
        self._out.append(memoryview(message))
        self._since_ack = 0
        self._write()

    def _refuse_waiting(self) -> None:
        """No session: whatever waits was not sent, not a byte of it. The core plans its reductions again."""
        for queue in (self._priority, self._ordinary):
            while queue:
                self._not_sent(queue.popleft())

    def _not_sent(self, batch: Batch) -> None:
        self.stats.orders_not_sent += batch.count
        batch.report(NOT_SENT, self._rows)
        self.packer.release(batch)
        self._flush_soon()

    def _book(self) -> None:
        """Ten thousand entries are no work for between two writes: they are made before they are first needed."""
        for batch in self._unbooked:
            self.flight.book(batch)
        self._unbooked.clear()

    # --- session --------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Connect and log in, again and again, with a growing wait between two failures."""
        failures = 0
        while not self._stopping:
            self._lost.clear()
            problem = ""
            try:
                await asyncio.wait_for(self._log_in(), self.contract.connect_timeout_ms / 1000)
            except (OSError, TimeoutError, Malformed) as error:
                problem = str(error) or type(error).__name__
            if problem:
                failures += 1
                self.last_error = problem
                self.on_connection(0, "failed", problem)
            else:
                failures = 0
                await self._lost.wait()
            first, most = self.contract.reconnect_first_ms, self.contract.reconnect_max_ms
            if self._replaced:  # two under one name: whoever came last has the session, the other does not fight for it
                self._replaced, first = False, most
            wait = min(first << min(failures, 16), most) / 1000 * self._rng.uniform(0.75, 1.25)
            await asyncio.sleep(wait)

    async def _log_in(self) -> None:
        sock = await connect(self.address, self.contract.connect_timeout_ms / 1000)
        try:
            left = bytearray()
            _, body = await self._first(sock, left, Type.CHALLENGE)
            challenge = codec.read_challenge(body)
            nonce = os.urandom(NONCE_BYTES)
            ask = codec.Login(
                nonce=nonce, proof=client_proof(self._secret, challenge, nonce, self.name), resume=self._session,
                last_in=self._in_seq, last_out=self._out_seq, name=self.name)
            await asyncio.get_running_loop().sock_sendall(sock, codec.login(ask))
            _, body = await self._first(sock, left, Type.LOGIN_ACK)
            answered = self.mono()
            grant = codec.read_login_ack(body)
            if not hmac.compare_digest(grant.proof, engine_proof(self._secret, challenge, nonce, self.name)):
                self.refused = "the engine does not know the shared secret"
                raise Malformed(self.refused, Ended.REFUSED)
            first, last = (self._acked, self._out_seq) if grant.session == self._session else (0, 0)
            if not first <= grant.last_in <= last:
                raise Malformed(f"the engine says it took message {grant.last_in}; {first} to {last} are possible")
            found, problems = numbers(self.instruments, grant.instruments)
            if problems:
                self.refused = "; ".join(problems)
                raise Malformed(self.refused, Ended.REFUSED)
        except BaseException:
            sock.close()
            raise
        self.refused = ""
        for item in self.instruments:
            self.packer.set_instrument(item.index, found[item.index])
        self._offsets.clear()
        self._offsets.append(grant.engine_ns - answered)
        self._open(sock, grant, left)

    async def _first(self, sock: socket.socket, left: bytearray, wanted: Type) -> tuple[codec.Header, bytes]:
        """The next message of a session that is not open yet; another than the wanted one is why it never will be."""
        loop = asyncio.get_running_loop()
        while True:
            head = codec.read_header(left, 0, MESSAGE_MAX)
            if head is not None and len(left) >= head.length:
                body = bytes(left[HEADER_BYTES : head.length])
                del left[: head.length]
                if head.type == Type.ERROR:
                    code, text = codec.read_end(body)
                    if code in (Ended.REFUSED, Ended.VERSION):
                        self.refused = text
                    raise Malformed(text, Ended.REFUSED)
                if head.type != wanted:
                    raise Malformed(f"{Type(head.type).name} instead of {wanted.name}")
                return head, body
            part = await loop.sock_recv(sock, 1 << 16)
            if not part:
                raise OSError("the engine closed the connection")
            left += part

    def _open(self, sock: socket.socket, grant: LoginAck, left: bytearray) -> None:
        """The session is ours: go on where it was, or begin a new one."""
        if self.grant is not None:
            self.stats.reconnects += 1
        resumed = self._session == grant.session
        self._sock, self._fd = sock, sock.fileno()
        self.grant, self._session = grant, grant.session
        self.window = min(grant.window, self.contract.window_records_max)
        self.reserved = min(grant.reserved, self.window)
        terms = self.contract.doubt_terms(grant.horizon_s * 10**9, position=self.position is not None)
        self.doubts.terms = terms
        if not resumed:
            self._out_seq = self._in_seq = 0
            self._forget_sent()
        self._asked_from = 0
        self._opened_ns = self._heard_ns = self._told_ns = self._drained_ns = self.mono()
        self._start, self._end = 0, len(left)
        self._room(0)
        self._buffer[: len(left)] = left
        asyncio.get_running_loop().add_reader(self._fd, self._readable)
        self._acknowledged(grant.last_in)
        if resumed and grant.last_in < self._out_seq:
            self._send_again(grant.last_in + 1, 0)
        self._unresolved |= set(self._accounts)
        self._resolve()
        if self._end:
            asyncio.get_running_loop().call_soon(self._digest)
        self._opened.set()
        self.on_connection(0, "open", "resumed" if resumed else "new session")

    def _lose(self, reason: str) -> None:
        """The connection is no more: not a byte written is NOT_SENT, all else that has not ended is in doubt, once."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._fd)
        if self._writer_on:
            loop.remove_writer(self._fd)
            self._writer_on = False
        self._fd = -1
        sock.close()
        unwritten = [item for item in self._out if isinstance(item, Batch) and not item.written]
        again = {item.sequence for item in self._sent}
        self._out.clear()
        for batch in unwritten:
            if batch.sequence not in again:  # else it was on the wire before: it is in doubt already
                self._outstanding -= batch.count
                self._not_sent(batch)
        self._out_seq = max(self._sent[-1].sequence if self._sent else 0, self._acked)
        self._book()
        before = self._rows.count
        lost = self.flight.doubt_all(self._rows)
        self.stats.lost_in_flight += lost
        self.stats.in_doubt += self._rows.count - before
        self._refuse_waiting()
        now = self.mono()
        for question in self._questions.values():
            for ask in question.asks.values():
                self._failed(now, ask.id)
        self._questions.clear()
        self._resolving.clear()
        self._flush_soon()
        self.last_error = reason
        self._lost.set()
        self.on_connection(0, "closed", reason)

    def _forget_sent(self) -> None:
        """Another session: what was sent in the old one cannot be sent again, and is in doubt already."""
        self._sent.clear()
        self._outstanding = self._acked = 0

    def _send_again(self, first: int, last: int) -> None:
        """What the engine has not seen: while it is valid the same bytes again; what is not is withheld and asked by id."""
        now = self.engine_ns()
        end = last or self._out_seq
        queued = {item.sequence for item in self._out if isinstance(item, Batch)}
        again: list[Batch | memoryview] = []
        at = first
        kept = {batch.sequence: batch for batch in self._sent if batch.sequence >= first}
        while at <= end:
            batch = kept.get(at)
            if batch is not None and now < batch.valid_until and at not in queued:
                batch.stamp(at, self._session, self._in_seq, batch.valid_until)
                again.append(batch)
                self.stats.sent_again += 1
                at += 1
                continue
            if at in queued:
                at += 1
                continue
            begin = at
            while at <= end and at not in queued and not ((known := kept.get(at)) is not None and now < known.valid_until):
                self.stats.withheld += 1
                at += 1
            reason = codec.WITHHELD if begin in kept else codec.GONE
            again.append(memoryview(codec.gap_fill(begin, at - 1, reason, self._session, self._in_seq)))
        # Behind the message whose first bytes are written, before everything later.
        head: list[Batch | memoryview] = []
        if self._out and not (isinstance(self._out[0], Batch) and not self._out[0].written):
            head.append(self._out.popleft())
        self._out = deque([*head, *again, *self._out])
        self._write()

    def _acknowledged(self, sequence: int) -> None:
        """The engine has put everything up to there through: the window has room again."""
        if sequence <= self._acked:
            return
        if not self._sent or sequence > self._sent[-1].sequence:
            raise Malformed(f"message {sequence} was acknowledged before it was sent", Ended.SEQUENCE)
        self._acked = sequence
        for batch in self._sent:
            if batch.sequence > sequence:
                break
            if not batch.acked:
                batch.acked = True
                self._outstanding -= batch.count
        self._prune()

    def _prune(self) -> None:
        while self._sent and self._sent[0].acked and not self._sent[0].open:
            if self._sent[0] in self._unbooked or (self._out and self._sent[0] is self._out[0]):
                break
            self.packer.release(self._sent.popleft())

    # --- in -------------------------------------------------------------------------------------------------------------

    def _room(self, more: int) -> None:
        """Room behind ``_end`` for what is read next, and for a message of ``more`` bytes in all."""
        if self._start:
            self._buffer[: self._end - self._start] = self._buffer[self._start : self._end]
            self._start, self._end = 0, self._end - self._start
        need = max(more, self._end + READ_BYTES // 2)
        if need > len(self._buffer):
            self._buffer += bytes(need - len(self._buffer))

    def _readable(self) -> None:
        for _ in range(READS_MAX):
            sock = self._sock
            if sock is None:
                return
            if self._end == self._start:
                self._start = self._end = 0
            if len(self._buffer) - self._end < READ_BYTES // 4:
                self._room(0)
            try:
                with memoryview(self._buffer) as view:
                    count = sock.recv_into(view[self._end :])
            except BlockingIOError:
                break
            except OSError as error:
                self._digest()
                self._lose(f"read: {error.strerror or error}")
                return
            if not count:
                self._digest()
                self._lose("the engine closed the connection")
                return
            self._end += count
            self._heard_ns = self.mono()
            if not self._digest():
                return
        if self._rows.count:
            self._flush()

    def _digest(self) -> bool:
        """Every whole message in the buffer; False when the session ended by one."""
        head: codec.Header | None = None
        try:
            while self._sock is not None:
                with memoryview(self._buffer)[self._start : self._end] as view:
                    head = codec.read_header(view, 0, MESSAGE_MAX)
                    if head is None or len(view) < head.length:
                        break
                    if head.session != self._session:
                        raise Malformed("a message of another session", Ended.SEQUENCE)
                    self._on_message(head, view)
                self._start += head.length
            if head is not None and self._start + head.length > len(self._buffer):
                self._room(head.length)  # the rest of it needs room
        except Malformed as problem:
            self.stats.malformed += 1
            self._control(codec.end(Type.ERROR, problem.code, str(problem), self._session, self._in_seq))
            self._lose(str(problem))
            return False
        return self._sock is not None

    def _on_message(self, head: codec.Header, view: memoryview) -> None:
        behind = (self._out_seq - head.ack) & 0xFFFFFFFF
        if behind < 1 << 31:
            self._acknowledged(self._out_seq - behind)
        if head.type == Type.REPORTS:
            self._on_reports(head, view)
        else:
            self._on_session_message(head, bytes(view[HEADER_BYTES : head.length]))
        if self._since_ack >= ACK_EVERY:
            self._control(codec.ack(self._session, self._in_seq))
        if self._priority or self._ordinary:
            self._push()

    def _on_reports(self, head: codec.Header, view: memoryview) -> None:
        at = HEADER_BYTES + codec.REPORTS_HEAD.size
        if head.length < at or int.from_bytes(view[at - 4 : at], "little") != crc32c(view[HEADER_BYTES : at - 4]):
            raise Malformed("REPORTS: the batch header is damaged", Ended.CORRUPT)
        number, _, count, flags, zero, _ = codec.REPORTS_HEAD.unpack_from(view, HEADER_BYTES)
        if head.length != at + count * codec.REPORT.size or flags or zero or bool(number) != (not head.sequence):
            raise Malformed(f"REPORTS: {head.length} bytes do not hold {count} records")
        if head.sequence:
            if head.sequence <= self._in_seq:
                return  # sent again though we have it
            if head.sequence != self._in_seq + 1:
                if self._asked_from != self._in_seq + 1:
                    self.stats.gaps += 1
                    self._asked_from = self._in_seq + 1
                    self._control(codec.resend_request(self._in_seq + 1, 0, self._session, self._in_seq))
                return
        self._book()
        with view[:head.length] as whole:
            wrong = self.flight.decode(whole, at, count, self._rows)
        if wrong:
            what, code = ("a record is damaged", Ended.CORRUPT) if wrong == 1 else (
                "a record contradicts itself", Ended.MALFORMED)
            raise Malformed(f"REPORTS: {what}", code)
        if head.sequence:
            self._in_seq = head.sequence
            self._since_ack += 1
        self._flush_soon()
        if self.flight.settled:
            for cid in self.flight.settled:
                self.doubts.ended(cid)
            self.flight.settled.clear()
        if number:
            self._answered(number, bytes(view[HEADER_BYTES : head.length]))
        self._prune()

    def _on_session_message(self, head: codec.Header, body: bytes) -> None:
        match head.type:
            case Type.HEARTBEAT:
                self._echo = codec.read_heartbeat(body)[0]
                self._offsets.append(self._echo - self.mono())
            case Type.ACK:
                codec.opened(body)
            case Type.WINDOW:
                window, reserved = codec.read_window(body)
                self.window = min(window, self.contract.window_records_max)
                self.reserved = min(reserved, self.window)
            case Type.RESEND_REQUEST:
                first, last = codec.read_resend_request(body)
                if first <= self._out_seq:
                    self._send_again(max(first, self._acked + 1), last)
            case Type.GAP_FILL:
                first, last, _ = codec.read_gap_fill(body)
                if first <= self._in_seq + 1 <= last:
                    # Reports that nobody keeps any more: what they said is asked by id.
                    self.stats.gone += last - self._in_seq
                    self._in_seq = last
                    self._doubt_all()
            case Type.NOT_FOUND:
                number, _, _, known_since, cids = codec.read_not_found(body)
                self._missing(number, known_since, cids)
            case Type.ACCOUNTS_ACK:
                self._resolved(*codec.read_accounts_ack(body))
            case Type.ERROR | Type.LOGOUT:
                code, text = codec.read_end(body)
                self._replaced = code == Ended.REPLACED
                self._lose(f"the engine ended the session: {text}")
            case _:
                raise Malformed(f"{Type(head.type).name} is not for the client")

    def _doubt_all(self) -> None:
        self._book()
        self.stats.in_doubt += self.flight.doubt_all(self._rows)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._ts_recv = self.clock()
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._rows.count:
            rows, self._rows = self._rows, ReportBatch()
            self.on_reports(rows, self._ts_recv or self.clock())

    # --- time -------------------------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """What time brings: silence, heartbeats, answers that are late, openings that waited too long, questions."""
        contract = self.contract
        swept = self.mono()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self.mono()
            stood_still, swept = now - swept > STALL_NS, now  # then it was us who did not listen: what came is read first
            self._expire(now)
            if self._sock is not None and self.grant is not None:
                beat = self.grant.heartbeat_ms * MS_NS
                if now - self._heard_ns > 3 * beat and not stood_still:
                    self.stats.silent += 1
                    self._lose("nothing was heard for three heartbeats")
                elif self._out and now - self._drained_ns > contract.write_deadline_ms * MS_NS:
                    self.stats.write_deadlines += 1
                    self._lose("write deadline: the other side takes no bytes")
                elif self._sits_on_it(now):
                    self.stats.unacknowledged += 1
                    self._lose("a batch was not acknowledged in time")
                elif now - self._told_ns > beat * 7 // 10 and not self._out:
                    self._control(codec.heartbeat(self.clock(), self._echo, self._session, self._in_seq))
            self._time_out(now)
            self._ask(now)

    def _sits_on_it(self, now: int) -> bool:
        """Whether the engine lives and yet takes nothing: the window would stay full. A new login settles who has what."""
        oldest = now - 2 * self.contract.order_ack_timeout_ms * MS_NS
        batch = next((batch for batch in self._sent if not batch.acked), None)
        return batch is not None and max(batch.sent_ns, self._opened_ns) < oldest

    def _expire(self, now: int) -> None:
        """Openings that had no room for too long; a reduction waits as long as it takes."""
        oldest = now - self.contract.opening_wait_ms * MS_NS
        for queue in (self._priority, self._ordinary):
            if not any(batch.rank != REDUCTIONS and batch.handed_ns < oldest for batch in queue):
                continue
            kept = [batch for batch in queue if batch.rank == REDUCTIONS or batch.handed_ns >= oldest]
            gone = [batch for batch in queue if batch.rank != REDUCTIONS and batch.handed_ns < oldest]
            queue.clear()
            queue.extend(kept)
            for batch in gone:
                self.stats.expired += batch.count
                self._not_sent(batch)

    def _time_out(self, now: int) -> None:
        """Orders without a report, or not told to have ended, in time: in doubt."""
        if not self._sent:
            return
        oldest = now - self.contract.order_ack_timeout_ms * MS_NS
        self._book()
        for batch in self._sent:
            if batch.sent_ns > oldest:
                break
            if batch.open and batch.written == batch.length:
                late = self.flight.doubt(batch, self._rows)
                self.stats.ack_timeouts += late
                self.stats.in_doubt += late
                if late:
                    self._flush_soon()
        self._prune()
        for number in [n for n, question in self._questions.items() if now - question.put_ns > QUESTION_NS]:
            del self._questions[number]

    # --- doubt --------------------------------------------------------------------------------------------------------------

    def query(
        self, cid: str | bytes, account: int, instrument: int, ts_signed_ns: int, exposure: int = 0, seen: bool = False,
        ts_placed_ns: int | None = None,
    ) -> None:
        """Ask for an order until it is found to have ended or proven absent; asking twice for the same id is once.

        ``ts_signed_ns``: on ``clock``, when it was sent or any later moment. ``ts_placed_ns``: that or any earlier moment.
        ``seen``: the engine has shown it alive. The largest ``exposure`` is asked for first.
        """
        raw = cid if isinstance(cid, bytes) else bytes.fromhex(cid)
        if self._unsent(raw):
            return  # the engine cannot know it yet: "not found" would prove nothing, and a report is sure to come
        now = self.mono()
        signed = ts_signed_ns - min(self._wall_ahead, self.clock() - now)
        placed = None if ts_placed_ns is None else min(signed, now) - max(0, ts_signed_ns - ts_placed_ns)
        self.doubts.add(raw, account, instrument, min(signed, now), exposure, seen, placed)
        self._placed_ns[raw] = min(signed, now) if placed is None else placed

    def _unsent(self, cid: bytes) -> bool:
        """Whether it waits here, without a byte of it written."""
        stamped = [item for item in self._out if isinstance(item, Batch) and not item.written]
        return any(cid in batch.cids() for queue in (self._priority, self._ordinary, stamped) for batch in queue)

    def tell(self, cid: bytes, account: int, instrument: int, listed: bool) -> bool:
        """Ask for the executions of an order that has ended: see ``Doubts.tell``."""
        return self.doubts.tell(cid, account, instrument, listed)

    def ended(self, cid: str | bytes) -> None:
        """Its end was told on another way: no more questions."""
        raw = cid if isinstance(cid, bytes) else bytes.fromhex(cid)
        self.doubts.ended(raw)
        self.flight.forget(raw)
        self._placed_ns.pop(raw, None)
        self._vain.pop(raw, None)

    def _ask(self, now: int) -> None:
        if self._sock is None or not len(self.doubts):
            return
        asks = self.doubts.asks(now)
        by_id: dict[bytes, Ask] = {}
        for ask in asks:
            if ask.kind is AskKind.POSITION:
                task = asyncio.get_running_loop().create_task(self._ask_position(ask), name=f"batch-ask-{ask.id}")
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
            else:
                by_id[ask.cid] = ask
        ids = list(by_id)
        for at in range(0, len(ids), self.contract.query_ids_max):
            part = ids[at : at + self.contract.query_ids_max]
            self._last_question += 1
            self._questions[self._last_question] = _Question({cid: by_id[cid] for cid in part}, now)
            self.stats.queries += len(part)
            self._control(codec.query(self._last_question, self.clock(), part, self._session, self._in_seq))

    def _answered(self, number: int, body: bytes) -> None:
        """The rows are on their way to the core as all others; here is what they mean for the questions."""
        question = self._questions.get(number)
        if question is None:
            return
        now = self.mono()
        for report in codec.unpack_reports(body)[2]:
            if report.kind == codec.TRADE:
                continue  # the state follows its executions
            ask = question.asks.pop(report.cid, None)
            if ask is None:
                continue
            if ask.kind is AskKind.TRADES:
                self._flush()  # the core learns of the executions first
                self.doubts.answered_trades(now, ask.id, not self.lacking(report.cid))
                continue
            over = report.kind == codec.REJECT or report.status in codec.ENDED_STATUSES
            self._settled(self.doubts.answered_order(now, ask.id, Found(report.cid, report.status, report.cum_qty, over)))
            if over:
                self.ended(report.cid)
        if not question.asks:
            del self._questions[number]

    def _missing(self, number: int, known_since: int, cids: Sequence[bytes]) -> None:
        question = self._questions.get(number)
        if question is None:
            return
        now = self.mono()
        ahead = self.engine_ns() - now
        for cid in cids:
            ask = question.asks.pop(cid, None)
            if ask is None:
                continue
            self.stats.queries_not_found += 1
            placed = self._placed_ns.get(cid)
            if (self.position is None and placed is not None
                    and placed + ahead - self.contract.clock_error_ms * MS_NS < known_since):
                self._unprovable(now, ask)  # it began to remember later: its silence is no answer, only the position would be
            elif ask.kind is AskKind.TRADES:
                self.doubts.answered_trades(now, ask.id, False)
            else:
                self._settled(self.doubts.answered_order(now, ask.id, None))
        if not question.asks:
            del self._questions[number]

    def _unprovable(self, now: int, ask: Ask) -> None:
        """Nobody can say what became of it: an operator hears, once, and it is asked for ever more slowly."""
        self._failed(now, ask.id)
        tries = self._vain.get(ask.cid, 0) + 1
        self._vain[ask.cid] = tries
        if tries == VAIN_TRIES:
            self.stats.held += 1
            self._rows.append(HELD, 0, ask.cid, ts_event=self.wall(now))
            self._flush_soon()

    async def _ask_position(self, ask: Ask) -> None:
        assert self.position is not None
        self.stats.positions += 1
        try:
            net, net_short = await self.position(ask.account, ask.instrument)
        except (VenueUnavailable, OSError, ValueError, TimeoutError):
            self._failed(self.mono(), ask.id)
            return
        self._settled(self.doubts.answered_position(self.mono(), ask.id, net, net_short))

    def _failed(self, now: int, number: int) -> None:
        self.stats.queries_failed += 1
        self.doubts.failed(now, number)

    def _settled(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.kind == DEAD:
                self.stats.dead += 1
                self.flight.forget(verdict.cid)
                self._placed_ns.pop(verdict.cid, None)
            else:
                self.stats.held += 1
            self._rows.append(verdict.kind, 0, verdict.cid, ts_event=self.wall(verdict.issued_ns))
            self._flush_soon()
