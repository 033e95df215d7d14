"""The exchange's WebSocket side: API requests of many accounts on one connection, streams, listen keys, broken frames."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from tests.exchange.wire_client import MARKET, RESTING, Bench, ask, exchange, hear, silent
from tests.exchange.wire_helpers import signed_params


@pytest_asyncio.fixture
async def x() -> AsyncIterator[Bench]:
    async with exchange() as bench:
        yield bench


async def until(ws: aiohttp.ClientWebSocketResponse, event: str) -> list[dict[str, Any]]:
    """Messages up to and with the first event of this kind."""
    seen = []
    while not seen or seen[-1].get("data", seen[-1])["e"] != event:
        seen.append(await hear(ws))
    return seen


async def test_many_accounts_trade_on_one_connection(x: Bench) -> None:
    """Each request carries its own key and signature; answers say whose counts they are."""
    people = await x.accounts(n=5, prefix="p-", balance="1000")
    ws = await x.api()
    for number, person in enumerate(people):
        answer = await ask(ws, person, "order.place", f"r{number}", **MARKET)
        assert answer["id"] == f"r{number}" and answer["status"] == 200
        assert answer["result"]["status"] == "FILLED"
        limits = {(r["rateLimitType"], r["interval"]): r["count"] for r in answer["rateLimits"]}
        assert limits[("ORDERS", "SECOND")] == limits[("ORDERS", "MINUTE")] == 1
    orders = await x.tell("GET", "/truth/orders")
    assert [o["account"] for o in orders] == [f"p-{n}" for n in range(5)]
    mixed = {**people[0], "secret": people[1]["secret"]}
    assert (await ask(ws, mixed, "order.place", 9, **MARKET))["error"]["code"] == -1022


async def test_one_write_of_many_frames_is_answered_in_order(x: Bench) -> None:
    """A burst in one segment, even cut at any byte, is answered once each, in order."""
    alice = await x.account()
    reader, writer = await asyncio.open_connection("127.0.0.1", x.exchange.ports["ws"])
    writer.write(
        b"GET /ws-fapi/v1?returnRateLimits=false HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455's example key and its answer
    burst = b""
    for number in range(60):
        params = signed_params(alice, {**MARKET, "side": "BUY" if number % 2 else "SELL", "newClientOrderId": f"b{number}"})
        burst += masked(orjson.dumps({"id": number, "method": "order.place", "params": params}))
    for at in range(0, len(burst), 997):
        writer.write(burst[at : at + 997])
        await asyncio.sleep(0)
    for number in range(60):
        answer = orjson.loads(await next_text(reader))
        assert (answer["id"], answer["status"]) == (number, 200), answer
        assert "rateLimits" not in answer
        assert answer["result"]["clientOrderId"] == f"b{number}"
    writer.close()


def masked(payload: bytes, opcode: int = 1, fin: bool = True) -> bytes:
    """A client frame with a random mask."""
    key = os.urandom(4)
    size = len(payload)
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += b"\xfe" + struct.pack(">H", size)
    else:
        head += b"\xff" + struct.pack(">Q", size)
    return head + key + bytes(b ^ key[i & 3] for i, b in enumerate(payload))


async def next_text(reader: asyncio.StreamReader) -> bytes:
    return (await next_frame(reader))[1]


async def next_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await asyncio.wait_for(reader.readexactly(2), 3)
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8), "big")
    return first & 15, await reader.readexactly(size)


async def opened(x: Bench, path: str = "/ws-fapi/v1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", x.exchange.ports["ws"])
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked
        (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit
        (masked(b"x", opcode=3), 1002),  # unknown opcode
        (masked(b"x", opcode=0), 1002),  # continuation of nothing
        (masked(b"x", opcode=2), 1003),  # binary
        (masked(b"x" * 126, opcode=9), 1002),  # oversized ping
        (b"\x81\xff\0\0\0\1\0\0\0\0\0\0\0\0", 1009),  # 4 GiB announced
        (b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),
        (masked(b"y" * 600_000, fin=False) + masked(b"y" * 600_000, opcode=0, fin=False), 1009),
    ],
    ids=["unmasked", "reserved bit", "unknown opcode", "continuation", "binary", "long ping", "4 GiB", "2^64", "fragments"],
)
async def test_broken_frames_close_the_connection_with_their_code(x: Bench, frames: bytes, code: int) -> None:
    reader, writer = await opened(x)
    writer.write(frames)
    opcode, body = await next_frame(reader)
    assert (opcode, int.from_bytes(body[:2], "big")) == (8, code)
    assert await reader.read() == b""
    writer.close()
    assert (await x.tell("GET", "/healthz"))["status"] == "ok"


async def test_fragments_pings_and_close_are_answered(x: Bench) -> None:
    reader, writer = await opened(x)
    request = orjson.dumps({"id": "f", "method": "time"})
    writer.write(masked(request[:5], fin=False) + masked(b"hello", opcode=9) + masked(request[5:], opcode=0))
    assert await next_frame(reader) == (10, b"hello")
    assert orjson.loads(await next_text(reader))["status"] == 200
    writer.write(masked(struct.pack(">H", 1000) + b"bye", opcode=8))
    assert await next_frame(reader) == (8, struct.pack(">H", 1000) + b"bye")
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(
    "text",
    [
        b"no json",
        b"[]",
        b'{"id":1}',
        b'{"id":1,"method":7}',
        b'{"id":1,"method":"order.place","params":{"a":{}}}',
        b'{"id":1,"method":"order.place","params":{"a":1}',
        b'{"id":1,"method":"order.place","params":{"a":1,"a":2}}',
        b'{"id":1,"method":"order.place","params":{"apiKey":null}}',
        b'{"id":1,"method":"fly","params":{}}',
        b'{"id":null,"method":"order.place","params":[]}',
        b"\xff\xfe{}",
        b'{"id":' + b"[" * 500 + b"}",
    ],
)
async def test_malformed_requests_are_answered_not_obeyed(x: Bench, text: bytes) -> None:
    """Whatever text comes, there is one error answer and the connection lives on."""
    reader, writer = await opened(x)
    writer.write(masked(text) + masked(b'{"id":2,"method":"ping","params":{}}'))
    first = orjson.loads(await next_text(reader))
    assert first["status"] in (400, 401) and first["error"]["code"] < 0
    assert orjson.loads(await next_text(reader))["status"] == 200
    writer.close()


async def test_escaped_and_spaced_requests_mean_the_same(x: Bench) -> None:
    """The compiled reader takes only plain text; what a JSON decoder would read otherwise takes the careful path."""
    alice = await x.account()
    ws = await x.api()
    params = signed_params(alice, {**MARKET, "newClientOrderId": "a/b:c"})
    text = orjson.dumps({"id": "x", "method": "order.place", "params": params}).decode().replace("a/b:c", "a\\/b:c")
    await ws.send_str(text)
    assert (await hear(ws))["result"]["clientOrderId"] == "a/b:c"
    import json

    params = signed_params(alice, {**MARKET, "reduceOnly": False, "positionSide": "BOTH"})
    await ws.send_str(json.dumps({"method": "order.place", "params": params, "id": None}, indent=2))
    answer = await hear(ws)
    assert (answer["id"], answer["status"]) == (None, 200)


async def test_status_cancel_modify_and_account_over_the_api(x: Bench) -> None:
    alice = await x.account()
    ws = await x.api("?returnRateLimits=false")
    placed = (await ask(ws, alice, "order.place", **RESTING, newClientOrderId="m1"))["result"]
    assert placed["status"] == "NEW"
    changed = {"symbol": "BTCUSDT", "orderId": placed["orderId"], "side": "BUY", "quantity": "0.008", "price": "58001"}
    assert (await ask(ws, alice, "order.modify", **changed))["result"]["origQty"] == "0.008"
    assert (await ask(ws, alice, "order.modify", **changed))["error"]["code"] == -5027
    by_id = {"symbol": "BTCUSDT", "origClientOrderId": "m1"}
    assert (await ask(ws, alice, "order.status", **by_id))["result"]["price"] == "58001.00"
    assert (await ask(ws, alice, "order.cancel", **by_id))["result"]["status"] == "CANCELED"
    assert (await ask(ws, alice, "order.cancel", **by_id))["error"]["code"] == -2011
    nobody = {"symbol": "BTCUSDT", "origClientOrderId": "nobody"}
    assert (await ask(ws, alice, "order.status", **nobody))["error"]["code"] == -2013
    await ask(ws, alice, "order.place", **MARKET)
    assert (await ask(ws, alice, "v2/account.position"))["result"][0]["positionAmt"] == "0.010"
    assert (await ask(ws, alice, "v2/account.balance"))["result"][0]["asset"] == "USDT"
    assert float((await ask(ws, alice, "v2/account.status"))["result"]["totalMarginBalance"]) > 9000
    assert (await ask(ws, None, "v2/account.status"))["error"]["code"] == -2014


async def test_session_logon_takes_ed25519_only_and_spares_the_signature(x: Bench) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    alice = await x.account()
    eddy = await x.account("eddy", key_type="ed25519")
    private: Any = load_pem_private_key(eddy["secret"].encode(), None)
    ws = await x.api()
    assert (await ask(ws, alice, "session.logon"))["error"]["code"] == -4056
    params = {"apiKey": eddy["api_key"], "timestamp": int(time.time() * 1000)}
    import base64

    text = "&".join(f"{k}={params[k]}" for k in sorted(params))
    params["signature"] = base64.b64encode(private.sign(text.encode())).decode()
    logon = await ask(ws, None, "session.logon", **params)
    assert logon["result"]["apiKey"] == eddy["api_key"]
    bare = await ask(ws, None, "order.place", **MARKET, timestamp=int(time.time() * 1000))
    assert bare["status"] == 200
    other = await ask(ws, alice, "order.place", **MARKET)  # its own key and signature override the session's
    assert other["status"] == 200
    owners = [o["account"] for o in await x.tell("GET", "/truth/orders")]
    assert owners == ["eddy", "alice"]
    assert (await ask(ws, None, "session.logout"))["result"]["apiKey"] is None
    assert (await ask(ws, None, "order.place", **MARKET, timestamp=int(time.time() * 1000)))["error"]["code"] == -2014
    params["signature"] = "A" + params["signature"][1:]
    assert (await ask(ws, None, "session.logon", **params))["error"]["code"] == -1022


async def test_user_stream_tells_the_whole_life_of_an_order(x: Bench) -> None:
    """NEW, each execution twice (TRADE_LITE and TRADE, one trade id), then the account; the truth agrees."""
    alice = await x.account()
    stream = await x.user_stream(alice)
    ws = await x.api()
    placed = (await ask(ws, alice, "order.place", **MARKET, newClientOrderId="life"))["result"]
    seen = await until(stream, "ACCOUNT_UPDATE")
    orders = [e["o"] for e in seen if e["e"] == "ORDER_TRADE_UPDATE"]
    lites = [e for e in seen if e["e"] == "TRADE_LITE"]
    assert [o["x"] for o in orders] == ["NEW"] + ["TRADE"] * len(lites)
    assert {o["i"] for o in orders} == {placed["orderId"]} and {o["c"] for o in orders} == {"life"}
    assert [o["t"] for o in orders[1:]] == [e["t"] for e in lites]
    assert (orders[-1]["X"], orders[-1]["z"]) == ("FILLED", "0.010")
    account = seen[-1]["a"]
    assert account["m"] == "ORDER" and account["P"][0]["pa"] == "0.010"
    balance = (await x.tell("GET", "/truth/balances?account=alice"))[0]
    assert account["B"][0]["wb"] == balance["wallet"]
    trades = [t for t in await x.tell("GET", "/truth/trades") if t["buyer"] == "alice"]
    assert [(t["id"], t["price"], t["buyFee"]) for t in trades] == [(o["t"], o["L"], o["n"]) for o in orders[1:]]
    await ask(ws, alice, "order.place", **{**RESTING, "timeInForce": "IOC"})
    ended = [(await hear(stream))["o"] for _ in range(2)]
    assert [(o["x"], o["X"]) for o in ended] == [("NEW", "NEW"), ("EXPIRED", "EXPIRED")]
    await x.call(alice, "POST", "/fapi/v1/leverage", symbol="BTCUSDT", leverage=25)
    assert (await hear(stream))["ac"] == {"s": "BTCUSDT", "l": 25}


async def test_many_listen_keys_on_one_connection_are_told_apart_by_their_stream(x: Bench) -> None:
    people = await x.accounts(n=4, prefix="p-", balance="1000")
    keys = [(await x.call(p, "POST", "/fapi/v1/listenKey"))[1]["listenKey"] for p in people]
    wrapped = await x.http.ws_connect(f"{x.ws}/private/stream?streams={keys[0]}/{keys[1]}")
    await wrapped.send_json({"method": "SUBSCRIBE", "params": keys[2:], "id": 5})
    assert await hear(wrapped) == {"result": None, "id": 5}
    ws = await x.api()
    for person, key in zip(people, keys, strict=True):
        await ask(ws, person, "order.place", **MARKET)
        assert {e["stream"] for e in await until(wrapped, "ACCOUNT_UPDATE")} == {key}
    await wrapped.send_json({"method": "UNSUBSCRIBE", "params": keys[:1], "id": 6})
    assert await hear(wrapped) == {"result": None, "id": 6}
    await wrapped.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 7})
    assert (await hear(wrapped))["result"] == keys[1:]
    await ask(ws, people[0], "order.place", **MARKET)
    assert await silent(wrapped)


async def test_allow_list_of_events_and_listen_key_as_query(x: Bench) -> None:
    alice = await x.account()
    key = (await x.call(alice, "POST", "/fapi/v1/listenKey"))[1]["listenKey"]
    narrow = await x.http.ws_connect(f"{x.ws}/private/ws?listenKey={key}&events=TRADE_LITE/ACCOUNT_UPDATE")
    ws = await x.api()
    await ask(ws, alice, "order.place", **MARKET)
    assert {e["e"] for e in await until(narrow, "ACCOUNT_UPDATE")} == {"TRADE_LITE", "ACCOUNT_UPDATE"}


async def test_listen_key_lives_on_by_put_and_dies_by_time() -> None:
    async with exchange(listen_key_s=1.2) as x:
        alice = await x.account()
        stream = await x.user_stream(alice)
        first = (await x.call(alice, "POST", "/fapi/v1/listenKey"))[1]["listenKey"]
        assert (await x.call(alice, "PUT", "/fapi/v1/listenKey"))[1]["listenKey"] == first
        event = await hear(stream, 5)
        assert (event["e"], event["listenKey"]) == ("listenKeyExpired", first)
        assert (await x.call(alice, "PUT", "/fapi/v1/listenKey"))[1]["code"] == -1125
        second = (await x.call(alice, "POST", "/fapi/v1/listenKey"))[1]["listenKey"]
        assert second != first
        ws = await x.api()
        await ask(ws, alice, "order.place", **MARKET)
        assert await silent(stream)  # the old key's connection hears no more
        await x.call(alice, "DELETE", "/fapi/v1/listenKey")
        assert (await x.call(alice, "PUT", "/fapi/v1/listenKey"))[1]["code"] == -1125


async def test_market_streams_and_their_paths(x: Bench) -> None:
    """A stream on the wrong path is acknowledged and then silent; the old paths carry all."""
    alice = await x.account()
    ws = await x.api()
    book = await x.http.ws_connect(f"{x.ws}/public/ws/btcusdt@bookTicker")
    trades = await x.http.ws_connect(f"{x.ws}/market/stream?streams=btcusdt@aggTrade/btcusdt@markPrice@1s")
    wrong = await x.http.ws_connect(f"{x.ws}/private/ws")
    old = await x.http.ws_connect(f"{x.ws}/ws/btcusdt@aggTrade")
    await wrong.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@bookTicker", "nosuch@thing"], "id": 1})
    assert await hear(wrong) == {"result": None, "id": 1}
    await ask(ws, alice, "order.place", **MARKET)
    tick = await hear(book)
    assert tick["e"] == "bookTicker" and float(tick["b"]) < float(tick["a"])
    first = await hear(old)
    assert first["e"] == "aggTrade" and first["m"] is False
    kinds = set()
    while kinds != {"aggTrade", "markPriceUpdate"}:
        message = await hear(trades)
        kinds.add(message["data"]["e"])
        assert message["stream"].startswith("btcusdt@")
    assert await silent(wrong)


async def test_depth_changes_rebuild_the_book(x: Bench) -> None:
    """Snapshot plus diff events (each following on the one before) give the book that REST shows."""
    alice = await x.account()
    stream = await x.http.ws_connect(f"{x.ws}/public/ws/btcusdt@depth@100ms")
    partial = await x.http.ws_connect(f"{x.ws}/public/ws/btcusdt@depth5@100ms")
    assert len((await hear(partial))["b"]) == 5
    await hear(stream)
    snapshot = (await x.call(None, "GET", "/fapi/v1/depth", symbol="BTCUSDT", limit=1000))[1]
    book = {"b": dict(snapshot["bids"]), "a": dict(snapshot["asks"])}
    await x.call(alice, "POST", "/fapi/v1/order", **RESTING)
    last = None
    for _ in range(6):
        event = await hear(stream)
        assert last is None or event["pu"] == last
        last = event["u"]
        if last <= snapshot["lastUpdateId"]:
            continue
        for side in ("b", "a"):
            for px, qty in event[side]:
                if float(qty):
                    book[side][px] = qty
                else:
                    book[side].pop(px, None)
    now = (await x.call(None, "GET", "/fapi/v1/depth", symbol="BTCUSDT", limit=1000))[1]
    if now["lastUpdateId"] == last:
        assert book == {"b": dict(now["bids"]), "a": dict(now["asks"])}
    assert book["b"]["58000.00"] == "0.010"


async def test_liquidation_is_told_as_calculated(x: Bench) -> None:
    poor = await x.account("poor", balance="70", leverage=20)
    stream = await x.user_stream(poor)
    await x.call(poor, "POST", "/fapi/v1/order", **{**MARKET, "quantity": "0.020"})
    await until(stream, "ACCOUNT_UPDATE")
    moved = await x.tell("POST", "/market", {"symbol": "BTCUSDT", "mark_bps": -600})
    assert moved["liquidated"] == 1
    seen = [e["o"] for e in await until(stream, "ACCOUNT_UPDATE") if e["e"] == "ORDER_TRADE_UPDATE"]
    assert seen[0]["c"].startswith("autoclose-") and "CALCULATED" in {o["x"] for o in seen}


async def test_wrong_paths_and_plain_http_are_refused(x: Bench) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await x.http.ws_connect(f"{x.ws}/elsewhere")
    assert refused.value.status == 404
    async with x.http.get(f"http://127.0.0.1:{x.exchange.ports['ws']}/ws-fapi/v1") as response:
        assert response.status == 400


async def test_sockets_are_pinged_and_end_after_their_lifetime() -> None:
    async with exchange(session_s=2.0, ping_s=0.3) as x:
        reader, writer = await opened(x)
        kinds = []
        while 8 not in kinds:
            opcode, body = await next_frame(reader)
            kinds.append(opcode)
            if opcode == 9:
                writer.write(masked(body, opcode=10))
        assert 9 in kinds
        writer.close()
