"""ccxt (REST and ccxt.pro), unmodified, on the simulated spot exchange: argv[1] is JSON with addresses and a key."""

import asyncio
import json
import sys

import ccxt
import ccxt.pro

at = json.loads(sys.argv[1])
KEYS = {"apiKey": at["api_key"], "secret": at["secret"], "password": at["passphrase"]}
SYMBOL = "SOL/USDT"


def redirect(exchange: ccxt.Exchange) -> ccxt.Exchange:
    exchange.urls["api"]["rest"] = at["rest"]
    exchange.urls["api"]["ws"] = at["ws"] + "/ws/v5"
    return exchange


def trade() -> None:
    exchange = redirect(ccxt.okx(KEYS))
    market = exchange.load_markets()[SYMBOL]
    assert market["spot"] and market["precision"]["amount"] == 1e-6 and market["limits"]["amount"]["min"] == 0.001, market
    assert exchange.fetch_balance()["USDT"]["total"] == 100000
    bought = exchange.create_order(SYMBOL, "market", "buy", 2)
    filled = exchange.fetch_order(bought["id"], SYMBOL)
    assert filled["status"] == "closed" and filled["filled"] == 2 and filled["average"] > 0, filled
    assert filled["fee"]["currency"] == "SOL" and abs(filled["fee"]["cost"] - 0.001) < 1e-9, filled["fee"]
    assert abs(exchange.fetch_balance()["SOL"]["total"] - 1.999) < 1e-9
    spent = exchange.create_market_buy_order_with_cost(SYMBOL, 500)
    cost = exchange.fetch_order(spent["id"], SYMBOL)
    assert 499 < cost["cost"] <= 500, cost
    resting = exchange.create_order(SYMBOL, "limit", "sell", 1, 155)
    assert abs(exchange.fetch_balance()["SOL"]["used"] - 1) < 1e-9
    assert [o["id"] for o in exchange.fetch_open_orders(SYMBOL)] == [resting["id"]]
    exchange.cancel_order(resting["id"], SYMBOL)
    assert exchange.fetch_order(resting["id"], SYMBOL)["status"] == "canceled"
    sold = exchange.fetch_order(exchange.create_order(SYMBOL, "market", "sell", 1.999)["id"], SYMBOL)
    assert sold["filled"] == 1.999 and sold["fee"]["currency"] == "USDT" and sold["fee"]["cost"] > 0, sold
    trades = exchange.fetch_my_trades(SYMBOL)
    assert {(t["side"], t["fee"]["currency"]) for t in trades} == {("buy", "SOL"), ("sell", "USDT")}, trades
    assert all(t["fee"]["cost"] > 0 for t in trades), trades
    assert exchange.fetch_ticker(SYMBOL)["last"] > 0
    assert len(exchange.fetch_order_book(SYMBOL, 5)["asks"]) == 5
    for side, amount in (("buy", 4_000), ("sell", 4_000)):
        try:
            exchange.create_order(SYMBOL, "market", side, amount)
        except ccxt.InsufficientFunds as error:
            assert ("USDT" if side == "buy" else "SOL") in str(error), error
        else:
            raise AssertionError("an order beyond all that is owned was accepted")


async def listen() -> None:
    exchange = redirect(ccxt.pro.okx(KEYS))
    try:
        await exchange.load_markets()
        watching = asyncio.ensure_future(exchange.watch_orders(SYMBOL))
        await asyncio.sleep(0.7)
        order = await exchange.create_order(SYMBOL, "limit", "buy", 1, 145)
        orders = await asyncio.wait_for(watching, 5)
        assert [o["id"] for o in orders] == [order["id"]], orders
        placed = await exchange.create_order_ws(SYMBOL, "limit", "buy", 1, 146)
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
