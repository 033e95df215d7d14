"""The leader's stream: whatever the wire does, each execution is handed on once, in order, and the fold ends at the truth."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from copyd.core.leader_stream import (
    MS,
    SECOND,
    UNKNOWN_SIDE,
    Action,
    Ask,
    AskKind,
    Equity,
    Execution,
    Expired,
    LeaderStream,
    Leverage,
    OrderFacts,
    OrderNew,
    Position,
    Reconnect,
    Sync,
    Terms,
)

BOTH, LONG, SHORT = 0, 1, 2


class World:
    """The venue's account, the wire, and who listens to what is handed on."""

    def __init__(self, terms: Terms | None = None, instruments: int = 2) -> None:
        self.now = SECOND
        self.stream = LeaderStream(range(instruments), terms)
        self.truth: list[Execution] = []
        self.held: dict[tuple[int, int], int] = {}
        self.moved: dict[tuple[int, int], int] = {}
        self.next_id = 100
        self.generation = 0
        self.asks: list[Ask] = []
        self.heard: list[Action] = []
        self.fold: dict[tuple[int, int], int] = {}
        self.names: set[tuple[int, int]] = set()
        self.reconnects: list[str] = []
        self.synced = False
        self.shorted = False  # a live execution led below zero
        self.asked: list[Ask] = []
        self.lag = {AskKind.FILLS: 0, AskKind.POSITIONS: 0}  # how old the venue's answers are
        self.past: list[tuple[int, dict[tuple[int, int], int], dict[tuple[int, int], int]]] = []

    # -- the venue ------------------------------------------------------------------------------------------------------------
    def trade(self, signed: int, instrument: int = 0, side: int = BOTH, order: int = 0, **more: Any) -> list[Any]:
        """The leader trades: what the stream says of it, the pushed position first as on the venue."""
        self.next_id += 1 + self.next_id % 3
        place = instrument, side
        before = self.held.get(place, 0)
        self.held[place] = before + signed
        ts = self.now
        self.moved[place] = ts
        fill = Execution(
            instrument, side, self.next_id, order or self.next_id, 1 if signed > 0 else -1, abs(signed), 100,
            realised=(before > 0 > signed) or (before < 0 < signed), ts_event=ts, raw=b"x",
            **{"order_qty": abs(signed), "cum_qty": abs(signed), **more},
        )
        self.truth.append(fill)
        self.past.append((ts, dict(self.held), dict(self.moved)))
        return [Position(instrument, side, self.held[place], ts), fill]

    def rows(self, ask: Ask) -> list[Any]:
        """The venue's answer."""
        until = self.now - self.lag[AskKind.FILLS]
        mine = [e for e in self.truth if e.instrument == ask.instrument and e.ts_event <= until]
        match ask.kind:
            case AskKind.FILLS:
                return [listed(e) for e in mine if e.exec_id >= ask.from_id][: ask.limit]
            case AskKind.NEWEST:
                return [listed(e) for e in mine[-1:]]
            case AskKind.POSITIONS:
                held, moved = self.held, self.moved
                if lag := self.lag[AskKind.POSITIONS]:
                    seen = [(h, m) for ts, h, m in self.past if ts <= self.now - lag]
                    held, moved = seen[-1] if seen else ({}, {})
                return [Position(i, s, qty, moved[i, s], self.now, "snapshot", 10) for (i, s), qty in held.items() if qty]
            case AskKind.EQUITY:
                return [Equity(1, 1, 1, self.now)]
            case AskKind.LEVERAGE:
                return [Leverage(ask.instrument, 10, self.now)]
        return [OrderFacts(ask.order_id, "told", 7) for e in mine if e.order_id == ask.order_id][:1]

    # -- the wire -------------------------------------------------------------------------------------------------------------
    def take(self, actions: list[Action]) -> None:
        """What the shell and the engine would do with it."""
        for action in actions:
            match action:
                case Ask():
                    self.asks.append(action)
                    self.asked.append(action)
                case Reconnect():
                    self.reconnects.append(action.reason)
                case Execution():
                    name = action.instrument, action.exec_id
                    assert name not in self.names, "handed on twice"
                    self.names.add(name)
                    place = action.instrument, action.position_side
                    self.fold[place] = self.fold.get(place, 0) + action.side * action.qty
                    self.no_side_turned()
                    self.shorted |= action.live and self.fold[place] < 0
                    self.heard.append(action)
                case Sync():
                    assert action.synced != self.synced
                    self.synced = action.synced
                    if action.synced:
                        told = {(p.instrument, p.position_side): p.qty for p in action.positions}
                        if any(type(e) is Sync for e in self.heard):
                            assert {k: v for k, v in self.fold.items() if v} == {k: v for k, v in told.items() if v}
                        self.fold = told
                        self.no_side_turned()
                    self.heard.append(action)
                case _:
                    self.heard.append(action)
        assert self.stream.synced == self.synced

    def no_side_turned(self) -> None:
        """A long side is never below zero, a short side never above."""
        for (_, side), qty in self.fold.items():
            assert side == BOTH or qty * (3 - 2 * side) >= 0, "a position side was turned around"

    def open(self, beside: bool = False) -> int:
        self.generation += 1
        self.take(self.stream.opened(self.now, self.generation, beside))
        return self.generation

    def tell(self, *events: Any) -> None:
        for event in events:
            copy = type(event)(**{name: getattr(event, name) for name in event.__struct_fields__})
            self.take(self.stream.event(self.now, copy))

    def answer(self, times: int = 1_000) -> None:
        while self.asks and times:
            ask = self.asks.pop(0)
            times -= 1
            self.take(self.stream.answer(self.now, ask.id, self.rows(ask)))

    def wait(self, ns: int, answering: bool = True) -> None:
        """Time passes, and every timer that is due in it rings."""
        end = self.now + ns
        while (due := self.stream.next_due()) is not None and due <= end:
            self.now = max(self.now, due)
            before = due
            self.take(self.stream.tick(self.now))
            later = self.stream.next_due()
            assert later is None or later > before, "a timer that rings for ever"
            if answering:
                self.answer()
        self.now = end

    def fills(self) -> list[Execution]:
        return [e for e in self.heard if type(e) is Execution]

    def started(self) -> World:
        self.open()
        self.answer()
        assert self.synced
        return self


