"""An engine that pays slowly and keeps a processor busy with it: who else notices?

It computes in a process of its own, or in a thread; it is compared with one that only waits, as for
a ledger. Requests come as fast as they are answered, and with a pause between them, as they come
to a daemon that has processors to spare.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from benchmarks import books, load
from benchmarks.figures import Figures, Limit, Ratio
from benchmarks.plan import Plan, turns
from benchmarks.sides import ACCOUNTS, NO_CONNECTOR, Side
from benchmarks.sides.daemon import start

MEASURE: Final = "slow"
RATE: Final = "requests/s"
P99: Final = "p99 ms"
WAITING: Final = "waiting"
TITLES: Final = {
    WAITING: "an engine that waits for its ledger",
    "process": "an engine that computes in a process",
    "thread": "an engine that computes in a thread",
}
_WORK: Final = {WAITING: "wait", "process": "process", "thread": "thread"}
_CONNECTIONS: Final = 32
_PAUSES_MS: Final = {"32 connections": 0, "32 connections, 20 ms between requests": 20}
_SIDES: Final = [
    Side(name, TITLES[name], partial(start, ("-o", f"work={work}"))) for name, work in _WORK.items()
]


def run(_sides: Sequence[Side], plan: Plan) -> None:
    """Put settled with each of the engines under the same load."""
    for side, directory in turns(_SIDES, plan.rounds):
        with side.start(directory, NO_CONNECTOR) as running:
            for number, (case, pause_ms) in enumerate(_PAUSES_MS.items()):
                prefix = f"s{number}-"
                seen = load.run(
                    running.process.url,
                    kind="settlements",
                    prefix=prefix,
                    accounts=load.Accounts(ACCOUNTS),
                    connections=_CONNECTIONS,
                    seconds=plan.seconds,
                    pause_ms=pause_ms,
                )
                books.check(seen, running.kept(prefix), _CONNECTIONS, side.name)
                plan.figures.add(MEASURE, case, side.name, RATE, seen.rate)
                plan.figures.add(MEASURE, case, side.name, P99, seen.p99_ms)
                plan.say(
                    f"{MEASURE}, {side.name}, {case}: {seen.rate:,.0f} {RATE}, "
                    f"p99 {seen.p99_ms:.2f} ms"
                )


def bars(figures: Figures) -> Iterator[Ratio | Limit]:
    """Yield what must hold between an engine that computes and one that waits."""
    for case in _PAUSES_MS:
        p99 = figures.of(MEASURE, case, P99)
        for name in ("process", "thread"):
            if p99.keys() >= {name, WAITING}:
                title = f"p99 with {TITLES[name]}, {case}"
                yield Ratio(title, p99[name], p99[WAITING], 2, "most")
