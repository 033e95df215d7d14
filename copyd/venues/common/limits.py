"""Clock, bans and request budget of one venue and one address of ours."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from copyd.errors import VenueUnavailable
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import MS_NS

#: How fast two clocks may drift apart.
DRIFT_PPM = 200


class VenueClock:
    """Difference between the venue's clock and ours, and how sure we are of it."""

    def __init__(self, contract: VenueContract, clock: Callable[[], int]) -> None:
        self.contract = contract
        self.clock = clock
        self.offset_ns = 0  # add to our clock to get the venue's
        self.error_ns = 0  # half the round trip of the best sample
        self.measured_ns = 0  # our clock at the last measurement, 0 = never

    def timestamp_ms(self) -> int:
        """Now, by the venue's clock as we know it."""
        return (self.clock() + self.offset_ns) // MS_NS

    def note(self, sent_ns: int, received_ns: int, server_ms: int) -> None:
        """One sample: when it was asked for and answered by our clock, and what the venue's showed in between.

        A slow answer that contradicts nothing does not undo what a quick one showed before: that goes on counting, less sharp by
        what two clocks may drift apart meanwhile.
        """
        # the venue's milliseconds are cut: half a millisecond is the best guess of what was lost
        offset = server_ms * MS_NS + MS_NS // 2 - (sent_ns + received_ns) // 2
        error = (received_ns - sent_ns) // 2 + MS_NS // 2
        if self.measured_ns:
            before = self.error_ns + max(0, received_ns - self.measured_ns) * DRIFT_PPM // 10**6
            if before < error and abs(offset - self.offset_ns) <= error:
                offset, error = self.offset_ns, before
        self.offset_ns, self.error_ns, self.measured_ns = offset, error, received_ns

    def problem(self) -> str | None:
        """Why new exposure must not be sent, None when the clock is good enough for ``recvWindow``."""
        if not self.measured_ns:
            return "the venue's clock has not been read yet"
        contract = self.contract
        off_ms, error_ms = self.offset_ns // MS_NS, self.error_ns // MS_NS
        # offset > 0: our stamps are old when they arrive; offset < 0: they come from the future
        if off_ms >= contract.recv_window_ms or -off_ms >= contract.clock_lead_ms:
            return (
                f"this machine's clock is off by {-off_ms} ms against the venue, more than recvWindow "
                f"({contract.recv_window_ms} ms) and lead ({contract.clock_lead_ms} ms) allow: set the clock"
            )
        if error_ms > contract.clock_error_ms:
            return f"the venue's clock is known only to {error_ms} ms; at most {contract.clock_error_ms} ms is safe"
        return None


S_NS = 1_000 * MS_NS
#: A call waits this long for a limit to pass; beyond, it fails at once and is its caller's to repeat.
PATIENCE_NS = 60 * S_NS
_BANNED_UNTIL = re.compile(r"banned until (\d{13})\b")


class Bans:
    """Until when the venue wants nothing of us: of this address, or no orders of one account (``order_limit_codes``).

    Times are monotonic ns, 0 = no ban. ``on_ban(account or -1, seconds, why)`` is told of a new one and of a longer one.
    """

    def __init__(
        self,
        contract: VenueContract,
        mono: Callable[[], int] = time.monotonic_ns,
        on_ban: Callable[[int, float, str], None] | None = None,
    ) -> None:
        self.contract, self.mono = contract, mono
        self.on_ban = on_ban
        self.count = 0
        self._address = 0
        self._accounts: dict[int, int] = {}

    @property
    def any(self) -> bool:
        """Whether one was ever told that may still stand: the quick question before each send."""
        return self._address != 0 or bool(self._accounts)

    def until(self, account: int = -1) -> int:
        """End of what stands against the address, or against it or the account; 0 when nothing does."""
        now = self.mono()
        if self._address and self._address <= now:
            self._address = 0
        until = self._address
        own = self._accounts.get(account)
        if own is not None:
            if own <= now:
                del self._accounts[account]
            else:
                until = max(until, own)
        return until

    def accounts(self) -> frozenset[int]:
        """Accounts that may send no orders now."""
        now = self.mono()
        for account in [account for account, until in self._accounts.items() if until <= now]:
            del self._accounts[account]
        return frozenset(self._accounts)

    async def passed(self) -> None:
        """Wait until the address may be used: not even a connection is tried before."""
        while (until := self.until()) > 0:  # noqa: ASYNC110 - a ban may be prolonged while it is waited for
            await asyncio.sleep(min(max((until - self.mono()) / S_NS, 0.001), 1.0))

    def note(self, status: int, code: int, message: str, wait_ns: int | None, venue_ms: int, account: int = -1) -> None:
        """An answer with 418 or 429. ``wait_ns``: what it says about when, None = nothing; ``venue_ms``: the venue's time."""
        contract = self.contract
        if wait_ns is None and (told := _BANNED_UNTIL.search(message)):
            wait_ns = (int(told[1]) - venue_ms) * MS_NS
        if wait_ns is None:
            wait_ns = (contract.banned_default_ms if status == 418 else contract.limited_default_ms) * MS_NS
        wait_ns = min(max(wait_ns, S_NS), contract.ban_ms_max * MS_NS)
        until = self.mono() + wait_ns
        if status != 418 and code in contract.order_limit_codes and account >= 0:
            before = self._accounts.get(account, 0)
            self._accounts[account] = max(before, until)
        else:
            account = -1
            before = self._address
            self._address = max(before, until)
        if until > before + S_NS:
            self.count += 1
            if self.on_ban is not None:
                self.on_ban(account, wait_ns / S_NS, f"{status} {code} {message[:100]}")


class WeightBudget:
    """Token bucket over the address's request weight, corrected by what the venue says was used."""

    def __init__(self, limit: int, interval_ms: int, clock: Callable[[], int], bans: Bans | None = None) -> None:
        self.limit, self.interval_ns, self.clock, self.bans = limit, interval_ms * MS_NS, clock, bans
        self.used_by_venue = 0
        self._tokens = float(limit) / 4  # a start in mid-window must not spend what an earlier process already did
        self._at = clock()
        self._blocked_until = 0

    def _refill(self) -> int:
        now = self.clock()
        self._tokens = min(self.limit / 4, self._tokens + max(0, now - self._at) * self.limit / self.interval_ns)
        self._at = now
        return now

    async def take(self, weight: int, patience_ns: int = PATIENCE_NS) -> None:
        """Wait until ``weight`` may be spent; ``VenueUnavailable`` when a ban stands in the way for longer than one waits."""
        while True:
            now = self._refill()
            if self.bans is not None and self.bans.any:
                banned = self.bans.until()
                if banned - now > patience_ns:
                    raise VenueUnavailable(f"the venue refuses this address for another {(banned - now) // S_NS} s")
                self._blocked_until = max(self._blocked_until, banned)
            if now >= self._blocked_until and self._tokens >= min(weight, self.limit / 4):
                self._tokens -= weight
                return
            lacking = max((weight - self._tokens) * self.interval_ns / self.limit, self._blocked_until - now)
            await asyncio.sleep(min(max(lacking / 1e9, 0.001), 1.0))

    def told(self, used: int) -> None:
        """The venue's own count for the running minute; near the limit nothing is sent for a while."""
        self.used_by_venue = used
        if used >= self.limit * 0.9:
            self._blocked_until = self.clock() + self.interval_ns // 12
