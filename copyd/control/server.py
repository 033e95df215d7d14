"""The operators' door: HTTP over a Unix socket. Who may open the socket may stop trading; who did is logged.

Plans and configuration are changed by one request at a time; the kill switch, pauses and drain never wait behind those.
Every change is logged with the peer the kernel names, and an answer is JSON. Bodies are small, but for an import, which is
streamed line by line so that ten thousand plans never hold the loop for longer than a few of them take.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from copyd.config import Config
from copyd.control.protocol import (
    Actor,
    ChangeRequest,
    ControlTarget,
    KillRequest,
    Scope,
    ScopeRequest,
)
from copyd.errors import AddressTaken, BrokenInvariant, ConfigError, CopydError, RequestRefused, UsageError
from copyd.followers import PlanSpec

BODY_MAX = 64 << 10
IMPORT_LINE_MAX = 16 << 10
IMPORT_PLANS_MAX = 1_000_000
DECODE_BATCH = 128  # plans decoded between two turns of the loop: well under a millisecond

#: Requests that change plans or configuration: one at a time. All others must never queue behind a long import.
SERIALISED = ("/v1/plans", "/v1/followers", "/v1/reload")

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_plan_decoder = msgspec.json.Decoder(PlanSpec)


def _json(data: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(data) + b"\n", status=status, content_type="application/json")


def peer_of(request: web.Request) -> Actor:
    """The process at the other end, from the kernel; never from what it says about itself."""
    transport = request.transport
    raw = transport.get_extra_info("socket") if transport is not None else None
    try:
        if raw is None:
            raise OSError
        pid, uid, gid = struct.unpack("3i", raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except (OSError, struct.error):
        return Actor(0, -1, -1, "unknown")
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return Actor(pid, uid, gid, user)


def bind_unix(path: Path, mode: int) -> socket.socket:
    """A listening Unix socket with its permissions from the first moment on.

    A socket left behind by a daemon that died is replaced; one that answers, or anything that is no socket, is not.
    """
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        kind = 0
    if kind and not stat.S_ISSOCK(kind):
        raise AddressTaken(f"{path}: is in the way of the control socket and is not a socket")
    if kind:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(path))
            except (ConnectionRefusedError, FileNotFoundError):
                path.unlink(missing_ok=True)
            except OSError:
                raise AddressTaken(f"{path}: something holds the control socket and does not answer") from None
            else:
                raise AddressTaken(f"{path}: another daemon answers on this control socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise AddressTaken(f"{path}: the control socket cannot be made: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


class ControlServer:
    """Serves a `ControlTarget` on a Unix socket."""

    def __init__(
        self,
        target: ControlTarget,
        path: Path | str,
        mode: int = 0o660,
        on_broken: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._target = target
        self._path = Path(path)
        self._mode = mode
        self._on_broken = on_broken  # a broken invariant is never swallowed by an HTTP 500: the application stops
        self._change = asyncio.Lock()
        self._runner: web.AppRunner | None = None
        self._inode = 0
        self._log = structlog.get_logger().bind(part="control")

    async def start(self) -> None:
        listener = bind_unix(self._path, self._mode)
        self._inode = self._path.stat().st_ino
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=2)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        self._runner = runner

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            with contextlib.suppress(OSError):  # a successor may already have put its own socket there
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard], client_max_size=BODY_MAX)
        read, change = application.router.add_get, application.router.add_post
        read("/v1/status", self._status)
        read("/v1/config", self._config)
        read("/v1/drift", self._drift)
        read("/v1/losses", self._losses)
        read("/v1/explain/order/{id}", self._explain_order)
        read("/v1/explain/event/{event}/{follower}", self._explain_event)
        for name in ("pause", "resume", "close-only"):
            change(f"/v1/{name}", self._scoped)
        change("/v1/kill-switch", self._kill_switch)
        change("/v1/followers/import", self._import)
        change("/v1/plans", self._plan_add)
        change("/v1/plans/{follower}/change", self._plan_change)
        change("/v1/plans/{follower}/stop", self._plan_stop)
        change("/v1/reload", self._reload)
        change("/v1/drain", self._drain)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Errors become answers; every change is logged before and after it is tried."""
        try:
            if request.method == "GET":
                return await handler(request)
            actor = peer_of(request)

            log = self._log.bind(request=request.path, actor=str(actor))
            log.info("control_request")
            if request.path.startswith(SERIALISED):
                async with self._change:
                    response = await handler(request)
            else:
                response = await handler(request)
            log.info("control_done", status=response.status)
            return response
        except web.HTTPException as error:
            return _json({"error": f"{error.status} {error.reason}: {request.method} {request.path}"}, error.status)
        except CopydError as error:
            status, body = self._answer(error)
            self._log.info("control_refused", request=request.path, error=body["error"])
            return _json(body, status)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._log.exception("control_failed", request=request.path)
            return _json({"error": f"internal error: {type(error).__name__}; see the daemon's log"}, 500)

    def _answer(self, error: CopydError) -> tuple[int, dict[str, Any]]:
        if isinstance(error, BrokenInvariant):
            if self._on_broken is not None:
                self._on_broken(error)
            return 500, {"error": str(error), "exit_code": error.exit_code}
        body: dict[str, Any] = {"error": str(error), "exit_code": error.exit_code}
        if isinstance(error, ConfigError):
            body = {"error": f"{len(error.problems)} problems", "problems": error.problems, "exit_code": error.exit_code}
            return 422, body
        if isinstance(error, UsageError):
            return 400, body
        return (409 if isinstance(error, RequestRefused) else 503), body

    async def _body(self, request: web.Request, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(await request.read(), type=kind)
        except msgspec.MsgspecError as error:
            raise UsageError(f"request not understood: {error}") from None

    # reading

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._target.status(request.query.get("samples") == "1"))

    async def _config(self, request: web.Request) -> web.StreamResponse:
        return _json(self._target.config())

    async def _drift(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._target.drift(_count(request, "legs")))

    async def _losses(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._target.losses(_count(request, "plans")))

    async def _explain_order(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._target.explain_order(request.match_info["id"]))

    async def _explain_event(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._target.explain_event(request.match_info["event"], request.match_info["follower"]))

    # changing

    async def _scoped(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, ScopeRequest)
        _check_scope(body.scope)
        calls = {"pause": self._target.pause, "resume": self._target.resume, "close-only": self._target.close_only}
        return _json(await calls[request.path.rpartition("/")[2]](body.scope, peer_of(request)))

    async def _kill_switch(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, KillRequest)
        _check_scope(body.scope)
        if not body.reason.strip():
            raise UsageError("the kill switch needs a reason: it is journaled with who asked")
        return _json(await self._target.kill_switch(body.on, body.scope, body.reason.strip(), peer_of(request)))

    async def _plan_add(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._target.plan_add(await self._body(request, PlanSpec), peer_of(request)))

    async def _plan_change(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, ChangeRequest)
        follower = request.match_info["follower"]
        return _json(await self._target.plan_change(follower, body.changes, peer_of(request)))

    async def _plan_stop(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._target.plan_stop(request.match_info["follower"], peer_of(request)))

    async def _reload(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._target.reload(peer_of(request)))

    async def _drain(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._target.drain(peer_of(request)))

    async def _import(self, request: web.Request) -> web.StreamResponse:
        """Body: one PlanSpec per line. Answer: JSON lines, ``progress`` many times, then one ``imported`` or ``error``."""
        specs = await _read_plans(request)
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await answer.prepare(request)
        listening = True

        async def say(data: Any) -> None:
            nonlocal listening
            if listening:
                try:
                    await answer.write(msgspec.json.encode(data) + b"\n")
                except (ConnectionError, RuntimeError):
                    listening = False  # the import goes on to its end: half an import would be worse than a silent one

        try:
            async for progress in self._target.import_followers(specs, peer_of(request)):
                await say({"progress": progress})
        except CopydError as error:
            await say(self._answer(error)[1])
        except Exception as error:
            self._log.exception("control_failed", request=request.path)
            await say({"error": f"internal error: {type(error).__name__}; see the daemon's log"})
        else:
            self._log.info("followers_imported", plans=len(specs), actor=str(peer_of(request)))
            await say({"imported": len(specs)})
        if listening:
            with contextlib.suppress(ConnectionError, RuntimeError):
                await answer.write_eof()
        return answer


