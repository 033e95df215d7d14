"""Mutants: each known mistake is found by a rule of the judge, at its recorded seed; the canary always fails."""

import json
import os
from pathlib import Path

import pytest

from copyd.core.doubt import Doubts
from copyd.core.engine import Engine
from copyd.runtime.pump import Pump
from copyd.sim.mutants import CANARY, MUTANTS, NOT_YET, Patches, around, hunt, mutated

JOBS = min(2, os.cpu_count() or 1)
#: First seed that shows each mutant: `copyd sim --mutants --save` writes it anew.
SEEDS = json.loads((Path(__file__).parent / "mutant_seeds.json").read_text())


def test_there_are_at_least_thirty_and_every_missing_one_has_its_reason():
    """The list is long, each says what it breaks and who should notice, and nothing is left out silently."""
    assert len(MUTANTS) >= 31
    for name, mutant in MUTANTS.items():
        assert mutant.broken and mutant.expected, name
    assert all(len(reason) > 10 and name not in MUTANTS for name, reason in NOT_YET.items())


@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_mutant_is_put_in_and_taken_out_whole(name):
    """Afterwards the product is what it was."""
    before = [dict(owner.__dict__) for owner in (Engine, Doubts, Pump)], dict(Engine._HANDLERS), dict(Engine._COMMANDS)
    with mutated(name), mutated(name):
        pass
    assert before == ([dict(owner.__dict__) for owner in (Engine, Doubts, Pump)], dict(Engine._HANDLERS), dict(Engine._COMMANDS))


def test_patches_are_taken_back_in_the_opposite_order():
    """Two patches of one method leave the first original."""

    class Thing:
        def value(self) -> int:
            return 1

    patches = Patches()
    patches.around(Thing, "value", lambda original: lambda self: original(self) + 1)
    patches.around(Thing, "value", lambda original: lambda self: original(self) * 10)
    assert Thing().value() == 20
    patches.restore()
    assert Thing().value() == 1


@pytest.mark.timeout(240)
def test_every_mutant_is_found_at_its_recorded_seed():
    """A mistake nobody notices any more means that the world has lost a fault."""
    kills = hunt([name for name in MUTANTS if name != CANARY], JOBS, lambda name: around(SEEDS.get(name, 0)))
    assert [kill.name for kill in kills if not kill.invariant] == []
    assert all(kill.invariant in MUTANTS[kill.name].expected for kill in kills)


@pytest.mark.timeout(60)
def test_the_canary_always_fails():
    """A judge that is told of a second acceptance and says nothing judges nothing."""
    for first in range(0, 50, 10):  # in a history now and then nothing is ever accepted
        (kill,) = hunt([CANARY], 1, lambda name, first=first: range(first, first + 10))
        assert kill.invariant == "S1" and kill.seeds <= 4, first
