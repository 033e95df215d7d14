"""A WebSocket that is kept up: reconnect with back-off and jitter, renewal before the venue cuts it (make before break).

``Link`` is the wish, ``Session`` one living connection. Frames are handed on with their session, because an answer
belongs to the connection it was asked on, also while an old and a new one overlap.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from copyd._fast.replies import Ear

BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 10.0
#: A connection that lived this long starts the back-off anew.
SETTLED_S = 10.0
#: Renew this long before the venue's own limit, spread so that connections do not renew together.
RENEW_EARLY = 0.02
#: Old and new connection live side by side this long: longer than an answer may take, longer than subscribing anew does.
OVERLAP_S = 6.0
WRITE_BUFFER_HIGH = 4 << 20
READ_BUFFER = 16 << 10
#: Of Linux' ``struct tcp_info`` as much as holds snd_mss (16), rtt (68) and snd_cwnd (80).
TCP_INFO_BYTES = 104
#: Repeated attempts of all links of this process together, below the venue's 300 per 5 minutes and address.
RETRIES_PER_S = 0.8
RETRIES_BURST = 40
#: Nothing arrived for so long: a ping; no pong for as long again: the connection is dead.
PING_IDLE_S = 5.0
PING_REPLY_S = 5.0
_TEXT, _BINARY, _CLOSE, _CONT = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CLOSE, WSMsgType.CONTINUATION
_PONG = WSMsgType.PONG


class RetryPace:
    """A token bucket that all links share: an outage must not end in a ban for knocking."""

    def __init__(self, per_s: float, burst: int) -> None:
        self.per_s, self.burst = per_s, burst
        self._tokens, self._at = float(burst), 0.0

    def wait_s(self, now: float) -> float:
        """Take a token; how long to wait before it may be used."""
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_s if self._at else self._tokens)
        self._at = now
        self._tokens -= 1
        return 0.0 if self._tokens >= 0 else -self._tokens / self.per_s


PACE = RetryPace(RETRIES_PER_S, RETRIES_BURST)


class ConnectPace:
    """Connection attempts of one address to one venue. Whoever is urgent (a leader, the market) waits for no other: thousands of
    accounts may stand in line for hours, and a leader who is not heard closes nothing."""

    def __init__(self, per_s: float, burst: int) -> None:
        self.per_s, self.burst = per_s, burst
        self._tokens, self._at = float(burst), 0.0
        self._lines: tuple[deque[asyncio.Future[None]], ...] = (deque(), deque())  # the urgent, the others
        self._timer: asyncio.TimerHandle | None = None

    async def turn(self, urgent: bool = False) -> None:
        """Wait for one's turn to connect."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._lines[not urgent].append(turn)
        self._serve(loop)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn had come, and nobody connects for it
                self._tokens = min(self.burst, self._tokens + 1)
            raise

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_s if self._at else self._tokens)
        self._at = now
        for line in self._lines:
            while line and (self._tokens >= 1 or line[0].done()):
                turn = line.popleft()
                if not turn.done():
                    self._tokens -= 1
                    turn.set_result(None)
        if any(self._lines) and self._timer is None:
            self._timer = loop.call_later(max((1 - self._tokens) / self.per_s, 0.001), self._again, loop)

    def _again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._serve(loop)


def watched(task: asyncio.Task[None]) -> asyncio.Task[None]:
    """A task without which something stands still: what ends it goes to the loop's handler at once, marked ``fatal``."""
    task.add_done_callback(_say_why)
    return task


def _say_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (problem := task.exception()) is not None:
        task.get_loop().call_exception_handler(
            {"message": f"{task.get_name()} ended", "exception": problem, "task": task, "fatal": True})


