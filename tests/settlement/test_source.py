"""The snapshot made from a journal: every plan's NAV is what its flows, trades and funding make of it (semantics 37, 40)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from copyd.core.engine import PLANS, Command
from copyd.core.fees import FeeTerms
from copyd.core.rows import PlanRow
from copyd.errors import SettlementRefused
from copyd.settlement.calculate import PlanState, calculate
from copyd.settlement.snapshot import Snapshot, encode_snapshot, problems
from copyd.settlement.source import JournalSource
from tests.inspect.daemon import Daemon

E8 = 10**8


def source(journal: Path, since: int = 0, **more: object) -> JournalSource:
    """On a copy: the daemon of the test has the journal open in this process."""
    copy = Path(tempfile.mkdtemp(dir=journal.parent)) / "journal"
    shutil.copytree(journal, copy)
    return JournalSource(
        copy, site=7, platform_account="platform", leader_accounts={"lead": "leader-account"}, terms=FeeTerms(), since=since,
        **more,  # type: ignore[arg-type]
    )


def states(snapshot: Snapshot, before: dict[tuple[str, str], PlanState]) -> dict[tuple[str, str], PlanState]:
    """The books after a settlement; a NAV that does not add up raises."""
    return {
        (result.plan.follower, result.plan.leader): PlanState(result.closing, result.plan.nav_e8, result.plan.unrealised_e8)
        for result in calculate(before, snapshot)
    }


def trade(daemon: Daemon, events: int) -> None:
    """Until all of it is on disk: it is the disk that is settled."""
    daemon.trade_for(events)
    assert daemon.journal is not None
    daemon.journal.flush()


def allocate(daemon: Daemon, follower: str, change_e8: int) -> None:
    """A deposit into a plan, or a withdrawal."""
    index = daemon.engine.plan_index(follower)
    spec = dict(daemon.engine.names.specs[index])
    spec["allocation_e8"] += change_e8
    daemon.do(Command("change_plan", {"follower": follower, "leader": "lead", "spec": spec}, "test"))


@pytest.mark.parametrize("seed", range(4))
def test_nav_adds_up_over_three_settlements(tmp_path: Path, seed: int) -> None:
    """From flows, trades and open profit alone, with deposits, withdrawals and trades by hand in between."""
    daemon = Daemon(tmp_path / "journal", 40 + seed)
    books: dict[tuple[str, str], PlanState] = {}
    since, realised = 0, 0
    for part in range(3):
        trade(daemon, 25)
        allocate(daemon, "f3", 500 * E8)
        allocate(daemon, "f4", 10 * E8)
        trade(daemon, 10)
        snapshot = source(tmp_path / "journal", since).snapshot(f"p{part}", daemon.now)
        assert problems(snapshot, daemon.now) == []
        books = states(snapshot, books)
        since = daemon.now
        realised += sum(trade.realised_e8 for plan in snapshot.plans for trade in plan.trades)
        daemon.now += 1
    rows = [PlanRow.unpack(daemon.engine.columns.get(PLANS, index)) for index in range(len(daemon.engine.names.followers))]
    assert realised == sum(row.realised_e8 for row in rows)
    daemon.close()


def test_two_snapshots_of_a_journal_are_the_same_bytes(tmp_path: Path) -> None:
    """Also when the journal has grown since: as_of decides."""
    daemon = Daemon(tmp_path / "journal", 5)
    trade(daemon, 20)
    at = daemon.now
    daemon.now += 1
    first = encode_snapshot(source(tmp_path / "journal").snapshot("p", at))
    trade(daemon, 20)
    assert encode_snapshot(source(tmp_path / "journal").snapshot("p", at)) == first
    daemon.close()


def test_a_plan_whose_end_was_settled_is_left_out(tmp_path: Path) -> None:
    """It has nothing left to charge."""
    daemon = Daemon(tmp_path / "journal", 6)
    trade(daemon, 5)
    snapshot = source(tmp_path / "journal", ended={("f1", "lead")}).snapshot("p", daemon.now)
    assert "f1" not in [plan.follower for plan in snapshot.plans] and len(snapshot.plans) == 11
    daemon.close()


def test_a_changed_journal_settles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record whose decisions are not what the rules give is refused by its number."""
    daemon = Daemon(tmp_path / "journal", 7)
    trade(daemon, 5)
    daemon.close()
    import copyd.settlement.source as module
    from copyd.inspect.rebuild import Finding

    monkeypatch.setattr(module, "apply", lambda engine, record, recorded: (None, [Finding(record.seq, "record 1: differs")]))
    with pytest.raises(SettlementRefused, match="record 1: differs"):
        source(tmp_path / "journal").snapshot("p", daemon.now)
