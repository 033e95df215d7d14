"""Signals, reload, health, and a venue that goes away and comes back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import orjson
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.harness import Process, Stage, Venue, free_port, proportional, wait_for

NINE = proportional(1000)


def test_sigterm_drains_and_leaves_with_0(stage: Callable[..., Stage]) -> None:
    """Orders on their way end first: the only word on one of them comes 500 ms late, and the journal knows how they ended."""
    s = stage(3)
    s.start(s.plan(i) for i in range(3))
    s.venue.faults({"action": "delay_reply", "method": "order.place", "account": s.names[0], "delay_ms": 500, "count": 1},
                   {"action": "drop_event", "account": s.names[0], "count": 20})
    s.leader.buy("1.000")
    wait_for(lambda: s.venue.fault_hits(), 3)
    began = time.monotonic()
    s.daemon.signal(signal.SIGTERM)
    code, text = s.ends()
    assert code == 0, text
    assert time.monotonic() - began > 0.2, "it did not wait for the answer"
    s.holds_truth(NINE)
    s.venue.no_faults()
    s.start()
    assert s.status()["in_doubt"] == 0 and not s.status()["orders_unfinished"]
    s.leader.sell("1.000")
    s.holds(0)
    s.no_id_twice()


def test_a_second_sigterm_stops_now(stage: Callable[..., Stage]) -> None:
    """What is unanswered then is settled by asking at the next start."""
    s = stage(2)
    s.config["runtime"]["drain_timeout_s"] = 60
    s.config["venues"][0]["order_ack_timeout_ms"] = 30_000
    s.write_config()
    s.start(s.plan(i) for i in range(2))
    s.venue.faults({"action": "drop_reply", "method": "order.place", "account": s.names[0], "count": 1},
                   {"action": "drop_event", "account": s.names[0], "count": 20})
    s.leader.buy("1.000")
    wait_for(lambda: s.venue.fault_hits(), 3)
    s.daemon.signal(signal.SIGTERM)
    wait_for(lambda: "draining" in " ".join(s.readyz()[1]), 3, lambda: str(s.readyz()))
    time.sleep(0.3)
    assert s.daemon.running
    s.daemon.signal(signal.SIGTERM)
    assert s.daemon.wait(5) == 0
    s.venue.no_faults()
    s.start()
    s.holds(NINE)
    s.leader.sell("1.000")
    s.holds(0)
    s.no_id_twice()


def test_sigterm_during_the_start(stage: Callable[..., Stage]) -> None:
    """A start that waits for the venue is not waited for."""
    s = stage(1)
    s.start([s.plan(0)])
    s.stop()
    s.config["venues"][0].update(private_stream_url=f"ws://127.0.0.1:{free_port()}/x", connect_timeout_ms=20_000)
    s.write_config()
    s.launch()
    wait_for(lambda: '"open"' in s.daemon.text(), 10)
    s.daemon.signal(signal.SIGTERM)
    code, text = s.ends(5)
    assert code == 0 and "Traceback" not in text, text


def test_sighup_takes_a_valid_file_and_keeps_the_old_one_on_error(stage: Callable[..., Stage]) -> None:
    s = stage(1)
    s.start([s.plan(0)])
    s.config["copy"] = {"max_event_age_ms": 1777}
    s.write_config()
    s.daemon.signal(signal.SIGHUP)
    wait_for(lambda: s.client.config().copy.max_event_age_ms == 1777, 5)
    s.path.write_text(s.path.read_text() + "\nnonsense: [1\n")
    s.daemon.signal(signal.SIGHUP)
    wait_for(lambda: "the old configuration stays" in s.daemon.text(), 5, s.daemon.tail)
    done = s.ctl("reload")
    assert done.returncode == 78 and "copyd.yaml" in done.stderr, done.stderr
    s.config["site"]["id"] = 9
    s.config["copy"] = {"max_event_age_ms": 1888}
    s.write_config()
    refused = s.ctl("reload")
    assert refused.returncode != 0 and "site" in refused.stderr
    assert s.client.config().copy.max_event_age_ms == 1777
    assert s.readyz()[0] == 200
    s.leader.buy("1.000")
    s.holds(NINE)
    s.leader.sell("1.000")
    s.holds(0)


def test_health_and_metrics(stage: Callable[..., Stage]) -> None:
    """/metrics is Prometheus text that a parser not ours takes; no label carries an account or a follower."""
    s = stage(3)
    s.start(s.plan(i) for i in range(3))
    s.leader.buy("1.000")
    s.holds(NINE)
    s.leader.sell("1.000")
    s.holds(0)
    s.quiet()
    assert s.http("/healthz")[0] == s.http("/livez")[0] == s.http("/readyz")[0] == 200
    code, body = s.http("/metrics")
    assert code == 200
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    values = {sample.name: sample.value for family in families.values() for sample in family.samples if not sample.labels}
    assert values["copyd_ready"] == 1 and values["copyd_orders_in_doubt"] == 0
    assert sum(s.value for f in families.values() for s in f.samples if s.name == "copyd_orders_sent_total") == 6
    for family in families.values():
        for sample in family.samples:
            for value in sample.labels.values():
                assert value != "lead" and not any(name in value for name in s.names), sample
    assert len(body) < 100_000
    assert s.http("/status")[0] == 200 and orjson.loads(s.http("/status")[1])["ready"] is True
    assert s.http("/nothing")[0] == 404


def test_the_leader_stream_breaks_and_comes_back(stage: Callable[..., Stage]) -> None:
    """What happened meanwhile is back-filled: an opening observed, a reduction applied; then live copying goes on."""
    s = stage(2)
    s.start([s.plan(0), s.plan(1)])
    s.leader.buy("1.000")
    s.holds(NINE)
    s.quiet()
    s.venue.faults({"action": "drop_event", "account": s.leader.name, "event": "ORDER_TRADE_UPDATE"},
                   {"action": "drop_event", "account": s.leader.name, "event": "ACCOUNT_UPDATE"})
    s.leader.sell("0.500")
    time.sleep(0.2)
    assert set(s.lots().values()) == {NINE}
    s.venue.no_faults()
    s.venue.tell("/disconnect", {"kind": "streams"})
    s.holds(proportional(1000, 500))
    s.wait_ready()
    s.leader.buy("0.500")
    s.settled(1)
    assert all(lots > proportional(1000, 500) for lots in s.lots().values())
    s.leader.sell("1.000")
    s.holds(0)
    s.no_id_twice()


def test_every_connection_breaks_in_mid_fan_out(stage: Callable[..., Stage]) -> None:
    """Order connections cut with orders on them: all in doubt, settled by asking, at the target in the end."""
    s = stage(12)
    s.start(s.plan(i) for i in range(12))
    s.venue.faults(
        *[{"action": "disconnect" if i % 2 else "disconnect_live", "account": s.names[i], "method": "order.place", "count": 1}
          for i in range(2)],
        {"action": "delay", "delay_ms": 200, "account": s.names[5], "method": "order.place", "count": 1},
    )
    s.leader.buy("1.000")
    s.holds(NINE, seconds=15)
    s.wait_ready()
    s.leader.sell("1.000")
    s.holds(0)
    s.no_id_twice()
    s.stop()
    s.all_named()


def start_exchange(folder: Path, ports: dict[str, int], ready: Path) -> Process:
    ready.unlink(missing_ok=True)
    process = Process(
        ["-m", "copyd.exchange.main", "--port", str(ports["rest"]), "--ws-port", str(ports["ws"]), "--control-port",
         str(ports["control"]), "--seed", "7", "--lift", "all", "--quiet", "--ready-file", str(ready)],
        folder / "exchange.log",
    )
    wait_for(ready.exists, 20, process.tail)
    return process


def test_the_exchange_stands_still_and_goes_on(tmp_path: Path) -> None:
    """Away while the daemon runs: not ready, with reasons; when it is back the daemon recovers by itself."""
    ports = {name: free_port() for name in ("rest", "ws", "control")}
    exchange = start_exchange(tmp_path, ports, tmp_path / "ready.json")
    try:
        with Stage(tmp_path, Venue(orjson.loads((tmp_path / "ready.json").read_bytes())), 2) as s:
            s.config["copy"] = {"quote_max_age_ms": 1000}
            s.write_config()
            s.start([s.plan(0), s.plan(1)])
            s.leader.buy("1.000")
            s.holds(NINE)
            s.quiet()
            exchange.signal(signal.SIGSTOP)
            try:
                reasons = wait_for(lambda: s.readyz()[1] if s.readyz()[0] == 503 else None, 10)
            finally:
                exchange.signal(signal.SIGCONT)
            assert any("quote" in reason for reason in reasons), reasons
            s.wait_ready(20)
            s.leader.sell("1.000")
            s.holds(0)
            s.leader.buy("1.000")
            s.settled(1)
            assert all(s.lots().values())
            s.leader.sell("1.000")
            s.holds(0)
            # Gone for good: every connection refused.
            exchange.kill()
            reasons = wait_for(lambda: r if len(r := s.readyz()[1]) >= 3 else None, 10, lambda: str(s.readyz()))
            text = "; ".join(reasons)
            assert "order connection" in text and "leader lead" in text and "quote" in text, reasons
            assert s.http("/healthz")[0] == 200
            assert s.daemon.running
            s.venue.no_faults = lambda: None  # type: ignore[method-assign]
            s.daemon.signal(signal.SIGTERM)
            assert s.daemon.wait(15) == 0
    finally:
        exchange.kill()
