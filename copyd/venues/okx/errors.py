"""What an answer proves: accepted, definitely not accepted, or nothing (semantics 34).

The venue answers a business failure with HTTP 200, an outer ``code`` of "1" (or "2": some of a batch) and the reason in
``data[0].sCode``: ``telling`` picks the code that says something. The table is the whole truth: a code that is not in it is
IN_DOUBT and counted, because a guess in either direction costs a follower money. Message texts are never matched.
"""

from __future__ import annotations

from collections import Counter

from copyd.venues.common.outcome import Outcome, Verdict, word_of

_REJECT, _DOUBT = Outcome.DEFINITE_REJECT, Outcome.IN_DOUBT

#: code -> (outcome, reason). One row per documented code of the order path and of the account calls we make.
CODES: dict[int, tuple[Outcome, str]] = {
    # -- server and network: nothing is known about the order
    50001: (_DOUBT, "service_unavailable"),
    50004: (_DOUBT, "timeout"),
    50013: (_DOUBT, "busy"),
    50026: (_DOUBT, "system_error"),
    51054: (_DOUBT, "timeout"),
    51149: (_DOUBT, "timeout"),
    63999: (_DOUBT, "system_error"),
    64007: (_DOUBT, "system_error"),
    # -- timing: speaks for one delivered copy only, so it settles by the fence like any doubt
    50036: (_DOUBT, "expired"),
    50037: (_DOUBT, "expired"),
    50102: (_DOUBT, "timestamp_outside_recv_window"),
    50112: (_DOUBT, "timestamp_outside_recv_window"),
    60004: (_DOUBT, "timestamp_outside_recv_window"),
    60006: (_DOUBT, "timestamp_outside_recv_window"),
    # -- the id is already open: some transmission of it is alive
    50042: (_DOUBT, "duplicate_client_order_id"),
    50071: (_DOUBT, "duplicate_client_order_id"),
    51011: (_DOUBT, "duplicate_client_order_id"),
    51016: (_DOUBT, "duplicate_client_order_id"),
    51065: (_DOUBT, "duplicate_client_order_id"),
    51068: (_DOUBT, "duplicate_client_order_id"),
    # -- answers to other questions: as the answer to a placement they prove nothing about it
    51063: (_DOUBT, "no_such_order"),
    51400: (_DOUBT, "cancel_rejected"),
    51401: (_DOUBT, "cancel_rejected"),
    51402: (_DOUBT, "cancel_rejected"),
    51405: (_DOUBT, "cancel_rejected"),
    51410: (_DOUBT, "cancel_rejected"),
    51412: (_DOUBT, "cancel_rejected"),
    51503: (_DOUBT, "no_such_order"),
    51509: (_DOUBT, "no_such_order"),
    51510: (_DOUBT, "no_such_order"),
    51603: (_DOUBT, "no_such_order"),
    # -- refused at the door: the request never became an order
    50000: (_REJECT, "malformed_request"),
    50002: (_REJECT, "malformed_request"),
    50005: (_REJECT, "unsupported_operation"),
    50006: (_REJECT, "malformed_request"),
    50007: (_REJECT, "account_blocked"),
    50008: (_REJECT, "account_not_open"),
    50009: (_REJECT, "in_liquidation"),
    50010: (_REJECT, "malformed_request"),
    50011: (_REJECT, "too_many_requests"),
    50012: (_REJECT, "inactive_account"),
    50014: (_REJECT, "malformed_request"),
    50015: (_REJECT, "malformed_request"),
    50016: (_REJECT, "malformed_request"),
    50017: (_REJECT, "in_liquidation"),
    50018: (_REJECT, "in_liquidation"),
    50019: (_REJECT, "in_liquidation"),
    50020: (_REJECT, "in_liquidation"),
    50021: (_REJECT, "in_liquidation"),
    50022: (_REJECT, "in_liquidation"),
    50023: (_REJECT, "symbol_status"),
    50024: (_REJECT, "malformed_request"),
    50025: (_REJECT, "malformed_request"),
    50027: (_REJECT, "trading_ban"),
    50028: (_REJECT, "trading_ban"),
    50029: (_REJECT, "trading_ban"),
    50030: (_REJECT, "unauthorized"),
    50032: (_REJECT, "trading_ban"),
    50033: (_REJECT, "trading_ban"),
    50035: (_REJECT, "ip_not_bound"),
    50038: (_REJECT, "unsupported_operation"),
    50040: (_REJECT, "too_many_requests"),
    50041: (_REJECT, "unauthorized"),
    50046: (_REJECT, "unsupported_operation"),
    50051: (_REJECT, "region"),
    50052: (_REJECT, "region"),
    50053: (_REJECT, "unsupported_operation"),
    50059: (_REJECT, "region"),
    50060: (_REJECT, "identity_not_verified"),
    50061: (_REJECT, "too_many_orders"),
    50062: (_REJECT, "unsupported_operation"),
    50072: (_REJECT, "margin_type"),
    50075: (_REJECT, "trading_ban"),
    50100: (_REJECT, "key_refused"),
    50101: (_REJECT, "wrong_environment"),
    50103: (_REJECT, "key_format"),
    50104: (_REJECT, "key_format"),
    50105: (_REJECT, "passphrase"),
    50106: (_REJECT, "signature"),
    50107: (_REJECT, "malformed_request"),
    50108: (_REJECT, "malformed_request"),
    50109: (_REJECT, "malformed_request"),
    50110: (_REJECT, "ip_not_allowed"),
    50111: (_REJECT, "key_refused"),
    50113: (_REJECT, "signature"),
    50114: (_REJECT, "unauthorized"),
    50115: (_REJECT, "malformed_request"),
    50119: (_REJECT, "key_refused"),
    50120: (_REJECT, "unauthorized"),
    50121: (_REJECT, "ip_not_allowed"),
    51000: (_REJECT, "malformed_request"),
    51001: (_REJECT, "unknown_symbol"),
    51002: (_REJECT, "unknown_symbol"),
    51003: (_REJECT, "malformed_request"),
    51004: (_REJECT, "position_above_leverage_max"),
    51005: (_REJECT, "quantity_above_max"),
    51006: (_REJECT, "price_band"),
    51007: (_REJECT, "quantity_below_min"),
    51008: (_REJECT, "margin"),
    51009: (_REJECT, "trading_ban"),
    51010: (_REJECT, "account_mode"),
    51012: (_REJECT, "unknown_symbol"),
    51014: (_REJECT, "unknown_symbol"),
    51015: (_REJECT, "unknown_symbol"),
    51017: (_REJECT, "margin"),
    51020: (_REJECT, "quantity_below_min"),
    51021: (_REJECT, "symbol_status"),
    51022: (_REJECT, "symbol_status"),
    51023: (_REJECT, "position_not_sufficient"),
    51024: (_REJECT, "account_blocked"),
    51025: (_REJECT, "open_orders_max"),
    51026: (_REJECT, "unknown_symbol"),
    51027: (_REJECT, "symbol_closed"),
    51028: (_REJECT, "symbol_closed"),
    51029: (_REJECT, "symbol_status"),
    51030: (_REJECT, "symbol_status"),
    51031: (_REJECT, "price_band"),
    51032: (_REJECT, "in_liquidation"),
    51033: (_REJECT, "quantity_above_max"),
    51037: (_REJECT, "only_reducing_allowed"),
    51038: (_REJECT, "only_reducing_allowed"),
    51041: (_REJECT, "position_side"),
    51043: (_REJECT, "position_not_sufficient"),
    51056: (_REJECT, "unsupported_operation"),
    51087: (_REJECT, "symbol_closed"),
    51100: (_REJECT, "reduce_only_type"),
    51101: (_REJECT, "quantity_above_max"),
    51102: (_REJECT, "open_orders_max"),
    51103: (_REJECT, "open_orders_max"),
    51104: (_REJECT, "open_orders_max"),
    51105: (_REJECT, "position_max"),
    51106: (_REJECT, "position_max"),
    51107: (_REJECT, "position_max"),
    51108: (_REJECT, "quantity_above_max"),
    51109: (_REJECT, "no_book"),
    51110: (_REJECT, "order_type"),
    51111: (_REJECT, "batch_size"),
    51112: (_REJECT, "reduce_only"),
    51113: (_REJECT, "too_many_requests"),
    51115: (_REJECT, "open_orders_max"),
    51116: (_REJECT, "price_band"),
    51117: (_REJECT, "open_orders_max"),
    51118: (_REJECT, "quantity_below_min"),
    51119: (_REJECT, "balance"),
    51120: (_REJECT, "quantity_below_min"),
    51121: (_REJECT, "quantity_step"),
    51122: (_REJECT, "price_below_min"),
    51123: (_REJECT, "symbol_status"),
    51124: (_REJECT, "order_type"),
    51127: (_REJECT, "balance"),
    51128: (_REJECT, "account_mode"),
    51129: (_REJECT, "position_max"),
    51130: (_REJECT, "malformed_request"),
    51131: (_REJECT, "balance"),
    51132: (_REJECT, "quantity_below_min"),
    51133: (_REJECT, "reduce_only_type"),
    51134: (_REJECT, "reduce_only"),
    51135: (_REJECT, "price_above_band"),
    51136: (_REJECT, "price_below_band"),
    51137: (_REJECT, "price_above_band"),
    51138: (_REJECT, "price_below_band"),
    51139: (_REJECT, "reduce_only_type"),
    51140: (_REJECT, "no_book"),
    51142: (_REJECT, "no_book"),
    51143: (_REJECT, "quantity_below_min"),
    51148: (_REJECT, "reduce_only"),
    51150: (_REJECT, "precision"),
    51155: (_REJECT, "region"),
    51169: (_REJECT, "reduce_only"),
    51170: (_REJECT, "reduce_only"),
    51174: (_REJECT, "open_orders_max"),
    51185: (_REJECT, "quantity_above_max"),
    51186: (_REJECT, "leverage_above_max"),
    51187: (_REJECT, "position_max"),
    51196: (_REJECT, "order_type"),
    51197: (_REJECT, "order_type"),
    51201: (_REJECT, "quantity_above_max"),
    51202: (_REJECT, "quantity_above_max"),
    51203: (_REJECT, "quantity_above_max"),
    51204: (_REJECT, "price"),
    51205: (_REJECT, "reduce_only"),
    51206: (_REJECT, "reduce_only"),
    51207: (_REJECT, "quantity_above_max"),
    51209: (_REJECT, "only_reducing_allowed"),
    51210: (_REJECT, "only_reducing_allowed"),
    51211: (_REJECT, "only_reducing_allowed"),
    51212: (_REJECT, "batch_size"),
    51213: (_REJECT, "only_reducing_allowed"),
    51341: (_REJECT, "trading_ban"),
    # -- settings
    59000: (_REJECT, "open_orders_or_positions"),
    59001: (_REJECT, "open_orders_or_positions"),
    59002: (_REJECT, "open_orders_or_positions"),
    59100: (_REJECT, "open_orders_or_positions"),
    59101: (_REJECT, "open_orders_or_positions"),
    59102: (_REJECT, "leverage_above_max"),
    59103: (_REJECT, "leverage_too_small"),
    59104: (_REJECT, "leverage_above_max"),
    59105: (_REJECT, "leverage_too_small"),
    59106: (_REJECT, "leverage_above_max"),
    59107: (_REJECT, "open_orders_or_positions"),
    59108: (_REJECT, "leverage_too_small"),
    59109: (_REJECT, "leverage_too_small"),
    59111: (_REJECT, "account_mode"),
    59112: (_REJECT, "open_orders_or_positions"),
    59668: (_REJECT, "open_orders_or_positions"),
    59669: (_REJECT, "open_orders_or_positions"),
    59670: (_REJECT, "open_orders_or_positions"),
    # -- the connection itself
    60005: (_REJECT, "key_refused"),
    60007: (_REJECT, "signature"),
    60008: (_REJECT, "unsupported_operation"),
    60009: (_REJECT, "login_failed"),
    60011: (_REJECT, "not_logged_in"),
    60012: (_REJECT, "malformed_request"),
    60013: (_REJECT, "malformed_request"),
    60014: (_REJECT, "too_many_requests"),
    60018: (_REJECT, "unsupported_operation"),
    60019: (_REJECT, "unsupported_operation"),
    60023: (_REJECT, "too_many_requests"),
    60024: (_REJECT, "passphrase"),
    60026: (_REJECT, "unsupported_operation"),
    60027: (_REJECT, "malformed_request"),
    60028: (_REJECT, "unsupported_operation"),
    60031: (_REJECT, "already_logged_in"),
    60032: (_REJECT, "key_refused"),
    60033: (_REJECT, "malformed_request"),
    64003: (_REJECT, "unauthorized"),
}

