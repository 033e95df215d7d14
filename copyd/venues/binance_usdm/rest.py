"""REST calls: signed, paced inside the address's weight limit, and the clock difference to the venue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.contract import MS_NS, Endpoints, VenueContract
from copyd.venues.binance_usdm.errors import Verdict, classify
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


class WeightBudget:
    """Token bucket over the address's request weight, corrected by what the venue says was used."""

    def __init__(self, limit: int, interval_ms: int, clock: Callable[[], int]) -> None:
        self.limit, self.interval_ns, self.clock = limit, interval_ms * MS_NS, clock
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
        """Wait until ``weight`` may be spent."""
        while True:
            now = self._refill()
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

    def refused(self) -> None:
        """429 or 418: stop for half a window."""
        self._blocked_until = self.clock() + self.interval_ns // 2


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
    ) -> None:
        self.endpoints, self.contract, self.clock = endpoints, contract, clock
        limit = contract.limit("weight", "ip")
        self.budget = WeightBudget(weight_limit_per_min or limit.limit, limit.interval_ms, clock)
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
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            self.errors += 1
            raise VenueUnavailable(f"{name}: {type(problem).__name__}") from None
        if used.isdigit():
            self.budget.told(int(used))
        if status == 200:
            return body
        self.errors += 1
        if status in (418, 429):
            self.budget.refused()
        try:
            error = msgspec.json.decode(body, type=codec.ErrorBody)
        except msgspec.MsgspecError:
            error = codec.ErrorBody(0, body[:100].decode("utf-8", "replace"))
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
            sent = self.clock()
            body = await self._call("GET", "/fapi/v1/time")
            received = self.clock()
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
