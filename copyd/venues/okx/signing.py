"""Signatures of REST and login, and the readable twin of an order message.

REST signs timestamp + method + path with query + body, exactly as sent; a login signs seconds + ``GET/users/self/verify``.
HMAC-SHA256, base64. Orders on a connection that has logged in carry no signature.
"""

from __future__ import annotations

import datetime
from typing import Any, Final

from copyd.venues.common.signing import Key, json_text
from copyd.venues.common.venue import Order

LOGIN_TARGET: Final = "GET/users/self/verify"
POSITION_SIDE: Final = ("net", "long", "short")


def iso_time(time_ms: int) -> str:
    """``1700000000000`` -> ``2023-11-14T22:13:20.000Z``."""
    seconds, ms = divmod(time_ms, 1000)
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}Z"


def rest_headers(
    key: Key, method: str, target: str, body: bytes, time_ms: int, *, simulated: bool = False, expires_ms: int = 0
) -> dict[str, str]:
    """Headers of a signed call. ``expires_ms``: after this the venue drops it instead of doing it; 0 = never."""
    stamp = iso_time(time_ms)
    headers = {
        "OK-ACCESS-KEY": key.api_key.decode(),
        "OK-ACCESS-SIGN": key.sign_base64(f"{stamp}{method}{target}".encode() + body),
        "OK-ACCESS-TIMESTAMP": stamp,
        "OK-ACCESS-PASSPHRASE": key.passphrase(),
        "Content-Type": "application/json",
    }
    if simulated:
        headers["x-simulated-trading"] = "1"
    if expires_ms:
        headers["expTime"] = str(expires_ms)
    return headers


def login_text(key: Key, time_ms: int) -> bytes:
    """The login of a private connection; its timestamp counts seconds."""
    stamp = str(time_ms // 1000)
    args = {
        "apiKey": key.api_key.decode(),
        "passphrase": key.passphrase(),
        "timestamp": stamp,
        "sign": key.sign_base64(f"{stamp}{LOGIN_TARGET}".encode()),
    }
    return json_text({"op": "login", "args": [args]})


def trade_mode(order: Order, isolated: bool) -> str:
    """``tdMode``: here the margin type travels with each order instead of being set for the instrument."""
    if order.instrument.spot:
        return "cash"
    return "isolated" if isolated else "cross"


def order_fields(order: Order, isolated: bool) -> dict[str, Any]:
    """The fields of an order that REST and WebSocket share, in the order they are written.

    Reduce-only is said on one-way accounts alone: on the others the position side says it, and the parameter is ignored.
    A spot market order is sized in the base asset; the venue's default for a buy is the quote asset.
    """
    instrument = order.instrument
    fields: dict[str, Any] = {"tdMode": trade_mode(order, isolated), "side": "buy" if order.side > 0 else "sell"}
    if order.position_side:
        fields["posSide"] = POSITION_SIDE[order.position_side]
    fields["ordType"] = "ioc" if order.px else "market"
    fields["sz"] = instrument.qty_text(order.qty)
    if order.px:
        fields["px"] = instrument.px_text(order.px)
    elif instrument.spot:
        fields["tgtCcy"] = "base_ccy"
    if order.reduce_only and not order.position_side and not instrument.spot:
        fields["reduceOnly"] = True
    fields["clOrdId"] = order.cid.hex()
    return fields


def place_text(order: Order, *, expires_ms: int, isolated: bool = True) -> bytes:
    """An order on the private connection; its id is the client order id, so that every answer names the order.

    ``expires_ms``: the venue's time after which it drops the order instead of taking it.
    """
    fields = {"instIdCode": order.instrument.code, **order_fields(order, isolated)}
    return json_text({"id": order.cid.hex(), "op": "order", "expTime": str(expires_ms), "args": [fields]})


def place_body(order: Order, *, isolated: bool = True) -> bytes:
    """The same order as the body of ``POST /api/v5/trade/order``."""
    return json_text({"instId": order.instrument.symbol, **order_fields(order, isolated)})
