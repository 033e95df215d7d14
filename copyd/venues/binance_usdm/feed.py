"""The leader's user stream and the market streams, as ordered facts (semantics 10-12, 16).

What is to be believed about a leader, and in which order, is decided by ``copyd.core.leader_stream``; here are the
connection, the listen key, the timers and the questions to the venue that it asks for.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from copyd.core import leader_stream as ls
from copyd.core.leader_stream import Action, Ask, AskKind, Execution, LeaderStream, Terms
from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.codec import Unlisted
from copyd.venues.binance_usdm.contract import Endpoints
from copyd.venues.binance_usdm.errors import LISTEN_KEY_UNKNOWN
from copyd.venues.binance_usdm.rest import RestClient, RestError
from copyd.venues.common import facts
from copyd.venues.common.connection import Link, Session, watched
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import (
    MS_NS,
    LeaderEquity,
    LeaderEvent,
    LeaderLeverage,
    LeaderMarginCall,
    LeaderPosition,
    LeaderSync,
    LeaderWallet,
    Malformed,
    Mark,
    Quote,
    money_e8,
)
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.signing import Key

NO_SUCH_ORDER = -2013


class FeedStats(msgspec.Struct):
    frames: int = 0
    fills: int = 0
    duplicates: int = 0
    reordered: int = 0
    backfilled: int = 0
    unlisted: int = 0
    foreign_symbols: int = 0
    malformed: int = 0
    reconnects: int = 0
    syncs: int = 0
    poll_errors: int = 0
    last_malformed: str = ""


class LeaderFeed:
    """One leader's account. Every fact goes to ``on_event`` in the order it is to be believed."""

    def __init__(
        self,
        *,
        leader: int,
        key: Key,
        rest: RestClient,
        endpoints: Endpoints,
        instruments: Instruments,
        contract: VenueContract,
        clock: Callable[[], int],
        on_event: Callable[[LeaderEvent], None],
        equity_poll_s: float = 5.0,
        position_poll_s: float = 10.0,
        seed: int = 0,
    ) -> None:
        self.leader, self.key, self.rest, self.endpoints = leader, key, rest, endpoints
        self.instruments, self.contract, self.clock, self.on_event = instruments, contract, clock, on_event
        self._executions = codec.executions(instruments)
        terms = Terms(
            position_poll_ns=int(position_poll_s * 1e9), equity_poll_ns=int(equity_poll_s * 1e9),
            disagree_ns=contract.read_lag_ms * MS_NS, page_max=contract.backfill_page_max,
        )  # fmt: skip
        self.stream = LeaderStream([instrument.index for instrument in instruments], terms)
        self._stats = FeedStats()
        self._listen_key = ""
        self._generations: dict[Session, int] = {}
        self._opened = 0
        self._handing_on = False
        self._queue: deque[Action] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = ls.NEVER
        self._first_sync = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._questions: set[asyncio.Task[None]] = set()
        self._link = Link(
            f"leader-{leader}",
            self._url,
            on_frame=self._on_frame,
            on_open=self._on_open,
            on_lost=self._on_lost,
            on_oversized=lambda session: self._do(self.stream.oversized(self.clock())),
            rng=random.Random(seed),
            life_s=contract.connection_life_ms / 1000,
            frame_bytes_max=contract.frame_bytes_max,
            ping_idle_s=20.0,
        )

    @property
    def synced(self) -> bool:
        """A snapshot and every execution up to it were handed on, and the stream runs."""
        return self.stream.synced

    @property
    def stats(self) -> FeedStats:
        """What was counted here and by the stream."""
        stats, counted = self._stats, self.stream.counters
        stats.fills, stats.backfilled = counted.executions, counted.backfilled
        stats.duplicates, stats.reordered, stats.syncs = counted.duplicates, counted.reordered, counted.syncs
        return stats

    # --- life ---------------------------------------------------------------------------------------------------------
    async def start(
        self,
        watermarks: Mapping[int, int] | None = None,
        timeout_s: float = 10.0,
        *,
        seen: Sequence[tuple[int, int]] = (),
        positions: Mapping[tuple[int, int], int] | None = None,
    ) -> None:
        """Connect and sync. ``watermarks``: execution id per instrument behind which back-fill begins; ``seen``: (instrument,
        execution id) handed on beyond it; ``positions``: the fold they led to, by (instrument, position side)."""
        self.stream.resume(dict(watermarks or {}), seen, None if positions is None else dict(positions))
        loop = asyncio.get_running_loop()
        self._link.start()
        try:
            async with asyncio.timeout(timeout_s):
                await self._read_mode()
                await self._first_sync.wait()
        except TimeoutError:
            problem = self._link.last_error or self._stats.last_malformed or "no snapshot"
            await self.stop()
            raise VenueUnavailable(f"leader {self.leader} did not sync in {timeout_s:g} s: {problem}") from None
        self._tasks = [watched(loop.create_task(self._keep_alive(), name=f"leader-{self.leader}-listen-key"))]

    async def stop(self) -> None:
        """Nothing is handed on any more."""
        self.stream.stop()
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._tasks, *self._questions]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.stop()

    def request_sync(self, reason: str) -> None:
        """The fold and the venue disagree: hold openings, read positions and executions again."""
        self._do(self.stream.request_sync(self.clock(), reason))

    # --- connection ---------------------------------------------------------------------------------------------------
    async def _url(self) -> str:
        body = await self.rest.call("POST", "/fapi/v1/listenKey", key=self.key, signed=False)
        self._listen_key = facts.decode_body(body, codec.ListenKey).listenKey
        return f"{self.endpoints.private}/ws/{self._listen_key}"

    def _on_open(self, session: Session) -> None:
        if self._link.connects > 1:
            self._stats.reconnects += 1
        self._opened += 1
        self._generations[session] = self._opened
        self._do(self.stream.opened(self.clock(), self._opened, bool(self._link.old)))

    def _on_lost(self, session: Session) -> None:
        generation = self._generations.pop(session, 0)
        self._do(self.stream.lost(self.clock(), generation, session.reason))

    # --- stream -------------------------------------------------------------------------------------------------------
    def _on_frame(self, session: Session, payload: bytes) -> None:
        ts_recv = self.clock()
        self._stats.frames += 1
        generation = self._generations.get(session, 0)
        stream = self.stream
        told = self._executions.execution(payload, ts_recv)
        if told is not None:
            self._do(stream.event(ts_recv, generation, told))
            return
        event = codec.decode_user(payload)
        if isinstance(event, codec.OrderTradeUpdate):
            instrument = self.instruments.find(event.o.s)
            if instrument is None:
                self._stats.foreign_symbols += event.o.x == "TRADE"
            elif event.o.x == "NEW":
                self._do(stream.event(ts_recv, generation, ls.OrderNew(instrument.index, event.o.i)))
            else:
                try:
                    execution = codec.execution(event, self.instruments, ts_recv, payload)
                except (ValueError, KeyError) as problem:
                    self._unreadable(ts_recv, f"order update: {problem}")
                else:
                    if execution is not None:
                        self._do(stream.event(ts_recv, generation, execution))
        elif isinstance(event, codec.AccountUpdate):
            try:
                told = self._account_update(event, ts_recv, payload)
            except (ValueError, KeyError) as problem:
                self._unreadable(ts_recv, f"account update: {problem}")
            else:
                for fact in told:
                    self._do(stream.event(ts_recv, generation, fact))
        elif isinstance(event, codec.AccountConfigUpdate):
            if event.ac is not None and (instrument := self.instruments.find(event.ac.s)) is not None:
                ts_event = (event.T or event.E) * MS_NS
                fact = ls.Leverage(instrument.index, event.ac.l, ts_event, ts_recv, payload)
                self._do(stream.event(ts_recv, generation, fact))
        elif isinstance(event, codec.MarginCall):
            self._do(stream.event(ts_recv, generation, ls.MarginCall(event.E * MS_NS, ts_recv, payload)))
        elif isinstance(event, codec.ListenKeyExpired):
            self._do(stream.event(ts_recv, generation, ls.Expired()))
        elif isinstance(event, Malformed):
            self._unreadable(ts_recv, event.why)
        elif isinstance(event, Unlisted):
            self._stats.unlisted += 1
        # TRADE_LITE names no position side; the ORDER_TRADE_UPDATE with the same id follows and decides (semantics 11).

    def _unreadable(self, now: int, why: str) -> None:
        """What it said is lost, and it may have been a close: positions and executions are read again."""
        self._stats.malformed += 1
        self._stats.last_malformed = why
        self._do(self.stream.unreadable(now, ""))

    def _account_update(self, event: codec.AccountUpdate, ts_recv: int, payload: bytes) -> list[Any]:
        ts_event = event.T * MS_NS
        told: list[Any] = [
            ls.Wallet(wallet.a, money_e8(wallet.wb), money_e8(wallet.bc), event.a.m, ts_event, ts_recv, payload)
            for wallet in event.a.B
        ]
        for row in event.a.P:
            instrument = self.instruments.find(row.s)
            if instrument is None:
                self._stats.foreign_symbols += 1
                continue
            told.append(
                ls.Position(
                    instrument.index, codec.POSITION_SIDE[row.ps], instrument.lots(row.pa), ts_event, ts_recv, "push", 0,
                    row.mt == "isolated", payload,
                )
            )  # fmt: skip
        return told

    # --- what the stream wants done -------------------------------------------------------------------------------------
    def _do(self, actions: Sequence[Action]) -> None:
        """One after the other; what an event brings about while it is handed on comes behind what is already due."""
        if self._handing_on:
            self._queue.extend(actions)
            return
        self._handing_on = True
        try:
            for action in actions:
                self._act(action)
            while self._queue:
                self._act(self._queue.popleft())
        finally:
            self._handing_on = False
        due = self.stream.next_due()
        if due is not None and due < self._timer_ns:
            self._set_timer(due)

    def _set_timer(self, due: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = due
        delay = max(0, due - self.clock()) / 1e9
        self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_ns = None, ls.NEVER
        self._do(self.stream.tick(self.clock()))

    def _act(self, action: Action) -> None:
        leader = self.leader
        if isinstance(action, Execution):
            self.on_event(facts.leader_fill_of(action, leader))
        elif isinstance(action, ls.Position):
            self.on_event(self._position(action))
        elif isinstance(action, Ask):
            task = watched(asyncio.get_running_loop().create_task(self._answer(action), name=f"leader-{leader}-ask"))
            self._questions.add(task)
            task.add_done_callback(self._questions.discard)
        elif isinstance(action, ls.Sync):
            positions = tuple(self._position(row) for row in action.positions)
            self.on_event(LeaderSync(leader, action.synced, action.reason, positions, action.ts_recv))
            if action.synced:
                self._first_sync.set()
        elif isinstance(action, ls.Equity):
            self.on_event(
                LeaderEquity(leader, action.equity_e8, action.wallet_e8, action.available_e8, action.ts_event, action.ts_recv))
        elif isinstance(action, ls.Leverage):
            self.on_event(
                LeaderLeverage(leader, action.instrument, action.leverage, action.ts_event, action.ts_recv, action.raw))
        elif isinstance(action, ls.Wallet):
            self.on_event(
                LeaderWallet(leader, action.asset, action.wallet_e8, action.change_e8, action.cause, action.ts_event,
                             action.ts_recv, action.raw))  # fmt: skip
        elif isinstance(action, ls.MarginCall):
            self.on_event(LeaderMarginCall(leader, action.ts_event, action.ts_recv, action.raw))
        else:
            self._link.renew()

    def _position(self, row: ls.Position) -> LeaderPosition:
        return LeaderPosition(
            self.leader, row.instrument, row.position_side, row.qty, row.source, row.leverage, row.isolated, row.ts_event,
            row.ts_recv, row.raw,
        )  # fmt: skip

    # --- questions ------------------------------------------------------------------------------------------------------
    async def _answer(self, ask: Ask) -> None:
        try:
            rows = await self._read(ask)
        except (VenueUnavailable, RestError, ValueError, KeyError) as problem:
            self._stats.poll_errors += 1
            self._stats.last_malformed = str(problem)[:200]
            self._do(self.stream.failed(self.clock(), ask.id))
        else:
            self._do(self.stream.answer(self.clock(), ask.id, rows))

    async def _read(self, ask: Ask) -> Sequence[Any]:
        kind = ask.kind
        if kind == AskKind.POSITIONS:
            return await self._read_positions()
        if kind == AskKind.EQUITY:
            return [await self._read_equity()]
        symbol = self.instruments[ask.instrument].symbol
        if kind == AskKind.FILLS:
            body = await self._get("/fapi/v1/userTrades", symbol=symbol, fromId=ask.from_id, limit=ask.limit)
        elif kind == AskKind.NEWEST:
            body = await self._get("/fapi/v1/userTrades", symbol=symbol, limit=1)
        elif kind == AskKind.LEVERAGE:
            return await self._read_leverage(ask.instrument)
        else:
            return await self._read_order(ask)
        now = self.clock()
        found = [codec.listed(trade, self.instruments, now) for trade in codec.trades(body)]
        # Every row counts for the size of the page: one of another symbol would be an answer to another question.
        if any(row is None or row.instrument != ask.instrument for row in found):
            raise ValueError(f"userTrades of {symbol} lists another symbol")
        return found

    async def _read_positions(self) -> list[ls.Position]:
        body = await self._get("/fapi/v3/positionRisk")
        ts_recv = self.clock()
        held = []
        for row in codec.positions(body):
            instrument = self.instruments.find(row.symbol)
            if instrument is None:
                continue
            isolated = row.isolated if row.isolated is not None else row.marginType == "isolated"
            held.append(
                ls.Position(
                    instrument.index, codec.POSITION_SIDE[row.positionSide], instrument.lots(row.positionAmt),
                    row.updateTime * MS_NS, ts_recv, "snapshot", int(row.leverage), isolated,
                )
            )  # fmt: skip
        return held

    async def _read_order(self, ask: Ask) -> list[ls.OrderFacts]:
        instrument = self.instruments[ask.instrument]
        try:
            body = await self._get("/fapi/v1/order", symbol=instrument.symbol, orderId=ask.order_id)
        except RestError as problem:
            if problem.code == NO_SUCH_ORDER:
                return []
            raise
        row = facts.decode_body(body, codec.OrderRow)
        cause = codec.cause_of(row.clientOrderId, row.type)
        return [ls.OrderFacts(ask.order_id, row.clientOrderId, instrument.lots(row.origQty), row.reduceOnly, cause)]

    async def _read_leverage(self, index: int) -> list[ls.Leverage]:
        symbol = self.instruments[index].symbol
        body = await self._get("/fapi/v1/symbolConfig", symbol=symbol)
        ts_recv = self.clock()
        rows = facts.decode_body(body, list[codec.SymbolConfig])
        return [ls.Leverage(index, row.leverage, ts_recv, ts_recv) for row in rows if row.symbol == symbol]

    async def _read_equity(self) -> ls.Equity:
        asked = self.clock()  # what is paid in or taken out later is not in the answer, or only perhaps
        body = await self._get("/fapi/v3/account")
        ts_recv = self.clock()
        account = facts.decode_body(body, codec.Account)
        return ls.Equity(
            money_e8(account.totalMarginBalance),
            money_e8(account.totalWalletBalance),
            money_e8(account.availableBalance),
            asked + self.rest.venue_clock.offset_ns,
            ts_recv,
        )

    async def _read_mode(self) -> None:
        """A fill without a position side never decides on a hedge-mode leader (semantics 11): which mode it is."""
        try:
            config = facts.decode_body(await self._get("/fapi/v1/accountConfig"), codec.AccountConfig)
        except (VenueUnavailable, RestError, ValueError):
            self._stats.poll_errors += 1  # then it is learned from what he holds
        else:
            self.stream.mode(config.dualSidePosition)

    async def _get(self, path: str, **params: object) -> bytes:
        return await self.rest.call("GET", path, params, self.key)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self.contract.listen_key_keepalive_ms / 1000)
            try:
                await self.rest.call("PUT", "/fapi/v1/listenKey", {"listenKey": self._listen_key}, self.key, signed=False)
            except RestError as problem:
                self._stats.poll_errors += 1
                if problem.code == LISTEN_KEY_UNKNOWN:
                    self._do(self.stream.event(self.clock(), 0, ls.Expired("listen key unknown")))
            except VenueUnavailable:
                self._stats.poll_errors += 1


