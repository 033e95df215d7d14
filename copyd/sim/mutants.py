"""Known-bad variants of the product, one small mistake each, and the hunt for the first history that shows it.

A mutant patches the production core, or the glue at the node's edge, from outside: the product carries no switches. One
that survives points at a fault the world lacks. ``canary`` breaks the judge's own facts, so it must fail at once wherever
anything was accepted at all: a simulator that lets it live judges nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from copyd.sim.sweep import DIED, HUNG, LIMIT_S, RUNNER, Pool, Task

SEEDS_MAX = 4000
CANARY = "canary"


class Mutant(msgspec.Struct):
    """One mistake: what it is, which rules should notice, a seed that shows it, and how it is put in."""

    broken: str
    expected: tuple[str, ...]
    apply: Callable[[Patches], None]
    seed: int | None = None


MUTANTS: dict[str, Mutant] = {}

NOT_YET = {
    "totp_step_not_stored": "there are no logins",
    "role_not_checked": "there are no roles: the control socket is the operator's own",
    "request_id_not_durable": "control requests carry no id yet",
    "nonce_not_persisted": "the venue in use orders by timestamp, not by nonce",
    "batch_item_missing_is_ok": "orders are placed one by one",
    "cancel_reject_unlocks": "copyd cancels nothing",
    "redactor_bypassed": "the simulated core writes no logs; the end-to-end test of secrets covers it",
    "no_boot_fence": "the boot fence belongs to durability below strict, which the simulated disk does not have",
}
"""Mutants of the list whose subject does not exist, or not here: name and reason."""


class Patches:
    """Changes to classes and modules that are taken back when the context ends."""

    def __init__(self) -> None:
        self.undo: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """An attribute of a class or module; for a dict its item."""
        if isinstance(owner, dict):
            self.undo.append((owner, name, owner[name]))
            owner[name] = value
        else:
            self.undo.append((owner, name, owner.__dict__[name]))
            setattr(owner, name, value)

    def around(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        """A method or function, by one that knows the original."""
        self.set(owner, name, wrap(owner[name] if isinstance(owner, dict) else owner.__dict__[name]))

    def restore(self) -> None:
        """Everything as it was."""
        for owner, name, value in reversed(self.undo):
            if isinstance(owner, dict):
                owner[name] = value
            else:
                setattr(owner, name, value)
        self.undo.clear()


def mutant(name: str, broken: str, *expected: str, seed: int | None = None) -> Callable[[Callable[[Patches], None]], None]:
    """Registers the function below it."""

    def register(apply: Callable[[Patches], None]) -> None:
        MUTANTS[name] = Mutant(broken, expected, apply, seed)

    return register


_active: list[str] = []


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The product with this mistake in it; inside itself it changes nothing more."""
    if name in _active or not name:
        yield
        return
    patches = Patches()
    _active.append(name)
    try:
        MUTANTS[name].apply(patches)
        yield
    finally:
        patches.restore()
        _active.remove(name)


# -- the hunt -------------------------------------------------------------------------------------------------------------


class Kill(msgspec.Struct):
    """What became of one mutant: the rule that noticed and the seed, empty and None when it survived."""

    name: str
    invariant: str = ""
    seed: int | None = None
    seeds: int = 0
    text: str = ""


def hunt(
    names: Sequence[str], jobs: int = 1, seeds: Callable[[str], Sequence[int]] | None = None, limit_s: float = LIMIT_S,
    runner: str = RUNNER, progress: Callable[[int, str], None] | None = None,
) -> list[Kill]:
    """Run each mutant until a rule notices, over 4,000 seeds or those given; in the order of ``names``.

    A run that does not end, or a process that dies, says nothing about the rules: it is no kill.
    """
    kills = {name: Kill(name) for name in names}
    tasks = (
        Task(list(seeds(name) if seeds else range(SEEDS_MAX)), mutant=name, stop=True, name=name) for name in names
    )
    done = 0
    for task, report in Pool(jobs, runner, limit_s).reports(tasks):
        kill = kills[task.name]
        if report is None:
            done += 1
            if progress is not None:
                progress(done, task.name)
            continue
        kill.seeds += 1
        found = [failure for failure in report.violations if failure.invariant not in (DIED, HUNG)]
        if found and not kill.invariant:
            kill.invariant, kill.seed, kill.text = found[0].invariant, report.seed, found[0].text
    return [kills[name] for name in names]


def around_seed(name: str, width: int = 8) -> list[int]:
    """The recorded seed of a mutant first, then its neighbours: enough to see it again although the world has shifted."""
    seed = MUTANTS[name].seed
    if seed is None:
        return list(range(SEEDS_MAX))
    return sorted(range(max(0, seed - width), seed + width + 1), key=lambda other: abs(other - seed))


# -- doubts ---------------------------------------------------------------------------------------------------------------

