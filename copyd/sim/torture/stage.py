"""The real programs on loopback, for torture: an exchange, a daemon's folder over many lives, a leader who trades.

What is said about orders and positions comes from the exchange's own books (its control port). The leader is plain signed
REST with nothing of copyd in it. Processes are ended by their own process id.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
import yaml

from copyd.control.client import ControlClient
from copyd.errors import CopydError, WorldError
from copyd.inspect import replay, verify

ROOT = Path(__file__).resolve().parents[3]
VENUE = "sim"
SYMBOLS = ("BTCUSDT", "ETHUSDT")
Q32 = 1 << 32
#: The fence after which "not found" counts as evidence is recvWindow + these terms; short, so that a life is.
RECV_WINDOW_MS = 600
CONTRACT = {"engine_delay_ms": 100, "read_lag_ms": 100, "guard_ms": 100}
#: So large that what tens of thousands of trades cost does not change the ratio.
LEADER_EQUITY = 1_000_000_000
ALLOCATION = 100_000_000


class Late(AssertionError):
    """Something did not happen in time."""


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(what: Callable[[], Any], seconds: float, text: Callable[[], str] = lambda: "", every: float = 0.01) -> Any:
    """The first true answer; :class:`Late` with ``text`` when there is none in time."""
    until = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        if time.monotonic() > until:
            raise Late(f"not within {seconds:g} s: {text()}")
        time.sleep(every)


class Living(Protocol):
    """A process of ours, however it was started."""

    pid: int
    log: Path

    @property
    def running(self) -> bool: ...

    def signal(self, number: int) -> None: ...

    def wait(self, seconds: float) -> int: ...

    def kill(self) -> int: ...

    def tail(self, size: int = 2000) -> str: ...


class Process:
    """A child with its log, ended with its own id. It dies when we do."""

    def __init__(self, words: Sequence[str | Path], log: Path, env: dict[str, str] | None = None, **more: Any) -> None:
        self.log = log
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        with log.open("ab") as out:
            self.child = subprocess.Popen(
                [sys.executable, *map(str, words)], cwd=ROOT, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                env={**environment, **(env or {})}, **more,
            )
        self.pid = self.child.pid

    @property
    def running(self) -> bool:
        return self.child.poll() is None

    def signal(self, number: int) -> None:
        """Sent to this process alone."""
        self.child.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit code, negative for a signal."""
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Late(f"process {self.pid} still runs after {seconds:g} s; its last words:\n{self.tail()}") from None

    def kill(self) -> int:
        """SIGKILL, if it still runs; its exit code."""
        if self.running:
            self.child.kill()
        return self.child.wait(10)

    def tail(self, size: int = 2000) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")[-size:]
        return ""


class Exchange:
    """A running simulated exchange and its books."""

    def __init__(self, folder: Path, seed: int = 7) -> None:
        self.log = folder / "exchange.log"
        ready = folder / "exchange.json"
        self.process = Process(
            ["-m", "copyd.sim.torture.venue", "--port", "0", "--ws-port", "0", "--control-port", "0", "--seed", str(seed),
             "--lift", "all", "--quiet", "--ready-file", ready], self.log)
        try:
            wait_for(lambda: ready.exists() or not self.process.running, 30, self.process.tail)
            self.at: dict[str, Any] = msgspec.json.decode(ready.read_bytes())
        except BaseException:
            self.process.kill()
            raise
        self._control = http.client.HTTPConnection(self.at["control"].partition("//")[2], timeout=60)
        self._made = 0

    def close(self) -> None:
        """SIGTERM; killed when that does not help."""
        self.process.signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except Late:
            self.process.kill()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the control port; JSON lines come back as a list."""
        for attempts_left in (1, 0):
            try:
                self._control.request(method, path, None if body is None else msgspec.json.encode(body))
                answer = self._control.getresponse()
                break
            except (http.client.HTTPException, OSError) as error:
                self._control.close()
                if not attempts_left:
                    raise WorldError(f"the exchange does not answer {path}: {error!r}") from None
        raw = answer.read()
        if answer.status != 200:
            raise WorldError(f"the exchange refused {path}: {raw[:300].decode(errors='replace')}")
        if "ndjson" in (answer.getheader("content-type") or ""):
            return msgspec.json.Decoder(dict[str, Any]).decode_lines(raw)
        return msgspec.json.decode(raw)

    def pages(self, path: str, after: int = -1, limit: int = 20_000) -> Iterator[dict[str, Any]]:
        """Every line of a truth behind number ``after``."""
        while True:
            rows = self.call("GET", f"{path}?after={after}&limit={limit}")
            yield from rows
            if not rows or (len(rows) < limit and path != "/truth/positions"):
                return
            after = max(row["seq"] for row in rows)

    def faults(self, *rules: dict[str, Any]) -> None:
        """Rules in force from now on, in place of all before."""
        self.call("DELETE", "/faults")
        if rules:
            self.call("POST", "/faults", list(rules))

    def cast(self, followers: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A fresh leader and followers."""
        self._made += 1
        prefix = f"x{self._made}-"
        leader = self.call(
            "POST", "/accounts", {"accounts": [{"name": f"{prefix}lead", "balance": str(LEADER_EQUITY), "leverage": 10}]})
        made = self.call("POST", "/accounts", {
            "n": followers, "prefix": f"{prefix}f", "balance": str(2 * ALLOCATION), "leverage": 10, "margin_type": "ISOLATED"})
        return leader["accounts"][0], made["accounts"]

    def lots(self, names: set[str], symbol: str) -> dict[str, int]:
        """Positions of these accounts, long positive."""
        found = dict.fromkeys(names, 0)
        for row in self.pages("/truth/positions"):
            if row["symbol"] == symbol and row["account"] in found:
                found[row["account"]] += row["lots"]
        return found


