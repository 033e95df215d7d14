"""The batch gateway on real sockets: every order handed to it ends in a report, whatever the connection does."""

from __future__ import annotations

import asyncio
import random
import socket
from array import array
from pathlib import Path
from typing import Any

import msgspec
import pytest

from copyd.errors import VenueUnavailable
from copyd.exchange.batch import BATCH_HEAD, Conn
from copyd.venues.batch import codec

from .conftest import TERMS, Desk, Item, Open, Start, until

REPLY, REJECT, IN_DOUBT, DEAD, TRADE, NOT_SENT, HELD = 1, 2, 3, 4, 6, 8, 9


def bought(exchange: Any) -> int:
    """Lots the account holds."""
    return int(exchange.engine.position(exchange.first_account, 0, 0)[0])


class Faulty(Conn):
    """A connection that does what a test says, once."""

    swallow = 0  # ORDERS messages that are not looked at
    cut_before = cut_after = 0  # the connection ends before or after so many were executed
    lose_reports = damage_reports = 0
    mute = False

    def execute(self, body: memoryview, count: int, now: int, refuse: int) -> None:
        kind = type(self)
        if kind.cut_before:
            kind.cut_before -= 1
            assert self.session is not None
            self.session.last_in -= 1
            self.transport.abort()
            self.closed = True
            return
        if kind.cut_after:
            kind.cut_after -= 1
            self.closed = True
            self.transport.abort()
        super().execute(body, count, now, refuse)

    def on_orders(self, body: memoryview, sequence: int, *rest: int) -> None:
        kind = type(self)
        if kind.swallow:
            kind.swallow -= 1
            return
        super().on_orders(body, sequence, *rest)

    def report(self, rows: bytes, query: int = 0) -> None:
        kind = type(self)
        if not query and (kind.lose_reports or kind.damage_reports):
            transport, self.transport = self.transport, Damaging(self.transport, bool(kind.damage_reports))
            kind.lose_reports, kind.damage_reports = max(0, kind.lose_reports - 1), max(0, kind.damage_reports - 1)
            super().report(rows, query)
            self.transport = transport
            return
        super().report(rows, query)

    def tick(self, now: float, every: float) -> None:
        if not type(self).mute:
            super().tick(now, every)


class Damaging:
    """Writes nothing, or one byte wrong."""

    def __init__(self, transport: Any, damage: bool) -> None:
        self.transport, self.damage = transport, damage

    def write(self, data: bytes) -> None:
        if self.damage:
            at = 32 + BATCH_HEAD.size + 20
            self.transport.write(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


def faulty(exchange: Any) -> type[Faulty]:
    """The exchange's connections from now on."""
    kind = type("Chosen", (Faulty,), {})
    exchange.batch.make = kind
    return kind


def narrow(one: Desk, conn: Conn) -> None:
    """The engine does not read, and little fits in between."""
    conn.transport.pause_reading()
    conn.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    one.gateway._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)


@pytest.mark.parametrize("unix", [False, True])
async def test_every_order_is_executed_and_told_once(door: Open, desk: Start, tmp_path: Path, unix: bool) -> None:
    """Over TCP and over a Unix socket: one trade each, the exchange's book agrees, nothing is left in flight."""
    path = str(tmp_path / "door")
    exchange = await door(path=path)
    one = await desk(exchange, f"unix:{path}" if unix else "")
    slots = one.orders(500)
    one.send(slots)
    await until(lambda: one.ended(slots))
    assert sum(row.last_qty for rows in one.of(slots) for row in rows) == bought(exchange) == 500
    assert one.gateway.in_flight == 0 and one.gateway.stats.orders_sent == 500
    await until(lambda: not one.gateway._sent)


async def test_without_a_session_nothing_was_sent(door: Open) -> None:
    """Openings and reductions alike: NOT_SENT, at once, each once."""
    one = Desk("127.0.0.1:9")
    one.gateway.set_account(0, 5)
    one.gateway.packer.set_instrument(0, 0)
    slots = one.orders(3)
    slots.extend(one.orders(2, kind=1))
    one.send(slots)
    await until(lambda: one.ended(slots))
    assert one.kinds(slots) == [[NOT_SENT]] * 5


