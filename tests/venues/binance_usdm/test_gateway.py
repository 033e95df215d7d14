"""Every order handed to the gateway ends in a report, and the report says only what was proven (semantics 34, 35)."""

import asyncio
import json
import time

import pytest

from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm.contract import CONTRACT, Endpoints
from copyd.venues.binance_usdm.gateway import OrderGateway
from copyd.venues.binance_usdm.rest import RestClient
from copyd.venues.common.connection import RetryPace
from copyd.venues.common.facts import DEAD, IN_DOUBT, NOT_SENT, REJECT, REPLY
from copyd.venues.common.limits import VenueClock, WeightBudget
from copyd.venues.common.signing import Key

from .conftest import INSTRUMENTS, filled, refused

FAST_FENCE = {
    "order_ack_timeout_ms": 200,
    "recv_window_ms": 100,
    "clock_error_ms": 100,
    "engine_delay_ms": 100,
    "read_lag_ms": 100,
    "guard_ms": 100,
}


def cid(n):
    return n.to_bytes(16, "big")


async def test_a_reply_with_the_result_books_cumulative_quantity_and_cost(desk, venue):
    made = await desk()
    assert made.place(cid(1)) == 1
    [row] = await made.until(1)
    assert (row["kind"], row["status"], row["cid"], row["cum"], row["order"]) == (REPLY, 4, cid(1), 10, 77)
    assert row["cost"] == 650_00100000  # 0.010 x 65000.10 in 1e-8
    assert row["event"] == 1700000000123 * 10**6
    [request] = venue.requests
    assert request["method"] == "order.place" and request["params"]["price"] == "65000.1"
    assert made.gateway.in_flight == 0


async def test_many_orders_over_several_connections_come_back_in_batches(desk, venue):
    made = await desk(connections=3)
    sent = made.place(*[cid(n) for n in range(1, 201)], account=0) + made.place(*[cid(n) for n in range(201, 401)], account=1)
    assert sent == 400
    reports = await made.until(400)
    assert {r["cid"] for r in reports} == {cid(n) for n in range(1, 401)}
    assert made.batches < 400
    assert [r["params"]["newClientOrderId"] for r in venue.requests if r["params"]["newClientOrderId"] <= cid(200).hex()] == [
        cid(n).hex() for n in range(1, 201)
    ]


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        (-2019, 400, REJECT),
        (-1021, 400, IN_DOUBT),
        (-4116, 400, IN_DOUBT),
        (-1000, 503, IN_DOUBT),
        (-77777, 400, IN_DOUBT),
    ],
)
async def test_an_error_answer_is_classified(desk, venue, code, status, kind):
    venue.script = lambda request: refused(request, code, status)
    made = await desk()
    made.place(cid(1))
    [row] = await made.until(1)
    assert (row["kind"], row["code"]) == (kind, code)


async def test_answers_whole_in_parts_binary_or_odd_are_all_heard_in_their_order(desk, venue):
    """The compiled reader takes what it can, the decoder the rest, between pings: one row each, as they came."""
    made = await desk()
    number = iter(range(1, 100))

    def script(request):
        text = json.dumps(filled(request))
        match next(number) % 5:
            case 0:
                return [text[:40], text[40:90], text[90:]]
            case 1:
                return text.encode()  # a binary message
            case 2:
                return json.dumps(refused(request, -2019, msg='not "enough"'))
            case 3:
                return json.dumps(refused(request, -2019))
            case _:
                return text

    venue.script = script
    ids = [cid(n) for n in range(1, 41)]
    for at in range(0, 40, 10):
        made.place(*ids[at : at + 10])
        await next(iter(venue.sockets)).ping(bytes([at]) * 100)
    reports = await made.until(40)
    assert [row["cid"] for row in reports] == ids
    assert [row["kind"] for row in reports] == [REJECT if n % 5 in (2, 3) else REPLY for n in range(1, 41)]
    assert (made.gateway.stats.replies, made.gateway.stats.rejects, made.gateway.in_flight) == (24, 16, 0)
    # In parts, and the refusal with an escape, are not for the compiled reader; the short refusal is, on the slower way.
    assert (made.gateway._replies.replies, made.gateway._replies.rejects) == (24, 8)


