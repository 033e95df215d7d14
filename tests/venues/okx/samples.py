"""What the venue's public list says, as the tests use it."""

from __future__ import annotations

from typing import Any

import orjson

BTC = {
    "instType": "SWAP", "instId": "BTC-USDT-SWAP", "instIdCode": 10458, "baseCcy": "", "quoteCcy": "", "settleCcy": "USDT",
    "ctVal": "0.01", "ctMult": "1", "ctValCcy": "BTC", "ctType": "linear", "tickSz": "0.1", "lotSz": "0.01", "minSz": "0.01",
    "maxLmtSz": "100000000", "maxMktSz": "12000", "lever": "100", "state": "live", "upcChg": [],
}  # fmt: skip
ETH = {**BTC, "instId": "ETH-USDT-SWAP", "instIdCode": 10459, "ctVal": "0.1", "ctValCcy": "ETH", "tickSz": "0.01"}
SPOT = {
    "instType": "SPOT", "instId": "BTC-USDT", "instIdCode": 7, "baseCcy": "BTC", "quoteCcy": "USDT", "settleCcy": "",
    "ctVal": "", "ctMult": "", "ctValCcy": "", "ctType": "", "tickSz": "0.1", "lotSz": "0.00000001", "minSz": "0.00001",
    "maxLmtSz": "9999999999", "maxMktSz": "1000000", "lever": "10", "state": "live", "upcChg": [],
}  # fmt: skip


def body(*rows: dict[str, Any]) -> bytes:
    """An answer that lists these."""
    return orjson.dumps({"code": "0", "msg": "", "data": list(rows)})
