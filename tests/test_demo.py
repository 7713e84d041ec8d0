"""The demo is what a newcomer runs first: it must work, be honest, and clean up after itself."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from settled.errors import SettledError
from settled.testing import demo
from settled.testing.demo_directory import fresh_directory
from settled.testing.demo_report import Flow, differences, table
from settled.testing.demo_steps import make_debts

ROOT = Path(__file__).parent.parent


def start_demo(cwd: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "settled.testing.demo", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def running(pids: Sequence[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        found.append(pid)
    return found


def pids_in(output: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"process (\d+)", output)]


def test_the_demo_ends_with_equal_books_and_leaves_nothing_running(tmp_path: Path) -> None:
    process = start_demo(tmp_path, "--debts", "60", "--seed", "7")
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, output + errors
    assert output.count(" equal\n") == 8
    assert "DIFFERENT" not in output
    assert "All books are equal to the last digit" in output
    assert "was killed with -9" in output
    assert "accounts list --db .demo/alice.db" in output
    assert (tmp_path / ".demo/alice.db").is_file()
    assert len(set(pids_in(output))) == 3
    assert not running(pids_in(output))


def test_the_demo_ends_its_daemons_when_it_is_interrupted(tmp_path: Path) -> None:
    process = start_demo(tmp_path, "--debts", "2000")
    assert process.stdout is not None
    output = ""
    while "daemons:" not in output:
        output += process.stdout.readline()
    assert len(running(pids_in(output))) == 2
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _rest, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert not running(pids_in(output))


SAME = Decimal("1.5")
FLOW = Flow("alice", "bob", "cents", SAME, SAME, SAME, SAME)


def test_equal_books_are_told_as_equal() -> None:
    assert FLOW.equal
    assert differences([FLOW], {("alice", "bob"): Decimal("1.50")}) == []
    assert table([FLOW]).endswith("equal")


OTHER = Decimal("1.500000001")


@pytest.mark.parametrize(
    "flow",
    [
        replace(FLOW, owed=OTHER),
        replace(FLOW, settled=OTHER),
        replace(FLOW, received=OTHER),
        replace(FLOW, credited=OTHER),
    ],
)
def test_a_last_digit_that_differs_is_told(flow: Flow) -> None:
    found = differences([flow], {})
    assert [line.partition(":")[0] for line in found] == ["alice to bob, cents"]
    assert table([flow]).endswith("DIFFERENT")


def test_what_is_still_on_its_way_is_told_as_a_difference() -> None:
    flow = replace(FLOW, unrest=("queued at the payer's daemon is 0.1, not 0",))
    assert "queued" in differences([flow], {})[0]


def test_a_ledger_that_differs_is_told() -> None:
    (found,) = differences([FLOW], {("alice", "bob"): Decimal("1.6")})
    assert "the ledger moved 1.6 from alice to bob" in found


@pytest.mark.parametrize(("equal", "exit_code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_the_books_are_equal(
    equal: bool, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_demo(*_arguments: object) -> bool:
        return equal

    monkeypatch.setattr(demo, "run_demo", run_demo)
    result = CliRunner().invoke(demo.main, ["--directory", str(tmp_path / "demo")])
    assert result.exit_code == exit_code


def test_a_daemon_that_does_not_start_is_told_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(demo._ENGINE_OPTIONS, "funds", "much")
    result = CliRunner().invoke(demo.main, ["--directory", str(tmp_path / "demo")])
    assert result.exit_code == 1
    assert re.search("the daemon of (alice|bob) did not start", result.output)
    assert "option funds" in result.output


def test_the_same_seed_gives_the_same_debts() -> None:
    assert make_debts(50, 3) == make_debts(50, 3) != make_debts(50, 4)
    assert {debt.payer for debt in make_debts(50, 3)} == {0, 1}
    assert all(debt.amount > 0 for debt in make_debts(500, 3))


def test_a_former_demo_is_replaced(tmp_path: Path) -> None:
    for _run in range(2):
        with fresh_directory(tmp_path / "demo") as path:
            assert not (path / "alice.db").exists()
            (path / "alice.db").touch()


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/thesis.txt").touch()
    with (
        pytest.raises(SettledError, match="not the directory of a former demo"),
        fresh_directory(tmp_path / "demo"),
    ):
        pass
    assert (tmp_path / "demo/thesis.txt").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    with fresh_directory(tmp_path / "demo") as path:
        (path / "alice.db").touch()
    (tmp_path / "link").symlink_to(tmp_path / "demo")
    with pytest.raises(SettledError), fresh_directory(tmp_path / "link"):
        pass
    assert (tmp_path / "demo/alice.db").exists()


def test_two_demos_do_not_share_a_directory(tmp_path: Path) -> None:
    with fresh_directory(tmp_path / "demo") as path:
        with (
            pytest.raises(SettledError, match="another demo is running"),
            fresh_directory(tmp_path / "demo"),
        ):
            pass
        assert path.exists()
