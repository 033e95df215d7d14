"""Faults on request, limits of the venue, and the control port."""

from __future__ import annotations

import asyncio
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from bench.bench_exchange_wire import run
from copyd.exchange.faults import Faults, Rule
from tests.exchange.wire_client import MARKET, RESTING, Bench, ask, exchange, hear, silent
from tests.exchange.wire_helpers import ROOT, control, running_exchange, signed_params


@pytest_asyncio.fixture
async def x() -> AsyncIterator[Bench]:
    async with exchange() as bench:
        yield bench


async def accepted(x: Bench) -> list[str]:
    return [o["clientOrderId"] for o in await x.tell("GET", "/truth/orders")]


@pytest.mark.parametrize(
    ("action", "status", "text", "live"),
    [
        ("error_live", 503, "Unknown error, please check your request or try again later.", True),
        ("error_dead", 503, "Unknown error, please check your request or try again later.", False),
        ("unavailable", 503, "Service Unavailable.", False),
        ("throttled", 503, "Request throttled by system-level protection.", False),
    ],
)
async def test_a_503_says_nothing_about_the_order(x: Bench, action: str, status: int, text: str, live: bool) -> None:
    """The same unknown error with the order live or dead; only the truth (or a query by id) tells."""
    alice = await x.account()
    await x.tell("POST", "/faults", {"action": action, "method": "order.place", "count": 2})
    ws = await x.api()
    answer = await ask(ws, alice, "order.place", **MARKET, newClientOrderId="over-ws")
    assert answer["status"] == status and answer["error"]["msg"].startswith(text)
    got, error, _ = await x.call(alice, "POST", "/fapi/v1/order", **MARKET, newClientOrderId="over-rest")
    assert got == status and error["msg"].startswith(text)
    assert await accepted(x) == (["over-ws", "over-rest"] if live else [])
    found = await ask(ws, alice, "order.status", symbol="BTCUSDT", origClientOrderId="over-ws")
    assert found["result"]["status"] == "FILLED" if live else found["error"]["code"] == -2013
    assert (await ask(ws, alice, "order.place", **MARKET))["status"] == 200  # the rule is spent


@pytest.mark.parametrize(("action", "live"), [("drop_request", False), ("drop_reply", True)])
async def test_silence_with_the_order_live_or_dead(x: Bench, action: str, live: bool) -> None:
    alice = await x.account()
    await x.tell("POST", "/faults", {"action": action, "client_id_prefix": "gone", "count": 1})
    ws = await x.api()
    params = signed_params(alice, {**MARKET, "newClientOrderId": "gone-1"})
    await ws.send_json({"id": 1, "method": "order.place", "params": params})
    answer = await ask(ws, alice, "order.place", 2, **MARKET, newClientOrderId="other")
    assert (answer["id"], answer["status"]) == (2, 200)  # nothing came for 1
    assert await accepted(x) == (["gone-1", "other"] if live else ["other"])


@pytest.mark.parametrize(("action", "live"), [("disconnect", False), ("disconnect_live", True)])
async def test_disconnect_with_the_order_live_or_dead(x: Bench, action: str, live: bool) -> None:
    alice = await x.account()
    await x.tell("POST", "/faults", {"action": action, "account": "alice", "count": 2})
    ws = await x.api()
    with pytest.raises(ConnectionError):
        await ask(ws, alice, "order.place", **MARKET, newClientOrderId="cut")
    with pytest.raises(aiohttp.ClientError):
        await x.call(alice, "POST", "/fapi/v1/order", **MARKET, newClientOrderId="cut-rest")
    assert await accepted(x) == (["cut", "cut-rest"] if live else [])


async def test_delays_and_stalls_hold_back_what_they_say(x: Bench) -> None:
    """delay: the order arrives late; delay_reply and stall: the order is in the book before its answer leaves."""
    alice = await x.account()
    ws = await x.api()
    for action, at_once in (("delay", False), ("delay_reply", True), ("stall", True)):
        await x.tell("POST", "/faults", {"action": action, "delay_ms": 300, "count": 1, "method": "order.place"})
        start = time.monotonic()
        params = signed_params(alice, {**MARKET, "newClientOrderId": action})
        await ws.send_json({"id": action, "method": "order.place", "params": params})
        await asyncio.sleep(0.1)
        assert (action in await accepted(x)) == at_once
        assert (await hear(ws))["status"] == 200
        assert time.monotonic() - start >= 0.29
        assert action in await accepted(x)