async def test_a_connection_lost_after_the_write_leaves_every_unanswered_order_in_doubt(desk, venue):
    answers = iter([lambda r: filled(r), lambda r: "drop"])
    venue.script = lambda request: next(answers)(request)
    made = await desk()
    made.place(*[cid(n) for n in range(1, 6)])
    reports = await made.until(5)
    assert sorted(r["kind"] for r in reports) == [REPLY, IN_DOUBT, IN_DOUBT, IN_DOUBT, IN_DOUBT]
    assert len({r["cid"] for r in reports}) == 5
    # and the connection comes back by itself
    venue.script = lambda request: filled(request)
    for _ in range(400):
        if made.gateway.ready:
            break
        await asyncio.sleep(0.01)
    made.place(cid(9))
    assert (await made.until(6))[-1]["kind"] == REPLY


async def test_without_any_connection_an_order_is_proven_not_sent(desk, venue):
    made = await desk()
    venue.server.close(close_connections=True)
    for _ in range(400):
        if not made.gateway.ready:
            break
        await asyncio.sleep(0.01)
    assert made.place(cid(1), cid(2)) == 0
    assert [r["kind"] for r in await made.until(2)] == [NOT_SENT, NOT_SENT]


async def test_a_pinned_connection_that_is_down_is_bypassed(desk, venue):
    made = await desk(connections=2)
    made.gateway._links[0].session.transport.underlying_transport.abort()
    await asyncio.sleep(0.02)
    assert made.place(cid(1), account=0) == 1
    assert (await made.until(1))[0]["kind"] == REPLY


async def test_silence_is_in_doubt_once_and_the_late_answer_still_counts(desk, venue):
    held = []
    venue.script = lambda request: held.append(request)
    made = await desk(**FAST_FENCE)
    made.place(cid(1))
    [row] = await made.until(1)
    assert row["kind"] == IN_DOUBT
    await asyncio.sleep(0.3)
    assert len(made.reports) == 1
    await next(iter(venue.sockets)).send(json.dumps(filled(held[0])))
    reports = await made.until(2)
    assert (reports[1]["kind"], reports[1]["cum"]) == (REPLY, 10)


async def test_a_query_that_finds_the_order_settles_it(desk, venue):
    def script(request):
        assert request["method"] == "order.status" and request["params"]["origClientOrderId"] == cid(4).hex()
        return filled(request, "0.004", "65000.00", "EXPIRED")

    venue.script = script
    made = await desk()
    made.gateway.query(cid(4), 2, 0, time.time_ns())
    made.gateway.query(cid(4), 2, 0, time.time_ns())
    [row] = await made.until(1)
    assert (row["kind"], row["status"], row["cum"]) == (REPLY, 7, 4)
    await asyncio.sleep(0.05)
    assert made.gateway.queries_open == 0 and len(venue.requests) == 1


async def test_not_found_counts_only_for_a_question_issued_after_the_fence(desk, venue):
    asked = []

    def script(request):
        asked.append(time.time_ns())
        return refused(request, -2013, msg="Order does not exist.")

    venue.script = script
    made = await desk(**FAST_FENCE)
    fence = CONTRACT.overridden(FAST_FENCE).fence_ns()
    signed = time.time_ns()
    made.gateway.query(cid(4), 2, 0, signed)
    [row] = await made.until(1)
    assert row["kind"] == DEAD
    assert asked[0] < signed + fence <= asked[-1]
    assert len(asked) >= 2


async def test_an_error_while_asking_is_not_an_answer(desk, venue):
    answers = iter([-1000, -1003, -1021, -2015])
    venue.script = lambda request: refused(request, next(answers, -2013))
    made = await desk(**FAST_FENCE)
    made.gateway.query(cid(4), 2, 0, time.time_ns() - CONTRACT.fence_ns())
    [row] = await made.until(1)
    assert row["kind"] == DEAD
    assert len(venue.requests) == 5 and made.gateway.stats.queries_failed == 4


