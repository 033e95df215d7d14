"""An order leaves doubt by evidence alone, inside the budget, the largest exposure first (semantics 35)."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.core.doubt import DEAD, HELD, S_NS, TELL_TRIES, Ask, AskKind, Doubts, Found, Terms, Verdict

ORDER, ORDERS, POSITION = AskKind.ORDER, AskKind.ORDERS, AskKind.POSITION
MS = 1_000_000
TERMS = Terms(fence_ns=25 * S_NS, ask_timeout_ns=5 * S_NS, read_lag_ns=10 * S_NS, guard_ns=2 * S_NS, weight_per_s=100)
T0 = 1_000 * S_NS


def cid(n: int) -> bytes:
    return n.to_bytes(16, "big")


class Believed:
    """What the caller expects of the position; settable."""

    def __init__(self, net: int = 0, net_short: int = 0, quiet: bool = True) -> None:
        self.net, self.net_short, self.quiet = net, net_short, quiet

    def __call__(self, account: int, instrument: int, since: int) -> tuple[int, int, bool]:
        return self.net, self.net_short, self.quiet


def made(believed: Believed | None = None, **terms: int) -> Doubts:
    return Doubts(msgspec.structs.replace(TERMS, **terms), believed or Believed())


def only(asks: list[Ask], kind: AskKind) -> Ask:
    [ask] = asks
    assert ask.kind is kind
    return ask


def through_history(doubts: Doubts, now: int) -> Ask:
    """By id and in the history absent, both asked at ``now`` past the fence; the position question that follows."""
    assert doubts.answered_order(now, only(doubts.asks(now), ORDER).id, None) == []
    assert doubts.answered_orders(now, only(doubts.asks(now), ORDERS).id, [], True) == []
    return only(doubts.asks(now), POSITION)


PAST = T0 + TERMS.fence_ns


def test_absent_from_every_source_after_the_fence_and_the_position_agreeing_is_dead():
    doubts = made(Believed(7, -2))
    doubts.add(cid(1), 3, 4, T0, 10)
    position = through_history(doubts, PAST)
    assert (position.account, position.instrument) == (3, 4)
    assert doubts.answered_position(PAST + S_NS, position.id, 7, -2) == [Verdict(cid(1), DEAD, PAST)]
    assert len(doubts) == 0 and doubts.next_due() is None and doubts.asks(PAST + 99 * S_NS) == []


def test_not_found_by_id_alone_is_not_enough():
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    assert doubts.answered_order(PAST, only(doubts.asks(PAST), ORDER).id, None) == []
    history = only(doubts.asks(PAST), ORDERS)
    assert history.since_ns == T0 - TERMS.lead_ns
    assert doubts.answered_orders(PAST, history.id, [Found(cid(1), 4, 10, True)], True) == []
    assert len(doubts) == 0 and doubts.stats.dead == 0


def test_an_answer_after_the_question_timed_out_still_proves():
    """A venue slower than the timeout must not keep an order in doubt for ever: when an answer arrives never matters."""
    believed = Believed(7)
    doubts = made(believed)
    doubts.add(cid(1), 0, 0, T0, 10)
    now, asked = PAST, {}
    for _ in range(200):
        now += S_NS
        for ask in doubts.asks(now):
            asked[ask.id] = ask, now
        for ask, at in list(asked.values()):
            if now - at < TERMS.ask_timeout_ns + 2 * S_NS:
                continue
            del asked[ask.id]
            if ask.kind is ORDER:
                verdicts = doubts.answered_order(now, ask.id, None)
            elif ask.kind is ORDERS:
                verdicts = doubts.answered_orders(now, ask.id, [], True)
            else:
                verdicts = doubts.answered_position(now, ask.id, 7, 0)
            if verdicts:
                assert [(verdict.cid, verdict.kind) for verdict in verdicts] == [(cid(1), DEAD)]
                assert doubts.stats.timeouts > 0 and len(doubts) == 0
                return
    pytest.fail("not settled by answers that all came late")


def test_a_late_list_tells_of_an_order_that_is_in_doubt_again():
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    assert doubts.answered_order(PAST, only(doubts.asks(PAST), ORDER).id, None) == []
    history = only(doubts.asks(PAST), ORDERS)
    doubts.asks(PAST + 6 * S_NS)
    assert doubts.stats.timeouts == 1
    doubts.ended(cid(1))
    doubts.add(cid(1), 0, 0, T0, 10)
    assert doubts.answered_orders(PAST + 7 * S_NS, history.id, [Found(cid(1), 4, 10, True)], True) == []
    assert len(doubts) == 0


def test_a_held_order_is_asked_about_at_once_when_the_position_was_put_right():
    """It waited for the position to agree: now it does, and nothing is gained by its slow back-off."""
    believed = Believed(7)
    doubts = made(believed)
    doubts.add(cid(1), 3, 0, T0, 10)
    now = PAST
    for _ in range(2):
        position = through_history(doubts, now)
        verdicts = doubts.answered_position(now, position.id, 0, 0)
        now += TERMS.read_lag_ns + TERMS.guard_ns + S_NS
        while not (asks := doubts.asks(now)) and not verdicts:
            now += S_NS
        if not verdicts:
            assert asks[0].kind is POSITION
            verdicts = doubts.answered_position(now, asks[0].id, 0, 0)
        if verdicts:
            break
    assert [verdict.kind for verdict in verdicts] == [HELD]
    now += S_NS
    assert doubts.asks(now) == []
    believed.net = 0
    doubts.ask_held(4)
    assert doubts.asks(now) == [], "another account's"
    doubts.ask_held(3)
    position = through_history(doubts, now)
    assert [verdict.kind for verdict in doubts.answered_position(now, position.id, 0, 0)] == [DEAD]


def test_absences_do_not_go_with_a_position_that_could_only_be_asked_for_long_after():
    """Lists that had forgotten an order for a while, and a fill that another trade took back before the position could be
    asked: only absences and a position of about the same time prove that it is dead."""
    doubts = made(Believed(7))
    doubts.add(cid(1), 0, 0, T0, 10)
    now = PAST
    position = through_history(doubts, now)
    doubts.failed(now, position.id)
    while True:
        now += S_NS
        (ask,) = doubts.asks(now) or (None,)
        if ask is not None and now > PAST + TERMS.absences_ns:
            assert ask.kind is POSITION
            break
        if ask is not None:
            doubts.failed(now, ask.id)
    assert doubts.answered_position(now, ask.id, 7, 0) == []
    now += 60 * S_NS
    again = through_history(doubts, now)
    assert [verdict.kind for verdict in doubts.answered_position(now, again.id, 7, 0)] == [DEAD]


def test_the_history_has_a_timeout_of_its_own():
    doubts = made(list_timeout_ns=30 * S_NS)
    doubts.add(cid(1), 0, 0, T0, 10)
    assert doubts.answered_order(PAST, only(doubts.asks(PAST), ORDER).id, None) == []
    only(doubts.asks(PAST), ORDERS)
    assert doubts.next_due() == PAST + 30 * S_NS
    assert doubts.asks(PAST + 29 * S_NS) == [] and doubts.stats.timeouts == 0
    doubts.asks(PAST + 30 * S_NS)
    assert doubts.stats.timeouts == 1


def test_a_position_that_moved_since_it_was_asked_for_proves_nothing():
    """There and back between question and answer: the number agrees, but it may be another moment's."""
    asked_since = []

    class Moved(Believed):
        def __call__(self, account: int, instrument: int, since: int) -> tuple[int, int, bool]:
            asked_since.append(since)
            return self.net, self.net_short, since > self.moved

    believed = Moved(7)
    believed.moved = 0
    doubts = made(believed)
    doubts.add(cid(1), 0, 0, T0, 10)
    position = through_history(doubts, PAST)
    believed.moved = PAST + S_NS
    assert doubts.answered_position(PAST + 2 * S_NS, position.id, 7, 0) == []
    assert asked_since == [PAST, PAST] and doubts.stats.not_quiet == 1 and len(doubts) == 1


