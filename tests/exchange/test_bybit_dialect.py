"""The Bybit dialect over real sockets: keys, orders, ids, horizons, limits, streams, and clients written by others."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.exchange.bybit import ENGINE_CODES, LATE_REFUSALS, TEXTS, Dialect, sign
from copyd.exchange.dialect import Request
from copyd.exchange.host import Host, Options
from copyd.exchange.model import REFUSALS
from tests.exchange.bybit_bench import ALL, LINEAR, MARKET, RESTING, exchange, say
from tests.exchange.wire_client import hear
from tests.exchange.wire_helpers import ROOT, make_accounts, running_exchange

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
SCRIPTS = ROOT / "tests" / "exchange" / "clients"
DAY_NS = 86_400 * 10**9


# -- clients written by others ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def process() -> Iterator[dict[str, Any]]:
    with running_exchange("--dialect", "bybit") as at:
        yield at


@pytest.mark.parametrize("client", ["pybit", "ccxt_bybit"])
def test_unmodified_client_trades_and_hears_about_it(process: dict[str, Any], client: str) -> None:
    """Instruments, signed market and limit orders over REST and the order socket, batches, cancels, amends, positions,
    executions, and the private stream."""
    if not PYTHON.exists():
        pytest.fail("the clients' virtual environment is missing: run `make clients-venv`", pytrace=False)
    account = make_accounts(process, accounts=[{"name": client, "balance": "10000"}])[0]
    at = {**{k: process[k] for k in ("rest", "ws")}, **account}
    done = subprocess.run(
        [PYTHON, "-P", SCRIPTS / f"client_{client}.py", orjson.dumps(at)], capture_output=True, text=True, timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{client}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert done.stdout.strip().endswith("ok")


# -- keys ---------------------------------------------------------------------------------------------------------------------
async def test_a_signature_is_over_the_raw_bytes() -> None:
    """A body with spaces is signed as it was sent; another byte, another key or no key is refused, with HTTP 200."""
    async with exchange() as x:
        alice = await x.account()
        body = orjson.dumps(MARKET).replace(b",", b", ")
        assert (await x.raw(alice, "POST", "/v5/order/create", body=body))[1]["retCode"] == 0
        status, answer, _ = await x.raw({**alice, "secret": "other"}, "POST", "/v5/order/create", body=body)
        assert (status, answer["retCode"]) == (200, 10004)
        assert (await x.raw(alice, "POST", "/v5/order/create", body=body, key="nobody"))[1]["retCode"] == 10003
        assert (await x.raw(None, "GET", "/v5/account/info"))[1]["retCode"] == 10003
        assert (await x.raw(alice, "GET", "/v5/nothing"))[0] == 404


@pytest.mark.parametrize(("off_ms", "code"), [(-4_000, 0), (-6_000, 10002), (900, 0), (1_500, 10002)])
async def test_a_stamp_is_taken_within_its_window(off_ms: int, code: int) -> None:
    """Not older than the window, less than a second ahead."""
    async with exchange() as x:
        alice = await x.account()
        answer = (await x.raw(alice, "GET", "/v5/account/info", stamp=str(x.now_ms() + off_ms)))[1]
        assert answer["retCode"] == code


@pytest.mark.parametrize(
    ("rights", "reads", "trades"),
    [({}, 0, 0), ({"readOnly": 1}, 0, 10005), ({"permissions": {"ContractTrade": []}}, 0, 10005),
     ({"ips": ["10.9.8.7"]}, 10010, 10010), ({"ips": ["127.0.0.1"]}, 0, 0), ({"expired": True}, 33004, 33004)],
)  # fmt: skip
async def test_what_a_key_may_not_do_is_refused(rights: dict[str, Any], reads: int, trades: int) -> None:
    """Reading, trading, and from where; the key itself is told what it may."""
    async with exchange() as x:
        alice = await x.account(rights=rights)
        told = await x.get(alice, "/v5/user/query-api")
        assert told["retCode"] == reads and (await x.place(alice))["retCode"] == trades
        for name in rights if not reads else ():
            assert told["result"][name] == rights[name]


async def test_a_login_is_answered_in_the_words_of_its_connection() -> None:
    """Events without a code, orders with one; a second login, a wrong signature, a passed moment and a stranger are refused."""
    async with exchange() as x:
        alice = await x.account()
        private, trade = await x.login(alice), await x.login(alice, "/v5/trade")
        await say(trade, op="auth", args=[alice["api_key"], x.now_ms() + 5_000, "00"])
        assert (await hear(trade))["retCode"] == 20001
        await say(private, op="auth", args=[alice["api_key"], x.now_ms() + 5_000, "00"])
        assert (await hear(private))["success"] is False
        ws = await x.http.ws_connect(x.ws + "/v5/trade")
        for args, code in (([alice["api_key"], x.now_ms() + 5_000, "00"], 10004), (["nobody", x.now_ms() + 5_000, "00"], 10003),
                           ([alice["api_key"], x.now_ms() - 1, "00"], 10001), (["x"], 10001)):  # fmt: skip
            await say(ws, op="auth", args=args)
            assert (await hear(ws))["retCode"] == code
        assert (await x.ask(ws, "order.create", "a", MARKET))["retCode"] == 10007


# -- orders -------------------------------------------------------------------------------------------------------------------
async def test_an_answer_is_an_acceptance_and_the_stream_says_the_rest() -> None:
    """The thin execution first, then the whole one under the same id, the order, the position and the wallet."""
    async with exchange() as x:
        alice = await x.account()
        stream, trade = await x.stream(alice), await x.login(alice, "/v5/trade")
        answer = await x.ask(trade, "order.create", "r1", {**MARKET, "orderLinkId": "mine"})
        assert (answer["retCode"], answer["reqId"], answer["data"]["orderLinkId"]) == (0, "r1", "mine")
        assert answer["header"]["X-Bapi-Limit"] == "10" and "status" not in answer["data"]
        heard: dict[str, dict[str, Any]] = {}
        while "wallet" not in heard:  # the end of an order may be said twice
            message = await hear(stream)
            heard.setdefault(message["topic"], message["data"][0])
        assert list(heard) == ["execution.fast", "execution", "order", "position", "wallet"]
        fast, whole, order, position, _ = heard.values()
        assert fast["execId"] == whole["execId"] and "execFee" not in fast and whole["execFee"] != "0"
        assert (order["orderStatus"], order["cumExecQty"], order["orderLinkId"]) == ("Filled", "0.010", "mine")
        assert (position["size"], position["side"], position["positionIdx"]) == ("0.010", "Buy", 0)
        assert answer["data"]["orderId"] == order["orderId"] == whole["orderId"]


async def test_the_thin_channel_names_our_id_for_takers_only() -> None:
    """Of a maker's execution the id is empty there, and stands in the whole one."""
    async with exchange() as x:
        alice, bob = await x.account(), await x.account("bob")
        stream = await x.stream(alice, "execution.fast", "execution")
        await x.place(alice, RESTING, orderLinkId="resting", price="59999.9")
        await x.place(bob, side="Sell")
        fast, whole = await hear(stream), await hear(stream)
        assert (fast["data"][0]["orderLinkId"], fast["data"][0]["isMaker"]) == ("", True)
        assert whole["data"][0]["orderLinkId"] == "resting"