class Trader:
    """The leader's hands: signed REST on one connection, nothing retried."""

    def __init__(self, exchange: Exchange, account: dict[str, Any]) -> None:
        self.name = str(account["name"])
        self._key, self._secret = account["api_key"], account["secret"].encode()
        self._rest = http.client.HTTPConnection(exchange.at["rest"].partition("//")[2], timeout=30)
        self.lots = dict.fromkeys(SYMBOLS, 0)
        self.orders = 0

    def trade(self, symbol: str, lots: int) -> None:
        """A market order of so many lots, negative to sell; sure to be done when this returns."""
        quantity = f"{abs(lots) / 1000:.3f}"
        text = urllib.parse.urlencode({
            "symbol": symbol, "side": "BUY" if lots > 0 else "SELL", "type": "MARKET", "quantity": quantity,
            "newOrderRespType": "RESULT", "recvWindow": 50_000, "timestamp": int(time.time() * 1000),
        })
        signature = hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
        self._rest.request(
            "POST", f"/fapi/v1/order?{text}&signature={signature}", headers={"X-MBX-APIKEY": self._key})
        answer = self._rest.getresponse()
        row = msgspec.json.decode(answer.read())
        if answer.status != 200 or row["executedQty"] != quantity:
            raise WorldError(f"the leader's order of {lots} {symbol}: {row}")
        self.lots[symbol] += lots
        self.orders += 1

    def flat(self) -> None:
        """Close whatever is open."""
        for symbol, lots in self.lots.items():
            if lots:
                self.trade(symbol, -lots)


