"""What one address and one account may ask per minute, as the venue publishes it; each limit can be lifted by name.

Weights are per IP in fixed clock minutes; order counts per account live in the compiled wire (`OrderMeter`), because every
order passes there. A lifted limit is still counted and shown in headers, it just never refuses.
"""

from __future__ import annotations

import msgspec

from copyd._fast.sim_wire import IpMeter

LIMITS = ("request_weight", "orders", "connections", "messages", "streams")

WEIGHT_PER_MINUTE = 2400
ORDERS_PER_10S = 300
ORDERS_PER_MINUTE = 1200
CONNECTS_PER_5_MINUTES = 300
STREAM_MESSAGES_PER_SECOND = 10
STREAMS_PER_CONNECTION = 1024
REFUSALS_BEFORE_BAN = 100  # requests sent on after a 429, within its minute
BAN_NS = 120 * 10**9
WS_HANDSHAKE_WEIGHT = 5


class TooMany(msgspec.Struct, frozen=True):
    """A request refused for its rate: HTTP status (429, or 418 once banned), text, seconds until it may be tried again."""

    status: int
    message: str
    retry_after: int


class Limits:
    """Request weight and connection attempts per address."""

    def __init__(self, lifted: frozenset[str] = frozenset()) -> None:
        unknown = sorted(lifted - set(LIMITS))
        if unknown:
            raise ValueError(f"no such limit: {', '.join(unknown)} (there are {', '.join(LIMITS)})")
        self.lifted = lifted
        self.weight_per_minute = WEIGHT_PER_MINUTE
        self.charged = 0  # weight of all addresses since the start
        self.meters: dict[str, IpMeter] = {}
        self._connects: dict[str, list[int]] = {}

    def meter(self, ip: str) -> IpMeter:
        found = self.meters.get(ip)
        if found is None:
            found = self.meters[ip] = IpMeter(ip)
        return found

    def charge(self, ip: str, weight: int, now_ns: int) -> TooMany | None:
        """Take ``weight`` from the address's minute; the refusal when it is used up."""
        meter = self.meter(ip)
        used = meter.add(now_ns, weight)
        self.charged += weight
        if "request_weight" in self.lifted:
            return None
        if now_ns < meter.banned_until_ns:
            until_ms = meter.banned_until_ns // 10**6
            return TooMany(
                418,
                f"Way too many requests; IP({ip}) banned until {until_ms}. "
                "Please use the websocket for live updates to avoid bans.",
                (meter.banned_until_ns - now_ns) // 10**9 + 1,
            )
        if used <= self.weight_per_minute:
            return None
        meter.refused += 1
        if meter.refused > REFUSALS_BEFORE_BAN:
            meter.banned_until_ns = now_ns + BAN_NS
        return TooMany(
            429,
            f"Too many requests; current limit of IP({ip}) is {self.weight_per_minute} requests per minute. "
            "Please use the websocket for live updates to avoid polling the API.",
            60 - now_ns // 10**9 % 60,
        )

    def connect(self, ip: str, now_ns: int) -> bool:
        """Count a connection attempt: False when the address made more than 300 in the last five minutes."""
        if "connections" in self.lifted:
            return True
        recent = [at for at in self._connects.get(ip, []) if at > now_ns - 300 * 10**9]
        recent.append(now_ns)
        self._connects[ip] = recent
        return len(recent) <= CONNECTS_PER_5_MINUTES

    def message(self, second: int, count: int) -> bool:
        """Whether the ``count``-th message of a stream connection within one ``second`` is still allowed."""
        return "messages" in self.lifted or count <= STREAM_MESSAGES_PER_SECOND
