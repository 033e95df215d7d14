"""What else the machine does to a daemon: full, failing, slow and lying disks, a stop, a twin, a stepped clock, no descriptors.

    python -m copyd.sim.torture.world [CHECK ...]

Each check starts the real daemon on a fresh journal, lets the leader trade, makes its faults, and reads the exchange's books
afterwards: no order the journal does not name, no id twice, and where the daemon is started again everybody flat behind the
leader.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from copyd.errors import WorldError
from copyd.journal import Journal, JournalError, JournalMisused, Reader
from copyd.journal.check import check
from copyd.sim.torture import Summary, Tally
from copyd.sim.torture.nursery import Nursery
from copyd.sim.torture.shim import Act, Control, Op
from copyd.sim.torture.stage import ROOT, Exchange, Late, Living, Stage, Trader, proportional, wait_for

HOUR_NS = 3_600_000_000_000
LOTS = 1055  #: a leader's opening whose copy is far from the next lot
BTC, ETH = "BTCUSDT", "ETHUSDT"


class World:
    """One exchange, the shim's control, and a folder per check."""

    def __init__(self, folder: Path, mutant: str = "") -> None:
        self.folder = folder
        self.exchange = Exchange(folder)
        self.control = Control(folder / "control")
        self.nursery = Nursery({**self.control.environment(), **({"TORTURE_MUTANT": mutant} if mutant else {})})
        self.faults: Counter[str] = Counter()
        self.skipped: list[str] = []
        self._made = 0

    def close(self) -> None:
        """The exchange goes, and whatever still runs."""
        self.nursery.close()
        self.exchange.close()
        self.control.close()

    @contextlib.contextmanager
    def stage(self, followers: int = 4, **more: Any) -> Iterator[Show]:
        """A daemon's folder with fresh accounts."""
        self._made += 1
        folder = self.folder / f"s{self._made}"
        folder.mkdir()
        with Stage(folder, self.exchange, followers, **more) as stage:
            show = Show(self, stage)
            try:
                yield show
            finally:
                if stage.daemon is not None:
                    stage.daemon.kill()
                self.exchange.faults()


class Show:
    """A stage, its shim and its leader; the laws every check ends with."""

    def __init__(self, world: World, stage: Stage) -> None:
        self.world = world
        self.stage = stage
        self.control = world.control
        self.trader = Trader(world.exchange, stage.leader)

    def launch(self, clock_ns: int = 0) -> Living:
        """Another life, under the shim, without rules; its wall clock so far from the true one."""
        self.control.reset()
        self.control.clock(clock_ns)
        self.stage.daemon = daemon = self.world.nursery.run(self.stage.path, self.stage.next_log())
        return daemon

    def up(self, enrol: bool = True) -> Living:
        """A daemon that copies; with ``enrol`` its plans are imported and everybody holds an opening."""
        daemon = self.launch()
        if enrol:
            self.stage.enrol()
            self.trader.trade(BTC, LOTS)
            self.stage.wait_lots(proportional(LOTS), BTC)
            self.stage.quiet()
        else:
            self.stage.wait_armed()
        return daemon

    def trade_until_over(self, daemon: Living, seconds: float = 20) -> int:
        """The leader goes on until the daemon has ended; its exit code."""
        until, side = time.monotonic() + seconds, 1
        while daemon.running:
            self.trader.trade(ETH, side * LOTS)
            side = -side
            if time.monotonic() > until:
                raise Late(f"the daemon goes on: {self.stage.status()}")
            time.sleep(0.005)
        return daemon.wait(1)

    def recovers(self) -> None:
        """The next start settles everything; everybody flat behind the leader, and one more copy to the lot."""
        self.launch()
        self.stage.wait_armed()
        self.copies()

    def copies(self) -> None:
        """Flat, an opening to the lot, flat."""
        self.trader.flat()
        for symbol in (BTC, ETH):
            self.stage.wait_lots(0, symbol)
        self.stage.quiet()
        self.trader.trade(BTC, LOTS)
        self.stage.wait_lots(proportional(LOTS), BTC)
        self.trader.trade(BTC, -LOTS)
        self.stage.wait_lots(0, BTC)

    def orders(self) -> list[dict[str, Any]]:
        """Every order of the followers that was ever accepted."""
        mine = set(self.stage.names)
        return [row for row in self.world.exchange.pages("/truth/orders") if row["account"] in mine]

    def laws(self) -> None:
        """With the daemon gone: no id twice, every accepted order named in a journal that verifies."""
        accepted = Counter(row["clientOrderId"] for row in self.orders())
        twice = [cid for cid, n in accepted.items() if n > 1]
        assert not twice, f"accepted twice: {twice[:3]}"
        refused = [row for row in self.world.exchange.pages("/truth/rejects")
                   if row["account"] in set(self.stage.names) and (row["code"] == -4116 or "uplicate" in row.get("msg", ""))]
        assert not refused, f"sent twice: {refused[:3]}"
        findings = check(self.stage.journal)
        assert findings.ok, findings.findings
        path, problem = self.stage.decisions()
        assert not problem, problem
        rows = msgspec.json.Decoder(dict[str, Any]).decode_lines(path.read_bytes())
        unnamed = accepted.keys() - {cid for row in rows for cid in row.get("orders", [])}
        assert not unnamed, f"{len(unnamed)} accepted orders are not in the journal: {sorted(unnamed)[:3]}"

    def stop(self) -> None:
        """SIGTERM; exit 0."""
        assert self.stage.daemon is not None
        self.stage.daemon.signal(signal.SIGTERM)
        code = self.stage.daemon.wait(20)
        assert code == 0, f"SIGTERM ends it with {code}: {self.stage.daemon.tail()}"


