"""Replies and user events to report rows: the compiled reader against the readable decoder, rows compared.

``COPYD_BENCH_FOLLOWERS`` sets the size.
"""

from __future__ import annotations

import os
from array import array
from typing import Any

import msgspec
import pytest

from copyd.bench import filling, world
from copyd.core.engine import Engine
from copyd.core.rows import NamedOrder, OrderRow
from copyd.venues.binance_usdm.accounts import FollowerStreams, _Member
from copyd.venues.binance_usdm.contract import CONTRACT, Endpoints
from copyd.venues.binance_usdm.gateway import OrderGateway, _Lane
from copyd.venues.common.facts import Placed
from copyd.venues.common.limits import VenueClock

FOLLOWERS = int(os.environ.get("COPYD_BENCH_FOLLOWERS", "200"))
NOW = world.S_NS
ORDERS = 7
TAG = f"{world.SITE:04x}"
READERS = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "twin"])


class Wire:
    """Both ends without sockets: an engine that has just decided, and the frames the venue answers with."""

    def __init__(self) -> None:
        self.engine: Engine = world.make_engine(FOLLOWERS)
        trade = world.LeaderTrade(1, 1, world.LEADER_LOTS, world.PX)
        self.engine.step(NOW, world.quotes(trade, NOW))
        out = self.engine.step(NOW, world.leader_fill(trade, NOW))
        assert out is not None
        self.orders = NamedOrder.unpack_all(out.named)
        self.slots = world.slots_of(out)
        self.ids = b"".join(order.cid for order in self.orders)
        self.replies, self.events = [], []
        for at, order in enumerate(self.orders):
            ticks = order.limit_px or world.PX
            fields = {
                b"cid": order.cid.hex().encode(), b"order": 8_000_000_000 + at, b"symbol": world.SYMBOL.encode(),
                b"px": b"%d.%d" % divmod(ticks, 10), b"qty": b"%d.%03d" % divmod(order.order_qty, 1_000),
                b"value": filling.units(order.order_qty * ticks * 10_000), b"side": b"BUY" if order.side > 0 else b"SELL",
                b"ms": 1_700_000_000_000, b"key": b"%064d" % order.account, b"trade": 3_000_000_000 + at,
                b"fee": b"0.26000040", b"wallet": b"99999.73999960", b"held": b"%d.%03d" % divmod(order.order_qty, 1_000),
            }
            self.replies.append(filling.REPLY % fields)
            for text in (filling.PLACED, filling.LITE, filling.TRADED, filling.ACCOUNT):
                self.events.append((text % fields, text is filling.TRADED))

    def placed(self, cid: bytes) -> Placed | None:
        """As the venue side compares an answer with its order."""
        slot = self.engine.columns.order_slot(cid)
        if slot is None:
            return None
        order = OrderRow.unpack(self.engine.columns.get(ORDERS, slot))
        return Placed(order.account, order.instrument, order.side, order.position_side, order.order_qty, bool(order.kind))

    def gateway(self, compiled: bool) -> OrderGateway:
        """A gateway whose one lane owes all of them."""
        made = OrderGateway(
            url="ws://x", connections=1, instruments=world.instruments(), contract=CONTRACT, clock=lambda: NOW,
            venue_clock=VenueClock(CONTRACT, lambda: NOW), on_reports=lambda batch, ts: None, placed=self.placed)
        made.bind(self.engine.columns)
        made._compiled = compiled
        made._replies.due = True  # nobody comes for the rows: there is no loop
        session: Any = object()
        made._lanes[session] = _Lane()
        made._lanes[session].wrote(0, self.ids, self.slots, 0)
        assert len(made._lanes[session].pending) == len(self.orders)
        return made

    def streams(self, compiled: bool) -> FollowerStreams:
        """All accounts listened to."""
        rest: Any = None
        columns = self.engine.columns
        made = FollowerStreams(
            rest=rest, endpoints=Endpoints(), instruments=world.instruments(), contract=CONTRACT, clock=lambda: NOW,
            site_tag=TAG, on_reports=lambda batch, ts: None, on_event=lambda event: None, positions=False,
            is_known=lambda cid: columns.order_slot(cid) is not None)
        made.bind(columns)
        made._compiled = compiled
        made._events.due = True
        for account in range(FOLLOWERS):
            member = _Member(account, world.key(1, account))
            member.listen_key = f"{account:064d}"
            made._by_key[member.listen_key] = member
            made._events.listen(member.listen_key, account)
        return made


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


