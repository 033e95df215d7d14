"""The REST client of a session venue: paced inside its limits; a venue's ``Rest`` adds signatures, errors and questions."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
from yarl import URL

from copyd.errors import VenueUnavailable
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.limits import PATIENCE_NS, Bans, VenueClock, WeightBudget
from copyd.venues.common.outcome import Verdict
from copyd.venues.common.requests import Lost, NotWritten, Requests, request_text
from copyd.venues.common.signing import Key

#: Connections of one address: orders that hang at the venue leave room for questions.
POOL = 128
BODY_MAX = 64 << 20
ORDER_HEADERS = {"User-Agent": "copyd", "Accept": "application/json", "Accept-Encoding": "identity"}


class NotSent(VenueUnavailable):
    """Not one byte of the call has left."""


class RestError(Exception):
    """The venue answered, with an error. The message holds no key and no query string."""

    def __init__(self, call: str, status: int, code: int, message: str, verdict: Verdict) -> None:
        super().__init__(f"{call}: HTTP {status}, code {code}: {message[:200]}")
        self.status, self.code, self.message, self.verdict = status, code, message, verdict


async def body_of(answer: aiohttp.ClientResponse) -> bytes:
    """The whole body; ``aiohttp.ClientPayloadError`` for one beyond ``BODY_MAX``, which no answer of a venue comes near."""
    parts, size = [], 0
    async for part in answer.content.iter_chunked(1 << 16):
        parts.append(part)
        size += len(part)
        if size > BODY_MAX:
            raise aiohttp.ClientPayloadError(f"an answer of more than {BODY_MAX >> 20} MiB")
    return b"".join(parts)


class Problem:
    """What an answer says went wrong. ``wait_ns``: it is a refusal for our rate; when to come again (None = it does not say).
    ``account``: the limit is the account's, not the address's."""

    __slots__ = ("account", "code", "limited", "message", "verdict", "wait_ns")

    def __init__(
        self, code: int, message: str, verdict: Verdict, *, limited: bool = False, account: bool = False,
        wait_ns: int | None = None,
    ) -> None:
        self.code, self.message, self.verdict = code, message, verdict
        self.limited, self.account, self.wait_ns = limited, account, wait_ns


class RestBase:
    """Calls one venue host. Nothing is repeated by itself.

    A venue overrides ``signed`` and ``problem``, and ``used`` where it says how much of the address's budget is spent.
    """

    def __init__(
        self, base_url: str, contract: VenueContract, clock: Callable[[], int], *, weight_limit: int | None = None,
        timeout_s: float = 10.0, mono: Callable[[], int] = time.monotonic_ns, source_addresses: Sequence[str] = (),
    ) -> None:
        """``weight_limit``: of one address and the contract's interval. ``source_addresses``: of this machine; keys are spread
        over them, and each has a budget of its own."""
        self.base_url, self.contract, self.clock, self.mono = base_url, contract, clock, mono
        limit = contract.limit("weight", "ip")
        self.bans = Bans(contract, mono)
        self.sources = tuple(source_addresses) or ("",)
        self._budgets = [
            WeightBudget(weight_limit or limit.limit, limit.interval_ms, mono, self.bans) for _ in self.sources]
        self.budget = self._budgets[0]
        self.venue_clock = VenueClock(contract, clock)
        self.calls = 0
        self.errors = 0
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        #: Headers of every call, public ones too.
        self.headers: dict[str, str] = {}
        self._pools: list[aiohttp.ClientSession] = []
        #: Turns at each pool: a call is signed when a connection is free for it, its time would grow old waiting for one.
        self._turns = [asyncio.Semaphore(POOL) for _ in self.sources]
        #: Orders go over connections of their own: they never wait behind a question.
        self._orders: list[Requests] = []

    # --- of the venue ---------------------------------------------------------------------------------------------
    def signed(self, key: Key, method: str, target: str, body: bytes) -> dict[str, str]:
        """Headers that sign a call. ``target``: path and query exactly as sent."""
        raise NotImplementedError

    def signed_target(self, key: Key, target: str) -> str:
        """Path and query as sent, where the signature and its time stand in the query."""
        return target

    def problem(self, status: int, headers: Mapping[str, str], body: bytes) -> Problem | None:
        """What the answer says went wrong; None: it is an answer."""
        raise NotImplementedError

    def used(self, headers: Mapping[str, str]) -> int | None:
        """How much of the address's budget the venue counts as spent; None: it does not say."""
        return None

    def query(self, params: Mapping[str, Any]) -> str:
        """The query string exactly as it is signed and sent."""
        return "&".join(f"{name}={value}" for name, value in params.items() if value is not None)

    # --- the same for all -----------------------------------------------------------------------------------------
    async def open(self) -> None:
        """Make the connection pool (inside the running loop)."""
        for source in self.sources:
            local = (source, 0) if source else None
            self._pools.append(aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=POOL, keepalive_timeout=60, local_addr=local), timeout=self._timeout,
                auto_decompress=True, headers=self.headers))
            self._orders.append(Requests(self.base_url, source))

    async def close(self) -> None:
        pools, self._pools = self._pools, []
        orders, self._orders = self._orders, []
        for connections in orders:
            connections.close()
        for pool in pools:
            await pool.close()

    def _source_of(self, key: Key | None) -> int:
        return zlib.crc32(key.api_key) % len(self.sources) if key is not None and len(self.sources) > 1 else 0

    async def get(self, path: str, params: Mapping[str, Any] | None = None, key: Key | None = None) -> bytes:
        """The body of an answer to ``GET``; ``RestError``, ``VenueUnavailable`` otherwise."""
        query = self.query(params or {})
        return await self.call("GET", path, f"{path}?{query}" if query else path, b"", key)

    async def post(self, path: str, body: bytes, key: Key, *, timeout_ms: int = 0) -> bytes:
        """The body of an answer to ``POST`` of JSON. ``timeout_ms``: from when it is sent; 0 = as every call."""
        return await self.call("POST", path, path, body, key, timeout_ms=timeout_ms)

    async def call(
        self, method: str, path: str, target: str, body: bytes, key: Key | None, *, timeout_ms: int = 0
    ) -> bytes:
        """One call within the address's budget. One with a time of its own, an order, does not wait for a ban to end."""
        await self.take(f"{method} {path}", key, 0 if timeout_ms else PATIENCE_NS)
        return await self.call_now(method, path, target, body, key, timeout_ms=timeout_ms)

    async def take(self, call: str, key: Key | None, patience_ns: int = PATIENCE_NS) -> None:
        """Weight of the address that the key's calls leave from; ``NotSent`` when a ban stands for longer than one waits."""
        try:
            await self._budgets[self._source_of(key)].take(self.contract.weight(call), patience_ns)
        except VenueUnavailable as problem:
            raise NotSent(str(problem)) from None

    async def call_now(
        self, method: str, path: str, target: str, body: bytes, key: Key | None, *, timeout_ms: int = 0
    ) -> bytes:
        """As ``call``, with the weight already taken."""
        if not self._pools:
            raise NotSent("REST client is not open")
        source = self._source_of(key)
        turn = self._turns[source]
        try:
            await asyncio.wait_for(turn.acquire(), timeout_ms / 1000 if timeout_ms else self._timeout.total)
        except TimeoutError:
            self.errors += 1
            raise NotSent(f"{method} {path}: no connection was free") from None
        try:
            return await self._call_at_turn(source, method, path, target, body, key, timeout_ms)
        finally:
            turn.release()

    async def _call_at_turn(
        self, source: int, method: str, path: str, target: str, body: bytes, key: Key | None, timeout_ms: int
    ) -> bytes:
        if not self._pools:
            raise NotSent("REST client is not open")
        name = f"{method} {path}"
        if key is not None:
            target = self.signed_target(key, target)
        headers = self.signed(key, method, target, body) if key is not None else {}
        if body:
            headers["Content-Type"] = "application/json"
        self.calls += 1
        try:
            # encoded=True: the signature covers these exact bytes, nothing may quote them again
            url = URL(self.base_url + target, encoded=True)
            within = aiohttp.ClientTimeout(total=timeout_ms / 1000) if timeout_ms else self._timeout
            # Where an answer points elsewhere, nothing follows it: the order would be out twice, and the key with a stranger.
            async with self._pools[source].request(
                method, url, headers=headers, data=body or None, timeout=within, allow_redirects=False
            ) as answer:
                text = await body_of(answer)
                told, status = answer.headers, answer.status
        except aiohttp.ClientConnectorError as problem:
            self.errors += 1
            raise NotSent(f"{name}: {type(problem).__name__}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            self.errors += 1
            raise VenueUnavailable(f"{name}: {type(problem).__name__}") from None
        return self._answered(source, name, status, told, text)

    async def post_order(self, path: str, body: bytes, key: Key, *, timeout_ms: int) -> bytes:
        """As ``post``, for an order, in a lean way: what fails before its first byte was written is ``NotSent``, and
        any other ``VenueUnavailable`` means that it was. Signed when it is its turn and the connection stands."""
        source = self._source_of(key)
        if not self._orders:
            raise NotSent("REST client is not open")
        name, orders = f"POST {path}", self._orders[source]
        try:
            await self.take(name, key, 0)  # an order does not wait for a ban to end
            lease = await orders.lease()
        except (VenueUnavailable, NotWritten) as problem:
            self.errors += 1
            raise NotSent(str(problem)) from None
        self.calls += 1
        try:
            answer = await lease.ask(self._order_text(orders.host, path, body, key), timeout_ms / 1000)
        except NotWritten as problem:
            self.errors += 1
            raise NotSent(str(problem)) from None
        except Lost as problem:
            self.errors += 1
            raise VenueUnavailable(f"{name}: {problem}") from None
        finally:
            lease.release()
        return self._answered(source, name, *answer)

    def _order_text(self, host: str, path: str, body: bytes, key: Key) -> bytes:
        """The whole request, signed now."""
        headers = {**ORDER_HEADERS, **self.headers, **self.signed(key, "POST", path, body), "Content-Type": "application/json"}
        try:
            return request_text("POST", path, host, headers, body)
        except ValueError as problem:
            raise NotSent(str(problem)) from None

    def _answered(self, source: int, name: str, status: int, told: Mapping[str, str], text: bytes) -> bytes:
        """The body of an answer; ``RestError`` for a refusal, which may close the address for a while."""
        used = self.used(told)
        if used is not None:
            self._budgets[source].told(used)
        try:
            wrong = self.problem(status, told, text)
        except RecursionError:
            raise VenueUnavailable(f"{name}: the answer is nested too deep") from None
        if wrong is None:
            return text
        self.errors += 1
        if wrong.limited and not wrong.account:
            self.bans.note(status, wrong.code, wrong.message, wrong.wait_ns, self.venue_clock.timestamp_ms())
        raise RestError(name, status, wrong.code, wrong.message, wrong.verdict)

    async def server_ms(self) -> int:
        """The venue's clock, ms, with the weight already taken. ``ValueError``: its answer cannot be read."""
        raise NotImplementedError

    #: The call ``server_ms`` makes.
    clock_call = ""

    async def measure_clock(self, samples: int = 3) -> None:
        """Read the venue's clock; the sample with the shortest round trip counts."""
        best: tuple[int, int, int] | None = None
        for _ in range(samples):
            # Waiting for weight is no part of the round trip: half of it would be taken for an error of the clock.
            await self.budget.take(self.contract.weight(self.clock_call))
            began = self.mono()
            try:
                server = await self.server_ms()
            except ValueError as problem:
                raise VenueUnavailable(f"{self.clock_call}: unreadable answer: {problem}") from None
            received = self.clock()
            sent = received - (self.mono() - began)  # a wall clock put right meanwhile is no round trip
            if best is None or received - sent < best[1] - best[0]:
                best = (sent, received, server)
        assert best is not None
        self.venue_clock.note(*best)
