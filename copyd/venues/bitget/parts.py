"""What the daemon wires of this venue."""

from __future__ import annotations

from copyd.venues.bitget.contract import CONTRACT
from copyd.venues.bitget.instruments import load_one_market
from copyd.venues.bitget.rest import Rest
from copyd.venues.bitget.wire import BitgetWire
from copyd.venues.common.parts import Kind, Making


def make(of: Making) -> tuple[BitgetWire, Rest]:
    """The wire and the REST client of one daemon; the client learns which API an account speaks, the wire goes by it."""
    rest = Rest(
        of.endpoints, of.contract, of.clock, isolated=of.isolated, weight_limit=of.weight, source_addresses=of.source_addresses)
    return BitgetWire(rest.kind), rest


KIND = Kind("bitget", CONTRACT, make, load_one_market, by_rest=True, funding_by_rest=True)