class Session(WSListener):
    """One open connection of a ``Link``."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.opened_at = 0.0
        self.transport: WSTransport | None = None
        self.lost = asyncio.Event()
        self.reason = ""
        self.paused = False
        #: Frames come to it first, for ten thousand answers at once: what it does not read comes to ``_on_frame``.
        self.ear = Ear(self._on_frame, link.frame_bytes_max)
        self.on_ws_frame = self.ear.on_ws_frame  # type: ignore[method-assign]
        self.written = 0  # bytes handed over by ``write``
        self._fd = -1
        self._parts: list[bytes] = []

    # -- picows calls these -------------------------------------------------------------------------------------------
    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.opened_at = asyncio.get_running_loop().time()
        transport.underlying_transport.set_write_buffer_limits(high=self.link.write_buffer_high)
        if not transport.is_secure:
            self._fd = transport.underlying_transport.get_extra_info("socket").fileno()

    def is_user_specific_pong(self, frame: WSFrame) -> bool:
        if frame.msg_type == _PONG:
            self.ear.heard += 1
            return True
        return False

    def _on_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == _CLOSE:
            self.reason = self.reason or f"closed by the venue: {frame.get_close_code()}"
            with contextlib.suppress(WSError):
                transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        if kind in (_TEXT, _BINARY, _CONT):
            payload = frame.get_payload_as_bytes()
            if kind == _CONT or not frame.fin:
                self._parts.append(payload)
                self.ear.parted = True
                if not frame.fin:
                    return
                payload, self._parts = b"".join(self._parts), []
                self.ear.parted = False
            if len(payload) > self.link.frame_bytes_max:
                self.link.oversized += 1
                self.link.on_oversized(self)
                return
            try:
                self.link.on_frame(self, payload)
            except Exception as problem:
                # A decoder returns values for whatever the venue sends; an exception here is our own broken rule, and
                # the loop's handler (the supervisor) decides about the process. The connection is not to blame.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"{self.link.name}: frame handler failed", "exception": problem, "fatal": True}
                )

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.reason = self.reason or "connection lost"
        self._fd = -1
        self.lost.set()
        self.link.session_lost(self)

    def pause_writing(self) -> None:
        self.paused = True
        self.link.on_congestion(self, True)

    def resume_writing(self) -> None:
        self.paused = False
        self.link.on_congestion(self, False)

    # -- ours ---------------------------------------------------------------------------------------------------------
    @property
    def heard(self) -> int:
        """Frames that arrived, pongs among them."""
        return self.ear.heard

    @property
    def open(self) -> bool:
        """Whether bytes may still be handed over."""
        return (
            self.transport is not None
            and not self.lost.is_set()
            and not self.transport.is_close_frame_sent
            and not self.transport.underlying_transport.is_closing()
        )

    @property
    def backlog(self) -> int:
        """Bytes handed over that the kernel has not taken."""
        return self.transport.underlying_transport.get_write_buffer_size() if self.transport is not None else 0

    def window(self) -> tuple[int, int] | None:
        """(bytes that may be on their way unacknowledged, smoothed round trip in ns) as the kernel has them; None: not known.

        What an event has more than the window waits for round trips, and nothing else in the process can see that.
        """
        if self.transport is None or self.lost.is_set():
            return None
        raw = self.transport.underlying_transport.get_extra_info("socket")
        try:
            info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        except (AttributeError, OSError):
            return None  # no TCP socket, or a system that does not tell
        if not isinstance(info, bytes) or len(info) < TCP_INFO_BYTES:
            return None
        segment, round_trip_us, segments = (struct.unpack_from("=I", info, at)[0] for at in (16, 68, 80))
        return segment * segments, round_trip_us * 1000

    def write(self, buffer: bytes) -> None:
        """Raw frames, straight to the kernel when nothing waits before them. ``OSError`` means no byte of it was written."""
        transport = self.transport
        assert transport is not None
        under = transport.underlying_transport
        self.written += len(buffer)
        if self._fd >= 0 and under.get_write_buffer_size() == 0:
            try:
                sent = os.write(self._fd, buffer)
            except BlockingIOError:
                sent = 0
            if sent == len(buffer):
                return
            buffer = buffer[sent:]
        under.write(buffer)

    def send_text(self, text: bytes) -> None:
        """One message through the library's framing."""
        if self.transport is not None:
            self.transport.send(_TEXT, text)

    def ping(self) -> None:
        """Ask for a sign of life: a living peer's pong counts in ``heard``."""
        if self.open and self.transport is not None:
            with contextlib.suppress(WSError, OSError):
                self.transport.send_ping()

    def abort(self, reason: str) -> None:
        """End it without waiting for the other side, which does not answer; ``on_lost`` follows at once."""
        self.reason = self.reason or reason
        if self.transport is not None:
            self.transport.underlying_transport.abort()

    def close(self, reason: str) -> None:
        """End it from our side."""
        self.reason = self.reason or reason
        if self.transport is not None:
            with contextlib.suppress(WSError, OSError):
                self.transport.send_close()
            self.transport.disconnect()


