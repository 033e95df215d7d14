"""structlog, set up in one function: console on a terminal, JSON otherwise, priorities under journald, no secrets.

Libraries that use the standard ``logging`` end in the same lines. Under journald each line begins with ``<3>``-style
priority, which the journal takes off and files by.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from copyd.credentials import HIDDEN, Credential, Secret

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
#: syslog severities, as journald reads them
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}

_SECRET_NAME = re.compile(
    r"(^|[_-])(secret|password|passwd|passphrase|token|signature|listen_?key|private_?key|api_?key|authorization|x-mbx-apikey)$",
    re.I,
)
#: In texts: a PEM body, ``name=value`` of the names above (a signed query), and runs only keys have. A client order id
#: has 32 characters and is wanted in logs, so the run starts above it.
_PATTERNS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), HIDDEN),
    (
        re.compile(
            r"""(?i)((?:["']?)\b(?:signature|api_?key|secret|listen_?key|x-mbx-apikey|password|token)\b["']?\s*[=:]\s*["']?)[^\s&"',}]+"""
        ),
        r"\1" + HIDDEN,
    ),
    (re.compile(r"[A-Za-z0-9]{44,}"), HIDDEN),
    (re.compile(r"://[^/\s:@]+:[^/\s@]+@"), "://" + HIDDEN + "@"),
)


def redact_text(text: str) -> str:
    """The text without anything that looks like a key, a signature or a login."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _redact(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return redact_text(value) if len(value) >= 8 else value
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, Secret):
        return HIDDEN
    if isinstance(value, Credential):
        return repr(value)
    if depth > 6:
        return "..."
    if isinstance(value, bytes | bytearray | memoryview):
        return redact_text(bytes(value).decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {
            str(name): HIDDEN if _SECRET_NAME.search(str(name)) else _redact(inner, depth + 1) for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact(inner, depth + 1) for inner in value]
    return redact_text(str(value))


def redact_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Processor: the last one before rendering, so it also sees formatted exceptions."""
    for name, value in event.items():
        if name == "_record":
            continue
        event[name] = HIDDEN if _SECRET_NAME.search(name) else _redact(value)
    return event


def _json_line(_: WrappedLogger, __: str, event: EventDict) -> str:
    return orjson.dumps(event, option=orjson.OPT_NON_STR_KEYS, default=str).decode()


class _Prioritised:
    """Renders with another renderer and puts journald's priority before every line of the result."""

    def __init__(self, renderer: Processor) -> None:
        self._renderer = renderer

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> str:
        prefix = f"<{PRIORITIES.get(str(event.get('level', 'info')), 6)}>"
        text = str(self._renderer(logger, name, event))
        return "\n".join(prefix + line for line in text.split("\n"))


def under_journald(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """True when the stream is the very one that journald opened for us ($JOURNAL_STREAM is ``device:inode``)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def setup_logs(
    log_format: str = "auto",
    level: str = "info",
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """The whole set-up; call once at start, again on a reload. Logs go to stderr: stdout belongs to the command's result."""
    stream = sys.stderr if stream is None else stream
    environ = os.environ if environ is None else environ
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,  # the plain traceback: no values of local variables in it
        redact_secrets,
    ]
    renderer: Processor
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty() and "NO_COLOR" not in environ,
            exception_formatter=structlog.dev.plain_traceback,
            pad_event_to=28,
        )
    else:
        renderer = _json_line
    if under_journald(stream, environ):
        renderer = _Prioritised(renderer)

    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    logging.getLogger("asyncio").setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger("websockets").setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger("picows").setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)

    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,  # a reload may change level and format
    )


def get_logger(part: str) -> Any:
    """A logger bound to a part of the daemon. Bind once and keep: a bound filtered call costs some 85 ns."""
    return structlog.get_logger().bind(part=part)
