"""exchangeInfo to exact integers, and every problem said at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.venues.binance_spot.instruments import held_lots, load_instruments
from tests.venues.binance_spot.world import BTC, ETH, info, instruments, symbol


def test_a_market_in_ticks_and_lots() -> None:
    """Steps without their trailing zeros; value exact; spot, leverage 1, the quote asset is the wallet."""
    assert (BTC.index, BTC.symbol, BTC.base_asset, BTC.quote_asset, BTC.margin_asset) == (4, "BTCUSDT", "BTC", "USDT", "USDT")
    assert (BTC.price_decimals, BTC.tick, BTC.qty_decimals, BTC.lot) == (2, 1, 5, 1)
    assert (BTC.lot_min, BTC.lot_max, BTC.min_notional_e8) == (1, 900_000_000, 500_000_000)
    assert BTC.spot and BTC.leverage_max == 1 and BTC.orders_max == 200
    # 0.01 BTC at 50,000.00: 500 USDT
    assert 1_000 * 5_000_000 * BTC.value_mul // BTC.value_div == 500 * 10**8


def test_a_market_lot_of_zero_is_no_rule() -> None:
    """The venue writes a step and a least quantity of zero where LOT_SIZE alone counts; its maximum counts all the same."""
    assert (BTC.market_lot_min, BTC.market_lot_max) == (1, 12_050_000)
    coarse = {"MARKET_LOT_SIZE": {"minQty": "0.001", "maxQty": "100", "stepSize": "0.001"}}
    only = load_instruments(info(symbol(filters=coarse)), [(0, "BTCUSDT")])[0]
    assert (only.qty_decimals, only.lot, only.market_lot_min) == (3, 1, 1)
    none = load_instruments(info(symbol(filters={"MARKET_LOT_SIZE": None})), [(0, "BTCUSDT")])[0]
    assert (none.market_lot_max, none.lot) == (900_000_000, 1)


def test_the_band_of_a_buy_is_above_and_of_a_sale_below() -> None:
    """What a marketable order runs into; older markets have one band for both."""
    assert (BTC.price_up_ppm, BTC.price_down_ppm) == (1_300_000, 800_000)
    old = {"PERCENT_PRICE_BY_SIDE": None, "PERCENT_PRICE": {"multiplierUp": "5", "multiplierDown": "0.2"}}
    both = load_instruments(info(symbol(filters=old)), [(0, "BTCUSDT")])[0]
    assert (both.price_up_ppm, both.price_down_ppm) == (5_000_000, 200_000)


def test_the_least_notional_of_older_markets() -> None:
    """MIN_NOTIONAL instead of NOTIONAL; neither: none."""
    old = {"NOTIONAL": None, "MIN_NOTIONAL": {"minNotional": "10.00000000"}}
    assert load_instruments(info(symbol(filters=old)), [(0, "BTCUSDT")])[0].min_notional_e8 == 10 * 10**8
    assert load_instruments(info(symbol(filters={"NOTIONAL": None})), [(0, "BTCUSDT")])[0].min_notional_e8 == 0


def test_every_problem_is_said_at_once() -> None:
    """One sentence per market, all of them."""
    rows = info(
        symbol("AUSDT", "A", filters={"PRICE_FILTER": None}), symbol("BUSDT", "B", isSpotTradingAllowed=False),
        symbol("CUSDT", "C", filters={"LOT_SIZE": {"minQty": "1", "maxQty": "2", "stepSize": "0"}}),
        symbol("DUSDT", "D", filters={"LOT_SIZE": {"minQty": "1", "maxQty": "2", "stepSize": "0.0000000001"}}),
    )  # fmt: skip
    with pytest.raises(ValueError) as told:
        load_instruments(rows, [(0, "AUSDT"), (1, "BUSDT"), (2, "CUSDT"), (3, "DUSDT"), (4, "EUSDT")])
    assert str(told.value).split("; ") == [
        "AUSDT: the venue tells no PRICE_FILTER", "BUSDT: is not traded on spot", "CUSDT: step 0 is not positive",
        "DUSDT: its lot has 10 decimals, a balance 8", "EUSDT: not listed at the venue",
    ]  # fmt: skip


def test_two_markets_of_one_asset_cannot_be_told_apart() -> None:
    """A position is a balance: the same base twice, or another quote asset, is refused by name."""
    rows = info(symbol(), symbol("BTCFDUSD", "BTC", "FDUSD"), symbol("ETHBTC", "ETH", "BTC", ETH))
    with pytest.raises(ValueError, match="BTCFDUSD: BTC is what BTCUSDT trades") as told:
        load_instruments(rows, [(0, "BTCUSDT"), (1, "BTCFDUSD"), (2, "ETHBTC")])
    assert "ETHBTC: quoted in BTC, BTCUSDT in USDT" in str(told.value)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"symbols":3}', b'{"symbols":[{"symbol":5}]}', b"\xff\xfe", b"null"])
def test_an_unreadable_body_is_one_sentence(body: bytes) -> None:
    """Whatever came instead: ValueError."""
    with pytest.raises(ValueError):
        load_instruments(body, [(0, "BTCUSDT")])


@given(st.integers(0, 10**18), st.integers(0, 10**18))
def test_a_balance_in_whole_lots(free: int, locked: int) -> None:
    """Free and locked together, cut to lots: never more than is there, never a lot less."""
    def text(amount: int) -> str:
        return f"{amount // 10**8}.{amount % 10**8:08d}"

    lots = held_lots(BTC, text(free), text(locked))
    assert lots * 1_000 <= free + locked < (lots + 1) * 1_000


def test_indexes_are_the_engines() -> None:
    """Instruments stand under the indexes they were asked for with."""
    found = instruments()
    assert [item.index for item in found] == [4, 9] and found.find("ETHUSDT") is found[9]
