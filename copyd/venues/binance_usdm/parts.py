"""The parts of the Binance USD-M adapter, wired: connections that each carry many accounts, compiled rendering and reading.

Orders may go another way, in record batches to an engine beside us (``copyd.venues.batch``); leaders and followers are watched
over the venue's own interfaces all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from copyd._fast.columns import Columns
from copyd._fast.encode import Encoder
from copyd.errors import OperatorError, VenueUnavailable
from copyd.venues.batch.contract import BatchContract
from copyd.venues.batch.gateway import BatchGateway
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.accounts import AccountSetup, FollowerStreams
from copyd.venues.binance_usdm.contract import Endpoints
from copyd.venues.binance_usdm.feed import LeaderFeed, MarketFeed
from copyd.venues.binance_usdm.gateway import OrderGateway
from copyd.venues.binance_usdm.instruments import load_instruments
from copyd.venues.binance_usdm.rest import RestClient, RestError
from copyd.venues.binance_usdm.rights import CALL as RIGHTS_CALL
from copyd.venues.binance_usdm.rights import rights_of
from copyd.venues.common.commissions import Commissions
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import MS_NS, decode_body, money_e8
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.parts import QUERY_SHARE, Hooks, LeaderTerms
from copyd.venues.common.signing import Key
from copyd.venues.common.told import FundingTold
from copyd.venues.common.venue import Rights


class BatchTerms(NamedTuple):
    """Orders in record batches: where, under which name and secret, and whose openings come first."""

    address: str
    session: str
    secret: Callable[[], bytes]
    contract: BatchContract
    top_leaders: tuple[int, ...]


class Terms(NamedTuple):
    """What the operator configures."""

    order_connections: int
    weight_per_min: int
    hot_threads: int
    batch: BatchTerms | None


class BinanceUsdmParts:
    """As ``copyd.venues.common.parts.Parts`` says."""

    funding_by_rest = False

    def __init__(self, contract: VenueContract, endpoints: Endpoints, terms: Terms, hooks: Hooks) -> None:
        self.contract, self.endpoints, self.terms, self.hooks = contract, endpoints, terms, hooks
        self.instruments: Instruments
        self.encoder: Encoder | None = None

    async def open(self, wanted: Sequence[tuple[int, str]], timeout_s: float) -> None:
        """Reach the venue: its clock, its instruments; make everything that needs them."""
        hooks, clock = self.hooks, self.hooks.clock
        self.rest = RestClient(self.endpoints, self.contract, clock, weight_limit_per_min=self.terms.weight_per_min)
        await self.rest.open()
        try:
            await self.rest.measure_clock()
            listed = await self.rest.exchange_info()
        except (VenueUnavailable, RestError) as error:
            raise VenueUnavailable(f"the exchange does not answer at {self.endpoints.rest}: {error}") from None
        try:
            self.instruments = load_instruments(listed, wanted)
        except ValueError as error:
            raise OperatorError(f"instruments: {error}") from None
        commissions = Commissions(self.instruments, hooks.last_mark, hooks.on_unknown_fee)
        self.gateway: OrderGateway | BatchGateway = (
            self._order_gateway(commissions) if self.terms.batch is None else self._batch_gateway(self.terms.batch))
        self.rest.bans.on_ban = hooks.on_ban
        self.setup = AccountSetup(
            rest=self.rest, ws_url=self.endpoints.ws_api, instruments=self.instruments, contract=self.contract, clock=clock)
        self.streams = FollowerStreams(
            rest=self.rest, endpoints=self.endpoints, instruments=self.instruments, contract=self.contract, clock=clock,
            site_tag=hooks.site_tag, on_reports=hooks.on_reports, on_event=hooks.on_follower_event, is_known=hooks.is_known,
            commissions=commissions, positions=False,
        )  # fmt: skip
        self.market = MarketFeed(
            instruments=self.instruments, endpoints=self.endpoints, contract=self.contract, clock=clock,
            on_quotes=hooks.on_quotes, on_marks=hooks.on_marks,
        )  # fmt: skip

    def _order_gateway(self, commissions: Commissions) -> OrderGateway:
        """Orders signed one by one, over the venue's own API."""
        hooks = self.hooks
        self.encoder = Encoder(self.contract.recv_window_ms, hooks.clock() & 0xFFFFFFFF)
        if self.terms.hot_threads > 1:
            self.encoder.start_helper()
        self.instruments.teach_encoder(self.encoder)
        return OrderGateway(
            url=self.endpoints.ws_api, connections=self.terms.order_connections, instruments=self.instruments,
            contract=self.contract, clock=hooks.clock, venue_clock=self.rest.venue_clock, on_reports=hooks.on_reports,
            on_connection=hooks.on_connection,
            # Half of the request budget may go into settling orders in doubt; the rest stays for snapshots and keys.
            queries_per_s=QUERY_SHARE * self.terms.weight_per_min / 60,
            rest=self.rest, commissions=commissions, placed=hooks.placed,
            on_mismatch=hooks.on_mismatch, on_unknown_code=hooks.on_unknown_code,
            expected=hooks.expected, encoder=self.encoder,
        )  # fmt: skip

    def _batch_gateway(self, terms: BatchTerms) -> BatchGateway:
        """Orders in record batches, to an engine beside us. Positions are still asked for over REST."""
        hooks = self.hooks

        async def position(account: int, instrument: int) -> tuple[int, int]:
            return await self.position(hooks.account_key(account), self.instruments[instrument])

        def lacking(cid: bytes) -> bool:
            placed = hooks.placed(cid)
            return placed is not None and placed.lacking > 0

        return BatchGateway(
            address=terms.address, secret=terms.secret(), name=terms.session, instruments=self.instruments,
            contract=terms.contract, clock=hooks.clock, on_reports=hooks.on_reports, on_connection=hooks.on_connection,
            top_leaders=list(terms.top_leaders), expected=hooks.expected, position=position, lacking=lacking,
            on_unknown_account=hooks.on_unknown_account,
        )  # fmt: skip

    def bind(self, columns: Columns) -> None:
        """The tables that hold the orders."""
        self.gateway.bind(columns)
        self.streams.bind(columns)

    async def start_orders(self, timeout_s: float) -> None:
        """Order connections and what reads accounts."""
        await self.gateway.start(timeout_s)
        await self.setup.open()
        await self.streams.start()

    def register(self, account: int, name: str, key: Key) -> None:
        """An account that trades here."""
        if isinstance(self.gateway, BatchGateway):
            self.gateway.add_account(account, name)
        else:
            assert self.encoder is not None
            self.gateway.register(self.encoder, account, key, self.gateway.pin_of(account))

    async def reopen(self, account: int, key: Key) -> None:
        """As ``Parts.reopen``; the order connections are everybody's and stay."""
        await self.streams.remove(account)

    async def forget(self, account: int) -> None:
        """As ``Parts.forget``; an engine beside us is sent no account's key."""
        if not isinstance(self.gateway, BatchGateway):
            self.gateway.forget(account)
        await self.streams.remove(account)

    def leader_feed(self, terms: LeaderTerms) -> LeaderFeed:
        """The feed of one leader."""
        return LeaderFeed(
            leader=terms.leader, key=terms.key, rest=self.rest, endpoints=self.endpoints, instruments=self.instruments,
            contract=self.contract, clock=self.hooks.clock, on_event=self.hooks.on_leader_event,
            equity_poll_s=terms.equity_poll_s, position_poll_s=terms.position_poll_s, seed=terms.leader,
        )  # fmt: skip

    async def check_key(self, key: Key) -> None:
        """A signed call that costs little."""
        await self.rest.call("GET", "/fapi/v1/positionSide/dual", key=key)

    async def position(self, key: Key, instrument: Instrument) -> tuple[int, int]:
        """(net or long, short) lots as the venue has them."""
        try:
            body = await self.rest.call("GET", "/fapi/v3/positionRisk", {"symbol": instrument.symbol}, key)
        except RestError as error:
            raise VenueUnavailable(str(error)) from None
        net = net_short = 0
        for row in codec.positions(body):
            if row.symbol == instrument.symbol:
                if row.positionSide == "SHORT":
                    net_short += instrument.lots(row.positionAmt)
                else:
                    net += instrument.lots(row.positionAmt)
        return net, net_short

    async def flows(self, key: Key, since_ms: int) -> list[tuple[int, int]]:
        """What was paid in or taken out since, in an asset that is margin here."""
        terms = {"incomeType": "TRANSFER", "startTime": since_ms, "limit": 1_000}
        body = await self.rest.call("GET", "/fapi/v1/income", terms, key)
        rows: list[codec.Income] = decode_body(body, list[codec.Income])
        assets = {instrument.margin_asset for instrument in self.instruments}
        return [(money_e8(row.income), row.time * MS_NS) for row in rows if row.asset in assets]

    async def fundings(self, key: Key, since_ms: int) -> list[FundingTold]:
        """Nothing: the user streams push every payment."""
        return []

    async def rights(self, key: Key) -> Rights:
        """What a key may do."""
        method, path = RIGHTS_CALL.split()
        return rights_of(await self.rest.call(method, path, key=key))

    async def keep_clock(self) -> None:
        """Measure the venue's clock for ever."""
        await self.rest.keep_clock()

    async def stop(self) -> None:
        """Close everything; whoever stops us has waited for the orders in flight as long as is to be waited."""
        if self.encoder is not None:
            self.encoder.stop_helper()
        for name in ("market", "streams"):
            part = getattr(self, name, None)
            if part is not None:
                await part.stop()
        if hasattr(self, "gateway"):
            await self.gateway.stop(0)
        if hasattr(self, "setup"):
            await self.setup.close()
        if hasattr(self, "rest"):
            await self.rest.close()

