"""A real chain for the tests: anvil, from npm, pinned by the lock file in ``node/``.

The longer campaign runs on hardhat too, a second implementation that is stricter.
"""

import fcntl
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any, Final

import httpx2
import pytest
import trio

from engines.ethereum import abi
from engines.ethereum.signing import LocalSigner

HERE: Final = Path(__file__).parent
NODE: Final = HERE / "node"
HARDHAT: Final = HERE / "hardhat"
BINARY: Final = NODE / "node_modules" / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"
TOKEN_CODE: Final = "0x" + (HERE / "contracts" / "token.hex").read_text().strip()[2:]
CHAIN_ID: Final = 31337
ETHER: Final = 10**18
GWEI: Final = 10**9
# How the methods of each begin that are not of Ethereum.
ANVIL_TOOLS: Final = "anvil_"
HARDHAT_TOOLS: Final = "hardhat_"
# The first of the accounts that anvil funds; everybody knows its key.
RICH: Final = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"

# What the token in ``contracts`` can be told to do.
NORMAL, REVERT, REFUSE, SILENT, FEE, HALVES, LIE = range(7)


def install(directory: Path = NODE) -> str | None:
    """Install what the lock file says, unless it is there; return why it cannot be had."""
    lock = directory / "package-lock.json"
    installed = directory / "node_modules" / ".package-lock.json"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # several processes run tests
        if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
            return None
        if shutil.which("npm") is None:
            return "npm is not installed"
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(directory)]
        command = ["npm", "ci", *options]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if result.returncode:
            return f"npm ci failed: {result.stderr.strip()[-300:]}"
        installed.touch()
    return None


@contextmanager
def running(*arguments: str) -> Iterator[str]:
    """Run anvil on a free port of loopback; yield its URL."""
    command = [str(BINARY), "--host", "127.0.0.1", "--port", "0", "--chain-id", str(CHAIN_ID)]
    with tempfile.TemporaryDirectory() as states:  # of old blocks, which it leaves behind
        command += ["--cache-path", states, *arguments]
        with _running(command, r"^Listening on (\S+)\s", NODE) as url:
            yield url


