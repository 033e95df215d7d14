"""The host of any dialect, over real sockets: connections, orders, events, faults, limits, control, the truth."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from copyd.errors import UsageError
from copyd.exchange.host import DIALECTS, Host, Options, dialect_of
from copyd.exchange.main import main
from tests.exchange.plain_dialect import Dialect, sign
from tests.exchange.wire_client import hear

Socket = aiohttp.ClientWebSocketResponse


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

    async def account(self, name: str = "alice", **order: Any) -> dict[str, Any]:
        made = await self.tell("POST", "/accounts", {"accounts": [{"name": name, "balance": "100000", **order}]})
        return dict(made["accounts"][0])

    async def login(self, account: dict[str, Any]) -> Socket:
        ws = await self.http.ws_connect(self.ws + "/private")
        ts = time.time_ns() // 10**6
        await say(ws, op="login", key=account["api_key"], ts=ts, sign=sign(account["secret"], b"%d" % ts))
        assert await hear(ws) == {"ok": "login"}
        return ws

    async def call(self, account: dict[str, Any], method: str, target: str, body: Any = None) -> tuple[int, Any]:
        data = orjson.dumps(body) if body is not None else b""
        signed = target.partition("?")[2].encode() + data
        headers = {"X-Key": account["api_key"], "X-Sign": sign(account["secret"], signed)}
        async with self.http.request(method, self.rest + target, data=data, headers=headers) as response:
            return response.status, orjson.loads(await response.read())


@contextlib.asynccontextmanager
async def exchange(**options: Any) -> AsyncIterator[Bench]:
    """A running exchange with a still market, in this loop."""
    host = Host(Options(seed=7, maker_ms=options.pop("maker_ms", 60_000), **options), Dialect)
    if host.makers is not None:
        for index in range(len(host.instruments)):
            host.makers.hold(index, 0)
    await host.start()
    async with aiohttp.ClientSession() as http:
        try:
            yield Bench(host, http)
        finally:
            await host.stop()


async def say(ws: Socket, **message: Any) -> None:
    await ws.send_str(orjson.dumps(message).decode())


async def place(ws: Socket, cid: str, n: int = 0, **more: Any) -> None:
    await say(ws, **{"op": "place", "symbol": "BTCUSDT", "side": "buy", "qty": "0.010", "cid": cid, "n": n, **more})


async def until_closed(ws: Socket) -> int | None:
    while (await asyncio.wait_for(ws.receive(), 3)).type is aiohttp.WSMsgType.TEXT:
        pass
    return ws.close_code


# -- orders and events ------------------------------------------------------------------------------------------------------
async def test_an_order_is_done_told_and_in_the_truth() -> None:
    """An order over a connection fills; its events and its answer reach the account, and the truth lists it under its name."""
    async with exchange() as x:
        ws = await x.login(await x.account())
        await place(ws, "a1")
        assert [(await hear(ws)).get("event") for _ in range(2)] == ["new", "fill"]
        assert "order" in await hear(ws)
        (order,) = await x.tell("GET", "/truth/orders")
        assert (order["account"], order["clientOrderId"], order["status"]) == ("alice", "a1", "FILLED")
        assert (await x.tell("GET", "/truth/stats"))["orders_accepted"] == 1


async def test_a_change_is_told_once_however_often_the_dialect_says_so() -> None:
    """What the engine refuses leaves the events of the change before; they are not told again."""
    async with exchange() as x:
        ws = await x.login(await x.account())
        await place(ws, "a1", n=1)
        await place(ws, "a2", n=2, symbol="NOTHING")
        await say(ws, op="cancel", symbol="BTCUSDT", cid="a1")
        heard = [await hear(ws) for _ in range(5)]
        assert [m.get("event") for m in heard] == ["new", "fill", None, None, None]
        assert "error" in heard[3] and "cancel" in heard[4]
        assert (await x.tell("GET", "/truth/stats"))["orders_accepted"] == 1


async def test_rest_speaks_to_the_same_engine() -> None:
    """An order over REST is told on the connection, is found by a query, and a wrong signature is refused."""
    async with exchange() as x:
        alice = await x.account()
        ws = await x.login(alice)
        order = {"symbol": "BTCUSDT", "side": "buy", "qty": "0.010", "px": "58000", "cid": "r1"}
        assert (await x.call(alice, "POST", "/order", order))[0] == 200
        assert (await hear(ws))["event"] == "new"
        assert await x.call(alice, "GET", "/order?symbol=BTCUSDT&cid=r1") == (200, {"status": "new"})
        assert (await x.call({**alice, "secret": "x"}, "GET", "/order?symbol=BTCUSDT&cid=r1"))[0] == 401
        assert (await x.call(alice, "GET", "/nothing"))[0] == 404


class Counting:
    """A transport that counts its writes."""

    def __init__(self, transport: Any) -> None:
        self.transport, self.writes = transport, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.transport.write(data)


async def test_messages_of_one_turn_leave_in_one_write() -> None:
    """Whatever one turn of the loop has for a connection leaves it in one write, in the order it was queued."""
    async with exchange() as x:
        ws = await x.login(await x.account())
        conn: Any = x.host.conns()[0]
        counting = conn.transport = Counting(conn.transport)
        orders = [{"op": "place", "symbol": "BTCUSDT", "side": "buy", "qty": "0.001", "cid": f"w{n}", "n": n} for n in range(5)]
        conn.data_received(b"".join(masked(orjson.dumps(order)) for order in orders))
        assert counting.writes == 0
        heard = [await hear(ws) for _ in range(15)]
        assert [m["n"] for m in heard if "n" in m] == [0, 1, 2, 3, 4]
        assert [m["cid"] for m in heard if m.get("event") == "fill"] == ["w0", "w1", "w2", "w3", "w4"]
        assert counting.writes == 1


def masked(payload: bytes) -> bytes:
    """A client's text frame (masked with zeros, shorter than 126 bytes)."""
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload


