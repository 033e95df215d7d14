"""The followers' side: set up and verify accounts, read them, and hear what happens on them.

``AccountSetup`` sets position mode, margin type and leverage when an instrument is activated, paced inside the weight
limit and never in a fan-out (semantics 25). ``FollowerStreams`` carries many listen keys on few connections: executions
of ours become report rows, executions that are not ours become ``ExternalFill``, balances become rows; keep-alives are
spread over the life of a key. What may have been missed is said per account (``StreamGap``), never guessed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

import msgspec

from copyd._fast.columns import Columns, ReportBatch
from copyd._fast.replies import UserEvents
from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.codec import STATUS, Unlisted
from copyd.venues.binance_usdm.contract import Endpoints
from copyd.venues.binance_usdm.errors import LISTEN_KEY_UNKNOWN, NO_CHANGE_CODES
from copyd.venues.binance_usdm.rest import RestClient, RestError, retry_after_ns
from copyd.venues.binance_usdm.signing import ws_request
from copyd.venues.common import facts
from copyd.venues.common.accounts import AccountEvent
from copyd.venues.common.activation import RETRY_S, Activation, in_parallel, tried
from copyd.venues.common.commissions import Commissions
from copyd.venues.common.connection import Link, Session, watched
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import (
    MS_NS,
    STREAM,
    TRADE,
    AccountFunding,
    AccountLeverage,
    AccountPosition,
    AccountSnapshot,
    ExternalFill,
    Malformed,
    OrphanFill,
    StreamGap,
    money_e8,
)
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Settings

#: A SUBSCRIBE of this many listen keys stays well below the frame limit.
SUBSCRIBE_MAX = 100
ANSWER_S = 10.0
ABSENT_RETRY_S = 3.0
#: What the compiled reader answers when it has made rows of an event; 2: it passed over it, 0: it is not for it.
ROWS = 1
#: Half of a fan-out's events say nothing that is not said better elsewhere, and are passed over before they are decoded:
#: the thin copy of a trade, and "the order is in the book", which its own answer says and its first trade repeats. Neither
#: text can stand inside a value: the venue's ids and names hold no quotes.
_THIN, _PLACED = b'"e":"TRADE_LITE"', b'"x":"NEW"'


class AccountSetup(Activation):
    """Activation and snapshots, outside the fan-out."""

    def __init__(
        self,
        *,
        rest: RestClient,
        ws_url: str,
        instruments: Instruments,
        contract: VenueContract,
        clock: Callable[[], int],
        seed: int = 0,
    ) -> None:
        super().__init__(instruments, clock)
        self.rest, self.contract = rest, contract
        self._waiting: dict[str, tuple[Session, asyncio.Future[codec.RawReply]]] = {}
        self._next = 0
        self._up = asyncio.Event()

        async def address() -> str:
            await rest.bans.passed()
            return ws_url if "?" in ws_url else f"{ws_url}?returnRateLimits=false"

        self._link = Link(
            "accounts",
            address,
            on_frame=self._on_frame,
            on_open=lambda session: self._up.set(),
            on_lost=self._on_lost,
            rng=random.Random(seed),
            life_s=contract.connection_life_ms / 1000,
            frame_bytes_max=contract.frame_bytes_max,
        )

    async def open(self, timeout_s: float = 10.0) -> None:
        """Open the account socket; raises when it does not open in time."""
        self._link.start()
        try:
            await asyncio.wait_for(self._up.wait(), timeout_s)
        except TimeoutError:
            await self._link.stop()
            raise VenueUnavailable(f"account connection did not open: {self._link.last_error}") from None

    async def close(self) -> None:
        await self._link.stop()

    # --- activation ---------------------------------------------------------------------------------------------------
    async def _standing(self, key: Key) -> tuple[bool, bool]:
        mode = facts.decode_body(await self.rest.call("GET", "/fapi/v1/accountConfig", {}, key), codec.AccountConfig)
        return mode.dualSidePosition, mode.canTrade

    async def _set_mode(self, key: Key, hedge: bool) -> None:
        await self._set("/fapi/v1/positionSide/dual", {"dualSidePosition": "true" if hedge else "false"}, key)

    async def _settings(self, key: Key, instrument: Instrument) -> Settings | None:
        body = await self.rest.call("GET", "/fapi/v1/symbolConfig", {"symbol": instrument.symbol}, key)
        rows = facts.decode_body(body, list[codec.SymbolConfig])
        now = next((row for row in rows if row.symbol == instrument.symbol), None)
        return None if now is None else Settings(False, now.marginType.upper() == "ISOLATED", now.leverage)

    async def _set_margin(self, key: Key, instrument: Instrument, isolated: bool, leverage: int) -> None:
        kind = "ISOLATED" if isolated else "CROSSED"
        await self._set("/fapi/v1/marginType", {"symbol": instrument.symbol, "marginType": kind}, key)

    async def _set_leverage(self, key: Key, instrument: Instrument, leverage: int, isolated: bool) -> None:
        await self._set("/fapi/v1/leverage", {"symbol": instrument.symbol, "leverage": leverage}, key)

    async def _set(self, path: str, params: dict[str, object], key: Key) -> None:
        try:
            await self.rest.call("POST", path, params, key)
        except RestError as problem:
            if problem.code not in NO_CHANGE_CODES:
                raise

    # --- snapshots ----------------------------------------------------------------------------------------------------
    async def snapshot(self, account: int, key: Key) -> AccountSnapshot:
        """Balance and positions; ``VenueUnavailable`` without an answer, ``RestError`` for a refusal."""
        return await tried(lambda: self._snapshot(account, key))

    async def _snapshot(self, account: int, key: Key) -> AccountSnapshot:
        await self.rest.budget.take(self.contract.weight("v2/account.status"))
        params: dict[str, object] = {
            "timestamp": self.rest.venue_clock.timestamp_ms(),
            "recvWindow": self.contract.recv_window_ms,
        }
        reply = await self._ask("v2/account.status", params, key)
        ts_recv = self.clock()
        if reply.status != 200:
            error = reply.error or codec.ErrorBody()
            if reply.status in (418, 429):
                venue_ms = self.rest.venue_clock.timestamp_ms()
                wait_ns = retry_after_ns(error.data, venue_ms)
                self.rest.bans.note(reply.status, error.code, error.msg, wait_ns, venue_ms)
            raise RestError("v2/account.status", reply.status, error.code, error.msg)
        try:
            body = facts.decode_body(bytes(reply.result), codec.Account)
            held = []
            for row in body.positions:
                instrument = self.instruments.find(row.symbol)
                if instrument is not None and (qty := instrument.lots(row.positionAmt)):
                    side = codec.POSITION_SIDE[row.positionSide]
                    held.append((instrument.index, side, qty, money_e8(row.entryPrice)))
            return AccountSnapshot(
                account,
                money_e8(body.totalWalletBalance),
                money_e8(body.availableBalance),
                money_e8(body.totalMarginBalance),
                tuple(held),
                ts_recv + self.rest.venue_clock.offset_ns,
                ts_recv,
            )
        except (ValueError, KeyError) as problem:
            self.malformed += 1
            raise VenueUnavailable(f"account snapshot is unreadable: {problem}") from None

    async def _ask(self, method: str, params: dict[str, object], key: Key) -> codec.RawReply:
        session = self._link.session
        if session is None or not session.open:
            raise VenueUnavailable(f"{method}: the account connection is down")
        self._next += 1
        name = f"a-{self._next}"
        future: asyncio.Future[codec.RawReply] = asyncio.get_running_loop().create_future()
        self._waiting[name] = (session, future)
        try:
            session.send_text(ws_request(key, name, method, params))
            return await asyncio.wait_for(future, ANSWER_S)
        except TimeoutError:
            raise VenueUnavailable(f"{method}: no answer in {ANSWER_S:g} s") from None
        finally:
            self._waiting.pop(name, None)

    def _on_frame(self, session: Session, payload: bytes) -> None:
        reply = codec.decode_raw_reply(payload)
        if isinstance(reply, Malformed):
            self.malformed += 1
            return
        waiting = self._waiting.get(reply.id) if isinstance(reply.id, str) else None
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(reply)

    def _on_lost(self, session: Session) -> None:
        for asked_on, future in self._waiting.values():
            if asked_on is session and not future.done():
                future.set_exception(VenueUnavailable("the account connection was lost"))


class StreamStats(msgspec.Struct):
    frames: int = 0
    trades: int = 0
    updates: int = 0
    skipped: int = 0
    external: int = 0
    balances: int = 0
    unlisted: int = 0
    malformed: int = 0
    foreign_symbols: int = 0
    unknown_accounts: int = 0
    keys_renewed: int = 0
    keep_alives: int = 0
    gaps: int = 0
    last_malformed: str = ""


class _Member:
    __slots__ = ("account", "key", "listen_key", "renew_at", "shard")

    def __init__(self, account: int, key: Key) -> None:
        self.account, self.key = account, key
        self.listen_key = ""
        self.renew_at = 0.0
        self.shard: _Shard | None = None


class _Shard:
    """One stream connection and the accounts on it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.members: dict[int, _Member] = {}
        self.asks: list[tuple[list[_Member], asyncio.Future[None] | None]] = []
        self.unanswered: dict[int, tuple[list[_Member], asyncio.Future[None] | None]] = {}
        self.wake = asyncio.Event()
        self.pump: asyncio.Task[None] | None = None