def listed(e: Execution) -> Execution:
    """The same execution as back-fill tells it."""
    return Execution(e.instrument, e.position_side, e.exec_id, e.order_id, e.side, e.qty, e.px, ts_event=e.ts_event, live=False)


def ids(world: World) -> list[int]:
    return [e.exec_id for e in world.fills()]


# --- one rule each ------------------------------------------------------------------------------------------------------------


def test_what_was_traded_before_the_first_sync_is_in_the_snapshot_and_not_news() -> None:
    """Semantics 12, 13: subscribe, snapshot, then what is newer."""
    w = World()
    w.trade(5)
    w.started()
    assert w.fills() == [] and w.fold == {(0, BOTH): 5}
    [ask] = [a for a in w.asked if a.kind == AskKind.FILLS and a.instrument == 0]
    assert ask.from_id == w.truth[0].exec_id + 1


def test_an_execution_goes_on_at_once_and_its_copy_does_not() -> None:
    """L01, semantics 10."""
    w = World().started()
    told = w.trade(5)
    w.tell(*told, *told)
    assert ids(w) == [told[1].exec_id] and w.fills()[0].live
    assert w.stream.counters.duplicates == 1


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_four_executions_in_any_order_end_the_same_and_no_close_comes_before_its_open(order: tuple[int, ...]) -> None:
    """L02: open, more, part of the close, the rest; the pushes tell what must come first."""
    w = World().started()
    told = []
    for signed in (10, 5, -8, -7):
        w.now += 5 * MS
        told.append(w.trade(signed))
    for n in order:
        w.tell(told[n][0])
    for n in order:
        w.tell(told[n][1])
        assert all(qty >= 0 for qty in w.fold.values())
    assert sorted(ids(w)) == [t[1].exec_id for t in told] and w.synced
    assert not any(w.fold.values())
    w.wait(60 * SECOND)
    assert w.synced and w.stream.counters.unsynced == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_executions_of_one_order_go_on_in_order(order: tuple[int, ...]) -> None:
    """L02: from its NEW on the cumulative quantity says what is missing."""
    w = World().started()
    told = [w.trade(3, order=9, order_qty=12, cum_qty=3 * n)[1] for n in (1, 2, 3, 4)]
    w.tell(OrderNew(0, 9))
    w.tell(*(told[n] for n in order))
    assert ids(w) == [e.exec_id for e in told] and w.synced


def test_the_acknowledgement_may_come_after_the_execution() -> None:
    """L05."""
    w = World().started()
    [_, one], [_, two] = w.trade(3, order=9, order_qty=6, cum_qty=3), w.trade(3, order=9, order_qty=6, cum_qty=6)
    w.tell(one, OrderNew(0, 9), two)
    assert ids(w) == [one.exec_id, two.exec_id]


def test_a_missing_execution_is_read_and_what_followed_it_is_still_news() -> None:
    """L03: back-fill is not live, an execution that was streamed stays live and follows the snapshot."""
    w = World().started()
    [_, one], [_, two] = w.trade(3, order=9, order_qty=6, cum_qty=3), w.trade(3, order=9, order_qty=6, cum_qty=6)
    w.tell(OrderNew(0, 9), two)
    assert ids(w) == []
    w.wait(SECOND)
    assert [type(e) for e in w.heard if type(e) in (Execution, Sync)] == [Sync, Sync, Execution, Sync, Execution]
    assert [(e.exec_id, e.live) for e in w.fills()] == [(one.exec_id, False), (two.exec_id, True)]
    assert w.fills()[0].client_order_id == "told" and w.fills()[0].order_qty == 7
    assert w.reconnects == ["executions were not pushed"]


def test_a_reduce_only_execution_waits_for_the_open_it_closes() -> None:
    """Semantics 10: a close is never applied before its open."""
    w = World().started()
    [_, opened], [_, closed] = w.trade(5), w.trade(-5, reduce_only=True)
    closed.realised = False
    w.tell(closed)
    assert ids(w) == []
    w.tell(opened)
    assert ids(w) == [opened.exec_id, closed.exec_id]


def test_an_execution_that_realised_profit_waits_for_the_open() -> None:
    """Without reduce-only and without a push the profit says that it closed something."""
    w = World().started()
    [_, opened], [_, closed] = w.trade(5), w.trade(-5)
    w.tell(closed, opened)
    assert ids(w) == [opened.exec_id, closed.exec_id]


