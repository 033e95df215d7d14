"""Doubts carried to the venue: every source asked, answers taken for their own question only, nothing sent into a ban."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest

from copyd._fast.encode import Encoder
from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm.contract import CONTRACT
from copyd.venues.binance_usdm.gateway import OrderGateway
from copyd.venues.common.facts import DEAD, HELD, IN_DOUBT, NOT_SENT, REJECT, REPLY, Placed
from copyd.venues.common.limits import Bans, VenueClock

from .conftest import INSTRUMENTS, KEY, Desk, filled, refused

FAST = {
    "order_ack_timeout_ms": 300,
    "recv_window_ms": 100,
    "clock_error_ms": 100,
    "engine_delay_ms": 100,
    "read_lag_ms": 100,
    "guard_ms": 50,
    "held_backoff_ms": 200,
}


def cid(n):
    return n.to_bytes(16, "big")


class Rest:
    """Stands for the REST client: ``answers[path](params)`` gives the rows, or raises."""

    def __init__(self, contract):
        self.bans = Bans(contract)
        self.calls = []
        self.answers = {"/fapi/v1/allOrders": lambda params: [], "/fapi/v3/positionRisk": lambda params: []}

    async def call(self, method, path, params, key):
        self.calls.append((path, params))
        await asyncio.sleep(0.001)
        return json.dumps(self.answers[path](params)).encode()

    @property
    def paths(self):
        return [path for path, _ in self.calls]


@pytest.fixture
async def make(venue):
    made = []

    async def build(*, connections=1, lists=True, terms=None, **more):
        contract = CONTRACT.overridden({**FAST, **(terms or {})})
        clock = VenueClock(contract, time.time_ns)
        desk = Desk(None, Encoder(contract.recv_window_ms, 5))
        desk.rest = Rest(contract)
        desk.gateway = OrderGateway(
            **{
                "url": venue.url,
                "connections": connections,
                "instruments": INSTRUMENTS,
                "contract": contract,
                "clock": time.time_ns,
                "venue_clock": clock,
                "on_reports": desk.take,
                "queries_per_s": 1000.0,
                "rest": desk.rest if lists else None,
                **more,
            }
        )
        for i in INSTRUMENTS:
            desk.encoder.set_instrument(i.index, i.symbol, i.price_decimals, i.tick, i.qty_decimals, i.lot)
        for account in range(4):
            desk.gateway.register(desk.encoder, account, KEY)
        await desk.gateway.start(5)
        made.append(desk)
        return desk

    yield build
    for desk in made:
        await desk.gateway.stop(0.0)


async def until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert true()


def absent(venue):
    venue.script = lambda request: refused(request, -2013, msg="Order does not exist.")


def row(n, status="FILLED", qty="0.010", **more):
    return {
        "orderId": 5, "symbol": "BTCUSDT", "status": status, "clientOrderId": cid(n).hex(), "executedQty": qty,
        "avgPrice": "65000.00", "updateTime": 1700000000000, "time": 1700000000000, **more,
    }  # fmt: skip


def position(qty, side="BOTH"):
    return {"symbol": "BTCUSDT", "positionAmt": qty, "positionSide": side}


# --- the sources --------------------------------------------------------------------------------------------------------
async def test_dead_takes_every_source_and_the_position(make, venue):
    absent(venue)
    desk = await make(expected=lambda account, instrument, since: (7, -2, True))
    desk.rest.answers["/fapi/v3/positionRisk"] = lambda params: [position("0.007", "LONG"), position("-0.002", "SHORT")]
    desk.gateway.query(cid(1), 2, 0, time.time_ns(), 5)
    [told] = await desk.until(1)
    assert (told["kind"], told["cid"]) == (DEAD, cid(1))
    assert desk.rest.paths == ["/fapi/v1/allOrders", "/fapi/v3/positionRisk"]
    assert desk.gateway.queries_open == 0 and desk.gateway.stats.dead == 1


async def test_an_order_that_only_the_history_knows_is_found(make, venue):
    absent(venue)
    desk = await make(expected=lambda account, instrument, since: (0, 0, True))
    desk.rest.answers["/fapi/v1/allOrders"] = lambda params: [row(9), row(1, "EXPIRED", "0.004")]
    desk.gateway.query(cid(1), 2, 0, time.time_ns())
    [told] = await desk.until(1)
    assert (told["kind"], told["status"], told["cum"], told["cid"]) == (REPLY, 7, 4, cid(1))
    [(_, params)] = desk.rest.calls
    assert params["symbol"] == "BTCUSDT" and params["startTime"] <= time.time_ns() // 10**6 - 1000
    assert desk.gateway.queries_open == 0


async def test_a_history_that_cannot_be_read_to_its_end_proves_nothing(make, venue):
    absent(venue)
    desk = await make(terms={"backfill_page_max": 2})
    desk.rest.answers["/fapi/v1/allOrders"] = lambda params: [row(8), row(9)]
    desk.gateway.query(cid(1), 2, 0, time.time_ns())
    await until(lambda: len(desk.rest.calls) >= 2)
    assert desk.reports == [] and desk.gateway.queries_open == 1


async def test_a_long_history_is_read_page_by_page(make, venue):
    absent(venue)
    desk = await make(terms={"backfill_page_max": 2})
    now = time.time_ns() // 10**6

    def pages(params):
        if params["startTime"] < now:
            return [row(8, time=now), row(9, time=now + 5)]
        return [row(1, time=now + 7)]

    desk.rest.answers["/fapi/v1/allOrders"] = pages
    desk.gateway.query(cid(1), 2, 0, time.time_ns())
    [told] = await desk.until(1)
    assert (told["kind"], told["cid"]) == (REPLY, cid(1)) and len(desk.rest.calls) == 2


async def test_an_error_of_the_history_is_not_absence(make, venue):
    absent(venue)
    desk = await make()
    fails = iter(range(3))

    def answer(params):
        if next(fails, None) is not None:
            raise VenueUnavailable("GET /fapi/v1/allOrders: TimeoutError")
        return []

    desk.rest.answers["/fapi/v1/allOrders"] = answer
    desk.gateway.query(cid(1), 2, 0, time.time_ns())
    [told] = await desk.until(1)
    assert told["kind"] == DEAD and len(desk.rest.calls) == 4


async def test_a_position_that_disagrees_holds_the_order_until_it_agrees(make, venue):
    absent(venue)
    desk = await make(expected=lambda account, instrument, since: (0, 0, True))
    desk.rest.answers["/fapi/v3/positionRisk"] = lambda params: [position("0.010")]
    desk.gateway.query(cid(1), 2, 0, time.time_ns())
    [told] = await desk.until(1)
    assert told["kind"] == HELD and desk.gateway.queries_open == 1
    asked = len(desk.rest.calls)
    await until(lambda: len(desk.rest.calls) > asked + 1)
    desk.rest.answers["/fapi/v3/positionRisk"] = lambda params: []
    assert [told["kind"] for told in await desk.until(2)] == [HELD, DEAD]


async def test_many_doubts_of_one_account_are_one_list(make, venue):
    desk = await make()
    desk.rest.answers["/fapi/v1/allOrders"] = lambda params: [row(n) for n in range(1, 51)]
    for n in range(1, 51):
        desk.gateway.query(cid(n), 2, 0, time.time_ns())
    told = await desk.until(50)
    assert {t["cid"] for t in told} == {cid(n) for n in range(1, 51)}
    assert len(desk.rest.calls) == 1 and venue.requests == []


async def test_an_answer_counts_for_its_own_question_only(make, venue):
    """A late "not found" to a question from before the fence is not taken for the answer to the one put after it."""
    asked = []
    venue.script = lambda request: asked.append((time.monotonic_ns(), request))
    desk = await make(lists=False)
    signed = time.monotonic_ns()
    desk.gateway.query(cid(1), 2, 0, time.time_ns())
    fence = signed + desk.gateway.contract.fence_ns()
    await until(lambda: asked and asked[-1][0] >= fence)
    socket = next(iter(venue.sockets))
    for at, request in asked:
        if at < fence - 20_000_000:
            await socket.send(json.dumps(refused(request, -2013)))
    await asyncio.sleep(0.05)
    assert desk.reports == [] and desk.gateway.queries_open == 1
    await socket.send(json.dumps(refused(asked[-1][1], -2013)))
    assert [told["kind"] for told in await desk.until(1)] == [DEAD]


async def test_a_wall_clock_put_forward_shortens_no_fence(make, venue):
    absent(venue)
    ahead = [0]
    desk = await make(lists=False, clock=lambda: time.time_ns() + ahead[0])
    signed, began = time.time_ns(), time.monotonic_ns()
    ahead[0] = 3600 * 10**9
    desk.gateway.query(cid(1), 2, 0, signed)
    [told] = await desk.until(1)
    assert told["kind"] == DEAD
    assert time.monotonic_ns() - began >= desk.gateway.contract.fence_ns()


async def test_an_end_told_elsewhere_stops_the_questions(make, venue):
    venue.script = lambda request: filled(request, "0.000", status="NEW")
    desk = await make()
    desk.gateway.query(cid(1), 2, 0, time.time_ns())
    await desk.until(1)
    desk.gateway.ended(cid(1))
    asked = len(venue.requests)
    await asyncio.sleep(0.6)
    assert len(venue.requests) == asked and desk.gateway.queries_open == 0


# --- answers that are not about what was asked ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("side", "SELL"), ("symbol", "ETHUSDT"), ("origQty", "0.011"), ("positionSide", "SHORT"), ("clientOrderId", "ab" * 16),
    ],
)  # fmt: skip
async def test_an_answer_that_shows_another_order_is_in_doubt_and_said_once(make, venue, field, value):
    said = []
    desk = await make(
        placed=lambda name: Placed(0, 0, 1, 0, 10), on_mismatch=lambda name, what: said.append((name, what)))
    right = {"side": "BUY", "positionSide": "BOTH"}

    def script(request):
        reply = filled(request)
        reply["result"] |= {**right, field: value}
        return reply

    venue.script = script
    desk.place(cid(1))
    [told] = await desk.until(1)
    assert told["kind"] == IN_DOUBT
    desk.gateway.query(cid(1), 0, 0, time.time_ns())
    await until(lambda: desk.gateway.stats.mismatches >= 3)
    assert len(desk.reports) == 1 and [name for name, _ in said] == [cid(1)]


async def test_an_answer_that_shows_the_same_order_is_taken(make, venue):
    desk = await make(placed=lambda name: Placed(0, 0, 1, 0, 10))

    def script(request):
        reply = filled(request)
        reply["result"] |= {"side": "BUY", "positionSide": "BOTH"}
        return reply

    venue.script = script
    desk.place(cid(1))
    assert (await desk.until(1))[0]["kind"] == REPLY


async def test_an_unknown_code_is_in_doubt_counted_and_said_once(make, venue):
    said = []
    desk = await make(on_unknown_code=said.append)
    venue.script = lambda request: refused(request, -77001 - int(request["id"][-1], 16) % 2)
    desk.place(*[cid(n) for n in range(1, 7)])
    assert {told["kind"] for told in await desk.until(6)} == {IN_DOUBT}
    assert sorted(said) == [-77002, -77001] and desk.gateway.stats.unknown_codes == 6


# --- rate limits and bans -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [418, 429])
async def test_nothing_goes_out_before_retry_after(make, venue, status):
    """Neither orders nor questions; what could not go is proven not sent."""
    told_bans = []
    until_ms = int(time.time() * 1000) + 1500

    def script(request):
        reply = refused(request, -1003, status, "Way too many requests.")
        reply["error"]["data"] = {"serverTime": until_ms - 1500, "retryAfter": until_ms}
        return reply

    venue.script = script
    desk = await make(connections=2)
    desk.gateway.bans.on_ban = lambda *ban: told_bans.append(ban)
    desk.place(cid(1))
    assert (await desk.until(1))[0]["kind"] == REJECT
    assert abs(desk.gateway.banned_until / 10**6 - until_ms) < 200
    venue.script = lambda request: filled(request)
    asked = len(venue.requests)
    assert desk.place(cid(2), cid(3)) == 0
    desk.gateway.query(cid(4), 1, 0, time.time_ns())
    desk.gateway._links[0].session.abort("test")
    await asyncio.sleep(0.7)
    assert [told["kind"] for told in desk.reports[1:]] == [NOT_SENT, NOT_SENT]
    assert len(venue.requests) == asked and desk.gateway.open_connections == 1  # not even a connection is tried
    await until(lambda: desk.gateway.banned_until == 0 and desk.gateway.open_connections == 2)
    assert desk.place(cid(5)) == 1
    assert len(told_bans) == 1 and told_bans[0][0] == -1


@pytest.mark.parametrize(
    ("status", "message", "seconds"),
    [(429, "", 30), (418, "", 120), (418, "IP banned until 4102444800000. Please", 3 * 86400)],
)
def test_a_ban_that_names_no_time_lasts_as_long_as_the_contract_says(status, message, seconds):
    now = [10**9]
    bans = Bans(CONTRACT, lambda: now[0])
    bans.note(status, -1003, message, None, 1_700_000_000_000)
    assert bans.until() == now[0] + seconds * 10**9
    bans.note(429, -1003, "", 10**9, 0)  # a shorter one ends none
    assert bans.until() == now[0] + seconds * 10**9
    now[0] += seconds * 10**9
    assert bans.until() == 0 and not bans.any


async def test_a_limit_of_one_account_s_orders_stops_that_account_only(make, venue):
    accounts = {cid(n): n % 2 for n in range(1, 9)}
    desk = await make(placed=lambda name: Placed(accounts[name], 0, 1, 0, 10))
    venue.script = lambda request: refused(request, -1015, 429, "Too many new orders.")
    desk.place(cid(1), account=1)
    await desk.until(1)
    assert desk.gateway.banned_until == 0 and desk.gateway.limited_until(1) > time.time_ns()
    assert desk.gateway.limited_until(0) == 0
    venue.script = lambda request: filled(request)
    bursts = desk.encoder.encode_rows(
        [(accounts[cid(n)], 0, cid(n), 10, 650001, 1, 0, False) for n in range(2, 9)], int(time.time() * 1000))
    assert desk.gateway.send(bursts) == 4
    await desk.until(8)
    kinds = {told["cid"]: told["kind"] for told in desk.reports}
    assert {name: kind for name, kind in kinds.items() if name != cid(1)} == {
        cid(n): NOT_SENT if n % 2 else REPLY for n in range(2, 9)
    }


def test_positions_are_not_compared_without_a_client_to_ask_with():
    with pytest.raises(ValueError, match="REST"):
        OrderGateway(
            url="ws://127.0.0.1:1", connections=1, instruments=INSTRUMENTS, contract=CONTRACT, clock=time.time_ns,
            venue_clock=SimpleNamespace(), on_reports=print, expected=lambda account, instrument, since: (0, 0, True))
