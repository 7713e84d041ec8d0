"""settled, as ``settled run`` ships it."""

import subprocess
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


def has_lane() -> bool:
    """Return whether this settled can be told to do without its short lane."""
    line = [sys.executable, "-m", "settled", "run", "--help"]
    shown = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    return "--no-short-lane" in shown


@contextmanager
def daemon(
    directory: Path,
    connector_url: str,
    arguments: Sequence[str] = (),
    *,
    db: Path | str = DB,
    module: str = "settled",
) -> Iterator[Process]:
    """Run settled with our engine, on a free port; a new database is made unless it is there.

    Args:
        directory: where it runs.
        connector_url: where its connector is.
        arguments: more of the command line.
        db: the database, a name in ``directory`` unless it is a path.
        module: what is run in the place of settled.
    """
    line = [sys.executable, "-m", module, "run", "--listen", "127.0.0.1:0", "--db", str(db)]
    line += ["--engine", "benchmarks.engine:create_engine", "--connector-url", connector_url]
    with running([*line, *arguments], directory, environment={"PYTHONPATH": str(ROOT)}) as process:
        yield process


@contextmanager
def start(arguments: Sequence[str], directory: Path, connector_url: str) -> Iterator[Running]:
    """Run settled afresh with these arguments; see ``Side.start``."""
    db = (directory / DB).absolute()
    with daemon(directory, connector_url, arguments) as process:
        open_accounts(process.url, ACCOUNTS)
        yield Running(process, partial(books.kept, db))
    books.audit(db)


SETTLED: Final = Side("settled", "settled", partial(start, ()))
WITHOUT_LANE: Final = Side(
    "settled-no-short-lane",
    "settled --no-short-lane",
    partial(start, ("--no-short-lane",)),
)
