"""A second spot market, as plain as can be: one list of orders, full scans, every balance worked out anew from the trades.

It knows nothing of levels, locks or running sums: what is locked follows from the open orders, what is owned from deposits,
trades and fees. The engine is compared with it, call by call.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BUY, SELL = 1, -1
LIMIT, MARKET = 0, 1
GTC, IOC, FOK, GTX = 0, 1, 2, 3
NONE, TAKER, MAKER, BOTH = 0, 1, 2, 3


@dataclass
class Entry:
    number: int
    account: int
    side: int
    kind: int
    qty: int
    px: int
    quote: int = 0
    cum: int = 0
    value: int = 0
    status: str = "NEW"

    @property
    def open(self) -> bool:
        return self.status in ("NEW", "PARTIALLY_FILLED")


@dataclass
class Trade:
    px: int
    qty: int
    buyer: int
    seller: int
    buyer_takes: bool


@dataclass
class SpotOracle:
    """One market. ``fees``: (maker, taker) ppm by account; deposits and amounts in 1e-8."""

    value_mul: int
    lot: int
    mark: int
    min_notional: int
    fees: list[tuple[int, int]]
    deposits: list[tuple[int, int]]  # (base, quote) by account
    entries: list[Entry] = field(default_factory=list)
    trades: list[Trade] = field(default_factory=list)

    # -- what is owned ---------------------------------------------------------------------------------------------------
    def fee(self, trade: Trade, buyer: bool) -> int:
        taker = trade.buyer_takes == buyer
        account = trade.buyer if buyer else trade.seller
        received = trade.qty * self.lot if buyer else trade.px * trade.qty * self.value_mul
        exact = received * self.fees[account][1 if taker else 0]
        return exact // 10**6 + (1 if exact % 10**6 else 0)

    def owned(self, account: int) -> tuple[int, int]:
        base, quote = self.deposits[account]
        for trade in self.trades:
            if trade.buyer == account:
                base += trade.qty * self.lot - self.fee(trade, True)
                quote -= trade.px * trade.qty * self.value_mul
            if trade.seller == account:
                base -= trade.qty * self.lot
                quote += trade.px * trade.qty * self.value_mul - self.fee(trade, False)
        return base, quote

    def locked(self, account: int) -> tuple[int, int]:
        mine = [e for e in self.entries if e.account == account and e.open]
        base = sum((e.qty - e.cum) * self.lot for e in mine if e.side == SELL)
        quote = sum((e.qty - e.cum) * e.px * self.value_mul for e in mine if e.side == BUY)
        return base, quote

    def free(self, account: int) -> tuple[int, int]:
        (base, quote), (base_locked, quote_locked) = self.owned(account), self.locked(account)
        return base - base_locked, quote - quote_locked

    # -- orders ----------------------------------------------------------------------------------------------------------
    def queue(self, side: int, px: int) -> list[Entry]:
        """Open orders a taker of ``side`` meets, best first; ``px`` 0: any price."""
        met = [e for e in self.entries if e.open and e.side == -side and (not px or (px - e.px) * side >= 0)]
        return sorted(met, key=lambda e: (e.px * side, e.number))

    def walk(self, account: int, side: int, px: int, qty: int, quote: int, stp: int) -> tuple[int, int]:
        lots = value = 0
        for entry in self.queue(side, px):
            if stp != NONE and entry.account == account:
                if stp == MAKER:
                    continue
                break
            room = (quote - value) // (entry.px * self.value_mul) if quote else qty - lots
            part = min(room, entry.qty - entry.cum)
            if part <= 0:
                break
            lots, value = lots + part, value + part * entry.px * self.value_mul
        return lots, value

    def place(self, account: int, side: int, kind: int, tif: int, qty: int, px: int, quote: int, stp: int) -> Entry | str:
        limit = kind == LIMIT
        if not limit:
            px = 0
        value = quote or qty * (px if limit else self.mark) * self.value_mul
        if value < self.min_notional:
            return "notional"
        if limit and tif == GTX and self.queue(side, px):
            return "would take"
        base, money = self.free(account)
        lots, cost = (qty, px * qty * self.value_mul) if limit else self.walk(account, side, 0, qty, quote, stp)
        if side == BUY and (cost if limit or not quote else quote) > money:
            return "balance"
        if side == SELL and (lots if quote else qty) * self.lot > base:
            return "balance"
        entry = Entry(len(self.entries), account, side, kind, qty, px, quote)
        if tif == FOK and not quote and self.walk(account, side, px, qty, 0, stp)[0] < qty:
            entry.status = "EXPIRED"
            self.entries.append(entry)
            return entry
        self.take(entry, stp)
        self.entries.append(entry)
        if entry.status in ("NEW", "PARTIALLY_FILLED") and not (limit and tif in (GTC, GTX)):
            entry.status = "EXPIRED"
        if quote:
            entry.qty = entry.cum
            if entry.cum and entry.status == "EXPIRED" and self.queue(side, 0):
                entry.status = "FILLED"
        return entry

    def take(self, entry: Entry, stp: int) -> None:
        while True:
            queue = self.queue(entry.side, entry.px)
            if not queue:
                return
            maker = queue[0]
            if stp != NONE and maker.account == entry.account:
                if stp in (MAKER, BOTH):
                    maker.status = "EXPIRED_IN_MATCH"
                if stp in (TAKER, BOTH):
                    entry.status = "EXPIRED_IN_MATCH"
                    return
                continue
            left = (entry.quote - entry.value) // (maker.px * self.value_mul) if entry.quote else entry.qty - entry.cum
            qty = min(left, maker.qty - maker.cum)
            if qty <= 0:
                return
            buyer, seller = (entry, maker) if entry.side == BUY else (maker, entry)
            self.trades.append(Trade(maker.px, qty, buyer.account, seller.account, entry.side == BUY))
            for one in (entry, maker):
                one.cum += qty
                one.value += qty * maker.px * self.value_mul
                one.status = "FILLED" if one.cum == one.qty and not one.quote else "PARTIALLY_FILLED"

    def cancel(self, number: int) -> bool:
        entry = self.entries[number]
        if not entry.open:
            return False
        entry.status = "CANCELED"
        return True
