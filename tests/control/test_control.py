"""The operators' socket: what it does, what it refuses, and who it says asked."""

import json
import os
import socket
import stat
import threading
import time

import msgspec
import pytest

from copyd.configfile import example
from copyd.control.client import ControlClient
from copyd.control.server import ControlServer
from copyd.errors import AddressTaken, BrokenInvariant, ConfigError, DaemonUnreachable, RequestRefused, UsageError
from copyd.followers import parse_changes, parse_followers, parse_plan


def _specs(n, leader="alice"):
    rows = (
        json.dumps({"follower": f"f{i:05}", "leader": leader, "allocation": "1000", "mode": "proportional"}) for i in range(n)
    )
    specs, problems = parse_followers("f.jsonl", "\n".join(rows), example())
    assert not problems
    return specs


def _raw(path, request: bytes) -> bytes:
    """A request no client of ours would send."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        peer.sendall(request)
        answer = b""
        while chunk := peer.recv(65536):
            answer += chunk
        return answer


def test_status_and_config_come_back_as_they_are(running):
    assert running.client.status() == {"state": "running", "plans": 0}
    assert running.client.status(samples=True) == {"state": "running", "plans": 0, "samples": []}
    assert running.client.config() == example()


def test_the_socket_is_open_to_owner_and_group_only(running):
    assert stat.S_IMODE(running.path.stat().st_mode) == 0o660


def test_every_change_names_the_process_that_asked(running):
    """SO_PEERCRED: the kernel's word, not the client's."""
    running.client.scoped("pause", "leader", "alice")
    running.client.scoped("resume", "all")
    running.client.scoped("close-only", "instrument", "BTCUSDT")
    running.client.kill_switch(True, "fat finger", "plan", "f1")
    running.client.plan_stop("f 1/x")
    assert [(what, detail) for what, detail, _ in running.daemon.calls] == [
        ("pause", "leader alice"),
        ("resume", "all"),
        ("close_only", "instrument BTCUSDT"),
        ("kill True", "plan f1: fat finger"),
        ("stop", "f 1/x"),
    ]
    for _, _, actor in running.daemon.calls:
        assert (actor.pid, actor.uid, actor.gid) == (os.getpid(), os.getuid(), os.getgid())


def test_a_refusal_is_the_daemons_sentence(running):
    with pytest.raises(RequestRefused, match="no leader is called bob"):
        running.client.scoped("pause", "leader", "bob")


def test_all_problems_of_a_reload_arrive(running):
    with pytest.raises(ConfigError) as caught:
        running.client.reload()
    assert caught.value.problems == ["copyd.yaml:1:1: mode: wrong (hint)", "copyd.yaml:2:1: site: wrong"]


def test_a_broken_invariant_reaches_the_application_and_is_not_swallowed(running):
    with pytest.raises(RequestRefused, match="lost its target"):
        running.client.drain()
    assert isinstance(running.broken[0], BrokenInvariant)


def test_an_unexpected_error_is_an_answer_without_its_details(running):
    with pytest.raises(RequestRefused, match="internal error: ZeroDivisionError") as caught:
        running.client.explain_event("boom", "f1")
    assert "secret detail" not in str(caught.value)
    assert running.client.explain_event("7", "f1") == {"event": "7", "follower": "f1"}
    assert running.client.explain_order("ab") == {"client_order_id": "ab"}


@pytest.mark.parametrize(("kind", "name"), [("all", "x"), ("leader", ""), ("planet", "x")])
def test_a_scope_that_makes_no_sense_is_refused(running, kind, name):
    with pytest.raises(UsageError):
        running.client.scoped("pause", kind, name)
    assert not running.daemon.calls


def test_the_kill_switch_wants_a_reason(running):
    with pytest.raises(UsageError, match="needs a reason"):
        running.client.kill_switch(True, "  ")


def test_plans_are_changed_one_request_at_a_time(running):
    threads = [threading.Thread(target=running.client.plan_stop, args=("f1",)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(running.daemon.calls) == 5
    assert running.daemon.concurrent_max == 1


def test_the_kill_switch_never_waits_behind_an_import(running):
    running.daemon.import_pause_s = 0.3
    progress = running.client.import_followers(_specs(5_000))
    next(progress)
    running.client.kill_switch(True, "now")
    assert running.daemon.calls[0][0] == "kill True"
    assert running.daemon.imports_finished == 0
    assert list(progress)[-1]["done"] == 5_000


def test_ten_thousand_followers_are_imported_with_progress(running):
    specs = _specs(10_000)
    progress = list(running.client.import_followers(specs))
    assert progress[-1] == {"stage": "journal", "done": 10_000, "total": 10_000}
    assert [p["done"] for p in progress] == sorted(p["done"] for p in progress)
    assert list(running.daemon.plans.values()) == specs


def test_a_file_is_read_against_the_configuration_of_the_daemon(running, tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("follower,leader,allocation,mode\nf1,alice,10,proportional\n")
    assert [p["done"] for p in running.client.import_file(path)] == [0, 1]
    assert running.daemon.plans["f1"].allocation_e8 == 10 * 10**8


def test_an_import_with_one_bad_plan_imports_none(running):
    specs = [*_specs(50), msgspec.structs.replace(_specs(1)[0], follower="x", leader="nobody")]
    with pytest.raises(ConfigError, match="no leader is called nobody"):
        list(running.client.import_followers(specs))
    assert not running.daemon.plans


def test_an_import_goes_on_when_the_operator_hangs_up(running):
    """Half an import would be worse than one nobody watches."""
    running.daemon.import_pause_s = 0.05
    progress = running.client.import_followers(_specs(5_000))
    next(progress)
    progress.close()
    until = time.monotonic() + 10
    while not running.daemon.imports_finished and time.monotonic() < until:
        time.sleep(0.02)
    assert len(running.daemon.plans) == 5_000


def test_plans_are_added_and_changed(running):
    cells = {"follower": "f1", "leader": "alice", "allocation": "1000", "mode": "proportional"}
    running.client.plan_add(parse_plan(cells, example()))
    with pytest.raises(RequestRefused, match="has a plan already"):
        running.client.plan_add(parse_plan(cells, example()))
    running.client.plan_change("f1", parse_changes({"max_position_bps": "2000", "instruments": "BTCUSDT"}))
    assert running.daemon.plans["f1"].max_position_bps == 2_000
    assert running.daemon.plans["f1"].instruments == ("BTCUSDT",)
    with pytest.raises(RequestRefused, match="no plan of f2"):
        running.client.plan_change("f2", {"leverage": 3})


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /v1/pause HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"405"),
        (b"POST /v1/pause HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\n{x}", b"400"),
        (b"POST /v1/plans HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", b"400"),
        (
            b"POST /v1/pause HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000,
            b"413",
        ),
        (
            b"POST /v1/followers/import HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 40000\r\n\r\n"
            + b"x" * 40_000,
            b"400",
        ),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_a_malformed_request_is_answered_and_nothing_changes(running, request_bytes, status):
    assert _raw(running.path, request_bytes).split(b" ")[1] == status
    assert not running.daemon.calls
    assert running.client.status()["state"] == "running"


def test_a_second_daemon_does_not_take_a_living_socket(running):
    with pytest.raises(AddressTaken, match="another daemon answers"):
        running.run(ControlServer(running.daemon, running.path).start())
    assert running.client.status()["state"] == "running"


def test_a_socket_left_by_a_dead_daemon_is_replaced(running, tmp_path):
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    server = ControlServer(running.daemon, path)
    running.run(server.start())
    assert ControlClient(path).status()["state"] == "running"
    running.run(server.stop())
    assert not path.exists()


def test_a_file_in_the_way_is_not_deleted(running, tmp_path):
    path = tmp_path / "file.sock"
    path.write_text("mine")
    with pytest.raises(AddressTaken, match="is not a socket"):
        running.run(ControlServer(running.daemon, path).start())
    assert path.read_text() == "mine"


def test_without_a_daemon_the_client_says_so(tmp_path):
    with pytest.raises(DaemonUnreachable, match="is copyd running"):
        ControlClient(tmp_path / "none.sock").status()
