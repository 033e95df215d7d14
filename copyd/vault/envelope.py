"""One exchange key, sealed: AES-256-GCM under a data key of its own, which the key-encryption key (KEK) wraps.

A data key per envelope, not a seal by the KEK itself: replacing the KEK then wraps 32 bytes anew and touches no secret, and a
KEK that never leaves a Vault works by the same envelope. Every seal and every wrap has a fresh random nonce of 96 bits.

What is bound (the associated data of the seal): format, name, venue, account, version, fingerprint, when it was added, kind
of key, and the override it was accepted under. A seal that was cut, changed, swapped with another's, or put under another
name or venue does not open. ``kek`` and ``wrapped`` are not bound, or no KEK could be replaced; a wrapped key of another envelope
opens nothing here.
"""

from __future__ import annotations

import hashlib
import os
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from copyd.credentials import Credential, Secret
from copyd.journal.errors import JournalDamaged

FORMAT = 1
NONCE_BYTES = 12
KEY_BYTES = 32


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What an envelope says of its key in the open, all of it bound by the seal.

    ``fingerprint``: 12 hex digits of the API key's hash. ``override``: why a key without bound addresses was accepted ("": it was
    not needed), ``cap_e8``: then the most an order of it may be worth, 1e-8 quote (0 = no cap).
    """

    name: str
    venue: str
    account: str
    version: int
    fingerprint: str
    added_ns: int
    kind: Literal["hmac", "ed25519"] = "hmac"
    override: str = ""
    cap_e8: int = 0


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed key. ``kek``: which KEK wraps its data key; ``wrapped``: that data key, as the KEK's source gave it."""

    format: int
    facts: Facts
    kek: str
    wrapped: bytes
    nonce: bytes
    sealed: bytes


class _Inside(msgspec.Struct, array_like=True):
    key: str
    secret: str
    passphrase: str


def fingerprint(key: Secret) -> str:
    """Names an API key without showing it: 12 hex digits."""
    return hashlib.blake2b(key.reveal().encode(), digest_size=6, person=b"copyd key").hexdigest()


def bound(facts: Facts) -> bytes:
    """The associated data: the facts and the format, in one order and one form."""
    return msgspec.msgpack.encode(["copyd key", FORMAT, *msgspec.structs.astuple(facts)])


def seal(credential: Credential, facts: Facts, kek: str, data_key: bytes, wrapped: bytes) -> Envelope:
    """Seal a credential under a data key; ``wrapped`` is that data key as the KEK named ``kek`` wrapped it."""
    inside = _Inside(credential.key.reveal(), credential.secret.reveal(), credential.passphrase.reveal())
    nonce = os.urandom(NONCE_BYTES)
    sealed = AESGCM(data_key).encrypt(nonce, msgspec.msgpack.encode(inside), bound(facts))
    return Envelope(format=FORMAT, facts=facts, kek=kek, wrapped=wrapped, nonce=nonce, sealed=sealed)


def check_place(envelope: Envelope, name: str) -> None:
    """Refuse an envelope of another name or a newer format (``JournalDamaged``, exit 65)."""
    if envelope.format != FORMAT:
        raise JournalDamaged(f"key {name}: an envelope of format {envelope.format}, this build knows {FORMAT}")
    if envelope.facts.name != name:
        raise JournalDamaged(f"key {name}: the envelope there is that of {envelope.facts.name}; it was moved")


def opened(envelope: Envelope, name: str, data_key: bytes) -> Credential:
    """The credential in an envelope found under ``name``. ``JournalDamaged`` for whatever is not what was sealed."""
    check_place(envelope, name)
    wrong = f"key {name}: the envelope is not what was sealed (changed, cut, or of another key); `copyd key rotate` replaces it"
    try:
        inside = msgspec.msgpack.decode(
            AESGCM(data_key).decrypt(envelope.nonce, envelope.sealed, bound(envelope.facts)), type=_Inside)
    except (InvalidTag, ValueError):
        raise JournalDamaged(wrong) from None
    credential = Credential(
        name, Secret(inside.key), Secret(inside.secret), envelope.facts.kind, Secret(inside.passphrase), envelope.facts.cap_e8)
    if fingerprint(credential.key) != envelope.facts.fingerprint:
        raise JournalDamaged(wrong)
    return credential