async def test_a_client_id_is_never_free_again() -> None:
    """Neither after its order has filled, nor after a cancel, nor over the other way; a refused order takes none."""
    async with exchange() as x:
        alice = await x.account()
        assert (await x.place(alice, orderLinkId="once", qty="0.0001"))["retCode"] == 10001
        assert (await x.place(alice, orderLinkId="once"))["retCode"] == 0
        assert (await x.place(alice, orderLinkId="once"))["retCode"] == 110072
        trade = await x.login(alice, "/v5/trade")
        assert (await x.ask(trade, "order.create", "1", {**MARKET, "orderLinkId": "once"}))["retCode"] == 110072
        bob = await x.account("bob")
        assert (await x.place(bob, orderLinkId="once"))["retCode"] == 0  # another account's ids are its own
        x.clock.ahead_ns = 10 * DAY_NS
        assert (await x.place(alice, orderLinkId="once"))["retCode"] == 110072


@pytest.mark.parametrize("name", ["a" * 37, "with space", "slash/", "point."])
async def test_a_client_id_has_an_alphabet_and_a_length(name: str) -> None:
    """Up to 36 letters, digits, dashes and underscores."""
    async with exchange() as x:
        assert (await x.place(await x.account(), orderLinkId=name))["retCode"] == 10001


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"qty": "0"}, 10001), ({"qty": "0.0001"}, 10001), ({"qty": "x"}, 10001), ({"qty": "100000"}, 10001),
        ({"symbol": "NOSUCH"}, 10001), ({"side": "Up"}, 10001), ({"orderType": "Stop"}, 10001), ({"category": "option"}, 10001),
        ({"orderType": "Limit", "price": "60000.05"}, 10001), ({"orderType": "Limit", "price": "70000"}, 110003),
        ({"orderType": "Limit"}, 10001), ({"reduceOnly": True}, 110017), ({"positionIdx": 1}, 10001), ({"positionIdx": 3}, 10001),
        ({"orderType": "Limit", "price": "58000", "qty": "100"}, 110007), ({"triggerPrice": "1"}, 10001),
        ({"timeInForce": "NOW", "orderType": "Limit", "price": "58000"}, 10001),
    ],
)  # fmt: skip
async def test_refusals_at_the_door(fields: dict[str, Any], code: int) -> None:
    """With the venue's own codes, HTTP 200, and in the truth."""
    async with exchange() as x:
        alice = await x.account(balance="10000")
        answer = await x.place(alice, **fields)
        assert answer["retCode"] == code, answer
        assert x.host.refusals[-1]["code"] == code and x.host.refusals[-1]["account"] == "alice"