def stays_down(code: int) -> None:
    """The unit does not start the daemon again after this exit code."""
    unit = ROOT / "systemd" / "copyd.service"
    if unit.exists():
        found = re.search(r"^RestartPreventExitStatus=(.*)$", unit.read_text(), re.MULTILINE)
        assert found and str(code) in found[1].split(), f"the unit would start it again after {code}"


# --- disk ------------------------------------------------------------------------------------------------------------------


def failing_disk(world: World, op: Op, act: Act, number: int, words: str, fault: str) -> None:
    """A commit fails: exit 74 and stay down; nothing leaves that is not on disk; the next start goes on."""
    with world.stage() as show:
        daemon = show.up()
        show.control.rule(op, act, 7, number)
        code = show.trade_until_over(daemon)
        assert code == 74, f"exit {code}: {daemon.tail()}"
        assert words in daemon.tail(4000), daemon.tail()
        assert "Traceback" not in daemon.tail(20_000), daemon.tail()
        assert show.control.hits(op) >= 1
        stays_down(code)
        world.faults[fault] += show.control.hits(op)
        show.laws()
        show.recovers()
        show.stop()
        show.laws()


def full_disk(world: World) -> None:
    """ENOSPC on every write from one on."""
    failing_disk(world, Op.DATA, Act.FAIL_FROM, errno.ENOSPC, "the disk is full", "J10")


def bad_sync(world: World) -> None:
    """EIO on one fdatasync: what was written may be gone, trying again would prove nothing."""
    failing_disk(world, Op.SYNC, Act.FAIL_ONCE, errno.EIO, "nothing more is written", "J12")


def bad_meta(world: World) -> None:
    """EIO on one write of a meta page."""
    failing_disk(world, Op.META, Act.FAIL_ONCE, errno.EIO, "nothing more is written", "J13")


def bad_data(world: World) -> None:
    """EIO on one write of a data page."""
    failing_disk(world, Op.DATA, Act.FAIL_ONCE, errno.EIO, "nothing more is written", "J12")


def small_disk(world: World) -> None:
    """A file system of 6 MiB that fills up."""
    disk = world.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        world.skipped.append("small_disk: needs the right to mount a tmpfs")
        return
    try:
        with world.stage(60) as show:
            show.stage.journal = disk / "journal"
            show.stage.config["journal"].update(path=str(show.stage.journal), free_disk_min_mib=0)
            show.stage.write_config()
            daemon = show.up()
            code = show.trade_until_over(daemon, 40)
            assert code == 74, f"exit {code}: {daemon.tail()}"
            assert "the disk is full" in daemon.tail(4000), daemon.tail()
            world.faults["J10"] += 1
            show.laws()
            subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
            show.recovers()
            show.stop()
            show.laws()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def full_map(world: World) -> None:
    """The map fills up: exit 74; with a larger map the same journal goes on."""
    with world.stage(60) as show:
        show.stage.config["journal"].update(map_size_mib=16, free_disk_min_mib=0)
        show.stage.write_config()
        daemon = show.up()
        code = show.trade_until_over(daemon, 60)
        assert code == 74 and "is full" in daemon.tail(4000), f"exit {code}: {daemon.tail()}"
        world.faults["J09"] += 1
        show.laws()
        show.stage.config["journal"]["map_size_mib"] = 256
        show.stage.write_config()
        show.recovers()
        show.stop()


