"""An API key: what signs, and never shows what it signs with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any


def json_text(value: Any) -> bytes:
    """JSON without spaces, in the order given: what is signed is what is sent."""
    return json.dumps(value, separators=(",", ":")).encode()


class Key:
    """An API key with its secret and, where the venue has one, its passphrase. Nothing prints them: no repr, no iteration, no
    pickling."""

    __slots__ = ("_passphrase", "_secret", "api_key")

    def __init__(self, api_key: bytes, secret: bytes, passphrase: bytes = b"") -> None:
        self.api_key = api_key
        self._secret = secret
        self._passphrase = passphrase

    def __repr__(self) -> str:
        return "<key>"

    def __reduce__(self) -> Any:
        raise TypeError("a key is not copied or stored")

    def sign(self, payload: bytes) -> str:
        """HMAC-SHA256 of the payload, lower-case hex."""
        return hmac.digest(self._secret, payload, hashlib.sha256).hex()

    def sign_base64(self, payload: bytes) -> str:
        """HMAC-SHA256 of the payload, base64."""
        return base64.b64encode(hmac.digest(self._secret, payload, hashlib.sha256)).decode()

    def passphrase(self) -> str:
        """For the header or the login that wants it; keep it out of names that logs can reach."""
        return self._passphrase.decode()

    def reveal_to(self, take: Any, *args: Any) -> Any:
        """Hand (api_key, secret) to the compiled encoder: ``take(*args, api_key, secret)``; the one way out."""
        return take(*args, self.api_key, self._secret)
