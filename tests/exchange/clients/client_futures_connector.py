"""binance-futures-connector, unmodified, on the simulated exchange: argv[1] is JSON with rest, streams, api_key, secret."""

import json
import logging
import queue
import sys
import time

from binance.error import ClientError
from binance.um_futures import UMFutures
from binance.websocket.um_futures.websocket_client import UMFuturesWebsocketClient

at = json.loads(sys.argv[1])
client = UMFutures(key=at["api_key"], secret=at["secret"], base_url=at["rest"], show_limit_usage=True)
logging.getLogger("binance.websocket").setLevel(logging.CRITICAL)

info = client.exchange_info()
assert {s["symbol"] for s in info["data"]["symbols"]} >= {"BTCUSDT", "ETHUSDT"}
assert "x-mbx-used-weight-1m" in info["limit_usage"], info["limit_usage"]

listen_key = client.new_listen_key()["data"]["listenKey"]
events: queue.Queue = queue.Queue()
stream = UMFuturesWebsocketClient(stream_url=at["streams"], on_message=lambda _, text: events.put(json.loads(text)))
stream.user_data(listen_key=listen_key, id=1)
assert events.get(timeout=5) == {"result": None, "id": 1}

bought = client.new_order(symbol="ETHUSDT", side="BUY", type="MARKET", quantity="0.5", newOrderRespType="RESULT")["data"]
assert bought["status"] == "FILLED" and bought["executedQty"] == "0.500", bought
positions = [p for p in client.get_position_risk(symbol="ETHUSDT", recvWindow=5000)["data"] if float(p["positionAmt"])]
assert [p["positionAmt"] for p in positions] == ["0.500"], positions
resting = client.new_order(
    symbol="ETHUSDT", side="SELL", type="LIMIT", timeInForce="GTC", quantity="0.5", price="3100.00", newClientOrderId="fc-1"
)["data"]
assert [o["clientOrderId"] for o in client.get_orders(symbol="ETHUSDT")["data"]] == ["fc-1"]
changed = client.modify_order(
    symbol="ETHUSDT", side="SELL", quantity="0.4", price="3101.00", orderId=resting["orderId"], origClientOrderId="fc-1"
)["data"]
assert changed["origQty"] == "0.400" and changed["price"] == "3101.00", changed
assert client.cancel_order(symbol="ETHUSDT", origClientOrderId="fc-1")["data"]["status"] == "CANCELED"
assert client.query_order(symbol="ETHUSDT", origClientOrderId="fc-1")["data"]["status"] == "CANCELED"
sold = client.new_order(symbol="ETHUSDT", side="SELL", type="MARKET", quantity="0.5", reduceOnly="true")
assert "x-mbx-order-count-10s" in sold["limit_usage"], sold["limit_usage"]
assert client.balance()["data"][0]["asset"] == "USDT"
assert float(client.account()["data"]["totalMarginBalance"]) > 0
assert len(client.get_account_trades(symbol="ETHUSDT")["data"]) >= 2

seen: dict[str, int] = {}
states = []
deadline = time.time() + 5
while "CANCELED" not in states and time.time() < deadline:
    event = events.get(timeout=5)
    seen[event["e"]] = seen.get(event["e"], 0) + 1
    if event["e"] == "ORDER_TRADE_UPDATE":
        states.append(event["o"]["x"])
assert {"NEW", "TRADE", "CANCELED"} <= set(states), states
assert seen.get("ACCOUNT_UPDATE") and seen.get("TRADE_LITE"), seen
stream.stop()

client.renew_listen_key(listen_key)
client.close_listen_key(listen_key)
try:
    client.new_order(symbol="ETHUSDT", side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.001", price="2900.00")
except ClientError as error:
    assert error.status_code == 400 and error.error_code == -4164, error
else:
    raise AssertionError("an order below the minimum notional was accepted")
try:
    UMFutures(key=at["api_key"], secret="wrong", base_url=at["rest"]).account()
except ClientError as error:
    assert error.error_code == -1022, error
else:
    raise AssertionError("a wrong secret was accepted")
print("ok")
