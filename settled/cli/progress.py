"""A progress bar, when there is a terminal to show it on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click


class Bar:
    """A progress bar on standard error; whoever works calls ``show``, one call at a time."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self._done = 0

    def show(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` is done."""
        if self._bar is None:
            self._bar = click.progressbar(length=max(total, 1), label=self._label, file=sys.stderr)
            self._bar.render_progress()
        # The end of nothing is shown as the end, too.
        done = done if total else 1
        self._bar.update(done - self._done)
        self._done = done

    def end(self) -> None:
        """Leave the bar and go to the next line."""
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None


@contextmanager
def progress(label: str) -> Iterator[Bar]:
    """Show a bar on a terminal while the block runs; without a terminal, nothing.

    Example::

        with progress("Audit") as bar:
            store.audit(bar.show)
    """
    bar = Bar(label) if sys.stderr.isatty() else _Hidden(label)
    try:
        yield bar
    finally:
        bar.end()


class _Hidden(Bar):
    def show(self, done: int, total: int) -> None:
        """Show nothing."""
