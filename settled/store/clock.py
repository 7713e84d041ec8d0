"""The steady clock: by it the store tells how old an unclear delivery is.

No single clock can be trusted with that. The wall clock is set forth and back; the time since boot
ends with the boot. So the steady clock goes on by whichever of the two says that more time has
passed, and never back: a delivery may be thought older than it is, never younger.
"""

import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from settled import limits

# A clock that is corrected by less while the machine restarts is not taken for one set back.
_CORRECTION_MAX_MS: Final = 60_000


def wall_ms() -> int:
    """Return the wall clock in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Uptime:
    """How long the machine is up, in milliseconds, and which of its boots that counts from."""

    boot: str
    ms: int


def uptime() -> Uptime:
    """Return how long this machine is up, time asleep included where the system tells it."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return Uptime(_boot(), time.clock_gettime_ns(clock) // 1_000_000)


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid.uuid4())  # unknown to later processes: they go by the wall clock


@dataclass(frozen=True, slots=True)
class Mark:
    """What the clocks said at one instant.

    Attributes:
        steady_ms: the steady clock.
        wall_ms: the wall clock.
        uptime: how long the machine was up.
    """

    steady_ms: int
    wall_ms: int
    uptime: Uptime

    def advanced(self, wall_ms: int, uptime: Uptime) -> "Mark":
        """Return the mark of a later instant.

        When the machine was started anew and its wall clock is behind the mark, nobody knows how
        much time has passed: then it counts as enough to make every unclear delivery too old.

        Example::

            >>> Mark(0, 5000, Uptime("a", 10)).advanced(4000, Uptime("a", 710)).steady_ms
            700
        """
        passed_ms = wall_ms - self.wall_ms
        if uptime.boot == self.uptime.boot:
            passed_ms = max(passed_ms, uptime.ms - self.uptime.ms)
        elif passed_ms < -_CORRECTION_MAX_MS:
            passed_ms = limits.AMBIGUOUS_AGE_MAX_MS
        return Mark(self.steady_ms + max(passed_ms, 0), wall_ms, uptime)
