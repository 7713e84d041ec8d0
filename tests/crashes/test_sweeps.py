"""A sample of the sweeps; ``make crashes`` tries every point."""

from collections.abc import Callable

import pytest

from tests.crashes.lab import CHANGES, require_strace
from tests.crashes.subject import Subject
from tests.crashes.sweeps import (
    ERRORS,
    INTERRUPTED_AT_POINTS,
    KILLED,
    Effort,
    sweep_errors,
    sweep_kills,
    sweep_points,
)

SEED = 1

Subjects = Callable[[str], Subject]


@pytest.mark.parametrize("name", KILLED)
def test_killed_at_a_system_call_it_loses_nothing(name: str, subject: Subjects) -> None:
    require_strace()
    sweep_kills(subject(name), Effort(2, SEED))


@pytest.mark.parametrize("name", ["accept", "back up"])
def test_killed_while_it_makes_a_file_it_makes_it_the_next_time(
    name: str, subject: Subjects
) -> None:
    require_strace()
    rare = tuple(call for call in CHANGES if call not in ("pwrite64", "write"))
    assert sweep_kills(subject(name), Effort(8, SEED), rare).points > 4


@pytest.mark.parametrize("name", ["accept", "deliver", "recover"])
def test_when_system_calls_fail_nothing_is_lost(name: str, subject: Subjects) -> None:
    require_strace()
    for kind in ERRORS:
        sweep_errors(subject(name), kind, Effort(1, SEED))


@pytest.mark.parametrize("name", INTERRUPTED_AT_POINTS)
def test_crashed_between_two_steps_it_pays_and_credits_once(name: str, subject: Subjects) -> None:
    sweep_points(subject(name), Effort(2, SEED))
