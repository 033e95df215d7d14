"""Instruments and a key that the tests of this venue share."""

from __future__ import annotations

import json
from typing import Any

import pytest

from copyd.venues.bitget.instruments import load_instruments
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.signing import Key

BTC: dict[str, Any] = {
    "symbol": "BTCUSDT", "baseCoin": "BTC", "quoteCoin": "USDT", "supportMarginCoins": ["USDT"], "symbolType": "perpetual",
    "symbolStatus": "normal", "pricePlace": "1", "priceEndStep": "1", "volumePlace": "3", "sizeMultiplier": "0.001",
    "minTradeNum": "0.001", "minTradeUSDT": "5", "maxOrderQty": "1200", "maxMarketOrderQty": "220", "maxSymbolOrderNum": "200",
    "buyLimitPriceRatio": "0.05", "sellLimitPriceRatio": "0.05", "maxLever": "125",
}  # fmt: skip
ETH = {**BTC, "symbol": "ETHUSDT", "baseCoin": "ETH", "pricePlace": "2", "volumePlace": "2", "sizeMultiplier": "0.01",
       "minTradeNum": "0.01"}
BTC_SPOT: dict[str, Any] = {
    "symbol": "BTCUSDT", "baseCoin": "BTC", "quoteCoin": "USDT", "status": "online", "pricePrecision": "2",
    "quantityPrecision": "6", "quotePrecision": "8", "minTradeAmount": "0", "maxTradeAmount": "900000000000000000000",
    "minTradeUSDT": "1", "buyLimitPriceRatio": "0.05", "sellLimitPriceRatio": "0.05", "orderQuantity": "200",
}  # fmt: skip


def bodies(contracts: list[dict[str, Any]], symbols: list[dict[str, Any]] | None = None) -> dict[str, bytes]:
    """Answers of the venue that list these instruments."""
    head = {"code": "00000", "msg": "success", "requestTime": 1}
    found = {"contracts": json.dumps({**head, "data": contracts}).encode()}
    if symbols is not None:
        found["symbols"] = json.dumps({**head, "data": symbols}).encode()
    return found


@pytest.fixture
def key() -> Key:
    """The key of the reference's worked examples."""
    return Key(b"TESTKEY0000000000000000000000000001", b"TESTSECRET000000000000000000000000000002", b"Testpass1")


@pytest.fixture
def instruments() -> Instruments:
    """BTCUSDT (3), ETHUSDT (4), and BTCUSDT's spot market (7)."""
    return load_instruments(bodies([BTC, ETH], [BTC_SPOT]), [(3, "BTCUSDT"), (4, "ETHUSDT"), (7, "BTCUSDT_SPBL")])
