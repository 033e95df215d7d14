"""The rights of a key, asked of its venue with the key itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from copyd.adapters import SESSION_KINDS, contract_of, endpoints_of, rest_of, weight_per_min
from copyd.config import Config, VenueConfig
from copyd.credentials import Credential
from copyd.errors import ConfigError, VenueUnavailable
from copyd.venues.binance_usdm.rest import RestClient
from copyd.venues.binance_usdm.rights import CALL, rights_of
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Rights

#: What a venue answers instead of rights: the key is refused, or it cannot be read. Neither is a right less.
REFUSALS = (RestError, ValueError)


class RightsReader(Protocol):
    """One venue. ``rights`` raises ``VenueUnavailable`` without an answer and one of ``REFUSALS`` for any other."""

    async def open(self) -> None:
        """Make it ready, in the running loop; the venue's clock is known then."""

    async def close(self) -> None:
        """Give its connections back."""

    async def rights(self, key: Key) -> Rights:
        """What the key may do."""


class _RestRights:
    """Asked by a REST client of its own."""

    def __init__(self, rest: Any) -> None:
        self._rest = rest

    async def open(self) -> None:
        await self._rest.open()
        try:
            await self._rest.measure_clock(1)
        except BaseException:
            await self._rest.close()
            raise

    async def close(self) -> None:
        await self._rest.close()


class BinanceRights(_RestRights):
    """``GET /sapi/v1/account/apiRestrictions``, signed with the key asked about."""

    def __init__(self, venue: VenueConfig, now_ns: Callable[[], int]) -> None:
        contract = contract_of(venue)
        super().__init__(RestClient(
            endpoints_of(venue), contract, now_ns, weight_limit_per_min=weight_per_min(venue, contract)))

    async def rights(self, key: Key) -> Rights:
        method, path = CALL.split()
        return rights_of(await self._rest.call(method, path, key=key))


class SessionRights(_RestRights):
    """A session venue's own ``Rest.rights``."""

    def __init__(self, venue: VenueConfig, now_ns: Callable[[], int]) -> None:
        super().__init__(rest_of(venue, now_ns))

    async def rights(self, key: Key) -> Rights:
        found: Rights = await self._rest.rights(key)
        return found


#: By kind of venue: what asks it.
RIGHTS_OF: dict[str, Callable[..., RightsReader]] = {
    "binance_usdm": BinanceRights, **dict.fromkeys(SESSION_KINDS, SessionRights),
}  # fmt: skip


def key_of(credential: Credential) -> Key:
    """A credential as a venue's calls take it."""
    return Key(
        credential.key.reveal().encode(), credential.secret.reveal().encode(), credential.passphrase.reveal().encode())


def venue_of(config: Config, kind: str) -> VenueConfig:
    """The configured venue of a kind; ``ConfigError`` where there is none, or no way to ask it."""
    for venue in config.venues:
        if venue.kind == kind:
            if kind not in RIGHTS_OF:
                raise ConfigError([f"venue {kind}: what its keys may do cannot be asked yet, so none can be kept"])
            return venue
    known = ", ".join(sorted({str(venue.kind) for venue in config.venues}))
    raise ConfigError([f"--venue {kind}: no such venue in the configuration (it has {known})"])


def problem_of(error: BaseException) -> str:
    """One line about an answer that was none; names no key."""
    if isinstance(error, VenueUnavailable):
        return f"venue_unavailable: {error}"
    if isinstance(error, ValueError):
        return f"unreadable_answer: {error}"
    assert isinstance(error, RestError)
    return f"{error.verdict.reason}: {error}"
