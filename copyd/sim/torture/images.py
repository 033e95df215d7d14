"""Power cuts: a journal's writes are recorded, and every state of the disk a cut may have left is opened.

    python -m copyd.sim.torture.images --images 50000 --seed 1

A process under the shim works on a journal: creation, commits small and large, checkpoints, retention, close, another start.
The record gives, for any moment, what was synced and what was not. An image is all that was synced and, of the rest, what
one draw says: nothing, all, a beginning, any subset in any order, beginnings torn at 512 bytes, single sectors, or a file
that grew without its data. Directory entries that were not synced survive up to some point, in order.

Each image is verified in a forked child: the chain holds, nothing acknowledged is missing, the epoch does not come back,
a new start takes it up and writes on. What LMDB or we do on it, up to a crash of the process, is a finding, never an end.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from copyd.journal import Durability, Journal, Reader
from copyd.journal.check import check
from copyd.sim.torture import Summary, Tally
from copyd.sim.torture.shim import Change, Control, changes

SITE = 3
MAP_BYTES = 16 << 20
SECTOR = 512
ROOT = Path(__file__).resolve().parents[3]
IMAGE_TIMEOUT_S = 30.0
_MARK = struct.Struct("<cQ")


# --- the workload that is recorded -----------------------------------------------------------------------------------------


def payload(seq: int, more: int) -> tuple[bytes, bytes]:
    """What a record starts with: its own number, so that its content is checked and not only its frame."""
    return b"%020d" % seq, bytes(more)


class Marks:
    """What the workload was told, written among its writes: the record of the shim keeps both in one order."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def say(self, kind: bytes, value: int) -> None:
        """O epoch open, N record about to be appended, A durable, K checkpoint complete, D records to be dropped before."""
        os.write(self._fd, _MARK.pack(kind, value))


async def work(folder: Path, seed: int, durability: Durability = "strict") -> None:
    """Some lives of a journal; every word on durability is marked when it is given."""
    source = random.Random(seed)
    marks = Marks(folder / "marks")
    for life in range(source.choice((1, 2, 3))):
        runway = source.choice((0, 0, 256 << 10, 512 << 10))
        with Journal.open(
            folder / "journal", site=SITE, map_size=MAP_BYTES, runway_bytes=runway, durability=durability
        ) as journal:
            marks.say(b"O", journal.epoch)
            journal.attach(asyncio.get_running_loop(), on_durable=lambda seq: marks.say(b"A", seq))
            for _ in range(source.randrange(4, 14)):
                for _ in range(source.choice((1, 1, 1, 3, 30))):
                    marks.say(b"N", journal.last_seq + 1)
                    size = source.choice((0, 40, 200, 200, 1500, 3000, 20_000))
                    seq = journal.append(1, 0, payload(journal.last_seq + 1, size))
                await journal.committed(seq)
                if source.random() < 0.15:
                    journal.checkpoint(seq, payload(seq, source.choice((10, 9_000, 120_000))))
                    if source.random() < 0.7:
                        journal.flush(20)
                        marks.say(b"K", seq)
                if source.random() < 0.15 and (checkpoint := journal.latest_checkpoint()):
                    marks.say(b"D", checkpoint.seq)
                    journal.drop_before(checkpoint.seq)
                if source.random() < 0.2:
                    await asyncio.sleep(0.03)  # idle: the file is lengthened ahead
            if life == 0 and source.random() < 0.3:
                journal.flush(20)


def record(folder: Path, seed: int, durability: Durability = "strict") -> list[Change]:
    """Run the workload in a process under the shim, in ``folder`` (which may hold a journal already); what it changed."""
    control = Control(folder.parent / f"{folder.name}.control")
    log = folder.parent / f"{folder.name}.record"
    log.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "copyd.sim.torture.images", "--work", str(folder), "--seed", str(seed),
             "--durability", durability],
            cwd=ROOT, env={**os.environ, **control.environment(folder, log)}, capture_output=True, text=True, timeout=120,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"the workload of seed {seed} failed: {done.stderr[-2000:]}")
        return list(changes(log))
    finally:
        control.close()
        control.path.unlink()


