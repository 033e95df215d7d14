"""The figures, each against a history small enough to check by hand, and the ratios against another library's."""

from __future__ import annotations

from pathlib import Path

import duckdb
import empyrical
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.core.engine import INSTRUMENTS, LEGS
from copyd.core.rows import InstrumentRow, LegRow
from copyd.serve.fills import extract
from copyd.serve.series import DAY_NS, E8, Rules
from copyd.serve.statistics import LeaderFigures, PlanFigures, Statistics, series_figures
from copyd.serve.tables import HistoryError
from tests.inspect.daemon import Daemon
from tests.serve.story import FIRST, Story

ALL = Rules(days_min=1, trades_min=0, volume_min_e8=0)
"""Every figure shown."""


def leader(story: Story, out: Path, rules: Rules = ALL, name: str = "ann") -> LeaderFigures:
    return Statistics(story.write(out), rules).leader(name)


def plan(story: Story, out: Path, rules: Rules = ALL) -> PlanFigures:
    (found,) = Statistics(story.write(out), rules).plans()
    return found


# -- ratios of daily returns ---------------------------------------------------------------------------------------------


def figures_of(returns: list[float]) -> dict:
    """What the daily returns alone give."""
    con = duckdb.connect(":memory:")
    con.execute("CREATE TABLE given (day BIGINT, r DOUBLE)")
    con.executemany("INSERT INTO given VALUES (?, ?)", list(enumerate(returns)))
    con.execute("""CREATE VIEW series AS
                   SELECT 0 AS kind, 1 AS key, *, 1 AS equity, 0 AS flow, 0 AS pnl, 1 AS base FROM given""")
    (found,) = series_figures(con, Rules(), len(returns) - 1).values()
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-0.3, 0.3).filter(lambda r: r == 0 or abs(r) > 1e-6), min_size=2, max_size=120))
def test_ratios_are_those_of_empyrical(returns: list[float]) -> None:
    """Sharpe, Sortino, Calmar, drawdown and total return on any daily series; null where empyrical has no number."""
    found, values = figures_of(returns), np.array(returns)
    expected = {
        "twr_all": empyrical.cum_returns_final(values),
        "max_drawdown": empyrical.max_drawdown(values),
        "sharpe": empyrical.sharpe_ratio(values, annualization=365) if np.ptp(values) > 1e-9 else np.nan,
        "sortino": empyrical.sortino_ratio(values, annualization=365) if values.min() < 0 else np.nan,
        "calmar": empyrical.calmar_ratio(values, annualization=365),
    }
    for name, value in expected.items():
        if np.isfinite(value):
            assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        elif name != "max_drawdown":
            assert found[name] is None, name


@pytest.mark.parametrize("seed", range(10))
def test_windows_are_those_of_empyrical(seed: int) -> None:
    """The last 7, 30 and 90 days of a year."""
    values = np.random.default_rng(seed).normal(0.001, 0.03, 365)
    found = figures_of(values.tolist())
    for window in (7, 30, 90):
        assert found[f"twr_{window}d"] == pytest.approx(empyrical.cum_returns_final(values[-window:]), rel=1e-9)
    assert found["sharpe"] == pytest.approx(empyrical.sharpe_ratio(values, annualization=365), rel=1e-9)
    assert found["calmar"] == pytest.approx(empyrical.calmar_ratio(values, annualization=365), rel=1e-9)


# -- round trips ---------------------------------------------------------------------------------------------------------


def test_three_round_trips(tmp_path: Path) -> None:
    """Long 100 -> 110, short 100 -> 104, long 100 -> 102, each of 10 lots, lasting 1 h, 2 h and 3 h."""
    story = Story().at(0, 0).equity(10_000)
    for hour, lots, px in ((1, 10, 100), (2, -10, 110), (3, -10, 100), (5, 10, 104), (6, 10, 100), (9, -10, 102)):
        story.at(0, hour).leader(lots, px)
    found = leader(story.equity(10_080), tmp_path)
    assert found.trades == 3
    assert found.win_rate == pytest.approx(2 / 3)
    assert found.profit_factor == pytest.approx((100 + 20) / 40)
    assert found.worst_trade_e8 == -40 * E8
    assert found.average_duration_s == 2 * 3600
    assert found.volume_e8 == (1000 + 1100 + 1000 + 1040 + 1000 + 1020) * E8
    assert (found.roi_all, found.twr_all) == (pytest.approx(0.008), pytest.approx(0.008))


