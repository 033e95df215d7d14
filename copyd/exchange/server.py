"""The simulated exchange: one engine, its accounts, three ports (REST, WebSocket, control), its clockwork.

``ExchangeServer`` is the composition: the compiled wire calls it for whatever is not an order in flight, REST and control
handlers call it for state. Everything runs on one loop, so every change of the engine is ordered.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import orjson
from aiohttp import web

from copyd._fast.sim_engine import Engine
from copyd._fast.sim_wire import Key, Wire, WsConn
from copyd.errors import UsageError
from copyd.exchange import limits as limit_rules
from copyd.exchange.accounts import Book
from copyd.exchange.batch import BatchOptions, BatchServer
from copyd.exchange.binance_usdm import Call, Dialect, Refused, Route, wire_refusal
from copyd.exchange.faults import DEAD, Faults, Rule
from copyd.exchange.limits import Limits
from copyd.exchange.makers import STEP_MS, start_makers
from copyd.exchange.model import INSTRUMENTS, Instrument, fixed
from copyd.exchange.streams import DepthChanges, Streams

WS_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
UNKNOWN_503 = b'{"code":-1000,"msg":"Unknown error, please check your request or try again later."}'
DEAD_503 = {
    "error_dead": UNKNOWN_503,
    "unavailable": b'{"code":-1000,"msg":"Service Unavailable."}',
    "throttled": b'{"code":-1008,"msg":"Request throttled by system-level protection. Reduce-only/close-position orders are '
    b'exempt. Please try again."}',
}
FUNDING_PERIOD_MS = 8 * 3600 * 1000


class Options(msgspec.Struct, frozen=True):
    """How one exchange is run. Ports 0 = any free one."""

    host: str = "127.0.0.1"
    port: int = 0
    ws_port: int = 0
    control_port: int = 0
    seed: int = 1
    lift: frozenset[str] = frozenset()
    listen_key_s: float = 3600.0  # life of a listen key
    session_s: float = 86_400.0  # life of a WebSocket connection
    ping_s: float = 180.0  # server ping; no pong for a bit over three of them (10 min at the default) closes
    makers: bool = True
    maker_ms: int = STEP_MS  # time between two steps of the market makers
    funding_rate_ppm: int = 100  # 0.01 %
    batch: BatchOptions | None = None  # the batch door


class ExchangeServer:
    """Everything of one running exchange."""

    def __init__(self, options: Options, instruments: tuple[Instrument, ...] = INSTRUMENTS) -> None:
        self.options = options
        self.instruments = instruments
        self.engine = Engine(instruments)
        self.wire = Wire(self.engine, self)
        self.limits = Limits(options.lift)
        if "orders" in options.lift:
            self.wire.limit_10s = self.wire.limit_1m = 0
        self.faults = Faults()
        self.accounts = Book(options.seed)
        self.accounts.register(0, "insurance-fund")
        self.dialect = Dialect(self)
        self.streams = Streams(self, options.seed, options.listen_key_s)
        self.depth_changes: list[dict[int, DepthChanges]] = [{} for _ in instruments]
        self.makers = start_makers(self.engine, options.seed) if options.makers else None
        for account in range(1, self.engine.n_accounts):
            self.accounts.register(account, f"maker-{account}")
        self.funding_rate_e8 = options.funding_rate_ppm * 100
        self.funding_log: list[dict[str, Any]] = []
        self.fees: dict[int, tuple[int, int]] = {}
        self.restrictions: dict[int, dict[str, bool]] = {}
        self.reads: list[dict[str, Any]] = []
        self.marked: set[int] = set()
        self.refusals: deque[dict[str, Any]] = deque(maxlen=200_000)
        self.n_refusals = 0
        self.conns: set[WsConn] = set()
        self.connects = 0
        self._countdowns: dict[tuple[int, int], asyncio.TimerHandle] = {}
        self._delayed_events: dict[int, list[tuple[str, bytes]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._runners: list[web.ServerRunner | web.AppRunner] = []
        self._ws_server: asyncio.Server | None = None
        self.batch = BatchServer(self, options.batch) if options.batch is not None else None
        self.ports: dict[str, int] = {}
        self.started_ns = self.wire.time_ns()
        self.funding_due_ms = self.next_funding_ms(self.started_ns)
        self._tick = 0  # of 50 ms

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> dict[str, int]:
        """Open the ports: {"rest", "ws", "control"} and perhaps "batch". OSError names the port that is taken."""
        from copyd.exchange.control import make_control

        loop = asyncio.get_running_loop()
        o = self.options
        rest = web.ServerRunner(web.Server(self.on_rest, access_log=None), shutdown_timeout=0.5)
        await rest.setup()
        self._runners.append(rest)
        self.ports["rest"] = await _listen(rest, o.host, o.port)
        try:
            self._ws_server = await loop.create_server(self.wire.connection, o.host, o.ws_port, backlog=4096)
        except OSError as error:
            raise OSError(error.errno, f"port {o.ws_port} on {o.host} is in use") from None
        self.ports["ws"] = self._ws_server.sockets[0].getsockname()[1]
        control = web.AppRunner(make_control(self), access_log=None, shutdown_timeout=0.5)
        await control.setup()
        self._runners.append(control)
        self.ports["control"] = await _listen(control, "127.0.0.1", o.control_port)
        if self.batch is not None:
            await self.batch.start()
            if self.batch.address is not None:
                self.ports["batch"] = self.batch.address[1]
        clockwork = [(1.0, self._second), (0.05, self._depth_tick)]
        if self.makers is not None:
            self._maker_step()
            clockwork.append((o.maker_ms / 1000, self._maker_step))
        self._tasks = [asyncio.create_task(self._every(period, action)) for period, action in clockwork]
        return self.ports

    async def run_until(self, stop: asyncio.Event) -> None:
        """Wait for ``stop``; a clockwork task that breaks ends the exchange with its exception instead."""
        waiting = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done:
            task.result()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for timer in self._countdowns.values():
            timer.cancel()
        if self.batch is not None:
            await self.batch.stop()
        for conn in list(self.conns):
            conn.close(1001, "going away")
        if self.conns:
            await asyncio.sleep(0.25)
        if self._ws_server is not None:
            self._ws_server.close()
        for runner in self._runners:
            await runner.cleanup()

    def call_later(self, delay_s: float, action: Callable[[], Any]) -> None:
        asyncio.get_running_loop().call_later(delay_s, action)

    async def _every(self, period_s: float, action: Any) -> None:
        """Call ``action`` on a fixed schedule; after a delay the missed turns are skipped, not made up."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + period_s, loop.time())
            await asyncio.sleep(due - loop.time())
            action()
            self.wire.flush()

    def _maker_step(self) -> None:
        assert self.makers is not None
        self.makers.step(self.wire.time_ns())
        self.wire.drain()

    def move_market(self, symbol: int, bps: int | None, px: int | None) -> None:
        """Move the makers' middle by basis points or to a price, and quote there at once."""
        assert self.makers is not None
        if px is not None:
            self.makers.move_to(symbol, px)
        elif bps is not None:
            self.makers.shift(symbol, bps * 100)
        self._maker_step()

    def maker_hash(self) -> str:
        """Hash over everything the makers sent; equal after equally many steps with equal seeds."""
        return f"{self.makers.flow_hash():016x}" if self.makers is not None else ""

    def settle_funding(self, symbol: int, rate_e8: int) -> int:
        """Longs pay shorts now: accounts touched."""
        now = self.wire.time_ns()
        touched = self.engine.apply_funding(symbol, rate_e8, now)
        self.wire.drain()
        spec = self.instruments[symbol]
        self.funding_log.append(
            {
                "symbol": spec.symbol,
                "fundingTime": now // 10**6,
                "fundingRate": fixed(rate_e8, 8),
                "markPrice": fixed(self.engine.mark(symbol) * spec.tick_e8, 8),
            }
        )
        return touched

    def _second(self) -> None:
        now = self.wire.time_ns()
        self.streams.push_marks(now, now // 10**9)
        self.streams.push_tickers(now)
        self.streams.expire_keys(now)
        if now // 10**6 >= self.funding_due_ms:
            self.funding_due_ms = self.next_funding_ms(now)
            for index in range(len(self.instruments)):
                self.settle_funding(index, self.funding_rate_e8)
        for conn in list(self.conns):
            if now - conn.opened_ns >= self.options.session_s * 1e9:
                conn.close(1000, "session lifetime is over")
            elif now - conn.last_pong_ns > self.options.ping_s * 3.34e9:
                conn.close(1008, "no pong")
            elif now - conn.last_ping_ns >= self.options.ping_s * 1e9:
                conn.ping()

    def _depth_tick(self) -> None:
        self._tick += 1
        if self.streams.timed.depth:
            self.streams.push_depth(self.wire.time_ns(), self._tick)

    # -- facts for the dialect ---------------------------------------------------------------------------------------

    def next_funding_ms(self, now_ns: int) -> int:
        return (now_ns // 10**6 // FUNDING_PERIOD_MS + 1) * FUNDING_PERIOD_MS

    def funding_rate_text(self) -> str:
        return fixed(self.funding_rate_e8, 8)

    def funding_history(self, symbol: str | None) -> list[dict[str, Any]]:
        return [row for row in self.funding_log if symbol in (None, "", row["symbol"])]

    def fees_ppm(self, account: int) -> tuple[int, int]:
        return self.fees.get(account, (200, 500))

    def note_read(self, call: Call, equity_e8: int) -> None:
        """Remember the equity served to a marked account, with the exchange's time (for the truth)."""
        if call.account in self.marked:
            self.reads.append(
                {
                    "seq": len(self.reads),
                    "account": self.accounts.name(call.account),
                    "ts": call.now_ns,
                    "equity": fixed(equity_e8, 8),
                }
            )

    def countdown(self, account: int, symbol: int, after_ms: int) -> None:
        """Dead man's switch: cancel the symbol's open orders unless called again in time; 0 switches it off."""
        old = self._countdowns.pop((account, symbol), None)
        if old is not None:
            old.cancel()
        if after_ms > 0:
            loop = asyncio.get_running_loop()
            self._countdowns[(account, symbol)] = loop.call_later(after_ms / 1000, self._count_out, account, symbol)

    def _count_out(self, account: int, symbol: int) -> None:
        self._countdowns.pop((account, symbol), None)
        self.engine.cancel_all(account, symbol, self.wire.time_ns())
        self.wire.drain()
        self.wire.flush()

    def on_refused(
        self, code: int, about: str | None, key: Key | None, method: str, symbol: bytes, client_id: bytes
    ) -> tuple[int, bytes]:
        """Note a refusal of the compiled path for the truth: (status, JSON error) for the answer."""
        name = symbol.decode("latin-1")
        index = self.dialect.symbols.get(name, -1)
        spec = self.instruments[index] if index >= 0 else None
        refused = wire_refusal(code, about, spec, self.engine.reject_value)
        params = {"symbol": name, "newClientOrderId": client_id.decode("latin-1")}
        self.note_refusal(refused, key, method, params)
        return refused.status, refused.body()

    def note_refusal(self, refused: Refused, key: Key | None, method: str, params: dict[str, str]) -> None:
        self.refusals.append(
            {
                "seq": self.n_refusals,
                "ts": self.wire.time_ns(),
                "account": self.accounts.name(key.account) if key is not None else "",
                "symbol": params.get("symbol", ""),
                "method": method,
                "clientOrderId": params.get("newClientOrderId") or params.get("origClientOrderId") or "",
                "code": refused.code,
                "msg": refused.message,
            }
        )
        self.n_refusals += 1

    # -- faults ------------------------------------------------------------------------------------------------------

    def faults_changed(self) -> None:
        """Take the compiled fast path out of the way while rules exist."""
        self.wire.slow = self.faults.for_requests
        self.wire.event_fault = self.on_event if self.faults.for_events else None

    def _fault_of(self, key: Key, params: dict[str, str], method: str, client_id: str) -> Rule | None:
        """The fault of a request, logged."""
        account = self.accounts.name(key.account)
        rule = self.faults.request(account, params.get("symbol", ""), method, client_id)
        if rule is not None:
            self.faults.note(self.wire.time_ns(), rule.action, account, method, client_id, rule.delay_ms)
        return rule

    def _stale(self, answer: bytes | Refused, lag_ms: int) -> bytes | Refused:
        """A query's answer by a reader that is ``lag_ms`` behind the engine: what is younger is not there yet."""
        if isinstance(answer, Refused):
            return answer
        since = self.wire.time_ns() // 10**6 - lag_ms
        found = orjson.loads(answer)
        if isinstance(found, dict):
            return Refused(-2013) if found.get("time", 0) > since else answer
        return orjson.dumps([row for row in found if not isinstance(row, dict) or row.get("time", 0) <= since])

    def cut(self, conn: WsConn) -> None:
        """Cut a connection; the log says when, which kind, and which accounts' streams it carried."""
        kind = "api" if conn.is_api else "streams"
        owners = [self.streams.keys[name].account for name in conn.streams if name in self.streams.keys]
        now = self.wire.time_ns()
        for name in [self.accounts.name(account) for account in owners] or [""]:
            self.faults.note(now, "cut", name, kind)
        conn.abort()

    def on_event(self, account: int, name: str, client_id: bytes, payload: bytes) -> list[bytes]:
        """What to send now in place of one user event."""
        owner, client = self.accounts.name(account), client_id.decode()
        rule = self.faults.event(owner, name, client)
        if rule is not None:
            self.faults.note(self.wire.time_ns(), rule.action, owner, name, client, rule.delay_ms)
        held = self._delayed_events.pop(account, [])
        loop = asyncio.get_running_loop()
        if rule is not None and rule.action == "reorder_events":
            self._delayed_events[account] = [*held, (name, payload)]
            loop.call_later(max(rule.delay_ms, 200) / 1000, self._release_events, account)
            return []
        for old_name, old in held:  # the newer event overtakes the held ones
            loop.call_soon(self._late_event, account, old_name, old)
        if rule is None:
            return [payload]
        if rule.action == "duplicate_event":
            return [payload, payload]
        if rule.action == "delay_event":
            loop.call_later(rule.delay_ms / 1000, self._late_event, account, name, payload)
        return []

    def _late_event(self, account: int, name: str, payload: bytes) -> None:
        self.wire.publish_user(account, name.encode(), payload)
        self.wire.flush()

    def _release_events(self, account: int) -> None:
        for name, payload in self._delayed_events.pop(account, []):
            self._late_event(account, name, payload)

    # -- WebSocket: handshake ----------------------------------------------------------------------------------------

    def on_open(self, conn: WsConn, method: str, target: str, headers: dict[str, str]) -> tuple[bytes, bool]:
        """The answer to an upgrade request, and whether it was accepted."""
        key = headers.get("sec-websocket-key", "")
        if method != "GET" or "websocket" not in headers.get("upgrade", "").lower() or not key:
            return _http(400, b'{"code":-1000,"msg":"this port speaks WebSocket"}'), False
        now = self.wire.time_ns()
        self.connects += 1
        if not self.limits.connect(conn.peer, now):
            return _http(429, b'{"code":-1003,"msg":"Too many connection attempts; 300 per 5 minutes per IP."}'), False
        url = urlsplit(target)
        query = parse_qsl(url.query)
        conn.meter = self.limits.meter(conn.peer)
        parts = [part for part in url.path.split("/") if part]
        if parts and parts[0] in ("ws-fapi", "ws-api"):
            refused = self.limits.charge(conn.peer, limit_rules.WS_HANDSHAKE_WEIGHT, now)
            if refused is not None:
                return _http(refused.status, Refused(-1003, refused.message).body()), False
            conn.is_api = True
            conn.rate_limits = ("returnRateLimits", "false") not in query
        else:
            conn.area = parts.pop(0) if parts and parts[0] in ("public", "market", "private") else ""
            if not parts or parts[0] not in ("ws", "stream"):
                return _http(404, b'{"code":-1000,"msg":"no such path"}'), False
            conn.combined = parts[0] == "stream"
        accept = base64.b64encode(hashlib.sha1(key.encode() + WS_MAGIC).digest())
        answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept
            + b"\r\n\r\n"
        )
        return answer, True

    def on_opened(self, conn: WsConn) -> None:
        """Streams named by the address itself."""
        self.conns.add(conn)
        if conn.is_api:
            return
        url = urlsplit(conn.path)
        query = parse_qsl(url.query)
        events = next((frozenset(v.split("/")) for k, v in query if k == "events"), None)
        names = [name for k, v in query if k in ("streams", "listenKey") for name in v.split("/") if name]
        tail = [part for part in url.path.split("/") if part]
        names += tail[tail.index("ws") + 1 :] if "ws" in tail else tail[tail.index("stream") + 1 :]
        for name in names:
            self.streams.subscribe(conn, name, events)

    def on_lost(self, conn: WsConn) -> None:
        self.conns.discard(conn)
        self.streams.drop(conn)

    # -- WebSocket: streams ------------------------------------------------------------------------------------------

    def on_stream_text(self, conn: WsConn, payload: bytes) -> None:
        """SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS and the property calls."""
        second = self.wire.time_ns() // 10**9
        if second != conn.message_window:
            conn.message_window, conn.message_count = second, 0
        conn.message_count += 1
        if not self.limits.message(second, conn.message_count):
            conn.close(1008, "Too many requests")
            return
        try:
            request = orjson.loads(payload)
        except orjson.JSONDecodeError:
            request = None
        if not isinstance(request, dict):
            conn.send(b'{"error":{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}}')
            return
        number, method, params = request.get("id"), request.get("method"), request.get("params") or []
        answer: Any = None
        if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
            if not isinstance(params, list) or not all(isinstance(p, str) for p in params):
                answer = {"error": {"code": 2, "msg": "Invalid request: params must be a list of streams"}, "id": number}
            elif method == "UNSUBSCRIBE":
                for name in params:
                    self.streams.unsubscribe(conn, name)
            elif (
                "streams" not in self.limits.lifted and len(set(conn.streams) | set(params)) > limit_rules.STREAMS_PER_CONNECTION
            ):
                answer = {"error": {"code": 2, "msg": "Invalid request: too many streams on this connection"}, "id": number}
            else:
                for name in params:
                    self.streams.subscribe(conn, name)  # an unknown name is acknowledged and stays silent
        elif method == "LIST_SUBSCRIPTIONS":
            answer = {"result": list(conn.streams), "id": number}
        elif method == "SET_PROPERTY":
            conn.combined = bool(params[1]) if len(params) == 2 and params[0] == "combined" else conn.combined
        elif method == "GET_PROPERTY":
            answer = {"result": conn.combined, "id": number}
        else:
            answer = {"error": {"code": 2, "msg": f"Invalid request: unknown method {method!r}"}, "id": number}
        conn.send(orjson.dumps(answer if answer is not None else {"result": None, "id": number}))

    # -- WebSocket: API ----------------------------------------------------------------------------------------------

    def on_api_text(self, conn: WsConn, payload: bytes) -> None:
        """Any request but an undisturbed ``order.place``."""
        opened = self.wire.open_request(conn, payload)
        if opened is None:
            opened = self._open_loose(conn, payload)
            if opened is None:
                return
        number, method, params, key, code = opened
        if method.startswith("session."):
            self._answer(conn, number, key, self._run(lambda: self._session(conn, method, params, key, code)))
            return
        route = self.dialect.methods.get(method)
        if route is None:
            self._answer(conn, number, key, Refused(-1020, f"Unknown method '{method}'."))
            return
        client_id = params.get("newClientOrderId") or params.get("origClientOrderId") or ""
        rule: Rule | None = None
        if self.wire.slow and key is not None:
            rule = self._fault_of(key, params, method, client_id)

        def work() -> bytes | Refused:
            answer = self._run(lambda: self._call(conn, route, method, params, key, code))
            return answer if rule is None or rule.action != "stale_read" else self._stale(answer, rule.delay_ms)

        if rule is None:
            self._answer(conn, number, key, work())
        else:
            self._disturbed(conn, number, key, rule, work)

    def _open_loose(self, conn: WsConn, payload: bytes) -> tuple[bytes, str, dict[str, str], Key | None, int] | None:
        """A request with escapes, nulls or odd types, read by a JSON decoder; None when it was answered as invalid."""
        try:
            request = orjson.loads(payload)
        except orjson.JSONDecodeError:
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            self._answer(conn, b"null", None, Refused(-1135))
            return None
        raw = request.get("params") or {}
        number = orjson.dumps(request.get("id"))
        if not isinstance(raw, dict) or any(isinstance(v, list | dict) for v in raw.values()):
            self._answer(conn, number, None, Refused(-1135))
            return None
        params = {k: _plain(v) for k, v in raw.items() if v is not None}
        key, code = self.wire.open_params(conn, params)
        return number, request["method"], params, key, code

    def _call(self, conn: WsConn, route: Any, method: str, params: dict[str, str], key: Key | None, code: int) -> Any:
        now = self.wire.time_ns()
        refused = self.limits.charge(conn.peer, route.weigh(params), now)
        if refused is not None:
            raise Refused(-1003, refused.message, refused.status)
        if route.access == "keyed" and key is None:
            key = self.wire.keys.get(params.get("apiKey", "").encode())
            if key is None:
                raise Refused(-2015 if params.get("apiKey") else -2014)
        elif route.access == "signed" and (key is None or code < 0):
            raise _auth_refusal(code or -2014, params)
        try:
            return route.handler(Call(params, key, now, conn.peer))
        except Refused as error:
            self.note_refusal(error, key, method, params)
            raise

    def _session(self, conn: WsConn, method: str, params: dict[str, str], key: Key | None, code: int) -> Any:
        now_ms = self.wire.server_ns() // 10**6
        if method == "session.logon":
            if key is None or code < 0 or not params.get("signature"):
                raise _auth_refusal(code or -1102, params)
            if key.kind != "ed25519":
                raise Refused(-4056, "Only Ed25519 keys may log on.", 401)
            conn.session, conn.session_info = key, now_ms
        elif method == "session.logout":
            conn.session = conn.session_info = None
        elif method != "session.status":
            raise Refused(-1020, f"Unknown method '{method}'.")
        session: Key | None = conn.session
        return {
            "apiKey": session.api_key.decode() if session is not None else None,
            "authorizedSince": conn.session_info,
            "connectedSince": conn.opened_ns // 10**6,
            "returnRateLimits": conn.rate_limits,
            "serverTime": now_ms,
        }

    def _run(self, work: Any) -> bytes | Refused:
        try:
            value = work()
        except Refused as refused:
            return refused
        return value if isinstance(value, bytes) else orjson.dumps(value)

    def _answer(self, conn: WsConn, number: bytes, key: Key | None, answer: bytes | Refused) -> None:
        if isinstance(answer, Refused):
            head = b'{"id":%s,"status":%d,"error":%s' % (number, answer.status, answer.body())
        else:
            head = b'{"id":%s,"status":200,"result":%s' % (number, answer)
        conn.send(head + self.wire.limits_json(conn, key))

    def _disturbed(self, conn: WsConn, number: bytes, key: Key | None, rule: Rule, work: Any) -> None:
        loop = asyncio.get_running_loop()
        action = rule.action
        if action == "disconnect":
            self.cut(conn)
        elif action in DEAD_503:
            body = DEAD_503[action]
            conn.send(b'{"id":%s,"status":503,"error":%s' % (number, body) + self.wire.limits_json(conn, key))
        elif action == "delay":
            loop.call_later(rule.delay_ms / 1000, self._later, conn, number, key, work)
        elif action not in DEAD:
            answer = work()
            if action == "delay_reply":
                loop.call_later(rule.delay_ms / 1000, self._later, conn, number, key, lambda: answer)
            elif action == "error_live":
                conn.send(b'{"id":%s,"status":503,"error":%s' % (number, UNKNOWN_503) + self.wire.limits_json(conn, key))
            elif action == "disconnect_live":
                self.cut(conn)
            elif action == "stale_read":
                self._answer(conn, number, key, answer)
            elif action == "stall":
                conn.stall(True)
                self._answer(conn, number, key, answer)
                loop.call_later(rule.delay_ms / 1000, conn.stall, False)

    def _later(self, conn: WsConn, number: bytes, key: Key | None, work: Any) -> None:
        self._answer(conn, number, key, work())
        self.wire.flush()

    # -- REST --------------------------------------------------------------------------------------------------------

    async def on_rest(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        path, _, query = request.raw_path.partition("?")
        ip = request.remote or ""
        now = self.wire.time_ns()
        headers = {"Content-Type": "application/json"}
        key: Key | None = None
        rule: Rule | None = None
        name = f"{request.method} {path}"
        params: dict[str, str] = {}
        status = 200
        route: Route | None = None
        try:
            route = self.dialect.routes.get(name)
            if route is None:
                raise Refused(-5000, f"Path {path}, Method {request.method} is invalid", 404)
            params = dict(parse_qsl(query, keep_blank_values=True))
            params.update(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
            over = self.limits.charge(ip, route.weigh(params), now)
            used = self.limits.meter(ip).used
            headers["X-SAPI-USED-IP-WEIGHT-1M" if path.startswith("/sapi") else "X-MBX-USED-WEIGHT-1M"] = str(used)
            if over is not None:
                headers["Retry-After"] = str(over.retry_after)
                raise Refused(-1003, over.message, over.status)
            if route.access != "open":
                key = self._rest_key(request.headers.get("X-MBX-APIKEY", ""))
            if route.access == "signed":
                self._check_signature(key, query, body, params, self.wire.server_ns())
            if self.wire.slow and key is not None:
                client_id = params.get("newClientOrderId") or params.get("origClientOrderId") or ""
                rule = self._fault_of(key, params, route.name or name, client_id)
            if rule is not None:
                if rule.action == "delay":
                    await asyncio.sleep(rule.delay_ms / 1000)
                elif rule.action in DEAD:
                    return await self._dead_rest(request, rule, headers)
            call = Call(params, key, self.wire.time_ns(), ip)
            value = route.handler(call)
            answer = value if isinstance(value, bytes) else orjson.dumps(value)
            if rule is not None and rule.action == "stale_read":
                stale = self._stale(answer, rule.delay_ms)
                if isinstance(stale, Refused):
                    raise stale
                answer = stale
        except Refused as refused:
            status, answer = refused.status, refused.body()
            self.note_refusal(refused, key, route.name or name if route is not None else name, params)
        finally:
            self.wire.flush()
        if key is not None:
            count_10s, count_1m = key.meter.counts(self.wire.time_ns())
            headers["X-MBX-ORDER-COUNT-10S"], headers["X-MBX-ORDER-COUNT-1M"] = str(count_10s), str(count_1m)
        if rule is not None:
            if rule.action in ("delay_reply", "stall"):
                await asyncio.sleep(rule.delay_ms / 1000)
            elif rule.action == "error_live":
                status, answer = 503, UNKNOWN_503
            elif rule.action == "drop_reply":
                return await self._silence(request)
            elif rule.action == "disconnect_live":
                self._cut(request)
        return web.Response(status=status, body=answer, headers=headers)

    async def _dead_rest(self, request: web.BaseRequest, rule: Rule, headers: dict[str, str]) -> web.StreamResponse:
        if rule.action in DEAD_503:
            return web.Response(status=503, body=DEAD_503[rule.action], headers=headers)
        if rule.action == "drop_request":
            return await self._silence(request)
        self._cut(request)
        return web.Response(status=503)

    async def _silence(self, request: web.BaseRequest) -> web.StreamResponse:
        """Never answer; the connection goes when the client gives up, or after a minute."""
        await asyncio.sleep(60)
        self._cut(request)
        return web.Response(status=503)

    def _cut(self, request: web.BaseRequest) -> None:
        if request.transport is not None:
            request.transport.abort()

    def _rest_key(self, text: str) -> Key:
        key: Key | None = self.wire.keys.get(text.encode())
        if key is None:
            raise Refused(-2015 if len(text) >= 16 else -2014)
        return key

    def _check_signature(self, key: Key | None, query: str, body: bytes, params: dict[str, str], now: int) -> None:
        """The signature over the bytes as they were sent: query, then body, both without the signature itself."""
        assert key is not None
        stamp, window = params.get("timestamp", ""), params.get("recvWindow") or "5000"
        if not stamp.isdigit():
            raise _auth_refusal(-1102, params)
        if not window.isdigit() or int(window) > 60_000:
            raise Refused(-1131)
        now_ms = now // 10**6
        if int(stamp) >= now_ms + 1000:
            raise Refused(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        if now_ms - int(stamp) > int(window):
            raise Refused(-1021)
        signature = params.pop("signature", "")
        if not signature:
            raise _auth_refusal(-1102, {"timestamp": "1"})
        payload = _unsigned(query.encode()) + _unsigned(body)
        if not key.signed(payload, signature.encode()):
            raise Refused(-1022)


def _unsigned(text: bytes) -> bytes:
    """A query or form without its signature parameter."""
    if b"signature=" not in text:
        return text
    return b"&".join(part for part in text.split(b"&") if not part.startswith(b"signature="))


def _auth_refusal(code: int, params: dict[str, str]) -> Refused:
    """A refusal of authentication; -1102 names what is missing."""
    if code == -1102:
        return wire_refusal(code, "timestamp" if not params.get("timestamp", "").isdigit() else "signature")
    return wire_refusal(code, None)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _http(status: int, body: bytes) -> bytes:
    reason = {400: "Bad Request", 404: "Not Found", 418: "I'm a teapot", 429: "Too Many Requests"}.get(status, "Error")
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


async def _listen(runner: web.ServerRunner | web.AppRunner, host: str, port: int) -> int:
    site = web.TCPSite(runner, host, port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        raise OSError(error.errno, f"port {port} on {host} is in use") from None
    server = site._server
    assert server is not None
    return int(server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]


def check_lift(text: str) -> frozenset[str]:
    """Names of limits to lift, from ``a,b``; ``all`` lifts every one."""
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if names == {"all"}:
        return frozenset(limit_rules.LIMITS)
    unknown = sorted(names - set(limit_rules.LIMITS))
    if unknown:
        raise UsageError(f"no such limit: {', '.join(unknown)} (there are {', '.join(limit_rules.LIMITS)})")
    return names
