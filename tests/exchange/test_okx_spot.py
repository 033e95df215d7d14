"""The OKX spot dialect, over real sockets: raw requests, our own adapter, and clients written by others."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.exchange.host import DIALECTS, Host, Options, dialect_of
from copyd.exchange.okx_spot import SPOT_INSTRUMENTS, Dialect
from copyd.exchange.spot import SpotEngine
from copyd.venues.common import facts
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.signing import Key
from copyd.venues.common.told import OrderTold, TradeTold, WalletTold
from copyd.venues.okx.errors import CODES
from tests.exchange.okx_bench import Bench, exchange

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / ".venv-clients" / "bin" / "python"
SCRIPTS = Path(__file__).resolve().parent / "clients"
ORDER = "/api/v5/trade/order"
BUY = {"instId": "BTC-USDT", "tdMode": "cash", "side": "buy", "ordType": "market", "sz": "600"}
#: Of half a thousandth, what an account is charged that was given no rate of its own.
TAKER = Decimal("0.0005")


async def placed(x: Bench, key: Key, **fields: Any) -> tuple[str, str]:
    """(code, message) of an order like ``BUY``."""
    _, body = await x.raw(key, "POST", ORDER, {**BUY, **fields})
    return body["data"][0]["sCode"], body["data"][0]["sMsg"]


async def row_of(x: Bench, key: Key, client_id: str) -> dict[str, Any]:
    _, body = await x.raw(key, "GET", f"{ORDER}?instId=BTC-USDT&clOrdId={client_id}")
    return dict(body["data"][0])


async def owned(x: Bench, key: Key, query: str = "") -> dict[str, dict[str, str]]:
    """Rows of the balance, by asset."""
    _, body = await x.raw(key, "GET", f"/api/v5/account/balance{query}")
    return {row["ccy"]: row for row in body["data"][0]["details"]}


# --- instruments --------------------------------------------------------------------------------------------------------------


async def test_instruments_are_spot() -> None:
    """One category is listed, in units of the base asset, with the venue's empty words; the others are not there."""
    async with exchange(spot=True) as x:
        _, listed = await x.raw(None, "GET", "/api/v5/public/instruments?instType=SPOT")
        rows = {row["instId"]: row for row in listed["data"]}
        assert set(rows) == {"BTC-USDT", "ETH-USDT", "SOL-USDT"}
        btc = rows["BTC-USDT"]
        assert (btc["baseCcy"], btc["quoteCcy"], btc["ctVal"], btc["settleCcy"]) == ("BTC", "USDT", "", "")
        assert (btc["tickSz"], btc["lotSz"], btc["minSz"], btc["maxMktSz"]) == ("0.1", "0.0000001", "0.00001", "1000000")
        for kind in ("SWAP", "FUTURES"):
            assert (await x.raw(None, "GET", f"/api/v5/public/instruments?instType={kind}"))[1]["data"] == []
        _, tickers = await x.raw(None, "GET", "/api/v5/market/tickers?instType=SPOT")
        assert {row["instType"] for row in tickers["data"]} == {"SPOT"}
        assert (await x.raw(None, "GET", "/api/v5/public/funding-rate?instId=BTC-USDT"))[0] == 404
        items = list(x.instruments)
        assert all(item.spot and item.lot_min == spec.min_qty for item, spec in zip(items, SPOT_INSTRUMENTS, strict=True))
        # a market order worth four times its price now is still inside the venue's largest value
        top = x.host.engine.last_price(0) or x.host.engine.mark(0)
        assert items[0].market_lot_max * top * 4 * 10 <= 10**8 * 10**6 * 10 < (items[0].market_lot_max + 1) * top * 4 * 10
    assert "okx_spot" in DIALECTS and dialect_of("okx_spot") is Dialect


# --- orders -------------------------------------------------------------------------------------------------------------------


