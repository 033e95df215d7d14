"""Canaries: the keys and secrets of leader and followers occur in the credentials file and nowhere else."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

from copyd.vault.scan import Scan
from tests.e2e.harness import Stage, proportional, wait_for
from tests.exchange.wire_helpers import ROOT

NINE = proportional(1000)


class Search(Scan):
    """The search of the product; here a find fails the test at once."""

    def look(self, place: str, data: bytes) -> None:
        super().look(place, data)
        assert not self.findings, self.findings[0]

    def folder(self, folder: Path, but: Collection[Path] = ()) -> None:
        super().folder(folder, but)
        assert not self.findings, self.findings[0]


def test_no_secret_anywhere_but_in_its_file(stage: Callable[..., Stage]) -> None:
    """Logs at debug level, journal, metrics, status, argv, environment, errors of a wrong signature, a crash with SIGABRT."""
    s = stage(4)
    s.config["telemetry"] = {"log_format": "json", "log_level": "debug"}
    s.write_config()
    rows = s.credential_rows()
    rows[1]["key"], rows[2]["secret"] = "canarykey" * 7 + "x", "canarysecret" * 5 + "1234"
    s.write_credentials(rows)
    canaries = {f"{row['name']}.{part}": row[part] for row in rows for part in ("key", "secret")}
    search = Search(canaries)

    s.launch(env={"PYTHONFAULTHANDLER": "1", "PYTHONASYNCIODEBUG": "1"})
    s.wait_up()
    done = s.ctl("import", s.write_plans(s.plan(i) for i in range(4)))
    search.look("ctl import", (done.stdout + done.stderr).encode())
    s.wait_ready()
    s.venue.faults({"action": "error_dead", "account": s.names[3], "method": "order.place", "count": 1},
                   {"action": "drop_reply", "account": s.names[2], "method": "order.place", "count": 1})
    s.leader.buy("1.000")
    s.holds({s.names[0]: 0, s.names[1]: 0, s.names[2]: NINE, s.names[3]: NINE})
    s.quiet()

    order = s.venue.orders(s.names[3])[0]["clientOrderId"]
    for words in (("status",), ("explain", order), ("reload",), ("plan", "change", s.names[3], "max_open_trades=3")):
        done = s.ctl(*words)
        search.look(f"ctl {words[0]}", (done.stdout + done.stderr).encode())
    for page in ("/metrics", "/status", "/readyz", "/healthz"):
        search.look(page, s.http(page)[1])
    search.look("the configuration in force", repr(s.client.config()).encode())
    search.process(s.daemon.pid)

    s.daemon.signal(signal.SIGABRT)
    code, text = s.ends()
    assert code == -signal.SIGABRT and "Fatal Python error" in text, "the crash left no trace to search"
    s.launch()
    s.wait_up()
    s.leader.sell("1.000")
    s.holds(0)
    s.quiet()
    time.sleep(0.2)
    s.stop()

    for words in (("replay", s.journal), ("replay", s.journal, "--decisions", s.folder / "decisions.jsonl"),
                  ("verify", s.journal), ("explain", order, "--journal", s.journal), ("check-config", s.path)):
        done = s.copyd(*words)
        search.look(f"copyd {words[0]}", (done.stdout + done.stderr).encode())

    # A leader whose secret is wrong: the refusal tells nothing.
    rows[0]["secret"] = "canaryleader" * 5 + "zyxw"
    s.write_credentials(rows)
    wrong = Search({"wrong leader secret": rows[0]["secret"]})
    s.launch()
    code, text = s.ends()
    assert code == 78, text
    wrong.look("the refusal", text.encode())

    search.folder(s.folder, but=[s.folder / "credentials.jsonl"])
    assert (s.journal / "data.mdb").stat().st_size > 0
    assert search.places > 15


def sealed_stage(stage: Callable[..., Stage], followers: int) -> Stage:
    """A stage whose keys are in the ring: no credentials file, a KEK in a guarded one."""
    s = stage(followers)
    kek = s.folder / "kek"
    kek.write_bytes(base64.b64encode(os.urandom(32)))
    kek.chmod(0o600)
    s.config["credentials"] = [{"vault": True}]
    s.config["keys"] = {"kek": {"source": "file", "file": str(kek)}, "check_interval_s": 60}
    s.config["telemetry"] = {"log_format": "json", "log_level": "debug"}
    s.write_config()
    return s


def key(s: Stage, *words: str, stdin: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`copyd key ...`, as a process of its own: it makes itself not dumpable."""
    return subprocess.run(
        [sys.executable, "-m", "copyd.cli", "key", *words, "-c", str(s.path)], cwd=ROOT, capture_output=True, text=True,
        input=json.dumps(stdin or {}), timeout=60, check=False)