async def test_an_order_held_up_beyond_its_window_is_refused_at_the_engine(x: Bench) -> None:
    """-5028: what guards a resend against a first copy that is still on its way."""
    alice = await x.account()
    await x.tell("POST", "/faults", {"action": "delay", "delay_ms": 400, "count": 2})
    ws = await x.api()
    assert (await ask(ws, alice, "order.place", **MARKET, recvWindow=200))["error"]["code"] == -5028
    assert (await x.call(alice, "POST", "/fapi/v1/order", **MARKET, recvWindow=200))[1]["code"] == -5028
    assert await accepted(x) == []


async def test_events_can_be_doubled_reordered_delayed_and_lost(x: Bench) -> None:
    alice = await x.account()
    stream = await x.user_stream(alice)
    ws = await x.api()

    async def kinds(action: str, count: int, **more: Any) -> list[str]:
        await x.tell("POST", "/faults", {"action": action, "account": "alice", "count": 1, **more})
        await ask(ws, alice, "order.place", **MARKET)
        seen = [await hear(stream) for _ in range(count)]
        assert await silent(stream)
        await x.tell("DELETE", "/faults")
        return [e["o"]["x"] if "o" in e else e["e"] for e in seen]

    plain = ["NEW", "TRADE_LITE", "TRADE", "ACCOUNT_UPDATE"]
    assert await kinds("duplicate_event", 5, event="TRADE_LITE") == [*plain[:2], *plain[1:]]
    await stream.close()
    stream = await x.user_stream(alice)
    assert await kinds("drop_event", 3, event="TRADE_LITE") == ["NEW", "TRADE", "ACCOUNT_UPDATE"]
    await stream.close()
    stream = await x.user_stream(alice)
    reordered = await kinds("reorder_events", 4, event="TRADE_LITE")
    assert sorted(reordered) == sorted(plain) and reordered.index("TRADE_LITE") > reordered.index("TRADE")
    await stream.close()
    stream = await x.user_stream(alice)
    delayed = await kinds("delay_event", 4, event="ORDER_TRADE_UPDATE", delay_ms=100)
    assert delayed == ["TRADE_LITE", "TRADE", "ACCOUNT_UPDATE", "NEW"]


async def test_fault_rules_match_skip_count_and_go(x: Bench) -> None:
    alice, bob = await x.accounts(accounts=[{"name": "alice"}, {"name": "bob"}])
    rule = {"action": "error_dead", "account": "bob", "symbol": "ETHUSDT", "skip": 1, "count": 1}
    (number,) = (await x.tell("POST", "/faults", rule))["ids"]
    ws = await x.api()
    eth = {**MARKET, "symbol": "ETHUSDT"}
    outcomes = []
    for who, order in ((alice, eth), (bob, MARKET), (bob, eth), (bob, eth), (bob, eth)):
        outcomes.append((await ask(ws, who, "order.place", **order))["status"])
    assert outcomes == [200, 200, 200, 503, 200]
    (row,) = await x.tell("GET", "/faults")
    assert (row["id"], row["hits"]) == (number, 1)
    assert await x.tell("DELETE", f"/faults?id={number}") == {"removed": 1}
    assert "error" in await x.tell("POST", "/faults", {"action": "explode"})
    assert "error" in await x.tell("POST", "/faults", {"action": "delay", "acount": "typo"})


def test_a_share_of_the_matches_follows_from_seed_and_number_alone() -> None:
    """Two runs with one seed hit the same matches whatever happens to other rules; another seed hits others; the share holds."""

    def hits(seed: int, others: int) -> list[int]:
        faults = Faults()
        faults.add(Rule("drop_reply", method="order.place", ppm=50_000, seed=seed))
        faults.add(Rule("delay", method="order.status", ppm=500_000, seed=seed))
        hit = []
        for number in range(20_000):
            for _ in range(others):
                faults.request("bob", "", "order.status", "")
            if faults.request("bob", "", "order.place", "") is not None:
                hit.append(number)
        return hit

    first = hits(1, 0)
    assert first == hits(1, 2) != hits(2, 0)
    assert 850 < len(first) < 1150


