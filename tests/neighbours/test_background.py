"""An engine's start, background tasks and end that go wrong, and names that it misspells."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio

from settled import ConfigError, Services, serve
from settled.daemon import EngineCrashed
from settled.engine.life import connected
from settled.engine.protocol import check_engine
from settled.store.memory import MemoryStore
from tests.neighbours import engines
from tests.neighbours.conftest import Events
from tests.neighbours.engines import Misdeed, Panic
from tests.test_daemon import Engine, daemon, request, until

CRASHES: dict[str, Misdeed] = {
    "OSError": engines.raises(OSError("the ledger is gone")),
    "SystemExit": engines.raises(SystemExit(0)),
    "panic": engines.raises(Panic("index out of bounds")),
    "GeneratorExit": engines.raises(GeneratorExit()),
    "stray cancellation": engines.stray_cancellation,
    "group": engines.raises(BaseExceptionGroup("two", [SystemExit(1), OSError("reset")])),
}


def watching(*tasks: Callable[[], Awaitable[object]]) -> Callable[[Services], Engine]:
    def make(services: Services) -> Engine:
        for task in tasks:
            services.nursery.start_soon(task)
        return Engine(services)

    return make


@pytest.mark.parametrize("name", CRASHES)
async def test_a_background_task_that_crashes_in_any_way_ends_the_daemon_with_the_reason(
    name: str, tmp_path: Path
) -> None:
    """Never in silence: without its task, an engine would not see what it is paid."""
    crash = trio.Event()

    async def task() -> None:
        await crash.wait()
        await CRASHES[name]()

    with pytest.raises(BaseExceptionGroup) as caught, trio.fail_after(10):
        async with daemon(tmp_path, watching(task, trio.sleep_forever)) as (_, store, client):
            await request(client, "5", "k")
            await until(store, "settled", 5)
            crash.set()
            await trio.sleep_forever()
    assert caught.group_contains(EngineCrashed, match="a background task of the engine crashed")
    assert caught.value.split((EngineCrashed, trio.Cancelled))[1] is None, "and nothing beside it"
    async with daemon(tmp_path) as (_, store, _):
        assert (await store.account("alice")).settled == 5


async def test_an_engine_that_cancels_its_own_tasks_has_crashed(tmp_path: Path) -> None:
    with pytest.raises(BaseExceptionGroup) as caught, trio.fail_after(10):
        async with daemon(tmp_path) as (running, _, _):
            running.services.nursery.cancel_scope.cancel()
            await trio.sleep_forever()
    assert caught.group_contains(EngineCrashed, match="cancelled, from within the engine")


async def test_a_daemon_that_is_cancelled_from_outside_just_ends(tmp_path: Path) -> None:
    for after_s in (0.0, 0.3):
        with trio.move_on_after(10) as scope:
            async with daemon(tmp_path, watching(trio.sleep_forever)) as (running, _, _):
                running.services.nursery.start_soon(trio.sleep_forever)
                await trio.sleep(after_s)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_a_persons_ctrl_c_in_a_background_task_is_one(tmp_path: Path) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with daemon(tmp_path, watching(engines.raises(KeyboardInterrupt()))):
            await trio.sleep(10)
    assert caught.group_contains(KeyboardInterrupt)


@pytest.mark.parametrize("name", CRASHES)
async def test_a_start_that_fails_in_any_way_is_an_error(name: str) -> None:
    async def connect(_services: Services) -> Any:
        return await CRASHES[name]()

    with pytest.raises((Exception, ExceptionGroup)) as caught, trio.fail_after(10):
        async with serve(connect, MemoryStore(), listen="127.0.0.1:0"):
            raise AssertionError
    assert not isinstance(caught.value, AssertionError)


@pytest.mark.parametrize("name", CRASHES)
async def test_a_disconnect_that_fails_in_any_way_is_an_error(name: str, tmp_path: Path) -> None:
    class Leaving(Engine):
        async def disconnect(self) -> None:
            await CRASHES[name]()

    with pytest.raises((Exception, ExceptionGroup)), trio.fail_after(10):
        async with daemon(tmp_path, Leaving):
            pass


@pytest.mark.parametrize("shielded", [False, True])
async def test_a_manager_that_does_not_end_is_left_after_its_time(
    shielded: bool, autojump_clock: object
) -> None:
    @asynccontextmanager
    async def connect(_services: object) -> AsyncIterator[Engine]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield Engine(None)  # type: ignore[arg-type]
            with trio.CancelScope(shield=shielded):
                await trio.sleep(100)

    events: list[str] = []

    class Log:
        def warning(self, event: str, **_: object) -> None:
            events.append(event)

    services: Any = type("Services", (), {"log": Log()})
    started_s = trio.current_time()
    async with connected(connect, services):
        pass
    assert trio.current_time() - started_s == (100 if shielded else 5)
    assert events == ["disconnect_timed_out"]


# --- names ---


async def _method(self: object, *_arguments: object) -> None: ...


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("find_settlment", "find_settlement"),
        ("find_settlements", "find_settlement"),
        ("findSettlement", "find_settlement"),
        ("setup_acount", "setup_account"),
        ("set_up_account", "setup_account"),
        ("close_acccount", "close_account"),
        ("handle_mesage", "handle_message"),
        ("handleMessage", "handle_message"),
        ("disconect", "disconnect"),
    ],
)
def test_a_hook_that_is_misspelled_is_told_of_when_it_is_loaded(
    written: str, meant: str, events: Events
) -> None:
    check_engine(type("Mine", (Engine,), {written: _method})(None), source="mine:connect")
    (event,) = events
    assert event == {
        "event": "engine_has_unknown_name",
        "log_level": "warning",
        "engine": "mine:connect",
        "name": written,
        "perhaps_meant": meant,
    }


@pytest.mark.parametrize(
    ("written", "meant"), [("asset_scales", "asset_scale"), ("rawMessages", "raw_messages")]
)
def test_an_attribute_that_is_misspelled_is_told_of_too(
    written: str, meant: str, events: Events
) -> None:
    check_engine(type("Mine", (Engine,), {written: 2})(None), source="mine:connect")
    assert [(event["name"], event["perhaps_meant"]) for event in events] == [(written, meant)]


def test_a_misspelled_settle_is_named_in_the_error() -> None:
    mine = type("Mine", (), {"setle": _method})()
    with pytest.raises(ConfigError, match=r"has no settle \(is it setle\?\); expected"):
        check_engine(mine, source="mine:connect")


def test_names_of_its_own_are_an_engines_own_matter(events: Events) -> None:
    own = dict.fromkeys(
        ("connect", "settled", "settlement", "account", "message", "pay", "find", "watch", "setup"),
        _method,
    )
    whole = dict.fromkeys(("setup_account", "setup_accounts", "find_settlement"), _method)
    attributes = {"disconnected": False, "_find_settlment": _method, "services": None}

    class Mine(Engine):
        @property
        def find_settlment_of_others(self) -> None:
            raise AssertionError("nothing of it is called")

    mine = type("Own", (Mine,), {**own, **whole, **attributes})(None)
    check_engine(mine, source="mine:connect")
    assert events == []


async def test_a_hook_that_is_not_async_is_refused_by_name() -> None:
    def settle(self: object, account_id: str, amount: Decimal) -> Decimal:
        return amount

    for name, function in (("settle", settle), ("find_settlement", lambda *_: None)):
        mine = type("Mine", (Engine,), {name: function})(None)
        with pytest.raises(ConfigError, match=f"Mine.{name} is not an async function"):
            check_engine(mine, source="mine:connect")