def test_a_flip_ends_one_trade_and_begins_another(tmp_path: Path) -> None:
    """Long 5 at 100, sells 15 at 120 (+100), buys 10 at 125 (-50)."""
    story = Story().at(0).equity(10_000).leader(5, 100).leader(-15, 120).leader(10, 125).equity(10_050)
    found = leader(story, tmp_path)
    assert (found.trades, found.win_rate, found.profit_factor, found.worst_trade_e8) == (2, 0.5, 2.0, -50 * E8)


@pytest.mark.parametrize(("age", "trades", "win_rate", "worst"), [(3, 2, 1.0, 50), (9, 3, 2 / 3, -500)])
def test_an_open_loser_counts_when_it_is_old(tmp_path: Path, age: int, trades: int, win_rate: float, worst: int) -> None:
    """Two closed winners of 50 and a long of 10 from 100 that stands at 50: old enough, it is a losing trade."""
    story = Story().at(0).plan(10_000)
    for px in (100, 100):
        story.follower(5, px).follower(-5, px + 10)
    story.follower(10, 100).mark(100).at(age, 13).mark(50)
    found = plan(story, tmp_path)
    assert (found.trades, found.win_rate, found.worst_trade_e8) == (trades, pytest.approx(win_rate), worst * E8)
    assert (found.open_trades, found.stale_losers) == (1, trades - 2)
    assert found.unrealised_e8 == -500 * E8
    assert found.equity_e8 == (10_000 + 100 - 500) * E8  # at mark at any age
    assert found.twr_all == pytest.approx(-0.04)


# -- flows ---------------------------------------------------------------------------------------------------------------

DEPOSITS = [
    # told flow, equities by day, time-weighted return, roi, inferred flows
    pytest.param(0, [1000, 1100], 0.10, 0.10, 0, id="no flow: a gain of 100"),
    pytest.param(1000, [1000, 2200], 0.10, 0.10, 0, id="1000 paid in, then 200 gained on 2000"),
    pytest.param(-500, [1000, 600], 0.10, 0.10, 0, id="100 gained on 1000, then 500 paid out"),
]


@pytest.mark.parametrize(("flow", "equities", "twr", "roi", "inferred"), DEPOSITS)
def test_a_told_flow_is_not_performance(
    tmp_path: Path, flow: int, equities: list[int], twr: float, roi: float, inferred: int,
) -> None:
    """Paid in counts from the beginning of its day, paid out from its end."""
    story = Story().at(0).equity(equities[0]).at(1, 1)
    if flow:
        story.flow(flow)
    gain = equities[1] - equities[0] - flow
    found = leader(story.leader(1, 100).leader(-1, 100 + gain).equity(equities[1]), tmp_path)
    assert (found.twr_all, found.roi_all, found.inferred_flows) == (pytest.approx(twr), pytest.approx(roi), inferred)


def test_an_untold_deposit_of_a_flat_leader_is_inferred(tmp_path: Path) -> None:
    """His trades made 100, his equity grew by 1100: 1000 was paid in, and it is said that this was inferred."""
    story = Story().at(0).equity(1000).at(1).leader(1, 100).leader(-1, 200).equity(2100)
    found = leader(story, tmp_path)
    assert (found.twr_all, found.inferred_flows) == (pytest.approx(100 / 2000), 1)


def test_fees_and_funding_are_no_flow(tmp_path: Path) -> None:
    """What is missing is within what trading costs: it stays in the return."""
    story = Story().at(0).equity(1000).at(1).leader(10, 100).leader(-10, 110).equity(1095)
    found = leader(story, tmp_path)
    assert (found.twr_all, found.inferred_flows) == (pytest.approx(0.095), 0)


