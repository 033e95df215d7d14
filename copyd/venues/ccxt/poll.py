"""What stands where a connection stands at a venue that pushes: an account, or the market, asked again and again.

``PolledLink`` has the shape of ``Link`` and tells its owner frames (``wire.py``) and when it serves. A leader's account is asked
for its executions every ``POLL_MS``; a follower's only for orders of ours, from their placement to their end. What is heard
here counts as live, its age being the engine's to judge. A leader's account that was deaf for long, or that did more than one
page tells, ends the link: what follows begins with a back-fill.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from copyd.errors import VenueUnavailable
from copyd.venues.ccxt import codec
from copyd.venues.ccxt.contract import DEAF_S, FOLLOW_S, LAG_MS, POLL_MS
from copyd.venues.ccxt.rest import Rest
from copyd.venues.ccxt.signing import account_of
from copyd.venues.common.connection import watched
from copyd.venues.common.instruments import Instrument
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key

FAILED = (VenueUnavailable, RestError, ValueError)
RETRY_S, RETRY_MAX_S = 0.2, 10.0
#: So that an execution in a late list is told once: as many as come in the lag, and more.
SEEN_MAX = 10_000
ENDED = frozenset({"closed", "canceled", "expired", "rejected"})
LEADER = "leader-"


class PolledSession:
    """One stretch of being asked, from a login to whatever ends it."""

    def __init__(self, link: PolledLink) -> None:
        self.link = link
        self.lost = asyncio.Event()
        self.reason = ""
        self.opened_at = asyncio.get_running_loop().time()
        self.heard = self.written = self.backlog = 0
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> bool:
        return not self.lost.is_set()

    def window(self) -> tuple[int, int] | None:
        """No window: nothing is written to a socket."""
        return None

    def send_text(self, text: bytes) -> None:
        """The word of ``wire`` on what is to be asked."""
        said = msgspec.json.decode(text)
        self.spawn(self.link.ask_market(self) if "market" in said else self.link.ask_account(self, said["account"]))

    def spawn(self, work: Any) -> None:
        """A task that ends with this session."""
        task = watched(asyncio.get_running_loop().create_task(work, name=self.link.name))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def tell(self, **news: Any) -> None:
        """A frame, as long as this session serves."""
        if self.open:
            self.heard += 1
            self.link.on_frame(self, msgspec.json.encode(news))

    def ping(self) -> None:
        """Nothing to ping: an answer to a question is the sign of life."""

    def abort(self, reason: str) -> None:
        """End it."""
        self.close(reason)

    def close(self, reason: str) -> None:
        """End it."""
        if self.open:
            self.reason = reason
            self.lost.set()
            current = asyncio.current_task()
            for task in self.tasks:
                if task is not current:
                    task.cancel()
            self.link.session_lost(self)


class PolledLink:
    """See the module. Of ``rest`` it asks; ``name`` says whose it is, as for every connection."""

    def __init__(
        self, rest: Rest, name: str, url: Callable[[], Awaitable[str]], *, on_frame: Callable[[Any, bytes], None],
        on_open: Callable[[Any], None], on_lost: Callable[[Any], None], rng: random.Random, **of_connections: Any,
    ) -> None:
        """``url`` is waited for before each attempt; what else connections want to know does not matter here."""
        self.rest, self.name, self.url, self.rng = rest, name, url, rng
        self.on_frame, self.on_open, self.on_lost = on_frame, on_open, on_lost
        self.session: PolledSession | None = None
        self.old: set[PolledSession] = set()
        self.connects = self.oversized = 0
        self.last_error = ""
        self._task: asyncio.Task[None] | None = None

    # --- life ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin; ``on_open`` tells when."""
        self._task = watched(asyncio.get_running_loop().create_task(self._run(), name=self.name))

    def renew(self) -> None:
        """Begin anew: there is nothing that could stay open beside it."""
        if self.session is not None:
            self.session.close("renewed")

    async def stop(self) -> None:
        """Ask no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        session = self.session
        if session is not None:
            asking = [one for one in session.tasks if one is not asyncio.current_task()]
            session.close("stopped")
            await asyncio.gather(*asking, return_exceptions=True)

    def session_lost(self, session: PolledSession) -> None:
        """It ended, whoever ended it."""
        if self.session is session:
            self.session = None
            self.last_error = session.reason
        self.on_lost(session)

    async def _run(self) -> None:
        failures = 0
        while True:
            await self.url()
            self.connects += 1
            session = self.session = PolledSession(self)
            began = session.opened_at
            self.on_open(session)
            await session.lost.wait()
            failures = 0 if asyncio.get_running_loop().time() - began > DEAF_S else min(failures + 1, 8)
            await asyncio.sleep(min(RETRY_MAX_S, RETRY_S * 2**failures) * self.rng.uniform(0.5, 1.0))

    # --- the market ---------------------------------------------------------------------------------------------------
    async def ask_market(self, session: PolledSession) -> None:
        """Prices, for ever: a failure is said and leaves them to grow old."""
        while True:
            try:
                tickers, funding = await self.rest.market()
            except FAILED as problem:
                self.last_error = str(problem)
            else:
                session.tell(market=tickers, funding=funding)
            await asyncio.sleep(POLL_MS / 1000)

    # --- accounts -----------------------------------------------------------------------------------------------------
    async def ask_account(self, session: PolledSession, account: str) -> None:
        """See whether the account lets us in, then ask it what its owner wants to know."""
        key = self.rest.key_of(account)
        try:
            if await self.rest.hedge_mode(key) and self._leads:
                raise ValueError("the leader keeps a position per side, which ccxt's executions do not name")
            heard = Executions(self.rest, key) if self._leads else None
            if heard is not None:
                await heard.begin()
        except RestError as problem:
            session.tell(login={"ok": False, "reason": problem.verdict.reason, "text": str(problem)})
            return
        except (VenueUnavailable, ValueError) as problem:
            session.close(str(problem))
            return
        session.tell(login={"ok": True})
        if heard is not None:
            await self._lead(session, heard)
        else:
            self._follow_placed(session, key)

    @property
    def _leads(self) -> bool:
        return self.name.startswith(LEADER)

    async def _lead(self, session: PolledSession, heard: Executions) -> None:
        """A leader's executions until he was deaf for too long."""
        loop = asyncio.get_running_loop()
        answered = loop.time()
        asked = loop.time()
        while session.open:
            await asyncio.sleep(max(0.0, asked + POLL_MS / 1000 - loop.time()))
            asked = loop.time()
            try:
                trades, orders_of, gap = await heard.news()
            except FAILED as problem:
                self.last_error = str(problem)
                if loop.time() - answered > DEAF_S:
                    session.close(f"deaf: {problem}")
                continue
            answered = loop.time()
            if trades or gap:
                session.tell(trades=trades, orders_of=orders_of, gap=gap)

    def _follow_placed(self, session: PolledSession, key: Key) -> None:
        """Orders of ours on this account are asked for from their placement on."""

        def placed(symbol: str, cid: bytes) -> None:
            item = self.rest.item_of(symbol)
            if session.open and item is not None:
                session.spawn(self._follow(session, key, item, cid.hex()))

        self.rest.on_placed[account_of(key)] = placed

    async def _follow(self, session: PolledSession, key: Key, item: Instrument, cid: str) -> None:
        """One order until it has ended; what is not heard by then, the daemon asks for itself."""
        for pause in FOLLOW_S:
            await asyncio.sleep(pause)
            try:
                row = await self.rest.order_row(key, item, cid, "")
                if row is None or row.status not in ENDED:
                    continue
                trades = await self.rest.trade_rows_of(key, item, row) if codec.filled_lots(row, item) else []
            except FAILED as problem:
                self.last_error = str(problem)
                continue
            session.tell(trades=trades, orders_of={row.id: row}, orders=[row])
            return


