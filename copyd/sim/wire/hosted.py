"""A venue of any dialect on virtual time, and what goes wrong inside it.

Host, dialect, engine, makers and the handling of a disturbed request are the exchange's own; which request, event or read is
disturbed is drawn, each under its number in the catalogue of faults. A read that lags is the same read of an engine as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from copyd._fast.sim_engine import Engine
from copyd.exchange.dialect import Dialect, Owner, Work
from copyd.exchange.faults import Rule
from copyd.exchange.host import Conn, Host, Options
from copyd.exchange.model import Instrument
from copyd.sim.draws import Draws
from copyd.sim.wire import spoil
from copyd.sim.wire.inhabited import MS_NS, READ_LAG_MS, DrawnFaults, Inhabited, PastEngine

SESSION_S = 90.0
#: What is drawn under a name of its own and is one of the host's faults, told in other words.
TOLD_AS = {"timeout_live": "error_live", "unexpected_dead": "error_dead", "said_twice": "error_live", "late_copy": "error_dead",
           "refused_dead": "error_dead"}
#: Refusals of the engine that are faults of their own when they happen.
REFUSALS = {-2019: "O15", -2022: "O16"}


class Replica:
    """The engine as the dialect sees it: what it is, but while a read lags what it was."""

    def __init__(self, engine: Any) -> None:
        self.shown = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shown, name)


class WorldConn(Conn):
    """A connection whose messages are spoiled on their way out."""

    host: HostVenue

    def frames_of(self, payload: bytes) -> list[tuple[int, bytes]]:
        host = self.host
        public = not self.owners
        words = spoil.SPOT if host.spot else spoil.SESSIONS
        return spoil.spoiled(host.draws, words, "public" if public else "private", public, payload)


class HostVenue(Inhabited, Host):
    """One exchange of a dialect whose clock, luck and wire are the world's."""

    def __init__(
        self, draws: Draws, clock: Callable[[], int], seed: int, trace: Callable[..., None], make: Callable[[Any], Dialect],
        instruments: tuple[Instrument, ...] | None = None,
    ) -> None:
        self.inhabit(draws, trace)
        self._revoked: set[str] = set()
        self._refusing_until_ns = self._rejects = 0
        options = Options(seed=seed, maker_ms=1000, session_s=SESSION_S, lift=frozenset({"all"}))
        super().__init__(options, make, instruments, clock)
        self.faults: DrawnFaults = DrawnFaults(draws, self.role)
        self.faults_changed()

    def make_dialect(self, make: Callable[[Any], Dialect]) -> Dialect:
        """The dialect, before an engine that can be made to lag."""
        self.true_engine: Any = self.engine
        self.spot = not isinstance(self.engine, Engine)
        self.replica = Replica(self.engine)
        self.engine = self.replica  # type: ignore[assignment]
        return super().make_dialect(make)

    def connection(self) -> Conn:
        return WorldConn(self)

    # -- what is observed -----------------------------------------------------------------------------------------------
    def _tell(self, events: list[tuple[int, ...]]) -> None:
        for event in events:
            if event[1] >= 0:
                self.note(event)
        super()._tell(events)

    def refused(self, owner: Owner | None, method: str, symbol: str, client_id: str, code: int, message: str) -> None:
        n = self.true_engine.n_rejects()
        if n > self._rejects:
            self._rejects = n
            fault = REFUSALS.get(self.true_engine.rejects_after(n - 2, 1)[0][4])
            if fault is not None:
                self.draws.count(fault)
        super().refused(owner, method, symbol, client_id, code, message)

    # -- requests -------------------------------------------------------------------------------------------------------
    def fault_of(self, work: Work) -> Rule | None:
        if work.owner is None:
            return None
        rule = Rule("throttled") if work.throttled and self._refusing() else self._drawn(work)
        if rule is not None:
            self.trace("disturbed", work.owner.name, (work.method, rule.action, rule.delay_ms))
        return rule

    def _refusing(self) -> bool:
        """Whether the address's or the account's rate is used up, out of the blue."""
        now = self.now_ns()
        if now >= self._refusing_until_ns and self.draws.fault("O07/429", 5_000):
            self._refusing_until_ns = now + self.draws.param("O07/429", "ms", 100, 5_000) * MS_NS
        return now < self._refusing_until_ns

    def _drawn(self, work: Work) -> Rule | None:
        if work.method == "query" or work.method.startswith("GET "):
            self._perhaps_behind(work)
        words = {"said_twice": work.twice, "late_copy": work.late, "refused_dead": work.late}
        self.faults.unsayable = frozenset(action for action, text in words.items() if not text)
        rule = super().fault_of(work)
        action: str = "" if rule is None else rule.action
        if rule is None or action not in TOLD_AS:
            return rule
        if action == "late_copy":
            # A copy held up on the way was executed after the first one was refused for its stamp.
            self.call_later(rule.delay_ms / 1000, partial(self._copy, work.run))
        work.unknown = words.get(action, work.unknown)
        rule.action = TOLD_AS[action]  # type: ignore[assignment]
        return rule

    def _copy(self, run: Callable[[], Any]) -> None:
        run()
        self.flush()

    def _perhaps_behind(self, work: Work) -> None:
        """A read is perhaps served by a replica that lags, or that has seen acceptances and no executions yet."""
        assert work.owner is not None
        draws, name = self.draws, "L08/read" if self.role(work.owner.name) == "leader" else "O27/read"
        if draws.fault(name, 150_000):
            work.run = partial(self._read_behind, work.run, draws.param(name, "ms", 1, READ_LAG_MS - 50), False)
        elif draws.fault("O30/still_new", 50_000):
            work.run = partial(self._read_behind, work.run, READ_LAG_MS - 50, True)

    def _read_behind(self, run: Callable[[], Any], lag_ms: int, unfilled: bool) -> Any:
        self.replica.shown = PastEngine(self.true_engine, self.history, self.now_ns() - lag_ms * MS_NS, unfilled)
        try:
            return run()
        finally:
            self.replica.shown = self.true_engine

    # -- weather --------------------------------------------------------------------------------------------------------
    def cut_one(self, kind: str, hard: bool) -> bool:
        """One connection less, with or without a close frame. ``kind``: "api" or "private", an account's; else a public one."""
        found = [conn for conn in self._conns if bool(conn.owners) == (kind in ("api", "private"))]
        if not found:
            return False
        conn = found[self.draws.draw("venue.cut", len(found))]
        if hard:
            conn.abort()
        else:
            conn.close(1001, "going away")
        return True

    def expire_key(self, account: int) -> None:
        """The venue ends an account's sessions."""
        for conn in list(self._conns):
            if any(owner.account == account for owner in conn.owners):
                conn.close(*self.terms.life_close)

    def forbid(self, account: int, on: bool) -> None:
        """Whether the account's key is revoked: the venue does not know it, and its sessions end."""
        owner = self.owner_of(account)
        assert owner is not None
        if on:
            self.draws.count("A10")
            self._revoked.add(owner.api_key)
            self.expire_key(account)
        else:
            self._revoked.discard(owner.api_key)

    def owner(self, api_key: str) -> Owner | None:
        return None if api_key in self._revoked else super().owner(api_key)
