"""The filling peer: a venue in its own process that answers every order at once, and tells its account what happened.

As ``peer`` it shares no code with the daemon. Each ``order.place`` is filled whole, at its limit: a reply on the order
connection, and on the user stream of its account what the venue sends for such an order: placed, the thin copy of the
trade, the trade, and the account with its new wallet and position. Its books are its own: lots held and wallets, by which
the daemon's are checked at the end.

Run as a child: one JSON line of settings on stdin, one line with the port on stdout; then ``{"report": true}`` asks for the
books.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import msgspec
import uvloop

from copyd.bench import peer as draining

E8 = 10**8
FEE_PPM = 20
LOTS_PER_UNIT = 1_000
TICKS_PER_UNIT = 10
WALLET_E8 = 100_000 * E8

REPLY = (
    b'{"id":"%(cid)s","status":200,"result":{"orderId":%(order)d,"symbol":"%(symbol)s","status":"FILLED",'
    b'"clientOrderId":"%(cid)s","price":"%(px)s","avgPrice":"%(px)s","origQty":"%(qty)s","executedQty":"%(qty)s",'
    b'"cumQty":"%(qty)s","cumQuote":"%(value)s","timeInForce":"IOC","type":"LIMIT","reduceOnly":false,"closePosition":false,'
    b'"side":"%(side)s","positionSide":"BOTH","stopPrice":"0.00","workingType":"CONTRACT_PRICE","priceProtect":false,'
    b'"origType":"LIMIT","priceMatch":"NONE","selfTradePreventionMode":"EXPIRE_TAKER","goodTillDate":0,"updateTime":%(ms)d}}'
)
HEAD = b'{"stream":"%(key)s","data":{"e":"%(name)s","T":%(ms)d,"E":%(ms)d'
BODY = (
    b',"o":{"s":"%(symbol)s","c":"%(cid)s","S":"%(side)s","o":"LIMIT","f":"IOC","q":"%(qty)s","p":"%(px)s",'
    b'"ap":"%(average)s","sp":"0.00","x":"%(what)s","X":"%(status)s","i":%(order)d,"l":"%(last)s","z":"%(done)s",'
    b'"L":"%(last_px)s",%(fee)s"T":%(ms)d,"t":%(trade)d,"b":"0","a":"0","m":false,"R":false,"wt":"CONTRACT_PRICE",'
    b'"ot":"LIMIT","ps":"BOTH","cp":false,"rp":"0.00000000","pP":false,"si":0,"ss":0,"V":"EXPIRE_TAKER","pm":"NONE",'
    b'"gtd":0,"er":"0"}}}'
)


def _update(name: bytes, **fixed: bytes) -> bytes:
    """An ORDER_TRADE_UPDATE with what is the same in all of its kind put in, so that one formatting makes an event."""
    text = HEAD.replace(b"%(name)s", name) + BODY
    for field, value in fixed.items():
        for form in (b"s", b"d"):
            text = text.replace(b"%(" + field.encode() + b")" + form, value)
    return text


PLACED = _update(
    b"ORDER_TRADE_UPDATE", what=b"NEW", status=b"NEW", average=b"0", last=b"0", done=b"0", last_px=b"0", fee=b"", trade=b"0")
LITE = HEAD.replace(b"%(name)s", b"TRADE_LITE") + (
    b',"s":"%(symbol)s","q":"%(qty)s","p":"%(px)s","m":false,"c":"%(cid)s","S":"%(side)s","L":"%(px)s","l":"%(qty)s",'
    b'"t":%(trade)d,"i":%(order)d}}'
)
TRADED = _update(
    b"ORDER_TRADE_UPDATE", what=b"TRADE", status=b"FILLED", average=b"%(px)s", last=b"%(qty)s", done=b"%(qty)s",
    last_px=b"%(px)s", fee=b'"N":"USDT","n":"%(fee)s",')
ACCOUNT = HEAD.replace(b"%(name)s", b"ACCOUNT_UPDATE") + (
    b',"a":{"m":"ORDER","B":[{"a":"USDT","wb":"%(wallet)s","cw":"%(wallet)s","bc":"0"}],"P":[{"s":"%(symbol)s",'
    b'"pa":"%(held)s","ep":"%(px)s","bep":"%(px)s","cr":"0","up":"0","mt":"isolated","iw":"0","ps":"BOTH"}]}}}'
)


class Params(msgspec.Struct):
    """What an order is filled by."""

    symbol: str
    side: str
    quantity: str
    newClientOrderId: str
    apiKey: str
    price: str = "65000"


class Request(msgspec.Struct):
    """A request of an order connection, or of a stream connection (SUBSCRIBE), whose parameters are read apart."""

    id: str | int
    method: str
    params: msgspec.Raw


_request = msgspec.json.Decoder(Request)
_params = msgspec.json.Decoder(Params)
_keys = msgspec.json.Decoder(list[str])


def framed(payload: bytes) -> bytes:
    """A server's frame of 126 to 65,535 bytes."""
    return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload


def steps(text: str, per_unit: int) -> int:
    """``"0.12"`` in steps of 1 / ``per_unit`` (a power of ten)."""
    whole, _, part = text.partition(".")
    return int(whole) * per_unit + (int(part.ljust(len(str(per_unit)) - 1, "0")) if part else 0)


def units(e8: int) -> bytes:
    """1e-8 as the venue writes money."""
    return b"%d.%08d" % divmod(e8, E8)


class Connection(draining.Connection):
    """One accepted socket; what arrives is answered at once."""

    peer: Peer

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.upgraded:
            self.take()

    def take(self) -> None:
        data = self.rest + b"".join(self.chunks)
        self.chunks.clear()
        at, answers = 0, []
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
                answers.append(self.peer.request(self, payload))
            elif opcode == 9:
                answers.append(draining.frame(payload, 10))
            elif opcode == 8:
                self.transport.write(draining.frame(payload, 8))
                self.transport.close()
        self.rest = data[at:]
        if answers:
            self.transport.write(b"".join(answers))
        self.peer.tell()


class Peer(draining.Peer):
    """The venue: orders in, fills out, and its own books."""

    def __init__(self, seed: int, sample: int) -> None:
        super().__init__(seed, sample)
        self.streams: dict[int, tuple[bytes, Connection]] = {}  # by account: its listen key, and who listens
        self.events: dict[Connection, list[bytes]] = {}
        self.held: dict[tuple[int, str], int] = {}
        self.wallets: dict[int, int] = {}
        self.ms = 0

    def request(self, connection: Connection, payload: bytes) -> bytes:
        """The answer to one request; events it causes wait for ``tell``."""
        request = _request.decode(payload)
        if request.method != "order.place":
            for name in _keys.decode(request.params):
                self.streams[int(name[-8:])] = (name.encode(), connection)
            return draining.frame(b'{"result":null,"id":%d}' % int(request.id))
        params = _params.decode(request.params)
        account = int(params.apiKey[5:])
        lots, ticks = steps(params.quantity, LOTS_PER_UNIT), steps(params.price, TICKS_PER_UNIT)
        value = lots * ticks * (E8 // (LOTS_PER_UNIT * TICKS_PER_UNIT))
        fee = value * FEE_PPM // 1_000_000
        place = account, params.symbol
        held = self.held[place] = self.held.get(place, 0) + (lots if params.side == "BUY" else -lots)
        wallet = self.wallets[account] = self.wallets.get(account, WALLET_E8) - fee
        self.order_id += 1
        key, listener = self.streams[account]
        fields = {
            b"cid": params.newClientOrderId.encode(), b"order": 8_000_000_000 + self.order_id, b"symbol": params.symbol.encode(),
            b"px": params.price.encode(), b"qty": params.quantity.encode(), b"value": units(value), b"side": params.side.encode(),
            b"ms": self.ms, b"key": key, b"trade": 3_000_000_000 + self.order_id, b"fee": units(fee), b"wallet": units(wallet),
            b"held": b"%s%d.%03d" % (b"-" if held < 0 else b"", *divmod(abs(held), LOTS_PER_UNIT)),
        }
        waiting = self.events.get(listener)
        if waiting is None:
            waiting = self.events[listener] = []
        waiting += [framed(PLACED % fields), framed(LITE % fields), framed(TRADED % fields), framed(ACCOUNT % fields)]
        return framed(REPLY % fields)

    def tell(self) -> None:
        """The user streams hear what the last read brought about."""
        self.ms = time.time_ns() // 1_000_000
        for connection, frames in self.events.items():
            connection.transport.write(b"".join(frames))
        self.events.clear()

    def command(self, text: bytes) -> dict[str, Any] | None:
        json.loads(text)
        return {
            "orders": self.order_id, "wallets": sorted(self.wallets.items()),
            "held": sorted((account, symbol, lots) for (account, symbol), lots in self.held.items()),
        }


async def serve() -> None:
    """Until stdin ends: a parent that died takes its peer with it."""
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    settings = json.loads(await stdin.readline())
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[-1:])
    peer = Peer(settings["seed"], settings["sample"])
    peer.tell()
    server = await loop.create_server(lambda: Connection(peer), "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    while text := await stdin.readline():
        print(json.dumps(peer.command(text)), flush=True)
    server.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