def test_every_refusal_of_the_engine_has_a_code_here() -> None:
    """None falls through, and each code has a text."""
    not_of_orders = {-4050, -4051, -4054, -5013}  # moving margin and money by hand
    assert set(REFUSALS) - not_of_orders == set(ENGINE_CODES) | set(LATE_REFUSALS)
    assert {code for code, _ in ENGINE_CODES.values()} <= TEXTS.keys()


async def test_a_notional_below_the_minimum_is_refused_but_not_of_a_reduction() -> None:
    """As the venue does: what only closes may be small."""
    async with exchange() as x:
        alice = await x.account()
        tiny = {**LINEAR, "symbol": "ETHUSDT", "side": "Buy", "orderType": "Market", "qty": "0.001"}
        assert (await x.place(alice, tiny))["retCode"] == 110094
        assert (await x.place(alice, tiny, qty="0.010"))["retCode"] == 0
        assert (await x.place(alice, tiny, side="Sell", reduceOnly=True))["retCode"] == 0


async def test_a_reduce_only_order_is_cut_to_the_position() -> None:
    """One-way: larger than what is held, it closes that; qty 0 that may only close does the same."""
    async with exchange() as x:
        alice = await x.account()
        for close in ({"qty": "5"}, {"qty": "0", "closeOnTrigger": True}):
            await x.place(alice)
            assert (await x.place(alice, side="Sell", reduceOnly=True, **close))["retCode"] == 0
            assert (await x.rows(alice, "/v5/position/list"))[0]["size"] == "0.000"
            order = (await x.rows(alice, "/v5/order/history"))[0]
            assert (order["qty"], order["cumExecQty"], order["reduceOnly"]) == ("0.010", "0.010", True)


async def test_hedge_mode_keeps_a_position_per_side() -> None:
    """Long is 1, short is 2; the closing side reduces and no more; an order of the other mode is refused."""
    async with exchange() as x:
        alice = await x.account()
        for code in (0, 110025):
            answer = await x.post(alice, "/v5/position/switch-mode", {"category": "linear", "coin": "USDT", "mode": 3})
            assert answer["retCode"] == code
        assert (await x.place(alice))["retCode"] == 10001
        for fields in ({"positionIdx": 1}, {"positionIdx": 2, "side": "Sell", "qty": "0.02"}):
            assert (await x.place(alice, **fields))["retCode"] == 0
        held = [(r["positionIdx"], r["side"], r["size"]) for r in await x.rows(alice, "/v5/position/list")]
        assert held == [(1, "Buy", "0.010"), (2, "Sell", "0.020")]
        assert (await x.place(alice, positionIdx=1, reduceOnly=True))["retCode"] == 110017
        assert (await x.place(alice, positionIdx=1, side="Sell", qty="0.02", reduceOnly=True))["retCode"] == 110017
        assert (await x.place(alice, positionIdx=1, side="Sell", reduceOnly=True))["retCode"] == 0
        assert (await x.place(alice, positionIdx=2, side="Buy", qty="0.02"))["retCode"] == 0
        rows = await x.rows(alice, "/v5/execution/list")
        assert [row["closedSize"] for row in rows] == ["0.020", "0.010", "0.000", "0.000"]
        assert all("positionIdx" not in row for row in rows)
        switched = await x.post(alice, "/v5/position/switch-mode", {"category": "linear", "symbol": "BTCUSDT", "mode": 0})
        assert switched["retCode"] == 0