async def test_a_login_that_will_never_do_is_said_at_once(door: Open) -> None:
    """Wrong secret, unlisted instrument, another tick: one sentence each, no waiting."""
    exchange = await door()
    address = f"127.0.0.1:{exchange.ports['batch']}"
    for more, text in (
        ({"secret": b"another secret altogether"}, "the secret does not agree"),
        ({"instruments": [Item(symbol="DOGEUSDT")]}, "does not list DOGEUSDT"),
        ({"instruments": [Item(tick=1)]}, "tick or lot"),
    ):
        one = Desk(address, **more)
        with pytest.raises(VenueUnavailable, match=text):
            await one.gateway.start(3.0)
    with pytest.raises(ValueError, match="neither HOST:PORT nor unix:PATH"):
        Desk("nowhere")


async def test_a_connection_lost_after_the_write_is_doubt_once_and_the_batch_goes_again(door: Open, desk: Start) -> None:
    """The engine never took it: in doubt once, the same bytes again while they are valid, executed once."""
    exchange = await door()
    kind = faulty(exchange)
    kind.cut_before = 1
    one = await desk(exchange)
    slots = one.orders(50)
    one.send(slots)
    await until(lambda: one.ended(slots))
    assert all(kinds == [IN_DOUBT, TRADE] for kinds in one.kinds(slots))
    assert bought(exchange) == 50 and one.gateway.stats.sent_again == 1
    await until(lambda: not one.gateway.queries_open)
    assert len(one.gateway.flight) == 0


async def test_reports_that_were_missed_come_again(door: Open, desk: Start) -> None:
    """The engine executed it and the reports were lost with the connection: replayed, never sent again."""
    exchange = await door()
    kind = faulty(exchange)
    kind.cut_after = 1
    one = await desk(exchange)
    slots = one.orders(50)
    one.send(slots)
    await until(lambda: one.ended(slots))
    assert bought(exchange) == 50 and one.gateway.stats.sent_again == 0
    assert all(kinds.count(IN_DOUBT) <= 1 and kinds.count(TRADE) >= 1 for kinds in one.kinds(slots))
    more = one.orders(5)
    one.send(more)
    await until(lambda: one.ended(more))
    assert bought(exchange) == 55


async def test_a_batch_too_old_to_go_again_is_withheld_and_proven_absent(door: Open, desk: Start) -> None:
    """Not taken, no longer valid: withheld; DEAD by "not found" to a question issued after the fence, once."""
    exchange = await door()
    kind = faulty(exchange)
    kind.cut_before = 1
    one = await desk(exchange, contract=msgspec.structs.replace(TERMS, valid_ms=60, reconnect_first_ms=150))
    slots = one.orders(20)
    one.send(slots)
    began = one.gateway.mono()
    await until(lambda: one.ended(slots))
    assert all(kinds == [IN_DOUBT, DEAD] for kinds in one.kinds(slots))
    assert bought(exchange) == 0 and one.gateway.stats.withheld == 1
    fence = one.gateway.contract.fence_ns()
    assert min(row.ts_event for row in one.rows if row.kind == DEAD) >= one.gateway.wall(began + fence) - 5_000_000
    more = one.orders(5)
    one.send(more)
    await until(lambda: one.ended(more))
    assert bought(exchange) == 5


async def test_no_report_in_time_is_doubt_and_a_late_one_is_told(door: Open, desk: Start) -> None:
    """A batch the engine sits on: in doubt once after the timeout; it was never taken, so it is proven absent."""
    exchange = await door()
    kind = faulty(exchange)
    one = await desk(exchange)
    kind.swallow = 1
    slots = one.orders(10)
    one.send(slots)
    await until(lambda: all(kinds == [IN_DOUBT] for kinds in one.kinds(slots)))
    assert one.gateway.stats.ack_timeouts == 10
    # The next message shows the engine the gap: it asks, and gets what is still valid, else what is withheld.
    more = one.orders(1)
    one.send(more)
    await until(lambda: one.ended(slots) and one.ended(more))
    for kinds in one.kinds(slots):
        assert kinds.count(IN_DOUBT) == 1 and (TRADE in kinds) != (DEAD in kinds)
    assert bought(exchange) == 1 + sum(TRADE in kinds for kinds in one.kinds(slots))


async def test_a_gap_in_the_reports_is_asked_for(door: Open, desk: Start) -> None:
    """A REPORTS message that never came: asked for when the next shows it, booked in order."""
    exchange = await door()
    kind = faulty(exchange)
    one = await desk(exchange)
    kind.lose_reports = 1
    slots = one.orders(5)
    one.send(slots)
    more = one.orders(5)
    one.send(more)
    await until(lambda: one.ended(slots) and one.ended(more))
    assert one.gateway.stats.gaps == 1 and one.gateway.stats.in_doubt == 0
    assert one.rows[0].cid in one.cids(slots)


