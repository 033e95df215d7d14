"""What an answer proves: accepted, definitely not accepted, or nothing (semantics 34).

The tables are the whole truth: what is not in them is IN_DOUBT and counted, because a guess in either direction costs a follower
money. Message texts are matched here and nowhere else, because two codes of this market say nothing without them:

- -2010 (and -1010), "the matching engine has refused", is a refusal for want of balance as well as the answer to an id that
  is open already, and so to an order that lives. Only texts of ``ENGINE_TEXTS`` settle it; any other leaves the doubt.
- -1013, "did not reach the matching engine", is a refusal whatever it says; the text only gives the reason's word.
"""

from __future__ import annotations

from collections import Counter

from copyd.venues.common.outcome import Outcome, Verdict, word_of

_REJECT, _DOUBT = Outcome.DEFINITE_REJECT, Outcome.IN_DOUBT

#: code -> (outcome, reason). One row per documented code of the order path and of account calls.
CODES: dict[int, tuple[Outcome, str]] = {
    # -- server and network: nothing is known about the order
    -1000: (_DOUBT, "unknown_error"),
    -1001: (_DOUBT, "disconnected"),
    -1006: (_DOUBT, "unexpected_response"),
    -1007: (_DOUBT, "timeout"),
    -1016: (_DOUBT, "service_shutting_down"),
    # -- timing: speaks for one delivered copy only, so it settles by the fence like any doubt
    -1021: (_DOUBT, "timestamp_outside_recv_window"),
    # -- the matching engine's; told apart by the text (ENGINE_TEXTS)
    -1010: (_DOUBT, "new_order_rejected"),
    -2010: (_DOUBT, "new_order_rejected"),
    # -- answers to other questions: as the answer to a placement they prove nothing about it
    -2011: (_DOUBT, "cancel_rejected"),
    -2013: (_DOUBT, "no_such_order"),
    -2021: (_DOUBT, "cancel_replace_partly"),
    -2022: (_DOUBT, "cancel_replace"),
    -2026: (_DOUBT, "order_archived"),
    -2035: (_DOUBT, "subscribed_already"),
    -2036: (_DOUBT, "not_subscribed"),
    # -- refused at the door: the request never became an order
    -1002: (_REJECT, "unauthorized"),
    -1003: (_REJECT, "too_many_requests"),
    -1008: (_REJECT, "throttled"),
    -1013: (_REJECT, "filter"),
    -1014: (_REJECT, "unknown_order_composition"),
    -1015: (_REJECT, "too_many_orders"),
    -1020: (_REJECT, "unsupported_operation"),
    -1022: (_REJECT, "signature"),
    -1100: (_REJECT, "malformed_request"),
    -1101: (_REJECT, "malformed_request"),
    -1102: (_REJECT, "malformed_request"),
    -1103: (_REJECT, "malformed_request"),
    -1104: (_REJECT, "malformed_request"),
    -1105: (_REJECT, "malformed_request"),
    -1106: (_REJECT, "malformed_request"),
    -1108: (_REJECT, "malformed_request"),
    -1111: (_REJECT, "precision"),
    -1112: (_REJECT, "no_book"),
    -1114: (_REJECT, "malformed_request"),
    -1115: (_REJECT, "malformed_request"),
    -1116: (_REJECT, "malformed_request"),
    -1117: (_REJECT, "malformed_request"),
    -1118: (_REJECT, "malformed_request"),
    -1119: (_REJECT, "malformed_request"),
    -1121: (_REJECT, "unknown_symbol"),
    -1122: (_REJECT, "malformed_request"),
    -1127: (_REJECT, "time_interval"),
    -1128: (_REJECT, "malformed_request"),
    -1130: (_REJECT, "malformed_request"),
    -1131: (_REJECT, "malformed_request"),
    -1134: (_REJECT, "malformed_request"),
    -1135: (_REJECT, "malformed_request"),
    -2014: (_REJECT, "key_format"),
    -2015: (_REJECT, "key_refused"),
}

#: Codes of the matching engine: what they mean stands in the message.
ENGINE_CODES = frozenset({-1010, -2010})

