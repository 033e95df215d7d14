"""The WebSocket API and the market streams as text.

One connection of the WebSocket API carries the orders and the events of up to a thousand accounts: every request bears its own
key and signature, and there is no login. So a shared connection is opened without one; each account is subscribed with the
message of ``subscribe``, and the answer (``told.Subscribed``) gives its name and the number that its events bear from then on,
on this connection and no other: they come as ``told.Of(number, ...)``. Answers to placements name their order and are not
wrapped; what is said of the whole connection (``told.Ending``) is not either. An ``Of(number, Ending)`` ends that subscription
alone.

With ``shared=False`` the same connection serves one account as any other session venue does: the subscription is its login, and
its events are not wrapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from copyd.venues.binance_spot import codec
from copyd.venues.binance_spot.contract import CONTRACT, Endpoints
from copyd.venues.binance_spot.signing import place_text, subscribe_request
from copyd.venues.common import told as t
from copyd.venues.common.facts import Malformed, Mark, Quote
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Channel, Order

#: Streams of each market on the public connection; the last price of the second is the mark.
STREAMS = ("bookTicker", "miniTicker")


class BinanceSpotWire:
    """See ``copyd.venues.common.venue.Wire``."""

    def __init__(self, shared: bool = True, recv_window_ms: int = CONTRACT.recv_window_ms) -> None:
        self.shared = shared
        self.recv_window_ms = recv_window_ms
        self._instruments = Instruments(())
        self._keys: Mapping[int, Key] = {}

    def bind(self, instruments: Instruments) -> None:
        """The instruments in use."""
        self._instruments = instruments

    def bind_keys(self, keys: Mapping[int, Key]) -> None:
        """The keys by account, as they are at any moment: every placement is signed with its account's own."""
        self._keys = keys

    def channels(self, endpoints: Endpoints, key: Key | None = None) -> tuple[Channel, ...]:
        """The one kind of private connection there is, the same for every key. Nothing pings on it but the WebSocket itself."""
        return (Channel("api", f"{endpoints.ws_api}?returnRateLimits=false", orders=True, events=True),)

    def login(self, channel: Channel, key: Key, now_ms: int) -> bytes:
        """Nothing on a shared connection."""
        return b"" if self.shared else subscribe_request(key, codec.LOGIN_ID, now_ms)

    def subscribe(self, account: int, key: Key, now_ms: int) -> tuple[str, bytes]:
        """(name, message) that puts an account's events on a shared connection."""
        name = f"{codec.SUBSCRIBE_PREFIX}{account}"
        return name, subscribe_request(key, name, now_ms)

    def place(self, order: Order, now_ms: int) -> bytes:
        """The placement; ``KeyError``: no key is bound for its account."""
        return self.place_signed(self._keys[order.account], order, now_ms)

    def place_signed(self, key: Key, order: Order, now_ms: int) -> bytes:
        """The placement under a key that need not be bound: what the compiled rendering is taught with."""
        return place_text(order, key, now_ms, self.recv_window_ms)

    def read(self, channel: str, payload: bytes, ts_recv: int) -> Sequence[t.Told]:
        """What a frame says, in its order."""
        found = codec.read(payload, self._instruments, ts_recv)
        return found if self.shared else [one.told if isinstance(one, t.Of) else one for one in found]

    def market(self, endpoints: Endpoints) -> tuple[Channel, ...]:
        """One public connection; its streams stand in its address."""
        names = [f"{item.symbol.lower()}@{stream}" for item in self._instruments for stream in STREAMS]
        return (Channel("market", f"{endpoints.streams}/stream?streams={'/'.join(names)}", orders=False, events=False),)

    def read_market(self, payload: bytes, ts_recv: int, channel: str = "") -> Sequence[Quote | Mark | t.Unused | Malformed]:
        """What a public frame says."""
        return codec.read_market(payload, self._instruments, ts_recv)
