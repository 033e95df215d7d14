"""The Bitget dialect over real sockets: refusals, limits, both APIs, and ccxt, unmodified, trading on it."""

from __future__ import annotations

import asyncio
import subprocess
import time
from typing import Any

import orjson
import pytest

from copyd.exchange.bitget import CLIENT_ID
from tests.exchange.bitget_bench import RATES, Account, Bench, exchange, say
from tests.exchange.wire_client import hear
from tests.exchange.wire_helpers import ROOT

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
SCRIPT = ROOT / "tests" / "exchange" / "clients" / "client_ccxt_bitget.py"
PLACE, PLACE_V3 = "/api/v2/mix/order/place-order", "/api/v3/trade/place-order"
DETAIL = "/api/v2/mix/order/detail?clientOid={}&productType=USDT-FUTURES&symbol=BTCUSDT"
V2 = {"symbol": "BTCUSDT", "productType": "USDT-FUTURES", "marginMode": "crossed", "marginCoin": "USDT", "size": "0.01",
      "side": "buy", "orderType": "market"}  # fmt: skip
V3 = {"category": "USDT-FUTURES", "symbol": "BTCUSDT", "qty": "0.01", "side": "buy", "orderType": "market"}
INFO = "/api/v2/spot/account/info"


@pytest.mark.parametrize("unified", [False, True], ids=["classic", "unified"])
async def test_unmodified_ccxt_trades_and_hears_about_it(unified: bool) -> None:
    """Which API it is, instruments, signed orders in both modes, cancel, lists, positions, private and public streams."""
    async with exchange(maker_ms=200) as x:
        account = await x.account("ccxt", balance="10000", rights={"unified": unified})
        at = orjson.dumps({"rest": x.rest, "ws": x.ws, "unified": unified, **account})
        process = await asyncio.create_subprocess_exec(
            PYTHON, "-P", SCRIPT, at, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = await asyncio.wait_for(process.communicate(), 90)
        assert process.returncode == 0, f"{out.decode()[-2000:]}\n{err.decode()[-4000:]}"
        assert out.decode().strip().endswith("ok")


async def refusal(
    x: Bench, account: Account | None, method: str, target: str, body: Any = None, **headers: str
) -> tuple[int, str]:
    status, answer, _ = await x.call(account, method, target, body, **headers)
    return status, answer["code"]


async def test_who_is_let_in() -> None:
    """Every missing header, an old stamp, an unknown key, a wrong signature, a wrong passphrase: each its own code."""
    async with exchange() as x:
        alice = await x.account()
        old = str(time.time_ns() // 10**6 - 31_000)
        near = str(time.time_ns() // 10**6 - 29_000)
        assert await refusal(x, alice, "GET", INFO) == (200, "00000")
        assert await refusal(x, alice, "GET", INFO, ACCESS_TIMESTAMP=near) == (200, "00000")
        for headers, code in (
            ({"ACCESS_KEY": ""}, "40001"), ({"ACCESS_SIGN": ""}, "40002"), ({"ACCESS_PASSPHRASE": ""}, "40011"),
            ({"ACCESS_TIMESTAMP": "soon"}, "40005"), ({"ACCESS_TIMESTAMP": old}, "40008"), ({"ACCESS_KEY": "nobody"}, "40037"),
            ({"ACCESS_SIGN": "AAAA"}, "40009"), ({"ACCESS_PASSPHRASE": "wrong"}, "40012"),
        ):  # fmt: skip
            assert await refusal(x, alice, "GET", INFO, **headers) == (400, code), headers
        assert await refusal(x, alice, "GET", "/api/v2/nothing") == (404, "40404")


async def test_rights_of_a_key() -> None:
    """A key bound to other addresses is refused, one that may only read places nothing, and the key is told what it may."""
    async with exchange() as x:
        bound = await x.account("bound", rights={"ips": "10.0.0.1, 10.0.0.2"})
        reader = await x.account("reader", rights={"authorities": ["coor", "cpor"], "ips": "127.0.0.1"})
        assert await refusal(x, bound, "GET", INFO) == (400, "40038")
        assert await refusal(x, reader, "POST", PLACE, V2) == (400, "40014")
        told = await x.good(reader, "GET", INFO)
        assert (told["authorities"], told["ips"]) == (["coor", "cpor"], "127.0.0.1")
        unified = await x.account("unified", rights={"unified": True, "permissions": ["uta_trade"], "permType": "read-only"})
        assert await refusal(x, unified, "POST", PLACE_V3, V3) == (400, "25620")
        assert (await x.good(unified, "GET", "/api/v3/account/info"))["permType"] == "read-only"


async def test_the_two_kinds_of_account() -> None:
    """A unified account gets 40085 from v2 even with a wrong signature, a classic one none of v3; v2's socket lets both in."""
    async with exchange() as x:
        classic, unified = await x.account(), await x.account("bob", rights={"unified": True})
        assert await refusal(x, unified, "GET", INFO, ACCESS_SIGN="AAAA") == (400, "40085")
        assert await refusal(x, classic, "GET", "/api/v3/account/settings") == (400, "25245")
        await x.private(unified, "orders")
        await x.private(classic, "orders")


async def test_orders_of_a_one_way_account() -> None:
    """Accepted is not matched: the answer names the order, the detail its state; reduce-only is cut to what there is."""
    async with exchange() as x:
        alice = await x.account()
        placed = await x.good(alice, "POST", PLACE, {**V2, "clientOid": "one"})
        assert placed.keys() == {"orderId", "clientOid"} and placed["clientOid"] == "one"
        told = await x.good(alice, "GET", DETAIL.format("one"))
        assert (told["state"], told["posSide"], told["tradeSide"], told["baseVolume"]) == ("filled", "net", "buy_single", "0.01")
        assert "status" not in told
        # twice as much as is held: cut to it
        close = {**V2, "side": "sell", "size": "0.02", "reduceOnly": "YES", "clientOid": "two"}
        await x.good(alice, "POST", PLACE, close)
        assert (await x.good(alice, "GET", DETAIL.format("two")))["baseVolume"] == "0.01"
        assert await refusal(x, alice, "POST", PLACE, {**close, "clientOid": "three"}) == (400, "22002")
        assert await refusal(x, alice, "GET", DETAIL.format("three")) == (400, "40109")


async def test_orders_of_a_two_sided_account() -> None:
    """v2 names the position in "side" and closes a long with "buy"; more than is held is refused, and so is "neither"."""
    async with exchange() as x:
        alice = await x.account(hedge=True)
        await x.good(alice, "POST", PLACE, {**V2, "tradeSide": "open"})
        assert await refusal(x, alice, "POST", PLACE, V2) == (400, "40774")
        assert await refusal(x, alice, "POST", PLACE, {**V2, "tradeSide": "close", "size": "0.02"}) == (400, "40757")
        assert await refusal(x, alice, "POST", PLACE, {**V2, "side": "sell", "tradeSide": "close"}) == (400, "22002")
        # ccxt writes it with a capital
        await x.good(alice, "POST", PLACE, {**V2, "tradeSide": "Close", "clientOid": "c"})
        assert (await x.good(alice, "GET", "/api/v2/mix/position/all-position?productType=USDT-FUTURES")) == []
        listed = (await x.good(alice, "GET", "/api/v2/mix/order/fills?productType=USDT-FUTURES&symbol=BTCUSDT"))["fillList"]
        assert {(row["side"], row["tradeSide"], row["posMode"]) for row in listed} == {
            ("buy", "open", "hedge_mode"), ("buy", "close", "hedge_mode")}  # fmt: skip


async def test_the_fill_channel_names_what_was_done() -> None:
    """Closing a long on a two-sided account: "buy" in the orders channel, "sell" in the fill channel."""
    async with exchange() as x:
        alice = await x.account(hedge=True)
        await x.good(alice, "POST", PLACE, {**V2, "tradeSide": "open"})
        ws = await x.private(alice, "orders", "fill")
        await x.good(alice, "POST", PLACE, {**V2, "tradeSide": "close", "clientOid": "c"})
        frames = [await hear(ws) for _ in range(3)]
        assert [(f["arg"]["channel"], f["data"][0]["side"], f["data"][0]["tradeSide"]) for f in frames] == [
            ("orders", "buy", "close"), ("orders", "buy", "close"), ("fill", "sell", "close")]  # fmt: skip
        assert [f["data"][0]["status"] for f in frames[:2]] == ["live", "filled"]
        assert frames[1]["data"][0]["posSide"] == "long" and frames[2]["data"][0]["clientOid"] == "c"


async def test_orders_of_a_unified_account() -> None:
    """v3 names what is done in "side": with the wrong posSide the opposite position is opened, and the answer is a success."""
    async with exchange() as x:
        alice = await x.account(hedge=True, rights={"unified": True})
        await x.good(alice, "POST", PLACE_V3, {**V3, "posSide": "long", "clientOid": "a"})
        await x.good(alice, "POST", PLACE_V3, {**V3, "side": "sell", "posSide": "short", "clientOid": "b"})
        held = (await x.good(alice, "GET", "/api/v3/position/current-position?category=USDT-FUTURES"))["list"]
        assert {row["posSide"] for row in held} == {"long", "short"}
        assert await refusal(x, alice, "POST", PLACE_V3, V3) == (400, "25236")
        await x.good(alice, "POST", PLACE_V3, {**V3, "side": "sell", "posSide": "long"})
        await x.good(alice, "POST", PLACE_V3, {**V3, "posSide": "short"})
        held = await x.good(alice, "GET", "/api/v3/position/current-position?category=USDT-FUTURES")
        assert held == {"list": None}  # nothing is null, not an empty list
        assert (await x.good(alice, "GET", "/api/v3/trade/unfilled-orders?category=USDT-FUTURES"))["list"] == []


async def test_an_id_is_unique_among_open_orders_only() -> None:
    """A repeat is refused while the first is open; once it has ended the same id makes a second order."""
    async with exchange() as x:
        alice = await x.account()
        resting = {**V2, "orderType": "limit", "price": "58000", "force": "GTC", "clientOid": "same"}
        first = await x.good(alice, "POST", PLACE, resting)
        assert await refusal(x, alice, "POST", PLACE, resting) == (400, "40786")
        cancel = {"symbol": "BTCUSDT", "productType": "USDT-FUTURES", "clientOid": "same"}
        assert (await x.good(alice, "POST", "/api/v2/mix/order/cancel-order", cancel))["orderId"] == first["orderId"]
        assert await refusal(x, alice, "POST", "/api/v2/mix/order/cancel-order", cancel) == (400, "40768")
        second = await x.good(alice, "POST", PLACE, resting)
        assert second["orderId"] != first["orderId"]
        assert not CLIENT_ID.fullmatch("x" * 33)
        assert await refusal(x, alice, "POST", PLACE, {**resting, "clientOid": "x" * 33}) == (400, "40305")


async def test_batches_answer_order_by_order() -> None:
    """Good and bad orders of a batch stand in two lists; twenty fit, twenty-one do not."""
    async with exchange() as x:
        alice = await x.account()
        head = {name: V2[name] for name in ("symbol", "productType", "marginMode", "marginCoin")}
        row = {"side": "buy", "orderType": "market", "size": "0.01"}
        batch = "/api/v2/mix/order/batch-place-order"
        told = await x.good(alice, "POST", batch, {**head, "orderList": [{**row, "clientOid": "g"}, {**row, "size": "900"}]})
        assert [one["clientOid"] for one in told["successList"]] == ["g"]
        assert [one["errorCode"] for one in told["failureList"]] == ["45112"]
        assert (await refusal(x, alice, "POST", batch, {**head, "orderList": [row] * 21})) == (400, "40306")


async def test_limits_of_account_and_address() -> None:
    """Ten orders a second and account, and a budget per address: HTTP 429, with what is left of the address's in the header."""
    async with exchange(lift=RATES - {"orders"}) as x:
        alice, bob = await x.account(), await x.account("bob")
        statuses = [(await x.call(alice, "POST", PLACE, V2))[0] for _ in range(11)]
        assert statuses == [200] * 10 + [429]
        status, answer, headers = await x.call(alice, "POST", PLACE, V2)
        assert (status, answer["code"]) == (429, "429") and int(headers["x-mbx-used-remain-limit"]) > 5_000
        await x.good(bob, "POST", PLACE, V2)
        await x.tell("POST", "/limits", {"limit": "address", "count": 5})
        status, _, headers = await x.call(bob, "GET", INFO)
        assert (status, headers["x-mbx-used-remain-limit"]) == (429, "0")


async def test_connections_of_one_address() -> None:
    """So many connections are open at a time and no more; so many messages a second, then the connection is closed."""
    async with exchange(lift=RATES - {"messages"}) as x:
        await x.tell("POST", "/limits", {"limit": "connections", "count": 2})
        url = x.ws + "/v2/ws/public"
        first, _ = [await x.http.ws_connect(url) for _ in range(2)]
        with pytest.raises(Exception, match="404"):
            await x.http.ws_connect(url)
        await first.send_str("ping")
        assert (await first.receive()).data == "pong"
        for _ in range(20):
            await first.send_str("ping")
        seen = [await first.receive() for _ in range(12)]
        assert any('"code":30007' in str(message.data) for message in seen) and first.close_code == 1008


async def test_what_a_socket_refuses() -> None:
    """A wrong login, a subscription before it, a channel that is not, no JSON: each its code, and the connection stays."""
    async with exchange() as x:
        alice = await x.account()
        ws = await x.http.ws_connect(x.ws + "/v2/ws/private")
        login = {"apiKey": alice["api_key"], "passphrase": "p", "timestamp": str(int(time.time())), "sign": "AAAA"}
        arg = {"instType": "USDT-FUTURES", "channel": "orders", "instId": "default"}
        for message, code in (
            ({"op": "login", "args": [login]}, 30015), ({"op": "login", "args": [{**login, "apiKey": "nobody"}]}, 30011),
            ({"op": "login", "args": [{**login, "timestamp": "1700000000"}]}, 30014), ({"op": "subscribe", "args": [arg]}, 30004),
            ({"op": "dance", "args": [arg]}, 30003), ({"op": "login"}, 30016),
        ):  # fmt: skip
            await say(ws, **message)
            assert (await hear(ws))["code"] == code
        await ws.send_str("{")
        assert (await hear(ws))["code"] == 30016
        ws = await x.private(alice)
        await say(ws, op="subscribe", args=[{**arg, "channel": "gossip"}])
        told = await hear(ws)
        assert (told["event"], told["code"], told["arg"]["channel"]) == ("error", 30001, "gossip")


async def test_orders_over_the_socket_need_approval() -> None:
    """The order socket refuses an account that is not approved, and serves one that is, in the words of each API."""
    async with exchange() as x:
        plain, approved = await x.account(), await x.account("bob", rights={"ws_orders": True})
        unified = await x.account("carol", rights={"ws_orders": True, "unified": True})
        params = {"orderType": "market", "side": "buy", "size": "0.01", "marginCoin": "USDT", "marginMode": "crossed",
                  "clientOid": "w"}  # fmt: skip
        arg = {"id": "w", "instType": "USDT-FUTURES", "instId": "BTCUSDT", "channel": "place-order", "params": params}
        for account, event, code in ((plain, "error", 40014), (approved, "trade", 0)):
            ws = await x.private(account)
            await say(ws, op="trade", args=[arg])
            told = await hear(ws)
            assert (told["event"], told["code"], told["arg"][0]["params"]["clientOid"]) == (event, code, "w")
        ws = await x.private(unified, v3=True)
        v3 = {"symbol": "BTCUSDT", "qty": "0.01", "side": "buy", "orderType": "market", "clientOid": "w"}
        await say(ws, op="trade", id="w", category="usdt-futures", topic="place-order", args=[v3])
        told = await hear(ws)
        assert (told["event"], told["code"], told["args"][0]["clientOid"]) == ("trade", "0", "w")


async def test_a_liquidation_is_written_as_the_venue_writes_it() -> None:
    """The venue's own order says so by its side, its source and its origin, to the account whose position is closed."""
    async with exchange() as x:
        alice = await x.account(balance="700", leverage={"BTCUSDT": 20})
        await x.good(alice, "POST", PLACE, {**V2, "size": "0.1"})
        ws = await x.private(alice, "orders")
        await x.tell("POST", "/market", {"symbol": "BTCUSDT", "mark": "52000"})
        row = (await hear(ws))["data"][0]
        assert (row["tradeSide"], row["enterPointSource"], row["side"]) == ("burst_sell_single", "SYS", "sell")


async def test_funding_and_transfers_are_bills() -> None:
    """What was paid in and what funding cost, by the venue's names, newest first, paged; never more than thirty days at once."""
    async with exchange() as x:
        alice = await x.account()
        await x.good(alice, "POST", PLACE, V2)
        await x.tell("POST", "/market", {"symbol": "BTCUSDT", "funding_ppm": 100})
        await x.tell("POST", "/deposit", {"account": "alice", "amount": "-5"})
        bills = "/api/v2/mix/account/bill?productType=USDT-FUTURES&limit={}"
        told = await x.good(alice, "GET", bills.format(2))
        assert [row["businessType"] for row in told["bills"]] == ["trans_to_exchange", "contract_settle_fee"]
        rest = await x.good(alice, "GET", bills.format(9) + f"&idLessThan={told['endId']}")
        assert [row["businessType"] for row in rest["bills"]] == ["trans_from_exchange"]
        assert await refusal(x, alice, "GET", bills.format(9) + "&startTime=1&endTime=2700000000") == (400, "00001")
