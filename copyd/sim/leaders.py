"""A daemon's end of a leader's account: connections by generation, frames in, questions out, around the real LeaderStream."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from copyd.core import engine as core
from copyd.core.leader_stream import (
    Ask,
    AskKind,
    Equity,
    Execution,
    Expired,
    LeaderStream,
    Leverage,
    OrderFacts,
    OrderNew,
    Position,
    Reconnect,
    Sync,
    Terms,
)
from copyd.core.rows import LeaderPositionRow
from copyd.sim.venue import Account, Stream, Trade
from copyd.sim.world import ANSWER_TIMEOUT, MS, READ_LAG, S

if TYPE_CHECKING:
    from copyd.sim.node import Node

TERMS = Terms(ask_timeout_ns=ANSWER_TIMEOUT, disagree_ns=READ_LAG + S // 2, equity_poll_ns=30 * S, position_poll_ns=10 * S,
              sweep_ns=60 * S)
PING_DEADLINE = 3 * S
OVERLAP = 2 * S
EQUITY_E8 = 800_000 * 10**8


class LeaderLink:
    """One leader as one daemon hears him."""

    def __init__(self, node: Node, leader: int) -> None:
        self.node, self.leader = node, leader
        self.world, self.venue = node.world, node.venue
        self.account: Account = node.venue.leaders[leader]
        self.stream = LeaderStream(range(len(node.venue.instruments)), TERMS)
        self.generation = 0
        self.open: dict[int, Stream] = {}
        self.connecting = False
        self.todo: deque[Any] = deque()
        self.working = False
        self.read_at = 1 << 62
        self._resume()

    @property
    def synced(self) -> bool:
        return self.stream.synced

    def next_due(self) -> int | None:
        return self.stream.next_due()

    def _resume(self) -> None:
        """What the journal knows of him."""
        floor: dict[int, int] = {}
        seen: list[tuple[int, int]] = []
        positions: dict[tuple[int, int], int] = {}
        engine = self.node.engine
        for book in engine.names.books:
            if book.leader != self.leader:
                continue
            qty = LeaderPositionRow.unpack(engine.columns.get(core.POSITIONS, book.position)).qty
            positions[book.instrument, book.side] = qty
            if book.seen:
                seen += [(book.instrument, exec_id) for exec_id in book.seen]
                first = max(book.floor, min(book.seen) - 1)
                floor[book.instrument] = min(first, floor.get(book.instrument, first))
        if floor:
            self.stream.resume(floor, seen, positions)

    # -- connections --------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """The first connection."""
        self._connect()

    def _connect(self) -> None:
        """A new connection, beside the old one where that lives."""
        self.connecting = False
        node = self.node
        node.crashpoint("leader_connect")
        self.generation += 1
        generation = self.generation
        beside = bool(self.open)
        stream = Stream(node, partial(self._on_frame, generation))
        self.account.streams = [other for other in self.account.streams if other.open]
        self.account.streams.append(stream)
        old = list(self.open)
        self.open[generation] = stream
        if self.world.trace is not None:
            self.world.say("network", f"leader stream {generation} open{' beside the old one' if beside else ''}")
        self._do(self.stream.opened(node.clock.now_ns(), generation, beside))
        if old:
            node.draws.count("L04")
            node._later(OVERLAP, self._retire, old)

    def _retire(self, generations: list[int]) -> None:
        for generation in generations:
            self.lost(generation, "renewed")

    def lost(self, generation: int, why: str) -> None:
        """A connection is gone; without another one a new one is opened."""
        stream = self.open.pop(generation, None)
        if stream is None:
            return
        stream.open = False
        if self.world.trace is not None:
            self.world.say("network", f"leader stream {generation} lost: {why}")
        self._do(self.stream.lost(self.node.clock.now_ns(), generation))
        if not self.open:
            self._reopen(50 * MS + self.node.draws.draw("leader.reopen", 500) * MS)

    def _reopen(self, delay: int) -> None:
        if not self.connecting:
            self.connecting = True
            self.node._later(delay, self._connect)

    def lose_all(self, why: str) -> None:
        """Every connection breaks at once."""
        for generation in list(self.open):
            self.lost(generation, why)

    def renew(self) -> None:
        """The venue asks for, or the client wants, a new connection: made before the old one is dropped."""
        if self.open:
            self._reopen(MS)

    def silent(self, duration: int, noticed: bool) -> None:
        """The open connections bring nothing for a while; ``noticed``: not even the answers to pings."""
        for generation, stream in self.open.items():
            stream.deaf = True
            if noticed:
                self.node._later(PING_DEADLINE, self.lost, generation, "no answer to pings")
        self.node._later(duration, self._hear_again)

    def _hear_again(self) -> None:
        for stream in self.open.values():
            stream.deaf = False

    def close(self) -> None:
        """The process is gone."""
        for stream in self.open.values():
            stream.open = False

    # -- in -------------------------------------------------------------------------------------------------------------
    def _on_frame(self, generation: int, what: Any) -> None:
        now = self.node.clock.now_ns()
        stream = self.stream
        if isinstance(what, Trade):
            self._do(stream.event(now, _execution(what, True, now)))
            return
        kind = what[0]
        if kind == "position":
            self._do(stream.event(now, Position(what[1], what[2], what[3], what[4], now, "push")))
        elif kind == "new":
            self._do(stream.event(now, OrderNew(what[1], what[2])))
        elif kind == "leverage":
            self._do(stream.event(now, Leverage(what[1], what[2], self.world.now, now)))
        elif kind == "expired":
            self._do(stream.event(now, Expired()))
        elif kind == "unreadable":
            self._do(stream.unreadable(now, "simulated"))
        elif kind == "oversized":
            self._do(stream.oversized(now))
            self.lost(generation, "oversized message")

    def request_sync(self, reason: str) -> None:
        """The engine's fold disagrees."""
        self.todo.extend(self.stream.request_sync(self.node.clock.now_ns(), reason))
        self._work()

    def tick(self) -> None:
        """Time passed."""
        due = self.stream.next_due()
        now = self.node.clock.now_ns()
        if due is not None and due <= now:
            self._do(self.stream.tick(now))

    def _do(self, actions: list[Any]) -> None:
        if actions:
            self.todo.extend(actions)
            self._work()
        if self.node.alive:
            due = self.stream.next_due()
            if due is not None:
                self.node._wake_in(due - self.node.clock.now_ns())

    def _work(self) -> None:
        """Everything to be done, in order; what a step asks for comes behind."""
        if self.working:
            return
        self.working = True
        try:
            while self.todo and self.node.alive:
                self._one(self.todo.popleft())
        finally:
            self.working = False

    def _one(self, action: Any) -> None:
        node, leader = self.node, self.leader
        kind = type(action)
        if kind is Execution:
            own = len(action.client_order_id) == 32 and action.client_order_id.startswith(f"{node.site.id:04x}")
            node.offer(core.LeaderFill(
                leader, action.instrument, action.position_side, action.exec_id, action.order_id, action.side, action.qty,
                action.px, max(action.order_qty, action.qty), action.live, own, action.cause, node.local(action.ts_event),
                action.ts_recv, b"",
            ))
        elif kind is Position:
            node.offer(core.LeaderPosition(leader, action.instrument, action.position_side, action.qty, action.leverage,
                                           action.ts_event, action.ts_recv))
        elif kind is Ask:
            self._ask(action)
        elif kind is Sync:
            if self.world.trace is not None:
                self.world.say("stream", f"leader {leader} {'in' if action.synced else 'out of'} sync: {action.reason}")
            held = [(p.instrument, p.position_side, p.qty, p.leverage) for p in action.positions]
            node.offer(core.LeaderSync(leader, action.synced, held, action.reason))
        elif kind is Equity:
            node.offer(core.LeaderEquity(leader, action.equity_e8, action.ts_event))
        elif kind is Leverage:
            node.offer(core.LeaderLeverage(leader, action.instrument, action.leverage))
        elif kind is Reconnect:
            self.renew()

    # -- questions ------------------------------------------------------------------------------------------------------
    def _ask(self, ask: Ask) -> None:
        read = (self._fills, self._fills, self._positions, self._equity, self._leverage, self._order)[ask.kind - 1]
        if self.world.trace is not None:
            self.world.say("stream", f"asks {ask.kind.name} {ask.instrument} from {ask.from_id}")
        self.node.call(read, (ask,), partial(self._answered, ask.id), partial(self._failed, ask.id))

    def _answered(self, ask: int, rows: list[Any]) -> None:
        self.node.crashpoint("leader_answer")
        if self.account.changed > self.read_at:
            self.node.draws.count("L09")
        self.read_at = 1 << 62
        now = self.node.clock.now_ns()
        for row in rows:
            if type(row) is not OrderFacts:
                row_recv = now
                if hasattr(row, "ts_recv"):
                    row.ts_recv = row_recv
        self._do(self.stream.answer(now, ask, rows))

    def _failed(self, ask: int, status: int) -> None:
        self._do(self.stream.failed(self.node.clock.now_ns(), ask))

    def _lagged(self) -> int:
        return self.venue._lag("L08")

    def _fills(self, ask: Ask) -> list[Any]:
        t = self._lagged()
        trades = [trade for trade in self.account.trades if trade.instrument == ask.instrument and trade.t <= t and trade.id]
        if ask.kind is AskKind.NEWEST:
            trades = trades[-1:]
        else:
            trades = [trade for trade in trades if trade.id >= ask.from_id][: ask.limit or None]
        return [_execution(trade, False, 0) for trade in trades]

    def _positions(self, ask: Ask) -> list[Any]:
        t = self._lagged()
        self.read_at = self.world.now
        account = self.account
        found = []
        for (instrument, side), log in account.log.items():
            at, qty = next((at, qty) for at, qty in reversed(log) if at <= t)
            found.append(Position(instrument, side, qty, at, 0, "snapshot", account.leverage[instrument]))
        return found

    def _equity(self, ask: Ask) -> list[Any]:
        return [Equity(self.account.wallet, self.account.wallet, self.account.wallet, self.world.now)]

    def _leverage(self, ask: Ask) -> list[Any]:
        return [Leverage(ask.instrument, self.account.leverage[ask.instrument], self.world.now)]

    def _order(self, ask: Ask) -> list[Any]:
        for trade in self.account.trades:
            if trade.order_id == ask.order_id:
                return [OrderFacts(trade.order_id, trade.cid.hex(), trade.order_qty)]
        return []


def _execution(trade: Trade, live: bool, now: int) -> Execution:
    return Execution(
        trade.instrument, trade.position_side, trade.id, trade.order_id, 1 if trade.qty > 0 else -1, abs(trade.qty), trade.px,
        trade.order_qty if live else 0, trade.cum if live else 0, trade.kind == "reduce" and live, False, False, live,
        trade.cid.hex() if live else "", "trade", trade.t, now, b"",
    )
