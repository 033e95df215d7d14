"""What can become of a venue's message on its way out: unheard-of fields, fragments, halves, other words, other numbers.

Which message and how is drawn. What is replaced is a venue's own: its words for enumerations, sides, numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from copyd.exchange.websocket import BINARY, FIRST, LAST, TEXT
from copyd.sim.draws import Draws

Frames = list[tuple[int, bytes]]


class Words(NamedTuple):
    """What of a venue's JSON is worth spoiling.

    ``misread``: (what stands there, something no reader knows); ``echoes``: (what an answer to an order repeats, another), found
    in messages that hold ``answer``; ``numbers``: what comes before a number.
    """

    misread: tuple[tuple[bytes, bytes], ...]
    echoes: tuple[tuple[bytes, bytes], ...]
    answer: bytes
    numbers: tuple[bytes, ...]


BINANCE = Words(
    misread=((b'"X":"FILLED"', b'"X":"FROZEN"'), (b'"x":"TRADE"', b'"x":"REBATE"'), (b'"S":"', b'"S":7,"S2":"'),
             (b'"t":', b'"t":"x","t2":')),
    echoes=((b'"side":"BUY"', b'"side":"SELL"'), (b'"origQty":"', b'"origQty":"9')),
    answer=b'"result":{"orderId"',
    numbers=(b'"z":"', b'"T":', b'"pa":"', b'"i":'),
)
#: OKX, Bybit and Bitget in one: a word that is not there is not replaced. Their answers to an order repeat nothing but its id.
SESSIONS = Words(
    misread=(
        (b'"state":"filled"', b'"state":"frozen"'), (b'"orderStatus":"Filled"', b'"orderStatus":"Frozen"'),
        (b'"status":"filled"', b'"status":"frozen"'), (b'"execType":"', b'"execType":7,"execType2":"'),
        (b'"side":"', b'"side":7,"side2":"'), (b'"tradeId":"', b'"tradeId":{},"tradeId2":"'),
        (b'"execId":"', b'"execId":{},"execId2":"'),
    ),
    echoes=((b'"ordId":"', b'"ordId":"9'), (b'"orderId":"', b'"orderId":"9')),
    answer=b'"op":"order',
    numbers=(b'"accFillSz":"', b'"cumExecQty":"', b'"accBaseVolume":"', b'"fillSz":"', b'"execQty":"', b'"uTime":"', b'"pos":"'),
)

#: Binance's words for a market where an answer begins with its symbol, and commissions are told in what was bought.
SPOT = Words(
    misread=(*BINANCE.misread, (b'"n":"', b'"n":{},"n2":"'), (b'"f":"', b'"f":"-')),
    echoes=((b'"clientOrderId":"', b'"clientOrderId":"9'), (b'"symbol":"', b'"symbol":"9')),
    answer=b'"result":{"symbol"',
    numbers=(b'"z":"', b'"T":', b'"l":"', b'"n":"', b'"i":'),
)


def spoiled(draws: Draws, words: Words, where: str, public: bool, payload: bytes) -> Frames:
    """What leaves in place of one text message: (first byte, payload) of each frame. ``where``: the kind of connection."""
    if public:
        if draws.fault("L17/market", 1_000):
            return list(_broken(draws, words, "L17/market", payload))
        return [(TEXT, payload)]
    if draws.fault(f"L17/field/{where}", 10_000) and payload[:1] == b"{":
        return [(TEXT, b'{"zz":{"new":[1,"2",null]},' + payload[1:])]
    if words.answer in payload and draws.fault("O39/echo", 5_000):
        # Somebody else's order, or another than was asked for, under the right request.
        was, now = words.echoes[draws.param("O39/echo", "what", 0, len(words.echoes) - 1)]
        return [(TEXT, payload.replace(was, now))]
    if draws.fault(f"L17/fragments/{where}", 10_000) and len(payload) > 3:
        cut = draws.param(f"L17/fragments/{where}", "at", 1, len(payload) - 1)
        return [(FIRST, payload[:cut]), (LAST, payload[cut:])]
    if draws.fault(f"L17/extra/{where}", 6_000):
        return [*_broken(draws, words, f"L17/extra/{where}", payload), (TEXT, payload)]
    if draws.fault(f"L17/instead/{where}", 4_000):
        return list(_broken(draws, words, f"L17/instead/{where}", payload))
    if draws.fault(f"L18/oversized/{where}", 500):
        return [(TEXT, b'{"e":"X","pad":"' + b"x" * (1 << 20) + b'"}'), (TEXT, payload)]
    return [(TEXT, payload)]


def _broken(draws: Draws, words: Words, name: str, payload: bytes) -> Iterator[tuple[int, bytes]]:
    how = draws.param(name, "how", 0, 8)
    if how == 0:
        yield TEXT, payload[: draws.param(name, "cut", 0, len(payload))]
    elif how == 1:
        yield TEXT, b""
    elif how == 2:
        yield TEXT, b'{"e":"GRID_UPDATE","E":1,"unheard":{"of":[[[]]]}}'
    elif how == 3:
        yield TEXT, b"[" * 900 + b"]" * 900
    elif how == 4:
        yield BINARY, payload
    elif how == 5:
        yield TEXT, payload.replace(b":", b";", 1)
    elif how == 6:
        was, now = words.misread[draws.param(name, "enum", 0, len(words.misread) - 1)]
        yield TEXT, payload.replace(was, now)
    elif how == 7:
        at = payload.find(words.numbers[draws.param(name, "number", 0, len(words.numbers) - 1)])
        yield TEXT, payload if at < 0 else payload[:at] + payload[at:].replace(b":", b":1e-7,\"y\":", 1)
    else:
        yield TEXT, payload.replace(b'"', b'"\xff', 1)
