"""REST calls: signed, paced inside the address's weight limit, and the clock difference to the venue."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.contract import MS_NS, Endpoints, VenueContract
from copyd.venues.binance_usdm.errors import ORDER_LIMIT_CODES, Verdict, classify
from copyd.venues.binance_usdm.signing import Key, signed_query


class RestError(Exception):
    """The venue answered, with an error. The message holds no key and no query string."""

    def __init__(self, call: str, status: int, code: int, message: str) -> None:
        super().__init__(f"{call}: HTTP {status}, code {code}: {message[:200]}")
        self.status, self.code, self.message = status, code, message
        self.verdict: Verdict = classify(status, code, message)


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
        """One sample of ``GET /fapi/v1/time``."""
        # the venue's milliseconds are cut: half a millisecond is the best guess of what was lost
        self.offset_ns = server_ms * MS_NS + MS_NS // 2 - (sent_ns + received_ns) // 2
        self.error_ns = (received_ns - sent_ns) // 2 + MS_NS // 2
        self.measured_ns = received_ns

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
    """Until when the venue wants nothing of us: of this address (418, 429), or no orders of one account (429, -1015).

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
        if status == 429 and code in ORDER_LIMIT_CODES and account >= 0:
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


def retry_after_ns(data: Any, venue_ms: int) -> int | None:
    """The wait in ``error.data`` of a WebSocket API answer: ``retryAfter`` is a time of the venue in ms."""
    until = data.get("retryAfter") if isinstance(data, dict) else None
    return (until - venue_ms) * MS_NS if isinstance(until, int) and not isinstance(until, bool) else None


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

    async def take(self, weight: int) -> None:
        """Wait until ``weight`` may be spent; ``VenueUnavailable`` when a ban stands in the way for long."""
        while True:
            now = self._refill()
            if self.bans is not None and self.bans.any:
                banned = self.bans.until()
                if banned - now > PATIENCE_NS:
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


class RestClient:
    """Calls one venue host. Nothing is repeated by itself: whether a call may be repeated is the caller's knowledge."""

    def __init__(
        self,
        endpoints: Endpoints,
        contract: VenueContract,
        clock: Callable[[], int],
        *,
        weight_limit_per_min: int | None = None,
        timeout_s: float = 10.0,
        mono: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.endpoints, self.contract, self.clock, self.mono = endpoints, contract, clock, mono
        limit = contract.limit("weight", "ip")
        self.bans = Bans(contract, mono)
        self.budget = WeightBudget(weight_limit_per_min or limit.limit, limit.interval_ms, mono, self.bans)
        self.venue_clock = VenueClock(contract, clock)
        self.calls = 0
        self.errors = 0
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the connection pool (inside the running loop)."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=64, keepalive_timeout=60), timeout=self._timeout, auto_decompress=True
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        key: Key | None = None,
        signed: bool = True,
    ) -> bytes:
        """The body of a 200. ``RestError`` for any other answer, ``VenueUnavailable`` when there was none."""
        if self._session is None:
            raise VenueUnavailable("REST client is not open")
        await self.budget.take(self.contract.weight(f"{method} {path}"))
        return await self._call(method, path, params, key, signed)

    async def _call(
        self, method: str, path: str, params: Mapping[str, Any] | None = None, key: Key | None = None, signed: bool = True
    ) -> bytes:
        """As ``call``, with the weight already taken."""
        if self._session is None:
            raise VenueUnavailable("REST client is not open")
        name = f"{method} {path}"
        headers = {}
        query = urlencode(params or {})
        if key is not None:
            headers["X-MBX-APIKEY"] = key.api_key.decode()
            if signed:
                query = signed_query(key, params or {}, self.venue_clock.timestamp_ms(), self.contract.recv_window_ms)
        url = f"{self.endpoints.rest}{path}" + (f"?{query}" if query else "")
        self.calls += 1
        try:
            # encoded=True: the signature covers these exact bytes, nothing may quote them again
            async with self._session.request(method, URL(url, encoded=True), headers=headers) as answer:
                body = await answer.read()
                used = answer.headers.get("X-MBX-USED-WEIGHT-1M", "")
                retry = answer.headers.get("Retry-After", "")
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            self.errors += 1
            raise VenueUnavailable(f"{name}: {type(problem).__name__}") from None
        if used.isdigit():
            self.budget.told(int(used))
        if status == 200:
            return body
        self.errors += 1
        try:
            error = msgspec.json.decode(body, type=codec.ErrorBody)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            error = codec.ErrorBody(0, body[:100].decode("utf-8", "replace"))
        if status in (418, 429):
            wait = int(retry) * S_NS if retry.isascii() and retry.isdigit() else None
            self.bans.note(status, error.code, error.msg, wait, self.venue_clock.timestamp_ms())
        raise RestError(name, status, error.code, error.msg)

    async def exchange_info(self) -> bytes:
        """Instruments and limits, undecoded."""
        return await self.call("GET", "/fapi/v1/exchangeInfo")

    async def measure_clock(self, samples: int = 3) -> None:
        """Read the venue's clock; the sample with the shortest round trip counts."""
        best: tuple[int, int, int] | None = None
        for _ in range(samples):
            # Waiting for weight is no part of the round trip: half of it would be taken for an error of the clock.
            await self.budget.take(self.contract.weight("GET /fapi/v1/time"))
            began = self.mono()
            body = await self._call("GET", "/fapi/v1/time")
            received = self.clock()
            sent = received - (self.mono() - began)  # a wall clock put right meanwhile is no round trip
            try:
                server = codec.decode_body(body, codec.ServerTime).serverTime
            except ValueError as problem:
                raise VenueUnavailable(f"GET /fapi/v1/time: unreadable answer: {problem}") from None
            if best is None or received - sent < best[1] - best[0]:
                best = (sent, received, server)
        assert best is not None
        self.venue_clock.note(*best)

    async def keep_clock(self, every_s: float = 60.0) -> None:
        """Measure for ever; a failed measurement leaves the last one standing."""
        while True:
            try:
                await self.measure_clock()
            except (VenueUnavailable, RestError):
                self.errors += 1
            await asyncio.sleep(every_s)
