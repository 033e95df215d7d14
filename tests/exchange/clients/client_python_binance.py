"""python-binance, unmodified, on the simulated exchange: argv[1] is JSON with rest, streams, api_key, secret."""

import asyncio
import json
import sys
import time

from binance import AsyncClient, BinanceSocketManager, Client
from binance.exceptions import BinanceAPIException

at = json.loads(sys.argv[1])
for kind in (Client, AsyncClient):
    kind.API_URL = at["rest"] + "/api"
    kind.MARGIN_API_URL = at["rest"] + "/sapi"
    kind.FUTURES_URL = at["rest"] + "/fapi"
BinanceSocketManager.FSTREAM_URL = at["streams"] + "/"


def trade() -> None:
    client = Client(at["api_key"], at["secret"])
    info = client.futures_exchange_info()
    symbol = next(s for s in info["symbols"] if s["symbol"] == "BTCUSDT")
    assert symbol["filters"][0]["tickSize"] == "0.10", symbol["filters"]
    assert abs(client.futures_time()["serverTime"] - time.time() * 1000) < 5000
    assert len(client.futures_order_book(symbol="BTCUSDT", limit=5)["bids"]) == 5
    before = float(client.futures_account_balance()[0]["balance"])
    bought = client.futures_create_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.010", newOrderRespType="RESULT")
    assert bought["status"] == "FILLED" and bought["executedQty"] == "0.010", bought
    assert bought["clientOrderId"].startswith("x-Cb7ytekJ"), bought
    position = client.futures_position_information(symbol="BTCUSDT")[0]
    assert position["positionAmt"] == "0.010", position
    resting = client.futures_create_order(
        symbol="BTCUSDT", side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.010", price="58000"
    )
    open_orders = client.futures_get_open_orders(symbol="BTCUSDT")
    assert [o["orderId"] for o in open_orders] == [resting["orderId"]], open_orders
    canceled = client.futures_cancel_order(symbol="BTCUSDT", orderId=resting["orderId"])
    assert canceled["status"] == "CANCELED", canceled
    assert client.futures_get_order(symbol="BTCUSDT", orderId=resting["orderId"])["status"] == "CANCELED"
    batch = client.futures_place_batch_order(
        batchOrders=[
            {"symbol": "ETHUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.1", "price": "2900"},
            {"symbol": "ETHUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.0001", "price": "2900"},
        ]
    )
    assert batch[0]["status"] == "NEW" and batch[1]["code"] == -1111, batch
    client.futures_cancel_all_open_orders(symbol="ETHUSDT")
    assert client.futures_get_open_orders() == []
    sold = client.futures_create_order(
        symbol="BTCUSDT", side="SELL", type="MARKET", quantity="0.010", reduceOnly="true", newOrderRespType="RESULT"
    )
    assert sold["status"] == "FILLED" and sold["reduceOnly"] is True, sold
    assert all(float(p["positionAmt"]) == 0 for p in client.futures_position_information())
    trades = client.futures_account_trades(symbol="BTCUSDT")
    assert sum(float(t["qty"]) for t in trades) == 0.02, trades
    fees = sum(float(t["commission"]) for t in trades)
    profit = sum(float(t["realizedPnl"]) for t in trades)
    after = float(client.futures_account_balance()[0]["balance"])
    assert abs(after - (before - fees + profit)) < 1e-7, (before, after, fees, profit)
    assert client.futures_change_leverage(symbol="BTCUSDT", leverage=21)["leverage"] == 21
    assert client.futures_get_position_mode()["dualSidePosition"] is False
    assert client.futures_account()["canTrade"] is True
    assert client.get_account_api_permissions()["enableWithdrawals"] is False
    try:
        client.futures_create_order(symbol="NOSUCH", side="BUY", type="MARKET", quantity=1)
    except BinanceAPIException as error:
        assert error.code == -1121 and error.status_code == 400, error
    else:
        raise AssertionError("an unknown symbol was accepted")


async def listen() -> None:
    client = await AsyncClient.create(at["api_key"], at["secret"])
    manager = BinanceSocketManager(client)
    async with manager.futures_user_socket() as user, manager.symbol_mark_price_socket("BTCUSDT", fast=True) as marks:
        await asyncio.sleep(0.2)
        order = await client.futures_create_order(symbol="SOLUSDT", side="BUY", type="MARKET", quantity="1")
        seen = []
        while "ACCOUNT_UPDATE" not in seen:
            event = await asyncio.wait_for(user.recv(), 5)
            seen.append(event["e"])
            if event["e"] == "ORDER_TRADE_UPDATE":
                assert event["o"]["i"] == order["orderId"], event
        assert seen.count("ORDER_TRADE_UPDATE") >= 2, seen
        mark = await asyncio.wait_for(marks.recv(), 5)
        assert float(mark["data"]["p"]) > 0, mark
    await client.futures_create_order(symbol="SOLUSDT", side="SELL", type="MARKET", quantity="1")
    await client.close_connection()


trade()
asyncio.run(listen())
print("ok")
