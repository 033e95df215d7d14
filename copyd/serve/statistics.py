"""The figures of a leader and of a copy plan, from the extracted history (semantics 37, 41).

Ranked by time-weighted return on total equity: open losers count at mark, deposits are not performance, and what the
followers got after fees stands beside the leader's own. A figure is shown only when there is enough behind it; else it is
null and ``insufficient`` says why, in words. A leader whose account closed stays, with the day he fell silent.

Conventions: UTC days; daily returns (``series``); a year has 365; Sharpe and Sortino against zero, by the sample's and the
downside deviation; Calmar is the compound annual growth over the deepest drawdown of daily closes.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from copyd.serve import series
from copyd.serve.series import DAY_NS, FOLLOWERS, LEADER, PLAN, Rules
from copyd.serve.tables import TABLES, HistoryError, Manifest, load_manifest, paths, require

if TYPE_CHECKING:
    import duckdb

WINDOWS = (7, 30, 90)
CAPITAL = 10_000
"""What the equity curve starts with."""
_SLIPPAGE_BPS = "1e4 * sum(slippage) / nullif(sum(reference), 0)"
FROM_RETURNS = ("sharpe", "sortino", "calmar", "max_drawdown", "roi_all", "twr_all")
FROM_TRADES = ("win_rate", "profit_factor", "worst_trade_e8", "average_duration_s")


class Figures(msgspec.Struct, kw_only=True):
    """What leader and plan have in common. Ratios are plain numbers (0.12 is 12 %), money e8, durations seconds; null: not shown.

    ``roi_*`` profit over the window ÷ (equity at its start + what was paid in during it) · ``twr_*`` chained daily returns, flows
    removed · ``volume_e8`` both sides of every fill · ``trades`` round trips closed, and open losers past their time
    (``stale_losers``, a part of it) · ``open_trades`` all that are open · ``win_rate`` profitable trades ÷ trades ·
    ``profit_factor`` what the winners made ÷ what the losers lost · ``insufficient`` figure -> why it is null.
    """

    days: int = 0
    trades: int = 0
    volume_e8: int = 0
    equity_e8: int = 0
    unrealised_e8: int = 0
    open_trades: int = 0
    stale_losers: int = 0
    roi_7d: float | None = None
    roi_30d: float | None = None
    roi_90d: float | None = None
    roi_all: float | None = None
    twr_7d: float | None = None
    twr_30d: float | None = None
    twr_90d: float | None = None
    twr_all: float | None = None
    sharpe: float | None = None
    sortino: float | None = None
    calmar: float | None = None
    max_drawdown: float | None = None
    win_rate: float | None = None
    profit_factor: float | None = None
    worst_trade_e8: int | None = None
    average_duration_s: float | None = None
    insufficient: dict[str, str] = {}


class LeaderFigures(Figures, kw_only=True):
    """A leader. His trades are before his own fees, which the journal does not hold; his returns are after them.

    ``rank`` from 1, 0 where the ranking's figure is not shown · ``last_day`` of his snapshots, ``silent`` when that is long ago ·
    ``aum_e8`` equity of the plans that are not stopped, ``active_followers`` how many, ``followers`` ever · ``followers_return``
    theirs together, capital-weighted, chained, after fees · ``followers_realised_return`` the same without what is still open,
    ``followers_realised_e8`` its money · ``spread`` followers_return less the leader's over the same days · ``slippage_bps``
    what his followers paid beyond his own prices, weighted by value · ``inferred_flows`` payments nobody told of (``series``) ·
    ``curve`` [day, what 10,000 at the beginning were at its end].
    """

    leader: str
    rank: int = 0
    last_day: str = ""
    silent: bool = False
    aum_e8: int = 0
    active_followers: int = 0
    followers: int = 0
    followers_return: float | None = None
    followers_realised_return: float | None = None
    followers_realised_e8: int = 0
    spread: float | None = None
    slippage_bps: float | None = None
    inferred_flows: int = 0
    curve: list[tuple[str, float]] = []


class PlanFigures(Figures, kw_only=True):
    """A copy plan. ``realised_e8`` is after ``fees_e8``; equity is allocation + realised + unrealised at mark.

    ``slippage_e8`` what its fills were worse than at the leader's prices, openings and closes (below 0: better), and in bps of
    their value at those prices.
    """

    plan: int
    follower: str
    leader: str
    state: str
    allocation_e8: int = 0
    realised_e8: int = 0
    fees_e8: int = 0
    slippage_e8: int = 0
    slippage_bps: float | None = None


class Statistics:
    """The figures of a directory that ``extract`` filled, as of ``asof_ns`` (default: the last record taken).

    Errors: ``HistoryError`` where there is no such directory; ``ServeExtraMissing`` without DuckDB.
    """

    def __init__(self, out: Path, rules: Rules | None = None, asof_ns: int | None = None) -> None:
        require()
        self.out = out
        self.rules = rules or Rules()
        self.con, self.manifest, self.asof_ns = _built(out, self.rules, asof_ns)
        self._series = series_figures(self.con, self.rules, self.asof_ns // DAY_NS)
        self._trades = trade_figures(self.con)

    def leaders(self) -> list[LeaderFigures]:
        """Every leader there ever was, ranked; those without the ranking's figure behind, by name."""
        names = self.con.execute("SELECT number, leader FROM leaders").fetchall()
        slippage = dict(self.con.execute(f"SELECT leader, {_SLIPPAGE_BPS} FROM plan_slippage GROUP BY leader").fetchall())
        following, curves = self._following(), self._curves()
        flows = dict(self.con.execute("SELECT key, inferred FROM leader_flows").fetchall())
        found = [self._leader(number, name, following.get(number, {}), curves.get(number, []), flows.get(number, 0))
                 for number, name in names]
        figure = f"twr_{self.rules.window}d" if self.rules.window in WINDOWS else "twr_all"
        found.sort(key=lambda one: (-value if (value := getattr(one, figure)) is not None else float("inf"), one.leader))
        for one in found:
            self._slipped(one, slippage.get(one.leader))
        for rank, one in enumerate(found, 1):
            one.rank = rank if getattr(one, figure) is not None else 0
        return found

    def leader(self, name: str) -> LeaderFigures:
        """One leader, with his rank among all; ``HistoryError`` where the history does not know him."""
        for one in self.leaders():
            if one.leader == name:
                return one
        raise HistoryError(f"leader {name!r} is not in {self.out}")

    def plans(self, leader: str | None = None) -> list[PlanFigures]:
        """The copy plans (of one leader), in the order they were made; stopped ones too."""
        rows = self.con.execute(
            """SELECT key, follower, leader, state, allocation, net, fees FROM plan_now
               WHERE leader = coalesce(?, leader) ORDER BY key""", [leader]).fetchall()
        slippage = {key: (e8, bps) for key, e8, bps in self.con.execute(
            f"SELECT key, sum(slippage)::BIGINT, {_SLIPPAGE_BPS} FROM plan_slippage GROUP BY key").fetchall()}
        found = []
        for key, follower, of, state, allocation, net, fees in rows:
            one = PlanFigures(plan=key, follower=follower, leader=of, state=state, allocation_e8=allocation, realised_e8=net,
                              fees_e8=fees)
            self._fill(one, PLAN, key, silent="", volume_min_e8=0)
            one.slippage_e8, bps = slippage.get(key, (0, None))
            self._slipped(one, bps)
            found.append(one)
        return found

    def _slipped(self, one: LeaderFigures | PlanFigures, bps: float | None) -> None:
        one.slippage_bps = bps
        if bps is None:
            one.insufficient["slippage_bps"] = "no fill that answers a price of the leader"

    def _leader(
        self, number: int, name: str, following: dict[str, Any], curve: list[tuple[str, float]], flows: int
    ) -> LeaderFigures:
        of = self._series.get((LEADER, number))
        last_day = of["last_day"] if of else 0
        silent = last_day < self.asof_ns // DAY_NS - self.rules.silent_days
        one = LeaderFigures(leader=name, last_day=day_text(last_day) if of else "", silent=silent, curve=curve,
                            inferred_flows=flows)
        why = f"no equity since {one.last_day}" if of else "no equity was ever told"
        self._fill(one, LEADER, number, silent=why if silent else "", volume_min_e8=self.rules.volume_min_e8)
        for field in ("aum_e8", "active_followers", "followers", "followers_realised_e8"):
            setattr(one, field, following.get(field, 0))
        shown = ("followers_return", "followers_realised_return", "spread")
        days = following.get("days", 0)
        if days < self.rules.days_min:
            reason = f"followed for {days} of {self.rules.days_min} days" if days else "nobody ever followed"
            one.insufficient.update(dict.fromkeys(shown, reason))
        else:
            for field in shown:
                setattr(one, field, following[field])
        return one

    def _fill(self, one: Figures, kind: int, key: int, *, silent: str, volume_min_e8: int) -> None:
        """The common figures, each where there is enough behind it."""
        one.insufficient = {}
        of, trades = self._series.get((kind, key)), self._trades.get((kind, key), {})
        for field in ("trades", "volume_e8", "unrealised_e8", "open_trades", "stale_losers"):
            setattr(one, field, trades.get(field, 0))
        one.days = of["days"] if of else 0
        one.equity_e8 = round(of["equity"]) if of else 0
        why = self._lacks(one, volume_min_e8)
        for field in (*FROM_RETURNS, *FROM_TRADES):
            value = (of or {}).get(field) if field in FROM_RETURNS else trades.get(field)
            if why or value is None:
                one.insufficient[field] = why or _undefined(field)
            else:
                setattr(one, field, value)
        for window in WINDOWS:
            reason = why or silent
            if not reason and of and of[f"days_{window}"] < window:
                reason = f"{of[f'days_{window}']} of {window} days"
            for field in (f"roi_{window}d", f"twr_{window}d"):
                value = of[field] if of and not reason else None
                if value is None:
                    one.insufficient[field] = reason or _undefined(field)
                else:
                    setattr(one, field, value)

    def _lacks(self, one: Figures, volume_min_e8: int) -> str:
        """What there is too little of; empty where there is enough."""
        rules = self.rules
        if one.days < rules.days_min:
            return f"{one.days} of {rules.days_min} days"
        if one.trades < rules.trades_min:
            return f"{one.trades} of {rules.trades_min} trades"
        if one.volume_e8 < volume_min_e8:
            return f"volume {one.volume_e8 // series.E8:,} of {volume_min_e8 // series.E8:,}"
        return ""

    def _following(self) -> dict[int, dict[str, Any]]:
        """By leader's number what his followers have and got."""
        return _by_key(self.con.execute(f"""
            WITH theirs AS (
                SELECT f.key, count(*) AS days, product(1 + f.r) - 1 AS followers_return,
                       product(1 + CASE WHEN f.base > 0 THEN greatest(f.net / f.base, -1) ELSE 0 END) - 1
                           AS followers_realised_return,
                       product(1 + f.r) - product(1 + coalesce(l.r, 0)) AS spread
                FROM series f LEFT JOIN series l ON l.kind = {LEADER} AND l.key = f.key AND l.day = f.day
                WHERE f.kind = {FOLLOWERS} GROUP BY f.key),
            now AS (
                SELECT p.number AS key, count(*) AS followers, count(*) FILTER (state <> 'stopped') AS active_followers,
                       coalesce(round(sum(s.equity) FILTER (state <> 'stopped')), 0)::BIGINT AS aum_e8,
                       sum(p.net)::BIGINT AS followers_realised_e8
                FROM plan_now p LEFT JOIN series s ON s.kind = {PLAN} AND s.key = p.key AND s.day = p.end_day
                GROUP BY p.number)
            SELECT * FROM now LEFT JOIN theirs USING (key)"""))

    def _curves(self) -> dict[int, list[tuple[str, float]]]:
        """By leader's number the equity curve of a hypothetical capital."""
        rows = self.con.execute(f"""
            SELECT key, list(day ORDER BY day), list(round({CAPITAL} * worth, 2) ORDER BY day)
            FROM (SELECT key, day, product(1 + r) OVER (PARTITION BY key ORDER BY day) AS worth
                  FROM series WHERE kind = {LEADER})
            GROUP BY key""").fetchall()
        return {key: [(day_text(day), value) for day, value in zip(days, values, strict=True)] for key, days, values in rows}


