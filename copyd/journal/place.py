"""Where a journal may live, who holds it and which epochs were taken there: the lock file, the file system, the epoch mark."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from pathlib import Path

from copyd.journal.errors import JournalForeign, JournalLocked

DATA_FILE = "data.mdb"
LOCK_FILE = "copyd.lock"
EPOCH_FILE = "copyd.epoch"

#: File systems whose memory maps or locks are not those of one machine: LMDB's rules do not hold on them.
UNFIT_FILE_SYSTEMS = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
        *("ocfs2", "orangefs", "pvfs2", "smb3", "smbfs", "vboxsf", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
    )
)

_OCTAL = re.compile(r"\\([0-7]{3})")


def file_system_type(path: Path, mountinfo: str = "/proc/self/mountinfo") -> str:
    """The file system ``path`` is on, by the kernel's mount table (``ext4``, ``nfs4``); empty when the table says nothing."""
    real = os.path.realpath(path)
    best, kind = -1, ""
    try:
        lines = Path(mountinfo).read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])  # the kernel writes a space as \040
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # a later mount on the same point hides the earlier one
            best, kind = len(point), right.split(" ", 1)[0]
    return kind


def refuse_unfit_file_system(path: Path, mountinfo: str = "/proc/self/mountinfo") -> None:
    """Network and shared file systems are refused: memory maps and locks there do not hold (LMDB's caveats)."""
    kind = file_system_type(path, mountinfo)
    if kind in UNFIT_FILE_SYSTEMS:
        raise JournalForeign(f"{path}: on a {kind} file system; the journal needs a disk of this machine")


def lock(path: Path) -> int:
    """Take the daemon's lock in directory ``path``; returns the descriptor that holds it until closed.

    ``flock`` goes with the process: the file a dead daemon left behind is no obstacle.
    """
    fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        for attempts_left in range(9, -1, -1):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not attempts_left:
                    raise
                time.sleep(0.02)  # a tool that only asks who holds the journal takes the lock for a moment
    except OSError as error:
        pid = _pid_in(fd)
        os.close(fd)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        holder = f"process {pid}" if pid else "another process"
        raise JournalLocked(f"{path}: held by {holder}; one daemon per journal, stop that one first", pid) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def holder(path: Path) -> int:
    """Process id of the daemon that holds the journal now, 0 when none does (or it did not say)."""
    try:
        fd = os.open(path / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _pid_in(fd) or -1
    finally:
        os.close(fd)
    return 0


def _pid_in(fd: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(os.pread(fd, 32, 0))
    return 0


def sync_directory(path: Path) -> None:
    """A renamed file is only found after a power cut when its directory is on disk too."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def epoch_mark(path: Path) -> int:
    """The highest epoch ever taken in this directory, 0 when it does not say: it outlives a data file that is replaced."""
    try:
        text = (path / EPOCH_FILE).read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return 0
    if not text.isascii() or not text.isdigit():
        raise JournalForeign(f"{path / EPOCH_FILE}: not an epoch: {text[:40]!r}")
    return int(text)


def mark_epoch(path: Path, epoch: int) -> None:
    """Remember the epoch, whole or not at all, before anything is done under it."""
    aside = path / f"{EPOCH_FILE}.new"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        os.write(fd, b"%d\n" % epoch)
        os.fsync(fd)
    finally:
        os.close(fd)
    aside.rename(path / EPOCH_FILE)
    sync_directory(path)
