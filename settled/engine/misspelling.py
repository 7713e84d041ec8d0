"""Guesses which names of an engine are misspelled: a hook that is never called is no error."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Final

_LIKENESS: Final = 0.88  # "find_settlment" is meant for a hook, a method "connect" is not


def probably_meant(
    engine: object, *, methods: Sequence[str], attributes: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the public names of ``engine`` that look like one it lacks, each with that one.

    Args:
        engine: what was loaded; nothing of it is called.
        methods: the names that methods may have.
        attributes: the names that other attributes may have.

    Example::

        >>> class Till:
        ...     async def find_settlment(self, account_id, settlement_id): ...
        >>> probably_meant(Till(), methods=["settle", "find_settlement"], attributes=[])
        [('find_settlment', 'find_settlement')]
    """
    own = dir(engine)
    lacking = {_plain(name): name for name in (*methods, *attributes) if name not in own}
    found = []
    for written in own:
        if written.startswith("_") or written in methods or written in attributes:
            continue
        for near in difflib.get_close_matches(_plain(written), lacking, n=1, cutoff=_LIKENESS):
            if _is_method(engine, written) == (lacking[near] in methods):
                found.append((written, lacking[near]))
    return found


def _plain(name: str) -> str:
    return name.replace("_", "").lower()  # setupAccount is set-up too


def _is_method(engine: object, name: str) -> bool:
    value = inspect.getattr_static(engine, name, None)
    return callable(value) or isinstance(value, staticmethod | classmethod)
