"""The store: every method is one atomic business transaction, durable when it returns.

An implementation must keep these rules, which the contract tests in ``tests/store`` check:

- A method that raises has changed nothing.
- A write cannot be cancelled half-way: cancellation is only delivered before it starts.
- Reads never wait for writes.
- ``StoreBusy`` means that nothing was recorded and that the call may be repeated.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from outcome import Maybe

from settled.amounts import Quantity
from settled.store.protocol_incoming import IncomingStore
from settled.store.records import (
    Account,
    AccountState,
    Change,
    Difference,
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


class AccountStore(Protocol):
    """The lives of accounts and the engine hooks that they wait for."""

    async def open_account(self, account_id: str, *, setup: bool = True) -> Account:
        """Return the open account of this id, creating it if there is none.

        A new account waits for the engine's ``setup_account`` unless ``setup`` is false. An id that
        was closed before starts a new life with empty balances; the old one stays as it is, but
        the engine's ``close_account`` is not run for it any more.
        """
        ...

    async def close_account(self, account_id: str) -> Account:
        """Close the open account of this id; its amounts and history stay.

        Raises:
            AccountNotFound: when no open account has the id.
        """
        ...

    async def account(self, account_id: str) -> Account:
        """Return the open account of this id, else its latest closed life.

        Raises:
            AccountNotFound: when the id was never used.
        """
        ...

    async def accounts(
        self,
        *,
        account_id: str | None = None,
        state: AccountState | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Account]:
        """Return a page of accounts, newest first, with numbers below ``before``."""
        ...

    async def next_hook(self, account: int) -> NextHook | None:
        """Return the engine hook that this account waits for, if any."""
        ...

    async def finish_hook(
        self, account: int, hook: str, *, failure: str | None = None, retry_delay_ms: int = 0
    ) -> None:
        """Record that a hook was run: done, or failed and to be tried again after the delay."""
        ...


class OutgoingStore(Protocol):
    """Settlement requests, and the attempts to pay them."""

    async def queue_settlement(self, account_id: str, quantity: Quantity, key: str) -> Queued:
        """Add a request to the account's queue, once per key.

        The same key with the same value returns the first answer and changes nothing but the
        key's latest use, also when the account was closed meanwhile.

        Raises:
            AccountNotFound: when no open account has the id and the key is new.
            KeyReused: when the key was used for another value.
        """
        ...

    def begin_settlements(
        self, requests: Sequence[Request], done: Callable[[list[Maybe[Queued]]], None]
    ) -> None:
        """Do the same for each of the requests, together, and without a task that waits.

        ``done`` is told what came of each, once, by any thread, unless this raises; what it does
        must be short, and must not raise.

        Raises:
            StoreBroken: nothing can be written any more.
        """
        ...

    async def is_requested(self, account_id: str, key: str) -> bool:
        """Return whether a request under this key is on record."""
        ...

    async def next_settlement(
        self, account: int, settlement_id: str, *, asset_scale: int | None = None
    ) -> NextSettlement:
        """Begin a settlement of all that is queued, or say what stands in the way.

        At most one settlement of an account is in flight, unknown or parked. If one is, it is
        returned as it is. Otherwise the queue, rounded down to ``asset_scale`` decimals, is moved
        in flight under ``settlement_id``, if it is due and more than zero, and no payment of a
        former account of the same id is in flight or unknown.
        """
        ...

    async def record_outcome(self, settlement_id: str, outcome: SettlementOutcome) -> Settlement:
        """Record what became of a settlement that is in flight, unknown or parked.

        ``Settled`` below the amount puts the rest back into the queue; above it, the excess makes
        the queue negative. ``Settled(0)`` lets the queue rest until it changes.

        Raises:
            NotFound: when there is no such settlement.
            NotResolvable: when its outcome is final.
        """
        ...

    async def resolve_settlement(
        self, settlement_id: str, outcome: Settled | NotSent
    ) -> Settlement:
        """Record the operator's word on a settlement that is unknown or parked.

        Raises:
            NotFound: when there is no such settlement.
            NotResolvable: when it is in flight, or its outcome is final.
        """
        ...

    async def retry_settlement(self, account_id: str) -> Account:
        """Make the account's queue due now, whatever backoff or rest it was in.

        Raises:
            AccountNotFound: when no open account has the id.
        """
        ...

    async def interrupt_settlements(self) -> int:
        """At start: what was in flight or parked is unknown, and everything is due now.

        Returns how many settlements were in flight.
        """
        ...

    async def settlements(
        self,
        *,
        account_id: str | None = None,
        state: SettlementState | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Settlement]:
        """Return a page of settlements, newest first, with numbers below ``before``."""
        ...

    async def settlement(self, settlement_id: str) -> Settlement:
        """Return one settlement, or raise ``NotFound``."""
        ...


class StateStore(Protocol):
    """The engine's own small durable state."""

    async def commit(self, changes: Sequence[Change]) -> list[int | None]:
        """Make the changes, all or none; return of each the account that a new credit went to.

        A credit goes to the open account of its id, else to its latest closed life.

        Raises:
            AccountNotFound: when a credit's account id was never used.
            SettlementConflict: when a settlement id came before with another amount.
            StateChanged: when the state is not as a change requires.
        """
        ...

    async def get_state(self, account_id: str | None, key: str) -> bytes | None:
        """Return a value of the engine's state (``account_id=None``) or an account's."""
        ...

    async def list_state(self, account_id: str | None, prefix: str = "") -> list[tuple[str, bytes]]:
        """Return the keys that start with ``prefix`` and their values, in the order of the keys."""
        ...


class Store(AccountStore, OutgoingStore, IncomingStore, StateStore, Protocol):
    """All of it, and what keeps it well."""

    async def unfinished(self, work: Work, *, after: int = 0, limit: int = 1000) -> list[int]:
        """Return numbers above ``after`` of accounts that may have such work to do, in order."""
        ...

    async def wait_foreign_writes(self) -> list[int]:
        """Wait until another process has written; return the numbers of the accounts it touched.

        Raises:
            StoreBroken: when the store can no longer be written, or what it is kept in has gone.
        """
        ...

    async def space(self) -> Space | None:
        """Return how much the store can still grow; ``None`` if nobody need care."""
        ...

    async def look_over(self) -> list[Difference]:
        """After a start, look for damage beside other work; return which books are wrong.

        Raises:
            StoreBroken: when the store is damaged and must not be written.
        """
        ...

    async def age_keys(self) -> None:
        """Note that another ``limits.KEY_TICK_S`` of running time has passed."""
        ...

    async def purge_keys(self) -> int:
        """Delete a batch of the keys unused for ``limits.KEY_LIFE_TICKS``; return how many."""
        ...

    async def audit(
        self, progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> list[Difference]:
        """Recompute every balance from the journal, and check the store's integrity.

        ``progress(done, total)`` is called now and then, possibly from another thread.
        """
        ...
