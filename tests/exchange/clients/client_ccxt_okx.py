"""ccxt (REST and ccxt.pro), unmodified, on the simulated exchange: argv[1] is JSON with addresses and a key."""

import asyncio
import json
import sys

import ccxt
import ccxt.pro

at = json.loads(sys.argv[1])
KEYS = {"apiKey": at["api_key"], "secret": at["secret"], "password": at["passphrase"]}
SYMBOL = "SOL/USDT:USDT"


def redirect(exchange: ccxt.Exchange) -> ccxt.Exchange:
    exchange.urls["api"]["rest"] = at["rest"]
    exchange.urls["api"]["ws"] = at["ws"] + "/ws/v5"
    return exchange


def trade() -> None:
    exchange = redirect(ccxt.okx(KEYS))
    market = exchange.load_markets()[SYMBOL]
    assert market["contractSize"] == 1 and market["precision"]["amount"] == 0.01 and market["swap"], market
    start = exchange.fetch_balance()["USDT"]["total"]
    assert start == 100000, start
    bought = exchange.create_order(SYMBOL, "market", "buy", 2, params={"tdMode": "cross"})
    filled = exchange.fetch_order(bought["id"], SYMBOL)
    assert filled["status"] == "closed" and filled["filled"] == 2 and filled["average"] > 0, filled
    assert [(p["side"], p["contracts"]) for p in exchange.fetch_positions([SYMBOL])] == [("long", 2)]
    resting = exchange.create_order(SYMBOL, "limit", "sell", 1, 155, params={"tdMode": "cross"})
    assert [o["id"] for o in exchange.fetch_open_orders(SYMBOL)] == [resting["id"]]
    exchange.cancel_order(resting["id"], SYMBOL)
    assert exchange.fetch_order(resting["id"], SYMBOL)["status"] == "canceled"
    closed = exchange.create_order(SYMBOL, "market", "sell", 2, params={"tdMode": "cross", "reduceOnly": True})
    assert exchange.fetch_order(closed["id"], SYMBOL)["filled"] == 2
    assert [p for p in exchange.fetch_positions([SYMBOL]) if p["contracts"]] == []
    trades = exchange.fetch_my_trades(SYMBOL)
    assert sum(t["amount"] for t in trades) == 4 and sum(t["fee"]["cost"] for t in trades) > 0, trades
    assert exchange.fetch_balance()["USDT"]["total"] < start + 100
    exchange.set_leverage(15, SYMBOL, {"mgnMode": "cross"})
    assert exchange.fetch_leverage(SYMBOL, {"mgnMode": "cross"})["longLeverage"] == 15
    assert exchange.fetch_ticker(SYMBOL)["last"] > 0
    assert len(exchange.fetch_order_book(SYMBOL, 5)["asks"]) == 5
    try:
        exchange.create_order(SYMBOL, "market", "buy", 40_000, params={"tdMode": "cross"})
    except ccxt.InsufficientFunds:
        pass
    else:
        raise AssertionError("an order beyond all margin was accepted")


async def listen() -> None:
    exchange = redirect(ccxt.pro.okx(KEYS))
    try:
        await exchange.load_markets()
        watching = asyncio.ensure_future(exchange.watch_orders(SYMBOL))
        await asyncio.sleep(0.7)
        order = await exchange.create_order(SYMBOL, "limit", "buy", 1, 145, {"tdMode": "cross"})
        orders = await asyncio.wait_for(watching, 5)
        assert [o["id"] for o in orders] == [order["id"]], orders
        placed = await exchange.create_order_ws(SYMBOL, "limit", "buy", 1, 146, {"tdMode": "cross"})
        assert placed["id"] and placed["id"] != order["id"], placed
        cancelled = await exchange.cancel_order_ws(placed["id"], SYMBOL)
        assert cancelled["id"] == placed["id"], cancelled
        ticker = await asyncio.wait_for(exchange.watch_ticker(SYMBOL), 5)
        assert ticker["bid"] > 0, ticker
    finally:
        await exchange.close()


trade()
asyncio.run(listen())
print("ok")
