"""What the commands share: options, opening the store, tables and JSON."""

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import click
import msgspec

from settled import amounts, limits
from settled.cli.group import DEBUG
from settled.config import CONFIG_ENV, SETTINGS, Config, resolve, resolve_db, resolve_disk_reserve
from settled.errors import ConfigError
from settled.text import printable

if TYPE_CHECKING:
    from settled.store.protocol import Store

P = ParamSpec("P")
T = TypeVar("T")

PAGE_ROWS: Final = 20

_CONFIG_HELP: Final = f"Settings file.  [env: {CONFIG_ENV}; default: ./settled.toml, if it exists]"


def debug_option(command: Callable[P, T]) -> Callable[P, T]:
    """Add ``--debug``, which the top command reads; the command itself gets no argument."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[DEBUG] = True

    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Show the traceback of an error.",
    )(command)


def db_option(command: Callable[..., T]) -> Callable[..., T]:
    """Add ``--db`` and ``--config``; the command gets ``db``, the path of the database.

    Example::

        @click.command()
        @db_option
        @json_option
        @debug_option
        def show(db: Path, as_json: bool) -> None: ...
    """

    @functools.wraps(command)
    def resolved(*args: Any, db: str | None, config: str | None, **kwargs: Any) -> T:
        path = resolve_db(db, os.environ, config)
        result = command(*args, db=path, **kwargs)
        try:
            _tell_disk_low(path, resolve_disk_reserve(os.environ, config))
        except ConfigError as error:  # what it is wrong for is `settled run`
            click.echo(f"settled: warning: {error}", err=True)
        return result

    info = next(info for info in SETTINGS if info.name == "db")
    with_config = click.option("--config", metavar="PATH", help=_CONFIG_HELP)(resolved)
    return click.option("--db", metavar="PATH", help=_setting_help(info))(with_config)


def _tell_disk_low(db: Path, reserve_bytes: int) -> None:
    """Say when a daemon with this reserve refuses new work on the database's disk.

    A running one may have been given another reserve, which is on record nowhere.
    """
    from settled.store.file import free_bytes

    free = free_bytes(db)
    if free is not None and free < reserve_bytes:
        click.echo(
            f"Beside {db} only {free / 2**20:.1f} MiB are free: a daemon with a reserve of "
            f"{reserve_bytes / 2**20:.1f} MiB, as set here, refuses new settlements and accounts "
            f"until there is more.",
            err=True,
        )


def json_option(command: Callable[P, T]) -> Callable[P, T]:
    """Add ``--json``; the command gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def page_options(command: Callable[P, T]) -> Callable[P, T]:
    """Add ``--limit`` and ``--before``; the command gets ``limit`` and ``before``.

    ``before`` is the number of a row of the previous page's end, as the store's lists take it.
    """
    command = click.option(
        "--before",
        type=click.IntRange(min=1),
        metavar="NUMBER",
        help="Show what is older than the row of this number.",
    )(command)
    return click.option(
        "--limit",
        type=click.IntRange(1, limits.PAGE_ROWS_MAX),
        default=PAGE_ROWS,
        show_default=True,
        help="How many rows to show, newest first.",
    )(command)


def settings_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add every setting of the daemon as an option; the command gets ``config``, a ``Config``."""

    @functools.wraps(command)
    def resolved(*args: Any, find_config: Callable[[], Config], **kwargs: Any) -> T:
        return command(*args, config=find_config(), **kwargs)

    return unresolved_settings_options(resolved)


def unresolved_settings_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the same; the command gets ``find_config``, which gives a ``Config`` or raises."""

    @functools.wraps(command)
    def gathered(*args: Any, config: str | None, option_flags: tuple[str, ...], **kwargs: Any) -> T:
        flags = {info.name: kwargs.pop(info.name) for info in SETTINGS}
        find_config = functools.partial(resolve, flags, option_flags, os.environ, config)
        return command(*args, find_config=find_config, **kwargs)

    wrapped = click.option("--config", metavar="PATH", help=_CONFIG_HELP)(gathered)
    wrapped = click.option(
        "-o",
        "option_flags",
        metavar="NAME=VALUE",
        multiple=True,
        help="An option of the engine; may be repeated.  [env: SETTLED_OPTION_NAME]",
    )(wrapped)
    for info in reversed(SETTINGS):
        flag = "--" + info.name.replace("_", "-")
        if info.type_name == "boolean":
            off = f"{flag}/--no-{flag.removeprefix('--')}"
            option = click.option(off, default=None, help=_setting_help(info))
        else:
            option = click.option(flag, metavar=info.type_name.upper(), help=_setting_help(info))
        wrapped = option(wrapped)
    return wrapped


def _setting_help(info: Any) -> str:
    default = f"; default: {info.default_text}" if info.default_text else ""
    return f"{info.help[0].upper()}{info.help[1:]}.  [env: {info.env}{default}]"


def with_store(db: Path, action: Callable[["Store"], Awaitable[T]]) -> T:
    """Open the database beside a daemon or without one, run ``action`` on it, return its result.

    Example::

        account = with_store(db, lambda store: store.account(account_id))
    """
    import trio

    from settled.store.sqlite import open_sqlite

    async def run() -> T:
        async with open_sqlite(db, exclusive=False) as store:
            return await action(store)

    return trio.run(run)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under headers; amounts exactly, and nothing that could drive the terminal."""
    from tabulate import tabulate

    cells = [[printable(_cell(value)) for value in row] for row in rows]
    click.echo(tabulate(cells, headers, tablefmt="plain", disable_numparse=True))


def print_json(value: object) -> None:
    """Print a value as JSON; amounts as decimal strings, records as objects."""
    json.dump(value, sys.stdout, indent=2, default=_jsonable)
    click.echo()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return amounts.to_text(value) if isinstance(value, Decimal) else str(value)


def _jsonable(value: object) -> Any:
    if isinstance(value, Decimal):
        return amounts.to_text(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    return str(value)
