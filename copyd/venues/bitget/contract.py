"""The venue contract of Bitget, as data (architecture, decision 8).

What the fields mean is said at ``VenueContract``.
"""

from __future__ import annotations

import msgspec

from copyd.venues.common.contract import RateLimit, VenueContract

#: The kind of perpetual copyd trades here, as requests name it.
PRODUCT = "USDT-FUTURES"
MARGIN_COIN = "USDT"

#: Every call is one request of the address's budget; what we call is listed, so that a forgotten call is dear.
CALLS = (
    "GET /api/v2/public/time",
    "GET /api/v2/mix/market/contracts",
    "GET /api/v2/spot/public/symbols",
    "POST /api/v2/mix/order/place-order",
    "GET /api/v2/mix/order/detail",
    "GET /api/v2/mix/order/orders-pending",
    "GET /api/v2/mix/order/orders-history",
    "GET /api/v2/mix/order/fills",
    "GET /api/v2/mix/position/all-position",
    "GET /api/v2/mix/account/account",
    "GET /api/v2/mix/account/bill",
    "POST /api/v2/mix/account/set-position-mode",
    "POST /api/v2/mix/account/set-margin-mode",
    "POST /api/v2/mix/account/set-leverage",
    "POST /api/v2/spot/trade/place-order",
    "GET /api/v2/spot/trade/orderInfo",
    "GET /api/v2/spot/trade/unfilled-orders",
    "GET /api/v2/spot/trade/history-orders",
    "GET /api/v2/spot/trade/fills",
    "GET /api/v2/spot/account/assets",
    "GET /api/v2/spot/account/bills",
    "GET /api/v2/spot/market/tickers",
    "GET /api/v2/spot/account/info",
    "GET /api/v3/account/settings",
    "GET /api/v3/account/info",
    "GET /api/v3/account/assets",
    "GET /api/v3/account/financial-records",
    "POST /api/v3/account/set-leverage",
    "POST /api/v3/account/set-hold-mode",
    "GET /api/v3/position/current-position",
    "POST /api/v3/trade/place-order",
    "GET /api/v3/trade/order-info",
    "GET /api/v3/trade/unfilled-orders",
    "GET /api/v3/trade/history-orders",
    "GET /api/v3/trade/fills",
)

DAY_MS = 86_400_000
#: How long the venue turns an address away that has used up its budget.
ADDRESS_RECOVERY_MS = 300_000

CONTRACT = VenueContract(
    version=1,
    venue="bitget",
    id_scope="open_orders",
    client_id_field="clientOid",
    client_id_len_max=32,
    #: No field bounds an order's life; a request counts as long as its timestamp is within the venue's tolerance.
    expiry_field="",
    recv_window_ms=30_000,
    recv_window_ms_max=30_000,
    clock_lead_ms=30_000,
    #: Orders go by REST, whose client gives up after ten seconds.
    order_ack_timeout_ms=10_000,
    query_rest_paths=(
        "/api/v2/mix/order/detail",
        "/api/v2/mix/order/orders-history",
        "/api/v2/mix/position/all-position",
        "/api/v2/spot/trade/orderInfo",
        "/api/v2/spot/trade/history-orders",
        "/api/v3/trade/order-info",
        "/api/v3/trade/history-orders",
        "/api/v3/position/current-position",
    ),
    query_absent_valid_ms=89 * DAY_MS,
    order_history_ms=89 * DAY_MS,
    call_order="GET /api/v2/mix/order/detail",
    call_orders="GET /api/v2/mix/order/orders-history",
    call_position="GET /api/v2/mix/position/all-position",
    call_account="GET /api/v2/mix/account/account",
    rate_limits=(
        RateLimit("weight", "ip", 6_000, 60_000),
        RateLimit("orders", "account", 10, 1_000),
    ),
    connection_scope="one_account",
    connections_per_ip_max=100,
    batch_max=20,
    connect_attempts_per_5_min=300,
    connection_life_ms=DAY_MS,
    #: A text every ten seconds keeps the connection alive (``wire``), so it is never idle for so long.
    ping_idle_ms=30_000,
    ping_reply_ms=10_000,
    order_limit_codes=(429,),
    #: Limits of an account are counted by the second; the address's say their own time (``rest``).
    limited_default_ms=1_000,
    banned_default_ms=ADDRESS_RECOVERY_MS,
    backfill_window_ms=90 * DAY_MS,
    backfill_page_max=100,
    weights=dict.fromkeys(CALLS, 1),
    weight_unlisted=10,
)


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the venue listens. ``public`` and ``private`` are of API v2, ``private_v3`` of v3; ``demo``: requests must say that
    they are play money."""

    rest: str = "https://api.bitget.com"
    public: str = "wss://ws.bitget.com/v2/ws/public"
    private: str = "wss://ws.bitget.com/v2/ws/private"
    private_v3: str = "wss://ws.bitget.com/v3/ws/private"
    demo: bool = False

    @classmethod
    def of(cls, environment: str) -> Endpoints:
        """``live`` or ``demo``; there is no test network. ``ValueError`` for any other."""
        if environment == "live":
            return cls()
        if environment == "demo":
            host = "wss://wspap.bitget.com"
            return cls(
                public=f"{host}/v2/ws/public", private=f"{host}/v2/ws/private", private_v3=f"{host}/v3/ws/private", demo=True)
        raise ValueError(f"Bitget has no environment {environment}: live or demo")

    @classmethod
    def at(cls, rest: str, ws: str) -> Endpoints:
        """The venue's own paths below two plain addresses: ``http://host:port`` and ``ws://host:port``."""
        return cls(rest=rest, public=f"{ws}/v2/ws/public", private=f"{ws}/v2/ws/private", private_v3=f"{ws}/v3/ws/private")
