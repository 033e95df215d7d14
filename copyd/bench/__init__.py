"""``copyd bench``: latency with its conditions. ``fanout`` measures the whole path, ``stages`` each part alone."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from copyd.errors import OperatorError

__all__ = ["main"]

BENCHES = {
    "fanout": "leader event bytes received -> first and last follower order handed to the kernel, on real sockets",
    "compare": "the same beside a plain C program, asyncio and Go, in turn on one machine: ratios and targets",
    "sustained": "orders out, every reply and user event booked, for as long as it runs: orders per second of processor time",
    "batch": "leader event in hand -> first and last record handed to the kernel by the batch gateway; orders/s sustained",
    "restart": "memory per follower, size and time of a checkpoint, restart from it with records behind it",
    "venues": "each venue's adapter: rendering beside the first venue's, orders/s on its dialect, connections, memory",
    "recovery": "SIGKILL of the real daemon in mid fan-out; from the next process start until it is armed",
    "stages": "the pytest-benchmark suites of bench/: each stage alone, each result checked",
}


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 when measured and checked, 1 when the check failed, 2 usage."""
    try:
        options = _parser().parse_args(list(argv))
    except SystemExit as end:
        return int(end.code or 0)
    if options.list:
        width = max(map(len, BENCHES))
        print("\n".join(f"{name:<{width}}  {text}" for name, text in BENCHES.items()))
        for path, text in _suites():
            print(f"{'':<{width}}  {path.name}: {text}")
        return 0
    if options.bench is None:
        _parser().print_help()
        return 2
    done: int = options.run(options)
    return done


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="copyd bench", description="Latency benchmarks with their conditions.")
    parser.add_argument("--list", action="store_true", help="name every benchmark and end")
    commands = parser.add_subparsers(dest="bench", metavar="{" + ",".join(BENCHES) + "}")

    fanout = commands.add_parser("fanout", help=BENCHES["fanout"], description=BENCHES["fanout"])
    fanout.add_argument("--followers", type=_positive, default=1_000, metavar="N")
    fanout.add_argument("--connections", type=_positive, default=4, metavar="C")
    fanout.add_argument("--events", type=_positive, default=50, metavar="E", help="measured leader events")
    fanout.add_argument("--warmup", type=int, default=9, metavar="W", help="events before them, not measured")
    fanout.add_argument("--rate", type=float, default=0.0, metavar="R", help="leader events per second (default: by followers)")
    fanout.add_argument("--durability", choices=("strict", "process", "none"), default="strict")
    fanout.add_argument("--journal", type=Path, metavar="DIR", help="make the journal below DIR (default: temporary directory)")
    fanout.add_argument("--threads", type=int, choices=(1, 2), default=1, help="that render and sign")
    fanout.add_argument("--tls", action="store_true", help="orders and the leader's stream over TLS")
    fanout.add_argument("--seed", type=int, default=1, help="same seed, same orders")
    fanout.add_argument("--json", type=Path, metavar="FILE")
    fanout.add_argument("--hdr", type=Path, metavar="FILE", help="histograms in the HdrHistogram log format")
    fanout.set_defaults(run=_fanout)

    compare = commands.add_parser("compare", help=BENCHES["compare"], description=BENCHES["compare"])
    compare.add_argument("--followers", type=_positive, default=10_000, metavar="N", help="also a tenth and ten times as many")
    compare.add_argument("--rounds", type=_positive, default=None, metavar="R", help="in turn (default: 5, with --quick 2)")
    compare.add_argument("--quick", action="store_true", help="few repetitions, neither the largest size nor the delay line")
    compare.add_argument("--journal", type=Path, metavar="DIR", help="make the journals below DIR (default: temporary directory)")
    compare.add_argument("--seed", type=int, default=1)
    compare.add_argument("--json", type=Path, metavar="FILE")
    compare.add_argument("--hdr", type=Path, metavar="FILE", help="the open-loop histograms in the HdrHistogram log format")
    compare.add_argument("--plot", type=Path, metavar="FILE", help="arrival of each order at the peer, all programs, as SVG")
    compare.set_defaults(run=_compare)

    sustained = commands.add_parser("sustained", help=BENCHES["sustained"], description=BENCHES["sustained"])
    sustained.add_argument("--followers", type=_positive, default=10_000, metavar="N")
    sustained.add_argument("--connections", type=_positive, default=4, metavar="C", help="order connections")
    sustained.add_argument("--streams", type=_positive, default=4, metavar="S", help="user stream connections")
    sustained.add_argument("--instruments", type=_positive, default=3, metavar="I", help="leader events on their way at once")
    sustained.add_argument("--events", type=_positive, default=60, metavar="E", help="measured leader events")
    sustained.add_argument("--warmup", type=int, default=6, metavar="W", help="events before them, not measured")
    sustained.add_argument("--durability", choices=("strict", "process", "none"), default="strict")
    sustained.add_argument(
        "--journal", type=Path, metavar="DIR", help="make the journal below DIR (default: temporary directory)")
    sustained.add_argument("--seed", type=int, default=1)
    sustained.add_argument("--json", type=Path, metavar="FILE")
    sustained.set_defaults(run=_sustained)

    batch = commands.add_parser("batch", help=BENCHES["batch"], description=BENCHES["batch"])
    batch.add_argument("--followers", type=_positive, default=10_000, metavar="N")
    batch.add_argument("--events", type=_positive, default=50, metavar="E", help="measured leader events")
    batch.add_argument("--warmup", type=int, default=9, metavar="W", help="events before them, not measured")
    batch.add_argument("--rest-ms", type=float, default=20.0, metavar="MS", help="idle between two events")
    batch.add_argument("--sustained", type=float, default=0.0, metavar="S", help="instead: one event behind the other for S s")
    batch.add_argument("--durability", action="append", choices=("strict", "process", "none"), help="default: all three in turn")
    batch.add_argument("--chunk", type=_positive, default=2_048, metavar="N", help="most records packed and sent at a time")
    batch.add_argument("--unix", action="store_true", help="over a Unix socket instead of TCP")
    batch.add_argument("--journal", type=Path, metavar="DIR", help="make the journal below DIR (default: temporary directory)")
    batch.add_argument("--seed", type=int, default=1)
    batch.add_argument("--json", type=Path, metavar="FILE")
    batch.set_defaults(run=_batch)

    restart = commands.add_parser("restart", help=BENCHES["restart"], description=BENCHES["restart"])
    restart.add_argument("--followers", type=_positive, default=1_000, metavar="N")
    restart.add_argument("--records", type=_positive, default=20, metavar="R", help="leader events behind the checkpoint")
    restart.add_argument("--journal", type=Path, metavar="DIR", help="make the journal below DIR (default: temporary directory)")
    restart.add_argument("--seed", type=int, default=1)
    restart.add_argument("--json", type=Path, metavar="FILE")
    restart.set_defaults(run=_restart)

    recovery = commands.add_parser("recovery", help=BENCHES["recovery"], description=BENCHES["recovery"])
    recovery.add_argument("--followers", type=_positive, default=10_000, metavar="N")
    recovery.add_argument("--orders", type=_positive, default=1_000_000, metavar="M", help="journaled orders before the kill")
    recovery.add_argument("--rows", type=_positive, default=64, metavar="R", help="reports in one journal record")
    recovery.add_argument("--connections", type=_positive, default=4, metavar="C")
    recovery.add_argument("--journal", type=Path, metavar="DIR", help="make the journal below DIR (default: temporary directory)")
    recovery.add_argument("--seed", type=int, default=1)
    recovery.add_argument("--json", type=Path, metavar="FILE")
    recovery.set_defaults(run=_recovery)

    venues = commands.add_parser("venues", help=BENCHES["venues"], description=BENCHES["venues"])
    venues.add_argument("--venue", action="append", metavar="KIND", help="the first is the yardstick (default: all)")
    venues.add_argument("--accounts", type=_positive, default=200, metavar="N", help="on each venue")
    venues.add_argument("--rounds", type=_positive, default=10, metavar="R", help="of an order per account")
    venues.add_argument("--encoded", type=_positive, default=2_000, metavar="N", help="orders rendered at a time")
    venues.add_argument("--turns", type=_positive, default=30, metavar="T", help="how often each renders them")
    venues.add_argument("--seed", type=int, default=1)
    venues.add_argument("--json", type=Path, metavar="FILE")
    venues.set_defaults(run=_venues)

    stages = commands.add_parser("stages", help=BENCHES["stages"], description=BENCHES["stages"])
    stages.add_argument("--followers", type=_positive, default=10_000, metavar="N")
    stages.add_argument("--orders", type=_positive, default=20_000, metavar="N", help="of the simulated exchange's suites")
    stages.add_argument("--only", default="", metavar="WORD", help="suites whose name contains it")
    stages.add_argument("--json", type=Path, metavar="FILE")
    stages.set_defaults(run=_stages)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be positive")
    return value


