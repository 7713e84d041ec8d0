"""Every mutant against the tests that can notice it, and what came of it."""

import os
import random
import shutil
import signal
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

import pytest

from tests.mutation import suite
from tests.mutation.expressions import Mutant
from tests.mutation.mutants import mutants_of

State = Literal["killed", "timed out", "survived"]

_ACCEPTED: Final = Path(__file__).parent / "accepted.toml"
# What pytest ends with, after all tests, when a file or a socket was not closed by any of them.
_LEFT_OPEN: Final = "PytestUnraisableExceptionWarning"
_POLL_S: Final = 0.01
_START_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one mutant: by which test it was noticed, or why it need not be."""

    file: str
    line: int
    old: str
    new: str
    state: State
    test: str
    reason: str | None


@cache
def source(file: str) -> bytes:
    return (suite.ROOT / file).read_bytes()


def chosen(file: str, sample: int | None, seed: int) -> list[Mutant]:
    """Return the mutants of a file, or a sample of them that depends on nothing but the seed."""
    mutants = mutants_of(file, source(file))
    if sample is not None:
        random.Random(f"{seed} {file}").shuffle(mutants)
    return mutants[:sample]


def accepted() -> dict[tuple[str, str, str], str]:
    """Return why some mutants may live, by file, line and changed line."""
    with _ACCEPTED.open("rb") as file:
        entries = tomllib.load(file)["mutant"]
    return {(e["file"], e["old"], e["new"]): e["reason"] for e in entries}


class Runner:
    """Tries mutants, each on a copy of the tree of its own, some at a time."""

    def __init__(self, baseline: suite.Baseline, tree: Path, *, jobs: int, within_s: float) -> None:
        self._baseline = baseline
        self._within_s = within_s
        self._accepted = accepted()
        self._free = [
            Path(shutil.copytree(tree, tree.with_name(f"job-{n}"), symlinks=True))
            for n in range(jobs)
        ]
        self._running: dict[int, tuple[Mutant, Path, float]] = {}

    def run(self, mutants: Sequence[Mutant]) -> Iterator[Result]:
        """Yield the result of each mutant as it comes."""
        waiting = list(reversed(mutants))
        while waiting or self._running:
            while waiting and self._free:
                mutant = waiting.pop()
                tests = self._baseline.tests_for(mutant.file, mutant.lines, self._within_s)
                if tests:
                    self._start(mutant, tests, self._free.pop())
                else:
                    yield self._result(mutant, "survived", "")
            yield from self._ended()
            time.sleep(_POLL_S)

    def _start(self, mutant: Mutant, tests: list[str], tree: Path) -> None:
        module = tree / mutant.file
        module.write_bytes(mutant.apply(module.read_bytes()))
        for compiled in (module.parent / "__pycache__").glob(f"{module.stem}.*.pyc"):
            compiled.unlink()
        (tree / "verdict").write_text("its import")
        pid = suite.start(tree, tests, self._baseline)
        expected_s = sum(self._baseline.durations_s[test] for test in tests)
        self._running[pid] = mutant, tree, time.monotonic() + _START_S + 3 * expected_s

    def _ended(self) -> Iterator[Result]:
        for pid, (mutant, tree, deadline_s) in [*self._running.items()]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            late = not ended and time.monotonic() > deadline_s
            if not ended and not late:
                continue
            # What the tests have started goes with them.
            _end(pid)
            if late:
                os.waitpid(pid, 0)
            del self._running[pid]
            state: State = "killed"
            if late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM):
                state = "timed out"
            elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == pytest.ExitCode.OK:
                state = "survived"
            elif os.WIFEXITED(status) and os.WEXITSTATUS(status) in (5, 70):
                output = (tree / "output").read_text()
                if _LEFT_OPEN not in output:
                    raise RuntimeError(f"{mutant}: {output[-2000:]}")
            (tree / mutant.file).write_bytes(source(mutant.file))
            self._free.append(tree)
            yield self._result(mutant, state, (tree / "verdict").read_text())

    def _result(self, mutant: Mutant, state: State, test: str) -> Result:
        old, new = mutant.describe(source(mutant.file))
        reason = self._accepted.get((mutant.file, old, new)) if state == "survived" else None
        return Result(mutant.file, mutant.line, old, new, state, test, reason)


def _end(pid: int) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


@contextmanager
def prepared(files: list[str], known: Path) -> Iterator[tuple[suite.Baseline, Path]]:
    """Copy the tree into memory and run the tests on it once, to know what each of them runs."""
    with tempfile.TemporaryDirectory(prefix="mutate-", dir=suite.memory()) as directory:
        suite.preload()
        tree = Path(directory) / "tree"
        tree.mkdir()
        suite.copy_tree(tree)
        yield suite.record(tree, files, known), tree
