"""What a settlement costs from snapshot to moved marks, with every file written; the executor answers at once.

``COPYD_BENCH_PLANS`` sets the size (default small, so that the test run stays short). It checks what came out.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from copyd.core.fees import DAY_NS, E8, FeeTerms
from copyd.settlement import settle
from copyd.settlement.executor import Confirmation, Outcome
from copyd.settlement.snapshot import Flow, PlanSnapshot, Snapshot, Trade
from copyd.settlement.transfers import Transfer

PLANS = int(os.environ.get("COPYD_BENCH_PLANS", "200"))
LEADERS = 20
BEGIN = 20_454 * DAY_NS


class Bank:
    """Carries everything out."""

    def execute(self, transfers: Sequence[Transfer]) -> list[Confirmation]:
        return [Confirmation(one.id, Outcome.EXECUTED) for one in transfers]

    def query(self, number: str) -> Confirmation:
        return Confirmation(number, Outcome.ABSENT)


def a_plan(index: int) -> PlanSnapshot:
    """Six trades; two of three plans have a gain to pay on."""
    trades = [Trade(BEGIN + n * 10**9, "BTCUSDT", (index % 7 - 2 + n % 3) * E8 // 10, 10**6) for n in range(6)]
    profit = sum(trade.realised_e8 - trade.fee_e8 for trade in trades)
    leader = f"leader {index % LEADERS}"
    return PlanSnapshot(
        plan=f"plan {index}", follower=f"follower {index}", leader=leader, follower_account=f"wallet {index}",
        leader_account=f"wallet of {leader}", nav_e8=1_000 * E8 + profit, free_e8=500 * E8, allocation_e8=1_000 * E8,
        flows=[Flow(BEGIN, 1_000 * E8, 0)], trades=trades, terms=FeeTerms(platform_share_bps=2_000),
    )  # fmt: skip


def test_settlement(benchmark: Any, tmp_path: Path) -> None:
    """A week of every plan: calculated, signed, paid, two statement files each, marks moved."""
    snapshot = Snapshot(1, "2026-W02", BEGIN + 8 * DAY_NS, "house", [a_plan(index) for index in range(PLANS)])
    key = tmp_path / "key"
    key.write_text("5a" * 32)
    key.chmod(0o600)
    runs = itertools.count()

    def run() -> Any:
        folder = tmp_path / str(next(runs))
        return folder, settle(
            snapshot, book=folder / "book", out=folder, key=key, now_ns=BEGIN + 9 * DAY_NS, executor=Bank()
        )

    folder, report = benchmark.pedantic(run, rounds=1 if PLANS > 1_000 else 3, iterations=1)
    assert report.step == "moved" and report.plans == report.due == PLANS
    assert report.charged_e8 == report.paid_e8 > 0 and report.transfers > PLANS
    assert len(list((folder / "2026-W02" / "followers").iterdir())) == 2 * PLANS
