"""What a Binance key may do: the answer of ``GET /sapi/v1/account/apiRestrictions``."""

from __future__ import annotations

from copyd.venues.common.rights import answer, field
from copyd.venues.common.venue import Rights

CALL = "GET /sapi/v1/account/apiRestrictions"

#: Money leaves the account by them: withdrawals, transfers to other users, transfers between own wallets and sub-accounts.
MOVES_FUNDS = ("enableWithdrawals", "enableInternalTransfer", "permitsUniversalTransfer")
#: Known, and none of them takes money away.
HARMLESS = frozenset({
    "enableReading", "enableFixReadOnly", "enableFutures", "enableSpotAndMarginTrading", "enableMargin", "enableVanillaOptions",
    "enableFixApiTrade", "enablePortfolioMarginTrading", "ipRestrict",
})  # fmt: skip
#: What names a right, whatever type its value is of.
_RIGHT = ("enable", "permit", "allow", "can")


def rights_of(body: bytes, *, trade: str = "enableFutures") -> Rights:
    """The rights in an answer. ``trade``: the flag of the product traded. ``ValueError`` for what cannot be read."""
    found = answer(body)
    moves = tuple(name for name in MOVES_FUNDS if field(found, name, bool))
    expires = found.get("tradingAuthorityExpirationTime", 0)
    if type(expires) is not int or expires < 0:
        raise ValueError("the answer about the key's rights: tradingAuthorityExpirationTime is not readable")
    unknown = []
    for name, value in found.items():
        if name in HARMLESS or name in MOVES_FUNDS:
            field(found, name, bool)
        elif value is True or (value is not False and name.startswith(_RIGHT)):
            unknown.append(name)
    return Rights(
        read=field(found, "enableReading", bool), trade=field(found, trade, bool), moves_funds=moves,
        ip_bound=field(found, "ipRestrict", bool), unknown=tuple(unknown), expires_ms=expires,
    )  # fmt: skip
