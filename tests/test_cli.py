"""The command line: groups, exit codes, one message per error, and how little it imports."""

import importlib.util
import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from copyd import cli
from copyd.configfile import config_text, example
from copyd.control.protocol import ScopeKind
from copyd.errors import BrokenInvariant, JournalError, UsageError
from copyd.followers import COLUMNS
from copyd.telemetry.logs import setup_logs

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "config" / "copyd.yaml"


def _python(*arguments: str, **options):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options)


def test_the_help_groups_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    places = [text.index(f"─ {group} ─") for group in ("Run", "Check", "Operate", "Inspect", "Bench", "Demo")]
    assert places == sorted(places)
    for command in ("run", "exchange", "check-config", "config", "ctl", "replay", "verify", "explain", "bench", "demo"):
        assert f"│ {command} " in text


@pytest.mark.parametrize(
    "command",
    [
        ["run"],
        ["check-config"],
        ["config", "show"],
        ["config", "init"],
        ["config", "schema"],
        ["replay"],
        ["verify"],
        ["explain"],
        *(
            ["ctl", name]
            for name in ("status", "pause", "resume", "close-only", "kill-switch", "import", "reload", "drain", "explain")
        ),
        *(["ctl", "plan", name] for name in ("add", "change", "stop")),
    ],
)
def test_every_command_ends_its_help_with_an_example(capsys, command):
    assert cli.main([*command, "--help"]) == 0
    assert f"Example: copyd {' '.join(command)}" in capsys.readouterr().out


def test_the_version_says_whether_the_compiled_part_is_there(capsys):
    assert cli.main(["--version"]) == 0
    assert "compiled kernels present" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["verify"], ["check-config", "--nope"], ["ctl", "kill-switch", "maybe", "--reason", "x"]]
)
def test_wrong_usage_exits_2(capsys, arguments):
    assert cli.main(arguments) == 2
    streams = capsys.readouterr()
    assert "Error" in streams.err + streams.out


