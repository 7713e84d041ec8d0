"""``settled run``: the daemon, from its settings to its end."""

import os
import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import click

from settled.cli.common import debug_option, settings_options
from settled.config import Config, Settings
from settled.engine.loading import load
from settled.errors import ConfigError

if TYPE_CHECKING:
    import trio

    from settled.engine.protocol import Connect
    from settled.store.sqlite import SqliteStore


_SAME_SIGNAL_S: Final = 0.5


@click.command()
@settings_options
@debug_option
def run(config: Config) -> None:
    """Run a settlement engine until SIGTERM or SIGINT.

    What is under way then has --grace seconds to end; a second signal ends it at once. Either way
    nothing is lost: what is unfinished goes on at the next start.

    Secret options are never given with -o: use -o NAME_file=PATH, or SETTLED_OPTION_NAME.

    \b
    Examples:
      settled run --engine loopback
      settled run --engine my_engine:create_engine -o precision=6 -o key_file=/etc/key
      settled run --config /etc/settled.toml --log-format json
    """
    import trio

    from settled.logs import set_up_logs

    settings = config.settings
    if settings.engine is None:
        raise ConfigError(
            "no engine: give --engine MODULE:NAME, or the name of an installed one "
            "(`settled engines` lists them)"
        )
    connect = load(settings.engine).make(config.options)
    set_up_logs(settings.log_format)
    trio.run(_run, settings, connect)


async def _run(settings: Settings, connect: "Connect") -> None:
    import trio

    from settled.daemon import serve
    from settled.store.sqlite import open_sqlite

    serving, stop = trio.Event(), trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(_watch, signals, serving, stop, scope)
            with scope:
                async with (
                    open_sqlite(
                        settings.db,
                        exclusive=True,
                        create=True,
                        disk_reserve_bytes=settings.disk_reserve_bytes,
                    ) as store,
                    serve(
                        connect,
                        store,
                        listen=settings.listen,
                        connector_url=settings.connector_url,
                        grace_s=settings.grace,
                        settle_timeout_s=settings.settle_timeout,
                        certfile=settings.certfile,
                        keyfile=settings.keyfile,
                    ) as daemon,
                ):
                    await _tell_of_restore(store)
                    click.echo(
                        f"settled: {settings.engine} listens on {daemon.url}, "
                        f"database {settings.db}"
                    )
                    serving.set()
                    await stop.wait()
            nursery.cancel_scope.cancel()


async def _tell_of_restore(store: "SqliteStore") -> None:
    import structlog

    from settled.cli.records import iso

    held = await store.held()
    if held is not None:
        structlog.get_logger().error(
            "restored_backup",
            taken_at=iso(held.taken_ms),
            held_accounts=len(held.accounts),
            advice="nothing that is queued is paid before `settled release`",
        )


async def _watch(
    signals: AsyncIterator[int],
    serving: "trio.Event",
    stop: "trio.Event",
    scope: "trio.CancelScope",
) -> None:
    """Stop at the first signal, by a drain if there is something to drain; end at the second."""
    import trio

    await anext(signals)
    if serving.is_set():
        stop.set()
    else:
        scope.cancel()
    # One wish may come twice, to the process and to its group: that is not a second one.
    first_s = trio.current_time()
    number = await anext(signals)
    while trio.current_time() < first_s + _SAME_SIGNAL_S:
        number = await anext(signals)
    # Nothing that hangs, not even a thread, may hold this up; what is durable needs no farewell.
    os._exit(128 + number)
