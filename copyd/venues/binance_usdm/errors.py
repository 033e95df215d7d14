"""What an answer proves: accepted, definitely not accepted, or nothing (semantics 34).

The table is the whole truth: a code that is not in it is IN_DOUBT and counted, because a guess in either direction costs
a follower money. Message texts are never matched for WebSocket answers; for HTTP 503 the text is the venue's only
discriminator, and only the two texts that are documented as failed are taken as such.
"""

from __future__ import annotations

from collections import Counter

from copyd.venues.common.outcome import Outcome, Verdict, word_of

_REJECT, _DOUBT = Outcome.DEFINITE_REJECT, Outcome.IN_DOUBT

#: code -> (outcome, reason). One row per documented code of the order path.
CODES: dict[int, tuple[Outcome, str]] = {
    # -- server and network: nothing is known about the order
    -1000: (_DOUBT, "unknown_error"),
    -1001: (_DOUBT, "disconnected"),
    -1006: (_DOUBT, "unexpected_response"),
    -1007: (_DOUBT, "timeout"),
    -1016: (_DOUBT, "service_shutting_down"),
    # -- timing: speaks for one delivered copy only, so it settles by the fence like any doubt
    -1021: (_DOUBT, "timestamp_outside_recv_window"),
    -5028: (_DOUBT, "expired_before_engine"),
    # -- the id is already open: some transmission of it is alive
    -4116: (_DOUBT, "duplicate_client_order_id"),
    # -- says no more than that; on the sister market it is also what a duplicate gets
    -2010: (_DOUBT, "new_order_rejected"),
    # -- answers to other questions: as the answer to a placement they prove nothing about it
    -2011: (_DOUBT, "cancel_rejected"),
    -2013: (_DOUBT, "no_such_order"),
    # -- refused at the door: the request never became an order
    -1002: (_REJECT, "unauthorized"),
    -1003: (_REJECT, "too_many_requests"),
    -1004: (_REJECT, "duplicate_ip"),
    -1008: (_REJECT, "throttled"),
    -1010: (_REJECT, "malformed_request"),
    -1011: (_REJECT, "ip_not_allowed"),
    -1014: (_REJECT, "unknown_order_composition"),
    -1015: (_REJECT, "too_many_orders"),
    -1020: (_REJECT, "unsupported_operation"),
    -1022: (_REJECT, "signature"),
    -1023: (_REJECT, "malformed_request"),
    -1100: (_REJECT, "malformed_request"),
    -1101: (_REJECT, "malformed_request"),
    -1102: (_REJECT, "malformed_request"),
    -1103: (_REJECT, "malformed_request"),
    -1104: (_REJECT, "malformed_request"),
    -1105: (_REJECT, "malformed_request"),
    -1106: (_REJECT, "malformed_request"),
    -1111: (_REJECT, "precision"),
    -1112: (_REJECT, "no_book"),
    -1114: (_REJECT, "malformed_request"),
    -1115: (_REJECT, "malformed_request"),
    -1116: (_REJECT, "malformed_request"),
    -1117: (_REJECT, "malformed_request"),
    -1118: (_REJECT, "malformed_request"),
    -1119: (_REJECT, "malformed_request"),
    -1121: (_REJECT, "unknown_symbol"),
    -1128: (_REJECT, "malformed_request"),
    -1130: (_REJECT, "malformed_request"),
    -2014: (_REJECT, "key_format"),
    -2015: (_REJECT, "key_refused"),
    -2018: (_REJECT, "balance"),
    -2019: (_REJECT, "margin"),
    -2020: (_REJECT, "unable_to_fill"),
    -2021: (_REJECT, "would_trigger_at_once"),
    -2022: (_REJECT, "reduce_only"),
    -2023: (_REJECT, "in_liquidation"),
    -2024: (_REJECT, "position_not_sufficient"),
    -2025: (_REJECT, "open_orders_max"),
    -2026: (_REJECT, "reduce_only_type"),
    -2027: (_REJECT, "position_above_leverage_max"),
    -2028: (_REJECT, "leverage_too_small"),
    -4000: (_REJECT, "order_type"),
    -4001: (_REJECT, "price"),
    -4002: (_REJECT, "price_above_max"),
    -4003: (_REJECT, "quantity_not_positive"),
    -4004: (_REJECT, "quantity_below_min"),
    -4005: (_REJECT, "quantity_above_max"),
    -4006: (_REJECT, "stop_price"),
    -4013: (_REJECT, "price_below_min"),
    -4014: (_REJECT, "price_tick"),
    -4015: (_REJECT, "client_order_id_format"),
    -4016: (_REJECT, "price_above_band"),
    -4023: (_REJECT, "quantity_step"),
    -4024: (_REJECT, "price_below_band"),
    -4045: (_REJECT, "stop_orders_max"),
    -4055: (_REJECT, "amount_not_positive"),
    -4060: (_REJECT, "position_side_value"),
    -4061: (_REJECT, "position_side"),
    -4062: (_REJECT, "reduce_only_in_hedge"),
    -4082: (_REJECT, "batch_size"),
    -4087: (_REJECT, "reduce_only_permission"),
    -4088: (_REJECT, "no_place_permission"),
    -4103: (_REJECT, "account_not_open"),
    -4105: (_REJECT, "account_not_open"),
    -4109: (_REJECT, "inactive_account"),
    -4115: (_REJECT, "client_order_id_format"),
    -4118: (_REJECT, "reduce_only_margin"),
    -4120: (_REJECT, "wrong_order_service"),
    -4131: (_REJECT, "percent_price"),
    -4135: (_REJECT, "activation_price"),
    -4137: (_REJECT, "quantity_with_close_position"),
    -4138: (_REJECT, "reduce_only_with_close_position"),
    -4140: (_REJECT, "symbol_status"),
    -4141: (_REJECT, "symbol_closed"),
    -4144: (_REJECT, "self_trade_pair"),
    -4164: (_REJECT, "min_notional"),
    -4165: (_REJECT, "time_interval"),
    -4183: (_REJECT, "price_above_band"),
    -4184: (_REJECT, "price_below_band"),
    -4192: (_REJECT, "cooling_off"),
    -4400: (_REJECT, "trading_ban"),
    -4401: (_REJECT, "trading_ban"),
    -5021: (_REJECT, "fok_not_filled"),
    -5022: (_REJECT, "post_only_would_take"),
    -5041: (_REJECT, "depth_too_small"),
}

