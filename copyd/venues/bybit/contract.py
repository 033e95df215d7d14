"""The venue contract of Bybit v5, as data (architecture, decision 8).

What the fields mean is said at ``VenueContract``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from copyd.venues.common.contract import RateLimit, VenueContract

DAY_MS = 86_400_000

#: Requests of the address's budget that each call costs; the first four are several requests each.
WEIGHTS = {
    # one order by our id: open and lately ended ones, then the history, then its executions
    "order.query": 3,
    # an account's orders since a time: the open ones and one page or two of the history
    "orders.query": 3,
    # balance, then positions
    "account.query": 2,
    "settings.query": 2,
    "GET /v5/market/time": 1,
    "GET /v5/market/instruments-info": 1,
    "GET /v5/market/tickers": 1,
    "GET /v5/order/realtime": 1,
    "GET /v5/order/history": 1,
    "GET /v5/execution/list": 1,
    "GET /v5/position/list": 1,
    "GET /v5/account/wallet-balance": 1,
    "GET /v5/account/info": 1,
    "GET /v5/account/transaction-log": 1,
    "GET /v5/user/query-api": 1,
    "POST /v5/order/create": 1,
    "POST /v5/account/set-margin-mode": 1,
    "POST /v5/position/set-leverage": 1,
    "POST /v5/position/switch-mode": 1,
}

CONTRACT = VenueContract(
    version=1,
    venue="bybit",
    #: How long an id is remembered after its order ended is not documented: one id is put on the wire once all the same.
    id_scope="for_ever",
    client_id_field="orderLinkId",
    client_id_len_max=36,
    expiry_field="X-BAPI-RECV-WINDOW",
    recv_window_ms=2_000,
    #: No bound is documented; this is the largest the documentation itself uses.
    recv_window_ms_max=8_000,
    clock_lead_ms=1_000,
    query_rest_paths=("/v5/order/realtime", "/v5/order/history", "/v5/execution/list", "/v5/position/list"),
    #: Cancelled and rejected orders without a fill leave the history after a day.
    query_absent_valid_ms=DAY_MS,
    order_history_ms=730 * DAY_MS,
    call_order="order.query",
    call_orders="orders.query",
    call_position="GET /v5/position/list",
    call_account="account.query",
    reduce_only_excess="cut",
    #: Of spot; perpetuals take 20.
    batch_max=10,
    rate_limits=(
        RateLimit("weight", "ip", 600, 5_000),
        #: Of the order sockets, beside the other.
        RateLimit("requests", "ip", 3_000, 1_000),
        #: Of perpetuals and an account without a VIP level; spot has 20.
        RateLimit("orders", "account", 10, 1_000),
        RateLimit("connects", "ip", 500, 300_000),
    ),
    connection_scope="one_account",
    order_limit_codes=(10006,),
    connect_attempts_per_5_min=500,
    #: No end of a connection's life is documented.
    connection_life_ms=0,
    #: An address that asked too often is shut out for ten minutes or longer, and is not told until when.
    limited_default_ms=5_000,
    banned_default_ms=600_000,
    backfill_window_ms=7 * DAY_MS,
    backfill_page_max=100,
    weights=WEIGHTS,
)

#: Orders on one page, of which the venue gives fewer than of executions; and positions.
ORDERS_PAGE = 50
POSITIONS_PAGE = 200
LOG_PAGE = 50
INSTRUMENTS_PAGE = 1_000
#: Private connections are cut after ten silent minutes; the venue asks for a ping this often.
PING = b'{"op":"ping"}'
PING_EVERY_MS = 20_000


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the venue listens. ``trade`` empty: no order socket there, orders go by REST."""

    rest: str = "https://api.bybit.com"
    private: str = "wss://stream.bybit.com/v5/private"
    trade: str = "wss://stream.bybit.com/v5/trade"
    public: str = "wss://stream.bybit.com/v5/public"

    @classmethod
    def of(cls, environment: Literal["live", "demo", "testnet"]) -> Endpoints:
        """The venue's own addresses. Demo shows the live market and has no order socket."""
        if environment == "live":
            return cls()
        if environment == "demo":
            return cls(rest="https://api-demo.bybit.com", private="wss://stream-demo.bybit.com/v5/private", trade="")
        if environment == "testnet":
            streams = "wss://stream-testnet.bybit.com/v5"
            return cls(
                rest="https://api-testnet.bybit.com", private=f"{streams}/private", trade=f"{streams}/trade",
                public=f"{streams}/public",
            )  # fmt: skip
        raise ValueError(f"no environment {environment!r}: live, demo or testnet")

    @classmethod
    def at(cls, rest: str, ws: str) -> Endpoints:
        """The venue's own paths below two plain addresses: ``http://host:port`` and ``ws://host:port``."""
        return cls(rest=rest, private=f"{ws}/v5/private", trade=f"{ws}/v5/trade", public=f"{ws}/v5/public")
