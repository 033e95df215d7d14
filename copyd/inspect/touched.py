"""Which plans a journal record may change the money of: so that a fold need not look at all of them each time."""

from __future__ import annotations

from collections.abc import Iterable

from copyd.core import engine as core
from copyd.core.engine import ORDERS, PLANS, Engine, Recorded
from copyd.core.rows import OrderRow, ReportRow, StopRow

QUIET = (
    core.Quotes, core.LeaderPosition, core.LeaderSync, core.LeaderFlow, core.LeaderLeverage, core.LeaderFill, core.CatchUp,
    core.Timer, core.Started, core.Configured, core.Announced,
)
"""Inputs after which no plan has earned anything else."""


def plans_touched(engine: Engine, recorded: Recorded) -> Iterable[int]:
    """Plans whose profit or margin a record may change; to be asked before it is applied. All of them where nobody can say."""
    value = recorded.input
    if isinstance(value, core.Marks | core.LeaderEquity):  # these earn nothing, but a stop may give positions back
        return [row.plan for row in StopRow.unpack_all(recorded.stops)]
    if isinstance(value, QUIET):
        return ()
    accounts = _accounts(engine, value)
    if accounts is None:
        return range(engine.columns.count(PLANS))
    return [index for account in sorted(accounts) for index in engine.plans_of(account)]


def _accounts(engine: Engine, value: core.AnyInput) -> set[int] | None:
    """The accounts a record is about; None: any."""
    if isinstance(value, core.Reports):
        slots = (engine.columns.order_slot(row.cid) for row in ReportRow.unpack_all(value.rows))
        return {OrderRow.unpack(engine.columns.get(ORDERS, slot)).account for slot in slots if slot is not None}
    if isinstance(value, core.ExternalFill | core.OrphanFill | core.Funding):
        return {value.account}
    if isinstance(value, core.AccountSnapshots):
        return {account for account, _, _ in value.accounts}
    if isinstance(value, core.LegsReady):
        return {leg[0] for leg in value.legs}
    return None
