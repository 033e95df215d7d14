"""How many orders per second the simulated exchange accepts over its WebSocket API, on one core.

The exchange runs as its own process; this one sends signed ``order.place`` frames made beforehand, MARKET orders of 0.001 BTC
that all match, alternately buy and sell, and reads every RESULT. Counted in: frame parsing, signature check, matching,
answers, user events where listened to. The figure for one core is orders per CPU second of the exchange process.

    python -m bench.bench_exchange_wire --orders 100000 --accounts 1000 --connections 4 [--listen] [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import pathlib
import selectors
import socket
import sys
import time
from typing import Any

import orjson

from tests.exchange.wire_helpers import control, make_accounts, running_exchange

DONE = b'"status":200,"result":{"orderId"'
EVENT = b'"e":"'
HEAD = (
    "GET {} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def connect(port: int, path: str) -> socket.socket:
    """A WebSocket connection as a plain socket, after its handshake."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(HEAD.format(path).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = sock.recv(4096)
        if not piece:
            raise RuntimeError(f"handshake refused: {answer!r}")
        answer += piece
    if b" 101 " not in answer:
        raise RuntimeError(f"handshake refused: {answer!r}")
    return sock


def frame(payload: bytes) -> bytes:
    """A masked text frame; the mask is zero, which the receiver need not know."""
    size = len(payload)
    head = bytes([0x81, 0x80 | size]) if size < 126 else bytes([0x81, 0xFE]) + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


def order_frame(account: dict[str, Any], number: int, side: str, now_ms: int) -> bytes:
    """A signed ``order.place`` frame."""
    values = {
        "apiKey": account["api_key"],
        "newClientOrderId": f"bench-{number:08d}",
        "newOrderRespType": "RESULT",
        "quantity": "0.001",
        "recvWindow": 60000,
        "side": side,
        "symbol": "BTCUSDT",
        "timestamp": now_ms,
        "type": "MARKET",
    }
    text = "&".join(f"{k}={v}" for k, v in values.items())
    values["signature"] = hmac.new(account["secret"].encode(), text.encode(), hashlib.sha256).hexdigest()
    return frame(orjson.dumps({"id": str(number), "method": "order.place", "params": values}))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def listen_to(at: dict[str, Any], accounts: list[dict[str, Any]]) -> list[socket.socket]:
    """User streams of all accounts, a thousand to a connection."""
    import http.client

    rest = http.client.HTTPConnection("127.0.0.1", at["ports"]["rest"])
    keys = []
    for account in accounts:
        rest.request("POST", "/fapi/v1/listenKey", headers={"X-MBX-APIKEY": account["api_key"]})
        keys.append(orjson.loads(rest.getresponse().read())["listenKey"])
    socks = []
    for start in range(0, len(keys), 1000):
        sock = connect(at["ports"]["ws"], "/private/stream")
        for at_key in range(start, min(start + 1000, len(keys)), 200):
            params = keys[at_key : min(at_key + 200, start + 1000)]
            big = orjson.dumps({"method": "SUBSCRIBE", "params": params, "id": 1})
            sock.sendall(frame(big))
            sock.recv(200)
        socks.append(sock)
    return socks


def run(orders: int, accounts: int, connections: int, listen: bool) -> dict[str, Any]:
    """One measured run against a fresh exchange process, its result checked against the exchange's books."""
    with running_exchange("--lift", "all", "--maker-ms", "1000") as at:
        made = make_accounts(at, n=accounts, prefix="bench-", balance="100000")
        streams = listen_to(at, made) if listen else []
        now_ms = int(time.time() * 1000)
        frames: list[list[bytes]] = [[] for _ in range(connections)]
        for number in range(orders):
            side = "BUY" if number % 2 == 0 else "SELL"
            frames[number // 50 % connections].append(order_frame(made[number % accounts], number, side, now_ms))
        socks = [connect(at["ports"]["ws"], "/ws-fapi/v1?returnRateLimits=false") for _ in range(connections)]
        before = control(at, "GET", "/truth/stats")
        cpu = cpu_seconds(at["pid"])
        start = time.perf_counter()
        answered, events, last_answer = pump(socks, [b"".join(f) for f in frames], streams, orders)
        took = last_answer - start
        cpu = cpu_seconds(at["pid"]) - cpu
        after = control(at, "GET", "/truth/stats")
        accepted = after["orders_accepted"] - before["orders_accepted"]
        for sock in socks + streams:
            sock.close()
        return {
            "orders": orders,
            "accounts": accounts,
            "connections": connections,
            "listened": listen,
            "answered": answered,
            "accepted": accepted,
            "events": events,
            "checked": answered == orders and accepted == orders and bool(after["books_balance"]),
            "seconds": round(took, 4),
            "orders_per_s": round(orders / took),
            "orders_per_cpu_s": round(orders / max(cpu, 0.01)),
            "rss_bytes": rss_bytes(at["pid"]),
        }


def pump(socks: list[socket.socket], data: list[bytes], streams: list[socket.socket], orders: int) -> tuple[int, int, float]:
    """Send everything, read everything: (answers, events, time of the last answer)."""
    selector = selectors.DefaultSelector()
    left = {sock: memoryview(block) for sock, block in zip(socks, data, strict=True)}
    tails = dict.fromkeys([*socks, *streams], b"")
    for sock in socks:
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
    for sock in streams:
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    answered = events = 0
    last = time.perf_counter()
    quiet_from: float | None = None
    while time.perf_counter() - last < 10:
        ready = selector.select(0.2)
        for key, mask in ready:
            sock: socket.socket = key.fileobj  # type: ignore[assignment]
            if mask & selectors.EVENT_WRITE:
                sent = sock.send(left[sock][:65536])
                left[sock] = left[sock][sent:]
                if not left[sock]:
                    selector.modify(sock, selectors.EVENT_READ)
            if mask & selectors.EVENT_READ:
                chunk = sock.recv(1 << 18)
                if not chunk:
                    raise RuntimeError("the exchange closed a connection")
                word = DONE if sock in left else EVENT
                seen = (tails[sock] + chunk).count(word)
                tails[sock] = (tails[sock] + chunk)[-(len(word) - 1) :]
                if sock in left:
                    answered += seen
                    last = time.perf_counter() if seen else last
                else:
                    events += seen
        if answered >= orders:
            if not streams or not ready:
                break
            quiet_from = quiet_from or time.perf_counter()
            if time.perf_counter() - quiet_from > 10:
                break
    selector.close()
    return answered, events, last


def test_every_order_sent_over_the_wire_is_accepted_once() -> None:
    """A small run of the benchmark: all orders answered 200, as many accepted, the books add up."""
    result = run(orders=2000, accounts=50, connections=2, listen=True)
    assert result["checked"], result
    assert result["events"] == 2000 * 4, result  # NEW, TRADE_LITE, TRADE, ACCOUNT_UPDATE: one level holds 0.001 BTC


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=100_000)
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--listen", action="store_true", help="also subscribe to every account's user stream")
    parser.add_argument("--json", default="")
    args = parser.parse_args(argv)
    result = run(args.orders, args.accounts, args.connections, args.listen)
    text = orjson.dumps(result, option=orjson.OPT_INDENT_2)
    if args.json:
        pathlib.Path(args.json).write_bytes(text)
    print(text.decode())
    return 0 if result["checked"] else 1


if __name__ == "__main__":
    sys.exit(main())
