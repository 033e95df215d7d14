"""A leader's account and the market of a session venue, as ordered facts (semantics 10-12, 16).

What is to be believed about a leader, and in which order, is decided by ``copyd.core.leader_stream``; here are the connections,
what is read from them, and the answers to the questions it asks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from copyd.core import leader_stream as ls
from copyd.core.leader_stream import Ask, AskKind, Execution
from copyd.venues.common import told as t
from copyd.venues.common.connection import ConnectPace, Link, Session, watched
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import NEW, LeaderEvent, Malformed, Mark, Quote
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.leader_driver import LeaderDriver, MarketTop
from copyd.venues.common.limits import Bans, VenueClock
from copyd.venues.common.sessions import Line, Sessions
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Channel, Reads, Wire

#: Causes of a wallet's change that the daemon takes for money paid in or taken out.
PAID_IN, TAKEN_OUT = "DEPOSIT", "WITHDRAW"


class LeaderFeed(LeaderDriver):
    """One leader's account. Every fact goes to ``on_event`` in the order it is to be believed."""

    def __init__(
        self,
        *,
        leader: int,
        key: Key,
        wire: Wire,
        channels: Callable[[Key], Sequence[Channel]],
        prepare: Callable[[Key], Awaitable[Any]] | None,
        reads: Reads,
        instruments: Instruments,
        contract: VenueContract,
        clock: Callable[[], int],
        venue_clock: VenueClock,
        bans: Bans,
        paces: Mapping[str, ConnectPace],
        on_event: Callable[[LeaderEvent], None],
        equity_poll_s: float = 5.0,
        position_poll_s: float = 10.0,
        seed: int = 0,
    ) -> None:
        """``channels``: those of an account that carry events; ``prepare``: see ``Sessions``."""
        super().__init__(
            leader=leader, instruments=instruments, contract=contract, clock=clock, on_event=on_event,
            equity_poll_s=equity_poll_s, position_poll_s=position_poll_s,
        )  # fmt: skip
        self.key, self.reads, self.venue_clock = key, reads, venue_clock
        self._sessions = Sessions(
            wire=wire, channels=channels, contract=contract, clock=clock, venue_clock=venue_clock, bans=bans,
            on_told=self._on_told, on_ready=self._on_ready, on_lost=self._on_lost,
            on_oversized=lambda line: self._do(self.stream.oversized(self.clock())), prepare=prepare,
            paces=paces, name=f"leader-{leader}", seed=seed, urgent=True,
        )  # fmt: skip

    # --- connection ---------------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        self._sessions.start()
        self._sessions.add(self.leader, self.key)

    async def _disconnect(self) -> None:
        await self._sessions.stop()

    def _connection_problem(self) -> str:
        lines = self._sessions.lines(self.leader)
        return next((line.problem or line.link.last_error for line in lines if line.problem or line.link.last_error), "")

    def _renew(self) -> None:
        for line in self._sessions.lines(self.leader):
            line.link.renew()

    def _on_ready(self, line: Line) -> None:
        assert line.session is not None
        self._session_opened(line.session, line.connects > 1, bool(line.link.old))

    def _on_lost(self, line: Line, session: Session) -> None:
        self._session_lost(session)

    # --- stream -------------------------------------------------------------------------------------------------------
    def _on_told(self, line: Line, told: t.Told, payload: bytes, ts_recv: int) -> None:
        self._stats.frames += 1
        fact = self._fact(told, payload, ts_recv)
        if fact is not None:
            self._do(self.stream.event(ts_recv, fact))

    def _fact(self, told: t.Told, payload: bytes, ts_recv: int) -> Any:
        """As the stream takes it; None for what it does not need."""
        match told:
            case t.TradeTold():
                execution = told.execution
                if told.thin:
                    self._stats.thin += 1
                    if not execution.order_qty:
                        return None  # how large its order is decides for some plans: the full message does
                execution.raw = execution.raw or payload
                execution.ts_recv = ts_recv
                return execution
            case t.OrderTold() if told.status == NEW and not told.cum_qty:
                return ls.OrderNew(told.instrument, told.venue_order_id)
            case t.PositionTold():
                # On spot a commission may be taken from what was bought: a holding never adds up to its executions exactly, and
                # only the periodic comparison, behind which the holding counts, may say so.
                return None if self.instruments[told.position.instrument].spot else told.position
            case t.LeverageTold():
                return ls.Leverage(told.instrument, told.leverage, told.ts_event, ts_recv, payload)
            case t.WalletTold():
                cause = (PAID_IN if told.change_e8 > 0 else TAKEN_OUT) if told.flow else told.cause
                return ls.Wallet(told.asset, told.wallet_e8, told.change_e8, cause, told.ts_event, ts_recv, payload)
            case t.FlowTold():
                cause = PAID_IN if told.change_e8 > 0 else TAKEN_OUT
                return ls.Wallet(told.asset, 0, told.change_e8, cause, told.ts_event, ts_recv, payload)
            case t.MarginCallTold():
                return ls.MarginCall(told.ts_event, ts_recv, payload)
            case t.Ending():
                return ls.Expired(told.reason)
            case Malformed():
                self._unreadable(ts_recv, told.why)
            case t.Unused():
                self._stats.unlisted += 1
            case _:
                pass
        return None

    # --- questions ------------------------------------------------------------------------------------------------------
    async def _read(self, ask: Ask) -> Sequence[Any]:
        kind = ask.kind
        if kind == AskKind.POSITIONS:
            return await self.reads.positions(self.key)
        if kind == AskKind.EQUITY:
            return [await self._read_equity()]
        instrument = self.instruments[ask.instrument]
        if kind == AskKind.FILLS:
            return self._past(await self.reads.trades_from(self.key, instrument, ask.from_id, ask.limit), ask.instrument)
        if kind == AskKind.NEWEST:
            newest = await self.reads.newest_trade(self.key, instrument)
            return self._past([] if newest is None else [newest], ask.instrument)
        if kind == AskKind.LEVERAGE:
            now = self.clock()
            leverage = await self.reads.leverage(self.key, instrument)
            return [ls.Leverage(ask.instrument, leverage, now, now)] if leverage else []
        order = await self.reads.order(self.key, instrument, order_id=ask.order_id)
        if order is None:
            return []
        return [ls.OrderFacts(ask.order_id, order.client_order_id, order.order_qty, order.reduce_only)]

    def _past(self, trades: Sequence[t.TradeTold], instrument: int) -> list[Execution]:
        now = self.clock()
        found = []
        for told in trades:
            execution = told.execution
            # Every row counts for the size of the page: one of another symbol would be an answer to another question.
            if execution.instrument != instrument:
                raise ValueError("the list of executions holds another instrument")
            execution.live, execution.ts_recv = False, now
            found.append(execution)
        return found

    async def _read_equity(self) -> ls.Equity:
        asked = self.clock()  # what is paid in or taken out later is not in the answer, or only perhaps
        books = await self.reads.books(self.key)
        return ls.Equity(
            books.equity_e8, books.wallet_e8, books.available_e8, asked + self.venue_clock.offset_ns, self.clock())

    async def _hedge_mode(self) -> bool:
        return await self.reads.hedge_mode(self.key)


