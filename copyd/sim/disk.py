"""The journal of a simulated machine: what is written, what is on disk, and what a crash leaves of it.

The disk outlives the process. A commit takes time; what is appended while one runs joins the next. A crash in the middle of
a commit leaves either everything before it or everything with it, never a mix (durability D0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from copyd.errors import CopydError
from copyd.sim.world import MS, US, World


class DiskFailed(CopydError):
    """A commit failed: nothing is known to be durable that was not before."""

    exit_code = 74


class Stored(NamedTuple):
    """One durable record."""

    seq: int
    kind: int
    epoch: int
    ts_ns: int
    payload: bytes


class Disk:
    """The medium: durable records, the epoch counter, and the latest checkpoint if there is one."""

    __slots__ = ("checkpoint", "epoch", "foretold", "records")

    def __init__(self) -> None:
        self.records: list[Stored] = []
        self.epoch = 0
        self.checkpoint: tuple[int, bytes] | None = None
        self.foretold: dict[int, tuple[bytes, ...]] = {}
        """What the record behind an announcement must say: orders may have left by it (kept by the judge, on no disk)."""

    def copy(self) -> Disk:
        """The same contents on another machine."""
        other = Disk()
        other.records, other.epoch, other.checkpoint = list(self.records), self.epoch, self.checkpoint
        other.foretold = {seq: content for seq, content in self.foretold.items() if seq <= len(self.records) + 1}
        return other


class Journal:
    """The pump's journal: appends are volatile, a commit moves them to the disk after a while."""

    def __init__(
        self, world: World, disk: Disk, owner: Any, epoch: int, on_durable: Callable[[int], None],
        on_failed: Callable[[BaseException], None], on_append: Callable[[int, int, Sequence[bytes]], None],
    ) -> None:
        self.world, self.disk, self.owner, self.epoch = world, disk, owner, epoch
        self.on_durable, self.on_failed, self.on_append = on_durable, on_failed, on_append
        self.durable_seq = len(disk.records)
        self.seq = self.durable_seq
        self.failed = False
        self.slow_until = 0
        self._waiting: list[Stored] = []
        self._committing: list[Stored] = []

    def append(self, kind: int, ts_ns: int, parts: Sequence[bytes]) -> int:
        """One record; durable later."""
        self.owner.crashpoint("pre_append")
        self.seq += 1
        record = Stored(self.seq, kind, self.epoch, ts_ns, b"".join(parts))
        self._waiting.append(record)
        self.on_append(self.seq, kind, parts)
        if not self._committing and not self.failed:
            self._commit()
        self.owner.crashpoint("post_append")
        return self.seq

    def _commit(self) -> None:
        world = self.world
        draws = world.draws
        self._committing, self._waiting = self._waiting, []
        delay = 200 * US + draws.draw("disk.commit", 600) * US
        if world.now < self.slow_until:
            delay += draws.draw("disk.slow", 300) * MS
        elif draws.fault("J23", 8_000):
            self.slow_until = world.now + draws.param("J23", "for", 100, 4_000) * MS
            delay += draws.param("J23", "ms", 5, 500) * MS
        world.at(world.now + delay, self.owner, self._committed)

    def _committed(self) -> None:
        if self.failed:
            return
        draws = self.world.draws
        for name in ("J12", "J13", "J10", "J09", "P11"):
            if draws.fault(name, 700):
                self._fail(name)
                return
        self.owner.crashpoint("pre_commit")
        self._to_disk()
        self.owner.crashpoint("post_commit")
        if self._waiting:
            self._commit()
        self.on_durable(self.durable_seq)

    def finish(self) -> None:
        """The disk is quick: what was appended is durable before the process goes on. ``on_durable`` follows when it may."""
        if not self.failed:
            self.owner.crashpoint("pre_commit")
            self._committing += self._waiting
            self._waiting = []
            self._to_disk()
            self.owner.auditor.durable(self.durable_seq)
            self.owner.crashpoint("post_commit")

    def _to_disk(self) -> None:
        if self._committing:
            self.disk.records += self._committing
            self._committing = []
        self.durable_seq = len(self.disk.records)

    def _fail(self, name: str) -> None:
        """The commit is an error: what it was to write may be on disk all the same, unless it was refused for room."""
        self.failed = True
        if name in ("J12", "J13") and self.world.draws.param(name, "written", 0, 1):
            self._to_disk()
        self._committing, self._waiting = [], []
        self.on_failed(DiskFailed(f"commit failed ({name})"))

    def crashed(self) -> int:
        """The process is gone: the image that is found. Returns how many records it holds."""
        draws = self.world.draws
        if self._committing and not self.failed:
            draws.count("J05")
            if draws.draw("disk.image", 2):
                self._to_disk()
        self._committing, self._waiting = [], []
        self.failed = True
        return len(self.disk.records)
