"""The handshake: as the Rust engine speaks it, and what a peer must not get by it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from engines.ethereum import proofs
from engines.ethereum.peers import AddressTaken
from engines.ethereum.proofs import Bad, Identity
from engines.ethereum.rate import Rate
from engines.ethereum.signing import LocalSigner
from settled import MessageFailed
from settled.testing import MemoryStore
from tests.engines.ethereum.sides import KEYS, Side, sides

# Made with the Rust engine's own libraries.
VECTOR = {
    "key": "380eb0f3d505f087e438eca80bc4df9a7faa24f868e69fc0440261a0fc0567dc",
    "address": "0x3cdb3d9e1b74692bb1e3bb5fc81938151ca64b02",
    "challenge": b"00000000-0000-4000-8000-000000000000",
    "digest": "81a1b4f423de32a699aa4c29ebc9e390801f548694504e6c3392d7d3cd16cf91",
    "v": [27],
    "r": "b58dbbb14dd1453c4820aefd7600df1c9ce70736b16d06ba6d5ee78dfae043d8",
    "s": "7e65ab35748e1c8062f06f0611fdb24f3892f8ebadba82c7a098748f7f0b1ec1",
}
UUID = "3f2a8b1c-0d4e-4f6a-9b8c-7d6e5f4a3b2c"
TOKEN = "0x" + "ab" * 20


def numbers(text: str) -> list[int]:
    return list(text.encode())


class RustEngine:
    """The other side as the Rust engine plays it: no bindings, UUIDs, extra fields ignored."""

    def __init__(self, key: str, token: str | None = None) -> None:
        self.signer = LocalSigner(key)
        self.token = token
        self.challenge = UUID
        self.known: str | None = None

    async def proof(self, challenge: list[int], asked: str | None) -> bytes:
        signature = await self.signer.sign_digest(proofs.digest(bytes(challenge)))
        content = {
            "to": {"own_address": self.signer.address, "token_address": self.token},
            "signature": {
                "v": [signature.v],
                "r": list(signature.r.to_bytes(32).lstrip(b"\0")),
                "s": list(signature.s.to_bytes(32).lstrip(b"\0")),
            },
            "challenge": asked and numbers(asked),
        }
        return json.dumps(content).encode()

    async def answer(self, _account_id: str, body: bytes) -> bytes:
        message = json.loads(body)
        if isinstance(message.get("challenge"), list):
            return await self.proof(message["challenge"], self.challenge)
        self.known = self.verified(message, self.challenge)
        return b"RECEIVED"

    def verified(self, message: dict[str, Any], challenge: str) -> str:
        assert message["challenge"] is None
        assert set(message) == {"to", "signature", "challenge"}
        assert all(type(part) is list for part in message["signature"].values())
        decoded = proofs.decode(json.dumps(message).encode())
        identity = Identity(31337, self.token, self.signer.address)
        return proofs.check_proof(decoded, challenge.encode(), identity)


async def test_the_vector_of_the_rust_engine() -> None:
    signer = LocalSigner(str(VECTOR["key"]))
    challenge = bytes(VECTOR["challenge"])  # type: ignore[arg-type]
    assert signer.address == VECTOR["address"]
    assert proofs.digest(challenge).hex() == VECTOR["digest"]
    signature = await signer.sign_digest(proofs.digest(challenge))
    body = proofs.encode_proof(Identity(1, None, signer.address), signature)
    assert json.loads(body) == {
        "to": {"own_address": VECTOR["address"], "token_address": None},
        "signature": {
            "v": VECTOR["v"],
            "r": list(bytes.fromhex(str(VECTOR["r"]))),
            "s": list(bytes.fromhex(str(VECTOR["s"]))),
        },
        "challenge": None,
    }
    found = proofs.check_proof(proofs.decode(body), challenge, Identity(1, None, "0x" + "1" * 40))
    assert found == VECTOR["address"]


@given(st.uuids(version=4).map(str), st.sampled_from([0, 10, 2 * 31337 + 8]))
@example("00000000-0000-4000-8000-000000000000", 10)
@example(UUID, 10)
async def test_v_may_hold_a_chain_id(challenge: str, more: int) -> None:
    rust = RustEngine(str(VECTOR["key"]))
    message = json.loads(await rust.proof(numbers(challenge), None))
    (v,) = message["signature"]["v"]
    ours = Identity(1, None, "0x" + "1" * 40)
    for told, good in ((v, True), (55 - v, False), (0, False), (35, False), (36, False)):
        message["signature"]["v"] = list((told + more if told in {27, 28} else told).to_bytes(4))
        decoded = proofs.decode(json.dumps(message).encode())
        if good:
            assert proofs.check_proof(decoded, challenge.encode(), ours) == VECTOR["address"]
        else:
            with pytest.raises(Bad, match="does not prove"):
                proofs.check_proof(decoded, challenge.encode(), ours)


def test_both_kinds_of_v_are_tried() -> None:
    """The examples above: their signatures differ in it."""
    signer = LocalSigner(str(VECTOR["key"]))
    found = {
        trio.run(signer.sign_digest, proofs.digest(challenge.encode())).v
        for challenge in (UUID, "00000000-0000-4000-8000-000000000000")
    }
    assert found == {27, 28}


async def test_a_rust_engine_is_met_in_either_role() -> None:
    async with trio.open_nursery() as nursery:
        side, rust = Side(KEYS[0], nursery), RustEngine(KEYS[1])
        await side.store.open_account("rust")
        side.carry = rust.answer
        await side.handshake.introduce("rust")
        assert rust.known == side.signer.address
        assert await side.peers.address("rust") == rust.signer.address

        other, rust = Side(KEYS[0], nursery), RustEngine(KEYS[1])
        await other.store.open_account("rust")
        step_1 = json.dumps({"challenge": numbers(UUID)}).encode()
        step_2 = json.loads(await other.handshake.answer("rust", step_1))
        assert len(bytes(step_2["challenge"])) == 36
        step_3 = await rust.proof(step_2["challenge"], None)
        assert await other.handshake.answer("rust", step_3) == b"RECEIVED"
        assert await other.peers.address("rust") == rust.signer.address
        assert await other.peers.owner(rust.signer.address) == "rust"
        nursery.cancel_scope.cancel()


async def test_both_sides_may_begin_at_once_and_every_message_come_twice() -> None:
    async with sides("alice", "bob") as (alice, bob):
        for side in (alice, bob):
            carry = side.carry

            async def twice(account_id: str, body: bytes, carry: Any = carry) -> bytes:
                await carry(account_id, body)
                return bytes(await carry(account_id, body))

            side.carry = twice
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.handshake.introduce, "bob")
            nursery.start_soon(bob.handshake.introduce, "alice")
        assert await alice.peers.address("bob") == bob.signer.address
        assert await bob.peers.address("alice") == alice.signer.address
        assert not alice.log.events("error") + bob.log.events("error")


async def test_a_peer_that_is_not_there_yet_is_met_later() -> None:
    async with sides("alice", "bob") as (alice, bob):
        carry, alice.carry = alice.carry, alice._no_peer
        with pytest.raises(MessageFailed):
            await alice.handshake.introduce("bob")
        assert await alice.peers.address("bob") is None
        alice.carry = carry
        await alice.handshake.introduce("bob")
        assert await alice.peers.address("bob") == bob.signer.address


async def test_the_peer_is_not_paid_before_it_has_taken_our_address() -> None:
    """Else we might pay one who takes our payments for another's."""
    async with sides("alice", "bob") as (alice, bob):
        carry = alice.carry

        async def lose_the_third(account_id: str, body: bytes) -> bytes:
            if len(alice.sent) == 2:
                raise MessageFailed("lost")
            return await carry(account_id, body)

        alice.carry = lose_the_third
        with pytest.raises(MessageFailed):
            await alice.handshake.introduce("bob")
        assert await alice.peers.address("bob") is None
        await alice.handshake.introduce("bob")
        assert await alice.peers.address("bob") == bob.signer.address


