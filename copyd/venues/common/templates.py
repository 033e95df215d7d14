"""A readable twin's text, cut where an order's own values stand: with it the compiled renderer is taught.

The twin is called once per kind of order with values that cannot be mistaken for anything else, and its text is cut at them. Then
it is called with other values, and what the cut text makes of them must be what the twin says: else ``ValueError``, at start.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from copyd._fast.render import CID, KEY, LENGTH, PASS, PX, QTY, SIGN, TIME, Renderer
from copyd.venues.common.instruments import Instrument
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Order

#: The text of a frame, or a whole request with its head: (key, order, time in ms).
Twin = Callable[[Key, Order, int], bytes]
Template = tuple[bytes | int | tuple[int, int], ...]
#: (side, limit, position side, reduce-only) of every order there can be.
KINDS = tuple(itertools.product((1, -1), (False, True), range(3), (False, True)))
DAY_MS = 86_400_000
_TIME = re.compile(rb"(?<!\d)\d{13}(?!\d)")
_LENGTH = re.compile(rb"(?i)(?<=\ncontent-length: )\d+(?=\r\n)")


class _Probe(Key):
    """A key whose parts stand out, and that remembers what it was asked to sign and how."""

    __slots__ = ("encoding", "signed")
    SIGNATURES: Mapping[str, str] = {"hex": "5169" * 16, "base64": "SignatureSignatureSignatureSignatureSignatu="}

    def __init__(self) -> None:
        super().__init__(b"KeyProbeKeyProbeKeyProbe", b"-", b"PassProbePassProbe")
        self.signed = b""
        self.encoding = ""

    def _note(self, payload: bytes, encoding: str) -> str:
        if self.encoding:
            raise ValueError("an order is signed more than once")
        self.signed, self.encoding = payload, encoding
        return self.SIGNATURES[encoding]

    def sign(self, payload: bytes) -> str:
        return self._note(payload, "hex")

    def sign_base64(self, payload: bytes) -> str:
        return self._note(payload, "base64")


class Cut(NamedTuple):
    """What ``Renderer.set_shape`` takes; ``signature``: how it is encoded, "" where nothing is signed."""

    text: Template
    signed: Template
    body: Template
    signature: str


def _values(key: Key, order: Order) -> dict[int, bytes]:
    """What stands at the fields of an order, signature, length and time aside."""
    item = order.instrument
    values = {
        QTY: item.qty_text(order.qty).encode(), CID: order.cid.hex().encode(), KEY: key.api_key,
        PASS: key.passphrase().encode(),
    }  # fmt: skip
    if order.px:
        values[PX] = item.px_text(order.px).encode()
    return {field: text for field, text in values.items() if text}


def _cut(text: bytes, fields: Mapping[int, bytes], now_ms: int) -> Template:
    """The text with fields for what stands in ``fields``, and for times from ``now_ms`` on."""
    names = {value: field for field, value in fields.items()}
    found: list[bytes | int | tuple[int, int]] = []
    for part in re.split(b"(" + b"|".join(re.escape(v) for v in sorted(names, key=len, reverse=True)) + b")", text):
        if part in names:
            found.append(names[part])
            continue
        at = 0
        for stamp in _TIME.finditer(part):
            if 0 <= int(stamp[0]) - now_ms <= DAY_MS:
                found += [part[at : stamp.start()], (TIME, int(stamp[0]) - now_ms)]
                at = stamp.end()
        found.append(part[at:])
    return tuple(part for part in found if part != b"")


def _joined(template: Template, fields: Mapping[int, bytes], now_ms: int) -> bytes:
    """A cut text with values in its fields."""
    parts = []
    for part in template:
        if isinstance(part, tuple):
            parts.append(b"%d" % (now_ms + part[1]))
        else:
            parts.append(part if isinstance(part, bytes) else fields[part])
    return b"".join(parts)


def cut(twin: Twin, target: str, instrument: Instrument, side: int, limit: bool, position_side: int, reduce_only: bool) -> Cut:
    """The templates of one kind of order. ``target`` as the renderer's. ``ValueError`` where the twin's text is more than its
    values spliced in."""
    probe, now_ms = _Probe(), 1_593_571_486_240
    order = Order(0, instrument, bytes.fromhex("c1dec1dfc1eec1efc1fec1ffcadecadf"), 9_182_736_451, 7_364_519_283 if limit else 0,
                  side, position_side, reduce_only)
    text = twin(probe, order, now_ms)
    head, body = text, b""
    if target == "request":
        head, gap, body = text.partition(b"\r\n\r\n")
        head += gap
    fields = _values(probe, order)
    outer = _cut(head, fields | ({SIGN: probe.SIGNATURES[probe.encoding].encode()} if probe.encoding else {}), now_ms)
    if target == "request":
        outer = tuple(itertools.chain.from_iterable(_cut_length(part) for part in outer))
    made = Cut(outer, _cut(probe.signed, fields, now_ms), _cut(body, fields, now_ms), probe.encoding)
    for qty, px in ((7, 11), (1_000_000, 600_002)):
        _check(twin, made, order._replace(cid=bytes(range(16, 32)), qty=qty, px=px if limit else 0))
    return made


def _cut_length(part: bytes | int | tuple[int, int]) -> list[bytes | int | tuple[int, int]]:
    if not isinstance(part, bytes) or not (found := _LENGTH.search(part)):
        return [part]
    return [part[: found.start()], LENGTH, part[found.end() :]]


def _check(twin: Twin, made: Cut, order: Order) -> None:
    """That the twin says of another order of that kind what the templates make of it."""
    key, now_ms = Key(b"another-key", b"another-secret", b"another-passphrase"), 1_700_000_000_001
    fields = _values(key, order)
    body = _joined(made.body, fields, now_ms)
    signed = _joined(made.signed, fields, now_ms)
    fields |= {LENGTH: b"%d" % len(body), SIGN: (key.sign_base64 if made.signature == "base64" else key.sign)(signed).encode()}
    if _joined(made.text, fields, now_ms) + body != twin(key, order, now_ms):
        raise ValueError(f"{order.instrument.symbol}: an order's text is not its values spliced into a text of its kind")


def teach(
    renderer: Renderer, twin: Twin, instrument: Instrument, kinds: Sequence[tuple[int, bool, int, bool]] = KINDS
) -> None:
    """Give the renderer an instrument and ``kinds`` of its orders. ``ValueError`` as ``cut``, and where the twin signs otherwise
    than the renderer."""
    renderer.set_instrument(
        instrument.index, instrument.price_decimals, instrument.tick, instrument.qty_decimals, instrument.lot
    )
    for kind in kinds:
        made = cut(twin, renderer.target, instrument, *kind)
        if made.signature not in ("", renderer.signature):
            raise ValueError(f"the twin signs in {made.signature}, the renderer in {renderer.signature}")
        renderer.set_shape(instrument.index, *kind, made.text, signed=made.signed, body=made.body)
