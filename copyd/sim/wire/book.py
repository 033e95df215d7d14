"""What the journal has named and what exchanges have accepted under it, held against each other at every acceptance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from copyd._fast import sim_engine as eng
from copyd.core.rows import NamedOrder, OrderState

SITE, SITE_ID = "cd01", 0xCD01
OUR_ID = 32
NAMED_SIZE = NamedOrder.LAYOUT.size


def our_id(order: tuple[Any, ...]) -> bytes | None:
    """Our client id of an exchange's order; None: it is somebody else's."""
    name = order[4].decode("latin-1")
    return bytes.fromhex(name) if len(name) == OUR_ID and name.startswith(SITE) else None


class Book:
    """Orders by their client id. Records are told as they are appended and committed, orders as exchanges accept them."""

    def __init__(self) -> None:
        self.named: dict[bytes, NamedOrder] = {}
        self.durable: set[bytes] = set()
        self.by_seq: dict[int, list[bytes]] = {}
        self.announced: set[int] = set()
        self.accepted: Counter[bytes] = Counter()

    def appended(self, seq: int, announcement: bool, named: bytes, durable_seq: int) -> bool:
        """A record was appended. False: it names others than the orders that may have gone out by its announcement."""
        before = self.by_seq.get(seq)
        self.by_seq[seq] = []
        if announcement:
            self.announced.add(seq)
            self.by_seq.pop(seq + 1, None)  # what stood there was lost with what came before it
        else:
            self.announced.discard(seq)
        for at in range(0, len(named), NAMED_SIZE):
            row = NamedOrder.unpack(named[at : at + NAMED_SIZE])
            self.named[row.cid] = row
            self.by_seq[seq].append(row.cid)
        if seq - 1 not in self.announced or durable_seq < seq - 1:
            return True
        self.durable.update(self.by_seq[seq])
        return not before or before == self.by_seq[seq]

    def committed(self, was: int, seq: int) -> None:
        """Records after ``was`` up to ``seq`` are durable."""
        for number in range(was + 1, seq + 1):
            self.durable.update(self.by_seq.get(number, ()))
        if seq in self.announced:  # as good as durable: the announcement is decided to the same bytes
            self.durable.update(self.by_seq.get(seq + 1, ()))

    def accept(
        self, cid: bytes, order: tuple[Any, ...], account: int, belief: OrderState | None
    ) -> Iterator[tuple[str, str]]:
        """An exchange has accepted ``order`` under ``cid`` for an account of ours: (rule, in words) of each that is broken.

        ``belief``: what the daemon takes the order for at this moment; None: it does not know it, or is not there.
        """
        name = cid.hex()
        self.accepted[cid] += 1
        if self.accepted[cid] > 1:
            yield "S1", f"{name} was accepted {self.accepted[cid]} times"
        if cid not in self.durable:
            yield "S2", f"{name} was accepted and no durable record names it"
            return
        row = self.named[cid]
        reduce_only = bool(order[11] & eng.FLAG_REDUCE_ONLY)
        same = (row.side, row.limit_px) == (order[5], order[13]) and (
            row.order_qty == order[12] or (reduce_only and order[12] < row.order_qty))
        if not same or row.account != account or bool(row.reduce_only) != (reduce_only or bool(order[6] and row.reduce_only)):
            yield "S3", f"{name}: the journal says {row}, the exchange {order}"
        if belief in (OrderState.DEAD, OrderState.REJECTED):
            yield "S4", f"{name} is {belief.name} to us and was accepted now"
