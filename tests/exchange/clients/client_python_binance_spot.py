"""python-binance, unmodified, on the simulated spot exchange: argv[1] is JSON with rest, ws, api_key, secret."""

import asyncio
import json
import sys
import time

from binance.async_client import AsyncClient
from binance.client import Client
from binance.exceptions import BinanceAPIException
from binance.ws.streams import BinanceSocketManager

at = json.loads(sys.argv[1])
for kind in (Client, AsyncClient):
    kind.API_URL = at["rest"] + "/api"
    kind.MARGIN_API_URL = at["rest"] + "/sapi"
    kind.WS_API_URL = at["ws"] + "/ws-api/v3"
BinanceSocketManager.STREAM_URL = at["ws"] + "/"


def trade() -> None:
    client = Client(at["api_key"], at["secret"])
    info = client.get_symbol_info("BTCUSDT")
    assert info["filters"][0]["tickSize"] == "0.01000000", info["filters"]
    assert abs(client.get_server_time()["serverTime"] - time.time() * 1000) < 5000
    before = float(client.get_asset_balance("USDT")["free"])
    bought = client.order_market_buy(symbol="BTCUSDT", quantity="0.01")
    assert bought["status"] == "FILLED" and bought["executedQty"] == "0.01000000", bought
    assert bought["clientOrderId"].startswith("x-HNA2TXFJ"), bought
    assert bought["fills"] and {f["commissionAsset"] for f in bought["fills"]} == {"BTC"}, bought["fills"]
    assert client.get_asset_balance("BTC") == {"asset": "BTC", "free": "0.00999000", "locked": "0.00000000"}
    resting = client.order_limit_buy(symbol="BTCUSDT", quantity="0.01", price="58000")
    assert [o["orderId"] for o in client.get_open_orders(symbol="BTCUSDT")] == [resting["orderId"]]
    assert client.get_asset_balance("USDT")["locked"] == "580.00000000"
    canceled = client.cancel_order(symbol="BTCUSDT", orderId=resting["orderId"])
    assert canceled["status"] == "CANCELED" and canceled["origClientOrderId"] == resting["clientOrderId"], canceled
    assert client.get_order(symbol="BTCUSDT", orderId=resting["orderId"])["status"] == "CANCELED"
    sold = client.order_market_sell(symbol="BTCUSDT", quantity="0.00999")
    assert sold["status"] == "FILLED", sold
    trades = client.get_my_trades(symbol="BTCUSDT")
    spent = sum(float(t["quoteQty"]) * (1 if t["isBuyer"] else -1) for t in trades)
    fees = sum(float(t["commission"]) for t in trades if t["commissionAsset"] == "USDT")
    after = float(client.get_asset_balance("USDT")["free"])
    assert abs(after - (before - spent - fees)) < 1e-6, (before, after, spent, fees)
    assert client.get_account()["canTrade"] is True
    assert client.get_account_api_permissions()["enableWithdrawals"] is False
    try:
        client.order_market_buy(symbol="NOSUCH", quantity=1)
    except BinanceAPIException as error:
        assert error.code == -1121 and error.status_code == 400, error
    else:
        raise AssertionError("an unknown symbol was accepted")


async def listen() -> None:
    client = await AsyncClient.create(at["api_key"], at["secret"])
    client.ws_api._url = at["ws"] + "/ws-api/v3"
    client.ws_api.TIMEOUT = 0.5  # how long its closing waits for a message
    manager = BinanceSocketManager(client)
    async with manager.user_socket() as user, manager.symbol_book_ticker_socket("BTCUSDT") as best:
        await asyncio.sleep(0.2)
        order = await client.ws_create_order(symbol="SOLUSDT", side="BUY", type="MARKET", quantity="1")
        assert order["status"] == "FILLED", order
        seen = []
        while "outboundAccountPosition" not in seen:
            event = await asyncio.wait_for(user.recv(), 5)
            seen.append(event["e"])
            if event["e"] == "executionReport":
                assert event["i"] == order["orderId"], event
        assert seen.count("executionReport") >= 2, seen
        ticker = await asyncio.wait_for(best.recv(), 5)
        assert float(ticker["b"]) > 0, ticker
    await client.close_connection()


trade()
asyncio.run(listen())
print("ok")