async def test_frames_that_cannot_be_read_are_counted_and_never_raise(desk, venue):
    junk = iter(
        [
            b"\xff\xfe",
            b"[]",
            b'{"id":',
            b'{"id":{"a":1},"status":200}',
            b'{"id":"zz","status":200}',
            b"x" * (CONTRACT.frame_bytes_max + 1),
        ]
    )
    venue.script = lambda request: next(junk, None)
    made = await desk(**FAST_FENCE)
    for n in range(1, 8):
        made.place(cid(n))
    assert {r["kind"] for r in await made.until(7)} == {IN_DOUBT}
    assert made.gateway.ready
    assert made.gateway.stats.malformed + made.gateway.stats.unmatched + made.gateway._links[0].oversized == 6


async def test_a_result_that_does_not_fit_the_instrument_is_in_doubt(desk, venue):
    venue.script = lambda request: filled(request, qty="0.0001")
    made = await desk()
    made.place(cid(1))
    assert (await made.until(1))[0]["kind"] == IN_DOUBT


async def test_renewal_opens_the_new_connection_before_the_old_one_goes(desk, venue):
    made = await desk()
    link = made.gateway._links[0]
    first = link.session
    link.renew()
    for _ in range(200):
        if link.session is not first:
            break
        await asyncio.sleep(0.01)
    assert link.session is not first and first.open
    made.place(cid(1))
    assert (await made.until(1))[0]["kind"] == REPLY


async def test_a_venue_that_cannot_be_reached_is_one_clear_error(unused_tcp_port):
    gateway = OrderGateway(
        url=f"ws://127.0.0.1:{unused_tcp_port}/x",
        connections=2,
        instruments=INSTRUMENTS,
        contract=CONTRACT,
        clock=time.time_ns,
        venue_clock=VenueClock(CONTRACT, time.time_ns),
        on_reports=lambda batch, ts: None,
    )
    with pytest.raises(VenueUnavailable, match="no order connection opened"):
        await gateway.start(0.3)


def test_the_clock_names_what_is_wrong_with_it():
    clock = VenueClock(CONTRACT, lambda: 10**18)
    assert "has not been read" in clock.problem()
    clock.note(10**18, 10**18 + 2_000_000, 10**12 + 1)
    assert clock.problem() is None
    assert clock.timestamp_ms() == 10**12
    clock.note(10**18, 10**18 + 2_000_000, 10**12 + 5000)
    assert "off by" in clock.problem() and "recvWindow" in clock.problem()
    clock.note(10**18, 10**18 + 2_000_000, 10**12 - 5000)
    assert "off by" in clock.problem()
    clock.note(10**18, 10**18 + 4 * 10**9, 10**12 + 2000)
    assert "known only to" in clock.problem()


def test_a_slow_answer_does_not_undo_what_a_quick_one_showed():
    """One busy second holds up no opening for a minute: the sharper sample counts on, less sharp by what clocks may drift apart;
    one that contradicts it counts at once."""
    clock = VenueClock(CONTRACT, lambda: 10**18)
    clock.note(10**18, 10**18 + 2_000_000, 10**12 + 1)
    offset = clock.offset_ns
    clock.note(10**18 + 60 * 10**9, 10**18 + 64 * 10**9, 10**12 + 62_300)
    assert clock.problem() is None and clock.offset_ns == offset
    assert clock.error_ns == 1_500_000 + (64 * 10**9 - 2_000_000) * 200 // 10**6
    clock.note(10**18 + 120 * 10**9, 10**18 + 124 * 10**9, 10**12 + 132_000)
    assert "known only to" in clock.problem() or "off by" in clock.problem()
    clock.note(10**18 + 180 * 10**9, 10**18 + 180 * 10**9 + 2_000_000, 10**12 + 180_001)
    assert clock.problem() is None and clock.error_ns == 1_500_000


def test_retries_of_all_links_together_stay_below_the_venue_limit():
    pace = RetryPace(0.8, 40)
    waits = [pace.wait_s(1000.0 + n * 0.1) for n in range(600)]  # a minute of knocking ten times a second
    assert waits[:40] == [0.0] * 40
    granted = sum(1 for n, wait in enumerate(waits) if n * 0.1 + wait <= 300)
    assert granted <= 300


