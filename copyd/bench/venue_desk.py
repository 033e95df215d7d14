"""One venue's adapter, wired as the daemon wires it, trading on the venue's dialect of the simulated exchange.

A process of its own (``python -m copyd.bench.venue_desk``, terms on standard input, the report on standard output), so that
its memory is the adapter's: connections opened by the venue's pace or without it, memory per account, orders with everything the
venue tells of them, compared with the exchange's own books at the end.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import resource
import struct
import sys
import time
from array import array
from collections.abc import Sequence
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from copyd._fast.columns import Columns, ReportBatch
from copyd.core.rows import OrderRow
from copyd.venues.binance_usdm import parts as binance_usdm
from copyd.venues.common import facts
from copyd.venues.common.contract import RateLimit, VenueContract
from copyd.venues.common.facts import Placed
from copyd.venues.common.instruments import Instrument
from copyd.venues.common.parts import Hooks, SessionParts, Terms
from copyd.venues.common.sessions import pace_of
from copyd.venues.common.signing import Key

#: Each venue's name of the bitcoin market that is traded.
SYMBOLS = {
    "binance_usdm": "BTCUSDT", "binance_spot": "BTCUSDT", "okx": "BTC-USDT-SWAP", "bybit": "BTCUSDT", "bitget": "BTCUSDT",
}  # fmt: skip
SITE = "cd08"
ORDERS = 7
ORDER_CONNECTIONS = 4
WARM = 4
"""Accounts that are there before memory is measured: what the first one costs is not every account's."""
SETTLE_S = 60.0
PAGE = 10_000
#: Of what the venue would let through, nothing is to be waited for here.
UNLIMITED = 100_000_000
REPORT = struct.Struct("=16s8qIi2B6x")


class Terms_(msgspec.Struct, kw_only=True):
    """What a run is told: the exchange's addresses (its ready file) and its accounts."""

    kind: str
    at: dict[str, Any]
    accounts: list[dict[str, Any]]
    rounds: int
    warmup: int


class Booked:
    """What was told of one order."""

    __slots__ = ("account", "cum", "ended", "lots", "trades")

    def __init__(self, account: str, lots: int) -> None:
        self.account, self.lots = account, lots
        self.cum = 0
        self.ended = False
        self.trades: dict[int, int] = {}

    @property
    def whole(self) -> bool:
        """Its end was told, and every lot of it with its execution."""
        return self.ended and self.cum == self.lots == sum(self.trades.values())


def unlimited(contract: VenueContract) -> VenueContract:
    """The same venue without limits on connections and orders."""
    kept = [limit for limit in contract.rate_limits if limit.kind == "weight"]
    orders = [RateLimit(limit.kind, limit.scope, UNLIMITED, limit.interval_ms)
              for limit in contract.rate_limits if limit.kind == "orders"]
    return contract.overridden({
        "rate_limits": [msgspec.structs.asdict(limit) for limit in (*kept, *orders)],
        "connect_attempts_per_5_min": UNLIMITED, "streams_per_connection_max": max(64, contract.streams_per_connection_max),
        "stream_messages_per_s_max": 1_000, "order_ack_timeout_ms": 60_000,
    })  # fmt: skip


def key_of(made: dict[str, Any]) -> Key:
    """The key of an account as the exchange made it."""
    return Key(made["api_key"].encode(), made["secret"].encode(), made.get("passphrase", "").encode())


class Desk:
    """One adapter, the orders it was given, and what was told of them."""

    def __init__(self, terms: Terms_) -> None:
        self.terms, self.kind = terms, terms.kind
        self.marks: dict[int, int] = {}
        self.columns = Columns(1)
        self.booked: dict[bytes, Booked] = {}
        self.open: set[bytes] = set()
        self.problems: list[str] = []
        self.keys = [key_of(made) for made in terms.accounts]
        self.book_ns = 0
        self._wake = asyncio.Event()
        self.parts: Any = self.adapter()

    def adapter(self, order_connections: int = ORDER_CONNECTIONS) -> Any:
        """The venue's parts, not yet open."""
        hooks = Hooks(
            clock=time.time_ns, on_reports=self._reports, on_connection=lambda *state: None,
            on_follower_event=lambda event: None, on_leader_event=lambda event: None, on_quotes=lambda quotes: None,
            on_marks=lambda marks: self.marks.update({mark.instrument: mark.mark for mark in marks}),
            on_ban=lambda *ban: self.problems.append(f"the exchange wants nothing of us: {ban}"),
            on_mismatch=lambda *what: self.problems.append(f"another order than ours: {what}"),
            on_unknown_code=lambda code: self.problems.append(f"unknown code {code}"),
            on_unknown_account=lambda account: None, on_unknown_fee=lambda *what: None,
            placed=self._placed, is_known=lambda cid: cid in self.booked, expected=lambda *about: (0, 0, True),
            last_mark=lambda index: self.marks.get(index, 0), account_key=lambda account: self.keys[account], site_tag=SITE,
        )  # fmt: skip
        at, contracts = self.terms.at, import_module(f"copyd.venues.{self.kind}.contract")
        contract = unlimited(contracts.CONTRACT)
        if self.kind == "binance_usdm":
            terms = binance_usdm.Terms(order_connections=order_connections, weight_per_min=UNLIMITED, hot_threads=1, batch=None)
            return binance_usdm.BinanceUsdmParts(contract, contracts.Endpoints.at(at["rest"], at["streams"]), terms, hooks)
        kind = import_module(f"copyd.venues.{self.kind}.parts").KIND
        return SessionParts(kind, contract, contracts.Endpoints.at(at["rest"], at["ws"]), Terms(UNLIMITED, 60_000, True), hooks)

    # --- connections ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Reach the exchange and hear its market."""
        await self.parts.open([(0, SYMBOLS[self.kind])], 10)
        self.parts.bind(self.columns)
        await self.parts.start_orders(10)
        await self.parts.market.start(10)
        deadline = time.monotonic() + 10
        while 0 not in self.marks and time.monotonic() < deadline:  # noqa: ASYNC110 - once per process, bounded
            await asyncio.sleep(0.01)

    async def follow(self, first: int, last: int) -> float:
        """Register these accounts and hear them; seconds until every connection serves."""
        began = time.perf_counter()
        for account in range(first, last):
            self.parts.register(account, self.terms.accounts[account]["name"], self.keys[account])
        refused: list[str] = []
        await self.parts.streams.add_many(
            [(account, self.keys[account]) for account in range(first, last)],
            on_done=lambda account, problem: refused.append(problem) if problem else None)
        self.problems += refused[:3]
        if isinstance(self.parts, SessionParts):
            lines = [line for account in range(first, last) for line in self.parts.sessions.lines(account)]
            deadline = time.monotonic() + SETTLE_S
            while not all(line.open for line in lines):
                if time.monotonic() > deadline:
                    self.problems.append(f"{sum(not line.open for line in lines)} connections did not open in time")
                    break
                await asyncio.sleep(0.001)
        return time.perf_counter() - began

    async def shared_opened(self, count: int) -> float:
        """Seconds until so many order connections are open, where accounts share them."""
        other = self.adapter(order_connections=count)
        await other.open([(0, SYMBOLS[self.kind])], 10)
        began = time.perf_counter()
        await other.gateway.start(SETTLE_S)
        took = time.perf_counter() - began
        if other.gateway.open_connections < count:
            self.problems.append(f"only {other.gateway.open_connections} of {count} order connections opened")
        await other.gateway.stop(0)
        await other.rest.close()
        return took

    # --- orders ---------------------------------------------------------------------------------------------------------
    @property
    def item(self) -> Instrument:
        """What is traded."""
        found: Instrument = self.parts.instruments[0]
        return found

    @property
    def unit(self) -> int:
        """Lots that are 0.001 of the base."""
        item = self.item
        return 10**item.qty_decimals * item.contract_div // (item.lot * item.contract_mul * 1_000)

    def _burst(self, turn: int) -> array[int]:
        """One order for each account, in the tables: a purchase of five units, then sales and purchases of one in turn."""
        slots = array("I")
        lots, side = (self.unit * 5, 1) if turn == 0 else (self.unit, -1 if turn % 2 else 1)
        for account in range(len(self.keys)):
            cid = bytes.fromhex(SITE + "00002a") + (len(self.booked) + 1).to_bytes(11, "big")
            slot = self.columns.add_order(cid)
            row = OrderRow(cid=cid, order_qty=lots, account=account, side=side, state=1, ts_decided=time.time_ns())
            self.columns.put(ORDERS, slot, row.pack())
            self.booked[cid] = Booked(self.terms.accounts[account]["name"], lots)
            self.open.add(cid)
            slots.append(slot)
        return slots

    def _placed(self, cid: bytes) -> Placed | None:
        slot = self.columns.order_slot(cid)
        if slot is None:
            return None
        row = OrderRow.unpack(self.columns.get(ORDERS, slot))
        return Placed(row.account, row.instrument, row.side, row.position_side, row.order_qty, False, 1, 0)

    def _reports(self, batch: ReportBatch, ts_recv: int) -> None:
        """Books what was told. It is the benchmark's own work, in place of the engine's, and is not counted as the adapter's."""
        began = time.thread_time_ns()
        for cid, cum, _, last, _, _, trade, _, _, _, code, kind, status in REPORT.iter_unpack(batch.to_bytes()):
            one = self.booked.get(cid)
            if one is None:
                continue  # a balance
            if kind in (facts.REJECT, facts.IN_DOUBT, facts.NOT_SENT):
                self.problems.append(f"order {cid.hex()}: kind {kind}, code {code}")
                self.open.discard(cid)
            if kind == facts.TRADE:
                one.trades[trade] = last
            one.cum = max(one.cum, cum)
            one.ended = one.ended or status in facts.TERMINAL_STATUS
            if one.cum < sum(one.trades.values()):
                one.cum = sum(one.trades.values())
            if one.whole:
                self.open.discard(cid)
        if not self.open:
            self._wake.set()
        self.book_ns += time.thread_time_ns() - began

    async def trade(self, turns: Sequence[int]) -> dict[str, int]:
        """A burst per turn, the next when the last is booked: ns of the clock, of this thread, and of it until handed over."""
        wall = thread = out = 0
        gateway = self.parts.gateway
        for turn in turns:
            slots = self._burst(turn)
            self._wake.clear()
            self.book_ns = 0
            began, worked = time.perf_counter_ns(), time.thread_time_ns()
            chunks = gateway.arrange(slots, turn)
            for at in range(0, len(chunks), gateway.chunk_max):
                gateway.send(gateway.render(chunks[at : at + gateway.chunk_max]))
            out += time.thread_time_ns() - worked
            try:
                await asyncio.wait_for(self._wake.wait(), SETTLE_S)
            except TimeoutError:
                self.problems.append(f"{len(self.open)} orders were not booked in time")
                break
            wall += time.perf_counter_ns() - began
            thread += time.thread_time_ns() - worked - self.book_ns
        return {"wall": wall, "thread": thread, "out": out}

    # --- the exchange's books -------------------------------------------------------------------------------------------
    def check(self) -> list[str]:
        """What is not as it must be, in sentences: every order of ours once in the exchange's books, filled, for its account."""
        problems = list(self.problems)
        shown: dict[str, int] = {}
        unit = self.unit
        after = -1
        while rows := self._truth(after):
            after = rows[-1]["seq"]
            for row in rows:
                cid = row["clientOrderId"]
                shown[cid] = shown.get(cid, 0) + 1
                one = self.booked.get(bytes.fromhex(cid)) if cid.startswith(SITE) else None
                lots = Decimal(row["executedQty"]) * 1_000 * unit
                if one is None:
                    problems.append(f"the exchange has an order that is not ours: {cid}")
                elif (row["account"], row["status"], lots) != (one.account, "FILLED", one.cum):
                    problems.append(
                        f"order {cid} of {one.account}, {one.cum} lots: the exchange says {row['account']}, {row['status']}, "
                        f"{row['executedQty']}")
        twice = sum(count > 1 for count in shown.values())
        missing = sum(cid.hex() not in shown for cid in self.booked)
        if twice or missing or self.open:
            problems.append(f"{twice} orders twice, {missing} not at the exchange, {len(self.open)} not booked")
        return problems[:10]

    def _truth(self, after: int) -> list[dict[str, Any]]:
        connection = http.client.HTTPConnection(self.terms.at["control"].removeprefix("http://"), timeout=30)
        try:
            connection.request("GET", f"/truth/orders?after={after}&limit={PAGE}")
            return [json.loads(line) for line in connection.getresponse().read().splitlines()]
        finally:
            connection.close()


