"""How long to wait before the next try."""

import random
from typing import Final

from settled import limits

_RANDOM: Final = random.SystemRandom()


def retry_delay_ms(failures: int) -> int:
    """Return a delay in milliseconds after ``failures`` (0 or more) fruitless tries in a row.

    Exponential with full jitter, at most an hour: RFC 0038, "Retry behavior"; Marc Brooker,
    "Exponential Backoff And Jitter" (2015).
    """
    ceiling_s = limits.RETRY_DELAY_MAX_S
    if failures < 40:  # beyond, two to that power is an hour many times over
        ceiling_s = min(ceiling_s, limits.RETRY_DELAY_MIN_S * 2**failures)
    return round(_RANDOM.uniform(0, ceiling_s) * 1000)
