"""Many seeds over several processes: who ran, what was counted, and what became of a process that died or never came back.

Each worker is a fresh interpreter with a hash seed of its own, fed with tasks over a pipe, one JSON line per task and one
per finished seed. A worker that dies, or stays on one seed beyond the limit, is a failure of that seed; its remaining seeds
go to a new worker.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import inspect
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from copyd.errors import OperatorError

RUNNER = "copyd.sim.run:run_seed"
LIMIT_S = 30.0
START_S = 60.0
CHUNK_MAX = 64
COLLECT_EVERY = 32
"""A worker takes up its garbage after so many seeds, and at no other time."""
PROGRESS_S = 0.25
#: Names of failures the auditor did not find: the run raised, its process died, or it did not end.
RAISED, DIED, HUNG = "RAISED", "DIED", "HUNG"


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """One violation, as it crosses the pipe."""

    invariant: str
    t: int
    text: str


class Report(msgspec.Struct, array_like=True):
    """One finished seed."""

    seed: int
    steps: int = 0
    sim_ns: int = 0
    wall_us: int = 0
    faults: dict[str, int] = {}
    crash_points: dict[str, int] = {}
    violations: list[Failure] = []
    digest: str = ""
    counters: dict[str, int] = {}
    fired: list[tuple[str, int]] = []
    """Which faults fired, in order; only of a seed that failed."""
    cpu_us: int = 0


class Task(msgspec.Struct):
    """Seeds for one worker. ``stop``: the first seed that fails ends the task; ``rules``: only these count, if given."""

    seeds: list[int]
    options: dict[str, Any] = {}
    mutant: str = ""
    keep: list[tuple[str, int]] | None = None
    stop: bool = False
    rules: list[str] = []
    name: str = ""


def load(runner: str) -> tuple[Callable[..., Any], Any]:
    """A runner ``module:function`` or ``file.py:function``, and the options type of its module."""
    place, _, name = runner.partition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None:
            raise OperatorError(f"no runner at {place}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name and place.startswith(error.name):
                raise OperatorError(f"this build has no {place}") from None
            raise
    return getattr(module, name), getattr(module, "Options", None)


def option_names(options_type: Any) -> list[str]:
    """Field names of an options struct or dataclass."""
    names = getattr(options_type, "__struct_fields__", None) or getattr(options_type, "__dataclass_fields__", ())
    return list(names or ())


class Runner:
    """Runs seeds in this process and turns what comes back, or what is raised, into a ``Report``."""

    def __init__(self, runner: str = RUNNER) -> None:
        self.spec = runner
        self.run_seed, self.options_type = load(runner)
        self.takes = set(inspect.signature(self.run_seed).parameters)
        if "options" not in self.takes:
            self.options_type = None

    def options(self, options: dict[str, Any]) -> Any:
        """The options as the runner takes them; ``OperatorError`` names the one it does not know."""
        if self.options_type is None and not options:
            return None
        names = option_names(self.options_type)
        for name in options:
            if name not in names:
                raise OperatorError(f"unknown option {name!r}: {', '.join(sorted(names))}")
        return msgspec.convert(options, self.options_type)

    def __call__(
        self, seed: int, options: dict[str, Any] | None = None, mutant: str = "",
        keep: Iterable[tuple[str, int]] | None = None, trace: Any = None,
    ) -> Report:
        """One seed; an exception of the product is a failure of the seed."""
        kept = None if keep is None else {(name, int(n)) for name, n in keep}
        given = self.options(options or {})
        began, cpu = time.perf_counter_ns(), time.process_time_ns()
        try:
            arguments = {"options": given, "mutant": mutant, "keep": kept, "trace": trace}
            with _mutated(mutant):
                result = self.run_seed(seed, **{name: value for name, value in arguments.items() if name in self.takes})
        except Exception as error:
            return Report(seed, wall_us=(time.perf_counter_ns() - began) // 1000, violations=[_raised(error)])
        report = Report(
            seed, result.steps, result.sim_ns, (time.perf_counter_ns() - began) // 1000, dict(result.faults),
            dict(result.crash_points), [Failure(v.invariant, v.t, v.text) for v in result.violations], result.digest,
            dict(result.counters), cpu_us=(time.process_time_ns() - cpu) // 1000,
        )
        if report.violations:
            report.fired = [(name, int(n)) for name, n in result.fired]
        return report


def _mutated(name: str) -> AbstractContextManager[Any]:
    if not name:
        return nullcontext()
    from copyd.sim.mutants import mutated

    return mutated(name)


def _without(mutant: str) -> str:
    """What a mutant is compared with: the product in the same setting."""
    from copyd.sim.mutants import setting_of

    return setting_of(mutant)


def _raised(error: Exception) -> Failure:
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames[-4:]))
    return Failure(RAISED, 0, f"{type(error).__name__}: {error} ({places})")


# -- the worker's side ----------------------------------------------------------------------------------------------------


def work() -> None:
    """A worker: tasks from stdin, reports to stdout, until stdin ends."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever prints must not speak on the pipe
    runner = Runner(sys.argv[sys.argv.index("--worker") + 1])
    out.write(b"ready\n")
    encode = msgspec.json.Encoder().encode
    done = 0
    for line in sys.stdin.buffer:
        task = msgspec.json.decode(line, type=Task)
        for seed in task.seeds:
            report = runner(seed, task.options, task.mutant, task.keep)
            if task.rules:
                report.violations = [failure for failure in report.violations if failure.invariant in task.rules]
            if task.mutant and report.violations and runner(seed, task.options, _without(task.mutant), task.keep).violations:
                report.violations = []  # not the mutant's doing
            out.write(encode(report) + b"\n")
            tidy(done)
            done += 1
            if task.stop and report.violations:
                break
        out.write(b"done\n")


