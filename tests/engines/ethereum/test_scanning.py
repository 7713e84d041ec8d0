"""What is read from a node: believed only as far as it fits together."""

import copy
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from engines.ethereum import abi
from engines.ethereum.rpc import RpcError, RpcFailure, View
from engines.ethereum.scanning import EtherScanner, Range, Scanner, TokenScanner
from engines.ethereum.transfers import Transfer
from tests.engines.ethereum.anvil import CHAIN_ID, ETHER, Chain
from tests.engines.ethereum.receiver import CONFIRMATIONS, OURS, Payer, Receiver

TOKEN = "0x" + "70" * 20
PEER = "0x" + "22" * 20
HASHES = [f"0x{n:064x}" for n in range(100, 110)]
PAID = "0x" + "ab" * 32
BLOCKS = Range(1, 3, HASHES[0])

Answers = dict[str, Any]


def answers() -> Answers:
    """Return what a node that is sound says: in block 2, somebody pays us 5, in both assets."""
    transaction = {
        "hash": PAID,
        "from": PEER,
        "to": OURS,
        "value": "0x5",
        "blockNumber": "0x2",
    }
    log = {
        "address": TOKEN,
        "topics": [abi.TRANSFER_TOPIC, abi.address_topic(PEER), abi.address_topic(OURS)],
        "data": f"0x{5:064x}",
        "transactionHash": PAID,
        "blockHash": HASHES[2],
        "blockNumber": "0x2",
    }
    found: Answers = {
        f"block {n}": {
            "number": hex(n),
            "hash": HASHES[n],
            "parentHash": HASHES[n - 1],
            "transactions": [transaction] if n == 2 else [],
        }
        for n in (1, 2, 3)
    }
    found["logs"] = [log]
    found["receipt"] = {
        "transactionHash": PAID,
        "blockHash": HASHES[2],
        "blockNumber": "0x2",
        "status": "0x1",
        "logs": [log],
    }
    return found


class Scripted:
    """A node that answers from a script; a block's answers may differ from time to time."""

    head = 100

    def __init__(self, script: Answers) -> None:
        self.script = script

    async def read(self, calls: list[tuple[str, list[Any]]]) -> list[Any]:
        await trio.lowlevel.checkpoint()
        results = [self._answer(method, parameters) for method, parameters in calls]
        for result in results:
            if isinstance(result, RpcError):
                raise result
        return results

    def _answer(self, method: str, parameters: list[Any]) -> Any:
        if method == "eth_getBlockByNumber":
            answer = self.script[f"block {int(parameters[0], 16)}"]
            return answer.pop(0) if isinstance(answer, list) else answer
        return self.script["logs" if method == "eth_getLogs" else "receipt"]


SCANNERS: list[Scanner] = [
    EtherScanner(CHAIN_ID, OURS),
    TokenScanner(CHAIN_ID, OURS, TOKEN, 18),
]


async def scan(scanner: Scanner, script: Answers) -> list[Transfer]:
    found = await scanner.scan(cast(View, Scripted(script)), BLOCKS)
    assert found.last_hash == HASHES[3]
    return found.transfers


@pytest.mark.parametrize("scanner", SCANNERS)
async def test_what_a_sound_node_shows_is_found(scanner: Scanner) -> None:
    (transfer,) = await scan(scanner, answers())
    assert transfer.id in {f"{CHAIN_ID}:{PAID}:value", f"{CHAIN_ID}:{PAID}:0"}
    assert (transfer.sender, transfer.amount, transfer.block) == (PEER, Decimal("5E-18"), 2)


def change(where: str, **fields: Any) -> Callable[[Answers], object]:
    return lambda script: script[where].update(fields)


@pytest.mark.parametrize("scanner", SCANNERS)
async def test_a_transaction_that_failed_paid_nothing(scanner: Scanner) -> None:
    script = answers()
    script["receipt"]["status"] = "0x0"
    assert await scan(scanner, script) == []


