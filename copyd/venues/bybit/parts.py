"""What the daemon wires of this venue."""

from __future__ import annotations

from collections.abc import Callable

from copyd.venues.bybit.codec import Names
from copyd.venues.bybit.contract import CONTRACT, Endpoints
from copyd.venues.bybit.instruments import load_instruments
from copyd.venues.bybit.rest import Rest
from copyd.venues.bybit.wire import BybitWire
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.parts import Kind


def make(
    endpoints: Endpoints, contract: VenueContract, clock: Callable[[], int], weight: int, isolated: bool
) -> tuple[BybitWire, Rest]:
    """The wire and the REST client of one daemon; they know the venue's texts by the same numbers."""
    names = Names()
    return BybitWire(names, contract), Rest(endpoints.rest, contract, clock, names=names, weight_limit=weight)


KIND = Kind("bybit", CONTRACT, make, load_instruments)
