"""Tells of an engine that holds up the daemon: by blocking the event loop, or by not letting go.

Neither can be stopped from here, so the least is that the log says who it is.
"""

import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Final

import structlog
import trio

from settled import limits
from settled.core.calls import UNDER_WAY, Call, call_engine

log = structlog.get_logger()

_LOOK_EVERY_S: Final = 0.25
_STACK_FRAMES: Final = 4


class Overstaying:
    """Looks after the event loop of ``token``, from a thread, while the block lasts.

    Example::

        with Overstaying(trio.lowlevel.current_trio_token()):
            ...
    """

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._loop_thread = threading.get_ident()
        self._ended = threading.Event()
        self._told: set[Call] = set()

    def __enter__(self) -> "Overstaying":
        threading.Thread(target=self._watch, name="settled-watch", daemon=True).start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            answered = threading.Event()
            asked_s = time.monotonic()
            try:
                self._token.run_sync_soon(answered.set)
            except trio.RunFinishedError:
                return
            if not answered.wait(limits.LOOP_BLOCKED_S):
                self._tell_blocked(asked_s, answered)
            self._tell_overdue()

    def _tell_blocked(self, asked_s: float, answered: threading.Event) -> None:
        call, stack = self._where()
        log.error(
            "event_loop_blocked",
            call=call,
            stack=stack,
            advice="nothing else goes on meanwhile; an engine waits with await, or in a thread",
        )
        while not (answered.wait(_LOOK_EVERY_S) or self._ended.is_set()):
            pass
        log.warning("event_loop_free", blocked_s=round(time.monotonic() - asked_s, 1), call=call)

    def _where(self) -> tuple[str | None, str]:
        """Return the call of the engine that runs, if one does, and the innermost of its frames."""
        frame: FrameType | None = sys._current_frames().get(self._loop_thread)
        call: str | None = None
        stack: list[str] = []
        while frame is not None:
            if len(stack) < _STACK_FRAMES:
                code = frame.f_code
                stack.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
            if frame.f_code is call_engine.__code__:
                under_way = frame.f_locals["under_way"]
                call = f"{under_way.name} of {under_way.account_id}"
                break
            frame = frame.f_back
        return call, " < ".join(stack)

    def _tell_overdue(self) -> None:
        under_way = UNDER_WAY.copy()
        self._told &= under_way
        late_s = time.monotonic() - limits.LOOP_BLOCKED_S
        for call in under_way - self._told:
            if call.due_s < late_s:
                self._told.add(call)
                log.error(
                    "engine_ignores_time_out",
                    account=call.account_id,
                    call=call.name,
                    advice="it waits in a thread or is shielded, and needs time-outs of its own; "
                    "for this account nothing goes on until it ends",
                )
