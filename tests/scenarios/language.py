"""A small language for scenario tables: one line per thing that happens and per thing that must follow.

A table is read top to bottom; ``#`` starts a comment. Quantities are in the base asset, prices and money in the quote
asset. After every action the lines of expectation under it must name *every* order and every forgone quantity the engine
gave for it, in any order; what is not named must not happen. ``target`` lines look at a leg without that claim.

Set-up (before the first action)::

    instrument BTCUSDT tick 0.1 lot 0.001 [min 0.001] [max 1000] [maxmarket 120] [notional 5] [slippage 50] [fee_ppm 500]
    instrument okx:BTC-USDT-SWAP tick 0.1 lot 0.0001    (of another venue; its lot in the base asset, however the venue counts)
    instrument BTCUSDT tick 0.1 lot 0.001 spot          (bought and sold, no position)
    mirror BTCUSDT okx:BTC-USDT-SWAP                    (who follows on that venue, follows the one in the other)
    leader L equity 800000 [leverage 10] [hedge] [venue okx]
    follower F1 allocation 100000 [any plan field value]... [copies L] [account A] [venue okx] [balance 100000] [hedge]
        [not_ready]
    params orders_per_window 3

Actions::

    leader [L] buy 0.5 [BTCUSDT] @ 64000 [order 7] [of 2.0] [aged 3] [backfilled] [own] [exec 5] [side long]
    leader [L] unsynced | leader [L] synced [0.5 BTCUSDT]... | leader [L] equity 9000 | leader [L] leverage 20
    leader [L] shows 0.999 [BTCUSDT]        (a position the venue pushed)
    leader [L] suspended | leader [L] declares instruments BTCUSDT leverage 10 position 50000 volume 9000
    leader [L] flow -20000   (he pays in, or takes out)
    leader [L] margin_call
    turbulence BTCUSDT on | turbulence BTCUSDT off
    quote BTCUSDT 63999.9 64000.1          (from then on quotes of it move only by hand)
    wait 3                                  (seconds; quotes and equity are not refreshed)
    mark 62000 [BTCUSDT] [aged 70]          (a mark comes; the others are told again as they were)
    tomorrow                                (the next day's reset is past)
    F1 funding -12 [BTCUSDT]
    timer
    F1 filled 0.030 [@ 64000]          (cumulative, of F1's oldest unfinished order; F1#2: its second; at his price or the mark)
    F1 trade 0.010 [id 5] [base_fee 0.00001] | F1 accepted | F1 expired [0.020] | F1 cancelled | F1 rejected -2019
    F1 in doubt | F1 dead
    F1 unsent | F1 held
    F1 books 0.030 [BTCUSDT]                (the venue's own books, asked now; other positions as known)
    F1 orphan buy 0.010 @ 64000 [epoch 9]   (a fill of an order of ours that no table knows)
    F1 mode hedge | F1 mode one_way         (the account's position mode, as found at the venue)
    catch_up F1                             (what F1 has forgone is wanted after all)
    relot BTCUSDT 0.0001                    (the venue changes the lot)
    F1 by hand sell 0.010 [BTCUSDT] [aged 30] | F1 liquidated sell 0.010 | F1 balance 500
    F1 ready | F1 not ready | F1 venue leverage 3
    F1 plan max_position_bps 100 ...        (change the plan)
    resume F1                               (by name, as a loss stop needs)
    set plan F1 paused | set leader L close_only | set all active | set instrument BTCUSDT paused | set venue okx paused
    kill on [plan F1 | leader L | instrument BTCUSDT | instrument okx:BTC-USDT-SWAP | venue okx]| kill off ...
    import F2 allocation 100000 ...         (another follower, as in the set-up)
    mirrored BTCUSDT okx:BTC-USDT-SWAP      (a mirror is added)
    refused <what the last import or mirror was refused with>
    stop F1 close_now
    flatten                                 (stop every plan and close what it holds now)
    journal low | journal enough
    clock off [okx] | clock good [okx]      (against a venue's clock; without one, against all)
    restart                                 (a new daemon takes over the same state; leader is synced again, accounts known)
    again                                   (the previous input once more)

Expectations::

    F1 order buy 0.050 [BTCUSDT] limit 64320.0 [long]
    F1 order sell 0.050 market [reduce_only] [long]
    F1 forgone max_position 0.012
    F1 raised 0.002                         (min_policy raise added this to the target)
    F1 deferred | F1 carried | F1 rounded
    F1 stopped total_loss lost 2000 of 2000
    F1 worth 98000 [profit -2000]           (allocation and profit at the last mark, exactly)
    F1 ask                                  (the venue is asked about an order of F1)
    F1 target 0.030 [about] holds 0.030 [BTCUSDT] [of L] [detached] [long] [missed 0.020]
    F1 alert orphan_adopted                 (an alert by name, of anyone's; alerts need not be named)
    nothing                                 (the input changed nothing at all)
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from copyd.core import engine as e
from copyd.core.rows import (
    AccountInstrumentRow,
    AccountRow,
    DecisionRow,
    InstrumentRow,
    Kind,
    LegRow,
    LossPolicy,
    MinPolicy,
    Mode,
    NamedOrder,
    OnInsufficient,
    OrderEndRow,
    OrderRow,
    OrderState,
    Params,
    Part,
    PlanState,
    RatioSnapshot,
    Reason,
    ReportKind,
    ReportRow,
    Side,
    StopRow,
)
from copyd.errors import OperatorError

SECOND = 1_000_000_000
E8 = 10**8
ONE = 1 << 32
UNFINISHED = (OrderState.PENDING_NEW, OrderState.NEW, OrderState.PARTIALLY_FILLED, OrderState.PENDING_CANCEL,
              OrderState.IN_DOUBT, OrderState.HELD)
SIGN = {"buy": 1, "sell": -1}
POSITION_SIDE = {"one_way": 0, "long": 1, "short": 2}
EXPECTATIONS = {
    "order", "forgone", "raised", "deferred", "carried", "rounded", "ask", "target", "alert", "stopped", "worth",
}
ACTIONS = {
    "mirrored", "import", "leader", "quote", "wait", "timer", "set", "kill", "stop", "journal", "clock", "restart", "catch_up",
    "relot", "flatten", "mark", "tomorrow", "resume", "turbulence",
}
DAY = 86_400 * SECOND
PLAN_ENUMS: dict[str, type] = {
    "mode": Mode, "ratio_snapshot": RatioSnapshot, "min_policy": MinPolicy, "on_insufficient": OnInsufficient,
    "state": PlanState, "loss_policy": LossPolicy,
}
MONEY = {"allocation": "allocation_e8", "amount": "amount_e8", "max_notional_symbol": "max_notional_symbol_e8",
         "max_notional_total": "max_notional_total_e8"}
FACTORS = {"multiplier": "multiplier_ppm", "raise_max_factor": "raise_max_factor_ppm"}


class ScenarioError(AssertionError):
    """A line of a table that does not hold, or cannot be read."""


def exact(text: str, unit: Fraction) -> int:
    """A decimal as a whole number of ``unit``."""
    value = Fraction(text) / unit
    if value.denominator != 1:
        raise ScenarioError(f"{text} is not a whole number of {unit}")
    return value.numerator


@dataclass
class Instrument:
    """Symbol with its units."""

    symbol: str
    tick: Fraction
    lot: Fraction
    row: InstrumentRow
    by_hand: bool = False
    spot: bool = False

    @property
    def venue(self) -> str:
        return self.symbol.rpartition(":")[0]

    def spec(self) -> e.InstrumentSpec:
        lot = exact(str(self.lot), Fraction(1, 10**6))
        return e.InstrumentSpec(
            self.symbol.rpartition(":")[2], self.row.pack(), 1, 6, 1, lot, self.venue, self.lot.numerator, self.lot.denominator,
            self.spot)

    def lots(self, text: str) -> int:
        return exact(text, self.lot)

    def ticks(self, text: str) -> int:
        return exact(text, self.tick)

    def q32(self, text: str) -> Fraction:
        return Fraction(text) / self.lot * ONE


def plan_fields(words: dict[str, str]) -> dict[str, Any]:
    """Plan cells in the engine's units."""
    out: dict[str, Any] = {}
    for name, value in words.items():
        if name in MONEY:
            out[MONEY[name]] = exact(value, Fraction(1, E8))
        elif name in FACTORS:
            out[FACTORS[name]] = exact(value, Fraction(1, 10**6))
        elif name in PLAN_ENUMS:
            out[name] = int(PLAN_ENUMS[name][value.upper()])
        elif name == "instruments":
            out[name] = value.split(",")
        elif name in ("require_stop", "allow_netting"):
            out[name] = value == "true"
        elif name in ("venue", "account", "leader"):
            out[name] = value
        else:
            out[name] = int(value)
    return out


