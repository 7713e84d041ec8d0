"""The laboratory itself: it must not let a fault go unnoticed."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.crashes.hooks import HOOK_EXIT
from tests.crashes.lab import Fault, Hook, Lab, Moment, require_strace
from tests.crashes.world import World


def test_without_strace_tests_are_skipped_but_never_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI must have strace"):
        require_strace()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="needs strace"):
        require_strace()


def test_a_fault_meets_the_call_of_the_thread_that_it_names(tmp_path: Path) -> None:
    require_strace()
    with Lab() as lab:
        calls = lab.run("accept", tmp_path, watch="settled-writer").calls["fdatasync"]
        for n, code in ((calls, -9), (calls + 1, 0)):
            directory = tmp_path / str(n)
            directory.mkdir()
            fault = Fault("settled-writer", "fdatasync", "signal=KILL", str(n))
            outcome = lab.run("accept", directory, fault=fault)
            assert outcome.code == code
            assert outcome.calls["fdatasync"] == calls


@pytest.mark.parametrize(("moment", "recorded"), [("before", 0), ("after", 1)])
def test_a_hook_ends_the_process_where_it_says(
    moment: Moment, recorded: int, tmp_path: Path
) -> None:
    with Lab() as lab:
        outcome = lab.run("accept", tmp_path, hook=Hook("queue_settlement", moment, 1))
    assert outcome.code == HOOK_EXIT
    assert World(tmp_path).acks.read() == []
    with closing(sqlite3.connect(World(tmp_path).db)) as conn:
        (keys,) = conn.execute("SELECT count(*) FROM idempotency_keys").fetchone()
    assert keys == recorded
