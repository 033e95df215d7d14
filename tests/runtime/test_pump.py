"""The pump: nothing leaves before its record is durable, in order, and never after a stop (semantics 33)."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from copyd.app import Daemon
from copyd.core import engine as e
from copyd.core.engine import Engine, Outputs
from copyd.core.rows import InstrumentRow, Params, ReportKind, ReportRow
from copyd.errors import BrokenInvariant, JournalError
from copyd.kinds import RULES, kind_of, same_rules, tag_of
from copyd.runtime.clock import ManualClock
from copyd.runtime.pump import Pump, Sent

E8 = 10**8
SECOND = 10**9
NEVER = 1 << 30
ANNOUNCED, FILL = tag_of(e.Announced), tag_of(e.LeaderFill)


class SlowJournal:
    """Numbers records at once and makes them durable when told; what was appended is kept."""

    def __init__(self) -> None:
        self.durable_seq = 0
        self.records: list[tuple[int, int, bytes]] = []
        self.skip = 0

    def append(self, kind: int, ts_ns: int, parts: Sequence[bytes]) -> int:
        self.records.append((kind, ts_ns, b"".join(parts)))
        return len(self.records) + self.skip


class Wire:
    """Renders slots as they are and remembers what was sent, with the durable seq at that moment."""

    def __init__(self, journal: SlowJournal) -> None:
        self.journal = journal
        self.rendered: list[int] = []
        self.sent: list[tuple[int, int]] = []

    chunk_max = 1_024

    def arrange(self, slots: array, turn: int) -> array:
        return slots

    def render(self, slots: array) -> Any:
        self.rendered += slots
        return list(slots)

    def send(self, rendered: Any) -> None:
        self.sent += [(slot, self.journal.durable_seq) for slot in rendered]


def plan(follower: str) -> dict[str, Any]:
    """A proportional plan without limits."""
    return {
        "follower": follower, "leader": "L", "account": follower, "allocation_e8": 1_000 * E8, "amount_e8": 0,
        "max_notional_symbol_e8": 0, "max_notional_total_e8": 0, "multiplier_ppm": 10**6, "raise_max_factor_ppm": 2 * 10**6,
        "instruments": [], "leverage": 10, "leverage_max": 0, "risk_bps": 0, "assumed_stop_bps": 0, "max_position_bps": 0,
        "max_loss_per_trade_bps": 0, "slippage_bps": 0, "slippage_mid_bps": 0, "max_open_trades": 0, "mode": 0,
        "ratio_snapshot": 0, "min_policy": 0, "on_insufficient": 0, "require_stop": 0, "state": 0,
    }


class World:
    """An engine with a leader and some followers, a journal that waits, and a wire."""

    def __init__(self, followers: int, announce_legs: int = NEVER, journal: SlowJournal | None = None) -> None:
        self.clock = ManualClock(now_ns=1_000 * SECOND)
        self.engine = Engine(4)
        self.journal = journal or SlowJournal()
        self.wire = Wire(self.journal)
        self.heard: list[Outputs] = []
        self.done: list[Sent] = []
        self.pump = Pump(
            self.engine, self.journal, self.wire, self.clock, kind_of, self.heard.append, self.done.append,
            announce_legs)
        spec = e.InstrumentSpec("BTCUSDT", InstrumentRow(value_mul=10_000).pack(), 1, 3)
        accounts = range(followers)
        for value in (
            e.Started(1, 7, bytes(16), "test"),
            e.Configured(1, Params(orders_per_window=60_000).pack(), [spec], ["L"]),
            e.LeaderSync(0, True, []),
            e.Command("import_plans", {"plans": [plan(f"f{i}") for i in accounts]}),
            e.LegsReady([(i, 0, True, False, True, 10) for i in accounts]),
            e.AccountSnapshots([(i, 10_000 * E8, []) for i in accounts]),
            e.LeaderEquity(0, 100_000 * E8, self.clock.now_ns()),
        ):
            self.pump.offer(value)
        self.pump.quote(0, 599_999, 600_001, 600_000, self.clock.now_ns())
        self.exec_id = 0

    def leader(self, side: int, qty: int) -> Outputs | None:
        """A leader fill at 60,000."""
        self.exec_id += 1
        now = self.clock.now_ns()
        return self.pump.offer(e.LeaderFill(
            0, 0, 0, self.exec_id, self.exec_id, side, qty, 600_000, qty, True, False, "", now, now, b""))

    def fill(self, out: Outputs) -> Outputs | None:
        """The venue has filled what ``out`` asked for."""
        rows = [ReportRow(cid=self.engine.columns.get(7, slot)[:16], cum_qty=10**6, kind=ReportKind.REPLY, status=4)
                for slot in array("I", out.orders)]
        return self.pump.offer(e.Reports(b"".join(row.pack() for row in rows))) if rows else None

    def durable(self, seq: int) -> None:
        """The journal's word."""
        self.journal.durable_seq = seq
        self.pump.durable(seq)


