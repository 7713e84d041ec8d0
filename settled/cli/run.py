"""``settled run``: the daemon, from its settings to its end."""

import contextlib
import gc
import sys
from typing import TYPE_CHECKING

import click

from settled import limits
from settled.cli.common import debug_option, settings_options
from settled.config import Config, Settings
from settled.engine.loading import load
from settled.errors import ConfigError

if TYPE_CHECKING:
    from settled.engine.protocol import Connect
    from settled.store.sqlite import SqliteStore


@click.command()
@settings_options
@debug_option
def run(config: Config) -> None:
    """Run a settlement engine until SIGTERM or SIGINT.

    What is under way then has --grace seconds to end; a second later the process is gone, whatever
    the engine does. A second signal ends it at once. Either way nothing is lost: what is unfinished
    goes on at the next start.

    Secret options are never given with -o: use -o NAME_file=PATH, or SETTLED_OPTION_NAME.

    \b
    Examples:
      settled run --engine loopback
      settled run --engine my_engine:create_engine -o precision=6 -o key_file=/etc/key
      settled run --config /etc/settled.toml --log-format json
    """
    import structlog
    import trio

    from settled.logs import set_up_logs

    settings = config.settings
    if settings.engine is None:
        raise ConfigError(
            "no engine: give --engine MODULE:NAME, or the name of an installed one "
            "(`settled engines` lists them)"
        )
    target = load(settings.engine)
    connect = target.make(config.options)
    set_up_logs(settings.log_format)
    for file in target.exposed(config.options):
        structlog.get_logger().warning(
            "secret_readable", file=file, reason="everybody on this machine can read it: chmod 600"
        )
    trio.run(_run, settings, connect)


async def _run(settings: Settings, connect: "Connect") -> None:
    import trio

    from settled.cli.ending import Ending
    from settled.cli.overstaying import Overstaying
    from settled.daemon import serve
    from settled.store.sqlite import open_sqlite

    serving, stop, scope = trio.Event(), trio.Event(), trio.CancelScope()
    token = trio.lowlevel.current_trio_token()

    def end() -> None:
        """End by a drain if there is something to drain."""
        if serving.is_set():
            stop.set()
        else:
            scope.cancel()

    def ask_to_end() -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(end)

    allowed_s = settings.grace + limits.SHUTDOWN_REST_S
    with Ending(ask_to_end, allowed_s=allowed_s) as ending, scope:
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
                short_lane=settings.short_lane,
            ) as daemon,
        ):
            await _tell_of_restore(store)
            # What is there now stays: looking through it again and again for garbage would hold up
            # every request for 0.1 s at a time.
            gc.freeze()
            # For so long an engine that computes in a thread may hold up the event loop at a time.
            sys.setswitchinterval(limits.SWITCH_INTERVAL_S)
            click.echo(
                f"settled: {settings.engine} listens on {daemon.url}, database {settings.db}"
            )
            serving.set()
            try:
                with Overstaying(token):  # from now on: a start may take its time
                    await stop.wait()
            finally:
                ending.begin()  # a crash is an end as well


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
