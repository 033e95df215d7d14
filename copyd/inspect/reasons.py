"""``copyd explain``: why an order is what it is, or why there was none.

The state just before the record is rebuilt, the readable rules decide it again with every limit they meet written down,
and the result is compared with what was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import orjson

from copyd.core.copy_instruction import ratio as ratio_rule
from copyd.core.engine import (
    ACCOUNT_INSTRUMENTS,
    INSTRUMENTS,
    LEADERS,
    LEGS,
    PLANS,
    POSITIONS,
    Command,
    Engine,
    InstrumentSpec,
    LeaderFill,
    LeaderSync,
    Recorded,
    Reports,
    Timer,
)
from copyd.core.fixed import ONE, sign
from copyd.core.pnl import allocation_equity
from copyd.core.rows import (
    AccountInstrumentRow,
    DecisionRow,
    FillEvent,
    InstrumentRow,
    Kind,
    LeaderPositionRow,
    LeaderRow,
    LegRow,
    LossPolicy,
    Mode,
    NamedOrder,
    Note,
    OrderEndRow,
    OrderState,
    Part,
    PlanRow,
    RatioSnapshot,
    Reason,
    ReportKind,
    ReportRow,
    StopRow,
)
from copyd.core.state import Cap, Tables
from copyd.errors import OperatorError, UsageError
from copyd.inspect.rebuild import Finding, apply, decode, differences, fold
from copyd.inspect.summary import at, money, price, quantity, quantity_q32, ratio
from copyd.inspect.twin import Computed, Twin, observe
from copyd.inspect.words import MEANING, NOTES
from copyd.journal import JournalError, Reader, Record, kind_name

PER_ORDER = (Mode.FIXED_AMOUNT, Mode.RISK_BASED)


class NotInJournal(OperatorError):
    """What was asked for is not there; the text says what."""

    exit_code = 1


def explain(journal: Path, client_order_id: str = "", event: str = "", follower: str = "", json: bool = False) -> int:
    """Print one order's or one decision's reasons. Exit 65 when the rules do not give what was recorded."""
    with Reader(journal) as reader:
        if client_order_id:
            record, legs = find_order(reader, client_order_id), None
        else:
            record, legs = find_event(reader, event, follower)
        answer = Explanation(reader, record, client_order_id.lower(), follower, legs).build()
    if json:
        print(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
    else:
        print("\n".join(text_of(answer)))
    return 0 if all(part["check"]["agrees"] for part in [answer, *answer.get("more", [])]) else JournalError.exit_code


# -- finding what was asked for ---------------------------------------------------------------------------------------


def find_order(reader: Reader, client_order_id: str) -> Record:
    """The record that names an order."""
    if not re.fullmatch(r"[0-9a-fA-F]{32}", client_order_id):
        raise UsageError(f"{client_order_id!r} is no client order id: 32 hexadecimal characters")
    cid = bytes.fromhex(client_order_id)
    for record in reader.iterate():
        if cid in record.payload and any(row[0] == cid for row in NamedOrder.LAYOUT.iter_unpack(decode(record).named)):
            return record
    state = reader.state()
    raise NotInJournal(f"no record from {state.first_seq} to {state.last_seq} names an order {client_order_id}")


def find_event(reader: Reader, event: str, follower: str) -> tuple[Record, list[int]]:
    """The record of an event (``last``, its number in the journal or the execution id), and the follower's legs in it."""
    if event == "last":
        event = str(last_event(reader, follower))
    if not re.fullmatch(r"(snapshot:)?[0-9]+", event):
        raise UsageError(f"{event!r} is no event: last, the number of a journal record or an execution id")
    number = int(event.removeprefix("snapshot:"))
    record = reader.get(number)
    if record is None or not (decode(record).decisions or isinstance(decode(record).input, LeaderFill)):
        found = [] if event.startswith("snapshot:") else [
            candidate for candidate in reader.iterate()
            if kind_name(candidate.kind) == "leader_fill" and decode(candidate).input.exec_id == number
        ]
        if not found:
            what = "holds no decision, and " if record is not None else "is not in this journal, and "
            raise NotInJournal(f"record {number} {what}no leader execution {number} is either")
        if len(found) > 1:
            listed = ", ".join(str(candidate.seq) for candidate in found)
            raise NotInJournal(f"execution {number} exists more than once: name one of the records {listed} as the event")
        record = found[0]
    names = fold(reader, record.seq, findings=[]).names
    plans = [index for index, name in enumerate(names.followers) if name == follower]
    if not plans:
        raise NotInJournal(f"follower {follower!r} has no plan at record {record.seq}")
    legs = [row[1] for row in DecisionRow.LAYOUT.iter_unpack(decode(record).decisions) if row[0] in plans]
    if not legs:
        raise NotInJournal(f"record {record.seq} ({kind_name(record.kind)}) decided nothing for follower {follower!r}: its plan "
                           "does not follow this leader, or nothing waited")
    return record, list(dict.fromkeys(legs))


