"""A search for secrets in what a process leaves behind: files, output, pages, its command line and environment.

A secret leaks in other forms than its own: these are looked for as well. Used by the tests, with canaries; an operator may do the
same with a key he made for it and revokes afterwards.
"""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

#: Shorter texts would be found by chance.
NEEDLE_BYTES_MIN = 12
CHUNK_BYTES = 8 << 20


class Finding(NamedTuple):
    """A canary, the form it has there, and where."""

    canary: str
    form: str
    place: str

    def __str__(self) -> str:
        return f"{self.canary} ({self.form}) occurs in {self.place}"


def forms(secret: str) -> dict[str, bytes]:
    """A secret as it might leak: as it is, in hex, in base64 at any offset, URL-encoded, backwards, halved."""
    raw = secret.encode()
    found = {
        "plain": raw, "upper": raw.upper(), "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode(),
        "url": urllib.parse.quote(secret, safe="").encode(), "backwards": raw[::-1], "first half": raw[: len(raw) // 2],
        "second half": raw[len(raw) // 2 :],
    }  # fmt: skip
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + raw)
        found[f"base64 at {shift}"] = text[4 if shift else 0 :].rstrip(b"=")[:-1]
    if secret and set(secret) <= set("0123456789abcdef") and len(secret) % 2 == 0:
        found["bytes"] = bytes.fromhex(secret)
    return found


class Scan:
    """Canaries by name, and where they were found. ``ValueError`` for a canary too short to be told from chance."""

    def __init__(self, canaries: Mapping[str, str]) -> None:
        self.needles = [(name, form, text) for name, secret in canaries.items() for form, text in forms(secret).items()]
        for name, form, text in self.needles:
            if len(text) < NEEDLE_BYTES_MIN:
                raise ValueError(f"canary {name} ({form}) is too short to be searched for")
        self._overlap = max((len(text) for _, _, text in self.needles), default=1) - 1
        self.places = 0
        self.findings: list[Finding] = []

    def look(self, place: str, data: bytes) -> None:
        """Search some bytes."""
        self.places += 1
        self._search(place, data)

    def _search(self, place: str, data: bytes) -> None:
        for name, form, text in self.needles:
            finding = Finding(name, form, place)
            if text in data and finding not in self.findings:
                self.findings.append(finding)

    def file(self, path: Path) -> None:
        """Search a file, in pieces that overlap."""
        self.places += 1
        for piece in self._pieces(path):
            self._search(str(path), piece)

    def _pieces(self, path: Path) -> Iterator[bytes]:
        before = b""
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield before + piece
                before = (before + piece)[-self._overlap :] if self._overlap else b""

    def folder(self, folder: Path, but: Collection[Path] = ()) -> None:
        """Search every file below a folder, and the names of all."""
        for path in sorted(folder.rglob("*")):
            self._search("the name of " + str(path), str(path).encode())
            if path.is_file() and path not in but:
                self.file(path)

    def process(self, pid: int) -> None:
        """Command line (a title a process gives itself is there too) and environment. What this user may not read is left out."""
        for name in ("cmdline", "environ", "comm"):
            try:
                self.look(f"/proc/{pid}/{name}", Path(f"/proc/{pid}/{name}").read_bytes())
            except PermissionError:
                continue
