"""An exchange that speaks Bybit, in the test's own loop, and a plain signed client for it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
from yarl import URL

from copyd.exchange.bybit import Dialect
from copyd.exchange.host import Host, Options
from tests.exchange.wire_client import hear

LINEAR = {"category": "linear", "symbol": "BTCUSDT"}
MARKET = {**LINEAR, "side": "Buy", "orderType": "Market", "qty": "0.01"}
RESTING = {**LINEAR, "side": "Buy", "orderType": "Limit", "qty": "0.01", "price": "58500"}
ALL = ("order", "execution", "execution.fast", "position", "wallet")


class Clock:
    """The machine's clock, put ahead at will."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_ns


class Bench:
    """One exchange and what a test does with it."""

    def __init__(self, host: Host, http: aiohttp.ClientSession, clock: Clock) -> None:
        self.host, self.http, self.clock = host, http, clock
        self.rest, self.ws, self.control = (
            f"{how}://127.0.0.1:{host.ports[name]}" for how, name in (("http", "rest"), ("ws", "ws"), ("http", "control")))

    def now_ms(self) -> int:
        return self.clock() // 10**6

    async def tell(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the control port."""
        data = orjson.dumps(body) if body is not None else None
        async with self.http.request(method, self.control + path, data=data) as response:
            text = await response.read()
            if response.content_type == "application/x-ndjson":
                return [orjson.loads(line) for line in text.splitlines()]
            return orjson.loads(text)

    async def account(self, name: str = "alice", balance: str = "100000", **order: Any) -> dict[str, Any]:
        made = await self.tell("POST", "/accounts", {"accounts": [{"name": name, "balance": balance, **order}]})
        return dict(made["accounts"][0])

    async def raw(
        self, account: dict[str, Any] | None, method: str, path: str, query: str = "", body: bytes = b"", **over: str
    ) -> tuple[int, Any, Any]:
        """A call with exactly these bytes: (HTTP status, JSON or text, headers). ``over``: headers otherwise."""
        headers: dict[str, str] = {}
        if account is not None:
            stamp, window = over.get("stamp", str(self.now_ms())), over.get("window", "5000")
            signed = f"{stamp}{account['api_key']}{window}".encode() + (query.encode() if method == "GET" else body)
            headers = {
                "X-BAPI-API-KEY": over.get("key", account["api_key"]), "X-BAPI-TIMESTAMP": stamp, "X-BAPI-RECV-WINDOW": window,
                "X-BAPI-SIGN": hmac.new(account["secret"].encode(), signed, hashlib.sha256).hexdigest(),
            }  # fmt: skip
        url = URL(self.rest + path + (f"?{query}" if query else ""), encoded=True)
        async with self.http.request(method, url, data=body or None, headers=headers) as response:
            text = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, orjson.loads(text) if is_json and text else text, response.headers

    async def get(self, account: dict[str, Any] | None, path: str, **params: Any) -> Any:
        """The body of an answer."""
        return (await self.raw(account, "GET", path, "&".join(f"{k}={v}" for k, v in params.items())))[1]

    async def post(self, account: dict[str, Any], path: str, body: Any) -> Any:
        return (await self.raw(account, "POST", path, body=orjson.dumps(body)))[1]

    async def place(self, account: dict[str, Any], order: dict[str, Any] | None = None, **more: Any) -> Any:
        return await self.post(account, "/v5/order/create", {**(order or MARKET), **more})

    async def rows(self, account: dict[str, Any], path: str, **params: Any) -> list[dict[str, Any]]:
        answer = await self.get(account, path, **{**LINEAR, **params})
        assert answer["retCode"] == 0, answer
        return list(answer["result"]["list"])

    async def login(self, account: dict[str, Any], path: str = "/v5/private") -> aiohttp.ClientWebSocketResponse:
        """A connection that is logged in."""
        ws = await self.http.ws_connect(self.ws + path)
        expires = self.now_ms() + 10_000
        signature = hmac.new(account["secret"].encode(), b"GET/realtime%d" % expires, hashlib.sha256).hexdigest()
        await say(ws, op="auth", args=[account["api_key"], expires, signature])
        answer = await hear(ws)
        assert answer.get("success") is True or answer.get("retCode") == 0, answer
        return ws

    async def stream(self, account: dict[str, Any], *topics: str) -> aiohttp.ClientWebSocketResponse:
        """A private connection that hears of these topics, or all."""
        ws = await self.login(account)
        await say(ws, op="subscribe", args=list(topics or ALL), req_id="s")
        answer = await hear(ws)
        assert answer["success"] is True and answer["req_id"] == "s", answer
        return ws

    async def ask(self, ws: aiohttp.ClientWebSocketResponse, op: str, req_id: str, *args: Any, **header: Any) -> dict[str, Any]:
        """A request on the order socket, and its answer."""
        head = {"X-BAPI-TIMESTAMP": str(self.now_ms()), "X-BAPI-RECV-WINDOW": "5000", **header}
        await say(ws, reqId=req_id, header=head, op=op, args=list(args))
        return await hear(ws)


async def say(ws: aiohttp.ClientWebSocketResponse, **message: Any) -> None:
    await ws.send_str(orjson.dumps(message).decode())


@contextlib.asynccontextmanager
async def exchange(**options: Any) -> AsyncIterator[Bench]:
    """A running exchange with a still market, in this loop. The limits of accounts are lifted unless ``lift`` says otherwise.
    ``dialect``: of another market."""
    lift = frozenset(options.pop("lift", ("create", "cancel", "amend", "batch", "query", "set", "log", "http")))
    clock = Clock()
    dialect = options.pop("dialect", Dialect)
    host = Host(Options(seed=7, maker_ms=options.pop("maker_ms", 60_000), lift=lift, **options), dialect, clock=clock)
    if host.makers is not None:
        for index in range(len(host.instruments)):
            host.makers.hold(index, 0)
    await host.start()
    async with aiohttp.ClientSession() as http:
        try:
            yield Bench(host, http, clock)
        finally:
            await host.stop()
