"""Record framing: the bytes of one journal value, of the state value and of a checkpoint. Pure: no I/O, no clock.

One record (little-endian), the value stored under the key ``seq`` (u64 **big**-endian, so keys sort as numbers):

    offset  size  field
         0     4  magic ``CPYJ``
         4     1  format version, 1
         5     1  flags, 0
         6     2  kind (u16; the caller's numbers, see :func:`register_kinds`)
         8     8  seq (u64, dense from 1)
        16     4  epoch (u32, 24 bits used): the daemon start that wrote it
        20     4  n = payload length in bytes (u32)
        24     8  ts_ns (i64): the time the caller gave, ns since 1970
        32    16  prev_hash: blake2b-128 of the whole previous record (its bytes 0 .. 48+n+4)
        48     n  payload: the caller's parts, joined
      48+n     4  crc32 of bytes 0 .. 48+n

The chain: a record carries the hash of the one before it, so the hash of record *n* is worked out while the disk already
holds *n* and never delays its commit. The first record's ``prev_hash`` is :func:`genesis` of the site key. The last record
is covered by its own CRC (every single flipped byte shows) and by the state value, which says how many records there are.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from copyd.journal.errors import JournalDamaged

FORMAT_VERSION = 1
RECORD_MAGIC = b"CPYJ"
STATE_MAGIC = b"copydJRN"
CHECKPOINT_MAGIC = b"CPYC"

SEQ_MAX = (1 << 63) - 1
EPOCH_MAX = (1 << 24) - 1
PAYLOAD_BYTES_MAX = 256 << 20

Buffer: TypeAlias = bytes | bytearray | memoryview

_HEADER = struct.Struct("<4sBBHQIIq16s")
_CRC = struct.Struct("<I")
_KEY = struct.Struct(">Q")
HEADER_BYTES = _HEADER.size
TRAILER_BYTES = _CRC.size
HASH_BYTES = 16
assert HEADER_BYTES == 48

_kinds: dict[int, str] = {}


def register_kinds(names: Mapping[int, str]) -> None:
    """Give record kinds their names, for messages and tools. A number keeps the name it first got."""
    for kind, name in names.items():
        if not 0 <= kind <= 0xFFFF:
            raise ValueError(f"record kind {kind} does not fit 16 bits")
        if _kinds.setdefault(kind, name) != name:
            raise ValueError(f"record kind {kind} is already called {_kinds[kind]!r}, not {name!r}")


def kind_name(kind: int) -> str:
    """The registered name, else ``kind_<n>``."""
    return _kinds.get(kind, f"kind_{kind}")


def chain_hash(record: Buffer) -> bytes:
    """blake2b-128 of a whole record: what the next record carries as ``prev_hash``."""
    return hashlib.blake2b(record, digest_size=HASH_BYTES).digest()


def genesis(site: int, site_key: bytes) -> bytes:
    """``prev_hash`` of record 1: binds the chain to the site it was made for."""
    return hashlib.blake2b(b"copyd journal %d" % site, digest_size=HASH_BYTES, key=site_key).digest()


def seq_key(seq: int) -> bytes:
    """The LMDB key of a record."""
    return _KEY.pack(seq)


class Record(NamedTuple):
    """One decoded record. ``payload`` is the caller's bytes, ``hash`` the chain hash of this record."""

    seq: int
    kind: int
    epoch: int
    ts_ns: int
    prev_hash: bytes
    payload: bytes
    hash: bytes


def encode_record(
    seq: int, kind: int, epoch: int, ts_ns: int, prev_hash: bytes, parts: Sequence[Buffer], payload_bytes: int
) -> bytes:
    """The bytes of one record; ``payload_bytes`` is the total size of ``parts``. One copy of the payload is made."""
    header = _HEADER.pack(RECORD_MAGIC, FORMAT_VERSION, 0, kind, seq, epoch, payload_bytes, ts_ns, prev_hash)
    crc = zlib.crc32(header)
    for part in parts:
        crc = zlib.crc32(part, crc)
    return b"".join((header, *parts, _CRC.pack(crc)))


