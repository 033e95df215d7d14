"""``copyd demo``: the main job on this machine, with the daemon killed half way, and the proof at the end.

1. the exchange starts, accounts are opened, the leader already holds something
2. the daemon starts, the followers are imported, every leg is made ready
3. the leader trades by a seeded script; half way the daemon is killed with SIGKILL in mid fan-out, the leader trades on
   while it is down, and it is started again
4. a losing stretch: the market falls while he adds, loss limits act by themselves; it comes back, and some followers leave
5. when everything is quiet the daemon is stopped, its decisions are exported, the exchange's books are read
6. the verifier compares books, plans and decisions
7. fees are settled by ``copyd settle``, killed on the way; statements are held against the wallets. Exit 0 only when all agree
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from copyd.errors import CopydError, WorldError

from .chaos import LEVELS, Cutter, chaos
from .daemon import LEADER, PLATFORM, SITE, Daemon, configuration, free_port, percentiles, write_secret_file
from .exchange import AccountMade, Control, LeaderClient
from .history import SECOND, Command, Outage, Plan, Truth, VerifyConfig, read_claims, to_e8
from .processes import Child
from .settling import STEPS, Books, Office, Settled, judge, read_statements
from .verifier import Verdict, verify
from .view import Board, View, make_view, summary_table
from .workload import (
    LEADER_EQUITY,
    LEADER_LEVERAGE,
    Market,
    Script,
    Step,
    follower_plans,
    leader_script,
    leaving,
    plan_lines,
    starting_balance,
)

MAJORS = ["BTCUSDT", "ETHUSDT"]
ACCOUNTS_PER_CALL = 500
REAL_LIMITS_MAX = 40  #: followers that can be made ready inside the venue's own request weight of one minute
REAL_WEIGHT = 2_400
#: With faults the request weight is enforced, at what this many followers need: a making ready in half a minute, and settling
#: what went wrong while the leader trades every second. (At the venue's own figure both take that much longer.)
WEIGHT_PER_FOLLOWER = 60


class Stopped(Exception):
    """Ctrl-C: wind down, check what happened so far, say so."""


class Options(msgspec.Struct, frozen=True):
    """The command line."""

    followers: int = 1000
    seconds: float = 60.0
    seed: int = 7
    json: Path | None = None
    keep: Path | None = None
    connections: int = 4
    kill: bool = True
    faults: str = "none"


class Demo:
    """One run."""

    def __init__(self, options: Options, directory: Path, view: View, session: aiohttp.ClientSession) -> None:
        self.options = options
        self.directory = directory
        self.view = view
        self.session = session
        self.chaos = chaos(options.faults, options.seed, "f", LEADER, f"{SITE:04x}")
        self.weight = max(REAL_WEIGHT, WEIGHT_PER_FOLLOWER * options.followers) if self.disturbed else REAL_WEIGHT
        self.lift = ["request_weight"] if options.followers > REAL_LIMITS_MAX and not self.disturbed else []
        self.cutter: asyncio.Task[None] | None = None
        self.exchange = Child("the exchange", [], directory / "exchange.log", directory)
        self.daemon = Daemon(directory, free_port(), session)
        self.control: Control
        self.leader: LeaderClient
        self.plans: list[Plan] = []
        self.script = Script([])
        self.board = Board(followers=options.followers)
        self.outages: list[Outage] = []
        self.plans_since = 0
        self.ready_since = 0
        self.down: Outage | None = None  #: while no daemon is running
        self.kill_report: dict[str, Any] = {}
        self.restart_ready_s: float | None = None
        self.memory: dict[str, int] = {"daemon": 0, "exchange": 0}
        self.setup_s = 0.0
        self.stopping = asyncio.Event()
        self.interrupted = False
        self.maker_flow_hash = ""
        self.last_life: dict[str, Any] = {}
        self.lives: list[dict[str, Any]] = []
        self.deltas: dict[str, int] = {}
        self.limits_lifted: list[str] = []
        self.commands: list[Command] = []
        self.held: tuple[int, dict[tuple[str, str, str], int]] = 0, {}
        self.ended_at = 0.0
        self.settled = Settled()

    @property
    def disturbed(self) -> bool:
        """Whether things go wrong on purpose."""
        return self.options.faults != "none"

    # -- small steps -------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Between two steps: has the person pressed Ctrl-C?"""
        if self.stopping.is_set():
            raise Stopped

    async def pause(self, seconds: float) -> None:
        """Sleep, but wake at once when the person wants to stop."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), seconds)
        self.checkpoint()

    async def orders_accepted(self) -> int:
        """Followers' orders the exchange has accepted so far."""
        return int((await self.control.stats())["orders_accepted"]) - self.leader.orders

    # -- 1. the exchange ---------------------------------------------------------------------------------------

    async def start_exchange(self) -> dict[str, Any]:
        """The exchange in its own process; its addresses."""
        ready_file = self.directory / "exchange.json"
        arguments = ["copyd", "exchange", "--seed", str(self.options.seed), "--ready-file", str(ready_file), "--quiet"]
        if self.lift:
            arguments += ["--lift", ",".join(self.lift)]
        self.exchange.arguments = arguments
        await self.exchange.start()
        for _ in range(600):
            if ready_file.exists():
                addresses: dict[str, Any] = msgspec.json.decode(ready_file.read_bytes())
                return addresses
            self.exchange.check()
            await self.pause(0.05)
        raise WorldError("the exchange does not answer after 30 s")

    async def open_accounts(self) -> list[AccountMade]:
        """Accounts of the leader and of every follower.

        Nine of ten followers come with leverage and margin type set; one of eight trades in hedge mode, and the daemon
        takes it as it is.
        """
        made = await self.control.make_accounts([{"name": LEADER, "balance": str(LEADER_EQUITY)}])
        await self.control.make_accounts([{"name": PLATFORM, "balance": "0"}])
        await self.control.mark_account(LEADER)
        for start in range(0, len(self.plans), ACCOUNTS_PER_CALL):
            rows = []
            for at, plan in enumerate(self.plans[start : start + ACCOUNTS_PER_CALL], start):
                row: dict[str, Any] = {"name": plan.account, "balance": starting_balance(plan, self.options.seed)}
                if at % 10:
                    row |= {"leverage": plan.leverage, "margin_type": "ISOLATED"}
                if at % 8 == 5:
                    row |= {"hedge": True}
                rows.append(row)
            made += await self.control.make_accounts(rows)
            self.view.progress("accounts opened", len(made) - 1, len(self.plans))
            self.checkpoint()
        return made

    # -- 2. the daemon -----------------------------------------------------------------------------------------

    async def start_daemon(self, addresses: dict[str, Any], made: list[AccountMade]) -> None:
        """Files, process, import, readiness."""
        write_secret_file(
            self.directory / "credentials.jsonl",
            [{"name": account.name, "key": account.api_key, "secret": account.secret} for account in made],
        )
        self.daemon.write_config(
            configuration(
                self.directory, addresses, list(self.control.instruments), MAJORS, int(self.daemon.health.rpartition(":")[2]),
                self.options.connections, 100_000_000 if self.lift else self.weight * 3 // 4 if self.disturbed else 0,
                self.chaos.terms if self.disturbed else None,
            )
        )  # fmt: skip
        self.view.say("starting the daemon")
        await self.daemon.start()
        await self.daemon.alive(60)
        self.checkpoint()
        self.view.say(f"importing {len(self.plans)} followers: copyd ctl import followers.jsonl")
        start = time.monotonic()
        await self.daemon.import_followers(self.directory / "followers.jsonl")
        self.view.say(f"imported in {time.monotonic() - start:.1f} s; position mode, margin type and leverage of each leg follow")
        until = time.monotonic() + 150 + self.options.followers * 0.1
        legs = len(self.plans) * len(self.control.instruments)
        while not await self.daemon.ready():
            assert self.daemon.child is not None
            self.daemon.child.check()
            if time.monotonic() > until:
                raise WorldError(f"the daemon is not ready: {'; '.join(self.daemon.reasons[:5])}\n{self.daemon.child.tail()}")
            status = await self.daemon.status()
            self.view.progress("legs ready", int(status.get("legs_ready", 0)), int(status.get("legs_total", legs) or legs))
            await self.pause(0.2)
        self.view.progress("legs ready", legs, legs)

    # -- 3. the leader trades ----------------------------------------------------------------------------------

    def describe(self, step: Step) -> str:
        """A step as a trader would say it."""
        instrument = self.control.instruments[step.symbol]
        side = "buy" if step.side > 0 else "sell"
        return f"{step.label}: {side} {instrument.qty_text(step.lots)} {step.symbol}"

    async def trade(self, step: Step) -> None:
        """One leader order; a resting one is waited for. Or the market moves."""
        if step.move_bps:
            await self.control.move_market(step.symbol, step.move_bps)
            return
        self.view.trade(self.describe(step))
        self.board.leader_orders += 1
        instrument = self.control.instruments[step.symbol]
        answer = await self.leader.place(step, instrument)
        if step.kind == "REST":
            await self.leader.wait_filled(step.symbol, int(answer["orderId"]), 5)

    async def followed(self, before: int, cap_s: float = 4.0) -> int:
        """Wait until no more follower orders arrive and the daemon has heard of them all; how many came."""
        until = time.monotonic() + (min(cap_s, 1.0) if self.disturbed else cap_s)
        last, since = await self.orders_accepted(), time.monotonic()
        while time.monotonic() < until and not self.stopping.is_set():
            await asyncio.sleep(0.03)
            now = await self.orders_accepted()
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > 0.15:
                status = await self.daemon.status()
                if not status.get("orders_unfinished"):
                    break
        return last - before

    async def run_steps(self, steps: list[Step], start: float, shift_s: float = 0.0) -> None:
        """Steps at their time; an order that is no burst waits for the followers of the one before."""
        for step in steps:
            self.checkpoint()
            await self.pause(start + shift_s + step.at_ms / 1000 - time.monotonic())
            before = await self.orders_accepted()
            await self.trade(step)
            if not step.burst:
                came = await self.followed(before)
                if "partial close" not in step.label:
                    self.deltas[step.symbol] = max(self.deltas.get(step.symbol, 0), came)

    async def kill_mid_fanout(self, step: Step) -> None:
        """The leader trades; as soon as some of the followers' orders are there, and not all, the daemon dies."""
        usual = max(2, self.deltas.get(step.symbol, self.options.followers // 2))
        threshold = max(1, min(int(usual * 0.3), usual - 1))
        before = await self.orders_accepted()
        self.last_life = await self.daemon.status() or self.last_life
        order = asyncio.create_task(self.trade(step))
        placed = self.leader.orders + 1
        arrived = 0
        until = time.monotonic() + 3
        while time.monotonic() < until:
            arrived = int((await self.control.stats())["orders_accepted"]) - placed - before
            if arrived >= threshold:
                break
        assert self.daemon.child is not None
        self.memory["daemon"] = max(self.memory["daemon"], self.daemon.child.memory_bytes())
        down = time.time_ns()
        self.daemon.child.kill()
        self.down = Outage(down, 0, 0)
        await self.daemon.child.wait(10)
        await order
        await asyncio.sleep(0.3)
        total = await self.orders_accepted() - before
        self.board.restarts += 1
        self.board.daemon = "killed"
        self.kill_report = {"seen": arrived, "arrived": total, "usual": usual, "step": self.describe(step)}
        self.view.say(
            f"SIGKILL in mid fan-out: {arrived} of about {usual} orders had been seen at the exchange, {total} had left in all",
            "bold red",
        )

    async def restart(self) -> None:
        """The successor on the same journal."""
        assert self.down is not None
        self.lives.append(self.last_life)
        started = time.time_ns()
        start = time.monotonic()
        self.view.say("the daemon is started again on the same journal", "bold")
        self.board.daemon = "starting again"
        await self.daemon.start()
        await self.daemon.wait_ready(120 + self.options.followers * 0.05)
        self.restart_ready_s = time.monotonic() - start
        self.outages.append(Outage(self.down.ts_down, started, time.time_ns()))
        self.down = None
        self.board.daemon = "running"
        self.view.say(f"ready again after {self.restart_ready_s:.2f} s", "bold green")

    async def disturb(self) -> None:
        """From now on things go wrong."""
        if self.disturbed:
            await self.control.add_faults(self.chaos.rules)
            self.cutter = asyncio.create_task(Cutter(self.control, self.chaos, self.options.seed, LEADER).run())
            self.view.say(f"faults {self.options.faults}: lost replies, errors with the order live or dead, late and lost events")

    async def calm(self) -> None:
        """Nothing goes wrong on purpose any more."""
        if self.cutter is not None:
            self.cutter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.cutter
            self.cutter = None
            await self.control.drop_faults()
            self.view.say(f"faults end: {(await self.control.stats())['faults_made']} were made")

    async def run_script(self) -> None:
        """The leader's whole run, with the kill between its two halves."""
        start = time.monotonic()
        self.board.seconds_left = self.options.seconds
        await self.run_steps(self.script.phase("first"), start)
        kill, down = self.script.phase("kill"), self.script.phase("down")
        shift = 0.0
        if self.options.kill:
            for step in kill:
                await self.pause(start + step.at_ms / 1000 - time.monotonic())
                await self.kill_mid_fanout(step)
            for step in down:
                await self.trade(step)
                await asyncio.sleep(0.2)
            await self.restart()
            second = self.script.phase("second")
            if second:
                shift = max(0.0, time.monotonic() - (start + second[0].at_ms / 1000))
        else:
            await self.run_steps(kill + down, start)
        await self.run_steps(self.script.phase("second"), start, shift)

    async def lose(self) -> None:
        """The losing stretch, and followers who leave before the leader's last close."""
        self.view.say("a losing stretch: the leader goes long, and the market falls")
        start = time.monotonic()
        await self.run_steps(self.script.phase("losing"), start)
        names = leaving(self.plans)
        self.view.say(f"{len(names)} followers leave: copyd ctl plan stop NAME")
        for name in names:
            sent = time.time_ns()
            await self.daemon.stop_plan(name)
            self.commands.append(Command("stop", sent, time.time_ns(), name))
            self.checkpoint()
        await self.run_steps(self.script.phase("leaving"), time.monotonic())

    async def look_midway(self) -> None:
        """All is quiet and legs are open: what everybody holds, for the verifier."""
        await self.settle(60 + (30 if self.disturbed else 0))
        self.held = time.time_ns(), await self.control.positions_now(LEADER)

    async def watch(self) -> None:
        """Keep the board and the quote log up to date."""
        last_orders, last_time = 0, time.monotonic()
        began = last_time
        while True:
            with contextlib.suppress(aiohttp.ClientError, CopydError, OSError):
                await self.control.follow_quotes()
                orders = await self.orders_accepted()
                now = time.monotonic()
                self.board.orders_per_second = (orders - last_orders) / max(1e-3, now - last_time)
                last_orders, last_time = orders, now
                self.board.orders = orders
                self.board.seconds_left = max(0.0, self.options.seconds - (now - began))
                self.board.journal_bytes = self.daemon.journal_bytes()
                if self.daemon.running and self.daemon.child is not None:
                    self.memory["daemon"] = max(self.memory["daemon"], self.daemon.child.memory_bytes())
                    status = await self.daemon.status()
                    if status:
                        self.last_life = status
                        self.on_status(status)
                self.view.show(self.board)
            await asyncio.sleep(0.25)

    def on_status(self, status: dict[str, Any]) -> None:
        """The daemon's own figures for the board."""
        board = self.board
        board.daemon = "running"
        board.decisions = int(status.get("decisions", board.decisions))
        board.fills = int(status.get("fills", board.fills))
        board.leader_fills = int(status.get("leader_events", board.leader_fills))
        board.orders_open = int(status.get("orders_unfinished", board.orders_open))
        board.forgone = dict(status.get("forgone", board.forgone))
        out = status.get("legs_out_of_sync")
        board.in_sync = None if out is None else max(0, board.followers - int(out))
        board.first_us = dict(status.get("fanout_first_us") or {})
        board.last_us = dict(status.get("fanout_last_us") or {})

    # -- 4. the end --------------------------------------------------------------------------------------------

    async def settle(self, seconds: float = 60, told: bool = False) -> None:
        """Wait until nothing is unfinished: no orders arriving, none open, none in doubt; ``told``: and every fee is known."""
        self.view.say("the leader has finished; waiting until everything is quiet")
        for symbol in self.control.instruments:
            with contextlib.suppress(CopydError):
                await self.leader.cancel_all(symbol)
        until = time.monotonic() + seconds
        last, since = -1, time.monotonic()
        while time.monotonic() < until:
            orders = await self.orders_accepted()
            status = await self.daemon.status()
            unfinished = int(status.get("orders_unfinished", 0)) + int(status.get("in_doubt", 0))
            unfinished += told and int(status.get("executions_untold", 0))
            if orders != last or unfinished:
                last, since = orders, time.monotonic()
            elif time.monotonic() - since > 2.0:
                return
            await asyncio.sleep(0.1)
        self.view.say("still not quiet; going on to the check", "bold red")

    async def collect(self) -> tuple[Truth, Verdict, tuple[int, str]]:
        """Stop the daemon, export its decisions, read the books, compare."""
        self.last_life = await self.daemon.status() or self.last_life
        self.lives.append(self.last_life)
        if self.daemon.running and self.daemon.child is not None:
            self.memory["daemon"] = max(self.memory["daemon"], self.daemon.child.memory_bytes())
            code = await self.daemon.child.end(30)
            if code != 0:
                self.view.say(f"the daemon ended with code {code}", "bold red")
        self.board.daemon = "stopped"
        self.ended_at = time.time()
        self.view.say("exporting the daemon's decisions from the journal")
        claims = self.directory / "decisions.jsonl"
        await self.daemon.export(claims)
        self.view.say("reading the exchange's books")
        truth = await self.control.truth(LEADER)
        truth.balances = {plan.account: to_e8(starting_balance(plan, self.options.seed)) for plan in self.plans}
        truth.held_ts, truth.held = self.held
        stats = await self.control.stats()
        self.maker_flow_hash = str(stats.get("maker_flow_hash", ""))
        self.limits_lifted = list(stats.get("limits_lifted", []))
        self.memory["exchange"] = self.exchange.memory_bytes()
        if not self.interrupted:
            await self.settle_fees(truth)
        await self.exchange.end()
        self.view.say("copyd verify: every recorded decision computed again from the journal")
        journal_check = await self.daemon.verify_journal()
        self.view.say("comparing the exchange's books with what the rules give")
        config = self.verify_config()
        held = [[*key, lots] for key, lots in truth.held.items()]
        (self.directory / "verify.json").write_bytes(
            msgspec.json.encode({"config": config, "balances": truth.balances, "held_ts": truth.held_ts, "held": held})
        )
        verdict = await asyncio.to_thread(verify, truth, self.plans, read_claims(claims), config)
        return truth, verdict, journal_check

    async def settle_fees(self, truth: Truth) -> None:
        """Fees of those who have left, paid at the exchange; killed on the way, and held against the wallets."""
        self.view.say("copyd settle: fees of the followers who left, killed after every step that shows")
        people = {LEADER, PLATFORM, *(plan.account for plan in self.plans)}  # the makers trade on meanwhile
        before = await self.control.balances(people)
        office = Office(self.directory, self.daemon, self.control)
        await office.run(self.ended_at)
        books = Books(
            before, await self.control.balances(people), await self.control.transfers(), truth.balances,
            {account for account, _, _ in truth.positions}, set(leaving(self.plans)),
        )  # fmt: skip
        self.settled = judge(self.plans, read_statements(office.folder), books)
        self.settled.kills = office.kills
        if self.settled.charged and len(office.kills) < len(STEPS):
            self.settled.problems.append(f"the settlement was killed at {', '.join(office.kills) or 'no step'} only")
        self.settled.statements, fault = await office.verified()
        if fault:
            self.settled.problems.append(fault)

    def verify_config(self) -> VerifyConfig:
        """What both sides were configured with."""
        return VerifyConfig(
            outages=self.outages,
            commands=self.commands,
            leader_leverage=dict.fromkeys(self.control.instruments, LEADER_LEVERAGE),
            plans_since=self.plans_since,
            ready_since=self.ready_since,
            majors=tuple(MAJORS),
            # Both sides share this machine's cores; with faults an execution may be heard of by a question alone.
            report_lag=3 * SECOND + self.options.followers * SECOND // 2000 + self.settling,
            settling=self.settling,
            problems_max=20,
        )

    @property
    def settling(self) -> int:
        """Longest time, ns, until an order's fate is known although answers are lost: the fence, and questions asked again."""
        return 4 * self.chaos.terms.fence_ms() * 1_000_000 if self.disturbed else 0

    # -- the whole ---------------------------------------------------------------------------------------------

    async def run(self) -> dict[str, Any]:
        """Everything in order; the result."""
        began = time.monotonic()
        o = self.options
        self.view.say(f"starting the simulated exchange, seed {o.seed}")
        addresses = await self.start_exchange()
        self.control = Control(self.session, addresses["control"])
        if o.keep is not None:
            self.control.keep = self.directory / "books"
            self.control.keep.mkdir()
        if self.disturbed:
            await self.control.set_weight(self.weight)
        await self.control.load_instruments(addresses["rest"])
        for _ in range(50):
            await self.control.follow_quotes()
            if len(self.control.opening_px) == len(self.control.instruments):
                break
            await self.pause(0.1)
        markets = [Market(instrument, self.control.opening_px[name]) for name, instrument in self.control.instruments.items()]
        self.script = leader_script(markets, o.seconds, o.seed)
        self.board.leader_orders_total = len(self.script.steps)
        self.plans = follower_plans(o.followers, list(self.control.instruments), o.seed, LEADER)
        (self.directory / "followers.jsonl").write_bytes(plan_lines(self.plans))
        made = await self.open_accounts()
        self.leader = LeaderClient(self.session, addresses["rest"], made[0].api_key, made[0].secret)
        for symbol in self.control.instruments:
            await self.leader.set_leverage(symbol, LEADER_LEVERAGE)
        for step in self.script.phase("before"):
            await self.trade(step)
        self.plans_since = time.time_ns()
        await self.start_daemon(addresses, made)
        self.setup_s = time.monotonic() - began
        self.ready_since = time.time_ns()
        self.view.say(f"ready after {self.setup_s:.1f} s; the leader trades for {o.seconds:.0f} s")
        watcher = asyncio.create_task(self.watch())
        await self.disturb()
        try:
            await self.run_script()
            await self.calm()
            await self.look_midway()
            await self.disturb()
            await self.lose()
        except Stopped:
            self.interrupted = True
            self.stopping.clear()
            self.view.say("stopped by Ctrl-C; checking what happened so far", "bold yellow")
            if self.down is not None:
                await self.restart()
        try:
            await self.calm()
            await self.settle((15 if self.interrupted else 60) + (30 if self.disturbed else 0), told=not self.interrupted)
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        truth, verdict, journal_check = await self.collect()
        return self.result(truth, verdict, journal_check)

    def result(self, truth: Truth, verdict: Verdict, journal_check: tuple[int, str]) -> dict[str, Any]:
        """The figures as written to the JSON file."""
        o = self.options
        problems = list(verdict.problems)
        code, words = journal_check
        if code:
            problems.insert(0, f"copyd verify ended with code {code}: {words.strip().splitlines()[-1] if words.strip() else ''}")
        problems += [f"settlement: {text}" for text in self.settled.problems[:20]]
        seconds = Counter(order.ts // SECOND for order in truth.orders)
        first, last = fanout_at_exchange(truth)
        own_first, own_last = self.own_fanout()
        return {
            "followers": o.followers,
            "leader_events": verdict.leader_events,
            "instructions": verdict.decisions,
            "orders_sent": verdict.orders + verdict.orders_rejected,
            "orders_accepted": verdict.orders,
            "orders_rejected": verdict.orders_rejected,
            "fills": verdict.fills,
            "duplicates": verdict.duplicates,
            "omissions": verdict.omissions,
            "out_of_sync": verdict.out_of_sync,
            "waiting_for_minimum": verdict.waiting_for_minimum,
            "followers_in_sync": verdict.followers_in_sync,
            "legs": verdict.legs,
            "legs_open": verdict.legs_open,
            "forgone": verdict.forgone,
            "forgone_other_outside_restart": verdict.forgone_other_outside_restart,
            "forgone_disturbed": verdict.forgone_disturbed,
            "heard_out_of_order": verdict.heard_out_of_order,
            "restarts": len(self.outages),
            "restart_ready_s": self.restart_ready_s,
            "kill": self.kill_report,
            "verified": verdict.verified and code == 0 and not self.settled.problems,
            "stops": verdict.stops,
            "legs_held_midway": verdict.legs_held_midway,
            "settlement": msgspec.to_builtins(self.settled),
            "journal_verified": code == 0,
            "problems": problems,
            "problem_counts": verdict.problem_counts,
            "limits_lifted": self.limits_lifted,
            "weight_per_minute": self.weight,
            "faults": o.faults,
            "faults_made": dict(Counter(fault.action for fault in truth.faults).most_common()),
            "fence_ms": self.chaos.terms.fence_ms() if self.disturbed else None,
            "fanout_first_us": own_first or first,
            "fanout_last_us": own_last or last,
            "fanout_measured_by": "daemon" if own_first else "exchange",
            "fanout_at_exchange_first_us": first,
            "fanout_at_exchange_last_us": last,
            "orders_per_second": float(max(seconds.values(), default=0)),
            "journal_bytes": self.daemon.journal_bytes(),
            "memory_bytes": {
                "daemon": self.memory["daemon"],
                "exchange": self.memory["exchange"],
                "daemon_per_follower": self.memory["daemon"] // max(1, o.followers),
            },
            "seed": o.seed,
            "seconds": o.seconds,
            "connections": o.connections,
            "setup_s": round(self.setup_s, 2),
            "interrupted": self.interrupted,
            "leader_orders_hash": script_hash(self.script),
            "maker_flow_hash": self.maker_flow_hash,
            "conditions": {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()},
        }

    def own_fanout(self) -> tuple[dict[str, float], dict[str, float]]:
        """The daemon's own measure over all its lives: from its samples where it gives them, else the last life's figures."""
        samples = [sample for life in self.lives for sample in life.get("fanout_samples", [])]
        if samples:
            return percentiles([s[1] for s in samples]), percentiles([s[2] for s in samples])
        known = [life for life in self.lives if life.get("fanout_first_us", {}).get("p50") is not None]
        if not known:
            return {}, {}
        merged = []
        for name in ("fanout_first_us", "fanout_last_us"):
            figures = {key: value for key, value in known[-1][name].items() if key in ("p50", "p99", "max", "n")}
            figures["max"] = max(life[name].get("max", 0) for life in known)
            merged.append(figures)
        return merged[0], merged[1]


def script_hash(script: Script) -> str:
    """One short name for the leader's orders: the same seed gives the same."""
    return hashlib.sha256(msgspec.json.encode(script)).hexdigest()[:16]


def fanout_at_exchange(truth: Truth) -> tuple[dict[str, float], dict[str, float]]:
    """Leader's execution to the first and last follower order accepted, by the exchange's own clock, microseconds.

    Orders belong to the latest trade of their instrument; what comes more than half a second later is something else.
    """
    trades: dict[str, list[int]] = defaultdict(list)
    for trade in truth.leader_trades:
        if not trades[trade.symbol] or trades[trade.symbol][-1] != trade.ts:
            trades[trade.symbol].append(trade.ts)
    found: dict[tuple[str, int], list[int]] = {}
    at = dict.fromkeys(trades, 0)
    for order in truth.orders:
        times = trades.get(order.symbol)
        if not times or order.ts < times[0]:
            continue
        i = at[order.symbol]
        while i + 1 < len(times) and times[i + 1] <= order.ts:
            i += 1
        at[order.symbol] = i
        late = order.ts - times[i]
        if late <= SECOND // 2:
            first, last = found.setdefault((order.symbol, times[i]), [late, late])
            found[(order.symbol, times[i])] = [min(first, late), max(last, late)]
    return percentiles([v[0] / 1000 for v in found.values()]), percentiles([v[1] / 1000 for v in found.values()])


async def run_demo(options: Options, directory: Path, view: View) -> dict[str, Any]:
    """One run with everything it started ended again."""
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=16)) as session:
        demo = Demo(options, directory, view, session)
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            if demo.stopping.is_set() or demo.interrupted:
                task.cancel()
            demo.stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        try:
            return await demo.run()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            await demo.daemon.close_control()
            if demo.daemon.child is not None:
                await demo.daemon.child.end(5)
            await demo.exchange.end(5)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="copyd demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--followers", type=int, default=1000, help="follower accounts (default 1000)")
    p.add_argument(
        "--seconds", type=float, default=60, help="how long the leader trades before the losing stretch (default 60)"
    )
    p.add_argument("--seed", type=int, default=7, help="same seed: same leader orders, same maker order flow (default 7)")
    p.add_argument("--json", type=Path, help="write the result to this file")
    p.add_argument("--keep", type=Path, help="work in this new directory and keep it (journal, logs, plans, decisions)")
    p.add_argument("--connections", type=int, default=4, help="order connections of the daemon (default 4)")
    p.add_argument(
        "--faults", choices=LEVELS, default="none",
        help="lose, delay, double and reorder replies and events, answer with errors, cut connections (default none)",
    )  # fmt: skip
    p.add_argument("--no-kill", action="store_true", help="do not kill the daemon half way")
    return p


