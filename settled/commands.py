"""What commands of your own are made with.

A package that has an engine may bring commands for its operators. It names them in the entry-point
group ``settled.commands``, as click commands, and they are then part of ``settled``::

    [options.entry_points]
    settled.commands =
        bank = bank_commands:bank

Example::

    @click.command()
    @db_option
    @json_option
    @debug_option
    def bank(db: Path, as_json: bool) -> None:
        \"\"\"Show what the bank paid us that belongs to nobody.\"\"\"
        found = read_state(db, lambda state: state.items("unclaimed:"))
        if as_json:
            print_json(dict(found))
        else:
            print_table(("KEY", "REFERENCE"), found)

An error is best a ``SettledError``: it ends the command with its text as one line.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from settled.cli.common import (
    db_option,
    debug_option,
    json_option,
    print_json,
    print_table,
    with_store,
)

if TYPE_CHECKING:
    from settled.engine.services import State
    from settled.store.protocol import Store

__all__ = ["db_option", "debug_option", "json_option", "print_json", "print_table", "read_state"]

T = TypeVar("T")


def read_state(db: Path, read: Callable[["State"], Awaitable[T]]) -> T:
    """Return what ``read`` returns of the engine's state in a database.

    A daemon may be at work on it.
    """

    async def run(store: "Store") -> T:
        from settled.engine.services import State

        return await read(State(store))

    return with_store(db, run)
