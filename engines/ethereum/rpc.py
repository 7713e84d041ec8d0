"""The chain as our nodes show it: one or two of them, of which the one that works is used.

Reads that together make one decision must come from one node, since another may be a few blocks
ahead or on another branch: they are made in a ``view``, which stays with one or fails as a whole.
"""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2
import trio

from engines.ethereum import abi
from engines.ethereum.node import Call, Node, NodeUnavailable, RpcError, RpcFailure
from engines.ethereum.telling import Seldom
from settled import ConfigError, SettledError

__all__ = ["Call", "NodeUnavailable", "Rpc", "RpcError", "RpcFailure", "View"]

BEHIND_BLOCKS_MAX: Final = 24
_HEAD_LIFE_S: Final = 600.0  # after that, a head that no node reaches any more was none
_PATIENCE_S: Final = 2.0  # for a node that rests
_TELL_EVERY_S: Final = 60.0
_WRONG_REST_S: Final = 30.0


class WrongChain(Exception):
    """A node is on another chain than ours."""


class View:
    """The chain as one node shows it, and no other.

    Attributes:
        head: the number of its newest block.
        is_newest: whether no node has shown newer blocks lately.
    """

    def __init__(self, node: Node, head: int) -> None:
        self.head = head
        self.is_newest = True
        self.shown_url = node.shown_url
        self._node = node

    async def call(self, method: str, *parameters: Any) -> Any:
        """Return the result of one call; see ``Node.call``."""
        return await self._node.call(method, *parameters)

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return the result of each call, or its ``RpcError``; see ``Node.batch``."""
        return await self._node.batch(calls)

    async def read(self, calls: Sequence[Call]) -> list[Any]:
        """Return the result of each call.

        Raises:
            RpcError: the first, when the node answered one of them with an error.
            NodeUnavailable: when one of them had no usable answer.
        """
        results = await self.batch(calls)
        for result in results:
            if isinstance(result, RpcError):
                raise result
        return results

    async def block(self, number: int, *, full: bool = False) -> dict[str, Any] | None:
        """Return the block of this number, with its transactions if ``full``, if there is one."""
        found = await self.call("eth_getBlockByNumber", hex(number), full)
        if found is None:
            return None
        if not isinstance(found, dict) or abi.number(found.get("number")) != number:
            raise self._node.failed(f"gave another block for block {number}")
        abi.hash32(found.get("hash"))
        return found


class Rpc:
    """Our nodes.

    Args:
        urls: of their JSON-RPC, the preferred one first.
        chain_id: the chain that they must be on.
        timeout_s: how long a node has to answer a request.
        log: told of nodes that fail, and of those that work again.

    Attributes:
        genesis: the hash of the chain's first block, once a node has shown it: every other node
            must show the same.

    Example::

        async with Rpc(urls, chain_id=1, timeout_s=10, log=services.log) as rpc:
            async with rpc.view() as view:
                count = await view.call("eth_getTransactionCount", address, hex(view.head))
    """

    def __init__(self, urls: Sequence[str], *, chain_id: int, timeout_s: float, log: Any) -> None:
        self.genesis: str | None = None
        self._client = httpx2.AsyncClient(
            trust_env=False,
            timeout=None,
            follow_redirects=False,
        )
        self._nodes = [Node(url, self._client, timeout_s=timeout_s) for url in urls]
        self._current = self._nodes[0]
        self._chain_id = chain_id
        self._log = log
        self._head, self._head_at = 0, -math.inf
        self._reasons: dict[Node, str] = {}  # why a node that has failed did so last
        self._seldom = Seldom(log, every_s=_TELL_EVERY_S)

    async def __aenter__(self) -> "Rpc":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await self._client.aclose()

    async def check(self) -> None:
        """Look at all nodes before anything is done; one that is down is looked at when it is used.

        Raises:
            ConfigError: when a node is on another chain.
            SettledError: when none answers, which may pass.
        """
        reasons = []
        for node in self._nodes:
            try:
                await self._check(node)
            except WrongChain as error:
                raise ConfigError(str(error)) from error
            except RpcFailure as error:
                self._tell(node, error)
                reasons.append(str(error))
        if len(reasons) == len(self._nodes):
            raise SettledError(f"{'; '.join(reasons)}: start it, or see to rpc_url")

    async def call(self, method: str, *parameters: Any) -> Any:
        """Return the result of one call to the node that works; see ``Node.call``."""
        async with self.view() as view:
            return await view.call(method, *parameters)

    @asynccontextmanager
    async def view(self) -> AsyncIterator[View]:
        """Open a view of one node that works, is on our chain and is not behind.

        Raises:
            NodeUnavailable: when there is none, with what is wrong with each.
        """
        yield await self._look()

    async def _look(self) -> View:
        patience_s = min(node.rest_s for node in self._nodes)
        if 0 < patience_s <= _PATIENCE_S:
            await trio.sleep(patience_s)
        reasons = []
        for node in sorted(self._nodes, key=lambda node: node is not self._current):
            if node.rest_s:
                reason = self._reasons.get(node, f"node {node.shown_url} failed")
                reasons.append(f"{reason}, next try in {node.rest_s:.0f} s")
                continue
            try:
                await self._check(node)
                view = View(node, abi.number(await node.call("eth_blockNumber")))
                await self._keep_up(node, view)
            except (RpcFailure, WrongChain, ValueError) as error:
                self._tell(node, error)
                reasons.append(str(error))
                continue
            self._current = node
            if self._reasons.pop(node, None) is not None:
                for wrong_chain in (False, True):
                    self._seldom.over("ethereum_node_failed", self._subject(node, wrong_chain))
                self._log.info("ethereum_node_works", node=node.shown_url)
            return view
        raise NodeUnavailable("; ".join(reasons))

    def _tell(self, node: Node, error: Exception) -> None:
        """Log a node's failure, now and then; that it is on another chain is another thing."""
        self._reasons[node] = str(error)
        subject = self._subject(node, isinstance(error, WrongChain))
        self._seldom.warning(
            "ethereum_node_failed", subject, node=node.shown_url, reason=str(error)
        )

    def _subject(self, node: Node, wrong_chain: bool) -> str:
        return f"{self._nodes.index(node)} {wrong_chain}"  # two nodes may be shown alike

    async def _check(self, node: Node) -> None:
        """Make sure that a node is on our chain, unless it is known."""
        if node.checked:
            return
        chain_id, genesis = await node.batch(
            [("eth_chainId", []), ("eth_getBlockByNumber", ["0x0", False])]
        )
        try:
            found = abi.number(chain_id)
            # A node without its old blocks shows none.
            first = abi.hash32(genesis.get("hash")) if isinstance(genesis, dict) else None
        except ValueError as error:
            raise node.failed(f"does not tell its chain: {error}") from error
        if found != self._chain_id:
            node.failed("is on another chain", rest_s=_WRONG_REST_S)
            raise WrongChain(
                f"node {node.shown_url} is on chain {found}, not {self._chain_id}: see to "
                f"chain_id and rpc_url"
            )
        if first is not None and self.genesis not in (None, first):
            node.failed("is on another chain", rest_s=_WRONG_REST_S)
            raise WrongChain(
                f"node {node.shown_url} is on another chain of the same id {found}: its first "
                f"block is {first}, not {self.genesis}"
            )
        self.genesis = self.genesis or first
        node.checked = True

    async def _keep_up(self, node: Node, view: View) -> None:
        """Raise ``NodeUnavailable`` for a node that is far behind what a node has shown lately.

        What makes the others be behind must be more than a number: the node shows a block about
        there. (Not the very last: behind one URL may be several nodes, some blocks apart.)
        """
        head = view.head
        if (
            head > self._head + BEHIND_BLOCKS_MAX
            and await view.block(head - BEHIND_BLOCKS_MAX) is None
        ):
            raise node.failed(
                f"says that its newest is block {head}, and does not show those before it",
                rest_s=_PATIENCE_S,
            )
        now = trio.current_time()
        if head >= self._head or now - self._head_at > _HEAD_LIFE_S:
            self._head, self._head_at = head, now
        elif self._head - head > BEHIND_BLOCKS_MAX:
            raise node.failed(f"is {self._head - head} blocks behind", rest_s=_PATIENCE_S)
        view.is_newest = head >= self._head
