"""User events doubled, out of order, late and lost: positions are right all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.harness import Stage, proportional


def event_faults(account: str, action: str) -> list[dict[str, Any]]:
    more = {"delay_ms": 150} if action == "delay_event" else {}
    return [{"action": action, "account": account, "event": event, **more}
            for event in ("ORDER_TRADE_UPDATE", "TRADE_LITE", "ACCOUNT_UPDATE")]


@pytest.mark.parametrize("action", ["duplicate_event", "reorder_events", "delay_event", "drop_event"])
def test_events_go_wrong_for_leader_and_followers(stage: Callable[..., Stage], action: str) -> None:
    """Semantics 10, 11: nothing counted twice, no close before its open; what is lost is found and never opened late."""
    s = stage(3)
    s.start(s.plan(i) for i in range(3))
    whom = s.names if action == "drop_event" else [s.leader.name, *s.names]
    s.venue.faults(*[fault for name in whom for fault in event_faults(name, action)])
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    s.leader.buy("0.800")
    s.holds(proportional(1000, 1800))
    s.leader.sell("0.900")
    s.holds(proportional(1000, 1800, 900))
    s.leader.sell("0.900")
    s.holds(0)
    s.quiet()
    s.venue.no_faults()
    s.no_id_twice()
    s.stop()
    s.all_named()
    if action == "reorder_events":
        s.verified()


def test_leader_fills_that_are_never_told(stage: Callable[..., Stage]) -> None:
    """Every fill of the leader lost: his position, pushed and polled, gives it away; reductions come, openings do not."""
    s = stage(2)
    s.start(s.plan(i) for i in range(2))
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    s.quiet()
    s.venue.faults({"action": "drop_event", "account": s.leader.name, "event": "ORDER_TRADE_UPDATE"})
    s.leader.sell("0.600")
    s.holds(proportional(1000, 400), seconds=8)
    s.leader.buy("0.200")
    s.venue.no_faults()
    s.leader.flat()
    s.holds(0, seconds=8)
    s.no_id_twice()
