"""``copyd bench recovery``: the real daemon is killed in mid fan-out; how long from the next process start until it is armed.

The journal is one a daemon would have left: made by the daemon's own start and import, then filled with answered leader
events by the engine through the journal, with checkpoints where the daemon makes them. The daemon runs against the
simulated exchange with its request weight lifted but counted: what a start asks of the venue is a figure of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from copyd._fast.columns import ReportBatch
from copyd.bench import world
from copyd.bench.conditions import conditions, file_system
from copyd.core.engine import Command, LeaderEquity, LeaderSync, Quotes, Reports, Started
from copyd.core.rows import NamedOrder, OrderState, ReportKind
from copyd.errors import WorldError
from copyd.inspect.rebuild import fold
from copyd.journal import Journal
from copyd.kinds import BUILD, kind_of, pack_checkpoint
from copyd.venues.binance_usdm.signing import signed_query
from copyd.venues.common.signing import Key

LEADER = world.LEADER
SYMBOL = world.SYMBOL
VENUE = "binance"
VENUE_WEIGHT = 2_400
E8 = 10**8
ACCOUNTS_PER_CALL = 1_000
#: Rows of one report record: what one socket read of a busy connection brings.
ROWS_PER_REPORT = 64
LEADER_LOTS = 100
POLL_S = 0.05  #: each question makes the daemon count its orders: not oftener
EXCLUDED = ("network between daemon and venue: both are on this machine", "the venue's own time to answer: it is simulated")


class Settings(msgspec.Struct, frozen=True):
    """The command line."""

    followers: int = 10_000
    orders: int = 1_000_000
    seed: int = 1
    connections: int = 4
    directory: Path | None = None
    rows_per_report: int = ROWS_PER_REPORT


class Child:
    """A process of ours with its output in a file; ended by its own id."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)

    def check(self) -> None:
        """Raise with the log's end when it is gone."""
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
            raise WorldError(f"{self.log.stem} ended with code {self.process.returncode}; its last words:\n{tail}")

    def cpu_s(self) -> float:
        """Processor time it has used: what a busy machine does not change."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2)

    def end(self, number: int = signal.SIGTERM, seconds: float = 60) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


def ask(url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, s: float = 60) -> Any:
    """One JSON exchange; ``WorldError`` for a refusal, ``OSError`` where nobody listens."""
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=s)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers or {})
        answer = connection.getresponse()
        raw = answer.read()
        if answer.status not in (200, 503):
            raise WorldError(f"{method} {path.partition('?')[0]}: {answer.status} {raw[:200]!r}")
        return json.loads(raw) if raw else {}
    finally:
        connection.close()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Bench:
    """One measurement."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self.directory = directory
        self.journal = directory / "journal"
        self.config = directory / "copyd.yaml"
        self.health = f"http://127.0.0.1:{free_port()}"
        self.exchange: Child | None = None
        self.daemon: Child | None = None
        self.addresses: dict[str, Any] = {}
        self.leader_key: Key
        self.checkpoint_every = 20_000

    # -- the world ---------------------------------------------------------------------------------------------------

    def start_exchange(self) -> None:
        """The exchange and everybody's accounts."""
        ready = self.directory / "exchange.json"
        self.exchange = Child(
            ["copyd.exchange.main", "--seed", str(self.settings.seed), "--ready-file", str(ready), "--quiet",
             "--lift", "request_weight"], self.directory / "exchange.log")
        until = time.monotonic() + 30
        while not ready.exists():
            self.exchange.check()
            if time.monotonic() > until:
                raise WorldError("the exchange does not answer after 30 s")
            time.sleep(0.02)
        self.addresses = json.loads(ready.read_bytes())
        control = self.addresses["control"]
        both = [{"name": LEADER, "balance": "10000000"}, {"name": "somebody", "balance": "10000000"}]
        made = ask(control, "POST", "/accounts", {"accounts": both})["accounts"]
        self.use_up_trade_ids(key_of(made.pop()))
        names = [f"f{n:05d}" for n in range(self.settings.followers)]
        for start in range(0, len(names), ACCOUNTS_PER_CALL):
            rows = [
                {"name": name, "balance": "100000", "leverage": 10, "margin_type": "ISOLATED"}
                for name in names[start : start + ACCOUNTS_PER_CALL]
            ]
            made += ask(control, "POST", "/accounts", {"accounts": rows})["accounts"]
        self.leader_key = key_of(made[0])
        secrets = os.open(self.directory / "credentials.jsonl", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(secrets, "w") as file:
            file.writelines(json.dumps({"name": m["name"], "key": m["api_key"], "secret": m["secret"]}) + "\n" for m in made)
        modes: list[dict[str, Any]] = [{"mode": "proportional"}, {"mode": "multiplier", "multiplier": "1.5"}]
        modes.append({"mode": "fixed_amount", "amount": "400"})
        with (self.directory / "followers.jsonl").open("w") as file:
            for at, name in enumerate(names):
                plan = {"follower": name, "leader": LEADER, "account": name, "allocation": str(200_000 + at % 1_000),
                        "leverage": 10, "leverage_max": 20, "max_position_bps": 1_000_000, "max_loss_per_trade_bps": 1_000_000}
                file.write(json.dumps(plan | modes[at % len(modes)]) + "\n")
        streams = self.addresses["streams"]
        self.config.write_text(yaml.safe_dump({
            "mode": "simulate", "site": {"id": world.SITE, "name": "bench"},
            "journal": {"path": str(self.journal), "map_size_mib": 16_384, "free_disk_min_mib": 64,
                        "checkpoint_every_records": self.checkpoint_every},
            "venues": [{
                "name": VENUE, "kind": "binance_usdm", "rest_url": self.addresses["rest"],
                "ws_api_url": self.addresses["ws_api"], "public_stream_url": f"{streams}/public",
                "market_stream_url": f"{streams}/market", "private_stream_url": f"{streams}/private",
                "order_connections": self.settings.connections, "request_weight_per_min": 100_000_000,
            }],
            "instruments": [{"symbol": SYMBOL, "venue": VENUE, "class": "majors"}],
            "leaders": [{"id": LEADER, "venue": VENUE, "credential": LEADER}],
            "credentials": [{"file": str(self.directory / "credentials.jsonl")}],
            "control": {"socket": str(self.directory / "control.sock"), "socket_mode": "0600"},
            "health": {"host": "127.0.0.1", "port": int(self.health.rpartition(":")[2])},
            "telemetry": {"log_format": "json", "log_level": "info"},
        }, sort_keys=False))

    def stats(self) -> dict[str, Any]:
        """The exchange's counters."""
        answer: dict[str, Any] = ask(self.addresses["control"], "GET", "/truth/stats")
        return answer

    def order(self, key: Key, side: str, lots: int) -> None:
        """Somebody trades at market."""
        params = {"symbol": SYMBOL, "side": side, "type": "MARKET", "quantity": f"{lots / 1000:.3f}"}
        query = signed_query(key, params, time.time_ns() // 10**6, 5_000)
        ask(self.addresses["rest"], "POST", f"/fapi/v1/order?{query}", headers={"X-MBX-APIKEY": key.api_key.decode()})

    def use_up_trade_ids(self, key: Key) -> None:
        """The made journal's executions take the ids from 1 on: the exchange's next ones must lie behind them."""
        wanted = 2 * self.settings.orders // self.settings.followers + 20
        turn = 0
        while self.stats()["trades"] < wanted:
            for _ in range(10):
                turn += 1
                self.order(key, "BUY" if turn % 2 else "SELL", 1)

    # -- the daemon --------------------------------------------------------------------------------------------------

    def start_daemon(self) -> float:
        """A new process; the monotonic time of its start."""
        at = time.monotonic()
        self.daemon = Child(["copyd.cli", "run", "-c", str(self.config)], self.directory / "daemon.log")
        return at

    def ready(self) -> tuple[bool, list[str]] | None:
        """Whether it is armed, and why not; None while its port is closed."""
        try:
            answer = ask(self.health, "GET", "/readyz", s=10)
        except OSError:
            return None
        reasons = [str(reason) for reason in answer.get("reasons", [])]
        return not reasons, reasons

    def wait_ready(self, seconds: float) -> dict[str, float]:
        """Seconds from now until each reason of not being ready was last heard, and ``armed``."""
        assert self.daemon is not None
        began = time.monotonic()
        seen: dict[str, float] = {}
        while True:
            self.daemon.check()
            answer, now = self.ready(), time.monotonic() - began
            if answer is None:
                seen["process"] = now
            else:
                if answer[0]:
                    return seen | {"armed": now, "cpu": self.daemon.cpu_s()}
                for reason in answer[1]:
                    seen[kind_of_reason(reason)] = now
            if now > seconds:
                raise WorldError(f"the daemon is not ready after {seconds:.0f} s: {'; '.join(answer[1][:3]) if answer else ''}")
            time.sleep(POLL_S)

    def import_followers(self) -> None:
        """As an operator does."""
        done = subprocess.run(
            [sys.executable, "-m", "copyd.cli", "ctl", "import", str(self.directory / "followers.jsonl"),
             "--socket", str(self.directory / "control.sock")], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise WorldError(f"the import failed: {done.stdout[-300:]}{done.stderr[-300:]}")

    # -- the journal -------------------------------------------------------------------------------------------------

    def fill_journal(self) -> dict[str, Any]:
        """Answered leader events until the journal holds as many orders as wanted; everybody ends flat."""
        began = time.monotonic()
        orders = records = checkpoints = events = 0
        with Journal.open(self.journal, site=world.SITE, map_size=16 << 30, durability="process") as journal:
            engine = fold(journal.reader)
            now = time.time_ns() - 3600 * world.S_NS
            since_checkpoint = 0

            def offer(value: Any) -> bytes:
                nonlocal since_checkpoint, checkpoints, records
                outputs = engine.step(now, value)
                assert outputs is not None
                journal.append(kind_of(value), now, outputs.payload())
                records += 1
                since_checkpoint += 1
                if since_checkpoint >= self.checkpoint_every and value.__class__ is not Command:
                    since_checkpoint = 0
                    offer(Command("retire", {"before_seq": max(0, engine.names.seq - 2 * self.checkpoint_every)}))
                    journal.checkpoint(engine.names.seq, [pack_checkpoint(engine)])
                    journal.flush(60)
                    checkpoints += 1
                return outputs.named

            offer(Started(journal.epoch, world.SITE, journal.site_key, BUILD))
            offer(LeaderEquity(0, 10_000_000 * E8, now))
            offer(LeaderSync(0, True, []))
            while orders < self.settings.orders or events % 4:
                now += world.S_NS
                px = world.PX + events % 7
                if events % 10 == 0:
                    offer(LeaderEquity(0, 10_000_000 * E8, now))
                offer(Quotes([(0, px - 1, px + 1, px, now)]))
                side = (1, -1, -1, 1)[events % 4]
                trade = world.LeaderTrade(events + 1, side, LEADER_LOTS, px)
                named = offer(world.leader_fill(trade, now))
                events += 1
                orders += len(named) // NamedOrder.LAYOUT.size
                for batch in answers(named, now + 5_000_000, self.settings.rows_per_report):
                    offer(Reports(batch))
                if not named:
                    raise WorldError("the engine decides nothing on the made journal")
            journal.flush(60)
            unfinished = engine.kernel.census()[0]
        if unfinished:
            raise WorldError(f"{unfinished} orders of the made journal have not ended")
        return {
            "orders": orders, "leader_events": events, "records": records, "checkpoints": checkpoints,
            "records_behind_checkpoint": since_checkpoint if checkpoints else records,
            "seconds": round(time.monotonic() - began, 1), "bytes": (self.journal / "data.mdb").stat().st_blocks * 512,
        }

    # -- the measurement ---------------------------------------------------------------------------------------------

    def kill_mid_fanout(self) -> dict[str, Any]:
        """The leader trades; the daemon dies when a part of the orders has arrived."""
        assert self.daemon is not None
        before = self.stats()["orders_accepted"]
        self.order(self.leader_key, "BUY", LEADER_LOTS)
        until = time.monotonic() + 10
        seen = 0
        while seen < self.settings.followers // 5 and time.monotonic() < until:
            seen = self.stats()["orders_accepted"] - before - 1
        self.daemon.end(signal.SIGKILL)
        time.sleep(0.5)
        return {"seen": seen, "arrived": self.stats()["orders_accepted"] - before - 1}

    def started_line(self) -> dict[str, Any]:
        """The daemon's own words about its latest start."""
        found: dict[str, Any] = {}
        for line in (self.directory / "daemon.log").read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if row.get("event") == "started":
                    found = row
        return found

    def duplicates(self) -> int:
        """Client order ids the exchange accepted more than once."""
        seen: set[str] = set()
        twice, after = 0, -1
        while True:
            rows = self.page("/truth/orders", after)
            for row in rows:
                twice += row["clientOrderId"] in seen
                seen.add(row["clientOrderId"])
            if not rows:
                return twice
            after = rows[-1]["seq"]

    def page(self, path: str, after: int) -> list[dict[str, Any]]:
        """Rows of a truth behind ``after``."""
        connection = http.client.HTTPConnection(self.addresses["control"].removeprefix("http://"), timeout=60)
        try:
            connection.request("GET", f"{path}?after={after}&limit=50000")
            return [json.loads(line) for line in connection.getresponse().read().splitlines()]
        finally:
            connection.close()

    def run(self) -> dict[str, Any]:
        """Everything in order; the report."""
        began = time.monotonic()
        self.start_exchange()
        self.start_daemon()
        self.wait_ready(60)
        self.import_followers()
        self.wait_ready(120 + self.settings.followers * 0.02)
        assert self.daemon is not None
        self.daemon.end()
        say(f"{self.settings.followers} followers made ready in {time.monotonic() - began:.1f} s")
        made = self.fill_journal()
        say(f"{made['orders']} orders in {made['records']} records journaled in {made['seconds']} s")
        self.start_daemon()
        first = self.wait_ready(300)
        say(f"armed on that journal after {first['armed']:.2f} s; now SIGKILL in mid fan-out")
        killed = self.kill_mid_fanout()
        weight = self.stats()["weight_charged"]
        self.start_daemon()
        last_heard = self.wait_ready(300)
        used = self.stats()["weight_charged"] - weight
        line = self.started_line()
        time.sleep(1.0)
        twice = self.duplicates()
        self.daemon.end()
        return {
            "bench": "recovery", "followers": self.settings.followers, "journal": made, "killed": killed,
            "in_doubt": line.get("in_doubt"), "armed_s": round(last_heard["armed"], 2),
            "armed_without_kill_s": round(first["armed"], 2), "daemon_cpu_s": last_heard.pop("cpu"),
            "last_heard_s": {name: round(at, 2) for name, at in last_heard.items()},
            "daemon_ms": {name.removesuffix("_ms"): value for name, value in line.items() if name.endswith("_ms")},
            "weight": used, "venue_budget_s": round(used * 60 / VENUE_WEIGHT, 1), "accepted_twice": twice,
            "checked": twice == 0 and bool(line),
            "conditions": conditions(EXCLUDED, journal_file_system=file_system(self.journal)),
        }

    def close(self) -> None:
        """End what was started."""
        for child in (self.daemon, self.exchange):
            if child is not None:
                child.end(seconds=20)


def key_of(made: dict[str, str]) -> Key:
    """The key of an account as the exchange handed it out."""
    return Key(made["api_key"].encode(), made["secret"].encode())


def say(text: str) -> None:
    """A line about how far it is."""
    print(text, file=sys.stderr, flush=True)


def kind_of_reason(reason: str) -> str:
    """A reason without its figures: one name per kind."""
    for word, name in (("starting", "starting"), ("activated", "activation"), ("activation", "activation"), ("doubt", "doubts"),
                       ("sync", "leader"), ("quote", "quotes"), ("connection", "connections")):
        if word in reason:
            return name
    return re.sub(r"[0-9.]+", "n", reason)


def answers(named: bytes, now: int, rows: int) -> Iterator[bytes]:
    """The venue's answers to these orders, all filled, in records of ``rows``."""
    batch = ReportBatch()
    for at, order in enumerate(NamedOrder.LAYOUT.iter_unpack(named)):
        cid, qty, px = order[0], order[1], order[2]
        batch.append(ReportKind.REPLY, OrderState.FILLED, cid, qty, qty * (px or world.PX) * 10_000, venue_order_id=at + 1,
                     ts_event=now)
        if batch.count == rows:
            yield batch.to_bytes()
            batch = ReportBatch()
    if batch.count:
        yield batch.to_bytes()


def run(settings: Settings) -> dict[str, Any]:
    """The report."""
    directory = Path(tempfile.mkdtemp(prefix="copyd-bench-", dir=settings.directory))
    bench = Bench(settings, directory)
    try:
        return bench.run()
    finally:
        bench.close()
        shutil.rmtree(directory, ignore_errors=True)


def table(report: dict[str, Any]) -> str:
    """The report for a person."""
    made, facts = report["journal"], report["conditions"]
    rows = [
        f"recovery with {report['followers']} followers, {made['orders']} orders in {made['records']} records, "
        f"{made['records_behind_checkpoint']} of them behind the newest of {made['checkpoints']} checkpoints of trading "
        f"({made['bytes'] / 2**20:.0f} MiB, made in {made['seconds']} s)",
        f"SIGKILL in mid fan-out: {report['killed']['arrived']} orders had left, {report['in_doubt']} were in doubt at the start",
        "",
    ]
    rows += [f"{'daemon: ' + name:<34}{value:>10} ms" for name, value in report["daemon_ms"].items()]
    heard = [(name, at) for name, at in report["last_heard_s"].items() if name != "armed"]
    rows += [f"{'last heard: ' + name:<34}{at * 1000:>10.0f} ms" for name, at in heard]
    rows += [
        f"{'process start to armed':<34}{report['armed_s'] * 1000:>10.0f} ms",
        f"{'processor time of it':<34}{report['daemon_cpu_s'] * 1000:>10.0f} ms",
        f"{'the same without a kill':<34}{report['armed_without_kill_s'] * 1000:>10.0f} ms",
        "",
        f"{'asked of the venue':<34}{report['weight']:>10} request weight",
        f"{'the venue gives that in':<34}{report['venue_budget_s']:>10.0f} s  at {VENUE_WEIGHT} a minute and address",
        "",
        "checked: no order id was accepted twice" if report["checked"] else "NOT checked: an order id was accepted twice",
        "", "conditions: " + ", ".join(f"{k} {v}" for k, v in facts.items() if k != "excluded" and v is not None),
        *(f"excluded: {text}" for text in facts["excluded"]),
    ]
    return "\n".join(rows)
