"""Sweeps: a scenario is crashed at every point, or at a sample of them, and checked each time."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from tests.crashes.lab import CHANGES, MOMENTS, READS, Fault, Hook
from tests.crashes.subject import SYNCS, Subject


def _silent(_text: str) -> None:
    pass


@dataclass(frozen=True)
class Effort:
    """How much of a sweep is tried.

    Args:
        sample: how many of its points; ``None``: all.
        seed: of the sample.
        progress: is told how far it is.
    """

    sample: int | None = None
    seed: int = 0
    progress: Callable[[str], None] = _silent


@dataclass
class Report:
    """What a sweep has done."""

    name: str
    points: int = 0
    by_call: dict[str, int] = field(default_factory=dict)
    parked: int = 0
    took_s: float = 0.0

    def count(self, what: str) -> None:
        self.points += 1
        self.by_call[what] = self.by_call.get(what, 0) + 1

    def __str__(self) -> str:
        calls = ", ".join(f"{call} {n}" for call, n in sorted(self.by_call.items()))
        parked = f"; {self.parked} times the operator resolved" if self.parked else ""
        return f"{self.name:36} {self.points:5} points {self.took_s:7.1f} s  ({calls}{parked})"


_WORKER: Final = "Trio thread"
_WORKER_MISSES: Final = 4

WRITES: Final = ("pwrite64", "ftruncate")

# The methods of the store that the scenarios call, and what happens outside between two of them.
POINTS: Final = (
    *("open_account", "queue_settlement", "begin_settlements", "interrupt_settlements"),
    *("next_settlement", "record_outcome", "commit", "add_credit", "next_deliveries_of"),
    *("record_deliveries", "pay", "credit"),
)
KILLED: Final = (
    *("accept", "checkpoint", "settle", "settle blindly", "credit", "pass on", "deliver"),
    "recover",
    *("prune", "migrate", "back up", "back up by command"),
)
INTERRUPTED_AT_POINTS: Final = (
    *("settle", "settle slowly", "settle blindly"),
    *("credit", "pass on", "pass on unheard"),
    *("deliver", "deliver unheard", "deliver to the mute", "recover"),
)


@dataclass(frozen=True)
class ErrorKind:
    """How system calls fail: which, with what error, and when (see ``Fault``)."""

    calls: tuple[str, ...]
    action: str
    when: str = "{n}"
    patience_s: float = 20.0


ERRORS: Final = {
    "sync fails": ErrorKind(SYNCS, "error=EIO"),
    "disk full once": ErrorKind(WRITES, "error=ENOSPC"),
    "disk full for a while": ErrorKind(WRITES, "error=ENOSPC", "{n}..{m}"),
    "disk full for ever": ErrorKind(WRITES, "error=ENOSPC", "{n}+", patience_s=1.0),
    "read fails": ErrorKind(READS, "error=EIO"),
}
FAILED_BY_ERRORS: Final = (
    *("accept", "checkpoint", "settle", "credit", "pass on", "deliver", "recover"),
    *("prune", "migrate"),
)


def sweep_kills(subject: Subject, effort: Effort, calls: tuple[str, ...] = CHANGES) -> Report:
    """Kill a scenario just before each call that changes a file."""
    kind = ErrorKind(calls, "signal=KILL")
    return _sweep(f"kill: {subject.name}", subject, kind, subject.kill, effort)


def sweep_errors(subject: Subject, kind: str, effort: Effort) -> Report:
    """Have each call of a kind fail that the scenario makes."""
    fails = ERRORS[kind]
    try_point = partial(subject.fail, patience_s=fails.patience_s)
    return _sweep(f"{kind}: {subject.name}", subject, fails, try_point, effort)


def sweep_points(subject: Subject, effort: Effort) -> Report:
    """Crash just before and just after every commit, every payment and every credit."""
    report = Report(f"crash at a point: {subject.name}")
    subject.parked = 0
    started_s = time.monotonic()
    calls_max = 100 if subject.scenario.days == 1 else 4  # one who is mute is called for ever
    hooks = [
        [Hook(method, moment, n) for n in range(1, calls_max + 1)]
        for method in POINTS
        for moment in MOMENTS
    ]
    if effort.sample is not None:
        rng = random.Random(effort.seed)
        some = rng.sample(hooks, min(effort.sample, len(hooks)))
        hooks = [[rng.choice(of_one[:4])] for of_one in some]
    for of_one in hooks:
        for hook in of_one:
            if not _tried(lambda hook=hook: subject.crash(hook), hook):  # type: ignore[misc]
                break
            report.count(hook.method)
            effort.progress(f"{report.name}: {report.points} points, {hook}")
    report.parked = subject.parked
    report.took_s = time.monotonic() - started_s
    return report


def _sweep(
    title: str,
    subject: Subject,
    kind: ErrorKind,
    try_point: Callable[[Fault], bool],
    effort: Effort,
) -> Report:
    report = Report(title)
    subject.parked = 0
    started_s = time.monotonic()

    def reached(thread: str, call: str, n: int) -> bool:
        fault = Fault(thread, call, kind.action, kind.when.format(n=n, m=n + 3))
        if not _tried(lambda: try_point(fault), fault):
            return False
        report.count(call)
        effort.progress(f"{title}: {report.points} points, {fault}")
        return True

    counts = {at: n for at, n in subject.counts.items() if at[1] in kind.calls}
    if effort.sample is None:
        done: set[tuple[str, str]] = set()
        for thread, call in counts:
            n, misses = 1, 0  # up to the first that is not reached: runs differ a little
            while misses < (_WORKER_MISSES if _any_worker(thread) == _WORKER else 1):
                if reached(thread, call, n):
                    done.add((_any_worker(thread), call))
                    n, misses = n + 1, 0
                else:
                    misses += 1
        missing = {(_any_worker(thread), call) for thread, call in counts} - done
        assert not missing, missing
    else:
        points = [(*at, n) for at, total in counts.items() for n in range(1, total + 1)]
        some = random.Random(effort.seed).sample(points, min(effort.sample, len(points)))
        for thread, call, n in some:
            reached(thread, call, n)
    report.parked = subject.parked
    report.took_s = time.monotonic() - started_s
    return report


def _any_worker(thread: str) -> str:
    """Return the thread; for trio's workers, of which any may do what is to be done, one name."""
    return _WORKER if thread.startswith(_WORKER) else thread


def _tried(try_point: Callable[[], bool], point: object) -> bool:
    try:
        return try_point()
    except BaseException as error:
        error.add_note(f"at {point}")
        raise
