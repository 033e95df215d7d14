"""The contract's rows: what each says is what the adapter does; what the venue does is held against the dialect elsewhere."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from copyd.venues.common.contract import RateLimit
from copyd.venues.common.facts import MS_NS
from copyd.venues.common.sessions import pace_of
from copyd.venues.common.signing import Key
from copyd.venues.okx import contract as c
from copyd.venues.okx.contract import CONTRACT, Endpoints
from copyd.venues.okx.rest import PAGE, AccountPace, Rest
from copyd.venues.okx.signing import place_text
from copyd.venues.okx.wire import PING_EVERY_MS

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("venue", "okx"),
        ("id_scope", "open_orders"),
        ("client_id_field", "clOrdId"),
        ("client_id_len_max", 32),
        ("expiry_field", "expTime"),
        ("recv_window_ms", 2_000),
        ("clock_lead_ms", 30_000),
        ("query_absent_valid_ms", 2 * HOUR_MS),
        ("order_history_ms", 90 * 24 * HOUR_MS),
        ("position_modes", ("one_way", "hedge")),
        ("margin_types", ("isolated", "cross")),
        ("order_types", ("limit_ioc", "market")),
        ("reduce_only_excess", "refuse"),
        ("batch_max", 20),
        ("connection_scope", "one_account"),
        ("streams_per_connection_max", 1),
        ("connect_attempts_per_5_min", 900),
        ("connection_life_ms", 0),
        ("order_limit_codes", (50011, 50061)),
        ("backfill_page_max", 100),
        ("backfill_window_ms", 90 * 24 * HOUR_MS),
        ("call_order", "GET /api/v5/trade/order"),
        ("call_orders", "GET /api/v5/trade/orders-history"),
        ("call_position", "GET /api/v5/account/positions"),
        ("call_account", "GET /api/v5/account/balance"),
    ],
)
def test_row(row: str, value: object) -> None:
    """As the venue documents it."""
    assert getattr(CONTRACT, row) == value


def test_limits() -> None:
    """Orders per instrument and per account, connections and our own budget per address."""
    assert CONTRACT.limit("orders", "account_instrument") == RateLimit("orders", "account_instrument", 60, 2_000)
    assert CONTRACT.limit("orders", "account") == RateLimit("orders", "account", 1_000, 2_000)
    assert CONTRACT.limit("connects", "ip") == RateLimit("connects", "ip", 3, 1_000)
    assert CONTRACT.limit("weight", "ip").interval_ms == 60_000, "the configured budget counts per minute"


def test_the_client_id_fits(instruments) -> None:
    """16 bytes as hex are as long as the venue takes, and of its alphabet."""
    assert CONTRACT.client_id_len_max == 2 * 16 and bytes(range(16)).hex().isalnum()


def test_the_expiry_is_in_the_order(instruments) -> None:
    """The field that bounds an order's life on its way is the one the contract names."""
    from copyd.venues.common.venue import Order

    text = place_text(Order(1, instruments[0], bytes(16), 1, 0, 1, 0, False), expires_ms=5)
    assert f'"{CONTRACT.expiry_field}":"5"'.encode() in text and f'"{CONTRACT.client_id_field}"'.encode() in text


def test_the_fence_is_shorter_than_the_memory() -> None:
    """An order that ended unfilled is still known long after only "not found" proves that there is none."""
    assert CONTRACT.fence_ns() < CONTRACT.query_absent_valid_ms * MS_NS // 10


def test_signs_of_life() -> None:
    """The venue closes a connection after 30 s of silence."""
    assert PING_EVERY_MS * 2 <= 30_000


