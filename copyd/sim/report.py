"""What a person sees of the simulator: progress, summary, coverage, failures, histories, mutants."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from copyd.sim.faults import ELSEWHERE, GROUP_NAMES, INJECTED, LATER, MISSED, TABLE, by_id, coverage
from copyd.sim.sweep import Report, Summary

PLAIN_EVERY_S = 5.0
START_NS = 1_700_000_000_000_000_000
#: Colours of those who speak in a history.
COLOURS = {
    "leader": "cyan", "stream": "cyan", "venue": "blue", "daemon": "green", "core": "bright_green", "disk": "magenta",
    "operator": "yellow", "network": "bright_black", "world": "bold",
}


def console(out: TextIO | None = None) -> Console:
    """Tables as wide as the terminal, or wide enough for a file."""
    out = out or sys.stdout
    return Console(file=out, width=None if out.isatty() else 120, highlight=False)


class Bar:
    """How far a run is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, total: int, out: TextIO | None = None) -> None:
        self.what, self.total, self.out = what, total, out or sys.stderr
        self.progress: Progress | None = None
        self.last = time.monotonic()

    def __enter__(self) -> Self:
        if self.out.isatty():
            self.progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(), TimeRemainingColumn(), console=Console(file=self.out), transient=True,
            )
            self.task: TaskID = self.progress.add_task(self.what, total=self.total, note="")
            self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.progress is not None:
            self.progress.stop()

    def resize(self, total: int) -> None:
        """The total, once it is known."""
        if total != self.total:
            self.total = total
            if self.progress is not None:
                self.progress.update(self.task, total=total)

    def at(self, done: int, note: str = "") -> None:
        """So many are done."""
        if self.progress is not None:
            self.progress.update(self.task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self.last >= PLAIN_EVERY_S or done == self.total:
            self.last = now
            print(f"{self.what}: {done:,} of {self.total:,}{'  ' + note if note else ''}", file=self.out, flush=True)


def sweep_note(summary: Summary) -> str:
    """The moment's figures beside the bar."""
    rate = summary.seeds / summary.wall_s if summary.wall_s else 0
    failed = f", {len(summary.failed)} FAILED" if summary.failed else ""
    return f"{rate:,.0f} seeds/s, {summary.fault_total:,} faults{failed}"


def summary_lines(summary: Summary) -> list[tuple[str, str]]:
    """A sweep's figures as (name, value)."""
    hours = summary.sim_ns / 3.6e12
    points = sum(summary.crash_points.values())
    per_seed = summary.fault_total / max(1, summary.seeds)
    rows = [
        ("seeds", f"{summary.seeds:,} in {summary.wall_s:,.1f} s on {summary.jobs} process{'es' * (summary.jobs > 1)}"),
        ("steps", f"{summary.steps:,}"),
        ("steps per second and core", f"{summary.steps_per_s_core:,.0f}"),
        ("per second of processor time", f"{summary.steps_per_cpu_s:,.0f} steps, {summary.seeds_per_cpu_s:,.0f} seeds"),
        ("simulated hours", f"{hours:,.1f}"),
        ("faults injected", f"{summary.fault_total:,} of {len(by_id(summary.faults))} kinds, {per_seed:.1f} a seed"),
        ("crash points hit", f"{points:,} at {len(summary.crash_points)} places"),
        ("slowest seed", f"{summary.slowest_seed} ({summary.slowest_us / 1000:,.1f} ms)"),
        ("violations", f"{len(summary.failed)}"),
    ]
    if summary.interrupted:
        rows.insert(1, ("ended by", summary.interrupted))
    return rows if summary.seeds else rows[:1]


def summary_table(summary: Summary, level: str = "A") -> Table:
    """A sweep's figures."""
    table = Table(title=f"copyd sim: level {level.upper()}", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in summary_lines(summary):
        bad = name == "violations" and summary.failed
        table.add_row(name, value, style="bold red" if bad else "")
    return table


def crash_table(points: Mapping[str, int]) -> Table:
    """Where processes were killed, and how often."""
    table = Table(title="crash points")
    for column in ("place", "hits") * 3:
        table.add_column(column, justify="right" if column == "hits" else "left")
    cells = [(name, f"{count:,}") for name, count in sorted(points.items())]
    rows = -(-len(cells) // 3)
    cells += [("", "")] * (3 * rows - len(cells))
    for first in range(rows):
        table.add_row(*cells[first], *cells[first + rows], *cells[first + 2 * rows])
    return table


def coverage_table(counted: Mapping[str, Mapping[str, int]]) -> Table:
    """Every fault of the catalogue with what the runs at hand did to it."""
    standings = coverage(counted)
    number = Counter(standing.state for standing in standings)
    table = Table(
        title=f"faults: {number[INJECTED]} of {len(standings)} injected, {number[MISSED]} reachable and not hit, "
        f"{number[ELSEWHERE]} on other levels only, {number[TABLE]} by a unit test, {number[LATER]} not reachable",
    )
    for column in ("id", "fault", "levels", "injected"):
        table.add_column(column, justify="right" if column == "injected" else "left", no_wrap=column != "fault")
    group = ""
    for standing in standings:
        fault = standing.fault
        if fault.id[0] != group:
            group = fault.id[0]
            table.add_section()
            table.add_row("", Text(GROUP_NAMES[group], style="bold"), "", "")
        levels = " ".join(level for level in fault.levels if level != "later") or "-"
        if standing.state == INJECTED:
            what, style = " ".join(f"{level} {count:,}" for level, count in standing.counts.items()), ""
        else:
            what, style = standing.state, "yellow" if standing.state == MISSED else "bright_black"
        title = fault.title + (f" ({fault.where})" if standing.state in (TABLE, LATER) else "")
        table.add_row(fault.id, title, levels, what, style=style)
    return table


def crash_sweep_table(results: Sequence[Any]) -> Table:
    """Scenarios killed at every point."""
    table = Table(title="golden scenarios, killed at every point")
    for column in ("scenario", "crash points", "runs", "killed", "failed"):
        table.add_column(column, justify="left" if column == "scenario" else "right")
    for result in results:
        failed = len(result.failed)
        cells = [f"{count:,}" for count in (result.points, result.runs, result.killed, failed)]
        table.add_row(result.name, *cells, style="bold red" if failed else "")
    return table


def repeat_command(
    seed: int, level: str = "a", mutant: str = "", options: Mapping[str, Any] | None = None,
) -> str:
    """The one command that runs a seed again and prints its history."""
    words = ["copyd sim", f"--seed {seed}"]
    if level != "a":
        words.append(f"--level {level}")
    if mutant:
        words.append(f"--mutant {mutant}")
    options = dict(options or {})
    if "profile" in options:
        words.append(f"--profile {options.pop('profile')}")
    words += [f"--option {shlex.quote(f'{name}={_plain(value)}')}" for name, value in sorted(options.items())]
    return " ".join(words)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def failure_lines(report: Report, command: str) -> list[str]:
    """A failed seed: what broke, when, and how to see it again."""
    lines = [f"seed {report.seed}:"]
    lines += [f"  {failure.invariant} at {at(failure.t)}: {failure.text}" for failure in report.violations[:5]]
    if len(report.violations) > 5:
        lines.append(f"  and {len(report.violations) - 5} more")
    lines.append(f"  again: {command}")
    return lines


def at(t: int) -> str:
    """A simulated time as a person reads it."""
    return f"{(t - START_NS if t >= START_NS else t) / 1e9:.6f} s"


def history(target: Console) -> Callable[[str], None]:
    """Takes the lines of a history, ``time  who  what``, and prints them."""

    def line(text: str) -> None:
        when, who, what = text[:11], text[13:22].strip(), text[23:]
        styled = Text(f"{when}  ", style="bright_black")
        styled.append(f"{who:<9} ", style=COLOURS.get(who.rstrip("0123456789"), ""))
        styled.append(what, style="red" if what.startswith("fault") else "")
        target.print(styled, soft_wrap=True)

    return line


def mutants_table(rows: Sequence[tuple[str, str, str, str, str, str]], killed: int) -> Table:
    """Mutants: (name, what is broken, expected, killed by, seed, seeds needed)."""
    table = Table(title=f"mutants: {killed} of {len(rows)} killed")
    for column in ("mutant", "what is broken", "expected", "killed by", "seed", "seeds needed"):
        table.add_column(column, justify="right" if column in ("seed", "seeds needed") else "left", no_wrap=column == "mutant")
    for row in rows:
        table.add_row(*row, style="" if row[3] else "bold red")
    return table
