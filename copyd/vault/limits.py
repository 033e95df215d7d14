"""What the signer may sign, for one order: the readable twin of ``copyd._fast.guard``, and the word for a refusal."""

from __future__ import annotations

from typing import NamedTuple

from copyd.core.rows import InstrumentRow, LegRow, OrderRow, OrderState

#: Why an order must not be signed.
MALFORMED, ACCOUNT_UNKNOWN, INSTRUMENT_NOT_LISTED = "malformed", "account_unknown", "instrument_not_listed"
PRICE_UNKNOWN, PRICE_OUT_OF_BAND, ABOVE_NOTIONAL_CAP = "price_unknown", "price_out_of_band", "above_notional_cap"


class AccountLimits(NamedTuple):
    """Bit i of ``instruments``: it may open in instrument i. ``notional_cap_e8``: most one order may be worth; 0 = no cap."""

    instruments: int
    notional_cap_e8: int


def reduces(order: OrderRow, leg: LegRow | None) -> bool:
    """Whether the order makes its leg's confirmed attributed quantity smaller, and no more than flat."""
    if leg is None or (leg.account, leg.instrument) != (order.account, order.instrument):
        return False
    if leg.attributed > 0:
        return order.side < 0 and order.position_side != 2 and order.order_qty <= leg.attributed
    return leg.attributed < 0 and order.side > 0 and order.position_side != 1 and order.order_qty <= -leg.attributed


def refusal(
    order: OrderRow,
    leg: LegRow | None,
    instrument: InstrumentRow | None,
    limits: AccountLimits | None,
    band: tuple[int, int] | None,
) -> str:
    """Why the order must not be signed; "" when it may. ``band``: lowest and highest price in ticks; None: not known."""
    if order.state == OrderState.FREE or order.order_qty <= 0 or order.side not in (1, -1) or order.limit_px < 0:
        return MALFORMED
    if reduces(order, leg):
        return ""
    if limits is None:
        return ACCOUNT_UNKNOWN
    if not limits.instruments >> order.instrument & 1:
        return INSTRUMENT_NOT_LISTED
    if band is None:
        return PRICE_UNKNOWN
    if order.limit_px and not band[0] <= order.limit_px <= band[1]:
        return PRICE_OUT_OF_BAND
    if not limits.notional_cap_e8:
        return ""
    if instrument is None or instrument.value_mul <= 0 or instrument.value_div <= 0:
        return MALFORMED
    # Compared before the division, so that no rounding decides. At the market, the worst price of the band.
    notional = order.order_qty * (order.limit_px or band[1]) * instrument.value_mul
    return ABOVE_NOTIONAL_CAP if notional > limits.notional_cap_e8 * instrument.value_div else ""