def running_hardhat() -> AbstractContextManager[str]:
    """Run hardhat, the second implementation, on a free port of loopback; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = HARDHAT / "node_modules" / "hardhat" / "internal" / "cli" / "bootstrap.js"
    command = ["node", str(program), "node", "--hostname", "127.0.0.1", "--port", str(port)]
    return _running(command, r"server at http://(\S+?)/?\s", HARDHAT)


@contextmanager
def _running(command: list[str], listens: str, directory: Path) -> Iterator[str]:
    environment = {**os.environ, "NO_COLOR": "1", "HARDHAT_DISABLE_TELEMETRY_PROMPT": "true"}
    # It says much: to a file, since it would wait for whoever does not read a pipe.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=directory
        )
        try:
            yield _listening(process, output, listens)
        finally:
            process.kill()
            process.wait()


def _listening(process: "subprocess.Popen[bytes]", output: IO[str], listens: str) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        output.seek(0)
        found = re.search(listens, output.read(), re.MULTILINE)
        if found is not None:
            return f"http://{found[1]}"
        time.sleep(0.01)
    raise AssertionError(f"{process.args!r} does not listen: {process.poll()}")


class Chain:
    """What the tests do on the chain, and what they see there."""

    def __init__(self, url: str, client: httpx2.AsyncClient, tools: str = ANVIL_TOOLS) -> None:
        self.url = url
        self.tools = tools
        self._client = client

    async def rpc(self, method: str, *parameters: Any) -> Any:
        method = method.replace("anvil_", self.tools)
        if method == "hardhat_reorg":
            pytest.skip("hardhat cannot undo blocks")
        if method == "hardhat_dropAllTransactions":
            for transaction in await self.pool():
                await self.rpc("hardhat_dropTransaction", transaction)
            return None
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)}
        answer = (await self._client.post(self.url, json=body)).json()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    async def mine(self, blocks: int = 1) -> None:
        if self.tools != HARDHAT_TOOLS:
            await self.rpc("anvil_mine", hex(blocks))
            return
        # Of many at once, hardhat shows those between without parents, and old counts wrongly.
        for _ in range(blocks):
            await self.rpc("evm_mine")

    async def automine(self, on: bool) -> None:
        await self.rpc("evm_setAutomine", on)

    async def head(self) -> int:
        return int(await self.rpc("eth_blockNumber"), 16)

    async def fund(self, address: str, wei: int = 100 * ETHER) -> None:
        await self.rpc("anvil_setBalance", address, hex(wei))

    async def signer(self, wei: int = 100 * ETHER) -> LocalSigner:
        """Return a new key with so much ether."""
        signer = LocalSigner(os.urandom(32).hex())
        await self.fund(signer.address, wei)
        return signer

    async def balance(self, address: str) -> int:
        return int(await self.rpc("eth_getBalance", address, "latest"), 16)

    async def nonce(self, address: str) -> int:
        return int(await self.rpc("eth_getTransactionCount", address, "latest"), 16)

    async def send(self, sender: str, recipient: str | None, wei: int = 0, data: str = "0x") -> str:
        """Have ``sender`` send, without his key, and return the transaction's hash."""
        transaction = {"from": sender, "value": hex(wei), "data": data, "gas": hex(5_000_000)}
        if recipient is not None:
            transaction["to"] = recipient
        await self.rpc("anvil_impersonateAccount", sender)
        return str(await self.rpc("eth_sendTransaction", transaction))

    async def receipt(self, transaction_hash: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.rpc("eth_getTransactionReceipt", transaction_hash)
        return found

    async def mined(self, transaction_hash: str) -> dict[str, Any]:
        """Wait for a transaction, which is mined soon after it was sent; return its receipt."""
        with trio.fail_after(5):
            while not (found := await self.receipt(transaction_hash)):  # noqa: ASYNC110
                await trio.sleep(0.001)
        return found

    async def pool(self) -> list[str]:
        """Return the hashes of the transactions that wait, in the order of their nonces."""
        if self.tools == HARDHAT_TOOLS:
            pending = await self.rpc("eth_pendingTransactions")
            return [transaction["hash"] for transaction in pending]
        content = await self.rpc("txpool_content")
        waiting = [
            (int(nonce), transaction["hash"])
            for part in ("pending", "queued")
            for by_nonce in content[part].values()
            for nonce, transaction in by_nonce.items()
        ]
        return [transaction_hash for _, transaction_hash in sorted(waiting)]

    async def deploy_token(self, decimals: int = 18) -> str:
        """Deploy the token of ``contracts/token.vy``."""
        transaction_hash = await self.send(RICH, None, data=f"{TOKEN_CODE}{decimals:064x}")
        return abi.address((await self.mined(transaction_hash))["contractAddress"])

    async def mint(self, token: str, owner: str, units: int) -> None:
        data = f"0x40c10f19{abi.address_word(owner)}{units:064x}"
        await self.mined(await self.send(RICH, token, data=data))

    async def set_mode(self, token: str, mode: int) -> None:
        await self.mined(await self.send(RICH, token, data=f"0xe6f62da1{mode:064x}"))

    async def token_balance(self, token: str, owner: str) -> int:
        call = {"to": token, "data": abi.balance_call(owner)}
        return abi.read_uint(await self.rpc("eth_call", call, "latest"))

    async def transfer(self, token: str, sender: str, recipient: str, units: int) -> str:
        return await self.send(sender, token, data=abi.transfer_call(recipient, units))

    async def transfer_many(self, token: str, sender: str, receivers: list[str], units: int) -> str:
        words = "".join(abi.address_word(receiver) for receiver in receivers)
        data = f"0x11c4d70f{64:064x}{units:064x}{len(receivers):064x}{words}"
        return await self.send(sender, token, data=data)


@asynccontextmanager
async def on_chain(url: str) -> AsyncIterator[Chain]:
    """Open the chain at a URL for a test; afterwards it is as it was before."""
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        version = (await Chain(url, client).rpc("web3_clientVersion")).lower()
        tools = HARDHAT_TOOLS if version.startswith("hardhat") else ANVIL_TOOLS
        chain = Chain(url, client, tools)
        snapshot = await chain.rpc("evm_snapshot")
        # What the next block takes is not part of that.
        await chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        await chain.mine(1)
        try:
            yield chain
        finally:
            with trio.CancelScope(shield=True):
                await chain.rpc("anvil_dropAllTransactions")
                await chain.automine(True)
                await chain.rpc("evm_revert", snapshot)
