"""What a Bitget key may do: ``authorities`` of the account's information in v2, ``permissions`` in v3.

The first comes as codes (``coow``) or as words (``trade``, ``readonly``); either may occur, and any mixture of both.
"""

from __future__ import annotations

from typing import Any, Literal

from copyd.venues.common.rights import answer, bound, field, split, words
from copyd.venues.common.venue import Rights

CALL = "GET /api/v2/spot/account/info"

#: Withdrawals, transfers, P2P sales, loans against what is held, and sub-accounts, whose keys could be given any of these.
MOVES_FUNDS = frozenset({"wwow", "wtow", "p2p", "chow", "pllw", "withdraw", "withdrawal", "transfer", "wallet"})
HARMLESS = frozenset({
    "coor", "coow", "cpor", "cpow", "stor", "stow", "smor", "smow", "ttor", "ttow", "wtor", "chor", "p2pr", "taxr", "taxw",
    "pllr", "trade", "readonly", "read_only", "read",
})  # fmt: skip
#: Product -> what trades it.
TRADES = {"linear": frozenset({"coow", "trade"}), "spot": frozenset({"stow", "trade"})}

#: v3: rights to manage the account and to lead copied orders include transfers, unless the key is read only.
MOVES_FUNDS_V3 = frozenset({"withdraw", "transfer"})
MOVES_FUNDS_V3_WRITE = frozenset({"uta_mgt", "copy_futures_order"})
HARMLESS_V3 = frozenset({"uta_trade", "copy_futures_position"})


def rights_of(body: bytes, *, product: Literal["linear", "spot"] = "linear") -> Rights:
    """The rights in an answer of either version; ``ValueError`` for what cannot be read."""
    found = answer(body)
    if field(found, "code", str) != "00000":
        raise ValueError("the answer about the key's rights is a refusal")
    told: dict[str, Any] = field(found, "data", dict)
    return _version_3(told) if "permissions" in told else _version_2(told, product)


def _version_2(told: dict[str, Any], product: str) -> Rights:
    names = words(told.get("authorities"), "authorities")
    ips = split(field(told, "ips", str))
    return Rights(
        read=bool(names), trade=bool(TRADES[product] & set(names)),
        moves_funds=tuple(name for name in names if name in MOVES_FUNDS), ip_bound=bound(ips), ips=ips,
        unknown=tuple(name for name in names if name not in MOVES_FUNDS | HARMLESS), account_id=_text(told.get("userId")),
    )  # fmt: skip


def _version_3(told: dict[str, Any]) -> Rights:
    names = words(told["permissions"], "permissions")
    kind = field(told, "permType", str)
    if kind not in ("read-only", "read-and-write"):
        raise ValueError("the answer about the key's rights: permType is not readable")
    moving = MOVES_FUNDS_V3 | (MOVES_FUNDS_V3_WRITE if kind == "read-and-write" else frozenset())
    ips = split(field(told, "ips", str))
    known = MOVES_FUNDS_V3 | MOVES_FUNDS_V3_WRITE | HARMLESS_V3
    return Rights(
        read=bool(names), trade=kind == "read-and-write" and "uta_trade" in names,
        moves_funds=tuple(name for name in names if name in moving), ip_bound=bound(ips), ips=ips,
        unknown=tuple(name for name in names if name not in known), account_id=_text(told.get("uid")),
    )  # fmt: skip


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
