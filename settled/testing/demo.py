"""``python -m settled.testing.demo``: two daemons that pay each other, through thick and thin.

Three processes: two `settled run` daemons with loopback engines, and this one, which runs the two
connectors. Debts go both ways while replies are lost and payments fail, one daemon is killed with
signal 9 and started again, and at the end all books must be equal to the last digit.
"""

import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import click
import trio

from settled.errors import SettledError
from settled.testing.accounting import accounting_systems
from settled.testing.demo_daemon import DaemonProcess
from settled.testing.demo_directory import fresh_directory
from settled.testing.demo_report import differences, table
from settled.testing.demo_steps import Debt, Demo, Party, make_debts
from settled.testing.demo_terminal import settled_command

_ENGINE_OPTIONS: Final = {
    "funds": str(10**9),
    "poll_s": "0.1",
    "delay_s": "0.05",
    "failure_rate": "0.2",
}


def leaves(group: BaseExceptionGroup[SettledError]) -> Iterator[BaseException]:
    """Yield the errors in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


@asynccontextmanager
async def demo_parties(directory: Path, seed: int) -> AsyncIterator[Demo]:
    """Run both connectors; whatever daemons were started are gone when the block ends."""
    async with accounting_systems(("interledger-rs", "java"), seed=seed) as systems:
        ledger = directory / "ledger.db"
        alice, bob = (
            Party(
                system,
                DaemonProcess(
                    system.name, directory, system.url, {"ledger": str(ledger), **_ENGINE_OPTIONS}
                ),
            )
            for system in systems
        )
        for party in (alice, bob):
            party.system.engine_url = party.daemon.url
        try:
            yield Demo((alice, bob), ledger)
        finally:
            for party in (alice, bob):
                await party.daemon.kill()


async def run_demo(directory: Path, shown: Path, debts: list[Debt], seed: int) -> bool:
    """Run it in ``directory``, called ``shown``; return whether all books are equal."""
    async with demo_parties(directory, seed) as demo:
        await demo.set_up()
        await demo.stream(debts)
        await demo.rest()
        await demo.stop()
        demo.tell_faults()
        flows = await demo.flows()
        wrong = differences(flows, demo.on_ledger())
    click.echo(f"\n{table(flows)}\n")
    for difference in wrong:
        click.echo(f"DIFFERENT: {difference}")
    if not wrong:
        click.echo("All books are equal to the last digit, and so is the ledger.")
    click.echo("\nThe files are there to look into:")
    for party in demo.parties:
        click.echo(f"  {settled_command()} accounts list --db {shown / party.daemon.db.name}")
    click.echo(f"  the ledger is {shown / demo.ledger.name}, the logs are {shown / '*.log'}")
    return not wrong


async def _run_until_signal(directory: Path, shown: Path, debts: list[Debt], seed: int) -> int:
    exit_code = 130

    async def cancel_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        await anext(signals)
        scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_at_signal, signals, nursery.cancel_scope)
            exit_code = 0 if await run_demo(directory, shown, debts, seed) else 1
            nursery.cancel_scope.cancel()
    return exit_code


@click.command()
@click.option("--directory", default=".demo", show_default=True, help="Where the files go.")
@click.option(
    "--debts",
    default=300,
    show_default=True,
    type=click.IntRange(1),
    help="How many debts are settled.",
)
@click.option("--seed", default=1, show_default=True, help="Makes the debts, and the faults.")
def main(directory: str, debts: int, seed: int) -> None:
    """Show two settlement engines paying each other, and that no digit gets lost.

    Exit code 0 only if all books are equal at the end, 1 if not.
    """
    shown = Path(directory)
    try:
        with fresh_directory(shown) as path:
            click.echo(f"Two settlement engines pay each other; all files are in {shown}/\n")
            exit_code = trio.run(_run_until_signal, path, shown, make_debts(debts, seed), seed)
    except* SettledError as errors:
        for error in leaves(errors):
            click.echo(f"settled demo: {error}", err=True)
        exit_code = 1
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
