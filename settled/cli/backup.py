"""``settled backup``: a copy of the database that can be relied on."""

import os
from pathlib import Path

import click

from settled.cli.common import db_option, debug_option, json_option, print_json
from settled.cli.progress import progress
from settled.cli.records import iso
from settled.config import resolve_disk_reserve
from settled.text import one_line


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is a former backup.")
@db_option
@json_option
@debug_option
def backup(*, file: Path, force: bool, db: Path, as_json: bool) -> None:
    """Copy the database to FILE, with a daemon at work on it or without.

    The copy is of one moment and is checked like `settled audit` does; FILE is there only once it
    is whole, sound and on the disk. It is an ordinary database that only its owner can read, with a
    mark: a daemon that is started on it pays nothing that is queued in it until `settled release`.

    \b
    Examples:
      settled backup /var/backups/settled.db
      settled backup --force /var/backups/settled.db --json
      settled backup "settled-$(date +%F).db"
    """
    from settled.store.backup import back_up

    # ``db_option`` keeps it to itself.
    config = click.get_current_context().params.get("config")
    with progress("Copy ") as copying, progress("Check") as checking:
        made = back_up(
            db,
            file,
            force=force,
            disk_reserve_bytes=resolve_disk_reserve(os.environ, config),
            on_copy=copying.show,
            on_check=checking.show,
        )
    if as_json:
        print_json(
            {
                "file": str(made.path),
                "bytes": made.size_bytes,
                "taken_at": iso(made.taken_ms),
            }
        )
    else:
        click.echo(
            f"{one_line(made.path)} has {made.size_bytes} bytes: {one_line(db)} as of "
            f"{iso(made.taken_ms)}, checked."
        )
