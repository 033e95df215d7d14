"""The simulated exchange's instruments and the texts of its refusals: data only, one place for both.

Units: ticks, lots, money in 1e-8 USDT (``_e8``), ratios in parts per million (``_ppm``).
``notional_e8 = px * qty * value_mul`` is exact for every instrument here: a tick times a lot is a whole number of 1e-8 USDT.
"""

from __future__ import annotations

import msgspec

from copyd.errors import UsageError

E8 = 100_000_000
PPM = 1_000_000


class Tier(msgspec.Struct, frozen=True):
    """One leverage bracket: positions worth ``floor_e8``..``cap_e8`` may use ``max_leverage``."""

    bracket: int
    max_leverage: int
    floor_e8: int
    cap_e8: int
    mmr_ppm: int  # maintenance margin ratio
    cum_e8: int  # maintenance amount: keeps the maintenance margin continuous from bracket to bracket


class Instrument(msgspec.Struct, frozen=True):
    """One perpetual contract with its filters, as ``exchangeInfo`` tells them."""

    symbol: str
    base: str
    tick_e8: int  # tick size, 1e-8 USDT
    lot_e8: int  # lot size, 1e-8 coin
    price_precision: int
    qty_precision: int
    start_px: int  # ticks: where a fresh market begins
    min_px: int
    max_px: int
    max_qty: int  # lots
    market_max_qty: int
    min_notional_e8: int
    tiers: tuple[Tier, ...]
    min_qty: int = 1
    up_ppm: int = 1_050_000  # PERCENT_PRICE
    down_ppm: int = 950_000
    take_bound_ppm: int = 50_000  # marketTakeBound
    liquidation_fee_ppm: int = 12_500
    max_orders: int = 200
    quote: str = "USDT"

    @property
    def value_mul(self) -> int:
        """1e-8 USDT that one lot is worth per tick of price."""
        return self.tick_e8 * self.lot_e8 // E8

    @property
    def max_leverage(self) -> int:
        return self.tiers[0].max_leverage

    def price_text(self, px: int) -> str:
        """A price in ticks as the venue writes it."""
        return fixed(px * self.tick_e8, self.price_precision)

    def qty_text(self, qty: int) -> str:
        """A quantity in lots as the venue writes it."""
        return fixed(qty * self.lot_e8, self.qty_precision)


def refined(spec: Instrument, tick_e8: int = 0, lot_e8: int = 0) -> Instrument:
    """The same contract with another tick or lot (1e-8; 0 = as it is): its prices and largest quantities stay what they were,
    cut to the new steps, its smallest quantity as many lots as before. UsageError: a tick times a lot would not be a whole number
    of 1e-8 of the quote asset."""
    if not tick_e8 and not lot_e8:
        return spec  # with the decimals its venue writes
    tick, lot = tick_e8 or spec.tick_e8, lot_e8 or spec.lot_e8
    if tick * lot % E8:
        raise UsageError(f"{spec.symbol}: a tick of {fixed(tick, 8)} times a lot of {fixed(lot, 8)} is finer than 1e-8")
    return msgspec.structs.replace(
        spec, tick_e8=tick, lot_e8=lot, price_precision=_places(tick), qty_precision=_places(lot),
        start_px=spec.start_px * spec.tick_e8 // tick, min_px=max(1, spec.min_px * spec.tick_e8 // tick),
        max_px=spec.max_px * spec.tick_e8 // tick, max_qty=spec.max_qty * spec.lot_e8 // lot,
        market_max_qty=spec.market_max_qty * spec.lot_e8 // lot,
    )  # fmt: skip


def _places(step_e8: int) -> int:
    """Decimal places that a step of 1e-8 units needs."""
    return len(fixed(step_e8, 8).rstrip("0").partition(".")[2])


def fixed(value_e8: int, digits: int) -> str:
    """A 1e-8 number as a decimal text with ``digits`` places; further digits are cut (toward zero)."""
    whole, part = divmod(abs(value_e8), E8)
    sign = "-" if value_e8 < 0 else ""
    return f"{sign}{whole}.{part:08d}"[: len(sign) + len(str(whole)) + 1 + digits] if digits else f"{sign}{whole}"


def make_tiers(rows: list[tuple[int, int, int]]) -> tuple[Tier, ...]:
    """Brackets from (cap in USDT, maintenance ratio ppm, max leverage), lowest first."""
    tiers: list[Tier] = []
    floor = cum = before = 0
    for number, (cap, mmr_ppm, leverage) in enumerate(rows, 1):
        if number > 1:
            cum += floor * (mmr_ppm - before) // PPM
        tiers.append(Tier(number, leverage, floor, cap * E8, mmr_ppm, cum))
        floor, before = cap * E8, mmr_ppm
    return tuple(tiers)