class Executions:
    """A leader's executions that were not told before, with the orders they belong to."""

    def __init__(self, rest: Rest, key: Key) -> None:
        self.rest, self.key = rest, key
        self._since: dict[int, int] = {}
        self._seen: dict[tuple[str | None, str, str], None] = {}
        self._orders: dict[str, codec.Order] = {}

    async def begin(self) -> None:
        """What there is by now is history: the stream reads it itself."""
        now = self.rest.venue_clock.timestamp_ms()
        for item in self.rest.instruments:
            self._since[item.index] = now - LAG_MS
        for item in self.rest.instruments:
            self._tell_no_more(item, await self._page(item))

    async def news(self) -> tuple[list[codec.Trade], dict[str, codec.Order], str]:
        """Executions since the last time, oldest first; their orders; and why some may be missing, "" = none are."""
        trades: list[codec.Trade] = []
        gap = ""
        items = list(self.rest.instruments)
        pages = await asyncio.gather(*(self._page(item) for item in items))
        for item, rows in zip(items, pages, strict=True):  # all of them or none: what fails is asked for again as a whole
            trades += self._tell_no_more(item, rows)
            gap = gap if len(rows) < self.rest.contract.backfill_page_max else "more executions than one page tells"
        trades.sort(key=lambda row: row.timestamp)
        for row in trades:
            await self._order_of(row)
        return trades, {row.order: self._orders[row.order] for row in trades if row.order in self._orders}, gap

    async def _page(self, item: Instrument) -> list[codec.Trade]:
        return await self.rest.trade_rows(self.key, item, self._since[item.index])

    def _tell_no_more(self, item: Instrument, rows: list[codec.Trade]) -> list[codec.Trade]:
        """What is new among them, from now on told."""
        fresh = [row for row in rows if (row.id, row.symbol, row.side) not in self._seen]
        for row in fresh:
            self._seen[row.id, row.symbol, row.side] = None
            self._since[item.index] = max(self._since[item.index], row.timestamp - LAG_MS)
        while len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        return fresh

    async def _order_of(self, row: codec.Trade) -> None:
        """How large its order was and whose id it bears; without an answer the execution is told without."""
        item = self.rest.item_of(row.symbol)
        if item is None or not row.order or row.order in self._orders:
            return
        with contextlib.suppress(*FAILED):
            found = await self.rest.order_row(self.key, item, "", row.order)
            if found is not None:
                self._orders[row.order] = found
        while len(self._orders) > SEEN_MAX:
            del self._orders[next(iter(self._orders))]


