"""Semantics section 3, one line per rule: what a leader's buy or sell of 0.8 BTC (0.1 for a follower with an eighth) becomes.

``rule [: settings of the follower] : what happens, one after the other => what follows for F1``. Actions and outcomes are in the
words of the tables beside this file (``language.py``); ``buy`` and ``sell`` are the leader's 0.8 at 64 000, ``in`` is a buy that
was filled. The order of the rules among themselves is in ``49_precedence.txt`` and ``50_precedence_of_staleness.txt``, what a
decision records in ``tests/inspect/test_reasons.py``.
"""

from __future__ import annotations

import pytest

from tests.scenarios.language import Runner

SHORT = {
    "buy": ["leader buy 0.800 BTCUSDT @ 64000"],
    "sell": ["leader sell 0.800 BTCUSDT @ 64000"],
    "in": ["leader buy 0.800 BTCUSDT @ 64000", "F1 order buy 0.100 limit 64320", "F1 filled 0.100"],
}

OPENINGS = """
18 nothing in the way                    :: buy => order buy 0.100 limit 64320
18 kill switch, all                      :: kill on, buy => forgone kill_switch 0.100
18 kill switch, the plan                 :: kill on plan F1, buy => forgone kill_switch 0.100
18 kill switch, the leader               :: kill on leader L, buy => forgone kill_switch 0.100
18 kill switch, the instrument           :: kill on instrument BTCUSDT, buy => forgone kill_switch 0.100
18 plan paused                           :: set plan F1 paused, buy => forgone plan_paused 0.100
18 plan close-only                       :: set plan F1 close_only, buy => forgone plan_close_only 0.100
18 plan stopped                          :: stop F1 close_gracefully, buy => forgone plan_stopped 0.100
18 leader paused                         :: set leader L paused, buy => forgone plan_paused 0.100
18 leg not ready                         :: F1 not ready, buy => forgone leg_not_ready 0.100
18 instrument not allowed                : instruments ETHUSDT : buy => forgone instrument_not_allowed 0.100
18 leader suspended                      :: leader suspended, buy => forgone leader_not_eligible 0.100
18 leader beyond his declared leverage   :: leader declares leverage 5, buy => forgone leader_not_eligible 0.100
18 leader beyond his declared position   :: leader declares position 50000, buy => forgone leader_not_eligible 0.100
18 leader in another instrument          :: leader declares instruments ETHUSDT, buy => forgone leader_not_eligible 0.100
18 leader who has not traded enough      :: leader declares volume 60000, buy => forgone leader_not_eligible 0.100
18 leader's margin call                  :: leader margin_call, buy => forgone leader_not_eligible 0.100
12 found by back-fill                    :: leader buy 0.800 BTCUSDT @ 64000 backfilled => forgone observed 0.100
11 leader's position in doubt            :: leader unsynced, buy => forgone leader_unsynced 0.100
16 leader's equity old                   :: quote BTCUSDT 63999.9 64000.1, wait 61, buy => forgone leader_equity_stale 0.100
18 quote old                             :: quote BTCUSDT 63999.9 64000.1, wait 6, buy => forgone quote_stale 0.100
18 a price that cannot be one            :: quote BTCUSDT 50000 50000.1, buy => forgone price_outlier 0.100
18 the market moves too much             :: turbulence BTCUSDT on, buy => forgone volatility_pause 0.100
12 an event too old                      :: leader buy 0.800 BTCUSDT @ 64000 aged 3 => forgone stale_event 0.100
18 max open trades                       : max_open_trades 1 : in, leader buy 8 ETHUSDT @ 3000 => forgone max_open_trades 1.000
18 leverage above the plan's maximum     : leverage_max 1 max_position_bps 0 : leader buy 16 BTCUSDT @ 64000 => \
order buy 1.562 limit 64320; forgone leverage_above_max 0.438
18 max loss per trade, 2 % at a 5 % stop : assumed_stop_bps 500 max_loss_per_trade_bps 200 : leader buy 8 BTCUSDT @ 64000 => \
order buy 0.625 limit 64320; forgone max_loss_per_trade 0.375
18 ...where no stop is known             : max_loss_per_trade_bps 200 : buy => order buy 0.100 limit 64320
18 ...and the plan wants one             : require_stop true : buy => forgone no_stop 0.100
18 max position, 30 % at leverage 5      : max_position_bps 3000 : leader buy 24 BTCUSDT @ 64000 => \
order buy 2.343 limit 64320; forgone max_position 0.657
18 max notional of a symbol              : max_notional_symbol_e8 320000000000 : buy => \
order buy 0.050 limit 64320; forgone max_notional_symbol 0.050
18 max notional in all                   : max_notional_total_e8 320000000000 : buy => \
order buy 0.050 limit 64320; forgone max_notional_total 0.050
 7 free balance, scaled to              : balance 700 : buy => order buy 0.053 limit 64320; forgone insufficient_margin 0.047
 7 free balance, all or nothing          : balance 700 on_insufficient skip : buy => forgone insufficient_margin 0.100
18 slippage from the leader's price      :: quote BTCUSDT 64320.5 64320.6, buy => forgone slippage_leader 0.100
18 slippage from the middle              : slippage_mid_bps 10 : quote BTCUSDT 63800 64200, buy => forgone slippage_mid 0.100
 6 below the minimum, carried             :: leader buy 0.004 BTCUSDT @ 64000 => rounded
 6 below the minimum, skipped             : min_policy skip : leader buy 0.008 BTCUSDT @ 64000 => order buy 0.001 limit 64320
26 rate limit                            :: params orders_per_window 1, in, buy => forgone rate_limited 0.100
17 journal nearly full                   :: journal low, buy => forgone journal_low 0.100
"""

