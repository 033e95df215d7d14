"""Statements: what each follower and each leader is told, every number recomputable from the statement alone.

A statement is a list of lines, each a set of named texts, in two files of the same content: JSON (one line of the file per
line) and CSV (one column per name). Money, units and NAV per unit are exact decimals, times ns UTC.

    follower   statement · per plan: opening, flow…, sample…, trade…, nav, fee, payment, closing
    leader     statement · one line per follower · total

``check`` on every line is a digest of the line and of the check before it: a number that was changed, a line lost or moved shows
at that line, also where no arithmetic depends on it. It is no signature: who rewrites all of a statement rewrites the checks
as well, and then the arithmetic from opening to closing must still hold, and the closing must be the next opening.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from copyd.children import end_with_parent
from copyd.core import fees
from copyd.core.fees import FeeTerms, UnitAccount
from copyd.errors import WorldError
from copyd.settlement.calculate import PlanResult, PlanState, closing_state
from copyd.settlement.snapshot import Flow, Sample, Snapshot
from copyd.settlement.text import money, per_unit, units
from copyd.settlement.transfers import PARTS, transfer_id

FORMAT = "copyd statement 1"
FIRST_LINE = 2  # of the file: JSON opens its list on line 1, CSV names its columns there
PARTIES = 500
"""Statements one process writes at a time."""
Line = dict[str, str]
Outcomes = tuple[str, str]
"""What became of the transfers to leader and platform: executed, refused, or empty where there was none."""
Results = Iterable[tuple[PlanResult, Outcomes]]

COLUMNS = (
    "what", "format", "of", "name", "site", "period", "as_of", "plan", "follower", "leader", "follower_account",
    "leader_account", "ts", "symbol", "amount", "nav_before", "realised", "commission", "profit", "nav", "nav_per_unit",
    "allocation", "unrealised", "funding", "flows", "trades", "free", "units", "mark", "price", "average", "gain", "due",
    "stopped", "performance", "management", "subscription", "total", "platform", "leader_part", "paid", "leader_id",
    "leader_state", "platform_id", "platform_state", "pending", "receivable_leader", "receivable_platform", "owed_before",
    "owed", "ts_accrued", "ts_crystallised", "ts_closed", "terms_performance_bps", "terms_management_bps_per_year",
    "terms_management", "terms_subscription", "terms_platform_share_bps", "terms_period", "terms_average_guard",
    "next_performance_bps", "next_management_bps_per_year", "next_management", "next_subscription",
    "next_platform_share_bps", "next_period", "next_average_guard", "check",
)  # fmt: skip


# --- a follower's lines ----------------------------------------------------------------------------------------------------


def follower_lines(site: int, period: str, as_of: int, name: str, results: Results) -> Iterator[Line]:
    """One follower's statement over all his plans."""
    yield head_line(site, period, as_of, "follower", name)
    for result, outcomes in results:
        yield from plan_lines(site, period, as_of, result, outcomes)


def head_line(site: int, period: str, as_of: int, of: str, name: str) -> Line:
    return {
        "what": "statement", "format": FORMAT, "of": of, "name": name, "site": str(site), "period": period, "as_of": str(as_of),
    }  # fmt: skip


def plan_lines(site: int, period: str, as_of: int, result: PlanResult, outcomes: Outcomes) -> Iterator[Line]:
    plan = result.plan
    yield {
        "what": "opening", "plan": plan.plan, "follower": plan.follower, "leader": plan.leader,
        "follower_account": plan.follower_account, "leader_account": plan.leader_account, **_state(result.opening),
    }  # fmt: skip
    for step in result.steps:
        yield _flow(step.event, step.account) if isinstance(step.event, Flow) else _sample(step.event, step.value)
    profit = 0
    for trade in plan.trades:
        profit += trade.realised_e8 - trade.fee_e8
        yield {
            "what": "trade", "ts": str(trade.ts), "symbol": trade.symbol, "realised": money(trade.realised_e8),
            "commission": money(trade.fee_e8), "profit": money(profit),
        }  # fmt: skip
    yield _nav(as_of, result, profit)
    yield _fee(result)
    yield _payment(site, period, result, outcomes)
    yield {"what": "closing", "plan": plan.plan, **_state(closing_of(result, outcomes))}


def _flow(flow: Flow, after: UnitAccount) -> Line:
    return {
        "what": "flow", "ts": str(flow.ts), "amount": money(flow.amount_e8), "nav_before": money(flow.nav_before_e8),
        "units": units(after.units), "mark": per_unit(after.mark), "pending": money(after.pending_e8),
        "management": money(after.management_e8), "subscription": money(after.subscription_e8),
    }  # fmt: skip


def _sample(sample: Sample, value: int) -> Line:
    return {"what": "sample", "ts": str(sample.ts), "nav": money(sample.nav_e8), "nav_per_unit": per_unit(value)}


