"""What an answer proves: accepted, definitely not accepted, or nothing (semantics 34).

The table is the whole truth: a code that is not in it is IN_DOUBT and counted, because a guess in either direction costs
a follower money. The venue answers business errors with HTTP 200 and a ``retCode``; its texts vary and are never matched.
"""

from __future__ import annotations

from collections import Counter

from copyd.venues.common.outcome import Outcome, Verdict, word_of

_REJECT, _DOUBT = Outcome.DEFINITE_REJECT, Outcome.IN_DOUBT

#: code -> (outcome, reason). One row per documented code of the order path, of logins and of the account calls we make.
CODES: dict[int, tuple[Outcome, str]] = {
    # -- server and network: nothing is known about the order
    429: (_DOUBT, "server_busy"),
    5004: (_DOUBT, "timeout"),
    10000: (_DOUBT, "timeout"),
    10016: (_DOUBT, "internal_error"),
    10019: (_DOUBT, "service_restarting"),
    10429: (_DOUBT, "server_busy"),
    110079: (_DOUBT, "order_in_process"),
    170001: (_DOUBT, "internal_error"),
    170007: (_DOUBT, "timeout"),
    170032: (_DOUBT, "network_error"),
    170035: (_DOUBT, "order_in_process"),
    170146: (_DOUBT, "timeout"),
    170147: (_DOUBT, "timeout"),
    170149: (_DOUBT, "order_creation"),
    170195: (_DOUBT, "price_far"),
    170196: (_DOUBT, "price_far"),
    170234: (_DOUBT, "internal_error"),
    # -- timing: speaks for one delivered copy only, so it settles by the fence like any doubt
    -1: (_DOUBT, "request_expired"),
    10002: (_DOUBT, "timestamp_outside_recv_window"),
    # -- the id or the request is known already: some transmission of it is alive
    10014: (_DOUBT, "duplicate_request"),
    12141: (_DOUBT, "duplicate_client_order_id"),
    20006: (_DOUBT, "duplicate_request"),
    110030: (_DOUBT, "duplicate_order_id"),
    110072: (_DOUBT, "duplicate_client_order_id"),
    170141: (_DOUBT, "duplicate_client_order_id"),
    # -- answers to other questions: as the answer to a placement they prove nothing about it
    110001: (_DOUBT, "no_such_order"),
    110008: (_DOUBT, "order_finished"),
    110010: (_DOUBT, "order_cancelled"),
    110019: (_DOUBT, "order_id"),
    170139: (_DOUBT, "order_filled"),
    170142: (_DOUBT, "order_cancelled"),
    170143: (_DOUBT, "order_not_in_book"),
    170144: (_DOUBT, "order_locked"),
    170145: (_DOUBT, "cancel_rejected"),
    170150: (_DOUBT, "cancel_rejected"),
    170190: (_DOUBT, "order_finished"),
    170191: (_DOUBT, "cancel_rejected"),
    170213: (_DOUBT, "no_such_order"),
    # -- refused at the door: the request never became an order
    -2015: (_REJECT, "key_refused"),
    7001: (_REJECT, "malformed_request"),
    10001: (_REJECT, "malformed_request"),
    10003: (_REJECT, "key_refused"),
    10004: (_REJECT, "signature"),
    10005: (_REJECT, "permission"),
    10006: (_REJECT, "too_many_orders"),
    10007: (_REJECT, "unauthorized"),
    10008: (_REJECT, "account_banned"),
    10009: (_REJECT, "ip_banned"),
    10010: (_REJECT, "ip_not_allowed"),
    10017: (_REJECT, "unsupported_operation"),
    10018: (_REJECT, "too_many_requests"),
    10020: (_REJECT, "account_mode"),
    10024: (_REJECT, "compliance"),
    10027: (_REJECT, "trading_ban"),
    10028: (_REJECT, "account_mode"),
    10029: (_REJECT, "unknown_symbol"),
    10403: (_REJECT, "too_many_requests"),
    10404: (_REJECT, "unsupported_operation"),
    20001: (_REJECT, "logged_in_already"),
    20003: (_REJECT, "too_many_requests"),
    33004: (_REJECT, "key_refused"),
    100028: (_REJECT, "account_mode"),
    12137: (_REJECT, "precision"),
    # -- perpetuals
    110003: (_REJECT, "price_above_band"),
    110004: (_REJECT, "balance"),
    110005: (_REJECT, "position_status"),
    110006: (_REJECT, "margin"),
    110007: (_REJECT, "margin"),
    110009: (_REJECT, "stop_orders_max"),
    110011: (_REJECT, "in_liquidation"),
    110012: (_REJECT, "margin"),
    110013: (_REJECT, "position_above_leverage_max"),
    110014: (_REJECT, "margin"),
    110015: (_REJECT, "margin_mode"),
    110016: (_REJECT, "position_above_leverage_max"),
    110017: (_REJECT, "reduce_only"),
    110018: (_REJECT, "malformed_request"),
    110020: (_REJECT, "open_orders_max"),
    110021: (_REJECT, "open_interest"),
    110022: (_REJECT, "quantity_above_max"),
    110023: (_REJECT, "close_only"),
    110024: (_REJECT, "position_open"),
    110025: (_REJECT, "no_change"),
    110026: (_REJECT, "no_change"),
    110027: (_REJECT, "no_change"),
    110028: (_REJECT, "orders_open"),
    110029: (_REJECT, "position_mode"),
    110031: (_REJECT, "risk_limit"),
    110032: (_REJECT, "malformed_request"),
    110033: (_REJECT, "no_position"),
    110034: (_REJECT, "no_position"),
    110035: (_REJECT, "in_liquidation"),
    110036: (_REJECT, "margin_mode"),
    110037: (_REJECT, "unknown_symbol"),
    110038: (_REJECT, "margin_mode"),
    110039: (_REJECT, "in_liquidation"),
    110040: (_REJECT, "in_liquidation"),
    110041: (_REJECT, "in_liquidation"),
    110042: (_REJECT, "close_only"),
    110043: (_REJECT, "no_change"),
    110044: (_REJECT, "margin"),
    110045: (_REJECT, "balance"),
    110046: (_REJECT, "in_liquidation"),
    110047: (_REJECT, "margin"),
    110048: (_REJECT, "position_above_leverage_max"),
    110049: (_REJECT, "malformed_request"),
    110050: (_REJECT, "malformed_request"),
    110051: (_REJECT, "margin"),
    110052: (_REJECT, "margin"),
    110053: (_REJECT, "margin"),
    110057: (_REJECT, "stop_price"),
    110059: (_REJECT, "stop_price"),
    110063: (_REJECT, "symbol_status"),
    110064: (_REJECT, "quantity_below_min"),
    110066: (_REJECT, "symbol_status"),
    110067: (_REJECT, "account_mode"),
    110068: (_REJECT, "trading_ban"),
    110069: (_REJECT, "trading_ban"),
    110070: (_REJECT, "symbol_status"),
    110071: (_REJECT, "account_mode"),
    110073: (_REJECT, "margin_mode"),
    110074: (_REJECT, "symbol_status"),
    110090: (_REJECT, "position_above_leverage_max"),
    110092: (_REJECT, "would_trigger_at_once"),
    110093: (_REJECT, "would_trigger_at_once"),
    110094: (_REJECT, "min_notional"),
    130000: (_REJECT, "malformed_request"),
    # -- spot
    170005: (_REJECT, "too_many_orders"),
    170010: (_REJECT, "quantity_above_max"),
    170011: (_REJECT, "quantity_above_max"),
    170019: (_REJECT, "balance"),
    170031: (_REJECT, "account_mode"),
    170033: (_REJECT, "margin"),
    170034: (_REJECT, "margin"),
    170036: (_REJECT, "malformed_request"),
    170037: (_REJECT, "malformed_request"),
    170105: (_REJECT, "malformed_request"),
    170115: (_REJECT, "malformed_request"),
    170116: (_REJECT, "order_type"),
    170117: (_REJECT, "malformed_request"),
    170121: (_REJECT, "unknown_symbol"),
    170124: (_REJECT, "quantity_above_max"),
    170130: (_REJECT, "malformed_request"),
    170131: (_REJECT, "balance"),
    170132: (_REJECT, "price_above_max"),
    170133: (_REJECT, "price_below_min"),
    170134: (_REJECT, "price_tick"),
    170135: (_REJECT, "quantity_above_max"),
    170136: (_REJECT, "quantity_below_min"),
    170137: (_REJECT, "quantity_step"),
    170140: (_REJECT, "min_notional"),
    170148: (_REJECT, "precision"),
    170151: (_REJECT, "symbol_status"),
    170157: (_REJECT, "symbol_status"),
    170159: (_REJECT, "symbol_status"),
    170192: (_REJECT, "price_above_band"),
    170193: (_REJECT, "price_above_band"),
    170194: (_REJECT, "price_below_band"),
    170197: (_REJECT, "quantity_above_max"),
    170198: (_REJECT, "quantity_above_max"),
    170199: (_REJECT, "quantity_above_max"),
    170200: (_REJECT, "quantity_above_max"),
    170201: (_REJECT, "trading_ban"),
    170202: (_REJECT, "malformed_request"),
    170203: (_REJECT, "malformed_request"),
    170204: (_REJECT, "stop_price"),
    170206: (_REJECT, "stop_price"),
    170209: (_REJECT, "compliance"),
    170210: (_REJECT, "quantity_above_max"),
    170217: (_REJECT, "post_only_would_take"),
    170218: (_REJECT, "post_only_would_take"),
    170221: (_REJECT, "unknown_symbol"),
    170222: (_REJECT, "too_many_requests"),
    170223: (_REJECT, "balance"),
    170224: (_REJECT, "compliance"),
    170226: (_REJECT, "balance"),
    170228: (_REJECT, "quantity_above_max"),
    170229: (_REJECT, "open_interest"),
    170241: (_REJECT, "compliance"),
    170227: (_REJECT, "unsupported_operation"),
    170371: (_REJECT, "price_below_band"),
    170372: (_REJECT, "price_above_band"),
    170810: (_REJECT, "open_orders_max"),
    170811: (_REJECT, "stop_orders_max"),
    # -- settings of the account
    3400045: (_REJECT, "margin_mode"),
    3400052: (_REJECT, "margin_mode"),
    3400053: (_REJECT, "margin_mode"),
}