REDUCTIONS = """
17 kill switch                           :: kill on
17 plan paused                           :: set plan F1 paused
17 plan close-only                       :: set plan F1 close_only
17 plan stopped                          :: stop F1 close_gracefully
17 leader suspended                      :: leader suspended
17 leader beyond what he declared        :: leader declares instruments ETHUSDT leverage 1 position 1
17 leader has not traded enough          :: leader declares volume 9000000
17 leader's margin call                  :: leader margin_call
17 leader's position in doubt            :: leader unsynced
17 everything old                        :: quote BTCUSDT 63999.9 64000.1, wait 600
17 a price that cannot be one            :: quote BTCUSDT 50000 50000.1
17 the market moves too much             :: turbulence BTCUSDT on
17 rate limit                            :: params orders_per_window 1
17 no balance                            :: F1 balance 0
17 journal nearly full                   :: journal low
17 leader's equity gone                  :: leader equity 0
"""

STOPS = """
19 close now, out at once, nothing new    : close_now        : order sell 0.100 market reduce_only, filled 0.100 @ 54000 : \
forgone total_loss 0.098999999836
19 gracefully, with the leader            : close_gracefully : target 0.100 holds 0.100 detached                         : \
forgone leg_detached 0.100
19 openings paused                        : opens_paused     : target 0.100 holds 0.100                                  : \
forgone total_loss 0.100
19 keep, his own from here on             : keep             : target 0 holds 0                                          : \
forgone total_loss 0.098999999836
"""


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split(":")] for line in table.strip().splitlines()]


def world(options: str) -> list[str]:
    return ["instrument BTCUSDT", "instrument ETHUSDT", "leader L equity 800000", f"follower F1 allocation 100000 {options}"]


def lines(happens: str) -> list[str]:
    found: list[str] = []
    for step in happens.split(","):
        found += SHORT.get(step.strip(), [step.strip()])
    return found


def run(name: str, options: str, happens: list[str], outcome: list[str]) -> None:
    # What happens to the world before the plans exist stands before them.
    before = [line for line in happens if line.startswith("params")]
    text = [*before, *world(options), "", *(line for line in happens if line not in before), *(f"F1 {line}" for line in outcome)]
    Runner().run("\n".join(text), name)


@pytest.mark.parametrize(("rule", "options", "rest"), rows(OPENINGS), ids=[row[0] for row in rows(OPENINGS)])
def test_what_refuses_or_cuts_an_opening(rule: str, options: str, rest: str) -> None:
    happens, outcome = rest.split("=>")
    run(rule, options, lines(happens), [line.strip() for line in outcome.split(";")])


@pytest.mark.parametrize(("rule", "options", "blocks"), rows(REDUCTIONS), ids=[row[0] for row in rows(REDUCTIONS)])
def test_nothing_refuses_a_reduction(rule: str, options: str, blocks: str) -> None:
    """A follower is in; whatever stands in the way of an opening, the leader's sale is his."""
    run(rule, options, [*SHORT["in"], *lines(blocks), *SHORT["sell"]], ["order sell 0.100 market reduce_only"])


@pytest.mark.parametrize(("rule", "policy", "then", "later"), rows(STOPS), ids=[row[0] for row in rows(STOPS)])
def test_what_a_loss_stop_does(rule: str, policy: str, then: str, later: str) -> None:
    """0.1 BTC bought at 64 000, 1 % of 100 000 may be lost: 54 000 is the mark; the leader buys again at it."""
    happens = [*SHORT["in"], "mark 54000", "F1 stopped total_loss lost 1000 of 1000"]
    happens += [f"F1 {line.strip()}" for line in then.split(",")]
    run(rule, f"total_loss_bps 100 loss_policy {policy}", [*happens, "leader buy 0.800 BTCUSDT @ 54000"], [later])
