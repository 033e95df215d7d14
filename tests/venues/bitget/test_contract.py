"""Each row of the contract: what it says is what the code does, or what the exchange of this dialect enforces."""

from __future__ import annotations

import asyncio
import inspect
import re
import time

import aiohttp
import pytest

from copyd.exchange import bitget as dialect
from copyd.venues.bitget import rest, wire
from copyd.venues.bitget.contract import CONTRACT, DAY_MS, Endpoints
from copyd.venues.bitget.signing import place_text
from copyd.venues.bitget.wire import BitgetWire
from copyd.venues.common.contract import RateLimit
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.venue import Order
from tests.exchange.bitget_bench import exchange
from tests.exchange.test_bitget_dialect import INFO, PLACE, V2, refusal

MS_NS = 10**6


def test_identity(instruments: Instruments) -> None:
    """Ids are unique among open orders; ours fit into 32 characters of the field the venue names."""
    assert CONTRACT.id_scope == "open_orders"
    order = Order(1, instruments[3], b"\xff" * 16, 1, 0, 1, 0, False)
    for unified in (False, True):
        text = place_text(order, isolated=True, unified=unified)
        found = re.search(rb'"%s":"([^"]*)"' % CONTRACT.client_id_field.encode(), text)
        assert found is not None and len(found[1]) == CONTRACT.client_id_len_max
        assert dialect.CLIENT_ID.fullmatch(found[1].decode())


