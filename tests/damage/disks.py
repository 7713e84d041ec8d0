"""A real file system that is small enough to be filled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A mounted file system, and the ballast that fills it up."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ballast = root / "ballast"

    @property
    def free_bytes(self) -> int:
        """How much room there is."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def leave(self, free_bytes: int) -> None:
        """Fill the disk, or free some of it, so that so much room is left."""
        with self._ballast.open("ab") as ballast:
            while True:
                size = ballast.tell() + self.free_bytes - free_bytes
                if size < ballast.tell():
                    ballast.truncate(size)
                try:
                    os.posix_fallocate(ballast.fileno(), 0, max(size, 1))
                except OSError:
                    continue  # somebody else has written in between
                return

    def remount(self, mode: str) -> None:
        """Make it read-only (``ro``) or not (``rw``)."""
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.root)], check=True)

    def empty(self) -> None:
        """Take the ballast away."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(root: Path, size_bytes: int) -> Iterator[Disk]:
    """Mount an empty disk at ``root``; skip the test where that is not allowed, but never in CI."""
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "settled-test", str(root)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        why = f"cannot mount a small disk: {mounted.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)
