"""The state as a fold over the journal, and the comparison of what it decides with what was recorded."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from copyd.core.engine import Engine, Outputs, Recorded, Started, decode_payload
from copyd.core.rows import DecisionRow, NamedOrder, OrderEndRow, Part, Reason, Row, StopRow
from copyd.errors import BrokenInvariant, CopydError
from copyd.journal import JournalDamaged, JournalError, Reader, Record
from copyd.kinds import kind_of, unpack_checkpoint

FINDINGS_MAX = 50


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not what the rules give, in a sentence that names its record; ``seq`` 0: none."""

    seq: int
    text: str


class DecisionsDiffer(JournalError):
    """A record whose decisions are not what this build gives; ``seq`` is the record."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.seq = finding.seq


OnRecord = Callable[[Record, Recorded, Outputs], None]
BeforeRecord = Callable[[Engine, Record, Recorded], None]

PARTS: tuple[tuple[str, str, type[Row]], ...] = (
    ("decisions", "decision", DecisionRow), ("ends", "order end", OrderEndRow), ("named", "order", NamedOrder),
    ("stops", "loss stop", StopRow),
)
"""The recorded outputs: attribute of ``Recorded`` and ``Outputs``, a word for one row, and its row type."""

_WORDS = {"reduce": Part, "open": Part, "reason": Reason}


def start_of(reader: Reader, to_seq: int | None = None, use_checkpoint: bool = True) -> Engine:
    """The state a fold starts from: empty, or a checkpoint where asked for or where the journal no longer has its beginning."""
    state = reader.state()
    found = reader.latest_checkpoint(to_seq) if use_checkpoint else None
    if found is None and state.first_seq > 1:
        oldest = [seq for seq in reader.checkpoints() if seq >= state.first_seq - 1 and (to_seq is None or seq <= to_seq)]
        found = reader.latest_checkpoint(oldest[0]) if oldest else None
        if found is None:
            raise JournalError(
                f"{reader.path}: records before {state.first_seq} were dropped and no checkpoint from there on is kept"
            )
    if found is None:
        return Engine()
    try:
        engine = unpack_checkpoint(found.payload)
    except ValueError as error:
        raise JournalDamaged(f"checkpoint at record {found.seq}: {error}", found.seq) from None
    if engine.names.seq != found.seq:
        raise JournalDamaged(f"checkpoint at record {found.seq}: holds the state after record {engine.names.seq}", found.seq)
    return engine


def fold(
    reader: Reader,
    to_seq: int | None = None,
    use_checkpoint: bool = True,
    on_record: OnRecord | None = None,
    *,
    before_record: BeforeRecord | None = None,
    findings: list[Finding] | None = None,
    engine: Engine | None = None,
) -> Engine:
    """The state after record ``to_seq`` (default: the last), from the latest checkpoint at or below it or from the start.

    Each record's outputs are computed again and compared with the recorded bytes. A difference is appended to
    ``findings``; without that list it raises ``DecisionsDiffer``. ``before_record`` sees the state a record found,
    ``on_record`` what it decided. ``engine``: continue from this state instead.
    """
    state = engine or start_of(reader, to_seq, use_checkpoint)
    for record in reader.iterate(state.names.seq + 1, to_seq):
        recorded = decode(record)
        if before_record is not None:
            before_record(state, record, recorded)
        outputs, faults = apply(state, record, recorded)
        if faults and findings is None:
            raise DecisionsDiffer(faults[0])
        if findings is not None:
            findings += faults[: max(0, FINDINGS_MAX - len(findings))]
        if outputs is None:
            break  # the state after it is unknown: nothing later can be judged
        if on_record is not None:
            on_record(record, recorded, outputs)
    return state


def decode(record: Record) -> Recorded:
    """The parts of a record; ``JournalDamaged`` names the record when they are not there."""
    try:
        return decode_payload(record.payload)
    except ValueError as error:
        raise JournalDamaged(f"record {record.seq}: {error}", record.seq) from None


def apply(engine: Engine, record: Record, recorded: Recorded) -> tuple[Outputs | None, list[Finding]]:
    """Step one record's input and compare; no outputs when the input cannot be applied at all."""
    value = recorded.input
    name = type(value).__name__
    if record.seq != engine.names.seq + 1:
        return None, [Finding(record.seq, f"record {record.seq}: the state before it is after record {engine.names.seq}")]
    faults = []
    if record.kind != kind_of(value):
        faults.append(Finding(record.seq, f"record {record.seq}: is of kind {record.kind} and holds a {name}"))
    if isinstance(value, Started) and value.epoch != record.epoch:
        faults.append(Finding(record.seq, f"record {record.seq}: starts epoch {value.epoch} and was written in {record.epoch}"))
    try:
        outputs = engine.step(record.ts_ns, value)
    except (CopydError, ValueError, LookupError, TypeError, OverflowError, struct.error, ArithmeticError) as error:
        if isinstance(error, BrokenInvariant):
            name = f"{name} (broken invariant)"
        faults.append(Finding(record.seq, f"record {record.seq}: its {name} cannot be applied: {error}"))
        return None, faults
    if outputs is None:
        faults.append(Finding(record.seq, f"record {record.seq}: its {name} changes nothing and would not have been recorded"))
        return None, faults
    faults += differences(record.seq, recorded, outputs)
    return outputs, faults


def differences(seq: int, recorded: Any, computed: Any, wording: str = "the rules give") -> list[Finding]:
    """Where recorded and recomputed rows differ: the first row and field of each kind of row."""
    found = []
    for attribute, word, row_type in PARTS:
        was, now = getattr(recorded, attribute), getattr(computed, attribute)
        if was != now:
            found.append(Finding(seq, f"record {seq}: {_first_difference(word, row_type, was, now, wording)}"))
    return found


def _first_difference(word: str, row_type: type[Row], was: bytes, now: bytes, wording: str) -> str:
    size = row_type.LAYOUT.size
    if len(was) % size:
        return f"its {word} rows are {len(was)} bytes, no whole number of rows of {size}"
    for at in range(0, min(len(was), len(now)), size):
        if was[at : at + size] != now[at : at + size]:
            return _row_difference(word, at // size, row_type.unpack(was[at : at + size]), row_type.unpack(now[at : at + size]),
                                   wording)
    return f"it holds {len(was) // size} {word} rows, {wording} {len(now) // size}"


def _row_difference(word: str, index: int, was: Any, now: Any, wording: str) -> str:
    for name in was.names():
        old, new = getattr(was, name), getattr(now, name)
        if old != new:
            place = f"{word} {was.cid.hex()}" if hasattr(was, "cid") else f"{word} {index}"
            return f"{place} ({_whose(was)}): {name} is {show(name, old)}, {wording} {show(name, new)}"
    return f"{word} {index} ({_whose(was)}): its padding bytes are not zero"


def _whose(row: Any) -> str:
    return f"plan {row.plan}" if isinstance(row, StopRow) else f"leg {row.leg}"


def show(name: str, value: Any) -> str:
    """A field of a row as a person reads it."""
    if isinstance(value, bytes):
        return value.hex()
    words = _WORDS.get(name)
    if words is not None and value in [int(word) for word in words]:
        return words(value).name.lower()
    return str(value)


def rows(row_type: type[Row], data: bytes) -> Iterable[tuple]:
    """The rows of packed bytes as plain tuples: for journals with many."""
    return row_type.LAYOUT.iter_unpack(data)
