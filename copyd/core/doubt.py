"""Orders in doubt: which question to put to the venue when, and what its answer proves (semantics 35).

An order leaves doubt by evidence alone. Found and ended: by what was found. Absent: "no such order" from *every* source
(by id, in the history since it was placed), each in answer to a question **issued** at the fence or later, and then the
account's position as we believe it. When an answer arrives never matters, an error is no answer, and nothing said about
the time before the fence counts. Sources that contradict each other hold the order (HELD) until one of them gives way.

Sans-IO: the caller puts the questions ``asks`` returns and hands back what came. Times are the caller's, in ns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import IntEnum
from heapq import heappop, heappush
from typing import Final, NamedTuple

import msgspec

S_NS: Final = 1_000_000_000
#: A held order's history that came back cut this often, with slow questions between, is one the venue keeps no more.
CUT_LISTS: Final = 3
#: How often the venue is asked, slowly, for the trades of an order that has ended, and behind all that is in doubt.
TELL_TRIES: Final = 60
LAST_TURN: Final = 1_000_000
#: Orders the venue was asked about in vain for so long that it is not asked again, remembered.
SILENT_MAX: Final = 10_000
#: Questions without an answer that are remembered in case one comes.
OVERDUE_MAX: Final = 10_000
#: Kinds of a verdict: report rows of the same number.
DEAD: Final = 4
HELD: Final = 9


class AskKind(IntEnum):
    """What is asked."""

    ORDER = 1  # one order by its id
    ORDERS = 2  # every order of an account in an instrument since a time, open or ended
    POSITION = 3  # the account's position in the instrument
    TRADES = 4  # the executions of one order that has ended


class Ask(NamedTuple):
    """A question that counts as issued at the moment it is returned. ``cid`` is empty where no single order is meant."""

    id: int
    kind: AskKind
    account: int
    instrument: int
    cid: bytes
    since_ns: int


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The venue's terms. A weight of 0 for ``orders`` or ``position``: there is no such source, it is left out."""

    fence_ns: int
    ask_timeout_ns: int
    read_lag_ns: int
    #: The same for the history and the position, which cost the venue more; 0 = as the others.
    list_timeout_ns: int = 0
    guard_ns: int = 0
    #: Wait before the n-th question that led nowhere is put again; the last one for ever.
    backoff_ns: tuple[int, ...] = (0, S_NS // 4, S_NS // 2, S_NS, 2 * S_NS, 4 * S_NS, 8 * S_NS, 15 * S_NS)
    weight_order: int = 1
    weight_orders: int = 5
    weight_position: int = 5
    #: The budget: this much weight each ``per_ns``.
    weight_per_s: int = 20
    per_ns: int = S_NS
    held_backoff_ns: int = 60 * S_NS
    #: The history is asked for from this long before the order was placed: more than our idea of the venue's clock can be wrong
    #: while it still takes what we sign.
    lead_ns: int = 30 * S_NS
    #: Later than this after signing the venue may have forgotten an order that ended unfilled, so that only the position
    #: shows that it left no trace; 0 = it never forgets.
    absent_valid_ns: int = 0
    #: A position asked for later than this after the last "no such order" does not go with it: all sources are asked anew.
    absences_ns: int = 60 * S_NS


class Found(NamedTuple):
    """What a source says about an order of ours: ``status`` an order state, ``cum_qty`` lots."""

    cid: bytes
    status: int
    cum_qty: int
    ended: bool


class Verdict(NamedTuple):
    """``DEAD``: proven absent (one that was seen alive: gone). ``HELD``: the sources contradict each other.

    ``issued_ns``: when the deciding question was put.
    """

    cid: bytes
    kind: int
    issued_ns: int


class DoubtStats(msgspec.Struct):
    """Counters since the start."""

    added: int = 0
    asked_order: int = 0
    asked_orders: int = 0
    asked_position: int = 0
    asked_trades: int = 0
    weight: int = 0
    failed: int = 0
    timeouts: int = 0
    late: int = 0
    found_alive: int = 0
    found_ended: int = 0
    not_found: int = 0
    not_found_early: int = 0
    not_quiet: int = 0
    differed: int = 0
    dead: int = 0
    held: int = 0
    pauses: int = 0


class _Group:
    """The doubts of one account in one instrument: they share the list and the position."""

    __slots__ = ("account", "instrument", "members", "orders", "position")

    def __init__(self, account: int, instrument: int) -> None:
        self.account, self.instrument = account, instrument
        self.members: dict[bytes, _Doubt] = {}
        self.orders: _Asked | None = None  # under way
        self.position: _Asked | None = None


class _Doubt:
    __slots__ = (
        "absent_by_id", "absent_in_list", "absent_ns", "ask", "cid", "cut_lists", "differ_ns", "exposure", "fence", "group",
        "held", "listed", "placed", "seen", "silences", "token", "tries", "untold", "waits",
    )  # fmt: skip

    def __init__(self, cid: bytes, group: _Group, placed: int, fence: int, exposure: int) -> None:
        self.cid, self.group, self.placed, self.fence, self.exposure = cid, group, placed, fence, exposure
        self.silences = 0  # answers that told nothing of its executions
        self.untold = False  # ended, and in no doubt: its executions are asked for
        self.listed = False  # and the venue's own number of it is known
        self.tries = 0  # questions that led nowhere since the last that did
        self.token = -1  # of the entry in a queue that is valid
        self.waits = False  # its turn has come, it waits for the budget
        self.ask = 0  # the question it waits for
        self.absent_by_id = False  # both only by questions issued at the fence or later
        self.absent_in_list = False
        self.absent_ns = 0  # when the last answer came that these two rest on
        self.seen = False  # found alive once: silence holds it first
        self.held = False
        self.cut_lists = 0  # histories that did not reach back to it, one after the other
        self.differ_ns = -1  # when the first question was issued whose answer contradicted


class _Asked(NamedTuple):
    id: int
    kind: AskKind
    issued: int
    since: int
    group: _Group
    doubt: _Doubt | None
    expected: tuple[int, int]


class Doubts:
    """See the module.

    ``expected(account, instrument, since)`` gives the position we believe the venue holds, (one-way or long side, short
    side), from confirmed fills alone, and whether it is quiet: no order that is *not* in doubt in flight there and no fill
    after ``since`` or less than the read lag before. Without it the position is not compared.
    """

    def __init__(self, terms: Terms, expected: Callable[[int, int, int], tuple[int, int, bool]] | None) -> None:
        self.terms = terms
        self.expected = expected
        self.stats = DoubtStats()
        self._doubts: dict[bytes, _Doubt] = {}
        self._groups: dict[tuple[int, int], _Group] = {}
        self._asks: dict[int, _Asked] = {}
        self._untold = 0
        self._silent: dict[bytes, None] = {}
        self._overdue: dict[int, _Asked] = {}  # asked again since; what they still bring counts
        self._deadlines: list[tuple[int, int]] = []  # when, question
        self._later: list[tuple[int, int, _Doubt]] = []  # due, token
        self._ready: list[tuple[int, int, int, _Doubt]] = []  # fruitless questions, largest exposure, token
        self._last_id = 0
        self._last_token = 0
        self._tokens = 0  # weight x per_ns
        self._tokens_at = -1
        self._paused_until = 0

    def __len__(self) -> int:
        return len(self._doubts)

    def __contains__(self, cid: object) -> bool:
        return cid in self._doubts

    @property
    def doubted(self) -> int:
        """Orders in doubt: those that have ended, and whose executions are asked for, are not."""
        return len(self._doubts) - self._untold

    @property
    def paused_until(self) -> int:
        """Nothing is asked before."""
        return self._paused_until

    # --- in and out of doubt --------------------------------------------------------------------------------------------
    def add(
        self, cid: bytes, account: int, instrument: int, signed_ns: int, exposure: int = 0, seen: bool = False,
        placed_ns: int | None = None,
    ) -> None:
        """An order is in doubt; adding it again changes nothing but that it may have been ``seen`` alive by now.

        ``signed_ns``: when it was signed or any later moment, for the fence. ``placed_ns``: that, or any earlier moment, for
        the history: after a restart the two lie apart by as long as the daemon was away. Without it they are the same.
        """
        known = self._doubts.get(cid)
        if known is not None:
            if seen and not known.seen:
                known.seen = True
                known.absent_by_id = known.absent_in_list = False
            return
        group = self._groups.get((account, instrument))
        if group is None:
            group = self._groups[account, instrument] = _Group(account, instrument)
        placed = signed_ns if placed_ns is None else min(placed_ns, signed_ns)
        doubt = _Doubt(cid, group, placed, signed_ns + self.terms.fence_ns, exposure)
        doubt.seen = seen
        self._doubts[cid] = group.members[cid] = doubt
        self.stats.added += 1
        self._now(doubt)

    def cids(self, account: int, instrument: int) -> Collection[bytes]:
        """The orders of an account in an instrument that are in doubt here."""
        group = self._groups.get((account, instrument))
        return group.members.keys() if group is not None else ()

    def ended(self, cid: bytes) -> None:
        """Its end was told otherwise (user stream, late reply): no more questions."""
        doubt = self._doubts.get(cid)
        if doubt is not None and not doubt.untold:
            self._drop(doubt)

    def tell(self, cid: bytes, account: int, instrument: int, listed: bool) -> bool:
        """It has ended, and not every execution of it was told: its fees, or even what it was worth, are not known.

        It is in no doubt: no list, no position and no verdict has to do with it. Behind all that is in doubt its executions are
        asked for, by the venue's own number of it (``listed``), which its id gives. ``TELL_TRIES`` answers that tell
        nothing end it; an error is no answer. False: it is asked for already, or the venue has been silent about it.
        """
        if cid in self._doubts or cid in self._silent:
            return False
        group = _Group(account, instrument)
        doubt = self._doubts[cid] = group.members[cid] = _Doubt(cid, group, 0, 0, 0)
        doubt.untold, doubt.listed = True, listed
        self._untold += 1
        self._now(doubt)
        return True

    def ask_held(self, account: int) -> None:
        """The account's position is another to us now: its orders in conflict are asked about at once, not after their wait."""
        for group in list(self._groups.values()):
            if group.account == account:
                for doubt in group.members.values():
                    if doubt.held and doubt.ask not in self._asks:
                        self._now(doubt)

    def pause(self, until: int) -> None:
        """The venue wants no request before; questions under way run on."""
        if until > self._paused_until:
            self._paused_until = until
            self.stats.pauses += 1

    def _drop(self, doubt: _Doubt) -> None:
        group = doubt.group
        del self._doubts[doubt.cid], group.members[doubt.cid]
        if not group.members and self._groups.get((group.account, group.instrument)) is group:
            del self._groups[group.account, group.instrument]
        doubt.token = -1
        doubt.waits = False
        self._untold -= doubt.untold

    # --- out: questions -------------------------------------------------------------------------------------------------
    def asks(self, now: int) -> list[Ask]:
        """The questions to put now, within the budget: those that led nowhere least often first, then largest exposure."""
        asks: list[Ask] = []
        if not self._doubts:
            return asks
        self._expire(now)
        later = self._later
        while later and later[0][0] <= now:
            _, token, doubt = heappop(later)
            if doubt.token == token:
                self._now(doubt)
        ready = self._ready
        if not ready or now < self._paused_until:
            return asks
        self._refill(now)
        while ready:
            token, doubt = ready[0][2], ready[0][3]
            if doubt.token != token:
                heappop(ready)
                continue
            kind = self._kind(doubt)
            if kind is AskKind.POSITION:
                if not self._ask_position(now, doubt, asks):
                    break
            elif kind is AskKind.ORDERS:
                if not self._ask_orders(now, doubt, asks):
                    break
            elif not self._spend(self._weight(kind)):
                break
            else:
                if kind is AskKind.ORDER:
                    self.stats.asked_order += 1
                else:
                    self.stats.asked_trades += 1
                asked = self._issue(now, kind, doubt.group, doubt, 0, (0, 0))
                asks.append(Ask(asked.id, kind, doubt.group.account, doubt.group.instrument, doubt.cid, 0))
                self._wait_for(doubt, asked)
        return asks

    def next_due(self) -> int | None:
        """When ``asks`` is to be called next; a time in the past means at once, None that nothing is in doubt."""
        if not self._doubts:
            return None
        later, ready = self._later, self._ready
        while later and later[0][2].token != later[0][1]:
            heappop(later)
        while ready and ready[0][3].token != ready[0][2]:
            heappop(ready)
        due = later[0][0] if later else -1
        if ready:
            at = self._tokens_at
            lacking = self._weight(self._kind(ready[0][3])) * self.terms.per_ns - self._tokens if at >= 0 else 0
            if lacking > 0:
                at += -(-lacking // self.terms.weight_per_s)
            at = max(at, 0)
            due = at if due < 0 else min(due, at)
        if due >= 0:
            due = max(due, self._paused_until)
        deadlines = self._deadlines
        while deadlines and deadlines[0][1] not in self._asks:
            heappop(deadlines)
        if deadlines:
            due = deadlines[0][0] if due < 0 else min(due, deadlines[0][0])
        return due

    def _kind(self, doubt: _Doubt) -> AskKind:
        terms = self.terms
        if doubt.untold:
            return AskKind.TRADES if doubt.listed else AskKind.ORDER
        if not doubt.absent_by_id:
            if terms.weight_orders and not doubt.absent_in_list:
                most = terms.weight_orders // terms.weight_order
                members = doubt.group.members
                if len(members) > most:
                    replaced = 0
                    for member in members.values():
                        if member.waits and not member.absent_by_id and not member.absent_in_list:
                            replaced += 1
                            if replaced > most:
                                return AskKind.ORDERS
            return AskKind.ORDER
        return AskKind.ORDERS if terms.weight_orders and not doubt.absent_in_list else AskKind.POSITION

    def _weight(self, kind: AskKind) -> int:
        terms = self.terms
        if kind is AskKind.ORDER:
            return terms.weight_order
        return terms.weight_position if kind is AskKind.POSITION else terms.weight_orders

    def _ask_orders(self, now: int, doubt: _Doubt, asks: list[Ask]) -> bool:
        group, lead = doubt.group, self.terms.lead_ns
        asked = group.orders
        if asked is None or asked.since > doubt.placed - lead or (asked.issued < doubt.fence <= now):
            if not self._spend(self.terms.weight_orders):
                return False
            self.stats.asked_orders += 1
            since = min(member.placed for member in group.members.values()) - lead
            asked = group.orders = self._issue(now, AskKind.ORDERS, group, None, since, (0, 0))
            asks.append(Ask(asked.id, AskKind.ORDERS, group.account, group.instrument, b"", since))
            for member in group.members.values():
                if member.waits and not member.absent_in_list:
                    self._wait_for(member, asked)
        self._wait_for(doubt, asked)
        return True

    def _ask_position(self, now: int, doubt: _Doubt, asks: list[Ask]) -> bool:
        group, expected = doubt.group, self.expected
        assert expected is not None
        asked = group.position
        if asked is None or asked.issued < doubt.fence:
            net, net_short, quiet = expected(group.account, group.instrument, now)
            if not quiet:
                self.stats.not_quiet += 1
                if doubt.held:  # nothing was asked: it costs nothing to wait for no longer than things need to come to rest
                    self._at(doubt, now + max(self.terms.read_lag_ns, S_NS))
                else:
                    self._again(now, doubt)
                return True
            if not self._spend(self.terms.weight_position):
                return False
            self.stats.asked_position += 1
            asked = group.position = self._issue(now, AskKind.POSITION, group, None, 0, (net, net_short))
            asks.append(Ask(asked.id, AskKind.POSITION, group.account, group.instrument, b"", 0))
        self._wait_for(doubt, asked)
        return True

    def _issue(
        self, now: int, kind: AskKind, group: _Group, doubt: _Doubt | None, since: int, expected: tuple[int, int]
    ) -> _Asked:
        self._last_id += 1
        asked = self._asks[self._last_id] = _Asked(self._last_id, kind, now, since, group, doubt, expected)
        timeout = self.terms.ask_timeout_ns
        if kind is not AskKind.ORDER:
            timeout = self.terms.list_timeout_ns or timeout
        heappush(self._deadlines, (now + timeout, self._last_id))
        return asked

    def _wait_for(self, doubt: _Doubt, asked: _Asked) -> None:
        doubt.ask = asked.id
        doubt.token = -1
        doubt.waits = False

    # --- turns and budget -----------------------------------------------------------------------------------------------
    def _now(self, doubt: _Doubt) -> None:
        self._last_token += 1
        doubt.token = self._last_token
        doubt.waits = True
        doubt.ask = 0
        heappush(self._ready, (doubt.tries + doubt.untold * LAST_TURN, -doubt.exposure, self._last_token, doubt))

    def _at(self, doubt: _Doubt, due: int) -> None:
        self._last_token += 1
        doubt.token = self._last_token
        doubt.waits = False
        doubt.ask = 0
        heappush(self._later, (due, self._last_token, doubt))

    def _again(self, now: int, doubt: _Doubt) -> None:
        """Once more, slower each time, but at the fence at the latest when that is nearer."""
        doubt.tries += 1
        if doubt.held:
            self._at(doubt, now + self.terms.held_backoff_ns)
            return
        backoff = self.terms.backoff_ns
        due = now + backoff[min(doubt.tries, len(backoff) - 1)]
        if now < doubt.fence < due:
            due = doubt.fence
            doubt.tries = 0
        self._at(doubt, due)

    def _told_nothing(self, now: int, doubt: _Doubt) -> None:
        """An answer without its executions: asked again, and after ``TELL_TRIES`` of them what is known of it stands."""
        doubt.silences += 1
        if doubt.silences < TELL_TRIES:
            self._again(now, doubt)
            return
        self._drop(doubt)
        self._silent[doubt.cid] = None
        while len(self._silent) > SILENT_MAX:
            del self._silent[next(iter(self._silent))]

    def _refill(self, now: int) -> None:
        terms = self.terms
        # At least one whole question, however small the budget.
        most = max(terms.weight_per_s, terms.weight_order, terms.weight_orders, terms.weight_position) * terms.per_ns
        if self._tokens_at < 0:
            self._tokens = most
        elif now > self._tokens_at:
            self._tokens = min(most, self._tokens + (now - self._tokens_at) * terms.weight_per_s)
        self._tokens_at = now

    def _spend(self, weight: int) -> bool:
        cost = weight * self.terms.per_ns
        if self._tokens < cost:
            return False
        self._tokens -= cost
        self.stats.weight += weight
        return True

    def _expire(self, now: int) -> None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            ask_id = heappop(deadlines)[1]
            asked = self._asks.get(ask_id)
            if asked is not None:
                self.stats.timeouts += 1
                self.failed(now, ask_id)
                self._overdue[ask_id] = asked
                while len(self._overdue) > OVERDUE_MAX:
                    del self._overdue[next(iter(self._overdue))]

    # --- in: answers ----------------------------------------------------------------------------------------------------
    def answered_order(self, now: int, ask_id: int, found: Found | None) -> list[Verdict]:
        """The answer to ORDER; None is the venue's positive "no such order"."""
        asked = self._take(ask_id, AskKind.ORDER)
        if asked is None:
            if found is not None:
                self._told(now, found)
            return []
        doubt = asked.doubt
        assert doubt is not None
        if self._doubts.get(doubt.cid) is not doubt:
            return []
        if found is not None:
            if found.cid == doubt.cid:
                self._found(now, doubt, found)
            elif doubt.ask == ask_id:
                self._again(now, doubt)
            return []
        self.stats.not_found += 1
        if doubt.untold:
            if doubt.ask == ask_id:
                self._told_nothing(now, doubt)
            return []
        if asked.issued < doubt.fence:
            self.stats.not_found_early += 1
            if doubt.ask == ask_id:
                self._again(now, doubt)
            return []
        if doubt.seen and not self._compares():
            return self._contradicted(now, doubt, asked.issued)
        doubt.absent_by_id, doubt.absent_ns = True, now
        return self._absent(now, doubt, asked.issued)

    def answered_orders(self, now: int, ask_id: int, found: Sequence[Found], complete: bool) -> list[Verdict]:
        """The answer to ORDERS. Only where the list is ``complete`` is an order absent that is not in it."""
        asked = self._take(ask_id, AskKind.ORDERS)
        if asked is None:
            for item in found:
                self._told(now, item)
            return []
        group = asked.group
        if group.orders is asked:
            group.orders = None
        by_cid = {item.cid: item for item in found}
        for item in found:
            if item.cid not in group.members:
                self._told(now, item)
        verdicts: list[Verdict] = []
        lead = self.terms.lead_ns
        for doubt in list(group.members.values()):
            told = by_cid.get(doubt.cid)
            waited = doubt.ask == ask_id
            if told is not None:
                self._found(now, doubt, told)
            elif complete and asked.issued >= doubt.fence and asked.since <= doubt.placed - lead and not doubt.absent_in_list:
                self.stats.not_found += 1
                doubt.absent_in_list, doubt.absent_ns = True, now
                verdicts += self._absent(now, doubt, asked.issued)
            elif waited:
                self.stats.not_found_early += complete
                doubt.cut_lists += not complete
                if doubt.held and doubt.cut_lists >= CUT_LISTS and self._compares():
                    # The venue keeps no history that far back any more: its word by id and the position have to do.
                    doubt.absent_in_list, doubt.absent_ns = True, now
                    verdicts += self._absent(now, doubt, asked.issued)
                else:
                    self._again(now, doubt)
        return verdicts

    def answered_trades(self, now: int, ask_id: int, all_told: bool) -> None:
        """The answer to TRADES was booked; ``all_told``: nothing of the order is untold any more."""
        asked = self._take(ask_id, AskKind.TRADES)
        doubt = asked.doubt if asked is not None else None
        if doubt is None or self._doubts.get(doubt.cid) is not doubt:
            return
        if all_told:
            self._drop(doubt)
        elif doubt.ask == ask_id:
            self._told_nothing(now, doubt)

    def answered_position(self, now: int, ask_id: int, net: int, net_short: int) -> list[Verdict]:
        """The answer to POSITION, in the terms of ``expected``."""
        asked = self._take(ask_id, AskKind.POSITION)
        if asked is None:
            return []
        group = asked.group
        if group.position is asked:
            group.position = None
        if not group.members or self.expected is None:
            return []
        # Nothing may have moved since it was asked: there and back again, and any moment's position would look right.
        believed_net, believed_short, quiet = self.expected(group.account, group.instrument, asked.issued)
        # What was booked between question and answer may or may not be in the answer: then it proves nothing.
        proves = quiet and asked.expected == (believed_net, believed_short)
        agrees = (net, net_short) == (believed_net, believed_short)
        members = list(group.members.values())
        # Another doubt that is still on its way may be what makes the difference.
        others = any(not self._rests_on_position(m) and not m.held and not m.seen for m in members)
        verdicts: list[Verdict] = []
        for doubt in members:
            waited = doubt.ask == ask_id
            if not self._rests_on_position(doubt) or asked.issued < doubt.fence:
                if waited:
                    self._now(doubt)
            elif not proves:
                if waited:
                    self.stats.not_quiet += 1
                    self._again(now, doubt)
            elif agrees and asked.issued - doubt.absent_ns > self.terms.absences_ns:
                # Long ago all lists may have lagged, and since then another trade may have taken its fill back.
                doubt.absent_by_id = doubt.absent_in_list = False
                self._again(now, doubt)
            elif agrees and doubt.seen and not doubt.held:
                # Shown alive, then in no list: held first. When a later round of all sources says the same, it has ended.
                verdicts += self._contradicted(now, doubt, asked.issued)
            elif agrees:
                verdicts.append(self._dead(doubt, asked.issued))
            elif waited:
                self.stats.differed += 1
                if others and not doubt.held:
                    self._again(now, doubt)
                else:
                    verdicts += self._contradicted(now, doubt, asked.issued)
        return verdicts

    def failed(self, now: int, ask_id: int) -> None:
        """An error, a timeout, a lost connection: no answer. Asked again with back-off."""
        asked = self._asks.pop(ask_id, None)
        if asked is None:
            self._overdue.pop(ask_id, None)
            return
        self.stats.failed += 1
        group = asked.group
        if group.orders is asked:
            group.orders = None
        if group.position is asked:
            group.position = None
        waiting = [asked.doubt] if asked.doubt is not None else list(group.members.values())
        for doubt in waiting:
            if doubt.ask == ask_id and self._doubts.get(doubt.cid) is doubt:
                self._again(now, doubt)

    def _take(self, ask_id: int, kind: AskKind) -> _Asked | None:
        asked = self._asks.pop(ask_id, None)
        if asked is None:
            self.stats.late += 1
            asked = self._overdue.pop(ask_id, None)
        return asked if asked is not None and asked.kind is kind else None

    # --- what an answer proves --------------------------------------------------------------------------------------------
    def _told(self, now: int, found: Found) -> None:
        """A find counts whenever it comes: what exists was not made by our asking too early."""
        doubt = self._doubts.get(found.cid)
        if doubt is not None:
            self._found(now, doubt, found)

    def _found(self, now: int, doubt: _Doubt, found: Found) -> None:
        if doubt.untold:
            if not doubt.listed:
                doubt.listed = True
                self._now(doubt)
            return
        if found.ended:
            self.stats.found_ended += 1
            self._drop(doubt)
            return
        self.stats.found_alive += 1
        doubt.seen = True
        doubt.held = doubt.absent_by_id = doubt.absent_in_list = False
        doubt.differ_ns = -1
        self._again(now, doubt)

    def _absent(self, now: int, doubt: _Doubt, issued: int) -> list[Verdict]:
        """One more source says after the fence that it does not exist: the next source, or the end."""
        doubt.tries = 0
        if not doubt.absent_by_id or (self.terms.weight_orders and not doubt.absent_in_list) or self._compares():
            if not doubt.ask or doubt.ask not in self._asks:
                self._now(doubt)
            return []
        if 0 < self.terms.absent_valid_ns < issued - doubt.placed:
            return self._contradicted(now, doubt, issued)
        return [self._dead(doubt, issued)]

    def _compares(self) -> bool:
        return self.expected is not None and self.terms.weight_position > 0

    def _rests_on_position(self, doubt: _Doubt) -> bool:
        return doubt.absent_by_id and (doubt.absent_in_list or not self.terms.weight_orders)

    def _contradicted(self, now: int, doubt: _Doubt, issued: int) -> list[Verdict]:
        """One contradiction may be a lagging read; a second one, issued a read lag later, holds the order."""
        again = doubt.differ_ns + self.terms.read_lag_ns
        if not doubt.held:
            if doubt.differ_ns < 0 or issued < again:
                if doubt.differ_ns < 0:
                    doubt.differ_ns = issued
                    again = issued + self.terms.read_lag_ns
                if not self._compares():
                    doubt.absent_by_id = doubt.absent_in_list = False
                self._at(doubt, max(now, again) + self.terms.guard_ns)
                return []
            doubt.held = True
            self.stats.held += 1
            verdicts = [Verdict(doubt.cid, HELD, issued)]
        else:
            verdicts = []
        # Every source is asked anew, slowly.
        doubt.absent_by_id = doubt.absent_in_list = False
        self._again(now, doubt)
        return verdicts

    def _dead(self, doubt: _Doubt, issued: int) -> Verdict:
        self.stats.dead += 1
        self._drop(doubt)
        return Verdict(doubt.cid, DEAD, issued)
