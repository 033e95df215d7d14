"""Exchange keys: read from a file of mode 0600, a systemd credential or the sealed keys of ``copyd key``, held in a type that
never shows them.

One JSON object per line: ``{"name": "alice", "key": "...", "secret": "..."}``; ``"type"`` may say ``hmac`` (default) or
``ed25519`` (the secret is then a PEM private key), ``"passphrase"`` is what OKX and Bitget want besides. A problem names the
file and line, never what stands there.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec

from copyd.config import CredentialSource
from copyd.errors import ConfigError

HIDDEN = "[secret]"
FILE_BYTES_MAX = 64 << 20
PROBLEMS_MAX = 200

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", re.ASCII)
_KEY = re.compile(r"[!-~]{1,512}", re.ASCII)  # visible ASCII: it goes into a header


class Secret:
    """A value that is used and never shown: not by repr, str, format, JSON, pickle or copy. `reveal` is the only door."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value, for the code that signs or authenticates with it; keep it out of names that logs can reach."""
        return self._value

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(HIDDEN, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret is not pickled or copied")


class Credential:
    """One account's key. The key itself is an identifier rather than a secret, but it is not shown either."""

    __slots__ = ("cap_e8", "key", "kind", "name", "passphrase", "secret")

    def __init__(
        self, name: str, key: Secret, secret: Secret, kind: Literal["hmac", "ed25519"] = "hmac", passphrase: Secret | None = None,
        cap_e8: int = 0,
    ) -> None:
        """``cap_e8``: the most an order signed with it may be worth, 1e-8 quote; 0 = no cap of the key's."""
        self.name = name
        self.cap_e8 = cap_e8
        self.passphrase = passphrase or Secret("")
        self.key = key
        self.secret = secret
        self.kind = kind

    def same_key(self, other: Credential) -> bool:
        """Whether both sign alike."""
        return (self.key, self.secret, self.passphrase, self.kind) == (other.key, other.secret, other.passphrase, other.kind)

    def __repr__(self) -> str:
        return f"Credential({self.name}, {self.kind})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a credential is not pickled or copied")


class Credentials(Mapping[str, Credential]):
    """Every credential by name."""

    def __init__(self, entries: Iterable[Credential] = ()) -> None:
        self._by_name = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> Credential:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"Credentials({len(self)} names)"


def read_guarded(path: Path, owners: set[int]) -> bytes:
    """The file's bytes, after checking on the *opened* file that nobody else can read or replace them."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    try:
        status = os.fstat(fd)
        problems = []
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError([f"{path}: not a plain file"])
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o177:
            problems.append(f"{path}: mode {mode:04o} lets others see the keys (chmod 600 {path})")
        if status.st_uid not in owners:
            problems.append(f"{path}: owned by uid {status.st_uid}, not by the user copyd runs as ({os.geteuid()})")
        if status.st_size > FILE_BYTES_MAX:
            problems.append(f"{path}: larger than {FILE_BYTES_MAX >> 20} MiB")
        if problems:
            raise ConfigError(problems)
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def parse_credentials(name: str, raw: bytes, seen: dict[str, str] | None = None) -> tuple[list[Credential], list[str]]:
    """The credentials in ``raw`` and every problem as ``name:line: problem``. ``seen``: where each name was met first."""
    seen = {} if seen is None else seen
    entries: list[Credential] = []
    problems: list[str] = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        if len(problems) >= PROBLEMS_MAX:
            problems.append(f"{name}:{number}: too many problems; the rest was not read")
            break
        entry, problem = _entry(line)
        if entry is None:
            problems.append(f"{name}:{number}: {problem}")
            continue
        where = f"{name}:{number}"
        first = seen.setdefault(entry.name, where)
        if first != where:
            problems.append(f"{where}: the name {entry.name} is already at {first}")
            continue
        entries.append(entry)
    return entries, problems


def _entry(line: bytes) -> tuple[Credential | None, str]:
    """One line; the problem never quotes what stands in it (the texts of JSON errors may, so they are not used)."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None, "not one JSON object on a line"
    if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
        return None, "not a JSON object of texts"
    if not set(row) <= {"name", "key", "secret", "passphrase", "type"}:
        return None, "has a field other than name, key, secret, passphrase and type"
    for field in ("name", "key", "secret"):
        if not row.get(field):
            return None, f"{field} is missing or empty"
    if not _NAME.fullmatch(row["name"]):
        return None, "name is not a name (letters, digits, _ . @ -, at most 64)"
    if not _KEY.fullmatch(row["key"]):
        return None, "key has spaces or characters no exchange uses"
    kind = row.get("type", "hmac")
    if kind not in ("hmac", "ed25519"):
        return None, "type is not hmac or ed25519"
    if kind == "hmac" and not _KEY.fullmatch(row["secret"]):
        return None, "secret has spaces or characters no exchange uses"
    if kind == "ed25519" and "PRIVATE KEY-----" not in row["secret"]:
        return None, "secret of type ed25519 is not a PEM private key"
    passphrase = row.get("passphrase", "")
    if passphrase and not _KEY.fullmatch(passphrase):
        return None, "passphrase has spaces or characters no exchange uses"
    return Credential(row["name"], Secret(row["key"]), Secret(row["secret"]), kind, Secret(passphrase)), ""