async def test_the_same_challenge_is_handed_out_until_it_is_answered_also_after_a_restart() -> None:
    store = MemoryStore()
    await store.open_account("rust")
    given: list[list[int]] = []
    step_1 = json.dumps({"challenge": numbers(UUID)}).encode()
    for _start in range(2):
        async with trio.open_nursery() as nursery:
            side = Side(KEYS[0], nursery, store=store)
            given += [
                json.loads(await side.handshake.answer("rust", step_1))["challenge"]
                for _ in range(2)
            ]
            nursery.cancel_scope.cancel()
    assert len({bytes(challenge) for challenge in given}) == 1
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery, store=store)
        rust = RustEngine(KEYS[1])
        await side.handshake.answer("rust", await rust.proof(given[0], None))
        other = RustEngine(KEYS[2])  # a challenge proves one address, once
        with pytest.raises(Bad, match="answered before"):
            await side.handshake.answer("rust", await other.proof(given[0], None))
        again = json.loads(await side.handshake.answer("rust", step_1))["challenge"]
        assert again != given[0]
        nursery.cancel_scope.cancel()


async def test_a_proof_for_one_account_is_none_for_another() -> None:
    async with trio.open_nursery() as nursery:
        side, rust = Side(KEYS[0], nursery), RustEngine(KEYS[1])
        for account in ("a", "b"):
            await side.store.open_account(account)
        step_1 = json.dumps({"challenge": numbers(UUID)}).encode()
        step_2 = json.loads(await side.handshake.answer("a", step_1))
        await side.handshake.answer("b", step_1)
        step_3 = await rust.proof(step_2["challenge"], None)
        with pytest.raises(Bad, match="does not prove"):
            await side.handshake.answer("b", step_3)
        assert await side.peers.address("b") is None
        nursery.cancel_scope.cancel()


