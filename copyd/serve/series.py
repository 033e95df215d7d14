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
    """Make ``series`` (kind, key, leader, day, equity, flow, pnl, base, net, r) and ``trips`` from the attached tables.

    ``kind`` is leader, plan or followers; ``key`` the leader's name or the plan's number as text. Also ``plan_now`` and
    ``leader_flows``, for the figures that are not series.
    """
    asof_day = asof_ns // DAY_NS
    _marks(con, asof_ns, asof_day)
    _book(con, "leader", "leader_fills", "leader", asof_ns, asof_day)
    _book(con, "plan", "follower_fills", "plan", asof_ns, asof_day)
    con.execute("""CREATE OR REPLACE TEMP TABLE series (kind TEXT, key TEXT, leader TEXT, day BIGINT, equity DOUBLE, flow DOUBLE,
                   pnl DOUBLE, base DOUBLE, net DOUBLE, r DOUBLE)""")
    _leaders(con, rules, asof_ns)
    _plans(con, asof_ns, asof_day)
    _trips(con, rules, asof_ns)


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
    """``<name>_cells`` by leg, round trip and day; ``<name>_days`` what was traded; ``<name>_open`` what was held at its end."""
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {name}_cells AS
        SELECT {key} AS key, leg, trip, ts_ns // {DAY_NS} AS day, any_value(instrument) AS instrument, max(n) AS n,
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
        CREATE OR REPLACE TEMP TABLE {name}_open AS
        WITH ends AS (
            SELECT key, leg, day, any_value(instrument) AS instrument, arg_max(lots, n) AS lots, arg_max(cost, n) AS cost
            FROM {name}_cells GROUP BY ALL),
        spans AS (SELECT *, lead(day, 1, {asof_day + 1}) OVER (PARTITION BY key, leg ORDER BY day) AS until FROM ends),
        held AS (SELECT key, instrument, lots, cost, unnest(range(day, until)) AS day FROM spans WHERE lots <> 0)
        SELECT key, day, sum(abs(lots) * coalesce(worth, 0)) AS notional, coalesce(min(told_ns), 0) AS marked_ns,
               sum(CASE WHEN worth IS NULL THEN 0 ELSE lots * worth - sign(lots) * cost END) AS unrealised
        FROM held LEFT JOIN day_marks USING (instrument, day) GROUP BY ALL""")


def _leaders(con: duckdb.DuckDBPyConnection, rules: Rules, asof_ns: int) -> None:
    """The leaders' series from their snapshots, with flows told and inferred; it ends with the last snapshot."""
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE leader_told AS
        WITH told AS (
            SELECT leader AS key, ts_ns // {DAY_NS} AS day, arg_max(equity_e8, n)::DOUBLE AS equity,
                   arg_min(equity_e8, n)::DOUBLE AS opening, max(ts_ns) AS told_ns
            FROM equity WHERE ts_ns <= {asof_ns} GROUP BY ALL),
        paid AS (SELECT leader AS key, ts_ns // {DAY_NS} AS day, sum(amount_e8)::DOUBLE AS amount
                 FROM flows WHERE ts_ns <= {asof_ns} GROUP BY ALL),
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
    con.execute("""
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
        SELECT 'leader', key, key, day, equity, flow, pnl, base, pnl, CASE WHEN base > 0 THEN greatest(pnl / base, -1) ELSE 0 END
        FROM profits""")


