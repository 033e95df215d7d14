"""``copyd stats``: leaders ranked, and one leader with his followers' plans. Thin: extract what is new, compute, show.

``--json`` prints one object; its keys:

    asof, asof_ns    the moment of the figures: the last record taken (text in UTC, and ns since 1970)
    last_seq         that record
    gaps             [first, last, why] records that could not be taken
    rules            what a figure needs before it is shown (``copyd.serve.series.Rules``)
    leaders          `stats leaders`: a list of ``copyd.serve.statistics.LeaderFigures``, ranked
    leader, plans    `stats leader NAME`: one of them, and a list of ``PlanFigures``

A figure is a plain number (0.12 is 12 %) or null with the reason under ``insufficient``; money is in 1e-8 (``_e8``), durations in
seconds (``_s``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from copyd.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from copyd.serve.statistics import Figures, LeaderFigures, PlanFigures, Statistics

BARS = "▁▂▃▄▅▆▇█"
DEFAULT_CONFIG = Path("/etc/copyd/copyd.yaml")

app = App(name="stats", help="What leaders made and what their followers got, from the journal. Needs copyd[serve].")


@Parameter(name="*")
@dataclass
class Source:
    """Where the figures come from."""

    journal: Annotated[Path | None, Parameter(name=["--journal", "-j"])] = None
    "The journal's directory; default: the one of --config. A daemon may be writing it."
    config: Annotated[Path | None, Parameter(name=["--config", "-c"])] = None
    "The configuration that names the journal."
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None
    "Where the extracted history is kept; default: statistics beside the journal. Alone: as it was left, without a journal."
    window: Literal[7, 30, 90] = 30
    "Days the ranking looks back."
    json: Annotated[bool, Parameter(negative="")] = False
    "JSON instead of tables."

    def statistics(self) -> Statistics:
        """Extract what is new, and the figures of it all."""
        from copyd.serve.tables import require

        require()
        from copyd.serve.fills import extract
        from copyd.serve.series import Rules
        from copyd.serve.statistics import Statistics

        journal, out = self._places()
        if journal is not None:
            extract(journal, out)
        return Statistics(out, Rules(window=self.window))

    def _places(self) -> tuple[Path | None, Path]:
        journal = self.journal
        if journal is not None and self.config is not None:
            raise UsageError("name the journal by --journal or by --config, not both")
        if journal is None and (self.config is not None or self.out is None):
            from copyd.yamlcheck import load_config

            journal = Path(load_config(self.config or DEFAULT_CONFIG).journal.path)
        if journal is None:
            assert self.out is not None
            return None, self.out
        return journal, self.out or journal.parent / "statistics"


_HERE = Source()


@app.command
def leaders(*, source: Source = _HERE) -> int:
    """Every leader, ranked by time-weighted return: one line each.

    Example: copyd stats leaders --journal var/journal
    """
    statistics = source.statistics()
    found = statistics.leaders()
    if source.json:
        _print_json(statistics, leaders=found)
        return 0
    _print([leaders_table(found, source.window), *_remarks(statistics)])
    return 0


@app.command
def leader(name: str, /, *, source: Source = _HERE) -> int:
    """One leader with his equity curve, and the copy plans of his followers.

    Example: copyd stats leader alice --journal var/journal

    Parameters
    ----------
    name
        The leader, as the configuration names him.
    """
    statistics = source.statistics()
    one = statistics.leader(name)
    plans = statistics.plans(name)
    if source.json:
        _print_json(statistics, leader=one, plans=plans)
        return 0
    _print([*leader_card(one), plans_table(plans), *_remarks(statistics)])
    return 0


# --- tables ------------------------------------------------------------------------------------------------


def leaders_table(found: Sequence[LeaderFigures], window: int) -> Table:
    """One line per leader; what is not shown is a dash, and the last column says why."""
    table = _table("", "leader", f"twr {window}d", f"roi {window}d", "twr all", "drawdown", "sharpe", "win rate", "trades",
                   "followers", "under copy", "theirs", "spread", left=("leader",))
    table.add_column(f"10,000 over {window} days")
    table.add_column("")
    for one in found:
        table.add_row(
            str(one.rank or "-"), one.leader, _percent(getattr(one, f"twr_{window}d")), _percent(getattr(one, f"roi_{window}d")),
            _percent(one.twr_all), _percent(one.max_drawdown), _number(one.sharpe), _percent(one.win_rate, 0), str(one.trades),
            str(one.active_followers), money(one.aum_e8), _percent(one.followers_return), _percent(one.spread),
            sparkline([value for _, value in one.curve[-window:]]), _remark(one, f"twr_{window}d"))
    return table


def leader_card(one: LeaderFigures) -> list[Any]:
    """Everything about one leader, as names and values."""
    from rich.text import Text

    table = _table("", "", left=("",), header=False)
    silent = f", silent since {one.last_day}" if one.silent else ""
    for name, value in (
        ("rank", str(one.rank or "-")), ("equity", money(one.equity_e8)), ("days", f"{one.days}{silent}"),
        *_common(one),
        ("followers", f"{one.active_followers} now, {one.followers} ever, {money(one.aum_e8)} under copy"),
        ("followers' return", f"{_percent(one.followers_return)} with open positions, "
                              f"{_percent(one.followers_realised_return)} realised ({money(one.followers_realised_e8)})"),
        ("spread to his own", _percent(one.spread)),
        ("followers' slippage", _bps(one.slippage_bps)),
        ("flows inferred", str(one.inferred_flows)),
    ):
        table.add_row(name, value)
    curve = [value for _, value in one.curve]
    line = f"{one.curve[0][0]}  {sparkline(curve, 60)}  {one.curve[-1][0]}: 10,000 became {curve[-1]:,.0f}" if curve else ""
    return [Text(one.leader, style="bold"), table, line, *_reasons(one)]


def plans_table(plans: Iterable[PlanFigures]) -> Table:
    """One line per copy plan."""
    table = _table("follower", "state", "allocation", "equity", "realised", "fees", "slippage", "open at mark", "twr all",
                   "drawdown", "trades", "win rate", left=("follower", "state"))
    table.add_column("")
    for one in plans:
        table.add_row(
            one.follower, one.state, money(one.allocation_e8), money(one.equity_e8), money(one.realised_e8), money(one.fees_e8),
            _bps(one.slippage_bps), money(one.unrealised_e8), _percent(one.twr_all), _percent(one.max_drawdown), str(one.trades),
            _percent(one.win_rate, 0), _remark(one, "twr_all"))
    return table


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A line of bars from the lowest to the highest value, at most ``width``; the last value is always in it."""
    if not values:
        return ""
    step = max(1.0, len(values) / width)
    shown = [values[len(values) - 1 - int(back * step)] for back in range(min(width, len(values)))][::-1]
    low, high = min(shown), max(shown)
    if low == high:
        return BARS[len(BARS) // 2 - 1] * len(shown)
    return "".join(BARS[int((value - low) / (high - low) * (len(BARS) - 1))] for value in shown)


def _common(one: Figures) -> list[tuple[str, str]]:
    windows = ("7d", "30d", "90d", "all")
    return [
        ("time-weighted return", ", ".join(f"{window} {_percent(getattr(one, f'twr_{window}'))}" for window in windows)),
        ("return on capital", ", ".join(f"{window} {_percent(getattr(one, f'roi_{window}'))}" for window in windows)),
        ("drawdown", _percent(one.max_drawdown)),
        ("sharpe, sortino, calmar", ", ".join(_number(value) for value in (one.sharpe, one.sortino, one.calmar))),
        ("trades", f"{one.trades}, won {_percent(one.win_rate, 0)}, profit factor {_number(one.profit_factor)}, "
                   f"volume {money(one.volume_e8)}"),
        ("worst trade", "-" if one.worst_trade_e8 is None else money(one.worst_trade_e8)),
        ("average trade lasted", _duration(one.average_duration_s)),
        ("open", f"{one.open_trades} trades, {money(one.unrealised_e8)} at mark, {one.stale_losers} of them old losers"),
    ]


def _remark(one: Any, figure: str) -> str:
    why: str = one.insufficient.get(figure, "")
    return f"insufficient data: {why}" if why else ""


def _reasons(one: Figures) -> list[str]:
    """Why figures are missing, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for figure, why in one.insufficient.items():
        by_reason.setdefault(why, []).append(figure.removesuffix("_e8").removesuffix("_s").replace("_", " "))
    return [f"not shown ({why}): {', '.join(figures)}" for why, figures in by_reason.items()]


def _remarks(statistics: Statistics) -> list[str]:
    from copyd.inspect.summary import at

    lines = [f"as of {at(statistics.asof_ns)}, record {statistics.manifest.last_seq}"]
    return lines + [f"records {first} to {last} are not in it: {why}" for first, last, why in statistics.manifest.gaps]


def _table(*columns: str, left: Sequence[str], header: bool = True) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=header, padding=(0, 1))
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def _percent(value: float | None, places: int = 2) -> str:
    return "-" if value is None else f"{value * 100:,.{places}f} %"


def _bps(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} bps"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def money(e8: int) -> str:
    """Money in whole units of the quote asset, for tables."""
    return f"{e8 / 1e8:,.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _print(parts: Iterable[Any]) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)
    for part in parts:
        if part != "":
            console.print(part, markup=False) if isinstance(part, str) else console.print(part)


def _print_json(statistics: Statistics, **content: Any) -> None:
    import msgspec

    from copyd.inspect.summary import at

    answer = {
        "asof": at(statistics.asof_ns), "asof_ns": statistics.asof_ns, "last_seq": statistics.manifest.last_seq,
        "gaps": statistics.manifest.gaps, "rules": statistics.rules, **content,
    }
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(answer)).decode() + "\n")
