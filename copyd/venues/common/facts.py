"""What every venue adapter says, in one vocabulary: report rows, events of leaders and followers, market data.

Our units: ns, ticks, lots, 1e-8 of the quote asset. Position side: 0 BOTH, 1 LONG, 2 SHORT. Every number is an exact scaled
integer; what cannot be read becomes a ``Malformed`` value, which the caller counts: no frame of a counterparty raises
through the loop.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from copyd._fast.decimals import cut_scaled
from copyd.core.leader_stream import Execution

MS_NS: Final = 1_000_000

# --- report rows, as the core's ReportBatch takes them --------------------------------------------------------------
REPLY: Final = 1  # the venue answered: the order is in `status`
REJECT: Final = 2  # definitely not accepted
IN_DOUBT: Final = 3
DEAD: Final = 4  # "not found" to a query issued after the fence
STREAM: Final = 5  # order update without a trade
TRADE: Final = 6
BALANCE: Final = 7
NOT_SENT: Final = 8  # no byte of it was written
HELD: Final = 9  # what the venue's sources say about it contradicts itself

#: Order states of report rows: FIX's, as the core counts them.
NEW: Final = 2
PARTIALLY_FILLED: Final = 3
FILLED: Final = 4
CANCELED: Final = 6
EXPIRED: Final = 7
REJECTED: Final = 8
TERMINAL_STATUS: Final = frozenset({FILLED, CANCELED, EXPIRED, REJECTED})


class Malformed(msgspec.Struct, frozen=True):
    """A frame or body that cannot be read: why, how long it was, and how it began."""

    why: str
    size: int
    head: bytes


def malformed(why: object, payload: bytes) -> Malformed:
    """A ``Malformed`` with the first 80 bytes kept for the log."""
    return Malformed(str(why)[:200], len(payload), bytes(payload[:80]))


class Placed(NamedTuple):
    """What was asked for under a client order id: the fields that no answer may show otherwise. ``side``: +1, -1; lots."""

    account: int
    instrument: int
    side: int
    position_side: int
    qty: int
    reduce_only: bool = False
    venue_order_id: int = 0
    lacking: int = 0  # lots that filled and whose executions were not told


# --- facts ------------------------------------------------------------------------------------------------------------
class LeaderFill(msgspec.Struct, frozen=True, tag=True):
    """One execution of the leader. ``live`` is False when it was found by back-fill (semantics 12)."""

    leader: int
    instrument: int
    exec_id: int
    order_id: int
    client_order_id: str
    side: int
    position_side: int
    qty: int
    px: int
    order_qty: int  # lots, whole order; 0 = unknown (back-fill)
    cum_qty: int
    maker: bool
    reduce_only: bool
    live: bool
    cause: str  # "" | "liquidation" | "adl"
    ts_event: int
    ts_recv: int
    raw: bytes = b""


class LeaderPosition(msgspec.Struct, frozen=True, tag=True):
    """What the venue says the leader holds. ``source``: push, poll or snapshot; leverage 0 = not told."""

    leader: int
    instrument: int
    position_side: int
    qty: int
    source: str
    leverage: int
    isolated: bool
    ts_event: int
    ts_recv: int
    raw: bytes = b""


class LeaderEquity(msgspec.Struct, frozen=True, tag=True):
    """Margin balance including unrealised (semantics 16)."""

    leader: int
    equity_e8: int
    wallet_e8: int
    available_e8: int
    ts_event: int
    ts_recv: int


class LeaderWallet(msgspec.Struct, frozen=True, tag=True):
    """A pushed wallet balance and its cause as the venue names it (ORDER, DEPOSIT, FUNDING_FEE, ...)."""

    leader: int
    asset: str
    wallet_e8: int
    change_e8: int
    cause: str
    ts_event: int
    ts_recv: int
    raw: bytes = b""


class LeaderLeverage(msgspec.Struct, frozen=True, tag=True):
    leader: int
    instrument: int
    leverage: int
    ts_event: int
    ts_recv: int
    raw: bytes = b""


class LeaderMarginCall(msgspec.Struct, frozen=True, tag=True):
    leader: int
    ts_event: int
    ts_recv: int
    raw: bytes = b""


class LeaderSync(msgspec.Struct, frozen=True, tag=True):
    """False: the stream is interrupted. True: ``positions`` and every fill delivered before this agree."""

    leader: int
    synced: bool
    reason: str
    positions: tuple[LeaderPosition, ...]
    ts_recv: int


LeaderEvent = LeaderFill | LeaderPosition | LeaderEquity | LeaderWallet | LeaderLeverage | LeaderMarginCall | LeaderSync


class Quote(msgspec.Struct, frozen=True):
    instrument: int
    bid: int
    bid_qty: int
    ask: int
    ask_qty: int
    ts_event: int
    ts_recv: int


class Mark(msgspec.Struct, frozen=True):
    """Mark price to the nearest tick; the funding rate in 1e-6."""

    instrument: int
    mark: int
    funding_ppm: int
    ts_event: int
    ts_recv: int


class ExternalFill(msgspec.Struct, frozen=True, tag=True):
    """A trade on a follower's account that is not ours."""

    account: int
    instrument: int
    position_side: int
    qty: int  # signed lots
    px: int
    trade_id: int
    kind: str  # "manual" | "liquidation" | "adl"
    client_order_id: str
    ts_event: int
    ts_recv: int


