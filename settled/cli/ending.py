"""The end of the daemon's process, which nothing can hold up: no engine, and no thread of one.

trio cannot end a task that does not heed its cancellation, nor a thread, nor code that never gives
the event loop back. So a thread of ours counts the seconds, and ends the process when they are
over. That loses nothing: what is durable needs no farewell, as after ``kill -9``. But a database
that was deleted ends with the process: the copy that is made of it is waited for.
"""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final

import structlog

from settled.core.calls import UNDER_WAY
from settled.errors import StoreBroken
from settled.store.guard import HELD

log = structlog.get_logger()

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_SAME_WISH_S: Final = 0.5  # one wish may come twice, to the process and to its group
_LOG_S: Final = 0.1
_LOOK_S: Final = 0.5  # it takes microseconds, but on a disk that hangs for ever

_BY_ITSELF: Final = 0
_NEVER: Final = -1


class Ending:
    """Ends the process ``allowed_s`` after the first signal, and at once at a second one.

    Args:
        stop: called in a thread of its own at the first SIGTERM or SIGINT.
        allowed_s: how long the end may take then.

    Example::

        with Ending(stop, allowed_s=11) as ending:
            try:
                ...
            finally:
                ending.begin()
    """

    def __init__(self, stop: Callable[[], object], *, allowed_s: float) -> None:
        self._stop = stop
        self._allowed_s = allowed_s
        # A signal may come at any instant; of all queues, only this one may be put into then.
        self._events: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Ending":
        threading.Thread(target=self._watch, name="settled-ending", daemon=True).start()
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._heed)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        ours = threading.current_thread()
        if any(not thread.daemon for thread in threading.enumerate() if thread is not ours):
            self.begin()  # Python waits for such threads before it ends
            return
        self._events.put(_NEVER)
        for number, before in self._before.items():
            signal.signal(number, before)

    def begin(self) -> None:
        """Count from now: it ends, by a signal or by itself."""
        self._events.put(_BY_ITSELF)

    def _heed(self, number: int, _frame: FrameType | None) -> None:
        self._events.put(number)

    def _watch(self) -> None:
        event = self._events.get()
        if event == _NEVER:
            return
        first = event
        began_s = wished_s = time.monotonic()
        if first != _BY_ITSELF:
            self._stop()
        while (left_s := began_s + self._allowed_s - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=min(left_s, threading.TIMEOUT_MAX))
            except queue.Empty:
                break
            if event == _NEVER:
                return
            if event != _BY_ITSELF and first == _BY_ITSELF:
                first, wished_s = event, time.monotonic()
            elif event != _BY_ITSELF and time.monotonic() >= wished_s + _SAME_WISH_S:
                _end(128 + event)
        # Whoever reads the log may be stuck as well: it is not waited for.
        saying = threading.Thread(target=self._tell, daemon=True)
        saying.start()
        saying.join(_LOG_S)
        _end(0 if first else 1)

    def _tell(self) -> None:
        log.error(
            "ended_hard",
            after_s=self._allowed_s,
            engine_calls=sorted(f"{call.name} of {call.account_id}" for call in UNDER_WAY),
            advice="something did not let go, likely the engine; the next start goes on",
        )


def _end(code: int) -> None:
    looking = threading.Thread(target=_look_last, daemon=True)
    looking.start()
    looking.join(_LOOK_S)
    while looking.is_alive() and any(guard.saving for guard in tuple(HELD)):
        looking.join(_LOOK_S)
    os._exit(code)


def _look_last() -> None:
    for guard in tuple(HELD):
        with suppress(StoreBroken):
            guard.look_last()
