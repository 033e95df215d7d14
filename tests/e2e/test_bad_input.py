"""Bad input and a bad world: one clear sentence, the right exit code, and nothing lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import orjson
import pytest

from tests.e2e.harness import Process, Stage, free_port, proportional, wait_for

NINE = proportional(1000)


def sentence(s: Stage, code: int, *parts: str, seconds: float = 30) -> str:
    """The daemon ends with this code and one sentence that holds the parts; no traceback."""
    ended, text = s.ends(seconds)
    assert "Traceback" not in text, text
    last = text.strip().splitlines()[-1] if text.strip() else ""
    assert ended == code, text
    for part in parts:
        assert part in last, f"{part!r} is not in: {last}"
    return last


def second_config(s: Stage, **journal: object) -> Path:
    """The same configuration with a door and a health port of its own."""
    config = {**s.config, "control": {**s.config["control"], "socket": str(s.folder / "second.sock")},
              "health": {**s.config["health"], "port": free_port()}, "journal": {**s.config["journal"], **journal}}
    path = s.folder / "second.yaml"
    path.write_text(orjson.dumps(config).decode())
    return path


def run(s: Stage, path: Path) -> Process:
    process = Process(["-m", "copyd.cli", "run", "-c", str(path)], s.folder / f"other-{len(s.processes)}.log")
    s.processes.append(process)
    return process


def test_a_second_daemon_on_the_same_journal_is_refused(stage: Callable[..., Stage]) -> None:
    """flock: the second names the process that holds the journal and leaves at once; the first goes on."""
    s = stage(1)
    s.start([s.plan(0)])
    second = run(s, second_config(s))
    code = second.wait(20)
    last = second.text().strip().splitlines()[-1]
    assert code == 75 and str(s.daemon.pid) in last and str(s.journal) in last, (code, second.text())
    assert "Traceback" not in second.text()
    s.leader.buy("1.000")
    s.holds(NINE)


def test_a_health_port_that_is_taken(stage: Callable[..., Stage]) -> None:
    """Another journal, the same port: named, exit 69; the first daemon is not disturbed."""
    s = stage()
    s.start()
    config = {**s.config, "journal": {**s.config["journal"], "path": str(s.folder / "another-journal")}}
    path = s.folder / "second-port.yaml"
    path.write_text(orjson.dumps(config).decode())
    second = run(s, path)
    assert second.wait(20) == 69
    assert str(s.health_port) in second.text() and "Traceback" not in second.text(), second.text()
    assert s.readyz()[0] == 200
    assert s.status(), "the first lost its control socket"


def test_a_control_socket_that_is_taken(stage: Callable[..., Stage]) -> None:
    s = stage()
    s.start()
    config = {**s.config, "health": {**s.config["health"], "port": free_port()},
              "journal": {**s.config["journal"], "path": str(s.folder / "other-journal")}}
    path = s.folder / "third.yaml"
    path.write_text(orjson.dumps(config).decode())
    third = run(s, path)
    assert third.wait(20) == 69
    assert str(s.socket) in third.text() and "Traceback" not in third.text(), third.text()
    assert s.status(), "the first lost its control socket"


@pytest.mark.parametrize("kind", ["text", "lmdb", "site"])
def test_a_foreign_journal_is_refused_and_left_alone(stage: Callable[..., Stage], kind: str) -> None:
    s = stage()
    if kind == "site":
        s.start()
        s.stop()
        s.config["site"]["id"] = 8
        s.write_config()
    else:
        s.journal.mkdir(mode=0o700)
        if kind == "text":
            (s.journal / "data.mdb").write_bytes(b"this is someone's diary\n" * 1000)
        else:
            with lmdb.open(str(s.journal), map_size=1 << 20) as other, other.begin(write=True) as txn:
                txn.put(b"a", b"b")
    before = (s.journal / "data.mdb").read_bytes()
    s.launch()
    sentence(s, 65, "journal")
    assert (s.journal / "data.mdb").read_bytes() == before


def test_a_damaged_journal_is_refused_with_its_record(stage: Callable[..., Stage]) -> None:
    """A byte of a record flipped on disk: refused, and the record is named."""
    s = stage(2)
    s.start([s.plan(0), s.plan(1)])
    s.leader.buy("1.000")
    s.holds(NINE)
    s.daemon.kill()
    path = s.journal / "data.mdb"
    # Inside the record of the import, in whichever page is the live one.
    path.write_bytes(path.read_bytes().replace(s.names[0].encode(), s.names[0].upper().encode()))
    s.launch()
    sentence(s, 65, "record")


def test_a_leader_without_a_credential(stage: Callable[..., Stage]) -> None:
    s = stage()
    s.write_credentials([])
    s.launch()
    sentence(s, 78, "lead", "credential")


def test_a_leader_with_a_wrong_key(stage: Callable[..., Stage]) -> None:
    """One sentence that says whose key and what the venue said; the key itself is not in it."""
    s = stage()
    rows = s.credential_rows()
    rows[0]["key"] = "0" * 64
    s.write_credentials(rows)
    s.launch()
    last = sentence(s, 78, "lead")
    assert "key" in last.lower() and "0" * 64 not in last


def test_a_leader_with_a_wrong_secret(stage: Callable[..., Stage]) -> None:
    s = stage()
    rows = s.credential_rows()
    rows[0]["secret"] = "1" * 64
    s.write_credentials(rows)
    s.launch()
    last = sentence(s, 78, "lead")
    assert "ignature" in last and "1" * 64 not in last


def test_followers_with_wrong_keys_wait_and_the_others_are_copied(stage: Callable[..., Stage]) -> None:
    """An account whose key or secret is wrong is not ready and named; it holds up nobody else."""
    s = stage(4)
    rows = s.credential_rows()
    rows[1]["key"] = "0" * 64
    rows[2]["secret"] = "1" * 64
    s.write_credentials(rows)
    s.start([s.plan(i) for i in range(4)], ready=False)
    s.wait_ready()
    s.leader.buy("1.000")
    good = s.names[2:]
    s.holds(dict.fromkeys(good, NINE) | dict.fromkeys(s.names[:2], 0))
    text = s.daemon.text()
    assert s.names[0] in text and s.names[1] in text
    wait_for(lambda: s.status()["forgone"].get("leg_not_ready", 0) == 2, 3, lambda: str(s.status()))
    s.leader.sell("1.000")
    s.holds(0)
    s.stop()


def test_a_follower_without_a_credential(stage: Callable[..., Stage]) -> None:
    """Refused at import, by name; a credential that is gone at a later start stops that account only."""
    s = stage(3)
    s.write_credentials(s.credential_rows()[:3])
    s.start(ready=False)
    refused = s.ctl("import", s.write_plans(s.plan(i) for i in range(3)))
    assert refused.returncode == 1 and s.names[2] in refused.stderr and "nothing was imported" in refused.stderr
    assert s.status()["followers"] == 0
    s.write_credentials()  # the missing one arrives; no restart needed
    assert s.ctl("import", s.write_plans(s.plan(i) for i in range(3))).returncode == 0
    s.wait_ready()
    s.stop()
    s.write_credentials(s.credential_rows()[:3])
    s.start(ready=False)
    time.sleep(1)
    s.leader.buy("1.000")
    s.holds({s.names[0]: NINE, s.names[1]: NINE, s.names[2]: 0})
    assert s.names[2] in s.daemon.text()
    s.leader.sell("1.000")
    s.holds(0)


def test_every_bad_row_of_a_follower_file_is_named_and_none_imported(stage: Callable[..., Stage]) -> None:
    s = stage(4)
    s.start(ready=False)
    rows = [
        s.plan(0), {**s.plan(1), "allocation": "1e9"}, {**s.plan(2), "mode": "hope"}, {**s.plan(3), "instruments": ["DOGEUSDT"]},
        s.plan(0), {**s.plan(1), "follower": "x", "leader": "bob"},
    ]
    path = s.write_plans(rows)
    with path.open("ab") as file:
        file.write(b"{not json\n")
    done = s.ctl("import", path)
    assert done.returncode == 78, done.stderr
    for line in (2, 3, 4, 5, 6, 7):
        assert f"{path.name}:{line}" in done.stderr or f"{path}:{line}" in done.stderr, f"line {line}: {done.stderr}"
    assert f"{path}:1:" not in done.stderr
    assert s.status()["followers"] == 0


def test_an_unknown_symbol_in_the_configuration(stage: Callable[..., Stage]) -> None:
    s = stage()
    s.config["instruments"].append({"symbol": "NOSUCHUSDT", "venue": "sim", "class": "others"})
    s.write_config()
    s.launch()
    sentence(s, 78, "NOSUCHUSDT")


def test_instruments_in_another_order_than_the_journal_knows(stage: Callable[..., Stage]) -> None:
    s = stage()
    s.start()
    s.stop()
    s.config["instruments"].reverse()
    s.write_config()
    s.launch()
    sentence(s, 78, "BTCUSDT", "SOLUSDT")


def test_twenty_mistakes_at_once(stage: Callable[..., Stage]) -> None:
    """`copyd run` says all of them, as `check-config` does, and starts nothing."""
    s = stage()
    s.config["journal"]["map_size"] = 1
    s.config["venues"][0]["recv_window_ms"] = "soon"
    s.config["copy"] = {"leverage": 0.5}
    s.write_config()
    s.launch()
    code, text = s.ends()
    assert code == 78 and "Traceback" not in text
    for word in ("map_size", "recv_window_ms", "leverage"):
        assert word in text
    assert not s.journal.exists()


@pytest.mark.parametrize("skew_ms", [3000, -3000])
def test_a_clock_that_is_off_holds_openings_and_lets_reductions_go(stage: Callable[..., Stage], skew_ms: int) -> None:
    """Off by more than recvWindow: not ready, the reason says by how much; what is open still follows the leader down."""
    s = stage(2)
    s.start([s.plan(0), s.plan(1)])
    s.leader.buy("1.000")
    s.holds(NINE)
    s.stop()
    try:
        s.venue.tell("/clock", {"skew_ms": skew_ms})
        s.start(ready=False)
        reasons = wait_for(lambda: s.readyz()[1], 5)
        assert any("clock" in reason for reason in reasons), reasons
        late = {"timestamp": int(time.time() * 1000) + skew_ms}
        s.leader.order("BUY", "1.000", **late)
        s.events(1)
        time.sleep(0.5)
        assert set(s.lots().values()) == {NINE}, s.lots()
        s.leader.order("SELL", "2.000", timestamp=int(time.time() * 1000) + skew_ms)
        s.holds(0)
    finally:
        s.venue.tell("/clock", {"skew_ms": 0})


def test_the_exchange_is_down_at_the_start(stage: Callable[..., Stage]) -> None:
    """Exit 69 with the address in the sentence."""
    s = stage()
    nowhere = free_port()
    s.config["venues"][0]["rest_url"] = f"http://127.0.0.1:{nowhere}"
    s.write_config()
    s.launch()
    sentence(s, 69, f"127.0.0.1:{nowhere}")


def test_one_of_the_venues_addresses_does_not_answer(stage: Callable[..., Stage]) -> None:
    """Order connections, market streams, user streams: each alone is enough to say so and leave with 69."""
    stages = []
    for what in ("ws_api_url", "public_stream_url", "private_stream_url"):
        s = stage()
        s.config["venues"][0].update({what: f"ws://127.0.0.1:{free_port()}/x", "connect_timeout_ms": 500})
        s.write_config()
        s.launch()
        stages.append(s)
    for s in stages:
        sentence(s, 69)
