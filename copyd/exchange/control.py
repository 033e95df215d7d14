"""The control port: accounts, market, faults and the truth, for whoever runs the exchange. Loopback only, no keys asked.

The truth is JSON lines, paged: ``?after=<last seq>&limit=<n>``; a page shorter than the limit is the last one for now.
Times are ns of the exchange's clock; decimals are texts.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
from aiohttp import web

from copyd._fast.sim_engine import MARGIN_CROSSED, MARGIN_ISOLATED
from copyd.errors import UsageError
from copyd.exchange.binance_usdm import POSITION_SIDES, money_e8
from copyd.exchange.faults import Rule
from copyd.exchange.model import E8, Instrument, fixed
from copyd.exchange.transfers import Transfers

if TYPE_CHECKING:
    from copyd.exchange.base import Exchange

TYPES = ("LIMIT", "MARKET")
TIFS = ("GTC", "IOC", "FOK", "GTX")
STATUSES = ("NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH")
DONE = 2  # statuses from here on are final
PAGE = 10_000
PAGE_MAX = 100_000


class AccountOrder(msgspec.Struct, forbid_unknown_fields=True):
    """An account to be made."""

    name: str = ""
    balance: str = ""
    leverage: int | dict[str, int] = 0  # of every symbol, or by symbol; 0 = the venue's default
    margin_type: str = ""  # ISOLATED or CROSSED, all symbols
    hedge: bool = False
    maker_ppm: int = -1
    taker_ppm: int = -1
    key_type: str = "hmac"  # hmac, ed25519, rsa
    public_key: str = ""  # PEM of the owner's key; empty = the exchange makes an Ed25519 pair
    rights: dict[str, Any] = {}  # of the key, over the dialect's defaults, in the venue's own names
    restrictions: dict[str, bool] = {}  # the same by Binance's name: over apiRestrictions; enableFutures false refuses orders


class AccountsOrder(AccountOrder, forbid_unknown_fields=True):
    """``n`` accounts named ``prefix`` + number from ``first``, all alike, or the ``accounts`` listed (over the same defaults)."""

    n: int = 0
    prefix: str = "acct-"
    first: int = 0
    accounts: list[AccountOrder] = []


class MarketOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Move one market."""

    symbol: str
    move_bps: int | None = None  # of the makers' middle
    price: str = ""  # or to this price
    mark: str = ""  # set the mark price alone
    mark_bps: int | None = None
    funding_ppm: int | None = None  # settle funding now at this rate


def make_control(exchange: Exchange) -> web.Application:
    """The control port's routes."""
    control = Control(exchange)
    app = web.Application(client_max_size=256 << 20, middlewares=[_refusals])
    app.add_routes(
        [
            web.get("/healthz", control.health),
            web.post("/accounts", control.accounts),
            web.post("/deposit", control.deposit),
            web.post("/transfers", control.transfers.execute),
            web.get("/transfers/{id}", control.transfers.query),
            web.post("/market", control.market),
            web.get("/faults", control.faults),
            web.post("/faults", control.add_faults),
            web.delete("/faults", control.drop_faults),
            web.post("/mark-account", control.mark_account),
            web.post("/restrictions", control.restrict),
            web.post("/keys", control.rekey),
            web.post("/disconnect", control.disconnect),
            web.post("/clock", control.clock),
            web.post("/limits", control.limits),
            web.get("/truth/instruments", control.instruments),
            web.get("/truth/orders", control.orders),
            web.get("/truth/rejects", control.rejects),
            web.get("/truth/trades", control.trades),
            web.get("/truth/positions", control.positions),
            web.get("/truth/balances", control.balances),
            web.get("/truth/incomes", control.incomes),
            web.get("/truth/transfers", control.transfers_decided),
            web.get("/truth/quotes", control.quotes),
            web.get("/truth/reads", control.reads),
            web.get("/truth/faults", control.faults_made),
            web.get("/truth/stats", control.stats),
        ]
    )
    return app


