"""Double entry: no entry makes or loses money, and the books of a journal are what the daemon believes of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.core.engine import LEGS, PLANS
from copyd.core.rows import LegRow, PlanRow
from copyd.inspect.ledger import COMMISSION, FOLLOWERS, MARKET, Books, books_of, ledger
from tests.inspect.daemon import Daemon

NAMES = st.sampled_from("abcd")
AMOUNT = st.integers(0, 1000)
OPERATION = st.one_of(
    st.tuples(st.just("transfer"), NAMES, NAMES, AMOUNT), st.tuples(st.just("reserve"), NAMES, NAMES, AMOUNT),
    st.tuples(st.just("post"), st.integers(0, 9), AMOUNT), st.tuples(st.just("void"), st.integers(0, 9), AMOUNT),
    st.tuples(st.just("close"), st.integers(0, 9)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(OPERATION, max_size=60))
def test_debits_equal_credits_after_every_entry(operations: list[tuple]) -> None:
    """And what is pending is what was reserved and neither posted nor voided; what is refused changes nothing."""
    books = Books()
    for number, (what, *rest) in enumerate(operations):
        keys = list(books.pending)
        before = msgspec.json.encode(books.accounts), dict(books.pending)
        try:
            if what == "transfer":
                books.transfer(*rest)
            elif what == "reserve":
                books.reserve(number, *rest)
            elif keys:
                key = keys[rest[0] % len(keys)]
                getattr(books, what)(key, *rest[1:])
        except ValueError:
            assert (msgspec.json.encode(books.accounts), books.pending) == before
        assert list(books.faults()) == []
    for key in list(books.pending):
        books.close(key)
    assert not any(account.pending_e8 for account in books.accounts.values())
    assert sum(account.balance_e8 for account in books.accounts.values()) == 0


def test_a_fill_posts_what_was_reserved_and_the_orders_end_voids_the_rest() -> None:
    """In numbers: 100 set aside, 60 posted in two fills, 40 free again."""
    books = Books()
    books.transfer(FOLLOWERS, "plan", 1000)
    books.reserve("order", "plan", "margin", 100)
    books.post("order", 50)
    books.post("order", 10)
    assert (books.accounts["plan"].balance_e8, books.accounts["plan"].pending_e8) == (940, 40)
    with pytest.raises(ValueError, match="41 of 40"):
        books.post("order", 41)
    books.close("order")
    assert (books.accounts["plan"].balance_e8, books.accounts["plan"].pending_e8) == (940, 0)
    assert books.accounts["margin"].balance_e8 == 60


@pytest.mark.parametrize("seed", range(6))
def test_the_books_of_a_journal_are_what_the_daemon_believes(tmp_path: Path, seed: int) -> None:
    """Plan by plan: free money and margin, what is pending, and in all: nothing came from nowhere."""
    daemon = Daemon(tmp_path / "journal", seed)
    daemon.trade_for(60)
    daemon.close()
    found = books_of(tmp_path / "journal")
    assert list(found.faults()) == []
    accounts = found.books.accounts
    assert found.books.entries > 20 and any(name.startswith("margin") for name in accounts)
    assert sum(account.balance_e8 for account in accounts.values()) == 0


def test_a_belief_that_the_entries_do_not_make_is_said(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "journal", 3)
    daemon.trade_for(60)
    daemon.close()
    found = books_of(tmp_path / "journal")
    columns = found.engine.columns
    row = PlanRow.unpack(columns.get(PLANS, 0))
    row.realised_e8 += 1
    columns.put(PLANS, 0, row.pack())
    assert any("it is worth" in text for text in found.faults())
    row.realised_e8 -= 1
    columns.put(PLANS, 0, row.pack())
    leg = LegRow.unpack(columns.get(LEGS, 0))
    leg.margin_e8 += 1
    columns.put(LEGS, 0, leg.pack())
    assert any("of margin" in text for text in found.faults())


@pytest.mark.parametrize(("field", "says"), [("commission_e8", "were charged"), ("realised_e8", "make a profit")])
def test_what_the_orders_do_not_make_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, says: str) -> None:
    """A daemon that books a fee twice, or ten units from nowhere: its books balance, and its orders tell otherwise."""
    from copyd.core import engine as core
    from copyd.core.engine import Engine

    original = Engine._HANDLERS[core.Reports]

    def reports(self: Engine, now: int, value: core.Reports, out: core.Outputs) -> None:
        original(self, now, value, out)
        for plan in range(self.columns.count(PLANS)):
            row = PlanRow.unpack(self.columns.get(PLANS, plan))
            setattr(row, field, getattr(row, field) + 10)
            self.columns.put(PLANS, plan, row.pack())

    monkeypatch.setitem(Engine._HANDLERS, core.Reports, reports)
    daemon = Daemon(tmp_path / "journal", 3)
    daemon.trade_for(60)
    daemon.close()
    assert any(says in text for text in books_of(tmp_path / "journal").faults())


def test_the_command_prints_a_trial_balance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon(tmp_path / "journal", 2)
    daemon.trade_for(40)
    daemon.close()
    assert ledger(tmp_path / "journal") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("debits", "plans", FOLLOWERS, MARKET))
    assert ledger(tmp_path / "journal", "f1", as_json=True) == 0
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert set(answer["accounts"]) <= {"plan f1 lead", "margin f1 lead"} and COMMISSION not in answer["accounts"]