def test_a_flip_goes_on_at_once() -> None:
    """L22: reducing and opening in one execution."""
    w = World().started()
    w.tell(*w.trade(5), *w.trade(-9))
    assert [e.qty for e in w.fills()] == [5, 9] and w.fold[0, BOTH] == -4


def test_a_hedge_mode_side_never_turns_around() -> None:
    """A close of the long side waits for its open; the other side is another position."""
    w = World().started()
    [_, opened], [_, closed] = w.trade(5, side=LONG), w.trade(-5, side=LONG)
    other = w.trade(-3, side=SHORT)
    closed.realised = False
    w.tell(closed, *other)
    assert ids(w) == [other[1].exec_id]
    w.tell(opened)
    assert ids(w) == [other[1].exec_id, opened.exec_id, closed.exec_id]


def test_an_execution_without_position_side_never_decides_on_a_hedge_mode_leader() -> None:
    """Semantics 11: it is held back until the venue's own list names the side; it is news all the same."""
    w = World().started()
    w.tell(*w.trade(5, side=LONG))
    [_, nameless] = w.trade(-2, side=LONG)
    nameless.position_side = UNKNOWN_SIDE
    w.truth[-1] = Execution(**{n: getattr(nameless, n) for n in nameless.__struct_fields__} | {"position_side": LONG})
    w.tell(nameless)
    assert len(ids(w)) == 1 and not w.synced
    w.answer()
    w.wait(SECOND)
    assert w.synced and [(e.position_side, e.live) for e in w.fills()] == [(LONG, True), (LONG, True)]


def test_an_execution_that_names_no_side_of_a_hedge_mode_leader_does_not_decide_either() -> None:
    w = World().started()
    w.stream.mode(True)
    w.tell(*w.trade(5, side=LONG))
    w.tell(Execution(0, BOTH, 9_999, 9_999, 1, 3, 100, ts_event=w.now))
    assert len(ids(w)) == 1 and not w.synced and w.stream.counters.sideless == 1


def test_on_a_one_way_leader_a_missing_position_side_is_no_riddle() -> None:
    w = World()
    w.trade(5)
    w.started()
    [_, nameless] = w.trade(-2)
    nameless.position_side = UNKNOWN_SIDE
    w.tell(nameless)
    assert [e.position_side for e in w.fills()] == [BOTH]


def test_a_pushed_position_that_no_execution_explains_is_read_anew() -> None:
    """Semantics 11; the fill itself is lost."""
    w = World().started()
    w.tell(*w.trade(5))
    w.tell(w.trade(-3)[0])
    assert w.synced
    w.wait(2 * SECOND)
    assert [e.live for e in w.fills()] == [True, False] and w.synced and w.fold[0, BOTH] == 2


def test_a_late_push_of_an_older_position_is_history() -> None:
    w = World().started()
    first = w.trade(5)
    w.now += MS
    w.tell(*w.trade(5)[:1], first[1], w.truth[-1], first[0])
    w.wait(5 * SECOND)
    assert w.stream.counters.stale_pushes == 1 and w.stream.counters.unsynced == 0


def test_silence_is_found_by_comparing_positions() -> None:
    """L10, L11: neither push nor execution came; two comparisons that differ, then everything is read and the line renewed."""
    w = World().started()
    w.trade(5)
    w.wait(11 * SECOND)
    assert w.synced and [e.live for e in w.fills()] == [False] and w.reconnects == ["executions were not pushed"]


def test_one_comparison_that_differs_proves_nothing() -> None:
    """The answer may be older than the stream: it is read again before anything is done."""
    w = World().started()
    w.wait(9 * SECOND)
    w.held[0, BOTH], w.moved[0, BOTH] = 5, w.now
    w.wait(SECOND)
    del w.held[0, BOTH]
    w.wait(5 * SECOND)
    assert w.stream.counters.unsynced == 0


def test_an_execution_during_the_comparison_makes_it_void() -> None:
    w = World().started()
    w.wait(10 * SECOND, answering=False)
    [ask] = [a for a in w.asks if a.kind == AskKind.POSITIONS]
    stale = w.rows(ask)
    w.asks.clear()
    w.tell(*w.trade(5))
    w.take(w.stream.answer(w.now, ask.id, stale))
    w.wait(5 * SECOND)
    assert w.stream.counters.unsynced == 0 and not w.stream.counters.mismatches


def test_a_connection_made_beside_a_living_one_interrupts_nothing() -> None:
    """L04, L12: both bring the same events."""
    w = World().started()
    old = w.generation
    w.open(beside=True)
    told = w.trade(5)
    w.tell(*told)
    w.tell(*told)
    w.now += 6 * SECOND
    w.take(w.stream.lost(w.now, old))
    w.tell(*w.trade(-5))
    assert len(ids(w)) == 2 and w.synced and w.stream.counters.unsynced == 0
    assert w.stream.counters.duplicates == 1


