"""The signer's own limits of one venue, in force: what its accounts may sign, kept up as plans and prices change.

The last look at an order before it is signed. It reads plans and quotes by itself, so that a mistake made between a decision
and its signature signs nothing that no plan of the account allows. An exit always passes (``copyd.vault.limits``).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence

from copyd._fast.guard import Guard
from copyd.core.engine import INSTRUMENTS, LEGS, ORDERS, PLANS, Alert, Engine
from copyd.core.fixed import BPS
from copyd.core.risk import PRICE_BAND_BPS
from copyd.core.rows import InstrumentRow, LegRow, OrderRow, PlanRow
from copyd.vault.limits import MALFORMED, AccountLimits, refusal

#: The market may move between a decision and its signature, and the mark be apart from the book.
DRIFT_BPS = 500
#: An order may be worth this many times what its plan may hold: one without a limit counts at the far end of the band.
CAP_MARGIN = 2
#: Lowest and highest price, ticks, while none is known: nothing is decided then, and nothing is to be held up.
ANY_PRICE = (1, 1 << 62)
CAP_MAX = (1 << 63) - 1


def plan_cap(plan: PlanRow, slippage_bps: int) -> int:
    """The most one order of a plan may be worth, 1e-8 quote; 0 = the plan has no limit. ``slippage_bps``: where it has none."""
    limits = (plan.allocation_e8 * plan.leverage_max, plan.max_notional_symbol_e8, plan.max_notional_total_e8)
    least = min((limit for limit in limits if limit), default=0)
    # Plans are held to their limits at the leader's price, the order names one that is worse by the slippage cap.
    return min(CAP_MAX, -(-least * CAP_MARGIN * (BPS + (plan.slippage_bps or slippage_bps)) // BPS))


def price_band(prices: Iterable[int], slippage_bps: int) -> tuple[int, int]:
    """The prices, in ticks, that an opening may name while the market is at ``prices``; 0 among these is none."""
    known = [price for price in prices if price > 0]
    if not known:
        return ANY_PRICE
    far = PRICE_BAND_BPS + DRIFT_BPS
    low = min(known) * (BPS - far) * max(0, BPS - slippage_bps) // BPS**2
    high = -(-max(known) * (BPS + far) * (BPS + slippage_bps) // BPS**2)
    return max(1, low), min(high, ANY_PRICE[1])


class SignerLimits:
    """See the module. ``alert`` hears of each refusal once per account and reason."""

    def __init__(self, alert: Callable[[Alert], None]) -> None:
        self._alert = alert
        self._guard = Guard()
        self._engine: Engine
        self._listed = 0
        self._slippage: dict[int, int] = {}  # by instrument, of its class
        self._slippage_max = 0  # of any plan since the start: prices are held against one band per instrument
        self._accounts: dict[int, tuple[AccountLimits, int]] = {}  # with the cap of its key
        self._prices: dict[int, tuple[int, ...]] = {}
        self._bands: dict[int, tuple[int, int]] = {}
        self._said: set[tuple[int, str]] = set()

    def bind(self, engine: Engine, instruments: Sequence[int]) -> None:
        """The engine whose tables hold the orders, and the venue's instruments in it."""
        self._engine = engine
        self._listed = sum(1 << index for index in instruments)
        self._slippage = dict.fromkeys(instruments, 0)
        for index in instruments:
            self.price(index)

    def allow(self, account: int, key_cap_e8: int) -> None:
        """What the plans of an account allow, and its key: ``key_cap_e8``, the most an order may be worth, 0 = no cap."""
        limits = self._limits_of(account, key_cap_e8)
        if self._accounts.get(account, (None,))[0] != limits:
            self._guard.set_account(account, *limits)
            self._said = {(of, reason) for of, reason in self._said if of != account} if self._said else self._said
        self._accounts[account] = limits, key_cap_e8

    def forget(self, account: int) -> None:
        """Its key is gone: nothing is allowed."""
        self._accounts.pop(account, None)
        self._guard.forget_account(account)

    def plans_changed(self, accounts: Iterable[int]) -> None:
        """Plans of these accounts were added or changed; accounts that were never allowed anything stay so."""
        for account in accounts:
            if (known := self._accounts.get(account)) is not None:
                self.allow(account, known[1])

    def configured(self) -> None:
        """The configuration in force is another: all that was read of it is read again."""
        for index in self._slippage:
            self._slippage[index] = InstrumentRow.unpack(self._engine.columns.get(INSTRUMENTS, index)).slippage_bps
        self.plans_changed(list(self._accounts))
        self._set_bands()

    def price(self, instrument: int, *prices: int) -> None:
        """The market is here now: mark, bid and ask, as far as they are known, in ticks."""
        self._prices[instrument] = prices
        self._set_band(instrument)

    def _set_bands(self) -> None:
        for instrument in self._prices:
            self._set_band(instrument)

    def _set_band(self, instrument: int) -> None:
        band = price_band(self._prices[instrument], max(self._slippage.get(instrument, 0), self._slippage_max))
        if band != self._bands.get(instrument):
            self._bands[instrument] = band
            self._guard.set_price(instrument, *band)

    def refused(self, slots: array) -> array:
        """The order rows among ``slots`` that must not be signed; each reason is said once."""
        found = array("I", self._guard.check(self._engine.columns, slots))
        for slot in found:
            self._say(slot)
        return found

    def _limits_of(self, account: int, key_cap_e8: int) -> AccountLimits:
        mask, caps = 0, []
        class_slippage, slippage_max = max(self._slippage.values(), default=0), self._slippage_max
        for index in self._engine.plans_of(account):
            plan = PlanRow.unpack(self._engine.columns.get(PLANS, index))
            self._slippage_max = max(self._slippage_max, plan.slippage_bps)
            mask |= plan.instruments & self._listed
            if ~plan.instruments & self._listed:  # what it holds beside them is closed, if need be beyond its own quantity
                mask |= sum({1 << leg.instrument for _, leg in self._engine.plan_legs(index) if leg.attributed})
            caps.append(plan_cap(plan, class_slippage))
        if self._slippage_max != slippage_max:
            self._set_bands()
        largest = max(caps, default=0) if all(caps) else 0  # an order is of one plan
        return AccountLimits(mask, min((cap for cap in (largest, key_cap_e8) if cap), default=0))

    def _say(self, slot: int) -> None:
        columns = self._engine.columns
        order = OrderRow.unpack(columns.get(ORDERS, slot))
        leg = LegRow.unpack(columns.get(LEGS, order.leg)) if order.leg < columns.count(LEGS) else None
        known = order.instrument < columns.count(INSTRUMENTS)
        instrument = InstrumentRow.unpack(columns.get(INSTRUMENTS, order.instrument)) if known else None
        limits = self._accounts[order.account][0] if order.account in self._accounts else None
        reason = refusal(order, leg, instrument, limits, self._bands.get(order.instrument)) or MALFORMED
        if (order.account, reason) in self._said:
            return
        self._said.add((order.account, reason))
        names = self._engine.names
        self._alert(Alert("signer_refused", f"an order was not signed: {reason}", {
            "account": names.accounts[order.account] if order.account < len(names.accounts) else str(order.account),
            "reason": reason, "symbol": self._engine.symbol(order.instrument) if known else str(order.instrument),
            "client_order_id": order.cid.hex(), "lots": order.order_qty, "limit_ticks": order.limit_px,
        }))