async def test_an_order_that_the_matching_engine_refuses_was_accepted_before() -> None:
    """Post-only that would take, fill-or-kill that cannot: accepted, then told cancelled, and found by every query."""
    async with exchange() as x:
        alice = await x.account()
        stream = await x.stream(alice, "order")
        for n, (fields, reason) in enumerate((
            ({"timeInForce": "PostOnly", "price": "60100"}, "EC_PostOnlyWillTakeLiquidity"),
            ({"timeInForce": "FOK", "price": "58500"}, "EC_NoImmediateQtyToFill"),
        )):  # fmt: skip
            answer = await x.place(alice, RESTING, orderLinkId=f"late{n}", **fields)
            assert answer["retCode"] == 0
            row = (await hear(stream))["data"][0]
            assert (row["orderStatus"], row["rejectReason"], row["cumExecQty"]) == ("Cancelled", reason, "0.000")
            assert row["orderId"] == answer["result"]["orderId"]
            for path in ("/v5/order/realtime", "/v5/order/history"):
                assert [r["orderId"] for r in await x.rows(alice, path, orderLinkId=f"late{n}")] == [row["orderId"]]
            assert (await x.place(alice, orderLinkId=f"late{n}"))["retCode"] == 110072


async def test_an_ioc_order_that_finds_nothing_ends_cancelled() -> None:
    """Its end says why."""
    async with exchange() as x:
        alice = await x.account()
        await x.place(alice, RESTING, timeInForce="IOC", orderLinkId="ioc")
        (row,) = await x.rows(alice, "/v5/order/realtime", orderLinkId="ioc")
        assert (row["orderStatus"], row["rejectReason"], row["leavesQty"]) == ("Cancelled", "EC_NoImmediateQtyToFill", "0.000")


async def test_batches_are_answered_order_by_order() -> None:
    """The whole with 0, each order with its own code, over REST and the order socket; more than 20 are refused whole."""
    async with exchange() as x:
        alice = await x.account()
        orders = [{k: v for k, v in RESTING.items() if k != "category"} for _ in range(2)] + [{"symbol": "BTCUSDT", "side": "Up"}]
        answer = await x.post(alice, "/v5/order/create-batch", {"category": "linear", "request": orders})
        assert (answer["retCode"], [row["code"] for row in answer["retExtInfo"]["list"]]) == (0, [0, 0, 10001])
        ids = [{"symbol": "BTCUSDT", "orderId": row["orderId"]} for row in answer["result"]["list"][:2]]
        trade = await x.login(alice, "/v5/trade")
        answer = await x.ask(trade, "order.cancel-batch", "b", {"category": "linear", "request": [*ids, ids[0]]})
        assert (answer["retCode"], [row["code"] for row in answer["retExtInfo"]["list"]]) == (0, [0, 0, 110001])
        assert (await x.post(alice, "/v5/order/create-batch", {"category": "linear", "request": orders * 7}))["retCode"] == 10001


async def test_amend_and_cancel_by_either_id() -> None:
    """A changed price is a state of the same order; a second cancel finds nothing."""
    async with exchange() as x:
        alice = await x.account()
        stream = await x.stream(alice, "order")
        made = (await x.place(alice, RESTING, orderLinkId="mine"))["result"]["orderId"]
        assert (await x.post(alice, "/v5/order/amend", {**LINEAR, "orderLinkId": "mine", "price": "58600"}))["retCode"] == 0
        assert (await x.post(alice, "/v5/order/cancel", {**LINEAR, "orderId": made}))["retCode"] == 0
        assert (await x.post(alice, "/v5/order/cancel", {**LINEAR, "orderId": made}))["retCode"] == 110001
        heard = [(await hear(stream))["data"][0] for _ in range(3)]
        assert [(m["orderStatus"], m["price"]) for m in heard] == [
            ("New", "58500.00"), ("New", "58600.00"), ("Cancelled", "58600.00")]


