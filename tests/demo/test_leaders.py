"""The leaders' own clients: their signatures against worked examples, and each of them against its exchange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from copyd.demo.history import Plan
from copyd.demo.leaders import CLIENTS, BitgetLeader, BybitLeader, JsonClient, OkxLeader
from copyd.demo.places import KINDS, Place, spread, venues_named
from copyd.demo.workload import Step, follower_plans
from copyd.errors import VenueUnavailable

KEY = ("TESTKEY0000000000000000000000000001", "TESTSECRET000000000000000000000000000002", "Testpass1")
NOW_MS = 1_700_000_000_000
OKX_ORDER = (
    '{"instId":"BTC-USDT-SWAP","tdMode":"cross","side":"buy","ordType":"limit","sz":"1","px":"50000","clOrdId":"cpd0000000000000003"}'
)
BITGET_ORDER = (
    '{"symbol":"BTCUSDT","productType":"USDT-FUTURES","marginMode":"crossed","marginCoin":"USDT","size":"0.01","side":"buy",'
    '"orderType":"market","clientOid":"cpd0000000000000001"}'
)


def client(kind: type[JsonClient]) -> JsonClient:
    """A client with the worked examples' key; it never connects."""
    return kind(None, "", *KEY)  # type: ignore[arg-type]


def test_okx_signs_as_worked_out() -> None:
    """A POST over its body, a GET over its query, the stamp in UTC to the millisecond."""
    headers = client(OkxLeader).signed("POST", "/api/v5/trade/order", OKX_ORDER, NOW_MS)
    assert headers["OK-ACCESS-SIGN"] == "md1m051ZhN/o/E7ULft1fA/I6LIbOYoWamq0Yu6IFgo="
    assert headers["OK-ACCESS-TIMESTAMP"] == "2023-11-14T22:13:20.000Z"
    asked = "/api/v5/trade/order?instId=BTC-USDT-SWAP&clOrdId=cpd0000000000000001"
    assert client(OkxLeader).signed("GET", asked, "", NOW_MS)["OK-ACCESS-SIGN"] == "0cveh0htDWe+UW98qJbXcJv54zLP5DntcYW7QREapPE="


def test_bybit_signs_as_worked_out() -> None:
    """Over stamp, key, window, and body or query; the examples' window is 5 s."""
    leader = client(BybitLeader)
    leader.WINDOW_MS = "5000"  # type: ignore[attr-defined]
    body = (
        '{"category":"linear","symbol":"BTCUSDT","side":"Buy","orderType":"Market","qty":"0.01","positionIdx":0,'
        '"orderLinkId":"cpd0000000000000001"}'
    )
    signature = "533fa7832669938e176038d2241062b25826daa93c99e28dc3340e6c2a5f84a0"
    assert leader.signed("POST", "/v5/order/create", body, NOW_MS)["X-BAPI-SIGN"] == signature
    asked = "/v5/order/realtime?category=linear&orderLinkId=cpd0000000000000001"
    signature = "e5a3384ada423224bc4f6f5991d598966de1f673b8a1b175a9fa3d4a1cffe83d"
    assert leader.signed("GET", asked, "", NOW_MS)["X-BAPI-SIGN"] == signature


def test_bitget_signs_as_worked_out() -> None:
    """Over stamp in ms, method, path with query, body."""
    headers = client(BitgetLeader).signed("POST", "/api/v2/mix/order/place-order", BITGET_ORDER, NOW_MS)
    assert headers["ACCESS-SIGN"] == "8yS0T0xj+yrGBTI5E0upJrODUFOP+DSEo55kzcW2Lk4="
    asked = "/api/v2/mix/order/detail?clientOid=cpd0000000000000001&productType=USDT-FUTURES&symbol=BTCUSDT"
    assert client(BitgetLeader).signed("GET", asked, "", NOW_MS)["ACCESS-SIGN"] == "dQvs38AYvRmm/fd5Mk6kjUaJb0kk8P34dxDi2KFYapg="


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


def step(symbol: str, side: int, lots: int, kind: str = "MARKET", px: int = 0, closing: bool = False) -> Step:
    return Step(at_ms=0, phase="first", symbol=symbol, label="", side=side, lots=lots, kind=kind, px=px, reduce_only=closing)