def _write_json(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        public = {name: value for name, value in report.items() if not name.startswith("_")}
        path.write_text(json.dumps(public, indent=2) + "\n")


def _fanout(options: argparse.Namespace) -> int:
    from copyd.bench import fanout
    from copyd.telemetry.hdr import write_hdr

    began = time.time()
    report = fanout.run(fanout.Settings(
        followers=options.followers, connections=options.connections, events=options.events, warmup=max(0, options.warmup),
        rate=options.rate, durability=options.durability, journal=options.journal, seed=options.seed,
        threads=options.threads, tls=options.tls,
    ))
    print(fanout.table(report))
    _write_json(options.json, report)
    if options.hdr is not None:
        write_hdr(options.hdr, fanout.histograms(report), began, time.time())
    return 0 if report["checked"] else 1


def _compare(options: argparse.Namespace) -> int:
    from copyd.bench import compare
    from copyd.bench.plot import skew_svg
    from copyd.telemetry.hdr import write_hdr

    began = time.time()
    report = compare.run(compare.Settings(
        followers=options.followers, rounds=options.rounds or (2 if options.quick else 5), quick=options.quick, seed=options.seed,
        journal=options.journal,
    ))
    print(compare.table(report))
    _write_json(options.json, report)
    if options.hdr is not None:
        write_hdr(options.hdr, report["_histograms"], began, time.time())
    if options.plot is not None:
        n = options.followers
        named = {f"copyd {n}": "copyd", f"floor {n}": "C floor", "floor threads": "C floor, two threads", "asyncio": "asyncio",
                 "go": "Go"}
        curves = {name: report["_curves"][key] for key, name in named.items() if key in report["_curves"]}
        options.plot.write_text(skew_svg(f"{n:,} signed orders: from the event to the peer", curves))
    return 0 if report["checked"] else 1


def _sustained(options: argparse.Namespace) -> int:
    from copyd.bench.sustained import Settings, run, table

    report = run(Settings(
        followers=options.followers, connections=options.connections, streams=options.streams, instruments=options.instruments,
        events=options.events, warmup=max(0, options.warmup), durability=options.durability, journal=options.journal,
        seed=options.seed,
    ))
    print(table(report))
    _write_json(options.json, report)
    return 0 if report["checked"] else 1


def _batch(options: argparse.Namespace) -> int:
    from copyd.bench.batch import Settings, run, table

    reports = [
        run(Settings(
            followers=options.followers, events=options.events, warmup=max(0, options.warmup), durability=durability,
            rest_ms=0.0 if options.sustained > 0 else max(0.001, options.rest_ms), seconds=options.sustained,
            chunk_max=options.chunk, unix=options.unix, journal=options.journal,
            seed=options.seed,
        ))
        for durability in options.durability or ("none", "process", "strict")
    ]
    print(table(reports))
    _write_json(options.json, {"bench": "batch", "runs": reports})
    return 0 if all(report["checked"] for report in reports) else 1


def _restart(options: argparse.Namespace) -> int:
    from copyd.bench.restart import run, table

    report = run(options.followers, options.records, options.seed, options.journal)
    print(table(report))
    _write_json(options.json, report)
    return 0 if report["checked"] else 1


def _venues(options: argparse.Namespace) -> int:
    from copyd.bench.venues import VENUES, Settings, run, table

    report = run(Settings(
        venues=tuple(options.venue or VENUES), accounts=options.accounts, rounds=options.rounds, encoded=options.encoded,
        turns=options.turns, seed=options.seed,
    ))
    print(table(report))
    _write_json(options.json, report)
    return 0 if report["checked"] else 1


def _recovery(options: argparse.Namespace) -> int:
    from copyd.bench.recovery import Settings, run, table

    report = run(Settings(
        followers=options.followers, orders=options.orders, seed=options.seed, connections=options.connections,
        directory=options.journal, rows_per_report=options.rows,
    ))
    print(table(report))
    _write_json(options.json, report)
    return 0 if report["checked"] else 1


def _suite_directory() -> Path:
    return Path(__file__).resolve().parents[2] / "bench"


def _suites() -> list[tuple[Path, str]]:
    found = []
    for path in sorted(_suite_directory().glob("bench_*.py")):
        text = path.read_text().lstrip().splitlines()[0].strip('"')
        found.append((path, text))
    return found


def _stages(options: argparse.Namespace) -> int:
    import os
    import subprocess
    import sys

    suites = [path for path, _ in _suites() if options.only in path.name]
    if not suites:
        raise OperatorError(f"no suites in {_suite_directory()}: they are part of the source tree, not of the installed package")
    environment = {
        **os.environ, "COPYD_BENCH_FOLLOWERS": str(options.followers), "COPYD_BENCH_ORDERS": str(options.orders)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=600", "--benchmark-only",
               "--benchmark-columns=min,median,max,stddev,rounds", *map(str, suites)]
    if options.json is not None:
        command.append(f"--benchmark-json={options.json}")
    return subprocess.run(command, env=environment, cwd=_suite_directory().parent, check=False).returncode
