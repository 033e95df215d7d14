"""The venue's lists of instruments to exact integers, and every problem at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.venues.bitget.instruments import LOTS_MAX, load_instruments, load_one_market, venue_symbol
from copyd.venues.common.instruments import Instruments
from tests.venues.bitget.conftest import BTC, BTC_SPOT, bodies


def _one(symbol: str = "BTCUSDT", **fields: Any) -> Any:
    return load_instruments(bodies([{**BTC, **fields}], []), [(0, symbol)])[0]


def test_a_perpetual(instruments: Instruments) -> None:
    """Ticks, lots, bounds and value, in the base coin: a contract is one unit of it."""
    item = instruments[3]
    assert (item.symbol, item.status, item.base_asset, item.quote_asset, item.margin_asset) == (
        "BTCUSDT", "TRADING", "BTC", "USDT", "USDT")  # fmt: skip
    assert (item.price_decimals, item.tick, item.qty_decimals, item.lot) == (1, 1, 3, 1)
    assert (item.contract_mul, item.contract_div) == (1, 1)
    assert (item.lot_min, item.lot_max, item.market_lot_max, item.min_notional_e8) == (1, 1_200_000, 220_000, 5 * 10**8)
    assert (item.price_up_ppm, item.price_down_ppm, item.leverage_max, item.orders_max, item.spot) == (
        1_050_000, 950_000, 125, 200, False)  # fmt: skip
    # 0.01 BTC at 60,000.0 USDT
    assert 10 * 600_000 * item.value_mul // item.value_div == 600 * 10**8
    assert (item.lots("0.010"), item.ticks("60000.1")) == (10, 600_001)


@pytest.mark.parametrize(("place", "step", "decimals", "tick", "text", "ticks"), [
    ("1", "1", 1, 1, "60000.1", 600_001), ("1", "5", 1, 5, "60000.5", 120_001), ("2", "50", 1, 5, "0.5", 1),
    ("0", "10", 0, 10, "60010", 6_001), ("4", "10", 3, 1, "0.125", 125), ("2", "100", 0, 1, "7", 7),
])  # fmt: skip
def test_the_tick_is_a_step_of_the_last_decimal(place: str, step: str, decimals: int, tick: int, text: str, ticks: int) -> None:
    """``priceEndStep`` times ten to the minus ``pricePlace``; a price off the tick is an error."""
    item = _one(pricePlace=place, priceEndStep=step)
    assert (item.price_decimals, item.tick, item.ticks(text)) == (decimals, tick, ticks)
    with pytest.raises(ValueError):
        item.ticks(text + "00001" if "." in text else text + ".00001")


@pytest.mark.parametrize(("place", "multiplier", "text", "lots"), [
    ("0", "10", "120", 12), ("2", "0.05", "0.15", 3), ("3", "0.001", "1", 1000),
])  # fmt: skip
def test_quantities_step_by_the_multiplier(place: str, multiplier: str, text: str, lots: int) -> None:
    """The step is ``sizeMultiplier``, not the decimals; a quantity off the step is an error."""
    item = _one(volumePlace=place, sizeMultiplier=multiplier, minTradeNum=multiplier)
    assert (item.lots(text), item.lot_min) == (lots, 1)
    if multiplier != "0.001":
        with pytest.raises(ValueError):
            item.lots(f"{text}1" if "." in text else f"{text}.5")


def test_what_the_venue_does_not_bound() -> None:
    """No largest quantity, no ratio, no leverage told: no bound, never zero."""
    item = _one(maxOrderQty="", maxMarketOrderQty=None, buyLimitPriceRatio=None, sellLimitPriceRatio="", maxLever="",
                maxSymbolOrderNum="", minTradeUSDT=None)  # fmt: skip
    assert (item.lot_max, item.market_lot_max, item.price_up_ppm, item.price_down_ppm, item.leverage_max) == (
        LOTS_MAX, LOTS_MAX, 0, 0, 0)  # fmt: skip
    assert (item.orders_max, item.min_notional_e8) == (200, 0)


def test_a_market_that_does_not_trade_says_so() -> None:
    """Whatever the venue calls it is kept, for people."""
    assert _one(symbolStatus="limit_open").status == "limit_open"


def test_one_market_at_a_time() -> None:
    """Spot and perpetuals are two accounts, each with a balance: a daemon's venue is of one of them."""
    told = bodies([BTC], [BTC_SPOT])
    for symbol in ("BTCUSDT", "BTCUSDT_SPBL"):
        assert [item.symbol for item in load_one_market(told, [(0, symbol)])] == [symbol]
    with pytest.raises(ValueError, match="BTCUSDT_SPBL: spot cannot stand beside perpetuals"):
        load_one_market(told, [(0, "BTCUSDT"), (1, "BTCUSDT_SPBL")])


