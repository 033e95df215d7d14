"""REST calls keep away from a venue that asks for it, and measure spans on a clock that nobody puts right."""

import asyncio
import time

import pytest

from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm.contract import CONTRACT, Endpoints
from copyd.venues.binance_usdm.rest import RestClient, RestError, retry_after_ns


class Answer:
    def __init__(self, status=200, headers=None, body=b"{}", after=None):
        self.status, self.headers, self.body, self.after = status, headers or {}, body, after

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        return None

    @property
    def content(self):
        return self

    async def iter_chunked(self, size):
        if self.after is not None:
            self.after()
        for at in range(0, len(self.body), size):
            yield self.body[at : at + size]


class Web:
    """Stands for the HTTP session: one answer per request, in order, the last one for ever."""

    def __init__(self, *answers):
        self.answers, self.calls = list(answers), 0

    def request(self, *arguments, **more):
        self.calls += 1
        return self.answers[min(self.calls, len(self.answers)) - 1]


def client(*answers, **more):
    rest = RestClient(Endpoints.at("http://127.0.0.1:1", ""), CONTRACT, time.time_ns, **more)
    rest._session = Web(*answers)
    return rest


@pytest.mark.parametrize("status", [418, 429])
async def test_retry_after_is_kept_by_every_call(status):
    said = []
    rest = client(Answer(status, {"Retry-After": "1"}, b'{"code":-1003,"msg":"Way too many requests"}'), Answer())
    rest.bans.on_ban = lambda *ban: said.append(ban)
    with pytest.raises(RestError):
        await rest.call("GET", "/fapi/v1/time")
    began = time.monotonic()
    await asyncio.gather(*(rest.call("GET", "/fapi/v1/time") for _ in range(5)))
    assert 0.9 <= time.monotonic() - began < 3 and rest._session.calls == 6
    assert said == [(-1, 1.0, f"{status} -1003 Way too many requests")]


async def test_a_long_ban_fails_calls_at_once_and_none_goes_out():
    """Whoever calls must not hang for days; and it may ask again as often as it likes, nothing knocks."""
    rest = client(Answer(418, {"Retry-After": "259200"}, b"<html>"))
    with pytest.raises(RestError):
        await rest.call("GET", "/fapi/v1/time")
    for _ in range(20):
        with pytest.raises(VenueUnavailable, match="refuses this address"):
            await rest.call("GET", "/fapi/v1/time")
    with pytest.raises(VenueUnavailable):
        await rest.measure_clock()
    assert rest._session.calls == 1


async def test_calls_that_wait_for_weight_see_a_ban_that_begins_meanwhile():
    rest = client(Answer())
    rest.budget._tokens = 0.0
    waiting = asyncio.ensure_future(rest.call("GET", "/fapi/v1/positionSide/dual"))
    await asyncio.sleep(0.05)
    rest.bans.note(418, -1003, "", None, 0)
    with pytest.raises(VenueUnavailable):
        await asyncio.wait_for(waiting, 3)
    assert rest._session.calls == 0


@pytest.mark.parametrize("retry", ["", "soon", "-5", "²"])
async def test_a_retry_after_that_cannot_be_read_is_the_contract_s_default(retry):
    rest = client(Answer(429, {"Retry-After": retry}, b'{"code":-1003,"msg":"x"}'))
    with pytest.raises(RestError):
        await rest.call("GET", "/fapi/v1/time")
    assert abs(rest.bans.until() - time.monotonic_ns() - 30 * 10**9) < 10**9


@pytest.mark.parametrize(
    ("data", "wait"),
    [
        ({"retryAfter": 1_500}, 500_000_000), ({}, None), (None, None), ([], None), ({"retryAfter": "x"}, None),
        ({"retryAfter": True}, None),
    ],
)  # fmt: skip
def test_the_wait_in_an_answer_of_the_socket(data, wait):
    assert retry_after_ns(data, 1_000) == wait


async def test_the_budget_runs_on_the_monotonic_clock():
    """A wall clock put back by an hour must not stop every call for an hour, one put forward must not fill the budget."""
    now = [0]
    rest = client(Answer(), mono=lambda: now[0])
    rest.clock = lambda: 10**18
    rest.budget._refill()
    before = rest.budget._tokens
    rest.clock = lambda: 10**18 + 3600 * 10**9
    rest.budget._refill()
    assert rest.budget._tokens == before
    now[0] += 10**9
    rest.budget._refill()
    assert rest.budget._tokens > before or before == rest.budget.limit / 4


async def test_a_wall_clock_put_right_during_a_measurement_is_no_round_trip():
    ahead = [0]
    rest = client()
    rest.clock = lambda: time.time_ns() + ahead[0]
    rest._session = Web(
        Answer(body=b'{"serverTime":%d}' % (time.time_ns() // 10**6), after=lambda: ahead.__setitem__(0, 3 * 10**9)))
    await rest.measure_clock(samples=1)
    assert rest.venue_clock.error_ns < 200 * 10**6
    assert abs(rest.venue_clock.offset_ns + 3 * 10**9) < 500 * 10**6
