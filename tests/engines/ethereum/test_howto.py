"""The page on Ethereum must be true: its program moves money, on a chain that mines by itself."""

import re
import subprocess
import sys
from pathlib import Path

from tests.engines.ethereum.anvil import running

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "ethereum.md").read_text()


def test_the_first_settlement_moves_money(anvil_url: str, tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert "http://127.0.0.1:8545" in program
    with running("--block-time", "0.2") as url:
        (tmp_path / "first_settlement.py").write_text(program.replace("http://127.0.0.1:8545", url))
        done = subprocess.run(
            [sys.executable, "first_settlement.py"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert "was told of 0.25 ether" in done.stdout


def test_every_event_of_the_page_is_one_of_the_engine() -> None:
    code = "".join(path.read_text() for path in (ROOT / "engines/ethereum").glob("*.py"))
    events = set(re.findall(r"`(ethereum_\w+)`", PAGE))
    assert len(events) > 8
    assert {event for event in events if f'"{event}"' not in code} == set()


def test_the_version_of_anvil_is_the_one_that_is_tested() -> None:
    pinned = (Path(__file__).parent / "node" / "package.json").read_text()
    (version,) = re.findall(r"anvil-linux-amd64@([\d.]+)", PAGE)
    assert version in pinned
