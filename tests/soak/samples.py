"""What a daemon takes of its machine, sampled over a run, and whether that grows."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.hostile.healthy import descriptors, rss_kib

WARM_UP: Final = 0.2  # of the run: caches fill, threads and connections are opened
GROWTH_MAX: Final = {"memory MiB": 8.0, "descriptors": 8.0, "threads": 8.0}
PEAK_MAX: Final = {"log MiB": 16.0}
PER_REQUEST_MAX: Final = {"file KiB a request": 2.0}
_MIB: Final = 2**20


@dataclass(frozen=True)
class Sample:
    """What a daemon takes at one moment.

    Attributes:
        time_s: when that was.
        requests: how many requests were made by then.
        taken: amounts by name.
    """

    time_s: float
    requests: int
    taken: dict[str, float]


@dataclass(frozen=True)
class Finding:
    """One thing that was measured over a run, and the most that it may be."""

    what: str
    first: float
    last: float
    value: float
    bound: float

    @property
    def is_good(self) -> bool:
        return self.value <= self.bound

    def __str__(self) -> str:
        return f"{self.what} is {self.value:.1f}, more than {self.bound:.1f}"


def take_sample(pid: int, db: Path, time_s: float, requests: int) -> Sample:
    """Look at a daemon from outside."""
    log = db.with_name(f"{db.name}-wal")
    return Sample(
        time_s,
        requests,
        {
            "memory MiB": rss_kib(pid) / 1024,
            "descriptors": descriptors(pid),
            "threads": len(os.listdir(f"/proc/{pid}/task")),
            "log MiB": log.stat().st_size / _MIB if log.exists() else 0.0,
            "file MiB": db.stat().st_size / _MIB,
        },
    )


def judge(samples: Sequence[Sample]) -> list[Finding]:
    """Return what grew after the warm-up, by the slope of all samples, and what was too large."""
    began_s, ended_s = samples[0].time_s, samples[-1].time_s
    warm_s = began_s + WARM_UP * (ended_s - began_s)
    warm = [sample for sample in samples if sample.time_s >= warm_s]
    first, last = warm[0], warm[-1]
    found = [
        Finding(f"growth of {what}", first.taken[what], last.taken[what], _growth(warm, what), most)
        for what, most in GROWTH_MAX.items()
    ]
    found += [
        Finding(
            f"peak of {what}",
            first.taken[what],
            last.taken[what],
            max(sample.taken[what] for sample in samples),
            most,
        )
        for what, most in PEAK_MAX.items()
    ]
    grown_kib = (last.taken["file MiB"] - first.taken["file MiB"]) * 1024
    (per_request,) = PER_REQUEST_MAX
    found.append(
        Finding(
            per_request,
            first.taken["file MiB"] * 1024 / max(first.requests, 1),
            last.taken["file MiB"] * 1024 / max(last.requests, 1),
            grown_kib / max(last.requests - first.requests, 1),
            PER_REQUEST_MAX[per_request],
        )
    )
    return found


def _growth(samples: Sequence[Sample], what: str) -> float:
    """Return how far the line through all samples rises; one peak does not make it steep."""
    times_s = [sample.time_s for sample in samples]
    slope, _ = statistics.linear_regression(times_s, [sample.taken[what] for sample in samples])
    return slope * (times_s[-1] - times_s[0])
