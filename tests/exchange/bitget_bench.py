"""The simulated exchange with a Bitget dialect, in the test's own loop, and a signed client that knows no code of ours."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from copyd.exchange.bitget import Dialect
from copyd.exchange.host import Host, Options
from tests.exchange.wire_client import hear

Account = dict[str, Any]
Socket = aiohttp.ClientWebSocketResponse
#: Limits that most tests are not about.
RATES = frozenset({"orders", "requests_1", "requests_5", "requests_10", "requests_20", "messages"})


def signature(account: Account, text: bytes) -> str:
    """As the venue's pages describe it."""
    return base64.b64encode(hmac.new(account["secret"].encode(), text, hashlib.sha256).digest()).decode()


class Bench:
    """One exchange and what a test does with it."""

    def __init__(self, host: Host, http: aiohttp.ClientSession) -> None:
        self.host, self.http = host, http
        self.rest, self.ws, self.control = (f"{how}://127.0.0.1:{host.ports[name]}" for how, name in (
            ("http", "rest"), ("ws", "ws"), ("http", "control")))

    async def tell(self, method: str, path: str, body: Any = None) -> Any:
        data = orjson.dumps(body) if body is not None else None
        async with self.http.request(method, self.control + path, data=data) as response:
            text = await response.read()
            if response.content_type == "application/x-ndjson":
                return [orjson.loads(line) for line in text.splitlines()]
            return orjson.loads(text)

    async def account(self, name: str = "alice", **order: Any) -> Account:
        made = await self.tell("POST", "/accounts", {"accounts": [{"name": name, "balance": "100000", **order}]})
        return dict(made["accounts"][0])

    async def call(
        self, account: Account | None, method: str, target: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """(status, body, headers); ``headers`` replace those of a good signature, "" leaves one out."""
        data = orjson.dumps(body) if body is not None else b""
        sent = {"Content-Type": "application/json"}
        if account is not None:
            stamp = headers.get("ACCESS_TIMESTAMP") or str(time.time_ns() // 10**6)
            sent |= {
                "ACCESS-KEY": account["api_key"], "ACCESS-SIGN": signature(account, f"{stamp}{method}{target}".encode() + data),
                "ACCESS-TIMESTAMP": stamp, "ACCESS-PASSPHRASE": account["passphrase"],
            }  # fmt: skip
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {name: value for name, value in sent.items() if value}
        async with self.http.request(method, self.rest + target, data=data or None, headers=sent) as response:
            return response.status, orjson.loads(await response.read()), dict(response.headers)

    async def good(self, account: Account | None, method: str, target: str, body: Any = None) -> Any:
        """The data of an answer that must be a success."""
        status, answer, _ = await self.call(account, method, target, body)
        assert (status, answer["code"]) == (200, "00000"), answer
        return answer["data"]

    async def private(self, account: Account, *channels: str, v3: bool = False, market: str = "USDT-FUTURES") -> Socket:
        """A private connection, logged in and subscribed, its snapshots read away."""
        ws = await self.http.ws_connect(f"{self.ws}/v{3 if v3 else 2}/ws/private")
        stamp = str(int(time.time()))
        await say(ws, op="login", args=[{
            "apiKey": account["api_key"], "passphrase": account["passphrase"], "timestamp": stamp,
            "sign": signature(account, f"{stamp}GET/user/verify".encode()),
        }])  # fmt: skip
        assert (await hear(ws))["event"] == "login"
        for channel in channels:
            arg = {"instType": "UTA", "topic": channel} if v3 else {"instType": market, "channel": channel}
            if not v3:
                arg |= {"coin": "default"} if channel == "account" else {"instId": "default"}
            await say(ws, op="subscribe", args=[arg])
            assert (await hear(ws)) == {"event": "subscribe", "arg": arg}
            if channel in ("positions", "position", "account"):
                assert (await hear(ws))["action"] == "snapshot"
        return ws


async def say(ws: Socket, **message: Any) -> None:
    await ws.send_str(orjson.dumps(message).decode())


@contextlib.asynccontextmanager
async def exchange(lift: frozenset[str] = RATES, **options: Any) -> AsyncIterator[Bench]:
    """A running exchange with a still market, in this loop."""
    dialect = options.pop("dialect", Dialect)
    host = Host(Options(seed=7, maker_ms=options.pop("maker_ms", 60_000), lift=lift, **options), dialect)
    if host.makers is not None:
        for index in range(len(host.instruments)):
            host.makers.hold(index, 0)
    await host.start()
    async with aiohttp.ClientSession() as http:
        try:
            yield Bench(host, http)
        finally:
            await host.stop()
