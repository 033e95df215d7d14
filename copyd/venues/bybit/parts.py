"""What the daemon wires of this venue."""

from __future__ import annotations

from copyd.venues.bybit.contract import CONTRACT
from copyd.venues.bybit.instruments import load_instruments
from copyd.venues.bybit.rest import Rest
from copyd.venues.bybit.wire import BybitWire
from copyd.venues.common.names import Names
from copyd.venues.common.parts import Kind, Making


def make(of: Making) -> tuple[BybitWire, Rest]:
    """The wire and the REST client of one daemon; they know the venue's texts by the same numbers."""
    names = Names()
    rest = Rest(
        of.endpoints.rest, of.contract, of.clock, names=names, weight_limit=of.weight, source_addresses=of.source_addresses)
    return BybitWire(names, of.contract), rest


KIND = Kind("bybit", CONTRACT, make, load_instruments)
