"""The generated parts of the docs; ``python -m tests.docs`` writes them, ``--check`` compares.

``docs/cli.md`` is every command's help. In the other pages a marker like
``<!-- commands -->`` is followed by a table that is made from the program.
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from tabulate import tabulate

from settled.cli import main
from settled.config import SETTINGS
from settled.engine.loading import load

ROOT = Path(__file__).parents[1]


def commands(
    command: click.Command = main, path: str = "settled", parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """Yield each command's path and help, parents first."""
    context = command.make_context(
        path.rsplit(maxsplit=1)[-1],
        [],
        parent,
        resilient_parsing=True,
        max_content_width=100,
        terminal_width=100,
    )
    yield path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, f"{path} {name}", context)


def cli_page() -> str:
    parts = ["# Commands", "", "What `--help` says of each; this page is made from it."]
    for path, text in commands():
        parts += ["", f"## {path}", "", "```text", text.rstrip(), "```"]
    return "\n".join(parts) + "\n"


def command_table() -> str:
    rows = []
    for path, text in commands():
        summary = re.split(r"\n\s*\n", text)[1]
        if path.count(" ") == 1:
            rows.append((f"`{path}`", " ".join(summary.split())))
    return tabulate(rows, ["command", "what it does"], tablefmt="github")


def settings_table() -> str:
    rows = [
        (
            f"`--{info.name.replace('_', '-')}`",
            f"`SETTLED_{info.name.upper()}`",
            f"`{info.default}`" if info.default not in (None, "") else "",
            info.help,
        )
        for info in SETTINGS
    ]
    return tabulate(rows, ["option", "variable", "default", "what it is"], tablefmt="github")


def options_table(engine: str) -> str:
    rows = [
        (
            f"`{info.name}_file`" if info.secret else f"`{info.name}`",
            "required" if info.required else info.default_text and f"`{info.default_text}`",
            f"`{info.env}`",
            info.help,
        )
        for info in load(engine).options()
    ]
    return tabulate(rows, ["option", "default", "variable", "what it is"], tablefmt="github")


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"commands": command_table},
    "docs/operators.md": {"settings": settings_table},
    "docs/ethereum.md": {"ethereum options": lambda: options_table("ethereum")},
}


def with_tables(name: str) -> str:
    text = (ROOT / name).read_text()
    for marker, table in TABLES[name].items():
        place = re.search(rf"<!-- {marker} -->\n(\n?\|[^\n]*\n(\|[^\n]*\n)*)?", text)
        assert place is not None, f"{name} has no place for {marker}"
        made = f"<!-- {marker} -->\n\n{table()}\n"
        text = text[: place.start()] + made + text[place.end() :]
    return text


def pages() -> dict[str, str]:
    """Return what each generated or partly generated page must be."""
    return {"docs/cli.md": cli_page(), **{name: with_tables(name) for name in TABLES}}


def main_() -> int:
    stale = [
        name
        for name, text in pages().items()
        if not (ROOT / name).exists() or (ROOT / name).read_text() != text
    ]
    if "--check" in sys.argv:
        for name in stale:
            sys.stderr.write(f"{name} does not say what the program does: run `make docs`\n")
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).write_text(pages()[name])
    return 0


if __name__ == "__main__":
    sys.exit(main_())