def _nav(as_of: int, result: PlanResult, profit: int) -> Line:
    plan, before = result.plan, result.before
    average = {"average": per_unit(result.average)} if result.average is not None else {}
    return {
        "what": "nav", "ts": str(as_of), "nav": money(plan.nav_e8), "allocation": money(plan.allocation_e8),
        "unrealised": money(plan.unrealised_e8), "funding": money(plan.funding_e8),
        "flows": money(sum(flow.amount_e8 for flow in plan.flows)), "trades": money(profit), "units": units(before.units),
        "mark": per_unit(before.mark), "nav_per_unit": per_unit(fees.nav_per_unit(before, plan.nav_e8)), **average,
        **_terms("next", plan.terms), "stopped": _yes(plan.stopped),
    }  # fmt: skip


def _fee(result: PlanResult) -> Line:
    fee = result.fee
    return {
        "what": "fee", "due": _yes(result.due), "performance": money(fee.performance_e8), "management": money(fee.management_e8),
        "subscription": money(fee.subscription_e8), "total": money(fee.total_e8), "leader_part": money(fee.leader_e8),
        "platform": money(fee.platform_e8),
    }  # fmt: skip


def _payment(site: int, period: str, result: PlanResult, outcomes: Outcomes) -> Line:
    payment = result.payment
    line = {
        "what": "payment", "free": money(result.free_e8), "leader_part": money(payment.leader_e8),
        "platform": money(payment.platform_e8), "total": money(payment.total_e8), "paid": money(paid_of(result, outcomes)),
    }  # fmt: skip
    for part, amount, outcome in zip(PARTS, (payment.leader_e8, payment.platform_e8), outcomes, strict=True):
        if amount:
            line |= {f"{part}_id": transfer_id(site, period, result.plan.plan, part), f"{part}_state": outcome}
    return line


def paid_of(result: PlanResult, outcomes: Outcomes) -> int:
    return (outcomes[0] == "executed") * result.payment.leader_e8 + (outcomes[1] == "executed") * result.payment.platform_e8


def closing_of(result: PlanResult, outcomes: Outcomes) -> PlanState:
    return closing_state(result, outcomes[0] == "refused", outcomes[1] == "refused")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@lru_cache(maxsize=1_000)
def _terms(prefix: str, terms: FeeTerms) -> Line:
    """The same for all plans on the same terms; the caller copies it."""
    return {
        f"{prefix}_performance_bps": str(terms.performance_bps),
        f"{prefix}_management_bps_per_year": str(terms.management_bps_per_year),
        f"{prefix}_management": money(terms.management_e8),
        f"{prefix}_subscription": money(terms.subscription_e8),
        f"{prefix}_platform_share_bps": str(terms.platform_share_bps),
        f"{prefix}_period": str(terms.period),
        f"{prefix}_average_guard": _yes(terms.average_guard),
    }


def _state(state: PlanState) -> Line:
    account = state.account
    line = {
        "nav": money(state.nav_e8), "unrealised": money(state.unrealised_e8), "units": units(account.units),
        "mark": per_unit(account.mark), "price": per_unit(account.price), "pending": money(account.pending_e8),
        "management": money(account.management_e8), "subscription": money(account.subscription_e8),
        "receivable_leader": money(account.receivable_leader_e8), "receivable_platform": money(account.receivable_platform_e8),
        "ts_accrued": str(account.ts_accrued), "ts_crystallised": str(account.ts_crystallised),
        "ts_closed": str(account.ts_closed), **_terms("terms", account.terms),
    }  # fmt: skip
    return line if account.next_terms is None else {**line, **_terms("next", account.next_terms)}


# --- a leader's lines ------------------------------------------------------------------------------------------------------


def leader_lines(site: int, period: str, as_of: int, name: str, results: Results) -> Iterator[Line]:
    """One leader's statement over all his followers."""
    yield head_line(site, period, as_of, "leader", name)
    total = paid = owed = 0
    for result, outcomes in results:
        received = (outcomes[0] == "executed") * result.payment.leader_e8
        yield follower_of(result.plan.plan, result.plan.follower, as_of, result.before, result.plan.nav_e8, result.average,
                           result.plan.stopped, result.due, received)
        total += result.fee.leader_e8
        paid += received
        owed += closing_of(result, outcomes).account.receivable_leader_e8
    yield {"what": "total", "leader_part": money(total), "paid": money(paid), "owed": money(owed)}


