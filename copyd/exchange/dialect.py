"""What a venue's dialect gives the simulated exchange, and what it may use of it.

The host (``copyd.exchange.host``) owns ports, connections, engine, accounts, faults and clockwork. A dialect turns bytes into
``Work`` and the engine's events into bytes: it does no I/O, keeps no clock, and everything it answers follows from the engine.
Signatures are checked over the raw received bytes.

Two clocks: ``Host.now_ns`` is the engine's and never goes back; every ``ts_ns`` given to the engine is of it. ``Host.server_ns``
(and ``Request.now_ns``) is what clients see: stamps are checked against it, and it is what a "server time" call answers. They
differ only when whoever runs the exchange has put the clock off.

A dialect that raises is a defect: the connection is closed with 1011, or the request answered 500, and the loop's exception
handler hears of it. What a client may send never makes it raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from copyd._fast.sim_engine import Engine
from copyd.exchange.base import Settled
from copyd.exchange.makers import start_makers
from copyd.exchange.model import INSTRUMENTS, Instrument
from copyd.exchange.windows import Windows


class Request(msgspec.Struct):
    """One HTTP request as it came. ``query``: raw, without "?"; header names in lower case; ``now_ns``: the clients' clock."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    ip: str
    now_ns: int


class Answer(msgspec.Struct):
    """One HTTP answer; JSON unless a header ``Content-Type`` says otherwise."""

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

    ``run`` does it and gives the answer: bytes on a WebSocket (b"": none), ``Answer`` for REST. ``unknown``, ``unavailable``,
    ``throttled``: what the venue answers when it does not say whether it was done, when it certainly was not, and when it was
    too busy to. ``method``: "place", "cancel", "query", or "GET /path": by these fault rules are matched. ``stale``: the same
    answer as a reader would give that is so many ms behind; None where it is no query. ``run`` may be called later than it was
    made, or never: everything that changes state belongs into it, and the taking from a limit before it.

    Of an order, for the simulator's worlds: ``twice``, what the venue answers when its client id exists already, and ``late``,
    when it came too late by its own stamp. Empty: it has no words for that.
    """

    run: Callable[[], Any]
    owner: Owner | None = None
    method: str = ""
    symbol: str = ""
    client_id: str = ""
    unknown: Any = b""
    unavailable: Any = b""
    throttled: Any = b""
    twice: Any = b""
    late: Any = b""
    stale: Callable[[int], Any] | None = None


class Terms(msgspec.Struct, frozen=True):
    """What a venue's WebSocket connections live by; 0 = no such rule. A close is (code, reason)."""

    idle_s: float = 0.0  # without anything from the client, text or ping
    idle_close: tuple[int, str] = (1008, "nothing was heard for too long")
    ping_s: float = 0.0  # between two pings of the server; without a pong for a bit over three of them it closes
    life_s: float = 0.0  # from opening
    life_close: tuple[int, str] = (1000, "session lifetime is over")


class Market(NamedTuple):
    """What is traded: instruments, the engine made from them, the makers made from engine and seed. An engine of another kind
    than ``Engine`` says in its module what its numbers mean."""

    instruments: tuple[Any, ...]
    engine: Callable[[Any], Any]
    makers: Callable[[Any, int], Any]


#: The market of a dialect that names none.
FUTURES = Market(INSTRUMENTS, Engine, start_makers)


class Conn(Protocol):
    """A WebSocket connection of the host. A dialect may keep what it knows of it in ``state``.

    ``path``: as requested, with its query; ``headers``: of the handshake, names in lower case; ``heard_ns``, ``sent_ns``: when
    something last came in and was last queued. ``owner``: whose account it is, set by the dialect once it knows (for the log of
    cuts and the control port's ``account``); a connection of several accounts leaves it None, and each of them is known from its
    first request or event.
    """

    path: str
    headers: dict[str, str]
    ip: str
    opened_ns: int
    heard_ns: int
    sent_ns: int
    state: Any
    owner: Owner | None

    @property
    def is_open(self) -> bool:
        """Whether it still takes messages."""

    def send(self, text: bytes) -> None:
        """Queue one text message; without effect once it is closed."""

    def close(self, code: int, reason: str) -> None:
        """Close it the WebSocket way."""


class Host(Protocol):
    """What a dialect may use."""

    engine: Engine
    instruments: tuple[Instrument, ...]
    symbols: dict[str, int]  # index of an instrument by the engine's name of it
    windows: Windows
    funding_rate_e8: int  # of the next settlement
    funding_log: list[Settled]

    def now_ns(self) -> int:
        """The engine's clock."""

    def server_ns(self) -> int:
        """The clock that clients see."""

    def owner(self, api_key: str) -> Owner | None:
        """The owner of a key; None: there is no such key."""

    def owner_of(self, account: int) -> Owner | None:
        """The owner of an account; None: it has no key (makers, the insurance fund)."""

    def fees_ppm(self, account: int) -> tuple[int, int]:
        """(maker, taker)."""

    def changed(self) -> None:
        """After every call of the engine that changes something: its events are taken to the dialect's ``events``, once."""

    def publish(self, conn: Conn, owner: Owner, event: str, client_id: str, text: bytes) -> None:
        """Send an account's event, through the faults of events. ``event``: its name, for fault rules."""

    def next_funding_ms(self, now_ns: int) -> int:
        """When funding is settled next."""

    def refused(self, owner: Owner | None, method: str, symbol: str, client_id: str, code: int, message: str) -> None:
        """Note a refusal for the truth."""

    def note_equity(self, account: int, equity_e8: int, ts_ns: int) -> None:
        """Note an equity served to an account for the truth (kept only of accounts that are watched)."""

    def conns(self) -> list[Conn]:
        """Open connections, oldest first."""


class Dialect(Protocol):
    """One venue's words. Left out may be ``terms`` (no rule then), of the class ``market`` (futures then) and ``instruments``
    (the market's then), ``listed(index)`` (the venue's name of an instrument and what one unit of quantity is of the base asset,
    1e-8) where they are the engine's name and 1, and ``execution_name(index, trade_id, account)`` (a trade as the owner of a side
    is told of it) where it is the trade's number."""

    name: str
    terms: Terms

    def __init__(self, host: Host) -> None: ...

    def accepts(self, conn: Conn) -> bool:
        """Whether there is something at the address of a new WebSocket connection; sets ``conn.state``."""

    def opened(self, conn: Conn) -> None:
        """The handshake is over."""

    def text(self, conn: Conn, text: bytes) -> Work | None:
        """A message. None: it was answered (``conn.send``) or needs no answer."""

    def lost(self, conn: Conn) -> None:
        """The connection is gone; only for those that were opened."""

    def rest(self, request: Request) -> Work:
        """A REST request; a refusal is a ``Work`` whose ``run`` gives the refusal."""

    def events(self, events: list[tuple[int, ...]]) -> None:
        """What the engine did, in its order: to the accounts' connections and to public subscribers."""

    def second(self, now_ns: int) -> None:
        """Once a second, of the engine's clock: marks, expiries."""
