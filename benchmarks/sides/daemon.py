"""settled, as ``settled run`` ships it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import books
from benchmarks.processes import Process, running
from benchmarks.requests import open_accounts
from benchmarks.sides import ACCOUNTS, Running, Side

ROOT: Final = Path(__file__).parents[2]
DB: Final = "settled.db"


def command(*arguments: str) -> list[str]:
    """Return how settled is run with our engine, on a free port."""
    engine = ("--engine", "benchmarks.engine:create_engine")
    return [sys.executable, "-m", "settled", "run", "--listen", "127.0.0.1:0", *engine, *arguments]


@contextmanager
def daemon(
    directory: Path, connector_url: str, arguments: Sequence[str] = ()
) -> Iterator[Process]:
    """Run settled in a directory, on the database there or a new one."""
    line = command("--db", DB, "--connector-url", connector_url, *arguments)
    with running(line, directory, environment={"PYTHONPATH": str(ROOT)}) as process:
        yield process


@contextmanager
def _start(arguments: Sequence[str], directory: Path, connector_url: str) -> Iterator[Running]:
    db = (directory / DB).absolute()
    with daemon(directory, connector_url, arguments) as process:
        open_accounts(process.url, ACCOUNTS)
        yield Running(process, partial(books.kept, db))
    books.audit(db)


SETTLED: Final = Side("settled", "settled", partial(_start, ()))
WITHOUT_LANE: Final = Side(
    "settled-no-short-lane",
    "settled --no-short-lane",
    partial(_start, ("--no-short-lane",)),
)