def test_spot(instruments: Instruments) -> None:
    """Powers of ten, no leverage; its symbol bears a mark, because the venue writes the perpetual's the same way."""
    item = instruments[7]
    assert (item.symbol, venue_symbol(item.symbol), item.spot, item.leverage_max) == ("BTCUSDT_SPBL", "BTCUSDT", True, 0)
    assert (item.price_decimals, item.tick, item.qty_decimals, item.lot, item.lot_min, item.lot_max) == (2, 1, 6, 1, 1, LOTS_MAX)
    assert (item.base_asset, item.margin_asset, item.min_notional_e8) == ("BTC", "USDT", 10**8)
    assert 10_000 * 6_000_000 * item.value_mul // item.value_div == 600 * 10**8


def test_every_problem_is_named_at_once() -> None:
    """All symbols that are missing or cannot be used, one sentence each."""
    rows = [
        {**BTC, "symbol": "A", "symbolType": "delivery"}, {**BTC, "symbol": "B", "supportMarginCoins": ["USDC"]},
        {**BTC, "symbol": "C", "priceEndStep": "0"}, {**BTC, "symbol": "D", "sizeMultiplier": ""},
        {**BTC, "symbol": "E", "pricePlace": "x"}, {**BTC, "symbol": "F", "minTradeUSDT": "five"},
    ]  # fmt: skip
    wanted = [(n, symbol) for n, symbol in enumerate(["A", "B", "C", "D", "E", "F", "G", "H_SPBL"])]
    with pytest.raises(ValueError) as told:
        load_instruments(bodies(rows, [BTC_SPOT]), wanted)
    parts = str(told.value).split("; ")
    assert [part.partition(":")[0] for part in parts] == [symbol for _, symbol in wanted]
    assert parts[0].endswith("is a delivery contract, not a perpetual") and parts[6].endswith("not listed at the venue")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"data":[{"symbol":1}]}', b'{"data":{}}', b'{"data":[{}]}', b"\xff"])
def test_an_unreadable_list_is_one_problem(body: bytes) -> None:
    """A body that is no list of instruments is one sentence, whatever is wrong with it."""
    with pytest.raises(ValueError, match="list of instruments is unreadable"):
        load_instruments({"contracts": body}, [(0, "BTCUSDT")])


@given(place=st.integers(0, 8), step=st.integers(1, 99), volume=st.integers(0, 6), multiplier=st.integers(1, 500),
       lots=st.integers(1, 10**6), ticks=st.integers(1, 10**6))  # fmt: skip
def test_a_notional_is_exact(place: int, step: int, volume: int, multiplier: int, lots: int, ticks: int) -> None:
    """Lots times ticks in 1e-8 of the quote asset, rounded down once, for every step the venue could name."""
    text = f"{multiplier:0{volume + 1}d}"
    text = text[: len(text) - volume] + ("." + text[len(text) - volume :] if volume else "")
    item = _one(pricePlace=str(place), priceEndStep=str(step), volumePlace=str(volume), sizeMultiplier=text, minTradeNum=text)
    exact = lots * multiplier * ticks * step * 10**8 // 10 ** (volume + place)
    assert lots * ticks * item.value_mul // item.value_div == exact