def slow_disk(world: World) -> None:
    """150 ms per sync: copies come late and none is lost; a kill in the middle of a sync finds nothing sent before it."""
    with world.stage() as show:
        daemon = show.up()
        show.control.rule(Op.SYNC, Act.DELAY_FROM, 1, 150_000_000)
        show.trader.trade(BTC, -LOTS)
        show.stage.wait_lots(0, BTC)
        show.trader.trade(ETH, LOTS)
        show.stage.wait_lots(proportional(LOTS), ETH)
        show.trader.trade(BTC, LOTS)
        time.sleep(0.1)
        assert set(show.stage.lots(BTC).values()) == {0}, "an order left before its record was on disk"
        assert daemon.kill() == -signal.SIGKILL
        world.faults["J23"] += show.control.hits(Op.SYNC)
        world.faults["J02"] += 1
        show.laws()
        show.recovers()
        show.stop()
        show.laws()


def short_file(world: World) -> None:
    """The file loses its end under the daemon (a read of the map fails): it dies; no start believes what is left.

    Where it never reads a page that is gone (its own writes make the file long again), it is killed.
    """
    with world.stage() as show:
        daemon = show.up()
        with (show.stage.journal / "data.mdb").open("r+b") as file:
            file.truncate(3 * 4096)
        try:
            code = show.trade_until_over(daemon)
        except Late:
            daemon.kill()
        else:
            assert code in (-signal.SIGBUS, -signal.SIGSEGV, 65, 74), f"exit {code}: {daemon.tail()}"
        world.faults["J14"] += 1
        before = len(show.orders())
        daemon = show.launch()
        code = daemon.wait(15)
        assert code == 65, f"exit {code}: {daemon.tail()}"
        stays_down(code)
        show.trader.trade(ETH, LOTS)
        assert len(show.orders()) == before, "orders were sent on a journal that is damaged"


def rotten_page(world: World) -> None:
    """A bit of the last record flips while the daemon is down: the start refuses, with the record's number."""
    with world.stage() as show:
        daemon = show.up()
        daemon.kill()
        with Reader(show.stage.journal) as reader:
            last = list(reader.iterate())[-1]
        raw = bytearray((show.stage.journal / "data.mdb").read_bytes())
        at = raw.index(bytes(last.payload)[:64])
        while at >= 0:  # pages given up keep what stood on them: each copy, the living one among them
            raw[at + 5] ^= 0x10
            at = raw.find(bytes(last.payload)[:64], at + 1)
        (show.stage.journal / "data.mdb").write_bytes(raw)
        daemon = show.launch()
        code = daemon.wait(15)
        assert code == 65 and str(last.seq) in daemon.tail(), f"exit {code}: {daemon.tail()}"
        world.faults["J15"] += 1


def torn_meta(world: World) -> None:
    """A meta page of which only a part was written: the start refuses rather than believe either."""
    with world.stage() as show:
        daemon = show.up()
        show.control.rule(Op.META, Act.KILL_TORN, 5, 990)
        code = show.trade_until_over(daemon)
        assert code == -signal.SIGKILL, f"exit {code}: {daemon.tail()}"
        daemon = show.launch()
        code = 0
        with contextlib.suppress(Late):
            code = daemon.wait(3)
        world.faults["J07"] += 1
        if code == 0:  # the part that is missing held nothing new: the page is whole
            daemon.kill()
            show.laws()
        else:
            assert code == 65, f"exit {code}: {daemon.tail()}"


def network_disk(world: World) -> None:
    """The kernel's mount table says nfs4: refused before anything is made."""
    with world.stage() as show:
        table = show.stage.folder / "mounts"
        table.write_text(f"24 1 0:5 / / rw - ext4 /dev/vda rw\n25 24 0:6 / {show.stage.folder} rw - nfs4 host:/x rw\n")
        daemon = show.stage.launch({**show.control.environment(), "TORTURE_MOUNTS": str(table)})
        code = daemon.wait(15)
        assert code == 65 and "nfs4" in daemon.tail(), f"exit {code}: {daemon.tail()}"
        assert not (show.stage.journal / "data.mdb").exists()
        world.faults["J21"] += 1


