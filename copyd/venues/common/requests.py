"""Orders as HTTP/1.1 requests over connections that are kept: one request in flight on each, an answer read as far as it counts.

What a general client does for any page is left out: no redirects, no cookies, no pipelining, no request that is ever repeated.
``NotWritten`` proves that not a byte left; from the first byte on, whatever is not a whole answer is ``Lost``, and the connection
is given up, so that an answer that comes late is nobody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from multidict import CIMultiDict

HEAD_BYTES_MAX = 64 << 10
BODY_BYTES_MAX = 4 << 20
#: A connection that nobody used for so long is not trusted any more: the venue may be about to close it.
IDLE_S = 15.0
CONNECT_S = 5.0
_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: [^\r\n]*)?")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?")


class NotWritten(Exception):
    """There is no connection: nothing of the request left."""


class Lost(Exception):
    """The request was written, in part at least, and no whole answer came."""


class Answer(NamedTuple):
    """Names of headers are looked up in any case."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


class Reader:
    """One answer, out of bytes as they come. ``ValueError`` for what is none."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._body = bytearray()
        self._status = 0
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._keeps = False
        self._left = -1  # of the body, or of the chunk that is being read; -1: until the connection ends
        self._chunked = self._in_trailer = False
        self.answer: Answer | None = None

    @property
    def reusable(self) -> bool:
        """The answer is whole, nothing came behind it, and the other side keeps the connection."""
        return self.answer is not None and self._keeps and not self._data

    def feed(self, data: bytes) -> None:
        """More bytes; ``answer`` stands when they were the last."""
        self._data += data
        while self.answer is None and (self._read_body() if self._status else self._read_head()):
            pass

    def ended(self) -> None:
        """The connection ended: an answer without a length is whole now."""
        if self.answer is None and self._status and not self._chunked and self._left < 0:
            self._finish()

    def _read_head(self) -> bool:
        """Whether a head was read and there is more to do."""
        end = self._data.find(b"\r\n\r\n")
        if max(end, 0 if end >= 0 else len(self._data)) > HEAD_BYTES_MAX:
            raise ValueError("the head of the answer is too long")
        if end < 0:
            return False
        first, *lines = bytes(self._data[:end]).split(b"\r\n")
        del self._data[: end + 4]
        found = _STATUS.fullmatch(first)
        if found is None:
            raise ValueError(f"no status line: {first[:40]!r}")
        status = int(found[2])
        if status == 101:
            raise ValueError("the connection changes its protocol")
        if status < 200:
            return True  # an interim answer; the one that counts follows
        for line in lines:
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or not _NAME.fullmatch(name):
                raise ValueError(f"no header: {line[:40]!r}")
            self._headers.add(name, value.strip(" \t"))
        self._status = status
        self._measure(found[1] == b"1")
        return True

    def _measure(self, keeps: bool) -> None:
        """How the body ends (RFC 9112, 6.3)."""
        told = ",".join(self._headers.getall("Connection", [])).lower()
        self._keeps = (keeps or "keep-alive" in told) and "close" not in told
        coding = ",".join(self._headers.getall("Transfer-Encoding", [])).strip().lower()
        lengths = {part.strip() for value in self._headers.getall("Content-Length", []) for part in value.split(",")}
        if self._headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise ValueError("the answer is compressed, which nobody asked for")
        if coding:
            if coding != "chunked":
                raise ValueError(f"transfer encoding {coding[:40]}")
            self._chunked, self._left = True, 0
            self._keeps = self._keeps and not lengths
        elif lengths:
            length = lengths.pop()
            if lengths or not (length.isascii() and length.isdigit()) or int(length) > BODY_BYTES_MAX:
                raise ValueError(f"length of the answer: {length[:20]}")
            self._left = int(length)
        elif self._status in (204, 304):
            self._left = 0
        else:
            self._keeps = False

    def _read_body(self) -> bool:
        if self._chunked:
            return self._read_chunk()
        take = len(self._data) if self._left < 0 else min(self._left, len(self._data))
        self._take(take)
        if self._left >= 0:
            self._left -= take
            if not self._left:
                self._finish()
        return False

    def _read_chunk(self) -> bool:
        """Whether there may be more to read."""
        if self._left:  # the chunk and the line end behind it
            if self._left > 2:
                take = min(self._left - 2, len(self._data))
                self._take(take)
                self._left -= take
            if self._left > 2 or len(self._data) < 2:
                return False
            if self._data[:2] != b"\r\n":
                raise ValueError("a chunk is longer than it says")
            del self._data[:2]
            self._left = 0
            return True
        end = self._data.find(b"\r\n")
        if end < 0:
            if len(self._data) > HEAD_BYTES_MAX:
                raise ValueError("a line between chunks is too long")
            return False
        line = bytes(self._data[:end])
        del self._data[: end + 2]
        if self._in_trailer:
            if not line:
                self._finish()
            return True
        size = _CHUNK.fullmatch(line)
        if size is None:
            raise ValueError(f"no size of a chunk: {line[:20]!r}")
        count = int(size[1], 16)
        if count > BODY_BYTES_MAX:
            raise ValueError("a chunk is too long")
        self._in_trailer = count == 0
        self._left = count + 2 if count else 0
        return True

    def _take(self, count: int) -> None:
        self._body += self._data[:count]
        del self._data[:count]
        if len(self._body) > BODY_BYTES_MAX:
            raise ValueError("the answer is too long")

    def _finish(self) -> None:
        self.answer = Answer(self._status, self._headers, bytes(self._body))


class _Connection(asyncio.Protocol):
    """One connection: the answer to its one request, and when it ended."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.idle_since = 0.0
        self.lost = False
        self._reader: Reader | None = None
        self._waiting: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._reader is None or self._reader.answer is not None:
            self.drop()  # nobody has asked
            return
        try:
            self._reader.feed(data)
        except ValueError as problem:
            self._fail(f"unreadable answer: {problem}")
            self.drop()
            return
        self._tell()

    def connection_lost(self, problem: Exception | None) -> None:
        self.lost = True
        if self._reader is not None:
            self._reader.ended()
            self._tell()
        self._fail("connection lost")

    def _tell(self) -> None:
        answer = self._reader.answer if self._reader is not None else None
        if answer is not None and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def _fail(self, why: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Lost(why))

    @property
    def free(self) -> bool:
        """Another request may go over it."""
        return not self.lost and not self.transport.is_closing() and (self._reader is None or self._reader.reusable)

    async def ask(self, request: bytes, timeout_s: float) -> Answer:
        self._reader = Reader()
        loop = asyncio.get_running_loop()
        waiting = self._waiting = loop.create_future()
        late = loop.call_later(timeout_s, self._fail, "no answer in time")
        try:
            self.transport.write(request)
            return await waiting
        finally:
            late.cancel()
            self._waiting = None
            if self._reader.answer is None:
                self.drop()  # what it still says is nobody's answer

    def drop(self) -> None:
        self.lost = True
        if self.transport is not None:
            self.transport.abort()


