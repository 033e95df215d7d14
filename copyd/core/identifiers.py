"""Identities: the client order id, derived from what caused the order and never from chance (semantics 32).

Layout, 16 bytes, shown as 32 lower-case hex characters (valid on every venue copyd speaks to)::

    0   2  site      who runs this copyd, in clear
    2   3  epoch     which start of the daemon, in clear
    5  11  hash      first 88 bits of SipHash-2-4-128(site key, cause | aux | account | plan | instrument | side | part | attempt)

The clear part lets any reader recognise our orders and their epoch without a table.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

CID_BYTES = 16
"""A client order id."""
_MASK = (1 << 64) - 1
MESSAGE = struct.Struct("<16sqIIHBBBxxx")
"""cause 16, aux i64, account u32, plan u32, instrument u16, position side u8, part u8, attempt u8, 3 zero bytes: 40 bytes."""


def cause_id(*parts: object) -> bytes:
    """16 bytes that name the input behind a decision: venue, account and execution id of a leader fill, say."""
    return blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=16).digest()


def client_order_id(
    site: int, epoch: int, key: bytes, cause: bytes, aux: int, account: int, plan: int, instrument: int, side: int,
    part: int, attempt: int,
) -> bytes:
    """The 16-byte client order id of one part of one decision (semantics 32)."""
    digest = siphash128(key, MESSAGE.pack(cause, aux, account, plan, instrument, side, part, attempt))
    return site.to_bytes(2, "big") + epoch.to_bytes(3, "big") + digest[:11]


def site_of(cid: bytes) -> int:
    """The site a client order id names."""
    return int.from_bytes(cid[:2], "big")


def epoch_of(cid: bytes) -> int:
    """The epoch a client order id names."""
    return int.from_bytes(cid[2:5], "big")


def siphash128(key: bytes, message: bytes) -> bytes:
    """SipHash-2-4 with 128-bit output (Aumasson and Bernstein, 2012); key 16 bytes."""
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rounds(n: int) -> None:
        for _ in range(n):
            v[0] = (v[0] + v[1]) & _MASK
            v[1] = (v[1] << 13 | v[1] >> 51) & _MASK ^ v[0]
            v[0] = (v[0] << 32 | v[0] >> 32) & _MASK
            v[2] = (v[2] + v[3]) & _MASK
            v[3] = (v[3] << 16 | v[3] >> 48) & _MASK ^ v[2]
            v[0] = (v[0] + v[3]) & _MASK
            v[3] = (v[3] << 21 | v[3] >> 43) & _MASK ^ v[0]
            v[2] = (v[2] + v[1]) & _MASK
            v[1] = (v[1] << 17 | v[1] >> 47) & _MASK ^ v[2]
            v[2] = (v[2] << 32 | v[2] >> 32) & _MASK

    whole = len(message) // 8 * 8
    for (word,) in struct.iter_unpack("<Q", message[:whole]):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    last = int.from_bytes(message[whole:], "little") | (len(message) & 0xFF) << 56
    v[3] ^= last
    rounds(2)
    v[0] ^= last
    v[2] ^= 0xEE
    rounds(4)
    low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(4)
    return struct.pack("<QQ", low, v[0] ^ v[1] ^ v[2] ^ v[3])
