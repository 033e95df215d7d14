"""What REST makes of answers where no exchange is needed to show it."""

from __future__ import annotations

import pytest

from copyd.venues.common.instruments import Instruments
from copyd.venues.common.outcome import Outcome
from copyd.venues.okx.codec import BalanceDetail
from copyd.venues.okx.contract import CONTRACT, Endpoints
from copyd.venues.okx.rest import Rest


@pytest.fixture
def rest(instruments: Instruments) -> Rest:
    made = Rest(Endpoints.of("live"), CONTRACT, lambda: 0)
    made.bind(instruments)
    return made


def test_spot_holdings_are_one_way_positions(rest: Rest, instruments: Instruments) -> None:
    """What is held of the base asset, in whole lots; the asset that pays is no position, nor is one we have no instrument for."""
    details = [
        BalanceDetail("BTC", cashBal="0.123456789", uTime="5"), BalanceDetail("USDT", cashBal="7", uTime="5"),
        BalanceDetail("PEPE", cashBal="1" + "0" * 15, uTime="5"), BalanceDetail("ETH", cashBal="3", uTime="5"),
    ]  # fmt: skip
    ((position, entry),) = rest._holdings(details, 9)
    assert (position.instrument, position.position_side, position.qty, entry) == (9, 0, 12_345_678, 0)
    assert position.ts_event == 5 * 10**6 and rest._holdings([BalanceDetail("BTC", cashBal="0.000000001")], 9) == []


@pytest.mark.parametrize(
    ("status", "body", "code", "outcome", "limited", "account"),
    [
        (200, b'{"code":"1","data":[{"sCode":"51008","sMsg":"no"}],"msg":""}', 51008, Outcome.DEFINITE_REJECT, False, False),
        (401, b'{"code":"50113","msg":"Invalid signature.","data":[]}', 50113, Outcome.DEFINITE_REJECT, False, False),
        (429, b'{"code":"50011","msg":"Too Many Requests","data":[]}', 50011, Outcome.DEFINITE_REJECT, True, True),
        (200, b'{"code":"50061","msg":"m","data":[]}', 50061, Outcome.DEFINITE_REJECT, True, True),
        (429, b'{"code":"50013","msg":"Systems are busy.","data":[]}', 50013, Outcome.IN_DOUBT, False, False),
        (429, b"<html>", 0, Outcome.DEFINITE_REJECT, True, False),
        (503, b'{"code":"50001","msg":"m","data":[]}', 50001, Outcome.IN_DOUBT, False, False),
        (502, b"<html>", 0, Outcome.IN_DOUBT, False, False),
        (200, b"<html>", 0, Outcome.IN_DOUBT, False, False),
    ],
)  # fmt: skip
def test_problems(
    rest: Rest, status: int, body: bytes, code: int, outcome: Outcome, limited: bool, account: bool
) -> None:
    """A business error in a 200 is an error; a limit of the account bans no address, one in front of the venue does."""
    problem = rest.problem(status, {"Retry-After": "7"}, body)
    assert problem is not None and problem.verdict.outcome is outcome and problem.code == code
    assert (problem.limited, problem.account, problem.wait_ns) == (limited, account, 7 * 10**9)


def test_no_problem(rest: Rest) -> None:
    """A 200 with the code "0" is an answer."""
    assert rest.problem(200, {}, b'{"code":"0","data":[],"msg":""}') is None
