"""A failure made small: as few faults as still break the same rule, in as small a world.

Delta debugging over the faults that fired, then over the options, until nothing more can go or the time is up. What is left
is a small JSON file that repeats the failure; fixed, it stays in the test suite for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from copyd.errors import OperatorError
from copyd.sim.sweep import DIED, HUNG, Report, Runner

T = TypeVar("T")

BUDGET_S = 60.0
#: Options that make a world smaller, each with the values to try, smallest first.
SMALLER: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("leaders", (1,)),
    ("followers", (1, 2, 3)),
    ("instruments", (1,)),
    ("hedge", (False,)),
    ("moves", (1, 2, 3, 4, 6, 8)),
)


class Case(msgspec.Struct):
    """A failure as it is kept: what to run, which rule broke, and what the story was."""

    seed: int
    invariant: str
    note: str = ""
    options: dict[str, Any] = {}
    keep: list[tuple[str, int]] | None = None
    mutant: str = ""
    text: str = ""


class Shrunk(msgspec.Struct):
    """How far a failure was shrunk."""

    case: Case
    faults_before: int
    runs: int
    complete: bool


def read_case(path: Path) -> Case:
    """A saved failure."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Case)
    except (OSError, msgspec.MsgspecError) as error:
        raise OperatorError(f"{path}: {error}") from None


def write_case(path: Path, case: Case) -> None:
    """A failure as a small file that a person can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(case), indent=1) + b"\n")


def run_case(case: Case, runner: Runner, trace: Any = None) -> Report:
    """Run a saved failure again."""
    return runner(case.seed, case.options, case.mutant, case.keep, trace)


def minimal(items: Sequence[T], fails: Callable[[list[T]], bool], more: Callable[[], bool]) -> list[T]:
    """A subset that still fails and of which no single piece can go (ddmin); ends early when ``more`` says so."""
    kept = list(items)
    if not kept or (more() and fails([])):
        return []
    pieces = 2
    while len(kept) >= 2 and more():
        size = -(-len(kept) // pieces)
        parts = [kept[at : at + size] for at in range(0, len(kept), size)]
        for at, part in enumerate(parts):
            if not more():
                return kept
            if len(parts) > 2 and fails(part):
                kept, pieces = part, 2
                break
            rest = [item for other in parts[:at] + parts[at + 1 :] for item in other]
            if fails(rest):
                kept, pieces = rest, max(pieces - 1, 2)
                break
        else:
            if size == 1:
                return kept
            pieces = min(len(kept), pieces * 2)
    return kept


class Shrinker:
    """Shrinks one failure; every attempt is one run of the same seed."""

    def __init__(self, runner: Runner, budget_s: float = BUDGET_S, known: Sequence[str] | None = None) -> None:
        self.runner = runner
        self.until = time.monotonic() + budget_s
        self.runs = 0
        self.known = known

    def more(self) -> bool:
        """Whether there is time for another run."""
        return time.monotonic() < self.until

    def attempt(self, case: Case) -> Report | None:
        """The report of a run when it breaks the same rule, else None."""
        self.runs += 1
        report = run_case(case, self.runner)
        return report if any(failure.invariant == case.invariant for failure in report.violations) else None

    def shrink(self, case: Case) -> Shrunk:
        """The smallest case found in the time; a run that hung or died is left as it is."""
        if case.invariant in (DIED, HUNG):
            return Shrunk(case, 0, 0, False)
        report = self.attempt(case)
        if report is None:
            raise OperatorError(f"seed {case.seed} does not break {case.invariant} again: the run is not deterministic")
        before = len(report.fired)
        case = self.smaller_world(case)
        report = self.attempt(case)
        assert report is not None
        while True:
            size = len(report.fired) if case.keep is None else len(case.keep)
            case = self.fewer_faults(case, report)
            smaller = self.smaller_world(case)
            again = self.attempt(smaller)
            if again is None or not self.more() or (smaller.options == case.options and len(case.keep or ()) >= size):
                break
            case, report = smaller, again
        last = self.attempt(case)
        if last is not None:
            broken = next(failure for failure in last.violations if failure.invariant == case.invariant)
            case = msgspec.structs.replace(case, text=broken.text)
        return Shrunk(case, before, self.runs, self.more())

    def fewer_faults(self, case: Case, report: Report) -> Case:
        """Only the faults it needs."""

        def fails(keep: list[tuple[str, int]]) -> bool:
            return self.attempt(msgspec.structs.replace(case, keep=keep)) is not None

        kept = minimal(report.fired if case.keep is None else case.keep, fails, self.more)
        smaller = msgspec.structs.replace(case, keep=kept)
        return smaller if self.attempt(smaller) is not None else case

    def smaller_world(self, case: Case) -> Case:
        """Fewer followers, moves and instruments, no crash, where it still fails."""
        for name, values in SMALLER:
            if self.known is not None and name not in self.known:
                continue
            for value in values:
                now = case.options.get(name)
                if not self.more() or now == value:
                    break
                if isinstance(now, int) and isinstance(value, int) and value > now:
                    break
                try:
                    smaller = msgspec.structs.replace(case, options={**case.options, name: value})
                    found = self.attempt(smaller)
                except msgspec.ValidationError:
                    continue  # not a value this option takes
                if found is not None:
                    case = smaller
                    break
        return case
