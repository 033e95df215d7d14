"""The leader's user stream and the market streams, as ordered facts (semantics 10-12, 16).

A leader is *synced* when a snapshot and every execution up to it have been handed on and the stream runs. To get there:
subscribe and buffer, read executions past the last known id, read positions, read executions again; only when the second
read finds nothing new do positions and executions describe the same moment. Then: back-filled executions, the snapshot,
and what the buffer holds beyond. An execution that also came over the stream keeps ``live``; the others are back-fill.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.codec import (
    LeaderEquity,
    LeaderEvent,
    LeaderFill,
    LeaderLeverage,
    LeaderMarginCall,
    LeaderPosition,
    LeaderSync,
    LeaderWallet,
    Malformed,
    Mark,
    Quote,
    Unlisted,
    money_e8,
)
from copyd.venues.binance_usdm.connection import Link, Session, watched
from copyd.venues.binance_usdm.contract import MS_NS, Endpoints, VenueContract
from copyd.venues.binance_usdm.errors import LISTEN_KEY_UNKNOWN
from copyd.venues.binance_usdm.instruments import Instruments
from copyd.venues.binance_usdm.rest import RestClient, RestError
from copyd.venues.binance_usdm.signing import Key

BUFFER_MAX = 100_000
SEEN_MAX = 20_000
#: A poll that met a fill on its way is not evidence: wait this long for the stream to catch up before handing it on.
POLL_SETTLE_S = 0.25
#: An execution whose predecessor of the same order has not come waits this long for it, then positions are read anew.
REORDER_S = 0.2
ORDERS_MAX = 10_000


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
        self.equity_poll_s, self.position_poll_s = equity_poll_s, position_poll_s
        self.stats = FeedStats()
        self.synced = False
        #: Last execution id known per instrument; everything up to it has been handed on (or lies before our time).
        self.floor: dict[int, int] = {}
        self._listen_key = ""
        self._seen: dict[tuple[int, int], None] = {}
        self._held: set[tuple[int, int]] = set()  # (instrument, side) that the venue last said is not flat
        self._buffer: deque[tuple[codec.UserEvent, int, bytes]] = deque(maxlen=BUFFER_MAX)
        self._buffering = True
        #: Cumulative quantity per order, from its NEW on: a step that is not the execution's own size means one is missing.
        self._cums: dict[int, int] = {}
        self._early: list[tuple[codec.UserEvent, int, bytes]] = []
        self._early_timer: asyncio.TimerHandle | None = None
        self._fills_seen = 0
        self._handing_on = False
        self._sync_again = ""
        self._first_sync = asyncio.Event()
        self._sync_task: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._link = Link(
            f"leader-{leader}",
            self._url,
            on_frame=self._on_frame,
            on_open=self._on_open,
            on_lost=self._on_lost,
            rng=random.Random(seed),
            life_s=contract.connection_life_ms / 1000,
            frame_bytes_max=contract.frame_bytes_max,
            ping_idle_s=20.0,
        )

    # --- life ---------------------------------------------------------------------------------------------------------
    async def start(self, watermarks: Mapping[int, int] | None = None, timeout_s: float = 10.0) -> None:
        """Connect and sync. ``watermarks``: last execution id per instrument; back-fill begins behind it."""
        self.floor = dict(watermarks or {})
        loop = asyncio.get_running_loop()
        self._link.start()
        try:
            await asyncio.wait_for(self._first_sync.wait(), timeout_s)
        except TimeoutError:
            problem = self._link.last_error or self.stats.last_malformed or "no snapshot"
            await self.stop()
            raise VenueUnavailable(f"leader {self.leader} did not sync in {timeout_s:g} s: {problem}") from None
        self._tasks = [
            watched(loop.create_task(self._keep_alive(), name=f"leader-{self.leader}-listen-key")),
            watched(loop.create_task(self._poll_equity(), name=f"leader-{self.leader}-equity")),
            watched(loop.create_task(self._poll_positions(), name=f"leader-{self.leader}-positions")),
        ]

    async def stop(self) -> None:
        tasks = [*self._tasks, *([self._sync_task] if self._sync_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.stop()

    def request_sync(self, reason: str) -> None:
        """The fold and the venue disagree: hold openings, read positions and executions again."""
        self._begin_sync(reason)

    # --- connection ---------------------------------------------------------------------------------------------------
    async def _url(self) -> str:
        body = await self.rest.call("POST", "/fapi/v1/listenKey", key=self.key, signed=False)
        self._listen_key = codec.decode_body(body, codec.ListenKey).listenKey
        return f"{self.endpoints.private}/ws/{self._listen_key}"

    def _on_open(self, session: Session) -> None:
        if self._link.connects > 1:
            self.stats.reconnects += 1
        # Made beside a living connection, nothing was missed: both bring the same events and ids drop the copies.
        if not (self.synced and self._link.old):
            self._begin_sync("connected")

    def _on_lost(self, session: Session) -> None:
        if self._link.session is None and not self._link.old:
            self._unsynced(session.reason)

    def _unsynced(self, reason: str) -> None:
        self._buffering = True
        if self._early_timer is not None:
            self._early_timer.cancel()
            self._early_timer = None
        self._buffer.extend(self._early)
        self._early.clear()
        self._cums.clear()
        if self.synced:
            self.synced = False
            self.on_event(LeaderSync(self.leader, False, reason, (), self.clock()))

    def _begin_sync(self, reason: str) -> None:
        if self._handing_on:
            # Asked for by what is being handed on: its end would declare a snapshot valid that was read before.
            self._sync_again = reason
            return
        self._unsynced(reason)
        if self._sync_task is not None and self._sync_task is not asyncio.current_task():
            self._sync_task.cancel()
        self._sync_task = watched(
            asyncio.get_running_loop().create_task(self._sync(reason), name=f"leader-{self.leader}-sync"))

    # --- stream -------------------------------------------------------------------------------------------------------
    def _on_frame(self, session: Session, payload: bytes) -> None:
        ts_recv = self.clock()
        self.stats.frames += 1
        event = codec.decode_user(payload)
        if isinstance(event, Unlisted):
            self.stats.unlisted += 1
        elif isinstance(event, Malformed):
            self._malformed(event.why)
            # What it said is unknown: it may have been a fill, so the position is in question until it is read again.
            self._begin_sync("unreadable event")
        elif isinstance(event, codec.ListenKeyExpired):
            self._unsynced("listen key expired")
            session.close("listen key expired")
        elif self._buffering:
            self._buffer.append((event, ts_recv, payload))
        else:
            self._deliver(event, ts_recv, payload)

    def _malformed(self, why: str) -> None:
        self.stats.malformed += 1
        self.stats.last_malformed = why

    def _fill(self, event: codec.OrderTradeUpdate, ts_recv: int, payload: bytes) -> LeaderFill | None:
        """The fill in the event if there is one and it is new."""
        try:
            fill = codec.leader_fill(event, self.leader, self.instruments, ts_recv, payload)
        except (ValueError, KeyError) as problem:
            # What it said is lost, and it may have been a close: the executions are read again.
            self._malformed(f"order update: {problem}")
            self._begin_sync("unreadable event")
            return None
        if fill is None:
            if event.o.x == "TRADE" and self.instruments.find(event.o.s) is None:
                self.stats.foreign_symbols += 1
            return None
        return fill

    def _known(self, fill: LeaderFill) -> bool:
        name = (fill.instrument, fill.exec_id)
        if name in self._seen:
            self.stats.duplicates += 1
            return True
        self._seen[name] = None
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        return False

    def _deliver(self, event: codec.UserEvent, ts_recv: int, payload: bytes) -> None:
        leader = self.leader
        if self._early:
            self._early.append((event, ts_recv, payload))
            self._retry_early()
        elif isinstance(event, codec.OrderTradeUpdate):
            if not self._too_early(event):
                self._take(event, ts_recv, payload)
                return
            # Everything behind it waits too: a close must not pass the open that is missing.
            self.stats.reordered += 1
            self._early.append((event, ts_recv, payload))
            loop = asyncio.get_running_loop()
            self._early_timer = loop.call_later(REORDER_S, self._begin_sync, "executions missing")
        elif isinstance(event, codec.AccountUpdate):
            ts_event = event.T * MS_NS
            try:
                for wallet in event.a.B:
                    self.on_event(
                        LeaderWallet(
                            leader,
                            wallet.a,
                            money_e8(wallet.wb),
                            money_e8(wallet.bc),
                            event.a.m,
                            ts_event,
                            ts_recv,
                            payload,
                        )
                    )
                for row in event.a.P:
                    instrument = self.instruments.find(row.s)
                    if instrument is None:
                        self.stats.foreign_symbols += 1
                        continue
                    side, qty = codec.POSITION_SIDE[row.ps], instrument.lots(row.pa)
                    self._note_held(instrument.index, side, qty)
                    self.on_event(
                        LeaderPosition(
                            leader,
                            instrument.index,
                            side,
                            qty,
                            "push",
                            0,
                            row.mt == "isolated",
                            ts_event,
                            ts_recv,
                            payload,
                        )
                    )
            except (ValueError, KeyError) as problem:
                self._malformed(f"account update: {problem}")
                self._begin_sync("unreadable event")
        elif isinstance(event, codec.AccountConfigUpdate):
            if event.ac is not None and (instrument := self.instruments.find(event.ac.s)) is not None:
                ts_event = (event.T or event.E) * MS_NS
                self.on_event(LeaderLeverage(leader, instrument.index, event.ac.l, ts_event, ts_recv, payload))
        elif isinstance(event, codec.MarginCall):
            self.on_event(LeaderMarginCall(leader, event.E * MS_NS, ts_recv, payload))
        # TRADE_LITE names no position side; the ORDER_TRADE_UPDATE with the same id follows and decides (semantics 11).

    def _take(self, event: codec.OrderTradeUpdate, ts_recv: int, payload: bytes) -> None:
        fill = self._fill(event, ts_recv, payload)
        if fill is None or self._known(fill):
            return
        self._fills_seen += 1
        self.stats.fills += 1
        self.floor[fill.instrument] = max(fill.exec_id, self.floor.get(fill.instrument, 0))
        self.on_event(fill)

    def _too_early(self, event: codec.OrderTradeUpdate) -> bool:
        """Whether an earlier execution of the same order is still missing (semantics 10). Orders known from their NEW only."""
        order = event.o
        instrument = self.instruments.find(order.s)
        if instrument is None:
            return False
        try:
            cum, last = instrument.lots(order.z), instrument.lots(order.l)
        except ValueError:
            return False  # reported where the fill is read
        if order.x == "NEW":
            self._cums.setdefault(order.i, 0)
            if len(self._cums) > ORDERS_MAX:
                del self._cums[next(iter(self._cums))]
            return False
        before = self._cums.get(order.i)
        if before is None:
            return False
        if cum - last > before:
            return True
        self._cums[order.i] = max(before, cum)
        return False

    def _retry_early(self) -> None:
        """Hand on what waited, by venue time and id, if the missing execution has come by now."""
        orders = [
            (event.T, event.o.t, at, event)
            for at, (event, _, _) in enumerate(self._early)
            if isinstance(event, codec.OrderTradeUpdate)
        ]
        waiting, taken = list(self._early), set()
        for _, _, at, event in sorted(orders, key=lambda order: order[:3]):
            if self._too_early(event):
                self._early = [held for n, held in enumerate(waiting) if n not in taken]
                return
            taken.add(at)
            self._take(event, *waiting[at][1:])
            if self._buffering:
                return  # it asked for a sync, which has taken over everything that waits here
        self._early = [held for n, held in enumerate(waiting) if n not in taken]
        if self._early_timer is not None:
            self._early_timer.cancel()
            self._early_timer = None
        others, self._early = self._early, []
        for held in others:
            self._deliver(*held)

    def _note_held(self, instrument: int, side: int, qty: int) -> None:
        if qty:
            self._held.add((instrument, side))
        else:
            self._held.discard((instrument, side))

    # --- sync ---------------------------------------------------------------------------------------------------------
    async def _sync(self, reason: str) -> None:
        pause = 0.1
        while True:
            try:
                await self._sync_once(reason)
                return
            except (VenueUnavailable, RestError, ValueError, KeyError) as problem:
                self.stats.poll_errors += 1
                self.stats.last_malformed = str(problem)[:200]
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def _sync_once(self, reason: str) -> None:
        found: list[LeaderFill] = []
        floor = dict(self.floor)
        for _ in range(20):
            found += await self._read_fills(floor)
            asked = self.clock()
            held = await self._read_positions("snapshot")
            equity = await self._read_equity()
            leverage = await self._read_leverage()
            late = await self._read_fills(floor)
            found += late
            if not late:
                break
        else:
            raise VenueUnavailable("positions and executions did not come to rest")
        self._handing_on = True
        try:
            self._hand_on(reason, asked, floor, found, held, equity, leverage)
        finally:
            self._handing_on = False
        again, self._sync_again = self._sync_again, ""
        if again:
            self._begin_sync(again)

    def _hand_on(
        self, reason: str, asked: int, floor: dict[int, int], found: list[LeaderFill], held: list[LeaderPosition],
        equity: LeaderEquity, leverage: list[LeaderLeverage],
    ) -> None:
        streamed: dict[tuple[int, int], LeaderFill] = {}
        rest: list[tuple[codec.UserEvent, int, bytes]] = []
        for event, ts_recv, payload in self._buffer:
            if isinstance(event, codec.OrderTradeUpdate):
                fill = self._fill(event, ts_recv, payload)
                if fill is None:
                    continue
                if fill.exec_id <= floor.get(fill.instrument, 0):
                    streamed[fill.instrument, fill.exec_id] = fill
                    continue
            elif ts_recv < asked:
                continue  # pushed before the snapshot was taken: the snapshot says it newer
            rest.append((event, ts_recv, payload))
        self._buffer.clear()
        # 1. executions up to the snapshot, oldest first
        for fill in sorted(found, key=lambda f: (f.ts_event, f.exec_id)):
            fill = streamed.get((fill.instrument, fill.exec_id), fill)
            if not self._known(fill):
                self.stats.backfilled += not fill.live
                self.on_event(fill)
        self.floor = floor
        # 2. the snapshot they lead to
        self._held = {(p.instrument, p.position_side) for p in held if p.qty}
        self.stats.syncs += 1
        self.synced = True
        for told in leverage:
            self.on_event(told)
        self.on_event(LeaderSync(self.leader, True, reason, tuple(held), self.clock()))
        self.on_event(equity)
        # 3. what came over the stream since
        self._buffering = False
        for event, ts_recv, payload in rest:
            self._deliver(event, ts_recv, payload)
        self._first_sync.set()

    async def _read_fills(self, floor: dict[int, int]) -> list[LeaderFill]:
        """Executions past ``floor``, which is moved to the last one read. An instrument without a floor gets its newest id."""
        found: list[LeaderFill] = []
        for instrument in self.instruments:
            if instrument.index not in floor:
                body = await self._get("/fapi/v1/userTrades", symbol=instrument.symbol, limit=1)
                floor[instrument.index] = max((trade.id for trade in codec.trades(body)), default=0)
                continue
            while True:
                page_max = self.contract.backfill_page_max
                body = await self._get(
                    "/fapi/v1/userTrades", symbol=instrument.symbol, fromId=floor[instrument.index] + 1, limit=page_max
                )
                page = [t for t in codec.trades(body) if t.id > floor[instrument.index]]
                for trade in page:
                    fill = codec.backfilled(trade, self.leader, self.instruments, self.clock())
                    if fill is not None:
                        found.append(fill)
                    floor[instrument.index] = max(floor[instrument.index], trade.id)
                if len(page) < page_max:
                    break
        return found

    async def _read_positions(self, source: str) -> list[LeaderPosition]:
        body = await self._get("/fapi/v3/positionRisk")
        ts_recv = self.clock()
        held = []
        told = set()
        for row in codec.positions(body):
            instrument = self.instruments.find(row.symbol)
            if instrument is None:
                continue
            side = codec.POSITION_SIDE[row.positionSide]
            isolated = row.isolated if row.isolated is not None else row.marginType == "isolated"
            qty = instrument.lots(row.positionAmt)
            told.add((instrument.index, side))
            held.append(
                LeaderPosition(
                    self.leader,
                    instrument.index,
                    side,
                    qty,
                    source,
                    int(row.leverage),
                    isolated,
                    row.updateTime * MS_NS,
                    ts_recv,
                )
            )
        # The venue lists only what is held: what was held before and is not listed is flat now.
        for index, side in sorted(self._held - told):
            held.append(LeaderPosition(self.leader, index, side, 0, source, 0, False, ts_recv, ts_recv))
        return held

    async def _read_leverage(self) -> list[LeaderLeverage]:
        found: list[LeaderLeverage] = []
        for instrument in self.instruments:
            body = await self._get("/fapi/v1/symbolConfig", symbol=instrument.symbol)
            ts_recv = self.clock()
            found += [
                LeaderLeverage(self.leader, instrument.index, row.leverage, ts_recv, ts_recv)
                for row in codec.decode_body(body, list[codec.SymbolConfig])
                if row.symbol == instrument.symbol
            ]
        return found

    async def _read_equity(self) -> LeaderEquity:
        body = await self._get("/fapi/v3/account")
        ts_recv = self.clock()
        account = codec.decode_body(body, codec.Account)
        return LeaderEquity(
            self.leader,
            money_e8(account.totalMarginBalance),
            money_e8(account.totalWalletBalance),
            money_e8(account.availableBalance),
            ts_recv + self.rest.venue_clock.offset_ns,
            ts_recv,
        )

    async def _get(self, path: str, **params: object) -> bytes:
        return await self.rest.call("GET", path, params, self.key)

    # --- polls --------------------------------------------------------------------------------------------------------
    async def _poll_equity(self) -> None:
        while True:
            await asyncio.sleep(self.equity_poll_s)
            try:
                self.on_event(await self._read_equity())
            except (VenueUnavailable, RestError, ValueError):
                self.stats.poll_errors += 1

    async def _poll_positions(self) -> None:
        while True:
            await asyncio.sleep(self.position_poll_s)
            if not self.synced:
                continue
            before = self._fills_seen
            try:
                held = await self._read_positions("poll")
            except (VenueUnavailable, RestError, ValueError, KeyError):
                self.stats.poll_errors += 1
                continue
            await asyncio.sleep(POLL_SETTLE_S)
            if before == self._fills_seen and self.synced:
                for position in held:
                    self._note_held(position.instrument, position.position_side, position.qty)
                    self.on_event(position)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self.contract.listen_key_keepalive_ms / 1000)
            try:
                await self.rest.call("PUT", "/fapi/v1/listenKey", {"listenKey": self._listen_key}, self.key, signed=False)
            except RestError as problem:
                self.stats.poll_errors += 1
                if problem.code == LISTEN_KEY_UNKNOWN and self._link.session is not None:
                    self._unsynced("listen key unknown")
                    self._link.session.close("listen key unknown")
            except VenueUnavailable:
                self.stats.poll_errors += 1


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
        self.quote_ns = [0] * len(instruments)
        self.mark_ns = [0] * len(instruments)
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
        while not (all(self.quote_ns) and all(self.mark_ns)):
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
                funding = codec.parse_ppm(data.r) if data.r else 0
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
