"""What a journal says, for people: rebuild it (replay), check it (verify), and why an order is what it is (explain).

``rebuild`` is the fold; ``claims`` the decision export; ``twin`` the readable rules run beside the kernel on the state a
record found. Nothing here writes to a journal or talks to a daemon.
"""

from __future__ import annotations

from pathlib import Path


def replay(journal: Path, decisions: Path | None = None) -> int:
    """``copyd replay``; see :mod:`copyd.inspect.export`."""
    from copyd.inspect.export import replay as run

    return run(journal, decisions)


def verify(journal: Path, sample: int | None = None) -> int:
    """``copyd verify``; see :mod:`copyd.inspect.checks`."""
    from copyd.inspect.checks import verify as run

    return run(journal, sample)


def explain(journal: Path, client_order_id: str = "", event: str = "", follower: str = "", json: bool = False) -> int:
    """``copyd explain``; see :mod:`copyd.inspect.reasons`."""
    from copyd.inspect.reasons import explain as run

    return run(journal, client_order_id, event, follower, json)