def last_event(reader: Reader, follower: str) -> int:
    """The newest leader event that decided something for a follower."""
    state = reader.state()
    names = fold(reader, findings=[]).names
    plans = [index for index, name in enumerate(names.followers) if name == follower]
    if not plans:
        raise NotInJournal(f"follower {follower!r} has no plan in this journal")
    for number in range(state.last_seq, state.first_seq - 1, -1):
        record = reader.get(number)
        if record is not None and kind_name(record.kind) in ("leader_fill", "leader_sync") and any(
            row[0] in plans for row in DecisionRow.LAYOUT.iter_unpack(decode(record).decisions)
        ):
            return number
    raise NotInJournal(f"no leader event in this journal decided anything for follower {follower!r}")


# -- building the answer ----------------------------------------------------------------------------------------------


class Moment(msgspec.Struct):
    """A leg as the rules found it, and what they met on their way."""

    leg: LegRow | None = None
    event: FillEvent | None = None
    trace: list[Cap] = []


class Explanation:
    """Rebuilds one record for one account and says what happened."""

    def __init__(self, reader: Reader, record: Record, client_order_id: str, follower: str, legs: list[int] | None) -> None:
        self.reader = reader
        self.record = record
        self.recorded = decode(record)
        self.client_order_id = client_order_id
        self.named = NamedOrder.unpack_all(self.recorded.named)
        if legs is None:
            cid = bytes.fromhex(client_order_id)
            legs = [order.leg for order in self.named if order.cid == cid]
        self.legs = legs
        self.follower = follower

    def build(self) -> dict[str, Any]:
        """The answer for the first leg asked about; others of the same event under ``more``."""
        answers = [self._leg(leg) for leg in self.legs]
        return answers[0] | ({"more": answers[1:]} if len(answers) > 1 else {})

    def _leg(self, leg: int) -> dict[str, Any]:
        before: list[Finding] = []
        engine = fold(self.reader, self.record.seq - 1, findings=before)
        moment = Moment()

        def on_leg(t: Tables, index: int, event: FillEvent | None) -> None:
            t.trace = None
            if index == leg:
                if moment.leg is None:
                    moment.leg, moment.event = replace(t.legs[index]), event
                t.trace = moment.trace

        account = self._account(engine, leg)
        twin = Twin(engine, lambda other: other == account, on_leg=on_leg)
        observe(engine, twin)
        outputs, faults = apply(engine, self.record, self.recorded)
        if outputs is None:
            raise JournalError(faults[0].text)
        share = twin.share(self.recorded)
        found = [*before, *faults, *differences(self.record.seq, share, twin.computed, "the readable rules give")]
        if not twin.called and (self.recorded.decisions or self.recorded.named):
            found.append(Finding(self.record.seq, f"record {self.record.seq}: holds decisions, and its input asks for none"))
        return self._answer(engine, leg, moment, twin.computed, found)

    def _account(self, engine: Engine, leg: int) -> int:
        for order in self.named:
            if order.leg == leg:
                return order.account
        for row in DecisionRow.LAYOUT.iter_unpack(self.recorded.decisions):
            if row[1] == leg and row[0] < engine.columns.count(PLANS):
                return PlanRow.unpack(engine.columns.get(PLANS, row[0])).account
        raise JournalError(f"record {self.record.seq}: decides for a plan that is not there")

    def _answer(
        self, engine: Engine, leg_index: int, moment: Moment, computed: Computed, found: list[Finding]
    ) -> dict[str, Any]:
        columns, names, record = engine.columns, engine.names, self.record
        after = LegRow.unpack(columns.get(LEGS, leg_index))
        start = moment.leg or after
        plan = PlanRow.unpack(columns.get(PLANS, after.plan))
        spec = names.instruments[after.instrument]
        traded = LeaderPositionRow.unpack(columns.get(POSITIONS, after.leader_position)).instrument
        decisions = [row for row in DecisionRow.unpack_all(self.recorded.decisions) if row.leg == leg_index]
        decision = decisions[-1] if decisions else None
        ai = AccountInstrumentRow.unpack(
            columns.get(ACCOUNT_INSTRUMENTS, after.account * columns.instruments_max + after.instrument))
        answer: dict[str, Any] = {
            "record": record.seq, "kind": kind_name(record.kind), "epoch": record.epoch, "build": names.build,
            "follower": names.followers[after.plan], "leader": names.plan_leaders[after.plan],
            "account": names.accounts[after.account], "symbol": spec.symbol,
            "plan": {"mode": Mode(plan.mode).name.lower(), "version": plan.version, "allocation_e8": plan.allocation_e8},
            "config_version": names.config_version,
            "leader_event": self._event(engine, names.instruments[traded], moment.event, after.plan),
            "market": self._market(spec, columns.get(INSTRUMENTS, after.instrument)),
            "leverage": ai.leverage,
            "before": self._state(spec, start),
        }
        if traded != after.instrument:
            answer["mirror"] = self._mirror(names.instruments[traded], spec, moment.event)
        if decision is not None:
            if moment.event is not None and moment.event.open_qty:
                answer["ratio"] = self._ratio(engine, start, plan, moment.event, decision)
            answer |= self._decision(spec, start, after, moment, decision)
        answer["orders"] = [self._order(spec, order) for order in self.named if order.leg == leg_index]
        answer["after"] = self._state(spec, after)
        answer["times"] = self._times()
        answer["check"] = {
            "agrees": not found,
            "text": "recomputed by the readable rules and by the kernel: the same bytes as recorded" if not found
            else "NOT what the rules give",
            "findings": [finding.text for finding in found],
        }
        return answer

    def _mirror(self, leader: InstrumentSpec, own: InstrumentSpec, event: FillEvent | None) -> dict[str, Any]:
        """The instrument the leader trades, and what his event is in the follower's."""
        out: dict[str, Any] = {"venue": own.venue, "of_symbol": leader.symbol, "of_venue": leader.venue}
        text = f"{own.venue} {own.symbol} in place of {leader.venue} {leader.symbol}".replace("  ", " ")
        if event is not None:
            out |= {"lots_mul": event.lots_mul, "lots_div": event.lots_div, "px_ticks": event.px}
            text += f"; {event.lots_mul}/{event.lots_div} lots of it are one of his; his price is {price(own, event.px)} there"
        return out | {"text": text}

    def _event(
        self, engine: Engine, spec: InstrumentSpec, event: FillEvent | None, plan: int
    ) -> dict[str, Any]:
        value = self.recorded.input
        if isinstance(value, LeaderFill):
            verb = "bought" if value.side > 0 else "sold"
            leader = engine.names.leaders[value.leader]
            text = f"{leader} {verb} {quantity(spec, value.qty)} {spec.symbol} at {price(spec, value.px)}"
            out: dict[str, Any] = {
                "text": text, "exec_id": str(value.exec_id), "order_id": str(value.order_id), "side": value.side,
                "qty_lots": value.qty, "px_ticks": value.px, "live": value.live, "cause": value.cause,
            }
        elif isinstance(value, LeaderSync):
            out = {"text": f"a snapshot of {engine.names.leaders[value.leader]}'s positions differed from his fills",
                   "exec_id": f"snapshot:{self.record.seq}"}
        elif isinstance(value, Reports):
            out = {"text": "the venue reported on orders of this account: what waited was released, what was too much was closed"}
        elif self.recorded.stops:
            out = {"text": self._stop(plan), "exec_id": f"stop:{self.record.seq}"}
        elif isinstance(value, Timer):
            out = {"text": "time passed: a back-off ended, or something waited"}
        elif isinstance(value, Command):
            out = {"text": f"an operator's command: {value.name} {value.args} {value.actor}".rstrip()}
        else:
            out = {"text": type(value).__name__}
        if event is not None:
            out |= {"leader_qty_before": quantity(spec, event.qty_before), "leader_qty_after": quantity(spec, event.qty_after),
                    "reducing": quantity(spec, event.reduce_qty), "opening": quantity(spec, event.open_qty)}
        return out

    def _stop(self, plan: int) -> str:
        """The loss stop of a plan, in a sentence."""
        row = next((row for row in StopRow.unpack_all(self.recorded.stops) if row.plan == plan), None)
        if row is None:
            return "other plans reached a loss limit"
        what = Reason(row.reason).name.lower()
        policy = LossPolicy(row.policy).name.lower()
        return f"{what}: lost {money(row.loss_e8)} of {money(row.limit_e8)}, worth {money(row.equity_e8)}; {policy}"

    def _market(self, spec: InstrumentSpec, data: bytes) -> dict[str, Any]:
        row = InstrumentRow.unpack(data)
        return {
            "bid": price(spec, row.bid), "ask": price(spec, row.ask), "mark": price(spec, row.mark), "bid_ticks": row.bid,
            "ask_ticks": row.ask, "mark_ticks": row.mark, "age_ns": self.record.ts_ns - row.ts_quote,
        }

    def _state(self, spec: InstrumentSpec, leg: LegRow) -> dict[str, Any]:
        going = (leg.attributed - sign(leg.attributed) * leg.reduce_leaves) * ONE + leg.pending + leg.deferred
        return {
            "target": quantity_q32(spec, leg.target), "target_q32": leg.target, "held": quantity(spec, leg.attributed),
            "held_lots": leg.attributed, "opening_lots": leg.open_leaves, "closing_lots": leg.reduce_leaves,
            "deferred_q32": leg.deferred, "residual_q32": leg.target - going, "residual": quantity_q32(spec, leg.target - going),
            "detached": bool(leg.detached), "attempt": leg.attempt,
        }

    def _ratio(self, engine: Engine, leg: LegRow, plan: PlanRow, event: FillEvent, decision: DecisionRow) -> dict[str, Any]:
        columns = engine.columns
        leader = LeaderRow.unpack(columns.get(LEADERS, event.leader))
        position = LeaderPositionRow.unpack(columns.get(POSITIONS, event.position))
        instrument = InstrumentRow.unpack(columns.get(INSTRUMENTS, event.instrument))
        target = 0 if event.reduce_qty else leg.target
        mode = Mode(plan.mode)
        frozen = mode not in PER_ORDER and target != 0 and (
            plan.ratio_snapshot == RatioSnapshot.POSITION_OPEN
            or (plan.ratio_snapshot == RatioSnapshot.EACH_ORDER and leg.k_order == event.order_id)
        )
        age = self.record.ts_ns - leader.ts_equity
        equity = f"leader equity {money(leader.equity_e8)} ({age / 1e9:.3f} s old)"
        lots = event.order_qty * event.lots_mul
        whole = lots * event.px * instrument.value_mul // (instrument.value_div * event.lots_div)
        first = lots * event.first_px * instrument.value_mul // (instrument.value_div * event.lots_div)
        earned = engine.profits(event.now)[decision.plan][0]
        worth = allocation_equity(plan, earned)
        allocation = f"allocation {money(plan.allocation_e8)}"
        own = f"allocation equity {money(worth)} (allocated {money(plan.allocation_e8)})"
        sources = {
            Mode.PROPORTIONAL: f"{own} ÷ {equity}",
            Mode.MULTIPLIER: f"{own} x {plan.multiplier_ppm / 1e6:g} ÷ {equity}",
            Mode.FIXED_AMOUNT: f"amount {money(plan.amount_e8)} ÷ value of the whole leader order {money(whole)}",
            Mode.FIXED_RATIO: f"{own} x own leverage {plan.leverage} ÷ ({equity} x leader leverage {position.leverage})",
            Mode.RISK_BASED: (f"{allocation} x risk {plan.risk_bps} bps ÷ (stop {plan.assumed_stop_bps} bps x "
                              f"value of the whole leader order {money(first)})"),
        }
        fresh, refused = ratio_rule(LegRow(), plan, worth, leader, position, instrument, event)
        source = sources[mode]
        if frozen:
            source = "kept from the opening of this leg" if plan.ratio_snapshot == RatioSnapshot.POSITION_OPEN else (
                "kept from the first fill of this leader order")
        return {
            "k_q32": decision.k, "k": ratio(decision.k), "frozen": frozen, "source": source, "mode": mode.name.lower(),
            "k_if_taken_now": ratio(fresh), "allocation_equity_e8": worth,
            "leader_equity_e8": leader.equity_e8, "leader_equity_age_ns": age,
            "no_ratio": refused.name.lower() if refused and not frozen else "",
        }

    def _decision(
        self, spec: InstrumentSpec, start: LegRow, after: LegRow, moment: Moment, decision: DecisionRow
    ) -> dict[str, Any]:
        reason = Reason(decision.reason)
        raised = reason == Reason.BELOW_MINIMUM and decision.open == Part.ORDER
        caps = [
            {"limit": cap.name, "before_lots": cap.before, "allows_lots": cap.cap, "after_lots": cap.after,
             "binds": cap.after < cap.before}
            for cap in moment.trace if cap.name != "minimum"
        ]
        least = next((cap for cap in moment.trace if cap.name == "minimum"), None)
        out: dict[str, Any] = {
            "decision": {"reduce": Part(decision.reduce).name.lower(), "open": Part(decision.open).name.lower(),
                         "reduce_lots": decision.reduce_lots, "open_lots": decision.open_lots, "release": bool(decision.release)},
            "delta_q32": decision.delta, "delta": quantity_q32(spec, decision.delta),
            "caps": caps,
            "rounding": None if least is None else {
                "whole_lots_wanted": least.before, "venue_minimum_lots": least.cap,
                "text": "wanted quantity cut to whole lots toward zero"},
            "forgone_q32": decision.forgone, "forgone": quantity_q32(spec, abs(decision.forgone)),
            "raised": raised, "reason": reason.name.lower() if reason else "",
            "meaning": "The quantity was below the venue's minimum and was raised to it." if raised else MEANING[reason],
            "target_q32": decision.target,
        }
        return out

    def _order(self, spec: InstrumentSpec, order: NamedOrder) -> dict[str, Any]:
        side = "buy" if order.side > 0 else "sell"
        kind = Kind(order.kind).name.lower()
        limit = f"limit {price(spec, order.limit_px)} IOC" if order.limit_px else "market"
        flags = " reduce-only" * order.reduce_only + ("", " on the long side", " on the short side")[order.position_side]
        return {
            "client_order_id": order.cid.hex(), "kind": kind, "side": order.side, "qty_lots": order.order_qty,
            "limit_px_ticks": order.limit_px, "reduce_only": bool(order.reduce_only), "attempt": order.attempt,
            "asked": order.cid.hex() == self.client_order_id,
            "text": f"{kind}: {side} {quantity(spec, order.order_qty)} {spec.symbol} {limit}{flags}",
            "life": list(self._life(spec, order)),
        }

    def _life(self, spec: InstrumentSpec, order: NamedOrder) -> Iterator[dict[str, Any]]:
        """What the journal heard of an order later."""
        for record in self.reader.iterate(self.record.seq + 1):
            if order.cid not in record.payload:
                continue
            recorded: Recorded = decode(record)
            if isinstance(recorded.input, Reports):
                for report in ReportRow.unpack_all(recorded.input.rows):
                    if report.cid == order.cid:
                        yield {"record": record.seq, "ts": record.ts_ns, "text": _report_text(spec, order, report)}
            for end in OrderEndRow.unpack_all(recorded.ends):
                if end.cid == order.cid and (end.forgone or end.note):
                    text = NOTES.get(Note(end.note), "")
                    if end.forgone:
                        reason = Reason(end.reason)
                        code = f" {end.code}" if end.code else ""
                        text = f"{quantity_q32(spec, abs(end.forgone))} forgone {reason.name.lower()}{code}. {MEANING[reason]}"
                    yield {"record": record.seq, "ts": record.ts_ns, "text": text}

    def _times(self) -> dict[str, Any]:
        value = self.recorded.input
        fill = isinstance(value, LeaderFill)
        return {
            "venue": value.ts_event if fill else None, "received": value.ts_recv if fill else None,
            "decided": self.record.ts_ns, "sent": None,
        }


