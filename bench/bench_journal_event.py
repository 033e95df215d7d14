"""One leader event's record, with a decision and a named order per follower: appended until durable.

``COPYD_BENCH_FOLLOWERS`` sets the size.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from copyd.bench import world
from copyd.core.engine import LeaderFill, decode_payload
from copyd.journal import Journal, Reader
from copyd.journal.writer import Durability
from copyd.kinds import kind_of

FOLLOWERS = int(os.environ.get("COPYD_BENCH_FOLLOWERS", "200"))
NOW = world.S_NS


@pytest.mark.parametrize("durability", ["strict", "process"])
def test_event_append_to_durable(benchmark: Any, tmp_path: Path, durability: Durability) -> None:
    """What was appended is read back as the engine gave it."""
    engine = world.make_engine(FOLLOWERS)
    trade = world.LeaderTrade(1, 1, world.LEADER_LOTS, world.PX)
    engine.step(NOW, world.quotes(trade, NOW))
    value: LeaderFill = world.leader_fill(trade, NOW)
    out = engine.step(NOW, value)
    assert out is not None
    kind, parts = kind_of(value), out.payload()
    with Journal.open(tmp_path / "j", site=world.SITE, map_size=4 << 30, durability=durability) as journal:
        benchmark.pedantic(lambda: journal.wait(journal.append(kind, NOW, parts), 30), rounds=20, warmup_rounds=2)
    with Reader(tmp_path / "j") as reader:
        records = list(reader.iterate())
    assert len(records) >= 1
    for record in records:
        recorded = decode_payload(record.payload)
        assert (recorded.decisions, recorded.named) == (out.decisions, out.named)
    benchmark.extra_info["bytes"] = sum(map(len, parts))
