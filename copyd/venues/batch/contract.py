"""The terms of the batch path as data: how long an order is valid, how long an answer may take, when absence is proven."""

from __future__ import annotations

from typing import Final

import msgspec

from copyd.core.doubt import Terms

MS_NS: Final = 1_000_000


class BatchContract(msgspec.Struct, frozen=True, kw_only=True):
    """One engine's terms; times in ms."""

    valid_ms: int = 1_000  # after this long the engine refuses an order (LATE); also how long one may be sent again
    order_ack_timeout_ms: int = 2_000  # without a report by then an order is in doubt
    clock_error_ms: int = 5  # most by which our estimate of the engine's clock is off
    engine_delay_ms: int = 250  # most an order that was valid on arrival waits before it shows in a query
    read_lag_ms: int = 0  # queries are answered by the engine itself, in the order of the session
    guard_ms: int = 50
    write_deadline_ms: int = 3_000  # the other side takes no byte for so long: the connection is given up
    opening_wait_ms: int = 500  # an opening without room in the window is given up after this long
    connect_timeout_ms: int = 3_000
    reconnect_first_ms: int = 50
    reconnect_max_ms: int = 5_000
    held_backoff_ms: int = 60_000
    queries_per_s: int = 20_000  # ids
    query_ids_max: int = 2_048
    batch_records: int = 2_048
    window_records_max: int = 1 << 20

    def fence_ns(self) -> int:
        """From the moment an order was stamped to the moment from which "not found" proves absence (semantics 35)."""
        return (self.valid_ms + self.clock_error_ms + self.engine_delay_ms + self.read_lag_ms + self.guard_ms) * MS_NS

    def doubt_terms(self, horizon_ns: int, *, position: bool) -> Terms:
        """How orders in doubt are settled: by id at the engine, and by the position where somebody can be asked for it.

        ``horizon_ns``: how long the engine remembers an id; after that its silence proves nothing.
        """
        return Terms(
            fence_ns=self.fence_ns(), ask_timeout_ns=self.order_ack_timeout_ms * MS_NS,
            read_lag_ns=self.read_lag_ms * MS_NS, guard_ns=self.guard_ms * MS_NS, weight_order=1, weight_orders=0,
            weight_position=100 if position else 0, weight_per_s=self.queries_per_s,
            held_backoff_ns=self.held_backoff_ms * MS_NS, absent_valid_ns=horizon_ns,
        )


CONTRACT = BatchContract()
