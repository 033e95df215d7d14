"""The venue's list of instruments to exact integers, and its traps."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.venues.okx.instruments import load_instruments
from tests.venues.okx.samples import BTC, ETH, SPOT, body


def test_a_perpetual_counts_contracts(instruments) -> None:
    """Quantities are contracts: one lot of 0.01 contracts of 0.01 BTC is 0.0001 BTC, and its value follows from that."""
    item = instruments.find("BTC-USDT-SWAP")
    assert (item.contract_mul, item.contract_div, item.base_asset) == (1, 100, "BTC")
    assert item.lots("1") == 100 and item.lots("0.03") == 3
    lots, ticks = item.lots("2.5"), item.ticks("60000.5")
    assert lots * ticks * item.value_mul // item.value_div == int(Decimal("2.5") * Decimal("0.01") * Decimal("60000.5") * 10**8)
    assert (item.code, item.leverage_max, item.status, item.spot) == (10458, 100, "live", False)
    assert (item.quote_asset, item.margin_asset, item.min_notional_e8) == ("USDT", "USDT", 0)
    assert (item.lot_min, item.market_lot_max) == (1, 1_200_000)


def test_spot_counts_in_the_base_asset(instruments) -> None:
    """Spot has no contract, no leverage, and its margin asset is what is paid with; indexes are the engine's."""
    item = instruments.find("BTC-USDT")
    assert item.spot and (item.contract_mul, item.contract_div, item.leverage_max) == (1, 1, 0)
    assert (item.index, item.margin_asset, item.base_asset, item.lot_min) == (9, "USDT", "BTC", 1000)
    assert item.market_lot_max == item.lot_max, "the venue's largest market size of spot counts in the quote asset"


@given(
    st.sampled_from(["0.0001", "0.01", "1", "10", "100000"]), st.sampled_from(["1", "0.1", "10"]),
    st.sampled_from(["0.01", "0.1", "1"]), st.sampled_from(["0.1", "0.01", "0.0000001", "0.5"]),
    st.integers(1, 10**6), st.integers(1, 10**6),
)  # fmt: skip
def test_value_is_exact(ct_val: str, ct_mult: str, lot: str, tick: str, lots: int, ticks: int) -> None:
    """The value of an order is contracts x contract value x multiplier x price, cut to 1e-8, whatever the sizes."""
    row = {**BTC, "ctVal": ct_val, "ctMult": ct_mult, "lotSz": lot, "minSz": lot, "tickSz": tick}
    item = load_instruments([body(row)], [(0, "BTC-USDT-SWAP")])[0]
    exact = Decimal(lot) * lots * Decimal(ct_val) * Decimal(ct_mult) * Decimal(tick) * ticks * 10**8
    assert lots * ticks * item.value_mul // item.value_div == int(exact)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ctType": "inverse"}, "no linear contract"),
        ({"settleCcy": "USDC"}, "settled in USDC"),
        ({"instType": "FUTURES"}, "type FUTURES"),
        ({"instIdCode": None}, "no number"),
        ({"ctVal": "0"}, "not positive"),
        ({"tickSz": ""}, "tickSz is not told"),
        ({"lotSz": "x"}, ""),
    ],
)  # fmt: skip
def test_what_cannot_be_traded_is_named(change: dict[str, object], said: str) -> None:
    """Each instrument that cannot be used is named with its reason, and all of them at once."""
    with pytest.raises(ValueError, match="BTC-USDT-SWAP: .*" + said) as caught:
        load_instruments([body({**BTC, **change}, ETH)], [(0, "BTC-USDT-SWAP"), (1, "ETH-USDT-SWAP"), (2, "NO-SUCH")])
    assert "NO-SUCH: not listed at the venue" in str(caught.value)


def test_unreadable_list() -> None:
    """A list that is none is one clear sentence."""
    with pytest.raises(ValueError, match="list of instruments is unreadable"):
        load_instruments([b'{"code":"0"'], [(0, "X")])
    assert len(load_instruments([body(SPOT)], [])) == 0
