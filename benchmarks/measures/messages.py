"""Messages a second through the daemon: to its engine, and from its engine to the connector."""

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks import load
from benchmarks.figures import Figures, Limit, Ratio
from benchmarks.measures import asking
from benchmarks.plan import Plan, turns
from benchmarks.sides import ACCOUNTS, Side

MEASURE: Final = "messages"
CONNECTIONS: Final = 32
IN: Final = f"to the engine, {CONNECTIONS} connections"
OUT: Final = f"from the engine, {asking.AT_ONCE} at once"
RATE: Final = "round trips/s"


def run(sides: Sequence[Side], plan: Plan) -> None:
    """Have messages go through every side, in both directions one after the other."""
    for side, directory in turns(sides, plan.rounds):
        with (
            asking.connector(directory) as connector,
            side.start(directory, connector.url) as running,
        ):
            url = running.process.url
            seen = load.run(
                url,
                kind="messages",
                prefix="m-",
                accounts=load.Accounts(ACCOUNTS),
                connections=CONNECTIONS,
                seconds=plan.seconds,
            )
            asked = asking.ask_for(url, connector, "send", plan.seconds)
            plan.figures.add(MEASURE, IN, side.name, RATE, seen.rate)
            plan.figures.add(MEASURE, OUT, side.name, RATE, asked.rate)
            plan.say(
                f"{MEASURE}, {side.name}: in {seen.rate:,.0f}, out {asked.rate:,.0f} {RATE}, "
                f"the connector used {asked.connector_share:.0%} of a core"
            )


def bars(_figures: Figures) -> Iterator[Ratio | Limit]:
    """No bar is set for messages."""
    yield from ()