UNSOUND: list[tuple[str, Callable[[Answers], object]]] = [
    ("both", lambda script: script.update({"block 3": None})),
    ("both", change("block 3", number="0x4")),
    ("both", change("block 3", hash="0x12")),
    ("both", change("receipt", blockHash=HASHES[1])),
    ("both", change("receipt", transactionHash=HASHES[1])),
    ("both", change("receipt", status=None)),
    ("both", lambda script: script.update(receipt=None)),
    ("both", lambda script: script.update(receipt=[])),
    ("ether", change("block 3", parentHash=HASHES[1])),
    ("both", change("block 1", parentHash=HASHES[1])),
    ("ether", change("block 2", transactions=None)),
    ("ether", change("block 2", transactions=[PAID])),
    ("token", lambda script: script.update(logs=None)),
    ("token", lambda script: script.update(logs=[None])),
    ("token", lambda script: script["logs"][0].update(blockNumber="0x4")),
    ("token", lambda script: script["logs"][0].update(blockHash=HASHES[1])),
    ("token", lambda script: script["logs"].append({**script["logs"][0], "blockHash": HASHES[1]})),
    ("token", change("receipt", logs=None)),
    (
        "token",
        lambda script: script.update(
            {"block 3": [script["block 3"], {**script["block 3"], "hash": HASHES[9]}]}
        ),
    ),
]


