"""``copyd verify``: is the journal what was written, and is every decision in it what the rules give?

1. The file: chain, records, checkpoints, pages; in a process of its own. Nothing else is read when something is wrong here.
2. The kernel: the fold from the beginning gives every recorded output again, byte for byte, and every checkpoint.
3. The readable rules: they decide again what the kernel was asked, on the state it found; everything, or a sample by
   account that moves from record to record so that every account has its turn.

What another build decided is compared too; where its rules differ, only the client order ids are (semantics 33).
"""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec

from copyd.core.engine import CHECKPOINT_ONE_VENUE, Command, Engine, Outputs, Recorded, Reports, Timer, decisions_in
from copyd.core.rows import ReportRow
from copyd.errors import CopydError
from copyd.inspect.ids import IdCheck
from copyd.inspect.progress import progress
from copyd.inspect.rebuild import FINDINGS_MAX, Finding, differences, fold, start_of
from copyd.inspect.twin import Twin, observe
from copyd.journal import JournalDamaged, JournalError, JournalForeign, Reader, Record
from copyd.journal.check import check_in_child
from copyd.kinds import BUILD, kind_of, pack_checkpoint, same_rules, unpack_checkpoint

BUDGET = 250_000
"""Decisions and reports the readable rules recompute unless told otherwise: some twenty seconds."""
TIMER_COST = 200
GOOD, BAD = 0, JournalError.exit_code


def verify(journal: Path, sample: int | None = None) -> int:
    """Print what was checked and every finding. ``sample``: how many decisions the readable rules recompute, 0 = all."""
    if not (journal / "data.mdb").exists():
        raise JournalForeign(f"{journal}: no journal there (data.mdb is missing)")
    file = check_in_child(journal)
    print(f"journal      {journal}: records {file.first_seq} to {file.last_seq}, {file.file_bytes:,} bytes")
    if not file.ok:
        for found in file.findings:
            print(f"finding: {found.message}")
        if file.suppressed:
            print(f"finding: and {file.suppressed} more")
        print("bad: the file is not what was written; its decisions were not looked at")
        return BAD
    print(f"file         every page, record and checkpoint is what was written; head of the chain {file.head or '-'}")
    try:
        with Reader(journal) as reader:
            check = _Check(reader, BUDGET if sample is None else sample)
            check.run()
    except JournalDamaged as error:
        print(f"finding: {error}")
        return BAD
    for line in check.lines():
        print(line)
    for finding in check.findings:
        print(f"finding: {finding.text}")
    if check.findings:
        print(f"bad: {len(check.findings)}{' or more' if len(check.findings) >= FINDINGS_MAX else ''} findings")
        return BAD
    print("good" if not check.ids_from else f"good as far as it can be told: ids only from record {check.ids_from} on")
    return GOOD


