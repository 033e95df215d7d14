"""The journal: append to durable, group commit, file growth. Each benchmark checks what it wrote.

    pytest bench/bench_journal.py                           with statistics
    python -m bench.bench_journal [--records N] [--path D]  percentiles and throughput, open loop, as JSON

Timed: ``append`` on the loop to the future of ``committed`` resumed on the loop, strict durability unless named. Excluded: making
the payload. The disk decides the figures: state it with them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from copyd.journal import Journal, Reader
from copyd.journal.check import check
from copyd.journal.writer import Durability

MAP_BYTES = 8 << 30
SMALL = 200
LARGE = 600 * 1024
PAUSE_S = 0.03


def percentile(sorted_ns: list[int], share: float) -> float:
    """Nearest rank, in us."""
    return sorted_ns[min(len(sorted_ns) - 1, int(len(sorted_ns) * share))] / 1000


async def durable_latency(journal: Journal, payload: bytes, count: int, pause_s: float) -> list[int]:
    """ns from append to resumed, one record at a time."""
    journal.attach(asyncio.get_running_loop())
    taken = []
    for _ in range(count):
        start = time.perf_counter_ns()
        await journal.committed(journal.append(1, start, (payload,)))
        taken.append(time.perf_counter_ns() - start)
        if pause_s:
            await asyncio.sleep(pause_s)
    return sorted(taken)


async def throughput(journal: Journal, payload: bytes, count: int, window: int) -> float:
    """Records per second with up to ``window`` records under way."""
    journal.attach(asyncio.get_running_loop())
    start = time.perf_counter()
    for index in range(count):
        seq = journal.append(1, index, (payload,))
        if seq - journal.durable_seq >= window:
            await journal.committed(seq - window // 2)
    await journal.committed(journal.last_seq)
    return count / (time.perf_counter() - start)


def verify(path: Path, records: int) -> None:
    """Everything that was timed is there and whole."""
    findings = check(path)
    assert findings.ok, findings.findings
    assert findings.last_seq == records


@pytest.mark.parametrize(("name", "size"), [("200B", SMALL), ("600KiB", LARGE)])
@pytest.mark.parametrize("durability", ["strict", "process"])
def test_append_to_durable(benchmark: Any, tmp_path: Path, name: str, size: int, durability: Durability) -> None:
    """One record, appended and waited for."""
    payload = os.urandom(size)
    with Journal.open(tmp_path / "j", site=1, map_size=MAP_BYTES, durability=durability) as journal:
        benchmark.pedantic(lambda: journal.wait(journal.append(1, 0, (payload,)), 30), rounds=20, warmup_rounds=2)
        written = journal.last_seq
    verify(tmp_path / "j", written)


def test_group_commit(benchmark: Any, tmp_path: Path) -> None:
    """A thousand small records queued at once."""
    payload = os.urandom(SMALL)

    def burst() -> None:
        for _ in range(1000):
            seq = journal.append(1, 0, (payload,))
        journal.wait(seq, 30)

    with Journal.open(tmp_path / "j", site=1, map_size=MAP_BYTES) as journal:
        benchmark.pedantic(burst, rounds=5, warmup_rounds=1)
        written = journal.last_seq
    verify(tmp_path / "j", written)


def test_iterate(benchmark: Any, tmp_path: Path) -> None:
    """Reading back with CRC and chain checked."""
    with Journal.open(tmp_path / "j", site=1, map_size=MAP_BYTES) as journal:
        for index in range(2000):
            journal.append(1, index, (bytes(SMALL),))
        journal.flush(30)
    with Reader(tmp_path / "j") as reader:
        assert benchmark.pedantic(lambda: sum(record.seq for record in reader.iterate()), rounds=3) == 2000 * 2001 // 2


def measure(path: Path, records: int) -> dict[str, Any]:
    """The figures for a report."""
    result: dict[str, Any] = {"file_system": os.fspath(path), "python": sys.version.split()[0]}
    written = 0
    for durability in ("strict", "process"):
        for name, size, count in (("200B", SMALL, records), ("600KiB", LARGE, max(20, records // 4))):
            target = path / f"{durability}-{name}"
            with Journal.open(target, site=1, map_size=MAP_BYTES, durability=durability) as journal:
                asyncio.run(durable_latency(journal, os.urandom(size), 10, 0))
                time.sleep(0.5)  # the runway is prepared while idle
                taken = asyncio.run(durable_latency(journal, os.urandom(size), count, PAUSE_S))
                result[f"{durability} {name} us"] = {
                    f"p{share:g}": percentile(taken, share / 100) for share in (50, 90, 99, 99.9)
                } | {"max": taken[-1] / 1000}
                if name == "200B":
                    for window in (64, 4096):
                        rate = asyncio.run(throughput(journal, os.urandom(size), records * 10, window))
                        result[f"{durability} {name} records/s, {window} under way"] = round(rate)
                else:
                    rate = asyncio.run(throughput(journal, os.urandom(size), count, 8))
                    result[f"{durability} {name} MiB/s"] = round(rate * size / 2**20)
                written = journal.last_seq
            verify(target, written)
            result[f"{durability} {name} file bytes per payload byte"] = round(
                (target / "data.mdb").stat().st_size / (written * size), 3
            )
    target = path / "reuse"
    with Journal.open(target, site=1, map_size=MAP_BYTES) as journal:
        sizes = []
        for _ in range(10):
            asyncio.run(throughput(journal, os.urandom(LARGE), 20, 8))
            journal.checkpoint(journal.last_seq, (b"state",))
            journal.flush(60)
            journal.drop_before(journal.last_seq)
            journal.flush(60)
            sizes.append((target / "data.mdb").stat().st_size)
        taken = asyncio.run(durable_latency(journal, os.urandom(LARGE), 20, PAUSE_S))
        result["reused pages 600KiB us"] = {"p50": percentile(taken, 0.5), "max": taken[-1] / 1000}
        result["file MiB, 10 rounds of 20 x 600KiB with drops"] = [round(size / 2**20, 1) for size in sizes]
        written = journal.last_seq
    verify(target, written)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=400)
    parser.add_argument("--path", type=Path, help="directory on the disk to measure (default: the temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.path) as scratch:
        print(json.dumps(measure(Path(scratch), options.records), indent=2))


if __name__ == "__main__":
    main()
