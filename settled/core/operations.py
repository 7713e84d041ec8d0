"""What a connector asks of the daemon: the verbs behind the HTTP API."""

from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog
import trio
from outcome import Error, Maybe, Value, acapture

from settled import ids, limits
from settled.amounts import Quantity
from settled.core.calls import call_engine, describe, says
from settled.core.core import Core
from settled.core.lasting import Lasting
from settled.core.ports import EnginePort
from settled.errors import (
    AccountNotFound,
    HandlerFailed,
    MessageRefused,
    StoreBroken,
    StoreFull,
)
from settled.store.protocol import Store
from settled.store.records import Account, Queued, Request
from settled.text import from_json

log = structlog.get_logger()


class Operations:
    """The four requests of RFC 0038, "Settlement Engine HTTP API".

    Every write is durable when its method returns; a method that raises has recorded nothing.
    """

    def __init__(self, store: Store, core: Core, engine: EnginePort) -> None:
        self._store = store
        self._core = core
        self._engine = engine
        self._lasting = Lasting()

    async def open_account(self, account_id: str | None) -> str:
        """Open the account, or return that it is open; set-up follows in the background.

        Args:
            account_id: the connector's id; ``None``: one is minted.

        Raises:
            InvalidId: when the id breaks the rules for ids.
            StoreFull: when it is new and there is no room for new work.
        """
        checked_id = ids.mint() if account_id is None else ids.check_account_id(account_id)
        if self._core.room.low and not await self._is_open(checked_id):
            raise self._core.room.refusal()
        try:
            account = await self._store.open_account(checked_id)
        except StoreFull as error:
            self._core.room.found_full(error)
            raise
        self._core.hooks.scheduler.wake(account.number)
        if account.state == "setup":
            self._core.hooks.expedite(account.number)
        return account.id

    async def close_account(self, account_id: str) -> None:
        """Close the account; its amounts and history stay visible.

        Raises:
            AccountNotFound: when no open account has the id.
        """
        account = await self._store.close_account(account_id)
        self._core.hooks.scheduler.wake(account.number)

    async def queue_settlement(self, request: Request) -> Quantity:
        """Queue a settlement, once per key; return the Quantity first asked for under the key.

        Raises:
            AccountNotFound: when no open account has the id.
            InvalidAmount: when it is zero.
            KeyReused: when the key came before with another value.
            StoreBusy: when the store cannot write now.
            StoreFull: when it is new and there is no room for new work.
            StoreBroken: whether it is recorded cannot be told.
        """
        # What is on record is confirmed even then: its client would believe it refused, and pay.
        if self._core.room.low and not await self._store.is_requested(
            request.account_id, request.key
        ):
            raise self._core.room.refusal()
        return self._heard(await acapture(self._store.queue_settlement, *request)).unwrap()

    @property
    def may_begin(self) -> bool:
        """Whether settlements may be queued together: not while there is no room for new work."""
        return not self._core.room.low

    def begin_settlements(
        self, requests: Sequence[Request], done: Callable[[list[Maybe[Queued]]], None]
    ) -> None:
        """Queue many settlements together, without a task that waits; see ``may_begin``.

        Args:
            requests: what is asked for.
            done: is told once, by any thread, what is for ``end_settlements``, unless this raises.

        Raises:
            StoreBroken: nothing can be recorded any more.
        """
        self._store.begin_settlements(requests, done)

    def end_settlements(self, results: Iterable[Maybe[Queued]]) -> list[Maybe[Quantity]]:
        """Return what came of each request: what ``queue_settlement`` returns or raises."""
        return [self._heard(result) for result in results]

    def _heard(self, result: Maybe[Queued]) -> Maybe[Quantity]:
        """Heed what the store says of a request, and return what its client is told."""
        if isinstance(result, Error):
            if isinstance(result.error, StoreFull):
                self._core.room.found_full(result.error)
            return result
        if not result.value.replayed:
            self._core.outgoing.scheduler.wake(result.value.account)
        return Value(result.value.quantity)

    async def handle_message(self, account_id: str, body: bytes) -> bytes:
        """Hand a message of the peer's engine to ours; return the reply.

        Raises:
            AccountNotFound: when no open account has the id.
            MessageRefused: when the engine handles no messages, or not this one.
            HandlerFailed: when the handler raised, took over 4 s, or returned what is no message.
        """
        handle = self._engine.handle_message
        account = await self._open_account(account_id)
        if handle is None:
            raise MessageRefused(f"account {account_id}: this engine handles no messages")
        message = body
        if not self._engine.raw_messages:
            try:
                message = from_json(body)
            except (ValueError, RecursionError) as error:
                raise MessageRefused(
                    f"account {account_id}: the message is not JSON ({error})"
                ) from error
        try:
            with trio.fail_after(limits.MESSAGE_HANDLER_TIMEOUT_S):
                reply = await call_engine("handle_message", handle, account_id, message)
            encoded = _encode(reply, raw=self._engine.raw_messages)
        except StoreBroken:
            raise  # the daemon is stopping; no answer may be given
        except Exception as error:
            if says(MessageRefused, error):
                raise self._refused(account_id, describe(error)) from error
            log.warning(
                "handler_failed", account=account_id, reason=describe(error), exc_info=error
            )
            raise HandlerFailed(
                f"account {account_id}: the engine could not handle the message "
                f"({type(error).__name__}); its log has the reason"
            ) from error
        if account.state == "setup":
            self._core.hooks.expedite(account.number)
        return encoded

    def _refused(self, account_id: str, reason: str) -> MessageRefused:
        if self._lasting.is_news(account_id, reason):
            log.warning("message_refused", account=account_id, reason=reason)
        return MessageRefused(f"account {account_id}: the engine refuses the message: {reason}")

    async def _is_open(self, account_id: str) -> bool:
        try:
            return (await self._store.account(account_id)).state != "closed"
        except AccountNotFound:
            return False

    async def _open_account(self, account_id: str) -> Account:
        account = await self._store.account(account_id)
        if account.state == "closed":
            raise AccountNotFound(account_id)
        return account


def _encode(reply: object, *, raw: bool) -> bytes:
    if not raw:
        return msgspec.json.encode(reply)
    if reply is None:
        return b""
    if isinstance(reply, bytes | bytearray | memoryview):
        return bytes(reply)
    raise TypeError(f"a raw handler returns bytes, not {type(reply).__name__}")
