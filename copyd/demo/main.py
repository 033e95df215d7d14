"""``copyd demo``: the main job on this machine, with the daemon killed half way, and the proof at the end.

1. the exchange starts, accounts are opened, the leader already holds something
2. the daemon starts, the followers are imported, every leg is made ready
3. the leader trades by a seeded script; half way the daemon is killed with SIGKILL in mid fan-out, the leader trades on
   while it is down, and it is started again
4. a losing stretch: the market falls while he adds, loss limits act by themselves; it comes back, and some followers leave
5. when everything is quiet the daemon is stopped, its decisions are exported, the exchange's books are read
6. the verifier compares books, plans and decisions
7. fees are settled by ``copyd settle``, killed on the way; statements are held against the wallets. Exit 0 only when all agree

With ``--venues``: an exchange of each dialect, a leader on each, all of them trading at once, followers of every leader on every
venue, one daemon. 6 is done for each leader and venue; 7 is left out, for a transfer stays on one exchange.
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
from itertools import zip_longest
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from copyd.errors import CopydError, WorldError

from .across import MAJOR_ASSETS, Group, groups_of, together, verify_all
from .chaos import LEVELS, Cutter, chaos
from .daemon import LEADER, PLATFORM, SITE, VENUE, Daemon, Seat, configuration, free_port, percentiles, write_secret_file
from .exchange import AccountMade
from .history import SECOND, Command, Outage, Plan, Truth, VerifyConfig, read_claims, to_e8
from .places import ACCOUNTS_PER_CALL, Place, spread, venues_named
from .settling import STEPS, Books, Office, Settled, judge, read_statements
from .verifier import Verdict, verify
from .view import Board, View, make_view, summary_table
from .workload import LEADER_LEVERAGE, Script, Step, follower_plans, leaving, plan_lines, starting_balance

#: By so much the market comes to a resting order that it has left alone.
REST_BPS = 5

MAJORS = ["BTCUSDT", "ETHUSDT"]
STORY_SEEDS = 1_000  #: between the stories of two leaders of one run


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
    venues: list[str] = []  #: none: one exchange, which speaks Binance's dialect


class Demo:
    """One run."""

    def __init__(self, options: Options, directory: Path, view: View, session: aiohttp.ClientSession) -> None:
        self.options = options
        self.directory = directory
        self.view = view
        self.session = session
        self.chaos = chaos(options.faults, options.seed, "f", LEADER, f"{SITE:04x}")
        self.places = self.make_places()
        self.cutters: list[asyncio.Task[None]] = []
        self.daemon = Daemon(directory, free_port(), session)
        self.plans: list[Plan] = []
        self.groups: list[Group] = []
        self.verdicts: dict[tuple[str, str], Verdict] = {}
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
        self.commands: list[Command] = []
        self.held_ts = 0
        self.held: dict[str, dict[tuple[str, str, str], int]] = {}  #: by venue
        self.ended_at = 0.0
        self.settled = Settled()

    @property
    def disturbed(self) -> bool:
        """Whether things go wrong on purpose."""
        return self.options.faults != "none"

    @property
    def alone(self) -> bool:
        """Whether there is one exchange only: fees are settled on it, and everything is verified at once."""
        return not self.options.venues

    def make_places(self) -> list[Place]:
        """The exchanges of the run, not yet started."""
        o = self.options
        if self.alone:
            return [Place(VENUE, "binance_usdm", LEADER, self.directory, self.session, o.followers, True)]
        each = -(-o.followers // len(o.venues))
        return [Place(kind, kind, f"{LEADER}-{kind}", self.directory, self.session, each, False) for kind in o.venues]

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
        """Followers' orders the exchanges have accepted so far."""
        return sum([await place.orders_accepted() for place in self.places])

    # -- 1. the exchanges --------------------------------------------------------------------------------------

    async def start_exchanges(self) -> None:
        """Each in its own process, all with one seed: their markets walk alike, as those of real venues do."""
        for place in self.places:
            keep = None
            if self.options.keep is not None:
                keep = self.directory / ("books" if self.alone else f"books-{place.name}")
                keep.mkdir()
            await place.start(self.options.seed, self.disturbed, keep)
            self.checkpoint()

    def say_what_is_lifted(self) -> None:
        """Which limits no exchange enforces, before anything happens; of one exchange alone the result says it."""
        for place in self.places:
            steps = ", ".join(f"{i.pair[0]} tick {i.tick} lot {i.lot}" for i in place.control.instruments.values())
            weight = f", request weight {place.weight} a minute" if self.disturbed and place.kind == "binance_usdm" else ""
            lifted = ", ".join(place.lift) or "none"
            self.view.say(f"{place.name}: {len(place.plans)} followers; lifted: {lifted}{weight}; {steps}")

    async def open_accounts(self) -> list[AccountMade]:
        """Accounts of the leaders and of every follower."""
        made = [await place.open_leader() for place in self.places]
        if self.alone:
            await self.places[0].control.make_accounts([{"name": PLATFORM, "balance": "0"}])
        done = 0
        for place in self.places:
            for start in range(0, len(place.plans), ACCOUNTS_PER_CALL):
                new = await place.open_followers(self.options.seed, start)
                made += new
                done += len(new)
                self.view.progress("accounts opened", done, len(self.plans))
                self.checkpoint()
        return made

    # -- 2. the daemon -----------------------------------------------------------------------------------------

    def seat(self, place: Place) -> Seat:
        """A place as the daemon is told of it."""
        lifted = bool(place.lift)
        instruments = place.control.instruments
        majors = MAJORS if self.alone else [name for name, one in instruments.items() if one.pair[0] in MAJOR_ASSETS]
        binance = place.kind == "binance_usdm"
        weight = (100_000_000 if lifted else place.weight * 3 // 4 if self.disturbed else 0) if binance else 0
        return Seat(
            place.name, place.kind, place.addresses, list(instruments), majors, place.leader_name, weight, lifted and not binance
        )

    async def start_daemon(self, made: list[AccountMade]) -> None:
        """Files, process, import, readiness."""
        write_secret_file(
            self.directory / "credentials.jsonl",
            [
                {"name": account.name, "key": account.api_key, "secret": account.secret}
                | ({"passphrase": account.passphrase} if account.passphrase else {})
                for account in made
            ],
        )
        self.daemon.write_config(
            configuration(
                self.directory, [self.seat(place) for place in self.places], int(self.daemon.health.rpartition(":")[2]),
                self.options.connections, self.chaos.terms if self.disturbed else None, fees=self.alone,
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
        legs = sum(len(place.plans) * len(place.control.instruments) for place in self.places)
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

    def describe(self, place: Place, step: Step) -> str:
        """A step as a trader would say it."""
        instrument = place.control.instruments[step.symbol]
        side = "buy" if step.side > 0 else "sell"
        where = "" if self.alone else f"{place.name}: "
        return f"{where}{step.label}: {side} {instrument.qty_text(step.lots)} {step.symbol}"

    async def trade(self, place: Place, step: Step) -> None:
        """One leader order; a resting one is waited for. Or the market moves, on every venue."""
        if step.move_bps:
            pair = place.control.instruments[step.symbol].pair
            for other in self.places:
                for symbol, instrument in other.control.instruments.items():
                    if instrument.pair == pair:
                        await other.control.move_market(symbol, step.move_bps)
            return
        self.view.trade(self.describe(place, step))
        self.board.leader_orders += 1
        instrument = place.control.instruments[step.symbol]
        number = await place.client.place(step, instrument)
        if step.kind == "REST":
            await self.filled(place, step, number)

    async def filled(self, place: Place, step: Step, number: str) -> None:
        """Wait until a resting order is filled: the story goes on from there. A market that stays away is led to it."""
        for _ in range(10):
            if await place.client.wait_filled(step.symbol, number, 5):
                return
            await place.control.move_market(step.symbol, -step.side * REST_BPS)

    def moments(self, phase: str) -> list[list[tuple[Place, Step]]]:
        """The leaders' steps of a phase, those of one moment together: each leader's first, each one's second, and so on. The
        market moves by the first leader's story alone."""
        rows = zip_longest(*(place.script.phase(phase) for place in self.places))
        found = [
            [
                (place, step)
                for place, step in zip(self.places, row, strict=True)
                if step is not None and (not step.move_bps or place is self.places[0])
            ]
            for row in rows
        ]
        return [moment for moment in found if moment]

    async def trade_at_once(self, moment: list[tuple[Place, Step]]) -> None:
        """The steps of one moment."""
        await asyncio.gather(*(self.trade(place, step) for place, step in moment))

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

    async def run_steps(self, moments: list[list[tuple[Place, Step]]], start: float, shift_s: float = 0.0) -> None:
        """Steps at their time; an order that is no burst waits for the followers of the one before."""
        for moment in moments:
            self.checkpoint()
            steps = [step for _, step in moment]
            await self.pause(start + shift_s + max(step.at_ms for step in steps) / 1000 - time.monotonic())
            before = await self.orders_accepted()
            await self.trade_at_once(moment)
            if not all(step.burst for step in steps):
                came = await self.followed(before)
                if not any("partial close" in step.label for step in steps):
                    self.deltas[steps[0].symbol] = max(self.deltas.get(steps[0].symbol, 0), came)

    async def kill_mid_fanout(self, moment: list[tuple[Place, Step]]) -> None:
        """The leader trades; as soon as some of the followers' orders are there, and not all, the daemon dies."""
        usual = max(2, self.deltas.get(moment[0][1].symbol, self.options.followers // 2))
        threshold = max(1, min(int(usual * 0.3), usual - 1))
        before = await self.orders_accepted()
        self.last_life = await self.daemon.status() or self.last_life
        order = asyncio.create_task(self.trade_at_once(moment))
        placed = sum(place.client.orders for place in self.places) + len(moment)
        arrived = 0
        until = time.monotonic() + 3
        while time.monotonic() < until:
            accepted = sum([int((await place.control.stats())["orders_accepted"]) for place in self.places])
            arrived = accepted - placed - before
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
        words = "; ".join(self.describe(place, step) for place, step in moment)
        self.kill_report = {"seen": arrived, "arrived": total, "usual": usual, "step": words}
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
            for place in self.places:
                plan = chaos(self.options.faults, self.options.seed, "f", place.leader_name, f"{SITE:04x}", place.kind)
                await place.control.add_faults(plan.rules)
                cutter = Cutter(place.control, plan, self.options.seed, place.leader_name)
                self.cutters.append(asyncio.create_task(cutter.run()))
            self.view.say(f"faults {self.options.faults}: lost replies, errors with the order live or dead, late and lost events")

    async def calm(self) -> None:
        """Nothing goes wrong on purpose any more."""
        if self.cutters:
            cutters, self.cutters = self.cutters, []
            made = 0
            for cutter in cutters:
                cutter.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await cutter
            for place in self.places:
                await place.control.drop_faults()
                made += int((await place.control.stats())["faults_made"])
            self.view.say(f"faults end: {made} were made")

    async def run_script(self) -> None:
        """The leader's whole run, with the kill between its two halves."""
        start = time.monotonic()
        self.board.seconds_left = self.options.seconds
        await self.run_steps(self.moments("first"), start)
        kill, down = self.moments("kill"), self.moments("down")
        shift = 0.0
        if self.options.kill:
            for moment in kill:
                await self.pause(start + max(step.at_ms for _, step in moment) / 1000 - time.monotonic())
                await self.kill_mid_fanout(moment)
            for moment in down:
                await self.trade_at_once(moment)
                await asyncio.sleep(0.2)
            await self.restart()
            second = self.moments("second")
            if second:
                shift = max(0.0, time.monotonic() - (start + second[0][0][1].at_ms / 1000))
        else:
            await self.run_steps(kill + down, start)
        await self.run_steps(self.moments("second"), start, shift)

    async def lose(self) -> None:
        """The losing stretch, and followers who leave before the leader's last close."""
        self.view.say("a losing stretch: the leader goes long, and the market falls")
        start = time.monotonic()
        await self.run_steps(self.moments("losing"), start)
        names = leaving(self.plans)
        self.view.say(f"{len(names)} followers leave: copyd ctl plan stop NAME")
        for name in names:
            sent = time.time_ns()
            await self.daemon.stop_plan(name)
            self.commands.append(Command("stop", sent, time.time_ns(), name))
            self.checkpoint()
        await self.run_steps(self.moments("leaving"), time.monotonic())

    async def look_midway(self) -> None:
        """All is quiet and legs are open: what everybody holds, for the verifier."""
        await self.settle(60 + (30 if self.disturbed else 0))
        self.held_ts = time.time_ns()
        self.held = {place.name: await place.control.positions_now(place.leader_name) for place in self.places}

    async def watch(self) -> None:
        """Keep the board and the quote log up to date."""
        last_orders, last_time = 0, time.monotonic()
        began = last_time
        while True:
            with contextlib.suppress(aiohttp.ClientError, CopydError, OSError):
                for place in self.places:
                    await place.control.follow_quotes()
                by_venue = {place.name: await place.orders_accepted() for place in self.places}
                orders = sum(by_venue.values())
                if not self.alone:
                    self.board.venues = by_venue
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
        for place in self.places:
            for symbol in place.control.instruments:
                with contextlib.suppress(CopydError):
                    await place.client.cancel_all(symbol)
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

    async def collect(self) -> tuple[list[Truth], Verdict, tuple[int, str]]:
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
        truths = {place.name: await self.books_of(place) for place in self.places}
        if self.alone and not self.interrupted:
            await self.settle_fees(truths[VENUE])
        for place in self.places:
            await place.exchange.end()
        self.view.say("copyd verify: every recorded decision computed again from the journal")
        journal_check = await self.daemon.verify_journal()
        self.view.say("comparing the exchange's books with what the rules give")
        config = self.verify_config()
        self.keep_settings(config, truths)
        if self.alone:
            verdict = await asyncio.to_thread(verify, truths[VENUE], self.plans, read_claims(claims), config)
        else:
            self.verdicts = await asyncio.to_thread(
                verify_all, self.groups, truths, read_claims(claims), config, MAJOR_ASSETS
            )
            verdict = together(self.verdicts)
        return list(truths.values()), verdict, journal_check

    async def books_of(self, place: Place) -> Truth:
        """What one exchange's books say, with what was known of it before."""
        truth = await place.truth()
        truth.balances = {plan.account: to_e8(starting_balance(plan, self.options.seed)) for plan in place.plans}
        truth.held_ts, truth.held = self.held_ts, self.held.get(place.name, {})
        stats = await place.control.stats()
        self.maker_flow_hash = self.maker_flow_hash or str(stats.get("maker_flow_hash", ""))
        place.limits_lifted = list(stats.get("limits_lifted", []))
        self.memory["exchange"] += place.exchange.memory_bytes()
        return truth

    def keep_settings(self, config: VerifyConfig, truths: dict[str, Truth]) -> None:
        """For ``copyd.demo.recheck``."""
        for place in self.places:
            truth = truths[place.name]
            name = "verify.json" if self.alone else f"verify-{place.name}.json"
            held = [[*key, lots] for key, lots in truth.held.items()]
            kept = {"config": config, "balances": truth.balances, "held_ts": truth.held_ts, "held": held}
            (self.directory / name).write_bytes(msgspec.json.encode(kept | ({} if self.alone else {"leader": place.leader_name})))

    async def settle_fees(self, truth: Truth) -> None:
        """Fees of those who have left, paid at the exchange; killed on the way, and held against the wallets."""
        self.view.say("copyd settle: fees of the followers who left, killed after every step that shows")
        people = {LEADER, PLATFORM, *(plan.account for plan in self.plans)}  # the makers trade on meanwhile
        control = self.places[0].control
        before = await control.balances(people)
        office = Office(self.directory, self.daemon, control)
        await office.run(self.ended_at)
        books = Books(
            before, await control.balances(people), await control.transfers(), truth.balances,
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
            leader_leverage=dict.fromkeys(self.places[0].control.instruments, LEADER_LEVERAGE),
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
        names = "" if self.alone else f"s ({', '.join(o.venues)})"
        self.view.say(f"starting the simulated exchange{names}, seed {o.seed}")
        await self.start_exchanges()
        for n, place in enumerate(self.places):
            place.write_script(o.seconds, o.seed + n * STORY_SEEDS)
        self.board.leader_orders_total = sum(len(place.script.steps) for place in self.places)
        self.make_plans()
        made = await self.open_accounts()
        for place in self.places:
            for symbol in place.control.instruments:
                await place.client.set_leverage(symbol, LEADER_LEVERAGE)
        for moment in self.moments("before"):
            await self.trade_at_once(moment)
        self.plans_since = time.time_ns()
        await self.start_daemon(made)
        self.setup_s = time.monotonic() - began
        self.ready_since = time.time_ns()
        who = "the leader trades" if self.alone else f"{len(self.places)} leaders trade at once"
        self.view.say(f"ready after {self.setup_s:.1f} s; {who} for {o.seconds:.0f} s")
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
        truths, verdict, journal_check = await self.collect()
        return self.result(truths, verdict, journal_check)

    def make_plans(self) -> None:
        """Who follows whom, where; the plan file."""
        first = self.places[0]
        symbols = list(first.control.instruments)
        self.plans = follower_plans(self.options.followers, symbols, self.options.seed, LEADER)
        if not self.alone:
            self.plans = spread(self.plans, self.places)
            self.groups = groups_of(self.plans, {place.leader_name: place.name for place in self.places})
        for place in self.places:
            place.plans = [plan for plan in self.plans if self.alone or plan.venue == place.name]
        if not self.alone:
            self.say_what_is_lifted()
        (self.directory / "followers.jsonl").write_bytes(plan_lines(self.plans))

    def result(self, truths: list[Truth], verdict: Verdict, journal_check: tuple[int, str]) -> dict[str, Any]:
        """The figures as written to the JSON file."""
        o = self.options
        problems = list(verdict.problems)
        code, words = journal_check
        if code:
            problems.insert(0, f"copyd verify ended with code {code}: {words.strip().splitlines()[-1] if words.strip() else ''}")
        problems += [f"settlement: {text}" for text in self.settled.problems[:20]]
        seconds = Counter(order.ts // SECOND for truth in truths for order in truth.orders)
        first, last = fanout_at_exchange(truths[0]) if self.alone else ({}, {})
        lifted = self.places[0].limits_lifted
        if not self.alone:
            lifted = [f"{place.name}: {' and '.join(place.lift) or 'none'}" for place in self.places]
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
            "limits_lifted": lifted,
            "weight_per_minute": self.places[0].weight,
            "faults": o.faults,
            "faults_made": dict(Counter(fault.action for truth in truths for fault in truth.faults).most_common()),
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
            "leader_orders_hash": script_hash([place.script for place in self.places]),
            "maker_flow_hash": self.maker_flow_hash,
            **({} if self.alone else {"venues": [self.venue_result(place) for place in self.places]}),
            "conditions": {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()},
        }

    def venue_result(self, place: Place) -> dict[str, Any]:
        """One venue's figures: its leader, and those who follow there, whomever they follow."""
        here = [verdict for (_, venue), verdict in self.verdicts.items() if venue == place.name]
        names = ("followers", "decisions", "orders", "fills", "duplicates", "omissions", "out_of_sync", "legs_open")
        lifted = place.limits_lifted
        pairs = {leader: verdict.verified for (leader, venue), verdict in self.verdicts.items() if venue == place.name}
        return {
            "venue": place.name, "leader": place.leader_name, "leader_orders": place.client.orders, "limits_lifted": lifted,
            **{name: sum(getattr(verdict, name) for verdict in here) for name in names}, "verified": pairs,
        }  # fmt: skip

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


def script_hash(scripts: list[Script]) -> str:
    """One short name for the leaders' orders: the same seed gives the same."""
    return hashlib.sha256(b"".join(msgspec.json.encode(script) for script in scripts)).hexdigest()[:16]


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
            for place in demo.places:
                await place.exchange.end(5)


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
    p.add_argument(
        "--venues", default="", metavar="LIST",
        help="one exchange, one leader and a share of the followers on each of these (all, or binance_usdm,okx,bybit,bitget); "
        "every leader has followers on every venue (default: one exchange)",
    )  # fmt: skip
    p.add_argument("--no-kill", action="store_true", help="do not kill the daemon half way")
    return p


def main(argv: list[str] | None = None) -> int:
    """``copyd demo``; exit 0 only when verified, 130 when stopped before there was anything to verify."""
    arguments = parser().parse_args(argv)
    if arguments.followers < 1 or arguments.seconds <= 0 or arguments.connections < 1:
        print("copyd demo: --followers, --seconds and --connections must be positive", file=sys.stderr)
        return 2
    try:
        venues = venues_named(arguments.venues) if arguments.venues else []
    except ValueError as error:
        print(f"copyd demo: {error}", file=sys.stderr)
        return 2
    if arguments.followers < len(venues) ** 2:
        print(f"copyd demo: --followers must be {len(venues) ** 2} at least, one per leader and venue", file=sys.stderr)
        return 2
    options = Options(
        arguments.followers, arguments.seconds, arguments.seed, arguments.json, arguments.keep, arguments.connections,
        not arguments.no_kill, arguments.faults, venues,
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
