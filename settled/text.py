"""Text from outside, made safe to read, and to show: in a log line, an error, a table cell."""

import sys
from typing import Any, Final

import msgspec

_DEPTH_MAX: Final = 1000


def from_json(text: bytes) -> Any:
    """Return what a stranger's JSON says, whatever it is, however deep it is nested.

    Libraries beneath an engine (``py_ecc`` is one) set the recursion limit of the whole process to
    more than its stack holds. Then JSON that is nested deep enough would end the daemon.

    Raises:
        ValueError: when it is no JSON.
        RecursionError: when it is nested too deep.

    Example::

        >>> from_json(b'{"a":[1]}')
        {'a': [1]}
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(min(limit, _DEPTH_MAX))
    try:
        return msgspec.json.decode(text)
    finally:
        sys.setrecursionlimit(limit)


def printable(text: str) -> str:
    r"""Return ``text`` with every character that is not printable written as an escape.

    That covers line breaks, terminal sequences, bidirectional overrides and lone surrogates, so
    that what a stranger sends can neither forge a line nor drive a terminal.

    Example::

        >>> printable("paid\x1b[2J")
        'paid\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def one_line(text: object, chars_max: int = 500) -> str:
    """Return ``text`` as one printable line, white space collapsed, cut at ``chars_max``.

    What cannot even say what it is, such as an exception of somebody's own, is named by its type.
    """
    try:
        words = str(text).split()
    except Exception:
        words = [f"(a {type(text).__name__} that cannot be shown)"]
    line = printable(" ".join(words))
    return line if len(line) <= chars_max else line[: chars_max - 1] + "…"


def describe_error(error: BaseException) -> str:
    """Return an exception, of a group its first, as one line: its type and its message, if any."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    message = one_line(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
