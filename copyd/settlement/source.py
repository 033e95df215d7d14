"""The snapshot of a settlement from the daemon's journal: what each plan is worth, and what happened to it since the last one.

The state is the fold of the journal up to ``as_of``, so two runs over the same journal give the same bytes. What is open is
valued at the last mark the journal holds by then (the daemon records one an hour, and one whenever a mark decides).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from copyd.config import Config
from copyd.core import engine as core
from copyd.core.engine import ACCOUNTS, ORDERS, PLANS, Engine, Recorded
from copyd.core.fees import FeeTerms, Period
from copyd.core.pnl import booked
from copyd.core.rows import AccountRow, OrderRow, PlanRow, PlanState, ReportRow
from copyd.errors import SettlementRefused
from copyd.inspect.rebuild import apply, decode, start_of
from copyd.inspect.touched import plans_touched
from copyd.journal import Reader
from copyd.settlement.snapshot import Flow, PlanSnapshot, Snapshot, Trade


def terms_of(config: Config) -> FeeTerms:
    """The fee terms of a configuration."""
    fees = config.fees
    return FeeTerms(
        performance_bps=fees.performance_bps, management_bps_per_year=fees.management_bps_per_year,
        management_e8=fees.management_e8, subscription_e8=fees.subscription_e8, platform_share_bps=fees.platform_share_bps,
        period=Period(fees.period), average_guard=fees.average_guard,
    )


class _Worth(NamedTuple):
    """What a plan has earned by now, in e8; a difference of two is what happened between them."""

    realised_e8: int
    commission_e8: int
    funding_e8: int


class JournalSource:
    """Makes snapshots from a journal (see ``SnapshotSource``).

    ``leader_accounts``: the account of each leader, by name. ``since``: up to when everything is settled, ns; 0: nothing is.
    ``ended``: (follower, leader) whose end was settled, they are left out. Raises SettlementRefused where the journal does not
    reach back to ``since``.
    """

    def __init__(
        self, journal: Path, *, site: int, platform_account: str, leader_accounts: Mapping[str, str], terms: FeeTerms,
        since: int = 0, ended: Collection[tuple[str, str]] = (),
    ) -> None:
        self.journal, self.site, self.platform_account = journal, site, platform_account
        self.leader_accounts, self.terms, self.since, self.ended = leader_accounts, terms, since, ended

    def snapshot(self, period: str, as_of: int) -> Snapshot:
        """Every plan as it stood at ``as_of``, with what happened since it was last settled."""
        told = _Told(self.since)
        with Reader(self.journal) as reader:
            engine = start_of(reader, use_checkpoint=False)
            if engine.names.seq and not self.since:
                raise SettlementRefused([f"{self.journal}: its beginning was dropped, and nothing of it was ever settled"])
            last = 0
            for record in reader.iterate(engine.names.seq + 1):
                if record.ts_ns > as_of:
                    break
                if not last and engine.names.seq and record.ts_ns > self.since:
                    raise SettlementRefused([f"{self.journal}: begins after the last settlement: put the older part back"])
                last = max(last, record.ts_ns)
                recorded = decode(record)
                watched = told.before(engine, recorded, last)
                outputs, faults = apply(engine, record, recorded)
                if outputs is None or faults:
                    raise SettlementRefused([f"{self.journal}: {faults[0].text if faults else 'a record changes nothing'}"])
                told.after(engine, recorded.input, last, watched)
        plans = [plan for plan in self._plans(engine, told, as_of) if (plan.follower, plan.leader) not in self.ended]
        return Snapshot(self.site, period, as_of, self.platform_account, plans)

    def _plans(self, engine: Engine, told: _Told, as_of: int) -> Iterator[PlanSnapshot]:
        profits = engine.profits(as_of)
        for index, row in enumerate(_rows(engine)):
            follower, leader = engine.names.followers[index], engine.names.plan_leaders[index]
            account = AccountRow.unpack(engine.columns.get(ACCOUNTS, row.account))
            earned = profits[index][0]
            yield PlanSnapshot(
                plan=f"{follower}/{leader}", follower=follower, leader=leader,
                follower_account=engine.names.accounts[row.account],
                leader_account=self.leader_accounts.get(leader, leader),
                nav_e8=row.allocation_e8 + earned, free_e8=max(0, account.balance_e8 - account.margin_e8 - account.reserved_e8),
                allocation_e8=row.allocation_e8, unrealised_e8=earned - booked(row),
                funding_e8=row.funding_e8 - told.funding.get(index, 0), flows=told.flows.get(index, []),
                trades=told.trades.get(index, []), terms=self.terms,
                stopped=row.state == PlanState.STOPPED and not any(leg.attributed for _, leg in engine.plan_legs(index)),
            )


class _Told:
    """What the journal tells of each plan: flows and trades after ``since``, and the funding up to then."""

    def __init__(self, since: int) -> None:
        self.since = since
        self.flows: dict[int, list[Flow]] = {}
        self.trades: dict[int, list[Trade]] = {}
        self.funding: dict[int, int] = {}

    def before(self, engine: Engine, recorded: Recorded, now: int) -> dict[int, _Worth]:
        """The plans a record may change, as they are; a change of allocation is a flow at what the plan is worth now."""
        value = recorded.input
        if isinstance(value, core.Command) and value.name == "change_plan":
            index = engine.plan_index(value.args["follower"], value.args.get("leader"))
            row = PlanRow.unpack(engine.columns.get(PLANS, index))
            change = value.args["spec"]["allocation_e8"] - row.allocation_e8
            if change:
                self._flow(index, now, change, row.allocation_e8 + engine.profits(now)[index][0])
        return {index: _worth(engine, index) for index in plans_touched(engine, recorded)}

    def after(self, engine: Engine, value: Any, now: int, watched: Mapping[int, _Worth]) -> None:
        """What became of them."""
        if isinstance(value, core.Command) and value.name == "import_plans":
            first = engine.columns.count(PLANS) - len(value.args["plans"])
            for index in range(first, engine.columns.count(PLANS)):
                self._flow(index, now, PlanRow.unpack(engine.columns.get(PLANS, index)).allocation_e8, 0)
        symbols: dict[int, str] | None = None
        for index, was in watched.items():
            is_now = _worth(engine, index)
            if now <= self.since:
                self.funding[index] = is_now.funding_e8
            elif is_now[:2] != was[:2]:
                symbols = _symbols(engine, value) if symbols is None else symbols
                self.trades.setdefault(index, []).append(Trade(
                    now, symbols.get(index, "several"), is_now.realised_e8 - was.realised_e8,
                    is_now.commission_e8 - was.commission_e8))

    def _flow(self, index: int, now: int, amount_e8: int, nav_before_e8: int) -> None:
        if now > self.since:
            self.flows.setdefault(index, []).append(Flow(now, amount_e8, nav_before_e8))


def _rows(engine: Engine) -> Iterator[PlanRow]:
    return (PlanRow.unpack(engine.columns.get(PLANS, index)) for index in range(engine.columns.count(PLANS)))


def _worth(engine: Engine, index: int) -> _Worth:
    row = PlanRow.unpack(engine.columns.get(PLANS, index))
    return _Worth(row.realised_e8, row.commission_e8, row.funding_e8)


def _symbols(engine: Engine, value: Any) -> dict[int, str]:
    """What each plan traded in a record; several instruments of one plan are named together."""
    found: dict[int, dict[str, None]] = {}
    if isinstance(value, core.Reports):
        for row in ReportRow.unpack_all(value.rows):
            slot = engine.columns.order_slot(row.cid)
            if slot is not None:
                order = OrderRow.unpack(engine.columns.get(ORDERS, slot))
                found.setdefault(order.plan, {})[engine.symbol(order.instrument)] = None
    elif isinstance(value, core.ExternalFill | core.OrphanFill):
        for plan in engine.plans_of(value.account):
            found[plan] = {engine.symbol(value.instrument): None}
    return {plan: "+".join(names) for plan, names in found.items()}
