"""The server's side of WebSocket, as an asyncio protocol: handshake, frames in, frames out.

What it is used for is said by the class that inherits: who is let in, what a text message means, what time it is. Nothing is
written by itself: what is queued leaves with ``flush``, all of it in one write.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
WAITING, OPEN, CLOSING, CLOSED = range(4)
MAX_MESSAGE = 1 << 20
MAX_HEAD = 131_072
#: First bytes of frames: a whole text, a text's first and last fragment, a whole binary message.
TEXT, FIRST, LAST, BINARY = 0x81, 0x01, 0x80, 0x82
CLOSE, PING, PONG = 0x88, 0x89, 0x8A
CLOSE_WAIT_S = 0.2
REASONS = {400: "Bad Request", 403: "Forbidden", 404: "Not Found", 418: "I'm a teapot", 429: "Too Many Requests"}


def frame(head: int, payload: bytes) -> bytes:
    """One unmasked frame; ``head`` is its first byte."""
    size = len(payload)
    if size < 126:
        return bytes((head, size)) + payload
    if size < 65536:
        return bytes((head, 126)) + size.to_bytes(2, "big") + payload
    return bytes((head, 127)) + size.to_bytes(8, "big") + payload


def unmask(data: bytes, mask: bytes) -> bytes:
    """A client's payload."""
    size = len(data)
    whole = int.from_bytes(mask * (size // 4 + 1), "little") & ((1 << 8 * size) - 1)
    return (int.from_bytes(data, "little") ^ whole).to_bytes(size, "little")


def wants_websocket(method: str, headers: dict[str, str]) -> bool:
    """Whether a request asks for a WebSocket."""
    return method == "GET" and "websocket" in headers.get("upgrade", "").lower() and bool(headers.get("sec-websocket-key"))


def accepted(headers: dict[str, str]) -> bytes:
    """The answer to an upgrade request that is let in."""
    accept = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + MAGIC).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\n\r\n"
    )


def refusal(status: int, body: bytes) -> bytes:
    """The answer to a request that is not; the connection ends with it."""
    head = f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body


