"""How often a peer may have us do what costs something."""

from collections import deque

import trio


class Rate:
    """So many times within so long, for each account.

    Args:
        times: how often, at least 1.
        within_s: in any stretch of so many seconds.

    Example::

        rate = Rate(60, within_s=60)
        if not rate.allows(account_id):
            raise Bad("too many messages")
    """

    def __init__(self, times: int, *, within_s: float) -> None:
        self._times = times
        self._within_s = within_s
        self._taken: dict[str, deque[float]] = {}

    def allows(self, account_id: str) -> bool:
        """Return whether it may be done once more now; if so, it counts as done."""
        now_s = trio.current_time()
        taken = self._taken.setdefault(account_id, deque(maxlen=self._times))
        if len(taken) == self._times and now_s < taken[0] + self._within_s:
            return False
        taken.append(now_s)
        return True
