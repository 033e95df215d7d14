"""What each answer proves: one row per documented code and text, and unknown is always in doubt (semantics 34)."""

from __future__ import annotations

import pytest

from copyd.venues.binance_spot.contract import CONTRACT
from copyd.venues.binance_spot.errors import (
    CODES,
    ENGINE_CODES,
    ENGINE_TEXTS,
    FILTERS,
    classify,
    reason_of,
    unknown_codes,
    unknown_texts,
)
from copyd.venues.common.outcome import Outcome

A, R, D = Outcome.ACCEPTED, Outcome.DEFINITE_REJECT, Outcome.IN_DOUBT

#: status, code, message, outcome, reason: written from the venue's documentation, not from the tables under test
TABLE = [
    (200, 0, "", A, ""),
    (400, -1000, "An unknown error occurred while processing the request.", D, "unknown_error"),
    (400, -1001, "Internal error; unable to process your request. Please try again.", D, "disconnected"),
    (401, -1002, "You are not authorized to execute this request.", R, "unauthorized"),
    (429, -1003, "Too many requests queued.", R, "too_many_requests"),
    (418, -1003, "Way too much request weight used; IP banned until 1.", R, "too_many_requests"),
    (400, -1006, "An unexpected response was received from the message bus. Execution status unknown.", D, "unexpected_response"),
    (408, -1007, "Timeout waiting for response from backend server. Send status unknown.", D, "timeout"),
    (503, -1008, "Server is currently overloaded with other requests. Please try again in a few minutes.", R, "throttled"),
    (400, -1010, "something", D, "new_order_rejected"),
    (400, -1014, "Unsupported order combination.", R, "unknown_order_composition"),
    (429, -1015, "Too many new orders.", R, "too_many_orders"),
    (400, -1016, "This service is no longer available.", D, "service_shutting_down"),
    (400, -1020, "This operation is not supported.", R, "unsupported_operation"),
    (400, -1021, "Timestamp for this request is outside of the recvWindow.", D, "timestamp_outside_recv_window"),
    (400, -1022, "Signature for this request is not valid.", R, "signature"),
    *((400, code, "", R, "malformed_request") for code in (
        -1100, -1101, -1102, -1103, -1104, -1105, -1106, -1108, -1114, -1115, -1116, -1117, -1118, -1119, -1122, -1128, -1130,
        -1131, -1134, -1135)),
    (400, -1111, "Parameter 'quantity' has too much precision.", R, "precision"),
    (400, -1112, "No orders on book for symbol.", R, "no_book"),
    (400, -1121, "Invalid symbol.", R, "unknown_symbol"),
    (400, -1127, "More than 24 hours between startTime and endTime.", R, "time_interval"),
    (400, -2011, "Unknown order sent.", D, "cancel_rejected"),
    (400, -2013, "Order does not exist.", D, "no_such_order"),
    (401, -2014, "API-key format invalid.", R, "key_format"),
    (401, -2015, "Invalid API-key, IP, or permissions for action.", R, "key_refused"),
    (409, -2021, "Order cancel-replace partially failed.", D, "cancel_replace_partly"),
    (400, -2022, "Order cancel-replace failed.", D, "cancel_replace"),
    (400, -2026, "Order was canceled or expired with no executed qty over 90 days ago.", D, "order_archived"),
    (400, -2035, "", D, "subscribed_already"),
    (400, -2036, "", D, "not_subscribed"),
    # one code for all that the matching engine refuses: only the text tells it
    (400, -2010, "Duplicate order sent.", D, "duplicate_client_order_id"),
    (400, -2010, "Account has insufficient balance for requested action.", R, "balance"),
    (400, -2010, "Market is closed.", R, "symbol_closed"),
    (400, -2010, "This account may not place or cancel orders.", R, "trading_ban"),
    (400, -2010, "This action is disabled on this account.", R, "trading_ban"),
    (400, -2010, "Market orders are not supported for this symbol.", R, "order_type"),
    (400, -2010, "Iceberg orders are not supported for this symbol.", R, "order_type"),
    (400, -2010, "Stop loss orders are not supported for this symbol.", R, "order_type"),
    (400, -2010, "Stop loss limit orders are not supported for this symbol.", R, "order_type"),
    (400, -2010, "Take profit orders are not supported for this symbol.", R, "order_type"),
    (400, -2010, "Take profit limit orders are not supported for this symbol.", R, "order_type"),
    (400, -2010, "Trailing stop orders are not supported for this symbol.", R, "order_type"),
    (400, -2010, "OCO orders are not supported for this symbol", R, "order_type"),
    (400, -2010, "Quote order qty market orders are not support for this symbol.", R, "order_type"),
    (400, -2010, "Unsupported order combination", R, "unknown_order_composition"),
    (400, -2010, "Price * QTY is zero or less.", R, "min_notional"),
    (400, -2010, "IcebergQty exceeds QTY.", R, "quantity_above_max"),
    (400, -2010, "This symbol is not permitted for this account.", R, "symbol_not_permitted"),
    (400, -2010, "This symbol is restricted for this account.", R, "symbol_not_permitted"),
    (400, -2010, "Rest API trading is not enabled.", R, "no_place_permission"),
    (400, -2010, "WebSocket API trading is not enabled.", R, "no_place_permission"),
    (400, -2010, "Order would trigger immediately.", R, "would_trigger_at_once"),
    (400, -2010, "Order would immediately match and take.", R, "post_only_would_take"),
    (400, -2010, "The relationship of the prices for the orders is not correct.", R, "price"),
    (400, -2010, "Order book liquidity is less than `LOT_SIZE` filter minimum quantity.", R, "no_book"),
    (400, -2010, "Order book liquidity is less than `MARKET_LOT_SIZE` filter minimum quantity.", R, "no_book"),
    (400, -2010, "Order book liquidity is less than symbol minimum quantity.", R, "no_book"),
    (400, -2010, "A text nobody has seen.", D, "new_order_rejected"),
    (400, -2010, "", D, "new_order_rejected"),
    # never reached the engine: a refusal, whatever it says
    (400, -1013, "Filter failure: LOT_SIZE", R, "quantity_step"),
    (400, -1013, "Filter failure: MARKET_LOT_SIZE", R, "quantity_step"),
    (400, -1013, "Filter failure: PRICE_FILTER", R, "price_tick"),
    (400, -1013, "Filter failure: PERCENT_PRICE", R, "percent_price"),
    (400, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE", R, "percent_price"),
    (400, -1013, "Filter failure: NOTIONAL", R, "min_notional"),
    (400, -1013, "Filter failure: MIN_NOTIONAL", R, "min_notional"),
    (400, -1013, "Filter failure: MAX_NUM_ORDERS", R, "open_orders_max"),
    (400, -1013, "Filter failure: MAX_NUM_ALGO_ORDERS", R, "stop_orders_max"),
    (400, -1013, "Filter failure: MAX_POSITION", R, "position_max"),
    (400, -1013, "Filter failure: SOMETHING_NEW", R, "filter"),
    (400, -1013, "Invalid quantity.", R, "filter"),
    # the edge, and what nobody knows
    (403, 0, "", R, "refused_at_edge"),
    (429, 0, "", R, "refused_at_edge"),
    (500, 0, "", D, "server_error"),
    (503, -1000, "Unknown error", D, "server_error"),
    (503, -2010, "Account has insufficient balance for requested action.", D, "server_error"),
    (502, 0, "<html>", D, "server_error"),
    (400, -9999, "", D, "unknown_code"),
    (200, -9998, "", D, "unknown_code"),
    (400, 0, "", D, "unknown_code"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "message", "outcome", "reason"), TABLE)
def test_each_documented_answer(status: int, code: int, message: str, outcome: Outcome, reason: str) -> None:
    """Code, status and, for the two codes that need it, text give this outcome and this word."""
    assert classify(status, code, message) == (outcome, reason, code)


def test_the_tables_and_their_tests_have_the_same_rows() -> None:
    """One row per documented code and per text of the engine, one test per row."""
    tested = {code for _, code, _, _, reason in TABLE if code and reason not in ("server_error", "unknown_code")}
    assert tested == set(CODES)
    texts = {message.rstrip(".").replace("`", "") for status, code, message, *_ in TABLE if code == -2010 and status == 400}
    assert set(ENGINE_TEXTS) <= texts
    assert {"LOT_SIZE", "NOTIONAL", "PRICE_FILTER"} <= set(FILTERS)


def test_what_the_tables_do_not_know_is_counted() -> None:
    """An unknown code and an unknown text of the engine alarm by their counters."""
    unknown_codes.clear()
    unknown_texts.clear()
    classify(400, -7777, "x")
    classify(400, -2010, "Never seen before.")
    assert unknown_codes[-7777] == 1 and unknown_texts["Never seen before."] == 1


def test_a_flood_of_new_texts_is_not_kept() -> None:
    """At most a hundred different texts are remembered; the outcome stays the doubt."""
    unknown_texts.clear()
    for number in range(1_000):
        assert classify(400, -2010, f"text {number}").outcome == D
    assert len(unknown_texts) == 100
    unknown_texts.clear()


def test_no_text_of_the_engine_makes_a_resend_look_safe() -> None:
    """A duplicate is an order that lives: of all texts it alone is a doubt; no code of the engine is a refusal by itself."""
    assert {text for text, (outcome, _) in ENGINE_TEXTS.items() if outcome == D} == {"Duplicate order sent"}
    assert all(CODES[code][0] == D for code in ENGINE_CODES)


def test_order_limits_are_the_accounts() -> None:
    """-1015 is an account's limit, no ban of the address; the word for a code alone is the table's."""
    assert CONTRACT.order_limit_codes == (-1015,)
    assert reason_of(-1015) == "too_many_orders" and reason_of(0) == "refused_at_edge" and reason_of(-5) == "unknown_code"
