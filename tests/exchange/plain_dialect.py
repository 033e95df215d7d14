"""A dialect of no venue: as few words as show every part of what a dialect does for the host."""

from __future__ import annotations

import hashlib
import hmac
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import orjson

from copyd._fast import sim_engine as eng
from copyd.exchange.dialect import Answer, Conn, Host, Owner, Request, Terms, Work

UNKNOWN, UNAVAILABLE, THROTTLED = b'{"error":"unknown"}', b'{"error":"unavailable"}', b'{"error":"throttled"}'
TWICE, LATE = b'{"error":"twice"}', b'{"error":"late"}'
NAMES = {eng.EV_NEW: "new", eng.EV_TRADE: "fill", eng.EV_CANCELED: "canceled", eng.EV_EXPIRED: "expired"}
STATUS = ("new", "part", "filled", "canceled", "expired", "expired")
WINDOW_MS = 5_000


def sign(secret: str, text: bytes) -> str:
    """The signature over exactly these bytes."""
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


class Dialect:
    """``/private``: login, place, cancel, query, and the account's events; ``/public``: best bid and ask."""

    name = "plain"
    terms = Terms(idle_s=600.0)

    def __init__(self, host: Host) -> None:
        self.host = host
        self.private: dict[int, list[Conn]] = {}
        self.public: list[Conn] = []
        self.seconds = 0
        host.windows.define("orders", 100_000, 1_000, sliding=True)
        host.windows.define("logins", 1_000, 60_000)

    # -- connections
    def accepts(self, conn: Conn) -> bool:
        conn.state = conn.path.partition("?")[0]
        return conn.state in ("/private", "/public")

    def opened(self, conn: Conn) -> None:
        if conn.state == "/public":
            self.public.append(conn)

    def lost(self, conn: Conn) -> None:
        if conn in self.public:
            self.public.remove(conn)
        if conn.owner is not None:
            self.private[conn.owner.account].remove(conn)

    def text(self, conn: Conn, text: bytes) -> Work | None:
        if text == b"ping":
            conn.send(b"pong")
            return None
        if text == b"crash":
            raise RuntimeError("a defect of the dialect")
        try:
            asked = orjson.loads(text)
        except orjson.JSONDecodeError:
            conn.send(b'{"error":"no JSON"}')
            return None
        op = asked.get("op") if isinstance(asked, dict) else None
        if op == "login":
            self._login(conn, asked)
        elif op in ("place", "cancel", "query") and conn.owner is not None:
            return self._work(conn.owner, op, asked)
        else:
            conn.send(b'{"error":"what?"}')
        return None

    def _login(self, conn: Conn, asked: dict[str, Any]) -> None:
        owner, ts = self.host.owner(str(asked.get("key"))), asked.get("ts")
        late = not isinstance(ts, int) or abs(self.host.server_ns() // 10**6 - ts) > WINDOW_MS
        if owner is None or late or not hmac.compare_digest(sign(owner.secret.decode(), b"%d" % ts), str(asked.get("sign"))):
            self.host.refused(owner, "login", "", "", -1, "late" if late else "signature")
            conn.send(b'{"error":"late"}' if late else b'{"error":"signature"}')
        elif self.host.windows.take("logins", conn.ip, self.host.now_ns()):
            conn.send(b'{"error":"too many logins"}')
        else:
            conn.owner = owner
            self.private.setdefault(owner.account, []).append(conn)
            conn.send(b'{"ok":"login"}')

    def _work(self, owner: Owner, op: str, asked: dict[str, Any]) -> Work:
        client, symbol = str(asked.get("cid", "")), str(asked.get("symbol", ""))
        run = {"place": self._place, "cancel": self._cancel, "query": self._query}[op]
        work = Work(partial(run, owner, asked), owner, op, symbol, client, UNKNOWN, UNAVAILABLE, THROTTLED, TWICE, LATE)
        if op == "place" and (wait := self.host.windows.take("orders", owner.account, self.host.now_ns())):
            answer = b'{"error":"too many orders","wait_ms":%d}' % (wait // 10**6)
            work.run = lambda: answer
        if op == "query":
            work.stale = partial(self._query, owner, asked)
        return work

    # -- orders
    def _place(self, owner: Owner, asked: dict[str, Any]) -> bytes:
        host, engine = self.host, self.host.engine
        index = host.symbols.get(str(asked.get("symbol")), -1)
        qty = engine.parse_qty(index, str(asked.get("qty")).encode()) if index >= 0 else -1121
        px = engine.parse_px(index, str(asked["px"]).encode()) if index >= 0 and "px" in asked else 0
        code = min(qty, px)
        if code >= 0:
            kind = eng.TYPE_LIMIT if px else eng.TYPE_MARKET
            side = 1 if asked.get("side") == "buy" else -1
            code = engine.place(
                owner.account, index, side, kind, eng.TIF_GTC, qty, px, bool(asked.get("reduce")), False, eng.POS_BOTH,
                str(asked.get("cid", "")).encode(), host.now_ns())
        host.changed()
        if code < 0:
            host.refused(owner, "place", str(asked.get("symbol")), str(asked.get("cid", "")), code, "refused")
            return b'{"error":%d,"n":%s}' % (code, orjson.dumps(asked.get("n")))
        return b'{"order":%d,"n":%s}' % (engine.order(code)[1], orjson.dumps(asked.get("n")))

    def _find(self, owner: Owner, asked: dict[str, Any]) -> int:
        index = self.host.symbols.get(str(asked.get("symbol")), 0)
        return self.host.engine.find_client(owner.account, index, str(asked.get("cid")).encode(), self.host.now_ns())

    def _cancel(self, owner: Owner, asked: dict[str, Any]) -> bytes:
        slot = self._find(owner, asked)
        code = self.host.engine.cancel(owner.account, slot, self.host.now_ns()) if slot >= 0 else slot
        self.host.changed()
        return b'{"cancel":%d}' % code

    def _query(self, owner: Owner, asked: dict[str, Any], lag_ms: int = 0) -> bytes:
        slot = self._find(owner, asked)
        if slot < 0 or (lag_ms and self.host.engine.order(slot)[16] > self.host.now_ns() - lag_ms * 10**6):
            return b'{"status":"none"}'
        return b'{"status":"%s"}' % STATUS[self.host.engine.order(slot)[10]].encode()

    # -- REST
    def rest(self, request: Request) -> Work:
        name = f"{request.method} {request.path}"
        if name == "GET /time":
            return Work(lambda: Answer(b'{"ms":%d}' % (request.now_ns // 10**6)))
        if name == "GET /crash":
            raise RuntimeError("a defect of the dialect")
        if name not in ("GET /order", "POST /order"):
            return Work(lambda: Answer(b'{"error":"no such path"}', 404))
        owner = self.host.owner(request.headers.get("x-key", ""))
        signed = request.query.encode() + request.body
        if owner is None or request.headers.get("x-sign") != sign(owner.secret.decode(), signed):
            return Work(lambda: Answer(b'{"error":"signature"}', 401))
        asked = orjson.loads(request.body) if request.body else dict(parse_qsl(request.query))
        inner = self._work(owner, "query" if request.method == "GET" else "place", asked)
        stale = inner.stale
        return Work(
            lambda: Answer(inner.run()), owner, name, inner.symbol, inner.client_id, Answer(UNKNOWN, 503),
            Answer(UNAVAILABLE, 503), Answer(THROTTLED, 429), Answer(TWICE, 400), Answer(LATE, 400),
            (lambda ms: Answer(stale(ms))) if stale else None)

    # -- events
    def events(self, events: list[tuple[int, ...]]) -> None:
        for event in events:
            kind, account, symbol, slot = event[:4]
            if kind == eng.EV_BOOK:
                spec = self.host.instruments[symbol]
                text = orjson.dumps({"book": spec.symbol, "bid": spec.price_text(event[11]), "ask": spec.price_text(event[14])})
                for conn in self.public:
                    conn.send(text)
            elif kind in NAMES and self.private.get(account):
                client = self.host.engine.order(slot)[4].decode()
                owner = self.host.owner_of(account)
                assert owner is not None
                text = orjson.dumps({"event": NAMES[kind], "cid": client, "qty": event[12]})
                for conn in list(self.private[account]):
                    self.host.publish(conn, owner, NAMES[kind], client, text)

    def second(self, now_ns: int) -> None:
        self.seconds += 1
