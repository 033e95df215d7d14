"""The world the benchmarks run in: one instrument, one leader, N followers in all copy modes, and the leader's frames.

Everything follows from ``followers`` and ``seed``; two worlds made alike decide alike, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from copyd._fast.columns import ReportBatch
from copyd._fast.encode import Encoder
from copyd.core.engine import (
    AccountSnapshots,
    Command,
    Configured,
    Engine,
    InstrumentSpec,
    LeaderEquity,
    LeaderFill,
    LeaderSync,
    LegsReady,
    Outputs,
    Quotes,
    Started,
)
from copyd.core.rows import InstrumentRow, NamedOrder, OrderState, Params, ReportKind
from copyd.followers import PlanSpec
from copyd.venues.binance_usdm.gateway import pin_of
from copyd.venues.binance_usdm.instruments import load_instruments
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.signing import Key

SITE = 0xBE7C
EPOCH = 1
LEADER = "bench-leader"
SYMBOL = "BTCUSDT"
E8 = 10**8
S_NS = 10**9
LEADER_EQUITY_E8 = 100_000 * E8
LEADER_LOTS = 500  # 0.500 BTC per leader fill
PX = 650_000  # ticks of 0.10
MODES = 5
"""All copy modes in turn; sizes are such that every follower gets an order from every leader fill."""

EXCHANGE_INFO = json.dumps({"symbols": [{
    "symbol": SYMBOL, "status": "TRADING", "contractType": "PERPETUAL", "quoteAsset": "USDT", "marginAsset": "USDT",
    "marketTakeBound": "0.05", "filters": [
        {"filterType": "PRICE_FILTER", "minPrice": "556.80", "maxPrice": "4529764", "tickSize": "0.10"},
        {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"},
        {"filterType": "MARKET_LOT_SIZE", "minQty": "0.001", "maxQty": "120", "stepSize": "0.001"},
        {"filterType": "MAX_NUM_ORDERS", "limit": 200}, {"filterType": "MIN_NOTIONAL", "notional": "50"},
    ],
}]}).encode()


def instruments() -> Instruments:
    """The one instrument, read as the venue lists it."""
    return load_instruments(EXCHANGE_INFO, [(0, SYMBOL)])


def api_key(account: int) -> bytes:
    """As long as the venue's keys are."""
    return b"bench%059d" % account


def secret(seed: int, account: int) -> bytes:
    """One HMAC key per follower; the draining peer derives the same."""
    return hashlib.sha256(b"%d/%d" % (seed, account)).hexdigest().encode()


def key(seed: int, account: int) -> Key:
    """The account's pair as the adapter takes it."""
    return Key(api_key(account), secret(seed, account))


def encoder(followers: int, seed: int, connections: int = 1, recv_window_ms: int = 2_000) -> Encoder:
    """An encoder that holds every follower's key."""
    made = Encoder(recv_window_ms, seed + 1)
    instruments().teach_encoder(made)
    for account in range(followers):
        made.set_account(account, api_key(account), secret(seed, account), pin_of(account, connections))
    return made


def plan(index: int, rng: random.Random) -> dict[str, Any]:
    """One follower's plan as the engine takes it; no limit binds."""
    name = f"f{index:05d}"
    spec = PlanSpec(
        follower=name, leader=LEADER, account=name, allocation_e8=rng.randrange(1_000, 9_000) * E8, mode="proportional",
        multiplier_ppm=1_500_000, amount_e8=400 * E8, leverage=10, risk_bps=100, assumed_stop_bps=200, leverage_max=20,
        max_position_bps=0, max_loss_per_trade_bps=0,
    )
    # Choices are numbers to the engine: a default is the first of its kind, the modes take turns.
    return msgspec.structs.asdict(spec) | {
        "mode": index % MODES, "ratio_snapshot": 0, "min_policy": 0, "on_insufficient": 0, "loss_policy": 0, "state": 0,
        "instruments": []}


def params() -> Params:
    """Order-count windows and staleness far out: a slow machine must give the same decisions."""
    return Params(
        max_event_age=60 * S_NS, quote_max_age=60 * S_NS, equity_max_age=86_400 * S_NS, orders_per_window=65_535)


