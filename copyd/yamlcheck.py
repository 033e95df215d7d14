"""Reads ``copyd.yaml`` and reports every problem in it at once, each as ``file:line:col: key: problem (hint)``.

The file is composed into nodes that keep their marks, then walked against the Structs of `copyd.config`. Walking
it here, rather than letting a decoder stop at the first error, is what makes "all of them" and "on which line"
possible, and it sees what a decoder no longer can: that ``no`` was written where text is wanted, that ``010`` is
eight, that a key occurs twice.
"""

from __future__ import annotations

import difflib
import math
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import yaml
from msgspec import inspect as mi

from copyd.config import Config, KekConfig, OrdersConfig, VenueConfig, restart_needed
from copyd.decimals import factor_ppm, money_e8
from copyd.errors import ConfigError

SIZE_MAX = 1 << 20  # a configuration of more than 1 MiB is not one
DEPTH_MAX = 12
#: How names of spot instruments end at Bitget.
BITGET_SPOT = "_SPBL"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_PLAIN_INT = re.compile(r"-?(0|[1-9][0-9]*)")
_PLAIN_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")

Key = tuple[str | int, ...]  # where a value stands: ("venues", 0, "rest_url")


class Problem(NamedTuple):
    """One thing wrong in a file; sorts by place. Lines and columns count from 1; 1:1 also stands for the file as a whole."""

    file: str
    line: int
    col: int
    key: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}:{self.col}: {key}{self.text}{hint}"

    def as_dict(self) -> dict[str, Any]:
        return self._asdict()


class Origin(NamedTuple):
    """Where a value came from; ``line`` 0 = a default."""

    file: str
    line: int
    col: int


def dotted(key: Key) -> str:
    """``("venues", 0, "name")`` -> ``venues[0].name``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


# --- secrets ------------------------------------------------------------------------------------------------

_SECRET_KEY = re.compile(r"(^|_)(secret|password|passwd|passphrase|token|private_key|api_?key|secret_?key|key)$", re.I)
_LONG_RUN = re.compile(r"[A-Za-z0-9]{32,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{40,}={1,2}")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_URL_LOGIN = re.compile(r"://[^/\s:@]+:[^/\s@]+@")


def _entropy_bits(text: str) -> float:
    """Shannon entropy per character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def looks_like_secret(text: str) -> bool:
    """True for what an exchange key, a PEM key or a login in a URL looks like; never true for words and paths."""
    if _PEM.search(text) or _URL_LOGIN.search(text):
        return True
    for match in _LONG_RUN.findall(text):
        digits = sum(char.isdigit() for char in match)
        if 0.05 <= digits / len(match) < 1 and _entropy_bits(match) >= 3.3:
            return True
    return any(_entropy_bits(match) >= 4.2 for match in _BASE64.findall(text))


def _shown(value: str) -> str:
    """A value as it may stand in a message: short, and never one that looks like a secret."""
    if looks_like_secret(value):
        return "(hidden)"
    value = value.replace("\n", " ")
    return value if len(value) <= 40 else value[:37] + "..."


# --- the walk -----------------------------------------------------------------------------------------------


#: What the walk returns for a value it has reported. A stand-in takes its place, so that the checks across keys
#: can still run over the rest of the file; whatever they would say about a stand-in is dropped.
BAD: Any = object()


