"""``python -m tests.simulation``: run many seeds, with progress, and show the first that fails."""

import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import click

from tests.simulation.run import Report, simulate

_TRACE_LINES = 60


@dataclass
class Totals:
    """What the runs so far add up to."""

    runs: int = 0
    simulated_s: float = 0.0
    steps: int = 0
    checks: int = 0
    transfers: int = 0
    injected: Counter[str] = field(default_factory=Counter)

    def add(self, report: Report) -> None:
        self.runs += 1
        self.simulated_s += report.simulated_s
        self.steps += report.steps
        self.checks += report.checks
        self.transfers += report.transfers
        self.injected += report.injected

    def line(self) -> str:
        faults = self.injected.total()
        return (
            f"{self.runs:,} runs, {self.simulated_s / 3600:,.0f} simulated hours, "
            f"{faults:,} faults, {self.transfers:,} payments, {self.checks:,} checks of the books"
        )


@click.command()
@click.option(
    "--seeds", type=click.IntRange(min=1), default=100, show_default=True, help="How many runs."
)
@click.option("--first", default=1, show_default=True, help="The first seed.")
@click.option("--seed", type=int, help="Run this seed alone.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="How many processes."
)
@click.option("--trace", is_flag=True, help="Show all that happens in each run.")
def main(seeds: int, first: int, seed: int | None, jobs: int, trace: bool) -> None:
    """Simulate daemons, connectors, peers and a ledger under every fault, a run per seed."""
    numbers = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    totals, started_s = Totals(), time.monotonic()
    progress = sys.stderr.isatty()
    for report in _reports(numbers, 1 if trace else jobs, keep_trace=trace):
        totals.add(report)
        if trace:
            click.echo("\n".join(report.trace))
        if report.failure is not None:
            _show(report, whole=trace)
            sys.exit(1)
        if progress or totals.runs % 50 == 0:
            click.echo(f"{totals.runs}/{len(numbers)}: {totals.line()}", err=True, nl=not progress)
            click.echo("\r" if progress else "", err=True, nl=False)
    click.echo(totals.line())
    for kind, count in sorted(totals.injected.items()):
        click.echo(f"  {count:>9,}  {kind}")
    click.echo(f"no promise was broken; it took {time.monotonic() - started_s:.0f} s")


def _reports(numbers: Iterable[int], jobs: int, *, keep_trace: bool) -> Iterator[Report]:
    if jobs == 1:
        yield from (simulate(number, keep_trace=keep_trace) for number in numbers)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(simulate, numbers)


def _show(report: Report, *, whole: bool) -> None:
    if not whole:
        click.echo("\n".join(report.trace[-_TRACE_LINES:]))
    click.echo(f"seed {report.seed} failed after {report.simulated_s:,.0f} simulated seconds:")
    click.echo(f"  {report.failure}")
    click.echo(f"repeat it: python -m tests.simulation --seed {report.seed} --trace")


if __name__ == "__main__":
    main()
