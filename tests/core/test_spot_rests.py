"""On spot nobody owes: what the rest of an account seems to owe, its legs do not hold."""

from __future__ import annotations

from copyd.core import engine as e
from copyd.core.rows import AccountInstrumentRow, ReportKind, ReportRow
from tests.scenarios.language import ONE, Runner, World

SOLD_BEFORE_ITS_COMMISSION_WAS_KNOWN = """
instrument BTCUSDT tick 0.1 lot 0.001 spot
leader L equity 800000 leverage 1
follower F1 allocation 100000 balance 200000 max_position_bps 1000000 max_notional_symbol 1000000 max_notional_total 1000000
leader buy 8.000 @ 64000
F1 order buy 1.000 limit 64320
F1 filled 1.000
leader buy 4.000 @ 64000
F1 order buy 0.500 limit 64320
leader sell 12.000 @ 64000
F1 order sell 1.000 market
"""


def rest_of(world: World) -> AccountInstrumentRow:
    return AccountInstrumentRow.unpack(world.engine.columns.get(e.ACCOUNT_INSTRUMENTS, 0))


def test_a_sale_of_what_a_commission_had_taken_traps_nobody() -> None:
    """The commission of the first purchase, a lot, is told when the sale of all of it is on its way; the second purchase is told
    behind the sale. The venue refuses to sell a lot that is not there; the next look finds 498 lots, as the books say, and these
    go."""
    world = Runner().run(SOLD_BEFORE_ITS_COMMISSION_WAS_KNOWN)
    first, second, sale = world.slots["F1"]
    world.report(first, ReportKind.TRADE, 4, last_qty=1_000, last_px=640_000, trade_id=1, fee_e8=ONE, fee_base=1)
    assert world.leg(0).attributed == 999
    world.report(sale, ReportKind.STREAM, 4, cum_qty=1_000)
    world.report(second, ReportKind.TRADE, 4, cum_qty=500, last_qty=500, last_px=640_000, trade_id=2, fee_e8=ONE // 2, fee_base=1)
    assert (world.leg(0).attributed, rest_of(world).net, rest_of(world).unattributed) == (499, 498, -1)
    again = world.slots["F1"][3]
    assert (world.order(again).order_qty, world.order(again).side) == (499, -1)
    refused = world.step(e.Reports(ReportRow(cid=world.order(again).cid, kind=ReportKind.REJECT, status=8, code=-2019).pack()))
    assert refused is not None and refused.suspects, "the venue is asked at once"
    world.now += 60 * 10**9
    asked = world.engine.names.seq + 1
    world.step(e.AccountSnapshots([(0, 200_000 * 10**8, [(0, 0, 498)])], seq_asked=asked, ts_asked=world.now))
    leg = world.leg(0)
    assert (leg.attributed, leg.dust_q32, leg.detached) == (498, ONE // 2, 0)
    assert (rest_of(world).net, rest_of(world).unattributed) == (498, 0)
    world.step(e.Timer())
    last = world.slots["F1"][4]
    assert (world.order(last).order_qty, world.order(last).side) == (498, -1)
    e.check_law(world.engine)
