"""What an exception of ccxt proves, and which exchanges are refused before anything is copied."""

from __future__ import annotations

import pytest

from copyd.errors import OperatorError
from copyd.venues.ccxt.contract import EXCHANGES, Endpoints
from copyd.venues.ccxt.errors import classify, unchanged
from copyd.venues.ccxt.process import NotThere, Process
from copyd.venues.common.outcome import Outcome
from tests.venues.ccxt.conftest import PYTHON

INVALID = ["InvalidOrder", "ExchangeError", "BaseError"]


@pytest.mark.parametrize(
    ("kinds", "text", "outcome", "reason"),
    [
        (["InsufficientFunds", "ExchangeError"], "x", Outcome.DEFINITE_REJECT, "margin"),
        (INVALID, "Reduce-only rule not satisfied", Outcome.DEFINITE_REJECT, "reduce_only"),
        (INVALID, "anything", Outcome.DEFINITE_REJECT, "invalid_order"),
        (INVALID, "OrderLinkedID is duplicate", Outcome.IN_DOUBT, "duplicate_client_order_id"),
        (["DuplicateOrderId", *INVALID], "x", Outcome.IN_DOUBT, "duplicate_client_order_id"),
        (["OrderNotFound", *INVALID], "x", Outcome.IN_DOUBT, "no_such_order"),
        (["AuthenticationError", "ExchangeError"], "x", Outcome.DEFINITE_REJECT, "key_refused"),
        (["PermissionDenied", "AuthenticationError"], "x", Outcome.DEFINITE_REJECT, "permission"),
        (["BadSymbol", "BadRequest", "ExchangeError"], "x", Outcome.DEFINITE_REJECT, "unknown_symbol"),
        (["RateLimitExceeded", "NetworkError"], "x", Outcome.DEFINITE_REJECT, "too_many_requests"),
        (["RequestTimeout", "NetworkError"], "x", Outcome.IN_DOUBT, "timeout"),
        (["DDoSProtection", "NetworkError"], "x", Outcome.IN_DOUBT, "network_error"),
        (["ExchangeError", "BaseError"], "insufficient balance", Outcome.IN_DOUBT, "unknown_class"),
        (["BadRequest", "ExchangeError"], "x", Outcome.IN_DOUBT, "unknown_class"),
        (["KeyError", "LookupError"], "x", Outcome.IN_DOUBT, "unknown_class"),
        (["Repeated", "Exception"], "x", Outcome.IN_DOUBT, "repeated"),
    ],
)  # fmt: skip
def test_a_class_decides_and_an_unknown_one_is_a_doubt(kinds: list[str], text: str, outcome: Outcome, reason: str) -> None:
    """By the nearest known class; the text refines a refusal's reason and of outcomes only takes a duplicate for a doubt."""
    assert classify(kinds, text, True)[:2] == (outcome, reason)


def test_what_was_never_written_is_definite() -> None:
    """Whatever was raised before a byte of the order left: there is no order."""
    for kinds in (["NetworkError"], ["ExchangeError"], ["NotWritten"], INVALID):
        assert classify(kinds, "x", False).outcome is Outcome.DEFINITE_REJECT


def test_documented_codes_without_a_class_are_refusals_of_that_exchange_alone() -> None:
    """A code in the exchange's table, under ccxt's class for everything unknown."""
    text = 'binanceusdm {"code":-2019,"msg":"Margin is insufficient."}'
    kinds = ["ExchangeError", "BaseError"]
    assert classify(kinds, text, True, EXCHANGES["binanceusdm"].refusals)[:2] == (Outcome.DEFINITE_REJECT, "margin")
    assert classify(kinds, text, True, EXCHANGES["okx"].refusals).outcome is Outcome.IN_DOUBT


def test_nothing_to_change_is_success() -> None:
    """By class, or in the words that say so; not any refusal of a setting."""
    assert unchanged(["MarginModeAlreadySet"], "") and unchanged(["ExchangeError"], "leverage not modified")
    assert not unchanged(["ExchangeError"], "you already have open orders")


@pytest.mark.parametrize(
    ("exchange_id", "python", "words"),
    [("gate", str(PYTHON), "cannot ask for an order by our own id"), ("dydx", str(PYTHON), "cannot fetchMyTrades, setLeverage"),
     ("nosuch", str(PYTHON), "knows no exchange nosuch"), ("okx", "/nowhere/python", "cannot be started: /nowhere/python")],
)  # fmt: skip
async def test_an_exchange_that_cannot_be_copied_through_is_refused_in_one_sentence(
    exchange_id: str, python: str, words: str
) -> None:
    """No client id to ask by, no executions, no such exchange, no such interpreter: the venue does not start."""
    # The address is one where nobody listens: what can be refused without the network is.
    process = Process(Endpoints(exchange_id=exchange_id, python=python, base="http://127.0.0.1:9"))
    with pytest.raises(OperatorError, match=words):
        await process.start()
    with pytest.raises(NotThere):
        await process.call("fetch_time")
