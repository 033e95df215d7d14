"""The OKX v5 dialect of the spot market, over the spot engine: balances per asset, orders paid in full, nothing lent.

All that the venue says alike of both its markets is ``okx``'s. Here: quantities in the base asset, a market buy sized in the
quote asset unless ``tgtCcy`` says ``base_ccy``, ``tdMode`` ``cash`` (``cross`` in the account modes that know no other, also
without borrowing), fees in the asset received (written below 0, as everywhere at this venue), a largest value of a market order
and no least one, pushes of the balances that changed (one that is zero now is not pushed). Orders cannot be amended. An account
has the venue's mode for spot unless it was given another.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, ClassVar, Final

from copyd._fast import sim_engine as eng
from copyd.exchange import okx
from copyd.exchange.dialect import Host, Market, Owner
from copyd.exchange.model import E8
from copyd.exchange.okx import BILLS, CAUSES, DAY_NS, MS, Asked, Refused, absent, e8, ms, need, plain, whole
from copyd.exchange.spot import SPOT_PROFILES, SpotEngine, SpotInstrument, SpotMakerProfile, SpotMakers

#: A market order is worth this at most, 1e-8 USDT; a limit order the instrument's ``max_notional_e8``.
MARKET_VALUE_MAX_E8: Final = 1_000_000 * E8
#: Account modes whose spot orders are paid in cash; in the others they are of the common margin.
CASH_LEVELS: Final = frozenset({"1", "2"})
_AMOUNT: Final = re.compile(r"\d{1,12}(\.\d{1,8})?")
_BAND: Final = {"min_notional_e8": 0, "max_notional_e8": 20_000_000 * E8, "up_ppm": 1_050_000, "down_ppm": 950_000}
_FINE: Final = {"min_px": 1, "max_px": 100_000_000, **_BAND}

#: Lots as fine as the engine can count their value in; the least order is many of them, as at the venue.
SPOT_INSTRUMENTS: Final = (
    SpotInstrument(
        symbol="BTCUSDT", base="BTC", quote="USDT", tick_e8=10_000_000, lot_e8=10, start_px=600_000, max_qty=10**12,
        market_max_qty=10**12, min_qty=100, **_FINE),
    SpotInstrument(
        symbol="ETHUSDT", base="ETH", quote="USDT", tick_e8=1_000_000, lot_e8=100, start_px=300_000, max_qty=10**12,
        market_max_qty=10**12, min_qty=100, **_FINE),
    SpotInstrument(
        symbol="SOLUSDT", base="SOL", quote="USDT", tick_e8=1_000_000, lot_e8=100, start_px=15_000, max_qty=10**12,
        market_max_qty=10**12, min_qty=1_000, **_FINE),
)  # fmt: skip
#: As the other spot market is quoted; a tick of bitcoin is ten times as large here.
PROFILES: Final = (
    SpotMakerProfile("BTCUSDT", half_spread=5, gap=100), *(one for one in SPOT_PROFILES if one.symbol != "BTCUSDT"),
)  # fmt: skip


class Dialect(okx.Dialect):
    """The venue's words of its spot market over one host."""

    name = "okx_spot"
    inst_type = "SPOT"
    code_base = 301
    account_level = "1"
    market = Market(SPOT_INSTRUMENTS, SpotEngine, partial(SpotMakers, profiles=PROFILES))
    instruments = SPOT_INSTRUMENTS  # type: ignore[assignment]
    refusals: ClassVar = {**okx.REFUSALS, -4164: (51005, "Your order amount exceeds the max order amount.")}
    want_subcode = "1000"
    order_types: ClassVar = {word: kind for word, kind in okx.ORDER_TYPES.items() if word != "optimal_limit_ioc"}
    operations: ClassVar = {op: verb for op, verb in okx.OPERATIONS.items() if verb != "amend"}
    public_channels = ("bbo-tbt", "tickers", "trades")
    clock_channels = ()

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        engine: Any = host.engine
        self.spot: SpotEngine = engine
        self.specs: tuple[SpotInstrument, ...] = engine.specs
        self.hedges: dict[int, bool] = {}  # position modes that were set
        for path in ("mark-price", "funding-rate"):
            del self.open_paths[f"GET /api/v5/public/{path}"]
        self.order_paths = {path: does for path, does in self.order_paths.items() if does[0] != "amend"}
        self.paths["GET /api/v5/account/bills"] = partial(self.bills, 7 * DAY_NS)
        self.paths["GET /api/v5/account/bills-archive"] = partial(self.bills, 90 * DAY_NS)

    # -- instruments ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def inst_id(spec: Any) -> str:
        return f"{spec.base}-{spec.quote}"

    @staticmethod
    def contract_e8(spec: Any) -> int:
        return E8

    def instrument_row(self, index: int) -> dict[str, Any]:
        """``maxMktSz`` is a value here, of the quote asset."""
        spec, most = self.specs[index], e8(MARKET_VALUE_MAX_E8)
        empty = ("instFamily", "uly", "settleCcy", "ctVal", "ctMult", "ctValCcy", "ctType", "expTime", "alias", "optType", "stk")
        return {
            **super().instrument_row(index), **dict.fromkeys(empty, ""), "baseCcy": spec.base, "quoteCcy": spec.quote,
            "maxMktSz": most, "maxMktAmt": most, "maxLmtAmt": e8(spec.max_notional_e8), "lever": "", "groupId": "1",
            "tradeQuoteCcyList": [spec.quote],
        }  # fmt: skip

    # -- account --------------------------------------------------------------------------------------------------------------

    def is_hedge(self, account: int) -> bool:
        """The account's mode for its perpetuals: it means nothing to what is bought and sold here."""
        owner = self.host.owner_of(account)
        given = owner is not None and owner.rights.get("posMode") == "long_short_mode"
        return self.hedges.get(account, given)

    def set_position_mode(self, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        mode = need(fields, "posMode")
        if mode not in ("net_mode", "long_short_mode"):
            raise Refused(51000, "Parameter posMode error", 400)
        self._knows_positions(owner)
        self.hedges[owner.account] = mode == "long_short_mode"
        return [{"posMode": mode}]

    def _knows_positions(self, owner: Owner) -> None:
        """51010 in the account mode for spot."""
        if self.level(owner) == "1":
            raise Refused(51010, "Request unsupported under current account mode")

    def leverage_info(self, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        raise Refused(51010, "Request unsupported under current account mode")

    def set_leverage(self, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        raise Refused(51010, "Request unsupported under current account mode")

    def held(self, account: int, symbols: Any) -> list[tuple[int, int]]:
        """None: what is owned stands in the balances."""
        return []

    def fees_ppm(self, account: int) -> tuple[int, int]:
        return self.spot.fees_of(account)

    def worth_e8(self, asset: str, amount_e8: int) -> int:
        """What an amount is worth in the quote asset at the mark, rounded down."""
        for index, spec in enumerate(self.specs):
            if spec.base == asset:
                return amount_e8 * self.spot.mark(index) * spec.tick_e8 // E8
        return amount_e8

    def asset_row(self, account: int, asset: str) -> dict[str, Any]:
        """A balance: cash and equity are all of it, also what open orders lock."""
        free, locked = self.spot.balance(account, asset)
        owner = self.host.owner_of(account)
        has = e8(free + locked)
        return {
            "ccy": asset, "eq": has, "eqUsd": e8(self.worth_e8(asset, free + locked)), "cashBal": has, "availBal": e8(free),
            "availEq": "" if owner is None or self.level(owner) == "1" else e8(free), "isoEq": "0", "isoUpl": "0", "upl": "0",
            "frozenBal": e8(locked), "ordFrozen": e8(locked), "imr": "", "mmr": "", "disEq": "0", "liab": "", "interest": "",
            "stgyEq": "0", "spotBal": has, "uTime": ms(self.host.server_ns()),
        }  # fmt: skip

    def balance_row(self, account: int, assets: Any = None) -> dict[str, Any]:
        """The account with the assets that it has something of, of those asked for."""
        owned = {asset: free + locked for asset, free, locked in self.spot.balances(account)}
        self.host.note_equity(account, self.spot.equity_e8(account), self.host.now_ns())
        return {
            "totalEq": e8(sum(self.worth_e8(asset, amount) for asset, amount in owned.items())), "isoEq": "", "adjEq": "",
            "availEq": "", "imr": "", "mmr": "", "ordFroz": "", "uTime": ms(self.host.server_ns()),
            "details": [
                self.asset_row(account, asset) for asset, amount in owned.items()
                if amount and (assets is None or asset in assets)
            ],
        }  # fmt: skip

    def balance(self, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        wanted = fields.get("ccy")
        return [self.balance_row(owner.account, None if absent(wanted) else str(wanted).split(","))]

    def bills(self, kept_ns: int, owner: Owner, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """Transfers of every asset, newest first."""
        since = max(self.host.now_ns() - kept_ns, whole(fields, "begin", 0) * MS)
        until = whole(fields, "end", 1 << 43) * MS
        found = []
        for number, (ts, asset, amount) in enumerate(self.spot.flows_of(owner.account)):
            kind = BILLS[eng.REASON_DEPOSIT if amount > 0 else eng.REASON_WITHDRAW]
            if fields.get("type") not in (None, "", kind[0]) or fields.get("ccy") not in (None, "", asset):
                continue
            if since <= ts <= until:
                found.append({
                    "billId": str(10**15 + number), "type": kind[0], "subType": kind[1 if amount > 0 else 2], "ts": ms(ts),
                    "ccy": asset, "balChg": e8(amount), "pnl": "0", "instType": "", "instId": "", "bal": "", "sz": e8(amount),
                    "fee": "0", "mgnMode": "", "ordId": "",
                })  # fmt: skip
        return self.paged(found[::-1], fields, "billId")

    # -- orders ---------------------------------------------------------------------------------------------------------------

    def order_terms(self, slot: int) -> dict[str, Any]:
        o = self.spot.order(slot)
        quote_e8 = self.spot.quote_order_e8(slot)
        size, unit = (plain(quote_e8, 8), "quote_ccy") if quote_e8 else (self.size(o[3], o[12]), "base_ccy")
        owner = self.host.owner_of(o[2])
        cash = owner is None or self.level(owner) in CASH_LEVELS
        return {
            "sz": size, "tgtCcy": unit if o[7] == eng.TYPE_MARKET else "", "posSide": "net",
            "tdMode": "cash" if cash else "cross", "lever": "", "reduceOnly": "false",
        }  # fmt: skip

    def fee_asset(self, symbol: int, side: int) -> str:
        """What is received is charged."""
        return self.specs[symbol].base if side > 0 else self.specs[symbol].quote

    def position_words(self, account: int) -> tuple[str, ...]:
        return ("", "net")

    def sent(self, owner: Owner, asked: Asked) -> int:
        fields, symbol, account = asked.fields, asked.symbol, owner.account
        side, kind, tif, _ = self._words(account, fields)
        self._trade_mode(owner, fields)
        if fields.get("reduceOnly") in (True, "true"):
            raise Refused(51139, "Reduce-only feature is unavailable for the spot transactions by simple account.")
        px = self.limit_price(symbol, kind, fields)
        qty, quote_e8 = self._size(symbol, side, kind, fields)
        worst = min(qty, quote_e8, px)
        if worst < 0:
            raise Refused(*self.refusals.get(worst, (51000, "Parameter error")))
        if kind == eng.TYPE_MARKET:
            self._check_value(symbol, qty, quote_e8)
        return self.spot.place(
            account, symbol, side, kind, tif, qty, px, asked.client_id.encode(), self.host.now_ns(), quote_e8=quote_e8)

    def _size(self, symbol: int, side: int, kind: int, fields: dict[str, Any]) -> tuple[int, int]:
        """(lots, 1e-8 of the quote asset): one of them, the other 0; below 0 the engine's refusal of it."""
        unit, text = str(fields.get("tgtCcy") or ""), str(fields.get("sz") or "")
        if unit not in ("", "base_ccy", "quote_ccy"):
            raise Refused(51000, "Parameter tgtCcy error")
        bought = kind == eng.TYPE_MARKET and (unit == "quote_ccy" or (not unit and side > 0))
        if not bought:
            return self.lots(symbol, text), 0
        return 0, self.spot.parse_quote(symbol, text.encode()) if _AMOUNT.fullmatch(text) else -1100

    def _check_value(self, symbol: int, qty: int, quote_e8: int) -> None:
        """The bounds of a market order that are no lots: its largest value, and the least quantity of one sized by its value."""
        spec = self.specs[symbol]
        lot_value = self.spot.mark(symbol) * spec.value_mul
        if (quote_e8 or qty * lot_value) > MARKET_VALUE_MAX_E8:
            raise Refused(51201, "Value of per market order cannot exceed 1,000,000 USDT")
        if quote_e8 and quote_e8 < spec.min_qty * lot_value:
            raise Refused(*self.refusals[-4004])

    def engine_refusal(self, asked: Asked, code: int) -> tuple[int, str]:
        if code != -2019:
            return super().engine_refusal(asked, code)
        spec = self.specs[asked.symbol]
        asset = spec.quote if asked.fields.get("side") == "buy" else spec.base
        return 51008, f"Order failed. Insufficient {asset} balance in account"

    def _trade_mode(self, owner: Owner, fields: dict[str, Any]) -> str:
        """``cash``, or ``cross`` where the account's mode knows no other; nothing is lent here."""
        mode, level = str(fields.get("tdMode") or ""), self.level(owner)
        if mode not in ("cash", *okx.MARGINS):
            raise Refused(51000, "Parameter tdMode error")
        if mode == "isolated" and level not in CASH_LEVELS:
            raise Refused(50072, "Isolated margin mode is no longer supported in multi-currency and portfolio margin mode.")
        if (mode == "cash") != (level in CASH_LEVELS):
            raise Refused(51010, "Request unsupported under current account mode")
        return mode

    # -- events ---------------------------------------------------------------------------------------------------------------

    def change_row(self, account: int, cause: str, symbol: int, pos_side: int) -> dict[str, Any]:
        """As it is asked for after subscribing: every asset there is something of."""
        return self._changed_row(account, cause, [asset for asset, free, locked in self.spot.balances(account) if free or locked])

    def _changed_row(self, account: int, cause: str, assets: list[str]) -> dict[str, Any]:
        now = ms(self.host.server_ns())
        rows = [{"ccy": asset, "cashBal": e8(sum(self.spot.balance(account, asset))), "uTime": now} for asset in assets]
        return {"pTime": now, "eventType": cause, "balData": rows, "posData": [], "trades": []}

    def events(self, events: list[tuple[int, ...]]) -> None:
        """Orders and market first; then of each account, once, the balances that a call has changed."""
        super().events([event for event in events if event[0] != eng.EV_ACCOUNT])
        changed: dict[int, list[tuple[int, ...]]] = {}
        for event in events:
            if event[0] == eng.EV_ACCOUNT and self.private.get(event[1]):
                changed.setdefault(event[1], []).append(event)
        for account, rows in changed.items():
            owner = self.host.owner_of(account)
            if owner is not None:
                self._tell_balances(owner, rows)

    def _tell_balances(self, owner: Owner, rows: list[tuple[int, ...]]) -> None:
        """Cash where it changed, the account where what may be spent did as well; what is zero now is left out of the latter."""
        assets = [self.spot.assets[row[3]] for row in rows]
        cash = [self.spot.assets[row[3]] for row in rows if row[20]]
        if cash:
            cause = CAUSES.get(rows[0][8], "settlement")
            self._tell(owner, "balance_and_position", {}, [self._changed_row(owner.account, cause, cash)])
        row = self.balance_row(owner.account, assets)
        if row["details"]:
            self._tell(owner, "account", {}, [row])
