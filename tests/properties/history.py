"""Random histories against a fair venue: every law that must hold after every step, whatever the venue and the operator do.

The venue executes an order at most once and never lies; what it says may come late, in pieces, twice, or not until it is
asked. The operator pauses, kills, stales and restarts at random. ``check`` is called after each input.
"""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from copyd.core import engine as e
from copyd.core.rows import (
    AccountRow,
    DecisionRow,
    InstrumentRow,
    Kind,
    LegRow,
    OrderEndRow,
    OrderState,
    ReportKind,
    ReportRow,
)
from tests.scenarios.language import E8, ONE, SECOND, Instrument, World, default_plan

TICK, LOT = Fraction(1, 10), Fraction(1, 1000)


@dataclass
class VenueOrder:
    """One order as the venue sees it: how much it executes, and what it still has to say about it."""

    slot: int
    cid: bytes
    signed: int
    executed: int = 0
    accepted: bool = True
    told: int = 0
    sayings: list[tuple[ReportKind, int, int]] = field(default_factory=list)  # kind, status, cumulative


class History:
    """One random run; ``seed`` decides everything."""

    def __init__(self, seed: int, calm: bool = False) -> None:
        rng = self.rng = random.Random(seed)
        self.calm = calm
        self.world = world = World()
        notional = rng.choice([0, 0, 100 * E8])
        row = InstrumentRow(value_mul=10_000, value_div=1, min_notional_e8=notional,
                            lot_max=rng.choice([1 << 40, 60]), lot_max_market=rng.choice([1 << 40, 40]))
        world.instruments["BTCUSDT"] = Instrument("BTCUSDT", TICK, LOT, row, by_hand=True)
        world.leaders["L"] = {"equity": 800_000 * E8, "leverage": 10}
        if not calm:
            world.params.orders_per_window = rng.choice([160, 160, 4])
        for index in range(3):
            name = f"F{index}"
            mode = rng.randrange(5)
            spec = default_plan() | {
                "follower": name, "leader": "L", "account": name, "mode": mode,
                "allocation_e8": rng.randint(20_000, 300_000) * E8,
                "multiplier_ppm": rng.randint(500_000, 2_000_000), "amount_e8": rng.randint(100, 5_000) * E8, "risk_bps": 20,
                "assumed_stop_bps": 500, "max_loss_per_trade_bps": 0, "max_position_bps": 0, "leverage_max": 100,
                "min_policy": rng.randrange(3), "ratio_snapshot": rng.randrange(3),
            }
            if not calm:
                spec |= {"max_position_bps": rng.choice([0, 100, 300]),
                         "max_notional_symbol_e8": rng.choice([0, 0, 3_000 * E8]),
                         "on_insufficient": rng.randrange(2)}
            world.specs[name] = [spec]
            world.setups[name] = {"ready": True, "hedge": rng.random() < 0.3, "leverage": 5,
                                  "balance": 10**7 * E8 if calm else rng.choice([2_000, 10**6]) * E8}
        self.journal: list[tuple[int, Any, bytes | None]] = []
        self.venue: dict[int, VenueOrder] = {}
        self.position = {0: 0, 1: 0, 2: 0}
        self.leader = 0
        self.exec_id = 0
        self.rest = {0: 0, 1: 0, 2: 0}  # what the follower holds by his own hand, by plan
        self.shrunk = {0: 0, 1: 0, 2: 0}  # what his hand took of ours, signed, by plan
        plain_step = world.step

        def step(value: Any) -> e.Outputs | None:
            out = plain_step(value)
            self.journal.append((world.now, value, b"".join(out.payload()) if out else None))
            if out is not None:
                self.send(out)
            return out

        world.step = step  # type: ignore[method-assign]
        world.start()
        self.refresh()

    # -- the venue --------------------------------------------------------------------------------------------------

    def send(self, out: e.Outputs) -> None:
        """The venue gets the orders of a step and decides what becomes of each."""
        rng = self.rng
        for slot in array("I", out.orders):
            order = self.world.order(slot)
            assert slot not in self.venue, "a slot is put on the wire once (semantics 32)"
            assert order.order_qty > 0
            held = VenueOrder(slot, order.cid, order.side * order.order_qty)
            self.venue[slot] = held
            fate = rng.random()
            if self.calm or fate < 0.6:
                held.executed = order.order_qty
            elif fate < 0.8:
                held.executed = rng.randint(0, order.order_qty)
            elif fate < 0.9:
                held.accepted = False
            else:
                held.executed = rng.randint(0, order.order_qty)
            if order.kind == Kind.REDUCTION and (order.reduce_only or self.world.setups[f"F{order.plan}"]["hedge"]):
                held.executed = min(held.executed, max(0, -order.side * self.position[order.plan]))
            elif order.kind == Kind.REDUCTION:
                assert self.rest[order.plan] * order.side > 0, "plain only where the follower's own rest nets it (semantics 22)"
            self.position[order.plan] += order.side * held.executed
            self._plan_sayings(held, order.kind)

    def _plan_sayings(self, held: VenueOrder, kind: int) -> None:
        rng = self.rng
        sayings = held.sayings
        if not held.accepted:
            if rng.random() < 0.5:
                sayings.append((ReportKind.REJECT, OrderState.REJECTED, 0))
            else:
                sayings += [(ReportKind.IN_DOUBT, 0, 0), (ReportKind.DEAD, 0, 0)]
            return
        whole = abs(held.signed)
        if not self.calm and rng.random() < 0.2:
            sayings.append((ReportKind.IN_DOUBT, 0, 0))
        if not self.calm and held.executed > 1 and rng.random() < 0.5:
            sayings.append((ReportKind.TRADE, OrderState.PARTIALLY_FILLED, rng.randint(1, held.executed - 1)))
        last = OrderState.FILLED if held.executed == whole else OrderState.EXPIRED
        filled_by = rng.choice([ReportKind.REPLY, ReportKind.TRADE, ReportKind.STREAM])
        sayings.append((filled_by if held.executed else ReportKind.STREAM, last, held.executed))

    def tell(self, held: VenueOrder) -> None:
        """The venue says its next word about an order; sometimes twice."""
        kind, status, cum = held.sayings.pop(0)
        order = self.world.order(held.slot)
        if order.cid != held.cid:
            return
        px = order.limit_px or order.ref_px or 640_000
        row = ReportRow(cid=held.cid, kind=kind, status=status, cum_qty=cum, cost_e8=cum * px * 10_000,
                        last_qty=cum - held.told if kind == ReportKind.TRADE else 0, last_px=px,
                        trade_id=held.slot * 1000 + cum if kind == ReportKind.TRADE else 0,
                        code=-1008 if kind == ReportKind.REJECT else 0, venue_order_id=held.slot + 1,
                        ts_event=self.world.now).pack()
        held.told = max(held.told, cum)
        before = self.targets()
        self.world.step(e.Reports(row))
        self.check(before)
        if self.rng.random() < 0.2:
            again = self.state()
            self.world.step(e.Reports(row))
            assert self.state() == again, "the same report twice changes nothing"

    def speak(self, most: int) -> None:
        """Some of what the venue has to say."""
        waiting = [held for held in self.venue.values() if held.sayings]
        self.rng.shuffle(waiting)
        for held in waiting[:most]:
            self.tell(held)

    # -- leader and operator ------------------------------------------------------------------------------------------

    def refresh(self, away: int = 0) -> None:
        px = 640_000 + self.rng.randint(-500, 500) + away
        self.world.step(e.Quotes([(0, px - 1, px + 1, px, self.world.now)]))
        self.world.step(e.LeaderEquity(0, 800_000 * E8, self.world.now))

    def leader_fill(self, signed: int, order_id: int | None = None, order_qty: int = 0, px: int = 640_000) -> e.Outputs:
        """A fill of the leader; the laws of semantics 1-3, 17 and 23 at once."""
        world = self.world
        self.exec_id += 1
        before_leader = self.leader
        self.leader += signed
        value = e.LeaderFill(0, 0, 0, self.exec_id, order_id or self.exec_id, 1 if signed > 0 else -1, abs(signed), px,
                             max(order_qty, abs(signed)), True, False, "trade", world.now - 10_000_000, world.now, b"")
        before = self.targets()
        legs_before = self.legs()
        out = world.step(value)
        assert out is not None
        plans = sorted(row.plan for row in DecisionRow.unpack_all(out.decisions))
        assert plans == [0, 1, 2], "exactly one decision per (leader event, plan)"
        reducing = before_leader * signed < 0
        if reducing and before_leader * self.leader >= 0:
            for slot in array("I", out.orders):
                order = world.order(slot)
                assert order.kind == Kind.REDUCTION, "a reducing event opens nothing"
                held = legs_before[order.leg].attributed
                assert held * order.side < 0, "a reducing event never enlarges a leg"
        if reducing:
            self.check_reduced()
        self.check(before, reducing)
        journal_at = world.engine.names.seq
        assert world.engine.step(world.now, value) is None, "the same execution twice changes nothing"
        assert world.engine.names.seq == journal_at
        return out

    def check_reduced(self) -> None:
        """Semantics 17: all confirmed excess is on the wire at once."""
        for leg in self.legs():
            wanted = abs(leg.target) if leg.target * leg.attributed > 0 else 0
            excess = abs(leg.attributed) * ONE - leg.reduce_leaves * ONE - wanted
            assert excess < ONE, f"a reduction of {excess / ONE:.3f} lots was not sent at once"

    def disturb(self) -> None:
        """Something an operator, a clock or a crash could do."""
        rng, world = self.rng, self.world
        choice = rng.randrange(11)
        if choice == 0:
            world.step(e.Command("kill_switch", {"scope": "all", "on": rng.random() < 0.4}))
        elif choice == 1:
            world.step(e.Command("set_state", {"scope": "plan", "name": f"F{rng.randrange(3)}",
                                               "state": rng.choice(["active", "active", "paused", "close_only"])}))
        elif choice == 2:
            world.now += rng.choice([1, 6, 70]) * SECOND
        elif choice == 3:
            world.step(e.LeaderSync(0, False, [], "test"))
        elif choice == 4:
            world.step(e.LeaderSync(0, True, [(0, 0, self.leader, 10)]))
        elif choice == 5:
            world.setups["F1"]["ready"] = rng.random() < 0.6
            world.account("F1")
        elif choice == 6:
            before = self.targets()
            parts = [bytes(part) for part in world.engine.checkpoint()]
            world.engine = e.Engine.restore(parts)
            assert [bytes(part) for part in world.engine.checkpoint()] == parts
            world.restart()
            world.step(e.LeaderSync(0, True, [(0, 0, self.leader, 10)]))
            self.check(before)
        elif choice == 7:
            self.hand(rng.randrange(3))
        else:
            self.refresh(rng.choice([0, 0, 0, -8_000, 8_000]))

    def hand(self, plan: int) -> None:
        """The follower trades by hand; his reductions take his own rest first, then ours (semantics 29)."""
        legs = [leg for leg in self.legs() if leg.plan == plan]
        if not legs:
            return
        if legs[0].reduce_leaves and legs[0].open_leaves:
            return  # which of the two his trade met is not known yet
        held, rest = legs[0].attributed, self.rest[plan]
        target = legs[0].target
        taken = 0
        known = held + rest
        hedge = self.world.setups[f"F{plan}"]["hedge"]
        if held and not hedge and self.rng.random() < 0.4:
            qty = self.rng.randint(1, 30) * (1 if held > 0 else -1)
            self.rest[plan] += qty
        elif held and abs(known) >= 1 and self.position[plan] * known > 0:
            most = min(abs(known), abs(self.position[plan]))
            qty = -self.rng.randint(1, most) * (1 if known > 0 else -1)
            from_rest = min(abs(qty), abs(rest)) if rest * known > 0 else 0
            self.rest[plan] += from_rest * (1 if qty > 0 else -1)
            taken = abs(qty) - from_rest
            self.shrunk[plan] += taken * (1 if qty > 0 else -1)
        else:
            return
        self.position[plan] += qty
        self.exec_id += 1
        side = 0 if not hedge else 1 if known > 0 else 2
        out = self.world.step(e.ExternalFill(plan, 0, side, qty, self.exec_id, "manual"))
        assert out is not None
        target -= sum(end.forgone for end in OrderEndRow.unpack_all(out.ends))
        sign = 1 if held > 0 else -1
        after = next(leg for leg in self.legs() if leg.plan == plan)
        assert after.target == (sign * max(0, sign * target - taken * ONE) if taken else target), "target and held drop together"
        for leg in self.legs():
            self.law(leg)

    def tick(self) -> None:
        before = self.targets()
        self.world.now += SECOND // 4
        self.world.last = None
        if self.world.engine.timer_due(self.world.now):
            self.world.step(e.Timer())
        self.check(before)

    # -- the laws ---------------------------------------------------------------------------------------------------

    def legs(self) -> list[LegRow]:
        return self.world.legs()

    def targets(self) -> list[int]:
        return [leg.target for leg in self.legs()]

    def state(self) -> list[bytes]:
        columns = self.world.engine.columns
        return [columns.get(e.LEGS, index) for index in range(columns.count(e.LEGS))] + [
            columns.get(e.ACCOUNTS, index) for index in range(columns.count(e.ACCOUNTS))]

    def check(self, before: list[int], reducing: bool = False) -> None:
        """What holds after every input."""
        world = self.world
        out = world.last
        for index, leg in enumerate(self.legs()):
            heard = self.shrunk[leg.plan] + sum(
                (held.told if held.signed > 0 else -held.told) for held in self.venue.values()
                if world.order(held.slot).leg == index)
            assert leg.attributed == heard, "attributed is what the venue confirmed"
            assert leg.attributed == 0 or leg.open_leaves >= 0
            opening = [slot for slot in self.venue if world.order(slot).leg == index
                       and world.order(slot).kind == Kind.OPENING and world.order(slot).state < OrderState.FILLED]
            assert len(opening) <= 1, "one opening in flight per leg (semantics 23)"
            self.law(leg)
        if out is None:
            return
        before = before + [0] * (len(self.legs()) - len(before))
        booked = [0] * len(before)
        opened = [0] * len(before)
        for row in DecisionRow.unpack_all(out.decisions):
            booked[row.leg] += row.forgone
            opened[row.leg] += row.delta
        for end in OrderEndRow.unpack_all(out.ends):
            booked[end.leg] += end.forgone
        for slot in array("I", out.orders):
            order = world.order(slot)
            if order.kind == Kind.OPENING:
                leg = self.legs()[order.leg]
                net = max(0, abs(leg.attributed) - leg.reduce_leaves) + leg.open_leaves
                assert net <= -(-abs(leg.target) // ONE), "no order takes a leg beyond its target"
        if not isinstance(out.input, e.LeaderFill | e.LeaderSync):
            for index, target in enumerate(self.targets()):
                raised = self.raised(index, out)
                assert raised or target == before[index] + opened[index] * 0 - booked[index], (
                    "what leaves the target is booked as forgone, and nothing else leaves it")
        elif isinstance(out.input, e.LeaderFill):
            for row in DecisionRow.unpack_all(out.decisions):
                if not reducing and not self.raised(row.leg, out):
                    assert row.target == before[row.leg] + row.delta - row.forgone, "target after = before + delta - forgone"
                assert row.target == self.legs()[row.leg].target

    def raised(self, index: int, out: e.Outputs) -> bool:
        """Only min_policy raise adds to a target."""
        spec = self.world.specs[f"F{self.legs()[index].plan}"][0]
        return spec["min_policy"] == 2

    def law(self, leg: LegRow) -> None:
        """``target = attributed + open + deferred + residual`` (semantics 1), with what is on its way out."""
        known = leg.attributed * ONE + leg.pending + leg.deferred
        out = min(leg.reduce_leaves, abs(leg.attributed)) * ONE * (1 if leg.attributed > 0 else -1)
        residual = leg.target - (known - out)
        if leg.retry_ts or (leg.reduce_leaves and leg.attributed == 0):
            return
        row = InstrumentRow.unpack(self.world.engine.columns.get(e.INSTRUMENTS, 0))
        most = ONE if not row.min_notional_e8 else 3 * ONE
        if self.shrunk[leg.plan]:
            most += (2 + abs(self.shrunk[leg.plan])) * ONE  # his hand met orders in flight: settled as they end
        assert abs(residual) < most, f"residual of {residual / ONE:.3f} lots"

    def settle(self) -> None:
        """The venue says all it knows, is fair from now on, and time passes until nothing is due."""
        self.calm = True
        for _ in range(60):
            self.speak(100)
            self.tick()
            self.world.now += 6 * SECOND
            if not any(held.sayings for held in self.venue.values()) and not any(
                leg.retry_ts or leg.open_leaves or leg.reduce_leaves for leg in self.legs()
            ):
                return
        raise AssertionError(f"never settles: {self.legs()}")

    def check_settled(self) -> None:
        """Everything heard and nothing due: the venue's position is the leg, and the leg is its target."""
        for leg in self.legs():
            assert leg.attributed + self.rest[leg.plan] == self.position[leg.plan], "the venue's position is what is attributed"
            assert leg.pending == 0 and leg.open_slot == e.NONE
        for index in range(3):
            account = AccountRow.unpack(self.world.engine.columns.get(e.ACCOUNTS, index))
            assert account.reserved_e8 == 0, "no margin stays reserved"

    def restart_on_copy(self) -> None:
        """The same inputs on a fresh engine give the same bytes (semantics 44)."""
        engine = e.Engine(4)
        for now, value, payload in self.journal:
            out = engine.step(now, value)
            assert (b"".join(out.payload()) if out else None) == payload


def run(seed: int, steps: int = 40) -> History:
    """One disturbed history to its settled end."""
    history = History(seed)
    rng = history.rng
    for _ in range(steps):
        history.world.now += rng.choice([1, 20, 300]) * 1_000_000
        what = rng.random()
        if what < 0.35:
            signed = rng.choice([-1, 1]) * rng.choice([1, 7, 40, 200, rng.randint(1, 400)])
            if history.leader and rng.random() < 0.25:
                signed = -history.leader
            history.leader_fill(signed)
        elif what < 0.75:
            history.speak(rng.randint(1, 4))
        elif what < 0.85:
            history.tick()
        else:
            history.disturb()
    return history
