"""What goes wrong on purpose while the leader trades: ``copyd demo --faults light | heavy``.

Rules for the exchange (see ``copyd.exchange.faults``), and connections cut at random in between. The leader's own orders are
left alone: what he does is the story, what the followers' daemon hears of it is what is disturbed.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec

from copyd.errors import CopydError

from .exchange import Control

LEVELS = ("none", "light", "heavy")
READS = {
    "binance_usdm": (
        "GET /fapi/v1/allOrders",
        "GET /fapi/v1/openOrders",
        "GET /fapi/v1/userTrades",
        "GET /fapi/v3/positionRisk",
        "GET /fapi/v3/account",
        "v2/account.status",
        "v2/account.position",
        "v2/account.balance",
    ),
    "okx": (
        "GET /api/v5/trade/orders-history",
        "GET /api/v5/trade/orders-pending",
        "GET /api/v5/trade/fills",
        "GET /api/v5/trade/fills-history",
        "GET /api/v5/account/positions",
        "GET /api/v5/account/balance",
    ),
    "bybit": ("GET /v5/order/history", "GET /v5/execution/list", "GET /v5/position/list", "GET /v5/account/wallet-balance"),
    "bitget": (
        "GET /api/v2/mix/position/all-position",
        "GET /api/v2/mix/account/accounts",
        "GET /api/v3/position/current-position",
        "GET /api/v3/account/assets",
    ),
}
"""Questions that are answered wrongly, late or not at all, by dialect."""
LAGGING = ("Orders", "userTrades", "orders-history", "orders-pending", "fills", "fills-history", "/history", "execution/list")
"""How those end whose answers may be old."""
WORDS = {"binance_usdm": ("order.place", "order.status"), "": ("place", "query")}
"""The names of placing an order and of asking for one."""
CONNECTIONS = {"binance_usdm": ("api", "streams", "streams"), "": ("private", "public", "private")}
"""Which connections carry orders, the market, and the leader."""
#: A query's answer may be this far behind the engine, a request may wait this long on its way to it.
LAG_MS = 300


class Terms(msgspec.Struct, frozen=True):
    """What the daemon is told of this exchange (its venue contract): the faults' own bounds with a margin.

    An order's expiry is looked at again when it reaches the engine, so that no delay makes a late order of it.
    """

    recv_window_ms: int = 1_500
    order_ack_timeout_ms: int = 800
    engine_delay_ms: int = 250
    read_lag_ms: int = 3 * LAG_MS
    guard_ms: int = 500
    clock_error_ms: int = 250

    def fence_ms(self) -> int:
        """Signed, until "not found" proves something."""
        return self.recv_window_ms + self.clock_error_ms + self.engine_delay_ms + self.read_lag_ms + self.guard_ms


class Cuts(msgspec.Struct, frozen=True):
    """Seconds between two cuts of a connection of each kind, on average; 0 = never."""

    api: float = 0.0
    streams: float = 0.0
    leader: float = 0.0


class Chaos(msgspec.Struct, frozen=True):
    """One level of disturbance. Shares are parts per million of what they meet."""

    level: str
    rules: list[dict[str, Any]] = []
    cuts: Cuts = Cuts()
    terms: Terms = Terms()
    connections: tuple[str, str, str] = CONNECTIONS["binance_usdm"]


def chaos(level: str, seed: int, followers: str, leader: str, order_tag: str, kind: str = "binance_usdm") -> Chaos:
    """The rules of a level, for an exchange of a dialect. ``followers``: how their account names begin; ``order_tag``: how the
    daemon's order ids do."""
    if level not in LEVELS:
        raise ValueError(f"no such level of faults: {level!r} ({', '.join(LEVELS)})")
    if level == "none":
        return Chaos(level)
    heavy = level == "heavy"
    scale = 1.0 if heavy else 0.2
    rules: list[dict[str, Any]] = []

    def rule(action: str, ppm: int, **match: Any) -> None:
        rules.append({"action": action, "ppm": max(1, int(ppm * scale)), "seed": seed, **match})

    place, ask = WORDS.get(kind, WORDS[""])
    orders = {"method": place, "client_id_prefix": order_tag}
    rule("drop_reply", 50_000, **orders)
    rule("error_live", 20_000, **orders)
    rule("error_dead", 20_000, **orders)
    rule("drop_request", 10_000, **orders)
    rule("throttled", 5_000, **orders)
    rule("unavailable", 5_000, **orders)
    rule("delay", 20_000, delay_ms=LAG_MS, **orders)
    rule("delay_reply", 20_000, delay_ms=LAG_MS, **orders)
    rule("disconnect_live", 100, **orders)
    rule("disconnect", 100, **orders)
    queries = {"method": ask, "client_id_prefix": order_tag}
    rule("error_dead", 30_000, **queries)
    rule("drop_request", 10_000, **queries)
    rule("stale_read", 200_000, delay_ms=LAG_MS, **queries)
    rule("delay_reply", 30_000, delay_ms=LAG_MS, **queries)
    for method in READS[kind]:
        rule("error_dead", 20_000, method=method)
        rule("drop_reply", 3_000, method=method)
        rule("delay_reply", 20_000, method=method, delay_ms=LAG_MS)
        if method.endswith(LAGGING):
            rule("stale_read", 100_000, method=method, account_prefix=followers, delay_ms=LAG_MS)
    theirs = {"account_prefix": followers}
    rule("drop_event", 10_000, **theirs)
    rule("duplicate_event", 30_000, **theirs)
    rule("delay_event", 20_000, delay_ms=LAG_MS, **theirs)
    rule("delay_event", 2_000, delay_ms=2_500, **theirs)
    rule("reorder_events", 30_000, **theirs)
    his = {"account": leader}
    rule("duplicate_event", 60_000, **his)
    rule("delay_event", 60_000, delay_ms=60, **his)
    rule("delay_event", 30_000, delay_ms=LAG_MS, **his)
    rule("reorder_events", 60_000, **his)
    cuts = Cuts(api=6.0, streams=5.0, leader=12.0) if heavy else Cuts(api=20.0, streams=20.0)
    return Chaos(level, rules, cuts, connections=CONNECTIONS.get(kind, CONNECTIONS[""]))


class Cutter:
    """Cuts connections at random moments until cancelled."""

    def __init__(self, control: Control, plan: Chaos, seed: int, leader: str) -> None:
        self.control, self.plan, self.leader = control, plan, leader
        self.rng = random.Random(f"cuts {seed}")
        self.made = 0

    async def run(self) -> None:
        """All kinds at once, each at its own pace."""
        orders, market, his = self.plan.connections
        kinds: list[tuple[float, dict[str, Any]]] = [
            (self.plan.cuts.api, {"kind": orders}),
            (self.plan.cuts.streams, {"kind": market}),
            (self.plan.cuts.leader, {"kind": his, "account": self.leader}),
        ]
        async with asyncio.TaskGroup() as group:
            for mean_s, body in kinds:
                if mean_s:
                    group.create_task(self.cut(mean_s, body))

    async def cut(self, mean_s: float, body: dict[str, Any]) -> None:
        """One kind."""
        while True:
            await asyncio.sleep(self.rng.uniform(0.3, 1.7) * mean_s)
            try:
                self.made += await self.control.disconnect(body | {"pick": self.rng.randrange(1 << 16)})
            except CopydError:
                continue
