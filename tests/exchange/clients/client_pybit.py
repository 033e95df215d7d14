"""pybit, unmodified, on the simulated exchange: argv[1] is JSON with addresses, api_key and secret."""

import json
import os
import queue
import sys
import time
import traceback

import pybit._websocket_stream
import pybit._websocket_trading
import pybit.unified_trading as unified

at = json.loads(sys.argv[1])
for module in (unified, pybit._websocket_stream, pybit._websocket_trading):
    for name, path in (("PRIVATE_WSS", "/v5/private"), ("TRADE_WSS", "/v5/trade"), ("PUBLIC_WSS", "/v5/public/{CHANNEL_TYPE}")):
        if hasattr(module, name):
            setattr(module, name, at["ws"] + path)

keys = {"api_key": at["api_key"], "api_secret": at["secret"]}
session = unified.HTTP(**keys)
session.endpoint = at["rest"]
FIND = {"category": "linear", "symbol": "BTCUSDT"}



class Late(dict):
    """pybit notes what it asked after it was sent; an exchange on this machine may have answered by then: its reader waits."""

    def _wait(self, name: str) -> None:
        for _ in range(200):
            if name in self:
                return
            time.sleep(0.01)

    def __missing__(self, name: str) -> str:
        self._wait(name)
        return dict.get(self, name, "")

    def pop(self, name: str, *default: object) -> object:
        self._wait(name)
        return dict.pop(self, name, *default)


def trade() -> None:
    assert int(session.get_server_time()["result"]["timeNano"]) > 0
    info = session.get_instruments_info(**FIND)["result"]["list"][0]
    assert info["contractType"] == "LinearPerpetual" and info["lotSizeFilter"]["qtyStep"] == "0.001", info
    assert session.get_api_key_information()["result"]["uta"] == 1
    before = session.get_wallet_balance(accountType="UNIFIED")["result"]["list"][0]
    assert float(before["coin"][0]["walletBalance"]) > 0

    heard: queue.Queue = queue.Queue()
    stream = unified.WebSocket(testnet=False, channel_type="private", **keys)
    stream.subscriptions = Late()
    for subscribe in (stream.order_stream, stream.execution_stream, stream.fast_execution_stream, stream.position_stream,
                      stream.wallet_stream):
        subscribe(callback=heard.put)

    placed = session.place_order(**FIND, side="Buy", orderType="Market", qty="0.01", orderLinkId="pybit-1")
    seen = {}
    while {"order", "execution", "execution.fast", "position", "wallet"} - seen.keys():
        message = heard.get(timeout=5)
        if message["topic"] != "order" or message["data"][0]["orderStatus"] == "Filled":
            seen[message["topic"]] = message["data"][0]
    assert seen["execution"]["execId"] == seen["execution.fast"]["execId"], seen
    assert seen["order"]["orderStatus"] == "Filled" and seen["position"]["size"] == "0.010", seen

    resting = session.place_order(**FIND, side="Buy", orderType="Limit", qty="0.01", price="58500", timeInForce="PostOnly")
    opened = session.get_open_orders(**FIND)["result"]["list"]
    assert [row["orderId"] for row in opened] == [resting["result"]["orderId"]], opened
    session.amend_order(**FIND, orderId=resting["result"]["orderId"], price="58600")
    session.cancel_order(**FIND, orderId=resting["result"]["orderId"])
    closed = session.get_open_orders(**FIND, orderLinkId="pybit-1")["result"]["list"]
    assert closed[0]["orderStatus"] == "Filled" and closed[0]["orderId"] == placed["result"]["orderId"], closed

    trading = unified.WebSocketTrading(testnet=False, **keys)
    trading.callback_directory = Late()
    answers: queue.Queue = queue.Queue()
    trading.place_order(answers.put, **FIND, side="Sell", orderType="Market", qty="0.01", reduceOnly=True, positionIdx=0)
    answer = answers.get(timeout=5)
    assert answer["retCode"] == 0 and answer["data"]["orderId"], answer
    trading.place_batch_order(answers.put, category="linear", request=[
        {"symbol": "BTCUSDT", "side": "Buy", "orderType": "Limit", "qty": "0.01", "price": "58500"},
        {"symbol": "NOSUCH", "side": "Buy", "orderType": "Limit", "qty": "0.01", "price": "1"},
    ])
    answer = answers.get(timeout=5)
    assert answer["retCode"] == 0 and [row["code"] for row in answer["retExtInfo"]["list"]] == [0, 10001], answer
    session.cancel_all_orders(**FIND)
    assert session.get_positions(**FIND)["result"]["list"][0]["size"] == "0.000"
    fills = session.get_executions(**FIND)["result"]["list"]
    assert len(fills) >= 2 and {row["execType"] for row in fills} == {"Trade"}, fills
    session.set_leverage(**FIND, buyLeverage="7", sellLeverage="7")
    assert session.get_positions(**FIND)["result"]["list"][0]["leverage"] == "7"


try:
    trade()
except BaseException:
    traceback.print_exc()
    os._exit(1)  # its threads would keep the process
print("ok", flush=True)
os._exit(0)
