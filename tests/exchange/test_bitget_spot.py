"""The Bitget dialect of the spot market over real sockets, as classic and as unified account; ccxt, unmodified, trading on it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import orjson
import pytest

from copyd.errors import UsageError
from copyd.exchange.bitget_spot import Dialect
from copyd.exchange.host import Host, Options
from copyd.exchange.model import refined
from copyd.exchange.spot import SPOT_INSTRUMENTS
from tests.exchange.bitget_bench import RATES, Account, Bench, Socket, exchange, say
from tests.exchange.wire_client import hear
from tests.exchange.wire_helpers import ROOT

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
SCRIPT = ROOT / "tests" / "exchange" / "clients" / "client_ccxt_bitget_spot.py"
PLACE, PLACE_V3 = "/api/v2/spot/trade/place-order", "/api/v3/trade/place-order"
INFO = "/api/v2/spot/trade/orderInfo?clientOid={}"
GENERATIONS = pytest.mark.parametrize("unified", [False, True], ids=["classic", "unified"])


class Shop:
    """One account of the market, asked in the words of its API."""

    def __init__(self, x: Bench, account: Account, unified: bool) -> None:
        self.x, self.account, self.unified = x, account, unified

    def body(self, side: str, size: str, price: str = "", force: str = "gtc", **more: Any) -> dict[str, Any]:
        kind = {"orderType": "limit", "price": price} if price else {"orderType": "market"}
        if self.unified:
            return {"category": "SPOT", "symbol": "BTCUSDT", "side": side, "qty": size, "timeInForce": force, **kind, **more}
        return {"symbol": "BTCUSDT", "side": side, "size": size, "force": force, **kind, **more}

    async def place(self, *words: str, **more: Any) -> Any:
        return await self.x.good(self.account, "POST", PLACE_V3 if self.unified else PLACE, self.body(*words, **more))

    async def refused(self, *words: str, **more: Any) -> str:
        status, answer, _ = await self.x.call(
            self.account, "POST", PLACE_V3 if self.unified else PLACE, self.body(*words, **more))
        assert status == 400, answer
        return str(answer["code"])

    async def told(self, client: str) -> Any:
        """The order of that client id, as it is told to who asks; None: there is none."""
        if self.unified:
            _, answer, _ = await self.x.call(self.account, "GET", f"/api/v3/trade/order-info?clientOid={client}")
            return answer["data"]
        rows = await self.x.good(self.account, "GET", INFO.format(client))
        return rows[0] if rows else None

    async def coins(self) -> dict[str, tuple[Decimal, Decimal]]:
        """(available, in orders) by coin, of those that are held."""
        path = "/api/v3/account/assets" if self.unified else "/api/v2/spot/account/assets"
        data = await self.x.good(self.account, "GET", path)
        rows = data["assets"] if self.unified else data
        held = "locked" if self.unified else "frozen"
        return {row["coin"]: (Decimal(row["available"]), Decimal(row[held])) for row in rows}

    async def fills(self) -> Any:
        path = "/api/v3/trade/fills?category=SPOT" if self.unified else "/api/v2/spot/trade/fills?symbol=BTCUSDT"
        data = await self.x.good(self.account, "GET", path)
        return data["list"] if self.unified else data

    async def hears(self, *channels: str) -> Socket:
        return await self.x.private(self.account, *channels, v3=self.unified, market="SPOT")


@asynccontextmanager
async def shop(unified: bool, lift: frozenset[str] = RATES, **order: Any) -> AsyncIterator[Shop]:
    async with exchange(dialect=Dialect, lift=lift) as x:
        rights = {"unified": unified, **order.pop("rights", {})}
        account = await x.account(rights=rights, maker_ppm=1000, taker_ppm=1000, **order)
        yield Shop(x, account, unified)


@GENERATIONS
async def test_unmodified_ccxt_trades_and_hears_about_it(unified: bool) -> None:
    """Which API it is, markets, a market buy by its cost, limit orders, sale, cancel, balances, trades with fees, streams."""
    async with exchange(dialect=Dialect, maker_ms=200) as x:
        account = await x.account("ccxt", balance="10000", rights={"unified": unified}, maker_ppm=1000, taker_ppm=1000)
        at = orjson.dumps({"rest": x.rest, "ws": x.ws, "unified": unified, **account})
        process = await asyncio.create_subprocess_exec(
            PYTHON, "-P", SCRIPT, at, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = await asyncio.wait_for(process.communicate(), 90)
        assert process.returncode == 0, f"{out.decode()[-2000:]}\n{err.decode()[-4000:]}"
        assert out.decode().strip().endswith("ok")


@GENERATIONS
async def test_a_market_order_that_buys_is_sized_in_the_quote_coin(unified: bool) -> None:
    """600 of it buy whole lots of the base coin for no more than 600; the commission is taken out of what was bought."""
    async with shop(unified) as s:
        await s.place("buy", "600", clientOid="b")
        told = await s.told("b")
        bought = Decimal(told["cumExecQty" if unified else "baseVolume"])
        spent = Decimal(told["cumExecValue" if unified else "quoteVolume"])
        assert Decimal(590) < spent <= 600 and told["orderStatus" if unified else "status"] == "filled"
        assert (told["amount"] == "600") if unified else (Decimal(told["size"]) == 600)
        coins = await s.coins()
        fee = bought / 1000
        assert coins["BTC"] == (bought - fee, 0) and coins["USDT"] == (100_000 - spent, 0)
        rows = await s.fills()
        fees = [row["feeDetail"][0] if unified else row["feeDetail"] for row in rows]
        assert {one["feeCoin"] for one in fees} == {"BTC"}
        assert sum(Decimal(one["fee" if unified else "totalFee"]) for one in fees) == (fee if unified else -fee)


@GENERATIONS
async def test_a_sale_is_sized_in_the_base_coin_and_pays_in_the_quote_coin(unified: bool) -> None:
    """What is held is sold and no lot more; the commission is taken out of what is received."""
    async with shop(unified) as s:
        await s.x.tell("POST", "/deposit", {"account": "alice", "asset": "BTC", "amount": "0.01"})
        assert await s.refused("sell", "0.01001") == ("25202" if unified else "43012")
        await s.place("sell", "0.01")
        [row] = await s.fills()
        fee = row["feeDetail"][0] if unified else row["feeDetail"]
        value = Decimal(row["execValue" if unified else "amount"])
        assert fee["feeCoin"] == "USDT" and abs(Decimal(fee["fee" if unified else "totalFee"])) == value / 1000
        assert (await s.coins()) == {"USDT": (100_000 + value - value / 1000, Decimal(0))}


@GENERATIONS
async def test_open_orders_lock_what_they_may_take(unified: bool) -> None:
    """A resting buy locks the quote coin, a resting sale the base coin; a cancel gives it back and ends the order."""
    async with shop(unified) as s:
        await s.x.tell("POST", "/deposit", {"account": "alice", "asset": "BTC", "amount": "0.01"})
        bid = await s.place("buy", "0.01", "58000", clientOid="bid")
        await s.place("sell", "0.004", "62000", clientOid="ask")
        assert await s.coins() == {"USDT": (99_420, 580), "BTC": (Decimal("0.006"), Decimal("0.004"))}
        path = "/api/v3/trade/{}?category=SPOT" if unified else "/api/v2/spot/trade/{}?symbol=BTCUSDT"
        listed = await s.x.good(s.account, "GET", path.format("unfilled-orders"))
        rows = listed["list"] if unified else listed
        assert [row["clientOid"] for row in rows] == ["ask", "bid"]
        if not unified:  # an open order is listed with its price where the others have their average
            assert [(Decimal(row["priceAvg"]), row["basePrice"]) for row in rows] == [(62000, "0"), (58000, "0")]
        cancel = {"symbol": "BTCUSDT", "clientOid": "bid"}
        where = "/api/v3/trade/cancel-order" if unified else "/api/v2/spot/trade/cancel-order"
        assert (await s.x.good(s.account, "POST", where, cancel))["orderId"] == bid["orderId"]
        assert (await s.coins())["USDT"] == (100_000, 0)
        listed = await s.x.good(s.account, "GET", path.format("history-orders"))
        [row] = listed["list"] if unified else listed
        assert (row["clientOid"], row["orderStatus" if unified else "status"]) == ("bid", "cancelled")
        all_of = "/api/v3/trade/cancel-symbol-order" if unified else "/api/v2/spot/trade/cancel-symbol-order"
        await s.x.good(s.account, "POST", all_of, {"symbol": "BTCUSDT", "category": "SPOT"} if unified else {"symbol": "BTCUSDT"})
        assert (await s.coins())["BTC"] == (Decimal("0.01"), 0)


@GENERATIONS
@pytest.mark.parametrize(("words", "v2", "v3"), [
    (("buy", "200000"), "43012", "25202"), (("buy", "10", "60000"), "43012", "25202"), (("sell", "0.01"), "43012", "25202"),
    (("buy", "4"), "45110", "25611"), (("buy", "0.00005", "60000"), "45110", "25611"),
    (("buy", "0.000001", "60000"), "01002", "25610"), (("buy", "0.01", "60000.001"), "01002", "25244"),
    (("sell", "500"), "43007", "25208"), (("buy", "none"), "40017", "400172"), (("buy", "0"), "40017", "400172"),
    (("long", "600"), "40017", "400172"), (("buy", "0.01", "999999"), "40815", "25206"),
])  # fmt: skip
async def test_orders_that_cannot_be(unified: bool, words: tuple[str, ...], v2: str, v3: str) -> None:
    """Beyond what is held, below the least value, off the step, too large, no number, no side: each its code, nothing moved."""
    async with shop(unified) as s:
        assert await s.refused(*words) == (v3 if unified else v2)
        assert await s.coins() == {"USDT": (100_000, 0)}


@GENERATIONS
async def test_symbols_and_products_that_are_not_here(unified: bool) -> None:
    """Another symbol and another product are refused; what the perpetuals answer in v2 is not there at all."""
    async with shop(unified) as s:
        assert await s.refused("buy", "600", symbol="XYZUSDT") == ("25100" if unified else "42016")
        if unified:
            assert await s.refused("buy", "600", category="USDT-FUTURES") == "25100"
            assert await s.x.good(s.account, "GET", "/api/v3/position/current-position?category=USDT-FUTURES") == {"list": None}
        else:
            status, answer, _ = await s.x.call(s.account, "POST", "/api/v2/mix/order/place-order", s.body("buy", "1"))
            assert (status, answer["code"]) == (404, "40404")
        contracts = "/api/v2/mix/market/contracts?productType=USDT-FUTURES"
        assert await s.x.good(None, "GET", contracts) == []


async def test_a_key_needs_the_right_to_trade_spot() -> None:
    """The right to trade futures is none to trade here, and the other way round."""
    async with shop(False, rights={"authorities": ["coor", "coow", "stor"]}) as s:
        assert await s.refused("buy", "600") == "40014"
    async with shop(False, rights={"authorities": ["stow"]}) as s:
        await s.place("buy", "600")


@GENERATIONS
async def test_an_id_is_unique_among_open_orders_only(unified: bool) -> None:
    """A repeat is refused while the first is open; an unknown id is an empty answer in v2, a refusal in v3."""
    async with shop(unified) as s:
        await s.place("buy", "0.01", "58000", clientOid="same")
        assert await s.refused("buy", "600", clientOid="same") == ("25212" if unified else "43118")
        await s.place("buy", "600", clientOid="other")
        await s.place("buy", "600", clientOid="other")
        assert await s.told("never") is None


@GENERATIONS
async def test_pushes_of_orders_executions_and_coins(unified: bool) -> None:
    """An order is told as it is taken and at each execution, then the coins that changed, together."""
    async with shop(unified) as s:
        ws = await s.hears("order" if unified else "orders", "fill", "account")
        await s.place("buy", "0.01", "61000", "ioc", clientOid="b")
        frames = [await hear(ws) for _ in range(4)]
        name = "topic" if unified else "channel"
        assert [f["arg"][name] for f in frames] == [*(["order"] * 2 if unified else ["orders"] * 2), "fill", "account"]
        new, done, fill, account = (f["data"] for f in frames)
        if unified:
            assert [row["orderStatus"] for row in (new[0], done[0])] == ["live", "filled"]
            assert (fill[0]["category"], fill[0]["feeDetail"]) == ("spot", [{"feeCoin": "BTC", "fee": "0.00001"}])
            assert {row["coin"]: row["balance"] for row in account[0]["coin"]}["BTC"] == "0.00999"
        else:
            assert [row["status"] for row in (new[0], done[0])] == ["live", "filled"]
            assert (done[0]["newSize"], done[0]["size"], done[0]["notional"]) == ("0.01", "610.00000", "610")
            assert (done[0]["fillFee"], done[0]["fillFeeCoin"], done[0]["accBaseVolume"]) == ("-0.00001", "BTC", "0.01")
            assert "clientOid" not in fill[0] and fill[0]["feeDetail"][0]["totalFee"] == "0.00001"
            assert {row["coin"]: row["available"] for row in account}["BTC"] == "0.00999"
        rows = account[0]["coin"] if unified else account
        assert {row["coin"] for row in rows} == {"BTC", "USDT"}


async def test_a_market_buy_is_pushed_with_its_cost() -> None:
    """Its size, new size and worth are all of the quote coin, whatever it bought."""
    async with shop(False) as s:
        ws = await s.hears("orders")
        await s.place("buy", "600", clientOid="b")
        new, done = (await hear(ws))["data"][0], (await hear(ws))["data"][0]
        for row in (new, done):
            assert {row["size"], row["newSize"], row["notional"]} == {"600"} and "price" not in row
        assert (new["accBaseVolume"], done["status"], Decimal(done["baseVolume"]) > 0) == ("0", "filled", True)


async def test_what_is_subscribed_to_elsewhere_stays_silent() -> None:
    """Channels of the futures account are taken and say nothing of this market."""
    async with shop(False) as s:
        ws = await s.x.private(s.account, "orders", "fill")
        await s.place("buy", "600")
        await ws.send_str("ping")
        assert (await ws.receive()).data == "pong"


@GENERATIONS
async def test_tickers_and_books_are_public(unified: bool) -> None:
    """A ticker channel and its REST twin tell bid, ask and the last price; there is no mark."""
    async with shop(unified) as s:
        v = 3 if unified else 2
        ws = await s.x.http.ws_connect(f"{s.x.ws}/v{v}/ws/public")
        arg = {"instType": "spot", "topic": "ticker", "symbol": "BTCUSDT"} if unified else {
            "instType": "SPOT", "channel": "ticker", "instId": "BTCUSDT"}  # fmt: skip
        await say(ws, op="subscribe", args=[arg])
        assert (await hear(ws))["event"] == "subscribe"
        [row] = (await hear(ws))["data"]
        path = "/api/v3/market/tickers?category=SPOT&symbol=BTCUSDT" if unified else "/api/v2/spot/market/tickers?symbol=BTCUSDT"
        [asked] = await s.x.good(None, "GET", path)
        assert {**row, "ts": ""} == {**asked, "ts": ""} and "markPrice" not in row
        book = await s.x.good(None, "GET", "/api/v2/spot/market/orderbook?symbol=BTCUSDT&limit=5")
        assert (len(book["asks"]), book["bids"][0][0]) == (5, row["bid1Price" if unified else "bidPr"])


@GENERATIONS
async def test_what_is_paid_in_and_taken_out_is_a_bill(unified: bool) -> None:
    """Of every coin, newest first, by pages, with its sign in v2 and its name in v3."""
    async with shop(unified) as s:
        await s.x.tell("POST", "/deposit", {"account": "alice", "asset": "BTC", "amount": "0.5"})
        await s.x.tell("POST", "/deposit", {"account": "alice", "amount": "-5"})
        path = "/api/v3/account/financial-records?category=SPOT" if unified else "/api/v2/spot/account/bills?coin="
        first = await s.x.good(s.account, "GET", f"{path}&limit=2")
        rows = first["list"] if unified else first
        assert [(row["coin"], row["amount" if unified else "size"]) for row in rows] == [("USDT", "-5"), ("BTC", "0.5")]
        kinds = [row["type" if unified else "businessType"].lower() for row in rows]
        assert kinds == ["transfer_out", "transfer_in"]
        by, last = ("cursor", first["cursor"]) if unified else ("idLessThan", rows[-1]["billId"])
        rest = await s.x.good(s.account, "GET", f"{path}&limit=2&{by}={last}")
        assert [row["amount" if unified else "size"] for row in (rest["list"] if unified else rest)] == ["100000"]


async def test_batches_answer_order_by_order() -> None:
    """Good and bad orders of a batch stand in two lists; fifty fit, fifty-one do not."""
    async with shop(False) as s:
        row = {"side": "buy", "orderType": "market", "force": "gtc", "size": "10"}
        batch = "/api/v2/spot/trade/batch-orders"
        told = await s.x.good(
            s.account, "POST", batch, {"symbol": "BTCUSDT", "orderList": [{**row, "clientOid": "g"}, {**row, "size": "1"}]})
        assert [one["clientOid"] for one in told["successList"]] == ["g"]
        assert [one["errorCode"] for one in told["failureList"]] == ["45110"]
        for rows in ([row] * 51, [], 5, [5]):
            _, answer, _ = await s.x.call(s.account, "POST", batch, {"symbol": "BTCUSDT", "orderList": rows})
            assert answer["code"] == "40306"


@GENERATIONS
@pytest.mark.parametrize("fields", [
    {"size": {}, "qty": {}}, {"size": [1], "qty": [1]}, {"size": "1e3", "qty": "1e3"}, {"side": 1}, {"orderType": None},
    {"force": "soon", "timeInForce": "soon"}, {"symbol": []}, {"clientOid": "\u00b2" * 3}, {"clientOid": {"a": 1}},
    {"size": "\u00b2", "qty": "\u00b2"}, {"size": "-5", "qty": "-5"},
])  # fmt: skip
async def test_nonsense_is_refused_and_nothing_is_placed(unified: bool, fields: dict[str, Any]) -> None:
    """Whatever stands in a field, the answer is a refusal of the venue, never a failure."""
    async with shop(unified) as s:
        body = {**s.body("buy", "600"), **fields}
        status, answer, _ = await s.x.call(s.account, "POST", PLACE_V3 if unified else PLACE, body)
        assert status == 400 and answer["code"] != "00000"
        assert await s.x.tell("GET", "/truth/orders") == []


async def test_coins_add_up_whatever_was_traded() -> None:
    """What accounts hold and the commissions together are what was paid in, of every coin."""
    async with shop(False) as s:
        for number in range(6):
            await s.place("buy", f"{500 + number}.37")
        await s.place("sell", "0.03")
        engine: Any = s.x.host.engine
        for asset, (fees, paid) in enumerate(zip(engine.fees_e8, engine.deposits_e8, strict=True)):
            held = sum(engine._free[n][asset] + engine._locked[n][asset] for n in range(engine.n_accounts))
            assert held + fees == paid


def test_steps_are_powers_of_ten() -> None:
    """The market's list has no words for another step."""
    lots = tuple(refined(spec, 0, 2_000) for spec in SPOT_INSTRUMENTS[:1])
    with pytest.raises(UsageError, match="powers of ten"):
        Host(Options(makers=False), Dialect, lots)
