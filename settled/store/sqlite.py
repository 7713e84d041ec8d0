"""The store on a SQLite file: one writer with group commit, readers beside it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from sqlite3 import Connection

import trio
from outcome import Maybe

from settled import limits
from settled.amounts import Quantity
from settled.errors import StoreBusy
from settled.store import clock, file, lock, soundness
from settled.store.clock import Uptime
from settled.store.guard import Guard
from settled.store.readers import Readers
from settled.store.records import (
    Account,
    AccountState,
    Change,
    Difference,
    Held,
    NextHook,
    NextSettlement,
    NotSent,
    Queued,
    Request,
    Settled,
    Settlement,
    SettlementOutcome,
    SettlementState,
    Space,
    Work,
)
from settled.store.sql import (
    accounts,
    audit,
    outgoing,
    payments,
    reads,
    recovery,
    restored,
    state,
    upkeep,
)
from settled.store.sql.ledger import Tx
from settled.store.sql.new_credits import Credits
from settled.store.sql.remembered import Remembered
from settled.store.sql.requests import Requests, is_requested
from settled.store.sqlite_incoming import SqliteIncoming
from settled.store.writer import Pending, Writer


@asynccontextmanager
async def open_sqlite(
    path: Path | str,
    *,
    exclusive: bool,
    create: bool = False,
    disk_reserve_bytes: int = limits.DISK_RESERVE_BYTES,
    now_ms: Callable[[], int] = clock.wall_ms,
    uptime: Callable[[], Uptime] = clock.uptime,
) -> AsyncIterator["SqliteStore"]:
    """Open the database at ``path`` as a ``settled.store.protocol.Store``.

    Args:
        path: the file; its ``-wal``, ``-shm`` and ``.lock`` files live beside it.
        exclusive: hold the database, as its one daemon; else work beside one, which notices that.
        create: make the file if there is none.
        disk_reserve_bytes: less free space than this is left to what is under way; 0: never.
        now_ms, uptime: the wall clock, and how long the machine is up.

    Raises:
        StoreHeld: when it is exclusive, and another process holds the database.
        ConfigError: when the file is missing, is no settled database, is damaged, or was written by
            a newer program.

    Example::

        async with open_sqlite("settled.db", exclusive=False) as store:
            for account in await store.accounts():
                print(account.id, account.queued)
    """
    path = Path(path)
    async with AsyncExitStack() as stack:
        with ExitStack() as locking:
            hold = None
            if exclusive:
                file.check(path, create=create)
                hold = locking.enter_context(lock.held(path))
            await trio.to_thread.run_sync(soundness.prepare, path, create, hold)
            stack.enter_context(locking.pop_all())
        store = SqliteStore(path, now_ms, uptime, hold, disk_reserve_bytes)
        stack.push_async_callback(store.aclose)
        yield store


class SqliteStore(SqliteIncoming):
    """See ``settled.store.protocol.Store``; made by ``open_sqlite``."""

    def __init__(
        self,
        path: Path,
        now_ms: Callable[[], int],
        uptime: Callable[[], Uptime],
        hold: lock.Hold | None,
        disk_reserve_bytes: int,
    ) -> None:
        self._path, self._disk_reserve_bytes = path, disk_reserve_bytes
        conn = file.connect(path)
        self._guard = guard = None if hold is None else Guard(path, hold)
        self._writer = Writer(conn, now_ms, uptime, nudge=guard is None, guard=guard)
        self._remember(conn)
        self._readers = Readers(path, self._writer, guard)

    def _remember(self, conn: Connection) -> None:
        """Begin to remember what is written on a connection."""
        remembered = Remembered(conn)
        self._requests = Requests(conn, remembered)
        self._credits = Credits(conn, remembered)
        self._writer.on_roll_back(remembered.forget)
        self._writer.allow_at_once(self._requests.queue, self._requests.queue_at_once)

    async def aclose(self) -> None:
        """Commit what waits and close every connection.

        Raises:
            StoreBroken: when a daemon's database has gone; what can be saved of it is saved.
        """
        await self._writer.aclose()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._readers.close)

    # --- accounts ---

    async def open_account(self, account_id: str, *, setup: bool = True) -> Account:
        return await self._writer.write(lambda tx: accounts.open_account(tx, account_id, setup))

    async def close_account(self, account_id: str) -> Account:
        return await self._writer.write(lambda tx: accounts.close_account(tx, account_id))

    async def account(self, account_id: str) -> Account:
        return await self._read_together(lambda conn: reads.account(conn, account_id))

    async def accounts(
        self,
        *,
        account_id: str | None = None,
        state: AccountState | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Account]:
        return await self._read(lambda conn: reads.accounts(conn, account_id, state, before, limit))

    async def next_hook(self, account: int) -> NextHook | None:
        return await self._writer.write(lambda tx: accounts.next_hook(tx, account))

    async def finish_hook(
        self, account: int, hook: str, *, failure: str | None = None, retry_delay_ms: int = 0
    ) -> None:
        await self._writer.write(
            lambda tx: accounts.finish_hook(tx, account, hook, failure, retry_delay_ms)
        )

    # --- outgoing ---

    def queue_settlement(self, account_id: str, quantity: Quantity, key: str) -> Pending[Queued]:
        asked = Request(account_id, quantity, key)
        return self._writer.write_together(self._requests.queue, asked)

    def begin_settlements(
        self, asked: Sequence[Request], done: Callable[[list[Maybe[Queued]]], None]
    ) -> None:
        self._writer.begin_all(self._requests.queue, asked, done)

    async def is_requested(self, account_id: str, key: str) -> bool:
        return await self._read(lambda conn: is_requested(conn, account_id, key))

    async def next_settlement(
        self, account: int, settlement_id: str, *, asset_scale: int | None = None
    ) -> NextSettlement:
        look = payments.Look(account, settlement_id, asset_scale)
        return await self._writer.write_together(self._next_settlements, look)

    async def record_outcome(self, settlement_id: str, outcome: SettlementOutcome) -> Settlement:
        end = payments.Ended(settlement_id, outcome)
        return await self._writer.write_together(self._record_outcomes, end)

    def _next_settlements(self, tx: Tx, looks: Sequence[payments.Look]) -> list[NextSettlement]:
        with self._requests.beside() as accounts:
            accounts.update(look.account for look in looks)
            return payments.next_settlements(tx, looks)

    def _record_outcomes(self, tx: Tx, ended: Sequence[payments.Ended]) -> list[Settlement]:
        with self._requests.beside() as accounts:
            settlements = payments.record_outcomes(tx, ended)
            accounts.update(settlement.account for settlement in settlements)
            return settlements

    async def resolve_settlement(
        self, settlement_id: str, outcome: Settled | NotSent
    ) -> Settlement:
        return await self._writer.write(
            lambda tx: outgoing.resolve_settlement(tx, settlement_id, outcome)
        )

    async def retry_settlement(self, account_id: str) -> Account:
        return await self._writer.write(lambda tx: recovery.retry_settlement(tx, account_id))

    async def interrupt_settlements(self) -> int:
        return await self._writer.write(recovery.interrupt_settlements)

    async def settlements(
        self,
        *,
        account_id: str | None = None,
        state: SettlementState | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Settlement]:
        return await self._read(
            lambda conn: reads.settlements(conn, account_id, state, before, limit)
        )

    async def settlement(self, settlement_id: str) -> Settlement:
        return await self._read(lambda conn: outgoing.find_settlement(conn, settlement_id))

    # --- the engine's state ---

    async def commit(self, changes: Sequence[Change]) -> list[int | None]:
        return await self._writer.write(lambda tx: state.commit(tx, changes))

    async def get_state(self, account_id: str | None, key: str) -> bytes | None:
        return await self._read(lambda conn: state.get_state(conn, account_id, key))

    async def list_state(self, account_id: str | None, prefix: str = "") -> list[tuple[str, bytes]]:
        return await self._read(lambda conn: state.list_state(conn, account_id, prefix))

    # --- a restored backup ---

    async def held(self) -> Held | None:
        """Return what is held back since a backup was restored; ``None``: nothing is."""
        return await self._read(restored.held)

    async def release(self, account_id: str, paid: Decimal) -> None:
        """Let the account's queue be paid, less ``paid``, which was paid since the backup."""
        await self._writer.write(lambda tx: restored.release(tx, account_id, paid))

    async def release_all(self, *, nothing_paid: bool = False) -> Held:
        """End it, if no account is held or nothing was paid; return what that set free."""
        return await self._writer.write(lambda tx: restored.release_all(tx, nothing_paid))

    # --- upkeep ---

    async def space(self) -> Space | None:
        return await trio.to_thread.run_sync(
            file.space, self._path, self._disk_reserve_bytes, abandon_on_cancel=True
        )

    async def look_over(self) -> list[Difference]:
        return [] if self._guard is None else await self._guard.look_over()

    async def unfinished(self, work: Work, *, after: int = 0, limit: int = 1000) -> list[int]:
        return await self._read(lambda conn: reads.unfinished(conn, work, after, limit))

    async def wait_foreign_writes(self) -> list[int]:
        while True:
            self._writer.check()
            if await self._read(upkeep.are_nudged):
                try:
                    return await self._writer.write(upkeep.take_nudges)
                except StoreBusy:
                    pass  # the other process is still at it
            await trio.sleep(limits.FOREIGN_WRITE_POLL_S)

    async def age_keys(self) -> None:
        await self._writer.write(upkeep.age_keys)

    async def purge_keys(self) -> int:
        return await self._writer.write(upkeep.purge_keys)

    async def audit(
        self, progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> list[Difference]:
        return await self._read(lambda conn: audit.audit(conn, progress))
