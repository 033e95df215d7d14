"""The spot market of the Bybit dialect over real sockets: sizes, fees, balances, refusals, streams, clients written by others."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.exchange.bybit import LATE_REFUSALS, TEXTS, sign
from copyd.exchange.bybit_spot import SPOT_CODES, Dialect
from copyd.exchange.dialect import Request
from copyd.exchange.host import Host, Options
from copyd.exchange.model import REFUSALS
from tests.exchange import bybit_bench
from tests.exchange.bybit_bench import Bench, say
from tests.exchange.test_bybit_dialect import NAMES, VALUES, Deaf
from tests.exchange.wire_client import hear
from tests.exchange.wire_helpers import ROOT, make_accounts, running_exchange

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
SCRIPTS = ROOT / "tests" / "exchange" / "clients"
SPOT = {"category": "spot", "symbol": "BTCUSDT"}
BUY = {**SPOT, "side": "Buy", "orderType": "Market", "qty": "0.01", "marketUnit": "baseCoin"}
SELL = {**SPOT, "side": "Sell", "orderType": "Market", "qty": "0.005"}
RESTING = {**SPOT, "side": "Buy", "orderType": "Limit", "qty": "0.01", "price": "58000"}
FEES = {"maker_ppm": 1000, "taker_ppm": 1000}


@contextlib.asynccontextmanager
async def spot(**options: Any) -> AsyncIterator[Bench]:
    """A running exchange of this market."""
    async with bybit_bench.exchange(dialect=Dialect, **options) as x:
        yield x


async def coins(x: Bench, account: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """(balance, locked) by coin."""
    answer = await x.get(account, "/v5/account/wallet-balance", accountType="UNIFIED")
    return {row["coin"]: (row["walletBalance"], row["locked"]) for row in answer["result"]["list"][0]["coin"]}


async def rows(x: Bench, account: dict[str, Any], path: str, **params: Any) -> list[dict[str, Any]]:
    return await x.rows(account, path, **{**SPOT, **params})


# -- clients written by others ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def process() -> Iterator[dict[str, Any]]:
    with running_exchange("--dialect", "bybit_spot") as at:
        yield at


@pytest.mark.parametrize("client", ["pybit_spot", "ccxt_bybit_spot"])
def test_unmodified_client_trades_and_hears_about_it(process: dict[str, Any], client: str) -> None:
    """Pairs, market buys by value and by quantity, sales, resting orders, balances by coin, executions with fees, events."""
    if not PYTHON.exists():
        pytest.fail("the clients' virtual environment is missing: run `make clients-venv`", pytrace=False)
    account = make_accounts(process, accounts=[{"name": client, "balance": "10000", **FEES}])[0]
    at = {**{k: process[k] for k in ("rest", "ws")}, **account}
    done = subprocess.run(
        [PYTHON, "-P", SCRIPTS / f"client_{client}.py", orjson.dumps(at)], capture_output=True, text=True, timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{client}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert done.stdout.strip().endswith("ok")


# -- what is listed -----------------------------------------------------------------------------------------------------------
async def test_the_pairs_and_nothing_of_the_perpetuals() -> None:
    """Their sizes and least value; the other category is empty; what only perpetuals have is an illegal category."""
    async with spot() as x:
        alice = await x.account()
        info = (await x.get(None, "/v5/market/instruments-info", category="spot"))["result"]
        assert [row["symbol"] for row in info["list"]] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"] and info["category"] == "spot"
        lots = info["list"][0]["lotSizeFilter"]
        assert (lots["basePrecision"], lots["minOrderQty"], lots["minOrderAmt"]) == ("0.000001", "0.000048", "5")
        assert info["list"][0]["priceFilter"]["tickSize"] == "0.01" and "contractType" not in info["list"][0]
        for path in ("instruments-info", "tickers"):
            assert (await x.get(None, f"/v5/market/{path}", category="linear"))["result"]["list"] == []
        assert (await x.get(alice, "/v5/position/list", category="linear", settleCoin="USDT"))["result"]["list"] == []
        assert (await x.get(alice, "/v5/position/list", category="spot"))["retCode"] == 10001
        assert (await x.get(None, "/v5/market/funding/history", **SPOT))["retMsg"] == "params error: Illegal category"
        leverage = {**SPOT, "buyLeverage": "2", "sellLeverage": "2"}
        assert (await x.post(alice, "/v5/position/set-leverage", leverage))["retCode"] == 10001
        assert (await x.place(alice, BUY, category="linear"))["retCode"] == 170121


async def test_the_market_as_it_is_asked_for() -> None:
    """Last and best prices, the book, trades and candles."""
    async with spot() as x:
        alice = await x.account()
        await x.place(alice, BUY)
        [ticker] = (await x.get(None, "/v5/market/tickers", **SPOT))["result"]["list"]
        assert float(ticker["bid1Price"]) < float(ticker["lastPrice"]) <= float(ticker["ask1Price"]) and "markPrice" not in ticker
        book = (await x.get(None, "/v5/market/orderbook", **SPOT, limit=5))["result"]
        assert len(book["b"]) == len(book["a"]) == 5 and book["a"][0][0] == ticker["ask1Price"]
        trades = (await x.get(None, "/v5/market/recent-trade", **SPOT))["result"]
        assert trades["category"] == "spot" and trades["list"][0]["size"] == "0.010000"
        assert (await x.get(None, "/v5/market/kline", **SPOT, interval="1"))["result"]["category"] == "spot"


# -- sizes, fees, balances ----------------------------------------------------------------------------------------------------
async def test_a_market_buy_is_for_so_much_of_the_quote_coin_unless_it_says_otherwise() -> None:
    """500 USDT buy 500 USDT's worth; what the order asked for is told in its own unit."""
    async with spot() as x:
        alice = await x.account(**FEES)
        await x.place(alice, {**SPOT, "side": "Buy", "orderType": "Market", "qty": "500", "orderLinkId": "by-value"})
        [order] = await rows(x, alice, "/v5/order/realtime", orderLinkId="by-value")
        assert (order["orderStatus"], order["qty"], order["marketUnit"]) == ("Filled", "500", "quoteCoin")
        assert 499 < float(order["cumExecValue"]) <= 500 and 0.008 < float(order["cumExecQty"]) < 0.0084
        [execution] = await rows(x, alice, "/v5/execution/list")
        assert (execution["orderQty"], execution["execQty"]) == ("500", order["cumExecQty"])
        await x.place(alice, BUY, orderLinkId="by-quantity")
        [order] = await rows(x, alice, "/v5/order/realtime", orderLinkId="by-quantity")
        assert (order["qty"], order["cumExecQty"], order["marketUnit"]) == ("0.010000", "0.010000", "baseCoin")
        await x.place(alice, {**SELL, "qty": "300", "marketUnit": "quoteCoin"}, orderLinkId="sale-by-value")
        [order] = await rows(x, alice, "/v5/order/realtime", orderLinkId="sale-by-value")
        assert (order["qty"], order["marketUnit"]) == ("300", "quoteCoin") and 299 < float(order["cumExecValue"]) <= 300


