"""The pump: the one loop of copyd. Receive, step, journal, send after commit, acknowledge.

Whatever happens becomes an input of the engine here and nowhere else. What the engine wants sent waits in the gate until
the journal says that the record naming it is durable (semantics 33). Rendering and signing run while the commit runs.

A leader's execution with many followers is announced first: a small record from which all that is decided follows. Its
orders are rendered while the rest is still decided, and leave as soon as that record is durable; the record that names
them is written behind them.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from copyd.core.engine import (
    AccountSnapshots,
    Announced,
    Command,
    Engine,
    ExternalFill,
    LeaderFill,
    OrphanFill,
    Outputs,
    Quotes,
    Ready,
    Reports,
    Timer,
)
from copyd.errors import BrokenInvariant
from copyd.runtime.clock import Clock

CHUNK_FIRST = 16
CHUNK_GROWTH = 8
CHUNK_SHUT = 512
"""Orders decided at a time while the gate is shut: it is looked at in between."""
CHUNKS_END, ALL = 1_024, 1 << 31
"""When so many have left, the rest is decided in one piece."""
ANNOUNCE_LEGS = 256
"""An execution that fewer legs follow is decided faster than a record of its own is written."""


MARKET_FIRST = (LeaderFill, Reports, Timer, ExternalFill, OrphanFill, AccountSnapshots, Command)
"""Inputs that are decided by the market, or valued at it."""


class Journal(Protocol):
    """What the pump needs of the journal."""

    @property
    def durable_seq(self) -> int: ...

    def append(self, kind: int, ts_ns: int, parts: Sequence[bytes]) -> int: ...


class Gateway(Protocol):
    """What the pump needs of the order path: bytes for slots, and bytes to the wire.

    ``chunk_max``: orders rendered and sent at a time, once the first ones are out.
    """

    @property
    def chunk_max(self) -> int: ...

    def arrange(self, slots: array, turn: int) -> array:
        """The rows as they are best sent; ``turn`` changes from record to record."""
        ...

    def render(self, slots: array) -> list[Any]:
        """Sign and frame the orders of these rows; nothing leaves."""
        ...

    def send(self, rendered: list[Any]) -> None:
        """Hand to the kernel what ``render`` made; only after the commit."""
        ...


class Sent:
    """Times of one fan-out, ns by the wall clock: received, decided, durable, first and last order handed to the kernel."""

    __slots__ = ("decided", "durable", "exec_id", "first", "last", "orders", "received", "seq")

    def __init__(self, seq: int, exec_id: int, received: int, decided: int, orders: int) -> None:
        self.seq, self.exec_id, self.received, self.decided, self.orders = seq, exec_id, received, decided, orders
        self.durable = self.first = self.last = 0


class Waiting:
    """Orders on their way through the gate, which record ``seq`` opens."""

    __slots__ = ("at", "chunk", "rendered", "seq", "slots", "times")

    def __init__(self, seq: int, slots: array, times: Sent) -> None:
        self.seq, self.slots, self.times = seq, slots, times
        self.at = 0
        self.chunk = CHUNK_FIRST
        self.rendered: list[list[Any]] = []


class Pump:
    """Owns the order of things; knows neither venue nor file format.

    ``on_outputs(outputs)`` hears of every step that was journaled (alerts, queries, counters), ``on_sent(times)`` of
    every fan-out that has left. A leader's execution that ``announce_legs`` follow is announced before it is decided.
    """

    def __init__(
        self, engine: Engine, journal: Journal, gateway: Gateway, clock: Clock, kind_of: Callable[[Any], int],
        on_outputs: Callable[[Outputs], None], on_sent: Callable[[Sent], None], announce_legs: int = ANNOUNCE_LEGS,
    ) -> None:
        self.engine = engine
        self.journal = journal
        self.gateway = gateway
        self.clock = clock
        self.kind_of = kind_of
        self.on_outputs = on_outputs
        self.on_sent = on_sent
        self.announce_legs = announce_legs
        self.gate: deque[Waiting] = deque()
        self.stopped = False
        self._market: dict[int, tuple[int, int, int, int, int]] = {}
        self._market_changed: set[int] = set()

    def quote(self, instrument: int, bid: int, ask: int, mark: int, ts: int) -> None:
        """The market moved. It becomes an input when a decision is about to read it, not before."""
        self._market[instrument] = (instrument, bid, ask, mark, ts)
        self._market_changed.add(instrument)

    def offer(self, value: Any) -> Outputs | None:
        """One input, all the way. Returns what was decided, None when the input changed nothing."""
        if self.stopped:
            return None
        now = self.clock.now_ns()                                           # 0. time enters here, once, as data
        market = None
        if self._market_changed and isinstance(value, MARKET_FIRST):
            market = self._step_market(now)                                 #    with the market it will be read beside
        if self.engine.announces(value, self.announce_legs):
            return self._offer_announced(now, value, market)
        try:
            outputs = self.engine.step(now, value)                          # 1. the stations, synchronous
        finally:
            if market is not None:                                          # 2. written, not yet durable: both records at
                self._append(now, market)                                   #    once, or the second waits for the first's sync
        if outputs is None:
            return None
        seq = self._append(now, outputs)
        if outputs.orders:
            waiting = self._wait(seq, now, value)
            waiting.slots = self.gateway.arrange(array("I", outputs.orders), seq)
            waiting.times.orders = len(waiting.slots)
        self.on_outputs(outputs)
        if outputs.orders:
            self._work()                                                    # 3. sign while the commit runs
        return outputs

    def _offer_announced(self, now: int, value: LeaderFill, market: Outputs | None) -> Outputs:
        """The same, with the gate at the announcement: what is decided first leaves while the rest is decided."""
        if market is not None:
            self._append(now, market)
        waiting = self._wait(self._append(now, self._stepped(now, Announced(value))), now, value)
        outputs = self._stepped(now, value, partial(self._take, waiting))
        self._append(now, outputs)
        if outputs.orders:
            if not waiting.times.orders:                                    # reductions go in an order of their own
                waiting.slots = array("I", outputs.orders)
                waiting.times.orders = len(waiting.slots)
            waiting.slots = self.gateway.arrange(waiting.slots, waiting.seq)
        elif not self.stopped:
            self.gate.remove(waiting)
        self.on_outputs(outputs)
        self._work()
        return outputs

    def take_up(self) -> Outputs | None:
        """Decide what a journal ends with the announcement of. Nothing is sent: what had left before is not known."""
        if self.engine.announced is None:
            return None
        at, fill = self.engine.announced
        outputs = self._stepped(at, fill)
        self._append(at, outputs)                                           # decided then, whenever it is written
        self.on_outputs(outputs)
        return outputs

    def _stepped(self, now: int, value: Any, ready: Ready | None = None) -> Outputs:
        outputs = self.engine.step(now, value, ready)
        if outputs is None:
            raise BrokenInvariant(f"{type(value).__name__} was to change something and does not")
        return outputs

    def _wait(self, seq: int, now: int, value: Any) -> Waiting:
        fill = value if isinstance(value, LeaderFill) else None
        received, exec_id = (fill.ts_recv, fill.exec_id) if fill is not None else (now, 0)
        waiting = Waiting(seq, array("I"), Sent(seq, exec_id, received, now, 0))
        self.gate.append(waiting)
        return waiting

    def _take(self, waiting: Waiting, orders: bytes) -> int:
        """Some orders are whole while others are decided. The first few are signed at once; all leave as soon as they may, in
        growing groups, the last of which is large: many small writes keep the other side and this one busy. How many to wait
        for next."""
        slots = array("I", orders)
        if waiting.times.orders:
            waiting.slots.extend(slots)
        else:
            waiting.rendered.append(self.gateway.render(self.gateway.arrange(slots, waiting.seq)))
            waiting.chunk = self.gateway.chunk_max
        waiting.times.orders += len(slots)
        if not self._is_open(waiting):
            os.sched_yield()                                                # the kernel's part of the commit may wait for this
            return CHUNK_SHUT                                               # processor, and is not let in before it is asked
        waiting.slots = self.gateway.arrange(waiting.slots, waiting.seq)
        self._send(waiting)
        waiting.slots, waiting.at = array("I"), 0
        return waiting.times.orders * CHUNK_GROWTH if waiting.times.orders < CHUNKS_END else ALL

    def _is_open(self, waiting: Waiting) -> bool:
        while not self.stopped and self.gate[0] is not waiting and self.journal.durable_seq >= self.gate[0].seq:
            self._open()
        return not self.stopped and self.gate[0] is waiting and self.journal.durable_seq >= waiting.seq

    def durable(self, seq: int) -> None:
        """The journal's word that every record up to ``seq`` is on disk: the gate opens."""
        self._work()                                                        # 4. send what waited for it

    def _step_market(self, now: int) -> Outputs:
        quotes = Quotes([self._market[index] for index in sorted(self._market_changed)])
        self._market_changed.clear()
        outputs = self.engine.step(now, quotes)
        assert outputs is not None
        return outputs

    def _append(self, now: int, outputs: Outputs) -> int:
        seq = self.journal.append(self.kind_of(outputs.input), now, outputs.payload())
        if seq != outputs.seq:
            raise BrokenInvariant(f"the engine is at record {outputs.seq}, the journal at {seq}")
        return seq

    def _work(self) -> None:
        """Render ahead while the gate is shut, send whatever may go, in order, in growing chunks."""
        while self.gate and not self.stopped:
            waiting = self.gate[0]
            if self.journal.durable_seq >= waiting.seq:
                self._open()
            elif waiting.at < len(waiting.slots):
                waiting.rendered.append(self._render_chunk(waiting))
            else:
                return

    def _open(self) -> None:
        """Send what is first in the gate."""
        waiting = self.gate[0]
        self._send(waiting)
        if not self.stopped:
            self.gate.popleft()
            self.on_sent(waiting.times)                                     # 5. acknowledged

    def _render_chunk(self, waiting: Waiting) -> list[Any]:
        end = min(len(waiting.slots), waiting.at + waiting.chunk)
        rendered = self.gateway.render(waiting.slots[waiting.at : end])
        waiting.at = end
        waiting.chunk = min(waiting.chunk * CHUNK_GROWTH, self.gateway.chunk_max)
        return rendered

    def _send(self, waiting: Waiting) -> None:
        times = waiting.times
        times.durable = times.durable or self.clock.now_ns()
        for rendered in waiting.rendered:
            self.gateway.send(rendered)
            times.first = times.first or self.clock.now_ns()
        waiting.rendered.clear()
        while waiting.at < len(waiting.slots) and not self.stopped:
            self.gateway.send(self._render_chunk(waiting))
            times.first = times.first or self.clock.now_ns()
        times.last = self.clock.now_ns()

    def stop(self) -> None:
        """Nothing leaves any more: a failed commit, or a broken invariant. The process ends after this."""
        self.stopped = True
        self.gate.clear()