def tidy(done: int) -> None:
    """After a seed: what a history leaves behind goes now and then; what the first one loaded is never looked at again."""
    if done == 0:
        gc.collect()
        gc.freeze()
        gc.disable()
    elif done % COLLECT_EVERY == 0:
        gc.collect()


# -- the other side -------------------------------------------------------------------------------------------------------


class _Worker:
    """One child process and the task it is on."""

    def __init__(self, runner: str, hash_seed: str) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "copyd.sim.sweep", "--worker", runner], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, env=environment, bufsize=0, process_group=0,  # an interrupt from the keyboard is for the sweep
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self.buffer = b""
        self.ready = False
        self.task: Task | None = None
        self.at = 0
        self.since = time.monotonic()

    def give(self, task: Task) -> None:
        """Hand over a task; the clock of its first seed starts."""
        self.task, self.at, self.since = task, 0, time.monotonic()
        try:
            self.stdin.write(msgspec.json.encode(task) + b"\n")
        except BrokenPipeError:
            return  # its end is seen where its silence is

    def lines(self) -> list[bytes] | None:
        """What it said since; None when it has ended."""
        data = self.stdout.read(1 << 20)
        if data == b"":
            return None
        *lines, self.buffer = (self.buffer + (data or b"")).split(b"\n")
        return lines

    def end(self, kill: bool = False) -> str:
        """Wait for its end, or end it; what it wrote on stderr last."""
        if kill:
            self.process.kill()
        self.stdin.close()
        self.process.wait()
        self.stdout.close()
        size = self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, size - 600))
        text = self.errors.read().decode(errors="replace").strip()
        self.errors.close()
        return " | ".join(text.splitlines()[-4:])


