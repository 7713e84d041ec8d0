"""``python -m tests.soak`` (``make soak``): an hour of steady load, and what grows in it.

Two daemons settle with each other over a ledger, for connectors that send every request twice;
messages, accounts that come and go, and backups meanwhile. It exits with 1 if memory, descriptors
or threads go on growing after the first fifth of the time, if the database's log becomes too long,
if requests become slow, if anything is answered wrongly, or if the books differ at the end.
"""

import dataclasses
import json
import random
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import click
import trio
from tabulate import tabulate

from tests.soak.soak import Soak, soak


@click.command(help=__doc__)
@click.option("--seconds", type=click.FloatRange(min=5), default=3600, show_default=True)
@click.option("--seed", type=int, default=None, help="Of amounts and accounts; else a new one.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, samples included.")
def main(seconds: float, seed: int | None, as_json: bool) -> None:
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    directory = Path(tempfile.mkdtemp(prefix="settled-soak-"))
    _report(f"seed {seed}, files in {directory}")
    result = trio.run(partial(soak, directory, seconds=seconds, seed=seed, report=_report))
    if as_json:
        findings = {
            name: [dataclasses.asdict(one) for one in found]
            for name, found in result.findings.items()
        }
        json.dump({**dataclasses.asdict(result), "findings": findings}, sys.stdout, indent=2)
        click.echo()
    else:
        _print(result)
    if result.wrong:
        sys.exit(1)
    shutil.rmtree(directory)


def _report(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)


def _print(result: Soak) -> None:
    rows = [
        [name, one.what, one.first, one.last, one.value, one.bound, "" if one.is_good else "MISSED"]
        for name, found in result.findings.items()
        for one in found
    ]
    head = ["daemon", "", "after a fifth", "at the end", "", "at most", ""]
    click.echo(tabulate(rows, head, floatfmt=".2f"))
    done = ", ".join(f"{n:,} {what}" for what, n in dataclasses.asdict(result.done).items())
    first, last = result.p99_ms
    click.echo(f"{result.seconds:.0f} s: {done}")
    click.echo(f"p99 of a request: {first:.1f} ms in the first tenth, {last:.1f} ms in the last")
    for wrong in result.wrong:
        click.echo(f"WRONG: {wrong}")
    if not result.wrong:
        click.echo("Nothing grows, and all books are equal to the last digit.")


if __name__ == "__main__":
    main()
