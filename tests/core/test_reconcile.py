"""Which account is looked at next, and what follows when a leg stays out of sync."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from copyd.core.reconcile import DriftRow, Rounds, SyncAction, SyncPolicy, SyncWatch, may_catch_up
from copyd.core.rows import LegRow

S = 1_000_000_000
POLICY = SyncPolicy(action=SyncAction.CATCH_UP, enter_bps=100, leave_bps=50, after_ns=10 * S, interval_ns=60 * S, cost_bps_max=20)


@given(accounts=st.integers(1, 40), most=st.integers(1, 5), touched=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 300))))
def test_every_account_is_looked_at_within_its_interval_and_soon_after_a_touch(
    accounts: int, most: int, touched: list[tuple[int, int]]
) -> None:
    """Each account once per interval when there is room for it, a touched one within ``soon``; never two looks for one reason."""
    interval, soon = 100 * S, 5 * S
    rounds = Rounds(interval, soon)
    for account in range(accounts):
        rounds.add(account, 0, accounts)
    last = dict.fromkeys(range(accounts), 0)
    wanted: dict[int, int] = {}
    touches = {at: account for account, at in touched if account < accounts}
    for second in range(1, 400):
        now = second * S
        if second in touches:
            rounds.touch(touches[second], now)
            wanted.setdefault(touches[second], now + soon)
        room = accounts  # as much as there are accounts: nothing has to wait for room
        due = rounds.due(now, room)
        assert len(due) == len(set(due))
        for account in due:
            last[account] = now
            wanted.pop(account, None)
        assert all(now - at <= interval + S for at in last.values())
        assert all(now <= at for at in wanted.values())


@given(st.lists(st.integers(0, 200), max_size=200))
def test_rounds_stay_bounded(touches: list[int]) -> None:
    """However often something happens, an account is planned once (S21), and little room gives few looks."""
    rounds = Rounds(100 * S, 5 * S)
    for now, account in enumerate(touches):
        rounds.touch(account, now * S)
        assert len(rounds.due(now * S, 2)) <= 2
    assert len(rounds) == len(set(touches))
    assert len(rounds._heap) <= 4 * len(rounds) + 65


def row(bps: int, leg: int = 0, missed: int = 1 << 32, moving: int = 0) -> DriftRow:
    return DriftRow(distance=missed, missed=missed, money_e8=bps, leg=leg, bps=bps, moving=moving)


def test_the_policy_acts_after_its_time_and_not_around_the_edge() -> None:
    """Hysteresis: out of sync begins at enter_bps, ends below leave_bps, and lasts after_ns before anything is done."""
    watch = SyncWatch(POLICY)
    assert watch.judge(0, [row(99)], lambda _: 1) == []
    assert watch.judge(100 * S, [row(99)], lambda _: 1) == []
    assert watch.judge(101 * S, [row(100)], lambda _: 1) == []
    assert watch.judge(105 * S, [row(60)], lambda _: 1) == []  # between the edges: still out
    [(action, _)] = watch.judge(111 * S, [row(60)], lambda _: 1)
    assert action == SyncAction.CATCH_UP
    assert watch.out == [0]
    assert watch.judge(112 * S, [], lambda _: 1) == []
    assert watch.out == []
    assert watch.judge(113 * S, [row(100)], lambda _: 1) == []  # anew


def test_a_catch_up_is_cheap_and_seldom() -> None:
    """Not above the cost, not while orders are in flight, at most once per interval, and only what was forgone."""
    watch = SyncWatch(POLICY)
    watch.judge(0, [row(100)], lambda _: 21)
    assert watch.judge(10 * S, [row(100)], lambda _: 21) == []
    watch = SyncWatch(POLICY)
    watch.judge(0, [row(100)], lambda _: 1)
    assert watch.judge(11 * S, [row(100, moving=1)], lambda _: 1) == []
    assert len(watch.judge(12 * S, [row(100)], lambda _: 1)) == 1
    assert watch.judge(71 * S, [row(100)], lambda _: 1) == []
    assert len(watch.judge(72 * S, [row(100)], lambda _: 1)) == 1
    watch = SyncWatch(POLICY)
    watch.judge(0, [row(100, missed=0)], lambda _: 1)
    assert watch.judge(11 * S, [row(100, missed=0)], lambda _: 1) == []


def test_other_policies_act_once() -> None:
    """An alert, a pause or close-only is said once per time a leg goes out of sync."""
    watch = SyncWatch(SyncPolicy(action=SyncAction.PAUSE, after_ns=0))
    assert [action for action, _ in watch.judge(0, [row(200)], lambda _: 0)] == [SyncAction.PAUSE]
    assert watch.judge(1_000 * S, [row(200)], lambda _: 0) == []


def test_only_a_quiet_leg_of_a_leader_who_holds_catches_up() -> None:
    """Nothing in flight, not detached, not turning round, and the leader on the same side."""
    good = {"missed": 5, "target": 3, "attributed": 0}
    assert may_catch_up(LegRow(**good), 7)
    assert may_catch_up(LegRow(**{**good, "target": 0}), 7)
    for bad in ({"detached": 1}, {"open_slot": 4}, {"deferred": 1}, {"reduce_leaves": 1}, {"missed": 0}, {"missed": -5},
                {"target": -3}, {"attributed": -1}):
        assert not may_catch_up(LegRow(**{**good, **bad}), 7), bad
    assert not may_catch_up(LegRow(**good), 0)
    assert not may_catch_up(LegRow(**good), -7)