def default_plan() -> dict[str, Any]:
    """A plan with the defaults of the plan file and no limit but them."""
    return {
        "allocation_e8": 0, "amount_e8": 0, "max_notional_symbol_e8": 0, "max_notional_total_e8": 0,
        "multiplier_ppm": 1_000_000, "raise_max_factor_ppm": 2_000_000, "instruments": [], "leverage": 5,
        "leverage_max": 10, "risk_bps": 0, "assumed_stop_bps": 0, "max_position_bps": 3000, "max_loss_per_trade_bps": 200,
        "slippage_bps": 0, "slippage_mid_bps": 0, "max_open_trades": 0, "mode": 0, "ratio_snapshot": 0, "min_policy": 0,
        "on_insufficient": 0, "require_stop": False, "allow_netting": False, "state": 0,
    }


@dataclass
class World:
    """One engine, and what the words of a table stand for in it."""

    now: int = 1_000 * SECOND
    engine: e.Engine = field(default_factory=lambda: e.Engine(4))
    instruments: dict[str, Instrument] = field(default_factory=dict)
    leaders: dict[str, dict[str, Any]] = field(default_factory=dict)
    specs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    setups: dict[str, dict[str, Any]] = field(default_factory=dict)
    params: Params = field(default_factory=lambda: Params(key=bytes(range(16))))
    mirrors: list[tuple[int, int]] = field(default_factory=list)
    refusal: str = ""
    suspended: list[str] = field(default_factory=list)
    declared: dict[str, e.Declared] = field(default_factory=dict)
    started: bool = False
    epoch: int = 0
    version: int = 0
    exec_id: int = 0
    order_id: int = 1000
    trade_id: int = 0
    slots: dict[str, list[int]] = field(default_factory=dict)
    cids: set[bytes] = field(default_factory=set)
    marks: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    last: e.Outputs | None = None
    last_input: Any = None

    # -- driving the engine ---------------------------------------------------------------------------------------

    def step(self, value: Any) -> e.Outputs | None:
        """One input; every order it gives is filed under its follower."""
        out = self.engine.step(self.now, value)
        self.last, self.last_input = out, value
        if out is not None:
            for slot in array("I", out.orders):
                order = self.order(slot)
                if order.cid in self.cids:
                    raise ScenarioError(f"client order id {order.cid.hex()} twice (semantics 32)")
                self.cids.add(order.cid)
                self.slots.setdefault(self.engine.names.followers[order.plan], []).append(slot)
            named = [row.cid for row in NamedOrder.unpack_all(out.named)]
            if sorted(named) != sorted(self.order(slot).cid for slot in array("I", out.orders)):
                raise ScenarioError("the record does not name exactly the orders that are sent (semantics 33)")
        e.check_law(self.engine)
        return out

    def order(self, slot: int) -> OrderRow:
        return OrderRow.unpack(self.engine.columns.get(e.ORDERS, slot))

    def leg(self, index: int) -> LegRow:
        return LegRow.unpack(self.engine.columns.get(e.LEGS, index))

    def legs(self) -> list[LegRow]:
        return [self.leg(index) for index in range(self.engine.columns.count(e.LEGS))]

    @property
    def first(self) -> Instrument:
        return next(iter(self.instruments.values()))

    def index(self, symbol: str) -> int:
        return list(self.instruments).index(symbol)

    def configure(self) -> None:
        self.version += 1
        self.step(e.Configured(
            self.version, self.params.pack(), [i.spec() for i in self.instruments.values()],
            list(self.leaders), list(self.suspended), dict(self.declared), list(self.mirrors),
            {name: leader["venue"] for name, leader in self.leaders.items() if leader.get("venue")},
        ))

    def listed(self, venue: str) -> list[int]:
        """Indexes of the instruments of a venue; "" is that of the first."""
        return [index for index, i in enumerate(self.instruments.values()) if i.venue == (venue or self.first.venue)]

    def start(self) -> None:
        """Everything in place and fresh, as after a start of the daemon."""
        self.started = True
        self.restart()
        self.configure()
        self.step(e.Command("import_plans", {"plans": [spec for specs in self.specs.values() for spec in specs]}))
        for name in self.setups:
            self.account(name)
        self.sync_leaders()

    def restart(self) -> None:
        self.epoch += 1
        self.step(e.Started(self.epoch, 0xC0DE, bytes(range(16)), "build"))

    def account(self, follower: str) -> None:
        """Tell the engine what is set at the venue for the account of a follower."""
        setup = self.setups[follower]
        account = self.engine.by_account[self.specs[follower][0]["account"]]
        self.step(e.LegsReady([
            (account, i, setup["ready"], setup["hedge"], True, setup["leverage"])
            for i in self.listed(self.engine.account_venue(account))
        ]))
        if setup["balance"] is not None:
            self.step(e.AccountSnapshots([(account, setup["balance"], [])]))
            setup["balance"] = None

    def sync_leaders(self) -> None:
        for index, leader in enumerate(self.leaders.values()):
            held = [
                (book.instrument, book.side, e.LeaderPositionRow.unpack(self.engine.columns.get(e.POSITIONS, book.position)).qty,
                 leader["leverage"])
                for book in self.engine.names.books if book.leader == index
            ]
            self.step(e.LeaderEquity(index, leader["equity"], self.now))
            self.step(e.LeaderSync(index, True, held))
            for instrument in self.listed(leader.get("venue", "")):
                self.step(e.LeaderLeverage(index, instrument, leader["leverage"]))

    def quote(self, instrument: Instrument, bid: int, ask: int) -> None:
        self.step(e.Quotes([(self.index(instrument.symbol), bid, ask, (bid + ask) // 2, self.now)]))

    def report(self, slot: int, kind: ReportKind, status: int = 0, **values: int) -> None:
        self.step(e.Reports(ReportRow(cid=self.order(slot).cid, kind=kind, status=status, ts_event=self.now, **values).pack()))

    def unfinished(self, follower: str) -> list[int]:
        return [slot for slot in self.slots.get(follower, []) if self.order(slot).state in UNFINISHED]

    # -- what a step gave, in words -----------------------------------------------------------------------------------

    def told(self, out: e.Outputs | None) -> list[str]:
        """Every order, forgone quantity and question of a step as an expectation line."""
        lines: list[str] = []
        if out is None:
            return lines
        engine = self.engine

        def qty(value: Fraction | int, leg: LegRow) -> str:
            return decimal(Fraction(value) * self.instrument_of(leg).lot)

        for slot in array("I", out.orders):
            order = self.order(slot)
            leg = self.leg(order.leg)
            instrument = self.instrument_of(leg)
            words = [engine.names.followers[order.plan], "order", "buy" if order.side > 0 else "sell",
                     qty(order.order_qty, leg)]
            if instrument is not self.first:
                words.append(instrument.symbol)
            words += ["limit", decimal(order.limit_px * instrument.tick)] if order.limit_px else ["market"]
            if order.reduce_only:
                words.append("reduce_only")
            if order.position_side:
                words.append(("", "long", "short")[order.position_side])
            if (order.kind == Kind.OPENING) != bool(order.limit_px):
                words.append(f"kind={order.kind}")
            lines.append(" ".join(words))
        for row in DecisionRow.unpack_all(out.decisions):
            name = engine.names.followers[row.plan]
            waits = (Part.DEFERRED, Part.CARRIED, Part.ROUNDED)
            lines += [f"{name} {Part(part).name.lower()}" for part in (row.reduce, row.open) if part in waits]
            if row.forgone or Part.FORGONE in (row.reduce, row.open):
                what = "raised" if row.forgone * row.delta < 0 else "forgone " + Reason(row.reason).name.lower()
                lines.append(f"{name} {what} {qty(Fraction(abs(row.forgone), ONE), self.leg(row.leg))}")
        for end in OrderEndRow.unpack_all(out.ends):
            if end.forgone:
                leg = self.leg(end.leg)
                lines.append(f"{engine.names.followers[leg.plan]} forgone {Reason(end.reason).name.lower()} "
                             f"{qty(Fraction(abs(end.forgone), ONE), leg)}")
        for stop in StopRow.unpack_all(out.stops):
            loss, limit = (decimal(Fraction(value, E8)) for value in (stop.loss_e8, stop.limit_e8))
            lines.append(f"{engine.names.followers[stop.plan]} stopped {Reason(stop.reason).name.lower()} lost {loss} of {limit}")
        lines += [f"{engine.names.followers[self.order(slot).plan]} ask" for slot in out.queries]
        return lines

    def instrument_of(self, leg: LegRow) -> Instrument:
        return list(self.instruments.values())[leg.instrument]


def decimal(value: Fraction) -> str:
    """Plain decimal; at most 12 places, trailing zeros off."""
    text = f"{float(value):.12f}" if value.denominator > 10**12 else str(_dec(value))
    return text.rstrip("0").rstrip(".") if "." in text else text


def _dec(value: Fraction) -> str:
    scaled = value * 10**12
    whole = scaled.numerator // scaled.denominator
    digits = f"{abs(whole):013d}"
    return ("-" if whole < 0 else "") + digits[:-12] + "." + digits[-12:]


def same_line(expected: str, got: str) -> bool:
    """Word by word; numbers by value, a number with ``~`` before it to six places of the unit."""
    left, right = expected.split(), got.split()
    if len(left) != len(right):
        return False
    for a, b in zip(left, right, strict=True):
        if a == b:
            continue
        try:
            if a.startswith("~"):
                if abs(float(a[1:]) - float(b)) > 1e-6:
                    return False
            elif Fraction(a) != Fraction(b):
                return False
        except ValueError:
            return False
    return True


class Runner:
    """Runs the lines of one table."""

    def __init__(self) -> None:
        self.world = World()
        self.pending: list[str] = []
        self.where = ""

    def run(self, text: str, name: str = "") -> World:
        """All lines; raises `ScenarioError` naming the line that does not hold."""
        expected: list[str] = []
        action = ""
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.split("#", 1)[0] if not raw.lstrip().startswith("F") else _strip_comment(raw)
            line = line.strip()
            if not line:
                continue
            where = f"{name}:{number}: {line}"
            try:
                words = line.split()
                if words[0] == "nothing":
                    if self.world.last is not None:
                        raise ScenarioError("the input should have changed nothing")
                elif len(words) > 1 and words[1] in EXPECTATIONS:
                    if words[1] == "target":
                        self.compare(expected, action)
                        expected = []
                        self.pending = []
                        self.look(words)
                    elif words[1] == "worth":
                        self.compare(expected, action)
                        expected = []
                        self.pending = []
                        self.weigh(words)
                    elif words[1] == "alert":
                        told = [alert.name for alert in self.world.last.alerts] if self.world.last else []
                        if words[2] not in told:
                            raise ScenarioError(f"alerts were {told}")
                    else:
                        expected.append(line)
                else:
                    self.compare(expected, action)
                    expected = []
                    self.pending = []
                    action = where
                    self.act(words)
            except ScenarioError as error:
                raise ScenarioError(f"{where}\n  {error}") from None
        try:
            self.compare(expected, action)
        except ScenarioError as error:
            raise ScenarioError(f"{name}: at the end\n  {error}") from None
        return self.world

    def compare(self, expected: list[str], action: str) -> None:
        """Everything the last action gave was expected, and the other way round."""
        got = list(self.pending)
        missing = []
        for line in expected:
            for candidate in got:
                if same_line(line, candidate):
                    got.remove(candidate)
                    break
            else:
                missing.append(line)
        if missing or got:
            raise ScenarioError(f"after [{action}]\n  expected but not given: {missing}\n  given but not expected: {got}")

    def look(self, words: list[str]) -> None:
        """``F1 target 0.030 holds 0.030``: the leg, and the law of semantics 1 on it."""
        world = self.world
        name = words[0]
        options = words[2:]
        about = "about" in options
        instrument = next((world.instruments[w] for w in options if w in world.instruments), world.first)
        leader = options[options.index("of") + 1] if "of" in options else None
        side = next((POSITION_SIDE[w] for w in options if w in ("long", "short")), None)
        target, holds = options[0], options[options.index("holds") + 1]
        legs = [
            leg for leg in world.legs()
            if world.engine.names.followers[leg.plan] == name and leg.instrument == world.index(instrument.symbol)
            and (leader is None or world.engine.names.plan_leaders[leg.plan] == leader)
            and (side is None or leg.side == side)
        ]
        live = [leg for leg in legs if leg.target or leg.attributed] or legs[:1]
        if len(live) > 1:
            raise ScenarioError(f"{len(live)} legs match: name the leader or the side")
        leg = live[0] if live else LegRow()
        wanted = instrument.q32(target)
        if (abs(leg.target - wanted) > ONE // 10**6) if about else (leg.target != wanted):
            raise ScenarioError(f"target is {decimal(Fraction(leg.target, ONE) * instrument.lot)}, not {target}")
        if leg.attributed != instrument.lots(holds):
            raise ScenarioError(f"holds {decimal(leg.attributed * instrument.lot)}, not {holds}")
        if "missed" in options and leg.missed != instrument.q32(options[options.index("missed") + 1]):
            raise ScenarioError(f"missed is {decimal(Fraction(leg.missed, ONE) * instrument.lot)}")
        if ("detached" in options) != bool(leg.detached):
            raise ScenarioError("detached" if leg.detached else "not detached")

    def weigh(self, words: list[str]) -> None:
        """``F1 worth 98000 profit -2000``: of the plan of a follower with one."""
        world = self.world
        plan = world.engine.plan_index(words[0])
        earned, _ = world.engine.profits(world.now)[plan]
        row = e.PlanRow.unpack(world.engine.columns.get(e.PLANS, plan))
        equity = decimal(Fraction(row.allocation_e8 + earned - row.paid_e8, E8))
        if Fraction(equity) != Fraction(words[2]):
            raise ScenarioError(f"is worth {equity}, not {words[2]}")
        if "profit" in words and Fraction(earned, E8) != Fraction(words[words.index("profit") + 1]):
            raise ScenarioError(f"has earned {decimal(Fraction(earned, E8))}")

    # -- actions ------------------------------------------------------------------------------------------------------

    def act(self, words: list[str]) -> None:
        world = self.world
        world.now += 1_000_000
        head = words[0]
        if head in ("instrument", "follower", "params", "mirror") or (
            head == "leader" and not world.started and words[2:3] == ["equity"]
        ):
            getattr(self, "setup_" + head)(words[1:])
            return
        if not world.started:
            world.start()
        world.last = None
        if head == "again":
            world.step(world.last_input)
        elif head == "refused":
            if " ".join(words[1:]) not in world.refusal:
                raise ScenarioError(f"refused with {world.refusal!r}")
        elif head in ACTIONS:
            getattr(self, "do_" + head)(words[1:])
        else:
            self.do_follower(words)
        self.pending = world.told(world.last)

    @staticmethod
    def pairs(words: list[str], flags: tuple[str, ...] = ()) -> dict[str, str]:
        out: dict[str, str] = {}
        at = 0
        while at < len(words):
            if words[at] in flags:
                out[words[at]] = "true"
                at += 1
            else:
                out[words[at]] = words[at + 1]
                at += 2
        return out

    def setup_instrument(self, words: list[str]) -> None:
        options = self.pairs(words[1:], ("spot",))
        tick, lot = Fraction(options.get("tick", "0.1")), Fraction(options.get("lot", "0.001"))
        value = tick * lot * E8
        row = InstrumentRow(
            value_mul=value.numerator, value_div=value.denominator,
            lot_min=exact(options.get("min", str(float(lot))), lot) if "min" in options else 1,
            lot_max=exact(options["max"], lot) if "max" in options else 1 << 40,
            lot_max_market=exact(options["maxmarket"], lot) if "maxmarket" in options else 1 << 40,
            min_notional_e8=exact(options.get("notional", "0"), Fraction(1, E8)),
            slippage_bps=int(options.get("slippage", "50")), taker_fee_ppm=int(options.get("fee_ppm", "500")),
        )
        self.world.instruments[words[0]] = Instrument(words[0], tick, lot, row, spot="spot" in options)

    def setup_leader(self, words: list[str]) -> None:
        options = self.pairs(words[1:], ("hedge",))
        self.world.leaders[words[0]] = {
            "equity": exact(options["equity"], Fraction(1, E8)), "leverage": int(options.get("leverage", "10")),
            "venue": options.get("venue", ""),
        }

    def setup_mirror(self, words: list[str]) -> None:
        self.world.mirrors.append((self.world.index(words[0]), self.world.index(words[1])))

    def do_mirrored(self, words: list[str]) -> None:
        self.setup_mirror(words)
        self.tried(self.world.configure)

    def do_import(self, words: list[str]) -> None:
        world = self.world
        self.setup_follower(words)
        spec = world.specs[words[0]][-1]
        self.tried(lambda: world.step(e.Command("import_plans", {"plans": [spec]})))
        told = world.last
        if not world.refusal:
            world.account(words[0])
        world.last = told

    def tried(self, action: Callable[[], object]) -> None:
        """What an operator may be refused."""
        self.world.refusal = ""
        try:
            action()
        except OperatorError as error:
            self.world.refusal = str(error)

    def setup_params(self, words: list[str]) -> None:
        for name, value in self.pairs(words).items():
            setattr(self.world.params, name, int(value))

    def setup_follower(self, words: list[str]) -> None:
        world = self.world
        name = words[0]
        options = self.pairs(words[1:], ("hedge", "not_ready"))
        hedge, not_ready = options.pop("hedge", ""), options.pop("not_ready", "")
        leader = options.pop("copies", next(iter(world.leaders)))
        account = options.pop("account", name)
        balance = options.pop("balance", "1000000")
        spec = default_plan() | {"follower": name, "leader": leader, "account": account} | plan_fields(options)
        world.specs.setdefault(name, []).append(spec)
        world.setups.setdefault(name, {
            "ready": not not_ready, "hedge": bool(hedge), "leverage": spec["leverage"],
            "balance": exact(balance, Fraction(1, E8)),
        })

    def _leader(self, words: list[str]) -> tuple[int, list[str]]:
        if words and words[0] in self.world.leaders:
            return list(self.world.leaders).index(words[0]), words[1:]
        return 0, words

    def do_leader(self, words: list[str]) -> None:
        world = self.world
        leader, words = self._leader(words)
        if words[0] == "unsynced":
            world.step(e.LeaderSync(leader, False, [], "the table says so"))
        elif words[0] == "suspended":
            world.suspended.append(list(world.leaders)[leader])
            world.configure()
        elif words[0] == "declares":
            said = self.pairs(words[1:], ())
            symbols = said.get("instruments", "").split(",")
            world.declared[list(world.leaders)[leader]] = e.Declared(
                sum(1 << world.index(symbol) for symbol in symbols if symbol) or e.Declared().instruments,
                int(said.get("leverage", "0")), exact(said.get("position", "0"), Fraction(1, E8)),
                exact(said.get("volume", "0"), Fraction(1, E8)),
            )
            world.configure()
        elif words[0] == "synced":
            pairs = list(zip(words[1::2], words[2::2], strict=True))
            world.step(e.LeaderSync(leader, True, [
                (world.index(symbol), 0, world.instruments[symbol].lots(qty), list(world.leaders.values())[leader]["leverage"])
                for qty, symbol in pairs
            ]))
        elif words[0] == "shows":
            instrument = world.instruments[words[2]] if len(words) > 2 else world.first
            world.step(e.LeaderPosition(
                leader, world.index(instrument.symbol), 0, instrument.lots(words[1]), 0, world.now, world.now))
        elif words[0] == "margin_call":
            world.step(e.LeaderMarginCall(leader, world.now))
        elif words[0] == "flow":
            world.step(e.LeaderFlow(leader, exact(words[1], Fraction(1, E8)), world.now))
        elif words[0] == "equity":
            world.step(e.LeaderEquity(leader, exact(words[1], Fraction(1, E8)), world.now))
        elif words[0] == "leverage":
            for instrument in world.listed(list(world.leaders.values())[leader]["venue"]):
                world.step(e.LeaderLeverage(leader, instrument, int(words[1])))
        else:
            self._leader_fill(leader, words)

    def _leader_fill(self, leader: int, words: list[str]) -> None:
        world = self.world
        side, qty = SIGN[words[0]], words[1]
        at = words.index("@")
        instrument = world.instruments[words[2]] if at == 3 else world.first
        px = instrument.ticks(words[at + 1])
        options = self.pairs(words[at + 2 :], ("backfilled", "own"))
        lots = instrument.lots(qty)
        if "exec" in options:
            exec_id = int(options["exec"])
        else:
            world.exec_id += 1
            exec_id = world.exec_id
        if "order" in options:
            order_id = int(options["order"])
        else:
            world.order_id += 1
            order_id = world.order_id
        traded = world.index(instrument.symbol)
        for index in [traded, *(mirror for source, mirror in world.mirrors if source == traded)]:
            read = list(world.instruments.values())[index]
            if not read.by_hand:
                at = int(px * instrument.tick / read.tick)
                world.quote(read, at - 1, at + 1)
        world.step(e.LeaderFill(
            leader=leader, instrument=world.index(instrument.symbol),
            position_side=POSITION_SIDE[options.get("side", "one_way")], exec_id=exec_id, order_id=order_id, side=side,
            qty=lots, px=px, order_qty=instrument.lots(options["of"]) if "of" in options else lots,
            live="backfilled" not in options, own="own" in options, cause="trade",
            ts_event=world.now - int(Fraction(options.get("aged", "0.01")) * SECOND), ts_recv=world.now, raw=b"",
        ))

    def do_quote(self, words: list[str]) -> None:
        instrument = self.world.instruments[words[0]]
        instrument.by_hand = True
        self.world.quote(instrument, instrument.ticks(words[1]), instrument.ticks(words[2]))

    def do_turbulence(self, words: list[str]) -> None:
        self.world.step(e.Turbulence(self.world.index(words[0]), words[1] == "on", 0))

    def do_wait(self, words: list[str]) -> None:
        self.world.now += int(Fraction(words[0]) * SECOND)

    def do_mark(self, words: list[str]) -> None:
        world = self.world
        instrument = next((world.instruments[word] for word in words if word in world.instruments), world.first)
        aged = int(words[words.index("aged") + 1]) * SECOND if "aged" in words else 0
        index = world.index(instrument.symbol)
        world.marks[index] = (index, instrument.ticks(words[0]), world.now - aged)
        world.step(e.Marks([world.marks[index] for index in sorted(world.marks)]))

    def do_tomorrow(self, words: list[str]) -> None:
        self.world.now = (self.world.now // DAY + 1) * DAY

    def do_resume(self, words: list[str]) -> None:
        self.world.step(e.Command("set_state", {"scope": "plan", "name": words[0], "state": "active", "resume_stopped": True}))

    def do_timer(self, words: list[str]) -> None:
        self.world.step(e.Timer())

    def do_set(self, words: list[str]) -> None:
        args: dict[str, Any] = {"scope": words[0], "state": words[-1]}
        if len(words) == 3:
            args["name"] = words[1]
        self.world.step(e.Command("set_state", args))

    def do_kill(self, words: list[str]) -> None:
        args: dict[str, Any] = {"scope": words[1] if len(words) > 1 else "all", "on": words[0] == "on"}
        if len(words) > 2:
            args["name"] = words[2]
        self.world.step(e.Command("kill_switch", args))

    def do_stop(self, words: list[str]) -> None:
        self.world.step(e.Command("stop_plan", {"follower": words[0], "policy": words[1]}))

    def do_catch_up(self, words: list[str]) -> None:
        world = self.world
        world.step(e.CatchUp([
            index for index, leg in enumerate(world.legs()) if world.engine.names.followers[leg.plan] == words[0]]))

    def do_flatten(self, words: list[str]) -> None:
        self.world.step(e.Command("flatten", {}))

    def do_relot(self, words: list[str]) -> None:
        world = self.world
        instrument = world.instruments[words[0]]
        instrument.lot = Fraction(words[1])
        value = instrument.tick * instrument.lot * E8
        instrument.row.value_mul, instrument.row.value_div = value.numerator, value.denominator
        world.configure()

    def do_journal(self, words: list[str]) -> None:
        self.world.step(e.Command("hold", {"why": "journal_low", "on": words[0] == "low"}))

    def do_clock(self, words: list[str]) -> None:
        args: dict[str, Any] = {"why": "clock_off", "on": words[0] == "off"}
        if len(words) > 1:
            args["venue"] = words[1]
        self.world.step(e.Command("hold", args))

    def do_restart(self, words: list[str]) -> None:
        world = self.world
        world.engine = e.Engine.restore([bytes(part) for part in world.engine.checkpoint()])
        world.restart()
        told = world.last
        world.sync_leaders()
        world.last = told

    def do_follower(self, words: list[str]) -> None:
        world = self.world
        name, _, nth = words[0].partition("#")
        if name not in world.specs:
            raise ScenarioError(f"{name!r} is neither a word of this language nor a follower")
        account = world.engine.by_account[world.specs[name][0]["account"]]
        verb = words[1]
        instrument = next((world.instruments[w] for w in words if w in world.instruments), world.first)
        symbol = world.index(instrument.symbol)
        if verb in ("by", "liquidated"):
            side, qty = words[3:5] if verb == "by" else words[2:4]
            world.trade_id += 1
            short = "short" in words
            world.step(e.ExternalFill(account, symbol, int(Side.SHORT if short else Side.ONE_WAY),
                                      SIGN[side] * instrument.lots(qty), world.trade_id,
                                      "manual" if verb == "by" else "liquidation",
                                      world.now - (int(words[words.index("aged") + 1]) * SECOND if "aged" in words else 0)))
        elif verb == "books":
            held = [(symbol, 0, instrument.lots(words[2]))]
            for other in range(len(world.instruments)):
                at = account * world.engine.columns.instruments_max + other
                net = AccountInstrumentRow.unpack(world.engine.columns.get(e.ACCOUNT_INSTRUMENTS, at)).net
                if other != symbol and net:
                    held.append((other, 0, net))
            balance = AccountRow.unpack(world.engine.columns.get(e.ACCOUNTS, account)).balance_e8
            world.step(e.AccountSnapshots(
                [(account, balance, held)], seq_asked=world.engine.names.seq + 1, ts_asked=world.now))
        elif verb == "orphan":
            world.trade_id += 1
            epoch = int(words[words.index("epoch") + 1]) if "epoch" in words else world.epoch
            cid = bytes.fromhex("c0de") + epoch.to_bytes(3, "big") + world.trade_id.to_bytes(11, "big")
            world.step(e.OrphanFill(account, symbol, 0, SIGN[words[2]] * instrument.lots(words[3]),
                                    instrument.ticks(words[5]), world.trade_id, cid, world.now))
        elif verb == "mode":
            world.setups[name]["hedge"] = words[2] == "hedge"
            world.account(name)
        elif verb == "funding":
            instrument = next((world.instruments[word] for word in words if word in world.instruments), world.first)
            world.trade_id += 1
            world.step(e.Funding(
                account, world.index(instrument.symbol), exact(words[2], Fraction(1, E8)), world.trade_id, world.now))
        elif verb == "balance":
            world.step(e.Reports(ReportRow(cum_qty=0, cost_e8=exact(words[2], Fraction(1, E8)), account=account,
                                           kind=ReportKind.BALANCE, ts_event=world.now).pack()))
        elif verb in ("ready", "not"):
            world.setups[name]["ready"] = verb == "ready"
            world.account(name)
        elif verb == "venue":
            world.setups[name]["leverage"] = int(words[3])
            world.account(name)
        elif verb == "plan":
            spec = world.specs[name][0] | plan_fields(self.pairs(words[2:]))
            world.specs[name][0] = spec
            world.step(e.Command("change_plan", {"follower": name, "spec": spec}))
        else:
            self._answer(name, nth, verb, words)

    def _answer(self, name: str, nth: str, verb: str, words: list[str]) -> None:
        """What the venue says about an order."""
        world = self.world
        if nth:
            slot = world.slots[name][int(nth) - 1]
        else:
            unfinished = world.unfinished(name)
            if not unfinished:
                raise ScenarioError(f"{name} has no unfinished order")
            slot = unfinished[0]
        order = world.order(slot)
        instrument = world.instrument_of(world.leg(order.leg))
        mark = InstrumentRow.unpack(world.engine.columns.get(e.INSTRUMENTS, order.instrument)).mark
        px = instrument.ticks(words[words.index("@") + 1]) if "@" in words else order.ref_px or mark or order.limit_px or 1
        qty = instrument.lots(words[2]) if len(words) > 2 and words[2].replace(".", "").isdigit() else order.cum_qty

        def cost(lots: int) -> int:
            return lots * px * instrument.row.value_mul // instrument.row.value_div

        if verb == "filled":
            status = OrderState.FILLED if qty >= order.order_qty else OrderState.PARTIALLY_FILLED
            world.report(slot, ReportKind.REPLY, status, cum_qty=qty, cost_e8=cost(qty), venue_order_id=slot + 1)
        elif verb == "trade":
            world.trade_id += 1
            cum = order.cum_qty + qty
            status = OrderState.FILLED if cum >= order.order_qty else OrderState.PARTIALLY_FILLED
            fee = int(instrument.q32(words[words.index("base_fee") + 1])) if "base_fee" in words else 0
            world.report(slot, ReportKind.TRADE, status, cum_qty=cum, cost_e8=order.cost_e8 + cost(qty), last_qty=qty,
                         fee_e8=fee, fee_base=int(fee != 0), last_px=px,
                         trade_id=int(words[words.index("id") + 1]) if "id" in words else world.trade_id)
        elif verb == "accepted":
            world.report(slot, ReportKind.REPLY, OrderState.NEW, venue_order_id=slot + 1)
        elif verb in ("expired", "cancelled"):
            status = OrderState.EXPIRED if verb == "expired" else OrderState.CANCELED
            world.report(slot, ReportKind.STREAM, status, cum_qty=qty, cost_e8=cost(qty), venue_order_id=slot + 1)
        elif verb == "rejected":
            world.report(slot, ReportKind.REJECT, OrderState.REJECTED, code=int(words[2]))
        elif verb == "in":
            world.report(slot, ReportKind.IN_DOUBT)
        elif verb == "held":
            world.report(slot, ReportKind.HELD)
        elif verb == "dead":
            world.report(slot, ReportKind.DEAD)
        elif verb == "unsent":
            world.report(slot, ReportKind.NOT_SENT)
        else:
            raise ScenarioError(f"no such word: {verb}")


def _strip_comment(line: str) -> str:
    """``F1#2`` names an order; a comment begins with a ``#`` after white space."""
    at = line.find(" #")
    return line if at < 0 else line[:at]


def run_file(path: Path) -> World:
    """Run one table."""
    return Runner().run(path.read_text(), path.name)
