"""Every call of a journal's life fails once, or is the last one: exhaustive where ``kill`` and ``images`` draw.

    python -m copyd.sim.torture.calls --seed 1

A small workload (creation, commits, checkpoints, retention, further starts) is run once per case in a forked child under the
shim. The case says which call (data page, meta page, sync, open of the data file; the k-th) and what happens there: EIO once,
ENOSPC from there on, no descriptor, a kill before it, behind it, or with half of it done. The child must end by saying so
(exit code of a journal error) or by the signal; then the journal is judged as after a power cut: verified, complete up to
the last word, and taken up by the next start.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from copyd.journal import JournalError
from copyd.sim.torture import Summary, Tally
from copyd.sim.torture.images import ROOT, Disk, Image, Said, Start, judge, work
from copyd.sim.torture.nursery import take_over
from copyd.sim.torture.shim import Act, Change, Control, Op


class Case(NamedTuple):
    """What happens at the k-th call."""

    op: Op
    k: int
    act: Act
    arg: int
    fault: str


KILLS = ((Act.KILL_BEFORE, 0, "J01"), (Act.KILL_AFTER, 0, "J01"))
WAYS = {
    Op.DATA: ((Act.FAIL_ONCE, errno.EIO, "J12"), (Act.FAIL_FROM, errno.ENOSPC, "J10"), (Act.KILL_TORN, 500, "J06"), *KILLS),
    Op.META: ((Act.FAIL_ONCE, errno.EIO, "J13"), (Act.FAIL_FROM, errno.EIO, "J13"), *KILLS),
    Op.SYNC: ((Act.FAIL_ONCE, errno.EIO, "J12"), (Act.FAIL_FROM, errno.ENOSPC, "J10"), *KILLS),
    Op.OPEN: ((Act.FAIL_ONCE, errno.EMFILE, "P10"),),
}


def cases(counts: dict[Op, int]) -> Iterator[Case]:
    """Every call in every way."""
    for op, ways in WAYS.items():
        for k in range(1, counts[op] + 1):
            for act, arg, fault in ways:
                yield Case(op, k, act, arg, fault)


def run(folder: Path, seed: int, control: Control, case: Case | None) -> int:
    """The workload in a forked child; its exit code, negative for a signal."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    control.reset()
    if case is not None:
        control.rule(case.op, case.act, case.k, case.arg)
    control.adopt(-1)  # nobody until the child takes over
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            take_over()
            asyncio.run(work(folder, seed))
            code = 0
        except JournalError as error:
            code = error.exit_code
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def said(folder: Path) -> Said:
    """What the workload had been told before it ended."""
    disk = Disk(Start(str(folder), [], Said()))
    marks = folder / "marks"
    raw = marks.read_bytes() if marks.exists() else b""
    disk.take(Change("W", 0, "/marks", "", 0, len(raw), raw[: len(raw) // 9 * 9]))
    return disk.said


def verdict(folder: Path, case: Case, code: int) -> str:
    """What is wrong with the way it ended, or with what it left."""
    if case.act in (Act.KILL_BEFORE, Act.KILL_AFTER, Act.KILL_TORN):
        if code not in (0, -signal.SIGKILL):
            return f"ended with {code}"
    elif code not in (0, 74):
        return f"ended with {code}, not with 74"
    try:
        return judge(folder, Image(0, "", {}, said(folder)))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def serve(seed: int, folder: Path) -> None:
    """Under the shim: every case, one line of JSON each."""
    control = Control.again(Path(os.environ["TORTURE_CONTROL"]))
    code = run(folder, seed, control, None)
    counts = {op: control.count(op) for op in WAYS}
    print(msgspec.json.encode({"code": code, "counts": {op.name: n for op, n in counts.items()}}).decode(), flush=True)
    for case in cases(counts):
        code = run(folder, seed, control, case)
        hits = control.hits(case.op)
        problem = verdict(folder, case, code)
        point = f"{case.act.name.lower()} {case.op.name.lower()}"
        print(msgspec.json.encode({
            "case": f"{point} {case.k}", "point": point,
            "fault": case.fault, "hits": hits, "code": code, "problem": problem,
        }).decode(), flush=True)


def main(seed: int = 1) -> Summary:
    """Every case of one workload."""
    tally = Tally("journal calls", "cases")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="copyd-calls-", dir=memory) as scratch:
        control = Control(Path(scratch) / "control")
        child = subprocess.Popen(
            [sys.executable, "-m", "copyd.sim.torture.calls", "--serve", str(Path(scratch) / "folder"), "--seed", str(seed)],
            cwd=ROOT, env={**os.environ, **control.environment()}, stdout=subprocess.PIPE, text=True,
        )
        assert child.stdout is not None
        for line in child.stdout:
            row = msgspec.json.decode(line)
            if "counts" in row:
                tally.counters.update(row["counts"])
                if row["code"]:
                    tally.violation(f"seed {seed}: without a fault it ends with {row['code']}")
                continue
            tally.summary.done += 1
            if row["hits"]:
                tally.points[row["point"]] += 1
                tally.faults[row["fault"]] += row["hits"]
            if row["problem"]:
                tally.violation(f"seed {seed}, {row['case']} (exit {row['code']}): {row['problem']}")
        if child.wait(10):
            tally.violation(f"seed {seed}: the run itself ended with {child.returncode}")
        control.close()
    return tally.finish()


def command() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.serve:
        serve(options.seed, options.serve)
        return 0
    summary = main(options.seed)
    print(summary.text())
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(command())
