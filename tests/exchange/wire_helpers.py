"""Starts the exchange as its own process and talks to it; for tests and benchmarks."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import orjson

ROOT = pathlib.Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def running_exchange(*arguments: str, start_s: float = 20.0) -> Iterator[dict[str, Any]]:
    """A live exchange process: what its ready file says. Ends with SIGTERM and must then exit 0."""
    with tempfile.TemporaryDirectory() as folder:
        ready = pathlib.Path(folder) / "ready.json"
        command = [sys.executable, "-m", "copyd.exchange.main", "--seed", "7", "--ready-file", str(ready), "--quiet"]
        process = subprocess.Popen([*command, *arguments], cwd=ROOT)
        try:
            until = time.monotonic() + start_s
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the exchange did not start (exit code {process.poll()})")
                time.sleep(0.02)
            yield orjson.loads(ready.read_bytes())
        finally:
            process.terminate()
            try:
                code = process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait(10)
        assert code == 0, f"the exchange ended with {code}"


def control(at: dict[str, Any], method: str, path: str, body: Any = None) -> Any:
    """A call of the control port; JSON lines come back as a list."""
    data = orjson.dumps(body) if body is not None else None
    request = urllib.request.Request(at["control"] + path, data=data, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        text = response.read()
        if response.headers.get_content_type() == "application/x-ndjson":
            return [orjson.loads(line) for line in text.splitlines()]
        return orjson.loads(text)


def make_accounts(at: dict[str, Any], **order: Any) -> list[dict[str, Any]]:
    """Accounts as the control port makes them."""
    made: list[dict[str, Any]] = control(at, "POST", "/accounts", order)["accounts"]
    return made


def signed_params(account: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a WebSocket API request with key, time and HMAC signature."""
    full = {**params, "apiKey": account["api_key"]}
    full.setdefault("timestamp", int(time.time() * 1000))
    text = "&".join(f"{k}={_plain(full[k])}" for k in sorted(full))
    full["signature"] = hmac.new(account["secret"].encode(), text.encode(), hashlib.sha256).hexdigest()
    return full


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
