"""One seed, one history: a safety phase in which anything may break, then a fair phase in which everything must come right."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import msgspec

from copyd.core import engine as core
from copyd.core.rows import InstrumentRow, LeaderPositionRow, OrderRow, PlanRow, PlanState
from copyd.sim.audit import Auditor, Violation
from copyd.sim.draws import Draws, Fired
from copyd.sim.leaders import EQUITY_E8
from copyd.sim.people import E8, PX_LEAST, PX_MOST, SITE_ID, Leader, Site, Weather
from copyd.sim.venue import VALUE_MUL, Account, Instrument, Venue, fee_e8
from copyd.sim.world import MS, START, Looping, S, World

FAIR_LEAST = 24 * S
FAIR_MOST = 240 * S
STEPS_MAX = 60_000
EXCESS = 8 * S
"""A reduction that failed is due again within its longest back-off."""
EVENT_AGE = 4_600 * MS
"""No configured age of an event, with the error of the clock on top, is longer."""
ORDERS_PER_EVENT = 600
"""A close of a large position goes out in orders of the venue's maximum, and each may have to be repeated."""


class Profile(NamedTuple):
    """How large the worlds are whose size nobody gave: choices to draw from, each as likely."""

    followers: tuple[int, ...]
    instruments: tuple[int, ...]
    two_leaders: int
    """One world in so many has two leaders."""
    moves: tuple[int, ...]
    strength: int
    """Percent of every fault's strength: the same mix in a shorter time."""
    uncrashed: int
    """Of ten worlds so many have no crash drawn for them."""
    crash_within: int
    """Crashes are drawn among so many first crash points."""
    allocation: tuple[int, int]


PROFILES = {
    "default": Profile((2, 2, 2, 3, 3, 4), (1, 1, 2), 8, (4, 5, 6, 7, 8, 9), 100, 4, 900, (20_000, 300_000)),
    "bulk": Profile((1, 1, 1, 2), (1,), 24, (1, 2, 3), 160, 7, 400, (100_000, 300_000)),
}


class Options(msgspec.Struct, frozen=True):
    """A world; what is None is drawn from the seed, as the profile has it."""

    profile: Literal["default", "bulk"] = "default"
    followers: int | None = None
    moves: int | None = None
    instruments: int | None = None
    leaders: int | None = None
    hedge: bool | None = None
    announce: bool | None = None
    """Whether every live execution of a leader is announced before it is decided, as with hundreds of followers."""
    modes: tuple[int, ...] = (0, 0, 1, 2, 3, 4)
    minima: tuple[int, ...] = (0, 0, 1, 2)
    faults: tuple[str, ...] | None = None
    """Ids that exist at all; None: every one, by swarm."""
    strength: int = 100
    """Percent of every fault's strength; 0 is a healthy world."""
    crashes: tuple[int, ...] | None = None
    """Crash at these crash points, counted over the whole history."""


class Result(msgspec.Struct):
    """What became of a seed."""

    seed: int
    steps: int
    sim_ns: int
    faults: dict[str, int]
    crash_points: dict[str, int]
    violations: list[Violation]
    digest: str
    fired: list[Fired]
    counters: dict[str, int]


