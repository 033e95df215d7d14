"""The signer's own limits in a running daemon, over a real exchange."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from tests.e2e.harness import Process, Stage, proportional
from tests.e2e.test_okx import OkxStage, OkxVenue
from tests.exchange.wire_helpers import running_exchange


def alerts(stage: Stage, name: str) -> list[dict[str, Any]]:
    """What the daemon said under this name."""
    return [row for line in stage.daemon.text().splitlines() if (row := orjson.loads(line)).get("event") == name]


def test_an_order_a_thousand_times_too_large_never_reaches_the_exchange(stage: Callable[..., Stage]) -> None:
    """It comes back as never sent and is said once; planned once more as it was meant, it goes; the others were not held up."""
    s = stage(followers=3)
    log = s.folder / "daemon-0.log"
    s.daemon = Process(
        ["-m", "tests.e2e.corrupting_daemon", "run", "-c", str(s.path)], log, {"COPYD_TEST_CORRUPT": "order_qty=50000000"})
    s.processes.append(s.daemon)
    s.wait_up()
    plans = s.write_plans([s.plan(n) for n in range(3)])
    assert s.ctl("import", plans).returncode == 0
    s.wait_ready()
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    s.quiet()
    [said] = alerts(s, "signer_refused")
    assert said["reason"] == "above_notional_cap" and said["account"] in s.names and said["lots"] == 50_000_000
    assert len(s.follower_orders()) == 3
    assert not any(s.venue.rejects(name) for name in s.names)
    s.leader.flat()
    s.holds(0)
    s.quiet()
    assert len(alerts(s, "signer_refused")) == 1
    s.no_id_twice()
    s.stop()
    s.verified()


def rekeyed(s: Stage, index: int) -> None:
    """Another key for a follower at the exchange, which refuses the old one from now on; stored where the daemon reads it."""
    row = s.followers[index]
    row.update(s.venue.tell("/keys", {"account": row["name"], "old": row["api_key"]}))
    s.write_credentials()


def rotate_and_revoke(s: Stage, trade: Callable[[str, int], Any], one: int) -> None:
    """``trade(side, lots)``: what the leader does; ``one``: the followers' lots per trade, each alike."""
    first, gone = s.names[0], s.names[2]
    trade("buy", 1)
    s.holds(one)
    rekeyed(s, 0)
    done = s.ctl("reload")
    assert done.returncode == 0 and '"keys_changed": 1' in done.stdout and '"keys_gone": 0' in done.stdout, done.stdout
    s.wait_ready()
    trade("buy", 1)
    s.holds(2 * one)
    assert [row["account"] for row in alerts(s, "key_changed")] == [first]
    s.write_credentials([row for row in s.credential_rows() if row["name"] != gone])
    assert '"keys_gone": 1' in s.ctl("reload").stdout
    [said] = alerts(s, "key_gone")
    assert said["account"] == gone and said["close_only"] == [gone] and list(said["holds_lots"].values()) == [2 * one] != [0]
    assert "exits neither" in said["text"]
    trade("buy", 1)
    s.holds({name: 2 * one if name == gone else 3 * one for name in s.names})
    trade("sell", 3)
    s.holds({name: 2 * one if name == gone else 0 for name in s.names})
    s.write_credentials()  # the key is back: the exit it could not sign goes out
    assert '"keys_changed": 1' in s.ctl("reload").stdout
    s.holds(0, seconds=30)
    s.quiet()
    s.no_id_twice()
    s.stop()
    s.verified()


def test_a_key_that_is_replaced_or_revoked_reaches_the_daemon(stage: Callable[..., Stage]) -> None:
    """On a reload. Replaced: orders, stream and questions go on with the new one, nothing is lost. Revoked: its plan opens
    nothing and what it holds is said; stored again, what was to be closed is closed."""
    s = stage(followers=3)
    s.start(s.plan(n, allocation="1100") for n in range(3))
    rotate_and_revoke(s, lambda side, lots: s.leader.order(side.upper(), f"0.{lots}00"), proportional(100, allocation=1100))


def test_a_key_that_is_replaced_or_revoked_on_connections_of_its_own(tmp_path: Path) -> None:
    """The same where each account has its own connections, which are opened anew with the new key."""
    with running_exchange("--dialect", "okx", "--port", "0", "--ws-port", "0", "--control-port", "0", "--lift", "all") as at:
        at.setdefault("ws_api", "")
        at.setdefault("streams", "")
        with OkxStage(tmp_path, OkxVenue(at), 3) as s:
            s.start(s.plan(n, allocation="1100") for n in range(3))
            rotate_and_revoke(s, lambda side, lots: s.lead(side, f"{lots}0"), proportional(100, allocation=1100))


def test_a_leader_with_another_key_is_heard_on(stage: Callable[..., Stage]) -> None:
    """What he did while the key was replaced is found: a reduction is followed, and what he does next is copied live."""
    s = stage(followers=2)
    s.start(s.plan(n) for n in range(2))
    s.leader.buy("0.400")
    s.holds(proportional(400))
    account = s.leader.account
    account.update(s.venue.tell("/keys", {"account": account["name"], "old": account["api_key"]}))
    s.write_credentials()
    assert s.ctl("reload").returncode == 0
    s.leader.sell("0.200")
    s.holds(proportional(400, 200))
    s.wait_ready()
    s.leader.buy("0.400")
    s.holds(proportional(400, 200, 600))
    s.leader.flat()
    s.holds(0)
    s.quiet()
    s.stop()
    s.verified()
