"""``python -m tests.hostile.fuzz_api [EXAMPLES]``: schemathesis over a live daemon.

It makes requests from the description that the daemon serves, valid and invalid, and holds each
answer against it: only documented statuses, media types, headers and bodies, and never a 5xx.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import click
import httpx2

from tests.daemon_process import daemon_process

ENGINE: Final = """
async def connect(services):
    return Engine()

class Engine:
    raw_messages = True
    async def settle(self, account_id, amount, settlement_id):
        return amount
    async def handle_message(self, account_id, message):
        return message
"""

# A body that is too long is refused as such, which the tool does not expect by itself.
REFUSALS: Final = """
[checks.negative_data_rejection]
expected-statuses = [400, 403, 404, 405, 413, 415, 431]
"""

# What the description cannot say: a key that comes again with another amount is refused, so each is
# new; 171.0, an integer to JSON Schema, is none to the program. Most ids are of an open account.
HOOKS: Final = """
import random
import re
import uuid
import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    account_id = (case.path_parameters or {}).get("id")
    if case.method == "POST" and case.meta and case.meta.phase.name != "stateful":
        if re.fullmatch("[A-Za-z0-9_~-]{1,255}", str(account_id)) and random.random() < 0.8:
            case.path_parameters["id"] = "open"
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and re.fullmatch("[!-~]([ -~]{0,253}[!-~])?", key):
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    scale = case.body.get("scale") if isinstance(case.body, dict) else None
    if isinstance(scale, float) and scale.is_integer():
        case.body["scale"] = int(scale)
"""


def fuzz(
    examples: int, directory: Path, *options: str, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    """Have schemathesis make so many requests for each operation, and return how that went."""
    (directory / "fuzzed.py").write_text(ENGINE)
    (directory / "hooks.py").write_text(HOOKS)
    (directory / "schemathesis.toml").write_text(REFUSALS)
    with daemon_process(directory, "--engine", "fuzzed:connect") as daemon:
        httpx2.post(f"{daemon.url}/accounts", json={"id": "open"}, trust_env=False)
        program = [sys.executable, "-m", "schemathesis.cli", "run", f"{daemon.url}/openapi.yaml"]
        settings = ["--checks=all", "--continue-on-failure", "--warnings=off"]
        return subprocess.run(
            [*program, "--url", daemon.url, f"--max-examples={examples}", *settings, *options],
            cwd=directory,
            env={"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(directory), "PATH": "/usr/bin"},
            capture_output=capture,
            text=True,
            check=False,
        )


@click.command()
@click.argument("examples", type=click.IntRange(min=1), default=1000)
def main(examples: int) -> None:
    """Make EXAMPLES requests for each operation of a live daemon, and judge the answers."""
    with tempfile.TemporaryDirectory() as directory:
        done = fuzz(examples, Path(directory))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
