"""Streams: listen keys of accounts, and which connection listens to what.

A stream name on the wrong path (public, market, private) is acknowledged and then silent, as on the venue; the old unrouted
paths carry everything. Connections on ``/stream`` get each event wrapped in ``{"stream": name, "data": event}``.
"""

from __future__ import annotations

import random
import string
from typing import TYPE_CHECKING

import msgspec
import orjson

from copyd._fast.sim_wire import Listener, WsConn
from copyd.exchange.model import fixed

if TYPE_CHECKING:
    from copyd.exchange.server import ExchangeServer

ALPHABET = string.ascii_letters + string.digits
PUBLIC = ("bookTicker", "depth", "trade")
DEPTH_LEVELS = (5, 10, 20)


class ListenKey(msgspec.Struct):
    """A user stream's name; whoever knows it reads the account's events until it expires."""

    text: str
    account: int
    expires_ns: int


class Timed:
    """Listeners of streams that are pushed by the clock, by (symbol index, kind)."""

    def __init__(self) -> None:
        self.marks_1s: dict[int, list[Listener]] = {}
        self.marks_3s: dict[int, list[Listener]] = {}
        self.all_marks: list[Listener] = []  # !markPrice@arr, once a second
        self.depth: dict[tuple[int, int, int], list[Listener]] = {}  # (symbol, levels or 0 for changes, ms)
        self.tickers: dict[int, list[Listener]] = {}


