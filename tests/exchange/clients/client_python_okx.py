"""The venue's own Python client, unmodified, on the simulated exchange: argv[1] is JSON with addresses, api_key, secret."""

import asyncio
import json
import sys

from okx import Account, MarketData, PublicData, Trade
from okx.websocket.WsPrivateAsync import WsPrivateAsync

at = json.loads(sys.argv[1])
KEYS = (at["api_key"], at["secret"], at["passphrase"])
MORE = {"flag": "0", "domain": at["rest"], "debug": False}
INST = "SOL-USDT-SWAP"


def rows(answer: dict) -> list:
    assert answer["code"] == "0", answer
    return answer["data"]


def trade() -> None:
    public, market = PublicData.PublicAPI(**MORE), MarketData.MarketAPI(**MORE)
    account, trades = Account.AccountAPI(*KEYS, **MORE), Trade.TradeAPI(*KEYS, **MORE)
    listed = {row["instId"]: row for row in rows(public.get_instruments("SWAP"))}
    assert listed[INST]["ctVal"] == "1" and listed["BTC-USDT-SWAP"]["ctVal"] == "0.01"
    assert float(rows(market.get_ticker(INST))[0]["last"]) > 0
    assert rows(account.get_account_config())[0]["posMode"] == "net_mode"
    assert rows(account.get_account_balance())[0]["details"][0]["eq"] == "100000"
    rows(account.set_leverage(lever="5", mgnMode="isolated", instId=INST))
    placed = rows(trades.place_order(INST, "isolated", "buy", "market", "2", clOrdId="mine1"))[0]
    assert placed["sCode"] == "0", placed
    assert rows(trades.get_order(INST, clOrdId="mine1"))[0]["state"] == "filled"
    position = rows(account.get_positions("SWAP"))[0]
    assert (position["pos"], position["lever"], position["mgnMode"]) == ("2", "5", "isolated"), position
    rows(trades.place_order(INST, "isolated", "sell", "limit", "1", px="155", clOrdId="mine2"))
    assert [row["clOrdId"] for row in rows(trades.get_order_list("SWAP"))] == ["mine2"]
    rows(trades.cancel_order(INST, clOrdId="mine2"))
    assert rows(trades.get_orders_history("SWAP"))[0]["state"] == "canceled"
    refused = trades.place_order(INST, "isolated", "sell", "market", "3", reduceOnly="true")
    assert refused["data"][0]["sCode"] == "51112", refused
    rows(trades.place_order(INST, "isolated", "sell", "market", "2", reduceOnly="true"))
    assert rows(account.get_positions("SWAP")) == []
    assert sum(float(row["fillSz"]) for row in rows(trades.get_fills("SWAP"))) == 4
    batch = rows(trades.place_multiple_orders([
        {"instId": INST, "tdMode": "isolated", "side": "buy", "ordType": "limit", "sz": "1", "px": px} for px in ("145", "146")]))
    assert [row["sCode"] for row in batch] == ["0", "0"]
    rows(trades.cancel_multiple_orders([{"instId": INST, "ordId": row["ordId"]} for row in batch]))


async def listen() -> None:
    """The stream client of this version insists on TLS, which a test on loopback has not: its socket is opened plainly."""
    import websockets

    heard: list[dict] = []
    stream = WsPrivateAsync(*(KEYS[0], KEYS[2], KEYS[1]), url=at["ws"] + "/ws/v5/private")

    async def connect() -> object:
        stream.factory.websocket = await websockets.connect(stream.url)
        return stream.factory.websocket

    stream.factory.connect = connect
    await stream.start()
    await stream.subscribe([{"channel": "orders", "instType": "SWAP"}], callback=lambda text: heard.append(json.loads(text)))
    await asyncio.sleep(0.3)
    answer = Trade.TradeAPI(*KEYS, **MORE).place_order(INST, "isolated", "buy", "market", "1", clOrdId="heard1")
    assert answer["code"] == "0", answer
    for _ in range(50):
        states = [row["state"] for frame in heard if "data" in frame for row in frame["data"] if row["clOrdId"] == "heard1"]
        if "filled" in states:
            break
        await asyncio.sleep(0.1)
    assert states[0] == "live" and states[-1] == "filled", heard
    await stream.factory.close()


trade()
asyncio.run(listen())
print("ok")
import os  # noqa: E402

sys.stdout.flush()
os._exit(0)
