"""The sealed keys by name: what stands in the ring, and how it changes. Every change replaces one value, whole or not at all.

A value is magic, format, a ``Row`` in msgpack, crc32. The crc tells a damaged disk from an old format; what must not be forged is
in the seals of the envelopes.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec

from copyd.config import Config, KeysConfig
from copyd.credentials import Credential, Credentials, load_credentials
from copyd.errors import ConfigError, RequestRefused
from copyd.journal.errors import JournalDamaged, JournalUnreadable
from copyd.journal.keyring import Keyring
from copyd.vault.envelope import KEY_BYTES, Envelope, Facts, check_place, fingerprint, opened, seal
from copyd.vault.kek import Kek, load_kek

#: Why an envelope does not open: the configuration does not name its KEK, or it is not what was sealed.
Shut = ConfigError | JournalDamaged
MAGIC = b"CPYK\x01"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What the last look at a key's rights found. ``reasons`` empty: accepted. ``problem``: there was no answer."""

    ts_ns: int
    reasons: tuple[str, ...] = ()
    moves_funds: tuple[str, ...] = ()
    ip_bound: bool | None = None
    problem: str = ""


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """What stays of a key that was revoked."""

    reason: str
    ts_ns: int
    facts: Facts | None  # None: the row could not be read any more


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """All that stands under a name: the key in use, the one that is to follow it once it was tested, or what was revoked."""

    current: Envelope | None = None
    following: Envelope | None = None
    check: Check | None = None
    tombstone: Tombstone | None = None

    @property
    def facts(self) -> Facts | None:
        """What is known of the key in use, or of the one that was."""
        if self.current is not None:
            return self.current.facts
        return self.tombstone.facts if self.tombstone is not None else None


def encode(row: Row) -> bytes:
    """A row as it stands in the ring."""
    body = MAGIC + msgspec.msgpack.encode(row)
    return body + zlib.crc32(body).to_bytes(4, "little")


def decode(name: str, value: bytes) -> Row:
    """A row of the ring; ``JournalDamaged`` (exit 65) naming the key where it is not what was written."""
    body = value[:-4]
    if len(value) < 16 or body[:4] != MAGIC[:4] or zlib.crc32(body) != int.from_bytes(value[-4:], "little"):
        raise JournalDamaged(f"key {name}: what is stored is not what was written; `copyd key add` replaces it")
    if body[:5] != MAGIC:
        raise JournalDamaged(f"key {name}: stored in format {body[4]}, this build knows {MAGIC[4]}")
    try:
        row = msgspec.msgpack.decode(body[5:], type=Row)
    except (msgspec.MsgspecError, ValueError):
        raise JournalDamaged(f"key {name}: what is stored cannot be read; `copyd key add` replaces it") from None
    for envelope in (row.current, row.following):
        if envelope is not None:
            check_place(envelope, name)
    return row


class Keys:
    """The keys of one journal directory as they stand there, shut. Use as a context manager."""

    def __init__(self, ring: Keyring) -> None:
        self._ring = ring

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._ring.close()

    def in_use(self, name: str) -> Envelope:
        """The envelope in use under a name; ``RequestRefused`` where there is none."""
        value = self._ring.get(name)
        return _in_use(name, None if value is None else decode(name, value))

    def row_or_none(self, name: str) -> Row | None:
        """What stands under a name; None also where it cannot be read."""
        value = self._ring.get(name)
        row = None if value is None else _decoded(name, value)
        return row if isinstance(row, Row) else None

    def rows(self) -> list[tuple[str, Row | JournalDamaged]]:
        """Every name with its row, or with what is wrong with it."""
        return [(name, _decoded(name, value)) for name, value in self._ring.items()]

    def _change(self, name: str, change: Callable[[Row | None], Row], *, over_damage: bool = False) -> Row:
        """Replace a row by what ``change`` makes of it; where another was quicker, it is asked again. ``over_damage``: a row that
        cannot be read counts as none."""
        while True:
            value = self._ring.get(name)
            old = None if value is None else _decoded(name, value)
            if isinstance(old, JournalDamaged):
                if not over_damage:
                    raise old
                old = None
            row = change(old)
            if self._ring.replace(name, value, encode(row)):
                return row

    def promote(self, name: str, version: int, check: Check) -> Row:
        """The key that was to follow is in use from now on; the one before is destroyed."""

        def change(row: Row | None) -> Row:
            _in_use(name, row)
            assert row is not None
            if row.following is None or row.following.facts.version != version:
                raise RequestRefused(f"key {name}: another command has changed it meanwhile")
            return msgspec.structs.replace(row, current=row.following, following=None, check=check)

        return self._scrubbed(name, self._change(name, change))

    def drop_following(self, name: str, version: int) -> Row:
        """The key that was to follow will not, where it is still that one."""

        def change(row: Row | None) -> Row:
            _in_use(name, row)
            assert row is not None
            same = row.following is not None and row.following.facts.version == version
            return msgspec.structs.replace(row, following=None) if same else row

        return self._scrubbed(name, self._change(name, change))

    def note(self, checks: Mapping[str, tuple[int, Check]]) -> None:
        """What checks found, by name with the version that was checked; where another key is in use meanwhile, nothing. One
        transaction; what another command changes at the same time goes unnoted until the next check."""
        changes = []
        for name, (version, check) in checks.items():
            value = self._ring.get(name)
            row = None if value is None else _decoded(name, value)
            if value is not None and isinstance(row, Row) and row.current is not None and row.current.facts.version == version:
                changes.append((name, value, encode(msgspec.structs.replace(row, check=check))))
        if changes:
            self._ring.replace_all(changes)

    def revoke(self, name: str, reason: str, now_ns: int) -> Row:
        """Destroy the envelopes; the reason stays. A row that cannot be read is revoked as well."""
        if self._ring.get(name) is None:
            raise RequestRefused(f"there is no key {name}")

        def change(row: Row | None) -> Row:
            facts = _in_use(name, row).facts if row is not None else None
            return Row(tombstone=Tombstone(reason=reason, ts_ns=now_ns, facts=facts))

        return self._scrubbed(name, self._change(name, change, over_damage=True))

    def _scrubbed(self, name: str, row: Row) -> Row:
        """What was destroyed is in the file no more."""
        if not self._ring.scrub():
            raise JournalUnreadable(
                f"key {name}: done, but a reader keeps what was destroyed in the file: run `copyd key rotate-kek` once")
        return row


