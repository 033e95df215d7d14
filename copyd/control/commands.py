"""``copyd ctl``: what an operator asks of a running daemon. Thin: parse, ask, show."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from copyd.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from copyd.control.client import ControlClient

DEFAULT_SOCKET = "/run/copyd/control.sock"

app = App(name="ctl", help="Ask a running daemon: status, pause, kill switch, followers and plans.")
plan_app = App(name="plan", help="Add, change or stop one plan.")
app.command(plan_app)  # its commands follow the others below


@Parameter(name="*")
@dataclass
class Where:
    """Which daemon."""

    socket: Annotated[Path | None, Parameter(name=["--socket", "-s"])] = None
    "Its control socket; default: the one of --config, $COPYD_SOCKET, or /run/copyd/control.sock."
    config: Annotated[Path | None, Parameter(name=["--config", "-c"])] = None
    "Its configuration, for control.socket."

    def path(self) -> Path:
        if self.socket is not None:
            return self.socket
        if self.config is not None:
            from copyd.yamlcheck import load_config

            return Path(load_config(self.config).control.socket)
        return Path(os.environ.get("COPYD_SOCKET") or DEFAULT_SOCKET)

    def client(self) -> ControlClient:
        from copyd.control.client import ControlClient

        return ControlClient(self.path())


@Parameter(name="*")
@dataclass
class Target:
    """What the order concerns: exactly one of these."""

    all: Annotated[bool, Parameter(negative="")] = False
    "Everything."
    leader: str | None = None
    "One leader's followers."
    plan: str | None = None
    "One follower's plan."
    instrument: str | None = None
    "One instrument."
    venue: str | None = None
    "One venue."

    def scope(self, default_all: bool = False) -> tuple[str, str]:
        given = [(kind, getattr(self, kind)) for kind in ("leader", "plan", "instrument", "venue") if getattr(self, kind)]
        if len(given) + self.all != 1:
            if default_all and not given:
                return "all", ""
            raise UsageError("name exactly one of --all, --leader, --plan, --instrument, --venue")
        return given[0] if given else ("all", "")


_HERE = Where()
_NOTHING = Target()


def _show(answer: Any, as_json: bool = False) -> None:
    """An answer for people on a terminal, JSON otherwise."""
    if as_json or not sys.stdout.isatty():
        import orjson

        sys.stdout.write(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _flat(answer):
        table.add_row(name, value)
    Console().print(table)


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _flat(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list):
        if not value:
            return [(name, "none")]
        return [row for index, inner in enumerate(value) for row in _flat(inner, f"{name}[{index}]")]
    return [(name, "none" if value is None else str(value))]


@app.command
def status(*, where: Where = _HERE, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """What the daemon is doing.

    Example: copyd ctl status

    Parameters
    ----------
    json
        JSON even on a terminal.
    """
    _show(where.client().status(), json)
    return 0


def _scoped(action: str, where: Where, target: Target) -> int:
    kind, name = target.scope()
    _show(where.client().scoped(action, kind, name))
    return 0


@app.command
def pause(*, where: Where = _HERE, target: Target = _NOTHING) -> int:
    """No new openings; reductions continue.

    Example: copyd ctl pause --leader alice
    """
    return _scoped("pause", where, target)


@app.command
def resume(*, where: Where = _HERE, target: Target = _NOTHING) -> int:
    """Openings again, in the scope named when they were stopped: --all does not resume a paused plan or instrument.

    Example: copyd ctl resume --plan f0001
    """
    return _scoped("resume", where, target)


@app.command(name="close-only")
def close_only(*, where: Where = _HERE, target: Target = _NOTHING) -> int:
    """Follow out of what is open, open nothing new.

    Example: copyd ctl close-only --instrument BTCUSDT
    """
    return _scoped("close-only", where, target)


@app.command(name="kill-switch")
def kill_switch(
    switch: Literal["on", "off"],
    /,
    *,
    reason: str,
    where: Where = _HERE,
    target: Target = _NOTHING,
) -> int:
    """Stop all openings at once (on), or allow them again (off). Without a scope: everywhere.

    Example: copyd ctl kill-switch on --reason "venue misprices BTCUSDT"

    Parameters
    ----------
    switch
        on or off.
    reason
        Why; journaled with who asked.
    """
    kind, name = target.scope(default_all=True)
    _show(where.client().kill_switch(switch == "on", reason, kind, name))
    return 0


@app.command(name="import")
def import_followers(file: Path, /, *, where: Where = _HERE, check: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Import followers' plans from a .csv or .jsonl file: all of them, or none when a row is bad.

    Required columns: follower, leader, allocation, mode. Optional: account, venue, multiplier, amount, leverage, risk_bps,
    assumed_stop_bps, ratio_snapshot, min_policy, raise_max_factor, on_insufficient, leverage_max, max_position_bps,
    max_notional_symbol, max_notional_total, max_open_trades, max_loss_per_trade_bps, require_stop,
    total_loss_bps, daily_loss_bps, leader_drawdown_bps, on_loss_stop, slippage_bps,
    slippage_mid_bps, instruments, preset, allow_netting, kyc_tier, venue, state.

    Example: copyd ctl import followers.csv

    Parameters
    ----------
    file
        One plan per row.
    check
        Only check the rows against the daemon's configuration.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from copyd.followers import read_followers

    client = where.client()
    specs = read_followers(file, client.config())
    if check:
        print(f"{file}: {_plans(len(specs))}, no problem")
        return 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}
        for progress in client.import_followers(specs):
            stage = progress["stage"]
            if stage not in tasks:
                for earlier in tasks.values():
                    bar.update(earlier, completed=progress["total"])
                tasks[stage] = bar.add_task(stage, total=progress["total"])
            bar.update(tasks[stage], completed=progress["done"])
    print(f"{file}: {_plans(len(specs))} imported")
    return 0


def _plans(number: int) -> str:
    return f"{number} plan{'s' * (number != 1)}"


def _cells(pairs: tuple[str, ...]) -> dict[str, str]:
    cells: dict[str, str] = {}
    problems = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            problems.append(f"{pair}: not column=value")
        elif name in cells:
            problems.append(f"{name}: given twice")
        cells[name] = value
    if problems:
        raise ConfigError(problems)
    return cells


@plan_app.command
def add(*columns: str, where: Where = _HERE) -> int:
    """Add one plan.

    Example: copyd ctl plan add follower=f1 leader=alice allocation=1000 mode=proportional

    Parameters
    ----------
    columns
        column=value, columns as `copyd ctl import --help` lists them.
    """
    from copyd.followers import parse_plan

    client = where.client()
    _show(client.plan_add(parse_plan(_cells(columns), client.config())))
    return 0


@plan_app.command
def change(follower: str, /, *columns: str, where: Where = _HERE) -> int:
    """Change fields of a plan; new limits hold from the next opening.

    Example: copyd ctl plan change f1 max_position_bps=2000 multiplier=1.2

    Parameters
    ----------
    follower
        The plan's follower.
    columns
        column=value of what changes.
    """
    from copyd.followers import parse_changes

    _show(where.client().plan_change(follower, parse_changes(_cells(columns))))
    return 0


@plan_app.command
def stop(follower: str, /, *, where: Where = _HERE) -> int:
    """Stop a plan: nothing new opens, and what is open follows the leader out.

    Example: copyd ctl plan stop f1

    Parameters
    ----------
    follower
        The plan's follower.
    """
    _show(where.client().plan_stop(follower))
    return 0


@app.command(name="losses")
def show_losses(*, where: Where = _HERE, count: int = 20, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """What plans are worth and how near they are to a loss limit: those stopped first, then the nearest.

    total, today and leader are losses in bps of the allocation, of what the plan was worth at the day's reset, and of the
    leader's peak; each beside its limit (0: none); liquidation is how far, in bps, the price may still go against the plan's
    nearest leg. A stopped plan is resumed by name: copyd ctl resume --plan NAME.

    Example: copyd ctl losses --count 5

    Parameters
    ----------
    count
        How many plans.
    json
        JSON even on a terminal.
    """
    answer = where.client().losses(count)
    if json or not sys.stdout.isatty():
        _show(answer, True)
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("follower", "leader", "equity", "profit", "total", "today", "leader's", "liquidation", "state"):
        table.add_column(name, justify="left" if name in ("follower", "leader", "state") else "right")
    for row in answer["plans"]:
        shares = [f"{row[name]}/{limit}" for name, limit in
                  zip(("total_bps", "today_bps", "leader_bps"), row["limits_bps"], strict=True)]
        state = f"stopped by {row['stopped_by']} ({row['policy']})" if row["stopped_by"] else row["state"]
        stale = "" if row["marks_fresh"] else ", marks old"
        far = "-" if row["liquidation_bps"] is None else str(row["liquidation_bps"])
        table.add_row(row["follower"], row["leader"], row["equity"], row["profit"], *shares, far, state + stale)
    Console().print(table)
    Console().print(f"{answer['stopped']} of {answer['of']} plans stopped; profit of all: {answer['profit']}")
    return 0


@app.command
def drift(*, where: Where = _HERE, count: int = 20, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """The legs furthest from what copying without limits would hold, worst first; `copyd ctl explain` says why.

    distance is what a leg should hold with what was forgone, less what it holds; value and bps are of that distance, bps
    against the plan's allocation.

    Example: copyd ctl drift --count 5

    Parameters
    ----------
    count
        How many legs.
    json
        JSON even on a terminal.
    """
    answer = where.client().drift(count)
    if json or not sys.stdout.isatty():
        _show(answer, True)
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    names = ("follower", "leader", "symbol", "bps", "value", "target", "holds", "forgone", "distance", "plan")
    for name in names:
        table.add_column(name, justify="right" if name not in ("follower", "leader", "symbol", "plan") else "left")
    for row in answer["worst"]:
        notes = [word for word in ("in_flight", "detached") if row[word]] + ([] if row["account_answers"] else ["no answer"])
        table.add_row(*(str(row[name]) for name in names), " ".join(notes))
    Console().print(table)
    Console().print("legs by distance, bps: " + "  ".join(f"<={edge}: {n}" for edge, n in answer["histogram"].items()))
    return 0


@app.command
def reload(*, where: Where = _HERE) -> int:
    """Read the configuration again, and say what is wrong with it if it is.

    Example: copyd ctl reload
    """
    _show(where.client().reload())
    return 0


@app.command
def drain(*, where: Where = _HERE) -> int:
    """Take no more leader events, settle what is in flight, then exit.

    Example: copyd ctl drain
    """
    _show(where.client().drain())
    return 0


@app.command
def explain(client_order_id: str = "", /, *, event: str = "", follower: str = "", where: Where = _HERE) -> int:
    """Why an order is what it is, or why there was none, asked of the running daemon.

    Example: copyd ctl explain --event last --follower f1

    Parameters
    ----------
    client_order_id
        The order.
    event
        Or a leader event (last, its journal number or its execution id),
    follower
        and whose decision on it.
    """
    if bool(client_order_id) == bool(event and follower):
        raise UsageError("name either a client order id, or both --event and --follower")
    client = where.client()
    answer = client.explain_order(client_order_id) if client_order_id else client.explain_event(event, follower)
    _show(answer)
    return 0
