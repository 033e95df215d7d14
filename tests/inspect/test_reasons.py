"""``copyd explain``: why an order is what it is, or why there was none; recomputed and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from copyd import inspect
from copyd.cli import main
from copyd.core import risk
from copyd.core.rows import Reason
from copyd.inspect.words import MEANING
from copyd.journal import Reader
from tests.inspect.daemon import Daemon, joined, parts_of, rewrite

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lines]:
    """A journal with a checkpoint in the middle, and its claims."""
    folder = tmp_path_factory.mktemp("reasons")
    daemon = Daemon(folder / "journal", 1)
    daemon.trade_for(25)
    daemon.checkpoint()
    daemon.trade_for(25)
    daemon.close()
    inspect.replay(folder / "journal", folder / "claims")
    return folder / "journal", [json.loads(line) for line in (folder / "claims").read_text().splitlines()]


def one_of_each(lines: Lines) -> Lines:
    """One line of every kind of decision in the journal."""
    kinds: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in lines:
        if line["cause"] in ("leader_fill", "release", "report", "timer"):
            kinds.setdefault((line["cause"], line["reduce"], line["open"], line["reason"]), line)
    return list(kinds.values())


def answer(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """What ``explain --json`` prints."""
    assert inspect.explain(*arguments, json=True) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_a_follower_on_another_venue_is_explained_in_both_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the leader did is told in his instrument, the decision in the follower's, and how one becomes the other; the figures
    are those of the rules, for every mode, contracts and spot."""
    daemon = Daemon(tmp_path / "journal", 2, venues=True)
    daemon.trade_for(30)
    daemon.close()
    seen = set()
    for follower in (f"f{index}" for index in range(12)):
        got = answer(capsys, tmp_path / "journal", "", "last", follower)
        for one in [got, *got.get("more", [])]:
            seen.add(one["symbol"])
            assert one["check"]["agrees"]
            assert ("mirror" in one) == (int(follower[1:]) % 3 != 0)
            if "mirror" in one:
                assert one["mirror"]["of_symbol"] in one["leader_event"]["text"]
                assert (one["mirror"]["lots_mul"], one["mirror"]["lots_div"]) == LOTS[one["mirror"]["venue"], one["symbol"]]
    assert {"BTC-SWAP", "XRP-SWAP"} & seen
    assert inspect.explain(tmp_path / "journal", "", "last", "f1", False) == 0
    assert "in place of" in capsys.readouterr().out


LOTS = {("okx", "BTC-SWAP"): (10, 1), ("okx", "XRP-SWAP"): (1, 10), ("spot", "BTCUSDT"): (100, 1)}


def test_every_kind_of_decision_is_explained_as_recorded(run: tuple[Path, Lines], capsys: pytest.CaptureFixture[str]) -> None:
    """With its order or without; the rules give what was recorded, and the figures are the record's."""
    journal, lines = run
    chosen = one_of_each(lines)
    assert len(chosen) > 12
    for line in chosen:
        if line["orders"]:
            got = answer(capsys, journal, line["orders"][0])
        else:
            got = answer(capsys, journal, "", str(line["seq"]), line["plan"])
        assert got["check"] == {"agrees": True, "text": got["check"]["text"], "findings": []}
        assert (got["record"], got["follower"], got["symbol"]) == (line["seq"], line["plan"], line["symbol"])
        assert set(line["orders"]) <= {order["client_order_id"] for order in got["orders"]}
        if line["cause"] == "leader_fill":
            assert got["delta_q32"] == line["delta_q32"]
            assert got["target_q32"] == line["target_q32"] == got["after"]["target_q32"]
            venue, received = (line["ts_event"], line["ts_recv"]) if line["exec_id"].isdigit() else (None, None)
            assert got["times"] == {"venue": venue, "received": received, "decided": line["ts_decided"], "sent": None}
            if line["forgone_q32"] and line["reason"] in {cap["limit"] for cap in got["caps"]}:
                binding = next(cap for cap in got["caps"] if cap["binds"])
                assert binding["limit"] == line["reason"], "the first cap that cut names the decision"


def test_the_text_says_it_in_words(run: tuple[Path, Lines], capsys: pytest.CaptureFixture[str]) -> None:
    """Leader event with his quantity before and after, ratio and source, caps, reason, order and its life, times, check."""
    journal, lines = run
    line = next(line for line in lines if line.get("reason") == "max_notional_symbol" and line.get("open") == "order")
    assert inspect.explain(journal, line["orders"][0], "", "", False) == 0
    text = capsys.readouterr().out
    for word in ("leader's quantity 0.000 -> 0.001", "follower lots per leader lot: amount 3,000", "<- binds",
                 "reason     max_notional_symbol: The plan's limit of notional in this instrument", "config version 1",
                 f"order      {line['orders'][0]} opening: buy", "reply: filled", "sent: not recorded",
                 "the same bytes as recorded"):
        assert word in text, text


