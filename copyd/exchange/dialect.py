"""What a venue's dialect gives the simulated exchange, and what it may use of it.

The host (``copyd.exchange.host``) owns ports, connections, engine, accounts, faults and clockwork. A dialect turns bytes into
``Work`` and the engine's events into bytes: it does no I/O, keeps no clock, and everything it answers follows from the engine.
Signatures are checked over the raw received bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from copyd._fast.sim_engine import Engine
from copyd.exchange.model import Instrument


class Request(msgspec.Struct):
    """One HTTP request as it came. ``query``: raw, without "?"; header names in lower case; ``now_ns``: the venue's clock."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    ip: str
    now_ns: int


class Answer(msgspec.Struct):
    """One HTTP answer."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = {}


class Owner(msgspec.Struct):
    """An account's key as the exchange knows it.

    ``rights``: what the control port gave it, over the dialect's defaults; names are the venue's own.
    """

    account: int
    name: str
    api_key: str
    secret: bytes
    passphrase: str
    rights: dict[str, Any] = {}


class Work(msgspec.Struct):
    """A request understood and authenticated, not yet done. ``owner`` None: nobody's (public), never disturbed.

    ``run`` does it and gives the answer: bytes on a WebSocket, ``Answer`` for REST. ``unknown``, ``unavailable``,
    ``throttled``: what the venue answers when it does not say whether it was done, when it certainly was not, and when it was
    too busy to. ``method``: "place", "cancel", "query", or "GET /path": by these fault rules are matched. ``stale``: the same
    answer as a reader would give that is so many ms behind; None where it is no query.
    """

    run: Callable[[], Any]
    owner: Owner | None = None
    method: str = ""
    symbol: str = ""
    client_id: str = ""
    unknown: Any = b""
    unavailable: Any = b""
    throttled: Any = b""
    stale: Callable[[int], Any] | None = None


class Conn(Protocol):
    """A WebSocket connection of the host. A dialect may keep what it knows of it in ``state``."""

    path: str
    ip: str
    opened_ns: int
    heard_ns: int
    state: Any

    def send(self, text: bytes) -> None:
        """Queue one text message."""

    def close(self, code: int, reason: str) -> None:
        """Close it the WebSocket way."""


class Host(Protocol):
    """What a dialect may use."""

    engine: Engine
    instruments: tuple[Instrument, ...]

    def now_ns(self) -> int:
        """The venue's clock."""

    def owner(self, api_key: str) -> Owner | None:
        """The owner of a key; None: there is no such key."""

    def fees_ppm(self, account: int) -> tuple[int, int]:
        """(maker, taker)."""

    def changed(self) -> None:
        """After every call of the engine that changes something: its events are taken to the dialect's ``events``."""

    def publish(self, conn: Conn, owner: Owner, event: str, client_id: str, text: bytes) -> None:
        """Send an account's event, through the faults of events. ``event``: its name, for fault rules."""

    def next_funding_ms(self, now_ns: int) -> int:
        """When funding is settled next."""

    def refused(self, owner: Owner | None, method: str, symbol: str, client_id: str, code: int, message: str) -> None:
        """Note a refusal for the truth."""

    def conns(self) -> list[Conn]:
        """Open connections."""


class Dialect(Protocol):
    """One venue's words."""

    name: str

    def __init__(self, host: Host) -> None: ...

    def accepts(self, conn: Conn) -> bool:
        """Whether there is something at the address of a new WebSocket connection; sets ``conn.state``."""

    def opened(self, conn: Conn) -> None:
        """The handshake is over."""

    def text(self, conn: Conn, text: bytes) -> Work | None:
        """A message. None: it was answered (``conn.send``) or needs no answer."""

    def lost(self, conn: Conn) -> None:
        """The connection is gone."""

    def rest(self, request: Request) -> Work:
        """A REST request; a refusal is a ``Work`` whose ``run`` gives the refusal."""

    def events(self, events: list[tuple[int, ...]]) -> None:
        """What the engine did, in its order: to the accounts' connections and to public subscribers."""

    def second(self, now_ns: int) -> None:
        """Once a second: marks, expiries, limits of silence."""
