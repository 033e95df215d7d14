"""What a signature costs: HMAC-SHA256 of an order's text from saved key states, 4 + 1 blocks, by each implementation.

OpenSSL stands beside it, as the reason for an implementation of our own: the same saved states through ``hashlib``'s copies, and
a key that is set up anew for every message. ``COPYD_BENCH_FOLLOWERS`` sets how many orders there are.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import random
from typing import Any

import pytest

from copyd._fast import hashing

FOLLOWERS = int(os.environ.get("COPYD_BENCH_FOLLOWERS", "200"))
TEXT = 219  # bytes of an order's signed text: with the padding 4 blocks, and the outer hash is 1
DRAW = random.Random(1)
KEYS = [DRAW.randbytes(64) for _ in range(FOLLOWERS)]
ROWS = DRAW.randbytes(FOLLOWERS * TEXT)
MESSAGES = [ROWS[at : at + TEXT] for at in range(0, len(ROWS), TEXT)]
SIGNED = [hmac.digest(key, message, "sha256") for key, message in zip(KEYS, MESSAGES, strict=True)]


def say(benchmark: Any) -> None:
    if benchmark.stats:
        benchmark.extra_info["ns_per_hmac"] = round(benchmark.stats.stats.median * 1e9 / FOLLOWERS)


@pytest.mark.parametrize("group", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("implementation", hashing.available())
def test_signatures_from_saved_states(benchmark: Any, implementation: str, group: int) -> None:
    """So many orders through the hash together; copying the texts, padding and writing the signatures are in it."""
    before = hashing.choose(implementation)
    try:
        signed = benchmark.pedantic(hashing.Keys(KEYS).sign_rows, (ROWS, TEXT, group), rounds=20, warmup_rounds=2)
    finally:
        hashing.choose(before)
    assert signed == b"".join(SIGNED)
    say(benchmark)


def test_signatures_by_openssl_from_saved_states(benchmark: Any) -> None:
    """Each key's inner and outer hash object is kept and copied: two objects and five calls per order."""
    blocks = [key.ljust(64, b"\0") for key in KEYS]
    inner = [hashlib.sha256(bytes(c ^ 0x36 for c in block)) for block in blocks]
    outer = [hashlib.sha256(bytes(c ^ 0x5C for c in block)) for block in blocks]

    def sign() -> list[bytes]:
        signed = []
        for begun, ends, message in zip(inner, outer, MESSAGES, strict=True):
            one = begun.copy()
            one.update(message)
            two = ends.copy()
            two.update(one.digest())
            signed.append(two.digest())
        return signed

    assert benchmark.pedantic(sign, rounds=20, warmup_rounds=2) == SIGNED
    say(benchmark)


def test_signatures_by_openssl_in_one_call(benchmark: Any) -> None:
    """``hmac.digest``: the key's two blocks are hashed again for every order."""

    def sign() -> list[bytes]:
        return [hmac.digest(key, message, "sha256") for key, message in zip(KEYS, MESSAGES, strict=True)]

    assert benchmark.pedantic(sign, rounds=20, warmup_rounds=2) == SIGNED
    say(benchmark)