@pytest.mark.parametrize(("asset", "spoil"), UNSOUND)
async def test_what_does_not_fit_together_is_no_answer(
    asset: str, spoil: Callable[[Answers], object]
) -> None:
    for name, scanner in zip(("ether", "token"), SCANNERS, strict=True):
        if asset in (name, "both"):
            script = copy.deepcopy(answers())
            spoil(script)
            with pytest.raises((RpcFailure, ValueError)):
                await scan(scanner, script)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(HASHES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["hash", "number", "transactions", "logs", "status", "to", "from"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(
    st.sampled_from(["block 1", "block 2", "block 3", "logs", "receipt"]),
    st.sampled_from(["", *answers()["block 2"], *answers()["logs"][0], *answers()["receipt"]]),
    JSON,
)
async def test_whatever_a_node_says_is_an_answer_or_none(
    where: str, field: str, value: object
) -> None:
    for scanner in SCANNERS:
        script = answers()
        if not field:
            script[where] = value
        elif isinstance(script[where], dict):
            script[where][field] = value
        else:
            script[where][0][field] = value
        if isinstance(script[where], list) and where.startswith("block"):
            continue
        try:
            transfers = await scan(scanner, script)
        except (RpcFailure, ValueError):
            continue
        assert len(transfers) <= 1


# --- on a real chain, through a node that is not all it should be ---


@pytest.fixture
async def payer(chain: Chain) -> Payer:
    return Payer(chain, await chain.signer())


async def tokens(chain: Chain, payer: Payer) -> Receiver:
    token = await chain.deploy_token()
    await chain.mint(token, payer.address, 100 * ETHER)
    receiver = Receiver(chain, token=token, blocks_max=50)
    await receiver.store.open_account("a")
    async with receiver.running() as running:
        await running.side.peers.learn("a", payer.address)
    return receiver


class Lagging:
    """A node that says of a head that it has, but is some blocks behind it."""

    def __init__(self, view: View, behind: int) -> None:
        self.head, self._view, self._last = view.head, view, view.head - behind

    async def block(self, number: int) -> Any:
        return await self._view.block(number) if number <= self._last else None

    async def read(self, calls: list[Any]) -> list[Any]:
        results: list[Any] = []
        for method, parameters in calls:
            if method == "eth_getBlockByNumber" and int(parameters[0], 16) > self._last:
                results.append(None)
            elif method == "eth_getLogs":
                last = hex(min(self._last, int(parameters[0]["toBlock"], 16)))
                first = hex(min(int(last, 16), int(parameters[0]["fromBlock"], 16)))
                wanted = {**parameters[0], "fromBlock": first, "toBlock": last}
                results += await self._view.read([(method, [wanted])])
            else:
                results += await self._view.read([(method, parameters)])
        return results


async def test_a_node_that_lags_behind_its_word_loses_nothing(chain: Chain, payer: Payer) -> None:
    receiver = await tokens(chain, payer)
    lag = CONFIRMATIONS + 3
    receiver.hinder = lambda view: Lagging(view, lag)
    async with receiver.running() as running:
        for units in range(1, 6):
            await payer.pay(str(receiver.token), data=abi.transfer_call(OURS, units))
            await trio.sleep(0.03)
        await chain.mine(CONFIRMATIONS)
        await trio.sleep(0.1)
        assert len(await running.credits()) < 5
        lag = 0
        await running.done()
        assert [int(amount * ETHER) for _, amount in await running.credits()] == [1, 2, 3, 4, 5]


class Narrow:
    """A node that gives logs of a few blocks only, or of few payments."""

    def __init__(self, view: View, blocks_max: int, refused: list[int]) -> None:
        self.head, self._view = view.head, view
        self._blocks_max, self._refused = blocks_max, refused
        self.block = view.block

    async def read(self, calls: list[Any]) -> list[Any]:
        for method, parameters in calls:
            if method == "eth_getLogs":
                first, last = (int(parameters[0][name], 16) for name in ("fromBlock", "toBlock"))
                if last - first >= self._blocks_max:
                    self._refused.append(last - first + 1)
                    raise RpcError(-32005, "query returned more than 10000 results")
        return await self._view.read(calls)


async def test_a_range_that_a_node_refuses_is_halved(chain: Chain, payer: Payer) -> None:
    receiver = await tokens(chain, payer)
    refused: list[int] = []
    receiver.hinder = lambda view: Narrow(view, 3, refused)
    for units in range(1, 30):
        await payer.pay(str(receiver.token), data=abi.transfer_call(OURS, units))
    await chain.mine(CONFIRMATIONS)
    credits = await receiver.run_to_end()
    assert [int(amount * ETHER) for _, amount in credits] == list(range(1, 30))
    assert refused[:4] == sorted(refused[:4], reverse=True)
    assert len(refused) < 8


async def test_more_is_asked_for_again_once_a_node_gives_it(chain: Chain, payer: Payer) -> None:
    receiver = await tokens(chain, payer)
    receiver.poll_s = 60  # while blocks are left, nothing is waited for
    asked: list[int] = []

    class Recovering(Narrow):
        async def read(self, calls: list[Any]) -> list[Any]:
            found = await super().read(calls)
            for method, parameters in calls:
                if method == "eth_getLogs":
                    wanted = parameters[0]
                    asked.append(int(wanted["toBlock"], 16) - int(wanted["fromBlock"], 16) + 1)
            return found

    receiver.hinder = lambda view: Recovering(view, 100 if asked else 1, [])
    await chain.mine(130)
    await receiver.run_to_end()
    assert asked[:50] == [1] * 16 + [2] * 16 + [4] * 16 + asked[48:50]
    assert set(asked[48:-1]) <= {8}


async def test_thousands_of_blocks_are_caught_up_with_and_told_of(
    chain: Chain, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.ethereum.receiving._PROGRESS_EVERY_S", 0.05)
    receiver = Receiver(chain)
    await receiver.store.open_account("a")
    async with receiver.running() as running:
        await running.side.peers.learn("a", payer.address)
    for wei in range(1, 5):
        await chain.mine(500)
        await payer.pay(OURS, wei)
    await chain.mine(CONFIRMATIONS)
    credits = await receiver.run_to_end()
    assert [int(amount * ETHER) for _, amount in credits] == [1, 2, 3, 4]
    assert receiver.log is not None
    told = [fields for _, event, fields in receiver.log.lines if event == "ethereum_catching_up"]
    assert told
    done, to_go = told[0]["blocks_done"], told[0]["blocks_to_go"]
    assert 2000 <= done + to_go <= 2010
    assert receiver.log.events("info")[-1] == "ethereum_caught_up"
