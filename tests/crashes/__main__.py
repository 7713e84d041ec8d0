"""The whole campaign: ``python -m tests.crashes`` (``make crashes``).

Every point of every sweep, 200 random kills and 100 stops, with a line for each part. What fails is
named with its files, and the command ends with 1. A part can be run alone:
``python -m tests.crashes --only errors --scenario recover``.
"""

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import trio

from tests.crashes.lab import Lab
from tests.crashes.scenarios import SCENARIOS
from tests.crashes.stopping import kill_at_random, stop_at_random
from tests.crashes.subject import Subject
from tests.crashes.sweeps import (
    ERRORS,
    FAILED_BY_ERRORS,
    INTERRUPTED_AT_POINTS,
    KILLED,
    Effort,
    sweep_errors,
    sweep_kills,
    sweep_points,
)

PARTS: Final = ("kills", "errors", "points", "random", "stops")
Part = tuple[str, Callable[[Path], object]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crashes", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="run only this part")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="only this one")
    parser.add_argument("--seed", type=int, help="of samples and random moments; else a new one")
    parser.add_argument("--sample", type=int, help="try so many points of each sweep; else all")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--settlements", type=int, default=10_000)
    parser.add_argument("--stops", type=int, default=100)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    _say(f"seed {seed}")
    failed, started_s = 0, time.monotonic()
    with Lab() as lab:
        for title, run in _parts(lab, options, seed):
            directory = Path(tempfile.mkdtemp(prefix="settled-crashes-"))
            try:
                _say(str(run(directory)))
            except Exception:
                failed += 1
                _say(traceback.format_exc())
                _say(f"FAILED {title}: seed {seed}, files in {directory}")
    _say(f"{failed} failed, {time.monotonic() - started_s:.0f} s in all")
    return 1 if failed else 0


def _parts(lab: Lab, options: argparse.Namespace, seed: int) -> Iterator[Part]:
    def kill(directory: Path) -> object:
        return trio.run(
            partial(
                kill_at_random,
                directory,
                kills=options.kills,
                settlements=options.settlements,
                seed=seed,
                progress=_progress,
            )
        )

    def stop(directory: Path) -> object:
        return trio.run(
            partial(
                stop_at_random,
                directory,
                stops=options.stops,
                settlements=options.stops * 20,
                seed=seed,
                progress=_progress,
            )
        )

    for part in options.only or PARTS:
        if part == "random":
            yield "random kills", kill
        elif part == "stops":
            yield "stops", stop
        else:
            effort = Effort(options.sample, seed, _progress)
            for name in options.scenario or SCENARIOS:
                yield from _sweeps(lab, part, name, effort)


def _sweeps(lab: Lab, part: str, name: str, effort: Effort) -> Iterator[Part]:
    if part == "kills" and name in KILLED:
        yield name, lambda root: sweep_kills(Subject(lab, name, root), effort)
    if part == "points" and name in INTERRUPTED_AT_POINTS:
        yield name, lambda root: sweep_points(Subject(lab, name, root), effort)
    if part == "errors" and name in FAILED_BY_ERRORS:
        for kind in ERRORS:
            yield name, partial(_sweep_errors, lab, name, kind, effort)


def _sweep_errors(lab: Lab, name: str, kind: str, effort: Effort, root: Path) -> object:
    return sweep_errors(Subject(lab, name, root), kind, effort)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()


def _say(text: str) -> None:
    _progress("")
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