class Vault(Keys):
    """The same with what opens them: the KEK in force, and the one before while it is being replaced."""

    def __init__(self, ring: Keyring, kek: Kek, before: Kek | None = None) -> None:
        super().__init__(ring)
        self._kek = kek
        self._keks = {each.id: each for each in (before, kek) if each is not None}

    # -- opening ------------------------------------------------------------------------------------------------------

    def credentials(self) -> list[Credential]:
        """Every key in use, opened. ``ConfigError`` with every one that cannot be; nothing is returned then."""
        problems: list[str] = []
        envelopes: list[tuple[str, Envelope]] = []
        for name, row in self.rows():
            if isinstance(row, JournalDamaged):
                problems.append(str(row))
            elif row.current is not None:
                envelopes.append((name, row.current))
        found: list[Credential] = []
        for _, result in self.open_many(envelopes):
            if isinstance(result, Credential):
                found.append(result)
            else:
                problems.append(str(result))
        if problems:
            raise ConfigError(problems)
        return found

    def open_many(self, envelopes: Sequence[tuple[str, Envelope]]) -> list[tuple[str, Credential | Shut]]:
        """Each envelope opened, or why it does not open."""
        out: dict[int, Credential | Shut] = {}
        by_kek: dict[str, list[int]] = {}
        for index, (_, envelope) in enumerate(envelopes):
            by_kek.setdefault(envelope.kek, []).append(index)
        for kek_id, indexes in by_kek.items():
            kek = self._keks.get(kek_id)
            if kek is None:
                for index in indexes:
                    out[index] = ConfigError([_unknown_kek(envelopes[index][0], kek_id)])
                continue
            for index, data_key in zip(indexes, kek.unwrap([envelopes[i][1].wrapped for i in indexes]), strict=True):
                name, envelope = envelopes[index]
                try:
                    if data_key is None or len(data_key) != KEY_BYTES:
                        raise JournalDamaged(_not_unwrapped(name, kek_id))
                    out[index] = opened(envelope, name, data_key)
                except JournalDamaged as error:
                    out[index] = error
        return [(envelopes[index][0], out[index]) for index in range(len(envelopes))]

    # -- sealing ------------------------------------------------------------------------------------------------------

    def _sealed(self, credential: Credential, facts: Facts) -> Envelope:
        data_key = os.urandom(KEY_BYTES)
        return seal(credential, facts, self._kek.id, data_key, self._kek.wrap([data_key])[0])

    def add(
        self, credential: Credential, *, venue: str, account: str, now_ns: int, check: Check, override: str = "", cap_e8: int = 0
    ) -> Row:
        """A new key under a name that has none, or had one that was revoked. ``RequestRefused`` otherwise."""

        def change(row: Row | None) -> Row:
            if row is not None and row.current is not None:
                raise RequestRefused(f"key {credential.name} is already there; `copyd key rotate {credential.name}` replaces it")
            old = row.facts if row is not None else None
            facts = Facts(
                name=credential.name, venue=venue, account=account, version=old.version + 1 if old else 1,
                fingerprint=fingerprint(credential.key), added_ns=now_ns, kind=credential.kind, override=override, cap_e8=cap_e8,
            )  # fmt: skip
            return Row(current=self._sealed(credential, facts), check=check)

        return self._change(credential.name, change, over_damage=True)

    def follow(self, credential: Credential, *, now_ns: int, override: str = "", cap_e8: int = 0) -> Row:
        """Keep a new key beside the one in use, for the same venue and account, until it was tested."""
        name = credential.name

        def change(row: Row | None) -> Row:
            current = _in_use(name, row)
            new = fingerprint(credential.key)
            if new == current.facts.fingerprint:
                raise RequestRefused(f"key {name}: that is the key in use")
            facts = msgspec.structs.replace(
                current.facts, version=current.facts.version + 1, fingerprint=new, added_ns=now_ns, kind=credential.kind,
                override=override, cap_e8=cap_e8)
            assert row is not None
            return msgspec.structs.replace(row, following=self._sealed(credential, facts))

        return self._change(name, change)

    # -- another KEK ---------------------------------------------------------------------------------------------------

    def rewrap_all(self, progress: Callable[[int], None]) -> tuple[int, int, list[str], bool]:
        """Wrap every data key by the KEK in force: (how many were, how many had been, what could not be, whether nothing of what
        was before is left in the file).

        Each name is replaced by itself, so a run that was killed is taken up by the next: what is done already is passed over.
        """
        newest = self._kek.wrap([bytes(KEY_BYTES)])[0].rpartition(b":")[0] if self._kek.id.startswith("transit:") else b""
        done, already, problems = 0, 0, []
        for name in [name for name, _ in self._ring.items()]:
            try:
                if self._rewrap(name, newest):
                    done += 1
                else:
                    already += 1
            except (JournalDamaged, ConfigError) as error:
                problems.append(str(error))
            progress(1)
        return done, already, problems, self._ring.scrub()

    def _rewrap(self, name: str, newest: bytes) -> bool:
        while True:
            value = self._ring.get(name)
            if value is None:
                return False
            row = decode(name, value)
            changed = msgspec.structs.replace(
                row, current=self._wrapped_anew(name, row.current, newest),
                following=self._wrapped_anew(name, row.following, newest))
            if changed == row:
                return False
            if self._ring.replace(name, value, encode(changed)):
                return True

    def _wrapped_anew(self, name: str, envelope: Envelope | None, newest: bytes) -> Envelope | None:
        """The envelope under the KEK in force; itself where it is so already."""
        if envelope is None:
            return None
        if envelope.kek == self._kek.id:
            if not newest or envelope.wrapped.startswith(newest + b":"):
                return envelope
            wrapped = self._kek.rewrap([envelope.wrapped])[0]
        else:
            old = self._keks.get(envelope.kek)
            if old is None:
                raise ConfigError([_unknown_kek(name, envelope.kek)])
            data_key = old.unwrap([envelope.wrapped])[0]
            if data_key is not None:
                opened(envelope, name, data_key)  # what does not open is not passed on as good
            wrapped = None if data_key is None else self._kek.wrap([data_key])[0]
        if wrapped is None:
            raise JournalDamaged(_not_unwrapped(name, envelope.kek))
        return msgspec.structs.replace(envelope, kek=self._kek.id, wrapped=wrapped)


