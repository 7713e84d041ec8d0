"""The campaigns tell how they are used, and refuse what would run nothing."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("tests.hostile.campaign --help", 0, "Usage:"),
        ("tests.hostile.campaign 1 no-such", 2, "no-such"),
        ("tests.hostile.fuzz_api --help", 0, "Usage:"),
        ("tests.hostile.fuzz_parsers --help", 0, "Usage:"),
        ("tests.soak --help", 0, "Usage:"),
        ("tests.simulation --seeds 0", 2, "--seeds"),
    ],
)
def test_a_campaign_says_how_it_is_used(words: str, code: int, said: str) -> None:
    command = [sys.executable, "-m", *words.split()]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == code, ended
    assert said in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
