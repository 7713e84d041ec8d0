"""Lists that may be long: page by page from the store, printed as they come."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from settled import limits
from settled.cli.common import page_options, print_table, with_store
from settled.cli.records import json_text
from settled.store.records import Account, Credit, Settlement

if TYPE_CHECKING:
    from settled.store.protocol import Store

Row = TypeVar("Row", Account, Settlement, Credit)
T = TypeVar("T")

# Returns the page below a number (``None``: the newest), of so many rows at most.
FetchPage = Callable[["Store", int | None, int], Awaitable[list[Row]]]


def list_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add ``--limit``, ``--before`` and ``--all``; the command gets ``everything`` for the last."""
    command = click.option(
        "--all", "everything", is_flag=True, help="Show all rows, however many (no --limit)."
    )(command)
    return page_options(command)


def print_list(
    db: Path,
    fetch: FetchPage[Row],
    *,
    headers: Sequence[str],
    to_row: Callable[[Row], tuple[object, ...]],
    to_json: Callable[[Row], dict[str, Any]],
    before: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print the rows that ``fetch`` gives: as one JSON array, or as a table for each page.

    Args:
        db: the database.
        fetch: gets a page from the store.
        headers: the heads of the table's columns.
        to_row: makes the cells of a row.
        to_json: makes the JSON object of a row.
        before: where to begin: below the row of this number.
        limit: how many rows to print; ``None``: all, with never more than a page in memory.
        as_json: print JSON.
    """

    async def run(store: "Store") -> None:
        count, last = 0, None
        async with aclosing(_pages(store, fetch, before, limit)) as pages:
            async for page in pages:
                if as_json:
                    for row in page:
                        click.echo(",\n" if count else "[\n", nl=False)
                        click.echo(json_text(to_json(row)), nl=False)
                        count += 1
                else:
                    print_table(headers, [to_row(row) for row in page])
                    count += len(page)
                last = page[-1].number
        if as_json:
            click.echo("\n]" if count else "[]")
        elif not count:
            click.echo("None.")
        if last is not None and limit is not None and await fetch(store, last, 1):
            click.echo(f"There are older ones: --before {last}, or --all.", err=True)

    with_store(db, run)


async def _pages(
    store: "Store", fetch: FetchPage[Row], before: int | None, limit: int | None
) -> AsyncGenerator[list[Row], None]:
    size = limits.PAGE_ROWS_MAX if limit is None else limit
    while page := await fetch(store, before, size):
        yield page
        if limit is not None:
            return
        before = page[-1].number