async def test_a_market_buy_is_sized_in_the_quote_asset_unless_told_otherwise() -> None:
    """``sz`` of a market buy is what it may cost; with ``base_ccy`` it is what it brings; a sale the other way round."""
    async with exchange(spot=True) as x:
        key = await x.key()
        _, ask = x.best()
        price = Decimal(ask) / 10
        assert (await placed(x, key, clOrdId="a"))[0] == "0"
        row = await row_of(x, key, "a")
        assert (row["sz"], row["tgtCcy"], row["state"]) == ("600", "quote_ccy", "filled")
        assert (row["tdMode"], row["posSide"]) == ("cash", "net")
        lots = int(600 / price * 10**7)
        assert Decimal(row["accFillSz"]) == Decimal(lots) / 10**7 and 0 <= 600 - Decimal(row["accFillSz"]) * price < price / 10**7
        assert (await placed(x, key, sz="0.01", tgtCcy="base_ccy", clOrdId="b"))[0] == "0"
        row = await row_of(x, key, "b")
        assert (row["sz"], row["tgtCcy"], row["accFillSz"], row["avgPx"]) == ("0.01", "base_ccy", "0.01", str(price))
        assert (await placed(x, key, side="sell", sz="0.01", clOrdId="c"))[0] == "0"
        assert (await row_of(x, key, "c"))["accFillSz"] == "0.01"
        assert (await placed(x, key, side="sell", sz="100", tgtCcy="quote_ccy", clOrdId="d"))[0] == "0"
        assert (await row_of(x, key, "d"))["tgtCcy"] == "quote_ccy"
        limit = {"ordType": "limit", "px": "58000", "sz": "0.01", "tgtCcy": "quote_ccy", "clOrdId": "e"}
        assert (await placed(x, key, **limit))[0] == "0"
        row = await row_of(x, key, "e")
        assert (row["sz"], row["tgtCcy"], row["state"]) == ("0.01", "", "live"), "of a limit order it says nothing"


async def test_fees_are_taken_from_what_is_received_and_written_below_zero() -> None:
    """Base of a buy, quote of a sale: in the order, in the list of executions, in the push, and missing in the balance."""
    async with exchange(spot=True) as x:
        key = await x.key()
        line = await x.line(key)
        await placed(x, key, sz="0.01", tgtCcy="base_ccy", clOrdId="a")
        row = await row_of(x, key, "a")
        assert (Decimal(row["fee"]), row["feeCcy"]) == (-Decimal("0.01") * TAKER, "BTC")
        assert Decimal((await owned(x, key))["BTC"]["cashBal"]) == Decimal("0.01") * (1 - TAKER)
        (bought,) = await line.until(TradeTold)
        assert (Decimal(bought.fee), bought.fee_asset) == (Decimal("0.01") * TAKER, "BTC")
        before = Decimal((await owned(x, key))["USDT"]["cashBal"])
        await placed(x, key, side="sell", sz="0.005", clOrdId="b")
        row = await row_of(x, key, "b")
        got = Decimal("0.005") * Decimal(row["avgPx"])
        assert (Decimal(row["fee"]), row["feeCcy"]) == (-got * TAKER, "USDT")
        assert Decimal((await owned(x, key))["USDT"]["cashBal"]) - before == got * (1 - TAKER)
        _, fills = await x.raw(key, "GET", "/api/v5/trade/fills?instType=SPOT")
        assert [(f["side"], f["feeCcy"], Decimal(f["fee"]) < 0, f["posSide"]) for f in fills["data"]] == [
            ("sell", "USDT", True, "net"), ("buy", "BTC", True, "net")]  # fmt: skip
        _, told = await x.raw(key, "GET", "/api/v5/account/trade-fee?instType=SPOT&instId=BTC-USDT")
        assert (told["data"][0]["maker"], told["data"][0]["taker"]) == ("-0.0002", "-0.0005")


async def test_an_open_order_locks_what_it_may_take() -> None:
    """Cash and equity stay, what may be spent does not; cancelled, it is free again. A sale locks the coin."""
    async with exchange(spot=True) as x:
        key = await x.key()
        line = await x.line(key)
        await line.until(WalletTold)
        await placed(x, key, ordType="limit", px="58000", sz="1", clOrdId="a")
        usdt = (await owned(x, key))["USDT"]
        assert (usdt["cashBal"], usdt["availBal"], usdt["frozenBal"]) == ("100000", "42000", "58000")
        (wallet,) = await line.until(WalletTold)
        assert wallet.wallet_e8 == 100_000 * 10**8
        books = await x.rest.books(key)
        assert (books.wallet_e8, books.available_e8) == (100_000 * 10**8, 42_000 * 10**8)
        assert (await placed(x, key, ordType="limit", px="58000", sz="1"))[0] == "51008"
        await x.raw(key, "POST", "/api/v5/trade/cancel-order", {"instId": "BTC-USDT", "clOrdId": "a"})
        assert (await owned(x, key))["USDT"]["availBal"] == "100000"
        await x.tell("/deposit", {"account": "alice", "amount": "0.5", "asset": "BTC"})
        await placed(x, key, side="sell", ordType="limit", px="61000", sz="0.5", clOrdId="b")
        btc = (await owned(x, key, "?ccy=BTC"))
        assert list(btc) == ["BTC"] and (btc["BTC"]["availBal"], btc["BTC"]["frozenBal"]) == ("0", "0.5")
        assert [position.qty for position in await x.rest.positions(key)] == [5_000_000], "what is locked is held"


