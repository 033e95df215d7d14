"""``copyd settle`` and ``copyd statement``: thin, parse, run, show."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from copyd.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from copyd.settlement.executor import Executor
    from copyd.settlement.run import Report
    from copyd.settlement.snapshot import Snapshot

COMMITTED_NS = 10_000_000_000
"""A record is on disk this long after it was decided: what is settled up to then stays what it is."""
settle = App(name="settle", help="Charge the fees of a period: calculate, sign, pay, state, move the marks.")
statement = App(name="statement", help="Statements of followers and leaders.")


@settle.default
def settle_period(
    snapshot: Path | None = None,
    /,
    *,
    book: Path = Path("var/settlement/book"),
    out: Path = Path("var/settlement"),
    key: Path = Path("/etc/copyd/settlement.key"),
    config: Annotated[Path | None, Parameter(alias="-c")] = None,
    as_of: str = "",
    period: str = "",
    exchange: str = "",
    confirmations: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    kill_at: Annotated[str, Parameter(show=False)] = "",
) -> int:
    """Settle a period, or go on with the one under way.

    Without --exchange and --confirmations it ends when the transfer file is written; run it again with one of them.
    After a kill or a failure, run it again: each transfer is carried out once, each file has the same bytes.

    Example: copyd settle -c copyd.yaml --as-of 2026-11-16T00:00Z --period 2026-W46 --exchange http://127.0.0.1:9472

    Parameters
    ----------
    snapshot
        Every plan's worth and what happened to it (JSON), instead of the journal; with neither, the period under way goes on.
    config
        The configuration: its journal is settled, by its fee terms.
    as_of
        Up to when, ISO 8601 with a zone, or "now". With --config.
    period
        Name of the settlement, used once. Default: the ISO week of --as-of.
    book
        Directory of the settlement's own journal.
    out
        Where each period gets a folder: snapshot, transfers, statements.
    key
        The signing key (openssl rand -hex 32, readable by you alone).
    exchange
        Address of the exchange that carries the transfers out.
    confirmations
        Or what became of them, as JSON lines of id and state (executed, refused).
    dry_run
        Calculate and say; write and pay nothing.
    json
        JSON even on a terminal.
    kill_at
        For drills: SIGKILL at this point of the run (``copyd.settlement.run.POINTS``).
    """
    from copyd.runtime.clock import SystemClock
    from copyd.settlement.run import POINTS
    from copyd.settlement.run import settle as run
    from copyd.settlement.snapshot import decode_snapshot

    if kill_at and kill_at not in POINTS:
        raise UsageError(f"--kill-at {kill_at}: one of {', '.join(POINTS)}")

    def at(point: str) -> None:
        if point == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    if exchange and confirmations is not None:
        raise UsageError("give --exchange or --confirmations, not both")
    now = SystemClock().now_ns()
    decoded = None if snapshot is None else decode_snapshot(_read(snapshot), str(snapshot))
    if as_of:
        if config is None or snapshot is not None:
            raise UsageError("--as-of settles the journal of --config; a snapshot file has its own time")
        decoded = _from_journal(config, book, as_of, period, now)
    report = run(
        decoded, book=book, out=out, key=key, now_ns=now, executor=_executor(exchange, confirmations),
        dry_run=dry_run, progress=_progress, at=at,
    )  # fmt: skip
    _show(report, json)
    return 0


def _from_journal(config: Path, book: Path, as_of: str, period: str, now: int) -> Snapshot:
    """The snapshot of the journal that the configuration names."""
    from copyd.settlement.book import read_book
    from copyd.settlement.source import JournalSource, terms_of
    from copyd.yamlcheck import load_config

    loaded = load_config(config)
    at = now - COMMITTED_NS if as_of == "now" else _time(as_of)
    if at > now - COMMITTED_NS:
        raise UsageError(f"--as-of {as_of}: a record decided by then may not be written yet: give a time that is 10 s past")
    known = read_book(book)
    source = JournalSource(
        Path(loaded.journal.path), site=loaded.site.id, platform_account=loaded.fees.platform_account,
        leader_accounts={leader.id: leader.credential for leader in loaded.leaders}, terms=terms_of(loaded),
        since=known.as_of,
        ended={pair for pair, state in known.accounts.items() if not state.account.units and state.account.ts_crystallised},
    )  # fmt: skip
    year, week, _ = datetime.fromtimestamp(at // 10**9, UTC).isocalendar()
    return source.snapshot(period or f"{year}-W{week:02}", at)


def _time(text: str) -> int:
    """ISO 8601 with a zone, in ns."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--as-of {text!r}: give a time like 2026-11-16T00:00Z, or now") from None
    if moment.tzinfo is None:
        raise UsageError(f"--as-of {text!r}: say the zone, as in 2026-11-16T00:00Z")
    return int(moment.timestamp()) * 10**9


@statement.command
def verify(*statements: Path) -> int:
    """Recompute statements from themselves alone. Exit 65 when one does not hold, naming its first wrong line.

    Example: copyd statement verify var/settlement/2026-W02/followers/ann.json

    Parameters
    ----------
    statements
        Files, JSON or CSV.
    """
    from copyd.settlement.text import money
    from copyd.settlement.verification import StatementWrong, verify_statement

    if not statements:
        raise UsageError("name at least one statement")
    wrong: list[StatementWrong] = []
    with _progress("verify", len(statements)) as advance:
        for path in statements:
            try:
                found = verify_statement(path)
                if len(statements) == 1:
                    print(f"{path}: holds: {found.of} {found.name}, period {found.period}, {found.plans} plans, "
                          f"paid {money(found.paid_e8)}, owed {money(found.owed_e8)}")  # fmt: skip
            except StatementWrong as error:
                wrong.append(error)
                print(error, file=sys.stderr)
            advance(1)
    if len(statements) > 1:
        print(f"{len(statements) - len(wrong)} of {len(statements)} statements hold")
    return StatementWrong.exit_code if wrong else 0


@statement.command
def transfers(file: Path, /, *, key: Path = Path("/etc/copyd/settlement.key")) -> int:
    """Check a transfer file against its key. Exit 65 when a line is not as it was signed.

    Example: copyd statement transfers var/settlement/2026-W02/transfers.jsonl --key settlement.key

    Parameters
    ----------
    file
        The transfer file.
    key
        The key it was signed with.
    """
    from copyd.settlement.transfers import load_key, read_transfers

    found = read_transfers(file, load_key(key))
    header = found.header
    print(f"{file}: as signed: period {header['period']}, {header['transfers']} transfers of {header['total']} in all, "
          f"{len(found.net_e8)} accounts, debits equal credits")  # fmt: skip
    return 0


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None


def _executor(exchange: str, confirmations: Path | None) -> Executor | None:
    from copyd.settlement.executor import ConfirmationFile, ExchangeExecutor

    if exchange:
        return ExchangeExecutor(exchange)
    return ConfirmationFile(confirmations) if confirmations is not None else None


def _show(report: Report, as_json: bool) -> None:
    """A report for people on a terminal, JSON otherwise."""
    if as_json or not sys.stdout.isatty():
        import msgspec

        sys.stdout.write(msgspec.json.encode({**msgspec.structs.asdict(report), "folder": str(report.folder)}).decode() + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    from copyd.settlement.run import report_lines

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in report_lines(report):
        table.add_row(name, text)
    Console().print(table)
