"""The leader's user stream and the market streams, as ordered facts (semantics 10-12, 16).

What is to be believed about a leader, and in which order, is decided by ``copyd.core.leader_stream``; here are the connection,
the listen key, what is read from the stream, and the answers to the questions it asks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from copyd.core import leader_stream as ls
from copyd.core.leader_stream import Ask, AskKind
from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.codec import Unlisted
from copyd.venues.binance_usdm.contract import Endpoints
from copyd.venues.binance_usdm.errors import LISTEN_KEY_UNKNOWN
from copyd.venues.binance_usdm.rest import RestClient, RestError
from copyd.venues.common import facts
from copyd.venues.common.connection import Link, Session, watched
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import MS_NS, LeaderEvent, Malformed, Mark, Quote, money_e8
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.leader_driver import LeaderDriver, MarketTop
from copyd.venues.common.signing import Key

NO_SUCH_ORDER = -2013


class LeaderFeed(LeaderDriver):
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
        super().__init__(
            leader=leader, instruments=instruments, contract=contract, clock=clock, on_event=on_event,
            equity_poll_s=equity_poll_s, position_poll_s=position_poll_s,
        )  # fmt: skip
        self.key, self.rest, self.endpoints = key, rest, endpoints
        self._executions = codec.executions(instruments)
        self._listen_key = ""
        self._kept: asyncio.Task[None] | None = None
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

    # --- connection ---------------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        self._link.start()
        self._kept = watched(asyncio.get_running_loop().create_task(
            self._keep_alive(), name=f"leader-{self.leader}-listen-key"))  # fmt: skip

    async def _disconnect(self) -> None:
        if self._kept is not None:
            self._kept.cancel()
            await asyncio.gather(self._kept, return_exceptions=True)
        await self._link.stop()

    def _connection_problem(self) -> str:
        return self._link.last_error

    def _renew(self) -> None:
        self._link.renew()

    async def _url(self) -> str:
        body = await self.rest.call("POST", "/fapi/v1/listenKey", key=self.key, signed=False)
        self._listen_key = facts.decode_body(body, codec.ListenKey).listenKey
        return f"{self.endpoints.private}/ws/{self._listen_key}"

    def _on_open(self, session: Session) -> None:
        self._session_opened(session, self._link.connects > 1, bool(self._link.old))

    def _on_lost(self, session: Session) -> None:
        self._session_lost(session)

    # --- stream -------------------------------------------------------------------------------------------------------
    def _on_frame(self, session: Session, payload: bytes) -> None:
        ts_recv = self.clock()
        self._stats.frames += 1
        stream = self.stream
        told = self._executions.execution(payload, ts_recv)
        if told is not None:
            self._do(stream.event(ts_recv, told))
            return
        event = codec.decode_user(payload)
        if isinstance(event, codec.OrderTradeUpdate):
            instrument = self.instruments.find(event.o.s)
            if instrument is None:
                self._stats.foreign_symbols += event.o.x == "TRADE"
            elif event.o.x == "NEW":
                self._do(stream.event(ts_recv, ls.OrderNew(instrument.index, event.o.i)))
            else:
                try:
                    execution = codec.execution(event, self.instruments, ts_recv, payload)
                except (ValueError, KeyError) as problem:
                    self._unreadable(ts_recv, f"order update: {problem}")
                else:
                    if execution is not None:
                        self._do(stream.event(ts_recv, execution))
        elif isinstance(event, codec.AccountUpdate):
            try:
                told = self._account_update(event, ts_recv, payload)
            except (ValueError, KeyError) as problem:
                self._unreadable(ts_recv, f"account update: {problem}")
            else:
                for fact in told:
                    self._do(stream.event(ts_recv, fact))
        elif isinstance(event, codec.AccountConfigUpdate):
            if event.ac is not None and (instrument := self.instruments.find(event.ac.s)) is not None:
                ts_event = (event.T or event.E) * MS_NS
                fact = ls.Leverage(instrument.index, event.ac.l, ts_event, ts_recv, payload)
                self._do(stream.event(ts_recv, fact))
        elif isinstance(event, codec.MarginCall):
            self._do(stream.event(ts_recv, ls.MarginCall(event.E * MS_NS, ts_recv, payload)))
        elif isinstance(event, codec.ListenKeyExpired):
            self._do(stream.event(ts_recv, ls.Expired()))
        elif isinstance(event, Malformed):
            self._unreadable(ts_recv, event.why)
        elif isinstance(event, Unlisted):
            self._stats.unlisted += 1
        # TRADE_LITE names no position side; the ORDER_TRADE_UPDATE with the same id follows and decides (semantics 11).

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

    # --- questions ------------------------------------------------------------------------------------------------------
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

    async def _hedge_mode(self) -> bool:
        return facts.decode_body(await self._get("/fapi/v1/accountConfig"), codec.AccountConfig).dualSidePosition

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
                    self._do(self.stream.event(self.clock(), ls.Expired("listen key unknown")))
            except VenueUnavailable:
                self._stats.poll_errors += 1


class MarketFeed(MarketTop):
    """Best bid and ask and mark price of every instrument, on one connection each."""

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
        super().__init__(instruments=instruments, clock=clock, on_quotes=on_quotes, on_marks=on_marks)
        self.contract = contract
        self._updates: dict[int, int] = {}  # last order book update id per instrument: an older one never replaces it
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

    def _connect(self) -> None:
        for link in self._links:
            link.start()

    def _connection_problem(self) -> str:
        return next((link.last_error for link in self._links if link.last_error), "")

    async def stop(self) -> None:
        await asyncio.gather(*(link.stop() for link in self._links))

    def _on_frame(self, session: Session, payload: bytes) -> None:
        self.stats.frames += 1
        event = codec.decode_market(payload)
        if isinstance(event, Unlisted):
            self.stats.unlisted += 1
            return
        if isinstance(event, Malformed):
            self._malformed(event.why)
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
                self._note_quote(quote)
            else:
                funding = facts.parse_ppm(data.r) if data.r else 0
                self._note_mark(Mark(index, instrument.ticks_nearest(data.p), funding, data.E * MS_NS, ts_recv))
        except ValueError as problem:
            self._malformed(str(problem))
            return
        self._see_flushed()
