"""Logs: one event a line to standard error, for people on a terminal, as JSON for machines.

``event`` is a stable name in snake case, the rest are its fields; times are ISO 8601 in UTC. What
libraries log goes the same way, under the event ``library_message``. Nothing in a field can forge
a line or drive a terminal.
"""

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TextIO

import msgspec
import structlog
from structlog.types import EventDict, Processor

from settled.text import printable

# Made once, since that takes longer than a line; the second is quick, but not for everything.
_JSON: Final = json.JSONEncoder(default=str, separators=(",", ":"))
_PLAIN_JSON: Final = msgspec.json.Encoder()
_PLAIN: Final = frozenset({str, int})

# Their information is ours already, or says where we connect to, once per request.
_QUIET: Final = ("httpx2", "httpcore2", "hypercorn")


def set_up_logs(log_format: str = "auto", stream: TextIO | None = None) -> None:
    """Send all logs of the process to ``stream`` (standard error if not given).

    Args:
        log_format: ``console``, ``json``, or ``auto``: console on a terminal, else JSON.
        stream: where to write to.
    """
    stream = sys.stderr if stream is None else stream
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _add_time,
    ]
    rendering: list[Processor] = [
        structlog.processors.format_exc_info,
        *(_console(stream) if console else [_as_json]),
    ]
    lines = _Lines(stream)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_names: lines,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_library_message, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *rendering,
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Lines:
    """Where our own events go: there is one for each credit, and ``logging`` is slow.

    As there, a log that cannot be written is no reason to stop.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def info(self, line: str) -> None:
        """Write the line, and a line's end."""
        with suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    warning = error = critical = info


def _console(stream: TextIO) -> list[Processor]:
    return [
        _escape,
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            pad_event_to=0,
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _as_json(_logger: object, _method: str, event_dict: EventDict) -> str:
    """Return the line; what is not ASCII is escaped, and control characters with it."""
    if _PLAIN.issuperset(map(type, event_dict.values())):
        with suppress(ValueError, OverflowError):  # half a character, or a very large number
            line = _PLAIN_JSON.encode(event_dict)
            if line.isascii() and b"\x7f" not in line:
                return line.decode()
    return _JSON.encode(event_dict)


def _add_time(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    now_us = time.time_ns() // 1000
    event_dict["timestamp"] = f"{_second(now_us // 1_000_000)}.{now_us % 1_000_000:06}Z"
    return event_dict


@lru_cache(maxsize=1)
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _library_message(
    logger: logging.Logger, method: str, event_dict: EventDict
) -> MutableMapping[str, Any]:
    record: logging.LogRecord = event_dict["_record"]
    return {
        **event_dict,
        "message": event_dict["event"],
        "event": "library_message",
        "logger": record.name,
    }


def _escape(_logger: object, _method: str, event_dict: EventDict) -> MutableMapping[str, Any]:
    escaped: dict[str, Any] = {}
    for key, value in event_dict.items():
        if key == "exception":
            # Indented, no line of it can pass for an event.
            escaped[key] = "\n".join(f"  {printable(line)}" for line in str(value).splitlines())
        else:
            escaped[key] = printable(str(value))
    return escaped
