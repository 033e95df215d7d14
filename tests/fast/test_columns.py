"""The tables in memory: what is added later leaves what is there as it was."""

import msgspec
import pytest

from copyd._fast.columns import Columns
from copyd.bench import world
from copyd.core.engine import ACCOUNT_INSTRUMENTS, ACCOUNTS, ORDERS, Configured, Engine, Reports
from copyd.core.rows import AccountInstrumentRow, AccountRow
from copyd.errors import OperatorError

NOW = world.S_NS


def test_more_instruments_leave_every_row_where_it_belongs():
    """The row of an account in an instrument is found under the new stride, new ones are empty."""
    columns = Columns(1)
    for account in range(40):
        columns.add(ACCOUNTS, AccountRow().pack())
        columns.extend(ACCOUNT_INSTRUMENTS, 1)
        columns.put(ACCOUNT_INSTRUMENTS, account, AccountInstrumentRow(net=account + 1).pack())
    for wanted, stride in ((1, 1), (2, 2), (3, 4), (4, 4), (33, 64), (2, 64)):
        columns.widen(wanted)
        assert columns.instruments_max == stride
        rows = [AccountInstrumentRow.unpack(columns.get(ACCOUNT_INSTRUMENTS, at)) for at in range(40 * stride)]
        assert columns.count(ACCOUNT_INSTRUMENTS) == len(rows)
        assert [rows[account * stride].net for account in range(40)] == list(range(1, 41))
        assert sum(row.net != 0 for row in rows) == 40
    for wrong in (0, 65):
        with pytest.raises(ValueError):
            columns.widen(wrong)


def test_an_instrument_added_to_the_configuration_changes_no_position():
    """Copying goes on in the first one, and a checkpoint made afterwards is the same state."""
    engine = world.make_engine(50)
    trades = world.schedule(4, 1)
    out = engine.step(NOW, world.leader_fill(trades[0], NOW)) if engine.step(NOW, world.quotes(trades[0], NOW)) else None
    assert out is not None
    engine.step(NOW, Reports(world.filled(out.named, NOW).to_bytes()))
    held = [AccountInstrumentRow.unpack(engine.columns.get(ACCOUNT_INSTRUMENTS, at)).net for at in range(50)]
    assert all(held)
    spec = engine.names.instruments[0]
    more = [spec, *(msgspec.structs.replace(spec, symbol=f"X{at}USDT") for at in range(4))]
    engine.step(NOW + 1, Configured(2, world.params().pack(), more, [world.LEADER]))
    assert engine.columns.instruments_max == 8
    assert [AccountInstrumentRow.unpack(engine.columns.get(ACCOUNT_INSTRUMENTS, 8 * at)).net for at in range(50)] == held
    again = Engine.restore(engine.checkpoint())
    engine.step(NOW + 2, world.quotes(trades[1], NOW + 2))
    again.step(NOW + 2, world.quotes(trades[1], NOW + 2))
    ours, theirs = (one.step(NOW + 2, world.leader_fill(trades[1], NOW + 2)) for one in (engine, again))
    assert ours is not None and theirs is not None
    assert ours.named == theirs.named and len(ours.orders) == 4 * 50
    assert engine.columns.count(ORDERS) == 100
    with pytest.raises(OperatorError, match="at most 64 instruments"):
        many = [spec, *(msgspec.structs.replace(spec, symbol=f"X{at}USDT") for at in range(64))]
        engine.step(NOW + 3, Configured(3, world.params().pack(), many, [world.LEADER]))
