"""A daemon in memory behind the real control server on a real Unix socket."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from copyd.config import Config
from copyd.configfile import example
from copyd.control.client import ControlClient
from copyd.control.protocol import Actor, ImportProgress, Scope
from copyd.control.server import ControlServer
from copyd.errors import BrokenInvariant, ConfigError, RequestRefused
from copyd.followers import PlanSpec, apply_changes, check_specs
from copyd.telemetry.logs import setup_logs


class MemoryDaemon:
    """The plainest daemon that satisfies `ControlTarget`."""

    def __init__(self) -> None:
        self.plans: dict[str, PlanSpec] = {}
        self.calls: list[tuple[str, str, Actor]] = []
        self.concurrent = self.concurrent_max = 0
        self.imports_finished = 0
        self.import_pause_s = 0.0

    def config(self) -> Config:
        return example()

    async def status(self, samples: bool) -> dict[str, Any]:
        return {"state": "running", "plans": len(self.plans), **({"samples": []} if samples else {})}

    async def _note(self, what: str, detail: str, actor: Actor) -> dict[str, Any]:
        self.concurrent += 1
        self.concurrent_max = max(self.concurrent, self.concurrent_max)
        await asyncio.sleep(0.01)
        self.concurrent -= 1
        self.calls.append((what, detail, actor))
        return {"done": what, "scope": detail}

    async def pause(self, scope: Scope, actor: Actor) -> dict[str, Any]:
        if scope.kind == "leader" and scope.name != "alice":
            raise RequestRefused(f"no leader is called {scope.name}")
        return await self._note("pause", str(scope), actor)

    async def resume(self, scope: Scope, actor: Actor) -> dict[str, Any]:
        return await self._note("resume", str(scope), actor)

    async def close_only(self, scope: Scope, actor: Actor) -> dict[str, Any]:
        return await self._note("close_only", str(scope), actor)

    async def kill_switch(self, on: bool, scope: Scope, reason: str, actor: Actor) -> dict[str, Any]:
        return await self._note(f"kill {on}", f"{scope}: {reason}", actor)

    async def import_followers(self, specs: list[PlanSpec], actor: Actor) -> AsyncIterator[ImportProgress]:
        problems = check_specs(specs, self.config(), self.plans.values())
        if problems:
            raise ConfigError(problems)
        for done in range(0, len(specs), 1_000):
            yield ImportProgress("journal", done, len(specs))
            await asyncio.sleep(self.import_pause_s)
        self.plans.update((spec.follower, spec) for spec in specs)
        self.imports_finished += 1
        yield ImportProgress("journal", len(specs), len(specs))

    async def plan_add(self, spec: PlanSpec, actor: Actor) -> dict[str, Any]:
        if spec.follower in self.plans:
            raise RequestRefused(f"{spec.follower} has a plan already")
        self.plans[spec.follower] = spec
        return {"added": spec.follower}

    async def plan_change(self, follower: str, changes: Mapping[str, Any], actor: Actor) -> dict[str, Any]:
        if follower not in self.plans:
            raise RequestRefused(f"no plan of {follower}")
        self.plans[follower] = apply_changes(self.plans[follower], changes, self.config())
        return {"changed": sorted(changes)}

    async def plan_stop(self, follower: str, actor: Actor) -> dict[str, Any]:
        return await self._note("stop", follower, actor)

    async def reload(self, actor: Actor) -> dict[str, Any]:
        raise ConfigError(["copyd.yaml:1:1: mode: wrong (hint)", "copyd.yaml:2:1: site: wrong"])

    async def drain(self, actor: Actor) -> dict[str, Any]:
        raise BrokenInvariant("a leg lost its target")

    async def losses(self, count: int) -> dict[str, Any]:
        return {"plans": [{"follower": f"f{n}"} for n in range(count)], "stopped": 0, "of": count, "profit": "0"}

    async def drift(self, count: int) -> dict[str, Any]:
        return {"worst": [{"follower": f"f{n}", "bps": count - n} for n in range(count)], "histogram": {}}

    async def explain_order(self, client_order_id: str) -> dict[str, Any]:
        return {"client_order_id": client_order_id}

    async def explain_event(self, event: str, follower: str) -> dict[str, Any]:
        if event == "boom":
            raise ZeroDivisionError("secret detail")
        return {"event": event, "follower": follower}


class Running:
    """The server on its own loop in a thread, as the daemon's loop is to a `copyd ctl` process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.daemon = MemoryDaemon()
        self.broken: list[BaseException] = []
        self.loop = asyncio.new_event_loop()
        self.server = ControlServer(self.daemon, path, 0o660, on_broken=self.broken.append)
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.run(self.server.start())
        self.client = ControlClient(path, timeout_s=10)

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def stop(self) -> None:
        self.run(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def running(tmp_path):
    setup_logs("json", "error", io.StringIO(), environ={})
    server = Running(tmp_path / "control.sock")
    yield server
    server.stop()
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []
