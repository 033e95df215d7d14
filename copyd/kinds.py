"""What the engine's inputs and state are called in the journal, and how a checkpoint is packed. Shared by daemon and tools.

A record's kind is its input's tag number, its time the ``now`` the step was given, its payload ``Outputs.payload()``.
A checkpoint is one blob: a MessagePack list of the parts of ``Engine.checkpoint()``.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from copyd import __version__
from copyd.core.engine import AnyInput, Engine
from copyd.journal.records import register_kinds

RULES = 8
"""Raised by any change after which the same inputs give other bytes: decisions of another number are not compared."""

KEPT_BYTES = 512 << 20
"""Freed memory that the daemon keeps: an event's megabytes are there again at the next one."""

BUILD = f"copyd {__version__} rules {RULES}"
"""What ``Started.build`` says of this build."""


def same_rules(build: str) -> bool:
    """True where the decisions of ``build`` must be this build's; a build that names no rules is held to its version's."""
    return build in (__version__, "") or build.endswith(f" rules {RULES}")


def _snake(name: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")


def tag_of(kind: type) -> int:
    """The record kind of an input type."""
    tag = kind.__struct_config__.tag  # type: ignore[attr-defined]
    return int(tag)


KINDS: dict[int, str] = {tag_of(kind): _snake(kind.__name__) for kind in get_args(AnyInput)}
_TAGS: dict[type, int] = {kind: tag_of(kind) for kind in get_args(AnyInput)}
register_kinds(KINDS)


def kind_of(value: Any) -> int:
    """The record kind of an input."""
    return _TAGS[type(value)]


def pack_checkpoint(engine: Engine) -> bytes:
    """The whole state of an engine as one blob."""
    return msgspec.msgpack.encode(engine.checkpoint())


def unpack_checkpoint(blob: bytes) -> Engine:
    """The inverse of ``pack_checkpoint``; ValueError when the blob is not a checkpoint of this build."""
    try:
        parts = msgspec.msgpack.decode(blob, type=list[bytes])
        return Engine.restore(parts)
    except (msgspec.MsgspecError, IndexError) as error:
        raise ValueError(f"not a checkpoint: {error}") from error