async def test_every_fault_is_in_the_log(x: Bench) -> None:
    """Whose, which, when: so that a judge of the orders need not guess; a cut connection names whose stream it carried."""
    alice = await x.account()
    stream = await x.user_stream(alice)
    rules = [
        {"action": "error_live", "method": "order.place", "client_id_prefix": "a", "account_prefix": "al"},
        {"action": "drop_event", "event": "TRADE_LITE"},
        {"action": "drop_reply", "account_prefix": "b"},
    ]
    await x.tell("POST", "/faults", rules)
    await ask(await x.api(), alice, "order.place", **MARKET, newClientOrderId="a-1")
    assert await x.tell("POST", "/disconnect", {"kind": "streams", "account": "alice", "pick": 7}) == {"disconnected": 1}
    assert await x.tell("POST", "/disconnect", {"kind": "api", "account": "alice"}) == {"disconnected": 0}
    await stream.close()
    made = await x.tell("GET", "/truth/faults")
    assert [(m["action"], m["account"], m["method"], m["clientOrderId"]) for m in made] == [
        ("error_live", "alice", "order.place", "a-1"),
        ("drop_event", "alice", "TRADE_LITE", "a-1"),
        ("cut", "alice", "streams", ""),
    ]
    assert [m["seq"] for m in made] == [0, 1, 2] and all(m["ts"] > 0 for m in made)
    assert [m["seq"] for m in await x.tell("GET", "/truth/faults?after=1")] == [2]


async def test_a_stale_reader_does_not_know_what_is_young(x: Bench) -> None:
    """Orders and trades of the last ``delay_ms`` are not there yet, over both transports; older ones are."""
    alice = await x.account()
    ws = await x.api()
    assert (await ask(ws, alice, "order.place", **MARKET, newClientOrderId="s-1"))["status"] == 200
    await x.tell("POST", "/faults", {"action": "stale_read", "delay_ms": 300})
    query = {"symbol": "BTCUSDT", "origClientOrderId": "s-1"}
    assert (await ask(ws, alice, "order.status", **query))["error"]["code"] == -2013
    assert (await x.call(alice, "GET", "/fapi/v1/order", **query))[1]["code"] == -2013
    for path in ("/fapi/v1/allOrders", "/fapi/v1/userTrades"):
        assert (await x.call(alice, "GET", path, symbol="BTCUSDT"))[1] == []
    await asyncio.sleep(0.35)
    assert (await ask(ws, alice, "order.status", **query))["result"]["status"] == "FILLED"
    for path in ("/fapi/v1/allOrders", "/fapi/v1/userTrades"):
        assert len((await x.call(alice, "GET", path, symbol="BTCUSDT"))[1]) >= 1


async def test_an_event_held_back_is_not_lost_when_the_next_one_is_disturbed_too(x: Bench) -> None:
    alice = await x.account()
    stream = await x.user_stream(alice)
    rules = [
        {"action": "reorder_events", "event": "TRADE_LITE", "count": 1},
        {"action": "duplicate_event", "event": "ORDER_TRADE_UPDATE", "skip": 1, "count": 1},
    ]
    await x.tell("POST", "/faults", rules)
    await ask(await x.api(), alice, "order.place", **MARKET)
    seen = [await hear(stream) for _ in range(5)]
    assert sorted(e["o"]["x"] if "o" in e else e["e"] for e in seen) == ["ACCOUNT_UPDATE", "NEW", "TRADE", "TRADE", "TRADE_LITE"]


async def test_another_request_weight_is_enforced_and_told(x: Bench) -> None:
    """Not lifted but another figure: listed in exchangeInfo, counted, and refused above it."""
    await fresh_window(60, 5)
    assert await x.tell("POST", "/limits", {"weight_per_minute": 10}) == {"weight_per_minute": 10}
    info = (await x.call(None, "GET", "/fapi/v1/exchangeInfo"))[1]
    assert {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 10} in info["rateLimits"]
    assert {(await x.call(None, "GET", "/fapi/v1/ping"))[0] for _ in range(12)} == {200, 429}
    assert (await x.tell("GET", "/truth/stats"))["weight_charged"] >= 13
    assert "error" in await x.tell("POST", "/limits", {"weight_per_minute": 0})


# -- limits --------------------------------------------------------------------------------------------------------------


async def fresh_window(seconds: int, need: float) -> None:
    """Wait until a fixed clock window has at least ``need`` seconds left."""
    left = seconds - time.time() % seconds
    if left < need:
        await asyncio.sleep(left + 0.01)


async def test_order_count_limit_is_per_account(x: Bench) -> None:
    """300 orders in 10 s, then -1015; another account on the same connection goes on."""
    alice, bob = await x.accounts(accounts=[{"name": "alice"}, {"name": "bob"}])
    ws = await x.api()
    await fresh_window(10, 4)
    codes = []
    order = {**RESTING, "timeInForce": "IOC"}
    for number in range(302):
        await ws.send_json({"id": number, "method": "order.place", "params": signed_params(alice, order)})
    for _ in range(302):
        answer = await hear(ws)
        codes.append(answer["status"] if answer["status"] == 200 else (answer["status"], answer["error"]["code"]))
    assert codes == [200] * 300 + [(429, -1015)] * 2
    assert (await ask(ws, bob, "order.place", **order))["status"] == 200
    status, error, _ = await x.call(alice, "POST", "/fapi/v1/order", **order)
    assert (status, error["code"]) == (429, -1015)