BTC_TIERS = make_tiers(
    [
        (50_000, 4_000, 125),
        (600_000, 5_000, 100),
        (3_000_000, 6_500, 75),
        (12_000_000, 10_000, 50),
        (70_000_000, 20_000, 25),
        (100_000_000, 25_000, 20),
        (230_000_000, 50_000, 10),
        (480_000_000, 100_000, 5),
        (600_000_000, 125_000, 4),
        (800_000_000, 150_000, 3),
        (1_200_000_000, 250_000, 2),
        (1_800_000_000, 500_000, 1),
    ]
)
ALT_TIERS = make_tiers(
    [
        (10_000, 5_000, 75),
        (100_000, 6_500, 50),
        (1_000_000, 10_000, 40),
        (5_000_000, 20_000, 25),
        (20_000_000, 25_000, 20),
        (40_000_000, 50_000, 10),
        (80_000_000, 100_000, 5),
        (150_000_000, 250_000, 2),
        (300_000_000, 500_000, 1),
    ]
)

BTCUSDT = Instrument(
    symbol="BTCUSDT", base="BTC", tick_e8=10_000_000, lot_e8=100_000, price_precision=2, qty_precision=3,
    start_px=600_000, min_px=5_568, max_px=45_297_640, max_qty=1_000_000, market_max_qty=120_000,
    min_notional_e8=50 * E8, tiers=BTC_TIERS,
)  # fmt: skip
ETHUSDT = Instrument(
    symbol="ETHUSDT", base="ETH", tick_e8=1_000_000, lot_e8=100_000, price_precision=2, qty_precision=3,
    start_px=300_000, min_px=3_986, max_px=30_617_700, max_qty=10_000_000, market_max_qty=2_000_000,
    min_notional_e8=20 * E8, tiers=BTC_TIERS,
)  # fmt: skip
SOLUSDT = Instrument(
    symbol="SOLUSDT", base="SOL", tick_e8=1_000_000, lot_e8=1_000_000, price_precision=4, qty_precision=2,
    start_px=15_000, min_px=42, max_px=600_000, max_qty=100_000_000, market_max_qty=5_000_000,
    min_notional_e8=5 * E8, tiers=ALT_TIERS,
)  # fmt: skip
INSTRUMENTS: tuple[Instrument, ...] = (BTCUSDT, ETHUSDT, SOLUSDT)


# Every refusal the engine can give, with the venue's text; {} takes the number of ``refusal_text``.
REFUSALS: dict[int, str] = {
    -1100: "Illegal characters found in a parameter.",
    -1106: "Parameter 'reduceonly' sent when not required.",
    -1111: "Precision is over the maximum defined for this asset.",
    -1115: "Invalid timeInForce.",
    -1116: "Invalid orderType.",
    -1117: "Invalid side.",
    -1121: "Invalid symbol.",
    -2011: "Unknown order sent.",
    -2013: "Order does not exist.",
    -2019: "Margin is insufficient.",
    -2022: "ReduceOnly Order is rejected.",
    -2025: "Reach max open order limit.",
    -2027: "Exceeded the maximum allowable position at current leverage.",
    -2028: "Leverage is smaller than permitted: insufficient margin balance.",
    -4001: "Price less than 0.",
    -4002: "Price greater than max price.",
    -4003: "Quantity less than or equal to zero.",
    -4004: "Quantity less than min quantity.",
    -4005: "Quantity greater than max quantity.",
    -4013: "Price less than min price.",
    -4014: "Price not increased by tick size.",
    -4015: "Client order id is not valid.",
    -4016: "Limit price can't be higher than {}.",
    -4023: "Qty not increased by step size.",
    -4024: "Limit price can't be lower than {}.",
    -4028: "Leverage {} is not valid.",
    -4046: "No need to change margin type.",
    -4047: "Margin type cannot be changed if there exists open orders.",
    -4048: "Margin type cannot be changed if there exists position.",
    -4050: "Cross balance insufficient.",
    -4051: "Isolated balance insufficient.",
    -4054: "Cannot add position margin: position is 0.",
    -4059: "No need to change position side.",
    -4061: "Order's position side does not match user's setting.",
    -4067: "Position side cannot be changed if there exists open orders.",
    -4068: "Position side cannot be changed if there exists position.",
    -4116: "ClientOrderId is duplicated.",
    -4131: "The counterparty's best price does not meet the PERCENT_PRICE filter limit.",
    -4161: "Leverage reduction is not supported in Isolated Margin Mode with open positions.",
    -4164: "Order's notional must be no smaller than {} (unless you choose reduce only).",
    -5013: "Asset transfer failed: insufficient balance.",
    -5021: "Due to the order could not be filled immediately, the FOK order has been rejected. "
    "The order will not be recorded in the order history",
    -5022: "Due to the order could not be executed as maker, the Post Only order will be rejected. "
    "The order will not be recorded in the order history",
    -5027: "No need to modify the order.",
}


def refusal_text(code: int, instrument: Instrument | None = None, value: int = 0) -> str:
    """The venue's message of a refusal. ``value``: the engine's ``reject_value`` (bounding price of -4016 and -4024,
    leverage of -4028)."""
    text = REFUSALS.get(code, "An unknown error occurred while processing the request.")
    if "{}" not in text:
        return text
    if code in (-4016, -4024) and instrument is not None:
        return text.format(instrument.price_text(value))
    if code == -4164 and instrument is not None:
        whole, part = divmod(instrument.min_notional_e8, E8)
        return text.format(whole if not part else fixed(instrument.min_notional_e8, 8).rstrip("0"))
    return text.format(value)
