"""Logs are one event a line, and nothing in a field can forge one."""

import io
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

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


@dataclass(frozen=True)
class Keeper:
    """Says of itself what may be said."""

    secret: str = field(default="hush", repr=False)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x", "x"),
        (2**70, 2**70),
        (True, True),
        (None, None),
        ("\ud800", "\ud800"),
        ("\x7f", "\x7f"),
        ("\u009b", "\u009b"),
        (Decimal("1.50"), "1.50"),
        (b"\xff", "b'\\xff'"),
        (Keeper(), "Keeper()"),
        ([1, "a"], [1, "a"]),
    ],
)
def test_a_field_is_shown_alike_whichever_encoder_takes_it(value: Any, shown: Any) -> None:
    stream = io.StringIO()
    set_up_logs("json", stream)
    structlog.get_logger().info("credited", value=value, amount=1)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["value"] == shown
    assert line.isascii()
    assert line.isprintable()
    assert "hush" not in line


def test_times_are_told_to_the_microsecond(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    set_up_logs("json", stream)
    for now_ns in (1_700_000_000_000_001_999, 1_700_000_000_999_999_999, 1_700_000_001_000_000_000):
        monkeypatch.setattr(time, "time_ns", lambda now_ns=now_ns: now_ns)
        structlog.get_logger().info("settled")
    assert [json.loads(line)["timestamp"] for line in stream.getvalue().splitlines()] == [
        "2023-11-14T22:13:20.000001Z",
        "2023-11-14T22:13:20.999999Z",
        "2023-11-14T22:13:21.000000Z",
    ]
