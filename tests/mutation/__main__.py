"""``make mutate [FILES="..."] [SAMPLE=n] [SEED=s] [JOBS=n]``: how much of the code the tests watch.

Without FILES, all of the amounts, the ids, the store and the core. The survivors, with all else,
stand in ``.mutation/`` afterwards. One that changes nothing that matters is entered in
``accepted.toml`` with the reason; for any other a test is missing, or the code is not needed.
"""

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from tests.mutation import suite
from tests.mutation.campaign import Result, Runner, chosen, prepared, source
from tests.mutation.expressions import Mutant

_SCOPE: Final = ("settled/amounts.py", "settled/ids.py", "settled/core", "settled/store")
_RATE_MIN: Final = 0.9


def main() -> int:
    """Run the campaign; return 1 if too many mutants live."""
    arguments = _arguments()
    files = scope(arguments.files or _SCOPE)
    out: Path = arguments.out
    out.mkdir(exist_ok=True)
    mutants = [m for file in files for m in chosen(file, arguments.sample, arguments.seed)]
    if arguments.survivors:
        mutants = _survivors(mutants, out / "results.jsonl")
    click.echo(f"seed {arguments.seed}; running the tests once on the code as it is")
    results: list[Result] = []
    with prepared(files, out) as (baseline, tree), (out / "results.jsonl").open("w") as log:
        for test in baseline.failed:
            click.echo(f"not used, since it fails already: {test}")
        runner = Runner(baseline, tree, jobs=arguments.jobs, within_s=arguments.within_s)
        started_s = time.monotonic()
        for result in runner.run(mutants):
            results.append(result)
            log.write(json.dumps(asdict(result)) + "\n")
            log.flush()
            _progress(results, len(mutants), time.monotonic() - started_s)
    report = _report(results)
    (out / "report.txt").write_text(report)
    click.echo("\n" + report)
    return 0 if _rate(results) >= _RATE_MIN else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutate", description=__doc__)
    parser.add_argument("files", nargs="*", help="modules or directories, from the root")
    parser.add_argument("--sample", type=int, help="mutants of each module; default: all")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument(
        "--within-s", type=float, default=math.inf, help="of tests for each mutant; default: all"
    )
    parser.add_argument(
        "--survivors", action="store_true", help="only those that survived the last time"
    )
    parser.add_argument("--out", type=Path, default=suite.ROOT / ".mutation")
    return parser.parse_args()


def scope(names: Sequence[str] = _SCOPE) -> list[str]:
    """Return the modules that are meant, from the root."""
    found: list[str] = []
    for name in names:
        path = suite.ROOT / name
        modules = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        found += [str(module.relative_to(suite.ROOT)) for module in modules]
    return found


def _survivors(mutants: Sequence[Mutant], last: Path) -> list[Mutant]:
    """Return the mutants that survived the last time, by what they change."""
    results = map(json.loads, last.read_text().splitlines())
    survived = {(r["file"], r["old"], r["new"]) for r in results if r["state"] == "survived"}
    return [m for m in mutants if (m.file, *m.describe(source(m.file))) in survived]


def _progress(results: Sequence[Result], total: int, elapsed_s: float) -> None:
    last = results[-1]
    if last.state == "survived" and last.reason is None:
        click.echo(f"\r{last.file}:{last.line} survived\n  - {last.old}\n  + {last.new}")
    left_s = elapsed_s / len(results) * (total - len(results))
    lived = sum(result.state == "survived" for result in results)
    line = f"{len(results)}/{total} tried, {lived} survived, {left_s / 60:.0f} min left"
    if sys.stdout.isatty():
        click.echo(f"\r{line}\033[K", nl=False)
    elif len(results) % 100 == 0:
        click.echo(line)


def _rate(results: Sequence[Result]) -> float:
    return sum(result.state != "survived" for result in results) / max(len(results), 1)


def _report(results: Sequence[Result]) -> str:
    """Return a table of the modules, and each survivor."""
    lines = [f"{'module':<36} mutants killed timed out accepted survived   rate"]
    for file in [*dict.fromkeys(result.file for result in results), "all"]:
        of_file = [result for result in results if file in (result.file, "all")]
        states = Counter(result.state for result in of_file)
        excused = sum(result.reason is not None for result in of_file)
        lines.append(
            f"{file:<36} {len(of_file):>7} {states['killed']:>6} {states['timed out']:>9} "
            f"{excused:>8} {states['survived'] - excused:>8} {_rate(of_file):>6.1%}"
        )
    for excuse in (False, True):
        lines += ["", "Accepted:" if excuse else "Survived:"]
        for result in results:
            if result.state == "survived" and (result.reason is not None) is excuse:
                lines += [f"{result.file}:{result.line}", f"  - {result.old}", f"  + {result.new}"]
                lines += [f"  {result.reason}"] if excuse else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
