"""``settled config``: what the daemon would run with, and why."""

from typing import Any

import click

from settled.cli.common import (
    debug_option,
    json_option,
    print_json,
    print_table,
    settings_options,
)
from settled.config import Config
from settled.engine import values
from settled.engine.loading import load


@click.group()
def config() -> None:
    """Look into the settings.

    \b
    Examples:
      settled config show
      settled config show --json
    """


@config.command()
@settings_options
@json_option
@debug_option
def show(config: Config, as_json: bool) -> None:
    """Show every setting, its value, and where the value came from.

    It takes the options of `settled run`, loads the engine and checks each setting; `settled check`
    looks at the database, the port and the connector as well. Secrets are concealed.

    \b
    Examples:
      settled config show
      settled config show --config /etc/settled.toml --json
      SETTLED_LISTEN=127.0.0.1:3001 settled config show --engine loopback -o asset_scale=6
    """
    engine = None if config.settings.engine is None else load(config.settings.engine)
    rows = config.shown(engine)
    if as_json:
        print_json(
            [
                {"setting": row.name, "value": _plain(row.value), "source": row.source}
                for row in rows
            ]
        )
    else:
        print_table(
            ("SETTING", "VALUE", "SOURCE"),
            [(row.name, values.show(row.value), row.source) for row in rows],
        )


def _plain(value: object) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
