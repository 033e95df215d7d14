"""Messages of the batch protocol to values and back: the readable twin of ``copyd._fast.batch_wire``. See ``PROTOCOL.md``.

Pure: no socket, no clock. What cannot be read raises ``Malformed``, which ends the session and never the process.
Units: ticks, lots, 1e-8 of the quote asset, ns.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Final

import msgspec

from copyd._fast.batch_wire import crc32c
from copyd.venues.batch.errors import Ended, Malformed, core_code
from copyd.venues.batch.signing import NONCE_BYTES, PROOF_BYTES

MAGIC: Final = 0x4243  # "CB"
VERSION: Final = 1
HEADER: Final = struct.Struct("<HBBIQQII")
"""magic, version, type, length of the whole message, sequence, session, acknowledged (low half), sum of the 28 bytes before.

The acknowledged sequence is sent modulo 2**32: nobody is ever half of that behind."""
HEADER_BYTES: Final = HEADER.size
ORDERS_HEAD: Final = struct.Struct("<QqIIII")
REPORTS_HEAD: Final = struct.Struct("<QqIIII")
ORDER: Final = struct.Struct("<16sIHHqqII")
REPORT: Final = struct.Struct("<16sqqqqqqqqIiBBHI")
INSTRUMENT: Final = struct.Struct("<HHI16sqq")
LOGIN: Final = struct.Struct("<HH32s32sQQQB")
LOGIN_ACK: Final = struct.Struct("<32sQQQIIIIIIIHHqq")
CID_BYTES: Final = 16
NAME_MAX: Final = 64
PRE_LOGIN_MAX: Final = 1_024
NONE: Final = 0xFFFFFFFF


class Type(IntEnum):
    """What a message is."""

    CHALLENGE = 1
    LOGIN = 2
    LOGIN_ACK = 3
    HEARTBEAT = 4
    ORDERS = 5
    REPORTS = 6
    ACK = 7
    RESEND_REQUEST = 8
    GAP_FILL = 9
    QUERY = 10
    NOT_FOUND = 11
    WINDOW = 12
    LOGOUT = 13
    ERROR = 14
    ACCOUNTS = 15
    ACCOUNTS_ACK = 16


NUMBERED: Final = frozenset({Type.ORDERS, Type.REPORTS})
"""Messages that carry a sequence number of their direction; but a REPORTS that answers a QUERY carries none."""


class Flag(IntFlag):
    """Of an order record. Bits 2 and 3 are the position side: 0 BOTH, 1 LONG, 2 SHORT."""

    SELL = 1
    REDUCE_ONLY = 2
    LONG = 4
    SHORT = 8
    LIMIT_IOC = 16
    REDUCTION = 32


FLAGS_KNOWN: Final = 63
PRIORITY: Final = 1
"""Flag of an ORDERS message: it may use the reserved share of the window."""
GONE, WITHHELD = 1, 2
"""Reasons of a GAP_FILL: no longer kept; kept, but too old to be sent again."""
STATE, REJECT, TRADE = 1, 2, 6
"""Kinds of a report."""
STATUSES: Final = frozenset({2, 3, 4, 6, 7, 8})
"""NEW, PARTIALLY_FILLED, FILLED, CANCELED, EXPIRED, REJECTED."""
ENDED_STATUSES: Final = frozenset({4, 6, 7, 8})


class Header(msgspec.Struct, frozen=True):
    """The first 32 bytes of every message."""

    type: int
    length: int
    sequence: int = 0
    session: int = 0
    ack: int = 0
    version: int = VERSION


class OrderRecord(msgspec.Struct, frozen=True):
    """One order. ``quantity`` lots, ``limit`` ticks (0 = market); ``account`` and ``instrument`` as the engine numbers them."""

    cid: bytes
    account: int
    instrument: int
    flags: int
    quantity: int
    limit: int = 0


class ReportRecord(msgspec.Struct, frozen=True):
    """What became of one order; sums are since the order began."""

    cid: bytes
    kind: int
    status: int
    code: int = 0
    cum_qty: int = 0
    cum_quote_e8: int = 0
    last_qty: int = 0
    last_px: int = 0
    fee_e8: int = 0
    trade_id: int = 0
    venue_order_id: int = 0
    venue_ns: int = 0


class InstrumentRow(msgspec.Struct, frozen=True):
    """One instrument of the engine's table; ``tick_e8`` and ``lot_e8`` in 1e-8 of quote and base."""

    index: int
    symbol: str
    tick_e8: int
    lot_e8: int


