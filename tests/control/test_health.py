"""Health and metrics on loopback."""

import asyncio
import socket

import aiohttp
import pytest

from copyd.control.health import HealthServer
from copyd.errors import AddressTaken, OperatorError
from copyd.telemetry.metrics import Metrics


class Source:
    def __init__(self):
        self.dead, self.reasons, self.metrics = [], [], Metrics()

    def not_alive(self):
        return self.dead

    def not_ready(self):
        return self.reasons

    def summary(self, samples):
        return {"decisions": 3, **({"fanout_samples": [[1, 2]]} if samples else {})}

    def metrics_text(self):
        return self.metrics.text()


@pytest.fixture
async def served():
    source = Source()
    server = HealthServer(source)
    await server.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:
        yield source, client
    await server.stop()


async def test_ready_is_503_with_reasons_until_there_are_none(served):
    source, client = served
    source.reasons = ["replaying the journal", "venue binance: no order connection"]
    async with client.get("/readyz") as answer:
        assert answer.status == 503
        assert await answer.json() == {"ready": False, "reasons": source.reasons}
    async with client.get("/healthz") as answer:
        assert answer.status == 200
    source.reasons = []
    async with client.get("/readyz") as answer:
        assert (answer.status, await answer.json()) == (200, {"ready": True, "reasons": []})


async def test_a_stalled_loop_is_neither_alive_nor_ready(served):
    source, client = served
    source.dead = ["the loop has not turned for 1200 ms"]
    for path in ("/healthz", "/livez", "/readyz"):
        async with client.get(path) as answer:
            assert answer.status == 503
            assert (await answer.json())["reasons"] == source.dead


async def test_metrics_are_served_as_prometheus_text(served):
    source, client = served
    source.metrics.inc(source.metrics.counter("copyd_leader_events_total", "Leader events."), 2)
    async with client.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert "copyd_leader_events_total 2.0" in await answer.text()


async def test_the_figures_are_served_as_json(served):
    _, client = served
    async with client.get("/status") as answer:
        assert await answer.json() == {"decisions": 3}
    async with client.get("/status?samples=1") as answer:
        assert await answer.json() == {"decisions": 3, "fanout_samples": [[1, 2]]}


async def test_a_taken_port_is_one_clear_error():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(AddressTaken, match=f"port {port} on 127.0.0.1 is taken") as caught:
            await HealthServer(Source(), port=port).start()
    assert caught.value.exit_code == 69
    await asyncio.sleep(0)


def test_anything_but_loopback_is_refused():
    with pytest.raises(OperatorError, match="not loopback"):
        HealthServer(Source(), host="0.0.0.0")