def test_an_opening_whose_close_went_before_it_is_no_news() -> None:
    """Nothing told that it was missing; to open now what ends up reversed would only cost."""
    w = World().started()
    fills = []
    for signed in (5, -1, -5):
        w.now += MS
        fills.append(w.trade(signed)[1])
    fills[1].realised = False
    w.tell(fills[0], fills[2], fills[1])
    assert ids(w) == [fills[0].exec_id, fills[2].exec_id, fills[1].exec_id]
    assert [e.live for e in w.fills()] == [True, True, False]
    assert w.stream.counters.late == 1


def test_a_leverage_pushed_while_it_is_read_is_the_newer_one() -> None:
    """L20."""
    w = World().started()
    w.now += SECOND
    w.heard.clear()
    w.take(w.stream.request_sync(w.now, "asked"))
    while not any(ask.kind == AskKind.LEVERAGE for ask in w.asks):
        w.answer(1)
    w.now += MS
    w.tell(Leverage(0, 25, w.now))
    w.answer()
    assert [(e.instrument, e.leverage) for e in w.heard if type(e) is Leverage] == [(0, 25), (1, 10)]


def test_an_old_connection_that_breaks_right_after_the_renewal_may_have_taken_events_with_it() -> None:
    w = World().started()
    old = w.generation
    w.open(beside=True)
    w.trade(5)  # before the new connection listened, on the old one only
    w.now += 100 * MS
    w.take(w.stream.lost(w.now, old))
    assert not w.synced
    w.answer()
    assert w.synced and w.fold == {(0, BOTH): 5}


def test_an_overtaking_new_connection_does_not_bring_the_close_before_the_open() -> None:
    w = World().started()
    opened = w.trade(5)
    w.open(beside=True)
    closed = w.trade(-5)
    closed[1].realised = False
    w.tell(closed[1])
    w.tell(*opened)
    w.tell(closed[0])
    assert ids(w) == [opened[1].exec_id, closed[1].exec_id]


def test_an_expired_listen_key_ends_the_stream_though_the_connection_stays() -> None:
    """L12."""
    w = World().started()
    w.take(w.stream.event(w.now, Expired()))
    assert not w.synced and w.reconnects == ["listen key expired"]
    w.trade(5)
    w.open(beside=True)
    w.answer()
    assert w.synced and [e.live for e in w.fills()] == [False]


def test_what_cannot_be_read_may_have_been_a_close() -> None:
    """L17, L18: unreadable and oversized messages."""
    for happen in (lambda w: w.stream.unreadable(w.now, "not a number"), lambda w: w.stream.oversized(w.now)):
        w = World().started()
        w.tell(*w.trade(5))
        w.trade(-5)
        w.take(happen(w))
        assert not w.synced
        w.answer()
        w.wait(SECOND)
        assert w.synced and not w.fold.get((0, BOTH))


def test_a_cumulative_quantity_that_goes_back_is_refused_and_read_anew() -> None:
    """L07."""
    w = World().started()
    [_, one] = w.trade(5, order=9, order_qty=20, cum_qty=5)
    w.tell(OrderNew(0, 9), one)
    [_, two] = w.trade(5, order=9, order_qty=20, cum_qty=7)
    w.tell(two)
    assert ids(w) == [one.exec_id] and w.stream.counters.conflicts == 1
    w.answer()
    w.wait(SECOND)
    assert w.synced and w.fold[0, BOTH] == 10


def test_an_event_between_the_readings_is_counted_once() -> None:
    """L09: after the executions were read and before the positions are; and between positions and the second reading."""
    for gap in range(12):
        w = World()
        w.trade(5)
        w.open()
        w.answer(gap)
        told = w.trade(-2)
        w.tell(*told)
        w.answer()
        w.wait(3 * SECOND)
        assert w.synced and w.fold == {(0, BOTH): 3}, gap


def test_a_snapshot_older_than_the_fold_is_not_believed_at_once() -> None:
    """L08: it would be a false reduction; when it repeats itself for the read lag, the venue is right."""
    w = World().started()
    w.tell(*w.trade(5))
    w.now += SECOND
    w.take(w.stream.request_sync(w.now, "asked"))
    w.held[0, BOTH] = 3
    w.answer()
    assert not w.synced and w.stream.counters.reread
    w.held[0, BOTH] = 5
    w.wait(SECOND)
    assert w.synced and w.fold == {(0, BOTH): 5}
    w.take(w.stream.request_sync(w.now, "a trade was taken back"))
    w.held[0, BOTH] = 3
    w.fold[0, BOTH] = 3  # the engine takes the difference from the snapshot
    w.wait(20 * SECOND)
    assert w.synced and w.stream.counters.adopted == 1 and w.stream.positions() == {(0, BOTH): 3}


def test_a_reduction_does_not_wait_for_a_venue_that_cannot_be_read() -> None:
    """Semantics 17: out of sync and no answer from REST; the pushes prove that nothing is missing."""
    w = World().started()
    w.tell(*w.trade(5))
    w.take(w.stream.unreadable(w.now, "x"))
    w.tell(*w.trade(-2))
    assert len(ids(w)) == 1
    w.wait(3 * SECOND, answering=False)
    assert len(ids(w)) == 2 and not w.synced
    w.asks.clear()
    w.wait(30 * SECOND)
    assert w.synced and w.fold[0, BOTH] == 3 and w.stream.counters.vouched == 1


