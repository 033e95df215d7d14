"""The signer's own limits in a running daemon, over a real exchange."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from tests.e2e.harness import Process, Stage, proportional


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
