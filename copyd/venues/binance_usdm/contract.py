"""The venue contract of Binance USD-M futures, as data (architecture, decision 8).

What the fields mean is said at ``VenueContract``.
"""

from __future__ import annotations

import msgspec

from copyd.venues.common.contract import RateLimit, VenueContract

#: IP weight of each call we make.
WEIGHTS = {
    "GET /fapi/v1/income": 30,
    "GET /sapi/v1/account/apiRestrictions": 1,
    "GET /fapi/v1/time": 1,
    "GET /fapi/v1/exchangeInfo": 1,
    "GET /fapi/v1/order": 1,
    "GET /fapi/v1/openOrders": 1,
    "GET /fapi/v1/allOrders": 5,
    "GET /fapi/v1/userTrades": 5,
    "GET /fapi/v3/positionRisk": 5,
    "GET /fapi/v3/account": 5,
    "GET /fapi/v3/balance": 5,
    "GET /fapi/v1/accountConfig": 5,
    "GET /fapi/v1/symbolConfig": 5,
    "GET /fapi/v1/leverageBracket": 1,
    "GET /fapi/v1/ticker/bookTicker": 2,
    "GET /fapi/v1/premiumIndex": 1,
    "GET /fapi/v1/positionSide/dual": 30,
    "POST /fapi/v1/positionSide/dual": 1,
    "POST /fapi/v1/marginType": 1,
    "POST /fapi/v1/leverage": 1,
    "POST /fapi/v1/listenKey": 1,
    "PUT /fapi/v1/listenKey": 1,
    "DELETE /fapi/v1/listenKey": 1,
    "order.status": 1,
    "v2/account.status": 5,
    "v2/account.balance": 5,
    "v2/account.position": 5,
}


CONTRACT = VenueContract(
    version=3,
    venue="binance_usdm",
    id_scope="open_orders",
    client_id_field="newClientOrderId",
    client_id_len_max=36,
    expiry_field="recvWindow",
    recv_window_ms=2_000,
    recv_window_ms_max=60_000,
    clock_lead_ms=1_000,
    query_methods=("order.status",),
    query_rest_paths=("/fapi/v1/order", "/fapi/v1/allOrders", "/fapi/v3/positionRisk"),
    query_absent_valid_ms=3 * 86_400_000,
    order_history_ms=89 * 86_400_000,
    call_order="order.status",
    call_orders="GET /fapi/v1/allOrders",
    call_position="GET /fapi/v3/positionRisk",
    call_account="v2/account.status",
    rate_limits=(
        RateLimit("weight", "ip", 2_400, 60_000),
        RateLimit("orders", "account", 300, 10_000),
        RateLimit("orders", "account", 1_200, 60_000),
    ),
    connection_scope="any_account",
    batch_max=5,
    order_limit_codes=(-1015,),
    #: Two listen-key keep-alives fit into the hour the key lives.
    listen_key_valid_ms=3_600_000,
    listen_key_keepalive_ms=1_800_000,
    streams_per_connection_max=1_000,
    connect_attempts_per_5_min=300,
    backfill_window_ms=7 * 86_400_000,
    backfill_page_max=1_000,
    weights=WEIGHTS,
    weight_unlisted=30,  # as dear as the dearest
)


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the venue listens; ``at`` gives the same layout elsewhere (the simulated exchange)."""

    rest: str = "https://fapi.binance.com"
    #: Where what a key may do is asked (``/sapi``); no other call goes there.
    sapi: str = "https://api.binance.com"
    ws_api: str = "wss://ws-fapi.binance.com/ws-fapi/v1"
    public: str = "wss://fstream.binance.com/public"
    market: str = "wss://fstream.binance.com/market"
    private: str = "wss://fstream.binance.com/private"

    @classmethod
    def of(cls, environment: str) -> Endpoints:
        """The venue's own addresses; its demo and its testnet are one place."""
        if environment == "live":
            return cls()
        return cls(
            rest="https://demo-fapi.binance.com",
            sapi="https://demo-api.binance.com",
            ws_api="wss://testnet.binancefuture.com/ws-fapi/v1",
            public="wss://fstream.binancefuture.com/public",
            market="wss://fstream.binancefuture.com/market",
            private="wss://fstream.binancefuture.com/private",
        )

    @classmethod
    def at(cls, rest: str, streams: str) -> Endpoints:
        """The venue's own paths below two plain addresses: ``http://host:port`` and ``ws://host:port``."""
        return cls(
            rest=rest,
            sapi=rest,
            ws_api=f"{streams}/ws-fapi/v1",
            public=f"{streams}/public",
            market=f"{streams}/market",
            private=f"{streams}/private",
        )
