"""The batch door of the simulated exchange: binary record batches in, batched reports out, over TCP or a Unix socket.

The reference implementation of ``copyd/venues/batch/PROTOCOL.md`` on the engine's side. It was written from that text and
shares no code with the client, so that the two check each other; an engine team may read it as an example.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import socket
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from copyd._fast.sim_batch import Desk, crc32c
from copyd.errors import AddressTaken

if TYPE_CHECKING:
    from copyd.exchange.server import ExchangeServer

HEADER: Final = struct.Struct("<HBBIQQII")
BATCH_HEAD: Final = struct.Struct("<QqIIII")
MAGIC, VERSION = 0x4243, 1
(CHALLENGE, LOGIN, LOGIN_ACK, HEARTBEAT, ORDERS, REPORTS, ACK, RESEND_REQUEST, GAP_FILL, QUERY, NOT_FOUND, WINDOW, LOGOUT,
 ERROR, ACCOUNTS, ACCOUNTS_ACK) = range(1, 17)
(E_MALFORMED, E_VERSION, E_REFUSED, E_OVERSIZE, E_NOT_LOGGED_IN, E_SEQUENCE, E_CORRUPT, E_SILENT, E_REPLACED,
 E_SHUTDOWN) = range(1, 11)
R_LATE, R_WINDOW = 11, 12
ORDER_BYTES, REPORT_BYTES = 48, 96
HEADER_BYTES = 32
BEFORE_LOGIN_MAX = 1_024
GONE = 1
NONE = 0xFFFFFFFF
LOGIN_TIME_S = 5.0


class BatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the door is run. ``port`` None and ``path`` empty: not at all."""

    host: str = "127.0.0.1"
    port: int | None = None
    path: str = ""
    secret: bytes = b""
    window: int = 65_536  # records
    reserved: int = 8_192
    records_max: int = 65_536  # in one message
    reports_max: int = 2_048  # in one message
    heartbeat_ms: int = 1_000
    horizon_s: int = 3_600
    retained: int = 1_024  # report messages kept for whoever comes back


class Ended(Exception):
    """The session cannot go on; the other side is told why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Session:
    """What outlives a connection: the sequences, and what was sent lately."""

    def __init__(self, name: str, number: int, retained: int) -> None:
        self.name, self.number = name, number
        self.last_in = self.last_out = 0
        self.kept: deque[tuple[int, bytes]] = deque(maxlen=retained)
        self.conn: Conn | None = None


class BatchServer:
    """All sessions of the door. ``desk`` executes; this keeps the sessions."""

    def __init__(self, exchange: ExchangeServer, options: BatchOptions) -> None:
        self.x = exchange
        self.options = options
        self.window, self.reserved = options.window, options.reserved
        self.desk = Desk(exchange.engine, options.horizon_s * 10**9, exchange.wire.time_ns())
        self.sessions: dict[str, Session] = {}
        self.conns: set[Conn] = set()
        self.make: Callable[[BatchServer], Conn] = Conn
        self.next_session = int.from_bytes(secrets.token_bytes(4), "little") << 16
        self.address: tuple[str, int] | None = None
        self._servers: list[asyncio.Server] = []
        self._clock: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. ``AddressTaken`` when somebody else does already."""
        loop, o = asyncio.get_running_loop(), self.options
        try:
            if o.port is not None:
                server = await loop.create_server(self.connection, o.host, o.port, backlog=64)
                self._servers.append(server)
                self.address = server.sockets[0].getsockname()[:2]
            if o.path:
                _clear(Path(o.path))
                self._servers.append(await loop.create_unix_server(self.connection, o.path))
        except OSError as error:
            raise AddressTaken(f"the batch door cannot listen: {error.strerror or error}") from None
        self._clock = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Say good-bye and close."""
        if self._clock is not None:
            self._clock.cancel()
            await asyncio.gather(self._clock, return_exceptions=True)
        for conn in list(self.conns):
            conn.fail(E_SHUTDOWN, "the exchange closes", LOGOUT)
        for server in self._servers:
            server.close()
        if self.options.path and self._servers:
            _unlink(Path(self.options.path))

    def connection(self) -> Conn:
        """One for every connection."""
        return self.make(self)

    def set_window(self, window: int, reserved: int) -> None:
        """Back-pressure: from now on so many records, for everybody."""
        self.window, self.reserved = window, min(reserved, window)
        for conn in self.conns:
            if conn.session is not None:
                conn.send(WINDOW, struct.pack("<II", self.window, self.reserved))

    def log_in(self, name: str, resume: int, last_out: int) -> Session:
        """The session to go on with, or a new one; whoever had it before is put out first."""
        session = self.sessions.get(name)
        if session is not None and session.conn is not None:
            session.conn.fail(E_REPLACED, "another connection logged in to this session")
        if session is None or resume != session.number or last_out < session.last_in:
            self.next_session += 1
            session = self.sessions[name] = Session(name, self.next_session, self.options.retained)
        return session

    async def _beat(self) -> None:
        every = self.options.heartbeat_ms / 1000
        loop = asyncio.get_running_loop()
        now = loop.time()
        while True:
            await asyncio.sleep(every / 4)
            before, now = now, loop.time()
            if now - before > every:
                continue  # it was the exchange that stood still: what came meanwhile is read first
            for conn in list(self.conns):
                conn.tick(now, every)


def _clear(path: Path) -> None:
    """Take away a socket that was left behind by an exchange that was killed; one that answers stays."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        _unlink(path)


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


