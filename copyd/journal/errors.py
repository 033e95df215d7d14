"""What can go wrong with a journal, each with the exit code the daemon ends with.

JournalError (copyd.errors)
├── JournalLocked       another process holds it                                                exit 75
├── JournalForeign      not a copyd journal, a newer format, another site, an unfit file system  exit 65
├── JournalDamaged      bytes that are not what was written; ``seq`` names the record            exit 65
├── JournalUnreadable    the system would not open or read it (no descriptors, no memory, no rights, EIO)  exit 74
├── JournalWriteError   a commit failed (map full, disk full, EIO); nothing more is acknowledged exit 74
└── JournalMisused      ours: used after a fork, after close, or with an argument that makes no sense  exit 70
"""

from __future__ import annotations

from copyd.errors import JournalError

__all__ = [
    "JournalDamaged",
    "JournalError",
    "JournalForeign",
    "JournalLocked",
    "JournalMisused",
    "JournalUnreadable",
    "JournalWriteError",
]


class JournalLocked(JournalError):
    """Another process holds the journal; ``pid`` is its process id, 0 when it could not be read."""

    exit_code = 75

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class JournalForeign(JournalError):
    """The file is whole but not ours to write: not a copyd journal, a newer format, another site, a network disk."""

    exit_code = 65


class JournalDamaged(JournalError):
    """Bytes on disk are not the bytes that were written. ``seq`` is the record (0: not tied to one record)."""

    exit_code = 65

    def __init__(self, message: str, seq: int = 0) -> None:
        super().__init__(message)
        self.seq = seq


class JournalUnreadable(JournalError):
    """The system would not open or read the file; nothing is said about what is in it."""

    exit_code = 74


class JournalWriteError(JournalError):
    """A commit failed. Every sequence above the last acknowledged one must be taken as not written."""

    exit_code = 74


class JournalMisused(JournalError):
    """The journal object was used where it must not be (after fork, after close); a mistake of ours."""

    exit_code = 70
