"""ccxt's bybit (REST and ccxt.pro), unmodified, on the simulated spot market: argv[1] is JSON with addresses, key and secret."""

import asyncio
import json
import sys

import ccxt
import ccxt.pro

at = json.loads(sys.argv[1])
SYMBOL = "SOL/USDT"


def redirect(exchange: ccxt.Exchange) -> None:
    api = exchange.urls["api"]
    for name, url in list(api.items()):
        if isinstance(url, str):
            api[name] = at["rest"]
    if "ws" in api:
        api["ws"]["public"]["spot"] = at["ws"] + "/v5/public/spot"
        private = api["ws"]["private"]
        private["contract"] = private["spot"]["unified"] = at["ws"] + "/v5/private"
        private["trade"] = at["ws"] + "/v5/trade"


def trade() -> None:
    exchange = ccxt.bybit({"apiKey": at["api_key"], "secret": at["secret"], "options": {"defaultType": "spot"}})
    redirect(exchange)
    market = exchange.load_markets()[SYMBOL]
    assert market["spot"] and market["precision"]["amount"] == 0.001 and market["limits"]["cost"]["min"] == 5, market
    bought = exchange.create_order(SYMBOL, "market", "buy", 2)
    order = exchange.fetch_closed_order(bought["id"], SYMBOL)
    assert order["status"] == "closed" and order["filled"] == 2, order
    [mine] = exchange.fetch_my_trades(SYMBOL)
    assert mine["fee"]["currency"] == "SOL" and abs(mine["fee"]["cost"] - 0.002) < 1e-9, mine
    assert abs(exchange.fetch_balance()["SOL"]["total"] - 1.998) < 1e-9
    resting = exchange.create_order(SYMBOL, "limit", "sell", 1, 155, {"clientOrderId": "mine-1"})
    assert [o["id"] for o in exchange.fetch_open_orders(SYMBOL)] == [resting["id"]]
    assert abs(exchange.fetch_balance()["SOL"]["used"] - 1) < 1e-9
    exchange.cancel_order(resting["id"], SYMBOL)
    assert exchange.fetch_canceled_orders(SYMBOL)[-1]["clientOrderId"] == "mine-1"
    sold = exchange.create_order(SYMBOL, "market", "sell", 1.998)
    assert exchange.fetch_closed_order(sold["id"], SYMBOL)["filled"] == 1.998
    spent = exchange.create_market_buy_order_with_cost(SYMBOL, 500)
    assert 499 < exchange.fetch_closed_order(spent["id"], SYMBOL)["cost"] <= 500
    trades = exchange.fetch_my_trades(SYMBOL)
    assert {t["fee"]["currency"] for t in trades if t["side"] == "sell"} == {"USDT"}, trades
    assert exchange.fetch_ticker(SYMBOL)["last"] > 0
    assert len(exchange.fetch_order_book(SYMBOL, 5)["asks"]) == 5
    try:
        exchange.create_order(SYMBOL, "limit", "buy", 20_000, 150)
    except ccxt.InsufficientFunds as error:
        assert "170131" in str(error), error
    else:
        raise AssertionError("an order beyond all money was accepted")


async def listen() -> None:
    exchange = ccxt.pro.bybit({"apiKey": at["api_key"], "secret": at["secret"], "options": {"defaultType": "spot"}})
    redirect(exchange)
    try:
        await exchange.load_markets()
        watching = asyncio.ensure_future(exchange.watch_orders(SYMBOL))
        await asyncio.sleep(0.7)
        order = await exchange.create_order(SYMBOL, "limit", "buy", 1, 140)
        orders = await asyncio.wait_for(watching, 5)
        assert [o["id"] for o in orders] == [order["id"]], orders
        placed = await exchange.create_order_ws(SYMBOL, "limit", "buy", 1, 141)
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
