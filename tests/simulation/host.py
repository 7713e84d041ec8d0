"""A simulated host: a daemon on a disk, that crashes anywhere and starts again."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from settled.connector import Connector
from settled.core.core import Core
from settled.core.operations import Operations
from settled.core.patience import patiently
from settled.engine.life import connected
from settled.engine.services import Services
from settled.errors import StoreBroken
from settled.http.replies import Reply
from settled.server import Server
from settled.store import file
from settled.store.clock import Uptime
from settled.store.sql.ledger import Tx
from tests.simulation.disk import Disk, SimulatedStore, remove_files, write_files
from tests.simulation.engine import Ability, SimulatedEngine, make_engine
from tests.simulation.ledger import Ledger
from tests.simulation.network import Answer
from tests.simulation.world import DAY_S, HOST, HOUR_S, Crash, World

_EPOCH_MS: Final = 1_800_000_000_000
_STEPS_MAX: Final = 3000
_SETTLE_TIMEOUT_S: Final = 120.0
_DRAIN_S: Final = 10.0
_ENDED: Final = (Crash, StoreBroken)


class Host:
    """One machine, its clock, its disk, and the daemon that it runs.

    Args:
        world: the run.
        name: what it is called.
        directory: where its files are.
        ability: what its engine can do.
        ledger: what it pays on.
    """

    def __init__(
        self, world: World, name: str, directory: Path, ability: Ability, ledger: Ledger
    ) -> None:
        self.world = world
        self.name = name
        self.ability = ability
        self.check: Callable[[Host], None] = lambda _: None
        self.check_whole: Callable[[Host], None] = lambda _: None
        self.transport: Server | None = None
        self.operations: Operations | None = None
        self.store: SimulatedStore | None = None
        self.clock_was_set = False
        self._ledger = ledger
        self._directory = directory
        self._life = 0
        self._wall_offset_ms = 0.0
        self._booted_s = 0.0
        self._boot = 0
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._disk: Disk | None = None
        self._steps_left: int | None = None

    @property
    def path(self) -> Path:
        """The database of this life of the daemon."""
        return self._directory / str(self._life) / "settled.db"

    # --- its clock ---

    def wall_ms(self) -> int:
        return round(_EPOCH_MS + trio.current_time() * 1000 + self._wall_offset_ms)

    def uptime(self) -> Uptime:
        return Uptime(str(self._boot), round((trio.current_time() - self._booted_s) * 1000))

    def set_clock(self) -> None:
        """Set the wall clock wrong, or right again."""
        dice = self.world.dice
        kind = dice.choice(["right", "hours", "years"])
        days = dice.uniform(-3650, 3650)
        seconds = {"right": 0.0, "hours": dice.uniform(-3, 3) * HOUR_S, "years": days * DAY_S}[kind]
        self._wall_offset_ms = seconds * 1000
        self.clock_was_set = True
        self.world.note("clock set", by_s=round(seconds))

    # --- its life ---

    async def live(self) -> None:
        """Run the daemon, crash it, and start it again, for as long as the run lasts."""
        HOST.set(self.name)
        world = self.world
        while True:
            with trio.CancelScope() as self._scope:
                try:
                    await self._run()
                except _ENDED as error:
                    world.note("ended", error=type(error).__name__)
                except BaseExceptionGroup as group:
                    others = group.split(_ENDED)[1]
                    others = others and others.split(trio.Cancelled)[1]
                    if others is not None:
                        raise
                    world.note("ended")
            self._buried()
            down_s = world.delay_s(world.horizon_s / 50) if world.faulty else 1.0
            await trio.sleep(down_s)
            self._restarted()

    def _buried(self) -> None:
        """Take what the disk holds over to the next life."""
        assert self._disk is not None
        assert self.store is not None
        self.operations = None
        survivors = self._disk.survivors()
        old = self.path
        self.store.close()
        self._life += 1
        write_files(self.path, survivors)
        remove_files(old)
        self.store, self._disk = None, None

    def _restarted(self) -> None:
        if self.world.chance(0.3):
            self._boot += 1
            self._booted_s = trio.current_time()
        if self.world.fault("clock set while down", self.world.rates.clock):
            self.set_clock()

    async def _run(self) -> None:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True)
            file.create_empty(self.path)
            file.migrate(self.path)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            disk = self._disk = Disk(
                self.path,
                self.world,
                now_ms=self.wall_ms,
                uptime=self.uptime,
                on_commit=self._committed,
                on_crash=self.crash,
            )
            self.store = SimulatedStore(self.path, disk)
            nursery.start_soon(disk.run)
            self._plan_crash()
            try:
                async with self._daemon(self.store) as core:
                    await self._wait_for_the_end()
                    with trio.move_on_after(_DRAIN_S):
                        await core.drain()
                    self.world.note("drained")
            finally:
                self.crash()

    @asynccontextmanager
    async def _daemon(self, store: SimulatedStore) -> AsyncIterator[Core]:
        """The daemon as ``settled.serve`` puts it together, but for the HTTP server."""
        disk = self._disk
        assert disk is not None
        self.check_whole(self)
        self.world.note("start", interrupted=await patiently(store.interrupt_settlements))
        async with trio.open_nursery() as engine_nursery:
            connector = Connector("http://connector", server=self.transport)
            services = Services(store, connector, engine_nursery)

            async def connect(services: Services) -> SimulatedEngine:
                engine = make_engine(
                    self.ability,
                    world=self.world,
                    name=self.name,
                    services=services,
                    ledger=self._ledger,
                    check_alive=disk.check_alive,
                )
                services.nursery.start_soon(engine.watch)
                return engine

            async with connected(connect, services) as engine, trio.open_nursery() as nursery:
                core = Core(
                    store,
                    engine,
                    connector,
                    nursery,
                    settle_timeout_s=_SETTLE_TIMEOUT_S,
                )
                services.attach(core)
                self.operations = Operations(store, core, engine)
                core.start()
                yield core
                nursery.cancel_scope.cancel()
            engine_nursery.cancel_scope.cancel()

    async def _wait_for_the_end(self) -> None:
        """Return when the operator stops the daemon; while faults last, he does now and then."""
        world = self.world
        while True:
            await trio.sleep(world.delay_s(world.horizon_s / 8))
            if world.fault("clock set", world.rates.clock / 4):
                self.set_clock()
            if world.fault("daemon stopped", 0.2):
                self.operations = None
                return

    # --- its end ---

    def _plan_crash(self) -> None:
        """Choose at which of the steps of its tasks the daemon is killed, if at any."""
        dice = self.world.dice
        self._steps_left = None
        if self.world.chance(0.8):
            self._steps_left = int(_STEPS_MAX ** dice.random())

    def step(self) -> None:
        """One of the host's tasks is about to go on."""
        if self._steps_left is not None and self._disk is not None:
            self._steps_left -= 1
            if self._steps_left <= 0 and self.world.faulty:
                self._steps_left = None
                self.world.injected["killed"] += 1
                self.world.note("killed")
                self.crash()

    def crash(self) -> None:
        """Have nothing that the program does from now on take effect, and end it."""
        self.operations = None
        self._scope.cancel()
        if self._disk is not None:
            self._disk.kill()

    def _committed(self) -> None:
        self.check(self)

    # --- its operator ---

    def by_hand(self, change: Callable[[Tx], object]) -> None:
        """Change the database from another process, as the commands do."""
        conn = file.connect(self.path)
        try:
            conn.execute("BEGIN IMMEDIATE")
            change(Tx(conn, self.wall_ms(), self.uptime(), nudge=True))
            conn.execute("COMMIT")
            self.world.note("by hand", host=self.name)
        finally:
            conn.close()
        self.check(self)

    # --- its daemon as a server ---

    async def answer(self, verb: Callable[[Operations], Awaitable[Reply]]) -> Answer | None:
        """Have the daemon answer a request; ``None`` if it is down or dies meanwhile."""
        operations, nursery = self.operations, self._nursery
        if operations is None or nursery is None:
            return None
        replies: list[Reply] = []
        ended = trio.Event()
        scope = trio.CancelScope()

        async def run() -> None:
            HOST.set(self.name)
            try:
                with scope:
                    replies.append(await verb(operations))
            finally:
                ended.set()

        nursery.start_soon(run)
        try:
            await ended.wait()
        except trio.Cancelled:
            scope.cancel()  # the server notices that its client has hung up
            raise
        return Answer(replies[0].status, replies[0].body) if replies else None
