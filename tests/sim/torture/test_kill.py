"""SIGKILL of the real daemon under load: nothing lost, nothing twice, by the exchange's own books."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import orjson
import pytest

from copyd.sim.torture import kill
from copyd.sim.torture.kill import Accepted, claimed, too_much


@pytest.mark.timeout(400)
def test_50_kills_under_load_lose_nothing_and_double_nothing() -> None:
    """At random moments, during the start, and at chosen calls; the leader trades all the time; at the end everybody is flat."""
    summary = kill.main(50, seed=random.randrange(1 << 30))
    assert not summary.violations, summary.text()
    assert summary.faults["P01"] == 50 and summary.counters["orders accepted"] > 1000, summary.text()


def test_a_daemon_that_resends_is_found_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The canary: orders in doubt are sent once more under their id; the books must show it."""
    summary = kill.main(6, seed=3, followers=10, mutant="resend")
    assert any("was accepted 2 times" in text for text in summary.violations), summary.text()
    shutil.rmtree(capsys.readouterr().err.split("kept in ")[1].strip())


def line(seq: int, orders: list[str], lots: int, **more: object) -> bytes:
    row = {
        "seq": seq, "cause": "leader_fill", "plan": "f", "symbol": "BTCUSDT", "reduce": "none", "open": "order",
        "reduce_lots": 0, "open_lots": lots, "orders": orders, "ts_decided": 1000, **more,
    }
    return orjson.dumps(row) + b"\n"


def judged(path: Path, accepted: dict[str, Accepted], *rows: bytes) -> list[str]:
    path.write_bytes(b"".join(rows))
    return list(claimed(path, accepted, {}, Counter()))


def test_the_judge_sees_a_second_order_of_one_decision(tmp_path: Path) -> None:
    """The canary of the judge: two orders where one was decided, more executed than wanted, an order nobody named."""
    path, one = tmp_path / "decisions", Accepted(1, 2000, 10)
    assert judged(path, {"a": one}, line(1, ["a"], 10)) == []
    assert "2 orders for one decision" in judged(path, {}, line(1, ["a", "b"], 10))[0]
    assert "20 lots executed" in judged(path, {"a": one, "b": one}, line(1, ["a", "b"], 10, cause="report"))[0]
    assert "named 2 times" in judged(path, {"a": one}, line(1, ["a"], 10), line(2, ["a"], 10))[0]
    assert "not in the journal" in judged(path, {"a": one, "x": one}, line(1, ["a"], 10))[0]


def trade(seq: int, buyer: str, seller: str, qty: str) -> dict[str, object]:
    return {"seq": seq, "id": seq, "ts": seq, "symbol": "BTCUSDT", "buyer": buyer, "seller": seller, "qty": qty}


def test_the_judge_sees_a_position_that_was_doubled() -> None:
    """A follower may hold the leader's share, not twice it; an order that never came excuses just its own quantity."""
    once = [trade(1, "lead", "m", "1.000"), trade(2, "f", "m", "0.100")]
    assert list(too_much(once, "lead", {"f"}, [], {})) == []
    twice = [*once, trade(3, "f", "m", "0.100")]
    assert "holds 200" in next(too_much(twice, "lead", {"f"}, [], {}))
    assert list(too_much(twice, "lead", {"f"}, [], {("f", "BTCUSDT"): [(1, 100)]})) == []
    assert list(too_much(twice, "lead", {"f"}, [2], {("f", "BTCUSDT"): [(1, 100)]})), "an excuse ends with its era"
    assert "holds -100" in next(too_much([trade(1, "m", "f", "0.100")], "lead", {"f"}, [], {}))
