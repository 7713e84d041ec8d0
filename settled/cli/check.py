"""``settled check``: would the daemon work here, and is all well with it?"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from settled.cli.common import debug_option, json_option, print_json, unresolved_settings_options
from settled.cli.progress import progress
from settled.config import Config
from settled.text import printable

if TYPE_CHECKING:
    from settled.cli.findings import Finding


@click.command()
@unresolved_settings_options
@click.option("--no-connector", is_flag=True, help="Do not ask whether the connector answers.")
@json_option
@debug_option
def check(*, find_config: Callable[[], Config], no_connector: bool, as_json: bool) -> None:
    """Check settings, engine, certificate, database, books, connector and disk space.

    It takes the options of `settled run`, and changes nothing on the disk; it may run beside a
    daemon or before one is started. Each check says OK, WARN (look at it) or FAIL, and what to do;
    the exit code is 1 if any failed. The engine is made with its options, but not connected.

    \b
    Examples:
      settled check
      settled check --no-connector --config /etc/settled.toml
      settled check --engine loopback -o wallet=alice --json
    """
    found = []
    for finding in _findings(find_config, ask_connector=not no_connector):
        found.append(finding)
        if not as_json:
            click.echo(f"{finding.status:<4}  {finding.check:<9}  {printable(finding.what)}")
    if as_json:
        print_json(found)
    if any(finding.status == "FAIL" for finding in found):
        click.get_current_context().exit(1)


def _findings(find_config: Callable[[], Config], *, ask_connector: bool) -> Iterator["Finding"]:
    from settled.cli import findings

    def checked(name: str, look: Callable[[], findings.Finding]) -> findings.Finding:
        try:
            return look()
        except Exception as error:  # whatever one check stumbles over, the others are made
            return findings.failed(name, error)

    try:
        config = find_config()
    except Exception as error:
        yield findings.failed("settings", error)
        return
    settings = config.settings
    yield findings.settings(config)
    yield checked("engine", lambda: findings.engine(config))
    yield checked("listen", lambda: findings.listen(settings))
    yield checked("tls", lambda: findings.tls(settings))
    database = checked("database", lambda: findings.database(settings))
    yield database
    yield checked("daemon", lambda: findings.daemon(settings))
    if database.status == "OK":
        with progress("Audit") as bar:
            books = checked("books", lambda: findings.books(settings, bar.show))
        yield books
        yield checked("restored", lambda: findings.restored(settings))
    if ask_connector:
        yield checked("connector", lambda: findings.connector(settings))
    yield checked("disk", lambda: findings.disk(settings))
