"""The real daemon with its orders on the batch path: leaders and balances over the venue's own API, orders beside the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Stage, Venue, proportional
from tests.exchange.wire_helpers import running_exchange

SECRET = "a secret for the two of them"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Where the batch door is, and the file with its secret."""
    folder = tmp_path_factory.mktemp("door")
    (folder / "secret").write_text(SECRET + "\n")
    return str(folder / "batch.sock"), str(folder / "secret")


@pytest.fixture(scope="module")
def venue(door: tuple[str, str]) -> Iterator[Venue]:
    """An exchange with a batch door."""
    with running_exchange(
            "--port", "0", "--ws-port", "0", "--control-port", "0", "--lift", "all", "--batch-socket", door[0],
            "--batch-secret-file", door[1]) as at:
        yield Venue(at)


def by_batch(s: Stage, door: tuple[str, str], **more: object) -> Stage:
    """The same daemon, its orders by the batch door."""
    s.config["venues"][0]["orders"] = {
        "path": "batch", "address": f"unix:{door[0]}", "secret_file": door[1], "session": s.names[0], **more}
    s.write_config()
    return s


def test_it_copies_by_the_batch_door(stage: Callable[..., Stage], door: tuple[str, str]) -> None:
    """Every follower where the rule puts him; no order went over the venue's own order connection."""
    s = by_batch(stage(3), door, top_leaders=["lead"])
    allocations = [1000, 1500, 3700]
    s.start(s.plan(i, allocation=str(a)) for i, a in enumerate(allocations))
    path: list[int] = []
    leader = 0
    for side, quantity in ((1, 1500), (1, 500), (-1, 800), (-1, 1200)):
        (s.leader.buy if side > 0 else s.leader.sell)(f"{quantity / 1000:.3f}")
        leader += side * quantity
        path.append(leader)
        s.holds({name: proportional(*path, allocation=a) for name, a in zip(s.names, allocations, strict=True)})
    s.quiet()
    s.no_id_twice()
    assert not any(s.lots().values())
    stats = s.venue.ask("/truth/stats")
    assert stats["orders_accepted"] == 4, "the leader's own orders alone went the other way"
    assert stats["batch_orders_accepted"] == len(s.follower_orders()) >= 12
    s.stop()
    s.all_named()
    s.verified()


def test_killed_and_started_again_it_settles_by_id(stage: Callable[..., Stage], door: tuple[str, str]) -> None:
    """SIGKILL right behind the leader's order: the next life asks the engine by id, and nothing is executed twice."""
    s = by_batch(stage(5), door)
    s.start(s.plan(i) for i in range(5))
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    s.leader.buy("1.000")
    s.daemon.kill()
    s.launch()
    s.wait_up()
    s.wait_ready()
    s.leader.flat()
    s.holds(0)
    s.quiet()
    s.no_id_twice()
    s.stop()
    s.all_named()
    s.verified()


def test_a_wrong_secret_stops_the_start(stage: Callable[..., Stage], door: tuple[str, str], tmp_path: Path) -> None:
    """Nobody trades on a session that does not exist: exit 69, and why."""
    other = tmp_path / "another"
    other.write_text("not the secret they agreed on")
    s = by_batch(stage(1), (door[0], str(other)))
    s.launch()
    code, text = s.ends()
    assert code == 69 and "the secret does not agree" in text


def test_the_configuration_says_what_is_missing(stage: Callable[..., Stage]) -> None:
    """Batch without an address or a secret, an address elsewhere, a leader nobody knows: each by its key."""
    s = stage(1)
    for orders, texts in (
        ({"path": "batch"}, ("orders.address: is needed with path: batch", "orders.secret_file: is needed")),
        ({"path": "batch", "address": "nonsense", "secret_file": "x"}, ("neither HOST:PORT nor unix:/PATH",)),
        ({"path": "batch", "address": "10.0.0.1:9", "secret_file": "x"}, ("10.0.0.1 is not this machine",)),
        ({"top_leaders": ["nobody"]}, ("no leader is called nobody",)),
    ):
        s.config["venues"][0]["orders"] = orders
        s.write_config()
        done = s.copyd("check-config", s.path)
        assert done.returncode == 78
        for text in texts:
            assert text in done.stderr, done.stderr