async def test_request_weight_leads_to_429_then_to_a_ban(x: Bench) -> None:
    alice = await x.account()
    await fresh_window(60, 8)
    statuses = [(await x.call(None, "GET", "/fapi/v1/depth", symbol="BTCUSDT", limit=500))[0] for _ in range(240)]
    assert statuses == [200] * 240
    status, error, headers = await x.call(None, "GET", "/fapi/v1/ping")
    assert (status, error["code"]) == (429, -1003) and int(headers["Retry-After"]) > 0
    assert int(headers["X-MBX-USED-WEIGHT-1M"]) > 2400
    ws_status = {(await x.call(None, "GET", "/fapi/v1/ping"))[0] for _ in range(105)}
    assert ws_status == {429, 418}
    assert "banned until" in (await x.call(alice, "GET", "/fapi/v3/balance"))[1]["msg"]


async def test_lifted_limits_do_not_refuse_and_are_named() -> None:
    async with exchange(lift=frozenset({"orders", "request_weight"})) as x:
        alice = await x.account()
        ws = await x.api()
        await fresh_window(10, 4)
        for number in range(310):
            params = signed_params(alice, {**RESTING, "timeInForce": "IOC"})
            await ws.send_json({"id": number, "method": "order.place", "params": params})
        assert {(await hear(ws))["status"] for _ in range(310)} == {200}
        assert (await x.tell("GET", "/truth/stats"))["limits_lifted"] == ["orders", "request_weight"]


async def test_stream_connections_that_talk_too_much_are_closed(x: Bench) -> None:
    ws = await x.http.ws_connect(f"{x.ws}/public/ws")
    for number in range(25):
        await ws.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": number})
    closed = False
    for _ in range(30):
        message = await asyncio.wait_for(ws.receive(), 3)
        if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
            closed = True
            break
    assert closed


async def test_a_connection_carries_at_most_1024_streams(x: Bench) -> None:
    people = await x.accounts(n=1025, prefix="p-")
    keys = [x.exchange.streams.make_key(p["account"], x.exchange.wire.time_ns()) for p in people]
    ws = await x.http.ws_connect(f"{x.ws}/private/stream", max_msg_size=0)
    await ws.send_json({"method": "SUBSCRIBE", "params": keys[:1024], "id": 1})
    assert (await hear(ws)) == {"result": None, "id": 1}
    await ws.send_json({"method": "SUBSCRIBE", "params": keys[1024:], "id": 2})
    assert (await hear(ws))["error"]["code"] == 2


# -- control -------------------------------------------------------------------------------------------------------------


async def test_accounts_are_made_alike_or_listed_and_names_are_unique(x: Bench) -> None:
    many = await x.accounts(n=3, prefix="f-", first=10, balance="1234.5", leverage={"BTCUSDT": 5}, margin_type="ISOLATED")
    assert [a["name"] for a in many] == ["f-10", "f-11", "f-12"]
    assert len({a["api_key"] for a in many} | {a["secret"] for a in many}) == 6
    config = (await x.call(many[0], "GET", "/fapi/v1/symbolConfig", symbol="BTCUSDT"))[1][0]
    assert (config["leverage"], config["marginType"]) == (5, "ISOLATED")
    assert (await x.call(many[2], "GET", "/fapi/v3/balance"))[1][0]["balance"] == "1234.50000000"
    assert "f-11" in (await x.tell("POST", "/accounts", {"accounts": [{"name": "f-11"}]}))["error"]
    assert "error" in await x.tell("POST", "/accounts", {"n": 1, "balance": "lots"})
    assert "error" in await x.tell("POST", "/accounts", {"n": 1, "blance": "1"})


async def test_keys_follow_from_seed_and_name() -> None:
    async def keys() -> list[str]:
        async with exchange(makers=False) as x:
            return [a["api_key"] + a["secret"] for a in await x.accounts(n=3, prefix="k-")]

    assert await keys() == await keys()


async def test_equal_seeds_send_equal_maker_flow_whatever_the_clients_do() -> None:
    """The hash over everything the makers sent is the same after equally many steps, with and without someone trading."""

    async def flow(trade: bool) -> str:
        async with exchange(maker_ms=3_600_000) as x:
            alice = await x.account()
            ws = await x.api()
            for _ in range(20):
                if trade:
                    await ask(ws, alice, "order.place", **MARKET)
                await x.tell("POST", "/market", {"symbol": "BTCUSDT", "move_bps": 0})  # one step
            stats = await x.tell("GET", "/truth/stats")
            return f"{stats['maker_steps']} {stats['maker_flow_hash']}"

    assert await flow(True) == await flow(False)