async def test_an_address_of_another_account_is_refused_and_the_operator_told_once() -> None:
    async with trio.open_nursery() as nursery:
        side, rust = Side(KEYS[0], nursery), RustEngine(KEYS[1])
        side.carry = rust.answer
        for account in ("a", "b"):
            await side.store.open_account(account)
        await side.handshake.introduce("a")
        for _ in range(3):
            with pytest.raises(AddressTaken, match="another account's"):
                await side.handshake.introduce("b")
        step_1 = json.dumps({"challenge": numbers(UUID)}).encode()
        step_2 = json.loads(await side.handshake.answer("b", step_1))
        with pytest.raises(AddressTaken):
            await side.handshake.answer("b", await rust.proof(step_2["challenge"], None))
        ((_, event, fields),) = [line for line in side.log.lines if line[0] == "error"]
        assert event == "ethereum_address_taken"
        assert (fields["account"], fields["owner"]) == ("b", "a")
        assert await side.peers.owner(rust.signer.address) == "a"
        assert await side.peers.address("b") is None
        nursery.cancel_scope.cancel()


async def test_a_peer_cannot_have_us_answer_what_another_of_our_peers_asked_it() -> None:
    """Mallory, a peer of both, wants to be taken for Alice by Victor."""
    async with sides("alice", "victor", "mallory") as (alice, victor, mallory):
        await alice.handshake.introduce("victor")
        asked = await victor.handshake.answer("mallory", proofs.encode_challenge(_any_binding()))
        with pytest.raises(AddressTaken):
            await alice.handshake.answer("mallory", asked)
        stripped = json.loads(asked) | {"binding": None}
        with pytest.raises(Bad, match="neither a UUID nor bound"):
            await alice.handshake.answer("mallory", json.dumps(stripped).encode())
        forged = json.loads(asked)
        forged["binding"]["address"] = mallory.signer.address
        with pytest.raises(Bad, match="does not belong"):
            await alice.handshake.answer("mallory", json.dumps(forged).encode())


