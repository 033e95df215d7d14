"""What an OKX key may do: ``perm`` and ``ip`` of ``GET /api/v5/account/config``.

The right to trade also lets a key move money between the account's own wallets; OKX gives neither without the other.
"""

from __future__ import annotations

from copyd.venues.common.rights import answer, bound, field, split
from copyd.venues.common.venue import Rights

CALL = "GET /api/v5/account/config"

MOVES_FUNDS = frozenset({"withdraw"})
HARMLESS = frozenset({"read_only", "trade"})


def rights_of(body: bytes) -> Rights:
    """The rights in an answer; ``ValueError`` for what cannot be read."""
    found = answer(body)
    if field(found, "code", str) != "0":
        raise ValueError("the answer about the key's rights is a refusal")
    rows = field(found, "data", list)
    if len(rows) != 1 or not isinstance(rows[0], dict):
        raise ValueError("the answer about the key's rights: data is not one account")
    row = rows[0]
    perm, ips = split(field(row, "perm", str)), split(field(row, "ip", str))
    uid = row.get("uid", "")
    return Rights(
        read=bool(perm), trade="trade" in perm, moves_funds=tuple(word for word in perm if word in MOVES_FUNDS),
        ip_bound=bound(ips), ips=ips, unknown=tuple(word for word in perm if word not in MOVES_FUNDS | HARMLESS),
        account_id=uid if isinstance(uid, str) else "",
    )  # fmt: skip
