"""Signatures, logins, and orders as text.

REST: the string signed is timestamp, key, receive window and the raw query or the raw body, back to back. A login signs
``GET/realtime`` and the moment it ends. Orders on a logged-in connection are not signed. HMAC-SHA256, hex.
"""

from __future__ import annotations

from typing import Any

from copyd.venues.bybit.instruments import category, wire_symbol
from copyd.venues.common.signing import Key, json_text
from copyd.venues.common.venue import Order

#: A login is good for so long after it was signed: more than the way to the venue and a clock that is a little off take.
LOGIN_MS = 10_000
#: Requests that place an order bear its client order id, so that their answer names it.
CREATE = "order.create"


def rest_headers(key: Key, payload: bytes, now_ms: int, recv_window_ms: int) -> dict[str, str]:
    """Headers that sign a REST call. ``payload``: the query exactly as sent, or the body exactly as sent."""
    stamp, window = str(now_ms), str(recv_window_ms)
    return {
        "X-BAPI-API-KEY": key.api_key.decode(),
        "X-BAPI-TIMESTAMP": stamp,
        "X-BAPI-RECV-WINDOW": window,
        "X-BAPI-SIGN": key.sign(b"".join((stamp.encode(), key.api_key, window.encode(), payload))),
    }


def login_text(key: Key, now_ms: int) -> bytes:
    """The login of either private connection."""
    expires = now_ms + LOGIN_MS
    return json_text({"op": "auth", "args": [key.api_key.decode(), expires, key.sign(b"GET/realtime%d" % expires)]})


def order_fields(order: Order) -> dict[str, Any]:
    """An order as the venue's placement wants it, over either way.

    Sizes are in the base asset always: for a spot market order that has to be said. Where a position is kept per side, the
    side that closes one is reduce-only by its nature and is marked so.
    """
    item = order.instrument
    fields: dict[str, Any] = {
        "category": category(item),
        "symbol": wire_symbol(item),
        "side": "Buy" if order.side > 0 else "Sell",
        "orderType": "Limit" if order.px else "Market",
        "qty": item.qty_text(order.qty),
    }
    if order.px:
        fields["price"] = item.px_text(order.px)
        fields["timeInForce"] = "IOC"
    if item.spot:
        if not order.px:
            fields["marketUnit"] = "baseCoin"
    else:
        if order.reduce_only or closes_side(order):
            fields["reduceOnly"] = True
        fields["positionIdx"] = order.position_side
    fields["orderLinkId"] = order.cid.hex()
    return fields


def closes_side(order: Order) -> bool:
    """Whether it trades against the position side it names: it can only make that side smaller."""
    return (order.position_side == 1 and order.side < 0) or (order.position_side == 2 and order.side > 0)


def place_text(order: Order, now_ms: int, recv_window_ms: int) -> bytes:
    """The ``order.create`` message the compiled rendering must produce, byte for byte (frame and mask aside)."""
    return json_text({
        "reqId": order.cid.hex(),
        "header": {"X-BAPI-TIMESTAMP": str(now_ms), "X-BAPI-RECV-WINDOW": str(recv_window_ms)},
        "op": CREATE,
        "args": [order_fields(order)],
    })


def rest_body(order: Order) -> bytes:
    """The body of ``POST /v5/order/create``."""
    return json_text(order_fields(order))