def out_of_sync_with_a_lost_pair() -> tuple[World, list[Any]]:
    """Long 71; a close and an open that add up to nothing were lost; the whole is closed while nothing can be read."""
    w = World().started()
    w.tell(*w.trade(71, side=LONG))
    w.now += MS
    w.trade(-5, side=LONG)
    w.trade(5, side=LONG)
    w.now += 20 * SECOND
    w.take(w.stream.unreadable(w.now, "x"))
    w.now += MS
    return w, w.trade(-71, side=LONG)


def test_what_was_read_goes_before_what_pushes_vouch_for() -> None:
    """Semantics 10: the lost pair is known from the list while positions cannot be read; the close does not overtake it."""
    w, closed = out_of_sync_with_a_lost_pair()
    while w.asks[0].kind == AskKind.FILLS:
        w.answer(1)
    w.tell(*closed)
    w.wait(3 * SECOND, answering=False)
    assert not w.synced and ids(w) == [e.exec_id for e in w.truth]
    w.asks.clear()
    w.wait(30 * SECOND)
    assert w.synced and len(ids(w)) == 4 and not w.fold.get((0, LONG))


def test_a_reduction_found_after_the_side_was_closed_goes_behind_the_opening_it_is_set_off_against() -> None:
    """Semantics 10-12: both are older than the close; none moves the fold beyond flat, none is handed on twice."""
    w, closed = out_of_sync_with_a_lost_pair()
    w.tell(*closed)
    w.wait(3 * SECOND, answering=False)
    assert ids(w) == [w.truth[0].exec_id, w.truth[3].exec_id] and not w.synced
    w.asks.clear()
    w.wait(30 * SECOND)
    assert w.synced and ids(w)[2:] == [w.truth[2].exec_id, w.truth[1].exec_id]
    assert [e.live for e in w.fills()[2:]] == [False, False] and not w.fold.get((0, LONG))


def test_what_waits_goes_on_together_only_when_each_has_what_it_closes() -> None:
    """Semantics 10: what is missing adds up to nothing, so that the sum alone would say that all is there."""
    w = World().started()
    w.tell(*w.trade(3, side=LONG))
    told = []
    for signed in (5, -7, 9, -5):
        w.now += MS
        told.append(w.trade(signed, side=LONG))
        told[-1][1].realised = False
    w.tell(told[1][1], told[2][1], told[3][0])
    assert len(ids(w)) == 1
    w.tell(told[0][1], told[3][1])
    assert ids(w)[1:] == [fill.exec_id for _, fill in told] and w.synced


def test_a_close_waits_for_the_open_also_where_the_sum_is_right() -> None:
    """A reduce-only execution on a flat one-way leader; the push is that of an opening behind it."""
    w = World().started()
    w.now += MS
    w.tell(Execution(0, BOTH, 500, 500, -1, 4, 100, reduce_only=True, ts_event=w.now))
    w.tell(Execution(0, BOTH, 501, 501, 1, 9, 100, ts_event=w.now + MS), Position(0, BOTH, 5, w.now + MS))
    assert ids(w) == []


@pytest.mark.parametrize("pushed", [False, True])
def test_the_fold_of_a_side_never_begins_beyond_flat(pushed: bool) -> None:
    """L08, semantics 12: the first positions read are older than the executions read beside them: they are read again."""
    w = World()
    w.now += 10 * SECOND
    w.open()
    w.answer(2)
    told = w.trade(10, side=LONG)
    w.lag[AskKind.POSITIONS] = SECOND
    w.tell(*(told if pushed else told[1:]))
    w.answer()
    assert not w.synced and w.stream.counters.reread
    w.lag[AskKind.POSITIONS] = 0
    w.wait(SECOND)
    assert w.synced and w.fold == {(0, LONG): 10} and [e.live for e in w.fills()] == [True]


@pytest.mark.parametrize("held", [0, 7])
def test_a_first_snapshot_older_than_a_pushed_position_is_read_again(held: int) -> None:
    """One-way: no sign is impossible, but the push tells."""
    w = World()
    w.now += 10 * SECOND
    if held:
        w.trade(held)
    w.now += 10 * SECOND
    w.open()
    w.answer(2)
    told = w.trade(-3)
    w.lag[AskKind.POSITIONS] = SECOND
    w.tell(*told)
    w.answer()
    assert not w.synced
    w.lag[AskKind.POSITIONS] = 0
    w.wait(SECOND)
    assert w.synced and w.fold == {(0, BOTH): held - 3} and w.stream.positions() == {(0, BOTH): held - 3}


def test_what_is_found_before_the_fold_begins_follows_the_position_it_moved() -> None:
    """Semantics 11: the first fold begins with the snapshot; a reduction before it would find nothing to reduce."""
    w = World()
    w.trade(9, side=LONG)
    w.open()
    w.answer(2)
    w.now += MS
    w.trade(-4, side=LONG)
    w.trade(2, side=LONG)
    w.answer()
    assert [type(e) for e in w.heard if type(e) in (Sync, Execution)] == [Sync, Execution, Execution]
    assert [p.qty for e in w.heard if type(e) is Sync for p in e.positions] == [9]
    assert w.synced and w.fold == {(0, LONG): 7} and not any(e.live for e in w.fills())
    assert w.stream.counters.backfilled == 2


