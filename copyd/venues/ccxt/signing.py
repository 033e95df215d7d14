"""Keys of accounts behind ccxt: nothing is signed here, they are handed to the process that signs.

They go over its socket and nowhere else: not on a command line, not in an environment, not into a log.
"""

from __future__ import annotations

import hashlib

import msgspec

from copyd.venues.common.signing import Key


def account_of(key: Key) -> str:
    """What an account is called between the two processes: tells keys apart and tells nobody a key."""
    return hashlib.sha256(key.api_key).hexdigest()[:24]


def key_line(key: Key) -> bytes:
    """The line that hands a key over."""

    def line(api_key: bytes, secret: bytes) -> bytes:
        return msgspec.json.encode({
            "do": "key", "account": account_of(key), "key": api_key.decode(), "secret": secret.decode(),
            "password": key.passphrase(),
        })  # fmt: skip

    found: bytes = key.reveal_to(line)
    return found
