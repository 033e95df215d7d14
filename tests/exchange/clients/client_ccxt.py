"""ccxt (REST and ccxt.pro), unmodified, on the simulated exchange: argv[1] is JSON with addresses, api_key and secret."""

import asyncio
import json
import sys

import ccxt
import ccxt.pro

at = json.loads(sys.argv[1])


def redirect(exchange: ccxt.Exchange) -> None:
    api = exchange.urls["api"]
    for name, url in list(api.items()):
        if isinstance(url, str) and "://" in url:
            api[name] = at["rest"] + "/" + url.split("://", 1)[1].split("/", 1)[1]
    if "ws" in api:
        api["ws"]["linear"] = at["streams"] + "/ws"
        api["ws"]["ws-api"]["linear"] = at["ws_api"]


def trade() -> None:
    exchange = ccxt.binanceusdm({"apiKey": at["api_key"], "secret": at["secret"]})
    redirect(exchange)
    markets = exchange.load_markets()
    market = markets["SOL/USDT:USDT"]
    assert market["precision"]["amount"] == 0.01 and market["limits"]["cost"]["min"] == 5, market["limits"]
    start = exchange.fetch_balance()["USDT"]["total"]
    bought = exchange.create_order("SOL/USDT:USDT", "market", "buy", 2)
    assert bought["status"] == "closed" and bought["filled"] == 2, bought
    assert bought["clientOrderId"].startswith("x-cvBPrNm9"), bought["clientOrderId"]
    positions = exchange.fetch_positions(["SOL/USDT:USDT"])
    assert [(p["side"], p["contracts"]) for p in positions] == [("long", 2)], positions
    resting = exchange.create_order("SOL/USDT:USDT", "limit", "sell", 1, 160)
    assert resting["status"] == "open", resting
    assert [o["id"] for o in exchange.fetch_open_orders("SOL/USDT:USDT")] == [resting["id"]]
    exchange.cancel_order(resting["id"], "SOL/USDT:USDT")
    assert exchange.fetch_order(resting["id"], "SOL/USDT:USDT")["status"] == "canceled"
    closed = exchange.create_order("SOL/USDT:USDT", "market", "sell", 2, params={"reduceOnly": True})
    assert closed["filled"] == 2 and closed["reduceOnly"] is True, closed
    assert [p for p in exchange.fetch_positions() if p["contracts"]] == []
    trades = exchange.fetch_my_trades("SOL/USDT:USDT")
    assert sum(t["amount"] for t in trades) >= 4, trades
    fees = sum(t["fee"]["cost"] for t in trades)
    assert fees > 0 and exchange.fetch_balance()["USDT"]["total"] < start + 100
    assert exchange.set_leverage(15, "SOL/USDT:USDT")["leverage"] == 15
    assert exchange.fetch_ticker("SOL/USDT:USDT")["last"] > 0
    assert len(exchange.fetch_order_book("SOL/USDT:USDT", 5)["asks"]) == 5
    try:
        exchange.create_order("SOL/USDT:USDT", "market", "buy", 20_000)
    except ccxt.ExchangeError as error:
        assert "-2019" in str(error), error
    else:
        raise AssertionError("an order beyond all margin was accepted")


async def listen() -> None:
    exchange = ccxt.pro.binanceusdm({"apiKey": at["api_key"], "secret": at["secret"]})
    redirect(exchange)
    try:
        await exchange.load_markets()
        watching = asyncio.ensure_future(exchange.watch_orders("SOL/USDT:USDT"))
        await asyncio.sleep(0.7)
        order = await exchange.create_order("SOL/USDT:USDT", "limit", "buy", 1, 140)
        orders = await asyncio.wait_for(watching, 5)
        assert [o["id"] for o in orders] == [order["id"]], orders
        placed = await exchange.create_order_ws("SOL/USDT:USDT", "limit", "buy", 1, 141)
        assert placed["id"] != order["id"], placed
        await exchange.cancel_all_orders("SOL/USDT:USDT")
        book = await asyncio.wait_for(exchange.watch_bids_asks(["SOL/USDT:USDT"]), 5)
        assert book["SOL/USDT:USDT"]["bid"] > 0, book
    finally:
        await exchange.close()


trade()
asyncio.run(listen())
print("ok")
