"""Runs of a scenario, each in a process of its own with a fault in it; see ``laboratory``."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

import pytest

MAIN: Final = "main"
# What changes a file. (SQLite maps its -shm, which a start makes anew, and nothing else.)
CHANGES: Final = (
    *("write", "writev", "pwrite64", "pwritev", "pwritev2", "copy_file_range", "sendfile"),
    *("ftruncate", "truncate", "fallocate", "fsync", "fdatasync", "sync_file_range", "msync"),
    *("unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat"),
)
Moment = Literal["before", "after"]
MOMENTS: Final[tuple[Moment, ...]] = ("before", "after")
READS: Final = ("pread64", "preadv")


@dataclass(frozen=True)
class Fault:
    """What strace does to a thread: to the calls ``when`` of one system call.

    ``action`` and ``when`` are in strace's words, such as ``signal=KILL`` and ``3``.
    """

    thread: str
    call: str
    action: str
    when: str

    @property
    def passes(self) -> bool:
        """Whether the calls after it are well again."""
        return not self.when.endswith("+")

    def __str__(self) -> str:
        return f"{self.thread}: {self.call} {self.when}: {self.action}"


@dataclass(frozen=True)
class Hook:
    """A crash of the process at a named point: at the n-th call of a method of the store."""

    method: str
    moment: Moment
    n: int

    def __str__(self) -> str:
        return f"{self.moment} {self.method} {self.n}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        code: the exit code; negative: the signal.
        calls: how often the watched thread made each of the watched system calls.
        injected: how many of them the fault met.
        hit: the files of those.
        synced: up to where each file was written by the watched thread when it was last synced.
        threads: the threads that were started, in their order.
        stderr: what it wrote there.
    """

    code: int
    calls: dict[str, int]
    injected: int
    hit: list[str]
    synced: dict[str, int]
    threads: list[str]
    stderr: str


class Lab(AbstractContextManager["Lab"]):
    """The laboratory process; use it as a context manager.

    Example::

        with Lab() as lab:
            outcome = lab.run("accept", tmp_path, fault=Fault("settled-writer", "fsync", ...))
    """

    def __enter__(self) -> "Lab":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crashes.laboratory"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()

    def run(
        self,
        scenario: str,
        directory: Path,
        *,
        fault: Fault | None = None,
        watch: str | None = None,
        hook: Hook | None = None,
        patience_s: float = 20.0,
    ) -> Outcome:
        """Run a scenario in ``directory`` and return how it ended.

        Args:
            scenario: its name.
            directory: where its files are.
            fault: what happens to it.
            watch: the thread whose calls are counted; that of the fault, if there is one.
            hook: where it crashes by itself.
            patience_s: how long it waits for better times.
        """
        order = {
            "scenario": scenario,
            "directory": str(directory),
            "fault": None if fault is None else asdict(fault),
            "watch": watch,
            "hook": None if hook is None else asdict(hook),
            "patience_s": patience_s,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            raise RuntimeError("the laboratory has ended")
        return Outcome(**json.loads(reply))


def require_strace() -> None:
    """Skip the test where there is no strace; CI must have one."""
    if shutil.which("strace") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have strace: see .ci/run")
        pytest.skip("needs strace (Debian: apt-get install strace)")
