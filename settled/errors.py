"""The errors of settled. Each message says what happened, to what, and what to do.

``exit_code`` is what a command ends with when the error reaches it (see ``docs/operators.md``).
"""

from typing import ClassVar


class SettledError(Exception):
    """Anything that settled itself reports. Its text is one line, fit for an operator."""

    exit_code: ClassVar[int] = 1


class NotSettled(SettledError):
    """Raised by an engine's ``settle``: nothing was sent, and nothing of this attempt will be.

    The amount goes back to the account's queue and is tried again with backoff. Raise it only when
    that is certain; any other exception leaves the outcome *unknown*, which is never retried by
    guess.

    Example::

        if balance < amount:
            raise NotSettled(f"wallet holds {balance}: top it up")
    """


class StateChanged(SettledError):
    """The engine's state is not as a transaction requires it: nothing of it was done."""


class SettlementPending(SettledError):
    """Raised by an engine's ``find_settlement``: the payment is on its way, and all is well.

    It says as much as ``None``, that the outcome cannot be told yet, but why that is as it should
    be: the log has it as information, not as a warning. The text says what it waits for.

    Example::

        if receipt is None:
            raise SettlementPending(f"transaction {payment.hash} is in no block yet")
    """


class InvalidAmount(SettledError, ValueError):
    """An amount or Quantity that is not exact, is out of range, or is not a number at all."""

    exit_code = 2


class InvalidId(SettledError, ValueError):
    """An account id, settlement id or idempotency key that breaks the rules for such ids."""

    exit_code = 2


class NotFound(SettledError, LookupError):
    """No such account, settlement or credit."""

    exit_code = 3


class AccountNotFound(NotFound):
    """No open account has this id."""

    def __init__(self, account_id: str) -> None:
        super().__init__(
            f"no open account {account_id!r}: see `settled accounts list`, or create it with "
            f"POST /accounts or `settled accounts add`"
        )
        self.account_id = account_id


class KeyReused(SettledError):
    """An idempotency key came again with another amount; the first request stands."""

    def __init__(self, account_id: str, key: str, first: str) -> None:
        super().__init__(
            f"account {account_id}: idempotency key {key!r} was used before, for the amount "
            f"{first}; a new request needs a new key"
        )


class SettlementConflict(SettledError):
    """A credit came again under the same settlement id with another amount; the first stands."""


class NotResolvable(SettledError):
    """The settlement or credit is not in a state that an operator may resolve."""


class MessageFailed(SettledError):
    """A message got no usable answer from the peer; sending it again is safe."""


class StoreBusy(SettledError):
    """A passing fault of the store: nothing was recorded, the same call may succeed later."""

    exit_code = 75


class StoreFull(StoreBusy):
    """There is no room for it: nothing was recorded, and it may succeed once there is."""


class StoreHeld(SettledError):
    """Another daemon holds this database."""

    exit_code = 75


class StoreBroken(SettledError):
    """The outcome of a commit is unknown; the daemon must stop and read the truth at next start."""


class ConfigError(SettledError):
    """A setting, an engine or a database file that the program cannot run with."""

    exit_code = 78


class MessageRefused(SettledError):
    """A peer's message that this engine does not take: it handles none, or not this one.

    An engine's ``handle_message`` raises it for what it expects of a peer that is somebody else:
    nonsense, a lie, too much. The connector gets 400 with its text, and the log has one line; any
    other exception is taken for a fault of the engine, and has its traceback there.

    Example::

        if message.get("type") != "whom to pay":
            raise MessageRefused("only the message 'whom to pay' is known here")
    """


class HandlerFailed(SettledError):
    """The engine's ``handle_message`` raised or took too long; the log has the reason."""