async def test_marked_accounts_leave_a_record_of_the_equity_they_were_told(x: Bench) -> None:
    alice = await x.account(balance="500")
    await x.call(alice, "GET", "/fapi/v3/balance")
    await x.tell("POST", "/mark-account", {"account": "alice"})
    ws = await x.api()
    told = (await ask(ws, alice, "v2/account.status"))["result"]["totalMarginBalance"]
    assert [(r["account"], r["equity"]) for r in await x.tell("GET", "/truth/reads")] == [("alice", told)]
    assert "error" in await x.tell("POST", "/mark-account", {"account": "nobody"})


async def test_truth_is_paged_and_the_books_balance(x: Bench) -> None:
    people = await x.accounts(n=10, prefix="p-", balance="1000")
    ws = await x.api()
    for person in people:
        await ask(ws, person, "order.place", **MARKET)
    seen: list[dict[str, Any]] = []
    while page := await x.tell("GET", f"/truth/orders?limit=3&after={seen[-1]['seq'] if seen else -1}"):
        assert len(page) <= 3
        seen += page
    assert [o["account"] for o in seen] == [f"p-{n}" for n in range(10)]
    mine = await x.tell("GET", "/truth/orders?account=p-4")
    assert [o["orderId"] for o in mine] == [seen[4]["orderId"]]
    lots = {p["account"]: p["lots"] for p in await x.tell("GET", "/truth/positions")}
    assert all(lots[f"p-{n}"] == 10 for n in range(10))
    stats = await x.tell("GET", "/truth/stats")
    assert stats["books_balance"] and stats["orders_accepted"] == 10
    quotes = await x.tell("GET", "/truth/quotes?limit=5")
    assert quotes[0]["seq"] >= 0 and {"bid", "ask", "mark", "ts"} <= quotes[0].keys()
    assert [t["seq"] for t in await x.tell("GET", "/truth/trades?limit=2")] == [0, 1]


async def test_market_moves_where_it_is_told(x: Bench) -> None:
    moved = await x.tell("POST", "/market", {"symbol": "ETHUSDT", "price": "3100"})
    assert abs(float(moved["bid"]) - 3100) < 1 and float(moved["ask"]) > float(moved["bid"])
    up = await x.tell("POST", "/market", {"symbol": "ETHUSDT", "move_bps": 100})
    assert float(up["bid"]) > 3125
    assert (await x.tell("POST", "/market", {"symbol": "ETHUSDT", "mark": "3050.5"}))["mark"] == "3050.50"
    assert "error" in await x.tell("POST", "/market", {"symbol": "DOGE"})


def test_ten_thousand_accounts_that_listen_and_trade_fit_in_a_gigabyte() -> None:
    result = run(orders=10_000, accounts=10_000, connections=4, listen=True)
    assert result["checked"], result
    assert result["rss_bytes"] < 1 << 30, result


def test_a_taken_port_is_one_sentence_and_exit_69(tmp_path: pathlib.Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for option in ("--port", "--ws-port", "--control-port"):
            done = run_exchange(option, str(taken.getsockname()[1]))
            assert done.returncode == 69
            assert done.stderr.count("\n") == 1 and f"port {taken.getsockname()[1]}" in done.stderr


def test_an_unknown_limit_is_named_with_those_there_are() -> None:
    done = run_exchange("--lift", "gravity")
    assert done.returncode == 2 and "gravity" in done.stderr and "request_weight" in done.stderr


def test_sigterm_ends_it_cleanly_with_clients_connected() -> None:
    with running_exchange() as at:  # its exit code is checked on the way out
        socks = [socket.create_connection(("127.0.0.1", at["ports"][name])) for name in ("rest", "ws", "control")]
        import os

        os.kill(at["pid"], signal.SIGTERM)
        time.sleep(0.5)
        for sock in socks:
            sock.close()


def run_exchange(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "copyd.exchange.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_ready_file_says_where_everything_is(tmp_path: pathlib.Path) -> None:
    with running_exchange() as at:
        assert {"rest", "ws_api", "streams", "control", "pid", "ports", "seed", "limits_lifted"} <= at.keys()
        health = control(at, "GET", "/healthz")
        assert health["ports"] == at["ports"]
        assert orjson.dumps(at)