async def test_who_was_taken_for_us_by_a_peer_that_we_did_not_know_gets_no_payment() -> None:
    """Mallory was there before Alice and Victor met: then Alice does not pay Victor."""
    async with sides("alice", "victor", "mallory") as (alice, victor, _mallory):
        asked = await victor.handshake.answer("mallory", proofs.encode_challenge(_any_binding()))
        stolen = json.loads(await alice.handshake.answer("mallory", asked))
        stolen["challenge"] = None
        await victor.handshake.answer("mallory", json.dumps(stolen).encode())
        assert await victor.peers.owner(alice.signer.address) == "mallory"
        with pytest.raises((MessageFailed, AddressTaken)):
            await alice.handshake.introduce("victor")
        assert await alice.peers.address("victor") is None
        assert victor.log.events("error") == ["ethereum_address_taken"]


def _any_binding() -> proofs.Binding:
    return Identity(31337, None, LocalSigner(KEYS[5]).address).binding()


@pytest.mark.parametrize(
    ("identity", "why"),
    [
        (Identity(1, None, "0x" + "9" * 40), "on chain 1"),
        (Identity(31337, TOKEN, "0x" + "9" * 40), TOKEN),
        (Identity(31337, None, LocalSigner(KEYS[0]).address), "one of our own"),
    ],
)
async def test_a_bound_challenge_of_another_chain_token_or_ourselves_is_not_answered(
    identity: Identity, why: str
) -> None:
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery)
        await side.store.open_account("a")
        with pytest.raises(Bad, match=why):
            await side.handshake.answer("a", proofs.encode_challenge(identity.binding()))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("ours", "theirs"), [(TOKEN, None), (None, TOKEN), (TOKEN, "0x" + "c" * 40)]
)
async def test_who_settles_another_token_is_refused(ours: str | None, theirs: str | None) -> None:
    async with trio.open_nursery() as nursery:
        side, rust = Side(KEYS[0], nursery, token=ours), RustEngine(KEYS[1], theirs)
        await side.store.open_account("a")
        side.carry = rust.answer
        with pytest.raises(MessageFailed, match="the peer settles in"):
            await side.handshake.introduce("a")
        assert await side.peers.address("a") is None
        nursery.cancel_scope.cancel()


async def test_the_case_of_a_token_address_means_nothing() -> None:
    async with trio.open_nursery() as nursery:
        side, rust = Side(KEYS[0], nursery, token=TOKEN), RustEngine(KEYS[1], TOKEN)
        await side.store.open_account("a")
        rust_answer = rust.answer

        async def shouting(account_id: str, body: bytes) -> bytes:
            return (await rust_answer(account_id, body)).replace(b"0xab", b"0xAB")

        side.carry = shouting
        await side.handshake.introduce("a")
        assert await side.peers.address("a") == rust.signer.address
        nursery.cancel_scope.cancel()


async def test_a_new_address_needs_a_new_proof_and_the_old_one_stays_the_accounts() -> None:
    async with trio.open_nursery() as nursery:
        side, first, second = Side(KEYS[0], nursery), RustEngine(KEYS[1]), RustEngine(KEYS[2])
        await side.store.open_account("a")
        for rust in (first, second):
            side.carry = rust.answer
            await side.handshake.introduce("a")
        assert await side.peers.address("a") == second.signer.address
        for rust in (first, second):
            assert await side.peers.owner(rust.signer.address) == "a"
        assert side.log.events("warning") == ["ethereum_address_changed"]
        side.carry = first.answer  # and back
        await side.handshake.introduce("a")
        assert await side.peers.address("a") == first.signer.address
        nursery.cancel_scope.cancel()


async def test_our_own_address_is_nobody_elses() -> None:
    async with trio.open_nursery() as nursery:
        side, mirror = Side(KEYS[0], nursery), RustEngine(KEYS[0])
        await side.store.open_account("a")
        side.carry = mirror.answer
        with pytest.raises(MessageFailed, match="our own address"):
            await side.handshake.introduce("a")
        nursery.cancel_scope.cancel()


