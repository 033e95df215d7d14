"""Checking a statement with nothing but the statement: every number recomputed, the first wrong line named."""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import pairwise, zip_longest
from pathlib import Path

import msgspec
import orjson

from copyd.core.fees import FeeTerms, Period, UnitAccount
from copyd.errors import OperatorError
from copyd.settlement.calculate import PlanResult, PlanState, settle_plan
from copyd.settlement.snapshot import Flow, PlanSnapshot, Sample, Trade
from copyd.settlement.statements import (
    COLUMNS,
    FIRST_LINE,
    FORMAT,
    Line,
    Outcomes,
    check_of,
    checked,
    closing_of,
    follower_of,
    head_line,
    paid_of,
    plan_lines,
    render_csv,
    render_json,
)
from copyd.settlement.text import money, money_of, per_unit_of, units_of

CHANGED = "this line was changed after it was written (its check does not hold)"


class StatementWrong(OperatorError):
    """A statement that does not add up; ``line`` is the first wrong line of the file."""

    exit_code = 65

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}")
        self.line = line


class Verified(msgspec.Struct, frozen=True):
    """A statement that holds."""

    of: str
    name: str
    period: str
    plans: int
    paid_e8: int
    owed_e8: int


def verify_statement(path: Path | str) -> Verified:
    """Recompute a statement from its own inputs; no journal, no network. StatementWrong names the first wrong line and why.

    Inputs are the opening, flows, samples, trades, worth, what was free and what became of the transfers; all else follows
    by the rules of ``core.fees`` and must be there to the last digit.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StatementWrong(path, 1, "not text") from None
    lines = _parse(path, text)
    broken = _first_broken_check(lines)  # None when all hold: then whatever is wrong was written so, or all checks anew
    try:
        expected, result = _expected(lines)
    except _WrongAt as error:
        raise _wrong(path, error.index, broken, str(error)) from None
    for index, (line, right) in enumerate(zip_longest(lines, checked(expected))):
        if line != right:
            raise _wrong(path, index, broken, _difference(line, right))
    body = render_csv(lines) if path.suffix == ".csv" else render_json(lines)
    for number, (said, written) in enumerate(zip_longest(text.split("\n"), body.decode().split("\n")), 1):
        if said != written:
            raise StatementWrong(path, number, "not written as statements are written: it was edited")
    return result


class _WrongAt(Exception):
    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


def _wrong(path: Path, index: int, broken: int | None, why: str) -> StatementWrong:
    """A broken check is where the change is; arithmetic, which may show elsewhere, says more where both point at one line."""
    if broken is None or broken == index:
        return StatementWrong(path, index + FIRST_LINE, why)
    return StatementWrong(path, broken + FIRST_LINE, CHANGED)


def _difference(line: Line | None, right: Line | None) -> str:
    if line is None:
        return f"a line is missing here: {(right or {}).get('what')}"
    if right is None:
        return f"a line too many: {line.get('what')}"
    for name in [*right, *line]:
        if name != "check" and line.get(name) != right.get(name):
            return f"{line.get('what')}: {name} is {line.get(name, 'missing')}, must be {right.get(name, 'absent')}"
    return CHANGED


def _first_broken_check(lines: list[Line]) -> int | None:
    """Index of the first line whose check does not hold."""
    before = ""
    for index, line in enumerate(lines):
        said = line.get("check", "")
        if check_of(before, {name: text for name, text in line.items() if name != "check"}) != said:
            return index
        before = said
    return None


def _parse(path: Path, text: str) -> list[Line]:
    rows = text.split("\n")
    if path.suffix == ".csv":
        names = next(csv.reader(rows[:1]), [])
        if len(set(names)) != len(names) or not set(names) <= set(COLUMNS):
            raise StatementWrong(path, 1, "not the columns of a statement")
        if rows[-1] != "":
            raise StatementWrong(path, len(rows), "the last line is not whole")
        return [_row(path, number, names, row) for number, row in enumerate(rows[1:-1], FIRST_LINE)]
    if rows[0] != "[" or rows[-2:] != ["]", ""]:
        raise StatementWrong(path, 1 if rows[0] != "[" else len(rows), "not a statement: a list, one line each")
    return [_object(path, number, row) for number, row in enumerate(rows[1:-2], FIRST_LINE)]


def _row(path: Path, number: int, names: list[str], row: str) -> Line:
    values = next(csv.reader([row]), [])
    if len(values) != len(names):
        raise StatementWrong(path, number, f"{len(values)} values for {len(names)} columns")
    return {name: value for name, value in zip(names, values, strict=True) if value != ""}


def _object(path: Path, number: int, row: str) -> Line:
    try:
        line = orjson.loads(row.removesuffix(","))
    except ValueError:
        line = None
    if not isinstance(line, dict) or not all(isinstance(value, str) for value in line.values()):
        raise StatementWrong(path, number, "not a line of a statement: an object of texts")
    return line


def _expected(lines: list[Line]) -> tuple[list[Line], Verified]:
    """The lines that follow from the inputs, and what they say in sum."""
    if not lines:
        raise _WrongAt(0, "an empty statement")
    head = _Reading(lines, 0)
    if head.text("what") != "statement" or head.text("format") != FORMAT:
        raise _WrongAt(0, f"not a statement of the format {FORMAT!r}")
    site, period, as_of, name = head.whole("site"), head.text("period"), head.whole("as_of"), head.text("name")
    if head.text("of") == "leader":
        return _expected_leader(lines, site, period, as_of, name)
    starts = [index for index, line in enumerate(lines) if line.get("what") == "opening"]
    if starts[:1] != [1]:
        raise _WrongAt(1, "an opening must follow")
    expected, paid, owed = [head_line(site, period, as_of, "follower", name)], 0, 0
    for first, end in pairwise([*starts, len(lines)]):
        result, outcomes = _plan_read(lines, first, end, name, as_of)
        expected += plan_lines(site, period, as_of, result, outcomes)
        paid += paid_of(result, outcomes)
        owed += closing_of(result, outcomes).account.receivable_e8
    return expected, Verified("follower", name, period, len(starts), paid, owed)


class _Reading:
    """One line being read; every fault names it."""

    def __init__(self, lines: list[Line], index: int) -> None:
        self.line, self.index = lines[index], index

    def text(self, name: str) -> str:
        if name not in self.line:
            raise _WrongAt(self.index, f"{self.line.get('what')}: {name} is missing")
        return self.line[name]

    def _as(self, name: str, read: Callable[[str], int]) -> int:
        try:
            return read(self.text(name))
        except ValueError as error:
            raise _WrongAt(self.index, f"{self.line.get('what')}: {name}: {error}") from None

    def whole(self, name: str) -> int:
        return self._as(name, _whole)

    def money(self, name: str) -> int:
        return self._as(name, money_of)

    def units(self, name: str) -> int:
        return self._as(name, units_of)

    def per_unit(self, name: str) -> int:
        return self._as(name, per_unit_of)

    def average(self) -> int | None:
        return self.per_unit("average") if "average" in self.line else None

    def yes(self, name: str) -> bool:
        if self.text(name) not in ("yes", "no"):
            raise _WrongAt(self.index, f"{self.line.get('what')}: {name} is {self.line[name]}: yes or no")
        return self.line[name] == "yes"

    def terms(self, prefix: str) -> FeeTerms:
        try:
            return FeeTerms(
                performance_bps=self.whole(f"{prefix}_performance_bps"),
                management_bps_per_year=self.whole(f"{prefix}_management_bps_per_year"),
                management_e8=self.money(f"{prefix}_management"),
                subscription_e8=self.money(f"{prefix}_subscription"),
                platform_share_bps=self.whole(f"{prefix}_platform_share_bps"),
                period=Period(self.text(f"{prefix}_period")),
                average_guard=self.yes(f"{prefix}_average_guard"),
            )
        except ValueError as error:
            raise _WrongAt(self.index, str(error)) from None

    def state(self) -> PlanState:
        account = UnitAccount(
            terms=self.terms("terms"),
            next_terms=self.terms("next") if "next_performance_bps" in self.line else None,
            units=self.units("units"),
            mark=self.per_unit("mark"),
            price=self.per_unit("price"),
            pending_e8=self.money("pending"),
            management_e8=self.money("management"),
            subscription_e8=self.money("subscription"),
            receivable_leader_e8=self.money("receivable_leader"),
            receivable_platform_e8=self.money("receivable_platform"),
            ts_accrued=self.whole("ts_accrued"),
            ts_crystallised=self.whole("ts_crystallised"),
            ts_closed=self.whole("ts_closed"),
        )
        return PlanState(account, self.money("nav"), self.money("unrealised"))


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or str(int(text)) != text:
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _plan_read(lines: list[Line], first: int, end: int, follower: str, as_of: int) -> tuple[PlanResult, Outcomes]:
    """One plan's inputs, and what follows from them."""
    reading = [_Reading(lines, index) for index in range(first, end)]
    kinds = ("nav", "payment", "flow", "trade", "sample")
    found = {what: [one for one in reading if one.line.get("what") == what] for what in kinds}
    if len(found["nav"]) != 1 or len(found["payment"]) != 1:
        raise _WrongAt(end - 1, "a plan has one line of nav and one of payment")
    head, nav, payment = reading[0], found["nav"][0], found["payment"][0]
    opening = head.state()
    plan = PlanSnapshot(
        plan=head.text("plan"), follower=follower, leader=head.text("leader"), follower_account=head.text("follower_account"),
        leader_account=head.text("leader_account"), nav_e8=nav.money("nav"), free_e8=payment.money("free"),
        allocation_e8=nav.money("allocation"), unrealised_e8=nav.money("unrealised"), funding_e8=nav.money("funding"),
        flows=[Flow(one.whole("ts"), one.money("amount"), one.money("nav_before")) for one in found["flow"]],
        trades=[
            Trade(one.whole("ts"), one.text("symbol"), one.money("realised"), one.money("commission")) for one in found["trade"]
        ],
        samples=[Sample(one.whole("ts"), one.money("nav")) for one in found["sample"]],
        terms=nav.terms("next"), stopped=nav.yes("stopped"),
    )  # fmt: skip
    try:
        result = settle_plan(opening, plan, as_of, plan.free_e8)
    except ValueError as error:
        raise _WrongAt(nav.index, str(error)) from None
    outcomes = tuple(
        payment.text(f"{part}_state") if amount else ""
        for part, amount in (("leader", result.payment.leader_e8), ("platform", result.payment.platform_e8))
    )
    if not {*outcomes} <= {"executed", "refused", ""}:
        raise _WrongAt(payment.index, f"payment: {' and '.join(outcomes)}: a transfer is executed or refused")
    return result, (outcomes[0], outcomes[1])


def _expected_leader(lines: list[Line], site: int, period: str, as_of: int, name: str) -> tuple[list[Line], Verified]:
    expected, total, paid, owed = [head_line(site, period, as_of, "leader", name)], 0, 0, 0
    for index in range(1, len(lines) - 1):
        said = _Reading(lines, index)
        before = UnitAccount(
            terms=said.terms("terms"), units=said.units("units"), mark=said.per_unit("mark"), price=said.per_unit("price"),
            pending_e8=said.money("pending"), management_e8=said.money("management"), subscription_e8=said.money("subscription"),
            receivable_leader_e8=said.money("owed_before"), ts_accrued=as_of,
        )  # fmt: skip
        try:
            line = follower_of(said.text("plan"), said.text("follower"), as_of, before, said.money("nav"), said.average(),
                                said.yes("stopped"), said.yes("due"), said.money("paid"))
        except ValueError as error:
            raise _WrongAt(index, str(error)) from None
        expected.append(line)
        total += money_of(line["leader_part"])
        paid += money_of(line["paid"])
        owed += money_of(line["owed"])
    expected.append({"what": "total", "leader_part": money(total), "paid": money(paid), "owed": money(owed)})
    return expected, Verified("leader", name, period, len(lines) - 2, paid, owed)