#: "No such order": an answer to a *query*, never to a placement.
NOT_FOUND_CODES = frozenset({51603})
#: Refusals for our rate, which the venue counts per account: nothing was done.
RATE_CODES = frozenset({50011, 50040, 50061, 60014, 60023})
#: Error events on a connection that are the answer to a login.
LOGIN_CODES = frozenset({60004, 60005, 60006, 60007, 60009, 60011, 60023, 60024, 60026, 60031, 60032, 63999})

#: Codes seen that the table does not know, for the counter that alarms.
unknown_codes: Counter[int] = Counter()


def number(text: str) -> int:
    """A code as the venue writes it (a text of digits); -1 for any other text, which no table has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1


def telling(outer: int, inner: int) -> int:
    """The code that says what happened: "1" and "2" only say that ``sCode`` does."""
    return inner if inner and outer in (0, 1, 2) else outer


def classify(status: int, code: int = 0) -> Verdict:
    """What the answer to a new order proves. ``status``: of HTTP, 200 on a WebSocket; ``code``: the telling one."""
    if status == 200 and code == 0:
        return Verdict(Outcome.ACCEPTED, "")
    known = CODES.get(code)
    if status >= 500:
        # Whatever code came with it, a 5xx says that the venue does not know either.
        return Verdict(Outcome.IN_DOUBT, known[1] if known is not None and known[0] is _DOUBT else "server_error", max(code, 0))
    if known is not None:
        return Verdict(known[0], known[1], code)
    if code == 0 and status in (401, 403, 429):
        # Refused by the firewall or the limiter in front of the venue; the body carries no code.
        return Verdict(Outcome.DEFINITE_REJECT, "refused_at_edge", 0)
    unknown_codes[code] += 1
    return Verdict(Outcome.IN_DOUBT, "unknown_code", max(code, 0))


def reason_of(code: int) -> str:
    """The word for a venue code, as in ``venue_rejected:<reason>``; our own outcomes carry code 0."""
    return word_of(CODES, code)