def bitcoin(place: Place) -> Any:
    return next(one for one in place.control.instruments.values() if one.pair == ("BTC", "USDT"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_leader_trades_on_his_exchange(kind: str, tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """Market, marketable and resting orders, a reduction, and what still rests taken back; quantities in the venue's unit, and
    the books say the same in lots. His executions are named as he is told of them."""
    place = Place(kind, kind, "leader", tmp_path, session, 0, False)
    await place.start(7, False, None)
    try:
        await place.open_leader()
        instrument = bitcoin(place)
        symbol, opening = instrument.symbol, place.control.opening_px[instrument.symbol]
        await place.client.set_leverage(symbol, 10)
        await place.client.set_leverage(symbol, 10)  # as it is already: no refusal
        await place.client.place(step(symbol, 1, 900), instrument)
        await place.client.place(step(symbol, 1, 100, "LIMIT", opening * 102 // 100), instrument)
        await place.client.place(step(symbol, -1, 250, closing=True), instrument)
        number = await place.client.place(step(symbol, 1, 50, "REST"), instrument)
        assert await place.client.wait_filled(symbol, number, 20)
        far = await place.client.place(step(symbol, 1, 7, "LIMIT", opening * 97 // 100), instrument)
        assert not await place.client.wait_filled(symbol, far, 0)
        await place.client.cancel_all(symbol)
        assert (await place.client.order_status(symbol, far)).lower() in ("canceled", "cancelled")
        truth = await place.truth()
        assert sum(trade.lots for trade in truth.leader_trades) == 900 + 100 - 250 + 50
        assert {trade.symbol for trade in truth.leader_trades} == {symbol}
        assert len({trade.exec_id for trade in truth.leader_trades}) == len(truth.leader_trades)
        assert all(trade.exec_id.isdigit() for trade in truth.leader_trades)
        assert await place.orders_accepted() == 0
        with pytest.raises(VenueUnavailable, match="was refused"):
            await place.client.place(step(symbol, 1, 0), instrument)
    finally:
        await place.exchange.end(5)


async def test_the_exchanges_list_other_lots_and_ticks(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """Each pair is on each venue, in that venue's name and unit; followers are dealt so that each leader has some everywhere."""
    places = [Place(kind, kind, f"leader-{kind}", tmp_path, session, 5, False) for kind in ("okx", "bitget")]
    try:
        await asyncio.gather(*(place.start(7, False, None) for place in places))
        okx, bitget = places
        first, second = bitcoin(okx), bitcoin(bitget)
        assert first.symbol == "BTC-USDT-SWAP" and str(first.contract) == "0.01000000"
        assert first.qty_text(1) == "0.01" and second.qty_text(1) == "0.01"
        assert second.lot / first.lot == 100
        assert all(len(place.control.instruments) == len(place.control.opening_px) == 3 for place in places)
        plans = spread(follower_plans(40, list(okx.control.instruments), 7), places)
        assert {(plan.leader, plan.venue) for plan in plans} == {(one.leader_name, two.name) for one in places for two in places}
        for plan in plans:
            known = places[0 if plan.venue == "okx" else 1].control.instruments
            assert set(plan.instruments) <= set(known)
    finally:
        for place in places:
            await place.exchange.end(5)


def test_what_is_lifted_is_what_the_venue_would_refuse(tmp_path: Path) -> None:
    """Where an account has a connection of its own nothing is counted; Binance counts as ever, faults or few followers or not."""
    def place(kind: str, followers: int, disturbed: bool) -> Place:
        made = Place(kind, kind, "leader", tmp_path, None, followers, False)  # type: ignore[arg-type]
        made.limit(disturbed)
        return made

    assert place("okx", 5, False).lift == ["all"]
    assert place("binance_usdm", 40, False).lift == [] and place("binance_usdm", 41, False).lift == ["request_weight"]
    assert place("binance_usdm", 500, True).lift == [] and place("binance_usdm", 500, True).weight == 30_000


@pytest.mark.parametrize(
    ("text", "names"), [("all", list(KINDS)), ("okx", ["okx"]), ("okx, bybit", ["okx", "bybit"]), ("bitget,", ["bitget"])]
)
def test_venues_are_named(text: str, names: list[str]) -> None:
    """A list, or all."""
    assert venues_named(text) == names


@pytest.mark.parametrize("text", ["kraken", "okx,kraken", "okx,okx", ",", "all,okx"])
def test_wrong_names_are_said(text: str) -> None:
    """Unknown, doubled or none: one sentence that tells which there are."""
    with pytest.raises(ValueError, match=r"there are binance_usdm, okx, bybit, bitget"):
        venues_named(text)


def test_each_venue_has_a_leader() -> None:
    """Nobody is left without a client."""
    assert set(CLIENTS) == set(KINDS)
    assert Plan(follower="f", allocation="1").venue == ""
