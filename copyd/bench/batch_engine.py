"""The other end of ``copyd bench batch``: the simulated exchange with its batch door, deep books and the followers' accounts.

A process of its own. Told by JSON lines on standard input, answers by JSON lines; ends when its input does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from typing import Any

import uvloop

from copyd._fast.sim_engine import SIDE_BUY, SIDE_SELL, TIF_GTC, TYPE_LIMIT
from copyd.bench import world
from copyd.exchange.batch import BatchOptions
from copyd.exchange.server import ExchangeServer, Options

SECRET = b"the secret of a benchmark"
BALANCE_E8 = 10_000_000 * world.E8
LEVELS = 24  # resting orders of the largest size on each side
AWAY = 10  # ticks from the middle: hundreds of round trips must not wear the allocations down
REFILL_S = 0.02


class Engine:
    """The exchange, and the one account that stands on the other side of everybody."""

    def __init__(self, followers: int, path: str) -> None:
        self.exchange = ExchangeServer(Options(
            makers=False, batch=BatchOptions(port=0, path=path, secret=SECRET, heartbeat_ms=5_000)))
        engine = self.engine = self.exchange.engine
        now = time.time_ns()
        engine.set_mark(0, world.PX, now)
        self.pool = engine.add_account(BALANCE_E8, no_margin=True, maker_ppm=0, ts_ns=now)
        self.exchange.accounts.register(self.pool, "pool")
        self.first = engine.add_accounts(followers, BALANCE_E8, taker_ppm=1, ts_ns=now)  # nor must fees
        self.followers = followers
        for index in range(followers):
            self.exchange.accounts.register(self.first + index, f"f{index:05d}")
        self.placed = 0

    def refill(self) -> None:
        """As many lots rest on each side as at the start."""
        resting = {SIDE_BUY: 0, SIDE_SELL: 0}
        for slot in self.engine.open_orders(self.pool):
            resting[self.engine.order(slot)[5]] += 1
        now = time.time_ns()
        for side, count in resting.items():
            for _ in range(LEVELS - count):
                self.placed += 1
                slot = self.engine.place(
                    self.pool, 0, side, TYPE_LIMIT, TIF_GTC, self.exchange.instruments[0].max_qty, world.PX - side * AWAY, False,
                    False, 0, b"pool-%d" % self.placed, now)
                assert slot >= 0, slot

    async def keep_full(self) -> None:
        """For as long as it runs."""
        while True:
            self.refill()
            await asyncio.sleep(REFILL_S)

    def books(self) -> dict[str, Any]:
        """What the exchange believes: position of every follower, fees paid, orders and how they were taken."""
        desk = self.exchange.batch.desk if self.exchange.batch is not None else None
        assert desk is not None
        return {
            "positions": [self.engine.position(self.first + i, 0, 0)[0] for i in range(self.followers)],
            "placed": desk.n_placed, "refused": desk.n_refused, "repeated": desk.n_repeated, "trades": self.engine.n_trades(),
            "cpu_s": time.process_time(),
        }


async def serve() -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    asked = json.loads(await reader.readline())
    engine = Engine(asked["followers"], asked["path"])
    await engine.exchange.start()
    engine.refill()
    keeping = asyncio.create_task(engine.keep_full())
    gc.collect()
    gc.freeze()
    print(json.dumps({"port": engine.exchange.ports["batch"], "first": engine.first}), flush=True)
    while await reader.readline():
        print(json.dumps(engine.books()), flush=True)
    keeping.cancel()
    await engine.exchange.stop()


if __name__ == "__main__":
    uvloop.run(serve())
