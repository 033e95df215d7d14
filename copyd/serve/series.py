"""Daily series out of the extracted tables, by DuckDB: one row per leader or plan and UTC day, and one per round trip.

    day's profit  = equity at the day's end - equity at the day before's - the day's flow
    day's return  = profit / (equity at the day before's end + what was paid in that day), not below -1

A payment in counts from the day's beginning and one out from its end, so that neither can make a return. Equity is

    leader    his journaled snapshot, unrealised included, fees and funding paid
    plan      allocation + realised - fees + unrealised at mark; its flows are the changes of its allocation
    followers the sum over a leader's plans: capital-weighted

**Flows of leaders** are those the table ``flows`` holds. What it does not hold is inferred where it shows beyond doubt: between
two snapshots whose books are flat or freshly marked and without a hole, equity that moved by more than trading, and more than
fees, funding and mark error could explain, is a flow (``Rules.flow_*``). Elsewhere a deposit cannot be told from profit; the
count of inferred flows is published with the figures.

The floats here decide nothing; sums of money are exact until they are divided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

DAY_NS = 86_400_000_000_000
E8 = 100_000_000
LEADER, PLAN, FOLLOWERS = 0, 1, 2
"""Whose series it is: the key of a plan is its number, of the other two the leader's in the table ``leaders``."""


class Rules(msgspec.Struct, frozen=True):
    """What a figure needs before it is shown, and what counts as what. Days are UTC days, money e8 of the quote asset.

    A trade is a leg's round trip from flat to flat. One still open that is losing at mark and older than ``stale_days`` is a
    losing trade. ``silent_days`` without a snapshot end a leader's windows. ``window`` is the ranking's, in days.
    """

    days_min: int = 7
    trades_min: int = 10
    volume_min_e8: int = 10_000 * E8
    stale_days: int = 7
    silent_days: int = 3
    window: int = 30
    days_per_year: int = 365
    flow_equity_bps: int = 100
    flow_turnover_bps: int = 10
    flow_position_bps: int = 100
    flow_mark_age_ns: int = 300_000_000_000


def attach(con: duckdb.DuckDBPyConnection, files: dict[str, list[Path]]) -> None:
    """The tables as views over their files."""
    for table, parts in files.items():
        names = ", ".join("'" + str(part).replace("'", "''") + "'" for part in parts)
        con.execute(f"CREATE OR REPLACE TEMP VIEW {table} AS SELECT * FROM read_parquet([{names}])")


def build(con: duckdb.DuckDBPyConnection, rules: Rules, asof_ns: int) -> None:
    """Make ``series`` (kind, key, leader, day, equity, flow, pnl, base, net, r) from the attached tables; keys are numbers.

    Also ``leaders`` (number, leader), ``leader_trips`` and ``plan_trips``, and ``plan_now``, ``plan_slippage`` and
    ``leader_flows`` for the figures that are not series.
    """
    asof_day = asof_ns // DAY_NS
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE leaders AS
        SELECT leader, (row_number() OVER (ORDER BY leader))::INTEGER AS number
        FROM (SELECT leader FROM equity WHERE ts_ns <= {asof_ns} UNION SELECT leader FROM plans WHERE ts_ns <= {asof_ns}
              UNION SELECT leader FROM leader_fills WHERE ts_ns <= {asof_ns})""")
    con.execute("""
        CREATE OR REPLACE TEMP TABLE series (kind TINYINT, key INTEGER, leader INTEGER, day BIGINT, equity DOUBLE, flow DOUBLE,
                                             pnl DOUBLE, base DOUBLE, net DOUBLE, r DOUBLE)""")
    _marks(con, asof_ns, asof_day)
    _book(con, "leader", "leader_fills JOIN leaders USING (leader)", "number", asof_ns, asof_day)
    _book(con, "plan", "follower_fills", "plan", asof_ns, asof_day)
    _leaders(con, rules, asof_ns)
    _plans(con, asof_ns, asof_day)
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE plan_slippage AS
        SELECT plan::INTEGER AS key, any_value(leader) AS leader, sum(slippage_e8)::BIGINT AS slippage,
               sum(reference_e8)::BIGINT AS reference
        FROM follower_fills WHERE ts_ns <= {asof_ns} GROUP BY plan""")
    for name in ("leader", "plan"):
        _trips(con, name, rules, asof_ns)


