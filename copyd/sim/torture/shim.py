"""The other side of shim.c: compiles it when it is needed and changes its rules while the process runs."""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from copyd.errors import WorldError

SOURCE = Path(__file__).with_name("shim.c")
CONTROL_BYTES = 4096
_HEAD_FIELDS = 2
_RULE_FIELDS = 5


class Op(IntEnum):
    """Calls the shim tells apart: journal data page, meta page, journal sync, an order to a socket, any send, journal open."""

    DATA = 0
    META = 1
    SYNC = 2
    ORDER = 3
    SEND = 4
    OPEN = 5


class Act(IntEnum):
    """What happens at the call a rule is for. ``arg``: errno, ns, or how much of a torn write is done in 1/1000."""

    NOTHING = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2
    KILL_TORN = 3
    FAIL_ONCE = 4
    FAIL_FROM = 5
    DELAY_FROM = 6
    STOP_BEFORE = 7


@functools.cache
def library() -> Path:
    """The compiled shim; raises WorldError where there is no C compiler."""
    source = SOURCE.read_bytes()
    name = f"copyd-shim-{os.getuid()}-{hashlib.blake2b(source, digest_size=8).hexdigest()}.so"
    path = Path(tempfile.gettempdir()) / name
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O2", "-o", str(part), str(SOURCE), "-ldl", "-lpthread"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise WorldError(f"the shim needs a C compiler: {command[0]}: {error.strerror}") from None
        if done.returncode:
            raise WorldError(f"the shim does not compile: {done.stderr.strip()}")
        part.replace(path)
    return path


class Control:
    """The memory shared with one process at a time: its counters, and the rules it obeys."""

    def __init__(self, path: Path, fresh: bool = True) -> None:
        self.path = path
        if fresh:
            path.write_bytes(bytes(CONTROL_BYTES))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), CONTROL_BYTES)

    @classmethod
    def again(cls, path: Path) -> Control:
        """The control somebody else made."""
        return cls(path, fresh=False)

    def adopt(self, pid: int) -> None:
        """The rules are for this process (-1: for nobody yet)."""
        self._set(0, pid)

    def environment(self, folder: Path | None = None, record: Path | None = None) -> dict[str, str]:
        """Variables that put a process under this control; with ``record`` every change below ``folder`` is recorded."""
        found = {"LD_PRELOAD": str(library()), "TORTURE_CONTROL": str(self.path)}
        if folder is not None and record is not None:
            found |= {"TORTURE_FOLDER": str(folder), "TORTURE_RECORD": str(record)}
        return found

    def _get(self, at: int) -> int:
        return int(struct.unpack_from("<q", self._memory, at * 8)[0])

    def _set(self, at: int, value: int) -> None:
        struct.pack_into("<q", self._memory, at * 8, value)

    def reset(self, pid: int = 0) -> None:
        """No rules, counters at zero, the clock right; the rules are for process ``pid``, or the next to be started."""
        self._memory[:] = bytes(CONTROL_BYTES)
        self._set(0, pid)

    def clock(self, offset_ns: int) -> None:
        """Steps the process's wall clock to this far from the true one."""
        self._set(1, offset_ns)

    def _at(self, op: Op, field: int) -> int:
        return _HEAD_FIELDS + op * _RULE_FIELDS + field

    def count(self, op: Op) -> int:
        """Calls so far."""
        return self._get(self._at(op, 0))

    def hits(self, op: Op) -> int:
        """Calls the rule was applied to."""
        return self._get(self._at(op, 4))

    def rule(self, op: Op, act: Act, k: int = 1, arg: int = 0) -> None:
        """``act`` at the k-th call from now."""
        self._set(self._at(op, 1), 0)
        self._set(self._at(op, 2), act)
        self._set(self._at(op, 3), arg)
        self._set(self._at(op, 4), 0)
        self._set(self._at(op, 1), self.count(op) + k)

    def clear(self, op: Op) -> None:
        """No rule for this call any more."""
        self._set(self._at(op, 1), 0)

    def close(self) -> None:
        self._memory.close()


_ENTRY = struct.Struct("<IIQqQ")


class Change(NamedTuple):
    """One recorded change. ``kind``: W write, E a write through O_DSYNC has returned, S sync, T truncate, C create,
    M mkdir, R rename, U remove."""

    kind: str
    inode: int
    path: str
    to: str
    offset: int
    length: int
    data: bytes


def changes(record: Path) -> Iterator[Change]:
    """What the shim recorded, in the order it happened."""
    raw = record.read_bytes()
    at = 0
    while at + _ENTRY.size <= len(raw):
        kind, paths, inode, offset, length = _ENTRY.unpack_from(raw, at)
        at += _ENTRY.size
        path, _, to = raw[at : at + paths].decode().partition("\0")
        at += paths
        data = b""
        if chr(kind) == "W":
            data = raw[at : at + length]
            if len(data) < length:
                return  # the process was killed while it wrote this
            at += length
        yield Change(chr(kind), inode, path, to, offset, length, data)
