"""What the leader does and who follows him: everything from one seed, the same every time.

The script is a story that contains every kind of event however short the run is: opens, adds, orders filled in several
parts, ten small clips, partial closes, flips through zero, a resting order, a position held since before the plans
began, trades while the daemon is down, and some legs open and some flat; then a losing stretch, in which the market falls while
he adds, comes back for those who are still in it, and some followers leave. A longer run repeats seeded variations of the first
part. Quantities are in lots, prices in ticks, both fixed by the instruments' opening prices.
"""

from __future__ import annotations

import random
from decimal import Decimal

import msgspec

from .history import Instrument, Plan

LEADER_EQUITY = 1_000_000  #: USDT
LEADER_LEVERAGE = 10
STRETCH_STEP_MS = 450
MODES = ("proportional", "multiplier", "fixed_amount", "fixed_ratio", "risk_based")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One leader order, or a move of the market. ``at_ms`` counts from the start of trading, or of the losing stretch."""

    at_ms: int
    phase: str  #: before (the daemon), first, kill, down, second, losing, leaving
    symbol: str
    label: str  #: what a trader would say he did
    side: int
    lots: int
    kind: str = "MARKET"  #: MARKET, LIMIT (marketable), REST (waits in the book until somebody takes it)
    px: int = 0  #: limit, ticks; 0 for market and for REST (joins the best price of its side)
    reduce_only: bool = False
    burst: bool = False  #: does not wait for the followers of the order before
    move_bps: int = 0  #: the makers' prices move by this; no order


class Script(msgspec.Struct, frozen=True):
    """The leader's whole run."""

    steps: list[Step]

    def phase(self, name: str) -> list[Step]:
        """The steps of one phase, in order."""
        return [step for step in self.steps if step.phase == name]


class Market(msgspec.Struct, frozen=True):
    """An instrument and the price its book opened at (ticks)."""

    instrument: Instrument
    opening_px: int


