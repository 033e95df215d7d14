"""One test per row of the contract: what the row says is what our side does, or what the exchange's dialect enforces."""

import contextlib
import json

import pytest

from copyd.exchange import bybit as dialect
from copyd.venues.bybit import errors
from copyd.venues.bybit.contract import CONTRACT, ORDERS_PAGE, PING, PING_EVERY_MS, POSITIONS_PAGE, WEIGHTS, Endpoints
from copyd.venues.bybit.signing import place_text
from copyd.venues.bybit.wire import BybitWire
from copyd.venues.common.facts import MS_NS
from copyd.venues.common.names import Names
from tests.exchange.bybit_bench import LINEAR, MARKET, RESTING, exchange
from tests.exchange.wire_client import hear
from tests.venues.bybit.conftest import order
from tests.venues.bybit.test_against_exchange import cid_of, desk

DAY_NS = 86_400 * 10**9


async def test_id_scope():
    """For ever: an id is refused after its order has filled, and much later."""
    assert CONTRACT.id_scope == "for_ever" and CONTRACT.client_id_field == "orderLinkId"
    async with exchange() as x:
        alice = await x.account()
        assert (await x.place(alice, **{CONTRACT.client_id_field: "once"}))["retCode"] == 0
        x.clock.ahead_ns = 100 * DAY_NS
        assert (await x.place(alice, **{CONTRACT.client_id_field: "once"}))["retCode"] == 110072


async def test_client_id_len_max():
    """That long is taken, one more is not."""
    async with exchange() as x:
        alice = await x.account()
        assert (await x.place(alice, orderLinkId="a" * CONTRACT.client_id_len_max))["retCode"] == 0
        assert (await x.place(alice, orderLinkId="a" * (CONTRACT.client_id_len_max + 1)))["retCode"] == 10001


def test_expiry():
    """Every placement bears the window; it is no longer than the largest."""
    header = json.loads(place_text(order(), 1, CONTRACT.recv_window_ms))["header"]
    assert header[CONTRACT.expiry_field] == str(CONTRACT.recv_window_ms)
    assert CONTRACT.recv_window_ms <= CONTRACT.recv_window_ms_max


@pytest.mark.parametrize(
    ("off_ms", "taken"),
    [
        (-CONTRACT.recv_window_ms - 200, False), (CONTRACT.clock_lead_ms + 200, False),
        (-CONTRACT.recv_window_ms + 1_500, True), (CONTRACT.clock_lead_ms - 500, True),
    ],
)  # fmt: skip
async def test_recv_window_and_clock_lead(off_ms, taken):
    """An order signed longer ago than the window, or further ahead than the lead, is not taken."""
    async with exchange() as x:
        alice = await x.account()
        trade = await x.login(alice, "/v5/trade")
        head = {"X-BAPI-TIMESTAMP": str(x.now_ms() + off_ms), CONTRACT.expiry_field: str(CONTRACT.recv_window_ms)}
        answer = await x.ask(trade, "order.create", "1", MARKET, **head)
        assert (answer["retCode"] == 0) is taken and answer["retCode"] in (0, 10002)


def test_the_fence():
    """The sum of its terms, from the signed time."""
    terms = (CONTRACT.recv_window_ms, CONTRACT.clock_error_ms, CONTRACT.engine_delay_ms, CONTRACT.read_lag_ms, CONTRACT.guard_ms)
    assert CONTRACT.fence_ns() == sum(terms) * MS_NS == 25_000 * MS_NS


class Counted:
    """The calls a question makes."""

    def __init__(self, rest):
        self.rest, self.calls, self.inner = rest, [], rest.call_now

    async def __call__(self, method, path, *rest, **options):
        self.calls.append(f"{method} {path}")
        return await self.inner(method, path, *rest, **options)


@contextlib.contextmanager
def counted(rest):
    count = Counted(rest)
    rest.call_now = count
    try:
        yield count.calls
    finally:
        rest.call_now = count.inner


