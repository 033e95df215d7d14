"""What each plan is worth and how near it is to its loss limits, for people: `copyd ctl losses`."""

from __future__ import annotations

from typing import Any

from copyd.core.engine import LEADERS, LEGS, PLANS, Engine
from copyd.core.fixed import BPS
from copyd.core.pnl import allocation_equity
from copyd.core.risk import standing
from copyd.core.rows import LeaderRow, LegRow, LossPolicy, PlanRow, PlanState, Reason
from copyd.decimals import money_text


def losses(engine: Engine, now: int, marks: list[tuple[int, int, int]], count: int, maintenance_bps: int) -> dict[str, Any]:
    """The ``count`` plans nearest to a limit at these marks (instrument, ticks, ts), those stopped first.

    ``liquidation_bps``: how far the price may still go against the plan's leg that is nearest to it; None: nothing is held.
    """
    nearest: dict[int, int] = {}
    for leg, left in engine.kernel.near_liquidation(marks, maintenance_bps, 1 << 62):
        plan = LegRow.unpack(engine.columns.get(LEGS, leg)).plan
        nearest[plan] = min(left, nearest.get(plan, left))
    profits = engine.kernel.profits(now, marks)
    rows = [PlanRow.unpack(engine.columns.get(PLANS, index)) for index in range(engine.columns.count(PLANS))]
    found = [
        _line(engine, index, row, *profits[index]) | {"liquidation_bps": nearest.get(index)} for index, row in enumerate(rows)
    ]
    found.sort(key=lambda line: (not line["stopped_by"], -line["used_bps"], line["follower"]))
    return {
        "plans": found[:count], "stopped": sum(bool(line["stopped_by"]) for line in found), "of": len(found),
        "profit": money_text(sum(earned for earned, _ in profits)),
    }


def _line(engine: Engine, index: int, row: PlanRow, earned: int, fresh: bool) -> dict[str, Any]:
    leader = LeaderRow.unpack(engine.columns.get(LEADERS, row.leader))
    total, today = row.loss_base_e8 - earned, row.day_pnl_e8 - earned
    fallen = row.leader_peak_e8 - standing(leader) if leader.equity_e8 > 0 else 0
    shares = {
        "total_bps": _bps(total, row.allocation_e8), "today_bps": _bps(today, row.day_equity_e8),
        "leader_bps": _bps(fallen, row.leader_peak_e8),
    }
    limits = row.total_loss_bps, row.daily_loss_bps, row.leader_drawdown_bps
    used = [share * BPS // limit for share, limit in zip(shares.values(), limits, strict=True) if limit]
    return {
        "follower": engine.names.followers[index], "leader": engine.names.plan_leaders[index],
        "equity": money_text(allocation_equity(row, earned)), "profit": money_text(earned), "lost_today": money_text(today),
        **shares, "limits_bps": list(limits), "used_bps": max(used, default=0), "marks_fresh": fresh,
        "stopped_by": Reason(row.stopped_by).name.lower() if row.stopped_by else "",
        "policy": LossPolicy(row.loss_policy).name.lower(), "state": PlanState(row.state).name.lower(),
    }


def _bps(part: int, whole: int) -> int:
    """The share in bps, rounded down; 0 where there is no loss."""
    return part * BPS // whole if part > 0 and whole > 0 else 0
