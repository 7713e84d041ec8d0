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
from typing import TYPE_CHECKING, Final, TypeVar

from settled.cli.common import (
    db_option,
    debug_option,
    json_option,
    print_json,
    print_table,
    with_store,
)
from settled.errors import StateChanged

if TYPE_CHECKING:
    from settled.engine.services import State, Transaction
    from settled.store.protocol import Store

__all__ = [
    "change_state",
    "db_option",
    "debug_option",
    "json_option",
    "print_json",
    "print_table",
    "read_state",
]

T = TypeVar("T")

_TRIES: Final = 5


def read_state(db: Path, read: Callable[["State"], Awaitable[T]]) -> T:
    """Return what ``read`` returns of the engine's state in a database.

    A daemon may be at work on it.
    """

    async def run(store: "Store") -> T:
        from settled.engine.services import State

        return await read(State(store))

    return with_store(db, run)


def change_state(db: Path, change: Callable[["State", "Transaction"], Awaitable[T]]) -> T:
    """Change the engine's state in a database; return what ``change`` returns.

    What it notes in the transaction is done at once when it has returned. A daemon may be at work
    on the database: let ``change`` require what it has read and builds on, and the engine what it
    takes for granted (``Transaction.require_state``), so that one of the two comes first. When the
    state has changed meanwhile, ``change`` is called anew.

    Example::

        async def forget(state: State, changes: Transaction) -> str:
            reference = await state.get("unclaimed:7")
            changes.require_state("unclaimed:7", reference)
            changes.delete_state("unclaimed:7")
            return reference

        print(change_state(db, forget))

    Raises:
        StateChanged: when it changes again and again.
    """

    async def run(store: "Store") -> T:
        from settled.engine.services import State, Transaction

        for tries_left in reversed(range(_TRIES)):
            transaction = Transaction()
            result = await change(State(store), transaction)
            try:
                await store.commit(transaction.changes)
                break
            except StateChanged:
                if not tries_left:
                    raise
        return result

    return with_store(db, run)
