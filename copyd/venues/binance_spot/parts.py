"""What the daemon wires of this venue: a connection for each account, which any other venue of one login has as well."""

from __future__ import annotations

from copyd.venues.binance_spot.contract import CONTRACT
from copyd.venues.binance_spot.instruments import load_instruments
from copyd.venues.binance_spot.rest import Rest
from copyd.venues.binance_spot.wire import BinanceSpotWire
from copyd.venues.common.parts import Kind, Making


def make(of: Making) -> tuple[BinanceSpotWire, Rest]:
    """The wire and the REST client of one daemon."""
    rest = Rest(of.endpoints, of.contract, of.clock, weight_limit=of.weight, source_addresses=of.source_addresses)
    return BinanceSpotWire(shared=False, recv_window_ms=of.contract.recv_window_ms), rest


KIND = Kind("binance_spot", CONTRACT, make, load_instruments)
