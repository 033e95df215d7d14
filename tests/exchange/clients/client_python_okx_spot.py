"""The venue's own Python client, unmodified, on the simulated spot exchange: argv[1] is JSON with addresses, api_key, secret."""

import asyncio
import json
import os
import sys

from okx import Account, MarketData, PublicData, Trade
from okx.websocket.WsPrivateAsync import WsPrivateAsync

at = json.loads(sys.argv[1])
KEYS = (at["api_key"], at["secret"], at["passphrase"])
MORE = {"flag": "0", "domain": at["rest"], "debug": False}
INST = "SOL-USDT"


def rows(answer: dict) -> list:
    assert answer["code"] == "0", answer
    return answer["data"]


def trade() -> None:
    public, market = PublicData.PublicAPI(**MORE), MarketData.MarketAPI(**MORE)
    account, trades = Account.AccountAPI(*KEYS, **MORE), Trade.TradeAPI(*KEYS, **MORE)
    listed = {row["instId"]: row for row in rows(public.get_instruments("SPOT"))}
    assert (listed[INST]["baseCcy"], listed[INST]["minSz"]) == ("SOL", "0.001"), listed[INST]
    assert float(rows(market.get_ticker(INST))[0]["last"]) > 0
    assert rows(account.get_account_config())[0]["acctLv"] == "1"

    def balance(asset: str) -> float:
        details = rows(account.get_account_balance(asset))[0]["details"]
        return float(details[0]["cashBal"]) if details else 0.0

    rows(trades.place_order(INST, "cash", "buy", "market", "300", clOrdId="mine1"))
    bought = rows(trades.get_order(INST, clOrdId="mine1"))[0]
    assert (bought["state"], bought["sz"], bought["tgtCcy"], bought["feeCcy"]) == ("filled", "300", "quote_ccy", "SOL"), bought
    size = float(bought["accFillSz"])
    assert 299 < size * float(bought["avgPx"]) <= 300 and abs(balance("SOL") - size - float(bought["fee"])) < 1e-8, bought
    rows(trades.place_order(INST, "cash", "buy", "market", "1", tgtCcy="base_ccy"))
    assert abs(balance("SOL") - (size + 1) * 0.9995) < 1e-7
    rows(trades.place_order(INST, "cash", "sell", "limit", "1", px="155", clOrdId="mine2"))
    assert [row["clOrdId"] for row in rows(trades.get_order_list("SPOT"))] == ["mine2"]
    rows(trades.cancel_order(INST, clOrdId="mine2"))
    assert rows(trades.get_orders_history("SPOT"))[0]["state"] == "canceled"
    refused = trades.place_order(INST, "cash", "sell", "market", "300")
    assert refused["data"][0]["sCode"] == "51008", refused
    rows(trades.place_order(INST, "cash", "sell", "market", f"{int(balance('SOL') * 1e6) / 1e6:.6f}"))
    assert balance("SOL") < 1e-6 and 99_900 < balance("USDT") < 100_000
    fills = rows(trades.get_fills("SPOT"))
    assert {(row["side"], row["feeCcy"]) for row in fills} == {("buy", "SOL"), ("sell", "USDT")}, fills
    batch = rows(trades.place_multiple_orders([
        {"instId": INST, "tdMode": "cash", "side": "buy", "ordType": "limit", "sz": "1", "px": px} for px in ("145", "146")]))
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
    wanted = [{"channel": "orders", "instType": "SPOT"}, {"channel": "account"}]
    await stream.subscribe(wanted, callback=lambda text: heard.append(json.loads(text)))
    await asyncio.sleep(0.3)
    answer = Trade.TradeAPI(*KEYS, **MORE).place_order(INST, "cash", "buy", "market", "300", clOrdId="heard1")
    assert answer["code"] == "0", answer

    def told(channel: str) -> list[dict]:
        return [row for frame in heard if "data" in frame and frame["arg"]["channel"] == channel for row in frame["data"]]

    for _ in range(50):
        states = [row["state"] for row in told("orders") if row["clOrdId"] == "heard1"]
        coins = {detail["ccy"]: float(detail["cashBal"]) for row in told("account") for detail in row["details"]}
        if "filled" in states and coins["SOL"] > 1:
            break
        await asyncio.sleep(0.1)
    assert states[0] == "live" and states[-1] == "filled" and coins["SOL"] > 1, heard
    await stream.factory.close()


trade()
asyncio.run(listen())
print("ok")
sys.stdout.flush()
os._exit(0)
