"""The page on Ethereum must be true: its commands move money, and it leaves nothing out."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from settled.engine.loading import load
from settled.engine.values import Value

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "ethereum.md").read_text()
HOW_TO = PAGE.split("## From npm")[1].split("\n## ")[0]
PORTS = ("8545", "3001", "3002", "7001", "7002")


def commands() -> str:
    """Return all of the how-to as one script, but for the installation of what is tested here."""
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", HOW_TO, re.MULTILINE | re.DOTALL)
    script = ["set -e", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"]
    for language, block in blocks:
        if language == "python":
            name = block.splitlines()[0].removeprefix("# ")
            script.append(f"cat > {name} <<'END'\n{block}END")
        elif "pip install" not in block:
            script.append(block)
    return "\n".join(script)


def elsewhere(script: str) -> str:
    """Return it with ports that are free, and on a chain that is quicker."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    for port, held in zip(PORTS, sockets, strict=True):
        assert port in script
        script = re.sub(rf"\b{port}\b", str(held.getsockname()[1]), script)
        held.close()
    chain = re.search(r"rpc_url=http://127.0.0.1:(\d+)", script, re.IGNORECASE)
    assert chain
    return script.replace("--block-time 1", f"--block-time 0.2 --port {chain[1]}")


@pytest.mark.usefixtures("anvil_url")
def test_the_commands_of_the_how_to_move_money(tmp_path: Path) -> None:
    ours = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = {name: value for name, value in os.environ.items() if not name.startswith("SETTLED_")}
    done = subprocess.run(
        ["bash", "-c", elsewhere(commands())],
        cwd=tmp_path,
        env=known | {"PATH": ours, "PYTHONPATH": str(ROOT), "npm_config_prefer_offline": "true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Bob's connector was told of 0.25 ether" in done.stdout
    assert re.search(r"^\S{36} +bob +settled +0 ", done.stdout, re.MULTILINE), done.stdout
    assert (tmp_path / "alice.key").stat().st_mode & 0o077 == 0


def test_a_signer_of_ones_own_is_put_in_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = r"^<!-- signer -->\n```python\n(.*?)^```$"
    (module,) = re.findall(block, PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "vault.py").write_text(module)
    (tmp_path / "vault_signer.py").write_text("VaultSigner = str")
    monkeypatch.syspath_prepend(tmp_path)
    values = {"rpc_url": "http://127.0.0.1:1", "chain_id": "1"}
    engine = load("vault:create_engine")
    assert engine.summary == "Pay in ether, with a key that the vault keeps."
    assert callable(engine.make({name: Value(v, "-o", "flag") for name, v in values.items()}))


def test_the_page_has_every_event_of_the_engine_and_no_other() -> None:
    code = "".join(path.read_text() for path in (ROOT / "engines/ethereum").glob("*.py"))
    logged = re.findall(
        r"(?:(?:log|_seldom|seldom)\.(?:info|warning|error)\(|Counted\(services\.log,)"
        r"\s*\"(\w+)\"",
        code,
        re.MULTILINE,
    )
    table = PAGE.split("## What the log says")[1]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)))
    assert len(logged) > 20
    assert set(named) == set(logged)


def test_the_version_of_anvil_is_the_one_that_is_tested() -> None:
    pinned = (Path(__file__).parent / "node" / "package.json").read_text()
    (version,) = re.findall(r"anvil-linux-amd64@([\d.]+)", PAGE)
    assert version in pinned
