"""``copyd verify``: good journals pass, a changed one is named by its record, never believed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from copyd import inspect
from copyd.cli import main
from copyd.core import position
from copyd.core.engine import LEGS, ORDERS, Command, LeaderFill, check_law, encode_input
from copyd.core.rows import LegRow, OrderRow, Part
from copyd.inspect.checks import BAD, verify
from copyd.inspect.ledger import books_of
from copyd.inspect.rebuild import decode
from copyd.journal import Reader, Record
from copyd.kinds import pack_checkpoint
from tests.core.test_mirrors import of_one_venue
from tests.inspect.daemon import Daemon, joined, parts_of, plan, rewrite


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of everything, with checkpoints and restarts."""
    path = tmp_path_factory.mktemp("checks") / "journal"
    daemon = Daemon(path, 7)
    daemon.trade_for(20)
    daemon.checkpoint()
    daemon.trade_for(15)
    daemon.settle()
    daemon.checkpoint()
    daemon.close()
    return path


def flipped(record: Record, part: int, at: int, bit: int) -> bytes:
    """The payload with one bit of part 0 input, 1 decisions, 2 ends, 3 orders changed."""
    parts = parts_of(record)
    changed = bytearray(parts[part])
    changed[at] ^= 1 << bit
    parts[part] = bytes(changed)
    return joined(parts)