# -- what can be asked --------------------------------------------------------------------------------------------------------
async def test_horizons_of_orders() -> None:
    """Unfilled ones leave the history after a day; filled ones stay; one still open stays open; another account's is no one's."""
    async with exchange() as x:
        alice, bob = await x.account(), await x.account("bob")
        await x.place(alice, orderLinkId="filled")
        await x.place(alice, RESTING, orderLinkId="open")
        await x.place(alice, RESTING, orderLinkId="gone")
        await x.post(alice, "/v5/order/cancel", {**LINEAR, "orderLinkId": "gone"})

        async def found(path: str, who: dict[str, Any] = alice) -> list[str]:
            return [n for n in ("filled", "open", "gone") if await x.rows(who, path, orderLinkId=n)]

        assert await found("/v5/order/realtime") == ["filled", "open", "gone"]
        assert await found("/v5/order/history") == ["filled", "gone"]
        assert await found("/v5/order/realtime", bob) == []
        x.clock.ahead_ns = 2 * DAY_NS
        assert await found("/v5/order/history") == ["filled"]
        assert [r["orderLinkId"] for r in await x.rows(alice, "/v5/order/realtime")] == ["open"]
        assert {r["orderLinkId"] for r in await x.rows(alice, "/v5/order/realtime", openOnly=1)} == {"filled", "gone"}


async def test_pages_follow_their_cursor() -> None:
    """Newest first; every row once; the cursor is written in percents and may come back so or once more encoded."""
    async with exchange() as x:
        alice = await x.account()
        for n in range(7):
            await x.place(alice, orderLinkId=f"o{n}")
        for path, name, many in (("/v5/order/history", "orderLinkId", 7), ("/v5/execution/list", "execId", 7)):
            for encode in (lambda text: text, lambda text: text.replace("%", "%25")):
                seen: list[str] = []
                cursor = ""
                while True:
                    answer = await x.get(alice, path, **LINEAR, limit=3, **({"cursor": cursor} if cursor else {}))
                    seen += [row[name] for row in answer["result"]["list"]]
                    cursor = encode(answer["result"]["nextPageCursor"])
                    if not cursor:
                        break
                assert len(seen) == len(set(seen)) == many
        assert (await x.get(alice, "/v5/execution/list", **LINEAR, startTime=1, endTime=8 * 86_400_000))["retCode"] == 10001


async def test_margin_mode_is_the_accounts() -> None:
    """Isolated for all symbols or none; then the account-wide balances are empty; not with a position open."""
    async with exchange() as x:
        alice = await x.account()
        body = {"setMarginMode": "ISOLATED_MARGIN"}
        assert (await x.get(alice, "/v5/account/info"))["result"]["marginMode"] == "REGULAR_MARGIN"
        assert (await x.post(alice, "/v5/account/set-margin-mode", body))["retCode"] == 0
        assert (await x.get(alice, "/v5/account/info"))["result"]["marginMode"] == "ISOLATED_MARGIN"
        wallet = (await x.get(alice, "/v5/account/wallet-balance", accountType="UNIFIED"))["result"]["list"][0]
        assert wallet["totalAvailableBalance"] == "" and wallet["coin"][0]["walletBalance"] == "100000"
        await x.place(alice)
        refused = await x.post(alice, "/v5/account/set-margin-mode", {"setMarginMode": "REGULAR_MARGIN"})
        assert refused["retCode"] == 3400045
        assert (await x.get(alice, "/v5/account/info"))["result"]["marginMode"] == "ISOLATED_MARGIN"


async def test_leverage() -> None:
    """Unchanged is a code of its own, above the largest is refused; both sides alike in one-way mode."""
    async with exchange() as x:
        alice = await x.account()
        for buy, sell, code in (
            ("10", "10", 0), ("10", "10", 110043), ("999", "999", 10001), ("5", "6", 10001), ("125", "125", 0),
            ("7.00", "7.00", 0),
        ):  # fmt: skip
            if buy == "7.00":
                assert (await x.place(alice, qty="5"))["retCode"] == 110090  # above what this leverage may hold
            answer = await x.post(alice, "/v5/position/set-leverage", {**LINEAR, "buyLeverage": buy, "sellLeverage": sell})
            assert answer["retCode"] == code, (buy, answer)
        assert (await x.rows(alice, "/v5/position/list"))[0]["leverage"] == "7"


async def test_funding_is_an_execution_and_an_entry_of_the_log() -> None:
    """Told on the stream and in both lists, with the same amount: a fee above 0 was paid."""
    async with exchange() as x:
        alice = await x.account()
        await x.place(alice)
        stream = await x.stream(alice, "execution", "wallet")
        await x.tell("POST", "/market", {"symbol": "BTCUSDT", "funding_ppm": 100})
        row = (await hear(stream))["data"][0]
        assert (row["execType"], row["symbol"]) == ("Funding", "BTCUSDT")
        assert float(row["execFee"]) == pytest.approx(0.06, rel=0.01)
        (listed,) = await x.rows(alice, "/v5/execution/list", execType="Funding")
        assert (listed["execId"], listed["execFee"]) == (row["execId"], row["execFee"])
        log = await x.get(alice, "/v5/account/transaction-log", accountType="UNIFIED", currency="USDT", type="SETTLEMENT")
        assert float(log["result"]["list"][0]["change"]) == -float(row["execFee"])
        await x.tell("POST", "/deposit", {"account": "alice", "amount": "-50"})
        out = await x.get(alice, "/v5/account/transaction-log", accountType="UNIFIED", currency="USDT", type="TRANSFER_OUT")
        assert [row["change"] for row in out["result"]["list"]] == ["-50.00000000"]