async def test_a_damaged_report_ends_the_session_and_comes_again(door: Open, desk: Start) -> None:
    """A flipped bit is never booked: the session is given up, and the undamaged message comes with the next login."""
    exchange = await door()
    kind = faulty(exchange)
    one = await desk(exchange)
    kind.damage_reports = 1
    slots = one.orders(5)
    one.send(slots)
    await until(lambda: one.ended(slots))
    assert one.gateway.stats.malformed == 1 and one.gateway.stats.reconnects == 1
    assert {row.cum_qty for row in one.rows if row.kind == TRADE} == {1} and bought(exchange) == 5


async def test_reports_nobody_keeps_any_more_are_asked_by_id(door: Open, desk: Start) -> None:
    """GAP_FILL "gone": what is open is in doubt, and the answer by id brings every execution with its fee."""
    exchange = await door(retained=1, reports_max=4)
    kind = faulty(exchange)
    kind.cut_after = 1
    one = await desk(exchange)
    slots = one.orders(20)
    one.send(slots)
    await until(lambda: one.ended(slots))
    assert one.gateway.stats.gone >= 1 and bought(exchange) == 20
    await until(lambda: all(any(row.kind == TRADE and row.fee_e8 for row in rows) for rows in one.of(slots)))


async def test_silence_is_taken_for_death(door: Open, desk: Start) -> None:
    """Nothing heard for three heartbeats: the connection is given up and made anew."""
    exchange = await door()
    kind = faulty(exchange)
    one = await desk(exchange)
    kind.mute = True
    await until(lambda: one.gateway.stats.silent == 1)
    kind.mute = False
    await until(lambda: one.gateway.ready)
    slots = one.orders(1)
    one.send(slots)
    await until(lambda: one.ended(slots))


async def test_an_engine_that_is_gone_is_tried_again_and_again(door: Open, desk: Start, tmp_path: Path) -> None:
    """Orders meanwhile are NOT_SENT; when it is back, in a session of its own, they go."""
    path = str(tmp_path / "door")
    exchange = await door(path=path, port=None)
    one = await desk(exchange, f"unix:{path}")
    await exchange.batch.stop()
    await until(lambda: not one.gateway.ready)
    slots = one.orders(3)
    one.send(slots)
    await until(lambda: one.ended(slots))
    assert one.kinds(slots) == [[NOT_SENT]] * 3
    exchange.batch.sessions.clear()
    await exchange.batch.start()
    await until(lambda: one.gateway.ready and not one.gateway.unknown_accounts())
    more = one.orders(3)
    one.send(more)
    await until(lambda: one.ended(more))
    assert bought(exchange) == 3


async def test_two_under_one_name_do_not_fight(door: Open, desk: Start) -> None:
    """The one that came last has the session; the other hears why and stays away for a while."""
    exchange = await door()
    one = await desk(exchange, contract=msgspec.structs.replace(TERMS, reconnect_max_ms=60_000))
    slots = one.orders(2)
    one.send(slots)
    await until(lambda: one.ended(slots))
    other = await desk(exchange)
    await until(lambda: not one.gateway.ready)
    assert "another connection logged in" in one.gateway.last_error
    await asyncio.sleep(0.1)
    assert other.gateway.ready and not one.gateway.ready and other.gateway.stats.reconnects == 0


async def test_an_engine_that_took_what_was_never_sent_is_not_believed(door: Open) -> None:
    """LOGIN_ACK with a sequence beyond ours: no session; one that made it up could swallow orders unseen."""
    exchange = await door()

    class Boasting(Conn):
        def on_login(self, body: memoryview) -> None:
            server = self.server
            real = server.log_in

            def log_in(*words: Any) -> Any:
                session = real(*words)
                session.last_in = 7
                return session

            server.log_in = log_in  # type: ignore[method-assign]
            try:
                super().on_login(body)
            finally:
                server.log_in = real  # type: ignore[method-assign]

    exchange.batch.make = Boasting
    one = Desk(f"127.0.0.1:{exchange.ports['batch']}")
    with pytest.raises(VenueUnavailable, match="says it took message 7"):
        await one.gateway.start(0.3)


