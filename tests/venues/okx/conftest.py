"""Instruments as the venue lists them, and the key of the worked examples."""

from __future__ import annotations

import pytest

from copyd.venues.common.instruments import Instruments
from copyd.venues.common.signing import Key
from copyd.venues.okx.instruments import load_instruments
from tests.venues.okx.samples import BTC, ETH, SPOT, body


@pytest.fixture
def instruments() -> Instruments:
    return load_instruments([body(BTC, ETH), body(SPOT)], [(0, "BTC-USDT-SWAP"), (5, "ETH-USDT-SWAP"), (9, "BTC-USDT")])


@pytest.fixture
def key() -> Key:
    return Key(b"TESTKEY0000000000000000000000000001", b"TESTSECRET000000000000000000000000000002", b"Testpass1")