#: "No such order": an answer to a *query*, never to a placement.
NOT_FOUND_CODES = frozenset({-2013})
NO_CHANGE_CODES = frozenset({-4046, -4059})
LISTEN_KEY_UNKNOWN = -1125

#: The two bodies of HTTP 503 that are documented as "failed"; every other 5xx is unknown.
_FAILED_503 = ("Service Unavailable.", "Internal error; unable to process")

#: Codes seen that the table does not know, for the counter that alarms.
unknown_codes: Counter[int] = Counter()


def classify(status: int, code: int = 0, message: str = "") -> Verdict:
    """What the answer to a new order proves. ``status`` is the HTTP status or the WS-API ``status`` (same numbers)."""
    if status == 200 and code == 0:
        return Verdict(Outcome.ACCEPTED, "")
    if status >= 500 and code not in (-1008,):
        # Whatever code came with it, a 5xx says that the venue does not know either, but for two documented bodies.
        if status == 503 and code == 0 and message.startswith(_FAILED_503):
            return Verdict(Outcome.DEFINITE_REJECT, "service_unavailable", code)
        if status == 503 and message.startswith(_FAILED_503[1]):
            return Verdict(Outcome.DEFINITE_REJECT, "throttled", code)
        return Verdict(Outcome.IN_DOUBT, "server_error", code)
    known = CODES.get(code)
    if known is not None:
        return Verdict(known[0], known[1], code)
    if code == 0 and status in (401, 403, 418, 429):
        # Refused by the firewall or the limiter in front of the engine; the body carries no code.
        return Verdict(Outcome.DEFINITE_REJECT, "refused_at_edge", 0)
    unknown_codes[code] += 1
    return Verdict(Outcome.IN_DOUBT, "unknown_code", code)


def reason_of(code: int) -> str:
    """The word for a venue code, as in ``venue_rejected:<reason>``; our own outcomes carry code 0."""
    return word_of(CODES, code)