async def test_weight_is_spent_no_faster_than_the_venue_allows():
    now = [0]
    budget = WeightBudget(2400, 60_000, lambda: now[0])
    spent = 0
    for _ in range(600):  # a minute in steps of 0.1 s, asking for as much as there is
        while budget._refill() >= budget._blocked_until and budget._tokens >= 5:
            await budget.take(5)
            spent += 5
        now[0] += 100_000_000
    assert 2400 <= spent <= 2400 + 600
    budget.told(2300)
    assert budget._blocked_until > now[0]  # the venue counts more than we do: somebody shares the address


async def test_no_error_of_a_rest_call_shows_key_secret_or_signature(unused_tcp_port):
    rest = RestClient(Endpoints.at(f"http://127.0.0.1:{unused_tcp_port}", ""), CONTRACT, time.time_ns)
    await rest.open()
    with pytest.raises(VenueUnavailable) as caught:
        await rest.call("GET", "/fapi/v3/account", {}, Key(b"CANARYKEY", b"CANARYSECRET"))
    shown = repr(caught.value) + str(caught.value.__cause__) + repr(caught.value.__traceback__)
    assert "CANARY" not in shown and "signature" not in shown
    await rest.close()


@pytest.mark.parametrize("per_s", [0.5, 20.0])
async def test_a_question_is_asked_also_on_a_small_budget_and_after_the_clock_was_set_back(desk, venue, per_s):
    made = await desk(**FAST_FENCE)
    made.gateway.queries_per_s = per_s
    await asyncio.sleep(0.1)
    now = time.time_ns
    made.gateway.clock = lambda: now() - 3600 * 10**9
    await asyncio.sleep(0.1)
    made.gateway.query(cid(1), 0, 0, now() - 3600 * 10**9)
    for _ in range(300):
        if venue.requests:
            break
        await asyncio.sleep(0.01)
    assert [r["method"] for r in venue.requests] == ["order.status"]


async def test_a_question_that_is_swallowed_is_asked_on_another_connection(desk, venue):
    """One half-open connection must not keep an order in doubt until its pings give up."""
    made = await desk(connections=2, **FAST_FENCE)
    asked_on = []
    pick = made.gateway._pick
    made.gateway._pick = lambda lane: asked_on.append(lane) or pick(lane)
    venue.script = lambda request: None
    made.gateway.query(cid(1), 0, 0, time.time_ns())
    for _ in range(300):
        if len(set(asked_on)) == 2:
            break
        await asyncio.sleep(0.01)
    assert set(asked_on) == {0, 1}


async def test_waiting_for_weight_is_not_taken_for_an_error_of_the_clock():
    """While thousands of accounts are set up every call waits; stamps from the future would be refused, closes too."""
    now = [10**18]
    rest = RestClient(Endpoints.at("http://127.0.0.1:1", ""), CONTRACT, lambda: now[0])

    async def take(weight):
        now[0] += 4 * 10**9

    async def answer(method, path, *more):
        now[0] += 10**6
        return b'{"serverTime": %d}' % (now[0] // 10**6)

    class Call:
        status, headers = 200, {}

        async def __aenter__(self):
            return self

        async def __aexit__(self, *error):
            return None

        @property
        def content(self):
            return self

        async def iter_chunked(self, size):
            yield await answer("GET", "/fapi/v1/time")

    class Session:
        def request(self, *arguments, **more):
            return Call()

    rest.budget.take = take
    rest._session = Session()
    await rest.measure_clock()
    assert abs(rest.venue_clock.offset_ns) <= 10 * 10**6
    assert rest.venue_clock.problem() is None


async def test_an_unreadable_clock_answer_does_not_end_the_measuring():
    rest = RestClient(Endpoints.at("http://127.0.0.1:1", ""), CONTRACT, time.time_ns)
    calls = []

    class Call:
        status, headers = 200, {}

        async def __aenter__(self):
            calls.append(1)
            return self

        async def __aexit__(self, *error):
            return None

        @property
        def content(self):
            return self

        async def iter_chunked(self, size):
            yield b"<html>"

    class Session:
        def request(self, *arguments, **more):
            return Call()

    rest._session = Session()
    task = asyncio.ensure_future(rest.keep_clock(0.01))
    await asyncio.sleep(0.1)
    assert not task.done() and len(calls) > 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
