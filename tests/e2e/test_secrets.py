"""Canaries: the keys and secrets of leader and followers occur in the credentials file and nowhere else."""

from __future__ import annotations

import base64
import signal
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from tests.e2e.harness import Stage, proportional

NINE = proportional(1000)


def forms(secret: str) -> dict[str, bytes]:
    """A secret as it might leak: as it is, in hex, in base64 at any offset, URL-encoded, backwards, halved."""
    raw = secret.encode()
    found = {
        "plain": raw, "upper": raw.upper(), "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode(),
        "url": urllib.parse.quote(secret, safe="").encode(), "first half": raw[: len(raw) // 2],
        "second half": raw[len(raw) // 2 :],
    }
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + raw)
        found[f"base64 at {shift}"] = text[4 if shift else 0 :].rstrip(b"=")[:-1]
    if set(secret) <= set("0123456789abcdef"):
        found["bytes"] = bytes.fromhex(secret)
    return found


class Search:
    """What was searched, and where a canary sang."""

    def __init__(self, canaries: dict[str, str]) -> None:
        self.needles = [(f"{name} ({form})", text) for name, secret in canaries.items() for form, text in forms(secret).items()]
        self.places = 0

    def look(self, place: str, data: bytes) -> None:
        self.places += 1
        for name, needle in self.needles:
            assert needle not in data, f"{name} occurs in {place}"

    def folder(self, folder: Path, but: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path != but:
                self.look(str(path), path.read_bytes())


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
    for name, needle in search.needles:
        assert len(needle) >= 12, name

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
    for name in ("cmdline", "environ"):
        search.look(f"/proc/{name}", Path(f"/proc/{s.daemon.pid}/{name}").read_bytes())

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

    search.folder(s.folder, but=s.folder / "credentials.jsonl")
    assert (s.journal / "data.mdb").stat().st_size > 0
    assert search.places > 15