def test_issue_time_counts_never_answer_time():
    """Asked before the fence and answered long after it: nothing is proven."""
    doubts = made(ask_timeout_ns=100 * S_NS)
    doubts.add(cid(1), 0, 0, T0, 10)
    ask = only(doubts.asks(PAST - 1), ORDER)
    assert doubts.answered_order(PAST + 50 * S_NS, ask.id, None) == []
    assert only(doubts.asks(PAST + 60 * S_NS), ORDER).cid == cid(1)


def test_what_did_not_prove_anything_is_asked_again_at_the_fence_at_the_latest():
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    now, times = T0, []
    while now <= PAST:
        for ask in doubts.asks(now):
            times.append(now)
            doubts.answered_order(now, ask.id, None)
        now = max(doubts.next_due(), now + 1)
    assert times[-1] == PAST and times[0] == T0
    gaps = [b - a for a, b in itertools.pairwise(times)][:-1]
    assert gaps == sorted(gaps)


def test_a_history_asked_for_before_the_fence_and_read_after_it_proves_no_absence():
    doubts = made(ask_timeout_ns=100 * S_NS)
    for n in range(1, 8):
        doubts.add(cid(n), 0, 0, T0, n)
    early = only(doubts.asks(PAST - 1), ORDERS)
    assert doubts.answered_orders(PAST + 9 * S_NS, early.id, [], True) == []
    assert only(doubts.asks(PAST + 99 * S_NS), ORDERS)  # all seven anew, none counted as absent from the list