async def test_query_paths_and_the_weights_of_questions():
    """An absence asks every authoritative list; no question costs more requests than its weight."""
    async with desk() as d:
        await d.place("a")
        with counted(d.rest) as calls:
            assert await d.rest.order(d.key, d.btc, cid=cid_of("never")) is None
        assert {c.removeprefix("GET ") for c in calls} | {"/v5/position/list"} == set(CONTRACT.query_rest_paths)
        assert len(calls) <= CONTRACT.weight(CONTRACT.call_order)
        for question, name in (
            (lambda: d.rest.orders_since(d.key, d.btc, d.x.now_ms() - 60_000), CONTRACT.call_orders),
            (lambda: d.rest.positions(d.key), CONTRACT.call_position), (lambda: d.rest.books(d.key), CONTRACT.call_account),
            (lambda: d.rest.settings(d.key, d.btc), "settings.query"),
        ):  # fmt: skip
            with counted(d.rest) as calls:
                await question()
            assert 0 < len(calls) <= CONTRACT.weight(name), name


async def test_every_call_has_its_weight():
    """Each path that is called stands in the table, so none is paced by the default."""
    async with desk() as d:
        with counted(d.rest) as calls:
            await d.place("a")
            await d.rest.measure_clock()
            await d.rest.instrument_bodies()
            await d.rest.set_leverage(d.key, d.btc, 7, False)
            await d.rest.flows(d.key, d.x.now_ms() - 1)
            await d.rest.trades_from(d.key, d.btc, 0, 10)
            await d.rest.orders_since(d.key, d.btc, d.x.now_ms())
            await d.rest.books(d.key)
            with contextlib.suppress(Exception):
                await d.rest.set_hedge(d.key, True)
            with contextlib.suppress(Exception):
                await d.rest.set_margin(d.key, d.btc, True, 7)
        assert set(calls) <= WEIGHTS.keys() and all(weight > 0 for weight in WEIGHTS.values())


async def test_absent_valid():
    """An order that ended unfilled is found up to then, and is in no list later; one with a fill is."""
    async with desk() as d:
        await d.place("unfilled", px=585_000)
        await d.place("filled")
        engine, account = d.x.host.engine, d.account["account"]
        for n in range(505):  # out of the list of open and lately ended ones
            engine.place(account, 0, 1, 0, 1, 10, 585_000, False, False, 0, b"n%d" % n, d.x.host.now_ns())
        d.x.clock.ahead_ns += CONTRACT.query_absent_valid_ms * MS_NS - 60 * 10**9
        await d.rest.measure_clock()
        assert (await d.rest.order(d.key, d.btc, cid=cid_of("unfilled"))).cum_qty == 0
        d.x.clock.ahead_ns += 120 * 10**9
        await d.rest.measure_clock()
        assert await d.rest.order(d.key, d.btc, cid=cid_of("unfilled")) is None
        assert (await d.rest.order(d.key, d.btc, cid=cid_of("filled"))).cum_qty == 10


def test_order_history():
    """Filled orders and executions are kept for two years."""
    assert CONTRACT.order_history_ms * MS_NS == dialect.HISTORY_NS == 730 * DAY_NS


async def test_modes_and_margin_types():
    """Every one the contract names can be set."""
    assert (CONTRACT.position_modes, CONTRACT.margin_types) == (("one_way", "hedge"), ("isolated", "cross"))
    async with desk() as d:
        for hedge in (True, False):
            await d.rest.set_hedge(d.key, hedge)
            for isolated in (True, False):
                await d.rest.set_margin(d.key, d.btc, isolated, 20)
                found = await d.rest.settings(d.key, d.btc)
                assert (found.hedge, found.isolated) == (hedge, isolated)


async def test_order_types():
    """An IOC limit and a market order, and nothing else, is what is sent."""
    assert CONTRACT.order_types == ("limit_ioc", "market")
    async with desk() as d:
        for name, px in (("limit", 610_000), ("market", 0)):
            await d.place(name, px=px)
            assert (await d.rest.order(d.key, d.btc, cid=cid_of(name))).cum_qty == 10


async def test_reduce_only_excess():
    """Cut to what there is."""
    assert CONTRACT.reduce_only_excess == "cut"
    async with desk() as d:
        await d.place("open")
        await d.place("close", qty=1_000, side=-1, reduce_only=True)
        found = await d.rest.order(d.key, d.btc, cid=cid_of("close"))
        assert (found.order_qty, found.cum_qty, found.reduce_only) == (10, 10, True)


async def test_batch_max():
    """So many are taken at once."""
    async with exchange() as x:
        alice = await x.account()
        orders = [{k: v for k, v in RESTING.items() if k != "category"}] * CONTRACT.batch_max
        answer = await x.post(alice, "/v5/order/create-batch", {"category": "linear", "request": orders})
        assert [row["code"] for row in answer["retExtInfo"]["list"]] == [0] * CONTRACT.batch_max


