"""An engine is checked before anything runs, and connected and disconnected whatever happens."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from settled.engine.life import DISCONNECT_TIMEOUT_S, connected
from settled.engine.protocol import EngineCalls, check_engine
from settled.errors import ConfigError


class Whole:
    asset_scale = 2
    raw_messages = True

    async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
        return amount

    async def setup_account(self, account_id: str) -> None: ...
    async def close_account(self, account_id: str) -> None: ...
    async def handle_message(self, account_id: str, message: Any) -> Any:
        return message

    async def find_settlement(self, account_id: str, settlement_id: str) -> Decimal | None: ...
    async def disconnect(self) -> None: ...


class Minimal:
    async def settle(self, account_id: str, amount: Decimal) -> Decimal:
        return amount


class Log:
    """Takes down which events were logged."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def warning(self, event: str, **_: object) -> None:
        self.events.append(event)

    exception = warning


def services() -> Any:
    return SimpleNamespace(log=Log())


def engine_with(**attributes: object) -> object:
    return type("Made", (Minimal,), attributes)()


def test_every_method_and_attribute_of_an_engine_is_found() -> None:
    calls = check_engine(Whole(), source="x")
    assert calls.asset_scale == 2
    assert calls.raw_messages is True
    for name in (
        "settle",
        "setup_account",
        "close_account",
        "handle_message",
        "find_settlement",
        "disconnect",
    ):
        assert getattr(calls, name) is not None


def test_only_settle_is_needed() -> None:
    calls = check_engine(Minimal(), source="x")
    assert calls == EngineCalls(settle=calls.settle)


async def _three(account_id: str, amount: Decimal, settlement_id: str) -> object:
    return (account_id, amount, settlement_id)


async def _two(account_id: str, amount: Decimal) -> object:
    return (account_id, amount)


async def _other_name(account_id: str, amount: Decimal, reference: str) -> object:
    return (account_id, amount, reference)


async def _keyword_only(account_id: str, amount: Decimal, *, settlement_id: str) -> object:
    return (account_id, amount, settlement_id)


async def _optional_id(account_id: str, amount: Decimal, settlement_id: str = "") -> object:
    return (account_id, amount, settlement_id)


async def _id_after_own(
    account_id: str, amount: Decimal, memo: str = "memo", settlement_id: str = ""
) -> object:
    return (account_id, amount, memo, settlement_id)


async def _own_option(account_id: str, amount: Decimal, urgent: bool = False) -> object:
    return (account_id, amount, urgent)


async def _any(*args: object, **kwargs: object) -> object:
    return (*args, *kwargs.items())


async def _rest(account_id: str, amount: Decimal, **kwargs: object) -> object:
    return (account_id, amount, *kwargs.items())


async def _partial(fee: int, account_id: str, amount: Decimal, settlement_id: str) -> object:
    return (fee, account_id, amount, settlement_id)


class _Callable:
    async def __call__(self, account_id: str, amount: Decimal) -> object:
        return (account_id, amount)


