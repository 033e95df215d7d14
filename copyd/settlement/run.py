"""The settlement run: six steps, each on disk before the next begins, the same bytes however often it is interrupted.

    1 begin       the snapshot is kept in the period's folder           4 execute   ids on disk, then sent, then confirmed
    2 calculate   fees and closing accounts, recorded by digest         5 notify    statements written and handed over
    3 file        the signed transfer file                              6 move      marks, units and receivables

What is refused, is refused before step 1: nothing has been written then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec

from copyd.errors import OperatorError, SettlementRefused, TransfersInDoubt, WorldError
from copyd.settlement.book import (
    BEGUN,
    CALCULATED,
    CONFIRMED,
    FILED,
    MOVED,
    NOTIFIED,
    SENDING,
    Book,
    BookState,
    Entry,
    Run,
    Settled,
    accounts_digest,
    digest,
    read_book,
)
from copyd.settlement.calculate import PlanResult, calculate, closing_state
from copyd.settlement.executor import Confirmation, Executor, Outcome
from copyd.settlement.snapshot import Snapshot, decode_snapshot, encode_snapshot, problems
from copyd.settlement.statements import Outcomes, write_statements
from copyd.settlement.text import money
from copyd.settlement.transfers import (
    Transfer,
    encode_transfers,
    key_name,
    load_key,
    transfer_id,
    transfers_of,
    write_durably,
)

BATCH = 2_000
ASKS = 5
ASK_AGAIN_S = 0.2

POINTS = (
    "snapshot_written", "begun", "calculated", "file_written", "filed", "sending", "sent", "confirmed", "statements_written",
    "handed_over", "notified", "accounts_written", "moved",
)  # fmt: skip
"""Where a run can end without harm, in order; a test ends it at each."""

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
Notify = Callable[[Path], None]


class Report(msgspec.Struct, frozen=True):
    """What a run came to, money in 1e-8. ``step``: ``dry run``, ``filed`` (waits for an executor) or ``moved`` (done).

    ``charged``: fees crystallised; ``paid``: transfers executed (to be executed, before that); ``owed``: receivables left;
    ``accounts``: digest over all accounts of the book.
    """

    period: str
    step: str
    plans: int
    due: int
    transfers: int
    refused: int
    charged_e8: int
    paid_e8: int
    owed_e8: int
    folder: Path
    accounts: str = ""


@contextmanager
def no_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Says nothing."""
    yield lambda done: None


def settle(
    snapshot: Snapshot | None,
    *,
    book: Path,
    out: Path,
    key: Path,
    now_ns: int,
    executor: Executor | None = None,
    notify: Notify | None = None,
    dry_run: bool = False,
    progress: Progress = no_progress,
    at: Callable[[str], None] = lambda point: None,
) -> Report:
    """Settle one period, or go on with the one under way (``snapshot`` None: the one it began with). Semantics 40.

    book: directory of the settlement's journal. out: where each period gets its folder. key: file of the signing key.
    now_ns: ns UTC. executor: without one the run ends when the transfer file is written, and goes on when called with one.
    notify: gets the period's folder once all statements are in it; called again when the run was killed before it was
    recorded. dry_run: calculate and say, write nothing. at: called at each of ``POINTS``.

    Raises SettlementRefused (period settled already, in the future, snapshot that does not add up; nothing was written),
    TransfersInDoubt (run again), OperatorError (key, files), JournalError.
    """
    known = read_book(book)
    snapshot = _chosen(known, snapshot, out, now_ns)
    signing = load_key(key)
    if known.run is not None and known.run.key != key_name(signing):
        raise SettlementRefused([f"period {snapshot.period} began with key {known.run.key}, {key} is {key_name(signing)}"])
    with progress("calculate", len(snapshot.plans)) as advance:
        results = calculate(known.accounts, snapshot, advance)
    transfers = transfers_of(snapshot, results)
    folder = out / snapshot.period
    if dry_run:
        return _report("dry run", snapshot, results, {}, folder)
    with Book(book, snapshot.site) as opened:
        if (opened.state.settled, opened.state.run) != (known.settled, known.run):
            raise SettlementRefused(["another settlement ran in the meantime: look at it, then run again"])
        run = _Run(opened, snapshot, results, transfers, folder, signing, now_ns, at)
        run.begin()
        run.calculate()
        run.file()
        if executor is None and run.waiting():
            return _report("filed", snapshot, results, {}, folder)
        if executor is not None:
            with progress("execute", len(transfers)) as advance:
                run.execute(executor, advance)
        with progress("statements", 2 * len(results)) as advance:
            run.notify(notify, advance)
        run.move()
        return _report("moved", snapshot, results, run.outcomes, folder, accounts_digest(opened.state.accounts))


