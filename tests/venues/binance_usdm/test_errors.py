"""What each answer proves: one row per documented code, and unknown is always in doubt (semantics 34)."""

import pytest

from copyd.venues.binance_usdm.contract import CONTRACT
from copyd.venues.binance_usdm.errors import CODES, Outcome, classify, reason_of, unknown_codes

A, R, D = Outcome.ACCEPTED, Outcome.DEFINITE_REJECT, Outcome.IN_DOUBT

#: status, code, message, outcome, reason: written from the venue's documentation, not from the table under test
TABLE = [
    (200, 0, "", A, ""),
    (400, -1000, "", D, "unknown_error"),
    (400, -1001, "", D, "disconnected"),
    (401, -1002, "", R, "unauthorized"),
    (429, -1003, "", R, "too_many_requests"),
    (418, -1003, "", R, "too_many_requests"),
    (400, -1006, "", D, "unexpected_response"),
    (408, -1007, "", D, "timeout"),
    (503, -1008, "", R, "throttled"),
    (400, -1015, "", R, "too_many_orders"),
    (400, -1016, "", D, "service_shutting_down"),
    (400, -1021, "Timestamp for this request is outside of the recvWindow.", D, "timestamp_outside_recv_window"),
    (400, -1022, "", R, "signature"),
    (400, -1102, "", R, "malformed_request"),
    (400, -1111, "", R, "precision"),
    (400, -1121, "", R, "unknown_symbol"),
    (401, -2014, "", R, "key_format"),
    (401, -2015, "", R, "key_refused"),
    (400, -2018, "", R, "balance"),
    (400, -2019, "Margin is insufficient.", R, "margin"),
    (400, -2021, "", R, "would_trigger_at_once"),
    (400, -2022, "ReduceOnly Order is rejected.", R, "reduce_only"),
    (400, -2025, "", R, "open_orders_max"),
    (400, -2027, "", R, "position_above_leverage_max"),
    (400, -2028, "", R, "leverage_too_small"),
    (400, -4003, "", R, "quantity_not_positive"),
    (400, -4004, "", R, "quantity_below_min"),
    (400, -4005, "", R, "quantity_above_max"),
    (400, -4013, "", R, "price_below_min"),
    (400, -4014, "", R, "price_tick"),
    (400, -4015, "", R, "client_order_id_format"),
    (400, -4016, "", R, "price_above_band"),
    (400, -4023, "", R, "quantity_step"),
    (400, -4024, "", R, "price_below_band"),
    (400, -4045, "", R, "stop_orders_max"),
    (400, -4061, "", R, "position_side"),
    (400, -4109, "", R, "inactive_account"),
    (400, -4116, "clientOrderId is duplicated", D, "duplicate_client_order_id"),
    (400, -4120, "", R, "wrong_order_service"),
    (400, -4131, "", R, "percent_price"),
    (400, -4164, "", R, "min_notional"),
    (400, -4192, "", R, "cooling_off"),
    (400, -4400, "", R, "trading_ban"),
    (400, -4401, "", R, "trading_ban"),
    (400, -5021, "", R, "fok_not_filled"),
    (400, -5022, "", R, "post_only_would_take"),
    (400, -5028, "", D, "expired_before_engine"),
    # the three meanings of 503
    (503, 0, "Unknown error, please check your request or try again later.", D, "server_error"),
    (503, 0, "Service Unavailable.", R, "service_unavailable"),
    (503, 0, "Internal error; unable to process your request. Please try again.", R, "service_unavailable"),
    (503, -1000, "Unknown error, please check your request or try again later.", D, "server_error"),
    (500, 0, "", D, "server_error"),
    (502, -2019, "Margin is insufficient.", D, "server_error"),
    (504, 0, "", D, "server_error"),
    (403, 0, "", R, "refused_at_edge"),
    (429, 0, "", R, "refused_at_edge"),
    (400, 0, "", D, "unknown_code"),
    (400, -9999, "", D, "unknown_code"),
    (200, -9998, "", D, "unknown_code"),
]


@pytest.mark.parametrize(("status", "code", "message", "outcome", "reason"), TABLE)
def test_each_documented_answer(status, code, message, outcome, reason):
    assert classify(status, code, message) == (outcome, reason, code)


def test_unknown_codes_are_counted():
    before = unknown_codes[-8123]
    classify(400, -8123)
    assert unknown_codes[-8123] == before + 1
    assert reason_of(-8123) == "unknown_code" and reason_of(-2019) == "margin"


def test_nothing_that_speaks_of_time_or_of_a_second_copy_is_definite():
    """A timing reject or a duplicate speaks for one delivered copy only."""
    assert {CODES[c][0] for c in (-1021, -5028, -4116, -1006, -1007, -1000, -1001)} == {D}


def test_the_fence_is_the_sum_of_all_its_terms():
    assert CONTRACT.fence_ns() == (2000 + 1000 + 10000 + 10000 + 2000) * 1_000_000
    assert CONTRACT.overridden({"recv_window_ms": 1000}).fence_ns() == CONTRACT.fence_ns() - 1_000_000_000


def test_contract_terms_are_overridden_by_name_only():
    with pytest.raises(ValueError, match="recv_windw_ms"):
        CONTRACT.overridden({"recv_windw_ms": 1})
    with pytest.raises(ValueError):
        CONTRACT.overridden({"recv_window_ms": "soon"})
