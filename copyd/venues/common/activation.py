"""Bring an account into the state a plan wants: position mode, margin type, leverage; outside any fan-out (semantics 25).

``Activation`` holds the order of the steps and what each refusal means; a venue's ``AccountSetup`` asks and sets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from copyd.errors import VenueUnavailable
from copyd.venues.common.facts import LegState
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Settings

RETRY_S = (0.1, 0.5, 2.0, 5.0)

Item = TypeVar("Item")


async def in_parallel(items: Sequence[Item], work: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """Run ``work`` over the items, at most ``concurrency`` at once; the first exception ends all."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(items))):
            group.create_task(worker())


def may_pass(problem: RestError) -> bool:
    """Whether asking again may help: the venue was too busy, did not know, or did not like the time."""
    return problem.status >= 500 or problem.status in (418, 429) or problem.verdict.reason in (
        "too_many_requests", "too_many_orders", "throttled", "timeout", "server_error", "timestamp_outside_recv_window", "busy")


async def tried(call: Callable[[], Coroutine[Any, Any, Item]]) -> Item:
    """A question or setting, repeated while that may help; both are harmless to repeat."""
    for pause in RETRY_S:
        try:
            return await call()
        except VenueUnavailable:
            pass
        except RestError as problem:
            if not may_pass(problem):
                raise
        await asyncio.sleep(pause)
    return await call()


class Activation:
    """Sets and verifies accounts. What a venue's class adds may raise what ``Reads`` raises."""

    def __init__(self, instruments: Instruments, clock: Callable[[], int]) -> None:
        self.instruments, self.clock = instruments, clock
        self.malformed = 0

    # --- what a venue's class adds; each once, repetition is done here ----------------------------------------------------
    async def _standing(self, key: Key) -> tuple[bool, bool]:
        """Whether the account keeps a position per side, and whether it may trade (True where only ``_settings`` tells)."""
        raise NotImplementedError

    async def _set_mode(self, key: Key, hedge: bool) -> None:
        raise NotImplementedError

    async def _settings(self, key: Key, instrument: Instrument) -> Settings | None:
        """None: the venue lists the instrument for the account no more."""
        raise NotImplementedError

    async def _set_margin(self, key: Key, instrument: Instrument, isolated: bool, leverage: int) -> None:
        raise NotImplementedError

    async def _set_leverage(self, key: Key, instrument: Instrument, leverage: int, isolated: bool) -> None:
        raise NotImplementedError

    # --- the same for all -------------------------------------------------------------------------------------------------
    async def hedge_mode(self, key: Key) -> bool:
        """The account's position mode, as the venue has it now."""
        return (await tried(lambda: self._standing(key)))[0]

    async def activate(
        self,
        account: int,
        key: Key,
        wants: Sequence[tuple[int, int]],
        *,
        hedge: bool | None = None,
        isolated: bool | None = True,
    ) -> list[LegState]:
        """Set and verify (instrument, leverage) pairs. ``hedge`` or ``isolated`` None: take the account as it is."""
        try:
            mode, can_trade = await tried(lambda: self._standing(key))
            if not can_trade:
                return self._refused(account, wants, "account_cannot_trade")
            if hedge is not None and mode != hedge:
                await tried(lambda: self._set_mode(key, hedge))
                mode = hedge
            return [await self._activate_one(account, key, index, leverage, mode, isolated) for index, leverage in wants]
        except RestError as problem:
            return self._refused(account, wants, f"venue_refused:{problem.code or problem.status}")
        except VenueUnavailable:
            return self._refused(account, wants, "venue_unavailable")
        except ValueError:
            self.malformed += 1
            return self._refused(account, wants, "unreadable_reply")

    def _refused(self, account: int, wants: Sequence[tuple[int, int]], reason: str) -> list[LegState]:
        now = self.clock()
        return [LegState(account, index, False, reason, False, False, 0, now) for index, _ in wants]

    async def _activate_one(
        self, account: int, key: Key, index: int, leverage: int, hedge: bool, isolated: bool | None
    ) -> LegState:
        instrument = self.instruments[index]
        now = await tried(lambda: self._settings(key, instrument))
        if now is None:
            return LegState(account, index, False, "symbol_not_configured", hedge, False, 0, self.clock())
        if not now.can_trade:
            return LegState(account, index, False, "account_cannot_trade", hedge, now.isolated, now.leverage, self.clock())
        if instrument.spot:
            return LegState(account, index, True, "", False, True, 1, self.clock())
        reason = ""
        if isolated is not None and now.isolated != isolated:
            try:
                await tried(lambda: self._set_margin(key, instrument, isolated, leverage or now.leverage))
                now.isolated = isolated
            except RestError as problem:
                # An open position or order forbids it. The leg would share margin with the rest of the account.
                return LegState(
                    account, index, False, f"margin_type_refused:{problem.code}", hedge, now.isolated, now.leverage, self.clock())
        if leverage and now.leverage != leverage:
            try:
                await tried(lambda: self._set_leverage(key, instrument, leverage, now.isolated))
                now.leverage = leverage
            except RestError as problem:
                reason = f"leverage_refused:{problem.code}"  # sized by the actual leverage (semantics 25)
        return LegState(account, index, True, reason, hedge, now.isolated, now.leverage, self.clock())

    async def activate_many(
        self,
        accounts: Sequence[tuple[int, Key, Sequence[tuple[int, int]]]],
        *,
        hedge: bool | None = None,
        isolated: bool | None = True,
        concurrency: int = 32,
        on_done: Callable[[int, list[LegState]], None],
    ) -> None:
        """Activate many; ``on_done(account, states)`` as each is finished."""

        async def one(item: tuple[int, Key, Sequence[tuple[int, int]]]) -> None:
            account, key, wants = item
            on_done(account, await self.activate(account, key, wants, hedge=hedge, isolated=isolated))

        await in_parallel(accounts, one, concurrency)