def keep(s: Stage) -> subprocess.CompletedProcess[str]:
    """The keys of the credentials file go into the ring, and the file away."""
    file = s.folder / "credentials.jsonl"
    done = key(s, "import", str(file), "--venue", "binance_usdm")
    assert done.returncode == 0, done.stderr
    file.unlink()
    return done


def test_no_secret_of_a_sealed_key_anywhere(stage: Callable[..., Stage]) -> None:
    """Keys go in by `copyd key import`, the daemon trades with them, and they occur in no file at all: journal, ring, logs; nor
    in metrics, output of every key command, refusals, command line, environment."""
    s = sealed_stage(stage, 2)
    rows = s.credential_rows()
    search = Search({f"{row['name']}.{part}": row[part] for row in rows for part in ("key", "secret")} | {
        "kek": (s.folder / "kek").read_text()})  # fmt: skip
    s.write_credentials(rows[:2])
    done = keep(s)
    search.look("key import", (done.stdout + done.stderr).encode())
    s.start([s.plan(0)])
    done = key(s, "add", rows[2]["name"], "--venue", "binance_usdm", stdin={name: rows[2][name] for name in ("key", "secret")})
    assert done.returncode == 0, done.stderr
    search.look("key add", (done.stdout + done.stderr).encode())
    done = s.ctl("import", s.write_plans([s.plan(1)]))  # the running daemon finds the key that was added meanwhile
    assert done.returncode == 0, done.stderr
    s.wait_ready()
    s.leader.buy("1.000")
    s.holds(NINE)
    search.process(s.daemon.pid)
    for page in ("/metrics", "/status", "/readyz"):
        search.look(page, s.http(page)[1])
    again = {"key": rows[1]["key"], "secret": rows[1]["secret"]}
    for words in (("list",), ("list", "--json"), ("test",), ("add", "other", "--venue", "nowhere"), ("rotate", rows[1]["name"]),
                  ("rotate-kek",), ("add", rows[1]["name"], "--venue", "binance_usdm"),
                  ("revoke", rows[2]["name"], "--reason", "test")):  # fmt: skip
        done = key(s, *words, stdin=again)
        search.look(f"key {words[0]}", (done.stdout + done.stderr).encode())
    s.leader.flat()
    s.holds(0)
    s.stop()
    search.folder(s.folder, but=[s.folder / "kek"])
    assert (s.journal / "keys" / "data.mdb").stat().st_size > 0 and search.places > 20


def test_a_key_that_gained_a_right_opens_nothing_more_and_its_exits_go_on(stage: Callable[..., Stage]) -> None:
    """The check at the start: an alert, its plan close-only, the leader's exit still copied; the other follower goes on."""
    s = sealed_stage(stage, 2)
    keep(s)
    s.start([s.plan(i) for i in range(2)])
    s.leader.buy("1.000")
    s.holds(NINE)
    s.quiet()
    s.stop()
    gained, other = s.names
    s.venue.tell("/restrictions", {"account": gained, "restrictions": {"enableWithdrawals": True}})
    s.launch()
    s.wait_up()
    s.wait_ready()
    wait_for(lambda: "key_gained_right" in s.daemon.text(), 15, s.daemon.tail)
    assert gained in next(line for line in s.daemon.text().splitlines() if "key_gained_right" in line)
    s.leader.buy("1.000")
    s.holds({gained: NINE, other: proportional(1000, 2000)})
    s.quiet()
    s.leader.flat()
    s.holds(0)
    wait_for(lambda: {row["name"]: row["state"] for row in json.loads(key(s, "list", "--json").stdout)}[gained]
             == "refused: moves_funds", 15)  # fmt: skip
    s.stop()


def test_the_daemon_leaves_no_core(stage: Callable[..., Stage]) -> None:
    """By limit, hard and soft, whatever it was started with."""
    s = stage(0)
    s.launch()
    s.wait_up()
    assert resource.prlimit(s.daemon.pid, resource.RLIMIT_CORE) == (0, 0)
    s.stop()