def _marks(con: duckdb.DuckDBPyConnection, asof_ns: int, asof_day: int) -> None:
    """``day_marks``: by instrument and day the last mark told until then, as the value of one lot; ``told_ns`` is its time."""
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE day_marks AS
        WITH told AS (
            SELECT instrument, ts_ns // {DAY_NS} AS day, max(ts_ns) AS told_ns,
                   arg_max(mark_ticks::DOUBLE * value_mul / value_div, n) AS worth
            FROM marks WHERE ts_ns <= {asof_ns} AND mark_ticks > 0 GROUP BY ALL),
        spans AS (SELECT *, lead(day, 1, {asof_day + 1}) OVER (PARTITION BY instrument ORDER BY day) AS until FROM told)
        SELECT instrument, unnest(range(day, until)) AS day, told_ns, worth FROM spans""")


def _book(con: duckdb.DuckDBPyConnection, name: str, table: str, key: str, asof_ns: int, asof_day: int) -> None:
    """``<name>_cells`` by leg, round trip and day; ``<name>_days`` what was traded; ``<name>_open`` what was held at its end.

    A cell that leaves the leg open holds until the leg's next cell, which is of the same round trip.
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {name}_cells AS
        SELECT leg, trip, ts_ns // {DAY_NS} AS day, any_value({key})::INTEGER AS key, any_value(instrument) AS instrument,
               sum(realised_e8 - fee_e8)::BIGINT AS net, sum(fee_e8)::BIGINT AS fees,
               sum(value_e8) FILTER (lots > 0)::BIGINT AS volume,
               min(ts_ns) AS first_ns, max(ts_ns) FILTER (lots > 0) AS last_ns,
               arg_max(position_lots, n) AS lots, arg_max(position_cost_e8, n) AS cost,
               count(*) FILTER (source IN ('snapshot', 'restated')) AS holes
        FROM {table} WHERE ts_ns <= {asof_ns} GROUP BY ALL""")
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {name}_days AS
        SELECT key, day, sum(net)::DOUBLE AS net, sum(volume)::DOUBLE AS volume, max(last_ns) AS last_ns, sum(holes) AS holes
        FROM {name}_cells GROUP BY ALL""")
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {name}_held AS
        WITH overnight AS (
            SELECT leg, trip, key, instrument, lots, cost, day, leg << 32 | trip AS round
            FROM {name}_cells SEMI JOIN (SELECT leg, trip FROM {name}_cells WHERE lots <> 0) USING (leg, trip)),
        spans AS (
            SELECT *, lead(day, 1, {asof_day + 1}) OVER (PARTITION BY round ORDER BY day) AS until
            FROM overnight QUALIFY lots <> 0),
        held AS (SELECT * EXCLUDE (day), unnest(range(day, until)) AS day FROM spans)
        SELECT leg, trip, key, day, abs(lots) * coalesce(worth, 0) AS notional, coalesce(told_ns, 0) AS marked_ns,
               CASE WHEN worth IS NULL THEN 0 ELSE lots * worth - sign(lots) * cost END AS unrealised
        FROM held LEFT JOIN day_marks USING (instrument, day)""")
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {name}_open AS
        SELECT key, day, sum(notional) AS notional, min(marked_ns) AS marked_ns, sum(unrealised) AS unrealised
        FROM {name}_held GROUP BY ALL""")


