"""Whether a key may be kept: what it can do, held against what it is for. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from copyd.venues.common.venue import Rights

Role = Literal["leader", "follower"]

#: Reasons, in the order they are given.
MOVES_FUNDS, UNKNOWN_RIGHT, CANNOT_READ, CANNOT_TRADE = "moves_funds", "unknown_right", "cannot_read", "cannot_trade"
OTHER_ACCOUNT, EXPIRED, IP_NOT_BOUND = "other_account", "expired", "ip_not_bound"
#: Not reasons of a refusal: why something was let pass.
READ_ONLY_OK, UNBOUND_ALLOWED = "read_only_ok", "unbound_allowed"


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """A key bound to no address is kept all the same: why, and the most one order of it may be worth (1e-8 quote)."""

    reason: str
    cap_e8: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """``reasons``: of a refusal (empty = accepted). ``notes``: what was let pass. ``cap_e8``: the most an order may be worth,
    1e-8 quote; 0 = no cap of the key's."""

    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cap_e8: int = 0

    @property
    def accepted(self) -> bool:
        return not self.reasons


def judge(
    rights: Rights, role: Role, *, override: Override | None = None, account: str = "", now_ms: int = 0
) -> Verdict:
    """Every reason against the key. ``account``: the venue's id of it that was stated ("" = not stated). ``now_ms``: 0 = whether
    it has expired is not judged.

    Withdrawals and transfers are refused whatever else is said; no override lifts that. A leader's key need only read, and one
    that cannot trade need not be bound to an address.
    """
    reasons, notes = [], []
    if rights.moves_funds:
        reasons.append(MOVES_FUNDS)
    if rights.unknown:
        reasons.append(UNKNOWN_RIGHT)
    if not rights.read:
        reasons.append(CANNOT_READ)
    if not rights.trade:
        if role == "leader":
            notes.append(READ_ONLY_OK)
        else:
            reasons.append(CANNOT_TRADE)
    if account and rights.account_id and rights.account_id != account:
        reasons.append(OTHER_ACCOUNT)
    if now_ms and rights.expires_ms and rights.expires_ms <= now_ms:
        reasons.append(EXPIRED)
    cap = 0
    if not rights.ip_bound and rights.trade:
        if override is None:
            reasons.append(IP_NOT_BOUND)
        else:
            notes.append(UNBOUND_ALLOWED)
            cap = override.cap_e8
    return Verdict(reasons=tuple(reasons), notes=tuple(notes), cap_e8=cap)


def gained(reasons: tuple[str, ...]) -> bool:
    """Whether a key can do more than it was let in with: it must open nothing more, and its exits go on."""
    return MOVES_FUNDS in reasons or UNKNOWN_RIGHT in reasons or IP_NOT_BOUND in reasons


def sentence(verdict: Verdict, rights: Rights) -> str:
    """The refusal for a person; names rights as the venue calls them."""
    said = {
        MOVES_FUNDS: f"it can move funds ({', '.join(rights.moves_funds)}): take that right away at the venue",
        UNKNOWN_RIGHT: f"it has rights this build does not know ({', '.join(rights.unknown)})",
        CANNOT_READ: "it cannot read the account",
        CANNOT_TRADE: "it cannot trade",
        OTHER_ACCOUNT: f"it belongs to account {rights.account_id}",
        EXPIRED: "it has expired",
        IP_NOT_BOUND: 'it is bound to no address (bind it to this machine\'s, or give --allow-unbound-ip "why")',
    }
    return "; ".join(f"{reason}: {said[reason]}" for reason in verdict.reasons)
