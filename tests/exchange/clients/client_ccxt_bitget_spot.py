"""ccxt's Bitget (REST and ccxt.pro), unmodified, on the simulated spot exchange: argv[1] is JSON with addresses, key, passphrase
and whether the account is a unified one."""

import asyncio
import json
import sys

import ccxt
import ccxt.pro

at = json.loads(sys.argv[1])
BTC = "BTC/USDT"
UNIFIED = at["unified"]


def made(kind: type) -> ccxt.Exchange:
    exchange = kind({
        "apiKey": at["api_key"], "secret": at["secret"], "password": at["passphrase"], "enableRateLimit": False,
        "options": {"defaultType": "spot"},
    })
    api = exchange.urls["api"]
    for name, url in list(api.items()):
        if isinstance(url, str):
            api[name] = at["rest"]
    if "ws" in api:
        for name, url in list(api["ws"].items()):
            api["ws"][name] = url.replace("wss://ws.bitget.com", at["ws"])
    return exchange


def buy(exchange: ccxt.Exchange, cost: float) -> dict:
    """A market buy of so much of the quote coin: what ccxt calls an amount goes out as it is where the account is unified."""
    if UNIFIED:
        return exchange.create_order(BTC, "market", "buy", cost)
    return exchange.create_market_buy_order_with_cost(BTC, cost)


def trade() -> None:
    exchange = made(ccxt.bitget)
    market = exchange.load_markets()[BTC]
    assert exchange.options["uta"] is UNIFIED, exchange.options["uta"]
    steps = market["precision"]
    assert market["spot"] and (steps["amount"], steps["price"]) == (0.00001, 0.01), steps
    assert market["limits"]["cost"]["min"] == 5, market["limits"]
    start = exchange.fetch_balance()["USDT"]["total"]
    assert start == 10_000, start
    bought = buy(exchange, 600)
    assert bought["id"], bought
    told = exchange.fetch_order(bought["id"], BTC)
    assert (told["status"], told["side"]) == ("closed", "buy") and 0.0095 < told["filled"] < 0.0101, told
    assert UNIFIED or 590 < told["cost"] <= 600, told  # ccxt reads no cost of an order of v3
    held = exchange.fetch_balance()
    assert abs(held["BTC"]["free"] - told["filled"] * 0.999) < 1e-8, (held["BTC"], told)
    resting = exchange.create_order(BTC, "limit", "sell", 0.005, 62_000, {"timeInForce": "GTC"})
    assert [o["id"] for o in exchange.fetch_open_orders(BTC)] == [resting["id"]]
    assert exchange.fetch_balance()["BTC"]["used"] == 0.005
    exchange.cancel_order(resting["id"], BTC)
    assert exchange.fetch_order(resting["id"], BTC)["status"] == "canceled"
    taken = exchange.create_order(BTC, "limit", "buy", 0.001, 61_000, {"timeInForce": "IOC"})
    assert exchange.fetch_order(taken["id"], BTC)["filled"] == 0.001
    sold = exchange.create_order(BTC, "market", "sell", 0.01)
    assert exchange.fetch_order(sold["id"], BTC)["filled"] == 0.01
    trades = exchange.fetch_my_trades(BTC)
    assert {t["order"] for t in trades} == {bought["id"], taken["id"], sold["id"]}, trades
    spent = sum(t["cost"] * (1 if t["side"] == "buy" else -1) for t in trades)
    fees = {"BTC": 0.0, "USDT": 0.0}
    for one in trades:
        assert one["fee"]["currency"] == ("BTC" if one["side"] == "buy" else "USDT"), one
        fees[one["fee"]["currency"]] += abs(one["fee"]["cost"])
    moved = sum(t["amount"] * (1 if t["side"] == "buy" else -1) for t in trades)
    after = exchange.fetch_balance()
    assert abs(after["USDT"]["free"] - (start - spent - fees["USDT"])) < 1e-6, (after["USDT"], spent, fees)
    assert abs(after["BTC"]["free"] - (moved - fees["BTC"])) < 1e-8, (after["BTC"], moved, fees)
    assert {o["id"] for o in exchange.fetch_closed_orders(BTC)} >= {bought["id"], sold["id"]}
    ticker = exchange.fetch_ticker(BTC)
    assert ticker["last"] > 0 and ticker["bid"] < ticker["ask"], ticker
    if not UNIFIED:
        assert len(exchange.fetch_order_book(BTC, 5)["asks"]) == 5
    for side, amount, price, wanted in (
        ("sell", 5, None, ccxt.InsufficientFunds), ("buy", 1, 60_000, ccxt.InsufficientFunds),
        ("buy", 0.00005, 60_000, ccxt.InvalidOrder),
    ):
        try:
            exchange.create_order(BTC, "limit" if price else "market", side, amount, price)
        except ccxt.ExchangeError as error:
            assert UNIFIED or isinstance(error, wanted), error
        else:
            raise AssertionError("an order that cannot be was accepted")


async def listen() -> None:
    exchange = made(ccxt.pro.bitget)
    params = {"uta": True} if UNIFIED else {}
    try:
        await exchange.load_markets()
        orders = asyncio.ensure_future(exchange.watch_orders(BTC, None, None, params))
        trades = asyncio.ensure_future(exchange.watch_my_trades(BTC, None, None, params))
        money = asyncio.ensure_future(exchange.watch_balance(params))
        await asyncio.sleep(0.7)
        order = await exchange.create_order(BTC, "limit", "buy", 0.002, 61_000, {"timeInForce": "IOC"})
        assert order["id"] in [o["id"] for o in await asyncio.wait_for(orders, 5)]
        [told] = await asyncio.wait_for(trades, 5)
        assert (told["order"], told["amount"], told["fee"]["currency"]) == (order["id"], 0.002, "BTC"), told
        assert (await asyncio.wait_for(money, 5))["USDT"]["free"] > 0
        book = await asyncio.wait_for(exchange.watch_bids_asks([BTC], params), 5)
        assert book[BTC]["bid"] > 0, book
    finally:
        await exchange.close()


trade()
asyncio.run(listen())
print("ok")
