"""``copyd sim``: replay one seed, sweep many, hunt mutants, torture the real daemon; the exit code says whether all held.

Exit codes: 0 every rule held · 1 a rule was broken · 2 usage · 130 interrupted, and every rule held until then.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from copyd.errors import OperatorError, UsageError
from copyd.sim import report as show
from copyd.sim.shrink import BUDGET_S, Case, Shrinker, read_case, run_case, write_case
from copyd.sim.sweep import DIED, HUNG, LIMIT_S, RUNNER, Report, Runner, Summary, memory_kib, option_names, sweep, twice

RUNNERS = {"a": RUNNER, "b": "copyd.sim.wire.run:run_seed"}
SHRINK_MAX = 3
WRITE_EVERY_S = 30.0
INTERRUPTED = 130
SEEDS_DEFAULT = "0..1000"
KILLS_DEFAULT, IMAGES_DEFAULT = 50, 400

EPILOG = """\
examples:
  copyd sim --seeds 0..20000                      a sweep; half open: 20,000 seeds
  copyd sim --seeds 0..1000000 --profile bulk     a long one: small worlds, many faults each
  copyd sim --seed 4711                           one history, readable
  copyd sim --seeds 0..200 --level b              the real adapters on a virtual-time loop
  copyd sim --level c --kills 2000                SIGKILLs of the real daemon under load
  copyd sim --level c --images 50000              power cuts: every legal image of what was not synced
  copyd sim --mutants                             known-bad variants: each must be found
  copyd sim --seeds 0..10000 --twice              each seed in two processes: the histories are equal
  copyd sim --crash-sweep --pairs                 a crash at every point of the golden scenarios, and at every two
"""


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 when every rule held, 1 when one was broken, 2 usage."""
    parser = _parser()
    try:
        args = parser.parse_args(list(argv))
    except SystemExit as end:
        return int(end.code or 0)
    try:
        return _choose(args)
    except UsageError as error:
        print(f"copyd sim: {error}", file=sys.stderr)
        return UsageError.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="copyd sim", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG,
        description="Seeded histories of everything that can go wrong around the production core, judged by the truth.",
    )
    what = parser.add_argument_group("what to run").add_mutually_exclusive_group()
    what.add_argument("--seed", type=int, metavar="N", help="one seed: print its history")
    what.add_argument("--seeds", type=_seeds, metavar="A..B", help=f"seeds A up to, without, B (default {SEEDS_DEFAULT})")
    what.add_argument("--mutants", action="store_true", help="run every known-bad variant until it is found")
    what.add_argument("--regression", type=Path, metavar="FILE", help="one saved failure: print its history")
    what.add_argument("--crash-sweep", action="store_true", help="golden scenarios, crashed once at every point")
    what.add_argument("--kills", type=_positive, metavar="N", help="SIGKILL the real daemon N times under load (level c)")
    what.add_argument("--images", type=_positive, metavar="N", help="check N disk images after power cuts (level c)")
    what.add_argument("--coverage", action="store_true", help="the catalogue of faults: where each can be injected")
    how = parser.add_argument_group("how")
    how.add_argument("--level", choices=("a", "b", "c"), default="a", help="a: the core; b: the adapters; c: the real daemon")
    how.add_argument("--profile", choices=("default", "bulk"), default="default",
                     help="bulk: worlds of one or two followers and few moves, faults stronger (level a)")
    how.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, metavar="J", help="processes (default: one per core)")
    how.add_argument("--twice", action="store_true", help="each seed in two fresh processes: their digests must be equal")
    how.add_argument("--pairs", action="store_true", help="with --crash-sweep: at every two points as well")
    how.add_argument("--stride", type=_positive, default=1, metavar="N", help="with --pairs: every N-th second crash")
    how.add_argument("--mutant", default="", metavar="NAME", help="run a known-bad variant instead of the product")
    how.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="pin an option of the world")
    how.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="a seed that takes longer has failed")
    how.add_argument("--followers", type=_positive, default=None, metavar="N", help="followers (level c; level a: --option)")
    after = parser.add_argument_group("afterwards")
    after.add_argument("--shrink", type=float, default=BUDGET_S, metavar="S", help="time to make a failure small; 0: do not")
    after.add_argument("--save", nargs="?", const="", metavar="NAME",
                       help="keep the shrunk failure below tests/regressions; with --mutants the seeds that show them")
    after.add_argument("--note", default="", help="what the saved failure was about")
    after.add_argument("--json", "--out", type=Path, metavar="FILE",
                       help="the figures as JSON; of a sweep also while it runs")
    after.add_argument("--no-coverage", action="store_true", help="leave the table of faults out")
    return parser


