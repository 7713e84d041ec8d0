"""Campaigns that end daemons at random moments while they settle: by SIGKILL, and as one should."""

import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.crashes.pair import SIDES, Pair, audited, settling_pair

WHILE_STARTING: Final = 0.25  # so many of the kills come during a start,
START_S: Final = 0.8  # within this time from its begin;
UP_S: Final = 1.0  # the others within this time from when it serves
GRACE_S: Final = 10.0  # what `settled run` has to end
SECOND_SIGNAL_S: Final = 1.0

Progress = Callable[[str], None]


@dataclass
class Report:
    """What a campaign has done.

    Attributes:
        ends: how often a daemon was ended.
        starting: how many of these came while it started.
        codes: how it ended: exit codes, or negative signals.
        slowest_s: how long the slowest end took.
        settlements: how many were asked for.
        requests: how many requests for settlements were answered with 201.
        took_s: all of it.
    """

    ends: int = 0
    starting: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    slowest_s: float = 0.0
    settlements: int = 0
    requests: int = 0
    took_s: float = 0.0

    def __str__(self) -> str:
        codes = ", ".join(f"{n} with {code}" for code, n in sorted(self.codes.items()))
        return (
            f"{self.ends} ends ({codes}), {self.starting} of them during a start, the slowest "
            f"took {self.slowest_s:.1f} s; {self.settlements} settlements asked for "
            f"{self.requests} times; {self.took_s:.0f} s"
        )


async def kill_at_random(
    directory: Path, *, kills: int, settlements: int, seed: int, progress: Progress
) -> Report:
    """Kill both daemons again and again while they settle; the seed repeats the moments."""
    report = Report()

    async def kill_one(pair: Pair, name: str, count: int) -> None:
        daemon, rng = pair.daemons[name], random.Random(f"{seed} {name}")
        for _ in range(count):
            if rng.random() < WHILE_STARTING:
                await daemon.kill()
                async with trio.open_nursery() as nursery:
                    await nursery.start(daemon.begin)
                    await trio.sleep(rng.uniform(0, START_S))
                    await daemon.kill()
                report.starting += 1
            else:
                await trio.sleep(rng.uniform(0, UP_S))
                await daemon.kill()
            report.ends += 1
            report.codes[-signal.SIGKILL] += 1
            progress(f"{report.ends} of {kills} kills, {pair.posts()[0]} settlements")
            await daemon.start()

    pairing = settling_pair(directory, seed)
    await _campaign(report, pairing, kill_one, ends=kills, settlements=settlements)
    return report


async def stop_at_random(
    directory: Path, *, stops: int, settlements: int, seed: int, progress: Progress
) -> Report:
    """Stop both daemons again and again with SIGTERM or SIGINT, some with a second signal.

    One signal: exit code 0 within the grace and a second, and nothing left in the log. A second one
    may end it at once.
    """
    report = Report()

    async def stop_one(pair: Pair, name: str, count: int) -> None:
        daemon, rng = pair.daemons[name], random.Random(f"{seed} {name}")
        for _ in range(count):
            number = rng.choice((signal.SIGTERM, signal.SIGINT))
            await trio.sleep(rng.uniform(0, UP_S))
            began_s = trio.current_time()
            daemon.send(number)
            expected = {0}
            if rng.random() < 0.3:
                await trio.sleep(rng.uniform(0, SECOND_SIGNAL_S))
                daemon.send(number)
                expected |= {128 + number, -number}  # the last when it had closed everything
            code = await daemon.ended(GRACE_S + 1)
            assert code in expected, (code, expected, daemon.log.read_text()[-2000:])
            if code <= 0:
                log = daemon.db.with_name(f"{daemon.db.name}-wal")
                assert not log.exists(), "the log was not moved into the file"
            audited(daemon.db)
            report.ends += 1
            report.codes[code] += 1
            report.slowest_s = max(report.slowest_s, trio.current_time() - began_s)
            progress(f"{report.ends} of {stops} stops, {pair.posts()[0]} settlements")
            await daemon.start()

    pairing = settling_pair(directory, seed, delay_s="0.3")
    await _campaign(report, pairing, stop_one, ends=stops, settlements=settlements)
    return report


async def _campaign(
    report: Report,
    pairing: AbstractAsyncContextManager[Pair],
    end_one: Callable[[Pair, str, int], Awaitable[None]],
    *,
    ends: int,
    settlements: int,
) -> None:
    """Let the sides settle while one task for each ends its daemon; then compare all books."""
    began_s = time.monotonic()
    async with pairing as pair:
        async with trio.open_nursery() as nursery:
            for n, name in enumerate(SIDES):
                nursery.start_soon(end_one, pair, name, ends // 2 + (ends % 2 and n == 0))
            nursery.start_soon(pair.owe, settlements, ends / 2 * UP_S)
        await pair.rest()
        for daemon in pair.daemons.values():
            await daemon.stop()
        await pair.check()
        report.settlements, report.requests = pair.posts()
    report.took_s = time.monotonic() - began_s