def opening_inputs(followers: int, seed: int) -> Iterator[Any]:
    """The inputs that make the world, in their order."""
    item = instruments()[0]
    row = InstrumentRow(
        value_mul=item.value_mul, value_div=item.value_div, lot_min=item.lot_min, lot_max=item.lot_max,
        lot_max_market=item.market_lot_max, min_notional_e8=item.min_notional_e8, slippage_bps=50,
    )
    spec = InstrumentSpec(item.symbol, row.pack(), item.price_decimals, item.qty_decimals, item.tick, item.lot)
    rng = random.Random(seed)
    yield Started(EPOCH, SITE, hashlib.sha256(b"site %d" % seed).digest()[:16], "bench")
    yield Configured(1, params().pack(), [spec], [LEADER])
    yield Command("import_plans", {"plans": [plan(index, rng) for index in range(followers)]})
    yield LegsReady([(account, 0, True, False, False, 10) for account in range(followers)])
    yield AccountSnapshots([(account, 100_000 * E8, []) for account in range(followers)])
    yield LeaderEquity(0, LEADER_EQUITY_E8, 0)
    yield LeaderSync(0, True, [(0, 0, 0, 5)])


class LeaderTrade(msgspec.Struct, frozen=True):
    """One leader fill of the schedule: lots and ticks."""

    exec_id: int
    side: int
    qty: int
    px: int


def schedule(events: int, seed: int) -> list[LeaderTrade]:
    """Long opened, closed, short opened, closed, and so on: every follower trades every time and books stay bounded."""
    rng = random.Random(seed)
    sides = (1, -1, -1, 1)
    return [
        LeaderTrade(1_000 + index, sides[index % 4], LEADER_LOTS, PX + rng.randrange(-500, 500)) for index in range(events)
    ]


def leader_frame(trade: LeaderTrade, ts_ms: int) -> bytes:
    """The venue's ORDER_TRADE_UPDATE for it."""
    qty, px = f"{trade.qty / 1000:.3f}", f"{trade.px / 10:.2f}"
    return json.dumps({
        "e": "ORDER_TRADE_UPDATE", "E": ts_ms, "T": ts_ms, "o": {
            "s": SYMBOL, "c": f"web_{trade.exec_id}", "S": "BUY" if trade.side > 0 else "SELL", "o": "MARKET", "f": "GTC",
            "q": qty, "p": "0", "ap": px, "sp": "0", "x": "TRADE", "X": "FILLED", "i": 10**9 + trade.exec_id, "l": qty,
            "z": qty, "L": px, "n": "13.00000000", "N": "USDT", "T": ts_ms, "t": trade.exec_id, "b": "0", "a": "0",
            "m": False, "R": False, "wt": "CONTRACT_PRICE", "ot": "MARKET", "ps": "BOTH", "cp": False, "rp": "0",
            "pP": False, "si": 0, "ss": 0, "V": "NONE", "pm": "NONE", "gtd": 0,
        },
    }, separators=(",", ":")).encode()


def leader_fill(trade: LeaderTrade, now: int) -> LeaderFill:
    """The engine's input for it, for benchmarks that begin behind the codec."""
    return LeaderFill(
        0, 0, 0, trade.exec_id, 10**9 + trade.exec_id, trade.side, trade.qty, trade.px, trade.qty, True, False, "", now, now,
        b"",
    )


def quotes(trade: LeaderTrade, now: int) -> Quotes:
    """The market around a trade."""
    return Quotes([(0, trade.px - 1, trade.px + 1, trade.px, now)])


def make_engine(followers: int, seed: int = 1, now: int = S_NS) -> Engine:
    """An engine with every plan ready and the leader flat."""
    engine = Engine()
    for value in opening_inputs(followers, seed):
        engine.step(now, value)
    return engine


def filled(named: bytes, now: int) -> ReportBatch:
    """Replies that fill these orders whole, at their limit (a market order: at ``PX``)."""
    batch = ReportBatch()
    for at, order in enumerate(NamedOrder.unpack_all(named)):
        cost = order.order_qty * (order.limit_px or PX) * 10_000
        batch.append(ReportKind.REPLY, OrderState.FILLED, order.cid, order.order_qty, cost, venue_order_id=at + 1, ts_event=now)
    return batch


def slots_of(outputs: Outputs) -> array:
    """The order slots of a step in sending order."""
    slots = array("I")
    slots.frombytes(outputs.orders)
    return slots


def legs(followers: int) -> array:
    """The leg of every follower: one instrument, so leg and plan count alike."""
    return array("I", range(followers))


def packed(slots: Iterable[int]) -> bytes:
    """Slots as the kernel packs them."""
    return array("I", slots).tobytes()
