"""What each answer proves: one row per code, and unknown is always in doubt (semantics 34)."""

import pytest

from copyd.venues.bybit.contract import CONTRACT
from copyd.venues.bybit.errors import (
    ACCOUNT_LIMIT_CODES,
    ADDRESS_LIMIT_CODES,
    CODES,
    NO_CHANGE_CODES,
    classify,
    reason_of,
    unknown_codes,
)
from copyd.venues.common.outcome import Outcome

A, R, D = Outcome.ACCEPTED, Outcome.DEFINITE_REJECT, Outcome.IN_DOUBT

#: code, outcome, reason: written from what is documented of the venue, not from the table under test
TABLE = [
    # nothing is known: the venue or something before it did not finish
    (429, D, "server_busy"), (5004, D, "timeout"), (10000, D, "timeout"), (10016, D, "internal_error"),
    (10019, D, "service_restarting"), (10429, D, "server_busy"), (110079, D, "order_in_process"), (170001, D, "internal_error"),
    (170007, D, "timeout"), (170032, D, "network_error"), (170035, D, "order_in_process"), (170146, D, "timeout"),
    (170147, D, "timeout"), (170149, D, "order_creation"), (170195, D, "price_far"), (170196, D, "price_far"),
    (170234, D, "internal_error"),
    # timing
    (-1, D, "request_expired"), (10002, D, "timestamp_outside_recv_window"),
    # duplicates
    (10014, D, "duplicate_request"), (12141, D, "duplicate_client_order_id"), (20006, D, "duplicate_request"),
    (110030, D, "duplicate_order_id"), (110072, D, "duplicate_client_order_id"), (170141, D, "duplicate_client_order_id"),
    # answers to other questions
    (110001, D, "no_such_order"), (110008, D, "order_finished"), (110010, D, "order_cancelled"), (110019, D, "order_id"),
    (170139, D, "order_filled"), (170142, D, "order_cancelled"), (170143, D, "order_not_in_book"), (170144, D, "order_locked"),
    (170145, D, "cancel_rejected"), (170150, D, "cancel_rejected"), (170190, D, "order_finished"), (170191, D, "cancel_rejected"),
    (170213, D, "no_such_order"),
    # at the door
    (-2015, R, "key_refused"), (7001, R, "malformed_request"), (10001, R, "malformed_request"), (10003, R, "key_refused"),
    (10004, R, "signature"), (10005, R, "permission"), (10006, R, "too_many_orders"), (10007, R, "unauthorized"),
    (10008, R, "account_banned"), (10009, R, "ip_banned"), (10010, R, "ip_not_allowed"), (10017, R, "unsupported_operation"),
    (10018, R, "too_many_requests"), (10020, R, "account_mode"), (10024, R, "compliance"), (10027, R, "trading_ban"),
    (10028, R, "account_mode"), (10029, R, "unknown_symbol"), (10403, R, "too_many_requests"),
    (10404, R, "unsupported_operation"), (12137, R, "precision"), (20001, R, "logged_in_already"),
    (20003, R, "too_many_requests"), (33004, R, "key_refused"), (100028, R, "account_mode"),
    # perpetuals
    (110003, R, "price_above_band"), (110004, R, "balance"), (110005, R, "position_status"), (110006, R, "margin"),
    (110007, R, "margin"), (110009, R, "stop_orders_max"), (110011, R, "in_liquidation"), (110012, R, "margin"),
    (110013, R, "position_above_leverage_max"), (110014, R, "margin"), (110015, R, "margin_mode"),
    (110016, R, "position_above_leverage_max"), (110017, R, "reduce_only"), (110018, R, "malformed_request"),
    (110020, R, "open_orders_max"), (110021, R, "open_interest"), (110022, R, "quantity_above_max"), (110023, R, "close_only"),
    (110024, R, "position_open"), (110025, R, "no_change"), (110026, R, "no_change"), (110027, R, "no_change"),
    (110028, R, "orders_open"), (110029, R, "position_mode"), (110031, R, "risk_limit"), (110032, R, "malformed_request"),
    (110033, R, "no_position"), (110034, R, "no_position"), (110035, R, "in_liquidation"), (110036, R, "margin_mode"),
    (110037, R, "unknown_symbol"), (110038, R, "margin_mode"), (110039, R, "in_liquidation"), (110040, R, "in_liquidation"),
    (110041, R, "in_liquidation"), (110042, R, "close_only"), (110043, R, "no_change"), (110044, R, "margin"),
    (110045, R, "balance"), (110046, R, "in_liquidation"), (110047, R, "margin"), (110048, R, "position_above_leverage_max"),
    (110049, R, "malformed_request"), (110050, R, "malformed_request"), (110051, R, "margin"), (110052, R, "margin"),
    (110053, R, "margin"), (110057, R, "stop_price"), (110059, R, "stop_price"), (110063, R, "symbol_status"),
    (110064, R, "quantity_below_min"), (110066, R, "symbol_status"), (110067, R, "account_mode"), (110068, R, "trading_ban"),
    (110069, R, "trading_ban"), (110070, R, "symbol_status"), (110071, R, "account_mode"), (110073, R, "margin_mode"),
    (110074, R, "symbol_status"), (110090, R, "position_above_leverage_max"), (110092, R, "would_trigger_at_once"),
    (110093, R, "would_trigger_at_once"), (110094, R, "min_notional"), (130000, R, "malformed_request"),
    # spot
    (170005, R, "too_many_orders"), (170010, R, "quantity_above_max"), (170011, R, "quantity_above_max"), (170019, R, "balance"),
    (170031, R, "account_mode"), (170033, R, "margin"), (170034, R, "margin"), (170036, R, "malformed_request"),
    (170037, R, "malformed_request"), (170105, R, "malformed_request"), (170115, R, "malformed_request"),
    (170116, R, "order_type"), (170117, R, "malformed_request"), (170121, R, "unknown_symbol"),
    (170124, R, "quantity_above_max"), (170130, R, "malformed_request"), (170131, R, "balance"), (170132, R, "price_above_max"),
    (170133, R, "price_below_min"), (170134, R, "price_tick"), (170135, R, "quantity_above_max"),
    (170136, R, "quantity_below_min"), (170137, R, "quantity_step"), (170140, R, "min_notional"), (170148, R, "precision"),
    (170151, R, "symbol_status"), (170157, R, "symbol_status"), (170159, R, "symbol_status"), (170192, R, "price_above_band"),
    (170193, R, "price_above_band"), (170194, R, "price_below_band"), (170197, R, "quantity_above_max"),
    (170198, R, "quantity_above_max"), (170199, R, "quantity_above_max"), (170200, R, "quantity_above_max"),
    (170201, R, "trading_ban"), (170202, R, "malformed_request"), (170203, R, "malformed_request"), (170204, R, "stop_price"),
    (170206, R, "stop_price"), (170209, R, "compliance"), (170210, R, "quantity_above_max"),
    (170217, R, "post_only_would_take"), (170218, R, "post_only_would_take"), (170221, R, "unknown_symbol"),
    (170222, R, "too_many_requests"), (170223, R, "balance"), (170224, R, "compliance"), (170226, R, "balance"),
    (170227, R, "unsupported_operation"), (170228, R, "quantity_above_max"), (170229, R, "open_interest"),
    (170241, R, "compliance"), (170371, R, "price_below_band"), (170372, R, "price_above_band"), (170810, R, "open_orders_max"),
    (170811, R, "stop_orders_max"),
    # settings
    (3400045, R, "margin_mode"), (3400052, R, "margin_mode"), (3400053, R, "margin_mode"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "outcome", "reason"), TABLE)
