"""The people of a history, and its weather: leaders trade, followers use their own hands, an operator commands, things break.

Each works by chance of its own named streams. Lasting conditions (a halt, a lost key, a ban) are put right by ``heal``.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from copyd.core.engine import PLANS, Configured, Engine, InstrumentSpec
from copyd.core.reconcile import SyncAction, SyncPolicy
from copyd.core.rows import InstrumentRow, Params, PlanRow, PlanState
from copyd.errors import BrokenInvariant
from copyd.sim.audit import Auditor, Plan
from copyd.sim.disk import Disk
from copyd.sim.node import Node
from copyd.sim.venue import FILLED, PARTIAL, Account, Trade, Venue
from copyd.sim.world import BAN_MAX, MS, READ_LAG, S, World

if TYPE_CHECKING:
    from copyd.sim.run import Setup

E8 = 10**8
PX_LEAST, PX_MOST = 480_000, 800_000
"""Prices stay within."""
SITE_ID = 0xC0DE
SITE_KEY = bytes(range(16))
OWN = SITE_ID.to_bytes(2, "big") + bytes(14)
"""A client order id with our tag: what bears it is no leader event (semantics 15)."""
MODES = ("proportional", "multiplier", "fixed_amount", "fixed_ratio", "risk_based")
SNAPSHOTS = ("position_open", "each_order", "follow")
MINIMA = ("carry", "skip", "raise")


TWO_DAEMONS = frozenset({"S5", "S6", "S8", "S9", "S10", "L1", "R1", "R2", "R3", "R17"})


def losses(spec: dict[str, Any]) -> tuple[int, int, int]:
    """A plan's loss limits in bps: the leader's drawdown, total, daily."""
    return spec["leader_drawdown_bps"], spec["total_loss_bps"], spec["daily_loss_bps"]


class Site:
    """The operator's installation: one disk, one configuration, and the process that is running, if one is."""

    def __init__(self, world: World, venue: Venue, auditor: Auditor, setup: Setup, crashes: tuple[int, ...]) -> None:
        self.world, self.venue, self.auditor, self.setup = world, venue, auditor, setup
        self.id, self.key = SITE_ID, SITE_KEY
        self.instruments_max = 4
        self.round_interval = 20 * S
        self.weight_per_s = world.draws.pick("setup.weight", (4, 20, 20))
        self.wall_offset = world.draws.between("clock.offset", -2 * S, 2 * S)
        self.version = 1
        self.disk = Disk()
        self.node: Node | None = None
        self.index = 0
        self.forgotten: Node | None = None
        self.orphans: dict[tuple[int, int, int, int], None] = {}
        self.violations: list[tuple[str, int, str]] = []
        self.crash_count = 0
        self.crash_points: dict[str, int] = {}
        self._crashes = list(crashes)
        self.crash_next = self._crashes.pop(0) if self._crashes else 0
        self.max_event_age = 2 * S
        action = SyncAction(world.draws.pick("policy", (0, 0, 0, 0, 0, 1, 2, 3, 3, 3)))
        self.policy = SyncPolicy(action=action, enter_bps=20, leave_bps=10, after_ns=4 * S, interval_ns=8 * S)
        self.restarts = 0
        self.last_end = -(1 << 60)
        self.counts: dict[str, int] = {}
        specs = []
        for index, follower in enumerate(setup.followers):
            specs.append(follower)
            auditor.plan(Plan(
                index, setup.accounts.index(follower["account"]), setup.leaders.index(follower["leader"]),
                MODES[follower["mode"]], SNAPSHOTS[follower["ratio_snapshot"]], MINIMA[follower["min_policy"]],
                follower["allocation_e8"], Fraction(follower["multiplier_ppm"], 10**6), losses(follower),
                follower["allocation_e8"], follower["loss_policy"]))
        self.specs = specs
        self.limits = any(any(losses(spec)) for spec in specs)

    def configured(self) -> Configured:
        """The configuration in force."""
        params = Params(max_event_age=self.max_event_age, quote_max_age=5 * S, equity_max_age=120 * S, read_lag=READ_LAG,
                        orders_per_window=self.setup.orders_per_window)
        specs = [
            InstrumentSpec(f"SIM{index}", InstrumentRow(
                value_mul=10_000, value_div=1, lot_max=self.setup.lot_max, lot_max_market=self.setup.lot_max,
                min_notional_e8=self.setup.min_notional).pack(), 1, 3)
            for index in range(len(self.venue.instruments))
        ]
        return Configured(self.version, params.pack(), specs, list(self.setup.leaders))

    def violated(self, invariant: str, text: str) -> None:
        """Something the node itself shows to be wrong."""
        self.violations.append((invariant, self.world.now, text))

    def difference(self, engine: Engine, account: int, instrument: int) -> str:
        """How the position the core believes in differs from the venue's; empty where it does not."""
        held = self.venue.accounts[account].position
        net, short, _ = engine.expected(account, instrument, 0)
        truth = held.get((instrument, 0), 0) + held.get((instrument, 1), 0), held.get((instrument, 2), 0)
        return "" if (net, short) == truth else (
            f"account {account} holds {truth} of {instrument}, believed ({net}, {short})")

    # -- life of the process -----------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start a process on the disk, unless one runs."""
        if self.node is not None and self.node.alive:
            return
        self.node = Node(self, self.disk, self.index)
        self.world.crashing(self.node, self.node.start)

    def fork(self) -> None:
        """A failover by mistake: a second machine starts on a copy of the journal while the first one lives on."""
        assert self.node is not None
        self.forgotten = self.node
        # Whose share of a position is whose cannot be told apart while both trade; identity and fencing can.
        self.auditor.off |= TWO_DAEMONS
        self.venue.hide_no_more()
        self.disk = self.node.disk.copy()
        self.index = 1
        self.node = None
        self.start()

    def crashed_at(self) -> None:
        """The crash that was due is happening: it goes on the tape, the next one is due."""
        self.world.draws.fired.append(("P01", self.crash_count))
        self.crash_next = self._crashes.pop(0) if self._crashes else 0

    def struck(self, point: str, ready: bool) -> None:
        """A crash has happened; its ids."""
        draws = self.world.draws
        for name in ("P01", *(() if ready else ("P02",)), *_CRASH_FAULTS.get(point, ())):
            draws.counts[name] = draws.counts.get(name, 0) + 1

    def failed(self, node: Node, error: BaseException) -> None:
        """The process stopped itself."""
        self.counts["failed"] = self.counts.get("failed", 0) + 1

    def gone(self, node: Node) -> None:
        """A process ended: another is started after a while; but not the one that nobody knows to be running."""
        if node is self.forgotten:
            return
        draws, world = self.world.draws, self.world
        if world.now - self.last_end < 5 * S:
            draws.count("P15")
        self.last_end = world.now
        self.restarts += 1
        if draws.fault("P08", 250_000):
            # However often it is set, it is never wrong by more than an hour.
            by = self.wall_offset + draws.param("P08", "by", -3_600, 3_600) * S
            self.wall_offset = min(max(by, -3_600 * S), 3_600 * S)
        delay = draws.between("restart", 100, 3_000) * MS
        if draws.healthy:
            delay = 100 * MS
        world.at(world.now + delay, None, self.start)


