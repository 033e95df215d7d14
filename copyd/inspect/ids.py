"""Client order ids computed again from the record that names them, without deciding anything (semantics 32, 33)."""

from __future__ import annotations

from collections.abc import Iterator

from copyd._fast.fanout import client_order_id_digest
from copyd.core.engine import LEGS, Engine, LeaderFill, LeaderSync, Recorded, Reports
from copyd.core.fill import report_aux
from copyd.core.identifiers import MESSAGE, cause_id
from copyd.core.order import PART_OPENING, PART_REDUCTION
from copyd.core.rows import Kind, LegRow, NamedOrder, ReportRow
from copyd.inspect.rebuild import Finding
from copyd.journal import Record


class IdCheck:
    """Checks the ids of records; ``engine`` is asked only for what no decision changes: sites, epochs, plans, legs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.checked = 0

    def check(self, record: Record, recorded: Recorded) -> list[Finding]:
        """Ids of one record that are not what its cause gives."""
        orders = NamedOrder.unpack_all(recorded.named)
        if not orders:
            return []
        reductions: dict[int, int] = {}
        for order in orders:
            if order.kind != Kind.OPENING:
                reductions[order.leg] = reductions.get(order.leg, 0) + 1
        causes = list(self._causes(record, recorded))
        found = []
        for order in orders:
            parts = [PART_OPENING]
            if order.kind != Kind.OPENING:
                parts = list(range(PART_REDUCTION, PART_REDUCTION + reductions[order.leg]))
            self.checked += 1
            if not self._derives(order, causes, parts):
                name = f"order {order.cid.hex()} (leg {order.leg})"
                found.append(Finding(record.seq, f"record {record.seq}: {name}: its id does not follow from what caused it"))
        return found

    def _causes(self, record: Record, recorded: Recorded) -> Iterator[tuple[bytes, int]]:
        value = recorded.input
        names = self.engine.names
        if isinstance(value, LeaderFill):
            symbol = names.instruments[value.instrument].symbol
            yield cause_id("fill", names.leaders[value.leader], symbol, value.exec_id), 0
        elif isinstance(value, LeaderSync):
            for spec in names.instruments:
                yield cause_id("snapshot", names.leaders[value.leader], spec.symbol, record.seq), 0
        elif isinstance(value, Reports):
            for report in ReportRow.unpack_all(value.rows):
                yield from ((report.cid, report_aux(report, ended)) for ended in (False, True))
        else:
            yield b"timer" + record.seq.to_bytes(11, "big"), 0

    def _derives(self, order: NamedOrder, causes: list[tuple[bytes, int]], parts: list[int]) -> bool:
        params = self.engine.params
        if order.leg >= self.engine.columns.count(LEGS):
            return False
        leg = LegRow.unpack(self.engine.columns.get(LEGS, order.leg))
        clear = params.site.to_bytes(2, "big") + params.epoch.to_bytes(3, "big")
        return order.cid[:5] == clear and any(
            client_order_id_digest(params.key, MESSAGE.pack(
                cause, aux, order.account, leg.plan, leg.instrument, leg.side, part, order.attempt))[:11] == order.cid[5:]
            for cause, aux in causes for part in parts
        )