def test_a_history_that_begins_after_an_order_was_signed_proves_no_absence():
    """An order that comes in doubt after the list was asked for may be older than the list."""
    doubts = made(ask_timeout_ns=100 * S_NS)
    doubts.add(cid(1), 0, 0, T0, 10)
    doubts.answered_order(PAST, only(doubts.asks(PAST), ORDER).id, None)
    listed = only(doubts.asks(PAST), ORDERS)
    doubts.add(cid(2), 0, 0, T0 - 60 * S_NS, 10)
    doubts.answered_order(PAST, only(doubts.asks(PAST), ORDER).id, None)
    second = only(doubts.asks(PAST), ORDERS)
    assert second.since_ns == T0 - 60 * S_NS - TERMS.lead_ns
    assert doubts.answered_orders(PAST, listed.id, [], True) == []
    position = only(doubts.asks(PAST), POSITION)
    assert [v.cid for v in doubts.answered_position(PAST, position.id, 0, 0)] == [cid(1)]
    assert doubts.answered_orders(PAST, second.id, [Found(cid(2), 4, 10, True)], True) == []
    assert len(doubts) == 0


def two_with_fences_apart() -> tuple[Doubts, int]:
    """Two doubts of one account; the first one's history is being asked for when the second is still before its fence."""
    doubts = made(ask_timeout_ns=100 * S_NS)
    doubts.add(cid(1), 0, 0, T0, 10)
    doubts.add(cid(2), 0, 0, T0 + 5 * S_NS, 1)
    first, second = doubts.asks(PAST)
    doubts.answered_order(PAST, first.id, None)
    doubts.answered_order(PAST, second.id, None)
    return doubts, PAST + 5 * S_NS


def test_a_history_asked_for_before_its_own_fence_serves_no_other_doubt():
    doubts, fence = two_with_fences_apart()
    only(doubts.asks(PAST), ORDERS)  # unanswered
    again = [ask for ask in doubts.asks(fence) if ask.cid == cid(2)]
    doubts.answered_order(fence, again[0].id, None)
    assert only(doubts.asks(fence), ORDERS)


def test_a_position_asked_for_before_its_own_fence_serves_no_other_doubt():
    doubts, fence = two_with_fences_apart()
    doubts.answered_orders(PAST, only(doubts.asks(PAST), ORDERS).id, [], True)
    early = only(doubts.asks(PAST), POSITION)  # unanswered
    by_id = only(doubts.asks(fence), ORDER)
    doubts.answered_order(fence, by_id.id, None)
    doubts.answered_orders(fence, only(doubts.asks(fence), ORDERS).id, [], True)
    own = only(doubts.asks(fence), POSITION)
    assert [v.cid for v in doubts.answered_position(fence, early.id, 0, 0)] == [cid(1)]
    assert [v.cid for v in doubts.answered_position(fence, own.id, 0, 0)] == [cid(2)]


def test_the_short_side_is_compared_too():
    doubts = made(Believed(5, -3))
    doubts.add(cid(1), 0, 0, T0, 10)
    assert doubts.answered_position(PAST, through_history(doubts, PAST).id, 5, -4) == []
    assert doubts.stats.differed == 1


