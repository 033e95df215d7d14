"""``copyd bench restart``: memory per follower, and how long a restart takes with records behind the checkpoint.

Memory is measured in a process of its own, step by step, so that one step's garbage is not another's figure.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from copyd.bench import world
from copyd.bench.conditions import conditions, file_system
from copyd.core.engine import Reports
from copyd.errors import WorldError
from copyd.inspect.rebuild import fold
from copyd.journal import Journal
from copyd.kinds import kind_of, pack_checkpoint

EXCLUDED = (
    "what the venue answers at a start: exchange information, snapshots, questions about unfinished orders",
    "follower user streams (their buffers and listen keys)",
)


def write_journal(path: Path, followers: int, events: int, seed: int) -> bytes:
    """A journal with plans, a checkpoint behind them, and ``events`` answered leader events; the state it leaves, packed."""
    from copyd.core.engine import Engine

    engine, now = Engine(), world.S_NS
    with Journal.open(path, site=world.SITE, map_size=16 << 30, durability="process") as journal:

        def offer(value: Any) -> bytes:
            outputs = engine.step(now, value)
            assert outputs is not None
            journal.append(kind_of(value), now, outputs.payload())
            return outputs.named

        for value in world.opening_inputs(followers, seed):
            offer(value)
        journal.checkpoint(engine.names.seq, [pack_checkpoint(engine)])
        journal.flush(60)
        for trade in world.schedule(events, seed):
            now += world.S_NS
            offer(world.quotes(trade, now))
            offer(Reports(world.filled(offer(world.leader_fill(trade, now)), now).to_bytes()))
        journal.flush(60)
    return pack_checkpoint(engine)


def rss_bytes() -> int:
    """Resident memory of this process now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory(followers: int, seed: int) -> dict[str, int]:
    """Resident bytes after each step: program, keys in the encoder, engine with all plans, every follower in a position."""
    steps = {"program": rss_bytes()}
    keys = [world.key(seed, account) for account in range(followers)]
    encoder = world.encoder(followers, seed)
    steps["keys"] = rss_bytes()
    engine = world.make_engine(followers, seed)
    steps["plans"] = rss_bytes()
    now = world.S_NS
    for trade in world.schedule(1, seed):
        engine.step(now, world.quotes(trade, now))
        out = engine.step(now, world.leader_fill(trade, now))
        assert out is not None
        encoder.encode(engine.columns, world.slots_of(out), 1)
        engine.step(now, Reports(world.filled(out.named, now).to_bytes()))
    del out
    steps["one_event"] = rss_bytes()
    assert len(keys) == followers
    return steps


def run(followers: int, records: int, seed: int, journal: Path | None) -> dict[str, Any]:
    """The report."""
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(followers), str(seed)], capture_output=True, text=True, timeout=300, check=False)
    if child.returncode:
        raise WorldError(f"the measuring process failed: {child.stderr.strip()[-300:]}")
    steps = json.loads(child.stdout)
    with tempfile.TemporaryDirectory(prefix="copyd-bench-", dir=journal) as directory:
        path = Path(directory) / "journal"
        left = write_journal(path, followers, records, seed)
        size = (path / "data.mdb").stat().st_size
        kind = file_system(path)
        began = time.perf_counter()
        with Journal.open(path, site=world.SITE, map_size=16 << 30) as opened:
            verified = time.perf_counter()
            engine = fold(opened.reader)
            folded = time.perf_counter()
            world.encoder(followers, seed)
            keyed = time.perf_counter()
        checked = pack_checkpoint(engine) == left
    began_pack = time.perf_counter()
    blob = pack_checkpoint(engine)
    packed = time.perf_counter()
    return {
        "bench": "restart", "followers": followers, "leader_events_behind_checkpoint": records, "journal_bytes": size,
        "open_and_verify_ms": round((verified - began) * 1e3, 1), "rebuild_ms": round((folded - verified) * 1e3, 1),
        "keys_ms": round((keyed - folded) * 1e3, 1), "total_ms": round((keyed - began) * 1e3, 1),
        "checkpoint_ms": round((packed - began_pack) * 1e3, 2), "checkpoint_bytes": len(blob),
        "rss_bytes": steps, "rss_per_follower": round((steps["one_event"] - steps["program"]) / followers),
        "checked": checked, "conditions": conditions(EXCLUDED, journal_file_system=kind),
    }


def table(report: dict[str, Any]) -> str:
    """The report for a person."""
    steps = report["rss_bytes"]
    facts = report["conditions"]
    rows = [
        f"restart with {report['followers']} followers, {report['leader_events_behind_checkpoint']} leader events behind the "
        f"checkpoint ({report['journal_bytes'] / 2**20:.0f} MiB of journal)", "",
        f"{'open, verify the tail':<34}{report['open_and_verify_ms']:>10.1f} ms",
        f"{'rebuild: checkpoint, then records':<34}{report['rebuild_ms']:>10.1f} ms",
        f"{'keys to the encoder':<34}{report['keys_ms']:>10.1f} ms",
        f"{'together':<34}{report['total_ms']:>10.1f} ms",
        f"{'a checkpoint, on the loop':<34}{report['checkpoint_ms']:>10.1f} ms  {report['checkpoint_bytes'] / 2**20:.1f} MiB", "",
    ]
    before = 0
    for name, bytes_ in steps.items():
        rows.append(f"{'memory: ' + name:<34}{bytes_ / 2**20:>10.1f} MiB  +{(bytes_ - before) / 2**20:.1f}")
        before = bytes_
    rows += [f"{'per follower':<34}{report['rss_per_follower']:>10} bytes", "",
             "checked: the rebuilt state is the one that was left" if report["checked"] else "NOT checked: another state",
             "", "conditions: " + ", ".join(f"{k} {v}" for k, v in facts.items() if k != "excluded" and v is not None),
             *(f"excluded: {text}" for text in facts["excluded"])]
    return "\n".join(rows)


if __name__ == "__main__":
    print(json.dumps(memory(int(sys.argv[1]), int(sys.argv[2]))))