class Link:
    """Keeps one connection open until ``stop``. ``url`` is asked before each attempt (a listen key may have changed)."""

    def __init__(
        self,
        name: str,
        url: Callable[[], Awaitable[str]],
        *,
        on_frame: Callable[[Session, bytes], None],
        on_open: Callable[[Session], None],
        on_lost: Callable[[Session], None],
        rng: random.Random,
        life_s: float,
        frame_bytes_max: int,
        on_congestion: Callable[[Session, bool], None] = lambda session, congested: None,
        write_buffer_high: int = WRITE_BUFFER_HIGH,
        ping_idle_s: float = PING_IDLE_S,
        ping_reply_s: float = PING_REPLY_S,
        on_oversized: Callable[[Session], None] = lambda session: None,
        source_address: str = "",
        read_buffer: int = READ_BUFFER,
        paced: bool = False,
    ) -> None:
        """``source_address``: of this machine, from which it goes out; "" = the system's choice. ``paced``: ``url`` waits for a
        turn of the venue's own, so that one venue's outage holds up no other's links."""
        self.name = name
        self.url = url
        self.on_frame, self.on_open, self.on_lost, self.on_congestion = on_frame, on_open, on_lost, on_congestion
        self.rng = rng
        self.life_s = life_s
        self.frame_bytes_max = frame_bytes_max
        self.write_buffer_high = write_buffer_high
        self.ping_idle_s, self.ping_reply_s = ping_idle_s, min(ping_reply_s, ping_idle_s)
        self.session: Session | None = None
        self.old: set[Session] = set()
        self.oversized = 0
        self.on_oversized = on_oversized
        self.read_buffer = read_buffer
        self.paced = paced
        self._source: dict[str, Any] = {"local_addr": (source_address, 0)} if source_address else {}
        self.connects = 0
        self.last_error = ""
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._renew = asyncio.Event()

    def start(self) -> None:
        """Begin to connect; ``on_open`` tells when."""
        self._task = watched(asyncio.get_running_loop().create_task(self._run(), name=self.name))

    def renew(self) -> None:
        """Open a new connection beside the old one and then let the old one go."""
        self._renew.set()

    async def stop(self) -> None:
        """Close what is open; no callback but ``on_lost`` comes afterwards."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        sessions = [s for s in (*self.old, self.session) if s is not None]
        for session in sessions:
            session.close("stopped")
        for session in sessions:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(session.lost.wait(), 1.0)

    def session_lost(self, session: Session) -> None:
        """A connection ended, whoever ended it."""
        self.old.discard(session)
        if self.session is session:
            self.session = None
        if session.opened_at:
            self.on_lost(session)

    async def _connect(self) -> Session:
        url = await self.url()
        session = Session(self)
        await ws_connect(
            lambda: session,
            url,
            websocket_handshake_timeout=5,
            enable_auto_ping=True,
            auto_ping_idle_timeout=self.ping_idle_s,
            auto_ping_reply_timeout=self.ping_reply_s,
            max_frame_size=max(self.frame_bytes_max * 2, 1 << 16),
            logger_name="copyd." + self.name,
            read_buffer_init_size=self.read_buffer,
            **self._source,
        )
        return session

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._stopping:
            try:
                session = await self._connect()
            except asyncio.CancelledError:
                raise
            except Exception as problem:  # refused, handshake answered otherwise, DNS, a listen key that was not given
                self.last_error = f"{type(problem).__name__}: {problem}"[:200]
                wait = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2**failures) * self.rng.uniform(0.5, 1.0)
                failures = min(failures + 1, 16)
                await asyncio.sleep(wait if self.paced else max(wait, PACE.wait_s(loop.time())))
                continue
            self.connects += 1
            before, self.session = self.session, session
            if before is not None and before.open:
                self.old.add(before)
            if not session.lost.is_set():
                self.on_open(session)
            if before is not None and before in self.old:
                loop.call_later(OVERLAP_S, before.close, "renewed")
            self._renew.clear()
            life = self.life_s * (1 - RENEW_EARLY * self.rng.uniform(1.0, 3.0))
            lost = loop.create_task(session.lost.wait())
            asked = loop.create_task(self._renew.wait())
            try:
                await asyncio.wait({lost, asked}, timeout=life, return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()
                asked.cancel()
            if session.lost.is_set():
                self.last_error = session.reason
                if loop.time() - session.opened_at > SETTLED_S:
                    failures = 0
                wait = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2**failures) * self.rng.uniform(0.5, 1.0)
                failures = min(failures + 1, 16)
                await asyncio.sleep(wait)
