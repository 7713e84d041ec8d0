"""Trouble that lasts: told when it begins, when it changes, and now and then, not at every try."""

import re
from collections.abc import Hashable
from typing import Final

import trio

from settled import limits

_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_SUBJECTS_MAX: Final = 10_000


class Lasting:
    """Knows what was told lately, of each subject.

    A reason that differs from the last one in its numbers only, such as a balance, is the same. A
    peer who has a say in the reason cannot fill the log: of one subject there is at most a line in
    ten seconds.

    Example::

        if lasting.is_news(account_id, reason):
            log.warning("not_sent", account=account_id, reason=reason)
    """

    def __init__(self) -> None:
        self._kinds: dict[Hashable, str] = {}
        self._told_s: dict[Hashable, float] = {}

    def is_news(self, subject: Hashable, reason: str) -> bool:
        """Return whether to tell of it now; if so, it counts as told."""
        kind, now_s = _NUMBER.sub("0", reason), trio.current_time()
        if subject in self._kinds:
            is_same = kind == self._kinds[subject]
            every_s = limits.TELL_AGAIN_S if is_same else limits.TELL_CHANGE_S
            if now_s < self._told_s[subject] + every_s:
                return False
        elif len(self._kinds) >= _SUBJECTS_MAX:
            self._kinds.clear()  # rather tell it again than keep count of everything
            self._told_s.clear()
        self._kinds[subject], self._told_s[subject] = kind, now_s
        return True

    def over(self, subject: Hashable) -> None:
        """Have it told at once when it comes again."""
        self._kinds.pop(subject, None)
        self._told_s.pop(subject, None)