class Pool:
    """Runs tasks on ``jobs`` workers; ``reports`` yields (task, report) as they come, with None when a task has ended."""

    def __init__(self, jobs: int, runner: str = RUNNER, limit_s: float = LIMIT_S, hash_seed: str = "random") -> None:
        self.jobs, self.runner, self.limit_s, self.hash_seed = max(1, jobs), runner, limit_s, hash_seed
        self.workers: list[_Worker] = []
        self.stopped = False

    def reports(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Report | None]]:
        """Every seed of every task exactly once, unless ``stop`` was called or the task stopped itself."""
        waiting = iter(tasks)
        again: deque[Task] = deque()
        selector = selectors.DefaultSelector()
        first = next(waiting, None)
        if first is None:
            return
        again.append(first)
        ended = False

        def take() -> Task | None:
            nonlocal ended
            if again:
                return again.popleft()
            task = None if ended else next(waiting, None)
            ended = ended or task is None
            return task

        def start() -> None:
            worker = _Worker(self.runner, self.hash_seed)
            self.workers.append(worker)
            selector.register(worker.stdout, selectors.EVENT_READ, worker)

        def drop(worker: _Worker) -> None:
            selector.unregister(worker.stdout)
            self.workers.remove(worker)

        try:
            for _ in range(self.jobs):
                start()
            while self.workers and not self.stopped:
                for key, _ in selector.select(0.25):
                    worker: _Worker = key.data
                    lines = worker.lines()
                    if lines is None:
                        drop(worker)
                        yield from self._lost(worker, DIED, again)
                        if not worker.ready:
                            raise OperatorError(f"a worker of the simulator does not start: {worker.end()}")
                        start()
                        continue
                    for line in lines:
                        yield from self._said(worker, line)
                    if worker.ready and worker.task is None:
                        task = take()
                        if task is not None:
                            worker.give(task)
                now = time.monotonic()
                for worker in list(self.workers):
                    if worker.ready and worker.task is None and (task := take()) is not None:
                        worker.give(task)
                    elif worker.ready and worker.task is None and not again:
                        drop(worker)
                        worker.end()
                    elif now - worker.since > (self.limit_s if worker.ready else START_S):
                        drop(worker)
                        if not worker.ready:
                            raise OperatorError(f"a worker of the simulator does not start: {worker.end(kill=True)}")
                        yield from self._lost(worker, HUNG, again)
                        start()
        finally:
            for worker in self.workers:
                worker.end(kill=True)
            self.workers.clear()
            selector.close()

    def stop(self) -> None:
        """No more seeds; ``reports`` ends."""
        self.stopped = True

    def _said(self, worker: _Worker, line: bytes) -> Iterator[tuple[Task, Report | None]]:
        worker.since = time.monotonic()
        if line == b"ready":
            worker.ready = True
        elif worker.task is None:
            return
        elif line == b"done":
            task, worker.task = worker.task, None
            yield task, None
        else:
            worker.at += 1
            yield worker.task, msgspec.json.decode(line, type=Report)

    def _lost(self, worker: _Worker, how: str, again: deque[Task]) -> Iterator[tuple[Task, Report | None]]:
        """A worker ended, or must: the seed it was on has failed, the seeds behind it are taken up again."""
        task = worker.task
        if task is None:
            return
        said = worker.end(kill=how == HUNG)
        code = worker.process.returncode
        seed = task.seeds[worker.at] if worker.at < len(task.seeds) else task.seeds[-1]
        text = f"no end after {self.limit_s:g} s" if how == HUNG else f"the process ended with {code}"
        yield task, Report(seed, violations=[Failure(how, 0, f"{text}{': ' + said if said else ''}")])
        rest = task.seeds[worker.at + 1 :]
        if rest and not task.stop:
            again.append(msgspec.structs.replace(task, seeds=rest))
        else:
            yield task, None


# -- sweeps ---------------------------------------------------------------------------------------------------------------


class Summary(msgspec.Struct):
    """What a sweep counted."""

    seeds: int = 0
    steps: int = 0
    sim_ns: int = 0
    wall_s: float = 0.0
    busy_us: int = 0
    jobs: int = 1
    faults: dict[str, int] = {}
    crash_points: dict[str, int] = {}
    counters: dict[str, int] = {}
    failed: list[Report] = []
    slowest_seed: int = -1
    slowest_us: int = 0
    cpu_us: int = 0
    interrupted: str = ""
    """The signal that ended it before its last seed."""

    def add(self, report: Report) -> None:
        """One more seed."""
        self.seeds += 1
        self.steps += report.steps
        self.sim_ns += report.sim_ns
        self.busy_us += report.wall_us
        self.cpu_us += report.cpu_us
        for total, counts in (
            (self.faults, report.faults), (self.crash_points, report.crash_points), (self.counters, report.counters),
        ):
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count
        if report.wall_us > self.slowest_us:
            self.slowest_seed, self.slowest_us = report.seed, report.wall_us
        if report.violations:
            self.failed.append(report)

    @property
    def fault_total(self) -> int:
        """Faults injected, all ids."""
        return sum(self.faults.values())

    @property
    def steps_per_s_core(self) -> float:
        """Steps per second of one core, over the time spent in runs alone."""
        return self.steps * 1e6 / self.busy_us if self.busy_us else 0.0

    @property
    def steps_per_cpu_s(self) -> float:
        """Steps per second of processor time: what others do on the machine is left out."""
        return self.steps * 1e6 / self.cpu_us if self.cpu_us else 0.0

    @property
    def seeds_per_cpu_s(self) -> float:
        """Seeds per second of processor time."""
        return self.seeds * 1e6 / self.cpu_us if self.cpu_us else 0.0