async def test_a_public_connection_hears_the_book() -> None:
    """Makers' steps are told to whoever listens, without an account."""
    async with exchange(maker_ms=20) as x:
        ws = await x.http.ws_connect(x.ws + "/public")
        assert (await hear(ws))["book"] in x.host.symbols


async def test_nonsense_is_answered_and_harms_nobody() -> None:
    """No JSON, an unknown path, a plain HTTP request, and words before the login get an answer or a refusal."""
    async with exchange() as x:
        ws = await x.http.ws_connect(x.ws + "/private")
        for text, answer in (("{", "no JSON"), ("[]", "what?"), ('{"op":"place"}', "what?")):
            await ws.send_str(text)
            assert await hear(ws) == {"error": answer}
        await ws.send_str("ping")
        assert (await ws.receive()).data == "pong"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await x.http.ws_connect(x.ws + "/nowhere")
        assert refused.value.status == 404
        async with x.http.get(x.ws.replace("ws:", "http:") + "/private") as response:
            assert response.status == 400


async def test_a_dialect_that_raises_costs_one_connection_and_is_heard_of() -> None:
    """A defect closes that connection with 1011, or answers 500; the loop's handler hears of it and others trade on."""
    problems: list[dict[str, Any]] = []
    async with exchange() as x:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        ws, other = await x.http.ws_connect(x.ws + "/private"), await x.login(await x.account())
        await ws.send_str("crash")
        assert await until_closed(ws) == 1011
        async with x.http.get(x.rest + "/crash") as response:
            assert response.status == 500
        await place(other, "a1")
        assert (await hear(other))["event"] == "new"
        assert len(problems) == 2


