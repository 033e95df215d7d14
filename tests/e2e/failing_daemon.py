"""`copyd run` that gives up when told by SIGUSR2, as it would when a part of it that cannot be missed has ended."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

from copyd import app
from copyd.cli import main
from copyd.errors import BrokenInvariant, VenueUnavailable

start = app.Daemon.start


async def start_and_listen(daemon: Any) -> None:
    """The daemon's own start, and then two signals."""
    await start(daemon)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, daemon.fail, VenueUnavailable("a part of the daemon has ended"))
    loop.add_signal_handler(signal.SIGUSR1, daemon._offer, BrokenInvariant)  # an input the engine cannot take: a broken rule


app.Daemon.start = start_and_listen  # type: ignore[method-assign]
sys.exit(main(sys.argv[1:]))