def resident() -> int:
    """Bytes of this process that are not pages of a file."""
    _, pages, shared, *_ = (int(text) for text in Path("/proc/self/statm").read_text().split())
    return (pages - shared) * resource.getpagesize()


async def measure(terms: Terms_) -> dict[str, Any]:
    """One run; the part of the report that is this venue's."""
    desk = Desk(terms)
    count = len(terms.accounts)
    try:
        await desk.start()
        await desk.follow(0, min(WARM, count))
        gc.collect()
        before = resident()
        took = await desk.follow(min(WARM, count), count)
        gc.collect()
        after = resident()
        fresh = count - min(WARM, count)
        per_account = 0
        if isinstance(desk.parts, SessionParts):
            per_account = len(desk.parts.sessions.lines(0))
            opened = fresh * per_account
        else:
            took = await desk.shared_opened(count)
            opened = count
        await desk.trade(range(terms.warmup))
        gc.collect()
        gc.freeze()
        times = await desk.trade(range(terms.warmup, terms.warmup + terms.rounds))
        orders = count * terms.rounds
        problems = desk.check()
    finally:
        await desk.parts.stop()
    real = import_module(f"copyd.venues.{terms.kind}.contract").CONTRACT
    return {
        "venue": terms.kind, "accounts": count, "orders": orders, "connections_per_account": per_account,
        "us_per_order": round(times["thread"] / orders / 1e3, 1), "out_us_per_order": round(times["out"] / orders / 1e3, 1),
        "orders_per_s": round(orders * 1e9 / max(1, times["wall"])),
        "orders_per_loop_s": round(orders * 1e9 / max(1, times["thread"])),
        "connects_per_min": round(opened / took * 60) if took and opened else 0,
        "connects_per_min_within_limit": round(pace_of(real).per_s * 60, 1),
        "accounts_per_min_within_limit": round(pace_of(real).per_s * 60 / per_account, 1) if per_account else 0,
        "rss_before_bytes": before, "rss_after_bytes": after, "bytes_per_account": round((after - before) / max(1, fresh)),
        "checked": not problems, "problems": problems,
    }


def main() -> int:
    """Terms in, report out."""
    terms = msgspec.json.decode(sys.stdin.buffer.read(), type=Terms_)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(measure(terms))
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
