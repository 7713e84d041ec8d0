"""A `settled run` daemon as a real process: started, killed, stopped, and asked for its books."""

import os
import signal
import socket
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import trio

import settled
from settled.errors import SettledError

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_LOG_LINES_SHOWN = 5

Row = dict[str, Any]


class DaemonProcess:
    """One daemon with a loopback engine, its database and its log in the demo's directory.

    Args:
        name: of the party; also of its wallet and of its files.
        directory: where the files are, and where the daemon runs.
        connector_url: of its accounting system.
        options: of the engine, beside its wallet.
    """

    def __init__(
        self, name: str, directory: Path, connector_url: str, options: dict[str, str]
    ) -> None:
        self.name = name
        self.db = directory / f"{name}.db"
        self.log = directory / f"{name}.log"
        self._directory = directory
        self._port = _free_port()
        self._connector_url = connector_url
        self._options = {"wallet": name, **options}
        self._process: trio.Process | None = None

    @property
    def url(self) -> str:
        """Where it serves its connector."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The id of its process, if it was started."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it serves.

        Raises:
            SettledError: when it ends, or does not serve in time; with the last lines of its log.
        """
        command = _settled("run", "--engine", "engines.loopback:create_engine")
        for option, value in self._options.items():
            command += ["-o", f"{option}={value}"]
        command += ["--db", str(self.db), "--listen", f"127.0.0.1:{self._port}"]
        command += ["--connector-url", self._connector_url]
        with self.log.open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd=self._directory,
            )
        with trio.move_on_after(_START_TIMEOUT_S):
            while self._process.poll() is None:
                if await _accepts(self._port):
                    return
                await trio.sleep(0.05)
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        raise SettledError(
            f"the daemon of {self.name} did not start; {self.log} ends with:\n" + "\n".join(lines)
        )

    async def kill(self) -> None:
        """Kill it with signal 9, and wait until it is gone."""
        if self._process is not None:
            with trio.CancelScope(shield=True):
                self._process.kill()
                await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end with SIGTERM, and wait until it has.

        Raises:
            SettledError: when it takes too long, or its exit code is not 0.
        """
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        with trio.move_on_after(_STOP_TIMEOUT_S) as waiting:
            await self._process.wait()
        if waiting.cancelled_caught or self._process.returncode != 0:
            raise SettledError(
                f"the daemon of {self.name} did not end well at SIGTERM "
                f"(exit code {self._process.returncode}): see {self.log}"
            )

    async def accounts(self) -> dict[str, Row]:
        """Return what `settled accounts list --json` says, by account id.

        Raises:
            SettledError: when the command fails.
        """
        command = _settled("accounts", "list", "--db", str(self.db), "--limit", "1000", "--json")
        done = await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=_environment(),
            cwd=self._directory,
        )
        if done.returncode != 0:
            raise SettledError(f"settled accounts list: {done.stderr.decode().strip()}")
        rows: list[Row] = msgspec.json.decode(done.stdout)
        return {row["id"]: row for row in rows}


def amount(row: Row, name: str) -> Decimal:
    """Return an amount of an account's JSON."""
    return Decimal(row[name])


def _settled(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "settled", *arguments]


def _environment() -> dict[str, str]:
    """Return our environment without settings that are meant for the operator's own daemon."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("SETTLED_")
    }
    home = str(Path(settled.__file__).parent.parent)
    known = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{home}{os.pathsep}{known}" if known else home
    return environment


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def _accepts(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True