def test_an_event_is_named_by_record_or_execution(run: tuple[Path, Lines], capsys: pytest.CaptureFixture[str]) -> None:
    """An execution id that is no record with decisions of its own is looked up."""
    journal, lines = run
    with Reader(journal) as reader:
        last = reader.state().last_seq
    fills = [line for line in lines if line["cause"] == "leader_fill" and line["exec_id"].isdigit()]
    line = next(line for line in fills if int(line["exec_id"]) > last)
    got = answer(capsys, journal, "", line["exec_id"], line["plan"])
    assert got["record"] == line["seq"]
    assert got["leader_event"]["exec_id"] == line["exec_id"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["00" * 16], 1, "no record from 1 to"),
        (["zz"], 2, "'zz' is no client order id: 32 hexadecimal characters"),
        (["--event", "99999999", "--follower", "f1"], 1, "no leader execution 99999999 is either"),
        (["--event", "2", "--follower", "f1"], 1, "record 2 holds no decision"),
        (["--event", "10", "--follower", "nobody"], 1, "follower 'nobody' has no plan at record 10"),
        (["--event", "x1", "--follower", "f1"], 2, "'x1' is no event"),
        (["--event", "10"], 2, "name either"),
    ],
)
def test_bad_questions_get_one_sentence(
    run: tuple[Path, Lines], capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, sentence: str
) -> None:
    """Exit 1 for what is not there, 2 for what is no question."""
    assert main(["explain", *arguments, "--journal", str(run[0])]) == code
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1


def test_no_journal_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 65 and the path."""
    assert main(["explain", "00" * 16, "--journal", str(tmp_path)]) == 65
    assert main(["replay", str(tmp_path)]) == 65
    assert str(tmp_path) in capsys.readouterr().err


def test_a_damaged_record_is_named(run: tuple[Path, Lines], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Never an answer from bytes that are not what was written."""
    journal, lines = run
    with Reader(journal) as reader:
        record = reader.get(12)
    assert record is not None
    data = bytearray((journal / "data.mdb").read_bytes())
    at = data.find(record.payload[:60])
    assert at >= 0
    while at >= 0:  # a page no longer in use may hold the same bytes, and nobody reads those
        data[at + 30] ^= 1
        at = data.find(record.payload[:60], at + 1)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "data.mdb").write_bytes(data)
    assert main(["explain", lines[-1]["orders"][0] if lines[-1].get("orders") else "00" * 16, "--journal", str(copy)]) == 65
    assert main(["replay", str(copy)]) == 65
    assert capsys.readouterr().err.count("record 12: CRC32 does not match") == 2


def test_a_decision_the_rules_do_not_give_is_said_so(
    run: tuple[Path, Lines], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 65, and the field that differs."""
    journal, lines = run
    line = next(line for line in lines if line["cause"] == "leader_fill" and line["open"] == "order")

    def edit(record):  # type: ignore[no-untyped-def]
        payload = bytearray(joined(parts_of(record)))
        if record.seq == line["seq"]:
            for at in range(16, len(payload) - 8):
                if payload[at : at + 8] == line["target_q32"].to_bytes(8, "little", signed=True):
                    payload[at] ^= 1
                    break
        return bytes(payload)

    rewrite(journal, tmp_path / "other", edit)
    assert inspect.explain(tmp_path / "other", line["orders"][0], "", "", False) == 65
    text = capsys.readouterr().out
    assert "NOT what the rules give" in text
    assert f"record {line['seq']}: decision" in text


def test_every_reason_has_its_sentence() -> None:
    """And no sentence is left of a reason that is gone."""
    assert set(MEANING) == set(Reason)
    assert all(text.endswith(".") for text in MEANING.values())
    assert risk.Reason is Reason


def test_last_is_the_newest_leader_event_that_decided_for_the_follower(
    run: tuple[Path, Lines], capsys: pytest.CaptureFixture[str]
) -> None:
    journal, lines = run
    newest = [line for line in lines if line["cause"] in ("leader_fill", "snapshot")][-1]
    assert answer(capsys, journal, "", "last", newest["plan"])["record"] == newest["seq"]
    assert main(["explain", "--event", "last", "--follower", "nobody", "--journal", str(journal)]) == 1
    assert "follower 'nobody' has no plan" in capsys.readouterr().err
