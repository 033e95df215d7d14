"""Drives the real programs on loopback: `copyd exchange`, `copyd run`, a leader who trades.

Everything a test reads about orders and positions comes from the exchange's own books (its control port), never from the
daemon. ``Stage`` owns the processes of one test and ends them by process id; when a test fails, the folder with every log
stays and its name is printed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import yaml

from copyd.cli import main
from copyd.control.client import ControlClient
from copyd.errors import CopydError
from tests.exchange.wire_helpers import ROOT, control

VENUE = "sim"
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
Q32 = 1 << 32
#: The fence after which "not found" counts as evidence: recvWindow + these terms; short, so that tests are.
RECV_WINDOW_MS = 600
CONTRACT = {"engine_delay_ms": 100, "read_lag_ms": 100, "guard_ms": 100}


_casts = itertools.count(1)


def free_port() -> int:
    """A TCP port that was free a moment ago, and is none of those that the system gives to outgoing connections: of these it
    hands out thousands meanwhile."""
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", random.SystemRandom().randrange(12_000, 32_000)))
            return int(listener.getsockname()[1])


def wait_for(what: Callable[[], Any], seconds: float, text: str | Callable[[], str] = "") -> Any:
    """The first true answer of ``what``; AssertionError with ``text`` when there is none in time."""
    until = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:g} s: {text() if callable(text) else text}")
        time.sleep(0.02)


class Venue:
    """A running exchange: accounts, faults, truth."""

    def __init__(self, at: dict[str, Any]) -> None:
        self.at = at

    def tell(self, path: str, body: Any) -> Any:
        """POST to the control port."""
        return control(self.at, "POST", path, body)

    def ask(self, path: str) -> Any:
        """GET from the control port."""
        return control(self.at, "GET", path)

    def faults(self, *rules: dict[str, Any]) -> None:
        """Add rules."""
        self.tell("/faults", list(rules))

    def no_faults(self) -> None:
        """Remove every rule."""
        control(self.at, "DELETE", "/faults")

    def fault_hits(self) -> int:
        """Faults made so far by the rules in force."""
        return sum(rule["hits"] for rule in self.ask("/faults"))

    def cast(self, followers: int, balance: str = "5000") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A fresh leader and followers, with names no earlier test used."""
        prefix = f"t{next(_casts)}-{os.getpid() % 997}-"
        leader = self.tell(
            "/accounts", {"accounts": [{"name": f"{prefix}lead", "balance": "100000", "leverage": 10}]}
        )["accounts"][0]
        made = self.tell(
            "/accounts",
            {"n": followers, "prefix": f"{prefix}f", "balance": balance, "leverage": 10, "margin_type": "ISOLATED"},
        )["accounts"]
        return leader, made

    def lots(self, account: str, symbol: str = "BTCUSDT") -> int:
        """The account's position in lots, long positive."""
        return sum(p["lots"] for p in self.ask(f"/truth/positions?account={account}") if p["symbol"] == symbol)

    def all_lots(self, symbol: str = "BTCUSDT") -> dict[str, int]:
        """Positions of every account that ever traded, in one question; both position sides together."""
        lots: dict[str, int] = {}
        for p in self.ask("/truth/positions?limit=100000"):
            if p["symbol"] == symbol:
                lots[p["account"]] = lots.get(p["account"], 0) + p["lots"]
        return lots

    def all_orders(self) -> list[dict[str, Any]]:
        """Every order ever accepted, of every account."""
        rows: list[dict[str, Any]] = self.ask("/truth/orders?limit=100000")
        return rows

    def orders(self, account: str) -> list[dict[str, Any]]:
        """Every order of the account that was ever accepted."""
        rows: list[dict[str, Any]] = self.ask(f"/truth/orders?account={account}&limit=100000")
        return rows

    def rejects(self, account: str) -> list[dict[str, Any]]:
        """What the exchange refused this account."""
        return [row for row in self.ask("/truth/rejects?limit=100000") if row["account"] == account]


