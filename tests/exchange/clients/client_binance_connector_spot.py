"""binance-connector, unmodified, on the simulated spot exchange: argv[1] is JSON with rest, ws, api_key, secret."""

import json
import queue
import sys

from binance.error import ClientError
from binance.spot import Spot
from binance.websocket.spot.websocket_api import SpotWebsocketAPIClient

at = json.loads(sys.argv[1])
client = Spot(at["api_key"], at["secret"], base_url=at["rest"], show_limit_usage=True)

info = client.exchange_info(symbol="ETHUSDT")
assert [s["symbol"] for s in info["data"]["symbols"]] == ["ETHUSDT"]
assert "x-mbx-used-weight-1m" in info["limit_usage"], info["limit_usage"]
bought = client.new_order(symbol="ETHUSDT", side="BUY", type="MARKET", quantity="0.5", newOrderRespType="RESULT")["data"]
assert bought["status"] == "FILLED" and bought["executedQty"] == "0.50000000" and "fills" not in bought, bought
client.new_order(
    symbol="ETHUSDT", side="SELL", type="LIMIT", timeInForce="GTC", quantity="0.4", price="3100.00", newClientOrderId="bc-1"
)
assert [o["clientOrderId"] for o in client.get_open_orders("ETHUSDT")["data"]] == ["bc-1"]
assert client.cancel_order("ETHUSDT", origClientOrderId="bc-1")["data"]["status"] == "CANCELED"
assert client.get_order("ETHUSDT", origClientOrderId="bc-1")["data"]["status"] == "CANCELED"
sold = client.new_order(symbol="ETHUSDT", side="SELL", type="MARKET", quantity="0.4995")
assert "x-mbx-order-count-10s" in sold["limit_usage"], sold["limit_usage"]
assert sold["data"]["fills"][0]["commissionAsset"] == "USDT", sold
assert len(client.my_trades("ETHUSDT")["data"]) >= 2
assert len(client.get_orders("ETHUSDT")["data"]) == 3
held = {row["asset"]: row["free"] for row in client.account(omitZeroBalances="true")["data"]["balances"]}
assert set(held) == {"USDT"}, held
assert client.api_key_permissions()["data"]["enableSpotAndMarginTrading"] is True

answers: queue.Queue = queue.Queue()
api = SpotWebsocketAPIClient(
    stream_url=at["ws"] + "/ws-api/v3", api_key=at["api_key"], api_secret=at["secret"],
    on_message=lambda _, text: answers.put(json.loads(text)),
)
api.new_order(
    id="p1", symbol="ETHUSDT", side="BUY", type="LIMIT", timeInForce="GTC", quantity=0.5, price=2900, newOrderRespType="ACK"
)
placed = answers.get(timeout=5)
assert placed["id"] == "p1" and placed["status"] == 200 and placed["rateLimits"], placed
api.cancel_order(id="c1", symbol="ETHUSDT", orderId=placed["result"]["orderId"])
assert answers.get(timeout=5)["result"]["status"] == "CANCELED"
api.account(id="a1")
assert answers.get(timeout=5)["result"]["canTrade"] is True
api.stop()

try:
    client.new_order(symbol="ETHUSDT", side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.001", price="2900.00")
except ClientError as error:
    assert error.status_code == 400 and error.error_code == -1013 and "NOTIONAL" in error.error_message, error
else:
    raise AssertionError("an order below the minimum notional was accepted")
try:
    Spot(at["api_key"], "wrong", base_url=at["rest"]).account()
except ClientError as error:
    assert error.error_code == -1022, error
else:
    raise AssertionError("a wrong secret was accepted")
print("ok")
