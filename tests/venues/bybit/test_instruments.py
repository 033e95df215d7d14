"""Instruments from the venue's lists: exact ticks and lots, and every problem named at once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.venues.bybit.instruments import category, find, load_instruments, wire_symbol
from tests.venues.bybit.conftest import BODIES, BTC, BTC_SPOT, INSTRUMENTS, LINEAR, PEPE, SPOT


def test_a_perpetual_is_counted_in_its_base_asset():
    """No contracts: one unit of quantity is one of the base, and a lot at a tick is worth their product."""
    assert (BTC.index, BTC.symbol, BTC.status, BTC.spot) == (3, "BTCUSDT", "Trading", False)
    assert (BTC.price_decimals, BTC.tick, BTC.qty_decimals, BTC.lot) == (1, 1, 3, 1)
    assert (BTC.lot_min, BTC.lot_max, BTC.market_lot_max) == (1, 1_190_000, 119_000)
    assert (BTC.contract_mul, BTC.contract_div, BTC.base_asset, BTC.margin_asset) == (1, 1, "BTC", "USDT")
    assert BTC.leverage_max == 100 and BTC.min_notional_e8 == 5 * 10**8
    assert (BTC.price_up_ppm, BTC.price_down_ppm) == (1_010_000, 990_000)
    # 0.010 BTC at 50,000.0 are 500 USDT
    assert 10 * 500_000 * BTC.value_mul // BTC.value_div == 500 * 10**8


def test_large_quantities_and_steps_above_one_are_read():
    """A step of 100 and a maximum of many millions lose nothing."""
    assert (PEPE.qty_decimals, PEPE.lot, PEPE.lot_min, PEPE.lot_max) == (0, 100, 1, 2_600_000)
    assert (PEPE.price_decimals, PEPE.tick, PEPE.leverage_max) == (7, 1, 75)
    assert PEPE.price_up_ppm == 0  # no band told
    assert 1 * 10_000_000 * PEPE.value_mul // PEPE.value_div == 100 * 10**8


def test_a_spot_pair_of_the_same_name_is_another_instrument():
    """The venue tells them apart by category only; both are found, neither in place of the other."""
    assert (BTC_SPOT.symbol, BTC_SPOT.spot) == ("BTCUSDT_SPOT", True)
    assert (wire_symbol(BTC_SPOT), category(BTC_SPOT)) == ("BTCUSDT", "spot")
    assert (BTC_SPOT.qty_decimals, BTC_SPOT.lot_min, BTC_SPOT.lot_max, BTC_SPOT.market_lot_max) == (6, 48, 83_000_000, 41_500_000)
    assert BTC_SPOT.leverage_max == 0 and BTC_SPOT.min_notional_e8 == 5 * 10**8
    assert find(INSTRUMENTS, "linear", "BTCUSDT") is BTC and find(INSTRUMENTS, "spot", "BTCUSDT") is BTC_SPOT
    assert find(INSTRUMENTS, "inverse", "BTCUSDT") is None and find(INSTRUMENTS, "linear", "BTCUSDT_SPOT") is None


def test_every_problem_is_named_at_once():
    """A dated contract, a price step of zero and a name nobody lists: three sentences in one refusal."""
    with pytest.raises(ValueError) as caught:
        load_instruments(BODIES, [(0, "BTC-26DEC26"), (1, "BADUSDT"), (2, "NOSUCHUSDT"), (3, "BTCUSDT")])
    text = str(caught.value)
    assert "BTC-26DEC26: a LinearFutures is no linear perpetual" in text
    assert "BADUSDT: step 0 is not positive" in text and "NOSUCHUSDT: not listed at the venue" in text
    assert "BTCUSDT:" not in text.replace("NOSUCHUSDT:", "").replace("BADUSDT:", "")


@pytest.mark.parametrize(("kind", "row"), [
    ("linear", {**LINEAR["result"]["list"][0], "symbol": "BTCPERP", "quoteCoin": "USDC", "settleCoin": "USDC"}),
    ("spot", {**SPOT["result"]["list"][0], "symbol": "BTCPERP", "quoteCoin": "USDC"}),
])  # fmt: skip
def test_what_is_not_paid_for_in_usdt_is_refused(kind, row):
    """Balances and positions are read in that coin: of another nothing would be known."""
    body = json.dumps({"result": {"category": kind, "list": [row]}}).encode()
    name = "BTCPERP" if kind == "linear" else "BTCPERP_SPOT"
    with pytest.raises(ValueError, match=f"{name}: it is paid for in USDC; accounts are read in USDT"):
        load_instruments([body], [(0, name)])


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"result":{"category":"linear","list":[7]}}', b"\xff"])
def test_an_unreadable_list_is_one_sentence(body):
    """What is no list of instruments is refused as such."""
    with pytest.raises(ValueError, match="the venue's list of instruments is unreadable"):
        load_instruments([body], [(0, "BTCUSDT")])


def test_a_row_nobody_wants_may_be_of_any_shape():
    """Only the wanted rows must make sense."""
    rows = [{"symbol": "ODD", "priceFilter": 1}, LINEAR["result"]["list"][0]]
    body = json.dumps({"result": {"category": "linear", "list": rows}})
    assert load_instruments([body.encode()], [(0, "BTCUSDT")])[0].symbol == "BTCUSDT"


@given(st.integers(0, 6), st.integers(1, 9), st.integers(1, 10**7))
def test_a_smallest_quantity_is_rounded_up_to_the_lot(decimals, lot, smallest):
    """The smallest order in lots is never below what the venue asks, and less than one lot above it."""
    row = json.loads(json.dumps(LINEAR["result"]["list"][0]))
    step = f"{lot / 10**decimals:.{decimals}f}" if decimals else str(lot)
    row["lotSizeFilter"].update(qtyStep=step, minOrderQty=f"{smallest // 10**8}.{smallest % 10**8:08d}", maxOrderQty="1000000")
    made = load_instruments([json.dumps({"result": {"category": "linear", "list": [row]}}).encode()], [(0, "BTCUSDT")])[0]
    lots = made.lot_min * made.lot * 10 ** (8 - made.qty_decimals)
    assert lots >= smallest and (made.lot_min == 1 or lots - smallest < made.lot * 10 ** (8 - made.qty_decimals))
