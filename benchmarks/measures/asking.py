"""Credits and messages to the connector: how long until it has answered the last of them."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks.errors import BenchmarkError
from benchmarks.processes import Process, running
from benchmarks.requests import get, post
from benchmarks.sides.daemon import ROOT

AT_ONCE: Final = 128
_LOOK_S: Final = 0.02
_STALLED_S: Final = 30
_FIRST: Final = 500


@contextmanager
def connector(directory: Path) -> Iterator[Process]:
    """Run the connector that answers at once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.connector"]
    with running(command, directory, environment={"PYTHONPATH": str(ROOT)}) as process:
        yield process


@dataclass(frozen=True, slots=True)
class Asked:
    """How it went.

    Attributes:
        rate: how many a second were answered.
        connector_share: how much of a processor the connector used; near 1 it held them up.
    """

    rate: float
    connector_share: float


def ask(url: str, of: Process, work: Literal["credit", "send"], count: int) -> Asked:
    """Have the engine at ``url`` send so many credits or messages, and wait for the last answer.

    Raises:
        BenchmarkError: when nothing comes for long, or more comes than was asked for.
    """
    counted = "different" if work == "credit" else "messages"
    before = _counts(of)[counted]
    began_ns, cpu_s = time.monotonic_ns(), of.cpu_s()
    post(url, "/accounts/a0/messages", {"type": work, "count": count, "at_once": AT_ONCE})
    counts = wait_for(of, counted, before + count)
    seconds = (counts["last_ns"] - began_ns) / 1e9
    return Asked(count / seconds, (of.cpu_s() - cpu_s) / seconds)


def wait_for(of: Process, counted: str, wanted: int) -> dict[str, int]:
    """Return what the connector has counted once it has come to what is wanted.

    Raises:
        BenchmarkError: when nothing comes for long, or more comes than is wanted.
    """
    counts, heard_s = _counts(of), time.monotonic()
    while counts[counted] < wanted:
        if time.monotonic() - heard_s > _STALLED_S:
            raise BenchmarkError(f"{counts[counted]} of {wanted} came, and then no more")
        time.sleep(_LOOK_S)
        former, counts = counts, _counts(of)
        if counts != former:
            heard_s = time.monotonic()
    if counts[counted] > wanted:
        raise BenchmarkError(f"{wanted} were wanted, but {counts[counted]} came")
    return counts


def _counts(of: Process) -> dict[str, int]:
    counts: dict[str, int] = json.loads(get(of.url, "/counts"))
    return counts


def ask_for(url: str, of: Process, work: Literal["credit", "send"], seconds: int) -> Asked:
    """Ask for a few first, and then for as many as take about so many seconds.

    Raises:
        BenchmarkError: as ``ask`` does.
    """
    first = ask(url, of, work, _FIRST)
    return ask(url, of, work, max(_FIRST, round(first.rate * seconds)))


def heard_in(of: Process, seconds: int) -> float:
    """Return how many different credits a second a connector hears, over so many seconds."""
    before = _counts(of)["different"]
    time.sleep(seconds)
    return (_counts(of)["different"] - before) / seconds