@pytest.mark.parametrize(("hour", "inferred"), [(11.99, 1), (3, 0)])
def test_nothing_is_inferred_from_an_old_mark(tmp_path: Path, hour: float, inferred: int) -> None:
    """He holds 10 from 100 and gains 1000 that no mark shows: only a mark as new as the snapshot can call that a deposit."""
    story = Story().at(0, 11.99).mark(100).at(0).leader(10, 100).equity(1000).at(1, hour).mark(100).at(1).equity(2000)
    found = leader(story, tmp_path)
    assert found.inferred_flows == inferred
    assert found.twr_all == pytest.approx(0 if inferred else 1)


def test_nothing_is_inferred_over_a_hole(tmp_path: Path) -> None:
    """A position a snapshot had to correct: what its trades made is not known, so the missing 500 may be his loss."""
    story = Story().at(0).equity(1000).at(1).mark(100).leader(10, 100, source="snapshot").leader(-10, 100).equity(500)
    found = leader(story, tmp_path)
    assert (found.twr_all, found.inferred_flows) == (pytest.approx(-0.5), 0)


def test_returns_chain_by_day(tmp_path: Path) -> None:
    """+10 %, nothing for a day without a snapshot, -50 %: 0.55 of the capital, a drawdown of one half."""
    story = Story().at(0).equity(1000).at(1).mark(1).leader(1, 100).leader(-1, 200).equity(1100)
    story.at(3).leader(1, 1000).leader(-1, 450).equity(550)
    found = leader(story, tmp_path)
    assert found.days == 4
    assert found.twr_all == pytest.approx(-0.45)
    assert found.max_drawdown == pytest.approx(-0.5)
    assert [value for _, value in found.curve] == [10_000, 11_000, 11_000, 5_500]
    assert found.curve[0][0] == "2026-09-04"


def test_who_lost_everything_stays_at_nothing(tmp_path: Path) -> None:
    """A new deposit and a good week after it bring no return back."""
    story = Story().at(0).equity(1000).at(1).equity(0).at(2, 1).flow(5000).at(2).equity(10_000)
    found = leader(story, tmp_path, Rules(days_min=1, trades_min=0, volume_min_e8=0, flow_equity_bps=1_000_000))
    assert (found.twr_all, found.max_drawdown) == (-1, -1)
    assert [value for _, value in found.curve] == [10_000, 0, 0]


# -- plans and followers ----------------------------------------------------------------------------------------------------


def test_a_plan_earns_on_what_it_was_given(tmp_path: Path) -> None:
    """1000 given, 60 made less 10 of fees; 950 more given, 100 lost on the 2000."""
    story = Story().at(0).plan(1000).follower(10, 100, fee=4).follower(-10, 106, fee=6)
    story.at(1).plan(1950).follower(10, 100).follower(-10, 90)
    found = plan(story, tmp_path)
    assert found.equity_e8 == (1950 + 50 - 100) * E8
    assert (found.realised_e8, found.fees_e8) == (-50 * E8, 10 * E8)
    assert found.twr_all == pytest.approx(1.05 * 0.95 - 1)
    assert found.roi_all == pytest.approx(-50 / 1950)


def test_followers_are_weighed_by_capital_and_set_against_the_leader(tmp_path: Path) -> None:
    """The leader makes 10 %; 3000 make 5 % after fees and 1000 lose 1 %: 3.5 % for the followers, 6.5 points behind."""
    story = Story().at(0).equity(1000).plan(3000, "bob").plan(1000, "cyd")
    story.leader(1, 100).follower(1, 100, 25, "bob").follower(1, 100, 0, "cyd")
    story.leader(-1, 200).follower(-1, 300, 25, "bob").follower(-1, 90, 0, "cyd").equity(1100)
    found = leader(story, tmp_path)
    assert found.twr_all == pytest.approx(0.10)
    assert (found.followers_return, found.followers_realised_return) == (pytest.approx(0.035), pytest.approx(0.035))
    assert found.spread == pytest.approx(-0.065)
    assert found.followers_realised_e8 == 140 * E8
    assert (found.aum_e8, found.active_followers, found.followers) == (4140 * E8, 2, 2)


