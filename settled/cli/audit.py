"""``settled audit``: are the books right?"""

from pathlib import Path

import click

from settled.cli.common import db_option, debug_option, json_option, print_table, with_store
from settled.cli.progress import progress
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
    with progress("Audit") as bar:
        found = with_store(db, lambda store: store.audit(bar.show))
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
