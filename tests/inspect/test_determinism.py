"""The engine is a pure fold: the same inputs give the same bytes; what is not journaled changes nothing (semantics 44)."""

from __future__ import annotations

import pytest

from copyd.core.engine import (
    Command,
    Configured,
    Engine,
    InstrumentSpec,
    LeaderFill,
    LeaderPosition,
)
from copyd.core.rows import InstrumentRow, Params
from copyd.errors import OperatorError
from copyd.kinds import KINDS, kind_of, pack_checkpoint, unpack_checkpoint
from tests.inspect.daemon import Daemon


@pytest.mark.parametrize("seed", range(4))
def test_same_inputs_give_the_same_bytes(seed: int) -> None:
    """Every payload and the state at the end are equal, byte for byte (semantics 44)."""
    first = Daemon(None, seed)
    first.trade_for(40)
    second = Engine()
    payloads = []
    for now, value in first.inputs:
        outputs = second.step(now, value)
        if outputs is not None:
            payloads.append(b"".join(outputs.payload()))
    assert payloads == first.payloads
    assert pack_checkpoint(second) == pack_checkpoint(first.engine)


def test_inputs_that_change_nothing_leave_no_trace() -> None:
    """A step that gives no record has left the state as it was, else a fold would not find it again."""
    daemon = Daemon(None, 3)
    daemon.trade_for(5)
    before = pack_checkpoint(daemon.engine)
    last_fill = next(value for _, value in reversed(daemon.inputs) if isinstance(value, LeaderFill))
    for value in (
        last_fill, LeaderPosition(0, 0, 0, daemon.leader[0], 0, daemon.now, daemon.now),
        LeaderPosition(0, 1, 2, 0, 0, daemon.now, daemon.now), LeaderPosition(0, 1, 1, 0, 1, daemon.now, daemon.now),
    ):
        assert daemon.engine.step(daemon.now, value) is None
        assert pack_checkpoint(daemon.engine) == before, value


@pytest.mark.parametrize(
    "value",
    [
        Configured(2, Params(orders_per_window=7).pack(), [InstrumentSpec("ETHUSDT", InstrumentRow().pack(), 1, 3)], ["lead"]),
        Configured(2, Params(orders_per_window=7).pack(), [], ["other"]),
        Command("import_plans", {"plans": [{"follower": "x", "leader": "nobody", "instruments": []}]}),
        Command("set_state", {"scope": "leader", "name": "nobody", "state": "paused"}),
        Command("no such command", {}),
    ],
)
def test_a_refused_input_changes_nothing(value: object) -> None:
    """``OperatorError`` means nothing has changed: there is no record of it to fold."""
    daemon = Daemon(None, 3)
    daemon.trade_for(3)
    before, params = pack_checkpoint(daemon.engine), daemon.engine.params.pack()
    with pytest.raises(OperatorError):
        daemon.engine.step(daemon.now, value)
    assert pack_checkpoint(daemon.engine) == before
    assert daemon.engine.params.pack() == params


def test_every_input_has_a_kind_of_its_own() -> None:
    """Record kinds are the inputs' tags, 1 to 22, each with a name."""
    assert sorted(KINDS) == list(range(1, 23))
    assert len(set(KINDS.values())) == 22
    assert KINDS[kind_of(Command("x", {}))] == "command"


def test_a_checkpoint_is_the_state() -> None:
    """Packed and unpacked, the engine goes on as if nothing had happened."""
    daemon = Daemon(None, 5)
    daemon.trade_for(20)
    half = len(daemon.inputs)
    copy = unpack_checkpoint(pack_checkpoint(daemon.engine))
    daemon.trade_for(20)
    for now, value in daemon.inputs[half:]:
        copy.step(now, value)
    assert pack_checkpoint(copy) == pack_checkpoint(daemon.engine)


@pytest.mark.parametrize("blob", [b"", b"\x90", b"\x91\xc4\x01\x00", b"nonsense"])
def test_a_foreign_checkpoint_is_refused(blob: bytes) -> None:
    """ValueError, never another exception."""
    with pytest.raises(ValueError, match=r"."):
        unpack_checkpoint(blob)