class Streams:
    """All subscriptions of one exchange."""

    def __init__(self, exchange: ExchangeServer, seed: int, key_life_s: float) -> None:
        self.x = exchange
        self.rng = random.Random(f"listen keys {seed}")
        self.key_life_ns = int(key_life_s * 1e9)
        self.keys: dict[str, ListenKey] = {}
        self.by_account: dict[int, ListenKey] = {}
        self.timed = Timed()
        self.expired = 0

    # -- listen keys -------------------------------------------------------------------------------------------------

    def make_key(self, account: int, now_ns: int) -> str:
        """The account's live key, extended, or a new one."""
        key = self.by_account.get(account)
        if key is None:
            text = "".join(self.rng.choices(ALPHABET, k=64))
            key = self.by_account[account] = self.keys[text] = ListenKey(text, account, 0)
        key.expires_ns = now_ns + self.key_life_ns
        return key.text

    def keep_key(self, account: int, now_ns: int) -> str | None:
        key = self.by_account.get(account)
        if key is None:
            return None
        key.expires_ns = now_ns + self.key_life_ns
        return key.text

    def close_key(self, account: int) -> None:
        key = self.by_account.pop(account, None)
        if key is not None:
            del self.keys[key.text]
            self._silence(key)

    def expire_keys(self, now_ns: int) -> None:
        """Tell and silence every key whose time is over."""
        for key in [k for k in self.keys.values() if k.expires_ns <= now_ns]:
            self.expired += 1
            event = {"e": "listenKeyExpired", "E": now_ns // 10**6, "listenKey": key.text}
            self.x.wire.publish_user(key.account, b"listenKeyExpired", orjson.dumps(event))
            del self.keys[key.text], self.by_account[key.account]
            self._silence(key)

    def _silence(self, key: ListenKey) -> None:
        for listener in list(self.x.wire.listeners[key.account] or ()):
            if listener.stream == key.text.encode():
                listener.place.remove(listener)
                listener.conn.streams.pop(key.text, None)

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def subscribe(self, conn: WsConn, name: str, events: frozenset[str] | None = None) -> bool:
        """Attach a stream to a connection: False when there is no such stream (or listen key)."""
        if name in conn.streams:
            return True
        key = self.keys.get(name)
        if key is not None:
            if conn.area in ("", "private"):
                place = self.x.wire.listeners[key.account]
                if place is None:
                    place = self.x.wire.listeners[key.account] = []
                conn.streams[name] = Listener(conn, name.encode(), place, events)
            else:
                conn.streams[name] = None
            return True
        found = self._market_place(name)
        if found is None:
            return False
        area, place = found
        silent = conn.area not in ("", area)  # acknowledged, then silent
        conn.streams[name] = None if silent else Listener(conn, name.encode(), place)
        return True

    def unsubscribe(self, conn: WsConn, name: str) -> None:
        listener = conn.streams.pop(name, None)
        if listener is not None and listener in listener.place:
            listener.place.remove(listener)

    def drop(self, conn: WsConn) -> None:
        for name in list(conn.streams):
            self.unsubscribe(conn, name)

    def _market_place(self, name: str) -> tuple[str, list[Listener]] | None:
        """(path area, list to listen in) of a market stream name."""
        wire, timed = self.x.wire, self.timed
        if name == "!bookTicker":
            return "public", wire.all_book_listeners
        if name in ("!markPrice@arr", "!markPrice@arr@1s"):
            return "market", timed.all_marks
        symbol, _, rest = name.partition("@")
        index = self.x.dialect.symbols.get(symbol.upper())
        if index is None or symbol != symbol.lower():
            return None
        kind, _, speed = rest.partition("@")
        if kind == "bookTicker" and not speed:
            return "public", wire.book_listeners[index]
        if kind == "trade" and not speed:
            return "public", wire.trade_listeners[index]
        if kind == "aggTrade" and not speed:
            return "market", wire.agg_listeners[index]
        if kind == "markPrice" and speed in ("", "1s"):
            marks = timed.marks_1s if speed else timed.marks_3s
            return "market", marks.setdefault(index, [])
        if kind in ("ticker", "miniTicker") and not speed:
            return "market", timed.tickers.setdefault(index, [])
        if kind.startswith("depth") and speed in ("", "100ms", "250ms", "500ms"):
            levels = kind[5:]
            if levels and (not levels.isdigit() or int(levels) not in DEPTH_LEVELS):
                return None
            place = timed.depth.setdefault((index, int(levels or 0), int(speed[:-2] or 250) if speed else 250), [])
            if not levels:
                self.x.engine.watch_depth(index, True)
            return "public", place
        return None

    # -- pushed by the clock -----------------------------------------------------------------------------------------

    def push_marks(self, now_ns: int, second: int) -> None:
        """``markPrice`` streams; the unsuffixed ones every third second."""
        every = []
        for index, spec in enumerate(self.x.instruments):
            listeners = list(self.timed.marks_1s.get(index, ()))
            if second % 3 == 0:
                listeners += self.timed.marks_3s.get(index, ())
            if not listeners and not self.timed.all_marks:
                continue
            mark = fixed(self.x.engine.mark(index) * spec.tick_e8, 8)
            event = {
                "e": "markPriceUpdate",
                "E": now_ns // 10**6,
                "s": spec.symbol,
                "p": mark,
                "ap": mark,
                "P": mark,
                "i": mark,
                "r": self.x.funding_rate_text(),
                "T": self.x.next_funding_ms(now_ns),
            }
            every.append(event)
            if listeners:
                self.x.wire.publish(listeners, orjson.dumps(event))
        if self.timed.all_marks:
            self.x.wire.publish(self.timed.all_marks, orjson.dumps(every))

    def push_depth(self, now_ns: int, tick: int) -> None:
        """Depth streams; ``tick`` counts 50 ms steps. Changes go at the fastest speed anyone asked for, then by speed."""
        for (index, levels, ms), listeners in list(self.timed.depth.items()):
            if not listeners or not levels or tick % (ms // 50):
                continue
            book = self.x.dialect.depth_of(index, levels, now_ns)
            event = {
                "e": "depthUpdate",
                "E": book["E"],
                "T": book["T"],
                "s": self.x.instruments[index].symbol,
                "U": book["lastUpdateId"],
                "u": book["lastUpdateId"],
                "pu": book["lastUpdateId"],
                "b": book["bids"],
                "a": book["asks"],
            }
            self.x.wire.publish(listeners, orjson.dumps(event))
        self._push_changes(now_ns, tick)

    def _push_changes(self, now_ns: int, tick: int) -> None:
        for index, spec in enumerate(self.x.instruments):
            due = [ms for (i, levels, ms), who in self.timed.depth.items() if i == index and levels == 0 and who]
            if not due:
                continue
            changes = self.x.depth_changes[index]
            update_id, bids, asks = self.x.engine.drain_depth(index)
            for ms in due:
                kept = changes.setdefault(ms, DepthChanges(update_id))
                kept.bids.update(bids)
                kept.asks.update(asks)
                if tick % (ms // 50) or not (kept.bids or kept.asks):
                    continue
                event = {
                    "e": "depthUpdate",
                    "E": now_ns // 10**6,
                    "T": now_ns // 10**6,
                    "s": spec.symbol,
                    "U": kept.last_id + 1,
                    "u": update_id,
                    "pu": kept.last_id,
                    "b": [[spec.price_text(px), spec.qty_text(qty)] for px, qty in sorted(kept.bids.items(), reverse=True)],
                    "a": [[spec.price_text(px), spec.qty_text(qty)] for px, qty in sorted(kept.asks.items())],
                }
                changes[ms] = DepthChanges(update_id)
                self.x.wire.publish(self.timed.depth[(index, 0, ms)], orjson.dumps(event))

    def push_tickers(self, now_ns: int) -> None:
        for index, listeners in self.timed.tickers.items():
            if not listeners:
                continue
            spec = self.x.instruments[index]
            last = spec.price_text(self.x.engine.last_price(index) or self.x.engine.mark(index))
            event = {"e": "24hrMiniTicker", "E": now_ns // 10**6, "s": spec.symbol, "c": last, "o": last, "h": last, "l": last}
            self.x.wire.publish(listeners, orjson.dumps({**event, "v": "0", "q": "0"}))


class DepthChanges:
    """Levels that changed since the last event of one speed."""

    def __init__(self, last_id: int) -> None:
        self.last_id = last_id
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
