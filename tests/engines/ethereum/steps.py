"""Every place at which the engine waits, and stopping it right there."""

from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import trio

import engines.ethereum

Place = tuple[str, ...]
"""Where a task waits: the lines of the engine that it is in, the innermost last."""

_ENGINE: Final = str(Path(engines.ethereum.__file__).parent)


def place(task: trio.lowlevel.Task) -> Place:
    """Return where a task is in the engine's code; nothing if it is not."""
    lines = []
    waits: Any = task.coro
    while waits is not None:
        frame: FrameType | None = getattr(waits, "cr_frame", None) or getattr(
            waits, "ag_frame", None
        )
        if frame is not None and frame.f_code.co_filename.startswith(_ENGINE):
            name = Path(frame.f_code.co_filename).stem
            lines.append(f"{name}:{frame.f_code.co_name}:{frame.f_lineno}")
        waits = getattr(waits, "cr_await", None) or getattr(waits, "ag_await", None)
    return tuple(lines)


class Recorder(trio.abc.Instrument):
    """Notes every place, in the order in which they are first reached."""

    def __init__(self) -> None:
        self.places: dict[Place, None] = {}

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        found = place(task)
        if found:
            self.places.setdefault(found)


class Stopper(trio.abc.Instrument):
    """Calls ``stop`` just before a task goes on from a place for the first time."""

    def __init__(self, where: Place, stop: Callable[[], None]) -> None:
        self.reached = False
        self._where = where
        self._stop = stop

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self.reached and place(task) == self._where:
            self.reached = True
            self._stop()