# --- refusals --------------------------------------------------------------------------------------------------------------


def _chosen(known: BookState, snapshot: Snapshot | None, out: Path, now_ns: int) -> Snapshot:
    """The snapshot this run settles; SettlementRefused says why it may not."""
    run = known.run
    if snapshot is None:
        if run is None:
            raise SettlementRefused(["no settlement is under way: give a snapshot to begin one"])
        snapshot = _kept(out / run.period / "snapshot.json", run.snapshot)
    wrong = problems(snapshot, now_ns)
    done = known.settled.get(snapshot.period)
    if done is not None:
        wrong.append(f"period {snapshot.period} is settled, up to {done.as_of} ns: each period is settled once")
    elif run is not None and run.period != snapshot.period:
        wrong.append(f"period {run.period} is under way: finish it first (the same command without a snapshot)")
    elif run is not None and run.snapshot != digest(encode_snapshot(snapshot)):
        wrong.append(f"period {run.period} began with another snapshot: go on without one")
    elif snapshot.as_of <= known.as_of:
        wrong.append(f"as_of {snapshot.as_of}: everything is settled up to {known.as_of}; settle what came after")
    if known.site not in (-1, snapshot.site):
        wrong.append(f"the book is of site {known.site}, the snapshot of site {snapshot.site}")
    if wrong:
        raise SettlementRefused(wrong)
    return snapshot


def _kept(path: Path, expected: str) -> Snapshot:
    try:
        body = path.read_bytes()
    except OSError as error:
        raise SettlementRefused([f"{path}: {error.strerror}: give the snapshot the period began with"]) from None
    if digest(body) != expected:
        raise SettlementRefused([f"{path}: not the snapshot the period began with: put that one back"])
    return decode_snapshot(body, str(path))


# --- the steps -------------------------------------------------------------------------------------------------------------


