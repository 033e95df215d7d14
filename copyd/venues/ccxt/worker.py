"""The program that the other interpreter runs: ccxt behind one socket, JSON lines in both directions.

Standard library and ccxt only; nothing of copyd can be imported here. ``python -I worker.py FD``: the socket's descriptor is all
that is said on the command line, and keys come over it. Questions and what they mean (``id`` is repeated in the answer):

    {"do": "open", "exchange", "environment", "rest", "timeout_ms", "lists"}
                                                                     markets are read; says what the exchange can do
    {"do": "key", "account", "key", "secret", "password"}            no answer
    {"do": "call", "account", "method", "args", "params"}            a unified method of ccxt; account "" signs nothing
    {"do": "place", ... as call, "until_ns"}                         an order: written at most once, and not after that
                                                                     (CLOCK_MONOTONIC, which is the machine's)

An answer is {"id", "ok"} or {"id", "error": {"kinds", "text", "written"}}: the classes of the exception from its own to the
root, and whether anything of the call can have reached the exchange. Numbers are texts, as the exchange wrote them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import inspect
import json
import re
import socket
import sys
import time
from decimal import Decimal
from typing import Any

LINE_MAX = 64 << 20
TEXT_MAX = 300
#: Without these nothing can be copied; of the lists inside, one is enough.
NEEDED = (
    ("createOrder",), ("fetchOrder",), ("fetchMyTrades",), ("fetchPositions",), ("fetchBalance",), ("fetchTime",),
    ("setLeverage",), ("fetchTickers", "fetchTicker", "fetchBidsAsks", "fetchOrderBook"),
)  # fmt: skip
METHODS = frozenset({
    "create_order", "fetch_balance", "fetch_bids_asks", "fetch_canceled_and_closed_orders", "fetch_closed_orders",
    "fetch_funding_rate", "fetch_funding_rates", "fetch_leverage", "fetch_margin_mode", "fetch_mark_price", "fetch_mark_prices",
    "fetch_my_trades", "fetch_open_orders", "fetch_order", "fetch_order_book", "fetch_order_trades", "fetch_orders",
    "fetch_position_mode", "fetch_positions", "fetch_ticker", "fetch_tickers", "fetch_time", "set_leverage", "set_margin_mode",
    "set_position_mode",
})  # fmt: skip
MARKET_FIELDS = ("id", "symbol", "base", "quote", "settle", "active", "contractSize", "precision", "limits")
#: What one instance has read of the markets and every other uses.
MARKETS = ("markets", "markets_by_id", "symbols", "ids", "currencies", "currencies_by_id", "codes", "baseCurrencies",
           "quoteCurrencies")  # fmt: skip


class NotWritten(Exception):
    """The call was given up before anything of it was written."""


class Repeated(Exception):
    """ccxt was about to write an order a second time."""


class Sending:
    """One order on its way: until when it may be written, and what was."""

    def __init__(self, until_ns: int) -> None:
        self.until_ns = until_ns
        self.written: set[tuple[str, str]] = set()

    def about_to_write(self, method: str, url: str) -> None:
        call = method, url.partition("?")[0]
        if time.monotonic_ns() > self.until_ns:
            raise NotWritten("too late: the order waited too long for its turn")
        if method != "GET" and call in self.written:
            raise Repeated("a second transmission of one order was held back")
        self.written.add(call)


SENDING: contextvars.ContextVar[Sending | None] = contextvars.ContextVar("sending", default=None)


def watched(kind: Any) -> Any:
    """The exchange's class, whose every request is seen before it is written."""

    async def fetch(self: Any, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        order = SENDING.get()
        if order is not None:
            order.about_to_write(method, url)
        return await kind.fetch(self, url, method, headers, body)

    return type(kind.__name__, (kind,), {"fetch": fetch})


def redirected(urls: Any, rest: str) -> Any:
    """Addresses of REST calls with another host before the same path; sockets stay as they are, none is opened."""
    if isinstance(urls, dict):
        return {name: url if name == "ws" else redirected(url, rest) for name, url in urls.items()}
    if not isinstance(urls, str) or not urls.startswith("http"):
        return urls
    _, slash, path = urls.split("://", 1)[1].partition("/")
    return rest + slash + path


def plain(value: Any) -> Any:
    """A structure of ccxt as JSON: without the exchange's own words, and no number as a float."""
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items() if name != "info"}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f") if value == value and abs(value) != float("inf") else None
    return value if isinstance(value, str | int | bool | type(None)) else str(value)