def main(argv: list[str] | None = None) -> int:
    """``copyd demo``; exit 0 only when verified, 130 when stopped before there was anything to verify."""
    arguments = parser().parse_args(argv)
    if arguments.followers < 1 or arguments.seconds <= 0 or arguments.connections < 1:
        print("copyd demo: --followers, --seconds and --connections must be positive", file=sys.stderr)
        return 2
    options = Options(
        arguments.followers, arguments.seconds, arguments.seed, arguments.json, arguments.keep, arguments.connections,
        not arguments.no_kill, arguments.faults,
    )  # fmt: skip
    if options.keep is not None:
        directory = options.keep.resolve()
        if directory.exists() and any(directory.iterdir()):
            print(f"copyd demo: {directory} is not empty; --keep wants a new directory", file=sys.stderr)
            return 2
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    else:
        directory = Path(tempfile.mkdtemp(prefix="copyd-demo-"))
    view = make_view()
    try:
        result = asyncio.run(run_demo(options, directory, view))
    except (Stopped, KeyboardInterrupt, asyncio.CancelledError):
        view.close()
        print("copyd demo: stopped before there was anything to check", file=sys.stderr)
        return 130
    except (CopydError, aiohttp.ClientError, OSError) as error:
        view.close()
        print(f"copyd demo: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, CopydError) else 1
    else:
        view.close()
        if options.json is not None:
            options.json.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
        (directory / "result.json").write_bytes(msgspec.json.encode(result))
        summary_table(result)
        return 0 if result["verified"] else 1
    finally:
        if options.keep is None:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"kept in {directory}")


if __name__ == "__main__":
    sys.exit(main())