Progress = Callable[[Summary], None]


def chunks(seeds: Iterable[int], size: int) -> Iterator[list[int]]:
    """Seeds in pieces."""
    part: list[int] = []
    for seed in seeds:
        part.append(seed)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def chunk_size(count: int, jobs: int) -> int:
    """Large enough to cost nothing, small enough that all workers end together."""
    return max(1, min(CHUNK_MAX, count // (4 * jobs)))


def sweep(
    seeds: range, jobs: int = 1, options: dict[str, Any] | None = None, mutant: str = "", runner: str = RUNNER,
    limit_s: float = LIMIT_S, progress: Progress | None = None, failures_max: int = 20,
) -> Summary:
    """Run the seeds; ends early after ``failures_max`` failed ones, or on SIGINT or SIGTERM. Counts as it goes, keeps nothing."""
    summary = Summary(jobs=jobs)
    began = told = time.monotonic()
    pool = Pool(jobs, runner, limit_s)
    size = chunk_size(len(seeds), jobs)
    with _ended_by_signal(pool, summary):
        for _, report in pool.reports(Task(part, options or {}, mutant) for part in chunks(seeds, size)):
            if report is None:
                continue
            summary.add(report)
            now = time.monotonic()
            summary.wall_s = now - began
            if progress is not None and (now - told >= PROGRESS_S or summary.seeds == len(seeds)):
                told = now
                progress(summary)
            if len(summary.failed) >= failures_max:
                pool.stop()
    summary.wall_s = time.monotonic() - began
    summary.failed.sort(key=lambda report: report.seed)
    return summary


@contextmanager
def _ended_by_signal(pool: Pool, summary: Summary) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the sweep in order; a second one does what it always does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(number: int, frame: FrameType | None) -> None:
        summary.interrupted = signal.Signals(number).name
        pool.stop()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        restore()


def memory_kib() -> int:
    """The most memory that any worker that has ended ever held."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


class Twice(msgspec.Struct):
    """Seeds run in two processes each, and those whose histories differ: (seed, digest, other digest)."""

    seeds: int = 0
    differ: list[tuple[int, str, str]] = []
    failed: list[Report] = []


def twice(
    seeds: Iterable[int], jobs: int = 1, options: dict[str, Any] | None = None, runner: str = RUNNER,
    limit_s: float = LIMIT_S, mutant: str = "", progress: Callable[[int], None] | None = None,
) -> Twice:
    """Each seed in two fresh processes with different hash seeds, in opposite order: what one leaves behind shows too."""
    wanted = list(seeds)
    result = Twice(len(wanted))
    size = chunk_size(len(wanted), jobs)
    digests: list[dict[int, str]] = []
    for hash_seed, order in (("1", wanted), ("4242", wanted[::-1])):
        found: dict[int, str] = {}
        tasks = (Task(part, options or {}, mutant) for part in chunks(order, size))
        for _, report in Pool(jobs, runner, limit_s, hash_seed).reports(tasks):
            if report is None:
                continue
            lost = any(failure.invariant in (DIED, HUNG) for failure in report.violations)
            found[report.seed] = "" if lost else digest_of(report)
            if report.violations and not digests:
                result.failed.append(report)
            if progress is not None:
                progress(len(found) + sum(map(len, digests)))
        digests.append(found)
    one, other = digests
    result.differ = [
        (seed, one.get(seed, ""), other.get(seed, "")) for seed in wanted if one.get(seed) != other.get(seed) or not one[seed]
    ]
    return result


def digest_of(report: Report) -> str:
    """The digest of a history; of one that raised, what was raised."""
    return report.digest or json.dumps([failure.text for failure in report.violations])


if __name__ == "__main__":
    work()
