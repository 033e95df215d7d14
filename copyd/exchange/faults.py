"""Faults on request: which requests and events go wrong, and how. Rules are tried in the order they were added.

A rule hits every match, or with ``ppm`` a share of them: which ones follows from ``seed`` and the number of the match alone.
Every fault made is in the log (the truth's ``/truth/faults``).

A rule that names no method hits every request of an account. What ``error_live``, ``error_dead``, ``unavailable`` and
``throttled`` answer is the dialect's: its words for "I do not know", "no", "too busy". Here are Binance's.

Request actions (matched by account, symbol, method, client id prefix):
  delay             the request reaches the engine ``delay_ms`` later
  delay_reply       executed at once, answered ``delay_ms`` later
  drop_request      never reaches the engine, never answered
  drop_reply        executed, never answered
  error_live        executed, answered 503 "Unknown error, please check your request or try again later."
  error_dead        not executed, answered with the same 503: the client cannot tell
  unavailable       not executed, answered 503 "Service Unavailable." (a definite failure)
  throttled         not executed, answered 503 with -1008 (a definite failure)
  disconnect        not executed, the connection is cut
  disconnect_live   executed, the connection is cut before the answer
  stall             executed, but nothing leaves this connection for ``delay_ms``
  stale_read        a query answered as if orders and trades of the last ``delay_ms`` were not there yet
Event actions (matched by account, event name, client id prefix; also symbol-less):
  drop_event, duplicate_event, delay_event (``delay_ms``), reorder_events (held back until the account's next event)
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

LOG_MAX = 1_000_000
_64 = (1 << 64) - 1

RequestAction = Literal[
    "delay",
    "delay_reply",
    "drop_request",
    "drop_reply",
    "error_live",
    "error_dead",
    "unavailable",
    "throttled",
    "disconnect",
    "disconnect_live",
    "stall",
    "stale_read",
]
EventAction = Literal["drop_event", "duplicate_event", "delay_event", "reorder_events"]
EVENT_ACTIONS = ("drop_event", "duplicate_event", "delay_event", "reorder_events")
#: actions after which the order (or whatever was asked) never reached the engine
DEAD = ("drop_request", "error_dead", "unavailable", "throttled", "disconnect")


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """One fault; an empty match field matches everything."""

    action: RequestAction | EventAction
    account: str = ""  # name of the account
    account_prefix: str = ""  # or how it begins
    symbol: str = ""
    method: str = ""  # Binance: order.place, order.cancel, ...; others: place, cancel, query; or "GET /fapi/v1/..."
    event: str = ""  # Binance: ORDER_TRADE_UPDATE, TRADE_LITE, ACCOUNT_UPDATE, ...; others: the channel's name
    client_id_prefix: str = ""
    delay_ms: int = 0
    skip: int = 0  # matches left alone before the first fault
    count: int = 0  # faults before the rule is spent; 0 = no end
    ppm: int = 0  # share of the matches that become faults; 0 = all
    seed: int = 0  # which of them
    id: int = 0  # given by the exchange
    hits: int = 0  # faults made so far
    seen: int = 0  # matches so far


class Made(msgspec.Struct, frozen=True, gc=False):
    """A fault that was made, as the truth lists it."""

    seq: int
    ts: int
    action: str
    account: str
    method: str  # of the request, or the event's name; of a connection that was cut "api" or "streams", or its address
    clientOrderId: str
    delay_ms: int


class Faults:
    """The rules in force and what they did."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self._next_id = 1
        self.log: deque[Made] = deque(maxlen=LOG_MAX)
        self.n_made = 0

    def add(self, rule: Rule) -> int:
        rule.id = self._next_id
        self._next_id += 1
        self.rules.append(rule)
        return rule.id

    def remove(self, rule_id: int | None = None) -> int:
        """Remove one rule, or all: how many."""
        before = len(self.rules)
        self.rules = [] if rule_id is None else [r for r in self.rules if r.id != rule_id]
        return before - len(self.rules)

    @property
    def for_requests(self) -> bool:
        return any(r.action not in EVENT_ACTIONS for r in self.rules)

    @property
    def for_events(self) -> bool:
        return any(r.action in EVENT_ACTIONS for r in self.rules)

    def note(self, ts: int, action: str, account: str, method: str, client_id: str = "", delay_ms: int = 0) -> None:
        """Remember a fault that was made."""
        self.log.append(Made(self.n_made, ts, action, account, method, client_id, delay_ms))
        self.n_made += 1

    def request(self, account: str, symbol: str, method: str, client_id: str) -> Rule | None:
        """The fault of this request, if any."""
        for rule in self.rules:
            if (
                rule.action not in EVENT_ACTIONS
                and (not rule.symbol or rule.symbol == symbol)
                and (not rule.method or rule.method == method)
                and _owner(rule, account, client_id)
                and _take(rule)
            ):
                return rule
        return None

    def event(self, account: str, event: str, client_id: str) -> Rule | None:
        """The fault of this user event, if any."""
        for rule in self.rules:
            if (
                rule.action in EVENT_ACTIONS
                and (not rule.event or rule.event == event)
                and _owner(rule, account, client_id)
                and _take(rule)
            ):
                return rule
        return None


def _owner(rule: Rule, account: str, client_id: str) -> bool:
    return (
        (not rule.account or rule.account == account)
        and account.startswith(rule.account_prefix)
        and client_id.startswith(rule.client_id_prefix)
    )


def _take(rule: Rule) -> bool:
    if rule.skip > 0:
        rule.skip -= 1
        return False
    if rule.count and rule.hits >= rule.count:
        return False
    rule.seen += 1
    if rule.ppm and not chosen(rule.seed, rule.id, rule.seen, rule.ppm):
        return False
    rule.hits += 1
    return True


def chosen(seed: int, rule: int, number: int, ppm: int) -> bool:
    """Whether the ``number``-th match of a rule is one of its ``ppm`` in a million (splitmix64 over the three)."""
    x = (seed * 0xD1342543DE82EF95 + rule * 0xAF251AF3B0F025B5 + number * 0x9E3779B97F4A7C15) & _64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _64
    return (x ^ (x >> 31)) % 1_000_000 < ppm
