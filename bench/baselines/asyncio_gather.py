"""The usual way in Python: one task per follower, decimals, a JSON document, ``hmac.new``, ``send`` of a WebSocket library.

Plain asyncio, the ``websockets`` package, nothing of copyd. Followers, keys, orders and the lines on stdin and stdout are
those of ``bench/floor/floor.c``; first line on stdout when ready, then one line of JSON per line "go".

    python asyncio_gather.py PORT FOLLOWERS CONNECTIONS [SEED]
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import hmac
import json
import os
import random
import sys
import time
from decimal import ROUND_DOWN, Decimal
from typing import Any

from websockets.asyncio.client import connect

SIDES = (1, -1, -1, 1)
EQUITY = Decimal(100_000)
LEADER_QTY = Decimal("0.5")
LOT = Decimal("0.001")
TICK = Decimal("0.1")
SLIPPAGE = Decimal("0.005")
MIN_NOTIONAL = Decimal(50)
MAX_QTY = Decimal(120)


class Follower:
    """What a copy engine keeps of one follower."""

    def __init__(self, account: int, seed: int, rng: random.Random) -> None:
        self.account = account
        self.api_key = f"bench{account:059d}"
        self.secret = hashlib.sha256(b"%d/%d" % (seed, account)).hexdigest().encode()
        self.allocation = Decimal(rng.randrange(1_500, 13_500))
        self.available = Decimal(100_000)
        self.held = Decimal(0)
        self.open_orders = 0
        self.paused = False


class Leader:
    """One fill of the leader's."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.side = SIDES[(number - 1) % 4]
        self.closing = number % 2 == 0
        self.px = Decimal(650_000 + number * 37 % 1000 - 500) * TICK


def order(follower: Follower, leader: Leader) -> dict[str, Any] | None:
    """Size, risk checks, parameters; None when refused."""
    qty = follower.held if leader.closing else LEADER_QTY * follower.allocation / EQUITY
    qty = qty.quantize(LOT, ROUND_DOWN)
    notional = qty * leader.px
    if qty < LOT or qty > MAX_QTY or follower.paused or follower.open_orders >= 10:
        return None
    if not leader.closing and (notional < MIN_NOTIONAL or notional / 10 > follower.available):
        return None
    follower.held += -qty if leader.closing else qty
    cid = f"be7c0000{leader.number:08x}{follower.account:08x}{follower.account * 2654435761 % 2**32:08x}"
    params: dict[str, Any] = {"symbol": "BTCUSDT", "side": "BUY" if leader.side > 0 else "SELL"}
    if leader.closing:
        params |= {"type": "MARKET", "quantity": f"{qty.normalize():f}", "reduceOnly": "true"}
    else:
        limit = (leader.px * (1 + leader.side * SLIPPAGE)).quantize(TICK, ROUND_DOWN)
        params |= {"type": "LIMIT", "timeInForce": "IOC", "quantity": f"{qty.normalize():f}", "price": f"{limit.normalize():f}"}
    return params | {
        "newClientOrderId": cid, "newOrderRespType": "RESULT", "apiKey": follower.api_key,
        "timestamp": time.time_ns() // 1_000_000, "recvWindow": 2000,
    }


class Burst:
    """One leader event on its way to all followers."""

    def __init__(self, leader: Leader) -> None:
        self.leader = leader
        self.first = 0
        self.orders = 0

    async def copy(self, follower: Follower, socket: Any) -> None:
        """One follower's task."""
        params = order(follower, self.leader)
        if params is None:
            return
        text = "&".join(f"{name}={params[name]}" for name in sorted(params))
        params["signature"] = hmac.new(follower.secret, text.encode(), hashlib.sha256).hexdigest()
        await socket.send(json.dumps({"id": params["newClientOrderId"], "method": "order.place", "params": params}))
        self.orders += 1
        self.first = self.first or time.monotonic_ns()


async def main(port: int, count: int, connections: int, seed: int) -> None:
    """Connect, then one burst per line."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])  # the draining peer has the last core
    rng = random.Random(seed)
    followers = [Follower(account, seed, rng) for account in range(count)]
    sockets = [
        await connect(f"ws://127.0.0.1:{port}/drain", compression=None, ping_interval=None) for _ in range(connections)
    ]
    gc.collect()
    gc.freeze()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print(json.dumps({"ready": True}), flush=True)
    number = 0
    while (await lines.readline()).startswith(b"go"):
        number += 1
        began = time.monotonic_ns()
        burst = Burst(Leader(number))
        await asyncio.gather(*(burst.copy(follower, sockets[follower.account % connections]) for follower in followers))
        while any(socket.transport.get_write_buffer_size() for socket in sockets):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
        last = time.monotonic_ns()
        print(json.dumps({
            "event_ns": began, "first_ns": burst.first - began, "last_ns": last - began, "orders": burst.orders}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 1))