class Setup:
    """Who takes part, and under which terms; drawn once."""

    def __init__(self, draws: Draws, options: Options) -> None:
        profile = PROFILES[options.profile]
        two = draws.draw("setup.leaders", profile.two_leaders) == 0
        self.leaders = [f"L{index}" for index in range(options.leaders or (2 if two else 1))]
        self.instruments = options.instruments or draws.pick("setup.instruments", profile.instruments)
        self.leader_hedge = options.hedge if options.hedge is not None else draws.draw("setup.hedge", 5) == 0
        self.moves = options.moves if options.moves is not None else draws.pick("setup.moves", profile.moves)
        self.lot_max = draws.pick("setup.lot_max", (1 << 40, 1 << 40, 60))
        self.min_notional = draws.pick("setup.min_notional", (0, 0, 100)) * E8
        self.announce = options.announce if options.announce is not None else draws.draw("setup.announce", 2) == 0
        self.orders_per_window = draws.pick("setup.rate", (160, 160, 160, 6))
        self.accounts: list[str] = []
        self.hedges: list[bool] = []
        self.followers: list[dict[str, Any]] = []
        for index in range(options.followers or draws.pick("setup.followers", profile.followers)):
            name = f"F{index}"
            self.accounts.append(name)
            self.hedges.append(self.leader_hedge or draws.draw("setup.follower_hedge", 4) == 0)
            first = draws.draw("setup.leader", len(self.leaders))
            both = len(self.leaders) > 1 and draws.draw("setup.both", 2) == 0
            for leader in (first, 1 - first) if both else (first,):
                self.followers.append(self._plan(draws, options, name, leader, both))
            if both:
                draws.count("L24")

    def _plan(self, draws: Draws, options: Options, name: str, leader: int, both: bool) -> dict[str, Any]:
        limited = draws.draw("setup.limited", 3) == 0
        return {
            "total_loss_bps": draws.pick("setup.total_loss", (0, 1, 1, 3, 20)) if limited else 0,
            "daily_loss_bps": draws.pick("setup.daily_loss", (0, 1, 2, 10)) if limited else 0,
            "leader_drawdown_bps": draws.pick("setup.drawdown", (0, 0, 50, 500)) if limited else 0,
            "loss_policy": draws.pick("setup.loss_policy", (0, 0, 1, 2)),
            "follower": name, "leader": self.leaders[leader], "account": name,
            "allocation_e8": draws.between("setup.allocation", *PROFILES[options.profile].allocation) * E8,
            "amount_e8": draws.between("setup.amount", 100, 5_000) * E8,
            "max_notional_symbol_e8": draws.pick("setup.cap", (0, 0, 0, 3_000)) * E8, "max_notional_total_e8": 0,
            "multiplier_ppm": draws.between("setup.multiplier", 500_000, 2_000_000), "raise_max_factor_ppm": 2_000_000,
            "instruments": [], "leverage": 5, "leverage_max": 100, "risk_bps": 20, "assumed_stop_bps": 500,
            "max_position_bps": draws.pick("setup.position", (0, 0, 300)), "max_loss_per_trade_bps": 0, "slippage_bps": 0,
            "slippage_mid_bps": 0, "max_open_trades": 0, "mode": draws.pick("setup.mode", options.modes),
            "ratio_snapshot": draws.pick("setup.snapshot", (0, 0, 1, 2)),
            "min_policy": draws.pick("setup.minimum", options.minima),
            "on_insufficient": draws.draw("setup.insufficient", 2), "require_stop": False, "allow_netting": both, "state": 0,
        }


def run_seed(
    seed: int, options: Options | None = None, mutant: str = "", keep: Iterable[Fired] | None = None,
    trace: Callable[[str], None] | None = None,
) -> Result:
    """The history of a seed. ``keep``: only these faults fire; ``trace``: is told every event as a line."""
    context: AbstractContextManager[Any] = nullcontext()
    if mutant:
        from copyd.sim.mutants import mutated

        context = mutated(mutant)
    collecting = gc.isenabled()
    gc.disable()
    try:
        with context:
            return _History(seed, options or Options(), keep, trace).run()
    finally:
        if collecting:
            gc.enable()


