"""A short soak; ``make soak`` lasts an hour. And that what grows is told from what only varies."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.samples import Sample, judge
from tests.soak.soak import soak

QUIET = {
    "memory MiB": 60.0,
    "descriptors": 30.0,
    "threads": 9.0,
    "log MiB": 4.0,
    "file MiB": 1.0,
}
STEPS = 100


def samples(change: Callable[[int, dict[str, float]], dict[str, float]]) -> list[Sample]:
    """Return the samples of a run that is quiet but for this change."""
    return [Sample(5.0 * n, 100 * n, {**QUIET, **change(n, QUIET)}) for n in range(STEPS)]


def missed(run: list[Sample]) -> list[str]:
    return [finding.what for finding in judge(run) if not finding.is_good]


async def test_in_a_short_soak_nothing_grows_and_the_books_are_equal(tmp_path: Path) -> None:
    told: list[str] = []
    result = await soak(tmp_path, seconds=6, seed=5, report=told.append)
    assert result.wrong == []
    done = result.done
    assert done.settlements >= 80
    assert done.requests > 2 * done.settlements, "no repetitions"
    assert min(done.messages, done.guests, done.backups) >= 2
    assert told


@pytest.mark.parametrize(
    ("what", "each"), [("memory MiB", 0.2), ("descriptors", 0.1), ("threads", 0.1)]
)
def test_what_grows_on_is_found(what: str, each: float) -> None:
    noise = random.Random(1)
    run = samples(lambda n, quiet: {what: quiet[what] + each * n + noise.uniform(-3, 3)})
    assert missed(run) == [f"growth of {what}"]


def test_what_only_varies_or_comes_with_the_warm_up_is_not() -> None:
    noise = random.Random(2)
    varying = samples(lambda _, quiet: {what: quiet[what] + noise.uniform(0, 5) for what in quiet})
    warming = samples(lambda n, quiet: {"memory MiB": quiet["memory MiB"] + min(n, 19) * 2})
    peak = samples(lambda n, quiet: {"descriptors": quiet["descriptors"] + 50 * (n == STEPS - 9)})
    assert missed(varying) == missed(warming) == missed(peak) == []


def test_a_log_that_was_once_too_long_and_a_file_that_grows_too_fast_are_found() -> None:
    assert missed(samples(lambda n, _: {"log MiB": 17.0 * (n == 3)})) == ["peak of log MiB"]
    assert missed(samples(lambda n, _: {"file MiB": 0.3 * n})) == ["file KiB a request"]