def _report_text(spec: InstrumentSpec, order: NamedOrder, report: ReportRow) -> str:
    code = f", code {report.code}" if report.code else ""
    if report.kind in (ReportKind.REPLY, ReportKind.STREAM, ReportKind.TRADE):
        known = report.status in [int(state) for state in OrderState]
        status = OrderState(report.status).name.lower() if known else str(report.status)
        word = {ReportKind.REPLY: "reply", ReportKind.STREAM: "stream", ReportKind.TRADE: "trade"}[ReportKind(report.kind)]
        last = f", {quantity(spec, report.last_qty)} at {price(spec, report.last_px)}" if report.last_qty else ""
        return f"{word}: {status}, {quantity(spec, report.cum_qty)} of {quantity(spec, order.order_qty)} filled{last}{code}"
    words = {
        ReportKind.REJECT: "refused by the venue", ReportKind.IN_DOUBT: "in doubt", ReportKind.DEAD: "proven absent",
        ReportKind.NOT_SENT: "never left us",
    }
    return words.get(ReportKind(report.kind), f"report {report.kind}") + code


# -- the answer as text ----------------------------------------------------------------------------------------------


def text_of(answer: dict[str, Any]) -> Iterator[str]:
    """The answer as a person reads it."""
    yield from _text(answer)
    for other in answer.get("more", []):
        yield ""
        yield from _text(other)


