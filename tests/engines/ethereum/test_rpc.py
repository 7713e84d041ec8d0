"""Nodes that fail, lie, lag, limit or say too much; and that their secrets stay ours."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from engines.ethereum import node as node_module
from engines.ethereum.node import RpcError
from engines.ethereum.rpc import NodeUnavailable, Rpc, RpcFailure
from settled import ConfigError, SettledError
from tests.engines.ethereum.anvil import CHAIN_ID, Chain
from tests.engines.ethereum.bench import Log
from tests.engines.ethereum.scripted import GENESIS, Fault, ScriptedNode, scripted


class Nodes:
    """Scripted nodes and what uses them."""

    def __init__(self, rpc: Rpc, nodes: list[ScriptedNode], log: Log) -> None:
        self.rpc = rpc
        self.first, self.second = nodes[0], nodes[-1]
        self.log = log


@asynccontextmanager
async def nodes(count: int = 1, *, path: str = "", timeout_s: float = 5) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(scripted()) for _ in range(count)]
        log = Log()
        urls = [node.url + path for node in made]
        rpc = Rpc(urls, chain_id=CHAIN_ID, timeout_s=timeout_s, log=log)
        yield Nodes(await stack.enter_async_context(rpc), made, log)


async def test_a_real_node_is_read(chain: Chain) -> None:
    async with Rpc([chain.url], chain_id=CHAIN_ID, timeout_s=5, log=Log()) as rpc:
        await rpc.check()
        async with rpc.view() as view:
            assert view.head == await chain.head()
            block = await view.block(view.head, full=True)
            assert block is not None
            assert block["transactions"] == []
            assert await view.block(view.head + 1) is None
            results = await view.batch([("eth_chainId", []), ("eth_nonsense", [])] * 150)
            assert results[298] == hex(CHAIN_ID)
            assert isinstance(results[299], RpcError)


# --- the chain that it is on ---


async def test_a_node_of_another_chain_is_refused_at_the_start() -> None:
    async with nodes(2) as our:
        our.second.answers["eth_chainId"] = "0x1"
        with pytest.raises(ConfigError, match=f"is on chain 1, not {CHAIN_ID}: see to chain_id"):
            await our.rpc.check()


async def test_a_node_of_another_chain_with_our_id_is_refused() -> None:
    async with nodes(2) as our:
        our.second.answers["eth_getBlockByNumber"] = {"hash": "0x" + "22" * 32}
        with pytest.raises(ConfigError, match="is on another chain of the same id"):
            await our.rpc.check()


async def test_a_start_without_any_node_is_refused_in_one_line() -> None:
    async with nodes(2) as our:
        our.first.status = our.second.status = 500
        with pytest.raises(SettledError, match=r"status 500; node .* status 500: start") as found:
            await our.rpc.check()
        assert found.value.exit_code == 1  # it may pass: whoever runs us may start us again


async def test_that_a_node_came_back_on_another_chain_is_said_though_it_failed_just_now() -> None:
    async with nodes() as our:
        await our.rpc.check()
        our.first.status = 500
        with pytest.raises(NodeUnavailable, match="status 500"):
            await our.rpc.call("eth_chainId")
        our.first.status = 200
        our.first.answers["eth_getBlockByNumber"] = {"hash": "0x" + "22" * 32}
        while "another chain" not in str(our.log.lines[-1]):  # it rests first
            with suppress(NodeUnavailable):
                await our.rpc.call("eth_chainId")
                raise AssertionError("a node of another chain was used")
        assert our.log.events() == ["ethereum_node_failed"] * 2
        with pytest.raises(NodeUnavailable, match=r"another chain of the same id.*, next try in"):
            await our.rpc.call("eth_chainId")


@pytest.mark.parametrize("url", ["http://a..b/key5", "http://node/key5\n", "http://a\u2028b/key5"])
async def test_a_url_that_nothing_can_be_asked_at_is_refused_in_one_line(url: str) -> None:
    async with Rpc([url], chain_id=CHAIN_ID, timeout_s=5, log=Log()) as rpc:
        with pytest.raises(SettledError, match=r"cannot be used: .*see to rpc_url$") as caught:
            await rpc.check()
    assert "key5" not in str(caught.value)


async def test_one_node_is_enough_to_start() -> None:
    async with nodes(2) as our:
        our.first.status = 500
        await our.rpc.check()
        assert await our.rpc.call("eth_chainId") == hex(CHAIN_ID)


async def test_a_node_that_was_down_at_the_start_is_looked_at_before_it_is_used() -> None:
    async with nodes(2) as our:
        our.second.status = 500
        await our.rpc.check()
        our.second.status, our.second.answers["eth_chainId"] = 200, "0x1"
        our.first.status = 500
        await trio.sleep(0.3)
        with pytest.raises(NodeUnavailable, match="is on chain 1"):
            await our.rpc.call("eth_getBalance")
        assert "eth_getBalance" not in our.second.asked


# --- the other node ---


@pytest.mark.parametrize("fault", ["status", "silence", "nonsense", "rate", "text", "closed"])
async def test_the_other_node_is_used_when_one_fails(fault: str) -> None:
    async with nodes(2, timeout_s=0.2) as our:
        await our.rpc.check()
        our.second.answers["eth_getBalance"] = "0x5"
        our.first.status = 503 if fault == "status" else 200
        our.first.silent = fault == "silence"
        our.first.body = {"nonsense": b"<html>", "closed": b""}.get(fault)
        if fault == "rate":
            our.first.status = 429
        if fault == "text":
            our.first.answers["eth_blockNumber"] = Fault("Too Many Requests, slow down", -32029)
        assert await our.rpc.call("eth_getBalance") == "0x5"
        assert our.log.events() == ["ethereum_node_failed"]


async def test_a_view_stays_with_its_node_or_fails() -> None:
    async with nodes(2) as our:
        async with our.rpc.view() as view:
            our.first.status = 500
            for _time in range(2):
                with pytest.raises(NodeUnavailable):
                    await view.call("eth_chainId")
        async with our.rpc.view() as view:
            assert view.shown_url == our.second.url


async def test_a_node_that_works_again_is_told_of() -> None:
    async with nodes() as our:
        our.first.status = 500
        with pytest.raises(NodeUnavailable):
            await our.rpc.call("eth_chainId")
        our.first.status = 200
        assert await our.rpc.call("eth_chainId") == hex(CHAIN_ID)
        assert our.log.events() == ["ethereum_node_failed", "ethereum_node_works"]


async def test_retry_after_is_heeded() -> None:
    async with nodes() as our:
        await our.rpc.check()
        our.first.status, our.first.headers = 429, {"Retry-After": "30"}
        with pytest.raises(NodeUnavailable, match="status 429"):
            await our.rpc.call("eth_chainId")
        asked = our.first.requests
        with pytest.raises(NodeUnavailable, match="next try in (29|30) s"):
            await our.rpc.call("eth_chainId")
        assert our.first.requests == asked


async def test_a_node_that_is_far_behind_is_not_used() -> None:
    async with nodes(2) as our:
        our.second.answers["eth_blockNumber"] = hex(1000)
        our.first.status = 500
        async with our.rpc.view() as view:
            assert view.head == 1000
        our.first.status, our.second.status = 200, 500
        await trio.sleep(0.3)
        with pytest.raises(NodeUnavailable, match="is 900 blocks behind"):
            await our.rpc.call("eth_chainId")
        our.first.answers["eth_blockNumber"] = hex(990)
        await trio.sleep(2)
        async with our.rpc.view() as view:
            assert view.head == 990


async def test_a_head_that_a_node_has_no_blocks_for_is_not_believed() -> None:
    """It would make the others behind, for as long as the node says so."""
    async with nodes(2) as our:
        await our.rpc.check()
        our.second.answers["eth_blockNumber"] = hex(10**6)
        our.second.answers["eth_getBlockByNumber"] = lambda number, _full: (
            {"number": number, "hash": GENESIS} if int(number, 16) <= 124 else None
        )
        our.first.status = 500
        with pytest.raises(NodeUnavailable, match="newest is block 1000000, and does not show"):
            await our.rpc.call("eth_chainId")
        our.first.status = 200
        await trio.sleep(0.3)
        async with our.rpc.view() as view:
            assert view.head == 100
        # A little ahead of its own blocks is what nodes are behind which there are several.
        our.first.status = 500
        our.second.answers["eth_blockNumber"] = hex(124 + 24)
        await trio.sleep(2)
        async with our.rpc.view() as view:
            assert view.head == 148


# --- batches, sizes, errors ---


async def test_a_node_without_batches_is_asked_one_by_one() -> None:
    async with nodes() as our:
        our.first.batches = False
        our.first.answers["eth_getBalance"] = lambda address, _block: address
        async with our.rpc.view() as view:
            found = await view.batch([("eth_getBalance", [f"0x{n}", "latest"]) for n in range(3)])
        assert found == ["0x0", "0x1", "0x2"]


@pytest.mark.parametrize("known", [[], {}, "0", None])
async def test_an_answer_that_is_to_nothing_asked_is_none(known: Any) -> None:
    async with nodes() as our, our.rpc.view() as view:
        our.first.body = json.dumps([{"id": known, "result": "0x1"}] * 2).encode()
        with pytest.raises(NodeUnavailable, match="no JSON-RPC"):
            await view.batch([("eth_chainId", []), ("eth_blockNumber", [])])


async def test_a_node_that_refused_a_batch_once_is_given_batches_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with nodes() as our:
        our.first.batches = False
        calls: list[tuple[str, list[Any]]] = [("eth_blockNumber", []), ("eth_blockNumber", [])]
        async with our.rpc.view() as view:
            await view.batch(calls)
            our.first.batches = True
            monkeypatch.setattr(our.rpc._nodes[0], "_single_until", trio.current_time())
            before = our.first.requests
            assert await view.batch(calls) == [hex(100)] * 2
        assert our.first.requests == before + 1


async def test_an_answer_that_is_too_large_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "BODY_BYTES_MAX", 10_000)
    async with nodes() as our:
        our.first.answers["eth_getLogs"] = "0x" * 10_000
        with pytest.raises(RpcError) as caught:
            await our.rpc.call("eth_getLogs", {})
        assert caught.value.too_much


async def test_reads_that_make_one_decision_fail_with_the_first_error() -> None:
    async with nodes() as our, our.rpc.view() as view:
        with pytest.raises(RpcError, match="the method does not exist"):
            await view.read([("eth_chainId", []), ("eth_nonsense", [])])


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("query returned more than 10000 results", "too_much"),
        ("exceed maximum block range: 5000", "too_much"),
        ("Log response size exceeded", "too_much"),
        ("daily request count exceeded, request rate limited", "rate_limited"),
        ("Your app has exceeded its compute units per second capacity", "rate_limited"),
        ("already known", "already_known"),
        ("transaction already imported", "already_known"),
        ("nonce too low: next nonce 5, tx nonce 4", "nonce_used"),
        ("missing trie node 1234 (path )", "pruned"),
    ],
)
def test_what_an_error_means_is_read_from_its_text(message: str, meaning: str) -> None:
    error = RpcError(-32000, message)
    meanings = ("too_much", "rate_limited", "already_known", "nonce_used", "pruned")
    assert [name for name in meanings if getattr(error, name)] == [meaning]


async def test_a_node_that_limits_us_is_left_alone_for_longer_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_module, "_REST_MIN_S", 0.01)
    async with nodes() as our:
        our.first.answers["eth_getLogs"] = Fault("rate limit exceeded")  # but not for the rest
        for _time in range(6):
            with pytest.raises(NodeUnavailable, match="limits our requests"):
                await our.rpc.call("eth_getLogs", {})
        (node,) = our.rpc._nodes
        assert node.rest_s > 0.1


async def test_who_is_cancelled_on_the_way_in_sends_nothing_on_a_client_that_is_closed() -> None:
    async with nodes() as our, trio.open_nursery() as nursery:
        (node,) = our.rpc._nodes
        nursery.start_soon(node.call, "eth_blockNumber")
        with trio.fail_after(5):
            while not node._places.borrowed_tokens:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await node._client.aclose()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(answer=JSON | st.builds(lambda error: {"id": 0, "error": error}, JSON))
def test_whatever_a_node_answers_is_a_result_or_a_failure(answer: Any) -> None:
    async def run() -> None:
        node = node_module.Node("http://127.0.0.1:1", None, timeout_s=1)  # type: ignore[arg-type]

        async def post(_body: Any) -> Any:
            await trio.lowlevel.checkpoint()
            return answer

        node._post = post  # type: ignore[method-assign,assignment]
        with suppress(RpcFailure):
            await node.call("any")
        with suppress(RpcFailure):
            assert len(await node.batch([("any", []), ("other", [])])) == 2

    trio.run(run)


# --- secrets ---


async def test_the_secrets_of_a_url_are_never_told() -> None:
    async with nodes(path="/v3/s3cr3t-project?token=s3cr3t-token") as our:
        our.first.answers["eth_call"] = Fault(
            "project s3cr3t-token has no access to /v3/s3cr3t-project"
        )
        with pytest.raises(RpcFailure) as caught:
            await our.rpc.call("eth_call", {})
        our.first.status = 401
        our.first.body = b"no: s3cr3t-token"
        with pytest.raises(RpcFailure) as refused:
            await our.rpc.call("eth_call", {})
    with pytest.raises(RpcFailure) as gone:
        await trio_call(our.first.url.replace("//", "//user:s3cr3t-word@") + "/s3cr3t-path")
    assert "s3cr3t" not in f"{caught.value} {refused.value} {gone.value} {our.log.lines}"


async def trio_call(url: str) -> None:
    async with Rpc([url], chain_id=CHAIN_ID, timeout_s=1, log=Log()) as rpc:
        await rpc.call("eth_chainId")
