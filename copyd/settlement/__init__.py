"""Settlement: from a snapshot of all plans to fees charged, paid and stated (semantics 38 to 40). The daemon takes no part.

    snapshot      what every plan was worth, and what happened to it, up to one moment; made elsewhere, read here
    calculate     the rules of ``core.fees`` over all plans: fees, transfers, closing accounts. Pure
    transfers     the transfer file: canonical, signed, each transfer with an id derived from (site, period, plan, part)
    executor      who moves the money: an exchange, or an operator who confirms by file. Unknown outcomes are asked about
    statements    what every follower and leader is told, each number recomputable from the statement alone
    verification  ...and recomputed
    book          the settlement's own journal: steps done, and the account of every follower with every leader
    run           the steps in their order, each durable before the next, resumable after a kill at any point
    commands      ``copyd settle`` and ``copyd statement``

A run, once per period::

    1 begin       snapshot checked and kept     4 execute   transfers sent by id and confirmed
    2 calculate   fees and closing accounts     5 notify    statements written and handed over
    3 file        transfer file signed          6 move      marks, units and receivables take their new values

The mark moves last: a run that ends before leaves every account where it was, and the next run goes on with the same bytes.
"""

from copyd.settlement.executor import ConfirmationFile, ExchangeExecutor, Executor
from copyd.settlement.run import Report, settle
from copyd.settlement.snapshot import (
    Flow,
    PlanSnapshot,
    Sample,
    Snapshot,
    SnapshotSource,
    Trade,
    decode_snapshot,
    encode_snapshot,
)
from copyd.settlement.transfers import read_transfers
from copyd.settlement.verification import verify_statement

__all__ = [
    "ConfirmationFile",
    "ExchangeExecutor",
    "Executor",
    "Flow",
    "PlanSnapshot",
    "Report",
    "Sample",
    "Snapshot",
    "SnapshotSource",
    "Trade",
    "decode_snapshot",
    "encode_snapshot",
    "read_transfers",
    "settle",
    "verify_statement",
]