async def test_money_that_is_not_there_is_refused_by_its_asset() -> None:
    """Nothing is lent and nothing sold short: 51008 names the asset; the adapter knows it as a want of money."""
    async with exchange(spot=True) as x:
        key = await x.key(balance="100")
        assert await placed(x, key) == ("51008", "Order failed. Insufficient USDT balance in account")
        assert await placed(x, key, side="sell", sz="0.001") == ("51008", "Order failed. Insufficient BTC balance in account")
        _, body = await x.raw(key, "POST", ORDER, BUY)
        assert body["data"][0]["subCode"] == "1000"
        line = await x.line(key)
        answered = await line.place(x.order(qty=10**6))
        assert answered.verdict == (Outcome.DEFINITE_REJECT, "margin", 51008)
        assert x.host.engine.n_orders() == 0


async def test_what_spot_does_not_know_is_refused() -> None:
    """Sides of positions, reduce-only, borrowing, leverage, sizes outside the filters, words of other markets: each its code."""
    async with exchange(spot=True) as x:
        key = await x.key(balance="10000000")
        base, limit = {"tgtCcy": "base_ccy"}, {"ordType": "limit", "sz": "1"}
        for change, wanted in (
            ({"posSide": "long"}, "51000"), ({"posSide": "net"}, "0"), ({"reduceOnly": True}, "51139"),
            ({"tdMode": "cross"}, "51010"), ({"tdMode": "isolated"}, "51010"), ({"tdMode": "x"}, "51000"),
            ({"tgtCcy": "BTC"}, "51000"), ({"ordType": "optimal_limit_ioc"}, "51000"), ({"sz": "0.1"}, "51020"),
            ({"sz": "x"}, "51000"), ({"sz": ""}, "51000"), ({"sz": "-5"}, "51000"), ({"sz": "0"}, "51000"),
            ({"sz": "1000001"}, "51201"), ({**base, "sz": "20"}, "51201"),
            ({**base, "sz": "0.0000099"}, "51020"), ({**base, "sz": "0.00001001"}, "51121"), ({**base, "sz": "0.00001"}, "0"),
            ({**limit, "px": "58000", "sz": "400"}, "51005"), ({**limit, "px": "70000"}, "51137"),
            ({**limit, "px": "50000"}, "51138"), ({**limit, "px": "58000.05"}, "51000"), (limit, "51204"),
            ({"instId": "BTC-USDT-SWAP"}, "51001"), ({"clOrdId": "a-b"}, "51000"),
        ):  # fmt: skip
            assert (await placed(x, key, **change))[0] == wanted, change
        for path, body in (
            ("set-leverage", {"instId": "BTC-USDT", "lever": "3", "mgnMode": "cross"}),
            ("set-position-mode", {"posMode": "net_mode"}),
        ):
            assert (await x.raw(key, "POST", f"/api/v5/account/{path}", body))[1]["code"] == "51010"
        assert (await x.raw(key, "GET", "/api/v5/account/leverage-info?instId=BTC-USDT&mgnMode=cross"))[1]["code"] == "51010"
        assert (await x.raw(key, "GET", "/api/v5/account/positions"))[1]["data"] == []
        amended = {"instId": "BTC-USDT", "ordId": "1", "newSz": "1"}
        assert (await x.raw(key, "POST", "/api/v5/trade/amend-order", amended))[0] == 404
        assert {code for code, _ in Dialect.refusals.values()} | {51008, 51010, 51139, 51201} <= set(CODES)


@pytest.mark.parametrize(("level", "mode", "trades"), [("1", "cash", True), ("2", "cash", True), ("3", "cross", False)])
async def test_account_modes(level: str, mode: str, trades: bool) -> None:
    """Cash in the modes for spot and futures, the common margin in the others, where ours, which are cash, are not taken."""
    async with exchange(spot=True) as x:
        key = await x.key(rights={"acctLv": level})
        assert (await placed(x, key, tdMode=mode, clOrdId="a"))[0] == "0"
        assert (await row_of(x, key, "a"))["tdMode"] == mode
        assert (await placed(x, key, tdMode={"cash": "cross", "cross": "cash"}[mode]))[0] == "51010"
        assert (await x.rest.settings(key, x.instruments[0])).can_trade is trades
        assert ((await owned(x, key))["USDT"]["availEq"] == "") is (level == "1")


