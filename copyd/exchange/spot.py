"""The spot engine of the simulated exchange: price-time book per symbol, balances per asset. No I/O, no clock.

It stands where ``copyd._fast.sim_engine.Engine`` stands and speaks like it: symbols and accounts are indexes (account 0 is the
exchange's own), orders are slots, time is the caller's, a call that changes something gives >= 0 or a refusal (< 0) and what it
caused is in ``event_list()`` until the next one. Order, trade, event and reject tuples have that engine's fields in its order.

What is different: an account owns assets, each amount *free* or *locked* behind its open orders, in 1e-8 of the asset. Nothing
is lent: a buy needs the quote asset, a sale the base asset, whole. A commission is taken from what is received: base of a buy,
quote of a sale, rounded up to 1e-8; ``fee_e8`` is in that asset. ``EV_ACCOUNT``: ``slot`` is the asset's index in ``assets``,
``wallet_e8`` free and locked together, ``cross_wallet_e8`` free alone, ``change_e8`` the change since it was last told.
Always: sum of all balances + ``fees_e8`` = ``deposits_e8``, per asset.
"""

from __future__ import annotations

import hashlib
import random
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from sys import getsizeof
from typing import Any

import msgspec

from copyd._fast.decimals import parse_scaled
from copyd._fast.sim_engine import (
    EPHEMERAL_ID_BASE,
    EV_ACCOUNT,
    EV_BOOK,
    EV_CANCELED,
    EV_EXPIRED,
    EV_MARK,
    EV_NEW,
    EV_PUBLIC_TRADE,
    EV_TRADE,
    FLAG_EPHEMERAL,
    ORDER_ID_BASE,
    REASON_DEPOSIT,
    REASON_ORDER,
    REASON_WITHDRAW,
    SIDE_BUY,
    SIDE_SELL,
    STATUS_CANCELED,
    STATUS_EXPIRED,
    STATUS_EXPIRED_IN_MATCH,
    STATUS_FILLED,
    STATUS_NEW,
    STATUS_PARTIALLY_FILLED,
    STP_EXPIRE_BOTH,
    STP_EXPIRE_MAKER,
    STP_EXPIRE_TAKER,
    STP_NONE,
    TIF_FOK,
    TIF_GTC,
    TIF_GTX,
    TIF_IOC,
    TYPE_LIMIT,
    TYPE_MARKET,
)
from copyd.exchange.model import E8, PPM, fixed

#: Balance of a market maker's account in every asset: more than any demo trades.
MAKER_E8 = 10**20
#: Orders of one account that ended unfilled are forgotten after this.
FORGET_NS = 90 * 86_400 * 10**9
#: Best prices kept for the truth.
QUOTES_ROOM = 200_000
_ENDED = (STATUS_FILLED, STATUS_CANCELED, STATUS_EXPIRED, STATUS_EXPIRED_IN_MATCH)


def eight(value_e8: int) -> str:
    """A 1e-8 number with its eight places."""
    return fixed(value_e8, 8)


class SpotInstrument(msgspec.Struct, frozen=True):
    """One market with its filters. Units: ticks, lots, 1e-8 of an asset (``_e8``), parts per million (``_ppm``).

    ``notional_e8 = px * qty * value_mul`` must be exact: a tick times a lot is a whole number of 1e-8 of the quote asset.
    """

    symbol: str
    base: str
    quote: str
    tick_e8: int
    lot_e8: int
    start_px: int
    min_px: int
    max_px: int
    max_qty: int
    market_max_qty: int
    min_notional_e8: int
    min_qty: int = 1
    max_notional_e8: int = 9_000_000 * E8
    up_ppm: int = 5_000_000  # PERCENT_PRICE_BY_SIDE
    down_ppm: int = 200_000
    max_orders: int = 200
    price_precision: int = 8  # digits a venue writes that does not write all eight
    qty_precision: int = 8

    @property
    def value_mul(self) -> int:
        """1e-8 of the quote asset that one lot is worth per tick of price."""
        return self.tick_e8 * self.lot_e8 // E8

    @property
    def max_leverage(self) -> int:
        """What is bought is paid for."""
        return 1

    def price_text(self, px: int) -> str:
        """A price in ticks as the venue writes it."""
        return eight(px * self.tick_e8) if self.price_precision == 8 else fixed(px * self.tick_e8, self.price_precision)

    def qty_text(self, qty: int) -> str:
        """A quantity in lots as the venue writes it."""
        return eight(qty * self.lot_e8) if self.qty_precision == 8 else fixed(qty * self.lot_e8, self.qty_precision)


BTCUSDT = SpotInstrument(
    symbol="BTCUSDT", base="BTC", quote="USDT", tick_e8=1_000_000, lot_e8=1_000, start_px=6_000_000, min_px=1,
    max_px=100_000_000, max_qty=900_000_000, market_max_qty=12_000_000, min_notional_e8=5 * E8,
)  # fmt: skip
ETHUSDT = SpotInstrument(
    symbol="ETHUSDT", base="ETH", quote="USDT", tick_e8=1_000_000, lot_e8=10_000, start_px=300_000, min_px=1,
    max_px=100_000_000, max_qty=90_000_000, market_max_qty=30_000_000, min_notional_e8=5 * E8,
)  # fmt: skip
SOLUSDT = SpotInstrument(
    symbol="SOLUSDT", base="SOL", quote="USDT", tick_e8=1_000_000, lot_e8=100_000, start_px=15_000, min_px=1,
    max_px=100_000_000, max_qty=90_000_000, market_max_qty=50_000_000, min_notional_e8=5 * E8,
)  # fmt: skip
SPOT_INSTRUMENTS: tuple[SpotInstrument, ...] = (BTCUSDT, ETHUSDT, SOLUSDT)