class Lease:
    """An open connection that is one caller's until it is given back; nothing was written for him yet."""

    def __init__(self, pool: Requests, connection: _Connection) -> None:
        self._pool, self._connection = pool, connection

    async def ask(self, request: bytes, timeout_s: float) -> Answer:
        """The answer to one whole request; ``Lost`` for anything else, ``NotWritten`` where it was gone. Once per lease."""
        if not self._connection.free:
            raise NotWritten("connection lost")
        return await self._connection.ask(request, timeout_s)

    def release(self) -> None:
        """Give it back; it is kept if it may serve again."""
        self._pool.take_back(self._connection)


class Requests:
    """Connections to one host from one address of this machine, as many as there are requests at once."""

    def __init__(self, base_url: str, source_address: str = "", connect_s: float = CONNECT_S, idle_s: float = IDLE_S) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"no address of a host: {base_url}")
        self.host = parts.netloc.rpartition("@")[2]
        self._name = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._local = (source_address, 0) if source_address else None
        self._connect_s, self._idle_s = connect_s, idle_s
        self._idle: list[_Connection] = []
        self._all: dict[_Connection, None] = {}  # in the order they were opened
        self.opened = 0

    async def lease(self) -> Lease:
        """A connection, the one used last if one is free; ``NotWritten`` where none can be opened."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.free and now - connection.idle_since <= self._idle_s:
                return Lease(self, connection)
            self._let_go(connection)
        connection = _Connection()
        try:
            async with asyncio.timeout(self._connect_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, self._name, self._port, ssl=self._tls, local_addr=self._local)
        except OSError as problem:  # refused, no such host, no valid certificate, not in time
            raise NotWritten(f"no connection: {type(problem).__name__}") from None
        self.opened += 1
        self._all[connection] = None
        return Lease(self, connection)

    def take_back(self, connection: _Connection) -> None:
        """As ``Lease.release``."""
        if connection in self._all and connection.free:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            self._let_go(connection)

    def _let_go(self, connection: _Connection) -> None:
        self._all.pop(connection, None)
        if not connection.lost:
            connection.transport.close()

    def close(self) -> None:
        """End every connection; who waits for an answer gets ``Lost``."""
        connections, self._all, self._idle = self._all, {}, []
        for connection in connections:
            with contextlib.suppress(RuntimeError):  # its loop is closed already
                connection.drop()


def request_text(method: str, target: str, host: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole request. ``ValueError`` for a header that would be more than one line."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items()),
             f"Content-Length: {len(body)}"]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header has a line end in it")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