def decode_record(value: Buffer, seq: int, *, with_hash: bool = True) -> Record:
    """Check and take apart the value found under key ``seq``; :class:`JournalDamaged` names the record and the fault.

    ``with_hash=False`` leaves ``hash`` empty and saves the blake2b pass (the CRC is always checked).
    """
    view = memoryview(value)
    size = view.nbytes
    if size < HEADER_BYTES + TRAILER_BYTES:
        raise JournalDamaged(f"record {seq}: {size} bytes, shorter than a record's frame", seq)
    magic, version, flags, kind, own_seq, epoch, length, ts_ns, prev_hash = _HEADER.unpack_from(view)
    if magic != RECORD_MAGIC:
        raise JournalDamaged(f"record {seq}: magic {magic.hex()} instead of {RECORD_MAGIC.hex()}", seq)
    if length != size - HEADER_BYTES - TRAILER_BYTES:
        raise JournalDamaged(f"record {seq}: says {length} payload bytes, holds {size - HEADER_BYTES - TRAILER_BYTES}", seq)
    if zlib.crc32(view[: size - TRAILER_BYTES]) != _CRC.unpack_from(view, size - TRAILER_BYTES)[0]:
        raise JournalDamaged(f"record {seq}: CRC32 does not match", seq)
    if version != FORMAT_VERSION or flags:
        raise JournalDamaged(f"record {seq}: format {version} flags {flags:#x}, this build reads {FORMAT_VERSION}", seq)
    if own_seq != seq:
        raise JournalDamaged(f"record {seq}: the value stored there is record {own_seq}", seq)
    payload = bytes(view[HEADER_BYTES : HEADER_BYTES + length])
    return Record(seq, kind, epoch, ts_ns, prev_hash, payload, chain_hash(view) if with_hash else b"")


def record_prev_hash(value: Buffer) -> bytes:
    """``prev_hash`` of an already checked record."""
    return bytes(memoryview(value)[32:48])


# The state value: rewritten by every commit, so it says which commit it belongs to -------------------------------------

STATE_KEY = b"copyd.state"
LOG_DB = b"log"
CHECKPOINT_DB = b"checkpoint"

_STATE = struct.Struct("<8sHHIq16sQQQQ16sI")
STATE_BYTES = _STATE.size + TRAILER_BYTES


class State(NamedTuple):
    """The journal about itself, rewritten in each transaction under ``copyd.state`` in the unnamed database.

    offset size field:  0 8 magic | 8 2 format | 10 2 site | 12 4 epoch | 16 8 created_ns | 24 16 site_key | 40 8 txn_id (of the
    LMDB transaction that wrote it) | 48 8 map_size | 56 8 first_seq | 64 8 last_seq (first_seq - 1 when empty) | 72 16 anchor
    (prev_hash of first_seq) | 88 4 previous_meta_crc (crc32 of the LMDB meta page of transaction txn_id - 1) | 92 4 crc32
    """

    site: int
    epoch: int
    created_ns: int
    site_key: bytes
    txn_id: int
    map_size: int
    first_seq: int
    last_seq: int
    anchor: bytes
    previous_meta_crc: int


def encode_state(state: State) -> bytes:
    body = _STATE.pack(
        STATE_MAGIC,
        FORMAT_VERSION,
        state.site,
        state.epoch,
        state.created_ns,
        state.site_key,
        state.txn_id,
        state.map_size,
        state.first_seq,
        state.last_seq,
        state.anchor,
        state.previous_meta_crc,
    )
    return body + _CRC.pack(zlib.crc32(body))


class StateUnreadable(ValueError):
    """Why a state value will not do; ``newer`` is set when a later format wrote it."""

    def __init__(self, message: str, *, newer: bool = False) -> None:
        super().__init__(message)
        self.newer = newer


def decode_state(value: Buffer) -> State:
    """Check and read the state value; raises :class:`StateUnreadable` with the reason."""
    body = bytes(value)
    if len(body) < 16 or body[:8] != STATE_MAGIC:
        raise StateUnreadable("its state value does not carry copyd's magic")
    version = int.from_bytes(body[8:10], "little")
    if version > FORMAT_VERSION and zlib.crc32(body[:-TRAILER_BYTES]) == _CRC.unpack(body[-TRAILER_BYTES:])[0]:
        raise StateUnreadable(
            f"it was written in journal format {version}; this build reads up to format {FORMAT_VERSION}", newer=True
        )
    if len(body) != STATE_BYTES or zlib.crc32(body[: _STATE.size]) != _CRC.unpack_from(body, _STATE.size)[0]:
        raise StateUnreadable("its state value fails its CRC32")
    fields = _STATE.unpack_from(body)
    return State(*fields[2:])