def _seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    try:
        seeds = range(int(first), int(last)) if dots else range(int(first), int(first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not A..B") from None
    if not seeds or seeds[0] < 0:
        raise argparse.ArgumentTypeError(f"{text!r} holds no seeds")
    return seeds


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be positive")
    return value


def _choose(args: argparse.Namespace) -> int:
    if args.coverage:
        show.console().print(show.coverage_table({}))
        return 0
    if args.mutants:
        return _mutants(args)
    if args.regression is not None:
        return _regression(args)
    if args.crash_sweep:
        return _crash_sweep(args)
    if args.level == "c" or args.kills or args.images:
        return _torture(args)
    if args.seed is not None:
        return _one(args)
    if args.twice:
        return _twice(args)
    return _sweep(args)


# -- one seed -------------------------------------------------------------------------------------------------------------


def _runner(args: argparse.Namespace) -> str:
    """The runner of the level; a sentence where this build has none."""
    try:
        Runner(RUNNERS[args.level])
    except OperatorError:
        raise UsageError(f"level {args.level} is not part of this build") from None
    return RUNNERS[args.level]


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """``--option`` values, read as JSON where they are."""
    options: dict[str, Any] = {} if args.profile == "default" else {"profile": args.profile}
    for pair in args.option:
        name, sign, text = pair.partition("=")
        if not sign:
            raise UsageError(f"--option {pair!r}: NAME=VALUE")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    runner = Runner(RUNNERS[args.level])
    try:
        runner.options(options)
    except (OperatorError, msgspec.ValidationError) as error:
        raise UsageError(f"--option: {error}") from None
    return options


def _one(args: argparse.Namespace) -> int:
    runner, options = Runner(_runner(args)), _options(args)
    target = show.console()
    report = runner(args.seed, options, args.mutant, None, show.history(target))
    return _verdict(args, target, report, runner, Case(args.seed, "", options=options, mutant=args.mutant))


def _verdict(args: argparse.Namespace, target: Any, report: Report, runner: Runner, case: Case) -> int:
    counts = ", ".join(f"{name} {count}" for name, count in sorted(report.faults.items())) or "none"
    target.print(f"\nseed {report.seed}: {report.steps:,} steps, {report.sim_ns / 1e9:.1f} s simulated, faults: {counts}")
    target.print(f"digest {report.digest}")
    if not report.violations:
        target.print("every rule held", style="bold green")
        return 0
    for failure in report.violations:
        target.print(f"{failure.invariant} at {show.at(failure.t)}: {failure.text}", style="bold red", markup=False)
    if args.save is not None:
        _shrink(args, target, msgspec.structs.replace(case, invariant=report.violations[0].invariant), runner)
    return 1


def _regression(args: argparse.Namespace) -> int:
    case = read_case(args.regression)
    target = show.console()
    runner = Runner(_runner(args))
    report = run_case(case, runner, show.history(target))
    if case.note:
        target.print(f"\n{case.note}", markup=False)
    args.save = None
    return _verdict(args, target, report, runner, case)


# -- many seeds -----------------------------------------------------------------------------------------------------------


def _sweep(args: argparse.Namespace) -> int:
    runner, options = _runner(args), _options(args)
    seeds = args.seeds or _seeds(SEEDS_DEFAULT)
    written = time.monotonic()

    def tell(so_far: Summary) -> None:
        nonlocal written
        bar.at(so_far.seeds, show.sweep_note(so_far))
        if time.monotonic() - written >= WRITE_EVERY_S:
            written = time.monotonic()
            _write(args, _figures(so_far, seeds, args, options))

    with show.Bar("seeds", len(seeds)) as bar:
        summary = sweep(
            seeds, args.jobs, options, args.mutant, runner, args.limit,
            tell,
        )
    target = show.console()
    if not args.no_coverage:
        target.print(show.coverage_table({args.level.upper(): summary.faults}))
        if summary.crash_points:
            target.print(show.crash_table(summary.crash_points))
    target.print(show.summary_table(summary, args.level))
    _write(args, _figures(summary, seeds, args, options))
    if summary.interrupted:
        args.shrink = 0
    code = _failures(args, target, summary.failed, options)
    return code or (INTERRUPTED if summary.interrupted else 0)


def _figures(summary: Summary, seeds: range, args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    """Everything that was counted, and how it was come by."""
    figures = msgspec.to_builtins(summary)
    figures["failed"] = [
        {"seed": report.seed, "violations": [msgspec.structs.asdict(failure) for failure in report.violations]}
        for report in summary.failed
    ]
    return {
        "first": seeds[0], "last": seeds[-1], "level": args.level, "profile": args.profile, "options": options,
        "mutant": args.mutant, "python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()], "worker_memory_kib": memory_kib(),
        "steps_per_s_core": round(summary.steps_per_s_core), "steps_per_cpu_s": round(summary.steps_per_cpu_s),
        "seeds_per_cpu_s": round(summary.seeds_per_cpu_s, 1),
        "seeds_per_s": round(summary.seeds / summary.wall_s, 1) if summary.wall_s else 0,
        "simulated_hours": round(summary.sim_ns / 3.6e12, 1), "fault_total": summary.fault_total,
        "crash_point_total": sum(summary.crash_points.values()),
        "violations": len(summary.failed), **figures,
    }


def _failures(args: argparse.Namespace, target: Any, failed: Sequence[Report], options: dict[str, Any]) -> int:
    """Print the failed seeds; shrink the first of each kind."""
    if not failed:
        target.print("every rule held in every history", style="bold green")
        return 0
    seen: list[str] = []
    for report in failed:
        command = show.repeat_command(report.seed, args.level, args.mutant, options)
        target.print("\n".join(show.failure_lines(report, command)), style="red", markup=False, soft_wrap=True)
        invariant = report.violations[0].invariant
        if invariant not in seen and len(seen) < SHRINK_MAX and args.shrink > 0 and args.level == "a":
            seen.append(invariant)
            case = Case(report.seed, invariant, args.note, options, mutant=args.mutant)
            _shrink(args, target, case, Runner(RUNNERS[args.level]))
    return 1


def _shrink(args: argparse.Namespace, target: Any, case: Case, runner: Runner) -> None:
    if case.invariant in (DIED, HUNG):
        return
    try:
        shrunk = Shrinker(runner, args.shrink or BUDGET_S, option_names(runner.options_type)).shrink(case)
    except OperatorError as error:
        target.print(f"  not shrunk: {error}", markup=False)
        return
    small = msgspec.structs.replace(shrunk.case, note=args.note)
    faults = ", ".join(f"{name}#{n}" for name, n in small.keep or []) or "none"
    target.print(f"  shrunk in {shrunk.runs} runs from {shrunk.faults_before} faults to {len(small.keep or [])}: {faults}")
    if small.options:
        target.print(f"  world: {', '.join(f'{name}={value}' for name, value in sorted(small.options.items()))}")
    if args.save is None:
        target.print("  keep it: the same command with --save")
        return
    path = regressions() / f"{args.save or f'{small.invariant.lower()}_{small.seed}'}.json"
    write_case(path, small)
    target.print(f"  saved: {path}", markup=False, soft_wrap=True)


def regressions() -> Path:
    """Where failures are kept: in the source tree, or where we stand."""
    tree = Path(__file__).resolve().parents[2] / "tests" / "regressions"
    return tree if tree.parent.is_dir() else Path.cwd() / "regressions"


def _twice(args: argparse.Namespace) -> int:
    runner, options = _runner(args), _options(args)
    seeds = args.seeds or _seeds(SEEDS_DEFAULT)
    with show.Bar("runs", 2 * len(seeds)) as bar:
        result = twice(seeds, args.jobs, options, runner, args.limit, args.mutant, bar.at)
    target = show.console()
    for seed, one, other in result.differ[:20]:
        target.print(f"seed {seed}: {one or 'no end'} and {other or 'no end'}", style="bold red", markup=False)
    if result.differ:
        target.print(f"{len(result.differ)} of {result.seeds} seeds gave two histories", style="bold red")
        return 1
    target.print(f"{result.seeds:,} seeds, each in two processes with different hash seeds: equal digests", style="bold green")
    return _failures(args, target, result.failed, options)


def _write(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    if args.json is not None:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")


# -- mutants, crashes, the real daemon --------------------------------------------------------------------------------------


def _mutants(args: argparse.Namespace) -> int:
    from copyd.sim.mutants import MUTANTS, NOT_YET, hunt

    names = [args.mutant] if args.mutant else list(MUTANTS)
    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        raise UsageError(f"no mutant named {unknown[0]}: {', '.join(MUTANTS)}")
    _runner(args)
    with show.Bar("mutants", len(names)) as bar:
        kills = hunt(names, args.jobs, limit_s=args.limit, progress=lambda done, name: bar.at(done, name))
    rows = [
        (
            kill.name, MUTANTS[kill.name].broken, " ".join(MUTANTS[kill.name].expected), kill.invariant,
            "" if kill.seed is None else str(kill.seed), f"{kill.seeds:,}",
        )
        for kill in kills
    ]
    killed = sum(bool(kill.invariant) for kill in kills)
    target = show.console()
    target.print(show.mutants_table(rows, killed))
    if args.save is not None and not args.mutant:
        path = regressions().parent / "sim" / "mutant_seeds.json"
        seeds = {kill.name: kill.seed for kill in kills if kill.seed is not None}
        path.write_bytes(msgspec.json.format(msgspec.json.encode(seeds), indent=1) + b"\n")
        target.print(f"saved: {path}", markup=False, soft_wrap=True)
    if not args.mutant:
        for name, reason in NOT_YET.items():
            target.print(f"not there yet: {name}: {reason}", style="bright_black", markup=False)
    _write(args, {"mutants": [msgspec.structs.asdict(kill) for kill in kills]})
    for kill in kills:
        if not kill.invariant:
            target.print(f"{kill.name} SURVIVED {kill.seeds:,} seeds: the world lacks a fault", style="bold red")
    return 0 if killed == len(kills) else 1


def _crash_sweep(args: argparse.Namespace) -> int:
    from copyd.sim.crashes import main as crash_sweep

    return crash_sweep(args)


def _torture(args: argparse.Namespace) -> int:
    followers, seed = args.followers or 20, args.seed or 1
    kills, images = args.kills or KILLS_DEFAULT, args.images or IMAGES_DEFAULT
    every = not (args.kills or args.images)
    calls: list[tuple[str, int, str, Callable[[Any, Any], Any]]] = []
    if args.kills or every:
        calls.append(("kills", kills, "kill", lambda main, at: main(kills, seed, followers, at)))
    if args.images or every:
        calls.append(("images", images, "images", lambda main, at: main(images, seed, args.jobs, progress=at)))
    if every:
        calls.append(("disk, pauses, clocks, two daemons", 0, "world", lambda main, at: main()))
    target = show.console()
    counted: dict[str, int] = {}
    broken = 0
    for name, total, module, call in calls:
        try:
            function = import_module(f"copyd.sim.torture.{module}").main
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("copyd.sim"):
                raise
            raise UsageError(f"level c, {name}: not part of this build") from None
        with show.Bar(name, total) as bar:
            result = call(function, bar.at)
        target.print(result.text(), markup=False)
        for violation in result.violations:
            target.print(f"  {violation}", style="bold red", markup=False)
        broken += len(result.violations)
        for id_, count in result.faults.items():
            counted[id_] = counted.get(id_, 0) + count
    if not args.no_coverage and every:
        target.print(show.coverage_table({"C": counted}))
    return 1 if broken else 0
