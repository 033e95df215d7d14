"""The network between node and venue: byte streams in memory, and what happens to bytes on their way.

A connection has two lanes. A lane keeps its bytes in order, as TCP does, and may deliver them late, in pieces cut
anywhere, glued together, cut short by a reset after k bytes, or never (half-open: written, acknowledged, gone).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

from copyd.sim.draws import Draws
from copyd.sim.wire.loop import VirtualLoop

NODE = "10.0.0.1"
VENUE = "10.0.0.2"
US = 1e-6
CONNECT_S = 5.0


class InertSocket:
    """What a library may ask of a transport's socket; its descriptor is none, so nothing is written past the transport."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = 6

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *args: Any) -> None:
        pass

    def getsockopt(self, *args: Any) -> int:
        return 0

    def getsockname(self) -> tuple[str, int]:
        return VENUE, 0


class Lane:
    """One direction of a connection."""

    __slots__ = ("_due", "blackhole", "free_at", "held", "network", "target", "waiting")

    def __init__(self, network: Network) -> None:
        self.network = network
        self.target: MemoryTransport
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.free_at = 0.0
        self.blackhole = False
        self.held = 0  # bytes written and not delivered
        self._due = False

    def put(self, data: bytes, latency_s: float) -> None:
        """Bytes on their way; they arrive after everything before them."""
        if self.blackhole or not data:
            return
        now = self.network.loop.time()
        self.free_at = max(self.free_at, now + latency_s)
        self.waiting.append((self.free_at, data))
        self.held += len(data)
        if not self._due:
            self._due = True
            self.network.loop.call_at(self.free_at, self._arrive)

    def _arrive(self) -> None:
        self._due = False
        now = self.network.loop.time()
        parts = []
        while self.waiting and self.waiting[0][0] <= now:
            parts.append(self.waiting.popleft()[1])
        if self.waiting:
            self._due = True
            self.network.loop.call_at(self.waiting[0][0], self._arrive)
        data = b"".join(parts)
        self.held -= len(data)
        for piece in self.network.pieces(data, self.target):
            self.target.take(piece)


class MemoryTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: Network, number: int, out: Lane, sockname: tuple[str, int], peername: tuple[str, int],
                 area: str) -> None:
        super().__init__({"socket": InertSocket(), "peername": peername, "sockname": sockname, "ssl_object": None})
        self.network, self.number, self.out, self.area = network, number, out, area
        self.other: MemoryTransport
        self.protocol: Any = None
        self.at_node = sockname[0] == NODE
        self.heard_at = network.loop.time()
        self.closing = False
        self.gone = False
        self.high = 64 << 10
        self.paused = False
        self._reading = True
        self._kept: list[bytes] = []

    # -- asyncio.Transport ----------------------------------------------------------------------------------------------
    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self._reading and not self.closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        kept, self._kept = self._kept, []
        for data in kept:
            self.network.loop.call_soon(self.take, data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = 64 << 10 if high is None else high

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closing:
            self.network.carry(self, bytes(data))

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(bytes(part) for part in parts))

    def close(self) -> None:
        """Everything written arrives, then the end; nothing is read any more."""
        if self.closing:
            return
        self.closing = True
        self.network.trace("close", self)
        loop = self.network.loop
        loop.call_soon(self.lost, None)
        if not self.out.blackhole:
            loop.call_at(max(self.out.free_at, loop.time()) + self.network.latency(self), self.other.ended)

    def abort(self) -> None:
        """A reset: what is on its way may be lost."""
        if not self.gone:
            self.network.reset(self, None)

    def die(self) -> None:
        """The process of this end is no more: nobody here is told, the other end learns of a reset."""
        if not self.gone:
            self.network.reset(self, None)
            self.gone = True
            self.network.living.pop(self.number * 2 + (not self.at_node), None)

    # -- the network's side ---------------------------------------------------------------------------------------------
    def take(self, data: bytes) -> None:
        """Bytes have come."""
        if self.gone or self.closing:
            return
        if not self._reading:
            self._kept.append(data)
            return
        self.heard_at = self.network.loop.time()
        protocol, self.network.delivering = self.protocol, self
        try:
            if hasattr(protocol, "get_buffer"):
                view = memoryview(data)
                while view and not self.gone:
                    room = protocol.get_buffer(-1)
                    n = min(len(room), len(view))
                    room[:n] = view[:n]
                    protocol.buffer_updated(n)
                    view = view[n:]
            else:
                protocol.data_received(data)
        finally:
            self.network.delivering = None

    def ended(self) -> None:
        """The other end has closed."""
        if self.gone or self.closing:
            return
        self.network.trace("eof", self)
        if not self.protocol.eof_received():
            self.close()

    def lost(self, problem: Exception | None) -> None:
        """The connection is over for this end."""
        self.closing = True
        if not self.gone:
            self.gone = True
            self.network.trace("lost", self)
            self.network.living.pop(self.number * 2 + (not self.at_node), None)
            self.protocol.connection_lost(problem)


class Listener:
    """A port that is listened on, as ``loop.create_server`` gives it."""

    def __init__(self, network: Network, port: int, factory: Callable[[], Any]) -> None:
        self.network, self.port, self.factory = network, port, factory
        outer = self

        class Named(InertSocket):
            def getsockname(self) -> tuple[str, int]:
                return VENUE, outer.port

        self.sockets = [Named()]

    def close(self) -> None:
        self.network.ports.pop(self.port, None)

    async def wait_closed(self) -> None:
        pass

    async def start_serving(self) -> None:
        pass

    def is_serving(self) -> bool:
        return self.port in self.network.ports