def test_a_good_configuration_exits_0_and_says_its_hash(capsys):
    assert cli.main(["check-config", "-c", str(SHIPPED), "--no-env"]) == 0
    assert "good, hash" in capsys.readouterr().out
    assert cli.main(["check-config", str(SHIPPED), "--no-env", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_bad_configuration_exits_78_with_every_problem_on_stderr(capsys, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(config_text(example(), comments=False).replace("id: 1", "id: x").replace("port: 9464", "port: 70000"))
    assert cli.main(["check-config", "-c", str(path)]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines[:-1]] == ["site.id", "health.port"]
    assert lines[-1] == f"{path}: 2 problems"
    assert cli.main(["check-config", "-c", str(path), "--format", "json"]) == 78
    report = json.loads(capsys.readouterr().out)
    assert [problem["key"] for problem in report["problems"]] == ["site.id", "health.port"]
    for command in (["run"], ["config", "show"], ["ctl", "status"]):
        assert cli.main([*command, "-c", str(path)]) == 78
        assert capsys.readouterr().err.splitlines() == lines[:-1]


def test_the_environment_is_looked_at_unless_told_not_to(capsys):
    assert cli.main(["check-config", "-c", str(SHIPPED)]) == 0
    assert "does not exist" in capsys.readouterr().err


def test_the_schema_and_a_fresh_configuration_are_the_shipped_ones(capsys):
    assert cli.main(["config", "schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "config" / "schema.json").read_text()
    assert cli.main(["config", "init"]) == 0
    assert capsys.readouterr().out == SHIPPED.read_text()


def test_the_effective_configuration_names_the_origin_of_each_value(capsys, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(config_text(example(), comments=False).split("runtime:")[0])
    assert cli.main(["config", "show", str(path), "--effective", "--origin"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"mode: simulate  # {path}:1" in lines
    assert "runtime.drain_timeout_s: 20  # default" in lines


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (JournalError("record 7 is damaged"), 65, "copyd: JournalError: record 7 is damaged\n"),
        (UsageError("name one of both"), 2, "copyd: name one of both\n"),
        (BrokenInvariant("a leg lost its target"), 70, "copyd: BrokenInvariant: a leg lost its target\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            ImportError("No module named 'copyd._fast.columns'", name="copyd._fast.columns"),
            78,
            "copyd: the compiled part copyd._fast.columns is missing or was built for another Python: "
            "run `make build` in a source tree, or install copyd again\n",
        ),
    ],
)
def test_an_error_is_one_message_and_its_exit_code(monkeypatch, capsys, error, code, words):
    def fail(module, name):
        def call(*arguments):
            raise error

        return call

    monkeypatch.setattr(cli, "_late", fail)
    assert cli.main(["verify", "somewhere"]) == code
    assert capsys.readouterr().err == words


def test_an_error_nobody_meant_keeps_its_traceback(monkeypatch):
    def fail(module, name):
        raise ImportError("No module named 'somebody.else'", name="somebody.else")

    monkeypatch.setattr(cli, "_late", fail)
    with pytest.raises(ImportError):
        cli.main(["verify", "somewhere"])


def test_delegated_commands_get_their_arguments_untouched(monkeypatch):
    got = []
    monkeypatch.setattr(cli, "_late", lambda module, name: lambda arguments: got.append((module, arguments)) or 3)
    for command, (module, _) in cli.DELEGATED.items():
        assert cli.main([command, "--followers", "5", "--help", "-x"]) == 3
        assert got.pop() == (module, ["--followers", "5", "--help", "-x"])


def test_inspect_commands_hand_over_what_they_were_given(monkeypatch):
    got = []
    monkeypatch.setattr(cli, "_late", lambda module, name: lambda *arguments: got.append((module, name, arguments)) or 0)
    assert cli.main(["replay", "j", "--decisions", "d"]) == 0
    assert cli.main(["verify", "j"]) == 0
    assert cli.main(["explain", "ab12", "--journal", "j"]) == 0
    assert cli.main(["explain", "--event", "7", "--follower", "f1", "-c", str(SHIPPED)]) == 0
    assert cli.main(["explain", "--event", "7"]) == 2
    assert got == [
        ("copyd.inspect", "replay", (Path("j"), Path("d"))),
        ("copyd.inspect", "verify", (Path("j"),)),
        ("copyd.inspect", "explain", (Path("j"), "ab12", "", "", False)),
        ("copyd.inspect", "explain", (Path("var/journal"), "", "7", "f1", False)),
    ]


def test_the_command_line_imports_nothing_heavy():
    """A check of the configuration loads neither the network stack nor the journal nor the live view."""
    code = (
        "import sys; from copyd.cli import main; "
        f"rc = main(['check-config', {str(SHIPPED)!r}, '--no-env', '-q']); "
        "heavy = {'aiohttp', 'uvloop', 'lmdb', 'structlog', 'prometheus_client', 'websockets', 'picows', 'rich'}; "
        "print(rc, sorted(heavy & set(sys.modules)))"
    )
    assert _python("-c", code).stdout.strip() == "0 []"


def test_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -m copyd config init | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""


# --- ctl against a real socket ---------------------------------------------------------------------------------------


@pytest.fixture
def ctl(tmp_path, capsys):
    """`copyd ctl ...` against a daemon in memory; gives (exit code, stdout, stderr)."""
    spec = importlib.util.spec_from_file_location("control_conftest", ROOT / "tests" / "control" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    setup_logs("json", "error", io.StringIO(), environ={})
    running = module.Running(tmp_path / "c.sock")

    def run(*arguments: str):
        code = cli.main(["ctl", *arguments, "--socket", str(running.path)])
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    run.daemon = running.daemon
    yield run
    running.stop()
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []


def test_ctl_asks_and_shows(ctl):
    assert json.loads(ctl("status")[1]) == {"state": "running", "plans": 0}
    assert ctl("pause", "--leader", "alice")[0] == 0
    assert ctl("close-only", "--instrument", "BTCUSDT")[0] == 0
    assert ctl("resume", "--all")[0] == 0
    assert ctl("kill-switch", "on", "--reason", "a test")[0] == 0
    assert [call[:2] for call in ctl.daemon.calls] == [
        ("pause", "leader alice"),
        ("close_only", "instrument BTCUSDT"),
        ("resume", "all"),
        ("kill True", "all: a test"),
    ]


def test_ctl_passes_refusals_on_with_their_exit_codes(ctl):
    assert ctl("pause", "--leader", "bob") == (1, "", "copyd: no leader is called bob\n")
    assert ctl("pause")[0] == 2
    assert ctl("pause", "--all", "--leader", "alice")[0] == 2
    code, _, errors = ctl("reload")
    assert (code, errors.splitlines()) == (78, ["copyd.yaml:1:1: mode: wrong (hint)", "copyd.yaml:2:1: site: wrong"])


def test_ctl_imports_a_file_with_progress_or_names_every_bad_row(ctl, tmp_path):
    path = tmp_path / "followers.csv"
    rows = "".join(f"f{i},alice,1000,proportional\n" for i in range(3_000))
    path.write_text("follower,leader,allocation,mode\n" + rows)
    assert ctl("import", str(path), "--check")[1] == f"{path}: 3000 plans, no problem\n"
    assert not ctl.daemon.plans
    code, out, progress = ctl("import", str(path))
    assert (code, out) == (0, f"{path}: 3000 plans imported\n")
    assert "3000/3000" in progress
    assert len(ctl.daemon.plans) == 3_000
    path.write_text("follower,leader,allocation,mode\nx,alice,1e3,proportional\ny,bob,1,proportional\n")
    code, _, errors = ctl("import", str(path))
    assert code == 78
    assert [line.split(" ")[0] for line in errors.splitlines()] == [f"{path}:2:", f"{path}:3:"]
    assert len(ctl.daemon.plans) == 3_000


def test_ctl_adds_changes_and_stops_plans(ctl):
    assert ctl("plan", "add", "follower=f1", "leader=alice", "allocation=1000", "mode=proportional")[0] == 0
    assert ctl("plan", "change", "f1", "max_position_bps=2000")[0] == 0
    assert ctl.daemon.plans["f1"].max_position_bps == 2_000
    assert ctl("plan", "change", "f1", "allocation")[0] == 78
    assert ctl("plan", "add", "follower=f1")[0] == 78
    assert ctl("plan", "stop", "f1")[0] == 0


def test_ctl_without_a_daemon_exits_69(capsys, tmp_path):
    assert cli.main(["ctl", "status", "--socket", str(tmp_path / "none")]) == 69
    assert "is copyd running?" in capsys.readouterr().err


def test_scopes_of_the_command_line_are_those_of_the_socket():
    from typing import get_args

    from copyd.control.commands import Target

    assert set(Target.__dataclass_fields__) == set(get_args(ScopeKind))


def test_the_help_of_import_lists_every_column(capsys):
    assert cli.main(["ctl", "import", "--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").replace(".", " ").split()
    assert set(COLUMNS) <= set(words)


def test_a_port_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["exchange", "--port", "99999"])
    assert ended.value.code == 2
    assert "99999 is no port" in capsys.readouterr().err