async def test_a_fee_is_taken_from_what_is_received() -> None:
    """In the base coin of a buy, in the quote coin of a sale, above 0 where it is paid; the balances are short of just that."""
    async with spot() as x:
        alice = await x.account(**FEES)
        await x.place(alice, BUY)
        [bought] = await rows(x, alice, "/v5/execution/list")
        assert (bought["execFee"], bought["feeCurrency"], bought["feeRate"]) == ("0.00001000", "BTC", "0.001")
        assert (bought["category"], bought["closedSize"], bought["execType"]) == ("spot", "", "Trade")
        assert (await coins(x, alice))["BTC"] == ("0.00999000", "0.00000000")
        await x.place(alice, SELL)
        sold = (await rows(x, alice, "/v5/execution/list"))[0]
        assert sold["feeCurrency"] == "USDT" and abs(float(sold["execFee"]) - float(sold["execValue"]) / 1000) < 1e-7
        held = await coins(x, alice)
        money = 100_000 - float(bought["execValue"]) + float(sold["execValue"]) - float(sold["execFee"])
        assert held["BTC"][0] == "0.00499000" and abs(float(held["USDT"][0]) - money) < 1e-7


async def test_a_resting_order_locks_what_it_will_pay_with() -> None:
    """The quote coin of a buy, the base coin of a sale, until it is cancelled."""
    async with spot() as x:
        alice = await x.account()
        await x.place(alice, BUY)
        await x.place(alice, RESTING, orderLinkId="bid")
        await x.place(alice, {**RESTING, "side": "Sell", "qty": "0.004", "price": "61000"}, orderLinkId="offer")
        held = await coins(x, alice)
        assert (held["USDT"][1], held["BTC"][1]) == ("580.00000000", "0.00400000")
        assert {row["orderLinkId"] for row in await rows(x, alice, "/v5/order/realtime")} == {"bid", "offer"}
        for name in ("bid", "offer"):
            assert (await x.post(alice, "/v5/order/cancel", {**SPOT, "orderLinkId": name}))["retCode"] == 0
        assert {locked for _, locked in (await coins(x, alice)).values()} == {"0.00000000"}
        assert (await x.post(alice, "/v5/order/cancel", {**SPOT, "orderLinkId": "bid"}))["retCode"] == 170213


