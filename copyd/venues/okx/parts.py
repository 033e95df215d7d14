"""What the daemon wires of this venue."""

from __future__ import annotations

from collections.abc import Callable

from copyd.venues.common.contract import VenueContract
from copyd.venues.common.parts import Kind
from copyd.venues.okx.contract import CONTRACT, Endpoints
from copyd.venues.okx.instruments import load_instruments
from copyd.venues.okx.rest import Rest
from copyd.venues.okx.wire import OkxWire


def make(
    endpoints: Endpoints, contract: VenueContract, clock: Callable[[], int], weight: int, isolated: bool
) -> tuple[OkxWire, Rest]:
    """The wire and the REST client of one daemon; every order of a perpetual bears the margin type."""
    wire = OkxWire(isolated=isolated, recv_window_ms=contract.recv_window_ms)
    return wire, Rest(endpoints, contract, clock, isolated=isolated, weight_limit=weight)


KIND = Kind("okx", CONTRACT, make, load_instruments)
