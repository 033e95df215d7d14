"""The state is a fold over the journal; checkpoints only save time (semantics 44)."""

from __future__ import annotations

from pathlib import Path

import pytest

from copyd.inspect.rebuild import DecisionsDiffer, Finding, fold
from copyd.journal import JournalDamaged, JournalError, Reader
from copyd.kinds import pack_checkpoint, unpack_checkpoint
from tests.inspect.daemon import Daemon, joined, parts_of, rewrite


@pytest.mark.parametrize("seed", range(3))
def test_checkpoint_and_rest_equal_the_fold_from_the_start(tmp_path: Path, seed: int) -> None:
    """From a checkpoint at any record, and from the beginning: the same state bytes."""
    daemon = Daemon(tmp_path / "journal", seed)
    for _ in range(3):
        daemon.trade_for(daemon.rng.randrange(8))
        daemon.checkpoint()
    daemon.trade_for(5)
    daemon.close()
    with Reader(tmp_path / "journal") as reader:
        kept = reader.checkpoints()
        assert kept
        for to_seq in (kept[0], kept[-1] - 1, kept[-1], kept[-1] + 1, None):
            whole = fold(reader, to_seq, use_checkpoint=False)
            assert pack_checkpoint(fold(reader, to_seq)) == pack_checkpoint(whole)
        assert pack_checkpoint(whole) == pack_checkpoint(daemon.engine)


def test_any_split_of_the_fold_is_the_fold(tmp_path: Path) -> None:
    """A state packed after any record goes on to the same end."""
    daemon = Daemon(tmp_path / "journal", 11, followers=4)
    daemon.trade_for(12)
    daemon.close()
    end = pack_checkpoint(daemon.engine)
    with Reader(tmp_path / "journal") as reader:
        for seq in range(1, daemon.engine.names.seq, 7):
            half = unpack_checkpoint(pack_checkpoint(fold(reader, seq, use_checkpoint=False)))
            assert pack_checkpoint(fold(reader, engine=half)) == end


def test_a_changed_decision_is_named_with_record_leg_and_field(tmp_path: Path) -> None:
    """Without a list for findings the fold refuses; with one it says what differs and goes on."""
    daemon = Daemon(tmp_path / "journal", 2)
    daemon.trade_for(6)
    daemon.close()
    changed: list[int] = []

    def edit(record):  # type: ignore[no-untyped-def]
        parts = parts_of(record)
        if parts[1] and not changed:
            changed.append(record.seq)
            parts[1] = parts[1][:56] + bytes([parts[1][56] ^ 1]) + parts[1][57:]  # the lowest bit of the first one's target
        return joined(parts)

    rewrite(tmp_path / "journal", tmp_path / "other", edit)
    with Reader(tmp_path / "other") as reader:
        words = rf"record {changed[0]}: decision 0 \(leg \d+\): target is -?\d+, the rules give"
        with pytest.raises(DecisionsDiffer, match=words):
            fold(reader)
        findings: list[Finding] = []
        engine = fold(reader, findings=findings)
        assert [finding.seq for finding in findings] == changed
        assert engine.names.seq == daemon.engine.names.seq


def test_a_foreign_payload_is_damage_with_its_record(tmp_path: Path) -> None:
    """A record that is whole but holds something else."""
    daemon = Daemon(tmp_path / "journal", 2)
    daemon.close()
    rewrite(tmp_path / "journal", tmp_path / "other", lambda record: b"hello" if record.seq == 4 else record.payload)
    with Reader(tmp_path / "other") as reader, pytest.raises(JournalDamaged, match="record 4: record payload is too short"):
        fold(reader)


def test_dropped_records_need_a_checkpoint(tmp_path: Path) -> None:
    """A journal without its beginning folds from the checkpoint that covers it, and is refused without one."""
    daemon = Daemon(tmp_path / "journal", 4)
    daemon.trade_for(6)
    seq = daemon.checkpoint()
    assert daemon.journal is not None
    daemon.trade_for(4)
    daemon.journal.flush()
    daemon.journal.drop_before(seq)
    daemon.close()
    with Reader(tmp_path / "journal") as reader:
        assert reader.state().first_seq > 1
        assert pack_checkpoint(fold(reader, use_checkpoint=False)) == pack_checkpoint(daemon.engine)
        with pytest.raises(JournalError, match="were dropped and no checkpoint"):
            fold(reader, reader.state().first_seq - 2 or 1, use_checkpoint=False)