def test_every_call_has_a_weight() -> None:
    """Every path the adapter asks is weighed and, where the venue counts per account, paced."""
    paths = {value for name, value in vars(c).items() if isinstance(value, str) and value.startswith("/api/")}
    weighed = {call.partition(" ")[2] for call in c.WEIGHTS}
    assert paths == weighed
    assert set(c.WEIGHTS) - set(c.ACCOUNT_LIMITS) == {f"GET {c.INSTRUMENTS}", f"GET {c.TICKERS}", f"GET {c.TIME}"}
    assert set(CONTRACT.query_rest_paths) <= paths and CONTRACT.backfill_page_max == PAGE
    assert CONTRACT.weight("GET /api/v5/no-such") == max(c.WEIGHTS.values())


def test_public_calls_stay_inside_their_own_limit() -> None:
    """What a minute's budget allows of one of them is what the venue allows of it in a minute."""
    per_minute = CONTRACT.limit("weight", "ip").limit
    assert per_minute // c.WEIGHTS[f"GET {c.TIME}"] <= 10 * 30
    assert per_minute // c.WEIGHTS[f"GET {c.INSTRUMENTS}"] <= 20 * 30


@pytest.mark.parametrize(("call", "limit"), c.ACCOUNT_LIMITS.items())
def test_an_account_stays_inside_its_limit(call: str, limit: tuple[int, int]) -> None:
    """However fast it is asked, in any stretch of the venue's window no more calls go out than it allows."""
    now = 0
    pace = AccountPace(c.ACCOUNT_LIMITS, lambda: now)
    key, other = Key(b"a", b"s"), Key(b"b", b"s")
    sent = []
    for _ in range(3 * limit[0]):
        now += pace.wait_ns(key, call)
        sent.append(now)
    window = limit[1] * MS_NS
    for at in sent:
        assert sum(1 for other_at in sent if at <= other_at < at + window) <= limit[0]
    assert pace.wait_ns(other, call) == 0, "accounts do not wait for each other"
    assert pace.wait_ns(key, "GET /unlisted") == 0


@pytest.mark.asyncio
async def test_connections_are_opened_in_the_venues_pace() -> None:
    """Three a second from one address, from the first second on: an account's connection too early is refused."""
    pace, opened, loop = pace_of(CONTRACT), [], asyncio.get_running_loop()

    async def connect(urgent: bool) -> None:
        await pace.turn(urgent)
        opened.append(loop.time())

    await asyncio.gather(*(connect(n % 2 == 0) for n in range(7)))
    limit = CONTRACT.limit("connects", "ip")
    window_s = limit.interval_ms / 1000 - 0.01  # the loop's clock counts whole milliseconds
    assert all(sum(1 for other in opened if at <= other < at + window_s) <= limit.limit for at in opened)


def test_endpoints() -> None:
    """Live and demo share the REST host and are told apart by a header; there is no testnet."""
    live, demo = Endpoints.of("live"), Endpoints.of("demo")
    assert live.rest == demo.rest == "https://openapi.okx.com" and (live.simulated, demo.simulated) == (False, True)
    assert demo.private == "wss://wspap.okx.com:8443/ws/v5/private" and live.public.startswith("wss://ws.okx.com:8443/")
    with pytest.raises(ValueError, match="no environment 'testnet'"):
        Endpoints.of("testnet")
    here = Endpoints.at("http://h:1", "ws://h:2")
    assert (here.rest, here.private, here.public) == ("http://h:1", "ws://h:2/ws/v5/private", "ws://h:2/ws/v5/public")


async def test_the_demo_is_said_on_public_calls_too() -> None:
    """Without the header a question about instruments would be answered for real trading, with other numbers."""
    heard: list[str] = []

    async def listen(request: web.Request) -> web.Response:
        heard.append(request.headers.get("x-simulated-trading", ""))
        return web.json_response({"code": "0", "data": [{"ts": "5"}], "msg": ""})

    app = web.Application()
    app.router.add_get(c.TIME, listen)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for simulated in (True, False):
        rest = Rest(Endpoints(rest=address, simulated=simulated), CONTRACT, lambda: 0)
        await rest.open()
        assert await rest.server_ms() == 5
        await rest.close()
    await runner.cleanup()
    assert heard == ["1", ""]
