"""What an exception of ccxt proves: accepted, definitely not accepted, or nothing (semantics 34).

The table is by class, the nearest one first; a class that is not in it is IN_DOUBT, because a guess in either direction costs a
follower money. The text of an exception, which is the exchange's, refines the reason of a refusal; of outcomes it decides one:
a refusal that speaks of a duplicate is none. What was raised before anything was written is definite, whatever it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from copyd.venues.common.outcome import Outcome, Verdict

_REJECT, _DOUBT = Outcome.DEFINITE_REJECT, Outcome.IN_DOUBT

#: Class of ccxt -> (outcome, reason), as the answer to a new order.
CODES: dict[str, tuple[Outcome, str]] = {
    "InsufficientFunds": (_REJECT, "margin"),
    "InvalidOrder": (_REJECT, "invalid_order"),
    "DuplicateOrderId": (_DOUBT, "duplicate_client_order_id"),
    # The answer to another question: to a placement it proves nothing.
    "OrderNotFound": (_DOUBT, "no_such_order"),
    "OrderNotCached": (_DOUBT, "no_such_order"),
    "AuthenticationError": (_REJECT, "key_refused"),
    "PermissionDenied": (_REJECT, "permission"),
    "AccountNotEnabled": (_REJECT, "permission"),
    "AccountSuspended": (_REJECT, "account_banned"),
    "BadSymbol": (_REJECT, "unknown_symbol"),
    "RateLimitExceeded": (_REJECT, "too_many_requests"),
    "InvalidNonce": (_DOUBT, "timestamp_outside_recv_window"),
    "RequestTimeout": (_DOUBT, "timeout"),
    "ExchangeNotAvailable": (_DOUBT, "server_error"),
    "NetworkError": (_DOUBT, "network_error"),
}
#: "Nothing to change" is success: leverage, position mode, margin type.
NO_CHANGE = frozenset({"NoChange", "MarginModeAlreadySet"})
NO_CHANGE_WORDS = ("not modified", "no need to change")
#: Words in an exchange's text -> what a refusal of an order was for.
WORDS = (
    (("reduce",), "reduce_only"), (("position side", "posside", "positionside"), "position_side"),
    (("notional", "minimum"), "min_notional"),
    (("margin", "balance", "insufficient"), "margin"),
)  # fmt: skip
NOT_WRITTEN = "not_sent"


def classify(kinds: Sequence[str], text: str, written: bool, refusals: Mapping[str, str] | None = None) -> Verdict:
    """What an exception proves as the answer to a new order. ``kinds``: its class and those above it; ``refusals``: codes of the
    exchange, as they stand in the text, that are refusals and for which ccxt has no class."""
    low = text.lower()
    kinds = list(kinds)
    if not written:
        return Verdict(_REJECT, _refined(kinds, low) if "InvalidOrder" in kinds else NOT_WRITTEN)
    if "Repeated" in kinds:
        return Verdict(_DOUBT, "repeated")
    if refusals and kinds[:1] == ["ExchangeError"]:
        told = next((reason for code, reason in refusals.items() if code in text), "")
        if told:
            return Verdict(_REJECT, told)
    for kind in kinds:
        known = CODES.get(kind)
        if known is None:
            continue
        outcome, reason = known
        if outcome is _REJECT and "duplicat" in low:
            return Verdict(_DOUBT, "duplicate_client_order_id")
        return Verdict(outcome, _refined(kinds, low) if reason == "invalid_order" else reason)
    return Verdict(_DOUBT, "unknown_class")


def _refined(kinds: Sequence[str], low: str) -> str:
    return next((reason for words, reason in WORDS if any(word in low for word in words)), "invalid_order")


def unchanged(kinds: Sequence[str], text: str) -> bool:
    """Whether the refusal of a setting says that it is so already."""
    low = text.lower()
    return bool(NO_CHANGE.intersection(kinds)) or any(word in low for word in NO_CHANGE_WORDS)
