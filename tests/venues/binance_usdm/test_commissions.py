"""A commission in another asset counts at what it was worth; where that is not known it is said, once."""

import json

import pytest

from copyd.venues.binance_usdm.instruments import load_instruments
from copyd.venues.common.commissions import Commissions
from tests.venues.binance_usdm.conftest import EXCHANGE_INFO

INFO = json.loads(EXCHANGE_INFO)
BNB = {**INFO["symbols"][1], "symbol": "BNBUSDT"}
SYMBOLS = ["BTCUSDT", "ETHUSDT", "BNBUSDT"]


@pytest.fixture
def instruments():
    return load_instruments(json.dumps({"symbols": [*INFO["symbols"][:2], BNB]}).encode(), list(enumerate(SYMBOLS)))


def test_the_margin_asset_is_itself(instruments):
    rates = Commissions(instruments, lambda index: 1 << 40)
    assert rates.e8("0.01234567", "USDT", instruments.find("BTCUSDT")) == 1_234_567
    assert rates.converted == 0


def test_another_asset_is_converted_at_its_mark_and_rounded_up(instruments):
    """0.00001234 BNB at 612.34: 0.0075562756 USDT, so 755 628 units."""
    rates = Commissions(instruments, lambda index: 61_234 if index == 2 else 0)
    assert rates.e8("0.00001234", "BNB", instruments.find("BTCUSDT")) == 755_628
    assert rates.e8("0", "BNB", instruments.find("BTCUSDT")) == 0
    assert (rates.converted, rates.unknown) == (1, 0)


def test_an_asset_that_no_instrument_trades_counts_nothing_and_is_said_once(instruments):
    said = []
    rates = Commissions(instruments, lambda index: 61_234, lambda *what: said.append(what))
    for _ in range(3):
        assert rates.e8("1", "DOGE", instruments.find("BTCUSDT")) == 0
    assert said == [("DOGE", "DOGEUSDT")] and rates.unknown == 3


def test_before_its_first_mark_nobody_knows_what_it_was_worth(instruments):
    """None, not 0: what is booked once is booked for good."""
    rates = Commissions(instruments, lambda index: 0)
    assert rates.e8("1", "BNB", instruments.find("BTCUSDT")) is None and rates.unknown == 0
