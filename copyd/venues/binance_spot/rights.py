"""What a Binance key may do on spot: the same answer as for futures, another flag for trading."""

from __future__ import annotations

from copyd.venues.binance_usdm import rights
from copyd.venues.common.venue import Rights

CALL = rights.CALL


def rights_of(body: bytes) -> Rights:
    """The rights in an answer; ``ValueError`` for what cannot be read."""
    return rights.rights_of(body, trade="enableSpotAndMarginTrading")
