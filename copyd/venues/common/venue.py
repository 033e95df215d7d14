"""What a venue's folder gives: the words of one venue, behind one interface.

A venue whose private connections belong to one account each (a *session venue*: log in, then orders and events) is a
contract record, tables and pure functions; connections, doubts, leader feeds and activation are the same for all of them and
stand in this package. Per folder::

    contract.py     CONTRACT (``VenueContract``), Endpoints, the weights of its calls
    errors.py       CODES: every documented code -> (Outcome, reason); classify(...); what a refusal of the rate is
    signing.py      signatures of REST and login; ``place_text``: the readable twin of the compiled rendering
    instruments.py  load_instruments(bodies, wanted) -> Instruments
    codec.py        frames and bodies to ``told`` and ``facts``; pure
    wire.py         its ``Wire``: connections, logins, subscriptions, orders as text, frames read
    rest.py         Rest(``Reads``): questions and settings
    rights.py       rights_of(...) -> ``Rights``: what a key may do

REST answers are classified by ``errors.classify``; a business error in a 200 is an error like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from copyd.core import leader_stream as ls
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import Malformed, Mark, Quote
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.signing import Key
from copyd.venues.common.told import OrderTold, Told, TradeTold, Unused


class Order(NamedTuple):
    """An order to be rendered; ``px`` 0: market, else an IOC limit. ``qty`` lots, ``px`` ticks, ``side`` +1 or -1,
    ``position_side`` 0 one-way, 1 long, 2 short."""

    account: int
    instrument: Instrument
    cid: bytes
    qty: int
    px: int
    side: int
    position_side: int
    reduce_only: bool


class Channel(msgspec.Struct, frozen=True):
    """A private connection of one account."""

    name: str
    url: str
    #: Orders go out on it, and their answers come in.
    orders: bool
    #: The account's events come in on it.
    events: bool
    #: (name, message) of what is subscribed to after the login.
    subscriptions: tuple[tuple[str, bytes], ...] = ()
    #: A text the venue wants as a sign of life, and how often; b"": WebSocket pings serve.
    ping: bytes = b""
    ping_every_ms: int = 0


class AccountBooks(msgspec.Struct, frozen=True):
    """Balance and positions of an account: (instrument, position side, signed lots, entry price e8)."""

    wallet_e8: int
    available_e8: int
    equity_e8: int
    positions: tuple[tuple[int, int, int, int], ...]
    ts_event: int


class Settings(msgspec.Struct):
    """How an account is set for one instrument."""

    hedge: bool
    isolated: bool
    leverage: int
    can_trade: bool = True


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """What a key may do, as the venue tells the key itself.

    ``moves_funds``: names of every right to withdraw or to transfer money away, as the venue calls them; ``unknown``: rights
    that the venue names and our table does not know. ``ip_bound`` None: the venue does not say.
    """

    read: bool
    trade: bool
    moves_funds: tuple[str, ...]
    ip_bound: bool | None
    ips: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    expires_ms: int = 0  # 0 = not told, or never
    account_id: str = ""


class Reads(Protocol):
    """Questions to the venue and settings, over REST.

    All raise ``VenueUnavailable`` without an answer, ``RestError`` for a refusal, ``ValueError`` for what cannot be read. Nothing
    is repeated by itself: whether a call may be repeated is the caller's knowledge.
    """

    contract: VenueContract

    async def server_ms(self) -> int:
        """The venue's clock, ms."""

    async def instrument_bodies(self) -> Any:
        """What ``load_instruments`` reads."""

    async def settings(self, key: Key, instrument: Instrument) -> Settings:
        """Position mode, margin type and leverage as they are."""

    async def hedge_mode(self, key: Key) -> bool:
        """Whether the account keeps a position per side."""

    async def set_hedge(self, key: Key, hedge: bool) -> None:
        """Set the position mode; "no change" is success."""

    async def set_margin(self, key: Key, instrument: Instrument, isolated: bool, leverage: int) -> None:
        """Set the margin type; "no change" is success. ``leverage``: what it is to be kept at, where the venue wants both."""

    async def set_leverage(self, key: Key, instrument: Instrument, leverage: int, isolated: bool) -> None:
        """Set the leverage; "no change" is success."""

    async def books(self, key: Key) -> AccountBooks:
        """Balance and positions, all instruments of ours."""

    async def positions(self, key: Key) -> list[ls.Position]:
        """Positions with their leverage, flat ones may be left out."""

    async def leverage(self, key: Key, instrument: Instrument) -> int:
        """The account's leverage in an instrument; 0 = not told."""

    async def order(
        self, key: Key, instrument: Instrument, *, cid: bytes | None = None, order_id: int = 0
    ) -> OrderTold | None:
        """An order by our client id, or by ``venue_order_id``; None: the venue says that there is none (authoritative as far as
        the contract says)."""

    async def orders_since(self, key: Key, instrument: Instrument, since_ms: int) -> tuple[list[OrderTold], bool]:
        """Every order of the instrument placed since then, and whether that is all of them."""

    async def trades_of(self, key: Key, instrument: Instrument, told: OrderTold | None, cid: bytes) -> list[TradeTold]:
        """The executions of one order of ours. ``told``: the order, where it was asked for before."""

    async def trades_from(self, key: Key, instrument: Instrument, from_id: int, limit: int) -> list[TradeTold]:
        """Executions of the account from an execution id on, oldest first by id, at most ``limit`` (fewer: there are no more)."""

    async def newest_trade(self, key: Key, instrument: Instrument) -> TradeTold | None:
        """The account's last execution in the instrument."""

    async def flows(self, key: Key, since_ms: int) -> list[tuple[int, int]]:
        """What was paid in (above 0) or taken out since: (amount e8, venue ns)."""

    async def rights(self, key: Key) -> Rights:
        """What the key may do."""


class Wire(Protocol):
    """The venue's private and public connections as text. Pure: no socket, no clock, no state but the instruments."""

    def bind(self, instruments: Instruments) -> None:
        """The instruments in use, before anything else."""

    def channels(self, endpoints: Any, key: Key | None = None) -> tuple[Channel, ...]:
        """The private connections an account needs, those that carry orders first; ``key``: where they differ by account, which
        ``Rest.prepare(key)`` has looked at before (None: of the ordinary account)."""

    def login(self, channel: Channel, key: Key, now_ms: int) -> bytes:
        """The login message; b"" where the channel needs none."""

    def place(self, order: Order, now_ms: int) -> bytes:
        """The placement as one text message: the readable twin of the compiled rendering. Its answer must name the order."""

    def read(self, channel: str, payload: bytes, ts_recv: int) -> Sequence[Told]:
        """What a frame of that channel says, in its order."""

    def market(self, endpoints: Any) -> tuple[Channel, ...]:
        """Public connections for the best bid and ask and the mark of every instrument."""

    def read_market(self, payload: bytes, ts_recv: int, channel: str = "") -> Sequence[Quote | Mark | Unused | Malformed]:
        """What a public frame of that channel says; without it, of an instrument whose name belongs to one alone."""
