"""The venue contract of an exchange behind ccxt, as data (architecture, decision 8).

What ccxt says of its exchanges is not what an exchange documents: the terms here are those that hold for any of them, and
therefore wide. What one exchange needs besides stands in ``EXCHANGES``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from copyd.venues.common.contract import RateLimit, VenueContract

DAY_MS = 86_400_000

CONTRACT = VenueContract(
    version=1,
    venue="ccxt",
    id_scope="open_orders",
    client_id_field="clientOrderId",
    client_id_len_max=32,
    #: No unified field bounds an order's life: only how far back an exchange accepts a signed time does, where it has one.
    expiry_field="",
    recv_window_ms=60_000,
    recv_window_ms_max=60_000,
    clock_lead_ms=1_000,
    query_rest_paths=("fetch_order", "fetch_positions"),
    query_absent_valid_ms=2 * 3_600_000,
    order_history_ms=7 * DAY_MS,
    call_order="fetch_order",
    call_orders="orders.query",
    call_position="fetch_positions",
    call_account="account.query",
    position_modes=("one_way",),
    reduce_only_excess="cut",
    #: Ours, of one address: ccxt keeps each account within the exchange's pace, and nobody keeps all of them.
    rate_limits=(RateLimit("weight", "ip", 600, 60_000), RateLimit("orders", "account", 10, 1_000)),
    connection_scope="one_account",
    #: Nothing connects: an account is asked.
    connect_attempts_per_5_min=1_000_000,
    connection_life_ms=0,
    backfill_window_ms=DAY_MS,
    backfill_page_max=100,
    #: 0: no list of ccxt's says that it is whole, so none proves an order absent; its own query and the position do.
    weights={"orders.query": 0, "account.query": 2},
)

#: A leader's executions and the market are asked for this often.
POLL_MS = 1_000
#: What became of an order of ours is asked for after these, until it has ended.
FOLLOW_S = (0.1, 0.3, 0.6, 1.0, 2.0, 4.0)
#: A leader's account that has not answered for so long is deaf: he is heard again only behind a back-fill.
DEAF_S = 5.0
#: The exchange's list of executions may lag behind its engine this far: what is that young is asked for again.
LAG_MS = 10_000


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """What one exchange of ccxt's needs besides the unified calls."""

    #: Lists that are asked for one order by its client id, and the field that names it; empty: ``fetch_order`` takes it.
    lists: tuple[str, ...] = ()
    lists_field: str = ""
    #: Besides, with every ``fetch_order``.
    order_params: dict[str, bool] = {}
    #: Each order names its margin type; the account has none.
    margin_by_order: bool = False
    #: A balance's ``total`` lacks what positions have not realised.
    total_is_wallet: bool = False
    #: How many positions one page holds where the exchange gives them by pages; 0 = all at once.
    positions_page: int = 0
    #: Documented refusals for which ccxt has no class of its own: the code as it stands in the text -> the reason.
    refusals: dict[str, str] = {}


OKX = Exchange(
    margin_by_order=True,
    refusals={f'"sCode":"{code}"': "reduce_only" for code in ("51112", "51169", "51170", "51205")})  # fmt: skip
EXCHANGES = {
    "bybit": Exchange(
        lists=("fetch_open_orders", "fetch_canceled_and_closed_orders"), lists_field="orderLinkId",
        order_params={"acknowledged": True}, total_is_wallet=True, positions_page=200),
    "okx": OKX,
    "myokx": OKX,
    "binanceusdm": Exchange(refusals={
        '"code":-2019,': "margin", '"code":-2022,': "reduce_only", '"code":-4061,': "position_side",
        '"code":-4164,': "min_notional"}),
}  # fmt: skip


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Which exchange, through which interpreter. ``base`` "": the exchange's own addresses."""

    exchange_id: str
    python: str
    environment: Literal["live", "demo", "testnet"] = "live"
    base: str = ""

    @property
    def rest(self) -> str:
        """Where it is reached, in words."""
        return self.base or f"{self.exchange_id} (ccxt)"

    @property
    def exchange(self) -> Exchange:
        """What it needs besides the unified calls."""
        return EXCHANGES.get(self.exchange_id, Exchange())
