"""Power cuts: whatever a cut leaves of the journal's unsynced writes, nothing acknowledged is lost."""

from __future__ import annotations

import random
from pathlib import Path

from copyd.sim.torture import images
from copyd.sim.torture.images import Disk, File, Said, Start, survives
from copyd.sim.torture.shim import Change


def test_400_images_of_power_cuts_open_with_everything_acknowledged() -> None:
    """The chain holds, the epoch does not come back, a start takes each up and writes on; also cuts during the first creation."""
    summary = images.main(400, seed=random.randrange(1 << 30))
    assert not summary.violations, summary.text()
    assert summary.done == 400
    assert summary.faults["J05"] == 400 and summary.faults["J06"] > 50 and summary.faults["P02"] > 50, summary.text()


def test_the_canary_dies() -> None:
    """A journal that does not sync loses acknowledged records to a power cut; the enumerator must find that out."""
    summary = images.main(60, seed=5, durability="process")
    assert len(summary.violations) > 10, summary.text()
    assert any("acknowledged" in line for line in summary.violations), summary.text()


def change(
    kind: str, offset: int = 0, data: bytes = b"", path: str = "/f/journal/data.mdb", to: str = "", inode: int = 9
) -> Change:
    return Change(kind, inode, path, to, offset, len(data), data)


def test_what_was_synced_is_in_every_image_and_what_was_not_in_some() -> None:
    """A write counts as durable when a sync of its file has returned, or its own return where it is synchronous."""
    disk = Disk(Start("/f", [("/f/journal/data.mdb", 9, b"")], Said()))
    disk.take(change("W", 0, b"a" * 1024))
    disk.take(change("S"))
    disk.take(change("W", 1024, b"b" * 1024))
    seen = {disk.images(0, random.Random(n)).files["journal/data.mdb"] for n in range(200)}
    assert all(content.startswith(b"a" * 1024) for content in seen)
    assert {b"a" * 1024, b"a" * 1024 + b"b" * 512, b"a" * 1024 + b"b" * 1024, b"a" * 1024 + bytes(1024)} <= seen
    disk.take(change("W", 0, b"c" * 100))
    disk.take(change("E"))
    assert all(
        disk.images(0, random.Random(n)).files["journal/data.mdb"].startswith(b"c" * 100 + b"a") for n in range(50)
    ), "a synchronous write is durable when it returns"


def test_a_name_counts_when_its_directory_was_synced() -> None:
    """A file made and renamed into place may be missing until then, or under its first name."""
    disk = Disk(Start("/f", [], Said()))
    disk.take(change("C", path="/f/journal/.new/data.mdb"))
    disk.take(change("W", 0, b"x", path="/f/journal/.new/data.mdb"))
    disk.take(change("S", path="/f/journal/.new/data.mdb"))
    disk.take(change("R", path="/f/journal/.new/data.mdb", to="/f/journal/data.mdb", inode=0))
    seen = {tuple(disk.images(0, random.Random(n)).files) for n in range(100)}
    assert seen == {(), ("journal/.new/data.mdb",), ("journal/data.mdb",)}
    disk.take(change("S", path="/f/journal", inode=5))
    assert {tuple(disk.images(0, random.Random(n)).files) for n in range(50)} == {("journal/data.mdb",)}


def test_a_torn_write_ends_at_a_sector() -> None:
    """512 bytes are written whole or not at all."""
    file = File(bytes(4096))
    file.pending.append(change("W", 0, b"z" * 2048))
    for n in range(100):
        content = survives(file, "torn", random.Random(n))
        assert content.count(b"z") % 512 == 0


def test_a_gone_journal_is_a_finding(tmp_path: Path) -> None:
    """Acknowledged and not there: said, not taken for a fresh start."""
    image = images.Image(0, "", {}, Said(opened=True, epoch=1, durable=3))
    images.put(tmp_path / "i", image)
    assert images.judge(tmp_path / "i", image) == "the journal is gone"
