"""The simulated exchange as the demo uses it: its control port, its truth, and the leader's own signed client.

Everything here is written against the wire alone, so that the leader and the verifier share no code with the daemon's
venue adapter: a mistake there cannot repeat itself here.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec

from copyd.errors import VenueUnavailable

from .history import Fault, Instrument, LeaderTrade, Order, Quotes, Truth, to_e8
from .workload import Step

PAGE = 20_000
PLACING = ("place", "create", "batch")  #: in the names of requests that place orders
Row = TypeVar("Row", bound=msgspec.Struct)


class OrderRow(msgspec.Struct, gc=False):
    """A line of /truth/orders."""

    seq: int
    account: str
    symbol: str
    orderId: int
    clientOrderId: str
    side: str
    positionSide: str
    type: str
    timeInForce: str
    price: str
    origQty: str
    reduceOnly: bool
    executedQty: str
    cumQuote: str
    status: str
    ts: int
    ts_done: int


class TradeRow(msgspec.Struct, gc=False):
    """A line of /truth/trades."""

    seq: int
    id: int
    symbol: str
    price: str
    qty: str
    ts: int
    buyer: str
    buyOrderId: int
    seller: str
    sellOrderId: int
    buyFee: str
    sellFee: str
    buyName: str = ""
    sellName: str = ""


class QuoteRow(msgspec.Struct, gc=False):
    """A line of /truth/quotes."""

    seq: int
    ts: int
    symbol: str
    bid: str
    ask: str
    mark: str


class PositionRow(msgspec.Struct, gc=False):
    """A line of /truth/positions."""

    seq: int
    account: str
    symbol: str
    positionSide: str
    lots: int


class BalanceRow(msgspec.Struct, gc=False):
    """A line of /truth/balances."""

    seq: int
    account: str
    wallet: str


class TransferRow(msgspec.Struct, gc=False, rename={"source": "from"}):
    """A line of /truth/transfers."""

    seq: int
    id: str
    source: str
    to: str
    amount: str
    state: str


class ReadRow(msgspec.Struct, gc=False):
    """A line of /truth/reads."""

    seq: int
    account: str
    ts: int
    equity: str


class RejectRow(msgspec.Struct, gc=False):
    """A line of /truth/rejects."""

    seq: int
    account: str
    clientOrderId: str
    code: int
    method: str = ""
    msg: str = ""


class FaultRow(msgspec.Struct, gc=False):
    """A line of /truth/faults."""

    seq: int
    ts: int
    action: str
    account: str
    method: str
    clientOrderId: str
    delay_ms: int


class InstrumentRow(msgspec.Struct):
    """A line of /truth/instruments."""

    symbol: str
    name: str
    base: str
    quote: str
    tick: str
    lot: str
    contract: str
    minNotional: str
    minQty: str
    maxQty: str
    maxMarketQty: str


class AccountMade(msgspec.Struct):
    """An account the exchange opened."""

    name: str
    api_key: str
    secret: str
    passphrase: str = ""


def met(row: FaultRow) -> str:
    """What a fault met, in one set of words for all dialects: those that give an account its own connection log its address."""
    if row.action == "cut" and row.method.startswith("/"):
        return "session" if row.account else "streams"
    return "order.place" if row.method == "place" else row.method


def execution_number(name: str, ts: int) -> str:
    """An execution as the decision export names it: by the venue's number, or, where the venue gives it a text, by its time in ms
    and 22 bits of the text's hash."""
    if name.isdigit():
        return name
    digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    return str((ts // 1_000_000) << 22 | digest >> 42)


def kept_name(path: str) -> str:
    """File name of a kept truth."""
    return path.rpartition("/")[2] + ".jsonl"


def append(path: Path, raw: bytes) -> None:
    """Add to a kept file."""
    with path.open("ab") as file:
        file.write(raw)


class Control:
    """The exchange's control port."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self.quotes: dict[str, Quotes] = {}
        self.quotes_seq = -1
        self.instruments: dict[str, Instrument] = {}  #: by the venue's name
        self.books: dict[str, Instrument] = {}  #: by the truth's name
        self.opening_px: dict[str, int] = {}
        self.keep: Path | None = None  #: directory to keep the truth in, as it was served

    async def _post(self, path: str, body: Any) -> Any:
        async with self.session.post(self.url + path, data=msgspec.json.encode(body)) as answer:
            raw = await answer.read()
            if answer.status != 200:
                raise VenueUnavailable(f"the exchange's control port refused {path}: {raw[:300].decode(errors='replace')}")
            return msgspec.json.decode(raw)

    async def _get(self, path: str) -> bytes:
        async with self.session.get(self.url + path) as answer:
            raw = await answer.read()
            if answer.status != 200:
                raise VenueUnavailable(f"the exchange's control port refused {path}: {raw[:300].decode(errors='replace')}")
            return raw

    async def pages(self, path: str, row: type[Row], after: int = -1, page: int = PAGE) -> AsyncIterator[list[Row]]:
        """All rows of a truth, page by page."""
        decode = msgspec.json.Decoder(row).decode_lines
        while True:
            raw = await self._get(f"{path}?after={after}&limit={page}")
            if self.keep is not None and raw:
                append(self.keep / kept_name(path), raw)
            rows = decode(raw)
            if rows:
                yield rows
                after = max(r.seq for r in rows)  # type: ignore[attr-defined]
            if not rows or (len(rows) < page and path != "/truth/positions"):  # positions are paged by account
                return

    async def make_accounts(self, accounts: list[dict[str, Any]]) -> list[AccountMade]:
        """Open accounts with keys and balances."""
        made = await self._post("/accounts", {"accounts": accounts})
        return [
            AccountMade(row["name"], row["api_key"], row["secret"], row.get("passphrase", "")) for row in made["accounts"]
        ]

    async def mark_account(self, name: str) -> None:
        """From now on every equity served to this account is in the truth."""
        await self._post("/mark-account", {"account": name})

    async def add_faults(self, rules: list[dict[str, Any]]) -> None:
        """From now on these things go wrong."""
        await self._post("/faults", rules)

    async def drop_faults(self) -> None:
        """Nothing goes wrong on purpose any more."""
        async with self.session.delete(self.url + "/faults") as answer:
            await answer.read()

    async def disconnect(self, which: dict[str, Any]) -> int:
        """Cut connections: how many."""
        return int((await self._post("/disconnect", which))["disconnected"])

    async def set_weight(self, per_minute: int) -> None:
        """Another request weight per address and minute, enforced."""
        await self._post("/limits", {"weight_per_minute": per_minute})

    async def move_market(self, symbol: str, bps: int) -> None:
        """The makers quote this much higher (negative: lower) from now on."""
        await self._post("/market", {"symbol": self.instruments[symbol].book, "move_bps": bps})

    async def positions_now(self, leader: str) -> dict[tuple[str, str, str], int]:
        """Signed lots of every open position of the followers."""
        keep, self.keep = self.keep, None
        found: dict[tuple[str, str, str], int] = {}
        async for positions in self.pages("/truth/positions", PositionRow):
            found.update(
                {
                    (row.account, self.books[row.symbol].symbol, row.positionSide): row.lots
                    for row in positions
                    if row.lots and row.symbol in self.books
                }
            )
        self.keep = keep
        return {key: lots for key, lots in found.items() if key[0] != leader}

    async def balances(self, accounts: set[str]) -> dict[str, int]:
        """Wallets of these accounts, 1e-8."""
        keep, self.keep = self.keep, None
        found: dict[str, int] = {}
        async for rows in self.pages("/truth/balances", BalanceRow):
            found.update({row.account: to_e8(row.wallet) for row in rows if row.account in accounts})
        self.keep = keep
        return found

    async def transfers(self) -> list[TransferRow]:
        """Every transfer the exchange was ordered, in the order it decided them."""
        found: list[TransferRow] = []
        async for rows in self.pages("/truth/transfers", TransferRow):
            found += rows
        return found

    async def stats(self) -> dict[str, Any]:
        """Counters of the whole exchange."""
        answer: dict[str, Any] = msgspec.json.decode(await self._get("/truth/stats"))
        return answer

    async def load_instruments(self, rest: str, symbols: list[str] | None = None) -> None:
        """Contracts and opening prices from the public interface."""
        async with self.session.get(rest + "/fapi/v1/exchangeInfo") as answer:
            raw = await answer.read()
        if self.keep is not None:
            append(self.keep / "exchangeInfo.json", raw)
        self.read_instruments(raw, symbols)

    def read_instruments(self, raw: bytes, symbols: list[str] | None = None) -> None:
        """Contracts out of the venue's exchangeInfo."""
        info = msgspec.json.decode(raw)
        for row in info["symbols"]:
            if symbols and row["symbol"] not in symbols:
                continue
            filters = {f["filterType"]: f for f in row["filters"]}
            self.instruments[row["symbol"]] = Instrument(
                row["symbol"],
                filters["PRICE_FILTER"]["tickSize"],
                filters["LOT_SIZE"]["stepSize"],
                filters["MIN_NOTIONAL"]["notional"],
                filters["LOT_SIZE"]["minQty"],
                filters["LOT_SIZE"]["maxQty"],
                filters["MARKET_LOT_SIZE"]["maxQty"],
                pair=(row["baseAsset"], row["quoteAsset"]),
            )
            self.books[row["symbol"]] = self.instruments[row["symbol"]]
            self.quotes[row["symbol"]] = Quotes()

    async def list_instruments(self) -> None:
        """Contracts from the truth, whatever the dialect."""
        raw = await self._get("/truth/instruments")
        if self.keep is not None:
            append(self.keep / kept_name("/truth/instruments"), raw)
        self.read_listed(raw)

    def read_listed(self, raw: bytes) -> None:
        """Contracts out of the truth's own list."""
        for row in msgspec.json.Decoder(InstrumentRow).decode_lines(raw):
            self.books[row.symbol] = self.instruments[row.name] = Instrument(
                row.name, row.tick, row.lot, row.minNotional, row.minQty, row.maxQty, row.maxMarketQty, book=row.symbol,
                contract=row.contract, pair=(row.base, row.quote),
            )  # fmt: skip
            self.quotes[row.name] = Quotes()

    async def follow_quotes(self) -> None:
        """Fetch what the quote log has grown by (the log is bounded: call often)."""
        async for rows in self.pages("/truth/quotes", QuoteRow, self.quotes_seq, 100_000):
            for row in rows:
                instrument = self.books.get(row.symbol)
                if instrument is None:
                    continue
                symbol = instrument.symbol
                bid, ask, mark = (instrument.ticks(px) for px in (row.bid, row.ask, row.mark))
                self.quotes[symbol].add(row.ts, bid, ask, mark)
                if symbol not in self.opening_px and mark:
                    self.opening_px[symbol] = mark
            self.quotes_seq = rows[-1].seq

    async def truth(self, leader: str, progress: Any = None) -> Truth:
        """The exchange's whole books, as far as the leader and the followers are concerned."""
        await self.follow_quotes()
        instruments = self.books
        truth = Truth(instruments=self.instruments, leader_trades=[], orders=[], positions={}, quotes=self.quotes)
        leader_lots: dict[tuple[str, int], int] = {}
        cid_of: dict[tuple[str, int], str] = {}
        async for orders in self.pages("/truth/orders", OrderRow):
            for row in orders:
                instrument = instruments.get(row.symbol)
                if instrument is None:
                    continue
                if row.account == leader:
                    leader_lots[(row.symbol, row.orderId)] = instrument.lots(row.origQty)
                    continue
                cid_of[(row.symbol, row.orderId)] = row.clientOrderId
                market = row.type == "MARKET"
                truth.orders.append(
                    Order(
                        row.clientOrderId, row.account, instrument.symbol, 1 if row.side == "BUY" else -1, row.positionSide,
                        row.type, "" if market else row.timeInForce, 0 if market else instrument.ticks(row.price),
                        instrument.lots(row.origQty), row.reduceOnly, instrument.lots(row.executedQty), to_e8(row.cumQuote),
                        row.status, row.ts, row.ts_done,
                    )
                )  # fmt: skip
            if progress is not None:
                progress(len(truth.orders))
        fills: dict[str, int] = defaultdict(int)
        executions: dict[str, list[tuple[int, str, int, int, int]]] = defaultdict(list)
        async for trades in self.pages("/truth/trades", TradeRow):
            for trade in trades:
                instrument = instruments.get(trade.symbol)
                if instrument is None:
                    continue
                lots = 0
                for account, order_id, side, fee, name in (
                    (trade.buyer, trade.buyOrderId, 1, trade.buyFee, trade.buyName),
                    (trade.seller, trade.sellOrderId, -1, trade.sellFee, trade.sellName),
                ):
                    key = (trade.symbol, order_id)
                    if account == leader:
                        lots = instrument.lots(trade.qty)
                        px = instrument.ticks(trade.price)
                        whole = leader_lots.get(key, lots)
                        number = execution_number(name or str(trade.id), trade.ts)
                        truth.leader_trades.append(
                            LeaderTrade(instrument.symbol, number, str(order_id), side * lots, px, whole, trade.ts)
                        )
                    else:
                        cid = cid_of.get(key)
                        if cid is not None:
                            lots = instrument.lots(trade.qty)
                            fills[cid] += lots
                            truth.fill_count += 1
                            value = instrument.notional_e8(lots, instrument.ticks(trade.price))
                            executions[account].append((trade.ts, instrument.symbol, side * lots, value, to_e8(fee)))
        truth.fills, truth.executions = dict(fills), dict(executions)
        async for positions in self.pages("/truth/positions", PositionRow):
            for position in positions:
                if position.account != leader and position.lots and position.symbol in instruments:
                    named = instruments[position.symbol].symbol
                    truth.positions[position.account, named, position.positionSide] = position.lots
        async for reads in self.pages("/truth/reads", ReadRow):
            truth.leader_reads.extend((read.ts, to_e8(read.equity)) for read in reads if read.account == leader)
        async for rejects in self.pages("/truth/rejects", RejectRow):
            for reject in rejects:
                placing = reject.method.startswith("POST") or any(word in reject.method for word in PLACING)
                if reject.clientOrderId and reject.account != leader and placing:
                    truth.rejects[reject.clientOrderId] = reject.code
        async for faults in self.pages("/truth/faults", FaultRow):
            truth.faults.extend(Fault(row.ts, row.action, row.account, met(row), row.clientOrderId) for row in faults)
        return truth


class KeptBooks(Control):
    """The same truth, read again from a directory it was kept in."""

    def __init__(self, directory: Path) -> None:
        super().__init__(None, "")  # type: ignore[arg-type]
        self.directory = directory
        self.read: set[str] = set()
        listed = directory / kept_name("/truth/instruments")
        if listed.exists():
            self.read_listed(listed.read_bytes())
        else:
            self.read_instruments((directory / "exchangeInfo.json").read_bytes())

    async def _get(self, path: str) -> bytes:
        name = kept_name(path.partition("?")[0])
        file = self.directory / name
        if name in self.read or not file.exists():
            return b""
        self.read.add(name)
        return file.read_bytes()


OPEN = ("NEW", "PARTIALLYFILLED", "LIVE")  #: states of an order that may still be filled, without underscores


class LeaderClient:
    """The leader's own client: signed REST, one connection, nothing retried."""

    def __init__(self, session: aiohttp.ClientSession, rest: str, api_key: str, secret: str, passphrase: str = "") -> None:
        self.session = session
        self.rest = rest
        self.api_key = api_key
        self._secret = secret.encode()
        self.passphrase = passphrase
        self.orders = 0

    async def call(self, method: str, path: str, **params: Any) -> Any:
        """One signed request; a refusal raises with the venue's words."""
        params["recvWindow"] = 10_000
        params["timestamp"] = time.time_ns() // 1_000_000
        query = urlencode(params)
        signature = hmac.new(self._secret, query.encode(), hashlib.sha256).hexdigest()
        url = f"{self.rest}{path}?{query}&signature={signature}"
        async with self.session.request(method, url, headers={"X-MBX-APIKEY": self.api_key}) as answer:
            raw = await answer.read()
            if answer.status != 200:
                raise VenueUnavailable(f"the leader's {method} {path} was refused: {raw[:300].decode(errors='replace')}")
            return msgspec.json.decode(raw)

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        """The leader's leverage on one instrument."""
        await self.call("POST", "/fapi/v1/leverage", symbol=symbol, leverage=leverage)

    async def best(self, symbol: str) -> tuple[str, str]:
        """Best bid and best ask now."""
        row = await self.call("GET", "/fapi/v1/ticker/bookTicker", symbol=symbol)
        return row["bidPrice"], row["askPrice"]

    async def price(self, step: Step, instrument: Instrument) -> str:
        """The limit of a step: a price of its own inside the spread where there is room for one that waits."""
        ticks = step.px
        if step.kind == "REST":
            bid, ask = (instrument.ticks(px) for px in await self.best(step.symbol))
            ticks = min(bid + 1, ask - 1) if step.side > 0 else max(ask - 1, bid + 1)
        return instrument.px_text(ticks)

    async def place(self, step: Step, instrument: Instrument) -> str:
        """One step of the script as an order: the venue's number of it."""
        self.orders += 1
        params: dict[str, Any] = {
            "symbol": step.symbol,
            "side": "BUY" if step.side > 0 else "SELL",
            "quantity": instrument.qty_text(step.lots),
            "newClientOrderId": f"lead-{self.orders:06d}",
            "newOrderRespType": "RESULT",
        }
        if step.kind == "MARKET":
            params["type"] = "MARKET"
        else:
            params |= {"type": "LIMIT", "timeInForce": "GTC", "price": await self.price(step, instrument)}
        if step.reduce_only:
            params["reduceOnly"] = "true"
        return str((await self.call("POST", "/fapi/v1/order", **params))["orderId"])

    async def order_status(self, symbol: str, order_id: str) -> str:
        """What has become of an order, in the venue's word."""
        row = await self.call("GET", "/fapi/v1/order", symbol=symbol, orderId=order_id)
        return str(row["status"])

    async def wait_filled(self, symbol: str, order_id: str, seconds: float) -> bool:
        """Whether a resting order was filled within the time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            status = (await self.order_status(symbol, order_id)).upper().replace("_", "")
            if status not in OPEN:
                return status == "FILLED"
            await asyncio.sleep(0.05)
        return False

    async def cancel_all(self, symbol: str) -> None:
        """Take back whatever still rests."""
        await self.call("DELETE", "/fapi/v1/allOpenOrders", symbol=symbol)