class MarketFeed(MarketTop):
    """Best bid and ask and mark price of every instrument, from as many connections as the venue has channels for them."""

    def __init__(
        self,
        *,
        wire: Wire,
        channels: Sequence[Channel],
        instruments: Instruments,
        contract: VenueContract,
        clock: Callable[[], int],
        on_quotes: Callable[[list[Quote]], None],
        on_marks: Callable[[list[Mark]], None],
        pace: ConnectPace,
        seed: int = 0,
    ) -> None:
        super().__init__(instruments=instruments, clock=clock, on_quotes=on_quotes, on_marks=on_marks)
        self.wire, self.contract, self.pace = wire, contract, pace
        self._told_at: dict[int, int] = {}  # venue time of the last quote: an older one never replaces it
        rng = random.Random(seed)
        self._links = [(self._link(channel, rng), channel) for channel in channels]
        self._pings: asyncio.Task[None] | None = None

    def _link(self, channel: Channel, rng: random.Random) -> Link:
        async def address() -> str:
            await self.pace.turn(True)
            return channel.url

        def opened(session: Session) -> None:
            self._told_at.clear()
            if session.link.connects > 1:
                self.stats.reconnects += 1
            for _, message in channel.subscriptions:
                session.send_text(message)

        contract = self.contract
        make: type[Link] = getattr(self.wire, "link", Link)
        return make(
            f"market-{channel.name}", address, on_open=opened,
            on_frame=lambda session, payload: self._on_frame(channel.name, payload), on_lost=lambda session: None,
            rng=random.Random(rng.random()),
            life_s=contract.connection_life_ms / 1000 if contract.connection_life_ms else 30 * 86_400.0,
            frame_bytes_max=contract.frame_bytes_max, ping_idle_s=20.0, paced=True,
        )  # fmt: skip

    def _connect(self) -> None:
        for link, _ in self._links:
            link.start()
        self._pings = watched(asyncio.get_running_loop().create_task(self._ping(), name="market-pings"))

    def _connection_problem(self) -> str:
        return next((link.last_error for link, _ in self._links if link.last_error), "")

    async def stop(self) -> None:
        if self._pings is not None:
            self._pings.cancel()
            await asyncio.gather(self._pings, return_exceptions=True)
        await asyncio.gather(*(link.stop() for link, _ in self._links))

    async def _ping(self) -> None:
        """Texts that keep the connections open where the venue wants such."""
        every = min((channel.ping_every_ms for _, channel in self._links if channel.ping), default=0) / 1000
        while every:
            await asyncio.sleep(every)
            for link, channel in self._links:
                if channel.ping and link.session is not None and link.session.open:
                    link.session.send_text(channel.ping)

    def _on_frame(self, channel: str, payload: bytes) -> None:
        self.stats.frames += 1
        ts_recv = self.clock()
        for told in self.wire.read_market(payload, ts_recv, channel):
            if isinstance(told, Quote):
                self._quote(told)
            elif isinstance(told, Mark):
                self._note_mark(told)
            elif isinstance(told, Malformed):
                self._malformed(told.why)
            else:
                self.stats.unlisted += 1
        self._see_flushed()

    def _quote(self, quote: Quote) -> None:
        if quote.ts_event < self._told_at.get(quote.instrument, 0):
            self.stats.duplicates += 1
            return
        self._told_at[quote.instrument] = quote.ts_event
        self._note_quote(quote)
