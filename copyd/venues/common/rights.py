"""What the answers about a key's rights have in common: how they are read, and that nothing unread counts as harmless."""

from __future__ import annotations

from typing import Any

import msgspec


def answer(body: bytes) -> dict[str, Any]:
    """The JSON object of an answer; ``ValueError`` for anything else."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ValueError("the answer about the key's rights is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("the answer about the key's rights is not an object")
    return found


def field(found: dict[str, Any], name: str, kind: type) -> Any:
    """A field that must be there and be of that type; ``ValueError`` otherwise."""
    value = found.get(name)
    if type(value) is not kind:
        raise ValueError(f"the answer about the key's rights: {name} is {'missing' if name not in found else 'not readable'}")
    return value


def words(value: Any, name: str) -> tuple[str, ...]:
    """A list of texts; ``ValueError`` otherwise."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"the answer about the key's rights: {name} is not a list of words")
    return tuple(word.strip() for word in value)


def split(text: str) -> tuple[str, ...]:
    """The words of a list separated by commas; an empty text has none."""
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


#: What stands for "any address" where a list of addresses is expected.
ANYWHERE = frozenset({"*", "0.0.0.0", "0.0.0.0/0", "::/0", "::"})


def bound(addresses: tuple[str, ...]) -> bool:
    """Whether a list of addresses restricts anything: an empty one does not, nor one that lets everybody in."""
    return bool(addresses) and not any(address in ANYWHERE or address.endswith("/0") for address in addresses)
