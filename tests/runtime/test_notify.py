"""The manager's protocol, spoken to a real datagram socket."""

import socket

import pytest

from copyd.runtime.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if request.param == "path":
        address = bound = str(tmp_path / "notify")
    else:
        name = f"copyd-test-{tmp_path.name}-{id(server)}"
        address, bound = "@" + name, "\0" + name
    server.bind(bound)
    server.settimeout(5)
    yield server, address
    server.close()


def test_every_message_arrives_as_its_own_datagram(manager):
    server, address = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000"}, pid=7)
    assert notifier.active
    assert notifier.watchdog_interval_ns == 10_000_000_000
    assert notifier.beat_interval_ns == 5_000_000_000
    sent = [
        (notifier.ready("1000 followers"), b"READY=1\nSTATUS=1000 followers"),
        (notifier.status("in sync"), b"STATUS=in sync"),
        (notifier.reloading(2_500_000), b"RELOADING=1\nMONOTONIC_USEC=2500"),
        (notifier.watchdog(), b"WATCHDOG=1"),
        (notifier.extend_timeout(3), b"EXTEND_TIMEOUT_USEC=3000000"),
        (notifier.stopping("draining"), b"STOPPING=1\nSTATUS=draining"),
    ]
    for delivered, text in sent:
        assert delivered
        assert server.recv(4096) == text
    notifier.close()


def test_a_status_cannot_smuggle_another_variable(manager):
    server, address = manager
    notifier = Notifier(address)
    notifier.status("a\nREADY=1")
    assert server.recv(4096) == b"STATUS=a READY=1"
    notifier.close()


def test_a_manager_that_does_not_read_never_blocks_the_loop(manager):
    """The queue fills, the rest is dropped and counted; the call returns at once."""
    _, address = manager
    notifier = Notifier(address)
    delivered = [notifier.watchdog() for _ in range(5_000)]
    assert delivered[0]
    assert notifier.dropped == delivered.count(False) > 0
    notifier.close()


def test_without_a_manager_nothing_happens():
    notifier = Notifier.from_environment({})
    assert not notifier.active
    assert not notifier.ready()
    assert notifier.beat_interval_ns == 0


def test_a_manager_that_went_away_is_counted_not_raised(tmp_path):
    notifier = Notifier(str(tmp_path / "gone"))
    assert not notifier.ready()
    assert notifier.dropped == 1


def test_the_watchdog_of_another_process_is_not_ours():
    """A child inherits the variables of its parent; the pid says whose they are."""
    environ = {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}
    assert Notifier.from_environment(environ, pid=2).watchdog_interval_ns == 0
    assert Notifier.from_environment(environ, pid=1).watchdog_interval_ns == 10_000_000_000
