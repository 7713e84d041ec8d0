"""``settled audit``: are the books right?"""

import sys
from pathlib import Path
from typing import Any

import click

from settled.cli.common import db_option, debug_option, json_option, print_table, with_store
from settled.cli.records import json_text


@click.command()
@db_option
@json_option
@debug_option
def audit(db: Path, as_json: bool) -> None:
    """Recompute every balance from the journal, and check the database's integrity.

    It reads one moment's state and may run beside a daemon. The exit code is 1 if anything is off;
    then keep a copy of the file, and let nothing pay from it before the cause is known.

    \b
    Examples:
      settled audit
      settled audit --db /var/lib/settled/settled.db --json
    """
    progress = _Bar() if sys.stderr.isatty() else None
    try:
        if progress is None:
            found = with_store(db, lambda store: store.audit())
        else:
            found = with_store(db, lambda store: store.audit(progress.show))
    finally:
        if progress is not None:
            progress.end()
    if as_json:
        rows = [
            {
                "subject": row.subject,
                "what": row.what,
                "expected": row.expected,
                "found": row.found,
            }
            for row in found
        ]
        click.echo(json_text(rows))
    elif found:
        print_table(
            ("SUBJECT", "WHAT", "EXPECTED", "FOUND"),
            [(row.subject, row.what, row.expected, row.found) for row in found],
        )
    else:
        click.echo("All balances agree with the journal, and the database is sound.")
    if found:
        click.get_current_context().exit(1)


class _Bar:
    """A progress bar on standard error; the store calls it from a thread, one call at a time."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._done = 0

    def show(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` journal entries are checked."""
        if self._bar is None:
            self._bar = click.progressbar(length=max(total, 1), label="Audit", file=sys.stderr)
            self._bar.render_progress()
        self._bar.update(done - self._done)
        self._done = done

    def end(self) -> None:
        """Leave the bar and go to the next line."""
        if self._bar is not None:
            self._bar.render_finish()
