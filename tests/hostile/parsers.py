"""Whatever of ours parses a stranger's bytes, as functions that a fuzzer calls.

Each must return something within its rules or raise its own error, and what is read, written and
read again must stay the same. ``corpus`` keeps an input for each branch; the default tests play it.
"""

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Final

from settled import ids, limits
from settled.amounts import EXACT, Quantity, checked, floor, from_text, payable, to_text
from settled.errors import InvalidAmount, InvalidId
from settled.http import handlers
from settled.http.edge import plain_path
from settled.http.problems import Refused
from settled.http.replies import JSON, OCTET_STREAM
from settled.http.server import _is_whole


def quantity_body(data: bytes) -> None:
    with suppress(Refused, InvalidAmount):
        parts = handlers._decode(handlers._QUANTITY, data, example="{}")
        quantity = Quantity(parts.amount, parts.scale)
        value = quantity.value
        assert value.is_finite()
        assert 0 <= value < Decimal(10) ** limits.AMOUNT_DIGITS_MAX
        assert value.scaleb(quantity.scale, EXACT) == int(quantity.amount)
        assert Quantity.of(value).value == value


def account_body(data: bytes) -> None:
    with suppress(Refused, InvalidId):
        account_id = handlers._decode(handlers._ACCOUNT, data, example="{}").id
        if account_id is not None:
            assert _safe(ids.check_account_id(account_id))


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def operators_amount(data: bytes) -> None:
    with suppress(InvalidAmount):
        value = from_text(text(data))
        assert value >= 0
        assert from_text(to_text(value)) == value
        assert 0 <= payable(value, 2) <= value
        assert 0 <= floor(value, 2) <= value


def engines_amount(data: bytes) -> None:
    with suppress(InvalidAmount, ArithmeticError):
        value = Decimal(text(data))
        assert checked(value) == value


def an_account_id(data: bytes) -> None:
    with suppress(InvalidId):
        assert _safe(ids.check_account_id(text(data)))


def a_key(data: bytes) -> None:
    with suppress(InvalidId, Refused):
        key = handlers._check_key([data.decode("latin-1")])
        assert key.isascii()
        assert key.isprintable()
        assert 1 <= len(key) <= limits.IDEMPOTENCY_KEY_CHARS_MAX


def a_media_type(data: bytes) -> None:
    for wanted in (JSON, OCTET_STREAM):
        with suppress(Refused):
            handlers._check_media_type(data.decode("latin-1"), wanted)
            assert b"/" in data


def a_path(data: bytes) -> None:
    path = plain_path(data)
    assert path.startswith("/")
    assert "//" not in path
    assert path == "/" or not path.endswith("/")


def first_bytes(data: bytes) -> None:
    assert not _is_whole(data) or b"\r\n\r\n" in data


def _safe(account_id: str) -> bool:
    return set(account_id).isdisjoint("/\\%?#\x00\r\n ") and account_id not in {".", ".."}


PARSERS: Final[tuple[Callable[[bytes], None], ...]] = (
    quantity_body,
    account_body,
    operators_amount,
    engines_amount,
    an_account_id,
    a_key,
    a_media_type,
    a_path,
    first_bytes,
)


def parse(data: bytes) -> None:
    """Have the parser that the first byte names read the rest."""
    if data:
        PARSERS[data[0] % len(PARSERS)](data[1:])
