"""A site: a configuration, a KEK, the simulated exchange, and ``copyd key`` run against them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from copyd._fast.process import set_dumpable
from copyd.cli import main
from tests.exchange.wire_helpers import ROOT, control, running_exchange


@pytest.fixture(autouse=True)
def dumpable_again() -> Iterator[None]:
    """Key commands run inside this process make it not dumpable; what other tests look up under /proc needs it to be."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    yield
    set_dumpable(True)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.fixture(scope="module")
def exchange() -> Iterator[dict[str, Any]]:
    """A running exchange with no limits in the way."""
    with running_exchange("--port", "0", "--ws-port", "0", "--control-port", "0", "--lift", "all") as at:
        yield at


class Site:
    """One installation with its folder."""

    def __init__(self, folder: Path, at: dict[str, Any] | None = None) -> None:
        self.folder, self.at = folder, at
        self.journal = folder / "journal"
        self.path = folder / "copyd.yaml"
        self.keks = 0
        self.config: dict[str, Any] = {
            "mode": "simulate", "site": {"id": 7}, "journal": {"path": str(self.journal), "map_size_mib": 256},
            "venues": [{
                "name": "sim", "kind": "binance_usdm", "rest_url": at["rest"] if at else "http://127.0.0.1:9",
                "ws_api_url": at["ws_api"] if at else "ws://127.0.0.1:9",
                **{f"{name}_stream_url": f"{at['streams'] if at else 'ws://127.0.0.1:9'}/{name}"
                   for name in ("public", "market", "private")},
                "request_weight_per_min": 1_000_000,
            }],
            "instruments": [{"symbol": "BTCUSDT", "venue": "sim"}],
            "leaders": [{"id": "lead", "venue": "sim", "credential": "lead"}],
            "credentials": [{"vault": True}],
            "keys": {"kek": self.new_kek()},
            "control": {"socket": str(folder / "c.sock")},
        }
        self.write()

    def new_kek(self) -> dict[str, Any]:
        """A key-encryption key in a file."""
        self.keks += 1
        path = self.folder / f"kek-{self.keks}"
        path.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
        path.chmod(0o600)
        return {"source": "file", "file": str(path)}

    def write(self) -> None:
        self.path.write_text(yaml.safe_dump(self.config))

    def account(self, name: str, **restrictions: bool) -> dict[str, str]:
        """An account of the exchange: its key as ``copyd key add`` takes it."""
        assert self.at is not None
        made = control(self.at, "POST", "/accounts", {"accounts": [
            {"name": name, "balance": "1000", "restrictions": restrictions}]})["accounts"][0]  # fmt: skip
        return {"key": made["api_key"], "secret": made["secret"]}

    def restrict(self, name: str, **restrictions: bool) -> None:
        """The venue says something else of a key from now on."""
        assert self.at is not None
        control(self.at, "POST", "/restrictions", {"account": name, "restrictions": restrictions})

    def key(self, *words: str | Path, stdin: Any = "") -> subprocess.CompletedProcess[str]:
        """`copyd key ...`, in this process."""
        out, err = io.StringIO(), io.StringIO()
        text = stdin if isinstance(stdin, str) else json.dumps(stdin)
        arguments = ["key", *map(str, words), "-c", str(self.path)]
        before, sys.stdin = sys.stdin, io.StringIO(text)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(arguments)
        finally:
            sys.stdin = before
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def child(self, *words: str, stdin: Any = "", **more: Any) -> subprocess.Popen[bytes]:
        """The same as a process of its own."""
        text = stdin if isinstance(stdin, str) else json.dumps(stdin)
        child = subprocess.Popen(
            [sys.executable, "-m", "copyd.cli", "key", *words, "-c", str(self.path)], cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        assert child.stdin is not None
        child.stdin.write(text.encode())
        child.stdin.close()
        child.stdin = None
        return child

    def listed(self) -> dict[str, dict[str, Any]]:
        """`copyd key list --json`, by name."""
        return {row["name"]: row for row in json.loads(self.key("list", "--json").stdout)}

    def add(self, name: str, **more: Any) -> dict[str, str]:
        """A new account whose key is kept; the key."""
        made = self.account(name, **more)
        done = self.key("add", name, "--venue", "binance_usdm", stdin=made)
        assert done.returncode == 0, done.stderr
        return made


@pytest.fixture
def site(tmp_path: Path, exchange: dict[str, Any]) -> Site:
    """A fresh installation before a running exchange."""
    return Site(tmp_path, exchange)


@pytest.fixture
def lonely(tmp_path: Path) -> Site:
    """An installation whose exchange does not answer."""
    return Site(tmp_path)
