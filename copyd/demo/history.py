"""What the verifier is fed with: the exchange's truth, the plan file, and the daemon's claims.

Units: price in ticks, quantity in lots, targets in Q32 lots (lots << 32), money in 1e-8 of the quote asset, time in
nanoseconds. Nothing of this is shared with the daemon: a decimal string is read here by this file's own reader.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import msgspec

Q32 = 1 << 32
E8 = 10**8
MS = 1_000_000
SECOND = 1_000_000_000


def to_e8(text: str) -> int:
    """Money in 1e-8; a finer decimal is cut toward zero (the venue serves at most eight places)."""
    return int(Decimal(text) * E8)


class Instrument:
    """One contract: how ticks, lots and money relate. ``notional_e8 = lots * ticks * value_mul // value_div``.

    ``symbol`` is the venue's name of it, ``book`` the one of the exchange's truth; ``contract``: base asset in one unit of the
    venue's quantities (the truth's are in the base asset). ``per_leader_lot``: lots of it in one of the leader's, where he trades
    on another venue. As a decimal per unit of base asset, a tick is worth the same on every venue.
    """

    __slots__ = (
        "_price_cache",
        "_qty_cache",
        "book",
        "contract",
        "lot",
        "max_lots",
        "max_market_lots",
        "min_lots",
        "min_notional_e8",
        "pair",
        "per_leader_lot",
        "symbol",
        "tick",
        "value_div",
        "value_mul",
    )

    def __init__(
        self,
        symbol: str,
        tick: str,
        lot: str,
        min_notional: str = "0",
        min_qty: str = "0",
        max_qty: str = "0",
        max_market_qty: str = "0",
        *,
        book: str = "",
        contract: str = "1",
        pair: tuple[str, str] = ("", ""),
    ) -> None:
        self.symbol = symbol
        self.book = book or symbol
        self.contract = Decimal(contract)
        self.pair = pair  #: base and quote asset
        self.per_leader_lot = Fraction(1)
        self.tick = Decimal(tick)
        self.lot = Decimal(lot)
        self._price_cache: dict[str, int] = {}
        self._qty_cache: dict[str, int] = {}
        value = Fraction(self.tick) * Fraction(self.lot) * E8
        self.value_mul, self.value_div = value.numerator, value.denominator
        self.min_notional_e8 = to_e8(min_notional)
        self.min_lots = max(1, self.lots(min_qty))
        self.max_lots = self.lots(max_qty)  # 0: none
        self.max_market_lots = self.lots(max_market_qty)

    def ticks(self, price: str) -> int:
        """Price string to ticks, to the nearest (an average price may lie between two)."""
        known = self._price_cache.get(price)
        if known is None:
            known = self._price_cache[price] = round(Decimal(price) / self.tick)
            if len(self._price_cache) > 100_000:
                self._price_cache.clear()
        return known

    def lots(self, qty: str) -> int:
        """Quantity string to lots; not a whole number of lots is an error in the books."""
        known = self._qty_cache.get(qty)
        if known is None:
            exact = Decimal(qty) / self.lot
            known = int(exact)
            if known != exact:
                raise ValueError(f"{self.symbol}: {qty} is not a whole number of lots of {self.lot}")
            self._qty_cache[qty] = known
        return known

    def notional_e8(self, lots: int, ticks: int) -> int:
        """Value of lots at a price, floored at 1e-8."""
        return lots * ticks * self.value_mul // self.value_div

    def lots_worth(self, money_e8: int, ticks: int) -> int:
        """Largest whole number of lots worth no more than ``money_e8`` at a price (floor)."""
        if money_e8 <= 0 or ticks <= 0:
            return 0
        return money_e8 * self.value_div // (ticks * self.value_mul)

    def minimum_lots(self, ticks: int) -> int:
        """Fewest lots the venue takes for an opening at this price (ceil of the minimum notional)."""
        unit = ticks * self.value_mul
        if unit <= 0:
            return self.min_lots
        return max(self.min_lots, -(-self.min_notional_e8 * self.value_div // unit))

    def qty_text(self, lots: int) -> str:
        """Lots as the trader writes the quantity."""
        return str(lots * self.lot) if self.contract == 1 else f"{(lots * self.lot / self.contract).normalize():f}"

    def px_text(self, ticks: int) -> str:
        """Ticks as the trader writes the price."""
        return f"{ticks * self.tick}"


class LeaderTrade(msgspec.Struct, frozen=True, gc=False):
    """One execution on the leader's account, as the exchange booked it. ``lots`` is signed: a buy is positive."""

    symbol: str
    exec_id: str
    order_id: str
    lots: int
    px: int
    order_lots: int  #: original quantity of the leader's order, unsigned
    ts: int


