"""pybit, unmodified, on the simulated spot market: argv[1] is JSON with addresses, api_key and secret."""

import json
import os
import queue
import sys
import time
import traceback

import pybit._websocket_stream
import pybit._websocket_trading
import pybit.unified_trading as unified
from pybit.exceptions import InvalidRequestError

at = json.loads(sys.argv[1])
for module in (unified, pybit._websocket_stream, pybit._websocket_trading):
    for name, path in (("PRIVATE_WSS", "/v5/private"), ("TRADE_WSS", "/v5/trade"), ("PUBLIC_WSS", "/v5/public/{CHANNEL_TYPE}")):
        if hasattr(module, name):
            setattr(module, name, at["ws"] + path)

keys = {"api_key": at["api_key"], "api_secret": at["secret"]}
session = unified.HTTP(**keys)
session.endpoint = at["rest"]
FIND = {"category": "spot", "symbol": "BTCUSDT"}


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


def coins() -> dict:
    row = session.get_wallet_balance(accountType="UNIFIED")["result"]["list"][0]
    return {coin["coin"]: float(coin["walletBalance"]) for coin in row["coin"]}


def trade() -> None:
    info = session.get_instruments_info(**FIND)["result"]["list"][0]
    assert info["lotSizeFilter"]["basePrecision"] == "0.000001" and info["baseCoin"] == "BTC", info
    assert session.get_tickers(**FIND)["result"]["list"][0]["bid1Price"]

    heard: queue.Queue = queue.Queue()
    stream = unified.WebSocket(testnet=False, channel_type="private", **keys)
    stream.subscriptions = Late()
    for subscribe in (stream.order_stream, stream.execution_stream, stream.fast_execution_stream, stream.wallet_stream):
        subscribe(callback=heard.put)

    placed = session.place_order(**FIND, side="Buy", orderType="Market", qty="600", orderLinkId="pybit-1")  # USDT
    seen = {}
    while {"order", "execution", "execution.fast", "wallet"} - seen.keys():
        message = heard.get(timeout=5)
        if message["topic"] != "order" or message["data"][0]["orderStatus"] == "Filled":
            seen[message["topic"]] = message["data"][0]
    bought = float(seen["order"]["cumExecQty"])
    assert seen["execution"]["feeCurrency"] == "BTC" and abs(float(seen["execution"]["execFee"]) - bought / 1000) < 2e-8, seen
    assert seen["order"]["marketUnit"] == "quoteCoin" and 0.0099 < bought < 0.0101, seen
    assert abs(coins()["BTC"] - bought * 0.999) < 2e-8, coins()

    resting = session.place_order(**FIND, side="Sell", orderType="Limit", qty="0.005", price="61500", timeInForce="PostOnly")
    opened = session.get_open_orders(**FIND)["result"]["list"]
    assert [row["orderId"] for row in opened] == [resting["result"]["orderId"]], opened
    session.cancel_order(**FIND, orderId=resting["result"]["orderId"])
    closed = session.get_open_orders(**FIND, orderLinkId="pybit-1")["result"]["list"]
    assert closed[0]["orderId"] == placed["result"]["orderId"], closed

    trading = unified.WebSocketTrading(testnet=False, **keys)
    trading.callback_directory = Late()
    answers: queue.Queue = queue.Queue()
    trading.place_order(answers.put, **FIND, side="Sell", orderType="Market", qty="0.005")
    answer = answers.get(timeout=5)
    assert answer["retCode"] == 0 and answer["data"]["orderId"], answer
    fills = session.get_executions(**FIND)["result"]["list"]
    assert [(row["side"], row["feeCurrency"]) for row in fills] == [("Sell", "USDT"), ("Buy", "BTC")], fills
    try:
        session.place_order(**FIND, side="Sell", orderType="Market", qty="1")
    except InvalidRequestError as error:
        assert error.status_code == 170131, error
    else:
        raise AssertionError("more was sold than there is")


try:
    trade()
except BaseException:
    traceback.print_exc()
    os._exit(1)  # its threads would keep the process
print("ok", flush=True)
os._exit(0)
