"""What a Bybit key may do: the answer of ``GET /v5/user/query-api``."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from copyd.venues.common.rights import answer, bound, field, words
from copyd.venues.common.venue import Rights

CALL = "GET /v5/user/query-api"

#: By group of rights. Out of the account: to the chain, to other users (P2P, pay), between wallets and sub-accounts.
MOVES_FUNDS: dict[str, frozenset[str]] = {
    "Wallet": frozenset({"AccountTransfer", "SubMemberTransfer", "SubMemberTransferList", "Withdraw"}),
    "FiatP2P": frozenset({"FiatP2POrder", "Advertising"}),
    "FiatBybitPay": frozenset({"FaitPayOrder", "FiatPayOrder"}),
    "FiatConvertBroker": frozenset({"FiatConvertBrokerOrder"}),
}
HARMLESS: dict[str, frozenset[str]] = {
    "ContractTrade": frozenset({"Order", "Position"}),
    "Spot": frozenset({"SpotTrade"}),
    "Options": frozenset({"OptionsTrade"}),
    "Derivatives": frozenset({"DerivativesTrade"}),
    "CopyTrading": frozenset({"CopyTrading"}),
    "BlockTrade": frozenset({"BlockTrade"}),
    "Exchange": frozenset({"ExchangeHistory"}),
    "NFT": frozenset({"NFTQueryProductList"}),
    "Affiliate": frozenset({"Affiliate"}),
    "Earn": frozenset({"Earn"}),
}
#: Product -> (group, rights that trading it takes, all of them).
TRADES: dict[str, tuple[str, frozenset[str]]] = {
    "linear": ("ContractTrade", frozenset({"Order", "Position"})), "spot": ("Spot", frozenset({"SpotTrade"})),
}  # fmt: skip


def rights_of(body: bytes, *, product: Literal["linear", "spot"] = "linear") -> Rights:
    """The rights in an answer; ``ValueError`` for what cannot be read. ``product``: what ``trade`` speaks of.

    A right to move funds counts in a read-only key too: what such a key is good for is the venue's to change.
    """
    found = answer(body)
    if field(found, "retCode", int) != 0:
        raise ValueError("the answer about the key's rights is a refusal")
    told: dict[str, Any] = field(found, "result", dict)
    read_only = field(told, "readOnly", int)
    if read_only not in (0, 1):
        raise ValueError("the answer about the key's rights: readOnly is not readable")
    groups = {group: words(names, group) for group, names in field(told, "permissions", dict).items()}
    moves, unknown = [], []
    for group, names in groups.items():
        for name in names:
            if name in MOVES_FUNDS.get(group, ()):
                moves.append(f"{group}.{name}")
            elif name not in HARMLESS.get(group, ()):
                unknown.append(f"{group}.{name}")
    group, needed = TRADES[product]
    ips = tuple(ip for ip in words(told.get("ips"), "ips") if ip)
    user = told.get("userID")
    return Rights(
        read=True, trade=not read_only and needed <= set(groups.get(group, ())), moves_funds=tuple(moves), ip_bound=bound(ips),
        ips=ips, unknown=tuple(unknown), expires_ms=_expiry_ms(told.get("expiredAt", "")),
        account_id=str(user) if isinstance(user, int | str) else "",
    )  # fmt: skip


def _expiry_ms(text: Any) -> int:
    """When the key lapses, ms since 1970; a bound key has the beginning of time there, or nothing."""
    if not isinstance(text, str):
        raise ValueError("the answer about the key's rights: expiredAt is not readable")
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("the answer about the key's rights: expiredAt is not readable") from None
    if moment.tzinfo is None:
        raise ValueError("the answer about the key's rights: expiredAt has no zone")
    return max(0, int(moment.timestamp()) * 1000)