def good() -> dict[str, Any]:
    signature = {"v": [27], "r": [1] * 32, "s": [1] * 32}
    to = {"own_address": "0x" + "1" * 40, "token_address": None}
    return {"to": to, "signature": signature, "challenge": None}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m.update(to=None),
        lambda m: m.pop("signature"),
        lambda m: m["to"].update(own_address="1" * 40),
        lambda m: m["to"].update(own_address="0x" + "g" * 40),
        lambda m: m["to"].update(own_address=7),
        lambda m: m["to"].update(token_address="0x"),
        lambda m: m["signature"].update(v=[]),
        lambda m: m["signature"].update(v=27),
        lambda m: m["signature"].update(r=[1] * 33),
        lambda m: m["signature"].update(r=[256]),
        lambda m: m["signature"].update(s=[-1]),
        lambda m: m["signature"].update(s=[0.5]),
        lambda m: m["signature"].update(s=["1"]),
        lambda m: m.update(challenge=[0] * 37),
        lambda m: m.update(challenge=[]),
        lambda m: m.update(challenge=numbers("x" * 36)),
        lambda m: m.update(challenge="x" * 36),
        lambda m: m.update(challenge=numbers("0" * 36), binding={"chain_id": 1}),
        lambda m: m.update(challenge=numbers("0" * 36), binding=7),
    ],
)
async def test_what_is_malformed_is_refused(spoil: Callable[[dict[str, Any]], Any]) -> None:
    message = good()
    spoil(message)
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery)
        await side.store.open_account("a")
        with pytest.raises(Bad):
            await side.handshake.answer("a", json.dumps(message).encode())

        async def reply(_account_id: str, _body: bytes) -> bytes:
            return json.dumps(message).encode()

        side.carry = reply
        with pytest.raises(MessageFailed, match="account a"):
            await side.handshake.introduce("a")
        nursery.cancel_scope.cancel()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: (
        st.lists(inner, max_size=40)
        | st.dictionaries(
            st.sampled_from(
                [
                    "to",
                    "signature",
                    "challenge",
                    "binding",
                    "v",
                    "r",
                    "s",
                    "own_address",
                    "chain_id",
                ]
            ),
            inner,
        )
    ),
    max_leaves=60,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 16_000)
@example(b"{" * 20_000)
@example(b'{"challenge": [1e999]}')
@example(b'{"challenge": [' + b"9" * 5000 + b"]}")
async def test_nothing_that_a_peer_sends_does_more_than_be_refused(body: bytes) -> None:
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery)
        await side.store.open_account("a")
        with pytest.raises(Bad):
            await side.handshake.answer("a", body)
        assert await side.peers.address("a") is None
        nursery.cancel_scope.cancel()


async def test_a_peer_that_asks_all_the_time_is_not_answered_all_the_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rate = Rate(3, within_s=60)
    assert [rate.allows("alice") for _ in range(4)] == [True, True, True, False]
    assert rate.allows("bob")
    await trio.sleep(59)
    assert not rate.allows("alice")
    await trio.sleep(2)
    assert [rate.allows("alice") for _ in range(4)] == [True, True, True, False]


async def test_a_flood_of_challenges_is_refused() -> None:
    challenge = json.dumps({"challenge": numbers(UUID)}).encode()
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery)
        await side.store.open_account("a")
        for _ in range(60):
            assert await side.handshake.answer("a", challenge)
        with pytest.raises(Bad, match="more than 60 messages within a minute"):
            await side.handshake.answer("a", challenge)
        nursery.cancel_scope.cancel()


@given(st.integers(min_value=0, max_value=2**256 - 1))
def test_numbers_are_written_without_leading_zeros(number: int) -> None:
    written = proofs._shortest(number)
    assert int.from_bytes(bytes(written)) == number
    assert not written or written[0] != 0


@pytest.mark.parametrize(
    ("token", "address", "random"),
    [
        ("\x1b[2J" * 100, "0x" + "9" * 40, None),
        (None, "nobody", None),
        (None, "0x" + "9" * 40, "\n" * 32),
    ],
)
async def test_a_binding_to_nothing_that_can_be_is_refused(
    token: str | None, address: str, random: str | None
) -> None:
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery)
        await side.store.open_account("a")
        binding = Identity(31337, token, address).binding(random)
        with pytest.raises(Bad, match="malformed"):
            await side.handshake.answer("a", proofs.encode_challenge(binding))
        nursery.cancel_scope.cancel()
