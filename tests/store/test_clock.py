"""The clocks that the steady clock goes by."""

import doctest
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from settled.store import clock


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forget which boot it is, before and after."""
    clock._boot.cache_clear()
    yield
    clock._boot.cache_clear()


def test_the_example_is_right() -> None:
    assert doctest.testmod(clock) == (0, 1)


def test_the_wall_clock_is_that_of_the_system() -> None:
    assert abs(clock.wall_ms() - time.time() * 1000) < 5000


def test_the_uptime_goes_on_by_milliseconds_within_a_boot() -> None:
    first = clock.uptime()
    time.sleep(0.02)
    second = clock.uptime()
    assert first.boot == second.boot != ""
    assert 10 <= second.ms - first.ms < 5000


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="the system has no such clock")
def test_the_uptime_counts_the_time_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks_ns = {time.CLOCK_BOOTTIME: 7_000_000}
    monkeypatch.setattr(time, "clock_gettime_ns", clocks_ns.__getitem__)
    assert clock.uptime().ms == 7


def test_a_boot_that_the_system_does_not_name_is_no_other_process_s(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(path: Path, *arguments: Any) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    boot = clock.uptime().boot
    assert uuid.UUID(boot)
    assert clock.uptime().boot == boot
    clock._boot.cache_clear()
    assert clock.uptime().boot != boot
