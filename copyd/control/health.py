"""Health and metrics: ``/healthz`` ``/livez`` ``/readyz`` ``/status`` ``/metrics``. Loopback only, read-only, no login.

live: the loop turns. ready: the daemon copies; 503 with the reasons when it does not (replaying, draining, a venue away,
the journal nearly full). A supervisor restarts on the first; an operator or a load balancer looks at the second.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Protocol

import msgspec
from aiohttp import web

from copyd.errors import AddressTaken, OperatorError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class HealthSource(Protocol):
    """What the application says about itself; called on the loop, must be quick."""

    def not_alive(self) -> list[str]:
        """Reasons to be restarted; empty while the loop turns in time."""
        ...

    def not_ready(self) -> list[str]:
        """Reasons why openings are not copied now; empty when all is well."""
        ...

    def summary(self, samples: bool) -> dict[str, Any]:
        """The daemon's figures as one JSON object; with ``samples`` also the single fan-outs behind the percentiles."""
        ...

    def metrics_text(self) -> bytes:
        """Prometheus exposition."""
        ...


def _json(data: Any, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(data) + b"\n", status=status, content_type="application/json")


class HealthServer:
    """A listener of its own, so that closing the control socket never blinds the supervisor."""

    def __init__(self, source: HealthSource, host: str = "127.0.0.1", port: int = 0) -> None:
        if host not in LOOPBACK:
            raise OperatorError(f"health.host: {host} is not loopback; there is no login on this listener")
        self._source = source
        self._host = host
        self.port = port  # after `start`: the port listened on
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application(client_max_size=1024)
        application.router.add_get("/healthz", self._alive)
        application.router.add_get("/livez", self._alive)
        application.router.add_get("/readyz", self._ready)
        application.router.add_get("/status", self._status)
        application.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self.port))
            listener.setblocking(False)
            await web.SockSite(runner, listener).start()
        except OSError as error:
            listener.close()
            await runner.cleanup()
            taken = error.errno == errno.EADDRINUSE
            what = "is taken by another process, perhaps another copyd" if taken else f"cannot be used: {error.strerror}"
            raise AddressTaken(f"port {self.port} on {self._host} {what} (health.port; 0 picks a free one)") from None
        self.port = int(listener.getsockname()[1])
        self._runner = runner

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _alive(self, request: web.Request) -> web.StreamResponse:
        reasons = self._source.not_alive()
        return _json({"alive": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _ready(self, request: web.Request) -> web.StreamResponse:
        reasons = self._source.not_alive() + self._source.not_ready()
        return _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return _json(self._source.summary(request.query.get("samples") == "1"), 200)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._source.metrics_text(), headers={"Content-Type": CONTENT_TYPE})
