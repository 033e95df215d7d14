"""The venue's model keeps the terms of its contract: these are what the core relies on, and what it may not rely on."""

from __future__ import annotations

from typing import Any, cast

from copyd.sim.draws import Draws
from copyd.sim.venue import EXPIRED, FILLED, Account, Instrument, Reply, Request, Stream, Trade, Venue
from copyd.sim.world import MS, READ_LAG, RECV, START, S, World

SITE = b"\xc0\xde"
CID = SITE + bytes(range(14))


class Deaf:
    """A judge that hears everything and judges nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *facts: None


class Bench:
    """A venue with one account, and what it answered and told."""

    index, alive, stalled_until = 0, True, 0

    def __init__(self, hedge: bool = False, faults: str = "", ppm: int = 0) -> None:
        self.world = World(Draws(1, factor=0))
        if faults:
            self.world.draws._faults[faults] = [0, 1, ppm]
            self.world.draws.ids[faults] = faults.partition("/")[0]
        self.venue = Venue(self.world, cast(Any, Deaf()), [Instrument(640_000, 0, 1 << 40)], SITE)
        self.account = Account(0, "F0", hedge, 5, 10**15, 1)
        self.venue.accounts.append(self.account)
        self.replies: list[Reply] = []
        self.told: list[Any] = []
        self.account.streams.append(Stream(None, self.told.append))

    def send(
        self, qty: int = 10, side: int = 1, cid: bytes = CID, px: int = 650_000, ts: int | None = None, copy: bool = False,
        reduce_only: bool = False, position_side: int = 0,
    ) -> None:
        request = Request(cid, 0, 0, side, qty, px, position_side, reduce_only, self.world.now if ts is None else ts, 0,
                          self.replies.append)
        self.venue.arrive(request, copy)
        self.world.run(self.world.now + 50 * MS)


def test_an_order_fills_at_once_and_is_told() -> None:
    bench = Bench()
    bench.send()
    assert bench.replies[-1].order is not None and bench.replies[-1].order.status == FILLED
    assert bench.account.position[0, 0] == 10
    assert sum(trade.qty for trade in bench.told if isinstance(trade, Trade)) == 10


def test_an_id_is_free_again_once_its_order_has_filled() -> None:
    bench = Bench()
    bench.send()
    bench.send()
    assert bench.account.position[0, 0] == 20, "a resent request is a second order"


def test_an_id_is_refused_while_its_order_is_open() -> None:
    bench = Bench(faults="O30", ppm=1)
    bench.send()
    bench.send()
    assert bench.replies[-1].code == -4116
    bench.world.run(START + 30 * S)
    assert bench.account.position[0, 0] <= 10


def test_a_second_copy_by_a_gateway_never_makes_a_second_order() -> None:
    bench = Bench()
    bench.venue.copied.add(CID)
    bench.send()
    bench.send(copy=True)
    assert bench.account.position[0, 0] == 10 and len(bench.replies) == 1
    bench.world.run(START + 2 * S)
    bench.send(copy=True, ts=START)
    assert bench.replies[-1].code == -1021, "late, it is refused for its time, though the first copy was accepted"


def test_a_timestamp_outside_the_window_is_refused() -> None:
    for ts in (START - RECV - 1, START + RECV + 1):
        bench = Bench()
        bench.send(ts=ts)
        assert bench.replies[-1].code == -1021 and not bench.account.position


def test_reduce_only_never_opens_and_never_crosses() -> None:
    bench = Bench()
    bench.send(reduce_only=True)
    assert bench.replies[-1].code == -2022
    bench.send(qty=4)
    bench.send(qty=9, side=-1, px=0, reduce_only=True, cid=SITE + bytes(14))
    assert bench.account.position[0, 0] == 0


def test_a_limit_away_from_the_market_expires_unfilled() -> None:
    bench = Bench()
    bench.send(px=639_000)
    assert bench.replies[-1].order is not None and bench.replies[-1].order.status == EXPIRED and not bench.account.position


def test_a_position_side_of_the_other_mode_is_refused() -> None:
    bench = Bench(hedge=True)
    bench.send()
    assert bench.replies[-1].code == -4061


def test_a_lagging_replica_shows_the_past() -> None:
    bench = Bench()
    before = bench.world.now
    bench.send()
    order = bench.account.orders[CID][0]
    assert order.shown(before - 1) is None
    assert order.shown(bench.world.now).status == FILLED  # type: ignore[union-attr]
    bench.world.run(START + READ_LAG)
    assert bench.account.held(before) == [(0, 0, 0)] and bench.account.held(bench.world.now) == [(0, 0, 10)]


def test_a_ban_refuses_every_request() -> None:
    bench = Bench()
    bench.venue.banned_until = START + S
    bench.send()
    assert bench.replies[-1].status == 418 and bench.venue.refuses() == 418


def test_a_fill_is_hidden_from_the_lists_only_while_the_position_shows_it() -> None:
    """No client can guard against a fill that no source shows: two that cancel out, or one beside a trade by hand."""
    bench = Bench(faults="O28/vanished", ppm=1_000_000)
    bench.account.streams.clear()
    bench.send()
    assert bench.venue.show_order(0, CID) is None
    assert bench.venue.show_position(0)[1] == [(0, 0, 10)]
    bench.send(side=-1, cid=SITE + bytes(14), px=0)
    assert bench.venue.show_order(0, SITE + bytes(14)) is not None
    bench.venue.by_hand(bench.account, 0, 0, -10)
    assert bench.venue.show_order(0, CID) is not None
    bench.send(cid=SITE + bytes(13) + b"a")
    assert bench.venue.show_order(0, SITE + bytes(13) + b"a") is not None


def test_nothing_is_hidden_from_the_lists_once_two_daemons_trade() -> None:
    """Fills of the other one's orders, which nobody told us of, may cancel out a hidden one: no position shows it then."""
    bench = Bench(faults="O28/vanished", ppm=1_000_000)
    bench.account.streams.clear()
    bench.send()
    assert bench.venue.show_order(0, CID) is None
    bench.venue.hide_no_more()
    assert bench.venue.show_order(0, CID) is not None
    bench.world.run(bench.world.now + 40 * S)
    other = SITE + bytes(14)
    bench.send(side=-1, cid=other, px=0)
    assert bench.venue.show_order(0, other) is not None
