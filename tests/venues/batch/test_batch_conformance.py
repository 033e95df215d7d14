"""``copyd conformance``: the reference passes every row, and an engine with one fault fails the row that names it."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from copyd._fast.batch_wire import crc32c
from copyd.exchange import batch as door_module
from copyd.exchange.batch import BATCH_HEAD, Conn
from copyd.venues.batch import conformance
from copyd.venues.batch.conformance import Settings

from .conftest import SECRET, Open


def settings(address: str) -> Settings:
    return Settings(address=address, secret=SECRET, timeout_s=0.5)


def failed(rows: list[conformance.Row]) -> list[str]:
    return [row.name for row in rows if row.verdict == "FAIL"]


@pytest.mark.parametrize("unix", [False, True])
async def test_the_reference_passes(door: Open, tmp_path: Path, unix: bool) -> None:
    """Every row, over TCP and over a Unix socket; none is left untried."""
    path = str(tmp_path / "door")
    exchange = await door(path=path)
    rows = await conformance.run(settings(f"unix:{path}" if unix else f"127.0.0.1:{exchange.ports['batch']}"))
    assert [(row.name, row.verdict, row.got) for row in rows if row.verdict != "pass"] == []
    assert len(rows) > 25 and "0 failed" in conformance.table(rows)


class TakesAnySecret(Conn):
    def proven(self, proof: bytes, nonce: bytes, name: bytes) -> bool:
        return True


class ExecutesTwice(Conn):
    """Knows no client order id: each record is a new order, told under the id it came with."""

    seen: dict[bytes, int]

    def execute(self, body: memoryview, count: int, now: int, refuse: int) -> None:
        seen = self.server.__dict__.setdefault("seen", {})
        raw, real = bytearray(body), {}
        for at in range(BATCH_HEAD.size, len(raw), 48):
            cid = bytes(raw[at : at + 16])
            if cid in seen:
                other = os.urandom(16)
                real[other] = cid
                raw[at : at + 16] = other
            seen[cid] = 1
        self.server.desk.orders(bytes(raw), BATCH_HEAD.size, count, now, refuse)
        told = bytearray(self.server.desk.take(65_536))
        for at in range(0, len(told), 96):
            told[at : at + 16] = real.get(bytes(told[at : at + 16]), bytes(told[at : at + 16]))
            told[at + 92 : at + 96] = crc32c(bytes(told[at : at + 92])).to_bytes(4, "little")
        self.report(bytes(told))


class OverlooksGaps(Conn):
    def on_orders(self, body: memoryview, sequence: int, *rest: int) -> None:
        assert self.session is not None
        self.session.last_in = max(self.session.last_in, sequence - 1)
        super().on_orders(body, sequence, *rest)


class NeverBeats(Conn):
    def send(self, kind: int, body: bytes, sealed: bool = True, sequence: int = 0) -> None:
        if kind != door_module.HEARTBEAT:
            super().send(kind, body, sealed, sequence)


class ForgetsReports(Conn):
    def send_again(self, first: int, last: int) -> None:
        pass


class HasNoWindow(Conn):
    def execute(self, body: memoryview, count: int, now: int, refuse: int) -> None:
        super().execute(body, count, now, 0 if refuse == door_module.R_WINDOW else refuse)


class BelievesDamage(Conn):
    """Looks at no sum of a record."""

    def on_orders(self, body: memoryview, sequence: int, *rest: int) -> None:
        raw = bytearray(body)
        for at in range(BATCH_HEAD.size, len(raw), 48):
            raw[at + 44 : at + 48] = crc32c(bytes(raw[at : at + 44])).to_bytes(4, "little")
        super().on_orders(memoryview(raw), sequence, *rest)


class FindsNothing(Conn):
    """Answers a question with "not found", whatever it has executed."""

    def on_query(self, body: memoryview, *rest: int) -> None:
        number, issued, count, _ = struct.unpack_from("<QqII", body)
        head = struct.pack("<QqqqII", number, issued, self.server.x.wire.time_ns(), 0, count, 0)
        self.send(door_module.NOT_FOUND, head + bytes(body[24:-4]))


@pytest.mark.parametrize(("broken", "rows"), [
    (TakesAnySecret, {"wrong secret"}),
    (ExecutesTwice, {"duplicate id", "new session"}),
    (OverlooksGaps, {"sequence gap"}),
    (NeverBeats, {"heartbeat"}),
    (ForgetsReports, {"reconnect", "resend of reports"}),
    (HasNoWindow, {"back-pressure"}),
    (BelievesDamage, {"damaged record"}),
    (FindsNothing, {"query found", "duplicate id"}),
])
async def test_a_broken_engine_fails_the_row_that_names_its_fault(door: Open, broken: Any, rows: set[str]) -> None:
    """Each fault is found where it is, and takes no other row with it."""
    exchange = await door()
    assert exchange.batch is not None
    exchange.batch.make = broken
    found = await conformance.run(settings(f"127.0.0.1:{exchange.ports['batch']}"))
    assert set(failed(found)) == rows
    text = conformance.table(found)
    assert all(f"FAIL  {name}" in text for name in rows) and f"{len(rows)} failed" in text


async def test_nobody_there_fails_and_says_so() -> None:
    """An address where nobody listens: every row fails with the reason."""
    rows = await conformance.run(settings("127.0.0.1:9"), only="login")
    assert failed(rows) and all("no connection" in row.got for row in rows)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "copyd", "conformance", *words], capture_output=True, text=True, timeout=30)


async def test_the_command_ends_with_1_on_a_failure_and_0_without(door: Open, tmp_path: Path) -> None:
    """As an engine team runs it: a table on standard output, and the exit code says the verdict."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    exchange = await door()
    address = f"127.0.0.1:{exchange.ports['batch']}"
    good = await asyncio.to_thread(command, address, "--secret-file", str(secret), "--only", "order")
    assert good.returncode == 0 and "pass  order" in good.stdout, good.stderr
    exchange.batch.make = TakesAnySecret
    bad = await asyncio.to_thread(command, address, "--secret-file", str(secret), "--only", "secret")
    assert bad.returncode == 1 and "FAIL  wrong secret" in bad.stdout and "expected: ERROR 3" in bad.stdout


@pytest.mark.parametrize(("words", "code", "text"), [
    (["nowhere", "--secret-file", "@"], 2, "neither HOST:PORT nor unix:PATH"),
    (["127.0.0.1:9", "--secret-file", "@", "--only", "no such"], 2, "no check is called"),
    (["127.0.0.1:9", "--secret-file", "@missing"], 78, "cannot be read"),
    (["127.0.0.1:9", "--secret-file", "@short"], 78, "at least 16"),
])
def test_bad_input_is_one_clear_sentence(tmp_path: Path, words: list[str], code: int, text: str) -> None:
    """No stack trace, the exit codes of every other command."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "short").write_bytes(b"short")
    files = {"@": "secret", "@missing": "missing", "@short": "short"}
    done = command(*[str(tmp_path / files[word]) if word in files else word for word in words])
    assert done.returncode == code and text in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