class Checker:
    """Walks one file's (or several merged files') nodes against the Structs and collects problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.origins: dict[str, Origin] = {}
        self._secret_lines: set[tuple[str, int]] = set()

    def add(self, mark: Any, key: Key, text: str, hint: str = "") -> None:
        self.problems.append(Problem(mark.name, mark.line + 1, mark.column + 1, dotted(key), text, hint))

    # reading

    def compose(self, path: Path) -> yaml.Node | None:
        """The node tree of one file, or None after reporting why there is none."""
        name = str(path)
        try:
            raw = path.read_bytes()
            mode = path.stat().st_mode
        except OSError as error:
            hint = "name one with -c; copyd config init prints a complete one" if isinstance(error, FileNotFoundError) else ""
            self.problems.append(Problem(name, 1, 1, "", f"cannot be read: {error.strerror}", hint))
            return None
        if mode & stat.S_IWOTH:
            self.problems.append(Problem(name, 1, 1, "", "anyone may write to this file", f"chmod o-w {name}"))
        if len(raw) > SIZE_MAX:
            self.problems.append(Problem(name, 1, 1, "", f"larger than {SIZE_MAX} bytes", "people are imported, not listed"))
            return None
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            col = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
            self.problems.append(Problem(name, line, col, "", "not UTF-8 text", "save the file as UTF-8"))
            return None
        self._scan_lines(name, text)
        if not self._events_ok(name, text):
            return None
        try:
            node = yaml.compose(_named(text, name), Loader=_Loader)
        except yaml.MarkedYAMLError as error:  # pragma: no cover - the event pass has parsed the same text
            self._syntax(name, error)
            return None
        if node is None:
            self.problems.append(Problem(name, 1, 1, "", "the file is empty", "copyd config init prints a complete one"))
        return node

    def _scan_lines(self, name: str, text: str) -> None:
        """Secrets anywhere, comments included: a key commented out is as readable as one in use."""
        for number, line in enumerate(text.splitlines(), 1):
            if looks_like_secret(line):
                self._secret_lines.add((name, number))
                col = len(line) - len(line.lstrip()) + 1
                self.problems.append(
                    Problem(
                        name,
                        number,
                        col,
                        "",
                        "this line holds what looks like a secret",
                        "move it to the credentials file, and replace the key: it has been in a readable file",
                    )
                )

    def _events_ok(self, name: str, text: str) -> bool:
        """Syntax, and the parts of YAML a configuration does not need (aliases can be a bomb, tags can run code)."""
        depth = documents = 0
        fine = True
        try:
            for event in yaml.parse(_named(text, name), Loader=_Loader):
                mark = event.start_mark
                if isinstance(event, yaml.AliasEvent):
                    self.add(mark, (), f"alias *{event.anchor}", "write the value out")
                    fine = False
                elif isinstance(event, yaml.NodeEvent) and event.anchor:
                    self.add(mark, (), f"anchor &{event.anchor}", "aliases are not accepted; remove it")
                    fine = False
                elif isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        self.add(
                            mark,
                            (),
                            "a second document begins here",
                            "one file holds one document; remove the ---",
                        )
                        return False
                tag = getattr(event, "tag", None)
                if tag is not None and tag not in ("!",) and not isinstance(event, yaml.DocumentStartEvent):
                    self.add(mark, (), f"tag {tag}", "tags are not accepted; remove it")
                    fine = False
                if isinstance(event, yaml.CollectionStartEvent):
                    depth += 1
                    if depth > DEPTH_MAX:
                        self.add(mark, (), f"nested deeper than {DEPTH_MAX} levels")
                        return False
                elif isinstance(event, yaml.CollectionEndEvent):
                    depth -= 1
        except yaml.YAMLError as error:
            self._syntax(name, error)
            return False
        return fine

    def _syntax(self, name: str, error: yaml.YAMLError) -> None:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        text = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        hint = getattr(error, "context", None) or ""
        if "\\t" in text or "cannot start any token" in text:
            hint = "indent with spaces, and quote values that begin with a special character"
        line, col = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        self.problems.append(Problem(name, line, col, "", f"not YAML: {text}", hint))

    # values

    def value(self, node: yaml.Node, kind: Any, key: Key) -> Any:
        """Checks one node against one type and returns plain data for `msgspec.convert`; problems are collected."""
        decimal = None
        while isinstance(kind, mi.Metadata):
            decimal = (kind.extra or {}).get("decimal", decimal)
            kind = kind.type
        mark = node.start_mark
        self.origins[dotted(key)] = Origin(mark.name, mark.line + 1, mark.column + 1)
        if isinstance(kind, mi.UnionType):
            if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null":
                return None
            kind = next(member for member in kind.types if not isinstance(member, mi.NoneType))
            return self.value(node, kind, key)
        if isinstance(kind, mi.StructType):
            return self.struct(node, kind, key)
        if isinstance(kind, mi.VarTupleType | mi.ListType):
            return self.sequence(node, kind, key)
        return self.scalar(node, kind, key, decimal)

    def struct(self, node: yaml.Node, kind: mi.StructType, key: Key) -> Any:
        names = [field.encode_name for field in kind.fields]
        if not isinstance(node, yaml.MappingNode):
            if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null" and not any(f.required for f in kind.fields):
                return {}  # a section with every key commented out
            self.add(
                node.start_mark,
                key,
                f"expected keys with values, got {_kind_of(node)}",
                "keys: " + ", ".join(names),
            )
            return BAD
        fields = {field.encode_name: field for field in kind.fields}
        seen: dict[str, Any] = {}
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            if not isinstance(key_node, yaml.ScalarNode):
                self.add(mark, key, "a key must be a plain word", "a { or [ begins a value; quote it if it is text")
                continue
            name = key_node.value
            here = (*key, name)
            if name in seen:
                first = seen[name]
                where = f"line {first.line + 1}" if first.name == mark.name else f"{first.name}:{first.line + 1}"
                self.add(
                    mark,
                    here,
                    f"this key occurs twice (first at {where})",
                    "only one of them can be meant; remove one",
                )
                continue
            seen[name] = mark
            field = fields.get(name)
            if field is not None:
                value = self.value(value_node, field.type, here)
                if value is not BAD:
                    data[name] = value
            elif _SECRET_KEY.search(name):
                if (mark.name, mark.line + 1) not in self._secret_lines:
                    self.add(
                        mark,
                        here,
                        "a secret does not belong in this file",
                        "name it in credentials: {file: ...}",
                    )
            else:
                self.add(mark, here, "unknown key", _did_you_mean(key_node, names))
        for field in kind.fields:
            if field.required and field.encode_name not in seen:
                mark = node.start_mark
                self.add(mark, (*key, field.encode_name), "required key is missing", _wanted(field.type))
            if field.required and field.encode_name not in data:
                data[field.encode_name] = _stand_in(field.type)
        return data

    def sequence(self, node: yaml.Node, kind: Any, key: Key) -> Any:
        if not isinstance(node, yaml.SequenceNode):
            self.add(node.start_mark, key, f"expected a list, got {_kind_of(node)}", "begin each entry with '- '")
            return BAD
        if kind.min_length and len(node.value) < kind.min_length:
            self.add(node.start_mark, key, f"needs at least {kind.min_length} entry")
            return BAD
        values = [self.value(item, kind.item_type, (*key, index)) for index, item in enumerate(node.value)]
        return [_stand_in(kind.item_type) if value is BAD else value for value in values]

    def scalar(self, node: yaml.Node, kind: Any, key: Key, decimal: str | None) -> Any:
        mark = node.start_mark
        if (mark.name, mark.line + 1) in self._secret_lines:
            return BAD  # already reported, and one mistake is one line
        if not isinstance(node, yaml.ScalarNode):
            self.add(mark, key, f"expected {_wanted(kind)}, got {_kind_of(node)}")
            return BAD
        plain = _is_plain(node)
        tag = node.tag.removeprefix(_TAG)
        if decimal is not None:
            return self.decimal(node, kind, key, decimal)
        if isinstance(kind, mi.BoolType):
            return self.boolean(node, plain, tag, key)
        if isinstance(kind, mi.IntType):
            return self.integer(node, kind, plain, tag, key)
        return self.text(node, kind, plain, tag, key)

    def boolean(self, node: yaml.ScalarNode, plain: bool, tag: str, key: Key) -> Any:
        if plain and node.value in ("true", "false"):
            return node.value == "true"
        if plain and tag == "bool":
            meant = "true" if node.value.lower() in ("yes", "on", "true") else "false"
            self.add(node.start_mark, key, f"{node.value} is not written true or false", f"write {meant}")
        else:
            self.add(node.start_mark, key, f"expected true or false, got {_kind_of(node)}", "without quotes")
        return BAD

    def integer(self, node: yaml.ScalarNode, kind: Any, plain: bool, tag: str, key: Key) -> Any:
        raw, mark = node.value, node.start_mark
        if plain and _PLAIN_INT.fullmatch(raw):
            number = int(raw)
            if kind.ge is not None and number < kind.ge:
                self.add(mark, key, f"{_shown(raw)} is less than the minimum of {kind.ge}")
                return BAD
            if kind.le is not None and number > kind.le:
                self.add(mark, key, f"{_shown(raw)} is greater than the maximum of {kind.le}")
                return BAD
            return number
        if plain and tag == "int":
            self.add(mark, key, _int_trap(raw), "write plain decimal digits")
        elif plain and tag == "float":
            self.add(mark, key, f"expected a whole number, got {_shown(raw)}", "the unit is in the key's name")
        elif not plain and _PLAIN_INT.fullmatch(raw):
            self.add(mark, key, "expected a whole number, got text", "remove the quotes")
        else:
            self.add(mark, key, f"expected a whole number, got {_kind_of(node)}")
        return BAD

    def decimal(self, node: yaml.ScalarNode, kind: Any, key: Key, decimal: str) -> Any:
        raw, mark = node.value, node.start_mark
        what = "money" if decimal == "money" else "a factor"
        if _is_plain(node):
            if _PLAIN_DECIMAL.fullmatch(raw):
                self.add(mark, key, f"{what} must be a quoted decimal, not a YAML number", f'write "{raw}"')
            elif node.tag in (_TAG + "int", _TAG + "float"):
                self.add(
                    mark,
                    key,
                    f"{what} must be a quoted decimal, got {_shown(raw)}",
                    'write it like "1000.50"',
                )
            else:
                self.add(
                    mark,
                    key,
                    f"expected {what} as a quoted decimal, got {_kind_of(node)}",
                    'write it like "1000.50"',
                )
            return BAD
        try:
            (money_e8 if decimal == "money" else factor_ppm)(raw)
        except ValueError as error:
            self.add(mark, key, f'"{_shown(raw)}" is {error}', 'write it like "1000.50"')
            return BAD
        return raw

    def text(self, node: yaml.ScalarNode, kind: Any, plain: bool, tag: str, key: Key) -> Any:
        raw, mark = node.value, node.start_mark
        if isinstance(kind, mi.LiteralType):
            values = [str(value) for value in kind.values]
            if raw in values and (not plain or tag == "str"):
                return raw
            self.add(
                mark,
                key,
                f"{_shown(raw) or 'nothing'} is not one of {' | '.join(values)}",
                _close(raw, values),
            )
            return BAD
        if plain and tag != "str":
            if tag == "bool":
                self.add(mark, key, f"YAML reads a plain {raw} as true/false, not as text", f'write "{raw}"')
            elif tag == "null":
                self.add(mark, key, "expected text, got nothing", _wanted(kind))
            else:
                self.add(
                    mark,
                    key,
                    f"YAML reads {_shown(raw)} as {_A_TAG.get(tag, tag)}, not as text",
                    f'write "{_shown(raw)}"',
                )
            return BAD
        if kind.min_length is not None and len(raw) < kind.min_length:
            self.add(mark, key, "must not be empty")
            return BAD
        if kind.max_length is not None and len(raw) > kind.max_length:
            self.add(mark, key, f"longer than {kind.max_length} characters")
            return BAD
        if kind.pattern is not None and not re.search(kind.pattern, raw):
            self.add(mark, key, f'"{_shown(raw)}" is not {_PATTERN_WORDS.get(kind.pattern, "in the form wanted")}')
            return BAD
        return raw


_A_TAG = {
    "int": "a number",
    "float": "a number",
    "timestamp": "a date",
    "value": "a special value",
    "merge": "a merge",
}
_PATTERN_WORDS = {
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$": "a name (letters, digits, _ . -, at most 64)",
    r"^[A-Z0-9_-]{2,32}$": "a symbol (capital letters and digits)",
    r"^https?://[A-Za-z0-9.\[\]:-]+(/[^\s?#]*)?$": "an http:// or https:// address",
    r"^wss?://[A-Za-z0-9.\[\]:-]+(/[^\s?#]*)?$": "a ws:// or wss:// address",
    r"^0[0-7]{3}$": 'permissions in octal, such as "0660"',
}


def _stand_in(kind: Any) -> Any:
    """Any value the type accepts."""
    decimal = None
    while isinstance(kind, mi.Metadata):
        decimal = (kind.extra or {}).get("decimal", decimal)
        kind = kind.type
    if isinstance(kind, mi.UnionType):
        return None
    if isinstance(kind, mi.IntType):
        return kind.ge or 0
    if isinstance(kind, mi.BoolType):
        return False
    if isinstance(kind, mi.LiteralType):
        return kind.values[0]
    if isinstance(kind, mi.VarTupleType | mi.ListType):
        return [_stand_in(kind.item_type)] if kind.min_length else []
    if isinstance(kind, mi.StructType):
        return {field.encode_name: _stand_in(field.type) for field in kind.fields if field.required}
    if decimal is not None:
        return "1"
    candidates = ("unknown", "XX", "http://127.0.0.1", "ws://127.0.0.1", "0600")
    return next(text for text in candidates if kind.pattern is None or re.search(kind.pattern, text))


def _named(text: str, name: str) -> Any:
    """A stream whose marks carry the file's name (the C parser takes it from the stream)."""

    class Named:
        def __init__(self) -> None:
            self.name = name
            self._data = text.encode()

        def read(self, size: int = -1) -> bytes:
            data, self._data = (
                self._data[:size] if size >= 0 else self._data,
                self._data[size:] if size >= 0 else b"",
            )
            return data

    return Named()


