"""How the demo talks to people: plain lines, and a progress bar where there is a terminal."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click


def settled_command() -> str:
    """Return how to call `settled` from here."""
    if shutil.which("settled"):
        return "settled"
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    script = python.with_name("settled")
    return str(script) if script.is_file() else f"{python} -m settled"


def say(text: str) -> None:
    """Tell what was done."""
    click.echo(f"  {text}")


@contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar, if there is a terminal; call what this yields with each advance."""
    with click.progressbar(
        length=length, label=f"  {label}", hidden=not sys.stdout.isatty(), file=sys.stdout
    ) as bar:
        yield bar.update
