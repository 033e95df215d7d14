"""The simulated exchange on virtual time, and what goes wrong inside it.

Engine, dialect, streams, limits, makers and the handling of a disturbed request are the exchange's own; which request,
event or read is disturbed is drawn, each under its number in the catalogue of faults.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from copyd._fast import sim_engine as eng
from copyd.exchange.binance_usdm import Call, Dialect
from copyd.exchange.faults import Faults, Rule
from copyd.exchange.limits import Limits, TooMany
from copyd.exchange.model import INSTRUMENTS
from copyd.exchange.server import ExchangeServer, Options
from copyd.exchange.websocket import BINARY, FIRST, LAST, TEXT
from copyd.sim.draws import Draws
from copyd.sim.wire.pywire import Conn, PyWire

MS_NS = 10**6
#: Terms of the venue's contract in these worlds; the faults stay inside them.
ENGINE_DELAY_MS, READ_LAG_MS, GUARD_MS, RECV_WINDOW_MS = 2_000, 1_500, 500, 1_500
TIMEOUT_503 = b'{"code":-1007,"msg":"Timeout waiting for response from backend server. Execution status unknown."}'
UNEXPECTED_503 = b'{"code":-1006,"msg":"An unexpected response was received from the message bus."}'
TWICE_400 = b'{"code":-4116,"msg":"ClientOrderId is duplicated."}'
STAMP_400 = b'{"code":-1021,"msg":"Timestamp for this request is outside of the recvWindow."}'
#: Requests in order of trying: (fault id, ppm, action, least and most ms). Orders first, then everything else.
ORDER_FAULTS: tuple[tuple[str, int, str, int, int], ...] = (
    ("O01/drop_reply", 30_000, "drop_reply", 0, 0),
    ("O02/drop_request", 30_000, "drop_request", 0, 0),
    ("O03/delay_reply", 20_000, "delay_reply", 1_000, 30_000),
    ("L05/fill_first", 60_000, "delay_reply", 1, 400),
    ("O09/error_live", 25_000, "error_live", 0, 0),
    ("O09/error_dead", 25_000, "error_dead", 0, 0),
    ("O09/unavailable", 15_000, "unavailable", 0, 0),
    ("O09/throttled", 15_000, "throttled", 0, 0),
    ("O10/timeout_live", 10_000, "timeout_live", 0, 0),
    ("O10/unexpected_dead", 10_000, "unexpected_dead", 0, 0),
    ("O05/said_twice", 8_000, "said_twice", 0, 0),
    ("O35/late_copy", 10_000, "late_copy", 50, ENGINE_DELAY_MS - 100),
    ("O35/refused_dead", 8_000, "refused_dead", 0, 0),
    ("O35/held_up", 15_000, "delay", 100, RECV_WINDOW_MS + 500),
    ("O21/cut_live", 8_000, "disconnect_live", 0, 0),
    ("O21/cut_dead", 8_000, "disconnect", 0, 0),
    ("O03/stall", 8_000, "stall", 500, 8_000),
)
ASK_FAULTS: tuple[tuple[str, int, str, int, int], ...] = (
    ("O37/no_answer", 20_000, "drop_reply", 0, 0),
    ("O37/late_answer", 20_000, "delay_reply", 100, 12_000),
    ("O37/error", 30_000, "error_dead", 0, 0),
    ("O37/cut", 8_000, "disconnect", 0, 0),
)
REST_FAULTS: tuple[tuple[str, int, str, int, int], ...] = (
    ("O37/rest_no_answer", 10_000, "drop_reply", 0, 0),
    ("O37/rest_error", 30_000, "error_dead", 0, 0),
    ("L09/late_read", 60_000, "delay_reply", 20, 3_000),
    ("O23/cut", 15_000, "disconnect", 0, 0),
    ("O23/cut_live", 10_000, "disconnect_live", 0, 0),
)
#: Refusals that are faults of their own when they happen.
REFUSALS = {-2019: "O15", -2022: "O16", -2013: "O04", -5028: "O35", -2015: "A10"}
EVENT_FAULTS: tuple[tuple[str, int, str, int, int], ...] = (
    ("L01/duplicate", 50_000, "duplicate_event", 0, 0),
    ("L02/reorder", 30_000, "reorder_events", 200, 900),
    ("L02/late", 30_000, "delay_event", 5, 2_500),
    ("L11/lost", 12_000, "drop_event", 0, 0),
)
MISREAD = (
    (b'"X":"FILLED"', b'"X":"FROZEN"'), (b'"x":"TRADE"', b'"x":"REBATE"'), (b'"S":"', b'"S":7,"S2":"'),
    (b'"t":', b'"t":"x","t2":'),
)
ECHOES = ((b'"side":"BUY"', b'"side":"SELL"'), (b'"origQty":"', b'"origQty":"9'))
NUMBERS = (b'"z":"', b'"T":', b'"pa":"', b'"i":')


class OrderedConns(dict[Conn, None]):
    """The set of open connections, in order of opening."""

    def add(self, conn: Conn) -> None:
        self[conn] = None

    def discard(self, conn: Conn) -> None:
        self.pop(conn, None)


class DrawnFaults(Faults):
    """Rules that are drawn when they are asked for."""

    def __init__(self, draws: Draws, name_of: Callable[[str], str]) -> None:
        super().__init__()
        self.draws = draws
        self.name_of = name_of
        #: An account whose requests all wait so long, ms; nobody else's do.
        self.slow: tuple[str, int] = ("", 0)

    @property
    def for_requests(self) -> bool:
        return True

    @property
    def for_events(self) -> bool:
        return True

    def _drawn(self, table: tuple[tuple[str, int, str, int, int], ...], suffix: str = "") -> Any:
        for name, ppm, action, least, most in table:
            name += suffix
            if self.draws.fault(name, ppm):
                rule = Rule("drop_reply")
                rule.action = action  # type: ignore[assignment]  # some are this venue's own
                rule.delay_ms = self.draws.param(name, "ms", least, most) if most else 0
                return rule
        return None

    def request(self, account: str, symbol: str, method: str, client_id: str) -> Rule | None:
        if account == self.slow[0] and not self.draws.healthy:
            return Rule("delay_reply", delay_ms=self.slow[1])
        found: Rule | None = self._drawn(
            ORDER_FAULTS if method == "order.place" else REST_FAULTS if "/" in method else ASK_FAULTS)
        return found

    def event(self, account: str, event: str, client_id: str) -> Rule | None:
        role = self.name_of(account)
        if role == "leader" and self.draws.fault("L03/gap", 8_000):
            return Rule("drop_event")
        found: Rule | None = self._drawn(EVENT_FAULTS, "/" + role)
        return found


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


class PastEngine:
    """The engine as a replica shows it that lags: positions and trades as they were."""

    def __init__(self, venue: Venue, at_ns: int) -> None:
        self.venue, self.at_ns = venue, at_ns

    def __getattr__(self, name: str) -> Any:
        return getattr(self.venue.engine, name)

    def position(self, account: int, symbol: int, side: int) -> Any:
        now = self.venue.engine.position(account, symbol, side)
        for ts_ns, row in reversed(self.venue.history.get((account, symbol, side), [])):
            if ts_ns <= self.at_ns:
                return row
        return (0,) * len(now) if (account, symbol, side) in self.venue.history else now

    def trades_of(
        self, account: int, symbol: int = -1, limit: int = 500, from_index: int = 0, since_ns: int = 0,
        first_id: int = 0,
    ) -> list[tuple[int, ...]]:
        rows = self.venue.engine.trades_of(account, symbol, 1_000_000, from_index, since_ns, first_id)
        return [row for row in rows if row[5] <= self.at_ns][-limit:]

    def find_client(self, account: int, symbol: int, client: bytes, ts_ns: int) -> int:
        return self._seen(self.venue.engine.find_client(account, symbol, client, ts_ns))

    def find_order(self, account: int, symbol: int, order_id: int, ts_ns: int) -> int:
        return self._seen(self.venue.engine.find_order(account, symbol, order_id, ts_ns))

    def orders_of(
        self, account: int, symbol: int = -1, limit: int = 500, before_slot: int = -1, since_ns: int = 0
    ) -> list[int]:
        slots = self.venue.engine.orders_of(account, symbol, 1_000_000, before_slot, since_ns)
        return [slot for slot in slots if self._seen(slot) >= 0][-limit:]

    def _seen(self, slot: int) -> int:
        return slot if slot < 0 or self.venue.engine.order(slot)[16] <= self.at_ns else -2013


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
        self.engine = PastEngine(self.venue, call.now_ns - lag_ms * MS_NS)  # type: ignore[assignment]
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


class Venue(ExchangeServer):
    """One exchange whose clock, luck and wire are the world's."""

    def __init__(self, draws: Draws, clock: Callable[[], int], seed: int, trace: Callable[..., None]) -> None:
        super().__init__(
            Options(seed=seed, makers=True, maker_ms=1000, listen_key_s=45.0, session_s=90.0, ping_s=20.0), INSTRUMENTS[:2])
        self.draws, self.trace = draws, trace
        self.wire: Any = PyWire(self.engine, self, clock)
        self.wire.limit_10s = self.wire.limit_1m = 0
        self.wire.on_event = self._note
        self.wire.disturbed = self._disturbed_text
        self.conns: Any = OrderedConns()
        self.limits = DrawnLimits(draws)
        self.dialect = LaggingDialect(self)
        self.faults: DrawnFaults = DrawnFaults(draws, self.role)
        self.wire.event_fault = self.on_event
        self.started_ns = clock()
        self.funding_due_ms = self.next_funding_ms(self.started_ns)
        #: (account, symbol, side) -> what its position was, from when.
        self.history: dict[tuple[int, int, int], list[tuple[int, Any]]] = {}
        self.roles: dict[str, str] = {}
        self.heard: Callable[[tuple[Any, ...]], None] = lambda event: None

    def role(self, account: str) -> str:
        return self.roles.get(account, "other")

    def add_account(self, name: str, role: str, balance_e8: int, hedge: bool = False) -> tuple[int, str, str]:
        """(index, API key, secret) of a new account."""
        now = self.wire.time_ns()
        account = self.engine.add_account(balance_e8, ts_ns=now)
        self.accounts.register(account, name)
        self.roles[name] = role
        key, secret = self.accounts.issue(account, name)
        self.wire.add_key(key)
        if hedge:
            self.engine.set_position_mode(account, True, now)
        self.wire.drain()
        return account, key.api_key.decode(), secret

    def _note(self, event: tuple[Any, ...]) -> None:
        kind, account, symbol, side = event[0], event[1], event[2], event[5]
        if kind == eng.EV_ACCOUNT and symbol >= 0:
            row = self.engine.position(account, symbol, side)
            self.history.setdefault((account, symbol, side), []).append((event[9], row))
        if self.accounts.name(account) in self.roles:
            self.trace("venue", self.accounts.name(account), event[:1] + event[2:])
            self.heard(event)

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

    # -- frames ---------------------------------------------------------------------------------------------------------
    def _disturbed_text(self, conn: Conn, payload: bytes) -> list[tuple[int, bytes]]:
        """What leaves in place of one text message."""
        draws, where = self.draws, "api" if conn.is_api else conn.area
        if where in ("public", "market"):
            if draws.fault("L17/market", 1_000):
                return list(self._broken("L17/market", payload))
            return [(TEXT, payload)]
        if draws.fault(f"L17/field/{where}", 10_000) and payload[:1] == b"{":
            return [(TEXT, b'{"zz":{"new":[1,"2",null]},' + payload[1:])]
        if b'"result":{"orderId"' in payload and draws.fault("O39/echo", 5_000):
            # Somebody else's order, or another than was asked for, under the right request.
            was, now = ECHOES[draws.param("O39/echo", "what", 0, len(ECHOES) - 1)]
            return [(TEXT, payload.replace(was, now))]
        if draws.fault(f"L17/fragments/{where}", 10_000) and len(payload) > 3:
            cut = draws.param(f"L17/fragments/{where}", "at", 1, len(payload) - 1)
            return [(FIRST, payload[:cut]), (LAST, payload[cut:])]
        if draws.fault(f"L17/extra/{where}", 6_000):
            return [*self._broken(f"L17/extra/{where}", payload), (TEXT, payload)]
        if draws.fault(f"L17/instead/{where}", 4_000):
            return list(self._broken(f"L17/instead/{where}", payload))
        if draws.fault(f"L18/oversized/{where}", 500):
            return [(TEXT, b'{"e":"X","pad":"' + b"x" * (1 << 20) + b'"}'), (TEXT, payload)]
        return [(TEXT, payload)]

    def _broken(self, name: str, payload: bytes) -> Iterator[tuple[int, bytes]]:
        draws = self.draws
        how = draws.param(name, "how", 0, 8)
        if how == 0:
            yield TEXT, payload[: draws.param(name, "cut", 0, len(payload))]
        elif how == 1:
            yield TEXT, b""
        elif how == 2:
            yield TEXT, b'{"e":"GRID_UPDATE","E":1,"unheard":{"of":[[[]]]}}'
        elif how == 3:
            yield TEXT, b"[" * 900 + b"]" * 900
        elif how == 4:
            yield BINARY, payload
        elif how == 5:
            yield TEXT, payload.replace(b":", b";", 1)
        elif how == 6:
            was, now = MISREAD[draws.param(name, "enum", 0, len(MISREAD) - 1)]
            yield TEXT, payload.replace(was, now)
        elif how == 7:
            at = payload.find(NUMBERS[draws.param(name, "number", 0, len(NUMBERS) - 1)])
            yield TEXT, payload if at < 0 else payload[:at] + payload[at:].replace(b":", b":1e-7,\"y\":", 1)
        else:
            yield TEXT, payload.replace(b'"', b'"\xff', 1)

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

    def trade(self, account: int, symbol: int, side: int, qty: int, reduce_only: bool = False, position_side: int = 0,
              client: bytes = b"") -> int:
        """A market order by the account's owner."""
        slot = self.engine.place(
            account, symbol, side, eng.TYPE_MARKET, 0, qty, 0, reduce_only, False, position_side, client, self.wire.time_ns())
        self.wire.drain()
        self.wire.flush()
        return slot

    def equity(self, account: int, amount_e8: int) -> None:
        """A deposit or withdrawal by its owner."""
        self.engine.transfer(account, amount_e8, self.wire.time_ns())
        self.wire.drain()
        self.wire.flush()