def refolded(records: Sequence[tuple[int, int, bytes]]) -> Engine:
    """The state that records lead to."""
    engine = Engine(4)
    for _, ts_ns, payload in records:
        assert engine.step(ts_ns, e.decode_payload(payload).input) is not None
    return engine


def test_nothing_leaves_before_its_record_is_durable() -> None:
    """Orders are rendered while the commit runs; the first byte waits for it."""
    world = World(100)
    out = world.leader(1, 1000)
    assert out is not None
    assert len(world.wire.rendered) == 100
    assert world.wire.sent == []
    world.durable(out.seq - 1)
    assert world.wire.sent == []
    world.durable(out.seq)
    assert [slot for slot, _ in world.wire.sent] == list(array("I", out.orders))
    assert all(durable >= out.seq for _, durable in world.wire.sent)


def test_a_record_that_is_durable_already_is_sent_at_once() -> None:
    """With the commit back before the rendering is done, the rest goes chunk by chunk without another wait."""
    world = World(3000)
    world.journal.durable_seq = 10**9
    out = world.leader(1, 1000)
    assert out is not None
    assert [slot for slot, _ in world.wire.sent] == list(array("I", out.orders))
    assert [times.orders for times in world.done] == [3000]


@pytest.mark.parametrize("seed", range(20))
def test_sends_keep_the_order_of_decisions_whatever_the_commits_do(seed: int) -> None:
    """Many events, commits in random groups: each slot is sent once, in decided order, never early."""
    rng = random.Random(seed)
    world = World(30)
    named: list[tuple[int, int]] = []
    for _ in range(12):
        out = world.leader(rng.choice([1, -1]), rng.randint(100, 3000))
        assert out is not None
        named += [(slot, out.seq) for slot in array("I", out.orders)]
        if rng.random() < 0.7 and out.orders:
            more = world.fill(out)
            assert more is not None
            named += [(slot, more.seq) for slot in array("I", more.orders)]
        if rng.random() < 0.5:
            world.durable(rng.randint(world.journal.durable_seq, len(world.journal.records)))
    world.durable(len(world.journal.records))
    assert [slot for slot, _ in world.wire.sent] == [slot for slot, _ in named]
    assert all(durable >= seq for (_, durable), (_, seq) in zip(world.wire.sent, named, strict=True))


def test_the_market_a_decision_reads_is_journaled_before_it() -> None:
    """A quote becomes a record when a decision is about to read it, and only then."""
    world = World(2)
    before = len(world.journal.records)
    world.pump.quote(0, 600_009, 600_011, 600_010, world.clock.now_ns())
    assert len(world.journal.records) == before
    world.leader(1, 1000)
    kinds = [kind for kind, _, _ in world.journal.records[before:]]
    assert kinds == [kind_of(e.Quotes([])), 3]


def test_after_a_stop_nothing_is_sent_and_nothing_is_taken() -> None:
    """A failed commit: what waited never leaves, later inputs are not even decided."""
    world = World(10)
    out = world.leader(1, 1000)
    assert out is not None
    world.pump.stop()
    world.durable(out.seq)
    assert world.wire.sent == []
    assert world.leader(1, 1000) is None


def test_a_journal_that_counts_otherwise_stops_the_process() -> None:
    """Record numbers are the engine's too: a difference is a broken invariant, before anything is sent."""
    world = World(3)
    world.journal.skip = 1
    with pytest.raises(BrokenInvariant):
        world.leader(1, 1000)
    assert world.wire.sent == []


def test_an_input_that_changes_nothing_is_not_journaled() -> None:
    """The same execution again leaves no record."""
    world = World(2)
    world.leader(1, 1000)
    world.pump.quote(0, 599_999, 600_001, 600_000, world.clock.now_ns())
    world.exec_id -= 1
    before = len(world.journal.records)
    assert world.leader(1, 1000) is None
    assert [kind for kind, _, _ in world.journal.records[before:]] == [kind_of(e.Quotes([]))]


# -- executions that are announced ---------------------------------------------------------------------------------------