class Conn(asyncio.Protocol):
    """One connection: what it may say depends on whether it has logged in."""

    def __init__(self, server: BatchServer) -> None:
        self.server = server
        self.session: Session | None = None
        self.inbox = bytearray()
        self.transport: Any = None
        self.closed = False
        self.challenge = secrets.token_bytes(32)
        self.heard = self.told = 0.0
        self.echo = 0
        self.asked_from = 0  # the gap we have asked for
        self.taken = 0  # records since the last message that acknowledged them
        self.handlers: dict[int, Callable[[memoryview, int, int, int], None]] = {
            HEARTBEAT: self.on_heartbeat, ORDERS: self.on_orders, ACK: self.on_ack, RESEND_REQUEST: self.on_resend_request,
            GAP_FILL: self.on_gap_fill, QUERY: self.on_query, LOGOUT: self.on_logout, ERROR: self.on_logout,
            ACCOUNTS: self.on_accounts,
        }

    # -- asyncio ---------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.conns.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.heard = self.told = asyncio.get_running_loop().time()
        self.send(CHALLENGE, self.challenge)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.server.conns.discard(self)
        if self.session is not None and self.session.conn is self:
            self.session.conn = None

    def pause_writing(self) -> None:
        """Whoever does not read his reports places no orders: the window fills, and he waits."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self.heard = asyncio.get_running_loop().time()
        self.inbox += data
        at = 0
        try:
            at = self.walk(memoryview(self.inbox))
        except Ended as end:
            self.fail(end.code, end.text)
        if at:
            self.inbox = self.inbox[at:]

    def walk(self, view: memoryview) -> int:
        """Every whole message; returns the bytes that were read."""
        at = 0
        while len(view) - at >= HEADER_BYTES and not self.closed:
            magic, version, kind, length, sequence, number, _, total = HEADER.unpack_from(view, at)
            if magic != MAGIC:
                raise Ended(E_MALFORMED, "these bytes are no message of this protocol")
            if total != crc32c(view[at : at + HEADER_BYTES - 4]):
                raise Ended(E_CORRUPT, "a message header is damaged")
            if version != VERSION:
                raise Ended(E_VERSION, f"version {version} is not spoken here; version {VERSION} is")
            if length < HEADER_BYTES:
                raise Ended(E_MALFORMED, f"a message of {length} bytes")
            if length > self.length_max():
                raise Ended(E_OVERSIZE, f"a message of {length} bytes; at most {self.length_max()} are taken")
            if len(view) - at < length:
                break
            self.on_message(kind, view[at + HEADER_BYTES : at + length], sequence, number)
            at += length
        return at

    def length_max(self) -> int:
        """Bytes of the longest message that is taken now."""
        if self.session is None:
            return BEFORE_LOGIN_MAX
        return HEADER_BYTES + BATCH_HEAD.size + self.server.options.records_max * ORDER_BYTES

    def on_message(self, kind: int, body: memoryview, sequence: int, number: int) -> None:
        """One whole message."""
        if self.session is None:
            if kind != LOGIN:
                raise Ended(E_NOT_LOGGED_IN, "the first message is LOGIN")
            self.on_login(body)
            return
        handler = self.handlers.get(kind)
        if handler is None:
            raise Ended(E_MALFORMED, f"a message of type {kind} is not for the engine")
        if number != self.session.number:
            raise Ended(E_SEQUENCE, "a message of another session")
        handler(body, sequence, 0, 0)

    # -- out -------------------------------------------------------------------------------------------------------------

    def send(self, kind: int, body: bytes, sealed: bool = True, sequence: int = 0) -> None:
        """A message; what we have taken of the client's is acknowledged with it."""
        if self.closed:
            return
        self.transport.write(self.frame(kind, body, sealed, sequence))
        self.told = asyncio.get_running_loop().time()
        self.taken = 0

    def frame(self, kind: int, body: bytes, sealed: bool, sequence: int) -> bytes:
        """Header, body, sums."""
        if sealed:
            body += crc32c(body).to_bytes(4, "little")
        session = self.session
        number, last_in = (session.number, session.last_in) if session is not None else (0, 0)
        head = HEADER.pack(MAGIC, VERSION, kind, HEADER_BYTES + len(body), sequence, number, last_in & NONE, 0)[:-4]
        return head + crc32c(head).to_bytes(4, "little") + body

    def fail(self, code: int, text: str, kind: int = ERROR) -> None:
        """Tell why, and close: nothing that still comes on this connection is looked at."""
        if self.closed:
            return
        words = text.encode()[:400]
        self.send(kind, struct.pack("<HH", code, len(words)) + words)
        self.closed = True
        self.transport.close()
        if self.session is not None and self.session.conn is self:
            self.session.conn = None

    def report(self, rows: bytes, query: int = 0) -> None:
        """REPORTS: numbered and kept, unless it answers a question."""
        session = self.session
        assert session is not None
        head = BATCH_HEAD.pack(query, self.server.x.wire.time_ns(), len(rows) // REPORT_BYTES, 0, 0, 0)[:-4]
        body = head + crc32c(head).to_bytes(4, "little") + rows
        if query:
            self.send(REPORTS, body, False)
            return
        session.last_out += 1
        whole = self.frame(REPORTS, body, False, session.last_out)
        session.kept.append((session.last_out, whole))
        if not self.closed:
            self.transport.write(whole)
            self.told = asyncio.get_running_loop().time()
            self.taken = 0

    def tick(self, now: float, every: float) -> None:
        """Heartbeats out, and the end of whoever is silent."""
        if self.closed:
            return
        if self.session is None:
            if now - self.heard > LOGIN_TIME_S:
                self.fail(E_NOT_LOGGED_IN, f"no LOGIN within {LOGIN_TIME_S:g} s")
            return
        if now - self.heard > 3 * every:
            self.fail(E_SILENT, "nothing was heard for three heartbeats")
        elif now - self.told >= every * 0.7:
            self.send(HEARTBEAT, struct.pack("<qq", self.server.x.wire.time_ns(), self.echo))

    # -- in --------------------------------------------------------------------------------------------------------------

    def sealed(self, body: memoryview) -> memoryview:
        """The body of a session message without its sum."""
        if len(body) < 4 or int.from_bytes(body[-4:], "little") != crc32c(body[:-4]):
            raise Ended(E_CORRUPT, "a message body is damaged")
        return body[:-4]

    def fields(self, layout: str, body: memoryview, what: str) -> tuple[int, ...]:
        raw = self.sealed(body)
        if len(raw) != struct.calcsize(layout):
            raise Ended(E_MALFORMED, f"{what} of {len(raw)} bytes")
        return struct.unpack(layout, raw)

    def on_login(self, body: memoryview) -> None:
        """Who is there, and where we were."""
        raw = bytes(self.sealed(body))
        server, o = self.server, self.server.options
        if len(raw) < 93 or len(raw) != 93 + raw[92]:
            raise Ended(E_MALFORMED, "LOGIN does not fit its name")
        version, _, nonce, proof, resume, last_in, last_out, _ = struct.unpack_from("<HH32s32sQQQB", raw)
        name = raw[93:]
        if version != VERSION:
            raise Ended(E_VERSION, f"version {version} is not spoken here; version {VERSION} is")
        if not self.proven(proof, nonce, name):
            raise Ended(E_REFUSED, "the login was refused: the secret does not agree")
        session = server.log_in(name.decode("utf-8", "replace"), resume, last_out)
        resumed = session.number == resume
        answer = hmac.digest(o.secret, b"copyd batch 1 engine\0" + nonce + self.challenge + name, "sha256")
        self.session = session
        session.conn = self
        grant = answer + struct.pack(
            "<QQQIIIIIIIHHqq", session.number, session.last_in, session.last_out, server.window, server.reserved,
            self.length_max(), o.records_max, o.heartbeat_ms, o.horizon_s, o.retained, len(server.x.instruments), 0,
            server.x.wire.time_ns(), server.desk.known_since_ns)
        for index, spec in enumerate(server.x.instruments):
            grant += struct.pack("<HHI16sqq", index, 0, 0, spec.symbol.encode(), spec.tick_e8, spec.lot_e8)
        self.send(LOGIN_ACK, grant)
        if resumed:
            self.send_again(last_in + 1, session.last_out)

    def proven(self, proof: bytes, nonce: bytes, name: bytes) -> bool:
        """Whether whoever logs in knows the secret."""
        wanted = hmac.digest(self.server.options.secret, b"copyd batch 1 client\0" + self.challenge + nonce + name, "sha256")
        return hmac.compare_digest(wanted, proof)

    def on_heartbeat(self, body: memoryview, *_rest: int) -> None:
        self.echo = self.fields("<qq", body, "HEARTBEAT")[0]

    def on_ack(self, body: memoryview, *_rest: int) -> None:
        self.sealed(body)

    def on_logout(self, body: memoryview, *_rest: int) -> None:
        self.sealed(body)
        self.fail(0, "good-bye", LOGOUT)

    def on_orders(self, body: memoryview, sequence: int, *_rest: int) -> None:
        """A batch: all of it undamaged, or none of it is looked at."""
        session, server = self.session, self.server
        assert session is not None
        if len(body) < BATCH_HEAD.size or crc32c(body[: BATCH_HEAD.size - 4]) != int.from_bytes(
                body[BATCH_HEAD.size - 4 : BATCH_HEAD.size], "little"):
            raise Ended(E_CORRUPT, "a batch header is damaged")
        _, valid_until, count, flags, zero, _ = BATCH_HEAD.unpack_from(body)
        if len(body) != BATCH_HEAD.size + count * ORDER_BYTES or not count or flags & ~1 or zero:
            raise Ended(E_MALFORMED, f"ORDERS of {len(body)} bytes do not hold {count} records")
        if not server.desk.check(body, BATCH_HEAD.size, count):
            raise Ended(E_CORRUPT, "a record is damaged")
        if sequence <= session.last_in:
            self.send(ACK, b"")  # sent again though we have it
            return
        if sequence != session.last_in + 1:
            if self.asked_from != session.last_in + 1:
                self.asked_from = session.last_in + 1
                self.send(RESEND_REQUEST, struct.pack("<QQ", session.last_in + 1, 0))
            return
        now = server.x.wire.time_ns()
        self.taken += count
        refuse = 0
        if self.taken > server.window - (0 if flags & 1 else server.reserved):
            refuse = R_WINDOW
        elif valid_until and now > valid_until:
            refuse = R_LATE
        session.last_in = sequence
        self.execute(body, count, now, refuse)

    def execute(self, body: memoryview, count: int, now: int, refuse: int) -> None:
        """Through the engine; the reports go out at once, and whoever listens to the accounts is told."""
        server = self.server
        server.desk.orders(body, BATCH_HEAD.size, count, now, refuse)
        while server.desk.n_told:
            self.report(server.desk.take(server.options.reports_max))
        server.x.wire.drain()
        server.x.wire.flush()

    def on_resend_request(self, body: memoryview, *_rest: int) -> None:
        first, last = self.fields("<QQ", body, "RESEND_REQUEST")
        assert self.session is not None
        self.send_again(max(first, 1), min(last or self.session.last_out, self.session.last_out))

    def send_again(self, first: int, last: int) -> None:
        """Reports from the retained window; what is older is gone, and said to be."""
        session = self.session
        assert session is not None
        if first > last:
            return
        oldest = session.kept[0][0] if session.kept else session.last_out + 1
        if first < oldest:
            self.send(GAP_FILL, struct.pack("<QQII", first, min(last, oldest - 1), GONE, 0))
        for sequence, whole in session.kept:
            if first <= sequence <= last:
                self.transport.write(whole)

    def on_gap_fill(self, body: memoryview, *_rest: int) -> None:
        first, last, _, _ = self.fields("<QQII", body, "GAP_FILL")
        assert self.session is not None
        if first <= self.session.last_in + 1 <= last:
            self.session.last_in = last
        self.send(ACK, b"")

    def on_query(self, body: memoryview, *_rest: int) -> None:
        raw = self.sealed(body)
        if len(raw) < 24:
            raise Ended(E_MALFORMED, f"QUERY of {len(raw)} bytes")
        number, issued, count, _ = struct.unpack_from("<QqII", raw)
        if len(raw) != 24 + 16 * count or not number:
            raise Ended(E_MALFORMED, f"QUERY of {len(raw)} bytes does not hold {count} ids")
        desk = self.server.desk
        missing = desk.query([bytes(raw[at : at + 16]) for at in range(24, len(raw), 16)])
        while desk.n_told:
            self.report(desk.take(self.server.options.reports_max), number)
        if missing:
            head = struct.pack("<QqqqII", number, issued, self.server.x.wire.time_ns(), desk.known_since_ns, len(missing), 0)
            self.send(NOT_FOUND, head + b"".join(missing))

    def on_accounts(self, body: memoryview, *_rest: int) -> None:
        raw = bytes(self.sealed(body))
        if len(raw) < 16:
            raise Ended(E_MALFORMED, f"ACCOUNTS of {len(raw)} bytes")
        number, count, _ = struct.unpack_from("<QII", raw)
        at, numbers = 16, []
        for _ in range(count):
            if at >= len(raw) or at + 1 + raw[at] > len(raw):
                raise Ended(E_MALFORMED, f"ACCOUNTS of {len(raw)} bytes does not hold {count} names")
            name = raw[at + 1 : at + 1 + raw[at]].decode("utf-8", "replace")
            numbers.append(self.server.x.accounts.index.get(name, NONE))
            at += 1 + raw[at]
        self.send(ACCOUNTS_ACK, struct.pack(f"<QII{count}I", number, count, 0, *numbers))
