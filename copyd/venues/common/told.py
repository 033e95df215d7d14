"""What a venue said on a private connection, in one vocabulary: ``Wire.read`` turns each of its frames into these.

Units as in ``facts``. ``cid``: 16 bytes of a client order id exactly as we write it (32 lower-case hex characters), None for
any other id. What a frame carries that nobody needs is ``Unused``; what cannot be read is ``facts.Malformed``, never an
exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from copyd.core import leader_stream as ls
from copyd.venues.common.facts import Malformed, malformed
from copyd.venues.common.outcome import Verdict


class LoggedIn(msgspec.Struct, frozen=True):
    """The answer to our login. ``reason``: of the venue's table of errors, "" when it is let in."""

    ok: bool
    reason: str = ""
    code: int = 0
    message: str = ""


class Subscribed(msgspec.Struct, frozen=True):
    """The answer to one subscription, by the name we gave it in ``Channel.subscriptions``.

    ``number``: what the venue calls it in its events, where one connection carries many accounts (``Of``); -1: nothing.
    ``retry_ns``: refused for our rate, as in ``Answered``.
    """

    name: str
    ok: bool
    message: str = ""
    number: int = -1
    reason: str = ""
    code: int = 0
    retry_ns: int = 0


class Alive(msgspec.Struct, frozen=True):
    """A sign of life: the answer to a ping."""


class Answered(msgspec.Struct, frozen=True):
    """The answer to the placement of ``cid``: what it proves, and the order as far as it says.

    ``status``: a state of ``facts`` (NEW where the venue only acknowledges), 0 with a refusal or doubt. ``retry_ns``: refused for
    our rate; when to come again, as far as it says (-1 = it does not, 0 = this is no such refusal).
    """

    cid: bytes
    verdict: Verdict
    venue_order_id: int = 0
    status: int = 0
    cum_qty: int = 0
    cost_e8: int = 0
    ts_event: int = 0
    message: str = ""
    retry_ns: int = 0


class OrderTold(msgspec.Struct, frozen=True):
    """An order's state. ``cum_qty`` lots filled in all, worth ``cost_e8`` (0 = not told)."""

    cid: bytes | None
    client_order_id: str
    instrument: int
    venue_order_id: int
    status: int
    cum_qty: int
    cost_e8: int
    side: int
    position_side: int
    order_qty: int
    reduce_only: bool
    ts_event: int


class TradeTold(msgspec.Struct, frozen=True):
    """One execution, with its commission as the venue writes it (above 0: paid; below: a rebate).

    ``order``: the order's state behind it where the same message says it. ``thin``: from a fast channel, without the commission;
    the full one with the same id follows.
    """

    cid: bytes | None
    execution: ls.Execution
    fee: str = "0"
    fee_asset: str = ""
    order: OrderTold | None = None
    thin: bool = False


class WalletTold(msgspec.Struct, frozen=True):
    """A wallet's balance and, where the venue says it, the change and its cause.

    ``flow``: the change was paid in or taken out: no profit or loss.
    """

    asset: str
    wallet_e8: int
    change_e8: int = 0
    cause: str = ""
    flow: bool = False
    ts_event: int = 0


class FlowTold(msgspec.Struct, frozen=True):
    """Money paid in (above 0) or taken out, without the balance behind it, which the venue tells apart."""

    asset: str
    change_e8: int
    ts_event: int


class FundingTold(msgspec.Struct, frozen=True):
    """Funding of a position, above 0: received. ``instrument`` -1: not said which. ``id``: the venue's, 0 = none."""

    instrument: int
    amount_e8: int
    id: int
    ts_event: int


class LeverageTold(msgspec.Struct, frozen=True):
    """The account's leverage in an instrument is this now."""

    instrument: int
    leverage: int
    ts_event: int


class PositionTold(msgspec.Struct, frozen=True):
    """A position as the venue pushed it; ``position.leverage`` 0 = not told."""

    position: ls.Position


class MarginCallTold(msgspec.Struct, frozen=True):
    """The venue warns the account that it may be liquidated."""

    ts_event: int


class Ending(msgspec.Struct, frozen=True):
    """The venue is about to end this connection, or has ended what it carries: a new one is wanted."""

    reason: str


class Unused(msgspec.Struct, frozen=True):
    """A message nobody needs, by its kind."""

    kind: str


class Of(msgspec.Struct, frozen=True):
    """What is told of one account on a connection that carries many: by the number of its subscription, which the account's
    ``Subscribed`` said on the same connection. What is not wrapped is the connection's own or names its order."""

    subscription: int
    told: (
        OrderTold | TradeTold | WalletTold | FlowTold | FundingTold | LeverageTold | PositionTold | MarginCallTold | Ending
        | Unused | Malformed
    )


Told = (
    LoggedIn | Subscribed | Alive | Answered | OrderTold | TradeTold | WalletTold | FlowTold | FundingTold | LeverageTold
    | PositionTold | MarginCallTold | Ending | Unused | Malformed | Of
)


#: What decoding a counterparty's bytes may raise.
UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)


def each(rows: Sequence[Any], make: Callable[[Any], Sequence[Told]], payload: bytes) -> Sequence[Told]:
    """What each row of a frame says; one that cannot be read takes no other with it."""
    out: list[Told] = []
    for row in rows:
        try:
            out += make(row)
        except UNREADABLE as problem:
            out.append(malformed(problem, payload))
    return out or (Unused("nothing"),)
