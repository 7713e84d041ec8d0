"""The floor: trio, httptools and SQLite without settled, on a database that settled made."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from benchmarks import books
from benchmarks.processes import running
from benchmarks.sides import ACCOUNTS, Running, Side
from benchmarks.sides.daemon import DB, ROOT
from settled.store.sqlite import open_sqlite


async def _make(path: Path) -> None:
    async with open_sqlite(path, exclusive=False, create=True) as store:
        for number in range(ACCOUNTS):
            await store.open_account(f"a{number}", setup=False)


@contextmanager
def _start(part: str, directory: Path, _connector_url: str) -> Iterator[Running]:
    db = (directory / DB).absolute()
    trio.run(_make, db)
    line = [sys.executable, "-m", "benchmarks.bare", str(db), part]
    with running(line, directory, environment={"PYTHONPATH": str(ROOT)}) as process:
        yield Running(process, partial(books.kept, db))
    books.audit(db)


BARE: Final = Side("bare", "bare trio, httptools and SQLite", partial(_start, "commit"))
HTTP_ONLY: Final = Side("bare-http", "bare, the HTTP alone", partial(_start, "http"))
PARSE_ONLY: Final = Side("bare-parse", "bare, without the commit", partial(_start, "parse"))
