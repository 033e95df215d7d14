"""The batch protocol's bytes: the kernel and its readable twin agree, and nothing damaged becomes a record."""

from __future__ import annotations

import contextlib
import re
import struct
from array import array
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from copyd._fast import batch_wire
from copyd._fast.batch_wire import Batch, Flight, Packer, crc32c
from copyd._fast.columns import Columns, ReportBatch
from copyd.core.rows import NONE, OrderRow, PlanRow, ReportRow
from copyd.venues.batch import codec
from copyd.venues.batch.codec import Flag, OrderRecord, ReportRecord
from copyd.venues.batch.errors import Malformed, Refusal, core_code

ORDERS, PLANS = 7, 3
CODES = {int(refusal): core_code(refusal) for refusal in Refusal}
TEXT = (Path(codec.__file__).parent / "PROTOCOL.md").read_text()


def plain_crc(data: bytes) -> int:
    """CRC-32C bit by bit."""
    total = 0xFFFFFFFF
    for byte in data:
        total ^= byte
        for _ in range(8):
            total = total >> 1 ^ (0x82F63B78 if total & 1 else 0)
    return total ^ 0xFFFFFFFF


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_the_sum_is_crc32c_with_and_without_the_instruction(data: bytes) -> None:
    """Both implementations compute the polynomial the protocol names."""
    wanted = plain_crc(data)
    try:
        for instruction in (True, False):
            batch_wire.use_crc_instruction(instruction)
            assert crc32c(data) == wanted
    finally:
        batch_wire.use_crc_instruction(True)
    assert crc32c(b"123456789") == 0xE3069283


I64 = st.integers(0, (1 << 62) - 1)
ORDER = st.builds(
    OrderRow, cid=st.binary(min_size=16, max_size=16), order_qty=st.integers(1, 1 << 50),
    limit_px=st.one_of(st.just(0), st.integers(1, 1 << 50)), account=st.integers(0, 9), instrument=st.integers(0, 3),
    side=st.sampled_from([1, -1]), kind=st.integers(0, 1), position_side=st.integers(0, 2), reduce_only=st.integers(0, 1),
    plan=st.integers(0, 1), seq=st.just(77), state=st.just(1))


def tables(rows: list[OrderRow]) -> tuple[Columns, array[int]]:
    """Two plans, of leaders 0 and 1, and these orders."""
    columns = Columns(4)
    for leader in (0, 1):
        columns.add(PLANS, PlanRow(leader=leader).pack())
    slots = array("I")
    for row in rows:
        slot = columns.add_order(row.cid)
        columns.put(ORDERS, slot, row.pack())
        slots.append(slot)
    return columns, slots


def packer(records: int = 2048, top: tuple[int, ...] = ()) -> Packer:
    """Accounts are 100 higher at the engine, instruments 7 higher."""
    made = Packer(records)
    for index in range(10):
        made.set_account(index, index + 100)
    for index in range(4):
        made.set_instrument(index, index + 7)
    made.set_top(top)
    return made


def record(row: OrderRow) -> OrderRecord:
    """What the protocol says about an order row."""
    flags = (Flag.SELL if row.side < 0 else 0) | (Flag.REDUCE_ONLY if row.reduce_only else 0)
    flags |= (0, Flag.LONG, Flag.SHORT)[row.position_side]
    flags |= (Flag.LIMIT_IOC if row.limit_px else 0) | (Flag.REDUCTION if row.kind else 0)
    return OrderRecord(row.cid, row.account + 100, row.instrument + 7, int(flags), row.order_qty, row.limit_px)


