"""``settled engines``: which engines are installed, and what options one takes."""

from typing import Any

import click

from settled.cli.common import debug_option, json_option, print_json, print_table
from settled.engine.loading import LoadedTarget, installed, load
from settled.engine.options import OptionInfo
from settled.errors import ConfigError, NotFound
from settled.text import one_line


@click.command()
@click.argument("engine", required=False)
@json_option
@debug_option
def engines(engine: str | None, as_json: bool) -> None:
    """List the installed engines, or show the options of one.

    ENGINE is the name of an installed engine, or MODULE:NAME for any other.

    \b
    Examples:
      settled engines
      settled engines loopback
      settled engines my_engine:create_engine --json
    """
    if engine is None:
        _list(as_json)
    else:
        _show(_load(engine), as_json)


def _load(engine: str) -> LoadedTarget:
    known = [point.name for point in installed()]
    if ":" not in engine and engine not in known:
        raise NotFound(
            f"no engine {one_line(engine, 100)!r} is installed "
            f"(installed: {', '.join(known) or 'none'})"
        )
    return load(engine)


def _list(as_json: bool) -> None:
    rows = [
        {"name": point.name, "path": point.value, "summary": _summary(point.name)}
        for point in installed()
    ]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(("ENGINE", "PATH", "SUMMARY"), [tuple(row.values()) for row in rows])
    else:
        click.echo("No engine is installed. Run one of your own with --engine MODULE:NAME.")


def _summary(name: str) -> str:
    try:
        return load(name).summary
    except ConfigError as error:  # one that is broken must not hide the others
        return f"cannot be loaded: {error}"


def _show(target: LoadedTarget, as_json: bool) -> None:
    options = target.options()
    if as_json:
        print_json(
            {
                "name": target.name,
                "path": target.path,
                "summary": target.summary,
                "options": [_as_json(info) for info in options],
            }
        )
        return
    click.echo(f"{target.name} ({target.path})")
    if target.summary:
        click.echo(target.summary)
    click.echo()
    if not options:
        click.echo("It takes no options.")
        return
    rows = [
        (
            f"{info.name}_file" if info.secret else info.name,
            "path" if info.secret else info.type_name,
            "required" if info.required else info.default_text,
            info.env,
            _help(info),
        )
        for info in options
    ]
    print_table(("OPTION", "TYPE", "DEFAULT", "ENVIRONMENT", "HELP"), rows)


def _help(info: OptionInfo) -> str:
    notes = []
    if info.secret:
        notes.append("a secret: from the environment, or a file")
    if info.url:
        notes.append("with a key in it, from the environment; only its host is shown")
    if info.choices is not None or info.minimum is not None or info.maximum is not None:
        notes.append(info.expected)
    return info.help + (f" ({'; '.join(notes)})" if notes else "")


def _as_json(info: OptionInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "type": info.type_name,
        "required": info.required,
        "default": None if info.default is None else info.default_text,
        "secret": info.secret,
        "env": info.env,
        "expected": info.expected,
        "help": info.help,
    }
