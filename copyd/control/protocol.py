"""What the operators' socket can ask of the daemon: the requests as values and the interface the application implements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Protocol, get_args

import msgspec

from copyd.config import Config
from copyd.followers import PlanSpec

ScopeKind = Literal["all", "venue", "leader", "plan", "instrument"]
SCOPE_KINDS: tuple[str, ...] = get_args(ScopeKind)


class Scope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an order concerns: everything, or one venue, leader, plan (follower) or instrument by name."""

    kind: ScopeKind
    name: str = ""

    def __str__(self) -> str:
        return self.kind if self.kind == "all" else f"{self.kind} {self.name}"


class Actor(msgspec.Struct, frozen=True):
    """Who asked, as the kernel vouches for it (SO_PEERCRED); goes into the log and the journal."""

    pid: int
    uid: int
    gid: int
    user: str

    def __str__(self) -> str:
        return f"{self.user}(uid {self.uid}, pid {self.pid})"


class ImportProgress(msgspec.Struct, frozen=True):
    """How far an import is: ``done`` of ``total`` plans have passed ``stage``."""

    stage: str
    done: int
    total: int


class ControlTarget(Protocol):
    """The daemon, as the control server sees it.

    A request it will not carry out raises `RequestRefused` (one sentence) or `ConfigError` (all problems). The dicts it
    answers are shown to people and must be JSON: no secrets, money as decimal strings.
    """

    def config(self) -> Config: ...

    async def status(self, samples: bool) -> dict[str, Any]:
        """The daemon's figures; with ``samples`` also the single fan-outs behind the percentiles."""
        ...

    async def pause(self, scope: Scope, actor: Actor) -> dict[str, Any]:
        """No more openings in the scope, until `resume`; reductions continue (semantics 17)."""
        ...

    async def resume(self, scope: Scope, actor: Actor) -> dict[str, Any]: ...

    async def close_only(self, scope: Scope, actor: Actor) -> dict[str, Any]:
        """Follow the leader out of what is open, and open nothing new."""
        ...

    async def kill_switch(self, on: bool, scope: Scope, reason: str, actor: Actor) -> dict[str, Any]: ...

    def import_followers(self, specs: list[PlanSpec], actor: Actor) -> AsyncIterator[ImportProgress]:
        """All or none: problems are raised before anything is journaled."""
        ...

    async def plan_add(self, spec: PlanSpec, actor: Actor) -> dict[str, Any]: ...

    async def plan_change(self, follower: str, changes: Mapping[str, Any], actor: Actor) -> dict[str, Any]:
        """``changes``: fields of PlanSpec, already parsed; new limits hold from the next opening (semantics 31)."""
        ...

    async def plan_stop(self, follower: str, actor: Actor) -> dict[str, Any]: ...

    async def reload(self, actor: Actor) -> dict[str, Any]: ...

    async def drain(self, actor: Actor) -> dict[str, Any]: ...

    async def losses(self, count: int) -> dict[str, Any]:
        """Plans by how near they are to a loss limit."""
        ...

    async def drift(self, count: int) -> dict[str, Any]:
        """The ``count`` legs furthest from what their leaders hold, worst first, and the histogram of all."""
        ...

    async def explain_order(self, client_order_id: str) -> dict[str, Any]: ...

    async def explain_event(self, event: str, follower: str) -> dict[str, Any]: ...


class ScopeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scope: Scope


class KillRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    on: bool
    scope: Scope
    reason: str


class ChangeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    changes: dict[str, Any]