# -- limits -------------------------------------------------------------------------------------------------------------------
async def test_the_limit_of_an_account() -> None:
    """Ten orders a second, over both ways together; the refusal says when to come again; another account has its own."""
    async with exchange(lift=()) as x:
        alice, bob = await x.account(), await x.account("bob")
        trade = await x.login(alice, "/v5/trade")
        codes = [(await x.ask(trade, "order.create", str(n), RESTING))["retCode"] for n in range(10)]
        assert codes == [0] * 10
        answer = await x.ask(trade, "order.create", "11", RESTING)
        assert answer["retCode"] == 10006
        assert int(answer["header"]["X-Bapi-Limit-Reset-Timestamp"]) > int(answer["header"]["Timenow"])
        status, body, headers = await x.raw(alice, "POST", "/v5/order/create", body=orjson.dumps(RESTING))
        assert (status, body["retCode"]) == (200, 10006) and int(headers["X-Bapi-Limit-Reset-Timestamp"]) > body["time"]
        assert (await x.place(bob, RESTING))["retCode"] == 0


async def test_an_address_that_asks_too_often_is_shut_out() -> None:
    """600 requests in five seconds over HTTP, then 403 without a code for ten minutes; the order socket goes on."""
    async with exchange(lift=()) as x:
        alice = await x.account()
        trade = await x.login(alice, "/v5/trade")
        x.host.windows.set("http", 5)
        answers = [(await x.raw(None, "GET", "/v5/market/time"))[0] for _ in range(7)]
        assert answers == [200] * 5 + [403] * 2
        assert (await x.ask(trade, "order.create", "1", MARKET))["retCode"] == 0
        x.clock.ahead_ns = 601 * 10**9
        assert (await x.raw(None, "GET", "/v5/market/time"))[0] == 200


async def test_the_order_sockets_own_rules() -> None:
    """A request's name is used once; unknown operations, two arguments and old stamps are refused; too many of an address."""
    async with exchange() as x:
        alice = await x.account()
        trade = await x.login(alice, "/v5/trade")
        assert (await x.ask(trade, "order.create", "a", MARKET))["retCode"] == 0
        assert (await x.ask(trade, "order.create", "a", MARKET))["retCode"] == 20006
        assert (await x.ask(trade, "order.nothing", "b", MARKET))["retCode"] == 10404
        assert (await x.ask(trade, "order.create", "c", MARKET, MARKET))["retCode"] == 10001
        old = {"X-BAPI-TIMESTAMP": x.now_ms() - 6_000}
        assert (await x.ask(trade, "order.create", "d", MARKET, **old))["retCode"] == 10002
        x.host.windows.set("ws_orders", 1)
        assert [(await x.ask(trade, "order.create", f"e{n}", MARKET))["retCode"] for n in range(2)] == [10403, 10403]


async def test_an_order_held_up_beyond_its_window_is_refused_at_the_engine() -> None:
    """The stamp counts when the order is done, not only when it came."""
    async with exchange() as x:
        alice = await x.account()
        trade = await x.login(alice, "/v5/trade")
        await x.tell("POST", "/faults", {"action": "delay", "method": "place", "delay_ms": 300})
        answer = await x.ask(trade, "order.create", "a", MARKET, **{"X-BAPI-RECV-WINDOW": "100"})
        assert answer["retCode"] == 10002 and await x.tell("GET", "/truth/orders") == []


# -- connections --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"op":7}', '{"op":"auth"}', '{"op":"subscribe"}', '{"op":"subscribe","args":["no"]}'])
@pytest.mark.parametrize("path", ["/v5/private", "/v5/trade", "/v5/public/linear"])
async def test_nonsense_is_answered_and_ends_nothing(path: str, text: str) -> None:
    """One answer, and a ping still has its pong."""
    async with exchange() as x:
        ws = await x.http.ws_connect(x.ws + path)
        await ws.send_str(text)
        await hear(ws)
        await say(ws, op="ping")
        assert "pong" in orjson.dumps(await hear(ws)).decode()