# -- faults -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("action", "reached", "answer"),
    [
        ("drop_request", False, None),
        ("drop_reply", True, None),
        ("error_live", True, "unknown"),
        ("error_dead", False, "unknown"),
        ("unavailable", False, "unavailable"),
        ("throttled", False, "throttled"),
        ("disconnect", False, "closed"),
        ("disconnect_live", True, "closed"),
    ],
)
async def test_a_disturbed_order_reaches_the_engine_or_not(action: str, reached: bool, answer: str | None) -> None:
    """Each fault of a request does exactly what its name says, on WebSocket; the log of faults lists it."""
    async with exchange() as x:
        ws = await x.login(await x.account())
        await x.tell("POST", "/faults", {"action": action, "method": "place", "count": 1, "client_id_prefix": "a"})
        await place(ws, "a1", px="58000", n=1)
        if answer == "closed":
            await until_closed(ws)
        else:
            await place(ws, "b1", px="58001", n=2)
            heard: list[dict[str, Any]] = []
            while not heard or heard[-1].get("n") != 2:
                heard.append(await hear(ws))
            assert [m["error"] for m in heard if "error" in m] == ([answer] if answer else [])
            assert not any(m.get("n") == 1 for m in heard)
        orders = await x.tell("GET", "/truth/orders")
        assert ("a1" in [o["clientOrderId"] for o in orders]) == reached
        assert (await x.tell("GET", "/truth/faults"))[0]["action"] == action


@pytest.mark.parametrize(("action", "reached", "status"), [
    ("error_live", True, 503), ("error_dead", False, 503), ("unavailable", False, 503), ("throttled", False, 429),
    ("disconnect", False, 0), ("disconnect_live", True, 0), ("delay", True, 200), ("delay_reply", True, 200),
])  # fmt: skip
async def test_a_disturbed_call_reaches_the_engine_or_not(action: str, reached: bool, status: int) -> None:
    """The same over REST, matched by method and path."""
    async with exchange() as x:
        alice = await x.account()
        await x.tell("POST", "/faults", {"action": action, "method": "POST /order", "delay_ms": 5})
        order = {"symbol": "BTCUSDT", "side": "buy", "qty": "0.010", "px": "58000", "cid": "r1"}
        if status:
            assert (await x.call(alice, "POST", "/order", order))[0] == status
        else:
            with pytest.raises(aiohttp.ClientConnectionError):
                await x.call(alice, "POST", "/order", order)
        assert bool(await x.tell("GET", "/truth/orders")) == reached


async def test_a_stale_query_does_not_see_what_is_younger() -> None:
    """``stale_read`` answers by the dialect's reader that is behind; the next query sees the order."""
    async with exchange() as x:
        ws = await x.login(await x.account())
        await place(ws, "a1", px="58000")
        await hear(ws), await hear(ws)
        await x.tell("POST", "/faults", {"action": "stale_read", "method": "query", "delay_ms": 60_000, "count": 1})
        for status in ("none", "new"):
            await say(ws, op="query", symbol="BTCUSDT", cid="a1")
            assert await hear(ws) == {"status": status}


async def test_a_stalled_connection_says_nothing_for_a_while_and_then_all() -> None:
    """``stall``: done at once, nothing leaves until it is over, nothing is lost, nobody else waits."""
    async with exchange() as x:
        ws, other = await x.login(await x.account()), await x.login(await x.account("bob"))
        await x.tell("POST", "/faults", {"action": "stall", "method": "place", "delay_ms": 400, "count": 1})
        await place(ws, "a1", px="58000", n=1)
        await place(other, "b1", px="58000", n=1)
        assert (await hear(other))["event"] == "new"
        assert [o["status"] for o in await x.tell("GET", "/truth/orders")] == ["NEW", "NEW"]
        conn: Any = x.host.conns()[0]
        assert conn.stalled and conn.out
        assert (await hear(ws))["event"] == "new"
        assert (await hear(ws))["n"] == 1
        assert not conn.stalled


