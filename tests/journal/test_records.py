"""Framing: what is put in comes out, and no changed byte goes unseen."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.journal import records
from copyd.journal.errors import JournalDamaged


def encode(seq: int, kind: int, epoch: int, ts_ns: int, prev_hash: bytes, parts: list[bytes]) -> bytes:
    return records.encode_record(seq, kind, epoch, ts_ns, prev_hash, parts, sum(map(len, parts)))


@settings(max_examples=100, deadline=None)
@given(
    seq=st.integers(1, records.SEQ_MAX),
    kind=st.integers(0, 0xFFFF),
    epoch=st.integers(0, records.EPOCH_MAX),
    ts_ns=st.integers(-(1 << 63), (1 << 63) - 1),
    prev_hash=st.binary(min_size=16, max_size=16),
    parts=st.lists(st.binary(max_size=200), max_size=5),
)
def test_a_record_reads_back_as_it_was_written(
    seq: int, kind: int, epoch: int, ts_ns: int, prev_hash: bytes, parts: list[bytes]
) -> None:
    value = encode(seq, kind, epoch, ts_ns, prev_hash, parts)
    record = records.decode_record(memoryview(value), seq)
    assert record == (seq, kind, epoch, ts_ns, prev_hash, b"".join(parts), records.chain_hash(value))
    assert records.record_prev_hash(value) == prev_hash


def test_the_byte_layout_is_the_documented_one() -> None:
    """Offsets in the module docstring are a promise to readers on other machines and in later versions."""
    value = encode(0x0102030405060708, 0x1234, 0xABCDEF, 7, bytes(range(16)), [b"hello"])
    assert value[:4] == b"CPYJ"
    assert (value[4], value[5]) == (1, 0)
    assert value[6:8] == b"\x34\x12"
    assert value[8:16] == bytes(range(8, 0, -1))
    assert value[16:20] == b"\xef\xcd\xab\x00"
    assert value[20:24] == b"\x05\x00\x00\x00"
    assert value[24:32] == b"\x07" + bytes(7)
    assert value[32:48] == bytes(range(16))
    assert value[48:53] == b"hello"
    assert len(value) == 57


@pytest.mark.parametrize("mask", [0x01, 0x10, 0x80, 0xFF])
def test_every_flipped_byte_of_a_record_is_seen(mask: int) -> None:
    value = bytearray(encode(9, 3, 1, 5, bytes(16), [random.Random(1).randbytes(300)]))
    for offset in range(len(value)):
        value[offset] ^= mask
        with pytest.raises(JournalDamaged) as caught:
            records.decode_record(value, 9)
        assert caught.value.seq == 9
        value[offset] ^= mask
    records.decode_record(value, 9)


def test_a_record_under_another_key_is_refused() -> None:
    """A whole record copied to another place is not that place's record."""
    with pytest.raises(JournalDamaged, match="record 10: the value stored there is record 9"):
        records.decode_record(encode(9, 3, 1, 5, bytes(16), [b"x"]), 10)


def test_a_cut_record_is_refused_at_every_length() -> None:
    value = encode(9, 3, 1, 5, bytes(16), [b"payload"])
    for length in range(len(value)):
        with pytest.raises(JournalDamaged):
            records.decode_record(value[:length], 9)


def test_a_state_of_a_newer_format_is_told_from_a_damaged_one() -> None:
    state = records.State(1, 2, 3, bytes(16), 4, 5, 1, 0, bytes(16), 0)
    value = records.encode_state(state)
    assert records.decode_state(value) == state
    newer = bytearray(value[: -records.TRAILER_BYTES])
    newer[8] = records.FORMAT_VERSION + 1
    newer += records.zlib.crc32(newer).to_bytes(4, "little")
    with pytest.raises(records.StateUnreadable, match="format 2") as caught:
        records.decode_state(newer)
    assert caught.value.newer
    damaged = bytearray(value)
    damaged[8] ^= 2
    with pytest.raises(records.StateUnreadable, match="CRC32") as caught:
        records.decode_state(damaged)
    assert not caught.value.newer


def test_a_kind_keeps_its_first_name() -> None:
    records.register_kinds({60001: "leader_fill"})
    records.register_kinds({60001: "leader_fill"})
    assert records.kind_name(60001) == "leader_fill"
    assert records.kind_name(60002) == "kind_60002"
    with pytest.raises(ValueError, match="already called 'leader_fill'"):
        records.register_kinds({60001: "reports"})
    with pytest.raises(ValueError, match="16 bits"):
        records.register_kinds({70000: "x"})
