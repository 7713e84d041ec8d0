"""What an operator may set."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from engines.ethereum.abi import is_address
from settled import option

CHAIN_ID_MAX: Final = 2**63 - 1


@dataclass(frozen=True)
class EthereumOptions:
    """One key on one chain, which pays and is paid in ether, or in one ERC-20 token."""

    rpc_url: str = option(url=True, help="URL of a node's JSON-RPC")
    chain_id: int = option(
        minimum=1, maximum=CHAIN_ID_MAX, help="the chain's id; a node of another chain is refused"
    )
    rpc_url_2: str | None = option(
        default=None, url=True, help="URL of a second node, for when the first fails"
    )
    key: str | None = option(
        default=None, secret=True, help="private key that pays and is paid, 64 hex digits"
    )
    keystore: Path | None = option(
        default=None, help="keystore file (JSON, version 3) with that key, instead of key"
    )
    keystore_password: str | None = option(
        default=None, secret=True, help="password of the keystore"
    )
    token: str | None = option(
        default=None, help="address of the ERC-20 token; without it, ether is paid"
    )
    confirmations: int = option(
        default=12,
        minimum=1,
        maximum=10_000,
        help="blocks until a payment counts, the one that it is in included",
    )
    max_fee_gwei: Decimal = option(
        default=Decimal(200), minimum=0, help="the most to pay per unit of gas, tip included, gwei"
    )
    bump_after_s: float = option(
        default=120.0, minimum=0.05, help="seconds until a stuck transaction's fee is raised"
    )
    poll_s: float = option(default=4.0, minimum=0.01, help="seconds between looks at the chain")
    start_block: int | None = option(
        default=None,
        minimum=0,
        help="first block to look for payments in; without it, the newest of the very first start",
    )
    logs_blocks_max: int = option(
        default=2000, minimum=1, help="blocks to ask for Transfer logs of at once"
    )
    max_credit: Decimal | None = option(
        default=None,
        minimum=0,
        help="larger payments to us are credited in parts of this many units of the asset",
    )
    rpc_timeout_s: float = option(
        default=10.0, minimum=0.05, help="seconds that a node has to answer"
    )

    def __post_init__(self) -> None:
        """Check what the limits cannot say.

        Raises:
            ValueError: in one line, of which no secret is part.
        """
        for name, url in (("rpc_url", self.rpc_url), ("rpc_url_2", self.rpc_url_2)):
            if url is not None and not _is_url(url):
                raise ValueError(f"{name} must be an http or https URL with a host")
        if self.key is not None and self.keystore is not None:
            raise ValueError("give one of key (as key_file=PATH) and keystore, not both")
        if self.keystore is not None and self.keystore_password is None:
            raise ValueError("a keystore needs keystore_password (as keystore_password_file=PATH)")
        if self.token is not None and not is_address(self.token):
            raise ValueError("token must be an address, 0x and 40 hex digits")
        if not self.max_fee_gwei:
            raise ValueError("max_fee_gwei must be more than 0")
        if self.max_credit is not None and not self.max_credit:
            raise ValueError("max_credit must be more than 0")


def _is_url(text: str) -> bool:
    if not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna")
        return parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        return False
