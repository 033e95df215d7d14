"""``copyd conformance``: what an engine must do, tried on a running one, row by row.

It places a few orders of the smallest size in one account, at the market: for a test environment, never a live one. Each row
logs in anew, so that one that fails does not take the others with it.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from copyd.errors import UsageError
from copyd.venues.batch import codec
from copyd.venues.batch.codec import Flag, Header, LoginAck, OrderRecord, ReportRecord, Type
from copyd.venues.batch.errors import Ended, Malformed, Refusal, core_code
from copyd.venues.batch.gateway import check_address
from copyd.venues.batch.signing import client_proof, engine_proof, read_secret

RECORDS_MAX: Final = 100_000
#: How much longer than it promised an engine may take to be called silent, in heartbeats.
PATIENCE: Final = 2


class Failure(Exception):
    """What was got instead of what a row expects."""


class Skipped(Exception):
    """Why a row cannot be tried with what the engine grants."""


class Row(msgspec.Struct):
    """One line of the table: ``verdict`` is pass, FAIL or skip."""

    name: str
    expected: str
    verdict: str = ""
    got: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to try, and as whom."""

    address: str
    secret: bytes
    name: str = "conformance"
    account: str = "conformance"
    symbol: str = ""
    lots: int = 1
    timeout_s: float = 3.0


