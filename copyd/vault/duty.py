"""What the daemon does about its sealed keys: looks at them, notes what it found, stops openings where one gained a right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from copyd.config import Config
from copyd.core.engine import PLANS, Alert, Command, Engine
from copyd.core.rows import PlanRow, PlanState
from copyd.credentials import Credentials
from copyd.errors import CopydError, OperatorError
from copyd.vault.checks import RIGHTS_OF, RightsReader, key_of
from copyd.vault.envelope import Facts, fingerprint
from copyd.vault.policy import gained
from copyd.vault.store import Check, Row, open_keys
from copyd.vault.watch import KeyWatch, Outcome, Watched
from copyd.venues.common.venue import Rights

#: What was found is written down together, this long after the first of it.
NOTE_AFTER_S = 2.0


class Owner(Protocol):
    """What it needs of the daemon."""

    engine: Engine
    credentials: Credentials
    log: Any

    def alert(self, alert: Alert) -> None: ...

    def offer(self, value: Any) -> None: ...

    async def reread_keys(self) -> Any: ...


def close_only(owner: Owner, account: str, why: str) -> list[str]:
    """The plans of an account follow their leaders out and open nothing; the followers of those that could open until now."""
    stopped = []
    engine = owner.engine
    for index, spec in enumerate(engine.names.specs):
        if spec["account"] != account:
            continue
        follower, state = engine.names.followers[index], PlanRow.unpack(engine.columns.get(PLANS, index)).state
        if state not in (PlanState.ACTIVE, PlanState.PAUSED):
            continue
        try:
            terms = {"scope": "plan", "name": follower, "leader": spec["leader"], "state": "close_only"}
            owner.offer(Command("set_state", terms, why))
            stopped.append(follower)
        except OperatorError as error:  # stopped by a limit: it opens nothing anyway
            owner.log.warning("plan not made close-only", follower=follower, error=str(error))
    return stopped


class KeyDuty:
    """The daemon's side of the watch. Only sealed keys are looked at; without any it ends at once.

    ``now_ns``: the daemon's clock. ``readers``: how venues are asked, by kind; default: connections of its own.
    """

    def __init__(
        self, owner: Owner, config: Config, now_ns: Callable[[], int], readers: Mapping[str, RightsReader] | None = None
    ) -> None:
        self._owner, self._config, self._now_ns = owner, config, now_ns
        self._readers = dict(readers or {})
        self._facts: dict[str, Watched] = {}
        self._found: dict[str, tuple[int, Check]] = {}
        self._said: dict[str, tuple[str, ...]] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._leaders = {leader.credential for leader in config.leaders}

    async def run(self) -> None:
        """Until cancelled."""
        if not any(source.vault for source in self._config.credentials):
            return
        watch = KeyWatch(
            self._keys, self._ask, self._report, self._config.keys.check_interval_s, lambda: self._now_ns() // 1_000_000)
        try:
            await watch.run()
        finally:
            if self._flush is not None:
                self._flush.cancel()
            for reader in self._readers.values():
                await reader.close()

    async def _keys(self) -> Mapping[str, Watched]:
        """The keys as they stand in the ring now; those of the round before where it cannot be read."""
        try:
            rows = await asyncio.to_thread(self._read)
        except CopydError as error:
            self._owner.log.error("keys not read", error=str(error))
            return self._facts
        if any(self._is_stale(name, row) for name, row in rows):
            try:
                await self._owner.reread_keys()
            except CopydError as error:  # those in use stay
                self._owner.log.error("changed keys not read", error=str(error))
        self._facts = {
            name: self._watched(name, row.facts)
            for name, row in rows if row.facts is not None and row.current is not None and name in self._owner.credentials
        }
        return self._facts

    def _watched(self, name: str, facts: Facts) -> Watched:
        """What is known of the key in use; of one that could not be read anew, what was known of it before."""
        before = self._facts.get(name)
        if before is not None and fingerprint(self._owner.credentials[name].key) != facts.fingerprint:
            return before
        return Watched(facts, "leader" if name in self._leaders else "follower")

    def _is_stale(self, name: str, row: Row) -> bool:
        """Whether the daemon holds another key than the ring, or a cap that was changed."""
        held = self._owner.credentials.get(name)
        if held is None or row.current is None:
            return held is not None or row.current is not None
        facts = row.current.facts
        return fingerprint(held.key) != facts.fingerprint or held.cap_e8 != facts.cap_e8

    def _read(self) -> list[tuple[str, Row]]:
        with open_keys(self._config.journal.path) as keys:
            return [(name, row) for name, row in keys.rows() if isinstance(row, Row)]

    async def _ask(self, name: str) -> Rights:
        facts = self._facts[name].facts
        reader = self._readers.get(facts.venue)
        if reader is None:
            venue = next((venue for venue in self._config.venues if venue.kind == facts.venue), None)
            if venue is None or facts.venue not in RIGHTS_OF:
                raise ValueError(f"venue {facts.venue} cannot be asked")
            reader = RIGHTS_OF[facts.venue](venue, self._now_ns)
            await reader.open()
            self._readers[facts.venue] = reader
        return await reader.rights(key_of(self._owner.credentials[name]))

    def _report(self, name: str, outcome: Outcome) -> None:
        """One look: noted for ``copyd key list``; a key that gained a right stops the openings of its plans."""
        watched, held = self._facts.get(name), self._owner.credentials.get(name)
        if watched is None or held is None or fingerprint(held.key) != watched.facts.fingerprint:
            return  # another key is in use meanwhile: what was found is not about it, the next round is
        now = self._now_ns()
        if outcome.verdict is None or outcome.rights is None:
            check = Check(ts_ns=now, problem=outcome.problem)
            if not outcome.problem.startswith("venue_unavailable"):
                self._say(name, (outcome.problem,), "key_check_failed", outcome.problem)
        else:
            rights, reasons = outcome.rights, outcome.verdict.reasons
            check = Check(ts_ns=now, reasons=reasons, moves_funds=rights.moves_funds, ip_bound=rights.ip_bound)
            if gained(reasons):
                self._gained(name, reasons, rights)
            elif reasons:
                self._say(name, reasons, "key_refused", ", ".join(reasons))
            else:
                self._said.pop(name, None)
        self._found[name] = (watched.facts.version, check)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(NOTE_AFTER_S, self._noting)

    def _noting(self) -> None:
        """What was found since the last time goes into the ring in one transaction, off the loop."""
        self._flush = None
        found, self._found = self._found, {}
        asyncio.get_running_loop().run_in_executor(None, self._note, found)

    def _say(self, name: str, what: tuple[str, ...], alert: str, text: str) -> None:
        """Once, until something else is to be said of the key."""
        if self._said.get(name) != what:
            self._said[name] = what
            self._owner.alert(Alert(alert, text, {"account": name}))

    def _gained(self, name: str, reasons: tuple[str, ...], rights: Rights) -> None:
        """Its plans follow their leaders out and open nothing; each time it is found so, as a resume does not make it right."""
        stopped = close_only(self._owner, name, "key_gained_right")
        words = ", ".join((*reasons, *rights.moves_funds, *rights.unknown))
        text = f"its key can do what it must not ({words})"
        if stopped:
            text += f": close-only now: {', '.join(stopped)}"
            self._said.pop(name, None)
        self._say(name, reasons, "key_gained_right", text)

    def _note(self, found: Mapping[str, tuple[int, Check]]) -> None:
        try:
            with open_keys(self._config.journal.path) as keys:
                keys.note(found)
        except CopydError as error:
            self._owner.log.warning("checks of keys not noted", error=str(error))
