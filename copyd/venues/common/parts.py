"""The parts of one venue's adapter, wired: what the daemon's venue side holds, whatever the venue.

``Hooks`` is what an adapter tells the daemon and asks of it. ``SessionParts`` wires a session venue from its ``Kind``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from copyd._fast.columns import Columns, ReportBatch
from copyd._fast.render import Renderer
from copyd.errors import OperatorError, VenueUnavailable
from copyd.venues.common.accounts import AccountSetup, FollowerStreams
from copyd.venues.common.commissions import Commission, Commissions
from copyd.venues.common.connection import Session
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import LeaderEvent, Mark, Placed, Quote
from copyd.venues.common.feed import LeaderFeed, MarketFeed
from copyd.venues.common.gateway import RestOrders, SessionGateway
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.rest import RestBase, RestError
from copyd.venues.common.sessions import Line, Sessions, paces_of
from copyd.venues.common.signing import Key
from copyd.venues.common.templates import KINDS, teach
from copyd.venues.common.told import Answered, FundingTold, Told
from copyd.venues.common.venue import Channel, Reads, Rights, Wire

QUERY_SHARE = 0.5
CLOCK_EVERY_S = 60.0


class Hooks(NamedTuple):
    """What the daemon gives an adapter. Indexes of accounts, instruments and leaders are the engine's."""

    clock: Callable[[], int]
    on_reports: Callable[[ReportBatch, int], None]
    on_connection: Callable[[int, str, str], None]
    on_follower_event: Callable[[Any], None]
    on_leader_event: Callable[[LeaderEvent], None]
    on_quotes: Callable[[list[Quote]], None]
    on_marks: Callable[[list[Mark]], None]
    on_ban: Callable[[int, float, str], None]
    on_mismatch: Callable[[bytes, str], None]
    on_unknown_code: Callable[[int], None]
    on_unknown_account: Callable[[int], None]
    on_unknown_fee: Callable[[str, str], None]
    placed: Callable[[bytes], Placed | None]
    is_known: Callable[[bytes], bool]
    expected: Callable[[int, int, int], tuple[int, int, bool]]
    last_mark: Callable[[int], int]
    account_key: Callable[[int], Key]
    site_tag: str
    #: Whether an account keeps a position per side.
    is_hedge: Callable[[int], bool] = lambda account: False
    #: (account, problem): the venue lets an account in no more, and nobody is waiting for it who is told otherwise.
    on_shut_out: Callable[[int, str], None] = lambda account, problem: None


class LeaderTerms(NamedTuple):
    """One leader to be heard."""

    leader: int
    key: Key
    equity_poll_s: float
    position_poll_s: float


class Parts(Protocol):
    """One venue's adapter, as the venue side uses it."""

    contract: VenueContract
    instruments: Instruments
    rest: Any
    gateway: Any
    setup: Any
    streams: Any
    market: Any
    #: The venue pushes no funding: it is asked for (``fundings``).
    funding_by_rest: bool

    async def open(self, wanted: Sequence[tuple[int, str]], timeout_s: float) -> None:
        """Reach the venue: its clock, its instruments (engine index, symbol); make everything that needs them."""

    def bind(self, columns: Columns) -> None:
        """The tables that hold the orders."""

    async def start_orders(self, timeout_s: float) -> None:
        """Order connections and what reads accounts."""

    def register(self, account: int, name: str, key: Key) -> None:
        """An account that trades here; for one that is known, the key its orders are signed with from now on."""

    async def reopen(self, account: int, key: Key) -> None:
        """What an account was heard over with another key is closed; ``streams.add_many`` hears it again."""

    async def forget(self, account: int) -> None:
        """Its key is gone: nothing is signed, asked or heard with it any more."""

    def leader_feed(self, terms: LeaderTerms) -> Any:
        """The feed of one leader."""

    async def check_key(self, key: Key) -> None:
        """A signed call that costs little; ``RestError`` where the venue refuses the key."""

    async def position(self, key: Key, instrument: Instrument) -> tuple[int, int]:
        """(net or long, short) lots as the venue has them; ``VenueUnavailable`` otherwise."""

    async def flows(self, key: Key, since_ms: int) -> list[tuple[int, int]]:
        """What was paid in (above 0) or taken out since: (amount e8, venue ns)."""

    async def fundings(self, key: Key, since_ms: int) -> list[FundingTold]:
        """Funding received (above 0) or paid since, oldest first, where the venue pushes none."""

    async def rights(self, key: Key) -> Rights:
        """What a key may do."""

    async def keep_clock(self) -> None:
        """Measure the venue's clock for ever."""

    async def stop(self) -> None:
        """Close everything."""


class Making(NamedTuple):
    """What a venue's wire and REST client are made from.

    ``weight``: of one address, per the contract's interval. ``isolated``: the margin type of every order of a perpetual.
    """

    endpoints: Any
    contract: VenueContract
    clock: Callable[[], int]
    weight: int = 1
    isolated: bool = True
    source_addresses: tuple[str, ...] = ()


