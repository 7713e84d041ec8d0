"""The machine and the versions that figures were measured with."""

import os
import platform
import re
import sqlite3
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from benchmarks.sides.original import PEER

_LIBRARIES: Final = ("trio", "httptools", "quart", "hypercorn")
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+")


def describe() -> dict[str, str]:
    """Return what a reader needs to judge the figures: name and value, in the order to show."""
    found = {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found | {
        "wrk": _said(["wrk", "--version"]),
        "redis": _said(["redis-server", "--version"]),
        "node": _said(["node", "--version"]),
        "ilp-settlement-core": _said(["grep", '"version"', _manifest()]),
    }


def _manifest() -> str:
    return str(PEER / "node_modules" / "ilp-settlement-core" / "package.json")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> str:
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{total_bytes / 2**30:.0f} GiB"


def _said(command: Sequence[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "none"
    match = _VERSION.search(result.stdout + result.stderr)
    return "none" if match is None else match[0]
