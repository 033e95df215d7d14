"""The extracted history as files: one folder of Parquet parts per table, and a manifest that says which of them count.

    manifest.json            what was taken from which journal, up to which record, in which parts; replaced by rename
    state-<seq>.bin          where the extraction stands: the engine's state and the average-cost books after that record
    <table>/<seq>.parquet    rows up to that record; named by the manifest or not there

A part is written beside its name, synced, renamed, and counts once the manifest names it: an extraction killed anywhere leaves
the history as it was, and the next one removes what it had begun. Rows are only ever appended; many small parts are
joined into one from time to time, with the same rows in the same order. Every number is int64 with its unit in the column's name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from copyd.errors import OperatorError

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
FORMAT = 2
PARTS_MAX = 48
"""More parts of one table than this are joined into one."""

INT, TEXT, FLAG = "int64", "text", "flag"
_FILL = (
    ("kind", TEXT), ("source", TEXT), ("side", INT), ("lots", INT), ("value_e8", INT), ("fee_e8", INT), ("realised_e8", INT),
    ("position_lots", INT), ("position_cost_e8", INT), ("trip", INT),
)
TABLES: dict[str, tuple[tuple[str, str], ...]] = {
    "leader_fills": (("leader", TEXT), ("leg", INT), ("instrument", TEXT), ("ts_event_ns", INT), ("exec_id", INT), ("live", FLAG),
                     *_FILL),
    "follower_fills": (("plan", INT), ("leader", TEXT), ("follower", TEXT), ("leg", INT), ("instrument", TEXT),
                       ("ts_event_ns", INT), ("slippage_e8", INT), ("reference_e8", INT), *_FILL),
    "marks": (("instrument", TEXT), ("bid_ticks", INT), ("ask_ticks", INT), ("mark_ticks", INT), ("value_mul", INT),
              ("value_div", INT)),
    "equity": (("leader", TEXT), ("equity_e8", INT)),
    "flows": (("leader", TEXT), ("amount_e8", INT)),
    "plans": (("plan", INT), ("leader", TEXT), ("follower", TEXT), ("allocation_e8", INT), ("version", INT), ("state", TEXT)),
}
"""Columns by table, each behind ``n`` (the row's number in its table), ``seq`` (journal record) and ``ts_ns`` (its time).

``side`` +1 bought, -1 sold; ``lots`` >= 0; ``value_e8`` what they were worth; ``kind`` opening or reduction; ``position_*`` and
``trip`` the leg's book after the row (``ledger``). ``source`` says how it is known:

    fill        the venue's report (a leader's: his execution)
    adjustment  a fee or a better value for lots already booked; ``lots`` 0
    external    the follower's own hand, a liquidation, or an inference from the venue's books: valued at the mark
    orphan      a fill of an order the journal had lost, at its own price
    funding     of the position: ``fee_e8`` above 0 was paid, below 0 received; ``lots`` 0
    snapshot    a leader's position that a snapshot showed and no fill explains, at the mark
    restated    another lot size, or a hole in the history; ``lots`` 0

``reference_e8`` is what the follower's lots were worth at the leader's own price and ``slippage_e8`` how much worse for the
follower theirs was (below 0: better); both 0 where no price of the leader caused the order.

A mark's value per lot is ``mark_ticks * value_mul / value_div`` in e8. ``flows`` are a leader's deposits (+) and withdrawals (-).
"""
HEAD = (("n", INT), ("seq", INT), ("ts_ns", INT))


class ServeExtraMissing(OperatorError):
    """The packages of the extra are not installed."""

    exit_code = 1

    def __init__(self, missing: str) -> None:
        super().__init__(f"statistics need the package {missing}, which is not installed: pip install 'copyd[serve]'")


def require() -> None:
    """``ServeExtraMissing`` where DuckDB or pyarrow is not installed."""
    for package in ("duckdb", "pyarrow"):
        if find_spec(package) is None:
            raise ServeExtraMissing(package)


class HistoryError(OperatorError):
    """An output directory that cannot be used: another journal's history, an unknown format, or a file that is gone."""

    exit_code = 1


class Part(msgspec.Struct, frozen=True):
    """One Parquet file: its name below the table's folder and how many rows it holds."""

    name: str
    rows: int


