"""The rate plan: how long a full fan-out and a start take inside a venue's limits, and what would shorten them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from copyd.adapters import contract_of
from copyd.budget import alike, fan_outs, openings, report
from copyd.config import Config
from copyd.yamlcheck import load

KINDS = {"okx": "BTC-USDT-SWAP", "bybit": "BTCUSDT", "bitget": "BTCUSDT", "binance_spot": "BTCUSDT"}


def configured(folder: Path, kind: str, **venue: Any) -> tuple[Path, Config]:
    """One venue and one leader on it, as the operator writes them."""
    credentials = folder / "credentials.jsonl"
    credentials.write_text(json.dumps({"name": "lead", "key": "k", "secret": "s", "passphrase": "p"}) + "\n")
    credentials.chmod(0o600)
    path = folder / "copyd.yaml"
    path.write_text(json.dumps({
        "mode": "live", "site": {"id": 7, "name": "plan"}, "credentials": [{"file": str(credentials)}],
        "journal": {"path": str(folder / "journal"), "map_size_mib": 256, "free_disk_min_mib": 16},
        "venues": [{"name": "there", "kind": kind, **venue}],
        "instruments": [{"symbol": KINDS[kind], "venue": "there", "class": "majors"}],
        "leaders": [{"id": "lead", "venue": "there", "credential": "lead"}],
        "control": {"socket": str(folder / "ctl"), "socket_mode": "0600"},
    }))
    return path, load(path).config


@pytest.mark.parametrize("kind", KINDS)
def test_a_fan_out_takes_what_the_tightest_limit_of_an_address_says(kind: str, tmp_path: Path) -> None:
    """Followers over the rate; twice the addresses, half the time; who is not in time is counted."""
    _, config = configured(tmp_path, kind)
    [one] = fan_outs(config, alike(config, 2_000))
    if one.bound is None:  # orders are counted per account alone
        assert one.ms == 0 and one.in_time == 2_000
        return
    assert one.ms == pytest.approx(2_000 / one.bound.per_s * 1_000, abs=1)
    assert one.in_time == min(2_000, int(one.bound.per_s * config.copy.max_event_age_ms / 1_000))
    two = tmp_path / "two"
    two.mkdir()
    _, config = configured(two, kind, source_addresses=["192.0.2.1", "192.0.2.2"])
    [other] = fan_outs(config, alike(config, 2_000))
    assert other.addresses == 2 and other.ms == pytest.approx(one.ms / 2, abs=1)


@pytest.mark.parametrize("kind", KINDS)
def test_connections_open_in_the_pace_of_the_contract(kind: str, tmp_path: Path) -> None:
    """All sockets of all accounts, at the contract's attempts per five minutes and address."""
    _, config = configured(tmp_path, kind)
    found = openings(config, {"there": 1_000})
    assert found, "every session venue opens connections per account"
    per_s = contract_of(config.venues[0]).connect_attempts_per_5_min / 300
    assert found[0].connections % 1_000 == 0 and found[0].ms == pytest.approx(found[0].connections / per_s * 1_000, abs=1)
    assert openings(config, {"there": 0}) == []


def test_the_plan_is_said_by_check_config(tmp_path: Path) -> None:
    """``copyd check-config --followers N`` prints one line for each leader and venue, with what would shorten it."""
    path, config = configured(tmp_path, "bitget")
    done = subprocess.run(
        [sys.executable, "-m", "copyd", "check-config", "-c", str(path), "--followers", "2000"],
        capture_output=True, text=True, timeout=60, check=False)
    lines = report(config, alike(config, 2_000))
    assert len(lines) == 2 and "2,000 followers: a full fan-out takes" in lines[0] and "source_addresses" in lines[1]
    said = done.stdout + done.stderr
    assert all(line in said for line in lines), said