class Storyteller:
    """Writes a script; keeps the position each order leaves when it is filled."""

    def __init__(self, markets: list[Market], seconds: float, seed: int) -> None:
        self.markets = {market.instrument.symbol: market for market in markets}
        self.symbols = list(self.markets)
        self.rng = random.Random(f"leader {seed}")
        self.position = dict.fromkeys(self.symbols, 0)
        self.steps: list[tuple[str, Step]] = []  # (slot, step): all steps of one slot share a moment
        self.seconds = seconds
        self.phase = "first"
        self.slot = 0
        self.slots: dict[str, int] = {}

    def lots(self, symbol: str, usdt: float) -> int:
        """Lots worth about ``usdt`` at the opening price, with some variation."""
        market = self.markets[symbol]
        value = usdt * self.rng.uniform(0.85, 1.15)
        return max(1, market.instrument.lots_worth(int(value * 10**8), market.opening_px))

    def order(
        self, symbol: str, label: str, signed: int, *, kind: str = "MARKET", burst: bool = False, closing: bool = False
    ) -> None:
        """One order of signed lots."""
        if not signed:
            return
        side = 1 if signed > 0 else -1
        px = 0
        if kind == "LIMIT":  # far enough inside the venue's price band to take whatever stands in the book
            px = self.markets[symbol].opening_px * (1000 + 30 * side) // 1000
        if not burst:
            self.slot += 1
        self.slots[self.phase] = self.slots.get(self.phase, 0) + (not burst)
        step = Step(
            at_ms=self.slot, phase=self.phase, symbol=symbol, label=label, side=side, lots=abs(signed), kind=kind, px=px,
            reduce_only=closing, burst=burst,
        )  # fmt: skip
        self.steps.append((self.phase, step))
        self.position[symbol] += signed

    def open(self, symbol: str, side: int, usdt: float, *, kind: str = "MARKET") -> None:
        held = self.position[symbol]
        label = ("open " if held == 0 else "add to ") + ("long" if side > 0 else "short")
        if kind == "LIMIT":
            label += " in several fills"
        self.order(symbol, label, side * self.lots(symbol, usdt), kind=kind)

    def clips(self, symbol: str, side: int, usdt: float, count: int = 10) -> None:
        lots = self.lots(symbol, usdt / count)
        for n in range(count):
            self.order(symbol, f"small clip {n + 1} of {count}", side * lots, burst=n > 0)

    def partial(self, symbol: str, share: float, *, burst: bool = False) -> None:
        held = self.position[symbol]
        lots = int(abs(held) * share)
        self.order(symbol, "partial close", -lots if held > 0 else lots, burst=burst, closing=True)

    def close(self, symbol: str) -> None:
        self.order(symbol, "close", -self.position[symbol], closing=True)

    def flip(self, symbol: str, factor: float = 1.7) -> None:
        held = self.position[symbol]
        self.order(symbol, "flip through zero", -int(held * factor))

    def rest(self, symbol: str, side: int, usdt: float) -> None:
        self.order(symbol, "resting order", side * self.lots(symbol, usdt), kind="REST")

    def market(self, symbol: str, bps: int, times: int) -> None:
        """The market moves by ``bps``, so many times in a row."""
        for _ in range(times):
            self.slot += 1
            label = "the market falls" if bps < 0 else "the market comes back"
            step = Step(at_ms=self.slot, phase=self.phase, symbol=symbol, label=label, side=0, lots=0, move_bps=bps)
            self.steps.append((self.phase, step))

    def losing_stretch(self, symbol: str) -> None:
        """Flat, then long and adding while it falls by some 7 %; it comes back, and he takes half off."""
        self.phase = "losing"
        for name in self.symbols:
            if self.position[name]:
                self.close(name)
        for _ in range(5):
            self.open(symbol, 1, 70_000)
        self.market(symbol, -60, 8)
        self.open(symbol, 1, 40_000)
        self.market(symbol, -60, 4)
        self.open(symbol, 1, 40_000)
        self.market(symbol, 90, 10)
        self.partial(symbol, 0.5)
        self.phase = "leaving"
        self.open(symbol, 1, 30_000)
        self.close(symbol)

    def variation(self) -> None:
        """One seeded step that keeps the leader's book within bounds."""
        symbol = self.rng.choice(self.symbols)
        market = self.markets[symbol]
        held = self.position[symbol]
        value = market.instrument.notional_e8(abs(held), market.opening_px) // 10**8
        side = 1 if held > 0 else -1
        if held == 0:
            self.open(symbol, self.rng.choice((1, -1)), 60_000, kind=self.rng.choice(("MARKET", "LIMIT")))
        elif value > 180_000:
            self.partial(symbol, self.rng.uniform(0.3, 0.7))
        else:
            what = self.rng.choices(("add", "partial", "flip", "close", "rest", "limit"), (5, 5, 2, 2, 1, 3))[0]
            if what == "add":
                self.open(symbol, side, 40_000)
            elif what == "limit":
                self.open(symbol, side, 80_000, kind="LIMIT")
            elif what == "partial":
                self.partial(symbol, self.rng.uniform(0.15, 0.6))
            elif what == "flip":
                self.flip(symbol)
            elif what == "close":
                self.close(symbol)
            else:
                self.rest(symbol, side, 20_000)

    def tell(self) -> Script:
        """The story. With one or two instruments their names repeat."""
        names = [self.symbols[n % len(self.symbols)] for n in range(3)]
        a, b, c = names
        alone = len(set(names)) == 1
        extra = max(0, int((self.seconds - 30) / 2.5))
        self.phase = "before"
        self.open(c, 1, 30_000)
        self.phase = "first"
        self.open(a, 1, 60_000)
        if not alone:
            self.open(b, -1, 40_000)
        self.open(a, 1, 120_000, kind="LIMIT")
        self.clips(a, 1, 60_000)
        self.partial(a, 1 / 3)
        self.open(c, 1, 35_000)
        if not alone:
            self.open(b, -1, 70_000, kind="LIMIT")
            self.partial(b, 0.25)
        for _ in range(extra // 2):
            self.variation()
        self.flip(a)
        if not alone:
            self.partial(b, 0.5, burst=True)
        self.rest(c, 1, 15_000)
        self.partial(c, 0.4)
        self.phase = "kill"
        self.open(a, 1 if self.position[a] > 0 else -1, 50_000)
        self.phase = "down"
        self.partial(a, 0.3)
        self.open(c, 1 if self.position[c] > 0 else -1, 20_000)
        self.phase = "second"
        self.open(a, 1 if self.position[a] > 0 else -1, 45_000)
        self.flip(a)
        if not alone:
            for n in range(10):
                self.partial(b, 1 / (11 - n), burst=n > 0)
            self.close(b)
        for _ in range(extra - extra // 2):
            self.variation()
        self.close(c)
        if not alone and self.position[b] == 0:
            self.open(b, 1, 55_000)
            self.clips(b, 1, 40_000)
            self.partial(b, 0.37)
        if self.position[a] == 0:
            self.open(a, 1, 50_000)
        self.partial(a, 0.21)
        if len(self.symbols) > 2 and self.position[c]:
            self.close(c)
        self.losing_stretch(a)
        return Script(self.timed())

    def timed(self) -> list[Step]:
        """Spread the slots over the run; steps of a burst follow each other at once."""
        trading = [step for phase, step in self.steps if phase not in ("before", "losing", "leaving")]
        first, last = trading[0].at_ms, trading[-1].at_ms
        each = self.seconds * 1000 * 0.95 / (last - first + 1)
        began: dict[str, int] = {}
        out = []
        for _, step in self.steps:
            at = 0 if step.phase == "before" else int((step.at_ms - first) * each)
            if step.phase in ("losing", "leaving"):
                at = (step.at_ms - began.setdefault(step.phase, step.at_ms)) * STRETCH_STEP_MS
            out.append(msgspec.structs.replace(step, at_ms=at))
        return out


def leader_script(markets: list[Market], seconds: float, seed: int) -> Script:
    """The leader's orders for a run; the same seed gives the same orders."""
    return Storyteller(markets, seconds, seed).tell()


def money(value: float) -> str:
    """A decimal string with two places."""
    return str(Decimal(value).quantize(Decimal("0.01")))


def follower_plans(count: int, symbols: list[str], seed: int, leader: str = "leader") -> list[Plan]:
    """Mixed follower plans: all copy modes, policies, sizes and limits, some of which bind."""
    rng = random.Random(f"followers {seed}")
    width = max(5, len(str(count - 1)))
    plans = []
    for n in range(count):
        mode = MODES[n % len(MODES)]
        # most are small, some are large: 100 .. 50,000 USDT
        allocation = round(100 * 500 ** (rng.random() ** 1.35), 2)
        if n < 10:
            allocation = (25_000, 12_000, 30_000, 8_000, 40_000, 100, 3_000, 50_000, 900, 20_000)[n]
        leverage = rng.choice((2, 3, 5, 5, 10))
        fields: dict[str, object] = {
            "follower": f"f{n:0{width}d}",
            "leader": leader,
            "account": f"f{n:0{width}d}",
            "allocation": money(allocation),
            "mode": mode,
            "leverage": leverage,
            "leverage_max": rng.choice((10, 20)),
            "ratio_snapshot": rng.choices(("position_open", "each_order", "follow"), (8, 1, 1))[0],
            "min_policy": rng.choices(("carry", "skip", "raise"), (6, 2, 2))[0],
            "on_insufficient": rng.choices(("scale", "skip"), (4, 1))[0],
            "max_position_bps": rng.choices((3000, 6000, 1500, 400), (6, 2, 1, 1))[0],
            "max_loss_per_trade_bps": rng.choices((200, 500), (4, 1))[0],
            "slippage_bps": rng.choices((0, 100, 200, 20), (14, 3, 2, 1))[0],
        }
        fields["slippage_mid_bps"] = fields["slippage_bps"]
        if mode == "multiplier":
            fields["multiplier"] = rng.choice(("0.5", "0.75", "1.25", "1.5", "2"))
        elif mode == "fixed_amount":
            fields["amount"] = money(max(20, allocation * rng.uniform(0.02, 0.08)))
        elif mode == "risk_based":
            fields["risk_bps"] = rng.choice((10, 20, 30))
            fields["assumed_stop_bps"] = rng.choice((200, 300, 400)) if n % 60 != 4 or n == 4 else 0
        elif rng.random() < 0.15:
            fields["assumed_stop_bps"] = rng.choice((200, 400))
        roll = rng.random()
        if roll < 0.08 and len(symbols) > 1:
            fields["instruments"] = sorted(rng.sample(symbols, rng.randint(1, len(symbols) - 1)))
        elif roll < 0.14:
            fields["max_open_trades"] = rng.randint(1, 2)
        elif roll < 0.22:
            fields["max_notional_symbol"] = money(max(60, allocation * rng.uniform(0.03, 0.12)))
        elif roll < 0.28:
            fields["max_notional_total"] = money(max(60, allocation * rng.uniform(0.05, 0.2)))
        elif roll < 0.30:
            fields["state"] = rng.choice(("paused", "close_only"))
        if n not in SPARED:
            fields |= loss_limits(random.Random(f"limits {seed} {n}"))
        plans.append(Plan(**fields))  # type: ignore[arg-type]
    return plans


SPARED = (0, 2, 7)
"""Large plans without a loss limit: they show that the leader was copied all the way."""


def loss_limits(rng: random.Random) -> dict[str, object]:
    """None for most; else one that a losing stretch reaches, or does not, and what is then to be done."""
    roll = rng.random()
    if roll > 0.36:
        return {}
    policy = rng.choices(("close_now", "close_gracefully", "opens_paused"), (6, 2, 2))[0]
    if roll < 0.14:
        return {"total_loss_bps": rng.choice((60, 120, 250, 600)), "on_loss_stop": policy}
    if roll < 0.26:
        return {"daily_loss_bps": rng.choice((50, 100, 200, 400)), "on_loss_stop": policy}
    return {"leader_drawdown_bps": rng.choice((80, 150, 900)), "on_loss_stop": policy}


def leaving(plans: list[Plan]) -> list[str]:
    """Every fourth follower leaves before the leader's last close."""
    return [plan.follower for plan in plans[1::4]]


def plan_lines(plans: list[Plan]) -> bytes:
    """The plan file: one JSON object per line, only the fields a row sets (every limit is set, so no preset decides)."""
    always = {
        *("leader", "account", "mode", "leverage", "leverage_max", "ratio_snapshot", "min_policy", "max_position_bps"),
        "max_notional_symbol",
        *("max_notional_total", "max_open_trades", "max_loss_per_trade_bps", "require_stop", "slippage_bps", "slippage_mid_bps"),
        *("total_loss_bps", "daily_loss_bps", "leader_drawdown_bps", "on_loss_stop"),
    }
    default = msgspec.structs.asdict(Plan(follower="", allocation="0"))
    lines = []
    for plan in plans:
        row = {key: value for key, value in msgspec.structs.asdict(plan).items() if key in always or value != default[key]}
        lines.append(msgspec.json.encode(row))
    return b"\n".join(lines) + b"\n"


def starting_balance(plan: Plan, seed: int) -> str:
    """USDT on the follower's account: usually more than the allocation, for a few so little that margin binds."""
    rng = random.Random(f"balance {seed} {plan.follower}")
    share = rng.uniform(0.01, 0.05) if rng.random() < 0.06 else rng.uniform(1.05, 2.0)
    return money(max(5.0, float(plan.allocation) * share))
