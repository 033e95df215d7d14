"""The key-encryption key: where it comes from, and the wrapping of data keys by it.

``LocalKek`` is 32 bytes of a systemd credential or a guarded file. ``TransitKek`` is a key in the transit engine of HashiCorp
Vault or OpenBao, which never leaves it: data keys are sent there to be wrapped and unwrapped.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import http.client
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from copyd.config import KekConfig
from copyd.credentials import Secret, read_guarded, read_systemd
from copyd.errors import ConfigError, WorldError
from copyd.vault.envelope import KEY_BYTES, NONCE_BYTES

TRANSIT_TIMEOUT_S = 10.0
TRANSIT_BATCH = 250
ANSWER_BYTES_MAX = 8 << 20


class KekUnavailable(WorldError):
    """The service that holds the KEK does not answer, or refuses."""

    exit_code = 69


class Kek(Protocol):
    """Wraps and unwraps data keys of 32 bytes."""

    #: Names the KEK in every envelope it wraps, without telling anything of it.
    id: str

    def wrap(self, data_keys: Sequence[bytes]) -> list[bytes]:
        """Each data key wrapped."""

    def unwrap(self, wrapped: Sequence[bytes]) -> list[bytes | None]:
        """Each data key; None for one that does not open."""

    def rewrap(self, wrapped: Sequence[bytes]) -> list[bytes | None]:
        """The same data keys under the newest version of this KEK, without their being seen where the source can do that."""


class LocalKek:
    """32 bytes held in this process."""

    def __init__(self, raw: bytes) -> None:
        self._aead = AESGCM(raw)
        self.id = "local:" + hashlib.blake2b(raw, digest_size=8, person=b"copyd kek").hexdigest()

    def __repr__(self) -> str:
        return f"LocalKek({self.id})"

    def _aad(self) -> bytes:
        return b"copyd data key " + self.id.encode()

    def wrap(self, data_keys: Sequence[bytes]) -> list[bytes]:
        out = []
        for data_key in data_keys:
            nonce = os.urandom(NONCE_BYTES)
            out.append(nonce + self._aead.encrypt(nonce, data_key, self._aad()))
        return out

    def unwrap(self, wrapped: Sequence[bytes]) -> list[bytes | None]:
        out: list[bytes | None] = []
        for value in wrapped:
            try:
                out.append(self._aead.decrypt(value[:NONCE_BYTES], value[NONCE_BYTES:], self._aad()))
            except (InvalidTag, ValueError):
                out.append(None)
        return out

    def rewrap(self, wrapped: Sequence[bytes]) -> list[bytes | None]:
        return [None if key is None else self.wrap([key])[0] for key in self.unwrap(wrapped)]


class TransitKek:
    """A key in Vault's or OpenBao's transit engine, over its HTTP interface. Redirects are not followed: the token goes to the
    address that was configured and to no other."""

    def __init__(self, address: str, token: Secret, key: str, mount: str = "transit", namespace: str = "", ca: str = "") -> None:
        parts = urlsplit(address)
        self._tls = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._base = parts.path.rstrip("/") + f"/v1/{mount}"
        self._token, self._key, self._namespace = token, key, namespace
        self._context = ssl.create_default_context(cafile=ca or None) if self._tls else None
        self.id = f"transit:{mount}/{key}"

    def __repr__(self) -> str:
        return f"TransitKek({self.id})"

    def wrap(self, data_keys: Sequence[bytes]) -> list[bytes]:
        rows = [{"plaintext": base64.b64encode(data_key).decode()} for data_key in data_keys]
        out = []
        for told in self._batched("encrypt", rows):
            if told is None:
                raise KekUnavailable(f"{self.id}: the service did not wrap a data key")
            out.append(self._ciphertext(told))
        return out

    def unwrap(self, wrapped: Sequence[bytes]) -> list[bytes | None]:
        out: list[bytes | None] = []
        for told in self._batched("decrypt", [{"ciphertext": value.decode("ascii", "replace")} for value in wrapped]):
            text = told.get("plaintext") if told is not None else None
            try:
                out.append(base64.b64decode(text, validate=True) if isinstance(text, str) else None)
            except binascii.Error:
                out.append(None)
        return out

    def rewrap(self, wrapped: Sequence[bytes]) -> list[bytes | None]:
        rows = [{"ciphertext": value.decode("ascii", "replace")} for value in wrapped]
        return [None if told is None else self._ciphertext(told) for told in self._batched("rewrap", rows)]

    def _ciphertext(self, told: Mapping[str, Any]) -> bytes:
        text = told.get("ciphertext")
        if not isinstance(text, str) or not re.fullmatch(r"[a-z]+:v[0-9]+:[A-Za-z0-9+/=_-]+", text):
            raise KekUnavailable(f"{self.id}: the service answered with something that is no ciphertext")
        return text.encode()

    def _batched(self, action: str, rows: Sequence[dict[str, str]]) -> list[dict[str, Any] | None]:
        """One result per row, in their order; None for a row the service refused."""
        out: list[dict[str, Any] | None] = []
        for start in range(0, len(rows), TRANSIT_BATCH):
            part = rows[start : start + TRANSIT_BATCH]
            told = self._call(action, {"batch_input": part})
            results = told.get("batch_results")
            if not isinstance(results, list) or len(results) != len(part):
                raise KekUnavailable(f"{self.id}: the service answered {action} with other rows than it was asked for")
            out += [row if isinstance(row, dict) and not row.get("error") else None for row in results]
        return out

    def _call(self, action: str, body: dict[str, Any]) -> dict[str, Any]:
        path = f"{self._base}/{action}/{self._key}"
        headers = {"X-Vault-Token": self._token.reveal(), "Content-Type": "application/json", "X-Vault-Request": "true"}
        if self._namespace:
            headers["X-Vault-Namespace"] = self._namespace
        door: http.client.HTTPConnection
        if self._context is not None:
            door = http.client.HTTPSConnection(self._host, self._port, timeout=TRANSIT_TIMEOUT_S, context=self._context)
        else:
            door = http.client.HTTPConnection(self._host, self._port, timeout=TRANSIT_TIMEOUT_S)
        where = f"{self.id} at {self._host}:{self._port}"
        try:
            door.request("POST", path, msgspec.json.encode(body), headers)
            answer = door.getresponse()
            status, text = answer.status, answer.read(ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            raise KekUnavailable(f"{where}: no answer: {type(error).__name__}") from None
        finally:
            door.close()
        try:
            told = msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            told = None
        data = told.get("data") if isinstance(told, dict) else None
        # Where some rows of a batch fail, the answer is 400 with a result for each row all the same.
        if status == 200 or (status == 400 and isinstance(data, dict) and "batch_results" in data):
            if not isinstance(data, dict):
                raise KekUnavailable(f"{where}: an answer that cannot be read")
            return data
        errors = told.get("errors") if isinstance(told, dict) else None
        said = "; ".join(str(error)[:200] for error in errors[:3]) if isinstance(errors, list) else ""
        raise KekUnavailable(f"{where}: {action} refused with {status}" + (f": {said}" if said else ""))


def parse_kek(raw: bytes, where: str) -> bytes:
    """32 bytes, as they are or in base64; ``ConfigError`` with one sentence otherwise."""
    if len(raw) == KEY_BYTES:
        return raw
    try:
        decoded = base64.b64decode(raw.strip(), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != KEY_BYTES:
        raise ConfigError([f"{where}: not a key of 32 bytes, raw or in base64 (make one: openssl rand -base64 32)"])
    return decoded


def load_kek(config: KekConfig, environ: Mapping[str, str] | None = None) -> Kek:
    """The KEK of the configuration. ``ConfigError`` where it cannot be read; a transit key is asked for only when used."""
    environ = os.environ if environ is None else environ
    if config.source == "file":
        return LocalKek(parse_kek(read_guarded(Path(config.file), {os.geteuid()}), config.file))
    if config.source == "systemd":
        return LocalKek(parse_kek(read_systemd(config.credential, environ), f"credential {config.credential}"))
    terms = config.vault
    if terms.token_file:
        raw = read_guarded(Path(terms.token_file), {os.geteuid()})
    else:
        raw = read_systemd(terms.token_credential, environ)
    token = raw.decode("ascii", "replace").strip()
    if not re.fullmatch(r"[!-~]{1,4096}", token):
        raise ConfigError([f"{terms.token_file or terms.token_credential}: not a token"])
    return TransitKek(terms.address, Secret(token), terms.transit_key, terms.mount, terms.namespace, terms.ca_file)
