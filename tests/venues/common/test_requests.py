"""Orders as HTTP requests: one in flight on a connection, none ever repeated, and no answer taken for another's."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.bench.fanout import certify
from copyd.venues.common.requests import BODY_BYTES_MAX, HEAD_BYTES_MAX, Answer, Lost, NotWritten, Reader, Requests, request_text

ORDER = request_text("POST", "/order", "venue", {"X-Key": "k"}, b'{"a":1}')
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Left: 7\r\n\r\nhi"
CHUNKED = (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Too Many\r\nTransfer-Encoding: chunked\r\n\r\n"
           b"3;x=y\r\nhel\r\nA\r\nlo, orders\r\n0\r\nTrailer: t\r\n\r\n")
Script = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def request(reader: asyncio.StreamReader) -> bytes:
    """One whole request as it arrived; b"" when the other side has ended the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        return head + await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


@asynccontextmanager
async def venue(script: Script) -> AsyncIterator[Requests]:
    """Connections to a server that does what the script says on each, by its number."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        try:
            await script(count, reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made = Requests(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "127.0.0.1")
    try:
        yield made
    finally:
        made.close()
        server.close()


async def ask(requests: Requests, timeout_s: float = 5.0) -> Answer:
    """One order, as the REST client sends it."""
    lease = await requests.lease()
    try:
        return await lease.ask(ORDER, timeout_s)
    finally:
        lease.release()


def answering(answer: bytes, seen: list[tuple[int, bytes]] | None = None) -> Script:
    """Every request is answered so; ``seen``: (number of the connection, request)."""
    async def script(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while text := await request(reader):
            if seen is not None:
                seen.append((number, text))
            writer.write(answer)
    return script


async def test_a_connection_is_kept_and_carries_one_request_after_the_other() -> None:
    """The bytes are those of the request, and the next one goes over the same connection."""
    seen: list[tuple[int, bytes]] = []
    async with venue(answering(PLAIN, seen)) as requests:
        for _ in range(3):
            answer = await ask(requests)
            assert (answer.status, answer.body, answer.headers["x-left"]) == (200, b"hi", "7")
    assert seen == [(1, ORDER)] * 3


async def test_requests_at_once_have_a_connection_each() -> None:
    """While one is not answered nothing else is written behind it: pipelining never."""
    busy: set[int] = set()

    async def script(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await request(reader):
            busy.add(number)
            while len(busy) < 5:  # noqa: ASYNC110 - until all are asked
                await asyncio.sleep(0.001)
            writer.write(PLAIN)

    async with venue(script) as requests:
        answers = await asyncio.gather(*(ask(requests) for _ in range(5)))
        assert [answer.body for answer in answers] == [b"hi"] * 5 and requests.opened == 5
        await ask(requests)
        assert requests.opened == 5


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", PLAIN[:-1], CHUNKED[:-2], CHUNKED[:90]])
async def test_a_connection_cut_before_the_answer_is_whole_is_lost_and_never_asked_again(part: bytes) -> None:
    """Whatever came of it: the request was written, once, and nobody can say what became of it."""
    seen = []

    async def script(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request(reader))
        writer.write(part)

    async with venue(script) as requests:
        with pytest.raises(Lost, match="connection lost"):
            await ask(requests)
    assert seen == [ORDER]


async def test_an_answer_that_comes_late_is_nobodys() -> None:
    """Not in time is lost; the connection goes with it, and the next request is answered on another."""
    async def script(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await request(reader):
            if number == 1:
                await asyncio.sleep(0.1)
            writer.write(PLAIN.replace(b"hi", b"%02d" % number))

    async with venue(script) as requests:
        with pytest.raises(Lost, match="in time"):
            await ask(requests, 0.02)
        assert (await ask(requests)).body == b"02"


async def test_who_stops_waiting_takes_the_connection_with_him() -> None:
    """A cancelled request leaves no answer behind for the next."""
    asked = asyncio.Event()

    async def script(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await request(reader):
            asked.set()
            if number == 1:
                await asyncio.sleep(0.05)
            writer.write(PLAIN.replace(b"hi", b"%02d" % number))

    async with venue(script) as requests:
        waiting = asyncio.create_task(ask(requests))
        await asked.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled() and (await ask(requests)).body == b"02"


@pytest.mark.parametrize("answer", [
    PLAIN + PLAIN, PLAIN + b"x", PLAIN.replace(b"X-Left: 7", b"Connection: close"), PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
])
async def test_a_connection_that_said_more_or_is_closing_carries_no_other_request(answer: bytes) -> None:
    """The answer counts; what came behind it is not the answer to the next request."""
    seen: list[tuple[int, bytes]] = []
    async with venue(answering(answer, seen)) as requests:
        assert [(await ask(requests)).body for _ in range(2)] == [b"hi", b"hi"]
    assert [number for number, _ in seen] == [1, 2]


async def test_a_connection_the_venue_closed_meanwhile_is_not_used() -> None:
    """It is known to be gone before anything is written: another is opened."""
    async def script(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(PLAIN)

    async with venue(script) as requests:
        await ask(requests)
        await asyncio.sleep(0.05)
        assert (await ask(requests)).body == b"hi" and requests.opened == 2


async def test_without_a_connection_nothing_was_written() -> None:
    """Nobody listens, or the connection went before it was asked: said apart from a loss."""
    async with venue(answering(PLAIN)) as requests:
        lease = await requests.lease()
        requests.close()
        with pytest.raises(NotWritten):
            await lease.ask(ORDER, 1)
    with pytest.raises(NotWritten, match="ConnectionRefusedError"):
        await requests.lease()


@pytest.mark.parametrize("answer", [
    b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nNo header\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
    b"HTTP/1.1 101 Switching\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_BYTES_MAX,
])
async def test_what_is_no_answer_is_lost(answer: bytes) -> None:
    """Never an exception of its own, and never an answer: the order was written."""
    async with venue(answering(answer)) as requests:
        with pytest.raises(Lost, match="unreadable"):
            await ask(requests)


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    """As HTTP has it; its body is judged by whoever reads it."""
    async def script(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 502 Bad\r\n\r\n<html>")

    async with venue(script) as requests:
        assert (await ask(requests))[::2] == (502, b"<html>")


@given(st.sampled_from([PLAIN, CHUNKED]), st.data())
def test_an_answer_is_the_same_however_it_is_cut(answer: bytes, data: st.DataObject) -> None:
    """Byte by byte or at once; interim answers and trailers are passed over."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=8)))
    reader = Reader()
    for begin, end in zip([0, *cuts], [*cuts, len(answer)], strict=True):
        assert reader.answer is None or begin == len(answer)
        reader.feed(answer[begin:end])
    assert reader.answer is not None and reader.reusable
    assert reader.answer[::2] == ((200, b"hi") if answer is PLAIN else (429, b"hello, orders"))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_an_answer_or_a_value_error(noise: bytes, chunked: bool) -> None:
    """Nothing else comes out of the reader, whatever the venue sends."""
    reader = Reader()
    head = b"HTTP/1.1 200 OK\r\n" + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"")
    try:
        reader.feed(head + noise)
        reader.ended()
    except ValueError:
        return


