"""The systemd unit: how far it confines the daemon, and that it says what the daemon does."""

import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "copyd.service"


def _settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_scores_1_5_or_better():
    """The exposure score of systemd's own tool, offline; 15 is its notation for 1.5."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.fail("systemd-analyze is missing, so the unit cannot be scored: apt install systemd")
    command = [tool, "security", "--offline=true", "--threshold=15", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    verdict = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
    assert done.returncode == 0, verdict
    score = re.search(r"exposure level for copyd\.service: ([0-9.]+)", done.stdout)
    assert score is not None, verdict
    assert float(score.group(1)) <= 1.5


def test_the_manager_waits_for_readiness_and_watches_the_loop():
    settings = _settings()
    assert settings["Type"] == ["notify"]
    assert int(settings["WatchdogSec"][0]) <= 10
    assert settings["ExecStart"][0].split()[1:] == ["run", "--config", "/etc/copyd/copyd.yaml"]


def test_errors_that_a_restart_cannot_mend_are_not_restarted():
    """Usage, damaged journal, disk and configuration: the exit codes of errors.py."""
    from copyd.errors import ConfigError, Fenced, JournalError, UsageError, WorldError

    codes = {int(code) for code in _settings()["RestartPreventExitStatus"][0].split()}
    assert codes == {kind.exit_code for kind in (UsageError, JournalError, WorldError, ConfigError, Fenced)}


def test_a_drain_fits_into_the_time_the_manager_gives():
    from copyd.config import RuntimeConfig

    assert int(_settings()["TimeoutStopSec"][0]) > RuntimeConfig().drain_timeout_s


def test_reload_checks_the_file_before_the_signal():
    first, second = _settings()["ExecReload"]
    assert "check-config" in first
    assert second.endswith("-HUP $MAINPID")


def test_keys_come_as_a_credential_and_never_through_the_environment():
    settings = _settings()
    assert settings["LoadCredential"][0].startswith("exchange-keys:")
    assert "Environment" not in settings
    assert "EnvironmentFile" not in settings


def test_every_command_in_the_unit_exists():
    """The words after the program are commands of the real command line."""
    from copyd.cli import app

    for value in [*_settings()["ExecStart"], *_settings()["ExecStartPre"], _settings()["ExecReload"][0]]:
        assert value.split()[1] in app


def test_the_unit_parses_as_sections():
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    assert parser.sections() == ["Unit", "Service", "Install"]
