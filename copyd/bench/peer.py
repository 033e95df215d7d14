"""The draining peer: a minimal WebSocket server in its own process, so that its speed does not matter.

It serves the leader's stream on ``/leader`` and takes orders on any other path. While a burst arrives it only stores
bytes; when the line has been quiet it takes the frames apart, counts and digests them per connection, checks a sample of
the signatures with the standard library, and answers every order "filled" in bulk. It shares no code with the daemon.

Run as a child: one JSON line of settings on stdin, one line with the port on stdout; then ``{"events": ...}`` starts the
schedule and ``{"report": true}`` asks for the counts.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import ssl
import struct
import sys
import time
from typing import Any

import msgspec
import uvloop

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
QUIET_S = 0.008
FILL_PX = b"65000"
"""Every order fills here. At its limit it would lose the slippage each time, and after some fifty events the allocations."""
SPIN_NS = 1_500_000
RESULT = (
    b'{"id":"%s","status":200,"result":{"orderId":%d,"symbol":"%s","status":"FILLED","clientOrderId":"%s","price":"%s",'
    b'"avgPrice":"%s","origQty":"%s","executedQty":"%s","cumQuote":"0","timeInForce":"IOC","type":"LIMIT","reduceOnly":false,'
    b'"side":"%s","positionSide":"BOTH","updateTime":%d}}'
)


class Params(msgspec.Struct):
    """What the digest is made of."""

    symbol: str
    side: str
    quantity: str
    newClientOrderId: str
    apiKey: str
    signature: str
    price: str = ""
    reduceOnly: str = "false"


class Request(msgspec.Struct):
    id: str
    method: str
    params: Params


_request = msgspec.json.Decoder(Request)


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """An unmasked frame of a server."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload


def line(cid: str, symbol: str, side: str, quantity: str, price: str, reduce_only: bool) -> bytes:
    """What one order adds to the digest of its connection."""
    return f"{cid} {symbol} {side} {quantity} {price} {int(reduce_only)}\n".encode()


class Orders:
    """What one connection has received."""

    def __init__(self) -> None:
        self.frames = 0
        self.digest = hashlib.sha256()