@pytest.mark.parametrize(
    ("action", "heard"),
    [("drop_event", ["fill"]), ("duplicate_event", ["new", "new", "fill"]), ("reorder_events", ["fill", "new"]),
     ("delay_event", ["fill", "new"])],
)  # fmt: skip
async def test_a_disturbed_event(action: str, heard: list[str]) -> None:
    """Events of an account are lost, told twice, overtaken or late, by name; answers are none of them."""
    async with exchange() as x:
        ws = await x.login(await x.account())
        await x.tell("POST", "/faults", {"action": action, "event": "new", "delay_ms": 50})
        await place(ws, "a1")
        got: list[str] = []
        while len(got) < len(heard):
            message = await hear(ws)
            if "event" in message:
                got.append(message["event"])
        assert got == heard


# -- limits, lives, clock, control --------------------------------------------------------------------------------------------
async def test_a_limit_refuses_until_it_is_lifted() -> None:
    """The dialect's windows are enforced, set by the control port, shown in the stats, and lifted by name."""
    async with exchange() as x:
        ws = await x.login(await x.account())
        assert (await x.tell("POST", "/limits", {"limit": "orders", "count": 2}))["orders"] == 2
        for n in range(3):
            await place(ws, f"a{n}", px="58000", n=n)
        heard = [await hear(ws) for _ in range(5)]
        assert "wait_ms" in heard[-1]
        assert (await x.tell("GET", "/truth/stats"))["limits"]["orders"]["refused"] == 1
        assert "error" in await x.tell("POST", "/limits", {"limit": "nonsense", "count": 2})
    async with exchange(lift=frozenset({"all"})) as x:
        x.host.windows.set("orders", 1)
        ws = await x.login(await x.account())
        for n in range(3):
            await place(ws, f"a{n}", px="58000", n=n)
        for _ in range(6):
            assert "error" not in await hear(ws)


async def test_unknown_limits_cannot_be_lifted() -> None:
    """A name that the dialect does not have is a usage error before anything is opened."""
    with pytest.raises(UsageError, match="no such limit: weight"):
        Host(Options(lift=frozenset({"weight"})), Dialect)


async def test_a_silent_connection_is_closed_and_a_speaking_one_stays() -> None:
    """Connections end by the dialect's terms: silence, and age."""
    async with exchange(idle_s=1.5) as x:
        ws, other = await x.http.ws_connect(x.ws + "/public", autoping=False), await x.http.ws_connect(x.ws + "/private")

        async def speak() -> None:
            while True:
                await other.send_str("ping")
                await asyncio.sleep(0.3)

        speaking = asyncio.create_task(speak())
        assert await until_closed(ws) == 1008
        speaking.cancel()
        assert len(x.host.conns()) == 1
    async with exchange(session_s=0.5) as x:
        ws = await x.http.ws_connect(x.ws + "/private")
        assert await until_closed(ws) == 1000


async def test_the_clients_clock_can_be_put_off_and_the_truths_cannot() -> None:
    """``/clock`` moves what clients see and are checked against; the engine's times stay."""
    async with exchange() as x:
        alice = await x.account()
        ws = await x.login(alice)
        await x.tell("POST", "/clock", {"skew_ms": 60_000})
        async with x.http.get(x.rest + "/time") as response:
            assert (await response.json())["ms"] > time.time_ns() // 10**6 + 50_000
        with pytest.raises(AssertionError, match="late"):
            await x.login(alice)
        await place(ws, "a1", px="58000")
        await hear(ws)
        (order,) = await x.tell("GET", "/truth/orders")
        assert abs(order["ts"] - time.time_ns()) < 30 * 10**9