class _Order:
    """One order; ``quote_e8`` above 0: a market order for so much of the quote asset. ``key``: of its price level."""

    __slots__ = (
        "account", "client_id", "cum", "flags", "key", "kind", "order_id", "px", "qty", "quote_e8", "side", "slot", "status",
        "stp", "symbol", "tif", "ts_new", "ts_update", "value",
    )  # fmt: skip

    def __init__(
        self, slot: int, order_id: int, account: int, symbol: int, client_id: bytes, side: int, kind: int, tif: int, stp: int,
        flags: int, qty: int, px: int, quote_e8: int, ts: int,
    ) -> None:
        self.slot, self.order_id, self.account, self.symbol, self.client_id = slot, order_id, account, symbol, client_id
        self.side, self.kind, self.tif, self.stp, self.flags = side, kind, tif, stp, flags
        self.qty, self.px, self.quote_e8, self.cum, self.value = qty, px, quote_e8, 0, 0
        self.status, self.ts_new, self.ts_update = STATUS_NEW, ts, ts
        self.key = px * side


class _Level:
    """Open orders of one price in their order of arrival, and how much they offer together."""

    __slots__ = ("orders", "qty")

    def __init__(self) -> None:
        self.orders: dict[int, _Order] = {}
        self.qty = 0


class _Side:
    """One side of a book. Keys are ``px * side``, so that the best price has the largest key on either side."""

    __slots__ = ("keys", "levels")

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.levels: dict[int, _Level] = {}

    def add(self, order: _Order) -> None:
        level = self.levels.get(order.key)
        if level is None:
            level = self.levels[order.key] = _Level()
            insort(self.keys, order.key)
        level.orders[order.slot] = order
        level.qty += order.qty - order.cum

    def drop(self, order: _Order) -> None:
        level = self.levels[order.key]
        del level.orders[order.slot]
        level.qty -= order.qty - order.cum
        if not level.orders:
            del self.levels[order.key]
            keys = self.keys
            if keys[-1] == order.key:
                keys.pop()
            else:
                keys.remove(order.key)

    def best(self) -> tuple[int, int]:
        """(price, quantity), (0, 0) when there is none."""
        if not self.keys:
            return 0, 0
        key = self.keys[-1]
        return abs(key), self.levels[key].qty

    def depth(self, limit: int) -> list[tuple[int, int]]:
        return [(abs(key), self.levels[key].qty) for key in islice(reversed(self.keys), limit)]

    def crossing(self, limit_key: int | None) -> Iterator[_Order]:
        """Orders from the best on, while their key is not below ``limit_key``. Nothing may change meanwhile."""
        for key in reversed(self.keys):
            if limit_key is not None and key < limit_key:
                return
            yield from self.levels[key].orders.values()