class _History:
    def __init__(
        self, seed: int, options: Options, keep: Iterable[Fired] | None, trace: Callable[[str], None] | None,
    ) -> None:
        kept = None if keep is None else [(str(name), int(n)) for name, n in keep]
        self.seed, self.options = seed, options
        self.profile = PROFILES[options.profile]
        draws = self.draws = Draws(seed, kept, options.faults, options.strength * self.profile.strength // 100)
        self.world = world = World(draws, trace)
        self.setup = setup = Setup(draws, options)
        least = 1 + setup.min_notional // (PX_LEAST * VALUE_MUL)
        self.auditor = Auditor(
            site=SITE_ID, excess_ns=EXCESS, orders_per_event=ORDERS_PER_EVENT, age_ns=EVENT_AGE, value_e8=VALUE_MUL,
            minimum=dict.fromkeys(range(setup.instruments), least),
        )
        world.on_step = self.auditor.step
        world.on_select = self.auditor.select
        markets = [Instrument((PX_LEAST + PX_MOST) // 2, setup.min_notional, setup.lot_max) for _ in range(setup.instruments)]
        self.venue = venue = Venue(world, self.auditor, markets, SITE_ID.to_bytes(2, "big"))
        for index, name in enumerate(setup.accounts):
            wallet = draws.pick("setup.wallet", (10**6, 10**6, 10**6, 3_000)) * E8
            venue.accounts.append(Account(index, name, setup.hedges[index], 5, wallet, setup.instruments))
        self.people = []
        for index, name in enumerate(setup.leaders):
            venue.leaders.append(Account(index, name, setup.leader_hedge, 10, EQUITY_E8, setup.instruments))
            self.people.append(Leader(world, venue, index, setup.leader_hedge))
        self.site = Site(world, venue, self.auditor, setup, self._crashes(kept))
        self.weather = Weather(self.site, self.people)

    def _crashes(self, kept: list[Fired] | None) -> tuple[int, ...]:
        """At which crash points the process dies: given, on the tape, or drawn."""
        if self.options.crashes is not None:
            return tuple(sorted(self.options.crashes))
        if kept is not None:
            return tuple(sorted(n for name, n in kept if name == "P01"))
        draws = self.draws
        if self.options.strength == 0 or (self.options.faults is not None and "P01" not in self.options.faults):
            return ()
        kind = draws.draw("crash.kind", 10)
        if kind < self.profile.uncrashed:
            return ()
        found = [1 + draws.draw("crash.at", self.profile.crash_within) for _ in range(1 + draws.draw("crash.many", 3))]
        if kind >= 8:
            found += [found[0] + 1 + draws.draw("crash.again", 60)]
        return tuple(sorted(dict.fromkeys(found)))

    def run(self) -> Result:
        """Both phases, and the verdict."""
        world, draws = self.world, self.draws
        try:
            self.site.start()
            world.at(world.now + 500 * MS + draws.draw("start.weather", 1_000) * MS, None, self.weather.tick)
            at = world.now + 600 * MS
            for _ in range(self.setup.moves):
                kind = draws.draw("moves.kind", 10)
                at += draws.draw("moves.burst", 50) * MS if kind < 4 else draws.between("moves.gap", 200, 3_000) * MS
                if kind > 8:
                    at += draws.draw("moves.long", 9_000) * MS
                world.at(at, None, self.people[draws.draw("moves.leader", len(self.people))].move)
            world.run(at + draws.draw("moves.rest", 2_000) * MS, STEPS_MAX)
            self._fair()
        except Looping as error:
            self.site.violated("L6", str(error))
        return self._result()

    def _fair(self) -> None:
        world, site = self.world, self.site
        self.weather.heal()
        if site.node is not None and site.node.alive:
            world.run(site.node.stalled_until, STEPS_MAX)
        began = world.now
        self.auditor.fair_start(began)
        if world.trace is not None:
            world.say("world", "from here on nothing breaks")
        world.run(began + FAIR_LEAST, STEPS_MAX)
        while world.now < began + FAIR_MOST:
            node = site.node
            if node is not None and node.alive and node.quiet() and self._looked_since(began):
                break
            world.run(world.now + 2 * S, STEPS_MAX)
        self._judge(began)

    def _looked_since(self, began: int) -> bool:
        """Every account was compared with the venue in the fair phase, and nothing is left to be believed."""
        node = self.site.node
        assert node is not None
        return not node.engine.names.mismatches and not self._differences() and all(
            node.looked_at.get(account.index, 0) > began for account in self.venue.accounts)

    def _differences(self) -> list[str]:
        """Positions that the daemon believes to be others than they are."""
        node = self.site.node
        assert node is not None
        found = [
            self.site.difference(node.engine, account.index, instrument)
            for account in self.venue.accounts for instrument in range(len(self.venue.instruments))
        ]
        return [text for text in found if text]

    def _judge(self, began: int) -> None:
        """L1 to L6, and whether the account's net is what the venue has."""
        world, site, node = self.world, self.site, self.site.node
        if node is None or not node.alive or not node.ready:
            site.violated("L6", "no process runs at the end")
            return
        if not node.quiet():
            site.violated("L2", f"not at rest after {(world.now - began) // S} s: {node.restless()}")
        columns = node.engine.columns
        for text in self._differences():
            site.violated("L1", text)
        leader = {
            (book.leader, book.instrument, book.side): LeaderPositionRow.unpack(columns.get(core.POSITIONS, book.position)).qty
            for book in node.engine.names.books
        }
        truth = {
            (index, instrument, side): qty
            for index, account in enumerate(self.venue.leaders) for (instrument, side), qty in account.position.items()
        }
        self._money()
        self.auditor.fair_end(world.now, truth, {"leader": leader, "reasons": node.reasons()})

    def _money(self) -> None:
        """What each plan is believed to have earned, against what its account traded, where nobody else traded there."""
        site, node = self.site, self.site.node
        assert node is not None
        engine = node.engine
        if site.orphans or site.forgotten is not None:
            return
        plans: dict[int, list[int]] = {}
        for index in range(engine.columns.count(core.PLANS)):
            plans.setdefault(PlanRow.unpack(engine.columns.get(core.PLANS, index)).account, []).append(index)
        marks = [InstrumentRow.unpack(engine.columns.get(core.INSTRUMENTS, index)).mark
                 for index in range(len(self.venue.instruments))]
        # What the venue shows to no question nobody knows the price or the fee of.
        untold = {
            order.account for order in OrderRow.unpack_all(engine.columns.dump()[core.ORDERS])
            if (order.estimated or order.exec_qty < order.cum_qty) and not order.venue_order_id
        }
        profits = engine.profits(node.clock.now_ns())
        for account in self.venue.accounts:
            mine = plans.get(account.index, [])
            if len(mine) != 1 or account.index in untold or any(trade.kind != "ours" for trade in account.trades):
                continue
            fees = sum(fee_e8(trade) for trade in account.trades)
            earned = sum(trade.qty * (marks[trade.instrument] - trade.px) for trade in account.trades) * VALUE_MUL - fees
            believed, fresh = profits[mine[0]]
            if earned != believed:
                site.violated("M3", f"plan {mine[0]}: traded to a profit of {earned}, believed {believed}")
            heard = {instrument: px for instrument, px, _ in node.heard_marks.values()}
            # A stop has until the next mark: what the last fills cost is held against its limit then.
            known = not node.ages or node.ages[-1][0] < node.marked
            if fresh and known and all(trade.instrument in heard for trade in account.trades):
                self._unstopped(mine[0], sum(
                    trade.qty * (heard[trade.instrument] - trade.px) for trade in account.trades) * VALUE_MUL - fees)

    def _unstopped(self, index: int, earned: int) -> None:
        """A plan whose total loss is at its limit, at the marks its daemon has heard, is stopped."""
        engine = self.site.node.engine if self.site.node is not None else None
        assert engine is not None
        plan = PlanRow.unpack(engine.columns.get(core.PLANS, index))
        limit = plan.allocation_e8 * plan.total_loss_bps // 10_000
        lost = plan.loss_base_e8 - earned
        if limit and lost >= limit + 1 and not plan.stopped_by and plan.state != PlanState.STOPPED:
            self.site.violated("M4", f"plan {index}: has lost {lost}, its limit is {limit}, and it is not stopped")

    def _result(self) -> Result:
        world, draws = self.world, self.draws
        found = [*self.auditor.violations, *(Violation(*violation) for violation in self.site.violations)]
        world.mark(repr((draws.fired, found, self.site.crash_points)).encode())
        return Result(
            self.seed, world.steps, world.now - START, dict(draws.counts), dict(self.site.crash_points),
            sorted(found, key=lambda violation: violation.t), world.digest(), list(draws.fired),
            {**self.site.counts, "restarts": self.site.restarts, "crash_points": self.site.crash_count},
        )
