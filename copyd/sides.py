"""All venues of the daemon as one: each account's orders go to its venue, each venue's troubles stay its own.

One ``VenueSide`` per configured venue that has an instrument. Indexes of accounts, instruments and leaders are the engine's, over
all venues.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from copyd.config import Config
from copyd.core.engine import Engine
from copyd.core.rows import OrderRow
from copyd.credentials import Credentials
from copyd.errors import OperatorError, VenueUnavailable
from copyd.runtime.clock import Clock
from copyd.venue_side import ORDERS, Owner, VenueSide
from copyd.venues.common.instruments import Instrument
from copyd.venues.common.rest import RestError

NOWHERE = 255


class VenueSides:
    """See the module. The pump's ``Gateway`` and the reconciler's eyes."""

    def __init__(
        self, config: Config, credentials: Credentials, clock: Clock, owner: Owner,
        make: Callable[..., VenueSide] = VenueSide,
    ) -> None:
        self.config = config
        self._credentials = credentials
        self.engine: Engine
        self.sides: list[VenueSide] = []
        for venue in config.venues:
            wanted = [(at, item.symbol) for at, item in enumerate(config.instruments) if item.venue == venue.name]
            if wanted:
                self.sides.append(make(config, venue, wanted, credentials, clock, owner))
        self._by_name = {side.venue.name: side for side in self.sides}
        self._by_instrument = {at: side for side in self.sides for at, _ in side.wanted}
        #: Of each instrument the place of its venue in ``sides``; one that is nowhere has a place nobody has.
        self._side_of = bytes(
            self.sides.index(self._by_instrument[at]) if at in self._by_instrument else NOWHERE
            for at in range(max(self._by_instrument, default=-1) + 1))
        self._only = self.sides[0] if len(self.sides) == 1 else None

    # -- who is where ---------------------------------------------------------------------------------------------

    @property
    def credentials(self) -> Credentials:
        """The keys of all accounts."""
        return self._credentials

    @credentials.setter
    def credentials(self, credentials: Credentials) -> None:
        self._credentials = credentials
        for side in self.sides:
            side.credentials = credentials

    @property
    def instruments(self) -> list[Instrument]:
        """Every instrument, by its index."""
        return sorted((item for side in self.sides for item in side.instruments), key=lambda item: item.index)

    def of_account(self, account: int) -> VenueSide:
        """The venue an account trades on."""
        if self._only is not None:
            return self._only
        return self._by_name[self.engine.account_venue(account)]

    def of_instrument(self, instrument: int) -> VenueSide:
        """The venue of an instrument."""
        return self._by_instrument[instrument]

    def of_leader(self, leader: int) -> VenueSide:
        """The venue a leader trades on."""
        return self._by_name[self.config.leaders[leader].venue]

    def _each(self, accounts: Iterable[int]) -> dict[VenueSide, list[int]]:
        found: dict[VenueSide, list[int]] = {}
        for account in accounts:
            found.setdefault(self.of_account(account), []).append(account)
        return found

    # -- life -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Reach every venue."""
        await self._with_each(lambda side: side.open())

    def bind(self, engine: Engine) -> None:
        """The engine whose tables hold the orders."""
        self.engine = engine
        for side in self.sides:
            side.bind(engine)

    async def start_orders(self) -> None:
        """Order connections and follower streams of every venue."""
        await self._with_each(lambda side: side.start_orders())

    async def start_market(self) -> None:
        """Quotes and marks of every instrument."""
        await self._with_each(lambda side: side.start_market())

    async def start_leaders(self) -> None:
        """Every leader's account, one after the other of each venue."""
        await self._with_each(lambda side: side.start_leaders(alone=self._only is not None))

    async def stop_leaders(self) -> None:
        """No more leader events."""
        for side in self.sides:
            await side.stop_leaders()

    async def stop(self) -> None:
        """Close everything; what is unanswered stays in the journal as unfinished."""
        await asyncio.gather(*(side.stop() for side in self.sides))

    async def _with_each(self, work: Callable[[VenueSide], Coroutine[Any, Any, None]]) -> None:
        """Every venue at once. The first that fails ends what the others were at, and its error names it."""
        tasks = {asyncio.ensure_future(work(side)): side for side in self.sides}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            error = task.exception()
            if error is not None:
                raise _named(tasks[task].venue.name, error) from error

    # -- orders out (pump.Gateway) ----------------------------------------------------------------------------------

    @property
    def chunk_max(self) -> int:
        """Orders rendered and sent at a time."""
        return max(side.chunk_max for side in self.sides)

    def arrange(self, slots: array[int], turn: int) -> array[int]:
        """Rows in the order in which they are best sent: reductions of all venues in front, then venue by venue in turn."""
        if self._only is not None:
            return self._only.arrange(slots, turn)
        out = array("I")
        for part in self.engine.columns.reductions_first(slots):
            by_side = self._split(part)
            for at in range(len(by_side)):
                side, own = by_side[(at + turn) % len(by_side)]
                out.extend(side.arrange(own, turn))
        return out

    def _split(self, slots: array[int]) -> list[tuple[VenueSide, array[int]]]:
        return [(self.sides[at], own) for at, own in self.engine.columns.split_orders(slots, self._side_of)]

    def render(self, slots: array[int]) -> Any:
        """Signed frames for these order rows, each venue's for itself."""
        if self._only is not None:
            return self._only.render(slots)
        return [(side, side.render(own)) for side, own in self._split(slots)]

    def send(self, rendered: Any) -> None:
        """To the connections."""
        if self._only is not None:
            self._only.send(rendered)
            return
        for side, own in rendered:
            side.send(own)

    # -- accounts ---------------------------------------------------------------------------------------------------

    def register(self, account: int, name: str) -> None:
        """Give an account's key to its venue."""
        self.of_account(account).register(account, name)

    async def renew(self, accounts: Sequence[tuple[int, str]]) -> None:
        """Connections of these (account, name) begin anew with the keys they have now."""
        names = dict(accounts)
        by_side = self._each(names)
        await asyncio.gather(*(side.renew([(account, names[account]) for account in own]) for side, own in by_side.items()))

    def renew_leader(self, leader: int) -> None:
        """A leader is heard with the key he has now."""
        self.of_leader(leader).renew_leader(leader)

    def plans_changed(self, accounts: Iterable[int]) -> None:
        """Plans of these accounts were added or changed: what may be signed for them follows."""
        for side, own in self._each(accounts).items():
            side.limits.plans_changed(own)

    def configured(self) -> None:
        """Another configuration is in force."""
        for side in self.sides:
            side.limits.configured()

    async def activate(self, todo: Sequence[tuple[int, str, list[tuple[int, int]]]], known: bool) -> None:
        """Bring accounts up, each venue in its own pace."""
        by_side: dict[VenueSide, list[tuple[int, str, list[tuple[int, int]]]]] = {}
        for item in todo:
            by_side.setdefault(self.of_account(item[0]), []).append(item)
        await asyncio.gather(*(side.activate(own, known) for side, own in by_side.items()))

    async def look(self, account: int) -> tuple[int, int, list[tuple[int, int, int]]] | None:
        """One account as its venue has it now."""
        return await self.of_account(account).look(account)

    def ask_held(self, account: int) -> None:
        """Its position was put right: what was held against it may be settled now."""
        self.of_account(account).ask_held(account)

    def ask_positions(self, slots: bytes, seq: int) -> None:
        """Orders that were refused for what contradicts a venue's picture of the account."""
        if self._only is not None:
            self._only.ask_positions(slots, seq)
            return
        for side, own in self._split(array("I", slots)):
            side.ask_positions(own.tobytes(), seq)

    def query(self, slot: int, ts_signed_ns: int) -> None:
        """Ask an order's venue about it until it is settled."""
        order = OrderRow.unpack(self.engine.columns.get(ORDERS, slot))
        self.of_instrument(order.instrument).query(slot, ts_signed_ns)

    def ended(self, cid: bytes) -> None:
        """Evidence of its end came otherwise: the venue is asked about it no more."""
        for side in self.sides:
            side.ended(cid)

    def ask_untold(self, now: int) -> None:
        """Ask for executions that were not told."""
        for side in self.sides:
            side.ask_untold(now)

    # -- state ------------------------------------------------------------------------------------------------------

    def request_sync(self, leader: int, reason: str) -> None:
        """The engine's fold disagrees: read positions and executions again."""
        self.of_leader(leader).request_sync(leader, reason)

    def marks(self) -> list[tuple[int, int, int]]:
        """(instrument, ticks, ts) of every mark that is believed."""
        return [mark for side in self.sides for mark in side.marks()]

    @property
    def fills(self) -> int:
        """Executions the venues reported."""
        return sum(side.fills for side in self.sides)

    @property
    def read_lag_ns(self) -> int:
        """How far the slowest venue's queries may lag its engine."""
        return max(side.contract.read_lag_ms for side in self.sides) * 1_000_000

    def looks_per_s(self, share_bps: int) -> float:
        """Looks at accounts that this share of the request budgets affords: of the venue that affords the fewest."""
        return min(
            side.weight_per_min * share_bps / 10_000 / 60 / side.contract.weight(side.contract.call_account)
            for side in self.sides)

    def windows(self) -> list[tuple[int, int]]:
        """Of every open order connection: bytes its window takes, its round trip in ns."""
        return [window for side in self.sides if hasattr(side, "gateway") for window in side.gateway.windows()]

    def clock_problems(self) -> dict[str, str]:
        """By venue, why this machine's clock is not good enough to sign openings there by; empty where it is."""
        return {side.venue.name: side.clock_problem() for side in self.sides}

    def banned_s(self) -> float:
        """How much longer nothing can be sent at all; 0 while one venue takes orders."""
        return min(side.banned_s() for side in self.sides)

    def not_ready(self) -> list[str]:
        """Reasons, seen from the venues, why openings are not copied now."""
        if self._only is not None:
            return self._only.not_ready()
        return [f"{side.venue.name}: {reason}" for side in self.sides for reason in side.not_ready()]


def _named(venue: str, error: BaseException) -> BaseException:
    """The error as the operator reads it: which of his venues it is about."""
    if isinstance(error, VenueUnavailable | RestError):
        return VenueUnavailable(f"venue {venue}: {error}")
    return OperatorError(f"venue {venue}: {error}") if type(error) is OperatorError else error
