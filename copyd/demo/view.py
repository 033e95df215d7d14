"""What a person sees while the demo runs: a live board on a terminal, plain progress lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from typing import Any, Protocol, TextIO

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


class Board(msgspec.Struct):
    """The figures of the moment. Latencies in microseconds."""

    followers: int = 0
    seconds_left: float = 0
    leader_orders: int = 0
    leader_orders_total: int = 0
    leader_fills: int = 0
    decisions: int = 0
    orders: int = 0
    orders_per_second: float = 0
    orders_open: int = 0
    fills: int = 0
    forgone: dict[str, int] = {}
    in_sync: int | None = None
    journal_bytes: int = 0
    restarts: int = 0
    daemon: str = "not started"
    first_us: dict[str, float] = {}
    last_us: dict[str, float] = {}
    venues: dict[str, int] = {}  #: followers' orders by venue, where there are several


class View(Protocol):
    """How the demo speaks."""

    def say(self, text: str, style: str = "") -> None:
        """One sentence about what happens."""

    def progress(self, task: str, done: int, total: int) -> None:
        """How far a set-up step is."""

    def trade(self, text: str) -> None:
        """One leader order."""

    def show(self, board: Board) -> None:
        """The figures of the moment."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def microseconds(figures: dict[str, float], name: str) -> str:
    """A latency as a person reads it."""
    value = figures.get(name)
    if value is None:
        return "-"
    return f"{value / 1000:.2f} ms" if value >= 1000 else f"{value:.0f} us"


def size(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 2**20:.1f} MiB"