#: "Nothing to change" is success: leverage, position mode, margin mode.
NO_CHANGE_CODES = frozenset({110025, 110026, 110027, 110043})
#: Refusals for our rate: of one account, and of the address.
ACCOUNT_LIMIT_CODES = frozenset({10006, 170005, 170222})
ADDRESS_LIMIT_CODES = frozenset({10018, 10403})

#: Codes seen that the table does not know, for the counter that alarms.
unknown_codes: Counter[int] = Counter()


def classify(status: int, code: int) -> Verdict:
    """What the answer to a new order proves. ``status``: of HTTP, 200 for a WebSocket answer; ``code``: its ``retCode``."""
    if status >= 500:
        return Verdict(Outcome.IN_DOUBT, "server_error", code)
    if status == 200 and code == 0:
        return Verdict(Outcome.ACCEPTED, "")
    known = CODES.get(code)
    if known is not None:
        return Verdict(known[0], known[1], code)
    if code == 0 and status in (400, 401, 403, 404):
        # Refused by what stands before the engine; the body carries no code.
        return Verdict(Outcome.DEFINITE_REJECT, "refused_at_edge", 0)
    unknown_codes[code] += 1
    return Verdict(Outcome.IN_DOUBT, "unknown_code", code)


def reason_of(code: int) -> str:
    """The word for a venue code, as in ``venue_rejected:<reason>``; our own outcomes carry code 0."""
    return word_of(CODES, code)
