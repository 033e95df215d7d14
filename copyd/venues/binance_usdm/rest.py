"""REST calls: signed, paced inside the address's weight limit, and the clock difference to the venue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.contract import Endpoints
from copyd.venues.binance_usdm.errors import classify
from copyd.venues.binance_usdm.signing import signed_query
from copyd.venues.common import facts
from copyd.venues.common import rest as common
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import MS_NS
from copyd.venues.common.limits import S_NS, Bans, VenueClock, WeightBudget
from copyd.venues.common.signing import Key

POOL = 64


class RestError(common.RestError):
    """The venue answered, with an error; what it proves follows from the venue's table."""

    def __init__(self, call: str, status: int, code: int, message: str) -> None:
        super().__init__(call, status, code, message, classify(status, code, message))


def retry_after_ns(data: Any, venue_ms: int) -> int | None:
    """The wait in ``error.data`` of a WebSocket API answer: ``retryAfter`` is a time of the venue in ms."""
    until = data.get("retryAfter") if isinstance(data, dict) else None
    return (until - venue_ms) * MS_NS if isinstance(until, int) and not isinstance(until, bool) else None


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
        self._turn = asyncio.Semaphore(POOL)

    async def open(self) -> None:
        """Make the connection pool (inside the running loop)."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=POOL, keepalive_timeout=60), timeout=self._timeout, auto_decompress=True
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
        # Signed when a connection is free: its time would grow old waiting for one.
        try:
            await asyncio.wait_for(self._turn.acquire(), self._timeout.total)
        except TimeoutError:
            raise VenueUnavailable(f"{method} {path}: no connection was free") from None
        try:
            return await self._call_at_turn(self._session, method, path, params, key, signed)
        finally:
            self._turn.release()

    async def _call_at_turn(
        self, session: aiohttp.ClientSession, method: str, path: str, params: Mapping[str, Any] | None, key: Key | None,
        signed: bool,
    ) -> bytes:
        name = f"{method} {path}"
        headers = {}
        query = urlencode(params or {})
        if key is not None:
            headers["X-MBX-APIKEY"] = key.api_key.decode()
            if signed:
                query = signed_query(key, params or {}, self.venue_clock.timestamp_ms(), self.contract.recv_window_ms)
        host = self.endpoints.sapi if path.startswith("/sapi/") else self.endpoints.rest
        url = f"{host}{path}" + (f"?{query}" if query else "")
        self.calls += 1
        try:
            # encoded=True: the signature covers these exact bytes, nothing may quote them again
            # Where an answer points elsewhere, nothing follows it: the key would be with a stranger.
            async with session.request(method, URL(url, encoded=True), headers=headers, allow_redirects=False) as answer:
                body = await common.body_of(answer)
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
                server = facts.decode_body(body, codec.ServerTime).serverTime
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