class AccountPosition(msgspec.Struct, frozen=True, tag=True):
    account: int
    instrument: int
    position_side: int
    qty: int
    ts_event: int
    ts_recv: int


class AccountFunding(msgspec.Struct, frozen=True, tag=True):
    """Funding of a position, above 0: received. ``instrument`` -1: not said (isolated positions are named). ``id``: the venue's
    number of the payment, 0 = none: it is known by its time."""

    account: int
    instrument: int
    amount_e8: int
    ts_event: int
    ts_recv: int
    id: int = 0


class AccountLeverage(msgspec.Struct, frozen=True, tag=True):
    account: int
    instrument: int
    leverage: int
    ts_event: int
    ts_recv: int


class OrphanFill(msgspec.Struct, frozen=True, tag=True):
    """A trade of an order that bears our site's tag and that we do not know. ``qty`` lots, signed; ``cid`` 16 bytes."""

    account: int
    instrument: int
    position_side: int
    qty: int
    px: int
    trade_id: int
    cid: bytes
    ts_event: int


class StreamGap(msgspec.Struct, frozen=True, tag=True):
    """Events of this account may be missing since the last one: take a snapshot."""

    account: int
    reason: str


class AccountSnapshot(msgspec.Struct, frozen=True, tag=True):
    """``positions``: (instrument, position side, signed lots, entry price 1e-8)."""

    account: int
    wallet_e8: int
    available_e8: int
    equity_e8: int
    positions: tuple[tuple[int, int, int, int], ...]
    ts_event: int
    ts_recv: int


class LegState(msgspec.Struct, frozen=True, tag=True):
    """Whether an instrument of an account is set as the plan needs it (semantics 25)."""

    account: int
    instrument: int
    ready: bool
    reason: str
    hedge: bool
    isolated: bool
    leverage: int
    ts_recv: int


# --- texts to numbers --------------------------------------------------------------------------------------------------
def decode_body(payload: bytes, kind: Any) -> Any:
    """A REST body as ``kind``; ``ValueError`` (msgspec's) when it does not fit: the caller is a slow path."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except RecursionError as problem:
        raise ValueError(str(problem)[:200]) from None


# --- wire to facts ------------------------------------------------------------------------------------------------------
def cid_bytes(client_order_id: str) -> bytes | None:
    """16 bytes of a client order id of ours, None for any other text."""
    if len(client_order_id) != 32:
        return None
    try:
        return bytes.fromhex(client_order_id)
    except ValueError:
        return None


def own_cid(request_id: str) -> bytes | None:
    """16 bytes of a client order id exactly as we write it; None for any other text."""
    raw = cid_bytes(request_id)
    return raw if raw is not None and raw.hex() == request_id else None


def cost_e8(average: str, quantity: str, quote: str = "") -> int:
    """Cumulative quote amount in 1e-8, rounded down: the venue's own sum, else average x quantity; 0 = not told."""
    if quote and (told := cut_scaled(quote, 8)):
        return told
    if not average:
        return 0
    return cut_scaled(average, 12) * cut_scaled(quantity, 8) // 10**12


def money_e8(text: str) -> int:
    """An amount of money in 1e-8; digits beyond are cut toward zero."""
    return cut_scaled(text, 8)


def parse_ppm(text: str) -> int:
    """A rate in 1e-6; digits beyond are cut toward zero."""
    return cut_scaled(text, 6)


def leader_fill_of(execution: Execution, leader: int) -> LeaderFill:
    """An execution of the leader's stream under the leader's number."""
    e = execution
    return LeaderFill(
        leader, e.instrument, e.exec_id, e.order_id, e.client_order_id, e.side, e.position_side, e.qty, e.px, e.order_qty,
        e.cum_qty, e.maker, e.reduce_only, e.live, e.cause, e.ts_event, e.ts_recv, e.raw,
    )  # fmt: skip
