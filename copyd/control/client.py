"""The other end of the operators' socket: plain blocking HTTP, so that ``copyd ctl`` starts fast and imports little."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from copyd.config import Config
from copyd.errors import ConfigError, CopydError, DaemonUnreachable, RequestRefused, UsageError
from copyd.followers import PlanSpec, read_followers


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("copyd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ControlClient:
    """One method per request of `ControlTarget`. Raises what the daemon refused as the same kinds of error."""

    def __init__(self, path: Path | str, timeout_s: float = 30.0) -> None:
        self._path = Path(path)
        self._timeout_s = timeout_s

    def _open(self, method: str, target: str, body: Any, timeout_s: float) -> http.client.HTTPResponse:
        connection = _UnixConnection(self._path, timeout_s)
        try:
            connection.request(method, target, body=body, headers={"Connection": "close"})
            return connection.getresponse()
        except FileNotFoundError:
            raise DaemonUnreachable(f"{self._path}: there is no control socket; is copyd running?") from None
        except ConnectionRefusedError:
            raise DaemonUnreachable(f"{self._path}: nobody answers on the control socket; copyd has stopped") from None
        except PermissionError:
            raise DaemonUnreachable(f"{self._path}: no permission; be in the group that owns the socket") from None
        except TimeoutError:
            raise DaemonUnreachable(f"{self._path}: no answer within {timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise DaemonUnreachable(f"{self._path}: {error or type(error).__name__}") from None

    def _call(self, method: str, target: str, data: Any = None) -> Any:
        body = None if data is None else msgspec.json.encode(data)
        response = self._open(method, target, body, self._timeout_s)
        try:
            answer = msgspec.json.decode(response.read())
        except (OSError, http.client.HTTPException, msgspec.DecodeError):
            raise DaemonUnreachable(f"{self._path}: the answer broke off") from None
        if response.status != 200:
            raise _error(answer)
        return answer

    def status(self, samples: bool = False) -> dict[str, Any]:
        return dict(self._call("GET", "/v1/status?samples=1" if samples else "/v1/status"))

    def config(self) -> Config:
        return msgspec.convert(self._call("GET", "/v1/config"), Config)

    def scoped(self, action: str, kind: str, name: str = "") -> dict[str, Any]:
        """``action``: pause | resume | close-only."""
        return dict(self._call("POST", f"/v1/{action}", {"scope": {"kind": kind, "name": name}}))

    def kill_switch(self, on: bool, reason: str, kind: str = "all", name: str = "") -> dict[str, Any]:
        body = {"on": on, "scope": {"kind": kind, "name": name}, "reason": reason}
        return dict(self._call("POST", "/v1/kill-switch", body))

    def plan_add(self, spec: PlanSpec) -> dict[str, Any]:
        return dict(self._call("POST", "/v1/plans", spec))

    def plan_change(self, follower: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._call("POST", f"/v1/plans/{quote(follower, safe='')}/change", {"changes": changes}))

    def plan_stop(self, follower: str) -> dict[str, Any]:
        return dict(self._call("POST", f"/v1/plans/{quote(follower, safe='')}/stop"))

    def reload(self) -> dict[str, Any]:
        return dict(self._call("POST", "/v1/reload"))

    def drain(self) -> dict[str, Any]:
        return dict(self._call("POST", "/v1/drain"))

    def drift(self, count: int = 20) -> dict[str, Any]:
        return dict(self._call("GET", f"/v1/drift?count={count}"))

    def losses(self, count: int = 20) -> dict[str, Any]:
        return dict(self._call("GET", f"/v1/losses?count={count}"))

    def explain_order(self, client_order_id: str) -> dict[str, Any]:
        return dict(self._call("GET", f"/v1/explain/order/{quote(client_order_id, safe='')}"))

    def explain_event(self, event: str, follower: str) -> dict[str, Any]:
        return dict(self._call("GET", f"/v1/explain/event/{quote(event, safe='')}/{quote(follower, safe='')}"))

    def import_followers(self, specs: Iterable[PlanSpec]) -> Iterator[dict[str, Any]]:
        """Yields ``{"stage", "done", "total"}`` as the daemon goes, and returns after it confirmed the import."""
        body = b"\n".join(map(msgspec.json.encode, specs))
        response = self._open("POST", "/v1/followers/import", body, max(self._timeout_s, 600.0))
        confirmed = False
        try:
            for line in response:
                answer = msgspec.json.decode(line)
                if "progress" in answer:
                    yield answer["progress"]
                elif "imported" in answer:
                    confirmed = True
                else:
                    raise _error(answer)
        except (OSError, http.client.HTTPException, msgspec.DecodeError):
            confirmed = False
        if not confirmed:
            raise DaemonUnreachable(
                f"{self._path}: the connection broke before the import was confirmed; `copyd ctl status` tells how it ended"
            )

    def import_file(self, path: Path | str) -> Iterator[dict[str, Any]]:
        """`import_followers` of a .csv or .jsonl file, read against the daemon's own configuration."""
        return self.import_followers(read_followers(path, self.config()))


def _error(answer: Any) -> CopydError:
    if isinstance(answer, dict):
        if answer.get("problems"):
            return ConfigError([str(problem) for problem in answer["problems"]])
        text = str(answer.get("error", answer))
        return UsageError(text) if answer.get("exit_code") == 2 else RequestRefused(text)
    return RequestRefused(str(answer))
