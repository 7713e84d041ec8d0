"""One run: a load, the two daemons under it, and what they take of the machine all the while.

At the end the books of all sides are compared to the unit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from settled.testing import connect_peers
from tests.crashes.pair import SIDES, Pair, settling_pair
from tests.hostile.healthy import percentile_ms
from tests.soak.load import PROBED, Done, Load
from tests.soak.samples import Finding, Sample, judge, take_sample

SAMPLE_PAUSE_S: Final = 5.0
SAMPLES_MIN: Final = 40
_FUNDS: Final = "1000000000"
_REPORT_PAUSE_S: Final = 60.0
_SLOWER_MAX: Final = 3.0
_SLOWER_MS_MAX: Final = 20.0
_JUDGED_MIN: Final = 1000  # of fewer requests, the slowest one says nothing

Report = Callable[[str], None]


@dataclass
class Soak:
    """What a run has found.

    Attributes:
        seconds: how long the load lasted.
        samples: of each daemon.
        done: what the load did.
        p99_ms: of the probe's requests in the first and in the last tenth of the run, less the time
            for which the machine gave neither it nor the daemon a processor.
        wrong: what is not as it must be, a line each.
    """

    seconds: float
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {name: [] for name in SIDES})
    done: Done = field(default_factory=Done)
    p99_ms: tuple[float, float] = (0.0, 0.0)
    wrong: list[str] = field(default_factory=list)

    @property
    def findings(self) -> dict[str, list[Finding]]:
        return {name: judge(samples) for name, samples in self.samples.items()}


async def soak(directory: Path, *, seconds: float, seed: int, report: Report) -> Soak:
    """Run it with files in ``directory``; ``report`` is given a line a minute."""
    result = Soak(seconds)
    async with settling_pair(directory, seed, funds=_FUNDS) as pair:
        alice, bob = pair.systems.values()
        await connect_peers(alice, PROBED, bob, PROBED)
        load = Load(pair, seconds)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, pair, load, result, report)
            await load.run()
            nursery.cancel_scope.cancel()
        result.done = load.done
        result.wrong += load.wrong
        _judge_latencies(result, load.probe.own_latencies_s)
        report("the load has ended, what is left is settled")
        await _compare_books(pair, result)
    for name, findings in result.findings.items():
        result.wrong += [f"{name}: {found}" for found in findings if not found.is_good]
    return result


async def _watch(pair: Pair, load: Load, result: Soak, report: Report) -> None:
    began_s = told_s = trio.current_time()
    while True:
        load.count()
        now_s = trio.current_time()
        for name, daemon in pair.daemons.items():
            assert daemon.pid is not None
            sample = take_sample(daemon.pid, daemon.db, now_s - began_s, load.done.requests)
            result.samples[name].append(sample)
        if now_s - told_s >= _REPORT_PAUSE_S:
            told_s = now_s
            report(f"{(now_s - began_s) / 60:.0f} min: {_told(load.done, result)}")
        await trio.sleep(min(SAMPLE_PAUSE_S, result.seconds / SAMPLES_MIN))


def _told(done: Done, result: Soak) -> str:
    daemons = [
        f"{name} " + ", ".join(f"{amount:.1f} {what}" for what, amount in samples[-1].taken.items())
        for name, samples in result.samples.items()
    ]
    return f"{done.requests:,} requests; {'; '.join(daemons)}"


def _judge_latencies(result: Soak, latencies_s: list[float]) -> None:
    tenth = max(len(latencies_s) // 10, 1)
    first, last = (percentile_ms(part, 99) for part in (latencies_s[:tenth], latencies_s[-tenth:]))
    result.p99_ms = first, last
    if tenth >= _JUDGED_MIN and last > _SLOWER_MAX * first + _SLOWER_MS_MAX:
        result.wrong.append(f"p99 went from {first:.1f} to {last:.1f} ms")


async def _compare_books(pair: Pair, result: Soak) -> None:
    try:
        await pair.rest()
        for daemon in pair.daemons.values():
            await daemon.stop()
        await pair.check()
    except (AssertionError, trio.TooSlowError) as error:
        result.wrong.append(f"the books differ: {error!r}")