def three_fills(w: World) -> list[list[Any]]:
    """One order, three executions in the same millisecond."""
    w.now += MS
    return [w.trade(qty, order=9, order_qty=5_000, cum_qty=cum) for qty, cum in ((2_063, 2_063), (1_466, 3_529), (1_471, 5_000))]


def test_an_execution_of_an_order_never_heard_of_waits_for_the_parts_filled_before() -> None:
    """Semantics 10: the acknowledgement and the first execution are late; the cumulative quantity tells."""
    w = World().started()
    told = three_fills(w)
    w.tell(*told[1], *told[2])
    assert ids(w) == []
    w.now += 150 * MS
    w.tell(*told[0])
    assert ids(w) == [fill.exec_id for _, fill in told] and w.synced
    assert all(e.live for e in w.fills()) and w.stream.counters.late == 0


def test_so_it_does_when_no_position_is_pushed() -> None:
    w = World().started()
    told = three_fills(w)
    w.tell(told[1][1], told[2][1])
    assert ids(w) == []
    w.tell(told[0][1])
    assert ids(w) == [fill.exec_id for _, fill in told]


def test_an_order_filled_in_part_before_anybody_listened_interrupts_nothing() -> None:
    """Its next execution goes on after the time that a missing one is waited for, with a push that explains it at once."""
    for pushed in (False, True):
        w = World()
        w.trade(3, order=9, order_qty=9, cum_qty=3)
        w.started()
        w.now += MS
        told = w.trade(3, order=9, order_qty=9, cum_qty=6)
        w.tell(*(told if pushed else told[1:]))
        assert len(ids(w)) == int(pushed)
        w.wait(250 * MS)
        last = w.trade(3, order=9, order_qty=9, cum_qty=9)
        w.tell(last[1])
        assert ids(w) == [told[1].exec_id, last[1].exec_id] and w.synced and w.stream.counters.unsynced == 0


def test_a_reduction_waits_while_a_push_before_it_says_that_openings_are_missing() -> None:
    """Three openings of 105, of which two and their acknowledgements are late, then the reduction on time (semantics 10)."""
    for heard in ((2,), (1, 2), (2, 3), (1, 2, 3), (0, 1, 2, 3)):
        w = World().started()
        w.tell(*w.trade(3_823))
        told = []
        for signed in (105, 105, 105, -1_379):
            w.now += 2 * MS
            told.append(w.trade(signed))
            told[-1][1].realised = False
        w.tell(*(told[n][0] for n in heard if n < 2), told[1][1], *(told[n][0] for n in heard if n >= 2), told[3][1])
        assert told[3][1].exec_id not in ids(w)
        w.now += 100 * MS
        w.tell(told[0][1], told[2][1])
        assert ids(w)[-1] == told[3][1].exec_id and len(ids(w)) == 5 and w.synced and w.fold[0, BOTH] == 2_759


def test_an_execution_that_waits_shortly_does_not_lose_its_time_to_one_that_waited_before() -> None:
    """Each waits as long for its predecessor."""
    w = World()
    w.trade(3, order=9, order_qty=9, cum_qty=3)
    w.started()
    w.tell(OrderNew(0, 10))
    w.now += MS
    straddling = w.trade(3, order=9, order_qty=9, cum_qty=6)[1]
    [_, one], [_, two] = w.trade(3, order=10, order_qty=6, cum_qty=3), w.trade(3, order=10, order_qty=6, cum_qty=6)
    w.tell(straddling)
    w.wait(150 * MS)
    w.tell(two)
    w.wait(100 * MS)
    assert ids(w) == [straddling.exec_id] and w.synced
    w.tell(one)
    assert ids(w) == [straddling.exec_id, one.exec_id, two.exec_id] and w.stream.counters.unsynced == 0


def test_more_than_the_buffer_holds_is_read_from_the_venue() -> None:
    """S21: bounded; what is dropped is found by back-fill."""
    w = World(Terms(buffer_max=5)).started()
    w.take(w.stream.request_sync(w.now, "asked"))
    for _ in range(9):
        w.tell(*w.trade(1))
    assert w.stream.counters.overflows
    w.wait(SECOND)
    assert w.synced and w.fold == {(0, BOTH): 9} and len(ids(w)) == 9


def test_an_overflow_at_the_end_of_a_sync_begins_the_reading_anew() -> None:
    w = World(Terms(buffer_max=3)).started()
    w.now += SECOND
    w.take(w.stream.request_sync(w.now, "asked"))
    while len(w.asks) != 1 or w.asks[0].instrument != 1 or w.asks[0].kind != AskKind.FILLS:
        w.answer(1)
    while w.stream._run.phase != "again" or w.asks[0].instrument != 1:
        w.answer(1)
    for _ in range(5):
        w.tell(w.trade(1)[1])
    w.wait(SECOND)
    assert w.synced and len(ids(w)) == 5 and w.stream.counters.mismatches == 0


def test_memory_of_executions_is_bounded_by_reading_them() -> None:
    """S21: the sweep moves the floor; without answers the oldest ids are given up."""
    w = World(Terms(sweep_at=10, seen_max=40)).started()
    for _ in range(25):
        w.now += MS
        w.tell(*w.trade(1))
        w.wait(MS)
    assert w.stream.counters.sweeps and len(w.stream._seen[0]) < 20
    for _ in range(200):
        w.now += MS
        w.tell(*w.trade(1))
    assert len(w.stream._seen[0]) <= 41 and w.synced


