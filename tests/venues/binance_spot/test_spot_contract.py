"""Each row of the contract: what it says is what the code does, or what the venue's own model enforces."""

from __future__ import annotations

import asyncio

import pytest

from copyd.exchange import binance_spot as dialect
from copyd.exchange import spot
from copyd.venues.binance_spot import codec
from copyd.venues.binance_spot.contract import CONTRACT, DAY_MS, WEIGHTS, Endpoints
from copyd.venues.binance_spot.rest import Rest
from copyd.venues.binance_spot.signing import order_params
from copyd.venues.common.venue import Order
from tests.venues.binance_spot.world import BTC, CID


def test_an_id_is_unique_among_open_orders() -> None:
    """An order that has filled frees its id: the engine takes it again, and finds the later order under it."""
    assert CONTRACT.id_scope == "open_orders"
    assert CONTRACT.client_id_field in order_params(Order(0, BTC, CID, 1, 0, 1, 0, False))
    assert len(CID.hex()) <= CONTRACT.client_id_len_max == 36
    assert dialect.CLIENT_ID.match("x" * 36) and not dialect.CLIENT_ID.match("x" * 37)


def test_the_fence_is_longer_than_an_order_can_be_on_its_way() -> None:
    """recvWindow, the clock's error and all delays together."""
    assert CONTRACT.expiry_field == "recvWindow"
    assert CONTRACT.recv_window_ms <= CONTRACT.recv_window_ms_max == dialect.RECV_WINDOW_MAX_MS
    assert CONTRACT.clock_lead_ms == dialect.LEAD_MS
    assert CONTRACT.fence_ns() >= (CONTRACT.recv_window_ms + CONTRACT.clock_error_ms) * 10**6


def test_limits_are_those_the_venue_enforces() -> None:
    """The same numbers in the contract and in the model of the venue; the account's shorter window paces orders."""
    limits = {(r.kind, r.scope, r.interval_ms): r.limit for r in CONTRACT.rate_limits}
    assert limits == {
        ("weight", "ip", 60_000): dialect.WEIGHT_PER_MINUTE, ("requests", "ip", 300_000): dialect.RAW_PER_5_MINUTES,
        ("orders", "account", 10_000): dialect.ORDERS_PER_10S, ("orders", "account", DAY_MS): dialect.ORDERS_PER_DAY,
        ("connects", "ip", 300_000): dialect.CONNECTS_PER_5_MINUTES,
    }  # fmt: skip
    assert CONTRACT.limit("orders", "account").interval_ms == 10_000
    assert CONTRACT.connect_attempts_per_5_min == dialect.CONNECTS_PER_5_MINUTES
    assert CONTRACT.streams_per_connection_max == dialect.SUBSCRIPTIONS_PER_CONNECTION
    assert CONTRACT.stream_messages_per_s_max == dialect.STREAM_MESSAGES_PER_S
    assert CONTRACT.connection_life_ms == dialect.Dialect.terms.life_s * 1000


@pytest.mark.parametrize("call", [call for call in WEIGHTS if call.startswith(("GET", "POST", "DELETE"))])
def test_a_call_weighs_at_least_what_the_venue_counts(call: str) -> None:
    """Our budget never counts less than the venue's."""
    table = dialect.Dialect.__new__(dialect.Dialect)
    table.routes, table.methods, table._queries = {}, {}, set()
    table._route_rest()
    route = table.routes[call]
    assert CONTRACT.weight(call) >= route.weigh({"symbol": "BTCUSDT", "symbols": "[]"})


def test_weights_of_calls_made_of_several() -> None:
    """Balances and prices; the executions of one order; what is not listed is as dear as the dearest."""
    assert CONTRACT.weight("books.query") == WEIGHTS["GET /api/v3/account"] + WEIGHTS["GET /api/v3/ticker/price"]
    assert CONTRACT.weight("trades.of_order") == 5 and CONTRACT.weight("GET /nothing") == 80


def test_there_is_no_leverage_no_hedge_and_no_reduce_only() -> None:
    """One position side, nothing borrowed; what a venue with reduce-only would cut, this one sells."""
    assert CONTRACT.position_modes == ("one_way",) and CONTRACT.margin_types == ("isolated",)
    assert CONTRACT.reduce_only_excess == "none" and CONTRACT.batch_max == 1
    assert CONTRACT.connection_scope == "any_account"


def test_not_found_counts_for_as_long_as_the_venue_remembers() -> None:
    """After 90 days an order without a fill is put away and answers otherwise."""
    assert CONTRACT.query_absent_valid_ms * 10**6 == spot.FORGET_NS
    assert CONTRACT.order_history_ms <= CONTRACT.query_absent_valid_ms
    assert CONTRACT.backfill_window_ms == dialect.DAY_MS and CONTRACT.backfill_page_max == 1_000


def test_addresses() -> None:
    """The venue's own three environments and the layout below two plain addresses."""
    assert Endpoints.of("live") == Endpoints()
    assert Endpoints.of("testnet").sapi is False and "testnet" in Endpoints.of("testnet").ws_api
    assert Endpoints.of("demo").rest == "https://demo-api.binance.com"
    assert Endpoints.at("http://h:1", "ws://h:2").ws_api == "ws://h:2" + dialect.API_PATH
    with pytest.raises(ValueError, match="paper"):
        Endpoints.of("paper")  # type: ignore[arg-type]


def test_there_is_nothing_to_set() -> None:
    """Settings are accepted without a call; leverage is 1."""
    rest = Rest(Endpoints.at("http://127.0.0.1:1", "ws://127.0.0.1:1"))

    async def all_of_them() -> int:
        key = object()
        await rest.set_hedge(key, True)  # type: ignore[arg-type]
        await rest.set_margin(key, BTC, True, 5)  # type: ignore[arg-type]
        await rest.set_leverage(key, BTC, 5, True)  # type: ignore[arg-type]
        return await rest.leverage(key, BTC)  # type: ignore[arg-type]

    assert asyncio.run(all_of_them()) == 1 and rest.calls == 0


def test_states_of_orders_are_the_contracts_vocabulary() -> None:
    """Every state the model of the venue uses is known to the codec."""
    assert set(dialect.STATUSES) <= set(codec.STATUS)
