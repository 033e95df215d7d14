"""Unmodified third-party clients around a running daemon; run in the clients' own virtual environment.

``third_party_leader.py lead JSON``: python-binance trades as the leader and prints its executions.
``third_party_leader.py read JSON``: ccxt reads the positions of every account and prints them.
"""

import json
import sys
import time


def lead(at):
    from binance import Client

    Client.FUTURES_URL = at["rest"] + "/fapi"
    client = Client(at["api_key"], at["secret"], ping=False)
    for symbol, side, quantity in at["orders"]:
        done = client.futures_create_order(
            symbol=symbol, side=side, type="MARKET", quantity=quantity, newOrderRespType="RESULT"
        )
        assert done["status"] == "FILLED" and done["executedQty"] == quantity, done
        time.sleep(at["pause_s"])
    fills = []
    names = ("symbol", "id", "orderId", "side", "price", "qty")
    for symbol in sorted({order[0] for order in at["orders"]}):
        fills += [{k: trade[k] for k in names} for trade in client.futures_account_trades(symbol=symbol)]
    return fills


def read(at):
    import ccxt

    positions = {}
    markets = None
    for account in at["accounts"]:
        exchange = ccxt.binanceusdm({"apiKey": account["api_key"], "secret": account["secret"], "enableRateLimit": False})
        api = exchange.urls["api"]
        for name, url in list(api.items()):
            if isinstance(url, str) and "://" in url:
                api[name] = at["rest"] + "/" + url.split("://", 1)[1].split("/", 1)[1]
        if markets is None:
            markets = exchange.load_markets()
        else:
            exchange.set_markets(markets)
        held = {}
        for position in exchange.fetch_positions():
            if position["contracts"]:
                held[position["info"]["symbol"]] = [position["side"], exchange.number_to_string(position["contracts"])]
        positions[account["name"]] = held
    return positions


if __name__ == "__main__":
    print(json.dumps({"lead": lead, "read": read}[sys.argv[1]](json.loads(sys.stdin.read()))))