async def test_paths() -> None:
    """Only those of the venue."""
    async with exchange() as x:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await x.http.ws_connect(x.ws + "/v5/nothing")


async def test_silence_ends_a_connection() -> None:
    """Ten minutes, or what the client asked for, 30 seconds at least."""
    async with exchange() as x:
        short = await x.http.ws_connect(x.ws + "/v5/private?max_active_time=30s")
        usual = await x.http.ws_connect(x.ws + "/v5/private")
        x.clock.ahead_ns = 40 * 10**9
        assert (await asyncio.wait_for(short.receive(), 3)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        x.clock.ahead_ns = 700 * 10**9
        assert (await asyncio.wait_for(usual.receive(), 3)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_topics_by_category() -> None:
    """``order.linear`` is heard under its own name; an account hears nothing of another's."""
    async with exchange() as x:
        alice, bob = await x.account(), await x.account("bob")
        stream, other = await x.stream(alice, "order.linear"), await x.stream(bob, *ALL)
        await x.place(alice)
        assert (await hear(stream))["topic"] == "order.linear"
        await x.place(bob, orderLinkId="bobs")
        assert (await hear(other))["data"][0]["orderLinkId"] == "bobs"


async def test_public_streams() -> None:
    """The best bid and ask at once and with every change; a ticker whole at first, then what has changed; trades."""
    async with exchange() as x:
        alice = await x.account()
        ws = await x.http.ws_connect(x.ws + "/v5/public/linear")
        await say(ws, op="subscribe", args=["orderbook.1.BTCUSDT", "tickers.BTCUSDT", "publicTrade.BTCUSDT"])
        assert (await hear(ws))["success"] is True
        book, ticker = await hear(ws), await hear(ws)
        assert (book["type"], len(book["data"]["b"]), ticker["type"]) == ("snapshot", 1, "snapshot")
        assert ticker["data"]["fundingRate"] == "0.0001"
        await x.tell("POST", "/market", {"symbol": "BTCUSDT", "mark": "60100"})
        delta = await hear(ws)
        assert (delta["topic"], delta["type"], delta["data"]["markPrice"]) == ("tickers.BTCUSDT", "delta", "60100.00")
        assert "fundingRate" not in delta["data"]
        await x.place(alice, qty="1")
        assert {(await hear(ws))["topic"] for _ in range(2)} == {"publicTrade.BTCUSDT", "orderbook.1.BTCUSDT"}


# -- faults -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("action", "code", "alive"),
    [("error_live", 10016, True), ("error_dead", 10016, False), ("unavailable", 10019, False), ("throttled", 10429, False)],
)
async def test_faults_in_the_words_of_the_venue(action: str, code: int, alive: bool) -> None:
    """What was done and told wrongly, and what was not done, are answered alike where the venue does not tell them apart."""
    async with exchange() as x:
        alice = await x.account()
        trade = await x.login(alice, "/v5/trade")
        await x.tell("POST", "/faults", {"action": action, "method": "place"})
        assert (await x.ask(trade, "order.create", "1", {**MARKET, "orderLinkId": "f"}))["retCode"] == code
        assert bool(await x.rows(alice, "/v5/order/realtime", orderLinkId="f")) is alive


async def test_a_stale_reader_knows_nothing_of_what_is_young() -> None:
    """Orders and executions of the last moments are not there yet."""
    async with exchange() as x:
        alice = await x.account()
        await x.place(alice, orderLinkId="young")
        for path in ("/v5/order/realtime", "/v5/order/history", "/v5/execution/list"):
            method = "query" if "order" in path else f"GET {path}"
            assert await x.rows(alice, path, orderLinkId="young")
            await x.tell("POST", "/faults", {"action": "stale_read", "method": method, "delay_ms": 60_000, "count": 1})
            assert await x.rows(alice, path, orderLinkId="young") == []


# -- nonsense, without a socket -----------------------------------------------------------------------------------------------
NAMES = ("category", "symbol", "side", "orderType", "qty", "price", "timeInForce", "positionIdx", "reduceOnly", "orderLinkId",
         "orderId", "limit", "cursor", "startTime", "endTime", "openOnly", "settleCoin", "mode", "coin", "buyLeverage",
         "sellLeverage", "setMarginMode", "accountType", "interval", "type", "execType", "request", "closeOnTrigger",
         "status")  # fmt: skip
ODD = st.sampled_from([
    "", "linear", "BTCUSDT", "Buy", "Market", "Limit", "0", "-1", "1", "3", "0.01", "1e9", "\u00b2", "9" * 30, "x" * 40, "USDT",
    "58500", "ISOLATED_MARGIN", "UNIFIED", "true", "%", "00000000-0000-4000-8000-ffffffffffff",
])  # fmt: skip
NUMBERS = st.integers(-(2**63), 2**63) | st.floats()
BATCH = [{"symbol": "BTCUSDT", "side": "Buy", "orderType": "Market", "qty": "0.01"}, {}]
VALUES = ODD | st.none() | st.booleans() | NUMBERS | st.lists(ODD, max_size=2) | st.just(BATCH)
BASE = {"category": "linear", "symbol": "BTCUSDT"}


class Lone:
    """A dialect with its engine, no sockets, and one account."""

    def __init__(self) -> None:
        self.host = Host(Options(seed=7, lift=frozenset({"all"})), Dialect)
        self.host.makers.step(self.host.now_ns())
        account = self.host.engine.add_account(10**13)
        self.words = self.host.issue_key(account, "alice", "hmac", "", {})

    def ask(self, method: str, path: str, params: dict[str, Any]) -> Any:
        query = "&".join(f"{name}={value}" for name, value in params.items()) if method == "GET" else ""
        body = b"" if method == "GET" else orjson.dumps(params)
        stamp = str(self.host.server_ns() // 10**6)
        signed = f"{stamp}{self.words['api_key']}5000".encode() + (query.encode() if method == "GET" else body)
        headers = {
            "x-bapi-api-key": self.words["api_key"], "x-bapi-timestamp": stamp, "x-bapi-recv-window": "5000",
            "x-bapi-sign": sign(self.words["secret"].encode(), signed),
        }  # fmt: skip
        work = self.host.dialect.rest(Request(method, path, query, headers, body, "ip", self.host.server_ns()))
        answer = orjson.loads(work.run().body)
        assert answer["retCode"] == 0 or answer["retCode"] in TEXTS
        if work.stale is not None:
            work.stale(1000)
        return answer


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_request_makes_the_dialect_raise(data: st.DataObject) -> None:
    """Every route with any of the names it knows set to anything: an answer with a code of the venue."""
    lone = LONE
    method, path = data.draw(st.sampled_from(sorted(lone.host.dialect.routes))).split(" ")
    extra = data.draw(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6))
    lone.ask(method, path, {**BASE, **extra})


class Deaf:
    """A connection that goes nowhere."""

    def __init__(self, path: str) -> None:
        self.path, self.headers, self.ip, self.opened_ns, self.heard_ns, self.sent_ns = path, {}, "ip", 0, 0, 0
        self.state: Any = None
        self.owner: Any = None
        self.is_open = True
        self.sent: list[bytes] = []

    def send(self, text: bytes) -> None:
        self.sent.append(text)

    def close(self, code: int, reason: str) -> None:
        self.is_open = False


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_message_makes_the_dialect_raise(data: st.DataObject) -> None:
    """Every operation on every kind of connection, logged in or not, with arguments of any kind: an answer, no more."""
    host = LONE.host
    paths = ["/v5/private", "/v5/trade", "/v5/public/linear", "/v5/private?max_active_time=\u00b2s"]
    conn = Deaf(data.draw(st.sampled_from(paths)))
    assert host.dialect.accepts(conn)
    if data.draw(st.booleans()):
        conn.owner = host.owner(LONE.words["api_key"])
    args = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4).map(lambda extra: {**BASE, **extra})
    topics = st.sampled_from([
        "order", "orderbook.1.BTCUSDT", "orderbook.99999999999999999999.BTCUSDT", "tickers.BTCUSDT", "a.b", "."])
    message = {
        "op": data.draw(st.sampled_from([*host.dialect.operations, "auth", "subscribe", "unsubscribe", "ping"]) | VALUES),
        "args": data.draw(st.lists(args | topics | VALUES, max_size=3) | VALUES), "reqId": data.draw(VALUES),
        "header": data.draw(st.just({"X-BAPI-TIMESTAMP": str(host.server_ns() // 10**6)}) | VALUES),
    }  # fmt: skip
    work = host.dialect.text(conn, orjson.dumps(message))
    if work is not None:
        conn.send(work.run())
    assert conn.sent and all(isinstance(orjson.loads(text), dict) for text in conn.sent)
    host.dialect.lost(conn)


LONE = Lone()
