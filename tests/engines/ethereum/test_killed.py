"""A daemon of its own is killed with -9 while it pays, at requests to its node, and goes on.

It dies before the node has seen the request, or when the node has done it and nobody knows.
"""

import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path

import httpx2
import trio

from engines.ethereum import create_engine
from engines.ethereum.options import EthereumOptions
from engines.ethereum.signing import LocalSigner
from settled import serve
from settled.testing import AccountingSystem, MemoryStore, accounting_systems, connect_peers
from tests.daemon_process import DaemonProcess, daemon_process
from tests.engines.ethereum.anvil import CHAIN_ID, ETHER, Chain
from tests.engines.ethereum.scripted import serving

ALICE, BOB = "a1" * 32, "b0" * 32
KILLS = 25 if os.environ.get("ETHEREUM") == "all" else 2


class Killer:
    """Stands between the daemon and its node, and kills the daemon at a request."""

    def __init__(self, chain: Chain, client: httpx2.AsyncClient, rng: random.Random) -> None:
        self.url = ""
        self.daemon: DaemonProcess | None = None
        self.killed = trio.Event()
        self._chain = chain
        self._client = client
        self._rng = rng
        self._method = ""
        self._left = -1
        self._before = False

    def arm(self) -> None:
        """Kill it at one of its next requests."""
        self.killed = trio.Event()
        methods = ("eth_sendRawTransaction", "eth_sendRawTransaction", "eth_getBalance", "")
        self._method = self._rng.choice((*methods, "eth_getTransactionReceipt"))
        self._left = 1 if self._method else self._rng.randint(1, 25)
        self._before = self._rng.random() < 0.4

    async def reply(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        calls = json.loads(body)
        methods = [call["method"] for call in (calls if isinstance(calls, list) else [calls])]
        is_last = False
        if self._left > 0 and (not self._method or self._method in methods):
            self._left -= 1
            is_last = not self._left
        if is_last and self._before:
            self._kill()
        headers = {"Content-Type": "application/json"}
        response = await self._client.post(self._chain.url, content=body, headers=headers)
        if is_last:
            self._kill()
        return response.status_code, {}, response.content

    def _kill(self) -> None:
        if self.daemon is not None:
            self.daemon.kill()
            self.killed.set()


@asynccontextmanager
async def killer(chain: Chain, rng: random.Random) -> AsyncIterator[Killer]:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        found = Killer(chain, client, rng)
        async with serving(found.reply) as found.url:
            yield found


async def mine(chain: Chain) -> None:
    while True:
        await chain.mine(1)
        await trio.sleep(0.1)


def arguments(system: AccountingSystem, node_url: str) -> list[str]:
    options = {
        "rpc_url": node_url,
        "chain_id": CHAIN_ID,
        "key_file": "key",
        "confirmations": 3,
        "poll_s": 0.05,
        "bump_after_s": 2,
    }
    words = ["--engine", "ethereum", "--db", "a.db", "--connector-url", system.url]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return words


async def test_killed_at_its_requests_it_pays_once(chain: Chain, tmp_path: Path) -> None:
    rng = random.Random(os.environ.get("SEED", "7"))
    (tmp_path / "key").write_text(ALICE)
    for key in (ALICE, BOB):
        await chain.fund(LocalSigner(key).address)
    options = EthereumOptions(
        rpc_url=chain.url, chain_id=CHAIN_ID, key=BOB, confirmations=3, poll_s=0.05
    )
    store = MemoryStore()
    with trio.fail_after(20 + 10 * KILLS):
        async with (
            accounting_systems(seed=4) as (alice, bob),
            killer(chain, rng) as between,
            serve(
                create_engine(options), store, listen="127.0.0.1:0", connector_url=bob.url
            ) as theirs,
            trio.open_nursery() as nursery,
        ):
            bob.engine_url = theirs.url
            nursery.start_soon(mine, chain)
            for kill in range(KILLS + 1):
                with ExitStack() as stack:
                    running = daemon_process(tmp_path, *arguments(alice, between.url))
                    between.daemon = await trio.to_thread.run_sync(stack.enter_context, running)
                    alice.engine_url = between.daemon.url
                    if not kill:
                        await connect_peers(alice, "to-bob", bob, "to-alice", asset_scale=18)
                    if kill < KILLS:
                        between.arm()
                        alice.owe("to-bob", Decimal(rng.randint(1, 10**15)).scaleb(-18))
                        await between.killed.wait()
                        continue
                    await credited(bob, alice.accounts["to-bob"].owed)
                    await chain.mine(5)
                    await trio.sleep(0.3)
            nursery.cancel_scope.cancel()
        owed = alice.accounts["to-bob"].owed
        assert bob.accounts["to-alice"].credited == owed
        assert await chain.balance(LocalSigner(BOB).address) == 100 * ETHER + int(owed * ETHER)


async def credited(system: AccountingSystem, amount: Decimal) -> None:
    while system.accounts["to-alice"].credited < amount:  # noqa: ASYNC110
        await trio.sleep(0.05)