async def test_what_has_no_room_waits_in_order_and_the_reserve_is_kept(door: Open, desk: Start) -> None:
    """Openings stop at the open share, a top leader's and reductions use all of the window; all of it goes in the end."""
    exchange = await door(window=100, reserved=40)
    kind = faulty(exchange)
    one = await desk(exchange, top_leaders=[1], contract=msgspec.structs.replace(
        TERMS, opening_wait_ms=60_000, order_ack_timeout_ms=60_000))
    gateway = one.gateway
    kind.swallow = 1_000
    openings = one.orders(90)
    one.send(openings)
    assert gateway._outstanding == 60 and gateway.waiting == 30
    tops = one.orders(30, plan=1)
    one.send(tops)
    assert gateway._outstanding == 90 and gateway.waiting == 30
    reductions = one.orders(30, kind=1)
    one.send(reductions)
    assert gateway._outstanding == 90 and gateway.waiting == 60  # a batch is not cut for so little
    kind.swallow = 0
    # The engine sees the gap with the next message, and has it sent again: all is executed, in order.
    for conn in list(exchange.batch.conns):
        conn.transport.abort()
    await until(lambda: not gateway.ready)
    await until(lambda: one.ended(openings) and one.ended(tops) and one.ended(reductions))
    # What waited when the connection ended was not sent; the core plans its reductions anew.
    assert [kinds.count(NOT_SENT) for kinds in one.kinds(openings)] == [0] * 60 + [1] * 30
    assert one.kinds(reductions) == [[NOT_SENT]] * 30 and bought(exchange) == 90


async def test_an_opening_without_room_is_given_up_a_reduction_is_not(door: Open, desk: Start) -> None:
    """A window shut for longer than openings wait: they were not sent; the reduction goes when it opens."""
    exchange = await door()
    one = await desk(exchange)
    exchange.batch.set_window(0, 0)
    await until(lambda: one.gateway.window == 0)
    openings, reductions = one.orders(3), one.orders(3, kind=1)
    one.send(openings)
    one.send(reductions)
    # Nobody may conclude from "not found" about an order that waits here.
    one.gateway.query(one.cids(reductions)[0], 0, 0, 0)
    assert one.gateway.queries_open == 0
    await until(lambda: one.ended(openings))
    assert one.kinds(openings) == [[NOT_SENT]] * 3 and one.kinds(reductions) == [[]] * 3
    assert one.gateway.stats.expired == 3
    exchange.batch.set_window(100, 10)
    await until(lambda: one.ended(reductions))
    assert bought(exchange) == 3


async def test_never_a_message_into_the_middle_of_another(door: Open, desk: Start) -> None:
    """An engine that does not read: what the kernel did not take is kept, heartbeats wait behind it, nothing is torn."""
    exchange = await door(window=60_000, reserved=0, heartbeat_ms=2_000)
    one = await desk(exchange, contract=msgspec.structs.replace(
        TERMS, order_ack_timeout_ms=60_000, write_deadline_ms=60_000, valid_ms=60_000))
    (conn,) = exchange.batch.conns
    narrow(one, conn)
    slots = one.orders(9_000)
    one.send(slots)
    assert one.gateway.unwritten > 0
    one.gateway._control(codec.ack(one.gateway._session, 0))  # a message behind it
    await asyncio.sleep(0.05)
    conn.transport.resume_reading()
    await until(lambda: one.ended(slots), 8.0)
    assert one.gateway.stats.in_doubt == 0 and one.gateway.stats.reconnects == 0 and one.gateway.unwritten == 0


async def test_bytes_not_written_when_the_connection_ends_were_not_sent(door: Open, desk: Start) -> None:
    """Batches behind the one half written: not a byte of them left, NOT_SENT; the half one is in doubt, once."""
    exchange = await door(window=60_000, reserved=0, heartbeat_ms=2_000)
    one = await desk(exchange, contract=msgspec.structs.replace(
        TERMS, write_deadline_ms=100, order_ack_timeout_ms=60_000, reconnect_first_ms=2_000))
    (conn,) = exchange.batch.conns
    narrow(one, conn)
    slots = one.orders(9_000)
    one.send(slots)
    await until(lambda: one.gateway.stats.write_deadlines == 1)
    await until(lambda: all(one.kinds(slots)))
    kinds = {tuple(found) for found in one.kinds(slots)}
    assert kinds == {(NOT_SENT,), (IN_DOUBT,)}
    assert one.gateway._out_seq == one.gateway._sent[-1].sequence


async def test_an_account_the_engine_does_not_know_sends_nothing(door: Open, desk: Start) -> None:
    """Its orders are NOT_SENT, the others go; and it is named."""
    exchange = await door()
    one = await desk(exchange)
    one.gateway.add_account(1, "nobody")
    await asyncio.sleep(0.05)
    slots = one.orders(2)
    slots.extend(one.orders(1, account=1))
    one.send(slots)
    await until(lambda: one.ended(slots))
    assert [kinds[0] for kinds in one.kinds(slots)] == [TRADE, TRADE, NOT_SENT]
    assert one.gateway.unknown_accounts() == ["nobody"]