class QuickJournal(SlowJournal):
    """Durable at once, as where the disk is done while the process still decides."""

    def append(self, kind: int, ts_ns: int, parts: Sequence[bytes]) -> int:
        seq = super().append(kind, ts_ns, parts)
        self.durable_seq = seq
        return seq


def records_at_each_send(world: World) -> list[tuple[int, int]]:
    """(orders, records in the journal) of each send from now on."""
    sends: list[tuple[int, int]] = []
    send = world.wire.send

    def noted(rendered: Any) -> None:
        sends.append((len(rendered), len(world.journal.records)))
        send(rendered)

    world.wire.send = noted  # type: ignore[method-assign]
    return sends


def test_orders_of_an_announced_execution_leave_while_the_rest_is_decided() -> None:
    """Behind the durable announcement, before the record that names them, first a few: and each once, in decided order."""
    world = World(3000, announce_legs=256, journal=QuickJournal())
    sends = records_at_each_send(world)
    before = len(world.journal.records)
    out = world.leader(1, 1000)
    assert out is not None
    kinds = [kind for kind, _, _ in world.journal.records[before:]]
    assert kinds == [kind_of(e.Quotes([])), ANNOUNCED, FILL]
    assert [slot for slot, _ in world.wire.sent] == list(array("I", out.orders))
    assert sends[0] == (16, before + 2)
    assert all(records == before + 2 for _, records in sends)
    assert len(sends) > 3
    assert [times.orders for times in world.done] == [3000]


def test_nothing_leaves_before_its_announcement_is_durable() -> None:
    """All is decided, signed and written down meanwhile; the announcement opens the gate, not the record behind it."""
    world = World(300, announce_legs=256)
    out = world.leader(1, 1000)
    assert out is not None
    assert sorted(world.wire.rendered) == sorted(array("I", out.orders))
    assert world.wire.sent == []
    world.durable(out.seq - 2)
    assert world.wire.sent == []
    world.durable(out.seq - 1)
    assert [slot for slot, _ in world.wire.sent] == list(array("I", out.orders))


def test_a_stop_in_mid_fan_out_holds_back_the_rest() -> None:
    """The first send finds the journal failed: nothing more leaves, and the decided record is written for what did."""
    world = World(3000, announce_legs=256, journal=QuickJournal())
    send = world.wire.send

    def failing(rendered: Any) -> None:
        send(rendered)
        world.pump.stop()

    world.wire.send = failing  # type: ignore[method-assign]
    out = world.leader(1, 1000)
    assert out is not None
    assert [slot for slot, _ in world.wire.sent] == list(array("I", out.orders))[:16]
    assert world.journal.records[-1][0] == FILL
    assert world.done == []


@pytest.mark.parametrize("seed", range(10))
def test_announced_or_not_the_decisions_are_the_same_bytes(seed: int) -> None:
    """Openings, additions, partial and whole closes, turns: what is decided does not know how it leaves; sends are in the
    order of decisions, behind earlier records."""
    rng = random.Random(seed)
    plain, announced = World(40, announce_legs=NEVER), World(40, announce_legs=1)
    for _ in range(15):
        side, qty = rng.choice([1, 1, -1]), rng.randint(100, 3000)
        outs = [world.leader(side, qty) for world in (plain, announced)]
        first, second = outs
        assert first is not None and second is not None
        assert (first.decisions, first.ends, first.named, first.stops) == (
            second.decisions, second.ends, second.named, second.stops)
        for world, out in zip((plain, announced), outs, strict=True):
            assert out is not None
            world.fill(out)
            if seed % 2:
                world.durable(len(world.journal.records))
    for world in (plain, announced):
        world.durable(len(world.journal.records))
        assert not world.pump.gate
    cids = [[world.engine.columns.get(7, slot)[:16] for slot, _ in world.wire.sent] for world in (plain, announced)]
    assert cids[0] == cids[1]


def test_the_same_execution_again_is_not_announced() -> None:
    """Nothing is written for what changes nothing; what was found by back-fill opens nothing and is not announced either."""
    world = World(300, announce_legs=1)
    world.leader(1, 1000)
    before = len(world.journal.records)
    world.exec_id -= 1
    assert world.leader(1, 1000) is None
    assert len(world.journal.records) == before


