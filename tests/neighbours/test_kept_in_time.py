"""Connections that rest, on a clock that goes on while it is looked at."""

import math

import trio

from settled import kept as kept_module
from settled import limits
from tests.neighbours.test_connector_watched import keeps, pair


class Creeping(trio.abc.Clock):
    """A clock that goes on by a microsecond whenever it is looked at."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.step_s = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return max(0, min(deadline - self.now_s, 0.01))


def test_a_rest_that_ends_while_it_is_looked_for_makes_no_difference() -> None:
    clock = Creeping()

    async def main() -> None:
        async with keeps() as kept:
            for early in range(12):
                streams = [pair() for _ in range(2)]
                (gone, its_end), (stream, other) = streams
                clock.now_s, clock.step_s, kept._looked_s = early, 0.0, -math.inf
                kept.put(gone)
                clock.now_s += 0.0005
                kept.put(stream)
                its_end.close()
                alone_s = limits.CONNECTION_REST_MAX_S * (1 - 1 / limits.RESTING_MANY)
                clock.now_s += alone_s + (0.5 - early) * 1e-6
                clock.step_s = 1e-6
                taken = await kept.take()
                clock.step_s = 0.0
                assert taken in (None, stream)
                assert (stream.socket.fileno() in kept._by_fd) is (taken is None)
                if taken is None:
                    clock.now_s += 1
                    assert await kept.take() is stream
                kept_module.close(stream)
                other.close()

    trio.run(main, clock=clock)
