"""Saying what goes on being wrong now and then, instead of at every look."""

import math
from typing import Any, Final

import trio

_EVERY_S: Final = 600.0
_COUNT_EVERY_S: Final = 60.0
_KEYS_MAX: Final = 10_000


class Seldom:
    """A log for what lasts: each thing about each subject is said once in ten minutes.

    Example::

        seldom.warning("transaction_refused", payment.settlement_id, reason=str(error))
    """

    def __init__(self, log: Any, *, every_s: float = _EVERY_S) -> None:
        self._log = log
        self._every_s = every_s
        self._said: dict[tuple[str, str], float] = {}

    def warning(self, event: str, about: str, **fields: Any) -> None:
        """Log a warning, unless it was said of the same subject lately."""
        if self._is_due(event, about):
            self._log.warning(event, **fields)

    def error(self, event: str, about: str, **fields: Any) -> None:
        """Log an error, unless it was said of the same subject lately."""
        if self._is_due(event, about):
            self._log.error(event, **fields)

    def over(self, event: str, about: str) -> bool:
        """Say it again when it comes again; return whether it had been said."""
        return self._said.pop((event, about), None) is not None

    def _is_due(self, event: str, about: str) -> bool:
        key, now_s = (event, about), trio.current_time()
        if now_s < self._said.get(key, -math.inf) + self._every_s:
            return False
        if len(self._said) >= _KEYS_MAX:
            self._said.clear()
        self._said[key] = now_s
        return True


class Counted:
    """A log for what may come in floods: how many there were since it was said last, and the last.

    Example::

        strangers.add(sender=transfer.sender)  # for each
        strangers.tell()  # now and then
    """

    def __init__(self, log: Any, event: str) -> None:
        self._log = log
        self._event = event
        self._count = 0
        self._last: dict[str, Any] = {}
        self._said_at = -math.inf

    def add(self, **fields: Any) -> None:
        """Count one more."""
        self._count += 1
        self._last = fields

    def tell(self) -> None:
        """Log what was counted, unless that was done in the last minute."""
        now_s = trio.current_time()
        if self._count and now_s >= self._said_at + _COUNT_EVERY_S:
            self._log.warning(self._event, count=self._count, **self._last)
            self._count, self._said_at = 0, now_s