class Connection(asyncio.Protocol):
    """One accepted socket."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.transport: Any = None
        self.upgraded = False
        self.chunks: list[bytes] = []
        self.rest = b""
        self.orders = Orders()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, problem: Exception | None) -> None:
        self.peer.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self.upgraded:
            self.chunks.append(data)
            self.peer.heard = time.monotonic()
            return
        self.rest += data
        if b"\r\n\r\n" not in self.rest:
            return
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        fields = dict(row.split(b": ", 1) for row in head.split(b"\r\n")[1:] if b": " in row)
        accept = base64.b64encode(hashlib.sha1({k.lower(): v for k, v in fields.items()}[b"sec-websocket-key"] + GUID).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept + b"\r\n\r\n")
        self.upgraded = True
        self.peer.connections.add(self)
        if head.startswith(b"GET /leader"):
            self.peer.leader = self

    def take(self) -> None:
        """Everything received so far: take apart, check, answer."""
        data = self.rest + b"".join(self.chunks)
        self.chunks.clear()
        at, answers = 0, []
        now_ms = time.time_ns() // 1_000_000
        while len(data) - at >= 2:
            opcode, size, body = data[at] & 15, data[at + 1] & 127, at + 6
            if size == 126:
                if len(data) - at < 4:
                    break
                size, body = int.from_bytes(data[at + 2 : at + 4], "big"), at + 8
            if len(data) < body + size:
                break
            masks = data[body - 4 : body] * (size // 4 + 1)
            bits = int.from_bytes(data[body : body + size], "big") ^ int.from_bytes(masks[:size], "big")
            payload = bits.to_bytes(size, "big")
            at = body + size
            if opcode == 1:
                answers.append(self.peer.order(self.orders, payload, now_ms))
            elif opcode == 9:
                answers.append(frame(payload, 10))
            elif opcode == 8:
                self.transport.write(frame(payload, 8))
                self.transport.close()
        self.rest = data[at:]
        if answers:
            self.transport.write(b"".join(answers))


class Peer:
    """The server and what it has seen."""

    def __init__(self, seed: int, sample: int) -> None:
        self.seed = seed
        self.sample = sample
        self.connections: set[Connection] = set()
        self.by_lane: dict[int, Orders] = {}
        self.leader: Connection | None = None
        self.heard = 0.0
        self.order_id = 0
        self.checked = self.bad = self.malformed = 0
        self.sent: list[int] = []
        self.pending: set[asyncio.Task[None]] = set()

    def order(self, orders: Orders, payload: bytes, now_ms: int) -> bytes:
        """One ``order.place``: digest, perhaps check the signature, and the answer."""
        try:
            request = _request.decode(payload)
        except msgspec.MsgspecError:
            self.malformed += 1
            return b""
        params = request.params
        account = int(params.apiKey[5:])
        if orders.frames == 0:
            self.by_lane[account] = orders  # the first account of a connection names it
        orders.frames += 1
        orders.digest.update(line(
            params.newClientOrderId, params.symbol, params.side, params.quantity, params.price, params.reduceOnly == "true"))
        self.order_id += 1
        if self.order_id % self.sample == 0:
            self.check(payload, account)
        cid, price = params.newClientOrderId.encode(), params.price.encode() or FILL_PX
        quantity = params.quantity.encode()
        return frame(RESULT % (
            cid, self.order_id, params.symbol.encode(), cid, price, FILL_PX, quantity, quantity, params.side.encode(), now_ms))

    def check(self, payload: bytes, account: int) -> None:
        """The signature over the sorted parameters, as the venue's rules have it."""
        params = json.loads(payload)["params"]
        signature = params.pop("signature")
        secret = hashlib.sha256(b"%d/%d" % (self.seed, account)).hexdigest().encode()
        text = "&".join(f"{name}={params[name]}" for name in sorted(params))
        self.checked += 1
        self.bad += hmac.new(secret, text.encode(), hashlib.sha256).hexdigest() != signature

    async def drain(self) -> None:
        """Whenever the line has been quiet for a while."""
        while True:
            await asyncio.sleep(QUIET_S / 2)
            if time.monotonic() - self.heard >= QUIET_S:
                for connection in list(self.connections):
                    if connection.chunks:
                        connection.take()

    async def send(self, frames: list[str], start_ns: int, interval_ns: int) -> None:
        """The leader's frames at their planned times, open loop: a late one does not move the others."""
        for index, text in enumerate(frames):
            planned = start_ns + index * interval_ns
            payload = frame(text.replace('"@ms"', str(planned // 1_000_000)).encode())
            await asyncio.sleep(max(0, planned - SPIN_NS - time.time_ns()) / 1e9)
            while time.time_ns() < planned:
                pass
            self.sent.append(time.time_ns())
            if self.leader is not None:
                self.leader.transport.write(payload)

    def command(self, text: bytes) -> dict[str, Any] | None:
        """One line of the parent's."""
        message = json.loads(text)
        if "events" in message:
            task = asyncio.get_running_loop().create_task(
                self.send(message["events"], message["start_ns"], message["interval_ns"]))
            self.pending.add(task)
            return None
        return {
            "lanes": {str(first): [orders.frames, orders.digest.hexdigest()] for first, orders in self.by_lane.items()},
            "signatures_checked": self.checked, "signatures_bad": self.bad, "malformed": self.malformed, "sent": self.sent,
        }


async def serve() -> None:
    """Until stdin ends: a parent that died takes its peer with it."""
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    settings = json.loads(await stdin.readline())
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[-1:])  # a reader woken on the sender's core would stand in its way
    peer = Peer(settings["seed"], settings["sample"])
    context = None
    if settings.get("certificate"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(settings["certificate"])
    server = await loop.create_server(lambda: Connection(peer), "127.0.0.1", 0, ssl=context)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    drain = loop.create_task(peer.drain())
    while text := await stdin.readline():
        answer = peer.command(text)
        if answer is not None:
            print(json.dumps(answer), flush=True)
    drain.cancel()
    server.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
