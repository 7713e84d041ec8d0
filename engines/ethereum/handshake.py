"""How two engines learn each other's addresses, and why they may believe them.

1. The creator of an account sends a challenge.
2. The other answers it with its address and a signature, and with a challenge of its own.
3. The creator answers that one too.

Both sides may do so at the same time, and every message may come twice. A proof counts for the one
account that its challenge was made for. A peer's address is learned, and so paid, only once the
peer has accepted ours: else somebody who had us answer that peer's challenge could be taken for us
there, and be credited for what we pay.
"""

import trio

from engines.ethereum import proofs
from engines.ethereum.peers import Peers
from engines.ethereum.proofs import Bad, Binding, Identity, Message
from engines.ethereum.rate import Rate
from engines.ethereum.signing import Signature, Signer
from settled import MessageFailed, Services

_RECEIVED = b"RECEIVED"
_MESSAGES_A_MINUTE = 60  # of an account: a handshake takes two, and signing costs a millisecond


class Handshake:
    """Both roles of the handshake, for all accounts."""

    def __init__(
        self, services: Services, signer: Signer, peers: Peers, identity: Identity
    ) -> None:
        self._services = services
        self._signer = signer
        self._peers = peers
        self._identity = identity
        self._refused: dict[str, str] = {}  # by account, why its peer's last message was refused
        self._rate = Rate(_MESSAGES_A_MINUTE, within_s=60)
        self._lock = trio.Lock()  # a challenge is made once, and used once

    async def introduce(self, account_id: str) -> None:
        """Exchange addresses with the account's peer, as the one who begins.

        Raises:
            MessageFailed: when the peer does not answer, or not as it should.
            AddressTaken: when the address is another account's.
        """
        ours = self._identity.binding()
        try:
            reply = await self._services.send_message(account_id, proofs.encode_challenge(ours))
        except MessageFailed as error:
            refused = self._refused.get(account_id)
            if refused is None:
                raise
            # The peer's engine may have found the same, and that would be why.
            raise MessageFailed(f"{error}. What it sent us was refused: {refused}") from error
        try:
            message = proofs.decode(reply)
            address = proofs.check_proof(message, ours.challenge(), self._identity)
            await self._peers.check(account_id, address)
            if message.challenge is not None:
                signature = await self._sign(account_id, message, only=address)
                proof = proofs.encode_proof(self._identity, signature)
                # Until the peer has taken this, it may take somebody else for us: no payment yet.
                await self._services.send_message(account_id, proof)
        except Bad as error:
            raise MessageFailed(f"account {account_id}: {error}") from error
        await self._peers.learn(account_id, address)

    async def answer(self, account_id: str, body: bytes) -> bytes:
        """Answer a message of the account's peer; the same message gets as good an answer again.

        Raises:
            Bad: when the message is not as it must be, or one of too many.
            AddressTaken: when the address is another account's.
        """
        try:
            reply = await self._reply(account_id, body)
        except Bad as error:
            self._refused[account_id] = str(error)
            raise
        self._refused.pop(account_id, None)
        return reply

    async def _reply(self, account_id: str, body: bytes) -> bytes:
        if not self._rate.allows(account_id):
            raise Bad(f"the peer sent more than {_MESSAGES_A_MINUTE} messages within a minute")
        message = proofs.decode(body)
        if message.challenge is not None:
            signature = await self._sign(account_id, message)
            ours = await self._binding_for(account_id)
            return proofs.encode_proof(self._identity, signature, ours)
        await self._accept(account_id, message)
        return _RECEIVED

    async def _sign(
        self, account_id: str, message: Message, *, only: str | None = None
    ) -> Signature:
        """Sign a peer's challenge, if it can be nobody else's; ``only``: but this address's."""
        challenge, whose = proofs.check_challenge(message, self._identity)
        if whose is not None:
            if only not in (None, whose):
                raise Bad(f"the challenge of {only} is one of {whose}")
            await self._peers.check(account_id, whose)
        return await self._signer.sign_digest(proofs.digest(challenge))

    async def _binding_for(self, account_id: str) -> Binding:
        """Return what the account's peer shall prove its address for: on disk until it has."""
        state = self._services.state
        async with self._lock:
            random: str | None = await state.get("challenge", account_id)
            binding = self._identity.binding(random)
            if random is None:
                await state.set("challenge", binding.random, account_id)
            return binding

    async def _accept(self, account_id: str, message: Message) -> None:
        async with self._lock:
            random: str | None = await self._services.state.get("challenge", account_id)
            if random is None:
                known = await self._peers.address(account_id)
                if message.to is not None and known == message.to.own_address.lower():
                    return  # it came before
                raise Bad("the peer answers a challenge that it was not given, or answered before")
            challenge = self._identity.binding(random).challenge()
            address = proofs.check_proof(message, challenge, self._identity)
            await self._peers.learn(account_id, address, answered="challenge")
