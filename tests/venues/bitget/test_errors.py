"""What each answer proves: one row per code, and unknown is always in doubt (semantics 34)."""

from __future__ import annotations

import pytest

from copyd.venues.bitget.contract import CONTRACT
from copyd.venues.bitget.errors import (
    ACCOUNT_LIMIT_CODES,
    ADDRESS_LIMIT_CODES,
    CODES,
    NO_CHANGE_CODES,
    NOT_FOUND_CODES,
    classify,
    code_of,
    reason_of,
    unknown_codes,
)
from copyd.venues.common.outcome import Outcome

A, R, D = Outcome.ACCEPTED, Outcome.DEFINITE_REJECT, Outcome.IN_DOUBT

#: (outcome, reason) -> the venue's codes, as it writes them; written from its tables, not from the one under test
TABLE: dict[tuple[Outcome, str], str] = {
    (D, "timeout"): "40010 40910 25001",
    (D, "unknown_error"): "40015 40604 40725 43059 45001 50031 25000",
    (D, "service_shutting_down"): "40200",
    (D, "concurrent_operation"): "40908 25003",
    (D, "timestamp_outside_recv_window"): "40004 40005 40008 30013 30014",
    (D, "expired_before_engine"): "40078",
    (D, "duplicate_client_order_id"): "40786 43118 45034 50060 25212",
    (D, "new_order_rejected"): "43002 43003 45023 70229",
    (D, "cancel_rejected"): "22001 43004 45024 45055",
    (D, "order_finalized"): "45031 50062",
    (D, "no_such_order"): "40109 40768 43001 45057 25204",
    (R, "too_many_orders"): "429 25004 22035 40918 70228",
    (R, "too_many_requests"): "30006 30007",
    (R, "key_format"): "40001",
    (R, "signature"): "40002 40003 40009 30015",
    (R, "key_refused"): "40006 40012 40037 40041 30011",
    (R, "passphrase"): "40011 40036 30012",
    (R, "permission"): "40014 40025 40301 25620",
    (R, "ip_not_allowed"): "40018 40038 22010",
    (R, "unified_account"): "40085",
    (R, "classic_account"): "25245",
    (R, "wrong_environment"): "40099",
    (R, "unauthorized"): "30004 30005",
    (R, "region"): "40000 40103 40104 40111",
    (R, "identity_check"): "40035 40101",
    (R, "inactive_account"): "40013 40024 40026 40031 40710 40760 25006 25007",
    (R, "trading_ban"): "40022 40023 40199 40752 40753 40916 45107 45108 70227",
    (R, "account_not_open"): "40807 45019 25005",
    (R, "in_liquidation"): "45009 25008 25012",
    (R, "time_interval"): "00001 40704 40705 40707",
    (R, "malformed_request"): "01001 01003 30002 30016 40007 40017 400171 400172 40019 40020 40034 40053 40057 40064 40079 40408 "
    "40409 40724 40808 40811 40812 40813 40913 40924 41002 41100 41101 41103 43011 43058 43111 48001 48002 50061 25200 25238",
    (R, "precision"): "01002 25610",
    (R, "unsupported_operation"): "30001 30003 40404 40805 25002 25240",
    (R, "client_order_id_format"): "40304 40305 40402",
    (R, "batch_size"): "40306",
    (R, "balance"): "40711 40756 40798 43012 43132 45002 45008 50020 25202",
    (R, "margin"): "40712 40754 40762 40800 45120 25203 25219",
    (R, "leverage_too_small"): "40893 25228",
    (R, "reduce_only"): "22002 40717 40804 40939 43043 25227 25232 25574",
    (R, "position_not_sufficient"): "40746 40755 40757 40758 40867 43029 45003 45005 45006 25225 25226 25231",
    (R, "closing_stopped"): "40931 22043",
    (R, "position_side"): "40774 43075 45018 45020 45021 45026 45109 25236 25237",
    (R, "position_or_orders_exist"): "40920 45117 25010",
    (R, "margin_mode"): "40716 22005 40778 45025",
    (R, "leverage_with_orders"): "40730 45097",
    (R, "leverage_with_position"): "22020",
    (R, "leverage_value"): "43050 45044 45045 25223",
    (R, "leverage_unchanged"): "40814 45054",
    (R, "min_notional"): "22034 43010 43027 43037 43042 45110 45114 25611",
    (R, "quantity_below_min"): "43006 45111 25207",
    (R, "quantity_above_max"): "43007 43038 43041 45112 45113 25208 25241",
    (R, "quantity_step"): "22038",
    (R, "position_above_leverage_max"): "22029 40715 40921 40928 45116 25229 25230 25233 25235",
    (R, "price"): "40706",
    (R, "price_tick"): "43028 45035 45115 25244",
    (R, "price_below_min"): "43008 43040",
    (R, "price_above_max"): "43009 43039",
    (R, "price_above_band"): "22006 22008 40748 40815 40821 25206 25654",
    (R, "price_below_band"): "22007 22009 40816 40820 25205 25655",
    (R, "percent_price"): "40722 40826 45121 25210",
    (R, "symbol_status"): "22004 22067 40721 40824 40844 40878 41114 43115 45043 45119 25013 25101 25102 25105 25108",
    (R, "symbol_closed"): "22039 22040 22041 40309 40845 25104",
    (R, "unknown_symbol"): "22012 40072 40102 40822 42016 43048 25100 25201",
    (R, "depth_too_small"): "22045 70220 25209",
    (R, "no_book"): "40720 40823 40825 25222",
    (R, "open_orders_max"): "40723 40761 43005 43128 45118 70223 25211 25567",
}
ROWS = [(code, outcome, reason) for (outcome, reason), codes in TABLE.items() for code in codes.split()]