class MarketFeed:
    """Best bid/ask and mark price of every instrument, the latest per socket read."""

    def __init__(
        self,
        *,
        instruments: Instruments,
        endpoints: Endpoints,
        contract: VenueContract,
        clock: Callable[[], int],
        on_quotes: Callable[[list[Quote]], None],
        on_marks: Callable[[list[Mark]], None],
        seed: int = 0,
    ) -> None:
        self.instruments, self.contract, self.clock = instruments, contract, clock
        self.on_quotes, self.on_marks = on_quotes, on_marks
        self.stats = FeedStats()
        self.quote_ns = {instrument.index: 0 for instrument in instruments}
        self.mark_ns = {instrument.index: 0 for instrument in instruments}
        self._quotes: dict[int, Quote] = {}
        self._marks: dict[int, Mark] = {}
        self._updates: dict[int, int] = {}  # last order book update id per instrument: an older one never replaces it
        self._due = False
        self._changed = asyncio.Event()
        names = [instrument.symbol.lower() for instrument in instruments]
        rng = random.Random(seed)
        self._links = [
            self._make("quotes", f"{endpoints.public}/stream?streams=" + "/".join(f"{n}@bookTicker" for n in names), rng),
            self._make("marks", f"{endpoints.market}/stream?streams=" + "/".join(f"{n}@markPrice@1s" for n in names), rng),
        ]

    def _make(self, name: str, url: str, rng: random.Random) -> Link:
        async def address() -> str:
            return url

        def opened(session: Session) -> None:
            self._updates.clear()  # a restarted venue may count anew
            if session.link.connects > 1:
                self.stats.reconnects += 1

        return Link(
            name,
            address,
            on_frame=self._on_frame,
            on_open=opened,
            on_lost=lambda session: None,
            rng=random.Random(rng.random()),
            life_s=self.contract.connection_life_ms / 1000,
            frame_bytes_max=self.contract.frame_bytes_max,
            ping_idle_s=20.0,
        )

    async def start(self, timeout_s: float = 10.0) -> None:
        """Connect; returns when every instrument has a quote and a mark, raises when one has not in time."""
        for link in self._links:
            link.start()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not (all(self.quote_ns.values()) and all(self.mark_ns.values())):
            left = deadline - loop.time()
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(left, 0))
            except TimeoutError:
                lacking = [i.symbol for i in self.instruments if not (self.quote_ns[i.index] and self.mark_ns[i.index])]
                problem = next((link.last_error for link in self._links if link.last_error), "streams are silent")
                await self.stop()
                raise VenueUnavailable(f"no quote or mark for {', '.join(lacking)} in {timeout_s:g} s: {problem}") from None

    async def stop(self) -> None:
        await asyncio.gather(*(link.stop() for link in self._links))

    def age_ns(self, instrument: int) -> int:
        """How long ago the last best bid/ask of an instrument was received."""
        return self.clock() - self.quote_ns[instrument]

    def _on_frame(self, session: Session, payload: bytes) -> None:
        self.stats.frames += 1
        event = codec.decode_market(payload)
        if isinstance(event, Unlisted):
            self.stats.unlisted += 1
            return
        if isinstance(event, Malformed):
            self.stats.malformed += 1
            self.stats.last_malformed = event.why
            return
        data = event.data
        instrument = self.instruments.find(data.s)
        if instrument is None:
            self.stats.foreign_symbols += 1
            return
        ts_recv = self.clock()
        index = instrument.index
        try:
            if isinstance(data, codec.BookTicker):
                if data.u and data.u < self._updates.get(index, 0):
                    self.stats.duplicates += 1
                    return
                quote = Quote(
                    index,
                    instrument.ticks(data.b),
                    instrument.lots(data.B),
                    instrument.ticks(data.a),
                    instrument.lots(data.A),
                    (data.T or data.E) * MS_NS,
                    ts_recv,
                )
                self._updates[index] = data.u
                self._quotes[index] = quote
                self.quote_ns[index] = ts_recv
            else:
                funding = facts.parse_ppm(data.r) if data.r else 0
                self._marks[index] = Mark(index, instrument.ticks_nearest(data.p), funding, data.E * MS_NS, ts_recv)
                self.mark_ns[index] = ts_recv
        except ValueError as problem:
            self.stats.malformed += 1
            self.stats.last_malformed = str(problem)
            return
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        quotes, self._quotes = self._quotes, {}
        marks, self._marks = self._marks, {}
        self._changed.set()
        if quotes:
            self.on_quotes(list(quotes.values()))
        if marks:
            self.on_marks(list(marks.values()))