class Stage:
    """One daemon with its folder: configuration, credentials, journal, logs; many lives of the process."""

    def __init__(
        self, folder: Path, exchange: Exchange, followers: int, cast: tuple[dict[str, Any], list[dict[str, Any]]] | None = None
    ) -> None:
        self.folder = folder
        self.exchange = exchange
        self.socket = folder / "c.sock"
        self.journal = folder / "journal"
        self.path = folder / "copyd.yaml"
        self.health_port = free_port()
        self.leader: dict[str, Any]
        self.followers: list[dict[str, Any]]
        self.leader, self.followers = cast or exchange.cast(followers)
        self.names = [str(row["name"]) for row in self.followers]
        self.daemon: Living | None = None
        self.lives = 0
        self.config: dict[str, Any] = self._config()
        self.write_config()
        rows = [{"name": "lead", "key": self.leader["api_key"], "secret": self.leader["secret"]}]
        rows += [{"name": row["name"], "key": row["api_key"], "secret": row["secret"]} for row in self.followers]
        with os.fdopen(os.open(folder / "credentials.jsonl", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.daemon is not None:
            self.daemon.kill()

    def _config(self) -> dict[str, Any]:
        at = self.exchange.at
        return {
            "mode": "simulate",
            "site": {"id": 7, "name": "torture"},
            "journal": {
                "path": str(self.journal), "map_size_mib": 2048, "free_disk_min_mib": 1, "checkpoint_every_records": 500,
            },
            "venues": [{
                "name": VENUE, "kind": "binance_usdm", "rest_url": at["rest"], "ws_api_url": at["ws_api"],
                "public_stream_url": f"{at['streams']}/public", "market_stream_url": f"{at['streams']}/market",
                "private_stream_url": f"{at['streams']}/private", "order_connections": 2, "connect_timeout_ms": 3000,
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
            "copy": {"runaway_orders_per_min": 0},  # the leader of this world trades without a pause
            "control": {"socket": str(self.socket), "socket_mode": "0600"},
            "health": {"host": "127.0.0.1", "port": self.health_port},
            "telemetry": {"log_format": "json", "log_level": "warning"},
        }

    def write_config(self) -> None:
        """The YAML file."""
        self.path.write_text(yaml.safe_dump(self.config, sort_keys=False))

    # -- life ---------------------------------------------------------------------------------------------------------

    def launch(self, env: dict[str, str] | None = None, log: str = "", **more: Any) -> Process:
        """Start the daemon and return at once; logs of the last lives are kept."""
        path = self.next_log(log)
        self.daemon = daemon = Process(["-m", "copyd.cli", "run", "-c", self.path], path, env, **more)
        return daemon

    def next_log(self, name: str = "") -> Path:
        """An empty log for one more life; the last fifty are kept."""
        self.lives += 1
        path = self.folder / (name or f"daemon-{self.lives % 50}.log")
        path.unlink(missing_ok=True)
        return path

    def decisions(self) -> tuple[Path, str]:
        """What `copyd replay --decisions` writes of the journal left behind, and what it had to complain about."""
        path = self.folder / "decisions.jsonl"
        err = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            code = replay(self.journal, path)
        return path, err.getvalue() if code else ""

    def verified(self) -> str:
        """What `copyd verify` has to complain about."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = verify(self.journal)
        return (out.getvalue() + err.getvalue())[-1000:] if code else ""

    def plans(self) -> Path:
        """A file with one proportional plan per follower, no limit near."""
        path = self.folder / "followers.jsonl"
        path.write_bytes(b"".join(msgspec.json.encode({
            "follower": name, "leader": "lead", "allocation": str(ALLOCATION), "mode": "proportional", "leverage": 10,
            "leverage_max": 20, "max_position_bps": 10000, "max_loss_per_trade_bps": 10000,
        }) + b"\n" for name in self.names))
        return path

    def enrol(self, seconds: float = 30) -> None:
        """Import the plans into the daemon that runs."""
        self.wait_armed(seconds)
        wait_for(self._door_open, seconds, lambda: "the control socket does not answer")
        for _ in ControlClient(self.socket, 30).import_file(self.plans()):
            pass
        self.wait_armed(seconds)

    def _door_open(self) -> bool:
        """The control socket opens last."""
        try:
            return bool(ControlClient(self.socket, 30).status())
        except CopydError:
            return False

    def readyz(self) -> tuple[int, list[str]]:
        """Status and reasons of the health port; status 0 when nobody answers."""
        port = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=5)
        try:
            port.request("GET", "/readyz")
            answer = port.getresponse()
            return answer.status, list(msgspec.json.decode(answer.read())["reasons"])
        except (OSError, http.client.HTTPException, msgspec.DecodeError):
            return 0, []
        finally:
            port.close()

    def status(self) -> dict[str, Any]:
        """The daemon's own figures, empty when it does not answer: for waiting, never for judging."""
        port = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=5)
        try:
            port.request("GET", "/status")
            found: dict[str, Any] = msgspec.json.decode(port.getresponse().read())
            return found
        except (OSError, http.client.HTTPException, msgspec.DecodeError):
            return {}
        finally:
            port.close()

    def armed(self, doubts: bool = False) -> bool:
        """Copying; with ``doubts`` also while orders are still in doubt."""
        code, reasons = self.readyz()
        return code == 200 or (doubts and code == 503 and all("in doubt" in reason for reason in reasons))

    def wait_armed(self, seconds: float = 20, doubts: bool = False) -> None:
        """Until it copies."""
        def up() -> bool:
            assert self.daemon is not None
            if not self.daemon.running:
                raise Late(f"the daemon ended with {self.daemon.wait(1)}:\n{self.daemon.tail()}")
            return self.armed(doubts)

        wait_for(up, seconds, lambda: f"not armed: {self.readyz()}\n{self.daemon.tail() if self.daemon else ''}")

    def quiet(self, seconds: float = 15) -> None:
        """Until no order is on its way and none waits."""
        def done() -> bool:
            status = self.status()
            return bool(status) and not status["orders_unfinished"] and not status["in_doubt"] and not status["legs_waiting"]

        wait_for(done, seconds, lambda: str(self.status()))

    def lots(self, symbol: str) -> dict[str, int]:
        """What every follower holds, by the exchange's books."""
        return self.exchange.lots(set(self.names), symbol)

    def wait_lots(self, lots: int, symbol: str, seconds: float = 15) -> None:
        """Until every follower holds exactly this."""
        def there() -> bool:
            return set(self.lots(symbol).values()) <= {lots}

        def off() -> str:
            wrong = {name: held for name, held in self.lots(symbol).items() if held != lots}
            return f"{symbol}: {len(wrong)} followers do not hold {lots}: {dict(list(wrong.items())[:5])}; {self.status()}"

        wait_for(there, seconds, off)


@contextlib.contextmanager
def staged(followers: int, seed: int = 7) -> Iterator[Stage]:
    """An exchange and a daemon's folder; the folder goes when all went well, and is named when not."""
    folder = Path(tempfile.mkdtemp(prefix="copyd-torture-"))
    try:
        exchange = Exchange(folder, seed)
        try:
            with Stage(folder, exchange, followers) as stage:
                yield stage
        finally:
            exchange.close()
    except BaseException:
        print(f"logs and journal are kept in {folder}", file=sys.stderr)
        raise
    forget(folder)


def forget(folder: Path) -> None:
    """Remove a folder."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def proportional(leader_lots: int) -> int:
    """What a follower holds after one opening of the leader from flat, for quantities where the leader's fees do not decide."""
    return abs(leader_lots) * ALLOCATION // LEADER_EQUITY * (1 if leader_lots > 0 else -1)
