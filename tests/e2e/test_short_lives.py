"""A daemon that never lives long still writes checkpoints: what the next start has to replay stays bounded."""

from __future__ import annotations

from collections.abc import Callable

from copyd.journal import Reader
from tests.e2e.harness import Stage, wait_for


def test_lives_shorter_than_a_checkpoint_add_up(stage: Callable[..., Stage]) -> None:
    """Killed before each could write one by itself, they write one together."""
    s = stage(1)
    s.config["journal"]["checkpoint_every_records"] = 100
    s.write_config()
    s.start([s.plan(0)])
    seqs = []
    for life in range(8):
        s.leader.buy("1.000")
        wait_for(lambda: s.lots()[s.names[0]] > 0, 10, s.daemon.tail)
        s.leader.flat()
        s.holds(0)
        s.quiet()
        seqs.append(s.status()["journal_seq"])
        s.daemon.kill()
        s.launch()
        s.wait_ready()
        if life and seqs[-1] - seqs[-2] >= 100:
            raise AssertionError(f"a life of {seqs[-1] - seqs[-2]} records shows nothing here")
    s.stop()
    with Reader(s.journal) as reader:
        known = reader.checkpoints()
    assert len(known) > 1, "the last is the one a stop writes"
    assert known[0] < seqs[-1]
    s.verified()
