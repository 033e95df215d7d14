"""Accounts as their owners see them: a name, an API key, a secret. Only the exchange knows which key is whose.

Keys follow from the exchange's seed and the account's name, so two runs with one seed hand out the same ones.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from copyd._fast.sim_wire import Key, OrderMeter
from copyd.errors import UsageError


class Book:
    """Names and keys of all accounts; the money is in the engine."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.names: list[str] = []  # by account index
        self.index: dict[str, int] = {}
        self.meters: dict[int, OrderMeter] = {}
        self._renewed: dict[str, int] = {}  # how often its key was replaced

    def name(self, account: int) -> str:
        return self.names[account] if 0 <= account < len(self.names) else ""

    def register(self, account: int, name: str) -> None:
        while len(self.names) <= account:
            self.names.append(f"#{len(self.names)}")
        self.names[account] = name
        self.index[name] = account

    def renew(self, name: str) -> None:
        """The next key of an account is another one."""
        self._renewed[name] = self._renewed.get(name, 0) + 1

    def issue(self, account: int, name: str, kind: str = "hmac", public_key: str = "") -> tuple[Key, str]:
        """A key for the account: (as the wire checks it, the secret its owner gets; empty when the owner made the pair)."""
        api_key = self._derive(name, kind + " key").hex()
        meter = self.meters.get(account)
        if meter is None:
            meter = self.meters[account] = OrderMeter()
        if kind == "hmac":
            secret = self._derive(name, "hmac secret").hex()
            return Key(api_key.encode(), secret.encode(), kind, None, account, name, meter), secret
        verify, secret = _asymmetric(kind, public_key, self._derive(name, "ed25519 seed"))
        return Key(api_key.encode(), b"", kind, verify, account, name, meter), secret

    def words(self, name: str) -> tuple[str, str, str]:
        """(API key, secret, passphrase) of an account at a venue whose keys are a shared secret and perhaps a passphrase."""
        key, secret = self._derive(name, "hmac key").hex(), self._derive(name, "hmac secret").hex()
        return key, secret, self._derive(name, "passphrase").hex()[:24]

    def _derive(self, name: str, purpose: str) -> bytes:
        number = f" {self._renewed[name]}" if name in self._renewed else ""
        return hashlib.sha256(f"simulated exchange {self.seed} {name} {purpose}{number}".encode()).digest()


def _asymmetric(kind: str, public_key: str, seed: bytes) -> tuple[Callable[[bytes, bytes], bool], str]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
    except ImportError:
        raise UsageError(f"{kind} keys need the package cryptography (pip install cryptography)") from None
    secret = ""
    public: Any
    if public_key:
        public = serialization.load_pem_public_key(public_key.encode())
    elif kind == "ed25519":
        private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        public = private.public_key()
        secret = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
    else:
        raise UsageError(f"a {kind} key needs the owner's public_key (PEM)")
    if kind == "ed25519" and not isinstance(public, ed25519.Ed25519PublicKey):
        raise UsageError("public_key is no Ed25519 key")
    if kind == "rsa" and not isinstance(public, rsa.RSAPublicKey):
        raise UsageError("public_key is no RSA key")

    def verify(message: bytes, signature: bytes) -> bool:
        try:
            raw = base64.b64decode(signature, validate=True)
            if isinstance(public, rsa.RSAPublicKey):
                public.verify(raw, message, padding.PKCS1v15(), hashes.SHA256())
            else:
                public.verify(raw, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    return verify, secret