def _text(a: dict[str, Any]) -> Iterator[str]:
    event = a["leader_event"]
    yield f"{a['follower']} copying {a['leader']} in {a['symbol']} on account {a['account']}: record {a['record']} ({a['kind']})"
    yield f"  event      {event['text']}" + (f" (execution {event['exec_id']})" if "exec_id" in event else "")
    if "leader_qty_before" in event:
        yield (f"             leader's quantity {event['leader_qty_before']} -> {event['leader_qty_after']}: reducing "
               f"{event['reducing']}, opening {event['opening']}" + ("" if event.get("live", True) else "; found by back-fill"))
    yield f"  plan       {a['plan']['mode']}, version {a['plan']['version']}, config version {a['config_version']}"
    if "mirror" in a:
        yield f"  mirror     {a['mirror']['text']}"
    market = a["market"]
    yield (f"  market     bid {market['bid']}, ask {market['ask']}, mark {market['mark']}, {market['age_ns'] / 1e9:.3f} s old; "
           f"leverage {a['leverage']}")
    yield f"  before     {_state_text(a['before'])}"
    if "ratio" in a:
        r = a["ratio"]
        yield f"  ratio      {r['k']} follower lots per leader lot: {r['source']}"
    if "decision" in a:
        yield from _decision_text(a)
    for order in a["orders"]:
        mark = "  <- asked" if order["asked"] and len(a["orders"]) > 1 else ""
        yield f"  order      {order['client_order_id']} {order['text']}{mark}"
        for line in order["life"]:
            yield f"             {at(line['ts'])} record {line['record']}: {line['text']}"
        if not order["life"]:
            yield "             nothing was heard of it in this journal"
    if not a["orders"]:
        yield "  order      none"
    yield f"  after      {_state_text(a['after'])}"
    times = a["times"]
    yield (f"  times      venue {at(times['venue'] or 0)}, received {at(times['received'] or 0)}, "
           f"decided {at(times['decided'])}, sent: not recorded")
    yield f"  check      {a['check']['text']}"
    for finding in a["check"]["findings"]:
        yield f"             {finding}"