#: message of the matching engine, without its full stop -> (outcome, reason)
ENGINE_TEXTS: dict[str, tuple[Outcome, str]] = {
    "Duplicate order sent": (_DOUBT, "duplicate_client_order_id"),
    "Account has insufficient balance for requested action": (_REJECT, "balance"),
    "Market is closed": (_REJECT, "symbol_closed"),
    "Market orders are not supported for this symbol": (_REJECT, "order_type"),
    "Iceberg orders are not supported for this symbol": (_REJECT, "order_type"),
    "Stop loss orders are not supported for this symbol": (_REJECT, "order_type"),
    "Stop loss limit orders are not supported for this symbol": (_REJECT, "order_type"),
    "Take profit orders are not supported for this symbol": (_REJECT, "order_type"),
    "Take profit limit orders are not supported for this symbol": (_REJECT, "order_type"),
    "Trailing stop orders are not supported for this symbol": (_REJECT, "order_type"),
    "OCO orders are not supported for this symbol": (_REJECT, "order_type"),
    "Quote order qty market orders are not support for this symbol": (_REJECT, "order_type"),
    "Unsupported order combination": (_REJECT, "unknown_order_composition"),
    "Price * QTY is zero or less": (_REJECT, "min_notional"),
    "IcebergQty exceeds QTY": (_REJECT, "quantity_above_max"),
    "This action is disabled on this account": (_REJECT, "trading_ban"),
    "This account may not place or cancel orders": (_REJECT, "trading_ban"),
    "This symbol is not permitted for this account": (_REJECT, "symbol_not_permitted"),
    "This symbol is restricted for this account": (_REJECT, "symbol_not_permitted"),
    "Rest API trading is not enabled": (_REJECT, "no_place_permission"),
    "WebSocket API trading is not enabled": (_REJECT, "no_place_permission"),
    "Order would trigger immediately": (_REJECT, "would_trigger_at_once"),
    "Order would immediately match and take": (_REJECT, "post_only_would_take"),
    "The relationship of the prices for the orders is not correct": (_REJECT, "price"),
    "Order book liquidity is less than LOT_SIZE filter minimum quantity": (_REJECT, "no_book"),
    "Order book liquidity is less than MARKET_LOT_SIZE filter minimum quantity": (_REJECT, "no_book"),
    "Order book liquidity is less than symbol minimum quantity": (_REJECT, "no_book"),
}

FILTER_TEXT = "Filter failure: "
#: name of the filter in a -1013 -> reason
FILTERS: dict[str, str] = {
    "PRICE_FILTER": "price_tick",
    "PERCENT_PRICE": "percent_price",
    "PERCENT_PRICE_BY_SIDE": "percent_price",
    "LOT_SIZE": "quantity_step",
    "MARKET_LOT_SIZE": "quantity_step",
    "MIN_NOTIONAL": "min_notional",
    "NOTIONAL": "min_notional",
    "ICEBERG_PARTS": "quantity_step",
    "MAX_POSITION": "position_max",
    "MAX_ASSET": "position_max",
    "MAX_NUM_ORDERS": "open_orders_max",
    "MAX_NUM_ALGO_ORDERS": "stop_orders_max",
    "MAX_NUM_ICEBERG_ORDERS": "open_orders_max",
    "MAX_NUM_ORDER_LISTS": "open_orders_max",
    "EXCHANGE_MAX_NUM_ORDERS": "open_orders_max",
    "EXCHANGE_MAX_NUM_ALGO_ORDERS": "stop_orders_max",
    "EXCHANGE_MAX_NUM_ICEBERG_ORDERS": "open_orders_max",
    "EXCHANGE_MAX_NUM_ORDER_LISTS": "open_orders_max",
    "TRAILING_DELTA": "stop_price",
}

#: "No such order": an answer to a *query*, never to a placement.
NOT_FOUND_CODES = frozenset({-2013})

#: Codes and texts seen that the tables do not know, for the counter that alarms.
unknown_codes: Counter[int] = Counter()
unknown_texts: Counter[str] = Counter()
TEXTS_MAX = 100


def classify(status: int, code: int = 0, message: str = "") -> Verdict:
    """What the answer to a new order proves. ``status`` is the HTTP status or the WS-API ``status`` (same numbers)."""
    if status == 200 and code == 0:
        return Verdict(Outcome.ACCEPTED, "")
    if status >= 500 and code != -1008:
        # Whatever code came with it, a 5xx says that the venue does not know either.
        return Verdict(Outcome.IN_DOUBT, "server_error", code)
    if code in ENGINE_CODES:
        found = ENGINE_TEXTS.get(message.strip().rstrip(".").replace("`", ""))
        if found is not None:
            return Verdict(found[0], found[1], code)
        if message in unknown_texts or len(unknown_texts) < TEXTS_MAX:
            unknown_texts[message[:200]] += 1
    if code == -1013:
        return Verdict(Outcome.DEFINITE_REJECT, filter_reason(message), code)
    known = CODES.get(code)
    if known is not None:
        return Verdict(known[0], known[1], code)
    if code == 0 and status in (401, 403, 418, 429):
        # Refused by the firewall or the limiter in front of the engine; the body carries no code.
        return Verdict(Outcome.DEFINITE_REJECT, "refused_at_edge", 0)
    unknown_codes[code] += 1
    return Verdict(Outcome.IN_DOUBT, "unknown_code", code)


def filter_reason(message: str) -> str:
    """The word for a failed filter, ``filter`` for any text that names none we know."""
    name = message[len(FILTER_TEXT) :].strip() if message.startswith(FILTER_TEXT) else ""
    return FILTERS.get(name, "filter")


def reason_of(code: int) -> str:
    """The word for a venue code without its message; our own outcomes carry code 0."""
    return word_of(CODES, code)
