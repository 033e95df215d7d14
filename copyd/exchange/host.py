"""The simulated exchange of any dialect, in Python: ports, connections, accounts, faults and clockwork around one engine.

A request becomes ``Work`` (``dialect``), the fault that hits it is drawn, and it is done, told wrongly, late or not at all as
``faults`` says. Whatever the engine did is told at once, in its order, and leaves at the end of the loop's turn: one write per
connection, however many messages.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from copyd._fast import sim_engine as eng
from copyd.errors import UsageError
from copyd.exchange.base import Exchange
from copyd.exchange.dialect import FUTURES, Answer, Dialect, Market, Owner, Request, Terms, Work
from copyd.exchange.dialect import Conn as DialectConn
from copyd.exchange.faults import DEAD, Rule
from copyd.exchange.makers import STEP_MS
from copyd.exchange.model import Instrument
from copyd.exchange.websocket import CLOSING, OPEN, WebSocket, accepted, refusal, wants_websocket
from copyd.exchange.windows import Windows

#: Dialects with a module of their name beside this one.
DIALECTS = ("binance_spot", "okx", "okx_spot", "bybit", "bybit_spot", "bitget", "bitget_spot")
SILENCE_S = 60.0
REORDER_MS_MIN = 200
PONGS_MISSED = 3.34
#: Bytes a slow reader may leave unread before its connection is cut.
MAX_PENDING = 64 << 20
FAILED = Answer(b'{"error":"the exchange failed"}', 500)


class Options(msgspec.Struct, frozen=True):
    """How one exchange is run. Ports 0 = any free one; lives in seconds, 0 = as the dialect says."""

    host: str = "127.0.0.1"
    port: int = 0
    ws_port: int = 0
    control_port: int = 0
    seed: int = 1
    lift: frozenset[str] = frozenset()
    session_s: float = 0.0
    ping_s: float = 0.0
    idle_s: float = 0.0
    makers: bool = True
    maker_ms: int = STEP_MS
    funding_rate_ppm: int = 100  # 0.01 %


def dialect_of(name: str) -> Callable[[Any], Dialect]:
    """The class of a dialect, imported now. UsageError: there is none of that name."""
    if name not in DIALECTS:
        raise UsageError(f"no such dialect: {name} (there are {', '.join(DIALECTS)})")
    found: Callable[[Any], Dialect] = importlib.import_module(f"copyd.exchange.{name}").Dialect
    return found


class Conn(WebSocket):
    """A WebSocket connection of a client."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host
        self.headers: dict[str, str] = {}
        self.ip = ""
        self.heard_ns = self.sent_ns = 0
        self.state: Any = None
        self.owner: Owner | None = None
        self.seen: dict[int, Owner] = {}  # accounts that have asked or were told something on it
        self.held: list[bytes] = []  # events that the next one overtakes

    @property
    def owners(self) -> list[Owner]:
        """Whose it is: nobody's where it is public, several accounts' at some venues."""
        return list((self.seen if self.owner is None else {**self.seen, self.owner.account: self.owner}).values())

    def clock_ns(self) -> int:
        return self.host.now_ns()

    def let_in(self, method: str, headers: dict[str, str]) -> tuple[bytes, bool]:
        self.headers, self.ip, self.heard_ns = headers, self.peer, self.opened_ns
        return self.host.let_in(self, method)

    def opened(self) -> None:
        self.host.conn_opened(self)

    def data_received(self, data: bytes) -> None:
        self.heard_ns = self.host.now_ns()
        super().data_received(data)

    def text(self, payload: bytes) -> None:
        self.host.on_text(self, payload)

    def lost(self) -> None:
        self.host.conn_lost(self)

    def touched(self) -> None:
        self.sent_ns = self.host.now_ns()
        self.host.flush_soon(self)

    def read_over(self) -> None:
        """What is queued leaves at the end of the loop's turn."""

    def flush(self) -> None:
        super().flush()
        if self.phase == OPEN and len(self.out) + self.transport.get_write_buffer_size() > MAX_PENDING:
            self.host.cut(self)  # nobody reads

    def later(self, delay_s: float, action: Callable[[], Any]) -> None:
        self.host.call_later(delay_s, action)


