"""Who moves the money. The settlement says what, by id; an exchange or the operator does it and says what became of it.

An answer is *executed*, *refused* (both final), or *in doubt*: a timeout, a connection cut, any status that is no plain yes
or no. In doubt is asked about by id. Only "absent", the executor's word that it never decided this id, lets the same transfer
go out again, under the same id; a second id for one payment does not exist.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
import orjson

from copyd.errors import OperatorError
from copyd.settlement.text import money
from copyd.settlement.transfers import Transfer


class Outcome(StrEnum):
    """What is known of a transfer."""

    EXECUTED = "executed"
    REFUSED = "refused"
    ABSENT = "absent"
    IN_DOUBT = "in_doubt"


class Confirmation(msgspec.Struct, frozen=True, gc=False):
    """The executor's word on one id."""

    id: str
    outcome: Outcome
    reason: str = ""

    @property
    def final(self) -> bool:
        """Nothing will change it."""
        return self.outcome in (Outcome.EXECUTED, Outcome.REFUSED)


class Executor(Protocol):
    """Carries transfers out, each id at most once."""

    def execute(self, transfers: Sequence[Transfer]) -> list[Confirmation]:
        """Order these transfers: executed, refused or in doubt, one answer each, in any order."""
        ...

    def query(self, number: str) -> Confirmation:
        """What became of an id: executed, refused, absent, or in doubt when that cannot be said."""
        ...


class ExchangeExecutor:
    """Transfers at an exchange with the endpoint of ``copyd.exchange.transfers``; ``url`` is the port that serves it."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise OperatorError(f"{url!r} is no address of an exchange: give http://host:port")
        self.url, self.timeout_s = url.rstrip("/"), timeout_s

    def execute(self, transfers: Sequence[Transfer]) -> list[Confirmation]:
        """One request for all. 400 (the exchange refuses the request as such) is the operator's: OperatorError."""
        body = {"transfers": [{"id": t.id, "from": t.source, "to": t.to, "amount": money(t.amount_e8)} for t in transfers]}
        answer = self._ask("/transfers", orjson.dumps(body))
        said: dict[str, Confirmation] = {}
        if isinstance(answer, dict) and isinstance(answer.get("results"), list):
            said = {one.id: one for one in map(_confirmation, answer["results"])}
        return [said.get(t.id, Confirmation(t.id, Outcome.IN_DOUBT, "no answer")) for t in transfers]

    def query(self, number: str) -> Confirmation:
        """``unknown`` at the exchange means that no transfer of this id was decided."""
        answer = self._ask("/transfers/" + quote(number, safe=""), None)
        found = _confirmation(answer)
        return found if found.id == number else Confirmation(number, Outcome.IN_DOUBT, "no answer")

    def _ask(self, path: str, body: bytes | None) -> Any:
        """The JSON answer of a 200; None for whatever says nothing."""
        request = urllib.request.Request(self.url + path, data=body, method="GET" if body is None else "POST")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                return orjson.loads(response.read()) if response.status == 200 else None
        except urllib.error.HTTPError as error:
            if error.code == 400:
                raise OperatorError(f"{self.url}{path}: refused: {error.read(500).decode(errors='replace')}") from None
            return None
        except (OSError, http.client.HTTPException, ValueError):
            return None


def _confirmation(answer: Any) -> Confirmation:
    if not isinstance(answer, dict):
        return Confirmation("", Outcome.IN_DOUBT)
    outcome = {"executed": Outcome.EXECUTED, "refused": Outcome.REFUSED, "unknown": Outcome.ABSENT}.get(
        str(answer.get("state")), Outcome.IN_DOUBT
    )
    return Confirmation(str(answer.get("id", "")), outcome, str(answer.get("reason", "")))


class ConfirmationFile:
    """The operator carries the transfer file out himself and says so: JSON lines ``{"id", "state", "reason"}``.

    ``state`` is executed or refused. What the file does not name stays in doubt; the run goes on when it does.
    """

    def __init__(self, path: Path) -> None:
        self._said: dict[str, Confirmation] = {}
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise OperatorError(f"{path}: {error.strerror}") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                said = _confirmation(orjson.loads(line))
            except ValueError:
                raise OperatorError(f"{path}:{number}: not JSON") from None
            if not said.id or not said.final:
                raise OperatorError(f"{path}:{number}: give id and state (executed or refused)")
            if self._said.setdefault(said.id, said).outcome != said.outcome:
                raise OperatorError(f"{path}:{number}: {said.id} is executed and refused")

    def execute(self, transfers: Sequence[Transfer]) -> list[Confirmation]:
        """What the file says of them."""
        return [self.query(one.id) for one in transfers]

    def query(self, number: str) -> Confirmation:
        """What the file says of it."""
        return self._said.get(number, Confirmation(number, Outcome.IN_DOUBT, "not confirmed yet"))
