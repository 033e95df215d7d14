"""Statements against wallets: every unit that does not add up is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from copyd.demo.exchange import TransferRow
from copyd.demo.history import E8, Plan
from copyd.demo.settling import Books, judge

PLANS = [Plan(follower="anna", allocation="1000"), Plan(follower="bert", allocation="500")]


def statement(profit: str, due: str, fee: str, parts: tuple[str, str]) -> list[dict[str, Any]]:
    nav = f"{1000 + float(profit):.8f}"
    return [
        {"what": "statement", "name": "anna"}, {"what": "nav", "nav": nav},
        {"what": "fee", "due": due, "performance": fee, "total": fee, "leader_part": parts[0], "platform": parts[1]},
        {"what": "payment", "paid": fee},
    ]  # fmt: skip


class Case:
    """Anna gained 100 and left: 10 are due, 8 to the leader and 2 to the platform. Bert goes on, 20 down."""

    def __init__(self) -> None:
        self.statements = {"anna": statement("100", "yes", "10.00000000", ("8.00000000", "2.00000000"))}
        self.statements["bert"] = statement("-520", "no", "0", ("0", "0"))  # 1000 - 520 = 480 of his 500
        before = {"anna": 1600 * E8, "bert": 480 * E8, "leader": 5 * E8, "platform": 0}
        after = {"anna": 1590 * E8, "bert": 480 * E8, "leader": 13 * E8, "platform": 2 * E8}
        self.books = Books(before, after, [
            TransferRow(0, "a", "anna", "leader", "8", "executed"), TransferRow(1, "b", "anna", "platform", "2", "executed"),
        ], {"anna": 1500 * E8, "bert": 500 * E8}, set(), {"anna"})  # fmt: skip

    def judged(self) -> list[str]:
        return judge(PLANS, self.statements, self.books).problems


def test_what_adds_up_is_let_through() -> None:
    case = Case()
    found = judge(PLANS, case.statements, case.books)
    assert found.problems == []
    assert (found.plans, found.charged, found.charged_e8, found.paid_e8, found.exact) == (2, 1, 10 * E8, 10 * E8, 2)


def a_unit_lost(case: Case) -> None:
    case.books.after["leader"] -= 1


def paid_twice(case: Case) -> None:
    case.books.transfers.append(case.books.transfers[0])


def paid_otherwise(case: Case) -> None:
    case.statements["anna"][3]["paid"] = "9.99999999"


def profit_not_the_wallets(case: Case) -> None:
    case.books.before["bert"] += 1
    case.books.after["bert"] += 1


def fee_on_a_loss(case: Case) -> None:
    case.statements["bert"][2] |= {"performance": "1", "total": "1", "leader_part": "1"}


def fee_too_high(case: Case) -> None:
    case.statements["anna"][2]["performance"] = "10.00000001"


def nobody_charged(case: Case) -> None:
    case.statements["anna"] = statement("100", "no", "0", ("0", "0"))
    case.books.transfers.clear()
    case.books.after = dict(case.books.before)


def charged_and_not_paid(case: Case) -> None:
    case.statements["anna"][3]["paid"] = "0"
    case.books.transfers.clear()
    case.books.after = dict(case.books.before)


def paid_to_another(case: Case) -> None:
    case.books.transfers[0].to = "bert"
    case.books.after |= {"leader": 5 * E8, "bert": 488 * E8}


def no_share_for_the_platform(case: Case) -> None:
    case.statements["anna"][2] |= {"leader_part": "10.00000000", "platform": "0"}
    case.books.transfers[:] = [TransferRow(0, "a", "anna", "leader", "10", "executed")]
    case.books.after |= {"leader": 15 * E8, "platform": 0}


def parts_that_are_not_the_whole(case: Case) -> None:
    case.statements["anna"][2]["platform"] = "2.00000001"


def no_statement(case: Case) -> None:
    del case.statements["bert"]


@pytest.mark.parametrize("spoil", [
    a_unit_lost, paid_twice, paid_otherwise, profit_not_the_wallets, fee_on_a_loss, fee_too_high, parts_that_are_not_the_whole,
    no_statement, nobody_charged, charged_and_not_paid, paid_to_another, no_share_for_the_platform,
])  # fmt: skip
def test_every_unit_that_does_not_add_up_is_found(spoil: Callable[[Case], None]) -> None:
    case = Case()
    spoil(case)
    assert case.judged()


def test_a_position_still_open_is_not_held_against_the_wallet() -> None:
    """What it is worth is not in the wallet yet."""
    case = Case()
    profit_not_the_wallets(case)
    case.books.holding = {"bert"}
    assert case.judged() == []
