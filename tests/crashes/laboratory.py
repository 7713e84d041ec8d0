"""The laboratory: a process for each run, quick to start, with strace on one of its threads.

strace counts calls per system call and per thread. So that the n-th call of a thread is exactly
that, each run attaches strace to one thread only, at its start, and names one system call. A sweep
over the threads, the system calls and n then meets every call.

The laboratory is a process without threads that has imported everything; each run is a fork of it.
"""

import ctypes
import gc
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Protocol

from tests.crashes.lab import CHANGES, MAIN, READS, Fault, Hook, Outcome

RUN_TIMEOUT_S: Final = 60.0
HUNG: Final = 124
_PR_SET_PTRACER: Final = 0x59616D61


class Body(Protocol):
    """What is run in the fork; it returns the exit code."""

    def __call__(
        self, name: str, directory: Path, *, hook: Hook | None, patience_s: float
    ) -> int: ...


class _Door:
    """Where a thread of the run waits until strace is attached to it."""

    def __init__(self, watched: str | None) -> None:
        self._watched = watched
        self._entered: Counter[str] = Counter()
        self.asked, self._ask = os.pipe()
        self._go, self.went = os.pipe()

    def enter(self, name: str) -> None:
        """Called by each thread of the run, at its start."""
        self._entered[name] += 1
        if self._entered[name] > 1:
            name += f" {self._entered[name]}"
        attached = name == self._watched
        asking = [name, threading.get_native_id(), attached]
        os.write(self._ask, json.dumps(asking).encode() + b"\n")
        if attached:
            os.read(self._go, 1)

    def keep_inside(self) -> None:
        os.close(self.asked)
        os.close(self.went)

    def keep_outside(self) -> None:
        os.close(self._ask)
        os.close(self._go)

    def close_outside(self) -> None:
        os.close(self.asked)
        os.close(self.went)


def serve(run: Body) -> None:
    """Carry out the orders that come on standard input; ``run`` is called in a fork for each."""
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        fault = None if order["fault"] is None else Fault(**order["fault"])
        directory = Path(order["directory"])
        watched = fault.thread if fault is not None else order["watch"]
        door = _Door(watched)
        pid = os.fork()
        if pid == 0:
            door.keep_inside()
            _inside(run, order, door)
        door.keep_outside()
        outcome = _outside(pid, door, fault, directory)
        door.close_outside()
        sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
        sys.stdout.flush()


def _inside(run: Body, order: dict[str, Any], door: _Door) -> None:
    code = 70
    try:
        directory = Path(order["directory"])
        hook = None if order["hook"] is None else Hook(**order["hook"])
        null = os.open(os.devnull, os.O_RDWR)
        stderr = os.open(directory / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream, descriptor in ((0, null), (1, null), (2, stderr)):
            os.dup2(descriptor, stream)
        # Where a process may trace only its children (Yama), we let any of ours trace us.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1))
        body = threading.Thread.run

        def entering(thread: threading.Thread) -> None:
            door.enter(thread.name)
            body(thread)

        threading.Thread.run = entering  # type: ignore[method-assign, assignment]
        door.enter(MAIN)
        code = run(order["scenario"], directory, hook=hook, patience_s=order["patience_s"])
        sys.stderr.flush()
    finally:
        os._exit(code)


def _outside(pid: int, door: _Door, fault: Fault | None, directory: Path) -> Outcome:
    """Attach strace to the thread that asks for it, and wait until the run has ended."""
    log, tracer = directory / "strace", None
    log.unlink(missing_ok=True)
    threads: list[str] = []
    deadline_s = time.monotonic() + RUN_TIMEOUT_S
    code = None
    ended = os.pidfd_open(pid)
    asked = ""
    while code is None:
        ready, _, _ = select.select(
            [ended, door.asked], [], [], max(deadline_s - time.monotonic(), 0)
        )
        if door.asked in ready:
            asked += os.read(door.asked, 65536).decode()
            *lines, asked = asked.split("\n")
            for line in lines:
                name, thread, wants_strace = json.loads(line)
                threads.append(name)
                if wants_strace:
                    tracer = _attach(thread, fault, log)
                    with suppress(BrokenPipeError):
                        os.write(door.went, b".")
            if ready == [door.asked]:
                continue
        if not ready:
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(ended)
    if time.monotonic() > deadline_s:
        code = HUNG
    if tracer is not None:
        with tracer:
            tracer.wait()
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    calls = Counter(found[1] for line in lines if (found := re.match(r"(\w+)\(", line)))
    injected = [line for line in lines if "(INJECTED)" in line]
    hit = [found[1] for line in injected if (found := re.match(r"\w+\(\d+<(.*?)>", line))]
    stderr = (directory / "stderr").read_text(errors="replace")
    return Outcome(code, dict(calls), len(injected), hit, _synced(lines), threads, stderr)


def _synced(log: list[str]) -> dict[str, int]:
    """Read from strace's log up to where each file was written when it was last synced."""
    written: dict[str, int] = {}
    synced: dict[str, int] = {}
    for line in log:
        if found := re.match(r"pwrite64\(\d+<(.*?)>, .*?, (\d+), (\d+)\) += \d+$", line):
            end = int(found[2]) + int(found[3])
            written[found[1]] = max(written.get(found[1], 0), end)
        elif found := re.match(r"f(?:data)?sync\(\d+<(.*?)>\) += 0$", line):
            synced[found[1]] = written.get(found[1], 0)
    return synced


def _attach(thread: int, fault: Fault | None, log: Path) -> subprocess.Popen[str] | None:
    """Attach strace to a thread; return nothing if it has ended with its process meanwhile."""
    command = ["strace", "-y", "-s", "0", "-o", str(log)]
    command += ["-e", f"trace={','.join((*CHANGES, *READS))}"]
    if fault is not None:
        command += ["-e", f"inject={fault.call}:{fault.action}:when={fault.when}"]
    tracer = subprocess.Popen([*command, "-p", str(thread)], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "No such process" in said:
        with tracer:
            return None
    if "attached" not in said:
        raise RuntimeError(f"strace cannot attach: {said} {tracer.stderr.read()}")
    return tracer


if __name__ == "__main__":
    from tests.crashes.scenarios import run_scenario

    serve(run_scenario)