@given(st.lists(ORDER, min_size=1, max_size=40, unique_by=lambda row: row.cid), st.integers(1, 12), st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_kernel_packs_what_its_twin_packs(rows: list[OrderRow], records: int, top: bool) -> None:
    """Byte for byte; reductions first, then top leaders' openings, then the others, each in the order given."""
    columns, slots = tables(rows)
    batches, refused = packer(records, (1,) if top else ()).pack(columns, slots)
    assert not refused

    def rank(row: OrderRow) -> int:
        return 0 if row.kind else 1 if top and row.plan == 1 else 2

    at = 0
    for number in range(3):
        wanted = [record(row) for row in rows if rank(row) == number]
        for begin in range(0, len(wanted), records):
            batch, part = batches[at], wanted[begin : begin + records]
            at += 1
            batch.stamp(at, 5, 3, 99)
            assert batch.rank == number
            assert bytes(batch) == codec.message(5, codec.pack_orders(part, 77, 99, number < 2), at, 5, 3)
            assert codec.unpack_orders(bytes(batch)[32:]) == (77, 99, number < 2, part)
            assert batch.cids() == [item.cid for item in part]
    assert at == len(batches)


def test_an_order_the_engine_cannot_know_is_handed_back() -> None:
    """No number for the account or the instrument, or no quantity: the slot comes back, the others go."""
    good = OrderRow(cid=bytes(16), order_qty=1, side=1, state=1)
    rows = [good, OrderRow(cid=b"a" * 16, order_qty=1, side=1, account=9, state=1),
            OrderRow(cid=b"b" * 16, order_qty=1, side=1, instrument=3, state=1), OrderRow(cid=b"c" * 16, side=1, state=1)]
    columns, slots = tables(rows)
    made = packer()
    made.set_account(9, NONE)
    made.set_instrument(3, -1)
    batches, refused = made.pack(columns, slots)
    assert refused == list(slots[1:]) and [batch.count for batch in batches] == [1]
    with pytest.raises(IndexError):
        made.pack(columns, array("I", [99]))


@given(st.integers(2, 30), st.data())
@settings(max_examples=20, deadline=None)
def test_a_batch_is_split_between_its_records(count: int, data: st.DataObject) -> None:
    """Both parts are whole messages, in order."""
    rows = [OrderRow(cid=bytes([i]) * 16, order_qty=i + 1, side=1, state=1) for i in range(count)]
    columns, slots = tables(rows)
    made = packer()
    (batch,), _ = made.pack(columns, slots)
    keep, rest = data.draw(st.integers(1, count - 1)), made.spare()
    batch.split(keep, rest)
    found = []
    for number, part in enumerate((batch, rest), 1):
        part.stamp(number, 1, 0, 0)
        found += codec.unpack_orders(bytes(part)[32:])[3]
    assert found == [record(row) for row in rows]
    with pytest.raises(ValueError, match="between its records"):
        batch.split(keep, rest)


@st.composite
def reports(draw: st.DrawFn) -> ReportRecord:
    """A record that can be true."""
    cid = draw(st.binary(min_size=16, max_size=16))
    kind = draw(st.sampled_from([codec.STATE, codec.REJECT, codec.TRADE]))
    if kind == codec.REJECT:
        return ReportRecord(cid, kind, 8, draw(st.sampled_from(list(CODES))), venue_ns=draw(I64))
    cum = draw(st.integers(1, 1 << 50))
    rest = {"cum_qty": cum, "cum_quote_e8": draw(I64), "fee_e8": draw(st.integers(-(1 << 40), 1 << 40)),
            "venue_order_id": draw(I64), "venue_ns": draw(I64)}
    status = draw(st.sampled_from(sorted(codec.STATUSES)))
    if kind == codec.STATE:
        return ReportRecord(cid, kind, status, **rest)
    return ReportRecord(
        cid, kind, status, last_qty=draw(st.integers(1, cum)), last_px=draw(st.integers(1, 1 << 50)),
        trade_id=draw(st.integers(1, 1 << 62)), **rest)


def decode(body: bytes) -> list[ReportRow] | None:
    """The kernel's rows of a REPORTS body; None when it refuses them."""
    count = struct.unpack_from("<I", body, 16)[0]
    flight, out = Flight(CODES), ReportBatch()
    if len(body) != 32 + 96 * count or flight.decode(body, 32, count, out):
        assert out.count == 0, "refused, yet a row was made"
        return None
    raw = out.to_bytes()
    return [ReportRow.unpack(raw[at : at + 96]) for at in range(0, len(raw), 96)]


def twin(body: bytes) -> list[ReportRow] | None:
    """The same from the readable decoder."""
    try:
        _, _, found = codec.unpack_reports(body)
    except Malformed:
        return None
    return [
        ReportRow(cid=r.cid, cum_qty=r.cum_qty, cost_e8=r.cum_quote_e8, last_qty=r.last_qty, last_px=r.last_px, fee_e8=r.fee_e8,
                  trade_id=r.trade_id, venue_order_id=r.venue_order_id, ts_event=r.venue_ns, account=NONE, code=r.code,
                  kind=r.kind, status=r.status)
        for r in found
    ]


@given(st.lists(reports(), max_size=20))
@settings(max_examples=100, deadline=None)
def test_reports_come_back_as_they_were_sent(rows: list[ReportRecord]) -> None:
    """Kernel and twin read the same rows, a refusal under the core's number."""
    body = codec.pack_reports(rows, 3, 4)
    found = twin(body)
    assert found is not None and decode(body) == found
    assert [(row.cid, row.cum_qty, row.trade_id) for row in found] == [(r.cid, r.cum_qty, r.trade_id) for r in rows]
    assert [row.code for row in found] == [core_code(r.code) if r.kind == codec.REJECT else 0 for r in rows]


def resealed(raw: bytearray, begin: int, size: int) -> None:
    """Give a record the sum of what it now says."""
    raw[begin + size - 4 : begin + size] = crc32c(bytes(raw[begin : begin + size - 4])).to_bytes(4, "little")


@given(st.lists(reports(), min_size=1, max_size=4), st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_report_is_no_report(rows: list[ReportRecord], data: st.DataObject) -> None:
    """Any flipped bits in a record, wherever: refused by both, and not a row of the message is used."""
    raw = bytearray(codec.pack_reports(rows))
    at = data.draw(st.integers(32, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(raw)) is None and twin(bytes(raw)) is None


@given(st.lists(reports(), min_size=1, max_size=3), st.data())
@settings(max_examples=150, deadline=None)
def test_a_lie_under_a_good_sum_is_judged_alike(rows: list[ReportRecord], data: st.DataObject) -> None:
    """Bytes changed and sealed again: kernel and twin take the same rows, or both refuse."""
    raw = bytearray(codec.pack_reports(rows))
    row = data.draw(st.integers(0, len(rows) - 1))
    at = 32 + 96 * row + data.draw(st.integers(0, 91))
    raw[at] ^= data.draw(st.integers(1, 255))
    resealed(raw, 32 + 96 * row, 96)
    assert decode(bytes(raw)) == twin(bytes(raw))


@given(st.binary(max_size=300), st.integers(0, 16))
@settings(max_examples=200, deadline=None)
@example(b"", 0)
def test_any_bytes_are_a_message_or_malformed(noise: bytes, kind: int) -> None:
    """No reader raises anything but Malformed, on noise and on noise under a good sum."""
    readers = (
        codec.read_challenge, codec.read_login, codec.read_login_ack, codec.read_heartbeat, codec.read_resend_request,
        codec.read_gap_fill, codec.read_query, codec.read_not_found, codec.read_window, codec.read_end, codec.read_accounts,
        codec.read_accounts_ack, codec.unpack_orders, codec.unpack_reports, codec.read_header,
    )
    for body in (noise, noise + crc32c(noise).to_bytes(4, "little")):
        for reader in readers:
            with contextlib.suppress(Malformed):
                reader(body)
    whole = codec.message(kind, noise)
    for cut in range(0, len(whole), 7):
        if cut < codec.HEADER_BYTES:
            assert codec.read_header(whole[:cut]) is None


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_header_is_refused(data: st.DataObject) -> None:
    """A header with any byte changed is never read as another message."""
    raw = bytearray(codec.heartbeat(1, 2, 3, 4))
    raw[data.draw(st.integers(0, 31))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Malformed):
        codec.read_header(bytes(raw))


def test_session_messages_round_trip() -> None:
    """What is written is read back."""
    ask = codec.Login(nonce=b"n" * 32, proof=b"p" * 32, resume=1, last_in=2, last_out=3, name="näme")
    assert codec.read_login(codec.login(ask)[32:]) == ask
    grant = codec.LoginAck(
        proof=b"p" * 32, session=9, last_in=1, last_out=2, window=100, reserved=10, message_max=1000, records_max=20,
        heartbeat_ms=1000, horizon_s=60, retained=5, engine_ns=1, known_since_ns=-1,
        instruments=(codec.InstrumentRow(0, "BTCUSDT", 10**7, 10**5),))
    assert codec.read_login_ack(codec.login_ack(grant)[32:]) == grant
    ids = [bytes([i]) * 16 for i in range(3)]
    assert codec.read_query(codec.query(4, -5, ids, 1, 2)[32:]) == (4, -5, ids)
    assert codec.read_not_found(codec.not_found(4, 5, 6, 7, ids, 1, 2)[32:]) == (4, 5, 6, 7, ids)
    assert codec.read_accounts(codec.accounts(1, ["a", "ü"], 1, 2)[32:]) == (1, ["a", "ü"])
    assert codec.read_accounts_ack(codec.accounts_ack(1, [5, NONE], 1, 2)[32:]) == (1, (5, NONE))
    assert codec.read_end(codec.end(14, 7, "why", 1, 2)[32:]) == (7, "why")
    assert codec.read_window(codec.window(5, 4, 1, 2)[32:]) == (5, 4)
    assert codec.read_gap_fill(codec.gap_fill(1, 2, 1, 1, 2)[32:]) == (1, 2, 1)
    assert codec.read_resend_request(codec.resend_request(1, 0, 1, 2)[32:]) == (1, 0)
    with pytest.raises(Malformed):
        codec.read_window(codec.window(4, 5, 1, 2)[32:])


def test_the_examples_of_the_protocol_are_what_it_says() -> None:
    """The hex in PROTOCOL.md is what the codec writes."""
    blocks = [bytes.fromhex("".join(line[6:] for line in block.split("\n")))
              for block in re.findall(r"```\n(0000.*?)\n```", TEXT, re.S)]
    session, cid = 0x0102030405060708, bytes(range(16))
    assert blocks[0] == codec.heartbeat(1, 0, session, 3)
    order = OrderRecord(cid, 7, 0, Flag.SELL | Flag.REDUCE_ONLY | Flag.REDUCTION, 25)
    assert blocks[1] == codec.message(5, codec.pack_orders([order], 42, 17 * 10**17, True), 1, session)
    assert codec.unpack_reports(blocks[2][32:])[2] == [ReportRecord(
        cid, codec.TRADE, 4, 0, 25, 1_625 * 10**8, 25, 650_000, 81_250_000, 9, 8_389_000_643, 1_699_999_999_500_000_000)]
    assert codec.read_header(blocks[2]) == codec.Header(6, 160, 1, session, 1)


# --- orders in flight ------------------------------------------------------------------------------------------------------


def sent(cids: list[bytes], made: Packer | None = None) -> Batch:
    """A batch of orders under these ids."""
    columns, slots = tables([OrderRow(cid=cid, order_qty=5, side=1, state=1) for cid in cids])
    (batch,), _ = (made or packer()).pack(columns, slots)
    batch.stamp(1, 1, 0, 0)
    return batch


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["alive", "end", "doubt", "forget"])), max_size=60))
@settings(max_examples=60, deadline=None)
def test_every_order_is_in_doubt_at_most_once_and_ends_at_most_once(steps: list[tuple[int, str]]) -> None:
    """The table agrees with a plain dictionary, whatever comes in whatever order."""
    # Ids that collide: the hash is the low half, and there are three of it.
    cids = [bytes([i]) + bytes(14) + bytes([i % 3]) for i in range(24)]
    flight = Flight(CODES)
    batch = sent(cids)
    flight.book(batch)
    model = dict.fromkeys(cids, "sent")
    doubts: list[bytes] = []
    for number, what in steps:
        cid = cids[number] if number < 24 else b"x" * 16
        out = ReportBatch()
        if what == "doubt":
            flight.doubt_all(out)
            raw = out.to_bytes()
            doubts += [raw[at : at + 16] for at in range(0, len(raw), 96)]
            model = dict.fromkeys(model, "doubted")
        elif what == "forget":
            flight.forget(cid)
            if model.get(cid) == "doubted":
                del model[cid]
        else:
            status = 2 if what == "alive" else 4
            assert flight.decode(codec.pack_reports([ReportRecord(cid, codec.STATE, status)]), 32, 1, out) == 0
            if cid in model and what == "end":
                del model[cid]
            elif model.get(cid) == "sent":
                model[cid] = "alive"
        assert len(flight) == len(model) and all((cid in flight) == (cid in model) for cid in cids)
        assert flight.waiting == sum(state == "sent" for state in model.values())
        assert flight.doubted == sum(state == "doubted" for state in model.values())
        assert batch.open == sum(state in ("sent", "alive") for state in model.values())
    assert len(doubts) == len(set(doubts))


def test_the_table_of_orders_in_flight_grows() -> None:
    """A hundred thousand orders, all found again."""
    flight, made = Flight(CODES), packer(4096)
    batches = []
    for number in range(25):
        cids = [struct.pack("<QQ", number, i * 0x9E3779B97F4A7C15 & (1 << 64) - 1) for i in range(4096)]
        batch = sent(cids, made)
        batch.stamp(number + 1, 1, 0, 0)
        batches.append(batch)
        flight.book(batch)
    assert len(flight) == flight.waiting == 102_400
    for batch in batches:
        body = codec.pack_reports([ReportRecord(cid, codec.STATE, 4, cum_qty=5) for cid in batch.cids()[:50]])
        assert flight.decode(body, 32, 50, ReportBatch()) == 0
    out = ReportBatch()
    assert flight.doubt_all(out) == out.count == 102_400 - 25 * 50
    assert not any(batch.open for batch in batches)
