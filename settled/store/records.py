"""What a store hands out and takes in: plain frozen records, no behaviour.

Those of which there are thousands a second are msgspec's, which are made in a fifth of the time.

Times are wall-clock milliseconds since 1970 (``_ms``); ``number`` is a row's own number, which
also tells the lives of an account id apart: an id that was closed and created again has two.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec

from settled.amounts import ZERO, Quantity

AccountState = Literal["setup", "open", "closed"]
SettlementState = Literal["in_flight", "unknown", "parked", "settled", "not_sent"]
CreditState = Literal["undelivered", "credited", "parked"]
Hook = Literal["setup_account", "close_account"]
Work = Literal["settle", "deliver", "hook"]

# The places where money of one account stands. A journal entry moves an amount from one to
# another; `requested` and `received` are where it comes from, so they only ever grow.
Bucket = Literal[
    "requested",
    "queued",
    "in_flight",
    "unknown",
    "settled",
    "received",
    "undelivered",
    "parked",
    "credited",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One life of an account id, with its balances.

    ``requested = queued + in_flight + unknown + settled`` and
    ``received = undelivered + parked + credited`` hold exactly, at every instant.

    ``waiting`` says why its queue does not move; ``retry_ms`` is when it is tried again (``None``:
    it rests until something changes). ``hook`` is the engine's set-up or close that is still to be
    done; ``failures`` and ``hook_failures`` count the fruitless tries in a row.
    """

    number: int
    id: str
    state: AccountState
    requested: Decimal = ZERO
    queued: Decimal = ZERO
    in_flight: Decimal = ZERO
    unknown: Decimal = ZERO
    settled: Decimal = ZERO
    received: Decimal = ZERO
    undelivered: Decimal = ZERO
    parked: Decimal = ZERO
    credited: Decimal = ZERO
    waiting: str | None = None
    retry_ms: int | None = 0
    failures: int = 0
    hook: Hook | None = None
    hook_failures: int = 0
    opened_ms: int
    closed_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """One attempt to pay: ``amount`` was handed to the engine, ``settled`` is what it paid.

    ``failures`` counts the fruitless tries in a row: those to pay while it is in flight, those to
    find out while it is unknown.
    """

    number: int
    id: str
    account: int
    account_id: str
    amount: Decimal
    state: SettlementState
    settled: Decimal = ZERO
    reason: str | None = None
    failures: int = 0
    retry_ms: int = 0
    created_ms: int
    updated_ms: int


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """One incoming settlement. ``id`` is the idempotency key it carries to the connector.

    ``ambiguous_ms`` is since when the connector may have seen it without our knowing, by the wall
    clock; ``ambiguous_steady_ms`` by the store's steady clock, which decides when it is too old.
    """

    number: int
    id: str
    account: int
    account_id: str
    settlement_id: str
    amount: Decimal
    state: CreditState
    reason: str | None = None
    attempts: int = 0
    ambiguous_ms: int | None = None
    ambiguous_steady_ms: int | None = None
    retry_ms: int = 0
    created_ms: int
    updated_ms: int


# --- what became of an outgoing settlement ---


@dataclass(frozen=True, slots=True)
class Settled:
    """The engine paid ``amount``, which may be less or more than it was asked to."""

    amount: Decimal


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing was paid and nothing will be; try again after ``retry_delay_ms``."""

    reason: str
    retry_delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Unknown:
    """Whether it was paid cannot be told now; ask again after ``retry_delay_ms``."""

    reason: str
    retry_delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Parked:
    """Whether it was paid cannot be told by the engine at all; the operator must."""

    reason: str


SettlementOutcome = Settled | NotSent | Unknown | Parked


# --- what became of the delivery of a credit ---


@dataclass(frozen=True, slots=True)
class Delivered:
    """The connector acknowledged it."""


@dataclass(frozen=True, slots=True)
class NotDelivered:
    """The connector certainly did not take it: it was not reached, or it clearly refused."""

    reason: str
    retry_delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The connector may have taken it: sent, but no clear answer."""

    reason: str
    retry_delay_ms: int = 0


DeliveryOutcome = Delivered | NotDelivered | Ambiguous


# --- answers of the store ---


class Request(NamedTuple):
    """What a connector asks for: a settlement, once per key."""

    account_id: str
    quantity: Quantity
    key: str


class Queued(msgspec.Struct, frozen=True):
    """The answer to a settlement request: the Quantity first recorded under its key."""

    account: int
    quantity: Quantity
    replayed: bool


@dataclass(frozen=True, slots=True)
class NextSettlement:
    """What an account's queue needs next.

    ``settlement`` is the one to pay (``begun``: it was just moved in flight) or, not begun, the one
    whose outcome must be found first. Without it, ``delay_ms`` is how long to wait, ``None``: until
    something changes. After one that was begun it is zero if it has left something in the queue.
    """

    settlement: Settlement | None = None
    begun: bool = False
    delay_ms: int | None = None


@dataclass(frozen=True, slots=True)
class NextDeliveries:
    """Credits to deliver now, marked as being sent; then wait ``delay_ms`` (``None``: none left).

    ``parked`` are those that were parked instead, since their keys may be forgotten by now.
    """

    credits: tuple[Credit, ...] = ()
    delay_ms: int | None = None
    parked: tuple[Credit, ...] = ()


@dataclass(frozen=True, slots=True)
class NextHook:
    """The engine hook to run for an account, after ``delay_ms``."""

    account_id: str
    hook: Hook
    failures: int
    delay_ms: int


# --- changes that an engine commits together ---


class AddCredit(msgspec.Struct, frozen=True):
    """Record an incoming settlement, once per (account id, settlement id)."""

    account_id: str
    settlement_id: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class SetState:
    """Set (``value=None``: delete) a key of the engine's state, its own or an account's."""

    account_id: str | None
    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class RequireState:
    """Make no change unless a key has this value (``None``: is not there) before all of them."""

    account_id: str | None
    key: str
    value: bytes | None


Change = AddCredit | SetState | RequireState


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that an audit found wrong; ``subject`` is the account or the part of the file."""

    subject: str
    what: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Space:
    """How much a store can still grow, and how much of that is kept for what is under way.

    ``free_bytes`` is ``None`` while that cannot be told.
    """

    free_bytes: int | None
    reserve_bytes: int


@dataclass(frozen=True, slots=True)
class Held:
    """What is held back since a backup, taken at ``taken_ms``, was restored.

    ``accounts`` are those with a queue that are not released: the id of each, and what is queued.
    ``closed`` are such accounts that were closed: nothing pays their queue any more. ``since_ms``
    has the accounts that were released before the backup was made of the restored one: what was
    paid to them is known up to then.
    """

    taken_ms: int
    accounts: tuple[tuple[str, Decimal], ...]
    closed: tuple[tuple[str, Decimal], ...] = ()
    since_ms: dict[str, int] = field(default_factory=dict)