class SpotEngine:
    """Matching and balances of a fixed list of markets. ``reject_value``: the bound a refused price missed."""

    def __init__(self, instruments: Sequence[SpotInstrument] = SPOT_INSTRUMENTS) -> None:
        self.specs = tuple(instruments)
        self.n_symbols = len(self.specs)
        self.assets: list[str] = []
        for spec in self.specs:
            if spec.tick_e8 * spec.lot_e8 % E8:
                raise ValueError(f"{spec.symbol}: a tick times a lot is no whole number of 1e-8")
            for asset in (spec.quote, spec.base):
                if asset not in self.assets:
                    self.assets.append(asset)
        self._pair = [(self.assets.index(spec.base), self.assets.index(spec.quote)) for spec in self.specs]
        self._mul = [spec.value_mul for spec in self.specs]
        self._sides = [{SIDE_BUY: _Side(), SIDE_SELL: _Side()} for _ in self.specs]
        self._mark = [spec.start_px for spec in self.specs]
        self._last = [0] * self.n_symbols
        self._update = [1] * self.n_symbols
        self._top = [(0, 0, 0, 0)] * self.n_symbols
        self._touched: set[int] = set()
        self._free: list[list[int]] = []
        self._locked: list[list[int]] = []
        self._told: list[list[int]] = []
        self._moved: dict[int, set[int]] = {}  # account -> assets whose balance the running call changed
        self._fees: list[tuple[int, int]] = []  # (maker, taker) ppm
        self._ephemeral: list[bool] = []
        self._orders: list[_Order] = []
        self._maker_no = 0
        self._open: list[dict[int, _Order]] = []
        self._by_client: dict[tuple[int, bytes], int] = {}
        self._of_account: list[list[int]] = []
        self._trades: list[tuple[int, ...]] = []
        self._trades_of: list[list[int]] = []
        self._next_trade = [1] * self.n_symbols
        self._rejects: list[tuple[Any, ...]] = []
        self._incomes: list[tuple[int, int, int, int, int, int]] = []
        self._flows: list[list[tuple[int, int, int]]] = []
        self._quotes: deque[tuple[int, int, int, int, int, int]] = deque(maxlen=QUOTES_ROOM)
        self.fees_e8 = [0] * len(self.assets)
        self.deposits_e8 = [0] * len(self.assets)
        self.reject_value = 0
        self.n_quotes = 0
        self._events: list[tuple[int, ...]] = []
        self._ts = 0
        self.add_account()

    # -- accounts ------------------------------------------------------------------------------------------------------------
    @property
    def n_accounts(self) -> int:
        return len(self._free)

    @property
    def n_events(self) -> int:
        return len(self._events)

    def add_account(
        self, balance_e8: int = 0, *, ephemeral: bool = False, no_margin: bool = False, maker_ppm: int = 1_000,
        taker_ppm: int = 1_000, ts_ns: int = 0,
    ) -> int:
        """A new account with so much of the first quote asset: its index.

        ``ephemeral``: a market maker, whose orders are not kept; ``no_margin``: it has more of every asset than it can trade.
        """
        self._begin(ts_ns)
        account = len(self._free)
        n = len(self.assets)
        for rows in (self._free, self._locked, self._told):
            rows.append([0] * n)
        self._fees.append((maker_ppm, taker_ppm))
        self._ephemeral.append(ephemeral)
        self._open.append({})
        self._flows.append([])
        self._of_account.append([])
        self._trades_of.append([])
        if no_margin:
            for asset in range(n):
                self._credit(account, asset, MAKER_E8, REASON_DEPOSIT)
        elif balance_e8:
            self._credit(account, 0, balance_e8, REASON_DEPOSIT)
        self._end()
        return account

    def add_accounts(self, n: int, balance_e8: int = 0, *, maker_ppm: int = 1_000, taker_ppm: int = 1_000, ts_ns: int = 0) -> int:
        """``n`` accounts at consecutive indexes: the first index."""
        first = len(self._free)
        for _ in range(n):
            self.add_account(balance_e8, maker_ppm=maker_ppm, taker_ppm=taker_ppm, ts_ns=ts_ns)
        return first

    def set_fees(self, account: int, maker_ppm: int, taker_ppm: int) -> None:
        self._fees[account] = (maker_ppm, taker_ppm)

    def fees_of(self, account: int) -> tuple[int, int]:
        """(maker, taker) in parts per million."""
        return self._fees[account]

    def transfer(self, account: int, amount_e8: int, ts_ns: int, asset: str = "") -> int:
        """Deposit (> 0) or withdraw (< 0) of an asset (the first quote asset by default): 0, or -5013 when more than is free is
        withdrawn. ``ValueError``: no market here trades the asset."""
        if asset and asset not in self.assets:
            raise ValueError(f"no market here trades {asset}")
        index = self.assets.index(asset) if asset else 0
        if self._free[account][index] + amount_e8 < 0:
            return -5013
        self._begin(ts_ns)
        self._credit(account, index, amount_e8, REASON_DEPOSIT if amount_e8 > 0 else REASON_WITHDRAW)
        self._end(REASON_DEPOSIT if amount_e8 > 0 else REASON_WITHDRAW)
        return 0

    def balance(self, account: int, asset: str) -> tuple[int, int]:
        """(free, locked)."""
        index = self.assets.index(asset)
        return self._free[account][index], self._locked[account][index]

    def balances(self, account: int) -> list[tuple[str, int, int]]:
        """(asset, free, locked) of every asset."""
        return list(zip(self.assets, self._free[account], self._locked[account], strict=True))

    def flows_of(self, account: int) -> list[tuple[int, str, int]]:
        """(ts_ns, asset, amount_e8) of every deposit and withdrawal of the account."""
        return [(ts, self.assets[asset], amount) for ts, asset, amount in self._flows[account]]

    def set_position_mode(self, account: int, hedge: bool, ts_ns: int) -> int:
        """-4059: there is no other mode to change to."""
        return -4059

    def set_margin_type(self, account: int, symbol: int, margin_type: int, ts_ns: int) -> int:
        """-4046: there is nothing to change."""
        return -4046

    def set_leverage(self, account: int, symbol: int, leverage: int, ts_ns: int) -> int:
        """0 for 1; -4028 for any other: nothing is lent."""
        return 0 if leverage == 1 else -4028

    def account_state(self, account: int) -> tuple[int, int, int, int, int, int, int, int, int, int]:
        """The margin engine's ten numbers, of the first quote asset: (free and locked, the same, value of the base assets, 0, 0,
        locked, 0, 0, free, commissions it has paid)."""
        free, locked = self._free[account][0], self._locked[account][0]
        paid = sum(self._fee_paid(account, self._trades[index]) for index in self._trades_of[account])
        return (free + locked, free + locked, self.equity_e8(account) - free - locked, 0, 0, locked, 0, 0, free, paid)

    def _fee_paid(self, account: int, trade: tuple[int, ...]) -> int:
        """A trade's commission of one account in 1e-8 of the first quote asset, at the trade's price, cut."""
        quoted = self._pair[trade[2]][1] == 0
        paid = trade[14] if trade[12] == account else 0
        if trade[7] == account:
            paid += trade[9] * trade[3] * self.specs[trade[2]].tick_e8 // E8
        return paid if quoted else 0

    def position(self, account: int, symbol: int, pos_side: int) -> tuple[int, int, int, int, int, int, int]:
        """(lots of the base asset, 0, 0, 0, 0, 0, 0): a holding has no cost here. One-way only: nothing on the other sides."""
        base = self._pair[symbol][0]
        held = self._free[account][base] + self._locked[account][base]
        return (held // self.specs[symbol].lot_e8 if pos_side == 0 else 0, 0, 0, 0, 0, 0, 0)

    def apply_funding(self, symbol: int, rate_e8: int, ts_ns: int) -> int:
        """0: there is no funding on spot."""
        self._begin(ts_ns)
        return 0

    def equity_e8(self, account: int) -> int:
        """Everything the account owns in the first quote asset, base assets at their market's mark (rounded down)."""
        total = self._free[account][0] + self._locked[account][0]
        for symbol, (base, quote) in enumerate(self._pair):
            if quote == 0:
                held = self._free[account][base] + self._locked[account][base]
                total += held * self._mark[symbol] * self.specs[symbol].tick_e8 // E8
        return total

    # -- orders --------------------------------------------------------------------------------------------------------------
    def place(
        self, account: int, symbol: int, side: int, type: int, tif: int, qty_lots: int, px_ticks: int, client_id: bytes,
        ts_ns: int, stp_mode: int = STP_EXPIRE_MAKER, quote_e8: int = 0,
    ) -> int:
        """Check, match, rest: the order's slot (>= 0) or a refusal. ``quote_e8`` above 0 (market orders, ``qty_lots`` 0): for so
        much of the quote asset, whole lots of it.

        Refusals in the order they are tried: -1121 symbol, -1117 side, -1116 type, -1115 tif, -4015 client id, -4116 duplicate
        open client id, -4003 / -4004 / -4005 quantity, -4001 / -4013 / -4002 / -4016 / -4024 price, -4164 notional (too small or
        too large), -2025 open orders, -5022 post-only would take, -2019 balance. What an IOC, FOK or market order cannot have is
        no refusal: the order is taken and expires. An empty client id is replaced by a generated one.
        """
        self._begin(ts_ns)
        code = self._checked(account, symbol, side, type, tif, qty_lots, px_ticks, client_id, quote_e8)
        if not code and type == TYPE_LIMIT and tif == TIF_GTX and self._would_take(symbol, side, px_ticks):
            code = -5022
        if not code:
            code = self._affordable(account, symbol, side, type, qty_lots, px_ticks, quote_e8, stp_mode)
        if code:
            self._rejects.append(
                (len(self._rejects), ts_ns, account, symbol, code, client_id, side, 0, type, tif, 0, qty_lots, px_ticks))
            self._end()
            return code
        order = self._make(account, symbol, side, type, tif, qty_lots, px_ticks, client_id, stp_mode, quote_e8)
        self._run(order)
        self._end()
        return order.slot

    def cancel(self, account: int, slot: int, ts_ns: int) -> int:
        """0, or -2011 when it is not this account's or not open."""
        order = self._open[account].get(slot)
        if order is None:
            return -2011
        self._begin(ts_ns)
        self._remove(order, STATUS_CANCELED, EV_CANCELED)
        self._end()
        return 0

    def cancel_all(self, account: int, symbol: int, ts_ns: int) -> int:
        """Cancel the account's open orders of the symbol (-1 = all): how many."""
        self._begin(ts_ns)
        gone = [o for o in self._open[account].values() if symbol in (-1, o.symbol)]
        for order in gone:
            self._remove(order, STATUS_CANCELED, EV_CANCELED)
        self._end()
        return len(gone)

    def find_order(self, account: int, symbol: int, order_id: int, ts_ns: int) -> int:
        """Slot, or -2013 when there is none, or -2026 when it ended unfilled 90 days ago or more."""
        slot = order_id - ORDER_ID_BASE
        if not 0 <= slot < len(self._orders):
            return -2013
        order = self._orders[slot]
        if order.account != account or symbol not in (-1, order.symbol):
            return -2013
        return self._remembered(order, ts_ns)

    def find_client(self, account: int, symbol: int, client_id: bytes, ts_ns: int) -> int:
        """Slot of the latest order with this client id; -2013 and -2026 as above."""
        slot = self._by_client.get((account, client_id), -1)
        if slot < 0 or symbol not in (-1, self._orders[slot].symbol):
            return -2013
        return self._remembered(self._orders[slot], ts_ns)

    def order(self, slot: int) -> tuple[Any, ...]:
        """(slot, order_id, account, symbol, client_id, side, 0, type, tif, stp, status, flags, qty, px, cum_qty, cum_value_e8,
        ts_new, ts_update)."""
        o = self._orders[slot]
        return (o.slot, o.order_id, o.account, o.symbol, o.client_id, o.side, 0, o.kind, o.tif, o.stp, o.status, o.flags, o.qty,
                o.px, o.cum, o.value, o.ts_new, o.ts_update)  # fmt: skip

    def quote_order_e8(self, slot: int) -> int:
        """What of the quote asset a market order asked for; 0 where it named a quantity."""
        return self._orders[slot].quote_e8

    def open_orders(self, account: int, symbol: int = -1) -> list[int]:
        """Slots, oldest first."""
        return [o.slot for o in self._open[account].values() if symbol in (-1, o.symbol)]

    def orders_of(self, account: int, symbol: int = -1, limit: int = 500, before_slot: int = -1, since_ns: int = 0) -> list[int]:
        """Slots of the newest ``limit`` orders (below ``before_slot`` when >= 0; made at or after ``since_ns``), oldest first."""
        found: list[int] = []
        for slot in reversed(self._of_account[account]):
            order = self._orders[slot]
            if len(found) >= limit or order.ts_new < since_ns:
                break
            if symbol in (-1, order.symbol) and (before_slot < 0 or slot < before_slot):
                found.append(slot)
        return found[::-1]

    def trades_of(
        self, account: int, symbol: int = -1, limit: int = 500, from_index: int = 0, since_ns: int = 0, first_id: int = 0
    ) -> list[tuple[int, ...]]:
        """The account's newest ``limit`` trades, oldest first; ``first_id``: with a symbol, smaller trade ids are left out.

        A trade: (index, trade_id, symbol, px, qty, ts_ns, taker_side, buy_account, buy_order_id, buy_fee_e8 (of the base), 0, 0,
        sell_account, sell_order_id, sell_fee_e8 (of the quote), 0, 0).
        """
        found: list[tuple[int, ...]] = []
        for index in reversed(self._trades_of[account]):
            trade = self._trades[index]
            if len(found) >= limit or index < from_index or trade[5] < since_ns:
                break
            if symbol == -1 or (trade[2] == symbol and trade[1] >= first_id):
                found.append(trade)
        return found[::-1]

    def parse_qty(self, symbol: int, text: bytes) -> int:
        """Lots of a decimal text, or -1100 not a number, -1111 too many digits, -4003 not positive, -4023 not on the step."""
        return _parse(text, self.specs[symbol].lot_e8, -4003, -4023)

    def parse_px(self, symbol: int, text: bytes) -> int:
        """Ticks of a decimal text, or -1100, -1111, -4001 not positive, -4014 not on the tick."""
        return _parse(text, self.specs[symbol].tick_e8, -4001, -4014)

    def parse_quote(self, symbol: int, text: bytes) -> int:
        """1e-8 of the quote asset, or -1100, -1111, -4003."""
        return _parse(text, 1, -4003, -1111)

    # -- market --------------------------------------------------------------------------------------------------------------
    def top(self, symbol: int) -> tuple[int, int, int, int]:
        """(bid px, bid qty, ask px, ask qty), 0 where a side is empty."""
        sides = self._sides[symbol]
        return (*sides[SIDE_BUY].best(), *sides[SIDE_SELL].best())

    def depth(self, symbol: int, limit: int = 100) -> tuple[int, list[tuple[int, int]], list[tuple[int, int]]]:
        """(last update id, bids, asks), best first, each (px, qty)."""
        sides = self._sides[symbol]
        return self._update[symbol], sides[SIDE_BUY].depth(limit), sides[SIDE_SELL].depth(limit)

    def mark(self, symbol: int) -> int:
        """The average price that filters and values go by; the market makers say it."""
        return self._mark[symbol]

    def last_price(self, symbol: int) -> int:
        return self._last[symbol]

    def set_mark(self, symbol: int, px_ticks: int, ts_ns: int) -> int:
        """Set the average price. 0: nobody is liquidated on spot."""
        self._begin(ts_ns)
        self._move_mark(symbol, px_ticks)
        self._end()
        return 0

    # -- what happened ---------------------------------------------------------------------------------------------------------
    def event_list(self) -> list[tuple[int, ...]]:
        """Of the last changing call."""
        return self._events

    # -- truth -----------------------------------------------------------------------------------------------------------------
    def n_orders(self) -> int:
        """Orders kept (market makers' are not)."""
        return len(self._orders)

    def n_trades(self) -> int:
        return len(self._trades)

    def n_rejects(self) -> int:
        return len(self._rejects)

    def orders_after(self, slot: int, limit: int = 1000) -> list[tuple[Any, ...]]:
        """Orders with a slot > ``slot``, in order of acceptance."""
        return [self.order(n) for n in range(slot + 1, min(len(self._orders), slot + 1 + limit))]

    def trades_after(self, index: int, limit: int = 1000) -> list[tuple[int, ...]]:
        """Trades with an index > ``index``."""
        return self._trades[index + 1 : index + 1 + limit]

    def last_trades(self, symbol: int, limit: int) -> list[tuple[int, ...]]:
        """The market's newest trades, oldest first."""
        return list(islice((t for t in reversed(self._trades) if t[2] == symbol), limit))[::-1]

    def quotes_after(self, seq: int, limit: int = 1000) -> list[tuple[int, int, int, int, int, int]]:
        """(seq, ts_ns, symbol, bid, ask, mark) with seq > ``seq``; the oldest may be gone."""
        first = self._quotes[0][0] if self._quotes else 0
        return list(islice(self._quotes, max(0, seq + 1 - first), max(0, seq + 1 - first) + limit))

    def rejects_after(self, index: int, limit: int = 1000) -> list[tuple[Any, ...]]:
        """(index, ts_ns, account, symbol, code, client_id, side, 0, type, tif, 0, qty, px) of refused orders."""
        return self._rejects[index + 1 : index + 1 + limit]

    def incomes_after(self, index: int, limit: int = 1000) -> list[tuple[int, int, int, int, int, int]]:
        """(index, ts_ns, account, -1, REASON_*, amount_e8): deposits and withdrawals of the first quote asset."""
        return self._incomes[index + 1 : index + 1 + limit]

    def incomes_of(self, account: int, limit: int = 1000) -> list[tuple[int, int, int, int, int, int]]:
        """The newest ``limit`` of one account, oldest first (walks the whole log)."""
        return [row for row in self._incomes if row[2] == account][-limit:]

    def totals(self) -> tuple[int, int, int, int]:
        """(sum of balances, commissions, 0, deposits) of the first quote asset: the first three add up to the last."""
        held = sum(free[0] + locked[0] for free, locked in zip(self._free, self._locked, strict=True))
        return held, self.fees_e8[0], 0, self.deposits_e8[0]

    def memory_bytes(self) -> int:
        """Of its tables, without what they refer to."""
        tables = (self._orders, self._trades, self._rejects, self._quotes, self._by_client, self._free, self._locked)
        return sum(getsizeof(table) for table in tables)

    # -- a call, from begin to end ---------------------------------------------------------------------------------------------
    def _begin(self, ts_ns: int) -> None:
        self._events = []
        self._ts = ts_ns

    def _end(self, reason: int = REASON_ORDER) -> None:
        """Tell changed balances (makers' aside) and the new best prices."""
        events, ts = self._events, self._ts
        if self._moved:
            for account, assets in self._moved.items():
                free, locked, told = self._free[account], self._locked[account], self._told[account]
                for asset in sorted(assets):
                    total = free[asset] + locked[asset]
                    events.append((EV_ACCOUNT, account, -1, asset, 0, 0, 0, 0, reason, ts, 0, 0, 0, 0, 0, 0, 0, 0, total,
                                   free[asset], total - told[asset], 0))  # fmt: skip
                    told[asset] = total
            self._moved = {}
        if self._touched:
            for symbol in sorted(self._touched):
                self._update[symbol] += 1
                top = self.top(symbol)
                if top != self._top[symbol]:
                    self._top[symbol] = top
                    self._quotes.append((self.n_quotes, ts, symbol, top[0], top[2], self._mark[symbol]))
                    self.n_quotes += 1
                    events.append((EV_BOOK, -1, symbol, -1, 0, 0, 0, 0, 0, ts, 0, top[0], top[1], 0, top[2], top[3], 0, 0, 0, 0,
                                   0, 0))  # fmt: skip
            self._touched = set()

    def _move_mark(self, symbol: int, px: int) -> None:
        self._mark[symbol] = px
        self._events.append((EV_MARK, -1, symbol, -1, 0, 0, 0, 0, 0, self._ts, 0, px, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))

    def _credit(self, account: int, asset: int, amount_e8: int, reason: int) -> None:
        """Money from outside, or to it."""
        self._free[account][asset] += amount_e8
        self.deposits_e8[asset] += amount_e8
        self._flows[account].append((self._ts, asset, amount_e8))
        if asset == 0:
            self._incomes.append((len(self._incomes), self._ts, account, -1, reason, amount_e8))
        self._note(account, asset)

    def _note(self, account: int, asset: int) -> None:
        if not self._ephemeral[account]:
            self._moved.setdefault(account, set()).add(asset)

    # -- checks ----------------------------------------------------------------------------------------------------------------
    def _checked(
        self, account: int, symbol: int, side: int, kind: int, tif: int, qty: int, px: int, client_id: bytes, quote_e8: int
    ) -> int:
        if not 0 <= symbol < self.n_symbols:
            return -1121
        if side not in (SIDE_BUY, SIDE_SELL):
            return -1117
        if kind not in (TYPE_LIMIT, TYPE_MARKET) or (quote_e8 and kind != TYPE_MARKET):
            return -1116
        if tif not in (TIF_GTC, TIF_IOC, TIF_FOK, TIF_GTX):
            return -1115
        if len(client_id) > 36:
            return -4015
        if client_id:
            slot = self._by_client.get((account, client_id), -1)
            if slot >= 0 and self._orders[slot].status not in _ENDED:
                return -4116
        spec = self.specs[symbol]
        code = self._size_problem(spec, kind, qty, quote_e8)
        if not code and kind == TYPE_LIMIT:
            code = self._price_problem(spec, symbol, px)
        if code:
            return code
        value = quote_e8 or qty * (px if kind == TYPE_LIMIT else self._mark[symbol]) * self._mul[symbol]
        if value < spec.min_notional_e8 or (kind == TYPE_LIMIT and value > spec.max_notional_e8):
            return -4164
        mine = self._open[account]
        full = len(mine) >= spec.max_orders and sum(o.symbol == symbol for o in mine.values()) >= spec.max_orders
        return -2025 if full else 0

    @staticmethod
    def _size_problem(spec: SpotInstrument, kind: int, qty: int, quote_e8: int) -> int:
        if quote_e8:
            return -4003 if quote_e8 < 0 or qty else 0
        if qty <= 0:
            return -4003
        if qty < spec.min_qty:
            return -4004
        return -4005 if qty > (spec.market_max_qty if kind == TYPE_MARKET else spec.max_qty) else 0

    def _price_problem(self, spec: SpotInstrument, symbol: int, px: int) -> int:
        if px <= 0:
            return -4001
        if px < spec.min_px:
            return -4013
        if px > spec.max_px:
            return -4002
        mark = self._mark[symbol]
        if px * PPM > mark * spec.up_ppm:
            self.reject_value = mark * spec.up_ppm // PPM
            return -4016
        if px * PPM < mark * spec.down_ppm:
            self.reject_value = -(-mark * spec.down_ppm // PPM)
            return -4024
        return 0

    def _affordable(self, account: int, symbol: int, side: int, kind: int, qty: int, px: int, quote_e8: int, stp: int) -> int:
        """-2019 unless the account has free what the order may take or must lock."""
        base, quote = self._pair[symbol]
        free = self._free[account]
        if side == SIDE_BUY:
            if kind == TYPE_LIMIT:
                need = px * qty * self._mul[symbol]
            else:
                need = quote_e8 or self._reach(account, symbol, side, None, qty, 0, stp)[1]
            return -2019 if need > free[quote] else 0
        lots = qty if not quote_e8 else self._reach(account, symbol, side, None, 0, quote_e8, stp)[0]
        return -2019 if lots * self.specs[symbol].lot_e8 > free[base] else 0

    def _would_take(self, symbol: int, side: int, px: int) -> bool:
        best, _ = self._sides[symbol][-side].best()
        return best > 0 and (px >= best if side == SIDE_BUY else px <= best)

    def _reach(
        self, account: int, symbol: int, side: int, px: int | None, qty: int, quote_e8: int, stp: int
    ) -> tuple[int, int]:
        """(lots, value e8) the book would give a taker now: up to ``qty`` lots, or up to ``quote_e8``."""
        mul = self._mul[symbol]
        lots = value = 0
        for maker in self._sides[symbol][-side].crossing(None if px is None else px * -side):
            if maker.account == account and stp != STP_NONE:
                if stp == STP_EXPIRE_MAKER:
                    continue
                break
            step = maker.px * mul
            part = min(maker.qty - maker.cum, (quote_e8 - value) // step if quote_e8 else qty - lots)
            if part <= 0:
                break
            lots += part
            value += part * step
        return lots, value

    def _remembered(self, order: _Order, ts_ns: int) -> int:
        gone = order.status in _ENDED and not order.cum and ts_ns - order.ts_update >= FORGET_NS
        return -2026 if gone else order.slot

    # -- life of an order --------------------------------------------------------------------------------------------------------
    def _make(
        self, account: int, symbol: int, side: int, kind: int, tif: int, qty: int, px: int, client_id: bytes, stp: int,
        quote_e8: int,
    ) -> _Order:
        if self._ephemeral[account]:
            self._maker_no += 1
            slot = order_id = EPHEMERAL_ID_BASE + self._maker_no
            return _Order(slot, order_id, account, symbol, b"", side, kind, tif, stp, FLAG_EPHEMERAL, qty, px, quote_e8, self._ts)
        slot = len(self._orders)
        order_id = ORDER_ID_BASE + slot
        client_id = client_id or b"x-%d" % order_id
        order = _Order(
            slot, order_id, account, symbol, client_id, side, kind, tif, stp, 0, qty, 0 if kind == TYPE_MARKET else px, quote_e8,
            self._ts)
        self._orders.append(order)
        self._of_account[account].append(slot)
        self._by_client[(account, client_id)] = slot
        return order

    def _run(self, order: _Order) -> None:
        """Take what the book gives, then rest or expire."""
        limit = order.kind == TYPE_LIMIT
        if not order.flags:
            self._tell(EV_NEW, order)
        if limit:
            self._lock(order)
        fok = order.tif == TIF_FOK
        if fok and self._reach(
            order.account, order.symbol, order.side, order.px if limit else None, order.qty, order.quote_e8, order.stp
        )[0] < order.qty:
            self._finish(order, STATUS_EXPIRED, EV_EXPIRED)
            return
        stopped = self._match(order)
        if order.quote_e8:
            order.qty = order.cum  # what it came to
        if order.status == STATUS_FILLED:
            return
        if stopped:
            self._finish(order, STATUS_EXPIRED_IN_MATCH, EV_EXPIRED)
        elif order.quote_e8 and order.cum and self._sides[order.symbol][-order.side].keys:
            order.status = STATUS_FILLED  # what is left of the money buys no lot
            if not order.flags:
                self._tell_last_trade_filled(order)
        elif limit and order.tif in (TIF_GTC, TIF_GTX):
            self._sides[order.symbol][order.side].add(order)
            self._touched.add(order.symbol)
            self._open[order.account][order.slot] = order
        else:
            self._finish(order, STATUS_EXPIRED, EV_EXPIRED)

    def _tell_last_trade_filled(self, order: _Order) -> None:
        """A market order by value is filled by its last execution, whatever rest is less than a lot: that event says so."""
        for at in range(len(self._events) - 1, -1, -1):
            event = self._events[at]
            if event[0] == EV_TRADE and event[3] == order.slot:
                self._events[at] = (*event[:6], STATUS_FILLED, *event[7:])
                return

    def _match(self, taker: _Order) -> bool:
        """Executions of a new order. True: it met an order of its own account and must end."""
        book = self._sides[taker.symbol][-taker.side]
        limit_key = taker.px * -taker.side if taker.kind == TYPE_LIMIT else None
        mul = self._mul[taker.symbol]
        while book.keys:
            key = book.keys[-1]
            if limit_key is not None and key < limit_key:
                break
            level = book.levels[key]
            maker = next(iter(level.orders.values()))
            if maker.account == taker.account and taker.stp != STP_NONE:
                if taker.stp in (STP_EXPIRE_MAKER, STP_EXPIRE_BOTH):
                    self._remove(maker, STATUS_EXPIRED_IN_MATCH, EV_EXPIRED)
                if taker.stp in (STP_EXPIRE_TAKER, STP_EXPIRE_BOTH):
                    return True
                continue
            px = maker.px
            left = (taker.quote_e8 - taker.value) // (px * mul) if taker.quote_e8 else taker.qty - taker.cum
            qty = min(left, maker.qty - maker.cum)
            if qty <= 0:
                break
            self._trade(taker, maker, px, qty)
            level.qty -= qty
            if maker.status == STATUS_FILLED:
                book.drop(maker)
                del self._open[maker.account][maker.slot]
            if taker.status == STATUS_FILLED:
                break
        return False

    def _trade(self, taker: _Order, maker: _Order, px: int, qty: int) -> None:
        """One execution: money moves, both orders and the log are told."""
        symbol, ts = taker.symbol, self._ts
        spec = self.specs[symbol]
        base, quote = self._pair[symbol]
        mul = self._mul[symbol]
        value, amount = px * qty * mul, qty * spec.lot_e8
        trade_id = self._next_trade[symbol]
        self._next_trade[symbol] = trade_id + 1
        fees = [0, 0]
        for at, order in enumerate((maker, taker)):
            order.cum += qty
            order.value += value
            order.ts_update = ts
            whole = order.cum == order.qty and not order.quote_e8
            order.status = STATUS_FILLED if whole else STATUS_PARTIALLY_FILLED
            free, locked = self._free[order.account], self._locked[order.account]
            ppm = self._fees[order.account][at]
            if order.side == SIDE_BUY:
                fee = -(-amount * ppm // PPM)
                free[base] += amount - fee
                if order.kind == TYPE_LIMIT:
                    held = order.px * qty * mul
                    locked[quote] -= held
                    free[quote] += held - value
                else:
                    free[quote] -= value
                self.fees_e8[base] += fee
            else:
                fee = -(-value * ppm // PPM)
                free[quote] += value - fee
                if order.kind == TYPE_LIMIT:
                    locked[base] -= amount
                else:
                    free[base] -= amount
                self.fees_e8[quote] += fee
            fees[at] = fee
            if not order.flags:
                self._moved.setdefault(order.account, set()).update((base, quote))
                self._events.append((EV_TRADE, order.account, symbol, order.slot, order.side, 0, order.status, at == 0,
                                     REASON_ORDER, ts, order.order_id, px, qty, trade_id, order.cum, order.value, fee, 0, 0, 0,
                                     0, 0))  # fmt: skip
        self._last[symbol] = px
        self._touched.add(symbol)
        self._events.append((EV_PUBLIC_TRADE, -1, symbol, -1, taker.side, 0, 0, 0, 0, ts, 0, px, qty, trade_id, 0, 0, 0, 0, 0, 0,
                             0, 0))  # fmt: skip
        index = len(self._trades)
        buyer, seller = (taker, maker) if taker.side == SIDE_BUY else (maker, taker)
        buy_fee, sell_fee = (fees[1], fees[0]) if taker.side == SIDE_BUY else (fees[0], fees[1])
        self._trades.append((index, trade_id, symbol, px, qty, ts, taker.side, buyer.account, buyer.order_id, buy_fee, 0, 0,
                             seller.account, seller.order_id, sell_fee, 0, 0))  # fmt: skip
        for account in {buyer.account, seller.account}:
            if not self._ephemeral[account]:
                self._trades_of[account].append(index)

    def _lock(self, order: _Order) -> None:
        base, quote = self._pair[order.symbol]
        buys = order.side == SIDE_BUY
        asset = quote if buys else base
        amount = order.px * order.qty * self._mul[order.symbol] if buys else order.qty * self.specs[order.symbol].lot_e8
        self._free[order.account][asset] -= amount
        self._locked[order.account][asset] += amount
        self._note(order.account, asset)

    def _finish(self, order: _Order, status: int, event: int) -> None:
        """The end of an order that is not in the book: its lock is released."""
        order.status, order.ts_update = status, self._ts
        if order.kind == TYPE_LIMIT:
            base, quote = self._pair[order.symbol]
            left = order.qty - order.cum
            buys = order.side == SIDE_BUY
            asset = quote if buys else base
            amount = left * (order.px * self._mul[order.symbol] if buys else self.specs[order.symbol].lot_e8)
            self._locked[order.account][asset] -= amount
            self._free[order.account][asset] += amount
            self._note(order.account, asset)
        if not order.flags:
            self._tell(event, order)

    def _remove(self, order: _Order, status: int, event: int) -> None:
        """The end of an order in the book."""
        self._sides[order.symbol][order.side].drop(order)
        self._touched.add(order.symbol)
        del self._open[order.account][order.slot]
        self._finish(order, status, event)

    def _tell(self, kind: int, o: _Order) -> None:
        self._events.append((kind, o.account, o.symbol, o.slot, o.side, 0, o.status, 0, REASON_ORDER, self._ts, o.order_id, o.px,
                             o.qty, 0, o.cum, o.value, 0, 0, 0, 0, 0, 0))  # fmt: skip


def _parse(text: bytes, step_e8: int, not_positive: int, off_step: int) -> int:
    whole, _, part = text.partition(b".")
    if not (whole + part).isdigit():
        return not_positive if text[:1] == b"-" and text[1:].replace(b".", b"", 1).isdigit() else -1100
    if len(part.rstrip(b"0")) > 8:
        return -1111
    if len(whole) > 12:
        return -1100
    value = parse_scaled(text, 8) if part or whole else 0
    if value <= 0:
        return not_positive
    return off_step if value % step_e8 else value // step_e8


class SpotMakerProfile(msgspec.Struct, frozen=True):
    """How one symbol is quoted. Prices in ticks, ratios in parts per million of the price."""

    symbol: str
    half_spread: int
    gap: int  # ticks between levels
    levels: int = 12
    depth_e8: int = 12_000_000 * E8  # value on each side
    walk_ppm: int = 80
    pull_ppm: int = 20
    print_every: int = 5  # steps between small trades on the tape


SPOT_PROFILES: tuple[SpotMakerProfile, ...] = (
    SpotMakerProfile("BTCUSDT", half_spread=50, gap=1000),
    SpotMakerProfile("ETHUSDT", half_spread=3, gap=50),
    SpotMakerProfile("SOLUSDT", half_spread=1, gap=3),
)


class SpotMakers:
    """Seeded market makers: all old quotes away, the average price moved, new quotes, at one instant each step.

    What they send follows from the seed, the step number and the operator's shifts alone: ``flow_hash`` says so.
    """

    def __init__(self, engine: SpotEngine, seed: int, profiles: Sequence[SpotMakerProfile] = SPOT_PROFILES) -> None:
        names = [spec.symbol for spec in engine.specs]
        self.engine = engine
        self.profiles = {names.index(p.symbol): p for p in profiles if p.symbol in names}
        self._rng = {symbol: random.Random(f"spot maker {seed} {names[symbol]}") for symbol in self.profiles}
        self._mid = {symbol: engine.specs[symbol].start_px * PPM for symbol in self.profiles}  # 1e-6 ticks
        self._anchor = dict(self._mid)
        self._walk = {symbol: p.walk_ppm for symbol, p in self.profiles.items()}
        self._hash = hashlib.blake2b(digest_size=8)
        self.maker = engine.add_account(ephemeral=True, no_margin=True, maker_ppm=0, taker_ppm=0)
        self.printer = engine.add_account(ephemeral=True, no_margin=True, maker_ppm=0, taker_ppm=0)
        self.step_no = 0

    def step(self, ts_ns: int) -> None:
        """One step of every market, as one call of the engine."""
        engine = self.engine
        engine._begin(ts_ns)
        self.step_no += 1
        for symbol, profile in self.profiles.items():
            self._quote(symbol, profile)
        engine._end()

    def _quote(self, symbol: int, profile: SpotMakerProfile) -> None:
        engine, rng, spec = self.engine, self._rng[symbol], self.engine.specs[symbol]
        middle = self._mid[symbol]
        middle += middle * rng.randint(-self._walk[symbol], self._walk[symbol]) // PPM
        middle += (self._anchor[symbol] - middle) * profile.pull_ppm // PPM
        lowest = (spec.min_px + profile.half_spread + profile.levels * profile.gap + 1) * PPM
        self._mid[symbol] = middle = max(middle, lowest)
        mid = middle // PPM
        for order in list(engine._open[self.maker].values()):
            if order.symbol == symbol:
                engine._remove(order, STATUS_CANCELED, EV_CANCELED)
        engine._move_mark(symbol, mid)
        share = profile.depth_e8 // (profile.levels * mid * spec.value_mul)
        for level in range(profile.levels):
            for side in (SIDE_BUY, SIDE_SELL):
                px = mid - side * (profile.half_spread + level * profile.gap + rng.randrange(profile.gap))
                qty = min(spec.max_qty, max(spec.min_qty, share // 2 + rng.randrange(share + 1)))
                self._send(self.maker, symbol, side, TIF_GTC, qty, px)
        if self.step_no % profile.print_every == 0:
            side = rng.choice((SIDE_BUY, SIDE_SELL))
            qty = spec.min_qty + spec.min_notional_e8 * rng.randint(1, 20) // (mid * spec.value_mul)
            self._send(self.printer, symbol, side, TIF_IOC, qty, mid + side * (profile.half_spread + 2 * profile.gap))

    def _send(self, account: int, symbol: int, side: int, tif: int, qty: int, px: int) -> None:
        self._hash.update(b"%d %d %d %d\n" % (symbol, side, qty, px))
        engine = self.engine
        engine._run(engine._make(account, symbol, side, TYPE_LIMIT, tif, qty, px, b"", STP_NONE, 0))

    def shift(self, symbol: int, ppm: int) -> None:
        """Move the middle and where it is drawn to."""
        self._mid[symbol] += self._mid[symbol] * ppm // PPM
        self._anchor[symbol] += self._anchor[symbol] * ppm // PPM

    def move_to(self, symbol: int, px_ticks: int) -> None:
        """Put the middle, and where it is drawn to, at a price; ``ValueError`` below one tick."""
        if px_ticks < 1:
            raise ValueError("a price is at least one tick")
        self._mid[symbol] = self._anchor[symbol] = px_ticks * PPM

    def hold(self, symbol: int, walk_ppm: int) -> None:
        """How far one step may move."""
        self._walk[symbol] = walk_ppm

    def mid(self, symbol: int) -> int:
        return self._mid[symbol] // PPM

    def flow_hash(self) -> int:
        """Over everything sent; equal after equally many steps with equal seeds."""
        return int.from_bytes(self._hash.digest(), "big")