def _wrap(settle: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    @functools.wraps(settle)
    def wrapper(*args: object) -> Awaitable[object]:
        return settle(*args)

    return wrapper


@pytest.mark.parametrize(
    ("settle", "received"),
    [
        (_three, ("a", Decimal(1), "id")),
        (_two, ("a", Decimal(1))),
        (_other_name, ("a", Decimal(1), "id")),
        (_keyword_only, ("a", Decimal(1), "id")),
        (_optional_id, ("a", Decimal(1), "id")),
        (_id_after_own, ("a", Decimal(1), "memo", "id")),
        (_own_option, ("a", Decimal(1), False)),
        (_any, ("a", Decimal(1), "id")),
        (_rest, ("a", Decimal(1))),
        (functools.partial(_partial, 7), (7, "a", Decimal(1), "id")),
        (_Callable(), ("a", Decimal(1))),
        (_wrap(_two), ("a", Decimal(1))),
    ],
)
async def test_settle_gets_the_settlement_id_only_where_it_takes_one(
    settle: Any, received: object
) -> None:
    calls = check_engine(SimpleNamespace(settle=settle), source="x")
    assert await calls.settle("a", Decimal(1), "id") == received


async def test_a_bound_method_gets_no_extra_self() -> None:
    calls = check_engine(Minimal(), source="x")
    assert await calls.settle("a", Decimal("1.5"), "id") == Decimal("1.5")


def _sync(self: object, account_id: str) -> None: ...


async def _none(self: object) -> None: ...


async def _one(self: object, account_id: str) -> None: ...


async def _swapped(self: object, account_id: str, settlement_id: str, amount: Decimal) -> None: ...


async def _four(self: object, a: str, b: Decimal, c: str, d: str) -> None: ...


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"settle": None}, ["has no settle", "async def settle(self, account_id, amount"]),
        ({"settle": _sync}, ["Made.settle is not an async function"]),
        ({"settle": 5}, ["Made.settle is not an async function"]),
        ({"settle": _one}, ["Made.settle takes (account_id", "expected `async def settle"]),
        ({"settle": _swapped}, ["Made.settle takes"]),
        ({"settle": _four}, ["Made.settle takes"]),
        ({"setup_account": _sync}, ["setup_account is not an async function"]),
        ({"setup_account": _none}, ["expected `async def setup_account(self, account_id)`"]),
        ({"close_account": _none}, ["async def close_account(self, account_id)"]),
        ({"handle_message": _one}, ["async def handle_message(self, account_id, message)"]),
        ({"find_settlement": _one}, ["find_settlement(self, account_id, settlement_id)"]),
        ({"disconnect": _one}, ["async def disconnect(self)"]),
        ({"asset_scale": True}, ["asset_scale is True", "0 to 255"]),
        ({"asset_scale": 256}, ["asset_scale is 256"]),
        ({"asset_scale": -1}, ["asset_scale is -1"]),
        ({"asset_scale": 2.0}, ["asset_scale is 2.0"]),
        ({"raw_messages": 1}, ["raw_messages is 1"]),
    ],
)
def test_a_fault_of_an_engine_is_one_line_that_names_it(
    attributes: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_engine(engine_with(**attributes), source="mine:connect")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("engine mine:connect: Made")
    for word in words:
        assert word in message


@pytest.mark.parametrize("scale", [0, 255, None])
def test_an_asset_scale_from_0_to_255_is_taken(scale: int | None) -> None:
    assert check_engine(engine_with(asset_scale=scale), source="x").asset_scale == scale


def test_a_connect_that_forgot_to_return_the_engine_is_told_so() -> None:
    with pytest.raises(ConfigError, match="must return the engine"):
        check_engine(None, source="x")


class Recorder(Minimal):
    """Takes down its own disconnection."""

    def __init__(self) -> None:
        self.disconnected = 0

    async def disconnect(self) -> None:
        await trio.lowlevel.checkpoint()  # would raise, were it not shielded
        self.disconnected += 1


async def test_an_async_function_is_awaited_and_its_engine_disconnected() -> None:
    engine = Recorder()

    async def connect(_: object) -> Recorder:
        return engine

    async with connected(connect, services()) as calls:
        assert await calls.settle("a", Decimal(1), "id") == 1
        assert engine.disconnected == 0
    assert engine.disconnected == 1


async def test_a_context_manager_is_entered_and_left() -> None:
    events = []

    @asynccontextmanager
    async def connect(_: object) -> AsyncIterator[Minimal]:
        events.append("in")
        yield Minimal()
        events.append("out")

    async with connected(connect, services()):
        assert events == ["in"]
    assert events == ["in", "out"]


async def test_the_engine_is_disconnected_when_the_block_raises_and_the_exception_goes_on() -> None:
    engine = Recorder()

    async def connect(_: object) -> Recorder:
        return engine

    with pytest.raises(KeyError, match="mine"):
        async with connected(connect, services()):
            raise KeyError("mine")
    assert engine.disconnected == 1


async def test_the_engine_is_disconnected_when_the_block_is_cancelled() -> None:
    engine = Recorder()

    async def connect(_: object) -> Recorder:
        return engine

    with trio.CancelScope() as scope:
        async with connected(connect, services()):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert engine.disconnected == 1


async def test_a_disconnect_that_hangs_is_left_after_its_time(
    autojump_clock: MockClock,
) -> None:
    class Hanging(Minimal):
        async def disconnect(self) -> None:
            await trio.sleep_forever()

    async def connect(_: object) -> Hanging:
        return Hanging()

    given = services()
    start_s = trio.current_time()
    async with connected(connect, given):
        pass
    assert trio.current_time() - start_s == DISCONNECT_TIMEOUT_S
    assert given.log.events == ["disconnect_timed_out"]


class Failing(Minimal):
    async def disconnect(self) -> None:
        raise OSError("gone")


async def _connect_failing(_: object) -> Failing:
    return Failing()


async def test_a_failing_disconnect_does_not_hide_why_the_block_ended() -> None:
    given = services()
    with pytest.raises(KeyError, match="mine"):
        async with connected(_connect_failing, given):
            raise KeyError("mine")
    assert given.log.events == ["disconnect_failed"]


async def test_a_failing_disconnect_is_raised_when_nothing_else_was() -> None:
    with pytest.raises(OSError, match="gone"):
        async with connected(_connect_failing, services()):
            pass


async def test_a_context_manager_cannot_silence_an_exception_of_the_block() -> None:
    @asynccontextmanager
    async def connect(_: object) -> AsyncIterator[Minimal]:
        with suppress(KeyError):
            yield Minimal()

    with pytest.raises(KeyError, match="mine"):
        async with connected(connect, services()):
            raise KeyError("mine")


async def test_what_connect_raises_goes_on_unchanged() -> None:
    async def connect(_: object) -> Minimal:
        raise ConnectionError("no ledger")

    with pytest.raises(ConnectionError, match="no ledger"):
        async with connected(connect, services()):
            raise AssertionError


async def test_a_bad_engine_is_refused_before_the_block_runs() -> None:
    async def connect(_: object) -> object:
        return object()

    with pytest.raises(ConfigError, match=r"engine tests.engine.test_protocol:.*has no settle"):
        async with connected(connect, services()):
            raise AssertionError


async def test_a_factory_that_was_taken_for_connect_gets_a_hint() -> None:
    def create_engine(options: Any) -> Any:
        return _connect_failing

    with pytest.raises(ConfigError, match="annotate its parameter with the dataclass"):
        async with connected(create_engine, services()):
            raise AssertionError