def _plans(con: duckdb.DuckDBPyConnection, asof_ns: int, asof_day: int) -> None:
    """The plans' series and, summed, their leaders' followers'. A stopped plan's ends when it is flat, and stays."""
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE plan_now AS
        WITH said AS (
            SELECT plan AS key, any_value(leader) AS leader, any_value(follower) AS follower, min(ts_ns) // {DAY_NS} AS first_day,
                   max(ts_ns) // {DAY_NS} AS last_day, arg_max(allocation_e8, n) AS allocation, arg_max(state, n) AS state
            FROM plans WHERE ts_ns <= {asof_ns} GROUP BY plan),
        held AS (SELECT key, max(day) AS last_held FROM plan_open GROUP BY key),
        traded AS (SELECT key, max(day) AS last_traded, sum(net)::BIGINT AS net, sum(fees)::BIGINT AS fees
                   FROM plan_cells GROUP BY key)
        SELECT said.*, coalesce(net, 0) AS net, coalesce(fees, 0) AS fees,
               CASE WHEN state = 'stopped' AND coalesce(last_held, -1) < {asof_day}
                    THEN greatest(last_day, coalesce(last_held, 0), coalesce(last_traded, 0)) ELSE {asof_day} END AS end_day
        FROM said LEFT JOIN held USING (key) LEFT JOIN traded USING (key)""")
    con.execute(f"""
        INSERT INTO series
        WITH said AS (SELECT plan AS key, ts_ns // {DAY_NS} AS day, arg_max(allocation_e8, n)::DOUBLE AS allocation
                      FROM plans WHERE ts_ns <= {asof_ns} GROUP BY ALL),
        spans AS (SELECT *, lead(day) OVER (PARTITION BY key ORDER BY day) AS next FROM said),
        frame AS (SELECT s.key, p.leader, s.allocation, unnest(range(s.day, coalesce(s.next, p.end_day + 1))) AS day
                  FROM spans s JOIN plan_now p USING (key)),
        sums AS (
            SELECT f.key, f.leader, f.day, f.allocation, coalesce(net, 0) AS net,
                   f.allocation + sum(coalesce(net, 0)) OVER past + coalesce(unrealised, 0) AS equity
            FROM frame f LEFT JOIN plan_days USING (key, day) LEFT JOIN plan_open USING (key, day)
            WINDOW past AS (PARTITION BY f.key ORDER BY f.day)),
        steps AS (SELECT *, allocation - lag(allocation, 1, 0) OVER w AS flow, lag(equity, 1, 0) OVER w AS before
                  FROM sums WINDOW w AS (PARTITION BY key ORDER BY day)),
        profits AS (SELECT *, equity - before - flow AS pnl, before + greatest(flow, 0) AS base FROM steps)
        SELECT 'plan', key::TEXT, leader, day, equity, flow, pnl, base, net,
               CASE WHEN base > 0 THEN greatest(pnl / base, -1) ELSE 0 END
        FROM profits""")
    con.execute("""
        INSERT INTO series
        SELECT 'followers', leader, leader, day, sum(equity), sum(flow), sum(pnl), sum(base), sum(net),
               CASE WHEN sum(base) > 0 THEN greatest(sum(pnl) / sum(base), -1) ELSE 0 END
        FROM series WHERE kind = 'plan' GROUP BY leader, day""")


def _trips(con: duckdb.DuckDBPyConnection, rules: Rules, asof_ns: int) -> None:
    """``trips``: by round trip its profit with what is open at mark, and whether it counts as a trade."""
    parts = " UNION ALL ".join(
        f"SELECT '{name}' AS kind, key::TEXT AS key, * EXCLUDE (key) FROM {name}_cells" for name in ("leader", "plan"))
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE trips AS
        WITH whole AS (
            SELECT kind, key, leg, trip, any_value(instrument) AS instrument, min(first_ns) AS opened_ns, max(last_ns) AS last_ns,
                   sum(net)::BIGINT AS net, sum(volume)::BIGINT AS volume, arg_max(lots, n) AS lots, arg_max(cost, n) AS cost
            FROM ({parts}) WHERE trip > 0 GROUP BY ALL),
        marked AS (
            SELECT w.*, CASE WHEN lots = 0 OR worth IS NULL THEN 0 ELSE lots * worth - sign(lots) * cost END AS unrealised
            FROM whole w LEFT JOIN day_marks m ON m.instrument = w.instrument AND m.day = {asof_ns // DAY_NS})
        SELECT *, net + unrealised AS profit,
               CASE WHEN lots = 0 THEN coalesce(last_ns, opened_ns) ELSE {asof_ns} END - opened_ns AS lasted_ns,
               lots <> 0 AND net + unrealised < 0 AND {asof_ns} - opened_ns > {rules.stale_days * DAY_NS} AS stale
        FROM marked""")
