"""``make bench [ONLY=...] [ROUNDS=n] [SECONDS=n] [JSON=FILE]``: settled beside its peers.

Every figure stands for something that was checked: no request may fail, and what was acknowledged
must be on record afterwards.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import click

from benchmarks import machine, page, report, tools
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figures
from benchmarks.measures import credits, growth, messages, settlements, slow
from benchmarks.plan import Plan
from benchmarks.report import Bar
from benchmarks.sides import Side
from benchmarks.sides.daemon import SETTLED, WITHOUT_LANE, has_lane
from benchmarks.sides.floor import BARE
from benchmarks.sides.original import AS_SHIPPED, ORIGINAL


class Measure(NamedTuple):
    """One thing to measure, and on which sides."""

    run: Callable[[Sequence[Side], Plan], None]
    bars: Callable[[Figures], Iterator[Bar]]
    sides: tuple[Side, ...] = ()


MEASURES: Final = {
    settlements.MEASURE: Measure(
        settlements.run, settlements.bars, (SETTLED, WITHOUT_LANE, ORIGINAL, AS_SHIPPED, BARE)
    ),
    credits.MEASURE: Measure(credits.run, credits.bars, (SETTLED, ORIGINAL)),
    messages.MEASURE: Measure(messages.run, messages.bars, (SETTLED, ORIGINAL)),
    growth.MEASURE: Measure(growth.run, growth.bars),
    slow.MEASURE: Measure(slow.run, slow.bars),
}
TITLES: Final = (
    {side.name: side.title for measure in MEASURES.values() for side in measure.sides}
    | growth.TITLES
    | slow.TITLES
)


def main() -> int:
    """Measure, print what was found, and write it down where that is asked for.

    The exit code is 1 when a bar was missed, and 2 when there are no figures.
    """
    arguments = _arguments()
    try:
        return _run(arguments)
    except BenchmarkError as error:
        click.echo(f"benchmarks: {error}", err=True)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    chosen = [MEASURES[name] for name in arguments.only or MEASURES]
    lacking = set() if has_lane() else {WITHOUT_LANE.name}
    tools.provide(tools.LOAD)
    if any(ORIGINAL in measure.sides for measure in chosen):
        tools.provide(tools.ORIGINAL)
        tools.provide_peer()
    began_s, at = time.monotonic(), datetime.now(UTC)
    figures = Figures()
    plan = Plan(arguments.rounds, arguments.seconds, figures, _sayer(began_s))
    for measure in chosen:
        measure.run([side for side in measure.sides if side.name not in lacking], plan)
    bars = [bar for measure in chosen for bar in measure.bars(figures)]
    series, about = figures.all(), machine.describe()
    when, command = f"{at:%Y-%m-%d %H:%M} UTC", _command(arguments)
    tables = (report.machine_table(about), report.figures_table(series, TITLES))
    shown = report.bars_table(bars) if bars else "No bar belongs to what was measured."
    click.echo("\n" + "\n\n".join([f"{command}, {when}:", *tables, shown]))
    if arguments.json is not None:
        found = report.as_json(series, bars, about, command=command, at=when)
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    if arguments.page:
        page.write(series, bars, about, TITLES, command=command, at=when)
    return 0 if all(bar.holds for bar in bars) else 1


def _sayer(began_s: float) -> Callable[[str], None]:
    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began_s:6.0f} s  {text}")

    return say


def _command(arguments: argparse.Namespace) -> str:
    only = f" ONLY={','.join(arguments.only)}" if arguments.only else ""
    return f"make bench{only} ROUNDS={arguments.rounds} SECONDS={arguments.seconds}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", type=_measures, help=f"some of {', '.join(MEASURES)}")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--seconds", type=int, default=10, help="how long each load lasts")
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    parser.add_argument(
        "--page", action="store_true", help="write it into docs/performance.md, with a chart"
    )
    return parser.parse_args()


def _measures(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no measure {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