def load_credentials(
    sources: Iterable[CredentialSource],
    environ: Mapping[str, str] | None = None,
    vault: Callable[[], Iterable[Credential]] | None = None,
) -> Credentials:
    """Reads every source. ConfigError with every problem of every source; nothing is returned then. ``vault``: what opens the
    sealed keys, asked where a source says so.

    A systemd credential is a file under ``$CREDENTIALS_DIRECTORY`` that the manager owns and only this unit can read, so
    root may own it and mode 0440 with an ACL (or 0400) is what it gives; a plain file must be ours and 0600 or less.
    """
    environ = os.environ if environ is None else environ
    entries: list[Credential] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    for source in sources:
        try:
            if source.vault:
                if vault is None:
                    raise ConfigError(["credentials: sealed keys cannot be opened here"])
                for entry in vault():
                    if seen.setdefault(entry.name, "the sealed keys") != "the sealed keys":
                        problems.append(f"the sealed keys: the name {entry.name} is already at {seen[entry.name]}")
                    else:
                        entries.append(entry)
                continue
            if source.file is not None:
                name, raw = source.file, read_guarded(Path(source.file), {os.geteuid()})
            else:
                name, raw = f"credential {source.credential}", read_systemd(str(source.credential), environ)
        except ConfigError as error:
            problems += error.problems
            continue
        found, bad = parse_credentials(name, raw, seen)
        entries += found
        problems += bad
    if problems:
        raise ConfigError(problems)
    return Credentials(entries)


def read_systemd(name: str, environ: Mapping[str, str]) -> bytes:
    """The bytes of a systemd credential; ConfigError where there is none, or others could read it."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        text = f"credential {name}: not started by systemd with LoadCredential={name}:... ($CREDENTIALS_DIRECTORY is not set)"
        raise ConfigError([text])
    path = Path(directory) / name
    if "/" in name or name in ("", ".", ".."):
        raise ConfigError([f"credential {name}: not a credential name"])
    try:
        status = path.stat()
        if status.st_mode & 0o007:
            raise ConfigError([f"{path}: anyone on this machine can read it"])
        if status.st_uid not in (0, os.geteuid()):
            raise ConfigError([f"{path}: owned by uid {status.st_uid}, neither the manager nor the user copyd runs as"])
        return path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None


def missing_names(credentials: Credentials, wanted: Iterable[str]) -> list[str]:
    """The names among ``wanted`` that no source has, sorted."""
    return sorted(set(wanted) - set(credentials))


def credential_line(name: str, key: str, secret: str, kind: str = "hmac", passphrase: str = "") -> bytes:
    """One line of a credentials file (for `copyd demo`, which makes its own)."""
    row = {"name": name, "key": key, "secret": secret, **({"type": kind} if kind != "hmac" else {})}
    if passphrase:
        row["passphrase"] = passphrase
    return msgspec.json.encode(row) + b"\n"


def write_credentials(path: Path, lines: Iterable[bytes]) -> None:
    """Writes a credentials file that is 0600 from its first byte on; refuses to follow or replace what is there."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.writelines(lines)