class Order(msgspec.Struct, gc=False):
    """One order the exchange accepted on a follower's account."""

    client_order_id: str
    account: str
    symbol: str
    side: int  #: +1 buy, -1 sell
    position_side: str  #: BOTH, LONG or SHORT
    kind: str  #: LIMIT or MARKET
    tif: str
    px: int  #: limit price, 0 for market
    lots: int
    reduce_only: bool
    executed: int  #: lots
    cost_e8: int  #: value of what was executed
    status: str
    ts: int  #: accepted
    ts_done: int = 0


class Fault(msgspec.Struct, frozen=True, gc=False):
    """Something the exchange did wrong on purpose."""

    ts: int
    action: str
    account: str  #: whose request or event; of a cut connection: whose stream it carried
    method: str  #: of the request, or the event's name; "api" or "streams" for a connection that was cut
    client_order_id: str = ""


class Quotes:
    """Best bid, best ask and mark of one symbol over time, as the exchange published them."""

    __slots__ = ("_ranges", "ask", "bid", "mark", "ts")

    BUCKET = 50 * MS

    def __init__(self) -> None:
        self.ts = array("q")
        self.bid = array("q")
        self.ask = array("q")
        self.mark = array("q")
        self._ranges: dict[int, tuple[int, int]] = {}  # bucket -> lowest, highest of all three

    def add(self, ts: int, bid: int, ask: int, mark: int) -> None:
        """Append a change; a zero keeps what was there."""
        if self.ts:
            bid, ask, mark = bid or self.bid[-1], ask or self.ask[-1], mark or self.mark[-1]
        self.ts.append(ts)
        self.bid.append(bid)
        self.ask.append(ask)
        self.mark.append(mark)
        known = [px for px in (bid, ask, mark) if px]
        if known:
            bucket = ts // self.BUCKET
            low, high = self._ranges.get(bucket, (known[0], known[0]))
            self._ranges[bucket] = min(low, *known), max(high, *known)

    def between(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Every quote in force at any time from start to end: the one in force at ``start`` first."""
        at = max(0, bisect_right(self.ts, start) - 1)
        while at < len(self.ts) and (self.ts[at] <= end):
            yield self.ts[at], self.bid[at], self.ask[at], self.mark[at]
            at += 1

    def last_before(self, ts: int) -> tuple[int, int, int, int] | None:
        """The quote in force at a time, with the time it came into force."""
        at = bisect_right(self.ts, ts) - 1
        return (self.ts[at], self.bid[at], self.ask[at], self.mark[at]) if at >= 0 else None

    def price_range(self, start: int, end: int) -> tuple[int, int]:
        """Lowest and highest of bid, ask and mark in force from start to end, to 50 ms; (0, 0) where unknown."""
        first, last = start // self.BUCKET, end // self.BUCKET
        if last - first < len(self._ranges):
            found = [self._ranges[at] for at in range(first, last + 1) if at in self._ranges]
        else:
            found = [pair for at, pair in self._ranges.items() if first <= at <= last]
        before = self.last_before(start)
        if before is not None:
            known = [px for px in before[1:] if px]
            if known:
                found.append((min(known), max(known)))
        return (min(low for low, _ in found), max(high for _, high in found)) if found else (0, 0)


class Truth(msgspec.Struct):
    """The exchange's own books. Everything the verifier believes."""

    instruments: dict[str, Instrument]
    leader_trades: list[LeaderTrade]  #: in the order the exchange executed them
    orders: list[Order]  #: every order ever accepted on a follower's account, in order of acceptance
    positions: dict[tuple[str, str, str], int]  #: (account, symbol, position side) -> signed lots
    rejects: dict[str, int] = {}  #: client order id -> venue code of a request that was refused
    quotes: dict[str, Quotes] = {}
    leader_reads: list[tuple[int, int]] = []  #: (ts, equity_e8) the exchange served to the leader's account
    fills: dict[str, int] = {}  #: client order id -> lots in the trade book; empty: not compared
    fill_count: int = 0
    #: account -> (ts, symbol, signed lots, value, fee; both in 1e-8) by time
    executions: dict[str, list[tuple[int, str, int, int, int]]] = {}
    held_ts: int = 0  #: when the positions were read in the middle of the run, 0: they were not
    held: dict[tuple[str, str, str], int] = {}  #: as ``positions``, at ``held_ts``
    faults: list[Fault] = []  #: everything that went wrong on purpose, in order
    balances: dict[str, int] = {}  #: account -> wallet balance in 1e-8 at its creation


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the plan file (decimals as strings), read by this file's own reader."""

    follower: str
    leader: str = "leader"
    venue: str = ""
    account: str = ""
    allocation: str
    mode: str = "proportional"
    multiplier: str = "1"
    amount: str = "0"
    leverage: int = 1
    risk_bps: int = 0
    assumed_stop_bps: int = 0
    ratio_snapshot: str = "position_open"
    min_policy: str = "carry"
    raise_max_factor: str = "2"
    on_insufficient: str = "scale"
    leverage_max: int = 0
    max_position_bps: int = 3000
    max_notional_symbol: str = "0"
    max_notional_total: str = "0"
    max_open_trades: int = 0
    max_loss_per_trade_bps: int = 200
    total_loss_bps: int = 0
    daily_loss_bps: int = 0
    leader_drawdown_bps: int = 0
    on_loss_stop: str = "close_now"
    require_stop: bool = False
    slippage_bps: int = 0
    slippage_mid_bps: int = 0
    instruments: list[str] = []
    preset: str = ""
    allow_netting: bool = False
    state: str = "active"


class Claim(msgspec.Struct, gc=False):
    """One line of the daemon's decision export. A claim to be checked, never trusted."""

    cause: str
    seq: int = 0
    leader: str = ""
    symbol: str = ""
    exec_id: str = ""
    plan: str = ""
    k_q32: int = 0
    delta_q32: int = 0
    reduce: str = "none"
    open: str = "none"
    reason: str = ""
    reduce_lots: int = 0
    open_lots: int = 0
    forgone_q32: int = 0
    target_q32: int = 0
    orders: list[str] = []
    leader_equity_e8: int = 0
    bid: int = 0
    ask: int = 0
    mark: int = 0
    ts_event: int = 0
    ts_recv: int = 0
    ts_decided: int = 0
    client_order_id: str = ""
    policy: str = ""  #: of a loss stop, with the two below
    loss_e8: int = 0
    limit_e8: int = 0
    epoch: int = 0
    ts: int = 0


class Command(msgspec.Struct, frozen=True):
    """An operator's command during the run. In force at the latest at ``ts_done``, at the earliest at ``ts_sent``."""

    action: str  #: kill_switch, pause, close_only, stop, resume
    ts_sent: int
    ts_done: int
    plan: str = ""  #: "" is every plan
    symbol: str = ""  #: "" is every instrument


class Outage(msgspec.Struct, frozen=True):
    """The daemon was killed at ``ts_down``; its successor was started at ``ts_start`` and said ready at ``ts_ready``."""

    ts_down: int
    ts_start: int
    ts_ready: int


class VerifyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What both sides were configured with, and how far two clocks and two tasks of one machine may differ."""

    outages: list[Outage] = []
    commands: list[Command] = []
    leader_leverage: dict[str, int] = {}
    ready_since: int = 0  #: when the daemon first said that all legs are ready
    plans_since: int = 0  #: leader trades before this opened nothing (semantics 13)
    max_event_age: int = 2 * SECOND
    leader_equity_max_age: int = 30 * SECOND
    quote_max_age: int = 5 * SECOND
    replan_max_age: int = 120 * SECOND
    majors: tuple[str, ...] = ("BTCUSDT", "ETHUSDT")
    slippage_major_bps: int = 50
    slippage_other_bps: int = 150
    taker_fee_ppm: int = 500
    orders_per_10s: int = 300
    orders_per_minute: int = 1200
    clock_tolerance: int = 20 * MS
    report_lag: int = 3 * SECOND  #: longest time until the daemon has heard of an execution in a burst
    settling: int = 0  #: with faults: longest time until an order's fate is known
    in_flight_grace: int = 5 * SECOND  #: bytes already with the kernel when the daemon died
    other_forgone_ppm: int = 10_000  #: 1 % of decisions
    disturbed_forgone_ppm: int = 100_000  #: 10 % of decisions, with faults that explain them: more would be standing still
    problems_max: int = 20


_claim_decoder = msgspec.json.Decoder(Claim)
_plan_decoder = msgspec.json.Decoder(Plan)


def read_claims(path: Path) -> Iterator[Claim]:
    """The decision export, line by line: 10,000 followers' claims need not fit in memory."""
    decode = _claim_decoder.decode
    with path.open("rb") as lines:
        for line in lines:
            if not line.isspace():
                yield decode(line)


def read_plans(path: Path) -> list[Plan]:
    """The plan file as the followers were imported from."""
    return [_plan_decoder.decode(line) for line in path.read_bytes().splitlines() if line.strip()]
