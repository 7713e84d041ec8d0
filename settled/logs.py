"""Logs: one event a line to standard error, for people on a terminal, as JSON for machines.

``event`` is a stable name in snake case, the rest are its fields; times are ISO 8601 in UTC. What
libraries log goes the same way, under the event ``library_message``. Nothing in a field can forge
a line or drive a terminal.
"""

import json
import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Final, TextIO

import structlog
from structlog.types import EventDict, Processor

from settled.text import printable

_JSON: Final = json.JSONEncoder(default=str)  # one for all: to make one takes longer than a line

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
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor] = [
        structlog.processors.format_exc_info,
        *(_console(stream) if console else _json()),
    ]
    lines = _Lines(stream)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_names: lines,
        cache_logger_on_first_use=False,
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


def _json() -> list[Processor]:
    # The encoder escapes what is not ASCII, and control characters with it.
    return [structlog.processors.JSONRenderer(serializer=_as_json)]


def _as_json(event_dict: EventDict, **_: object) -> str:
    return _JSON.encode(event_dict)


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