def _is_plain(node: yaml.ScalarNode) -> bool:
    """Written without quotes (the C parser says "", the Python one None)."""
    return not node.style


def _kind_of(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "keys with values"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    assert isinstance(node, yaml.ScalarNode)
    if node.tag == _TAG + "null" and _is_plain(node):
        return "nothing"
    quoted = "" if _is_plain(node) else "text "
    return f"{quoted}{_shown(node.value)!r}" if quoted else _shown(node.value)


def _wanted(kind: Any) -> str:
    while isinstance(kind, mi.Metadata):
        kind = kind.type
    if isinstance(kind, mi.IntType):
        limits = f" from {kind.ge} to {kind.le}" if kind.ge is not None and kind.le is not None else ""
        return f"a whole number{limits}"
    if isinstance(kind, mi.BoolType):
        return "true or false"
    if isinstance(kind, mi.LiteralType):
        return "one of " + " | ".join(str(value) for value in kind.values)
    if isinstance(kind, mi.VarTupleType | mi.ListType):
        return "a list with at least one entry" if kind.min_length else "a list"
    if isinstance(kind, mi.StructType):
        return "a section with " + ", ".join(f.encode_name for f in kind.fields if f.required)
    return "text"


def _close(raw: str, values: list[str]) -> str:
    match = difflib.get_close_matches(raw.lower(), [value.lower() for value in values], n=1, cutoff=0.6)
    return f"did you mean {next(v for v in values if v.lower() == match[0])}?" if match else ""


def _did_you_mean(key_node: yaml.ScalarNode, names: list[str]) -> str:
    if _is_plain(key_node) and key_node.tag == _TAG + "bool":
        return f"YAML also reads a plain {key_node.value} as true/false"
    return _close(key_node.value, names) or "known here: " + ", ".join(names)


def _int_trap(raw: str) -> str:
    body = raw.lstrip("+-").replace("_", "")
    if ":" in raw:
        total = 0
        for part in body.split(":"):
            total = total * 60 + int(part or 0)
        return f"YAML reads {raw} as {total} (base 60)"
    if body.startswith("0x"):
        return f"{raw} is hexadecimal"
    if body.startswith("0b"):
        return f"{raw} is binary"
    if len(body) > 1 and body.startswith("0"):
        return f"YAML reads {raw} as {int(body, 8)} (octal)"
    return f"{raw} is not plain digits"


# --- several files ------------------------------------------------------------------------------------------


def _merge(base: yaml.Node, extra: yaml.Node) -> yaml.Node:
    """``conf.d`` files over the main one: sections merge, lists grow, a single value replaces the earlier one."""
    if isinstance(base, yaml.MappingNode) and isinstance(extra, yaml.MappingNode):
        pairs = list(base.value)
        places = {key.value: index for index, (key, _) in enumerate(pairs) if isinstance(key, yaml.ScalarNode)}
        for key, value in extra.value:
            if isinstance(key, yaml.ScalarNode) and key.value in places:
                index = places[key.value]
                pairs[index] = (key, _merge(pairs[index][1], value))
            else:
                pairs.append((key, value))
        return yaml.MappingNode(base.tag, pairs, base.start_mark, base.end_mark)
    if isinstance(base, yaml.SequenceNode) and isinstance(extra, yaml.SequenceNode):
        return yaml.SequenceNode(base.tag, base.value + extra.value, base.start_mark, base.end_mark)
    return extra


# --- across keys --------------------------------------------------------------------------------------------

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


#: The addresses a kind of venue has; of the others those under the last two names.
_ADDRESSES = {"binance_usdm": ("rest_url", "ws_api_url", "public_stream_url", "market_stream_url", "private_stream_url"),
              "ccxt": ("rest_url",)}
_SESSION_ADDRESSES = ("rest_url", "ws_url")
#: Such as may be written beside them, or be left out.
_MORE_ADDRESSES = {"binance_usdm": ("sapi_url",)}
_EVERY_ADDRESS = (*_ADDRESSES["binance_usdm"], "ws_url", "sapi_url")


def _addresses(config: Config, index: int, venue: VenueConfig) -> Iterator[tuple[Key, str, str, tuple[Key, ...]]]:
    """A venue's addresses are all of one place: all written here, or all the environment's."""
    own = _ADDRESSES.get(venue.kind, _SESSION_ADDRESSES)
    more = _MORE_ADDRESSES.get(venue.kind, ())
    given = [field for field in own if getattr(venue, field) is not None]
    for field in _EVERY_ADDRESS:
        if field not in (*own, *more) and getattr(venue, field) is not None:
            yield ("venues", index, field), f"a venue of kind {venue.kind} has no such address", "remove it", ()
    if venue.kind == "ccxt":
        for field in ("exchange_id", "python"):
            if not getattr(venue, field):
                yield ("venues", index, field), "is needed with kind: ccxt", "", (("venues", index, "kind"),)
    if given and len(given) < len(own):
        for field in own:
            if field not in given:
                where: Key = ("venues", index, field)
                others: tuple[Key, ...] = tuple(("venues", index, name) for name in given)
                yield where, "missing beside the other addresses", "name all of a venue's addresses, or none", others
    if not given and config.mode == "simulate":
        hint = "name the addresses of `copyd exchange` on 127.0.0.1, or set mode: live"
        yield ("venues", index, "name"), f"mode is simulate, but the addresses are {venue.kind}'s own", hint, (("mode",),)
    for field in (*given, *(field for field in more if getattr(venue, field) is not None)):
        key: Key = ("venues", index, field)
        url = getattr(venue, field)
        try:
            host = urlsplit(url).hostname
            _ = urlsplit(url).port
        except ValueError as error:
            yield key, f"not an address: {error}", "", ()
            continue
        if config.mode == "simulate" and host not in _LOOPBACK:
            yield (
                key,
                f"mode is simulate, but {host} is not this machine",
                "use `copyd exchange` on 127.0.0.1, or set mode: live",
                (("mode",),),
            )
        elif host not in _LOOPBACK and url.startswith(("http:", "ws:")):
            yield key, f"{host} would be reached without encryption", "use https:// or wss://", ()


def _cross(config: Config) -> Iterator[tuple[Key, str, str, tuple[Key, ...]]]:
    """Checks that need more than one value: (key, problem, hint, the other keys it read)."""
    venues = {venue.name for venue in config.venues}
    every_venue: tuple[Key, ...] = tuple(("venues", index, "name") for index in range(len(config.venues)))
    for section, field, items in (
        ("venues", "name", [venue.name for venue in config.venues]),
        ("leaders", "id", [leader.id for leader in config.leaders]),
        ("instruments", "symbol", [f"{item.venue}/{item.symbol}" for item in config.instruments]),
    ):
        first: dict[str, int] = {}
        for index, name in enumerate(items):
            if name in first:
                other: Key = (section, first[name], field)
                yield (
                    (section, index, field),
                    f"{name} is already {section}[{first[name]}]",
                    "names must differ",
                    (other,),
                )
            first.setdefault(name, index)
    hint = "known: " + ", ".join(sorted(venues))
    symbols = {instrument.symbol for instrument in config.instruments}
    every_symbol: tuple[Key, ...] = tuple(("instruments", index, "symbol") for index in range(len(config.instruments)))
    for index, leader in enumerate(config.leaders):
        at: Key = ("leaders", index)
        for number, symbol in enumerate(leader.declared.instruments):
            if symbol not in symbols:
                where: Key = (*at, "declared", "instruments", number)
                yield where, f"no instrument is called {symbol}", "known: " + ", ".join(sorted(symbols)), every_symbol
        if leader.venue not in venues:
            yield (*at, "venue"), f"no venue is called {leader.venue}", hint, every_venue
        if leader.equity_max_age_ms <= leader.equity_poll_interval_ms:
            yield (
                (*at, "equity_max_age_ms"),
                f"{leader.equity_max_age_ms} is not above equity_poll_interval_ms ({leader.equity_poll_interval_ms})",
                "every equity would be stale before the next poll; allow at least two polls",
                ((*at, "equity_poll_interval_ms"),),
            )
    for index, instrument in enumerate(config.instruments):
        if instrument.venue not in venues:
            yield ("instruments", index, "venue"), f"no venue is called {instrument.venue}", hint, every_venue
    yield from _two_wallets(config)
    places = {(item.venue, item.symbol) for item in config.instruments}
    listed: dict[tuple[str, str], Key] = {}
    for index, group in enumerate(config.symbols):
        for number, item in enumerate(group.on):
            here: Key = ("symbols", index, "on", number)
            place = (item.venue, item.symbol)
            if item.venue not in venues:
                yield (*here, "venue"), f"no venue is called {item.venue}", hint, every_venue
            elif place not in places:
                text = f"{item.venue} has no instrument {item.symbol}"
                yield (*here, "symbol"), text, "list it under instruments", every_symbol
            if place in listed:
                yield (*here, "symbol"), f"{item.symbol} of {item.venue} is listed twice", "", (listed[place],)
            listed.setdefault(place, (*here, "symbol"))
    for index, venue in enumerate(config.venues):
        yield from _addresses(config, index, venue)
    for index, venue in enumerate(config.venues):
        yield from _orders(config, ("venues", index, "orders"), venue.orders)
    for index, source in enumerate(config.credentials):
        if (source.file is not None) + (source.credential is not None) + source.vault != 1:
            each: tuple[Key, ...] = tuple(("credentials", index, name) for name in ("file", "credential", "vault"))
            yield ("credentials", index), "give exactly one of file, credential and vault: true", "", each
    for name, kek in (("kek", config.keys.kek), ("kek_before", config.keys.kek_before)):
        if kek is not None:
            yield from _kek(("keys", name), kek)
    if not money_e8(config.keys.unbound_notional_cap):
        yield ("keys", "unbound_notional_cap"), "0 would be no cap at all", "give the most one order may be worth", ()
    if config.sync.leave_bps >= config.sync.enter_bps:
        yield (
            ("sync", "leave_bps"),
            f"{config.sync.leave_bps} is not below enter_bps ({config.sync.enter_bps})",
            "a leg on the edge would come and go; leave some distance between the two",
            (("sync", "enter_bps"),),
        )
    low, high = factor_ppm(config.copy.multiplier_min), factor_ppm(config.copy.multiplier_max)
    if low > high:
        yield ("copy", "multiplier_min"), "above multiplier_max", "", (("copy", "multiplier_max"),)
    if low < 100_000:
        yield (
            ("copy", "multiplier_min"),
            f"{config.copy.multiplier_min} is below the hard limit of 0.1",
            "",
            (),
        )
    if high > 10_000_000:
        yield (
            ("copy", "multiplier_max"),
            f"{config.copy.multiplier_max} is above the hard limit of 10",
            "",
            (),
        )
    if factor_ppm(config.copy.raise_max_factor) < 1_000_000:
        yield (
            ("copy", "raise_max_factor"),
            f"{config.copy.raise_max_factor} is below 1",
            "1 = never raise",
            (),
        )
    if int(config.control.socket_mode, 8) & 0o007:
        yield (
            ("control", "socket_mode"),
            "lets everyone on this machine control the daemon",
            'use "0660" or "0600"',
            (),
        )
    if len(config.control.socket.encode()) > 100:
        yield (
            ("control", "socket"),
            "longer than 100 bytes; the kernel cannot bind it",
            "use a short path under /run",
            (),
        )
    if config.runtime.loop_stall_max_ms <= config.runtime.timer_interval_ms:
        slow: Key = ("runtime", "timer_interval_ms")
        yield (
            ("runtime", "loop_stall_max_ms"),
            "not above timer_interval_ms",
            "the loop could never be healthy",
            (slow,),
        )


# --- entry points -------------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """A configuration that stands, and where each of its values was written."""

    config: Config
    origins: dict[str, Origin]
    files: tuple[str, ...]


def check_files(paths: list[Path]) -> tuple[Loaded | None, list[Problem]]:
    """Reads, merges and checks; (what stands or None, every problem sorted by place)."""
    checker = Checker()
    nodes = [checker.compose(path) for path in paths]
    usable = [node for node in nodes if node is not None]
    loaded: Loaded | None = None
    if len(usable) == len(nodes):
        if len(usable) > 1:  # duplicates must be found inside each file, before merging hides them
            for node in usable:
                _duplicates(node, checker, ())
        merged = usable[0]
        for node in usable[1:]:
            merged = _merge(merged, node)
        data = checker.value(merged, mi.type_info(Config), ())
        if isinstance(data, dict):
            loaded = _convert(data, checker, merged, tuple(str(path) for path in paths))
    problems = sorted(set(checker.problems))
    return (None if problems else loaded), problems


def _duplicates(node: yaml.Node, checker: Checker, key: Key) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, Any] = {}
        for key_node, value in node.value:
            name = str(key_node.value)
            if name in seen:
                first = seen[name].line + 1
                text = f"this key occurs twice (first at line {first})"
                checker.add(key_node.start_mark, (*key, name), text, "only one of them can be meant; remove one")
            seen.setdefault(name, key_node.start_mark)
            _duplicates(value, checker, (*key, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _duplicates(item, checker, (*key, index))


def _convert(data: dict[str, Any], checker: Checker, root: yaml.Node, files: tuple[str, ...]) -> Loaded | None:
    """The Struct, after the checks across keys."""
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        if not checker.problems:  # the walk and the Structs disagree: ours, and said plainly
            checker.add(root.start_mark, (), f"not accepted: {error}")
        return None
    reported = {problem.key for problem in checker.problems if problem.key}
    found = []
    for key, text, hint, also in _cross(config):
        if any(_touches(dotted(read), bad) for read in (key, *also) for bad in reported):
            continue
        at: Key = key
        while dotted(at) not in checker.origins:
            at = at[:-1]
        where = checker.origins[dotted(at)]
        found.append(Problem(where.file, where.line, where.col, dotted(key), text, hint))
    checker.problems += found
    return Loaded(config, checker.origins, files)


def _touches(key: str, bad: str) -> bool:
    """True when ``bad`` is the key, stands inside it, or contains it."""
    return key == bad or key.startswith((bad + ".", bad + "[")) or bad.startswith((key + ".", key + "["))


def config_paths(path: Path) -> list[Path]:
    """The main file, and ``conf.d/*.yaml`` beside it in the order of their names."""
    return [path, *sorted((path.parent / "conf.d").glob("*.yaml"))]


def load(path: Path | str) -> Loaded:
    """The configuration at ``path`` (with its ``conf.d``). ConfigError with every problem otherwise."""
    loaded, problems = check_files(config_paths(Path(path)))
    if loaded is None:
        raise ConfigError([str(problem) for problem in problems])
    return loaded


def load_config(path: Path | str) -> Config:
    """`load`, for those who need only the values."""
    return load(path).config


def reload(path: Path | str, running: Config) -> Loaded:
    """The configuration read again for a running daemon. ConfigError when it is bad, or changes what only a restart can."""
    loaded = load(path)
    refused = restart_needed(running, loaded.config)
    if refused:
        problems = []
        for name in refused:
            place = loaded.origins.get(name, Origin(loaded.files[0], 1, 1))
            text = "differs from what is running (only a restart can change this section)"
            problems.append(f"{place.file}:{place.line}:{place.col}: {name}: {text}")
        raise ConfigError(problems)
    return loaded


def _two_wallets(config: Config) -> Iterator[tuple[Key, str, str, tuple[Key, ...]]]:
    """Spot and futures of Bitget are two accounts with balances of their own, and an adapter keeps one balance of an account."""
    for venue in config.venues:
        listed = [(index, item) for index, item in enumerate(config.instruments) if item.venue == venue.name]
        spot = [index for index, item in listed if item.symbol.endswith(BITGET_SPOT)]
        if venue.kind == "bitget" and 0 < len(spot) < len(listed):
            yield (
                ("instruments", spot[0], "venue"),
                f"{venue.name} cannot have spot ({config.instruments[spot[0]].symbol}) beside perpetuals",
                "enter the exchange under venues twice, once for each",
                tuple(("instruments", index, name) for index, _ in listed for name in ("venue", "symbol")),
            )


def _orders(config: Config, at: Key, orders: OrdersConfig) -> Iterator[tuple[Key, str, str, tuple[Key, ...]]]:
    """The batch door: an address and a secret where it is used, on this machine in a simulation, leaders that exist."""
    known = {leader.id for leader in config.leaders}
    for number, name in enumerate(orders.top_leaders):
        if name not in known:
            every: tuple[Key, ...] = tuple(("leaders", index, "id") for index in range(len(config.leaders)))
            yield (*at, "top_leaders", number), f"no leader is called {name}", "known: " + ", ".join(sorted(known)), every
    if orders.path != "batch":
        return
    for field in ("address", "secret_file"):
        if not getattr(orders, field):
            yield (*at, field), "is needed with path: batch", "", ((*at, "path"),)
    host, _, port = orders.address.rpartition(":")
    if not orders.address or orders.address.startswith("unix:/"):
        return
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        yield (*at, "address"), f"{orders.address} is neither HOST:PORT nor unix:/PATH", "", ()
    elif config.mode == "simulate" and host.strip("[]") not in _LOOPBACK:
        hint = "use `copyd exchange` on 127.0.0.1, or set mode: live"
        yield (*at, "address"), f"mode is simulate, but {host} is not this machine", hint, (("mode",),)


def _kek(at: Key, kek: KekConfig) -> Iterator[tuple[Key, str, str, tuple[Key, ...]]]:
    """What each source of a key-encryption key needs."""
    if kek.source == "file" and not kek.file:
        yield (*at, "file"), "is needed with source: file", "", ((*at, "source"),)
    if kek.source == "vault":
        address = (*at, "vault", "address")
        if not kek.vault.address:
            yield address, "is needed with source: vault", "", ((*at, "source"),)
            return
        try:
            host = urlsplit(kek.vault.address).hostname
            _ = urlsplit(kek.vault.address).port
        except ValueError as error:
            yield address, f"not an address: {error}", "", ()
            return
        if host not in _LOOPBACK and kek.vault.address.startswith("http:"):
            yield address, f"{host} would be reached without encryption", "use https://", ()


def environment_problems(config: Config, exists: Callable[[Path], bool] = Path.exists) -> list[str]:
    """What the file cannot know: paths that are not there. The start itself says the same, one at a time."""
    found = []
    for index, source in enumerate(config.credentials):
        if source.file is not None and not exists(Path(source.file)):
            found.append(f"credentials[{index}].file: {source.file} does not exist")
        if source.vault and config.keys.kek.source == "file" and not exists(Path(config.keys.kek.file)):
            found.append(f"keys.kek.file: {config.keys.kek.file} does not exist")
        if source.vault and not exists(Path(config.journal.path) / "keys"):
            found.append(f"credentials[{index}].vault: no keys in {config.journal.path} yet; `copyd key add` makes the first")
    for index, venue in enumerate(config.venues):
        if venue.orders.path == "batch" and not exists(Path(venue.orders.secret_file)):
            found.append(f"venues[{index}].orders.secret_file: {venue.orders.secret_file} does not exist")
    journal = Path(config.journal.path)
    if not any(exists(parent) for parent in (journal, *journal.parents[:1])):
        found.append(f"journal.path: {journal.parent} does not exist")
    socket_dir = Path(config.control.socket).parent
    if not exists(socket_dir):
        found.append(f"control.socket: {socket_dir} does not exist")
    return found
