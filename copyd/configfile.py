"""Writes ``copyd.yaml``: the complete file with every key, its comment and its default, and the effective values.

The comments are the descriptions of `copyd.config`; a default a key has is named in its comment.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import msgspec
from msgspec import inspect as mi

from copyd.config import (
    Config,
    ControlConfig,
    CredentialSource,
    InstrumentConfig,
    JournalConfig,
    LeaderConfig,
    SiteConfig,
    VenueConfig,
)

WIDTH = 110

HEADER = """\
# yaml-language-server: $schema=schema.json
#
# copyd: what an operator tunes. Check it with `copyd check-config -c FILE`, which names every mistake by line and column;
# `copyd config show --effective` prints what is in force. A missing key has the default named in its comment. Files
# conf.d/*.yaml beside this one are merged over it in the order of their names: sections merge, lists grow, a single value
# replaces. Money and factors are decimal strings in quotes. No key and no secret ever stands here.
#
# As it stands it runs against the simulated exchange on this machine:
#   copyd exchange --port 9470 --ws-port 9471 --control-port 9472
"""


def example() -> Config:
    """The configuration shipped as ``config/copyd.yaml``: runs against ``copyd exchange`` on this machine."""
    rest, sockets = "127.0.0.1:9470", "127.0.0.1:9471"
    return Config(
        site=SiteConfig(id=1),
        journal=JournalConfig(path="var/journal"),
        venues=(
            VenueConfig(
                name="binance",
                kind="binance_usdm",
                rest_url=f"http://{rest}",
                ws_api_url=f"ws://{sockets}/ws-fapi/v1",
                public_stream_url=f"ws://{sockets}/public",
                market_stream_url=f"ws://{sockets}/market",
                private_stream_url=f"ws://{sockets}/private",
            ),
        ),
        instruments=(
            InstrumentConfig(symbol="BTCUSDT", venue="binance", instrument_class="majors"),
            InstrumentConfig(symbol="ETHUSDT", venue="binance", instrument_class="majors"),
            InstrumentConfig(symbol="SOLUSDT", venue="binance"),
        ),
        leaders=(LeaderConfig(id="alice", venue="binance", credential="alice"),),
        credentials=(CredentialSource(file="var/credentials.jsonl"),),
        control=ControlConfig(socket="var/control.sock"),
    )


_SAFE_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./:-]*")
_RESERVED = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if _SAFE_PLAIN.fullmatch(text) and text.lower() not in _RESERVED and not text.endswith(":"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unwrapped(kind: Any) -> tuple[Any, str]:
    """(the type itself, its description)."""
    words = ""
    while isinstance(kind, mi.Metadata):
        words = words or (kind.extra_json_schema or {}).get("description", "")
        kind = kind.type
    return kind, words


def _comment(words: str, default: str | None, indent: str) -> list[str]:
    text = words if default is None else f"{words} Default: {default}."
    lines = textwrap.wrap(text, WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in lines]


def _struct(value: Any, kind: mi.StructType, indent: str, explained: set[type] | None) -> list[str]:
    """One section; ``explained`` holds the Structs whose keys have been explained above (None: no comments at all)."""
    comments = explained is not None and kind.cls not in explained
    if explained is not None:
        explained.add(kind.cls)
    lines: list[str] = []
    for field in kind.fields:
        inner, words = _unwrapped(field.type)
        item = getattr(value, field.name)
        simple = not isinstance(inner, mi.StructType | mi.VarTupleType)
        if comments:
            if not indent:
                lines.append("")
            lines += _comment(words, _scalar(field.default) if simple and not field.required else None, indent)
        if simple:
            if item is None and explained is not None:
                lines.append(f"{indent}# {field.encode_name}:")  # both forms of an optional value stay visible
            else:
                lines.append(f"{indent}{field.encode_name}: {_scalar(item)}")
        elif isinstance(inner, mi.StructType):
            body = _struct(item, inner, indent + "  ", explained)
            lines.append(f"{indent}{field.encode_name}:")
            lines += body
        elif not item:
            lines.append(f"{indent}{field.encode_name}: []")
        else:
            lines.append(f"{indent}{field.encode_name}:")
            lines += _sequence(item, inner, indent + "  ", explained)
    return lines


def _sequence(items: Any, kind: Any, indent: str, explained: set[type] | None) -> list[str]:
    """The first entry explains its keys, the others only have them."""
    lines: list[str] = []
    entry, _ = _unwrapped(kind.item_type)
    for item in items:
        body = _struct(item, entry, indent + "  ", explained)
        at = next(number for number, line in enumerate(body) if not line.lstrip().startswith("#"))
        body[:at] = [indent + line.lstrip() for line in body[:at]]
        body[at] = f"{indent}- {body[at].lstrip()}"
        lines += body
    return lines


def config_text(config: Config, comments: bool = True) -> str:
    """The configuration as YAML that loads back to the same values."""
    kind = mi.type_info(Config)
    assert isinstance(kind, mi.StructType)
    lines = _struct(config, kind, "", set() if comments else None)
    return (HEADER if comments else "") + "\n".join(lines).lstrip("\n" if not comments else "") + "\n"


def effective_rows(config: Config) -> list[tuple[str, str]]:
    """Every value in force as (dotted key, text), in the order of the file."""
    rows: list[tuple[str, str]] = []

    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{key}.{name}" if key else name)
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                walk(inner, f"{key}[{index}]")
        else:
            rows.append((key, _scalar(value)))

    walk(msgspec.to_builtins(config), "")
    return rows
