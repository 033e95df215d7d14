"""Packed rows are the rows, written as their differences; what is not packed rows is said, never read wrongly."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd._fast.rowpack import pack_rows, unpack_rows

WORD = 1 << 64

#: (bytes of a row, of which raw): decisions, named orders, and the smallest and largest there can be
SHAPES = [(64, 0), (48, 16), (8, 0), (24, 16), (128, 0), (72, 0)]


def packed_by_the_book(rows: bytes, row_size: int, raw: int) -> bytes:
    """The format as the module describes it, from its words alone."""
    count = len(rows) // row_size
    cut = [rows[at : at + row_size] for at in range(0, len(rows), row_size)]
    out = struct.pack("<I", count) + b"".join(row[:raw] for row in cut)
    width = (row_size - raw) // 8
    before, step = [0] * width, [0] * width
    for row in cut:
        sizes, body = [], b""
        for at, word in enumerate(struct.unpack(f"<{width}Q", row[raw:])):
            change = (word - before[at] - step[at]) % WORD
            step[at], before[at] = (word - before[at]) % WORD, word
            signed = change - WORD if change >> 63 else change
            zigzag = 2 * signed if signed >= 0 else -2 * signed - 1
            size = (zigzag.bit_length() + 7) // 8
            sizes.append(size)
            body += zigzag.to_bytes(size, "little")
        sizes += [0] * (width % 2)
        out += bytes(low | high << 4 for low, high in zip(sizes[::2], sizes[1::2], strict=True)) + body
    return out


@st.composite
def tables(draw):
    """Rows as they come: counters, constants, small changes, and anything at all."""
    row_size, raw = draw(st.sampled_from(SHAPES))
    width = row_size // 8
    kinds = draw(st.lists(st.sampled_from("cksr"), min_size=width, max_size=width))
    base = draw(st.lists(st.integers(0, WORD - 1), min_size=width, max_size=width))
    rows = b""
    for at in range(draw(st.integers(0, 20))):
        words = []
        for kind, start in zip(kinds, base, strict=True):
            if kind == "c":
                words.append((start + at * 0x1_0000_0001) % WORD)
            elif kind == "k":
                words.append(start)
            elif kind == "s":
                words.append((start + draw(st.integers(-300, 300))) % WORD)
            else:
                words.append(draw(st.integers(0, WORD - 1)))
        rows += struct.pack(f"<{width}Q", *words)
    return rows, row_size, raw


@settings(max_examples=200, deadline=None)
@given(tables())
def test_packing_is_as_described_and_loses_nothing(table):
    """The bytes are those of the description, and unpacked they are the rows again."""
    rows, row_size, raw = table
    packed = pack_rows(rows, row_size, raw)
    assert packed == packed_by_the_book(rows, row_size, raw)
    assert unpack_rows(packed, row_size, raw) == unpack_rows(memoryview(packed), row_size, raw) == rows


def test_the_raw_part_is_found_by_a_search():
    """A client order id stands in the packed bytes as it is."""
    ids = [bytes([at]) * 16 for at in range(1, 50)]
    packed = pack_rows(b"".join(cid + struct.pack("<4Q", 7, 8, 9, at) for at, cid in enumerate(ids)), 48, 16)
    assert all(cid in packed for cid in ids)


@settings(max_examples=300, deadline=None)
@given(tables(), st.data())
def test_damaged_bytes_are_refused_or_give_whole_rows(table, data):
    """Cut short, lengthened or changed: ValueError or a whole number of rows, nothing read outside."""
    rows, row_size, raw = table
    packed = bytearray(pack_rows(rows, row_size, raw))
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(ValueError):
        unpack_rows(bytes(packed[:cut]), row_size, raw)
    with pytest.raises(ValueError):
        unpack_rows(bytes(packed) + b"\0", row_size, raw)
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ValueError):
        assert len(unpack_rows(bytes(packed), row_size, raw)) % row_size == 0


@pytest.mark.parametrize(
    ("size", "row_size", "raw"), [(63, 64, 0), (1, 8, 0), (12, 12, 0), (48, 48, 48), (48, 48, 12), (256, 256, 0)])
def test_what_are_no_rows_is_refused(size, row_size, raw):
    """A wrong length or a shape that cannot be packed is a ValueError."""
    with pytest.raises(ValueError):
        pack_rows(bytes(size), row_size, raw)
