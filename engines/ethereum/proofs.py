"""What engines say to each other: a challenge, and the proof that an address is one's own.

The wire format is that of the Rust engine ``ilp-settlement-ethereum``: bytes are arrays of numbers,
and a proof signs ``keccak("ilp-ethl-create-account-message" + challenge)``, nothing else. So it
says to whom it was given only as far as the challenge does. Ours are the hash of a ``Binding``,
which goes along for those who can check it and is passed over by those who cannot.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from eth_utils.crypto import keccak

from engines.ethereum.abi import is_address
from engines.ethereum.signing import Signature, recover_address
from settled import MessageRefused

_PREFIX: Final = b"ilp-ethl-create-account-message"
_CHALLENGE_BYTES: Final = 36
_MESSAGE_BYTES_MAX: Final = 16 * 1024
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_BOUND: Final = re.compile(r"[0-9a-f]{36}", re.ASCII)
_RANDOM: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)

_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Number = Annotated[list[_Byte], msgspec.Meta(min_length=1, max_length=32)]


class Bad(MessageRefused, ValueError):
    """A message that is not as it must be. The text says why, in one line."""


class Binding(msgspec.Struct, frozen=True):
    """For whom a challenge was made: who answers another's challenge can tell."""

    chain_id: int
    token: str | None
    address: str
    random: str

    def challenge(self) -> bytes:
        """Return the challenge that stands for all this."""
        parts = (str(self.chain_id), self.token or "", self.address, self.random)
        text = "\n".join(("settled-ethereum-challenge", *parts))
        return keccak(text.encode()).hex()[:_CHALLENGE_BYTES].encode()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are: our address on a chain, and the token that we settle (``None``: ether)."""

    chain_id: int
    token: str | None
    address: str

    def binding(self, random: str | None = None) -> Binding:
        """Return a new binding to us, or the one of before that had this ``random``."""
        return Binding(self.chain_id, self.token, self.address, random or secrets.token_hex(16))


class Addresses(msgspec.Struct, frozen=True):
    """Whom to pay, and the token that it takes."""

    own_address: str
    token_address: str | None = None


class _Signature(msgspec.Struct, frozen=True):
    v: _Number
    r: _Number
    s: _Number


class Message(msgspec.Struct, frozen=True):
    """Any message of the handshake: a challenge, a proof (``to`` and ``signature``), or both."""

    to: Addresses | None = None
    signature: _Signature | None = None
    challenge: Annotated[list[_Byte], msgspec.Meta(max_length=_CHALLENGE_BYTES)] | None = None
    binding: Binding | msgspec.UnsetType | None = msgspec.UNSET


def decode(body: bytes) -> Message:
    """Return the message that a peer sent.

    Raises:
        Bad: when it is none.
    """
    if len(body) > _MESSAGE_BYTES_MAX:
        raise Bad(f"a message of {len(body)} bytes is no part of the handshake")
    try:
        return msgspec.json.decode(body, type=Message)
    except (ValueError, RecursionError) as error:
        raise Bad(f"not a message of the handshake: {error}") from error


def encode_challenge(binding: Binding) -> bytes:
    """Return the message that asks for a proof, without giving one."""
    content = {"challenge": list(binding.challenge()), "binding": binding}
    return msgspec.json.encode(content)


def encode_proof(identity: Identity, signature: Signature, binding: Binding | None = None) -> bytes:
    """Return the message that gives a proof, and asks for one if there is a ``binding``."""
    challenge = None if binding is None else list(binding.challenge())
    numbers = _Signature(*map(_shortest, (signature.v, signature.r, signature.s)))
    to = Addresses(identity.address, identity.token)
    return msgspec.json.encode(
        Message(to, numbers, challenge, msgspec.UNSET if binding is None else binding)
    )


def digest(challenge: bytes) -> bytes:
    """Return what a proof signs."""
    return keccak(_PREFIX + challenge)


def check_proof(message: Message, challenge: bytes, identity: Identity) -> str:
    """Return the address that a message proves to be the peer's, given the challenge to it.

    Raises:
        Bad: when it proves nothing, or what the peer settles is not what we do.
    """
    if message.to is None or message.signature is None:
        raise Bad("the message tells no address with a signature")
    address, token = message.to.own_address, message.to.token_address
    if not is_address(address) or not (token is None or is_address(token)):
        raise Bad("the message tells no address")
    address = address.lower()
    if (token or "").lower() != (identity.token or ""):
        raise Bad(f"the peer settles in {token or 'ether'}, we in {identity.token or 'ether'}")
    if address == identity.address:
        raise Bad("the peer gives our own address as its own")
    if recover_address(digest(challenge), _signature(message.signature)) != address:
        raise Bad(f"the signature does not prove that {address} is the peer's, or is of old")
    return address


def check_challenge(message: Message, identity: Identity) -> tuple[bytes, str | None]:
    """Return a peer's challenge, which may be answered, and whose it is said and shown to be.

    A challenge of a Rust engine, a UUID, is of nobody in particular (``None``). What looks like one
    of ours must come with the binding that it was made from.

    Raises:
        Bad: when it must not be answered.
    """
    challenge = bytes(message.challenge or [])
    text = challenge.decode("latin-1")
    if _UUID.fullmatch(text):
        return challenge, None
    binding = message.binding
    if not _BOUND.fullmatch(text) or not isinstance(binding, Binding):
        raise Bad("the challenge is neither a UUID nor bound to whoever made it")
    if (
        not is_address(binding.address)
        or not (binding.token is None or is_address(binding.token))
        or not _RANDOM.fullmatch(binding.random)
    ):
        raise Bad("the binding of the challenge is malformed")
    if binding.challenge() != challenge:
        raise Bad("the challenge does not belong to its binding")
    if (binding.chain_id, binding.token) != (identity.chain_id, identity.token):
        raise Bad(
            f"the peer settles in {binding.token or 'ether'} on chain {binding.chain_id}, "
            f"we in {identity.token or 'ether'} on chain {identity.chain_id}"
        )
    if binding.address == identity.address:
        raise Bad(
            "the challenge is one of our own: either the peer has our key, and each needs its "
            "own, or the connector sends our messages back"
        )
    return challenge, binding.address


def _signature(numbers: _Signature) -> Signature:
    v, r, s = (int.from_bytes(bytes(number)) for number in (numbers.v, numbers.r, numbers.s))
    if v >= 37:  # with a chain id in it (EIP-155)
        v = 27 + (v - 35) % 2
    return Signature(v, r, s)


def _shortest(number: int) -> list[int]:
    """Return a number's bytes, the greatest first, without leading zeros."""
    return list(number.to_bytes((number.bit_length() + 7) // 8))