def _decoded(name: str, value: bytes) -> Row | JournalDamaged:
    try:
        return decode(name, value)
    except JournalDamaged as error:
        return error


def _in_use(name: str, row: Row | None) -> Envelope:
    if row is None:
        raise RequestRefused(f"there is no key {name}")
    if row.current is None:
        why = f": {row.tombstone.reason}" if row.tombstone is not None else ""
        raise RequestRefused(f"key {name} was revoked{why}")
    return row.current


def _not_unwrapped(name: str, kek_id: str) -> str:
    return f"key {name}: its data key does not open with {kek_id}; `copyd key rotate` replaces it"


def _unknown_kek(name: str, kek_id: str) -> str:
    return f"key {name}: sealed with {kek_id}, which the configuration does not name (keys.kek, keys.kek_before)"


def open_keys(journal: str | os.PathLike[str]) -> Keys:
    """The keys beside a journal, to be looked at or revoked: no KEK is needed."""
    return Keys(Keyring(Path(journal)))


def open_vault(journal: str | os.PathLike[str], config: KeysConfig, *, create: bool = False) -> Vault:
    """The keys beside a journal, with the KEKs of the configuration."""
    kek = load_kek(config.kek)
    before = load_kek(config.kek_before) if config.kek_before is not None else None
    return Vault(Keyring(Path(journal), create=create), kek, before)


def load_all(config: Config) -> Credentials:
    """Every key of the configuration's sources, the sealed ones among them. ``ConfigError`` with every problem."""
    return load_credentials(config.credentials, vault=partial(_sealed_keys, config))


def _sealed_keys(config: Config) -> list[Credential]:
    with open_vault(config.journal.path, config.keys) as vault:
        return vault.credentials()
