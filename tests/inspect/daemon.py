"""A daemon without sockets: an engine, a journal, and a venue of a few lines that fills orders at random."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from copyd.core.engine import (
    ORDERS,
    AccountSnapshots,
    Command,
    Configured,
    Engine,
    ExternalFill,
    InstrumentSpec,
    LeaderEquity,
    LeaderFill,
    LeaderSync,
    LegsReady,
    Outputs,
    Quotes,
    Reports,
    Started,
    Timer,
)
from copyd.core.rows import InstrumentRow, Kind, OrderRow, OrderState, Params, ReportKind, ReportRow
from copyd.inspect.rebuild import decode
from copyd.journal import Journal, Reader, Record
from copyd.kinds import BUILD, kind_of, pack_checkpoint

SITE = 0xC0DE
KEY = bytes(range(16))
E8 = 10**8
SECOND = 1_000_000_000
SYMBOLS = ("BTCUSDT", "XRPUSDT")
VALUES = (10_000, 3_000, 1_000, 30_000, 200)
RETRIES_WAITED = 40


def plan(rng: random.Random, index: int, **cells: Any) -> dict[str, Any]:
    """Plan cells as the follower import makes them, with limits that sometimes bind."""
    return {
        "follower": f"f{index}", "leader": "lead", "account": f"a{index}", "mode": rng.randrange(5),
        "allocation_e8": rng.choice([50, 1_000, 20_000]) * E8 + rng.randrange(E8), "amount_e8": rng.choice([50, 3_000]) * E8,
        "max_notional_symbol_e8": rng.choice([0, 0, 500 * E8]), "max_notional_total_e8": rng.choice([0, 0, 900 * E8]),
        "multiplier_ppm": rng.choice([500_000, 1_234_567, 3_000_000]),
        "raise_max_factor_ppm": rng.choice([2_000_000, 50_000_000]),
        "instruments": [], "leverage": rng.choice([1, 3, 20]), "leverage_max": rng.choice([5, 20]),
        "risk_bps": rng.choice([10, 100]), "assumed_stop_bps": rng.choice([0, 150]), "max_position_bps": rng.choice([0, 3_000]),
        "max_loss_per_trade_bps": 200, "slippage_bps": rng.choice([0, 300]), "slippage_mid_bps": 0,
        "max_open_trades": rng.choice([0, 0, 1]), "ratio_snapshot": rng.randrange(3), "min_policy": rng.randrange(3),
        "on_insufficient": rng.randrange(2), "require_stop": False, "state": 0, **cells,
    }


class Daemon:
    """Drives an engine and writes what it does to a journal; ``inputs`` keeps every (time, input) given.

    ``venues``: two of three followers are elsewhere, on a venue of contracts or on a spot venue that keeps its fees back.
    """

    def __init__(
        self, path: Path | None, seed: int = 1, followers: int = 12, build: str = BUILD, venues: bool = False
    ) -> None:
        self.rng = random.Random(seed)
        self.path = path
        self.journal = open_journal(path) if path else None
        self.engine = Engine()
        self.now = 1_790_000_000 * SECOND
        self.trade = self.order = 0
        self.px = [600_000, 45_000, 600_000, 45_000, 300_000][: 5 if venues else 2]
        self.leader = [0, 0]
        self.reported: list[ReportRow] = []
        self.inputs: list[tuple[int, Any]] = []
        self.payloads: list[bytes] = []
        self.epoch = 0
        self.build = build
        self.start()
        specs = [
            InstrumentSpec("BTCUSDT", InstrumentRow(value_mul=10_000, min_notional_e8=5 * E8, lot_max=4_000).pack(), 1, 3),
            InstrumentSpec("XRPUSDT", InstrumentRow(value_mul=3_000, min_notional_e8=5 * E8, slippage_bps=150).pack(), 4, 1),
            InstrumentSpec("BTC-SWAP", InstrumentRow(value_mul=1_000).pack(), 1, 2, 1, 1, "okx", 1, 10),
            InstrumentSpec("XRP-SWAP", InstrumentRow(value_mul=30_000).pack(), 4, 1, 1, 1, "okx", 10, 1),
            InstrumentSpec("BTCUSDT", InstrumentRow(
                value_mul=200, min_notional_e8=5 * E8).pack(), 1, 5, 1, 1, "spot", 1, 100, True),
        ]
        mirrors = [(0, 2), (1, 3), (0, 4)] if venues else []
        self.do(Configured(1, Params().pack(), specs[: len(self.px)], ["lead"], mirrors=mirrors))
        at = ["", "okx", "spot"] if venues else [""]
        self.do(Command("import_plans", {"plans": [
            plan(self.rng, index, **{"venue": at[index % 3]} if venues else {}) for index in range(followers)]}, "test"))
        self.do(LegsReady([
            (account, instrument, True, account % 3 == 0, True, self.rng.choice([5, 20]))
            for account in range(followers) for instrument in range(len(self.px))
        ]))
        self.do(AccountSnapshots([(account, self.rng.choice([100, 50_000]) * E8, []) for account in range(followers)]))
        self.do(LeaderSync(0, True, [(0, 0, 0, 10), (1, 0, 0, 5)]))
        self.do(LeaderEquity(0, 100_000 * E8, self.now))
        self.quotes()

    def start(self) -> Outputs:
        """A daemon takes over."""
        self.epoch = self.journal.epoch if self.journal else self.epoch + 1
        outputs = self.do(Started(self.epoch, SITE, KEY, self.build))
        assert outputs is not None
        return outputs

    def restart(self) -> None:
        """The daemon dies and another takes over the journal."""
        if self.path and self.journal:
            self.journal.close()
            self.journal = open_journal(self.path)
        self.start()

    def do(self, value: Any) -> Outputs | None:
        """One input: step, record."""
        self.now += self.rng.randrange(1, 5_000_000)
        self.inputs.append((self.now, value))
        outputs = self.engine.step(self.now, value)
        if outputs is not None:
            self.payloads.append(b"".join(outputs.payload()))
            if self.journal:
                assert self.journal.append(kind_of(value), self.now, outputs.payload()) == outputs.seq
        return outputs

    def quotes(self) -> None:
        """The market moves a little."""
        for index in (0, 1):
            self.px[index] = max(1_000, self.px[index] + self.rng.randint(-200, 200))
        self.px[2:] = [self.px[0], self.px[1], self.px[0] // 2][: len(self.px) - 2]
        self.do(Quotes([(index, px - 5, px + 5, px, self.now) for index, px in enumerate(self.px)]))

    def leader_fill(self, instrument: int, signed_qty: int, age: int = 1_000_000) -> Outputs | None:
        """The leader trades."""
        self.trade += 1
        self.order += self.rng.choice([0, 1])
        self.leader[instrument] += signed_qty
        return self.do(LeaderFill(
            0, instrument, 0, self.trade, self.order, 1 if signed_qty > 0 else -1, abs(signed_qty), self.px[instrument],
            abs(signed_qty) * 2, True, False, "TRADE", self.now - age, self.now, b"{}",
        ))

    def answer(self, share: float = 1.0) -> Outputs | None:
        """The venue answers unfinished orders: fills, part fills, expiries, refusals, silence; sometimes twice."""
        rows = []
        columns = self.engine.columns
        for slot in range(columns.count(ORDERS)):
            order = OrderRow.unpack(columns.get(ORDERS, slot))
            if order.state not in (OrderState.PENDING_NEW, OrderState.IN_DOUBT) or self.rng.random() > share:
                continue
            how = self.rng.random()
            cum = order.order_qty if how < 0.7 or order.kind == Kind.REDUCTION else self.rng.randint(0, order.order_qty)
            status = OrderState.FILLED if cum == order.order_qty else OrderState.EXPIRED
            px = self.px[order.instrument]
            self.trade += 1
            if how > 0.97:
                rows.append(ReportRow(cid=order.cid, kind=ReportKind.REJECT, code=-2019, ts_event=self.now))
            elif how > 0.95:
                rows.append(ReportRow(cid=order.cid, kind=ReportKind.DEAD, ts_event=self.now))
            else:
                value = columns_value(order.instrument, cum, px)
                kept = order.instrument == 4
                rows.append(ReportRow(cid=order.cid, cum_qty=cum, cost_e8=value, kind=ReportKind.REPLY, status=status,
                                      venue_order_id=self.trade, ts_event=self.now))
                fee = cum * (1 << 32) // 1_000 if kept else 7  # a thousandth of what was bought
                rows.append(ReportRow(cid=order.cid, cum_qty=cum, last_qty=cum, last_px=px, fee_e8=fee, trade_id=self.trade,
                                      fee_base=int(kept), kind=ReportKind.TRADE, status=status, ts_event=self.now))
        if self.reported and self.rng.random() < 0.3:
            rows.append(self.rng.choice(self.reported))
        if self.rng.random() < 0.3:
            rows.append(ReportRow(kind=ReportKind.BALANCE, account=0, cost_e8=self.rng.randrange(10**13), ts_event=self.now))
        if not rows:
            return None
        self.reported += rows
        return self.do(Reports(b"".join(row.pack() for row in rows)))

    def trade_for(self, events: int) -> None:
        """A while of the whole thing."""
        for _ in range(events):
            instrument = self.rng.randrange(2)
            held = self.leader[instrument]
            size = self.rng.choice([1, 40, 700, 9_000])
            if held and self.rng.random() < 0.5:
                size = self.rng.choice([max(1, abs(held) // 2), abs(held), abs(held) + size])
                qty = -size if held > 0 else size
            else:
                qty = self.rng.choice([-1, 1]) * size
            if self.rng.random() < 0.9:
                self.quotes()
            self.leader_fill(instrument, qty, self.rng.choice([1_000_000] * 9 + [3 * SECOND]))
            for _ in range(self.rng.randint(0, 2)):
                self.answer(self.rng.choice([0.5, 1.0]))
            self.others()

    def others(self) -> None:
        """Rarer things."""
        how = self.rng.random()
        if how < 0.1:
            self.now += 200_000_000
            self.do(Timer())
        elif how < 0.15:
            self.do(ExternalFill(self.rng.randrange(3), 0, 0, self.rng.choice([-50, 50]), self.trade + 10**6, "manual"))
        elif how < 0.2:
            self.do(LeaderEquity(0, self.rng.randint(50_000, 150_000) * E8, self.now))
        elif how < 0.25:
            self.restart()
            self.do(LeaderSync(0, True, [(0, 0, self.leader[0], 10), (1, 0, self.leader[1], 5)]))
        elif how < 0.27:
            self.leader[0] += 33
            self.do(LeaderSync(0, True, [(0, 0, self.leader[0], 10), (1, 0, self.leader[1], 5)]))

    def settle(self) -> None:
        """Every order gets its end."""
        for _ in range(RETRIES_WAITED):
            self.answer()
            self.now += SECOND
            if self.engine.timer_due(self.now):
                self.do(Timer())

    def checkpoint(self) -> int:
        """Write one at the last record."""
        assert self.journal is not None
        seq = self.engine.names.seq
        self.journal.flush()
        self.journal.checkpoint(seq, [pack_checkpoint(self.engine)])
        return seq

    def close(self) -> None:
        """All on disk."""
        if self.journal:
            self.journal.close()


def open_journal(path: Path) -> Journal:
    """A small journal that does not wait for the disk."""
    return Journal.open(path, site=SITE, durability="process", map_size=1 << 30, runway_bytes=0)


def rewrite(source: Path, target: Path, edit: Callable[[Record], bytes]) -> None:
    """The same journal with other payloads: every CRC, chain hash and page is good again."""
    with Reader(source) as reader:
        records = list(reader.iterate())
    journal = open_journal(target)
    for record in records:
        if record.epoch > journal.epoch:
            journal.close()
            journal = open_journal(target)
        journal.append(record.kind, record.ts_ns, [edit(record)])
    journal.close()


def columns_value(instrument: int, lots: int, px: int) -> int:
    """Value in e8 of lots at a price."""
    return lots * px * VALUES[instrument]


def parts_of(record: Record) -> list[bytes]:
    """Input, decisions, order ends, orders and loss stops of a record, rows as rows."""
    recorded = decode(record)
    size = struct.unpack_from("<I", record.payload)[0]
    return [record.payload[20 : 20 + size], recorded.decisions, recorded.ends, recorded.named, recorded.stops]


def joined(parts: list[bytes]) -> bytes:
    """The payload of these parts, nothing packed: as older records are."""
    return struct.pack("<5I", *map(len, parts)) + b"".join(parts)
