"""Leaders on venues that are not Binance: their own small signed REST clients, written against the wire alone.

Nothing here is of the daemon's adapters: a mistake there cannot repeat itself here. An order's quantity is said in the venue's
own unit (contracts at OKX), its margin is isolated.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urlencode

import msgspec

from copyd.errors import VenueUnavailable

from .exchange import LeaderClient
from .history import Instrument
from .workload import Step


def hmac_base64(secret: bytes, text: str) -> str:
    """HMAC-SHA256 in base64, as OKX and Bitget sign."""
    return base64.b64encode(hmac.digest(secret, text.encode(), hashlib.sha256)).decode()


class JsonClient(LeaderClient):
    """Requests whose parameters are JSON in a POST and a query in a GET, signed over what is sent."""

    answer_ok: tuple[str, object] = ("code", "0")  #: name and value that say that the request was done

    def signed(self, method: str, path: str, body: str, now_ms: int) -> dict[str, str]:
        """Headers of a request. ``path`` with its query."""
        raise NotImplementedError

    async def call(self, method: str, path: str, **params: Any) -> Any:
        """One signed request: the answer's data; a refusal raises with the venue's words."""
        query = f"?{urlencode(params)}" if method == "GET" and params else ""
        body = msgspec.json.encode(params).decode() if method == "POST" else ""
        headers = self.signed(method, path + query, body, time.time_ns() // 1_000_000)
        headers["Content-Type"] = "application/json"
        async with self.session.request(method, self.rest + path + query, data=body or None, headers=headers) as answer:
            raw = await answer.read()
        try:
            told = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            told = {}
        name, value = self.answer_ok
        if told.get(name) != value:
            raise VenueUnavailable(f"the leader's {method} {path} was refused: {raw[:300].decode(errors='replace')}")
        return told.get("result", told.get("data"))

    def client_id(self) -> str:
        """The next order's own id."""
        self.orders += 1
        return f"lead{self.orders:06d}"


class OkxLeader(JsonClient):
    """OKX v5: one-way mode, isolated margin, quantities in contracts."""

    def signed(self, method: str, path: str, body: str, now_ms: int) -> dict[str, str]:
        stamp = f"{datetime.fromtimestamp(now_ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{now_ms % 1000:03d}Z"
        return {
            "OK-ACCESS-KEY": self.api_key, "OK-ACCESS-PASSPHRASE": self.passphrase, "OK-ACCESS-TIMESTAMP": stamp,
            "OK-ACCESS-SIGN": hmac_base64(self._secret, stamp + method + path + body),
        }  # fmt: skip

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        await self.call("POST", "/api/v5/account/set-leverage", instId=symbol, lever=str(leverage), mgnMode="isolated")

    async def best(self, symbol: str) -> tuple[str, str]:
        row = (await self.call("GET", "/api/v5/market/ticker", instId=symbol))[0]
        return row["bidPx"], row["askPx"]

    async def place(self, step: Step, instrument: Instrument) -> str:
        body: dict[str, Any] = {
            "instId": step.symbol, "tdMode": "isolated", "side": "buy" if step.side > 0 else "sell",
            "ordType": "market" if step.kind == "MARKET" else "limit", "sz": instrument.qty_text(step.lots),
            "clOrdId": self.client_id(),
        }  # fmt: skip
        if step.kind != "MARKET":
            body["px"] = await self.price(step, instrument)
        if step.reduce_only:
            body["reduceOnly"] = True
        return str((await self.call("POST", "/api/v5/trade/order", **body))[0]["ordId"])

    async def order_status(self, symbol: str, order_id: str) -> str:
        return str((await self.call("GET", "/api/v5/trade/order", instId=symbol, ordId=order_id))[0]["state"])

    async def cancel_all(self, symbol: str) -> None:
        for row in await self.call("GET", "/api/v5/trade/orders-pending", instType="SWAP", instId=symbol):
            await self.call("POST", "/api/v5/trade/cancel-order", instId=symbol, ordId=row["ordId"])


