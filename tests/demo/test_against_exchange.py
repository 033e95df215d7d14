"""The verifier fed with a real exchange's books: a slow, honest follower written here trades over signed REST.

It follows the same plain rules by hand: no compiled part, no journal. What it claims is checked against what the exchange
says happened, which exercises every decoder between the exchange's truth and the verdict.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from copyd.demo.exchange import Control, LeaderClient
from copyd.demo.history import Claim, Plan, Truth, VerifyConfig
from copyd.demo.ideal import Anchor, PlanNumbers, k_q32, limit_price, sign, split, toward_zero_to_lot
from copyd.demo.processes import Child
from copyd.demo.verifier import verify
from copyd.demo.workload import Market, leader_script

PLANS = [
    Plan(follower="anna", allocation="50000", leverage=10),
    Plan(follower="bert", allocation="20000", mode="multiplier", multiplier="1.5", leverage=10),
    Plan(follower="cleo", allocation="9000", mode="fixed_amount", amount="300", leverage=10),
    Plan(follower="dora", allocation="30000", mode="risk_based", risk_bps=20, assumed_stop_bps=100, leverage=10),
    Plan(follower="emil", allocation="800", mode="fixed_ratio", leverage=5),
    Plan(follower="fred", allocation="600", mode="proportional", slippage_bps=1, leverage=5),
]


def worth_of(numbers: PlanNumbers, truth: Truth) -> int:
    """Allocation, what the executions brought and cost, and what is held at the last mark (semantics 16)."""
    worth = numbers.allocation_e8
    for _, symbol, lots, value, fee in truth.executions.get(numbers.account, []):
        worth -= (value if lots > 0 else -value) + fee
        worth += truth.instruments[symbol].notional_e8(lots, truth.quotes[symbol].mark[-1])
    return worth


class SlowFollower(Anchor):
    """One leg followed by hand."""

    def __init__(self, leader_lots: int) -> None:
        super().__init__(leader_lots)
        self.k = 0
        self.lots = 0


class Follower:
    """Decides every leader trade for every plan, one after the other, and writes down why."""

    def __init__(self, control: Control, clients: dict[str, LeaderClient]) -> None:
        self.control = control
        self.clients = clients
        self.claims: list[Claim] = []
        self.legs: dict[tuple[str, str], SlowFollower] = {}
        self.position: dict[str, int] = {}
        self.first_px: dict[str, int] = {}
        self.decided: set[tuple[str, str]] = set()
        self.skip: set[tuple[str, str]] = set()
        self.ids = 0
        self.start: dict[str, int] = {}

    async def catch_up(self) -> None:
        """Decide what the leader has done since the last time."""
        truth = await self.control.truth("leader")
        for trade in truth.leader_trades:
            key = (trade.symbol, trade.exec_id)
            if key in self.decided:
                continue
            self.decided.add(key)
            before = self.position.get(trade.symbol, 0)
            self.position[trade.symbol] = before + trade.lots
            self.first_px.setdefault(trade.order_id, trade.px)
            if key not in self.skip:
                for plan in PLANS:
                    await self.decide(PlanNumbers(plan), truth, trade, before)

    async def decide(self, numbers: PlanNumbers, truth: Truth, trade: Any, before: int) -> None:
        plan = numbers.plan
        instrument = truth.instruments[trade.symbol]
        leg = self.legs.setdefault((plan.follower, trade.symbol), SlowFollower(before))
        equity = truth.leader_reads[-1][1]
        quote = truth.quotes[trade.symbol]
        claim = Claim(
            cause="leader_fill", seq=len(self.decided), symbol=trade.symbol, exec_id=trade.exec_id, plan=plan.follower, orders=[],
            leader_equity_e8=equity, bid=quote.bid[-1], ask=quote.ask[-1], mark=quote.mark[-1], ts_event=trade.ts,
            ts_decided=trade.ts + 1000,
        )  # fmt: skip
        reducing, opening = split(before, trade.lots)
        self.claims.append(claim)
        if reducing:
            leg.reduce(reducing)
            excess = toward_zero_to_lot((abs(leg.lots) << 32) - abs(leg.target))
            if excess:
                claim.reduce, claim.reduce_lots = "order", excess
                cid, done = await self.send(plan, instrument, -sign(leg.lots), excess, 0)
                claim.orders.append(cid)
                leg.lots -= sign(leg.lots) * done
        if not opening:
            claim.target_q32 = leg.target
            return
        if leg.target == 0 or plan.mode in ("fixed_amount", "risk_based"):
            px = self.first_px[trade.order_id] if plan.mode == "risk_based" else trade.px
            leg.k = k_q32(numbers, instrument, trade.order_lots, px, equity, 10, worth_of(numbers, truth))
        claim.k_q32, claim.delta_q32 = leg.k, opening * leg.k
        leg.open(opening, leg.k)
        claim.target_q32 = leg.target
        side = sign(opening)
        limit = limit_price(trade.px, side, plan.slippage_bps or (150 if trade.symbol == "SOLUSDT" else 50))
        want = toward_zero_to_lot(abs(leg.target)) - abs(leg.lots)
        claim.open = "carried" if want else "rounded"
        if want < instrument.minimum_lots(limit):
            return
        if reducing:
            claim.open = "deferred"
            claim = msgspec.structs.replace(claim, cause="release", orders=[], reduce="none", reduce_lots=0)
            self.claims.append(claim)
        claim.open, claim.open_lots = "order", want
        cid, done = await self.send(plan, instrument, side, want, limit)
        claim.orders.append(cid)
        leg.lots += side * done
        if done < want:
            leg.drop((want - done) << 32)
            end = Claim(cause="order_end", seq=claim.seq, symbol=claim.symbol, plan=claim.plan, client_order_id=cid)
            end.reason, end.ts_decided = "slippage", claim.ts_decided
            end.forgone_q32, end.target_q32 = side * (want - done) << 32, leg.target
            self.claims.append(end)

    async def send(self, plan: Plan, instrument: Any, side: int, lots: int, limit: int) -> tuple[str, int]:
        self.ids += 1
        cid = f"{self.ids:032x}"
        params: dict[str, Any] = {
            "symbol": instrument.symbol, "side": "BUY" if side > 0 else "SELL", "quantity": instrument.qty_text(lots),
            "newClientOrderId": cid, "newOrderRespType": "RESULT",
        }  # fmt: skip
        if limit:
            params |= {"type": "LIMIT", "timeInForce": "IOC", "price": str(limit * instrument.tick)}
        else:
            params |= {"type": "MARKET", "reduceOnly": "true"}
        answer = await self.clients[plan.follower].call("POST", "/fapi/v1/order", **params)
        return cid, instrument.lots(answer["executedQty"])


@pytest.mark.parametrize("seed", [7])
async def test_a_slow_honest_follower_is_verified_and_a_lie_is_not(tmp_path: Path, seed: int) -> None:
    ready = tmp_path / "ready.json"
    arguments = ["copyd.exchange.main", "--seed", str(seed), "--ready-file", str(ready), "--quiet", "--lift", "all"]
    exchange = Child("exchange", arguments, tmp_path / "log", tmp_path)
    await exchange.start()
    try:
        async with aiohttp.ClientSession() as session:
            while not ready.exists():
                exchange.check()
                await asyncio.sleep(0.05)
            where = msgspec.json.decode(ready.read_bytes())
            control = Control(session, where["control"])
            await control.load_instruments(where["rest"])
            await asyncio.sleep(0.3)
            await control.follow_quotes()
            made = await control.make_accounts(
                [{"name": "leader", "balance": "1000000"}]
                + [{"name": plan.follower, "balance": "1000000", "leverage": plan.leverage} for plan in PLANS]
            )
            await control.mark_account("leader")
            clients = {row.name: LeaderClient(session, where["rest"], row.api_key, row.secret) for row in made}
            leader = clients["leader"]
            markets = [Market(instrument, control.opening_px[name]) for name, instrument in control.instruments.items()]
            for symbol in control.instruments:
                await leader.set_leverage(symbol, 10)
            follower = Follower(control, clients)
            script = leader_script(markets, 10, seed)
            for step in script.phase("before"):
                await leader.place(step, control.instruments[step.symbol])
            before = (await control.truth("leader")).leader_trades
            follower.skip = {(trade.symbol, trade.exec_id) for trade in before}
            for step in script.steps:
                if step.phase not in ("before", "losing", "leaving"):
                    await leader.call("GET", "/fapi/v3/account")  # an equity is served before each order
                    number = await leader.place(step, control.instruments[step.symbol])
                    if step.kind == "REST":
                        await leader.wait_filled(step.symbol, number, 3)
                    await follower.catch_up()
            truth = await control.truth("leader")
    finally:
        await exchange.end(5)
    config = VerifyConfig(
        leader_leverage=dict.fromkeys(truth.instruments, 10), plans_since=before[-1].ts + 1, other_forgone_ppm=1_000_000,
    )  # fmt: skip
    truth.balances = {plan.follower: 10**14 for plan in PLANS}
    verdict = verify(truth, PLANS, follower.claims, config)
    assert verdict.problems == []
    assert verdict.verified
    assert verdict.orders > 100
    assert verdict.fills >= verdict.orders - verdict.forgone.get("slippage", 0)
    assert verdict.legs_open > 0
    assert verdict.decisions == (len(truth.leader_trades) - len(before)) * len(PLANS)
    truth.orders.pop()
    assert not verify(truth, PLANS, follower.claims, config).verified
