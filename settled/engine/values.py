"""Option values: from the text of a flag or variable, or from TOML, to an exact typed value.

Parsing is strict: what Python would merely tolerate (``1_000``, ``NaN``, digits of other scripts,
a float where money is meant) is refused.
"""

import dataclasses
import math
import re
import types
import typing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

from settled import limits

Origin = Literal["flag", "environment", "file"]

_INT: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)
_DECIMAL: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?", re.ASCII)
_FLOAT: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_BOOLS: Final = {
    "true": True,
    "yes": True,
    "1": True,
    "on": True,
    "false": False,
    "no": False,
    "0": False,
    "off": False,
}

# The types that an option may have: how each is called, and what a value of it looks like.
TYPE_NAMES: Final[dict[type, str]] = {
    str: "text",
    int: "integer",
    bool: "boolean",
    Decimal: "decimal",
    float: "number",
    Path: "path",
}
_FORMS: Final[dict[type, str]] = {
    str: "text",
    int: "a whole number, like 12",
    bool: "true or false (or yes/no, on/off, 1/0)",
    Decimal: "a decimal number, like 12.50",
    float: "a number, like 1.5",
    Path: "a path",
}


@dataclass(frozen=True, slots=True)
class Value:
    """A value as it was given, and where: ``source`` is in words, ``origin`` is its kind."""

    raw: object = dataclasses.field(repr=False)
    source: str
    origin: Origin


def split_optional(hint: object) -> tuple[type | None, bool]:
    """Return the supported type in ``hint``, and whether it is ``X | None``.

    The type is ``None`` when the hint is not one of those that an option may have.
    """
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [member for member in typing.get_args(hint) if member is not types.NoneType]
        optional = len(members) < len(typing.get_args(hint))
        hint = members[0] if len(members) == 1 else None
    return (hint if isinstance(hint, type) and hint in TYPE_NAMES else None), optional


def expected(kind: type, minimum: Any, maximum: Any, choices: tuple[Any, ...] | None) -> str:
    """Return what a value must look like, to end a message with."""
    if choices is not None:
        return "one of " + ", ".join(show(choice) for choice in choices)
    form = _FORMS[kind]
    if minimum is not None and maximum is not None:
        return f"{form}, from {show(minimum)} to {show(maximum)}"
    if minimum is not None:
        return f"{form}, at least {show(minimum)}"
    if maximum is not None:
        return f"{form}, at most {show(maximum)}"
    return form


def parse(kind: type, raw: object) -> Any:
    """Return ``raw`` as a value of ``kind``, one of ``TYPE_NAMES``.

    Text is parsed. Other values come from TOML (whose floats are read as ``Decimal``, so that they
    stay exact) and must be of the type already.

    Raises:
        ValueError: when it is not one; without a message, since it may be a secret.
    """
    if kind is bool:
        return _parse_bool(raw)
    if kind in (str, Path):
        if not isinstance(raw, str) or "\0" in raw or (kind is Path and not raw):
            raise ValueError
        return kind(raw)
    return _parse_number(kind, raw)


def _parse_bool(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.lower() in _BOOLS:
        return _BOOLS[raw.lower()]
    raise ValueError


def _parse_number(kind: type, raw: object) -> Any:
    if isinstance(raw, str):
        form = {int: _INT, Decimal: _DECIMAL, float: _FLOAT}[kind]
        if len(raw) > 2 * limits.AMOUNT_DIGITS_MAX or not form.fullmatch(raw):
            raise ValueError
    elif isinstance(raw, Decimal):
        if kind is int or not _is_ordinary(raw):
            raise ValueError
    elif type(raw) is not int:
        raise ValueError
    try:
        value = kind(raw)
    except OverflowError:
        raise ValueError from None
    if kind is float and not math.isfinite(value):
        raise ValueError
    return value


def _is_ordinary(value: Decimal) -> bool:
    # Written out in full, 1E+999999 would be a megabyte of zeros.
    return value.is_finite() and (not value or abs(value.adjusted()) <= limits.AMOUNT_DIGITS_MAX)


def show(value: object) -> str:
    """Return a value as it would be written in a flag; nothing for ``None``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)
