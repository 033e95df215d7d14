"""Instruments and orders that the tests of this venue share."""

import json

from copyd.venues.bybit.instruments import load_instruments
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Order

LINEAR = {
    "retCode": 0,
    "result": {
        "category": "linear",
        "nextPageCursor": "",
        "list": [
            {
                "symbol": "BTCUSDT", "contractType": "LinearPerpetual", "status": "Trading", "baseCoin": "BTC",
                "quoteCoin": "USDT", "settleCoin": "USDT", "priceScale": "2", "fundingInterval": 480,
                "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
                "priceFilter": {"minPrice": "0.10", "maxPrice": "1999999.80", "tickSize": "0.10"},
                "lotSizeFilter": {
                    "maxOrderQty": "1190.000", "minOrderQty": "0.001", "qtyStep": "0.001", "maxMktOrderQty": "119.000",
                    "postOnlyMaxOrderQty": "1190.000", "minNotionalValue": "5",
                },
                "riskParameters": {"priceLimitRatioX": "0.01", "priceLimitRatioY": "0.02"},
            },
            {
                "symbol": "1000PEPEUSDT", "contractType": "LinearPerpetual", "status": "Trading", "baseCoin": "1000PEPE",
                "quoteCoin": "USDT", "settleCoin": "USDT", "leverageFilter": {"maxLeverage": "75.50"},
                "priceFilter": {"tickSize": "0.0000001"},
                "lotSizeFilter": {
                    "maxOrderQty": "260000000", "minOrderQty": "100", "qtyStep": "100", "maxMktOrderQty": "26000000",
                    "minNotionalValue": "5",
                },
            },
            {
                "symbol": "BTC-26DEC26", "contractType": "LinearFutures", "status": "Trading", "baseCoin": "BTC",
                "quoteCoin": "USDT", "settleCoin": "USDT", "priceFilter": {"tickSize": "0.5"},
                "lotSizeFilter": {"maxOrderQty": "100", "minOrderQty": "0.001", "qtyStep": "0.001"},
            },
            {
                "symbol": "BADUSDT", "contractType": "LinearPerpetual", "status": "Trading", "baseCoin": "BAD",
                "quoteCoin": "USDT", "priceFilter": {"tickSize": "0"},
                "lotSizeFilter": {"maxOrderQty": "100", "minOrderQty": "0.001", "qtyStep": "0.001"},
            },
        ],
    },
    "time": 1700000000000,
}  # fmt: skip

SPOT = {
    "retCode": 0,
    "result": {
        "category": "spot",
        "list": [
            {
                "symbol": "BTCUSDT", "baseCoin": "BTC", "quoteCoin": "USDT", "status": "Trading", "innovation": "0",
                "marginTrading": "both", "priceFilter": {"tickSize": "0.01"},
                "lotSizeFilter": {
                    "basePrecision": "0.000001", "quotePrecision": "0.00000001", "minOrderQty": "0.000048",
                    "maxOrderQty": "71.73956243", "minOrderAmt": "5", "maxOrderAmt": "4000000", "maxLimitOrderQty": "83",
                    "maxMarketOrderQty": "41.5",
                },
                "riskParameters": {"priceLimitRatioX": "0.02", "priceLimitRatioY": "0.02"},
            },
        ],
    },
    "time": 1700000000000,
}  # fmt: skip

BODIES = [json.dumps(LINEAR).encode(), json.dumps(SPOT).encode()]
INSTRUMENTS = load_instruments(BODIES, [(3, "BTCUSDT"), (4, "1000PEPEUSDT"), (7, "BTCUSDT_SPOT")])
BTC, PEPE, BTC_SPOT = INSTRUMENTS[3], INSTRUMENTS[4], INSTRUMENTS[7]
KEY = Key(b"TESTKEY0000000000000000000000000001", b"TESTSECRET000000000000000000000000000002")
CID = bytes.fromhex("0123456789abcdef0123456789abcdef")


def order(instrument=BTC, *, qty=10, px=0, side=1, position_side=0, reduce_only=False, cid=CID):
    """An order of 0.01 BTC at the market, or otherwise."""
    return Order(1, instrument, cid, qty, px, side, position_side, reduce_only)