async def test_a_position_mode_is_kept_and_means_nothing() -> None:
    """An account with two sides for its perpetuals trades here as any other, and the adapter does not see the mode."""
    async with exchange(spot=True) as x:
        key = await x.key(rights={"acctLv": "2", "posMode": "long_short_mode"})
        _, config = await x.raw(key, "GET", "/api/v5/account/config")
        assert config["data"][0]["posMode"] == "long_short_mode"
        assert not await x.rest.hedge_mode(key)
        await x.rest.set_hedge(key, True)
        assert (await placed(x, key))[0] == "0"
        assert (await x.raw(key, "POST", "/api/v5/account/set-position-mode", {"posMode": "net_mode"}))[1]["code"] == "0"
        _, config = await x.raw(key, "GET", "/api/v5/account/config")
        assert config["data"][0]["posMode"] == "net_mode"


async def test_orders_of_all_kinds_end_as_the_venue_says() -> None:
    """IOC and FOK take what there is or nothing, post-only never takes; a cancelled or expired order is ``canceled``."""
    async with exchange(spot=True) as x:
        key = await x.key(balance="100000000")
        line = await x.line(key)
        _, ask = x.best()
        (level,) = x.host.engine.depth(0, 1)[2]
        order = x.order(qty=level[1] + 700, px=ask)
        await line.place(order)
        ended = [o for o in await line.until(OrderTold, 2) if o.status == facts.CANCELED]
        assert [(o.cum_qty, o.cid) for o in ended] == [(level[1], order.cid)]
        price = str(Decimal(ask) / 10)
        assert (await placed(x, key, ordType="fok", px=price, sz="200", clOrdId="a"))[0] == "0"
        row = await row_of(x, key, "a")
        assert (row["state"], row["accFillSz"]) == ("canceled", "0")
        assert (await placed(x, key, ordType="post_only", px=str(Decimal(ask) / 10 + 100), sz="1"))[0] == "51109"
        _, pending = await x.raw(key, "GET", "/api/v5/trade/orders-pending?instType=SPOT")
        assert pending["data"] == []
        _, history = await x.raw(key, "GET", "/api/v5/trade/orders-history?instType=SPOT")
        assert len(history["data"]) == 2 and {row["instType"] for row in history["data"]} == {"SPOT"}


# --- pushes -------------------------------------------------------------------------------------------------------------------


