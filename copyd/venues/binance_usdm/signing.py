"""Signatures, and the readable twin of ``copyd._fast.encode``.

REST: the string signed is the query exactly as sent, percent-encoded first, ``signature`` last. WebSocket API: all
parameters but ``signature``, sorted by name, joined ``k=v&k=v``, not encoded. HMAC-SHA256, hex.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from copyd.venues.common.instruments import shortest
from copyd.venues.common.signing import Key


def signed_query(key: Key, params: Mapping[str, Any], timestamp_ms: int, recv_window_ms: int) -> str:
    """The query string of a signed REST call."""
    query = urlencode({**params, "recvWindow": recv_window_ms, "timestamp": timestamp_ms})
    return f"{query}&signature={key.sign(query.encode())}"


def ws_signed_text(params: Mapping[str, Any]) -> str:
    """The string a WebSocket API request signs."""
    return "&".join(f"{name}={params[name]}" for name in sorted(params))


def ws_request(key: Key, request_id: str, method: str, params: Mapping[str, Any]) -> bytes:
    """A signed WebSocket API request; ``params`` must hold ``timestamp``. The key travels with it, so any connection will do."""
    params = {**params, "apiKey": key.api_key.decode()}
    params["signature"] = key.sign(ws_signed_text(params).encode())
    return json.dumps({"id": request_id, "method": method, "params": params}, separators=(",", ":")).encode()


#: Request ids: a placement uses the bare client order id, so that its reply names the order; other calls carry a prefix.
QUERY_PREFIX = "q-"
CANCEL_PREFIX = "c-"


def status_request(
    key: Key, symbol: str, client_order_id: str, timestamp_ms: int, recv_window_ms: int, number: int | None = None
) -> bytes:
    """``order.status`` by client order id. ``number``: of this question, so that an answer is taken for no later one."""
    params = {
        "symbol": symbol, "origClientOrderId": client_order_id, "timestamp": timestamp_ms, "recvWindow": recv_window_ms,
    }  # fmt: skip
    return ws_request(key, f"{QUERY_PREFIX}{client_order_id if number is None else number}", "order.status", params)


def cancel_request(key: Key, symbol: str, client_order_id: str, timestamp_ms: int, recv_window_ms: int) -> bytes:
    """``order.cancel`` by client order id."""
    params = {
        "symbol": symbol, "origClientOrderId": client_order_id, "timestamp": timestamp_ms, "recvWindow": recv_window_ms,
    }  # fmt: skip
    return ws_request(key, CANCEL_PREFIX + client_order_id, "order.cancel", params)


def place_text(
    key: Key,
    *,
    symbol: str,
    price_decimals: int,
    tick: int,
    qty_decimals: int,
    lot: int,
    cid: bytes,
    order_qty: int,
    limit_px: int,
    side: int,
    position_side: int,
    reduce_only: bool,
    timestamp_ms: int,
    recv_window_ms: int,
) -> bytes:
    """The ``order.place`` request the compiled encoder must produce, byte for byte (frame and mask aside)."""
    params: dict[str, Any] = {"symbol": symbol, "side": "BUY" if side > 0 else "SELL"}
    if position_side:
        params["positionSide"] = ("BOTH", "LONG", "SHORT")[position_side]
    params["type"] = "LIMIT" if limit_px else "MARKET"
    if limit_px:
        params["timeInForce"] = "IOC"
    params["quantity"] = shortest(order_qty * lot, qty_decimals)
    if limit_px:
        params["price"] = shortest(limit_px * tick, price_decimals)
    if reduce_only:
        params["reduceOnly"] = "true"
    params["newClientOrderId"] = cid.hex()
    params["newOrderRespType"] = "RESULT"
    params["apiKey"] = key.api_key.decode()
    params["timestamp"] = timestamp_ms
    params["recvWindow"] = recv_window_ms
    params["signature"] = key.sign(ws_signed_text(params).encode())
    return json.dumps({"id": cid.hex(), "method": "order.place", "params": params}, separators=(",", ":")).encode()


def cut_frames(buffer: bytes) -> list[bytes]:
    """Client frames laid back to back, one by one, as they are."""
    found = []
    at = 0
    while at < len(buffer):
        if buffer[at] != 0x81 or buffer[at + 1] != 0x80 | 126:
            raise ValueError("not a masked text frame of 126 to 65535 bytes")
        end = at + 8 + int.from_bytes(buffer[at + 2 : at + 4], "big")
        if end > len(buffer):
            raise ValueError("frame is cut short")
        found.append(buffer[at:end])
        at = end
    return found


def frames(buffer: bytes) -> list[bytes]:
    """The unmasked payloads of client frames laid back to back (for tests and ``explain``)."""
    return [bytes(c ^ frame[4 + (i & 3)] for i, c in enumerate(frame[8:])) for frame in cut_frames(buffer)]