class PlainView:
    """Lines, at most one of figures every two seconds."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.started = time.monotonic()
        self.last_figures = 0.0
        self.last_progress = 0.0

    def line(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:6.1f}s] {text}", file=self.out, flush=True)

    def say(self, text: str, style: str = "") -> None:
        self.line(text)

    def progress(self, task: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self.last_progress >= 2:
            self.last_progress = now
            self.line(f"{task}: {done}/{total}")

    def trade(self, text: str) -> None:
        self.line(f"leader: {text}")

    def show(self, board: Board) -> None:
        now = time.monotonic()
        if now - self.last_figures < 2:
            return
        self.last_figures = now
        forgone = sum(board.forgone.values())
        self.line(
            f"orders {board.orders} ({board.orders_per_second:.0f}/s), fills {board.fills}, decisions {board.decisions}, "
            f"forgone {forgone}, fan-out first {microseconds(board.first_us, 'p50')} / {microseconds(board.first_us, 'p99')}, "
            f"last {microseconds(board.last_us, 'p50')} / {microseconds(board.last_us, 'p99')} (p50/p99), "
            f"journal {size(board.journal_bytes)}, daemon {board.daemon}"
        )
        for name, orders in board.venues.items():
            self.line(f"  {name}: orders {orders}")

    def close(self) -> None:
        """Nothing to restore."""


class LiveView:
    """A board that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.trades: deque[str] = deque(maxlen=8)
        self.notes: deque[Text] = deque(maxlen=6)
        self.board = Board()
        self.bars = Progress(
            TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self.tasks: dict[str, TaskID] = {}
        self.trading = False
        self.live = Live(self.render(), console=console, refresh_per_second=8, transient=True)
        self.live.start()

    def say(self, text: str, style: str = "") -> None:
        self.notes.append(Text(text, style=style))
        self.live.update(self.render())

    def progress(self, task: str, done: int, total: int) -> None:
        if task not in self.tasks:
            self.tasks[task] = self.bars.add_task(task, total=total)
        self.bars.update(self.tasks[task], completed=done, total=total)
        self.live.update(self.render())

    def trade(self, text: str) -> None:
        self.trading = True
        self.trades.append(text)

    def show(self, board: Board) -> None:
        self.board = board
        self.live.update(self.render())

    def close(self) -> None:
        self.live.update(self.render(), refresh=True)
        self.live.stop()

    def render(self) -> Group:
        parts: list[Any] = []
        if not self.trading:
            parts.append(Panel(self.bars, title="setting up"))
        else:
            parts.append(self.figures())
            parts.append(Panel(Text("\n".join(self.trades)), title="leader's orders"))
        if self.notes:
            parts.append(Panel(Text("\n").join(self.notes), title="what happens"))
        return Group(*parts)

    def figures(self) -> Table:
        b = self.board
        leaders = f"{len(b.venues)} leaders" if b.venues else "1 leader"
        title = f"copyd demo: {leaders}, {b.followers} followers, {b.seconds_left:.0f} s left"
        table = Table(title=title, expand=True)
        for column in ("", "", "fan-out", "p50", "p99", "max"):
            table.add_column(column, justify="left" if column in ("", "fan-out") else "right")
        rows = [
            ("leader orders / fills", f"{b.leader_orders} of {b.leader_orders_total} / {b.leader_fills}"),
            ("orders / per second / open", f"{b.orders} / {b.orders_per_second:.0f} / {b.orders_open}"),
            ("fills", str(b.fills)),
            ("decisions", str(b.decisions)),
            ("followers in sync", "-" if b.in_sync is None else f"{b.in_sync} of {b.followers}"),
            ("journal", size(b.journal_bytes)),
            ("daemon", f"{b.daemon}, {b.restarts} restarts"),
            ("forgone", ", ".join(f"{name} {count}" for name, count in Counter(b.forgone).most_common(5)) or "0"),
        ]
        rows += [(f"orders on {name}", str(orders)) for name, orders in b.venues.items()]
        for at, (name, value) in enumerate(rows):
            right = ["", "", "", ""]
            if at < 2:
                figures = (b.first_us, b.last_us)[at]
                right = [("first follower", "last follower")[at], *(microseconds(figures, p) for p in ("p50", "p99", "max"))]
            table.add_row(name, value, *right)
        return table


def make_view(out: TextIO = sys.stdout) -> View:
    """The live board on a terminal, plain lines elsewhere."""
    if out.isatty():
        return LiveView(Console(file=out))
    return PlainView(out)


def venue_table(venues: list[dict[str, Any]]) -> Table:
    """A line per venue: its leader's orders, and what those who follow there, whomever they follow, have done."""
    table = Table(title="by venue of the followers")
    columns = ("followers", "orders", "fills", "duplicates", "omissions", "out_of_sync", "legs_open")
    table.add_column("venue", no_wrap=True)
    for column in ("leader's orders", *(name.replace("_", " ") for name in columns), "leaders verified"):
        table.add_column(column, justify="right")
    for row in venues:
        good = f"{sum(row['verified'].values())} of {len(row['verified'])}"
        table.add_row(row["venue"], str(row["leader_orders"]), *(str(row[name]) for name in columns), good)
    return table


def summary_table(result: dict[str, Any], out: TextIO = sys.stdout) -> None:
    """The result as a table, and the verdict in one sentence."""
    console = Console(file=out, width=None if out.isatty() else 110, highlight=False)
    table = Table(title="copyd demo: result, checked against the exchange's own books")
    table.add_column("")
    table.add_column("", justify="right")

    def latency(name: str) -> str:
        figures = result.get(name) or {}
        return " / ".join(microseconds(figures, p) for p in ("p50", "p99", "max"))

    rows = [
        ("followers", f"{result['followers']}"),
        ("leader events (fills)", f"{result['leader_events']}"),
        ("instructions (event x follower)", f"{result['instructions']}"),
        ("orders sent / fills", f"{result['orders_sent']} / {result['fills']}"),
        ("orders per second, busiest second", f"{result['orders_per_second']:.0f}"),
        ("fan-out to the first follower, p50 / p99 / max", latency("fanout_first_us")),
        ("fan-out to the last follower, p50 / p99 / max", latency("fanout_last_us")),
        ("SIGKILLs, ready again after", f"{result['restarts']}, {result['restart_ready_s'] or 0:.2f} s"),
        ("forgone by reason", "\n".join(f"{name} {count}" for name, count in result["forgone"].items()) or "none"),
        ("plans stopped by a loss limit", "\n".join(f"{name} {count}" for name, count in result["stops"].items()) or "none"),
        ("open positions compared midway", f"{result['legs_held_midway']}"),
        ("duplicates", f"{result['duplicates']}"),
        ("omissions", f"{result['omissions']}"),
        ("legs out of sync", f"{result['out_of_sync']}"),
        ("journal", size(result["journal_bytes"])),
        ("daemon memory", size(result["memory_bytes"]["daemon"])),
        ("limits lifted", ", ".join(result["limits_lifted"]) or "none"),
    ]
    settled = result["settlement"]
    if settled["plans"]:
        rows += [
            ("settlement killed", f"{len(settled['kills'])} times"),
            ("fees charged / paid", f"{settled['charged_e8'] / 1e8:,.2f} / {settled['paid_e8'] / 1e8:,.2f}"),
            ("profits that are their wallet's, to the unit", f"{settled['exact']} of {settled['plans']}"),
            ("statements that prove themselves", f"{settled['statements']}"),
        ]
    if result.get("faults_made"):
        made = result["faults_made"]
        rows += [
            (f"faults made ({result['faults']})", "\n".join(f"{name} {count}" for name, count in made.items())),
            ("leader fills heard out of order", f"{result['heard_out_of_order']}"),
            ("request weight a minute, enforced", f"{result['weight_per_minute']}"),
            ("fence: signed until proven absent", f"{result['fence_ms'] / 1000:.1f} s"),
        ]
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    if result.get("venues"):
        console.print(venue_table(result["venues"]))
    for problem in result.get("problems", []):
        console.print(f"  {problem}", style="red", markup=False)
    if result["verified"]:
        console.print("VERIFIED: every follower holds what the rules give, and every gap has its reason.", style="bold green")
    else:
        console.print("NOT VERIFIED", style="bold red")
