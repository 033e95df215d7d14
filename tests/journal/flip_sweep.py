"""Every byte of a small journal, flipped one at a time: reported when anything depends on it, without effect when nothing does.

    python -m tests.journal.flip_sweep            every byte, three ways to change it (some minutes)
    python -m tests.journal.flip_sweep --step 97  every 97th byte, one way

For each flip the journal is verified, and when verification is silent the whole content is read through LMDB and compared
with the original. A flip may be silent only where the content stays the same; a flip in a byte that the clean walk went
by must be reported, and where that byte belongs to records, with one of them.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import lmdb

from copyd.journal import Journal
from copyd.journal.check import Findings, check

MASKS = (0x01, 0x80, 0xFF)


class Range(NamedTuple):
    """Bytes the clean verification depended on, and the records they belong to (0: none in particular)."""

    start: int
    length: int
    first: int
    last: int


def build(path: Path, seed: int) -> None:
    """A journal with everything in it: short and overflow records, a branch page, checkpoints, epochs, free pages, drops."""
    source = random.Random(seed)
    for start in range(3):
        with Journal.open(path, site=0x51AB, map_size=1 << 20, runway_bytes=0) as journal:
            for index in range(60 if start else 40):
                size = source.choice((0, 1, 17, 60, 200, 300)) if index % 20 else source.choice((3000, 9001))
                journal.append(
                    source.randrange(5), index * 1_000_000, (source.randbytes(size // 2), source.randbytes(size - size // 2))
                )
                if index % 7 == 0:
                    journal.flush(20)
            journal.flush(20)
            journal.checkpoint(journal.last_seq, (source.randbytes(2500 * start + 700),))
            journal.flush(20)
            if start == 1:
                journal.drop_before(20)
                journal.flush(20)
    (path / "lock.mdb").unlink()


def live_ranges(path: Path) -> list[Range]:
    ranges: list[Range] = []
    result = check(path, trace=lambda at, length, first, last: ranges.append(Range(at, length, first, last)))
    if not result.ok:
        raise AssertionError(f"the untouched journal is not clean: {result.findings}")
    return ranges


def content(path: Path) -> dict[tuple[bytes, bytes], bytes]:
    """Everything a reader can get, through LMDB alone."""
    found = {}
    with lmdb.open(str(path), readonly=True, lock=False, max_dbs=4, map_size=1 << 20) as env:
        for name in (b"log", b"checkpoint"):
            database = env.open_db(name, create=False)
            with env.begin(db=database) as txn:
                found.update({(name, key): value for key, value in txn.cursor()})
        with env.begin() as txn:
            found[b"", b"state"] = txn.get(b"copyd.state")
    return found


class Outcome(NamedTuple):
    """Counts by what became of the flips, and what must not be (offset, mask, words)."""

    counts: dict[str, int]
    wrong: list[str]


def sweep(path: Path, offsets: list[int], masks: tuple[int, ...] = MASKS) -> Outcome:
    """Flip, verify, compare, restore; ``path`` is a private copy."""
    ranges = live_ranges(path)
    original = content(path)
    owner: dict[int, Range] = {}
    for one in ranges:
        owner.update(dict.fromkeys(range(one.start, one.start + one.length), one))
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    with (path / "data.mdb").open("r+b", buffering=0) as file:
        for offset in offsets:
            was = os.pread(file.fileno(), 1, offset)
            for mask in masks:
                os.pwrite(file.fileno(), bytes([was[0] ^ mask]), offset)
                verdict = judge(path, check(path), owner.get(offset), original)
                counts[verdict] += 1
                if verdict.startswith("WRONG"):
                    wrong.append(f"offset {offset} (page {offset // 4096} + {offset % 4096}) ^ {mask:#04x}: {verdict}")
            os.pwrite(file.fileno(), was, offset)
    return Outcome(dict(counts), wrong)


def judge(path: Path, result: Findings, owner: Range | None, original: dict[tuple[bytes, bytes], bytes]) -> str:
    if result.ok:
        if content(path) != original:
            return "WRONG: other content, not reported"
        return "silent, nothing depends on it" if owner is None else "WRONG: a live byte, not reported"
    if owner is None:
        return f"WRONG: reported ({result.findings[0].message}) though nothing depends on it"
    if owner.first or owner.last:
        first, last = owner.first, owner.last or 1 << 62
        if not any(one.seq_first <= last and one.seq_last >= first and one.seq_first for one in result.findings):
            return f"WRONG: records {first} to {last} not named: {result.findings[0].message}"
        return "reported with its record"
    return "reported"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pages", help="only these pages, as first:last")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as scratch:
        path = Path(scratch) / "journal"
        build(path, options.seed)
        size = (path / "data.mdb").stat().st_size
        low, high = 0, size
        if options.pages:
            first, _, last = options.pages.partition(":")
            low, high = int(first) * 4096, (int(last or first) + 1) * 4096
        random.seed(options.seed)
        offsets = [at + random.randrange(options.step) for at in range(low, high, options.step)]
        outcome = sweep(path, [at for at in offsets if at < size], MASKS if options.step == 1 else MASKS[:1])
        for verdict, count in sorted(outcome.counts.items()):
            print(f"{count:8d}  {verdict}")
        for line in outcome.wrong[:50]:
            print(line)
        print(f"{size} bytes, {len(outcome.wrong)} wrong, seed {options.seed}")
        shutil.rmtree(path)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