async def test_connections_are_cut_by_account_and_address() -> None:
    """``/disconnect`` cuts one account's connections, or those of an address; the log says whose."""
    async with exchange() as x:
        a, b = await x.login(await x.account()), await x.login(await x.account("bob"))
        public = await x.http.ws_connect(x.ws + "/public")
        assert await x.tell("POST", "/disconnect", {"account": "alice"}) == {"disconnected": 1}
        await until_closed(a)
        assert await x.tell("POST", "/disconnect", {"kind": "public"}) == {"disconnected": 1}
        await until_closed(public)
        assert [(f["action"], f["account"], f["method"]) for f in await x.tell("GET", "/truth/faults")] == [
            ("cut", "alice", "/private"), ("cut", "", "/public")]  # fmt: skip
        await place(b, "b1", px="58000")
        assert (await hear(b))["event"] == "new"


async def test_the_control_port_is_the_same_as_the_other_exchanges() -> None:
    """Accounts with a passphrase and rights, deposits, market moves, funding, transfers and every list of the truth."""
    async with exchange() as x:
        alice = await x.account(rights={"withdraw": True}, leverage=5)
        bob = await x.account("bob")
        assert alice["passphrase"] and alice["passphrase"] != bob["passphrase"]
        owner = x.host.owner(alice["api_key"])
        assert owner is not None and owner.rights == {"withdraw": True} and owner.secret.decode() == alice["secret"]
        await x.tell("POST", "/restrictions", {"account": "alice", "restrictions": {"withdraw": False}})
        assert owner.rights == {"withdraw": False}
        assert "no key" in (await x.tell("POST", "/restrictions", {"account": "maker-1"}))["error"]
        assert "(hmac)" in (await x.tell("POST", "/accounts", {"n": 1, "key_type": "ed25519"}))["error"]
        assert "acct-0" not in x.host.accounts.index
        assert (await x.tell("POST", "/deposit", {"account": "alice", "amount": "5"}))["wallet"] == "100005.00000000"
        ws = await x.login(alice)
        await place(ws, "a1")
        assert (await x.tell("POST", "/market", {"symbol": "BTCUSDT", "funding_ppm": 100}))["funded"] > 0
        assert len(x.host.funding_log) == 1
        moved = {"transfers": [{"id": "t1", "from": "alice", "to": "bob", "amount": "7"}]}
        assert (await x.tell("POST", "/transfers", moved))["results"][0]["state"] == "executed"
        for name in ("orders", "rejects", "trades", "positions", "balances", "incomes", "transfers", "quotes", "reads", "faults",
                     "instruments"):  # fmt: skip
            assert isinstance(await x.tell("GET", f"/truth/{name}"), list)
        assert (await x.tell("GET", "/truth/stats"))["books_balance"]


async def test_who_does_not_read_is_cut() -> None:
    """What a connection leaves unread is bounded; the others are told everything."""
    async with exchange() as x:
        ws = await x.login(await x.account())
        slow: Any = x.host.conns()[0]
        slow.stall(True)
        for _ in range(65):
            slow.send(bytes(1 << 20))
        await asyncio.sleep(0)
        x.host.flush()
        assert not slow.is_open and not x.host.conns()
        with pytest.raises(ConnectionError):
            await hear(ws)


async def test_two_thousand_connections() -> None:
    """Two thousand connections of accounts are open at once, and each hears of its own order."""
    async with exchange(lift=frozenset({"all"})) as x:
        made = (await x.tell("POST", "/accounts", {"n": 20, "balance": "100000"}))["accounts"]
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            x.http = http
            sockets = []
            for start in range(0, 2000, 250):
                sockets += await asyncio.gather(*(x.login(made[n % 20]) for n in range(start, start + 250)))
            assert len(x.host.conns()) == 2000
            for n in range(20):
                await place(sockets[n], f"c{n}", px="58000")
            for ws in sockets:
                assert (await hear(ws))["event"] == "new"


def test_dialects_are_known_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown dialect is a usage error that lists those there are."""
    with pytest.raises(UsageError, match=", ".join(DIALECTS)):
        dialect_of("nasdaq")
    with pytest.raises(SystemExit):
        main(["--dialect", "nasdaq"])
    assert "invalid choice" in capsys.readouterr().err
