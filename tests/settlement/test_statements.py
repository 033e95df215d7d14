"""Statements: recomputed from themselves, and any number that was changed is found at its line."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import quote

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.core.fees import E8, NAV_ONE, UNIT
from copyd.settlement import verify_statement
from copyd.settlement.calculate import PlanState, calculate, closing_state
from copyd.settlement.statements import COLUMNS, checked, follower_lines, leader_lines, render_csv, render_json, write_statements
from copyd.settlement.text import money, money_of, scaled, scaled_text
from copyd.settlement.verification import StatementWrong
from tests.settlement.people import first_week, second_week


@cache
def statements() -> dict[str, bytes]:
    """Every statement of two weeks, in both forms."""
    states: dict[tuple[str, str], PlanState] = {}
    made: dict[str, bytes] = {}
    for snapshot in (first_week(), second_week()):
        results = [(one, ("executed" * bool(one.payment.leader_e8), "refused" * bool(one.payment.platform_e8)))
                   for one in calculate(states, snapshot)]  # fmt: skip
        for of, lines_of in (("follower", follower_lines), ("leader", leader_lines)):
            for name in sorted({getattr(one.plan, of) for one, _ in results}):
                of_name = [row for row in results if getattr(row[0].plan, of) == name]
                lines = list(checked(lines_of(snapshot.site, snapshot.period, snapshot.as_of, name, of_name)))
                made[f"{snapshot.period} {of} {quote(name)}.json"] = render_json(lines)
                made[f"{snapshot.period} {of} {quote(name)}.csv"] = render_csv(lines)
        for one, outcomes in results:
            states[one.plan.follower, one.plan.leader] = closing_state(one, False, bool(outcomes[1]))
    return made


NAMES = sorted(statements())
GAIN = "2026-W02 follower follower%20gain.json"


@pytest.mark.parametrize("name", NAMES)
def test_a_statement_holds_by_itself(name: str, tmp_path: Path) -> None:
    """No journal, no other file: the rules alone give every line again."""
    path = tmp_path / name
    path.write_bytes(statements()[name])
    verified = verify_statement(path)
    assert verified.of in name and verified.period in name


def numbers(body: bytes) -> list[tuple[int, int, int]]:
    """Every digit run of a statement: line, begin, end."""
    found, line, begin = [], 1, 0
    for row in body.decode().split("\n"):
        found += [(line, begin + m.start(), begin + m.end()) for m in re.finditer(r"[0-9]+", row)]
        begin += len(row) + 1
        line += 1
    return found


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_single_changed_number_is_found_at_its_line(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Amounts, prices, times, rates, ids, names, checks: whatever digits are replaced, the first wrong line is that line."""
    name = data.draw(st.sampled_from(NAMES))
    text = statements()[name].decode()
    line, begin, end = data.draw(st.sampled_from(numbers(statements()[name])))
    old = text[begin:end]
    new = data.draw(st.one_of(st.just(str(int(old) + 1)), st.just("0" + old), st.from_regex(r"[0-9]{1,12}", fullmatch=True)))
    if new == old:
        return
    path = tmp_path_factory.mktemp("s") / name
    path.write_text(text[:begin] + new + text[end:])
    with pytest.raises(StatementWrong) as wrong:
        verify_statement(path)
    assert wrong.value.line == line, f"{text[begin - 30 : end + 5]} -> {new}: {wrong.value}"