DOUBTS = ("S1", "S4")


def _doubts() -> Any:
    from copyd.core import doubt

    return doubt


@mutant("query_once", "the first not found is taken for the end", *DOUBTS)
def _(patches: Patches) -> None:
    doubt = _doubts()

    def wrap(original: Any) -> Any:
        def answered_order(self: Any, now: int, ask_id: int, found: Any) -> Any:
            asked = self._asks.get(ask_id)
            if found is None and asked is not None and asked.doubt is not None and asked.doubt.cid in self._doubts:
                del self._asks[ask_id]
                return [self._dead(asked.doubt, asked.issued)]
            return original(self, now, ask_id, found)

        return answered_order

    patches.around(doubt.Doubts, "answered_order", wrap)


@mutant("error_as_absent", "an error while asking counts as not found", *DOUBTS)
def _(patches: Patches) -> None:
    doubt = _doubts()

    def wrap(original: Any) -> Any:
        def failed(self: Any, now: int, ask_id: int) -> None:
            asked = self._asks.get(ask_id)
            original(self, now, ask_id)
            if asked is None:
                return
            waiting = [asked.doubt] if asked.doubt is not None else list(asked.group.members.values())
            for one in waiting:
                if asked.kind == doubt.AskKind.ORDER:
                    one.absent_by_id = True
                elif asked.kind == doubt.AskKind.ORDERS:
                    one.absent_in_list = True

        return failed

    patches.around(doubt.Doubts, "failed", wrap)


@mutant("answer_time_fence", "the fence is compared with when the answer came, not with when the question was put", *DOUBTS)
def _(patches: Patches) -> None:
    def wrap(original: Any) -> Any:
        def answered(self: Any, now: int, ask_id: int, *rest: Any) -> Any:
            asked = self._asks.get(ask_id)
            if asked is not None:
                late = self._asks[ask_id] = asked._replace(issued=now)
                for name in ("orders", "position"):
                    if getattr(asked.group, name) is asked:
                        setattr(asked.group, name, late)
            return original(self, now, ask_id, *rest)

        return answered

    for name in ("answered_order", "answered_orders", "answered_position"):
        patches.around(_doubts().Doubts, name, wrap)


def _terms(**changes: Any) -> Callable[[Patches], None]:
    """Other terms than the venue's; a function computes a value from the true terms."""

    def apply(patches: Patches) -> None:
        def wrap(original: Any) -> Any:
            def init(self: Any, terms: Any, *rest: Any, **named: Any) -> None:
                values = {name: value(terms) if callable(value) else value for name, value in changes.items()}
                original(self, msgspec.structs.replace(terms, **values), *rest, **named)

            return init

        patches.around(_doubts().Doubts, "__init__", wrap)

    return apply


def _less(name: str) -> Callable[[Any], int]:
    def fence(terms: Any) -> int:
        from copyd.sim import world

        less: int = getattr(world, name)
        whole: int = terms.fence_ns
        return whole - less

    return fence


mutant("fence_without_expiry", "the fence leaves out how long a request is valid", *DOUBTS)(_terms(fence_ns=_less("RECV")))
mutant("fence_without_engine_delay", "the fence leaves out the engine's delay", *DOUBTS)(_terms(fence_ns=_less("ENGINE_DELAY")))
mutant("fence_without_read_lag", "the fence leaves out how far replicas lag", *DOUBTS)(_terms(fence_ns=_less("READ_LAG")))
mutant("fence_of_expiry_only", "the fence is the validity of a request and nothing else", *DOUBTS)(
    _terms(fence_ns=lambda terms: terms.fence_ns - _sum("ENGINE_DELAY", "READ_LAG", "CLOCK_ERROR", "GUARD")))
mutant("no_fence", "there is no fence", *DOUBTS)(_terms(fence_ns=0))
mutant("history_not_asked", "not found by id is enough, the history is not asked", *DOUBTS)(_terms(weight_orders=0))


def _sum(*names: str) -> int:
    from copyd.sim import world

    return sum(getattr(world, name) for name in names)


@mutant("page_taken_for_whole", "what is missing from an incomplete list counts as absent", *DOUBTS)
def _(patches: Patches) -> None:
    def wrap(original: Any) -> Any:
        def answered_orders(self: Any, now: int, ask_id: int, found: Any, complete: bool) -> Any:
            return original(self, now, ask_id, found, True)

        return answered_orders

    patches.around(_doubts().Doubts, "answered_orders", wrap)


@mutant("retry_after_ignored", "questions go on although the venue wants none", "S16")
def _(patches: Patches) -> None:
    patches.set(_doubts().Doubts, "pause", lambda self, until: None)


@mutant("budget_ignored", "questions are put whatever they weigh", "S16")
def _(patches: Patches) -> None:
    patches.set(_doubts().Doubts, "_spend", lambda self, weight: True)
