"""Funding of followers at venues that push none of it: their accounts are asked a minute after each whole hour.

Perpetuals settle funding on whole hours. Who held a position shortly before the hour, or holds one after it, is asked for what
was paid since he was last asked; what is told twice is booked once, by the venue's number (``core.engine.Funding``). After a
start the time since the leader was last heard is asked for, so that a settlement during a pause is not lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from copyd.core.engine import LEGS, Engine
from copyd.core.rows import LegRow
from copyd.errors import VenueUnavailable
from copyd.telemetry.logs import get_logger
from copyd.venues.common.activation import in_parallel, tried
from copyd.venues.common.facts import AccountFunding
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.told import FundingTold

HOUR_MS = 3_600_000
#: Who holds something is noted this long before the hour: a position closed just after it has paid all the same.
BEFORE_MS = 5_000
#: The bills are there by then.
AFTER_MS = 60_000
#: Asked for again behind the last answer: a bill may be dated before it can be read.
AGAIN_MS = 600_000
CONCURRENCY = 8
#: Legs looked at before the loop has its turn.
TURN = 500


class FundingReader:
    """Asks one venue for the funding of the accounts that trade there.

    ``key_of``: the key of an account, None where there is none. ``now_ms``: the venue's clock. ``heard_ms``: what was paid before
    is known.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        instruments: Instruments,
        fundings: Callable[[Key, int], Awaitable[list[FundingTold]]],
        key_of: Callable[[int], Key | None],
        on_funding: Callable[[AccountFunding], None],
        now_ms: Callable[[], int],
        clock: Callable[[], int],
        heard_ms: int,
    ) -> None:
        self.engine, self.instruments, self.fundings, self.key_of = engine, instruments, fundings, key_of
        self.on_funding, self.now_ms, self.clock, self.heard_ms = on_funding, now_ms, clock, heard_ms
        self.log = get_logger("funding")
        self._due: set[int] = set()
        self._asked: dict[int, int] = {}

    async def run(self) -> None:
        """For ever: at once for the time before the start, then behind every whole hour."""
        await self.note_holders()
        await self.ask()
        while True:
            hour = (self.now_ms() // HOUR_MS + 1) * HOUR_MS
            await self._until(hour - BEFORE_MS)
            await self.note_holders()
            await self._until(hour + AFTER_MS)
            await self.note_holders()
            await self.ask()

    async def _until(self, at_ms: int) -> None:
        left = at_ms - self.now_ms()
        while left > 0:
            await asyncio.sleep(left / 1000)  # the venue's clock may have been set meanwhile
            left = at_ms - self.now_ms()

    async def note_holders(self) -> None:
        """Note every account with a leg that holds something here."""
        columns = self.engine.columns
        at = 0
        while at < columns.count(LEGS):
            for index in range(at, min(at + TURN, columns.count(LEGS))):
                leg = LegRow.unpack(columns.get(LEGS, index))
                if leg.attributed and leg.instrument in self.instruments:
                    self._due.add(leg.account)
            at += TURN
            await asyncio.sleep(0)

    async def ask(self) -> None:
        """Ask for every account noted; one that does not answer stays noted for the next time."""
        await in_parallel(sorted(self._due), self._ask_one, CONCURRENCY)

    async def _ask_one(self, account: int) -> None:
        key = self.key_of(account)
        if key is None:
            self._due.discard(account)
            return
        now, since = self.now_ms(), self._asked.get(account, self.heard_ms)
        try:
            told = await tried(lambda: self._read(key, since))
        except (VenueUnavailable, RestError, ValueError) as problem:
            self.log.warning("funding not read", account=self.engine.names.accounts[account], error=str(problem))
            return
        for one in told:
            self.on_funding(AccountFunding(account, one.instrument, one.amount_e8, one.ts_event, self.clock(), one.id))
        self._asked[account] = now - AGAIN_MS
        self._due.discard(account)

    async def _read(self, key: Key, since_ms: int) -> list[FundingTold]:
        return await self.fundings(key, since_ms)
