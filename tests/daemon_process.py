"""A daemon as a process of its own, for tests that kill it or look at its exit."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio


@dataclass
class DaemonProcess:
    """A ``settled run`` that has said where it listens."""

    process: subprocess.Popen[str]
    url: str

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def daemon_process(directory: Path, *arguments: str) -> Iterator[DaemonProcess]:
    """Run ``settled run`` in ``directory`` on a free port; kill it at the end if it still runs."""
    command = [sys.executable, "-m", "settled", "run", "--listen", "127.0.0.1:0", *arguments]
    with (
        (directory / "log").open("a") as log,
        subprocess.Popen(
            command, cwd=directory, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "listens on" in line, (line, (directory / "log").read_text())
            yield DaemonProcess(process, line.split("listens on ")[1].split(",")[0])
        finally:
            process.kill()
            process.wait()


async def ended(process: subprocess.Popen[str], within_s: float) -> int:
    """Return the exit code once the process has ended."""
    with trio.fail_after(within_s):
        return await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