def test_each_code_proves_what_is_documented(code, outcome, reason):
    """A code in a 200 means what the table of the venue says, however it is worded."""
    verdict = classify(200, code)
    assert (verdict.outcome, verdict.reason, verdict.code) == (outcome, reason, code)
    assert reason_of(code) == reason


def test_every_code_of_the_table_is_tested():
    """No row of the table without one here."""
    assert {code for code, _, _ in TABLE} == set(CODES)


def test_only_a_zero_in_a_200_is_an_acceptance():
    """A zero in an error of HTTP is none."""
    assert classify(200, 0).outcome is A
    assert classify(403, 0) == (R, "refused_at_edge", 0)
    for status in (500, 502, 503, 504):
        assert classify(status, 0).outcome is D


@pytest.mark.parametrize("code", [10001, 10006, 110007])
def test_a_server_error_is_in_doubt_whatever_code_came_with_it(code):
    """Behind a 5xx nobody knows what became of the order."""
    assert classify(502, code).outcome is D


def test_an_unknown_code_is_in_doubt_and_counted():
    """A guess in either direction costs a follower money."""
    before = unknown_codes[987654]
    assert classify(200, 987654) == (D, "unknown_code", 987654)
    assert unknown_codes[987654] == before + 1
    assert reason_of(987654) == "unknown_code" and reason_of(0) == "refused_at_edge"


def test_limits_of_an_account_and_of_the_address_are_told_apart():
    """The contract's codes are limits of an account; no code is both."""
    assert set(CONTRACT.order_limit_codes) <= ACCOUNT_LIMIT_CODES
    assert not ACCOUNT_LIMIT_CODES & ADDRESS_LIMIT_CODES
    assert all(CODES[code][0] is R for code in ACCOUNT_LIMIT_CODES | ADDRESS_LIMIT_CODES | NO_CHANGE_CODES)
