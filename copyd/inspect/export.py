"""``copyd replay``: rebuild the state from a journal, print it, and export the decisions."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from copyd.core.engine import Engine, Outputs, Recorded
from copyd.errors import OperatorError
from copyd.inspect.claims import Claims
from copyd.inspect.progress import progress
from copyd.inspect.rebuild import Finding, fold, start_of
from copyd.inspect.summary import Tally, describe
from copyd.journal import JournalError, Reader, Record


def replay(journal: Path, decisions: Path | None = None) -> int:
    """Print the state a journal amounts to; with ``decisions`` write the claims there. Exit 65 when a record differs."""
    findings: list[Finding] = []
    with Reader(journal) as reader, contextlib.ExitStack() as stack:
        state = reader.state()
        engine = start_of(reader, use_checkpoint=False)
        tally = Tally()
        claims = None
        if decisions is not None:
            try:
                claims = Claims(engine, stack.enter_context(decisions.open("wb")))
            except OSError as error:
                raise OperatorError(f"{decisions}: {error.strerror}") from error
        advance = stack.enter_context(progress("replay", state.last_seq - engine.names.seq))

        def before(engine: Engine, record: Record, recorded: Recorded) -> None:
            if claims is not None:
                claims.before(engine, record, recorded)

        def after(record: Record, recorded: Recorded, outputs: Outputs) -> None:
            tally.add(record, recorded, outputs)
            if claims is not None:
                claims.after(record, recorded, outputs)
            advance(1)

        begun = engine.names.seq
        engine = fold(reader, on_record=after, before_record=before, findings=findings, engine=engine)
        if claims is not None:
            claims.flush()
    print(f"journal      {journal}: site {state.site:04x}, records {state.first_seq} to {state.last_seq}")
    if begun:
        print(f"             the beginning was dropped: from the checkpoint at record {begun}")
    for line in describe(engine, tally):
        print(line)
    if claims is not None:
        print(f"decisions    {claims.lines:,} lines written to {decisions}")
    for finding in findings:
        print(f"copyd: {finding.text}", file=sys.stderr)
    if findings:
        print("copyd: this journal does not replay to itself; `copyd verify` says more", file=sys.stderr)
    return JournalError.exit_code if findings else 0