# --- a disk that forgets ---------------------------------------------------------------------------------------------------


class File:
    """One file: what is on disk for certain, and the writes that may be."""

    __slots__ = ("base", "pending")

    def __init__(self, base: bytes = b"") -> None:
        self.base = bytearray(base)
        self.pending: list[Change] = []

    def sync(self) -> None:
        for change in self.pending:
            apply(self.base, change)
        self.pending.clear()

    def sync_last(self) -> None:
        """A write through O_DSYNC is on disk when it returns; what was written before it still may not be."""
        for at in range(len(self.pending) - 1, -1, -1):
            if self.pending[at].kind == "W":
                apply(self.base, self.pending.pop(at))
                return


def apply(content: bytearray, change: Change) -> None:
    """A change as the disk takes it."""
    if change.kind == "T":
        del content[change.length :]
        content.extend(bytes(change.length - len(content)))
        return
    end = change.offset + len(change.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[change.offset : end] = change.data


class Said(msgspec.Struct):
    """What the workload had been told at one moment, and what it had asked for."""

    opened: bool = False
    epoch: int = 0
    appended: int = 0
    durable: int = 0
    checkpoint: int = 0
    dropped: int = 0


class Image(NamedTuple):
    """The disk after a cut: content by path below the folder."""

    cut: int
    how: str
    files: dict[str, bytes]
    said: Said


class Start(NamedTuple):
    """The folder before the first recorded change: nothing, or the image of an earlier cut."""

    folder: str
    files: list[tuple[str, int, bytes]]  #: path, inode, content
    said: Said


def start_of(folder: Path, said: Said) -> Start:
    """As the folder is now."""
    found = sorted(path for path in folder.rglob("data.mdb"))
    return Start(str(folder), [(str(path), path.stat().st_ino, path.read_bytes()) for path in found], said)


class Disk:
    """The state of the folder as changes go by: durable content, pending writes, pending directory entries."""

    def __init__(self, start: Start) -> None:
        self.folder = start.folder
        self.by_inode: dict[int, File] = {}
        self.names: dict[str, File] = {}  #: durable entries
        self.pending_names: list[tuple[Change, File | None]] = []
        self.said = msgspec.structs.replace(start.said)
        for path, inode, content in start.files:
            self.by_inode[inode] = self.names[path] = File(content)

    def take(self, change: Change) -> bool:
        """One more change; False when it is one of our own marks (no moment of the disk)."""
        if change.kind == "W" and change.path.endswith("/marks"):
            self._mark(change.data)
            return False
        if change.path.endswith("/marks"):
            return False
        match change.kind:
            case "W" | "T":
                self._file(change).pending.append(change)
            case "E":
                self._file(change).sync_last()
            case "S":
                if change.inode in self.by_inode:
                    self.by_inode[change.inode].sync()
                else:
                    self._sync_directory(change.path)
            case "C":
                self.by_inode[change.inode] = File()
                self.pending_names.append((change, self.by_inode[change.inode]))
            case "R" | "U":
                self.pending_names.append((change, None))
        return True

    def _file(self, change: Change) -> File:
        return self.by_inode.setdefault(change.inode, File())

    def _mark(self, data: bytes) -> None:
        for kind, value in _MARK.iter_unpack(data):
            match kind:
                case b"O":
                    self.said.opened, self.said.epoch = True, value
                case b"N":
                    self.said.appended = value
                case b"A":
                    self.said.durable = value
                case b"K":
                    self.said.checkpoint = value
                case b"D":
                    self.said.dropped = max(self.said.dropped, value)

    def _sync_directory(self, directory: str) -> None:
        """Entries of this directory are on disk, and (journalled file systems) every change of a name before them."""
        last = -1
        for at, (change, _) in enumerate(self.pending_names):
            if directory in (change.path.rpartition("/")[0], change.to.rpartition("/")[0]):
                last = at
        for change, file in self.pending_names[: last + 1]:
            rename(self.names, change, file)
        del self.pending_names[: last + 1]

    def images(self, cut: int, source: random.Random) -> Image:
        """One legal image of this moment."""
        names = dict(self.names)
        kept = source.randint(0, len(self.pending_names)) if source.random() < 0.5 else len(self.pending_names)
        for change, file in self.pending_names[:kept]:
            rename(names, change, file)
        how = source.choice(("none", "all", "beginning", "subset", "subset", "torn", "torn", "sectors", "grown"))
        files = {path[len(self.folder) + 1 :]: bytes(survives(file, how, source)) for path, file in sorted(names.items())}
        return Image(cut, how, files, msgspec.structs.replace(self.said))


def rename(names: dict[str, File], change: Change, file: File | None) -> None:
    """A change of names."""
    if change.kind == "C" and file is not None:
        names[change.path] = file
    elif change.kind == "R" and change.path in names:
        names[change.to] = names.pop(change.path)
    elif change.kind == "U":
        names.pop(change.path, None)


def survives(file: File, how: str, source: random.Random) -> bytearray:
    """The content of a file after a cut: of the writes that were not synced, what ``how`` leaves."""
    content = bytearray(file.base)
    pending = list(file.pending)
    if how == "none" or not pending:
        return content
    if how == "beginning":
        pending = pending[: source.randint(0, len(pending))]
    elif how in ("subset", "torn", "grown"):
        pending = [change for change in pending if source.random() < 0.6]
        source.shuffle(pending)
    for change in pending:
        if change.kind == "T" or how in ("all", "beginning", "subset"):
            apply(content, change)
        elif how == "torn":
            sectors = -(-len(change.data) // SECTOR)
            apply(content, change._replace(data=change.data[: source.randint(0, sectors) * SECTOR]))
        elif how == "grown":
            end = change.offset + len(change.data)
            content.extend(bytes(max(0, end - len(content))))
        else:
            for at in range(0, len(change.data), SECTOR):
                if source.random() < 0.5:
                    apply(content, change._replace(offset=change.offset + at, data=change.data[at : at + SECTOR]))
    return content


# --- judging ---------------------------------------------------------------------------------------------------------------


def put(folder: Path, image: Image) -> None:
    """Write an image to a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in image.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def judge(folder: Path, image: Image) -> str:
    """What is wrong with the journal in ``folder``; empty when nothing is."""
    journal, said = folder / "journal", image.said
    there = (journal / "data.mdb").exists()
    if said.opened and not there:
        return "the journal is gone"
    last = 0
    if there:
        findings = check(journal)
        if not findings.ok:
            return f"{findings.findings[0].code}: {findings.findings[0].message}"
        if not said.durable <= findings.last_seq <= said.appended:
            return f"{said.durable} was acknowledged and {said.appended} appended, {findings.last_seq} is the last"
        if findings.epoch < said.epoch:
            return f"epoch {said.epoch} was taken, the journal is at {findings.epoch}"
        if findings.first_seq > max(1, said.dropped):
            return f"records before {said.dropped} were to go, {findings.first_seq} is the first"
        last = findings.last_seq
        with Reader(journal) as reader:
            for record in reader.iterate():
                if record.payload[:20] != b"%020d" % record.seq:
                    return f"record {record.seq} holds another's content"
            checkpoint = reader.latest_checkpoint()
        if said.checkpoint and (checkpoint is None or checkpoint.seq < said.checkpoint):
            return f"the checkpoint at {said.checkpoint} was complete and is gone"
        if checkpoint is not None and checkpoint.payload[:20] != b"%020d" % checkpoint.seq:
            return f"the checkpoint at {checkpoint.seq} holds another's content"
    with Journal.open(journal, site=SITE, map_size=MAP_BYTES, runway_bytes=0) as again:
        if again.last_seq != last or again.epoch <= said.epoch:
            return f"opened at record {again.last_seq}, epoch {again.epoch}; {last} and more than {said.epoch} expected"
        for _ in range(2):
            again.append(1, 0, payload(again.last_seq + 1, 300))
        again.flush(20)
    findings = check(journal)
    if not findings.ok or findings.last_seq != last + 2:
        return f"written on, then: {findings.findings[:1] or findings.last_seq}"
    return ""


class Share(NamedTuple):
    """One child's work: of a record, the moments to cut at."""

    changes: list[Change]
    start: Start
    scratch: Path
    cuts: dict[int, int]  #: change -> images there
    seed: int


def moments(changes: list[Change], start: Start) -> tuple[list[int], list[int]]:
    """Numbers of the changes behind which a cut may fall, and how many images each deserves beside the others."""
    disk = Disk(start)
    found, weights = [], []
    for at, change in enumerate(changes):
        if disk.take(change):
            found.append(at)
            unsynced = sum(len(file.pending) for file in disk.by_inode.values()) + len(disk.pending_names)
            weights.append(1 + 4 * min(unsynced, 4))
    return found, weights


def produce(share: Share, skip: int) -> Iterator[Image]:
    """The images of a share, the first ``skip`` left out; the same each time."""
    disk = Disk(share.start)
    made = 0
    for at, change in enumerate(share.changes):
        disk.take(change)
        for number in range(share.cuts.get(at, 0)):
            made += 1
            if made > skip:
                yield disk.images(at, random.Random((share.seed << 40) | (at << 16) | number))


def verify_share(share: Share, skip: int, say: int) -> None:
    """The child: one line per image, before and after it."""
    seen = set()
    for image in produce(share, skip):
        os.write(say, b"begin\n")
        digest = hashlib.blake2b(repr(image.said).encode())
        for name, content in image.files.items():
            digest.update(name.encode())
            digest.update(content)
        if digest.digest() not in seen:
            seen.add(digest.digest())
            os.write(say, b"new\n")
        put(share.scratch, image)
        try:
            problem = judge(share.scratch, image)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        line = f"done {image.cut} {image.how} {' '.join(problem.split())}\n"
        os.write(say, line.encode())


class Worker:
    """A forked child on a share; where it dies, the image under its hands is the finding and another child goes on."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.done = self.distinct = 0
        self.pid = 0
        self._begin()

    def _begin(self) -> None:
        self.pipe, say = os.pipe()
        self.begun = False
        self.said = b""
        self.heard = time.monotonic()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(self.pipe)
                verify_share(self.share, self.done, say)
                code = 0
            finally:
                os._exit(code)
        self.pid = pid
        os.close(say)

    def lines(self) -> Iterator[tuple[str, str, str]]:
        """(cut, how, problem) of images finished; the worker is over when this ends with ``pid`` 0."""
        raw = os.read(self.pipe, 65536)
        self.said += raw
        self.heard = time.monotonic()
        *whole, self.said = self.said.split(b"\n")
        for line in whole:
            word, _, rest = line.decode().partition(" ")
            self.begun = word != "done"
            if word == "new":
                self.distinct += 1
            elif word == "done":
                self.done += 1
                cut, how, problem = rest.split(" ", 2)
                yield cut, how, problem
        if not raw:
            yield from self._ended()

    def _ended(self) -> Iterator[tuple[str, str, str]]:
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        if self.begun:
            self.done += 1
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            yield "?", "?", f"the process ended on this image: {signal.Signals(number).name if number else status}"
        if self.done < sum(self.share.cuts.values()):
            self._begin()

    def hung(self) -> bool:
        """Says nothing for too long: ended, which makes a finding of it."""
        if time.monotonic() - self.heard > IMAGE_TIMEOUT_S:
            os.kill(self.pid, signal.SIGKILL)
            return True
        return False


def verify(tally: Tally, recorded: list[Change], start: Start, scratch: Path, images: int, seed: int, jobs: int) -> None:
    """So many images of one record, spread over its moments, on ``jobs`` children."""
    source = random.Random(seed)
    cuts = Counter(source.choices(*moments(recorded, start), k=images))
    shares = [
        Share(recorded, start, scratch / f"w{job}", {cut: n for cut, n in cuts.items() if cut % jobs == job}, seed)
        for job in range(jobs)
    ]
    workers = everybody = [Worker(share) for share in shares if share.cuts]
    while workers:
        ready = select.select([worker.pipe for worker in workers], [], [], 1.0)[0]
        for worker in workers:
            if worker.pipe in ready:
                for cut, how, problem in worker.lines():
                    count(tally, recorded, seed, cut, how, problem)
            else:
                worker.hung()
        workers = [worker for worker in workers if worker.pid]
    tally.counters["distinct images"] += sum(worker.distinct for worker in everybody)


def count(tally: Tally, recorded: list[Change], seed: int, cut: str, how: str, problem: str) -> None:
    tally.summary.done += 1
    tally.points[how] += 1
    tally.faults["J05"] += 1
    if how in ("torn", "sectors"):
        tally.faults["J06"] += 1
    if cut.isdigit():
        change = recorded[int(cut)]
        tally.counters[f"after {NAMES[change.kind]}"] += 1
        if "/.new/" in change.path or change.kind in "CRUM":
            tally.faults["J08"] += 1
        if change.kind == "W" and change.offset < 8192 and change.path.endswith("data.mdb"):
            tally.faults["J07"] += 1
    if problem:
        tally.violation(f"image: seed {seed}, cut {cut}, {how}: {problem}")


NAMES = {"W": "write", "E": "synchronous write", "S": "sync", "T": "truncate", "C": "create", "R": "rename", "U": "remove",
         "M": "mkdir"}


def main(
    images: int = 400, seed: int = 1, jobs: int = 0, durability: Durability = "strict",
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Record workloads and open ``images`` images of them; ``jobs`` 0: one per processor. ``progress`` hears of each record.

    ``durability`` process is the canary: that level promises nothing after a power cut, and the run must find that out.
    """
    tally = Tally("power cuts", "images")
    jobs = jobs or len(os.sched_getaffinity(0))
    per_record = max(100, min(300, images // 4))  # more of one record would be the same images again
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="copyd-images-", dir=memory) as scratch:
        folder = Path(scratch).resolve() / "folder"
        recorded: list[Change] = []
        start = Start(str(folder), [], Said())
        for number in itertools.count():
            one = seed * 1_000_003 + number
            some = min(per_record, images - tally.summary.done)
            if some <= 0:
                break
            image = Image(0, "", {}, Said())
            if number % 3 == 2:  # a cut during the start after a cut: the workload goes on from an image of the last record
                image = one_of(recorded, start, random.Random(one))
                tally.faults["P02"] += some
            put(folder, image)
            start = start_of(folder, image.said)
            recorded = record(folder, one, durability)
            tally.counters["records"] += 1
            verify(tally, recorded, start, Path(scratch) / "images", some, one, jobs)
            if progress is not None:
                progress(tally.summary.done)
    return tally.finish()


def one_of(recorded: list[Change], start: Start, source: random.Random) -> Image:
    """One image of a record."""
    cut = source.choices(*moments(recorded, start))[0]
    return next(produce(Share(recorded, start, Path(), {cut: 1}, source.getrandbits(30)), 0))


def command() -> int:
    """The workload under the shim, or a run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--durability", choices=("strict", "process"), default="strict", help="process: must find losses")
    options = parser.parse_args()
    if options.work:
        asyncio.run(work(options.work, options.seed, options.durability))
        return 0
    began = time.monotonic()

    def progress(done: int) -> None:
        print(f"{done:,} of {options.images:,} images, {done / (time.monotonic() - began):.0f}/s", flush=True)

    summary = main(options.images, options.seed, options.jobs, options.durability, progress)
    print(summary.text())
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(command())
