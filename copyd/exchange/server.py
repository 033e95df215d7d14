"""The simulated exchange: one engine, its accounts, three ports (REST, WebSocket, control), its clockwork.

``ExchangeServer`` is the composition: the compiled wire calls it for whatever is not an order in flight, REST and control
handlers call it for state. Everything runs on one loop, so every change of the engine is ordered.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import orjson
from aiohttp import web

from copyd._fast.sim_wire import Key, Wire, WsConn
from copyd.errors import UsageError
from copyd.exchange import limits as limit_rules
from copyd.exchange.base import Exchange
from copyd.exchange.batch import BatchOptions, BatchServer
from copyd.exchange.binance_usdm import Call, Dialect, Refused, Route, wire_refusal
from copyd.exchange.faults import DEAD, Rule
from copyd.exchange.limits import Limits
from copyd.exchange.makers import STEP_MS
from copyd.exchange.model import INSTRUMENTS, Instrument, fixed
from copyd.exchange.streams import DepthChanges, Streams
from copyd.exchange.websocket import accepted, refusal, wants_websocket

UNKNOWN_503 = b'{"code":-1000,"msg":"Unknown error, please check your request or try again later."}'
DEAD_503 = {
    "error_dead": UNKNOWN_503,
    "unavailable": b'{"code":-1000,"msg":"Service Unavailable."}',
    "throttled": b'{"code":-1008,"msg":"Request throttled by system-level protection. Reduce-only/close-position orders are '
    b'exempt. Please try again."}',
}
SESSION_S, PING_S = 86_400.0, 180.0


class Options(msgspec.Struct, frozen=True):
    """How one exchange is run. Ports 0 = any free one."""

    host: str = "127.0.0.1"
    port: int = 0
    ws_port: int = 0
    control_port: int = 0
    seed: int = 1
    lift: frozenset[str] = frozenset()
    listen_key_s: float = 3600.0  # life of a listen key
    session_s: float = SESSION_S  # life of a WebSocket connection
    ping_s: float = PING_S  # server ping; no pong for a bit over three of them (10 min at the default) closes
    makers: bool = True
    maker_ms: int = STEP_MS  # time between two steps of the market makers
    funding_rate_ppm: int = 100  # 0.01 %
    batch: BatchOptions | None = None  # the batch door


class ExchangeServer(Exchange):
    """Everything of one running exchange."""

    def __init__(self, options: Options, instruments: tuple[Instrument, ...] = INSTRUMENTS) -> None:
        super().__init__(instruments, options.host, options.seed, options.makers, options.maker_ms, options.funding_rate_ppm)
        self.options = options
        self.wire = Wire(self.engine, self)
        self.limits = Limits(options.lift)
        if "orders" in options.lift:
            self.wire.limit_10s = self.wire.limit_1m = 0
        self.dialect = Dialect(self)
        self.streams = Streams(self, options.seed, options.listen_key_s)
        self.depth_changes: list[dict[int, DepthChanges]] = [{} for _ in instruments]
        self.restrictions: dict[int, dict[str, bool]] = {}
        self.conns: set[WsConn] = set()
        self._countdowns: dict[tuple[int, int], asyncio.TimerHandle] = {}
        self._delayed_events: dict[int, list[tuple[str, bytes]]] = {}
        self.batch = BatchServer(self, options.batch) if options.batch is not None else None
        self.started_ns = self.wire.time_ns()
        self.funding_due_ms = self.next_funding_ms(self.started_ns)
        self._tick = 0  # of 50 ms

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> dict[str, int]:
        """Open the ports: {"rest", "ws", "control"} and perhaps "batch". OSError names the port that is taken."""
        o = self.options
        await self.open_ports((o.port, o.ws_port, o.control_port), self.on_rest, self.wire.connection)
        if self.batch is not None:
            await self.batch.start()
            if self.batch.address is not None:
                self.ports["batch"] = self.batch.address[1]
        self.start_clockwork([(1.0, self._second), (0.05, self._depth_tick)])
        return self.ports

    async def stop(self) -> None:
        await self.stop_clockwork()
        for timer in self._countdowns.values():
            timer.cancel()
        if self.batch is not None:
            await self.batch.stop()
        for conn in list(self.conns):
            conn.close(1001, "going away")
        if self.conns:
            await asyncio.sleep(0.25)
        await self.close_ports()

    def now_ns(self) -> int:
        return self.wire.time_ns()

    def server_ns(self) -> int:
        return self.wire.server_ns()

    def set_skew(self, skew_ns: int) -> None:
        self.wire.skew_ns = skew_ns

    def changed(self) -> None:
        self.wire.drain()

    def flush(self) -> None:
        self.wire.flush()

    def _second(self) -> None:
        now = self.wire.time_ns()
        self.streams.push_marks(now, now // 10**9)
        self.streams.push_tickers(now)
        self.streams.expire_keys(now)
        self.settle_when_due(now)
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

    def funding_history(self, symbol: str | None) -> list[dict[str, Any]]:
        """Settlements so far, oldest first."""
        wanted = -1 if symbol in (None, "") else self.symbols.get(symbol or "", len(self.symbols))
        return [
            {
                "symbol": self.instruments[one.symbol].symbol,
                "fundingTime": one.ts_ns // 10**6,
                "fundingRate": fixed(one.rate_e8, 8),
                "markPrice": fixed(one.mark_px * self.instruments[one.symbol].tick_e8, 8),
            }
            for one in self.funding_log
            if wanted in (-1, one.symbol)
        ]

    def note_read(self, call: Call, equity_e8: int) -> None:
        """Remember the equity served to a marked account, with the exchange's time (for the truth)."""
        self.note_equity(call.account, equity_e8, call.now_ns)

    def set_rights(self, account: int, rights: dict[str, Any]) -> None:
        self.restrictions[account] = rights

    def issue_key(self, account: int, name: str, kind: str, public_key: str, rights: dict[str, Any]) -> dict[str, str]:
        key, secret = self.accounts.issue(account, name, kind, public_key)
        self.wire.add_key(key)
        if rights:
            self.restrictions[account] = rights
            key.can_trade = rights.get("enableFutures", True)
        return {"api_key": key.api_key.decode(), "secret": secret, "key_type": kind}

    def drop_key(self, api_key: str) -> None:
        self.wire.keys.pop(api_key.encode(), None)

    def disconnect(self, kind: str, stream: str, account: int | None, pick: int | None) -> int:
        """``kind``: "api", "streams" or "all"; ``stream``: a listen key or name it carries; ``account``: whose user stream."""
        if account is not None:
            key = self.streams.by_account.get(account)
            stream = key.text if key is not None else "no such stream"
        found = [
            conn for conn in sorted(self.conns, key=lambda conn: (conn.opened_ns, conn.path))
            if kind in ("all", "api" if conn.is_api else "streams") and (not stream or stream in conn.streams)
        ]  # fmt: skip
        if found and pick is not None:
            found = [found[pick % len(found)]]
        for conn in found:
            self.cut(conn)
        return len(found)

    def set_limits(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """``weight_per_minute``: another request weight per address."""
        weight = int(wanted["weight_per_minute"])
        if weight < 1:
            raise UsageError("weight_per_minute must be positive")
        self.limits.weight_per_minute = weight
        return {"weight_per_minute": weight}

    def stats(self) -> dict[str, Any]:
        return {
            "limits_lifted": sorted(self.limits.lifted),
            "weight_per_minute": self.limits.weight_per_minute,
            "weight_charged": self.limits.charged,
            "orders_accepted": self.wire.n_placed,
            "batch_orders_accepted": self.batch.desk.n_placed if self.batch is not None else 0,
            "events_sent": self.wire.n_events_sent,
            "connections": len(self.conns),
            "listen_keys": len(self.streams.keys),
        }

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
        name = self.accounts.name(key.account) if key is not None else ""
        client_id = params.get("newClientOrderId") or params.get("origClientOrderId") or ""
        self.keep_refusal(name, params.get("symbol", ""), method, client_id, refused.code, refused.message)

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
        if not wants_websocket(method, headers):
            return refusal(400, b'{"code":-1000,"msg":"this port speaks WebSocket"}'), False
        now = self.wire.time_ns()
        self.connects += 1
        if not self.limits.connect(conn.peer, now):
            return refusal(429, b'{"code":-1003,"msg":"Too many connection attempts; 300 per 5 minutes per IP."}'), False
        url = urlsplit(target)
        query = parse_qsl(url.query)
        conn.meter = self.limits.meter(conn.peer)
        parts = [part for part in url.path.split("/") if part]
        if parts and parts[0] in ("ws-fapi", "ws-api"):
            refused = self.limits.charge(conn.peer, limit_rules.WS_HANDSHAKE_WEIGHT, now)
            if refused is not None:
                return refusal(refused.status, Refused(-1003, refused.message).body()), False
            conn.is_api = True
            conn.rate_limits = ("returnRateLimits", "false") not in query
        else:
            conn.area = parts.pop(0) if parts and parts[0] in ("public", "market", "private") else ""
            if not parts or parts[0] not in ("ws", "stream"):
                return refusal(404, b'{"code":-1000,"msg":"no such path"}'), False
            conn.combined = parts[0] == "stream"
        return accepted(headers), True

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


def check_lift(text: str) -> frozenset[str]:
    """Names of limits to lift, from ``a,b``; ``all`` lifts every one."""
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if names == {"all"}:
        return frozenset(limit_rules.LIMITS)
    unknown = sorted(names - set(limit_rules.LIMITS))
    if unknown:
        raise UsageError(f"no such limit: {', '.join(unknown)} (there are {', '.join(limit_rules.LIMITS)})")
    return names
