"""The load: wrk with a key of its own for each request, and what it reports."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks.errors import BenchmarkError

_SCRIPT: Final = Path(__file__).with_name("load.lua")
_MARK: Final = "load: "
_PATIENCE_S: Final = 30


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw.

    Attributes:
        requests: how many were answered.
        sent: how many were made; at the end, one for each connection may be unanswered.
        seconds: how long it took.
        p50_ms: the median time to an answer.
        p99_ms: the time that one of a hundred answers took at least.
        max_ms: the slowest answer.
    """

    requests: int
    sent: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


def parse(output: str) -> Load:
    """Return what the line of JSON in wrk's output says.

    Raises:
        BenchmarkError: when it is not there, or any request failed.
    """
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise BenchmarkError(f"wrk gave no figures: {output.strip()[:200]}")
    found = json.loads(line.removeprefix(_MARK))
    if found["refused"] or found["broken"]:
        raise BenchmarkError(
            f"no error is allowed, but {found['refused']} answers were no success and "
            f"{found['broken']} requests got none"
        )
    if not found["requests"]:
        raise BenchmarkError("wrk got no answer at all")
    return Load(
        requests=found["requests"],
        sent=found["sent"],
        seconds=found["duration_us"] / 1e6,
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        max_ms=found["max_us"] / 1e3,
    )


@dataclass(frozen=True, slots=True)
class Accounts:
    """To whom requests go: so many accounts in turn, of which every ``step``-th one is meant.

    They are called a0, a1, ...
    """

    count: int
    step: int = 1


def run(
    url: str,
    *,
    kind: Literal["settlements", "messages"],
    prefix: str,
    accounts: Accounts,
    connections: int,
    seconds: int,
    pause_ms: int = 0,
) -> Load:
    """Send requests of one kind over a number of connections for some seconds.

    Args:
        url: whom to.
        kind: what.
        prefix: what the idempotency keys begin with.
        accounts: to which accounts.
        connections: how many at once.
        seconds: for how long.
        pause_ms: how long each connection rests between its requests.

    Raises:
        BenchmarkError: when any request failed.
    """
    wrk = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={_PATIENCE_S}s"]
    told = [kind, prefix, str(accounts.count), str(accounts.step), str(pause_ms)]
    arguments = [*wrk, "-s", str(_SCRIPT), url, "--", *told]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchmarkError(f"wrk failed: {result.stderr.strip() or result.stdout.strip()}")
    return parse(result.stdout)
