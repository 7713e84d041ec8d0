"""What real connectors do differently from one another, and what can go wrong with any of them."""

from dataclasses import dataclass
from typing import Final, Literal

ProfileName = Literal["interledger-rs", "java", "rfc"]
Rounding = Literal["exact", "keep_remainder", "drop_remainder"]


@dataclass(frozen=True, slots=True)
class Profile:
    """How one kind of connector answers its settlement engine.

    Args:
        success_status: the status of a credit and of a message that it took.
        body: what a credit's answer carries: the text ``RECEIVED``, the Quantity that it credited
            as JSON, or nothing.
        rounding: what becomes of digits finer than the account's asset scale: credited all the
            same, kept until they make up a whole unit, or dropped.
        compares_amounts: whether a key that comes again with another amount is a 409; if not, the
            first answer is repeated.
        missing_key_status: the answer to a credit without an ``Idempotency-Key``.
        failed_message_status: the answer to a message that the peer did not take.
    """

    success_status: int
    body: Literal["text", "quantity", "empty"]
    rounding: Rounding
    compares_amounts: bool
    missing_key_status: int
    failed_message_status: int


PROFILES: Final[dict[ProfileName, Profile]] = {
    "interledger-rs": Profile(201, "text", "keep_remainder", True, 500, 502),
    "java": Profile(200, "quantity", "drop_remainder", False, 400, 200),
    "rfc": Profile(201, "empty", "exact", True, 400, 502),
}


@dataclass(slots=True)
class Faults:
    """What an accounting system is told to do wrong. Set any of it at any time.

    Rates are from 0 (never) to 1 (always), drawn from the accounting system's seeded generator.

    Args:
        delay_s: how long it waits before it handles a request of its engine.
        fail_rate: requests of its engine that it answers 503 without having done anything.
        lose_reply_rate: requests of its engine that it does, then closes the connection.
        duplicate_rate: settlements that it posts to its engine a second time, under the same key.
        new_key_on_retry: repeat a failed post to its engine under a new key, as Interledger.rs
            does; the debt may then be settled twice.
        conflict_on_replay: answer 409 to a key that it knows, although it was credited, as
            Interledger.rs on Redis does.

    Example::

        alice.faults.lose_reply_rate = 0.3
        alice.faults = Faults()  # well again
    """

    delay_s: float = 0
    fail_rate: float = 0
    lose_reply_rate: float = 0
    duplicate_rate: float = 0
    new_key_on_retry: bool = False
    conflict_on_replay: bool = False
