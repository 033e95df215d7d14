"""The venue contract of Binance USD-M futures, as data (architecture, decision 8).

Everything that recovery, pacing and refusal depend on is a field of ``VenueContract``; the operator may override a
field by name (``overridden``), and ``version`` changes whenever a default does. Times end in their unit.
"""

from __future__ import annotations

from typing import Any

import msgspec

from copyd.core.doubt import Terms

MS_NS = 1_000_000
#: A history or a position that has not come after this long is asked for again: longer than the client waits for one call.
LIST_TIMEOUT_NS = 15_000 * MS_NS


class RateLimit(msgspec.Struct, frozen=True):
    """``limit`` units per ``interval_ms``. ``scope`` says who shares them: one address ("ip") or one account."""

    kind: str  # "weight" | "orders"
    scope: str  # "ip" | "account"
    limit: int
    interval_ms: int


#: IP weight of each call we make.
WEIGHTS = {
    "GET /fapi/v1/income": 30,
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


class VenueContract(msgspec.Struct, frozen=True, kw_only=True):
    """What the venue does, as far as copyd relies on it."""

    version: int = 2
    venue: str = "binance_usdm"

    # --- identity of an order -----------------------------------------------------------------------------------
    #: A client id is unique among *open* orders only: an order that has filled frees its id, so a resent request is a
    #: second order. Hence one id is put on the wire once (semantics 32).
    id_scope: str = "open_orders"
    client_id_field: str = "newClientOrderId"
    client_id_len_max: int = 36

    # --- the in-doubt fence (semantics 35) ----------------------------------------------------------------------
    expiry_field: str = "recvWindow"
    recv_window_ms: int = 2_000
    recv_window_ms_max: int = 60_000
    #: The venue accepts a timestamp up to this far ahead of its own clock.
    clock_lead_ms: int = 1_000
    clock_error_ms: int = 1_000
    engine_delay_ms: int = 10_000
    read_lag_ms: int = 10_000
    guard_ms: int = 2_000
    #: No answer for this long after the write: the order is in doubt.
    order_ack_timeout_ms: int = 5_000

    # --- authoritative queries: only these may answer "absent" ------------------------------------------------
    query_methods: tuple[str, ...] = ("order.status",)
    query_rest_paths: tuple[str, ...] = ("/fapi/v1/order", "/fapi/v1/allOrders", "/fapi/v3/positionRisk")
    #: An order that ended without a fill is forgotten after this; later, "not found" proves nothing.
    query_absent_valid_ms: int = 3 * 86_400_000
    #: Orders older than this are in no history at all.
    order_history_ms: int = 89 * 86_400_000
    #: An order that stays in doubt against contradicting sources is asked about this often.
    held_backoff_ms: int = 60_000

    # --- limits ---------------------------------------------------------------------------------------------------
    rate_limits: tuple[RateLimit, ...] = (
        RateLimit("weight", "ip", 2_400, 60_000),
        RateLimit("orders", "account", 300, 10_000),
        RateLimit("orders", "account", 1_200, 60_000),
    )
    batch_max: int = 5
    #: Two listen-key keep-alives fit into the hour the key lives.
    listen_key_valid_ms: int = 3_600_000
    listen_key_keepalive_ms: int = 1_800_000
    connection_life_ms: int = 86_400_000
    #: Streams (listen keys among them) on one connection, and messages we may send on it per second.
    streams_per_connection_max: int = 1_000
    stream_messages_per_s_max: int = 10
    connect_attempts_per_5_min: int = 300
    #: A connection on which nothing arrives for so long is pinged; without a pong for as long it is given up.
    ping_idle_ms: int = 5_000
    ping_reply_ms: int = 5_000
    #: Bytes that the kernel does not take for so long: the connection is given up.
    write_deadline_ms: int = 5_000
    #: 429 and 418 that do not say until when; and the longest ban there is.
    limited_default_ms: int = 30_000
    banned_default_ms: int = 120_000
    ban_ms_max: int = 3 * 86_400_000
    frame_bytes_max: int = 1 << 20
    backfill_window_ms: int = 7 * 86_400_000
    backfill_page_max: int = 1_000

    # --- weights of the calls we make -------------------------------------------------------------------------
    weights: dict[str, int] = msgspec.field(default_factory=lambda: dict(WEIGHTS))

    def fence_ns(self) -> int:
        """From the signed time: only a "not found" to a query *issued after* this proves that an order is absent."""
        ms = self.recv_window_ms + self.clock_error_ms + self.engine_delay_ms + self.read_lag_ms + self.guard_ms
        return ms * MS_NS

    def doubt_terms(self, weight_per_s: float, *, lists: bool = True, position: bool = True) -> Terms:
        """How orders in doubt are settled here, within this much weight a second."""
        whole = weight_per_s >= 1
        return Terms(
            fence_ns=self.fence_ns(),
            ask_timeout_ns=self.order_ack_timeout_ms * MS_NS,
            list_timeout_ns=LIST_TIMEOUT_NS,
            read_lag_ns=self.read_lag_ms * MS_NS,
            guard_ns=self.guard_ms * MS_NS,
            weight_order=self.weight("order.status"),
            weight_orders=self.weight("GET /fapi/v1/allOrders") if lists else 0,
            weight_position=self.weight("GET /fapi/v3/positionRisk") if position else 0,
            weight_per_s=int(weight_per_s) if whole else 1,
            per_ns=1000 * MS_NS if whole else int(1000 * MS_NS / weight_per_s),
            held_backoff_ns=self.held_backoff_ms * MS_NS,
            absent_valid_ns=self.query_absent_valid_ms * MS_NS,
        )

    def weight(self, call: str) -> int:
        """IP weight of a call ("GET /fapi/v1/time", "order.status"); an unlisted call is taken as dear as the dearest."""
        return self.weights.get(call, 30)

    def limit(self, kind: str, scope: str) -> RateLimit:
        """The shortest window of a kind; the token bucket refills at its rate."""
        found = [r for r in self.rate_limits if r.kind == kind and r.scope == scope]
        return min(found, key=lambda r: r.interval_ms)

    def overridden(self, terms: dict[str, Any]) -> VenueContract:
        """The same contract with some terms replaced; an unknown term or a wrong type raises ``ValueError``."""
        unknown = sorted(set(terms) - set(self.__struct_fields__))
        if unknown:
            raise ValueError(f"unknown contract term: {', '.join(unknown)}")
        try:
            return msgspec.convert({**msgspec.structs.asdict(self), **terms}, VenueContract)
        except msgspec.ValidationError as problem:
            raise ValueError(str(problem)) from None


CONTRACT = VenueContract()


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the venue listens; ``at`` gives the same layout elsewhere (the simulated exchange)."""

    rest: str = "https://fapi.binance.com"
    ws_api: str = "wss://ws-fapi.binance.com/ws-fapi/v1"
    public: str = "wss://fstream.binance.com/public"
    market: str = "wss://fstream.binance.com/market"
    private: str = "wss://fstream.binance.com/private"

    @classmethod
    def at(cls, rest: str, streams: str) -> Endpoints:
        """The venue's own paths below two plain addresses: ``http://host:port`` and ``ws://host:port``."""
        return cls(
            rest=rest,
            ws_api=f"{streams}/ws-fapi/v1",
            public=f"{streams}/public",
            market=f"{streams}/market",
            private=f"{streams}/private",
        )