@pytest.mark.parametrize(("code", "outcome", "reason"), ROWS)
def test_each_documented_answer(code: str, outcome: Outcome, reason: str) -> None:
    """A code says the same with the HTTP statuses a business error comes with; behind a 5xx it says nothing."""
    number = code_of(code)
    for status in (200, 400, 403, 429):
        assert classify(status, number) == (outcome, reason, number)
    assert classify(502, number) == (D, "server_error", number)
    assert reason_of(number) == reason


def test_the_table_and_its_tests_have_the_same_rows() -> None:
    """One row per code, one test per row."""
    assert sorted(code_of(code) for code, _, _ in ROWS) == sorted(CODES)


@pytest.mark.parametrize(("status", "code", "outcome", "reason"), [
    (200, 0, A, ""), (400, 0, D, "unknown_code"), (200, 99_999, D, "unknown_code"), (400, -1, D, "unknown_code"),
    (401, 0, R, "refused_at_edge"), (403, 0, R, "refused_at_edge"), (418, 0, R, "refused_at_edge"),
    (429, 0, R, "refused_at_edge"), (500, 0, D, "server_error"), (503, 43_012, D, "server_error"), (504, 0, D, "server_error"),
])  # fmt: skip
def test_answers_without_a_code_we_know(status: int, code: int, outcome: Outcome, reason: str) -> None:
    """The edge refuses before the engine; anything else unknown is in doubt."""
    assert classify(status, code)[:2] == (outcome, reason)


def test_unknown_codes_are_counted() -> None:
    """Each unknown code is counted, so that somebody hears of it."""
    before = unknown_codes[77_777]
    classify(400, 77_777)
    assert unknown_codes[77_777] == before + 1


@pytest.mark.parametrize(("text", "number"), [
    ("00000", 0), ("0", 0), (0, 0), ("01002", 1002), ("400172", 400_172), (30015, 30015), ("", -1), (None, -1), ("4.5", -1),
    ("-1", -1), ("invalid", -1), ("９", -1), ("1" * 40, -1),
])  # fmt: skip
def test_codes_are_numbers_or_nothing(text: str | int | None, number: int) -> None:
    """The venue writes codes as texts, numbers and with leading zeros; anything else is no code."""
    assert code_of(text) == number


def test_sets_of_codes_are_rows_of_the_table() -> None:
    """Codes with a meaning besides are in the table, and account limits are those the contract names."""
    for codes in (NOT_FOUND_CODES, NO_CHANGE_CODES, ADDRESS_LIMIT_CODES, ACCOUNT_LIMIT_CODES):
        assert codes <= CODES.keys()
    assert set(CONTRACT.order_limit_codes) <= ACCOUNT_LIMIT_CODES
    assert all(CODES[code][0] is D for code in NOT_FOUND_CODES), "as the answer to a placement it proves nothing"