class Trader:
    """The leader's hands: plain signed REST, nothing of copyd in it."""

    def __init__(self, venue: Venue, account: dict[str, Any]) -> None:
        self.venue = venue
        self.account = account
        self.name = str(account["name"])

    def order(self, side: str, quantity: str, symbol: str = "BTCUSDT", **more: Any) -> dict[str, Any]:
        """A market order with its result."""
        fields = {
            "symbol": symbol, "side": side, "type": "MARKET", "quantity": quantity, "newOrderRespType": "RESULT",
            "timestamp": int(time.time() * 1000), **more,
        }
        text = urllib.parse.urlencode(fields)
        signature = hmac.new(self.account["secret"].encode(), text.encode(), hashlib.sha256).hexdigest()
        request = urllib.request.Request(
            f"{self.venue.at['rest']}/fapi/v1/order?{text}&signature={signature}", method="POST",
            headers={"X-MBX-APIKEY": self.account["api_key"]},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                result: dict[str, Any] = orjson.loads(answer.read())
                return result
        except urllib.error.HTTPError as error:
            raise AssertionError(f"the leader's order was refused: {error.read().decode()}") from None

    def buy(self, quantity: str, symbol: str = "BTCUSDT") -> dict[str, Any]:
        return self.order("BUY", quantity, symbol)

    def sell(self, quantity: str, symbol: str = "BTCUSDT") -> dict[str, Any]:
        return self.order("SELL", quantity, symbol)

    def flat(self, symbol: str = "BTCUSDT") -> None:
        """Close whatever is open."""
        lots = self.venue.lots(self.name, symbol)
        if lots:
            decimals = 2 if symbol == "SOLUSDT" else 3
            self.order("SELL" if lots > 0 else "BUY", f"{abs(lots) / 10**decimals:.{decimals}f}", symbol)


class Process:
    """A child with its log."""

    def __init__(self, arguments: Sequence[str | Path], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            self.child = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
            )
        self.pid = self.child.pid

    @property
    def running(self) -> bool:
        return self.child.poll() is None

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit code."""
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {self.pid} still runs after {seconds:g} s; its last words:\n{self.tail()}") from None

    def kill(self) -> None:
        if self.running:
            self.child.kill()
            self.child.wait(10)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        return self.text()[-3000:]


class Stage:
    """One daemon with its folder: configuration, credentials, journal, logs; several lives of the process."""

    def __init__(self, folder: Path, venue: Venue, followers: int = 0, balance: str = "5000") -> None:
        self.folder = folder
        self.venue = venue
        self.socket = folder / "c.sock"
        self.journal = folder / "journal"
        self.path = folder / "copyd.yaml"
        self.health_port = free_port()
        self.processes: list[Process] = []
        self.daemon: Process
        self.seen = 0
        leader, self.followers = venue.cast(followers, balance)
        self.leader = Trader(venue, leader)
        self.names = [str(row["name"]) for row in self.followers]
        self.config = self.base_config()
        self.write_config()
        self.write_credentials()
        self.client = ControlClient(self.socket, 10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.venue.no_faults()
        for process in self.processes:
            process.kill()
        if kind is not None:
            print(f"logs are kept in {self.folder}")
            for process in self.processes:
                print(f"--- {process.log.name}\n{process.tail()}")

    # -- files --------------------------------------------------------------------------------------------------------

    def base_config(self) -> dict[str, Any]:
        """The configuration; what is not named keeps its default."""
        at = self.venue.at
        return {
            "mode": "simulate",
            "site": {"id": 7, "name": "e2e"},
            "journal": {"path": str(self.journal), "map_size_mib": 256, "free_disk_min_mib": 16},
            "venues": [{
                "name": VENUE, "kind": "binance_usdm", "rest_url": at["rest"], "ws_api_url": at["ws_api"],
                "public_stream_url": f"{at['streams']}/public", "market_stream_url": f"{at['streams']}/market",
                "private_stream_url": f"{at['streams']}/private", "order_connections": 2, "connect_timeout_ms": 2000,
                "recv_window_ms": RECV_WINDOW_MS, "order_ack_timeout_ms": 700, "contract": dict(CONTRACT),
                "request_weight_per_min": 1_000_000, "orders_per_10s": 100_000, "orders_per_min": 600_000,
            }],
            "instruments": [{"symbol": symbol, "venue": VENUE, "class": "majors"} for symbol in SYMBOLS],
            "leaders": [{
                "id": "lead", "venue": VENUE, "credential": "lead", "equity_poll_interval_ms": 1000,
                "position_poll_interval_ms": 2000,
            }],
            "credentials": [{"file": str(self.folder / "credentials.jsonl")}],
            "runtime": {"drain_timeout_s": 5},
            "control": {"socket": str(self.socket), "socket_mode": "0600"},
            "health": {"host": "127.0.0.1", "port": self.health_port},
            "telemetry": {"log_format": "json", "log_level": "info"},
        }

    def write_config(self) -> None:
        self.path.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def credential_rows(self) -> list[dict[str, str]]:
        rows = [{"name": "lead", "key": self.leader.account["api_key"], "secret": self.leader.account["secret"]}]
        rows += [{"name": f["name"], "key": f["api_key"], "secret": f["secret"]} for f in self.followers]
        return rows

    def write_credentials(self, rows: list[dict[str, str]] | None = None) -> None:
        """Mode 0600 from the first byte."""
        path = self.folder / "credentials.jsonl"
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            for row in self.credential_rows() if rows is None else rows:
                file.write(orjson.dumps(row) + b"\n")

    def plan(self, index: int, **fields: Any) -> dict[str, Any]:
        """A plan row: proportional, no limit near."""
        return {
            "follower": self.names[index], "leader": "lead", "allocation": "1000", "mode": "proportional",
            "leverage": 10, "leverage_max": 20, "max_position_bps": 10000, "max_loss_per_trade_bps": 10000, **fields,
        }

    def write_plans(self, plans: Iterable[dict[str, Any]], name: str = "followers.jsonl") -> Path:
        path = self.folder / name
        path.write_bytes(b"".join(orjson.dumps(plan) + b"\n" for plan in plans))
        return path

    # -- life ---------------------------------------------------------------------------------------------------------

    def launch(self, *, env: dict[str, str] | None = None) -> Process:
        """Start the daemon and return at once."""
        self.seen = 0
        log = self.folder / f"daemon-{len(self.processes)}.log"
        self.daemon = Process(["-m", "copyd.cli", "run", "-c", str(self.path)], log, env)
        self.processes.append(self.daemon)
        return self.daemon

    def start(self, plans: Iterable[dict[str, Any]] = (), *, ready: bool = True) -> Process:
        """Start, import the plans, wait until it is ready."""
        daemon = self.launch()
        self.wait_up()
        plans = list(plans)
        if plans:
            done = self.ctl("import", self.write_plans(plans))
            assert done.returncode == 0, done.stderr
        if ready:
            self.wait_ready()
        return daemon

    def wait_up(self, seconds: float = 15) -> None:
        """Until the control socket answers."""
        def up() -> bool:
            assert self.daemon.running, f"the daemon ended with {self.daemon.child.returncode}:\n{self.daemon.tail()}"
            return bool(self.status())

        wait_for(up, seconds, "the control socket does not answer")

    def wait_ready(self, seconds: float = 15) -> None:
        def ready() -> bool:
            assert self.daemon.running, f"the daemon ended with {self.daemon.child.returncode}:\n{self.daemon.tail()}"
            return self.readyz()[0] == 200

        wait_for(ready, seconds, lambda: f"not ready: {self.readyz()}\n{self.daemon.tail()}")

    def ends(self, seconds: float = 15) -> tuple[int, str]:
        """Exit code and everything it said."""
        return self.daemon.wait(seconds), self.daemon.text()

    def stop(self) -> None:
        """SIGTERM; it must exit 0."""
        self.daemon.signal(signal.SIGTERM)
        assert self.daemon.wait(15) == 0, self.daemon.tail()

    def copyd(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """A `copyd` command, to its end; in this process, which saves a start each."""
        out, err = io.StringIO(), io.StringIO()
        arguments = list(map(str, words))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def ctl(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """`copyd ctl ...`, to its end."""
        return self.copyd("ctl", *words, "--socket", self.socket)

    # -- looking ------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The daemon's own figures, empty when it does not answer."""
        try:
            return self.client.status()
        except CopydError:
            return {}

    def http(self, path: str) -> tuple[int, bytes]:
        """A page of the health port; status 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}{path}", timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def readyz(self) -> tuple[int, list[str]]:
        code, body = self.http("/readyz")
        return code, list(orjson.loads(body)["reasons"]) if body else []

    def quiet(self, seconds: float = 10) -> dict[str, Any]:
        """Until no order is on its way and nothing is waiting; the status then."""
        def done() -> dict[str, Any]:
            status = self.status()
            return status if status and not status["orders_unfinished"] and not status["legs_waiting"] else {}

        result: dict[str, Any] = wait_for(done, seconds, lambda: f"{self.status()}\n{self.daemon.tail()}")
        return result

    def settled(self, more: int, seconds: float = 10) -> None:
        """Until the daemon has taken in at least ``more`` leader fills since the last call, and nothing is on its way."""
        want = self.seen + more
        self.events(want, seconds)
        time.sleep(0.1)
        self.quiet(seconds)
        self.seen = int(self.status()["leader_events"])

    def events(self, count: int, seconds: float = 5) -> None:
        """Until the daemon has taken in this many leader fills in this life."""
        wait_for(
            lambda: self.status().get("leader_events", 0) >= count, seconds, lambda: f"leader events: {self.status()}")

    def holds(self, expected: dict[str, int] | int, symbol: str = "BTCUSDT", seconds: float = 10) -> None:
        """Every follower's position at the exchange becomes this many lots, exactly."""
        want = expected if isinstance(expected, dict) else dict.fromkeys(self.names, expected)

        def off() -> dict[str, tuple[int, int]]:
            lots = self.venue.all_lots(symbol)
            return {name: (lots.get(name, 0), want[name]) for name in want if lots.get(name, 0) != want[name]}

        wait_for(lambda: not off(), seconds, lambda: f"{symbol} (holds, wants): {off()}\n{self.status()}\n{self.daemon.tail()}")

    def holds_truth(self, lots: int, symbol: str = "BTCUSDT") -> None:
        """Every follower holds this many lots now."""
        assert self.lots(symbol) == dict.fromkeys(self.names, lots)

    # -- laws that hold at the end of every test -----------------------------------------------------------------------

    def follower_orders(self) -> list[dict[str, Any]]:
        mine = set(self.names)
        return [order for order in self.venue.all_orders() if order["account"] in mine]

    def lots(self, symbol: str = "BTCUSDT") -> dict[str, int]:
        """What every follower holds."""
        lots = self.venue.all_lots(symbol)
        return {name: lots.get(name, 0) for name in self.names}

    def no_id_twice(self) -> None:
        """Semantics 32: one client order id is put on the wire once."""
        ids = [order["clientOrderId"] for order in self.follower_orders()]
        assert len(ids) == len(set(ids)), sorted(one for one in ids if ids.count(one) > 1)
        twice = [
            row for row in self.venue.ask("/truth/rejects?limit=100000")
            if row["account"] in set(self.names) and (row["code"] == -4116 or "uplicate" in row["msg"])
        ]
        assert not twice, twice

    def named_in_journal(self) -> set[str]:
        """Client order ids the journal names, from `copyd replay --decisions`."""
        path = self.folder / "decisions.jsonl"
        done = self.copyd("replay", self.journal, "--decisions", path)
        assert done.returncode == 0, done.stderr
        return {cid for line in path.read_bytes().splitlines() for cid in orjson.loads(line).get("orders", [])}

    def all_named(self) -> None:
        """Semantics 33: every order the exchange ever accepted is named in the committed journal."""
        accepted = {order["clientOrderId"] for order in self.follower_orders()}
        missing = accepted - self.named_in_journal()
        assert not missing, f"{len(missing)} orders are not in the journal: {sorted(missing)[:5]}"

    def verified(self) -> None:
        """`copyd verify` of the journal left behind."""
        done = self.copyd("verify", self.journal)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def proportional(*leader: int, allocation: int = 1000, equity: int = 100_000) -> int:
    """Follower lots when the leader's position goes through these quantities (lots), by the rule, for one opening run.

    k is truncated once at 2^-32; a reduction scales the target of the last opening; an order is the whole lots of what is
    missing, truncated toward zero; flat is flat.
    """
    k = Q32 * allocation // equity
    target = has = before = 0
    anchor = (0, 1)
    for after in leader:
        if abs(after) > abs(before):
            target += k * (after - before)
            anchor = (target, after)
        else:
            target = -(-anchor[0] * after // anchor[1]) if anchor[0] < 0 else anchor[0] * after // anchor[1]
        missing = target - has * Q32
        has += (abs(missing) // Q32) * (1 if missing > 0 else -1)
        before = after
    return has
