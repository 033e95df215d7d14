"""Every recorded decision as one JSON object per line, for whoever checks them without our code.

Lines of one record: orders that ended with something unfilled first, then loss stops, then reductions sent because of what the
venue said or because time passed, then decisions. Every client order id stands in exactly one line.

    leader_fill   one per (leader execution, plan); a change found in a snapshot has the exec_id ``snapshot:<record>``
    release       an opening that had waited
    report timer  a reduction after a report, or after a back-off
    order_end     quantity an opening left unfilled: it leaves the target
    loss_stop     a limit stopped a plan: by how much, and what it does to the legs; what it closes follows as ``timer``
    external      the target followed the follower's own hand, a liquidation or an operator's stop
    restart       a daemon took over
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, BinaryIO

import orjson

from copyd.core.engine import (
    ACCOUNTS,
    INSTRUMENTS,
    LEADERS,
    LEGS,
    ORDERS,
    PLANS,
    AccountSnapshots,
    Command,
    Engine,
    ExternalFill,
    LeaderFill,
    LeaderSync,
    Outputs,
    Recorded,
    Reports,
    Started,
)
from copyd.core.rows import (
    NONE,
    DecisionRow,
    InstrumentRow,
    Kind,
    LeaderRow,
    LegRow,
    LossPolicy,
    NamedOrder,
    OrderEndRow,
    OrderRow,
    Part,
    PlanRow,
    Reason,
    StopRow,
)
from copyd.journal import Record

PART_NAMES = [part.name.lower() for part in Part]
REASON_NAMES = {int(reason): reason.name.lower() for reason in Reason} | {0: ""}
FLUSH_BYTES = 1 << 20


class Claims:
    """Writes the lines while a journal is folded from its beginning: ``before`` and ``after`` each record."""

    def __init__(self, engine: Engine, out: BinaryIO) -> None:
        self.engine = engine
        self.out = out
        self.lines = 0
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._targets: list[int] = []
        self._legs: list[tuple[str, str, str, int]] = []  # leader, symbol, follower, instrument
        self._account_legs: dict[int, list[int]] = defaultdict(list)
        self._release_ts: dict[int, int] = {}
        self._market: dict[int, tuple[int, int, int]] = {}
        self._equity: dict[str, int] = {}
        self._grow()

    def _grow(self) -> None:
        """Names of legs made since the last look."""
        columns, names = self.engine.columns, self.engine.names
        for index in range(len(self._legs), columns.count(LEGS)):
            leg = LegRow.unpack(columns.get(LEGS, index))
            self._legs.append((names.plan_leaders[leg.plan], names.instruments[leg.instrument].symbol,
                               names.followers[leg.plan], leg.instrument))
            self._targets.append(leg.target)
            self._account_legs[leg.account].append(index)

    def before(self, engine: Engine, record: Record, recorded: Recorded) -> None:
        """The state a record finds: since when its released openings have waited."""
        self._release_ts.clear()
        if 1 not in recorded.decisions[11::64]:
            return
        for row in DecisionRow.LAYOUT.iter_unpack(recorded.decisions):
            if row[5] and row[1] < engine.columns.count(LEGS):
                leg = LegRow.unpack(engine.columns.get(LEGS, row[1]))
                if leg.deferred or leg.open_slot == NONE:
                    self._release_ts[row[1]] = leg.deferred_ts
                else:
                    self._release_ts[row[1]] = OrderRow.unpack(engine.columns.get(ORDERS, leg.open_slot)).ts_event

    def after(self, record: Record, recorded: Recorded, outputs: Outputs) -> None:
        """The lines of one record."""
        value = recorded.input
        if isinstance(value, Started):
            self._emit({"cause": "restart", "seq": record.seq, "epoch": value.epoch, "ts": record.ts_ns, "build": value.build})
            return
        if recorded.ends:
            self._grow()
            self._ends(record, recorded)
        if recorded.stops:
            self._stops(record, recorded)
        if recorded.decisions or recorded.named:
            self._grow()
            self._market.clear()
            self._equity.clear()
            self._decisions(record, recorded)
        if isinstance(value, ExternalFill | AccountSnapshots | Command):
            self._moved_otherwise(record, value)

    def _ends(self, record: Record, recorded: Recorded) -> None:
        for cid, forgone, leg, code, reason, _ in OrderEndRow.LAYOUT.iter_unpack(recorded.ends):
            if not forgone or leg == NONE:
                continue
            leader, symbol, plan, _instrument = self._legs[leg]
            self._targets[leg] -= forgone
            name = REASON_NAMES[reason]
            self._emit({
                "seq": record.seq, "cause": "order_end", "leader": leader, "symbol": symbol, "plan": plan,
                "client_order_id": cid.hex(), "reason": f"{name}:{code}" if reason == Reason.VENUE_REJECTED else name,
                "forgone_q32": forgone, "target_q32": self._targets[leg], "ts_decided": record.ts_ns,
            })

    def _stops(self, record: Record, recorded: Recorded) -> None:
        names, get = self.engine.names, self.engine.columns.get
        for row in StopRow.unpack_all(recorded.stops):
            self._emit({
                "seq": record.seq, "cause": "loss_stop", "leader": names.plan_leaders[row.plan],
                "plan": names.followers[row.plan], "reason": REASON_NAMES[row.reason],
                "policy": LossPolicy(row.policy).name.lower(), "loss_e8": row.loss_e8, "limit_e8": row.limit_e8,
                "equity_e8": row.equity_e8, "ts_decided": record.ts_ns,
            })
            for leg in self._account_legs.get(PlanRow.unpack(get(PLANS, row.plan)).account, ()):
                self._targets[leg] = int.from_bytes(get(LEGS, leg)[:8], "little", signed=True)

    def _decisions(self, record: Record, recorded: Recorded) -> None:
        value = recorded.input
        reductions: dict[int, list[str]] = {}
        openings: dict[int, list[str]] = {}
        reduced: dict[int, int] = {}
        for cid, qty, _px, leg, _account, _side, kind, _ps, _ro, _attempt in NamedOrder.LAYOUT.iter_unpack(recorded.named):
            if kind == Kind.OPENING:
                openings.setdefault(leg, []).append(cid.hex())
            else:
                reductions.setdefault(leg, []).append(cid.hex())
                reduced[leg] = reduced.get(leg, 0) + qty
        exec_id, ts_event, ts_recv = "", record.ts_ns, record.ts_ns
        by_leader = isinstance(value, LeaderFill | LeaderSync)
        if isinstance(value, LeaderFill):
            exec_id, ts_event, ts_recv = str(value.exec_id), value.ts_event, value.ts_recv
        elif isinstance(value, LeaderSync):
            exec_id = f"snapshot:{record.seq}"
        if not by_leader:
            cause = "report" if isinstance(value, Reports) else "timer"
            for leg, cids in reductions.items():
                self._line(record, cause, leg, "", 0, 0, Part.ORDER, Part.NONE, "", reduced[leg], 0, 0, self._targets[leg],
                           cids, ts_event, ts_recv)
            reductions = {}
        for _plan, leg, reduce, open_, reason, release, k, delta, forgone, reduce_lots, open_lots, target in (
            DecisionRow.LAYOUT.iter_unpack(recorded.decisions)
        ):
            self._targets[leg] = target
            cids = reductions.get(leg, [])
            if open_ == Part.ORDER:
                cids = cids + openings.get(leg, [])
                if reason == Reason.BELOW_MINIMUM:  # raised to the minimum: nothing was given up, the target grew
                    forgone = reason = 0
            self._line(
                record, "release" if release else "leader_fill", leg, exec_id, k, delta, reduce, open_, REASON_NAMES[reason],
                reduce_lots, open_lots, forgone, target, cids, self._release_ts.get(leg, ts_event) if release else ts_event,
                ts_recv,
            )

    def _line(
        self, record: Record, cause: str, leg: int, exec_id: str, k: int, delta: int, reduce: int, open_: int, reason: str,
        reduce_lots: int, open_lots: int, forgone: int, target: int, cids: list[str], ts_event: int, ts_recv: int,
    ) -> None:
        leader, symbol, plan, instrument = self._legs[leg]
        market = self._market.get(instrument)
        if market is None:
            row = InstrumentRow.unpack(self.engine.columns.get(INSTRUMENTS, instrument))
            market = self._market[instrument] = row.bid, row.ask, row.mark
        equity = self._equity.get(leader)
        if equity is None:
            at = self.engine.names.leaders.index(leader)
            equity = self._equity[leader] = LeaderRow.unpack(self.engine.columns.get(LEADERS, at)).equity_e8
        self._emit({
            "seq": record.seq, "leader": leader, "symbol": symbol, "exec_id": exec_id, "plan": plan, "cause": cause,
            "k_q32": k, "delta_q32": delta, "reduce": PART_NAMES[reduce], "open": PART_NAMES[open_], "reason": reason,
            "reduce_lots": reduce_lots, "open_lots": open_lots, "forgone_q32": forgone, "target_q32": target,
            "orders": cids, "leader_equity_e8": equity, "bid": market[0], "ask": market[1], "mark": market[2],
            "ts_event": ts_event, "ts_recv": ts_recv, "ts_decided": record.ts_ns,
        })

    def _moved_otherwise(self, record: Record, value: ExternalFill | AccountSnapshots | Command) -> None:
        """Targets that changed without a decision: the follower's own hand, or a stop at an operator's word."""
        if isinstance(value, ExternalFill):
            accounts: Any = (value.account,)
        elif isinstance(value, AccountSnapshots):
            accounts = [row[0] for row in value.accounts]
        elif value.name == "stop_plan":
            accounts = range(self.engine.columns.count(ACCOUNTS))
        else:
            return
        get = self.engine.columns.get
        for account in accounts:
            for leg in self._account_legs.get(account, ()):
                target = int.from_bytes(get(LEGS, leg)[:8], "little", signed=True)
                gone = self._targets[leg] - target
                if gone:
                    self._targets[leg] = target
                    leader, symbol, plan, _instrument = self._legs[leg]
                    self._emit({
                        "seq": record.seq, "cause": "external", "leader": leader, "symbol": symbol, "plan": plan,
                        "forgone_q32": gone, "target_q32": target, "ts_decided": record.ts_ns,
                    })

    def _emit(self, line: dict[str, Any], dumps: Callable[..., bytes] = orjson.dumps) -> None:
        data = dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        self._buffer.append(data)
        self._buffered += len(data)
        self.lines += 1
        if self._buffered >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand what is buffered to the file."""
        self.out.write(b"".join(self._buffer))
        self._buffer.clear()
        self._buffered = 0