def absent_everywhere(doubts: Doubts, now: int, position: tuple[int, int] = (0, 0)) -> list[Verdict]:
    """Every question there is at ``now``, each answered "no such order", the position as given."""
    verdicts: list[Verdict] = []
    while asks := doubts.asks(now):
        for ask in asks:
            if ask.kind is ORDER:
                verdicts += doubts.answered_order(now, ask.id, None)
            elif ask.kind is ORDERS:
                verdicts += doubts.answered_orders(now, ask.id, [], True)
            else:
                verdicts += doubts.answered_position(now, ask.id, *position)
    return verdicts


def rounds(doubts: Doubts, now: int, position: tuple[int, int] = (0, 0), count: int = 12) -> list[tuple[bytes, int]]:
    """(id, verdict) of as many rounds of questions as ``count``, each when it is due."""
    told: list[tuple[bytes, int]] = []
    for _ in range(count):
        due = doubts.next_due()
        if due is None:
            break
        now = max(due, now)
        told += [(verdict.cid, verdict.kind) for verdict in absent_everywhere(doubts, now, position)]
    return told


def test_many_that_were_seen_alive_and_are_in_no_list_are_held_before_they_are_gone():
    doubts = made()
    for n in range(1, 8):
        doubts.add(cid(n), 0, 0, T0, n, True)
    told = rounds(doubts, PAST)
    assert [kind for _, kind in told] == [HELD] * 7 + [DEAD] * 7
    assert len({one for one, _ in told[:7]}) == len({one for one, _ in told[7:]}) == 7
    assert len(doubts) == 0


def test_an_incomplete_history_proves_no_absence():
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    doubts.answered_order(PAST, only(doubts.asks(PAST), ORDER).id, None)
    doubts.answered_orders(PAST, only(doubts.asks(PAST), ORDERS).id, [], False)
    later = doubts.next_due()
    assert later > PAST and only(doubts.asks(later), ORDERS)


@pytest.mark.parametrize("kind", list(AskKind))
def test_an_error_is_never_absence(kind):
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    now = PAST
    for _ in range(50):
        for ask in doubts.asks(now):
            if ask.kind is kind:
                doubts.failed(now, ask.id)
            elif ask.kind is ORDER:
                assert doubts.answered_order(now, ask.id, None) == []
            elif ask.kind is ORDERS:
                assert doubts.answered_orders(now, ask.id, [], True) == []
        now = max(doubts.next_due(), now + 1)
    assert len(doubts) == 1 and doubts.stats.failed > 10


def test_no_answer_in_time_is_a_failed_question_and_it_is_put_again():
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    first = only(doubts.asks(PAST), ORDER)
    assert doubts.asks(PAST + 5 * S_NS - 1) == []
    assert doubts.next_due() == PAST + 5 * S_NS
    doubts.asks(PAST + 5 * S_NS)
    second = only(doubts.asks(doubts.next_due()), ORDER)
    # the answer to the first proves nothing any more, unless it found something
    assert doubts.answered_order(PAST + 7 * S_NS, first.id, None) == [] and len(doubts) == 1
    doubts.answered_order(PAST + 7 * S_NS, first.id, Found(cid(1), 4, 10, True))
    assert len(doubts) == 0
    assert doubts.answered_order(PAST + 8 * S_NS, second.id, None) == []


def test_a_difference_holds_only_after_two_reads_a_read_lag_apart():
    doubts = made(Believed(5))
    doubts.add(cid(1), 0, 0, T0, 10)
    first = through_history(doubts, PAST)
    assert doubts.answered_position(PAST, first.id, 15, 0) == []
    assert doubts.asks(PAST + TERMS.read_lag_ns - 1) == []
    now = doubts.next_due()
    second = only(doubts.asks(now), POSITION)
    assert doubts.answered_position(now, second.id, 15, 0) == [Verdict(cid(1), HELD, now)]
    assert len(doubts) == 1


def held(believed: Believed) -> tuple[Doubts, int]:
    doubts = made(believed)
    doubts.add(cid(1), 0, 0, T0, 10)
    first = through_history(doubts, PAST)
    doubts.answered_position(PAST, first.id, believed.net + 10, 0)
    now = doubts.next_due()
    [verdict] = doubts.answered_position(now, only(doubts.asks(now), POSITION).id, believed.net + 10, 0)
    assert verdict.kind == HELD
    return doubts, now