class _Check:
    """One pass over the records."""

    def __init__(self, reader: Reader, budget: int) -> None:
        self.reader = reader
        self.findings: list[Finding] = []
        self.builds: list[tuple[str, int]] = []
        self.records = self.decisions = self.ends = self.orders = 0
        self.checkpoints = 0
        self.ids_from = 0
        self.ids: IdCheck | None = None
        self.pending = set(reader.checkpoints())
        self.stride = self._stride(budget)
        self.seq = 0
        self.engine: Engine = start_of(reader, use_checkpoint=False)
        self.begun = self.engine.names.seq
        self.twin = Twin(self.engine, None if self.stride == 1 else self._chosen)

    def _stride(self, budget: int) -> int:
        """Every how many-th account is recomputed, so that the work stays within the budget."""
        work = 0
        reports, timer = kind_of(Reports(b"")), kind_of(Timer())
        for record in self.reader.iterate():
            if len(record.payload) >= 4:
                head = struct.unpack_from("<I", record.payload)[0]
                work += decisions_in(record.payload) + (head // ReportRow.LAYOUT.size if record.kind == reports else 0)
                work += TIMER_COST * (record.kind == timer)
        return max(1, -(-work // budget)) if budget else 1

    def _chosen(self, account: int) -> bool:
        return (account + self.seq) % self.stride == 0

    def run(self) -> None:
        """The fold, compared as it goes."""
        observe(self.engine, self.twin)
        if self.begun:
            self._checkpoint(self.begun)
        state = self.reader.state()
        found: list[Finding] = []
        with progress("verify", state.last_seq - self.begun) as advance:

            def before(engine: Engine, record: Record, recorded: Recorded) -> None:
                self.seq = record.seq
                self.twin.begin()
                if isinstance(recorded.input, Command):
                    self.twin.retired()

            def after(record: Record, recorded: Recorded, outputs: Outputs) -> None:
                self._record(record, recorded, found)
                advance(1)

            try:
                fold(self.reader, on_record=after, before_record=before, findings=found, engine=self.engine)
            except JournalDamaged:
                raise
            except (CopydError, LookupError, ValueError, ArithmeticError) as error:
                found.append(Finding(self.seq, f"record {self.seq}: the readable rules cannot decide it: {error}"))
        self._judge(found)
        if not self.findings and not self.ids_from and self.engine.names.seq < state.last_seq:
            last = self.engine.names.seq
            self.findings.append(Finding(last, f"record {last}: nothing after it could be read"))

    def _record(self, record: Record, recorded: Recorded, found: list[Finding]) -> None:
        self.records += 1
        self.decisions += len(recorded.decisions) // 64
        self.ends += len(recorded.ends) // 40
        self.orders += len(recorded.named) // 48
        build = self.engine.names.build
        if not self.builds or self.builds[-1][0] != build:
            self.builds.append((build, record.seq))
        if not self.ids_from and not found and self.twin.called:
            found += differences(record.seq, self.twin.share(recorded), self.twin.computed, "the readable rules give")
        self._judge(found)
        if self.ids_from:
            if self.ids is None:
                self.ids = IdCheck(self.engine)
            self.findings += self.ids.check(record, recorded)[: max(0, FINDINGS_MAX - len(self.findings))]
        elif record.seq in self.pending:
            self._checkpoint(record.seq)

    def _judge(self, found: list[Finding]) -> None:
        """Differences of this build's are findings; those of another build's end the comparison of decisions."""
        if found and (self.ids_from or not same_rules(self.engine.names.build)):
            self.ids_from = self.ids_from or found[0].seq
            self.twin.chosen = lambda account: False
        else:
            self.findings += found[: max(0, FINDINGS_MAX - len(self.findings))]
        found.clear()

    def _checkpoint(self, seq: int) -> None:
        kept = self.reader.latest_checkpoint(seq)
        if kept is None or kept.seq != seq:
            return  # a live daemon has replaced it meanwhile
        blob = pack_checkpoint(self.engine)
        self.checkpoints += 1
        told = as_this_build_packs(kept.payload)
        if blob != told:
            where = checkpoint_difference(told, blob)
            self.findings.append(Finding(seq, f"checkpoint at record {seq}: is not the state the records give: {where}"))

    def lines(self) -> list[str]:
        """What was covered."""
        out = []
        if self.begun:
            out.append(f"beginning    was dropped: checked from the checkpoint at record {self.begun} on")
        for build, seq in self.builds:
            other = "" if same_rules(build) else f" (this is {BUILD})"
            out.append(f"written by   {build or 'no build named'} from record {seq}{other}")
        out.append(f"kernel       {self.records:,} records computed again: {self.decisions:,} decisions, "
                   f"{self.ends:,} order ends, {self.orders:,} orders")
        out.append(f"checkpoints  {self.checkpoints} compared with the fold")
        counts = self.twin.counts
        part = f"one account in {self.stride} of each record" if self.stride > 1 else "everything"
        out.append(f"rules        {part}: {counts.decisions:,} of {counts.decisions_all:,} leader decisions, "
                   f"{counts.reports:,} of {counts.reports_all:,} reports, {counts.timers:,} timers by the readable rules")
        if self.engine.announced is not None:
            execution = self.engine.announced[1].exec_id
            out.append(f"announced    the last record announces execution {execution}, which is not decided yet: orders of it "
                       "may have left, the next start names them")
        if self.ids_from:
            checked = self.ids.checked if self.ids else 0
            out.append(f"ids          this build decides otherwise from record {self.ids_from} on: of what follows only "
                       f"{checked:,} client order ids were computed again")
        return out


def as_this_build_packs(blob: bytes) -> bytes:
    """A checkpoint of an older layout that is still read, in this build's; any other as it is."""
    try:
        version = msgspec.msgpack.decode(msgspec.msgpack.decode(blob, type=list[bytes])[0], type=tuple[int, int, msgspec.Raw])[0]
        return pack_checkpoint(unpack_checkpoint(blob)) if version in CHECKPOINT_ONE_VENUE else blob
    except (msgspec.MsgspecError, IndexError, ValueError):
        return blob


def checkpoint_difference(was: bytes, now: bytes) -> str:
    """Which part of two checkpoint blobs differs, in words."""
    from copyd._fast.columns import TABLES
    from copyd.core.engine import Names
    from copyd.core.state import ROWS

    try:
        old, new = (msgspec.msgpack.decode(blob, type=list[bytes]) for blob in (was, now))
        heads = [msgspec.msgpack.decode(parts[0], type=tuple[int, int, Names]) for parts in (old, new)]
    except (msgspec.MsgspecError, IndexError) as error:
        return f"it does not decode: {error}"
    if old[0] != new[0]:
        for name in Names.__struct_fields__:
            if getattr(heads[0][2], name) != getattr(heads[1][2], name):
                return f"its {name.replace('_', ' ')} differ"
        return "its head differs"
    for name, row_type, one, other in zip(TABLES, ROWS, old[1:], new[1:], strict=False):
        if one != other:
            size = row_type.LAYOUT.size
            for at in range(0, min(len(one), len(other)), size):
                if one[at : at + size] != other[at : at + size]:
                    rows = [row_type.unpack(data[at : at + size]) for data in (one, other)]
                    for field in row_type.names():
                        if getattr(rows[0], field) != getattr(rows[1], field):
                            return (f"{name} row {at // size}: {field} is {getattr(rows[0], field)}, the records give "
                                    f"{getattr(rows[1], field)}")
            return f"{name}: {len(one) // size} rows, the records give {len(other) // size}"
    if old[len(ROWS) + 2:] != new[len(ROWS) + 2:]:
        return "what was announced and is not decided yet differs"
    return "the list of free order rows differs"
