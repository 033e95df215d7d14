"""Checkpoints and restart: the whole state to bytes and back, and the fold over the records behind it.

``COPYD_BENCH_FOLLOWERS`` sets the size.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from copyd.bench import restart, world
from copyd.inspect.rebuild import fold
from copyd.journal import Reader
from copyd.kinds import pack_checkpoint, unpack_checkpoint

FOLLOWERS = int(os.environ.get("COPYD_BENCH_FOLLOWERS", "200"))
EVENTS = 4


def test_pack_checkpoint(benchmark: Any) -> None:
    """On the loop, between events: what a daemon stands still for."""
    engine = world.make_engine(FOLLOWERS)
    blob = benchmark.pedantic(pack_checkpoint, args=(engine,), rounds=10)
    assert pack_checkpoint(unpack_checkpoint(blob)) == blob
    benchmark.extra_info["bytes_per_follower"] = round(len(blob) / FOLLOWERS)


def test_restore_checkpoint(benchmark: Any) -> None:
    """The inverse."""
    engine = world.make_engine(FOLLOWERS)
    blob = pack_checkpoint(engine)
    restored = benchmark.pedantic(unpack_checkpoint, args=(blob,), rounds=5)
    assert restored.checkpoint() == engine.checkpoint()


def test_rebuild(benchmark: Any, tmp_path: Path) -> None:
    """From the journal: the latest checkpoint and the records behind it give the state that was left."""
    left = restart.write_journal(tmp_path / "j", FOLLOWERS, EVENTS, seed=1)
    with Reader(tmp_path / "j") as reader:
        engine = benchmark.pedantic(lambda: fold(reader), rounds=3)
    assert pack_checkpoint(engine) == left
