"""Calls of the engine: out of each comes a result, an ordinary exception, or our own cancellation.

An engine is somebody else's code, and so is what it imports: ``sys.exit`` in a library, a panic of
compiled code, a cancellation that belongs to nobody. None of that may end the daemon.
"""

import math
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
import trio

from settled.errors import MessageRefused, NotSettled, SettledError, SettlementPending
from settled.text import describe_error, one_line

log = structlog.get_logger()

_T = TypeVar("_T")


class EngineFailed(Exception):
    """What the engine raised was no ``Exception``; it is the ``__cause__``, if there is one."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call of the engine that has not ended; ``due_s`` is on ``time.monotonic``'s clock."""

    name: str
    account_id: str
    due_s: float


UNDER_WAY: Final[set[Call]] = set()
"""The calls of this process, for a thread that looks after those that never end."""


async def call_engine(
    name: str, call: Callable[..., Awaitable[_T]], account_id: str, *arguments: Any
) -> _T:
    """Return ``await call(account_id, *arguments)``.

    Only our own cancellation and ``KeyboardInterrupt`` (a person's Ctrl-C) pass as they are.

    Raises:
        EngineFailed: when it raises what is no ``Exception``, such as ``SystemExit``, or a
            ``trio.Cancelled`` though nothing was cancelled.
        Exception: whatever else it raises.

    Example::

        with trio.move_on_after(timeout_s) as timeout:
            paid = await call_engine("settle", engine.settle, account_id, amount, settlement_id)
    """
    due_s = time.monotonic() + trio.current_effective_deadline() - trio.current_time()
    under_way = Call(name, account_id, due_s)
    UNDER_WAY.add(under_way)
    try:
        return await contain(call, account_id, *arguments)
    finally:
        UNDER_WAY.discard(under_way)


async def contain(call: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
    """Return ``await call(*arguments)``, and let out of it what ``call_engine`` says."""
    try:
        return await call(*arguments)
    except Exception:
        raise
    except BaseException as error:
        other = contained(error)
        if other is error:
            raise
        raise other from error


def contained(error: BaseException) -> BaseException:
    """Return what to raise in place of ``error``, which an engine raised and is no ``Exception``.

    While we are cancelled that is the cancellation alone, so that nothing which came up beside it
    can undo it.
    """
    if _part(error, KeyboardInterrupt) is not None:
        return error
    if trio.current_effective_deadline() == -math.inf:
        cancelled = _part(error, trio.Cancelled)
        if cancelled is not None:
            if not _is_all(error, trio.Cancelled):
                log.warning("engine_failed_when_cancelled", exc_info=error)
            return cancelled
    return EngineFailed()


def _part(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """Return the part of ``error``, perhaps a group, that is of this kind."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kind)
    return error if isinstance(error, kind) else None


def _is_all(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(kind)[1] is None
    return isinstance(error, kind)


def says(what: type[SettledError], error: BaseException) -> bool:
    """Return whether ``error`` is of this type, or a group of nothing else (from a nursery)."""
    return all(isinstance(leaf, what) for leaf in _leaves(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    nested = [error]
    while nested:  # a group may be deeper than the stack
        error = nested.pop()
        if isinstance(error, BaseExceptionGroup):
            nested += reversed(error.exceptions)
        elif isinstance(error, EngineFailed) and error.__cause__ is not None:
            nested.append(error.__cause__)
        else:
            yield error


def describe(error: BaseException) -> str:
    """Return one line that says what an engine raised.

    Of a group, that is its first error, ``NotSettled`` only if there is no other.
    """
    leaves = sorted(_leaves(error), key=lambda leaf: isinstance(leaf, NotSettled))
    error = leaves[0]
    if isinstance(error, NotSettled):
        return one_line(error) or "the engine says that nothing was sent"
    if isinstance(error, MessageRefused):
        return one_line(error) or "the engine does not say why"
    if isinstance(error, SettlementPending):
        return one_line(error)
    return "a time-out" if isinstance(error, trio.TooSlowError) else describe_error(error)
