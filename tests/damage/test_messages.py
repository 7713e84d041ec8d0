"""The same fault of a file is told in the same words, whichever command meets it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from settled.cli import main
from settled.store.backup import back_up
from tests.damage.books import LOCK, NAME, Files, closed_files, data, files, put, run_daemon
from tests.damage.conftest import Good

COMMANDS = ["audit", "accounts list", "check --no-connector --engine loopback"]
WRITING = ["settle alice 1", "accounts add dora", "settlements resolve unknown-0 --not-sent"]


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


def refusal(place: Path, command: str) -> str:
    """Return the same, of a command that is run here."""
    ended = CliRunner().invoke(main, [*command.split(), "--db", str(place / NAME)])
    assert ended.exit_code == (1 if command.startswith("check") else 78), ended.output
    return ended.output


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


def lost(_place: Path, killed: Good) -> Files:
    """Return the files of a database whose log is lost."""
    return {name: killed.files[name] for name in (NAME, LOCK)}


def older(place: Path, killed: Good) -> Files:
    """Return those of a database with a copy of it that was made before."""
    early = place.parent / "early"
    early.mkdir()
    return {NAME: trio.run(closed_files, early)[NAME], LOCK: killed.files[LOCK]}


def foreign(place: Path, killed: Good) -> Files:
    """Return those of a backup beside the log of the database whose place it has taken."""
    put(place, killed.files)
    back_up(place / NAME, place.parent / "backup.db")
    return {**killed.files, NAME: (place.parent / "backup.db").read_bytes()}


LOSSES = {
    lost: "has lost acknowledged changes: ",
    older: "has lost acknowledged changes: ",
    foreign: "-wal belongs to the database that was at ",
}


@pytest.mark.parametrize("how", LOSSES, ids=lambda how: str(how.__name__))
def test_no_command_hides_what_was_lost(place: Path, killed: Good, how: Any) -> None:
    """What one writes would make up for the entries that are missing; then all is paid again."""
    put(place, content := how(place, killed))
    for command in (*COMMANDS, *WRITING, "release --all", f"backup {place.parent / 'copy'}"):
        assert LOSSES[how] in refusal(place, command), command
        assert data(files(place)) == data(content), command
    assert LOSSES[how] in run_daemon(place.parent, "--db", str(place / NAME))[1]


def test_a_command_does_not_write_to_a_database_that_has_another_name(
    place: Path, closed: Good
) -> None:
    (place / "other.db").hardlink_to(place / NAME)
    for command in (*COMMANDS, *WRITING):
        assert "has 2 names (hard links)" in refusal(place, command), command
    assert files(place)[NAME] == closed.files[NAME]