class BybitLeader(JsonClient):
    """Bybit v5, linear: one-way mode, quantities in the base asset."""

    answer_ok = ("retCode", 0)
    LEVERAGE_NOT_MODIFIED = '"retCode":110043'
    WINDOW_MS = "10000"

    def signed(self, method: str, path: str, body: str, now_ms: int) -> dict[str, str]:
        text = f"{now_ms}{self.api_key}{self.WINDOW_MS}{body or path.partition('?')[2]}"
        return {
            "X-BAPI-API-KEY": self.api_key, "X-BAPI-TIMESTAMP": str(now_ms), "X-BAPI-RECV-WINDOW": self.WINDOW_MS,
            "X-BAPI-SIGN": hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest(),
        }  # fmt: skip

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        words = {"buyLeverage": str(leverage), "sellLeverage": str(leverage)}
        try:
            await self.call("POST", "/v5/position/set-leverage", category="linear", symbol=symbol, **words)
        except VenueUnavailable as refused:
            if self.LEVERAGE_NOT_MODIFIED not in str(refused):
                raise

    async def best(self, symbol: str) -> tuple[str, str]:
        row = (await self.call("GET", "/v5/market/tickers", category="linear", symbol=symbol))["list"][0]
        return row["bid1Price"], row["ask1Price"]

    async def place(self, step: Step, instrument: Instrument) -> str:
        body: dict[str, Any] = {
            "category": "linear", "symbol": step.symbol, "side": "Buy" if step.side > 0 else "Sell",
            "orderType": "Market" if step.kind == "MARKET" else "Limit", "qty": instrument.qty_text(step.lots),
            "positionIdx": 0, "orderLinkId": self.client_id(),
        }  # fmt: skip
        if step.kind != "MARKET":
            body |= {"price": await self.price(step, instrument), "timeInForce": "GTC"}
        if step.reduce_only:
            body["reduceOnly"] = True
        return str((await self.call("POST", "/v5/order/create", **body))["orderId"])

    async def order_status(self, symbol: str, order_id: str) -> str:
        found = await self.call("GET", "/v5/order/realtime", category="linear", symbol=symbol, orderId=order_id)
        return str(found["list"][0]["orderStatus"])

    async def cancel_all(self, symbol: str) -> None:
        await self.call("POST", "/v5/order/cancel-all", category="linear", symbol=symbol)


class BitgetLeader(JsonClient):
    """Bitget v2, USDT futures: one-way mode, isolated margin, quantities in the base asset."""

    answer_ok = ("code", "00000")
    PRODUCT: ClassVar[dict[str, str]] = {"productType": "USDT-FUTURES", "marginCoin": "USDT"}

    def signed(self, method: str, path: str, body: str, now_ms: int) -> dict[str, str]:
        return {
            "ACCESS-KEY": self.api_key, "ACCESS-PASSPHRASE": self.passphrase, "ACCESS-TIMESTAMP": str(now_ms),
            "ACCESS-SIGN": hmac_base64(self._secret, f"{now_ms}{method}{path}{body}"), "locale": "en-US",
        }  # fmt: skip

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        await self.call("POST", "/api/v2/mix/account/set-margin-mode", symbol=symbol, marginMode="isolated", **self.PRODUCT)
        await self.call("POST", "/api/v2/mix/account/set-leverage", symbol=symbol, leverage=str(leverage), **self.PRODUCT)

    async def best(self, symbol: str) -> tuple[str, str]:
        row = (await self.call("GET", "/api/v2/mix/market/ticker", symbol=symbol, productType="USDT-FUTURES"))[0]
        return row["bidPr"], row["askPr"]

    async def place(self, step: Step, instrument: Instrument) -> str:
        body: dict[str, Any] = {
            "symbol": step.symbol, **self.PRODUCT, "marginMode": "isolated", "side": "buy" if step.side > 0 else "sell",
            "orderType": "market" if step.kind == "MARKET" else "limit", "size": instrument.qty_text(step.lots),
            "clientOid": self.client_id(),
        }  # fmt: skip
        if step.kind != "MARKET":
            body |= {"price": await self.price(step, instrument), "force": "gtc"}
        if step.reduce_only:
            body["reduceOnly"] = "YES"
        return str((await self.call("POST", "/api/v2/mix/order/place-order", **body))["orderId"])

    async def order_status(self, symbol: str, order_id: str) -> str:
        words = {"symbol": symbol, "orderId": order_id, "productType": "USDT-FUTURES"}
        return str((await self.call("GET", "/api/v2/mix/order/detail", **words))["state"])

    async def cancel_all(self, symbol: str) -> None:
        await self.call("POST", "/api/v2/mix/order/cancel-all-orders", symbol=symbol, **self.PRODUCT)


CLIENTS: dict[str, type[LeaderClient]] = {
    "binance_usdm": LeaderClient, "okx": OkxLeader, "bybit": BybitLeader, "bitget": BitgetLeader,
}  # fmt: skip
"""A leader's client by the dialect he speaks."""
