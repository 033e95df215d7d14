"""Starts daemons without the half second Python takes to import them: imports once, then forks a child per life.

    python -m copyd.sim.torture.nursery        reads commands, one per line; ends with its input

    run CONFIG LOG     -> the child's process id; it runs `copyd run -c CONFIG` with its output in LOG
    wait PID           -> its exit code (negative: the signal) when it has ended

The child is the daemon as it ships, with the same modules loaded; only the interpreter's own start is not repeated. It takes
the shim's rules over (the nursery itself was started under the shim).
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import struct
import subprocess
import sys
from array import array
from importlib import import_module
from pathlib import Path

from copyd.sim.torture.stage import ROOT, Late


class Fork:
    """A daemon forked by a nursery; as :class:`copyd.sim.torture.stage.Process`."""

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self._nursery = nursery
        self.pid = pid
        self.log = log
        self._fd = os.pidfd_open(pid)
        self._code: int | None = None

    def _ended(self, seconds: float) -> bool:
        if self._code is None and select.select([self._fd], [], [], seconds)[0]:
            self._code = int(self._nursery.ask(f"wait {self.pid}"))
            os.close(self._fd)
        return self._code is not None

    @property
    def running(self) -> bool:
        return not self._ended(0)

    @property
    def code(self) -> int | None:
        """Exit code, None while it runs."""
        return self._code

    def signal(self, number: int) -> None:
        """Sent to this process alone."""
        if self._code is None:
            signal.pidfd_send_signal(self._fd, number)

    def wait(self, seconds: float) -> int:
        """Its exit code, negative for a signal."""
        if not self._ended(seconds):
            raise Late(f"process {self.pid} still runs after {seconds:g} s; its last words:\n{self.tail()}")
        assert self._code is not None
        return self._code

    def kill(self) -> int:
        """SIGKILL, if it still runs; its exit code."""
        self.signal(signal.SIGKILL)
        return self.wait(10)

    def tail(self, size: int = 2000) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")[-size:]
        return ""


class Nursery:
    """The other end of the pipe."""

    def __init__(self, env: dict[str, str] | None = None) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "copyd.sim.torture.nursery"], cwd=ROOT, env={**environment, **(env or {})},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )

    def ask(self, line: str) -> str:
        """One command, one answer."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()
        return self._child.stdout.readline().strip()

    def run(self, config: Path, log: Path) -> Fork:
        """A daemon."""
        log.unlink(missing_ok=True)
        return Fork(self, int(self.ask(f"run {config} {log}")), log)

    def close(self) -> None:
        """Ends it and whatever it still has running."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(20)


def take_over() -> None:
    """The shim's rules are for this process from now on."""
    path = os.environ.get("TORTURE_CONTROL")
    if path:
        with Path(path).open("r+b") as file:
            file.write(struct.pack("<q", os.getpid()))


def send_before_sync() -> None:
    """Orders leave when their record is queued, not when it is on disk."""
    from copyd.journal import Journal

    Journal.durable_seq = property(lambda journal: journal.last_seq)  # type: ignore[method-assign,assignment]


def forget_the_lock() -> None:
    """Any number of daemons on one journal."""
    from copyd.journal import place

    place.lock = lambda path: os.open(path / place.LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)


def resend() -> None:
    """An order in doubt is sent once more under its own id, beside being asked about."""
    from copyd.venue_side import VenueSide

    ask = VenueSide.query

    def query(side: VenueSide, slot: int, *more: int) -> None:
        side.send(side.render(array("I", [slot])))
        ask(side, slot, *more)

    VenueSide.query = query  # type: ignore[method-assign,assignment]


#: Daemons with a rule broken on purpose: the checks must see it.
MUTANTS = {one.__name__: one for one in (send_before_sync, forget_the_lock, resend)}


def serve() -> None:
    """The nursery itself; ``TORTURE_MUTANT`` names the rule its daemons break."""
    import copyd.app
    import copyd.control.commands
    import copyd.control.health
    import copyd.control.server
    import copyd.yamlcheck  # noqa: F401 - loaded for the children
    main = import_module("copyd.cli").main  # the program as a whole, as a user starts it

    if mutant := os.environ.get("TORTURE_MUTANT"):
        MUTANTS[mutant]()
    gc.collect()
    gc.freeze()
    living: set[int] = set()
    for line in iter(sys.stdin.readline, ""):
        words = line.split()
        if words[0] == "wait":
            _, status = os.waitpid(int(words[1]), 0)
            living.discard(int(words[1]))
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.setsid()
            null = os.open(os.devnull, os.O_RDONLY)
            out = os.open(words[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for fd, to in ((null, 0), (out, 1), (out, 2)):
                os.dup2(fd, to)
            os.close(null)
            os.close(out)
            take_over()
            code = 70
            try:
                code = main(["run", "-c", words[1]])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        living.add(pid)
        print(pid, flush=True)
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    serve()