class Peer:
    """One connection, driven by hand."""

    def __init__(self, settings: Settings, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.settings, self.reader, self.writer = settings, reader, writer
        self.session = self.out_seq = self.in_seq = self.acked = 0
        self.beats = 0
        self.grant: LoginAck | None = None

    @classmethod
    async def open(cls, settings: Settings) -> Peer:
        if settings.address.startswith("unix:"):
            connecting = asyncio.open_unix_connection(settings.address[5:])
        else:
            host, _, port = settings.address.rpartition(":")
            connecting = asyncio.open_connection(host.strip("[]"), int(port))
        return cls(settings, *await asyncio.wait_for(connecting, settings.timeout_s))

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def close(self) -> None:
        """At once, without good-bye."""
        self.writer.transport.abort()
        await asyncio.sleep(0)

    async def next(self, *wanted: Type, timeout_s: float = 0.0) -> tuple[Header, bytes]:
        """The next message that is no HEARTBEAT or ACK; another type than the wanted ones is a failure."""
        names = " or ".join(kind.name for kind in wanted) or "nothing"
        skip = {Type.HEARTBEAT, Type.ACK} - set(wanted)
        seconds = timeout_s or self.settings.timeout_s
        try:
            async with asyncio.timeout(seconds):
                while True:
                    head, body = await self._read()
                    self.acked = max(self.acked, head.ack)
                    if head.type not in skip:
                        break
        except TimeoutError:
            raise Failure(f"nothing within {seconds:g} s, waiting for {names}") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Failure(f"the connection was closed, waiting for {names}") from None
        if head.type not in wanted:
            more = ""
            if head.type in (Type.ERROR, Type.LOGOUT):
                code, text = codec.read_end(body)
                more = f" {code} ({text})"
            raise Failure(f"{Type(head.type).name}{more} instead of {names}")
        return head, body

    async def _read(self) -> tuple[Header, bytes]:
        raw = await self.reader.readexactly(codec.HEADER_BYTES)
        head = codec.read_header(raw)
        assert head is not None
        return head, await self.reader.readexactly(head.length - codec.HEADER_BYTES)

    async def quiet(self, seconds: float) -> None:
        """Nothing but heartbeats and acknowledgements may come for a while."""
        try:
            await self.next(timeout_s=seconds)
        except Failure as problem:
            if not str(problem).startswith("nothing within"):
                raise

    async def ended(self, code: Ended) -> str:
        """ERROR with this code, then the end of the connection."""
        _, body = await self.next(Type.ERROR)
        got, text = codec.read_end(body)
        if got != code:
            raise Failure(f"ERROR {got} ({text}) instead of {int(code)}")
        try:
            rest = await asyncio.wait_for(self.reader.read(1), self.settings.timeout_s)
        except TimeoutError:
            raise Failure("the connection stays open after ERROR") from None
        except ConnectionError:
            rest = b""
        if rest:
            raise Failure("bytes after ERROR")
        return f"ERROR {got}: {text}"

    async def log_in(
        self, resume: int = 0, last_in: int = 0, last_out: int = 0, secret: bytes | None = None
    ) -> LoginAck:
        """CHALLENGE, LOGIN, LOGIN_ACK."""
        _, body = await self.next(Type.CHALLENGE)
        challenge = codec.read_challenge(body)
        secret, name, nonce = secret or self.settings.secret, self.settings.name, os.urandom(32)
        self.write(codec.login(codec.Login(
            nonce=nonce, proof=client_proof(secret, challenge, nonce, name), resume=resume, last_in=last_in, last_out=last_out,
            name=name)))
        _, body = await self.next(Type.LOGIN_ACK)
        grant = self.grant = codec.read_login_ack(body)
        if grant.proof != engine_proof(secret, challenge, nonce, name):
            raise Failure("LOGIN_ACK without the engine's proof")
        self.session, self.out_seq, self.in_seq = grant.session, grant.last_in, last_in
        return grant

    def instrument(self) -> int:
        assert self.grant is not None
        for row in self.grant.instruments:
            if self.settings.symbol in ("", row.symbol):
                return row.index
        raise Failure(f"the engine does not list {self.settings.symbol}")

    async def account(self) -> int:
        """The number of the account orders are placed in."""
        self.write(codec.accounts(7, [self.settings.account], self.session, self.in_seq))
        _, body = await self.next(Type.ACCOUNTS_ACK)
        number, found = codec.read_accounts_ack(body)
        if number != 7 or len(found) != 1:
            raise Failure(f"ACCOUNTS_ACK {number} with {len(found)} numbers instead of 7 with 1")
        if found[0] == codec.NONE:
            raise Failure(f"the engine has no account {self.settings.account!r} for this session")
        return found[0]

    def message(
        self, records: list[OrderRecord], sequence: int, valid_s: float = 10.0, priority: bool = False
    ) -> bytes:
        """An ORDERS message. Valid so long by this machine's clock (a day on it: clocks need not agree to a second)."""
        assert self.grant is not None
        until = self.grant.engine_ns + int(valid_s * 1e9) + (0 if valid_s < 0 else 86_400 * 10**9)
        return codec.message(
            Type.ORDERS, codec.pack_orders(records, 1, until, priority), sequence, self.session, self.in_seq)

    def orders(self, *records: OrderRecord, valid_s: float = 10.0, priority: bool = False) -> int:
        """Send a batch under the next sequence, which is returned."""
        self.out_seq += 1
        self.write(self.message(list(records), self.out_seq, valid_s, priority))
        return self.out_seq

    async def reports(self, count: int, sequence: int) -> list[ReportRecord]:
        """Reports until ``count`` orders have ended; numbered without a hole, and acknowledging the batch by the last one."""
        rows: list[ReportRecord] = []
        over: set[bytes] = set()
        while len(over) < count:
            head, body = await self.next(Type.REPORTS)
            number, _, part = codec.unpack_reports(body)
            if number:
                raise Failure("REPORTS as the answer to a question nobody put")
            if head.sequence != self.in_seq + 1:
                raise Failure(f"REPORTS {head.sequence} instead of {self.in_seq + 1}")
            self.in_seq = head.sequence
            rows += part
            over |= {row.cid for row in part if row.kind == codec.REJECT or row.status in codec.ENDED_STATUSES}
        if self.acked < sequence:
            raise Failure(f"batch {sequence} was reported on but only {self.acked} acknowledged")
        return rows

    async def ask(self, *cids: bytes) -> tuple[list[ReportRecord], list[bytes], tuple[int, int, int]]:
        """QUERY: (reports, not found, (issue time as told, when it was looked up, remembered since))."""
        issued = time.monotonic_ns()  # its meaning is ours alone
        self.write(codec.query(9, issued, cids, self.session, self.in_seq))
        rows: list[ReportRecord] = []
        missing: list[bytes] = []
        times = (0, 0, 0)
        while {row.cid for row in rows if row.kind != codec.TRADE} | set(missing) != set(cids):
            head, body = await self.next(Type.REPORTS, Type.NOT_FOUND)
            if head.sequence:
                raise Failure("the answer to QUERY carries a sequence")
            if head.type == Type.REPORTS:
                number, _, part = codec.unpack_reports(body)
                rows += part
            else:
                number, told, engine_ns, since, part_missing = codec.read_not_found(body)
                times = (told, engine_ns, since)
                if told != issued:
                    raise Failure(f"NOT_FOUND tells the issue time {told} instead of {issued}")
                missing += part_missing
            if number != 9:
                raise Failure(f"an answer to question {number} instead of 9")
        return rows, missing, times

    def order(self, account: int, flags: int = 0, limit: int = 0, lots: int = 0) -> OrderRecord:
        """A market buy of the smallest size, unless something else is said."""
        return OrderRecord(os.urandom(16), account, self.instrument(), flags, lots or self.settings.lots, limit)


Check = Callable[[Settings], Awaitable[str]]
CHECKS: list[tuple[str, str, Check]] = []


def check(name: str, expected: str) -> Callable[[Check], Check]:
    """A row of the table."""

    def add(function: Check) -> Check:
        CHECKS.append((name, expected, function))
        return function

    return add


def _no_trace(rows: list[ReportRecord], missing: list[bytes], cids: set[bytes], what: str) -> None:
    if rows or set(missing) != cids:
        raise Failure(f"{what} was executed")


def _refused(rows: list[ReportRecord], *refusals: Refusal) -> str:
    codes = {core_code(refusal) for refusal in refusals}
    wrong = [row for row in rows if row.kind != codec.REJECT or row.code not in codes]
    if wrong:
        row = wrong[0]
        raise Failure(f"kind {row.kind}, status {row.status}, code {row.code} for {len(wrong)} of {len(rows)} records")
    return f"REJECT for {len(rows)} record{'s' * (len(rows) != 1)}"


@check("login", "CHALLENGE, then LOGIN_ACK with the engine's proof, a window and at least one instrument")
async def _login(settings: Settings) -> str:
    peer = await Peer.open(settings)
    grant = await peer.log_in()
    if not grant.instruments or not grant.window or grant.reserved >= grant.window or grant.horizon_s <= 0:
        raise Failure("no instruments, no window, a reserved share as large as the window, or no horizon")
    if grant.last_in or grant.last_out:
        raise Failure(f"a new session begins at {grant.last_in} and {grant.last_out} instead of 0")
    await peer.close()
    return f"window {grant.window}, reserved {grant.reserved}, {len(grant.instruments)} instruments"


@check("wrong secret", f"ERROR {int(Ended.REFUSED)} and the end of the connection")
async def _wrong_secret(settings: Settings) -> str:
    peer = await Peer.open(settings)
    _, body = await peer.next(Type.CHALLENGE)
    nonce, challenge = os.urandom(32), codec.read_challenge(body)
    proof = client_proof(settings.secret + b"!", challenge, nonce, settings.name)
    peer.write(codec.login(codec.Login(nonce=nonce, proof=proof, resume=0, last_in=0, last_out=0, name=settings.name)))
    return await peer.ended(Ended.REFUSED)


@check("fresh challenge", "another CHALLENGE on every connection")
async def _fresh_challenge(settings: Settings) -> str:
    seen = set()
    for _ in range(3):
        peer = await Peer.open(settings)
        _, body = await peer.next(Type.CHALLENGE)
        seen.add(codec.read_challenge(body))
        await peer.close()
    if len(seen) != 3:
        raise Failure("the same challenge again: a login that was overheard could be played back")
    return "three of three differ"


@check("bad version", f"ERROR {int(Ended.VERSION)} and the end of the connection")
async def _bad_version(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.next(Type.CHALLENGE)
    peer.write(codec.message(Type.LOGIN, bytes(100), version=codec.VERSION + 8))
    return await peer.ended(Ended.VERSION)


@check("before login", f"ERROR {int(Ended.NOT_LOGGED_IN)}: nothing else is listened to before LOGIN")
async def _before_login(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.next(Type.CHALLENGE)
    peer.write(codec.heartbeat(1, 0, 0, 0))
    return await peer.ended(Ended.NOT_LOGGED_IN)


@check("order", "REPORTS from sequence 1 on that end the order, and the acknowledgement of its batch")
async def _order(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    order = peer.order(await peer.account())
    rows = await peer.reports(1, peer.orders(order))
    if {row.cid for row in rows} != {order.cid}:
        raise Failure("reports on another order")
    trades = [row for row in rows if row.kind == codec.TRADE]
    if sum(row.last_qty for row in trades) != max(row.cum_qty for row in rows):
        raise Failure("the executions do not add up to the cumulative quantity")
    await peer.close()
    return f"{len(trades)} executions, status {rows[-1].status}, code {rows[-1].code}"


@check("split writes", "a message that comes in small pieces is one message")
async def _split(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    order = peer.order(await peer.account())
    peer.out_seq += 1
    raw = peer.message([order], peer.out_seq)
    for at in range(0, len(raw), 13):
        peer.write(raw[at : at + 13])
        await asyncio.sleep(0.002)
    rows = await peer.reports(1, peer.out_seq)
    await peer.close()
    return f"status {rows[-1].status}"


@check("duplicate id", "the state it has, in a later batch and within one; never a second execution")
async def _duplicate(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    order = peer.order(await peer.account())
    rows = await peer.reports(1, peer.orders(order))
    first, last = _executions(rows), rows[-1]
    again = await peer.reports(1, peer.orders(order, order))
    other, _, _ = await peer.ask(order.cid)
    for what, found in (("sent again", again), ("asked for", other)):
        if not found:
            raise Failure(f"{what}: not found")
        if _executions(found) - first:
            raise Failure(f"{what}: executions {sorted(_executions(found) - first)} that the first time had not")
        state = found[-1]
        if (state.cum_qty, state.venue_order_id, state.kind == codec.REJECT) != (
                last.cum_qty, last.venue_order_id, last.kind == codec.REJECT):
            raise Failure(f"{what}: order {state.venue_order_id} with {state.cum_qty} lots instead of "
                          f"{last.venue_order_id} with {last.cum_qty}")
    await peer.close()
    return f"order {last.venue_order_id} with {last.cum_qty} lots each time"


def _executions(rows: list[ReportRecord]) -> set[int]:
    return {row.trade_id for row in rows if row.kind == codec.TRADE}


@check("same sequence again", "a message whose sequence was taken is acknowledged and otherwise ignored")
async def _same_sequence(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    account = await peer.account()
    await peer.reports(1, peer.orders(peer.order(account)))
    other = peer.order(account)
    peer.write(peer.message([other], peer.out_seq))
    await peer.quiet(0.05)
    rows, missing, _ = await peer.ask(other.cid)
    _no_trace(rows, missing, {other.cid}, "a message under a sequence that was taken")
    await peer.close()
    return "no report, no execution"


@check("sequence gap", "RESEND_REQUEST from the first missing one; nothing behind it is executed before it came")
async def _gap(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    account = await peer.account()
    first, second = peer.order(account), peer.order(account)
    peer.write(peer.message([second], peer.out_seq + 2))
    _, body = await peer.next(Type.RESEND_REQUEST)
    begin, end = codec.read_resend_request(body)
    if begin != peer.out_seq + 1 or end not in (0, begin, begin + 1):
        raise Failure(f"RESEND_REQUEST {begin} to {end} instead of from {peer.out_seq + 1}")
    rows, missing, _ = await peer.ask(first.cid, second.cid)
    _no_trace(rows, missing, {first.cid, second.cid}, "the message behind the gap")
    peer.orders(first)
    reported = await peer.reports(2, peer.orders(second))
    if reported[0].cid != first.cid:
        raise Failure("the second message was executed before the first")
    await peer.close()
    return "asked for, then both in order"


@check("gap filled", "after GAP_FILL the next message is taken, and the acknowledgement covers what was filled")
async def _gap_fill(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    account = await peer.account()
    peer.write(codec.gap_fill(1, 3, codec.WITHHELD, peer.session, 0))
    peer.out_seq = 3
    rows = await peer.reports(1, peer.orders(peer.order(account)))
    await peer.close()
    return f"sequence 4 after 1 to 3 were withheld, status {rows[-1].status}"


@check("heartbeat", "HEARTBEAT within its interval while idle, echoing the last time we told")
async def _heartbeat(settings: Settings) -> str:
    peer = await Peer.open(settings)
    grant = await peer.log_in()
    every = grant.heartbeat_ms / 1000
    peer.write(codec.heartbeat(4_711, 0, peer.session, 0))
    echo = 0
    for _ in range(3):
        _, body = await peer.next(Type.HEARTBEAT, timeout_s=every * PATIENCE + 0.2)
        echo = codec.read_heartbeat(body)[1]
        if echo == 4_711:
            break
    else:
        raise Failure(f"three heartbeats echo {echo} instead of 4711")
    await peer.close()
    return f"every {grant.heartbeat_ms} ms"


@check("silence", f"ERROR {int(Ended.SILENT)} after three heartbeats without a word")
async def _silence(settings: Settings) -> str:
    peer = await Peer.open(settings)
    grant = await peer.log_in()
    every = grant.heartbeat_ms / 1000
    began = time.monotonic()
    _, body = await peer.next(Type.ERROR, timeout_s=every * (3 + PATIENCE) + 0.5)
    code, text = codec.read_end(body)
    after = time.monotonic() - began
    if code != Ended.SILENT or after < 2 * every:
        raise Failure(f"ERROR {code} ({text}) after {after:.1f} s")
    return f"{text}, after {after:.1f} s"


@check("back-pressure", f"REJECT {int(Refusal.WINDOW)} for every record beyond the window's open share; the reserved share "
       "is for messages with priority")
async def _window(settings: Settings) -> str:
    peer = await Peer.open(settings)
    grant = await peer.log_in()
    count = grant.window - grant.reserved + 1
    if count > min(grant.records_max, RECORDS_MAX) or not grant.reserved:
        raise Skipped(f"{count} records do not fit one message, or nothing is reserved")
    account = await peer.account()
    rows = await peer.reports(count, peer.orders(*[peer.order(account) for _ in range(count)]))
    _refused(rows, Refusal.WINDOW)
    flags = Flag.REDUCE_ONLY | Flag.REDUCTION
    reductions = [peer.order(account, flags=flags) for _ in range(count)]
    rows = await peer.reports(count, peer.orders(*reductions, priority=True))
    if any(row.kind == codec.REJECT and row.code == core_code(Refusal.WINDOW) for row in rows):
        raise Failure("a message with priority was refused for want of room")
    await peer.close()
    return f"{count} records refused, {count} with priority taken"


@check("oversize", f"ERROR {int(Ended.OVERSIZE)} on the header of a message longer than was granted")
async def _oversize(settings: Settings) -> str:
    peer = await Peer.open(settings)
    grant = await peer.log_in()
    head = codec.HEADER.pack(codec.MAGIC, codec.VERSION, Type.ORDERS, grant.message_max + 48, 1, peer.session, 0, 0)[:-4]
    peer.write(head + codec.crc32c(head).to_bytes(4, "little"))
    return await peer.ended(Ended.OVERSIZE)


@check("truncated", "nothing of a message whose end never came is executed, and its sequence is still free")
async def _truncated(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    account = await peer.account()
    orders = [peer.order(account) for _ in range(8)]
    peer.write(peer.message(orders, 1)[: 64 + 48 * 5 + 11])
    await peer.writer.drain()
    await asyncio.sleep(0.05)
    session = peer.session
    await peer.close()
    peer = await Peer.open(settings)
    grant = await peer.log_in(resume=session, last_out=1)
    if grant.session == session and grant.last_in != 0:
        raise Failure(f"the engine says it took message {grant.last_in}")
    cids = [order.cid for order in orders]
    rows, missing, _ = await peer.ask(*cids)
    _no_trace(rows, missing, set(cids), "part of a message")
    await peer.close()
    return "no trace of it"


@check("damaged record", f"ERROR {int(Ended.CORRUPT)}; no record of the message is executed")
async def _damaged(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    account = await peer.account()
    orders = [peer.order(account) for _ in range(3)]
    raw = bytearray(peer.message(orders, 1))
    raw[64 + 48 + 24] ^= 1  # the second record's quantity
    peer.write(bytes(raw))
    said = await peer.ended(Ended.CORRUPT)
    peer = await Peer.open(settings)
    await peer.log_in()
    cids = [order.cid for order in orders]
    rows, missing, _ = await peer.ask(*cids)
    _no_trace(rows, missing, set(cids), "part of a damaged message")
    await peer.close()
    return said


@check("wrong count", f"ERROR {int(Ended.MALFORMED)} where the count does not fit the length")
async def _count(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    body = codec.pack_orders([peer.order(await peer.account())], 1, 0, False)
    head = struct.pack("<QqIII", 1, 0, 2, 0, 0)
    body = head + codec.crc32c(head).to_bytes(4, "little") + body[32:]
    peer.write(codec.message(Type.ORDERS, body, 1, peer.session, 0))
    return await peer.ended(Ended.MALFORMED)


@check("unknown instrument", f"REJECT {int(Refusal.INSTRUMENT)}")
async def _instrument(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    order = msgspec.structs.replace(peer.order(await peer.account()), instrument=65_535)
    rows = await peer.reports(1, peer.orders(order))
    await peer.close()
    return _refused(rows, Refusal.INSTRUMENT)


@check("unknown account", f"REJECT {int(Refusal.ACCOUNT)}")
async def _account(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    rows = await peer.reports(1, peer.orders(peer.order(0xFFFFFFF0)))
    await peer.close()
    return _refused(rows, Refusal.ACCOUNT)


@check("unknown flags", f"REJECT {int(Refusal.RECORD)}: a bit this version does not have is not guessed at")
async def _flags(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    rows = await peer.reports(1, peer.orders(peer.order(await peer.account(), flags=1 << 9)))
    await peer.close()
    return _refused(rows, Refusal.RECORD)


@check("no quantity", f"REJECT {int(Refusal.QUANTITY)}")
async def _quantity(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    order = msgspec.structs.replace(peer.order(await peer.account()), quantity=0)
    rows = await peer.reports(1, peer.orders(order))
    await peer.close()
    return _refused(rows, Refusal.QUANTITY)


@check("reduce-only", f"REJECT {int(Refusal.REDUCE_ONLY)}, or ended unfilled, where it would enlarge the position")
async def _reduce_only(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    account = await peer.account()
    await peer.reports(1, peer.orders(peer.order(account)))
    rows = await peer.reports(1, peer.orders(peer.order(account, Flag.REDUCE_ONLY | Flag.REDUCTION), priority=True))
    await peer.close()
    if any(row.cum_qty for row in rows):
        raise Failure(f"it filled {max(row.cum_qty for row in rows)} lots")
    return "nothing filled" if rows[-1].kind != codec.REJECT else _refused(rows, Refusal.REDUCE_ONLY)


@check("late", f"REJECT {int(Refusal.LATE)} for an order that comes after it was valid")
async def _late(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    rows = await peer.reports(1, peer.orders(peer.order(await peer.account()), valid_s=-5.0))
    await peer.close()
    return _refused(rows, Refusal.LATE)


@check("query found", "every execution, then the state, under the question's number and without a sequence")
async def _found(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    order = peer.order(await peer.account())
    rows = await peer.reports(1, peer.orders(order))
    told, missing, _ = await peer.ask(order.cid)
    if missing or not told or told[-1].kind == codec.TRADE:
        raise Failure("not found, or no state behind the executions")
    if _executions(told) != _executions(rows) or told[-1].cum_qty != max(row.cum_qty for row in rows):
        raise Failure("executions or quantity are not those that were reported")
    await peer.close()
    return f"{len(told)} rows"


@check("query not found", "NOT_FOUND with the issue time we told, when it was looked up, and since when ids are remembered")
async def _not_found(settings: Settings) -> str:
    peer = await Peer.open(settings)
    grant = await peer.log_in()
    cids = [os.urandom(16) for _ in range(5)]
    rows, missing, (_, engine_ns, since) = await peer.ask(*cids)
    _no_trace(rows, missing, set(cids), "an order nobody sent")
    if not since <= engine_ns or engine_ns < grant.engine_ns:
        raise Failure(f"looked up at {engine_ns}, remembered since {since}, logged in at {grant.engine_ns}")
    await peer.close()
    return f"{len(missing)} ids not found"


@check("reconnect", "the session goes on: what was taken is told, and the reports that were missed come again")
async def _reconnect(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    account = await peer.account()
    first = await peer.reports(1, peer.orders(peer.order(account)))
    order = peer.order(account)
    sequence = peer.orders(order)
    await peer.writer.drain()
    await asyncio.sleep(0.1)
    session, seen = peer.session, peer.in_seq
    await peer.close()
    peer = await Peer.open(settings)
    grant = await peer.log_in(resume=session, last_in=seen, last_out=sequence)
    if grant.session != session:
        raise Failure("a new session instead of the old one")
    if grant.last_in != sequence:
        raise Failure(f"{grant.last_in} messages taken instead of {sequence}")
    rows = await peer.reports(1, 0)
    if {row.cid for row in rows} != {order.cid}:
        raise Failure("other reports than those that were missed")
    again = await peer.reports(1, peer.orders(peer.order(account)))
    await peer.close()
    return f"{len(first)} rows before, {len(rows)} replayed, {len(again)} after"


@check("resend of reports", "RESEND_REQUEST brings the same reports under the same sequences")
async def _resend(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    account = await peer.account()
    rows = [await peer.reports(1, peer.orders(peer.order(account))) for _ in range(3)]
    last, peer.in_seq = peer.in_seq, 0
    peer.write(codec.resend_request(1, 0, peer.session, last))
    again: list[ReportRecord] = []
    while peer.in_seq < last:
        head, body = await peer.next(Type.REPORTS)
        if head.sequence != peer.in_seq + 1:
            raise Failure(f"REPORTS {head.sequence} instead of {peer.in_seq + 1}")
        peer.in_seq = head.sequence
        again += codec.unpack_reports(body)[2]
    if again != [row for part in rows for row in part]:
        raise Failure("other reports than the first time")
    await peer.close()
    return f"{last} messages"


@check("new session", "sequences begin at 1 again; ids of the old session are still known")
async def _new_session(settings: Settings) -> str:
    peer = await Peer.open(settings)
    old = (await peer.log_in()).session
    order = peer.order(await peer.account())
    rows = await peer.reports(1, peer.orders(order))
    await peer.close()
    peer = await Peer.open(settings)
    grant = await peer.log_in()
    if grant.session == old or grant.last_in or grant.last_out:
        raise Failure(f"session {grant.session} at {grant.last_in} and {grant.last_out}")
    again = await peer.reports(1, peer.orders(order))
    if again[-1].venue_order_id != rows[-1].venue_order_id or _executions(again) - _executions(rows):
        raise Failure("the id was executed again")
    await peer.close()
    return "the id is known"


@check("replaced", f"a second login to the session puts the first connection out with ERROR {int(Ended.REPLACED)}")
async def _replaced(settings: Settings) -> str:
    peer = await Peer.open(settings)
    grant = await peer.log_in()
    other = await Peer.open(settings)
    await other.log_in(resume=grant.session)
    said = await peer.ended(Ended.REPLACED)
    await other.close()
    return said


@check("logout", "LOGOUT is answered with LOGOUT and the end of the connection")
async def _logout(settings: Settings) -> str:
    peer = await Peer.open(settings)
    await peer.log_in()
    peer.write(codec.end(Type.LOGOUT, 0, "done", peer.session, 0))
    await peer.next(Type.LOGOUT)
    return "LOGOUT"


async def run(settings: Settings, only: str = "") -> list[Row]:
    """Every row; ``only``: those whose name contains it."""
    rows = []
    for name, expected, function in CHECKS:
        if only not in name:
            continue
        row = Row(name, expected)
        rows.append(row)
        try:
            row.got = await function(settings)
            row.verdict = "pass"
        except Skipped as why:
            row.verdict, row.got = "skip", str(why)
        except (Failure, Malformed) as problem:
            row.verdict, row.got = "FAIL", str(problem)
        except (OSError, TimeoutError) as error:
            row.verdict, row.got = "FAIL", f"no connection: {error or type(error).__name__}"
    return rows


def table(rows: list[Row]) -> str:
    """The rows for a person, and how many failed."""
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.verdict:<4}  {row.name:<{width}}  {row.got}")
        if row.verdict != "pass":
            lines.append(f"{'':<4}  {'':<{width}}  expected: {row.expected}")
    failed = sum(row.verdict == "FAIL" for row in rows)
    skipped = sum(row.verdict == "skip" for row in rows)
    lines += ["", f"{len(rows)} checks, {failed} failed" + (f", {skipped} not tried" if skipped else "")]
    return "\n".join(lines)


def main(
    address: str, secret_file: Path, name: str = "conformance", account: str = "conformance", instrument: str = "",
    lots: int = 1, timeout_s: float = 3.0, only: str = "",
) -> int:
    """Exit code: 0 when every row passed, 1 when one failed."""
    if lots < 1 or timeout_s <= 0:
        raise UsageError("--lots and --timeout-s must be above 0")
    try:
        check_address(address)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not any(only in row for row, _, _ in CHECKS):
        raise UsageError(f"no check is called {only!r}")
    settings = Settings(
        address=address, secret=read_secret(secret_file), name=name, account=account, symbol=instrument, lots=lots,
        timeout_s=timeout_s)
    rows = asyncio.run(run(settings, only))
    print(table(rows))
    return 1 if any(row.verdict == "FAIL" for row in rows) else 0