async def test_the_account_as_a_whole() -> None:
    """Its equity is what all its coins are worth; with isolated margin the account-wide figures are empty texts."""
    async with spot() as x:
        alice = await x.account(maker_ppm=0, taker_ppm=0)
        await x.place(alice, BUY)
        read = lambda: x.get(alice, "/v5/account/wallet-balance", accountType="UNIFIED")  # noqa: E731
        [row] = (await read())["result"]["list"]
        worth = sum(float(coin["usdValue"]) for coin in row["coin"])
        assert abs(float(row["totalEquity"]) - worth) < 1e-6 and 99_990 < worth < 100_000
        await x.post(alice, "/v5/account/set-margin-mode", {"setMarginMode": "ISOLATED_MARGIN"})
        assert (await x.get(alice, "/v5/account/info"))["result"]["marginMode"] == "ISOLATED_MARGIN"
        assert (await read())["result"]["list"][0]["totalAvailableBalance"] == ""


async def test_what_is_paid_in_and_taken_out_is_in_the_log_by_coin() -> None:
    """Of every coin, signed, newest first; trades are not among them."""
    async with spot() as x:
        alice = await x.account()
        await x.place(alice, BUY)
        await x.tell("POST", "/deposit", {"account": "alice", "amount": "0.5", "asset": "BTC"})
        await x.tell("POST", "/deposit", {"account": "alice", "amount": "-20"})
        log = await rows(x, alice, "/v5/account/transaction-log")
        assert [(row["type"], row["currency"], row["change"]) for row in log] == [
            ("TRANSFER_OUT", "USDT", "-20.00000000"), ("TRANSFER_IN", "BTC", "0.50000000"),
            ("TRANSFER_IN", "USDT", "100000.00000000")]
        [one] = await rows(x, alice, "/v5/account/transaction-log", currency="BTC")
        assert one["change"] == "0.50000000"