class Worker:
    """One exchange, one instance of its class per account; "" signs nothing, "clock" only reads the time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.kind: Any = None
        self.rest = ""
        self.environment = "live"
        self.timeout_ms = 10_000
        self.instances: dict[tuple[str, str], Any] = {}
        self.keys: dict[str, dict[str, str]] = {}
        self.secrets: set[str] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the other side goes."""
        while line := await self.reader.readline():
            asked = json.loads(line)
            if asked["do"] == "key":
                self.take_key(asked)
                continue
            task = asyncio.get_running_loop().create_task(self.answer(asked))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        for task in list(self.tasks):
            task.cancel()
        for instance in self.instances.values():
            with contextlib.suppress(Exception):
                await instance.close()

    def take_key(self, asked: dict[str, Any]) -> None:
        account = asked["account"]
        self.keys[account] = {"apiKey": asked["key"], "secret": asked["secret"], "password": asked["password"]}
        self.secrets.update(word for word in self.keys[account].values() if word)

    async def answer(self, asked: dict[str, Any]) -> None:
        order = Sending(asked["until_ns"]) if asked["do"] == "place" else None
        SENDING.set(order)
        said: dict[str, Any] = {"id": asked["id"]}
        try:
            if order is not None:
                said["ok"] = plain(await self.place(asked, order))
            else:
                said["ok"] = plain(await (self.open(asked) if asked["do"] == "open" else self.call(asked)))
        except Exception as problem:
            kinds = [kind.__name__ for kind in type(problem).__mro__[:-1]]
            said["error"] = {"kinds": kinds, "text": self.scrubbed(str(problem)), "written": order is None or bool(order.written)}
        self.writer.write(json.dumps(said).encode() + b"\n")

    def scrubbed(self, text: str) -> str:
        """A text without keys, and without queries, which hold signatures."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", text)[:TEXT_MAX]

    # --- questions ----------------------------------------------------------------------------------------------------
    async def open(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            ccxt = importlib.import_module("ccxt.async_support")
        except ImportError as problem:
            return {"problem": f"ccxt is not installed there: {problem}"}
        name = asked["exchange"]
        if name not in ccxt.exchanges:
            return {"problem": f"ccxt {ccxt.__version__} knows no exchange {name}"}
        self.kind = watched(getattr(ccxt, name))
        self.rest, self.environment, self.timeout_ms = asked["rest"], asked["environment"], asked["timeout_ms"]
        public = self.instance("")
        lacking = [words[0] for words in NEEDED if not any(public.has.get(word) for word in words)]
        if lacking:
            return {"problem": f"ccxt's {name} cannot {', '.join(lacking)}, without which nothing can be copied"}
        if public.precisionMode != ccxt.TICK_SIZE:
            return {"problem": f"ccxt's {name} tells no price and quantity steps"}
        try:
            reads_id = "clientOrderId" in inspect.getsource(self.kind.fetch_order)
        except (OSError, TypeError):
            reads_id = False
        if not reads_id and not asked["lists"]:
            return {"problem": f"ccxt's {name} cannot ask for an order by our own id, without which none may be sent"}
        await public.load_markets()
        has = {word: bool(can) for word, can in public.has.items()}
        return {"problem": "", "version": ccxt.__version__, "has": has}

    async def call(self, asked: dict[str, Any]) -> Any:
        if asked["method"] == "markets":
            return [
                {field: market.get(field) for field in MARKET_FIELDS}
                for market in self.instance("").markets.values() if market.get("swap") and market.get("linear")
            ]  # fmt: skip
        if asked["method"] not in METHODS:
            raise ValueError(f"no method {asked['method']}")
        return await getattr(self.instance(asked["account"]), asked["method"])(*asked["args"], params=asked["params"])

    async def place(self, asked: dict[str, Any], order: Sending) -> Any:
        """An order, over an instance of its own: what is asked of the account never holds it up. One whose turn has not come in
        time is given up, and that is said at once."""
        account = asked["account"]
        orders = self.instance(account, "orders")
        orders.options = self.instance(account).options  # what kind of account it is was learned there
        task = asyncio.get_running_loop().create_task(orders.create_order(*asked["args"], params=asked["params"]))
        await asyncio.wait({task}, timeout=max(0.0, (order.until_ns - time.monotonic_ns()) / 1e9))
        if not task.done() and not order.written:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not order.written:
                raise NotWritten("too late: the order waited too long for its turn")
        return await task

    def instance(self, account: str, use: str = "") -> Any:
        found = self.instances.get((account, use))
        if found is None:
            found = self.instances[account, use] = self.kind({
                **self.signs_with(account), "enableRateLimit": True, "timeout": self.timeout_ms, "number": str,
                "options": {"defaultType": "swap", "maxRetriesOnFailure": 0},
            })  # fmt: skip
            if self.environment == "testnet":
                found.set_sandbox_mode(True)
            elif self.environment == "demo":
                found.enable_demo_trading(True)
            if self.rest:
                found.urls["api"] = redirected(found.urls["api"], self.rest)
            known = self.instances.get(("", ""))
            if known is not None and known is not found:
                self.share(known, found)
        return found

    def signs_with(self, account: str) -> dict[str, str]:
        """The words of a key; where the exchange signs with a wallet, its address is the key and its private key the secret."""
        key = self.keys.get(account)
        if key is None:
            return {}
        if self.kind().requiredCredentials.get("privateKey"):
            return {"walletAddress": key["apiKey"], "privateKey": key["secret"]}
        return key

    @staticmethod
    def share(known: Any, other: Any) -> None:
        """Give what one instance knows of the markets to another: no account reads them again."""
        for name in MARKETS:
            if getattr(known, name, None) is not None:
                setattr(other, name, getattr(known, name))


async def main(descriptor: int) -> None:
    """Serve the socket until it is closed."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor), limit=LINE_MAX)
    await Worker(reader, writer).run()
    writer.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
