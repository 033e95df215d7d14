"""Signatures of REST and login, and the readable twin of an order message.

Signed is timestamp, method, path, query with its "?" and body, as they are sent and unescaped, by HMAC-SHA256 in base64; a
login signs timestamp, ``GET`` and ``/user/verify``, its timestamp in seconds. Queries are sorted by name.
"""

from __future__ import annotations

from copyd.venues.bitget.contract import MARGIN_COIN, PRODUCT
from copyd.venues.bitget.instruments import venue_symbol
from copyd.venues.common.signing import Key, json_text
from copyd.venues.common.venue import Order

PLACE_V2 = "/api/v2/mix/order/place-order"
PLACE_SPOT_V2 = "/api/v2/spot/trade/place-order"
PLACE_V3 = "/api/v3/trade/place-order"


def headers(key: Key, method: str, target: str, body: bytes, now_ms: int, *, demo: bool = False) -> dict[str, str]:
    """The headers of a signed call. ``target``: path and query exactly as sent. ``demo``: the key is one of play money."""
    found = {
        "ACCESS-KEY": key.api_key.decode(),
        "ACCESS-SIGN": key.sign_base64(f"{now_ms}{method}{target}".encode() + body),
        "ACCESS-TIMESTAMP": str(now_ms),
        "ACCESS-PASSPHRASE": key.passphrase(),
        "Content-Type": "application/json",
        "locale": "en-US",
    }
    if demo:
        found["paptrading"] = "1"
    return found


def login_text(key: Key, now_ms: int) -> bytes:
    """The login of a private connection, of either API."""
    seconds = str(now_ms // 1000)
    args = {
        "apiKey": key.api_key.decode(), "passphrase": key.passphrase(), "timestamp": seconds,
        "sign": key.sign_base64(f"{seconds}GET/user/verify".encode()),
    }  # fmt: skip
    return json_text({"op": "login", "args": [args]})


def place_path(order: Order, *, unified: bool) -> str:
    """Where a placement goes."""
    if unified:
        return PLACE_V3
    return PLACE_SPOT_V2 if order.instrument.spot else PLACE_V2


def place_text(order: Order, *, isolated: bool, unified: bool) -> bytes:
    """The body of a placement. ``isolated``: how the account keeps its margin, which every order of a perpetual repeats.

    A market order that buys spot is ``ValueError``: the venue sizes it in the quote asset, our quantities are of the base.
    """
    item = order.instrument
    if item.spot and not order.px and order.side > 0:
        raise ValueError(f"{item.symbol}: a market order that buys spot is sized in the quote asset")
    return json_text(_v3(order, isolated) if unified else _v2_spot(order) if item.spot else _v2(order, isolated))


def _v2(order: Order, isolated: bool) -> dict[str, str]:
    item = order.instrument
    body = {
        "symbol": venue_symbol(item.symbol), "productType": PRODUCT, "marginMode": "isolated" if isolated else "crossed",
        "marginCoin": MARGIN_COIN, "size": _qty(order),
    }  # fmt: skip
    if order.px:
        body["price"] = _price(order)
    if order.position_side:
        # On a two-sided account ``side`` names the position: a long is opened and closed with "buy".
        long = order.position_side == 1
        body["side"] = "buy" if long else "sell"
        body["tradeSide"] = "open" if (order.side > 0) == long else "close"
    else:
        body["side"] = "buy" if order.side > 0 else "sell"
    body["orderType"] = "limit" if order.px else "market"
    if order.px:
        body["force"] = "ioc"
    if order.reduce_only and not order.position_side:
        body["reduceOnly"] = "YES"
    body["clientOid"] = order.cid.hex()
    return body


def _v2_spot(order: Order) -> dict[str, str]:
    body = {
        "symbol": venue_symbol(order.instrument.symbol), "side": "buy" if order.side > 0 else "sell",
        "orderType": "limit" if order.px else "market", "force": "ioc" if order.px else "gtc",
    }  # fmt: skip
    if order.px:
        body["price"] = _price(order)
    body["size"] = _qty(order)
    body["clientOid"] = order.cid.hex()
    return body


def _v3(order: Order, isolated: bool) -> dict[str, str]:
    item = order.instrument
    body = {"category": "SPOT" if item.spot else PRODUCT, "symbol": venue_symbol(item.symbol), "qty": _qty(order)}
    if order.px:
        body["price"] = _price(order)
    # Here ``side`` is what is done and ``posSide`` the position it is done to: the other way round than in v2.
    body["side"] = "buy" if order.side > 0 else "sell"
    if order.position_side:
        body["posSide"] = "long" if order.position_side == 1 else "short"
    body["orderType"] = "limit" if order.px else "market"
    if order.px:
        body["timeInForce"] = "ioc"
    if not item.spot:
        body["marginMode"] = "isolated" if isolated else "crossed"
        if order.reduce_only and not order.position_side:
            body["reduceOnly"] = "yes"
    body["clientOid"] = order.cid.hex()
    return body


def _qty(order: Order) -> str:
    return order.instrument.qty_text(order.qty)


def _price(order: Order) -> str:
    return order.instrument.px_text(order.px)