def test_what_followers_hold_at_a_loss_counts_and_is_told_apart(tmp_path: Path) -> None:
    """Realised +100, open -300 at mark."""
    story = Story().at(0).equity(1000).plan(1000).mark(100).follower(10, 100).follower(-5, 120).mark(40)
    found = leader(story, tmp_path)
    assert found.followers_realised_return == pytest.approx(0.10)
    assert found.followers_return == pytest.approx(-0.20)


def test_slippage_is_what_followers_paid_beyond_the_leaders_prices(tmp_path: Path) -> None:
    """Bought 1 % above him and sold 2 % below: both cost; a fill better than his counts against it, one of no price not."""
    story = Story().at(0).equity(1000).plan(1000, "bob").plan(1000, "cyd").at(1)
    story.follower(10, 101, 0, "bob", leaders_px=100).follower(-10, 98, 0, "bob", leaders_px=100)
    story.follower(10, 99, 0, "cyd", leaders_px=100).follower(-10, 50, 0, "cyd")
    statistics = Statistics(story.write(tmp_path), ALL)
    bob, cyd = statistics.plans("ann")
    assert (bob.slippage_e8, bob.slippage_bps) == (30 * E8, pytest.approx(150))
    assert (cyd.slippage_e8, cyd.slippage_bps) == (-10 * E8, pytest.approx(-100))
    assert statistics.leader("ann").slippage_bps == pytest.approx(1e4 * 20 / 3000)


def test_no_slippage_is_shown_where_nothing_was_answered(tmp_path: Path) -> None:
    """A plan without a fill has none, and says why."""
    one = plan(Story().at(0).equity(1000).plan(1000), tmp_path)
    assert (one.slippage_bps, one.insufficient["slippage_bps"]) == (None, "no fill that answers a price of the leader")


def test_a_stopped_plan_stays_in_the_history_and_leaves_the_assets(tmp_path: Path) -> None:
    """What it lost is lost for the leader's followers; its money is not under him any more, its days end."""
    story = Story().at(0).equity(1000).plan(1000, "bob").plan(1000, "cyd").follower(1, 200, 0, "bob").follower(-1, 100, 0, "bob")
    story.at(1).plan(1000, "bob", state="stopped").at(5).equity(1000)
    found = leader(story, tmp_path)
    assert (found.aum_e8, found.active_followers, found.followers) == (1000 * E8, 1, 2)
    assert found.followers_return == pytest.approx(-0.05)
    bob, cyd = Statistics(tmp_path, ALL).plans("ann")
    assert (bob.state, bob.days, cyd.days) == ("stopped", 2, 6)
    assert Statistics(tmp_path, ALL).plans("somebody else") == []


@pytest.mark.parametrize("seed", range(2))
def test_equity_is_the_money_that_moved_and_what_is_left(tmp_path: Path, seed: int) -> None:
    """From a real journal: allocation + everything sold - everything bought - fees + what is held, at the last mark."""
    daemon = Daemon(tmp_path / "journal", seed)
    daemon.trade_for(60)
    daemon.close()
    extract(tmp_path / "journal", tmp_path / "out")
    statistics, columns = Statistics(tmp_path / "out", ALL), daemon.engine.columns
    money = dict(statistics.con.execute(
        "SELECT plan, sum(-side * value_e8 - fee_e8)::BIGINT FROM follower_fills GROUP BY plan").fetchall())
    for leg in (LegRow.unpack(columns.get(LEGS, index)) for index in range(columns.count(LEGS))):
        mark = InstrumentRow.unpack(columns.get(INSTRUMENTS, leg.instrument)).mark
        money[leg.plan] = money.get(leg.plan, 0) + leg.attributed * mark * (10_000, 3_000)[leg.instrument]
    for one in statistics.plans():
        assert one.equity_e8 == pytest.approx(one.allocation_e8 + money[one.plan], abs=1)


