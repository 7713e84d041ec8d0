"""Peers whose engine and connector are the test: their handshake is that of the Rust engine."""

import json
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from engines.ethereum import abi, proofs
from engines.ethereum.signing import LocalSigner
from engines.ethereum.transactions import UnsignedTransaction
from settled.testing import PeerAccount
from tests.engines.ethereum.anvil import CHAIN_ID, GWEI
from tests.engines.ethereum.unrest import UnrestfulChain


@dataclass
class Peer:
    """One key, for one account of the daemon."""

    signer: LocalSigner
    sent: list[str] = field(default_factory=list)
    paid: int = 0


class RustPeers:
    """All such peers of one daemon; it stands where that daemon's connector expects the peer's.

    Attributes:
        payee: the address of the daemon's key.
        token: what is settled, ``None`` for ether.
        peers: by the id of the daemon's account.
        accounts: what the peers' connector would keep.
    """

    def __init__(self, payee: str, token: str | None) -> None:
        self.payee = payee
        self.token = token
        self.peers: dict[str, Peer] = {}
        self.accounts: dict[str, PeerAccount] = {}

    def add(self, account_id: str, signer: LocalSigner) -> None:
        self.peers[account_id] = Peer(signer)
        self.accounts[account_id] = PeerAccount(
            id=account_id, asset_scale=18, settle_threshold=Decimal(0)
        )

    async def hand_to_engine(self, account_id: str, message: bytes) -> bytes | None:
        """Answer a challenge with a proof and with a challenge, and a proof with a word."""
        content = json.loads(message)
        if content.get("challenge") is None:
            return b"RECEIVED"
        signer = self.peers[account_id].signer
        signature = await signer.sign_digest(proofs.digest(bytes(content["challenge"])))
        numbers = {"v": signature.v, "r": signature.r, "s": signature.s}
        answer: dict[str, Any] = {
            "to": {"own_address": signer.address, "token_address": self.token},
            "signature": {
                name: list(number.to_bytes(32).lstrip(b"\0")) for name, number in numbers.items()
            },
            "challenge": list(str(uuid.uuid4()).encode()),
        }
        return json.dumps(answer).encode()

    async def pay(self, account_id: str, units: int) -> None:
        """Sign one more payment to the daemon; ``send`` brings it to the chain."""
        peer = self.peers[account_id]
        call = "" if self.token is None else abi.transfer_call(self.payee, units)[2:]
        signed = await peer.signer.sign_transaction(
            UnsignedTransaction(
                chain_id=CHAIN_ID,
                nonce=len(peer.sent),
                to=self.token or self.payee,
                value=0 if self.token else units,
                data=bytes.fromhex(call),
                gas=100_000,
                max_fee=1000 * GWEI,
                max_priority_fee=GWEI,
            )
        )
        peer.sent.append("0x" + signed.raw.hex())
        peer.paid += units

    async def send(self, chain: UnrestfulChain) -> None:
        """Send what the chain does not have, anew after it was undone."""
        for peer in list(self.peers.values()):
            count = await chain.nonce(peer.signer.address)
            for raw in peer.sent[count:]:
                await chain.offer(raw)