class Manifest(msgspec.Struct):
    """What the directory holds. ``head`` is the chain hash of record ``last_seq``; ``gaps`` are (first, last, why) not taken."""

    site: int
    created_ns: int
    last_seq: int = 0
    last_ts_ns: int = 0
    head: str = ""
    state: str = ""
    parts: dict[str, list[Part]] = {}
    gaps: list[tuple[int, int, str]] = []
    format: int = FORMAT

    def rows(self, table: str) -> int:
        """Rows of a table over all its parts."""
        return sum(part.rows for part in self.parts.get(table, []))


def load_manifest(out: Path) -> Manifest | None:
    """The manifest of a directory, None where nothing was extracted yet; ``HistoryError`` when it is not one."""
    try:
        data = (out / MANIFEST).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HistoryError(f"{out / MANIFEST}: {error.strerror}") from error
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise HistoryError(f"{out / MANIFEST}: not a manifest of this build: {error}") from error
    if manifest.format != FORMAT:
        raise HistoryError(f"{out}: format {manifest.format}, this build reads {FORMAT}; extract into another directory")
    return manifest


def paths(out: Path, manifest: Manifest, table: str) -> list[Path]:
    """The files of a table in the order of its rows."""
    return [out / table / part.name for part in manifest.parts[table]]


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """One extraction at a time into a directory, which is made where it is not there; ``HistoryError`` when one is at work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        fd = os.open(out / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HistoryError(f"{out}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HistoryError(f"{out}: another process is extracting into it") from error
        yield
    finally:
        os.close(fd)


def sweep(out: Path, manifest: Manifest) -> None:
    """Remove what an extraction that was killed had begun; only while ``locked``."""
    for table in TABLES:
        named = {part.name for part in manifest.parts.get(table, [])}
        for path in (out / table).glob("*.parquet*"):
            if path.name not in named:
                path.unlink(missing_ok=True)
    for path in out.glob("*.bin*"):
        if path.name != manifest.state:
            path.unlink(missing_ok=True)


def append(out: Path, manifest: Manifest, state: bytes, rows: dict[str, list[tuple]]) -> None:
    """Add rows (in column order, without ``n``) and replace state and manifest: all of it or, when killed, none."""
    import pyarrow.parquet as pq

    was = manifest.state
    stale: list[Path] = []
    for table in TABLES:
        held = manifest.parts.setdefault(table, [])
        if rows.get(table) or not held:
            name = f"{manifest.last_seq:016d}.parquet"
            data = arrow_table(table, rows.get(table, []), manifest.rows(table))
            _replace(out / table / name, partial(pq.write_table, data, compression="zstd"))
            held.append(Part(name, data.num_rows))
        if len(held) > PARTS_MAX:
            stale += _join(out, manifest, table)
    manifest.state = f"state-{manifest.last_seq:016d}.bin"
    _replace(out / manifest.state, lambda path: path.write_bytes(state))
    _replace(out / MANIFEST, lambda path: path.write_bytes(msgspec.json.encode(manifest)))
    if was and was != manifest.state:
        stale.append(out / was)
    for path in stale:
        path.unlink(missing_ok=True)


def arrow_table(table: str, rows: Iterable[tuple], first: int) -> pa.Table:
    """Rows as an Arrow table; ``first`` is the number ``n`` of the first of them."""
    import pyarrow as pa

    types = {INT: pa.int64(), TEXT: pa.string(), FLAG: pa.bool_()}
    names = (*HEAD, *TABLES[table])
    columns = list(zip(*rows, strict=True)) or [()] * (len(names) - 1)
    columns = [tuple(range(first, first + len(columns[0]))), *columns]
    arrays = [pa.array(values, types[kind]) for values, (_, kind) in zip(columns, names, strict=True)]
    return pa.Table.from_arrays(arrays, names=[name for name, _ in names])


def _join(out: Path, manifest: Manifest, table: str) -> list[Path]:
    """All parts of a table as one, under a name of its own; returns the files that are no longer named."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    old = paths(out, manifest, table)
    data = pa.concat_tables([pq.read_table(path) for path in old])
    name = f"{manifest.last_seq:016d}-all.parquet"
    _replace(out / table / name, partial(pq.write_table, data, compression="zstd"))
    manifest.parts[table] = [Part(name, data.num_rows)]
    return [path for path in old if path.name != name]


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """A file that is there whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    write(beside)
    _sync(beside, os.O_RDONLY)
    beside.replace(path)
    _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
