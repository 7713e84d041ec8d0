"""Who signs: a key in this process, or whatever else keeps one.

The engine asks for two signatures only: of a transaction, and of a digest that proves to a peer
that the address is ours. A hardware module or a remote service fits behind ``Signer``.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from eth_keys.datatypes import PrivateKey
from eth_keys.datatypes import Signature as RecoverableSignature
from eth_keys.exceptions import BadSignature
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError

from engines.ethereum.accounts import Account
from engines.ethereum.transactions import UnsignedTransaction
from settled import ConfigError

_KEY: Final = re.compile(r"(?:0x)?([0-9a-f]{64})", re.ASCII | re.IGNORECASE)
_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_KEYSTORE_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """What goes to the chain, and the hash that it is known by there (``0x``, lower case)."""

    raw: bytes
    hash: str


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature whose signer can be recovered; ``v`` is 27 or 28."""

    v: int
    r: int
    s: int


class Signer(Protocol):
    """Keeps the key of one address."""

    @property
    def address(self) -> str:
        """Our address: ``0x`` and 40 lower-case digits."""
        ...

    async def sign_transaction(self, transaction: UnsignedTransaction) -> SignedTransaction:
        """Sign a transaction. The same one, signed again, may get another hash.

        Whatever it raises, or if it takes over 30 s, nothing is paid yet; it is asked again.
        """
        ...

    async def sign_digest(self, digest: bytes) -> Signature:
        """Sign 32 bytes as they are."""
        ...


class LocalSigner:
    """A key in the memory of this process.

    Raises:
        ConfigError: when the text is no key; the text is never part of the message.
    """

    def __init__(self, key: str) -> None:
        match = _KEY.fullmatch(key.strip())
        if match is None or not 0 < int(match[1], 16) < _ORDER:
            raise ConfigError("the key is no private key: expected 64 hexadecimal digits")
        self._account = Account.from_key(bytes.fromhex(match[1]))
        self._key = PrivateKey(bytes.fromhex(match[1]))

    @property
    def address(self) -> str:
        """See ``Signer``."""
        return str(self._account.address).lower()

    async def sign_transaction(self, transaction: UnsignedTransaction) -> SignedTransaction:
        """See ``Signer``."""
        signed = self._account.sign_transaction(
            {
                "type": 2,
                "chainId": transaction.chain_id,
                "nonce": transaction.nonce,
                "to": bytes.fromhex(transaction.to[2:]),
                "value": transaction.value,
                "data": transaction.data,
                "gas": transaction.gas,
                "maxFeePerGas": transaction.max_fee,
                "maxPriorityFeePerGas": transaction.max_priority_fee,
            }
        )
        return SignedTransaction(bytes(signed.raw_transaction), "0x" + signed.hash.hex())

    async def sign_digest(self, digest: bytes) -> Signature:
        """See ``Signer``."""
        signature = self._key.sign_msg_hash(digest)
        return Signature(27 + signature.v, signature.r, signature.s)

    def __repr__(self) -> str:
        return f"LocalSigner({self.address})"


def open_keystore(path: Path, password: str) -> LocalSigner:
    """Return the signer of a keystore file (JSON, version 3); it takes about a second.

    Raises:
        ConfigError: when it cannot be read, is no keystore, or has another password.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_KEYSTORE_BYTES_MAX + 1)
        if len(data) > _KEYSTORE_BYTES_MAX:
            raise ConfigError(f"keystore {path} is larger than {_KEYSTORE_BYTES_MAX} bytes")
        content = json.loads(data)
    except OSError as error:
        raise ConfigError(f"cannot read the keystore {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ConfigError(f"keystore {path} is not JSON as wallets write it")
    try:
        key = Account.decrypt(content, password)
    except Exception as error:
        # Whatever the library stumbles over in a file that is no keystore, it is told in one line.
        raise ConfigError(
            f"keystore {path} cannot be opened: wrong password, or not a keystore of version 3 "
            f"({type(error).__name__})"
        ) from None
    return LocalSigner(key.hex())


def recover_address(digest: bytes, signature: Signature) -> str | None:
    """Return the address whose key made the signature of ``digest``; ``None`` if there is none."""
    try:
        found = RecoverableSignature(vrs=(signature.v - 27, signature.r, signature.s))
        key = found.recover_public_key_from_msg_hash(digest)
    except (BadSignature, ValidationError):
        return None
    return "0x" + keccak(key.to_bytes())[12:].hex()
