"""A session venue's adapter, wired as the daemon wires it, against the venue's dialect of the simulated exchange.

Every test here runs for every venue of perpetuals named in ``SYMBOLS``: what a new venue has to hold before anything of its own
is looked at.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

from copyd._fast.columns import Columns, ReportBatch
from copyd.core.rows import OrderRow
from copyd.venues.common import facts
from copyd.venues.common.facts import Placed
from copyd.venues.common.instruments import Instrument
from copyd.venues.common.parts import Hooks, LeaderTerms, SessionParts, Terms
from copyd.venues.common.signing import Key
from tests.exchange.wire_helpers import control, running_exchange

SYMBOLS = {"okx": ["BTC-USDT-SWAP", "ETH-USDT-SWAP"], "bybit": ["BTCUSDT", "ETHUSDT"], "bitget": ["BTCUSDT", "ETHUSDT"]}
SITE = "cd07"
BTC, ETH = 3, 5  # the engine counts over all venues: indexes need not begin at 0
ORDERS = 7
REPORT = struct.Struct("=16s8qIi2B6x")
TERMS = {
    "recv_window_ms": 1_000, "clock_error_ms": 100, "engine_delay_ms": 300, "read_lag_ms": 100, "guard_ms": 100,
    "order_ack_timeout_ms": 700, "connect_attempts_per_5_min": 1_000_000,
}  # fmt: skip
_numbers = itertools.count(1)


def rows(batch: ReportBatch) -> list[dict[str, Any]]:
    """Rows of a batch; layout of ``struct Report`` in columns.pxd."""
    names = ("cid", "cum", "cost", "last_qty", "last_px", "fee", "trade", "order", "event", "account", "code", "kind", "status")
    return [dict(zip(names, values, strict=True)) for values in REPORT.iter_unpack(batch.to_bytes())]


def cid(number: int) -> bytes:
    """A client order id of ours."""
    return bytes.fromhex(SITE + "00002a") + number.to_bytes(11, "big")


@pytest.fixture(scope="session", params=list(SYMBOLS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def exchange(kind: str) -> Iterator[dict[str, Any]]:
    with running_exchange("--dialect", kind, "--lift", "all") as at:
        yield at


class World:
    """One adapter, what it reported, and the exchange's own books."""

    #: The venue's folder, where it is not named as the kind of exchange is.
    folder = ""

    def __init__(self, kind: str, at: dict[str, Any]) -> None:
        self.kind, self.at = kind, at
        folder = self.folder or kind
        module = import_module(f"copyd.venues.{folder}.parts")
        self.contract = module.KIND.contract.overridden(TERMS)
        endpoints = self.endpoints(at)
        self.reports: list[dict[str, Any]] = []
        self.events: list[Any] = []
        self.leader_events: list[Any] = []
        self.bans: list[tuple[int, float, str]] = []
        self.shut_out: list[tuple[int, str]] = []
        self.mismatches: list[tuple[bytes, str]] = []
        self.quotes: list[facts.Quote] = []
        self.marks: dict[int, int] = {}
        self.orders: dict[bytes, tuple[int, OrderRow]] = {}
        self.names: dict[int, str] = {}
        self.keys: dict[int, Key] = {}
        self.unknown: set[bytes] = set()
        self.position: Callable[[int, int, int], tuple[int, int, bool]] = lambda account, instrument, since: (0, 0, True)
        hooks = Hooks(
            clock=time.time_ns, on_reports=self._reports, on_connection=lambda *state: None,
            on_follower_event=self.events.append, on_leader_event=self.leader_events.append, on_quotes=self.quotes.extend,
            on_marks=lambda marks: self.marks.update({mark.instrument: mark.mark for mark in marks}),
            on_ban=lambda *ban: self.bans.append(ban), on_mismatch=lambda *what: self.mismatches.append(what),
            on_unknown_code=lambda code: None, on_unknown_account=lambda account: None, on_unknown_fee=lambda *what: None,
            placed=self._placed, is_known=lambda one: one in self.orders and one not in self.unknown,
            expected=lambda *about: self.position(*about), last_mark=lambda index: self.marks.get(index, 0),
            account_key=lambda account: self.keys[account], site_tag=SITE,
            on_shut_out=lambda *what: self.shut_out.append(what),
        )  # fmt: skip
        self.columns = Columns(8)
        self.parts = SessionParts(module.KIND, self.contract, endpoints, Terms(1_000_000, 2_000, True), hooks)
        self._account = itertools.count()
        self._cid = itertools.count(next(_numbers) * 1_000_000)

    def endpoints(self, at: dict[str, Any]) -> Any:
        """The addresses of the exchange."""
        return import_module(f"copyd.venues.{self.kind}.contract").Endpoints.at(at["rest"], at["ws"])

    # -- life ---------------------------------------------------------------------------------------------------------
    async def open(self) -> None:
        names = SYMBOLS[self.kind]
        await self.parts.open([(BTC, names[0]), (ETH, names[1])], 10)
        self.parts.bind(self.columns)
        await self.parts.start_orders(10)
        await self.parts.market.start(10)

    async def close(self) -> None:
        control(self.at, "DELETE", "/faults")
        await self.parts.stop()

    @property
    def btc(self) -> Instrument:
        return self.parts.instruments[BTC]

    # -- accounts -------------------------------------------------------------------------------------------------------
    def made(self, n: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """Accounts of the exchange with names nobody used."""
        prefix = f"s{os.getpid()}-{next(_numbers)}-"
        body = {"n": n, "prefix": prefix, "balance": "100000", "leverage": 10, "margin_type": "ISOLATED", **fields}
        found: list[dict[str, Any]] = control(self.at, "POST", "/accounts", body)["accounts"]
        return found

    @staticmethod
    def key(account: dict[str, Any]) -> Key:
        return Key(account["api_key"].encode(), account["secret"].encode(), account.get("passphrase", "").encode())

    async def follow(self, n: int = 1, **fields: Any) -> list[int]:
        """Accounts that are registered and listened to."""
        numbers = []
        for account in self.made(n, **fields):
            number = next(self._account)
            self.names[number], self.keys[number] = account["name"], self.key(account)
            self.parts.register(number, account["name"], self.keys[number])
            numbers.append(number)
        problems: dict[int, str] = {}
        await self.parts.streams.add_many([(one, self.keys[one]) for one in numbers], on_done=problems.__setitem__)
        assert problems == dict.fromkeys(numbers, ""), problems
        lines = [line for one in numbers for line in self.parts.sessions.lines(one)]
        await until(lambda: all(line.open for line in lines))
        return numbers

    # -- orders ---------------------------------------------------------------------------------------------------------
    def order(self, account: int, qty: int, side: int = 1, *, px: int = 0, reduce_only: bool = False, kind: int = 0,
              instrument: int = BTC, position_side: int = 0) -> bytes:
        """An order in the tables, not sent."""
        one = cid(next(self._cid))
        slot = self.columns.add_order(one)
        row = OrderRow(
            cid=one, order_qty=qty, limit_px=px, account=account, instrument=instrument, side=side, kind=kind, state=1,
            reduce_only=int(reduce_only), position_side=position_side, ts_decided=time.time_ns())
        self.columns.put(ORDERS, slot, row.pack())
        self.orders[one] = slot, row
        return one

    def send(self, *cids: bytes) -> None:
        """Render and send, as the pump does."""
        gateway = self.parts.gateway
        gateway.send(gateway.render(gateway.arrange(array("I", [self.orders[one][0] for one in cids]), 1)))

    def ask(self, one: bytes) -> None:
        """As the venue side does with an order in doubt."""
        row = self.orders[one][1]
        now = time.time_ns()
        self.parts.gateway.query(one, row.account, row.instrument, now, exposure=row.order_qty, ts_placed_ns=row.ts_decided)

    def buy_px(self) -> int:
        """A limit that takes what is offered."""
        quote = next(q for q in reversed(self.quotes) if q.instrument == BTC)
        return quote.ask + quote.ask // 50

    def _placed(self, one: bytes) -> Placed | None:
        if one not in self.orders:
            return None
        row = self.orders[one][1]
        told = sum(self.trades(one).values())
        cum = max((r["cum"] for r in self.reports if r["cid"] == one), default=0)
        reduce_only, lacking = bool(row.reduce_only), cum - told
        return Placed(row.account, row.instrument, row.side, row.position_side, row.order_qty, reduce_only, 1, lacking)

    def _reports(self, batch: ReportBatch, ts_recv: int) -> None:
        for row in rows(batch):
            self.reports.append(row)
            if row["kind"] == facts.IN_DOUBT:
                self.ask(row["cid"])
            elif row["kind"] == facts.REPLY and row["status"] in (facts.NEW, facts.PARTIALLY_FILLED):
                # Its end is told on the private stream alone, which may be deaf: it is asked for if it is not heard.
                asyncio.get_running_loop().call_later(
                    self.contract.order_ack_timeout_ms / 1000, self._ask_if_unfinished, row["cid"])

    def _ask_if_unfinished(self, one: bytes) -> None:
        if not any(row["status"] in facts.TERMINAL_STATUS for row in self.about(one)):
            self.ask(one)

    # -- what was told, and what is true -------------------------------------------------------------------------------
    def about(self, one: bytes) -> list[dict[str, Any]]:
        return [row for row in self.reports if row["cid"] == one]

    def kinds(self, one: bytes) -> list[int]:
        return [row["kind"] for row in self.about(one)]

    def filled(self, one: bytes) -> int:
        return max((row["cum"] for row in self.about(one)), default=0)

    def truth(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = control(self.at, "GET", path)
        return found

    def trades(self, one: bytes) -> dict[int, int]:
        """Lots by the venue's number of the trade, each once however often it was told."""
        return {row["trade"]: row["last_qty"] for row in self.about(one) if row["kind"] == facts.TRADE}

    def true_order(self, one: bytes) -> list[dict[str, Any]]:
        """Every acceptance under this id, by the exchange's books."""
        return [row for row in self.truth("/truth/orders?limit=100000") if row["clientOrderId"] == one.hex()]

    def held(self, account: int) -> dict[str, int]:
        """What the account holds by the exchange's books: lots of 0.001, signed, by position side."""
        rows = self.truth(f"/truth/positions?account={self.names[account]}")
        return {row["positionSide"]: row["lots"] for row in rows if row["lots"]}

    def lots(self, account: int) -> int:
        """The same, both sides together."""
        return sum(self.held(account).values())

    def faults(self, *rules: dict[str, Any]) -> None:
        control(self.at, "POST", "/faults", list(rules))

    def no_faults(self) -> None:
        control(self.at, "DELETE", "/faults")

    def unit(self) -> int:
        """Lots of ours that are one lot of the exchange's engine (0.001 of the base)."""
        item = self.btc
        return 10**item.qty_decimals * item.contract_div // (item.lot * item.contract_mul * 1_000)

    # -- leaders --------------------------------------------------------------------------------------------------------
    def feed(self, account: dict[str, Any]) -> Any:
        return self.parts.leader_feed(LeaderTerms(0, self.key(account), 1.0, 1.0))


async def until(condition: Callable[[], Any], seconds: float = 12.0) -> Any:
    """The first true answer; AssertionError when there is none in time."""
    end = asyncio.get_running_loop().time() + seconds
    while not (found := condition()):
        assert asyncio.get_running_loop().time() < end, "not in time"
        await asyncio.sleep(0.01)
    return found


@pytest.fixture
async def world(kind: str, exchange: dict[str, Any]) -> AsyncIterator[World]:
    made = World(kind, exchange)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