def test_good_journals_are_good(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kernel, checkpoints and readable rules all agree; the output says how much each looked at."""
    assert inspect.verify(journal) == 0
    text = capsys.readouterr().out
    assert "2 compared with the fold" in text
    assert "rules        everything" in text
    assert text.endswith("good\n")


@pytest.mark.parametrize("seed", range(3))
def test_other_good_journals(tmp_path: Path, seed: int) -> None:
    """Random histories."""
    daemon = Daemon(tmp_path / "journal", 100 + seed)
    daemon.trade_for(30)
    daemon.close()
    assert verify(tmp_path / "journal") == 0


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_journal_of_several_venues(tmp_path: Path, seed: int) -> None:
    """Followers in contracts and on a spot venue that keeps its fees back: rules and kernel agree on every record, from the
    start and from a checkpoint, and what was bought outright is never sold short."""
    daemon = Daemon(tmp_path / "journal", seed, venues=True)
    daemon.trade_for(40)
    daemon.checkpoint()
    daemon.trade_for(20)
    daemon.settle()
    daemon.close()
    legs = [LegRow.unpack(daemon.engine.columns.get(LEGS, index)) for index in range(daemon.engine.columns.count(LEGS))]
    assert {leg.instrument for leg in legs} == {0, 1, 2, 3, 4}
    assert all(leg.attributed >= 0 for leg in legs if leg.instrument == 4)
    orders = [OrderRow.unpack(daemon.engine.columns.get(ORDERS, slot)) for slot in range(daemon.engine.columns.count(ORDERS))]
    assert {order.instrument for order in orders if order.cum_qty} == {0, 1, 2, 3, 4}
    assert not any(order.reduce_only or order.position_side for order in orders if order.instrument == 4)
    check_law(daemon.engine)
    assert verify(tmp_path / "journal") == 0
    assert not list(books_of(tmp_path / "journal").faults())


@pytest.mark.parametrize("sample", [1, 40, 400])
def test_a_sample_says_how_much_it_recomputed(journal: Path, capsys: pytest.CaptureFixture[str], sample: int) -> None:
    """Accounts take turns; what is chosen agrees with what is recorded of it."""
    assert verify(journal, sample) == 0
    assert "rules        one account in " in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_with_a_good_chain_is_found(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """Any bit of any decision, order end or order: CRC and chain are good again, the rules are not fooled."""
    rng = random.Random(seed)
    with Reader(journal) as reader:
        places = [
            (record.seq, part, size) for record in reader.iterate()
            for part, size in enumerate(map(len, parts_of(record))) if part and size
        ]
    seq, part, size = rng.choice([place for place in places if place[1] == 1 + seed % 3])
    at, bit = rng.randrange(size), rng.randrange(8)
    rewrite(journal, tmp_path / "other", lambda record: flipped(record, part, at, bit) if record.seq == seq else record.payload)
    assert verify(tmp_path / "other") == 65
    text = capsys.readouterr().out
    assert f"finding: record {seq}: " in text
    assert text.count("finding:") <= 2, "one changed row is one finding, of the kernel's comparison"


def test_records_whose_rows_are_not_packed_are_read_as_well(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A journal that an older build wrote is as good as before."""
    rewrite(journal, tmp_path / "other", lambda record: joined(parts_of(record)))
    assert verify(tmp_path / "other") == 0
    assert "rules        everything" in capsys.readouterr().out


def test_a_changed_input_is_found(journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The leader's quantity, say: his followers' decisions do not follow from it any more."""
    def edit(record: Record) -> bytes:
        recorded = decode(record)
        if not isinstance(recorded.input, LeaderFill) or recorded.input.exec_id != 1:
            return record.payload
        raw = encode_input(msgspec.structs.replace(recorded.input, qty=recorded.input.qty + 5_000))
        parts = [raw, recorded.decisions, recorded.ends, recorded.named, recorded.stops]
        return joined(parts)

    rewrite(journal, tmp_path / "other", edit)
    assert verify(tmp_path / "other") == 65
    assert "the rules give" in capsys.readouterr().out


def test_a_checkpoint_that_is_not_the_fold_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole checkpoint of another state is named with the row that differs."""
    daemon = Daemon(tmp_path / "journal", 3)
    daemon.trade_for(5)
    assert daemon.journal is not None
    seq = daemon.engine.names.seq
    daemon.journal.flush()
    row = bytearray(daemon.engine.columns.get(1, 0))
    row[0] ^= 1
    daemon.engine.columns.put(1, 0, bytes(row))
    daemon.journal.checkpoint(seq, [pack_checkpoint(daemon.engine)])
    daemon.close()
    assert verify(tmp_path / "journal") == 65
    assert f"checkpoint at record {seq}: is not the state the records give: leaders row 0: equity_e8" in capsys.readouterr().out


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_checkpoint_of_a_build_of_one_venue_is_compared_as_this_build_would_write_it(tmp_path: Path, spoilt: bool) -> None:
    """The state is the same, its layout an older one: that is no finding; what differs in it still is one."""
    daemon = Daemon(tmp_path / "journal", 5)
    daemon.trade_for(20)
    assert daemon.journal is not None
    daemon.journal.flush()
    kept = of_one_venue(daemon.engine)
    if spoilt:
        kept[5] = bytes(len(kept[5]))
    daemon.journal.checkpoint(daemon.engine.names.seq, [msgspec.msgpack.encode(kept)])
    daemon.trade_for(5)
    daemon.close()
    assert verify(tmp_path / "journal") == (BAD if spoilt else 0)


def test_a_flipped_byte_of_the_file_is_found(journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file itself is checked first; nothing in it is believed then."""
    with Reader(journal) as reader:
        record = next(record for record in reader.iterate() if record.kind == 3)
    data = bytearray((journal / "data.mdb").read_bytes())
    at = data.find(record.payload[:200])
    assert at >= 0
    while at >= 0:  # a page no longer in use may hold the same bytes, and nobody reads those
        data[at + 50] ^= 4
        at = data.find(record.payload[:200], at + 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.mdb").write_bytes(data)
    assert verify(tmp_path / "other") == 65
    text = capsys.readouterr().out
    assert f"record {record.seq}" in text
    assert "were not looked at" in text


def test_no_journal_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, exit 65."""
    assert main(["verify", str(tmp_path / "nothing")]) == 65
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "no journal there" in printed.err


def test_rules_and_kernel_must_agree(journal: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The readable rules are a judge of their own: changed here, they disagree with what kernel and journal say."""
    monkeypatch.setattr(position, "reduce_part", lambda leg, lots: Part.CARRIED)
    assert verify(journal) == 65
    assert "reduce is" in (text := capsys.readouterr().out)
    assert "the readable rules give carried" in text


def test_a_journal_works_on_another_machine(journal: Path, tmp_path: Path) -> None:
    """Only data.mdb matters; a copy that cannot be written is enough."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "data.mdb").write_bytes((journal / "data.mdb").read_bytes())
    assert verify(copy) == 0


@pytest.mark.parametrize(("spoil_id", "code"), [(False, 0), (True, 65)])
def test_another_builds_decisions_are_checked_as_far_as_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil_id: bool, code: int
) -> None:
    """Where the rules of another build differ, its ids still follow from what caused them (semantics 33)."""
    daemon = Daemon(tmp_path / "journal", 7, build="copyd 0.0.1 rules 0")
    daemon.trade_for(20)
    daemon.close()
    changed: list[int] = []

    def edit(record: Record) -> bytes:
        sizes = [len(part) for part in parts_of(record)]
        if sizes[1] and not changed:
            changed.append(record.seq)
            return flipped(record, 1, 56, 0)  # that build decided another target
        if spoil_id and sizes[3] and len(changed) == 1:
            changed.append(record.seq)
            return flipped(record, 3, 9, 3)
        return record.payload

    rewrite(tmp_path / "journal", tmp_path / "other", edit)
    assert verify(tmp_path / "other") == code
    text = capsys.readouterr().out
    assert "copyd 0.0.1 rules 0 from record 1 (this is " in text
    assert f"decides otherwise from record {changed[0]} on" in text
    if spoil_id:
        assert f"finding: record {changed[1]}: order " in text
    else:
        assert "good as far as it can be told" in text


def test_another_build_that_decides_alike_is_compared_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another version alone is no reason to look away."""
    daemon = Daemon(tmp_path / "journal", 7, build="copyd 0.0.1 rules 0")
    daemon.trade_for(10)
    daemon.close()
    assert verify(tmp_path / "journal") == 0
    assert capsys.readouterr().out.endswith("good\n")




def test_a_running_daemons_journal_is_verified_beside_it(tmp_path: Path) -> None:
    """As far as it is written at that moment; the daemon goes on."""
    daemon = Daemon(tmp_path / "journal", 9)
    daemon.trade_for(5)
    assert daemon.journal is not None
    daemon.journal.flush()
    command = [sys.executable, "-m", "copyd", "verify", str(tmp_path / "journal")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"records 1 to {daemon.engine.names.seq}" in done.stdout
    daemon.trade_for(2)
    daemon.close()
    assert verify(tmp_path / "journal") == 0


@pytest.mark.parametrize("seed", range(4))
def test_operators_commands_and_retired_orders(tmp_path: Path, seed: int) -> None:
    """Stops, pauses, new plans in the middle, forgotten orders, checkpoints between: whole and sampled, all agree."""
    daemon = Daemon(tmp_path / "journal", 200 + seed, followers=8)
    commands = [
        Command("retire", {"before_seq": 40}), Command("stop_plan", {"follower": "f1", "policy": "close_now"}),
        Command("set_state", {"scope": "plan", "name": "f5", "state": "paused"}),
        Command("import_plans", {"plans": [plan(daemon.rng, 100)]}), Command("kill_switch", {"scope": "all", "on": True}),
    ]
    daemon.rng.shuffle(commands)
    for command in commands:
        daemon.trade_for(8)
        daemon.do(command)
        daemon.checkpoint()
    daemon.settle()
    daemon.close()
    assert verify(tmp_path / "journal") == 0
    assert verify(tmp_path / "journal", 60) == 0
