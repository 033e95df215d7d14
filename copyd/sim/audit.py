"""The auditor: what the node believes and does, held against what the venue knows, after every step.

It is written from the rules alone (the copy semantics and the safety invariants) and shares no code with the core: facts go
in, violations come out. The world tells it the venue's truth, the node's journal and wire, and the node's belief; nobody asks
it anything before the end. Every fact costs O(1) (a record costs O(its rows), a leader's fill O(his plans)); ``step`` looks
only at the legs touched since the last one; ``full`` computes everything anew from the stored facts and must agree.

Units: quantities in lots, prices in ticks, ``k``, targets, deltas, forgone, pending and deferred in lots with 32 fraction
bits, signed. Times in ns. ``side`` is the venue's coding: ``buy`` (constructor) is the code of a buy, all else is a sell.

Rows as given to ``journaled``::

    decision  (plan, leg, reduce, open, reason, release, k, delta, forgone, reduce_lots, open_lots, target)
    end       (cid, forgone, leg, code, reason, note)
    named     (cid, order_qty, limit_px, leg, account, side, kind, position_side, reduce_only, attempt)

Fields the auditor reads of a record's input (others are ignored)::

    LeaderFill      leader, instrument, position_side, qty (signed lots), exec_id, live; px if the truth is to be compared with
                    it; equity (the leader's) and earned (profit of each plan, in the unit of Plan.allocation) where k is judged
    LeaderSync      leader, positions: [(instrument, position_side, qty signed)], complete (default True: what is missing is flat)
    LeaderEquity    leader, equity (the unit of Plan.allocation)
    Command         name, args: the cap of a plan (max_notional_symbol_e8) where it is imported or changed

What a violation is called: S1-S22 and L1-L6 are the invariants, R1, R3, ... the rule of that number in the copy semantics.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from copyd.errors import BrokenInvariant

LOT = 1 << 32
SLACK = 64
"""Units of 2^-32 lot by which two exact ways to the same target may differ: each truncation on the way costs at most one."""

PENDING_NEW, NEW, PARTIAL, FILLED, PENDING_CANCEL, CANCELED, EXPIRED, REJECTED = 1, 2, 3, 4, 5, 6, 7, 8
IN_DOUBT, DEAD, HELD = 10, 11, 12
STATES = 13
# unknown counts as unfinished: an order that is named and not yet believed anything of may do anything
TERMINAL = tuple(code in (FILLED, CANCELED, EXPIRED, REJECTED, DEAD) for code in range(STATES))

NONE, ORDER, DEFERRED, CARRIED, FORGONE, ROUNDED = 0, 1, 2, 3, 4, 5
OPENING, REDUCTION = 0, 1

RATIO_MODES = ("proportional", "multiplier", "fixed_ratio")
STRICT = frozenset({
    "LeaderFill", "LeaderSync", "LeaderPosition", "LeaderEquity", "LeaderLeverage", "LeaderGap", "Quote", "Quotes", "Mark",
    "Marks", "Timer", "Tick", "Report", "Reports", "OrderReport", "OrderReports", "Committed",
})  # fmt: skip
"""Inputs that move a target only by rows of their own record. Others (the follower's hand, a command) may make it smaller."""
GROWING = frozenset({"CatchUp"})
"""Inputs that may restore what was forgone."""

LONG, SHORT = 1, 2

_MISSING: Any = object()
_TABLES = ("fold", "execs", "equity", "exp", "anchor", "k", "plan_of", "caps", "capital", "stops")
"""What a node knows by its journal, as the names of ``_Node``."""
LEADER_DRAWDOWN, TOTAL_LOSS, DAILY_LOSS = 14, 15, 16
CLOSE_NOW = 0


def _folded(before: int, qty: int, side: int) -> int:
    """The leader's quantity after a change: a side of a hedge account never crosses zero, whatever it is told (rule 11)."""
    after = before + qty
    if side == LONG:
        return max(after, 0)
    return min(after, 0) if side == SHORT else after


class Violation(NamedTuple):
    invariant: str
    t: int
    text: str


class Plan(NamedTuple):
    """What the auditor must know of a copy plan. ``allocation`` 0: the size of ``k`` is not judged, only that it stays."""

    plan: int
    account: int
    leader: int
    mode: str = "proportional"
    ratio_snapshot: str = "position_open"
    min_policy: str = "carry"
    allocation: int = 0
    multiplier: Fraction = Fraction(1)
    losses: tuple[int, int, int] = (0, 0, 0)
    """Loss limits in bps: the leader's drawdown, total, daily; 0 none."""
    capital: int = 0
    """What the total limit is a share of."""
    policy: int = 0
    """What a stop does to its legs."""


class _Truth:
    """What the venue and the wire know of one client order id, whichever process named it."""

    __slots__ = ("accepted", "closed", "dead", "kind", "part", "qty", "reduce_only", "sign", "where", "written", "x")

    def __init__(self) -> None:
        self.accepted = False
        self.closed = 0
        self.dead = False  # some process believed it dead or rejected: final
        self.written = 0  # when + 1
        self.x = 0  # executed
        self.qty = 0
        self.sign = 0
        self.kind = OPENING
        self.reduce_only = False
        self.part: _Part | None = None
        self.where: tuple[int, int] = (0, 0)  # node, leg


class _Order:
    """What one node named, and believes of it."""

    __slots__ = ("account", "attempt", "cap", "changed", "cid", "cum", "doubted", "epoch", "kind", "leg", "planned",
                 "position_side", "px", "qty", "reduce_only", "seq", "sign", "state", "truth")  # fmt: skip

    def __init__(self, seq: int, epoch: int, row: Sequence[Any], sign: int, truth: _Truth) -> None:
        self.cid: bytes = row[0]
        self.seq = seq
        self.epoch = epoch
        self.qty: int = row[1]
        self.px: int = row[2]
        self.leg: int = row[3]
        self.account: int = row[4]
        self.sign = sign
        self.kind: int = row[6]
        self.position_side: int = row[7]
        self.reduce_only = bool(row[8])
        self.attempt: int = row[9]
        self.state = 0
        self.cum = 0
        self.cap = 0
        self.planned = 0  # the leg's target when it was named
        self.changed = seq
        self.doubted = 0
        self.truth = truth

    def copy(self) -> _Order:
        other = _Order.__new__(_Order)
        for name in _Order.__slots__:
            setattr(other, name, getattr(self, name))
        return other


class _Part:
    """What the orders of one leg of one node hold in one venue position, by the venue's books."""

    __slots__ = ("lane", "leg", "node", "own")

    def __init__(self, node: int, leg: int, lane: _Lane) -> None:
        self.node = node
        self.leg = leg
        self.lane = lane
        self.own = 0


class _Lane:
    """One venue position: account, instrument, position side."""

    __slots__ = ("bought", "hand", "hand_t", "murky", "net", "parts", "sold", "untold")

    def __init__(self) -> None:
        self.net = 0
        self.hand = False  # somebody else ever traded here
        self.hand_t = 0
        self.murky = False  # the order of our fill and a foreign trade is not known to the node: the share of each is not exact
        self.bought = self.sold = 0  # by anybody else, ever
        self.untold: dict[int, int] = {}  # foreign trade -> 1 while the node cannot know of it
        self.parts: dict[tuple[int, int], _Part] = {}


class _Leg:
    """A leg as a node believes it, and the sums over its orders."""

    __slots__ = ("account", "attributed", "booked", "born", "carried", "deferred", "detached", "ever", "hi", "instrument",
                 "known", "leg", "lo", "names", "netted", "node", "open_count", "open_leaves", "open_rem", "parts", "pending",
                 "plan", "red_count", "red_failed", "red_rem", "reduce_leaves", "retold", "side", "since", "take",
                 "target")  # fmt: skip

    def __init__(self, node: int, leg: int) -> None:
        self.node = node
        self.leg = leg
        self.plan = -1
        self.account = -1
        self.instrument = -1
        self.side = -1
        self.born = 0  # the record that made it, at the latest
        self.known = False
        self.target = 0
        self.attributed = 0
        self.pending = 0
        self.deferred = 0
        self.open_leaves = 0
        self.reduce_leaves = 0
        self.detached = False
        self.open_count = 0  # unresolved openings, by belief
        self.open_rem = 0  # signed
        self.red_count = 0
        self.red_rem = 0  # signed
        self.booked = 0  # signed sum of what the node booked of its orders
        self.take = 0  # booked - attributed: what the follower's hand, a liquidation or a handing over took
        self.red_failed = False  # a reduction ended short and is due again
        self.carried = False
        self.netted = False  # a part of a close is below the minimum of a plain order, and the account's position nets it
        self.ever = [False, False]  # the two above at any time: a crash may bring them back
        self.retold = False
        self.lo = 0  # hull of the targets since something is unresolved
        self.hi = 0
        self.since = -1  # when it began to hold too much with nothing on its way
        self.names = 0  # orders since the leader's last event
        self.parts: list[_Part] = []


class _Node:
    """One journal and the processes that wrote it."""

    __slots__ = (
        "anchor",
        "announced",
        "armed",
        "capital",
        "caps",
        "closing",
        "durable", "earned",
        "epoch",
        "equity",
        "execs",
        "exp",
        "fenced",
        "fold",
        "fresh",
        "grown",
        "index",
        "k",
        "key",
        "legs",
        "log",
        "loose",
        "orders",
        "pauses",
        "plan_of",
        "seq",
        "settled",
        "stops",
        "tally",
        "touched",
        "unbelieved",
        "undo",
        "up",
    )  # fmt: skip

    def __init__(self, index: int) -> None:
        self.index = index
        self.epoch = 0
        self.up = False
        self.armed = True
        self.fenced = False
        self.seq = 0
        self.durable = 0
        self.announced: dict[int, int] = {}  # records that the next one follows from, if they may yet be the last: epoch
        self.orders: dict[bytes, _Order] = {}
        self.legs: dict[int, _Leg] = {}
        self.key: dict[tuple[int, int, int], list[int]] = {}  # leader, instrument, side -> legs
        self.fold: dict[tuple[int, int, int], int] = {}
        self.execs: dict[tuple[int, int, Any], int] = {}
        self.equity: dict[int, int] = {}
        self.earned: Sequence[int] = ()  # profit of each plan at the leader's fill that is being decided
        self.exp: dict[int, int] = {}  # leg -> the target it must have
        self.anchor: dict[int, tuple[int, int]] = {}
        self.k: dict[int, int] = {}
        self.plan_of: dict[tuple[str, str], int] = {}  # follower, leader -> plan
        self.caps: dict[int, int] = {}  # plan -> the most its leg may be worth, e8; 0 none
        self.capital: dict[int, int] = {}  # plan -> what is allocated to it by now
        self.stops: dict[int, int] = {}  # plan -> 1 + policy of the loss stop it is under; 0 none
        self.undo: deque[tuple[int, Any, Any, Any]] = deque()
        self.log: list[tuple[Any, ...]] = []
        self.pauses: dict[Any, bool] = {}
        self.unbelieved: dict[bytes, None] = {}
        self.touched: dict[int, None] = {}
        self.fresh: dict[int, None] = {}  # legs with an opening named in this step
        self.closing: dict[int, None] = {}  # legs with a reduction named in this step
        self.tally = [0] * STATES
        self.loose = False
        self.grown = False
        self.settled = True  # all beliefs told since the last start


class Auditor:
    """Facts in, violations out. ``off`` names invariants not to be judged; ``strict`` and ``growing`` sort the inputs' names."""

    def __init__(
        self,
        followers: Iterable[Plan] | Mapping[int, int] = (),
        *,
        buy: int = 1,
        site: int | None = None,
        orders_per_event: int = 64,
        news_ns: int = 120_000_000_000,
        excess_ns: int = 0,
        doubt_ns: int = 0,
        age_ns: int = 0,
        value_e8: int = 0,
        minimum: Mapping[int, int] | None = None,
        strict: frozenset[str] = STRICT,
        growing: frozenset[str] = GROWING,
        off: frozenset[str] = frozenset(),
        most: int = 100,
    ) -> None:
        self.violations: list[Violation] = []
        self.facts = 0
        self.buy = buy
        self.site = site
        self.orders_per_event = orders_per_event
        self.news_ns = news_ns
        self.excess_ns = excess_ns
        self.doubt_ns = doubt_ns
        self.age_ns = age_ns  # older than this, with all error of the clock, a live opening is never copied
        self.value_e8 = value_e8  # of one lot at one tick
        self.minimum = minimum or {}
        self.strict = strict
        self.growing = growing
        self.off = off
        self.most = most
        self.plans: dict[int, Plan] = {}
        self.following: dict[int, dict[int, None]] = {}  # leader -> plans
        self.truth: dict[bytes, _Truth] = {}
        self.lanes: dict[tuple[int, int, int], _Lane] = {}
        self.live: dict[tuple[int, int], int] = {}  # node, leg -> openings alive at the venue
        self.leader_truth: dict[tuple[int, int, Any], tuple[int, int, int]] = {}
        self.leader_at: dict[tuple[int, int, Any], int] = {}
        self.leader_net: dict[tuple[int, int, int], int] = {}
        self.epochs: dict[int, int] = {}  # epoch -> node
        self.top = 0
        self.caps: dict[tuple[int, int], int] = {}
        self.market: dict[int, int] = {}  # instrument -> price
        self.until: dict[Any, int] = {}
        self.requests: dict[tuple[str, str], int] = {}
        self.fair = -1
        self.t = 0
        self._said: dict[tuple[str, Any], None] = {}
        self.nodes = [_Node(0)]
        self.n = self.nodes[0]
        if isinstance(followers, Mapping):
            followers = [Plan(plan, account, 0) for plan, account in followers.items()]
        for plan in followers:
            self.plan(plan)

    # -- who there is ------------------------------------------------------------------------------------------------------------

    def plan(self, plan: Plan) -> None:
        """A plan exists, or is another now, from here on."""
        old = self.plans.get(plan.plan)
        if old is not None:
            self.following[old.leader].pop(plan.plan, None)
        self.plans[plan.plan] = plan
        self.following.setdefault(plan.leader, {})[plan.plan] = None

    def unplan(self, plan: int) -> None:
        """A plan follows no more (removed, not merely stopped: a stopped plan still decides)."""
        self.following[self.plans[plan].leader].pop(plan, None)

    def select(self, node: int) -> None:
        """The facts that follow are of this node (two daemons at once). A new one has a copy of node 0's journal as of now."""
        while node >= len(self.nodes):
            copy = _Node(len(self.nodes))
            self.nodes.append(copy)
            self._clone(copy, self._sure(self.nodes[0]))
        self.n = self.nodes[node]

    def position(self, account: int, instrument: int, position_side: int, net: int) -> None:
        """What the account held before the world began: not ours."""
        lane = self._lane(account, instrument, position_side)
        lane.net = net
        lane.hand = True

    def _say(self, invariant: str, t: int, key: Any, text: str) -> None:
        if invariant in self.off or len(self.violations) >= self.most:
            return
        if (invariant, key) in self._said:
            return
        self._said[(invariant, key)] = None
        self.violations.append(Violation(invariant, t, text))

    def _lane(self, account: int, instrument: int, position_side: int) -> _Lane:
        key = (account, instrument, position_side)
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = _Lane()
        return lane

    def _leg(self, n: _Node, leg: int) -> _Leg:
        record = n.legs.get(leg)
        if record is None:
            record = n.legs[leg] = _Leg(n.index, leg)
        return record

    @staticmethod
    def _sure(n: _Node) -> int:
        """Up to which record a restart finds everything: what was announced is decided to the same bytes."""
        return n.durable + (n.durable in n.announced and n.seq > n.durable)

    # -- the venue's truth -------------------------------------------------------------------------------------------------------

    def accepted(
        self,
        t: int,
        account: int,
        cid: bytes,
        instrument: int,
        position_side: int,
        side: int,
        qty: int,
        limit_px: int,
        reduce_only: bool,
    ) -> None:
        """The venue accepted an order under our site tag."""
        self.facts += 1
        sign = 1 if side == self.buy else -1
        truth = self.truth.get(cid)
        order: _Order | None = None
        if truth is not None:
            order = self.nodes[truth.where[0]].orders.get(cid)
        if truth is None or order is None:
            self._say("S3", t, cid, f"{cid.hex()}: the venue holds an order that no journal names")
            if truth is None:
                truth = self.truth[cid] = _Truth()
                truth.qty, truth.sign, truth.reduce_only = qty, sign, bool(reduce_only)
        else:
            node = self.nodes[truth.where[0]]
            leg = node.legs[order.leg]
            if (
                order.account != account
                or order.qty != qty
                or order.sign != sign
                or order.px != limit_px
                or order.position_side != position_side
                or order.reduce_only != bool(reduce_only)
                or (leg.instrument != instrument and leg.instrument >= 0)
            ):
                self._say("S3", t, cid, f"{cid.hex()}: accepted otherwise than it is named")
            if order.account != account:
                self._say("S22", t, cid, f"{cid.hex()}: named for account {order.account}, accepted for {account}")
            if order.seq > self._sure(node):
                self._say("S2", t, cid, f"{cid.hex()}: accepted while record {order.seq} is not durable")
            self._part(truth, account, instrument, position_side)
        if truth.accepted:
            self._say("S1", t, cid, f"{cid.hex()}: accepted a second time")
        elif truth.kind == OPENING and truth.part is not None:
            alive = self.live.get(truth.where, 0)
            if alive:
                self._say("S8", t, cid, f"leg {truth.where[1]}: {cid.hex()} is a second opening alive at the venue")
            self.live[truth.where] = alive + 1
        if truth.dead:
            self._say("S4", t, cid, f"{cid.hex()}: believed dead or rejected, and accepted now")
        if not truth.written:
            self._say("S2", t, cid, f"{cid.hex()}: accepted, and never written")
        self._identity(t, cid)
        truth.accepted = True

    def _identity(self, t: int, cid: bytes) -> None:
        if len(cid) != 16:
            self._say("S3", t, cid, f"{cid.hex()}: not an id of ours")
            return
        site = cid[0] << 8 | cid[1]
        if self.site is None:
            self.site = site
        elif site != self.site:
            self._say("S3", t, cid, f"{cid.hex()}: site {site}, ours is {self.site}")
        if (cid[2] << 16 | cid[3] << 8 | cid[4]) not in self.epochs:
            self._say("S14", t, cid, f"{cid.hex()}: no process ran under that epoch")

    def _part(self, truth: _Truth, account: int, instrument: int, position_side: int) -> _Part:
        part = truth.part
        if part is None:
            lane = self._lane(account, instrument, position_side)
            part = lane.parts.get(truth.where)
            if part is None:
                for other in lane.parts:
                    if other[0] != truth.where[0]:  # two daemons in one position: neither knows the other's share
                        lane.murky = lane.hand = True
                part = lane.parts[truth.where] = _Part(truth.where[0], truth.where[1], lane)
                self._leg(self.nodes[truth.where[0]], truth.where[1]).parts.append(part)
            truth.part = part
        return part

    def executed(
        self,
        t: int,
        account: int,
        cid: bytes | None,
        instrument: int,
        position_side: int,
        side: int,
        qty: int,
        px: int,
        trade_id: int,
        kind: str = "ours",
    ) -> None:
        """A trade on a follower's account, whoever caused it."""
        self.facts += 1
        signed = qty if side == self.buy else -qty
        truth = self.truth.get(cid) if cid is not None else None
        if truth is None or kind != "ours":
            self._foreign(t, account, instrument, position_side, signed, trade_id, kind)
            return
        lane = self._lane(account, instrument, position_side)
        net = lane.net
        after = net + signed
        lane.net = after
        truth.x += qty
        if truth.x > truth.qty or (truth.sign > 0) != (signed > 0):
            self._say("S6", t, cid, f"{cid.hex() if cid else ''}: {truth.x} executed, {truth.sign * truth.qty} ordered")
        if not truth.accepted:
            self._say("S3", t, cid, f"{cid.hex() if cid else ''}: executed and never accepted")
        if truth.reduce_only and (net * signed >= 0 or net * after < 0):
            self._say("S10", t, cid, f"account {account}: reduce-only took the position from {net} to {after}")
        part = self._part(truth, account, instrument, position_side)
        own = part.own
        part.own = held = own + signed
        if lane.hand and not lane.murky and (
            own != self.nodes[part.node].legs[part.leg].attributed or 1 in lane.untold.values()
        ):
            lane.murky = True
        if truth.kind == REDUCTION and (held * own < 0 or abs(held) > abs(own)):
            settled = not lane.murky and (not lane.hand or lane.hand_t + self.news_ns < truth.written)
            if settled:
                self._say("S10", t, cid, f"leg {part.leg}: a reduction took it from {own} to {held} at the venue")

    def _foreign(
        self, t: int, account: int, instrument: int, position_side: int, signed: int, trade_id: int, kind: str
    ) -> None:
        """Somebody else's trade. It uses up the rest first, then legs of the side it makes smaller, pro rata (rules 29, 30)."""
        lane = self._lane(account, instrument, position_side)
        ours = 0
        left = abs(signed)
        held: list[_Part] = []
        others = False
        for part in lane.parts.values():
            ours += part.own
            if part.own * signed < 0:
                held.append(part)
            elif part.own:
                others = True
            leg = self.nodes[part.node].legs[part.leg]
            unsettled = leg.open_count or leg.red_count or leg.attributed != sum(p.own for p in leg.parts)
            if unsettled and lane.net * signed <= 0:
                lane.murky = True  # the node may book the two in either order
        if (held and others) or (lane.parts and 1 in lane.untold.values()):
            lane.murky = True  # (two trades that are both to be told may be told in either order, or be found out as one)
        rest = lane.net - ours
        # Only what makes the account's position smaller is a reduction; beyond it the trade is the follower's own opening.
        left = min(left, abs(lane.net)) if lane.net * signed < 0 else 0
        if rest * signed < 0:
            left -= min(left, abs(rest))
        if held and left and rest * signed < 0 and kind != "manual":
            lane.murky = True
        total = sum(abs(part.own) for part in held)
        take = min(left, total)
        if take:
            spread = 0
            for part in held:
                share = take * abs(part.own) // total
                spread += share
                part.own += share if signed > 0 else -share
            if spread < take:
                if len(held) > 1:
                    lane.murky = True
                largest = max(held, key=lambda part: abs(part.own))
                largest.own += (take - spread) if signed > 0 else spread - take
        lane.net += signed
        lane.hand = True
        lane.hand_t = t
        lane.untold[trade_id] = 1
        if signed > 0:
            lane.bought += signed
        else:
            lane.sold -= signed

    def mode_changed(self, account: int) -> None:
        """The account's position mode is another: it was flat, so nothing of anybody is left.

        What a hand did just before, untold, is found out on the new sides.
        """
        for (of, _, _), lane in self.lanes.items():
            if of == account:
                for part in lane.parts.values():
                    lane.murky = lane.murky or part.own != 0
                    lane.hand = lane.hand or part.own != 0
                    gone = max(abs(part.own), abs(self.nodes[part.node].legs[part.leg].attributed))
                    lane.bought += gone  # what netted is nobody's any more, and nobody traded it
                    lane.sold += gone
                    part.own = 0
        for account_index, instrument, _ in [key for key, lane in self.lanes.items() if 1 in lane.untold.values()]:
            if account_index == account:
                for side in (0, LONG, SHORT):
                    lane = self._lane(account, instrument, side)
                    lane.murky = lane.hand = True

    def agreed(self, account: int, instrument: int) -> None:
        """The node's position is what the venue holds: every foreign trade so far is booked, told or found out."""
        for side in (0, LONG, SHORT):
            lane = self.lanes.get((account, instrument, side))
            if lane is not None and lane.untold:
                lane.untold.clear()

    def closed(self, t: int, account: int, cid: bytes, status: int) -> None:
        """The order is no longer alive at the venue."""
        self.facts += 1
        truth = self.truth.get(cid)
        if truth is None:
            return
        if not truth.closed and truth.accepted and truth.kind == OPENING and truth.part is not None:
            self.live[truth.where] -= 1
        truth.closed = status

    def leader_executed(
        self, t: int, leader: int, instrument: int, position_side: int, signed_qty: int, px: int, exec_id: Any
    ) -> None:
        """A fill of the leader, whether the node ever hears of it or not."""
        self.facts += 1
        self.leader_truth[(leader, instrument, exec_id)] = (position_side, signed_qty, px)
        self.leader_at[(leader, instrument, exec_id)] = t
        key = (leader, instrument, position_side)
        self.leader_net[key] = self.leader_net.get(key, 0) + signed_qty

    # -- the node's journal ------------------------------------------------------------------------------------------------------

    def started(self, t: int, epoch: int, replayed_seq: int, armed: bool = True) -> None:
        """A process runs, its state is the fold of the journal up to ``replayed_seq``. Its whole belief is told before the next
        step. ``armed`` False: nothing may be written before ``arm``."""
        self.facts += 1
        n = self.n
        if epoch <= self.top:
            self._say("S14", t, epoch, f"epoch {epoch} after {self.top}")
        self.top = max(self.top, epoch)
        self.epochs[epoch] = n.index
        foretold = n.seq == replayed_seq + 1 and replayed_seq in n.announced
        if replayed_seq != n.seq and not foretold and (n.epoch or n.seq):
            self._say("S15", t, epoch, f"replayed to {replayed_seq}, the journal ends at {n.seq}")
        n.seq, n.durable = replayed_seq + foretold, replayed_seq
        n.epoch = epoch
        n.up = True
        n.armed = armed
        n.fenced = False

    def _clone(self, n: _Node, seq: int) -> None:
        """A second daemon on a copy of the first one's journal."""
        first = self.nodes[0]
        n.seq = first.seq
        n.orders = {cid: order.copy() for cid, order in first.orders.items() if order.seq <= seq}
        n.key = {key: list(legs) for key, legs in first.key.items()}
        for name in _TABLES:
            setattr(n, name, dict(getattr(first, name)))
        for at, table, key, old in reversed(first.undo):
            if at > seq:
                for name in _TABLES:
                    if getattr(first, name) is table:
                        _put_back(getattr(n, name), key, old)
                # Any other table is the world's: what the first one has heard of a lane stays heard.
        n.log = [entry for entry in first.log if entry[0] <= seq]
        n.pauses = dict(first.pauses)
        for number, record in first.legs.items():
            leg = self._leg(n, number)
            leg.plan, leg.account, leg.instrument, leg.side = record.plan, record.account, record.instrument, record.side
            leg.ever, leg.born = list(record.ever), record.born
        n.seq, n.durable, n.announced = seq, min(seq, first.durable), dict(first.announced)
        self._forget(n, seq)

    def crashed(self, t: int, durable_seq: int, amnesia: bool = False) -> None:
        """The process is gone; the journal that will be found ends at ``durable_seq``. ``amnesia``: the disk may lie."""
        self.facts += 1
        n = self.n
        if durable_seq < n.durable and not amnesia:
            self._say("S15", t, durable_seq, f"records up to {n.durable} were committed, found are {durable_seq}")
        if durable_seq > n.seq:
            self._say("S15", t, durable_seq, f"found {durable_seq} records, {n.seq} were written")
        found, durable_seq = durable_seq, durable_seq + (durable_seq in n.announced and durable_seq < n.seq)
        undo = n.undo
        while undo and undo[-1][0] > durable_seq:
            _, table, key, old = undo.pop()
            _put_back(table, key, old)
        while n.log and n.log[-1][0] > durable_seq:
            n.log.pop()
        for cid, order in list(n.orders.items()):
            if order.seq > durable_seq:
                del n.orders[cid]
                if order.truth.written:
                    self._say("S2", t, cid, f"{cid.hex()}: written, and the journal that is left does not name it")
        if durable_seq < n.durable:
            self._refold(n)
        n.seq, n.durable = durable_seq, found
        n.announced = {record: epoch for record, epoch in n.announced.items() if record <= found}
        n.up = False
        self._forget(n, durable_seq)

    def _refold(self, n: _Node) -> None:
        """The disk lost what it had committed: what the journal said is folded anew from what is left of it."""
        most, self.most = self.most, 0
        for table in (n.fold, n.execs, n.equity, n.exp, n.anchor, n.k, n.plan_of, n.caps, n.capital):
            table.clear()
        for seq, name, fields, decisions, ends in n.log:
            if name:
                self._record(n, 0, seq, name, fields, decisions, ends)
            else:
                self._expect(n, seq, fields, decisions)
        n.undo.clear()
        self.most = most

    def _forget(self, n: _Node, seq: int) -> None:
        """Belief is a process's own: what the found journal does not prove is to be told anew."""
        n.unbelieved.clear()
        n.touched.clear()
        n.fresh.clear()
        n.closing.clear()
        n.loose = n.grown = False
        n.settled = False
        for leg in n.legs.values():
            if leg.born > seq and leg.plan >= 0:
                # The record that made it is lost: its number is given anew, perhaps to another.
                for legs in n.key.values():
                    if leg.leg in legs:
                        legs.remove(leg.leg)
                leg.plan = leg.account = leg.instrument = leg.side = -1
            leg.known = False
            leg.red_failed, leg.carried = leg.ever
            leg.open_count = leg.open_rem = leg.red_count = leg.red_rem = leg.booked = 0
            leg.names = 0
            leg.since = -1
            leg.lo = leg.hi = n.exp.get(leg.leg, 0)
        n.tally = [0] * STATES
        for cid, order in n.orders.items():
            if order.changed > seq:
                order.state = order.cum = 0
                order.changed = order.seq
            n.tally[order.state] += 1
            leg = self._leg(n, order.leg)
            self._count(leg, order, 1)
            if not TERMINAL[order.state]:
                n.unbelieved[cid] = None
                # The target it was planned for is its own, whichever process planned it.
                leg.lo, leg.hi = min(leg.lo, order.planned), max(leg.hi, order.planned)
                if order.truth.x != order.cum:
                    for part in leg.parts:
                        part.lane.murky |= part.lane.hand  # a hand that met it is to be booked anew, perhaps before it

    @staticmethod
    def _count(leg: _Leg, order: _Order, by: int) -> None:
        leg.booked += by * order.sign * order.cum
        if not TERMINAL[order.state]:
            rest = by * order.sign * (order.qty - order.cum)
            if order.kind == OPENING:
                leg.open_count += by
                leg.open_rem += rest
            else:
                leg.red_count += by
                leg.red_rem += rest

    def journaled(
        self,
        seq: int,
        input_name: str,
        fields: Mapping[str, Any],
        decisions: Sequence[Sequence[Any]] = (),
        ends: Sequence[Sequence[Any]] = (),
        named: Sequence[Sequence[Any]] = (),
        configs: Sequence[int] | None = None,
        stops: Sequence[Sequence[Any]] = (),
    ) -> None:
        """A record was appended. It is not durable yet."""
        self.facts += 1
        n = self.n
        t = self.t
        if seq != n.seq + 1:
            self._say("S15", t, seq, f"record {seq} after {n.seq}")
        n.seq = seq
        n.log.append((seq, input_name, fields, decisions, ends))
        if input_name not in self.strict:
            n.loose = True
            if input_name in self.growing:
                n.grown = True
        if configs and len(set(configs)) > 1:
            self._say("S20", t, seq, f"record {seq}: decided by config versions {sorted(set(configs))}")
        for row in stops:
            self._stop(n, t, seq, row)
        opens = self._record(n, t, seq, input_name, fields, decisions, ends)
        for row in named:
            self._named(n, t, seq, row, opens)

    def _record(
        self,
        n: _Node,
        t: int,
        seq: int,
        name: str,
        fields: Mapping[str, Any],
        decisions: Sequence[Sequence[Any]],
        ends: Sequence[Sequence[Any]],
    ) -> int:
        """What a record makes of the targets. The sign of what the leader opens (0 nothing), 2 if it is not his fill."""
        later: list[Sequence[Any]] = []
        for end in ends:
            if end[1] and end[2] >= 0:
                if decisions and end[0] not in n.orders:
                    later.append(end)  # what waited and is given up: nothing of that leg was decided after it
                else:
                    self._ended(n, t, seq, end)
        opens = self._decided(n, t, seq, name, fields, decisions)
        for end in later:
            self._ended(n, t, seq, end)
        return opens

    def _decided(
        self, n: _Node, t: int, seq: int, name: str, fields: Mapping[str, Any], decisions: Sequence[Sequence[Any]]
    ) -> int:
        if name == "LeaderFill":
            return self._leader_fill(n, t, seq, fields, decisions)
        if name == "LeaderSync":
            self._leader_sync(n, t, seq, fields, decisions)
            return 2
        if name == "ExternalFill" and "trade_id" in fields:
            lane = self._lane(fields["account"], fields["instrument"], fields["position_side"])
            self._put(n, seq, lane.untold, fields["trade_id"], 0)
        if name == "LeaderEquity" and "equity" in fields:
            self._put(n, seq, n.equity, fields["leader"], fields["equity"])
        if name == "Command" and self.value_e8 and "args" in fields:
            self._caps(n, seq, fields["name"], fields["args"])
            if fields["name"] == "set_state":
                self._resumed(n, seq, fields["args"])
        for row in decisions:
            if name in self.growing and not n.exp.get(row[1], 0):
                self._put(n, seq, n.k, row[1], row[6])  # a leg without a target takes its ratio anew, whatever it still closes
            self._row(n, t, seq, row)
        return 2

    def _stop(self, n: _Node, t: int, seq: int, row: Sequence[Any]) -> None:
        """A loss limit stopped a plan: once, and by a limit it has and has reached."""
        loss, limit, _equity, plan, _legs, reason, policy = row
        if n.stops.get(plan):
            self._say("M1", t, (seq, plan), f"record {seq}: plan {plan} is stopped and was stopped already")
        known = self.plans[plan]
        bps = known.losses[reason - LEADER_DRAWDOWN]
        if not bps:
            self._say("M1", t, (seq, plan), f"record {seq}: plan {plan} is stopped by {reason}, a limit it does not have")
        if policy != known.policy:
            self._say("M1", t, (seq, plan), f"record {seq}: plan {plan} is stopped by policy {policy}, its own is {known.policy}")
        if loss < limit or loss <= 0:
            self._say("M1", t, (seq, plan), f"record {seq}: plan {plan} is stopped with a loss of {loss}, limit {limit}")
        capital = n.capital.get(plan, known.capital)
        if reason == TOTAL_LOSS and capital and limit != capital * bps // 10_000:
            self._say("M1", t, (seq, plan), f"record {seq}: plan {plan} is stopped by a limit of {limit}, it has "
                                            f"{capital * bps // 10_000}")
        self._put(n, seq, n.stops, plan, 1 + policy)
        n.loose = True

    def _resumed(self, n: _Node, seq: int, args: Mapping[str, Any]) -> None:
        if args.get("scope") == "plan" and args.get("state") == "active" and args.get("resume_stopped"):
            plan = n.plan_of.get((args["name"], args.get("leader", "")))
            if plan is not None:
                self._put(n, seq, n.stops, plan, 0)

    def _caps(self, n: _Node, seq: int, name: str, args: Mapping[str, Any]) -> None:
        if name == "import_plans":
            for spec in args["plans"]:
                plan = len(n.plan_of)
                self._put(n, seq, n.plan_of, (spec["follower"], spec["leader"]), plan)
                self._put(n, seq, n.caps, plan, spec["max_notional_symbol_e8"])
                self._put(n, seq, n.capital, plan, spec["allocation_e8"])
        elif name == "change_plan":
            changed = n.plan_of.get((args["follower"], args["leader"]))
            if changed is not None:
                self._put(n, seq, n.caps, changed, args["spec"]["max_notional_symbol_e8"])
                self._put(n, seq, n.capital, changed, args["spec"]["allocation_e8"])

    def _put(self, n: _Node, seq: int, table: Any, key: Any, value: Any) -> None:
        n.undo.append((seq, table, key, table.get(key, _MISSING)))
        table[key] = value

    def _expect(self, n: _Node, seq: int, leg: int, target: int, fold_key: tuple[int, int, int] | None = None) -> None:
        """The target is another now, and not by the leader's reduction: further reductions count from here (rule 42)."""
        self._put(n, seq, n.exp, leg, target)
        if fold_key is None:
            record = n.legs.get(leg)
            plan = self.plans.get(record.plan) if record is not None else None
            if record is None or plan is None:
                return
            fold_key = (plan.leader, record.instrument, record.side)
        self._put(n, seq, n.anchor, leg, (target, n.fold.get(fold_key, 0)))

    def _ended(self, n: _Node, t: int, seq: int, end: Sequence[Any]) -> None:
        """An order is over; what it left unfilled for good is forgone."""
        order = n.orders.get(end[0])
        leg = end[2]
        before = n.exp.get(leg, 0)
        forgone = end[1] if order is None else order.sign * abs(end[1])
        after = before - forgone
        if order is not None and order.leg != leg:
            self._say("S22", t, end[0], f"{end[0].hex()}: of leg {order.leg}, ended for leg {leg}")
        if abs(after) > abs(before) + SLACK:
            self._say("R1", t, (seq, leg), f"record {seq}: what leg {leg} forgoes enlarges its target {before} to {after}")
        self._expect(n, seq, leg, after)

    def _meta(self, n: _Node, seq: int, leg: int, plan: int, instrument: int, side: int) -> _Leg:
        record = self._leg(n, leg)
        if record.plan < 0:
            record.plan, record.instrument, record.side, record.born = plan, instrument, side, seq
            known = self.plans.get(plan)
            if known is not None:
                record.account = known.account
                n.key.setdefault((known.leader, instrument, side), []).append(leg)
        return record

    def _leader_fill(self, n: _Node, t: int, seq: int, fields: Mapping[str, Any], decisions: Sequence[Sequence[Any]]) -> int:
        """Rules 1-4, 10, 12: what this fill makes of every leg, and that every plan decided once; the opening part's sign."""
        leader: int = fields["leader"]
        instrument: int = fields["instrument"]
        side: int = fields["position_side"]
        qty: int = fields["qty"]
        live = fields.get("live", True)
        execution = (leader, instrument, fields["exec_id"])
        if execution in n.execs:
            for row in decisions:
                if not row[5]:
                    self._say(
                        "S13",
                        t,
                        execution,
                        f"record {seq}: execution {execution[2]} decided again, first in {n.execs[execution]}",
                    )
                    break
            for row in decisions:
                self._row(n, t, seq, row)
            return 0
        self._put(n, seq, n.execs, execution, seq)
        if "equity" in fields:
            self._put(n, seq, n.equity, leader, fields["equity"])
            n.earned = fields["earned"]
        if self.leader_truth:
            real = self.leader_truth.get(execution)
            if real is None or real[0] != side or real[1] != qty or fields.get("px", real[2]) != real[2]:
                self._say(
                    "S13", t, execution, f"record {seq}: the leader's execution {execution[2]} is {real}, decided {side, qty}"
                )
        heard = self.leader_at.get(execution)
        old = heard is not None and 0 < self.age_ns < self.t - heard
        if heard is not None and old and any(row[3] == ORDER and not row[5] for row in decisions):
            self._say("R12", t, execution, f"record {seq}: an opening {(self.t - heard) / 1e9:.1f} s old is copied")
        key = (leader, instrument, side)
        before = n.fold.get(key, 0)
        after = _folded(before, qty, side)
        self._put(n, seq, n.fold, key, after)
        reducing = before * qty < 0
        if not reducing:
            opening, left = after - before, before
        elif before * after >= 0:
            opening, left = 0, after
        else:
            opening, left = after, 0
        following = self.following.get(leader, {})
        decided: dict[int, None] = {}
        for row in decisions:
            if row[5]:
                self._row(n, t, seq, row)
                continue
            plan = row[0]
            if plan in decided:
                self._say("S5", t, (seq, plan), f"record {seq}: plan {plan} decided twice")
                continue
            decided[plan] = None
            if plan not in following:
                self._say("S5", t, (seq, plan), f"record {seq}: plan {plan} does not follow leader {leader}")
                continue
            if not opening and row[3] != NONE:
                self._say("R1", t, (seq, plan), f"record {seq}: plan {plan} opens on the leader's reduction")
            if not reducing and row[2] != NONE:
                self._say("R1", t, (seq, plan), f"record {seq}: plan {plan} reduces on the leader's opening")
            leg = row[1]
            if leg < 0:
                if row[7] != row[8] or row[11]:
                    self._say("S5", t, (seq, plan), f"record {seq}: plan {plan} wants something and has no leg")
                continue
            record = self._meta(n, seq, leg, plan, instrument, side)
            self._apply(n, t, seq, row, record, reducing, opening, left, key, before, live)
        for leg in n.key.get(key, ()):
            record = n.legs[leg]
            if (
                record.plan not in decided
                and record.plan in following
                and (n.exp.get(leg, 0) or record.attributed or record.open_count)
            ):
                self._say("S5", t, (seq, record.plan), f"record {seq}: plan {record.plan} has leg {leg} and no decision")
            record.names = 0
        if opening:
            for plan in following:
                if plan not in decided:
                    self._say("S5", t, (seq, plan), f"record {seq}: plan {plan} has no decision on the leader's opening")
        return (opening > 0) - (opening < 0)

    def _apply(
        self,
        n: _Node,
        t: int,
        seq: int,
        row: Sequence[Any],
        record: _Leg,
        reducing: bool,
        opening: int,
        left: int,
        key: tuple[int, int, int],
        before: int,
        live: bool,
    ) -> None:
        leg = record.leg
        plan = self.plans[row[0]]
        k, delta, forgone, target = row[6], row[7], row[8], row[11]
        held = n.exp.get(leg, 0)
        expected = self._scaled(n, leg, held, left, before) if reducing else held
        if opening:
            raised = plan.min_policy == "raise"  # rule 6: what a raise adds is forgone below nothing
            if delta * opening < 0 or (not raised and (forgone * delta < 0 or abs(forgone) > abs(delta))):
                self._say(
                    "R2", t, (seq, leg), f"record {seq}: leg {leg} wants {delta}, forgoes {forgone}, the leader opens {opening}"
                )
            if not live and (delta != forgone or row[3] not in (NONE, FORGONE)):
                self._say("R12", t, (seq, leg), f"record {seq}: leg {leg} copies an opening found by back-fill")
            if plan.mode in RATIO_MODES and delta:
                self._ratio(n, t, seq, record, plan, k, delta, opening, held, reducing)
            expected += delta - forgone
        elif delta or forgone:
            self._say("R3", t, (seq, leg), f"record {seq}: leg {leg} wants {delta} and forgoes {forgone} on a reduction")
        if row[2] == CARRIED or row[3] == CARRIED:
            record.carried = record.ever[1] = True
        if abs(target - expected) > SLACK and not (plan.min_policy == "raise" and opening and abs(target) > abs(expected)):
            self._say("R3" if reducing and not opening else "R2", t, (seq, leg),
                      f"record {seq}: leg {leg} had target {held}, must have {expected}, has {target}")  # fmt: skip
        if opening or leg not in n.anchor:
            self._expect(n, seq, leg, target, key)
        else:
            self._put(n, seq, n.exp, leg, target)

    @staticmethod
    def _scaled(n: _Node, leg: int, held: int, left: int, before: int) -> int:
        """Rule 42: the anchor's target times what the leader has left of what he had at the anchor, towards zero."""
        if not left or not held:
            return 0
        target, base = n.anchor.get(leg, (held, before))
        if not base:
            target, base = held, before
        size: int = abs(target) * abs(left) // abs(base)
        return size if target > 0 else -size

    def _ratio(
        self, n: _Node, t: int, seq: int, record: _Leg, plan: Plan, k: int, delta: int, opening: int, held: int, reducing: bool
    ) -> None:
        """Rules 2, 4, 42: the delta is k times the quantity, exactly; k is taken once and lives as long as the leg."""
        leg = record.leg
        if abs(delta) != k * abs(opening) and plan.min_policy != "raise":
            self._say("R2", t, (seq, leg), f"record {seq}: leg {leg} wants {delta} = k {k} x {opening}")
        frozen = n.k.get(leg)
        if k == frozen:
            if held or record.attributed or record.open_count:
                return
        elif plan.ratio_snapshot == "position_open" and frozen is not None and not reducing and held:
            taken = record.attributed or record.open_count
            if taken:
                self._say("R4", t, (seq, leg), f"record {seq}: leg {leg} lives with k {frozen}, decided with {k}")
        if plan.ratio_snapshot == "position_open" and plan.allocation and plan.mode != "fixed_ratio":
            equity = n.equity.get(plan.leader, 0)
            if equity > 0:
                worth = n.capital.get(plan.plan, plan.allocation) + (n.earned[plan.plan] if n.earned else 0)  # rule 16
                scale = plan.multiplier if plan.mode == "multiplier" else Fraction(1)
                fresh = max(0, worth) * scale.numerator * LOT // (equity * scale.denominator)
                if k != fresh:
                    self._say("R4", t, (seq, leg), f"record {seq}: leg {leg} opens with k {k}, the rule gives {fresh}")
        self._put(n, seq, n.k, leg, k)

    def _row(self, n: _Node, t: int, seq: int, row: Sequence[Any]) -> None:
        """A decision that no leader's fill caused: the target stays but for what it forgoes."""
        leg = row[1]
        if leg < 0:
            return
        record = self._leg(n, leg)
        if record.plan >= 0 and record.plan != row[0]:
            self._say("S22", t, (seq, leg), f"record {seq}: leg {leg} is of plan {record.plan}, decided for {row[0]}")
        if row[2] == CARRIED or row[3] == CARRIED:
            record.carried = record.ever[1] = True
        if row[5] and row[7] and not record.attributed and not record.open_count:
            self._put(n, seq, n.k, leg, row[6])  # what waited opens the leg: its k is taken now (rule 4)
        held = n.exp.get(leg, 0)
        expected = held - row[8]
        target = row[11]
        if abs(target - expected) > SLACK and not self._may(n, record, expected, target):
            self._say("R1", t, (seq, leg), f"record {seq}: leg {leg} must have target {expected}, has {target}")
        if target != held:
            self._expect(n, seq, leg, target)

    def _may(self, n: _Node, record: _Leg, expected: int, target: int) -> bool:
        """May this step's inputs make that target of it without a row that says so?"""
        if n.grown:
            return True
        # A hand that met our orders may be booked anew, behind the fill that is found only now.
        loose = n.loose or any(part.lane.murky for part in record.parts)
        plan = self.plans.get(record.plan)
        if plan is not None and plan.min_policy == "raise" and target * expected >= 0 and abs(target) > abs(expected):
            return True
        return loose and abs(target) <= abs(expected) and target * expected >= 0

    def _leader_sync(self, n: _Node, t: int, seq: int, fields: Mapping[str, Any], decisions: Sequence[Sequence[Any]]) -> None:
        """Rules 11, 12: the snapshot wins; what it lacks is a reduction, what it has more was never seen and opens nothing."""
        if "positions" in fields:
            leader = fields["leader"]
            found = {(leader, instrument, side): qty for instrument, side, qty in fields["positions"]}
            if fields.get("complete", True):
                for key in n.fold:
                    if key[0] == leader:
                        found.setdefault(key, 0)
            for key, told in found.items():
                before = n.fold.get(key, 0)
                after = _folded(0, told, key[2])
                if before == after:
                    continue
                self._put(n, seq, n.fold, key, after)
                shrinks = before * after <= 0 or abs(after) < abs(before)
                left = after if before * after > 0 else 0
                for leg in n.key.get(key, ()):
                    held = n.exp.get(leg, 0)
                    if shrinks and before:
                        self._put(n, seq, n.exp, leg, self._scaled(n, leg, held, left, before))
                    if not shrinks or left != after:
                        self._expect(n, seq, leg, n.exp.get(leg, 0), key)
        for row in decisions:
            if row[7] != row[8] and not row[5]:
                self._say("R12", t, (seq, row[1]), f"record {seq}: leg {row[1]} copies an opening found by a snapshot")
            if row[1] >= 0:
                held = n.exp.get(row[1], 0)
                expected = held - (row[8] if row[5] else 0)
                if abs(row[11] - expected) > SLACK:
                    self._say("R3", t, (seq, row[1]), f"record {seq}: leg {row[1]} must have target {expected}, has {row[11]}")
                if row[2] == CARRIED or row[3] == CARRIED:
                    record = self._leg(n, row[1])
                    record.carried = record.ever[1] = True
                if row[11] != held:
                    self._expect(n, seq, row[1], row[11])

    def _named(self, n: _Node, t: int, seq: int, row: Sequence[Any], opens: int) -> None:
        cid: bytes = row[0]
        sign = 1 if row[5] == self.buy else -1
        truth = self.truth.get(cid)
        if truth is None:
            truth = self.truth[cid] = _Truth()
        elif cid in n.orders or truth.written or truth.accepted:
            self._say("S1", t, cid, f"record {seq}: {cid.hex()} is named a second time")
            return
        epoch = n.announced.get(seq - 1, n.epoch)  # a later process may have to write down what an earlier one decided
        order = _Order(seq, epoch, row, sign, truth)
        n.orders[cid] = order
        n.tally[0] += 1
        leg = self._leg(n, order.leg)
        kind = order.kind
        truth.where = (n.index, order.leg)
        truth.qty, truth.sign, truth.kind, truth.reduce_only = order.qty, sign, kind, order.reduce_only
        if cid[2] << 16 | cid[3] << 8 | cid[4] != epoch:
            self._say("S14", t, cid, f"record {seq}: {cid.hex()} does not carry epoch {epoch}")
        if order.qty <= 0:
            self._say("S3", t, cid, f"record {seq}: {cid.hex()} of quantity {order.qty}")
        plan = self.plans.get(leg.plan)
        if plan is not None and plan.account != order.account:
            self._say(
                "S22", t, cid, f"record {seq}: {cid.hex()} for account {order.account}, plan {leg.plan} is account {plan.account}"
            )
        side = order.position_side
        if side and ((side == 1) == (sign > 0)) != (kind == OPENING):
            self._say("S10", t, cid, f"record {seq}: {cid.hex()} is on the wrong side of position side {side}")
        target = order.planned = n.exp.get(order.leg, 0)
        if not leg.open_count and not leg.red_count:
            leg.lo = leg.hi = target
        elif target > leg.hi:
            leg.hi = target
        elif target < leg.lo:
            leg.lo = target
        if kind == OPENING:
            if opens not in (2, sign):
                self._say("R1", t, cid, f"record {seq}: {cid.hex()} opens, the leader's fill opens nothing on that side")
            if order.reduce_only:
                self._say("S10", t, cid, f"record {seq}: {cid.hex()} opens with reduce-only")
            if target * sign <= 0:
                self._say("S8", t, cid, f"record {seq}: {cid.hex()} opens leg {order.leg} away from its target {target}")
            if n.stops.get(leg.plan):
                self._say("M2", t, cid, f"record {seq}: {cid.hex()} opens for plan {leg.plan}, which a loss limit stopped")
            order.cap = n.caps.get(leg.plan, 0)
            leg.open_count += 1
            leg.open_rem += sign * order.qty
            n.fresh[order.leg] = None
        else:
            if not side and not order.reduce_only and leg.instrument >= 0:
                lane = self.lanes.get((order.account, leg.instrument, 0))
                if lane is not None and len(lane.parts) < 2 and not lane.hand:
                    self._say("S10", t, cid, f"record {seq}: {cid.hex()} reduces the venue's position and is not reduce-only")
            leg.red_count += 1
            leg.red_rem += sign * order.qty
            n.closing[order.leg] = None
        leg.names += 1
        if leg.names > self.orders_per_event:
            self._say("S16", t, (order.leg, seq), f"leg {order.leg}: {leg.names} orders since the leader's last event")
        n.unbelieved[cid] = None
        n.touched[order.leg] = None

    def announced(self, seq: int) -> None:
        """A record was appended that the next one follows from: once it is durable, so is what that says."""
        self.facts += 1
        n = self.n
        if seq != n.seq + 1:
            self._say("S15", self.t, seq, f"record {seq} after {n.seq}")
        n.seq = seq
        n.announced[seq] = n.epoch
        n.log.append((seq, "Announced", {}, (), ()))

    def is_announced(self, seq: int) -> bool:
        """Whether the record behind ``seq`` was announced by it."""
        return seq in self.n.announced

    def durable(self, seq: int) -> None:
        """Records up to ``seq`` are committed."""
        self.facts += 1
        n = self.n
        if seq < n.durable or seq > n.seq:
            self._say("S15", self.t, seq, f"durable {seq}, was {n.durable}, written {n.seq}")
        n.durable = seq
        n.announced = {record: epoch for record, epoch in n.announced.items() if record >= seq}
        undo = n.undo
        while undo and undo[0][0] <= seq:
            undo.popleft()

    # -- the wire ----------------------------------------------------------------------------------------------------------------

    def written(
        self,
        t: int,
        cid: bytes,
        account: int,
        instrument: int,
        position_side: int,
        side: int,
        qty: int,
        limit_px: int,
        reduce_only: bool,
        kind: int,
    ) -> None:
        """The first byte of this order left the node."""
        self.facts += 1
        n = self.n
        order = n.orders.get(cid)
        if order is None:
            self._say("S2", t, cid, f"{cid.hex()}: written, and no record names it")
            truth = self.truth.setdefault(cid, _Truth())
            truth.written = truth.written or t + 1
            return
        if order.seq > self._sure(n):
            self._say("S2", t, cid, f"{cid.hex()}: written, and record {order.seq} is not durable")
        leg = n.legs[order.leg]
        if leg.instrument < 0:
            leg.instrument = instrument
        if (
            order.account != account
            or order.qty != qty
            or order.sign != (1 if side == self.buy else -1)
            or order.px != limit_px
            or order.position_side != position_side
            or order.reduce_only != bool(reduce_only)
            or order.kind != kind
            or leg.instrument != instrument
        ):
            self._say("S2", t, cid, f"{cid.hex()}: written otherwise than record {order.seq} names it")
        truth = order.truth
        if truth.written:
            self._say("S1", t, cid, f"{cid.hex()}: written a second time")
        truth.written = t + 1
        if TERMINAL[order.state] or truth.dead:
            self._say("S4", t, cid, f"{cid.hex()}: written, and believed over")
        if order.cap and order.px and order.state and kind == OPENING:
            # A quarter more: what it holds is worth what it costs now, not what it did when the cap was asked.
            lots = max(0, order.sign * leg.attributed) + max(0, order.sign * leg.open_rem)
            if lots * order.px * self.value_e8 > order.cap * 5 // 4:
                self._say("S9", t, cid, f"{cid.hex()}: with it leg {order.leg} comes to {lots} lots, above its cap")
        market = self.market.get(leg.instrument, 0)
        if market and kind == OPENING and order.px and not market < 2 * order.px < 4 * market:
            self._say("S9", t, cid, f"{cid.hex()}: {order.qty} lots with limit {order.px}, the market is at {market}")
        if order.epoch != n.epoch:
            self._say("S14", t, cid, f"{cid.hex()}: named under epoch {order.epoch}, written under {n.epoch}")
        if n.fenced:
            self._say("S14", t, cid, f"{cid.hex()}: written after a higher epoch was seen")
        if not n.up:
            self._say("S14", t, cid, f"{cid.hex()}: written by a process that is gone")
        if not n.armed:
            self._say("L4", t, cid, f"{cid.hex()}: written before the start was finished")
        if n.pauses and kind == OPENING:
            plan = self.plans.get(leg.plan)
            for scope in (
                "global", ("global", 0), ("plan", leg.plan), ("account", account), ("instrument", instrument),
                ("leader", plan.leader if plan is not None else -1),
            ):  # fmt: skip
                if scope in n.pauses:
                    self._say("S11", t, cid, f"{cid.hex()}: an opening written while {scope} is paused")
        if self.until:
            until = max(self.until.get("all", 0), self.until.get(account, 0), self.until.get(("account", account), 0))
            if t < until:
                self._say("S16", t, cid, f"{cid.hex()}: written at {t}, the venue said not before {until}")

    # -- the node's belief -------------------------------------------------------------------------------------------------------

    def order(self, t: int, cid: bytes, state: int, cum_qty: int) -> None:
        """What the node believes of an order, whenever it changed (and of all of them after a start)."""
        self.facts += 1
        n = self.n
        order = n.orders.get(cid)
        if order is None:
            self._say("S5", t, cid, f"{cid.hex()}: believed, and no record names it")
            return
        truth = order.truth
        was, cum = order.state, order.cum
        qty = order.qty
        over = TERMINAL[state]
        if cum_qty > truth.x or cum_qty > qty:
            self._say("S6", t, cid, f"{cid.hex()}: {cum_qty} booked, {truth.x} executed, {qty} ordered")
        if cum_qty < cum:
            self._say("S6", t, cid, f"{cid.hex()}: booked {cum_qty} after {cum}")
        if state != was:
            if TERMINAL[was]:
                self._say("S7", t, cid, f"{cid.hex()}: state {was} is final, now {state}")
            elif (state == PENDING_NEW and was) or (state == NEW and was == PARTIAL):
                self._say("S7", t, cid, f"{cid.hex()}: state {was} to {state}")
            if state in (DEAD, REJECTED):
                if truth.accepted and not (truth.closed == REJECTED and not truth.x):
                    self._say(
                        "S4",
                        t,
                        cid,
                        f"{cid.hex()}: believed {'dead' if state == DEAD else 'rejected'}, and the venue accepted it",
                    )
                if not truth.accepted:
                    truth.dead = True
            if state == IN_DOUBT:
                order.doubted = t
            elif was == IN_DOUBT and self.doubt_ns and self.fair >= 0 and t - max(self.fair, order.doubted) > self.doubt_ns:
                self._say("L2", t, cid, f"{cid.hex()}: {(t - max(self.fair, order.doubted)) / 1e9:.1f} s in doubt")
            n.tally[was] -= 1
            n.tally[state] += 1
        if (
            (state == FILLED and cum_qty != qty)
            or (cum_qty and state in (PENDING_NEW, NEW, DEAD, REJECTED))
            or (state == PARTIAL and not cum_qty)
        ):
            self._say("S6", t, (cid, state), f"{cid.hex()}: state {state} with {cum_qty} of {qty}")
        leg = n.legs[order.leg]
        sign = order.sign
        leg.booked += sign * (cum_qty - cum)
        if not TERMINAL[was]:
            if order.kind == OPENING:
                if over:
                    leg.open_count -= 1
                    leg.open_rem -= sign * (qty - cum)
                else:
                    leg.open_rem -= sign * (cum_qty - cum)
            elif over:
                leg.red_count -= 1
                leg.red_rem -= sign * (qty - cum)
                if cum_qty < qty:
                    leg.red_failed = leg.ever[0] = True
            else:
                leg.red_rem -= sign * (cum_qty - cum)
        order.state = state
        order.cum = cum_qty
        order.changed = n.seq
        if n.unbelieved:
            n.unbelieved.pop(cid, None)
        n.touched[order.leg] = None

    def leg(
        self,
        t: int,
        leg: int,
        plan: int,
        account: int,
        instrument: int,
        side: int,
        target_q32: int,
        attributed: int,
        pending_q32: int,
        deferred_q32: int,
        open_leaves: int,
        reduce_leaves: int,
        detached: bool,
    ) -> None:
        """What the node believes of a leg, whenever it changed (and of all of them after a start)."""
        self.facts += 1
        n = self.n
        record = n.legs.get(leg)
        if record is None or record.plan < 0:
            record = self._meta(n, n.seq, leg, plan, instrument, side)
        if record.instrument < 0:
            record.instrument = instrument
        if record.plan != plan or record.instrument != instrument or record.side != side:
            self._say(
                "S22", t, leg, f"leg {leg}: was of {record.plan, record.instrument, record.side}, is of {plan, instrument, side}"
            )
        known = self.plans.get(plan)
        if known is not None and known.account != account:
            self._say("S22", t, leg, f"leg {leg}: account {account}, plan {plan} is account {known.account}")
        expected = n.exp.get(leg, 0)
        if target_q32 != expected:
            if abs(target_q32 - expected) > SLACK and not self._may(n, record, expected, target_q32):
                self._say("R1", t, (n.seq, leg), f"leg {leg}: must have target {expected}, has {target_q32}")
            self._expect(n, n.seq, leg, target_q32)
            n.log.append((n.seq, "", leg, target_q32, ()))
        if not record.known:
            record.known = record.retold = True
        record.target = target_q32
        record.attributed = attributed
        record.pending = pending_q32
        record.deferred = deferred_q32
        record.open_leaves = open_leaves
        record.reduce_leaves = reduce_leaves
        record.detached = detached
        if target_q32 > record.hi:
            record.hi = target_q32
        elif target_q32 < record.lo:
            record.lo = target_q32
        n.touched[leg] = None

    # -- facts of other invariants -----------------------------------------------------------------------------------------------

    def paused(self, t: int, scope: Any, on: bool) -> None:
        """A pause or kill switch is durable (or durably lifted): "global" or (plan | leader | account | instrument, number)."""
        self.facts += 1
        if on:
            self.n.pauses[scope] = True
        else:
            self.n.pauses.pop(scope, None)

    def fenced(self, t: int) -> None:
        """The node saw a foreign epoch above its own."""
        self.n.fenced = True

    def arm(self, t: int) -> None:
        """The start is finished: locked, rebuilt, streams up, doubts settled or frozen, leader's snapshot read."""
        self.n.armed = True

    def replayed(self, equal: bool, text: str = "the fold of the journal is not what was recorded") -> None:
        """Did the fold of the journal give the recorded bytes?"""
        if not equal:
            self._say("S12", self.t, self.n.epoch, text)

    def waits(self, scope: Any, until: int) -> None:
        """The venue said when to come back; scope "all" or an account."""
        self.until[scope] = until

    def bound(self, name: str, value: int, limit: int) -> None:
        """A queue, map, buffer or counter and its declared bound."""
        if value > limit:
            self._say("S21", self.t, name, f"{name}: {value} of at most {limit}")

    def handed(self, t: int, leg: int) -> None:
        """The leg was handed over to its owner (a plan stopped with ``keep``): what it held is his from here on."""
        for part in self._leg(self.n, leg).parts:
            if part.own > 0:
                part.lane.sold += part.own
            else:
                part.lane.bought -= part.own
            part.own = 0
            part.lane.hand = True

    def price(self, instrument: int, px: int) -> None:
        """Where the market is: no opening is sent at another order of magnitude, whatever a leader's event says."""
        self.market[instrument] = px

    def cap(self, account: int, instrument: int, lots: int) -> None:
        """From here on the account may at worst hold that much by our orders."""
        self.caps[(account, instrument)] = lots

    def stamped(self, t: int, signed_ns: int, venue_ns: int, window_ns: int) -> None:
        """A signed request reached the venue: does its time lie in the venue's window?"""
        if not -window_ns <= venue_ns - signed_ns <= window_ns:
            self._say(
                "S17",
                t,
                signed_ns,
                f"signed {(venue_ns - signed_ns) / 1e9:.3f} s before the venue's time, window {window_ns / 1e9} s",
            )

    def control(self, t: int, actor: str, request: str, audit_seq: int) -> None:
        """A control request took effect; its audit record is ``audit_seq``."""
        if (actor, request) in self.requests:
            self._say("S19", t, (actor, request), f"request {request} of {actor} took effect twice")
        self.requests[(actor, request)] = audit_seq
        if not 0 < audit_seq <= self.n.durable:
            self._say(
                "S19", t, (actor, request), f"request {request} of {actor} took effect before its record {audit_seq} was durable"
            )

    def fact(self, invariant: str, t: int, holds: bool, text: str) -> None:
        """Judged by the world itself (S18, L5, L6 and the like)."""
        if not holds:
            self._say(invariant, t, text, text)

    # -- after every step --------------------------------------------------------------------------------------------------------

    def step(self, t: int) -> None:
        """The end of a step of the world: the legs touched since the last one."""
        if t < self.t:
            self._say("S17", t, "clock", f"the world's time went from {self.t} to {t}")
        self.t = t
        n = self.n
        if not n.up:
            return
        if n.unbelieved:
            for cid in n.unbelieved:
                self._say("S5", t, cid, f"{cid.hex()}: named, and the node believes nothing of it")
            n.unbelieved.clear()
        if n.touched:
            for leg in n.touched:
                self._check(n, t, n.legs[leg])
            for leg in n.touched:  # behind them all: one step may end several shares of a lane, and none is exact before
                self._settle(n.legs[leg])
            n.touched.clear()
        if n.fresh:
            if self.caps:
                for leg in n.fresh:
                    self._capped(n, t, n.legs[leg])
            n.fresh.clear()
        if n.closing:
            n.closing.clear()
        n.settled = True
        n.loose = n.grown = False

    def _check(self, n: _Node, t: int, leg: _Leg) -> None:
        if leg.target and n.stops.get(leg.plan) == 1 + CLOSE_NOW:
            self._say("M2", t, (n.seq, leg.leg), f"leg {leg.leg}: has target {leg.target}, a loss limit closed its plan")
        if leg.open_count > 1:
            self._say("S8", t, (leg.leg, n.seq), f"leg {leg.leg}: {leg.open_count} openings unresolved")
        if not leg.known:
            return
        held = leg.attributed
        open_rem, red_rem = leg.open_rem, leg.red_rem
        if leg.booked != held or leg.take:
            take = leg.booked - held
            if take != leg.take:
                loose = n.loose or any(part.lane.murky for part in leg.parts)
                if leg.retold:  # a new process: what was taken may have been heard of by a record that is lost
                    leg.take = 0
                    for part in leg.parts:
                        loose = loose or part.lane.hand
                before = leg.booked - leg.take
                if leg.take and 0 <= (take if leg.take > 0 else -take) < abs(leg.take):
                    pass  # what a look had taken for the hand's is given back: the true fill was told after all
                elif take != leg.take and not loose:
                    self._say("S6", t, (leg.leg, n.seq), f"leg {leg.leg}: holds {held}, its orders and others' gave {before}")
                elif abs(held) > abs(before) or held * before < 0:
                    self._say("S6", t, (leg.leg, n.seq), f"leg {leg.leg}: grew from {before} to {held} by no order of its own")
                leg.take = take
                lanes = [part.lane for part in leg.parts]
                within = -sum(lane.bought for lane in lanes) <= take <= sum(lane.sold for lane in lanes)
                if not within and lanes and all(lane.hand for lane in lanes):
                    self._say("S6", t, (leg.leg, n.seq, "hand"),
                              f"leg {leg.leg}: holds {held}, its orders brought {leg.booked}, the hand traded less than that")
                if len(leg.parts) == 1 and not leg.parts[0].lane.hand:  # nobody traded by hand: handed over with the plan's end
                    leg.parts[0].lane.hand = True
                    leg.parts[0].own = held
        if abs(leg.pending) > abs(open_rem) * LOT:
            self._say("S8", t, (leg.leg, n.seq), f"leg {leg.leg}: {leg.pending} wanted of {open_rem} lots on the wire")
        leg.retold = False
        mixed = any(part.lane.hand for part in leg.parts)
        if abs(leg.open_leaves) != abs(open_rem) or (abs(leg.reduce_leaves) != abs(red_rem) and not mixed):
            self._say("S6", t, (leg.leg, n.seq, "leaves"),
                      f"leg {leg.leg}: {leg.open_leaves}/{leg.reduce_leaves} on their way: {open_rem}/{red_rem}")  # fmt: skip
        if red_rem and (red_rem * held > 0 or abs(red_rem) > abs(held)):
            if not mixed or leg.leg in n.closing:
                self._say("S10", t, (leg.leg, n.seq), f"leg {leg.leg}: holds {held}, reductions of {red_rem} are on their way")
            red_rem = -held if red_rem * held < 0 else 0
        # rule 1: target = attributed + open + deferred + residual
        target = leg.target
        left = held + red_rem
        residual = target - left * LOT - leg.pending - leg.deferred
        if -LOT < residual < LOT:
            leg.red_failed = leg.carried = leg.netted = False
            leg.since = -1
        elif mixed and leg.red_count:
            pass  # the follower's hand met a reduction on its way: what will be left of both is known when it ends
        elif residual * left >= 0:
            least = self.minimum.get(leg.instrument, 0)
            if not leg.carried or (least and abs(residual) >= least * LOT):
                self._say("R1", t, (leg.leg, n.seq),
                          f"leg {leg.leg}: target {target} lacks {residual}: {held} held, {red_rem} reducing, "
                          f"{leg.pending} open, {leg.deferred} deferred")  # fmt: skip
        elif not self._waits(leg, left, abs(residual)) and not leg.red_failed and not leg.carried:
            if leg.since < 0:
                leg.since = t
            if t - leg.since >= self.excess_ns:
                self._say(
                    "R17",
                    t,
                    (leg.leg, n.seq),
                    f"leg {leg.leg}: holds {held}, target {target}, {red_rem} reducing: nothing brings it down",
                )
        # the worst that can come of what is unresolved
        if open_rem or red_rem:
            worst = (held + red_rem + open_rem) * LOT
            sure = target - leg.pending - leg.deferred  # what the target is should nothing come of the opening (rule 23)
            hi = max(leg.hi, target, held * LOT, sure)
            lo = min(leg.lo, target, held * LOT, sure)
            spare = LOT
            if open_rem and (held or red_rem):  # what is held and what is opening were each rounded on their own
                spare += LOT
            if leg.carried:  # what is below the venue's minimum is in the target, and not wanted yet
                spare += self.minimum.get(leg.instrument, 0) * LOT
            met = mixed and red_rem != leg.red_rem  # the hand met a reduction: what is left is known when it ends
            if (worst > hi + spare or worst < lo - spare) and not leg.red_failed and not met:
                self._say(
                    "S8",
                    t,
                    (leg.leg, n.seq),
                    f"leg {leg.leg}: {held} held, {open_rem} and {red_rem} unresolved, targets {lo}..{hi}",
                )
        if not leg.open_count and not leg.red_count:
            leg.lo = leg.hi = target

    def _waits(self, leg: _Leg, left: int, over: int) -> bool:
        """Whether what a leg holds too much (``over``, Q32 lots, of ``left``) waits for its next close: the account's position
        has less of it for a reduce-only order, and a plain one would be below the venue's minimum (rule 6)."""
        small = over < self.minimum.get(leg.instrument, 0) * LOT
        sign = 1 if left > 0 else -1
        leg.netted = small and leg.target != 0 and (
            leg.netted or any(max(0, part.lane.net * sign) * LOT < over for part in leg.parts))
        return leg.netted

    def _settle(self, leg: _Leg) -> None:
        """A leg that is flat and at rest may leave its lanes empty."""
        if leg.known and not (leg.attributed or leg.open_count or leg.red_count):
            for part in leg.parts:
                if part.lane.hand and part.lane.murky:
                    self._clear(part.lane)

    def _clear(self, lane: _Lane) -> None:
        """Nothing of ours is in the position any more, nor on its way: from here the shares are exact again."""
        node = -1
        for part in lane.parts.values():
            leg = self.nodes[part.node].legs[part.leg]
            if leg.attributed or leg.open_count or leg.red_count or (node >= 0 and node != part.node):
                return
            node = part.node
        for part in lane.parts.values():
            part.own = 0
        lane.murky = False

    def _capped(self, n: _Node, t: int, leg: _Leg) -> None:
        limit = self.caps.get((leg.account, leg.instrument))
        if limit is None:
            return
        worst = 0
        for other in n.legs.values():
            if other.account == leg.account and other.instrument == leg.instrument:
                worst += abs(other.attributed) + abs(other.open_rem)
        if worst > limit:
            self._say("S9", t, (leg.leg, n.seq), f"account {leg.account}: {worst} lots at worst, at most {limit}")

    # -- everything anew ---------------------------------------------------------------------------------------------------------

    def full(
        self, t: int, orders: Mapping[bytes, tuple[int, int]] | None = None, legs: Mapping[int, tuple[int, int]] | None = None
    ) -> None:
        """All sums from the stored facts, all targets from the stored history, by another way; ``orders`` (id: state, cum) and
        ``legs`` (leg: target, attributed) are the node's whole tables, if given: what it forgot is found here."""
        n = self.n
        if not n.settled or not n.up:
            return
        sums: dict[int, list[int]] = {}
        tally = [0] * STATES
        for cid, order in n.orders.items():
            tally[order.state] += 1
            mine = sums.setdefault(order.leg, [0, 0, 0, 0, 0])
            mine[4] += order.sign * order.cum
            if not TERMINAL[order.state]:
                at = 0 if order.kind == OPENING else 2
                mine[at] += 1
                mine[at + 1] += order.sign * (order.qty - order.cum)
            if order.cum > order.truth.x:
                self._say("S6", t, cid, f"{cid.hex()}: {order.cum} booked, {order.truth.x} executed")
            if order.state in (DEAD, REJECTED) and order.truth.accepted and (order.truth.closed != REJECTED or order.truth.x):
                self._say("S4", t, cid, f"{cid.hex()}: believed over, and the venue accepted it")
            if orders is not None:
                believed = orders.get(cid)
                if believed is None:
                    if not TERMINAL[order.state]:
                        self._say("S5", t, cid, f"{cid.hex()}: named, unfinished, and in no table")
                elif believed != (order.state, order.cum):
                    self._say("S5", t, cid, f"{cid.hex()}: the table says {believed}, told was {order.state, order.cum}")
        if sum(tally) != len(n.orders) or tally != n.tally:
            self._own(t, f"orders by state {n.tally}, anew {tally}")
        for number, leg in n.legs.items():
            if sums.get(number, [0, 0, 0, 0, 0]) != [leg.open_count, leg.open_rem, leg.red_count, leg.red_rem, leg.booked]:
                self._own(t, f"sums of leg {number}")
            if legs is not None and leg.known and legs.get(number, (0, 0)) != (leg.target, leg.attributed):
                self._say(
                    "S5", t, number, f"leg {number}: the table says {legs.get(number)}, told was {leg.target, leg.attributed}"
                )
            if leg.known:
                self._check(n, t, leg)
        for part_key, alive in self.live.items():
            if alive < 0:
                self._own(t, f"openings alive of {part_key}")
        for key, target in self.targets().items():
            told = n.exp.get(key, 0)
            if abs(target * LOT - told) > SLACK * 16:
                self._say(
                    "R3", t, ("full", key), f"leg {key}: the history gives {float(target):.9f} lots, believed is {told / LOT:.9f}"
                )

    def _own(self, t: int, text: str) -> None:
        """The auditor's quick and slow ways disagree: it is the auditor that is wrong."""
        raise BrokenInvariant(f"auditor at {t}: {text}")

    def targets(self) -> dict[int, Fraction]:
        """What every leg must hold by the whole history: openings add what was not forgone, reductions scale by what the leader
        has left (rules 2, 3), exactly and without anchors."""
        n = self.n
        fold: dict[tuple[int, int, int], int] = {}
        seen: dict[tuple[int, int, Any], None] = {}
        value: dict[int, Fraction] = {}
        for entry in n.log:
            name = entry[1]
            if not name:  # a change that no row says: the follower's hand, a command
                value[entry[2]] = Fraction(entry[3], LOT)
                continue
            _, _, fields, decisions, ends = entry
            given_up: list[Sequence[Any]] = []
            for end in ends:
                if end[1] and end[2] >= 0:
                    order = n.orders.get(end[0])
                    if order is None:
                        given_up.append(end)
                        continue
                    value[end[2]] = value.get(end[2], Fraction(0)) - Fraction(order.sign * abs(end[1]), LOT)
            leaving: dict[tuple[int, int, int], tuple[int, int]] = {}
            if name == "LeaderFill":
                execution = (fields["leader"], fields["instrument"], fields["exec_id"])
                if execution not in seen:
                    seen[execution] = None
                    key = (fields["leader"], fields["instrument"], fields["position_side"])
                    before = fold.get(key, 0)
                    fold[key] = _folded(before, fields["qty"], key[2])
                    leaving[key] = (before, fold[key])
            elif name == "LeaderSync" and "positions" in fields:
                found = {(fields["leader"], instrument, side): qty for instrument, side, qty in fields["positions"]}
                for key in fold:
                    if key[0] == fields["leader"] and fields.get("complete", True):
                        found.setdefault(key, 0)
                for key, told in found.items():
                    qty = _folded(0, told, key[2])
                    leaving[key] = (fold.get(key, 0), qty)
                    fold[key] = qty
            for key, (before, after) in leaving.items():
                if before and (before * after <= 0 or abs(after) < abs(before)):
                    share = Fraction(after, before) if before * after > 0 else Fraction(0)
                    for leg in n.key.get(key, ()):
                        if leg in value:
                            value[leg] *= share
            for row in decisions:
                if row[1] < 0:
                    continue
                add = (
                    row[7] - row[8]
                    if name == "LeaderFill" and not row[5]
                    else 0
                    if name == "LeaderSync" and not row[5]
                    else -row[8]
                )
                value[row[1]] = value.get(row[1], Fraction(0)) + Fraction(add, LOT)
                if abs(value[row[1]] * LOT - row[11]) > SLACK * 16 and self._excused(name, row):
                    value[row[1]] = Fraction(row[11], LOT)
            for end in given_up:
                value[end[2]] = value.get(end[2], Fraction(0)) - Fraction(end[1], LOT)
        return value

    def _excused(self, name: str, row: Sequence[Any]) -> bool:
        """A row whose target moved by the follower's hand, or was raised to the minimum: judged when it was told."""
        plan = self.plans.get(row[0])
        return name not in self.strict or (plan is not None and plan.min_policy == "raise")

    # -- the end -----------------------------------------------------------------------------------------------------------------

    def fair_start(self, t: int) -> None:
        """Faults are off from here on; doubts must settle in time."""
        self.fair = t

    def fair_end(
        self, t: int, leader_position: Mapping[tuple[int, int, int], int] | None = None, belief: Mapping[str, Any] | None = None
    ) -> None:
        """Everything is quiet. ``leader_position``: his truth (default: his fills, summed). ``belief`` may hold ``leader`` (the
        node's fold, likewise), ``reasons`` (leg: why it may be off, declared by the node), ``halted`` (instruments)."""
        n = self.n
        belief = belief or {}
        reasons: Mapping[int, str] = belief.get("reasons", {})
        halted = belief.get("halted", ())
        truth_leader = dict(self.leader_net if leader_position is None else leader_position)
        folded: Mapping[tuple[int, int, int], int] = belief.get("leader", n.fold)
        for key in {**dict.fromkeys(truth_leader), **dict.fromkeys(folded)}:
            if truth_leader.get(key, 0) != folded.get(key, 0):
                self._say("L3", t, key, f"leader {key}: holds {truth_leader.get(key, 0)}, believed {folded.get(key, 0)}")
            if folded.get(key, 0) != n.fold.get(key, 0):
                self._say("L3", t, key, f"leader {key}: the journal gives {n.fold.get(key, 0)}, believed {folded.get(key, 0)}")
        if not n.up:
            self._say("L6", t, n.index, "no process runs at the end")
        for cid, order in n.orders.items():
            truth = order.truth
            if order.state in (0, PENDING_NEW, IN_DOUBT) or (order.state == HELD and order.leg not in reasons):
                self._say("L2", t, cid, f"{cid.hex()}: state {order.state} at the end")
            if not TERMINAL[order.state]:
                if truth.closed or (truth.written and not truth.accepted and order.state != HELD):
                    self._say("L2", t, cid, f"{cid.hex()}: over at the venue, believed {order.state}")
            elif truth.accepted and not truth.closed:
                self._say("S6", t, cid, f"{cid.hex()}: alive at the venue, believed {order.state}")
            if order.cum != truth.x:
                self._say("S6", t, cid, f"{cid.hex()}: {order.cum} booked, {truth.x} executed")
        for cid, truth in self.truth.items():
            if truth.x and not any(cid in node.orders for node in self.nodes):
                self._say("S3", t, cid, f"{cid.hex()}: {truth.x} executed for nobody")
        for number, leg in n.legs.items():
            if leg.plan not in self.plans:
                continue
            murky = any(part.lane.murky for part in leg.parts)
            own = leg.attributed if murky else sum(part.own for part in leg.parts)
            if own != leg.attributed:
                self._say("S6", t, number, f"leg {number}: the venue's books give {own}, believed {leg.attributed}")
            if murky:
                # Whose lots the hand took is not known; that it gave or took no more than it traded is.
                least = leg.booked - sum(part.lane.sold for part in leg.parts)
                most = leg.booked + sum(part.lane.bought for part in leg.parts)
                if not least <= leg.attributed <= most:
                    self._say("S6", t, number, f"leg {number}: holds {leg.attributed}, its orders brought {leg.booked}")
            excused = number in reasons or leg.instrument in halted
            off = own * LOT - leg.target
            if abs(off) >= LOT and not excused and not leg.carried and not leg.netted:
                self._say("L1", t, number, f"leg {number}: holds {own} at the venue, target {leg.target / LOT:.6f}")
            plan = self.plans[leg.plan]
            if not truth_leader.get((plan.leader, leg.instrument, leg.side), 0):
                if leg.target:
                    self._say(
                        "R3", t, ("flat", number), f"leg {number}: the leader is flat, its target is {leg.target / LOT:.6f}"
                    )
                if own and not excused:  # nothing is carried beyond the final close
                    self._say("R17", t, ("flat", number), f"leg {number}: the leader is flat, it holds {own}")
        self.full(t)


def _put_back(table: Any, key: Any, old: Any) -> None:
    if old is _MISSING:
        table.pop(key, None)
    else:
        table[key] = old
