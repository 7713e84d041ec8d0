"""What a run shares: its dice, its rates of faults, its clock and its trace."""

import hashlib
import random
from collections import Counter, deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import trio

T = TypeVar("T")

HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S
_TRACE_LINES: Final = 5000

# Which host the running task belongs to; trio hands it down to child tasks.
HOST: ContextVar[str | None] = ContextVar("simulated_host", default=None)


class Crash(BaseException):
    """The host is dead: nothing that its program still does has any effect."""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How often what goes wrong in one run, as shares of 1; the ranges are those of the VOPR.

    TigerBeetle's simulator, ``src/vopr.zig``: packet loss up to 30 %, replay up to 50 %, clog up to
    2 %, partition up to 3 %, faults of disk reads and writes up to 10 %, 80 to 100 % of the writes
    in flight torn by a crash.
    """

    loss: float
    replay: float
    clog: float
    partition: float
    disk: float
    torn: float
    crash_in_commit: float
    answer: float  # of connectors: a status that is no acknowledgement
    engine: float  # of engines: not settled, in part, too much, an exception, a hang
    clock: float  # at each crash, and now and then

    @staticmethod
    def drawn(dice: random.Random) -> "Rates":
        """Return the rates of one run; in some runs some kinds of faults do not happen at all."""

        def up_to(most: float) -> float:
            return dice.uniform(0, most) if dice.random() < 0.7 else 0.0

        return Rates(
            loss=up_to(0.3),
            replay=up_to(0.5),
            clog=up_to(0.02),
            partition=up_to(0.03),
            disk=up_to(0.1),
            torn=dice.uniform(0.8, 1.0),
            crash_in_commit=up_to(0.02),
            answer=up_to(0.3),
            engine=up_to(0.3),
            clock=up_to(0.3) if dice.random() < 0.4 else 0.0,
        )


@dataclass
class World:
    """One run.

    Attributes:
        dice: the one source of chance.
        horizon_s: for how long there is traffic and there are faults.
        faulty: whether faults happen; at the end of a run they do not.
        injected: how many faults of each kind there were.
    """

    seed: int
    keep_trace: bool = False
    dice: random.Random = field(init=False)
    rates: Rates = field(init=False)
    horizon_s: float = field(init=False)
    faulty: bool = True
    injected: Counter[str] = field(default_factory=Counter)
    steps: int = 0

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.rates = Rates.drawn(self.dice)
        self.horizon_s = self.dice.choice([600.0, HOUR_S, 6 * HOUR_S, DAY_S, 3 * DAY_S])
        self._lines: deque[str] = deque(maxlen=None if self.keep_trace else _TRACE_LINES)
        self._hash = hashlib.sha256()

    def chance(self, rate: float) -> bool:
        """Return whether something that happens at this rate happens now."""
        return self.dice.random() < rate and self.faulty

    def fault(self, kind: str, rate: float, **about: Any) -> bool:
        """As ``chance``, for a fault: it is counted and noted."""
        if not self.chance(rate):
            return False
        self.injected[kind] += 1
        self.note(f"fault {kind}", **about)
        return True

    def delay_s(self, mean_s: float) -> float:
        """Return how long something takes that takes ``mean_s`` on average."""
        return self.dice.expovariate(1 / mean_s)

    def note(self, what: str, **about: Any) -> None:
        """Add a line to the trace."""
        facts = " ".join(f"{name}={value}" for name, value in about.items())
        line = f"{trio.current_time():12.3f} {HOST.get() or '-':>2} {what} {facts}".rstrip()
        self.steps += 1
        self._hash.update(line.encode())
        self._lines.append(line)

    def trace(self, lines: int | None = None) -> list[str]:
        """Return the last lines of the trace."""
        kept = list(self._lines)
        return kept if lines is None else kept[-lines:]

    def fingerprint(self) -> str:
        """Return what two runs have in common exactly when they did the same."""
        return self._hash.hexdigest()
