"""The simulated exchange on virtual time, and what goes wrong inside it.

Engine, dialect, streams, limits, makers and the handling of a disturbed request are the exchange's own; which request,
event or read is disturbed is drawn, each under its number in the catalogue of faults.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from copyd.exchange.binance_usdm import Call, Dialect
from copyd.exchange.faults import Rule
from copyd.exchange.limits import Limits, TooMany
from copyd.exchange.model import INSTRUMENTS
from copyd.exchange.server import ExchangeServer, Options
from copyd.sim.draws import Draws
from copyd.sim.wire import spoil
from copyd.sim.wire.inhabited import MS_NS, READ_LAG_MS, DrawnFaults, Inhabited, PastEngine
from copyd.sim.wire.pywire import Conn, PyWire

TIMEOUT_503 = b'{"code":-1007,"msg":"Timeout waiting for response from backend server. Execution status unknown."}'
UNEXPECTED_503 = b'{"code":-1006,"msg":"An unexpected response was received from the message bus."}'
TWICE_400 = b'{"code":-4116,"msg":"ClientOrderId is duplicated."}'
STAMP_400 = b'{"code":-1021,"msg":"Timestamp for this request is outside of the recvWindow."}'
#: Refusals that are faults of their own when they happen.
REFUSALS = {-2019: "O15", -2022: "O16", -2013: "O04", -5028: "O35", -2015: "A10"}


class OrderedConns(dict[Conn, None]):
    """The set of open connections, in order of opening."""

    def add(self, conn: Conn) -> None:
        self[conn] = None

    def discard(self, conn: Conn) -> None:
        self.pop(conn, None)


class DrawnLimits(Limits):
    """The address's limits, with refusals out of the blue and bans."""

    def __init__(self, draws: Draws) -> None:
        super().__init__(frozenset({"request_weight", "orders", "connections", "messages"}))
        self.draws = draws
        self._until_ns = 0
        self._status = 429

    def charge(self, ip: str, weight: int, now_ns: int) -> TooMany | None:
        super().charge(ip, weight, now_ns)
        if now_ns >= self._until_ns:
            if self.draws.fault("O07/429", 5_000):
                self._status, self._until_ns = 429, now_ns + self.draws.param("O07/429", "ms", 100, 5_000) * MS_NS
            elif self.draws.fault("O08/418", 1_000):
                self._status, self._until_ns = 418, now_ns + self.draws.param("O08/418", "ms", 2_000, 15_000) * MS_NS
            else:
                return None
        words = f"IP({ip}) banned until {self._until_ns // MS_NS}." if self._status == 418 else "Too many requests."
        return TooMany(self._status, words, (self._until_ns - now_ns) // 10**9 + 1)


class LaggingDialect(Dialect):
    """Reads are sometimes served by a replica that is behind."""

    def __init__(self, exchange: Venue) -> None:
        self.venue = exchange
        super().__init__(exchange)

    def _behind(self, name: str, read: Callable[[Call], Any], call: Call) -> Any:
        draws = self.venue.draws
        if not draws.fault(name, 150_000):
            return read(call)
        lag_ms = draws.param(name, "ms", 1, READ_LAG_MS - 50)
        self.engine = PastEngine(  # type: ignore[assignment]
            self.venue.engine, self.venue.history, call.now_ns - lag_ms * MS_NS)
        try:
            return read(call)
        finally:
            self.engine = self.venue.engine

    def order_status(self, call: Call) -> Any:
        answer = self._behind("O27/order", super().order_status, call)
        if self.venue.draws.fault("O30/still_new", 50_000):
            # The replica has seen the acceptance and not yet the execution.
            row = self.venue.engine.order(self.find(call, -2013))
            if row[17] > call.now_ns - (READ_LAG_MS - 50) * MS_NS:
                parts = orjson.loads(answer)
                parts |= {"status": "NEW", "executedQty": "0", "cumQuote": "0", "avgPrice": "0"}
                return orjson.dumps(parts)
        return answer

    def all_orders(self, call: Call) -> Any:
        return self._behind("O27/orders", super().all_orders, call)

    def user_trades(self, call: Call) -> Any:
        return self._behind("L08/trades", super().user_trades, call)

    def position_risk_v3(self, call: Call) -> Any:
        return self._behind("L08/positions", super().position_risk_v3, call)

    def account_v3(self, call: Call) -> Any:
        return self._behind("O27/account", super().account_v3, call)


class Venue(Inhabited, ExchangeServer):
    """One exchange whose clock, luck and wire are the world's."""

    def __init__(self, draws: Draws, clock: Callable[[], int], seed: int, trace: Callable[..., None]) -> None:
        super().__init__(
            Options(seed=seed, makers=True, maker_ms=1000, listen_key_s=45.0, session_s=90.0, ping_s=20.0), INSTRUMENTS[:2])
        self.inhabit(draws, trace)
        self.wire: Any = PyWire(self.engine, self, clock)
        self.wire.limit_10s = self.wire.limit_1m = 0
        self.wire.on_event = self.note
        self.wire.disturbed = self._spoiled
        self.conns: Any = OrderedConns()
        self.limits = DrawnLimits(draws)
        self.dialect = LaggingDialect(self)
        self.faults: DrawnFaults = DrawnFaults(draws, self.role)
        self.wire.event_fault = self.on_event
        self.started_ns = clock()
        self.funding_due_ms = self.next_funding_ms(self.started_ns)

    # -- requests -------------------------------------------------------------------------------------------------------
    def _disturbed(self, conn: Any, number: bytes, key: Any, rule: Rule, work: Any) -> None:
        action: str = rule.action
        self.trace("disturbed", self.accounts.name(key.account) if key else "", (action, rule.delay_ms))
        plain = {"timeout_live": (TIMEOUT_503, 503, True), "unexpected_dead": (UNEXPECTED_503, 503, False),
                 "refused_dead": (STAMP_400, 400, False), "late_copy": (STAMP_400, 400, False),
                 "said_twice": (TWICE_400, 400, True)}.get(action)
        if plain is None:
            super()._disturbed(conn, number, key, rule, work)
            return
        body, status, live = plain
        if live:
            work()
        elif action == "late_copy":
            # A copy held up on the way was executed after the first one was refused for its stamp.
            asyncio.get_running_loop().call_later(rule.delay_ms / 1000, self._copy, work)
        conn.send(b'{"id":%s,"status":%d,"error":%s' % (number, status, body) + self.wire.limits_json(conn, key))

    def _copy(self, work: Callable[[], Any]) -> None:
        work()
        self.wire.flush()

    def note_refusal(self, refused: Any, key: Any, method: str, params: dict[str, str]) -> None:
        if refused.code in REFUSALS:
            self.draws.count(REFUSALS[refused.code])
        super().note_refusal(refused, key, method, params)

    def _spoiled(self, conn: Conn, payload: bytes) -> list[tuple[int, bytes]]:
        where = "api" if conn.is_api else conn.area
        return spoil.spoiled(self.draws, spoil.BINANCE, where, where in ("public", "market"), payload)

    # -- weather --------------------------------------------------------------------------------------------------------
    def cut_one(self, kind: str, hard: bool) -> bool:
        """One connection less, with or without a close frame."""
        found = [conn for conn in self.conns if kind in ("api" if conn.is_api else conn.area, "any")]
        if not found:
            return False
        conn = found[self.draws.draw("venue.cut", len(found))]
        if hard:
            conn.abort()
        else:
            conn.close(1001, "going away")
        return True

    def expire_key(self, account: int) -> None:
        """A listen key ends before its time."""
        key = self.streams.by_account.get(account)
        if key is not None:
            key.expires_ns = 0
            self.streams.expire_keys(self.wire.time_ns())
            self.wire.flush()

    def forbid(self, account: int, on: bool) -> None:
        """Whether the account's key may not trade."""
        for key in self.wire.keys.values():
            if key.account == account:
                key.can_trade = not on
