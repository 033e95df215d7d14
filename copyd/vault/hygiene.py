"""A process that holds keys leaves no image of its memory behind."""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4


def no_dumps() -> None:
    """No core file, by limit; not dumpable, by ``prctl``: neither a handler the kernel pipes dumps to nor another process of the
    same user reads this one's memory. Where the kernel knows no such call the limit alone holds."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