def test_held_is_said_once_and_asking_goes_on_slowly():
    doubts, now = held(Believed(5))
    for _ in range(5):
        due = doubts.next_due()
        assert due - now >= TERMS.held_backoff_ns
        now = due
        position = through_history(doubts, now)
        assert doubts.answered_position(now, position.id, 15, 0) == []
    assert doubts.stats.held == 1


def test_held_is_left_by_a_position_that_agrees_again():
    doubts, _ = held(Believed(5))
    now = doubts.next_due()
    position = through_history(doubts, now)
    assert doubts.answered_position(now, position.id, 5, 0) == [Verdict(cid(1), DEAD, now)]


def test_held_is_left_by_a_find():
    doubts, _ = held(Believed(5))
    now = doubts.next_due()
    assert doubts.answered_order(now, only(doubts.asks(now), ORDER).id, Found(cid(1), 4, 10, True)) == []
    assert len(doubts) == 0


@given(st.lists(st.sampled_from(["error", "timeout", "differs", "early"]), max_size=30))
def test_held_is_left_by_evidence_only(history):
    """Neither time nor errors nor further differences end it."""
    doubts, now = held(Believed(5))
    for what in history:
        now = max(doubts.next_due(), now)
        for ask in doubts.asks(now):
            if what == "error":
                doubts.failed(now, ask.id)
            elif what == "timeout":
                continue
            elif ask.kind is ORDER:
                assert doubts.answered_order(now, ask.id, None) == []
            elif ask.kind is ORDERS:
                assert doubts.answered_orders(now, ask.id, [], True) == []
            else:
                assert doubts.answered_position(now, ask.id, 15, 0) == []
    assert len(doubts) == 1


def test_an_order_once_seen_alive_is_held_when_it_vanishes_and_gone_only_with_the_position():
    """Two rounds a read lag apart hold it; while the position differs it stays held; a later find ends it."""
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    doubts.answered_order(T0, only(doubts.asks(T0), ORDER).id, Found(cid(1), 2, 0, False))
    assert rounds(doubts, PAST, (4, 0), 40) == [(cid(1), HELD)]
    assert len(doubts) == 1
    now = doubts.next_due()
    asks = doubts.asks(now)
    doubts.answered_order(now, asks[0].id, Found(cid(1), 6, 3, True))
    assert len(doubts) == 0


def test_without_a_position_to_compare_what_was_seen_alive_is_never_gone():
    doubts = Doubts(TERMS, None)
    doubts.add(cid(1), 0, 0, T0, 10, True)
    assert rounds(doubts, PAST, count=30) == [(cid(1), HELD)]
    assert len(doubts) == 1


def test_what_the_venue_has_shown_alive_is_held_first():
    """Said when it is added, or later while it is asked about: not gone by the first round, whatever the position."""
    for before in (True, False):
        doubts = made()
        doubts.add(cid(1), 0, 0, T0, 10, before)
        doubts.add(cid(1), 0, 0, T0, 10, True)
        assert absent_everywhere(doubts, PAST) == []
        assert [kind for _, kind in rounds(doubts, PAST)] == [HELD, DEAD]


def test_what_is_shown_alive_while_its_position_is_asked_for_is_not_dead():
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    position = through_history(doubts, PAST)
    doubts.add(cid(1), 0, 0, T0, 10, True)
    assert doubts.answered_position(PAST, position.id, 0, 0) == [] and len(doubts) == 1
    assert only(doubts.asks(PAST), ORDER)


def test_found_alive_is_asked_about_until_it_has_ended():
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    now = T0
    for _ in range(10):
        now = max(doubts.next_due(), now)
        assert doubts.answered_order(now, only(doubts.asks(now), ORDER).id, Found(cid(1), 3, 4, False)) == []
    now = doubts.next_due()
    doubts.answered_order(now, only(doubts.asks(now), ORDER).id, Found(cid(1), 4, 10, True))
    assert doubts.next_due() is None


