"""The venue contract of Binance spot, as data (architecture, decision 8).

What the fields mean is said at ``VenueContract``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from copyd.venues.common.contract import RateLimit, VenueContract

DAY_MS = 86_400_000

#: IP weight of each call we make. A placement costs nothing where it succeeds: what it costs refused is counted.
WEIGHTS = {
    "GET /api/v3/time": 1,
    "GET /api/v3/exchangeInfo": 20,
    "GET /api/v3/ticker/price": 4,
    "GET /api/v3/account": 20,
    "GET /api/v3/order": 4,
    "POST /api/v3/order": 1,
    "DELETE /api/v3/order": 1,
    "GET /api/v3/openOrders": 6,
    "GET /api/v3/allOrders": 20,
    "GET /api/v3/myTrades": 20,
    # the executions of one order
    "trades.of_order": 5,
    # balances, and the prices of what is held
    "books.query": 24,
    "GET /sapi/v1/account/apiRestrictions": 1,
    "GET /sapi/v1/capital/deposit/hisrec": 1,
    "GET /sapi/v1/capital/withdraw/history": 1,
    "GET /sapi/v1/asset/transfer": 1,
    "order.place": 1,
    "order.status": 4,
    "order.cancel": 1,
    "account.status": 20,
    "userDataStream.subscribe.signature": 2,
}

CONTRACT = VenueContract(
    version=1,
    venue="binance_spot",
    id_scope="open_orders",
    client_id_field="newClientOrderId",
    client_id_len_max=36,
    expiry_field="recvWindow",
    recv_window_ms=2_000,
    recv_window_ms_max=60_000,
    clock_lead_ms=1_000,
    query_methods=("order.status",),
    query_rest_paths=("/api/v3/order", "/api/v3/allOrders", "/api/v3/account"),
    #: Later the venue says that it has put the order away, which is no "not found".
    query_absent_valid_ms=90 * DAY_MS,
    order_history_ms=90 * DAY_MS,
    call_order="GET /api/v3/order",
    call_orders="GET /api/v3/allOrders",
    call_position="GET /api/v3/account",
    call_account="books.query",
    position_modes=("one_way",),
    margin_types=("isolated",),
    reduce_only_excess="none",
    batch_max=1,
    rate_limits=(
        RateLimit("weight", "ip", 6_000, 60_000),
        RateLimit("requests", "ip", 300_000, 300_000),
        #: Of orders that have not filled; the documentation's number, the smallest that is told.
        RateLimit("orders", "account", 50, 10_000),
        RateLimit("orders", "account", 160_000, DAY_MS),
        RateLimit("connects", "ip", 300, 300_000),
    ),
    connection_scope="any_account",
    order_limit_codes=(-1015,),
    streams_per_connection_max=1_000,
    stream_messages_per_s_max=5,
    connect_attempts_per_5_min=300,
    connection_life_ms=DAY_MS,
    backfill_window_ms=DAY_MS,
    backfill_page_max=1_000,
    weights=WEIGHTS,
    weight_unlisted=80,  # as dear as the dearest
)

Environment = Literal["live", "demo", "testnet"]


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the venue listens. ``sapi`` False: no wallet service there, what a key may do is not told."""

    rest: str = "https://api.binance.com"
    sapi: bool = True
    ws_api: str = "wss://ws-api.binance.com:443/ws-api/v3"
    streams: str = "wss://stream.binance.com:9443"

    @classmethod
    def of(cls, environment: Environment) -> Endpoints:
        """The venue's own addresses. Demo shows the live market; the testnet is wiped about monthly."""
        if environment == "live":
            return cls()
        if environment == "demo":
            return cls(
                rest="https://demo-api.binance.com",
                ws_api="wss://demo-ws-api.binance.com/ws-api/v3", streams="wss://demo-stream.binance.com",
            )  # fmt: skip
        if environment == "testnet":
            return cls(
                rest="https://testnet.binance.vision", sapi=False, ws_api="wss://ws-api.testnet.binance.vision/ws-api/v3",
                streams="wss://stream.testnet.binance.vision",
            )  # fmt: skip
        raise ValueError(f"no environment {environment!r}: live, demo or testnet")

    @classmethod
    def at(cls, rest: str, ws: str) -> Endpoints:
        """The venue's own paths below two plain addresses: ``http://host:port`` and ``ws://host:port``."""
        return cls(rest=rest, ws_api=f"{ws}/ws-api/v3", streams=ws)