# -- what is shown -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rules", "why"), [
    (Rules(days_min=7), "2 of 7 days"),
    (Rules(days_min=2, trades_min=5), "1 of 5 trades"),
    (Rules(days_min=2, trades_min=1, volume_min_e8=500 * E8), "volume 210 of 500"),
])
def test_too_little_is_not_shown(tmp_path: Path, rules: Rules, why: str) -> None:
    """One trade in two days: no figure, and the reason in words; what is simply counted is there."""
    story = Story().at(0).equity(1000).leader(1, 100).leader(-1, 110).at(1).equity(1010)
    found = leader(story, tmp_path, rules)
    for field in ("twr_all", "roi_30d", "sharpe", "win_rate", "max_drawdown", "worst_trade_e8"):
        assert getattr(found, field) is None
        assert found.insufficient[field] == why
    assert found.insufficient["spread"] == "nobody ever followed"
    assert (found.trades, found.equity_e8, found.rank) == (1, 1010 * E8, 0)


def test_a_window_needs_its_days(tmp_path: Path) -> None:
    """Ten days: seven are shown, thirty are not."""
    story = Story().at(0).equity(1000)
    for day in range(1, 10):
        story.at(day).equity(1000 + day)
    found = leader(story, tmp_path)
    assert found.roi_7d == pytest.approx(1009 / 1002 - 1)
    assert found.twr_7d == pytest.approx(1009 / 1002 - 1)
    assert (found.twr_30d, found.insufficient["twr_30d"]) == (None, "10 of 30 days")


def test_a_closed_account_stays_with_the_day_it_fell_silent(tmp_path: Path) -> None:
    """The leader who lost all stays in the ranking's list; his windows say since when."""
    story = Story().at(0).equity(1000, "zoe").equity(1000, "ann").leader(1, 1000, "zoe")
    story.at(1).leader(-1, 1, "zoe").equity(1, "zoe")
    for day in range(1, 40):
        story.at(day).equity(1000 + day, "ann")
    ann, zoe = Statistics(story.write(tmp_path), ALL).leaders()
    assert (ann.leader, ann.rank, ann.silent) == ("ann", 1, False)
    assert (zoe.leader, zoe.rank, zoe.silent, zoe.last_day) == ("zoe", 0, True, "2026-09-05")
    assert zoe.twr_all == pytest.approx(-0.999)
    assert zoe.insufficient["twr_30d"] == "no equity since 2026-09-05"


def test_the_ranking_is_by_time_weighted_return(tmp_path: Path) -> None:
    """A deposit does not lift anybody: ann made 20 %, zoe 10 % and paid in a fortune."""
    story = Story().at(0).equity(1000, "ann").equity(1000, "zoe")
    for day in range(1, 31):
        story.at(day)
        if day == 2:
            story.flow(1_000_000, "zoe")
        story.equity(1200, "ann").equity(1100 if day < 2 else 1_001_100, "zoe")
    rules = Rules(days_min=1, trades_min=0, volume_min_e8=0, flow_equity_bps=10_000)
    assert [(one.leader, one.rank) for one in Statistics(story.write(tmp_path), rules).leaders()] == [("ann", 1), ("zoe", 2)]


def test_as_of_an_earlier_day(tmp_path: Path) -> None:
    """The same files give what was to be seen then."""
    story = Story().at(0).equity(1000).plan(1000).at(1).equity(1001).at(2).equity(1002)
    then = Statistics(story.write(tmp_path), ALL, asof_ns=(FIRST + 2) * DAY_NS - 1).leader("ann")
    assert (then.days, then.equity_e8, then.aum_e8) == (2, 1001 * E8, 1000 * E8)


def test_volume_beyond_64_bits(tmp_path: Path) -> None:
    """Thirty fills of 40 billion each."""
    story = Story().at(0).equity(1000)
    for _ in range(15):
        story.leader(40, 1e9).leader(-40, 1e9)
    assert leader(story.equity(1000), tmp_path).volume_e8 == 30 * 40 * 10**9 * E8


def test_an_empty_history_has_no_leaders(tmp_path: Path) -> None:
    """And a directory that is none is refused with its name."""
    assert Statistics(Story().write(tmp_path / "empty")).leaders() == []
    with pytest.raises(HistoryError, match="nothing was extracted there"):
        Statistics(tmp_path / "nowhere")