async def test_rate_limits():
    """The numbers the exchange enforces are those our side paces itself by."""
    async with exchange(lift=()) as x:
        windows = {name: (w.limit, w.period_ns // MS_NS) for name, w in x.host.windows.defined.items()}
    for kind, scope, name in (("weight", "ip", "http"), ("requests", "ip", "ws_orders"), ("orders", "account", "create"),
                              ("connects", "ip", "connects")):  # fmt: skip
        limit = CONTRACT.limit(kind, scope)
        assert (limit.limit, limit.interval_ms) == windows[name]
    assert (CONTRACT.connect_attempts_per_5_min, 300_000) == windows["connects"]


async def test_connection_scope():
    """One account per connection: a second login on it is refused."""
    assert CONTRACT.connection_scope == "one_account" and CONTRACT.streams_per_connection_max == 1
    async with exchange() as x:
        alice, bob = await x.account(), await x.account("bob")
        ws = await x.login(alice, "/v5/trade")
        await ws.send_str(json.dumps({"op": "auth", "args": [bob["api_key"], x.now_ms() + 1_000, "00"]}))
        assert (await hear(ws))["retCode"] == 20001


def test_order_limit_codes():
    """They are refusals, and of the account."""
    assert CONTRACT.order_limit_codes == (10006,) and set(CONTRACT.order_limit_codes) <= errors.ACCOUNT_LIMIT_CODES


def test_a_connections_life_and_signs_of_life():
    """No end is documented, silence ends it; we speak far more often than that."""
    assert CONTRACT.connection_life_ms == 0 == dialect.Dialect.terms.life_s
    assert PING_EVERY_MS / 1000 * 3 < dialect.IDLE_S
    assert all((c.ping, c.ping_every_ms) == (PING, PING_EVERY_MS) for c in BybitWire(Names()).channels(Endpoints.of("live")))


def test_the_ban_of_an_address():
    """Ten minutes at least, when the venue shuts an address out without a word until when."""
    assert CONTRACT.banned_default_ms * MS_NS == dialect.BAN_NS


async def test_backfill_window_and_page():
    """A longer window is refused; no page holds more than is asked for at most."""
    async with exchange() as x:
        alice = await x.account()
        end = x.now_ms()
        for width, code in ((CONTRACT.backfill_window_ms, 0), (CONTRACT.backfill_window_ms + 1, 10001)):
            answer = await x.get(alice, "/v5/execution/list", **LINEAR, startTime=end - width, endTime=end)
            assert answer["retCode"] == code
        engine = x.host.engine
        for n in range(130):
            engine.place(alice["account"], 0, 1, 1, 0, 10, 0, False, False, 0, b"n%d" % n, x.host.now_ns())
            x.host.changed()
        assert len(await x.rows(alice, "/v5/execution/list", limit=1_000)) == CONTRACT.backfill_page_max
        assert len(await x.rows(alice, "/v5/order/history", limit=1_000)) == ORDERS_PAGE and POSITIONS_PAGE == 200


def test_endpoints():
    """Live, demo without an order socket, testnet, and any other pair of addresses with the venue's own paths."""
    assert Endpoints.of("live").rest == "https://api.bybit.com" and Endpoints.of("demo").trade == ""
    assert Endpoints.of("demo").rest == "https://api-demo.bybit.com"
    assert Endpoints.of("demo").public == Endpoints.of("live").public
    assert Endpoints.of("testnet").trade == "wss://stream-testnet.bybit.com/v5/trade"
    assert Endpoints.at("http://a:1", "ws://b:2") == Endpoints(
        rest="http://a:1", private="ws://b:2/v5/private", trade="ws://b:2/v5/trade", public="ws://b:2/v5/public")
    with pytest.raises(ValueError, match="no environment"):
        Endpoints.of("paper")


def test_doubts_can_be_settled_within_the_budget():
    """The terms for the daemon's doubts: every question has a weight, and absence is valid for a day."""
    terms = CONTRACT.doubt_terms(60)
    assert (terms.weight_order, terms.weight_orders, terms.weight_position) == (3, 3, 1)
    assert terms.absent_valid_ns == DAY_NS and terms.fence_ns == CONTRACT.fence_ns()
