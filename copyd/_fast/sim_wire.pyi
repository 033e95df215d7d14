"""The simulated exchange's wire: WebSocket frames, fast order entry, user events. Times are ns of the exchange's clock."""

import asyncio
from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

from copyd._fast.sim_engine import Engine

MAX_MESSAGE: int
MAX_PENDING: int

def now_ns() -> int:
    """Wall clock in ns, never going back."""

@disjoint_base
class OrderMeter:
    """Order counts of one account in the venue's two fixed windows (10 s, 1 min)."""

    @property
    def count_10s(self) -> int: ...
    @property
    def count_1m(self) -> int: ...
    def add(self, ns: int, n_10s: int, n_1m: int) -> None: ...
    def counts(self, ns: int) -> tuple[int, int]: ...

@disjoint_base
class IpMeter:
    """Request weight of one address in the current minute."""

    refused: int
    banned_until_ns: int
    def __init__(self, ip: str) -> None: ...
    @property
    def ip(self) -> str: ...
    @property
    def used(self) -> int: ...
    def add(self, ns: int, weight: int) -> int: ...

@disjoint_base
class Key:
    """One API key: whose it is and how its signatures are checked."""

    meter: OrderMeter
    can_trade: bool
    def __init__(
        self,
        api_key: bytes,
        secret: bytes,
        kind: str,
        verify: Callable[[bytes, bytes], bool] | None,
        account: int,
        name: str,
        meter: OrderMeter,
    ) -> None: ...
    @property
    def api_key(self) -> bytes: ...
    @property
    def kind(self) -> str: ...
    @property
    def account(self) -> int: ...
    @property
    def name(self) -> str: ...
    def signed(self, message: bytes, signature: bytes) -> bool: ...

@disjoint_base
class Listener:
    """One subscription: events of one listen key or symbol stream on one connection."""

    def __init__(
        self, conn: WsConn, stream: bytes, place: list[Listener], events: frozenset[str] | None = None
    ) -> None: ...
    @property
    def conn(self) -> WsConn: ...
    @property
    def stream(self) -> bytes: ...
    @property
    def place(self) -> list[Listener]: ...
    @property
    def events(self) -> frozenset[str] | None: ...

@disjoint_base
class WsConn(asyncio.Protocol):
    """A WebSocket connection, as asyncio protocol."""

    is_api: bool
    combined: bool
    rate_limits: bool
    session: Key | None
    session_info: int | None
    meter: IpMeter | None
    streams: dict[str, Listener | None]
    area: str
    opened_ns: int
    last_ping_ns: int
    last_pong_ns: int
    message_window: int
    message_count: int
    @property
    def path(self) -> str: ...
    @property
    def peer(self) -> str: ...
    @property
    def is_open(self) -> bool: ...
    def send(self, payload: bytes) -> None:
        """Queue one text message; it leaves with the next flush of the wire."""

    def ping(self) -> None: ...
    def close(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...
    def stall(self, on: bool) -> None: ...

@disjoint_base
class Wire:
    """Engine, keys and subscriptions as the compiled path sees them."""

    shell: Any
    slow: bool
    event_fault: Callable[[int, str, bytes, bytes], list[bytes]] | None
    limit_10s: int
    limit_1m: int
    skew_ns: int
    def __init__(self, engine: Engine, shell: Any) -> None: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def keys(self) -> dict[bytes, Key]: ...
    @property
    def listeners(self) -> list[list[Listener] | None]: ...
    @property
    def book_listeners(self) -> list[list[Listener]]: ...
    @property
    def trade_listeners(self) -> list[list[Listener]]: ...
    @property
    def agg_listeners(self) -> list[list[Listener]]: ...
    @property
    def all_book_listeners(self) -> list[Listener]: ...
    @property
    def n_placed(self) -> int: ...
    @property
    def n_events_sent(self) -> int: ...
    def connection(self) -> WsConn: ...
    def time_ns(self) -> int:
        """The exchange's clock."""

    def server_ns(self) -> int:
        """The clock its clients see: the same but for a skew set on purpose."""

    def add_key(self, key: Key) -> None: ...
    def open_request(self, conn: WsConn, payload: bytes) -> tuple[bytes, str, dict[str, str], Key | None, int] | None: ...
    def open_params(self, conn: WsConn, params: dict[str, str]) -> tuple[Key | None, int]: ...
    def limits_json(self, conn: WsConn, key: Key | None) -> bytes: ...
    def count_new_order(self, key: Key) -> int: ...
    def place(self, key: Key | None, params: dict[bytes, bytes]) -> tuple[int, str | None, bool]: ...
    def order_json(self, slot: int, result: bool = True, times: bool = True) -> bytes: ...
    def drain(self) -> None: ...
    def flush(self) -> None: ...
    def publish(self, listeners: list[Listener], payload: bytes, name: bytes = b"") -> None: ...
    def publish_user(self, account: int, name: bytes, payload: bytes) -> None: ...