_CRASH_FAULTS = {
    "pre_append": ("J01",), "post_append": ("J01",), "pre_commit": ("J01",), "post_commit": ("J02",), "pre_send": ("J02", "J03"),
    "post_send": ("J03", "J04"), "pre_reply": ("J04",), "post_reply": ("J04",),
    "post_pause": ("A03",),
}


class Leader:
    """Trades by chance, and tells his stream."""

    def __init__(self, world: World, venue: Venue, index: int, hedge: bool) -> None:
        self.world, self.venue, self.index, self.hedge = world, venue, index, hedge
        self.account: Account = venue.leaders[index]
        self.order_id = 50_000 + 10_000 * index
        self.busy = False

    def move(self) -> None:
        """One order, in one piece or several."""
        draws = self.world.draws
        instrument = draws.draw("leader.instrument", len(self.venue.instruments))
        if draws.fault("L16", 15_000):
            self._push(("foreign",))
        self._drift(instrument)
        side = 0
        if self.hedge:
            side = 1 + draws.draw("leader.hedge", 2)
        held = self.account.position.get((instrument, side), 0)
        if draws.draw("leader.dust", 6) == 0:
            draws.count("A16")
            self._order(instrument, side, -1 if held < 0 or side == 2 else 1)
            return
        size = draws.pick("leader.size", (1, 7, 40, 40, 200, 200, 400, 1_000))
        size += draws.draw("leader.odd", size)
        kind = draws.draw("leader.kind", 100)
        if held == 0:
            sign = -1 if side == 2 or (side == 0 and draws.draw("leader.side", 2)) else 1
            signed = sign * size
        elif kind < 35:
            signed = size if held > 0 else -size
        elif kind < 65:
            part = max(1, abs(held) * (1 + draws.draw("leader.part", 9)) // 10)
            signed = -part if held > 0 else part
        elif kind < 85 or side:
            signed = -held
        else:
            signed = -held - (size if held > 0 else -size)
            draws.count("L22")
        self._order(instrument, side, signed)

    def flap(self, instrument: int) -> None:
        """A little more, a little less."""
        side = 1 if self.hedge else 0
        held = self.account.position.get((instrument, side), 0)
        self._order(instrument, side, 5 if held >= 0 else -5)
        self._order(instrument, side, -5 if held >= 0 else 5)

    def _drift(self, instrument: int) -> None:
        draws = self.world.draws
        market = self.venue.instruments[instrument]
        market.px += draws.between("market.drift", -600, 600)
        if draws.fault("O19/jump", 30_000):
            market.px += draws.param("O19/jump", "ticks", -8_000, 8_000)
        market.px = min(max(market.px, PX_LEAST), PX_MOST)
        self.venue.auditor.price(instrument, market.px)

    def _order(self, instrument: int, side: int, signed: int) -> None:
        draws, world = self.world.draws, self.world
        self.order_id += 1
        qty = abs(signed)
        pieces = [qty]
        if qty > 2 and draws.draw("leader.pieces", 3) == 0:
            first = 1 + draws.draw("leader.first", qty - 1)
            pieces = [first, qty - first]
            if pieces[1] > 1 and draws.draw("leader.third", 2):
                second = 1 + draws.draw("leader.second", pieces[1] - 1)
                pieces = [first, second, pieces[1] - second]
        if len(pieces) > 1 and draws.fault("L06", 60_000):
            pieces.pop()
        new = ("new", instrument, self.order_id)
        late = draws.fault("L05", 15_000)
        if not late:
            self._push(new)
        cum, delay = 0, 0
        for piece in pieces:
            cum += piece
            if delay == 0:
                self._execute(instrument, side, piece if signed > 0 else -piece, self.order_id, qty, cum)
            else:
                signed_piece = piece if signed > 0 else -piece
                world.at(world.now + delay, None, self._execute, instrument, side, signed_piece, self.order_id, qty, cum)
            delay += draws.draw("leader.gap", 300) * MS
        if late:
            self._push(new)

    def _execute(
        self, instrument: int, side: int, signed: int, order_id: int, order_qty: int, cum: int, kind: str = "trade",
    ) -> None:
        world, venue, account = self.world, self.venue, self.account
        if side:
            held = account.position.get((instrument, side), 0)
            if (held + signed) * (1 if side == 1 else -1) < 0:
                signed = -held
                if not signed:
                    return
        px = venue.instruments[instrument].px
        venue.trade_ids[instrument] += 1
        trade_id = venue.trade_ids[instrument]
        account.move(world.now, instrument, side, signed)
        held = account.position[instrument, side]
        own = OWN if world.draws.chance("leader.own", 6_000) else b""
        trade = Trade(trade_id, world.now, instrument, side, signed, px, order_id, own, order_qty, cum, 0,
                      FILLED if cum == order_qty else PARTIAL, kind)
        account.trades.append(trade)
        venue.auditor.leader_executed(world.now, self.index, instrument, side, signed, px, trade_id)
        if world.trace is not None:
            world.say("leader", f"{account.name} {signed:+d} of {instrument} at {px}, exec {trade_id}, holds {held}")
        draws = world.draws
        told = trade
        if draws.fault("L15", 4_000):
            told = trade._replace(px=(px // 10, px * 10, 1)[draws.param("L15", "kind", 0, 2)])
        elif draws.fault("L07", 3_000):
            told = trade._replace(cum=max(0, cum - abs(signed) - draws.param("L07", "by", 0, 50)))
        push = ("position", instrument, side, held, world.now)
        if draws.draw("leader.push_first", 3) == 0:
            self._push(push)
            self._push(told)
        else:
            self._push(told)
            self._push(push)

    def _push(self, what: Any) -> None:
        """One frame to every stream, over a network that may do anything with it."""
        world, draws = self.world, self.world.draws
        for stream in self.account.streams:
            if not stream.open or stream.deaf:
                continue
            if draws.fault("L11", 8_000):
                continue
            if draws.fault("L17", 3_000):
                what = ("unreadable",)
            elif draws.fault("L18", 1_500):
                what = ("oversized",)
            delay = MS + draws.draw("leader.net", 8) * MS
            if draws.fault("L02", 20_000):
                delay += draws.param("L02", "ms", 1, 400) * MS
            at = max(world.now + delay, stream.stalled_until)
            if stream.stalled_until > world.now:
                draws.count("L13")
            world.at(at, stream.owner, stream.deliver, what)
            if draws.fault("L01", 20_000):
                world.at(at + draws.param("L01", "ms", 0, 3_000) * MS, stream.owner, stream.deliver, what)

    def liquidated(self, instrument: int) -> None:
        """His position is taken from him, whole or in part, without an order of his."""
        for (index, side), held in list(self.account.position.items()):
            if index == instrument and held:
                self.order_id += 1
                signed = -held if self.world.draws.draw("leader.adl", 2) else -(held // 2)
                if signed:
                    self._execute(instrument, side, signed, self.order_id, abs(signed), abs(signed), "liquidation")

    def corrected(self, instrument: int) -> None:
        """The venue takes a trade back: his position changes and no execution says why."""
        for (index, side), held in list(self.account.position.items()):
            if index == instrument and abs(held) > 3:
                by = -(held // 3)
                self.account.move(self.world.now, instrument, side, by)
                name = f"correction {self.world.now}"
                self.venue.auditor.leader_executed(self.world.now, self.index, instrument, side, by, 0, name)
                self._push(("position", instrument, side, held + by, self.world.now))
                return

    def set_leverage(self, instrument: int, leverage: int) -> None:
        """Leverage changes."""
        self.account.leverage[instrument] = leverage
        self._push(("leverage", instrument, leverage))


class Weather:
    """Everything that happens beside trading: it looks at the world now and then and lets something break."""

    def __init__(self, site: Site, leaders: list[Leader]) -> None:
        self.site, self.leaders = site, leaders
        self.world, self.venue, self.draws = site.world, site.venue, site.world.draws
        self.over = False
        self.stopped: dict[Any, dict[str, int]] = {}
        self.order = 0

    def tick(self) -> None:
        """One look; the next follows by itself."""
        if self.over:
            return
        draws, world = self.draws, self.world
        self._venue()
        self._followers()
        node = self.site.node
        if node is not None and node.alive:
            world.select(node.index)
            self._network(node)
            if node.alive:
                self._process(node)
            if node.alive and node.ready:
                world.crashing(node, self._operator, node)
        world.at(world.now + draws.between("weather", 300, 2_500) * MS, None, self.tick)

    # -- the venue ----------------------------------------------------------------------------------------------------
    def _venue(self) -> None:
        draws, venue, world = self.draws, self.venue, self.world
        fault, param = draws.fault, draws.param
        now = world.now
        if fault("O07/for", 6_000):
            venue.retry_after_until = now + param("O07/for", "ms", 200, 4_000) * MS
        if fault("O08", 3_000):
            venue.banned_until = now + param("O08", "ms", 1_000, BAN_MAX // MS) * MS
        if fault("O03/storm", 8_000):
            venue.storm_until = now + param("O03/storm", "ms", 1_000, 10_000) * MS
        if fault("O20", 4_000):
            venue.closed_until = now + param("O20", "ms", 300, 8_000) * MS
        instrument = draws.draw("weather.instrument", len(venue.instruments))
        market = venue.instruments[instrument]
        if fault("O19", 8_000):
            market.halted = True
            world.at(now + param("O19", "ms", 200, 10_000) * MS, None, self._reopen, instrument)
        if fault("O14/filters", 3_000):
            market.lot_max = param("O14/filters", "lots", 5, 60)
        leader = self.leaders[draws.draw("weather.leader", len(self.leaders))]
        if fault("L19", 8_000):
            leader.liquidated(instrument)
        if fault("L20", 8_000):
            leader.set_leverage(instrument, param("L20", "leverage", 1, 20))
        if fault("L21", 8_000):
            leader.account.wallet = max(E8, leader.account.wallet * param("L21", "percent", 50, 200) // 100)
        if fault("L23", 15_000):
            for _ in range(param("L23", "orders", 3, 6)):
                leader.move()
        if fault("L25", 3_000):
            leader.corrected(instrument)
        if fault("A17", 5_000):
            for _ in range(3):
                leader.flap(instrument)

    def _reopen(self, instrument: int) -> None:
        self.venue.instruments[instrument].halted = False

    # -- followers ------------------------------------------------------------------------------------------------------
    def _followers(self) -> None:
        draws, venue, world = self.draws, self.venue, self.world
        fault, param = draws.fault, draws.param
        account = venue.accounts[draws.draw("weather.account", len(venue.accounts))]
        instrument = draws.draw("weather.instrument", len(venue.instruments))
        if fault("A08", 15_000):
            self._by_hand(account, instrument, "A08", "manual")
        if fault("A13", 5_000):
            for (index, side), held in list(account.position.items()):
                if index == instrument and held:
                    taken = held if param("A13", "whole", 0, 1) else held - held // 2
                    venue.by_hand(account, instrument, side, -taken, "liquidation" if param("A13", "kind", 0, 1) else "adl")
        if fault("A09", 12_000):
            venue.flow(account, param("A09", "by", -5_000, 5_000) * E8)
        if fault("A10", 4_000):
            account.key_ok = False
            world.at(world.now + param("A10", "ms", 500, 15_000) * MS, None, self._unlock, account)
        if fault("A14", 3_000):
            account.locked = True
            world.at(world.now + param("A14", "ms", 500, 15_000) * MS, None, self._unlock, account)
        if fault("A12", 8_000):
            venue.set_leverage(account, instrument, param("A12", "leverage", 1, 10))
        if fault("A12/mode", 4_000) and not account.open and not any(account.position.values()):
            account.hedge = not account.hedge
            venue.auditor.mode_changed(account.index)
        if fault("A15", 8_000):
            account.slow = param("A15", "ms", 100, 900) * MS
            world.at(world.now + param("A15", "for", 1_000, 10_000) * MS, None, self._unlock, account)
        if fault("L12/follower", 6_000):
            for stream in account.streams:
                stream.open = False
                world.at(world.now + param("L12/follower", "ms", 0, 3_000) * MS, stream.owner, stream.deliver, ("expired",))

    def _by_hand(self, account: Account, instrument: int, fault: str, kind: str) -> None:
        """A trade of the follower's own: more, less, everything, or the other way round."""
        param, draws = self.draws.param, self.draws
        side = 0
        if account.hedge:
            side = param(fault, "side", 1, 2)
        held = account.position.get((instrument, side), 0)
        what = param(fault, "what", 0, 3)
        qty = param(fault, "lots", 1, 50)
        if what == 0 or not held:
            signed = qty if side == 1 or (side == 0 and param(fault, "way", 0, 1)) else -qty
        elif what == 1:
            signed = -min(qty, abs(held)) * (1 if held > 0 else -1)
        elif what == 2 or side:
            signed = -held
        else:
            signed = -held - (qty if held > 0 else -qty)
        draws.count("O32")
        self.venue.by_hand(account, instrument, side, signed, kind)

    def _unlock(self, account: Account) -> None:
        account.key_ok, account.locked, account.slow = True, False, 0

    # -- network --------------------------------------------------------------------------------------------------------
    def _network(self, node: Node) -> None:
        fault, param, world = self.draws.fault, self.draws.param, self.world
        if fault("O21/open", 8_000):
            connection = node.connections[param("O21/open", "which", 0, len(node.connections) - 1)]
            connection.half_open = True
            world.at(world.now + param("O21/open", "ms", 500, 4_000) * MS, node, node._lose, connection, "no answer to pings")
        if fault("O40/all", 4_000):
            for connection in node.connections:
                world.crashing(node, node._lose, connection, "no name resolution")
        if not node.ready:
            return
        if fault("O40/partition", 8_000):
            world.crashing(node, node.cut_off, param("O40/partition", "ms", 1_000, 12_000) * MS)
            return
        if fault("L03/follower", 10_000):
            node.lose_streams(param("L03/follower", "ms", 50, 4_000) * MS)
        link = node.leaders[self.draws.draw("weather.link", len(node.leaders))]
        if fault("L03", 12_000):
            world.crashing(node, link.lose_all, "reset")
        if fault("L04", 10_000):
            link.renew()
        if fault("L10", 6_000):
            link.silent(param("L10", "ms", 3_000, 20_000) * MS, True)
        if fault("L11/all", 6_000):
            link.silent(param("L11/all", "ms", 300, 15_000) * MS, False)
        if fault("L12", 6_000):
            for stream in link.open.values():
                stream.deaf = True
                world.at(world.now + param("L12", "ms", 0, 2_000) * MS, node, stream.deliver, ("expired",))
        if fault("L13", 10_000):
            for stream in link.open.values():
                stream.stalled_until = world.now + param("L13", "ms", 100, 8_000) * MS
        if fault("L15/market", 4_000):
            node.market_deaf_until = world.now + param("L15/market", "ms", 1_000, 12_000) * MS

    # -- the process ----------------------------------------------------------------------------------------------------
    def _process(self, node: Node) -> None:
        fault, param, world = self.draws.fault, self.draws.param, self.world
        if fault("P06", 8_000):
            node.stalled_until = max(node.stalled_until, world.now + param("P06", "ms", 50, 5_000) * MS)
        if fault("P07", 2_000):
            node.stalled_until = max(node.stalled_until, world.now + param("P07", "s", 5, 60) * S)
        if node.ready and self.site.forgotten is None and fault("P16", 2_000):
            self.site.fork()
            return
        if fault("P12", 1_500):
            node.fail(BrokenInvariant("an exception nobody expected"))
        elif fault("P03", 3_000):
            node.fail(BrokenInvariant("told to end"))
        elif fault("L14", 8_000):
            # The clock runs away from the venue's: openings are held until it is measured well again.
            node.clock_error = -param("L14", "ms", 200, 2_000) * MS
            world.crashing(node, node.command, "hold", {"why": "clock_off", "on": True})
            world.at(world.now + param("L14", "for", 500, 6_000) * MS, node, self._clock_good, node)
        elif fault("J09/low", 3_000):
            world.crashing(node, node.command, "hold", {"why": "journal_low", "on": True})
            world.at(world.now + param("J09/low", "for", 500, 6_000) * MS, node, node.command, "hold",
                     {"why": "journal_low", "on": False})

    def _clock_good(self, node: Node) -> None:
        node.clock_error = 0
        node.command("hold", {"why": "clock_off", "on": False})

    # -- the operator ---------------------------------------------------------------------------------------------------
    def _operator(self, node: Node) -> None:
        draws = self.draws
        fault, param = draws.fault, draws.param
        if fault("A01", 12_000):
            self._state(node, "A01", "paused" if param("A01", "state", 0, 2) else "close_only")
        elif fault("A04", 20_000):
            self._state(node, "A04", "active")
        if not node.alive:
            return
        if fault("A02", 5_000):
            self._kill(node, bool(param("A02", "on", 0, 1)))
        if fault("A05", 4_000):
            self._kill(node, True)
            if node.alive:
                self._kill(node, False)
        if node.alive and fault("A06", 6_000):
            self._edit(node)
        if node.alive and fault("C09", 2_000):
            plan = param("C09", "plan", 0, len(self.site.specs) - 1)
            spec = self.site.specs[plan]
            node.command("stop_plan", {"follower": spec["follower"], "leader": spec["leader"],
                                       "policy": ("close_gracefully", "close_now")[param("C09", "policy", 0, 1)]})
        if node.alive and fault("C03", 6_000):
            self.site.version += 1
            self.site.max_event_age = param("C03", "age", 1, 4) * S
            node.offer(self.site.configured())
        if node.alive and fault("C02", 3_000):
            node.command("hold", {"why": "nonsense", "on": True})

    def _scope(self, fault: str) -> tuple[dict[str, Any], Any]:
        kind = self.draws.param(fault, "scope", 0, 3)
        setup = self.site.setup
        if kind == 0:
            return {"scope": "all", "name": ""}, "global"
        if kind == 1:
            plan = self.draws.param(fault, "plan", 0, len(self.site.specs) - 1)
            spec = self.site.specs[plan]
            return {"scope": "plan", "name": spec["follower"], "leader": spec["leader"]}, ("plan", plan)
        if kind == 2:
            index = self.draws.param(fault, "leader", 0, len(setup.leaders) - 1)
            return {"scope": "leader", "name": setup.leaders[index]}, ("leader", index)
        index = self.draws.param(fault, "instrument", 0, len(self.venue.instruments) - 1)
        return {"scope": "instrument", "name": f"SIM{index}"}, ("instrument", index)

    def _state(self, node: Node, fault: str, state: str) -> None:
        args, scope = self._scope(fault)
        if args["scope"] == "all":
            del args["name"]
        scopes = [scope] if scope != "global" else [("leader", index) for index in range(len(self.site.setup.leaders))]
        if state == "active" and args["scope"] == "plan":
            plan = PlanRow.unpack(node.columns.get(PLANS, scope[1]))
            args = {**args, "resume_stopped": bool(plan.stopped_by) and plan.state != PlanState.STOPPED}
        self._barrier(node, "set_state", {**args, "state": state}, scopes, state != "active")

    def _kill(self, node: Node, on: bool) -> None:
        args, scope = self._scope("A02") if "A02" in self.draws.counts else ({"scope": "all"}, "global")
        self._barrier(node, "kill_switch", {**args, "on": on}, [scope], on)

    def _barrier(self, node: Node, name: str, args: dict[str, Any], scopes: list[Any], on: bool) -> None:
        """The judge hears of a stop when it is acknowledged, of its end when that is asked for: never too strict.

        A scope is stopped while either of its two causes, the kill switch and the state, stops it.
        """
        auditor, world = self.site.auditor, self.world
        self.order += 1
        mine = self.order
        for scope in scopes:
            causes = self.stopped.setdefault(scope, {})
            causes[name] = -mine
            if not any(order > 0 for order in causes.values()):
                auditor.paused(world.now, scope, False)

        def done() -> None:
            for scope in scopes:
                causes = self.stopped[scope]
                if causes[name] == -mine:
                    causes[name] = mine
                    auditor.paused(world.now, scope, True)

        node.command(name, args, done if on else None)

    def _edit(self, node: Node) -> None:
        param = self.draws.param
        plan = param("A06", "plan", 0, len(self.site.specs) - 1)
        spec = dict(self.site.specs[plan])
        state = PlanRow.unpack(node.columns.get(PLANS, plan)).state if plan < node.columns.count(PLANS) else 0
        spec |= {"max_notional_symbol_e8": (0, 3_000, 20_000)[param("A06", "cap", 0, 2)] * E8, "state": state,
                 "on_insufficient": param("A06", "margin", 0, 1)}
        # He pays in as much again, or takes half of it out: neither profit nor loss (semantics 16).
        spec["allocation_e8"] = spec["allocation_e8"] * (2, 2, 4, 1)[param("A06", "flow", 0, 3)] // 2
        node.command("change_plan", {"follower": spec["follower"], "leader": spec["leader"], "spec": spec})

    # -- the end --------------------------------------------------------------------------------------------------------
    def heal(self) -> None:
        """Everything that lasts is put right; nothing breaks any more."""
        self.over = True
        self.draws.healthy = True
        self.site.crash_next = 0
        forgotten = self.site.forgotten
        if forgotten is not None and forgotten.alive:
            self.world.select(forgotten.index)
            forgotten.fail(BrokenInvariant("found, and stopped by hand"))
        venue, node = self.venue, self.site.node
        venue.closed_until = venue.banned_until = venue.retry_after_until = venue.storm_until = 0
        for account in venue.accounts:
            venue.unhide(account)
        for index, market in enumerate(venue.instruments):
            market.halted = False
            market.lot_max = self.site.setup.lot_max
            venue.instruments[index] = market
        for account in venue.accounts:
            self._unlock(account)
        if node is not None and node.alive:
            node.market_deaf_until = 0
            for link in node.leaders:
                for stream in link.open.values():
                    stream.deaf = False
                    stream.stalled_until = 0

