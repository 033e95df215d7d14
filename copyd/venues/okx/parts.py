"""What the daemon wires of this venue."""

from __future__ import annotations

from copyd.venues.common.parts import Kind, Making
from copyd.venues.okx.contract import CONTRACT
from copyd.venues.okx.instruments import load_instruments
from copyd.venues.okx.rest import Rest
from copyd.venues.okx.wire import OkxWire


def make(of: Making) -> tuple[OkxWire, Rest]:
    """The wire and the REST client of one daemon; every order of a perpetual bears the margin type."""
    rest = Rest(
        of.endpoints, of.contract, of.clock, isolated=of.isolated, weight_limit=of.weight, source_addresses=of.source_addresses)
    return OkxWire(isolated=of.isolated, recv_window_ms=of.contract.recv_window_ms), rest


KIND = Kind("okx", CONTRACT, make, load_instruments, funding_by_rest=True)
