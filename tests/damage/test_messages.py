"""The same fault of a file is told in the same words, whichever command meets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.damage.books import NAME, put, run_daemon
from tests.damage.conftest import Good

COMMANDS = ["audit", "accounts list", "check --no-connector --engine loopback"]


def said(place: Path, command: str) -> str:
    """Return all that a command says that fails, run without the rights of root."""
    words = [sys.executable, "-m", "settled", *command.split(), "--db", str(place / NAME)]
    if os.geteuid() == 0:
        words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *words]
    ended = subprocess.run(
        words, cwd=place.parent, capture_output=True, check=False, text=True, timeout=30
    )
    assert ended.returncode == (1 if command.startswith("check") else 78), ended
    return ended.stdout + ended.stderr


@pytest.fixture
def place(tmp_path: Path, closed: Good) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    put(place, closed.files)
    return place


@pytest.mark.parametrize("how", ["header", "truncated", "pages"])
def test_damage_is_told_alike_by_every_command(place: Path, closed: Good, how: str) -> None:
    image = closed.files[NAME]
    path = place / NAME
    path.write_bytes(
        {
            "header": b"\0" * 100 + image[100:],
            "truncated": image[:5000],
            "pages": image[:4096] + b"\xff" * (len(image) - 4096),
        }[how]
    )
    damaged = f"{path} is damaged ("
    advice = 'check the disk, and restore a backup (docs/operators.md, "Damage")'
    code, line = run_daemon(place.parent, "--db", str(path))
    told = [line, *(said(place, command) for command in COMMANDS)]
    assert code == 78
    for text in told:
        assert damaged in text
        assert advice in text
        assert "Error" not in text


@pytest.mark.parametrize(
    ("name", "mode", "verb"),
    [
        (NAME, 0o000, "read and write"),
        ("", 0o555, "make files in"),
    ],
    ids=["closed file", "read-only directory"],
)
def test_a_right_that_is_missing_is_told_with_the_user_and_the_file(
    place: Path, name: str, mode: int, verb: str
) -> None:
    (place / name).chmod(mode)
    try:
        told = [said(place, command) for command in COMMANDS]
    finally:
        place.chmod(0o755)
    for text in told:
        assert f"may not {verb} {place / name};" in text
        assert "user " in text
        assert "damage" not in text
        assert "restore a backup" not in text
