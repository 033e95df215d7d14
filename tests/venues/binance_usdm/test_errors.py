"""What each answer proves: one row per documented code, and unknown is always in doubt (semantics 34)."""

import pytest

from copyd.venues.binance_usdm.contract import CONTRACT
from copyd.venues.binance_usdm.errors import CODES, classify, reason_of, unknown_codes
from copyd.venues.common.outcome import Outcome

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
    (400, -1004, "", R, "duplicate_ip"),
    (400, -1010, "", R, "malformed_request"),
    (400, -1011, "", R, "ip_not_allowed"),
    (400, -1014, "", R, "unknown_order_composition"),
    (400, -1020, "", R, "unsupported_operation"),
    (400, -1023, "", R, "malformed_request"),
    (400, -1100, "", R, "malformed_request"),
    (400, -1101, "", R, "malformed_request"),
    (400, -1103, "", R, "malformed_request"),
    (400, -1104, "", R, "malformed_request"),
    (400, -1105, "", R, "malformed_request"),
    (400, -1106, "", R, "malformed_request"),
    (400, -1112, "", R, "no_book"),
    (400, -1114, "", R, "malformed_request"),
    (400, -1115, "", R, "malformed_request"),
    (400, -1116, "", R, "malformed_request"),
    (400, -1117, "", R, "malformed_request"),
    (400, -1118, "", R, "malformed_request"),
    (400, -1119, "", R, "malformed_request"),
    (400, -1128, "", R, "malformed_request"),
    (400, -1130, "", R, "malformed_request"),
    (400, -2010, "Duplicate order sent.", D, "new_order_rejected"),
    (400, -2011, "", D, "cancel_rejected"),
    (400, -2013, "", D, "no_such_order"),
    (400, -2020, "", R, "unable_to_fill"),
    (400, -2023, "", R, "in_liquidation"),
    (400, -2024, "", R, "position_not_sufficient"),
    (400, -2026, "", R, "reduce_only_type"),
    (400, -4000, "", R, "order_type"),
    (400, -4001, "", R, "price"),
    (400, -4002, "", R, "price_above_max"),
    (400, -4006, "", R, "stop_price"),
    (400, -4055, "", R, "amount_not_positive"),
    (400, -4060, "", R, "position_side_value"),
    (400, -4062, "", R, "reduce_only_in_hedge"),
    (400, -4082, "", R, "batch_size"),
    (400, -4087, "", R, "reduce_only_permission"),
    (400, -4088, "", R, "no_place_permission"),
    (400, -4103, "", R, "account_not_open"),
    (400, -4105, "", R, "account_not_open"),
    (400, -4115, "", R, "client_order_id_format"),
    (400, -4118, "", R, "reduce_only_margin"),
    (400, -4135, "", R, "activation_price"),
    (400, -4137, "", R, "quantity_with_close_position"),
    (400, -4138, "", R, "reduce_only_with_close_position"),
    (400, -4140, "", R, "symbol_status"),
    (400, -4141, "", R, "symbol_closed"),
    (400, -4144, "", R, "self_trade_pair"),
    (400, -4165, "", R, "time_interval"),
    (400, -4183, "", R, "price_above_band"),
    (400, -4184, "", R, "price_below_band"),
    (400, -5041, "", R, "depth_too_small"),
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


def test_the_table_and_its_tests_have_the_same_rows():
    """One row per documented code, one test per row."""
    assert {code for _, code, _, _, reason in TABLE if code and reason not in ("server_error", "unknown_code")} == set(CODES)


#: The codes the venue's documentation names for refused orders, limits and keys.
DOCUMENTED = (
    -1000, -1001, -1002, -1003, -1006, -1007, -1008, -1015, -1016, -1021, -1022, -1111, -1121, -2014, -2015, -2018, -2019, -2021,
    -2022, -2025, -2027, -2028, -4003, -4004, -4005, -4013, -4014, -4015, -4016, -4023, -4024, -4045, -4061, -4109, -4116, -4120,
    -4131, -4164, -4192, -4400, -4401, -5021, -5022, -5028,
)  # fmt: skip


@pytest.mark.parametrize("code", DOCUMENTED)
def test_every_documented_code_is_in_the_table(code):
    assert code in CODES


@pytest.mark.parametrize("code", sorted(CODES))
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_no_code_makes_a_server_error_definite_but_the_throttle(code, status):
    """A 5xx says that the venue does not know itself, whatever code came with it."""
    assert (classify(status, code).outcome is R) == (code == -1008)


@pytest.mark.parametrize("code", [-1, -999, -1099, -2999, -4999, -5999, -9000, 1, 200, 99999])
def test_a_code_that_is_not_in_the_table_is_in_doubt(code):
    assert classify(400, code).outcome is D


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
