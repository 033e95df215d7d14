"""What the daemon wires of an exchange behind ccxt."""

from __future__ import annotations

from functools import partial

from copyd.venues.ccxt.contract import CONTRACT
from copyd.venues.ccxt.instruments import load_instruments
from copyd.venues.ccxt.poll import PolledLink
from copyd.venues.ccxt.rest import Rest
from copyd.venues.ccxt.wire import CcxtWire
from copyd.venues.common.parts import Kind, Making


def make(of: Making) -> tuple[CcxtWire, Rest]:
    """The wire and the questions of one daemon, over one process."""
    rest = Rest(of.endpoints, of.contract, of.clock, isolated=of.isolated, weight_limit=of.weight)
    return CcxtWire(rest, partial(PolledLink, rest)), rest


KIND = Kind("ccxt", CONTRACT, make, load_instruments, by_rest=True)
