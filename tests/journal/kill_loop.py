"""SIGKILL the writing process at a random moment, again and again; every acknowledged record must be there.

    python -m tests.journal.kill_loop --rounds 200 --seed 1

Each round starts a writer on the same journal, which appends records of mixed sizes, makes checkpoints, drops old records, and
writes to a pipe each number it was told is durable. The parent kills it after a random time and verifies the journal.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from copyd.journal import Journal, Reader
from copyd.journal.check import check

ROOT = Path(__file__).resolve().parents[2]


async def write(path: str, seed: int) -> None:
    """The writer: never ends by itself."""
    source = random.Random(seed)
    with Journal.open(path, site=3, map_size=256 << 20) as journal:

        def acknowledge(seq: int) -> None:
            os.write(1, seq.to_bytes(8, "big"))

        journal.attach(asyncio.get_running_loop(), on_durable=acknowledge)
        os.write(1, journal.last_seq.to_bytes(8, "big"))
        while True:
            for _ in range(source.choice((1, 1, 1, 5, 50))):
                size = source.choice((0, 40, 200, 200, 3000, 100_000))
                seq = journal.append(1, 0, (seq_bytes(journal.last_seq + 1), bytes(size)))
            if source.random() < 0.05:
                journal.checkpoint(seq, (seq_bytes(seq), bytes(source.choice((10, 2_000_000)))))
            if source.random() < 0.05 and (checkpoint := journal.latest_checkpoint()):
                journal.drop_before(checkpoint.seq)
            await journal.committed(seq)


def seq_bytes(seq: int) -> bytes:
    """What a record of the writer starts with: its own number, so that content is checked, not only framing."""
    return b"%020d" % seq


def kill_once(path: Path, seed: int, lifetime_s: float) -> tuple[int, int]:
    """One life of the writer; returns (last acknowledged, last found) and raises AssertionError on any loss."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.journal.kill_loop", "--write", str(path), "--seed", str(seed)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    pipe = child.stdout.fileno()
    said = b""
    try:
        if not select.select([pipe], [], [], 30)[0]:
            raise AssertionError("the writer did not start within 30 s")
        deadline = time.monotonic() + lifetime_s
        while (left := deadline - time.monotonic()) > 0:
            if select.select([pipe], [], [], left)[0]:
                said += os.read(pipe, 65536)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    while more := os.read(pipe, 65536):
        said += more
    child.stdout.close()
    acknowledged = [int.from_bytes(said[at : at + 8], "big") for at in range(0, len(said) - 7, 8)]
    assert acknowledged, "the writer said nothing"
    findings = check(path)
    assert findings.ok, findings.findings
    with Reader(path) as reader:
        state = reader.state()
        assert state.last_seq >= acknowledged[-1], f"record {acknowledged[-1]} was acknowledged, {state.last_seq} is the last"
        for record in reader.iterate():
            assert record.payload[:20] == seq_bytes(record.seq)
        checkpoint = reader.latest_checkpoint()
        assert checkpoint is None or checkpoint.payload[:20] == seq_bytes(checkpoint.seq)
    return acknowledged[-1], state.last_seq


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.write:
        asyncio.run(write(options.write, options.seed))
        return
    source = random.Random(options.seed)
    last = 0
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            acknowledged, found = kill_once(Path(scratch) / "journal", options.seed * 100_000 + number, source.uniform(0, 0.4))
            assert last <= acknowledged <= found
            last = found
            print(f"round {number + 1}/{options.rounds}: {acknowledged} acknowledged, {found} found", flush=True)


if __name__ == "__main__":
    main()
