"""Ids: what an account id, a settlement id and an idempotency key may look like."""

import hashlib
import re
import uuid
from typing import Final

from settled import limits
from settled.errors import InvalidId

_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII)
_PRINTABLE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", re.ASCII)

# The namespace of the idempotency keys that credits carry; it must never change.
_CREDIT_KEYS: Final = uuid.UUID("6f6bfa32-6a4c-5d55-9d1e-6a86d1f0a7c5")


def check_account_id(account_id: object) -> str:
    """Return ``account_id`` if it is 1 to 255 characters of RFC 3986 *unreserved*.

    ``.`` and ``..`` are refused: every URL library resolves them away.

    Raises:
        InvalidId: when it is anything else.
    """
    if (
        not isinstance(account_id, str)
        or len(account_id) > limits.ACCOUNT_ID_CHARS_MAX
        or not _UNRESERVED.fullmatch(account_id)
        or account_id in (".", "..")
    ):
        raise InvalidId(
            f"an account id is 1 to {limits.ACCOUNT_ID_CHARS_MAX} characters out of "
            f"A-Z a-z 0-9 - . _ ~ (and neither '.' nor '..')"
        )
    return account_id


def check_key(key: object) -> str:
    """Return ``key`` if it can be an idempotency key: 1 to 255 printable ASCII characters.

    Raises:
        InvalidId: when it is anything else.
    """
    return _printable(key, "an idempotency key", limits.IDEMPOTENCY_KEY_CHARS_MAX)


def check_settlement_id(settlement_id: object) -> str:
    """Return ``settlement_id`` if it is 1 to 255 printable ASCII characters.

    Raises:
        InvalidId: when it is anything else.
    """
    return _printable(settlement_id, "a settlement id", limits.SETTLEMENT_ID_CHARS_MAX)


def _printable(text: object, what: str, chars_max: int) -> str:
    if not isinstance(text, str) or len(text) > chars_max or not _PRINTABLE.fullmatch(text):
        raise InvalidId(f"{what} is 1 to {chars_max} printable ASCII characters")
    return text


def mint() -> str:
    """Return a new random id (UUIDv4 text)."""
    return str(uuid.uuid4())


def credit_key(account_id: str, settlement_id: str) -> str:
    """Return the idempotency key of a credit: always the same for the same ledger payment.

    Deriving it, rather than drawing it, keeps a payment that is found again after a restored
    backup under the key that the connector may still know.
    """
    # The text of a UUIDv5, which ``uuid.uuid5`` makes at five times the cost.
    name = f"{account_id}/{settlement_id}".encode()
    digits = hashlib.sha1(_CREDIT_KEYS.bytes + name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"
