"""ccxt's bybit (REST and ccxt.pro), unmodified, on the simulated exchange: argv[1] is JSON with addresses, api_key and secret."""

import asyncio
import json
import sys

import ccxt
import ccxt.pro

at = json.loads(sys.argv[1])
SYMBOL = "SOL/USDT:USDT"


def redirect(exchange: ccxt.Exchange) -> None:
    api = exchange.urls["api"]
    for name, url in list(api.items()):
        if isinstance(url, str):
            api[name] = at["rest"]
    if "ws" in api:
        api["ws"]["public"]["linear"] = at["ws"] + "/v5/public/linear"
        api["ws"]["private"]["contract"] = at["ws"] + "/v5/private"
        api["ws"]["private"]["trade"] = at["ws"] + "/v5/trade"


def trade() -> None:
    exchange = ccxt.bybit({"apiKey": at["api_key"], "secret": at["secret"], "options": {"defaultType": "swap"}})
    redirect(exchange)
    market = exchange.load_markets()[SYMBOL]
    assert (market["precision"]["amount"] == 0.01 and market["limits"]["cost"]["min"] is None) or market["contract"], market
    start = exchange.fetch_balance()["USDT"]["total"]
    assert start > 0
    bought = exchange.create_order(SYMBOL, "market", "buy", 2)
    order = exchange.fetch_closed_order(bought["id"], SYMBOL)
    assert order["status"] == "closed" and order["filled"] == 2, order
    positions = exchange.fetch_positions([SYMBOL])
    assert [(p["side"], p["contracts"]) for p in positions if p["contracts"]] == [("long", 2)], positions
    resting = exchange.create_order(SYMBOL, "limit", "sell", 1, 160, {"clientOrderId": "mine-1"})
    assert [o["id"] for o in exchange.fetch_open_orders(SYMBOL)] == [resting["id"]]
    exchange.cancel_order(resting["id"], SYMBOL)
    assert exchange.fetch_canceled_orders(SYMBOL)[-1]["clientOrderId"] == "mine-1"
    try:
        exchange.create_order(SYMBOL, "limit", "sell", 1, 160, {"clientOrderId": "mine-1"})
    except ccxt.InvalidOrder as error:
        assert "110072" in str(error), error
    else:
        raise AssertionError("a client id was taken twice")
    exchange.create_order(SYMBOL, "market", "sell", 2, params={"reduceOnly": True})
    assert [p for p in exchange.fetch_positions() if p["contracts"]] == []
    trades = exchange.fetch_my_trades(SYMBOL)
    assert sum(t["amount"] for t in trades) >= 4, trades
    assert sum(t["fee"]["cost"] for t in trades) > 0 and exchange.fetch_balance()["USDT"]["total"] < start + 100
    exchange.set_leverage(15, SYMBOL)
    assert exchange.fetch_leverage(SYMBOL)["longLeverage"] == 15
    assert exchange.fetch_ticker(SYMBOL)["last"] > 0
    assert len(exchange.fetch_order_book(SYMBOL, 5)["asks"]) == 5
    try:
        exchange.create_order(SYMBOL, "limit", "buy", 20_000, 150)
    except ccxt.InsufficientFunds as error:
        assert "110007" in str(error), error
    else:
        raise AssertionError("an order beyond all margin was accepted")


async def listen() -> None:
    exchange = ccxt.pro.bybit({"apiKey": at["api_key"], "secret": at["secret"], "options": {"defaultType": "swap"}})
    redirect(exchange)
    try:
        await exchange.load_markets()
        watching = asyncio.ensure_future(exchange.watch_orders(SYMBOL))
        await asyncio.sleep(0.7)
        order = await exchange.create_order(SYMBOL, "limit", "buy", 1, 145)
        orders = await asyncio.wait_for(watching, 5)
        assert [o["id"] for o in orders] == [order["id"]], orders
        placed = await exchange.create_order_ws(SYMBOL, "limit", "buy", 1, 146)
        assert placed["id"] != order["id"], placed
        await exchange.cancel_all_orders(SYMBOL)
        assert await exchange.fetch_open_orders(SYMBOL) == []
        book = await asyncio.wait_for(exchange.watch_bids_asks([SYMBOL]), 5)
        assert book[SYMBOL]["bid"] > 0, book
    finally:
        await exchange.close()


trade()
asyncio.run(listen())
print("ok")