@web.middleware
async def _refusals(request: web.Request, handler: Any) -> web.StreamResponse:
    """A bad request is answered with one sentence and 400."""
    try:
        answer: web.StreamResponse = await handler(request)
        return answer
    except (msgspec.ValidationError, msgspec.DecodeError, UsageError, ValueError) as error:
        return web.json_response({"error": str(error)}, status=400)
    except KeyError as error:
        return web.json_response({"error": f"{error} is missing"}, status=400)


class Control:
    """Handlers of the control port."""

    def __init__(self, exchange: Exchange) -> None:
        self.x = exchange
        self.engine = exchange.engine
        self.transfers = Transfers(exchange)

    # -- making things happen ------------------------------------------------------------------------------------------

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "ports": self.x.ports, "ts": self.x.now_ns()})

    async def accounts(self, request: web.Request) -> web.Response:
        order = msgspec.json.decode(await request.read(), type=AccountsOrder)
        wanted = list(order.accounts)
        wanted += [AccountOrder(name=f"{order.prefix}{n}") for n in range(order.first, order.first + order.n)]
        names = {w.name for w in wanted}
        if len(names) != len(wanted) or "" in names:
            raise UsageError("every account needs a name of its own")
        taken = sorted(names & self.x.accounts.index.keys())
        if taken:
            raise UsageError(f"accounts that exist already: {', '.join(taken[:5])}" + (" ..." if len(taken) > 5 else ""))
        for one in wanted:
            self._check(one, order)  # all or none
        made = [self._make(one, order) for one in wanted]
        self.x.changed()
        return web.Response(body=orjson.dumps({"accounts": made}), content_type="application/json")

    def _check(self, one: AccountOrder, default: AccountsOrder) -> None:
        money_or_fail(one.balance or default.balance or "0")
        margin = one.margin_type or default.margin_type
        if margin not in ("", "ISOLATED", "CROSSED"):
            raise UsageError(f"no such margin type: {margin} (ISOLATED or CROSSED)")
        leverage = one.leverage or default.leverage
        for spec in self.x.instruments:
            value = leverage.get(spec.symbol, 0) if isinstance(leverage, dict) else leverage
            if not 0 <= value <= spec.max_leverage:
                raise UsageError(f"{spec.symbol} does not allow leverage {value}")
        if isinstance(leverage, dict) and (unknown := sorted(leverage.keys() - self.x.symbols.keys())):
            raise UsageError(f"unknown symbol {unknown[0]}")
        kind = one.key_type if one.key_type != "hmac" else default.key_type
        if kind not in self.x.key_kinds:
            raise UsageError(f"no such key type: {kind} ({' or '.join(self.x.key_kinds)})")

    def _make(self, one: AccountOrder, default: AccountsOrder) -> dict[str, Any]:
        x, now = self.x, self.x.now_ns()
        balance = one.balance or default.balance or "10000"
        maker = one.maker_ppm if one.maker_ppm >= 0 else default.maker_ppm if default.maker_ppm >= 0 else 200
        taker = one.taker_ppm if one.taker_ppm >= 0 else default.taker_ppm if default.taker_ppm >= 0 else 500
        account = self.engine.add_account(money_or_fail(balance), maker_ppm=maker, taker_ppm=taker, ts_ns=now)
        x.fees[account] = (maker, taker)
        x.accounts.register(account, one.name)
        kind = one.key_type if one.key_type != "hmac" else default.key_type
        rights = {**default.restrictions, **default.rights, **one.restrictions, **one.rights}
        told = x.issue_key(account, one.name, kind, one.public_key or default.public_key, rights)
        if one.hedge or default.hedge:
            self.engine.set_position_mode(account, True, now)
        leverage = one.leverage or default.leverage
        margin = one.margin_type or default.margin_type
        for index, spec in enumerate(x.instruments):
            value = leverage.get(spec.symbol, 0) if isinstance(leverage, dict) else leverage
            if value:
                self.engine.set_leverage(account, index, value, now)
            if margin:
                self.engine.set_margin_type(account, index, MARGIN_ISOLATED if margin == "ISOLATED" else MARGIN_CROSSED, now)
        return {"name": one.name, "account": account, **told}

    async def deposit(self, request: web.Request) -> web.Response:
        """{"account", "amount"}: amount may be negative (a withdrawal); on spot also "asset"."""
        body = orjson.loads(await request.read())
        account = self._account(str(body.get("account", "")))
        text = str(body.get("amount", ""))
        amount = -money_or_fail(text[1:]) if text.startswith("-") else money_or_fail(text)
        asset = [str(body["asset"])] if "asset" in body and hasattr(self.engine, "assets") else []
        code = self.engine.transfer(account, amount, self.x.now_ns(), *asset)
        self.x.changed()
        self.x.flush()
        if code < 0:
            raise UsageError(f"refused with {code}")
        return web.json_response({"wallet": fixed(self.engine.account_state(account)[0], 8)})

    async def market(self, request: web.Request) -> web.Response:
        order = msgspec.json.decode(await request.read(), type=MarketOrder)
        x = self.x
        index = x.symbols.get(order.symbol)
        if index is None:
            raise UsageError(f"unknown symbol {order.symbol}")
        spec = x.instruments[index]
        now = x.now_ns()
        answer: dict[str, Any] = {"symbol": order.symbol}
        if order.move_bps is not None or order.price:
            if x.makers is None:
                raise UsageError("this exchange runs without makers; set the mark instead")
            x.move_market(index, order.move_bps, money_or_fail(order.price) // spec.tick_e8 if order.price else None)
        if order.mark or order.mark_bps is not None:
            mark = self.engine.mark(index)
            px = money_or_fail(order.mark) // spec.tick_e8 if order.mark else mark + mark * (order.mark_bps or 0) // 10_000
            answer["liquidated"] = self.engine.set_mark(index, px, now)
            x.changed()
        if order.funding_ppm is not None:
            answer["funded"] = x.settle_funding(index, order.funding_ppm * 100)
        x.flush()
        bid, _, ask, _ = self.engine.top(index)
        answer |= {"bid": spec.price_text(bid), "ask": spec.price_text(ask)}
        answer["mark"] = spec.price_text(self.engine.mark(index))
        return web.json_response(answer)

    async def faults(self, request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self.x.faults.rules), content_type="application/json")

    async def add_faults(self, request: web.Request) -> web.Response:
        """One rule or a list of rules: their ids."""
        rules = msgspec.json.decode(await request.read(), type=Rule | list[Rule])
        ids = [self.x.faults.add(rule) for rule in (rules if isinstance(rules, list) else [rules])]
        self.x.faults_changed()
        return web.json_response({"ids": ids})

    async def drop_faults(self, request: web.Request) -> web.Response:
        """All rules, or the one of ``?id=``."""
        number = request.query.get("id")
        removed = self.x.faults.remove(int(number) if number else None)
        self.x.faults_changed()
        return web.json_response({"removed": removed})

    async def mark_account(self, request: web.Request) -> web.Response:
        """{"account"}: from now on every equity served to it is in /truth/reads."""
        account = self._account(str(orjson.loads(await request.read()).get("account", "")))
        self.x.marked.add(account)
        return web.json_response({"marked": self.x.accounts.name(account)})

    async def restrict(self, request: web.Request) -> web.Response:
        """{"account", "restrictions": {name: value}}: what the venue says of the account's key from now on, in its own names."""
        body = orjson.loads(await request.read())
        account = self._account(str(body.get("account", "")))
        rights = {str(name): value for name, value in body.get("restrictions", {}).items()}
        self.x.set_rights(account, rights)
        return web.json_response({"restrictions": rights})

    async def rekey(self, request: web.Request) -> web.Response:
        """{"account", "old": its API key}: another key for an account, with the default rights; the old one is refused."""
        body = orjson.loads(await request.read())
        account = self._account(str(body.get("account", "")))
        name = self.x.accounts.name(account)
        self.x.accounts.renew(name)
        told = self.x.issue_key(account, name, "hmac", "", {})
        self.x.drop_key(str(body.get("old", "")))
        return web.json_response({"name": name, **told})

    async def disconnect(self, request: web.Request) -> web.Response:
        """{"kind": "all" or which (the dialect's word), "stream": a name it carries, "account": whose, "pick": number}: cut the
        WebSocket connections that match; with ``pick`` only one of them."""
        body = orjson.loads(await request.read() or b"{}")
        account = self._account(str(body["account"])) if body.get("account") else None
        pick = int(body["pick"]) if body.get("pick") is not None else None
        n = self.x.disconnect(str(body.get("kind", "all")), str(body.get("stream") or ""), account, pick)
        return web.json_response({"disconnected": n})

    async def clock(self, request: web.Request) -> web.Response:
        """{"skew_ms"}: put the clock that clients see ahead of (or behind) the truth's."""
        self.x.set_skew(int(orjson.loads(await request.read())["skew_ms"]) * 10**6)
        return web.json_response({"server_ts": self.x.server_ns()})

    async def limits(self, request: web.Request) -> web.Response:
        """Other limits from now on, enforced like the venue's own: {"weight_per_minute"} of an address, or of a dialect with
        windows {"limit": its name, "count"}."""
        return web.json_response(self.x.set_limits(orjson.loads(await request.read())))

    def _account(self, name: str) -> int:
        index = self.x.accounts.index.get(name)
        if index is None:
            raise UsageError(f"unknown account {name!r}")
        return index

    # -- the truth -----------------------------------------------------------------------------------------------------

    def _page(self, request: web.Request) -> tuple[int, int]:
        after = int(request.query.get("after", "-1"))
        return after, max(1, min(int(request.query.get("limit", PAGE)), PAGE_MAX))

    async def instruments(self, request: web.Request) -> web.Response:
        """Contracts in the truth's own names and units, with the venue's ``name`` and its unit of quantity (``contract``: base
        asset in one)."""
        return _lines(self._instrument(index, spec) for index, spec in enumerate(self.x.instruments))

    def _instrument(self, index: int, spec: Instrument) -> dict[str, Any]:
        name, contract_e8 = self.x.listed(index)
        return {
            "symbol": spec.symbol,
            "name": name,
            "base": spec.base,
            "quote": spec.quote,
            "tick": spec.price_text(1),
            "lot": spec.qty_text(1),
            "contract": fixed(contract_e8, 8),
            "minNotional": fixed(spec.min_notional_e8, 8),
            "minQty": spec.qty_text(spec.min_qty),
            "maxQty": spec.qty_text(spec.max_qty),
            "maxMarketQty": spec.qty_text(spec.market_max_qty),
        }

    async def orders(self, request: web.Request) -> web.Response:
        """Every order ever accepted (market makers' aside), its present state; ``seq`` grows with acceptance.

        ``?account=`` and ``?client_id=`` narrow it (the page is cut before the client id is looked at)."""
        after, limit = self._page(request)
        wanted, client_id = request.query.get("account"), request.query.get("client_id")
        if wanted is None:
            rows: Iterable[tuple[Any, ...]] = self.engine.orders_after(after, limit)
        else:
            slots = self.engine.orders_of(self._account(wanted), -1, 1_000_000)
            rows = [self.engine.order(slot) for slot in slots if slot > after][:limit]
        return _lines(self._order(o) for o in rows if client_id is None or o[4].decode() == client_id)

    def _order(self, o: tuple[Any, ...]) -> dict[str, Any]:
        (seq, order_id, account, symbol, client_id, side, pos_side, kind, tif, _, status, flags, qty, px, cum, value, new,
         update) = o  # fmt: skip
        spec = self.x.instruments[symbol]
        return {
            "seq": seq,
            "account": self.x.accounts.name(account),
            "symbol": spec.symbol,
            "orderId": order_id,
            "clientOrderId": client_id.decode(),
            "side": "BUY" if side > 0 else "SELL",
            "positionSide": POSITION_SIDES[pos_side],
            "type": TYPES[kind],
            "timeInForce": TIFS[tif],
            "price": spec.price_text(px),
            "origQty": spec.qty_text(qty),
            "reduceOnly": bool(flags & 1),
            "liquidation": bool(flags & 8),
            "executedQty": spec.qty_text(cum),
            "cumQuote": fixed(value, 8),
            "avgPrice": fixed(value * E8 // (cum * spec.lot_e8), 8) if cum else "0",
            "status": STATUSES[status],
            "ts": new,
            "ts_done": update if status >= DONE else 0,
        }

    async def rejects(self, request: web.Request) -> web.Response:
        """Requests that were refused, by the wire or by the engine, with their code (the newest 200,000)."""
        after, limit = self._page(request)
        rows = [row for row in self.x.refusals if row["seq"] > after][:limit]
        return _lines(rows)

    async def trades(self, request: web.Request) -> web.Response:
        after, limit = self._page(request)
        wanted = request.query.get("account")
        if wanted is None:
            rows = self.engine.trades_after(after, limit)
        else:
            rows = self.engine.trades_of(self._account(wanted), -1, 1_000_000, after + 1)[:limit]
        return _lines(self._trade(t) for t in rows)

    def _trade(self, t: tuple[int, ...]) -> dict[str, Any]:
        spec = self.x.instruments[t[2]]
        name = self.x.accounts.name
        return {
            "seq": t[0],
            "id": t[1],
            "symbol": spec.symbol,
            "price": spec.price_text(t[3]),
            "qty": spec.qty_text(t[4]),
            "ts": t[5],
            "maker": "SELL" if t[6] > 0 else "BUY",
            "buyer": name(t[7]),
            "buyOrderId": t[8],
            "buyFee": fixed(t[9], 8),
            "buyPnl": fixed(t[10], 8),
            "buyPositionSide": POSITION_SIDES[t[11]],
            "seller": name(t[12]),
            "sellOrderId": t[13],
            "sellFee": fixed(t[14], 8),
            "sellPnl": fixed(t[15], 8),
            "sellPositionSide": POSITION_SIDES[t[16]],
            "buyName": self.x.execution_name(t[2], t[1], t[7]),
            "sellName": self.x.execution_name(t[2], t[1], t[12]),
        }

    def _named(self, request: web.Request) -> Iterable[tuple[int, str]]:
        after, limit = self._page(request)
        wanted = request.query.get("account")
        if wanted is not None:
            return [(self._account(wanted), wanted)]
        names = sorted((account, name) for name, account in self.x.accounts.index.items() if account > after)
        return names[:limit]

    async def positions(self, request: web.Request) -> web.Response:
        """Positions of every named account, one line per leg that is or ever was open; ``seq`` is the account's number."""
        return _lines(row for account, name in self._named(request) for row in self._positions(account, name))

    def _positions(self, account: int, name: str) -> Iterable[dict[str, Any]]:
        for index, spec in enumerate(self.x.instruments):
            for side in range(3):
                qty, cost, iso, realised, updated, upnl, _ = self.engine.position(account, index, side)
                if updated == 0 and qty == 0:
                    continue
                yield {
                    "seq": account,
                    "account": name,
                    "symbol": spec.symbol,
                    "positionSide": POSITION_SIDES[side],
                    "qty": spec.qty_text(qty),
                    "lots": qty,
                    "cost": fixed(cost, 8),
                    "isolatedWallet": fixed(iso, 8),
                    "realisedPnl": fixed(realised, 8),
                    "unrealisedPnl": fixed(upnl, 8),
                    "ts": updated,
                }

    async def balances(self, request: web.Request) -> web.Response:
        return _lines(self._balance(account, name) for account, name in self._named(request))

    def _balance(self, account: int, name: str) -> dict[str, Any]:
        wallet, cross, cross_upnl, iso_upnl, position_im, order_im, maint, _, available, fees = self.engine.account_state(account)
        return {
            "seq": account,
            "account": name,
            "wallet": fixed(wallet, 8),
            "crossWallet": fixed(cross, 8),
            "unrealisedPnl": fixed(cross_upnl + iso_upnl, 8),
            "equity": fixed(wallet + cross_upnl + iso_upnl, 8),
            "initialMargin": fixed(position_im + order_im, 8),
            "maintMargin": fixed(maint, 8),
            "available": fixed(available, 8),
            "fees": fixed(fees, 8),
        }

    async def incomes(self, request: web.Request) -> web.Response:
        """Wallet changes no trade explains: deposits, funding, insurance, liquidation fees."""
        after, limit = self._page(request)
        kinds = {2: "DEPOSIT", 3: "WITHDRAW", 4: "FUNDING_FEE", 5: "INSURANCE_CLEAR", 6: "MARGIN_TRANSFER", 7: "ADJUSTMENT"}
        return _lines(
            {
                "seq": seq,
                "ts": ts,
                "account": self.x.accounts.name(account),
                "symbol": self.x.instruments[symbol].symbol if symbol >= 0 else "",
                "kind": kinds.get(kind, str(kind)),
                "amount": fixed(amount, 8),
            }
            for seq, ts, account, symbol, kind, amount in self.engine.incomes_after(after, limit)
        )

    async def transfers_decided(self, request: web.Request) -> web.Response:
        """Every transfer ordered by id, executed or refused."""
        return _lines(self.transfers.rows(*self._page(request)))

    async def quotes(self, request: web.Request) -> web.Response:
        """Every change of best bid, best ask or mark; the oldest may have been dropped (bounded log)."""
        after, limit = self._page(request)
        if "since" in request.query:
            after = int(request.query["since"])
        specs = self.x.instruments
        return _lines(
            {
                "seq": seq,
                "ts": ts,
                "symbol": specs[symbol].symbol,
                "bid": specs[symbol].price_text(bid),
                "ask": specs[symbol].price_text(ask),
                "mark": specs[symbol].price_text(mark),
            }
            for seq, ts, symbol, bid, ask, mark in self.engine.quotes_after(after, limit)
        )

    async def faults_made(self, request: web.Request) -> web.Response:
        """Every fault that was made; the oldest may have been dropped (bounded log)."""
        after, limit = self._page(request)
        log = self.x.faults.log
        first = max(0, after + 1 - (log[0].seq if log else 0))
        return _lines(msgspec.structs.asdict(made) for made in islice(log, first, first + limit))

    async def reads(self, request: web.Request) -> web.Response:
        after, limit = self._page(request)
        return _lines(row for row in self.x.reads[after + 1 : after + 1 + limit])

    async def stats(self, request: web.Request) -> web.Response:
        x = self.x
        total, fees, residue, deposits = self.engine.totals()
        return web.json_response(
            {
                **x.stats(),
                "seed": x.seed,
                "accounts": len(x.accounts.index),
                "orders_refused": x.n_refusals,
                "trades": self.engine.n_trades(),
                "quotes": self.engine.n_quotes,
                "connection_attempts": x.connects,
                "fault_rules": len(x.faults.rules),
                "faults_made": x.faults.n_made,
                "maker_flow_hash": x.maker_hash(),
                "maker_steps": x.makers.step_no if x.makers is not None else 0,
                "wallets_sum": fixed(total, 8),
                "fees_collected": fixed(fees, 8),
                "funding_residue": fixed(residue, 8),
                "deposits": fixed(deposits, 8),
                "books_balance": total + fees + residue == deposits,
                "memory_bytes": self.engine.memory_bytes(),
                "rss_max_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "uptime_s": (x.now_ns() - x.started_ns) / 1e9,
                "ts": x.now_ns(),
            }
        )


def _lines(rows: Iterable[dict[str, Any]]) -> web.Response:
    body = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    return web.Response(body=body, content_type="application/x-ndjson")


def money_or_fail(text: str) -> int:
    """A decimal text as 1e-8 USDT."""
    try:
        return money_e8(text, "amount")
    except Exception:
        raise UsageError(f"not an amount: {text!r}") from None