def _check_scope(scope: Scope) -> None:
    if (scope.kind == "all") == bool(scope.name):
        raise UsageError("scope: `all` has no name, everything else needs one")


async def _read_plans(request: web.Request) -> list[PlanSpec]:
    """Decodes the streamed body a few plans at a time; UsageError names the first line that is no plan."""
    specs: list[PlanSpec] = []
    rest = b""
    async for chunk in request.content.iter_chunked(64 << 10):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        if len(rest) > IMPORT_LINE_MAX:
            raise UsageError(f"line {len(specs) + 1}: longer than {IMPORT_LINE_MAX} bytes")
        for line in lines:
            _one_plan(line, specs)
            if len(specs) % DECODE_BATCH == 0:
                await asyncio.sleep(0)
    _one_plan(rest, specs)
    if not specs:
        raise UsageError("no plans in the request")
    return specs


def _one_plan(line: bytes, specs: list[PlanSpec]) -> None:
    if not line:
        return
    if len(specs) >= IMPORT_PLANS_MAX:
        raise UsageError(f"more than {IMPORT_PLANS_MAX} plans")
    try:
        specs.append(_plan_decoder.decode(line))
    except msgspec.MsgspecError as error:
        raise UsageError(f"line {len(specs) + 1}: not a plan: {error}") from None


def control_server(target: ControlTarget, config: Config, **options: Any) -> ControlServer:
    """The server as the configuration wants it."""
    return ControlServer(target, config.control.socket, int(config.control.socket_mode, 8), **options)


def _count(request: web.Request, what: str) -> int:
    """How many lines are asked for, within reason."""
    try:
        return min(1_000, max(1, int(request.query.get("count", "20"))))
    except ValueError:
        raise UsageError(f"count: a number of {what}") from None
