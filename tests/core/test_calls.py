"""What comes out of a call of the engine, whatever the engine lets out of it."""

import math
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import outcome
import pytest
import trio
from trio.testing import MockClock

from settled.core import calls
from settled.core.calls import UNDER_WAY, EngineFailed, call_engine, contain, describe
from settled.errors import NotSettled
from tests.harness import ScriptedEngine, memory_store, running


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    return call


def beside_its_cancellation(*errors: BaseException) -> Callable[[], Awaitable[None]]:
    """Return what waits, and when it is cancelled raises these as well, as a nursery would."""

    async def call() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            raise BaseExceptionGroup("cancelled", [cancelled, *errors]) from None

    return call


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings in the log."""
    events: list[str] = []
    monkeypatch.setattr(calls.log, "warning", lambda event, **_facts: events.append(event))
    return events


async def test_what_is_no_exception_comes_as_one_with_its_cause() -> None:
    for error in (SystemExit(3), GeneratorExit(), BaseExceptionGroup("g", [SystemExit(3)])):
        with pytest.raises(EngineFailed) as caught:
            await contain(raising(error))
        assert caught.value.__cause__ is error


async def test_an_exception_and_a_persons_ctrl_c_come_as_they_are() -> None:
    errors: list[BaseException] = [
        OSError("reset"),
        ExceptionGroup("g", [OSError("reset")]),
        KeyboardInterrupt(),
        BaseExceptionGroup("g", [OSError("reset"), KeyboardInterrupt()]),
    ]
    for error in errors:
        with pytest.raises(type(error)) as caught:
            await contain(raising(error))
        assert caught.value is error
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("beside", [(), (OSError("late"),), (OSError("late"), SystemExit(3))])
async def test_our_own_cancellation_comes_alone_and_what_was_beside_it_is_logged(
    beside: tuple[BaseException, ...], told: list[str]
) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await contain(beside_its_cancellation(*beside))
    assert scope.cancelled_caught
    assert told == ["engine_failed_when_cancelled"] * bool(beside)


async def test_a_plain_cancellation_of_ours_is_no_failure(told: list[str]) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await contain(trio.sleep_forever)
    assert scope.cancelled_caught
    assert told == []


async def test_a_cancellation_that_is_not_ours_is_a_failure() -> None:
    """One that was caught where it belonged, and is raised again where it does not."""
    with trio.CancelScope() as scope:
        scope.cancel()
        kept = await outcome.acapture(trio.sleep_forever)
    assert isinstance(kept, outcome.Error)
    with pytest.raises(EngineFailed):
        await contain(raising(kept.error))


async def test_who_ends_in_another_way_when_he_is_cancelled_has_failed() -> None:
    async def exits() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise SystemExit(3)

    with trio.CancelScope() as scope, pytest.raises(EngineFailed):
        scope.cancel()
        await contain(exits)


async def test_a_call_is_listed_while_it_lasts_with_the_time_that_it_has(
    autojump_clock: MockClock,
) -> None:
    seen: list[calls.Call] = []

    async def settle(account_id: str, amount: Decimal) -> Decimal:
        seen.extend(UNDER_WAY)
        if amount > 5:
            raise OSError("reset")
        return amount

    await trio.sleep(10_000)
    assert not UNDER_WAY
    with trio.fail_after(60):
        assert await call_engine("settle", settle, "alice", Decimal(5)) == 5
    assert not UNDER_WAY
    with pytest.raises(OSError, match="reset"):
        await call_engine("settle", settle, "bob", Decimal(6))
    assert not UNDER_WAY
    assert [(call.name, call.account_id) for call in seen] == [
        ("settle", "alice"),
        ("settle", "bob"),
    ]
    assert 50 < seen[0].due_s - time.monotonic() <= 60
    assert seen[1].due_s == math.inf


async def test_every_call_goes_by_the_name_that_the_engines_author_gave_it(
    autojump_clock: MockClock,
) -> None:
    seen: list[tuple[str, str]] = []

    async def note(account_id: str, *_arguments: Any) -> Any:
        seen.extend((call.name, call.account_id) for call in UNDER_WAY)
        if seen[-1][0] == "settle":
            raise OSError("reset")
        return 5

    engine = ScriptedEngine(
        note,
        find_settlement=note,
        setup_account=note,
        close_account=note,
        handle_message=note,
    )
    async with running(engine, memory_store()) as daemon:
        await daemon.operations.open_account("alice")
        await daemon.rest()
        await daemon.operations.handle_message("alice", b"1")
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 5)
        await daemon.operations.close_account("alice")
        await daemon.rest()
    names = ("setup_account", "handle_message", "settle", "find_settlement", "close_account")
    assert seen == [(name, "alice") for name in names]


def test_what_was_contained_is_told_by_its_cause() -> None:
    def caused(error: BaseException, cause: BaseException | None) -> BaseException:
        error.__cause__ = cause
        return error

    told: list[tuple[BaseException, Any]] = [
        (caused(EngineFailed(), SystemExit(3)), "SystemExit: 3"),
        (EngineFailed(), "EngineFailed"),
        (caused(ValueError("odd"), OSError("reset")), "ValueError: odd"),
        (caused(NotSettled("no"), OSError("reset")), "no"),
        (caused(EngineFailed(), BaseExceptionGroup("g", [NotSettled("no"), OSError("x")])), None),
    ]
    for error, line in told:
        assert describe(error) == (line or "OSError: x")