def test_a_body_has_a_limit() -> None:
    """Of chunks too."""
    reader = Reader()
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % BODY_BYTES_MAX)
    reader.feed(bytes(BODY_BYTES_MAX) + b"\r\n2\r\n")
    with pytest.raises(ValueError, match="too long"):
        reader.feed(b"xx")


def test_a_header_is_one_line() -> None:
    """A key with a line end in it would be another request."""
    with pytest.raises(ValueError, match="line end"):
        request_text("POST", "/order", "venue", {"X-Key": "k\r\nX: y"}, b"")


async def test_over_tls_the_venue_must_be_who_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a certificate that is trusted orders are answered; with one that is not, nothing was written."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    certificate = certify(tmp_path)
    trusted = os.environ["SSL_CERT_FILE"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while text := await request(reader):
            seen.append(text)
            writer.write(PLAIN)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
        with pytest.raises(NotWritten, match="SSLCertVerificationError"):
            await Requests(url).lease()
        assert seen == []
        monkeypatch.setenv("SSL_CERT_FILE", trusted)
        requests = Requests(url)
        assert [(await ask(requests)).body for _ in range(2)] == [b"hi", b"hi"] and requests.opened == 1
        requests.close()
    finally:
        server.close()
    assert seen == [ORDER] * 2