class LoginAck(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine grants."""

    proof: bytes
    session: int
    last_in: int
    last_out: int
    window: int
    reserved: int
    message_max: int
    records_max: int
    heartbeat_ms: int
    horizon_s: int
    retained: int
    engine_ns: int
    known_since_ns: int
    instruments: tuple[InstrumentRow, ...]


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """What the client asks for. ``resume``: the session to go on with, 0 = a new one."""

    nonce: bytes
    proof: bytes
    resume: int
    last_in: int
    last_out: int
    name: str
    version: int = VERSION


# --- framing ------------------------------------------------------------------------------------------------------------


def message(kind: int, body: bytes, sequence: int = 0, session: int = 0, ack: int = 0, version: int = VERSION) -> bytes:
    """A whole message; the body brings its own sums."""
    head = HEADER.pack(MAGIC, version, kind, HEADER_BYTES + len(body), sequence, session, ack & NONE, 0)
    return head[:-4] + crc32c(head[:-4]).to_bytes(4, "little") + body


def sealed(kind: int, body: bytes, session: int = 0, ack: int = 0) -> bytes:
    """A whole message that is neither ORDERS nor REPORTS: its body ends with the sum of the body."""
    return message(kind, body + crc32c(body).to_bytes(4, "little"), 0, session, ack)


def read_header(data: bytes | bytearray | memoryview, at: int = 0, length_max: int = 1 << 31) -> Header | None:
    """The header at ``at``; None when not all of it is there yet."""
    if len(data) - at < HEADER_BYTES:
        return None
    magic, version, kind, length, sequence, session, ack, total = HEADER.unpack_from(data, at)
    if magic != MAGIC:
        raise Malformed("the bytes are no message of this protocol")
    if total != crc32c(bytes(data[at : at + HEADER_BYTES - 4])):
        raise Malformed("a message header is damaged", Ended.CORRUPT)
    if version != VERSION:
        raise Malformed(f"protocol version {version}; this side speaks {VERSION}", Ended.VERSION)
    if kind not in Type._value2member_map_ or length < HEADER_BYTES:
        raise Malformed(f"no such message: type {kind}, {length} bytes")
    if length > length_max:
        raise Malformed(f"a message of {length} bytes; at most {length_max} are allowed", Ended.OVERSIZE)
    return Header(kind, length, sequence, session, ack, version)


def opened(body: bytes) -> bytes:
    """A sealed body without its sum."""
    if len(body) < 4 or int.from_bytes(body[-4:], "little") != crc32c(body[:-4]):
        raise Malformed("a message body is damaged", Ended.CORRUPT)
    return body[:-4]


def _fields(layout: str, body: bytes, what: str) -> tuple[int, ...]:
    size = struct.calcsize(layout)
    if len(body) != size:
        raise Malformed(f"{what}: {len(body)} bytes instead of {size}")
    return struct.unpack(layout, body)


# --- orders and reports: the twin of the kernel --------------------------------------------------------------------------


def _with_sum(data: bytes) -> bytes:
    """A record whose last four bytes become the sum of those before."""
    return data[:-4] + crc32c(data[:-4]).to_bytes(4, "little")


def _sum_good(data: bytes) -> bool:
    return int.from_bytes(data[-4:], "little") == crc32c(data[:-4])


def pack_orders(records: Sequence[OrderRecord], event: int, valid_until_ns: int, priority: bool) -> bytes:
    """The body of ORDERS."""
    head = _with_sum(ORDERS_HEAD.pack(event, valid_until_ns, len(records), PRIORITY if priority else 0, 0, 0))
    return head + b"".join(
        _with_sum(ORDER.pack(r.cid, r.account, r.instrument, r.flags, r.quantity, r.limit, 0, 0)) for r in records)


def unpack_orders(body: bytes) -> tuple[int, int, bool, list[OrderRecord]]:
    """The body of ORDERS: (event, valid until ns, priority, records). All of it is good, or ``Malformed``."""
    if len(body) < ORDERS_HEAD.size or not _sum_good(body[: ORDERS_HEAD.size]):
        raise Malformed("ORDERS: the batch header is damaged", Ended.CORRUPT)
    event, valid_until_ns, count, flags, zero, _ = ORDERS_HEAD.unpack_from(body)
    if len(body) != ORDERS_HEAD.size + count * ORDER.size or flags & ~PRIORITY or zero:
        raise Malformed(f"ORDERS: {len(body)} bytes do not hold {count} records")
    records = []
    for at in range(ORDERS_HEAD.size, len(body), ORDER.size):
        raw = body[at : at + ORDER.size]
        if not _sum_good(raw):
            raise Malformed("ORDERS: a record is damaged", Ended.CORRUPT)
        cid, account, instrument, bits, quantity, limit, zero, _ = ORDER.unpack(raw)
        if zero:
            raise Malformed("ORDERS: reserved bytes that are not 0")
        records.append(OrderRecord(cid, account, instrument, bits, quantity, limit))
    return event, valid_until_ns, bool(flags & PRIORITY), records


def pack_reports(records: Sequence[ReportRecord], query: int = 0, engine_ns: int = 0) -> bytes:
    """The body of REPORTS; ``query``: the question it answers, 0 = none."""
    head = _with_sum(REPORTS_HEAD.pack(query, engine_ns, len(records), 0, 0, 0))
    return head + b"".join(
        _with_sum(REPORT.pack(
            r.cid, r.cum_qty, r.cum_quote_e8, r.last_qty, r.last_px, r.fee_e8, r.trade_id, r.venue_order_id, r.venue_ns, 0,
            r.code, r.kind, r.status, 0, 0)) for r in records)


def unpack_reports(body: bytes) -> tuple[int, int, list[ReportRecord]]:
    """The body of REPORTS: (query or 0, engine ns, records), refusals under the core's numbers. All good, or ``Malformed``."""
    if len(body) < REPORTS_HEAD.size or not _sum_good(body[: REPORTS_HEAD.size]):
        raise Malformed("REPORTS: the batch header is damaged", Ended.CORRUPT)
    query, engine_ns, count, flags, zero, _ = REPORTS_HEAD.unpack_from(body)
    if len(body) != REPORTS_HEAD.size + count * REPORT.size or flags or zero:
        raise Malformed(f"REPORTS: {len(body)} bytes do not hold {count} records")
    records = []
    for at in range(REPORTS_HEAD.size, len(body), REPORT.size):
        raw = body[at : at + REPORT.size]
        if not _sum_good(raw):
            raise Malformed("REPORTS: a record is damaged", Ended.CORRUPT)
        (cid, cum, quote, last_qty, last_px, fee, trade, order, venue_ns, none, code, kind, status, more, _) = REPORT.unpack(raw)
        report = ReportRecord(cid, kind, status, code, cum, quote, last_qty, last_px, fee, trade, order, venue_ns)
        if none or more or not _possible(report):
            raise Malformed("REPORTS: a record contradicts itself")
        records.append(msgspec.structs.replace(report, code=core_code(code)) if kind == REJECT else report)
    return query, engine_ns, records


def _possible(report: ReportRecord) -> bool:
    """Whether a record can be true."""
    if min(report.cum_qty, report.cum_quote_e8, report.last_qty, report.last_px, report.venue_order_id) < 0:
        return False
    if report.kind == REJECT:
        return core_code(report.code) != 0 and report.status == 8 and not report.cum_qty
    if report.code or report.status not in STATUSES:
        return False
    if report.kind == TRADE:
        return 0 < report.last_qty <= report.cum_qty and report.last_px > 0 and report.trade_id > 0
    return report.kind == STATE and not report.last_qty and not report.last_px


# --- session messages ------------------------------------------------------------------------------------------------------


def challenge(nonce: bytes) -> bytes:
    """CHALLENGE."""
    return sealed(Type.CHALLENGE, nonce)


def read_challenge(body: bytes) -> bytes:
    """The nonce."""
    nonce = opened(body)
    if len(nonce) != NONCE_BYTES:
        raise Malformed(f"CHALLENGE: {len(nonce)} bytes instead of {NONCE_BYTES}")
    return nonce


def login(ask: Login) -> bytes:
    """LOGIN."""
    name = ask.name.encode()
    if not 0 < len(name) <= NAME_MAX:
        raise ValueError(f"a session's name has 1 to {NAME_MAX} bytes")
    body = LOGIN.pack(ask.version, 0, ask.nonce, ask.proof, ask.resume, ask.last_in, ask.last_out, len(name)) + name
    return sealed(Type.LOGIN, body)


def read_login(body: bytes) -> Login:
    """LOGIN."""
    raw = opened(body)
    if len(raw) < LOGIN.size:
        raise Malformed("LOGIN: too short")
    version, _, nonce, proof, resume, last_in, last_out, size = LOGIN.unpack_from(raw)
    if len(raw) != LOGIN.size + size or not 0 < size <= NAME_MAX:
        raise Malformed("LOGIN: the name does not fit")
    try:
        name = raw[LOGIN.size :].decode()
    except UnicodeDecodeError:
        raise Malformed("LOGIN: the name is no UTF-8") from None
    return Login(nonce=nonce, proof=proof, resume=resume, last_in=last_in, last_out=last_out, name=name, version=version)


def login_ack(grant: LoginAck) -> bytes:
    """LOGIN_ACK."""
    body = LOGIN_ACK.pack(
        grant.proof, grant.session, grant.last_in, grant.last_out, grant.window, grant.reserved, grant.message_max,
        grant.records_max, grant.heartbeat_ms, grant.horizon_s, grant.retained, len(grant.instruments), 0, grant.engine_ns,
        grant.known_since_ns)
    body += b"".join(
        INSTRUMENT.pack(i.index, 0, 0, i.symbol.encode("ascii"), i.tick_e8, i.lot_e8) for i in grant.instruments)
    return sealed(Type.LOGIN_ACK, body, grant.session, grant.last_in)


def read_login_ack(body: bytes) -> LoginAck:
    """LOGIN_ACK."""
    raw = opened(body)
    if len(raw) < LOGIN_ACK.size:
        raise Malformed("LOGIN_ACK: too short")
    (proof, session, last_in, last_out, window, reserved, message_max, records_max, heartbeat_ms, horizon_s, retained, count,
     _, engine_ns, known_since_ns) = LOGIN_ACK.unpack_from(raw)
    if len(raw) != LOGIN_ACK.size + count * INSTRUMENT.size or len(proof) != PROOF_BYTES:
        raise Malformed("LOGIN_ACK: the instrument table does not fit")
    if not session or not heartbeat_ms or not records_max or reserved > window:
        raise Malformed("LOGIN_ACK: no session, no heartbeat, no records or a reserved share above the window")
    rows = []
    for at in range(LOGIN_ACK.size, len(raw), INSTRUMENT.size):
        index, _, _, symbol, tick_e8, lot_e8 = INSTRUMENT.unpack_from(raw, at)
        if tick_e8 <= 0 or lot_e8 <= 0:
            raise Malformed("LOGIN_ACK: an instrument without tick or lot")
        rows.append(InstrumentRow(index, symbol.rstrip(b"\0").decode("ascii", "replace"), tick_e8, lot_e8))
    return LoginAck(
        proof=proof, session=session, last_in=last_in, last_out=last_out, window=window, reserved=reserved,
        message_max=message_max, records_max=records_max, heartbeat_ms=heartbeat_ms, horizon_s=horizon_s, retained=retained,
        engine_ns=engine_ns, known_since_ns=known_since_ns, instruments=tuple(rows))


def heartbeat(sent_ns: int, echo_ns: int, session: int, ack: int) -> bytes:
    """HEARTBEAT: our time, and the time the other side last told (0 = none)."""
    return sealed(Type.HEARTBEAT, struct.pack("<qq", sent_ns, echo_ns), session, ack)


def read_heartbeat(body: bytes) -> tuple[int, ...]:
    """(sent ns, echo ns)."""
    return _fields("<qq", opened(body), "HEARTBEAT")


def ack(session: int, ack_sequence: int) -> bytes:
    """ACK: its header says it all."""
    return sealed(Type.ACK, b"", session, ack_sequence)


def resend_request(first: int, last: int, session: int, ack_sequence: int) -> bytes:
    """RESEND_REQUEST; ``last`` 0 = all from ``first`` on."""
    return sealed(Type.RESEND_REQUEST, struct.pack("<QQ", first, last), session, ack_sequence)


def read_resend_request(body: bytes) -> tuple[int, ...]:
    """(first, last or 0)."""
    return _fields("<QQ", opened(body), "RESEND_REQUEST")


def gap_fill(first: int, last: int, reason: int, session: int, ack_sequence: int) -> bytes:
    """GAP_FILL: these are not sent again."""
    return sealed(Type.GAP_FILL, struct.pack("<QQII", first, last, reason, 0), session, ack_sequence)


def read_gap_fill(body: bytes) -> tuple[int, ...]:
    """(first, last, reason)."""
    return _fields("<QQII", opened(body), "GAP_FILL")[:3]


def query(number: int, issued_ns: int, cids: Sequence[bytes], session: int, ack_sequence: int) -> bytes:
    """QUERY by client order ids."""
    return sealed(Type.QUERY, struct.pack("<QqII", number, issued_ns, len(cids), 0) + b"".join(cids), session, ack_sequence)


def _ids(raw: bytes, at: int, count: int, what: str) -> list[bytes]:
    if len(raw) != at + count * CID_BYTES:
        raise Malformed(f"{what}: {len(raw)} bytes do not hold {count} ids")
    return [raw[i : i + CID_BYTES] for i in range(at, len(raw), CID_BYTES)]


def read_query(body: bytes) -> tuple[int, int, list[bytes]]:
    """(number, issued ns, ids)."""
    raw = opened(body)
    if len(raw) < 24:
        raise Malformed("QUERY: too short")
    number, issued_ns, count, _ = struct.unpack_from("<QqII", raw)
    return number, issued_ns, _ids(raw, 24, count, "QUERY")


def not_found(
    number: int, issued_ns: int, engine_ns: int, known_since_ns: int, cids: Sequence[bytes], session: int, ack_sequence: int
) -> bytes:
    """NOT_FOUND: the ids of a QUERY that the engine has never taken."""
    head = struct.pack("<QqqqII", number, issued_ns, engine_ns, known_since_ns, len(cids), 0)
    return sealed(Type.NOT_FOUND, head + b"".join(cids), session, ack_sequence)


def read_not_found(body: bytes) -> tuple[int, int, int, int, list[bytes]]:
    """(number, issued ns as told, engine ns, known since ns, ids)."""
    raw = opened(body)
    if len(raw) < 40:
        raise Malformed("NOT_FOUND: too short")
    number, issued_ns, engine_ns, known_since_ns, count, _ = struct.unpack_from("<QqqqII", raw)
    return number, issued_ns, engine_ns, known_since_ns, _ids(raw, 40, count, "NOT_FOUND")


def window(records: int, reserved: int, session: int, ack_sequence: int) -> bytes:
    """WINDOW: from now on so many records."""
    return sealed(Type.WINDOW, struct.pack("<II", records, reserved), session, ack_sequence)


def read_window(body: bytes) -> tuple[int, ...]:
    """(window, reserved)."""
    records, reserved = _fields("<II", opened(body), "WINDOW")
    if reserved > records:
        raise Malformed("WINDOW: a reserved share above the window")
    return records, reserved


def end(kind: int, code: int, text: str, session: int = 0, ack_sequence: int = 0) -> bytes:
    """ERROR or LOGOUT."""
    words = text.encode()[:400]
    return sealed(kind, struct.pack("<HH", code, len(words)) + words, session, ack_sequence)


def read_end(body: bytes) -> tuple[int, str]:
    """(code, text) of ERROR or LOGOUT."""
    raw = opened(body)
    if len(raw) < 4:
        raise Malformed("ERROR: too short")
    code, size = struct.unpack_from("<HH", raw)
    if len(raw) != 4 + size:
        raise Malformed("ERROR: the text does not fit")
    return code, raw[4:].decode("utf-8", "replace")


def accounts(number: int, names: Sequence[str], session: int, ack_sequence: int) -> bytes:
    """ACCOUNTS: which numbers these accounts have."""
    words = [name.encode() for name in names]
    if any(not 0 < len(word) <= 255 for word in words):
        raise ValueError("an account's name has 1 to 255 bytes")
    body = struct.pack("<QII", number, len(words), 0) + b"".join(bytes([len(word)]) + word for word in words)
    return sealed(Type.ACCOUNTS, body, session, ack_sequence)


def read_accounts(body: bytes) -> tuple[int, list[str]]:
    """(number, names)."""
    raw = opened(body)
    if len(raw) < 16:
        raise Malformed("ACCOUNTS: too short")
    number, count, _ = struct.unpack_from("<QII", raw)
    names: list[str] = []
    at = 16
    while at < len(raw) and len(names) < count:
        end_at = at + 1 + raw[at]
        if end_at > len(raw):
            break
        names.append(raw[at + 1 : end_at].decode("utf-8", "replace"))
        at = end_at
    if len(names) != count or at != len(raw):
        raise Malformed(f"ACCOUNTS: {len(raw)} bytes do not hold {count} names")
    return number, names


def accounts_ack(number: int, numbers: Sequence[int], session: int, ack_sequence: int) -> bytes:
    """ACCOUNTS_ACK: the numbers in the order asked; ``NONE`` where there is no such account for this session."""
    body = struct.pack("<QII", number, len(numbers), 0) + struct.pack(f"<{len(numbers)}I", *numbers)
    return sealed(Type.ACCOUNTS_ACK, body, session, ack_sequence)


def read_accounts_ack(body: bytes) -> tuple[int, tuple[int, ...]]:
    """(number, account numbers)."""
    raw = opened(body)
    if len(raw) < 16:
        raise Malformed("ACCOUNTS_ACK: too short")
    number, count, _ = struct.unpack_from("<QII", raw)
    if len(raw) != 16 + 4 * count:
        raise Malformed(f"ACCOUNTS_ACK: {len(raw)} bytes do not hold {count} numbers")
    return number, struct.unpack_from(f"<{count}I", raw, 16)