def follower_of(
    plan: str, follower: str, as_of: int, before: UnitAccount, nav_e8: int, average: int | None, stopped: bool, due: bool,
    paid: int,
) -> Line:
    _, fee = fees.crystallise(before, as_of, nav_e8, average, stop=stopped) if due else (before, fees.Fee())
    owed_before = before.receivable_leader_e8
    return {
        "what": "follower", "plan": plan, "follower": follower, "nav": money(nav_e8), "units": units(before.units),
        "mark": per_unit(before.mark), "nav_per_unit": per_unit(fees.nav_per_unit(before, nav_e8)),
        **({} if average is None else {"average": per_unit(average)}), **_terms("terms", before.terms), "stopped": _yes(stopped),
        "due": _yes(due), "pending": money(before.pending_e8), "performance": money(fee.performance_e8),
        "management": money(before.management_e8), "subscription": money(before.subscription_e8), "total": money(fee.total_e8),
        "platform": money(fee.platform_e8), "leader_part": money(fee.leader_e8), "owed_before": money(owed_before),
        "paid": money(paid), "owed": money(owed_before + fee.leader_e8 - paid), "price": per_unit(before.price),
    }  # fmt: skip


# --- files -----------------------------------------------------------------------------------------------------------------


def checked(lines: Iterable[Line]) -> Iterator[Line]:
    """The lines with their checks."""
    check = ""
    for line in lines:
        check = check_of(check, line)
        yield {**line, "check": check}


def check_of(before: str, line: Line) -> str:
    body = before.encode() + orjson.dumps(line, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def render_json(lines: list[Line]) -> bytes:
    """A JSON list, one line of the file per line of the statement."""
    return b"[\n" + b",\n".join(map(orjson.dumps, lines)) + b"\n]\n"


def render_csv(lines: list[Line]) -> bytes:
    """The same with one column per name that occurs."""
    used = set().union(*lines)
    columns = [name for name in COLUMNS if name in used]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[line.get(name, "") for name in columns] for line in lines])
    return text.getvalue().encode()


def write_statements(
    folder: Path, snapshot: Snapshot, results: list[tuple[PlanResult, Outcomes]], advance: Callable[[int], None]
) -> bytes:
    """Every statement of a period below ``folder``: the index of all files (SHA-256 and name), which is written as well.

    Many are written by one process per core; the bytes are the same. WorldError where one of them dies.
    """
    index: list[str] = []
    for of in ("follower", "leader"):
        (folder / f"{of}s").mkdir(parents=True, exist_ok=True)
        parties: dict[str, list[tuple[PlanResult, Outcomes]]] = {}
        for result in results:
            parties.setdefault(getattr(result[0].plan, of), []).append(result)
        names = sorted(parties)
        batches = [names[first : first + PARTIES] for first in range(0, len(names), PARTIES)]
        for lines, plans in _in_processes(partial(_write, folder, snapshot, of, parties), batches):
            index += lines
            advance(plans)
    body = "".join(index).encode()
    (folder / "statements.sha256").write_bytes(body)
    return body


Written = tuple[list[str], int]
"""Lines of the index, and how many plans stand in the files."""


def _write(folder: Path, snapshot: Snapshot, of: str, parties: dict[str, list[Any]], names: list[str]) -> Written:
    """The statements of these parties, two files each."""
    lines_of = follower_lines if of == "follower" else leader_lines
    index: list[str] = []
    for name in names:
        lines = list(checked(lines_of(snapshot.site, snapshot.period, snapshot.as_of, name, parties[name])))
        for suffix, body in (("json", render_json(lines)), ("csv", render_csv(lines))):
            file = f"{of}s/{_file_name(name)}.{suffix}"
            (folder / file).write_bytes(body)
            index.append(f"{hashlib.sha256(body).hexdigest()}  {file}\n")
    return index, sum(len(parties[name]) for name in names)


def _in_processes(work: Callable[[list[str]], Written], batches: list[list[str]]) -> Iterator[Written]:
    """The batches' results in their order. The processes are forks: they have the results already, nothing is copied to them.

    None outlives this one (Linux); what a killed run has left half written the next one writes again, to the same bytes.
    """
    if len(batches) < 2:
        yield from map(work, batches)
        return
    global _work
    _work = work
    workers = min(len(batches), os.cpu_count() or 1)
    try:
        with ProcessPoolExecutor(workers, get_context("fork"), initializer=end_with_parent) as pool:
            yield from pool.map(_worked, batches)
    except BrokenProcessPool as error:
        raise WorldError(f"a process that wrote statements died ({error}); run again to go on") from error
    finally:
        _work = None


_work: Callable[[list[str]], Written] | None = None
"""What a fork is to do: it finds it here."""


def _worked(batch: list[str]) -> Written:
    assert _work is not None
    return _work(batch)


def _file_name(name: str) -> str:
    """A name as a file: the same for the same name, another for another, never too long."""
    plain = quote(name, safe=" @+")
    return plain if len(plain) <= 200 else f"{plain[:160]}-{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"
