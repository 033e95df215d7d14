"""The proofs of a login: each side shows that it knows the shared secret, and the secret never travels.

A proof covers both nonces and the session's name, so one that was overheard opens nothing.
"""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Final

from copyd.errors import OperatorError

NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
SECRET_BYTES_MIN: Final = 16


def client_proof(secret: bytes, challenge: bytes, nonce: bytes, name: str) -> bytes:
    """What LOGIN carries."""
    return hmac.digest(secret, b"copyd batch 1 client\0" + challenge + nonce + name.encode(), "sha256")


def engine_proof(secret: bytes, challenge: bytes, nonce: bytes, name: str) -> bytes:
    """What LOGIN_ACK carries."""
    return hmac.digest(secret, b"copyd batch 1 engine\0" + nonce + challenge + name.encode(), "sha256")


def read_secret(path: Path) -> bytes:
    """The shared secret: the file's bytes without white space at its ends. ``OperatorError`` when it will not do."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise OperatorError(f"{path}: the shared secret cannot be read: {error.strerror or error}") from None
    if len(secret) < SECRET_BYTES_MIN:
        raise OperatorError(f"{path}: the shared secret has {len(secret)} bytes; at least {SECRET_BYTES_MIN} are needed")
    return secret