# --- the journal between processes -------------------------------------------------------------------------------------------


FORKER = """
import os, sys
from copyd.journal import Journal, JournalError
journal = Journal.open(sys.argv[1], site=7, map_size=1 << 20)
journal.wait(journal.append(1, 1, (b"x",)), 10)
pid = os.fork()
if pid == 0:
    refused = 0
    for use in (lambda: journal.append(1, 1, (b"y",)), lambda: journal.reader.get(1), lambda: journal.flush(1),
                lambda: journal.checkpoint(1, (b"z",))):
        try:
            use()
        except JournalError:
            refused += 1
    journal.close()
    os._exit(refused)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
journal.wait(journal.append(1, 1, (b"w",)), 10)
last = journal.last_seq
journal.close()
sys.exit(0 if status == 4 and last == 2 else 1)
"""


def forked(world: World) -> None:
    """A journal used in a forked child refuses, and the parent's goes on unharmed."""
    path = world.folder / "forked"
    done = subprocess.run([sys.executable, "-c", FORKER, str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    assert check(path).ok
    world.faults["J18"] += 1


READER = """
import sys, time
from copyd.journal import Reader
reader = Reader(sys.argv[1])
with reader._reading() as txn:
    print(txn.id(), flush=True)
    time.sleep(60)
"""


def dead_reader(world: World) -> None:
    """A tool killed in the middle of reading leaves its slot behind: the daemon clears it, so that pages are used again."""
    path = world.folder / "dead-reader"
    with Journal.open(path, site=7, map_size=8 << 20, runway_bytes=0) as journal:
        journal.wait(journal.append(1, 1, (bytes(2000),)), 10)
        child = subprocess.Popen([sys.executable, "-c", READER, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline()
        child.kill()
        child.wait(10)
        child.stdout.close()
        assert journal.clear_dead_readers() == 1
        world.faults["J20"] += 1


def second_daemon(world: World) -> None:
    """A second daemon on the same journal ends with 75 before anything else; the first goes on."""
    with world.stage() as show:
        first = show.up()
        for same_port in (True, False):
            if not same_port:
                show.stage.config["health"]["enabled"] = False
                show.stage.write_config()
            second = world.nursery.run(show.stage.path, show.stage.folder / "second.log")
            code = second.wait(15)
            assert code == 75, f"exit {code}: {second.tail()}"
            world.faults["J16"] += 1
        assert first.running
        show.copies()
        show.stop()
        show.laws()


def two_sites(world: World) -> None:
    """Two daemons of one site on copies of one journal: the one of the lower epoch sees the other's orders and stops for good."""
    with world.stage() as show:
        show.up()
        show.trader.flat()
        show.stage.wait_lots(0, BTC)
        show.stop()
        other = world.folder / "twin"
        other.mkdir()
        shutil.copytree(show.stage.journal, other / "journal")
        twin = Stage(other, world.exchange, 0, cast=(show.stage.leader, show.stage.followers))
        with twin:
            twin.launch()
            twin.wait_armed()
            assert twin.daemon is not None
            twin.daemon.kill()
            old = show.up(enrol=False)  # one epoch
            new = twin.launch()  # one more
            twin.wait_armed()
            show.trader.trade(BTC, LOTS)
            code = old.wait(15)
            assert code == 76, f"exit {code}: {old.tail()}"
            stays_down(code)
            world.faults["P16"] += 1
            assert new.running
            epochs = [row["clientOrderId"][4:10] for row in show.orders()]
            show.trader.trade(BTC, LOTS)
            twin.quiet()
            more = [row["clientOrderId"][4:10] for row in show.orders()][len(epochs):]
            assert more and set(more) == {max(epochs)}, f"orders of epochs {sorted(set(more))} after the fence"
            show.trader.flat()
            wait_for(lambda: set(twin.lots(BTC).values()) == {0}, 15, lambda: str(twin.lots(BTC)))
            new.signal(signal.SIGTERM)
            assert new.wait(20) == 0


def old_backup(world: World) -> None:
    """Yesterday's data file is put back: the epochs used since are not used again, so no client order id comes twice."""
    with world.stage() as show:
        show.up()
        show.stop()
        backup = show.stage.folder / "backup.mdb"
        shutil.copy(show.stage.journal / "data.mdb", backup)
        show.up(enrol=False)
        show.trader.trade(BTC, LOTS)
        show.stage.quiet()
        show.trader.trade(BTC, -LOTS)
        show.stage.quiet()
        show.stop()
        (show.stage.journal / "lock.mdb").unlink()
        shutil.copy(backup, show.stage.journal / "data.mdb")
        daemon = show.launch()
        with contextlib.suppress(Late):
            show.stage.wait_armed(8)
        if daemon.running:
            for _ in range(3):
                show.trader.trade(BTC, LOTS)
                time.sleep(0.1)
                show.trader.trade(BTC, -LOTS)
                time.sleep(0.1)
        world.faults["J24"] += 1
        accepted = Counter(row["clientOrderId"] for row in show.orders())
        twice = [cid for cid, n in accepted.items() if n > 1]
        assert not twice, f"accepted twice: {twice[:3]}"
        daemon.kill()


# --- process, time, machine --------------------------------------------------------------------------------------------------


def stopped(world: World) -> None:
    """SIGSTOP for longer than an opening may wait: the opening is forgone, the reduction is followed."""
    with world.stage() as show:
        show.stage.config["copy"] = {"max_event_age_ms": 1500}
        show.stage.write_config()
        daemon = show.up()
        daemon.signal(signal.SIGSTOP)
        show.trader.trade(ETH, LOTS)
        show.trader.trade(BTC, -500)
        time.sleep(2.5)
        daemon.signal(signal.SIGCONT)
        world.faults["P06"] += 1
        world.faults["L13"] += 1
        kept = proportional(LOTS) * (LOTS - 500) // LOTS
        wait_for(lambda: set(show.stage.lots(BTC).values()) <= {kept, kept + 1}, 15, lambda: str(show.stage.lots(BTC)))
        show.stage.quiet()
        assert set(show.stage.lots(ETH).values()) == {0}, "an opening of 2.5 s ago was followed"
        show.copies()
        show.stop()
        show.laws()


def silent_exchange(world: World) -> None:
    """The exchange stands still in mid fan-out (connections open and silent), then goes on: nothing twice, nothing lost."""
    with world.stage() as show:
        show.up()
        mine = set(show.stage.names)
        show.world.exchange.faults({"action": "stall", "account": show.stage.names[0], "method": "order.place", "delay_ms": 400})
        show.trader.trade(ETH, LOTS)
        world.exchange.process.signal(signal.SIGSTOP)
        time.sleep(3.0)
        world.exchange.process.signal(signal.SIGCONT)
        world.exchange.faults()
        world.faults["O21"] += len(mine)
        world.faults["L10"] += 1
        show.stage.wait_armed(30)
        show.copies()
        show.stop()
        show.laws()


def stepped_clock(world: World) -> None:
    """The wall clock is put an hour forward and back under the daemon: no matter. An hour wrong at a start: reductions only."""
    with world.stage() as show:
        show.up()
        for offset in (HOUR_NS, -HOUR_NS, 0):
            show.control.clock(offset)
            world.faults["P08"] += 1
            time.sleep(0.2)
            show.copies()
        for offset in (HOUR_NS, -HOUR_NS):
            show.trader.trade(BTC, LOTS)
            show.stage.wait_lots(proportional(LOTS), BTC)
            show.stop()
            show.launch(offset)
            wait_for(lambda: any("clock" in why for why in show.stage.readyz()[1]), 20, lambda: str(show.stage.readyz()))
            world.faults["L14"] += 1
            show.trader.trade(ETH, LOTS)
            show.trader.trade(BTC, -LOTS)
            show.stage.wait_lots(0, BTC)
            assert set(show.stage.lots(ETH).values()) == {0}, "an opening went out under a clock an hour wrong"
            show.stop()
            show.up(enrol=False)
            show.copies()
        show.stop()
        show.laws()


def no_descriptors(world: World) -> None:
    """No descriptor can be had: what is open goes on; broken connections come back when there are some again."""
    with world.stage() as show:
        daemon = show.up()
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        used = before[0]
        with contextlib.suppress(PermissionError):  # it is not dumpable: only root may look
            used = max(int(path.name) for path in Path(f"/proc/{daemon.pid}/fd").iterdir())
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (8, before[1]))
        show.trader.trade(BTC, -500)
        show.trader.trade(ETH, LOTS)
        show.stage.wait_lots(proportional(LOTS), ETH)
        world.exchange.call("POST", "/disconnect", {"kind": "streams"})
        time.sleep(1.0)
        assert daemon.running, f"it ended: {daemon.tail()}"
        show.trader.trade(ETH, -500)
        time.sleep(0.3)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (max(used + 50, before[0]), before[1]))
        world.faults["P10"] += 1
        show.stage.wait_armed(30)
        show.copies()
        show.stop()
        show.laws()


def out_of_memory(world: World) -> None:
    """The kernel kills it for memory in mid trade: as any other kill."""
    group = Path("/sys/fs/cgroup/memory")
    limit, move = "memory.limit_in_bytes", "cgroup.procs"
    if not group.is_dir():
        group, limit = Path("/sys/fs/cgroup"), "memory.max"
    mine = group / f"copyd-torture-{os.getpid()}"
    try:
        mine.mkdir()
        if not (mine / limit).exists():
            raise OSError(errno.ENOTSUP, "no memory controller")
    except OSError as error:
        with contextlib.suppress(OSError):
            mine.rmdir()
        world.skipped.append(f"out_of_memory: needs a control group of its own ({error.strerror})")
        return
    try:
        with world.stage() as show:
            daemon = show.up()
            (mine / move).write_text(str(daemon.pid))
            with contextlib.suppress(OSError):
                (mine / "memory.swappiness").write_text("0")
            (mine / limit).write_text(str(1 << 20))
            code = show.trade_until_over(daemon, 20)
            assert code == -signal.SIGKILL, f"exit {code}: {daemon.tail()}"
            world.faults["P05"] += 1
            show.laws()
            show.recovers()
            show.stop()
            show.laws()
    finally:
        mine.rmdir()


def terminated(world: World) -> None:
    """SIGTERM in mid fan-out, and SIGKILL before it is done draining."""
    with world.stage() as show:
        daemon = show.up()
        show.world.exchange.faults(
            {"action": "delay_reply", "method": "order.place", "account": show.stage.names[0], "delay_ms": 2000},
            {"action": "drop_event", "account": show.stage.names[0]})
        show.trader.trade(ETH, LOTS)
        time.sleep(0.1)
        daemon.signal(signal.SIGTERM)
        world.faults["P03"] += 1
        with contextlib.suppress(Late):
            daemon.wait(0.3)
        assert daemon.kill() == -signal.SIGKILL, daemon.tail()
        world.faults["P04"] += 1
        world.exchange.faults()
        show.recovers()
        show.stop()
        show.laws()


CHECKS: dict[str, Callable[[World], None]] = {
    one.__name__: one
    for one in (
        full_disk, bad_sync, bad_meta, bad_data, small_disk, full_map, slow_disk, short_file, rotten_page, torn_meta,
        network_disk, forked, dead_reader, second_daemon, two_sites, old_backup, stopped, silent_exchange, stepped_clock,
        no_descriptors, out_of_memory, terminated,
    )
}


def main(names: tuple[str, ...] = (), progress: Callable[[str], None] | None = None) -> Summary:
    """These checks, or all of them."""
    tally = Tally("machine", "checks")
    folder = Path(tempfile.mkdtemp(prefix="copyd-world-"))
    world = World(folder)
    try:
        for name in names or tuple(CHECKS):
            began = time.monotonic()
            try:
                CHECKS[name](world)
            except (AssertionError, WorldError, JournalError, JournalMisused, OSError, subprocess.SubprocessError) as error:
                tally.violation(f"{name}: {type(error).__name__}: {error}")
            tally.summary.done += 1
            if progress is not None:
                progress(f"{name}: {time.monotonic() - began:.1f} s")
    finally:
        world.close()
    tally.faults = world.faults
    tally.summary.skipped = world.skipped
    if tally.summary.violations:
        print(f"logs and journals are kept in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return tally.finish()


def command() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", nargs="*", help=f"one of: {', '.join(CHECKS)}")
    options = parser.parse_args()
    summary = main(tuple(options.check), lambda text: print(text, flush=True))
    print(summary.text())
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(command())
