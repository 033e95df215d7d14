"""Signatures, and the readable twin of the compiled rendering.

REST: the string signed is the query exactly as sent, percent-encoded first, ``signature`` last. WebSocket API: all parameters
but ``signature``, sorted by name, joined ``k=v&k=v``, not encoded. HMAC-SHA256, hex. The key travels with every request, so any
connection will do for any account.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Order


def signed_query(key: Key, query: str, timestamp_ms: int, recv_window_ms: int) -> str:
    """The query string of a signed REST call. ``query``: its parameters, encoded; "" where it has none."""
    whole = f"{query}&" * bool(query) + f"recvWindow={recv_window_ms}&timestamp={timestamp_ms}"
    return f"{whole}&signature={key.sign(whole.encode())}"


def ws_signed_text(params: Mapping[str, Any]) -> str:
    """The string a WebSocket API request signs."""
    return "&".join(f"{name}={params[name]}" for name in sorted(params))


def ws_request(key: Key, request_id: str, method: str, params: Mapping[str, Any]) -> bytes:
    """A signed WebSocket API request: the parameters as given (``timestamp`` and ``apiKey`` among them), ``signature`` last."""
    full = {**params, "signature": key.sign(ws_signed_text(params).encode())}
    return json.dumps({"id": request_id, "method": method, "params": full}, separators=(",", ":")).encode()


def subscribe_request(key: Key, request_id: str, timestamp_ms: int) -> bytes:
    """``userDataStream.subscribe.signature``: the account's events come on this connection from now on."""
    params = {"apiKey": key.api_key.decode(), "timestamp": timestamp_ms}
    return ws_request(key, request_id, "userDataStream.subscribe.signature", params)


def order_params(order: Order) -> dict[str, str]:
    """The order's own parameters in the order they are sent. Spot knows no reduce-only and no position side: neither is sent."""
    item = order.instrument
    params = {"symbol": item.symbol, "side": "BUY" if order.side > 0 else "SELL", "type": "LIMIT" if order.px else "MARKET"}
    if order.px:
        params["timeInForce"] = "IOC"
    params["quantity"] = item.qty_text(order.qty)
    if order.px:
        params["price"] = item.px_text(order.px)
    params["newClientOrderId"] = order.cid.hex()
    params["newOrderRespType"] = "RESULT"
    return params


def place_text(order: Order, key: Key, timestamp_ms: int, recv_window_ms: int) -> bytes:
    """The ``order.place`` request of an order; its id is the client order id, so that the answer names the order."""
    params: dict[str, Any] = dict(order_params(order))
    params["apiKey"] = key.api_key.decode()
    params["timestamp"] = timestamp_ms
    params["recvWindow"] = recv_window_ms
    return ws_request(key, order.cid.hex(), "order.place", params)
