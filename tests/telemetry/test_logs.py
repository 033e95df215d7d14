"""Log lines: their shape per destination, and that no secret is ever in one."""

import io
import json
import logging
import os
import secrets

import pytest
import structlog

from copyd.credentials import Credential, Secret
from copyd.telemetry.logs import get_logger, redact_text, setup_logs


@pytest.fixture
def logs():
    stream = io.StringIO()
    setup_logs("json", "info", stream, environ={})
    yield stream
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []


def _lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_and_part(logs):
    get_logger("pump").info("leader_fill", leader="alice", seq=7)
    [line] = _lines(logs)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "leader_fill", "level": "info", "part": "pump", "leader": "alice", "seq": 7}


def test_the_standard_logging_of_libraries_ends_in_the_same_lines(logs):
    logging.getLogger("some.library").warning("connection to %s lost", "venue")
    [line] = _lines(logs)
    assert line["event"] == "connection to venue lost"
    assert line["level"] == "warning"


def test_below_the_level_nothing_is_written(logs):
    get_logger("pump").debug("noise")
    assert logs.getvalue() == ""


def test_no_secret_comes_through_in_any_dress(logs):
    """As a value, inside a structure, in a text, in a query, in bytes, in an exception, as the Secret type."""
    canary = "".join(secrets.choice("abcdefghABCDEFGH23456789") for _ in range(64))
    short = "Tr0ub4dor-" + secrets.token_hex(4)
    log = get_logger("venue")
    log.info("a", key=canary, api_secret=short, nested={"password": short, "list": [canary, {"apiKey": short}]})
    log.info(f"request ?symbol=BTCUSDT&signature={short}&x=1 with {canary}")
    log.info("b", frame=f'{{"apiKey":"{short}","signature":"{canary}"}}'.encode())
    log.info("c", credential=Credential("alice", Secret(canary), Secret(short)), raw=Secret(short))
    log.info("d", pem=f"-----BEGIN PRIVATE KEY-----\n{short}\n-----END PRIVATE KEY-----")
    try:
        raise ValueError(f"refused: signature={canary}")
    except ValueError:
        log.exception("e")
    logging.getLogger("lib").error("url https://user:%s@host/ %s", short, canary)
    text = logs.getvalue()
    assert canary not in text
    assert short not in text
    assert len(_lines(logs)) == 7
    assert "Traceback" in text
    assert "symbol=BTCUSDT" in text


def test_a_client_order_id_is_not_taken_for_a_secret():
    ident = secrets.token_hex(16)
    assert redact_text(f"order {ident} filled") == f"order {ident} filled"


def test_under_journald_each_line_carries_its_priority(tmp_path):
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        setup_logs("auto", "info", stream, environ={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        log = get_logger("pump")
        log.warning("slow")
        log.error("broken")
        stream.flush()
        stream.seek(0)
        first, second = stream.read().splitlines()
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []
    assert first.startswith("<4>{")
    assert second.startswith("<3>{")


def test_a_terminal_gets_lines_for_people(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    setup_logs("auto", "info", stream, environ={"NO_COLOR": "1"})
    get_logger("pump").info("leader_fill", leader="alice")
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []
    text = stream.getvalue()
    assert "leader_fill" in text
    assert "leader=alice" in text
    assert not text.startswith("{")
