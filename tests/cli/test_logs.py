"""Logs are one event a line, and nothing in a field can forge one."""

import io
import json
import logging
from collections.abc import Iterator
from decimal import Decimal

import pytest
import structlog

from settled.logs import set_up_logs

NASTY = "a\x1b[2J\n2026-01-01T00:00:00Z [info] forged\u2028\u202e"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_is_one_object_a_line_with_a_stable_event_and_a_time_in_utc() -> None:
    stream = io.StringIO()
    set_up_logs("json", stream)
    structlog.get_logger().info("settled", account=NASTY, amount=Decimal("1.50"))
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "settled", "level": "info", "account": NASTY, "amount": "1.50"}
    assert line.isascii()
    assert "\x1b" not in line


def test_the_console_escapes_what_could_forge_a_line_or_drive_the_terminal() -> None:
    stream = io.StringIO()
    set_up_logs("console", stream)
    structlog.get_logger().info("settled", account=NASTY, peer="x\x1b[2J")
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    assert r"peer=x\x1b[2J" in line


def fail(message: str) -> None:
    raise ValueError(message)


def test_no_line_of_a_traceback_can_pass_for_an_event() -> None:
    stream = io.StringIO()
    set_up_logs("console", stream)
    try:
        fail(NASTY)
    except ValueError:
        structlog.get_logger().exception("crashed")
    first, *rest = stream.getvalue().splitlines()
    assert "crashed" in first
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b" not in stream.getvalue()


def test_the_format_follows_the_terminal() -> None:
    for stream, is_json in ((io.StringIO(), True), (Terminal(), False)):
        set_up_logs("auto", stream)
        structlog.get_logger().info("settled")
        assert stream.getvalue().startswith("{") is is_json


def test_what_libraries_log_goes_the_same_way() -> None:
    stream = io.StringIO()
    set_up_logs("json", stream)
    logging.getLogger("hypercorn.error").error("Boom %s", NASTY)
    event = json.loads(stream.getvalue())
    assert event["event"] == "library_message"
    assert event["logger"] == "hypercorn.error"
    assert event["message"] == f"Boom {NASTY}"


@pytest.mark.parametrize("name", ["httpx2", "httpcore2.connection", "hypercorn.error"])
def test_the_chatter_of_libraries_is_left_out(name: str) -> None:
    stream = io.StringIO()
    set_up_logs("json", stream)
    logging.getLogger(name).info("HTTP Request: POST http://user:sekret@x/")
    assert stream.getvalue() == ""
