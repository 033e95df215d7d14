"""The settlement run: refused before anything is written, killed anywhere and finished with the same bytes, paid once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from copyd.core.fees import E8
from copyd.errors import CopydError, OperatorError, SettlementRefused, TransfersInDoubt
from copyd.settlement import PlanSnapshot, Report, Snapshot, encode_snapshot, read_transfers, settle, verify_statement
from copyd.settlement.book import read_book
from copyd.settlement.executor import Confirmation, Outcome
from copyd.settlement.run import POINTS
from copyd.settlement.transfers import Transfer, load_key
from tests.settlement.people import KEY, NOW, WEEK_1, Bank, everything, first_week, second_week


class Office:
    """One operator's folders."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.book, self.out, self.key = folder, folder / "book", folder / "out", folder / "key"
        folder.mkdir(exist_ok=True)
        self.key.write_text(KEY)
        self.key.chmod(0o600)
        self.bank = Bank(folder / "bank")

    def settle(self, snapshot: Snapshot | None, **more: object) -> Report:
        arguments: dict[str, object] = {"executor": self.bank, "now_ns": NOW, **more}
        return settle(snapshot, book=self.book, out=self.out, key=self.key, **arguments)  # type: ignore[arg-type]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path / "office")


def test_two_weeks(office: Office) -> None:
    """Fees, transfers and receivables of two periods, in numbers that can be done by hand."""
    first = office.settle(first_week())
    # gain 10 + flows (withdrawn a quarter of 100 gain, the rest now) 10 + stop 20 + guard 10 % of about 100
    assert (first.step, first.plans, first.due, first.refused) == ("moved", 6, 5, 0)
    paid = {(source, to): amount for _, source, to, amount, _ in office.bank.log}
    assert paid["follower gain wallet", "lea wallet"] == "7" and paid["follower gain wallet", "house"] == "3"
    assert paid["ann wallet", "bob wallet"] == "6.3" and paid["ann wallet", "house"] == "2.7"  # 9 free of 20
    assert first.owed_e8 == 11 * E8
    accounts = read_book(office.book).accounts
    assert accounts["ann", "bob"].account.units == 0 and accounts["ann", "bob"].account.receivable_e8 == 11 * E8
    second = office.settle(second_week())
    assert second.charged_e8 == 11 * E8 - 0  # the gain of 110 at the old rate
    assert second.paid_e8 == 22 * E8 and second.owed_e8 == 0
    accounts = read_book(office.book).accounts
    assert accounts["follower gain", "lea"].account.terms.performance_bps == 2_000
    assert all(verify_statement(path) for path in office.out.glob("*/*ers/*"))


def test_dry_run_writes_nothing(office: Office) -> None:
    """The figures, and not a byte on disk."""
    before = everything(office.folder)
    report = office.settle(first_week(), dry_run=True)
    assert report.step == "dry run" and report.transfers == 7 and report.charged_e8 > 0
    assert everything(office.folder) == before


def test_two_runs_give_the_same_bytes(office: Office, tmp_path: Path) -> None:
    """Another machine, another time of day: the same files and the same accounts."""
    again = Office(tmp_path / "again")
    one, other = office.settle(first_week()), again.settle(first_week(), now_ns=NOW + 12_345)
    assert everything(office.out) == everything(again.out)
    assert one.accounts == other.accounts


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_it_ends_with_the_same_bytes_and_pays_once(office: Office, tmp_path: Path, point: str) -> None:
    """SIGKILL at each point, then the same command again: same files, same accounts, each transfer carried out once."""
    whole = Office(tmp_path / "whole")
    expected = whole.settle(first_week())

    def end(at: str) -> None:
        if at == point:
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                office.settle(first_week(), at=end)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        # the second time it is killed again, unless the step is done and its point not passed any more
        assert os.WIFSIGNALED(status) or point in ("sending", "confirmed", "moved")
    known = read_book(office.book)
    if not known.settled:
        assert office.settle(None if known.run else first_week()).accounts == expected.accounts
    with pytest.raises(SettlementRefused, match="settled once"):
        office.settle(first_week())
    assert everything(office.out) == everything(whole.out)
    assert sorted(office.bank.log) == sorted(whole.bank.log)
    assert len({line[0] for line in office.bank.log}) == len(office.bank.log) == 7
    assert read_book(office.book).accounts == read_book(whole.book).accounts