def _decision_text(a: dict[str, Any]) -> Iterator[str]:
    decision = a["decision"]
    if a["delta_q32"]:
        what = "released" if decision["release"] else "wanted"
        yield f"  delta      {a['delta']} {what}"
    if a["rounding"]:
        lots = a["rounding"]
        yield f"  rounding   {lots['whole_lots_wanted']} whole lots wanted; the venue's minimum is {lots['venue_minimum_lots']}"
    for cap in a["caps"]:
        mark = "  <- binds" if cap["binds"] else ""
        allows = max(0, cap["allows_lots"])
        yield f"  cap        {cap['limit']}: {cap['before_lots']} -> {cap['after_lots']} lots (allows {allows}){mark}"
    if a["raised"]:
        yield f"  raised     by {a['forgone']} to the venue's minimum"
    elif a["forgone_q32"]:
        yield f"  forgone    {a['forgone']}"
    if a["reason"]:
        yield f"  reason     {a['reason']}: {a['meaning']}"
    yield (f"  decided    reduce: {decision['reduce']} ({decision['reduce_lots']} lots); open: {decision['open']} "
           f"({decision['open_lots']} lots)")


def _state_text(s: dict[str, Any]) -> str:
    extra = "".join([
        f", {s['opening_lots']} lots opening" if s["opening_lots"] else "",
        f", {s['closing_lots']} lots closing" if s["closing_lots"] else "",
        ", something waits" if s["deferred_q32"] else "", ", detached" if s["detached"] else "",
    ])
    return f"target {s['target']}, held {s['held']}{extra}, residual {s['residual']}"


__all__ = ["Explanation", "NotInJournal", "explain", "find_event", "find_order", "text_of"]