async def test_the_fence() -> None:
    """No field bounds an order's life: it counts while its stamp is within thirty seconds, so the fence is longer than that."""
    assert CONTRACT.expiry_field == ""
    assert CONTRACT.recv_window_ms == CONTRACT.recv_window_ms_max == CONTRACT.clock_lead_ms == dialect.CLOCK_TOLERANCE_MS
    assert CONTRACT.fence_ns() == (30_000 + 1_000 + 10_000 + 10_000 + 2_000) * MS_NS
    async with exchange() as x:
        alice = await x.account()
        for off_ms, code in ((-29_500, "00000"), (29_500, "00000"), (-30_500, "40008"), (30_500, "40008")):
            stamp = str(time.time_ns() // MS_NS + off_ms)
            assert (await refusal(x, alice, "GET", INFO, ACCESS_TIMESTAMP=stamp))[1] == code


def test_authoritative_queries() -> None:
    """What may say "absent" are calls the client makes, of both APIs and of spot; no socket answers questions."""
    assert CONTRACT.query_methods == ()
    assert {f"GET {path}" for path in CONTRACT.query_rest_paths} <= CONTRACT.weights.keys()
    assert CONTRACT.query_absent_valid_ms == CONTRACT.order_history_ms == 89 * DAY_MS < dialect.HISTORY_NS // MS_NS
    for call in (CONTRACT.call_order, CONTRACT.call_orders, CONTRACT.call_position, CONTRACT.call_account):
        assert call in CONTRACT.weights


def test_orders(instruments: Instruments) -> None:
    """Limit orders are immediate-or-cancel, market orders plain; both modes and both margin types have words."""
    assert CONTRACT.order_types == ("limit_ioc", "market")
    assert CONTRACT.position_modes == ("one_way", "hedge") and CONTRACT.margin_types == ("isolated", "cross")
    for unified, force in ((False, b'"force":"ioc"'), (True, b'"timeInForce":"ioc"')):
        limit = Order(1, instruments[3], b"\1" * 16, 1, 500_000, 1, 0, False)
        assert force in place_text(limit, isolated=True, unified=unified)
        assert b"ioc" not in place_text(limit._replace(px=0), isolated=True, unified=unified)
        texts = {place_text(limit, isolated=isolated, unified=unified) for isolated in (True, False)}
        assert len(texts) == 2


async def test_reduce_only_excess_is_cut() -> None:
    """More than is held, reduce-only: the venue fills what there is."""
    assert CONTRACT.reduce_only_excess == "cut"
    async with exchange() as x:
        alice = await x.account()
        await x.good(alice, "POST", PLACE, V2)
        await x.good(alice, "POST", PLACE, {**V2, "side": "sell", "size": "0.03", "reduceOnly": "YES"})
        assert await x.good(alice, "GET", "/api/v2/mix/position/all-position?productType=USDT-FUTURES") == []


def test_batches() -> None:
    """Twenty orders fit into a batch, at the client's and the exchange's alike."""
    assert CONTRACT.batch_max == dialect.BATCH_MAX == 20


async def test_rate_limits() -> None:
    """A hundred requests a second and address, ten orders a second and account: the exchange counts the same."""
    assert CONTRACT.rate_limits == (RateLimit("weight", "ip", 6_000, 60_000), RateLimit("orders", "account", 10, 1_000))
    async with exchange() as x:
        limits = (await x.tell("GET", "/truth/stats"))["limits"]
        for name, kind, scope in (("address", "weight", "ip"), ("orders", "orders", "account")):
            row = CONTRACT.limit(kind, scope)
            assert (limits[name]["limit"], limits[name]["period_ms"]) == (row.limit, row.interval_ms)
        assert limits["connects"]["limit"] == CONTRACT.connect_attempts_per_5_min
        assert limits["connections"]["limit"] == CONTRACT.connections_per_ip_max
        assert limits["messages"]["limit"] == CONTRACT.stream_messages_per_s_max
    assert CONTRACT.order_limit_codes == (429,)


async def test_connections(instruments: Instruments) -> None:
    """One account per connection, which lives a day; a text keeps it alive long before the venue would cut it."""
    assert CONTRACT.connection_scope == "one_account" and CONTRACT.streams_per_connection_max == 1
    assert CONTRACT.connection_life_ms == dialect.Dialect.terms.life_s * 1_000
    assert wire.PING_EVERY_MS < 30_000 and wire.PING_EVERY_MS < CONTRACT.ping_idle_ms < dialect.Dialect.terms.idle_s * 1_000
    assert CONTRACT.listen_key_valid_ms == 0
    venue = BitgetWire()
    venue.bind(instruments)
    (channel,) = venue.channels(Endpoints())
    assert (channel.orders, channel.events, channel.ping, channel.ping_every_ms) == (False, True, b"ping", wire.PING_EVERY_MS)
    assert len(channel.subscriptions) + 1 <= CONTRACT.stream_messages_per_s_max
    async with exchange(idle_s=1.0) as x, aiohttp.ClientSession() as http:
        ws = await http.ws_connect(x.ws + "/v2/ws/public")
        assert (await asyncio.wait_for(ws.receive(), 5)).type is aiohttp.WSMsgType.CLOSE


def test_refusals_for_the_rate() -> None:
    """An account's limit is over after a second; the address is turned away for five minutes."""
    assert CONTRACT.limited_default_ms == 1_000 and CONTRACT.banned_default_ms == 300_000


def test_back_fill() -> None:
    """Pages of a hundred and spans of ninety days, as the lists are asked for."""
    assert (CONTRACT.backfill_page_max, CONTRACT.backfill_window_ms) == (rest.PAGE, 90 * DAY_MS)


def test_every_call_has_its_weight() -> None:
    """Each is one request; a path of ``rest`` that is not listed would be dear, so none is forgotten."""
    assert set(CONTRACT.weights.values()) == {1} and CONTRACT.weight("GET /api/v2/forgotten") == 10
    asked = set(re.findall(r'"(/api/v[23]/[^"]+)"', inspect.getsource(rest)))
    asked |= {"/api/v2/mix/order/place-order", "/api/v2/spot/trade/place-order", "/api/v3/trade/place-order"}
    assert asked == {call.partition(" ")[2] for call in CONTRACT.weights}


@pytest.mark.parametrize(("environment", "host", "demo"), [
    ("live", "wss://ws.bitget.com", False), ("demo", "wss://wspap.bitget.com", True),
])  # fmt: skip
def test_endpoints(environment: str, host: str, demo: bool) -> None:
    """Live and demo share REST and differ in their sockets; the simulated exchange has the same paths."""
    at = Endpoints.of(environment)
    assert at == Endpoints(
        rest="https://api.bitget.com", public=f"{host}/v2/ws/public", private=f"{host}/v2/ws/private",
        private_v3=f"{host}/v3/ws/private", demo=demo)  # fmt: skip
    here = Endpoints.at("http://h:1", "ws://h:2")
    assert (here.rest, here.private, here.private_v3) == ("http://h:1", "ws://h:2/v2/ws/private", "ws://h:2/v3/ws/private")


def test_there_is_no_test_network() -> None:
    """Any other environment is refused by name."""
    with pytest.raises(ValueError, match="no environment testnet"):
        Endpoints.of("testnet")