class FollowerStreams:
    """User streams of many accounts. Rows of ours go out in batches, once per turn of the loop.

    ``is_known``: whether an order of ours is in the tables; None: every one is. ``positions`` False: ``on_event`` does not
    want to hear of positions.
    """

    def __init__(
        self,
        *,
        rest: RestClient,
        endpoints: Endpoints,
        instruments: Instruments,
        contract: VenueContract,
        clock: Callable[[], int],
        site_tag: str,
        on_reports: Callable[[ReportBatch, int], None],
        on_event: Callable[[AccountEvent], None],
        is_known: Callable[[bytes], bool] | None = None,
        commissions: Commissions | None = None,
        positions: bool = True,
        seed: int = 0,
    ) -> None:
        self.commissions = commissions or Commissions(instruments, lambda instrument: 0)
        self.rest, self.endpoints, self.instruments = rest, endpoints, instruments
        self.contract, self.clock, self.site_tag = contract, clock, site_tag
        self.is_known = is_known or (lambda cid: True)
        self.on_reports, self.on_event = on_reports, on_event
        self._stats = StreamStats()
        self._events = UserEvents(site_tag, positions)
        instruments.teach_reader(self._events)
        self._counted = 0, 0, 0, 0, 0
        self._compiled = is_known is None
        self._rng = random.Random(seed)
        self._members: dict[int, _Member] = {}
        self._by_key: dict[str, _Member] = {}
        self._absent: dict[int, Key] = {}  # wanted, but not listened to yet
        self._shards: list[_Shard] = []
        self._quote_assets = {instrument.margin_asset for instrument in instruments}
        self._ts_recv = 0
        self._ids = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._renewing: set[asyncio.Task[None]] = set()

    def bind(self, columns: Columns) -> None:
        """The tables that hold the orders: with them the compiled reader knows itself whether an order is in them."""
        self._events.columns = columns
        self._compiled = True

    @property
    def stats(self) -> StreamStats:
        """Counters since the start."""
        stats, events, counted = self._stats, self._events, self._counted
        self._counted = events.trades, events.updates, events.balances, events.skipped, events.frames
        stats.trades += events.trades - counted[0]
        stats.updates += events.updates - counted[1]
        stats.balances += events.balances - counted[2]
        stats.skipped += events.skipped - counted[3]
        stats.frames += events.frames - counted[4]
        return stats

    # --- life ---------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Begin the keep-alives; accounts are added one by one or in bulk."""
        self._tasks = [watched(asyncio.get_running_loop().create_task(self._keep_alive(), name="listen-keys"))]

    async def stop(self) -> None:
        tasks = [*self._tasks, *self._renewing, *(s.pump for s in self._shards if s.pump is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(shard.link.stop() for shard in self._shards))
        self._flush()

    @property
    def accounts(self) -> int:
        return len(self._members)

    @property
    def open_connections(self) -> int:
        return sum(1 for shard in self._shards if shard.link.session is not None)

    async def add(self, account: int, key: Key) -> None:
        """Listen to an account; returns once the venue has confirmed the subscription."""
        confirmed = await self._enrol(account, key)
        if confirmed is not None:
            await self._confirmation(account, confirmed)

    async def _enrol(self, account: int, key: Key) -> asyncio.Future[None] | None:
        """Take a listen key and queue its subscription; the future is its confirmation, None when there is one already."""
        if account in self._members:
            return None
        member = _Member(account, key)
        await self._new_key(member)
        loop = asyncio.get_running_loop()
        life = self.contract.listen_key_keepalive_ms / 1000
        member.renew_at = loop.time() + life * self._rng.uniform(0.1, 1.0)
        self._members[account] = member
        shard = next((s for s in self._shards if len(s.members) < self.contract.streams_per_connection_max), None)
        if shard is None:
            shard = self._new_shard()
        shard.members[account] = member
        member.shard = shard
        confirmed: asyncio.Future[None] = loop.create_future()
        self._subscribe(shard, [member], confirmed)
        return confirmed

    async def _confirmation(self, account: int, confirmed: asyncio.Future[None]) -> None:
        try:
            await asyncio.wait_for(confirmed, ANSWER_S * 3)
        except TimeoutError:
            self._drop(account)
            raise VenueUnavailable("user stream: no subscription in time") from None
        except VenueUnavailable:
            self._drop(account)
            raise

    def _drop(self, account: int) -> _Member | None:
        member = self._members.pop(account, None)
        if member is not None:
            self._by_key.pop(member.listen_key, None)
            self._events.forget(member.listen_key)
            if member.shard is not None:
                member.shard.members.pop(account, None)
        return member

    async def add_many(
        self,
        accounts: Sequence[tuple[int, Key]],
        *,
        concurrency: int = 32,
        on_done: Callable[[int, str], None] = lambda account, problem: None,
    ) -> None:
        """Listen to many; ``on_done(account, problem)`` as each is confirmed or not (``problem`` not empty).

        What failed for want of an answer is tried again in the background for as long as the streams run, and ends in a
        ``StreamGap``; what the venue refused (a dead key) is not.
        """
        confirmations: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()

        async def confirm(account: int, key: Key, confirmed: asyncio.Future[None] | None) -> None:
            problem = ""
            if confirmed is not None:
                try:
                    await self._confirmation(account, confirmed)
                except VenueUnavailable as down:
                    problem = str(down)
                    self._absent[account] = key
            on_done(account, problem)

        async def one(item: tuple[int, Key]) -> None:
            account, key = item
            try:
                confirmations.append(loop.create_task(confirm(account, key, await self._enrol(account, key))))
            except RestError as refused:
                if refused.status >= 500 or refused.status in (418, 429):
                    self._absent[account] = key
                on_done(account, str(refused))
            except (VenueUnavailable, ValueError) as down:
                self._absent[account] = key
                on_done(account, str(down))

        await in_parallel(accounts, one, concurrency)
        await asyncio.gather(*confirmations)

    async def _add_absent(self) -> None:
        """Accounts that could not be listened to: once more, and say the gap when it works."""
        waiting, self._absent = self._absent, {}

        def done(account: int, problem: str) -> None:
            if not problem:
                self.stats.gaps += 1
                self.on_event(StreamGap(account, "listening late"))

        await self.add_many(list(waiting.items()), concurrency=8, on_done=done)

    async def remove(self, account: int) -> None:
        """Stop listening (plan stopped, key revoked)."""
        self._absent.pop(account, None)
        member = self._drop(account)
        if member is not None and member.shard is not None:
            session = member.shard.link.session
            if session is not None and session.open:
                self._ids += 1
                session.send_text(msgspec.json.encode({"method": "UNSUBSCRIBE", "params": [member.listen_key], "id": self._ids}))

    async def _new_key(self, member: _Member) -> None:
        body = await self.rest.call("POST", "/fapi/v1/listenKey", key=member.key, signed=False)
        listen_key = facts.decode_body(body, codec.ListenKey).listenKey
        self._by_key.pop(member.listen_key, None)
        self._events.forget(member.listen_key)
        member.listen_key = listen_key
        self._by_key[listen_key] = member
        self._events.listen(listen_key, member.account)

    # --- connections --------------------------------------------------------------------------------------------------
    def _new_shard(self) -> _Shard:
        async def address() -> str:
            await self.rest.bans.passed()
            return f"{self.endpoints.private}/stream"

        link = Link(
            f"followers-{len(self._shards)}",
            address,
            on_frame=self._on_frame,
            on_open=lambda session: self._on_open(shard, session),
            on_lost=lambda session: self._on_lost(shard, session),
            rng=random.Random(self._rng.random()),
            life_s=self.contract.connection_life_ms / 1000,
            frame_bytes_max=self.contract.frame_bytes_max,
        )
        shard = _Shard(link)
        shard.pump = watched(asyncio.get_running_loop().create_task(self._pump(shard), name=f"{link.name}-subscribe"))
        self._shards.append(shard)
        link.start()
        return shard

    def _subscribe(self, shard: _Shard, members: list[_Member], confirmed: asyncio.Future[None] | None) -> None:
        shard.asks.append((members, confirmed))
        shard.wake.set()

    def _on_open(self, shard: _Shard, session: Session) -> None:
        # A new connection knows no subscription; what happened meanwhile is not repeated by the venue. A renewal beside
        # a living connection misses nothing, but its overlap ends before a large subscription does: the gap is said.
        if self._compiled:
            session.ear.reads(self._events, self._row)
        asks, shard.asks = shard.asks, []
        waiting = [ask for ask in [*asks, *shard.unanswered.values()] if ask[1] is not None]
        shard.unanswered.clear()
        fresh = {member.account for members, _ in waiting for member in members}
        again = [m for m in shard.members.values() if m.account not in fresh]
        for at in range(0, len(again), SUBSCRIBE_MAX):
            self._subscribe(shard, again[at : at + SUBSCRIBE_MAX], None)
        shard.asks += waiting
        shard.wake.set()

    def _on_lost(self, shard: _Shard, session: Session) -> None:
        pass  # _on_open subscribes anew and says the gaps once events flow again

    async def _pump(self, shard: _Shard) -> None:
        """Send SUBSCRIBE messages, several requests in one, below the venue's message rate."""
        pause = 1.25 / self.contract.stream_messages_per_s_max
        while True:
            await shard.wake.wait()
            session = shard.link.session
            if session is None or not session.open:
                shard.wake.clear()
                continue  # _on_open sets it
            taken: list[tuple[list[_Member], asyncio.Future[None] | None]] = []
            count = 0
            while shard.asks and count + len(shard.asks[0][0]) <= SUBSCRIBE_MAX:
                ask = shard.asks.pop(0)
                count += len(ask[0])
                taken.append(ask)
            if not shard.asks:
                shard.wake.clear()
            if not taken:
                continue
            self._ids += 1
            members = [m for asked, _ in taken for m in asked if m.listen_key]
            futures = [f for _, f in taken if f is not None]
            joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            joined.add_done_callback(partial(_pass_on, futures))
            resubscribed = [m for asked, f in taken if f is None for m in asked]
            if resubscribed:
                joined.add_done_callback(partial(self._tell_gaps, resubscribed))
            shard.unanswered[self._ids] = (members, joined)
            text = msgspec.json.encode({"method": "SUBSCRIBE", "params": [m.listen_key for m in members], "id": self._ids})
            session.send_text(text)
            await asyncio.sleep(pause)

    def _tell_gaps(self, members: list[_Member], done: asyncio.Future[None]) -> None:
        if done.cancelled():
            return
        if done.exception() is not None:
            # Nobody waits for this answer: whom the venue will not let back on is enrolled anew, with the other absent.
            for member in members:
                if self._members.get(member.account) is member:
                    self._drop(member.account)
                    self._absent[member.account] = member.key
            return
        for member in members:
            self.stats.gaps += 1
            self.on_event(StreamGap(member.account, "resubscribed"))

    # --- listen keys --------------------------------------------------------------------------------------------------
    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        life = self.contract.listen_key_keepalive_ms / 1000
        again_at = 0.0
        while True:
            await asyncio.sleep(min(1.0, life / 10))
            now = loop.time()
            if self._absent and now >= again_at:
                again_at = now + ABSENT_RETRY_S
                self._spawn(self._add_absent())
            for member in [m for m in self._members.values() if m.renew_at <= now]:
                member.renew_at = now + life * self._rng.uniform(0.8, 1.0)
                self._spawn(self._prolong(member))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = watched(asyncio.get_running_loop().create_task(work))
        self._renewing.add(task)
        task.add_done_callback(self._renewing.discard)

    async def _prolong(self, member: _Member) -> None:
        try:
            await self.rest.call("PUT", "/fapi/v1/listenKey", {"listenKey": member.listen_key}, member.key, signed=False)
            self.stats.keep_alives += 1
        except RestError as problem:
            if problem.code == LISTEN_KEY_UNKNOWN:
                await self._renew(member)
            else:
                member.renew_at = asyncio.get_running_loop().time() + 30.0
        except VenueUnavailable:
            member.renew_at = asyncio.get_running_loop().time() + 5.0

    async def _renew(self, member: _Member) -> None:
        """An expired key: take a new one, subscribe it, say the gap."""
        for pause in (*RETRY_S, None):
            try:
                await self._new_key(member)
                break
            except (VenueUnavailable, RestError, ValueError):
                if pause is None:
                    member.renew_at = asyncio.get_running_loop().time() + 30.0
                    return
                await asyncio.sleep(pause)
        self.stats.keys_renewed += 1
        if member.shard is not None and self._members.get(member.account) is member:
            self._subscribe(member.shard, [member], None)

    # --- events -------------------------------------------------------------------------------------------------------
    def _on_frame(self, session: Session, payload: bytes) -> None:
        if self._compiled and (told := self._events.event(payload)):
            if told == ROWS and not self._events.due:
                self._row()
            return
        self._stats.frames += 1
        if _THIN in payload or _PLACED in payload:
            self.stats.skipped += 1
            return
        event = codec.decode_combined_user(payload)
        if isinstance(event, Unlisted):
            self.stats.unlisted += 1
            if event.kind == "answer":
                self._confirmed(session, payload)
            return
        if isinstance(event, Malformed):
            self._malformed(event.why)
            return
        member = self._by_key.get(event.stream)
        if member is None:
            self.stats.unknown_accounts += 1
            return
        data = event.data
        try:
            if isinstance(data, codec.OrderTradeUpdate):
                self._order(member.account, data)
            elif isinstance(data, codec.AccountUpdate):
                self._account(member.account, data)
            elif isinstance(data, codec.AccountConfigUpdate):
                instrument = self.instruments.find(data.ac.s) if data.ac else None
                if data.ac is not None and instrument is not None:
                    ts_event = (data.T or data.E) * MS_NS
                    self.on_event(AccountLeverage(member.account, instrument.index, data.ac.l, ts_event, self.clock()))
            elif isinstance(data, codec.ListenKeyExpired):
                self._spawn(self._renew(member))
        except (ValueError, KeyError, OverflowError) as problem:
            # What it said is lost: the account's truth has to be read again.
            self._malformed(str(problem))
            self.stats.gaps += 1
            self.on_event(StreamGap(member.account, "unreadable event"))

    def _malformed(self, why: str) -> None:
        self.stats.malformed += 1
        self.stats.last_malformed = why[:200]

    def _confirmed(self, session: Session, payload: bytes) -> None:
        reply = codec.decode_raw_reply(payload)
        if isinstance(reply, Malformed) or not isinstance(reply.id, int):
            return
        for shard in self._shards:
            if shard.link is session.link and (ask := shard.unanswered.pop(reply.id, None)) is not None:
                future = ask[1]
                if future is not None and not future.done():
                    if reply.error is None:
                        future.set_result(None)
                    else:
                        future.set_exception(VenueUnavailable(f"subscription refused: {reply.error.msg[:100]}"))

    def _order(self, account: int, event: codec.OrderTradeUpdate) -> None:
        order = event.o
        instrument = self.instruments.find(order.s)
        if instrument is None:
            self.stats.foreign_symbols += 1
            return
        is_trade = order.t > 0 and order.x in ("TRADE", "CALCULATED")
        raw = facts.cid_bytes(order.c) if order.c.startswith(self.site_tag) else None
        if raw is None:
            if is_trade:
                self.stats.external += 1
                kind = codec.cause_of(order.c, order.o) or "manual"
                qty = instrument.lots(order.l) * codec.SIDE[order.S]
                self.on_event(
                    ExternalFill(
                        account, instrument.index, codec.POSITION_SIDE[order.ps], qty, instrument.ticks(order.L), order.t,
                        kind, order.c, event.T * MS_NS, self.clock(),
                    )
                )  # fmt: skip
            return
        cum = instrument.lots(order.z)
        cost = facts.cost_e8(order.ap, order.z) if cum else 0
        status = STATUS[order.X]
        if not is_trade:
            self.stats.updates += 1
            self._row()
            self._events.batch.append(STREAM, status, raw, cum, cost, venue_order_id=order.i, ts_event=event.T * MS_NS)
            return
        fee = self.commissions.e8(order.n, order.N or "", instrument) if order.n else 0
        last_qty, last_px = instrument.lots(order.l), instrument.ticks(order.L)
        self.stats.trades += 1
        if not self.is_known(raw):
            # It bears our tag and stands in no table: of a journal that was lost, or another daemon's.
            self.on_event(
                OrphanFill(
                    account, instrument.index, codec.POSITION_SIDE[order.ps], last_qty * codec.SIDE[order.S], last_px, order.t,
                    raw, event.T * MS_NS,
                )
            )  # fmt: skip
            return
        self._row()
        if fee is None:  # what it cost is not known yet: told as a fill only, the execution is asked for later
            self._events.batch.append(STREAM, status, raw, cum, cost, venue_order_id=order.i, ts_event=event.T * MS_NS)
            return
        self._events.batch.append(TRADE, status, raw, cum, cost, last_qty, last_px, fee, order.t, order.i, event.T * MS_NS)

    def _account(self, account: int, event: codec.AccountUpdate) -> None:
        ts_event = event.T * MS_NS
        for wallet in event.a.B:
            if wallet.a in self._quote_assets:
                balance = money_e8(wallet.wb)
                self.stats.balances += 1
                self._row()
                self._events.batch.append_balance(account, balance, ts_event)
                if event.a.m == "FUNDING_FEE":
                    named = [found.index for row in event.a.P if (found := self.instruments.find(row.s)) is not None]
                    of = named[0] if len(named) == 1 else -1
                    self.on_event(AccountFunding(account, of, money_e8(wallet.bc), ts_event, self.clock()))
        for row in event.a.P:
            instrument = self.instruments.find(row.s)
            if instrument is None:
                self.stats.foreign_symbols += 1
                continue
            side = codec.POSITION_SIDE[row.ps]
            self.on_event(AccountPosition(account, instrument.index, side, instrument.lots(row.pa), ts_event, self.clock()))

    def _row(self) -> None:
        """Before each row: note when the batch began and see that it is delivered when the loop has read its fill."""
        if not self._events.due:
            self._events.due = True
            self._ts_recv = self.clock()
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._events.due = False
        batch = self._events.batch
        if batch.count:
            self._events.batch = ReportBatch()
            self.on_reports(batch, self._ts_recv)


def _pass_on(futures: list[asyncio.Future[None]], done: asyncio.Future[None]) -> None:
    """One SUBSCRIBE stood for several requests: each learns its outcome."""
    problem = None if done.cancelled() else done.exception()
    for future in futures:
        if future.done():
            continue
        if problem is not None:
            future.set_exception(problem)
        elif done.cancelled():
            future.cancel()
        else:
            future.set_result(None)