# -- refusals -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"qty": "5"}, 170131), ({"side": "Sell", "qty": "0.02"}, 170131), ({"qty": "0.000049"}, 170140),
        ({"qty": "0.00001"}, 170136), ({"qty": "0"}, 170136), ({"qty": "0.0100001"}, 170137), ({"qty": "x"}, 170130),
        ({"qty": "100"}, 170135), ({"symbol": "NOSUCH"}, 170121), ({"side": "Up"}, 170117), ({"orderType": "Stop"}, 170116),
        ({"orderType": "Limit", "price": "58000.001"}, 170134), ({"orderType": "Limit", "price": "64000"}, 170193),
        ({"orderType": "Limit", "side": "Sell", "price": "56000"}, 170194), ({"orderType": "Limit"}, 10001),
        ({"orderType": "Limit", "price": "3000000"}, 170193), ({"reduceOnly": True}, 170227), ({"isLeverage": 1}, 170227),
        ({"marketUnit": "cents"}, 170130), ({"marketUnit": "quoteCoin", "qty": "4.99"}, 170140),
        ({"marketUnit": "quoteCoin", "qty": "200000"}, 170131), ({"marketUnit": "quoteCoin", "qty": "1.000000001"}, 170148),
        ({"timeInForce": "NOW", "orderType": "Limit", "price": "58000"}, 170115), ({"triggerPrice": "1"}, 10001),
        ({"orderLinkId": "a b"}, 10001),
    ],
)  # fmt: skip
async def test_refusals_at_the_door(fields: dict[str, Any], code: int) -> None:
    """With this market's own codes, HTTP 200, and in the truth. An account has no more than it has: nothing is lent."""
    async with spot() as x:
        alice = await x.account(balance="100000")
        await x.place(alice, BUY)
        answer = await x.place(alice, BUY, **fields)
        assert answer["retCode"] == code, answer
        assert x.host.refusals[-1]["code"] == code and len(await rows(x, alice, "/v5/execution/list")) == 1


async def test_prices_far_on_the_good_side_are_taken() -> None:
    """A bid far below the market and an offer far above it: the limit is one of dear buys and cheap sales."""
    async with spot() as x:
        alice = await x.account()
        await x.place(alice, BUY)
        for side, price in (("Buy", "1000"), ("Sell", "900000")):
            assert (await x.place(alice, {**RESTING, "side": side, "price": price, "qty": "0.006"}))["retCode"] == 0


def test_every_refusal_of_the_engine_has_a_code_here() -> None:
    """None falls through, and each code has a text."""
    not_of_orders = {-4050, -4051, -4054, -5013}  # moving margin and money by hand
    assert set(REFUSALS) - not_of_orders == set(SPOT_CODES) | set(LATE_REFUSALS)
    assert {code for code, _ in SPOT_CODES.values()} <= TEXTS.keys()


async def test_a_client_id_is_never_free_again_and_nothing_is_amended() -> None:
    """After a fill as after a cancel."""
    async with spot() as x:
        alice = await x.account()
        await x.place(alice, BUY, orderLinkId="once")
        assert (await x.place(alice, BUY, orderLinkId="once"))["retCode"] == 170141
        await x.place(alice, RESTING, orderLinkId="rests")
        assert (await x.post(alice, "/v5/order/amend", {**SPOT, "orderLinkId": "rests", "price": "57000"}))["retCode"] == 170227
        assert (await rows(x, alice, "/v5/order/realtime"))[0]["price"] == "58000.00"


@pytest.mark.parametrize(
    ("rights", "code"),
    [({"permissions": {"Spot": []}}, 10005), ({"permissions": {"Spot": ["SpotTrade"]}}, 0),
     ({"permissions": {"ContractTrade": ["Order", "Position"]}}, 10005), ({"readOnly": 1}, 10005)],
)  # fmt: skip
async def test_trading_takes_the_right_of_spot(rights: dict[str, Any], code: int) -> None:
    """That of the perpetuals is no use here."""
    async with spot() as x:
        assert (await x.place(await x.account(rights=rights), BUY))["retCode"] == code


