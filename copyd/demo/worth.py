"""What a plan had earned at a moment, by the exchange's own executions and prices: a range, for the daemon hears of both late.

Profit is what the plan's executions brought and cost, less the taker's fee, and what is still held at market. The daemon may have
heard of the last executions or not, and of any price of the last seconds: the truth lies between the least and the most of these.
Money in 1e-8, lots signed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from .history import SECOND, Instrument, Outage, Quotes, Truth, VerifyConfig

FEE_LAG = 180 * SECOND
"""With faults: longest time until the fee of an execution whose news was lost has been asked for."""

MARK_LAG = 5 * SECOND
"""A price published this long ago may be the last the daemon heard: one mark a second, and a stream that was cut."""


class State:
    """After one execution: what the account's executions brought so far, their fees, and what is held."""

    __slots__ = ("cash_e8", "fee_e8", "held", "ts")

    def __init__(self, ts: int, cash_e8: int, fee_e8: int, held: dict[str, int]) -> None:
        self.ts, self.cash_e8, self.fee_e8, self.held = ts, cash_e8, fee_e8, held


class Worth:
    """Profits of all accounts over the run."""

    def __init__(self, truth: Truth, config: VerifyConfig) -> None:
        self.quotes = truth.quotes
        self.instruments: dict[str, Instrument] = truth.instruments
        self.outages: list[Outage] = config.outages
        self.lag = config.report_lag
        self.fee_lag = FEE_LAG if truth.faults else 0
        self.ranges: dict[tuple[str, int, int], tuple[int, int]] = {}
        self.states: dict[str, list[State]] = {}
        self.times: dict[str, list[int]] = {}
        for account, executions in (truth.executions or from_orders(truth, config.taker_fee_ppm)).items():
            self.states[account] = list(self._fold(executions))
            self.times[account] = [state.ts for state in self.states[account]]

    def _fold(self, executions: list[tuple[int, str, int, int, int]]) -> Iterator[State]:
        cash, held = 0, dict[str, int]()
        for ts, symbol, lots, value, fee in executions:
            cash -= (value if lots > 0 else -value) + fee
            held = held | {symbol: held.get(symbol, 0) + lots}
            yield State(ts, cash, fee, {name: lots for name, lots in held.items() if lots})

    def since(self, ts: int) -> int:
        """The oldest moment up to which everything had certainly been heard by ``ts``."""
        since = ts - self.lag
        for gap in self.outages:
            if gap.ts_down - self.lag <= ts <= gap.ts_ready + 2 * self.lag:
                since = min(since, gap.ts_down - self.lag)
        return since

    def prices(self, symbol: str, since: int, until: int) -> tuple[int, int]:
        """Lowest and highest price in force; followers of one event ask for the same."""
        key = (symbol, since // Quotes.BUCKET, until // Quotes.BUCKET)
        known = self.ranges.get(key)
        if known is None:
            known = self.ranges[key] = self.quotes[symbol].price_range(since, until)
        return known

    def profit(self, account: str, since: int, until: int, priced: int) -> tuple[int, int]:
        """Least and most the account's plan may be believed to have earned by ``until``: the executions heard up to some moment
        from ``since`` on, at some price in force from ``priced`` on."""
        states, times = self.states.get(account, []), self.times.get(account, [])
        first, last = bisect_right(times, since) - 1, bisect_right(times, until)
        low = high = 0 if first < 0 else None
        # A reply tells what filled and not the fee; whoever has heard of no execution yet asks for it.
        untold = bisect_right(times, min(since, until - self.fee_lag))
        unsure = sum(state.fee_e8 for state in states[untold:last])
        for state in states[max(0, first) : last]:
            least = most = state.cash_e8
            for symbol, lots in state.held.items():
                cheap, dear = self.prices(symbol, priced, until)
                instrument = self.instruments[symbol]
                ends = [instrument.notional_e8(lots, px) for px in (cheap, dear)]
                least, most = least + min(ends), most + max(ends)
            low = least if low is None else min(low, least)
            high = most + unsure if high is None else max(high, most + unsure)
        return low or 0, high or 0

    def at(self, account: str, ts: int) -> tuple[int, int]:
        """The range at a moment, for whoever had heard of everything up to ``since``, and of prices a little less surely."""
        since = self.since(ts)
        return self.profit(account, since, ts, min(since, ts - MARK_LAG))

    def surely(self, account: str, ts: int) -> tuple[int, int]:
        """The range for whoever hears prices as well as executions: a mark comes every second."""
        since = self.since(ts)
        return self.profit(account, since, ts, since)


def from_orders(truth: Truth, fee_ppm: int) -> dict[str, list[tuple[int, str, int, int, int]]]:
    """Executions as the order book has them, where the trades were not read: each order at its end."""
    found: dict[str, list[tuple[int, str, int, int, int]]] = {}
    for order in truth.orders:
        if order.executed:
            fee = order.cost_e8 * fee_ppm // 1_000_000
            row = (order.ts_done or order.ts, order.symbol, order.side * order.executed, order.cost_e8, fee)
            found.setdefault(order.account, []).append(row)
    for rows in found.values():
        rows.sort(key=lambda row: row[0])
    return found
