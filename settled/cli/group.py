"""The groups that commands hang on: imported when used, and every error ends as one line."""

import importlib
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final

import click

from settled.cli import plugins
from settled.errors import SettledError
from settled.text import describe_error, one_line

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130

DEBUG: Final = "settled.cli.debug"  # the key in ``ctx.meta`` that says whether --debug was given


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are asked for.

    Args:
        lazy: where each command is, as ``module:attribute``, by its name.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self._lazy[cmd_name]} is not a command")
        return command


class MainGroup(LazyGroup):
    """The top of the command line: turns whatever a command raises into a line and an exit code.

    Below the program's own commands are those that other packages have installed.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *(name for name in plugins.names() if name not in own)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or plugins.load(cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException, BrokenPipeError):
            raise  # click ends with these as it should
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        except (Exception, BaseExceptionGroup) as error:
            ctx.exit(report(error, debug=bool(ctx.meta.get(DEBUG))))


def report(error: BaseException, *, debug: bool) -> int:
    """Tell of an error on standard error, in one line; return the exit code.

    Args:
        error: what was raised; of a group, the leaf that says most is told.
        debug: whether to show the traceback as well.
    """
    leaf = telling_leaf(error)
    if isinstance(leaf, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(leaf, SettledError):
        click.echo(f"settled: error: {one_line(leaf, 2000)}", err=True)
        return leaf.exit_code
    hint = "" if debug else " (--debug shows where)"
    click.echo(f"settled: error: {describe_error(leaf)}{hint}", err=True)
    return EXIT_FAILED


def telling_leaf(error: BaseException) -> BaseException:
    """Return the exception in a group that says most: the first of settled's own, else the first.

    An interrupt by the user goes before all.
    """
    leaves = list(_leaves(error))
    for kind in (KeyboardInterrupt, SettledError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for member in error.exceptions for leaf in _leaves(member)]
