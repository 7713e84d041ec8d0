"""Durable settlement requests a second, and how long each waits for its answer."""

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks import books, load
from benchmarks.figures import Figures, Limit, Ratio
from benchmarks.plan import Plan, turns
from benchmarks.requests import post
from benchmarks.sides import ACCOUNTS, NO_CONNECTOR, Running, Side

MEASURE: Final = "settlements"
CONNECTIONS: Final = (1, 32, 128)
RATE: Final = "requests/s"
P50: Final = "p50 ms"
P99: Final = "p99 ms"
_WARM_UP_S: Final = 2
_AMOUNT: Final = {"amount": "100", "scale": 2}


def run(sides: Sequence[Side], plan: Plan, connections: Sequence[int] = CONNECTIONS) -> None:
    """Put every side under load over so many connections, each time afresh."""
    for side, directory in turns(sides, plan.rounds):
        with side.start(directory, NO_CONNECTOR) as running:
            # Once by hand: it must be the answer that a connector needs.
            post(running.process.url, "/accounts/a0/settlements", _AMOUNT, key="look")
            under_load(running, side, "warm-up-", 32, _WARM_UP_S)
            for count in connections:
                seen = under_load(running, side, f"c{count}-", count, plan.seconds)
                case = case_of(count)
                plan.figures.add(MEASURE, case, side.name, RATE, seen.rate)
                plan.figures.add(MEASURE, case, side.name, P50, seen.p50_ms)
                plan.figures.add(MEASURE, case, side.name, P99, seen.p99_ms)
                plan.say(
                    f"{MEASURE}, {side.name}, {case}: {seen.rate:,.0f} {RATE}, "
                    f"p50 {seen.p50_ms:.2f} ms, p99 {seen.p99_ms:.2f} ms"
                )


def case_of(connections: int) -> str:
    """Return how a number of connections is called."""
    return "1 connection" if connections == 1 else f"{connections} connections"


def under_load(
    running: Running, side: Side, prefix: str, connections: int, seconds: int
) -> load.Load:
    """Put one side under load, and compare what it acknowledged with what it has on record.

    Raises:
        BenchmarkError: when a request failed or was lost, or one is on record that was not sent.
    """
    seen = load.run(
        running.process.url,
        kind="settlements",
        prefix=prefix,
        accounts=load.Accounts(ACCOUNTS),
        connections=connections,
        seconds=seconds,
    )
    books.check(seen, running.kept(prefix), connections, side.name)
    return seen


def bars(figures: Figures) -> Iterator[Ratio | Limit]:
    """Yield what must hold between the sides that were measured."""
    for count, times in ((1, 1.5), (32, 3.5), (128, 3.5)):
        case = case_of(count)
        rate = figures.of(MEASURE, case, RATE)
        p99 = figures.of(MEASURE, case, P99)
        if rate.keys() >= {"settled", "original"}:
            mine, theirs = rate["settled"], rate["original"]
            yield Ratio(f"durable settlements/s, {case}, to the original", mine, theirs, times)
            if count > 1:
                mine, theirs = p99["settled"], p99["original"]
                yield Ratio(f"p99 latency, {case}, to the original", mine, theirs, 0.5, "most")
        if rate.keys() >= {"settled", "bare"} and count > 1:
            yield Ratio(f"share of the floor, {case}", rate["settled"], rate["bare"], 0.6)