class _Run:
    """One period under way. Each step looks what the book says is done and does the rest."""

    def __init__(
        self, book: Book, snapshot: Snapshot, results: list[PlanResult], transfers: list[Transfer], folder: Path, key: bytes,
        now_ns: int, at: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.book, self.snapshot, self.results, self.transfers = book, snapshot, results, transfers
        self.folder, self.key, self.now_ns, self.at = folder, key, now_ns, at
        self.outcomes: dict[str, str] = {}

    def begin(self) -> None:
        """1: the snapshot in the period's folder, its digest in the book."""
        body = encode_snapshot(self.snapshot)
        path = self.folder / "snapshot.json"
        if not path.exists() or path.read_bytes() != body:
            write_durably(path, body)
        self.at("snapshot_written")
        if self.book.state.run is None:
            self.book.record(BEGUN, self.now_ns, {
                "site": self.snapshot.site, "period": self.snapshot.period, "as_of": self.snapshot.as_of,
                "snapshot": digest(body), "key": key_name(self.key),
            })  # fmt: skip
        self.at("begun")

    @property
    def run(self) -> Run:
        run = self.book.state.run
        assert run is not None
        return run

    def calculate(self) -> None:
        """2: what was calculated now must be what was calculated before a kill."""
        self.body = encode_transfers(self.snapshot, self.run.snapshot, self.transfers, self.key)
        closing = msgspec.json.encode([one.closing for one in self.results])
        calculated = digest(self.body + closing)
        if not self.run.calculated:
            self.book.record(CALCULATED, self.now_ns, calculated)
        elif self.run.calculated != calculated:
            raise OperatorError(f"period {self.run.period} was calculated otherwise when it began: finish it with that build")
        self.at("calculated")

    def file(self) -> None:
        """3: the transfer file, durable before anything can be sent."""
        path = self.folder / "transfers.jsonl"
        if not path.exists() or path.read_bytes() != self.body:
            write_durably(path, self.body)
        self.at("file_written")
        if not self.run.filed:
            self.book.record(FILED, self.now_ns, digest(self.body))
        self.at("filed")

    def waiting(self) -> list[Transfer]:
        """Transfers without a final word."""
        return [one for one in self.transfers if one.id not in self.run.confirmed]

    def execute(self, executor: Executor, advance: Callable[[int], None]) -> None:
        """4: batch by batch. Ids are on disk before they are sent; what was sent before a kill is asked about first."""
        waiting = self.waiting()
        advance(len(self.transfers) - len(waiting))
        for first in range(0, len(waiting), BATCH):
            batch = waiting[first : first + BATCH]
            sent = [one for one in batch if one.id in self.run.sending]
            fresh = [one for one in batch if one.id not in self.run.sending]
            if fresh:
                self.book.record(SENDING, self.now_ns, [one.id for one in fresh])
                self.at("sending")
            said = executor.execute(fresh) if fresh else []
            self.at("sent")
            said += [Confirmation(one.id, Outcome.IN_DOUBT) for one in sent]
            final = self._settled_doubts(executor, batch, said)
            if final:
                self.book.record(CONFIRMED, self.now_ns, {one.id: (one.outcome.value, one.reason) for one in final})
                self.at("confirmed")
            if len(final) < len(batch):
                raise TransfersInDoubt(
                    f"period {self.run.period}: {len(self.waiting())} of {len(self.transfers)} transfers have no final answer; "
                    "nothing was sent twice; run again to go on"
                )
            advance(len(batch))

    def _settled_doubts(self, executor: Executor, batch: list[Transfer], said: list[Confirmation]) -> list[Confirmation]:
        """Ask about every id in doubt; only one the executor never decided is sent again, under the same id."""
        by_id = {one.id: one for one in batch}
        final = {one.id: one for one in said if one.final and one.id in by_id}
        for attempt in range(ASKS):
            doubts = [one for number, one in by_id.items() if number not in final]
            if not doubts:
                break
            if attempt:
                time.sleep(ASK_AGAIN_S * attempt)
            answers = [executor.query(one.id) for one in doubts]
            absent = [by_id[one.id] for one in answers if one.outcome is Outcome.ABSENT]
            answers += executor.execute(absent) if absent else []
            final.update({one.id: one for one in answers if one.final and one.id in by_id})
        return [final[number] for number in by_id if number in final]

    def notify(self, notify: Notify | None, advance: Callable[[int], None]) -> None:
        """5: statements on disk, then handed over."""
        self.outcomes = {number: outcome for number, (outcome, _) in self.run.confirmed.items()}
        if not self.run.notified:
            rows = [(one, outcomes_of(self.snapshot, one, self.outcomes)) for one in self.results]
            try:
                index = write_statements(self.folder, self.snapshot, rows, advance)
            except OSError as error:
                raise WorldError(f"{error.filename or self.folder}: {error.strerror}; run again to go on") from error
            os.sync()
            self.at("statements_written")
            if notify is not None:
                notify(self.folder)
            self.at("handed_over")
            self.book.record(NOTIFIED, self.now_ns, digest(index))
        self.at("notified")

    def move(self) -> None:
        """6: the accounts take their closing values, all of them with the last record."""
        entries = []
        for one in self.results:
            outcomes = outcomes_of(self.snapshot, one, self.outcomes)
            state = closing_state(one, outcomes[0] == "refused", outcomes[1] == "refused")
            entries.append(Entry(one.plan.follower, one.plan.leader, state))
        self.book.record_accounts(self.now_ns, entries)
        self.at("accounts_written")
        run = self.run
        accounts = {**self.book.state.accounts, **{(one.follower, one.leader): one.state for one in entries}}
        self.book.record(MOVED, self.now_ns, Settled(
            run.period, run.as_of, run.snapshot, run.filed, len(entries), accounts_digest(accounts)
        ))  # fmt: skip
        self.at("moved")
        self.book.checkpoint()


def outcomes_of(snapshot: Snapshot, result: PlanResult, outcomes: dict[str, str]) -> Outcomes:
    """What became of a plan's two transfers."""
    leader, platform = (
        outcomes.get(transfer_id(snapshot.site, snapshot.period, result.plan.plan, part), "") if amount else ""
        for part, amount in (("leader", result.payment.leader_e8), ("platform", result.payment.platform_e8))
    )
    return leader, platform


def _report(
    step: str, snapshot: Snapshot, results: list[PlanResult], outcomes: dict[str, str], folder: Path, accounts: str = ""
) -> Report:
    refused = {number for number, outcome in outcomes.items() if outcome == "refused"}
    transfers = transfers_of(snapshot, results)
    unpaid = sum(one.amount_e8 for one in transfers if one.id in refused)
    return Report(
        period=snapshot.period, step=step, plans=len(results), due=sum(one.due for one in results), transfers=len(transfers),
        refused=len(refused), charged_e8=sum(one.fee.total_e8 for one in results),
        paid_e8=sum(one.amount_e8 for one in transfers) - unpaid,
        owed_e8=sum(one.closing.receivable_e8 for one in results) + unpaid, folder=folder, accounts=accounts,
    )  # fmt: skip


def report_lines(report: Report) -> list[tuple[str, str]]:
    """A report for people: name and text."""
    return [
        ("period", report.period),
        ("step", report.step),
        ("plans", f"{report.plans:,}, {report.due:,} due"),
        ("fees charged", money(report.charged_e8)),
        ("transfers", f"{report.transfers:,}, {report.refused:,} refused"),
        ("paid" if report.step == "moved" else "to be paid", money(report.paid_e8)),
        ("owed", money(report.owed_e8)),
        ("folder", str(report.folder)),
    ]
