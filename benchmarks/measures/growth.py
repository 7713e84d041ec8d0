"""Growth: a database with a million accounts and ten million keys beside an empty one.

Both daemons run at the same time and are put under load in turns of a second, over as many
accounts; those of the large database lie far apart in it. What a shared machine does in half a
minute is as large as what is looked for: in turns so short it comes to both.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import books, load
from benchmarks.figures import Figures, Limit, Ratio
from benchmarks.filling import Size, fill, schema_name
from benchmarks.measures import backlog
from benchmarks.plan import Plan, directory
from benchmarks.processes import Process
from benchmarks.sides import NO_CONNECTOR, WORK, Running, Side
from benchmarks.sides.daemon import DB, daemon

MEASURE: Final = "growth"
EMPTY: Final = "empty"
LARGE: Final = "large"
TITLES: Final = {EMPTY: "an empty database", LARGE: "1,000,000 accounts and 10,000,000 keys"}
RATE: Final = "requests/s"
P99: Final = "p99 ms"
START: Final = "s until it listens"
PEAK: Final = "MB at most"
LIFE: Final = "a daemon"
UNDER_LOAD: Final = "32 connections"
SPREAD: Final = "32 connections, to every account in turn"

_ACTIVE: Final = 100
_CONNECTIONS: Final = 32
_SIZE: Final = Size(accounts=1_000_000, keys=10)
_QUIET_SHARE: Final = 0.05
_QUIET_LOOK_S: Final = 1.0
_QUIET_WITHIN_S: Final = 900
_WARM_UP_S: Final = 2
_TURN_S: Final = 1


@dataclass(frozen=True, slots=True)
class _Daemon:
    """One of the two, and the accounts that it is asked for."""

    name: str
    running: Running
    accounts: load.Accounts
    all_accounts: load.Accounts


def run(_sides: Sequence[Side], plan: Plan) -> None:
    """Measure settled against itself: nothing else is built to grow."""
    with _both(plan) as daemons:
        for one in daemons:
            plan.say(f"{MEASURE}, {one.name}: waiting until it has read its file over")
            _wait_until_quiet(one.running.process)
            _under_load(one, one.accounts, _WARM_UP_S)
        for case in (UNDER_LOAD, SPREAD):
            for number in range(plan.rounds * plan.seconds // _TURN_S):
                for one in daemons if number % 2 else reversed(daemons):
                    accounts = one.accounts if case == UNDER_LOAD else one.all_accounts
                    seen = _under_load(one, accounts, _TURN_S)
                    plan.figures.add(MEASURE, case, one.name, RATE, seen.rate)
                    plan.figures.add(MEASURE, case, one.name, P99, seen.p99_ms)
                    plan.say(f"{MEASURE}, {one.name}, {case}: {seen.rate:,.0f} {RATE}")
        for one in daemons:
            peak = one.running.process.peak_bytes() / 1e6
            plan.figures.add(MEASURE, LIFE, one.name, PEAK, peak)
            plan.say(f"{MEASURE}, {one.name}: {peak:.0f} {PEAK}")
    backlog.run(plan)


@contextmanager
def _both(plan: Plan) -> Iterator[tuple[_Daemon, _Daemon]]:
    large = large_database(plan.say)
    with directory() as empty:
        small = empty / DB
        fill(small, Size(_ACTIVE), plan.say)
        for name, path in ((EMPTY, small), (LARGE, large)):
            for _ in range(plan.rounds):
                with daemon(path.parent, NO_CONNECTOR, db=path) as process:
                    plan.figures.add(MEASURE, LIFE, name, START, process.started_s)
                    plan.say(f"{MEASURE}, {name}: {process.started_s:.2f} {START}")
        with (
            daemon(small.parent, NO_CONNECTOR, db=small) as of_small,
            daemon(large.parent, NO_CONNECTOR, db=large) as of_large,
        ):
            few = load.Accounts(_ACTIVE)
            apart = load.Accounts(_ACTIVE, _SIZE.accounts // _ACTIVE)
            yield (
                _Daemon(EMPTY, Running(of_small, _kept(small)), few, few),
                _Daemon(
                    LARGE, Running(of_large, _kept(large)), apart, load.Accounts(_SIZE.accounts)
                ),
            )


def _kept(path: Path) -> Callable[[str], int]:
    return partial(books.kept, path)


def large_database(say: Callable[[str], None]) -> Path:
    """Return the large database, which is made once and then used again and again."""
    WORK.mkdir(exist_ok=True)
    path = WORK / f"large-{schema_name()}.db"
    if not path.exists():
        fill(path, _SIZE, say)
    return path


def _wait_until_quiet(process: Process) -> None:
    """Wait until it is done with what a start brings; so long it has less for requests."""
    deadline_s = time.monotonic() + _QUIET_WITHIN_S
    used_s = -1.0
    while used_s < 0 or process.cpu_s() - used_s > _QUIET_SHARE * _QUIET_LOOK_S:
        if time.monotonic() > deadline_s:
            return
        used_s = process.cpu_s()
        time.sleep(_QUIET_LOOK_S)


def _under_load(one: _Daemon, accounts: load.Accounts, seconds: int) -> load.Load:
    prefix = f"{secrets.token_hex(4)}-"
    seen = load.run(
        one.running.process.url,
        kind="settlements",
        prefix=prefix,
        accounts=accounts,
        connections=_CONNECTIONS,
        seconds=seconds,
    )
    books.check(seen, one.running.kept(prefix), _CONNECTIONS, one.name)
    return seen


def bars(figures: Figures) -> Iterator[Ratio | Limit]:
    """Yield what must hold of a large database."""
    rate = figures.of(MEASURE, UNDER_LOAD, RATE)
    if rate.keys() >= {LARGE, EMPTY}:
        title = "throughput, 1,000,000 accounts and 10,000,000 keys to none"
        yield Ratio(title, rate[LARGE], rate[EMPTY], 0.85)
        yield Limit("peak memory, large", figures.of(MEASURE, LIFE, PEAK)[LARGE], 150)
        for name, series in figures.of(MEASURE, LIFE, START).items():
            yield Limit(f"start until it listens, {name}", series, 1)
        yield from backlog.bars(figures)
