"""What each answer proves: one row per documented code, and unknown is always in doubt (semantics 34)."""

from __future__ import annotations

import pytest

from copyd.venues.common.outcome import Outcome
from copyd.venues.okx.contract import CONTRACT
from copyd.venues.okx.errors import CODES, LOGIN_CODES, RATE_CODES, classify, number, reason_of, telling, unknown_codes

A, R, D = Outcome.ACCEPTED, Outcome.DEFINITE_REJECT, Outcome.IN_DOUBT

#: outcome and reason -> codes, written from the venue's documentation, not from the table under test
TABLE = {
    (D, "service_unavailable"): (50001,),
    (D, "timeout"): (50004, 51054, 51149),
    (D, "busy"): (50013,),
    (D, "system_error"): (50026, 63999, 64007),
    (D, "expired"): (50036, 50037),
    (D, "timestamp_outside_recv_window"): (50102, 50112, 60004, 60006),
    (D, "duplicate_client_order_id"): (50042, 50071, 51011, 51016, 51065, 51068),
    (D, "no_such_order"): (51063, 51503, 51509, 51510, 51603),
    (D, "cancel_rejected"): (51400, 51401, 51402, 51405, 51410, 51412),
    (R, "malformed_request"): (
        50000, 50002, 50006, 50010, 50014, 50015, 50016, 50024, 50025, 50107, 50108, 50109, 50115, 51000, 51003, 51130, 60012,
        60013, 60027, 60033),
    (R, "unsupported_operation"): (50005, 50038, 50046, 50053, 50062, 51056, 60008, 60018, 60019, 60026, 60028),
    (R, "account_blocked"): (50007, 51024),
    (R, "account_not_open"): (50008,),
    (R, "inactive_account"): (50012,),
    (R, "in_liquidation"): (50009, 50017, 50018, 50019, 50020, 50021, 50022, 51032),
    (R, "too_many_requests"): (50011, 50040, 51113, 60014, 60023),
    (R, "too_many_orders"): (50061,),
    (R, "trading_ban"): (50027, 50028, 50029, 50032, 50033, 50075, 51009, 51341),
    (R, "unauthorized"): (50030, 50041, 50114, 50120, 64003),
    (R, "ip_not_bound"): (50035,),
    (R, "ip_not_allowed"): (50110, 50121),
    (R, "region"): (50051, 50052, 50059, 51155),
    (R, "identity_not_verified"): (50060,),
    (R, "margin_type"): (50072,),
    (R, "key_refused"): (50100, 50111, 50119, 60005, 60032),
    (R, "wrong_environment"): (50101,),
    (R, "key_format"): (50103, 50104),
    (R, "passphrase"): (50105, 60024),
    (R, "signature"): (50106, 50113, 60007),
    (R, "login_failed"): (60009,),
    (R, "not_logged_in"): (60011,),
    (R, "already_logged_in"): (60031,),
    (R, "unknown_symbol"): (51001, 51002, 51012, 51014, 51015, 51026),
    (R, "position_above_leverage_max"): (51004,),
    (R, "quantity_above_max"): (51005, 51033, 51101, 51108, 51185, 51201, 51202, 51203, 51207),
    (R, "quantity_below_min"): (51007, 51020, 51118, 51120, 51132, 51143),
    (R, "quantity_step"): (51121,),
    (R, "precision"): (51150,),
    (R, "price"): (51204,),
    (R, "price_band"): (51006, 51031, 51116),
    (R, "price_below_min"): (51122,),
    (R, "price_above_band"): (51135, 51137),
    (R, "price_below_band"): (51136, 51138),
    (R, "margin"): (51008, 51017),
    (R, "balance"): (51119, 51127, 51131),
    (R, "account_mode"): (51010, 51128, 59111),
    (R, "symbol_status"): (50023, 51021, 51022, 51029, 51030, 51123),
    (R, "symbol_closed"): (51027, 51028, 51087),
    (R, "position_not_sufficient"): (51023, 51043),
    (R, "position_side"): (51041,),
    (R, "position_max"): (51105, 51106, 51107, 51129, 51187),
    (R, "open_orders_max"): (51025, 51102, 51103, 51104, 51115, 51117, 51174),
    (R, "only_reducing_allowed"): (51037, 51038, 51209, 51210, 51211, 51213),
    (R, "reduce_only"): (51112, 51134, 51148, 51169, 51170, 51205, 51206),
    (R, "reduce_only_type"): (51100, 51133, 51139),
    (R, "no_book"): (51109, 51140, 51142),
    (R, "order_type"): (51110, 51124, 51196, 51197),
    (R, "batch_size"): (51111, 51212),
    (R, "leverage_above_max"): (51186, 59102, 59104, 59106),
    (R, "leverage_too_small"): (59103, 59105, 59108, 59109),
    (R, "open_orders_or_positions"): (59000, 59001, 59002, 59100, 59101, 59107, 59112, 59668, 59669, 59670),
}
ROWS = [(code, outcome, reason) for (outcome, reason), codes in TABLE.items() for code in codes]


@pytest.mark.parametrize(("code", "outcome", "reason"), ROWS)
def test_code(code: int, outcome: Outcome, reason: str) -> None:
    """What a code proves, and its word."""
    assert classify(200, code) == (outcome, reason, code)
    assert reason_of(code) == reason


def test_every_code_has_a_row() -> None:
    """The table under test holds no code that is not tested, and none twice."""
    assert sorted(code for code, _, _ in ROWS) == sorted(CODES)


@pytest.mark.parametrize(("code", "outcome", "_"), ROWS)
def test_a_5xx_proves_nothing(code: int, outcome: Outcome, _: str) -> None:
    """Whatever code came with it."""
    assert classify(503, code).outcome is D


def test_unknown_is_in_doubt_and_counted() -> None:
    """A code outside the table is never guessed."""
    before = unknown_codes[59_999]
    assert classify(200, 59_999) == (D, "unknown_code", 59_999)
    assert unknown_codes[59_999] == before + 1
    assert classify(200, -1) == (D, "unknown_code", 0)
    assert classify(500).outcome is D and classify(504, 0).reason == "server_error"


def test_refused_at_the_edge() -> None:
    """A firewall's refusal has no code: the request never came to the venue."""
    for status in (401, 403, 429):
        assert classify(status) == (R, "refused_at_edge", 0)


def test_accepted_is_only_a_200_without_a_code() -> None:
    """Nothing else is taken for an acceptance."""
    assert classify(200).outcome is A
    assert classify(400).outcome is D


def test_the_inner_code_tells() -> None:
    """The outer "1" says that an operation failed; why is said inside, and an inner code counts with an outer "0" as well."""
    assert telling(1, 51008) == 51008 and telling(2, 51016) == 51016 and telling(0, 51020) == 51020
    assert telling(50011, 0) == 50011 and telling(0, 0) == 0 and telling(1, 0) == 1
    assert number("51008") == 51008 and number("") == -1 and number("5e4") == -1 and number("9" * 30) == -1


def test_sets_are_of_the_table() -> None:
    """Codes that are treated apart are known ones; a refusal for our rate did nothing."""
    assert LOGIN_CODES | RATE_CODES | set(CONTRACT.order_limit_codes) <= set(CODES)
    assert all(CODES[code][0] is R for code in RATE_CODES)