def test_a_comparison_while_the_account_is_not_quiet_proves_nothing():
    """Neither at the question nor at the answer, and nothing may be booked between the two."""
    believed = Believed(5, quiet=False)
    doubts = made(believed)
    doubts.add(cid(1), 0, 0, T0, 10)
    doubts.answered_order(PAST, only(doubts.asks(PAST), ORDER).id, None)
    doubts.answered_orders(PAST, only(doubts.asks(PAST), ORDERS).id, [], True)
    assert doubts.asks(PAST) == [] and doubts.stats.asked_position == 0
    believed.quiet = True
    now = doubts.next_due()
    ask = only(doubts.asks(now), POSITION)
    believed.quiet = False
    assert doubts.answered_position(now, ask.id, 5, 0) == []
    believed.quiet = True
    now = doubts.next_due()
    ask = only(doubts.asks(now), POSITION)
    believed.net = 8
    assert doubts.answered_position(now, ask.id, 8, 0) == []
    now = doubts.next_due()
    [verdict] = doubts.answered_position(now, only(doubts.asks(now), POSITION).id, 8, 0)
    assert verdict.kind == DEAD


def test_a_difference_that_another_doubt_may_explain_holds_nothing():
    doubts = made(Believed(5))
    doubts.add(cid(1), 0, 0, T0, 10)
    doubts.add(cid(2), 0, 0, PAST + 10 * S_NS, 10)
    now, held_at = PAST, None
    while held_at is None and now < PAST + 100 * S_NS:
        for ask in doubts.asks(now):
            if ask.kind is ORDER:
                if ask.cid == cid(2) and now >= PAST + 20 * S_NS:
                    doubts.answered_order(now, ask.id, Found(cid(2), 4, 10, True))
                else:
                    doubts.answered_order(now, ask.id, None)
            elif ask.kind is ORDERS:
                doubts.answered_orders(now, ask.id, [], True)
            else:
                held_at = now if doubts.answered_position(now, ask.id, 15, 0) else None
        if doubts.next_due() is None:
            break
        now = max(doubts.next_due(), now + 1)
    assert held_at is not None and held_at >= PAST + 20 * S_NS + TERMS.read_lag_ns


def test_without_an_expectation_the_position_is_not_compared():
    doubts = Doubts(TERMS, None)
    doubts.add(cid(1), 0, 0, T0, 10)
    doubts.answered_order(PAST, only(doubts.asks(PAST), ORDER).id, None)
    [verdict] = doubts.answered_orders(PAST, only(doubts.asks(PAST), ORDERS).id, [], True)
    assert verdict == (cid(1), DEAD, PAST)


def test_past_the_venue_s_memory_absence_without_the_position_is_held():
    doubts = Doubts(msgspec.structs.replace(TERMS, absent_valid_ns=3600 * S_NS, weight_orders=0), None)
    doubts.add(cid(1), 0, 0, T0, 10)
    now, kinds = T0 + 7200 * S_NS, []
    for _ in range(3):
        now = max(doubts.next_due(), now)
        kinds += [v.kind for v in doubts.answered_order(now, only(doubts.asks(now), ORDER).id, None)]
    assert kinds == [HELD] and len(doubts) == 1


def test_a_list_question_is_used_where_one_call_is_cheaper_than_what_it_replaces():
    few, many = made(), made()
    for n in range(1, 6):
        few.add(cid(n), 0, 0, T0 + n, n)
    for n in range(1, 7):
        many.add(cid(n), 0, 0, T0 + n, n)
    assert [ask.kind for ask in few.asks(T0 + S_NS)] == [ORDER] * 5
    ask = only(many.asks(T0 + S_NS), ORDERS)
    assert ask.since_ns == T0 + 1 - TERMS.lead_ns
    many.answered_orders(T0 + S_NS, ask.id, [Found(cid(n), 4, 1, True) for n in range(1, 6)], True)
    assert len(many) == 1


def test_one_list_and_one_position_settle_all_doubts_of_an_account_and_instrument():
    doubts = made(weight_per_s=1000)
    for n in range(1, 101):
        doubts.add(cid(n), 0, 0, T0, n)
    listed = only(doubts.asks(PAST), ORDERS)
    assert doubts.answered_orders(PAST, listed.id, [], True) == []
    by_id = doubts.asks(PAST)
    assert [ask.kind for ask in by_id] == [ORDER] * 100
    assert [int.from_bytes(ask.cid, "big") for ask in by_id] == list(range(100, 0, -1))
    for ask in by_id:
        assert doubts.answered_order(PAST, ask.id, None) == []
    position = only(doubts.asks(PAST), POSITION)
    assert len(doubts.answered_position(PAST, position.id, 0, 0)) == 100