class Host(Exchange):
    """Everything of one running exchange."""

    key_kinds = ("hmac",)

    def __init__(
        self,
        options: Options,
        make: Callable[[Any], Dialect],
        instruments: tuple[Instrument, ...] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        """``make``: the dialect's class. ``instruments``: the class's unless given. ``clock``: the time in ns, where it is not
        the machine's."""
        market: Market = getattr(make, "market", FUTURES)
        own: tuple[Instrument, ...] = getattr(make, "instruments", market.instruments)
        super().__init__(
            own if instruments is None else instruments, options.host, options.seed, options.makers,
            options.maker_ms, options.funding_rate_ppm, market.engine, market.makers,
        )  # fmt: skip
        self.options = options
        self._clock = clock or time.time_ns
        self._last_ns = 0
        self.skew_ns = 0
        self.windows = Windows(options.lift)
        self.n_placed = self.n_events_sent = 0
        self._owners: dict[str, Owner] = {}
        self._by_account: dict[int, Owner] = {}
        self._conns: dict[Conn, None] = {}
        self._dirty: list[Conn] = []
        self._flushing = False
        self._pending: list[list[tuple[int, ...]]] = []
        self._told: list[tuple[int, ...]] = []
        self._telling = False
        self._request_faults = self._event_faults = False
        self.dialect = self.make_dialect(make)
        self.windows.check_lift()
        self.terms = self._terms()
        self.started_ns = self.now_ns()
        self.funding_due_ms = self.next_funding_ms(self.started_ns)

    def make_dialect(self, make: Callable[[Any], Dialect]) -> Dialect:
        """The dialect of this exchange."""
        return make(self)

    def _terms(self) -> Terms:
        terms, o = getattr(self.dialect, "terms", Terms()), self.options
        return msgspec.structs.replace(
            terms, life_s=o.session_s or terms.life_s, ping_s=o.ping_s or terms.ping_s, idle_s=o.idle_s or terms.idle_s
        )

    # -- life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> dict[str, int]:
        """Open the ports: {"rest", "ws", "control"}. OSError names the port that is taken."""
        o = self.options
        await self.open_ports((o.port, o.ws_port, o.control_port), self.on_rest, self.connection)
        self.start_clockwork([(1.0, self._second)])
        return self.ports

    async def stop(self) -> None:
        await self.stop_clockwork()
        for conn in list(self._conns):
            conn.close(1001, "going away")
        if self._conns:
            await asyncio.sleep(0.25)
        await self.close_ports()

    def connection(self) -> Conn:
        """The protocol of a new connection."""
        return Conn(self)

    def now_ns(self) -> int:
        self._last_ns = max(self._last_ns, self._clock())
        return self._last_ns

    def server_ns(self) -> int:
        return self.now_ns() + self.skew_ns

    def set_skew(self, skew_ns: int) -> None:
        self.skew_ns = skew_ns

    def _second(self) -> None:
        now = self.now_ns()
        self.settle_when_due(now)
        self._guarded("once a second", lambda: self.dialect.second(now))
        for conn in list(self._conns):
            self._check_life(conn, now)

    def _check_life(self, conn: Conn, now_ns: int) -> None:
        terms = self.terms
        if terms.life_s and now_ns - conn.opened_ns >= terms.life_s * 1e9:
            conn.close(*terms.life_close)
        elif terms.idle_s and now_ns - conn.heard_ns >= terms.idle_s * 1e9:
            conn.close(*terms.idle_close)
        elif terms.ping_s and now_ns - conn.last_pong_ns > terms.ping_s * PONGS_MISSED * 1e9:
            conn.close(1008, "no pong")
        elif terms.ping_s and now_ns - conn.last_ping_ns >= terms.ping_s * 1e9:
            conn.ping()

    def _guarded(self, what: str, action: Callable[[], Any]) -> Any:
        """What ``action`` gives; None when it raised, and the loop's handler heard of it."""
        try:
            return action()
        except Exception as error:
            self.problem(what, error)
            return None

    def problem(self, what: str, error: Exception) -> None:
        """A dialect has raised."""
        context = {"message": f"the dialect {self.dialect.name} failed: {what}", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)

    # -- accounts ---------------------------------------------------------------------------------------------------------

    def issue_key(self, account: int, name: str, kind: str, public_key: str, rights: dict[str, Any]) -> dict[str, str]:
        key, secret, passphrase = self.accounts.words(name)
        owner = Owner(account, name, key, secret.encode(), passphrase, rights)
        self._owners[key] = self._by_account[account] = owner
        return {"api_key": key, "secret": secret, "passphrase": passphrase, "key_type": kind}

    def drop_key(self, api_key: str) -> None:
        self._owners.pop(api_key, None)

    def set_rights(self, account: int, rights: dict[str, Any]) -> None:
        owner = self._by_account.get(account)
        if owner is None:
            raise UsageError(f"{self.accounts.name(account)!r} has no key")
        owner.rights = rights

    def owner(self, api_key: str) -> Owner | None:
        return self._owners.get(api_key)

    def owner_of(self, account: int) -> Owner | None:
        return self._by_account.get(account)

    def refused(self, owner: Owner | None, method: str, symbol: str, client_id: str, code: int, message: str) -> None:
        self.keep_refusal(owner.name if owner is not None else "", symbol, method, client_id, code, message)

    # -- connections ------------------------------------------------------------------------------------------------------

    def let_in(self, conn: Conn, method: str) -> tuple[bytes, bool]:
        """The answer to an upgrade request, and whether it was accepted."""
        if not wants_websocket(method, conn.headers):
            return refusal(400, b'{"error":"this port speaks WebSocket"}'), False
        self.connects += 1
        if not self._guarded(f"accepting {conn.path}", lambda: self.dialect.accepts(conn)):
            return refusal(404, b'{"error":"no such path"}'), False
        return accepted(conn.headers), True

    def conn_opened(self, conn: Conn) -> None:
        self._conns[conn] = None
        self._guarded(f"opening {conn.path}", lambda: self.dialect.opened(conn))

    def conn_lost(self, conn: Conn) -> None:
        if conn in self._conns:
            del self._conns[conn]
            self._guarded(f"losing {conn.path}", lambda: self.dialect.lost(conn))

    def conns(self) -> list[DialectConn]:
        return [conn for conn in self._conns if conn.is_open]

    def cut(self, conn: Conn) -> None:
        """Cut a connection; the log says when, which address, and whose accounts it carried."""
        for name in [owner.name for owner in conn.owners] or [""]:
            self.faults.note(self.now_ns(), "cut", name, conn.path.partition("?")[0])
        conn.phase = CLOSING  # what came in one piece with this is not read any more
        conn.abort()

    def disconnect(self, kind: str, stream: str, account: int | None, pick: int | None) -> int:
        """``kind``: "all", or a part of the address; ``account``: whose they are. Streams have no names here."""
        if stream:
            raise UsageError("streams have no names at this exchange; say kind (a part of the address) or account")
        found = [
            conn
            for conn in self._conns
            if (kind == "all" or kind in conn.path)
            and (account is None or any(owner.account == account for owner in conn.owners))
        ]
        if found and pick is not None:
            found = [found[pick % len(found)]]
        for conn in found:
            self.cut(conn)
        return len(found)

    def flush_soon(self, conn: Conn) -> None:
        """Flush at the end of the loop's turn."""
        self._dirty.append(conn)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        self._flushing = False
        conns, self._dirty = self._dirty, []
        for conn in conns:
            conn.flush()

    # -- what the engine did ----------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Tell it, in order: what a dialect changes while it is told of a change is told after it.

        A call that the engine refuses may leave the events of the one before: what was told is not told again.
        """
        events = self.engine.event_list() if self.engine.n_events else []
        if not events or events == self._told:
            return
        self._told = events
        self._pending.append(events)
        if self._telling:
            return
        self._telling = True
        try:
            while self._pending:
                self._tell(self._pending.pop(0))
        finally:
            self._telling = False

    def _tell(self, events: list[tuple[int, ...]]) -> None:
        self.n_placed += sum(1 for event in events if event[0] == eng.EV_NEW)
        self._guarded("telling events", lambda: self.dialect.events(events))

    def publish(self, conn: DialectConn, owner: Owner, event: str, client_id: str, text: bytes) -> None:
        """Send an account's event, or what a rule makes of it."""
        assert isinstance(conn, Conn)
        if not conn.is_open:
            return
        conn.seen[owner.account] = owner
        rule = self.faults.event(owner.name, event, client_id) if self._event_faults else None
        if rule is None:
            self._send_event(conn, text)
        else:
            self.faults.note(self.now_ns(), rule.action, owner.name, event, client_id, rule.delay_ms)
            if rule.action == "reorder_events":
                conn.held.append(text)
                self.call_later(max(rule.delay_ms, REORDER_MS_MIN) / 1000, lambda: self._release(conn))
                return
            self._disturb_event(conn, text, rule)
        if conn.held:  # the newer event has overtaken the held ones
            self._release(conn)

    def _disturb_event(self, conn: Conn, text: bytes, rule: Rule) -> None:
        if rule.action == "delay_event":
            self.call_later(rule.delay_ms / 1000, lambda: self._send_event(conn, text))
        elif rule.action == "duplicate_event":
            self._send_event(conn, text)
            self._send_event(conn, text)

    def _send_event(self, conn: Conn, text: bytes) -> None:
        self.n_events_sent += 1
        conn.send(text)

    def _release(self, conn: Conn) -> None:
        held, conn.held = conn.held, []
        for text in held:
            self._send_event(conn, text)

    # -- requests: WebSocket ----------------------------------------------------------------------------------------------

    def faults_changed(self) -> None:
        self._request_faults, self._event_faults = self.faults.for_requests, self.faults.for_events

    def fault_of(self, work: Work) -> Rule | None:
        """The fault of a request, logged."""
        if not self._request_faults or work.owner is None:
            return None
        rule = self.faults.request(work.owner.name, work.symbol, work.method, work.client_id)
        if rule is not None:
            self.faults.note(self.now_ns(), rule.action, work.owner.name, work.method, work.client_id, rule.delay_ms)
        return rule

    def on_text(self, conn: Conn, text: bytes) -> None:
        """A client's message."""
        try:
            work = self.dialect.text(conn, text)
            if work is None:
                return
            if work.owner is not None:
                conn.seen[work.owner.account] = work.owner
            rule = self.fault_of(work)
            if rule is None:
                self.answer(conn, work.run())
            else:
                self.disturb(conn, work, rule)
        except Exception as error:
            self.problem(f"a message on {conn.path}", error)
            conn.close(1011, "the exchange failed")

    def disturb(self, conn: Conn, work: Work, rule: Rule) -> None:
        """A request that a rule hits."""
        action, delay_s = rule.action, rule.delay_ms / 1000
        if action == "disconnect":
            self.cut(conn)
        elif action == "delay":
            self.call_later(delay_s, lambda: self._do_late(conn, work))
        elif action not in DEAD:
            self._disturb_live(conn, work, action, rule.delay_ms)
        elif action != "drop_request":
            self.answer(conn, work.unknown if action == "error_dead" else getattr(work, action))

    def _disturb_live(self, conn: Conn, work: Work, action: str, delay_ms: int) -> None:
        if action == "stale_read" and work.stale is not None:
            self.answer(conn, work.stale(delay_ms))
            return
        answer = work.run()
        if action == "delay_reply":
            self.call_later(delay_ms / 1000, lambda: self.answer(conn, answer))
        elif action == "error_live":
            self.answer(conn, work.unknown)
        elif action == "disconnect_live":
            self.cut(conn)
        elif action == "stall":
            conn.stall(True)
            self.answer(conn, answer)
            self.call_later(delay_ms / 1000, lambda: conn.stall(False))
        elif action != "drop_reply":
            self.answer(conn, answer)

    def answer(self, conn: Conn, text: bytes) -> None:
        """Send an answer, where there is one."""
        if text:
            conn.send(text)

    def _do_late(self, conn: Conn, work: Work) -> None:
        self.answer(conn, self._guarded(f"a late {work.method}", work.run))

    # -- requests: REST -----------------------------------------------------------------------------------------------------

    async def on_rest(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        path, _, query = request.raw_path.partition("?")
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Request(request.method, path, query, headers, body, request.remote or "", self.server_ns())
        work = self._guarded(f"{request.method} {path}", lambda: self.dialect.rest(asked))
        if work is None:
            return _response(FAILED)
        rule = self.fault_of(work)
        if rule is not None:
            if rule.action == "delay":
                await asyncio.sleep(rule.delay_ms / 1000)
            elif rule.action in DEAD:
                return await self._dead_rest(request, work, rule.action)
        answer = self._guarded(f"{request.method} {path}", lambda: _do(work, rule)) or FAILED
        self.flush()
        return _response(answer) if rule is None else await self._told_late(request, work, rule, answer)

    async def _dead_rest(self, request: web.BaseRequest, work: Work, action: str) -> web.StreamResponse:
        """The answer to a request that is not done."""
        if action == "drop_request":
            await asyncio.sleep(SILENCE_S)
        if action in ("drop_request", "disconnect"):
            return _cut(request)
        return _response(work.unknown if action == "error_dead" else getattr(work, action))

    async def _told_late(self, request: web.BaseRequest, work: Work, rule: Rule, answer: Answer) -> web.StreamResponse:
        """The answer to a request that was done and is told of otherwise."""
        if rule.action in ("delay_reply", "stall"):
            await asyncio.sleep(rule.delay_ms / 1000)
        elif rule.action == "error_live":
            return _response(work.unknown)
        elif rule.action in ("drop_reply", "disconnect_live"):
            if rule.action == "drop_reply":
                await asyncio.sleep(SILENCE_S)
            return _cut(request)
        return _response(answer)

    # -- limits and the truth -----------------------------------------------------------------------------------------------

    def set_limits(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """``limit``: the name of a window; ``count``: how many from now on."""
        self.windows.set(str(wanted["limit"]), int(wanted["count"]))
        return {name: window.limit for name, window in self.windows.defined.items()}

    def listed(self, index: int) -> tuple[str, int]:
        return self.dialect.listed(index) if hasattr(self.dialect, "listed") else super().listed(index)

    def execution_name(self, index: int, trade_id: int, account: int) -> str:
        if hasattr(self.dialect, "execution_name"):
            return self.dialect.execution_name(index, trade_id, account)
        return super().execution_name(index, trade_id, account)

    def stats(self) -> dict[str, Any]:
        return {
            "dialect": self.dialect.name,
            "limits_lifted": sorted(self.windows.lifted),
            "limits": {
                name: {"limit": w.limit, "period_ms": w.period_ns // 10**6, "taken": w.taken, "refused": w.refused}
                for name, w in self.windows.defined.items()
            },
            "orders_accepted": self.n_placed,
            "events_sent": self.n_events_sent,
            "connections": len(self._conns),
        }


def _do(work: Work, rule: Rule | None) -> Any:
    """The answer, or a stale one."""
    if rule is not None and rule.action == "stale_read" and work.stale is not None:
        return work.stale(rule.delay_ms)
    return work.run()


def _response(answer: Answer) -> web.Response:
    headers = {"Content-Type": "application/json", **answer.headers}
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _cut(request: web.BaseRequest) -> web.Response:
    """The connection goes without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)