class WebSocket(asyncio.Protocol):
    """One connection of a server.

    An inheritor overrides ``clock_ns``, ``let_in``, ``opened``, ``text``, ``lost``, ``touched``, ``read_over``, ``later``, and
    perhaps ``frames_of``.
    """

    def __init__(self) -> None:
        self.transport: Any = None
        self.phase = WAITING
        self.inbox = bytearray()
        self.out = bytearray()
        self.partial: bytearray | None = None
        self.stalled = self.dirty = False
        self.path = self.peer = ""
        self.opened_ns = self.last_ping_ns = self.last_pong_ns = 0

    # -- what it is used for ----------------------------------------------------------------------------------------------
    def clock_ns(self) -> int:
        """The time, ns."""
        raise NotImplementedError

    def let_in(self, method: str, headers: dict[str, str]) -> tuple[bytes, bool]:
        """The answer to the request for ``path``, and whether the connection stays."""
        raise NotImplementedError

    def opened(self) -> None:
        """The handshake is over."""
        raise NotImplementedError

    def text(self, payload: bytes) -> None:
        """A whole message."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection is gone; also called for one that was never let in."""
        raise NotImplementedError

    def touched(self) -> None:
        """Something is queued that was not before: ``flush`` is to be called soon."""
        raise NotImplementedError

    def read_over(self) -> None:
        """Everything that came in one piece was read."""
        raise NotImplementedError

    def later(self, delay_s: float, action: Callable[[], Any]) -> None:
        """Do something a while later."""
        raise NotImplementedError

    def frames_of(self, payload: bytes) -> Iterable[tuple[int, bytes]]:
        """What leaves for one text message: (first byte, payload) of each frame."""
        return ((TEXT, payload),)

    # -- asyncio.Protocol -------------------------------------------------------------------------------------------------
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername")  # None where the client is gone already
        self.peer = peer[0] if peer else ""
        self.opened_ns = self.last_ping_ns = self.last_pong_ns = self.clock_ns()

    def connection_lost(self, exc: Exception | None) -> None:
        self.phase = CLOSED
        self.inbox.clear()
        self.out.clear()
        self.lost()

    def eof_received(self) -> None:
        return None

    def data_received(self, data: bytes) -> None:
        if self.phase >= CLOSING:
            return
        self.inbox += data
        if self.phase == WAITING and not self._shake_hands():
            return
        self._walk()
        self.read_over()

    def _shake_hands(self) -> bool:
        end = self.inbox.find(b"\r\n\r\n")
        if end < 0:
            if len(self.inbox) > MAX_HEAD:
                self.transport.abort()
            return False
        lines = self.inbox[:end].decode("latin-1").split("\r\n")
        del self.inbox[: end + 4]
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        parts = lines[0].split(" ")
        self.path = parts[1] if len(parts) > 1 else ""
        answer, stays = self.let_in(parts[0], headers)
        self.transport.write(answer)
        if not stays:
            self.transport.close()
            self.phase = CLOSED
            return False
        self.phase = OPEN
        self.opened()
        return True

    def _walk(self) -> None:
        """Every complete frame in the inbox."""
        inbox = self.inbox
        while self.phase == OPEN and len(inbox) >= 2:
            fin, opcode, size = inbox[0] & 0x80, inbox[0] & 15, inbox[1] & 127
            if inbox[0] & 0x70 or not inbox[1] & 0x80:
                self.close(1002, "frames of a client are masked and carry no extension")
                break
            head = 8 if size == 126 else 14 if size == 127 else 6
            if len(inbox) < head:
                break
            if size >= 126:
                size = int.from_bytes(inbox[2 : head - 4], "big")
            if size > MAX_MESSAGE or (self.partial is not None and len(self.partial) + size > MAX_MESSAGE):
                self.close(1009, "message too big")
                break
            if opcode >= 8 and (size > 125 or not fin):
                self.close(1002, "malformed control frame")
                break
            if len(inbox) < head + size:
                break
            payload = unmask(bytes(inbox[head : head + size]), bytes(inbox[head - 4 : head]))
            del inbox[: head + size]
            self._take(opcode, bool(fin), payload)
        if self.phase >= CLOSING:
            inbox.clear()

    def _take(self, opcode: int, fin: bool, payload: bytes) -> None:
        if opcode == 1 and fin and self.partial is None:
            self.text(payload)
        elif opcode <= 2:
            self._piece(opcode, fin, payload)
        elif opcode == 8:
            self.out += frame(CLOSE, payload if len(payload) >= 2 else b"")
            self.phase = CLOSING
            self.flush()
            self.transport.close()
        elif opcode == 9:
            self.out += frame(PONG, payload)
            self.touch()
        elif opcode == 10:
            self.last_pong_ns = self.clock_ns()
        else:
            self.close(1002, "unknown opcode")

    def _piece(self, opcode: int, fin: bool, payload: bytes) -> None:
        if (opcode == 0) == (self.partial is None):
            self.close(1002, "continuation out of order")
            return
        if opcode == 2:
            self.close(1003, "text only")
            return
        self.partial = (self.partial or bytearray()) + payload
        if fin:
            whole, self.partial = bytes(self.partial), None
            self.text(whole)

    # -- sending ------------------------------------------------------------------------------------------------------------
    @property
    def is_open(self) -> bool:
        return self.phase == OPEN

    def touch(self) -> None:
        """Something waits to be flushed."""
        if not self.dirty:
            self.dirty = True
            self.touched()

    def flush(self) -> None:
        """Everything queued, in one write."""
        self.dirty = False
        if not self.out or self.stalled or self.phase == WAITING:
            return
        if self.phase != CLOSED and self.transport is not None and not self.transport.is_closing():
            self.transport.write(bytes(self.out))
        self.out.clear()

    def send(self, text: bytes) -> None:
        """Queue one text message; it leaves with the next flush."""
        if self.phase == OPEN:
            for head, part in self.frames_of(text):
                self.out += frame(head, part)
            self.touch()

    def ping(self) -> None:
        if self.phase == OPEN:
            self.last_ping_ns = self.clock_ns()
            self.out += frame(PING, b"%d" % (self.last_ping_ns // 10**6))
            self.touch()

    def close(self, code: int, reason: str) -> None:
        """A close frame, and the transport a moment later."""
        if self.phase != OPEN:
            return
        self.out += frame(CLOSE, code.to_bytes(2, "big") + reason.encode()[:120])
        self.phase = CLOSING
        self.stalled = False
        self.flush()
        self.later(CLOSE_WAIT_S, self.transport.close)

    def abort(self) -> None:
        """Cut without a close frame; what was queued is lost."""
        self.out.clear()
        if self.transport is not None:
            self.transport.abort()

    def stall(self, on: bool) -> None:
        """While stalled nothing leaves."""
        self.stalled = on
        if not on:
            self.flush()
