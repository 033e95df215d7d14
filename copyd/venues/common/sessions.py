"""Private connections of many accounts, each its own: opened in the venue's pace, logged in, subscribed, kept alive.

A *line* is one connection of one account (a ``Channel`` of the venue). It serves once the venue has let the account in and
has confirmed every subscription; what comes before that, and what is lost with a connection, is said to the owner and never
guessed. A login that is refused for good (a dead key) ends the line: it is not tried again before the account is added anew.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from copyd.errors import VenueUnavailable
from copyd.venues.common.connection import ConnectPace, Link, Session, watched
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.limits import Bans, VenueClock
from copyd.venues.common.signing import Key
from copyd.venues.common.told import Alive, Ending, LoggedIn, Subscribed, Told
from copyd.venues.common.venue import Channel, Wire

#: Reasons of a refused login that asking again does not mend.
FINAL_REASONS = frozenset({
    "key_refused", "key_format", "signature", "unauthorized", "ip_not_allowed", "passphrase", "permission", "wrong_environment",
})
#: A login or subscription that is not answered by then: the connection is given up.
ANSWER_S = 10.0
TICK_S = 0.5
#: Waits between two attempts to learn what kind of account it is.
PREPARE_S, PREPARE_MAX_S = 0.2, 10.0
#: An account's messages are small, and there are thousands of such connections.
READ_BUFFER = 4 << 10
FIVE_MINUTES_S = 300.0
#: So many connections at once, before the pace begins: a small desk is up at once.
BURST_MAX = 50
#: Of the venue's own limit of attempts: others behind this address want to connect as well.
PACE_SHARE = 0.9


class SessionStats(msgspec.Struct):
    """Counters since the start."""

    opened: int = 0
    logins: int = 0
    refused: int = 0
    subscribed: int = 0
    pings: int = 0
    silent: int = 0
    endings: int = 0
    frames: int = 0


class Line:
    """One connection of one account."""

    __slots__ = (
        "account", "asked_at", "channel", "connects", "final", "heard", "key", "link", "pinged_at", "problem", "ready",
        "served", "session", "silent_since", "waits_for",
    )  # fmt: skip

    def __init__(self, account: int, key: Key, channel: Channel) -> None:
        self.account, self.key, self.channel = account, key, channel
        self.link: Link
        self.session: Session | None = None
        self.ready = False
        self.final = False
        self.served = False  # the venue has let it in once
        self.problem = ""
        self.connects = 0
        self.waits_for: set[str] = set()
        self.asked_at = self.pinged_at = self.silent_since = 0.0
        self.heard = 0

    @property
    def open(self) -> bool:
        """Logged in and subscribed, and bytes may be handed over."""
        return self.ready and self.session is not None and self.session.open


class Sessions:
    """See the module. ``on_told(line, told, payload, ts_recv)``, ``on_ready(line)``, ``on_lost(line, session)``,
    ``on_refused(account, problem, for good)``."""

    def __init__(
        self,
        *,
        wire: Wire,
        channels: Callable[[Key], Sequence[Channel]],
        contract: VenueContract,
        clock: Callable[[], int],
        venue_clock: VenueClock,
        bans: Bans,
        on_told: Callable[[Line, Told, bytes, int], None],
        on_ready: Callable[[Line], None] = lambda line: None,
        on_lost: Callable[[Line, Session], None] = lambda line, session: None,
        on_refused: Callable[[int, str, bool], None] = lambda account, problem, final: None,
        on_oversized: Callable[[Line], None] = lambda line: None,
        prepare: Callable[[Key], Awaitable[Any]] | None = None,
        paces: Mapping[str, ConnectPace] | None = None,
        name: str = "session",
        seed: int = 0,
        urgent: bool = False,
    ) -> None:
        """``channels``: those of the account of a key, known once ``prepare`` has looked at it, where it has to be.
        ``urgent``: they connect before all that are not.
        ``paces``: by address of this machine; accounts are spread over them, and whoever connects from one keeps its pace."""
        self.wire, self.channels, self.contract, self.prepare = wire, channels, contract, prepare
        self.clock, self.venue_clock, self.bans = clock, venue_clock, bans
        self.on_told, self.on_ready, self.on_lost, self.on_refused = on_told, on_ready, on_lost, on_refused
        self.on_oversized = on_oversized
        self.name, self.urgent = name, urgent
        self._paces = dict(paces or paces_of(contract))
        self.sources = tuple(self._paces)
        self.stats = SessionStats()
        self._rng = random.Random(seed)
        self._accounts: dict[int, tuple[Line, ...]] = {}
        self._lines: dict[Session, Line] = {}
        self._open: dict[Line, None] = {}
        self._preparing: dict[int, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # --- life ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to keep alive what is opened."""
        self._tasks = [watched(asyncio.get_running_loop().create_task(self._watch(), name=f"{self.name}-watch"))]

    async def stop(self) -> None:
        """Close every connection."""
        tasks = [*self._tasks, *self._preparing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        lines = [line for lines in self._accounts.values() for line in lines]
        self._accounts.clear()
        await asyncio.gather(*(line.link.stop() for line in lines))

    def add(self, account: int, key: Key) -> None:
        """Open the connections of an account, in the venue's pace; they are kept up until it is removed. Another key than before
        takes the place of the old one, also where the venue had refused that for good."""
        for line in self._accounts.get(account, ()):
            if not _same(line.key, key):
                self._take_key(line, key)
        if account in self._accounts or account in self._preparing:
            return
        if self.prepare is None:
            self._open_lines(account, key)
            return
        task = watched(asyncio.get_running_loop().create_task(self._prepare(account, key), name=f"{self.name}-prepare-{account}"))
        self._preparing[account] = task
        task.add_done_callback(lambda done: self._prepared(account, done))

    def _prepared(self, account: int, done: asyncio.Task[None]) -> None:
        if self._preparing.get(account) is done:  # added anew meanwhile, it is another's
            del self._preparing[account]

    def _take_key(self, line: Line, key: Key) -> None:
        line.key = key
        if line.final:
            line.final, line.problem = False, ""
            line.link = self._link(line)
            line.link.start()
        else:
            line.link.renew()

    async def _prepare(self, account: int, key: Key) -> None:
        """What kind of account it is decides where its connections go; without an answer it is asked again."""
        assert self.prepare is not None
        pause = PREPARE_S
        while True:
            try:
                await self.prepare(key)
            except VenueUnavailable:
                await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
                pause = min(pause * 2, PREPARE_MAX_S)
            else:
                break
        self._open_lines(account, key)

    def _open_lines(self, account: int, key: Key) -> None:
        lines = self._accounts[account] = tuple(Line(account, key, channel) for channel in self.channels(key))
        for line in lines:
            line.link = self._link(line)
            line.link.start()

    async def remove(self, account: int) -> None:
        """Close the connections of an account."""
        preparing = self._preparing.pop(account, None)
        if preparing is not None:
            preparing.cancel()
        for line in self._accounts.pop(account, ()):
            await line.link.stop()

    def lines(self, account: int) -> tuple[Line, ...]:
        """The connections of an account, none for one that is not here."""
        return self._accounts.get(account, ())

    def __len__(self) -> int:
        return len(self._accounts) + len(self._preparing)

    @property
    def open_lines(self) -> int:
        """Lines that serve now."""
        return len(self._open)

    def _link(self, line: Line) -> Link:
        source = self.sources[line.account % len(self.sources)]

        async def address() -> str:
            await self.bans.passed()
            await self._paces[source].turn(self.urgent)
            return line.channel.url

        contract = self.contract
        make: type[Link] = getattr(self.wire, "link", Link)  # where nothing pushes, what asks stands for a connection
        return make(
            f"{self.name}-{line.channel.name}-{line.account}",
            address,
            on_frame=self._on_frame,
            on_open=lambda session: self._on_open(line, session),
            on_lost=lambda session: self._on_lost(line, session),
            on_oversized=lambda session: self.on_oversized(line),
            rng=random.Random(self._rng.random()),
            life_s=contract.connection_life_ms / 1000 if contract.connection_life_ms else FOR_EVER_S,
            frame_bytes_max=contract.frame_bytes_max,
            ping_idle_s=contract.ping_idle_ms / 1000,
            ping_reply_s=contract.ping_reply_ms / 1000,
            source_address=source,
            read_buffer=READ_BUFFER,
            paced=True,
        )

    # --- one connection -------------------------------------------------------------------------------------------------
    def _on_open(self, line: Line, session: Session) -> None:
        self.stats.opened += 1
        line.connects += 1
        before = line.session
        line.session, line.ready, line.problem = session, False, ""
        if before is not None:  # renewed: the old one serves no more as soon as the new one does
            self._open.pop(line, None)
        self._lines[session] = line
        line.waits_for.clear()
        line.asked_at = line.silent_since = line.pinged_at = asyncio.get_running_loop().time()
        line.heard = session.heard
        login = self.wire.login(line.channel, line.key, self.venue_clock.timestamp_ms())
        if login:
            line.waits_for.add("login")
            session.send_text(login)
        else:
            self._logged_in(line)

    def _logged_in(self, line: Line) -> None:
        assert line.session is not None
        for name, message in line.channel.subscriptions:
            line.waits_for.add(name)
            line.session.send_text(message)
        line.asked_at = asyncio.get_running_loop().time()
        self._see_ready(line)

    def _see_ready(self, line: Line) -> None:
        if not line.waits_for and not line.ready:
            line.ready = True
            self._open[line] = None
            self.on_ready(line)

    def _on_lost(self, line: Line, session: Session) -> None:
        self._lines.pop(session, None)
        if line.session is session:
            line.session, line.ready = None, False
            self._open.pop(line, None)
        self.on_lost(line, session)

    def _on_frame(self, session: Session, payload: bytes) -> None:
        line = self._lines.get(session)
        if line is None:
            return
        self.stats.frames += 1
        ts_recv = self.clock()
        for told in self.wire.read(line.channel.name, payload, ts_recv):
            kind = type(told)
            if kind is LoggedIn:
                self._login_answered(line, session, told)
            elif kind is Subscribed:
                self._subscription_answered(line, session, told)
            elif kind is Ending:
                self.stats.endings += 1
                self.on_told(line, told, payload, ts_recv)
                line.link.renew()
            elif kind is not Alive:
                self.on_told(line, told, payload, ts_recv)

    def _login_answered(self, line: Line, session: Session, told: Any) -> None:
        if line.session is not session:
            return
        if told.ok:
            line.served = True
            self.stats.logins += 1
            line.waits_for.discard("login")
            self._logged_in(line)
            return
        self.stats.refused += 1
        line.problem = f"login refused: {told.message[:100]} ({told.code})"
        # A leader who was let in before is tried for ever: nobody else says what he closes, and the refusal may be an error.
        if told.reason in FINAL_REASONS and not (self.urgent and line.served):
            line.final = True
            task = asyncio.get_running_loop().create_task(line.link.stop())
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)
        else:
            session.close(line.problem)
        self.on_refused(line.account, line.problem, line.final)

    def _subscription_answered(self, line: Line, session: Session, told: Any) -> None:
        if line.session is not session:
            return
        if told.ok:
            self.stats.subscribed += 1
            line.waits_for.discard(told.name)
            self._see_ready(line)
        else:
            line.problem = f"subscription {told.name} refused: {told.message[:100]}"
            session.close(line.problem)
            self.on_refused(line.account, line.problem, False)

    # --- signs of life --------------------------------------------------------------------------------------------------
    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            for session, line in list(self._lines.items()):
                if line.session is session:
                    self._see_to(line, session, now)

    def _see_to(self, line: Line, session: Session, now: float) -> None:
        if line.waits_for and now - line.asked_at > ANSWER_S:
            line.problem = f"no answer to {', '.join(sorted(line.waits_for))}"
            session.abort(line.problem)
            return
        every = line.channel.ping_every_ms / 1000
        if not every or not line.channel.ping:
            return
        if session.heard != line.heard:
            line.heard, line.silent_since = session.heard, now
        elif now - line.silent_since > 2 * every + ANSWER_S:
            self.stats.silent += 1
            session.abort("silent: nothing heard, not even an answer to a ping")
            return
        if now - line.pinged_at >= every:
            line.pinged_at = now
            self.stats.pings += 1
            session.send_text(line.channel.ping)


def _same(one: Key, other: Key) -> bool:
    """Whether two keys are one, by what they sign and say; neither shows its secret."""
    if one is other:
        return True
    return (one.api_key, one.sign(b"same"), one.passphrase()) == (other.api_key, other.sign(b"same"), other.passphrase())


FOR_EVER_S = 10.0 * 365 * 86_400


def pace_of(contract: VenueContract) -> ConnectPace:
    """Connection attempts of one address, below the venue's limit, also where that is counted by the second."""
    per_s = contract.connect_attempts_per_5_min * PACE_SHARE / FIVE_MINUTES_S
    burst = min(BURST_MAX, contract.connect_attempts_per_5_min // 6)
    if any(limit.kind == "connects" for limit in contract.rate_limits):
        burst = min(burst, round(contract.limit("connects", "ip").limit * (1 - PACE_SHARE)))
    return ConnectPace(per_s, max(1, burst))


def paces_of(contract: VenueContract, source_addresses: Sequence[str] = ()) -> dict[str, ConnectPace]:
    """One pace per address of this machine; "" where the system chooses it."""
    return {source: pace_of(contract) for source in (tuple(source_addresses) or ("",))}
