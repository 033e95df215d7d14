"""One OKX exchange in this loop and our own adapter on it, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from copyd.exchange.host import Host, Options
from copyd.exchange.okx import Dialect
from copyd.exchange.okx_spot import Dialect as SpotDialect
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.signing import Key
from copyd.venues.common.told import Answered, LoggedIn, Subscribed
from copyd.venues.common.venue import Order
from copyd.venues.okx.contract import CONTRACT, Endpoints
from copyd.venues.okx.instruments import load_instruments
from copyd.venues.okx.rest import Rest
from copyd.venues.okx.signing import rest_headers
from copyd.venues.okx.wire import OkxWire

WANTED = [(0, "BTC-USDT-SWAP"), (1, "ETH-USDT-SWAP"), (2, "SOL-USDT-SWAP")]
SPOT = [(0, "BTC-USDT"), (1, "ETH-USDT"), (2, "SOL-USDT")]


class Line:
    """One connection, read by our wire."""

    def __init__(self, bench: Bench, ws: aiohttp.ClientWebSocketResponse, channel: str) -> None:
        self.bench, self.ws, self.channel = bench, ws, channel
        self.told: list[Any] = []

    async def send(self, text: bytes) -> None:
        await self.ws.send_str(text.decode())

    async def until(self, kind: type, number: int = 1) -> list[Any]:
        """What was told until so many of a kind came; they are taken off the list."""
        while sum(1 for one in self.told if isinstance(one, kind)) < number:
            message = await asyncio.wait_for(self.ws.receive(), 5)
            assert message.type is aiohttp.WSMsgType.TEXT, message
            self.told += self.bench.wire.read(self.channel, message.data.encode(), time.time_ns())
        found = [one for one in self.told if isinstance(one, kind)]
        self.told = [one for one in self.told if not isinstance(one, kind)]
        return found

    async def place(self, order: Order, now_ms: int | None = None) -> Answered:
        await self.send(self.bench.wire.place(order, now_ms or self.bench.host.server_ns() // 10**6))
        (answered,) = await self.until(Answered)
        return answered


class Bench:
    """One exchange and what a test does with it."""

    def __init__(self, host: Host, http: aiohttp.ClientSession, wanted: list[tuple[int, str]]) -> None:
        self.host, self.http, self.wanted = host, http, wanted
        ways = (("http", "rest"), ("ws", "ws"), ("http", "control"))
        self.at = at = {name: f"{how}://127.0.0.1:{host.ports[name]}" for how, name in ways}
        self.endpoints = Endpoints.at(at["rest"], at["ws"])
        self.rest = Rest(self.endpoints, CONTRACT, host.server_ns)
        self.wire = OkxWire()
        self.instruments: Instruments
        self.n = 0

    async def open(self) -> None:
        await self.rest.open()
        await self.rest.measure_clock(1)
        self.instruments = load_instruments(await self.rest.instrument_bodies(), self.wanted)
        self.rest.bind(self.instruments)
        self.wire.bind(self.instruments)

    async def tell(self, path: str, order: Any) -> Any:
        async with self.http.post(self.at["control"] + path, data=orjson.dumps(order)) as response:
            return orjson.loads(await response.read())

    async def account(self, name: str = "alice", **more: Any) -> dict[str, Any]:
        made = await self.tell("/accounts", {"accounts": [{"name": name, "balance": "100000", **more}]})
        return dict(made["accounts"][0])

    async def key(self, name: str = "alice", **more: Any) -> Key:
        return key_of(await self.account(name, **more))

    async def line(self, key: Key) -> Line:
        """A private connection, let in and subscribed."""
        (channel,) = self.wire.channels(self.endpoints)
        line = Line(self, await self.http.ws_connect(channel.url), channel.name)
        await line.send(self.wire.login(channel, key, self.host.server_ns() // 10**6))
        (told,) = await line.until(LoggedIn)
        assert told == LoggedIn(True)
        for _, message in channel.subscriptions:
            await line.send(message)
        told = await line.until(Subscribed, len(channel.subscriptions))
        assert sorted(one.name for one in told) == sorted(name for name, _ in channel.subscriptions)
        assert all(one.ok for one in told)
        return line

    def order(
        self, qty: int = 10, px: int = 0, side: int = 1, position_side: int = 0, reduce_only: bool = False, index: int = 0
    ) -> Order:
        """An order with an id of its own; lots are the exchange's."""
        self.n += 1
        return Order(1, self.instruments[index], self.n.to_bytes(16, "big"), qty, px, side, position_side, reduce_only)

    def best(self, index: int = 0) -> tuple[int, int]:
        """Best bid and ask in ticks."""
        bid, _, ask, _ = self.host.engine.top(index)
        return bid, ask

    async def raw(self, key: Key | None, method: str, target: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """A request as it is, signed unless there is no key; header names with "_" for "-"."""
        text = orjson.dumps(body) if body is not None else b""
        signed = rest_headers(key, method, target, text, self.host.server_ns() // 10**6) if key is not None else {}
        sent = {**signed, **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.http.request(method, self.at["rest"] + target, data=text or None, headers=sent) as response:
            return response.status, orjson.loads(await response.read())


def key_of(account: dict[str, Any]) -> Key:
    return Key(account["api_key"].encode(), account["secret"].encode(), account["passphrase"].encode())


@contextlib.asynccontextmanager
async def exchange(spot: bool = False, **options: Any) -> AsyncIterator[Bench]:
    """A running exchange of one of the two markets, which stands still, and our adapter's REST side opened on it."""
    wanted = {"seed": 7, "maker_ms": 60_000, "lift": frozenset({"connects"}), **options}
    host = Host(Options(**wanted), SpotDialect if spot else Dialect)
    if host.makers is not None:
        for index in range(len(host.instruments)):
            host.makers.hold(index, 0)
    await host.start()
    async with aiohttp.ClientSession() as http:
        bench = Bench(host, http, SPOT if spot else WANTED)
        try:
            await bench.open()
            yield bench
        finally:
            await bench.rest.close()
            await host.stop()
