"""What an engine can do wrong while it is called: raise anything, return anything, never return."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, Final, NoReturn

import outcome
import trio
import trio.lowlevel

from settled import NotSettled

Misdeed = Callable[[], Awaitable[object]]


class Panic(BaseException):
    """As a panic in Rust code arrives (``pyo3_runtime.PanicException``): no ``Exception``."""


class Unspeakable(Exception):
    def __str__(self) -> NoReturn:
        raise ValueError("no words")


class LyingDecimal(Decimal):
    """Claims to be whatever is asked for."""

    def is_finite(self) -> bool:
        return True

    def __lt__(self, other: object) -> bool:
        return False


class LyingNumber:
    """No number, and asking what it is raises."""

    @property  # type: ignore[misc]
    def __class__(self) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("mind your own business")


def raises(error: BaseException) -> Misdeed:
    async def misdeed() -> object:
        raise error

    return misdeed


def returns(value: object) -> Misdeed:
    async def misdeed() -> object:
        return value

    return misdeed


async def stray_cancellation() -> object:
    """A cancellation that was caught where it belonged, and is raised again where it does not."""
    with trio.CancelScope() as scope:
        scope.cancel()
        kept = await outcome.acapture(trio.sleep_forever)
    assert isinstance(kept, outcome.Error)
    raise kept.error


async def stray_cancellation_in_a_group() -> object:
    try:
        await stray_cancellation()
    except trio.Cancelled as cancelled:
        raise BaseExceptionGroup("two", [cancelled, NotSettled("no funds")]) from None
    raise AssertionError


async def panic_in_a_nursery() -> object:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises(Panic("index out of bounds")))
        await trio.sleep_forever()
    raise AssertionError


async def scope_left_open() -> object:
    trio.CancelScope().__enter__()
    await trio.lowlevel.checkpoint()
    return Decimal(5)


async def of_another_framework() -> object:
    future: asyncio.Future[object] = asyncio.Future(loop=_LOOP)
    return await future


async def endless_recursion() -> object:
    return await endless_recursion()


def deep_group(depth: int) -> BaseException:
    error: Exception = OSError("at the bottom")
    for _ in range(depth):
        error = ExceptionGroup("deeper", [error])
    return error


_LOOP: Final = asyncio.new_event_loop()
_LOOP.close()

# What leaves a payment's outcome open, whatever else it is.
RAISING: Final[dict[str, Misdeed]] = {
    "Exception": raises(Exception()),
    "Unspeakable": raises(Unspeakable()),
    "surrogate": raises(OSError("half a character: \ud800")),
    "long": raises(OSError("x\n" * 20_000)),
    "StopIteration": raises(StopIteration(5)),
    "StopAsyncIteration": raises(StopAsyncIteration(5)),
    "GeneratorExit": raises(GeneratorExit()),
    "RecursionError": endless_recursion,
    "MemoryError": raises(MemoryError()),
    "AssertionError": raises(AssertionError()),
    "TimeoutError": raises(TimeoutError()),
    "TooSlowError": raises(trio.TooSlowError()),
    "asyncio.CancelledError": raises(asyncio.CancelledError()),
    "SystemExit": raises(SystemExit(0)),
    "panic": raises(Panic("index out of bounds")),
    "panic in a nursery": panic_in_a_nursery,
    "group with NotSettled": raises(
        ExceptionGroup("two", [NotSettled("no funds"), OSError("reset")])
    ),
    "group of groups with NotSettled": raises(
        ExceptionGroup(
            "g", [ExceptionGroup("h", [NotSettled("no")]), ExceptionGroup("i", [OSError()])]
        )
    ),
    "NotSettled beside a panic": raises(
        BaseExceptionGroup("two", [NotSettled("no funds"), Panic("p")])
    ),
    "NotSettled beside SystemExit": raises(
        BaseExceptionGroup("two", [NotSettled("no funds"), SystemExit(1)])
    ),
    "deep group": raises(deep_group(300)),
    "stray cancellation": stray_cancellation,
    "stray cancellation beside NotSettled": stray_cancellation_in_a_group,
    "scope left open": scope_left_open,
    "another framework": of_another_framework,
}

RETURNING: Final[dict[str, Misdeed]] = {
    "None": returns(None),
    "bool": returns(True),
    "float": returns(5.0),
    "NaN float": returns(float("nan")),
    "text": returns("5"),
    "bytes": returns(b"5"),
    "tuple": returns((Decimal(5),)),
    "complex": returns(5j),
    "coroutine function": returns(stray_cancellation),
    "NaN": returns(Decimal("NaN")),
    "sNaN": returns(Decimal("sNaN")),
    "infinity": returns(Decimal("Infinity")),
    "minus infinity": returns(Decimal("-Infinity")),
    "negative": returns(Decimal("-0.01")),
    "negative int": returns(-5),
    "too fine": returns(Decimal("1E-256")),
    "far too fine": returns(Decimal("1E-999999")),
    "monster": returns(Decimal("1E+999999")),
    "monster int": returns(10**5000),
    "lying NaN": returns(LyingDecimal("NaN")),
    "lying negative": returns(LyingDecimal("-5")),
    "lying number": returns(LyingNumber()),
}

NOT_SETTLED: Final[dict[str, BaseException]] = {
    "plain": NotSettled("no funds"),
    "without a reason": NotSettled(),
    "None": NotSettled(None),
    "bytes": NotSettled(b"\xff"),
    "lines": NotSettled("no\nfunds\x1b[2J"),
    "surrogate": NotSettled("\ud800"),
    "long": NotSettled("x" * 20_000),
    "unspeakable": NotSettled(Unspeakable()),
    "a class": type("OurOwn", (NotSettled,), {})("no funds"),
    "group": ExceptionGroup("g", [NotSettled("no"), ExceptionGroup("h", [NotSettled("funds")])]),
}


async def hangs() -> object:
    await trio.sleep_forever()
    raise AssertionError


async def swallows_cancellation() -> object:
    """Hangs, takes its cancellation for an error, and raises another."""
    try:
        await trio.sleep_forever()
    except BaseException as error:  # the very thing not to do
        raise OSError("gave up") from error
    raise AssertionError


async def pays_though_cancelled() -> object:
    with contextlib.suppress(BaseException):
        await trio.sleep_forever()
    return Decimal(5)


async def shielded_for_a_while() -> object:
    with trio.CancelScope(shield=True):
        await trio.sleep(100)
    return Decimal(5)


def any_arguments(misdeed: Misdeed) -> Callable[..., Awaitable[Any]]:
    """Return the misdeed as a method that takes whatever it is called with."""

    async def method(*_arguments: object) -> object:
        return await misdeed()

    return method
