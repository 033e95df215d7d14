"""The venue contract: what copyd relies on of a venue, as data (architecture, decision 8).

Everything that recovery, pacing and refusal depend on is a field of ``VenueContract``; a venue's folder fills it in
(``CONTRACT``), the operator may override a field by name (``overridden``), and ``version`` changes whenever a value does.
Times end in their unit. A limit of 0 means that the venue has none.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from copyd.core.doubt import Terms
from copyd.venues.common.facts import MS_NS

#: A history or a position that has not come after this long is asked for again: longer than the client waits for one call.
LIST_TIMEOUT_NS = 15_000 * MS_NS


class RateLimit(msgspec.Struct, frozen=True):
    """``limit`` units per ``interval_ms``. ``kind``: what is counted; ``scope``: who shares it, "ip" (one address of ours),
    "account", or "account_instrument"."""

    kind: str  # "weight" | "orders" | "requests" | "connects"
    scope: str
    limit: int
    interval_ms: int


class VenueContract(msgspec.Struct, frozen=True, kw_only=True):
    """What the venue does, as far as copyd relies on it."""

    version: int
    venue: str

    # --- identity of an order -----------------------------------------------------------------------------------
    #: Among which orders of an account a client id must be unique. Where those are the open ones only, an order that has
    #: filled frees its id and a resent request is a second order. Hence one id is put on the wire once (semantics 32).
    id_scope: Literal["open_orders", "for_ever"]
    client_id_field: str
    client_id_len_max: int

    # --- the in-doubt fence (semantics 35) ----------------------------------------------------------------------
    #: What bounds an order's life on its way to the engine: the request's own field, or "" where the venue has none and only
    #: its tolerance of the clock does.
    expiry_field: str
    recv_window_ms: int
    recv_window_ms_max: int
    #: The venue accepts a timestamp up to this far ahead of its own clock.
    clock_lead_ms: int
    clock_error_ms: int = 1_000
    engine_delay_ms: int = 10_000
    read_lag_ms: int = 10_000
    guard_ms: int = 2_000
    #: No answer for this long after the write: the order is in doubt.
    order_ack_timeout_ms: int = 5_000

    # --- authoritative queries: only these may answer "absent" ------------------------------------------------
    query_methods: tuple[str, ...] = ()
    query_rest_paths: tuple[str, ...] = ()
    #: An order that ended without a fill is forgotten after this; later, "not found" proves nothing.
    query_absent_valid_ms: int
    #: Orders older than this are in no history at all.
    order_history_ms: int
    #: An order that stays in doubt against contradicting sources is asked about this often.
    held_backoff_ms: int = 60_000
    #: Calls whose weights bound how fast doubts are settled: one order by its id, an account's history, its position.
    call_order: str
    call_orders: str
    call_position: str
    call_account: str

    # --- orders -----------------------------------------------------------------------------------------------
    order_types: tuple[str, ...] = ("limit_ioc", "market")
    position_modes: tuple[Literal["one_way", "hedge"], ...] = ("one_way", "hedge")
    margin_types: tuple[Literal["isolated", "cross"], ...] = ("isolated", "cross")
    #: What the venue makes of a reduce-only order larger than the position: it cuts it, or refuses it whole.
    reduce_only_excess: Literal["cut", "refuse", "none"] = "cut"
    batch_max: int = 1

    # --- limits ---------------------------------------------------------------------------------------------------
    rate_limits: tuple[RateLimit, ...]
    #: Whose orders one connection carries: any account's, or of the one that has logged in on it.
    connection_scope: Literal["any_account", "one_account"]
    connections_per_ip_max: int = 0
    #: Private streams (accounts, listen keys) on one connection, and messages we may send on it per second.
    streams_per_connection_max: int = 1
    stream_messages_per_s_max: int = 10
    connect_attempts_per_5_min: int
    connection_life_ms: int = 86_400_000
    listen_key_valid_ms: int = 0
    listen_key_keepalive_ms: int = 0
    #: A connection on which nothing arrives for so long is pinged; without a pong for as long it is given up.
    ping_idle_ms: int = 5_000
    ping_reply_ms: int = 5_000
    #: Bytes that the kernel does not take for so long: the connection is given up.
    write_deadline_ms: int = 5_000
    #: With a refusal for its rate: orders of one account, not requests of the address.
    order_limit_codes: tuple[int, ...] = ()
    #: Limits and bans that do not say until when; and the longest ban there is.
    limited_default_ms: int = 30_000
    banned_default_ms: int = 120_000
    ban_ms_max: int = 3 * 86_400_000
    frame_bytes_max: int = 1 << 20
    backfill_window_ms: int
    backfill_page_max: int

    # --- weights of the calls we make -------------------------------------------------------------------------
    weights: dict[str, int] = {}
    weight_unlisted: int = 1

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
            weight_order=self.weight(self.call_order),
            weight_orders=self.weight(self.call_orders) if lists else 0,
            weight_position=self.weight(self.call_position) if position else 0,
            weight_per_s=int(weight_per_s) if whole else 1,
            per_ns=1000 * MS_NS if whole else int(1000 * MS_NS / weight_per_s),
            held_backoff_ns=self.held_backoff_ms * MS_NS,
            absent_valid_ns=self.query_absent_valid_ms * MS_NS,
        )

    def weight(self, call: str) -> int:
        """Weight of a call ("GET /fapi/v1/time", "order.status") in the address's budget."""
        return self.weights.get(call, self.weight_unlisted)

    def limit(self, kind: str, scope: str) -> RateLimit:
        """The shortest window of a kind; the token bucket refills at its rate. ``LookupError`` where there is none."""
        found = [r for r in self.rate_limits if r.kind == kind and r.scope == scope]
        if not found:
            raise LookupError(f"{self.venue} has no limit of {kind} per {scope}")
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