async def pushes(x: Bench, key: Key, channels: Sequence[str]) -> aiohttp.ClientWebSocketResponse:
    """A private connection with these channels, behind its acknowledgements and snapshots."""
    (channel,) = x.wire.channels(x.endpoints)
    ws = await x.http.ws_connect(channel.url)
    await ws.send_str(x.wire.login(channel, key, x.host.server_ns() // 10**6).decode())
    assert orjson.loads((await ws.receive()).data)["event"] == "login"
    for name in channels:
        await ws.send_json({"op": "subscribe", "args": [{"channel": name}]})
        assert orjson.loads((await ws.receive()).data)["event"] == "subscribe"
        assert orjson.loads((await ws.receive()).data)["data"][0] is not None
    return ws


async def next_of(ws: aiohttp.ClientWebSocketResponse, channel: str) -> Any:
    while True:
        frame = orjson.loads((await asyncio.wait_for(ws.receive(), 5)).data)
        if frame["arg"]["channel"] == channel:
            return frame["data"][0]


async def test_balances_are_pushed_as_they_change() -> None:
    """Only the assets that changed, with their cause; one that is zero now is told as cash and not as a balance."""
    async with exchange(spot=True) as x:
        key = await x.key()
        ws = await pushes(x, key, ("account", "balance_and_position"))
        await placed(x, key, sz="0.01", tgtCcy="base_ccy")
        change = await next_of(ws, "balance_and_position")
        assert (change["eventType"], change["posData"]) == ("filled", [])
        assert {row["ccy"]: row["cashBal"] for row in change["balData"]}["BTC"] == "0.009995"
        told = await next_of(ws, "account")
        assert {row["ccy"] for row in told["details"]} == {"USDT", "BTC"}
        await x.tell("/deposit", {"account": "alice", "amount": "3", "asset": "ETH"})
        change, told = await next_of(ws, "balance_and_position"), await next_of(ws, "account")
        assert change["eventType"] == "transferred" and [row["ccy"] for row in change["balData"]] == ["ETH"]
        assert [(row["ccy"], row["eqUsd"]) for row in told["details"]] == [("ETH", "9000")]
        await placed(x, key, side="sell", sz="0.009995")
        change, told = await next_of(ws, "balance_and_position"), await next_of(ws, "account")
        assert {row["ccy"]: row["cashBal"] for row in change["balData"]}["BTC"] == "0"
        assert [row["ccy"] for row in told["details"]] == ["USDT"]
        await ws.close()


async def test_transfers_of_every_asset_are_bills() -> None:
    """Paid in and taken out, by asset; the adapter counts what is paid in money as a flow."""
    async with exchange(spot=True) as x:
        key = await x.key()
        await asyncio.sleep(0.002)  # the account's own first money is of another millisecond
        since = x.host.server_ns() // 10**6
        await x.tell("/deposit", {"account": "alice", "amount": "2", "asset": "BTC"})
        await x.tell("/deposit", {"account": "alice", "amount": "-250"})
        _, every = await x.raw(key, "GET", f"/api/v5/account/bills?type=1&begin={since}")
        told = [(row["ccy"], row["balChg"], row["subType"]) for row in every["data"]]
        assert told == [("USDT", "-250", "12"), ("BTC", "2", "11")]
        assert [amount for amount, _ in await x.rest.flows(key, since)] == [-250 * 10**8]
        assert await x.rest.fundings(key, since) == []


# --- money ----------------------------------------------------------------------------------------------------------------------

steps = st.tuples(
    st.sampled_from(["buy", "sell"]), st.sampled_from(["", "base_ccy", "quote_ccy"]), st.sampled_from(["market", "ioc", "limit"]),
    st.decimals(min_value="0.00001", max_value="2", places=7), st.integers(590_000, 612_000),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=12))
def test_no_sequence_of_orders_makes_or_loses_money(orders: list[tuple[str, str, str, Decimal, int]]) -> None:
    """What the accounts own and what was charged is what was paid in, per asset; nobody owes anything; each answer is a row."""
    host = Host(Options(seed=3, lift=frozenset({"all"})), Dialect, clock=lambda: 10**18)
    engine: Any = host.engine
    assert isinstance(engine, SpotEngine) and isinstance(host.dialect, Dialect) and host.makers is not None
    host.makers.step(host.now_ns())
    account = engine.add_account(50_000 * 10**8, ts_ns=host.now_ns())
    owner = host.owner(host.issue_key(account, "a", "hmac", "", {})["api_key"])
    assert owner is not None
    for side, unit, kind, size, px in orders:
        money = kind == "market" and (unit == "quote_ccy" or (not unit and side == "buy"))
        fields = {
            "instId": "BTC-USDT", "tdMode": "cash", "side": side, "ordType": kind, "sz": str(size * 60_000 if money else size),
            "tgtCcy": unit, "px": str(Decimal(px) / 10),
        }  # fmt: skip
        row = host.dialect.place(owner, host.dialect.asked(fields, False))
        assert (row["sCode"] == "0") == (row["ordId"] != "")
        assert all(free >= 0 and locked >= 0 for _, free, locked in engine.balances(account))
        told = {row["ccy"]: Decimal(row["cashBal"]) * 10**8 for row in host.dialect.balance(owner, {})[0]["details"]}
        assert told == {name: free + locked for name, free, locked in engine.balances(account) if free + locked}
    for asset, name in enumerate(engine.assets):
        held = sum(sum(engine.balance(one, name)) for one in range(engine.n_accounts))
        assert held + engine.fees_e8[asset] == engine.deposits_e8[asset]


# --- clients written by others -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["ccxt_okx_spot", "python_okx_spot"])
async def test_unmodified_client_trades_and_hears_about_it(client: str) -> None:
    """Markets, market buys by value and by quantity, limit orders, sales, balances, fees, and the private stream."""
    if not CLIENT.exists():
        pytest.fail("the clients' virtual environment is missing: run `make clients-venv`", pytrace=False)
    async with exchange(spot=True, maker_ms=20) as x:
        at = {**x.at, **await x.account(client)}
        done = await asyncio.to_thread(
            subprocess.run, [CLIENT, "-P", SCRIPTS / f"client_{client}.py", orjson.dumps(at)], capture_output=True, text=True,
            timeout=90, check=False)  # fmt: skip
        assert done.returncode == 0, f"{client}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert done.stdout.strip().endswith("ok")
