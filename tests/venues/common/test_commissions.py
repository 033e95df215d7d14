"""Commissions of a counterparty's frames: what is no amount ends nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from copyd.core.leader_stream import Execution
from copyd.venues.common.accounts import FollowerStreams
from copyd.venues.common.commissions import Commissions
from copyd.venues.common.facts import StreamGap
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.told import TradeTold

COIN = Instrument(
    index=0, symbol="BTCUSDT", status="TRADING", base_asset="BTC", quote_asset="USDT", margin_asset="USDT", price_decimals=2,
    tick=1, qty_decimals=5, lot=1, lot_min=1, lot_max=10**6, market_lot_min=1, market_lot_max=10**6, min_notional_e8=0,
    value_mul=10, value_div=1, price_up_ppm=0, price_down_ppm=0, market_take_bound_ppm=0, orders_max=200, spot=True,
    leverage_max=1,
)  # fmt: skip
NO_AMOUNTS = ["", "x", "NaN", "Infinity", "1e999999999", "99999999999999999999"]


@pytest.mark.parametrize("amount", NO_AMOUNTS)
def test_what_is_no_amount_is_said_so(amount: str) -> None:
    """In the coin that was bought and in the one that pays: a ``ValueError``, never another exception."""
    rates = Commissions(Instruments([COIN]), lambda index: 1)
    for asset in ("BTC", "USDT"):
        with pytest.raises(ValueError):
            rates.of(amount, asset, COIN)


@pytest.mark.parametrize("amount", NO_AMOUNTS)
def test_an_execution_with_such_a_commission_is_a_gap_of_its_account(amount: str) -> None:
    """What it said is read again; nothing raises through the connection."""
    heard: list[Any] = []
    rates = Commissions(Instruments([COIN]), lambda index: 1)
    streams = FollowerStreams(
        sessions=None, instruments=Instruments([COIN]), clock=lambda: 7, site_tag="11", on_reports=lambda batch, ts: None,
        on_event=heard.append, is_known=lambda cid: True, is_hedge=lambda account: False,
        commission=lambda text, asset, index: rates.of(text, asset, COIN),
    )  # type: ignore[arg-type]
    line: Any = SimpleNamespace(account=3)
    cid = bytes([0x11] * 16)
    streams.on_told(line, TradeTold(cid, Execution(0, 0, 5, 9, 1, 10, 3_000_000, client_order_id=cid.hex()), amount, "BTC"))
    assert heard == [StreamGap(3, "unreadable event")] and streams.stats.malformed == 1