def series_figures(con: duckdb.DuckDBPyConnection, rules: Rules, asof_day: int) -> dict[tuple[int, int], dict[str, Any]]:
    """By (kind, key) of the table ``series`` what follows from daily returns alone; null where a ratio has no divisor."""
    windows = "".join(f""",
        count(*) FILTER (day > {asof_day - window}) AS days_{window},
        product(1 + r) FILTER (day > {asof_day - window}) - 1 AS twr_{window}d,
        {_roi(f"FILTER (day > {asof_day - window})")} AS roi_{window}d""" for window in WINDOWS)
    year = rules.days_per_year
    return _by_key(con.execute(f"""
        WITH indexed AS (SELECT *, product(1 + r) OVER (PARTITION BY kind, key ORDER BY day) AS worth FROM series),
        falls AS (SELECT *, worth / greatest(1, max(worth) OVER (PARTITION BY kind, key ORDER BY day)) - 1 AS fall FROM indexed),
        sums AS (
            SELECT kind, key, count(*) AS days, max(day) AS last_day,
                   arg_max(equity, day) AS equity, product(1 + r) AS worth,
                   avg(r) AS mean, stddev_samp(r) AS deviation, sqrt(avg(least(r, 0) * least(r, 0))) AS downside,
                   least(min(fall), 0) AS max_drawdown, {_roi("")} AS roi_all {windows}
            FROM falls GROUP BY kind, key)
        SELECT * EXCLUDE (mean, deviation, downside, worth), worth - 1 AS twr_all,
               CASE WHEN deviation > 1e-12 THEN mean / deviation * sqrt({year}) END AS sharpe,
               CASE WHEN downside > 1e-12 THEN mean / downside * sqrt({year}) END AS sortino,
               CASE WHEN max_drawdown < 0 THEN (pow(worth, {year}.0 / days) - 1) / -max_drawdown END AS calmar
        FROM sums"""), 2)


