"""The daemon: store, engine, core and HTTP server put together, and its start and end in order."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import trio

from settled import limits
from settled.connector import Connector
from settled.core.calls import EngineFailed, contain, describe
from settled.core.core import Core
from settled.core.operations import Operations
from settled.core.patience import patiently
from settled.engine.life import connected
from settled.engine.protocol import Connect
from settled.engine.services import Services
from settled.errors import SettledError
from settled.http.listening import bind
from settled.store.protocol import Store

log = structlog.get_logger()


class EngineCrashed(SettledError):
    """A background task of the engine ended with an exception."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that serves.

    Attributes:
        url: where the connector reaches it.
        operations: the same verbs without HTTP.
        services: what the engine was handed.
    """

    url: str
    operations: Operations
    services: Services


@asynccontextmanager
async def serve(
    connect: Connect,
    store: Store,
    *,
    listen: str = "127.0.0.1:3000",
    connector_url: str = "http://localhost:7771",
    grace_s: float = limits.SHUTDOWN_GRACE_S,
    settle_timeout_s: float | None = None,
    certfile: Path | None = None,
    keyfile: Path | None = None,
    short_lane: bool = True,
) -> AsyncIterator[Daemon]:
    """Run an engine behind the connector's API for as long as the block lasts.

    Leaving the block drains: what is under way has ``grace_s`` to end, or goes on next time.

    Args:
        connect: the engine; see ``settled.Connect``.
        store: where everything is kept, such as ``open_sqlite(..., exclusive=True)`` gives.
        listen: ``host:port``; port 0 takes any free one.
        connector_url: where the connector takes credits and messages.
        grace_s: how long the end may take, in seconds.
        settle_timeout_s: how long ``settle`` may take, in seconds, before its outcome is unknown.
        certfile: serve TLS with this certificate chain (PEM).
        keyfile: the private key that goes with it (PEM).
        short_lane: answer ordinary settlements and messages without Hypercorn, much faster.

    Raises:
        ConfigError: when ``connect`` gives no proper engine, or a setting cannot be used.
        SettledError: when it cannot listen, or a task of the engine crashed.

    Example::

        async with (
            open_sqlite("settled.db", exclusive=True, create=True) as store,
            serve(connect, store) as daemon,
        ):
            print(daemon.url)
            await trio.sleep_forever()
    """
    interrupted = await patiently(store.interrupt_settlements)  # a command may hold it just now
    log.info("starting", interrupted_settlements=interrupted)
    connector, engine_tasks = Connector(connector_url), _EngineTasks()
    async with trio.open_nursery() as nursery:
        services = Services(store, connector, await engine_tasks.start(nursery))
        async with (
            connected(connect, services) as engine,
            engine_tasks.ending(),
            trio.open_nursery() as tasks,
        ):
            core = Core(store, engine, connector, tasks, settle_timeout_s=settle_timeout_s)
            services.attach(core)
            tasks.start_soon(connector.keep_connections)
            operations = Operations(store, core, engine)
            server = _Server(listen, (certfile, keyfile), grace_s, short_lane=short_lane)
            url = await server.start(tasks, operations)
            core.start()
            log.info("serving", url=url, connector=connector.shown_url)
            async with _draining(server, core, tasks, grace_s):
                yield Daemon(url, operations, services)


@asynccontextmanager
async def _draining(
    server: "_Server", core: Core, tasks: trio.Nursery, grace_s: float
) -> AsyncIterator[None]:
    """Drain at the end of the block, unless it raises."""
    try:
        yield
        await _drain(server, core, tasks, grace_s)
    finally:
        core.end()  # an engine may still credit while it disconnects


async def _drain(server: "_Server", core: Core, tasks: trio.Nursery, grace_s: float) -> None:
    """Let what is under way end, for a while; then end all tasks."""
    log.info("draining", grace_s=grace_s)
    with trio.move_on_after(grace_s) as grace:
        # At the same time: a client who dawdles must not let new payments begin meanwhile.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.stop)
            nursery.start_soon(core.drain)
    log.info("stopped", drained=not grace.cancelled_caught)
    tasks.cancel_scope.cancel()


class _EngineTasks:
    """The nursery of the engine's background tasks, as a thing that is started and stopped."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._ending = trio.Event()
        self._stopped = trio.Event()
        self._crashed = False

    async def start(self, daemon: trio.Nursery) -> trio.Nursery:
        """Open the nursery, in that of the daemon."""
        daemon.start_soon(self._heed_crash, daemon.cancel_scope)
        tasks: trio.Nursery = await daemon.start(self._run)
        return tasks

    async def _run(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        try:
            await contain(self._run_tasks, task_status)
        except Exception as error:
            log.exception("engine_crashed", reason=describe(error))
            raise EngineCrashed(
                f"a background task of the engine crashed: {describe(error)}; nothing is lost, "
                f"start again when its cause is mended"
            ) from error
        finally:
            self._stopped.set()

    async def _run_tasks(self, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                try:
                    await trio.sleep_forever()
                finally:
                    self._ending.set()
        cancelled = self._scope.cancel_called or trio.current_effective_deadline() == -math.inf
        if self._crashed or not cancelled:
            # A nursery takes a cancellation that one of its tasks made up for its own.
            raise EngineFailed("services.nursery was cancelled, from within the engine")

    async def _heed_crash(self, daemon: trio.CancelScope) -> None:
        """End the daemon as soon as a task crashes, though another one may not end then."""
        await self._ending.wait()
        if not self._scope.cancel_called:
            log.error("engine_crashing", advice="the reason follows when its other tasks ended")
            self._crashed = True
            self._scope.shield = True  # so that the reason comes without our cancellation
            daemon.cancel()

    @asynccontextmanager
    async def ending(self) -> AsyncIterator[None]:
        """End the tasks when the block ends: before the engine disconnects what they use."""
        try:
            yield
        finally:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self._stopped.wait()


class _Server:
    """The HTTP server as a thing that is started and stopped."""

    def __init__(
        self,
        listen: str,
        tls: tuple[Path | None, Path | None],
        grace_s: float,
        *,
        short_lane: bool,
    ) -> None:
        self._listen = listen
        self._certfile, self._keyfile = (None if path is None else str(path) for path in tls)
        self._grace_s = grace_s
        self._short_lane = short_lane
        self._stop = trio.Event()
        self._stopped = trio.Event()

    async def start(self, nursery: trio.Nursery, operations: Operations) -> str:
        """Serve in ``nursery``; return the URL once connections are accepted."""
        # Quart and Hypercorn are half of the start-up time of a command that needs neither.
        from settled.http.app import make_app
        from settled.http.server import serve_http

        sock = bind(self._listen)
        host, port = sock.getsockname()[:2]
        serving = partial(
            serve_http,
            make_app(operations),
            sock,
            operations=operations if self._short_lane else None,
            certfile=self._certfile,
            keyfile=self._keyfile,
            shutdown=self._stop.wait,
            grace_s=self._grace_s,
        )
        await nursery.start(self._run, serving)
        scheme = "http" if self._certfile is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def _run(self, serving: partial[object], *, task_status: trio.TaskStatus[None]) -> None:
        await serving(task_status=task_status)  # type: ignore[misc]
        self._stopped.set()

    async def stop(self) -> None:
        """Accept nothing more, and wait until the requests under way are answered."""
        self._stop.set()
        await self._stopped.wait()