async def test_limits_of_the_account_and_of_a_batch() -> None:
    """Twenty orders a second, ten in a batch, each with its own status."""
    async with spot(lift=("http", "batch")) as x:
        alice = await x.account()
        batch = {"category": "spot", "request": [{k: v for k, v in RESTING.items() if k != "category"} for _ in range(10)]}
        batch["request"][3]["symbol"] = "NOSUCH"
        told = await x.post(alice, "/v5/order/create-batch", batch)
        assert [row["code"] for row in told["retExtInfo"]["list"]] == [0, 0, 0, 170121, 0, 0, 0, 0, 0, 0]
        assert {row["category"] for row in told["result"]["list"]} == {"spot"}
        eleven = {**batch, "request": [*batch["request"], batch["request"][0]]}
        assert (await x.post(alice, "/v5/order/create-batch", eleven))["retCode"] == 10001
        assert {name: x.host.windows.defined[name].limit for name in ("create", "cancel", "batch")} == {
            "create": 20, "cancel": 20, "batch": 20}


# -- streams ------------------------------------------------------------------------------------------------------------------
async def test_the_stream_says_what_became_of_an_order() -> None:
    """The thin execution, the whole one with its fee, the order, and both coins in one message; there are no positions."""
    async with spot() as x:
        alice = await x.account(**FEES)
        stream, trade = await x.stream(alice), await x.login(alice, "/v5/trade")
        answer = await x.ask(trade, "order.create", "r1", {**BUY, "orderLinkId": "mine"})
        assert (answer["retCode"], answer["data"]["orderLinkId"]) == (0, "mine") and answer["header"]["X-Bapi-Limit"] == "20"
        heard: dict[str, list[dict[str, Any]]] = {}
        while "wallet" not in heard:
            message = await hear(stream)
            heard.setdefault(message["topic"], message["data"])
        assert list(heard) == ["execution.fast", "execution", "order", "wallet"]
        [fast], [whole], [order], [wallet] = heard.values()
        assert fast["execId"] == whole["execId"] and "execFee" not in fast and fast["category"] == "spot"
        assert (whole["execFee"], whole["feeCurrency"]) == ("0.00001000", "BTC")
        assert (order["orderStatus"], order["category"], order["positionIdx"]) == ("Filled", "spot", 0)
        assert {coin["coin"]: coin["walletBalance"][:5] for coin in wallet["coin"]} == {"BTC": "0.009", "USDT": "99399"}
        await x.place(alice, RESTING)
        assert [(await hear(stream))["topic"] for _ in range(2)] == ["order", "wallet"]


async def test_an_order_filled_in_part_and_cancelled_has_a_status_of_its_own() -> None:
    """An IOC order that found less than it asked for: ``PartiallyFilledCanceled``; one that found nothing is ``Cancelled``."""
    async with spot() as x:
        alice, bob = await x.account(), await x.account("bob", balance="100000000")
        await x.place(alice, BUY)
        await x.place(alice, {**RESTING, "side": "Sell", "qty": "0.004", "price": "59995"}, orderLinkId="offer")
        stream = await x.stream(bob, "order.spot")
        ioc = {**RESTING, "timeInForce": "IOC", "qty": "0.01", "price": "59995"}
        await x.place(bob, ioc, orderLinkId="part")
        told = [(await hear(stream))["data"][0] for _ in range(2)]
        assert [row["orderStatus"] for row in told] == ["PartiallyFilled", "PartiallyFilledCanceled"]
        assert (told[1]["cumExecQty"], told[1]["leavesQty"], told[1]["rejectReason"]) == (
            "0.004000", "0.000000", "EC_CancelForNoFullFill")
        await x.place(bob, ioc, orderLinkId="nothing")
        [order] = await rows(x, bob, "/v5/order/history", orderLinkId="nothing")
        assert (order["orderStatus"], order["cumExecQty"]) == ("Cancelled", "0.000000")
        [order] = await rows(x, bob, "/v5/order/history", orderLinkId="part")
        assert order["orderStatus"] == "PartiallyFilledCanceled"
        await x.place(bob, {**RESTING, "timeInForce": "PostOnly", "price": "60100"}, orderLinkId="post")
        [order] = await rows(x, bob, "/v5/order/history", orderLinkId="post")
        assert (order["orderStatus"], order["rejectReason"]) == ("Cancelled", "EC_PostOnlyWillTakeLiquidity")


