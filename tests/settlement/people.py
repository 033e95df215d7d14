"""Snapshots for tests: a few plans with every kind of event, weeks apart; and a bank that counts what it carries out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from copyd.core.fees import DAY_NS, E8, FeeTerms, Period
from copyd.settlement.executor import Confirmation, Outcome
from copyd.settlement.snapshot import Flow, PlanSnapshot, Sample, Snapshot, Trade
from copyd.settlement.text import money
from copyd.settlement.transfers import Transfer

BEGIN = 20_454 * DAY_NS  # Thursday, 2026-01-01
WEEK_1, WEEK_2, WEEK_3 = (BEGIN + days * DAY_NS for days in (7, 14, 21))
NOW = BEGIN + 100 * DAY_NS
TERMS = FeeTerms(platform_share_bps=3_000)
KEY = "5a" * 32


def plan(name: str, nav: int, flows: list[Flow], trades: list[Trade], **more: object) -> PlanSnapshot:
    follower = str(more.pop("follower", f"follower {name}"))
    leader = str(more.pop("leader", "lea"))
    fields: dict[str, object] = {"free_e8": 10**15, "allocation_e8": 1_000 * E8, "terms": TERMS, **more}
    fields |= {"flows": flows, "trades": trades}
    return PlanSnapshot(name, follower, leader, f"{follower} wallet", f"{leader} wallet", nav, **fields)  # type: ignore[arg-type]


def first_week() -> Snapshot:
    """Gain, loss, flows in a gain, a stop, several plans on one account with little free, the guard."""
    start = BEGIN
    into = [Flow(start, 1_000 * E8, 0)]
    plans = [
        plan("gain", 1_100 * E8 + 7, into, [Trade(start + 5, "BTCUSDT", 110 * E8 + 7, 10 * E8)]),
        plan("loss", 900 * E8, into, [Trade(start + 5, "BTCUSDT", -99 * E8, 1 * E8)]),
        plan(
            "flows", 1_650 * E8,
            [*into, Flow(start + DAY_NS, 1_100 * E8, 1_100 * E8), Flow(start + 2 * DAY_NS, -550 * E8, 2_200 * E8)],
            [Trade(start + 9, "ETHUSDT", 100 * E8, 0)], follower="ann", allocation_e8=1_550 * E8,
            free_e8=19 * E8,
        ),
        plan("stop", 1_200 * E8, into, [Trade(start + 5, "BTCUSDT", 150 * E8, 0)], funding_e8=50 * E8, follower="ann",
             leader="bob", stopped=True, free_e8=19 * E8),
        plan("guard", 1_300 * E8, into, [], unrealised_e8=300 * E8, follower="=carl; or Ünal, \"x\"",
             terms=FeeTerms(average_guard=True),
             samples=[Sample(WEEK_1 - 3 * DAY_NS + 1, 1_100 * E8), Sample(WEEK_1 - 1, 1_300 * E8)]),
        plan("month", 1_000 * E8, into, [], terms=FeeTerms(period=Period.MONTHLY, management_bps_per_year=200), leader="bob"),
    ]  # fmt: skip
    return Snapshot(7, "2026-W02", WEEK_1, "house", plans)


def second_week() -> Snapshot:
    """What was owed is paid, a new rate is announced, the loss is half made up for."""
    plans = [
        plan("gain", 1_210 * E8 + 7, [], [Trade(WEEK_1 + 5, "BTCUSDT", 110 * E8, 0)], terms=FeeTerms(performance_bps=2_000)),
        plan("loss", 950 * E8, [], [Trade(WEEK_1 + 5, "BTCUSDT", 50 * E8, 0)]),
        plan("flows", 1_550 * E8, [], [Trade(WEEK_1 + 9, "ETHUSDT", -100 * E8, 0)], follower="ann", allocation_e8=1_550 * E8,
             free_e8=50 * E8),
        plan("stop", 0, [], [], follower="ann", leader="bob", stopped=True, free_e8=50 * E8, allocation_e8=0),
    ]  # fmt: skip
    return Snapshot(7, "2026-W03", WEEK_2, "house", plans)


class Bank:
    """Carries transfers out in a folder: a file per id, and one line per execution that really happened."""

    def __init__(self, folder: Path, poor: tuple[str, ...] = ()) -> None:
        self.folder, self.poor = folder, poor
        folder.mkdir(exist_ok=True)

    def execute(self, transfers: Sequence[Transfer]) -> list[Confirmation]:
        for one in transfers:
            state = "refused" if one.source in self.poor else "executed"
            try:
                number = os.open(self.folder / one.id, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                continue
            with os.fdopen(number, "w") as file:
                file.write(state)
            with (self.folder / "log").open("a") as log:
                log.write(json.dumps([one.id, one.source, one.to, money(one.amount_e8), state]) + "\n")
        return [self.query(one.id) for one in transfers]

    def query(self, number: str) -> Confirmation:
        file = self.folder / number
        return Confirmation(number, Outcome(file.read_text()) if file.exists() else Outcome.ABSENT)

    @property
    def log(self) -> list[list[str]]:
        file = self.folder / "log"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def everything(folder: Path) -> dict[str, bytes]:
    """All files of the periods' folders."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
