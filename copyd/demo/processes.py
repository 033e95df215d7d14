"""The demo's child processes: started by name, ended by their own id, never outliving the demo."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from copyd.children import end_with_parent
from copyd.errors import WorldError

PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class Child:
    """One process with its output in a file. In a session of its own, so that Ctrl-C reaches only the demo."""

    def __init__(self, name: str, arguments: list[str], log: Path, cwd: Path) -> None:
        self.name = name
        self.arguments = arguments
        self.log = log
        self.cwd = cwd
        self.process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start it with this Python; output is appended to the log."""
        environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
        environment["PYTHONUNBUFFERED"] = "1"
        package_root = str(PACKAGE_ROOT)
        paths = [package_root, *environment.get("PYTHONPATH", "").split(os.pathsep)]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *self.arguments, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.cwd,
                env=environment, start_new_session=True, preexec_fn=end_with_parent,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self.process is not None and self.running:
            os.kill(self.process.pid, signal.SIGKILL)

    async def wait(self, seconds: float) -> int | None:
        """The exit code, or None when it still runs after the time."""
        if self.process is None:
            return None
        try:
            return await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            return None

    async def end(self, seconds: float = 15.0) -> int | None:
        """SIGTERM, and SIGKILL when that does not help in time."""
        if not self.running:
            return self.process.returncode if self.process else None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        code = await self.wait(seconds)
        if code is None:
            self.kill()
            code = await self.wait(5)
        return code

    def tail(self, lines: int = 15) -> str:
        """The end of its log, for a message about why it is gone."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def check(self) -> None:
        """Raise with the log's end when it is not running any more."""
        if not self.running:
            code = self.process.returncode if self.process else None
            raise WorldError(f"{self.name} ended with code {code}; its last words:\n{self.tail()}")

    def memory_bytes(self) -> int:
        """Resident memory now."""
        if self.running:
            with contextlib.suppress(OSError, ValueError, IndexError):
                pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
                return pages * os.sysconf("SC_PAGE_SIZE")
        return 0


async def run_to_end(name: str, arguments: list[str], log: Path, cwd: Path, seconds: float) -> int:
    """A command that ends by itself; its exit code (124 when it did not end in time)."""
    child = Child(name, arguments, log, cwd)
    await child.start()
    try:
        code = await child.wait(seconds)
        return 124 if code is None else code
    finally:
        child.kill()