def test_a_lost_pair_that_nets_to_nothing_is_found_by_the_sweep() -> None:
    """Positions agree; only the venue's list knows."""
    w = World().started()
    w.tell(*w.trade(5))
    w.trade(3)
    w.trade(-3)
    w.tell(*w.trade(-1))
    w.wait(400 * SECOND)
    assert w.synced and len(ids(w)) == 4 and w.fold[0, BOTH] == 4


def test_a_page_that_is_full_is_followed_by_the_next() -> None:
    """No id between floor and stream is skipped, whatever the page size."""
    for page in (1, 2, 3, 5):
        w = World(Terms(page_max=page)).started()
        w.take(w.stream.lost(w.now, w.generation))
        for _ in range(5):
            w.trade(1)
        w.open()
        w.answer()
        assert w.synced and ids(w) == [e.exec_id for e in w.truth] and w.fold == {(0, BOTH): 5}
        assert len([a for a in w.asked if a.kind == AskKind.POSITIONS]) == 2, "one reading of positions per sync"


def test_a_list_that_was_behind_the_first_snapshot_brings_nothing_twice() -> None:
    """L08: the first position holds an execution that the list shows only later; no fold could tell."""
    w = World()
    w.trade(4)
    w.now += SECOND
    w.trade(5)
    w.lag[AskKind.FILLS] = SECOND
    w.started()
    w.lag[AskKind.FILLS] = 0
    w.tell(*w.trade(-2))
    w.now += SECOND
    w.take(w.stream.request_sync(w.now, "asked"))
    w.answer()
    assert w.synced and len(ids(w)) == 1 and w.fold == {(0, BOTH): 7}


def test_what_was_pushed_before_the_snapshot_was_asked_for_is_older_than_it() -> None:
    """A position that ended without a trade of his (a settlement, say) does not come back by an old push."""
    w = World()
    w.trade(5)
    w.open()
    w.tell(Position(0, BOTH, 5, w.now))
    w.held.clear()
    w.now += MS
    w.answer()
    w.wait(5 * SECOND)
    assert w.synced and w.stream.counters.unsynced == 0 and not w.fold


def test_a_position_pushed_between_that_was_never_held_means_that_something_is_missing() -> None:
    """All that is missing nets to nothing: only the positions between give it away."""
    w = World().started()
    told = []
    for signed in (5, 1, -1, -5, 5, -2):
        w.now += MS
        told.append(w.trade(signed))
    w.tell(*(push for push, _ in told), told[0][1], told[5][1])
    assert ids(w) == [told[0][1].exec_id]
    w.tell(*(fill for _, fill in told))
    assert ids(w) == [fill.exec_id for _, fill in told]


def test_after_a_restart_back_fill_begins_behind_what_was_handed_on() -> None:
    w = World()
    for _ in range(4):
        w.trade(2)
    known = w.truth[1].exec_id
    w.stream.resume({0: known - 1, 1: 0}, [(0, known)], {(0, BOTH): 4})
    w.fold = {(0, BOTH): 4}
    w.started()
    assert ids(w) == [e.exec_id for e in w.truth[2:]] and w.fold == {(0, BOTH): 8}


def test_an_instrument_never_heard_of_before_a_restart_starts_from_the_snapshot() -> None:
    """Nothing contradicts it: no waiting for a second opinion."""
    w = World()
    w.trade(2)
    w.trade(3, instrument=1)
    w.stream.resume({0: 0}, [(0, w.truth[0].exec_id)], {(0, BOTH): 2})
    w.started()
    assert w.fills() == [] and w.fold == {(0, BOTH): 2, (1, BOTH): 3}


def test_after_stop_nothing_happens() -> None:
    """A sync asked for while draining."""
    w = World().started()
    w.stream.stop()
    for actions in (
        w.stream.request_sync(w.now, "x"), w.stream.tick(w.now + 10**12), w.stream.opened(w.now, 5, False),
        w.stream.unreadable(w.now, "x"), w.stream.lost(w.now, 1), w.stream.event(w.now, w.trade(1)[1]),
    ):
        assert actions == []
    assert w.stream.next_due() is None


def test_a_question_that_fails_is_asked_again_with_growing_pauses() -> None:
    w = World()
    w.open()
    for _ in range(40):
        for ask in [*w.asks]:
            w.asks.remove(ask)
            w.take(w.stream.failed(w.now, ask.id))
        w.wait(SECOND, answering=False)
    assert 8 <= len([a for a in w.asked if a.kind == AskKind.NEWEST and a.instrument == 0]) <= 16
    w.wait(20 * SECOND)
    assert w.synced


def test_a_question_that_is_never_answered_is_given_up() -> None:
    w = World()
    w.open()
    w.asks.clear()
    w.wait(20 * SECOND)
    assert w.synced and w.stream.counters.failures


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_where_pushes_tell_no_order_of_executions_turns_a_long_leader_short(data: st.DataObject) -> None:
    """Semantics 10: no close before its open. Every position was pushed; the executions come in any order, some twice."""
    w = World().started()
    told: list[list[Any]] = []
    for signed in data.draw(st.lists(st.integers(-6, 6).filter(bool), min_size=1, max_size=8)):
        w.now += MS
        told.append(w.trade(signed if w.held.get((0, BOTH), 0) + signed >= 0 else -signed))
    w.tell(*(push for push, _ in told))
    fills = [fill for _, fill in told]
    for fill in data.draw(st.permutations(fills + fills[::2])):
        fill.realised = False
        w.tell(fill)
    assert not w.shorted
    assert sorted(ids(w)) == [e.exec_id for e in fills] and w.synced
    assert w.stream.counters.unsynced == 0 and w.fold[0, BOTH] == w.held[0, BOTH]