# Checkpoints: chunks 1 .. n under (seq, chunk), then the head under (seq, 0), written last -----------------------------

_CHECKPOINT_KEY = struct.Struct(">QI")
_CHECKPOINT_HEAD = struct.Struct("<4sBBHQIIQ16s16s")
_CHUNK = struct.Struct("<QI")
CHUNK_BYTES_MIN = 1 << 20
#: With at most this many chunks per checkpoint and three checkpoints the chunk index stays on one LMDB leaf page.
CHUNKS_PER_CHECKPOINT = 40


class CheckpointHead(NamedTuple):
    """What makes a checkpoint whole.

    offset size field:  0 4 magic ``CPYC`` | 4 1 format | 5 1 flags | 6 2 zero | 8 8 seq | 16 4 epoch | 20 4 chunks
    | 24 8 length in bytes | 32 16 chain_hash (of record seq) | 48 16 digest (blake2b-128 of the content) | 64 4 crc32.
    Each chunk: 0 8 seq | 8 4 index (from 1) | 12 n content | 12+n 4 crc32.
    """

    seq: int
    epoch: int
    chunks: int
    length: int
    chain_hash: bytes
    digest: bytes


def checkpoint_key(seq: int, chunk: int) -> bytes:
    return _CHECKPOINT_KEY.pack(seq, chunk)


def split_checkpoint_key(key: Buffer) -> tuple[int, int]:
    """(seq, chunk) of a key of the checkpoint database; ``ValueError`` when it is not one."""
    if len(key) != _CHECKPOINT_KEY.size:
        raise ValueError(f"checkpoint key of {len(key)} bytes")
    seq, chunk = _CHECKPOINT_KEY.unpack(key)
    return seq, chunk


def encode_checkpoint_head(head: CheckpointHead) -> bytes:
    body = _CHECKPOINT_HEAD.pack(
        CHECKPOINT_MAGIC,
        FORMAT_VERSION,
        0,
        0,
        head.seq,
        head.epoch,
        head.chunks,
        head.length,
        head.chain_hash,
        head.digest,
    )
    return body + _CRC.pack(zlib.crc32(body))


def decode_checkpoint_head(value: Buffer, seq: int) -> CheckpointHead:
    body = bytes(value)
    size = _CHECKPOINT_HEAD.size
    if len(body) != size + TRAILER_BYTES or zlib.crc32(body[:size]) != _CRC.unpack_from(body, size)[0]:
        raise JournalDamaged(f"checkpoint at record {seq}: its head fails its CRC32", seq)
    magic, version, flags, _, own_seq, epoch, chunks, length, link, digest = _CHECKPOINT_HEAD.unpack_from(body)
    if magic != CHECKPOINT_MAGIC or version != FORMAT_VERSION or flags or own_seq != seq:
        raise JournalDamaged(f"checkpoint at record {seq}: its head is not one of this format", seq)
    return CheckpointHead(own_seq, epoch, chunks, length, link, digest)


def encode_chunk(seq: int, index: int, content: Buffer) -> bytes:
    head = _CHUNK.pack(seq, index)
    return b"".join((head, content, _CRC.pack(zlib.crc32(content, zlib.crc32(head)))))


def decode_chunk(value: Buffer, seq: int, index: int) -> bytes:
    view = memoryview(value)
    size = view.nbytes - TRAILER_BYTES
    if size < _CHUNK.size or zlib.crc32(view[:size]) != _CRC.unpack_from(view, size)[0]:
        raise JournalDamaged(f"checkpoint at record {seq}: chunk {index} fails its CRC32", seq)
    if _CHUNK.unpack_from(view) != (seq, index):
        raise JournalDamaged(f"checkpoint at record {seq}: chunk {index} is another checkpoint's", seq)
    return bytes(view[_CHUNK.size : size])
