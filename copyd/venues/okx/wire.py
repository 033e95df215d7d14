"""The venue's connections as text: one private socket per account for orders and events, one public one for the market.

Of ``balance_and_position`` only the cause of a change is told, as ``Unused("transferred")``, ``Unused("funding_fee")`` or
``Unused("set_leverage")``: it names no amount and no leverage, and its cash is without what isolated positions hold. Whoever
wants the numbers asks ``Rest.flows``, ``Rest.fundings`` or ``Rest.leverage``. The channel ``fills`` (thin, for large traders
only) is not used: one of its pushes may sum up several executions.
"""

from __future__ import annotations

from collections.abc import Sequence

from copyd.venues.common.facts import Malformed, Mark, Quote
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.signing import Key, json_text
from copyd.venues.common.told import Told, Unused
from copyd.venues.common.venue import Channel, Order
from copyd.venues.okx import codec
from copyd.venues.okx.contract import CONTRACT, Endpoints
from copyd.venues.okx.signing import login_text, place_text

PING = b"ping"
#: The venue closes a connection on which nothing came from us for 30 s.
PING_EVERY_MS = 15_000
#: ``updateInterval`` 0: pushed by what happens, not by the clock.
_BY_EVENT = '{"updateInterval": "0"}'
PRIVATE_ARGS: dict[str, dict[str, str]] = {
    "orders": {"channel": "orders", "instType": "ANY"},
    "positions": {"channel": "positions", "instType": "ANY", "extraParams": _BY_EVENT},
    "account": {"channel": "account", "extraParams": _BY_EVENT},
    "changes": {"channel": "balance_and_position"},
    "warnings": {"channel": "liquidation-warning", "instType": "ANY"},
}


def _subscribe(name: str, args: list[dict[str, str]]) -> tuple[str, bytes]:
    return name, json_text({"id": name, "op": "subscribe", "args": args})


class OkxWire:
    """``Wire`` of this venue. ``isolated``: the margin type that every order of a perpetual bears."""

    def __init__(self, *, isolated: bool = True, recv_window_ms: int = CONTRACT.recv_window_ms) -> None:
        self.isolated, self.recv_window_ms = isolated, recv_window_ms
        self.instruments = Instruments(())

    def bind(self, instruments: Instruments) -> None:
        """The instruments in use, before anything else."""
        self.instruments = instruments

    def channels(self, endpoints: Endpoints, key: Key | None = None) -> tuple[Channel, ...]:
        """One connection per account: orders go out on it and its events come in."""
        subscriptions = tuple(_subscribe(name, [args]) for name, args in PRIVATE_ARGS.items())
        return (Channel("private", endpoints.private, True, True, subscriptions, PING, PING_EVERY_MS),)

    def login(self, channel: Channel, key: Key, now_ms: int) -> bytes:
        """The login message."""
        return login_text(key, now_ms)

    def place(self, order: Order, now_ms: int) -> bytes:
        """The placement; the venue drops it when it comes ``recv_window_ms`` late."""
        return place_text(order, expires_ms=now_ms + self.recv_window_ms, isolated=self.isolated)

    def read(self, channel: str, payload: bytes, ts_recv: int) -> Sequence[Told]:
        """What a frame says, in its order."""
        return codec.read_private(payload, self.instruments, ts_recv)

    def market(self, endpoints: Endpoints) -> tuple[Channel, ...]:
        """Best bid and ask of each book change, and the mark; spot has none, its last price stands for it."""
        subscriptions = []
        for item in self.instruments:
            mark = "tickers" if item.spot else "mark-price"
            args = [{"channel": channel, "instId": item.symbol} for channel in ("bbo-tbt", mark)]
            subscriptions.append(_subscribe(f"m{item.index}", args))
        return (Channel("public", endpoints.public, False, False, tuple(subscriptions), PING, PING_EVERY_MS),)

    def read_market(self, payload: bytes, ts_recv: int, channel: str = "") -> Sequence[Quote | Mark | Unused | Malformed]:
        """What a public frame says."""
        return codec.read_market(payload, self.instruments, ts_recv)
