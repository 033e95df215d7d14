"""The transfer file: whatever is changed in it, it is refused and the line is named."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.settlement.calculate import calculate
from copyd.settlement.transfers import TransferFileRefused, encode_transfers, key_name, read_transfers, transfer_id, transfers_of
from tests.settlement.people import KEY, first_week

SECRET = bytes.fromhex(KEY)
SNAPSHOT = first_week()
TRANSFERS = transfers_of(SNAPSHOT, calculate({}, SNAPSHOT))
BODY = encode_transfers(SNAPSHOT, "d" * 64, TRANSFERS, SECRET)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "transfers.jsonl"


def refused(path: Path, body: bytes, key: bytes = SECRET) -> TransferFileRefused:
    path.write_bytes(body)
    with pytest.raises(TransferFileRefused) as error:
        read_transfers(path, key)
    assert f"{path}:{error.value.line}: " in str(error.value)
    return error.value


def test_it_reads_back(path: Path) -> None:
    """What was written, checked; the same input gives the same bytes."""
    path.write_bytes(BODY)
    file = read_transfers(path, SECRET)
    assert file.transfers == TRANSFERS and sum(file.net_e8.values()) == 0
    assert file.header["transfers"] == len(TRANSFERS) and file.header["key"] == key_name(SECRET)
    assert encode_transfers(SNAPSHOT, "d" * 64, TRANSFERS, SECRET) == BODY


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(BODY) - 1), byte=st.integers(0, 255))
def test_one_changed_byte_is_refused_at_its_line(at: int, byte: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    if BODY[at] == byte:
        return
    line = BODY[:at].count(b"\n") + 1
    error = refused(tmp_path_factory.mktemp("t") / "t", BODY[:at] + bytes([byte]) + BODY[at + 1 :])
    assert error.line == line


def test_lines_lost_added_or_turned_are_refused(path: Path) -> None:
    """At every place; a file cut short has no end line."""
    rows = BODY.splitlines(keepends=True)
    for index in range(len(rows)):
        assert refused(path, b"".join(rows[:index] + rows[index + 1 :])).line == index + 1
        assert refused(path, b"".join([*rows[: index + 1], *rows[index:]])).line == index + 2
    assert refused(path, b"".join([rows[0], rows[2], rows[1], *rows[3:]])).line == 2
    assert refused(path, b"").line == 1


def test_another_key_is_told_apart(path: Path) -> None:
    """Who has not the key can neither read nor write one that is taken for ours."""
    assert "signed with key" in str(refused(path, BODY, b"x" * 32))


def test_a_line_signed_but_impossible_is_refused(path: Path) -> None:
    """Also the holder of the key cannot pass off a payment under another plan's id, or nets that do not add up."""
    from copyd.settlement import transfers

    rows = [{k: v for k, v in orjson.loads(row).items() if k != "mac"} for row in BODY.splitlines()]
    for index, change, says in (
        (1, {"plan": "other"}, "is not that of plan other"),
        (1, {"amount": "-7"}, "not above 0"),
        (1, {"amount": "8"}, "not what the header says"),
        (0, {"total": "8"}, "not what the header says"),
        (len(rows) - 2, {"net": "1"}, "nets are not"),
    ):
        forged = [dict(row) for row in rows]
        forged[index] |= change
        assert says in str(refused(path, b"".join(transfers._signed(forged, SECRET))))


def test_ids_name_one_payment_for_ever() -> None:
    """Site, period, plan and part make the id, nothing else; no two share one."""
    base = (7, "p", "a", "leader")
    others = [(8, "p", "a", "leader"), (7, "q", "a", "leader"), (7, "p", "b", "leader"),
              (7, "p", "a", "platform"), (7, "pa", "", "leader")]
    assert len({transfer_id(*what) for what in (base, *others)}) == 6
    gain = next(one for one in TRANSFERS if one.plan == "gain" and one.part == "leader")
    assert gain.id == transfer_id(7, "2026-W02", "gain", "leader")
