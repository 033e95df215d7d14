"""Average cost: what each fill realises, in tables a trader can check with a pencil."""

from __future__ import annotations

import random

import pytest

from copyd.serve.ledger import OPENING, REDUCTION, Position, adjust, book, restate

# signed lots, value, fee -> [(kind, lots, value, fee, realised, position after, its cost, round trip)]
HISTORIES = {
    "bought at 100 and 110, sold half at 120, the rest at 90": [
        ((10, 1000, 1), [(OPENING, 10, 1000, 1, 0, 10, 1000, 1)]),
        ((10, 1100, 1), [(OPENING, 10, 1100, 1, 0, 20, 2100, 1)]),
        ((-10, 1200, 1), [(REDUCTION, 10, 1200, 1, 150, 10, 1050, 1)]),
        ((-10, 900, 1), [(REDUCTION, 10, 900, 1, -150, 0, 0, 1)]),
    ],
    "sold short at 50, bought back at 40": [
        ((-4, 200, 0), [(OPENING, 4, 200, 0, 0, -4, 200, 1)]),
        ((4, 160, 0), [(REDUCTION, 4, 160, 0, 40, 0, 0, 1)]),
    ],
    "a flip: long 2 at 100, sells 5 at 110, buys 3 at 100": [
        ((2, 200, 2), [(OPENING, 2, 200, 2, 0, 2, 200, 1)]),
        ((-5, 550, 5), [(REDUCTION, 2, 220, 2, 20, 0, 0, 1), (OPENING, 3, 330, 3, 0, -3, 330, 2)]),
        ((3, 300, 3), [(REDUCTION, 3, 300, 3, 30, 0, 0, 2)]),
    ],
    "thirds: the last reduction takes the cost that is left": [
        ((3, 100, 0), [(OPENING, 3, 100, 0, 0, 3, 100, 1)]),
        ((-1, 34, 0), [(REDUCTION, 1, 34, 0, 1, 2, 67, 1)]),
        ((-1, 34, 0), [(REDUCTION, 1, 34, 0, 1, 1, 34, 1)]),
        ((-1, 34, 0), [(REDUCTION, 1, 34, 0, 0, 0, 0, 1)]),
    ],
}


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_in_numbers(name: str) -> None:
    """Each fill realises against the average cost of what is held; a flip is two parts and two round trips."""
    position = Position()
    for fill, expected in HISTORIES[name]:
        entries = book(position, *fill)
        assert [(entry.kind, *entry[2:]) for entry in entries] == expected
        assert {entry.side for entry in entries} == {1 if fill[0] > 0 else -1}


@pytest.mark.parametrize("seed", range(20))
def test_no_money_is_made_or_lost_by_rounding(seed: int) -> None:
    """Whenever the position is flat, what was realised is exactly what was received minus what was paid."""
    rng = random.Random(seed)
    position, cash, realised, fees, paid = Position(), 0, 0, 0, 0
    for _ in range(300):
        lots = rng.choice([-1, 1]) * rng.randint(1, 9) if rng.random() < 0.8 or not position.lots else -position.lots
        value, fee = abs(lots) * rng.randint(90, 110) + rng.randint(0, 3), rng.randint(-1, 5)
        entries = book(position, lots, value, fee)
        cash -= value if lots > 0 else -value
        realised += sum(entry.realised_e8 for entry in entries)
        fees, paid = fees + fee, paid + sum(entry.fee_e8 for entry in entries)
        held = position.cost_e8 if position.lots >= 0 else -position.cost_e8
        assert cash == realised - held
        assert fees == paid
        assert sum(entry.lots for entry in entries) == abs(lots)
        assert (position.cost_e8 > 0) == (position.lots != 0)


def test_a_better_value_corrects_the_cost_while_it_is_held_and_the_gain_afterwards() -> None:
    """Bought 10 for 1000, later known to be 1010: the cost says so; sold, later known for 5 more: the gain does."""
    position = Position()
    book(position, 10, 1000)
    assert adjust(position, OPENING, 1, 10, 3)[2:] == (0, 10, 3, 0, 10, 1010, 1)
    assert book(position, -10, 1100)[0].realised_e8 == 90
    assert adjust(position, REDUCTION, -1, 5, 0).realised_e8 == 5
    assert adjust(position, OPENING, 1, 7, 0).realised_e8 == -7  # what it had cost is told after it was sold


def test_what_was_held_before_any_price_was_known_starts_at_the_first_one() -> None:
    """A position found in a snapshot has made nothing yet."""
    position = Position(lots=4, trip=1, unpriced=True)
    assert book(position, -1, 50)[0].realised_e8 == 0
    assert (position.lots, position.cost_e8) == (3, 150)


def test_another_lot_size_changes_lots_and_not_cost() -> None:
    """The round trip goes on; from flat a new one begins."""
    position = Position(3, 300, 2)
    assert restate(position, 30, 300)[2:] == (0, 0, 0, 0, 30, 300, 2)
    assert restate(position, -5, 50).trip == 2
    assert restate(position, 0, 0).trip == 2
    assert restate(position, 5, 50).trip == 3