def test_what_was_announced_and_not_written_is_decided_to_the_same_bytes() -> None:
    """Killed behind the announcement, at any later time: the next start names the same orders, and sends none of them."""
    world = World(300, announce_legs=1)
    out = world.leader(1, 1000)
    assert out is not None
    engine = refolded(world.journal.records[:-1])
    assert engine.announced is not None
    assert msgspec.msgpack.decode(engine.checkpoint()[0])[0] == e.CHECKPOINT_ANNOUNCED, "no earlier build drops it unread"
    engine = Engine.restore([bytes(part) for part in engine.checkpoint()])
    journal = SlowJournal()
    journal.records = world.journal.records[:-1]
    wire = Wire(journal)
    clock = ManualClock(now_ns=world.clock.now_ns() + 3_600 * SECOND)
    heard: list[Outputs] = []
    pump = Pump(engine, journal, wire, clock, kind_of, heard.append, world.done.append, announce_legs=1)
    taken = pump.take_up()
    assert taken is not None and taken.seq == out.seq
    assert journal.records[-1][1:] == world.journal.records[-1][1:], "the bytes, and the time at which it was decided"
    assert engine.checkpoint() == world.engine.checkpoint()
    assert heard == [taken]
    journal.durable_seq = len(journal.records)
    pump.durable(journal.durable_seq)
    assert wire.sent == wire.rendered == []
    assert pump.take_up() is None


def test_a_start_that_cannot_take_up_leaves_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failure left half decided is kept nowhere: the next start begins at the announcement again."""
    world = World(300, announce_legs=1)
    world.leader(1, 1000)
    daemon = Daemon.__new__(Daemon)
    daemon.engine, daemon.unsound = refolded(world.journal.records[:-1]), False
    daemon.engine.names.build = ""
    daemon.pump = Pump(daemon.engine, SlowJournal(), world.wire, world.clock, kind_of, world.heard.append, world.done.append)

    def failing(self: Engine, out: Outputs) -> None:
        raise MemoryError

    monkeypatch.setattr(Engine, "_collect", failing)
    with pytest.raises(MemoryError):
        daemon._take_up()
    assert daemon.pump.stopped, "a pump that is stopped is checkpointed by nobody"
    assert daemon.unsound
    assert daemon.engine.announced is not None


def test_an_execution_that_other_rules_were_to_decide_is_left_to_them() -> None:
    """The same rules in another version decide alike; other rules refuse, and write nothing."""
    world = World(300, announce_legs=1)
    world.leader(1, 1000)
    daemon = Daemon.__new__(Daemon)
    daemon.engine, daemon.unsound = refolded(world.journal.records[:-1]), False
    daemon.engine.names.build = f"copyd 9.9.9 rules {RULES + 1}"
    daemon.journal = SimpleNamespace(path="/j")  # type: ignore[assignment]
    daemon.pump = Pump(daemon.engine, SlowJournal(), world.wire, world.clock, kind_of, world.heard.append, world.done.append)
    with pytest.raises(JournalError, match="start that build on it once"):
        daemon._take_up()
    assert daemon.pump.stopped
    assert same_rules(f"copyd 9.9.9 rules {RULES}")
    assert not same_rules(f"copyd 9.9.9 rules 1{RULES}")


def test_what_waits_before_it_in_the_gate_leaves_before_it() -> None:
    """An earlier event became durable while this one is decided: its orders go first, both in the middle of the decision."""
    world = World(40, announce_legs=1)
    first = world.leader(1, 1000)
    assert first is not None
    world.fill(first)
    assert world.wire.sent == []
    world.journal.durable_seq = 1 << 40
    sends = records_at_each_send(world)
    second = world.leader(1, 2000)
    assert second is not None
    named = [*array("I", first.orders), *array("I", second.orders)]
    assert [slot for slot, _ in world.wire.sent] == named
    assert sends[0][1] == second.seq - 1, "before the record that names the second's orders"


def test_nothing_comes_between_an_announcement_and_its_execution() -> None:
    """Another input, or one from inside the decision, is a mistake of ours: it is refused before it changes anything."""
    world = World(5, announce_legs=NEVER)
    out = world.leader(1, 1000)
    assert out is not None
    world.fill(out)
    now = world.clock.now_ns()
    fill = e.LeaderFill(0, 0, 0, 7, 7, 1, 100, 600_000, 100, True, False, "", now, now, b"")
    assert world.engine.step(now, e.Announced(fill)) is not None
    seq = world.engine.names.seq
    with pytest.raises(BrokenInvariant, match="announced"):
        world.engine.step(now, e.Timer())
    assert world.engine.names.seq == seq

    def meddling(slots: bytes) -> int:
        world.engine.step(now, e.Timer())
        return 1

    with pytest.raises(BrokenInvariant, match="while another"):
        world.engine.step(now, fill, meddling)
