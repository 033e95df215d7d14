"""The venue's half of the daemon: turns what a venue adapter says into engine inputs, and order slots into bytes.

Together with ``app`` the only place that knows both an adapter and the engine. Indexes of accounts, instruments and
leaders are the engine's; the adapter was given the same ones.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from copyd._fast.columns import ReportBatch
from copyd._fast.replies import tell_apart
from copyd.adapters import contract_of, make_parts, weight_per_min
from copyd.config import Config, VenueConfig
from copyd.core import engine as core
from copyd.core.engine import INSTRUMENTS, LEADERS, Alert, Engine
from copyd.core.fill import POSITION_SIDE_REJECTED
from copyd.core.marks import Marks
from copyd.core.order import placed_since
from copyd.core.rows import (
    TERMINAL_MASK,
    UNFINISHED_MASK,
    AccountInstrumentRow,
    AccountRow,
    InstrumentRow,
    LeaderRow,
    OrderRow,
    OrderState,
)
from copyd.core.volatility import Range
from copyd.credentials import Credentials
from copyd.errors import OperatorError, VenueUnavailable
from copyd.funding import FundingReader
from copyd.runtime.clock import Clock
from copyd.telemetry.logs import get_logger
from copyd.vault.checks import key_of
from copyd.vault.signer import SignerLimits
from copyd.venues.common import facts
from copyd.venues.common.activation import in_parallel
from copyd.venues.common.facts import Placed
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.parts import Hooks, LeaderTerms
from copyd.venues.common.rest import RestError
from copyd.venues.common.sessions import FINAL_REASONS
from copyd.venues.common.signing import Key

ORDERS = 7
NOT_SENT = 8
#: Executions come within milliseconds; what has not come by then is asked for, so many orders at once, found by such steps.
UNTOLD_AFTER_NS = 5_000_000_000
UNTOLD_MAX = 200
UNTOLD_STEP = 50_000
UNTOLD_LOOK = 500
ACTIVATE_CONCURRENCY = 16
ACTIVATE_RETRY_S = 1.0
ACTIVATE_RETRY_MAX_S = 30.0
#: Reasons for legs that are not ready which say nothing about the account.
TRANSIENT = frozenset({"venue_unavailable", "unreadable_reply"})
#: Account, its key, the (instrument, leverage) pairs its plans need.
Wanting = tuple[int, Key, list[tuple[int, int]]]
#: Causes of a wallet's change that are money paid in or taken out.
FLOW_CAUSES = frozenset({
    "DEPOSIT", "WITHDRAW", "WITHDRAW_REJECT", "ADJUSTMENT", "ADMIN_DEPOSIT", "ADMIN_WITHDRAW", "ASSET_TRANSFER",
    "COIN_SWAP_DEPOSIT", "COIN_SWAP_WITHDRAW",
})
#: Gaps of accounts that shared a connection come together.
GAP_GATHER_S = 0.05
#: An account that has not answered by then holds up nobody: it is asked again, apart from the others.
LOOK_DEADLINE_S = 5.0
#: How long a snapshot that is to settle a position waits for a moment without an order in flight.
ADOPT_TRIES, ADOPT_WAIT_S = 100, 0.1


class Owner(Protocol):
    """What the venue side needs of the daemon."""

    def offer(self, value: Any) -> None: ...

    def quote(self, instrument: int, bid: int, ask: int, mark: int, ts: int) -> None: ...

    def marks(self, marks: list[tuple[int, int, int]]) -> None: ...

    def alert(self, alert: Alert) -> None: ...

    def fail(self, error: BaseException) -> None: ...

    def leg_states(self, account: int, states: list[Any]) -> None: ...

    def look_soon(self, account: int) -> None: ...

    def snapshot(
        self, account: int, wallet_e8: int, positions: list[tuple[int, int, int]], seq: int, asked: int
    ) -> None: ...


class VenueSide:
    """One venue: market feed, leader feeds, order gateway, follower accounts and streams. The pump's ``Gateway``.

    ``wanted``: (engine index, symbol) of the venue's instruments.
    """

    def __init__(
        self, config: Config, venue: VenueConfig, wanted: Sequence[tuple[int, str]], credentials: Credentials, clock: Clock,
        owner: Owner,
    ) -> None:
        self.config = config
        self.venue = venue
        self.wanted = list(wanted)
        self.credentials = credentials
        self.clock = clock
        self.owner = owner
        self.log = get_logger("venue")
        self.fills = 0
        self.gaps = Counter[str]()
        self.contract = contract_of(venue)
        self.weight_per_min = weight_per_min(venue, self.contract)
        #: A connection is tried at least twice before a start is given up.
        self.start_timeout_s = 2 * venue.connect_timeout_ms / 1000
        self.instruments: Instruments
        self.leaders: dict[int, Any] = {}
        copy = config.copy
        self._marks = Marks(copy.mark_band_bps, copy.mark_max_age_ms * 1_000_000)
        self._quote_max_age = copy.quote_max_age_ms * 1_000_000
        self._marks_doubted: set[int] = set()
        self._ranges: dict[int, Range] = {}
        self._transfers_read: dict[int, int] = {}
        self._quotes: dict[int, tuple[int, int, int]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keyless: set[int] = set()
        self.limits = SignerLimits(owner.alert)
        self._untold_at = 0
        self._adopting: set[int] = set()
        self._gapped: list[int] = []

    # -- life -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Reach the venue: its clock, its instruments; build everything that needs them."""
        self.parts = make_parts(self.config, self.venue, self._hooks())
        await self.parts.open(self.wanted, self.start_timeout_s)
        self.instruments = self.parts.instruments
        self.rest, self.gateway, self.setup = self.parts.rest, self.parts.gateway, self.parts.setup
        self.streams, self.market = self.parts.streams, self.parts.market

    def _hooks(self) -> Hooks:
        return Hooks(
            clock=self.clock.now_ns, on_reports=self._reports, on_connection=self._connection,
            on_follower_event=self._follower_event, on_leader_event=self._leader_event, on_quotes=self._on_quotes,
            on_marks=self._on_marks, on_ban=self._banned, on_mismatch=self._mismatch, on_unknown_code=self._unknown_code,
            on_unknown_account=self._unknown_account, on_unknown_fee=self._unknown_fee, placed=self._placed,
            is_known=self._is_known, expected=self._expected, last_mark=self._last_mark,
            account_key=self._account_key,
            site_tag=f"{self.config.site.id:04x}",
            is_hedge=lambda account: bool(AccountRow.unpack(self.engine.columns.get(4, account)).hedge),
            on_shut_out=self._on_stream,
        )

    def _account_key(self, account: int) -> Key:
        credential = self.credentials.get(self.engine.names.accounts[account])
        if credential is None:
            raise VenueUnavailable("its key is gone")
        return key_of(credential)

    def _unknown_account(self, account: int) -> None:
        text = "the engine does not know this account: none of its orders can be sent"
        self.owner.alert(Alert("account_unknown", text, {"account": self.engine.names.accounts[account]}))

    def bind(self, engine: Engine) -> None:
        """The engine whose tables hold the orders to render, and to compare the venue's answers with."""
        self.engine = engine
        self.limits.bind(engine, [index for index, _ in self.wanted])
        self.parts.bind(engine.columns)
        rows = (LeaderRow.unpack(engine.columns.get(LEADERS, index)) for index in range(engine.columns.count(LEADERS)))
        self._heard_at = max((row.ts_equity for row in rows), default=0)

    async def start_orders(self) -> None:
        """Order connections and follower streams."""
        await self.parts.start_orders(self.start_timeout_s)
        windows = self.gateway.windows()
        self.log.info(
            "order connections open", venue=self.venue.name, connections=self.gateway.open_connections,
            window_bytes=min((size for size, _ in windows), default=0),
            round_trip_us=max((trip for _, trip in windows), default=0) // 1000)
        self._spawn(self.parts.keep_clock())
        self._read_funding()

    async def start_market(self) -> None:
        """Quotes and marks of every instrument; returns when each was heard once."""
        await self.market.start(self.start_timeout_s)

    async def start_leaders(self, alone: bool = True) -> None:
        """Every leader's account: subscribe, snapshot, back-fill behind what the journal knows.

        Not ``alone``: other venues wait to be traded on. A leader who was heard in a life before and does not answer now ends no
        start then; nothing opens after him, and he is asked again until he answers.
        """
        for index, leader in enumerate(self.config.leaders):
            if leader.venue != self.venue.name:
                continue
            credential = self.credentials.get(leader.credential)
            if credential is None:
                raise OperatorError(f"leader {leader.id}: no credential named {leader.credential!r}")
            patient = not alone and LeaderRow.unpack(self.engine.columns.get(LEADERS, index)).ts_equity > 0
            try:
                await self._check_key(f"leader {leader.id}", leader.credential, key_of(credential))
            except VenueUnavailable as problem:
                if not patient:
                    raise
                self.log.warning("credential not checked", who=leader.id, error=str(problem))
            try:
                await self._start_leader(index)
            except (VenueUnavailable, RestError) as problem:
                if not patient:
                    raise
                text = f"{problem}; nothing opens after him, and he is asked again until he answers"
                self.owner.alert(Alert("leader_not_heard", text, {"leader": leader.id}))
                self._spawn(self._hear_anew(index, "not heard at the start"))

    async def _start_leader(self, index: int) -> None:
        await self._begin(index, self._feed(index))

    def _feed(self, index: int) -> Any:
        """A leader's feed with the key he has now, in the place of the one before."""
        leader = self.config.leaders[index]
        credential = self.credentials.get(leader.credential)
        if credential is None:
            raise VenueUnavailable("the leader's key is gone")
        feed = self.leaders[index] = self.parts.leader_feed(LeaderTerms(
            index, key_of(credential), leader.equity_poll_interval_ms / 1000, leader.position_poll_interval_ms / 1000))
        return feed

    async def _begin(self, index: int, feed: Any) -> None:
        # Before his equity is heard, so that what he took out is not mistaken for a loss.
        await self._read_transfers(index, self.config.leaders[index].credential)
        if index not in self.leaders or self.leaders[index] is not feed:
            return  # the daemon stops, or another takes its place
        floor, seen, positions = self.engine.resume_point(index)
        await feed.start(floor, self.start_timeout_s, seen=seen, positions=positions if floor else None)

    def renew_leader(self, index: int) -> None:
        """A leader is heard with the key he has now; one that the venue refuses leaves him heard as before."""
        self._spawn(self._renew_leader(index))

    async def _renew_leader(self, index: int) -> None:
        leader = self.config.leaders[index]
        try:
            await self._check_key(f"leader {leader.id}", leader.credential, key_of(self.credentials[leader.credential]))
        except OperatorError as problem:
            text = f"{problem}; he is heard with the key before until the next start"
            self.owner.alert(Alert("leader_key_refused", text, {"leader": leader.id}))
            return
        except VenueUnavailable as problem:
            self.log.warning("credential not checked", who=leader.id, error=str(problem))
        await self._hear_anew(index, "heard with another key")

    async def _hear_anew(self, index: int, why: str) -> None:
        """A leader's feed is replaced by another, as often as it takes until he is heard."""
        feed = self.leaders.get(index)
        pause = ACTIVATE_RETRY_S
        while feed is not None:
            await feed.stop()
            if self.leaders.get(index) is not feed:
                return  # the daemon stops, or he is heard with yet another key
            self.owner.offer(core.LeaderSync(index, False, [], why))
            try:
                feed = self._feed(index)
                await self._begin(index, feed)
                return
            except (VenueUnavailable, RestError) as problem:
                self.log.warning("leader not heard", leader=self.config.leaders[index].id, error=str(problem))
            await asyncio.sleep(pause)
            pause = min(pause * 2, ACTIVATE_RETRY_MAX_S)

    def _read_funding(self) -> None:
        """Where the venue pushes no funding of the followers', it is asked for."""
        if not self.parts.funding_by_rest:
            return
        offset = self.rest.venue_clock
        heard = self._heard_at or self.clock.now_ns()
        reader = FundingReader(
            engine=self.engine, instruments=self.instruments, fundings=self.parts.fundings, key_of=self._key_of_account,
            on_funding=self._funding, now_ms=lambda: (self.clock.now_ns() + offset.offset_ns) // 10**6,
            clock=self.clock.now_ns, heard_ms=(heard + offset.offset_ns) // 10**6)
        self._spawn(reader.run())

    def _key_of_account(self, account: int) -> Key | None:
        credential = self.credentials.get(self.engine.names.accounts[account])
        return key_of(credential) if credential is not None else None

    async def _read_transfers(self, leader: int, credential: str) -> None:
        """What the leader paid in or took out since he was last heard: neither is profit or loss of his (semantics 18)."""
        row = LeaderRow.unpack(self.engine.columns.get(LEADERS, leader))
        since = max(self._transfers_read.get(leader, 0), row.ts_equity)
        asked = self.clock.now_ns()
        if not since:
            self._transfers_read[leader] = asked  # he was never heard: there is nothing to measure from
            return
        start_ms = (since + self.rest.venue_clock.offset_ns) // 1_000_000
        held = self.credentials.get(credential)
        if held is None:  # it is gone, and he is heard with it still
            self.log.warning("leader's transfers not read", leader=self.config.leaders[leader].id, error="his key is gone")
            return
        try:
            flows = await self.parts.flows(key_of(held), start_ms)
        except (VenueUnavailable, RestError, ValueError) as error:
            self.log.warning("leader's transfers not read", leader=self.config.leaders[leader].id, error=str(error))
            return
        self._transfers_read[leader] = asked
        for amount_e8, ts in flows:
            self.owner.offer(core.LeaderFlow(leader, amount_e8, self._local(ts)))

    async def _check_key(self, who: str, name: str, key: Key) -> None:
        """A key the venue refuses is the operator's to put right, and said at once."""
        try:
            await self.parts.check_key(key)
        except RestError as error:
            if error.verdict.reason in FINAL_REASONS:
                raise OperatorError(f"{who}: the venue refuses the credential {name!r}: {error.message}") from None
            self.log.warning("credential not checked", who=who, error=str(error))
        except ValueError as error:  # an answer that cannot be read says nothing about the key
            self.log.warning("credential not checked", who=who, error=str(error))

    async def stop_leaders(self) -> None:
        """No more leader events."""
        for feed in self.leaders.values():
            await feed.stop()
        self.leaders.clear()

    async def stop(self) -> None:
        """Close everything; what is unanswered stays in the journal as unfinished."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "parts"):
            await self.parts.stop()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.owner.fail(error)

    def clock_problem(self) -> str:
        """Why this machine's clock is not good enough to sign openings by; empty when it is."""
        return self.rest.venue_clock.problem() or ""

    def banned_s(self) -> float:
        """How much longer the venue wants nothing of this address; 0 when it does not mind."""
        until = self.gateway.banned_until
        return max(0.0, (until - self.clock.now_ns()) / 1e9) if until else 0.0

    def _banned(self, account: int, seconds: float, why: str) -> None:
        who = "this address" if account < 0 else self.engine.names.accounts[account]
        self.owner.alert(Alert("banned", f"the venue wants nothing of {who} for {seconds:.0f} s", {"why": why}))

    def _placed(self, cid: bytes) -> Placed | None:
        """What an order was for, so that an answer about another one is noticed."""
        slot = self.engine.columns.order_slot(cid)
        if slot is None:
            return None
        order = OrderRow.unpack(self.engine.columns.get(ORDERS, slot))
        return Placed(
            order.account, order.instrument, order.side, order.position_side, order.order_qty, bool(order.kind),
            order.venue_order_id, max(order.cum_qty - order.exec_qty, order.estimated))

    def _expected(self, account: int, instrument: int, since: int) -> tuple[int, int, bool]:
        doubted = self.gateway.doubts.cids(account, instrument)
        return self.engine.expected(account, instrument, self.gateway.wall(since), doubted)

    def _last_mark(self, instrument: int) -> int:
        """The mark believed now, else the last one the journal has."""
        believed = self._marks.believed(instrument)
        return believed or InstrumentRow.unpack(self.engine.columns.get(INSTRUMENTS, instrument)).mark

    def _unknown_fee(self, asset: str, symbol: str) -> None:
        text = f"commissions are taken in {asset} and counted as 0: add the instrument {symbol} to the configuration"
        self.owner.alert(Alert("fee_asset_unknown", text, {"asset": asset}))

    def _mismatch(self, cid: bytes, what: str) -> None:
        text = f"the venue's answer shows another order: {what}"
        self.owner.alert(Alert("answer_mismatch", text, {"client_order_id": cid.hex()}))

    def _unknown_code(self, code: int) -> None:
        self.owner.alert(Alert("unknown_code", "the venue answered with a code that is not documented: taken as doubt", {
            "code": code}))

    def not_ready(self) -> list[str]:
        """Reasons, seen from the venue, why openings are not copied now."""
        reasons = []
        if self.banned_s():
            reasons.append(f"the venue has banned this address for {self.banned_s():.0f} s more")
        if not self.gateway.ready:
            reasons.append("no order connection is open")
        for index, feed in self.leaders.items():
            if not feed.synced:
                reasons.append(f"leader {self.engine.names.leaders[index]} is not in sync")
        for item in self.instruments:
            age = self.market.age_ns(item.index)
            if age > self.config.copy.quote_max_age_ms * 1_000_000:
                reasons.append(f"{item.symbol}: last quote {age / 1e9:.1f} s ago")
        return reasons

    # -- orders out (pump.Gateway) ------------------------------------------------------------------------------------

    @property
    def chunk_max(self) -> int:
        """Orders rendered and sent at a time."""
        return self.gateway.chunk_max

    def arrange(self, slots: array, turn: int) -> array:
        """Rows in the order in which they are best sent."""
        return self.gateway.arrange(slots, turn)

    def render(self, slots: array) -> Any:
        """Signed frames, or record batches, for these order rows; what must not or cannot be signed is reported as never sent."""
        if self._keyless:
            slots = self._without(slots, {slot for slot in slots if self._account_of(slot) in self._keyless})
        refused = self.limits.refused(slots)
        if refused:
            slots = self._without(slots, set(refused))
        return self.gateway.render(slots)

    def _account_of(self, slot: int) -> int:
        return OrderRow.unpack(self.engine.columns.get(ORDERS, slot)).account

    def _without(self, slots: array, refused: set[int]) -> array:
        """The others go; the refused ones are reported in a turn of their own."""
        batch = ReportBatch()
        for slot in slots:
            if slot in refused:
                batch.append(NOT_SENT, 0, OrderRow.unpack(self.engine.columns.get(ORDERS, slot)).cid)
        if batch.count:
            asyncio.get_running_loop().call_soon(self._reports, batch, self.clock.now_ns())
        return array("I", [slot for slot in slots if slot not in refused])

    def send(self, rendered: Any) -> None:
        """To the connections."""
        self.gateway.send(rendered)

    def register(self, account: int, name: str) -> None:
        """Give an account's key to the encoder and to queries; an account whose key is gone cannot trade."""
        credential = self.credentials.get(name)
        was_keyless = account in self._keyless
        self._keyless.discard(account)
        if credential is None:
            self._keyless.add(account)
            self.limits.forget(account)
            self.owner.alert(Alert("credential_missing", "orders of this account cannot be signed", {"account": name}))
            return
        self.limits.allow(account, credential.cap_e8)
        self.parts.register(account, name, key_of(credential))
        if was_keyless:
            for slot in self.engine.columns.orders_in_state(UNFINISHED_MASK, account):
                self.query(slot, self.clock.now_ns())

    async def renew(self, accounts: Sequence[tuple[int, str]]) -> None:
        """Connections and streams of these (account, name) begin anew with the keys they have now, or end where they have none;
        what was missed meanwhile is asked for. ``register`` was called before."""
        async def one(item: tuple[int, str]) -> None:
            account, name = item
            credential = self.credentials.get(name)
            if credential is None:
                await self.parts.forget(account)
                return
            key = key_of(credential)
            await self.parts.reopen(account, key)
            await self.streams.add_many([(account, key)], on_done=self._on_stream)
            self._follower_event(facts.StreamGap(account, "another key"))

        await in_parallel(accounts, one, ACTIVATE_CONCURRENCY)

    def ask_held(self, account: int) -> None:
        """Its position was put right: what was held against it may be settled now."""
        self.gateway.doubts.ask_held(account)

    def query(self, slot: int, ts_signed_ns: int) -> None:
        """Ask the venue about an order until it is settled (semantics 35)."""
        order = OrderRow.unpack(self.engine.columns.get(ORDERS, slot))
        if order.account in self._keyless:
            return  # in doubt until its key is back (``register`` asks then); the others trade on
        alive = order.venue_order_id != 0 or order.state in (OrderState.NEW, OrderState.PARTIALLY_FILLED)
        exposure = order.order_qty * (order.limit_px or self._marks.believed(order.instrument) or 1)
        self.gateway.query(order.cid, order.account, order.instrument, ts_signed_ns, exposure=exposure, seen=alive,
            ts_placed_ns=placed_since(order.ts_decided, order.cid, self.engine.params.epoch))

    def ask_untold(self, now: int) -> None:
        """Ask for the executions of orders that ended a while ago and of which less was told than filled."""
        columns, first = self.engine.columns, self._untold_at
        room = UNTOLD_MAX - self.gateway.untold
        if self.gateway.queries_open > UNTOLD_MAX:
            return  # what is in doubt comes first
        slots = columns.orders_untold(first, UNTOLD_STEP, now - UNTOLD_AFTER_NS, now, TERMINAL_MASK, UNTOLD_LOOK)
        for slot in slots:
            if room <= 0:
                self._untold_at = slot
                return
            order = OrderRow.unpack(columns.get(ORDERS, slot))
            if order.instrument in self.instruments and order.account not in self._keyless:
                room -= self.gateway.tell(order.cid, order.account, order.instrument, order.venue_order_id != 0)
        # Those that cannot be asked for, or were in vain, hold up nobody behind them.
        first = slots[-1] + 1 if len(slots) == UNTOLD_LOOK else first + UNTOLD_STEP
        self._untold_at = first if first < columns.count(ORDERS) else 0

    # -- reports in ------------------------------------------------------------------------------------------------------

    def _reports(self, batch: ReportBatch, ts_recv: int) -> None:
        # Of trades those that moved no quantity do not count: a list told them, they were counted before or are old ones.
        fills, doubted, ended, alive = tell_apart(batch, self.gateway.queries_open > 0)
        if fills:
            self.fills += fills
        for cid in ended:
            self.gateway.ended(cid)
        self.owner.offer(core.Reports(batch.to_bytes()))
        for cid in doubted:
            slot = self.engine.columns.order_slot(cid)
            if slot is not None:
                # Signed at the latest now: the fence counted from here is never too short.
                self.query(slot, self.clock.now_ns())
        if alive:
            # Its end is told on the user stream alone, which may be deaf: it is asked for if it is not heard.
            asyncio.get_running_loop().call_later(
                self.contract.order_ack_timeout_ms / 1000, self._ask_if_unfinished, alive)

    def _ask_if_unfinished(self, cids: list[bytes]) -> None:
        for cid in cids:
            slot = self.engine.columns.order_slot(cid)
            if slot is not None and UNFINISHED_MASK >> OrderRow.unpack(self.engine.columns.get(ORDERS, slot)).state & 1:
                self.query(slot, self.clock.now_ns())

    def _connection(self, connection: int, state: str, detail: str) -> None:
        self.log.info("order connection", connection=connection, state=state, detail=detail)

    # -- market --------------------------------------------------------------------------------------------------------

    def _on_quotes(self, quotes: list[facts.Quote]) -> None:
        for quote in quotes:
            self._quotes[quote.instrument] = (quote.bid, quote.ask, quote.ts_recv)
            self._market(quote.instrument)

    def _on_marks(self, marks: list[facts.Mark]) -> None:
        for mark in marks:
            bid, ask, ts = self._quotes.get(mark.instrument, (0, 0, 0))
            middle_twice = bid + ask if mark.ts_recv - ts <= self._quote_max_age else 0
            doubt = self._marks.note(mark.instrument, mark.mark, mark.ts_recv, middle_twice)
            if doubt and mark.instrument not in self._marks_doubted:
                self._marks_doubted.add(mark.instrument)
                symbol = self.engine.symbol(mark.instrument)
                self.owner.alert(Alert("mark_doubted", f"{symbol}: {doubt}; openings hold", {"symbol": symbol}))
            elif not doubt:
                self._marks_doubted.discard(mark.instrument)
                self._note_range(mark)
            self._market(mark.instrument)
        self.owner.marks(self._marks.all())

    def _note_range(self, mark: facts.Mark) -> None:
        """Hold the market's range against its class's limit; a pause found in the journal lasts until a window was calm."""
        found = self._ranges.get(mark.instrument)
        if found is None:
            row = InstrumentRow.unpack(self.engine.columns.get(INSTRUMENTS, mark.instrument))
            limit = self.config.slippage_of(self.engine.symbol(mark.instrument)).volatility_bps
            window_ns = self.config.copy.volatility_window_s * 1_000_000_000
            found = self._ranges[mark.instrument] = Range(limit, window_ns, bool(row.turbulent))
        if found.note(mark.mark, mark.ts_recv):
            self.owner.offer(core.Turbulence(mark.instrument, found.turbulent, found.bps))

    def _market(self, instrument: int) -> None:
        quote = self._quotes.get(instrument)
        mark = self._marks.believed(instrument)
        self.limits.price(instrument, mark, *(quote[:2] if quote else ()))
        if quote and mark:
            # Beside a mark that is not sound the quote counts as old: openings hold.
            ts = quote[2] if self._marks.sound(instrument, quote[2]) else 0
            self.owner.quote(instrument, quote[0], quote[1], mark, ts)

    def marks(self) -> list[tuple[int, int, int]]:
        """(instrument, ticks, ts) of every mark that is believed."""
        return self._marks.all()

    # -- leaders ---------------------------------------------------------------------------------------------------------

    def request_sync(self, leader: int, reason: str) -> None:
        """The engine's fold disagrees: read positions and executions again."""
        if leader in self.leaders:
            self.leaders[leader].request_sync(reason)

    def _leader_event(self, event: Any) -> None:
        if isinstance(event, facts.LeaderSync) and event.synced and event.leader in self._transfers_read:
            credential = self.config.leaders[event.leader].credential
            self._spawn(self._read_transfers(event.leader, credential))
        value = self._leader_input(event)
        if value is not None:
            self.owner.offer(value)

    def _leader_input(self, event: Any) -> Any:
        match event:
            case facts.LeaderFill():
                return core.LeaderFill(
                    event.leader, event.instrument, event.position_side, int(event.exec_id), int(event.order_id),
                    event.side, event.qty, event.px, event.order_qty, event.live, self._is_ours(event.client_order_id),
                    event.cause, self._local(event.ts_event), event.ts_recv, event.raw,
                )
            case facts.LeaderPosition():
                return core.LeaderPosition(
                    event.leader, event.instrument, event.position_side, event.qty, event.leverage, event.ts_event,
                    event.ts_recv,
                )
            case facts.LeaderEquity():
                return core.LeaderEquity(event.leader, event.equity_e8, self._local(event.ts_event))
            case facts.LeaderLeverage():
                return core.LeaderLeverage(event.leader, event.instrument, event.leverage)
            case facts.LeaderWallet() if event.cause in FLOW_CAUSES and event.asset in self._margin_assets():
                return core.LeaderFlow(event.leader, event.change_e8, self._local(event.ts_event))
            case facts.LeaderSync():
                positions = [(p.instrument, p.position_side, p.qty, p.leverage) for p in event.positions]
                return core.LeaderSync(event.leader, event.synced, positions, event.reason)
            case facts.LeaderMarginCall():
                return core.LeaderMarginCall(event.leader, self._local(event.ts_event))
            case _:
                return None

    def _margin_assets(self) -> set[str]:
        return {instrument.margin_asset for instrument in self.instruments}

    def _local(self, ts_venue: int) -> int:
        """A venue time on our clock: ages are measured with the estimated clock error taken out (semantics 12)."""
        return ts_venue - self.rest.venue_clock.offset_ns

    def _is_known(self, cid: bytes) -> bool:
        return self.engine.columns.order_slot(cid) is not None

    def _is_ours(self, client_order_id: str) -> bool:
        return len(client_order_id) == 32 and client_order_id.startswith(f"{self.config.site.id:04x}")

    # -- followers' accounts -----------------------------------------------------------------------------------------------

    async def activate(self, todo: Sequence[tuple[int, str, list[tuple[int, int]]]], known: bool) -> None:
        """Snapshot, settings and user stream of these accounts, paced by the REST budget (semantics 25).

        ``known``: accounts that were up before this start; settings that are verified already are not asked again.
        """
        keyed = [(account, key_of(self.credentials[name]), wants) for account, name, wants in todo if name in self.credentials]
        for account, name, _ in todo:
            if name not in self.credentials:
                self.owner.leg_states(account, [])
        if known:  # accounts with orders unfinished first
            slots = self.engine.columns.orders_in_state(UNFINISHED_MASK)
            busy = {OrderRow.unpack(self.engine.columns.get(ORDERS, slot)).account for slot in slots}
            keyed.sort(key=lambda item: item[0] not in busy)
        by_account = {item[0]: item for item in keyed}
        waiting: asyncio.Queue[tuple[Wanting, float]] = asyncio.Queue()
        left = len(keyed)
        done = asyncio.Event()

        def up() -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        def listening(account: int, problem: str) -> None:
            """Subscribed, or not for now: either way the account is looked at next, beside those still subscribing."""
            self._on_stream(account, problem)
            item = by_account[account]
            if known and not problem and self._verified(account, item[2]):
                self.owner.leg_states(account, [])  # armed: what changed meanwhile is found by the round's look
                self.owner.look_soon(account)
                up()
            else:
                waiting.put_nowait((item, ACTIVATE_RETRY_S))

        async def bring_up() -> None:
            while True:
                item, wait = await waiting.get()
                if await self._activate_once([item], known):
                    # What fails for want of an answer is tried again; it holds up nobody else.
                    later = (item, min(wait * 2, ACTIVATE_RETRY_MAX_S))
                    asyncio.get_running_loop().call_later(wait, waiting.put_nowait, later)
                else:
                    up()

        if not left:
            return
        workers = [asyncio.ensure_future(bring_up()) for _ in range(min(ACTIVATE_CONCURRENCY, left))]
        try:
            await self.streams.add_many(
                [(account, key) for account, key, _ in keyed], concurrency=ACTIVATE_CONCURRENCY, on_done=listening)
            ended = asyncio.ensure_future(done.wait())
            await asyncio.wait([ended, *workers], return_when=asyncio.FIRST_COMPLETED)
            for worker in workers:
                if worker.done():
                    worker.result()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _activate_once(self, keyed: list[Wanting], known: bool) -> list[Wanting]:
        """One round: snapshots, then the settings of those that answered. Returns who is to be asked again.

        Without a balance an account opens nothing, so a snapshot comes first. A key the venue refuses is not asked again
        before the next start: its legs are not ready, by name.
        """
        again: list[Wanting] = []
        answered: list[Wanting] = []
        keyed = [(account, self._key_now(account, key), wants) for account, key, wants in keyed]

        async def snapshot(item: Wanting) -> None:
            account, key, wants = item
            name = self.engine.names.accounts[account]
            try:
                asked = self._now_asked()
                self._on_snapshot(await asyncio.wait_for(self.setup.snapshot(account, key), LOOK_DEADLINE_S), *asked)
                answered.append(item)
            except RestError as problem:
                if problem.verdict.reason in FINAL_REASONS:
                    self.owner.alert(Alert("credential_refused", problem.message, {"account": name}))
                    self.owner.leg_states(account, [self._unready(account, want, problem.verdict.reason) for want, _ in wants])
                else:
                    self.log.warning("snapshot failed", account=name, problem=str(problem))
                    again.append(item)
            except (VenueUnavailable, TimeoutError) as problem:
                self.log.warning("snapshot failed", account=name, problem=str(problem) or "too slow")
                again.append(item)

        await in_parallel(keyed, snapshot, ACTIVATE_CONCURRENCY)
        fresh: dict[int, Wanting] = {}
        for item in answered:
            if known and self._verified(item[0], item[2]):
                self.owner.leg_states(item[0], [])
            else:
                fresh[item[0]] = item

        def done(account: int, states: list[facts.LegState]) -> None:
            if any(state.reason in TRANSIENT for state in states):
                again.append(fresh[account])
            else:
                self.owner.leg_states(account, states)

        hedge = {"one_way": False, "hedge": True}.get(self.config.copy.position_mode)
        await self.setup.activate_many(
            list(fresh.values()), hedge=hedge, isolated=self.config.copy.margin_type == "isolated",
            concurrency=ACTIVATE_CONCURRENCY, on_done=done)
        return again

    def _key_now(self, account: int, before: Key) -> Key:
        """The key may have been replaced since an account was first tried."""
        credential = self.credentials.get(self.engine.names.accounts[account])
        return before if credential is None else key_of(credential)

    def _unready(self, account: int, instrument: int, reason: str) -> facts.LegState:
        return facts.LegState(account, instrument, False, reason, False, False, 0, self.clock.now_ns())

    def _verified(self, account: int, wants: list[tuple[int, int]]) -> bool:
        stride = self.engine.columns.instruments_max
        return all(
            AccountInstrumentRow.unpack(self.engine.columns.get(5, account * stride + instrument)).ready
            for instrument, _ in wants
        )

    def _on_stream(self, account: int, problem: str) -> None:
        if problem:
            self.owner.alert(Alert("user_stream_refused", problem, {"account": self.engine.names.accounts[account]}))

    def _now_asked(self) -> tuple[int, int]:
        """Where the journal stands, and when it is, as a question goes out."""
        return self.engine.names.seq + 1, self.clock.now_ns()

    def _on_snapshot(self, snapshot: facts.AccountSnapshot, seq: int, asked: int) -> None:
        positions = [(instrument, side, qty) for instrument, side, qty, _ in snapshot.positions]
        self.owner.snapshot(snapshot.account, snapshot.wallet_e8, positions, seq, asked)

    def ask_positions(self, slots: bytes, seq: int) -> None:
        """The venue refused what contradicts its picture of the account: its word on position and mode settles ours."""
        indexes = array("I")
        indexes.frombytes(slots)
        suspects: dict[int, tuple[set[int], bool]] = {}
        for slot in indexes:
            order = OrderRow.unpack(self.engine.columns.get(ORDERS, slot))
            refused, mode = suspects.get(order.account, (set(), False))
            suspects[order.account] = refused | {order.instrument}, mode or order.code == POSITION_SIDE_REJECTED
        for account, (refused, mode) in sorted(suspects.items()):
            if account not in self._adopting:
                self._adopting.add(account)
                self._spawn(self._adopt_position(account, seq, sorted(refused), mode))

    async def look(self, account: int) -> tuple[int, int, list[tuple[int, int, int]]] | None:
        """One account as the venue has it now; None where it does not answer within its own deadline (bulkhead)."""
        name = self.engine.names.accounts[account]
        if name not in self.credentials:
            return None
        try:
            snapshot = await asyncio.wait_for(self.setup.snapshot(account, key_of(self.credentials[name])), LOOK_DEADLINE_S)
        except (VenueUnavailable, RestError, TimeoutError) as error:
            self.log.warning("account does not answer", account=name, error=str(error) or "too slow")
            return None
        positions = [(instrument, side, qty) for instrument, side, qty, _ in snapshot.positions]
        self._check_mode(account, {side for _, side, _ in positions})
        return account, snapshot.wallet_e8, positions

    def _check_mode(self, account: int, sides: set[int]) -> None:
        """Position sides the account's mode, as we know it, cannot have: it was changed behind our back (semantics 25)."""
        hedge = bool(AccountRow.unpack(self.engine.columns.get(4, account)).hedge)
        if sides and hedge != (0 not in sides):
            self._set_mode(account, not hedge)

    def _set_mode(self, account: int, hedge: bool) -> None:
        legs = []
        for instrument in range(len(self.engine.names.instruments)):
            at = account * self.engine.columns.instruments_max + instrument
            row = AccountInstrumentRow.unpack(self.engine.columns.get(5, at))
            legs.append((account, instrument, bool(row.ready), hedge, bool(row.isolated), row.leverage))
        self.owner.offer(core.LegsReady(legs))

    def ended(self, cid: bytes) -> None:
        """Evidence of its end came otherwise: the venue is asked about it no more."""
        self.gateway.ended(cid)

    async def _adopt_position(self, account: int, seq: int, refused: list[int], mode: bool) -> None:
        name = self.engine.names.accounts[account]
        if name not in self.credentials:
            self._adopting.discard(account)
            return
        try:
            if mode:
                hedge = await self.setup.hedge_mode(key_of(self.credentials[name]))
                if hedge != bool(AccountRow.unpack(self.engine.columns.get(4, account)).hedge):
                    self._set_mode(account, hedge)
            # An order in flight now could fill between the venue's look and our reading of it: the difference would be
            # taken for the follower's own hand, and what it bought would never be closed. The next refusal asks again.
            for _ in range(ADOPT_TRIES):
                if not self.engine.columns.orders_in_state(UNFINISHED_MASK, account):
                    break
                await asyncio.sleep(ADOPT_WAIT_S)
            else:
                self.log.warning("position not asked: orders in flight", account=name)
                return
            asked, at = self.engine.names.seq + 1, self.clock.now_ns()
            snapshot = await self.setup.snapshot(account, key_of(self.credentials[name]))
        except (VenueUnavailable, RestError, ValueError) as error:
            self.log.warning("position not read", account=name, error=str(error))
            return
        finally:
            self._adopting.discard(account)
        positions = [(instrument, side, qty) for instrument, side, qty, _ in snapshot.positions]
        found = [(account, snapshot.wallet_e8, positions)]
        self.owner.offer(core.AccountSnapshots(found, adopt=True, seq_asked=asked, ts_asked=at, refused=refused))

    def _follower_event(self, event: Any) -> None:
        match event:
            case facts.ExternalFill():
                self.owner.offer(core.ExternalFill(
                    event.account, event.instrument, event.position_side, event.qty, int(event.trade_id), event.kind,
                    self._local(event.ts_event), event.ts_event, event.px))
            case facts.OrphanFill():
                self.owner.offer(core.OrphanFill(
                    event.account, event.instrument, event.position_side, event.qty, event.px, int(event.trade_id), event.cid,
                    self._local(event.ts_event)))
            case facts.AccountFunding():
                self._funding(event)
            case facts.AccountLeverage():
                self._leverage(event.account, event.instrument, event.leverage)
            case facts.StreamGap():
                self.gaps[event.reason] += 1
                if not self._gapped:
                    asyncio.get_running_loop().call_later(GAP_GATHER_S, self._after_gaps)
                self._gapped.append(event.account)
            case _:
                pass

    def _funding(self, event: facts.AccountFunding) -> None:
        """Of the position named, else of the only one the account holds; else nobody knows whose it is, and that is said."""
        instrument = event.instrument
        if instrument < 0:
            held = [item.index for item in self.instruments if any(self.engine.expected(event.account, item.index, 0)[:2])]
            instrument = held[0] if len(held) == 1 else -1
        if instrument >= 0:
            number = event.id or event.ts_event // 10**6
            self.owner.offer(core.Funding(event.account, instrument, event.amount_e8, number, event.ts_event))
            return
        self.owner.alert(Alert("funding_unassigned", "the venue does not say which position it is for", {
            "account": self.engine.names.accounts[event.account], "amount_e8": event.amount_e8}))

    def _leverage(self, account: int, instrument: int, leverage: int) -> None:
        """Leverage changed at the venue: from the next opening on, sizes follow the actual one."""
        at = account * self.engine.columns.instruments_max + instrument
        row = AccountInstrumentRow.unpack(self.engine.columns.get(5, at))
        hedge = AccountRow.unpack(self.engine.columns.get(4, account)).hedge
        if row.leverage != leverage:
            self.owner.offer(core.LegsReady(
                [(account, instrument, bool(row.ready), bool(hedge), bool(row.isolated), leverage)]))

    def _after_gaps(self) -> None:
        """One connection carries many accounts: their unfinished orders are found in one walk over the table."""
        accounts, self._gapped = dict.fromkeys(self._gapped), []
        now = self.clock.now_ns()
        for slot in self.engine.columns.orders_in_state(UNFINISHED_MASK):
            if OrderRow.unpack(self.engine.columns.get(ORDERS, slot)).account in accounts:
                self.query(slot, now)
        for account in accounts:
            self._spawn(self._after_gap(account))

    async def _after_gap(self, account: int) -> None:
        """Events of an account may be missing: its balance is read again."""
        name = self.engine.names.accounts[account]
        if name not in self.credentials:
            return
        try:
            asked = self._now_asked()
            self._on_snapshot(await self.setup.snapshot(account, key_of(self.credentials[name])), *asked)
        except (VenueUnavailable, RestError) as error:
            self.log.warning("snapshot after a gap failed", account=name, error=str(error))
