"""The compiled order path and the careful one are two readers of one language: they must agree on every request."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from tests.exchange.test_wire_websocket import masked, next_text, opened
from tests.exchange.wire_client import RESTING, ask, exchange, hear
from tests.exchange.wire_helpers import signed_params

BASE = {**RESTING, "timeInForce": "IOC", "newOrderRespType": "RESULT"}
VARIANTS: dict[str, list[Any]] = {
    "symbol": ["BTCUSDT", "ETHUSDT", "btcusdt", "", "X"],
    "side": ["BUY", "SELL", "buy", "", "LONG"],
    "type": ["LIMIT", "MARKET", "STOP", "", "limit"],
    "timeInForce": ["IOC", "FOK", "GTX", "GTD", "", "ioc"],
    "quantity": ["0.010", "0.01", "1", "0", "-1", "1e3", "0.0005", "9999", 0.01, 1, ".", "00.010", ""],
    "price": ["58000", "58000.10", "58000.15", "0", "61000", "1", "x", 58000, 58000.1],
    "reduceOnly": ["true", "false", True, False, "maybe"],
    "closePosition": ["false", False],
    "positionSide": ["BOTH", "LONG", "NEITHER"],
    "newOrderRespType": ["ACK", "RESULT", "FULL"],
    "newClientOrderId": ["a", "a b", "", "x" * 36, "x" * 37, "A.b:c/d_e-f"],
    "selfTradePreventionMode": ["NONE", "EXPIRE_MAKER", "SOMETIMES"],
    "priceMatch": ["NONE", "QUEUE"],
    "recvWindow": [5000, "60000", 60001, "many"],
    "timestamp": [1, "abc", 9_999_999_999_999],
    "unheardOf": ["1"],
}


@pytest.mark.parametrize("seed", range(3))
async def test_both_paths_answer_alike(seed: int) -> None:
    """80 random orders each, in text order and shape as random as JSON allows; neither path rests anything in the book."""
    rng = random.Random(seed)
    async with exchange(lift=frozenset({"orders"})) as x:
        alice = await x.account()
        ws = await x.api()
        for _ in range(80):
            params: dict[str, Any] = dict(BASE)
            for name in rng.sample(sorted(VARIANTS), rng.randint(0, 3)):
                params[name] = rng.choice(VARIANTS[name])
            for name in rng.sample(sorted(BASE), rng.choice([0, 0, 0, 1])):
                params.pop(name, None)
            full = signed_params(alice, params)
            if rng.random() < 0.1:
                full["signature"] = full["signature"].upper() if rng.random() < 0.5 else "0" * 64
            items = list(full.items())
            rng.shuffle(items)
            answers = []
            for slow in (False, True):
                x.exchange.wire.slow = slow
                await ws.send_str(orjson.dumps({"id": 1, "method": "order.place", "params": dict(items)}).decode())
                answer = await hear(ws)
                result = answer.get("result", {})
                shown = {k: v for k, v in result.items() if k not in ("orderId", "clientOrderId", "updateTime")}
                answers.append((answer["status"], answer.get("error"), shown))
            x.exchange.wire.slow = False
            assert answers[0] == answers[1], params


async def test_random_bytes_never_harm_the_exchange() -> None:
    """Damaged requests get an error or a close; the next client is served as if nothing had been."""
    rng = random.Random(11)
    async with exchange(lift=frozenset({"orders", "connections"})) as x:
        alice = await x.account()
        good = orjson.dumps({"id": 1, "method": "order.place", "params": signed_params(alice, BASE)})
        for _ in range(150):
            reader, writer = await opened(x)
            text = bytearray(good)
            for _ in range(rng.randint(1, 6)):
                at = rng.randrange(len(text))
                choice = rng.random()
                if choice < 0.4:
                    text[at] = rng.randrange(256)
                elif choice < 0.7:
                    del text[at : at + rng.randint(1, 20)]
                else:
                    text[at:at] = rng.choice([b'"', b"{", b"}", b"\\", b",", b":", b"null", b"\x00"])
            writer.write(masked(bytes(text)))
            assert "status" in orjson.loads(await next_text(reader))
            if rng.random() < 0.5:
                writer.write(rng.randbytes(rng.randint(1, 200)))
            writer.close()
        ws = await x.api()
        assert (await ask(ws, alice, "order.place", **BASE))["status"] == 200
        assert (await x.tell("GET", "/truth/stats"))["books_balance"]
