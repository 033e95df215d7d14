"""What every venue of a world has besides its dialect: whose accounts they are, their owners' doings, drawn faults, and an ear
on the engine's events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from copyd._fast import sim_engine as eng
from copyd.exchange.base import Exchange
from copyd.exchange.faults import Faults, Rule
from copyd.sim.draws import Draws

MS_NS = 10**6
#: Terms of the venue's contract in these worlds; the faults stay inside them.
ENGINE_DELAY_MS, READ_LAG_MS, GUARD_MS, RECV_WINDOW_MS = 2_000, 1_500, 500, 1_500
Table = tuple[tuple[str, int, str, int, int], ...]
#: Requests in order of trying: (fault id, ppm, action, least and most ms). Orders first, then everything else.
ORDER_FAULTS: Table = (
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
ASK_FAULTS: Table = (
    ("O37/no_answer", 20_000, "drop_reply", 0, 0),
    ("O37/late_answer", 20_000, "delay_reply", 100, 12_000),
    ("O37/error", 30_000, "error_dead", 0, 0),
    ("O37/cut", 8_000, "disconnect", 0, 0),
)
REST_FAULTS: Table = (
    ("O37/rest_no_answer", 10_000, "drop_reply", 0, 0),
    ("O37/rest_error", 30_000, "error_dead", 0, 0),
    ("L09/late_read", 60_000, "delay_reply", 20, 3_000),
    ("O23/cut", 15_000, "disconnect", 0, 0),
    ("O23/cut_live", 10_000, "disconnect_live", 0, 0),
)
EVENT_FAULTS: Table = (
    ("L01/duplicate", 50_000, "duplicate_event", 0, 0),
    ("L02/reorder", 30_000, "reorder_events", 200, 900),
    ("L02/late", 30_000, "delay_event", 5, 2_500),
    ("L11/lost", 12_000, "drop_event", 0, 0),
)
#: What a placement is called: Binance's word and the others'.
PLACING = ("order.place", "place")


class DrawnFaults(Faults):
    """Rules that are drawn when they are asked for."""

    def __init__(self, draws: Draws, name_of: Callable[[str], str]) -> None:
        super().__init__()
        self.draws = draws
        self.name_of = name_of
        #: An account whose requests all wait so long, ms; nobody else's do.
        self.slow: tuple[str, int] = ("", 0)
        #: What is not drawn for the request in hand: its venue has no words for it.
        self.unsayable: frozenset[str] = frozenset()

    @property
    def for_requests(self) -> bool:
        return True

    @property
    def for_events(self) -> bool:
        return True

    def _drawn(self, table: Table, suffix: str = "") -> Any:
        for name, ppm, action, least, most in table:
            if action in self.unsayable:
                continue
            name += suffix
            if self.draws.fault(name, ppm):
                rule = Rule("drop_reply")
                rule.action = action  # type: ignore[assignment]  # some are these worlds' own
                rule.delay_ms = self.draws.param(name, "ms", least, most) if most else 0
                return rule
        return None

    def request(self, account: str, symbol: str, method: str, client_id: str) -> Rule | None:
        if account == self.slow[0] and not self.draws.healthy:
            return Rule("delay_reply", delay_ms=self.slow[1])
        found: Rule | None = self._drawn(
            ORDER_FAULTS if method in PLACING else REST_FAULTS if "/" in method else ASK_FAULTS)
        return found

    def event(self, account: str, event: str, client_id: str) -> Rule | None:
        role = self.name_of(account)
        if role == "leader" and self.draws.fault("L03/gap", 8_000):
            return Rule("drop_event")
        found: Rule | None = self._drawn(EVENT_FAULTS, "/" + role)
        return found


class PastEngine:
    """The engine as a replica shows it that lags: positions, orders and trades as they were at ``at_ns``.

    ``history``: (account, symbol, side) -> what its position was, from when; on spot its balances, under no symbol.
    ``unfilled``: the replica has seen acceptances and no execution since.
    """

    def __init__(self, engine: Any, history: dict[tuple[int, int, int], list[tuple[int, Any]]], at_ns: int,
                 unfilled: bool = False) -> None:
        self.engine, self.history, self.at_ns, self.unfilled = engine, history, at_ns, unfilled

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def position(self, account: int, symbol: int, side: int) -> Any:
        now = self.engine.position(account, symbol, side)
        for ts_ns, row in reversed(self.history.get((account, symbol, side), [])):
            if ts_ns <= self.at_ns:
                return row
        return (0,) * len(now) if (account, symbol, side) in self.history else now

    def balances(self, account: int) -> list[tuple[str, int, int]]:
        for ts_ns, rows in reversed(self.history.get((account, -1, 0), [])):
            if ts_ns <= self.at_ns:
                return rows
        return [(asset, 0, 0) for asset in self.engine.assets]

    def trades_of(
        self, account: int, symbol: int = -1, limit: int = 500, from_index: int = 0, since_ns: int = 0,
        first_id: int = 0,
    ) -> list[tuple[int, ...]]:
        rows = self.engine.trades_of(account, symbol, 1_000_000, from_index, since_ns, first_id)
        return [row for row in rows if row[5] <= self.at_ns][-limit:]

    def find_client(self, account: int, symbol: int, client: bytes, ts_ns: int) -> int:
        return self._seen(self.engine.find_client(account, symbol, client, ts_ns))

    def find_order(self, account: int, symbol: int, order_id: int, ts_ns: int) -> int:
        return self._seen(self.engine.find_order(account, symbol, order_id, ts_ns))

    def orders_of(
        self, account: int, symbol: int = -1, limit: int = 500, before_slot: int = -1, since_ns: int = 0
    ) -> list[int]:
        slots = self.engine.orders_of(account, symbol, 1_000_000, before_slot, since_ns)
        return [slot for slot in slots if self._seen(slot) >= 0][-limit:]

    def order(self, slot: int) -> Any:
        row = self.engine.order(slot)
        if not self.unfilled or row[17] <= self.at_ns:
            return row
        return (*row[:10], eng.STATUS_NEW, *row[11:14], 0, 0, row[16], row[16])

    def _seen(self, slot: int) -> int:
        return slot if slot < 0 or self.unfilled or self.engine.order(slot)[16] <= self.at_ns else -2013


class Inhabited(Exchange):
    """A venue with a leader, followers and others on it. ``heard``: told of every engine event of theirs, before anybody is."""

    draws: Draws
    trace: Callable[..., None]
    heard: Callable[[tuple[Any, ...]], None]
    roles: dict[str, str]
    #: (account, symbol, side) -> what its position was, from when; (account, -1, 0) -> its balances.
    history: dict[tuple[int, int, int], list[tuple[int, Any]]]
    #: No position sides and nothing to reduce: what is held is sold.
    spot = False

    def inhabit(self, draws: Draws, trace: Callable[..., None]) -> None:
        """Nobody is here yet."""
        self.draws, self.trace = draws, trace
        self.roles, self.history = {}, {}
        self.heard = lambda event: None

    def role(self, account: str) -> str:
        return self.roles.get(account, "other")

    def add_account(self, name: str, role: str, balance_e8: int, hedge: bool = False) -> tuple[int, dict[str, str]]:
        """(index, what its owner is told of the key) of a new account."""
        now = self.now_ns()
        account = self.engine.add_account(balance_e8, ts_ns=now)
        self.accounts.register(account, name)
        self.roles[name] = role
        told = self.issue_key(account, name, "hmac", "", {})
        if hedge:
            self.engine.set_position_mode(account, True, now)
        self.changed()
        return account, told

    def note(self, event: tuple[Any, ...]) -> None:
        """An engine event of an account."""
        engine: Any = self.engine
        kind, account, symbol, side = event[0], event[1], event[2], event[5]
        if kind == eng.EV_ACCOUNT and symbol >= 0:
            row = engine.position(account, symbol, side)
            self.history.setdefault((account, symbol, side), []).append((event[9], row))
        elif kind == eng.EV_ACCOUNT and self.spot:
            self.history.setdefault((account, -1, 0), []).append((event[9], engine.balances(account)))
        if self.spot and kind == eng.EV_TRADE and event[4] > 0 and event[16]:
            self.draws.count("O34")
        if self.accounts.name(account) in self.roles:
            self.trace("venue", self.accounts.name(account), event[:1] + event[2:])
            self.heard(event)

    # -- their doings ---------------------------------------------------------------------------------------------------
    def trade(self, account: int, symbol: int, side: int, qty: int, reduce_only: bool = False, position_side: int = 0,
              client: bytes = b"") -> int:
        """A market order by the account's owner."""
        futures: dict[str, Any] = {"reduce_only": reduce_only, "close_position": False, "position_side": position_side}
        slot = self.engine.place(
            account, symbol, side, eng.TYPE_MARKET, eng.TIF_GTC, qty, 0, client_id=client, ts_ns=self.now_ns(),
            **({} if self.spot else futures))
        self.changed()
        self.flush()
        return slot

    def equity(self, account: int, amount_e8: int) -> None:
        """A deposit or withdrawal by its owner."""
        self.engine.transfer(account, amount_e8, self.now_ns())
        self.changed()
        self.flush()

    def lever(self, account: int, symbol: int, leverage: int) -> None:
        """Another leverage, set by its owner."""
        self.engine.set_leverage(account, symbol, leverage, self.now_ns())
        self.changed()
        self.flush()