def _roi(part: str) -> str:
    """Profit ÷ (equity at the beginning + what was paid in later), of the rows of ``part``."""
    paid_in = "greatest(flow, 0)"
    base = f"(arg_min(base, day) {part} + sum({paid_in}) {part} - arg_min({paid_in}, day) {part})"
    return f"CASE WHEN {base} > 0 THEN sum(pnl) {part} / {base} END"


def trade_figures(con: duckdb.DuckDBPyConnection) -> dict[tuple[int, int], dict[str, Any]]:
    """By (kind, key) what follows from the round trips of ``leader_trips`` and ``plan_trips``."""
    return _by_key(con.execute(" UNION ALL ".join(f"""
        SELECT {kind} AS kind, key, count(*) FILTER (closed OR stale) AS trades, sum(volume) AS volume_e8,
               round(sum(unrealised))::BIGINT AS unrealised_e8, count(*) FILTER (NOT closed) AS open_trades,
               count(*) FILTER (stale) AS stale_losers,
               count(*) FILTER ((closed OR stale) AND profit > 0) / nullif(count(*) FILTER (closed OR stale), 0) AS win_rate,
               coalesce(sum(profit) FILTER ((closed OR stale) AND profit > 0), 0)
                   / nullif(-sum(profit) FILTER ((closed OR stale) AND profit < 0), 0) AS profit_factor,
               round(min(profit) FILTER (closed OR stale))::BIGINT AS worst_trade_e8,
               avg(lasted_ns) FILTER (closed OR stale) / 1e9 AS average_duration_s
        FROM {name}_trips GROUP BY key""" for kind, name in ((LEADER, "leader"), (PLAN, "plan")))), 2)