class Kind(NamedTuple):
    """A kind of session venue: what its folder gives."""

    name: str
    contract: VenueContract
    make: Callable[[Making], tuple[Wire, Any]]
    load_instruments: Callable[[Any, Sequence[tuple[int, str]]], Instruments]
    #: Orders go by REST alone.
    by_rest: bool = False
    #: The venue pushes no funding payment that names its amount: the accounts are asked (``Rest.fundings``).
    funding_by_rest: bool = False


class Terms(NamedTuple):
    """What the operator configures of a session venue."""

    weight_per_min: int
    opening_wait_ms: int
    isolated: bool
    source_addresses: tuple[str, ...] = ()


class SessionParts:
    """A session venue's adapter: one login per connection and account."""

    def __init__(self, kind: Kind, contract: VenueContract, endpoints: Any, terms: Terms, hooks: Hooks) -> None:
        self.kind, self.contract, self.endpoints, self.terms, self.hooks = kind, contract, endpoints, terms, hooks
        self.funding_by_rest = kind.funding_by_rest
        limit = contract.limit("weight", "ip")
        weight = max(1, terms.weight_per_min * limit.interval_ms // 60_000)
        self.wire, made = kind.make(
            Making(endpoints, contract, hooks.clock, weight, terms.isolated, terms.source_addresses))
        self.rest: Any = made
        self.instruments: Instruments

    async def open(self, wanted: Sequence[tuple[int, str]], timeout_s: float) -> None:
        """As ``Parts.open``."""
        hooks = self.hooks
        await self.rest.open()
        try:
            await self.rest.measure_clock()
            bodies = await self.rest.instrument_bodies()
        except (VenueUnavailable, RestError) as error:
            raise VenueUnavailable(f"the exchange does not answer at {self.endpoints.rest}: {error}") from None
        try:
            self.instruments = self.kind.load_instruments(bodies, wanted)
        except ValueError as error:
            raise OperatorError(f"instruments: {error}") from None
        self.wire.bind(self.instruments)
        self.rest.bind(self.instruments)
        self.rest.bans.on_ban = hooks.on_ban
        self._wire_up()

    def _channels(self, key: Key) -> tuple[Channel, ...]:
        return self.wire.channels(self.endpoints, key)

    def _event_channels(self, key: Key) -> tuple[Channel, ...]:
        return tuple(channel for channel in self._channels(key) if channel.events)

    def _wire_up(self) -> None:
        hooks, rest = self.hooks, self.rest
        base: RestBase = rest
        reads: Reads = rest
        commissions = Commissions(self.instruments, hooks.last_mark, hooks.on_unknown_fee)

        def commission(amount: str, asset: str, instrument: int) -> Commission | None:
            item = self.instruments[instrument]
            return commissions.of(amount, asset or item.margin_asset, item)

        #: Whoever connects from one address keeps one pace: followers, leaders, the market.
        self.paces = paces_of(self.contract, self.terms.source_addresses)
        self.prepare: Callable[[Key], Awaitable[Any]] | None = getattr(rest, "prepare", None)
        self.sessions = Sessions(
            wire=self.wire, channels=self._channels, contract=self.contract, clock=hooks.clock, venue_clock=base.venue_clock,
            bans=base.bans, on_told=self._on_told, on_ready=self._on_ready, on_lost=self._on_lost,
            on_refused=self._on_refused, prepare=self.prepare,
            paces=self.paces, name=self.kind.name,
        )  # fmt: skip
        orders: RestOrders | None = rest if hasattr(rest, "place") else None
        self.gateway = SessionGateway(
            wire=self.wire, sessions=self.sessions, reads=reads, rest_orders=orders, instruments=self.instruments,
            contract=self.contract, clock=hooks.clock, venue_clock=base.venue_clock, bans=base.bans,
            on_reports=hooks.on_reports, expected=hooks.expected, placed=hooks.placed, commission=commission,
            on_mismatch=hooks.on_mismatch, on_unknown_code=hooks.on_unknown_code,
            queries_per_s=QUERY_SHARE * self.terms.weight_per_min / 60, opening_wait_ms=self.terms.opening_wait_ms,
            by_rest=self.kind.by_rest,
            renderer=None if self.kind.by_rest else self._renderer(),
        )  # fmt: skip
        self.streams = FollowerStreams(
            sessions=self.sessions, instruments=self.instruments, clock=hooks.clock, site_tag=hooks.site_tag,
            on_reports=hooks.on_reports, on_event=hooks.on_follower_event, is_known=hooks.is_known, commission=commission,
            is_hedge=hooks.is_hedge, on_shut_out=hooks.on_shut_out,
        )  # fmt: skip
        self.setup = AccountSetup(
            reads=reads, instruments=self.instruments, clock=hooks.clock, venue_clock=base.venue_clock)
        self.market = MarketFeed(
            wire=self.wire, channels=self.wire.market(self.endpoints), instruments=self.instruments, contract=self.contract,
            clock=hooks.clock, on_quotes=hooks.on_quotes, on_marks=hooks.on_marks, pace=next(iter(self.paces.values())),
        )  # fmt: skip

    def _renderer(self) -> Renderer:
        """The compiled rendering of orders as frames, taught by the wire's own text: ``place_signed`` where every order is."""
        wire: Any = self.wire
        twin = getattr(wire, "place_signed", None) or (lambda key, order, now_ms: wire.place(order, now_ms))
        renderer = Renderer("frame", self.hooks.clock() & 0xFFFFFFFF)
        for item in self.instruments:
            kinds = [kind for kind in KINDS if not item.spot or not (kind[2] or kind[3])]
            teach(renderer, twin, item, kinds)
        return renderer

    # --- what the connections say ---------------------------------------------------------------------------------------
    def _on_told(self, line: Line, told: Told, payload: bytes, ts_recv: int) -> None:
        if type(told) is Answered:
            self.gateway.on_answered(line, told)
        else:
            self.streams.on_told(line, told)

    def _on_ready(self, line: Line) -> None:
        self.gateway.on_ready(line)
        self.streams.on_ready(line)

    def _on_lost(self, line: Line, session: Session) -> None:
        self.gateway.on_lost(line, session)

    def _on_refused(self, account: int, problem: str, final: bool) -> None:
        self.streams.on_refused(account, problem, final)

    # --- as ``Parts`` says ------------------------------------------------------------------------------------------------
    def bind(self, columns: Columns) -> None:
        """The tables that hold the orders."""
        self.gateway.bind(columns)

    async def start_orders(self, timeout_s: float) -> None:
        """Begin to open connections; they come up in the venue's pace."""
        self.sessions.start()
        await self.gateway.start()
        await self.streams.start()

    def register(self, account: int, name: str, key: Key) -> None:
        """An account that trades here: its connections are opened."""
        self.gateway.register(account, key)

    async def reopen(self, account: int, key: Key) -> None:
        """As ``Parts.reopen``: what the closed connections owed is in doubt and asked for with the new key."""
        await self.sessions.remove(account)
        self.sessions.add(account, key)

    async def forget(self, account: int) -> None:
        """As ``Parts.forget``."""
        await self.gateway.forget(account)
        await self.streams.remove(account)

    def leader_feed(self, terms: LeaderTerms) -> LeaderFeed:
        """The feed of one leader, over connections of its own."""
        return LeaderFeed(
            leader=terms.leader, key=terms.key, wire=self.wire, channels=self._event_channels, prepare=self.prepare,
            reads=self.rest,
            instruments=self.instruments, contract=self.contract, clock=self.hooks.clock, venue_clock=self.rest.venue_clock,
            bans=self.rest.bans, paces=self.paces, on_event=self.hooks.on_leader_event, equity_poll_s=terms.equity_poll_s,
            position_poll_s=terms.position_poll_s, seed=terms.leader,
        )  # fmt: skip

    async def check_key(self, key: Key) -> None:
        """As ``Parts.check_key``."""
        await self.rest.hedge_mode(key)

    async def position(self, key: Key, instrument: Instrument) -> tuple[int, int]:
        """As ``Parts.position``."""
        try:
            rows = [row for row in await self.rest.positions(key) if row.instrument == instrument.index]
        except (RestError, ValueError) as error:
            raise VenueUnavailable(str(error)) from None
        return sum(row.qty for row in rows if row.position_side != 2), sum(row.qty for row in rows if row.position_side == 2)

    async def flows(self, key: Key, since_ms: int) -> list[tuple[int, int]]:
        """As ``Parts.flows``."""
        found: list[tuple[int, int]] = await self.rest.flows(key, since_ms)
        return found

    async def fundings(self, key: Key, since_ms: int) -> list[FundingTold]:
        """As ``Parts.fundings``."""
        found: list[FundingTold] = await self.rest.fundings(key, since_ms)
        return found

    async def rights(self, key: Key) -> Rights:
        """What a key may do."""
        found: Rights = await self.rest.rights(key)
        return found

    async def keep_clock(self) -> None:
        """Measure for ever; a failed measurement leaves the last one standing."""
        while True:
            await asyncio.sleep(CLOCK_EVERY_S)
            try:
                await self.rest.measure_clock()
            except (VenueUnavailable, RestError):
                self.rest.errors += 1

    async def stop(self) -> None:
        """Close everything; whoever stops us has waited for the orders in flight as long as is to be waited."""
        if hasattr(self, "market"):
            await self.market.stop()
            await self.streams.stop()
            await self.gateway.stop(0)
        await self.rest.close()


__all__ = ["Hooks", "Kind", "LeaderTerms", "Parts", "SessionParts", "Terms"]
