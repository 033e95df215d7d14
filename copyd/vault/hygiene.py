"""A process that holds keys leaves no image of its memory behind."""

from __future__ import annotations

import contextlib
import resource

from copyd._fast.process import set_dumpable


def no_dumps() -> None:
    """No core file, by limit; not dumpable: neither a handler the kernel pipes dumps to nor another process of the same user
    reads this one's memory.

    Where limits may not be changed (a service without that system call) the one it was started with stands: LimitCORE=0 in
    the unit.
    """
    set_dumpable(False)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