async def test_another_process_finds_what_the_first_one_sent(door: Open, desk: Start) -> None:
    """A new session asks by id: found orders come with every execution and their state, the others are proven absent."""
    exchange = await door()
    one = await desk(exchange)
    slots = one.orders(3, order_qty=2)
    one.send(slots)
    await until(lambda: one.ended(slots))
    await one.gateway.stop(0.0)
    other = await desk(exchange)
    cids = one.cids(slots)
    other.settle = False
    now = other.gateway.clock()
    for cid in [*cids, b"never sent at all"[:16]]:
        other.gateway.query(cid, 0, 0, now)
    await until(lambda: not other.gateway.queries_open)
    told = {cid: [row.kind for row in other.rows if row.cid == cid] for cid in cids}
    assert all(TRADE in kinds and kinds[-1] == REPLY for kinds in told.values())
    assert [row.kind for row in other.rows if row.cid == b"never sent at all"[:16]] == [DEAD]
    assert bought(exchange) == 6


async def test_silence_of_an_engine_that_forgot_proves_nothing(door: Open, desk: Start) -> None:
    """An order placed before the engine began to remember is not declared dead by its "not found": an operator hears, once."""
    exchange = await door()
    one = await desk(exchange)
    placed = one.gateway.clock() - 3_600 * 10**9
    one.gateway.query(b"from another day", 0, 0, one.gateway.clock(), ts_placed_ns=placed)
    await until(lambda: one.gateway.stats.queries_not_found > 3)
    assert one.gateway.queries_open == 1 and [row.kind for row in one.rows] == [HELD]


async def test_then_the_position_is_asked(door: Open, desk: Start) -> None:
    """Where somebody can be asked for the position it decides, in place of an engine that has forgotten."""
    exchange = await door()

    async def position(account: int, instrument: int) -> tuple[int, int]:
        return bought(exchange), 0

    one = await desk(exchange, expected=lambda account, instrument, since: (0, 0, True), position=position)
    now = one.gateway.clock()
    one.gateway.query(b"from another day", 0, 0, now, ts_placed_ns=now - 60 * 10**9)
    await until(lambda: [row.kind for row in one.rows] == [DEAD])
    assert one.gateway.stats.positions == 1


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
async def test_whatever_the_connection_does_each_order_ends_once(door: Open, desk: Start, seed: int) -> None:
    """Cuts before and after execution, batches sat on, reports lost and damaged, a window that shuts: every order ends, is in
    doubt at most once, is executed at most once, and what was told adds up to what the exchange holds."""
    exchange = await door(window=400, reserved=100)
    kind, draw = faulty(exchange), random.Random(seed)
    one = await desk(exchange)
    slots = array("I")
    for _ in range(40):
        what = draw.choice(["", "", "", "cut_before", "cut_after", "swallow", "lose_reports", "damage_reports", "window"])
        if what == "window":
            exchange.batch.set_window(*draw.choice([(0, 0), (30, 10), (400, 100)]))
        elif what:
            setattr(kind, what, 1)
        fields = {"kind": 1} if draw.random() < 0.3 else {}
        part = one.orders(draw.randrange(1, 60), **fields)
        one.send(part)
        slots.extend(part)
        await asyncio.sleep(draw.choice([0, 0, 0.005, 0.03]))
    kind.cut_before = kind.cut_after = kind.swallow = kind.lose_reports = kind.damage_reports = 0
    exchange.batch.set_window(400, 100)
    await until(lambda: one.gateway.ready)
    last = one.orders(1)
    one.send(last)  # shows the engine what it has missed
    slots.extend(last)
    await until(lambda: one.ended(slots) and not one.gateway.queries_open)  # questions that failed are put again ever later
    traded = 0
    for rows in one.of(slots):
        kinds = [row.kind for row in rows]
        trades = {row.trade_id: row.last_qty for row in rows if row.kind == TRADE}
        assert kinds.count(IN_DOUBT) <= 1 and kinds.count(DEAD) <= 1 and kinds.count(NOT_SENT) <= 1
        assert not (trades and (DEAD in kinds or NOT_SENT in kinds)), kinds
        assert sum(trades.values()) <= 1
        traded += sum(trades.values())
    assert traded == bought(exchange) > 0
    assert len(one.gateway.flight) == 0 and one.gateway.waiting == 0
