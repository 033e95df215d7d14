"""Looks at followers' accounts all the time and acts on what stays out of sync; the engine alone believes or not.

    Rounds (which account next) -> one snapshot each, inside a share of the rate budget -> AccountSnapshots
    Kernel.drift (how far is each leg) -> SyncWatch (what lasts) -> the operator's out-of-sync policy

An account that does not answer is asked in a lane of its own, so that it delays nobody (bulkhead).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from copyd.config import SyncConfig
from copyd.core.engine import ACCOUNT_INSTRUMENTS, INSTRUMENTS, LEGS, PLANS, AccountSnapshots, Alert, CatchUp, Command, Engine
from copyd.core.fixed import BPS, ONE
from copyd.core.reconcile import EDGES_BPS, DriftRow, Rounds, SyncAction, SyncPolicy, SyncWatch
from copyd.core.rows import AccountInstrumentRow, InstrumentRow, LegRow, PlanRow, PlanState
from copyd.runtime.clock import Clock
from copyd.telemetry.logs import get_logger

S_NS = 1_000_000_000
TICK_S = 0.25
LANE_MAX, SLOW_LANE_MAX = 8, 2
#: Legs that are judged at once; the worst come first.
JUDGED_MAX = 1_000
#: A few looks at once are afforded after a quiet time; more would starve what is in doubt.
BURST_LOOKS = 4

#: account, wallet e8, [(instrument, position side, lots)], as the venue told; None where it did not answer.
Look = tuple[int, int, list[tuple[int, int, int]]]


class Owner(Protocol):
    """What the reconciler needs of the daemon."""

    engine: Engine

    def offer(self, value: Any) -> None: ...

    def alert(self, alert: Alert) -> None: ...


class Eyes(Protocol):
    """What the reconciler needs of the venue."""

    async def look(self, account: int) -> Look | None: ...


def policy_of(config: SyncConfig) -> SyncPolicy:
    """The operator's out-of-sync policy as the core takes it."""
    return SyncPolicy(
        action=SyncAction[config.policy.upper()], enter_bps=config.enter_bps, leave_bps=config.leave_bps,
        after_ns=config.after_s * S_NS, interval_ns=config.catch_up_interval_s * S_NS,
        cost_bps_max=config.catch_up_cost_bps_max,
    )