def test_largest_exposure_first():
    doubts = made(weight_per_s=5)
    for n, exposure in enumerate([3, 9, 1, 7, 5, 8, 2]):
        doubts.add(cid(n), n, 0, T0, exposure)
    assert [ask.cid for ask in doubts.asks(T0)] == [cid(1), cid(5), cid(3), cid(4), cid(0)]


def test_what_led_nowhere_lets_the_others_go_first():
    doubts = made(weight_per_s=5, weight_orders=0, weight_position=0)
    doubts.add(cid(1), 1, 0, T0, 1_000_000)
    for n in range(2, 30):
        doubts.add(cid(n), n, 0, T0, 1)
    asked, now = set(), T0
    for _ in range(10):
        for ask in doubts.asks(now):
            asked.add(ask.cid)
            doubts.answered_order(now, ask.id, None)
        now += S_NS
    assert len(asked) == 29


def test_nothing_is_asked_during_a_pause_and_everything_after_it():
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    doubts.pause(T0 + 120 * S_NS)
    doubts.pause(T0 + 60 * S_NS)
    assert doubts.asks(T0 + 119 * S_NS) == [] and doubts.next_due() == T0 + 120 * S_NS
    assert only(doubts.asks(T0 + 120 * S_NS), ORDER)


def test_adding_twice_is_once_and_the_first_signing_time_stands():
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    doubts.add(cid(1), 0, 0, T0 + 5 * S_NS, 10)
    assert len(doubts.asks(T0)) == 1 and doubts.stats.added == 1


def test_an_end_told_otherwise_stops_the_questions():
    doubts = made()
    doubts.add(cid(1), 0, 0, T0, 10)
    ask = only(doubts.asks(T0), ORDER)
    doubts.ended(cid(1))
    doubts.ended(cid(2))
    assert doubts.answered_order(PAST, ask.id, None) == [] and len(doubts) == 0 and doubts.next_due() is None


class World:
    """A venue with lagging replicas and lost requests, run in steps of drawn length."""

    def __init__(self, draw, terms: Terms) -> None:
        self.draw, self.terms = draw, terms
        self.visible: dict[bytes, int] = {}  # accepted: visible everywhere from
        self.end: dict[bytes, int] = {}
        self.account: dict[bytes, int] = {}
        self.booked: dict[int, int] = {}
        self.net: dict[int, int] = {}

    def expected(self, account: int, instrument: int, since: int) -> tuple[int, int, bool]:
        return self.booked.get(account, 0), 0, True

    def sees(self, cid: bytes, issued: int) -> bool:
        return cid in self.visible and issued >= self.visible[cid]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_never_dead_what_the_venue_accepted_and_everything_settles_once_it_is_healthy(data):
    terms = msgspec.structs.replace(TERMS, weight_per_s=data.draw(st.integers(1, 40)))
    world = World(data.draw, terms)
    doubts = Doubts(terms, world.expected)
    total = data.draw(st.integers(1, 12))
    latest_accept = terms.fence_ns - terms.read_lag_ns
    for n in range(total):
        account = data.draw(st.integers(0, 2))
        world.account[cid(n)] = account
        doubts.add(cid(n), account, 0, T0, n)
        if data.draw(st.booleans()):
            accepted = T0 + data.draw(st.integers(0, latest_accept - 1))
            world.visible[cid(n)] = accepted + data.draw(st.integers(0, terms.read_lag_ns))
            world.end[cid(n)] = world.visible[cid(n)] + data.draw(st.integers(0, 40 * S_NS))
            world.net[account] = world.net.get(account, 0) + n + 1
    verdicts: list[Verdict] = []
    now, fair, spent = T0, T0 + 120 * S_NS, []
    open_asks: list[tuple[int, int, Ask]] = []

    def look(cid_: bytes, issued: int) -> Found | None:
        if not world.sees(cid_, issued):
            return None
        ended = issued >= world.end[cid_]
        return Found(cid_, 4 if ended else 2, 0, ended)

    def take(found: Found) -> None:
        if found.ended and found.cid in world.end:
            account, qty = world.account[found.cid], int.from_bytes(found.cid, "big") + 1
            if world.end.get(found.cid, -1) >= 0:
                world.booked[account] = world.booked.get(account, 0) + qty
                world.end[found.cid] = -1

    for _ in range(3000):
        if not len(doubts):
            break
        for ask in doubts.asks(now):
            weight = {ORDER: terms.weight_order, ORDERS: terms.weight_orders, POSITION: terms.weight_position}[ask.kind]
            spent.append((now, weight))
            delay = data.draw(st.integers(0, 8 * S_NS)) if now < fair else MS
            open_asks.append((now + delay, now, ask))
        open_asks.sort(key=lambda item: item[0])
        while open_asks and open_asks[0][0] <= now:
            _, issued, ask = open_asks.pop(0)
            if now < fair and data.draw(st.integers(0, 3)) == 0:
                doubts.failed(now, ask.id)
            elif ask.kind is ORDER:
                found = look(ask.cid, issued)
                if found:
                    take(found)
                verdicts += doubts.answered_order(now, ask.id, found)
            elif ask.kind is ORDERS:
                founds = [f for c, a in world.account.items() if a == ask.account and (f := look(c, issued)) is not None]
                for found in founds:
                    take(found)
                verdicts += doubts.answered_orders(now, ask.id, founds, True)
            else:
                verdicts += doubts.answered_position(now, ask.id, world.net.get(ask.account, 0), 0)
        due = doubts.next_due()
        if due is None:
            break
        now = max(now + MS, min([due, *(item[0] for item in open_asks[:1])]))
    assert len(doubts) == 0, "not settled"
    dead = {verdict.cid for verdict in verdicts if verdict.kind == DEAD}
    assert dead == {cid(n) for n in range(total)} - set(world.visible)
    assert all(v.issued_ns >= T0 + terms.fence_ns for v in verdicts)
    assert len([v for v in verdicts if v.kind == HELD]) == len({v.cid for v in verdicts if v.kind == HELD})
    # never more than the burst and the rate, over any stretch
    burst = max(terms.weight_per_s, terms.weight_orders, terms.weight_position)
    for first in range(len(spent)):
        used = 0
        for at, weight in spent[first:]:
            used += weight
            assert used * S_NS <= burst * S_NS + (at - spent[first][0]) * terms.weight_per_s


