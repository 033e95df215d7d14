"""A clock that disagrees with one venue's holds the openings there alone; what orders follow is in ``tests/scenarios/110``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from copyd.app import Daemon
from copyd.core import engine as e
from copyd.core.rows import InstrumentRow, Params
from copyd.errors import OperatorError

SPECS = [
    e.InstrumentSpec(symbol, InstrumentRow(value_mul=10_000).pack(), 1, 3, venue=venue)
    for symbol, venue in (("BTCUSDT", "a"), ("BTC-USDT", "b"), ("ETHUSDT", "a"), ("ETH-USDT", "b"))
]


def configured(specs: list[e.InstrumentSpec]) -> e.Configured:
    return e.Configured(1, Params().pack(), specs, ["L"])


def two_venues() -> e.Engine:
    """An engine that knows one instrument of each of two venues."""
    engine = e.Engine(4)
    engine.step(1, e.Started(1, 7, bytes(16), "test"))
    engine.step(2, configured(SPECS[:2]))
    return engine


def hold(engine: e.Engine, on: bool, **more: str) -> None:
    engine.step(3, e.Command("hold", {"why": "clock_off", "on": on, **more}))


def test_an_instrument_that_is_added_shares_its_venues_hold_and_another_configuration_keeps_it() -> None:
    """What is added to a venue while its clock is off opens nothing either; a checkpoint keeps both."""
    engine = two_venues()
    hold(engine, True, venue="b")
    engine.step(4, configured(SPECS))
    engine = e.Engine.restore(engine.checkpoint())
    assert [InstrumentRow.unpack(engine.columns.get(e.INSTRUMENTS, index)).clock_off for index in range(4)] == [0, 1, 0, 1]
    assert engine.clock_off("b") and not engine.clock_off("a") and not engine.params.clock_off
    hold(engine, False, venue="b")
    assert not any(InstrumentRow.unpack(engine.columns.get(e.INSTRUMENTS, index)).clock_off for index in range(4))


@pytest.mark.parametrize("args", [
    {"why": "clock_off", "on": True, "venue": "nowhere"}, {"why": "journal_low", "on": True, "venue": "b"},
    {"why": "nonsense", "on": True, "venue": "b"},
])  # fmt: skip
def test_a_hold_that_cannot_be_is_refused_and_changes_nothing(args: dict[str, Any]) -> None:
    """An unknown venue, an unknown cause, or a cause that is no venue's: ``OperatorError``, every byte as before."""
    engine = two_venues()
    before = engine.checkpoint()
    with pytest.raises(OperatorError):
        engine.step(3, e.Command("hold", args))
    assert engine.checkpoint() == before


def daemon_of(engine: e.Engine) -> tuple[Daemon, list[dict[str, Any]]]:
    """A daemon without venues or journal, and the commands it gives."""
    daemon = object.__new__(Daemon)
    given: list[dict[str, Any]] = []

    def offer(value: e.Command) -> Any:
        given.append(value.args)
        return engine.step(3, value)

    daemon.engine, daemon.reasons = engine, {}
    daemon._offer = offer  # type: ignore[method-assign]
    daemon.log = SimpleNamespace(warning=lambda *words, **fields: None)
    return daemon, given


def test_the_daemon_holds_the_venue_whose_clock_is_off_and_says_which() -> None:
    """Said once to the journal, as long as it lasts to whoever asks, and released when the clock is good again."""
    engine = two_venues()
    daemon, given = daemon_of(engine)
    for _ in range(2):
        daemon._check_clocks({"a": "", "b": "off by 9000 ms"})
    assert given == [{"why": "clock_off", "on": True, "venue": "b"}]
    assert (engine.clock_off("a"), engine.clock_off("b")) == (False, True)
    assert daemon.reasons == {"clock_off": "b: off by 9000 ms"}
    for _ in range(2):
        daemon._check_clocks({"a": "", "b": ""})
    assert given[1:] == [{"why": "clock_off", "on": False, "venue": "b"}] and not daemon.reasons
    daemon._check_clocks({"a": "off by 1 ms", "b": "off by 2 ms"})
    assert daemon.reasons == {"clock_off": "a: off by 1 ms; b: off by 2 ms"}


def test_a_hold_over_all_venues_of_an_earlier_build_is_released_after_those_of_the_venues_stand() -> None:
    """A journal may end with one; nothing would ever release it otherwise, and in between nothing opens that should not."""
    engine = two_venues()
    hold(engine, True)
    daemon, given = daemon_of(engine)
    daemon._check_clocks({"a": "", "b": "off by 9000 ms"})
    assert given == [{"why": "clock_off", "on": True, "venue": "b"}, {"why": "clock_off", "on": False}]
    assert not engine.params.clock_off and engine.clock_off("b") and not engine.clock_off("a")
