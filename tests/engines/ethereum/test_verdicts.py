"""What is believed of a payment's end, when the node is behind, confused or pruned."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import pytest
import trio

from engines.ethereum import abi
from engines.ethereum.asset import Asset, Ether, Token
from engines.ethereum.doubts import Doubts
from engines.ethereum.fees import Fees, bump, offer
from engines.ethereum.node import RpcError
from engines.ethereum.payments import Payments
from engines.ethereum.rpc import View
from engines.ethereum.telling import Seldom
from engines.ethereum.transactions import Payment, from_state
from engines.ethereum.verdicts import Verdicts
from settled import Services
from settled.testing import MemoryStore
from tests.engines.ethereum.bench import Log

US, BOB = "0x" + "aa" * 20, "0x" + "bb" * 20
OURS, OTHER = "0x" + "01" * 32, "0x" + "02" * 32
CONFIRMATIONS = 3


def payment(**changes: Any) -> Payment:
    fields: dict[str, Any] = {
        "settlement_id": "s1",
        "account_id": "bob",
        "payee": BOB,
        "to": BOB,
        "value": 5,
        "data": "0x",
        "units": 5,
        "gas": 21_000,
        "fees": Fees(10**9, 10**8),
        "head": 10,
        "nonce": 0,
        "raw": "0x00",
        "hashes": (OURS,),
    }
    return Payment(**(fields | changes))


def block_hash(number: int) -> str:
    return f"0x{number:064x}"


@dataclass
class Node:
    """A view by script: our nonce 0 was used in block 20, by ``OURS`` unless told otherwise."""

    head: int = 22
    receipts: dict[str, Any] = field(default_factory=dict)
    transactions: list[dict[str, Any]] = field(default_factory=list)
    used_in: int = 20
    oldest_state: int = 0
    balances: dict[str, list[Any]] = field(default_factory=dict)  # before and after that block

    async def read(self, calls: list[tuple[str, list[Any]]]) -> list[Any]:
        return [await self.call(method, *parameters) for method, parameters in calls]

    batch = read

    async def call(self, method: str, *parameters: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if method == "eth_getTransactionReceipt":
            return self.receipts.get(parameters[0])
        if method == "eth_getBlockByNumber":
            return await self.block(abi.number(parameters[0]))
        if method == "eth_call":
            owner = "0x" + parameters[0]["data"][-40:]
            return self.balances[owner][abi.number(parameters[1]) - self.used_in + 1]
        assert method == "eth_getTransactionCount"
        number = abi.number(parameters[1])
        if number < self.oldest_state:
            raise RpcError(-32000, "missing trie node")
        return "0x1" if number >= self.used_in else "0x0"

    async def block(self, number: int, *, full: bool = False) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        transactions = self.transactions if number == self.used_in else []
        return {"number": hex(number), "hash": block_hash(number), "transactions": transactions}


def receipt(**changes: Any) -> dict[str, Any]:
    fields = {
        "transactionHash": OURS,
        "blockNumber": hex(20),
        "blockHash": block_hash(20),
        "status": "0x1",
        "logs": [],
    }
    return fields | changes


def transaction(**changes: Any) -> dict[str, Any]:
    fields = {"hash": OTHER, "from": US, "nonce": "0x0", "to": BOB, "value": "0x7", "input": "0x"}
    return fields | changes


class Judge:
    def __init__(self, asset: Asset | None = None) -> None:
        self.log = Log()
        services = Services(MemoryStore(), cast(Any, None), cast(Any, None))
        self.doubts = Doubts(services, Payments(services), US)
        self.verdicts = Verdicts(US, asset or Ether(), CONFIRMATIONS, self.doubts, Seldom(self.log))

    async def says(self, node: Node, of: Payment | None = None) -> list[Decimal | None]:
        found = await self.verdicts.find(cast(View, node), [of or payment()])
        return [one.settled for one in found]


AMOUNT = Decimal("5E-18")


async def test_it_takes_exactly_its_confirmations() -> None:
    judge = Judge()
    for head in (20, 21):
        assert await judge.says(Node(head, {OURS: receipt()})) == []
    assert await judge.says(Node(22, {OURS: receipt()})) == [AMOUNT]


async def test_a_head_that_never_was_does_not_put_a_payment_off() -> None:
    judge = Judge()
    assert await judge.says(Node(1_000_000, used_in=1_000_000)) == []
    assert await judge.says(Node(22, {OURS: receipt()})) == [AMOUNT]


async def test_a_receipt_of_a_block_that_was_undone_is_not_believed() -> None:
    judge = Judge()
    stale = Node(30, {OURS: receipt(blockHash=block_hash(99))})
    assert await judge.says(stale) == []
    assert await judge.says(Node(31, {OURS: receipt()})) == [AMOUNT]


@pytest.mark.parametrize(
    "change",
    [
        {"status": None},
        {"status": "failed"},
        {"transactionHash": OTHER},
        {"transactionHash": None},
        {"blockNumber": None},
        {"blockHash": None},
    ],
)
async def test_a_receipt_that_says_too_little_decides_nothing(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not a|another receipt"):
        await Judge().says(Node(30, {OURS: receipt(**change)}))


@pytest.mark.parametrize("logs", [None, 5, {}])
async def test_a_receipt_without_logs_does_not_say_that_a_token_stood_still(logs: Any) -> None:
    judge = Judge(Token(OTHER[:42], 18))
    with pytest.raises(ValueError, match="no logs"):
        await judge.says(Node(22, {OURS: receipt(logs=logs)}))


def balance(units: int) -> str:
    return f"0x{units:064x}"


async def test_a_token_without_logs_has_moved_nothing_only_if_no_balance_has_changed() -> None:
    still = {US: [balance(7), balance(7)], BOB: [balance(0), balance(0)]}
    node = Node(22, {OURS: receipt()}, balances=still)
    assert await Judge(Token(OTHER[:42], 18)).says(node) == [Decimal(0)]


@pytest.mark.parametrize("owner", [US, BOB])
@pytest.mark.parametrize("after", [balance(5), "0x", RpcError(-32000, "missing trie node"), None])
async def test_a_token_that_moves_and_does_not_say_so_is_left_open(owner: str, after: Any) -> None:
    judge = Judge(Token(OTHER[:42], 18))
    balances = {US: [balance(7), balance(7)], BOB: [balance(0), balance(0)]}
    balances[owner][1] = after
    for head in range(22, 25):
        assert await judge.says(Node(head, {OURS: receipt()}, balances=balances)) == []
    assert judge.log.events() == ["payment_unclear"]
    assert judge.verdicts.is_lost("s1")
    assert "settled settlements resolve s1" in str(judge.log.lines)


@pytest.mark.parametrize("transactions", [5, None, "0x"])
async def test_a_block_without_transactions_proves_nothing(transactions: Any) -> None:
    assert await Judge().says(Node(22, transactions=transactions)) == []


async def test_a_failed_transaction_moved_nothing() -> None:
    assert await Judge().says(Node(22, {OURS: receipt(status="0x0")})) == [Decimal(0)]


async def test_without_a_receipt_of_ours_another_transaction_is_the_proof() -> None:
    judge = Judge()
    for head in (20, 21):
        assert await judge.says(Node(head, transactions=[transaction()])) == []
    assert await judge.says(Node(22, transactions=[transaction()])) == [Decimal(0)]
    assert judge.log.events() == ["nonce_used_by_another"]
    assert judge.doubts.present


@pytest.mark.parametrize(
    "change", [{"value": "0x7"}, {"to": US}, {"to": None}, {"input": "0x01"}, {"hash": OTHER}]
)
async def test_only_the_very_same_payment_is_ours(change: dict[str, Any]) -> None:
    same = {"value": "0x5"}
    node = Node(22, {OTHER: receipt(transactionHash=OTHER)})
    node.transactions = [transaction(**(same | change))]
    expected = AMOUNT if change == {"hash": OTHER} else Decimal(0)
    assert await Judge().says(node) == [expected]


@pytest.mark.parametrize("change", [{"input": None}, {"value": None}, {"nonce": None}])
async def test_another_transaction_that_is_half_shown_is_no_proof(change: dict[str, Any]) -> None:
    judge = Judge()
    for head in range(22, 26):
        assert await judge.says(Node(head, transactions=[transaction(**change)])) == []
    assert judge.log.events() == ["nonce_used_by_unknown"]


async def test_the_call_of_another_transaction_may_be_shown_by_its_old_name() -> None:
    shown = transaction(value="0x5", data="0x")
    del shown["input"]
    node = Node(22, {OTHER: receipt(transactionHash=OTHER)}, [shown])
    assert await Judge().says(node) == [AMOUNT]
    assert await Judge().says(Node(22, transactions=[{**shown, "data": "0x01"}])) == [Decimal(0)]


async def test_a_receipt_that_is_not_there_yet_is_waited_for() -> None:
    judge = Judge()
    assert await judge.says(Node(30, transactions=[transaction(hash=OURS)])) == []
    assert await judge.says(Node(31, {OURS: receipt()})) == [AMOUNT]


async def test_a_nonce_that_nothing_seems_to_have_used_is_left_open() -> None:
    judge = Judge()
    for head in range(22, 22 + CONFIRMATIONS):
        assert await judge.says(Node(head, transactions=[])) == []
        assert judge.log.events() == []
    assert await judge.says(Node(22 + CONFIRMATIONS, transactions=[])) == []
    assert judge.log.events() == ["nonce_used_by_unknown"]
    assert "settled settlements resolve s1" in str(judge.log.lines)


async def test_recent_states_are_enough_for_what_happened_recently() -> None:
    node = Node(1022, transactions=[transaction()], used_in=1020, oldest_state=1000)
    assert await Judge().says(node, payment(head=10)) == [Decimal(0)]


@pytest.mark.parametrize("used_in", range(1001, 1023))
async def test_the_last_state_before_it_is_enough_wherever_it_was(used_in: int) -> None:
    node = Node(1024, transactions=[transaction()], used_in=used_in, oldest_state=used_in - 1)
    assert await Judge().says(node, payment(head=10)) == [Decimal(0)]


async def test_a_node_without_the_states_decides_nothing() -> None:
    judge = Judge()
    for head in (1022, 1025, 1026):
        node = Node(head, transactions=[transaction()], used_in=500, oldest_state=1000)
        assert await judge.says(node) == []
    assert "missing trie node" in str(judge.log.lines)


async def test_where_it_was_is_kept_when_the_states_are_gone() -> None:
    judge = Judge()
    assert await judge.says(Node(21, transactions=[transaction()])) == []
    later = Node(30, transactions=[transaction()], oldest_state=29)
    assert await judge.says(later) == [Decimal(0)]


# --- fees ---


def test_what_is_offered_holds_for_some_blocks_and_not_above_the_cap() -> None:
    assert offer(100, 7, 1000) == Fees(207, 7)
    assert offer(100, 7, 150) == Fees(150, 7)
    assert offer(100, 7, 119) == Fees(119, 7)
    assert offer(100, 7, 118) is None


def test_a_replacement_offers_an_eighth_more_of_both_or_nothing() -> None:
    assert bump(Fees(800, 80), None, 1000) == Fees(901, 91)
    assert bump(Fees(800, 80), Fees(850, 200), 1000) == Fees(901, 200)
    assert bump(Fees(800, 80), Fees(2000, 70), 1000) == Fees(1000, 91)
    assert bump(Fees(889, 80), None, 1000) is None
    assert bump(Fees(0, 0), None, 1000) == Fees(1, 1)


def test_a_payment_costs_its_value_and_all_of_its_gas_at_most() -> None:
    assert payment().cost == 5 + 21_000 * 10**9


# --- on disk ---


def test_a_payment_is_the_same_when_it_is_read_again() -> None:
    large = payment(value=2**200, units=2**256 - 1, fees=Fees(2**90, 2**80), settled=AMOUNT)
    for one in (payment(), large, payment(settled=Decimal(0), reason="why")):
        assert from_state(one.key, one.to_state()) == one