def report(benchmark: Any, frames: int, what: str) -> None:
    """Time per frame beside the figures of the whole."""
    if benchmark.stats:
        benchmark.extra_info[what] = round(benchmark.stats.stats.median * 1e9 / frames)


@READERS
def test_replies(benchmark: Any, wire: Wire, compiled: bool) -> None:
    """An answer per order, compared with it: rows, in order, are those of the other reader, and nothing is owed."""
    made: list[OrderGateway] = []

    def fresh() -> tuple[tuple, dict]:
        made[:] = [wire.gateway(compiled)]
        [session] = made[0]._lanes
        return (made[0]._on_frame, session), {}

    def hear(on_frame: Any, session: Any) -> None:
        for frame in wire.replies:
            on_frame(session, frame)

    benchmark.pedantic(hear, setup=fresh, rounds=20, warmup_rounds=1)
    twin = wire.gateway(not compiled)
    hear(twin._on_frame, next(iter(twin._lanes)))
    assert made[0]._replies.batch.to_bytes() == twin._replies.batch.to_bytes()
    assert made[0]._replies.batch.count == FOLLOWERS and made[0].in_flight == 0
    assert made[0].stats == twin.stats
    assert made[0]._replies.replies == (FOLLOWERS if compiled else 0), "read by the reader that was asked for"
    report(benchmark, FOLLOWERS, "ns_per_reply")


@READERS
@pytest.mark.parametrize("what", ["trades", "all"])
def test_user_events(benchmark: Any, wire: Wire, compiled: bool, what: str) -> None:
    """What the user streams tell: the trades alone, and all four events of each order (placed, thin, trade, account)."""
    frames = [frame for frame, is_trade in wire.events if is_trade or what == "all"]
    made: list[FollowerStreams] = []

    def fresh() -> tuple[tuple, dict]:
        made[:] = [wire.streams(compiled)]
        return (made[0]._on_frame,), {}

    def hear(on_frame: Any) -> None:
        for frame in frames:
            on_frame(None, frame)

    benchmark.pedantic(hear, setup=fresh, rounds=20, warmup_rounds=1)
    twin = wire.streams(not compiled)
    hear(twin._on_frame)
    assert made[0]._events.batch.to_bytes() == twin._events.batch.to_bytes()
    assert made[0]._events.batch.count == FOLLOWERS * (1 if what == "trades" else 2)
    assert msgspec.structs.asdict(made[0].stats) == msgspec.structs.asdict(twin.stats)
    assert made[0]._events.trades == (FOLLOWERS if compiled else 0), "read by the reader that was asked for"
    report(benchmark, len(frames), "ns_per_event")


def test_what_is_owed(benchmark: Any, wire: Wire) -> None:
    """A burst entered in the table of what a lane owes and taken out again, answer by answer."""
    slots = array("I", wire.slots)
    ids = [order.cid for order in wire.orders]

    def burst() -> _Lane:
        lane = _Lane()
        lane.wrote(0, wire.ids, slots, 0)
        pop = lane.pending.pop
        for cid in ids:
            pop(cid)
        return lane

    lane = benchmark.pedantic(burst, rounds=20, warmup_rounds=1)
    assert len(lane.pending) == 0
    lane.wrote(0, wire.ids, slots, 0)
    assert [lane.pending.pop(cid) for cid in ids] == list(slots)
    report(benchmark, FOLLOWERS, "ns_per_order")
