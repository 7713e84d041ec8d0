"""What a database of settled has on record, read while a daemon serves or after."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.load import Load


def kept(path: Path, prefix: str) -> int:
    """Return how many requests are on record whose keys begin with ``prefix``.

    Each must stand in the journal once, and have a key once.

    Raises:
        BenchmarkError: when journal and keys differ.
    """
    pattern = f"{prefix}*"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as conn:
        conn.execute("BEGIN")  # both from one moment
        keys = set(
            conn.execute("SELECT account, key FROM idempotency_keys WHERE key GLOB ?", (pattern,))
        )
        entries = conn.execute(
            "SELECT account, ref FROM journal WHERE source = 'requested' AND ref GLOB ?", (pattern,)
        ).fetchall()
    if len(entries) != len(keys) or set(entries) != keys:
        raise BenchmarkError(f"{path}: {len(keys)} keys, but {len(entries)} entries of the journal")
    return len(keys)


def check(load: Load, found: int, connections: int, who: str) -> None:
    """Compare what was acknowledged with what is on record.

    Requests that were under way when the load ended may be on record as well, one a connection;
    and nothing that was never sent.

    Raises:
        BenchmarkError: when one is missing, or one is too many.
    """
    if found < load.requests:
        raise BenchmarkError(
            f"{who} acknowledged {load.requests} requests, and has {found} on record"
        )
    most = min(load.sent, load.requests + connections)
    if found > most:
        raise BenchmarkError(f"{who} has {found} requests on record; {most} were sent at most")


def audit(path: Path) -> None:
    """Have ``settled audit`` add everything up.

    Raises:
        BenchmarkError: when the books are not in order.
    """
    command = [sys.executable, "-m", "settled", "audit", "--db", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchmarkError(f"settled audit of {path}: {result.stdout}{result.stderr}")
