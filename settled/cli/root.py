"""The top command, and where each of its commands is."""

from typing import Final

import click

from settled.cli.common import debug_option
from settled.cli.group import MainGroup
from settled.version import VERSION

COMMANDS: Final = {
    name: f"settled.cli.{name}:{name}"
    for name in (
        "run",
        "accounts",
        "settle",
        "settlements",
        "credits",
        "audit",
        "backup",
        "release",
        "check",
        "engines",
        "config",
    )
}


@click.group(
    cls=MainGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, "--version", message="settled %(version)s")
@debug_option
def main() -> None:
    """Settle Interledger debts: run a settlement engine, and look after its accounts.

    \b
    Examples:
      settled run --engine loopback
      settled accounts list
      settled settle alice 12.50 --wait
      settled config show

    Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 no such thing, 75 busy, 78 wrong configuration.
    """
