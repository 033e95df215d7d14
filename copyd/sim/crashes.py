"""Crashes at every point: small golden scenarios, each run again with the process killed at each crash point in turn.

A scenario runs once to count its points: every world event of the daemon and every named place between two effects. Then it
runs once per point, dying there; with ``pairs`` also once per two points, so that recovery itself is killed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from copyd.sim.faults import by_id
from copyd.sim.sweep import LIMIT_S, RUNNER, Pool, Report, Runner, Summary, Task

CHUNK = 32
SECOND_MAX = 200
"""How far behind the first crash the second one of a pair may lie: longer than a recovery takes."""


class Golden(msgspec.Struct):
    """A scenario: what it shows, and the seed and options that make it. ``faults`` must have fired in it."""

    name: str
    seed: int
    options: dict[str, Any]
    faults: tuple[str, ...] = ()

    def task_options(self, *points: int) -> dict[str, Any]:
        """Its options with the process dying at these crash points."""
        return {**self.options, "crashes": list(points)}


def _golden(name: str, seed: int, *faults: str, **options: Any) -> Golden:
    world = {"followers": 2, "moves": 2, "instruments": 1, "leaders": 1, "hedge": False, **options}
    if faults:
        return Golden(name, seed, {**world, "faults": list(faults), "strength": 3000}, tuple(by_id(dict.fromkeys(faults, 1))))
    return Golden(name, seed, {**world, "strength": 0})


GOLDEN = (
    _golden("open and close", 2),
    _golden("two instruments", 2, instruments=2),
    _golden("hedge mode", 3, hedge=True),
    _golden("two leaders", 5, leaders=2),
    _golden("answers lost, orders alive", 5, "O01"),
    _golden("requests lost", 8, "O02"),
    _golden("5xx, alive or dead", 8, "O09"),
    _golden("parts fill", 23, "O13"),
    _golden("the leader's stream breaks", 17, "L03"),
    _golden("trades by hand", 10, "A08"),
    _golden("pause and resume", 21, "A01", "A04"),
    _golden("user events repeated and out of order", 11, "L01/follower", "L02/follower"),
)


class Crashed(msgspec.Struct):
    """What the sweep over one scenario found."""

    name: str
    points: int
    runs: int = 0
    killed: int = 0
    failed: list[tuple[tuple[int, ...], Report]] = []


Progress = Callable[[int, int], None]


def points_of(golden: Golden, runner: Runner) -> int:
    """How many crash points the scenario passes before its fair phase, in which nobody is killed."""
    none, some = runner(golden.seed, golden.task_options()).counters.get("crash_points", 0) + 1, 0
    while none - some > 1:
        middle = (none + some) // 2
        if runner(golden.seed, golden.task_options(middle)).crash_points:
            some = middle
        else:
            none = middle
    return some


def _crashes(golden: Golden, points: int, pairs: bool, stride: int) -> Iterator[tuple[int, ...]]:
    for first in range(1, points + 1):
        yield (first,)
        if pairs:
            for behind in range(1 + first % stride, SECOND_MAX + 1, stride):
                yield first, first + behind


def crash_sweep(
    goldens: Sequence[Golden] = GOLDEN, jobs: int = 1, pairs: bool = False, stride: int = 1, runner: str = RUNNER,
    limit_s: float = LIMIT_S, progress: Progress | None = None,
) -> tuple[list[Crashed], Summary]:
    """Every crash of every scenario; ``stride``: of the second crashes of a pair take every n-th, another one each time."""
    here = Runner(runner)
    results = {golden.name: Crashed(golden.name, points_of(golden, here)) for golden in goldens}
    plans = [
        (golden, crashes) for golden in goldens for crashes in _crashes(golden, results[golden.name].points, pairs, stride)
    ]
    summary = Summary(jobs=jobs)
    began = time.monotonic()
    tasks = (
        Task([golden.seed], golden.task_options(*crashes), name=f"{golden.name}|{','.join(map(str, crashes))}")
        for golden, crashes in plans
    )
    for task, report in Pool(jobs, runner, limit_s).reports(tasks):
        if report is None:
            continue
        name, _, crashes = task.name.partition("|")
        result = results[name]
        result.runs += 1
        result.killed += bool(report.crash_points)
        summary.add(report)
        if report.violations:
            result.failed.append((tuple(map(int, crashes.split(","))), report))
        if progress is not None:
            progress(summary.seeds, len(plans))
    summary.wall_s = time.monotonic() - began
    return list(results.values()), summary


def main(args: argparse.Namespace) -> int:
    """``copyd sim --crash-sweep``: 0 when every scenario survived every crash."""
    from copyd.sim import report as show

    target = show.console()
    with show.Bar("crashes", 1) as bar:

        def at(done: int, total: int) -> None:
            bar.resize(total)
            bar.at(done)

        results, summary = crash_sweep(GOLDEN, args.jobs, args.pairs, args.stride, limit_s=args.limit, progress=at)
    target.print(show.crash_sweep_table(results))
    target.print(show.crash_table(summary.crash_points))
    target.print(show.summary_table(summary))
    broken = 0
    for result in results:
        golden = next(golden for golden in GOLDEN if golden.name == result.name)
        for crashes, report in result.failed[:5]:
            command = show.repeat_command(golden.seed, options={**golden.options, "crashes": list(crashes)})
            target.print("\n".join(show.failure_lines(report, command)), style="red", markup=False, soft_wrap=True)
        broken += len(result.failed)
    if not broken:
        target.print("every scenario survives every crash", style="bold green")
    return 1 if broken else 0