# --- any history --------------------------------------------------------------------------------------------------------------

STEP = st.one_of(
    st.tuples(st.just("trade"), st.integers(-6, 6).filter(bool), st.integers(0, 3)),
    st.tuples(st.just("tell"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("tell"), st.just(0), st.just(0)),
    st.tuples(st.just("repeat"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("lose"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("answer"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("fail"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([MS, 50 * MS, 300 * MS, 2 * SECOND, 11 * SECOND]), st.just(0)),
    st.tuples(st.just("cut"), st.just(0), st.just(0)),
    st.tuples(st.just("open"), st.just(0), st.just(0)),
    st.tuples(st.just("renew"), st.just(0), st.just(0)),
    st.tuples(st.just("garbage"), st.just(0), st.just(0)),
    st.tuples(st.just("sync"), st.just(0), st.just(0)),
    st.tuples(st.just("lag"), st.integers(0, 8), st.sampled_from([AskKind.FILLS, AskKind.POSITIONS])),
)


ROUND_TRIP_UNHEARD = [("trade", 1, 0), ("trade", 1, 1), ("tell", 0, 0), ("tell", 0, 0), ("trade", -1, 1)]
"""Opened and closed with both executions lost: the last position pushed is where the fold is, the one before was never."""


@settings(max_examples=400, deadline=None)
@given(st.lists(STEP, max_size=60), st.sampled_from([BOTH, LONG, SHORT]))
@example([*ROUND_TRIP_UNHEARD, ("tell", 0, 0), ("lose", 0, 0), ("lose", 1, 0)], BOTH)
@example([*ROUND_TRIP_UNHEARD, ("tell", 2, 0), ("lose", 1, 0), ("tell", 0, 0), ("lose", 0, 0)], BOTH)
def test_nothing_is_lost_and_nothing_is_doubled_whatever_the_wire_does(steps: list[tuple[str, int, Any]], side: int) -> None:
    """Any order, copies, losses, cuts, renewals, failed, late and old answers: each execution once, no false move, the truth."""
    w = World(Terms(page_max=3)).started()
    start = len(w.truth)
    wire: list[Any] = []
    told: list[Any] = []
    streamed: set[int] = set()
    alive = True

    def tell(event: Any) -> None:
        if type(event) is Execution:
            streamed.add(event.exec_id)
        w.tell(event)

    for what, n, instrument in steps:
        w.now += MS
        if what == "trade":
            if side and (w.held.get((instrument % 2, side), 0) + n) * (3 - 2 * side) < 0:
                n = -n
            pushed, fill = w.trade(n, instrument % 2, side)
            wire += [pushed, fill] if instrument < 2 else [fill, pushed]
        elif what == "lag":
            w.lag[instrument] = n * SECOND
        elif what == "tell" and wire and alive:
            told.append(wire.pop(min(n, len(wire) - 1)))
            tell(told[-1])
        elif what == "repeat" and told and alive:
            tell(told[-1 - min(n, len(told) - 1)])
        elif what == "lose" and wire:
            wire.pop(min(n, len(wire) - 1))
        elif what == "answer" and w.asks:
            ask = w.asks.pop(min(n, len(w.asks) - 1))
            w.take(w.stream.answer(w.now, ask.id, w.rows(ask)))
        elif what == "fail" and w.asks:
            ask = w.asks.pop(min(n, len(w.asks) - 1))
            w.take(w.stream.failed(w.now, ask.id))
        elif what == "wait":
            w.wait(n, answering=n > SECOND)
        elif what == "cut" and alive:
            alive, wire = False, []
            w.take(w.stream.lost(w.now, w.generation))
        elif what == "open" and not alive:
            alive = True
            w.open()
        elif what == "renew" and alive:
            old = w.generation
            w.open(beside=True)
            w.now += 6 * SECOND
            w.take(w.stream.lost(w.now, old))
        elif what == "garbage" and alive:
            w.take(w.stream.unreadable(w.now, "x"))
        elif what == "sync":
            w.take(w.stream.request_sync(w.now, "asked"))
    # The faults end: the line is open, what is under way arrives, the venue answers.
    w.lag = dict.fromkeys(w.lag, 0)
    if not alive:
        w.open()
    for event in wire:
        tell(event)
    w.answer()
    w.wait(700 * SECOND)
    assert w.synced
    assert sorted(ids(w)) == sorted(e.exec_id for e in w.truth[start:])
    assert {k: v for k, v in w.fold.items() if v} == {k: v for k, v in w.held.items() if v}
    assert w.stream.positions() == {k: v for k, v in w.held.items() if v}
    assert all(e.exec_id in streamed for e in w.fills() if e.live)
    assert not w.stream._buffer and not any(book.waiting for book in w.stream._books.values())
