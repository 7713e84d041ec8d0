"""The store on a SQLite file, as far as credits go."""

from collections.abc import Callable, Collection, Sequence
from sqlite3 import Connection
from typing import TypeVar

from outcome import Maybe

from settled.store.protocol_incoming import CreditLook, CreditSent, NewCredit
from settled.store.readers import Readers
from settled.store.records import (
    AddCredit,
    Credit,
    CreditState,
    DeliveryOutcome,
    NextDeliveries,
)
from settled.store.sql import deliveries, incoming, reads
from settled.store.sql.new_credits import Credits
from settled.store.writer import Pending, Writer

_T = TypeVar("_T")


class SqliteIncoming:
    """See ``settled.store.protocol_incoming.IncomingStore``."""

    _writer: Writer
    _readers: Readers
    _credits: Credits

    def _read(self, read: Callable[[Connection], _T]) -> Pending[_T]:
        return self._readers.read(read)

    def _read_together(self, read: Callable[[Connection], _T]) -> Pending[_T]:
        return self._readers.read_together(read)

    async def add_credit(self, change: AddCredit, *, hand_out: bool = False) -> Credit | None:
        new = NewCredit(change, hand_out)
        return await self._writer.write_together(self._credits.add, new)

    async def next_deliveries(
        self, account: int, limit: int, *, sending: Collection[int] = ()
    ) -> NextDeliveries:
        look = CreditLook(account, limit, sending)
        return await self._writer.write_together(deliveries.next_deliveries, look)

    def next_deliveries_of(
        self, looks: Sequence[CreditLook]
    ) -> Pending[list[Maybe[NextDeliveries]]]:
        return self._writer.write_all(deliveries.next_deliveries, looks)

    async def record_delivery(self, credit: Credit, outcome: DeliveryOutcome) -> None:
        sent = CreditSent(credit, outcome)
        await self._writer.write_together(self._credits.record, sent)

    def record_deliveries(self, ended: Sequence[CreditSent]) -> Pending[list[Maybe[None]]]:
        return self._writer.write_all(self._credits.record, ended)

    async def retry_credit(self, credit_id: str) -> Credit:
        return await self._writer.write(lambda tx: incoming.retry_credit(tx, credit_id))

    async def resolve_credit(self, credit_id: str, note: str) -> Credit:
        return await self._writer.write(lambda tx: incoming.resolve_credit(tx, credit_id, note))

    async def credits(
        self,
        *,
        account_id: str | None = None,
        state: CreditState | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Credit]:
        return await self._read(lambda conn: reads.credits(conn, account_id, state, before, limit))

    async def credit(self, credit_id: str) -> Credit:
        return await self._read(lambda conn: incoming.find_credit(conn, credit_id))
