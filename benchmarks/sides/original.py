"""The original, npm's ilp-settlement-core, on Redis."""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.errors import BenchmarkError
from benchmarks.processes import running
from benchmarks.requests import open_accounts
from benchmarks.sides import ACCOUNTS, Running, Side

PEER: Final = Path(__file__).parents[1] / "peer"
_COUNT: Final = "return #redis.call('KEYS', ARGV[1])"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _kept(redis_port: int, prefix: str) -> int:
    pattern = f"accounts:*:settlement-requests:{prefix}*"
    command = ["redis-cli", "-p", str(redis_port), "--raw", "EVAL", _COUNT, "0", pattern]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if not result.stdout.strip().isdecimal():
        raise BenchmarkError(f"redis-cli could not count: {result.stdout}{result.stderr}")
    return int(result.stdout)


@contextmanager
def _start(settings: Sequence[str], directory: Path, connector_url: str) -> Iterator[Running]:
    port, redis_port = _free_port(), _free_port()
    redis = ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", *settings]
    environment = {
        "PORT": str(port),
        "REDIS_PORT": str(redis_port),
        "CONNECTOR_URL": connector_url,
        "ACCOUNTS": str(ACCOUNTS),
        "NODE_ENV": "production",
    }
    with (
        running(redis, directory, ready="Ready to accept connections"),
        running(["node", PEER / "engine.js"], directory, environment=environment) as process,
    ):
        open_accounts(process.url, ACCOUNTS)
        yield Running(process, partial(_kept, redis_port))


_DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")

ORIGINAL: Final = Side(
    "original", "the original on Redis, appendfsync always", partial(_start, _DURABLE)
)
AS_SHIPPED: Final = Side(
    "original-default", "the original on Redis as it ships, not durable", partial(_start, ())
)
