"""What the benchmarks need beside Python: from Debian, and from npm by the lock file."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from benchmarks.errors import BenchmarkError
from benchmarks.sides.original import PEER

LOAD: Final = ("wrk",)
ORIGINAL: Final = ("redis-server", "redis-cli", "node", "npm")
_PACKAGES: Final = {"wrk": "wrk", "redis-server": "redis-server", "redis-cli": "redis-tools"}
_PACKAGES_OF_NODE: Final = {"node": "nodejs", "npm": "npm"}


def missing(programs: Sequence[str]) -> list[str]:
    """Return those that are not on the path."""
    return [program for program in programs if shutil.which(program) is None]


def provide(programs: Sequence[str]) -> None:
    """Install from Debian what is missing; only root can.

    Raises:
        BenchmarkError: when it cannot be installed.
    """
    wanted = missing(programs)
    if not wanted:
        return
    packages = sorted({(_PACKAGES | _PACKAGES_OF_NODE)[program] for program in wanted})
    by_hand = f"apt-get install {' '.join(packages)}"
    if os.geteuid() != 0 or missing(["apt-get"]):
        raise BenchmarkError(f"{', '.join(wanted)} not found: as root, {by_hand}")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    for command in (["apt-get", "update", "-qq"], install):
        _run(command, f"run {by_hand} by hand")


def provide_peer() -> None:
    """Install the original as the lock file says, unless it is there.

    Raises:
        BenchmarkError: when it cannot be installed.
    """
    lock, installed = PEER / "package-lock.json", PEER / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(PEER)]
    _run(command, "is the package index of npm reachable?")


def _run(command: Sequence[str], advice: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        said = (result.stderr.strip() or result.stdout.strip()).splitlines() or ["no reason"]
        raise BenchmarkError(f"{' '.join(command[:2])} failed ({said[-1]}): {advice}")
