"""An exchange inside the test's own loop, and a plain signed client for it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from yarl import URL

from copyd.exchange.server import ExchangeServer, Options
from tests.exchange.wire_helpers import signed_params


class Bench:
    """One exchange and what a test does with it."""

    def __init__(self, exchange: ExchangeServer, http: aiohttp.ClientSession) -> None:
        self.exchange = exchange
        self.http = http
        ports = exchange.ports
        self.rest = f"http://127.0.0.1:{ports['rest']}"
        self.ws = f"ws://127.0.0.1:{ports['ws']}"
        self.control = f"http://127.0.0.1:{ports['control']}"

    async def accounts(self, **order: Any) -> list[dict[str, Any]]:
        return list((await self.tell("POST", "/accounts", order))["accounts"])

    async def account(self, name: str = "alice", balance: str = "10000", **order: Any) -> dict[str, Any]:
        return (await self.accounts(accounts=[{"name": name, "balance": balance, **order}]))[0]

    async def tell(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the control port; JSON lines come back as a list."""
        data = orjson.dumps(body) if body is not None else None
        async with self.http.request(method, self.control + path, data=data) as response:
            text = await response.read()
            if response.content_type == "application/x-ndjson":
                return [orjson.loads(line) for line in text.splitlines()]
            return orjson.loads(text)

    async def call(
        self, account: dict[str, Any] | None, method: str, path: str, *, where: str = "query", raw: str = "", **params: Any
    ) -> tuple[int, Any, dict[str, str]]:
        """A REST call, signed when an account is given: (status, JSON, headers). ``raw`` replaces the signed text."""
        headers = {}
        text = urlencode(params)
        if account is not None:
            headers["X-MBX-APIKEY"] = account["api_key"]
            text = raw or urlencode({"timestamp": int(time.time() * 1000), **params})
            signature = hmac.new(account["secret"].encode(), text.encode(), hashlib.sha256).hexdigest()
            text += f"&signature={signature}"
        url = self.rest + path
        data = None
        if where == "query":
            url += "?" + text
        else:
            data = text.encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        async with self.http.request(method, URL(url, encoded=True), headers=headers, data=data) as response:
            return response.status, orjson.loads(await response.read()), dict(response.headers)

    async def api(self, query: str = "") -> aiohttp.ClientWebSocketResponse:
        return await self.http.ws_connect(f"{self.ws}/ws-fapi/v1{query}")

    async def user_stream(self, account: dict[str, Any]) -> aiohttp.ClientWebSocketResponse:
        key = (await self.call(account, "POST", "/fapi/v1/listenKey"))[1]["listenKey"]
        return await self.http.ws_connect(f"{self.ws}/private/ws/{key}")


async def ask(
    ws: aiohttp.ClientWebSocketResponse, account: dict[str, Any] | None, method: str, number: Any = 1, **params: Any
) -> dict[str, Any]:
    """One WebSocket API request and its answer."""
    body = signed_params(account, params) if account is not None else params
    await ws.send_str(orjson.dumps({"id": number, "method": method, "params": body}).decode())
    return await hear(ws)


async def hear(ws: aiohttp.ClientWebSocketResponse, seconds: float = 3.0) -> dict[str, Any]:
    """The next message."""
    message = await asyncio.wait_for(ws.receive(), seconds)
    if message.type != aiohttp.WSMsgType.TEXT:
        raise ConnectionError(f"{message.type!r} {message.data!r}")
    value: dict[str, Any] = orjson.loads(message.data)
    return value


async def silent(ws: aiohttp.ClientWebSocketResponse, seconds: float = 0.25) -> bool:
    """Nothing arrives for a while. (The receive is not cancelled half way: a message that comes makes this False.)"""
    try:
        await asyncio.wait_for(ws.receive(), seconds)
    except TimeoutError:
        return True
    return False


@contextlib.asynccontextmanager
async def exchange(**options: Any) -> AsyncIterator[Bench]:
    """A running exchange with a still market (no walk), all in this loop."""
    server = ExchangeServer(Options(seed=7, **options))
    if server.makers is not None:
        for index in range(len(server.instruments)):
            server.makers.hold(index, 0)
    await server.start()
    async with aiohttp.ClientSession() as http:
        try:
            yield Bench(server, http)
        finally:
            await server.stop()


MARKET = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.010", "newOrderRespType": "RESULT"}
RESTING = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "0.010",
    "price": "58000",
}