def changed(**more: object) -> Snapshot:
    return msgspec.structs.replace(first_week(), **more)  # type: ignore[arg-type]


def with_plan(change: Callable[[PlanSnapshot], PlanSnapshot]) -> Snapshot:
    plans = first_week().plans
    return changed(plans=[change(plans[0]), *plans[1:]])


def replaced(**more: object) -> Snapshot:
    return with_plan(lambda plan: msgspec.structs.replace(plan, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("snapshot", "sentence"),
    [
        (changed(as_of=NOW + 10**9), "lies 1 s in the future"),
        (changed(period="../x"), "period '../x'"),
        (changed(platform_account=""), "platform_account ''"),
        (changed(plans=first_week().plans * 2), "plan gain: listed twice"),
        (replaced(allocation_e8=-1), "plan gain: allocation is negative"),
        (replaced(nav_e8=1_100 * E8), "plan gain: NAV is 1100, but 0 before, flows 1000, trades 100.00000007"),
        (replaced(leader_account="follower gain wallet"), "would pay a fee to itself"),
        (replaced(flows=[]), "reconcile the plan"),
        (replaced(flows=[msgspec.structs.replace(first_week().plans[0].flows[0], ts=WEEK_1 + 1)]), "later than as_of"),
        (replaced(terms=msgspec.structs.replace(first_week().plans[4].terms), samples=[]), "no sample of those 72 h"),
        (replaced(follower="ann", leader="bob"), "ann follows bob with plan"),
    ],
)
def test_what_cannot_be_settled_is_refused_before_anything_is_written(office: Office, snapshot: Snapshot, sentence: str) -> None:
    """Every problem at once, one sentence each."""
    before = everything(office.folder)
    with pytest.raises(SettlementRefused) as refused:
        office.settle(snapshot)
    assert sentence in str(refused.value)
    assert everything(office.folder) == before


def test_a_period_is_settled_once_and_in_order(office: Office) -> None:
    """Twice, out of order, another snapshot under way, another site, another key: refused."""
    with pytest.raises(SettlementRefused, match="no settlement is under way"):
        office.settle(None)
    assert office.settle(first_week(), executor=None).step == "filed"
    with pytest.raises(SettlementRefused, match="2026-W02 is under way"):
        office.settle(second_week())
    with pytest.raises(SettlementRefused, match="began with another snapshot"):
        office.settle(changed(as_of=WEEK_1 + 1))
    office.key.write_text("77" * 32)
    with pytest.raises(SettlementRefused, match="began with key"):
        office.settle(None)
    office.key.write_text(KEY)
    assert office.settle(None).step == "moved"
    for again in (first_week(), changed(as_of=WEEK_1 + 1)):
        with pytest.raises(SettlementRefused, match="2026-W02 is settled"):
            office.settle(again)
    with pytest.raises(SettlementRefused, match="everything is settled up to"):
        office.settle(changed(period="other"))
    with pytest.raises(SettlementRefused, match="the book is of site 7"):
        office.settle(msgspec.structs.replace(second_week(), site=8))
    assert len(office.bank.log) == 7


def test_a_refused_transfer_is_owed_again(office: Office) -> None:
    """The exchange says no: the fee is charged, the mark moves, the money is a receivable of the next period."""
    office.bank.poor = ("follower gain wallet",)
    report = office.settle(first_week())
    assert report.refused == 2 and report.owed_e8 == 21 * E8
    account = read_book(office.book).accounts["follower gain", "lea"].account
    assert (account.receivable_leader_e8, account.receivable_platform_e8) == (7 * E8, 3 * E8)
    office.bank.poor = ()
    assert office.settle(second_week()).owed_e8 == 0
    assert [line[3] for line in office.bank.log if line[1] == "follower gain wallet"] == ["7", "3", "14.7", "6.3"]
    assert all(verify_statement(path) for path in office.out.glob("*/*ers/*"))


class Silent(Bank):
    """Carries out and does not answer; what it is asked it answers, or not either."""

    deaf = False
    loses = False

    def execute(self, transfers: list[Transfer]) -> list[Confirmation]:  # type: ignore[override]
        if not self.loses:
            super().execute(transfers)
        self.loses = False
        return [Confirmation(one.id, Outcome.IN_DOUBT) for one in transfers]

    def query(self, number: str) -> Confirmation:
        return Confirmation(number, Outcome.IN_DOUBT) if self.deaf else super().query(number)


@pytest.mark.parametrize("loses", [False, True])
def test_no_answer_is_asked_about_and_never_paid_twice(office: Office, loses: bool) -> None:
    """Executed or lost, the answer lacking: the query tells, and only what was never decided goes out again."""
    bank = Silent(office.folder / "bank")
    bank.loses = loses
    assert office.settle(first_week(), executor=bank).step == "moved"
    assert len(bank.log) == 7


def test_an_executor_that_says_nothing_leaves_everything_where_it_was(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """In doubt for good: no statement, no mark moved; the next run asks before it sends."""
    monkeypatch.setattr("copyd.settlement.run.ASK_AGAIN_S", 0)
    bank = Silent(office.folder / "bank")
    bank.deaf = True
    with pytest.raises(TransfersInDoubt, match="7 of 7 transfers have no final answer"):
        office.settle(first_week(), executor=bank)
    assert read_book(office.book).accounts == {} and not (office.out / "2026-W02/followers").exists()
    assert office.settle(None).step == "moved"
    assert len(bank.log) == 7


def test_the_transfer_file_balances_and_names_the_payments(office: Office) -> None:
    """Debits equal credits, and the file says what the bank did."""
    office.settle(first_week())
    file = read_transfers(office.out / "2026-W02/transfers.jsonl", load_key(office.key))
    assert sum(file.net_e8.values()) == 0
    assert [one.id for one in file.transfers] == [line[0] for line in office.bank.log]
    assert file.header["period"] == "2026-W02" and file.header["as_of"] == WEEK_1


@pytest.mark.parametrize(("content", "mode", "sentence"), [
    ("5a" * 32, 0o644, "chmod 600"), ("zz", 0o600, "not hexadecimal"), ("5a", 0o600, "1 bytes"), (None, 0, "openssl rand"),
])  # fmt: skip
def test_a_key_that_will_not_do(office: Office, content: str | None, mode: int, sentence: str) -> None:
    """Readable by others, no hex, too short, not there: said with what to do."""
    office.key.unlink()
    if content is not None:
        office.key.write_text(content)
        office.key.chmod(mode)
    with pytest.raises(OperatorError, match=sentence):
        office.settle(first_week())


def test_the_notifier_gets_the_folder_with_all_statements(office: Office) -> None:
    """Once, after execution and before the marks move."""
    seen: list[object] = []

    def notify(folder: Path) -> None:
        seen.append((folder.name, len(list(folder.glob("followers/*.json"))), len(list(folder.glob("leaders/*.csv")))))

    office.settle(first_week(), notify=notify, at=seen.append)
    assert seen.index("confirmed") < seen.index(("2026-W02", 5, 2)) < seen.index("notified") < seen.index("moved")


def test_the_snapshot_reads_back(office: Office) -> None:
    """What was settled is in the folder, canonical, whatever the order of the plans was."""
    turned = changed(plans=first_week().plans[::-1])
    assert encode_snapshot(turned) == encode_snapshot(first_week())
    office.settle(turned)
    assert (office.out / "2026-W02/snapshot.json").read_bytes() == encode_snapshot(first_week())


def test_the_daemons_journal_is_no_book(office: Office) -> None:
    """A directory that holds another journal is refused and not written."""
    from copyd.journal import Journal

    with Journal.open(office.book, site=7, map_size=1 << 20, runway_bytes=0) as journal:
        journal.wait(journal.append(1, 0, [b"x"]))
    with pytest.raises(CopydError, match="no settlement record"):
        office.settle(first_week())
