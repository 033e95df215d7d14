"""The settlement's own journal: which steps are done, and every follower's account with every leader.

A directory of its own, apart from the daemon's journal: records are the steps, the state is a fold over them, a checkpoint
follows every finished settlement. What a step produced is kept by its digest; the bytes are in the period's folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from copyd.errors import BrokenInvariant, OperatorError
from copyd.journal import Journal, JournalForeign, Reader, register_kinds
from copyd.settlement.calculate import PlanState

BEGUN, CALCULATED, FILED, SENDING, CONFIRMED, NOTIFIED, ACCOUNTS, MOVED = range(201, 209)
register_kinds(
    {
        BEGUN: "settlement_begun",
        CALCULATED: "settlement_calculated",
        FILED: "settlement_filed",
        SENDING: "settlement_sending",
        CONFIRMED: "settlement_confirmed",
        NOTIFIED: "settlement_notified",
        ACCOUNTS: "settlement_accounts",
        MOVED: "settlement_moved",
    }
)
MAP_BYTES = 16 << 30
ACCOUNTS_A_RECORD = 5_000


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One account as the book keeps it."""

    follower: str
    leader: str
    state: PlanState


class Run(msgspec.Struct):
    """A settlement under way. Digests are SHA-256 in hex, empty until the step is done."""

    period: str
    as_of: int
    snapshot: str
    key: str
    calculated: str = ""
    filed: str = ""
    notified: str = ""
    sending: set[str] = msgspec.field(default_factory=set)
    confirmed: dict[str, tuple[str, str]] = msgspec.field(default_factory=dict)
    entries: list[Entry] = msgspec.field(default_factory=list)


class Settled(msgspec.Struct, frozen=True):
    """A settlement that is done."""

    period: str
    as_of: int
    snapshot: str
    filed: str
    plans: int
    accounts: str


class BookState(msgspec.Struct):
    """What the records amount to. ``accounts`` by (follower, leader)."""

    site: int = -1
    settled: dict[str, Settled] = msgspec.field(default_factory=dict)
    accounts: dict[tuple[str, str], PlanState] = msgspec.field(default_factory=dict)
    run: Run | None = None

    @property
    def as_of(self) -> int:
        """Up to when everything is settled, ns; 0 before the first."""
        return max((one.as_of for one in self.settled.values()), default=0)


class _Checkpoint(msgspec.Struct):
    site: int
    settled: list[Settled]
    accounts: list[Entry]


def digest(body: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(body).hexdigest()


def entries_of(accounts: dict[tuple[str, str], PlanState]) -> list[Entry]:
    """All accounts by name."""
    return [Entry(follower, leader, accounts[follower, leader]) for follower, leader in sorted(accounts)]


def accounts_digest(accounts: dict[tuple[str, str], PlanState]) -> str:
    """One digest over all accounts: the same books have the same one on every machine."""
    return digest(msgspec.json.encode(entries_of(accounts)))


def fold(state: BookState, kind: int, payload: bytes) -> None:
    """Apply one record."""
    run = state.run
    if kind == BEGUN:
        said = msgspec.json.decode(payload)
        state.site = said.pop("site")
        state.run = Run(**said)
        return
    if run is None:
        raise BrokenInvariant(f"settlement record {kind} outside a settlement")
    if kind == CALCULATED:
        run.calculated = payload.decode()
    elif kind == FILED:
        run.filed = payload.decode()
    elif kind == SENDING:
        run.sending.update(msgspec.json.decode(payload, type=list[str]))
    elif kind == CONFIRMED:
        run.confirmed.update(msgspec.json.decode(payload, type=dict[str, tuple[str, str]]))
    elif kind == NOTIFIED:
        run.notified = payload.decode()
        run.entries = []
    elif kind == ACCOUNTS:
        run.entries += msgspec.json.decode(payload, type=list[Entry])
    elif kind == MOVED:
        settled = msgspec.json.decode(payload, type=Settled)
        # A kill between the account records leaves some that the next run writes again: the last word counts.
        state.accounts.update({(one.follower, one.leader): one.state for one in run.entries})
        state.settled[settled.period] = settled
        state.run = None


class Book:
    """The journal open for one settlement run; use as a context manager. Raises what ``Journal.open`` raises."""

    def __init__(self, path: Path, site: int) -> None:
        self._journal = Journal.open(path, site=site, map_size=MAP_BYTES, runway_bytes=0)
        try:
            self.state = _read(self._journal.reader)
        except BaseException:
            self._journal.close()
            raise

    def record(self, kind: int, ts_ns: int, value: Any) -> None:
        """One step, on disk when this returns, and in ``state``."""
        payload = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
        self._journal.wait(self._journal.append(kind, ts_ns, [payload]))
        fold(self.state, kind, payload)

    def record_accounts(self, ts_ns: int, entries: Iterable[Entry]) -> None:
        """The accounts that move, in several records; they count when MOVED follows."""
        every = list(entries)
        for first in range(0, len(every), ACCOUNTS_A_RECORD):
            self.record(ACCOUNTS, ts_ns, every[first : first + ACCOUNTS_A_RECORD])

    def checkpoint(self) -> None:
        """Keep the state whole, so that the next start does not read every settlement there ever was."""
        state = self.state
        body = _Checkpoint(state.site, list(state.settled.values()), entries_of(state.accounts))
        self._journal.checkpoint(self._journal.last_seq, [msgspec.json.encode(body)])
        self._journal.flush()

    def close(self) -> None:
        """Give the journal back."""
        self._journal.close()

    def __enter__(self) -> Book:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_book(path: Path) -> BookState:
    """The state without taking the journal: an empty one where there is no book yet."""
    if not (path / "data.mdb").exists():
        return BookState()
    with Reader(path) as reader:
        return _read(reader)


def _read(reader: Reader) -> BookState:
    state = BookState()
    found = reader.latest_checkpoint()
    if found is not None:
        try:
            kept = msgspec.json.decode(found.payload, type=_Checkpoint)
        except msgspec.MsgspecError as error:
            raise JournalForeign(f"{reader.path}: not a settlement book: {error}") from None
        state.site = kept.site
        state.settled = {one.period: one for one in kept.settled}
        state.accounts = {(one.follower, one.leader): one.state for one in kept.accounts}
    for record in reader.iterate(found.seq + 1 if found else 1):
        if not BEGUN <= record.kind <= MOVED:
            raise OperatorError(f"{reader.path}: record {record.seq} is no settlement record: give its own directory")
        fold(state, record.kind, record.payload)
    return state
