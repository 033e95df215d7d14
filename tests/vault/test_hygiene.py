"""A process with keys, and what can be had of its memory; the search for canaries finds what is there."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from copyd.vault.scan import CHUNK_BYTES, Scan
from tests.exchange.wire_helpers import ROOT

CANARY = "canary" * 6

PROBE = """
import resource, sys
from copyd._fast.process import dumpable
from copyd.vault.hygiene import no_dumps
assert dumpable() and "ctypes" not in sys.modules
no_dumps()
print(dumpable(), resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_no_core_and_not_dumpable() -> None:
    """By limit and by the process's own word."""
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "(0,", "0)"]


@pytest.mark.parametrize("leak", [
    CANARY, CANARY.upper(), CANARY.encode().hex(), CANARY[::-1], CANARY[: len(CANARY) // 2],
    *(base64.b64encode(b"x" * shift + CANARY.encode()).decode() for shift in range(4)),
])  # fmt: skip
def test_a_canary_is_found_in_every_form(leak: str) -> None:
    """As it is, encoded at any offset, backwards, in halves."""
    scan = Scan({"k": CANARY})
    scan.look("here", b"noise " + leak.encode() + b" noise")
    assert scan.findings and str(scan.findings[0]).startswith("k (") and scan.places == 1


def test_a_canary_is_found_in_files_their_names_and_processes(tmp_path: Path) -> None:
    """Across the edge of two pieces as well; where there is none, nothing is found."""
    scan = Scan({"k": CANARY})
    (tmp_path / "big").write_bytes(bytes(CHUNK_BYTES - 7) + CANARY.encode() + b"end")
    scan.folder(tmp_path)
    assert {finding.place for finding in scan.findings} == {str(tmp_path / "big")}
    (tmp_path / CANARY).mkdir()
    scan.folder(tmp_path, but=[tmp_path / "big"])
    assert any("the name of" in finding.place for finding in scan.findings)
    clean = Scan({"k": CANARY})
    clean.folder(tmp_path / CANARY)
    clean.process(os.getpid())
    assert not clean.findings and clean.places >= 2
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", CANARY]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline()
        clean.process(child.pid)
    finally:
        child.communicate()
    assert clean.findings
    with pytest.raises(ValueError, match="too short"):
        Scan({"k": "abc"})