def day_text(day: int) -> str:
    """A day since 1970 as YYYY-MM-DD."""
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()


def _undefined(field: str) -> str:
    return {
        "profit_factor": "no losing trade", "sortino": "no losing day", "calmar": "no drawdown",
        "sharpe": "the returns do not vary",
    }.get(field, "no capital")


def _by_key(result: duckdb.DuckDBPyConnection, keys: int = 1) -> dict[Any, dict[str, Any]]:
    names = [column[0] for column in result.description or ()]
    return {(row[0] if keys == 1 else row[:keys]): dict(zip(names, row, strict=True)) for row in result.fetchall()}


def _built(out: Path, rules: Rules, asof_ns: int | None) -> tuple[duckdb.DuckDBPyConnection, Manifest, int]:
    """The series of what one manifest names, in memory; begun again where an extraction has just replaced its files."""
    import duckdb

    for attempts_left in (2, 1, 0):
        manifest = load_manifest(out)
        if manifest is None:
            raise HistoryError(f"{out}: nothing was extracted there")
        until = manifest.last_ts_ns if asof_ns is None else asof_ns
        con = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})  # nothing comes over the network
        try:
            series.attach(con, {table: paths(out, manifest, table) for table in TABLES})
            series.build(con, rules, until)
            return con, manifest, until
        except duckdb.IOException as error:
            con.close()
            if not attempts_left:
                raise HistoryError(f"{out}: {error}") from error
    raise AssertionError