class Reconciler:
    """See the module. ``looks_per_s``: what the rate budget affords."""

    def __init__(
        self, config: SyncConfig, owner: Owner, eyes: Eyes, clock: Clock, *, looks_per_s: float, read_lag_ns: int,
        spawn: Callable[[Coroutine[Any, Any, Any]], Any],
    ) -> None:
        self.owner, self.eyes, self.clock, self.spawn = owner, eyes, clock, spawn
        self.looks_per_s, self.read_lag_ns = looks_per_s, read_lag_ns
        self.log = get_logger("reconcile")
        self.watch = SyncWatch(policy_of(config))
        self.rounds = Rounds(config.compare_interval_s * S_NS, read_lag_ns + S_NS)
        self.buckets = [0] * (len(EDGES_BPS) + 1)
        self.stats = Counter[str]()
        self.slow: set[int] = set()
        self._looking: set[int] = set()
        self._tokens = 1.0
        self._at = 0

    def configure(self, config: SyncConfig) -> None:
        """A reloaded configuration; what is known of the legs stays."""
        self.watch.policy = policy_of(config)
        self.rounds.interval_ns = config.compare_interval_s * S_NS

    def add(self, accounts: Sequence[int]) -> None:
        """Accounts that trade from now on."""
        now = self.clock.now_ns()
        for account in accounts:
            self.rounds.add(account, now, len(accounts))

    def touch(self, account: int) -> None:
        """Something happened there that a look would settle."""
        self.rounds.touch(account, self.clock.now_ns())

    async def run(self) -> None:
        """For as long as the daemon lives."""
        judged = 0
        while True:
            await asyncio.sleep(TICK_S)
            now = self.clock.now_ns()
            self._tokens = min(BURST_LOOKS, self._tokens + max(0, now - self._at) * self.looks_per_s / S_NS) if self._at else 1.0
            self._at = now
            self.start_looks(now)
            if now - judged >= S_NS or now < judged:
                judged = now
                self.judge(now)

    # -- looking ------------------------------------------------------------------------------------------------------

    def start_looks(self, now: int) -> None:
        """Begin what is due and affordable; nobody is waited for."""
        slow = len(self._looking & self.slow)
        room = min(int(self._tokens), LANE_MAX - (len(self._looking) - slow))
        for account in self.rounds.due(now, max(0, room)):
            if account in self._looking:
                continue
            if account in self.slow:
                if slow >= SLOW_LANE_MAX:
                    self.rounds.touch(account, now)
                    continue
                slow += 1
            self._looking.add(account)
            self._tokens -= 1
            self.spawn(self._look(account))

    async def _look(self, account: int) -> None:
        seq, asked = self.owner.engine.names.seq + 1, self.clock.now_ns()
        try:
            found = await self.eyes.look(account)
        finally:
            self._looking.discard(account)
        if found is None:
            self.stats["failed"] += 1
            self.slow.add(account)
            self.rounds.touch(account, self.clock.now_ns())
            return
        self.slow.discard(account)
        self.stats["looks"] += 1
        self.owner.offer(AccountSnapshots([found], seq_asked=seq, ts_asked=asked))

    # -- out of sync --------------------------------------------------------------------------------------------------

    def judge(self, now: int) -> None:
        """Measure every leg, and do what the policy says about those that have been away for long enough."""
        rows, self.buckets = self.owner.engine.kernel.drift(EDGES_BPS, JUDGED_MAX, self.watch.policy.leave_bps)
        for action, row in self.watch.judge(now, DriftRow.unpack_all(rows), self.cost_bps):
            self.act(action, row)

    def cost_bps(self, row: DriftRow) -> int:
        """What trading the distance now would cost: half the spread and the taker fee, rounded up."""
        columns = self.owner.engine.columns
        leg = LegRow.unpack(columns.get(LEGS, row.leg))
        instrument = InstrumentRow.unpack(columns.get(INSTRUMENTS, leg.instrument))
        if instrument.bid <= 0 or instrument.ask <= 0:
            return BPS
        half_spread = -(-(instrument.ask - instrument.bid) * BPS // (instrument.ask + instrument.bid))
        return half_spread - (-instrument.taker_fee_ppm // 100)

    def act(self, action: SyncAction, row: DriftRow) -> None:
        """One step of the policy, as a journaled input with the policy as its actor."""
        engine = self.owner.engine
        leg = LegRow.unpack(engine.columns.get(LEGS, row.leg))
        follower, leader = engine.names.followers[leg.plan], engine.names.plan_leaders[leg.plan]
        self.stats[action.name.lower()] += 1
        fields = {"follower": follower, "leader": leader, "symbol": engine.symbol(leg.instrument), "bps": row.bps}
        if action == SyncAction.CATCH_UP:
            self.log.info("catch up", **fields)
            self.owner.offer(CatchUp([row.leg]))
            return
        self.owner.alert(Alert("out_of_sync", f"{action.name.lower()}: {row.distance / ONE:+.3f} lots from its leader", fields))
        if action == SyncAction.ALERT or PlanRow.unpack(engine.columns.get(PLANS, leg.plan)).state != PlanState.ACTIVE:
            return
        state = "paused" if action == SyncAction.PAUSE else "close_only"
        self.owner.offer(Command(
            "set_state", {"scope": "plan", "name": follower, "leader": leader, "state": state}, "out-of-sync policy"))

    def worst(self, count: int) -> list[dict[str, Any]]:
        """The legs furthest from their leaders, for people."""
        engine = self.owner.engine
        rows, _ = engine.kernel.drift(EDGES_BPS, count)
        return [self._shown(row) for row in DriftRow.unpack_all(rows)]

    def _shown(self, row: DriftRow) -> dict[str, Any]:
        engine, columns = self.owner.engine, self.owner.engine.columns
        leg = LegRow.unpack(columns.get(LEGS, row.leg))
        spec = engine.names.instruments[leg.instrument]
        unit = spec.lot / 10**spec.qty_decimals

        def qty(lots: float) -> str:
            return f"{lots * unit:.{spec.qty_decimals}f}"

        at = leg.account * columns.instruments_max + leg.instrument
        moved = AccountInstrumentRow.unpack(columns.get(ACCOUNT_INSTRUMENTS, at)).ts_active
        return {
            "follower": engine.names.followers[leg.plan], "leader": engine.names.plan_leaders[leg.plan],
            "symbol": spec.symbol, "bps": row.bps, "value": f"{row.money_e8 / 1e8:.2f}",
            "target": qty(leg.target / ONE), "holds": qty(leg.attributed), "forgone": qty(leg.missed / ONE),
            "distance": qty(row.distance / ONE), "in_flight": bool(row.moving), "detached": bool(leg.detached),
            "plan": PlanState(PlanRow.unpack(columns.get(PLANS, leg.plan)).state).name.lower(),
            "at_rest_s": max(0, self.clock.now_ns() - moved) // S_NS if moved else None,
            "account_answers": leg.account not in self.slow,
        }


__all__ = ["Reconciler", "policy_of"]
