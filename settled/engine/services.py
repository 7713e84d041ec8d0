"""What an engine is handed: messages, credits, its own durable state, and a nursery.

An engine never sees that the store is busy: its writes wait until it is not.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, overload

import msgspec
import structlog
import trio

from settled import ids
from settled.connector import Connector
from settled.core.core import Core
from settled.core.patience import patiently
from settled.errors import MessageFailed
from settled.store.protocol import Store
from settled.store.records import AddCredit, Change, RequireState, SetState
from settled.text import from_json


class State:
    """A small durable key-value store: one scope for the engine, one for each account.

    Keys have 1 to 255 characters; values are anything that JSON can hold, 64 KiB at most.

    Example::

        await services.state.set("cursor", 4711)
        peer = await services.state.get("peer", account_id=account_id)
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, key: str, account_id: str | None = None) -> Any:
        """Return the value of ``key``, ``None`` if there is none."""
        _check_text(key, account_id)
        value = await self._store.get_state(account_id, key)
        return None if value is None else msgspec.json.decode(value)

    async def set(self, key: str, value: object, account_id: str | None = None) -> None:
        """Set ``key``; durable when it returns.

        Raises:
            ValueError: when the key or the value is too long.
            TypeError: when JSON cannot hold the value.
        """
        _check_text(key, account_id)
        change = SetState(account_id, key, msgspec.json.encode(value))
        await patiently(lambda: self._store.commit([change]))

    async def delete(self, key: str, account_id: str | None = None) -> None:
        """Delete ``key``, if it is there."""
        _check_text(key, account_id)
        await patiently(lambda: self._store.commit([SetState(account_id, key, None)]))

    async def items(self, prefix: str = "", account_id: str | None = None) -> list[tuple[str, Any]]:
        """Return the keys that start with ``prefix`` and their values, in the order of the keys."""
        _check_text(prefix, account_id)
        found = await self._store.list_state(account_id, prefix)
        return [(key, msgspec.json.decode(value)) for key, value in found]


class Transaction:
    """State and credits that commit together; made by ``Services.transaction``.

    Its methods only note what is to be done; all of it is done when the block ends.
    """

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def credit_settlement(self, account_id: str, amount: Decimal, settlement_id: str) -> None:
        """Credit an incoming settlement; see ``Services.credit_settlement``."""
        _check_text(account_id)
        self.changes.append(AddCredit(account_id, settlement_id, amount))

    def set_state(self, key: str, value: object, account_id: str | None = None) -> None:
        """Set a key of the state; see ``State.set``."""
        _check_text(key, account_id)
        self.changes.append(SetState(account_id, key, msgspec.json.encode(value)))

    def delete_state(self, key: str, account_id: str | None = None) -> None:
        """Delete a key of the state."""
        _check_text(key, account_id)
        self.changes.append(SetState(account_id, key, None))

    def require_state(self, key: str, value: object, account_id: str | None = None) -> None:
        """Have nothing done unless ``key`` has this value when all is done.

        That is for what somebody else may change meanwhile, such as a command of the engine's in
        another process: the block then ends with ``StateChanged``, and may be tried anew.

        Args:
            key: the key.
            value: as ``State.get`` returned it; ``None``: there must be none.
            account_id: the account, if it is not the engine's own.
        """
        _check_text(key, account_id)
        required = None if value is None else msgspec.json.encode(value)
        self.changes.append(RequireState(account_id, key, required))


class Services:
    """What ``connect`` is called with.

    Attributes:
        state: the engine's durable state.
        nursery: for the engine's background tasks. If one of them crashes, the daemon stops, with
            exit code 1 and the reason; nothing is lost by that.
        log: a structlog logger.
    """

    def __init__(self, store: Store, connector: Connector, nursery: trio.Nursery) -> None:
        self._store = store
        self._connector = connector
        self._core: Core | None = None
        self.state = State(store)
        self.nursery = nursery
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger("engine")

    def attach(self, core: Core) -> None:
        """Have ``core`` woken from now on; at its start it looks for all that came before."""
        self._core = core

    @overload
    async def send_message(self, account_id: str, message: bytes) -> bytes: ...
    @overload
    async def send_message(self, account_id: str, message: object) -> Any: ...
    async def send_message(self, account_id: str, message: object) -> Any:
        """Send a message to the peer's engine and return its reply.

        Args:
            account_id: the account of the peer.
            message: ``bytes`` go as they are and the reply is ``bytes``; anything else goes as
                JSON, and so comes the reply.

        Raises:
            MessageFailed: when there is no usable answer. The peer may have got the message all the
                same; sending it again must be safe.

        Example::

            reply = await services.send_message(account_id, {"type": "paymentDetails"})
        """
        if isinstance(message, bytes):
            return await self._connector.send_message(account_id, message)
        reply = await self._connector.send_message(account_id, msgspec.json.encode(message))
        try:
            return from_json(reply)
        except (ValueError, RecursionError) as error:
            raise MessageFailed(
                f"account {account_id}: the peer's answer is not JSON ({error})"
            ) from error

    async def credit_settlement(
        self, account_id: str, amount: Decimal, settlement_id: str | None = None
    ) -> bool:
        """Record that the peer has paid us; durable when it returns.

        The connector is told in the background until it acknowledges.

        Args:
            account_id: the account of the peer; it may be closed by now.
            amount: what was received, in the standard unit; more than zero.
            settlement_id: the ledger's own id of the payment, 1 to 255 printable ASCII characters.
                The same id of the same account is credited once, however often it is reported.
                Without one, each call is a credit of its own.

        Returns:
            Whether it was new.

        Raises:
            AccountNotFound: when the account id was never used.
            InvalidAmount: when the amount is not a positive ``Decimal`` (or ``int``).
            SettlementConflict: when the settlement id came before with another amount.
        """
        _check_text(account_id)
        known_as = ids.mint() if settlement_id is None else settlement_id
        credit = AddCredit(account_id, known_as, amount)
        if self._core is None:  # its start will find it
            return await patiently(lambda: self._store.add_credit(credit)) is not None
        return await self._core.incoming.receive(credit)

    async def try_settlement(self, account_id: str) -> None:
        """Go on with what is queued for the account now, whatever backoff it is in.

        Raises:
            AccountNotFound: when no open account has the id.
        """
        _check_text(account_id)
        account = await patiently(lambda: self._store.retry_settlement(account_id))
        if self._core is not None:
            self._core.outgoing.scheduler.wake(account.number)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Open a block whose state changes and credits are committed together at its end.

        An exception in the block discards them all. A cursor and the payments that it covers belong
        in one transaction: then a crash can neither skip a payment nor forget where to go on.

        Example::

            async with services.transaction() as transaction:
                transaction.credit_settlement(account_id, amount, payment.id)
                transaction.set_state("cursor", payment.number)
        """
        transaction = Transaction()
        yield transaction
        if transaction.changes:
            await self._commit(transaction.changes)

    async def _commit(self, changes: list[Change]) -> bool:
        """Commit, wake the delivery of new credits, and return whether there were any."""
        numbers = await patiently(lambda: self._store.commit(changes))
        accounts = {number for number in numbers if number is not None}
        if self._core is not None:
            for number in accounts:
                self._core.incoming.scheduler.wake(number)
        return bool(accounts)


def _check_text(required: object, optional: object = None) -> None:
    """Raise ``TypeError`` for an id or a key that is no text: the store takes some for another."""
    for text in (required, "" if optional is None else optional):
        if not isinstance(text, str):
            raise TypeError(f"an account id or a key is a str, not {type(text).__name__}")
