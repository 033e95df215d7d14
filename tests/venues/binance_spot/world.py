"""Instruments and frames for the tests of this folder."""

from __future__ import annotations

import json
from typing import Any

from copyd.venues.binance_spot.instruments import load_instruments
from copyd.venues.common.instruments import Instruments


def symbol(name: str = "BTCUSDT", base: str = "BTC", quote: str = "USDT", filters: Any = None, **more: Any) -> dict[str, Any]:
    """A row of exchangeInfo as the venue writes it."""
    told = {
        "PRICE_FILTER": {"minPrice": "0.01000000", "maxPrice": "1000000.00000000", "tickSize": "0.01000000"},
        "LOT_SIZE": {"minQty": "0.00001000", "maxQty": "9000.00000000", "stepSize": "0.00001000"},
        "MARKET_LOT_SIZE": {"minQty": "0.00000000", "maxQty": "120.50000000", "stepSize": "0.00000000"},
        "PERCENT_PRICE_BY_SIDE": {
            "bidMultiplierUp": "1.3", "bidMultiplierDown": "0.2", "askMultiplierUp": "5", "askMultiplierDown": "0.8",
            "avgPriceMins": 5,
        },
        "NOTIONAL": {
            "minNotional": "5.00000000", "applyMinToMarket": True, "maxNotional": "9000000.00000000",
            "applyMaxToMarket": False, "avgPriceMins": 5,
        },
        "MAX_NUM_ORDERS": {"maxNumOrders": 200},
        **(filters or {}),
    }  # fmt: skip
    return {
        "symbol": name, "status": "TRADING", "baseAsset": base, "quoteAsset": quote, "isSpotTradingAllowed": True,
        "filters": [{"filterType": kind, **row} for kind, row in told.items() if row is not None], **more,
    }  # fmt: skip


def info(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"symbols": rows}).encode()


ETH = {
    "PRICE_FILTER": {"minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"},
    "LOT_SIZE": {"minQty": "0.0001", "maxQty": "9000", "stepSize": "0.0001"},
}


def instruments() -> Instruments:
    """BTCUSDT under index 4, ETHUSDT under index 9."""
    rows = info(symbol(), symbol("ETHUSDT", "ETH", filters=ETH))
    return load_instruments(rows, [(4, "BTCUSDT"), (9, "ETHUSDT")])


BTC = instruments()[4]
CID = bytes(range(16))
