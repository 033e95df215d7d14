"""The venue contract of OKX v5, as data (architecture, decision 8).

What the fields mean is said at ``VenueContract``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from copyd.venues.common.contract import RateLimit, VenueContract

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
#: ``orders-history`` and ``account/bills`` reach back this far; beyond, their archives must be asked.
HISTORY_MS = 7 * DAY_MS
ARCHIVE_MS = 90 * DAY_MS

ORDER = "/api/v5/trade/order"
ORDERS_PENDING = "/api/v5/trade/orders-pending"
ORDERS_HISTORY = "/api/v5/trade/orders-history"
ORDERS_ARCHIVE = "/api/v5/trade/orders-history-archive"
FILLS = "/api/v5/trade/fills"
FILLS_HISTORY = "/api/v5/trade/fills-history"
BALANCE = "/api/v5/account/balance"
POSITIONS = "/api/v5/account/positions"
CONFIG = "/api/v5/account/config"
LEVERAGE_INFO = "/api/v5/account/leverage-info"
SET_LEVERAGE = "/api/v5/account/set-leverage"
SET_POSITION_MODE = "/api/v5/account/set-position-mode"
BILLS = "/api/v5/account/bills"
BILLS_ARCHIVE = "/api/v5/account/bills-archive"
INSTRUMENTS = "/api/v5/public/instruments"
TICKERS = "/api/v5/market/tickers"
TIME = "/api/v5/public/time"

#: The venue counts private calls per user and endpoint, public ones per address and endpoint. The address's budget is
#: therefore ours: 100 a second, in which a public call weighs what keeps it inside its own limit (10 or 20 per 2 s).
WEIGHTS = {
    f"GET {ORDER}": 1,
    f"POST {ORDER}": 1,
    f"GET {ORDERS_PENDING}": 1,
    f"GET {ORDERS_HISTORY}": 2,
    f"GET {ORDERS_ARCHIVE}": 4,
    f"GET {FILLS}": 1,
    f"GET {FILLS_HISTORY}": 8,
    f"GET {BALANCE}": 2,
    f"GET {POSITIONS}": 2,
    f"GET {CONFIG}": 2,
    f"GET {LEVERAGE_INFO}": 2,
    f"POST {SET_LEVERAGE}": 2,
    f"POST {SET_POSITION_MODE}": 2,
    f"GET {BILLS}": 4,
    f"GET {BILLS_ARCHIVE}": 8,
    f"GET {INSTRUMENTS}": 10,
    f"GET {TICKERS}": 10,
    f"GET {TIME}": 20,
}

#: Calls that one account may make in so many ms. Order and history queries are counted per instrument as well; one bucket
#: per account is the stricter reading.
ACCOUNT_LIMITS: dict[str, tuple[int, int]] = {
    f"GET {ORDER}": (60, 2_000),
    f"POST {ORDER}": (60, 2_000),
    f"GET {ORDERS_PENDING}": (60, 2_000),
    f"GET {ORDERS_HISTORY}": (40, 2_000),
    f"GET {ORDERS_ARCHIVE}": (20, 2_000),
    f"GET {FILLS}": (60, 2_000),
    f"GET {FILLS_HISTORY}": (10, 2_000),
    f"GET {BALANCE}": (10, 2_000),
    f"GET {POSITIONS}": (10, 2_000),
    f"GET {CONFIG}": (5, 2_000),
    f"GET {LEVERAGE_INFO}": (20, 2_000),
    f"POST {SET_LEVERAGE}": (20, 2_000),
    f"POST {SET_POSITION_MODE}": (5, 2_000),
    f"GET {BILLS}": (5, 1_000),
    f"GET {BILLS_ARCHIVE}": (5, 2_000),
}

CONTRACT = VenueContract(
    version=1,
    venue="okx",
    id_scope="open_orders",
    client_id_field="clOrdId",
    client_id_len_max=32,
    expiry_field="expTime",
    recv_window_ms=2_000,
    recv_window_ms_max=30_000,
    clock_lead_ms=30_000,
    query_rest_paths=(ORDER, ORDERS_PENDING, ORDERS_HISTORY, ORDERS_ARCHIVE, POSITIONS),
    query_absent_valid_ms=2 * HOUR_MS,
    order_history_ms=ARCHIVE_MS,
    call_order=f"GET {ORDER}",
    call_orders=f"GET {ORDERS_HISTORY}",
    call_position=f"GET {POSITIONS}",
    call_account=f"GET {BALANCE}",
    reduce_only_excess="refuse",
    batch_max=20,
    rate_limits=(
        RateLimit("weight", "ip", 6_000, 60_000),
        RateLimit("orders", "account_instrument", 60, 2_000),
        RateLimit("orders", "account", 1_000, 2_000),
        RateLimit("connects", "ip", 3, 1_000),
    ),
    connection_scope="one_account",
    #: Three a second; the venue knows no longer window.
    connect_attempts_per_5_min=900,
    #: The venue says beforehand when it closes one; it sets no lifetime.
    connection_life_ms=0,
    #: Endpoint and sub-account; neither says when to come again.
    order_limit_codes=(50011, 50061),
    limited_default_ms=2_000,
    backfill_window_ms=ARCHIVE_MS,
    backfill_page_max=100,
    weights=WEIGHTS,
    weight_unlisted=20,  # as dear as the dearest
)


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the venue listens; ``at`` gives the same layout elsewhere (the simulated exchange)."""

    rest: str = "https://openapi.okx.com"
    private: str = "wss://ws.okx.com:8443/ws/v5/private"
    public: str = "wss://ws.okx.com:8443/ws/v5/public"
    #: REST calls carry ``x-simulated-trading: 1``: the venue's demo shares the host with real trading.
    simulated: bool = False

    @classmethod
    def of(cls, environment: Literal["live", "demo", "testnet"]) -> Endpoints:
        """The venue's own addresses; ``ValueError`` for an environment it does not have."""
        if environment == "live":
            return cls()
        if environment == "demo":
            demo = "wss://wspap.okx.com:8443/ws/v5"
            return cls(private=f"{demo}/private", public=f"{demo}/public", simulated=True)
        raise ValueError(f"okx has no environment {environment!r}: it has live and demo")

    @classmethod
    def at(cls, rest: str, ws: str) -> Endpoints:
        """The venue's own paths below two plain addresses: ``http://host:port`` and ``ws://host:port``."""
        return cls(rest=rest, private=f"{ws}/ws/v5/private", public=f"{ws}/ws/v5/public")