async def test_public_streams() -> None:
    """Best prices and the ticker at once; the ticker whole with every trade; none of it on the perpetuals' path."""
    async with spot() as x:
        alice = await x.account()
        ws = await x.http.ws_connect(x.ws + "/v5/public/spot")
        await say(ws, op="subscribe", args=["orderbook.1.BTCUSDT", "tickers.BTCUSDT", "publicTrade.BTCUSDT"])
        assert (await hear(ws))["success"] is True
        book, ticker = await hear(ws), await hear(ws)
        assert (book["type"], ticker["type"]) == ("snapshot", "snapshot") and "bid1Price" not in ticker["data"]
        await x.place(alice, BUY)
        heard = {message["topic"]: message["data"] for message in [await hear(ws) for _ in range(3)]}
        assert heard["tickers.BTCUSDT"]["lastPrice"] == heard["publicTrade.BTCUSDT"][0]["p"]
        other = await x.http.ws_connect(x.ws + "/v5/public/linear")
        await say(other, op="subscribe", args=["tickers.BTCUSDT"])
        assert (await hear(other))["success"] is False


# -- nonsense, without a socket -----------------------------------------------------------------------------------------------
WORDS = VALUES | st.sampled_from(["spot", "quoteCoin", "baseCoin", "Sell", "500"])
KEYS = (*NAMES, "marketUnit", "isLeverage", "currency")


class Lone:
    """A dialect with its engine, no sockets, and one account."""

    def __init__(self) -> None:
        self.host = Host(Options(seed=7, lift=frozenset({"all"})), Dialect)
        self.host.makers.step(self.host.now_ns())
        account = self.host.engine.add_account(10**13)
        self.words = self.host.issue_key(account, "alice", "hmac", "", {})

    def ask(self, method: str, path: str, params: dict[str, Any]) -> None:
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


LONE = Lone()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_request_makes_the_dialect_raise(data: st.DataObject) -> None:
    """Every route with any of the names it knows set to anything: an answer with a code of the venue; no money comes or goes."""
    method, path = data.draw(st.sampled_from(sorted(LONE.host.dialect.routes))).split(" ")
    extra = data.draw(st.dictionaries(st.sampled_from(KEYS), WORDS, max_size=7))
    LONE.ask(method, path, {**BUY, **extra})
    held, fees, _, deposits = LONE.host.engine.totals()
    assert held + fees == deposits


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_message_makes_the_dialect_raise(data: st.DataObject) -> None:
    """Every operation on every kind of connection, logged in or not, with arguments of any kind: an answer, no more."""
    host = LONE.host
    conn = Deaf(data.draw(st.sampled_from(["/v5/private", "/v5/trade", "/v5/public/spot", "/v5/public/linear"])))
    assert host.dialect.accepts(conn)
    if data.draw(st.booleans()):
        conn.owner = host.owner(LONE.words["api_key"])
    args = st.dictionaries(st.sampled_from(KEYS), WORDS, max_size=4).map(lambda extra: {**BUY, **extra})
    topics = st.sampled_from(["order.spot", "orderbook.1.BTCUSDT", "tickers.BTCUSDT", "tickers.", "publicTrade.X", "."])
    message = {
        "op": data.draw(st.sampled_from([*host.dialect.operations, "subscribe", "unsubscribe", "ping"]) | VALUES),
        "args": data.draw(st.lists(args | topics | VALUES, max_size=3) | VALUES), "reqId": data.draw(VALUES),
        "header": {"X-BAPI-TIMESTAMP": str(host.server_ns() // 10**6)},
    }  # fmt: skip
    work = host.dialect.text(conn, orjson.dumps(message))
    if work is not None:
        conn.send(work.run())
    assert conn.sent and all(isinstance(orjson.loads(text), dict) for text in conn.sent)
    host.dialect.lost(conn)
