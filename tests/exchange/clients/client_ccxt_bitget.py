"""ccxt's Bitget (REST and ccxt.pro), unmodified, on the simulated exchange: argv[1] is JSON with addresses, key, passphrase and
whether the account is a unified one."""

import asyncio
import json
import sys

import ccxt
import ccxt.pro

at = json.loads(sys.argv[1])
SOL = "SOL/USDT:USDT"
UNIFIED = at["unified"]


def made(kind: type) -> ccxt.Exchange:
    exchange = kind({
        "apiKey": at["api_key"], "secret": at["secret"], "password": at["passphrase"], "enableRateLimit": False,
        "options": {"defaultType": "swap"},
    })
    api = exchange.urls["api"]
    for name, url in list(api.items()):
        if isinstance(url, str):
            api[name] = at["rest"]
    if "ws" in api:
        for name, url in list(api["ws"].items()):
            api["ws"][name] = url.replace("wss://ws.bitget.com", at["ws"])
    return exchange


def trade() -> None:
    exchange = made(ccxt.bitget)
    market = exchange.load_markets()[SOL]
    assert exchange.options["uta"] is UNIFIED, exchange.options["uta"]
    assert (market["precision"]["amount"], market["precision"]["price"]) == (0.01, 0.01), market["precision"]
    assert market["limits"]["cost"]["min"] == 5 and market["contractSize"] == 1, market["limits"]
    start = exchange.fetch_balance()["USDT"]["total"]
    assert start == 10_000, start
    bought = exchange.create_order(SOL, "market", "buy", 2)
    assert bought["id"], bought
    told = exchange.fetch_order(bought["id"], SOL)
    assert (told["status"], told["filled"], told["side"]) == ("closed", 2, "buy"), told
    positions = [p for p in exchange.fetch_positions([SOL]) if p["contracts"]]
    assert [(p["side"], p["contracts"]) for p in positions] == [("long", 2)], positions
    resting = exchange.create_order(SOL, "limit", "sell", 1, 160, {"timeInForce": "GTC"})
    assert [o["id"] for o in exchange.fetch_open_orders(SOL)] == [resting["id"]]
    exchange.cancel_order(resting["id"], SOL)
    assert exchange.fetch_order(resting["id"], SOL)["status"] == "canceled"
    exchange.create_order(SOL, "market", "sell", 2, None, {"reduceOnly": True})
    assert [p for p in exchange.fetch_positions([SOL]) if p["contracts"]] == []
    trades = exchange.fetch_my_trades(SOL)
    assert sum(t["amount"] for t in trades) == 4, trades
    assert {o["id"] for o in exchange.fetch_closed_orders(SOL)} >= {bought["id"]}
    exchange.set_leverage(15, SOL)
    exchange.set_position_mode(True, SOL)
    exchange.create_order(SOL, "market", "buy", 3, None, {"hedged": True})
    exchange.create_order(SOL, "market", "sell", 1, None, {"hedged": True, "reduceOnly": True})
    positions = [p for p in exchange.fetch_positions([SOL]) if p["contracts"]]
    assert [(p["side"], p["contracts"], p["hedged"]) for p in positions] == [("long", 2, True)], positions
    exchange.create_order(SOL, "market", "sell", 2, None, {"hedged": True, "reduceOnly": True})
    exchange.set_position_mode(False, SOL)
    assert exchange.fetch_ticker(SOL)["last"] > 0
    if not UNIFIED:
        assert len(exchange.fetch_order_book(SOL, 5)["asks"]) == 5
        assert exchange.fetch_leverage(SOL)["longLeverage"] == 15
    for amount, price, wanted in ((20_000, None, ccxt.InsufficientFunds), (0.01, 150, ccxt.InvalidOrder)):
        try:
            exchange.create_order(SOL, "limit" if price else "market", "buy", amount, price)
        except ccxt.ExchangeError as error:
            assert UNIFIED or isinstance(error, wanted), error
        else:
            raise AssertionError("an order that cannot be was accepted")
    try:
        exchange.fetch_order("123456789", SOL)
    except ccxt.ExchangeError as error:
        assert UNIFIED or isinstance(error, ccxt.OrderNotFound), error
    else:
        raise AssertionError("an order that never was is found")


async def listen() -> None:
    exchange = made(ccxt.pro.bitget)
    params = {"uta": True} if UNIFIED else {}
    try:
        await exchange.load_markets()
        orders = asyncio.ensure_future(exchange.watch_orders(SOL, None, None, params))
        trades = asyncio.ensure_future(exchange.watch_my_trades(SOL, None, None, params))
        held = asyncio.ensure_future(exchange.watch_positions([SOL], None, None, params))
        await asyncio.sleep(0.7)
        order = await exchange.create_order(SOL, "market", "buy", 1)
        assert order["id"] in [o["id"] for o in await asyncio.wait_for(orders, 5)]
        assert [t["order"] for t in await asyncio.wait_for(trades, 5)] == [order["id"]]
        await asyncio.wait_for(held, 5)
        await exchange.create_order(SOL, "market", "sell", 1, None, {"reduceOnly": True})
        book = await asyncio.wait_for(exchange.watch_bids_asks([SOL], params), 5)
        assert book[SOL]["bid"] > 0, book
    finally:
        await exchange.close()


trade()
asyncio.run(listen())
print("ok")