def test_executions_that_were_not_told_are_asked_for_slowly_and_behind_every_doubt():
    """The order has ended, no list, no position, no verdict: its number by its id, then its executions, until all are told."""
    doubts = made()
    doubts.tell(cid(1), 3, 4, listed=False)
    doubts.add(cid(2), 3, 4, T0, 10)
    assert doubts.doubted == 1 and cid(1) in doubts and list(doubts.cids(3, 4)) == [cid(2)]
    first, second = doubts.asks(T0)
    assert (first.cid, first.kind, second.cid, second.kind) == (cid(2), ORDER, cid(1), ORDER)
    doubts.ended(cid(2))
    assert doubts.answered_order(T0, second.id, None) == []
    assert doubts.asks(T0) == []
    now = T0 + S_NS
    doubts.ended(cid(1))  # a report that tells no execution
    assert doubts.answered_order(now, only(doubts.asks(now), ORDER).id, Found(cid(1), 4, 41, True)) == []
    doubts.answered_trades(now, only(doubts.asks(now), AskKind.TRADES).id, False)
    assert doubts.asks(now) == []
    now += S_NS
    doubts.answered_trades(now, only(doubts.asks(now), AskKind.TRADES).id, True)
    assert len(doubts) == 0 and doubts.next_due() is None


def test_a_venue_that_answers_and_never_tells_them_is_asked_no_more_after_a_while():
    """What is known stands; the same order is not begun with anew. An error is no answer, however often it comes."""
    doubts = made()
    assert doubts.tell(cid(1), 3, 4, listed=True) and not doubts.tell(cid(1), 3, 4, listed=True)
    now = T0
    for _ in range(3 * TELL_TRIES):
        now += TERMS.held_backoff_ns
        doubts.failed(now, only(doubts.asks(now), AskKind.TRADES).id)
    answered = 0
    while len(doubts):
        now += TERMS.held_backoff_ns
        answered += 1
        doubts.answered_trades(now, only(doubts.asks(now), AskKind.TRADES).id, False)
    assert answered == TELL_TRIES and not doubts.tell(cid(1), 3, 4, listed=True)