def _leaders(con: duckdb.DuckDBPyConnection, rules: Rules, asof_ns: int) -> None:
    """The leaders' series from their snapshots, with flows told and inferred; it ends with the last snapshot."""
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE leader_told AS
        WITH told AS (
            SELECT number AS key, ts_ns // {DAY_NS} AS day, arg_max(equity_e8, n)::DOUBLE AS equity,
                   arg_min(equity_e8, n)::DOUBLE AS opening, max(ts_ns) AS told_ns
            FROM equity JOIN leaders USING (leader) WHERE ts_ns <= {asof_ns} GROUP BY ALL),
        paid AS (SELECT number AS key, ts_ns // {DAY_NS} AS day, sum(amount_e8)::DOUBLE AS amount
                 FROM flows JOIN leaders USING (leader) WHERE ts_ns <= {asof_ns} GROUP BY ALL),
        frame AS (SELECT key, unnest(range(min(day), max(day) + 1)) AS day FROM told GROUP BY key),
        sums AS (
            SELECT f.key, f.day, equity, opening, told_ns, coalesce(notional, 0) AS notional, last_ns,
                   notional IS NULL OR marked_ns >= told_ns - {rules.flow_mark_age_ns} AS marked,
                   sum(coalesce(holes, 0)) OVER past AS holes, sum(coalesce(amount, 0)) OVER past AS paid,
                   sum(coalesce(volume, 0)) OVER past AS volume,
                   sum(coalesce(net, 0)) OVER past + coalesce(unrealised, 0) AS traded
            FROM frame f LEFT JOIN told USING (key, day) LEFT JOIN paid USING (key, day)
                 LEFT JOIN leader_days USING (key, day) LEFT JOIN leader_open USING (key, day)
            WINDOW past AS (PARTITION BY f.key ORDER BY f.day)),
        steps AS (
            SELECT *, coalesce(lag(equity) OVER w, opening) AS before, paid - lag(paid) OVER w AS flow,
                   equity - lag(equity) OVER w - (paid - lag(paid) OVER w) - (traded - lag(traded) OVER w) AS unexplained,
                   marked AND lag(marked) OVER w AND holes = lag(holes) OVER w AND coalesce(last_ns <= told_ns, TRUE)
                       AND coalesce(lag(last_ns) OVER w <= lag(told_ns) OVER w, TRUE) AS clear,
                   abs(coalesce(lag(equity) OVER w, 0)) * {rules.flow_equity_bps} / 1e4
                       + (volume - lag(volume) OVER w) * {rules.flow_turnover_bps} / 1e4
                       + (notional + lag(notional) OVER w) * {rules.flow_position_bps} / 1e4 AS tolerance
            FROM sums WHERE equity IS NOT NULL WINDOW w AS (PARTITION BY key ORDER BY day))
        SELECT key, day, equity, before, coalesce(flow, 0) AS told_flow,
               CASE WHEN clear AND abs(unexplained) > tolerance THEN unexplained ELSE 0 END AS inferred
        FROM steps""")
    con.execute("""
        CREATE OR REPLACE TEMP TABLE leader_flows AS
        SELECT key, count(*) FILTER (inferred <> 0) AS inferred FROM leader_told GROUP BY key""")
    con.execute(f"""
        INSERT INTO series
        WITH days AS (
            SELECT key, equity, before, told_flow + inferred AS flow, day,
                   unnest(range(day, lead(day, 1, day + 1) OVER (PARTITION BY key ORDER BY day))) AS of_day
            FROM leader_told),
        filled AS (
            SELECT key, of_day AS day, equity, CASE WHEN of_day = day THEN flow ELSE 0 END AS flow,
                   CASE WHEN of_day = day THEN before ELSE equity END AS before
            FROM days),
        profits AS (SELECT *, equity - before - flow AS pnl, before + greatest(flow, 0) AS base FROM filled)
        SELECT {LEADER}, key, key, day, equity, flow, pnl, base, pnl, CASE WHEN base > 0 THEN greatest(pnl / base, -1) ELSE 0 END
        FROM profits""")


def _plans(con: duckdb.DuckDBPyConnection, asof_ns: int, asof_day: int) -> None:
    """The plans' series and, summed, their leaders' followers'. A stopped plan's ends when it is flat, and stays."""
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE plan_now AS
        WITH said AS (
            SELECT plan::INTEGER AS key, any_value(leader) AS leader, any_value(follower) AS follower,
                   max(ts_ns) // {DAY_NS} AS last_day, arg_max(allocation_e8, n) AS allocation, arg_max(state, n) AS state
            FROM plans WHERE ts_ns <= {asof_ns} GROUP BY plan),
        held AS (SELECT key, max(day) AS last_held FROM plan_open GROUP BY key),
        traded AS (SELECT key, max(day) AS last_traded, sum(net)::BIGINT AS net, sum(fees)::BIGINT AS fees
                   FROM plan_cells GROUP BY key)
        SELECT said.*, number, coalesce(net, 0) AS net, coalesce(fees, 0) AS fees,
               CASE WHEN state = 'stopped' AND coalesce(last_held, -1) < {asof_day}
                    THEN greatest(last_day, coalesce(last_held, 0), coalesce(last_traded, 0)) ELSE {asof_day} END AS end_day
        FROM said JOIN leaders USING (leader) LEFT JOIN held USING (key) LEFT JOIN traded USING (key)""")
    con.execute(f"""
        INSERT INTO series
        WITH said AS (SELECT plan::INTEGER AS key, ts_ns // {DAY_NS} AS day, arg_max(allocation_e8, n)::DOUBLE AS allocation
                      FROM plans WHERE ts_ns <= {asof_ns} GROUP BY ALL),
        spans AS (SELECT *, lead(day) OVER (PARTITION BY key ORDER BY day) AS next FROM said),
        frame AS (SELECT s.key, p.number, s.allocation, unnest(range(s.day, coalesce(s.next, p.end_day + 1))) AS day
                  FROM spans s JOIN plan_now p USING (key)),
        steps AS (
            SELECT f.key, f.number, f.day, coalesce(net, 0) AS net, allocation - lag(allocation, 1, 0) OVER w AS flow,
                   coalesce(net, 0) + coalesce(unrealised, 0) - coalesce(lag(unrealised) OVER w, 0) AS pnl,
                   allocation + sum(coalesce(net, 0)) OVER w + coalesce(unrealised, 0) AS equity
            FROM frame f LEFT JOIN plan_days USING (key, day) LEFT JOIN plan_open USING (key, day)
            WINDOW w AS (PARTITION BY f.key ORDER BY f.day)),
        profits AS (SELECT *, equity - pnl - flow + greatest(flow, 0) AS base FROM steps)
        SELECT {PLAN}, key, number, day, equity, flow, pnl, base, net,
               CASE WHEN base > 0 THEN greatest(pnl / base, -1) ELSE 0 END
        FROM profits""")
    con.execute(f"""
        INSERT INTO series
        SELECT {FOLLOWERS}, leader, leader, day, sum(equity), sum(flow), sum(pnl), sum(base), sum(net),
               CASE WHEN sum(base) > 0 THEN greatest(sum(pnl) / sum(base), -1) ELSE 0 END
        FROM series WHERE kind = {PLAN} GROUP BY leader, day""")


def _trips(con: duckdb.DuckDBPyConnection, name: str, rules: Rules, asof_ns: int) -> None:
    """``<name>_trips``: by round trip its profit with what is open at mark, and whether an open one is an old loser."""
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {name}_trips AS
        WITH whole AS (
            SELECT leg, trip, any_value(key) AS key, min(first_ns) AS opened_ns, max(last_ns) AS last_ns,
                   sum(net)::BIGINT AS net, sum(volume) AS volume, bool_or(lots = 0) AS closed
            FROM {name}_cells WHERE trip > 0 GROUP BY leg, trip),
        now AS (SELECT leg, trip, unrealised FROM {name}_held WHERE day = {asof_ns // DAY_NS})
        SELECT key, closed, coalesce(volume, 0) AS volume, coalesce(unrealised, 0) AS unrealised,
               net + coalesce(unrealised, 0) AS profit,
               CASE WHEN closed THEN coalesce(last_ns, opened_ns) ELSE {asof_ns} END - opened_ns AS lasted_ns,
               NOT closed AND net + coalesce(unrealised, 0) < 0 AND {asof_ns} - opened_ns > {rules.stale_days * DAY_NS} AS stale
        FROM whole LEFT JOIN now USING (leg, trip)""")
