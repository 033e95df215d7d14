"""ccxt (REST and ccxt.pro), unmodified, on the simulated spot exchange: argv[1] is JSON with addresses, api_key and secret."""

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
        api["ws"]["spot"] = at["ws"] + "/ws"
        api["ws"]["ws-api"]["spot"] = at["ws"] + "/ws-api/v3"


def trade() -> None:
    exchange = ccxt.binance({"apiKey": at["api_key"], "secret": at["secret"]})
    redirect(exchange)
    market = exchange.load_markets()["SOL/USDT"]
    assert market["spot"] and market["precision"]["amount"] == 0.001 and market["limits"]["cost"]["min"] == 5, market
    bought = exchange.create_order("SOL/USDT", "market", "buy", 2)
    assert bought["status"] == "closed" and bought["filled"] == 2, bought
    assert bought["clientOrderId"].startswith("x-TKT5PX2F"), bought["clientOrderId"]
    assert bought["fee"]["currency"] == "SOL" and abs(bought["fee"]["cost"] - 0.002) < 1e-9, bought["fee"]
    balance = exchange.fetch_balance()
    assert abs(balance["SOL"]["total"] - 1.998) < 1e-9, balance["SOL"]
    resting = exchange.create_order("SOL/USDT", "limit", "sell", 1, 160)
    assert resting["status"] == "open", resting
    assert abs(exchange.fetch_balance()["SOL"]["used"] - 1) < 1e-9
    assert [o["id"] for o in exchange.fetch_open_orders("SOL/USDT")] == [resting["id"]]
    exchange.cancel_order(resting["id"], "SOL/USDT")
    assert exchange.fetch_order(resting["id"], "SOL/USDT")["status"] == "canceled"
    sold = exchange.create_order("SOL/USDT", "market", "sell", 1.998)
    assert sold["filled"] == 1.998 and sold["fee"]["currency"] == "USDT", sold
    spent = exchange.create_order("SOL/USDT", "market", "buy", None, None, {"quoteOrderQty": 500})
    assert 499 < spent["cost"] <= 500, spent
    trades = exchange.fetch_my_trades("SOL/USDT")
    assert sum(t["amount"] for t in trades) >= 3.9, trades
    assert len(exchange.fetch_orders("SOL/USDT")) == 4
    assert exchange.fetch_ticker("SOL/USDT")["last"] > 0
    assert len(exchange.fetch_order_book("SOL/USDT", 5)["asks"]) == 5
    try:
        exchange.create_order("SOL/USDT", "market", "buy", 20_000)
    except ccxt.InsufficientFunds as error:
        assert "insufficient balance" in str(error), error
    else:
        raise AssertionError("an order beyond all money was accepted")


async def listen() -> None:
    exchange = ccxt.pro.binance({"apiKey": at["api_key"], "secret": at["secret"]})
    redirect(exchange)
    try:
        await exchange.load_markets()
        watching = asyncio.ensure_future(exchange.watch_orders("SOL/USDT"))
        await asyncio.sleep(0.7)
        order = await exchange.create_order("SOL/USDT", "limit", "buy", 1, 140)
        orders = await asyncio.wait_for(watching, 5)
        assert [o["id"] for o in orders] == [order["id"]], orders
        placed = await exchange.create_order_ws("SOL/USDT", "limit", "buy", 1, 141)
        assert placed["id"] != order["id"], placed
        await exchange.cancel_all_orders("SOL/USDT")
        book = await asyncio.wait_for(exchange.watch_bids_asks(["SOL/USDT"]), 5)
        assert book["SOL/USDT"]["bid"] > 0, book
    finally:
        await exchange.close()


trade()
asyncio.run(listen())
print("ok")
