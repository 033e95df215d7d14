"""A second exchange, as plain as can be: lists, dictionaries, full scans. The engine is compared with it, call by call.

It knows matching, reduce-only, self-trade prevention, fees and positions; margin is left to table tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BUY, SELL = 1, -1
LIMIT, MARKET = 0, 1
GTC, IOC, FOK, GTX = 0, 1, 2, 3
BOTH, LONG, SHORT = 0, 1, 2
STP_NONE, STP_TAKER, STP_MAKER, STP_BOTH = 0, 1, 2, 3


@dataclass
class OracleOrder:
    number: int
    account: int
    side: int
    kind: int
    tif: int
    qty: int
    px: int
    leg: int
    closing: bool
    client: bytes
    stp: int
    turn: int  # place in time
    cum: int = 0
    value: int = 0
    status: str = "NEW"

    @property
    def leaves(self) -> int:
        return self.qty - self.cum

    @property
    def open(self) -> bool:
        return self.status in ("NEW", "PARTIALLY_FILLED")


@dataclass
class Oracle:
    """One instrument, any accounts. ``value_mul``, fees in ppm, mark and market bound as in the instrument."""

    value_mul: int
    mark: int
    bound_ppm: int
    maker_ppm: int
    taker_ppm: int
    hedge: set[int] = field(default_factory=set)
    orders: list[OracleOrder] = field(default_factory=list)
    trades: list[tuple[int, int, int, int, int]] = field(default_factory=list)  # px, qty, taker side, buyer, seller
    qty: dict[tuple[int, int], int] = field(default_factory=dict)
    cost: dict[tuple[int, int], int] = field(default_factory=dict)
    wallet: dict[int, int] = field(default_factory=dict)
    turn: int = 0

    def side_of_book(self, side: int) -> list[OracleOrder]:
        """Open orders of a side, the next to be hit first."""
        return sorted((o for o in self.orders if o.open and o.side == side), key=lambda o: (-side * o.px, o.turn))

    def room(self, account: int, leg: int, side: int) -> int:
        held = self.qty.get((account, leg), 0)
        return abs(held) if held * side < 0 else 0

    def place(
        self, account: int, side: int, kind: int, tif: int, qty: int, px: int, reduce_only: bool, leg: int, client: bytes,
        stp: int,
    ) -> int:  # fmt: skip
        """Number of the order, or the error code."""
        hedge = account in self.hedge
        if hedge != (leg != BOTH):
            return -4061
        if hedge and reduce_only:
            return -1106
        if any(o.open and o.account == account and o.client == client for o in self.orders):
            return -4116
        opposite = self.side_of_book(-side)
        if kind == MARKET:
            if not opposite:
                return -4131
            px = 0
            edge = self.mark * (1_000_000 + side * self.bound_ppm)
            limit = edge // 1_000_000 if side == BUY else -(-edge // 1_000_000)
        else:
            limit = px
        closing = reduce_only or (hedge and (leg == LONG) == (side == SELL))
        if closing:
            room = self.room(account, leg, side)
            if room == 0 or (hedge and qty > room):
                return -2022
            qty = min(qty, room)
        if kind == LIMIT and tif == GTX and opposite and (opposite[0].px - px) * side <= 0:
            return -5022
        order = OracleOrder(len(self.orders), account, side, kind, tif, qty, px, leg, closing, client, stp, self.turn)
        if kind == LIMIT and tif == FOK:
            before = self.copy()
            before.take(order, limit)
            filled = order.leaves == 0
            order.cum = order.value = 0
            order.status = "NEW"
            if not filled:
                return -5021
        self.turn += 1
        self.orders.append(order)
        self.take(order, limit)
        self.trim(account)
        return order.number

    def copy(self) -> Oracle:
        """To try a FOK on."""
        from copy import deepcopy

        return deepcopy(self)

    def take(self, order: OracleOrder, limit: int) -> None:
        stopped = False
        while order.leaves:
            book = self.side_of_book(-order.side)
            if not book or (book[0].px - limit) * order.side > 0:
                break
            rest = book[0]
            if rest.account == order.account and order.stp != STP_NONE:
                if order.stp in (STP_MAKER, STP_BOTH):
                    rest.status = "EXPIRED_IN_MATCH"
                if order.stp in (STP_TAKER, STP_BOTH):
                    stopped = True
                    break
                continue
            qty = min(order.leaves, rest.leaves)
            if rest.closing:
                qty = min(qty, self.room(rest.account, rest.leg, rest.side))
                if not qty:
                    rest.status = "EXPIRED"
                    continue
            if order.closing:
                qty = min(qty, self.room(order.account, order.leg, order.side))
                if not qty:
                    break
            self.execute(order, rest, qty)
            self.trim(rest.account)
        if not order.leaves:
            order.status = "FILLED"
        elif stopped:
            order.status = "EXPIRED_IN_MATCH"
        elif (
            order.kind == MARKET
            or order.tif in (IOC, FOK)
            or (order.closing and not self.room(order.account, order.leg, order.side))
        ):
            order.status = "EXPIRED"

    def execute(self, taker: OracleOrder, maker: OracleOrder, qty: int) -> None:
        px = maker.px
        for order, ppm in ((taker, self.taker_ppm), (maker, self.maker_ppm)):
            value = px * qty * self.value_mul
            order.cum += qty
            order.value += value
            order.status = "PARTIALLY_FILLED" if order.leaves else "FILLED"
            key = (order.account, order.leg)
            held, cost = self.qty.get(key, 0), self.cost.get(key, 0)
            gain = 0
            for _ in range(1):
                closed = min(qty, abs(held)) if held * order.side < 0 else 0
                if closed:
                    released = abs(cost) * closed // abs(held)
                    closed_value = px * closed * self.value_mul
                    gain = closed_value - released if held > 0 else released - closed_value
                    cost += -released if held > 0 else released
                    held += order.side * closed
                opened = qty - closed
                held += order.side * opened
                cost += order.side * opened * px * self.value_mul
            self.qty[key], self.cost[key] = held, cost
            self.wallet[order.account] = self.wallet.get(order.account, 0) + gain - value * ppm // 1_000_000
        buyer, seller = (taker, maker) if taker.side == BUY else (maker, taker)
        self.trades.append((px, qty, taker.side, buyer.account, seller.account))

    def trim(self, account: int) -> None:
        for order in self.orders:
            if (
                order.account == account
                and order.open
                and order.closing
                and order.turn < self.turn
                and not self.room(account, order.leg, order.side)
            ):
                order.status = "EXPIRED"

    def cancel(self, number: int) -> int:
        if not self.orders[number].open:
            return -2011
        self.orders[number].status = "CANCELED"
        return 0

    def modify(self, number: int, qty: int, px: int) -> int:
        order = self.orders[number]
        if not order.open:
            return -2013
        if order.closing:
            qty = min(qty, self.room(order.account, order.leg, order.side) + order.cum)
        if (qty, px) == (order.qty, order.px):
            return -5027
        opposite = self.side_of_book(-order.side)
        if qty <= order.cum or (order.tif == GTX and opposite and (opposite[0].px - px) * order.side <= 0):
            order.status = "CANCELED"
            return 0
        if px == order.px and qty < order.qty:
            order.qty = qty
            return 0
        order.qty, order.px = qty, px
        order.turn = self.turn
        self.turn += 1
        status, order.status = order.status, "MOVING"  # not in the book while it takes
        self.take(order, px)
        if order.status == "MOVING":
            order.status = status
        self.trim(order.account)
        return 0

    def depth(self, side: int) -> list[tuple[int, int]]:
        levels: dict[int, int] = {}
        for order in self.side_of_book(side):
            levels[order.px] = levels.get(order.px, 0) + order.leaves
        return list(levels.items())
