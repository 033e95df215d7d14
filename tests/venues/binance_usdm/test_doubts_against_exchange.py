"""Every source asked on the simulated exchange: what is said about an order in doubt agrees with the exchange's books."""

import time

import pytest

from copyd._fast.encode import Encoder
from copyd.venues.binance_usdm.gateway import OrderGateway
from copyd.venues.common.facts import DEAD, IN_DOUBT, NOT_SENT, REPLY, TRADE, Placed

from .conftest import rows
from .test_against_exchange import BTC, cid, exchange, until, world

__all__ = ["exchange", "world"]


class Desk:
    """A gateway that believes what it was told, and compares everything it can."""

    def __init__(self, world, keys, **terms):
        self.reports, self.booked, self.asked, self.signed = [], {}, {}, {}
        self.contract = world.contract.overridden({"order_ack_timeout_ms": 500, "recv_window_ms": 500, **terms})
        self.world = world
        self.gateway = OrderGateway(
            url=world.endpoints.ws_api, connections=2, instruments=world.instruments, contract=self.contract,
            clock=time.time_ns, venue_clock=world.rest.venue_clock, on_reports=self.take, queries_per_s=1000, rest=world.rest,
            expected=self.expected, placed=self.asked.get, on_mismatch=lambda name, what: self.mismatches.append(what),
        )  # fmt: skip
        self.mismatches = []
        self.encoder = Encoder(self.contract.recv_window_ms, 11)
        for i in world.instruments:
            self.encoder.set_instrument(i.index, i.symbol, i.price_decimals, i.tick, i.qty_decimals, i.lot)
        for account, (_, key) in enumerate(keys):
            self.gateway.register(self.encoder, account, key)

    def take(self, batch, ts):
        for row in rows(batch):
            self.reports.append(row)
            if row["kind"] == REPLY:
                self.booked[row["cid"]] = max(self.booked.get(row["cid"], 0), row["cum"])
            elif row["kind"] == IN_DOUBT:
                asked = self.asked[row["cid"]]
                self.gateway.query(row["cid"], asked.account, asked.instrument, self.signed[row["cid"]], asked.qty)

    def expected(self, account, instrument, since):
        net = sum(self.asked[name].side * cum for name, cum in self.booked.items() if self.asked[name].account == account)
        return net, 0, True

    def send(self, account, name, qty, side=1):
        self.asked[name] = Placed(account, BTC, side, 0, qty)
        self.signed[name] = time.time_ns()
        order = (account, BTC, name, qty, 0, side, 0, False)
        return self.gateway.send(self.encoder.encode_rows([order], self.world.rest.venue_clock.timestamp_ms()))


@pytest.mark.parametrize("each", [1, 8])
async def test_doubts_of_every_kind_end_as_the_books_say(world, each):
    """With one order per account the questions go by id, with eight the history is cheaper."""
    faults = ["drop_reply", "drop_request", "disconnect_live", "disconnect", "error_live", "error_dead"]
    keys = await world.accounts(len(faults), leverage=10)
    desk = Desk(world, keys)
    await desk.gateway.start()
    world.closing.append(lambda: desk.gateway.stop(0.0))
    first = int(time.time_ns()) % 10**12
    for account, fault in enumerate(faults):
        rule = {"action": fault, "account": keys[account][0], "method": "order.place", "count": each}
        await world.control("POST", "/faults", rule)
    names = []
    for account in range(len(faults)):
        for n in range(each):
            names.append(cid(first + account * each + n))
            await until(lambda: desk.gateway.ready)
            desk.send(account, names[-1], 2 + n)
    await until(lambda: len({row["cid"] for row in desk.reports if row["kind"] in (REPLY, DEAD, NOT_SENT)}) == len(names))
    assert desk.gateway.queries_open == 0 and desk.mismatches == [] and desk.gateway.stats.held == 0
    truth = {order["clientOrderId"]: order for order in await world.truth("/truth/orders?limit=100000")}
    # A write that fails because the other side has just hung up is proven not sent.
    dead = {row["cid"] for row in desk.reports if row["kind"] in (DEAD, NOT_SENT)}
    assert dead == {name for name in names if name.hex() not in truth} and dead
    for name in names:
        if name not in dead:
            assert desk.booked[name] == world.instruments[BTC].lots(truth[name.hex()]["executedQty"])
    fence = desk.contract.fence_ns()
    assert all(row["event"] >= desk.signed[row["cid"]] + fence for row in desk.reports if row["kind"] == DEAD)
    assert desk.gateway.stats.positions > 0 and desk.gateway.stats.lists > 0


async def test_executions_that_no_stream_told_are_read_from_the_list(world):
    """The reply tells what filled, not what it cost in fees: each execution of the order comes once, as the books have it."""
    keys = await world.accounts(1, leverage=10)
    desk = Desk(world, keys)
    await desk.gateway.start()
    world.closing.append(lambda: desk.gateway.stop(0.0))
    name = cid(int(time.time_ns()) % 10**12)
    await until(lambda: desk.gateway.ready)
    desk.send(0, name, 40)
    await until(lambda: desk.booked.get(name) == 40)
    reply = next(row for row in desk.reports if row["kind"] == REPLY)

    def placed(which):
        told = sum(row["last_qty"] for row in desk.reports if row["kind"] == TRADE)
        return desk.asked[which]._replace(venue_order_id=reply["order"], lacking=40 - told)

    desk.gateway.placed = placed
    desk.gateway.tell(name, 0, BTC, listed=True)
    assert desk.gateway.untold == 1 and desk.gateway.queries_open == 0
    await until(lambda: desk.gateway.untold == 0)
    told = [row for row in desk.reports if row["kind"] == TRADE]
    books = [trade for trade in await world.truth("/truth/trades?limit=100000") if trade["buyOrderId"] == reply["order"]]
    assert {row["trade"] for row in told} == {trade["id"] for trade in books} and len(told) == len(books) > 0
    assert sum(row["last_qty"] for row in told) == 40 and all(row["cum"] == 0 for row in told)
    assert sum(row["fee"] for row in told) == sum(round(float(trade["buyFee"]) * 10**8) for trade in books) > 0
