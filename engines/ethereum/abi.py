"""What is said to and read from an ERC-20 token, and how addresses are written.

The few calls that are needed are written by hand: a selector and words of 32 bytes
(https://docs.soliditylang.org/en/latest/abi-spec.html, EIP-20). An address is text in lower case
everywhere in this engine, so that two of them are the same when their texts are.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from engines.ethereum.units import UINT256_MAX

# The first four bytes of keccak256 of each function's signature, and all of it of the event's.
_TRANSFER: Final = "0xa9059cbb"  # transfer(address,uint256)
_BALANCE_OF: Final = "0x70a08231"  # balanceOf(address)
DECIMALS_CALL: Final = "0x313ce567"  # decimals()
TRANSFER_TOPIC: Final = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"

_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_HEX: Final = re.compile(r"0x[0-9a-fA-F]*", re.ASCII)
_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_WORD_DIGITS: Final = 64


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a Transfer log says."""

    sender: str
    recipient: str
    value: int


def is_address(value: object) -> TypeGuard[str]:
    """Say whether a value is an address as text, in whatever case."""
    return isinstance(value, str) and _ADDRESS.fullmatch(value) is not None


def address(value: object) -> str:
    """Return an address in its one form, lower case.

    Raises:
        ValueError: when it is none.
    """
    if not is_address(value):
        raise ValueError(f"not an address: {str(value)[:60]!r}")
    return value.lower()


def hash32(value: object) -> str:
    """Return the hash of a block or a transaction, lower case.

    Raises:
        ValueError: when it is none.
    """
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise ValueError(f"not a hash: {str(value)[:80]!r}")
    return value.lower()


def number(value: object) -> int:
    """Return a quantity of JSON-RPC, such as ``"0x1b4"``.

    Raises:
        ValueError: when it is none, or more than 256 bits.
    """
    if not isinstance(value, str) or not _HEX.fullmatch(value) or not 3 <= len(value) <= 66:
        raise ValueError(f"not a quantity: {str(value)[:80]!r}")
    return int(value, 16)


def transfer_call(recipient: str, value: int) -> str:
    """Return the call data of ``transfer(recipient, value)``."""
    return _TRANSFER + address_word(recipient) + _word(value)


def balance_call(owner: str) -> str:
    """Return the call data of ``balanceOf(owner)``."""
    return _BALANCE_OF + address_word(owner)


def address_topic(of: str) -> str:
    """Return an address as it stands in a log's topics."""
    return "0x" + address_word(of)


def address_word(of: str) -> str:
    """Return an address as a word of call data, without ``0x``."""
    return address(of)[2:].rjust(_WORD_DIGITS, "0")


def _word(value: int) -> str:
    if not 0 <= value <= UINT256_MAX:
        raise ValueError(f"{value} does not fit 256 bits")
    return f"{value:0{_WORD_DIGITS}x}"


def read_uint(returned: object) -> int:
    """Return the number that a call returned.

    Raises:
        ValueError: when it returned something else.
    """
    if not isinstance(returned, str) or not _HASH.fullmatch(returned[:66]):
        raise ValueError(f"not a number: {str(returned)[:80]!r}")
    return int(returned[2:66], 16)


def says_true(returned: object) -> bool:
    """Return whether a token's ``transfer`` says that it worked.

    Tokens older than EIP-20 return nothing when it did, and revert when it did not.
    """
    if returned == "0x":
        return True
    try:
        return read_uint(returned) == 1
    except ValueError:
        return False


def transfers_of(token: str, logs: Iterable[Any]) -> Iterator[tuple[int, Transfer]]:
    """Yield what the Transfer logs of a token say, each with its place among all the logs."""
    for place, log in enumerate(logs):
        transfer = read_transfer(log)
        if transfer is not None and address(log.get("address")) == token:
            yield place, transfer


def read_transfer(log: Any) -> Transfer | None:
    """Return what a log says, ``None`` if it is no Transfer of an ERC-20 token.

    An ERC-721 token's has the same first topic, and one more.
    """
    topics = log.get("topics") if isinstance(log, dict) else None
    if not isinstance(topics, list) or len(topics) != 3:
        return None
    try:
        if hash32(topics[0]) != TRANSFER_TOPIC:
            return None
        sender, recipient = (_address_of(topic) for topic in topics[1:])
        data = log.get("data")
        if not isinstance(data, str) or len(data) != 66:
            return None
        return Transfer(sender, recipient, read_uint(data))
    except ValueError:
        return None


def _address_of(topic: object) -> str:
    text = hash32(topic)
    if text[2:26].strip("0"):
        raise ValueError(f"not an address: {text!r}")
    return "0x" + text[26:]
