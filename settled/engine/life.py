"""The span of an engine's life: connected before anything is served, disconnected last."""

import inspect
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from settled.core.calls import contain
from settled.engine.protocol import Connect, EngineCalls, check_engine
from settled.errors import ConfigError

if TYPE_CHECKING:
    from settled.engine.services import Services

DISCONNECT_TIMEOUT_S: Final = 5


@asynccontextmanager
async def connected(connect: Connect, services: "Services") -> AsyncIterator[EngineCalls]:
    """Connect the engine, and disconnect it at the end.

    An async function is awaited, and the engine's ``disconnect`` is called when the block is left,
    however it is left. An async context manager is entered and left instead. Either has 5 s for the
    end; more, if it does not heed that it is cancelled then.

    Raises:
        ConfigError: when what ``connect`` gives is no engine; whatever ``connect`` raises.
    """
    source = _name(connect)
    returned: object = connect(services)
    if isinstance(returned, AbstractAsyncContextManager):
        async with _entered(returned, source, services) as calls:
            yield calls
    elif inspect.isawaitable(returned):
        calls = check_engine(await contain(lambda: returned), source=source)
        async with _disconnecting(calls, services):
            yield calls
    else:
        hint = ""
        if callable(returned):
            hint = "; if it makes one, annotate its parameter with the dataclass of its options"
        raise ConfigError(
            f"engine {source} must be an async function or an async context manager, but returned "
            f"{type(returned).__name__}{hint}"
        )


def _name(connect: object) -> str:
    while hasattr(connect, "func"):  # a partial
        connect = connect.func
    named: Any = connect if hasattr(connect, "__qualname__") else type(connect)
    return f"{named.__module__}:{named.__qualname__}"


@asynccontextmanager
async def _entered(
    manager: AbstractAsyncContextManager[object], source: str, services: "Services"
) -> AsyncIterator[EngineCalls]:
    failure: BaseException | None = None
    # Around all of it, since what the manager holds open inside must be closed inside.
    with trio.CancelScope() as leaving:
        async with manager as engine:
            calls = check_engine(engine, source=source)
            try:
                yield calls
            except BaseException as error:
                failure = error
                raise
            finally:
                leaving.deadline = trio.current_time() + DISCONNECT_TIMEOUT_S
    if leaving.cancelled_caught:
        services.log.warning("disconnect_timed_out", timeout_s=DISCONNECT_TIMEOUT_S)
    # Only the engine's own exit could have silenced it, and this was not its to silence.
    if failure is not None:
        raise failure


@asynccontextmanager
async def _disconnecting(calls: EngineCalls, services: "Services") -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        try:
            await _disconnect(calls, services)
        except Exception:
            # The block's own exception is the one to raise.
            services.log.exception("disconnect_failed")
        raise
    await _disconnect(calls, services)


async def _disconnect(calls: EngineCalls, services: "Services") -> None:
    if calls.disconnect is None:
        return
    with trio.move_on_after(DISCONNECT_TIMEOUT_S, shield=True) as scope:
        await contain(calls.disconnect)
    if scope.cancelled_caught:
        services.log.warning("disconnect_timed_out", timeout_s=DISCONNECT_TIMEOUT_S)
