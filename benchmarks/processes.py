"""Processes that the benchmarks start: until they listen, what they cost, and their end."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.errors import BenchmarkError

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_END_S: Final = 30


@dataclass(frozen=True)
class Process:
    """A process that has said it is ready, after ``started_s`` seconds."""

    popen: subprocess.Popen[str]
    url: str
    started_s: float

    def peak_bytes(self) -> int:
        """Return the most memory that it has held."""
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise BenchmarkError(f"process {self.popen.pid} has gone: see its log")

    def cpu_s(self) -> float:
        """Return how much time of a processor it has used."""
        stat = Path(f"/proc/{self.popen.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _TICKS_PER_S


@contextmanager
def running(
    command: Sequence[str | Path],
    directory: Path,
    *,
    ready: str = "listens on ",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """Run a command in ``directory`` until the block ends; its log is kept there.

    Args:
        command: the program and its arguments.
        directory: where it runs.
        ready: what the line that says it is ready has in front of its URL.
        environment: variables besides ours.

    Raises:
        BenchmarkError: when it ends before it is ready.
    """
    log_path = directory / f"{Path(command[0]).name}.log"
    began_s = time.monotonic()
    with (
        log_path.open("a") as log,
        subprocess.Popen(
            [str(part) for part in command],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **(environment or {})},
        ) as popen,
    ):
        try:
            yield _when_ready(popen, ready, began_s, log_path)
        finally:
            popen.terminate()
            try:
                popen.wait(_END_S)
            except subprocess.TimeoutExpired:
                popen.kill()


def _when_ready(
    popen: subprocess.Popen[str], ready: str, began_s: float, log_path: Path
) -> Process:
    assert popen.stdout is not None  # noqa: S101 - it is a pipe
    for line in popen.stdout:
        if ready in line:
            after = line.split(ready, 1)[1].split(",")[0].strip()
            return Process(popen, after, time.monotonic() - began_s)
    last = (log_path.read_text().strip().splitlines() or ["no reason given"])[-1]
    raise BenchmarkError(f"{popen.args!r} ended before it was ready: {last}")
