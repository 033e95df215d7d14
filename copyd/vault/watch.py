"""The daemon's own look at what its sealed keys may do: at the start, then again and again; paced, off the way of every order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from copyd.errors import VenueUnavailable
from copyd.vault.checks import REFUSALS, problem_of
from copyd.vault.envelope import Facts
from copyd.vault.policy import Override, Role, Verdict, judge
from copyd.venues.common.venue import Rights

#: Between two questions. 10,000 keys take 17 minutes, and a tenth of the smallest budget any venue gives an address.
SPACING_S = 0.1
#: A key whose venue did not answer is asked again before the next round.
AGAIN_AFTER_S = 300.0


class Watched(NamedTuple):
    """A key that is looked after: what stands in the open about it, and whether it is a leader's."""

    facts: Facts
    role: Role


class Outcome(NamedTuple):
    """What became of one look: the rights and the verdict on them, or the problem that there was no answer."""

    rights: Rights | None
    verdict: Verdict | None
    problem: str = ""


class KeyWatch:
    """Looks at every key once per interval.

    ``keys``: who is to be looked at, asked at the start of each round. ``ask``: rights by name. ``report(name, outcome)`` is
    called after each look, on the loop; what it raises ends the task.
    """

    def __init__(
        self,
        keys: Callable[[], Awaitable[Mapping[str, Watched]]],
        ask: Callable[[str], Awaitable[Rights]],
        report: Callable[[str, Outcome], None],
        interval_s: float,
        now_ms: Callable[[], int],
        *,
        spacing_s: float = SPACING_S,
        again_after_s: float = AGAIN_AFTER_S,
    ) -> None:
        self._keys, self._ask, self._report, self._now_ms = keys, ask, report, now_ms
        self.interval_s, self._spacing_s, self._again_after_s = interval_s, spacing_s, again_after_s
        self.rounds = 0

    async def run(self) -> None:
        """For ever. The clock of a round starts when it starts; one that takes longer than the interval is followed at once."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self.interval_s
            left = await self.round(await self._keys())
            self.rounds += 1
            while left and loop.time() + self._again_after_s < due:
                await asyncio.sleep(self._again_after_s)
                keys = await self._keys()  # one may have been replaced, or taken away
                left = await self.round({name: keys[name] for name in left if name in keys})
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def round(self, keys: Mapping[str, Watched]) -> dict[str, Watched]:
        """One look at each; those whose venue did not answer."""
        silent: dict[str, Watched] = {}
        for name, watched in keys.items():
            outcome = await self._look(name, watched)
            if outcome.rights is None:
                silent[name] = watched
            self._report(name, outcome)
            await asyncio.sleep(self._spacing_s)
        return silent

    async def _look(self, name: str, watched: Watched) -> Outcome:
        try:
            rights = await self._ask(name)
        except (VenueUnavailable, KeyError, *REFUSALS) as error:
            return Outcome(None, None, problem_of(error) if not isinstance(error, KeyError) else "credential_missing")
        facts = watched.facts
        override = Override(reason=facts.override, cap_e8=facts.cap_e8) if facts.override else None
        return Outcome(rights, judge(rights, watched.role, override=override, account=facts.account, now_ms=self._now_ms()))