def edited(name: str, folder: Path, *changes: tuple[str, str]) -> Path:
    """A statement changed by somebody who knows how the checks are made."""
    text = statements()[name].decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    lines = [{k: v for k, v in line.items() if k != "check"} for line in orjson.loads(text)]
    path = folder / name
    path.write_bytes(render_json(list(checked(lines))))
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('"performance":"10"', '"performance":"11"'), "fee: performance is 11, must be 10"),
        (('"realised":"110.00000007"', '"realised":"120.00000007"'), "reconcile the plan"),
        (('"what":"fee","due":"yes"', '"what":"fee","due":"no"'), "fee: due is no, must be yes"),
        (('"units":"1000"', '"units":"1001"'), "flow: units is 1001, must be 1000"),
        (('"leader_state":"executed"', '"leader_state":"refused"'), "payment: paid is 7, must be 0"),
        (('"free":"10000000"', '"free":"1e7"'), "is no decimal"),
        (('"stopped":"no"', '"stopped":"maybe"'), "yes or no"),
        (('"platform":"3"', '"platform":"2"'), "must be 3"),
    ],
)
def test_who_rewrites_the_checks_is_found_by_the_arithmetic(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    """The checks can be made anew by anybody; the sums cannot."""
    path = edited(GAIN, tmp_path, change)
    with pytest.raises(StatementWrong, match=re.escape(says)):
        verify_statement(path)


def test_lines_lost_added_or_turned_are_found(tmp_path: Path) -> None:
    """The first place that is not as it was."""
    for name in NAMES:
        rows = statements()[name].decode().split("\n")
        last = len(rows) - (3 if name.endswith("json") else 2)
        for index in range(1, last + 1):
            for changed in (rows[:index] + rows[index + 1 :], [*rows[: index + 1], rows[index], *rows[index + 1 :]]):
                path = tmp_path / name
                path.write_text("\n".join(changed))
                with pytest.raises(StatementWrong) as wrong:
                    verify_statement(path)
                assert wrong.value.line <= index + 2


NONSENSE = [b"", b"[]", b"[\n]\n", b"\xff", b"[\n{}\n]\n", b"[\n[1]\n]\n", b'[\n{"what":1}\n]\n', b"what\n", b"a,b\n1\n"]


@pytest.mark.parametrize("body", NONSENSE)
@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_what_is_no_statement_is_refused_not_crashed_on(body: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(body)
    with pytest.raises(StatementWrong):
        verify_statement(path)


def test_both_forms_say_the_same_and_every_name_has_its_column() -> None:
    """CSV has a column for every name that JSON uses."""
    for name in NAMES:
        if name.endswith("json"):
            assert set().union(*orjson.loads(statements()[name])) <= set(COLUMNS)
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_the_closing_is_the_next_opening() -> None:
    """Two statements of one follower join without a seam."""
    before, after = (orjson.loads(statements()[one]) for one in (GAIN, GAIN.replace("W02", "W03")))
    skipped = ("what", "check", "follower", "leader", "follower_account", "leader_account")
    closing, opening = ({k: v for k, v in line.items() if k not in skipped} for line in (before[-1], after[1]))
    assert closing == opening


def test_names_become_files_and_never_the_same_one(tmp_path: Path) -> None:
    """Odd and long names have files of their own, inside the folder."""
    names = ["a/b", "a%2Fb", "..", "é" * 120, "é" * 119 + "e", "a b"]
    plans = [
        msgspec.structs.replace(plan, follower=name, follower_account=f"w{number}")
        for number, (name, plan) in enumerate(zip(names, first_week().plans, strict=True))
    ]
    snapshot = msgspec.structs.replace(first_week(), plans=plans)
    results = [(one, ("executed" * bool(one.payment.leader_e8), "executed" * bool(one.payment.platform_e8)))
               for one in calculate({}, snapshot)]  # fmt: skip
    index = write_statements(tmp_path, snapshot, results, lambda n: None)
    files = sorted(path for path in tmp_path.glob("followers/*.json"))
    assert len(files) == len(names) and all(verify_statement(path).name in names for path in files)
    assert index.count(b"\n") == 2 * (len(names) + 2)


@settings(deadline=None)
@given(value=st.integers(-(10**40), 10**40), one=st.sampled_from([E8, UNIT, NAV_ONE]))
def test_numbers_read_back_and_have_one_spelling(value: int, one: int) -> None:
    """Every integer has one text, and that text alone reads back."""
    text = scaled_text(value, one)
    assert scaled(text, one) == value
    for other in (f"+{text}", f"0{text}", f" {text}", f"{text}0" if "." in text else f"{text}.0", text.replace("-", "−") + "x"):
        with pytest.raises(ValueError, match=r"decimal|written"):
            scaled(other, one)


def test_minus_zero_has_no_spelling() -> None:
    assert money(0) == "0"
    with pytest.raises(ValueError, match="written"):
        money_of("-0")
