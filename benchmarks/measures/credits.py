"""Credits a second, from ``credit_settlement`` to the acknowledgement of the connector.

settled keeps each credit on disk before it is sent and after it was acknowledged; the original
keeps none.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.figures import Figures, Limit, Ratio
from benchmarks.measures import asking
from benchmarks.plan import Plan, turns
from benchmarks.sides import Side

MEASURE: Final = "credits"
CASE: Final = f"{asking.AT_ONCE} at once"
RATE: Final = "credits/s"


def run(sides: Sequence[Side], plan: Plan) -> None:
    """Have the engine of every side credit for about as long as the plan says."""
    for side, directory in turns(sides, plan.rounds):
        with (
            asking.connector(directory) as connector,
            side.start(directory, connector.url) as running,
        ):
            asked = asking.ask_for(running.process.url, connector, "credit", plan.seconds)
            plan.figures.add(MEASURE, CASE, side.name, RATE, asked.rate)
            plan.say(
                f"{MEASURE}, {side.name}: {asked.rate:,.0f} {RATE}, "
                f"the connector used {asked.connector_share:.0%} of a core"
            )


def bars(figures: Figures) -> Iterator[Ratio | Limit]:
    """Yield what must hold between the sides that were measured."""
    rate = figures.of(MEASURE, CASE, RATE)
    if rate.keys() >= {"settled", "original"}:
        title = "credits acknowledged/s, to the original"
        yield Ratio(title, rate["settled"], rate["original"], 1.5)
