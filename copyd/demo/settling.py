"""The fees of the run: settled by ``copyd settle``, killed on the way, and held against what the exchange's wallets say.

Nothing here is shared with the settlement: statements and wallets are read by this file's own reader, in whole units of 1e-8.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from copyd.errors import WorldError

from .daemon import LEADER, PERFORMANCE_BPS, PLATFORM, PLATFORM_SHARE_BPS, Daemon
from .exchange import Control, TransferRow
from .history import Plan, to_e8
from .processes import run_to_end

PERIOD = "demo"
LATER_S = 11  #: a record is on disk this long after it was decided, says the settlement, and asks for as much
BPS = 10_000
STEPS = (
    "snapshot_written", "begun", "calculated", "file_written", "filed", "sending", "sent", "confirmed", "statements_written",
    "handed_over", "notified", "accounts_written", "moved",
)  # fmt: skip
"""Where the settlement says it may be killed: it is, at each."""


class Settled(msgspec.Struct):
    """What the settlement came to, money in 1e-8; ``problems`` says in words what does not agree."""

    plans: int = 0
    charged: int = 0  #: plans that ended and had a fee to pay
    charged_e8: int = 0
    paid_e8: int = 0
    kills: list[str] = []
    statements: int = 0
    exact: int = 0  #: plans whose profit is the change of their wallet to the last unit
    problems: list[str] = []


class Books(msgspec.Struct):
    """The exchange's side of it. Wallets in 1e-8 by account."""

    before: dict[str, int]
    after: dict[str, int]
    transfers: list[TransferRow]
    started_with: dict[str, int]  #: what each follower's account was opened with
    holding: set[str]  #: accounts that still hold a position
    left: set[str] = set()  #: followers who have left: theirs is due when nothing is held any more


class Office:
    """Runs the settlement as an operator would, and kills it."""

    def __init__(self, directory: Path, daemon: Daemon, control: Control) -> None:
        self.directory, self.daemon, self.control = directory, daemon, control
        self.out = directory / "settlement"
        self.folder = self.out / PERIOD
        self.key = directory / "settlement.key"
        self.log = directory / "settlement.log"
        self.kills: list[str] = []

    async def run(self, ended_at: float) -> None:
        """Everything up to ``ended_at`` (when the daemon was gone) is settled, by a run that is killed at every step of it."""
        self.out.mkdir(mode=0o700, exist_ok=True)
        self.key.touch(mode=0o600)
        self.key.write_text(secrets.token_hex(32) + "\n")
        as_of = int(ended_at) + 1
        await asyncio.sleep(max(0.0, as_of + LATER_S - time.time()))
        when = datetime.fromtimestamp(as_of, UTC).isoformat()
        first = ["-c", str(self.daemon.config), "--as-of", when, "--period", PERIOD]
        for step in STEPS:
            # Before it has begun the command is given again as it was; then the period under way goes on.
            code = await self.settle([*([] if "begun" in self.kills else first), "--kill-at", step])
            if code == -signal.SIGKILL:
                self.kills.append(step)
            elif code:
                raise WorldError(f"the settlement ended with code {code}:\n{self.log.read_text(errors='replace')[-2000:]}")
            else:
                return  # it had nothing to do at this step, and went through

    async def settle(self, more: list[str]) -> int:
        """``copyd settle``, once; its exit code."""
        arguments = [
            "copyd.cli", "settle", "--book", str(self.out / "book"), "--out", str(self.out), "--key", str(self.key),
            "--exchange", self.control.url, *more,
        ]  # fmt: skip
        return await run_to_end("settle", arguments, self.log, self.directory, 600)

    async def verified(self) -> tuple[int, str]:
        """``copyd statement verify`` over every statement: how many, and what it says when one does not hold."""
        files = sorted(str(file) for kind in ("followers", "leaders") for file in (self.folder / kind).glob("*.json"))
        log = self.directory / "statements.log"
        for start in range(0, len(files), 1000):
            code = await run_to_end(
                "verify", ["copyd.cli", "statement", "verify", *files[start : start + 1000]], log, self.directory, 600
            )
            if code:
                return len(files), f"a statement does not hold: {log.read_text(errors='replace').strip().splitlines()[0]}"
        return len(files), ""


