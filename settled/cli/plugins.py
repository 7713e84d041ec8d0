"""Commands that other packages install, in the entry-point group ``settled.commands``."""

from importlib.metadata import entry_points
from typing import Any, Final

import click

from settled.errors import ConfigError
from settled.text import describe_error, one_line

GROUP: Final = "settled.commands"


def names() -> list[str]:
    """Return the names of the commands that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load(name: str) -> click.Command | None:
    """Return the command that is installed under a name, ``None`` if there is none.

    One that cannot be loaded says why when it is called: it must not hide the others.
    """
    points = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not points:
        return None
    if len(points) > 1:
        return _broken(name, f"installed more than once ({', '.join(sorted(points))})")
    (point,) = points.values()
    try:
        command = point.load()
    except (Exception, SystemExit) as error:
        return _broken(name, describe_error(error))
    if not isinstance(command, click.Command):
        return _broken(name, f"{point.value} is not a click command")
    return command


def _broken(name: str, why: str) -> click.Command:
    reason = one_line(why)

    def fail(**_: Any) -> None:
        raise ConfigError(f"command {name} cannot be loaded: {reason}")

    return click.Command(
        name,
        callback=fail,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        help=f"(cannot be loaded: {reason})",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )
