"""A connection that does not answer is given up at once, and what was on it is in doubt (reliability O21)."""

import asyncio
import contextlib
import random
import socket
import time

import pytest

from copyd._fast.encode import Encoder
from copyd.venues.binance_usdm.contract import CONTRACT
from copyd.venues.binance_usdm.gateway import OrderGateway
from copyd.venues.common.connection import Link, Session
from copyd.venues.common.facts import IN_DOUBT, REPLY
from copyd.venues.common.limits import VenueClock

from .conftest import INSTRUMENTS, KEY, Desk, filled


def cid(n):
    return n.to_bytes(16, "big")


class Hole:
    """A TCP proxy that can swallow everything: both sides stay connected and nothing comes through any more."""

    def __init__(self):
        self.swallowing = False  # connections opened while it is set, and before, deliver nothing
        self.accepted = 0
        self._tasks = set()
        self._writers = []

    async def start(self, port):
        self._port = port
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def _accept(self, reader, writer):
        self.accepted += 1
        deaf = [False]
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, up_writer]
        for source, sink in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.ensure_future(self._carry(source, sink, deaf))
            self._tasks.add(task)

    async def _carry(self, source, sink, deaf):
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await source.read(65536):
                deaf[0] = deaf[0] or self.swallowing
                if not deaf[0]:
                    sink.write(data)
            sink.close()

    async def stop(self):
        self.server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()


@pytest.fixture
async def hole(venue):
    made = Hole()
    made.port = await made.start(int(venue.url.split(":")[2].split("/")[0]))
    yield made
    await made.stop()


@pytest.fixture
async def desk(hole):
    made = []

    async def build(connections=1, **terms):
        contract = CONTRACT.overridden({"order_ack_timeout_ms": 400, **terms})
        one = Desk(None, Encoder(contract.recv_window_ms, 5))
        one.gateway = OrderGateway(
            url=f"ws://127.0.0.1:{hole.port}/ws-fapi/v1", connections=connections, instruments=INSTRUMENTS, contract=contract,
            clock=time.time_ns, venue_clock=VenueClock(contract, time.time_ns), on_reports=one.take,
        )  # fmt: skip
        for i in INSTRUMENTS:
            one.encoder.set_instrument(i.index, i.symbol, i.price_decimals, i.tick, i.qty_decimals, i.lot)
        for account in range(4):
            one.gateway.register(one.encoder, account, KEY)
        await one.gateway.start(5)
        made.append(one)
        return one

    yield build
    for one in made:
        await one.gateway.stop(0.0)


async def until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert true()


async def test_a_half_open_connection_is_given_up_with_all_that_is_on_it(desk, hole, venue):
    """Orders unanswered past the timeout and nothing heard since: also the younger ones on it are in doubt now."""
    made = await desk()
    hole.swallowing = True
    began = time.monotonic()
    made.place(cid(1), cid(2))
    await asyncio.sleep(0.3)
    made.place(cid(3))
    await made.until(3)
    assert {told["cid"]: told["kind"] for told in made.reports} == {cid(n): IN_DOUBT for n in (1, 2, 3)}
    assert 0.4 <= time.monotonic() - began < 0.7
    assert made.gateway.stats.half_open == 1
    hole.swallowing = False
    await until(lambda: made.gateway.ready)
    made.place(cid(4))
    assert (await made.until(4))[-1]["kind"] == REPLY


async def test_a_connection_that_answers_pings_is_kept_though_an_order_goes_unanswered(desk, hole, venue):
    venue.script = lambda request: None
    made = await desk()
    made.place(cid(1))
    await made.until(1)
    await asyncio.sleep(0.6)
    assert made.gateway.stats.half_open == 0 and made.gateway.ready and hole.accepted == 1
    venue.script = lambda request: filled(request)
    made.place(cid(2))
    assert (await made.until(2))[-1]["kind"] == REPLY


async def test_the_window_of_every_open_connection_is_known(desk, venue):
    """As the kernel has it: some segments at least, and a round trip that was measured; a closed connection has none."""
    one = await desk(2)
    windows = one.gateway.windows()
    assert len(windows) == 2
    assert all(size >= 1_000 and trip > 0 for size, trip in windows)
    session = next(iter(one.gateway._lanes))
    session.abort("test")
    await until(session.lost.is_set)
    assert session.window() is None


async def test_bytes_that_the_other_side_does_not_take_end_the_connection(desk, hole):
    made = await desk(write_deadline_ms=600, order_ack_timeout_ms=800, ping_idle_ms=60_000, ping_reply_ms=60_000)
    session = made.gateway._links[0].session
    transport = session.transport.underlying_transport
    with contextlib.suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    hole.server.close()
    for task in hole._tasks:
        task.cancel()  # nobody reads any more, the sockets stay open
    await asyncio.sleep(0)
    session.write(b"\x81\xfe\x00\x80" + b"\0" * 132)
    session.transport.underlying_transport.write(b"\0" * (32 << 20))
    session.written += 32 << 20
    assert session.backlog > 0
    await until(lambda: session.lost.is_set())
    assert made.gateway.stats.write_deadlines == 1 and "write deadline" in session.reason


async def test_silence_is_pinged_and_a_missing_pong_ends_the_connection(hole, venue):
    lost, opened = [], asyncio.Event()

    async def url():
        return f"ws://127.0.0.1:{hole.port}/x"

    link = Link(
        "quiet", url, on_frame=lambda *more: None, on_open=lambda session: opened.set(), on_lost=lost.append,
        rng=random.Random(1), life_s=3600, frame_bytes_max=1 << 16, ping_idle_s=0.2, ping_reply_s=0.2,
    )  # fmt: skip
    link.start()
    await asyncio.wait_for(opened.wait(), 5)
    session = link.session
    await asyncio.sleep(0.7)
    assert session.open and session.heard >= 2  # pongs
    hole.swallowing = True
    await until(lambda: bool(lost), 2.0)
    assert lost == [session]
    await link.stop()


def test_the_deadlines_of_a_link_are_five_and_five_seconds():
    async def url():
        return ""

    link = Link(
        "any", url, on_frame=print, on_open=print, on_lost=print, rng=random.Random(1), life_s=1.0, frame_bytes_max=1)
    assert (link.ping_idle_s, link.ping_reply_s) == (5.0, 5.0)
    assert not Session(link).open and Session(link).backlog == 0
