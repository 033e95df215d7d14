"""The REST client of every session venue: what it sends, it sends once, to the venue alone; what comes back never breaks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import pytest

from copyd.errors import VenueUnavailable
from copyd.venues.common.facts import Malformed
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.parts import Making
from copyd.venues.common.rest import NotSent, RestError
from copyd.venues.common.signing import Key

pytestmark = pytest.mark.asyncio
KINDS = ("okx", "bybit", "bitget", "binance_spot")
KEY = Key(b"key", b"secret", b"passphrase")
DEEP = b'{"code":"0","retCode":0,"data":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


class Host:
    """A plain HTTP server that answers everything with the same bytes."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answer = b""
        self.serving: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
                self.requests.append(head + await reader.readexactly(length))
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def host() -> AsyncIterator[tuple[Host, str]]:
    made = Host()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    yield made, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for task in made.serving:
        if task is not None:
            task.cancel()
    await asyncio.gather(*(task for task in made.serving if task is not None), return_exceptions=True)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def rest_at(kind: str, url: str) -> Any:
    """The venue's client, looking at that address."""
    module = import_module(f"copyd.venues.{kind}.parts").KIND
    endpoints = import_module(f"copyd.venues.{kind}.contract").Endpoints.at(url, url.replace("http", "ws"))
    return module.make(Making(endpoints, module.contract, time.time_ns, 60_000))[1]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_nothing_follows_where_an_answer_points(kind: str, status: int, host: tuple[Host, str]) -> None:
    """An order that is answered with another address goes there neither: one transmission, and what became of it is in doubt."""
    server, url = host
    server.answer = b"HTTP/1.1 %d Elsewhere\r\nLocation: %s/there\r\nContent-Length: 0\r\n\r\n" % (status, url.encode())
    rest = rest_at(kind, url)
    await rest.open()
    try:
        with pytest.raises(RestError) as told:
            await rest.post("/order", b"{}", KEY, timeout_ms=1_000)
        assert told.value.verdict.outcome is Outcome.IN_DOUBT
        assert len(server.requests) == 1
    finally:
        await rest.close()


async def test_what_is_nested_too_deep_is_no_answer(kind: str, host: tuple[Host, str]) -> None:
    """Such a body raises nothing that the callers do not expect, neither do such frames of a connection."""
    server, url = host
    server.answer = b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % len(DEEP) + DEEP
    rest = rest_at(kind, url)
    await rest.open()
    try:
        with pytest.raises((VenueUnavailable, RestError)):
            await rest.post("/order", b"{}", KEY, timeout_ms=1_000)
        server.answer = server.answer.replace(b"400 Bad", b"200 OK")
        with pytest.raises((VenueUnavailable, RestError, ValueError)):
            await rest.books(KEY)
    finally:
        await rest.close()


async def test_a_frame_that_is_nested_too_deep_is_said_to_be_unreadable(kind: str) -> None:
    """Never an exception through the loop: ``Malformed``, and the account's truth is read again."""
    module = import_module(f"copyd.venues.{kind}.parts").KIND
    endpoints = import_module(f"copyd.venues.{kind}.contract").Endpoints.at("http://h:1", "ws://h:1")
    wire, _ = module.make(Making(endpoints, module.contract, time.time_ns, 60_000))
    [name, *_] = [channel.name for channel in wire.channels(endpoints)]
    for frame in (DEEP, b'{"topic":"order","event":' + DEEP + b',"data":' + DEEP + b"}"):
        assert [type(one) for one in wire.read(name, frame, 1)] == [Malformed]
        assert [type(one) for one in wire.read_market(frame, 1)] == [Malformed]


async def test_what_never_left_is_no_doubt(kind: str) -> None:
    """Nobody listens there: the order is certainly not placed. While the address is banned it does not wait to be sent late."""
    rest = rest_at(kind, "http://127.0.0.1:1")
    with pytest.raises(NotSent):
        await rest.post("/order", b"{}", KEY, timeout_ms=1_000)
    await rest.open()
    try:
        with pytest.raises(NotSent):
            await rest.post("/order", b"{}", KEY, timeout_ms=1_000)
        rest.bans.note(418, 0, "", 30 * 10**9, 0)
        with pytest.raises(NotSent):
            await rest.post("/order", b"{}", KEY, timeout_ms=1_000)
    finally:
        await rest.close()


async def test_an_answer_without_end_is_no_answer(
    kind: str, host: tuple[Host, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body beyond what any answer of a venue has is not read on: it is as if none had come."""
    monkeypatch.setattr("copyd.venues.common.rest.BODY_MAX", 1 << 20)
    server, url = host
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 40) + b"0" * (2 << 20)
    rest = rest_at(kind, url)
    await rest.open()
    try:
        with pytest.raises(VenueUnavailable):
            await rest.get("/anything", key=KEY)
    finally:
        await rest.close()


async def test_a_call_is_signed_when_a_connection_is_free_for_it(kind: str, host: tuple[Host, str]) -> None:
    """What waits for its turn does not grow old signed; what waits for longer than it may was never sent."""
    server, url = host
    server.answer = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
    rest = rest_at(kind, url)
    await rest.open()
    signed: list[str] = []
    sign = rest.signed
    rest.signed = lambda key, method, target, body: (signed.append(method), sign(key, method, target, body))[1]
    try:
        free = rest._turns[0]
        while not free.locked():
            await free.acquire()
        with pytest.raises(NotSent):
            await rest.post("/order", b"{}", KEY, timeout_ms=20)
        waiting = asyncio.ensure_future(rest.get("/anything", key=KEY))
        await asyncio.sleep(0.05)
        assert signed == [] and server.requests == []
        free.release()
        with pytest.raises(RestError):
            await waiting
        assert signed == ["GET"] and len(server.requests) == 1
    finally:
        await rest.close()