def read_statements(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Lines of every follower's statement, by his name."""
    found = {}
    for file in sorted((folder / "followers").glob("*.json")):
        lines = msgspec.json.decode(file.read_bytes())
        found[str(lines[0]["name"])] = lines
    return found


def judge(plans: Iterable[Plan], statements: Mapping[str, list[dict[str, Any]]], books: Books) -> Settled:
    """Statements against wallets: no unit made or lost, each payment made once, each profit what the wallet shows of it."""
    found = Settled()
    problems = found.problems
    executed = [row for row in books.transfers if row.state == "executed"]
    before, after = sum(books.before.values()), sum(books.after.values())
    if before != after:
        problems.append(f"money came or went: {after - before} units")
    if len({row.id for row in books.transfers}) != len(books.transfers):
        problems.append("a transfer was carried out twice")
    moved: Counter[str] = Counter()
    paid: Counter[tuple[str, str]] = Counter()
    for row in executed:
        moved[row.source] -= to_e8(row.amount)
        moved[row.to] += to_e8(row.amount)
        paid[row.source, row.to] += to_e8(row.amount)
        if row.to not in (LEADER, PLATFORM):
            problems.append(f"transfer {row.id} of {row.source} goes to {row.to}")
    for account, wallet in books.after.items():
        change = wallet - books.before.get(account, 0)
        if change != moved[account]:
            problems.append(f"{account}: its wallet changed by {change}, its transfers are {moved[account]}")
    for plan in plans:
        lines = statements.get(plan.follower)
        if lines is None:
            problems.append(f"{plan.follower}: no statement")
            continue
        found.plans += 1
        account = plan.account or plan.follower
        parts = paid[account, LEADER], paid[account, PLATFORM]
        judge_plan(plan, {line["what"]: line for line in lines}, books, parts, found)
    found.paid_e8 = sum(paid.values())
    return found


def judge_plan(plan: Plan, last: Mapping[str, Any], books: Books, paid: tuple[int, int], found: Settled) -> None:
    """One plan; ``last``: the last line of each kind of its statement; ``paid`` to the leader and to the platform."""
    account = plan.account or plan.follower
    nav, fee, payment = last["nav"], last["fee"], last["payment"]
    profit = to_e8(nav["nav"]) - to_e8(plan.allocation)
    earned = books.before[account] - books.started_with[account]
    if account not in books.holding:
        found.exact += profit == earned
        if profit != earned:
            found.problems.append(f"{account}: stated a profit of {profit} units, its wallet has earned {earned}")
    due = plan.follower in books.left and account not in books.holding
    if (fee["due"] == "yes") != due:
        found.problems.append(f"{account}: its fee is stated as due: {fee['due']}; it has {'' if due else 'not '}left")
    share = max(0, profit) * PERFORMANCE_BPS // BPS if due else 0
    performance, total, to_platform = (to_e8(fee[name]) for name in ("performance", "total", "platform"))
    if not share - 2 <= performance <= share:  # in the follower's favour, by the units' own rounding
        found.problems.append(f"{account}: a fee of {fee['performance']} on a profit of {profit} units")
    if total != performance or to_e8(fee["leader_part"]) + to_platform != total:
        found.problems.append(f"{account}: the parts of its fee are not the whole")
    if abs(to_platform - total * PLATFORM_SHARE_BPS // BPS) > 1:
        found.problems.append(f"{account}: {fee['platform']} of {fee['total']} is not the platform's share")
    if to_e8(payment["paid"]) != sum(paid):
        found.problems.append(f"{account}: stated as paid {payment['paid']}, transferred {sum(paid)} units")
    if total <= books.before[account] and paid != (total - to_platform, to_platform):
        found.problems.append(f"{account}: {total} units were due and could be paid; leader and platform got {paid}")
    found.charged += total > 0
    found.charged_e8 += total