class Network:
    """All connections, and every accident that can befall them. ``unreachable``: nobody gets through until it is over."""

    def __init__(self, loop: VirtualLoop, draws: Draws, trace: Callable[..., None]) -> None:
        self.loop, self.draws = loop, draws
        self.ports: dict[int, Listener] = {}
        self.areas: dict[int, str] = {}
        self.living: dict[int, MemoryTransport] = {}
        self.delivering: MemoryTransport | None = None
        self.made = 0
        self._next_port = 40_000
        self._trace = trace
        #: The usual way of a packet, microseconds: drawn once for a history.
        self.base_us = 20 + draws.draw("net.base", 20_000)
        self.jitter_us = 1 + draws.draw("net.jitter", 10_000)
        self.written: Callable[[MemoryTransport, bytes], None] = lambda transport, data: None

    def trace(self, what: str, transport: MemoryTransport, detail: Any = "") -> None:
        self._trace(what, f"{transport.area}{transport.number}{'n' if transport.at_node else 'v'}", detail)

    # -- making connections ---------------------------------------------------------------------------------------------
    def listen(self, factory: Callable[[], Any], host: Any, port: int | None) -> Listener:
        """A port of the venue."""
        if not port:
            self._next_port += 1
            port = self._next_port
        listener = self.ports[port] = Listener(self, port, factory)
        return listener

    async def connect(self, factory: Callable[[], Any], host: Any, port: int) -> tuple[MemoryTransport, Any]:
        """From the node to a port of the venue."""
        await asyncio.sleep((self.base_us + self.draws.draw("net.connect", self.jitter_us)) * 2 * US)
        fault = self.draws.fault
        if fault("O40/dns", 20_000):
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        if fault("O40/tls", 15_000):
            raise ssl.SSLCertVerificationError(1, "certificate verify failed")
        if fault("O40/refused", 30_000):
            raise ConnectionRefusedError(111, "Connect call failed")
        if fault("O40/hangs", 15_000):
            await asyncio.sleep(CONNECT_S * 4)
            raise TimeoutError("connect timed out")
        listener = self.ports.get(port)
        if listener is None:
            raise ConnectionRefusedError(111, f"Connect call failed ({host!r}, {port})")
        self.made += 1
        here, there = (NODE, 50_000 + self.made), (VENUE, port)
        to_venue, to_node = Lane(self), Lane(self)
        area = self.areas.get(port, "x")
        client = MemoryTransport(self, self.made, to_venue, here, there, area)
        server = MemoryTransport(self, self.made, to_node, there, here, area)
        client.other, server.other = server, client
        to_venue.target, to_node.target = server, client
        self.living[self.made * 2], self.living[self.made * 2 + 1] = client, server
        server.protocol = listener.factory()
        server.protocol.connection_made(server)
        client.protocol = protocol = factory()
        self.trace("connected", client)
        protocol.connection_made(client)
        return client, protocol

    # -- carrying bytes -------------------------------------------------------------------------------------------------
    def latency(self, transport: MemoryTransport) -> float:
        """How long the next bytes of this end are on their way, seconds."""
        draws = self.draws
        us = self.base_us + draws.draw("net.latency", self.jitter_us)
        if draws.fault("L13/network", 4_000):
            us += draws.param("L13/network", "us", 200_000, 9_000_000)
        return us * US

    def carry(self, sender: MemoryTransport, data: bytes) -> None:
        """What was written, on its way or lost."""
        draws, lane = self.draws, sender.out
        if sender.at_node:
            self.written(sender, data)
        if lane.blackhole:
            return
        if sender.at_node and draws.fault("O22/reset", 1_500):
            # The first k bytes arrive, k from none to all; then both ends learn that it is over.
            k = (0, len(data) // 2, len(data))[draws.param("O22/reset", "where", 0, 2)]
            if k == len(data) // 2 and len(data) > 1:
                k = draws.param("O22/reset", "k", 1, len(data) - 1)
            self.trace("reset after", sender, k)
            lane.put(data[:k], self.latency(sender))
            self.reset(sender, ConnectionResetError(104, "Connection reset by peer"), keep=True)
            return
        if draws.fault("O21/half_open" if sender.at_node else "L10/half_open", 700):
            self.trace("half open", sender)
            lane.blackhole = True
            if draws.param("O21/half_open" if sender.at_node else "L10/half_open", "both", 0, 1):
                sender.other.out.blackhole = True
            return
        lane.put(data, self.latency(sender))

    def pieces(self, data: bytes, target: MemoryTransport) -> list[bytes]:
        """What one read gives: all of it, or cut somewhere."""
        draws = self.draws
        if len(data) < 2 or not draws.chance("net.split", 60_000):
            return [data]
        cuts = sorted({draws.between("net.cut", 1, len(data) - 1) for _ in range(1 + draws.draw("net.cuts", 4))})
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def reset(self, transport: MemoryTransport, problem: Exception | None, keep: bool = False) -> None:
        """Both ends lose the connection; without ``keep`` what is on its way is lost with it."""
        other = transport.other
        now = self.loop.time()
        if not keep:
            transport.out.waiting.clear()
        at = max(transport.out.free_at if keep else now, now) + self.base_us * US
        transport.closing = True
        self.loop.call_soon(transport.lost, problem)
        if not transport.out.blackhole:
            self.loop.call_at(at, other.lost, ConnectionResetError(104, "Connection reset by peer"))
        transport.out.blackhole = True

    def heal(self) -> None:
        """The fair phase: connections that lead nowhere are reset at last, as a router between would."""
        for transport in list(self.living.values()):
            if transport.at_node and (transport.out.blackhole or transport.other.out.blackhole):
                transport.out.blackhole = transport.other.out.blackhole = False
                self.reset(transport, ConnectionResetError(104, "Connection reset by peer"))
