"""How far a leg is from liquidation: in numbers, and the same from the kernel for all legs."""

from __future__ import annotations

import pytest

from copyd.core.engine import ACCOUNT_INSTRUMENTS, INSTRUMENTS, LEGS
from copyd.core.pnl import margin_left
from copyd.core.rows import AccountInstrumentRow, InstrumentRow, LegRow
from tests.scenarios.language import Runner

TABLE = """
long 0.100 at 64 000, a fifth of it margin    :  100  640000000000  128000000000 : 640000 : 1950
...the mark at 60 000, 1 280 - 400 - 30       :  100  640000000000  128000000000 : 600000 : 1416
...at 52 000, 80 less 26 are left of 5 200    :  100  640000000000  128000000000 : 520000 :  103
...at 51 300, under the maintenance           :  100  640000000000  128000000000 : 513000 :  -30
short the same                                : -100  640000000000  128000000000 : 640000 : 1950
...the mark at 75 000, 1 280 - 1 100 - 37.5   : -100  640000000000  128000000000 : 750000 :  190
leverage 1                                    :  100  640000000000  640000000000 : 640000 : 9950
"""


@pytest.mark.parametrize("line", TABLE.strip().splitlines())
def test_in_numbers(line: str) -> None:
    """At a maintenance of 0.5 %."""
    _, held, mark, left = line.split(":")
    lots, cost, margin = map(int, held.split())
    leg = LegRow(attributed=lots, cost_e8=cost, margin_e8=margin)
    assert margin_left(InstrumentRow(value_mul=10_000, value_div=1), leg, int(mark), 50) == int(left)


def test_the_kernel_finds_the_same_legs() -> None:
    """Every leg on isolated margin that is nearer than asked, at the marks given; none on cross margin."""
    runner = Runner()
    for line in ("instrument BTCUSDT", "leader L equity 800000", "follower F1 allocation 100000", "follower F2 allocation 50000",
                 "leader buy 0.800 @ 64000", "F1 filled 0.100", "F2 filled 0.050"):
        runner.act(line.split())
    engine = runner.world.engine
    for account in range(2):
        at = account * engine.columns.instruments_max
        row = AccountInstrumentRow.unpack(engine.columns.get(ACCOUNT_INSTRUMENTS, at))
        row.isolated = 1
        engine.columns.put(ACCOUNT_INSTRUMENTS, at, row.pack())
    instrument = InstrumentRow.unpack(engine.columns.get(INSTRUMENTS, 0))
    legs = [LegRow.unpack(engine.columns.get(LEGS, leg)) for leg in range(engine.columns.count(LEGS))]
    for mark in (640_000, 600_000, 520_000, 500_000, 700_000):
        expected = [(at, margin_left(instrument, leg, mark, 50)) for at, leg in enumerate(legs)]
        for warn in (0, 100, 300, 1_500, 1 << 62):
            found = engine.kernel.near_liquidation([(0, mark, 1)], 50, warn)
            assert found == [(at, left) for at, left in expected if left < warn]
    row.isolated = 0
    engine.columns.put(ACCOUNT_INSTRUMENTS, at, row.pack())
    assert [leg for leg, _ in engine.kernel.near_liquidation([(0, 500_000, 1)], 50, 1 << 62)] == [0]
