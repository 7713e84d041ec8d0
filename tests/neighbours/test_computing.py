"""An engine that computes in a thread of the daemon gives way to its event loop."""

from pathlib import Path

import httpx2
import pytest

from settled import limits
from tests.daemon_process import daemon_process

ENGINE = """
import sys

async def connect(services):
    return Engine()

class Engine:
    async def settle(self, account_id, amount, settlement_id):
        return amount

    async def handle_message(self, account_id, message):
        return sys.getswitchinterval()
"""


def test_threads_of_a_daemon_give_way_soon(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(ENGINE)
    with daemon_process(tmp_path, "--engine", "asked:connect") as daemon:
        json = {"Content-Type": "application/json"}
        httpx2.post(f"{daemon.url}/accounts", content=b'{"id":"alice"}', headers=json)
        octets = {"Content-Type": "application/octet-stream"}
        answer = httpx2.post(f"{daemon.url}/accounts/alice/messages", content=b"1", headers=octets)
        assert answer.json() == pytest.approx(limits.SWITCH_INTERVAL_S)
