"""Byte streams in memory: order, cuts, resets, ends; and the real WebSocket library over them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from copyd._fast.sim_engine import Engine
from copyd.exchange.model import INSTRUMENTS
from copyd.sim.draws import Draws
from copyd.sim.wire.loop import VirtualLoop
from copyd.sim.wire.pywire import PyWire
from copyd.sim.wire.transport import MemoryTransport, Network


class Ear(asyncio.Protocol):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.heard = b""
        self.reads = 0
        self.ends: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.reads += 1

    def eof_received(self) -> None:
        self.ends.append("eof")

    def connection_lost(self, problem: Exception | None) -> None:
        self.ends.append("lost" if problem is None else type(problem).__name__)


def world(work: Callable[[Network, list[Ear]], Any], only: tuple[str, ...] = (), seed: int = 1) -> Any:
    """``work`` on a network whose only faults are the named ones; every connection's far ends are in the list."""
    loop = VirtualLoop()
    loop.network = network = Network(loop, Draws(seed, only=only), lambda *words: None)
    ears: list[Ear] = []

    def heard() -> Ear:
        ears.append(Ear())
        return ears[-1]

    network.listen(heard, "", 80)
    try:
        return loop.run_until_complete(work(network, ears))
    finally:
        loop.close()


async def connected(network: Network) -> tuple[MemoryTransport, Ear]:
    transport, ear = await network.connect(Ear, "venue", 80)
    return transport, ear


def test_bytes_arrive_in_order_however_long_each_piece_takes() -> None:
    """A later write never passes an earlier one."""

    async def work(network: Network, ears: list[Ear]) -> None:
        for n in range(5):
            transport, _ = await connected(network)
            sent = b"".join(bytes([i % 251]) * (1 + i % 7) for i in range(300))
            for at in range(0, len(sent), 11):
                transport.write(sent[at : at + 11])
                await asyncio.sleep(0.0007)
            await asyncio.sleep(5)
            assert ears[n].heard == sent

    world(work)


def test_a_close_delivers_what_was_written_and_then_the_end() -> None:
    """At both ends, once."""

    async def work(network: Network, ears: list[Ear]) -> None:
        transport, ear = await connected(network)
        transport.write(b"last words")
        transport.close()
        transport.write(b"never")
        await asyncio.sleep(5)
        assert (ears[0].heard, ears[0].ends, ear.ends) == (b"last words", ["eof", "lost"], ["lost"])
        assert not network.living

    world(work)


def test_an_abort_is_a_reset_for_the_other_end() -> None:
    """Whatever was on its way."""

    async def work(network: Network, ears: list[Ear]) -> None:
        transport, ear = await connected(network)
        transport.abort()
        await asyncio.sleep(5)
        assert (ear.ends, ears[0].ends) == (["lost"], ["ConnectionResetError"])

    world(work)


def test_a_reset_in_the_middle_of_a_write_delivers_the_first_k_bytes() -> None:
    """None, some or all of them; then both ends lose the connection."""
    lengths = set()

    async def work(network: Network, ears: list[Ear]) -> None:
        for n in range(400):
            transport, ear = await connected(network)
            transport.write(b"0123456789")
            await asyncio.sleep(1)
            if ear.ends:
                assert b"0123456789".startswith(ears[n].heard)
                assert ears[n].ends == ["ConnectionResetError"]
                lengths.add(len(ears[n].heard))
            else:
                assert ears[n].heard == b"0123456789"

    for seed in range(8):
        world(work, ("O22/reset",), seed)
    assert {0, 10} < lengths


def test_half_open_swallows_and_says_nothing() -> None:
    """Nothing comes, and no end either, until the network heals."""

    async def work(network: Network, ears: list[Ear]) -> int:
        transport, ear = await connected(network)
        transport.out.blackhole = True
        transport.write(b"gone")
        await asyncio.sleep(600)
        assert (ears[0].heard, ear.ends, ears[0].ends) == (b"", [], [])
        network.heal()
        await asyncio.sleep(1)
        assert ear.ends and ears[0].ends
        return 0

    world(work)


def test_a_port_nobody_listens_on_refuses() -> None:
    """As a real one."""

    async def work(network: Network, ears: list[Ear]) -> None:
        with pytest.raises(ConnectionRefusedError):
            await network.connect(Ear, "venue", 81)

    world(work)


class Client(WSListener):
    """A listener of the real library."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.heard.append(frame.get_payload_as_bytes())


class Shell:
    """Accepts every handshake and answers every text with itself."""

    def on_open(self, conn: Any, method: str, target: str, headers: dict[str, str]) -> tuple[bytes, bool]:
        from copyd.exchange.server import ExchangeServer

        conn.area, conn.limits = "", None
        return ExchangeServer.on_open(Accepting(), conn, method, target, headers)  # type: ignore[arg-type]

    def on_opened(self, conn: Any) -> None:
        pass

    def on_lost(self, conn: Any) -> None:
        pass

    def on_stream_text(self, conn: Any, payload: bytes) -> None:
        conn.send(payload)

    def call_later(self, delay: float, action: Callable[[], Any]) -> None:
        asyncio.get_running_loop().call_later(delay, action)


class Accepting:
    """What the exchange's handshake reads of the exchange."""

    connects = 0

    class wire:
        time_ns = staticmethod(lambda: 0)

    class limits:
        connect = staticmethod(lambda peer, now: True)
        meter = staticmethod(lambda peer: None)


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 1_000_000])
def test_the_real_library_reads_frames_cut_at_every_boundary(piece: int) -> None:
    """Handshake, small and large frames, in pieces of any size, glued or apart."""
    loop = VirtualLoop()
    loop.network = network = Network(loop, Draws(1, only=()), lambda *words: None)
    network.pieces = lambda data, target: [  # type: ignore[method-assign]
        data[at : at + piece] for at in range(0, len(data), piece)]
    wire = PyWire(Engine(INSTRUMENTS[:1]), Shell(), lambda: int(loop.time() * 1e9))
    network.listen(wire.connection, "", 80)
    texts = [b"{}", b"x" * 125, b"y" * 126, b"z" * 300, b"w" * (70_000 if piece > 3 else 700)]

    async def main() -> None:
        client = Client()
        transport, _ = await ws_connect(lambda: client, "ws://venue:80/ws", use_aiofastnet=False)
        for text in texts:
            transport.send(WSMsgType.TEXT, text)
        await asyncio.sleep(5)
        assert client.heard == texts
        transport.send_close()
        await asyncio.sleep(1)
        assert transport.is_disconnected

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
