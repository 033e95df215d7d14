"""The whole demo over all venues: real exchanges, the real daemon, killed half way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from copyd.demo.main import main
from copyd.demo.processes import PACKAGE_ROOT
from copyd.demo.recheck import recheck


def test_every_leader_is_copied_on_every_venue(tmp_path: Path) -> None:
    """Four exchanges, four leaders at once, sixteen ways from one to another: verified, each by itself, and once more from what
    was kept; the screen says what is lifted and has a line per venue."""
    kept = tmp_path / "run"
    arguments = ["--venues", "all", "--followers", "40", "--seconds", "5", "--seed", "3", "--keep", str(kept)]
    done = subprocess.run(
        [sys.executable, "-m", "copyd.cli", "demo", *arguments], cwd=PACKAGE_ROOT, capture_output=True, text=True, timeout=110,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "VERIFIED" in done.stdout and "okx: 10 followers; lifted: all" in done.stdout
    result = msgspec.json.decode((kept / "result.json").read_bytes())
    assert result["verified"] and result["restarts"] == 1
    assert result["duplicates"] == result["omissions"] == result["out_of_sync"] == 0
    assert {row["venue"] for row in result["venues"]} == {"binance_usdm", "okx", "bybit", "bitget"}
    for row in result["venues"]:
        assert len(row["verified"]) == 4 and all(row["verified"].values()) and row["orders"] > 0
    again = recheck(kept)
    assert again.verified and again.orders == sum(row["orders"] for row in result["venues"])


def test_wrong_venues_and_too_few_followers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, exit 2, nothing started."""
    assert main(["--venues", "okx,kraken"]) == 2
    assert "no such venue: kraken (there are binance_usdm, okx, bybit, bitget, or all)" in capsys.readouterr().err
    assert main(["--venues", "all", "--followers", "15"]) == 2
    assert "--followers must be 16 at least" in capsys.readouterr().err
