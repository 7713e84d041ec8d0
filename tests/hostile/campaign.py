"""``python -m tests.hostile.campaign [SECONDS] [ATTACK...]``: every attack, and what it costs.

A daemon, an attacker and a healthy client are a process each. The table shows how many requests of
the healthy client were answered, how long that took (``own p99`` without the time for which the
machine gave the daemon or the client no processor), how far the daemon's memory grew, and how many
more descriptors it has afterwards. It exits with 1 when an answer was wrong or a bar was missed.
"""

import sys
import tempfile
from pathlib import Path

import click
import trio
from tabulate import tabulate

from tests.daemon_process import DaemonProcess, daemon_process
from tests.hostile.attacks import ATTACKS
from tests.hostile.healthy import Cost, Healthy, descriptors, open_account, percentile_ms

P99_MS_MAX = 100
GROWTH_MIB_MAX = 20
SETTLES_IN_S = 10  # by then the connections of the attackers are gone
SPARE_FDS = 5  # that the daemon may have opened for its own work

HEAD = [
    "attack",
    "requests",
    "again",
    "wrong",
    "p50 ms",
    "p99 ms",
    "own p99",
    "MiB",
    "fds",
    "",
]


async def measure(name: str | None, daemon: DaemonProcess, seconds: float) -> list[object]:
    """Return the row of one attack, or of peace."""
    port = int(daemon.url.rpartition(":")[2])
    await open_account(port)
    warm = Healthy(port, daemon.process.pid)
    with trio.move_on_after(2):
        await warm.run(0)
    fds_before = descriptors(daemon.process.pid)
    cost = Cost(daemon.process.pid)
    healthy = Healthy(port, daemon.process.pid)
    command = [sys.executable, "-m", "tests.hostile.attacks", str(name), str(port), str(seconds)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cost.watch)
        nursery.start_soon(healthy.run)
        if name is None:
            await trio.sleep(seconds)
        else:
            await trio.run_process(command, check=False)
        nursery.cancel_scope.cancel()
    with trio.move_on_after(SETTLES_IN_S):
        while descriptors(daemon.process.pid) > fds_before + SPARE_FDS:  # noqa: ASYNC110
            await trio.sleep(0.1)
    p99_ms = percentile_ms(healthy.own_latencies_s, 99)
    good = (
        daemon.process.poll() is None
        and not healthy.refused
        and p99_ms < P99_MS_MAX
        and cost.growth_mib < GROWTH_MIB_MAX
        and descriptors(daemon.process.pid) <= fds_before + SPARE_FDS
    )
    return [
        name or "(peace)",
        len(healthy.latencies_s),
        healthy.again,
        len(healthy.refused),
        percentile_ms(healthy.latencies_s, 50),
        percentile_ms(healthy.latencies_s, 99),
        p99_ms,
        cost.growth_mib,
        descriptors(daemon.process.pid) - fds_before,
        "" if good else "MISSED",
    ]


@click.command()
@click.argument("seconds", type=click.FloatRange(min=0, min_open=True), default=10)
@click.argument("attacks", nargs=-1, type=click.Choice(list(ATTACKS)), metavar="[ATTACK]...")
def main(seconds: float, attacks: tuple[str, ...]) -> None:
    """Measure what each ATTACK costs a healthy client, in SECONDS each; without any, all."""
    names: list[str | None] = [None, *(attacks or ATTACKS)]
    rows = []
    for name in names:
        with (
            tempfile.TemporaryDirectory() as directory,
            daemon_process(Path(directory), "--engine", "loopback") as daemon,
        ):
            rows.append(trio.run(measure, name, daemon, seconds))
        sys.stderr.write(f"{name or 'peace'} {rows[-1][1:]}\n")
    sys.stdout.write(tabulate(rows, HEAD, floatfmt=".1f") + "\n")
    sys.exit(1 if any(row[-1] for row in rows) else 0)


if __name__ == "__main__":
    main()
